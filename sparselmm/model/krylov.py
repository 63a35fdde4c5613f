"""A fit by conjugate gradients and random probes: when it is one, and how it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from os import PathLike, fspath
from os.path import isdir
from typing import Any, Literal

import numpy as np

from sparselmm.base.arguments import (
    check_choice,
    check_count,
    check_number,
    wrong_type,
    wrong_value,
)
from sparselmm.base.exceptions import ArgumentError, MemoryLimitError
from sparselmm.base.memory import available_memory, size_text
from sparselmm.base.threads import one_thread
from sparselmm.base.types import FloatArray
from sparselmm.design.terms import RandomTerm
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.krylov.crossing import leading_term
from sparselmm.factor.krylov.price import Rival
from sparselmm.factor.krylov.solver import KrylovSolver, Settings
from sparselmm.factor.krylov.tiles import TiledSolver
from sparselmm.factor.plan import FitPlan
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.engine import FEW_DIGITS, but, centred_at, working_factors
from sparselmm.likelihood.evaluations import PLSFit
from sparselmm.likelihood.held import FixedEntries, Held
from sparselmm.likelihood.krylov.finish import minimize_by_probes, minimize_certified
from sparselmm.likelihood.krylov.search import DONE, LIMIT
from sparselmm.likelihood.optimize import Callback, OptSummary, minimize
from sparselmm.likelihood.patterned import Patterned
from sparselmm.model.fit import joined

FEWEST_PROBES = 8
"""With fewer the error that is stated would itself be in error."""

GRADIENT = 0.3
"""Share of an exact evaluation that may be spent on probes in place of its gradient, which is twice
as much."""

FINISHES = ("exact", "value")

Route = Literal["exact", "certified", "krylov"]


@dataclass(frozen=True)
class Probing:
    """The arguments of a fit by probes.

    Attributes
    ----------
    engine : str
    settings : Settings
    target : float
        Largest Monte Carlo error of theta, in standard errors.
    finish : {None, "exact", "value"}
    scratch : str or None
        Folder for a factorization that does not fit in memory.
    """

    engine: str
    settings: Settings
    target: float
    finish: str | None
    scratch: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Probing:
        """Read the arguments of ``MixedLM.fit``."""
        probes = check_count(given["probes"], "probes", least=FEWEST_PROBES, most=10_000)
        seed = check_count(given["seed"], "seed", least=0)
        wanted = "a share of the standard error of theta, between 1e-4 and 1"
        target = check_number(given["mc_tolerance"], "mc_tolerance", wanted, low=1e-4, high=1.0)
        finish = given["finish"]
        if finish is not None:
            finish = check_choice(finish, "finish", FINISHES)
            if given["engine"] == "dense":
                raise ArgumentError("finish is for conjugate gradients; drop engine='dense'")
        scratch = given["scratch"]
        if scratch is not None:
            scratch = check_folder(scratch, "scratch")
        return cls(given["engine"], Settings(probes, seed), target, finish, scratch)

    @property
    def may(self) -> bool:
        """Whether the engine can be conjugate gradients at all."""
        return self.engine in ("auto", "krylov")

    def allowed(self, reason: str) -> bool:
        """Whether they are, for all that speaks against them.

        Raises
        ------
        ArgumentError
            If they were asked for by name.
        """
        if reason and self.engine == "krylov":
            raise ArgumentError(f"engine='krylov' {reason}; use engine='auto'")
        return self.may and not reason

    def route(self, plan: FitPlan | None) -> Route:
        """How the fit goes, by its plan."""
        route = "krylov" if self.engine == "krylov" or plan is None else plan.route
        if self.finish is None or route == "exact":
            return route
        return "certified" if self.finish == "exact" else "krylov"


def unsuited(
    covariance: Covariance, terms: Sequence[RandomTerm], cross: CrossProducts,
    others: Mapping[str, Any],
) -> str:  # fmt: skip
    """What speaks against conjugate gradients, in words; empty where nothing does.

    ``others`` are arguments of the fit that ask for another search where they are not None.
    """
    asked = [name for name, value in others.items() if value is not None]
    if asked:
        return f"does not go together with {asked[0]}"
    lead = leading_term(cross)
    if lead is None or len(terms) < 2:
        return "needs two or more random-effects terms, one of them a grouping factor"
    for term, own in zip(terms, covariance.terms, strict=True):
        if isinstance(own, Patterned):
            return f"does not know the covariance structure of {term.name!r}"
        if own.n_theta > 0 and own.k > 1 and isinstance(own, FixedEntries):
            return f"holds a covariance whole or not at all, and part of {term.name!r} is held"
        if term.root is not None and term.block is not None:
            return f"does not take the known covariance of {term.name!r}"
    if not covariance.n_theta:
        return "has nothing to search: every covariance is held"
    return ""


def rival_of(
    cross: CrossProducts, covariance: Covariance, settings: Settings, start: Any
) -> Rival:  # fmt: skip
    """The search on probes as the plan sees it; ``start`` makes the theta it starts from."""

    def factors() -> list[FloatArray]:
        return working_factors(cross, covariance, start())

    steps = sum(min(t.n_tangent, t.k * (t.k + 1) // 2) for t in covariance.terms)
    return Rival(cross, factors, steps, settings)


def need_memory(rival: Rival, limit: int | None) -> None:
    """Refuse what does not fit before anything large is allocated."""
    needed, limit = rival.memory(), available_memory() if limit is None else limit
    if needed > limit:
        raise MemoryLimitError(
            f"conjugate gradients on this model need {size_text(needed)}, more than "
            f"{size_text(limit)}; use fewer probes, a machine with more memory, or raise "
            "memory_limit="
        )


def on_disk(
    deviance: ProfiledDeviance, plan: FitPlan, scratch: str | None
) -> ProfiledDeviance:  # fmt: skip
    """The same deviance, exact by a factorization on disk."""
    own: Any = deviance.working(np.zeros(deviance.covariance.n_theta))[0].solver
    used = 0 if plan.krylov is None else plan.krylov.memory
    return but(deviance, TiledSolver(own, scratch, 0.5 * max(plan.memory_limit - used, 0)))


def check_folder(value: Any, name: str) -> str:
    """The path of a folder that exists."""
    wanted = "the path of a folder that exists"
    if not isinstance(value, (str, PathLike)):
        raise wrong_type(name, wanted, value)
    path = fspath(value)
    if not isinstance(path, str) or not isdir(path):
        raise wrong_value(name, wanted, value)
    return path


def _exact(
    model: Any, given: Mapping[str, Any], probing: Probing, plan: FitPlan, held: Held,
    deviance: ProfiledDeviance,
) -> tuple[ProfiledDeviance, Callable[[], AbstractContextManager[Any]]]:  # fmt: skip
    """The exact deviance, in memory or on disk, and the context in which it is asked."""
    chosen = plan.fitting
    if chosen is None:
        return on_disk(deviance, plan, probing.scratch), one_thread
    exact = model._sparse(chosen, given["reml"], given["covariance"], held.scale)
    return exact, chosen.threads


def solver_for(cross: CrossProducts, plan: FitPlan | None, settings: Settings) -> KrylovSolver:
    """A solver with these settings; that of the plan where it priced one of these products."""
    if plan is not None and plan.krylov is not None and plan.krylov.solver.cross is cross:
        return plan.krylov.solver
    return KrylovSolver(cross, settings)


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


def fit_by_probes(
    model: Any, given: Mapping[str, Any], probing: Probing, plan: FitPlan | None, held: Held,
    callback: Callback, tolerance: float | None,
) -> Fitted:  # fmt: skip
    """The search on probes, and the finish where one was asked for or is within reach."""
    covariance, theta = given["covariance"], given["theta"]
    solver = solver_for(model._products(covariance), plan, probing.settings)
    deviance = model._by(solver, given["reml"], covariance, held.scale)

    def searched(deviance: ProfiledDeviance, start: FloatArray) -> OptSummary:
        inner: Any = deviance.working(start)[0]
        inner.target = probing.target
        return minimize_by_probes(
            deviance, start, target=probing.target,
            limit=given["maxiter"] or LIMIT, tolerance=tolerance or DONE, callback=callback,
        )  # fmt: skip

    if given["route"] != "certified":
        with one_thread():
            opt = searched(deviance, theta)
            if opt.rounding > FEW_DIGITS:
                deviance = centred_at(deviance, model.design, opt.theta)
                opt = joined(opt, searched(deviance, opt.theta))
            fit = deviance.at(opt.theta)
        if probing.finish == "value":
            assert plan is not None
            exact, threads = _exact(model, given, probing, plan, held, deviance)
            with threads():
                value = exact.value(opt.theta)
            rise = value - fit.deviance
            fit = replace(fit, deviance=value, ldL2=fit.ldL2 + rise)
            opt = replace(opt, deviance=value, mc_deviance=0.0, n_evaluations=opt.n_evaluations + 1)
        return Fitted(deviance, opt, fit, False)
    assert plan is not None
    exact, threads = _exact(model, given, probing, plan, held, deviance)
    spared = 0.0
    if probing.finish is None and plan.fitting is not None and plan.krylov is not None:
        spared = GRADIENT * plan.fitting.seconds / plan.krylov.seconds
    ended = minimize_certified(
        deviance, exact, theta, target=probing.target, callback=callback, threads=threads,
        affordable=spared,
    )  # fmt: skip
    if plan.fitting is None:
        return Fitted(deviance, ended.opt, ended.fit, False)
    few = ended.opt.rounding > FEW_DIGITS
    if ended.opt.converged and not few:
        return Fitted(exact, ended.opt, ended.fit, True)
    with threads():  # exact evaluations go on where digits are few, or the search found no end
        exact = centred_at(exact, model.design, ended.opt.theta) if few else exact
        opt = joined(ended.opt, minimize(exact, ended.opt.theta, callback=callback))
        return Fitted(exact, opt, exact.at(opt.theta), True)
