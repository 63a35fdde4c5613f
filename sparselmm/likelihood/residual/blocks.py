"""R and its inverse block by block: groups with the same pattern share one matrix.

A *cell* is a number of R^-1 that stands in as many places as there are groups of its pattern. The
derivative of the deviance in R needs only sums over the groups of a pattern,

    Gamma = N R^-1 - R^-1 Theta R^-1,   df/dphi_j = <Gamma, R_j>,

with Theta the derivative in R^-1 of all but log det R.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.residual import ResidualRows
from sparselmm.likelihood.residual.geometry import Geometry
from sparselmm.likelihood.residual.structure import Slopes, Structure


@dataclass(frozen=True, eq=False)
class Batch:
    """Groups of m rows.

    Attributes
    ----------
    index : ndarray of int, (G, m)
        Rows of every group.
    pattern : ndarray of int, (G,)
        Which of the P patterns each has, ascending.
    geometry : Geometry
        Of the P patterns.
    counts : ndarray, (P,)
        Groups of each, those that others stand for included.
    first_cell : int
    """

    index: IntArray
    pattern: IntArray
    geometry: Geometry
    counts: FloatArray
    first_cell: int

    @property
    def m(self) -> int:
        """Rows of a group."""
        return int(self.index.shape[1])

    @property
    def n_cells(self) -> int:
        """Different entries of the inverses."""
        return len(self.counts) * self.m * (self.m + 1) // 2

    def products(self, stack: FloatArray, x: FloatArray) -> FloatArray:
        """The matrix of its pattern times the rows of every group, (G, m, c)."""
        if len(self.counts) == 1:
            return np.asarray(stack[0] @ x[self.index])
        return np.asarray(stack[self.pattern] @ x[self.index])

    def gram(self, F: FloatArray) -> FloatArray:
        """Sums of ``F_g F_g'`` over the groups of a pattern, (P, m, m)."""
        own = F[self.index]
        if len(self.counts) == 1:
            wide = own.transpose(1, 0, 2).reshape(self.m, -1)
            return np.asarray((wide @ wide.T)[None])
        each = own @ own.transpose(0, 2, 1)
        starts = np.searchsorted(self.pattern, np.arange(len(self.counts)))
        return np.asarray(np.add.reduceat(each, starts, axis=0))


@dataclass(frozen=True, eq=False)
class BlockState:
    """R at one phi: of every batch R, its derivatives and its inverse."""

    phi: FloatArray
    R: list[FloatArray]
    R1: list[Slopes]
    Q: list[FloatArray]
    logdet: float


