"""Cross-products of rows that are never together: partition by partition, in a provisional basis.

`Provisional` is learned on a sample: a triangular map of X that makes its columns nearly
orthonormal there, coefficients that take the response off X, and working bases of the random
coefficients. `Products` of partitions in it are added in a fixed order, and `finished` turns their
sum into `CrossProducts`, by small algebra:

    C = [Q0 e0]'W[Q0 e0] = the sum,  R1'R1 = C_QQ,  R = R1 R0 the triangular factor of X,
    Q = X[:, kept] T = Q0 P,  e = e0 - Q (P'C_Qe).

Where that loses digits, because the sample has shown too little of the rows, the basis of all rows
becomes the provisional one of another pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.linalg import lapack, solve_triangular

from sparselmm.base.smallmatrix import upper_inverse
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.built import Cells, Numbers
from sparselmm.design.rows import BLOCK_ROWS, blocks, response
from sparselmm.design.terms import Design, DesignLayout, RowSums, term_slices
from sparselmm.factor.bases import WELL_CONDITIONED, term_basis, terms_in_bases
from sparselmm.factor.basis import Basis, independent_columns
from sparselmm.factor.crossprod import CrossProducts, add_term_product, apart, check_residual
from sparselmm.factor.partition_pairs import ByLevel, Keyed, PairSums, pairs_added
from sparselmm.factor.row_sums import NOTHING, Plain, row_sums

POOR = 1e-8
"""Smallest eigenvalue of the Gram matrix in the provisional basis, columns scaled to one length,
from which its digits suffice."""

SPANNED = 1e-10
"""Square of the share of a column's length, left by those before it, that is nearly nothing."""

LOST = 1e-9
"""Share of the sum of squares left by the provisional coefficients below which digits are lost."""

Pairs = dict[tuple[int, int], Keyed | ByLevel]
"""Products of pairs of terms."""


@dataclass(frozen=True, eq=False)
class Provisional:
    """A basis to form products in.

    Attributes
    ----------
    T, R : ndarray, (p, p)
        ``Q0 = X T`` and ``R = T^-1``, upper triangular.
    shift : ndarray, (p,)
        ``e0 = y - X shift``.
    bases : tuple of ndarray (k, k) or None
        Working basis of every term.
    """

    T: FloatArray
    R: FloatArray
    shift: FloatArray
    bases: tuple[FloatArray | None, ...]

    @property
    def basis(self) -> Basis:
        """As a basis with all columns."""
        return Basis(len(self.T), np.arange(len(self.T)), self.T, self.shift)

    @classmethod
    def of(cls, sample: Design) -> Provisional:
        """From some rows.

        A column that the others span in the sample is only taken off them, not scaled.
        """
        X, y, w = sample.X, response(sample), sample.weights
        root = np.ones(len(y)) if w is None else np.sqrt(np.maximum(w, 0.0))
        live = (root > 0) & np.isfinite(y) & np.isfinite(X).all(axis=1)
        X, y, root = X[live], y[live], root[live]
        n, p = X.shape
        R, Q = np.zeros((p, p)), np.zeros((n, p))
        size = max(float(np.sqrt(root @ root)), 1.0)
        for j in range(p):
            left = X[:, j] * root
            before = float(np.linalg.norm(left))
            for _ in range(2):
                part = Q[:, :j].T @ left
                left, R[:j, j] = left - Q[:, :j] @ part, R[:j, j] + part
            norm = float(np.linalg.norm(left))
            if norm > 1e-7 * before:
                Q[:, j], R[j, j] = left / norm, norm
            else:
                R[j, j] = before if before > 0 else size
        R /= size
        T = upper_inverse(R)
        shift = T @ (Q.T @ (y * root)) / size
        return cls(T, R, shift, tuple(term_basis(term, w) for term in sample.terms))


