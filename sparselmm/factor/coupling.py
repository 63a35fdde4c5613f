"""How a leading grouping factor meets the other columns of M: what is eliminated with it.

``Y_l = R_l M_lN`` (k rows) couples level ``l`` with the trailing columns N it meets; all of them
stand side by side in ``Y`` (k, entries), level by level. Most designs couple few of all pairs, and
compiled loops follow the lists of those that are. Where most pairs meet, as when every subject
answers every item, the others are filled up with zeros and BLAS multiplies whole matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from scipy.linalg import blas

from sparselmm.base import kernels
from sparselmm.base.threads import equal_parts, in_parts
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.factor.pattern import PairPattern

Sizes = tuple[tuple[int, int], ...]
"""Coefficients per level and levels of each term."""

FULL_FROM = 0.25
"""Share of levels and trailing columns that meet from which the coupling is stored in full."""


@dataclass(frozen=True, eq=False)
class Coupling:
    """Which trailing columns each leading level meets, seen from both sides.

    Attributes
    ----------
    indptr, cols : ndarray of int
        Trailing columns of level ``l``, ascending: ``cols[indptr[l]:indptr[l + 1]]``.
    colptr, level, entry : ndarray of int
        The same entries by trailing column: positions in ``cols`` and their levels.
    places : dict
        For each trailing term, positions in ``cols`` of its blocks' first coefficient, (nb,).
    """

    indptr: IntArray
    cols: IntArray
    colptr: IntArray
    level: IntArray
    entry: IntArray
    places: Mapping[int, IntArray]

    @staticmethod
    def of(
        pairs: dict[int, PairPattern], sizes: Sizes, starts: dict[int, int], n_trailing: int
    ) -> Coupling:
        """Merge the couplings of all trailing terms; ``pairs[s]`` is that of ``Z_s'WZ_leading``."""
        n_levels = len(next(iter(pairs.values())).indptr) - 1
        n_entries = sum(len(p.rows) * sizes[s][0] for s, p in pairs.items())
        if is_full(n_entries, n_levels, n_trailing):
            return FullCoupling.between(pairs, sizes, starts, n_levels, n_trailing)
        level = np.concatenate([np.repeat(p.cols, sizes[s][0]) for s, p in pairs.items()])
        cols = np.concatenate(
            [
                (starts[s] + p.rows[:, None] * sizes[s][0] + np.arange(sizes[s][0])).ravel()
                for s, p in pairs.items()
            ]
        )
        order = np.lexsort((cols, level)) if len(pairs) > 1 else np.arange(len(cols))
        place = np.empty(len(cols), dtype=np.int64)
        place[order] = np.arange(len(cols))
        places, at = {}, 0
        for s, p in pairs.items():
            nb, ks = len(p.rows), sizes[s][0]
            places[s] = place[at : at + nb * ks : ks]
            at += nb * ks
        level, cols = level[order], cols[order]
        by_column = np.argsort(cols, kind="stable")
        return Coupling(
            indptr=_pointers(level, n_levels),
            cols=cols,
            colptr=_pointers(cols, n_trailing),
            level=level[by_column],
            entry=by_column,
            places=places,
        )

    @property
    def lists(self) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
        """``colptr, level, entry, indptr, cols``."""
        return self.colptr, self.level, self.entry, self.indptr, self.cols

    @cached_property
    def _later(self) -> IntArray:
        """For every entry by trailing column, how many entries of its level are not before it."""
        return self.indptr[self.level + 1] - self.entry

    @cached_property
    def column_parts(self) -> IntArray:
        """Bounds of trailing columns with equal work for each thread."""
        total = np.append(0, np.cumsum(self._later, dtype=float))
        return equal_parts(np.diff(total[self.colptr]))

    @cached_property
    def level_parts(self) -> IntArray:
        """Bounds of leading levels with equal work for each thread."""
        return equal_parts(np.diff(self.indptr).astype(float) ** 2 / 2.0)

    def scale(self, R: FloatArray, Y: FloatArray) -> None:
        """Multiply the entries of every level by ``R_l``, in place."""
        kernels.scale_couplings(R, self.indptr, Y)

    def subtract_gram(self, Y: FloatArray, S: FloatArray) -> None:
        """Subtract ``Y'Y`` from the upper triangle of S (r, r)."""
        in_parts(partial(kernels.schur_dense, *self.lists, Y, S), self.column_parts)

    def times_symmetric(self, Y: FloatArray, G: FloatArray) -> FloatArray:
        """``Y G`` on the pattern of Y; G (r, r) by its upper triangle."""
        out = np.zeros(Y.shape)
        loop = partial(kernels.couple_inverse_dense, *self.lists, Y, G, out)
        in_parts(loop, self.level_parts)
        return out

    def subtract_leading(self, Y: FloatArray, f: FloatArray, rest: FloatArray) -> None:
        """Subtract ``sum_l Y_l'f_l``, f (l, k, m), from ``rest`` (r, m) in place."""
        by_column = self.colptr, self.level, self.entry
        in_parts(partial(kernels.subtract_leading, *by_column, Y, f, rest), self.column_parts)

    def subtract_trailing(self, Y: FloatArray, rest: FloatArray, f: FloatArray) -> None:
        """Subtract ``Y_l rest`` from every ``f_l`` in place."""
        loop = partial(kernels.subtract_trailing, self.indptr, self.cols, Y, rest, f)
        in_parts(loop, self.level_parts)

    def products(self, Y: FloatArray, P: FloatArray) -> FloatArray:
        """``Y_l P_l'`` of every level, (l, k, k)."""
        return kernels.leading_products(self.indptr, Y, P)


