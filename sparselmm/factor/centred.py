"""Cross-products of what a prediction leaves: where the response is large, differences lose digits.

``S = C - (Lambda'B)'K`` is the difference of sums as large as the response, and loses ``(b /
sigma)^2`` of their digits to effects of size b. With predictions ``Z b0`` of the columns of
``[Q y]`` from any b0 (q, r + 1), what is left, ``E = [Q y] - Z b0``, is formed row by row, once.
For any u0 (q, r + 1), ``[Q y] - Z Lambda u0 = E + Z rho`` with ``rho = b0 - Lambda u0``, and
``u = K - u0`` solves

    M u = Lambda'D - u0,   D = Z'WE + A rho
    S = E'WE + rho'Z'WE + E'WZ rho + rho'A rho + u0'u0 - (Lambda'D - u0)'u,

in which nothing is large when b0 is near the predictions at Lambda and rho is small. ``u0`` are the
effects that would predict ``Z b0`` if all levels had the mean ``a_t`` of the blocks of A,
``(lambda_t'a_t lambda_t + I)^-1 lambda_t'a_t b0``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparselmm.base.types import FloatArray, Snapshot
from sparselmm.design.rows import blocks, response, times_z
from sparselmm.design.terms import Design
from sparselmm.factor.crossprod import CrossProducts, add_term_product


@dataclass(frozen=True, eq=False)
class Remains:
    """What is left at one theta.

    Attributes
    ----------
    u0 : ndarray, (q, r + 1)
        Spherical effects that were taken away.
    D : ndarray, (q, r + 1)
    S0 : ndarray, (r + 1, r + 1)
        S but for its last term.
    sizes : ndarray, (r + 1,)
        What the diagonal of S is the difference of.
    """

    u0: FloatArray
    D: FloatArray
    S0: FloatArray
    sizes: FloatArray


@dataclass(frozen=True, eq=False)
class Centred(Snapshot):
    """Predictions, and the cross-products of what they leave.

    Attributes
    ----------
    b0 : ndarray, (q, r + 1)
        Effects that predict the columns of ``[Q, y - X shift]``.
    B : ndarray, (q, r + 1)
        ``Z'WE`` with ``E = [Q, y - X shift] - Z b0``.
    C : ndarray, (r + 1, r + 1)
        ``E'WE``.
    loss : ndarray, (r + 1,)
        Sum over the rows of ``2 w |E|`` times what E is the difference of: a share eps of it is
        the rounding of the diagonal of C.
    """

    b0: FloatArray
    B: FloatArray
    C: FloatArray
    loss: FloatArray

    @classmethod
    def of(cls, design: Design, cross: CrossProducts, b0: FloatArray) -> Centred:
        """By one pass over the rows of a design with the columns ``cross`` was made of."""
        y, m = response(design), b0.shape[1]
        B, C, loss = np.zeros_like(b0), np.zeros((m, m)), np.zeros(m)
        for rows in blocks(design.n):
            columns = cross.basis.apply(design.X[rows], y[rows])
            predicted = times_z(design.terms, b0, rows)
            E = columns - predicted
            weighted = E if design.weights is None else E * design.weights[rows, None]
            C += E.T @ weighted
            for term, part in zip(design.terms, cross.slices, strict=True):
                add_term_product(B[part], term, rows, weighted)
            loss += 2.0 * np.sum(np.abs(weighted) * (np.abs(columns) + np.abs(predicted)), axis=0)
        return cls(b0, B, C, loss)

    def combined(self, change: FloatArray) -> Centred:
        """Of other columns, ``[Q, y - X shift] change`` for a matrix (r + 1, m)."""
        loss = (np.abs(change).T @ np.sqrt(self.loss)) ** 2
        return Centred(self.b0 @ change, self.B @ change, change.T @ self.C @ change, loss)

    def at(self, cross: CrossProducts, lams: Sequence[FloatArray]) -> Remains:
        """What is left of the columns by ``Z Lambda u0``."""
        u0, rho = np.empty_like(self.b0), np.empty_like(self.b0)
        for t, (lam, part, (k, l)) in enumerate(zip(lams, cross.slices, cross.sizes, strict=True)):
            own = self.b0[part].reshape(l, k, -1)
            mean = lam.T @ cross.second_moments(t) * (cross.n / l)
            u = np.linalg.solve(mean @ lam + np.eye(k), mean) @ own
            u0[part], rho[part] = u.reshape(l * k, -1), (own - lam @ u).reshape(l * k, -1)
        cross_terms, added = self.B.T @ rho, cross.A @ rho
        squares = rho.T @ added + u0.T @ u0
        return Remains(
            u0, self.B + added, self.C + cross_terms + cross_terms.T + squares,
            np.diag(self.C) + np.diag(squares) + self.loss,
        )  # fmt: skip
