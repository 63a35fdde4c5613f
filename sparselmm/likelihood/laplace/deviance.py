"""Laplace's deviance, its exact gradient and its model Hessian in all parameters.

Parameters are ``x = (theta, gamma, phi)``: covariances, fixed effects in the working basis Q, and
coefficients of the further predictors. At the mode, with ``G = M^-1`` on the pattern of A,

    tau_i = [Z Lambda G Lambda'Z']_ii,   t = w' tau,   s = G Lambda'Z't,   t~ = t - W Z Lambda s
    df/dgamma = Q'(t~ - 2g),
    df/dlambda_t = sum_j [D1_j u_j' + D2_j s_j' + 2 (A Lambda G)_jj],  D1 = Z'(t~ - 2g), D2 = Z'g
    df/dphi = D'(-2 l_a + tau w_a + (Z Lambda s) g_a)

where ``w' = -l'''`` and a is a further predictor. The model Hessian leaves out what ``log det M``
adds through the weights: with ``B = Z'WQ``, ``K = G Lambda'B``, ``S = Q'WQ - B'Lambda K`` and
``g_k = E_k u + Lambda E_k'Z'g``,

    H_bb = 2 S,   H_bk = 2 (B'g_k - K'Lambda'A g_k),   H_kl = Q_kl + H_kb (2S)^-1 H_bl / 2,
    Q = g'A g - (Lambda'A g)'G (Lambda'A g),
    H_pp = -2 sum l_pp - 2 (Lambda'Z'g_p)'G (Lambda'Z'g_p),
    H_kp = -2 (g_k'Z'd - (Lambda'A g_k)'G Lambda'Z'd),   d = g_p - w_p g / 2 w

and so on, to which comes the exact curvature of ``lambda -> lambda lambda'``. In H_kp the second
part of d is what log det M adds, whose weights move with a dispersion: its trace is replaced by a
quadratic form in g, of which it is the expectation, as in the average information. One share
``w_p / w`` is taken for all rows.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from sparselmm.base.smallmatrix import block_diagonal
from sparselmm.base.types import FloatArray
from sparselmm.factor.plan import FitPlan, make_plan
from sparselmm.factor.solver import apply_blocks, apply_lambda, congruence
from sparselmm.likelihood.covariance import Covariance, theta_units
from sparselmm.likelihood.curvature import add_root_curvature
from sparselmm.likelihood.deviance import SMALLEST_PIVOT
from sparselmm.likelihood.engine import solver_of
from sparselmm.likelihood.laplace.data import FixedRows, Further, GeneralData, Passes
from sparselmm.likelihood.laplace.modes import ModeFinder
from sparselmm.likelihood.laplace.parameters import Model, Parameters, Point, alone
from sparselmm.likelihood.laplace.predictors import leaving, predictor_unit
from sparselmm.likelihood.laplace.rows import RandomRows, Reader, blocks
from sparselmm.likelihood.laplace.sums import RowSums, SecondSums

FLATTEST = 0.03
"""Weight of a row, in the predictor's unit, below which steps of fixed effects become no longer."""

PASS = 2e-8
"""Predicted seconds per row of a pass through the family, and of what comes with it."""

EVALUATION, PER_ROW, FACTORS = 1.5e-3, 4e-7, 4.0
"""Predicted seconds of an evaluation: in any case, per row, and factorizations."""


