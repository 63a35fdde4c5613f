"""The deviance in the user's coordinates, of an engine that works in better ones.

With ``Z_t = Z~_t (I (x) F)`` (see :mod:`sparselmm.factor.bases`) and ``lambda~`` the triangular
root of ``F lambda lambda' F'``,

    F lambda = lambda~ Q,   Q orthogonal,

so that the model at lambda is the engine's at ``lambda~``, with ``b~ = F b`` and ``u~ = Q u``.
A step ``dlambda`` is the step ``F dlambda Q'`` there, up to a rotation, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from sparselmm.base.smallmatrix import SecondMoments, block_diagonal, kron, upper_inverse
from sparselmm.base.types import CSR, FloatArray
from sparselmm.design.terms import Design, RandomTerm
from sparselmm.factor.bases import in_bases, terms_in_bases
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.factorization import Factorization
from sparselmm.factor.solver import congruence
from sparselmm.likelihood.covariance import theta_units
from sparselmm.likelihood.curvature import difference_hessian
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.evaluations import PLSFit, State
from sparselmm.likelihood.term_covariance import lower_root


@dataclass(frozen=True, eq=False)
class Turned:
    """A theta and what it is for the engine.

    Attributes
    ----------
    theta, inner : ndarray, (n_theta,)
        In the user's coordinates and in the engine's.
    Q : list of ndarray (k, k), or None
        The rotation of each term; None where its columns are the model's.
    """

    theta: FloatArray
    inner: FloatArray
    Q: list[FloatArray | None]


class RebasedDeviance(ProfiledDeviance):
    """A deviance whose theta belongs to the model's columns and whose engine has others.

    Parameters
    ----------
    inner : ProfiledDeviance
        The engine, for which the working columns are the columns.
    cross : CrossProducts
        Those of the engine, with the bases of their columns.
    """

    def __init__(self, inner: ProfiledDeviance, cross: CrossProducts):
        assert cross.bases is not None
        self.inner, self.bases = inner, cross.bases
        self.inverses = [None if F is None else upper_inverse(F) for F in self.bases]
        self.cross, self.covariance, self.levels = cross, inner.covariance, inner.levels
        self.centred = inner.centred
        self.reml, self.known_scale, self.df = inner.reml, inner.known_scale, inner.df
        moments = [SecondMoments(self.cross.model_moments(t)) for t in range(len(self.bases))]
        self.units = theta_units(self.covariance, moments)
        self._turned: Turned | None = None

    @property
    def solver(self) -> Factorization:
        """The engine's."""
        return self.inner.solver

    @cached_property
    def unit_roots(self) -> list[FloatArray]:  # type: ignore[override]
        """What counts as one in each ``lambda_t``."""
        return [
            root if F is None else lower_root(F @ root)
            for F, root in zip(self.inverses, self.inner.unit_roots, strict=True)
        ]

    # ------------------------------------------------------------------------ coordinates

    def turned(self, theta: FloatArray) -> Turned:
        """A theta of the model, and the engine's."""
        last = self._turned  # one reading: other threads may write
        if last is not None and np.array_equal(theta, last.theta):
            return last
        theta = np.array(theta, dtype=float)
        inner = theta.copy()
        Q: list[FloatArray | None] = []
        for term, part, F in zip(
            self.covariance.terms, self.covariance.slices, self.bases, strict=True
        ):
            if F is None:
                Q.append(None)
                continue
            half, R = np.linalg.qr((F @ term.factor(theta[part])).T)
            sign = np.where(np.diag(R) < 0, -1.0, 1.0)
            Q.append((half * sign).T)
            inner[part] = (R.T * sign)[term.rows, term.cols]
        self._turned = last = Turned(theta, inner, Q)
        return last

    def working(self, theta: FloatArray) -> tuple[ProfiledDeviance, FloatArray]:
        """The engine and its theta."""
        return self.inner, self.turned(theta).inner

    def original(self, inner: FloatArray) -> FloatArray:
        """Theta of the model from the engine's."""
        out = np.array(inner, dtype=float)
        for term, part, F in zip(
            self.covariance.terms, self.covariance.slices, self.inverses, strict=True
        ):
            if F is not None:
                out[part] = lower_root(F @ term.factor(out[part]))[term.rows, term.cols]
        return out

    def anchored(self, inner: FloatArray) -> FloatArray:
        """Theta of the model from the engine's, whose last evaluation then answers for it."""
        turned = self.turned(self.original(inner))
        self._turned = replace(turned, inner=np.array(inner, dtype=float))
        return turned.theta

    def carried(
        self, theta: FloatArray, gammas: Sequence[FloatArray], hessian: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Gradient and Hessian in theta from what the engine knows of its own, see `anchored`."""
        at = self.turned(theta)
        J, inside = self._steps(at), self.covariance.in_tangent
        gradient = self.covariance.chain(theta, self._pulled(at, gammas))
        return gradient, (J.T @ hessian @ J)[np.ix_(inside, inside)]

    def rows(self, design: Design) -> Design:
        """The design with the columns the engine works with."""
        return in_bases(design, self.bases)

    def term_rows(self, terms: tuple[RandomTerm, ...]) -> tuple[RandomTerm, ...]:
        """Terms on any rows with the columns the engine works with."""
        return terms_in_bases(terms, self.bases) if terms else terms

    def combinations(self, H: CSR) -> CSR:
        """Combinations ``H b`` of random effects, as combinations of the engine's, (m, q)."""
        blocks = [
            sp.eye_array(k * l) if back is None else sp.kron(sp.eye_array(l), back)
            for back, (k, l) in zip(self.inverses, self.cross.sizes, strict=True)
        ]
        return sp.csr_array(H @ sp.block_diag(blocks, format="csr"))

    def original_covariance(self, theta: FloatArray, cov: FloatArray) -> FloatArray:
        """Covariance of theta from that of the engine's theta.

        With ``Y = Q' lambda~^-1 dlambda~ Q``, ``dlambda`` is lambda times the lower triangle of
        ``Y + Y'``, its diagonal halved. Zero for a singular term, which has none.
        """
        at = self.turned(theta)
        jacobian = np.eye(len(at.theta))
        for term, part, Q in zip(self.covariance.terms, self.covariance.slices, at.Q, strict=True):
            if Q is None or not np.diag(cov)[part].any():
                continue
            back = np.linalg.inv(term.factor(at.inner[part]))
            lam = term.factor(at.theta[part])
            for i, (r, c) in enumerate(zip(term.rows, term.cols, strict=True)):
                Y = Q.T @ np.outer(back[:, r], Q[c])
                low = np.tril(Y + Y.T) - np.diag(np.diag(Y))
                jacobian[part, part.start + i] = (lam @ low)[term.rows, term.cols]
        return np.asarray(jacobian @ cov @ jacobian.T)

    def original_slope(self, t: int, slope: FloatArray) -> FloatArray:
        """Derivative in the model's ``Psi_t`` from that in the engine's, (k, k)."""
        F = self.bases[t]
        return slope if F is None else F.T @ slope @ F

    def original_psi(self, t: int, psi: FloatArray) -> FloatArray:
        """``Psi_t`` of the model's coefficients from that of the engine's, (..., k, k)."""
        F = self.inverses[t]
        return psi if F is None else np.asarray(F @ psi @ F.T)

    # -------------------------------------------------------------------------- the deviance

    def value(self, theta: FloatArray) -> float:
        """The engine's deviance."""
        return self.inner.value(self.turned(theta).inner)

    def state_at(self, theta: FloatArray) -> State:
        """The engine's evaluation, in its coordinates."""
        return self.inner.state_at(self.turned(theta).inner)

    def at(self, theta: FloatArray) -> PLSFit:
        """The penalized least-squares solution at theta."""
        at = self.turned(theta)
        fit = self.inner.at(at.inner)
        u, b = self.effects(theta, fit.u)
        return replace(fit, theta=at.theta.copy(), u=u, b=b)

    def effects(self, theta: FloatArray, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Spherical effects of the engine as the model's ``u`` and ``b``, each (q,)."""
        at = self.turned(theta)
        out, b = self.inner.effects(at.inner, u)
        out = out.copy()
        for Q, back, part in zip(at.Q, self.inverses, self.cross.slices, strict=True):
            if Q is not None and back is not None:
                out[part] = (out[part].reshape(-1, len(back)) @ Q).ravel()
                b[part] = (b[part].reshape(-1, len(back)) @ back.T).ravel()
        return out, b

    def _at_gradient(self, theta: FloatArray) -> list[FloatArray]:
        at = self.turned(theta)
        return self._pulled(at, self.inner._at_gradient(at.inner))

    def _pulled(self, at: Turned, blocks: Sequence[FloatArray]) -> list[FloatArray]:
        """Derivatives in the entries of every ``lambda_t`` from the engine's."""
        return [
            block if F is None or Q is None else F.T @ block @ Q
            for F, Q, block in zip(self.bases, at.Q, blocks, strict=True)
        ]

    def _steps(self, at: Turned) -> FloatArray:
        """The engine's tangent coordinates of the model's, (m, m)."""
        return block_diagonal(
            [
                np.eye(term.n_tangent) if F is None or Q is None else kron(F, Q)
                for term, F, Q in zip(self.covariance.terms, self.bases, at.Q, strict=True)
            ]
        )

    def tangent_model(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient and model Hessian in all entries of every ``lambda_t``."""
        at = self.turned(theta)
        gradient, hessian = self.inner.tangent_model(at.inner)
        J = self._steps(at)
        return J.T @ gradient, J.T @ hessian @ J

    def tangent_gradient(self, theta: FloatArray) -> FloatArray:
        """The gradient alone, (m,)."""
        at = self.turned(theta)
        return self._steps(at).T @ self.inner.tangent_gradient(at.inner)

    def rounding(self, theta: FloatArray) -> float:
        """Estimate of the rounding error of the deviance at theta."""
        return self.inner.rounding(self.turned(theta).inner)

    def hessian(self, theta: FloatArray) -> FloatArray:
        """Hessian of the deviance in theta, by steps that are short for the engine."""
        at, covariance = self.turned(theta), self.covariance
        steps = np.maximum(self.units, np.abs(at.theta))
        for t, (F, Q) in enumerate(zip(self.bases, at.Q, strict=True)):
            if F is not None and Q is not None:
                term = covariance.terms[t]
                unit = np.linalg.norm(self.inner.unit_roots[t], axis=1).repeat(term.k)
                moved = np.linalg.norm(kron(F, Q)[:, term.in_tangent] / unit[:, None], axis=0)
                steps[covariance.slices[t]] = 1.0 / moved
        return difference_hessian(self.gradient, at.theta, steps)

    # ------------------------------------------------------------- after the optimization

    def conditional_columns(self, theta: FloatArray, right: FloatArray) -> FloatArray:
        """``Lambda M^-1 Lambda' right``, (q, m): columns of ``Var(b | y) / sigma^2``."""
        turned = self._levelwise(right, transposed=True)
        columns = self.inner.conditional_columns(self.turned(theta).inner, turned)
        return self._levelwise(columns, transposed=False)

    def _levelwise(self, x: FloatArray, transposed: bool) -> FloatArray:
        """``(I (x) F^-1) x``, or of the transpose, (q, m)."""
        out = x.copy()
        for F, part in zip(self.inverses, self.cross.slices, strict=True):
            if F is not None:
                block = x[part].reshape(-1, len(F), x.shape[1])
                out[part] = ((F.T if transposed else F) @ block).reshape(-1, x.shape[1])
        return out

    def times_lambda(self, theta: FloatArray, H: CSR) -> CSR:
        """``H Lambda`` of sparse rows H, (m, q), up to a rotation of every level."""
        return self.inner.times_lambda(self.turned(theta).inner, self.combinations(H))

    def conditional_blocks(self, theta: FloatArray, t: int) -> FloatArray:
        """``Var(b_j | y) / sigma^2`` of every level, (l, k, k)."""
        blocks = self.inner.conditional_blocks(self.turned(theta).inner, t)
        F = self.inverses[t]
        return blocks if F is None else congruence(blocks, F.T, F.T)

    def conditional_cross_blocks(self, theta: FloatArray, s: int, t: int) -> FloatArray:
        """Covariances of effects where ``A[s, t]`` has blocks, for s >= t, (nb, k_s, k_t)."""
        blocks = self.inner.conditional_cross_blocks(self.turned(theta).inner, s, t)
        left, right = (
            np.eye(self.cross.sizes[u][0]) if F is None else F.T
            for u, F in ((s, self.inverses[s]), (t, self.inverses[t]))
        )
        return congruence(blocks, left, right)

    def pwrss_gradient(self, theta: FloatArray) -> FloatArray:
        """Gradient of pwrss in theta, (n_theta,)."""
        at = self.turned(theta)
        blocks = self.inner._pwrss_blocks(self.inner.state_at(at.inner))
        return self.covariance.chain(at.theta, self._pulled(at, blocks))

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the last theta."""
        return {**self.__dict__, "_turned": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
