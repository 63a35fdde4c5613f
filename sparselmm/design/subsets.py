"""Designs made of some rows of another: rows left out, groups repeated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from sparselmm.base.types import CSR, IntArray
from sparselmm.design.built import BuiltDesign
from sparselmm.design.rows import GroupRows
from sparselmm.design.terms import Design, Levels, RandomTerm


def take_rows(design: Design, rows: IntArray) -> Design:
    """The design on some rows; levels without rows are left out, those of block terms stay."""
    return _with_terms(design, rows, [_taken(term, rows, None) for term in design.terms])


class Groups:
    """Rows by the level of a grouping factor, and designs made of some of the levels.

    Parameters
    ----------
    design : Design
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
        parts, rows = self._parts(draw), self.drawn(draw)
        place = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        terms = [
            _taken(term, rows, place if nested else None)
            for term, nested in zip(self.whole.terms, self.nested, strict=True)
        ]
        return _with_terms(self.whole, rows, terms)

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


def _with_terms(design: Design, rows: IntArray, terms: list[RandomTerm]) -> Design:
    return replace(
        design, y=design.y[rows], X=design.X[rows], terms=tuple(terms),
        weights=None if design.weights is None else design.weights[rows],
        offset=None if design.offset is None else design.offset[rows], groups=None,
    )  # fmt: skip


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


def _taken(term: RandomTerm, rows: IntArray, place: IntArray | None) -> RandomTerm:
    """The term on some rows; with ``place``, levels in different places are different levels."""
    if term.block is not None:
        return _taken_block(term, sp.csr_array(term.block[rows]), place)
    assert term.codes is not None
    codes = term.codes[rows].astype(np.int64)
    present = codes >= 0
    key = codes if place is None else codes + place * term.n_levels
    distinct, inverse = np.unique(key[present], return_inverse=True)
    codes[present] = inverse
    values = None if term.values is None else term.values[rows]
    levels = Levels(term.levels.names, (distinct,) * len(term.levels.parts))
    return replace(term, codes=codes, values=values, levels=levels)


def _taken_block(term: RandomTerm, Z: CSR, place: IntArray | None) -> RandomTerm:
    if place is None:
        return replace(term, block=Z)
    key = Z.indices + np.repeat(place, np.diff(Z.indptr)).astype(np.int64) * term.n_levels
    distinct, inverse = np.unique(key, return_inverse=True)
    block = sp.csr_array((Z.data, inverse, Z.indptr), shape=(Z.shape[0], len(distinct)))
    levels = Levels(term.levels.names, (distinct,) * len(term.levels.parts))
    return replace(term, block=block, levels=levels)


def without_rows(built: BuiltDesign) -> BuiltDesign:
    """The built design with every row removed, names and levels kept."""
    design = built.design
    groups = design.groups
    slim = replace(
        design, y=np.zeros(0), X=np.zeros((0, design.p)), weights=None, offset=None,
        terms=tuple(_term_without_rows(term) for term in design.terms),
        groups=None if groups is None else replace(groups, codes=groups.codes[:0]),
        residual=None if design.residual is None else design.residual.kept(np.zeros(0, dtype=int)),
    )  # fmt: skip
    return replace(built, design=slim, row_labels=None, kept=None, frame=None)


def _term_without_rows(term: RandomTerm) -> RandomTerm:
    return replace(
        term,
        codes=None if term.codes is None else term.codes[:0],
        values=None if term.values is None else term.values[:0],
        block=None if term.block is None else term.block[:0],
    )
