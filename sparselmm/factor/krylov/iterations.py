"""Conjugate gradients for many right-hand sides, and what their coefficients tell.

All columns are iterated together, each with coefficients of its own. With a coarse space V the
iteration is deflated (Nicolaides 1987; Saad, Yeung, Erhel & Guyomarc'h 2000): the residual stays
orthogonal to V, whose eigenvalues then cost nothing. Without one, the coefficients make the
tridiagonal matrix of Lanczos, and ``|b|^2 e1'log(J) e1`` is Gauss quadrature of ``b'log(A) b``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.types import FloatArray

SOLVED, FURTHER = 1e-12, 1e-6
"""Residual, as a share of the right-hand side and of the tolerance, of columns left as they are
while others go on: the direction that a coarse space leaves of a smaller one is rounding."""

MOST = 3000
"""Iterations after which the matrix counts as numerically singular."""


@dataclass(frozen=True, eq=False)
class Coarse:
    """A space of vectors that iterations leave to a direct solver.

    Attributes
    ----------
    V : ndarray, (r, s)
        Orthonormal.
    AV : ndarray, (r, s)
    inverse : ndarray, (s, s)
        Of ``V'AV``.
    """

    V: FloatArray
    AV: FloatArray
    inverse: FloatArray


@dataclass(frozen=True, eq=False)
class Iterated:
    """What conjugate gradients found.

    Attributes
    ----------
    X, residual : ndarray, (r, m)
        The solution and what it leaves of the right-hand sides.
    product : ndarray or None, (r, m)
        ``E B``, where it was given or came about by the way.
    alphas, betas : ndarray, (iterations, m)
        The coefficients, zero in a column that was done.
    """

    X: FloatArray
    residual: FloatArray
    product: FloatArray | None
    alphas: FloatArray
    betas: FloatArray

    @property
    def count(self) -> int:
        """Iterations."""
        return len(self.alphas)


def dots(a: FloatArray, b: FloatArray) -> FloatArray:
    """``a_j'b_j`` of every column, (m,)."""
    return np.asarray(np.einsum("ij,ij->j", a, b))


def conjugate_gradients(
    E: Callable[[FloatArray], FloatArray], B: FloatArray, tolerance: float,
    coarse: Coarse | None = None, x0: FloatArray | None = None, product: FloatArray | None = None,
    most: int = MOST, must: bool = True,
) -> Iterated:  # fmt: skip
    """Solve ``(I - E) X = B``.

    Parameters
    ----------
    E : callable
        The product ``E V``.
    B : ndarray, (r, m)
    tolerance : float
        Of the residual's length, relative to that of each column of B.
    coarse : Coarse, optional
    x0 : ndarray, (r, m), optional
        Where to start.
    product : ndarray, (r, m), optional
        ``E B`` where it is known, which spares a product where nothing is to start from.
    most : int
        Iterations at most.
    must : bool
        Whether more is an error.

    Raises
    ------
    NotPositiveDefiniteError
        If the tolerance is not reached.
    """
    X = np.zeros_like(B) if x0 is None else x0 * (dots(B, B) > 0.0)
    R = B.copy() if x0 is None else B - (X - E(X))
    deflated = coarse is not None and coarse.V.shape[1] > 0
    first: FloatArray | None = None  # E P of the first step, from E B
    if deflated:
        assert coarse is not None
        first = _coarse_step(E, X, R, coarse, product if x0 is None else None)
        P = R - _along(coarse, R)
    else:
        P = R.copy()
        first = product if x0 is None else None
    rr, size = dots(R, R), np.maximum(dots(B, B), 1e-300)
    least = min(max(SOLVED, tolerance * FURTHER), tolerance) ** 2
    alphas: list[FloatArray] = []
    betas: list[FloatArray] = []
    while not (rr <= tolerance**2 * size).all() or (not alphas and x0 is None and not deflated):
        if len(alphas) == most:
            if must:
                raise NotPositiveDefiniteError(f"no end of conjugate gradients in {most} steps")
            break
        EP = E(P) if first is None else first
        if not alphas and x0 is None and not deflated:
            product = EP
        first = None
        AP = P - EP
        live = rr > least * size
        a = np.where(live, rr / np.where(live, dots(P, AP), 1.0), 0.0)
        if (a < 0.0).any() or not np.isfinite(a).all():
            raise NotPositiveDefiniteError("the Schur complement is not positive definite")
        X += P * a
        AP *= a
        R -= AP
        rr, last = dots(R, R), rr
        b = np.where(live, rr / np.where(live, last, 1.0), 0.0)
        P *= b
        P += R
        if deflated:
            assert coarse is not None
            P -= _along(coarse, R)
        alphas.append(a)
        betas.append(b)
    steps = np.array([*alphas, *betas]).reshape(2, len(alphas), B.shape[1])
    return Iterated(X, R, product, steps[0], steps[1])


