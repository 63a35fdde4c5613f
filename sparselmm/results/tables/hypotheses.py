"""Tests of linear hypotheses ``R beta = q``: value objects and the functions that fill them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy

from sparselmm.base.arguments import check_level, check_text
from sparselmm.base.exceptions import ArgumentError, ValueWarning, catchable, warn_user
from sparselmm.base.grid import Grid, p_text, pairs_html
from sparselmm.base.types import FloatArray
from sparselmm.inference.estimates import names_or
from sparselmm.inference.hypotheses.hypotheses import dependence, root_of, squared_length
from sparselmm.inference.wald import Wald, two_sided
from sparselmm.results.print.notebook import as_table, frame_html, frame_text
from sparselmm.results.print.polars import InPolars

CONTRADICTION = 1e-8
"""Rounding of the values of dependent hypotheses, relative to the values."""


@dataclass(frozen=True, eq=False, repr=False)
class ContrastResults(InPolars):
    """Tests of single linear hypotheses, one row each.

    Attributes
    ----------
    effect, sd, statistic, pvalue : ndarray, (m,)
        Estimate of ``R beta``, its standard error, ``(R beta - q) / sd``, two-sided p-value.
    distribution : {"norm", "t"}
    df_denom : float or ndarray, (m,)
        Degrees of freedom of the t distribution, one for all or one each; NaN for the normal one.
    c_names : list of str
    """

    effect: FloatArray
    sd: FloatArray
    statistic: FloatArray
    pvalue: FloatArray
    distribution: str
    df_denom: float | FloatArray
    c_names: list[str]

    @property
    def tvalue(self) -> FloatArray:
        """``statistic``."""
        return self.statistic

    def conf_int(self, alpha: float = 0.05) -> FloatArray:
        """Confidence intervals of ``effect``, (m, 2)."""
        alpha = check_level(alpha)
        df = np.inf if self.distribution == "norm" else self.df_denom
        return Wald(self.effect, self.sd, df).interval(alpha)

    @as_table
    def summary_frame(self, xname: Sequence[str] | None = None, alpha: float = 0.05) -> Any:
        """Table as a DataFrame.

        Parameters
        ----------
        xname : sequence of str, optional
            Names of the hypotheses.
        alpha : float
        """
        letter = "z" if self.distribution == "norm" else "t"
        columns = ["coef", "std err", letter, f"P>|{letter}|", "Conf. Int. Low", "Conf. Int. Upp."]
        values = [self.effect, self.sd, self.statistic, np.atleast_1d(self.pvalue)]
        table = np.column_stack([*values, self.conf_int(alpha)])
        names = names_or(xname, self.c_names, "xname")
        frame = pd.DataFrame(table, names, columns)
        if np.ndim(self.df_denom):
            frame.insert(2, "df", self.df_denom)
        return frame

    def summary(
        self, xname: Sequence[str] | None = None, alpha: float = 0.05, title: str | None = None
    ) -> str:
        """Table as text, laid out as statsmodels does."""
        if title is not None:
            check_text(title, "title")
        frame = self.summary_frame(xname, alpha)
        header = ["", *map(str, frame.columns[:-2]), f"[{alpha / 2:.6g}", f"{1 - alpha / 2:.6g}]"]
        rows = [
            [str(name), f"{values[0]:.4f}", *(f"{value:.3f}" for value in values[1:])]
            for name, values in zip(frame.index, frame.to_numpy(), strict=True)
        ]
        aligns = "l" + "r" * (len(header) - 1)
        grid = Grid([rows], aligns, header, heads=aligns)
        least = [10, *[10] * (len(header) - 3), 11, 11]
        lines = grid.lines(1, [max(n, s) for n, s in zip(least, grid.widths(), strict=True)])
        width = len(lines[0])
        title = (title or "Test for Constraints").center(width)
        return "\n".join([title, "=" * width, *lines, "=" * width])

    def __repr__(self) -> str:
        return self.summary()

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return frame_html(self.summary_frame(), "Test for Constraints")


@dataclass(frozen=True, eq=False, repr=False)
class WaldResults:
    """A joint test of several linear hypotheses.

    Attributes
    ----------
    statistic : float or ndarray, (1, 1)
        Chi-squared or F.
    pvalue : float
    distribution : {"chi2", "F"}
    df_num : int
        Number of hypotheses.
    df_denom : float
        Of F the denominator's degrees of freedom; of chi-squared, as in statsmodels, ``df_num``.
    """

    statistic: Any
    pvalue: float
    distribution: str
    df_num: int
    df_denom: float

    @property
    def fvalue(self) -> Any:
        """``statistic`` of an F test."""
        if self.distribution != "F":
            raise AttributeError("fvalue")
        return self.statistic

    def summary(self) -> str:
        """One line of text."""
        value, p = float(np.squeeze(self.statistic)), p_text(float(self.pvalue)).strip("<")
        sign = "<" if self.pvalue < 0.001 else "="
        if self.distribution == "F":
            return (
                f"<F test: F={value:.6g}, p{sign}{p}, df_denom={self.df_denom:.3g}, "
                f"df_num={self.df_num:.3g}>"
            )
        return (
            f"<Wald test (chi2): statistic={value:.6g}, p-value{sign}{p}, "
            f"df_denom={self.df_denom:.3g}>"
        )

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        of = f"F({self.df_num:g}, {self.df_denom:.4g})"
        name = of if self.distribution == "F" else f"chi2({self.df_num:g})"
        value = float(np.squeeze(self.statistic))
        pairs = [(name, f"{value:.4f}"), ("p-value", p_text(float(self.pvalue)))]
        return pairs_html(pairs, "Wald test")


@dataclass(frozen=True, eq=False, repr=False)
class TermTests(InPolars):
    """Wald tests of whole terms.

    Attributes
    ----------
    table : DataFrame
        One row per term: statistic, p-value, number of hypotheses.
    """

    table: pd.DataFrame

    def summary_frame(self) -> pd.DataFrame:
        """The table under statsmodels' headings."""
        letter = "F" if "df_denom" in self.table else "chi2"
        names = {"statistic": letter, "pvalue": f"P>{letter}"}
        return self.table.rename(columns=lambda name: names.get(name, name.replace("df_", "df ")))

    def __repr__(self) -> str:
        return frame_text(self.summary_frame())

    def _repr_html_(self) -> str:
        return frame_html(self.summary_frame(), "Wald tests of terms")


