"""What a generalized model reads from the rows: Z b, Z'x, Z'W Z on one pattern, and its transpose.

The values of ``A = Z'W Z`` change with the weights at every mode, its pattern never. A pair of
terms keeps for every row the place of its block; ``data = P w`` and, for G on the pattern,
``tau = P'G`` are then single passes, where P has one row per stored entry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import scipy.sparse as sp

from sparselmm.base import kernels_rows as loops
from sparselmm.base.types import CSR, FloatArray, IntArray
from sparselmm.design.terms import RandomTerm, assemble_z, term_slices
from sparselmm.factor.basis import Basis
from sparselmm.factor.crossprod import (
    SMALL_ROWS,
    CrossProducts,
    PairBlocks,
    add_term_product,
    apart,
    pair_blocks,
)

BLOCK = 16384
"""Rows that are taken through all passes together, so that what lies between stays in the cache."""

MOST_PRODUCTS = 20_000_000
"""Products of a row's entries up to which they are listed one by one."""


def blocks(n: int) -> Iterator[slice]:
    """The rows, some at a time; all at once where they are few."""
    size = n if n < SMALL_ROWS else BLOCK
    for start in range(0, n, max(size, 1)):
        yield slice(start, min(start + size, n))


FLOOR = 1e-10
"""Weight of a row whose log-likelihood is not concave, in the direction of a Newton step."""

Reader = Callable[[slice, FloatArray], None]


def _floored(w: FloatArray, floor: bool) -> FloatArray:
    return np.maximum(w, FLOOR) if floor else w


class Pair(Protocol):
    """Blocks of one pair of terms, and the rows they are made of."""

    def fill(self, w: FloatArray, data: FloatArray, floor: bool) -> None:
        """Write ``Z_s'W Z_t``, (nb, k_s, k_t), weights at least `FLOOR` if ``floor``."""

    def reader(self, G: FloatArray, factor: float) -> Reader:
        """What adds ``factor * z_s'G z_t`` of some rows to an array, (nb,)."""


@dataclass(frozen=True, eq=False)
class Listed:
    """Every product of a row's entries in a sparse matrix P, (entries of data, n)."""

    P: CSR
    Pt: CSR

    @staticmethod
    def of(s: RandomTerm, t: RandomTerm, Zs: CSR, Zt: CSR, pair: PairBlocks) -> Listed:
        """From both terms' parts of Z."""
        n_s, n_t = np.diff(Zs.indptr), np.diff(Zt.indptr)
        each = (n_s * n_t).astype(np.int64)
        row = np.repeat(np.arange(len(n_s)), each)
        inside = np.arange(len(row)) - np.repeat(np.cumsum(each) - each, each)
        left = Zs.indptr[row] + inside // n_t[row]
        right = Zt.indptr[row] + inside % n_t[row]
        ls, a = np.divmod(Zs.indices[left].astype(np.int64), s.k)
        lt, c = np.divmod(Zt.indices[right].astype(np.int64), t.k)
        keys = pair.cols.astype(np.int64) * pair.n_rows + pair.rows
        place = np.searchsorted(keys, lt * pair.n_rows + ls)
        where = (place * s.k + a) * t.k + c
        data = Zs.data[left] * Zt.data[right]
        P = sp.csr_array((data, (where, row)), shape=(pair.data.size, len(n_s)))
        return Listed(P, sp.csr_array(P.T))

    def fill(self, w: FloatArray, data: FloatArray, floor: bool) -> None:
        """See `Pair`."""
        data[...] = (self.P @ _floored(w, floor)).reshape(data.shape)

    def reader(self, G: FloatArray, factor: float) -> Reader:
        """See `Pair`."""
        entries, n = factor * np.ascontiguousarray(G).ravel(), self.Pt.shape[0]

        def read(rows: slice, out: FloatArray) -> None:
            out += (self.Pt if len(out) == n else self.Pt[rows]) @ entries

        return read


@dataclass(frozen=True, eq=False)
class Coded:
    """One block per row of two coded terms, by compiled loops."""

    places: IntArray
    left: FloatArray
    right: FloatArray

    def fill(self, w: FloatArray, data: FloatArray, floor: bool) -> None:
        """See `Pair`."""
        data[...] = 0.0
        for rows in blocks(len(w)):
            left, right = self.left[rows], self.right[rows]
            loops.fill_pair(self.places[rows], left, right, _floored(w[rows], floor), data)

    def reader(self, G: FloatArray, factor: float) -> Reader:
        """See `Pair`."""
        G = np.ascontiguousarray(G)

        def read(rows: slice, out: FloatArray) -> None:
            left, right = self.left[rows], self.right[rows]
            loops.read_pair(self.places[rows], left, right, G, factor, out)

        return read


@dataclass(frozen=True, eq=False)
class Full:
    """Terms of which a row meets very many columns, by dense products of some rows at a time."""

    Zs: CSR
    Zt: CSR
    pair: PairBlocks

    @property
    def _entries(self) -> tuple[IntArray, IntArray]:
        return self.pair.pattern.coordinates((0, 0), self.pair.data.shape[1:])

    def fill(self, w: FloatArray, data: FloatArray, floor: bool) -> None:
        """See `Pair`."""
        total = np.zeros((self.Zs.shape[1], self.Zt.shape[1]))
        for rows in blocks(len(w)):
            right = self.Zt[rows].toarray() * _floored(w[rows], floor)[:, None]
            total += self.Zs[rows].T @ right
        data[...] = total[self._entries]

    def reader(self, G: FloatArray, factor: float) -> Reader:
        """See `Pair`."""
        full = np.zeros((self.Zs.shape[1], self.Zt.shape[1]))
        full[self._entries] = G

        def read(rows: slice, out: FloatArray) -> None:
            half = self.Zs[rows] @ full
            out += factor * np.asarray(self.Zt[rows].multiply(half).sum(axis=1)).ravel()

        return read