class FullCoupling(Coupling):
    """Every level with every trailing column, zeros where they do not meet."""

    @staticmethod
    def between(
        pairs: dict[int, PairPattern], sizes: Sizes, starts: dict[int, int], n_levels: int,
        n_trailing: int,
    ) -> FullCoupling:  # fmt: skip
        """The coupling of all trailing terms with all levels."""
        levels, columns = np.arange(n_levels), np.arange(n_trailing)
        return FullCoupling(
            indptr=np.arange(n_levels + 1) * n_trailing,
            cols=np.tile(columns, n_levels),
            colptr=np.arange(n_trailing + 1) * n_levels,
            level=np.tile(levels, n_trailing),
            entry=(columns[:, None] + levels * n_trailing).ravel(),
            places={
                s: p.cols.astype(np.int64) * n_trailing + starts[s] + p.rows * sizes[s][0]
                for s, p in pairs.items()
            },
        )

    def _matrix(self, Y: FloatArray) -> FloatArray:
        """Rows of coefficients and levels, trailing columns; (k l, r)."""
        return Y.reshape(-1, len(self.colptr) - 1)

    def _by_level(self, Y: FloatArray) -> FloatArray:
        """The entries of each level, (l, k, r)."""
        return Y.reshape(len(Y), len(self.indptr) - 1, -1).transpose(1, 0, 2)

    def scale(self, R: FloatArray, Y: FloatArray) -> None:
        """Multiply the entries of every level by ``R_l``, in place."""
        blocks = self._by_level(Y)
        blocks[...] = R @ blocks

    def subtract_gram(self, Y: FloatArray, S: FloatArray) -> None:
        """Subtract ``Y'Y`` from the upper triangle of S (r, r)."""
        blas.dsyrk(-1.0, self._matrix(Y).T, 1.0, S.T, lower=1, overwrite_c=1)

    def times_symmetric(self, Y: FloatArray, G: FloatArray) -> FloatArray:
        """``Y G`` on the pattern of Y; G (r, r) by its upper triangle."""
        out = blas.dsymm(1.0, G.T, self._matrix(Y).T, lower=1)
        return np.asarray(out.T).reshape(Y.shape)

    def subtract_leading(self, Y: FloatArray, f: FloatArray, rest: FloatArray) -> None:
        """Subtract ``sum_l Y_l'f_l``, f (l, k, m), from ``rest`` (r, m) in place."""
        matrix = self._matrix(Y)
        rest -= matrix.T @ f.transpose(1, 0, 2).reshape(len(matrix), -1)

    def subtract_trailing(self, Y: FloatArray, rest: FloatArray, f: FloatArray) -> None:
        """Subtract ``Y_l rest`` from every ``f_l`` in place."""
        l, k, m = f.shape
        f -= (self._matrix(Y) @ rest).reshape(k, l, m).transpose(1, 0, 2)

    def products(self, Y: FloatArray, P: FloatArray) -> FloatArray:
        """``Y_l P_l'`` of every level, (l, k, k)."""
        return self._by_level(Y) @ self._by_level(P).transpose(0, 2, 1)


def is_full(n_entries: int, n_levels: int, n_trailing: int) -> bool:
    """Whether so many entries are stored with the zeros between them."""
    return n_entries >= FULL_FROM * max(n_levels * n_trailing, 1)


def _pointers(index: IntArray, n: int) -> IntArray:
    return np.concatenate([[0], np.cumsum(np.bincount(index, minlength=n))])
