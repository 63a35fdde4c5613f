"""The printed summary: statsmodels' two tables, then the variance components and the optimizer.

The text of the first two tables is laid out character by character as statsmodels does, so that
output pasted into a report looks the same whichever package made it.
"""

from __future__ import annotations

import html
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NoReturn

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_text
from sparselmm.base.exceptions import OtherNameError
from sparselmm.base.grid import Grid, p_text, tex
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.inference.effects import factor_tables
from sparselmm.inference.estimates import Estimates, names_or
from sparselmm.inference.hypotheses.hypotheses import DenominatorDF
from sparselmm.inference.variances import VarianceRow
from sparselmm.inference.wald import Wald
from sparselmm.likelihood.record import OptSummary

TITLE = "Mixed Linear Model Regression Results"
VARIANCE_COLUMNS = ("Groups", "Name", "Variance", "Std.Dev.", "Corr")
NOTE_WIDTH = 78
THEIR_MODULE = "statsmodels.iolib.summary2"


@dataclass(frozen=True, eq=False)
class Summary:
    """A fit in print.

    Attributes
    ----------
    tables : list of DataFrame
        ``[0]`` facts about the fit (four columns of strings), ``[1]`` coefficients as strings,
        indexed by parameter names, ``[2]`` variance components as strings.
    title : str
    notes : tuple of str
        Lines below the tables; one of several lines is laid out already.
    """

    tables: list[pd.DataFrame]
    title: str
    notes: tuple[str, ...]

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What ``isinstance`` asks: statsmodels' ``Summary`` where that is imported, ours besides.

        Asked anew every time: statsmodels may be imported long after the summary was made.
        """
        theirs: type = getattr(sys.modules.get(THEIR_MODULE), "Summary", Summary)
        return theirs

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        """Pickled and copied as what it is."""
        return Summary, (self.tables, self.title, self.notes)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(f"'Summary' object has no attribute {name!r}")
        raise OtherNameError(
            f"Summary has no attribute {name!r}: it is for reading. The result that it was made of "
            "has the numbers (its attributes, tidy(), glance())"
        )

    def as_text(self) -> str:
        """Plain text."""
        head = _statsmodels_text(self.tables[0], self.tables[1], self.title)
        return "\n".join([head, _variance_text(self.tables[2]), *map(_wrapped, self.notes)])

    def __str__(self) -> str:
        return self.as_text()

    def __repr__(self) -> str:
        return self.as_text()

    def as_html(self) -> str:
        """HTML tables."""
        info, coefficients, variances = self.tables
        parts = [
            f"<h4>{html.escape(self.title)}</h4>",
            _info_grid(info).html("simpletable", stubs=False),
            _coefficient_grid(coefficients).html("simpletable"),
            _variance_grid(variances).html("simpletable", stubs=False),
            *_notes_html(self.notes),
        ]
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        return self.as_html()

    def as_latex(self, label: str = "") -> str:
        """LaTeX ``table`` environment.

        Parameters
        ----------
        label : str
            Label for cross-references.
        """
        check_text(label, "label")
        info, coefficients, variances = self.tables
        lines = [
            r"\begin{table}",
            rf"\caption{{{tex(self.title)}}}",
            rf"\label{{{label}}}",
            _info_grid(info).latex(),
            _coefficient_grid(coefficients).latex(),
            _variance_grid(variances).latex(),
            r"\end{table}",
            r"\bigskip",
            " \\newline \n".join(tex(line) for note in self.notes for line in note.split("\n")),
        ]
        return "\n".join(lines)

    def _repr_latex_(self) -> str:
        return self.as_latex()


# -------------------------------------------------------------------------- build the tables


def summarize(
    est: Estimates,
    opt: OptSummary,
    yname: str,
    xname_fe: Sequence[str] | None,
    xname_re: Sequence[str] | None,
    title: str,
    alpha: float,
    tests: DenominatorDF | None = None,
) -> Summary:
    """Summary of a fit; the arguments are those of ``MixedLMResults.summary``.

    With ``tests`` the fixed effects have t statistics with these degrees of freedom.
    """
    names = [
        *names_or(xname_fe, est.layout.x_names, "xname_fe"),
        *names_or(xname_re, est.places.names, "xname_re"),
    ]
    tables = [
        info_table(*_facts(est, opt, yname)),
        coefficient_table(_numbers(est, alpha, tests), names, alpha, tests is not None),
        variance_table(est.variance_rows),
    ]
    notes = _notes(est, opt)
    if tests is not None:
        notes = (_DDF_NOTES[tests.method], *notes)
    return Summary(tables, title, notes)


_DDF_NOTES = {
    "satterthwaite": "t tests with Satterthwaite's degrees of freedom",
    "kenward-roger": "t tests by Kenward and Roger: adjusted standard errors, their degrees of "
    "freedom",
}


def _numbers(est: Estimates, alpha: float, tests: DenominatorDF | None) -> FloatArray:
    """The coefficient table, (p + m, 6), or 7 with df: no tests and intervals for variances."""
    p = est.layout.p
    se = est.bse_fe if tests is None else np.sqrt(np.diag(tests.vcov))
    df = np.full(p, np.inf) if tests is None else tests.t_df(np.eye(p))
    wald = Wald(est.beta, se, df)
    columns = [wald.estimate, wald.se, wald.statistic, wald.pvalue, wald.interval(alpha)]
    if tests is not None:
        columns.insert(2, df)
    values = np.column_stack(columns)
    out = np.full((len(est.names), values.shape[1]), np.nan)
    out[:p] = values
    out[p:, :2] = np.column_stack([est.variances, est.bse_re])
    return out


Facts = list[tuple[str, str]]


def _facts(est: Estimates, opt: OptSummary, yname: str) -> tuple[Facts, Facts]:
    """Left and right column of the first table."""
    left = [("Model:", "MixedLM"), ("No. Observations:", str(est.nobs))]
    if est.group_sizes is not None:
        left += group_facts(est.group_sizes)
    for table in factor_tables(est.terms):
        if est.terms[table.terms[0]].origin in ("bar", "array"):
            left.append((f"Groups {table.name}:", str(len(table.labels))))
    right = [
        ("Dependent Variable:", yname),
        ("Method:", "REML" if est.pls.reml else "ML"),
        ("Scale:", f"{est.pls.scale:.4f}"),
        ("Log-Likelihood:", f"{-0.5 * est.pls.deviance:.4f}"),
        ("Converged:", "Yes" if opt.converged else "No"),
    ]
    return left, right


def _notes(est: Estimates, opt: OptSummary) -> tuple[str, ...]:
    notes = []
    if not opt.converged:  # a search that ended well is told of in ``opt``
        notes += [
            f"Converged: No; {opt.n_evaluations} evaluations; "
            f"largest gradient entry {opt.gradient_norm:.2g}",
            f"Another step would lower the deviance by {opt.expected_decrease:.1g}; "
            f"smallest eigenvalue of its Hessian {opt.smallest_eigenvalue:.3g}",
            f"The optimizer stopped: {opt.message}",
        ]
    if opt.probes:
        notes.append(
            f"Monte Carlo error: at most {opt.mc_error:.1g} SE of theta ({opt.probes} probes), "
            f"{0.5 * opt.mc_deviance:.1g} in the log-likelihood"
        )
    if opt.unidentified:
        notes.append(opt.unidentified[0].upper() + opt.unidentified[1:] + ".")
    if est.singular:
        notes.append(
            "Singular fit: a random-effects variance is estimated as zero or a correlation as "
            "+-1. The estimates are valid; standard errors of these variances do not exist."
        )
    if est.dropped:
        names = ", ".join(est.dropped)
        notes.append(f"Dropped columns of X, linearly dependent on the others: {names}")
    return tuple(notes)


def info_table(left: Sequence[tuple[str, str]], right: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Facts in two pairs of columns, the shorter one filled up with blanks."""
    n = max(len(left), len(right))
    pairs = [[*side, *[("", "")] * (n - len(side))] for side in (left, right)]
    return pd.DataFrame([[*a, *b] for a, b in zip(*pairs, strict=True)])


