"""Models nested in a fitted one, made from its cross-products without another look at the rows.

A submodel replaces ``Z_t`` by ``Z_t (I (x) C)``, drops a term, or drops columns ``X_d`` of X, whose
coefficients are then known (zero, or the values of a profile). In the working basis ``Q = X T``

    X_s = X S = Q H,  H = T^-1 S = U R  (QR),   Q_s = Q U,   T_s = R^-1
    y_s = y - X_d v - X_s shift_s = (y - X shift) + Q w,   w = (I - UU') T^-1 e_d (shift_d - v)

so that B and C of the submodel are products of the old ones with U and w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sparselmm.base.smallmatrix import solve_triangular, upper_inverse
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.factor.basis import Basis, independent_columns
from sparselmm.factor.crossprod import CrossProducts, PairBlocks


def mixed_columns(cross: CrossProducts, t: int, C: FloatArray) -> CrossProducts:
    """Cross-products with the coefficients of term t mixed: ``Z_t`` becomes ``Z_t (I (x) C)``.

    Parameters
    ----------
    t : int
        The term.
    C : ndarray, (k, m)
        Columns of the identity select coefficients; no column at all drops the term.
    """
    k, l = cross.sizes[t]
    m = C.shape[1]
    if m == 0:
        return _without_term(cross, t)
    bases = cross.bases
    if bases is not None and (F := bases[t]) is not None:
        C, R = np.linalg.qr(F @ C)  # Z_t (I (x) C) = Z~_t (I (x) Q R)
        bases = (*bases[:t], R, *bases[t + 1 :])
    pairs = {}
    for (r, c), blocks in cross.pairs.items():
        data = blocks.data
        data = np.einsum("bij,ia->baj", data, C, optimize=True) if r == t else data
        data = np.einsum("bij,ja->bia", data, C, optimize=True) if c == t else data
        pairs[r, c] = replace(blocks, data=np.ascontiguousarray(data))
    part = cross.slices[t]
    middle = np.einsum("lkc,ka->lac", cross.B[part].reshape(l, k, -1), C, optimize=True)
    B = np.concatenate([cross.B[: part.start], middle.reshape(l * m, -1), cross.B[part.stop :]])
    sizes = (*cross.sizes[:t], (m, l), *cross.sizes[t + 1 :])
    return cross.with_pairs(sizes, pairs, B, bases)


def _without_term(cross: CrossProducts, t: int) -> CrossProducts:
    part = cross.slices[t]

    def place(s: int) -> int:
        return s - (s > t)

    pairs: dict[tuple[int, int], PairBlocks] = {
        (place(r), place(c)): blocks
        for (r, c), blocks in cross.pairs.items()
        if t not in (r, c)
    }  # fmt: skip
    B = np.concatenate([cross.B[: part.start], cross.B[part.stop :]])
    sizes = cross.sizes[:t] + cross.sizes[t + 1 :]
    bases = None if cross.bases is None else cross.bases[:t] + cross.bases[t + 1 :]
    return cross.with_pairs(sizes, pairs, B, bases)


def known_columns(
    cross: CrossProducts, columns: Sequence[int] | IntArray, values: FloatArray
) -> CrossProducts:
    """Cross-products with some fixed effects known, their columns moved to the offset.

    Parameters
    ----------
    columns : sequence of int, (d,)
        Positions among the independent columns of X.
    values : ndarray, (d,)
        Their coefficients in the units of X; zero drops a column.
    """
    return _changed(cross, *known_change(cross.basis, columns, values))


def fewer_columns(cross: CrossProducts, rows: FloatArray, columns: Sequence[int]) -> CrossProducts:
    """Cross-products without some columns of X, where some of its columns depend on others.

    Columns that were dropped take the place of those they depend on.

    Parameters
    ----------
    rows : ndarray, (m, p + 1)
        ``[X 1]`` of rows that count, or a matrix with the same products.
    columns : sequence of int
        Columns of X.
    """
    basis = cross.basis
    stay = np.setdiff1d(np.arange(basis.p), columns)
    left = np.asarray(np.linalg.qr(rows[:, np.append(stay, basis.p)], mode="r"))
    _, kept = independent_columns(left)
    own = rows[:, basis.kept]
    size = np.linalg.norm(own, axis=0)
    Q, R = np.linalg.qr(own / size)  # every column in those of the basis
    coefficients = solve_triangular(R, Q.T @ rows[:, stay[kept]]) / size[:, None]
    Tinv = upper_inverse(basis.T)
    change, T, shift = _spanned(Tinv @ coefficients, Tinv @ basis.shift)
    return _changed(cross, change, Basis(len(stay), kept, T, shift))


def _changed(cross: CrossProducts, change: FloatArray, basis: Basis) -> CrossProducts:
    return replace(cross, B=cross.B @ change, C=change.T @ cross.C @ change, basis=basis)


def known_change(
    basis: Basis, columns: Sequence[int] | IntArray, values: FloatArray
) -> tuple[FloatArray, Basis]:
    """What multiplies ``[Q, y]`` when some fixed effects are known, (r + 1, r - d + 1)."""
    known = np.asarray(columns, dtype=np.intp)
    stay = np.setdiff1d(np.arange(basis.rank), known)
    Tinv = upper_inverse(basis.T)
    v = Tinv[:, known] @ (basis.shift[known] - values)
    change, T, fitted = _spanned(Tinv[:, stay], v)
    return change, Basis(basis.p, basis.kept[stay], T, basis.shift[stay] + fitted)


def _spanned(H: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """What multiplies ``[Q, y]`` for the columns ``Q H`` and the response ``y + Q v``.

    Also the working basis T of these columns, and the coefficients it takes off the response.
    """
    r, s = H.shape
    U, T = np.zeros((r, 0)), np.zeros((0, 0))
    if s:
        U, R = np.linalg.qr(H)
        T = upper_inverse(R)
    fitted = U.T @ v
    change = np.zeros((r + 1, s + 1))
    change[:-1, :-1], change[:-1, -1], change[-1, -1] = U, v - U @ fitted, 1.0
    return change, T, T @ fitted
