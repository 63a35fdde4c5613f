"""Arrays as long as the data: products of a term's Z with them, rows by group, rows in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from sparselmm.base.types import CSR, BoolArray, FloatArray, IntArray
from sparselmm.design.terms import Design, RandomTerm, TermLayout, term_slices

BLOCK_ROWS = 32_768
"""Rows worked on at a time: a few columns of them stay in the cache."""


@dataclass(frozen=True, eq=False)
class Entries:
    """One term's part of some rows of Z, one entry per level a row belongs to.

    Attributes
    ----------
    rows : ndarray of int, (m,)
        Row of each entry, counted from the first of the rows; ascending.
    levels : ndarray of int, (m,)
        Level of the term.
    values : ndarray, (m, k)
        The row's part of Z in the columns of the level.
    """

    rows: IntArray
    levels: IntArray
    values: FloatArray

    @classmethod
    def of(cls, term: RandomTerm, rows: slice) -> Entries:
        """Entries of a term in some rows."""
        if term.block is not None:
            part = term.block[rows]
            at = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
            levels, place = np.divmod(part.indices, term.k)
            values = np.zeros((len(levels), term.k))
            values[np.arange(len(levels)), place] = part.data
            return cls(at, levels, values)
        assert term.codes is not None
        codes = term.codes[rows]
        at = np.flatnonzero(codes >= 0)
        values = np.ones((len(codes), 1)) if term.values is None else term.values[rows]
        return cls(at, codes[at], values[at])

    def join(self, other: Entries) -> tuple[IntArray, IntArray]:
        """Positions of every pair of entries, one of each, that stand in the same row."""
        if len(self.rows) == len(other.rows) and np.array_equal(self.rows, other.rows):
            single = len(self.rows) < 2 or bool((np.diff(self.rows) > 0).all())
            if single:
                each = np.arange(len(self.rows))
                return each, each
        first = np.searchsorted(other.rows, self.rows, side="left")
        count = np.searchsorted(other.rows, self.rows, side="right") - first
        left = np.repeat(np.arange(len(self.rows)), count)
        step = np.arange(len(left)) - np.repeat(np.cumsum(count) - count, count)
        return left, first[left] + step


def blocks(n: int) -> Iterator[slice]:
    """The rows in blocks."""
    return (slice(start, min(start + BLOCK_ROWS, n)) for start in range(0, n, BLOCK_ROWS))


def response(design: Design) -> FloatArray:
    """The response less the offset, (n,)."""
    return design.y if design.offset is None else design.y - design.offset


def times_z(terms: Sequence[RandomTerm], x: FloatArray, rows: slice) -> FloatArray:
    """``Z[rows] x`` without forming Z, (m,) or (m, c) for x (q,) or (q, c)."""
    wide = x if x.ndim == 2 else x[:, None]
    out = np.zeros((rows.stop - rows.start, wide.shape[1]))
    for term, part in zip(terms, term_slices(tuple(terms)), strict=True):
        if term.block is not None:
            out += term.block[rows] @ wide[part]
            continue
        assert term.codes is not None
        codes = term.codes[rows]
        own = wide[part].reshape(term.n_levels, term.k, -1)[codes]
        values = term.values
        added = own[:, 0] if values is None else np.einsum("ij,ijc->ic", values[rows], own)
        added[codes < 0] = 0.0
        out += added
    return out if x.ndim == 2 else out[:, 0]


def coded_z(codes: IntArray, values: FloatArray | None, k: int, levels: int) -> CSR:
    """Z of one term from the level of every row, (m, k * levels); -1 is no level."""
    present = codes >= 0
    columns = codes[present, None] * k + np.arange(k)
    data = np.ones((len(columns), 1)) if values is None else values[present]
    indptr = np.concatenate([[0], np.cumsum(present) * k])
    return sp.csr_array((data.ravel(), columns.ravel(), indptr), shape=(len(codes), levels * k))


def term_z(term: RandomTerm, levels: int | None = None) -> CSR:
    """Z of one term, (n, k * levels); ``levels`` are those of the term if not given."""
    if term.block is not None:
        return term.block
    assert term.codes is not None
    return coded_z(term.codes, term.values, term.k, term.n_levels if levels is None else levels)


def mixed(terms: Sequence[TermLayout], x: FloatArray, transpose: bool = False) -> FloatArray:
    """Effects of the levels from those of the columns of Z, or the transposed map, (q, ...).

    They differ by the root R of a known covariance between levels: ``b = (R (x) I) b*``.
    """
    if all(term.root is None for term in terms):
        return x
    out = x.copy()
    for term, part in zip(terms, term_slices(tuple(terms)), strict=True):
        if term.root is not None:
            by_level = x[part].reshape(term.n_levels, -1)
            root = term.root.T if transpose else term.root
            out[part] = np.asarray(root @ by_level).reshape(x[part].shape)
    return out


def of_columns(terms: Sequence[TermLayout], H: CSR) -> CSR:
    """Combinations of the effects of levels, (m, q), as combinations of those of columns of Z."""
    if all(term.root is None for term in terms):
        return H
    blocks = [
        sp.eye_array(term.q, format="csr")
        if term.root is None
        else sp.kron(term.root, sp.eye_array(term.k), format="csr")
        for term in terms
    ]
    return sp.csr_array(H @ sp.csr_array(sp.block_diag(blocks, format="csr")))


def unseen_rows(fitted: TermLayout, new: RandomTerm) -> BoolArray:
    """Rows of new data whose level the fit has not seen, (m,).

    A coded term marks them. A term given as a matrix shows them only if no row of the fit was
    empty, as with factors; otherwise an empty row is taken as it is.
    """
    if new.codes is not None:
        return np.asarray(new.codes < 0)
    assert new.block is not None
    empty = np.diff(new.block.indptr) == 0
    if new.origin == "array" or fitted.empty_rows:
        return np.zeros_like(empty)
    return np.asarray(empty)


@dataclass(frozen=True, eq=False)
class GroupRows:
    """Rows by group.

    Attributes
    ----------
    codes : ndarray of int, (n,)
        Group of every row; -1 belongs to none.
    order, bounds : ndarray of int, (n,) and (m + 1,)
        Group ``j`` owns the rows ``order[bounds[j]:bounds[j + 1]]``, ascending.
    """

    codes: IntArray
    order: IntArray
    bounds: IntArray

    @classmethod
    def of(cls, codes: IntArray, count: int) -> GroupRows:
        """Sort the rows by group."""
        order = np.argsort(codes, kind="stable")
        return cls(codes, order, np.searchsorted(codes[order], np.arange(count + 1)))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, j: int) -> IntArray:
        return self.order[self.bounds[j] : self.bounds[j + 1]]

    def __iter__(self) -> Iterator[IntArray]:
        return (self[j] for j in range(len(self)))

    @property
    def outside(self) -> IntArray:
        """Rows of no group."""
        return self.order[: self.bounds[0]]
