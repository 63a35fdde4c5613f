"""Which columns an elimination takes first, and how the pairs of terms lie in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp

from sparselmm.base import cholesky
from sparselmm.base.cholesky import Mode, Ordering
from sparselmm.base.types import IntArray
from sparselmm.factor.coupling import Coupling
from sparselmm.factor.pattern import Pair, PairPattern, Pattern


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
    pattern : Pattern
        Of A.
    leading : int or None
        Term eliminated in closed form.
    trailing : tuple of int
        The other terms.
    starts : dict
        First trailing column of each trailing term.
    n_trailing : int
        Number of trailing columns.
    inner : dict
        Patterns of A between trailing terms.
    outer : dict
        Patterns of each trailing term with the leading term, by leading level.
    coupling : Coupling or None
        The same as lists of columns; None when nothing leads or nothing trails.
    """

    pattern: Pattern
    leading: int | None
    trailing: tuple[int, ...]
    starts: dict[int, int]
    n_trailing: int
    inner: dict[Pair, PairPattern]
    outer: dict[int, PairPattern]
    coupling: Coupling | None

    @classmethod
    def of(cls, pattern: Pattern, leading: int | None) -> Layout:
        """Layout of a model with the given leading term."""
        trailing = tuple(t for t in range(len(pattern.sizes)) if t != leading)
        starts, n = {}, 0
        for t in trailing:
            starts[t] = n
            n += pattern.sizes[t][0] * pattern.sizes[t][1]
        inner = {(s, t): pattern.pairs[s, t] for s in trailing for t in trailing if s >= t}
        if leading is None or not trailing:
            return cls(pattern, leading, trailing, starts, n, inner, {}, None)
        outer = {s: pattern.pair(s, leading) for s in trailing}
        coupling = Coupling.of(outer, pattern.sizes, starts, n)
        return cls(pattern, leading, trailing, starts, n, inner, outer, coupling)

    def coordinates(self, pair: Pair) -> tuple[IntArray, IntArray]:
        """Trailing rows and columns of the entries of a pair of trailing terms."""
        starts = self.starts[pair[0]], self.starts[pair[1]]
        return self.inner[pair].coordinates(starts, self.pattern.orders(*pair))

    def remainder_pattern(self) -> cholesky.Pattern:
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
        return cholesky.Pattern.of(np.concatenate(rows), np.concatenate(cols), self.n_trailing)
