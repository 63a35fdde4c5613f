"""Small dense matrices without the checks and copies of `scipy.linalg`, and sums of them.

A fit of a small model makes hundreds of these calls; general-purpose wrappers would take most of
its time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate

import numpy as np
import scipy.linalg as sla
from scipy.linalg import lapack

from sparselmm.base.exceptions import ArgumentError
from sparselmm.base.types import FloatArray, IntArray, Snapshot

IN_CACHE = 32_768
"""Numbers of a piece of work that stays in the second-level cache."""

SHARED = 32
"""Order up to which an identity matrix is kept."""

COLLINEAR = 1e-11
"""Share of the largest second moment below which a direction of covariates counts as none."""


def one_after_the_other(lengths: Iterable[int]) -> list[slice]:
    """Slices of these lengths that follow each other."""
    lengths = [int(length) for length in lengths]
    ends = accumulate(lengths)
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]


@cache
def lower_triangle(k: int, *, diagonal: bool = True) -> tuple[IntArray, IntArray]:
    """Rows and columns of the lower triangle, row by row."""
    rows, cols = np.tril_indices(k, 0 if diagonal else -1)
    rows.flags.writeable = cols.flags.writeable = False  # shared by all callers
    return rows, cols


def identity(k: int) -> FloatArray:
    """The identity, read-only; a small one is shared by all callers."""
    return _identity(k) if k <= SHARED else np.eye(k)


@cache
def _identity(k: int) -> FloatArray:
    eye = np.eye(k)
    eye.flags.writeable = False
    return eye


@cache
def columns_of_triangle(k: int) -> tuple[IntArray, IntArray]:
    """Rows and columns of the lower triangle, column by column."""
    cols, rows = np.triu_indices(k)
    rows.flags.writeable = cols.flags.writeable = False
    return rows, cols


def kron(a: FloatArray, b: FloatArray) -> FloatArray:
    """Kronecker product of two matrices."""
    (m, n), (p, q) = a.shape, b.shape
    return (a[:, None, :, None] * b[None, :, None, :]).reshape(m * p, n * q)


def root_of_sum(a: FloatArray, b: FloatArray) -> FloatArray:
    """Lower-triangular root of ``aa' + bb'``, (k, k), whatever the sizes of a and b.

    By QR of ``[a b]'``: the sum itself may have lost b to rounding.
    """
    return triangular_root(np.concatenate([a.T, b.T]))


@cache
def _upper_mask(k: int) -> FloatArray:
    """Ones on and above the diagonal."""
    return np.triu(np.ones((k, k)))


def triangular_root(x: FloatArray) -> FloatArray:
    """Lower-triangular root with non-negative diagonal of ``x'x``, (k, k), x (m, k) with m >= k."""
    k = x.shape[1]
    R = lapack.dgeqrf(x)[0][:k] * _upper_mask(k)
    return np.asarray((R * np.copysign(1.0, R.diagonal())[:, None]).T)


def block_diagonal(blocks: Sequence[FloatArray]) -> FloatArray:
    """The blocks along the diagonal of a matrix of zeros."""
    if len(blocks) == 1:
        return blocks[0]
    out = np.zeros((sum([len(b) for b in blocks]), sum([b.shape[1] for b in blocks])))
    row = col = 0
    for b in blocks:
        out[row : row + len(b), col : col + b.shape[1]] = b
        row, col = row + len(b), col + b.shape[1]
    return out


def solve_triangular(
    R: FloatArray, x: FloatArray, *, lower: bool = False, transposed: bool = False
) -> FloatArray:
    """``R^-1 x`` or ``R'^-1 x`` for a regular triangular R.

    Raises
    ------
    numpy.linalg.LinAlgError
        If a diagonal entry of R is exactly zero.
    """
    if x.size == 0:
        return np.zeros(x.shape)
    out, info = lapack.dtrtrs(R, x, lower=lower, trans=transposed)
    if info:
        raise np.linalg.LinAlgError(f"singular triangular matrix: diagonal entry {info} is zero")
    return np.asarray(out)


