"""A fit by conjugate gradients and random probes: when it is one, and how it goes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from sparselmm.base.threads import one_thread
from sparselmm.base.types import FloatArray
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.krylov.second_order import seconds as second_order_seconds
from sparselmm.factor.krylov.solver import KrylovSolver, Settings
from sparselmm.factor.plan import FitPlan
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.engine import FEW_DIGITS, centred_at, on_disk, probing_solver
from sparselmm.likelihood.evaluations import PLSFit
from sparselmm.likelihood.krylov.finish import Spare, minimize_by_probes, minimize_certified
from sparselmm.likelihood.krylov.search import DONE, LIMIT
from sparselmm.likelihood.multistart import minimize_globally, searched_again
from sparselmm.likelihood.optimize import minimize
from sparselmm.likelihood.record import OptSummary
from sparselmm.model.fit import joined
from sparselmm.model.linear import LinearModel
from sparselmm.model.probing import Probing
from sparselmm.model.request import Request, Setting

FEW_COLUMNS = 2_000
"""Random effects up to which an exact evaluation may be so cheap that it is priced."""

GRADIENT = 0.3
"""Share of an exact evaluation that may be spent on probes in place of its gradient, which is twice
as much."""


def _exact(
    model: LinearModel, deviance: ProfiledDeviance, plan: FitPlan, probing: Probing
) -> tuple[ProfiledDeviance, Callable[[], AbstractContextManager[Any]]]:  # fmt: skip
    """The exact deviance, in memory or on disk, and the context in which it is asked."""
    chosen = plan.fitting
    if chosen is None:
        used = 0 if plan.krylov is None else plan.krylov.memory
        room = 0.5 * max(plan.memory_limit - used, 0)
        return on_disk(deviance, probing.scratch, room), one_thread
    exact = model._sparse(chosen, deviance.reml, deviance.covariance, deviance.known_scale)
    return exact, chosen.threads


def solver_for(cross: CrossProducts, plan: FitPlan | None, settings: Settings) -> KrylovSolver:
    """A solver with these settings; that of the plan where it priced one of these products."""
    if plan is not None and plan.krylov is not None and plan.krylov.solver.pattern is cross.pattern:
        return plan.krylov.solver
    return probing_solver(cross.pattern, settings)


def _spare(plan: FitPlan, probing: Probing) -> Spare:
    """What probes may cost in place of an exact gradient, where it is not asked for by name."""
    if probing.finish is not None or plan.fitting is None or plan.krylov is None:
        return Spare()
    one, crossing = plan.krylov.seconds, plan.krylov.solver.crossing
    leading = plan.krylov.solver.pattern.sizes[crossing.leading][0]
    return Spare(
        GRADIENT * plan.fitting.seconds / one, second_order_seconds(crossing, leading) / one
    )


def _exactly_started(
    model: LinearModel, request: Request, setting: Setting
) -> OptSummary | None:  # fmt: skip
    """The end of exact searches, where they are so cheap that several starts are tried.

    A deviance with few levels can have several minima, of which a search on probes finds one.
    """
    held = setting.held
    if request.engine != "krylov" or model.cross.q > FEW_COLUMNS:
        return None
    chosen = (setting.plan or model._plan(None)).chosen
    if not searched_again(chosen.seconds):
        return None
    exact = model._sparse(chosen, request.reml, held.covariance, held.scale)
    return minimize_globally(
        exact, setting.theta, seconds=chosen.seconds, callback=request.monitor,
        max_iterations=request.given["maxiter"],
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Fitted:
    """The end of a fit by probes.

    Attributes
    ----------
    deviance : ProfiledDeviance
        What answers further questions.
    opt : OptSummary
    fit : PLSFit
    factored : bool
        Whether that has an exact factorization.
    """

    deviance: ProfiledDeviance
    opt: OptSummary
    fit: PLSFit
    factored: bool


def fit_by_probes(model: LinearModel, request: Request, setting: Setting) -> Fitted:
    """The search on probes, and the finish where one was asked for or is within reach."""
    probing, plan, held, theta = request.probing, setting.plan, setting.held, setting.theta
    solver = solver_for(model._products(held.covariance), plan, probing.settings)
    deviance = model._by(solver, request.reml, held.covariance, held.scale)

    def searched(deviance: ProfiledDeviance, start: FloatArray) -> OptSummary:
        inner: Any = deviance.working(start)[0]
        inner.target = probing.target
        return minimize_by_probes(
            deviance, start, target=probing.target,
            limit=request.given["maxiter"] or LIMIT,
            tolerance=request.keywords.get("tol") or DONE, callback=request.monitor,
        )  # fmt: skip

    if setting.route != "certified":
        with one_thread():
            first = _exactly_started(model, request, setting)
            opt = searched(deviance, theta if first is None else first.theta)
            opt = opt if first is None else joined(first, opt)
            if opt.rounding > FEW_DIGITS:
                deviance = centred_at(deviance, model.design, opt.theta)
                opt = joined(opt, searched(deviance, opt.theta))
            fit = deviance.at(opt.theta)
        if probing.finish == "value":
            assert plan is not None
            exact, threads = _exact(model, deviance, plan, probing)
            with threads():
                value = exact.value(opt.theta)
            rise = value - fit.deviance
            fit = replace(fit, deviance=value, ldL2=fit.ldL2 + rise)
            opt = replace(opt, deviance=value, mc_deviance=0.0, n_evaluations=opt.n_evaluations + 1)
        return Fitted(deviance, opt, fit, False)
    assert plan is not None
    exact, threads = _exact(model, deviance, plan, probing)
    ended = minimize_certified(
        deviance, exact, theta, target=probing.target, callback=request.monitor,
        threads=threads, spare=_spare(plan, probing),
    )  # fmt: skip
    if plan.fitting is None:
        return Fitted(deviance, ended.opt, ended.fit, False)
    few = ended.opt.rounding > FEW_DIGITS
    if ended.opt.converged and not few:
        return Fitted(exact, ended.opt, ended.fit, True)
    with threads():  # exact evaluations go on where digits are few, or the search found no end
        exact = centred_at(exact, model.design, ended.opt.theta) if few else exact
        opt = joined(ended.opt, minimize(exact, ended.opt.theta, callback=request.monitor))
        return Fitted(exact, opt, exact.at(opt.theta), True)
