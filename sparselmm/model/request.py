"""What a fit was asked for, and its setting: what is held, where it starts, which way it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparselmm.base.arguments import check_memory, check_numbers, unlabelled
from sparselmm.base.exceptions import ArgumentError
from sparselmm.base.progress import Progress
from sparselmm.base.threads import one_thread
from sparselmm.base.types import FloatArray
from sparselmm.design.validate import check_counted_levels, check_level_counts
from sparselmm.factor.plan import FitPlan
from sparselmm.inference.packing import MixedLMParams
from sparselmm.likelihood.held import Held
from sparselmm.likelihood.krylov.finish import CLOSE
from sparselmm.likelihood.moments import moment_start
from sparselmm.model.fit import (
    check_fit_arguments,
    checked_keywords,
    method_names,
    start_parameters,
)
from sparselmm.model.linear import LinearModel
from sparselmm.model.probing import Probing, Route, need_memory, unsuited
from sparselmm.model.statsmodels.penalized import held_by_mask
from sparselmm.results.given import Given

STARTED = ("start_params", "free", "fe_pen", "cov_pen")
"""Arguments that need start values of all parameters."""

BOUNDARY = "The MLE may be on the boundary of the parameter space."
"""How statsmodels begins the warning of a zero variance; filters look for it."""


@dataclass(frozen=True, eq=False)
class Request:
    """What ``MixedLM.fit`` was asked for, as far as no model is needed to judge it.

    Attributes
    ----------
    given : mapping
        The arguments as they came.
    methods : list of str or None
        Optimizers to try in turn.
    keywords : dict
        Of the optimizers.
    """

    given: Mapping[str, Any]
    reml: bool
    engine: str
    probing: Probing
    methods: list[str | None]
    keywords: Mapping[str, Any]
    monitor: Progress

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Request:
        """Check the arguments of ``MixedLM.fit``."""
        reml, engine = check_fit_arguments(given)
        probing = Probing.of(given)
        keywords = checked_keywords(given["fit_kwargs"], given["niter_sa"])
        progress = True if given["progress"] is None and keywords.get("disp") else given["progress"]
        methods = method_names(given["method"])
        return cls(given, reml, engine, probing, methods, keywords, Progress(progress))

    def other_searches(self) -> dict[str, Any]:
        """Arguments that ask for another search than conjugate gradients, where not None."""
        others = {name: self.given[name] for name in ("free", "fe_pen", "cov_pen", "starts")}
        others["method"] = next((name for name in self.methods if name is not None), None)
        others["do_cg=False"] = None if self.given["do_cg"] else False
        if self.engine == "auto":  # its search has a limit and a tolerance of its own
            tol = self.keywords.get("tol")
            others["maxiter"] = self.given["maxiter"]
            others["tol"] = tol if tol and tol < CLOSE else None
        return others


@dataclass(frozen=True, eq=False)
class Setting:
    """Where a fit starts, what it may move and which way it goes.

    Attributes
    ----------
    params : MixedLMParams or None
        Start values, where something is held at them or begins there.
    theta : ndarray
        Start values of the free entries.
    plan : FitPlan or None
        None where nothing is factored.
    """

    params: MixedLMParams | None
    held: Held
    theta: FloatArray
    plan: FitPlan | None
    route: Route

    @classmethod
    def of(cls, model: LinearModel, request: Request) -> Setting:
        """The setting of a fit, planned within its limit of memory."""
        given, probing = request.given, request.probing
        params = None
        if not given["do_cg"] or any(given[name] is not None for name in STARTED):
            params = start_parameters(model._packing, given["start_params"], model.use_sqrt)
        held = held_of(model, given, params)
        others, limit = request.other_searches(), check_memory(given["memory_limit"])
        with one_thread():
            theta = _start(model, given, params, held)
            rival = plan = None
            if probing.may and probing.allowed(
                unsuited(held.covariance, model.terms, model.cross, others)
            ):
                rival = model._rival(held.covariance, probing, lambda: theta)
            if request.engine == "krylov" and given["finish"] is None:
                assert rival is not None
                need_memory(rival, limit)
            else:
                plan = model._plan(limit, rival)
        return cls(params, held, theta, plan, probing.route(plan))


def held_of(model: LinearModel, given: Mapping[str, Any], params: MixedLMParams | None) -> Held:
    """What a fit holds, by ``fix`` or by ``free``."""
    fix, others = given["fix"], [given[name] for name in ("free", "fe_pen", "cov_pen")]
    if fix is not None and any(other is not None for other in others):
        raise ArgumentError("fix does not go together with free, fe_pen or cov_pen; use one")
    if given["free"] is not None:
        assert params is not None
        held = held_by_mask(model._packing, given["free"], params)
    else:
        names = [term.name for term in model.terms]
        coefficients = () if fix is None else _coefficients(model)
        held = Held.of(fix, model.covariance, names, coefficients)
    if held.scale is None:
        _check_levels(model)
    return held


def _coefficients(model: LinearModel) -> list[list[Sequence[str]]]:
    """Names of the coefficients of every term: their columns, and as ``cov_re`` has them."""
    out: list[list[Sequence[str]]] = []
    for term in model.terms:
        name, own = term.name, list(term.columns)
        long = [name if c in ("Intercept", "1") else f"{name}[{c}]" for c in own]
        out.append([own, long])
    return out


def _check_levels(model: LinearModel) -> None:
    """Refuse terms with a level per row."""
    streamed = model.built.streamed
    if streamed is None:
        for own in model.design.terms:
            check_counted_levels(own, model.design.weights)
        return
    for term, levels in zip(model.terms, streamed.counted_levels, strict=True):
        if term.root is None:
            check_level_counts(term, streamed.n_counted, levels, streamed.weighted)


def _start(
    model: LinearModel, given: Mapping[str, Any], params: MixedLMParams | None, held: Held
) -> FloatArray:
    """Start values of the free entries of theta."""
    if held.start is not None:
        return held.start
    if given["start_theta"] is not None:
        theta = unlabelled(given["start_theta"], "start_theta")
        theta = check_numbers(theta, "start_theta, the start values,", held.free.shape)
        return theta[held.free]
    if given["start_params"] is None and given["do_cg"]:
        return moment_start(model.cross, model.covariance, held.scale)[held.free]
    assert params is not None
    return model._packing.theta(params)[held.free]


def given_of(given: Mapping[str, Any]) -> Given:
    """What the results of a fit remember of its arguments."""
    return Given.of(given["free"], given["fix"], given["fe_pen"], given["cov_pen"])
