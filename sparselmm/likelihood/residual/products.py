"""Cross-products at one phi after another on a pattern that never changes.

``A = Z'R^-1 Z`` is linear in the cells of R^-1: ``vec A = T c``, with T (sparse) made once. Where
many groups share a pattern, T has few columns and no row is touched; otherwise it is a list of the
pairs of rows that R^-1 joins. B and C are products of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from sparselmm.base.exceptions import UnsupportedError
from sparselmm.base.types import CSR, FloatArray, IntArray
from sparselmm.design.rows import Entries, response
from sparselmm.design.terms import Design, RandomTerm, term_slices
from sparselmm.factor.basis import working_basis
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.pattern import PairPattern, Pattern
from sparselmm.likelihood.residual.blocks import Blocks, BlockState
from sparselmm.likelihood.residual.markov import Markov, MarkovState

Backend = Blocks | Markov
BackendState = BlockState | MarkovState

MOST_PRODUCTS = 200_000_000
"""Products of entries of Z that a pattern may need."""


TABLE = 16
"""Pairs of levels for every pair of entries up to which they are numbered by a table."""


@dataclass(frozen=True, eq=False)
class PairMap:
    """How one pair of terms is made of cells.

    Attributes
    ----------
    orders : tuple of int
        k_s and k_t.
    T : csr_array, (nb * k_s * k_t, n_cells)
    """

    pattern: PairPattern
    orders: tuple[int, int]
    T: CSR

    def at(self, cells: FloatArray) -> FloatArray:
        """The blocks at some values of the cells, (nb, k_s, k_t)."""
        return np.asarray((self.T @ cells).reshape(-1, *self.orders))

    def sums(self, data: FloatArray) -> FloatArray:
        """Sums of numbers on the pattern over the places of each cell, (n_cells,)."""
        return np.asarray(self.T.T @ data.ravel())


class Products:
    """``A``, ``B`` and ``C`` of a design as functions of R^-1.

    Parameters
    ----------
    design : Design
        Its terms in the columns the engine works with.
    bases : tuple or None
        Of :mod:`sparselmm.factor.bases`.
    """

    def __init__(
        self, design: Design, backend: Backend, bases: tuple[FloatArray | None, ...] | None
    ):
        assert design.residual is not None
        self.design, self.backend, self.bases = design, backend, bases
        self.n_rows = design.residual.n_rows
        y = response(design)
        self.basis = working_basis(design.X, y, None)
        self.Xy = self.basis.apply(design.X, y)
        self.maps = _maps(design.terms, backend)
        sizes = tuple((term.k, term.n_levels) for term in design.terms)
        self.pattern = Pattern(sizes, {pair: one.pattern for pair, one in self.maps.items()})
        self.slices = term_slices(design.terms)
        self.Z = design.Z if design.terms else sp.csr_array((design.n, 0))
        self.Zt = sp.csr_array(self.Z.T)

    def at(self, state: BackendState) -> CrossProducts:
        """Cross-products at a phi; minus log det R stands for the sum of the log weights."""
        cells = self.backend.cells(state)  # type: ignore[arg-type]
        QXy = self.backend.solve(state, self.Xy)  # type: ignore[arg-type]
        return CrossProducts(
            pattern=self.pattern,
            values={pair: one.at(cells) for pair, one in self.maps.items()},
            B=np.ascontiguousarray(self.Zt @ QXy),
            C=self.Xy.T @ QXy,
            basis=self.basis,
            n=self.n_rows,
            sum_log_w=-state.logdet,
            bases=self.bases,
        )


def _maps(terms: Sequence[RandomTerm], backend: Backend) -> dict[tuple[int, int], PairMap]:
    left, right, cell = backend.pairs()
    entries = [Entries.of(term, slice(0, len(_codes(term)))) for term in terms]
    return {
        (s, t): _pair_map(
            terms[s], terms[t], entries[s], entries[t], (left, right, cell), backend.n_cells, s == t
        )
        for s in range(len(terms))
        for t in range(s + 1)
    }


def _codes(term: RandomTerm) -> IntArray:
    if term.codes is not None:
        return term.codes
    assert term.block is not None
    return np.empty(term.block.shape[0], dtype=np.int8)


def _entry_pairs(
    s: Entries, t: Entries, left: IntArray, right: IntArray, cell: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Every pair of entries in rows that R^-1 joins, and its cell, (m,) each."""
    if _one_each(s.rows) and _one_each(t.rows):
        return left, right, cell
    place, es = _expanded(s, left)
    again, et = _expanded(t, right[place])
    place, es = place[again], es[again]
    return es, et, cell[place]


def _expanded(entries: Entries, rows: IntArray) -> tuple[IntArray, IntArray]:
    """For every row asked for, each of its entries: place in ``rows`` and entry."""
    if len(entries.rows) > rows.max(initial=-1) and _one_each(entries.rows):
        return np.arange(len(rows)), rows
    first = np.searchsorted(entries.rows, rows, side="left")
    count = np.searchsorted(entries.rows, rows, side="right") - first
    if int(count.sum()) > MOST_PRODUCTS:
        raise UnsupportedError(
            "residual= with a random-effects matrix of this many entries per row is not available"
        )
    place = np.repeat(np.arange(len(rows)), count)
    step = np.arange(len(place)) - np.repeat(np.cumsum(count) - count, count)
    return place, first[place] + step


def _one_each(rows: IntArray) -> bool:
    """Whether entry i is that of row i."""
    return bool((rows == np.arange(len(rows))).all())


def _numbered(key: IntArray, size: int) -> tuple[IntArray, IntArray]:
    """Different keys below ``size`` in order, and the place of each key among them."""
    if size > TABLE * len(key):
        found, place = np.unique(key, return_inverse=True)
        return found, place
    seen = np.zeros(size, dtype=bool)
    seen[key] = True
    found, number = np.flatnonzero(seen), np.empty(size, dtype=np.int64)
    number[found] = np.arange(len(found))
    return found, number[key]


def _pair_map(
    s: RandomTerm, t: RandomTerm, at_s: Entries, at_t: Entries,
    pairs: tuple[IntArray, IntArray, IntArray], n_cells: int, diagonal: bool,
) -> PairMap:  # fmt: skip
    es, et, cell = _entry_pairs(at_s, at_t, *pairs)
    values = (at_s.values[es][:, :, None] * at_t.values[et][:, None, :]).ravel()
    key = at_t.levels[et].astype(np.int64) * s.n_levels + at_s.levels[es]
    if diagonal:  # a level always meets itself
        key = np.append(key, np.arange(s.n_levels, dtype=np.int64) * (s.n_levels + 1))
    found, block = _numbered(key, s.n_levels * t.n_levels)
    block = block[: len(es)]
    size = s.k * t.k
    if size > 1:
        block = (block[:, None] * size + np.arange(size)).ravel()
        cell = np.repeat(cell, size)
    T = sp.csr_array((values, (block, cell)), shape=(len(found) * size, n_cells))
    columns, levels = np.divmod(found, s.n_levels)
    indptr = np.searchsorted(columns, np.arange(t.n_levels + 1))
    return PairMap(PairPattern(indptr, levels, s.n_levels), (s.k, t.k), T)