class Blocks:
    """R(phi) as dense matrices of patterns.

    Parameters
    ----------
    weights : ndarray, (n,), or None
    """

    def __init__(self, rows: ResidualRows, structure: Structure, weights: FloatArray | None):
        self.structure = structure
        half = np.zeros(len(rows.group)) if weights is None else 0.5 * np.log(weights)
        order = rows.order
        sizes = np.bincount(rows.group[order])
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        self.batches: list[Batch] = []
        cells = 0
        for m in np.unique(sizes[sizes > 0]):
            groups = np.flatnonzero(sizes == m)
            index = order[bounds[groups][:, None] + np.arange(m)]
            batch = _batch(rows, half, index, cells)
            self.batches.append(batch)
            cells += batch.n_cells
        self.n_cells = cells

    def at(self, phi: FloatArray) -> BlockState:
        """R and its inverse at phi."""
        R, R1, Q, logdet = [], [], [], 0.0
        for batch in self.batches:
            own, slopes = self.structure.blocks(phi, batch.geometry)
            try:
                L = np.linalg.cholesky(own)
            except np.linalg.LinAlgError as error:
                raise NotPositiveDefiniteError("R is not positive definite") from error
            back = np.linalg.inv(L)
            R.append(own)
            R1.append(slopes)
            Q.append(back.transpose(0, 2, 1) @ back)
            logdet += float(2.0 * batch.counts @ np.log(np.einsum("pii->pi", L)).sum(axis=1))
        if not np.isfinite(logdet):
            raise NotPositiveDefiniteError("R is not positive definite")
        return BlockState(phi, R, R1, Q, logdet)

    def rounding(self, state: BlockState) -> float:
        """Rounding error of log det R and of sums of squares: epsilon times ``|R^-1| |R|``."""
        sums = [
            batch.counts @ np.abs(Q * R).sum(axis=(1, 2))
            for batch, Q, R in zip(self.batches, state.Q, state.R, strict=True)
        ]
        return float(np.finfo(float).eps * np.sum(sums))

    def cells(self, state: BlockState) -> FloatArray:
        """Entries of the inverses, (n_cells,)."""
        return self._triangles(state.Q)

    def cell_slopes(self, state: BlockState, j: int) -> FloatArray:
        """The same of the derivatives of R itself, (n_cells,)."""
        return self._triangles([R1[j] for R1 in state.R1])

    def covariances(self, state: BlockState) -> FloatArray:
        """The same of R, (n_cells,)."""
        return self._triangles(state.R)

    def _triangles(self, stacks: list[FloatArray]) -> FloatArray:
        parts = []
        for batch, stack in zip(self.batches, stacks, strict=True):
            rows, cols = np.tril_indices(batch.m)
            parts.append(stack[:, rows, cols].ravel())
        return np.concatenate(parts) if parts else np.zeros(0)

    def pairs(self) -> tuple[IntArray, IntArray, IntArray]:
        """Every ordered pair of rows of a group and its cell, each (n_pairs,)."""
        left, right, cell = [], [], []
        for batch in self.batches:
            m = batch.m
            at = np.zeros((m, m), dtype=np.int64)
            rows, cols = np.tril_indices(m)
            at[rows, cols] = at[cols, rows] = np.arange(len(rows))
            shape = (len(batch.index), m, m)
            left.append(np.broadcast_to(batch.index[:, :, None], shape).ravel())
            right.append(np.broadcast_to(batch.index[:, None, :], shape).ravel())
            first = batch.first_cell + batch.pattern * len(rows)
            cell.append((first[:, None, None] + at).ravel())
        return np.concatenate(left), np.concatenate(right), np.concatenate(cell)

    def solve(self, state: BlockState, x: FloatArray) -> FloatArray:
        """``R^-1 x``, (n, c)."""
        out = np.empty_like(x)
        for batch, Q in zip(self.batches, state.Q, strict=True):
            out[batch.index] = batch.products(Q, x)
        return out

    def moved(self, state: BlockState, j: int, x: FloatArray) -> FloatArray:
        """``R_j x``, (n, c)."""
        out = np.empty_like(x)
        for batch, R1 in zip(self.batches, state.R1, strict=True):
            out[batch.index] = batch.products(R1[j], x)
        return out

    def model(
        self, state: BlockState, e: FloatArray, F: FloatArray, sums: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """What gradient and curvature need of R.

        Parameters
        ----------
        e : ndarray, (n,)
            Conditional residuals.
        F : ndarray, (n, c)
            Rows whose products within a pattern are Theta, but for what the random effects add.
        sums : ndarray, (n_cells,)
            What they add to the derivative in each cell.

        Returns
        -------
        gradient : ndarray, (J,)
        curvature : ndarray, (J, J)
            ``<Gamma, R_jk>``.
        Qw : ndarray, (n, J)
            ``R^-1 w_j`` with ``w_j = R_j R^-1 e``.
        gram, slope : ndarray, (J, J) and (J,)
            ``w_i'R^-1 w_j`` and ``w_j'R^-1 e``.
        """
        structure: Any = self.structure  # each takes the slopes that it made
        J = structure.n
        curvature, gram = np.zeros((J, J)), np.zeros((J, J))
        slope, Qw = np.zeros(J), np.zeros((len(e), J))
        Gammas, gradient = self._slopes(state, F, sums)
        for batch, R1, Q, Gamma in zip(self.batches, state.R1, state.Q, Gammas, strict=True):
            curvature += structure.curvature(state.phi, batch.geometry, Gamma)
            eps = batch.products(Q, e[:, None])
            w = structure.moved(R1, batch.pattern, eps[:, :, 0])
            own = (Q[batch.pattern] if len(Q) > 1 else Q[0]) @ w
            Qw[batch.index] = own
            gram += np.tensordot(w, own, axes=([0, 1], [0, 1]))
            slope += np.tensordot(w, eps[:, :, 0], axes=([0, 1], [0, 1]))
        return gradient, curvature, Qw, gram, slope

    def gradient(self, state: BlockState, F: FloatArray, sums: FloatArray) -> FloatArray:
        """The gradient of `model` alone."""
        return self._slopes(state, F, sums)[1]

    def _slopes(
        self, state: BlockState, F: FloatArray, sums: FloatArray
    ) -> tuple[list[FloatArray], FloatArray]:
        """Derivatives in the R of every pattern, (P, m, m) of each batch, and in phi."""
        structure: Any = self.structure  # each takes the slopes that it made
        Gammas, total = [], np.zeros(structure.n)
        for batch, R1, Q in zip(self.batches, state.R1, state.Q, strict=True):
            moved = Q @ (batch.gram(F) + self._matrices(batch, sums))
            Gammas.append(batch.counts[:, None, None] * Q - moved @ Q)
            left = batch.counts[:, None] - np.einsum("pii->pi", moved)
            total += structure.gradient(R1, batch.geometry, Gammas[-1], left)
        return Gammas, total

    @staticmethod
    def _matrices(batch: Batch, sums: FloatArray) -> FloatArray:
        """Sums over ordered pairs of each cell as symmetric matrices, (P, m, m)."""
        rows, cols = np.tril_indices(batch.m)
        own = sums[batch.first_cell : batch.first_cell + batch.n_cells]
        out = np.zeros((len(batch.counts), batch.m, batch.m))
        half = np.where(rows == cols, 1.0, 0.5) * own.reshape(len(batch.counts), -1)
        out[:, rows, cols] = half
        out[:, cols, rows] = half
        return out


def _batch(rows: ResidualRows, half: FloatArray, index: IntArray, first_cell: int) -> Batch:
    """Groups of one size, those of a pattern next to each other."""
    coords, visits = rows.coords[index], rows.visits[index]
    step = coords[:, :, None, :] - coords[:, None, :, :]
    distance = np.sqrt((step**2).sum(axis=3)) if coords.shape[2] > 1 else np.abs(step[..., 0])
    stratum = rows.stratum[index[:, 0]]
    D, own = rows.D[index], half[index]
    flat = [distance, visits, stratum[:, None], D, own]
    key = np.hstack([part.reshape(len(index), -1).astype(float) for part in flat])
    key = np.ascontiguousarray(key + 0.0)
    _, first, pattern = np.unique(
        key.view([("", key.dtype)] * key.shape[1]).ravel(), return_index=True, return_inverse=True
    )
    order = np.argsort(pattern, kind="stable")
    at = Geometry(distance[first], visits[first], stratum[first], D[first], own[first])
    counts = np.asarray(np.bincount(pattern, rows.counts[index[:, 0]]), dtype=float)
    return Batch(index[order], pattern[order], at, counts, first_cell)
