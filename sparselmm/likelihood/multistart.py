"""When one search is not enough: searches from other starts, and what their ends say.

The deviance of a mixed model can have several local minima: few rows or levels, covariates that are
constant within groups, patterned covariances, variances of which one can stand in for another. A
local minimum looks like any other from inside, so that only other starts can tell. They are made
where the first search leaves doubt (`doubtful`) and cost no more than predicted time allows
(`allowance`). A search is abandoned as soon as it is on its way to an end that is known, or to one
that is higher (`Optima.leads_nowhere`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.smallmatrix import singular_values, solve_triangular
from sparselmm.base.types import FloatArray
from sparselmm.likelihood.evaluations import Deviance, Joint
from sparselmm.likelihood.optimize import (
    EXACT_LIMIT,
    PATIENCE,
    TOLERANCE,
    End,
    Search,
    checked_start,
)
from sparselmm.likelihood.record import (
    SMALLEST_SCALE,
    Callback,
    OptSummary,
    in_original,
    lost,
    reproducing,
)
from sparselmm.likelihood.starting_points import DRAWN, out_of_zero, starting_points

LIMIT = 40
"""Iterations of a search from another start."""

MANY = 20
"""Evaluations after which a search leaves doubt whatever the model costs."""

FEW_ROWS = 150
"""Rows, less fixed effects, up to which the deviance is often far from quadratic."""

FAR = 1e4
"""Standard deviation of a random effect, in those of the residuals, from which the search is not
repeated where digits are lost."""

FEW_LEVELS = 6
"""Levels of a grouping factor up to which it is, too."""

NEARLY_SINGULAR = 1e-2
"""Singular value of a ``lambda_t``, in units of what counts as one, below which an end is one at
the boundary."""

SECONDS = 0.2
"""Predicted time that searches from other starts may take in any case."""

SHARE = 1.0
"""Share of the evaluations of the first search that they may take, where these cost more."""

GAIN = 1e-7
"""Decrease of the deviance by which another end is better."""

NEAR = 1.0
"""Distance of covariances, relative to themselves, and of deviances within which a search is on its
way to the other end."""

HOPELESS = 0.01
"""Share of the distance to the best deviance that another step must promise at a higher one."""


def minimize_globally(
    deviance: Deviance, start: FloatArray, *, seconds: float,
    starts: int | FloatArray | None = None, method: str | None = None,
    max_iterations: int | None = None, tolerance: float = TOLERANCE,
    callback: Callback | None = None, **options: Any,
) -> OptSummary:  # fmt: skip
    """Minimize the deviance over theta, from several starts where one leaves doubt.

    Parameters
    ----------
    start : ndarray, (n_theta,)
        Where the first search starts.
    seconds : float
        Predicted time of one evaluation.
    starts : int or ndarray (m, n_theta), optional
        Number of searches, or starts of those after the first one; None for as many as needed.
    method, max_iterations, tolerance, callback, options
        As in `minimize`.

    Returns
    -------
    OptSummary
        Of the best end.
    """
    start = checked_start(deviance.covariance, start)
    inner, at = deviance.working(start)
    if inner is not deviance:  # the search takes place where the engine works
        if isinstance(starts, np.ndarray) and starts.shape[1:] == start.shape:
            starts = np.array([deviance.working(row)[1] for row in starts])
        found = minimize_globally(
            inner, at, seconds=seconds, starts=starts, method=method,
            max_iterations=max_iterations, tolerance=tolerance, callback=callback, **options,
        )  # fmt: skip
        return in_original(deviance, inner, found)
    search = Search.of(deviance, method, max_iterations, tolerance, callback, options)
    on_request = starts is not None
    free = search.method == "newton" and max_iterations is None and not deviance.model_is_exact
    if not on_request and not free:
        return search.certified(search.run(start))
    first = search.run(start, limit=None if on_request else PATIENCE + EXACT_LIMIT)
    optima = Optima(search, first)
    if on_request:
        _all(optima, _requested(deviance, first.theta, starts))
    elif doubtful(search, first, seconds):
        _until_sure(optima, seconds)
    if not on_request and not optima.best.finished:
        optima.accept(search.run(optima.best.theta))
    return optima.summary()


def _all(optima: Optima, starts: Iterator[FloatArray]) -> None:
    """Search from every start to the end."""
    for start in starts:
        optima.search_from(start, in_full=True)


def _until_sure(optima: Optima, seconds: float) -> None:
    """Search from one start after the other while the price allows it."""
    search, deviance = optima.search, optima.deviance
    spent = len(search.recorder.history)
    if isinstance(deviance, Joint):
        seconds /= deviance.patience
    else:
        for start in out_of_zero(deviance, optima.best.theta):
            optima.search_from(start, in_full=True)  # the deviance falls there, however little
    left = spent + allowance(spent, seconds)
    sure = informative(deviance)
    for place, start in enumerate(_points(deviance, optima.best.theta, DRAWN)):
        if len(search.recorder.history) >= left or (sure and place == optima.returned == 2):
            return
        optima.search_from(start)


def allowance(evaluations: int, seconds: float) -> float:
    """Evaluations that other starts may take after a search that took so many."""
    return max(SHARE * evaluations, SECONDS / seconds)


def searched_again(seconds: float) -> bool:
    """Whether evaluations are so cheap that an ordinary end may leave doubt."""
    return SECONDS / seconds >= 5 * MANY


def doubtful(search: Search, end: End, seconds: float) -> bool:
    """Whether the deviance may have a lower minimum than the one a search found."""
    deviance, evaluations = search.recorder.deviance, len(search.recorder.history)
    if not len(end.theta):
        return False
    if reproducing(end.theta, deviance.units, FAR).any() and lost(deviance, end.theta):
        return False  # the likelihood rises without end, or centred rows must tell
    if not end.finished or evaluations > MANY:
        return True
    if isinstance(deviance, Joint):
        return deviance.doubtful(end.theta)
    if allowance(evaluations, seconds) < 5 * MANY:  # each evaluation is dear
        return False
    if _smallest(deviance, end.theta) < NEARLY_SINGULAR:
        return True
    return evaluations > 2 and (evaluations > MANY // 2 or deviance.df <= FEW_ROWS)


def informative(deviance: Deviance) -> bool:
    """Whether rows and levels are many and covariances plain: two returns are proof."""
    plain = not deviance.covariance.angles.any()
    return plain and deviance.df > FEW_ROWS and min(deviance.levels, default=0) > FEW_LEVELS


def _smallest(deviance: Deviance, theta: FloatArray) -> float:
    """Smallest singular value of a ``lambda_t`` in units of what counts as one."""
    pairs = zip(deviance.covariance.factors(theta), deviance.unit_roots, strict=True)
    sizes = [
        abs(lam[0, 0] / unit[0, 0])
        if len(lam) == 1
        else singular_values(solve_triangular(unit, lam, lower=True))[-1]
        for lam, unit in pairs
    ]
    return float(min(sizes, default=np.inf))


# --------------------------------------------------------------------------------- ends


@dataclass(frozen=True, eq=False)
class Place:
    """A theta and the deviance there."""

    theta: FloatArray
    value: float


class Optima:
    """The ends of searches, the best of them in front.

    Parameters
    ----------
    first : End
        Of the first search.
    """

    def __init__(self, search: Search, first: End):
        self.search = search
        self.returned = 0
        self._lower_in_noise = False
        self._places: list[Place] = []
        self.accept(first)
        self.n_starts = 1

    def accept(self, end: End) -> None:
        """Take an end as the best."""
        self.best, self.value = end, self.search.recorder.value(end.theta)
        self.noise = self.deviance.rounding(end.theta)
        self._seen(end.theta, self.value)

    def search_from(self, start: FloatArray, in_full: bool = False) -> None:
        """Search from another start, and take its end if it is better."""
        recorder = self.search.recorder
        recorder.search = self.n_starts
        self.n_starts += 1
        try:
            end = self.search.run(start, *(() if in_full else (self, LIMIT)))
            self._compare(end, recorder.value(end.theta))
        except (NotPositiveDefiniteError, np.linalg.LinAlgError):
            return  # a start from which the deviance cannot be computed leads nowhere

    def _compare(self, end: End, value: float) -> None:
        self._seen(end.theta, value)
        gain = self.value - value
        if end.abandoned or not gain > -GAIN:
            return
        if gain <= max(GAIN, 10.0 * self.search.tolerance):
            if end.finished and not self.best.finished:
                self.accept(end)
            return
        noise = self.deviance.rounding(end.theta)
        if gain < 10.0 * (noise + self.noise):
            return
        if noise > 1e-4:
            self._lower_in_noise = True
            return
        self.accept(end if end.finished else self.search.run(end.theta))

    def _seen(self, theta: FloatArray, value: float) -> None:
        if not any(self._same(place, theta, value) for place in self._places):
            self._places.append(Place(theta, value))

    def _same(self, place: Place, theta: FloatArray, value: float) -> bool:
        gap = abs(place.value - value)
        return gap < 1e-5 or (gap < NEAR and distance(self.deviance, place.theta, theta) < NEAR)

    @property
    def deviance(self) -> Deviance:
        """What is minimized."""
        return self.search.recorder.deviance

    def leads_nowhere(self, theta: FloatArray, value: float, promised: float) -> bool:
        """Whether a search at theta is on its way to the best end, or to a higher one."""
        above = value - self.value
        if not above > -GAIN:
            return False
        if above < NEAR and distance(self.deviance, self.best.theta, theta) < NEAR:
            self.returned += 1
            return True
        return promised < HOPELESS * above

    def summary(self) -> OptSummary:
        """The best end with its certificate."""
        end = self.best
        if self._lower_in_noise:
            why = (
                f"{end.message}; but the deviance is lower elsewhere, where it loses its digits: "
                "the likelihood is unbounded, or the criterion cannot be computed"
            )
            end = replace(end, message=why, finished=False)
        opt = self.search.certified(end)
        if self.n_starts == 1:
            return opt
        return replace(opt, n_starts=self.n_starts, n_optima=len(self._places))


def distance(deviance: Deviance, theta: FloatArray, other: FloatArray) -> float:
    """How far the covariances of ``other`` are from those of theta, relative to these."""
    covariance, total = deviance.covariance, 0.0
    for term, part, unit in zip(
        covariance.terms, covariance.slices, deviance.unit_roots, strict=True
    ):
        total += term.distance(theta[part], other[part], unit, SMALLEST_SCALE) ** 2
    return float(np.sqrt(total))


# ------------------------------------------------------------------------------- starts


def _requested(deviance: Deviance, theta: FloatArray, starts: Any) -> Iterator[FloatArray]:
    """Starts after the first one as `fit` was asked for them."""
    if not isinstance(starts, int):
        yield from starts
        return
    source = _points(deviance, theta, None)
    for _ in range(starts - 1):
        yield next(source)


def _points(deviance: Deviance, end: FloatArray, drawn: int | None) -> Iterator[FloatArray]:
    """Where to start again: a deviance with more than covariances of effects knows for itself."""
    if isinstance(deviance, Joint):
        return deviance.starting_points(end, drawn)
    return starting_points(deviance, end, drawn)