def eigen(H: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix, read below its diagonal."""
    if not len(H):
        return np.zeros(0), np.zeros((0, 0))
    if len(H) == 1:
        return H[0].copy(), np.ones((1, 1))
    if len(H) == 2 and math.isfinite(H[0, 0] + H[1, 0] + H[1, 1]):
        return _eigen_of_two(float(H[0, 0]), float(H[1, 0]), float(H[1, 1]))
    values, vectors, info = lapack.dsyevd(H, lower=1)
    if info:
        raise np.linalg.LinAlgError("eigenvalues did not converge")
    return np.asarray(values), np.asarray(vectors)


def eigen_stack(H: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The same of a stack of them, (m, k) and (m, k, k)."""
    if len(H) > 1:
        values, vectors = np.linalg.eigh(H)
        return values, vectors
    values, vectors = eigen(H[0])
    return values[None], vectors[None]


def _eigen_of_two(a: float, b: float, c: float) -> tuple[FloatArray, FloatArray]:
    """The same of ``[[a, b], [b, c]]``, without cancellation: LAPACK's DLAEV2."""
    total, gap, twice = a + c, a - c, b + b
    root = math.hypot(gap, twice)
    positive, first = total >= 0.0, gap >= 0.0
    far = 0.5 * (total + root if positive else total - root)  # the larger one in size
    large, small = (a, c) if abs(a) > abs(c) else (c, a)
    near = (large / far) * small - (b / far) * b if total else -far
    along = gap + root if first else gap - root
    size = math.hypot(along, twice)
    cos, sin = (along / size, twice / size) if size else (1.0, 0.0)
    if first != positive:  # that was the direction of the other one
        cos, sin = -sin, cos
    if far < near:
        return np.array([far, near]), np.array([[cos, -sin], [sin, cos]])
    return np.array([near, far]), np.array([[-sin, cos], [cos, sin]])


def svd(x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Singular value decomposition ``U diag(s) Vt`` of a square matrix, s descending."""
    U, s, Vt, info = lapack.dgesdd(x)
    if info:
        raise np.linalg.LinAlgError("singular values did not converge")
    return U, s, Vt


def singular_values(x: FloatArray) -> FloatArray:
    """Singular values of a square matrix, descending."""
    if len(x) == 2 and math.isfinite(x.sum()):
        (a, b), (c, d) = x.tolist()
        twice = math.hypot(a + d, c - b) + math.hypot(a - d, c + b)
        return np.array([0.5 * twice, 2.0 * abs(a * d - b * c) / twice if twice else 0.0])
    _, s, _, info = lapack.dgesdd(x, compute_uv=0)
    if info:
        raise np.linalg.LinAlgError("singular values did not converge")
    return np.asarray(s)


def cholesky_roots(x: FloatArray) -> FloatArray:
    """Lower Cholesky factors of a stack of positive definite matrices, (m, k, k)."""
    if len(x) > 1:
        return np.asarray(np.linalg.cholesky(x))
    root, info = lapack.dpotrf(x[0], lower=1)
    if info:
        raise np.linalg.LinAlgError("a matrix is not positive definite")
    return np.asarray(root[None])


def upper_inverse(R: FloatArray) -> FloatArray:
    """Inverse of an upper triangular matrix."""
    return solve_triangular(R, identity(len(R)))


@dataclass(frozen=True, eq=False)
class SecondMoments(Snapshot):
    """Mean products of a term's covariates over the rows, and what follows from them.

    Attributes
    ----------
    mean : ndarray, (k, k)
    """

    mean: FloatArray

    @cached_property
    def rms(self) -> FloatArray:
        """Root mean square of each covariate, (k,)."""
        return np.asarray(np.sqrt(self.mean.diagonal()))

    @cached_property
    def units(self) -> FloatArray:
        """The same with ones for covariates of zeros, (k,)."""
        return np.where(self.rms > 0.0, self.rms, 1.0)

    @cached_property
    def axes(self) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues, ascending, and eigenvectors of the moments scaled to a unit diagonal."""
        return eigen(self.mean / (self.units[:, None] * self.units))

    @cached_property
    def unit_root(self) -> FloatArray:
        """Root of the covariance of coefficients that counts as one, (k, k) lower triangular.

        The inverse of the moments is the covariance that adds about one to the variance of a
        typical row, whatever the units and the origins of the covariates are.
        """
        values, vectors = self.axes
        values = np.where(values > COLLINEAR * values[-1], values, values[-1])
        inverse = (vectors / values) @ vectors.T
        root, _ = lapack.dpotrf(inverse / (self.units[:, None] * self.units), lower=1)
        return np.asarray(root)

    @cached_property
    def independent_root(self) -> FloatArray:
        """The same of coefficients that are independent, or alone."""
        return identity(len(self.units)) / self.units


def level_products(x: FloatArray, F: FloatArray, k: int) -> FloatArray:
    """``sum_l (x_l F)(x_l F)'``, (k, k), of the k rows ``x_l`` of every level.

    Some levels at a time, so that what is computed on the way stays in the cache.

    Parameters
    ----------
    x : ndarray, (l * k, m)
    F : ndarray, (m, c)
    """
    if x.size <= IN_CACHE and k == 1:
        whole = (x @ F).ravel()
        return np.array([[whole @ whole]])
    total = np.zeros((k, k))
    step = max(IN_CACHE // (k * len(F)), 1) * k
    for start in range(0, len(x), step):
        part = (x[start : start + step] @ F).reshape(-1, k, F.shape[1])
        wide = part.transpose(1, 0, 2).reshape(k, -1)
        total += wide @ wide.T
    return total


NOT_NEGATIVE = 1e-10
"""A negative eigenvalue smaller than this share of the largest counts as rounding."""


def factor_of(psi: FloatArray) -> FloatArray:
    """Lower-triangular ``lambda`` with ``lambda lambda' = psi``, (k, k), singular ones included.

    Raises
    ------
    ValueError
        When ``psi`` is not positive semi-definite.
    """
    values, vectors = np.linalg.eigh(psi) if len(psi) else (np.ones(0), psi)
    largest = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(largest) or (values < -NOT_NEGATIVE * largest).any():
        raise ArgumentError(
            "a covariance matrix (cov_re, vcomp) must be positive semi-definite; its smallest "
            f"eigenvalue is {values.min():.3g}"
        )
    if (values > 1e-14 * largest).all():
        return np.asarray(np.linalg.cholesky(psi))
    root = (vectors * np.sqrt(np.maximum(values, 0.0))).T
    lam = sla.qr(root, mode="r")[0][: len(psi)].T
    return np.asarray(lam * np.where(np.diag(lam) < 0, -1.0, 1.0))