class RandomRows:
    """The random-effects side of the rows.

    Parameters
    ----------
    terms : sequence of RandomTerm
    n : int
        Rows.
    """

    def __init__(self, terms: Sequence[RandomTerm], n: int):
        self.terms, self.n = tuple(_contiguous(term) for term in terms), n
        self.parts = term_slices(self.terms)
        self.q = sum(term.q for term in self.terms)
        self.compiled = n >= SMALL_ROWS
        self.Z: CSR | None = None
        if not self.compiled:
            self.Z = assemble_z(self.terms, n)
            self.Zt = sp.csr_array(self.Z.T)

    def cross(self, basis: Basis) -> tuple[CrossProducts, dict[tuple[int, int], Pair]]:
        """Cross-products with a pattern and no values yet, and what fills them."""
        pairs, fills = {}, {}
        structural = [_structural(term) for term in self.terms]
        for s in range(len(self.terms)):
            for t in range(s + 1):
                own = pair_blocks(structural[s], structural[t], None)
                data = np.zeros(own.data.shape)
                pairs[s, t] = replace(own, data=data)
                fills[s, t] = self._fill(s, t, pairs[s, t])
        m = basis.rank + 1
        sizes = tuple((term.k, term.n_levels) for term in self.terms)
        B, C = np.zeros((self.q, m)), np.zeros((m, m))
        return CrossProducts(*apart(sizes, pairs), B, C, basis, self.n, 0.0), fills

    def _fill(self, s: int, t: int, pair: PairBlocks) -> Pair:
        left, right = self.terms[s], self.terms[t]
        if self.compiled and left.codes is not None and right.codes is not None:
            if s == t:
                places: IntArray = left.codes.astype(np.int32, copy=False)
            else:
                places = loops.places_of(pair.indptr, pair.rows, left.codes, right.codes)
            return Coded(places, _values(left), _values(right))
        Zs, Zt = (assemble_z((term,), self.n) for term in (left, right))
        if float(np.diff(Zs.indptr).astype(float) @ np.diff(Zt.indptr)) > MOST_PRODUCTS:
            return Full(Zs, Zt, pair)
        return Listed.of(left, right, Zs, Zt, pair)

    def add_effects(self, b: FloatArray, rows: slice, eta: FloatArray) -> None:
        """``eta += Z[rows] b``."""
        if self.Z is not None:
            eta += (self.Z if rows.stop - rows.start == self.n else self.Z[rows]) @ b
            return
        for term, part in zip(self.terms, self.parts, strict=True):
            if term.codes is None:
                assert term.block is not None
                eta += term.block[rows] @ b[part]
            else:
                loops.add_effects(term.codes[rows], _values(term, rows), b[part], eta)

    def add_products(self, x: FloatArray, rows: slice, out: FloatArray) -> None:
        """``out += Z[rows]'x``, (q,)."""
        if self.Z is not None:
            out += self.Zt @ x if len(x) == self.n else self.Z[rows].T @ x
            return
        for term, part in zip(self.terms, self.parts, strict=True):
            if term.codes is None:
                assert term.block is not None
                out[part] += term.block[rows].T @ x
            else:
                loops.add_products(term.codes[rows], _values(term, rows), x, out[part])

    def add_columns(
        self, x: FloatArray, rows: slice, out: FloatArray, skip: Collection[int] = ()
    ) -> None:
        """``out += Z[rows]'x``, (q, m), but for the terms to skip."""
        if self.Z is not None:
            out += self.Zt @ x if len(x) == self.n else self.Z[rows].T @ x
            return
        for t, (term, part) in enumerate(zip(self.terms, self.parts, strict=True)):
            if t not in skip:
                add_term_product(out[part], term, rows, x)

    def cubes(self, x: FloatArray, t: int, b: FloatArray) -> FloatArray | None:
        """``sum_i x_i (z_i'b)^3`` of every level of a coded term, (l,), where rows are many."""
        term = self.terms[t]
        if not self.compiled or term.codes is None:
            return None
        out = np.zeros(term.n_levels)
        loops.add_cubes(term.codes, _values(term), np.ascontiguousarray(b), x, out)
        return out

    def effects(self, b: FloatArray) -> FloatArray:
        """``Z b``, (n,)."""
        out = np.zeros(self.n)
        for rows in blocks(self.n):
            self.add_effects(b, rows, out[rows])
        return out

    def products(self, x: FloatArray) -> FloatArray:
        """``Z'x``, (q,) or (q, m)."""
        if x.ndim == 2:
            columns = [self.products(np.ascontiguousarray(column)) for column in x.T]
            return np.column_stack(columns) if columns else np.zeros((self.q, 0))
        out = np.zeros(self.q)
        for rows in blocks(self.n):
            self.add_products(x[rows], rows, out)
        return out


def _structural(term: RandomTerm) -> RandomTerm:
    """The term with ones for values, whose cross-products have the full pattern."""
    if term.block is not None:
        block = term.block.copy()
        block.data = np.ones_like(block.data)
        return replace(term, block=block)
    return term if term.values is None else replace(term, values=np.ones_like(term.values))


def _contiguous(term: RandomTerm) -> RandomTerm:
    """The term with its covariates row by row in memory."""
    if term.values is None or term.values.flags.c_contiguous:
        return term
    return replace(term, values=np.ascontiguousarray(term.values))


def _values(term: RandomTerm, rows: slice = slice(None)) -> FloatArray:
    """Covariates of a coded term; (0, 1) stands for ones."""
    return np.zeros((0, 1)) if term.values is None else term.values[rows]
