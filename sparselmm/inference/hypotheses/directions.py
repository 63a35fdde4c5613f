"""Directions of the variances of random effects, and traces of products with blocks of Z'V^-1Z.

A direction moves ``Psi_t`` by a symmetric E: a single entry, with one or two ones, where ``Psi_t``
is free, or the derivative in one of its parameters where it has a pattern. For two directions

    tr(T E_j T E_i) = sum_ab tr(E_i T_ab E_j T_ab')

over the levels a, b of their terms. Of single entries all sums of products of two entries of
``T_ab`` are kept, ``(k_s k_t)^2`` numbers; a pattern has few parameters, and each keeps the k x k
matrix ``sum_ab T_ab' E_i T_ab``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from sparselmm.base.types import CSR, FloatArray, IntArray
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.deviance import ProfiledDeviance

WIDTH = 1_000_000
"""Numbers in a batch of right-hand sides (8 MB)."""


@dataclass(frozen=True, eq=False)
class Directions:
    """The directions of one term.

    Attributes
    ----------
    rows, cols : ndarray of int, (m,)
        Places of single entries; empty where there are matrices.
    matrices : ndarray, (m, k, k) or None
        Derivatives of ``Psi_t`` in the parameters of a pattern.
    """

    rows: IntArray
    cols: IntArray
    matrices: FloatArray | None = None

    @property
    def m(self) -> int:
        """Number of directions."""
        return len(self.rows) if self.matrices is None else len(self.matrices)

    @property
    def weights(self) -> FloatArray:
        """One for an entry on the diagonal, two off it, (m,)."""
        return np.where(self.rows == self.cols, 1.0, 2.0)

    def traces(self, blocks: FloatArray) -> FloatArray:
        """``tr(block E_i)`` of symmetric blocks (..., k, k), (..., m)."""
        if self.matrices is None:
            return np.asarray(blocks[..., self.rows, self.cols] * self.weights)
        return np.asarray(np.tensordot(blocks, self.matrices, ((-2, -1), (1, 2))))

    def images(self, x: FloatArray) -> tuple[FloatArray, IntArray, IntArray]:
        """``E_i x_l`` of the k rows of every level, x (l, k, r): values, rows, columns.

        Rows number the ``l k`` rows of x, column ``i r + a`` belongs to direction i.
        """
        l, k, r = x.shape
        if self.matrices is not None:
            wide = np.einsum("iuv,lva->luia", self.matrices, x, optimize=True)
            at, column = np.nonzero(wide.reshape(l * k, -1))
            return wide.reshape(l * k, -1)[at, column], at, column
        other = np.flatnonzero(self.rows != self.cols)
        to = np.concatenate([self.rows, self.cols[other]])
        of = np.concatenate([self.cols, self.rows[other]])
        which = np.concatenate([np.arange(self.m), other])
        at = np.arange(l)[:, None, None] * k + to[:, None]
        column = which[:, None] * r + np.arange(r)
        shape = (l, len(to), r)
        return (
            x[:, of].ravel(),
            np.broadcast_to(at, shape).ravel(),
            np.broadcast_to(column, shape).ravel(),
        )


def directions(covariance: Covariance, theta: FloatArray) -> list[Directions]:
    """The directions of every term at theta."""
    out = []
    for term, part in zip(covariance.terms, covariance.slices, strict=True):
        slopes = term.slopes(theta[part])
        if slopes is None:
            at = np.diag_indices(term.k) if term.is_diagonal else np.tril_indices(term.k)
            out.append(Directions(at[0], at[1]))
            continue
        moved = slopes @ term.factor(theta[part]).T
        none = np.zeros(0, dtype=np.intp)
        out.append(Directions(none, none, moved + moved.transpose(0, 2, 1)))
    return out


def images(cross: CrossProducts, which: list[Directions], x: FloatArray) -> CSR:
    """``(I (x) E_i) x`` for every direction of every term, (q, m r), column ``i r + a``."""
    r, first = x.shape[1], 0
    parts: list[tuple[FloatArray, IntArray, IntArray]] = []
    for own, part, (k, l) in zip(which, cross.slices, cross.sizes, strict=True):
        values, at, column = own.images(x[part].reshape(l, k, r))
        parts.append((values, at + part.start, column + first))
        first += own.m * r
    shape = (cross.q, first)
    if not parts:
        return sp.csr_array(shape)
    data, rows, cols = (np.concatenate(each) for each in zip(*parts, strict=True))
    return sp.csr_array((data, (rows, cols)), shape=shape)


def weighted(deviance: ProfiledDeviance, theta: FloatArray, x: FloatArray) -> FloatArray:
    """``T x = A x - A Lambda M^-1 Lambda'A x``, (q, m)."""
    if not x.shape[1]:
        return x
    Ax = deviance.cross.A @ x
    return np.asarray(Ax - deviance.cross.A @ deviance.conditional_columns(theta, Ax))


