"""How a linear model is fitted: what was asked for, where the search starts, the way it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sparselmm.base.exceptions import (
    BoundaryWarning,
    ConvergenceWarning,
    IdentifiabilityWarning,
    catchable,
    warn_user,
)
from sparselmm.likelihood.covariance import boundary_message, singular_words
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.engine import FEW_DIGITS, centred_at
from sparselmm.likelihood.held import Held
from sparselmm.likelihood.identifiability import REPRODUCED, UNBOUNDED, unbounded, unidentified
from sparselmm.likelihood.record import OptSummary, reproducing
from sparselmm.likelihood.special_directions import ENDLESS, rises_without_end
from sparselmm.model.fit import (
    HARDLY,
    Task,
    checked_starts,
    joined,
    nearly_zero,
    penalties_of,
    without_fixed,
)
from sparselmm.model.krylov import fit_by_probes
from sparselmm.model.linear import LinearModel
from sparselmm.model.request import BOUNDARY, Request, Setting
from sparselmm.model.statsmodels.penalized import (
    PenalizedDeviance,
    Penalties,
    constrained_entries,
)
from sparselmm.results import MixedLMResults
from sparselmm.results.independent import IndependentResults
from sparselmm.results.krylov import KrylovResults

# ---------------------------------------------------------------------------- the two ways


@dataclass(frozen=True, eq=False)
class Ended:
    """The end of a fit: what answers further questions, the model there, and the search."""

    deviance: ProfiledDeviance
    opt: OptSummary
    fit: Any
    n_fixed: int


def fit_linear(model: LinearModel, request: Request) -> tuple[Ended, type[IndependentResults]]:
    """Estimate a model, and which results it has."""
    setting = Setting.of(model, request)
    n_held = int(setting.held.scale is not None)
    if setting.route == "exact":
        ended = _fit_exactly(model, request, setting)
        if n_held:
            ended = replace(ended, n_fixed=ended.n_fixed + n_held)
        return ended, MixedLMResults
    with request.monitor.watching():
        found = fit_by_probes(model, request, setting)
    opt = replace(found.opt, unidentified=unidentified(found.deviance, found.opt, model.terms))
    _warn(model, opt, found.deviance)
    ended = Ended(found.deviance, opt, found.fit, n_held)
    return ended, MixedLMResults if found.factored else KrylovResults


def _fit_exactly(model: LinearModel, request: Request, setting: Setting) -> Ended:
    """A fit by exact evaluations."""
    given, held = request.given, setting.held
    assert setting.plan is not None
    chosen = setting.plan.chosen
    packing = None if held.psi is None else model._packing
    task = Task(
        given["do_cg"], packing, held, request.methods, request.keywords, given["maxiter"],
        request.monitor, chosen.seconds, checked_starts(given["starts"], held.free),
    )  # fmt: skip
    with chosen.threads():
        sparse = model._sparse(chosen, request.reml, held.covariance, held.scale)
        pen = _penalties(model, sparse, setting, given)
        dense = request.engine == "dense"
        endless = _endless(model, request.reml, held) if given["do_cg"] and pen is None else ""
        if endless and given["starts"] is None:  # no other start finds a maximum
            task = replace(task, starts=1)
        objective: Any = model._dense(request.reml, held) if dense else _penalized(sparse, pen)
        with request.monitor.watching():
            opt = task.run(objective, setting.theta)
            if opt.rounding > FEW_DIGITS and not dense and model.built.has_rows:
                sparse = centred_at(sparse, model.design, opt.theta)
                objective = _penalized(sparse, pen)
                opt = joined(opt, task.run(objective, opt.theta))
        fit = objective.at(opt.theta)
        if given["do_cg"]:
            reproduced = _reproduced(model, sparse, opt)
            if not reproduced and (said := unidentified(sparse, opt, model.terms)):
                opt = replace(opt, unidentified=said)
            if endless or reproduced:
                opt = replace(opt, converged=False, message=reproduced or endless)
            _warn(model, opt, sparse)
    n_fixed = 0 if packing is None else len(constrained_entries(packing, held))
    if pen is not None and pen.held.any():
        fit, n_fixed = without_fixed(fit, pen.held), n_fixed + int(pen.held.sum())
    return Ended(sparse, opt, fit, n_fixed)


def _penalties(
    model: LinearModel, sparse: ProfiledDeviance, setting: Setting, given: Mapping[str, Any]
) -> Penalties | None:
    """Penalties and held fixed effects, None when there are none."""
    asked = given["fe_pen"], given["cov_pen"]
    if asked == (None, None) and setting.held.fixed is None:
        return None
    return penalties_of(model._packing, sparse, setting.held, setting.params, *asked)


def _penalized(sparse: ProfiledDeviance, pen: Penalties | None) -> Any:
    return sparse if pen is None else PenalizedDeviance(sparse, pen)


def _endless(model: LinearModel, reml: bool, held: Held) -> str:
    """Why the likelihood has no maximum, in words; empty where it has one."""
    if held.scale is not None or not model.built.has_rows:
        return ""
    if not reml and unbounded(model.design):
        return UNBOUNDED
    plain = held.covariance is model.covariance and held.psi is None
    return ENDLESS if plain and rises_without_end(model.design, model.covariance, reml) else ""


def _reproduced(model: LinearModel, deviance: ProfiledDeviance, opt: OptSummary) -> str:
    """The same where the search shows it, for models of any size."""
    if opt.converged or deviance.known_scale is not None:
        return ""
    taking = reproducing(opt.theta, deviance.units)
    if not taking.any():
        return ""
    slices = deviance.covariance.slices
    names = [repr(t.name) for t, at in zip(model.terms, slices, strict=True) if taking[at].any()]
    return REPRODUCED.format(", ".join(names), model.built.layout.y_name)


def _warn(model: LinearModel, opt: OptSummary, deviance: ProfiledDeviance) -> None:
    if opt.unidentified:
        warn_user(opt.unidentified, catchable(IdentifiabilityWarning))
    if not opt.converged:
        warn_user(f"the optimizer did not converge: {opt.message}", catchable(ConvergenceWarning))
    singular = singular_words(model.cross, deviance.covariance, opt.theta, model.terms)
    near = nearly_zero(deviance, opt, [term.name for term in model.terms])
    if near and not singular:
        warn_user(
            f"{BOUNDARY} The random effects covariance matrix is nearly singular: the variance "
            f"of {', '.join(near)} can hardly be told from zero (the deviance would rise by "
            f"less than {HARDLY}). To simplify, leave that term out.",
            catchable(BoundaryWarning),
        )
    if singular:
        warn_user(f"{BOUNDARY} {boundary_message(singular)}", catchable(BoundaryWarning))
