"""The map between the parameter vector theta and the block-diagonal factor Lambda.

Term ``t`` contributes ``I_l (x) lambda_t`` to Lambda, with ``lambda_t`` lower triangular
``k x k`` and ``Psi_t = sigma^2 lambda_t lambda_t'`` the covariance of its coefficients. Theta
holds the free entries of ``lambda_t`` column by column, term after term, the order of
Bates, Maechler, Bolker & Walker (2015), section 2.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sparselmm._typing import BoolArray, FloatArray, IntArray
from sparselmm.terms import RandomTerm, Structure

COLLINEAR = 1e-11
"""Share of the largest second moment below which a direction of covariates counts as none."""


@dataclass(frozen=True, eq=False)
class TermCovariance:
    """Where the entries of one term's theta stand in its ``lambda_t``.

    Attributes
    ----------
    k : int
        Order of ``lambda_t``.
    rows, cols : ndarray of int, (m,)
        ``lambda_t[rows[i], cols[i]] = theta_t[i]``; ``rows >= cols``.
    """

    k: int
    rows: IntArray
    cols: IntArray

    @classmethod
    def of(cls, k: int, structure: Structure) -> TermCovariance:
        """Positions for an unstructured or a diagonal covariance of order ``k``."""
        if structure == "diagonal":
            return cls(k, np.arange(k), np.arange(k))
        cols, rows = np.triu_indices(k)
        return cls(k, rows, cols)

    @property
    def n_theta(self) -> int:
        """Number of free entries."""
        return len(self.rows)

    @cached_property
    def tangent(self) -> tuple[IntArray, IntArray]:
        """Rows and columns of the entries of ``lambda_t`` a step may change, each (m,).

        A triangle is only one of the square roots of ``Psi_t``. Steps move all k x k entries, so
        that no coefficient is favoured by its place; `retract` makes the root triangular again.
        """
        if len(self.rows) == self.k:
            return self.rows, self.cols
        rows, cols = np.divmod(np.arange(self.k**2), self.k)
        return rows, cols

    @cached_property
    def in_tangent(self) -> IntArray:
        """Which entries of `tangent` are the entries of theta, (n_theta,)."""
        if len(self.rows) == self.k:
            return np.arange(self.k)
        return self.rows * self.k + self.cols

    def retract(self, lam: FloatArray) -> FloatArray:
        """Theta of the triangular root with non-negative diagonal of ``lam lam'``."""
        R = np.asarray(np.linalg.qr(lam.T, mode="r"))
        lower: FloatArray = (R * np.where(np.diag(R) < 0, -1.0, 1.0)[:, None]).T
        return lower[self.rows, self.cols]

    def factor(self, theta: FloatArray) -> FloatArray:
        """``lambda_t``, (k, k)."""
        lam = np.zeros((self.k, self.k))
        lam[self.rows, self.cols] = theta
        return lam


@dataclass(frozen=True, eq=False)
class Covariance:
    """All terms' covariance parameters together.

    Attributes
    ----------
    terms : tuple of TermCovariance
        One per random-effects term, in the order of the terms.
    """

    terms: tuple[TermCovariance, ...]

    @classmethod
    def of(cls, terms: Sequence[RandomTerm]) -> Covariance:
        """Covariance parameters of a design's terms."""
        return cls(tuple(TermCovariance.of(term.k, term.structure) for term in terms))

    @cached_property
    def slices(self) -> list[slice]:
        """Part of theta that belongs to each term."""
        ends = np.cumsum([term.n_theta for term in self.terms], dtype=int)
        return [
            slice(int(end) - term.n_theta, int(end))
            for end, term in zip(ends, self.terms, strict=True)
        ]

    @property
    def n_theta(self) -> int:
        """Length of theta."""
        return sum(term.n_theta for term in self.terms)

    @cached_property
    def on_diagonal(self) -> BoolArray:
        """Which entries of theta are diagonal entries of a ``lambda_t``, (n_theta,)."""
        parts = [term.rows == term.cols for term in self.terms]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)

    def factors(self, theta: FloatArray) -> list[FloatArray]:
        """``lambda_t`` of every term, each (k, k)."""
        return [
            term.factor(theta[part]) for term, part in zip(self.terms, self.slices, strict=True)
        ]

    def psi(self, theta: FloatArray, scale: float = 1.0) -> list[FloatArray]:
        """``Psi_t = scale * lambda_t lambda_t'`` of every term, each (k, k)."""
        return [scale * lam @ lam.T for lam in self.factors(theta)]

    def unit_roots(self, second_moments: Sequence[FloatArray]) -> list[FloatArray]:
        """Roots of the coefficient covariances that count as one, each (k, k) lower triangular.

        The inverse of a term's second moments of covariates is the covariance of coefficients
        that adds about one to the variance of a typical row, whatever the units and the origins
        of the covariates are.

        Parameters
        ----------
        second_moments : sequence of ndarray, (k, k)
            Mean products of each term's covariates.
        """
        out = []
        for term, moments in zip(self.terms, second_moments, strict=True):
            rms = np.sqrt(np.diag(moments))
            rms[rms == 0] = 1.0
            if len(term.rows) == term.k:  # independent coefficients, or only one
                out.append(np.diag(1.0 / rms))
                continue
            values, vectors = np.linalg.eigh(moments / np.outer(rms, rms))
            values = np.where(values > COLLINEAR * values[-1], values, values[-1])
            inverse = (vectors / values) @ vectors.T
            out.append(np.linalg.cholesky(inverse / np.outer(rms, rms)))
        return out

    def pick(self, blocks: Sequence[FloatArray]) -> FloatArray:
        """Entries of per-term (k, k) matrices at the positions of theta, (n_theta,)."""
        parts = [
            block[term.rows, term.cols] for term, block in zip(self.terms, blocks, strict=True)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    @cached_property
    def tangent_slices(self) -> list[slice]:
        """Part of a tangent vector that belongs to each term."""
        ends = np.cumsum([len(term.tangent[0]) for term in self.terms], dtype=int)
        return [
            slice(int(end) - len(term.tangent[0]), int(end))
            for end, term in zip(ends, self.terms, strict=True)
        ]

    @cached_property
    def in_tangent(self) -> IntArray:
        """Which entries of a tangent vector are the entries of theta, (n_theta,)."""
        parts = [
            part.start + term.in_tangent
            for part, term in zip(self.tangent_slices, self.terms, strict=True)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=int)

    def tangent_vector(self, blocks: Sequence[FloatArray]) -> FloatArray:
        """Entries of per-term (k, k) matrices in the order of tangent vectors."""
        parts = [block[term.tangent] for term, block in zip(self.terms, blocks, strict=True)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def retract(self, theta: FloatArray, step: FloatArray) -> FloatArray:
        """Theta after a tangent step, (n_theta,)."""
        out = np.empty(self.n_theta)
        factors = self.factors(theta)
        for t, term in enumerate(self.terms):
            lam = factors[t]
            lam[term.tangent] += step[self.tangent_slices[t]]
            out[self.slices[t]] = term.retract(lam)
        return out

    def rectify(self, theta: FloatArray) -> FloatArray:
        """The theta with non-negative diagonals that gives the same ``Psi``.

        Changing the sign of a column of ``lambda_t`` leaves ``lambda_t lambda_t'`` as it is.
        """
        out = []
        for term, lam in zip(self.terms, self.factors(theta), strict=True):
            sign = np.where(np.diag(lam) < 0, -1.0, 1.0)
            out.append((lam * sign)[term.rows, term.cols] + 0.0)
        return np.concatenate(out) if out else np.zeros(0)
