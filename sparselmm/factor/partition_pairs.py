"""``Z_s'WZ_t`` of rows that come in parts: blocks by the levels that meet, added part by part.

Where every level of one term meets a single level of the other, as pupils their school, there is a
block for each of its levels, and rows are added where they belong without being sorted. The first
rows that show otherwise end that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparselmm.base import kernels
from sparselmm.base.reduction import Tree
from sparselmm.base.types import FloatArray, IntArray, index_dtype
from sparselmm.design.factors import meets_one
from sparselmm.design.terms import RandomTerm, TermLayout
from sparselmm.factor.crossprod import SMALL_ROWS, PairBlocks, pair_blocks


@dataclass(frozen=True, eq=False)
class Keyed:
    """Blocks of the levels that meet.

    Attributes
    ----------
    keys : ndarray of int64, (nb,)
        ``column * rows + row`` of each, ascending.
    data : ndarray, (nb, k_s, k_t)
    """

    keys: IntArray
    data: FloatArray

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.keys.nbytes + self.data.nbytes

    def pair(self, n_rows: int, n_cols: int) -> PairBlocks:
        """As blocks on a pattern."""
        cols, rows = np.divmod(self.keys, n_rows)
        indptr = np.append(0, np.cumsum(np.bincount(cols, minlength=n_cols)))
        return PairBlocks.of(indptr, rows.astype(index_dtype(n_rows)), self.data, n_rows)


@dataclass(frozen=True, eq=False)
class ByLevel:
    """A block of every level of one term, which meets a single level of the other.

    Attributes
    ----------
    met : ndarray of int, (l,)
        That level, -1 where none was met yet.
    data : ndarray, (l, k_s, k_t)
    of_rows : bool
        Whether the levels are those of term s, the rows of A.
    n_rows : int
        Levels of term s.
    """

    met: IntArray
    data: FloatArray
    of_rows: bool
    n_rows: int

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.met.nbytes + self.data.nbytes

    def pair(self, n_rows: int, n_cols: int) -> PairBlocks:
        """As blocks on a pattern."""
        return self.keyed().pair(n_rows, n_cols)

    def keyed(self) -> Keyed:
        """The levels that have met."""
        own = np.flatnonzero(self.met >= 0)
        other = self.met[own].astype(np.int64)
        cols, rows = (other, own) if self.of_rows else (own, other)
        order = np.argsort(cols, kind="stable")
        return Keyed((cols * self.n_rows + rows)[order], self.data[own][order])


class PairSums:
    """``Z_s'WZ_t`` of the rows of one partition, some rows after the others.

    Parameters
    ----------
    s, t : TermLayout
    counts : pair of ndarray, (l_s,) and (l_t,)
        Of either term, where it is one of ones, the weights of its levels so far. They are added up
        elsewhere, by `add` of the next rows at the earliest.
    """

    def __init__(self, s: TermLayout, t: TermLayout, counts: tuple[FloatArray, FloatArray]) -> None:
        self._held: ByLevel | None = None
        self._rest: Tree[Keyed] = Tree(_keys_added)
        self._counted = s.form == t.form == "levels"
        if "block" not in (s.form, t.form):
            of_rows = s.n_levels >= t.n_levels
            levels = s.n_levels if of_rows else t.n_levels
            met: IntArray = np.full(levels, -1, dtype=index_dtype(levels))
            if s is t:
                met[:] = np.arange(levels)
            own = counts[0] if of_rows else counts[1]
            data = own[:, None, None] if self._counted else np.zeros((levels, s.k, t.k))
            self._held = ByLevel(met, data, of_rows, s.n_levels)

    def add(self, s: RandomTerm, t: RandomTerm, w: FloatArray | None) -> None:
        """Add the products of some rows."""
        held = self._held
        if held is not None:
            assert s.codes is not None and t.codes is not None
            inner, outer = (s.codes, t.codes) if held.of_rows else (t.codes, s.codes)
            if s is t or meets_one(inner, outer, held.met):
                if not self._counted:
                    _add_blocks(inner, s.values, t.values, w, held.data)
                return
            self._rest.add(held.keyed())
            self._held = None
        pair = pair_blocks(s, t, w)
        self._rest.add(Keyed(pair.cols.astype(np.int64) * pair.n_rows + pair.rows, pair.data))

    def result(self) -> Keyed | ByLevel:
        """The products of all rows added."""
        if self._held is not None:
            return replace(self._held, data=np.ascontiguousarray(self._held.data))
        rest = self._rest.result()
        assert rest is not None
        return rest


def _add_blocks(
    codes: IntArray, left: FloatArray | None, right: FloatArray | None, w: FloatArray | None,
    out: FloatArray,
) -> None:  # fmt: skip
    """``out[codes[i]] += w_i left_i right_i'``; None stands for ones."""
    none = np.zeros((0, 1))
    left, right = none if left is None else left, none if right is None else right
    if len(codes) >= SMALL_ROWS:
        kernels.add_level_blocks(codes, left, right, np.zeros(0) if w is None else w, out)
        return
    blocks = np.ones((len(codes), 1, 1)) if w is None else w[:, None, None]
    blocks = blocks * left[:, :, None] if len(left) else blocks
    blocks = blocks * right[:, None, :] if len(right) else blocks
    present = codes >= 0
    np.add.at(out, codes[present], blocks[present])


def pairs_added(parts: Sequence[Keyed | ByLevel]) -> Keyed | ByLevel:
    """The blocks of one pair in several partitions added, from left to right."""
    if len(parts) == 1:
        return parts[0]
    nested = [part for part in parts if isinstance(part, ByLevel)]
    met = _met_together(nested) if len(nested) == len(parts) else None
    if met is None:
        keyed = [part.keyed() if isinstance(part, ByLevel) else part for part in parts]
        return _keys_added(keyed)
    total = nested[0].data.copy()
    for part in nested[1:]:
        total += part.data
    return ByLevel(met, total, nested[0].of_rows, nested[0].n_rows)


def _met_together(parts: Sequence[ByLevel]) -> IntArray | None:
    """What the levels have met in all parts; None where one has met several."""
    met = parts[0].met
    for part in parts[1:]:
        both = np.where(met < 0, part.met, met)
        if ((part.met >= 0) & (part.met != both)).any():
            return None
        met = both
    return met


def _keys_added(parts: Sequence[Keyed]) -> Keyed:
    """Blocks with equal keys added, from left to right."""
    if len(parts) == 1:
        return parts[0]
    keys = np.concatenate([part.keys for part in parts])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else order
    data = np.concatenate([part.data for part in parts])[order]
    return Keyed(keys[starts], np.add.reduceat(data, starts, axis=0) if len(starts) else data)