@dataclass(frozen=True, eq=False, repr=False)
class PairwiseResults:
    """Differences between the levels of a factor.

    Attributes
    ----------
    contrasts : ContrastResults
    result_frame : DataFrame
        Differences with p-values adjusted for their number.
    """

    contrasts: ContrastResults
    result_frame: pd.DataFrame

    def __repr__(self) -> str:
        return frame_text(self.result_frame)

    def _repr_html_(self) -> str:
        return frame_html(self.result_frame, "Differences between the levels")


def t_tests(
    R: FloatArray, q: FloatArray, beta: FloatArray, cov: FloatArray,
    df: float | FloatArray | None,
) -> ContrastResults:  # fmt: skip
    """Test each row of ``R beta = q``; normal distribution when ``df`` is None."""
    effect = _times(R, beta)
    sd = np.sqrt(np.einsum("ij,ij->i", R, _times_matrix(R, cov)))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = (effect - q) / sd
    pvalue = two_sided(statistic, np.inf if df is None else df)
    kind = "norm" if df is None else "t"
    names = [f"c{i}" for i in range(len(R))]
    return ContrastResults(
        effect, sd, statistic, np.squeeze(pvalue), kind, np.nan if df is None else df, names
    )


def _times(R: FloatArray, x: FloatArray) -> FloatArray:
    """``R x`` where a NaN counts only if it is asked for."""
    unknown = ~np.isfinite(x)
    out = R @ np.where(unknown, 0.0, x)
    return np.where((R[:, unknown] != 0).any(axis=1), np.nan, out)


def _times_matrix(R: FloatArray, cov: FloatArray) -> FloatArray:
    unknown = ~np.isfinite(np.diag(cov))
    known = np.where(unknown[:, None] | unknown[None, :], 0.0, cov)
    out = R @ known
    out[(R[:, unknown] != 0).any(axis=1)] = np.nan
    return out


def wald(
    R: FloatArray, q: FloatArray, beta: FloatArray, cov: FloatArray, df: float | None,
    scalar: bool, spread: FloatArray | None = None,
) -> WaldResults:  # fmt: skip
    """Test all rows of ``R beta = q`` together: chi-squared, or F with ``df``.

    Parameters
    ----------
    spread : ndarray, (m, r), optional
        A root of ``R cov R'``, which has all its digits.
    """
    variances = np.diag(cov)
    units = np.sqrt(np.where(np.isfinite(variances), variances, 1.0))
    m = _check_hypotheses(R, R * np.where(units > 0, units, 1.0), q)
    gap, V = _times(R, beta) - q, _times_matrix(R, cov) @ R.T
    if np.isfinite(V).all():
        value, m = squared_length(gap, root_of(V) if spread is None else spread, m)
    else:
        value, m = np.nan, len(R)
    if df is not None:
        value /= max(m, 1)
        pvalue, kind, denominator = float(scipy.stats.f.sf(value, m, df)), "F", float(df)
    else:
        pvalue, kind, denominator = float(scipy.stats.chi2.sf(value, m)), "chi2", float(m)
    return WaldResults(value if scalar else np.array([[value]]), pvalue, kind, m, denominator)


def _check_hypotheses(R: FloatArray, rows: FloatArray, q: FloatArray) -> int:
    """Refuse hypotheses that contradict each other; say that dependent ones count once.

    Parameters
    ----------
    rows : ndarray, (m, number of parameters)
        R with its columns in units of the standard errors.

    Returns
    -------
    int
        Number of independent hypotheses.
    """
    size = np.sqrt(np.einsum("ij,ij->i", R, R))
    if not size.all():
        raise ArgumentError(
            f"r_matrix: hypothesis {int(np.argmin(size))} is about no parameter, all its weights "
            "are zero; leave it out"
        )
    rank, null = dependence(rows)
    if (np.abs(null.T @ q) > CONTRADICTION * (np.abs(null).T @ np.abs(q))).any():
        raise ArgumentError(
            "r_matrix: the hypotheses contradict each other, so that they cannot hold together; "
            "test them one by one with t_test, or leave some out"
        )
    if rank < len(R):
        warn_user(
            f"r_matrix: {len(R)} hypotheses of which {rank} are independent; the others follow "
            "from these and do not count",
            catchable(ValueWarning),
        )
    return rank
