"""What the methods for degrees of freedom have in common: their interface, contrasts, F tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy

from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.inference.estimates import Estimates
from sparselmm.likelihood.evaluations import PLSFit

DEPENDENT = 1e-8
"""Share of the largest singular value of rows of unit length below which some are dependent."""

ROUNDING = 3e-8
"""Share of the largest standard error of a combination of hypotheses that is rounding."""

LOST = 1e-10
"""Share of the largest variance below which rounding may have lost a direction of contrasts."""

CONTRADICTION = 1e-8
"""Rounding of the values of dependent rows, relative to the values."""


@dataclass(frozen=True)
class FTest:
    """Joint test of ``L beta = rhs``.

    Attributes
    ----------
    statistic : float
        Refers to F(``df_num``, ``df_den``); Kenward and Roger's scaling is already in it.
    df_num : int
        Rank of L.
    df_den : float
        inf for the asymptotic test.
    scaling : float
        Kenward and Roger's lambda; 1 for the other methods.
    """

    statistic: float
    df_num: int
    df_den: float
    p_value: float
    scaling: float = 1.0


class DenominatorDF(Protocol):
    """Tests of fixed effects that take account of estimated variances."""

    @property
    def method(self) -> str:
        """``"z"``, ``"satterthwaite"`` or ``"kenward-roger"``."""

    @property
    def vcov(self) -> FloatArray:
        """Covariance of beta that goes with these tests, (p, p); NaN for dropped columns."""

    def t_df(self, L: FloatArray) -> FloatArray:
        """Degrees of freedom of every row of L (m, p), (m,); NaN on a dropped column."""

    def f_test(self, L: FloatArray, rhs: FloatArray | None = None) -> FTest:
        """Joint test of ``L beta = rhs``."""


def f_test_of(statistic: float, df_num: int, df_den: float, scaling: float = 1.0) -> FTest:
    """The test with its p-value."""
    if np.isinf(df_den):
        p = scipy.stats.chi2.sf(statistic * df_num, df_num)
    else:
        p = scipy.stats.f.sf(statistic, df_num, df_den)
    return FTest(float(statistic), df_num, float(df_den), float(p), float(scaling))


def kept_columns(est: Estimates, L: FloatArray) -> tuple[FloatArray, BoolArray]:
    """L at the kept columns of X, (m, r), and which rows use no dropped column, (m,).

    Raises
    ------
    ValueError
        When L does not have one column per fixed effect.
    """
    L = np.atleast_2d(np.asarray(L, dtype=float))
    if L.ndim != 2 or L.shape[1] != est.layout.p:
        raise ArgumentError(
            f"contrasts need {est.layout.p} columns, one per fixed effect, got shape {L.shape}"
        )
    kept = est.deviance.cross.basis.kept
    dropped = np.setdiff1d(np.arange(est.layout.p), kept)
    return L[:, kept], np.asarray(~L[:, dropped].any(axis=1))


def estimable(est: Estimates, L: FloatArray) -> FloatArray:
    """L at the kept columns of X, (m, r).

    Raises
    ------
    DataError
        When a row uses a dropped column, whose coefficient has no estimate.
    """
    inner, good = kept_columns(est, L)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise DataError(
            f"row {row} of the contrasts uses a dropped column of X "
            f"({', '.join(est.dropped)}); its coefficient cannot be estimated"
        )
    return inner


def full_covariance(est: Estimates, vcov: FloatArray) -> FloatArray:
    """Covariance of all p coefficients from that of the kept ones, NaN elsewhere."""
    kept = est.deviance.cross.basis.kept
    out = np.full((est.layout.p, est.layout.p), np.nan)
    out[np.ix_(kept, kept)] = vcov
    return out


@dataclass(frozen=True, eq=False)
class Principal:
    """A hypothesis ``L beta = rhs`` as q uncorrelated ones.

    Attributes
    ----------
    rows : ndarray, (q, r)
        Combinations of the rows of L at the kept columns of X.
    effects : ndarray, (q,)
        Their estimates minus what the hypothesis says.
    variances : ndarray, (q,)
    """

    rows: FloatArray
    effects: FloatArray
    variances: FloatArray

    @classmethod
    def of(cls, est: Estimates, L: FloatArray, rhs: FloatArray | None) -> Principal:
        """From the eigenvectors of ``L V_beta L'``; dependent rows count once.

        Which rows are dependent is read from L, its columns in units of their standard errors:
        V_beta itself is nearly singular where covariates are far from zero. The eigenvectors are
        those of the covariance, as in lmerTest, unless the units of the rows differ so much that
        rounding would lose some of them; then of the correlations.

        Parameters
        ----------
        L : ndarray, (m, p)
        rhs : ndarray, (m,), optional
            Default zero.

        Raises
        ------
        DataError
            When L uses a dropped column or is zero, or its rows contradict each other.
        """
        inner, pls = estimable(est, L), est.pls
        rhs = np.zeros(len(inner)) if rhs is None else np.asarray(rhs, dtype=float)
        spread = inner @ fixed_root(pls)
        size = np.linalg.norm(spread, axis=1)
        if not (size > 0).any():
            raise DataError("the contrasts are all zero: there is no hypothesis to test")
        safe = np.where(size > 0, size, 1.0)
        rank, null = dependence(inner * np.sqrt(np.diag(pls.vcov_unscaled)))
        _check_consistent(null, rhs)
        turn, values = _principal(spread, rank)
        if values[-1] <= LOST * values[0]:
            turn, values = _principal(spread / safe[:, None], rank)
            turn = turn / safe[:, None]
        return cls(turn.T @ inner, turn.T @ (inner @ pls.beta - rhs), values)


def fixed_root(pls: PLSFit) -> FloatArray:
    """A matrix whose product with its transpose is the covariance of beta, (r, r)."""
    return pls.sigma * (root_of(pls.vcov_unscaled) if pls.root is None else pls.root)


def root_of(V: FloatArray) -> FloatArray:
    """A matrix whose product with its transpose is the covariance V, (m, m)."""
    size = np.sqrt(np.diag(V))
    safe = np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh(V / np.outer(safe, safe))
    return np.asarray(safe[:, None] * vectors * np.sqrt(np.maximum(values, 0.0)))


def _principal(spread: FloatArray, rank: int) -> tuple[FloatArray, FloatArray]:
    """Eigenvectors (m, rank) and eigenvalues of ``spread spread'``, the largest first."""
    left, size, _ = np.linalg.svd(spread, full_matrices=False)
    return left[:, :rank], size[:rank] ** 2


