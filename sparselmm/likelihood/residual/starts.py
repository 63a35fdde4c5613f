"""Where a search of phi starts: moments of least-squares residuals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.design.residual import POSITIONS, ResidualRows
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.residual.structure import Structure, Structured
from sparselmm.likelihood.starting_points import random_starts

STEPS = 8
"""Scoring steps of the variance regression."""

LONG, MANY, CLEAR = 8, 500, 0.1
"""Far lag, pairs and share of the variance from which lags tell of the correlation."""

SIZES = (0, -1, 1)
"""Sizes of random effects at random starts, as powers of ten."""

LAGS, MOST_PAIRS, FEW_PAIRS = 6, 20_000, 20
"""Places in time, pairs at each of them, and pairs in all, from which ranges are read."""

SLACK = 0.5
"""By how much moments of correlations may exceed one."""

SHARES = 0.03, 0.8
"""Nuggets at the start are within these."""

LARGEST = 0.9
"""Correlations at the start are within this."""


def start_phi(
    structure: Structured, residual: FloatArray, weights: FloatArray | None, effects: str
) -> FloatArray:
    """Start values of phi, (n,).

    Parameters
    ----------
    residual : ndarray, (n,)
        Of least squares.
    weights : ndarray, (n,), or None
    effects : str
        Random effects that explain part of the correlation: "none", "intercepts" or "slopes".
    """
    mixed, correlation = effects != "none", structure.correlation
    w = np.ones(len(residual)) if weights is None else weights
    z = residual * np.sqrt(w)
    gamma = _log_variances(structure.rows, z)
    z = z * np.exp(-structure.rows.D @ gamma)
    z = z / np.sqrt(_mean_square(structure.rows, z))
    kind, psi = correlation.kind, correlation.start()
    if (kind in POSITIONS and not mixed) or (correlation.nugget and effects != "slopes"):
        return np.append(gamma, _by_distance(structure, z, mixed))
    if kind in ("ar1", "cs", "toep", "ad") and not mixed:
        psi = _correlations(structure, z, psi)
    elif kind == "ar1":
        rho = _beside_effects(structure.rows, z)
        psi[0] = psi[0] if rho is None else correlation.angle(rho)
    return np.concatenate([gamma, np.tile(psi, structure.n_strata)])


def further_starts(
    structure: Structure, covariance: Covariance, roots: list[FloatArray], units: FloatArray,
    end: FloatArray, drawn: int | None,
) -> Iterator[FloatArray]:  # fmt: skip
    """Where further searches of (theta, phi) start.

    Parameters
    ----------
    structure : Structure
    covariance : Covariance
        Of theta.
    roots : list of ndarray
        What counts as one in every term.
    units : ndarray, (n_theta + J,)
        In every entry.
    end : ndarray
        Where the first search ended.
    drawn : int or None
        Random starts after those that have a reason; None for no end of them.

    Yields
    ------
    ndarray, (n_theta + J,)
    """
    n = covariance.n_theta
    theta, phi = end[:n], end[n:]
    one, none = (covariance.pick([s * root for root in roots]) for s in (1.0, 0.1))
    small = covariance.on_diagonal & (np.abs(theta) < 0.3 * np.abs(one))
    lifted = np.where(small, 0.3 * one, theta)
    others = structure.others(phi)
    for place in others:
        yield np.append(lifted, place)
    for place in others[:3:2] if n else []:
        yield np.append(one, place)
        yield np.append(none, place)
    for place in structure.near_limits(phi):
        for effects in (one, lifted) if n else (theta,):
            yield np.append(effects, place)
    for place in structure.near_limits(structure.start()):
        yield np.append(one, place)
    rng = np.random.default_rng(0)
    for wide in random_starts(covariance, units[:n], drawn, decades=SIZES):
        yield np.append(wide, structure.drawn(phi, rng))


def _mean_square(rows: ResidualRows, z: FloatArray) -> float:
    return float(z @ z / rows.n_rows)


def _log_variances(rows: ResidualRows, z: FloatArray) -> FloatArray:
    """Gamma of ``log Var(z) = c + 2 D gamma`` for independent normal z, by Fisher scoring."""
    D, counts = rows.D, rows.counts
    a = D.shape[1]
    if not a or not (z != 0).any():
        return np.zeros(a)
    X = np.column_stack([np.ones(len(z)), D])
    c = np.zeros(a + 1)
    c[0] = np.log(_mean_square(rows, z))
    for _ in range(STEPS):
        share = z**2 * np.exp(-np.clip(X @ c, -300.0, 300.0))
        step = np.linalg.lstsq(X.T @ (counts[:, None] * X), X.T @ (share - counts), rcond=None)[0]
        largest = float(np.abs(X @ step).max())
        c += step * min(1.0, 2.0 / largest if largest > 0 else 1.0)
    return np.asarray(0.5 * c[1:])


def _correlations(structure: Structured, z: FloatArray, psi: FloatArray) -> FloatArray:
    """Psi from mean products of standardized residuals at each pair of visits or lag."""
    rows, kind, out = structure.rows, structure.correlation.kind, psi.copy()
    if kind == "ar1":
        r, n = _lagged(rows, z)
        if n:
            out[0] = structure.correlation.angle(float(np.clip(r, -LARGEST, LARGEST)))
        return out
    S, N = _pairwise(rows, z)
    if kind == "cs":
        off = ~np.eye(len(S), dtype=bool)
        r = float(S[off].sum() / max(N[off].sum(), 1.0))
        low = structure.correlation.lowest
        share = np.clip((r - low) / (1.0 - low), 0.02, 0.95)
        out[0] = np.log(share / (1.0 - share))
    elif kind == "ad":
        mean = np.diag(S, 1) / np.maximum(np.diag(N, 1), 1.0)
        out[: len(mean)] = np.arcsin(np.clip(mean, -LARGEST, LARGEST))
    else:
        lags = range(1, len(S))
        lagged = [np.trace(S, k) / max(float(np.trace(N, k)), 1.0) for k in lags]
        out[: len(lagged)] = np.arcsin(_partial(np.array(lagged)))
    return out


def _lagged(rows: ResidualRows, z: FloatArray, lag: int = 1) -> tuple[float, int]:
    """Mean product of rows so many steps, typical ones, apart."""
    o, far = rows.order, lag * rows.typical_distance
    group, time = rows.group[o], rows.coords[o, 0]
    near = (group[lag:] == group[:-lag]) & (time[lag:] - time[:-lag] == far)
    at = np.flatnonzero(near)
    n = round(float(rows.counts[o[at]].sum()))
    return (float(z[o[at]] @ z[o[at + lag]] / n) if n else 0.0), n


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of rows of one group: their distances, products of residuals, rows that each is."""

    distance: FloatArray
    product: FloatArray
    count: FloatArray

    @staticmethod
    def of(rows: ResidualRows, z: FloatArray, stratum: int) -> _Pairs:
        """Of rows up to `LAGS` places apart."""
        o = rows.order
        o = o[rows.stratum[o] == stratum]
        found = []
        for lag in range(1, min(LAGS, rows.largest - 1) + 1):
            at = np.flatnonzero(rows.group[o[lag:]] == rows.group[o[:-lag]])
            at = at[:: max(len(at) // MOST_PAIRS, 1)]
            i, j = o[at], o[at + lag]
            far = np.sqrt(((rows.coords[i] - rows.coords[j]) ** 2).sum(axis=1))
            found.append([far, z[i] * z[j] / rows.counts[i], rows.counts[i]])
        return _Pairs(*np.hstack([np.zeros((3, 0)), *found]))

    def fitted(self, shape: FloatArray, nugget: bool, mixed: bool) -> tuple[float, float, float]:
        """Least squares of ``a + b shape``: a, b and the sum of squares.

        Without random effects a is zero, without these or a nugget b is one.
        """
        w, best = self.count, (0.0, 1.0, np.inf)
        size = float(w @ (shape * self.product) / (w @ shape**2)) if nugget or mixed else 1.0
        tries = [(0.0, size)]
        if mixed:
            level, flat = float(w @ self.product / w.sum()), float(w @ shape / w.sum())
            tries.append((max(level, 0.0), 0.0))
            if (spread := float(w @ (shape - flat) ** 2)) > 1e-12 * w.sum():
                slope = float(w @ ((shape - flat) * self.product)) / spread
                tries.append((level - slope * flat, slope))
        for a, b in tries:
            if not (a >= 0.0 and b >= 0.0 and a + b <= 1.0 + SLACK):
                continue
            left = float(w @ (self.product - a - b * shape) ** 2)
            if left < best[2]:
                best = a, b, left
        return best


def _by_distance(structure: Structured, z: FloatArray, mixed: bool) -> FloatArray:
    """Psi of all strata from the mean products of residuals by distance.

    With c the correlation they are ``a + b c(distance)``: a is what random effects add to all, and
    what b leaves of ``1 - a`` is the nugget. The range is the best of those that
    the correlation names.
    """
    out = []
    for s in range(structure.n_strata):
        pairs, psi = _Pairs.of(structure.rows, z, s), structure.correlation.start()
        best = np.inf
        for own in structure.correlation.ranges() if len(pairs.count) > FEW_PAIRS else []:
            shape = structure.correlation.along(own, pairs.distance)
            a, b, left = pairs.fitted(shape, structure.correlation.nugget, mixed)
            if left < best:
                best, psi[0] = left, own
                share = np.clip(1.0 - b / max(1.0 - a, 1e-3), *SHARES)
                psi[1:] = np.arcsin(np.sqrt(share))
        out.append(psi)
    return np.concatenate(out)


def _beside_effects(rows: ResidualRows, z: FloatArray) -> float | None:
    """Correlation of neighbours when random effects add as much to all lags.

    ``r_k = a + b rho^k``: a is what is left at a far lag, and rho the share of ``r_1 - a`` that is
    left at the second lag. None where the data are few or the share cannot be told.
    """
    far = rows.largest // 2
    if far < LONG:
        return None
    (first, n), (second, m), (last, k) = (_lagged(rows, z, lag) for lag in (1, 2, far))
    if min(n, m, k) < MANY or first - last < CLEAR * _mean_square(rows, z):
        return None
    return float(np.clip((second - last) / (first - last), 0.05, LARGEST))


def _pairwise(rows: ResidualRows, z: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sums and numbers of the products of any two visits of a group, (T, T)."""
    T, n = rows.n_visits, int(rows.group.max()) + 1
    place = rows.visits
    if rows.kind == "cs":  # any order will do
        o = rows.order
        first = np.concatenate([[0], np.flatnonzero(np.diff(rows.group[o])) + 1])
        rank = np.arange(len(o)) - np.repeat(first, np.diff(np.append(first, len(o))))
        place = np.empty(len(o), dtype=np.int64)
        place[o] = rank
        T = rows.largest
    wide, seen = np.zeros((n, T)), np.zeros((n, T))
    wide[rows.group, place], seen[rows.group, place] = z, np.sqrt(rows.counts)
    return wide.T @ wide, seen.T @ seen


def _partial(r: FloatArray) -> FloatArray:
    """Partial correlations of a sequence of correlations, kept within `LARGEST`."""
    out, a, v, full = [], np.zeros(0), 1.0, np.append(1.0, r)
    for k in range(1, len(full)):
        p = (full[k] - a @ full[k - 1 : 0 : -1][: len(a)]) / v if v > 0 else 0.0
        p = float(np.clip(p, -LARGEST, LARGEST))
        a = np.append(a - p * a[::-1], p)
        v *= 1.0 - p * p
        out.append(p)
    return np.array(out)
