"""Choice of the factorization by predicted cost, before anything large is allocated.

Every way to factor ``M = Lambda'A Lambda + I`` that :mod:`sparselmm.factor.solver` knows is priced
from the pattern of A alone: operations of the closed-form elimination, the dense or sparse
factorization of the remainder, the inverse the gradient needs, and the memory of each. The
cheapest one that fits in memory is taken. Rates are measured on ordinary hardware (see
docs/design.md); only their ratios matter for the choice.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np

from sparselmm.base.cholesky import CholeskyFactor, Mode, Ordering, Pattern, dense_root
from sparselmm.base.exceptions import MemoryLimitError
from sparselmm.base.grid import Grid
from sparselmm.base.providers import instructions, provider
from sparselmm.base.threads import one_thread
from sparselmm.base.types import IntArray, index_dtype
from sparselmm.factor.coupling import is_full
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.krylov.price import DEAR, TIMES, KrylovPrice, Rival
from sparselmm.factor.krylov.tiles import Panels
from sparselmm.factor.layout import Layout, Strategy
from sparselmm.factor.solver import FEW_LEVELS, WIDE_LEVEL

RATE = {
    "dense": 40e9,
    "supernodal": 40e9,
    "simplicial": 0.7e9,
    "blocks": 10e9,
    "loop": 0.25e9,
    "fill": 1e9,
}
"""Operations per second: LAPACK, CHOLMOD with and without BLAS, LAPACK on the blocks of levels, our
own loops, memory traffic."""

PER_ENTRY = 7e-8
"""Seconds per entry of a sparse factor for assembling, copying and reading it."""

OVERHEAD = 2e-5
"""Seconds of fixed cost per evaluation and term."""

SUPERNODAL_FROM = 40.0
"""Operations per entry of L from which CHOLMOD's dense blocks pay, as in CHOLMOD itself."""

EVALUATIONS = 7
"""Evaluations of a typical fit."""

ANALYSIS_SECONDS = 3e-7
"""Seconds to order and analyse a pattern, per entry."""

PATTERN_SECONDS = 1e-8
"""Seconds to build the pattern of a remainder, per pair of columns that a leading level joins."""

LONG_ANALYSIS = 0.1
"""Seconds of a predicted analysis before which conjugate gradients are asked for their price."""

ANALYSIS_GAIN = 12.0
"""A fit must take this many times the cost of an analysis for it to be tried; half as many for the
analysis of a Schur complement, which seldom fails to pay."""

FULL = 8.0
"""When the leading levels join every pair of trailing columns this many times on average, no
ordering keeps the remainder sparse and none is tried."""

MANY_COLUMNS = 1500
"""Order of a dense remainder from which more than one thread is used. Below it threads could save
milliseconds on an idle machine and cost seconds on a busy one."""

MANY_FLOPS = 5e9
"""Operations of a sparse factorization from which more than one thread is used."""

TINY = 100
"""Up to this many columns LAPACK on all of M is quickest."""

SMALL = 400
"""Up to this many columns nothing is considered that would load compiled kernels."""

SAMPLE = 15
"""Trailing levels whose fill is counted to estimate how sparse a remainder is."""

SPARSE_BELOW = 0.3
"""Density of a remainder up to which its sparse factorization is considered."""

LITTLE = 50_000_000
"""Bytes that every machine has: none is asked how much it has."""

MEMINFO, GROUPS, CGROUP = "/proc/meminfo", "/proc/self/cgroup", "/sys/fs/cgroup"
"""Where Linux says how much memory there is, and what a container may use of it."""

UNKNOWN_MEMORY = 4_000_000_000
"""Bytes taken as available on a system that does not say."""

ANALYSE_LIMIT = 60_000_000
"""Entries of a pattern above which its sparse analysis would cost more than it could gain."""


class TermParameters(Protocol):
    """How many parameters the covariance of one term's k coefficients has."""

    @property
    def k(self) -> int:
        """Coefficients per level."""

    @property
    def n_tangent(self) -> int:
        """Directions of a step."""

    def is_numerous(self, levels: int) -> bool:
        """Whether the curvature in them is the expected one."""