def coefficient_table(
    values: FloatArray, names: Sequence[str], alpha: float, with_df: bool = False
) -> pd.DataFrame:
    """Numbers as strings, three decimals; blank where not finite.

    Parameters
    ----------
    values : ndarray, (m, 6) or (m, 7)
        Estimate, standard error, z, p, and the ends of the confidence interval; with degrees of
        freedom before z, which is then t.
    names : sequence of str, (m,)
    alpha : float
        One minus the confidence level.
    with_df : bool
        Whether there are degrees of freedom.
    """
    middle = ["df", "t", "P>|t|"] if with_df else ["z", "P>|z|"]
    columns = ["Coef.", "Std.Err.", *middle, f"[{alpha / 2}", f"{1 - alpha / 2}]"]
    at = columns.index(middle[-1])
    text = [
        [p_text(x) if j == at else f"{x:.3f}" if np.isfinite(x) else "" for j, x in enumerate(row)]
        for row in values
    ]
    return pd.DataFrame(text, index=list(names), columns=columns, dtype=object)


def variance_table(rows: Sequence[VarianceRow]) -> pd.DataFrame:
    """Variances, standard deviations and correlations as lme4 prints them."""
    lines: list[list[str]] = []
    correlations: dict[tuple[str, str | None], list[float]] = {}
    for row in rows:
        if row.second is not None:
            correlations.setdefault((row.group, row.second), []).append(row.sdcor)
    last = None
    for row in rows:
        if row.second is not None:
            continue
        group, last = row.group if row.group != last else "", row.group
        corr = correlations.get((row.group, row.first), [])
        text = " ".join(f"{x:.2f}" if np.isfinite(x) else "-" for x in corr)
        lines.append([group, row.first or "", _number(row.vcov), _number(row.sdcor), text])
    return pd.DataFrame(lines, columns=list(VARIANCE_COLUMNS), dtype=object)


