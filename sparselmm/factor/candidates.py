"""Ways to factor M, priced from the pattern of A alone: operations, memory, time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from sparselmm.base.cholesky import CholeskyFactor, Mode, Ordering, Pattern, dense_root
from sparselmm.base.providers import provider
from sparselmm.base.threads import one_thread
from sparselmm.base.types import IntArray, index_dtype
from sparselmm.factor.coupling import is_full
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.layout import Layout, Strategy
from sparselmm.factor.solver import FEW_LEVELS, WIDE_LEVEL

RATE = {
    "inverse": 80e9,
    "dense": 40e9,
    "supernodal": 40e9,
    "simplicial": 0.7e9,
    "blocks": 10e9,
    "loop": 0.25e9,
    "fill": 1e9,
}
"""Operations per second: LAPACK's factor and inverse, other products, CHOLMOD with and without
BLAS, LAPACK on the blocks of levels, our own loops, memory traffic."""

PER_ENTRY, PER_COLUMN = 1.4e-7, 1.4e-6
"""Seconds per entry and column of a sparse factor before its dense root, for assembling, copying,
reading and inverting it in small products."""

PER_LINK, PER_PAIR = 6e-8, 1.5e-9
"""Seconds per column that a leading level joins and per pair of them, for each of its
coefficients."""

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

ANALYSIS_GAIN = 12.0
"""A fit must take this many times the cost of an analysis for it to be tried; half as many for the
analysis of a Schur complement, which seldom fails to pay."""

MANY_COLUMNS = 1500
"""Order of a dense remainder from which more than one thread is used. Below it threads could save
milliseconds on an idle machine and cost seconds on a busy one."""

MANY_FLOPS = 5e9
"""Operations of a sparse factorization from which more than one thread is used."""

SMALL = 400
"""Up to this many columns nothing is considered that would load compiled kernels."""

SAMPLE = 15
"""Trailing levels whose fill is counted to estimate how sparse a remainder is."""

SPARSE_BELOW = 0.3
"""Density of a remainder up to which its sparse factorization is considered."""

ANALYSE_LIMIT = 60_000_000
"""Entries of a pattern above which its sparse analysis would cost more than it could gain."""


Evaluations = Callable[[float, float], int]
"""How many exact evaluations a fit will make, from the seconds of one and of an analysis."""


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
    """Price of a leading term by itself, and what is known of its Schur complement.

    Attributes
    ----------
    fill : float
        Entries it has at most.
    least : float
        Entries it has at least, on and below its diagonal.
    """

    cost: Candidate
    fill: float
    least: float


def needs_no_kernel(cross: CrossProducts, t: int) -> bool:
    """Whether NumPy alone eliminates a term."""
    k, l = cross.sizes[t]
    others = _others(cross, t)
    met = sum(cross.sizes[s][0] * int(_degrees(cross, s, t).sum()) for s in others)
    return l <= FEW_LEVELS and (not others or is_full(met, l, cross.q - k * l))


def _others(cross: CrossProducts, t: int) -> list[int]:
    """The other terms."""
    return [s for s in range(len(cross.sizes)) if s != t]


def entries_of_a(cross: CrossProducts) -> int:
    """Stored entries of A."""
    return sum(p.data.size * (1 if s == t else 2) for (s, t), p in cross.pairs.items())


def _base(cross: CrossProducts) -> tuple[int, float]:
    """Memory and time every strategy needs: right-hand sides and products with A."""
    m = cross.basis.rank + 1
    return 8 * cross.q * m * 2, OVERHEAD * len(cross.sizes) + 4.0 * cross.q * m / RATE["loop"]


def search_price(cross: CrossProducts, covariance: Parameters | None) -> tuple[int, float]:
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


def all_dense(cross: CrossProducts) -> Candidate:
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


def _dense_seconds(n: float) -> float:
    """Factorization and inverse of a dense matrix, and filling it."""
    return float(n) ** 3 / RATE["inverse"] + 20.0 * float(n) ** 2 / RATE["fill"]


def leading_price(cross: CrossProducts, t: int) -> _Leading:
    """Price of eliminating term t in closed form."""
    k, l = cross.sizes[t]
    memory, seconds = _base(cross)
    reach = np.zeros(l)
    for s in _others(cross, t):
        reach += cross.sizes[s][0] * _degrees(cross, s, t)
    n, entries, pairs = cross.q - k * l, int(reach.sum()), float(reach @ reach)
    full = n > 0 and is_full(entries, l, n)
    if full:  # products of whole matrices: Y'Y, Y G and the blocks of Y G Y'
        entries, loops, products = l * n, 0.0, float(k * l) * n * (3.0 * n + 2.0 * k)
    else:
        loops, products = k * (PER_PAIR * pairs + PER_LINK * entries), 0.0
    cost = Candidate(
        Strategy(t, "dense"),
        nnz=l * k * (k + 1) // 2 + k * entries,
        flops=l * k**3 + (float(k * l) * n**2 if full else k * pairs),
        memory=memory + 8 * (3 * k * k * l + (4 * k + 3) * entries),
        seconds=seconds
        + 4.0 * l * k**3 / _block_rate(k)
        + loops
        + products / RATE["dense"]
        + 2.0 * k * entries * full / RATE["fill"],
        n_trailing=n,
    )
    inner = sum(p.data.size for pair, p in cross.pairs.items() if t not in pair)
    least = max(float(inner), 0.5 * float(reach.max(initial=0.0)) ** 2)
    return _Leading(cost, entries + pairs / 2.0, least)


def _block_rate(k: int) -> float:
    """Operations per second on blocks k x k: our own loops gain with k, LAPACK takes the large."""
    return RATE["blocks"] if k > WIDE_LEVEL else min(0.75 * k * RATE["loop"], RATE["blocks"])


def then_dense(cross: CrossProducts, lead: _Leading) -> Candidate:
    """The rest by LAPACK; nothing when the leading term is all there is."""
    n, cost = lead.cost.n_trailing, lead.cost
    if n == 0:
        return cost
    memory = 16 * n * n + _inner_bytes(cross, cost.strategy.leading)
    return _with_rest(cost, cost.strategy, n * (n + 1) // 2, n**3 / 3.0, memory, _dense_seconds(n))


def then_sparse(
    cross: CrossProducts, lead: _Leading, best: float, evaluations: Evaluations
) -> list[Candidate]:
    """The rest by CHOLMOD, where its pattern is sparse and worth building and analysing."""
    n, cost = lead.cost.n_trailing, lead.cost
    t = cost.strategy.leading
    if t is None or n <= SMALL or not provider().orderings:
        return []
    largest, pattern = SPARSE_BELOW * n**2 / 2.0, lead.fill * PATTERN_SECONDS / ANALYSIS_SECONDS

    def pays(entries: float) -> bool:
        gain = best - cost.seconds - _least_seconds(n, entries)
        worth = _worth_analysing(best, gain, 0.5 * (entries + pattern), evaluations)
        return entries <= largest and worth

    if not pays(lead.least):
        return []
    if not pays(_density(cross, t) * n**2 / 2.0 if lead.fill > largest else lead.fill):
        return []
    return [
        _with_rest(cost, c.strategy, c.nnz, c.flops, c.memory, c.seconds, c.factor)
        for c in _sparse(cross, cost.strategy.leading, best, evaluations)
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


def all_sparse(cross: CrossProducts, best: float, evaluations: Evaluations) -> list[Candidate]:
    """CHOLMOD on all of M."""
    entries, (memory, seconds) = entries_of_a(cross) / 2.0, _base(cross)
    gain = best - seconds - _least_seconds(cross.q, entries)
    if not provider().orderings or not _worth_analysing(best, gain, entries, evaluations):
        return []
    return [
        replace(c, memory=c.memory + memory, seconds=c.seconds + seconds)
        for c in _sparse(cross, None, best, evaluations)
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


def _least_seconds(n: int, entries: float) -> float:
    """What a sparse factor of n columns costs at least: none of its entries less than in a root."""
    return PER_COLUMN * n + _dense_seconds((2.0 * entries) ** 0.5)


def _worth_analysing(best: float, gain: float, nnz: float, evaluations: Evaluations) -> bool:
    """Whether a sparse analysis of a pattern can pay for itself within one fit.

    It may save ``gain`` of the ``best`` seconds of an evaluation known.
    """
    cost = ANALYSIS_GAIN * nnz * ANALYSIS_SECONDS
    if nnz >= ANALYSE_LIMIT or EVALUATIONS * gain <= cost:
        return False
    return evaluations(best, nnz * ANALYSIS_SECONDS) * gain > cost


def _degrees(cross: CrossProducts, s: int, t: int) -> IntArray:
    """Levels of s that each level of t meets, (l_t,)."""
    if s > t:
        return np.diff(cross.pairs[s, t].indptr)
    pair = cross.pairs[t, s]
    return np.bincount(pair.rows, minlength=pair.n_rows)


def _sparse(
    cross: CrossProducts, leading: int | None, best: float, evaluations: Evaluations
) -> list[Candidate]:
    """CHOLMOD on the remainder of a leading term, or on all of M.

    Nested dissection takes longer than AMD and seldom halves its work: it is tried only where that
    could win.
    """
    pattern = Layout.of(cross.pattern, leading).remainder_pattern()
    out: list[Candidate] = []
    for ordering in provider().orderings:
        candidate = _analysed(pattern, leading, ordering)
        out.append(candidate)
        seconds = candidate.seconds
        hopeless = seconds > 2.0 * best
        if hopeless or not _worth_analysing(seconds, 0.5 * seconds, 2.0 * pattern.nnz, evaluations):
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
        seconds=_dense_seconds(n_root)
        + 3.0 * loose / RATE[mode]
        + PER_ENTRY * counts[:root].sum()
        + PER_COLUMN * pattern.n,
        n_trailing=pattern.n,
        factor=factor,
    )