class Parameters(Protocol):
    """The covariance parameters of a model, as far as they cost time and memory."""

    @property
    def terms(self) -> Sequence[TermParameters]:
        """One of each random-effects term."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One priced way to factor M.

    Attributes
    ----------
    strategy : Strategy
    nnz : int
        Stored entries of the factor, predicted.
    flops : float
        Operations of one factorization.
    memory : int
        Bytes of factor, inverse and coupling at the peak of one gradient.
    seconds : float
        Predicted time of value and gradient.
    n_trailing : int
        Columns of the remainder.
    factor : CholeskyFactor or None
        CHOLMOD's analysis of a sparse remainder, to be used by the fit.
    """

    strategy: Strategy
    nnz: int
    flops: float
    memory: int
    seconds: float
    n_trailing: int
    factor: CholeskyFactor | None = field(default=None, repr=False)

    def threads(self) -> AbstractContextManager[Any]:
        """Context in which BLAS and LAPACK use one thread, unless the work is large."""
        dense = self.strategy.remainder == "dense"
        large = self.n_trailing >= MANY_COLUMNS if dense else self.flops >= MANY_FLOPS
        return nullcontext() if large else one_thread()

    def describe(self, names: tuple[str, ...]) -> str:
        """The strategy in words."""
        s = self.strategy
        rest = "LAPACK" if s.remainder == "dense" else f"CHOLMOD {s.mode}, {s.ordering}"
        if s.leading is None:
            return rest
        if len(names) == 1:
            return f"closed form in {names[s.leading]}"
        return f"eliminate {names[s.leading]}, then {rest}"


@dataclass(frozen=True, eq=False)
class _Leading:
    """Price of a leading term by itself, and the entries its Schur complement may have."""

    cost: Candidate
    fill: float


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
        chosen = self.fitting if self.route == "krylov" else self.chosen
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


def size_text(amount: float) -> str:
    """Bytes in words."""
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000.0:
            return f"{amount:.3g} {unit}"
        amount /= 1000.0
    return f"{amount:.3g} TB"


def available_memory() -> int:
    """Bytes of memory this process can still get, whichever is least.

    What the system has available, and what the control groups of a container (version 1 or 2) leave
    below their limits; caches that the kernel gives back count as available.
    """
    return min([_system_memory(), *_group_memory()])


def need_memory(needed: float, what: str, instead: str) -> None:
    """Refuse work that does not fit, before anything is allocated.

    Parameters
    ----------
    needed : float
        Bytes.
    what : str
        What takes them.
    instead : str
        What the user can do.

    Raises
    ------
    MemoryLimitError
        When there are fewer.
    """
    if needed < LITTLE or needed <= (limit := available_memory()):
        return
    raise MemoryLimitError(
        f"{what} takes about {size_text(needed)} of memory, and {size_text(limit)} are available; "
        f"{instead}"
    )


def _system_memory() -> int:
    """Bytes the system has available; `UNKNOWN_MEMORY` where it does not say."""
    for line in _lines(MEMINFO):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return UNKNOWN_MEMORY


def _group_memory() -> list[int]:
    """Bytes that each control group with a limit, from our own up to the root, has left."""
    out = []
    for line in _lines(GROUPS):
        number, controllers, path = line.rstrip().split(":", 2)
        if number == "0" and not controllers:
            base, limit, usage, cache = CGROUP, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit = os.path.join(CGROUP, "memory"), "memory.limit_in_bytes"
            usage, cache = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = os.path.join(base, *parts[:depth])
            most = "".join(_lines(os.path.join(folder, limit))).strip()
            if not most.isdigit():  # no such group here, or "max"
                continue
            used = int("".join(_lines(os.path.join(folder, usage))).strip() or 0)
            kept = [row.split() for row in _lines(os.path.join(folder, "memory.stat"))]
            back = sum(int(row[1]) for row in kept if row[0] == cache)
            out.append(max(int(most) - max(used - back, 0), 0))
    return out


