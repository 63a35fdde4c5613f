"""Which columns lead and which trail, and where the entries between them lie.

The leading term is eliminated in closed form, level by level, as in the block solver; conjugate
gradients need no lists by trailing column, and nothing here grows faster than A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sparselmm.base.types import IntArray
from sparselmm.factor.coupling import is_full
from sparselmm.factor.pattern import Pair, PairPattern, Pattern

SMALL = 64
"""Columns of a trailing term up to which its unit vectors are solved for, so that its traces are
exact."""


@dataclass(frozen=True, eq=False)
class Crossing:
    """The pattern of M as conjugate gradients see it.

    Attributes
    ----------
    leading : int
        Term eliminated in closed form.
    trailing : tuple of int
        The other terms.
    parts : dict
        Trailing columns of each trailing term.
    n_trailing : int
    inner : dict
        Patterns of A between trailing terms.
    outer : dict
        Patterns of each trailing term with the leading term, by leading level.
    full : bool
        Whether the coupling is stored with its zeros.
    indptr, cols : ndarray of int
        Entries of every leading level and their trailing columns; ``cols`` is empty when full.
    first : dict
        For each trailing term, the first entry of its blocks in every leading level, (l,).
    inner_rows, inner_cols, inner_order : ndarray of int
        The blocks between trailing terms as one sparse matrix by rows: where its rows begin, its
        columns, and the order of the blocks' numbers in it.
    """

    leading: int
    trailing: tuple[int, ...]
    parts: Mapping[int, slice]
    n_trailing: int
    inner: Mapping[Pair, PairPattern]
    outer: Mapping[int, PairPattern]
    full: bool
    indptr: IntArray
    cols: IntArray
    first: Mapping[int, IntArray]
    inner_rows: IntArray
    inner_cols: IntArray
    inner_order: IntArray

    @classmethod
    def of(cls, pattern: Pattern, leading: int) -> Crossing:
        """With the given leading term, which must be block diagonal."""
        trailing = tuple(t for t in range(len(pattern.sizes)) if t != leading)
        parts, r = {}, 0
        for t in trailing:
            k, l = pattern.sizes[t]
            parts[t] = slice(r, r + k * l)
            r += k * l
        inner = {(s, t): pattern.pairs[s, t] for s in trailing for t in trailing if s >= t}
        outer = {s: pattern.pair(s, leading) for s in trailing}
        where = _entries(outer, pattern, parts, r, pattern.sizes[leading][1])
        return cls(
            leading, trailing, parts, r, inner, outer, *where, *_by_rows(inner, pattern, parts, r)
        )

    def small(self, sizes: tuple[tuple[int, int], ...]) -> list[int]:
        """Trailing terms with few columns."""
        return [t for t in self.trailing if sizes[t][0] * sizes[t][1] <= SMALL]


def leading_term(pattern: Pattern) -> int | None:
    """The block-diagonal term with the most columns, whose elimination saves most."""
    found = [t for t in range(len(pattern.sizes)) if pattern.pairs[t, t].is_block_diagonal]
    return max(found, key=lambda t: pattern.sizes[t][0] * pattern.sizes[t][1], default=None)


def may_lead(pattern: Pattern) -> bool:
    """Whether there is one, and something is left behind it."""
    return len(pattern.sizes) > 1 and leading_term(pattern) is not None


def _entries(
    outer: Mapping[int, PairPattern], pattern: Pattern, parts: Mapping[int, slice], r: int,
    levels: int,
) -> tuple[bool, IntArray, IntArray, dict[int, IntArray]]:  # fmt: skip
    """``full, indptr, cols, first`` of a crossing."""
    degrees = {s: np.diff(p.indptr) * pattern.sizes[s][0] for s, p in outer.items()}
    total = np.zeros(levels, dtype=np.int64)
    for degree in degrees.values():
        total += degree
    if is_full(int(total.sum()), levels, r):
        start = np.arange(levels, dtype=np.int64) * r
        first = {s: start + part.start for s, part in parts.items()}
        return True, np.arange(levels + 1, dtype=np.int64) * r, np.zeros(0, np.int32), first
    indptr = np.concatenate([[0], np.cumsum(total)]).astype(np.int64)
    first, at = {}, indptr[:-1].copy()
    cols = np.empty(int(indptr[-1]), dtype=np.int32)
    for s, p in outer.items():
        k, first[s] = pattern.sizes[s][0], at.copy()
        place = np.repeat(first[s] - p.indptr[:-1] * k, np.diff(p.indptr))
        place += np.arange(len(p.rows)) * k
        for c in range(k):
            cols[place + c] = parts[s].start + p.rows * k + c
        at += degrees[s]
    return False, indptr, cols, first


def _by_rows(
    inner: Mapping[Pair, PairPattern], pattern: Pattern, parts: Mapping[int, slice], r: int
) -> tuple[IntArray, IntArray, IntArray]:
    """The blocks between trailing terms, both triangles, as one matrix by rows."""
    rows, cols = [], []
    for (s, t), p in inner.items():
        starts = parts[s].start, parts[t].start
        a, b = (x.ravel() for x in p.coordinates(starts, pattern.orders(s, t)))
        rows += [a] if s == t else [a, b]
        cols += [b] if s == t else [b, a]
    row, col = np.concatenate(rows), np.concatenate(cols)
    order = np.lexsort((col, row))
    start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=r))])
    kind = np.int32 if len(col) < 2**31 else np.int64
    return start.astype(kind), col[order].astype(kind), order
