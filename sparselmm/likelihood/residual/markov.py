"""R and its inverse for structures in which a row depends on the one before it alone.

With r the correlation of a row and the one before it and ``a = 1 / (1 - r^2)``, the inverse of the
correlations has ``-a r`` between the two rows and adds ``a - 1`` to the diagonal of both; the log
determinant is the sum of ``log(1 - r^2)``. Memory and time are linear in the rows, whatever the
size of the groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import solveh_banded

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.residual import ResidualRows
from sparselmm.likelihood.residual.structure import Structured


@dataclass(frozen=True, eq=False)
class MarkovState:
    """R^-1 at one phi, rows in order.

    Attributes
    ----------
    phi : ndarray, (J,)
    diagonal : ndarray, (n,)
    link : ndarray, (L,)
        Entries with the row before.
    slopes : tuple of ndarray, (J, n) and (J, L)
        Derivatives of both.
    logdet : float
    logdet_slope : ndarray, (J,)
    left : ndarray, (L,)
        Share of the variance of a later row that the one before it does not explain.
    """

    phi: FloatArray
    diagonal: FloatArray
    link: FloatArray
    slopes: tuple[FloatArray, FloatArray]
    logdet: float
    logdet_slope: FloatArray
    left: FloatArray


class Markov:
    """R(phi) by one neighbour of every row.

    Parameters
    ----------
    weights : ndarray, (n,), or None
    """

    def __init__(self, rows: ResidualRows, structure: Structured, weights: FloatArray | None):
        self.structure, self.order = structure, rows.order
        o = self.order
        self.sorted = bool((np.diff(o) == 1).all())
        same = np.diff(rows.group[o]) == 0
        self.later: IntArray = np.flatnonzero(same) + 1
        self.step, self.same_step = np.unique(
            np.abs(np.diff(rows.coords[o, 0])[same]), return_inverse=True
        )
        self.visits = np.stack([rows.visits[o][self.later], rows.visits[o][self.later - 1]])
        self.stratum, self.D = rows.stratum[o], rows.D[o]
        self.half = np.zeros(len(o)) if weights is None else 0.5 * np.log(weights[o])
        self.counts = rows.counts[o]
        self.n_cells = len(o) + len(self.later)

    def _links(self, phi: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Correlation of every later row with the one before it, and its derivatives in psi."""
        structure, stratum = self.structure, self.stratum[self.later]
        k = structure.correlation.n
        r, slopes = np.zeros(len(stratum)), np.zeros((structure.n - structure.a, len(stratum)))
        for s, psi in enumerate(structure.psi(phi)):
            own = stratum == s if structure.n_strata > 1 else slice(None)
            value, first = self._of_steps(psi, own)
            r[own] = value
            slopes[s * k : (s + 1) * k, own] = first
        return r, slopes

    def _of_steps(self, psi: FloatArray, own: Any) -> tuple[FloatArray, FloatArray]:
        """Correlations of some later rows, computed once for each different step."""
        correlation = self.structure.correlation
        if correlation.kind == "ad":
            return correlation.links(psi, self.step, self.visits[:, own])  # type: ignore[return-value]
        value, first = correlation.links(psi, self.step, self.visits[:, :0])
        at = self.same_step[own]
        return value[at], first[:, at]

    def at(self, phi: FloatArray) -> MarkovState:
        """R^-1 and its derivatives at phi."""
        r, slopes = self._links(phi)
        left = 1.0 - r * r
        if not (left > 0).all():
            raise NotPositiveDefiniteError("R is not positive definite")
        a, later, n = 1.0 / left, self.later, len(self.order)
        log_sd = self.structure.log_sd(phi, self.D, self.half)
        inverse = np.exp(-log_sd)
        both = inverse[later] * inverse[later - 1]
        diagonal = _with_neighbours(np.ones(n), a - 1.0, later) * inverse**2
        link = -a * r * both
        J, first = self.structure.n, self.structure.a
        Qd, Ql, logdet = np.zeros((J, n)), np.zeros((J, len(later))), np.zeros(J)
        for j in range(first):
            Qd[j] = -2.0 * self.D[:, j] * diagonal
            Ql[j] = -(self.D[later, j] + self.D[later - 1, j]) * link
            logdet[j] = 2.0 * float(self.counts @ self.D[:, j])
        for j, slope in enumerate(slopes, first):
            moved = 2.0 * r * slope * a * a
            Qd[j] = _with_neighbours(np.zeros(n), moved, later) * inverse**2
            Ql[j] = -(a * slope + moved * r) * both
            logdet[j] = -float(self.counts[later] @ (2.0 * r * slope * a))
        total = float(self.counts[later] @ np.log(left) + 2.0 * self.counts @ log_sd)
        return MarkovState(phi, diagonal, link, (Qd, Ql), total, logdet, left)

    def rounding(self, state: MarkovState) -> float:
        """As `Blocks.rounding`."""
        return float(
            np.finfo(float).eps * (self.counts.sum() + self.counts[self.later] @ (2.0 / state.left))
        )

    def cells(self, state: MarkovState) -> FloatArray:
        """Entries of the inverse, (n_cells,): the diagonal, then the links."""
        return np.concatenate([state.diagonal, state.link])

    def pairs(self) -> tuple[IntArray, IntArray, IntArray]:
        """Every ordered pair of rows that R^-1 joins and its cell, each (n_pairs,)."""
        o, later = self.order, self.later
        n = len(o)
        each = n + np.arange(len(later))
        left = np.concatenate([o, o[later], o[later - 1]])
        right = np.concatenate([o, o[later - 1], o[later]])
        return left, right, np.concatenate([np.arange(n), each, each])

    def solve(self, state: MarkovState, x: FloatArray) -> FloatArray:
        """``R^-1 x``, (n, c)."""
        return self._banded(state.diagonal, state.link, x)

    def moved(self, state: MarkovState, j: int, x: FloatArray) -> FloatArray:
        """``R_j x = -R (dR^-1/dphi_j) R x``, (n, c)."""
        inner = self._banded(state.slopes[0][j], state.slopes[1][j], self._times(state, x))
        return -self._times(state, inner)

    def _banded(self, diagonal: FloatArray, link: FloatArray, x: FloatArray) -> FloatArray:
        own = self._ordered(x)
        full = np.zeros((len(own), 1))
        full[self.later, 0] = link
        y = diagonal[:, None] * own
        y[1:] += full[1:] * own[:-1]
        y[:-1] += full[1:] * own[1:]
        return self._back(y)

    def _ordered(self, x: FloatArray) -> FloatArray:
        """Rows by group and time."""
        return x if self.sorted else x[self.order]

    def _back(self, y: FloatArray) -> FloatArray:
        """Rows of the design from those by group and time."""
        if self.sorted:
            return y
        out = np.empty_like(y)
        out[self.order] = y
        return out

    def _times(self, state: MarkovState, x: FloatArray) -> FloatArray:
        """``R x``, (n, c)."""
        band = np.zeros((2, len(self.order)))
        band[0, self.later], band[1] = state.link, state.diagonal
        return self._back(solveh_banded(band, self._ordered(x), check_finite=False))

    def model(
        self, state: MarkovState, e: FloatArray, F: FloatArray, sums: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """As `Blocks.model`; the curvature ``<Gamma, R_jk>``, whose mean is zero, is left out."""
        J, n = self.structure.n, len(e)
        column, Qw = -e[:, None], np.empty((n, J))
        for j, (Qd, Ql) in enumerate(zip(*state.slopes, strict=True)):
            Qw[:, j] = self._banded(Qd, Ql, column)[:, 0]
        gram = Qw.T @ self._times(state, Qw) if J else np.zeros((0, 0))
        return self.gradient(state, F, sums), np.zeros((J, J)), Qw, gram, Qw.T @ e

    def gradient(self, state: MarkovState, F: FloatArray, sums: FloatArray) -> FloatArray:
        """The gradient of `model` alone."""
        later, own = self.later, self._ordered(F)
        n = len(own)
        diagonal = sums[:n] + np.einsum("ic,ic->i", own, own)
        between = np.einsum("ic,ic->i", own[1:], own[:-1])
        link = sums[n:] + 2.0 * between[later - 1]
        return np.asarray(state.slopes[0] @ diagonal + state.slopes[1] @ link + state.logdet_slope)


def _with_neighbours(x: FloatArray, amount: FloatArray, later: IntArray) -> FloatArray:
    """The rows x with an amount added to both rows of every link."""
    full = np.zeros(len(x))
    full[later] = amount
    x += full
    x[:-1] += full[1:]
    return x
