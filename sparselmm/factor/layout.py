"""Which columns an elimination takes first, and how the pairs of terms lie in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp

from sparselmm.base.cholesky import Mode, Ordering, Pattern
from sparselmm.base.types import IntArray
from sparselmm.factor.coupling import Coupling
from sparselmm.factor.crossprod import CrossProducts, PairBlocks

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Strategy:
    """How M is factored.

    Attributes
    ----------
    leading : int or None
        Term eliminated in closed form.
    remainder : {"dense", "sparse"}
        LAPACK or CHOLMOD for the rest.
    ordering, mode
        CHOLMOD's, used when the remainder is sparse.
    """

    leading: int | None
    remainder: Literal["dense", "sparse"]
    ordering: Ordering = "amd"
    mode: Mode = "supernodal"


@dataclass(frozen=True, eq=False)
class Layout:
    """Which columns of M lead, which trail, and how they meet.

    Attributes
    ----------
    leading : int or None
        Term eliminated in closed form.
    trailing : tuple of int
        The other terms.
    starts : dict
        First trailing column of each trailing term.
    n_trailing : int
        Number of trailing columns.
    inner : dict
        Blocks of A between trailing terms.
    outer : dict
        Blocks of A of each trailing term with the leading term, by leading level.
    coupling : Coupling or None
        The same as lists of columns; None when nothing leads or nothing trails.
    """

    leading: int | None
    trailing: tuple[int, ...]
    starts: dict[int, int]
    n_trailing: int
    inner: dict[Pair, PairBlocks]
    outer: dict[int, PairBlocks]
    coupling: Coupling | None

    @classmethod
    def of(cls, cross: CrossProducts, leading: int | None) -> Layout:
        """Layout of a model with the given leading term."""
        trailing = tuple(t for t in range(len(cross.sizes)) if t != leading)
        starts, n = {}, 0
        for t in trailing:
            starts[t] = n
            n += cross.sizes[t][0] * cross.sizes[t][1]
        inner = {(s, t): cross.pairs[s, t] for s in trailing for t in trailing if s >= t}
        if leading is None or not trailing:
            return cls(leading, trailing, starts, n, inner, {}, None)
        outer = {s: cross.pair(s, leading) for s in trailing}
        return cls(leading, trailing, starts, n, inner, outer, Coupling.of(outer, starts, n))

    def coordinates(self, pair: Pair) -> tuple[IntArray, IntArray]:
        """Trailing rows and columns of the entries of a pair of trailing terms."""
        return self.inner[pair].coordinates(self.starts[pair[0]], self.starts[pair[1]])

    def remainder_pattern(self) -> Pattern:
        """Pattern of the Schur complement of the leading columns."""
        at = [self.coordinates(pair) for pair in self.inner]
        rows = [r.ravel() for r, _ in at]
        cols = [c.ravel() for _, c in at]
        if self.coupling is not None:
            meets = sp.csr_array(
                (
                    np.ones(len(self.coupling.cols), np.int32),
                    self.coupling.cols,
                    self.coupling.indptr,
                ),
                shape=(len(self.coupling.indptr) - 1, self.n_trailing),
            )
            fill = sp.tril(meets.T @ meets, format="coo")
            rows.append(fill.row)
            cols.append(fill.col)
        return Pattern.of(np.concatenate(rows), np.concatenate(cols), self.n_trailing)
