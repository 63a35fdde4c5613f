"""The profiled deviance of a linear mixed model, its exact gradient and its curvature.

With ``M = Lambda'A Lambda + I``, ``K = M^-1 Lambda'B`` and ``S = C - (Lambda'B)'K``, which equals
``[Xy]'V^-1[Xy]`` for ``V = Var(y) / sigma^2``,

    beta = S_xx^-1 S_xy,   pwrss = S_yy - S_yx beta,   df = n - p (REML) or n (ML)
    deviance = log det M + [REML: log det S_xx] + df (1 + log(2 pi pwrss / df)) - sum log w

(Bates, Maechler, Bolker & Walker 2015, eqs. 34 and 41, in cross-products instead of rows). Where
sigma^2 is known it is not profiled out: the deviance ends ``+ df log(2 pi sigma^2) + pwrss /
sigma^2`` and ``1 / sigma^2`` stands for ``df / pwrss`` below.

Gradient. Put ``G = M^-1``, ``u = K (-beta, 1)`` and ``D = B - A Lambda K = Z'V^-1[Xy]``. Because
``Lambda'A Lambda = M - I``, also ``Lambda'D = K`` and ``lambda_t' sum_j (A Lambda G)_jj =
l_t I - sum_j G_jj`` (sums over the levels j of term t), so that for an invertible ``lambda_t``
the derivative with respect to all entries of ``lambda_t`` is

    Gamma_t = 2 lambda_t^-T [ l_t I - sum_j ( G_jj + K_xj S_xx^-1 K_xj' + (df / pwrss) u_j u_j' ) ]

with the middle term for REML only. Near a singular ``lambda_t`` the same is computed without
the inverse from ``A``, ``D`` and G on the pattern of A.

Curvature. The average-information matrix (Gilmour, Thompson & Cullis 1995), the mean of
observed and expected information, needs solves only; to it comes the exact curvature
``2 G_Psi (x) I`` of ``theta -> lambda lambda'``, which is what bends the deviance at a zero
variance.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.smallmatrix import (
    block_diagonal,
    level_products,
    lower_triangle,
    solve_triangular,
    upper_inverse,
)
from sparselmm.base.types import CSR, FloatArray
from sparselmm.design.terms import Design, RandomTerm
from sparselmm.factor.centred import Centred
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.solver import BlockSolver, apply_lambda, congruence
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.expected import expected_information, parts
from sparselmm.likelihood.patterned import Patterned

WIDE = 8
"""Coefficients from which a lone term is treated level by level at a singular covariance."""

NEARLY_SINGULAR = 1e-4
"""Below this share of its row (or of one over the covariate's root mean square) a diagonal of
lambda_t counts as singular: dividing by it would cost more than half the gradient's digits."""

WELL_AWAY, SMALL_EFFECT = 0.1, 0.02
"""Share of a standard deviation that is its own, and share of sigma that it adds to a typical row,
above which the curvature of the root, which matters at a boundary, may be left out."""

SMALLEST_PIVOT = 1e-6
"""A curvature needs few digits, so its division by a diagonal of lambda_t may lose most."""

MAX_BATCH = 256
"""Right-hand sides solved together; more gain nothing."""

HESSIAN_STEP = 1e-5
"""Step of central differences of the exact gradient: eps^(1/3) balances truncation and rounding."""


@dataclass(frozen=True, eq=False)
class PLSFit:
    """The penalized least-squares solution at one theta: the model as it stands there.

    Attributes
    ----------
    theta : ndarray, (n_theta,)
    beta : ndarray, (r,)
        Fixed effects of the independent columns of X, in the units of X and y.
    vcov_unscaled : ndarray, (r, r)
        ``(X'V^-1X)^-1``; times ``sigma**2`` it is the covariance of ``beta``.
    u, b : ndarray, (q,)
        Conditional modes of the spherical and of the original random effects.
    ldL2, ldRX2 : float
        ``log det M`` and ``log det X'V^-1X``.
    pwrss : float
        Penalized weighted residual sum of squares.
    deviance : float
        -2 log-likelihood, or the REML criterion.
    df : int
        ``n - r`` (REML) or ``n`` (ML).
    reml : bool
    known_scale : float or None
        Residual variance, where it was given and not estimated.
    """

    theta: FloatArray
    beta: FloatArray
    vcov_unscaled: FloatArray
    u: FloatArray
    b: FloatArray
    ldL2: float
    ldRX2: float
    pwrss: float
    deviance: float
    df: int
    reml: bool
    known_scale: float | None = None

    @property
    def scale(self) -> float:
        """Residual variance ``sigma**2``: ``pwrss / df`` unless it is known."""
        return self.pwrss / self.df if self.known_scale is None else self.known_scale

    @property
    def sigma(self) -> float:
        """Residual standard deviation."""
        return float(np.sqrt(self.scale))


class Deviance(Protocol):
    """What the sparse engine and its dense twin have in common."""

    @property
    def covariance(self) -> Covariance:
        """Map from theta to Lambda."""

    @property
    def units(self) -> FloatArray:
        """What counts as one in each entry of theta, (n_theta,)."""

    @property
    def unit_roots(self) -> list[FloatArray]:
        """What counts as one in each ``lambda_t``, see `Covariance.unit_roots`."""

    def value(self, theta: FloatArray) -> float:
        """Deviance."""

    def gradient(self, theta: FloatArray) -> FloatArray:
        """Its derivative in theta, (n_theta,)."""

    def tangent_model(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient and model Hessian in all entries of every ``lambda_t``."""

    def tangent_gradient(self, theta: FloatArray) -> FloatArray:
        """The gradient of `tangent_model` alone."""

    @property
    def model_is_exact(self) -> bool:
        """Whether the model Hessian is the Hessian itself."""

    @property
    def df(self) -> int:
        """Rows, less the fixed effects for REML."""

    @property
    def levels(self) -> list[int]:
        """Number of levels of every term."""

    def rounding(self, theta: FloatArray) -> float:
        """Estimate of the rounding error of `value`."""

    def newton_matrix(self, theta: FloatArray) -> FloatArray:
        """The model Hessian in theta, (n_theta, n_theta)."""

    def at(self, theta: FloatArray) -> PLSFit:
        """The model as it stands at theta."""

    def working(self, theta: FloatArray) -> tuple[Deviance, FloatArray]:
        """The deviance and theta in the coordinates the engine works in."""

    def original(self, inner: FloatArray) -> FloatArray:
        """Theta of the model from that of `working`."""


@dataclass(frozen=True, eq=False)
class Projected:
    """The part of an evaluation that is linear algebra with M.

    Attributes
    ----------
    K : ndarray, (q, r + 1)
        ``M^-1 Lambda'B``.
    solved : ndarray, (q, r + 1)
        What M was solved for: K, or what predictions leave of it.
    S : ndarray, (r + 1, r + 1)
    sizes : ndarray, (r + 1,)
        What the diagonal of S is the difference of.
    """

    K: FloatArray
    solved: FloatArray
    S: FloatArray
    sizes: FloatArray


@dataclass(frozen=True, eq=False)
class State:
    """Everything the value needed, kept for the gradient at the same theta.

    Attributes
    ----------
    theta : ndarray, (n_theta,)
    lams : list of ndarray, (k, k)
    found : Projected
    Rxx : ndarray, (r, r)
        Upper Cholesky factor of ``S_xx``.
    gamma : ndarray, (r,)
        Fixed effects in the working basis.
    ldM, pwrss, deviance : float
    """

    theta: FloatArray
    lams: list[FloatArray]
    found: Projected
    Rxx: FloatArray
    gamma: FloatArray
    ldM: float
    pwrss: float
    deviance: float

    @property
    def K(self) -> FloatArray:
        """``M^-1 Lambda'B``, (q, r + 1)."""
        return self.found.K

    @cached_property
    def residual(self) -> FloatArray:
        """``(-gamma, 1)``: what turns columns [Q, y] into residuals."""
        return np.append(-self.gamma, 1.0)

    @cached_property
    def u(self) -> FloatArray:
        """Conditional modes of the spherical random effects, (q,)."""
        return self.K @ self.residual

    @cached_property
    def Kx(self) -> FloatArray:
        """``K_x S_xx^-1/2``, (q, r)."""
        return self.K[:, :-1] @ upper_inverse(self.Rxx)


class _Own(threading.local):
    """What one thread evaluated last, and the solver whose factor belongs to it.

    ``__init__`` runs once in every thread that asks; all but the first get a solver of their own.
    """

    def __init__(self, solver: Any, first: int):
        self.solver = solver if threading.get_ident() == first else solver.twin()
        self.state: State | None = None
        self.gammas: tuple[State, list[FloatArray]] | None = None
        self.tangent: tuple[State, FloatArray, FloatArray] | None = None
        self.psi_slopes: dict[int, FloatArray] = {}
        self.rounding: tuple[State, float] | None = None
        self.n_factorizations = 0


class ProfiledDeviance:
    """Profiled ML or REML deviance as a function of theta, from cross-products.

    May be used by any number of threads: each keeps its own factor and last evaluation.

    Parameters
    ----------
    cross : CrossProducts
        Sufficient statistics of the data.
    covariance : Covariance
        Map from theta to Lambda.
    solver : BlockSolver
        Factorization of M; its numeric factor is reused by value and gradient.
    reml : bool
        REML criterion instead of -2 log-likelihood.
    known_scale : float, optional
        Residual variance, when it is known.
    centred : Centred, optional
        Cross-products of what predictions leave, where those in ``cross`` lose digits.
    """

    model_is_exact = False

    def __init__(
        self, cross: CrossProducts, covariance: Covariance, solver: BlockSolver, *, reml: bool,
        known_scale: float | None = None, centred: Centred | None = None,
    ):  # fmt: skip
        self.cross, self.centred = cross, centred
        self.covariance = covariance
        self._own = _Own(solver, threading.get_ident())
        self.reml = reml
        self.known_scale = known_scale
        self.df = cross.n - cross.basis.rank if reml else cross.n
        self.levels = [l for _, l in cross.sizes]
        self.units = theta_units(covariance, [cross.rms(t) for t in range(len(cross.sizes))])
        self.unit_roots = covariance.unit_roots(
            [cross.second_moments(t) for t in range(len(cross.sizes))]
        )

    @property
    def solver(self) -> BlockSolver:
        """The solver of the thread that asks."""
        return self._own.solver

    @property
    def n_factorizations(self) -> int:
        """How often the thread that asks factored M."""
        return self._own.n_factorizations

    # ---------------------------------------------------------------------------- value

    def state_at(self, theta: FloatArray) -> State:
        """The evaluation at theta; the solver then holds its factor."""
        own = self._own
        state = own.state
        if (
            state is None
            or own.solver.holds is not state  # another deviance may share the solver
            or not np.array_equal(theta, state.theta)
        ):
            own.state = None
            own.state = own.solver.holds = state = self._evaluate(np.array(theta, dtype=float))
        return state

    def _evaluate(self, theta: FloatArray) -> State:
        lams = self.covariance.factors(theta)
        self._own.n_factorizations += 1
        ldM = self.solver.factorize(lams)
        found = self._projected(lams)
        S, r = found.S, len(found.S) - 1
        Rxx, info = lapack.dpotrf(S[:r, :r], lower=0) if r else (np.zeros((0, 0)), 0)
        if info:
            raise NotPositiveDefiniteError("X'V^-1X is not positive definite")
        half = solve_triangular(Rxx, S[:r, r], transposed=True)
        pwrss = float(S[r, r] - half @ half)
        gamma = solve_triangular(Rxx, half)
        deviance = self._criterion(ldM, Rxx, pwrss)
        return State(theta, lams, found, Rxx, gamma, ldM, pwrss, deviance)

    def _projected(self, lams: list[FloatArray]) -> Projected:
        cross = self.cross
        if self.centred is None:
            K, explained = self.solver.project(lams, cross.B)
            return Projected(K, K, cross.C - explained, np.diag(cross.C))
        left = self.centred.at(cross, lams)
        right = apply_lambda(cross, lams, left.D) - left.u0
        u = self.solver.solve(right)
        return Projected(left.u0 + u, u, left.S0 - right.T @ u, left.sizes)

    def _criterion(self, ldM: float, Rxx: FloatArray, pwrss: float) -> float:
        if not pwrss > 0:
            raise NotPositiveDefiniteError(
                "the residual sum of squares is zero: the model explains the response exactly. Is "
                "the response, or a copy of it, among the covariates?"
            )
        value = ldM + residual_part(pwrss, self.df, self.known_scale)
        if self.reml:
            value += self._ldRX2(Rxx)
        return float(value - self.cross.sum_log_w)

    def _ldRX2(self, Rxx: FloatArray) -> float:
        return float(2.0 * np.log(np.abs(np.diag(Rxx))).sum()) - self.cross.basis.logdet

    def value(self, theta: FloatArray) -> float:
        """Deviance at theta.

        Raises
        ------
        NotPositiveDefiniteError
            If theta is so large that rounding destroys the factorization.
        """
        return self.state_at(theta).deviance

    def at(self, theta: FloatArray) -> PLSFit:
        """The penalized least-squares solution at theta."""
        state, basis = self.state_at(theta), self.cross.basis
        root = basis.T @ upper_inverse(state.Rxx)
        return PLSFit(
            theta=state.theta.copy(),
            beta=basis.shift + basis.T @ state.gamma,
            vcov_unscaled=root @ root.T,
            u=state.u,
            b=apply_lambda(self.cross, state.lams, state.u[:, None], transpose=False)[:, 0],
            ldL2=state.ldM,
            ldRX2=self._ldRX2(state.Rxx),
            pwrss=state.pwrss,
            deviance=state.deviance,
            df=self.df,
            reml=self.reml,
            known_scale=self.known_scale,
        )

    # ------------------------------------------------------------------------- gradient

    def gradient(self, theta: FloatArray) -> FloatArray:
        """Exact gradient of the deviance in theta, (n_theta,)."""
        return self.covariance.chain(theta, self._at_gradient(theta))

    def _at_gradient(self, theta: FloatArray) -> list[FloatArray]:
        state = self.state_at(theta)
        own = self._own
        if own.gammas is None or own.gammas[0] is not state:
            own.gammas = (state, self._gamma_blocks(state))
        return own.gammas[1]

    def _gamma_blocks(self, state: State) -> list[FloatArray]:
        """Derivative with respect to every entry of every ``lambda_t``, each (k, k)."""
        singular = [t for t, lam in enumerate(state.lams) if self._pivot(t, lam) <= NEARLY_SINGULAR]
        dense = {t: self._gamma_at_boundary(state, t) for t in singular if state.lams[t].any()}
        out = []
        for t, lam in enumerate(state.lams):
            if t in dense:
                out.append(dense[t])
            elif t in singular:  # lambda_t = 0: the deviance is even in it
                out.append(np.zeros_like(lam))
            else:
                inner = self.information_gap(state, t, state.residual, self._precision(state.pwrss))
                out.append(2.0 * self.covariance.terms[t].divide(lam, inner))
        return out

    def _pivot(self, t: int, lam: FloatArray) -> float:
        """Smallest diagonal of ``lambda_t`` as a share of its row, or of what counts as one."""
        return self.covariance.terms[t].pivot(lam, self.units[self.covariance.slices[t]])

    def _precision(self, pwrss: float) -> float:
        """``1 / sigma^2``."""
        return self.df / pwrss if self.known_scale is None else 1.0 / self.known_scale

    def information_gap(
        self, state: State, t: int, residual: FloatArray, precision: float
    ) -> FloatArray:
        """``l I - sum_j (G_jj + K_xj S_xx^-1 K_xj' + u_j u_j' / sigma^2)``, (k, k).

        The middle term for REML only; ``u = K residual``, ``precision`` is ``1 / sigma^2``.
        """
        k, l = self.cross.sizes[t]
        part = self.cross.slices[t]
        gap = l * np.eye(k) - self.solver.inverse_sum(t)
        return gap - level_products(state.K[part], self._root(state, residual, precision), k)

    def _root(self, state: State, residual: FloatArray, precision: float) -> FloatArray:
        """A root of the derivative of the criterion in S, (r + 1, c)."""
        columns = [np.sqrt(precision) * residual[:, None]]
        if self.reml:
            columns.append(np.vstack([upper_inverse(state.Rxx), np.zeros(len(state.gamma))]))
        return np.hstack(columns)

    def _gamma_at_boundary(self, state: State, t: int) -> FloatArray:
        """The same derivative without the inverse of ``lambda_t``."""
        k, l = self.cross.sizes[t]
        part = self.cross.slices[t]
        total = self._trace_blocks(state, t)
        LK = apply_lambda(self.cross, state.lams, state.K, transpose=False)
        D = self.cross.B[part] - self.cross.A[part] @ LK
        d, u = (D @ state.residual).reshape(l, k), state.u[part].reshape(l, k)
        total -= self._precision(state.pwrss) * (d.T @ u)
        if self.reml and len(state.gamma):
            Dx = D[:, :-1] @ upper_inverse(state.Rxx)
            Dx = Dx.reshape(l, k, -1).transpose(1, 0, 2).reshape(k, -1)
            Kx = state.Kx[part].reshape(l, k, -1).transpose(1, 0, 2).reshape(k, -1)
            total -= Dx @ Kx.T
        return 2.0 * total

    def _trace_blocks(self, state: State, t: int) -> FloatArray:
        """``sum_j (A Lambda G)_jj`` over the levels of term t from G on the pattern of A."""
        k = self.cross.sizes[t][0]
        total = np.zeros((k, k))
        for s in range(len(self.cross.sizes)):
            pair = (max(s, t), min(s, t))
            A, G = self.cross.pairs[pair].data, self.solver.inverse_on_pattern(pair)
            if s > t:  # blocks (s, t): A[t, s] lambda_s G[s, t]
                total += np.einsum("bsi,sr,brj->ij", A, state.lams[s], G, optimize=True)
            else:  # blocks (t, s): A[t, s] lambda_s G[s, t], G[s, t] the transpose of G[t, s]
                total += np.einsum("bis,sr,bjr->ij", A, state.lams[s], G, optimize=True)
        return total

    # ------------------------------------------------------------------------ curvature

    def average_information(self, state: State) -> FloatArray:
        """Average information in tangent coordinates, an unknown sigma^2 profiled out."""
        if all(self._pivot(t, lam) > NEARLY_SINGULAR for t, lam in enumerate(state.lams)):
            return self._whitened_information(state)
        if self._lone_and_wide():
            return self._lone_information(state)
        g, d = self._directions(state)
        Ag = self.cross.A @ g
        right = apply_lambda(self.cross, state.lams, Ag)
        Q = g.T @ Ag - right.T @ self.solver.solve(right)
        Dg = self.cross.B[:, :-1].T @ g - state.K[:, :-1].T @ right
        half = solve_triangular(state.Rxx, Dg, transposed=True)
        return self._residual_information(state, Q - half.T @ half, g.T @ d)

    def _lone_and_wide(self) -> bool:
        """Whether one unstructured term of many coefficients is all there is."""
        terms = self.covariance.terms
        wide = len(terms) == 1 and terms[0].is_unstructured and terms[0].k >= WIDE
        return wide and self.cross.pairs[0, 0].is_block_diagonal

    def _lone_information(self, state: State) -> FloatArray:
        """The same of one term, whose levels share nothing.

        The direction of the entry (r, c) is ``g_j = e_r u_jc + lambda_c d_jr`` in level j. With
        ``P_j`` the block of ``Z'V^-1Z`` the products ``g_j'P_jg_j`` are sums over the levels of
        outer products of k x k matrices, which cost a k-th of those of the directions.
        """
        (lam,), k = state.lams, self.covariance.terms[0].k
        u, products = state.u.reshape(-1, k), self.products(state)
        d, Dx = (products @ state.residual).reshape(-1, k), products[:, :-1].reshape(len(u), k, -1)
        A = self.cross.pairs[0, 0].data
        Al = A @ lam
        P = A - Al @ self.solver.inverse_blocks(0) @ Al.transpose(0, 2, 1)
        PL = P @ lam
        l = len(u)

        def pairs(x: FloatArray, y: FloatArray) -> FloatArray:
            return (x.reshape(l, -1).T @ y.reshape(l, -1)).reshape(k, k, k, k)

        Q = pairs(P, u[:, :, None] * u[:, None]).transpose(0, 2, 1, 3)  # r r', c c'
        Q = Q + pairs(d[:, :, None] * d[:, None], lam.T @ PL).transpose(0, 2, 1, 3)
        mixed = pairs(PL, u[:, :, None] * d[:, None])  # r c', c r'
        Q += mixed.transpose(0, 2, 3, 1) + mixed.transpose(3, 1, 0, 2)
        along = np.einsum("jr,jc->rc", d, u + d @ lam).ravel()
        Dg = np.einsum("jrp,jc->prc", Dx, u) + np.einsum(
            "jap,ac,jr->prc", Dx, lam, d, optimize=True
        )
        half = solve_triangular(state.Rxx, Dg.reshape(len(Dg), -1), transposed=True)
        return self._residual_information(state, Q.reshape(k * k, -1) - half.T @ half, along)

    def joint_information(self, theta: FloatArray) -> FloatArray:
        """Average information in theta and, last, in log sigma, times sigma^2; (m + 1, m + 1)."""
        state, inner = self.state_at(theta), self.covariance.in_tangent
        g, d = self._directions(state)
        g = g[:, inner]
        Ag = self.cross.A @ g
        right = apply_lambda(self.cross, state.lams, Ag)
        Q = g.T @ Ag - right.T @ self.solver.solve(right)
        Dg = self.cross.B[:, :-1].T @ g - state.K[:, :-1].T @ right
        half = solve_triangular(state.Rxx, Dg, transposed=True)
        slope = (g.T @ d)[:, None]
        return np.block([[Q - half.T @ half, slope], [slope.T, np.array([[state.pwrss]])]])

    def _residual_information(self, state: State, Q: FloatArray, slope: FloatArray) -> FloatArray:
        """``g'Pg / sigma^2``, an unknown sigma^2 profiled out; ``slope`` is ``g'd``."""
        if self.known_scale is None:
            Q -= np.outer(slope, slope) / state.pwrss
        return Q * self._precision(state.pwrss)

    def _with_many_parameters(self, state: State) -> list[int]:
        """Terms whose levels are too few for the average information, away from a boundary."""
        terms = enumerate(zip(self.covariance.terms, self.levels, strict=True))
        many = [t for t, (term, levels) in terms if term.is_numerous(levels)]
        return [t for t in many if self._is_regular(t, state.lams[t])]

    def _is_regular(self, t: int, lam: FloatArray) -> bool:
        """Whether no standard deviation is near zero and no correlation near one."""
        sd = np.linalg.norm(lam, axis=1)
        own = np.abs(np.diag(self.covariance.terms[t].triangular(lam)))
        there = sd * self.cross.rms(t) > SMALL_EFFECT
        return bool((there & (own > WELL_AWAY * sd)).all())

    def _expected_information(self, state: State, t: int) -> FloatArray:
        """Expected information in a term's steps, an unknown sigma^2 profiled out."""
        term, k = self.covariance.terms[t], self.covariance.terms[t].k
        G, theta = self.solver.inverse_blocks(t), state.theta[self.covariance.slices[t]]
        K, slope = np.zeros((term.n_tangent,) * 2), np.zeros(term.n_tangent)
        for levels in parts(len(G), k):
            N = np.eye(k) - G[levels]
            if self.reml and len(state.gamma):
                own = state.Kx[self.cross.slices[t]].reshape(len(G), k, -1)[levels]
                N -= own @ own.transpose(0, 2, 1)
            some, sums = expected_information(term, theta, state.lams[t], N)
            K += some
            slope += sums
        return K if self.known_scale is not None else K - np.outer(slope, slope) / self.df

    def _whitened_information(self, state: State) -> FloatArray:
        """The same from ``Z'V^-1Z = Lambda^-T (I - G) Lambda^-1``, without A."""
        h, to_h = self._whitened_directions(state)
        Q = h.T @ h - h.T @ self._roughly(h)
        Kh = solve_triangular(state.Rxx, state.K[:, :-1].T @ h, transposed=True)
        Q = self._residual_information(state, Q - Kh.T @ Kh, h.T @ state.u)
        return to_h.T @ Q @ to_h

    def _roughly(self, h: FloatArray) -> FloatArray:
        """``M^-1 h`` with the digits that a curvature needs."""
        return self.solver.solve(h)

    def _whitened_directions(self, state: State) -> tuple[FloatArray, FloatArray]:
        """Columns ``h_i = Lambda^-1 g_i`` (q, m), and what a tangent vector is made of in them.

        A step ``dlambda`` moves ``Psi_t`` by ``lambda Y lambda'`` with ``Y = lambda^-1 dlambda +
        (lambda^-1 dlambda)'``, and its column is ``(Y (x) I) u``. Where the symmetric matrices
        with one or two ones are fewer than the tangent coordinates, they stand for Y.
        """
        cross, maps, columns = self.cross, [], []
        for t, (term, lam) in enumerate(zip(self.covariance.terms, state.lams, strict=True)):
            back = term.divide(lam, np.eye(term.k)).T
            own = state.theta[self.covariance.slices[t]]
            u = state.u[cross.slices[t]].reshape(-1, term.k)
            below, left = lower_triangle(term.k)
            if term.n_tangent > len(below):
                Y = term.symmetric_steps(own, back)
                maps.append(Y[:, below, left].T)
                wide = symmetric_units(term.k).transpose(2, 1, 0).reshape(term.k, -1)
                columns.append((u @ wide).reshape(cross.sizes[t][1] * term.k, -1))
            else:
                maps.append(np.eye(term.n_tangent))
                columns.append(term.moved(own, back, u).reshape(u.size, -1))
        h = np.zeros((cross.q, sum(own.shape[1] for own in columns)))
        first = 0
        for own, part in zip(columns, cross.slices, strict=True):
            h[part, first : first + own.shape[1]] = own
            first += own.shape[1]
        return h, block_diagonal(maps)

    def products(self, state: State) -> FloatArray:
        """``D = B - A Lambda K = Z'V^-1[Xy]``, (q, r + 1), in the working basis."""
        LK = apply_lambda(self.cross, state.lams, state.K, transpose=False)
        return np.asarray(self.cross.B - self.cross.A @ LK)

    def _residual_products(self, state: State) -> FloatArray:
        """``d = Z'V^-1(y - X beta)``, (q,)."""
        b = apply_lambda(self.cross, state.lams, state.u[:, None], transpose=False)
        return np.asarray(self.cross.B @ state.residual - (self.cross.A @ b)[:, 0])

    def _directions(self, state: State) -> tuple[FloatArray, FloatArray]:
        """Columns ``g_i = E_i u + Lambda E_i'd`` (q, m), and ``d = Z'V^-1(y - X beta)``."""
        cov, cross = self.covariance, self.cross
        d = self._residual_products(state)
        g = np.zeros((cross.q, cov.n_tangent))
        for t, term in enumerate(cov.terms):
            k, l = cross.sizes[t]
            part, lam = cross.slices[t], state.lams[t]
            u_t, d_t = state.u[part].reshape(l, k), d[part].reshape(l, k)
            block = g[part].reshape(l, k, -1)
            first = cov.tangent_slices[t].start
            slopes = term.slopes(state.theta[cov.slices[t]])
            if slopes is not None:
                for i, E in enumerate(slopes, first):
                    block[:, :, i] = u_t @ E.T + d_t @ E @ lam.T
                continue
            for i, (r, c) in enumerate(zip(*term.tangent, strict=True), first):
                block[:, r, i] += u_t[:, c]
                block[:, :, i] += d_t[:, r, None] * lam[:, c]
        return g, d

    def tangent_model(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient and model Hessian in all entries of every ``lambda_t``.

        The Hessian is the average information plus the exact curvature of
        ``lambda -> lambda lambda'``, for terms with many parameters the expected information.

        Returns
        -------
        gradient : ndarray, (m,)
        hessian : ndarray, (m, m)
            In tangent coordinates, see `Covariance.tangent_slices`.
        """
        state, gammas, own = self.state_at(theta), self._at_gradient(theta), self._own
        if own.tangent is not None and own.tangent[0] is state:
            return own.tangent[1:]
        many = self._with_many_parameters(state)
        H = np.zeros((self.covariance.n_tangent,) * 2)
        if not many or len(state.lams) > 1:
            H = self.average_information(state)
        for t in many:
            at = self.covariance.tangent_slices[t]
            H[at, at] = self._expected_information(state, t)
        for t, lam in enumerate(state.lams):
            if self._pivot(t, lam) > SMALLEST_PIVOT:
                own.psi_slopes[t] = 0.5 * self.covariance.terms[t].divide(lam, gammas[t].T).T
            if (
                t in own.psi_slopes and t not in many
            ):  # at a singular lambda_t the last one, which hardly moved
                psi = own.psi_slopes[t]
                add_root_curvature(H, self.covariance, t, psi, state.theta, gammas[t])
        own.tangent = state, self.covariance.tangent_vector(state.theta, gammas), H
        return own.tangent[1:]

    def tangent_gradient(self, theta: FloatArray) -> FloatArray:
        """The gradient alone, (m,)."""
        gammas = self._at_gradient(theta)
        return self.covariance.tangent_vector(self.state_at(theta).theta, gammas)

    def newton_matrix(self, theta: FloatArray) -> FloatArray:
        """The model Hessian in theta, (n_theta, n_theta)."""
        inner = self.covariance.in_tangent
        return self.tangent_model(theta)[1][np.ix_(inner, inner)]

    def hessian(self, theta: FloatArray) -> FloatArray:
        """Hessian of the deviance in theta by central differences of the exact gradient."""
        theta = np.asarray(theta, dtype=float)
        return difference_hessian(self.gradient, theta, np.maximum(self.units, np.abs(theta)))

    # ------------------------------------------------------------------------- accuracy

    def rounding(self, theta: FloatArray) -> float:
        """Estimate of the rounding error of the deviance at theta.

        M and S are sums whose terms are rounded, by a share eps of ``|Lambda'| |A| |Lambda| + I``
        and of `Projected.sizes`; each is multiplied by the derivative of the deviance in it. In M
        that is ``G``, and what `Projected.solved` adds because S is made of it.
        """
        state, own = self.state_at(theta), self._own
        if own.rounding is None or own.rounding[0] is not state:
            own.rounding = state, self._rounding(state)
        return own.rounding[1]

    def _rounding(self, state: State) -> float:
        root = self._root(state, state.residual, self._precision(state.pwrss))
        total = float(state.found.sizes @ np.sum(root**2, axis=1))
        for t, lam in enumerate(np.abs(lam) for lam in state.lams):
            pair, k = self.cross.pairs[t, t], len(lam)
            own = pair.data if pair.is_block_diagonal else pair.data[pair.rows == pair.cols]
            squares = (lam[:, None] * lam).reshape(k * k, k)
            size = 1.0 + np.abs(own).reshape(-1, k * k) @ squares
            half = state.found.solved[self.cross.slices[t]] @ root
            by_m = np.einsum("bii->bi", self.solver.inverse_blocks(t)).ravel()
            total += float(size.ravel() @ (by_m + np.einsum("ij,ij->i", half, half)))
        return float(np.finfo(float).eps) * total

    # ------------------------------------------------------------- after the optimization

    def conditional_columns(self, theta: FloatArray, right: FloatArray) -> FloatArray:
        """``Lambda M^-1 Lambda' right``, (q, m): columns of ``Var(b | y) / sigma^2``.

        Parameters
        ----------
        theta : ndarray, (n_theta,)
        right : ndarray, (q, m)
            Unit vectors, or sums of unit vectors whose columns of Z never meet.
        """
        lams = self.state_at(theta).lams
        inner = self.solver.solve(apply_lambda(self.cross, lams, right))
        return apply_lambda(self.cross, lams, inner, transpose=False)

    def conditional_products(self, theta: FloatArray, H: CSR) -> FloatArray:
        """``H Lambda M^-1 Lambda'H'``, (m, m): ``Var(H b | y) / sigma^2`` of sparse rows H (m, q).

        Costs what the levels in use cost, however many there are besides.
        """
        return self.solver.bilinear_forms(self.times_lambda(theta, H), MAX_BATCH)

    def conditional_squares(self, theta: FloatArray, H: CSR) -> FloatArray:
        """The diagonal of the same, (m,)."""
        return self.solver.quadratic_forms(self.times_lambda(theta, H), MAX_BATCH)

    def times_lambda(self, theta: FloatArray, H: CSR) -> CSR:
        """``H Lambda`` of sparse rows H, (m, q)."""
        parts = []
        for lam, part, (k, l) in zip(
            self.state_at(theta).lams, self.cross.slices, self.cross.sizes, strict=True
        ):
            own = H[:, part]
            if own.nnz:
                own = own * lam[0, 0] if k == 1 else own @ sp.kron(sp.eye_array(l), lam, "csr")
            parts.append(own)
        return sp.csr_array(sp.hstack(parts, "csr"))

    def conditional_blocks(self, theta: FloatArray, t: int) -> FloatArray:
        """``lambda_t G_jj lambda_t'``, (l, k, k): ``Var(b_j | y) / sigma^2`` of every level."""
        lam = self.state_at(theta).lams[t]
        return congruence(self.solver.inverse_blocks(t), lam.T, lam.T)

    def conditional_cross_blocks(self, theta: FloatArray, s: int, t: int) -> FloatArray:
        """``lambda_s G lambda_t'`` where ``A[s, t]`` has blocks, for s >= t, (nb, k_s, k_t)."""
        lams = self.state_at(theta).lams
        return congruence(self.solver.inverse_on_pattern((s, t)), lams[s].T, lams[t].T)

    def pwrss_gradient(self, theta: FloatArray) -> FloatArray:
        """Gradient of pwrss in theta, (n_theta,): ``-2 sum_j d_j[r] u_j[c]`` for entry (r, c)."""
        state = self.state_at(theta)
        return self.covariance.chain(state.theta, self._pwrss_blocks(state))

    def _pwrss_blocks(self, state: State) -> list[FloatArray]:
        """The same in all entries of every ``lambda_t``."""
        cross = self.cross
        d = self._residual_products(state)
        return [
            -2.0 * d[part].reshape(l, k).T @ state.u[part].reshape(l, k)
            for part, (k, l) in zip(cross.slices, cross.sizes, strict=True)
        ]

    # ------------------------------------------------------------------------ coordinates

    def working(self, theta: FloatArray) -> tuple[ProfiledDeviance, FloatArray]:
        """The deviance and theta in the coordinates of ``cross``: these, unless a basis changed."""
        return self, theta

    def original(self, inner: FloatArray) -> FloatArray:
        """Theta of the model from that of `working`, (n_theta,)."""
        return inner

    def anchored(self, inner: FloatArray) -> FloatArray:
        """The same, whose last evaluation then answers for it."""
        return inner

    def carried(
        self, theta: FloatArray, gammas: Sequence[FloatArray], hessian: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Gradient and Hessian in theta from those in the entries of `working`'s ``lambda_t``."""
        inside = self.covariance.in_tangent
        return self.covariance.chain(theta, gammas), hessian[np.ix_(inside, inside)]

    def rows(self, design: Design) -> Design:
        """The design with the columns that ``cross`` was made of."""
        return design

    def term_rows(self, terms: tuple[RandomTerm, ...]) -> tuple[RandomTerm, ...]:
        """Terms on any rows with the columns that ``cross`` was made of."""
        return terms

    def combinations(self, H: CSR) -> CSR:
        """Combinations ``H b`` of random effects, as combinations of those in `working`, (m, q)."""
        return H

    def effects(self, theta: FloatArray, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Spherical effects of `working` as the model's ``u`` and ``b``, each (q,)."""
        lams = self.state_at(theta).lams
        return u, apply_lambda(self.cross, lams, u[:, None], transpose=False)[:, 0]

    def original_covariance(self, theta: FloatArray, cov: FloatArray) -> FloatArray:
        """Covariance of theta from that of `working`'s theta, (n_theta, n_theta)."""
        return cov

    def original_slope(self, t: int, slope: FloatArray) -> FloatArray:
        """Derivative in the model's ``Psi_t`` from that in `working`'s, (k, k)."""
        return slope

    def original_psi(self, t: int, psi: FloatArray) -> FloatArray:
        """``Psi_t`` of the model's coefficients from that in `working`, (..., k, k)."""
        return psi

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what the threads evaluated last."""
        return {**self.__dict__, "_own": self.solver}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._own = _Own(state["_own"], threading.get_ident())


@cache
def symmetric_units(k: int) -> FloatArray:
    """The symmetric k x k matrices with one or two ones, in the order of `lower_triangle`."""
    rows, cols = lower_triangle(k)
    units = np.zeros((len(rows), k, k))
    each = np.arange(len(rows))
    units[each, rows, cols] = units[each, cols, rows] = 1.0
    return units


def residual_part(pwrss: float, df: int, known_scale: float | None) -> float:
    """``df log(2 pi sigma^2) + pwrss / sigma^2`` at the estimate of sigma^2, or at its value."""
    if known_scale is None:
        return float(df * (1.0 + np.log(2.0 * np.pi * pwrss / df)))
    return float(df * np.log(2.0 * np.pi * known_scale) + pwrss / known_scale)


def add_root_curvature(
    H: FloatArray, covariance: Covariance, t: int, psi: FloatArray, theta: FloatArray,
    gamma: FloatArray,
) -> None:  # fmt: skip
    """Add the curvature of ``theta -> Psi_t`` to a Hessian in tangent coordinates, in place.

    ``psi`` (k, k) is the derivative of the deviance in ``Psi_t / sigma^2`` and ``gamma`` the one in
    the entries of ``lambda_t``; along ``dlambda`` the second derivative of ``lambda lambda'`` is
    ``2 dlambda dlambda'``, to which comes that of ``lambda_t`` itself where theta bends it.
    """
    term, at = covariance.terms[t], covariance.tangent_slices[t]
    own = theta[covariance.slices[t]]
    if isinstance(term, Patterned):
        H[at, at] += term.inner(own, psi + psi.T)
        bends = term.bends(own, gamma)
        if bends is not None:
            H[at, at] += bends
        return
    rows, cols = term.tangent
    same = cols[:, None] == cols[None, :]
    H[at, at] += np.where(same, (psi + psi.T)[np.ix_(rows, rows)], 0.0)


def difference_hessian(
    gradient: Callable[[FloatArray], FloatArray], theta: FloatArray, sizes: FloatArray
) -> FloatArray:
    """Hessian by central differences of an exact gradient, (n_theta, n_theta).

    ``sizes`` are changes of each entry of theta that matter.
    """
    H = np.empty((len(theta), len(theta)))
    for i in range(len(theta)):
        step = np.zeros(len(theta))
        step[i] = HESSIAN_STEP * sizes[i]
        H[i] = (gradient(theta + step) - gradient(theta - step)) / (2.0 * step[i])
    return 0.5 * (H + H.T)


def theta_units(covariance: Covariance, rms: Sequence[FloatArray]) -> FloatArray:
    """One over the root mean square of the covariate each entry of theta belongs to."""
    units = [term.units(size) for term, size in zip(covariance.terms, rms, strict=True)]
    return np.concatenate(units) if units else np.zeros(0)
