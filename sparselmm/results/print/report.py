"""A report of a fit to hand over: one page of HTML that needs nothing else, or Markdown."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from sparselmm.base.exceptions import FileError
from sparselmm.base.other_names import KnownArguments
from sparselmm.results.print.notebook import P_VALUES, cell

STYLE = """
body { font: 16px/1.5 Georgia, serif; max-width: 52em; margin: 2em auto; padding: 0 1em;
       color: #222; background: #fff; }
h1, h2 { font-family: Helvetica, Arial, sans-serif; line-height: 1.2; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; }
table { border-collapse: collapse; font: 14px/1.4 Helvetica, Arial, sans-serif; margin: 1em 0;
        display: block; overflow-x: auto; }
th, td { text-align: right; padding: 0.25em 0.8em; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
thead th { border-bottom: 2px solid #444; }
img { max-width: 100%; } .math { font-size: 1.1em; margin: 1em 2em; }
.warning { border-left: 4px solid #c60; padding-left: 1em; }
footer { margin-top: 3em; font-size: 0.85em; color: #555; }
"""


@dataclass(frozen=True, eq=False)
class Section:
    """A heading with paragraphs, a table and a picture, each where there is one.

    Attributes
    ----------
    text : tuple of str
        Paragraphs of plain text; one that starts with ``!`` is a warning.
    math : tuple of str
        Lines of HTML with ``<sub>`` and ``<i>``.
    """

    title: str
    text: tuple[str, ...] = ()
    math: tuple[str, ...] = ()
    table: pd.DataFrame | None = None
    figure: Any = None


@dataclass(frozen=True, eq=False)
class Report(KnownArguments):
    """A fit in words, mathematics, tables and pictures, made by ``results.report()``.

    Attributes
    ----------
    title : str
    sections : tuple of Section
    footer : str
    """

    title: str
    sections: tuple[Section, ...]
    footer: str

    @cached_property
    def html(self) -> str:
        """One page that needs no other file."""
        body = "".join(_html(section) for section in self.sections)
        return (
            "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
            "<meta name='viewport' content='width=device-width, initial-scale=1'>"
            f"<title>{html.escape(self.title)}</title><style>{STYLE}</style></head><body>"
            f"<h1>{html.escape(self.title)}</h1>{body}"
            f"<footer>{html.escape(self.footer)}</footer></body></html>\n"
        )

    @property
    def markdown(self) -> str:
        """Text with tables; pictures are named, not included."""
        lines = [f"# {self.title}", ""]
        for section in self.sections:
            lines += [f"## {section.title}", ""]
            for text in section.text:
                lines += [f"**{text[1:]}**" if text.startswith("!") else text, ""]
            lines += [f"> {_plain(line)}" for line in section.math]
            if section.math:
                lines.append("")
            if section.table is not None:
                lines += [*_markdown(section.table), ""]
        return "\n".join([*lines, f"*{self.footer}*", ""])

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the report: Markdown for ``.md``, otherwise HTML.

        Parameters
        ----------
        path : path

        Returns
        -------
        Path

        Raises
        ------
        FileError
            When the file cannot be written.
        """
        if not isinstance(path, (str, PathLike)):
            raise FileError(f"path must be the name of a file, got {type(path).__name__}")
        target = Path(path)
        text = self.markdown if target.suffix == ".md" else self.html
        try:
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise FileError(f"path: cannot write {str(path)!r}: {error}") from error
        return target

    def __repr__(self) -> str:
        return self.markdown

    def _repr_html_(self) -> str:
        frame = html.escape(self.html, quote=True)
        return f'<iframe srcdoc="{frame}" style="width:100%;height:40em;border:0"></iframe>'


def _html(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    for text in section.text:
        kind = " class='warning'" if text.startswith("!") else ""
        parts.append(f"<p{kind}>{html.escape(text.removeprefix('!'))}</p>")
    parts += [f"<p class='math'>{line}</p>" for line in section.math]
    if section.table is not None:
        parts.append(_table(section.table))
    if section.figure is not None:
        name = html.escape(section.title, quote=True)
        parts.append(f"<img alt='{name}' src='data:image/png;base64,{_png(section.figure)}'>")
    return "".join(parts)


def _cells(frame: pd.DataFrame) -> list[list[str]]:
    columns = [[cell(v, str(name) in (*P_VALUES, "p")) for v in frame[name]] for name in frame]
    return [list(row) for row in zip(*columns, strict=True)]


def _table(frame: pd.DataFrame) -> str:
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in frame)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(value)}</td>" for value in row) + "</tr>"
        for row in _cells(frame)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _markdown(frame: pd.DataFrame) -> list[str]:
    names = [str(name) for name in frame]
    rows = [names, ["---", *["---:"] * (len(names) - 1)], *_cells(frame)]
    return ["| " + " | ".join(v.replace("|", "\\|") for v in row) + " |" for row in rows]


def _plain(line: str) -> str:
    for tag in ("<i>", "</i>", "</sub>", "</b>", "<b>"):
        line = line.replace(tag, "")
    return html.unescape(line.replace("<sub>", "_"))


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


# ------------------------------------------------------------------------ words and formulas


def equation(
    fixed: Sequence[str], random: Sequence[tuple[str, Sequence[str]]], left: str,
    error: str,
) -> list[str]:  # fmt: skip
    """The model as lines of HTML.

    Parameters
    ----------
    fixed : sequence of str
        Names of the columns of X.
    random : sequence of (factor, coefficients)
    left : str
        What the right side is equal to: the response, or a function of its mean.
    error : str
        Term at the end, empty for generalized models.
    """
    parts = predictor("&beta;", fixed)
    lines = []
    for j, (factor, columns) in enumerate(random):
        letter = "bcdfgh"[j] if j < 6 else f"b{j}"
        unit = f"<sub>{html.escape(factor)}</sub>"
        names = [f"{letter}<sub>{i},{html.escape(factor)}</sub>" for i in range(len(columns))]
        parts += [_product(n, c) for n, c in zip(names, columns, strict=True)]
        inside = names[0] if len(names) == 1 else "(" + ", ".join(names) + ")"
        spread = "&sigma;&sup2;" if len(names) == 1 else "&Sigma;"
        lines.append(f"{inside} ~ N(0, {spread}{unit})")
    right = " + ".join(parts) + (f" + {error}" if error else "")
    return [f"{left} = {right}", *lines]


def predictor(letter: str, names: Sequence[str]) -> list[str]:
    """Products of coefficients and columns as HTML, the intercept's the one numbered zero."""
    first = 0 if "Intercept" in names else 1
    return [_product(f"{letter}<sub>{i}</sub>", name) for i, name in enumerate(names, first)]


def _product(coefficient: str, name: str) -> str:
    if name == "Intercept":
        return coefficient
    return f"{coefficient} <i>{html.escape(name)}</i>"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    names = list(names)
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}"


def apa_p(p: float) -> str:
    """``p < .001``, ``p = .023``."""
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".", 1)
