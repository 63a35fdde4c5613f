"""Checks the built pages: links between them, and answers within two clicks of the landing page."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

QUESTIONS = {
    "crossed or nested?": ("What the difference is", "nested in"),
    "how is it written?": ("how to write it", "(1 | a/b)"),
    "slopes?": ("Which random effects", "slope"),
    "p-values?": ("which test", "kenward-roger"),
    "predict?": ("also for new groups", "predict("),
    "plot?": ("every kind of picture", "plot_predictions"),
    "faster?": ("howto/faster", "plan"),
    "install on a Mac?": ("on a Mac", "brew install"),
    "from lme4?": ("coming-from/lme4", "lmer("),
    "singular?": ("my fit is singular", "boundary"),
    "which method?": ("methods by question", "emmeans"),
}
"""What newcomers ask: part of the link on the landing page, and what the answer says."""


@dataclass
class Page(HTMLParser):
    """Anchors, links with their text, and the text of a page."""

    anchors: set[str] = field(default_factory=set)
    links: list[list[str]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    inside: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an anchor or the start of a link."""
        found = dict(attrs)
        self.anchors |= {str(found[key]) for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append([str(found["href"]), ""])
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        """Note the end of a link."""
        self.inside = self.inside and tag != "a"

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        self.text.append(data)
        if self.inside:
            self.links[-1][1] += data


def read(root: Path) -> dict[str, Page]:
    """Every page by its path below the root."""
    pages = {}
    for path in sorted(root.rglob("*.html")):
        page = Page()
        page.feed(path.read_text(encoding="utf-8"))
        pages[path.relative_to(root).as_posix()] = page
    return pages


def target(page: str, href: str, root: Path) -> tuple[str, str] | None:
    """Page and anchor that a link within the pages leads to."""
    address, anchor = urldefrag(href)
    if "://" in address or address.startswith(("mailto:", "data:")):
        return None
    if not address:
        return page, unquote(anchor)
    whole = (root / page).parent / unquote(address.split("?")[0])
    return whole.resolve().relative_to(root.resolve()).as_posix(), unquote(anchor)


def broken(pages: dict[str, Page], root: Path) -> list[str]:
    """Links to files or anchors that are not there."""
    out = []
    for name, page in pages.items():
        for href, _ in page.links:
            place = target(name, href, root)
            if place is None or not (place[0] in pages or not (root / place[0]).is_file()):
                continue
            other = pages.get(place[0])
            if other is None or (place[1] and place[1] not in other.anchors):
                out.append(f"{name}: {href}")
    return sorted(set(out))


def unanswered(pages: dict[str, Page], root: Path) -> list[str]:
    """Questions without an answer one or two clicks from the landing page."""
    out = []
    for question, (link, answer) in QUESTIONS.items():
        first = [
            place[0]
            for href, text in pages["index.html"].links
            if (link in text or link in href) and (place := target("index.html", href, root))
        ]
        second = [
            place[0]
            for name in first
            for href, _ in pages[name].links
            if name in pages and (place := target(name, href, root))
        ]
        near = [n for n in first if answer in "".join(pages[n].text)]
        if not near and not any(answer in "".join(pages[n].text) for n in second if n in pages):
            out.append(f"{question} no link {link!r} leads to {answer!r} within two clicks")
        print(f"{question:20} index > {link} ({', '.join(dict.fromkeys(near)) or 'two clicks'})")
    return out


def main() -> int:
    """Print what is wrong and say whether anything is."""
    root = Path(sys.argv[1])
    pages = read(root)
    problems = [*broken(pages, root), *unanswered(pages, root)]
    print("\n".join(problems) or f"{len(pages)} pages: every link between them leads somewhere")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
