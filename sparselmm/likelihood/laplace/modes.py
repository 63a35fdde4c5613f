"""The mode of the random effects, and the factor that belongs to it.

Newton's method on ``h(u) = -sum l + u'u / 2`` until half the squared decrement is below `CHORD`;
then steps with the same factor until it is below `EXACT`; near from the beginning, with the factor
of the point before where a new one is dear. Far away, where a Newton step goes beyond the mode or
falls short of it, every level takes what the third derivative makes of it. The deviance is of first
order in the error of u, through ``log det M``: stopping earlier would spoil its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.types import FloatArray
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.factorization import Factorization
from sparselmm.factor.pattern import Values
from sparselmm.factor.solver import apply_lambda
from sparselmm.likelihood.laplace.data import Passes
from sparselmm.likelihood.laplace.rows import Pair, RandomRows

CHORD = 1e-3
EXACT = 1e-18
"""Half squared decrements of the inner search."""

ALIKE = 1e-2
"""Share of half the squared decrement that a step with the factor of another point leaves."""

FAR = 1.0
"""Half the squared decrement from which on steps are bent."""

LEAST_SHARE = -0.7
"""Share of its curvature that a level loses along its step, as far as it is believed."""

MOST = 100
"""Newton steps to a mode."""


@dataclass(frozen=True, eq=False)
class Mode:
    """Where the integrand is highest.

    Attributes
    ----------
    u, b : ndarray, (q,)
        Spherical and original effects.
    h : float
        ``-sum l + u'u / 2`` without the constant.
    ldM : float
        ``log det M`` of the weights at the mode.
    products : ndarray, (q,)
        ``Z'g``.
    """

    u: FloatArray
    b: FloatArray
    h: float
    ldM: float
    products: FloatArray


class ModeFinder:
    """Finds modes; the solver then holds the factor at the last one.

    Attributes
    ----------
    near : float
        Half the squared decrement that is near enough; a search that is far from its end may ask
        for less than `EXACT`.
    reuses : bool
        Whether a factorization takes so long that the one of the last point is tried first.
    factored : bool
        Whether the solver holds one.
    n_factorizations, n_passes : int
        Work so far.
    """

    def __init__(
        self, passes: Passes, random: RandomRows, cross: CrossProducts,
        fills: dict[tuple[int, int], Pair], solver: Factorization, reuses: bool = False,
    ):  # fmt: skip
        self.passes, self.random, self.cross = passes, random, cross
        self.fills, self.solver = fills, solver
        self.near, self.reuses = EXACT, reuses
        self.factored = False
        self.n_factorizations = self.n_passes = 0

    def refill(self, w: FloatArray, floor: bool = False) -> Values:
        """New numbers of A, in the same places; of weights that are not negative if ``floor``."""
        for key, fill in self.fills.items():
            fill.fill(w, self.cross.values[key], floor)
        return {**self.cross.values}

    def factorize(self, lams: Sequence[FloatArray], floor: bool = False) -> float:
        """Factor M at the weights of the last pass, and return ``log det M``."""
        self.n_factorizations += 1
        self.factored = False
        ldM = self.solver.factorize(lams, self.refill(self.passes.w, floor))
        self.factored = True
        return ldM

    def find(
        self, lams: Sequence[FloatArray], fixed: FloatArray, phi: FloatArray, u: FloatArray
    ) -> Mode | None:
        """The mode at parameters, starting from u or else zero; None where there is none.

        Where the log-likelihood is not concave, a start may lead to a saddle.
        """
        search = _Newton(self, lams, fixed, phi)
        for begin in (u, np.zeros_like(u)) if u.any() else (u,):
            if not search.begin(begin):
                continue
            try:
                ldM = search.run()
            except NotPositiveDefiniteError:
                continue
            if ldM is not None:
                return Mode(search.u, search.b, search.h, ldM, self.passes.Zg)
        return None


class _Newton:
    """One search for a mode."""

    def __init__(
        self, finder: ModeFinder, lams: Sequence[FloatArray], fixed: FloatArray, phi: FloatArray
    ):
        self.finder, self.lams, self.fixed, self.phi = finder, lams, fixed, phi
        self.passes = finder.passes

    def _lambda(self, x: FloatArray, transpose: bool) -> FloatArray:
        return apply_lambda(self.finder.cross, self.lams, x[:, None], transpose)[:, 0]

    def begin(self, u: FloatArray) -> bool:
        """Stand at u; False where there is no likelihood."""
        self._stand(u, *self._at(u))
        return bool(np.isfinite(self.h))

    def _at(self, u: FloatArray) -> tuple[FloatArray, float]:
        b = self._lambda(u, False)
        self.finder.n_passes += 1
        return b, -self.passes.run(self.fixed, b, self.phi) + 0.5 * float(u @ u)

    def _stand(self, u: FloatArray, b: FloatArray, h: float) -> None:
        self.u, self.b, self.h = u, b, h

    def _direction(self) -> tuple[FloatArray, float]:
        """Step with the factor at hand, and half its squared decrement."""
        r = self._lambda(self.passes.Zg, True) - self.u
        step = self.finder.solver.solve(r[:, None])[:, 0]
        return step, 0.5 * float(r @ step)

    def run(self) -> float | None:
        """``log det M`` at the mode."""
        self._approach()
        for _ in range(MOST):
            ldM, exact = self._factorized()
            step, gain = self._direction()
            if not np.isfinite(gain):
                return None
            if gain < self.finder.near:
                return ldM if exact else self.finder.factorize(self.lams)
            if not self._take(step, gain):
                return self.finder.factorize(self.lams)
            if gain < CHORD and self._chord(gain, exact):
                return self.finder.factorize(self.lams)
        return None

    def _approach(self) -> None:
        """Steps with the factor of the last point, as long as that is all but the one here."""
        last = CHORD / ALIKE if self.finder.reuses and self.finder.factored else 0.0
        while last > 0.0:
            step, gain = self._direction()
            if not self.finder.near <= gain < ALIKE * last:
                return
            u, last = self.u + step, gain
            self._stand(u, *self._at(u))

    def _factorized(self) -> tuple[float, bool]:
        """``log det M``, and whether M is h's Hessian, which is to be positive definite."""
        concave = not self.passes.w.min(initial=0.0) < 0.0
        try:
            with np.errstate(invalid="ignore"):  # roots of what is not positive
                return self.finder.factorize(self.lams), True
        except NotPositiveDefiniteError:
            if concave:
                raise
            return self.finder.factorize(self.lams, floor=True), False

    def _take(self, step: FloatArray, gain: float) -> bool:
        """A step, halved until h falls; False where it cannot fall beyond rounding."""
        if gain > FAR and self._falls(self.u + self._bent(step)):
            return True
        a = 1.0
        while not self._falls(self.u + a * step):
            a *= 0.5
            if a < 1e-8:
                self._stand(self.u, *self._at(self.u))
                return False
        return True

    def _falls(self, u: FloatArray) -> bool:
        """Stand at u if h is no higher there."""
        b, h = self._at(u)
        if h <= self.h + 1e-9 * (1.0 + abs(self.h)):
            self._stand(u, b, h)
            return True
        return False

    def _bent(self, step: FloatArray) -> FloatArray:
        """The step as long, at every level, as its third derivative says.

        With curvature D along a step of a level and a D its slope, the curvature is taken to grow
        like ``D exp(a t)``: then the minimum is at ``t = log(1 + a) / a``, as for counts it is.
        """
        random, cross, out = self.finder.random, self.finder.cross, step.copy()
        b = self._lambda(step, False)
        for t, (part, (k, l)) in enumerate(zip(cross.slices, cross.sizes, strict=True)):
            cubes, pair = random.cubes(self.passes.dw, t, b[part]), cross.pairs[t, t]
            if cubes is None or not pair.is_block_diagonal:
                continue
            own, moved = step[part].reshape(l, k), b[part].reshape(l, k)
            D = np.einsum("la,lab,lb->l", moved, pair.data, moved) + (own**2).sum(axis=1)
            a = np.maximum(cubes / np.where(D > 0.0, D, np.inf), LEAST_SHARE)
            small = np.abs(a) < 1e-6
            share = np.where(small, 1.0, np.log1p(a) / np.where(small, 1.0, a))
            out[part] = (own * share[:, None]).ravel()
        return out

    def _chord(self, last: float, exact: bool) -> bool:
        """Steps with the same factor; whether they reached the mode to rounding."""
        for _ in range(8 if exact else 3):
            step, gain = self._direction()
            if gain < self.finder.near:
                return True
            if not gain < 0.1 * last:
                return False
            last = gain
            u = self.u + step
            self._stand(u, *self._at(u))
        return last < 1e-17
