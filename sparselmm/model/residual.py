"""Fits with a residual covariance structure, and the mixed model for repeated measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparselmm.base.arguments import check_starts
from sparselmm.base.exceptions import (
    ArgumentError,
    BoundaryWarning,
    ConvergenceWarning,
    DataError,
    SpecificationWarning,
    catchable,
    warn_user,
)
from sparselmm.base.threads import one_thread
from sparselmm.base.types import FloatArray
from sparselmm.inference.residual import JointFit
from sparselmm.likelihood.covariance import boundary_message, singular_words
from sparselmm.likelihood.identifiability import UNBOUNDED, unbounded
from sparselmm.likelihood.multistart import minimize_globally
from sparselmm.likelihood.optimize import PATIENCE, TOLERANCE
from sparselmm.likelihood.record import OptSummary
from sparselmm.likelihood.residual.deviance import ResidualDeviance
from sparselmm.likelihood.residual.endless import (
    endless,
    unstructured_endless,
    well_inside,
)
from sparselmm.likelihood.residual.identifiability import confounded_terms, doubled_rows
from sparselmm.likelihood.residual.limits import at_a_limit
from sparselmm.likelihood.residual.price import predicted_seconds
from sparselmm.likelihood.special_directions import ENDLESS, rises_without_end
from sparselmm.model.linear import LinearModel
from sparselmm.model.request import BOUNDARY, Request
from sparselmm.results.residual.core import ResidualResults, results_of

REFUSED = (
    "start_params", "fe_pen", "cov_pen", "free", "start_theta", "fix", "finish", "scratch",
)  # fmt: skip
"""Arguments of ``fit`` that go with independent residuals alone."""


def fit_residual(model: LinearModel, request: Request) -> ResidualResults:
    """Estimate theta and phi together."""
    _refuse(request.given)
    design = model._groups
    with one_thread():
        cross = model.cross  # warns of dependent columns
        deviance = ResidualDeviance(design, reml=request.reml)
        found = confounded_terms(design) or doubled_rows(design)
        if found:
            raise DataError(found)
        x = deviance.start(cross)
        with request.monitor.watching():
            opt = _search(deviance, x, request)
        joint = JointFit.of(deviance, opt)
    _warn(model, joint)
    full_output = request.given["full_output"]
    return results_of(ResidualResults, model, model.built, joint, full_output=full_output)


def _search(deviance: ResidualDeviance, x: FloatArray, request: Request) -> OptSummary:
    """The first method that converges; none does where the likelihood has no maximum."""
    methods, maxiter = request.methods, request.given["maxiter"]
    optimize, tolerance = request.given["do_cg"], request.keywords.get("tol", TOLERANCE)
    starts = check_starts(request.given["starts"])
    structure = deviance.structure
    why, mostly = _no_maximum(deviance)
    if not optimize:
        maxiter, methods = 0, [None]
    elif why and maxiter is None:  # there is no end to reach, or one that is near
        maxiter = PATIENCE if mostly else 3 * PATIENCE
    opt = None
    for method in methods:
        opt = minimize_globally(
            deviance, x, seconds=predicted_seconds(deviance), starts=starts, method=method,
            max_iterations=maxiter, callback=request.monitor, tolerance=tolerance,
        )  # fmt: skip
        if opt.converged or mostly:
            break
        x = opt.theta
    assert opt is not None
    if opt.converged and not mostly and well_inside(structure, opt.theta[deviance.n_theta :]):
        return replace(opt, message=f"{opt.message}, at a local maximum. {why}") if why else opt
    why = why or endless(deviance, structure, opt.theta, deviance.n_theta)
    return replace(opt, converged=False, message=why) if why else opt


def _no_maximum(deviance: ResidualDeviance) -> tuple[str, bool]:
    """Why the likelihood rises without end, empty where it is not known to; whether all tells so.

    Effects that reproduce every response do so whatever R is.
    """
    design, covariance = deviance.design, deviance.theta_covariance
    if not deviance.reml and unbounded(design):
        return UNBOUNDED, True
    if rises_without_end(design, covariance, deviance.reml):
        return ENDLESS, True
    return unstructured_endless(design, deviance.structure, deviance.reml)


def _refuse(given: Mapping[str, Any]) -> None:
    for name in REFUSED:
        if given[name] is not None:
            raise ArgumentError(
                f"{name} is not available for a model with residual= or dispersion="
            )
    if given["engine"] not in ("auto", "sparse"):
        raise ArgumentError(
            f"engine={given['engine']!r} is not available for a model with residual= or "
            "dispersion=; use engine='sparse'"
        )


def _warn(model: LinearModel, joint: JointFit) -> None:
    opt = joint.opt
    if not opt.converged:
        warn_user(f"the optimizer did not converge: {opt.message}", catchable(ConvergenceWarning))
    limit = at_a_limit(joint.deviance.structure, joint.phi)
    if limit and opt.converged:
        warn_user(limit, catchable(SpecificationWarning))
    frozen = joint.frozen
    words = singular_words(frozen.cross, frozen.covariance, joint.theta, model.terms)
    if words:
        warn_user(
            f"{BOUNDARY} {boundary_message(words)}",
            catchable(BoundaryWarning),
        )