@dataclass(frozen=True, eq=False)
class Products:
    """Products of some rows, in a provisional basis.

    Attributes
    ----------
    counts : tuple of (int, int)
        Rows read and rows in use, of every partition.
    n : int
        Rows of positive weight.
    sum_w, sum_log_w : float
        Sums over them.
    squares : float
        ``y'Wy``, the offset taken off.
    low, high : float
        Smallest and largest response.
    B : ndarray, (q, p + 2)
        ``Z'W [Q0 e0 1]``.
    C : ndarray, (p + 2, p + 2)
        ``[Q0 e0 1]'W [Q0 e0 1]``.
    groups : ndarray of int, (n_groups,), or None
        Rows of every group.
    constant : ndarray, (p,)
        The value of the columns of X that have one; NaN for the others.
    plain : Plain or None
        Sums without weights; None where no row is in use.
    numbers : dict of str to Numbers
        Columns of numbers that X is made of.
    cells : Cells or None
        Rows by the levels of its factors.
    """

    counts: tuple[tuple[int, int], ...]
    n: int = 0
    sum_w: float = 0.0
    sum_log_w: float = 0.0
    squares: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    B: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    C: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    pairs: Pairs = field(default_factory=dict)
    groups: IntArray | None = None
    constant: FloatArray = field(default_factory=lambda: np.zeros(0))
    plain: Plain | None = None
    numbers: dict[str, Numbers] = field(default_factory=dict)
    cells: Cells | None = None

    def __sizeof__(self) -> int:
        """Bytes, by which a cluster plans what it moves and holds."""
        parts = [self.B, self.C, *self.pairs.values()]
        return object.__sizeof__(self) + sum(part.nbytes for part in parts)


class Accumulator:
    """Products of the rows of one partition, some rows after the others."""

    def __init__(self, template: DesignLayout, provisional: Provisional) -> None:
        self._provisional, self._basis = provisional, provisional.basis
        p, terms = len(provisional.T), template.terms
        self._parts = term_slices(terms)
        self._B, self._C = np.zeros((template.q, p + 2)), np.zeros((p + 2, p + 2))
        self._rows = np.ones((BLOCK_ROWS, p + 2))
        self._totals: list[Products] = []
        counts = [self._B[part, -1] for part in self._parts]
        self._pairs = {
            (s, t): PairSums(terms[s], terms[t], (counts[s], counts[t]))
            for s in range(len(terms))
            for t in range(s + 1)
        }

    def add(
        self, design: Design | None, groups: IntArray | None, read: int,
        numbers: dict[str, Numbers], cells: Cells | None,
    ) -> None:  # fmt: skip
        """Add the products of some rows, with a column of ones for their counts."""
        if design is None:
            self._totals.append(Products(((read, 0),)))
            return
        w, y = design.weights, response(design)
        terms = terms_in_bases(design.terms, self._provisional.bases)
        for (s, t), sums in self._pairs.items():
            sums.add(terms[s], terms[t], w)
        for rows in blocks(design.n):
            full = self._rows[: rows.stop - rows.start]
            self._basis.apply(design.X[rows], y[rows], out=full[:, :-1])
            weighted = full if w is None else full * w[rows, None]
            self._C += full.T @ weighted
            for term, part in zip(terms, self._parts, strict=True):
                add_term_product(self._B[part], term, rows, weighted)
        plain = Plain.of(design, self._provisional.T)
        totals = _totals(design, y, groups, read)
        self._totals.append(replace(totals, plain=plain, numbers=numbers, cells=cells))

    def result(self) -> Products:
        """The products of all rows added."""
        total = added(self._totals) if self._totals else Products(((0, 0),))
        counts = np.sum(total.counts, axis=0)
        counted = ((int(counts[0]), int(counts[1])),)
        if not counted[0][1]:
            return Products(counted)
        pairs: Pairs = {at: sums.result() for at, sums in self._pairs.items()}
        return replace(total, counts=counted, B=self._B, C=self._C, pairs=pairs)


