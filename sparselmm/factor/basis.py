"""The working basis of the fixed effects: orthonormal columns of the rank of X."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import lapack, solve_triangular

from sparselmm.base.smallmatrix import upper_inverse
from sparselmm.base.types import FloatArray, IntArray, Snapshot
from sparselmm.design.rows import blocks

RANK_TOLERANCE = 1e-7
"""A column is dependent when its residual norm is below this share of its norm (as R's ``qr``)."""


ROUNDING = 100 * float(np.finfo(float).eps)
"""Relative error of an entry of X, made by a spline basis for example, that counts as rounding."""


GRAM_RCOND = 1e-5
"""The Gram matrix squares the condition: below this one, its factor has lost too many digits."""


POOR_RCOND = 1e-9
"""Below this one the columns kept make a poor basis, and others of as many are tried."""


@dataclass(frozen=True, eq=False)
class Basis(Snapshot):
    """Working basis of the fixed effects: ``Q = X[:, kept] T`` and ``y - X[:, kept] shift``.

    Attributes
    ----------
    p : int
        Columns of X, dependent ones included.
    kept : ndarray of int, (r,)
        Linearly independent columns of X.
    T : ndarray, (r, r)
        Upper triangular; ``Q'WQ`` is the identity up to rounding.
    shift : ndarray, (r,)
        Least-squares coefficients subtracted from the response.
    """

    p: int
    kept: IntArray
    T: FloatArray
    shift: FloatArray

    @property
    def rank(self) -> int:
        """Number of independent columns, r."""
        return len(self.kept)

    @cached_property
    def logdet(self) -> float:
        """``log det(T'T)``, what the change of basis adds to ``log det S_xx``."""
        return float(2.0 * np.log(np.abs(self.T.diagonal())).sum())

    def apply(self, X: FloatArray, y: FloatArray, out: FloatArray | None = None) -> FloatArray:
        """``[Q, y - X shift]`` for some rows, (m, r + 1)."""
        part = X if self.rank == self.p else X[:, self.kept]
        out = np.empty((len(y), self.rank + 1)) if out is None else out
        np.matmul(part, self.T, out=out[:, :-1])
        np.subtract(y, part @ self.shift, out=out[:, -1])
        return out


def working_basis(X: FloatArray, y: FloatArray, w: FloatArray | None) -> Basis:
    """Independent columns of X, the map that makes them orthonormal, and the OLS shift.

    The Gram matrix decides when the columns are clearly independent. Otherwise X is
    factored by QR in row blocks and a column is dropped, as R's ``lm`` and lme4 do, when
    what the kept columns to its left leave of it is below `RANK_TOLERANCE` of its norm, or no
    more than rounding: with coefficients c on them, `ROUNDING` times the sum of ``|c_i| ||x_i||``.
    Where that leaves a poor basis, such as the first half of a spline with a knot between any two
    values, as many columns further apart are kept instead.

    Parameters
    ----------
    X : ndarray, (n, p)
    y : ndarray, (n,)
        Response less offset.
    w : ndarray, (n,), or None
        Prior weights.
    """
    p = X.shape[1]
    if p == 0:
        return Basis(0, np.zeros(0, dtype=np.intp), np.zeros((0, 0)), np.zeros(0))
    kept: IntArray = np.arange(p)
    G, right = _gram(X, y, w)
    R = _gram_factor(G)
    if R is None:
        R, kept = _qr_factor(X, w)
    T = upper_inverse(R)
    shift = T @ (T.T @ right[kept])
    shift += T @ (T.T @ _residual_products(X, y, w, kept, shift))  # removes the rounding error
    return Basis(p, kept, T, shift)


def _gram(X: FloatArray, y: FloatArray, w: FloatArray | None) -> tuple[FloatArray, FloatArray]:
    """``X'WX`` and ``X'Wy``."""
    p = X.shape[1]
    G, right = np.zeros((p, p)), np.zeros(p)
    for rows in blocks(len(X)):
        part = X[rows] if w is None else X[rows] * w[rows, None]
        G += part.T @ X[rows]
        right += part.T @ y[rows]
    return G, right


def _residual_products(
    X: FloatArray, y: FloatArray, w: FloatArray | None, kept: IntArray, shift: FloatArray
) -> FloatArray:
    """``X'W(y - X shift)`` of the independent columns."""
    coefficients = np.zeros(X.shape[1])
    coefficients[kept] = shift
    out = np.zeros(X.shape[1])
    for rows in blocks(len(X)):
        residual = y[rows] - X[rows] @ coefficients
        out += X[rows].T @ (residual if w is None else residual * w[rows])
    return out if len(kept) == len(out) else out[kept]


def _gram_factor(G: FloatArray) -> FloatArray | None:
    """Upper Cholesky factor of X'WX, or None where columns may be dependent."""
    scale = np.sqrt(G.diagonal())
    if not scale.min() > 0:
        return None
    R, info = lapack.dpotrf(G / (scale[:, None] * scale), lower=0, clean=1)
    clearly_independent = 1e-3  # squared in the Gram matrix: far above rounding
    if info or R.diagonal().min() < clearly_independent:
        return None
    rcond, _ = lapack.dtrcon(R, uplo="U")  # its columns have length one
    return None if rcond < GRAM_RCOND else R * scale  # columns may depend on many together


def _qr_factor(X: FloatArray, w: FloatArray | None) -> tuple[FloatArray, IntArray]:
    """Triangular factor of the independent columns of ``sqrt(W) X``, and which they are.

    Where the columns to its left span the constant, the norm of a column is that of its
    differences from the mean: origins do not make columns dependent.
    """
    p = X.shape[1]
    R = np.zeros((0, p + 1))
    for rows in blocks(len(X)):
        part = np.column_stack([X[rows], np.ones(len(X[rows]))])
        part = part if w is None else part * np.sqrt(w[rows, None])
        R = np.asarray(np.linalg.qr(np.vstack([R, part]), mode="r"))
    return independent_columns(R)


def independent_columns(R: FloatArray) -> tuple[FloatArray, IntArray]:
    """Triangular factor of the independent columns of X, and which they are.

    Parameters
    ----------
    R : ndarray, (m, p + 1)
        Triangular factor of ``sqrt(W) [X, 1]``.
    """
    kept, factor = _independent(R, RANK_TOLERANCE)
    rcond = _rcond(factor)
    for tolerance in (0.1, 0.01, 0.001) if rcond < POOR_RCOND else ():
        others, better = _independent(R, tolerance)
        if len(others) == len(kept) and _rcond(better) > 1e3 * rcond:
            return better, others
    return factor, kept


def _independent(R: FloatArray, tolerance: float) -> tuple[IntArray, FloatArray]:
    """Columns of R, from the left, that are independent, and their triangular factor.

    The last column of R is the constant and none of them.
    """
    p = R.shape[1] - 1
    norms = np.linalg.norm(R, axis=0)
    one = R[:, p] / norms[p]
    centred = np.linalg.norm(R - np.outer(one, one @ R), axis=0)
    Q, U = np.zeros((len(R), min(len(R), p))), np.zeros((min(len(R), p), p))
    kept: list[int] = []
    for j in range(p):
        r = len(kept)
        if r == len(U):
            break
        parts = Q[:, :r].T @ R[:, j]
        left = R[:, j] - Q[:, :r] @ parts
        again = Q[:, :r].T @ left
        left -= Q[:, :r] @ again
        size = np.linalg.norm(left)
        spanned = np.linalg.norm(one - Q[:, :r] @ (Q[:, :r].T @ one)) < RANK_TOLERANCE
        if size <= tolerance * (centred[j] if spanned else norms[j]):
            continue
        c = solve_triangular(U[:r, :r], parts, check_finite=False) if r else parts
        if size > ROUNDING * float(np.abs(c) @ norms[kept]):
            Q[:, r], U[:r, r], U[r, r] = left / size, parts + again, size
            kept.append(j)
    return np.array(kept, dtype=np.intp), U[: len(kept), : len(kept)]


def _rcond(R: FloatArray) -> float:
    """Reciprocal condition of a triangular factor whose columns are scaled to one length."""
    if not len(R):
        return 1.0
    rcond, _ = lapack.dtrcon(R / np.linalg.norm(R, axis=0), uplo="U")
    return float(rcond)
