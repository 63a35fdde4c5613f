"""Designs made of some rows of another: rows left out, groups repeated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from sparselmm.base.types import CSR, IntArray
from sparselmm.design.levels import Levels
from sparselmm.design.rows import GroupRows
from sparselmm.design.terms import Design, RandomTerm


def take_rows(design: Design, rows: IntArray) -> Design:
    """The design on some rows; levels without rows are left out, those of block terms stay."""
    kept = design.kept(rows)
    terms = tuple(_renumbered(term, None) for term in kept.terms)
    return replace(kept, terms=terms, groups=None)


class Groups:
    """Rows by the level of a grouping factor, and designs made of some of the levels.

    Parameters
    ----------
    codes : ndarray of int, (n,)
        Group of every row; -1 for a row of no group, which stays in every design.

    Notes
    -----
    Levels with a known covariance are never made new ones: nothing says how they would be related
    to the others.
    """

    def __init__(self, design: Design, codes: IntArray):
        self.whole, codes = design, np.asarray(codes)
        rows = GroupRows.of(codes, int(codes.max(initial=-1)) + 1)
        self.outside = rows.outside
        self.rows = [part for part in rows if len(part)]
        self.nested = [_is_nested(term, codes) for term in design.terms]

    def __len__(self) -> int:
        return len(self.rows)

    def design(self, draw: IntArray) -> Design:
        """The data of some groups, (g,), in which a repeated group is two groups.

        Factors nested in the groups are repeated with them; levels of crossed factors stay the
        same levels.
        """
        parts, kept = self._parts(draw), self.whole.kept(self.drawn(draw))
        place = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        terms = [
            _renumbered(term, place if nested else None)
            for term, nested in zip(kept.terms, self.nested, strict=True)
        ]
        return replace(kept, terms=tuple(terms), groups=None)

    def n_rows(self, n_groups: int) -> int:
        """Rows of a design of so many groups, the present ones copied in turn."""
        sizes = np.array([len(part) for part in self.rows])
        times, more = divmod(n_groups, len(sizes))
        return len(self.outside) + times * int(sizes.sum()) + int(sizes[:more].sum())

    def drawn(self, draw: IntArray) -> IntArray:
        """Rows of the whole that make the design of some groups, (m,)."""
        return np.concatenate(self._parts(draw))

    def _parts(self, draw: IntArray) -> list[IntArray]:
        return [self.outside, *(self.rows[g] for g in draw)]


def _columns(term: RandomTerm) -> tuple[IntArray, IntArray]:
    """Row and level of everything in Z."""
    if term.block is not None:
        coo = term.block.tocoo()
        return coo.row, coo.col
    assert term.codes is not None
    rows = np.flatnonzero(term.codes >= 0)
    return rows, term.codes[rows]


def _is_nested(term: RandomTerm, codes: IntArray) -> bool:
    """Whether every level of the term lies in one group, independent of other groups' levels."""
    if term.root is not None:
        return False
    rows, levels = _columns(term)
    low = np.full(term.n_levels, np.iinfo(np.int64).max)
    high = np.full(term.n_levels, -1)
    np.minimum.at(low, levels, codes[rows])
    np.maximum.at(high, levels, codes[rows])
    used = high >= 0
    return bool((low[used] == high[used]).all())


def _renumbered(term: RandomTerm, place: IntArray | None) -> RandomTerm:
    """The term with the levels its rows have; with ``place``, (n,), those of each are its own."""
    if term.block is not None:
        return term if place is None else _apart_block(term, term.block, place)
    assert term.codes is not None
    codes = term.codes.astype(np.int64)
    present = codes >= 0
    key = codes if place is None else codes + place * term.n_levels
    distinct, inverse = np.unique(key[present], return_inverse=True)
    codes[present] = inverse
    levels = Levels(term.levels.names, (distinct,) * len(term.levels.parts))
    return replace(term, codes=codes, levels=levels)


def _apart_block(term: RandomTerm, Z: CSR, place: IntArray) -> RandomTerm:
    key = Z.indices + np.repeat(place, np.diff(Z.indptr)).astype(np.int64) * term.n_levels
    distinct, inverse = np.unique(key, return_inverse=True)
    block = sp.csr_array((Z.data, inverse, Z.indptr), shape=(Z.shape[0], len(distinct)))
    levels = Levels(term.levels.names, (distinct,) * len(term.levels.parts))
    return replace(term, block=block, levels=levels)