def _number(value: float) -> str:
    return f"{value:.5g}" if value == 0 or abs(value) < 1e-3 else f"{value:.4f}"


def group_facts(sizes: IntArray) -> list[tuple[str, str]]:
    """Number and sizes of the statsmodels groups."""
    return [
        ("No. Groups:", str(len(sizes))),
        ("Min. group size:", str(sizes.min())),
        ("Max. group size:", str(sizes.max())),
        ("Mean group size:", f"{sizes.mean():.1f}"),
    ]


# ----------------------------------------------------------------------------------- text


def _info_grid(info: pd.DataFrame) -> Grid:
    return Grid([info.to_numpy().tolist()], "llll")


def _coefficient_grid(table: pd.DataFrame) -> Grid:
    rows = [[str(name), *row] for name, row in zip(table.index, table.to_numpy(), strict=True)]
    return Grid([rows], "l" + "r" * table.shape[1], ["", *table.columns])


def _variance_grid(table: pd.DataFrame, aligns: str = "llrrr") -> Grid:
    return Grid([table.to_numpy().tolist()], aligns, list(table.columns))


def _statsmodels_text(info: pd.DataFrame, coefficients: pd.DataFrame, title: str) -> str:
    """Both tables stretched to the width of the wider one."""
    grids = [_info_grid(info), _coefficient_grid(coefficients)]
    natural = [len(grid.lines()[0]) for grid in grids]
    width = max(natural)
    text = []
    for grid, size, table in zip(grids, natural, (info, coefficients), strict=True):
        gaps = table.shape[1] - 1
        pad = (width - size) // gaps
        stub, *others = grid.widths()
        text.append(grid.lines(1 + pad, [stub + width - size - gaps * pad, *others]))
    if len(title) < width:
        title = " " * int(width / 2 - len(title) / 2) + title
    rule = "=" * width
    dashes = "-" * len(text[1][0])  # statsmodels' second table may be wider by its padding
    return "\n".join([title, rule, *text[0], dashes, *text[1], rule])


def _variance_text(table: pd.DataFrame) -> str:
    lines = _variance_grid(table, "llrrl").lines()
    return "\n".join([*(line.rstrip() for line in lines), "-" * len(lines[1])])


def _notes_html(notes: Sequence[str]) -> list[str]:
    """Paragraphs; lines of a table, in which there are wide gaps, keep them."""
    out: list[str] = []
    for is_table, lines in groupby(notes, lambda note: "  " in note or "\n" in note):
        if is_table:
            out.append(f"<pre>{html.escape(chr(10).join(lines))}</pre>")
        else:
            out += [f"<p>{html.escape(line)}</p>" for line in lines]
    return out


def _wrapped(note: str) -> str:
    return note if "\n" in note else "\n".join(textwrap.wrap(note, NOTE_WIDTH))