def _lines(path: str) -> list[str]:
    """Lines of a file of the system; none where there is no such file."""
    try:
        with open(path, encoding="ascii") as file:
            return list(file)
    except OSError:
        return []


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
    candidates = [_dense(cross)]
    leads: list[int] = []
    if cross.q > min(TINY, SMALL):
        leads = [t for t in range(len(cross.sizes)) if cross.pairs[t, t].is_block_diagonal]
    if TINY < cross.q <= SMALL:
        leads = [t for t in leads if _needs_no_kernel(cross, t)]
        candidates += [_then_dense(cross, _leading(cross, t)) for t in leads]
    if cross.q > SMALL:
        leading = [_leading(cross, t) for t in leads]
        candidates += [_then_dense(cross, lead) for lead in leading]
        for lead in leading:
            candidates += _then_sparse(cross, lead, min(c.seconds for c in candidates), budget)
        full = any(2.0 * lead.fill > FULL * lead.cost.n_trailing**2 for lead in leading)
        if (len(cross.sizes) > 1 and not full) or not leads:
            candidates += _all_sparse(cross, min(c.seconds for c in candidates), budget)
    memory, seconds = _search(cross, covariance)
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
        nnz_a=_nnz_a(cross),
        candidates=tuple(candidates),
        given_limit=limit,
    )
    return replace(plan, krylov=budget.priced(plan))


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


def _needs_no_kernel(cross: CrossProducts, t: int) -> bool:
    """Whether NumPy alone eliminates a term."""
    k, l = cross.sizes[t]
    others = _others(cross, t)
    met = sum(cross.sizes[s][0] * int(_degrees(cross, s, t).sum()) for s in others)
    return l <= FEW_LEVELS and (not others or is_full(met, l, cross.q - k * l))


def _others(cross: CrossProducts, t: int) -> list[int]:
    """The other terms."""
    return [s for s in range(len(cross.sizes)) if s != t]


def _nnz_a(cross: CrossProducts) -> int:
    return sum(p.data.size * (1 if s == t else 2) for (s, t), p in cross.pairs.items())


def _base(cross: CrossProducts) -> tuple[int, float]:
    """Memory and time every strategy needs: right-hand sides and products with A."""
    m = cross.basis.rank + 1
    return 8 * cross.q * m * 4, OVERHEAD * len(cross.sizes) + 4.0 * cross.q * m / RATE["loop"]


