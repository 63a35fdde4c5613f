"""Where deviances and their solvers are made: of cross-products, and like another one.

A solver holds one numeric factor. Two deviances may share it when their A is the same, and then
take turns: each factors anew after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.design.terms import Design
from sparselmm.factor.bases import cross_products
from sparselmm.factor.candidates import Candidate
from sparselmm.factor.centred import Centred
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.factorization import Factorization
from sparselmm.factor.krylov.crossing import may_lead
from sparselmm.factor.krylov.solver import KrylovSolver, Settings
from sparselmm.factor.krylov.tiles import TiledSolver
from sparselmm.factor.layout import Strategy
from sparselmm.factor.pattern import Pattern
from sparselmm.factor.plan import make_plan
from sparselmm.factor.solver import BlockSolver, apply_lambda
from sparselmm.factor.submodels import known_change, known_columns
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.krylov.deviance import group_variance
from sparselmm.likelihood.krylov.finish import KrylovDeviance
from sparselmm.likelihood.moments import moment_start
from sparselmm.likelihood.optimize import TOLERANCE, minimize
from sparselmm.likelihood.rebased import RebasedDeviance
from sparselmm.likelihood.record import OptSummary
from sparselmm.likelihood.term_covariance import lower_root

REFINEMENTS = 2
"""Predictions are made again from what they left: the first ones have lost digits themselves."""

FEW_DIGITS = 1e-6
"""Rounding error of the deviance from which a search goes on with what its predictions leave."""


def profiled_deviance(
    cross: CrossProducts, covariance: Covariance, solver: Factorization, *, reml: bool,
    known_scale: float | None = None, centred: Centred | None = None,
) -> ProfiledDeviance:  # fmt: skip
    """The profiled deviance in the parameters of the model, whatever basis the engine works in."""
    inner = working_deviance(
        cross, covariance, solver, reml=reml, known_scale=known_scale, centred=centred
    )
    return inner if cross.bases is None else RebasedDeviance(inner, cross)


def working_deviance(
    cross: CrossProducts, covariance: Covariance, solver: Factorization, *, reml: bool,
    known_scale: float | None = None, centred: Centred | None = None,
) -> ProfiledDeviance:  # fmt: skip
    """The same in the parameters of the basis the engine works in."""
    own = cross if cross.bases is None else replace(cross, bases=None)
    kind = KrylovDeviance if isinstance(solver, KrylovSolver) else ProfiledDeviance
    return kind(own, covariance, solver, reml=reml, known_scale=known_scale, centred=centred)


def working_factors(
    cross: CrossProducts, covariance: Covariance, theta: FloatArray
) -> list[FloatArray]:
    """``lambda_t`` of a theta of the model in the columns the engine works with, (k, k) each."""
    lams = covariance.factors(theta)
    bases = cross.bases or (None,) * len(lams)
    return [lam if F is None else lower_root(F @ lam) for F, lam in zip(bases, lams, strict=True)]


def centred_at(
    deviance: ProfiledDeviance, design: Design, theta: FloatArray
) -> ProfiledDeviance:  # fmt: skip
    """The same deviance, from what its predictions at theta leave of the rows of its design."""
    inner, at = deviance.working(theta)
    rows = deviance.rows(design)
    for _ in range(REFINEMENTS):
        state = inner.state_at(at)
        cross = inner.cross.shifted(rows, state.gamma)
        u = np.column_stack([state.K[:, :-1], state.u])
        b0 = apply_lambda(cross, state.lams, u, transpose=False)
        inner = type(inner)(
            cross, inner.covariance, inner.solver, reml=inner.reml,
            known_scale=inner.known_scale, centred=Centred.of(rows, cross, b0),
        )  # fmt: skip
    if deviance.cross.bases is None:
        return inner
    return RebasedDeviance(inner, replace(inner.cross, bases=deviance.cross.bases))


def solver_of(cross: CrossProducts, chosen: Candidate) -> BlockSolver:
    """The solver that a plan chose."""
    return BlockSolver(cross.pattern, chosen.strategy, chosen.factor)


def solver_by(pattern: Pattern, strategy: Strategy) -> BlockSolver:
    """A solver by a strategy that is known."""
    return BlockSolver(pattern, strategy)


def cheapest_solver(cross: CrossProducts) -> BlockSolver:
    """The solver of the cheapest plan."""
    names = tuple(map(str, range(len(cross.sizes))))
    return solver_of(cross, make_plan(cross, names).chosen)


def probing_solver(pattern: Pattern, settings: Settings | None = None) -> KrylovSolver:
    """Conjugate gradients and probes."""
    return KrylovSolver(pattern, settings)


def on_disk(like: ProfiledDeviance, folder: str | None, memory: float) -> ProfiledDeviance:
    """A deviance on probes, made exact by a factorization on disk; ``memory`` bytes at a time."""
    own = like.working(np.zeros(like.covariance.n_theta))[0].solver
    assert isinstance(own, KrylovSolver)
    return but(like, TiledSolver(own, folder, memory))


def solver_like(like: ProfiledDeviance, cross: CrossProducts | None = None) -> Factorization:
    """A solver with a factor of its own, of the kind another deviance has."""
    return like.solver.like((like.cross if cross is None else cross).pattern)


def but(
    like: ProfiledDeviance, solver: Factorization, *, cross: CrossProducts | None = None,
    covariance: Covariance | None = None, reml: bool | None = None,
) -> ProfiledDeviance:  # fmt: skip
    """A deviance like another one, but with another solver and what else is given."""
    return profiled_deviance(
        like.cross if cross is None else cross,
        like.covariance if covariance is None else covariance,
        solver,
        reml=like.reml if reml is None else reml,
        known_scale=like.known_scale,
        centred=like.centred if cross is None else None,
    )


def with_known(
    like: ProfiledDeviance, solver: Factorization, columns: Sequence[int], values: FloatArray,
    reml: bool | None = None,
) -> ProfiledDeviance:  # fmt: skip
    """The deviance with some fixed effects known; see `known_columns`."""
    centred = like.centred
    if centred is not None:
        centred = centred.combined(known_change(like.cross.basis, columns, values)[0])
    return profiled_deviance(
        known_columns(like.cross, columns, values), like.covariance, solver,
        reml=like.reml if reml is None else reml, known_scale=like.known_scale, centred=centred,
    )  # fmt: skip


def submodel(
    cross: CrossProducts, covariance: Covariance, like: ProfiledDeviance
) -> ProfiledDeviance:
    """The deviance of a submodel, factored in the cheapest way, or with probes like the model's."""
    probing = _probing_like(like, cross)
    if probing is not None:
        return but(like, probing, cross=cross, covariance=covariance)
    return but(like, cheapest_solver(cross), cross=cross, covariance=covariance)


