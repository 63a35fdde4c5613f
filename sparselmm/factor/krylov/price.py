"""What one evaluation by conjugate gradients costs, from ten iterations at the start values.

Memory grows like A. Time is the number of iterations times a pass over the couplings, and the
number of iterations is a matter of the design: where the levels of two factors meet at random (an
expander), a few; where they hang together by chains, hundreds, and there a sparse factor is small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.krylov.crossing import leading_term, may_lead
from sparselmm.factor.krylov.iterations import conjugate_gradients, predicted_iterations
from sparselmm.factor.krylov.solver import EXACT, PROBES, KrylovSolver, Settings

PER_PRODUCT = 8e-10
"""Seconds per coefficient of a coupling and right-hand side."""

PER_NUMBER = 2e-9
"""Seconds per number of the vectors of an iteration."""

STEPS = 10
"""Iterations from which the others are predicted."""

FEWEST = 3.0
"""Iterations that any solve with probes takes."""

DEAR = 0.2
"""Seconds of an exact evaluation from which another way is looked for."""

TIMES = 10.0
"""Evaluations by conjugate gradients that an exact one must cost to be left for the end."""


@dataclass(frozen=True, eq=False)
class KrylovPrice:
    """Price of the search on probes.

    Attributes
    ----------
    nnz : int
        Coefficients of the couplings.
    memory : int
        Bytes at the peak of one evaluation.
    seconds : float
        Predicted time of one evaluation.
    iterations : float
        Predicted number of iterations of a solve with probes.
    solver : KrylovSolver
        As it stands at the start, to be used by the fit.
    """

    nnz: int
    memory: int
    seconds: float
    iterations: float
    settings: Settings
    solver: KrylovSolver = field(repr=False)

    def pays(self, exact: float) -> bool:
        """Whether an exact evaluation is so dear that one is enough."""
        return exact > DEAR and exact > TIMES * self.seconds


@dataclass(frozen=True, eq=False)
class Rival:
    """The search on probes as a way to fit a model, priced when it is asked for.

    Attributes
    ----------
    lams : callable
        Makes ``lambda_t`` of every term at the start of the search.
    steps : int
        Columns that a curvature is solved for.
    """

    cross: CrossProducts
    lams: Callable[[], list[FloatArray]]
    steps: int
    settings: Settings

    def at_least(self) -> float:
        """Seconds of an evaluation that takes few iterations, from the pattern alone."""
        lead = leading_term(self.cross.pattern)
        if lead is None or not may_lead(self.cross.pattern):
            return np.inf
        return self._seconds(self._nnz(lead), lead, (FEWEST, FEWEST, FEWEST))

    def memory(self) -> float:
        """Bytes of an evaluation; infinite where the method does not apply."""
        lead = leading_term(self.cross.pattern)
        if lead is None or not may_lead(self.cross.pattern):
            return np.inf
        return float(self._memory(self._nnz(lead), lead))

    def price(self) -> KrylovPrice:
        """The price, from iterations at the start."""
        solver = KrylovSolver(self.cross.pattern, self.settings)
        solver.factorize(self.lams(), self.cross.values)
        lead = solver.crossing.leading
        rng = np.random.default_rng([self.settings.seed, STEPS])
        z = rng.choice([-1.0, 1.0], size=(solver.crossing.n_trailing, 1))
        V = solver.space.V
        z -= V @ (V.T @ z)
        iterations, tolerances = np.zeros(3), (PROBES, EXACT, self.settings.rough)
        if float(z[:, 0] @ z[:, 0]) > 1e-12 * len(z):  # else V is everything
            found = conjugate_gradients(
                solver.scaled.E, z, 1e-14, solver.space, most=STEPS, must=False
            )
            iterations[:] = [predicted_iterations(found, tol) for tol in tolerances]
        nnz = self._nnz(lead)
        seconds = self._seconds(nnz, lead, tuple(iterations))
        memory = self._memory(nnz, lead)
        return KrylovPrice(nnz, memory, seconds, float(iterations[0]), self.settings, solver)

    def _nnz(self, lead: int) -> int:
        pairs = self.cross.pairs.items()
        return sum(p.data.size for pair, p in pairs if lead in pair and pair[0] != pair[1])

    def _columns(self, lead: int) -> int:
        """Columns of V and of the probes together."""
        trailing = [k * l for t, (k, l) in enumerate(self.cross.sizes) if t != lead]
        big = sum(size > 64 for size in trailing)
        units = sum(size for size in trailing if size <= 64)
        return self.settings.probes * big + self.settings.vectors * (big > 0) + units

    def _inner(self, lead: int) -> int:
        pairs = self.cross.pairs.items()
        return sum(p.data.size * (1 + (s != t)) for (s, t), p in pairs if lead not in (s, t))

    def _seconds(self, nnz: int, lead: int, its: tuple[float, ...]) -> float:
        r, columns = self.cross.basis.rank + 1, self._columns(lead)
        solved = columns * (its[0] + 1.0) + r * its[1] / 2.0 + self.steps * its[2]
        solved += 3.0 * self.settings.vectors
        n = self.cross.q - self.cross.sizes[lead][0] * self.cross.sizes[lead][1]
        per = PER_PRODUCT * (nnz + self._inner(lead)) + PER_NUMBER * n
        return float(solved * per)

    def _memory(self, nnz: int, lead: int) -> int:
        k, l = self.cross.sizes[lead]
        n, columns = self.cross.q - k * l, self._columns(lead)
        couplings = 3 * 8 * nnz + 4 * nnz // max(k, 1)
        vectors = 8 * (12 * n * columns + 3 * l * k * columns + 6 * self.cross.q)
        solved = 8 * 8 * self.cross.q * (self.cross.basis.rank + 1 + self.steps)
        return int(couplings + 36 * self._inner(lead) + vectors + solved)
