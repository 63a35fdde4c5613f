"""The deviance with a residual covariance structure, as a function of (theta, phi).

With ``V = R(phi) + Z Lambda Lambda'Z'`` and A, B, C at phi, M, K, S, u and pwrss are those of
:mod:`sparselmm.likelihood.deviance`, and log det R is added. With ``e = y - X beta - Z b``,
``e_x = X - Z Lambda K_x`` and ``G = Lambda M^-1 Lambda'``,

    Theta = Z G Z' + e_x S_xx^-1 e_x' [REML] + e e' / sigma^2        (derivative in R^-1)
    w_j = R_j R^-1 e,     w_k = Z g_k      (phi, theta)
    AI = [ w'R^-1 w - (Lambda'Z'R^-1 w)'M^-1(Lambda'Z'R^-1 w) - h'S_xx^-1 h
           - (w'R^-1 e)(w'R^-1 e)' / pwrss ] / sigma^2,     h = X'R^-1 w - K_x'Lambda'Z'R^-1 w

with the last term where sigma is profiled out. The model Hessian is AI plus the curvature of
``lambda lambda'`` and of R.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.smallmatrix import solve_triangular
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.design.terms import Design
from sparselmm.factor.bases import cross_products, in_bases, term_basis
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.layout import Strategy
from sparselmm.factor.plan import make_plan
from sparselmm.factor.solver import BlockSolver, apply_lambda
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.curvature import difference_hessian, directions, whitened_directions
from sparselmm.likelihood.deviance import NEARLY_SINGULAR, ProfiledDeviance
from sparselmm.likelihood.engine import (
    profiled_deviance,
    solver_by,
    solver_of,
    working_deviance,
)
from sparselmm.likelihood.evaluations import Deviance, Joint, PLSFit
from sparselmm.likelihood.moments import moment_start
from sparselmm.likelihood.residual.blocks import Blocks
from sparselmm.likelihood.residual.endless import RISES
from sparselmm.likelihood.residual.exact import is_small, unstructured_hessian
from sparselmm.likelihood.residual.limits import at_a_limit
from sparselmm.likelihood.residual.markov import Markov
from sparselmm.likelihood.residual.products import Backend, BackendState, Products
from sparselmm.likelihood.residual.starts import further_starts, start_phi
from sparselmm.likelihood.residual.structure import Structure, Structured, structure_of
from sparselmm.likelihood.residual.term import PhiTerm
from sparselmm.likelihood.residual.unstructured import Unstructured

DENSE_PAIRS = 40
"""Pairs of rows within groups, per row, up to which blocks of R are dense whatever their kind."""


FEW_ROWS, STRONG = 500, 0.9
"""Rows, and correlation at a typical distance, that leave random effects open."""

FEWER_ROWS = 150
"""Rows that leave open which of several correlations may be one."""

PROBES = (200.0, 2.0)
"""Distances of a correlation from one, in those of the nearest one, between which the deviance must
fall for a search to start there."""


@dataclass(frozen=True, eq=False)
class At:
    """The engine at one phi."""

    phi: FloatArray
    state: BackendState
    deviance: ProfiledDeviance


def backend_of(design: Design, structure: Structure) -> Backend:
    """How R is kept: matrices of patterns, or one neighbour of every row."""
    rows = design.residual
    assert rows is not None
    pairs = float((np.bincount(rows.group).astype(float) ** 2).sum())
    if rows.markov and isinstance(structure, Structured) and pairs > DENSE_PAIRS * design.n:
        return Markov(rows, structure, design.weights)
    return Blocks(rows, structure, design.weights)


class ResidualDeviance(Joint):
    """Profiled deviance of (theta, phi), in the working bases of the engine.

    Parameters
    ----------
    design : Design
        With its ``residual``.
    reml : bool
    strategy : Strategy, optional
        How M is factored; default the cheapest.
    """

    model_is_exact = False
    patience = 3.0

    def __init__(self, design: Design, *, reml: bool, strategy: Strategy | None = None):
        assert design.residual is not None
        self.design, self.reml = design, reml
        bases = [term_basis(term, design.weights) for term in design.terms]
        self.bases = None if all(F is None for F in bases) else tuple(bases)
        inner = design if self.bases is None else in_bases(design, self.bases)
        self.structure = structure_of(design.residual)
        self.known_scale = self.structure.known_scale
        self.backend = backend_of(design, self.structure)
        self.products = Products(inner, self.backend, self.bases)
        self.phi_start = self._phi_start()
        self.theta_covariance = Covariance.of(design.terms)
        self.covariance = Covariance((*self.theta_covariance.terms, PhiTerm.of(self.structure)))
        self.n_theta = self.theta_covariance.n_theta
        self._solver: BlockSolver | None = None
        self._strategy = strategy
        self.factor_seconds = 0.0
        """Predicted, of one factorization with its gradient."""
        self._at: At | None = None
        self._model: tuple[FloatArray, FloatArray, FloatArray] | None = None
        first = self.engine(self.phi_start)
        self.df = first.df
        self.levels = [*first.levels, len(np.unique(design.residual.group))]
        sizes = np.abs(self.structure.metric(self.phi_start)).max(axis=1, initial=0.0)
        self.units = np.append(first.units, sizes)
        self.unit_roots = [*first.unit_roots, np.eye(self.structure.n)]

    # ------------------------------------------------------------------------------ engine

    def split(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Theta and phi."""
        return x[: self.n_theta], x[self.n_theta :]

    def engine(self, phi: FloatArray) -> ProfiledDeviance:
        """The deviance of theta with R at phi, in the working bases."""
        last = self._at
        if last is not None and np.array_equal(last.phi, phi):
            return last.deviance
        with np.errstate(over="ignore", invalid="ignore"):  # far away R overflows
            state = self.backend.at(np.array(phi, dtype=float))
            cross = self.products.at(state)
        if not np.isfinite(cross.C).all():
            raise NotPositiveDefiniteError("R is not positive definite")
        inner = working_deviance(
            cross, self.theta_covariance, self._solver_for(cross), reml=self.reml,
            known_scale=self.known_scale,
        )  # fmt: skip
        if last is not None:
            inner.remember(last.deviance)
        self._at = At(np.array(phi, dtype=float), state, inner)
        return inner

    def _solver_for(self, cross: CrossProducts) -> BlockSolver:
        if self._solver is None:
            if self._strategy is None and self.design.terms:
                chosen = make_plan(cross, tuple(term.name for term in self.design.terms)).chosen
                self.factor_seconds = chosen.seconds
                self._solver = solver_of(cross, chosen)
            else:
                self._solver = solver_by(cross.pattern, self._strategy or Strategy(None, "dense"))
        return self._solver

    def _state(self, phi: FloatArray) -> BackendState:
        self.engine(phi)
        assert self._at is not None
        return self._at.state

    def frozen(self, phi: FloatArray) -> ProfiledDeviance:
        """The deviance of the model's theta with R held at phi, with a factor of its own."""
        cross = self.products.at(self._state(phi))
        solver = self._solver_for(cross).twin()
        return profiled_deviance(
            cross, self.theta_covariance, solver, reml=self.reml, known_scale=self.known_scale
        )

    # ------------------------------------------------------------------------------- value

    def value(self, theta: FloatArray) -> float:
        """Deviance at (theta, phi)."""
        own, phi = self.split(theta)
        try:
            return self.engine(phi).value(own)
        except (FloatingPointError, np.linalg.LinAlgError) as error:
            raise NotPositiveDefiniteError("R is not positive definite") from error

    def gradient(self, theta: FloatArray) -> FloatArray:
        """Exact gradient, (n_theta + J,)."""
        if self._model is not None and np.array_equal(self._model[0], theta):
            return self._model[1][self.covariance.in_tangent]
        own, phi = self.split(theta)
        of_theta = self.engine(phi).gradient(own) if len(own) else np.zeros(0)
        F, sums = self._derivative_parts(theta)
        of_phi = self.backend.gradient(self._state(phi), F, sums)  # type: ignore[arg-type]
        return np.append(of_theta, of_phi)

    def tangent_gradient(self, theta: FloatArray) -> FloatArray:
        """The gradient in the coordinates of steps."""
        return self.tangent_model(theta)[0]

    def newton_matrix(self, theta: FloatArray) -> FloatArray:
        """The model Hessian in (theta, phi)."""
        inner = self.covariance.in_tangent
        return self.tangent_model(theta)[1][np.ix_(inner, inner)]

    def hessian(self, x: FloatArray) -> FloatArray:
        """Hessian: exact for ``us`` alone, else by central differences of the exact gradient."""
        structure, backend, Xy = self.structure, self.backend, self.products.Xy
        alone = not self.n_theta and isinstance(backend, Blocks)
        if alone and isinstance(structure, Unstructured) and is_small(structure, Xy.shape[1]):
            at = self.engine(x).state_at(x[:0])
            fixed, e = Xy[:, :-1] @ at.inverse_root, Xy @ at.residual
            return unstructured_hessian(backend, self._state(x), fixed, e, self.reml)  # type: ignore[arg-type]
        sizes = np.maximum(self.units, np.abs(x))
        return difference_hessian(self.gradient, np.asarray(x, dtype=float), sizes)

    def at(self, theta: FloatArray) -> PLSFit:
        """The penalized least-squares solution at (theta, phi), in the working bases."""
        own, phi = self.split(theta)
        return self.engine(phi).at(own)

    def rounding(self, theta: FloatArray) -> float:
        """Estimate of the rounding error of the deviance, that of R^-1 included."""
        own, phi = self.split(theta)
        return self.engine(phi).rounding(own) + self.backend.rounding(self._state(phi))  # type: ignore[arg-type]

    def working(self, theta: FloatArray) -> tuple[Deviance, FloatArray]:
        """These coordinates."""
        return self, theta

    def original(self, inner: FloatArray) -> FloatArray:
        """The same."""
        return inner

    def pwrss_gradient(self, x: FloatArray) -> FloatArray:
        """Derivative of pwrss in (theta, phi)."""
        theta, phi = self.split(x)
        own = self.engine(phi).pwrss_gradient(theta) if len(theta) else np.zeros(0)
        F = self.residuals(x)
        none = np.zeros(self.backend.n_cells)
        slope = self.backend.model(self._state(phi), F[:, -1].copy(), F[:, :0], none)[4]  # type: ignore[arg-type]
        return np.append(own, -slope)

    # ----------------------------------------------------------------------------- model

    def residuals(self, x: FloatArray) -> FloatArray:
        """``e_x S_xx^-1/2`` (REML) and, as the last column, the conditional residuals e, (n, c)."""
        theta, phi = self.split(x)
        dev = self.engine(phi)
        state, products = dev.state_at(theta), self.products
        LK = apply_lambda(dev.cross, state.lams, state.K, transpose=False)
        r = len(state.Rxx) if self.reml else 0
        turn = np.zeros((len(state.residual), r + 1))
        if r:
            turn[:r, :r] = state.inverse_root
        turn[:, -1] = state.residual
        return np.asarray((products.Xy - products.Z @ LK) @ turn)

    def tangent_model(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient and model Hessian in the coordinates of steps."""
        if self._model is not None and np.array_equal(self._model[0], theta):
            return self._model[1:]
        own, phi = self.split(theta)
        dev = self.engine(phi)
        F, sums = self._derivative_parts(theta)
        e = F[:, -1] / np.sqrt(dev._precision(dev.state_at(own).pwrss))
        slope_phi, curvature, Qw, gram, slope = self.backend.model(
            self._state(phi),  # type: ignore[arg-type]
            e, F, sums,
        )  # fmt: skip
        gradient, H = self._theta_model(dev, own)
        cross, square = self._information(dev, own, Qw, gram, slope)
        model = np.block([[H, cross], [cross.T, square + curvature]])
        self._model = np.array(theta, dtype=float), np.append(gradient, slope_phi), model
        return self._model[1:]

    def _derivative_parts(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Theta: F (n, c) with products of rows, and what random effects add to each cell."""
        own, phi = self.split(theta)
        dev = self.engine(phi)
        F = self.residuals(theta)
        F[:, -1] *= np.sqrt(dev._precision(dev.state_at(own).pwrss))
        sums = np.zeros(self.backend.n_cells)
        for (s, t), one in self.products.maps.items():
            G = dev.conditional_cross_blocks(own, s, t)
            sums += (1.0 if s == t else 2.0) * one.sums(G)
        return F, sums

    def _theta_model(
        self, dev: ProfiledDeviance, theta: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        if not len(theta):
            return np.zeros(0), np.zeros((0, 0))
        return dev.tangent_model(theta)

    def _information(
        self, dev: ProfiledDeviance, theta: FloatArray, Qw: FloatArray, gram: FloatArray,
        slope: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:  # fmt: skip
        """Average information of theta with phi, (m, J), and of phi, (J, J).

        Where every ``lambda_t`` is invertible a direction of theta is ``Lambda h``, and the product
        of it with w is ``h'M^-1 a`` for ``a = Lambda'Z'R^-1 w``; A is not needed.
        """
        state, cross, products = dev.state_at(theta), dev.cross, self.products
        precision = dev._precision(state.pwrss)
        a = apply_lambda(cross, state.lams, np.ascontiguousarray(products.Zt @ Qw))
        direct = products.Xy[:, :-1].T @ Qw - state.K[:, :-1].T @ a
        half = solve_triangular(state.Rxx, direct, transposed=True)
        solved = dev.solver.solve(a)
        square = gram - a.T @ solved - half.T @ half
        if all(pivot > NEARLY_SINGULAR for pivot in dev._pivots(state)):
            h, to_h = whitened_directions(dev.cross, dev.covariance, state)
            own = solve_triangular(state.Rxx, state.K[:, :-1].T @ h, transposed=True)
            mixed, along = to_h.T @ (h.T @ solved - own.T @ half), to_h.T @ (h.T @ state.u)
        else:
            g, d = directions(dev.cross, dev.covariance, state)
            Ag = cross.A @ g
            right = apply_lambda(cross, state.lams, Ag)
            own = cross.B[:, :-1].T @ g - state.K[:, :-1].T @ right
            own = solve_triangular(state.Rxx, own, transposed=True)
            mixed, along = g.T @ (products.Zt @ Qw) - right.T @ solved - own.T @ half, g.T @ d
        if dev.known_scale is None:
            square = square - np.outer(slope, slope) / state.pwrss
            mixed = mixed - np.outer(along, slope) / state.pwrss
        return precision * mixed, precision * square

    # ------------------------------------------------------------------------------ search

    def _phi_start(self) -> FloatArray:
        residual = self.products.Xy[:, -1]
        if isinstance(self.structure, Structured):
            effects = "intercepts" if self.design.terms else "none"
            if any(term.values is not None for term in self.design.terms):
                effects = "slopes"
            return start_phi(self.structure, residual, self.design.weights, effects)
        self.structure.initial_from(residual)
        return self.structure.start()

    def start(self, plain: CrossProducts | None = None) -> FloatArray:
        """Where the search starts: moment estimates at the start of phi, or those of R = I.

        ``plain`` are the cross-products with R = I where they are known.
        """
        if not self.n_theta:
            return self.phi_start
        cross = self.engine(self.phi_start).cross
        thetas = [moment_start(cross, self.theta_covariance, self.known_scale)]
        plain = cross_products(replace(self.design, residual=None)) if plain is None else plain
        thetas.append(moment_start(plain, self.theta_covariance, self.known_scale))
        if self.bases is not None:
            frozen = self.frozen(self.phi_start)
            thetas = [frozen.working(theta)[1] for theta in thetas]
        starts = [np.append(theta, self.phi_start) for theta in thetas]
        return min(starts, key=self._value_or_inf)

    def doubtful(self, x: FloatArray) -> bool:
        """Whether there may be a lower minimum.

        With a nugget, at a limit, at a variance of zero; and where few rows leave open whether
        what is nearly constant within a group is residual or random effect, or in which stratum;
        or fewer, which of several correlations may be one beside random effects.
        """
        _, phi = self.split(x)
        if self.design.residual is not None and self.design.residual.nugget:
            return True
        if self._falling_limits:
            return True
        strata = self.structure.n_strata > 1
        open_to_doubt = strata or self.structure.strength(phi) > STRONG
        if self.n_theta and self.df <= FEWER_ROWS and self.structure.has_several_angles:
            return True
        if self.n_theta and self.df <= FEW_ROWS and open_to_doubt:
            return True
        zero = [term.at_zero(x[part]).any() for term, part in zip(
            self.covariance.terms, self.covariance.slices, strict=True)]  # fmt: skip
        return any(zero) or bool(at_a_limit(self.structure, phi))

    def starting_points(self, end: FloatArray, drawn: int | None) -> Iterator[FloatArray]:
        """Where further searches start, the most promising ones first."""
        yield from self._falling_limits
        roots, covariance = self.unit_roots[:-1], self.theta_covariance
        yield from further_starts(self.structure, covariance, roots, self.units, end, drawn)

    @cached_property
    def _falling_limits(self) -> list[FloatArray]:
        """Starts at limits of single correlations towards which the deviance falls without end.

        That takes fixed effects that reproduce the groups which tell of it, so few groups; and
        next to no random effects.
        """
        structure, rows = self.structure, self.design.residual
        if not isinstance(structure, Structured) or rows is None or not self._is_scarce:
            return []
        roots, covariance = self.unit_roots[:-1], self.theta_covariance
        small, none = (covariance.pick([s * root for root in roots]) for s in (0.1, 0.001))
        out = []
        for far, near in structure.at_limits(self.phi_start, *PROBES):
            fall = self._value_or_inf(np.append(none, far)) - self._value_or_inf(
                np.append(none, near)
            )
            if fall > RISES * np.log(PROBES[0] / PROBES[1]):
                out.append(np.append(small, near))
        return out

    @cached_property
    def _is_scarce(self) -> bool:
        """Whether a correlation is told of by no more groups than parameters could reproduce."""
        rows = self.design.residual
        assert rows is not None
        if rows.kind not in ("ar1", "toep", "ad") or rows.stands is not None:
            return False
        groups = len(np.unique(rows.group))
        if rows.kind == "ad":
            o = rows.order
            next_to = (np.diff(rows.group[o]) == 0) & (np.diff(rows.visits[o]) == 1)
            links = np.bincount(rows.visits[o[:-1]][next_to], minlength=rows.n_visits - 1)
            groups = int(links[links > 0].min(initial=groups))
        return groups <= self.structure.n_strata * (self.design.p + self.structure.n)

    def _value_or_inf(self, x: FloatArray) -> float:
        try:
            return self.value(x)
        except NotPositiveDefiniteError:
            return np.inf

    @property
    def is_phi(self) -> BoolArray:
        """Which parameters are phi's."""
        return np.arange(len(self.units)) >= self.n_theta