def _coarse_step(
    E: Callable[[FloatArray], FloatArray], X: FloatArray, R: FloatArray, coarse: Coarse,
    product: FloatArray | None,
) -> FloatArray | None:  # fmt: skip
    """Solve in the coarse space, in place; E of the first direction, from E of the right side."""
    c = coarse.inverse @ (coarse.V.T @ R)
    X += coarse.V @ c
    R -= coarse.AV @ c
    if product is None:
        return None
    d = coarse.inverse @ (coarse.AV.T @ R)
    return np.asarray(product - E(coarse.AV) @ c - (coarse.V - coarse.AV) @ d)


def _along(coarse: Coarse, R: FloatArray) -> FloatArray:
    """The part of a residual that its direction leaves to the coarse space."""
    return np.asarray(coarse.V @ (coarse.inverse @ (coarse.AV.T @ R)))


def tridiagonal(alphas: FloatArray, betas: FloatArray) -> FloatArray:
    """Lanczos' matrix from the coefficients of conjugate gradients for one column."""
    diagonal = 1.0 / alphas
    diagonal[1:] += betas[:-1] / alphas[:-1]
    off = np.sqrt(betas[:-1]) / alphas[:-1]
    return np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)


def log_forms(found: Iterated, B: FloatArray) -> FloatArray:
    """``b'log(I - E) b`` of every column by Gauss quadrature, (m,); from plain iterations."""
    out = dots(B, B)
    for j in range(len(out)):
        over = np.flatnonzero(found.alphas[:, j] <= 0.0)
        n = int(over[0]) if len(over) else found.count
        if n == 0:  # b = 0
            continue
        values, vectors = np.linalg.eigh(tridiagonal(found.alphas[:n, j], found.betas[:n, j]))
        if not values[0] > 0.0:
            raise NotPositiveDefiniteError("the Schur complement is not positive definite")
        out[j] *= float(vectors[0] ** 2 @ np.log(values))
    return out


def predicted_iterations(found: Iterated, tolerance: float) -> float:
    """Iterations that another tolerance will need, from the first ones of one column.

    The decay of the residual where it fell far enough to show one, else the classical bound with
    the condition of the Ritz values.
    """
    n = found.count
    sizes = np.sqrt(np.cumprod(found.betas[:, 0]))
    reached = sizes <= tolerance
    if reached.any():
        return float(np.argmax(reached) + 1)
    if n > 1 and sizes[-1] < 1e-2:
        rate = np.log(sizes[-1] / sizes[n // 2 - 1]) / (n - n // 2)
        return float(n + np.log(tolerance / sizes[-1]) / min(rate, -1e-3))
    ritz = np.linalg.eigvalsh(tridiagonal(found.alphas[:, 0], found.betas[:, 0]))
    return float(0.5 * np.sqrt(ritz[-1] / max(ritz[0], 1e-12)) * np.log(2.0 / tolerance))