def _probing_like(like: ProfiledDeviance, cross: CrossProducts) -> KrylovSolver | None:
    """A solver with the probes of another deviance, where that has some and this may have them."""
    own = like.solver
    if not isinstance(own, KrylovSolver) or not may_lead(cross.pattern):
        return None
    return KrylovSolver(cross.pattern, own.settings)


def of_design(
    design: Design, like: ProfiledDeviance, reml: bool | None = None
) -> ProfiledDeviance:  # fmt: skip
    """The deviance of other rows, levels or responses with the terms of a model."""
    cross = cross_products(design)
    probing = _probing_like(like, cross)
    if probing is not None:
        return but(like, probing, cross=cross, reml=reml)
    names = tuple(term.name for term in design.terms)
    chosen = make_plan(cross, names, None, Covariance.of(design.terms)).chosen
    return but(like, solver_of(cross, chosen), cross=cross, reml=reml)


def with_criterion(deviance: ProfiledDeviance, reml: bool) -> ProfiledDeviance:
    """The same model under REML or ML."""
    return deviance if deviance.reml == reml else but(deviance, solver_like(deviance), reml=reml)


def minimized(
    deviance: ProfiledDeviance, design: Design, start: FloatArray, tolerance: float = TOLERANCE
) -> tuple[ProfiledDeviance, OptSummary]:
    """One search, continued with what its predictions leave of the rows where digits are few."""
    opt = minimize(deviance, start, tolerance=tolerance)
    if opt.rounding > FEW_DIGITS:
        deviance = centred_at(deviance, design, opt.theta)
        opt = minimize(deviance, opt.theta, tolerance=tolerance)
    return deviance, opt


def fit_design(
    design: Design, deviance: ProfiledDeviance, start: FloatArray
) -> tuple[ProfiledDeviance, OptSummary]:
    """The same model fitted to other rows.

    Parameters
    ----------
    design : Design
        With the terms of the model.
    deviance : ProfiledDeviance
        Of the model, for what it optimizes.
    start : ndarray, (n_theta,)
        Where the search starts; where it fails moment estimates are tried.

    Returns
    -------
    deviance : ProfiledDeviance
    opt : OptSummary

    Raises
    ------
    DataError
        When nothing is left to estimate a variance from.
    """
    other = of_design(design, deviance)
    found = minimized(other, design, start)
    if not found[1].converged:
        start = moment_start(other.cross, other.covariance, other.known_scale)
        found = minimized(other, design, start)
    return found


def ratio_error(one: ProfiledDeviance, theta: FloatArray, other: ProfiledDeviance,
                at: FloatArray) -> float:  # fmt: skip
    """Standard error that probes leave in the difference of two deviances; 0 where both are exact.

    Where both have the same probes their errors are much alike, and the differences probe by probe
    tell how much.
    """
    pairs = [deviance.working(x) for deviance, x in ((one, theta), (other, at))]
    found = [
        (inner, inner.estimated(inside))
        for inner, inside in pairs
        if isinstance(inner, KrylovDeviance)
    ]
    if not found:
        return 0.0
    if len(found) == 2:
        (a, first), (b, second) = found
        if _same_probes(a.solver, b.solver):
            draws = first.draws - second.draws
            return float(np.sqrt(group_variance(a.solver, draws)))
    return float(np.sqrt(sum(value.error**2 for _, value in found)))


def _same_probes(a: KrylovSolver, b: KrylovSolver) -> bool:
    """Whether two solvers drew the same numbers for the same columns."""
    sizes = [[s.crossing.parts[t].stop - s.crossing.parts[t].start for t in s.big] for s in (a, b)]
    one, other = a.settings, b.settings
    return sizes[0] == sizes[1] and (one.seed, one.probes) == (other.seed, other.probes)


def ml_minimum(deviance: ProfiledDeviance, theta: FloatArray) -> tuple[float, FloatArray]:
    """Minimum of -2 log-likelihood and where it is, from a REML or ML estimate."""
    ml = with_criterion(deviance, False)
    if not len(theta) or ml is deviance:
        return ml.value(theta), theta
    best = minimize(ml, theta)
    return best.deviance, best.theta
