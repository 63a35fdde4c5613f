"""Distribution of the ranks of random effects: intervals and probabilities of the first places.

Ranks of up to 5,000 levels are drawn. Of more, given that level i has the effect x, the number of
levels below it is a sum of independent events with probabilities ``Phi((x - b_j) / s_j)``; its mean
and variance are functions of x alone, computed once on a grid, and the number is close to normal
(Laird & Louis 1989, *J. Educ. Stat.* 14, 29-46; Goldstein & Spiegelhalter 1996, *J. R. Stat. Soc.
A* 159, 385-443).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from sparselmm.base.types import FloatArray

GRID = 2**14
"""Points at which the number of levels below is known."""

DIRECT = 50_000_000
"""Most pairs of point and level that are computed one by one."""

NODES = 31
"""Gauss-Hermite nodes for the effect of a level itself."""

HALVINGS = 30

CLASSES = 24
"""Classes of standard errors, geometric, where levels are many."""

MOST_DRAWS = 20_000
NUMBERS = 20_000_000
"""Most effects drawn: as many draws as that makes, from 500 to 20,000."""

PRODUCTS = 20_000_000_000
"""Most multiplications for draws with a joint covariance."""

DRAWN = 5_000
"""Most levels whose ranks are drawn; of more, numbers are normal to about 0.01."""


@dataclass(frozen=True, eq=False)
class RankDistribution:
    """Quantiles and probabilities of ranks, 1 the lowest.

    Attributes
    ----------
    lower, upper : ndarray, (l,)
        Ends of the intervals.
    top : ndarray, (l,), or None
        Probability of a rank among the first k, or of the last k.
    """

    lower: FloatArray
    upper: FloatArray
    top: FloatArray | None


def joint(
    b: FloatArray, cov: FloatArray, alpha: float, top: int | None, descending: bool, seed: int
) -> RankDistribution:
    """From draws of the joint distribution of all levels.

    Parameters
    ----------
    b : ndarray, (l,)
    cov : ndarray, (l, l)
        Covariance of ``b_hat - b``.
    top : int or None
        Number of places.
    descending : bool
        Whether the highest effect comes first.
    """
    values, vectors = np.linalg.eigh(cov)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    draws = _draws(len(b), seed, PRODUCTS // max(len(b), 1) ** 2) @ root.T
    return _drawn(b + draws, alpha, top, descending)


def _draws(l: int, seed: int, most: int = MOST_DRAWS) -> FloatArray:
    n = int(np.clip(min(NUMBERS // max(l, 1), most), 500, MOST_DRAWS))
    return np.random.default_rng(seed).standard_normal((n, l))


def _drawn(draws: FloatArray, alpha: float, top: int | None, descending: bool) -> RankDistribution:
    n, l = draws.shape
    order = np.argsort(-draws if descending else draws, axis=1, kind="stable")
    ranks = np.empty((n, l))
    np.put_along_axis(ranks, order, np.arange(1.0, l + 1.0)[None, :], axis=1)
    ends = np.quantile(ranks, [0.5 * alpha, 1.0 - 0.5 * alpha], axis=0, method="inverted_cdf")
    return RankDistribution(ends[0], ends[1], None if top is None else (ranks <= top).mean(axis=0))


def marginal(
    b: FloatArray, v: FloatArray, alpha: float, top: int | None, descending: bool, seed: int
) -> RankDistribution:
    """From variances alone, levels taken as independent.

    Parameters
    ----------
    b, v : ndarray, (l,)
        Predictions and their error variances.
    alpha, top, descending, seed
        As of :func:`joint`.
    """
    s = np.sqrt(np.maximum(v, 0.0))
    if len(b) <= DRAWN:
        return _drawn(b + s * _draws(len(b), seed), alpha, top, descending)
    b = -b if descending else b
    x, mean, variance = _below(b, s)
    t, weight = np.polynomial.hermite_e.hermegauss(NODES)
    weight = weight / weight.sum()
    own = scipy.special.ndtr(t)  # of the level itself, which is not among the others
    at = b[:, None] + s[:, None] * t
    below = np.interp(at, x, mean) - np.where(s[:, None] > 0, own, 0.5)
    spread = np.sqrt(
        np.maximum(
            np.interp(at, x, variance) - np.where(s[:, None] > 0, own * (1 - own), 0.25), 1e-12
        )
    )

    def distribution(rank: FloatArray) -> FloatArray:
        return np.asarray(scipy.special.ndtr((rank[:, None] - 0.5 - below) / spread) @ weight)

    ends = [_quantile(distribution, p, len(b)) for p in (0.5 * alpha, 1.0 - 0.5 * alpha)]
    first = None if top is None else distribution(np.full(len(b), float(top)))
    return RankDistribution(ends[0], ends[1], first)


def _quantile(distribution, p: float, l: int) -> FloatArray:  # type: ignore[no-untyped-def]
    """Least whole rank whose distribution function reaches p, (l,)."""
    low, high = np.zeros(l), np.full(l, float(l))
    for _ in range(HALVINGS):
        if (high - low <= 1.0).all():
            break
        middle = np.floor(0.5 * (low + high))
        reached = distribution(middle) >= p
        high, low = np.where(reached, middle, high), np.where(reached, low, middle)
    return np.maximum(high, 1.0)


def _below(b: FloatArray, s: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Points x with mean and variance of the number of levels below each."""
    reach = 9.0 * float(s.max()) + 1e-12 + 1e-9 * float(np.ptp(b))
    low, high = float(b.min()) - reach, float(b.max()) + reach
    points = GRID if len(b) > DIRECT // GRID else max(2048, min(GRID, DIRECT // max(len(b), 1)))
    x = np.linspace(low, high, points)
    mean, variance = np.zeros(points), np.zeros(points)
    if len(b) * points <= DIRECT:
        for one, sd in zip(b, s, strict=True):
            p = scipy.special.ndtr((x - one) / sd) if sd > 0 else 0.5 * (1 + np.sign(x - one))
            mean += p
            variance += p * (1.0 - p)
        return x, mean, variance
    step = x[1] - x[0]
    floor = max(float(s.min()), float(s.max()) * 1e-4, 0.5 * step)
    classes = np.geomspace(floor, max(float(s.max()), floor) * (1 + 1e-12), CLASSES)
    place = np.clip(np.searchsorted(classes, s), 0, CLASSES - 1)
    lags = (np.arange(2 * points - 1) - (points - 1)) * step
    for j in np.unique(place):
        inside = place == j
        left = (b[inside] - low) / step
        index = np.floor(left).astype(np.int64)
        share = left - index
        mass = np.bincount(index, 1.0 - share, points) + np.bincount(
            np.minimum(index + 1, points - 1), share, points
        )
        sd = max(float(np.sqrt(np.mean(s[inside] ** 2))), 1e-300)
        p = scipy.special.ndtr(lags / sd)
        mean += scipy.signal.fftconvolve(mass, p, mode="full")[points - 1 : 2 * points - 1]
        variance += scipy.signal.fftconvolve(mass, p * (1 - p), "full")[points - 1 : 2 * points - 1]
    return x, mean, np.maximum(variance, 0.0)
