"""Wald's table: estimate, standard error, statistic, degrees of freedom, p-value, interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from sparselmm.base.types import FloatArray


@dataclass(frozen=True, eq=False)
class Wald:
    """Estimates with their standard errors, each for itself.

    Attributes
    ----------
    estimate, se : ndarray, (m,)
    df : ndarray, (m,), or float
        Degrees of freedom of Student's distribution; ``inf`` for the normal one.
    """

    estimate: FloatArray
    se: FloatArray
    df: FloatArray | float = np.inf

    @property
    def statistic(self) -> FloatArray:
        """``estimate / se``, (m,)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.estimate / self.se)

    @property
    def pvalue(self) -> FloatArray:
        """Two-sided p-values of the hypotheses that a parameter is zero, (m,)."""
        return two_sided(self.statistic, self.df)

    def interval(self, alpha: float) -> FloatArray:
        """Ends of the intervals with confidence ``1 - alpha``, (m, 2)."""
        half = quantile(alpha, self.df) * self.se
        return np.column_stack([self.estimate - half, self.estimate + half])


def two_sided(statistic: FloatArray, df: FloatArray | float = np.inf) -> FloatArray:
    """Probability of a statistic that far from zero on either side."""
    if np.all(np.isinf(df)):
        return np.asarray(2.0 * scipy.special.ndtr(-np.abs(statistic)))
    return np.asarray(2.0 * scipy.stats.t.sf(np.abs(statistic), df))


def quantile(alpha: float, df: FloatArray | float = np.inf) -> FloatArray:
    """What a statistic exceeds in absolute value with probability alpha."""
    if np.all(np.isinf(df)):
        return np.asarray(-scipy.special.ndtri(alpha / 2.0))
    return np.asarray(scipy.stats.t.isf(alpha / 2.0, df))
