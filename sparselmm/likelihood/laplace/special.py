"""Rising factorials on the scale of the logarithm, with three derivatives.

    R(y, k) = log Gamma(y + k) - log Gamma(k) - y log k = sum_(j < y) log(1 + j / k)

is what overdispersion adds to the logarithm of a count's probability; it vanishes as k grows.
Differences of gamma functions lose all digits there, so that the sum is taken as it stands for
small counts and Stirling's series by ``log1p`` for large ones.
"""

from __future__ import annotations

import numpy as np
import scipy.special as ss

from sparselmm.base.kernels_families import polygammas, rising_sums
from sparselmm.base.types import FloatArray

SUMMED = 40
"""Counts up to which the sum is taken term by term."""

MANY = 2000
"""Rows from which a compiled loop takes the sums."""

SHIFT = 10.0
"""Argument from which Stirling's series has full accuracy."""

_SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


TABULATED = 10_000
"""Numbers below which the logarithms of their factorials are looked up, where rows are many."""


def log_factorials(y: FloatArray) -> FloatArray:
    """``log Gamma(y + 1)`` of counts, whole or not."""
    if len(y) >= MANY and y.min() >= 0.0 and y.max() < TABULATED:
        whole = y.astype(np.intp)
        if np.array_equal(whole, y):
            return np.asarray(ss.gammaln(np.arange(1.0, whole.max() + 2.0))[whole])
    return np.asarray(ss.gammaln(y + 1))


def rising(y: FloatArray, k: FloatArray) -> tuple[FloatArray, ...]:
    """R and its first three derivatives in ``log k``, each (n,).

    Parameters
    ----------
    y : ndarray, (n,)
        Non-negative counts, whole or not.
    k : ndarray, (n,)
        Positive.
    """
    y, k = np.broadcast_arrays(np.asarray(y, float), np.asarray(k, float))
    out = np.zeros((4, y.size))
    small = (y <= SUMMED) & (y == np.floor(y))
    if small.any():
        if y.size >= MANY:
            own = np.empty((4, int(small.sum())))
            rising_sums(y[small], k[small], own)
            out[:, small] = own
        else:
            out[:, small] = _summed(y[small], k[small])
    if not small.all():
        out[:, ~small] = _series(y[~small], k[~small])
    return tuple(out)


def _summed(y: FloatArray, k: FloatArray) -> FloatArray:
    out = np.zeros((4, y.size))
    for j in range(1, int(y.max(initial=0.0))):
        live = np.flatnonzero(y > j)
        own = k[live]
        share = j / (own + j)  # -d/dlog k of log(1 + j / k)
        rest = own / (own + j)
        out[0, live] += np.log1p(j / own)
        out[1, live] -= share
        out[2, live] += share * rest
        out[3, live] += share * rest * (share - rest)
    return out


def _series(y: FloatArray, k: FloatArray) -> FloatArray:
    """By Stirling's series of ``log Gamma``; small k is raised first."""
    out = np.zeros((4, y.size))
    base = k.copy()
    shift = np.ceil(np.maximum(SHIFT - k, 0.0))
    for j in range(int(shift.max(initial=0.0))):  # Gamma(k) = Gamma(k + s) / prod (k + j)
        live = np.flatnonzero(shift > j)
        own, top = k[live] + j, y[live] + k[live] + j
        p, q = k[live] / own, k[live] / top
        out[0, live] += np.log(own / top)
        out[1, live] += p - q
        out[2, live] += p * (1 - p) - q * (1 - q)
        out[3, live] += p * (1 - p) * (1 - 2 * p) - q * (1 - q) * (1 - 2 * q)
    base += shift
    G = _stirling(y, base)  # derivatives in `base`, of log Gamma(y + base) - log Gamma(base)
    out[0] += G[0] + y * np.log1p(shift / k)
    out[1] += k * G[1] - y
    out[2] += k * G[1] + k**2 * G[2]
    out[3] += k * G[1] + 3 * k**2 * G[2] + k**3 * G[3]
    return out


def _stirling(y: FloatArray, k: FloatArray) -> tuple[FloatArray, ...]:
    top = y + k
    ratio, both = np.log1p(y / k), top * k
    values = [
        (top - 0.5) * ratio - y,  # less y log k
        ratio + 0.5 * y / both,
        -y / both - 0.5 * y * (top + k) / both**2,
        y * (top + k) / both**2 + y * (top**2 + both + k**2) / both**3,
    ]
    for place, c in enumerate(_SERIES):
        n = 2 * place + 1  # the term c / x^n
        values[0] = values[0] + c * (top**-n - k**-n)
        values[1] = values[1] - c * n * (top ** -(n + 1.0) - k ** -(n + 1.0))
        values[2] = values[2] + c * n * (n + 1) * (top ** -(n + 2.0) - k ** -(n + 2.0))
        values[3] = values[3] - c * n * (n + 1) * (n + 2) * (top ** -(n + 3.0) - k ** -(n + 3.0))
    return tuple(values)


def polygamma(x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Digamma, trigamma and tetragamma functions of positive numbers."""
    x = np.asarray(x, dtype=float)
    if x.size < MANY:
        return ss.digamma(x), ss.polygamma(1, x), ss.polygamma(2, x)
    out = np.empty((3, x.size))
    polygammas(np.ascontiguousarray(x).ravel(), out)
    first, second, third = out.reshape(3, *x.shape)
    return first, second, third


def log_minus_digamma(k: FloatArray) -> tuple[FloatArray, FloatArray]:
    """``log k - psi(k)`` and its derivative in k, without loss of digits where k is large."""
    k = np.asarray(k, dtype=float)
    large = k > 50.0
    own = np.where(large, k, 50.0)
    series = 0.5 / own + 1 / (12 * own**2) - 1 / (120 * own**4) + 1 / (252 * own**6)
    slope = -0.5 / own**2 - 1 / (6 * own**3) + 1 / (30 * own**5) - 1 / (42 * own**7)
    plain = np.where(large, 50.0, k)
    first = np.where(large, series, np.log(plain) - ss.digamma(plain))
    return first, np.where(large, slope, 1 / plain - ss.polygamma(1, plain))


def gamma_excess(k: FloatArray) -> FloatArray:
    """``k log k - k - log Gamma(k)``, without loss of digits where k is large."""
    k = np.asarray(k, dtype=float)
    large = k > 50.0
    own = np.where(large, k, 50.0)
    series = 0.5 * np.log(own / (2.0 * np.pi)) - sum(
        c / own ** (2 * j + 1) for j, c in enumerate(_SERIES)
    )
    plain = np.where(large, 50.0, k)
    return np.where(large, series, plain * np.log(plain) - plain - ss.gammaln(plain))
