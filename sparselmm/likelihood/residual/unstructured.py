"""R as a free covariance of the visits: ``R = (lambda lambda')_visits``, absolute.

Phi are the entries of lambda by columns, once per stratum; sigma^2 is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparselmm.base.smallmatrix import block_diagonal, columns_of_triangle
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.residual import ResidualRows
from sparselmm.likelihood.residual.geometry import Geometry
from sparselmm.likelihood.residual.jets import CAPPED, LEFT

SHARE = 1e-4
"""Share of the variances that is added to a covariance of visits where it measures steps."""

TINY = 1e-10
"""The least of it that leaves a matrix its root."""


@dataclass(frozen=True, eq=False)
class VisitSlopes:
    """Derivatives of blocks of covariances of visits, made one by one.

    Attributes
    ----------
    L : ndarray, (strata, T, T)
        Lambda.
    apart : ndarray, (T, T)
        What its products are multiplied by.
    entries : tuple of ndarray of int, (own,) each
        Row and column of every parameter of a stratum.
    at : Geometry
    weights : ndarray, (P, m, m)
    """

    L: FloatArray
    apart: FloatArray
    entries: tuple[IntArray, IntArray]
    at: Geometry
    weights: FloatArray

    def __getitem__(self, j: int) -> FloatArray:
        """Of one parameter, (P, m, m)."""
        stratum, place = divmod(j, len(self.entries[0]))
        r, c = (each[place] for each in self.entries)
        E = np.zeros_like(self.apart)
        E[r] += self.L[stratum, :, c]
        E[:, r] += self.L[stratum, :, c]
        E *= self.apart
        own = E[self.at.visits[:, :, None], self.at.visits[:, None, :]] * self.weights
        return np.where((self.at.stratum == stratum)[:, None, None], own, 0.0)


class Unstructured:
    """A free covariance matrix of the visits in every stratum.

    ``R = lambda lambda'`` with a diagonal greater by the share `LEFT`: as for other structures
    correlations stop short of one, and ``lambda`` may be singular.
    """

    known_scale: float | None = 1.0
    a = 0
    has_several_angles = False

    def __init__(self, rows: ResidualRows):
        self.rows, self.T = rows, rows.n_visits
        self.r, self.c = columns_of_triangle(self.T)
        self.n_strata = max(len(rows.strata), 1)
        self.own = len(self.r)
        self.n = self.n_strata * self.own
        self.apart = 1.0 + LEFT * np.eye(self.T)
        self.initial: FloatArray | None = None

    def roots(self, phi: FloatArray) -> FloatArray:
        """Lambda of every stratum, (strata, T, T)."""
        out = np.zeros((self.n_strata, self.T, self.T))
        out[:, self.r, self.c] = phi.reshape(self.n_strata, self.own)
        return out

    def covariances(self, phi: FloatArray) -> FloatArray:
        """Of the visits in every stratum, (strata, T, T)."""
        L = self.roots(phi)
        return np.asarray(L @ L.transpose(0, 2, 1) * self.apart)

    def start(self) -> FloatArray:
        """Where a search starts, (n,): what `initial_from` found."""
        if self.initial is None:
            return np.tile(np.eye(self.T)[self.r, self.c], self.n_strata)
        return self.initial

    def others(self, phi: FloatArray) -> list[FloatArray]:
        """Where further searches start: the first start, and ``phi`` without correlations."""
        L = self.roots(phi)
        plain = np.zeros_like(L)
        np.einsum("sii->si", plain)[:] = np.sqrt(np.einsum("sij,sij->si", L, L))
        return [self.start(), plain[:, self.r, self.c].ravel()]

    def near_limits(self, phi: FloatArray) -> list[FloatArray]:
        """None: the root of a singular covariance is a place like others."""
        return []

    def _away(self, phi: FloatArray, share: float) -> FloatArray:
        """Roots with every variance greater by a share, (strata, T, T)."""
        L = self.roots(phi)
        S = L @ L.transpose(0, 2, 1)
        return np.asarray(np.linalg.cholesky(S * (1.0 + max(share, TINY) * np.eye(self.T))))

    def capped(self, phi: FloatArray, factor: float) -> Iterator[tuple[str, FloatArray]]:
        """Singular covariances, in words, and ``phi`` a factor away from there."""
        L = self.roots(phi)
        L = L / np.linalg.norm(L, axis=2, keepdims=True)
        lowest = np.linalg.eigvalsh(L @ L.transpose(0, 2, 1))[:, 0]
        away = self._away(phi, (factor - 1.0) * LEFT)
        for s in np.flatnonzero(lowest < (CAPPED - 1.0) * LEFT).tolist():
            within = f" in the stratum {self.rows.strata[s]}" if self.rows.strata else ""
            out = phi.copy()
            out.reshape(self.n_strata, self.own)[s] = away[s][self.r, self.c]
            yield f"the covariance of the visits{within} becomes singular", out

    def towards(self, phi: FloatArray, factor: float) -> Iterator[tuple[str, FloatArray]]:
        """None: no parameter has its limit at infinity."""
        yield from ()

    def strength(self, phi: FloatArray) -> float:
        """Zero: correlations of any size are as good as others."""
        return 0.0

    def drawn(self, phi: FloatArray, rng: np.random.Generator) -> FloatArray:
        """A random place to start from."""
        turn = np.tril(0.5 * rng.normal(size=(self.n_strata, self.T, self.T))) + np.eye(self.T)
        return np.asarray((self.roots(phi) @ turn)[:, self.r, self.c].ravel())

    def initial_from(self, residual: FloatArray) -> None:
        """Start from pairwise moments of least-squares residuals, eigenvalues floored."""
        rows, out = self.rows, []
        o = rows.order
        for s in range(self.n_strata):
            kept = o[rows.stratum[o] == s]
            groups, g = np.unique(rows.group[kept], return_inverse=True)
            wide, seen = np.zeros((len(groups), self.T)), np.zeros((len(groups), self.T))
            wide[g, rows.visits[kept]] = residual[kept]
            seen[g, rows.visits[kept]] = np.sqrt(rows.counts[kept])
            S = wide.T @ wide / np.maximum(seen.T @ seen, 1.0)
            values, vectors = np.linalg.eigh(S)
            S = (vectors * np.maximum(values, 0.05 * values[-1])) @ vectors.T
            out.append(np.linalg.cholesky(S)[self.r, self.c])
        self.initial = np.concatenate(out)

    def blocks(self, phi: FloatArray, at: Geometry) -> tuple[FloatArray, VisitSlopes]:
        """R (P, m, m) and its derivatives in phi (n, P, m, m)."""
        weights = self._weights(at)
        s, a, b = at.stratum[:, None, None], at.visits[:, :, None], at.visits[:, None, :]
        R1 = VisitSlopes(self.roots(phi), self.apart, (self.r, self.c), at, weights)
        return self.covariances(phi)[s, a, b] * weights, R1

    def gradient(
        self, R1: VisitSlopes, at: Geometry, Gamma: FloatArray, left: FloatArray
    ) -> FloatArray:  # fmt: skip
        """``<Gamma, R_j>`` summed over the blocks, (n,)."""
        return np.asarray((2.0 * self._by_visit(at, Gamma) @ R1.L)[:, self.r, self.c].ravel())

    def moved(self, R1: VisitSlopes, pattern: IntArray, x: FloatArray) -> FloatArray:
        """``R_j x`` of the rows of every group x (G, m), for all j, (G, m, n).

        With x spread over all visits, ``(e_r L_c' + L_c e_r') x``, and for the diagonal that is
        greater by a share once more ``2 L_rc x_r`` in visit r.
        """
        at, L = R1.at, R1.L
        size = np.exp(-at.half_log_w)[pattern]
        visits, stratum = at.visits[pattern], at.stratum[pattern]
        each = np.arange(len(x))[:, None]
        wide = np.zeros((len(x), self.T))
        wide[each, visits] = size * x
        out = np.zeros((*x.shape, self.n))
        for s in range(self.n_strata):
            own = stratum == s
            w, lam, columns = wide[own], L[s], np.arange(self.own)
            all_visits = w[:, None, self.r] * lam[:, self.c]
            at_r = (w @ lam)[:, self.c] + 2.0 * LEFT * lam[self.r, self.c] * w[:, self.r]
            all_visits[:, self.r, columns] += at_r
            found = np.take_along_axis(all_visits, visits[own][:, :, None], axis=1)
            out[own, :, s * self.own : (s + 1) * self.own] = found
        return out * size[:, :, None]

    def _by_visit(self, at: Geometry, Gamma: FloatArray) -> FloatArray:
        """Sums of Gamma over the blocks, the derivative in ``lambda lambda'``, (strata, T, T)."""
        place = (at.stratum[:, None, None] * self.T + at.visits[:, :, None]) * self.T
        place = place + at.visits[:, None, :]
        sums = np.bincount(
            place.ravel(), (Gamma * self._weights(at)).ravel(), self.n_strata * self.T**2
        )
        return sums.reshape(-1, self.T, self.T) * self.apart

    def spread(self, at: Geometry, blocks: FloatArray) -> FloatArray:
        """Blocks (P, m, m), weighted, at their visits, (P, T, T)."""
        out = np.zeros((len(blocks), self.T, self.T))
        each = np.arange(len(blocks))[:, None, None]
        out[each, at.visits[:, :, None], at.visits[:, None, :]] = blocks * self._weights(at)
        return out

    def visit_slopes(self, phi: FloatArray) -> FloatArray:
        """Derivatives of every stratum's covariances in its own parameters, (strata, own, T, T)."""
        L, each = self.roots(phi), np.arange(self.own)
        out = np.zeros((self.n_strata, self.own, self.T, self.T))
        out[:, each, self.r] += L[:, :, self.c].transpose(0, 2, 1)
        out += out.transpose(0, 1, 3, 2)
        return np.asarray(out * self.apart)

    @staticmethod
    def _weights(at: Geometry) -> FloatArray:
        s = np.exp(-at.half_log_w)
        return s[:, :, None] * s[:, None, :]

    def curvature(self, phi: FloatArray, at: Geometry, Gamma: FloatArray) -> FloatArray:
        """``<Gamma, R_jk>`` summed over the blocks, (n, n)."""
        G = self._by_visit(at, Gamma)
        same = self.c[:, None] == self.c[None, :]
        return block_diagonal([np.where(same, 2.0 * g[np.ix_(self.r, self.r)], 0.0) for g in G])

    def metric(self, phi: FloatArray) -> FloatArray:
        """Steps ``lambda X`` with X of one entry, (n, n) by columns.

        Lambda is that of correlations a little apart, so that a singular one can be left.
        """
        blocks = []
        for L in self._away(phi, SHARE):
            B = np.zeros((self.own, self.own))
            for j, (r, c) in enumerate(zip(self.r, self.c, strict=True)):
                step = np.zeros_like(L)
                step[:, c] = L[:, r]
                B[:, j] = step[self.r, self.c]
            blocks.append(B)
        return block_diagonal(blocks)

    def distance(self, phi: FloatArray, other: FloatArray) -> float:
        """Of the covariances, relative to those at phi."""
        here, far = self.roots(phi), self.roots(other)
        turned = np.linalg.lstsq(block_diagonal(list(here)), block_diagonal(list(far)), rcond=None)[
            0
        ]
        return float(np.linalg.norm(turned @ turned.T - np.eye(len(turned))))

    def rectify(self, phi: FloatArray) -> FloatArray:
        """With non-negative diagonals of every root."""
        L = self.roots(phi)
        sign = np.where(np.einsum("sii->si", L) < 0, -1.0, 1.0)
        return np.asarray((L * sign[:, None, :])[:, self.r, self.c].ravel())

    @property
    def names(self) -> list[str]:
        """Of the covariances, by columns."""
        v = self.rows.visit_labels
        pairs = zip(self.r, self.c, strict=True)
        own = [f"var({v[r]})" if r == c else f"cov({v[c]},{v[r]})" for r, c in pairs]
        if self.n_strata == 1:
            return own
        return [f"{name}[{s}]" for s in self.rows.strata for name in own]

    def natural(self, phi: FloatArray, scale: float) -> FloatArray:
        """Variances and covariances, (n,)."""
        return np.asarray(self.covariances(phi)[:, self.r, self.c].ravel())

    def natural_slopes(self, phi: FloatArray) -> FloatArray:
        """Derivatives of `natural` in phi, (n, n)."""
        blocks = []
        for L in self.roots(phi):
            J = np.zeros((self.own, self.own))
            for j, (r, c) in enumerate(zip(self.r, self.c, strict=True)):
                E = np.zeros_like(L)
                E[r] += L[:, c]
                E[:, r] += L[:, c]
                J[:, j] = (E * self.apart)[self.r, self.c]
            blocks.append(J)
        return block_diagonal(blocks)
