"""Compiled loops over rows: log-likelihood, its slope, minus its second and third derivatives.

Every loop takes responses y, trials m (of length one where all are the same), weights (of length
zero where there are none), predictors eta, the logarithm d of a dispersion parameter (of length one
where it is common), and fills g, w and dw; it returns the sum of the log-likelihoods without what
depends on the data alone. The NumPy twins are in :mod:`sparselmm.likelihood.laplace.families`.
Exponentials and logarithms that every row needs are NumPy's, which are vector instructions and take
a quarter of the time; they stand in w and dw when the loop begins. Rows of weight zero may hold
responses that the family does not allow: the caller has NumPy ignore what it says of those.
"""

from __future__ import annotations

from collections.abc import Callable
from math import erfc, exp, expm1, lgamma, log, log1p
from typing import Any

import numpy as np

from sparselmm.base.compiling import compiled
from sparselmm.base.types import FloatArray


def binomial_logit(
    y: FloatArray, m: FloatArray, weights: FloatArray, eta: FloatArray, d: FloatArray,
    g: FloatArray, w: FloatArray, dw: FloatArray,
) -> float:  # fmt: skip
    """Binomial responses, logit link."""
    _tails(eta, w, dw)
    return _binomial_logit(y, m, weights, eta, g, w, dw)


def _tails(x: FloatArray, t: FloatArray, l: FloatArray) -> None:
    """``t = exp(-abs(x))`` and ``l = log(1 + t)`` by NumPy, which has vector instructions."""
    np.abs(x, out=t)
    np.negative(t, out=t)
    np.exp(t, out=t)
    np.log1p(t, out=l)


@compiled
def _binomial_logit(
    y: FloatArray, m: FloatArray, weights: FloatArray, eta: FloatArray, g: FloatArray,
    w: FloatArray, dw: FloatArray,
) -> float:  # fmt: skip
    """The same from the tails in w and dw."""
    total = 0.0
    for i in range(y.shape[0]):
        factor = weights[i] if weights.shape[0] > 0 else 1.0
        if factor == 0.0:
            g[i], w[i], dw[i] = 0.0, 0.0, 0.0
            continue
        trials = m[i] if m.shape[0] > 1 else m[0]
        e, t = eta[i], w[i]
        large = 1.0 / (1.0 + t)
        small = t * large
        mu = large if e >= 0.0 else small
        v = trials * large * small
        l = y[i] * e - trials * (max(e, 0.0) + dw[i])
        g[i] = factor * (y[i] - trials * mu)
        w[i] = factor * v
        dw[i] = factor * v * (small - large if e >= 0.0 else large - small)
        total += factor * l
    return total


def poisson_log(
    y: FloatArray, m: FloatArray, weights: FloatArray, eta: FloatArray, d: FloatArray,
    g: FloatArray, w: FloatArray, dw: FloatArray,
) -> float:  # fmt: skip
    """Poisson responses, log link."""
    np.exp(eta, out=w)
    return _poisson_log(y, weights, eta, g, w, dw)


@compiled
def _poisson_log(
    y: FloatArray, weights: FloatArray, eta: FloatArray, g: FloatArray, w: FloatArray,
    dw: FloatArray,
) -> float:  # fmt: skip
    """The same from the means in w."""
    total = 0.0
    for i in range(y.shape[0]):
        factor = weights[i] if weights.shape[0] > 0 else 1.0
        if factor == 0.0:
            g[i], w[i], dw[i] = 0.0, 0.0, 0.0
            continue
        mu = w[i]
        g[i] = factor * (y[i] - mu)
        w[i] = factor * mu
        dw[i] = factor * mu
        total += factor * (y[i] * eta[i] - mu)
    return total


