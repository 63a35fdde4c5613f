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

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.linalg import lapack

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.smallmatrix import (
    identity,
    level_products,
    solve_triangular,
)
from sparselmm.base.types import CSR, FloatArray
from sparselmm.design.terms import Design, RandomTerm
from sparselmm.factor.centred import Centred
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.factorization import Factorization
from sparselmm.factor.solver import apply_lambda, congruence, times_lambda
from sparselmm.likelihood.boundary import slope_at_boundary
from sparselmm.likelihood.covariance import Covariance, theta_units
from sparselmm.likelihood.curvature import (
    add_root_curvature,
    columns_information,
    difference_hessian,
    directions,
    expected_sums,
    is_regular,
    residual_products,
    whitened_directions,
)
from sparselmm.likelihood.evaluations import PLSFit, Projected, State, residual_part

WIDE = 8
"""Coefficients from which a lone term is treated level by level at a singular covariance."""

NEARLY_SINGULAR = 1e-4
"""Below this share of its row (or of one over the covariate's root mean square) a diagonal of
lambda_t counts as singular: dividing by it would cost more than half the gradient's digits."""

SMALLEST_PIVOT = 1e-6
"""A curvature needs few digits, so its division by a diagonal of lambda_t may lose most."""

EPS = float(np.finfo(float).eps)

MAX_BATCH = 256
"""Right-hand sides solved together; more gain nothing."""


class _Own(threading.local):
    """What one thread evaluated last, and the solver whose factor belongs to it.

    ``__init__`` runs once in every thread that asks; all but the first get a solver of their own.
    """

    def __init__(self, solver: Factorization, first: int):
        self.solver = solver if threading.get_ident() == first else solver.twin()
        self.state: State | None = None
        self.gammas: tuple[State, list[FloatArray]] | None = None
        self.tangent: tuple[State, FloatArray, FloatArray] | None = None
        self.psi_slopes: dict[int, FloatArray] = {}
        self.rounding: tuple[State, float] | None = None
        self.pivots: tuple[State, list[float]] | None = None
        self.root: tuple[State, FloatArray] | None = None


