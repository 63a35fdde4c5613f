"""Choice of the factorization by predicted cost, before anything large is allocated.

Every way to factor ``M = Lambda'A Lambda + I`` that :mod:`sparselmm.solvers` knows is priced
from the pattern of A alone: operations of the closed-form elimination, the dense or sparse
factorization of the remainder, the inverse the gradient needs, and the memory of each. The
cheapest one that fits in memory is taken. Rates are measured on ordinary hardware (see
docs/design.md); only their ratios matter for the choice.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from sparselmm._typing import IntArray
from sparselmm.cholesky import CholeskyFactor, Mode, Ordering
from sparselmm.crossprod import CrossProducts
from sparselmm.exceptions import MemoryLimitError
from sparselmm.solvers import Layout, Strategy

RATE = {"dense": 30e9, "supernodal": 8e9, "simplicial": 0.7e9, "loop": 0.8e9}
"""Floating-point operations per second: LAPACK, CHOLMOD with BLAS, CHOLMOD without, our loops."""

OVERHEAD = 2e-5
"""Seconds of fixed cost per evaluation and term."""

SMALL = 400
"""Up to this many columns LAPACK on all of M is quickest and needs no compiled kernel."""

ANALYSE_LIMIT = 60_000_000
"""Entries of a pattern above which its sparse analysis would cost more than it could gain."""


@dataclass(frozen=True)
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
    """

    strategy: Strategy
    nnz: int
    flops: float
    memory: int
    seconds: float

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
    memory_limit : int
        Bytes the fit may use.
    """

    n: int
    p: int
    q: int
    names: tuple[str, ...]
    nnz_a: int
    candidates: tuple[Candidate, ...]
    memory_limit: int

    @property
    def chosen(self) -> Candidate:
        """The cheapest candidate that fits in memory.

        Raises
        ------
        MemoryLimitError
            If none does.
        """
        for candidate in self.candidates:
            if candidate.memory <= self.memory_limit:
                return candidate
        raise MemoryLimitError(
            f"no factorization of this model fits in {_bytes(self.memory_limit)}:\n{self._table(None)}\n"
            "Use a machine with more memory, raise memory_limit=, or drop the random-effects "
            "term that couples the largest factors."
        )

    def __str__(self) -> str:
        head = (
            f"n = {self.n:,} rows, p = {self.p}, q = {self.q:,} random effects, "
            f"nnz(Z'WZ) = {self.nnz_a:,}, memory limit {_bytes(self.memory_limit)}"
        )
        return head + "\n" + self._table(self.chosen)

    def _table(self, chosen: Candidate | None) -> str:
        lines = [f"  {'factorization':44s} {'nnz(L)':>12s} {'Gflop':>9s} {'memory':>9s} {'s/eval':>9s}"]
        for c in self.candidates:
            mark = "*" if c is chosen else " "
            lines.append(
                f"{mark} {c.describe(self.names):44s} {c.nnz:12,d} {c.flops / 1e9:9.3g} "
                f"{_bytes(c.memory):>9s} {c.seconds:9.2g}"
            )
        return "\n".join(lines)


def _bytes(amount: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000.0:
            return f"{amount:.3g} {unit}"
        amount /= 1000.0
    return f"{amount:.3g} TB"


def available_memory() -> int:
    """Bytes of memory this process can still get."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def make_plan(
    cross: CrossProducts, names: tuple[str, ...], memory_limit: int | None = None
) -> FitPlan:
    """Price every factorization of a model.

    Parameters
    ----------
    cross : CrossProducts
        Only the patterns are read.
    names : tuple of str
        Names of the terms, for the table.
    memory_limit : int, optional
        Bytes; default what the machine has available.
    """
    candidates = [_dense(cross)] if cross.q <= max(SMALL, 4000) else []
    if cross.q > SMALL or not candidates:
        leads = [t for t in range(len(cross.sizes)) if cross.pairs[t, t].is_block_diagonal]
        for t in leads:
            candidates += _eliminating(cross, t)
        best = min((c.seconds for c in candidates), default=np.inf)
        if len(cross.sizes) > len(leads) or (len(cross.sizes) > 1 and best > 0.02):
            candidates += _sparse(cross, None)
    candidates.sort(key=lambda c: c.seconds)
    return FitPlan(
        n=cross.n,
        p=cross.basis.p,
        q=cross.q,
        names=names,
        nnz_a=_nnz_a(cross),
        candidates=tuple(candidates),
        memory_limit=available_memory() if memory_limit is None else int(memory_limit),
    )


