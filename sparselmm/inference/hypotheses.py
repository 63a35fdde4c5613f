"""What the methods for degrees of freedom have in common: their interface, contrasts, F tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import stats

from sparselmm._typing import BoolArray, FloatArray
from sparselmm.estimates import Estimates
from sparselmm.exceptions import DataError

RANK_TOLERANCE = 1e-10
"""Share of the largest variance below which a direction of contrasts counts as dependent."""


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
    p_value : float
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
        p = stats.chi2.sf(statistic * df_num, df_num)
    else:
        p = stats.f.sf(statistic, df_num, df_den)
    return FTest(float(statistic), df_num, float(df_den), float(p), float(scaling))


def kept_columns(est: Estimates, L: FloatArray) -> tuple[FloatArray, BoolArray]:
    """L at the kept columns of X, (m, r), and which rows use no dropped column, (m,).

    Raises
    ------
    ValueError
        When L does not have one column per fixed effect.
    """
    L = np.atleast_2d(np.asarray(L, dtype=float))
    if L.ndim != 2 or L.shape[1] != est.design.p:
        raise ValueError(
            f"contrasts need {est.design.p} columns, one per fixed effect, got shape {L.shape}"
        )
    kept = est.deviance.cross.basis.kept
    dropped = np.setdiff1d(np.arange(est.design.p), kept)
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
    out = np.full((est.design.p, est.design.p), np.nan)
    out[np.ix_(kept, kept)] = vcov
    return out


def principal(V: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Positive eigenvalues (q,) of a covariance of contrasts and their vectors (m, q)."""
    values, vectors = np.linalg.eigh(0.5 * (V + V.T))
    values, vectors = values[::-1], vectors[:, ::-1]
    if not len(values) or not values[0] > 0:
        raise DataError("the contrasts are all zero: there is no hypothesis to test")
    positive = values > RANK_TOLERANCE * values[0]
    return values[positive], vectors[:, positive]


@dataclass(frozen=True, eq=False)
class Asymptotic:
    """The normal and chi-squared distributions: variances count as known.

    Parameters
    ----------
    est : Estimates
    """

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
        inner = estimable(self.est, L)
        pls = self.est.pls
        values, vectors = principal(pls.scale * inner @ pls.vcov_unscaled @ inner.T)
        effect = vectors.T @ (inner @ pls.beta - (0.0 if rhs is None else rhs))
        return f_test_of(float((effect**2 / values).mean()), len(values), np.inf)
