"""Arrays as long as the data: products of a term's Z with them, rows by group, rows in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from sparselmm.base.types import CSR, BoolArray, FloatArray, IntArray
from sparselmm.design.terms import Design, RandomTerm, assemble_z, term_slices

CHUNK = 65_536
"""Rows worked on at a time."""


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


def row_slices(n: int) -> Iterator[slice]:
    """Chunks of rows."""
    return (slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK))


def response(design: Design) -> FloatArray:
    """The response less the offset, (n,)."""
    return design.y if design.offset is None else design.y - design.offset


def times_z(design: Design, slices: list[slice], rows: slice, x: FloatArray) -> FloatArray:
    """``Z[rows] x`` for x (q, m), (number of rows, m), without forming Z."""
    out = np.zeros((len(range(*rows.indices(design.n))), x.shape[1]))
    for term, part in zip(design.terms, slices, strict=True):
        if term.block is not None:
            out += term.block[rows] @ x[part]
            continue
        assert term.codes is not None
        codes = term.codes[rows]
        own = x[part].reshape(term.n_levels, term.k, -1)[codes]
        v = np.ones((1, 1)) if term.values is None else term.values[rows]
        out += np.where((codes >= 0)[:, None], np.sum(v[:, :, None] * own, axis=1), 0.0)
    return out


def random_part(terms: Sequence[RandomTerm], b: FloatArray, n: int) -> FloatArray:
    """``Z b`` term by term, (n,), without forming Z."""
    out = np.zeros(n)
    for term, part in zip(terms, term_slices(tuple(terms)), strict=True):
        if term.block is not None:
            out += term.block @ b[part]
            continue
        assert term.codes is not None
        table = np.vstack([b[part].reshape(-1, term.k), np.zeros((1, term.k))])  # code -1
        rows = table[term.codes]
        out += rows[:, 0] if term.values is None else np.einsum("ij,ij->i", rows, term.values)
    return out


def mixed(terms: Sequence[RandomTerm], x: FloatArray, transpose: bool = False) -> FloatArray:
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


def of_columns(terms: Sequence[RandomTerm], H: CSR) -> CSR:
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


def unseen_rows(fitted: RandomTerm, new: RandomTerm) -> BoolArray:
    """Rows of new data whose level the fit has not seen, (m,).

    A coded term marks them. A term given as a matrix shows them only if no row of the fit was
    empty, as with factors; otherwise an empty row is taken as it is.
    """
    if new.codes is not None:
        return np.asarray(new.codes < 0)
    assert new.block is not None and fitted.block is not None
    empty = np.diff(new.block.indptr) == 0
    if new.origin == "array" or (np.diff(fitted.block.indptr) == 0).any():
        return np.zeros_like(empty)
    return np.asarray(empty)


def term_z(term: RandomTerm, levels: int) -> CSR:
    """Z of one term, (m, k * levels)."""
    if term.block is not None:
        return term.block
    assert term.codes is not None
    present = term.codes >= 0
    rows = np.repeat(np.flatnonzero(present), term.k)
    columns = (term.codes[present, None] * term.k + np.arange(term.k)).ravel()
    data = np.ones(len(rows)) if term.values is None else term.values[present].ravel()
    return sp.csr_array((data, (rows, columns)), shape=(len(term.codes), term.k * levels))


def component_block(term: RandomTerm, n: int) -> Any:
    """Z_t of a term, sparse (n, q_t)."""
    return term.block if term.block is not None else sp.csr_array(assemble_z((term,), n))


def members(codes: IntArray, count: int) -> list[IntArray]:
    """Positions of every code, ascending."""
    order = np.argsort(codes, kind="stable")
    order = order[np.searchsorted(codes[order], 0) :]
    ends = np.cumsum(np.bincount(codes[codes >= 0], minlength=count))
    return np.split(order, ends[:-1])


@dataclass(frozen=True, eq=False)
class GroupRows:
    """Rows by group.

    Attributes
    ----------
    codes : ndarray of int, (n,)
        Group of every row.
    count : int
        Number of groups, m.
    order, bounds : ndarray of int
        Group ``j`` owns the rows ``order[bounds[j]:bounds[j + 1]]``.
    """

    codes: IntArray
    count: int
    order: IntArray
    bounds: IntArray

    @classmethod
    def of(cls, codes: IntArray, count: int) -> GroupRows:
        """Sort the rows by group; -1 belongs to none."""
        order = np.argsort(codes, kind="stable")
        return cls(codes, count, order, np.searchsorted(codes[order], np.arange(count + 1)))

    def __getitem__(self, j: int) -> IntArray:
        return self.order[self.bounds[j] : self.bounds[j + 1]]