def _search(cross: CrossProducts, covariance: Parameters | None) -> tuple[int, float]:
    """Memory and time of what no factorization changes: X, and steps of the variances.

    Matrices of the fixed effects (r, r), columns of the random effects that every direction of a
    step moves (q, m), and the model of the deviance in those directions.
    """
    r, q = cross.basis.rank + 1, cross.q
    memory, flops = 8 * 4 * r * r, 16.0 * q * r * r + 0.5 * float(r) ** 3
    if covariance is not None:
        terms = list(zip(covariance.terms, cross.sizes, strict=True))
        tangent = sum(term.n_tangent for term, _ in terms)
        moved = sum(min(t.n_tangent, t.k * (t.k + 1) // 2) for t, _ in terms)
        flops += 2.0 * tangent**2 * moved + 20.0 * float(moved) ** 3
        free = any(term.n_tangent > k + 1 for term, (k, _) in terms)
        if len(terms) == 1 and all(t.is_numerous(l) and l >= k * free for t, (k, l) in terms):
            k, l = cross.sizes[0]  # fewer levels than free coefficients end at a boundary
            memory += 8 * (5 * tangent**2 + k * k * l if free else 3 * tangent**2)
            flops += 4.0 * (l * tangent**2 + q * moved**2) if free else 12.0 * l * float(k) ** 3
        else:
            memory += 8 * (2 * q * moved + 3 * tangent**2)
            flops += 4.0 * q * moved**2
    return memory, flops / RATE["dense"]


def _inner_bytes(cross: CrossProducts, lead: int | None) -> int:
    """Bytes to place the blocks of A between trailing terms in a dense matrix."""
    return 32 * sum(p.data.size for pair, p in cross.pairs.items() if lead not in pair)


def _dense(cross: CrossProducts) -> Candidate:
    """LAPACK on all of M."""
    memory, seconds = _base(cross)
    q = cross.q
    return Candidate(
        Strategy(None, "dense"),
        nnz=q * (q + 1) // 2,
        flops=q**3 / 3.0,
        memory=memory + 16 * q * q + _inner_bytes(cross, None),
        seconds=seconds + _dense_seconds(q),
        n_trailing=q,
    )


def _dense_seconds(n: int) -> float:
    """Factorization and inverse of a dense matrix, and filling it."""
    return float(n) ** 3 / RATE["dense"] + 4.0 * float(n) ** 2 / RATE["fill"]


def _leading(cross: CrossProducts, t: int) -> _Leading:
    """Price of eliminating term t in closed form."""
    k, l = cross.sizes[t]
    memory, seconds = _base(cross)
    reach = np.zeros(l)
    for s in _others(cross, t):
        reach += cross.sizes[s][0] * _degrees(cross, s, t)
    n, entries, pairs = cross.q - k * l, int(reach.sum()), float(np.sum(reach**2))
    full = n > 0 and is_full(entries, l, n)
    if full:  # products of whole matrices: Y'Y, Y G and the blocks of Y G Y'
        entries, loops, products = l * n, 0.0, float(k * l) * n * (3.0 * n + 2.0 * k)
    else:
        loops, products = 2.0 * k * pairs + 20.0 * entries, 0.0
    cost = Candidate(
        Strategy(t, "dense"),
        nnz=l * k * (k + 1) // 2 + k * entries,
        flops=l * k**3 + (float(k * l) * n**2 if full else k * pairs),
        memory=memory + 8 * (3 * k * k * l + (4 * k + 3) * entries),
        seconds=seconds
        + 4.0 * l * k**3 / _block_rate(k)
        + loops / RATE["loop"]
        + products / RATE["dense"]
        + 2.0 * k * entries * full / RATE["fill"],
        n_trailing=n,
    )
    return _Leading(cost, entries + pairs / 2.0)


def _block_rate(k: int) -> float:
    """Operations per second on blocks k x k: our own loops gain with k, LAPACK takes the large."""
    return RATE["blocks"] if k > WIDE_LEVEL else min(0.75 * k * RATE["loop"], RATE["blocks"])


def _then_dense(cross: CrossProducts, lead: _Leading) -> Candidate:
    """The rest by LAPACK; nothing when the leading term is all there is."""
    n, cost = lead.cost.n_trailing, lead.cost
    if n == 0:
        return cost
    memory = 16 * n * n + _inner_bytes(cross, cost.strategy.leading)
    return _with_rest(cost, cost.strategy, n * (n + 1) // 2, n**3 / 3.0, memory, _dense_seconds(n))


def _then_sparse(
    cross: CrossProducts, lead: _Leading, best: float, budget: _Budget
) -> list[Candidate]:
    """The rest by CHOLMOD, where its pattern is sparse and worth building and analysing."""
    n, cost = lead.cost.n_trailing, lead.cost
    t = cost.strategy.leading
    if t is None or n <= SMALL or cost.seconds >= best:
        return []
    dense = lead.fill > SPARSE_BELOW * n**2 / 2.0
    density = _density(cross, t) if dense else 2.0 * lead.fill / n**2
    entries = density * n**2 / 2.0 + lead.fill * PATTERN_SECONDS / ANALYSIS_SECONDS
    worth = _worth_analysing(best - cost.seconds, entries / 2.0, budget)
    if density > SPARSE_BELOW or not worth:
        return []
    if not provider().orderings:
        return []
    return [
        _with_rest(cost, c.strategy, c.nnz, c.flops, c.memory, c.seconds, c.factor)
        for c in _sparse(cross, cost.strategy.leading, best, budget)
    ]


def _density(cross: CrossProducts, lead: int) -> float:
    """Share of nonzeros in the Schur complement of a leading term, from a sample of its columns."""
    others = _others(cross, lead)
    met, n = 0.0, 0
    for t in others:
        k, l = cross.sizes[t]
        sample = np.unique(np.linspace(0, l - 1, SAMPLE).astype(np.int64))
        for level in sample:
            via = _neighbours(cross, lead, t, np.array([level]))
            via = via[:: 1 + len(via) // (5 * SAMPLE)]  # a level of so many links joins all anyway
            for s in others:
                seen = np.zeros(cross.sizes[s][1], dtype=bool)
                seen[_neighbours(cross, s, lead, via)] = True
                met += k * l / len(sample) * cross.sizes[s][0] * seen.sum()
        n += k * l
    return met / n**2


def _neighbours(cross: CrossProducts, s: int, t: int, levels: IntArray) -> IntArray:
    """Levels of s that some levels of t meet, one after the other; no pair is transposed."""
    if s > t:
        pair = cross.pairs[s, t]
        ends = zip(pair.indptr[levels], pair.indptr[levels + 1], strict=True)
        return np.concatenate([pair.rows[begin:end] for begin, end in ends] or [levels[:0]])
    pair = cross.pairs[t, s]
    wanted = np.zeros(pair.n_rows, dtype=bool)
    wanted[levels] = True
    entries = np.flatnonzero(wanted[pair.rows])
    return np.searchsorted(pair.indptr, entries, side="right") - 1


def _all_sparse(cross: CrossProducts, best: float, budget: _Budget) -> list[Candidate]:
    """CHOLMOD on all of M."""
    if not _worth_analysing(best, _nnz_a(cross) / 2.0, budget) or not provider().orderings:
        return []
    memory, seconds = _base(cross)
    return [
        replace(c, memory=c.memory + memory, seconds=c.seconds + seconds)
        for c in _sparse(cross, None, best, budget)
    ]


def _with_rest(
    lead: Candidate, strategy: Strategy, nnz: int, flops: float, memory: int, seconds: float,
    factor: CholeskyFactor | None = None,
) -> Candidate:  # fmt: skip
    """Costs of the leading factor and of the remainder together."""
    return Candidate(
        strategy, lead.nnz + nnz, lead.flops + flops, lead.memory + memory,
        lead.seconds + seconds, lead.n_trailing, factor,
    )  # fmt: skip


def _worth_analysing(best: float, nnz: float, budget: _Budget) -> bool:
    """Whether a sparse analysis of a pattern can pay for itself within one fit."""
    cost = ANALYSIS_GAIN * nnz * ANALYSIS_SECONDS
    if nnz >= ANALYSE_LIMIT or EVALUATIONS * best <= cost:
        return False
    return budget.evaluations(best, nnz * ANALYSIS_SECONDS) * best > cost


def _degrees(cross: CrossProducts, s: int, t: int) -> IntArray:
    """Levels of s that each level of t meets, (l_t,)."""
    if s > t:
        return np.diff(cross.pairs[s, t].indptr)
    pair = cross.pairs[t, s]
    return np.bincount(pair.rows, minlength=pair.n_rows)


def _sparse(
    cross: CrossProducts, leading: int | None, best: float, budget: _Budget
) -> list[Candidate]:
    """CHOLMOD on the remainder of a leading term, or on all of M.

    Nested dissection takes longer than AMD and seldom halves its work: it is tried only where that
    could win.
    """
    pattern = Layout.of(cross, leading).remainder_pattern()
    out: list[Candidate] = []
    for ordering in provider().orderings:
        candidate = _analysed(pattern, leading, ordering)
        out.append(candidate)
        hopeless = candidate.seconds > 2.0 * best
        if hopeless or not _worth_analysing(candidate.seconds, 2.0 * pattern.nnz, budget):
            break
    return out


def _analysed(pattern: Pattern, leading: int | None, ordering: Ordering) -> Candidate:
    """CHOLMOD with one ordering, priced from the column counts of its factor."""
    factor = CholeskyFactor(pattern, ordering, "supernodal")
    counts = factor.column_counts().astype(float)
    nnz, flops = int(counts.sum()), float(np.sum(counts**2))
    root = dense_root(counts)
    n_root, loose = pattern.n - root, float(np.sum(counts[:root] ** 2))
    mode: Mode = "supernodal" if flops > SUPERNODAL_FROM * nnz else "simplicial"
    wide = index_dtype(nnz) is np.int64
    if mode == "simplicial" or wide:
        factor = CholeskyFactor(pattern.long() if wide else pattern, ordering, mode)
    return Candidate(
        Strategy(leading, "sparse", ordering, mode),
        nnz=nnz,
        flops=flops,
        memory=40 * nnz + 24 * pattern.nnz,
        seconds=_dense_seconds(n_root) + 3.0 * loose / RATE[mode] + PER_ENTRY * counts[:root].sum(),
        n_trailing=pattern.n,
        factor=factor,
    )