def squared_length(gap: FloatArray, spread: FloatArray, rank: int) -> tuple[float, int]:
    """``gap'V^- gap`` for ``V = spread spread'`` of some rank at most, and the rank."""
    size = np.linalg.norm(spread, axis=1)
    safe = np.where(size > 0, size, 1.0)
    left, values, _ = np.linalg.svd(spread / safe[:, None], full_matrices=False)
    left, values = left[:, :rank], values[:rank]
    fine = values > ROUNDING * values.max(initial=0.0)
    along = (gap / safe) @ left[:, fine]
    return float(np.sum((along / values[fine]) ** 2)), int(fine.sum())


def dependence(rows: FloatArray) -> tuple[int, FloatArray]:
    """Rank of some rows, and combinations of them that are zero, (m, m - rank)."""
    size = np.linalg.norm(rows, axis=1)
    safe = np.where(size > 0, size, 1.0)[:, None]
    left, values, _ = np.linalg.svd(rows / safe)
    rank = int((values > DEPENDENT * values.max(initial=0.0)).sum())
    return rank, left[:, rank:] / safe


def _check_consistent(null: FloatArray, rhs: FloatArray) -> None:
    """Refuse values that combinations of rows that are zero (columns of ``null``) do not have."""
    gap = np.abs(null.T @ rhs)
    if (gap > CONTRADICTION * (np.abs(null).T @ np.abs(rhs))).any():
        raise DataError(
            "the rows of the hypothesis contradict each other: some are combinations of others, "
            "but their values are not; leave out the dependent rows"
        )


@dataclass(frozen=True, eq=False)
class Asymptotic:
    """The normal and chi-squared distributions: variances count as known."""

    est: Estimates
    method = "z"

    @property
    def vcov(self) -> FloatArray:
        """``sigma^2 (X'V^-1X)^-1``, (p, p)."""
        return self.est.vcov

    def t_df(self, L: FloatArray) -> FloatArray:
        """Infinity, (m,); NaN on a dropped column."""
        _, good = kept_columns(self.est, L)
        return np.where(good, np.inf, np.nan)

    def f_test(self, L: FloatArray, rhs: FloatArray | None = None) -> FTest:
        """Wald test divided by its degrees of freedom."""
        parts = Principal.of(self.est, L, rhs)
        mean_square = float((parts.effects**2 / parts.variances).mean())
        return f_test_of(mean_square, len(parts.variances), np.inf)
