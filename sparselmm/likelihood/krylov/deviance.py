"""The profiled deviance with traces from fixed probes, and the errors these leave.

Fixed effects, random effects and the average information at a theta are those of the exact engine.
The gradient has the traces of :mod:`sparselmm.factor.krylov.solver`; since the probes do not change
it is a smooth function of theta, whose zero is as far from the minimum as the probes are few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparselmm.base.smallmatrix import root_of_sum, solve_triangular
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.factor.krylov.second_order import refined
from sparselmm.factor.krylov.solver import KrylovSolver, Traced
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.evaluations import PLSFit, State

FLOOR = 2e-4
"""Pivot of ``lambda_t``, in what counts as one, to which it is lifted: traces divide by it."""


@dataclass(frozen=True, eq=False)
class Estimated:
    """The deviance as probes tell it.

    Attributes
    ----------
    value, error : float
        The estimate and its standard error.
    draws : ndarray, (groups * probes,)
        What every probe adds; groups are summed, the probes of each averaged.
    """

    value: float
    error: float
    draws: FloatArray


class Probed(ProfiledDeviance):
    """`ProfiledDeviance` whose solver is a `KrylovSolver`.

    ``state_at(theta).deviance`` lacks what probes add to ``log|M|``; `value` has it.

    Attributes
    ----------
    shift : list of ndarray (k, k), or None
        What is added to the derivative in every ``Psi_t``: the exact one less the estimated one
        where both are known.
    """

    shift: list[FloatArray] | None = None
    _valued: tuple[State, Estimated] | None = None

    @property
    def solver(self) -> KrylovSolver:
        """The solver of the thread that asks."""
        found = self._own.solver
        assert isinstance(found, KrylovSolver)
        return found

    def forget(self) -> None:
        """Evaluate anew, after other probes or another shift."""
        self._own.state = self._own.gammas = self._own.tangent = None
        self._valued = None

    # ---------------------------------------------------------------------------- value

    def estimated(self, theta: FloatArray) -> Estimated:
        """The deviance and its standard error."""
        state = self.state_at(theta)
        if self._valued is None or self._valued[0] is not state:
            exact, each = self.solver.log_determinant()
            error = group_variance(self.solver, each)
            rest = float(each.sum()) / self.solver.settings.probes
            value = state.deviance - state.ldM + exact + rest
            self._valued = state, Estimated(value, float(np.sqrt(error)), each)
        return self._valued[1]

    def rough_value(self, theta: FloatArray) -> float:
        """The same to second order in E, from what the gradient needs anyway."""
        state, solver = self.state_at(theta), self.solver
        squares = np.einsum("ij,ij->j", *[solver.traced().EW] * 2)
        s = len(squares) - len(solver.group)
        total = squares[:s].sum() + squares[s:].sum() / solver.settings.probes
        return float(state.deviance - 0.5 * total)

    def value(self, theta: FloatArray) -> float:
        """Deviance at theta, as the probes tell it."""
        return self.estimated(theta).value

    def at(self, theta: FloatArray) -> PLSFit:
        """The penalized least-squares solution at theta."""
        return self.completed(theta, self.estimated(theta).value)

    def completed(self, theta: FloatArray, deviance: float) -> PLSFit:
        """The solution at theta, whose deviance is known from elsewhere."""
        fit = ProfiledDeviance.at(self, theta)
        return replace(fit, deviance=deviance, ldL2=fit.ldL2 + deviance - fit.deviance)

    def _roughly_inverse(self, t: int) -> FloatArray:
        return self.solver.own_blocks(t)

    # ------------------------------------------------------------------------- gradient

    def _gamma_blocks(self, state: State) -> list[FloatArray]:
        own, root = self.covariance, self.root(state)
        out = []
        for t, (term, lam) in enumerate(zip(own.terms, state.lams, strict=True)):
            smallest = self.turned(state.theta, t)[1].min(initial=np.inf)
            if term.n_theta == 0 or smallest < 0.5 * FLOOR:
                out.append(np.zeros_like(lam))
                continue
            gap = self.information_gap(state, t, root)
            out.append(2.0 * term.divide(lam, gap))
        if self.shift is not None:
            out = [G + 2.0 * d @ lam for G, d, lam in zip(out, self.shift, state.lams, strict=True)]
        return out

    def _roughly(self, h: FloatArray) -> FloatArray:
        return self.solver.solve(h, self.solver.settings.rough)

    def second_order(self, theta: FloatArray) -> tuple[list[FloatArray], Traced]:
        """What traces that are exact to second order in E add to the derivatives in ``Psi_t``.

        And those traces, whose probes leave another covariance. No ``lambda_t`` may be singular.
        """
        state, rough = self.state_at(theta), self.solver.traced()
        fine, shifts = refined(self.solver), []
        for t, (term, lam) in enumerate(zip(self.covariance.terms, state.lams, strict=True)):
            less = self.solver.sum_of(rough, t) - self.solver.sum_of(fine, t)
            half = term.divide(lam, less) if term.n_theta else np.zeros_like(lam)
            shifts.append(term.divide(lam, half.T).T if term.n_theta else half)
        return shifts, fine

    def gradient_covariance(
        self, theta: FloatArray, traced: Traced | None = None
    ) -> FloatArray:  # fmt: skip
        """Covariance that the probes leave in the gradient, in tangent coordinates, (m, m)."""
        state, solver = self.state_at(theta), self.solver
        each = (traced or solver.traced()).each
        terms = list(enumerate(zip(self.covariance.terms, state.lams, strict=True)))
        draws = np.empty((len(solver.group), self.covariance.n_tangent))
        for i in range(len(draws)):
            blocks = [
                -2.0 * term.divide(lam, each[t][i]) if term.n_theta else np.zeros_like(lam)
                for t, (term, lam) in terms
            ]
            draws[i] = self.covariance.tangent_vector(state.theta, blocks)
        return group_covariance(solver, draws)

    # ------------------------------------------------------------------------ geometry

    def turned(self, theta: FloatArray, t: int) -> tuple[FloatArray, FloatArray]:
        """A rotation V that makes columns of ``lambda_t V`` orthogonal, and their sizes, (k,).

        In what counts as one. A singular direction is a small column then, whatever the triangle
        makes of it. Independent coefficients are left as they are.
        """
        term, lam = self.covariance.terms[t], self.covariance.factors(theta)[t]
        if term.n_theta == 0:
            return np.eye(term.k), np.full(term.k, np.inf)
        if term.is_diagonal:
            return np.eye(term.k), np.abs(np.diag(lam)) / np.diag(self.unit_roots[t])
        _, sizes, turn = np.linalg.svd(solve_triangular(self.unit_roots[t], lam, lower=True))
        return np.asarray(turn.T), np.asarray(sizes)

    def lifted(self, theta: FloatArray) -> FloatArray:
        """Theta with every free ``lambda_t`` regular enough to divide by."""
        lams = self.covariance.factors(theta)
        out = theta.copy()
        for t, (term, lam) in enumerate(zip(self.covariance.terms, lams, strict=True)):
            if self.turned(theta, t)[1].min(initial=np.inf) >= FLOOR:
                continue
            unit = self.unit_roots[t] * FLOOR
            if term.is_diagonal:
                lam = np.diag(np.maximum(np.abs(np.diag(lam)), np.diag(unit)))
            else:
                lam = root_of_sum(lam, unit)
            out[self.covariance.slices[t]] = term.coordinates(lam)
        return out

    def held(self, theta: FloatArray, gradient: FloatArray) -> list[tuple[FloatArray, BoolArray]]:
        """V of every term, and which columns of ``lambda_t V`` are pressed to the floor, (k,)."""
        out = []
        lams = self.covariance.factors(theta)
        for t, (lam, G) in enumerate(zip(lams, self.entries(gradient), strict=True)):
            V, sizes = self.turned(theta, t)
            pressed = ((G @ V) * (lam @ V)).sum(axis=0) > 0.0
            out.append((V, (sizes < 5.0 * FLOOR) & pressed))
        return out

    def entries(self, tangent: FloatArray) -> list[FloatArray]:
        """A gradient in tangent coordinates by the entries of every ``lambda_t``, (k, k) each."""
        out = []
        for term, at in zip(self.covariance.terms, self.covariance.tangent_slices, strict=True):
            G = np.zeros((term.k, term.k))
            G[term.tangent] = tangent[at]
            out.append(G)
        return out

    def settled(self, theta: FloatArray) -> FloatArray:
        """Theta with the columns of every ``lambda_t V`` at the floor exactly zero."""
        return self.scaled(theta, lambda t, sizes: np.where(sizes < 5.0 * FLOOR, 0.0, 1.0))

    def scaled(
        self, theta: FloatArray, factors: Callable[[int, FloatArray], FloatArray]
    ) -> FloatArray:
        """Theta with the columns of every ``lambda_t V`` times something, made of their sizes."""
        out, lams = theta.copy(), self.covariance.factors(theta)
        for t, (term, lam) in enumerate(zip(self.covariance.terms, lams, strict=True)):
            V, sizes = self.turned(theta, t)
            by = factors(t, sizes)
            if term.n_theta and (by != 1.0).any():
                root = (lam @ V) * by
                if not by.any():
                    root[...] = 0.0
                out[self.covariance.slices[t]] = term.retract(root)
        return out

    def psi_slopes(self, gammas: Sequence[FloatArray], theta: FloatArray) -> list[FloatArray]:
        """Derivatives in every ``Psi_t / sigma^2`` from those in ``lambda_t``, (k, k) each."""
        lams, terms = self.covariance.factors(theta), self.covariance.terms
        return [
            0.5 * term.divide(lam, G.T).T if term.n_theta else np.zeros_like(lam)
            for term, lam, G in zip(terms, lams, gammas, strict=True)
        ]


def group_covariance(solver: KrylovSolver, draws: FloatArray) -> FloatArray:
    """Covariance of a sum over groups of means over probes, (m, m); draws (probes, m)."""
    total, n = np.zeros((draws.shape[1], draws.shape[1])), solver.settings.probes
    for g in range(solver.n_groups):
        total += np.atleast_2d(np.cov(draws[solver.group == g].T)) / n
    return total


def group_variance(solver: KrylovSolver, draws: FloatArray) -> float:
    """The same of one number, (probes,)."""
    return float(group_covariance(solver, draws[:, None]).sum())