def _totals(design: Design, y: FloatArray, groups: IntArray | None, read: int) -> Products:
    """Sums over some rows, but for their products."""
    w = design.weights
    live = np.ones(0) if w is None else w[w > 0]
    return Products(
        ((read, design.n),), n=design.n if w is None else len(live),
        sum_w=float(design.n) if w is None else float(live.sum()),
        sum_log_w=float(np.log(live).sum()),
        squares=float(y @ y if w is None else y @ (w * y)), low=float(design.y.min()),
        high=float(design.y.max()), groups=groups,
        constant=_constants(design.X),
    )  # fmt: skip


def _constants(X: FloatArray) -> FloatArray:
    """The value of the columns that have one, NaN for the others, (p,)."""
    out = np.where((X[:64] == X[0]).all(axis=0), X[0], np.nan)
    for j in np.flatnonzero(~np.isnan(out)):
        if (X[:, j] != out[j]).any():
            out[j] = np.nan
    return out


def added(parts: Sequence[Products]) -> Products:
    """Products of the rows of several partitions."""
    counts = tuple(count for part in parts for count in part.counts)
    live = [part for part in parts if part.low <= part.high]
    if not live:
        return Products(counts)
    first, rest = live[0], live[1:]
    B, C, groups = first.B.copy(), first.C.copy(), first.groups
    for part in rest:
        B += part.B
        C += part.C
        groups = part.groups if groups is None or part.groups is None else groups + part.groups
    constants = np.stack([part.constant for part in live])
    return Products(
        counts, n=sum(part.n for part in live), sum_w=sum(part.sum_w for part in live),
        sum_log_w=sum(part.sum_log_w for part in live), squares=sum(part.squares for part in live),
        low=min(part.low for part in live), high=max(part.high for part in live), B=B, C=C,
        groups=groups,
        pairs={at: pairs_added([part.pairs[at] for part in live]) for at in first.pairs},
        constant=np.where((constants == constants[0]).all(axis=0), constants[0], np.nan),
        plain=Plain.added([part.plain for part in live if part.plain is not None]),
        numbers={n: Numbers.merged([part.numbers[n] for part in live]) for n in first.numbers},
        cells=Cells.merged([part.cells for part in live], first.numbers),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Finished:
    """What the products of all rows give.

    Attributes
    ----------
    cross : CrossProducts or None
        None when digits were lost.
    sums : RowSums or None
        None then, too.
    again : Provisional
        The basis to form them in then.
    """

    cross: CrossProducts | None
    sums: RowSums | None
    again: Provisional


def finished(total: Products, provisional: Provisional, template: DesignLayout) -> Finished:
    """Cross-products in the working basis of all rows.

    Parameters
    ----------
    total : Products
        Of all rows.
    provisional : Provisional
        The basis they are in.
    template : DesignLayout
        Names and terms of the design.
    """
    p = len(provisional.T)
    G = total.C[:p, :p]
    norms = np.sqrt(np.diag(G))
    live = norms > NOTHING * np.sqrt(total.sum_w)
    S = G[np.ix_(live, live)] / np.outer(norms[live], norms[live])
    poor = bool(len(S)) and float(np.linalg.eigvalsh(S)[0]) < POOR
    R1 = _root(S) * norms[live]
    whole = np.diag(norms)
    whole[np.ix_(live, live)] = R1
    bases, off = _term_bases(total, provisional, template)
    again = _combined(provisional, whole, live, total, bases)
    if poor or off:
        return Finished(None, None, again)
    c = np.zeros(p)
    c[live] = solve_triangular(R1, total.C[:p, -1][live], trans="T", check_finite=False)
    corner = np.sqrt(max(total.sum_w - float(c @ c), 0.0))
    full = np.vstack([np.column_stack([whole @ provisional.R, c]), np.append(np.zeros(p), corner)])
    factor, kept = (full[:0, :0], np.zeros(0, int)) if not p else independent_columns(full)
    cross = _cross(total, provisional, template, factor, kept)
    if cross.C[-1, -1] < LOST * total.C[p, p]:
        return Finished(None, None, again)
    assert total.plain is not None
    one = np.append(total.C[:p, -1], total.n)
    unweighted = np.block([[G, one[:p, None]], [one[None]]])
    sums = row_sums(total.plain, unweighted, total.n, total.constant, provisional.R, cross)
    return Finished(cross, sums, again)


def _root(S: FloatArray) -> FloatArray:
    """Upper Cholesky factor of a Gram matrix of columns of length one.

    A column that those before it nearly span is only taken off them, its length left as it is.
    """
    left, R = S.copy(), np.zeros_like(S)
    for j in range(len(S)):
        if left[j, j] > SPANNED:
            R[j, j:] = left[j, j:] / np.sqrt(left[j, j])
            left[j + 1 :, j + 1 :] -= np.outer(R[j, j + 1 :], R[j, j + 1 :])
        else:
            R[j, j] = 1.0
    return R


def _combined(
    old: Provisional, whole: FloatArray, live: IntArray, total: Products,
    bases: tuple[FloatArray | None, ...],
) -> Provisional:  # fmt: skip
    """The provisional basis made better by the products of all rows."""
    p = len(old.T)
    size = np.sqrt(total.sum_w)
    R1 = whole / size
    R1[~live, ~live] = 1.0
    T1 = upper_inverse(R1)
    inner = np.zeros(p)
    part = T1[np.ix_(live, live)]
    inner[live] = part @ (part.T @ total.C[:p, p][live]) / total.sum_w
    return Provisional(old.T @ T1, R1 @ old.R, old.shift + old.T @ inner, bases)


def _cross(
    total: Products,
    provisional: Provisional,
    template: DesignLayout,
    factor: FloatArray,
    kept: IntArray,
) -> CrossProducts:
    p, r = len(provisional.T), len(kept)
    T = upper_inverse(factor)
    P = provisional.R[:, kept] @ T
    G = total.C[:p, :p]
    spanned = provisional.R @ provisional.shift
    onto, delta = P.T @ (G @ spanned), P.T @ total.C[:p, p]
    change = np.zeros((p + 2, r + 1))
    change[:p, :r] = P
    change[:p, r] = spanned - P @ (onto + delta)
    change[p, r] = 1.0
    if r == p:  # nothing is dropped: no difference of large numbers
        change[:p, r] = -P @ delta
        shift = provisional.shift + T @ delta
    else:
        shift = T @ (onto + delta)
    basis = Basis(p, kept, T, shift)
    C = change.T @ total.C @ change
    C = (C + C.T) / 2.0
    check_residual(total.n, basis.rank, template.y_name, total.squares, float(C[-1, -1]))
    sizes = tuple((term.k, term.n_levels) for term in template.terms)
    pairs = {at: total.pairs[at].pair(*(sizes[t][1] for t in at)) for at in sorted(total.pairs)}
    bases = None if all(F is None for F in provisional.bases) else provisional.bases
    return CrossProducts(
        *apart(sizes, pairs), total.B @ change, C, basis, total.n, total.sum_log_w, bases
    )  # fmt: skip


def _term_bases(
    total: Products, provisional: Provisional, template: DesignLayout
) -> tuple[tuple[FloatArray | None, ...], bool]:
    """Working bases of the random coefficients, and whether those of the sample were no good."""
    out, off = [], False
    for t, (term, F) in enumerate(zip(template.terms, provisional.bases, strict=True)):
        better = F
        if term.k > 1 and term.structure == "unstructured":
            own = total.pairs[t, t].pair(term.n_levels, term.n_levels)
            moments = own.data[own.rows == own.cols].sum(axis=0)
            size = np.sqrt(np.diag(moments))
            if (size > 0).all():
                scaled = moments / np.outer(size, size)
                if np.linalg.eigvalsh(scaled)[0] < WELL_CONDITIONED / 10.0:
                    R, info = lapack.dpotrf(scaled, lower=0)
                    if not info:
                        R = np.triu(R) * size / np.sqrt(total.sum_w)
                        better, off = R if F is None else R @ F, True
        out.append(better)
    return tuple(out), off
