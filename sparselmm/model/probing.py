"""When a fit is one by conjugate gradients and random probes, and which way it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from os.path import isdir
from typing import Any, Literal

from sparselmm.base.arguments import (
    check_choice,
    check_count,
    check_number,
    wrong_type,
    wrong_value,
)
from sparselmm.base.exceptions import (
    ArgumentError,
    MemoryLimitError,
)
from sparselmm.base.memory import available_memory, size_text
from sparselmm.base.types import FloatArray
from sparselmm.design.terms import TermLayout
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.krylov.crossing import leading_term
from sparselmm.factor.krylov.price import Rival
from sparselmm.factor.krylov.solver import Settings
from sparselmm.factor.plan import FitPlan
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.engine import working_factors
from sparselmm.likelihood.held import FixedEntries
from sparselmm.likelihood.patterned import Patterned

ENGINES = ("auto", "sparse", "krylov", "dense")

FEWEST_PROBES = 8
"""With fewer the error that is stated would itself be in error."""

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
    covariance: Covariance, terms: Sequence[TermLayout], cross: CrossProducts,
    others: Mapping[str, Any],
) -> str:  # fmt: skip
    """What speaks against conjugate gradients, in words; empty where nothing does.

    ``others`` are arguments of the fit that ask for another search where they are not None.
    """
    asked = [name for name, value in others.items() if value is not None]
    if asked:
        return f"does not go together with {asked[0]}"
    lead = leading_term(cross.pattern)
    if lead is None or len(terms) < 2:
        return "needs two or more random-effects terms, one of them a grouping factor"
    for term, own in zip(terms, covariance.terms, strict=True):
        if isinstance(own, Patterned):
            return f"does not know the covariance structure of {term.name!r}"
        if own.n_theta > 0 and own.k > 1 and isinstance(own, FixedEntries):
            return f"holds a covariance whole or not at all, and part of {term.name!r} is held"
        if term.root is not None and term.form == "block":
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


def check_folder(value: Any, name: str) -> str:
    """The path of a folder that exists."""
    wanted = "the path of a folder that exists"
    if not isinstance(value, (str, PathLike)):
        raise wrong_type(name, wanted, value)
    path = fspath(value)
    if not isinstance(path, str) or not isdir(path):
        raise wrong_value(name, wanted, value)
    return path
