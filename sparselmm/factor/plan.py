"""Choice of the factorization by predicted cost, before anything large is allocated.

Every way to factor ``M = Lambda'A Lambda + I`` that :mod:`sparselmm.factor.solver` knows is priced
from the pattern of A alone: operations of the closed-form elimination, the dense or sparse
factorization of the remainder, the inverse the gradient needs, and the memory of each. The
cheapest one that fits in memory is taken. Rates are measured on ordinary hardware (see
docs/design.md); only their ratios matter for the choice.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from sparselmm.base.exceptions import MemoryLimitError
from sparselmm.base.grid import Grid
from sparselmm.base.memory import LITTLE, available_memory, size_text
from sparselmm.base.providers import instructions, provider
from sparselmm.factor.candidates import (
    EVALUATIONS,
    SMALL,
    Candidate,
    Parameters,
    all_dense,
    all_sparse,
    entries_of_a,
    leading_price,
    needs_no_kernel,
    search_price,
    then_dense,
    then_sparse,
)
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.krylov.price import DEAR, TIMES, KrylovPrice, Rival
from sparselmm.factor.krylov.tiles import Panels

LONG_ANALYSIS = 0.1
"""Seconds of a predicted analysis before which conjugate gradients are asked for their price."""


FULL = 8.0
"""When the leading levels join every pair of trailing columns this many times on average, no
ordering keeps the remainder sparse and none is tried."""


TINY = 100
"""Up to this many columns LAPACK on all of M is quickest."""


@dataclass(frozen=True, eq=False)
class FitPlan:
    """What a fit will do and cost; print it to see the table.

    Attributes
    ----------
    n, p, q : int
        Rows of positive weight, fixed effects, columns of Z.
    names : tuple of str
        Names of the terms.
    nnz_a : int
        Stored entries of ``A = Z'WZ``.
    candidates : tuple of Candidate
        Cheapest first.
    given_limit : int or None
        Bytes the fit may use, None for what the machine has available.
    residuals : str
        How cross-products are formed under a residual covariance structure; empty without one.
    krylov : KrylovPrice or None
        The search by conjugate gradients, where it was priced: where every factorization is dear.
    """

    n: int
    p: int
    q: int
    names: tuple[str, ...]
    nnz_a: int
    candidates: tuple[Candidate, ...]
    given_limit: int | None
    residuals: str = ""
    krylov: KrylovPrice | None = None

    @cached_property
    def memory_limit(self) -> int:
        """Bytes the fit may use."""
        return available_memory() if self.given_limit is None else self.given_limit

    @property
    def chosen(self) -> Candidate:
        """The cheapest candidate that fits in memory.

        Raises
        ------
        MemoryLimitError
            If none does.
        """
        found = self.fitting
        if found is not None:
            return found
        raise MemoryLimitError(
            f"no factorization of this model fits in {size_text(self.memory_limit)}:\n"
            f"{self._table(None)}\n"
            "Use a machine with more memory, raise memory_limit=, or drop the random-effects "
            "term that couples the largest factors."
            + ("" if provider().orderings else f"\n{instructions()}")
        )

    @cached_property
    def fitting(self) -> Candidate | None:
        """The same, None if none does."""
        for candidate in self.candidates:
            little = self.given_limit is None and candidate.memory < LITTLE
            if little or candidate.memory <= self.memory_limit:
                return candidate
        return None

    @property
    def route(self) -> Literal["exact", "certified", "krylov"]:
        """How a fit goes: by exact evaluations, with one at its end, or without.

        Conjugate gradients lead where they are so much cheaper that one exact evaluation at the end
        is most of the cost, and remain alone where no factorization fits in memory.
        """
        if self.krylov is None or self.krylov.memory > self.memory_limit:
            return "exact"
        if self.fitting is None:
            return "krylov"
        both = self.krylov.memory + self.fitting.memory <= self.memory_limit
        return "certified" if both and self.krylov.pays(self.fitting.seconds) else "exact"

    def _reason(self) -> str:
        """Why the search takes the way it takes, where there was a choice."""
        if self.krylov is None:
            return ""
        each, its = self.krylov.seconds, self.krylov.iterations
        if self.route == "krylov":
            return (
                "\nNo factorization fits in memory: theta comes from conjugate gradients "
                f"({its:.0f} iterations) and random probes, with its Monte Carlo error. "
                f"finish='exact' would factor on disk: {self._on_disk()}."
            )
        if self.fitting is None:
            return ""
        ratio = self.fitting.seconds / each
        if self.route == "certified":
            return (
                f"\nAn exact evaluation costs {ratio:.0f} by conjugate gradients ({its:.0f} "
                "iterations): these search, and one exact evaluation finishes (*)."
            )
        return (
            f"\nThe factor is used throughout: an exact evaluation costs {ratio:.2g} by conjugate "
            f"gradients ({its:.0f} iterations), which lead from {TIMES:.0f} and {DEAR} s."
        )

    def __str__(self) -> str:
        head = "\n".join(textwrap.wrap(self._head.replace(" ", "\0").replace(",\0", ", "), 80))
        tail = f"\n{self.residuals}" if self.residuals else ""
        head = head.replace("\0", " ")
        chosen = self.fitting if self.route == "krylov" or not self.q else self.chosen
        table = "\n" + self._table(chosen) if self.q or not tail else ""
        return head + table + self._reason() + tail

    @property
    def _head(self) -> str:
        return (
            f"n = {self.n:,} rows, p = {self.p}, q = {self.q:,} random effects, "
            f"nnz(Z'WZ) = {self.nnz_a:,}, memory limit {size_text(self.memory_limit)}, "
            f"sparse factors: {provider()}"
        )

    def _on_disk(self) -> str:
        """What a factorization on disk takes."""
        assert self.krylov is not None
        left = 0.5 * max(self.memory_limit - self.krylov.memory, 0)
        panels = Panels.of(self.krylov.solver.crossing.n_trailing, left)
        minutes = panels.seconds / 60.0
        return f"{size_text(panels.bytes)}, about {max(minutes, 0.1):.2g} core-minutes"

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        chosen = self.fitting if self.route == "krylov" else self.chosen
        notes = [note for note in (self._reason().strip(), self.residuals) if note]
        grid = self._grid(chosen)
        return grid.html("sparselmm-table", stubs=False, caption=self._head, notes=notes)

    def _table(self, chosen: Candidate | None) -> str:
        return "\n".join(line.rstrip() for line in self._grid(chosen).lines(gap=2))

    def _grid(self, chosen: Candidate | None) -> Grid:
        """What there is to choose from, the choice with a star."""
        rows = [
            ["*" if c is chosen else "", c.describe(self.names), f"{c.nnz:,}",
             f"{c.flops / 1e9:.3g}", size_text(c.memory), f"{c.seconds:.2g}"]
            for c in self.candidates
        ]  # fmt: skip
        if self.krylov is not None:
            rows.append(
                ["" if self.route == "exact" else "*",
                 f"conjugate gradients, {self.krylov.settings.probes} probes",
                 f"{self.krylov.nnz:,}", "", size_text(self.krylov.memory),
                 f"{self.krylov.seconds:.2g}"]
            )  # fmt: skip
        heads = ["", "factorization", "nnz(L)", "Gflop", "memory", "s/eval"]
        return Grid([rows], "llrrrr", heads, "llrrrr")


def make_plan(
    cross: CrossProducts, names: tuple[str, ...], memory_limit: int | None = None,
    covariance: Parameters | None = None, rival: Rival | None = None,
) -> FitPlan:  # fmt: skip
    """Price every factorization of a model.

    Parameters
    ----------
    cross : CrossProducts
        Only the patterns are read.
    names : tuple of str
        Names of the terms, for the table.
    memory_limit : int, optional
        Bytes; default what the machine has available.
    covariance : Parameters, optional
        What the search moves; None leaves its own work out.
    rival : Rival, optional
        The search by conjugate gradients, which is looked at where factorizations are dear.
    """
    budget = _Budget(rival)
    candidates = [all_dense(cross)]
    leads: list[int] = []
    if cross.q > min(TINY, SMALL):
        leads = [t for t in range(len(cross.sizes)) if cross.pairs[t, t].is_block_diagonal]
    if TINY < cross.q <= SMALL:
        leads = [t for t in leads if needs_no_kernel(cross, t)]
        candidates += [then_dense(cross, leading_price(cross, t)) for t in leads]
    if cross.q > SMALL:
        leading = [leading_price(cross, t) for t in leads]
        candidates += [then_dense(cross, lead) for lead in leading]
        for lead in leading:
            candidates += then_sparse(
                cross, lead, min(c.seconds for c in candidates), budget.evaluations
            )
        full = any(2.0 * lead.fill > FULL * lead.cost.n_trailing**2 for lead in leading)
        if (len(cross.sizes) > 1 and not full) or not leads:
            candidates += all_sparse(cross, min(c.seconds for c in candidates), budget.evaluations)
    memory, seconds = search_price(cross, covariance)
    candidates = [
        replace(c, memory=c.memory + memory, seconds=c.seconds + seconds) for c in candidates
    ]
    candidates.sort(key=lambda c: c.seconds)
    limit = None if memory_limit is None else int(memory_limit)
    plan = FitPlan(
        n=cross.n,
        p=cross.basis.p,
        q=cross.q,
        names=names,
        nnz_a=entries_of_a(cross),
        candidates=tuple(candidates),
        given_limit=limit,
    )
    priced = budget.priced(plan)
    return plan if priced is None else replace(plan, krylov=priced)


class _Budget:
    """How many exact evaluations a fit will make, which decides what an analysis may cost."""

    def __init__(self, rival: Rival | None):
        self._rival, self._asked = rival, False
        self._price: KrylovPrice | None = None

    def evaluations(self, best: float, analysis: float) -> int:
        """One where conjugate gradients search, which is asked before a long analysis."""
        if analysis > LONG_ANALYSIS:
            self._ask(best)
        return 1 if self._price is not None and self._price.pays(best) else EVALUATIONS

    def priced(self, plan: FitPlan) -> KrylovPrice | None:
        """The price of conjugate gradients, where exact evaluations are dear or do not fit."""
        found = plan.fitting if plan.q > SMALL else plan.candidates[0]
        if found is not None:
            self._ask(found.seconds)
        elif self._rival is not None and self._rival.memory() <= plan.memory_limit:
            self._ask(np.inf)
        return self._price

    def _ask(self, best: float) -> None:
        if self._asked or self._rival is None or not best > DEAR:
            return
        if self._rival.at_least() * TIMES < best:
            self._asked, self._price = True, self._rival.price()
