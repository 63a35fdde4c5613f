"""Where deviances are made from cross-products: like another one, on other rows or terms."""

from __future__ import annotations

from sparselmm.base.types import FloatArray
from sparselmm.design.terms import Design
from sparselmm.factor.bases import cross_products
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.plan import make_plan
from sparselmm.factor.solver import BlockSolver
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.moments import moment_start
from sparselmm.likelihood.optimize import OptSummary, minimize
from sparselmm.likelihood.rebased import profiled_deviance


def engine(
    cross: CrossProducts, covariance: Covariance, like: ProfiledDeviance
) -> ProfiledDeviance:
    """The profiled deviance of a submodel of ``like``, factored in the cheapest way."""
    names = tuple(str(t) for t in range(len(cross.sizes)))
    chosen = make_plan(cross, names).chosen
    solver = BlockSolver(cross, chosen.strategy, chosen.factor)
    return profiled_deviance(
        cross, covariance, solver, reml=like.reml, known_scale=like.known_scale
    )  # fmt: skip


def same_random_part(
    cross: CrossProducts, like: ProfiledDeviance, reml: bool, solver: BlockSolver | None = None
) -> ProfiledDeviance:
    """The profiled deviance of other fixed effects, or under another criterion.

    Parameters
    ----------
    cross : CrossProducts
        With the Z of ``like``.
    like : ProfiledDeviance
    reml : bool
    solver : BlockSolver, optional
        Of ``own_solver``. A solver holds one factor: it must not be shared with a deviance that
        is used in turn with this one. Default a new one.
    """
    solver = own_solver(like) if solver is None else solver
    return profiled_deviance(
        cross, like.covariance, solver, reml=reml, known_scale=like.known_scale
    )  # fmt: skip


def own_solver(like: ProfiledDeviance) -> BlockSolver:
    """A solver for the same Z, with a factor of its own."""
    return BlockSolver(like.cross, like.solver.strategy)


def with_criterion(deviance: ProfiledDeviance, reml: bool) -> ProfiledDeviance:
    """The same model under REML or ML."""
    return deviance if deviance.reml == reml else same_random_part(deviance.cross, deviance, reml)


def with_cross(
    deviance: ProfiledDeviance, cross: CrossProducts, solver: BlockSolver | None = None,
    reml: bool | None = None,
) -> ProfiledDeviance:  # fmt: skip
    """The same model for other cross-products.

    Without a solver the factorization is shared, which needs the same A.
    """
    reml = deviance.reml if reml is None else reml
    return profiled_deviance(
        cross, deviance.covariance, solver or deviance.solver, reml=reml,
        known_scale=deviance.known_scale,
    )  # fmt: skip


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
    cross = cross_products(design)
    chosen = make_plan(
        cross, tuple(term.name for term in design.terms), None, Covariance.of(design.terms)
    ).chosen
    solver = BlockSolver(cross, chosen.strategy, chosen.factor)
    other = with_cross(deviance, cross, solver)
    opt = minimize(other, start)
    if not opt.converged:
        opt = minimize(other, moment_start(cross, other.covariance, other.known_scale))
    return other, opt


def ml_minimum(deviance: ProfiledDeviance, theta: FloatArray) -> tuple[float, FloatArray]:
    """Minimum of -2 log-likelihood and where it is, from a REML or ML estimate."""
    ml = with_criterion(deviance, False)
    if not len(theta) or ml is deviance:
        return ml.value(theta), theta
    best = minimize(ml, theta)
    return best.deviance, best.theta