@compiled
def binomial_probit(
    y: FloatArray, m: FloatArray, weights: FloatArray, eta: FloatArray, d: FloatArray,
    g: FloatArray, w: FloatArray, dw: FloatArray,
) -> float:  # fmt: skip
    """Binomial responses, probit link."""
    total = 0.0
    for i in range(y.shape[0]):
        factor = weights[i] if weights.shape[0] > 0 else 1.0
        if factor == 0.0:
            g[i], w[i], dw[i] = 0.0, 0.0, 0.0
            continue
        trials = m[i] if m.shape[0] > 1 else m[0]
        g[i], w[i], dw[i] = 0.0, 0.0, 0.0
        for side in range(2):
            count = y[i] if side == 0 else trials - y[i]
            if count == 0.0:
                continue
            sign = 1.0 if side == 0 else -1.0
            e = sign * eta[i]
            if e > -25.0:
                F = 0.5 * erfc(-e / 1.4142135623730951)
                l, r = log(F), exp(-0.5 * e * e - 0.9189385332046727) / F
            else:
                z = 1.0 / (e * e)
                s = 1.0 - z * (1.0 - z * (3.0 - z * (15.0 - z * (105.0 - 945.0 * z))))
                l, r = -0.5 * e * e - 0.9189385332046727 - log(-e) + log(s), -e / s
            v = r * (e + r)
            total += factor * count * l
            g[i] += factor * count * sign * r
            w[i] += factor * count * v
            dw[i] += factor * count * sign * (r * (1.0 - v) - v * (e + r))
    return total


@compiled
def binomial_cloglog(
    y: FloatArray, m: FloatArray, weights: FloatArray, eta: FloatArray, d: FloatArray,
    g: FloatArray, w: FloatArray, dw: FloatArray,
) -> float:  # fmt: skip
    """Binomial responses, complementary log-log link."""
    total = 0.0
    for i in range(y.shape[0]):
        factor = weights[i] if weights.shape[0] > 0 else 1.0
        if factor == 0.0:
            g[i], w[i], dw[i] = 0.0, 0.0, 0.0
            continue
        trials = m[i] if m.shape[0] > 1 else m[0]
        E = exp(min(eta[i], 600.0))
        no = trials - y[i]
        l, first, second, third = 0.0, 0.0, 0.0, 0.0
        if y[i] != 0.0:
            a = 1.0
            if E > 700.0:
                a = 0.0
            elif E > 1e-300:
                a = E / expm1(E)
            a1 = a * (1.0 - E - a)
            a2 = a1 * (1.0 - E - a) - a * (E + a1)
            if E < 1e-16:
                l = y[i] * eta[i]
            elif E > 0.5:
                l = y[i] * log1p(-exp(-E))
            else:
                l = y[i] * log(-expm1(-E))
            first, second, third = y[i] * a, -y[i] * a1, -y[i] * a2
        if no != 0.0:
            l -= no * E
            first -= no * E
            second += no * E
            third += no * E
        g[i], w[i], dw[i] = factor * first, factor * second, factor * third
        total += factor * l
    return total


def nbinom2_log(
    y: FloatArray, m: FloatArray, weights: FloatArray, eta: FloatArray, d: FloatArray,
    g: FloatArray, w: FloatArray, dw: FloatArray,
) -> float:  # fmt: skip
    """Negative binomial responses of quadratic variance, log link."""
    np.subtract(eta, d, out=g)
    _tails(g, w, dw)
    return _nbinom2_log(y, weights, eta, d, g, w, dw)


@compiled
def _nbinom2_log(
    y: FloatArray, weights: FloatArray, eta: FloatArray, d: FloatArray, g: FloatArray,
    w: FloatArray, dw: FloatArray,
) -> float:  # fmt: skip
    """The same from ``eta - d`` in g and its tails."""
    total, before, k = 0.0, np.nan, 1.0
    for i in range(y.shape[0]):
        factor = weights[i] if weights.shape[0] > 0 else 1.0
        if factor == 0.0:
            g[i], w[i], dw[i] = 0.0, 0.0, 0.0
            continue
        own = d[i] if d.shape[0] > 1 else d[0]
        if own != before:
            before, k = own, exp(own)
        x, t = g[i], w[i]
        p = 1.0 / (1.0 + t) if x >= 0.0 else t / (1.0 + t)
        q = t / (1.0 + t) if x >= 0.0 else 1.0 / (1.0 + t)
        ratio = max(x, 0.0) + dw[i]
        rising = 0.0
        if y[i] <= 40.0 and y[i] == int(y[i]):
            for j in range(1, int(y[i])):
                rising += log1p(j / k)
        elif k < 1e4:
            rising = lgamma(y[i] + k) - lgamma(k) - y[i] * own
        else:  # Stirling's series, whose terms cancel by log1p
            top = y[i] + k
            rising = (top - 0.5) * log1p(y[i] / k) - y[i] + (1.0 / top - 1.0 / k) / 12.0
        v = (y[i] + k) * p * q
        total += factor * (rising + y[i] * eta[i] - (y[i] + k) * ratio)
        g[i] = factor * (y[i] - (y[i] + k) * p)
        w[i] = factor * v
        dw[i] = factor * v * (q - p)
    return total