def _nnz_a(cross: CrossProducts) -> int:
    return sum(p.data.size * (1 if s == t else 2) for (s, t), p in cross.pairs.items())


def _base(cross: CrossProducts) -> tuple[int, float]:
    """Memory and time every strategy needs: right-hand sides and products with A."""
    m = cross.basis.rank + 1
    memory = 8 * cross.q * m * 4
    return memory, OVERHEAD * len(cross.sizes) + cross.q * m * m * 4 / RATE["loop"] / 4


def _dense(cross: CrossProducts) -> Candidate:
    q = cross.q
    memory, seconds = _base(cross)
    flops = q**3 / 3.0
    return Candidate(
        Strategy(None, "dense"), q * (q + 1) // 2, flops, memory + 16 * q * q,
        seconds + 3.0 * flops / RATE["dense"] + 2.0 * q * q / RATE["loop"] / 4,
    )  # fmt: skip


def _eliminating(cross: CrossProducts, t: int) -> list[Candidate]:
    """Term t in closed form, the rest densely or sparsely."""
    k, l = cross.sizes[t]
    rest = cross.q - k * l
    memory, seconds = _base(cross)
    reach = np.zeros(l, dtype=np.int64)
    for s, (ks, _) in enumerate(cross.sizes):
        if s != t:
            reach += ks * _degrees(cross, s, t)
    updates = float(k * np.sum(reach.astype(float) ** 2))
    own = l * k**3 + updates / 2.0
    memory += 8 * (2 * k * k * l + 4 * k * int(reach.sum()) + 3 * int(reach.sum()))
    seconds += (l * k**3 * 4 + 1.5 * updates) / RATE["loop"]
    nnz = l * k * (k + 1) // 2 + k * int(reach.sum())
    if rest == 0:
        return [Candidate(Strategy(t, "dense"), nnz, own, memory, seconds)]
    flops = rest**3 / 3.0
    out = [
        Candidate(
            Strategy(t, "dense"), nnz + rest * (rest + 1) // 2, own + flops,
            memory + 16 * rest * rest, seconds + 3.0 * flops / RATE["dense"] + rest**2 / 1e9,
        )
    ]  # fmt: skip
    if rest > SMALL and updates / 2.0 < min(ANALYSE_LIMIT, 0.2 * rest**2):
        for c in _sparse(cross, t):
            out.append(
                Candidate(
                    c.strategy, c.nnz + nnz, c.flops + own, c.memory + memory, c.seconds + seconds
                )
            )
    return out


def _degrees(cross: CrossProducts, s: int, t: int) -> IntArray:
    """Levels of s that each level of t meets, (l_t,)."""
    if s > t:
        return np.diff(cross.pairs[s, t].indptr)
    pair = cross.pairs[t, s]
    return np.bincount(pair.rows, minlength=pair.n_rows)


def _sparse(cross: CrossProducts, leading: int | None) -> list[Candidate]:
    """CHOLMOD on the remainder of a leading term, or on all of M."""
    if _nnz_a(cross) > ANALYSE_LIMIT:
        return []
    memory, seconds = (0, 0.0) if leading is not None else _base(cross)
    out = []
    pattern = Layout.of(cross, leading).remainder_pattern()
    orderings: tuple[Ordering, ...] = ("amd", "metis")
    for ordering in orderings:
        factor = CholeskyFactor(pattern, ordering)
        counts = factor.column_counts().astype(float)
        nnz, flops = int(counts.sum()), float(np.sum(counts**2))
        mode: Mode = "supernodal" if flops > 40.0 * nnz else "simplicial"
        cost = flops / RATE[mode] + 2.5 * flops / (RATE["supernodal"] if mode == "supernodal" else RATE["loop"])
        out.append(
            Candidate(
                Strategy(leading, "sparse", ordering, mode),
                nnz, flops, memory + 40 * nnz, seconds + cost + 60.0 * nnz / RATE["loop"] / 4,
            )
        )  # fmt: skip
        if flops < 1e8:
            break  # another ordering cannot gain anything that matters
    return out