def products(
    deviance: ProfiledDeviance, theta: FloatArray, left: CSR, right: CSR
) -> FloatArray:  # fmt: skip
    """``left'T right`` of sparse columns, some at a time, (m, n)."""
    out = np.empty((left.shape[1], right.shape[1]))
    to, columns = sp.csr_array(left.T), sp.csc_array(right)
    step = max(1, WIDTH // max(1, right.shape[0]))
    for start in range(0, right.shape[1], step):
        some = slice(start, min(start + step, right.shape[1]))
        out[:, some] = to @ weighted(deviance, theta, columns[:, some].toarray())
    return out


# ----------------------------------------------------------------------- blocks of Z'V^-1Z


def traces(
    deviance: ProfiledDeviance, theta: FloatArray, which: list[Directions]
) -> tuple[list[FloatArray], FloatArray]:
    """Sums over the blocks of T.

    Returns
    -------
    traces : list of ndarray, (k, k)
        ``sum_a T_aa`` over the levels of each term.
    K : ndarray, (m, m)
        ``tr(T E_j T E_i)`` of all directions.
    """
    cross = deviance.cross
    ranks = _ranks(cross)
    sums = [np.zeros((k, k)) for k, _ in cross.sizes]
    pairs = {
        (s, t): _PairSum.of(which[s], which[t], cross.sizes[s][0], cross.sizes[t][0])
        for s in range(len(which))
        for t in range(s + 1)
    }
    for t, (k, l) in enumerate(cross.sizes):
        for part, columns in _batches(deviance, theta, t, ranks[t]):
            own = columns[cross.slices[t]].reshape(l, k, len(part), k)
            mine = np.flatnonzero((ranks[t] >= part.start) & (ranks[t] < part.stop))
            sums[t] += own[mine, :, ranks[t][mine] - part.start].sum(axis=0)
            for s in range(t, len(cross.sizes)):
                ks, ls = cross.sizes[s]
                block = columns[cross.slices[s]].reshape(ls, ks, len(part), k)
                pairs[s, t].add(block.transpose(1, 0, 2, 3).reshape(ks, -1, k))
    return sums, _assembled(which, pairs)


@dataclass(frozen=True, eq=False)
class _PairSum:
    """``tr(E_i T_ab E_j T_ab')`` of two terms, summed over the blocks ``T_ab`` that were added.

    Attributes
    ----------
    total : ndarray
        Of single entries (k_s, k_t, k_s, k_t): ``sum T_ab[v, x] T_ab[u, y]``; else one matrix for
        each direction of the side with a pattern.
    by_left : bool or None
        Which side that is; None for single entries.
    """

    left: Directions
    right: Directions
    total: FloatArray
    by_left: bool | None

    @classmethod
    def of(cls, left: Directions, right: Directions, ks: int, kt: int) -> _PairSum:
        if left.matrices is None and right.matrices is None:
            return cls(left, right, np.zeros((ks * kt, ks * kt)), None)
        by_left = right.matrices is None or (left.matrices is not None and left.m <= right.m)
        shape = (left.m, kt, kt) if by_left else (right.m, ks, ks)
        return cls(left, right, np.zeros(shape), by_left)

    def add(self, blocks: FloatArray) -> None:
        """Blocks side by side, (k_s, n, k_t)."""
        ks, _, kt = blocks.shape
        if self.by_left is None:
            flat = blocks.transpose(0, 2, 1).reshape(ks * kt, -1)
            self.total[...] += flat @ flat.T
            return
        wide = blocks if self.by_left else blocks.transpose(2, 1, 0)
        side = self.left if self.by_left else self.right
        k = wide.shape[2]
        assert side.matrices is not None
        flat = np.ascontiguousarray(wide).reshape(-1, k)
        for total, E in zip(self.total, side.matrices, strict=True):
            turned = (E @ wide.reshape(len(E), -1)).reshape(-1, k)
            total += flat.T @ turned

    def result(self) -> FloatArray:
        """``sum_ab tr(E_i T_ab E_j T_ab')``, (m_s, m_t)."""
        if self.by_left is True:
            return self.right.traces(self.total)
        if self.by_left is False:
            return self.left.traces(self.total).T
        (u, v), (x, y) = ((own.rows[:, None], own.cols[:, None]) for own in (self.left, self.right))
        ks, kt = int(u.max()) + 1, int(x.max()) + 1
        N = self.total.reshape(ks, kt, ks, kt)
        both = N[u, x.T, v, y.T] + N[u, y.T, v, x.T]
        return np.asarray(0.5 * np.outer(self.left.weights, self.right.weights) * both)


def _assembled(which: list[Directions], pairs: dict[tuple[int, int], _PairSum]) -> FloatArray:
    """Both triangles of K."""
    ends = np.cumsum([0, *[own.m for own in which]])
    K = np.empty((int(ends[-1]),) * 2)
    for (s, t), pair in pairs.items():
        block = pair.result()
        K[ends[s] : ends[s + 1], ends[t] : ends[t + 1]] = block
        K[ends[t] : ends[t + 1], ends[s] : ends[s + 1]] = block.T
    return K


def _ranks(cross: CrossProducts) -> list[IntArray]:
    """Number of every level among its term's levels in the same connected component."""
    counts = [l for _, l in cross.sizes]
    if not counts:
        return []
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = [pair.rows + starts[s] for (s, _), pair in cross.pairs.items()]
    cols = [pair.cols + starts[t] for (_, t), pair in cross.pairs.items()]
    edges = (np.concatenate(rows), np.concatenate(cols))
    n = int(starts[-1])
    graph = sp.csr_array((np.ones(len(edges[0]), np.int8), edges), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    out: list[IntArray] = []
    for t, l in enumerate(counts):
        own = component[starts[t] : starts[t] + l]
        order = np.argsort(own, kind="stable")
        first = np.searchsorted(own[order], own[order])
        rank = np.empty(l, dtype=np.int64)
        rank[order] = np.arange(l) - first
        out.append(rank)
    return out


def _batches(
    deviance: ProfiledDeviance, theta: FloatArray, s: int, rank: IntArray
) -> Iterator[tuple[range, FloatArray]]:
    """Columns of T that belong to the levels of term s, some ranks at a time, (q, ranks, k)."""
    cross = deviance.cross
    k = cross.sizes[s][0]
    top = int(rank.max(initial=-1)) + 1
    step = max(1, WIDTH // max(1, cross.q * k))
    start = cross.slices[s].start
    for first in range(0, top, step):
        ranks = range(first, min(first + step, top))
        levels = np.flatnonzero((rank >= ranks.start) & (rank < ranks.stop))
        unit = np.zeros((cross.q, len(ranks), k))
        for c in range(k):
            unit[start + levels * k + c, rank[levels] - first, c] = 1.0
        yield ranks, weighted(deviance, theta, unit.reshape(cross.q, -1)).reshape(unit.shape)