def gamma_log(
    y: FloatArray, m: FloatArray, weights: FloatArray, eta: FloatArray, d: FloatArray,
    g: FloatArray, w: FloatArray, dw: FloatArray,
) -> float:  # fmt: skip
    """Gamma responses, log link."""
    np.log(y, out=g)
    np.subtract(g, eta, out=g)
    np.exp(g, out=w)
    return _gamma_log(y, weights, d, g, w, dw)


@compiled
def _gamma_log(
    y: FloatArray, weights: FloatArray, d: FloatArray, g: FloatArray, w: FloatArray, dw: FloatArray
) -> float:
    """The same from the logarithm of ``y / mu`` in g, and that in w."""
    total, before, excess, nu = 0.0, np.nan, 0.0, 1.0
    for i in range(y.shape[0]):
        factor = weights[i] if weights.shape[0] > 0 else 1.0
        if factor == 0.0:
            g[i], w[i], dw[i] = 0.0, 0.0, 0.0
            continue
        own = d[i] if d.shape[0] > 1 else d[0]
        if own != before:
            before, nu = own, exp(-2.0 * own)
            if nu > 50.0:
                z = 1.0 / (nu * nu)
                series = 1 / 12 - z * (1 / 360 - z * (1 / 1260 - z / 1680))
                excess = 0.5 * log(nu) - 0.9189385332046727 - series / nu
            else:
                excess = nu * log(nu) - nu - lgamma(nu)
        log_q, q = g[i], w[i]
        total += factor * (nu * (log_q - q + 1.0) + excess)
        g[i] = factor * nu * (q - 1.0)
        w[i] = factor * nu * q
        dw[i] = -factor * nu * q
    return total


@compiled
def rising_sums(y: FloatArray, k: FloatArray, out: FloatArray) -> None:
    """``sum_(j < y) log(1 + j / k)`` and three derivatives in ``log k``; out (4, n)."""
    for i in range(y.shape[0]):
        value, first, second, third = 0.0, 0.0, 0.0, 0.0
        for j in range(1, int(y[i])):
            share = j / (k[i] + j)
            rest = 1.0 - share
            value += log1p(j / k[i])
            first -= share
            second += share * rest
            third += share * rest * (share - rest)
        out[0, i], out[1, i], out[2, i], out[3, i] = value, first, second, third


@compiled
def polygammas(x: FloatArray, out: FloatArray) -> None:
    """Digamma, trigamma and tetragamma functions of positive numbers; out (3, n).

    Raised to 12 by recurrence, then the asymptotic series (Abramowitz & Stegun 1964, 6.3.18).
    """
    for i in range(x.shape[0]):
        v, p0, p1, p2 = x[i], 0.0, 0.0, 0.0
        while v < 12.0:
            back = 1.0 / v
            p0 -= back
            p1 += back * back
            p2 -= 2.0 * back * back * back
            v += 1.0
        b = 1.0 / v
        z = b * b
        p0 += log(v) - 0.5 * b
        p0 -= z * (1 / 12 - z * (1 / 120 - z * (1 / 252 - z * (1 / 240 - z * (1 / 132)))))
        p1 += b + 0.5 * z
        p1 += b * z * (1 / 6 - z * (1 / 30 - z * (1 / 42 - z * (1 / 30 - z * (5 / 66)))))
        p2 -= z + b * z
        p2 -= z * z * (1 / 2 - z * (1 / 6 - z * (1 / 6 - z * (3 / 10 - z * (5 / 6)))))
        out[0, i], out[1, i], out[2, i] = p0, p1, p2


LOOPS: dict[tuple[str, str], Callable[..., Any]] = {
    ("binomial", "logit"): binomial_logit,
    ("binomial", "probit"): binomial_probit,
    ("binomial", "cloglog"): binomial_cloglog,
    ("poisson", "log"): poisson_log,
    ("nbinom2", "log"): nbinom2_log,
    ("gamma", "log"): gamma_log,
}
"""Families with a compiled loop."""


def loop_of(family: str, link: str) -> Callable[..., float] | None:
    """The loop of a family and link; None where NumPy does it."""
    return LOOPS.get((family, link))