class LaplaceDeviance:
    """Minus twice Laplace's log-likelihood of a generalized model.

    Parameters
    ----------
    memory_limit : int, optional
        Bytes the factorization may use.
    """

    bases = None
    """The covariates are the model's."""

    lock: threading.RLock
    """Held by whatever reads the rows: threads that share a deviance take turns."""

    def __init__(self, data: GeneralData, memory_limit: int | None = None):
        self.data, self.lock = data, threading.RLock()
        self.random = RandomRows(data.terms, data.n)
        self.fixed = FixedRows(data.X, data.weights)
        self.cross, fills = self.random.cross(self.fixed.basis)
        names = tuple(term.name for term in data.terms)
        plan: FitPlan = make_plan(self.cross, names, memory_limit)
        self.strategy = plan.chosen.strategy
        self.seconds = EVALUATION + PER_ROW * data.n + FACTORS * plan.chosen.seconds
        self.solver = solver_of(self.cross, plan.chosen)
        self.covariance = Covariance.of(data.terms)
        self.passes = Passes(data, self.random)
        self.sums = RowSums(data, self.random, self.fixed, self.passes, self.cross)
        dear = plan.chosen.seconds > PASS * data.n
        self.modes = ModeFinder(self.passes, self.random, self.cross, fills, self.solver, dear)
        self.parameters = Parameters(self.covariance, self.fixed.r, data.n_phi)
        self.constant = data.constant()
        weights = np.ones(data.n) if data.weights is None else data.weights
        self.modes.refill((weights > 0).astype(float))
        self.predictor_unit = predictor_unit(data)
        units = theta_units(self.covariance, self.cross.moments)
        self.units = np.where(self.covariance.angles, units, self.predictor_unit * units)
        roots = self.covariance.unit_roots(self.cross.moments)
        self.unit_roots = [self.predictor_unit * root for root in roots]
        self.n_evaluations = 0
        self._point: Point | None = None
        self._model: tuple[Point, Model] | None = None
        self._moves: tuple[FloatArray, FloatArray] | None = None
        self._start = np.zeros(self.random.q)
        self._psi: dict[int, FloatArray] = {}

    @cached_property
    def natural(self) -> FloatArray:
        """Coordinates in which units and origins of covariates do not matter, as columns.

        Of the coefficients of the further predictors but thresholds; the others are their own.
        """
        if self.data.family.name == "ordinal":
            return np.eye(len(self.parameters))
        blocks_ = [np.eye(len(self.parameters) - self.data.n_phi)]
        return block_diagonal([*blocks_, *(part.steps() for part in self.data.further)])

    def rms(self, t: int) -> FloatArray:
        """Root mean square of each covariate of term t, over what counts as one predictor, (k,)."""
        return self.cross.rms(t) / self.predictor_unit

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the last evaluation, whose factor is not portable."""
        own = {**self.__dict__, "_point": None, "_model": None, "_moves": None}
        return {name: value for name, value in own.items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.RLock())

    # ---------------------------------------------------------------------------- value

    @alone
    def at(self, x: FloatArray, u: FloatArray | None = None) -> Point | None:
        """The evaluation at x, its mode sought from u; None where there is no likelihood."""
        point = self._point
        near = self.modes.near
        if point is not None and point.near <= near and np.array_equal(x, point.x):
            return point
        self.n_evaluations += 1
        theta, gamma, phi = self.parameters.split(x)
        lams = self.covariance.factors(theta)
        fixed = self.fixed.effects(gamma, self.data.offset)
        self._point = None
        mode = self.modes.find(lams, fixed, phi, self._start if u is None else u)
        if mode is None:
            return None
        value = 2.0 * (mode.h - self.constant) + mode.ldM
        self._point = Point(np.array(x, dtype=float), lams, mode, value, near)
        self._start = mode.u
        return self._point

    def value(self, x: FloatArray) -> float:
        """Deviance at x; infinite where there is no likelihood."""
        point = self.at(x)
        return np.inf if point is None else point.value

    def gradient(self, x: FloatArray) -> FloatArray:
        """Exact gradient in x."""
        return self.model(x).gradient[self.parameters.in_tangent]

    # ------------------------------------------------------------------------- gradient

    @alone
    def model(self, x: FloatArray) -> Model:
        """Exact gradient and model Hessian at x."""
        point = self.at(x)
        if point is None:
            raise FloatingPointError("the log-likelihood is not finite")
        if self._model is None or self._model[0] is not point:
            self._point = None  # should it fail: the rows' third derivatives are gone
            self._model = point, self._modelled(point)
            self._point = point
        return self._model[1]

    def _lambda(self, point: Point, x: FloatArray, transpose: bool) -> FloatArray:
        wide = np.ascontiguousarray(x.reshape(len(x), -1))
        return apply_lambda(self.cross, point.lams, wide, transpose).reshape(x.shape)

    def _inverse(self, point: Point) -> tuple[list[Reader], list[FloatArray]]:
        """What adds ``tau`` of some rows, and ``sum_j (A Lambda G)_jj`` of every term."""
        readers: list[Reader] = []
        traces = [np.zeros((k, k)) for k, _ in self.cross.sizes]
        for (s, t), pair in self.cross.pairs.items():
            G = self.solver.inverse_on_pattern((s, t))
            left, right = point.lams[s], point.lams[t]
            inner = congruence(G, left.T, right.T)
            readers.append(self.modes.fills[s, t].reader(inner, 1.0 if s == t else 2.0))
            traces[t] += np.einsum("bsi,sr,brj->ij", pair.data, left, G, optimize=True)
            if s != t:
                traces[s] += np.einsum("bis,sr,bjr->ij", pair.data, right, G, optimize=True)
        return readers, traces

    def _modelled(self, point: Point) -> Model:
        solver, u = self.solver, point.mode.u
        readers, traces = self._inverse(point)
        first = self.sums.first(readers)
        columns = np.column_stack([first.B, first.Zt])
        right = self._lambda(point, columns, True)
        solved = solver.solve(np.ascontiguousarray(right))
        K, s = solved[:, :-1], solved[:, -1]
        LB = right[:, :-1]
        S = first.S - LB.T @ K
        theta, _, phi = self.parameters.split(point.x)
        Ls, D2 = self._lambda(point, s, False), point.mode.products
        further = self.sums.second(Ls, phi)
        self._moves = first.B, further.ZG
        g = self._directions(point)
        Ag = self._times_A(np.column_stack([g, Ls]))
        D1 = first.Zt - Ag[:, -1] - 2.0 * D2
        blocks_ = [
            2.0 * traces[i]
            + D1[part].reshape(l, k).T @ u[part].reshape(l, k)
            + D2[part].reshape(l, k).T @ s[part].reshape(l, k)
            for i, (part, (k, l)) in enumerate(
                zip(self.cross.slices, self.cross.sizes, strict=True)
            )
        ]
        by_theta = self.covariance.tangent_vector(theta, blocks_)
        gradient = np.concatenate([by_theta, first.X - first.B.T @ Ls, further.slope])
        H = self._curvature(point, S, first.B, LB, K, further, g, Ag[:, :-1])
        self._bend(H, point, theta, blocks_)
        return Model(gradient, H, S)

    # ------------------------------------------------------------------------ curvature

    def _curvature(
        self, point: Point, S: FloatArray, B: FloatArray, LB: FloatArray, K: FloatArray,
        further: SecondSums, g: FloatArray, Ag: FloatArray,
    ) -> FloatArray:  # fmt: skip
        """The model Hessian but for the curvature of ``lambda lambda'``."""
        right = self._lambda(point, Ag, True)
        ZD = further.ZG - 0.5 * further.ZD * further.shares
        LZ, LD = self._lambda(point, further.ZG, True), self._lambda(point, ZD, True)
        solved = self.solver.solve(np.ascontiguousarray(np.hstack([right, LZ])))
        Mr, Mz = solved[:, : g.shape[1]], solved[:, g.shape[1] :]
        Q = g.T @ Ag - right.T @ Mr
        Hbk = 2.0 * (B.T @ g - K.T @ right)
        a, r = g.shape[1], len(S)
        H = np.zeros((a + r + self.data.n_phi,) * 2)
        H[:a, :a] = Q + 0.5 * Hbk.T @ _regular_solve(2.0 * S, Hbk)
        H[a : a + r, a : a + r] = 2.0 * S
        H[a : a + r, :a] = Hbk
        H[a + r :, a + r :] = further.H - 2.0 * LZ.T @ Mz
        H[a + r :, a : a + r] = -2.0 * (further.XG - LB.T @ Mz).T
        H[a + r :, :a] = -2.0 * (g.T @ ZD - Mr.T @ LD).T
        lower = np.tril(H, -1)
        return lower + lower.T + np.diag(np.diag(H))

    def _directions(self, point: Point) -> FloatArray:
        """Columns ``g_k = E_k u + Lambda E_k'Z'g``, (q, n_tangent)."""
        covariance, cross = self.covariance, self.cross
        theta = self.parameters.split(point.x)[0]
        out = np.zeros((cross.q, covariance.n_tangent))
        for t, term in enumerate(covariance.terms):
            k, l = cross.sizes[t]
            part, lam = cross.slices[t], point.lams[t]
            u = point.mode.u[part].reshape(l, k)
            d = point.mode.products[part].reshape(l, k)
            block = out[part].reshape(l, k, -1)
            first = covariance.tangent_slices[t].start
            slopes = term.slopes(theta[covariance.slices[t]])
            if slopes is not None:
                for i, E in enumerate(slopes, first):
                    block[:, :, i] = u @ E.T + d @ E @ lam.T
                continue
            for i, (r, c) in enumerate(zip(*term.tangent, strict=True), first):
                block[:, r, i] += u[:, c]
                block[:, :, i] += d[:, r, None] * lam[:, c]
        return out

    def _times_A(self, x: FloatArray) -> FloatArray:
        """``A x``, (q, m), from the rows where these are many: A is never put together."""
        random, w = self.random, self.passes.w
        if len(self.cross.sizes) == 1 and self.cross.pairs[0, 0].is_block_diagonal:
            k, l = self.cross.sizes[0]
            return apply_blocks(self.cross.values[0, 0], x.reshape(l, k, -1)).reshape(x.shape)
        if random.compiled:
            columns, out = np.ascontiguousarray(x.T), np.zeros((x.shape[1], len(x)))
            for rows in blocks(self.data.n):
                for column, product in zip(columns, out, strict=True):
                    row = np.zeros(rows.stop - rows.start)
                    random.add_effects(column, rows, row)
                    row *= w[rows]
                    random.add_products(row, rows, product)
            return np.ascontiguousarray(out.T)
        assert random.Z is not None
        return np.asarray(random.Zt @ (w[:, None] * (random.Z @ x)))

    def _bend(
        self, H: FloatArray, point: Point, theta: FloatArray, blocks_: list[FloatArray]
    ) -> None:
        """Add the exact curvature of ``lambda -> lambda lambda'``."""
        for t, lam in enumerate(point.lams):
            term = self.covariance.terms[t]
            if term.pivot(lam, self.units[self.covariance.slices[t]]) > SMALLEST_PIVOT:
                self._psi[t] = 0.5 * term.divide(lam, blocks_[t].T).T
            if t in self._psi:  # at a singular lambda_t the last one, which hardly moved
                add_root_curvature(H, self.covariance, t, self._psi[t], theta, blocks_[t])

    # ----------------------------------------------------------------------- prediction

    @alone
    def mode_of(self, y: FloatArray, x: FloatArray) -> FloatArray | None:
        """Modes of the random effects b of another response at the same parameters, (q,)."""
        theta, gamma, phi = self.parameters.split(x)
        passes = Passes(replace(self.data, y=y), self.random)
        finder = ModeFinder(passes, self.random, self.cross, self.modes.fills, self.solver)
        self._point = self._model = None  # the factor is another one now
        self.modes.factored = False
        fixed = self.fixed.effects(gamma, self.data.offset)
        mode = finder.find(self.covariance.factors(theta), fixed, phi, np.zeros(self.random.q))
        return None if mode is None else mode.b

    @alone
    def predicted(self, x: FloatArray, step: FloatArray, trial: FloatArray) -> FloatArray:
        """The mode at ``trial = retract(x, step)`` to first order, from the factor at x, (q,)."""
        point = self.at(x)
        assert point is not None
        self.model(point.x)  # which knows how g moves with gamma and the further predictors
        assert self._moves is not None
        B, ZG = self._moves
        moved, gamma, phi = self.parameters.steps(step)
        new = self.covariance.factors(self.parameters.split(trial)[0])
        steps = self._root_steps(point, moved, new)
        u = point.mode.u
        moved_b = apply_lambda(self.cross, steps, u[:, None], transpose=False)
        products = ZG @ phi - B @ gamma - self._times_A(moved_b)[:, 0]
        rhs = apply_lambda(self.cross, steps, point.mode.products[:, None])[:, 0]
        rhs = rhs + self._lambda(point, products, True)
        out = u + self.solver.solve(rhs[:, None])[:, 0]
        for t, (part, (k, l)) in enumerate(zip(self.cross.slices, self.cross.sizes, strict=True)):
            root = point.lams[t] + steps[t]
            if abs(np.linalg.det(root)) > 1e-12:  # (lambda + dlambda) Q is the new lambda
                turn = np.linalg.solve(root, new[t])
                out[part] = (out[part].reshape(l, k) @ turn).ravel()
        return out

    def _root_steps(
        self, point: Point, moved: FloatArray, new: list[FloatArray]
    ) -> list[FloatArray]:
        """What a step adds to every ``lambda_t``."""
        out = []
        for t, (term, at) in enumerate(
            zip(self.covariance.terms, self.covariance.tangent_slices, strict=True)
        ):
            own = self.parameters.split(point.x)[0][self.covariance.slices[t]]
            if term.slopes(own) is not None:
                out.append(new[t] - point.lams[t])
                continue
            step = np.zeros((term.k, term.k))
            step[term.tangent] = moved[at]
            out.append(step)
        return out

    def leaving(self) -> list[tuple[Further, float]]:
        """Predictors without a bound, and the sign that leads to where they explain nothing."""
        return leaving(self.data)

    def limits(self) -> list[tuple[int, float]]:
        """Place in x of those that are common to all rows, and the sign.

        Without overdispersion, or excess zeros, the deviance falls like ``exp(-d)`` as they leave.
        """
        first = self.covariance.n_theta + self.fixed.r
        return [
            (first + part.columns.start, sign)
            for part, sign in self.leaving()
            if part.design is None
        ]

    def basis(self, x: FloatArray, model: Model, smallest: float) -> FloatArray:
        """Steps of length one in the metric of the trust region, as columns."""
        theta = self.parameters.split(x)[0]
        roots = [
            term.steps(theta[part], unit, smallest, model.gradient[at])
            for term, part, at, unit in zip(
                self.covariance.terms, self.covariance.slices, self.covariance.tangent_slices,
                self.unit_roots, strict=True,
            )
        ]  # fmt: skip
        a, n = self.covariance.n_tangent, max(self.data.n, 1)
        b = self.covariance.n_theta + self.fixed.r
        if self.data.family.name == "ordinal":  # thresholds and the mean of X'beta move together
            return block_diagonal([*roots, _unit_steps(model.hessian[a:, a:] / (2.0 * n))])
        least = FLATTEST / (n * self.predictor_unit**2)
        return block_diagonal([*roots, _unit_steps(model.S / n, least), self.natural[b:, b:]])


def _unit_steps(S: FloatArray, least: float = 0.0) -> FloatArray:
    """Columns of length one in the metric S, whose eigenvalues are made ``least`` or more."""
    if not len(S):
        return S
    values, vectors = np.linalg.eigh(S)
    floor = max(1e-8 * max(float(np.abs(values).max()), 1e-300), least)
    return np.asarray(vectors / np.sqrt(np.maximum(np.abs(values), floor)))


def _regular_solve(S: FloatArray, x: FloatArray) -> FloatArray:
    """``S^-1 x``, by least squares where S is singular."""
    if not len(S):
        return x
    try:
        return np.asarray(np.linalg.solve(S, x))
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.lstsq(S, x, rcond=None)[0])
