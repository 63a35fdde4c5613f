"""A grid of strings as text, HTML and LaTeX."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_TEX_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "|": r"\textbar{}", ">": r"\textgreater{}", "<": r"\textless{}",
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Rows of strings, the first column naming them.

    Attributes
    ----------
    blocks : sequence of sequence of rows
        Rows in groups that a rule or a table body of their own separates.
    aligns : str
        A letter for each column: left, right or centre.
    header : sequence of str or None
        Heads of the columns.
    heads : str
        Alignment of the heads; centred by default.
    """

    blocks: Sequence[Sequence[Sequence[str]]]
    aligns: str
    header: Sequence[str] | None = None
    heads: str = ""

    @property
    def rows(self) -> list[Sequence[str]]:
        """All rows."""
        return [row for block in self.blocks for row in block]

    def widths(self) -> list[int]:
        """Characters of the widest cell of each column."""
        every = [self.header, *self.rows] if self.header else self.rows
        return [max(map(len, column)) for column in zip(*every, strict=True)]

    def lines(self, gap: int = 1, widths: Sequence[int] | None = None) -> list[str]:
        """Lines of text, with a rule below the header and between blocks."""
        widths = widths or self.widths()
        parts = [[self._line(row, widths, self.aligns, gap) for row in b] for b in self.blocks]
        if self.header:
            heads = self.heads or "c" * len(widths)
            parts.insert(0, [self._line(self.header, widths, heads, gap)])
        rule = "-" * (sum(widths) + gap * (len(widths) - 1))
        return [line for i, part in enumerate(parts) for line in ([rule] * (i > 0) + part)]

    @staticmethod
    def _line(row: Sequence[str], widths: Sequence[int], aligns: str, gap: int) -> str:
        pad: dict[str, Callable[[str, int], str]] = {
            "l": str.ljust, "r": str.rjust, "c": str.center,
        }  # fmt: skip
        return (" " * gap).join(pad[a](x, n) for x, n, a in zip(row, widths, aligns, strict=True))

    def html(
        self, css: str, stubs: bool = True, caption: str | None = None, notes: Sequence[str] = ()
    ) -> str:
        """A ``table``; special characters are escaped.

        Parameters
        ----------
        css : str
            Its class.
        stubs : bool
            Whether the cells of the first column are heads of their rows.
        notes : sequence of str
            Lines of the foot.
        """
        left = ' style="text-align: left"'  # of text; notebooks put all cells to the right
        style = [left if j and a == "l" else "" for j, a in enumerate(self.aligns)]
        lines = [f'<table class="{css}">']
        if caption:
            lines.append(f"<caption>{html.escape(caption)}</caption>")
        if self.header:
            cells = "".join(
                f"<th{own}>{html.escape(head)}</th>"
                for own, head in zip(style, self.header, strict=True)
            )
            lines.append(f"<thead><tr>{cells}</tr></thead>")
        for block in self.blocks:
            lines.append("<tbody>")
            for row in block:
                tags = ["th" if stubs and j == 0 else "td" for j in range(len(row))]
                cells = "".join(
                    f"<{tag}{own}>{html.escape(cell)}</{tag}>"
                    for tag, own, cell in zip(tags, style, row, strict=True)
                )
                lines.append(f"<tr>{cells}</tr>")
            lines.append("</tbody>")
        if notes:
            foot = "<br>".join(map(html.escape, notes))
            lines.append(f'<tfoot><tr><td colspan="{len(self.aligns)}">{foot}</td></tr></tfoot>')
        return "\n".join([*lines, "</table>"])

    def latex(
        self,
        rules: tuple[str, str, str] = (r"\hline", r"\hline", r"\hline"),
        cell: Callable[[str], str] | None = None,
        notes: Sequence[str] = (),
    ) -> str:
        """A ``tabular``; special characters are escaped.

        Parameters
        ----------
        rules : tuple of str
            Above, between the parts, and below.
        cell : callable, optional
            What escapes a cell, `tex` if not given; the first column is always escaped by `tex`.
        notes : sequence of str
            Lines below, across all columns.
        """
        top, middle, bottom = rules
        escape = cell or tex

        def line(row: Sequence[str]) -> str:
            return " & ".join([tex(row[0]), *map(escape, row[1:])]) + r" \\"

        lines = [rf"\begin{{tabular}}{{{self.aligns}}}", top]
        parts = [[line(self.header)]] if self.header else []
        parts += [[line(row) for row in block] for block in self.blocks]
        lines += [x for i, part in enumerate(parts) for x in ([middle] * (i > 0) + part)]
        lines.append(bottom)
        lines += [
            rf"\multicolumn{{{len(self.aligns)}}}{{l}}{{\footnotesize {escape(note)}}} \\"
            for note in notes
        ]
        return "\n".join([*lines, r"\end{tabular}"])


def p_text(p: float) -> str:
    """A p-value as people print it; blank where there is none."""
    if p != p:
        return ""
    return "<.001" if p < 0.001 else f"{p:.3f}"


def pairs_html(pairs: Sequence[tuple[str, str]], caption: str = "") -> str:
    """Names and values as a small table."""
    rows = [list(pair) for pair in pairs]
    return Grid([rows], "lr").html("sparselmm-table", caption=caption)


def pairs_text(pairs: Sequence[tuple[str, str]], title: str = "") -> str:
    """Names and values, one line each."""
    lines = Grid([[list(pair) for pair in pairs]], "ll").lines(2)
    return "\n".join([*([title] if title else []), *(line.rstrip() for line in lines)])


def tex(text: str) -> str:
    """The text with the characters that mean something to LaTeX escaped."""
    return "".join(_TEX_SPECIAL.get(character, character) for character in text)
