"""Estimated marginal means: linear functions of beta, and families of contrasts between them.

A marginal mean is ``L beta`` with L the average of rows of X over a reference grid (Searle, Speed &
Milliken 1980, *The American Statistician* 34(4), 216-221). Its t statistic uses the covariance of
beta and the degrees of freedom of a :class:`~sparselmm.inference.hypotheses.ddf.DenominatorDF`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from sparselmm.base.types import CSR, FloatArray, IntArray
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.hypotheses.ddf import DenominatorDF, FTest
from sparselmm.inference.hypotheses.estimability import estimable, null_space
from sparselmm.inference.hypotheses.hypotheses import f_test_of
from sparselmm.inference.wald import Wald


@dataclass(frozen=True, eq=False)
class LinearEstimates(Wald):
    """Estimates of ``L beta + offset``; NaN where not estimable.

    Attributes
    ----------
    df : ndarray, (m,)
        inf for the normal distribution.
    """

    df: FloatArray


@dataclass(frozen=True, eq=False)
class FixedEffects:
    """What tests of linear functions of the fixed effects take from a fit.

    Attributes
    ----------
    beta : ndarray, (r,)
        Kept coefficients.
    vcov : ndarray, (r, r)
    kept : ndarray of int, (r,)
        Their columns of X.
    null : ndarray, (p, p - r)
        Null space of X, from :func:`~sparselmm.inference.hypotheses.estimability.null_space`.
    tests : DenominatorDF, optional
        Degrees of freedom; None for those of ``least_df``.
    least_df : ndarray, (r,), optional
        Degrees of freedom of every coefficient, of which a combination has the least, as in R's
        emmeans; None for the normal distribution.
    """

    beta: FloatArray
    vcov: FloatArray
    kept: IntArray
    null: FloatArray
    tests: DenominatorDF | None = None
    least_df: FloatArray | None = None

    @classmethod
    def of(cls, est: Estimates, tests: DenominatorDF) -> FixedEffects:
        """Of a linear mixed model."""
        kept = est.deviance.cross.basis.kept
        null = np.zeros((est.layout.p, 0))
        if est.dropped:
            what = "which means of a rank-deficient X are estimable"
            null = null_space(est.layout.row_space(what), kept)
        return cls(est.pls.beta, tests.vcov[np.ix_(kept, kept)], kept, null, tests)

    def estimates(self, L: FloatArray, offset: FloatArray) -> LinearEstimates:
        """``L beta + offset``, L (m, p), with standard errors and degrees of freedom."""
        inner = np.zeros_like(L)
        inner[:, self.kept] = L[:, self.kept]
        own = L[:, self.kept]
        variance = np.einsum("ij,jk,ik->i", own, self.vcov, own, optimize=True)
        some = (inner != 0).any(axis=1)
        df = np.full(len(L), np.nan)
        if self.tests is None:
            df = self._least(own)
        elif some.any():
            df[some] = self.tests.t_df(inner[some])
        se = np.sqrt(np.maximum(variance, 0.0))
        good = estimable(L, self.null)
        values = (own @ self.beta + offset, se, df)
        return LinearEstimates(*(np.where(good, x, np.nan) for x in values))

    def _least(self, own: FloatArray) -> FloatArray:
        """Least degrees of freedom among the coefficients in each row, (m,)."""
        if self.least_df is None:
            return np.full(len(own), np.inf)
        return np.asarray(np.where(own != 0.0, self.least_df, np.inf).min(axis=1, initial=np.inf))

    def cov(self, L: FloatArray) -> FloatArray:
        """Covariance of ``L beta``, (m, m)."""
        inner = L[:, self.kept]
        return np.asarray(inner @ self.vcov @ inner.T)

    def estimable(self, L: FloatArray) -> FloatArray:
        """Combinations of the rows of L that can be estimated, (m', p)."""
        return estimable_part(L[np.isfinite(L).all(axis=1)], self.null)

    def joint_test(self, L: FloatArray) -> FTest | None:
        """Test of ``L beta = 0`` on the part that can be estimated; None if nothing can be."""
        unit = np.sqrt(np.diag(self.vcov))
        unit[unit == 0.0] = 1.0
        _, size, rows = np.linalg.svd(self.estimable(L)[:, self.kept] * unit, full_matrices=False)
        rank = int((size > 1e-8 * size.max(initial=0.0)).sum())
        if not rank:
            return None
        own = np.zeros((rank, L.shape[1]))
        own[:, self.kept] = rows[:rank] / unit
        if self.tests is not None:
            return self.tests.f_test(own)
        value = own[:, self.kept] @ self.beta
        wald = float(value @ np.linalg.solve(self.cov(own), value))
        return f_test_of(wald / rank, rank, float(self._least(own[:, self.kept]).min()))


def estimable_part(L: FloatArray, null: FloatArray) -> FloatArray:
    """Combinations of the rows of L that the data can tell, (m', p)."""
    if not null.shape[1] or estimable(L, null).all():
        return L
    left, size, _ = np.linalg.svd(L @ null)
    rank = int((size > 1e-8 * size.max()).sum())
    return np.asarray(left[:, rank:].T @ L)


# ------------------------------------------------------------------- families of contrasts


FAMILIES = (
    "pairwise", "revpairwise", "consec", "trt.vs.ctrl", "trt.vs.ctrlk", "eff", "del.eff",
    "mean_chg", "poly", "identity",
)  # fmt: skip

OTHER_NAMES = {"tukey": "pairwise", "dunnett": "trt.vs.ctrl", "trt.vs.ctrl1": "trt.vs.ctrl"}

DEGREES = ("linear", "quadratic", "cubic", "quartic")

DEFAULT_ADJUST = {
    "pairwise": "tukey", "revpairwise": "tukey", "trt.vs.ctrl": "dunnettx",
    "trt.vs.ctrlk": "dunnettx", "eff": "fdr_bh", "del.eff": "fdr_bh", "consec": "mvt",
    "mean_chg": "mvt",
}  # fmt: skip
"""Adjustments that R's emmeans makes unless told otherwise; none for other families."""


def family(
    name: str, labels: Sequence[str], ref: int = 0, sign: str = "-"
) -> tuple[list[str], FloatArray]:
    """Labels and weights, (c, k), of a family of contrasts of k means.

    Parameters
    ----------
    name : str
        One of `FAMILIES`.
    labels : sequence of str, (k,)
    ref : int
        Place of the control among the means.
    sign : {"-", "/"}
        Between the labels of a pair.
    """
    k, one = len(labels), np.eye(len(labels))
    if name in ("pairwise", "revpairwise"):
        C, pairs = pair_matrix(k, name == "revpairwise")
        return joined(labels, pairs, sign), C
    if name == "consec":
        return joined(labels, [(i + 1, i) for i in range(k - 1)], sign), one[1:] - one[:-1]
    if name in ("trt.vs.ctrl", "trt.vs.ctrlk"):
        ref = k - 1 if name == "trt.vs.ctrlk" else ref
        others = [i for i in range(k) if i != ref]
        return joined(labels, [(i, ref) for i in others], sign), one[others] - one[ref]
    if name == "eff":
        return [f"{label} effect" for label in labels], one - 1.0 / k
    if name == "del.eff":
        return [f"{label} effect" for label in labels], (one - 1.0 / k) * (k / max(k - 1.0, 1.0))
    if name == "mean_chg":
        cut = np.arange(1, k)[:, None]
        after = np.arange(k)[None, :] >= cut
        C = np.where(after, 1.0 / (k - cut), -1.0 / cut)
        return [f"{labels[i]}|{labels[i + 1]}" for i in range(k - 1)], C
    if name == "poly":
        return _polynomial(k)
    return list(labels), one


def _polynomial(k: int) -> tuple[list[str], FloatArray]:
    """Orthogonal polynomials of equally spaced means in the smallest whole numbers."""
    x = np.arange(k) - 0.5 * (k - 1)
    top = min(k - 1, 6)
    Q, R = np.linalg.qr(np.vander(x, top + 1, increasing=True))
    rows = []
    for column in (Q * np.sign(np.diag(R))).T[1:]:
        near = np.abs(column[np.abs(column) > 1e-9]).min()
        scaled = column / near
        for factor in range(1, 1000):
            if np.abs(factor * scaled - np.round(factor * scaled)).max() < 1e-6 * factor:
                scaled = np.round(factor * scaled)
                break
        rows.append(scaled)
    names = [DEGREES[i] if i < len(DEGREES) else f"degree {i + 1}" for i in range(top)]
    return names, np.array(rows).reshape(len(rows), k)


def pair_matrix(k: int, reverse: bool) -> tuple[FloatArray, list[tuple[int, int]]]:
    """Differences between all pairs of k means, (k (k - 1) / 2, k), and the pairs."""
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    if reverse:
        pairs = [(j, i) for j in range(k) for i in range(j)]
    C = np.zeros((len(pairs), k))
    for row, (i, j) in enumerate(pairs):
        C[row, i], C[row, j] = 1.0, -1.0
    return C, pairs


def averaging_matrix(cell: IntArray, weights: FloatArray, n_cells: int) -> CSR:
    """Weighted means over the rows of a grid that belong to each cell, sparse (n_cells, g).

    Parameters
    ----------
    cell : ndarray of int, (g,)
    weights : ndarray, (g,)

    Notes
    -----
    NaN for a cell whose weights are all zero.
    """
    total = np.bincount(cell, weights, minlength=n_cells)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = weights / total[cell]
    where = (cell, np.arange(len(cell)))
    return sp.csr_array((share, where), shape=(n_cells, len(cell)))


def joined(labels: Sequence[str], pairs: Sequence[tuple[int, int]], sign: str = "-") -> list[str]:
    """``"a - b"`` for every pair, labels with an operator in them in parentheses."""
    safe = [f"({x})" if any(operator in x for operator in "+-*/") else x for x in labels]
    return [f"{safe[i]} {sign} {safe[j]}" for i, j in pairs]
