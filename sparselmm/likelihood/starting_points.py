"""Where to search again: starts with a reason, then random ones.

Which minimum a search finds is mostly a matter of the size it starts from, the same for all terms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice, product

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.evaluations import Deviance
from sparselmm.likelihood.zeros import PROBE, RESTART

CORRELATED = 0.95
"""Correlation of a start whose covariance is nearly singular."""

MOST_SIGNS = 4
"""Combinations of signs of correlations that are tried."""

MOST_SCALES = 12
"""Scales of a patterned covariance up to which a way out of zero is looked for."""

SMALLER = 10
"""Scales next to another that are tried on a way out of zero, each a quarter of the one before."""

CONE_STEPS = 100
"""Projected gradient steps to the lowest direction of a form over non-negative vectors."""

DECADES = (2, -1, 3, 0, 1, 4)
"""Sizes of random starts, as powers of ten: they decide most of which minimum a search finds."""

SPREAD = 0.3
"""Standard deviation of their entries about that, in powers of ten."""

DRAWN = 2 * len(DECADES)
"""Random starts of the default policy, after those that have a reason."""


def starting_points(
    deviance: Deviance, end: FloatArray, drawn: int | None = DRAWN
) -> Iterator[FloatArray]:
    """Thetas to start from again, the most promising ones first.

    Parameters
    ----------
    end : ndarray, (n_theta,)
        Where the first search ended.
    drawn : int or None
        Random starts at the end, with a seed of their own; None for no end of them.

    Yields
    ------
    ndarray, (n_theta,)
    """
    covariance, roots = deviance.covariance, deviance.unit_roots
    yield _units(covariance, roots, [10.0] * len(roots))
    yield _units(covariance, roots, [1.0] * len(roots))
    yield from _one_large(covariance, roots)
    if any(term.k > 1 and not term.is_diagonal for term in covariance.terms):
        yield from _correlated(covariance, roots, end)
    yield from _angles(deviance, end)
    yield from _one_small(deviance)
    yield from random_starts(covariance, deviance.units, drawn)


def _units(
    covariance: Covariance, roots: list[FloatArray], sizes: list[float]
) -> FloatArray:  # fmt: skip
    """Theta with every term at so many times what counts as one."""
    return covariance.pick([size * root for size, root in zip(sizes, roots, strict=True)])


def _one_large(covariance: Covariance, roots: list[FloatArray]) -> Iterator[FloatArray]:
    """One term explains it all; with more than two terms also all but one."""
    n = len(roots)
    for t in range(n if n > 1 else 0):
        yield _units(covariance, roots, [4.0 if s == t else 0.05 for s in range(n)])
        if n > 2:
            yield _units(covariance, roots, [0.05 if s == t else 4.0 for s in range(n)])


def _correlated(
    covariance: Covariance, roots: list[FloatArray], end: FloatArray
) -> Iterator[FloatArray]:
    """The end without its correlations, and with those near one of every combination of signs."""
    sizes = [
        np.sqrt(np.diag(lam @ lam.T) + 0.01 * np.diag(unit @ unit.T))
        for lam, unit in zip(covariance.factors(end), roots, strict=True)
    ]
    yield covariance.pick([np.diag(size) for size in sizes])
    ones = [np.sqrt(np.diag(unit @ unit.T)) for unit in roots]
    most = max(len(size) for size in sizes)
    for signs in islice(product((1.0, -1.0), repeat=most - 1), MOST_SIGNS):
        s = np.array([1.0, *signs])
        yield covariance.pick([_nearly_one(size * s[: len(size)]) for size in sizes])
        for j in range(most if most == 2 else 0):  # one coefficient varies most
            large = np.where(np.arange(most) == j, 10.0, 1.0) * s
            yield covariance.pick([_nearly_one(one * large[: len(one)]) for one in ones])


def _nearly_one(v: FloatArray) -> FloatArray:
    """Root of a covariance with standard deviations ``|v|`` and correlations nearly one."""
    Psi = CORRELATED * np.outer(v, v) + (1.0 - CORRELATED) * np.diag(v**2)
    return np.asarray(np.linalg.cholesky(Psi))


def _angles(deviance: Deviance, end: FloatArray) -> Iterator[FloatArray]:
    """Correlations of patterned covariances far from where they ended."""
    covariance = deviance.covariance
    angles = covariance.angles
    if not angles.any():
        return
    wide = _units(covariance, deviance.unit_roots, [1.0] * len(covariance.terms))
    for phi in (1.4, 0.15, 0.8, -0.8):
        yield np.where(angles, phi, np.maximum(end, 0.3 * deviance.units))
        if phi in (1.4, -0.8):
            yield np.where(angles, phi, wide)


def out_of_zero(deviance: Deviance, end: FloatArray) -> Iterator[FloatArray]:
    """Starts where the deviance falls from an end at which standard deviations are zero.

    Of covariances with one angle for all correlations: with at most one other standard deviation
    the angle means nothing there, and the end is where it is for one of its values only.
    """
    covariance = deviance.covariance
    for part in covariance.slices:
        angles = covariance.angles[part]
        scales = part.start + np.flatnonzero(~angles)
        if not angles.any() or not 1 < len(scales) <= MOST_SCALES:
            continue
        others = int(np.count_nonzero(end[scales]))
        if others == 0:
            yield from _all_scales(deviance, end, part)
        elif others == 1:
            yield from _other_scales(deviance, end, part)


def _all_scales(deviance: Deviance, end: FloatArray, part: slice) -> Iterator[FloatArray]:
    """Out of all at zero, with all together.

    With correlations of one, ``Psi = s s'``, the deviance changes by ``s'Gs`` for small scales ``s
    >= 0``, G half its derivative in Psi. Every diagonal entry of G may be positive and yet not the
    form.
    """
    angles, units = deviance.covariance.angles[part], deviance.units
    scales = part.start + np.flatnonzero(~angles)
    at = end.copy()
    at[part] = np.where(angles, 0.5 * np.pi, 0.0)
    G = np.zeros((len(scales), len(scales)))
    for row, i in zip(G, scales, strict=True):
        probe = at.copy()
        probe[i] = PROBE * units[i]
        row[:] = deviance.gradient(probe)[scales] * units[scales]
    G = 0.5 * (G + G.T)
    values, vectors = np.linalg.eigh(G)
    s, step = np.abs(vectors[:, 0]), 0.5 / (np.abs(values).max() or 1.0)
    for _ in range(CONE_STEPS):  # half of what could reach zero
        s = np.maximum(s - step * (G @ s), 0.0)
        s /= np.linalg.norm(s)
    if s @ G @ s < 0.0:
        at[scales] = RESTART * units[scales] * s
        yield at


def _other_scales(deviance: Deviance, end: FloatArray, part: slice) -> Iterator[FloatArray]:
    """Out of zero next to one other, with correlations at one end of their range and the other.

    A small s changes the deviance by ``2 r s s_1 G_1`` of first order, r the correlation: unless
    ``G_1`` is zero, it falls for one sign of r. How far is read off at smaller and smaller s.
    """
    angles, units = deviance.covariance.angles[part], deviance.units
    zeros = part.start + np.flatnonzero(~angles & (end[part] == 0.0))
    for phi in (-0.5 * np.pi, 0.0, 0.5 * np.pi):
        at = end.copy()
        at[part] = np.where(angles, phi, end[part])
        falls = zeros[deviance.gradient(at)[zeros] < 0.0]
        if not len(falls):
            continue
        best, lowest = at, deviance.value(at)
        for j in range(SMALLER):
            trial = at.copy()
            trial[falls] = RESTART * 0.25**j * units[falls]
            if (value := deviance.value(trial)) < lowest:
                best, lowest = trial, value
        if best is not at:
            yield best


def _one_small(deviance: Deviance) -> Iterator[FloatArray]:
    """One standard deviation is next to nothing."""
    covariance = deviance.covariance
    diagonal = np.flatnonzero(covariance.on_diagonal)
    base = _units(covariance, deviance.unit_roots, [1.0] * len(covariance.terms))
    for i in diagonal if 1 < len(diagonal) <= 6 else []:
        yield np.where(np.arange(len(base)) == i, 0.02 * deviance.units, base)


def random_starts(
    covariance: Covariance, units: FloatArray, number: int | None,
    decades: Sequence[int] = DECADES,
) -> Iterator[FloatArray]:  # fmt: skip
    """Random covariances of one size after the other, with a seed of their own.

    Parameters
    ----------
    covariance : Covariance
    units : ndarray, (n_theta,)
    number : int or None
        How many; None for no end of them.
    decades : sequence of int
        Sizes as powers of ten of what counts as one.

    Yields
    ------
    ndarray, (n_theta,)
    """
    rng = np.random.default_rng(0)
    for place in count() if number is None else range(number):
        decade = decades[place % len(decades)]
        size = 10.0 ** (decade + SPREAD * rng.normal(size=len(units)))
        theta = np.where(covariance.on_diagonal, size, size * rng.normal(size=len(units))) * units
        turned = rng.uniform(-1.5, 1.5, len(units))
        yield covariance.rectify(np.where(covariance.angles, turned, theta))
