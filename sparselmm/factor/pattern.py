"""Where ``A = Z'WZ`` has blocks: what stays as it is while weights, rows or responses change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sparselmm.base.smallmatrix import one_after_the_other
from sparselmm.base.types import FloatArray, IntArray, Snapshot

Pair = tuple[int, int]

Values = Mapping[Pair, FloatArray]
"""The blocks of every pair (s, t) of terms with s >= t, each (nb, k_s, k_t) in the order of its
pattern. Once given away a mapping and its arrays do not change: other numbers are another one."""


@dataclass(frozen=True, eq=False)
class PairPattern(Snapshot):
    """Which levels of two terms meet, column by column of levels of t, rows ascending.

    Attributes
    ----------
    indptr : ndarray of int, (l_t + 1,)
        Blocks of level ``j`` of term t are ``indptr[j]:indptr[j + 1]``.
    rows : ndarray of int, (nb,)
        Level of term s of each block.
    n_rows : int
        Levels of s, l_s.
    """

    indptr: IntArray
    rows: IntArray
    n_rows: int

    @cached_property
    def cols(self) -> IntArray:
        """Level of term t of each block, (nb,)."""
        return np.arange(len(self.indptr) - 1).repeat(self.indptr[1:] - self.indptr[:-1])

    @cached_property
    def transpose_order(self) -> IntArray:
        """Order of the blocks that is column by column of the transposed pair."""
        return np.lexsort((self.cols, self.rows))

    def transposed(self) -> PairPattern:
        """The pattern of the pair (t, s)."""
        counts = np.bincount(self.rows, minlength=self.n_rows)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        return PairPattern(indptr, self.cols[self.transpose_order], len(self.indptr) - 1)

    def turned(self, data: FloatArray) -> FloatArray:
        """The numbers of the pair (s, t) as those of (t, s), (nb, k_t, k_s)."""
        return data[self.transpose_order].transpose(0, 2, 1)

    def coordinates(
        self, starts: tuple[int, int], orders: tuple[int, int]
    ) -> tuple[IntArray, IntArray]:
        """Scalar rows and columns in M of every number, each (nb, k_s, k_t).

        Parameters
        ----------
        starts : tuple of int
            First row of term s and first column of term t in M.
        orders : tuple of int
            k_s and k_t.
        """
        (ks, kt), shape = orders, (len(self.rows), *orders)
        rows = starts[0] + self.rows[:, None, None].astype(np.int64) * ks + np.arange(ks)[:, None]
        cols = starts[1] + self.cols[:, None, None].astype(np.int64) * kt + np.arange(kt)
        return np.broadcast_to(rows, shape), np.broadcast_to(cols, shape)

    @cached_property
    def is_block_diagonal(self) -> bool:
        """Whether every level meets only itself (only meaningful for s = t)."""
        same = len(self.rows) == self.n_rows
        return same and bool((self.rows == np.arange(self.n_rows)).all())


@dataclass(frozen=True, eq=False)
class Pattern(Snapshot):
    """Where A has blocks.

    Attributes
    ----------
    sizes : tuple of (k, l)
        Coefficients per level and levels of each term.
    pairs : dict
        ``pairs[s, t]`` is the pattern of ``Z_s'WZ_t`` for every ``s >= t``.
    """

    sizes: tuple[tuple[int, int], ...]
    pairs: Mapping[Pair, PairPattern]

    @cached_property
    def q(self) -> int:
        """Columns of Z."""
        return sum(k * l for k, l in self.sizes)

    @cached_property
    def slices(self) -> list[slice]:
        """Columns of Z that belong to each term."""
        return one_after_the_other(k * l for k, l in self.sizes)

    def pair(self, s: int, t: int) -> PairPattern:
        """The pattern of ``Z_s'WZ_t`` for any order of s and t."""
        return self.pairs[s, t] if s >= t else self.pairs[t, s].transposed()

    def oriented(self, values: Values, s: int, t: int) -> FloatArray:
        """The numbers of ``Z_s'WZ_t`` in the order of `pair`, (nb, k_s, k_t)."""
        return values[s, t] if s >= t else self.pairs[t, s].turned(values[t, s])

    def orders(self, s: int, t: int) -> tuple[int, int]:
        """k_s and k_t."""
        return self.sizes[s][0], self.sizes[t][0]
