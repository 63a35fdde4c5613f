"""What the checks of a fit found, and how it prints."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sparselmm.base.exceptions import UnknownNameError
from sparselmm.base.grid import Grid

Severity = Literal["problem", "warning", "note"]

ORDER: tuple[Severity, ...] = ("problem", "warning", "note")
"""Severities, the gravest first."""


WIDTH = 80
WHOLE: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    Attributes
    ----------
    code : str
        Short name of the check, ``"singular"``.
    severity : {"problem", "warning", "note"}
        Estimates cannot be taken as they are; some may mislead; worth knowing.
    seen : str
        What was seen, with names and numbers.
    advice : str
        What to do about it.
    """

    code: str
    severity: Severity
    seen: str
    advice: str


@dataclass(frozen=True)
class Diagnosis:
    """Findings about a fit, the gravest first; prints as text.

    Attributes
    ----------
    findings : tuple of Finding
    """

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def codes(self) -> tuple[str, ...]:
        """Short names of the findings."""
        return tuple(finding.code for finding in self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, code: str) -> Finding:
        for finding in self.findings:
            if finding.code == code:
                return finding
        raise UnknownNameError(f"no finding {code!r}; there are: {', '.join(self.codes) or 'none'}")

    def __repr__(self) -> str:
        if self.ok:
            return "Nothing to report: none of the checks found anything."
        lines: list[str] = []
        for finding in self.findings:
            seen = f"{finding.severity.upper()} [{finding.code}] {finding.seen}"
            lines += textwrap.wrap(seen, WIDTH, subsequent_indent="    ", **WHOLE)
            advice = f"    -> {finding.advice}"
            lines += textwrap.wrap(advice, WIDTH, subsequent_indent="       ", **WHOLE)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        if self.ok:
            return f"<p>{self!r}</p>"
        rows = [[f.severity, f.code, f.seen, f.advice] for f in self.findings]
        return Grid([rows], "llll", ["", "", "seen", "advice"]).html("sparselmm-table")
