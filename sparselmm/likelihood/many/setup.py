"""What all responses share: the blocks of A and B as stacks of small dense problems use them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from sparselmm.base.types import CSR, FloatArray, IntArray
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.many.reduced import STACK_NUMBERS
from sparselmm.likelihood.term_covariance import OneCoefficient, TermCovariance

LARGEST_REST = 320
"""Random and fixed effects left after the head up to which stacks of dense matrices pay."""

LARGEST_TENSOR = 8_000_000
"""Products of the rows of ``E_l``, each counted twice by symmetry (32 MB dense)."""

MOSTLY_ZERO = 0.125
"""Share of nonzeros below which the tensor is kept sparse."""

Operator = FloatArray | CSR


@dataclass(frozen=True, eq=False)
class Head:
    """The factor that is eliminated in closed form.

    Attributes
    ----------
    term : int
    A : ndarray, (l, k, k)
        Its diagonal blocks of A.
    E : ndarray or csr_array, (l k, N + r)
        Coupling to the rest.
    tensor : ndarray or csr_array, (l k k, (N + r) (N + r + 1) / 2)
        Symmetric part of the outer product of ``E_l[a]`` and ``E_l[b]`` in row (l, a, b), the
        lower triangle row by row.
    """

    term: int
    A: FloatArray
    E: Operator
    tensor: Operator


@dataclass(frozen=True, eq=False)
class BatchedModel:
    """A model set up for many responses.

    Attributes
    ----------
    cross : CrossProducts
        Of the design; its response is not used.
    reml : bool
    df : int
        ``n - r`` (REML) or ``n``.
    units : ndarray, (n_theta,)
        What counts as one in each entry of theta.
    unit_roots : list of ndarray, (k, k)
        What counts as one in each ``lambda_t``.
    head : Head or None
    trailing : tuple of int
        The other terms.
    rest : ndarray, (N + r, N + r)
        ``[[A_RR, B_Rx], [B_xR, C_xx]]``.
    columns : ndarray of int, (N,)
        Columns of Z of the other terms.
    """

    cross: CrossProducts
    covariance: Covariance
    reml: bool
    df: int
    units: FloatArray
    unit_roots: list[FloatArray]
    head: Head | None
    trailing: tuple[int, ...]
    rest: FloatArray
    columns: IntArray

    @classmethod
    def of(cls, deviance: ProfiledDeviance) -> BatchedModel | None:
        """The model of a deviance; None when stacks of dense matrices do not suit it.

        That is when theta is empty, when more than `LARGEST_REST` effects or more than
        `LARGEST_TENSOR` products are left beside the head, when a ``lambda_t`` is not a plain
        triangle or diagonal, and when sigma^2 is known.
        """
        cross, covariance = deviance.cross, deviance.covariance
        plain = all(type(term) in (TermCovariance, OneCoefficient) for term in covariance.terms)
        if not plain or not covariance.n_theta or deviance.known_scale is not None:
            return None
        lead = _lead(cross)
        trailing = tuple(t for t in range(len(cross.sizes)) if t != lead)
        columns = np.concatenate(
            [np.arange(cross.slices[t].start, cross.slices[t].stop) for t in trailing]
            or [np.zeros(0, dtype=np.intp)]
        )
        if len(columns) + cross.basis.rank > LARGEST_REST:
            return None
        head = None
        if lead is not None:
            head = _head(cross, lead, columns)
            if head is None:
                return None
        return cls(
            cross, covariance, deviance.reml, deviance.df, deviance.units, deviance.unit_roots,
            head, trailing, _rest(cross, columns), columns,
        )  # fmt: skip

    @property
    def n_random(self) -> int:
        """Random effects besides the head's, N."""
        return len(self.columns)

    @cached_property
    def parts(self) -> dict[int, slice]:
        """Rows of ``rest`` that belong to each of the other terms."""
        out, first = {}, 0
        for t in self.trailing:
            k, l = self.cross.sizes[t]
            out[t] = slice(first, first + k * l)
            first += k * l
        return out

    @cached_property
    def scalar(self) -> bool:
        """Whether all the other terms have one coefficient per level."""
        return all(self.cross.sizes[t][0] == 1 for t in self.trailing)

    @cached_property
    def stack(self) -> int:
        """Responses evaluated together."""
        head = 0 if self.head is None else self.head.A.size
        return int(np.clip(STACK_NUMBERS // max(self.rest.size, head, 1), 8, 1024))


def _lead(cross: CrossProducts) -> int | None:
    """The largest term with a block-diagonal part of A."""
    able = [t for t in range(len(cross.sizes)) if cross.pairs[t, t].is_block_diagonal]
    return max(able, key=lambda t: cross.sizes[t][0] * cross.sizes[t][1], default=None)


def _rest(cross: CrossProducts, columns: IntArray) -> FloatArray:
    n, r = len(columns), cross.basis.rank
    rest = np.zeros((n + r, n + r))
    rest[:n, :n] = cross.A[columns][:, columns].toarray()
    rest[:n, n:] = cross.B[columns, :-1]
    rest[n:, :n] = rest[:n, n:].T
    rest[n:, n:] = cross.C[:-1, :-1]
    return rest


def _head(cross: CrossProducts, lead: int, columns: IntArray) -> Head | None:
    """The head; None when its tensor would be too large."""
    k, l = cross.sizes[lead]
    part = cross.slices[lead]
    Bx = sp.csr_array(cross.B[part, :-1])
    E = sp.csr_array(sp.hstack([cross.A[part][:, columns], Bx], format="csr"))
    tensor = _tensor(E, l, k)
    if tensor is None:
        return None
    coupling = E.toarray() if E.nnz > 0.1 * E.shape[0] * E.shape[1] else E
    return Head(lead, cross.pairs[lead, lead].data, coupling, tensor)


def _tensor(E: CSR, l: int, k: int) -> Operator | None:
    """Products of all pairs of rows of one level, None when there are too many."""
    width = E.shape[1]
    counts = np.diff(E.indptr).reshape(l, k).max(axis=1).astype(float)
    size = float((counts**2).sum()) * k * k
    dense = float(l * k * k) * width * width
    if min(size * 4.0, dense) > LARGEST_TENSOR:
        return None
    if dense <= LARGEST_TENSOR and size >= MOSTLY_ZERO * dense:
        rows = E.toarray().reshape(l, k, width)
        i, j = np.tril_indices(width)
        low, high = rows[:, :, i], rows[:, :, j]
        products = low[:, :, None] * high[:, None] + high[:, :, None] * low[:, None]
        return np.asarray(0.5 * products.reshape(l * k * k, -1))
    parts = []
    for a in range(k):
        for b in range(k):
            parts.append(_row_products(E[a::k], E[b::k], width))
    order = np.arange(l * k * k).reshape(k * k, l).T.ravel()
    return sp.csr_array(sp.vstack(parts, format="csr")[order])


def _row_products(left: CSR, right: CSR, width: int) -> CSR:
    """Symmetric parts of the outer products row by row, packed, (l, width (width + 1) / 2)."""
    nl, nr = np.diff(left.indptr), np.diff(right.indptr)
    sizes = nl * nr
    row = np.repeat(np.arange(len(sizes)), sizes)
    step = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    i = left.indptr[row] + step // np.maximum(nr[row], 1)
    j = right.indptr[row] + step % np.maximum(nr[row], 1)
    a, b = left.indices[i].astype(np.int64), right.indices[j].astype(np.int64)
    high = np.maximum(a, b)
    columns = high * (high + 1) // 2 + np.minimum(a, b)
    data = left.data[i] * right.data[j] * np.where(a == b, 1.0, 0.5)
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    out = sp.csr_array((data, columns, indptr), shape=(len(sizes), width * (width + 1) // 2))
    out.sum_duplicates()
    return out