class ProfiledDeviance:
    """Profiled ML or REML deviance as a function of theta, from cross-products.

    May be used by any number of threads: each keeps its own factor and last evaluation.

    Parameters
    ----------
    solver : Factorization
        Its numeric factor is reused by value and gradient.
    reml : bool
    known_scale : float, optional
        Residual variance, when it is known.
    centred : Centred, optional
        Cross-products of what predictions leave, where those in ``cross`` lose digits.
    """

    model_is_exact = False

    def __init__(
        self, cross: CrossProducts, covariance: Covariance, solver: Factorization, *, reml: bool,
        known_scale: float | None = None, centred: Centred | None = None,
    ):  # fmt: skip
        self.cross, self.centred = cross, centred
        self.covariance = covariance
        self._own = _Own(solver, threading.get_ident())
        self.reml = reml
        self.known_scale = known_scale
        self.df = cross.n - cross.basis.rank if reml else cross.n
        self.levels = [l for _, l in cross.sizes]
        terms = enumerate(zip(covariance.terms, self.levels, strict=True))
        self._numerous = [t for t, (term, levels) in terms if term.is_numerous(levels)]
        self.units = theta_units(covariance, cross.moments)
        self.unit_roots = covariance.unit_roots(cross.moments)

    def __repr__(self) -> str:
        kind = "REML criterion" if self.reml else "-2 log-likelihood"
        return (
            f"{type(self).__name__}: the {kind} as a function of theta ({self.covariance.n_theta} "
            "entries), value(theta) and gradient(theta); opt.deviance is its minimum"
        )

    def remember(self, last: ProfiledDeviance) -> None:
        """Take over the slopes in ``Psi_t`` that another evaluation next to this one left."""
        self._own.psi_slopes.update(last._own.psi_slopes)

    @property
    def solver(self) -> Factorization:
        """The solver of the thread that asks."""
        return self._own.solver

    # ---------------------------------------------------------------------------- value

    def state_at(self, theta: FloatArray) -> State:
        """The evaluation at theta; the solver then holds its factor."""
        own = self._own
        state = own.state
        if (
            state is None
            or own.solver.holds is not state  # another deviance may share the solver
            or np.asarray(theta, dtype=float).tobytes() != state.theta.tobytes()
        ):
            # the last evaluation is freed before the next is made
            own.state = own.gammas = own.tangent = own.rounding = own.pivots = own.root = None
            own.state = own.solver.holds = state = self._evaluate(np.array(theta, dtype=float))
        return state

    def _evaluate(self, theta: FloatArray) -> State:
        lams = self.covariance.factors(theta)
        ldM = self.solver.factorize(lams, self.cross.values)
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
            return Projected(K, K, cross.C - explained, cross.C.diagonal())
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
        return float(2.0 * np.log(np.abs(Rxx.diagonal())).sum()) - self.cross.basis.logdet

    def value(self, theta: FloatArray) -> float:
        """Deviance at theta.

        NotPositiveDefiniteError if it is so large that rounding destroys the factorization.
        """
        return self.state_at(theta).deviance

    def at(self, theta: FloatArray) -> PLSFit:
        """The penalized least-squares solution at theta."""
        state, basis = self.state_at(theta), self.cross.basis
        root = basis.T @ state.inverse_root
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
            root=root,
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
        singular = [t for t, pivot in enumerate(self._pivots(state)) if pivot <= NEARLY_SINGULAR]
        precision, root = self._precision(state.pwrss), self._own_root(state)
        dense = {
            t: slope_at_boundary(self.cross, self.solver, state, t, precision, self.reml)
            for t in singular
            if state.lams[t].any()
        }
        out = []
        for t, lam in enumerate(state.lams):
            if t in dense:
                out.append(dense[t])
            elif t in singular:  # lambda_t = 0: the deviance is even in it
                out.append(np.zeros_like(lam))
            else:
                inner = self.information_gap(state, t, root)
                out.append(2.0 * self.covariance.terms[t].divide(lam, inner))
        return out

    def _pivot(self, t: int, lam: FloatArray) -> float:
        """Smallest diagonal of ``lambda_t`` as a share of its row, or of what counts as one."""
        return float(self.covariance.terms[t].pivot(lam, self.units[self.covariance.slices[t]]))

    def _pivots(self, state: State) -> list[float]:
        """The same of every term at a state."""
        own = self._own
        if own.pivots is None or own.pivots[0] is not state:
            own.pivots = state, [self._pivot(t, lam) for t, lam in enumerate(state.lams)]
        return own.pivots[1]

    def _precision(self, pwrss: float) -> float:
        """``1 / sigma^2``."""
        return self.df / pwrss if self.known_scale is None else 1.0 / self.known_scale

    def information_gap(self, state: State, t: int, root: FloatArray) -> FloatArray:
        """``l I - sum_j (G_jj + K_xj S_xx^-1 K_xj' + u_j u_j' / sigma^2)``, (k, k).

        With ``root`` R of `root` it is ``l I - sum_j (G_jj + K_j R R' K_j')``.
        """
        k, l = self.cross.sizes[t]
        gap = l * identity(k) - self.solver.inverse_sum(t)
        return gap - level_products(state.K[self.cross.slices[t]], root, k)

    def _own_root(self, state: State) -> FloatArray:
        """`root` at the fixed effects and the scale of a state."""
        own = self._own
        if own.root is None or own.root[0] is not state:
            own.root = state, self.root(state)
        return own.root[1]

    def root(
        self, state: State, residual: FloatArray | None = None, precision: float | None = None
    ) -> FloatArray:
        """A root of the derivative of the criterion in S, (r + 1, c).

        At other fixed effects with their ``residual``, and another ``precision = 1 / sigma^2``.
        """
        residual = state.residual if residual is None else residual
        precision = self._precision(state.pwrss) if precision is None else precision
        r = len(state.gamma) if self.reml else 0
        root = np.zeros((len(residual), 1 + r))
        root[:, 0] = math.sqrt(precision) * residual
        root[:r, 1:] = state.inverse_root[:r, :r]
        return root

    # ------------------------------------------------------------------------ curvature

    def average_information(self, state: State) -> FloatArray:
        """Average information in tangent coordinates, an unknown sigma^2 profiled out."""
        if all(pivot > NEARLY_SINGULAR for pivot in self._pivots(state)):
            return self._whitened_information(state)
        if self._lone_and_wide():
            return self._lone_information(state)
        g, d = directions(self.cross, self.covariance, state)
        Q = columns_information(self.cross, self.solver, state, g)
        return self._residual_information(state, Q, g.T @ d)

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
        g, d = directions(self.cross, self.covariance, state)
        g = g[:, inner]
        Q, slope = columns_information(self.cross, self.solver, state, g), (g.T @ d)[:, None]
        return np.block([[Q, slope], [slope.T, np.array([[state.pwrss]])]])

    def _residual_information(self, state: State, Q: FloatArray, slope: FloatArray) -> FloatArray:
        """``g'Pg / sigma^2``, an unknown sigma^2 profiled out; ``slope`` is ``g'd``."""
        if self.known_scale is None:
            Q -= slope[:, None] * slope / state.pwrss
        return Q * self._precision(state.pwrss)

    def _with_many_parameters(self, state: State) -> list[int]:
        """Terms whose levels are too few for the average information, away from a boundary."""
        return [
            t for t in self._numerous if is_regular(self.cross, self.covariance, t, state.lams[t])
        ]

    def _expected_information(self, state: State, t: int) -> FloatArray:
        """Expected information in a term's steps, an unknown sigma^2 profiled out."""
        own, part = state.theta[self.covariance.slices[t]], self.cross.slices[t]
        Kx = state.Kx[part] if self.reml and len(state.gamma) else None
        K, slope = expected_sums(
            self.covariance.terms[t], own, state.lams[t], self.solver.inverse_blocks(t), Kx
        )
        return K if self.known_scale is not None else K - np.outer(slope, slope) / self.df

    def _whitened_information(self, state: State) -> FloatArray:
        """The same from ``Z'V^-1Z = Lambda^-T (I - G) Lambda^-1``, without A."""
        h, to_h = whitened_directions(self.cross, self.covariance, state)
        Q = h.T @ (h - self._roughly(h))
        Kh = solve_triangular(state.Rxx, state.K[:, :-1].T @ h, transposed=True)
        Q = self._residual_information(state, Q - Kh.T @ Kh, h.T @ state.u)
        return to_h.T @ Q @ to_h

    def _roughly(self, h: FloatArray) -> FloatArray:
        """``M^-1 h`` with the digits that a curvature needs."""
        return self.solver.solve(h)

    def products(self, state: State) -> FloatArray:
        """``D = B - A Lambda K = Z'V^-1[Xy]``, (q, r + 1), in the working basis."""
        LK = apply_lambda(self.cross, state.lams, state.K, transpose=False)
        return np.asarray(self.cross.B - self.cross.A @ LK)

    def tangent_model(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient and model Hessian in all entries of every ``lambda_t``.

        The Hessian is the average information plus the exact curvature of
        ``lambda -> lambda lambda'``, for terms with many parameters the expected information; both
        are in tangent coordinates, see `Covariance.tangent_slices`, (m,) and (m, m).
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
            if self._pivots(state)[t] > SMALLEST_PIVOT:
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
        return self.tangent_model(theta)[1][inner[:, None], inner]

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
        root = self._own_root(state)
        total = float(state.found.sizes @ (root * root).sum(axis=1))
        for t, lam in enumerate(state.lams):
            pair, k = self.cross.pairs[t, t], len(lam)
            own = pair.data if pair.is_block_diagonal else pair.data[pair.rows == pair.cols]
            squares = np.abs(lam[:, None] * lam).reshape(k * k, k)
            size = (1.0 + np.abs(own).reshape(-1, k * k) @ squares).ravel()
            half = state.found.solved[self.cross.slices[t]] @ root
            inverse = self._roughly_inverse(t)
            by_m = inverse if k == 1 else inverse.diagonal(axis1=1, axis2=2)
            total += float(size @ by_m.ravel() + (size @ (half * half)).sum())
        return EPS * total

    def _roughly_inverse(self, t: int) -> FloatArray:
        """Diagonal blocks of ``M^-1`` of every level of term t, (l, k, k), to one digit."""
        return self.solver.inverse_blocks(t)

    # ------------------------------------------------------------- after the optimization

    def conditional_columns(self, theta: FloatArray, right: FloatArray) -> FloatArray:
        """``Lambda M^-1 Lambda' right``, (q, m): columns of ``Var(b | y) / sigma^2``.

        ``right`` (q, m) are unit vectors, or sums of those whose columns of Z never meet.
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
        return times_lambda(self.cross.pattern, self.state_at(theta).lams, H)

    def conditional_blocks(self, theta: FloatArray, t: int) -> FloatArray:
        """``lambda_t G_jj lambda_t'``, (l, k, k): ``Var(b_j | y) / sigma^2`` of every level."""
        lam = self.state_at(theta).lams[t]
        return congruence(self.solver.inverse_blocks(t), lam.T, lam.T)

    def conditional_cross_blocks(self, theta: FloatArray, s: int, t: int) -> FloatArray:
        """``lambda_s G lambda_t'`` where ``A[s, t]`` has blocks, for s >= t, (nb, k_s, k_t)."""
        lams = self.state_at(theta).lams
        return congruence(self.solver.inverse_on_pattern((s, t)), lams[s].T, lams[t].T)

    def gamma_slopes(self, theta: FloatArray) -> FloatArray:
        """Derivative of gamma in theta, (r, n_theta): ``S_xx^-1 (dS_xy - dS_xx gamma)``."""
        state, r = self.state_at(theta), len(self.state_at(theta).gamma)
        D = self.products(state)
        d, blocks = D @ state.residual, []
        for part, (k, l) in zip(self.cross.slices, self.cross.sizes, strict=True):
            u_t, d_t = state.u[part].reshape(l, k), d[part].reshape(l, k)
            K_t, D_t = (M[part, :r].reshape(l, k, r) for M in (state.K, D))
            of_K, of_D = np.tensordot(d_t, K_t, (0, 0)), np.tensordot(u_t, D_t, (0, 0))
            blocks.append(-of_K - of_D.transpose(1, 0, 2))
        out = np.empty((r, self.covariance.n_theta))
        for j in range(r):
            out[j] = self.covariance.chain(state.theta, [block[:, :, j] for block in blocks])
        inverse = state.inverse_root
        return np.asarray(inverse @ (inverse.T @ out))

    def pwrss_gradient(self, theta: FloatArray) -> FloatArray:
        """Gradient of pwrss in theta, (n_theta,): ``-2 sum_j d_j[r] u_j[c]`` for entry (r, c)."""
        state = self.state_at(theta)
        return self.covariance.chain(state.theta, self._pwrss_blocks(state))

    def _pwrss_blocks(self, state: State) -> list[FloatArray]:
        """The same in all entries of every ``lambda_t``."""
        cross = self.cross
        d = residual_products(self.cross, state)
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
        return self.covariance.chain(theta, gammas), hessian[inside[:, None], inside]

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
