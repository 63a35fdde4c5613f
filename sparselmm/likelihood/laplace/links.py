"""Links: how the predictor becomes a mean.

A mean between zero and one is a distribution function of the predictor; what rows need of it is
``log F``, ``log(1 - F)``, the ratios ``f / F`` and ``f / (1 - F)``, and derivatives of ``log f``,
each without loss of digits in either tail. A positive mean enters by its logarithm, which is the
predictor or a multiple of its logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.special as ss

from sparselmm.base.types import FloatArray

DISTRIBUTIONS = ("logit", "probit", "cloglog", "loglog", "cauchit")
"""Links of means between zero and one."""

POWERS = {"identity": 1.0, "sqrt": 2.0, "inverse": -1.0, "inverse_squared": -0.5}
"""``log mean = power * log eta``; besides them ``log``."""

_ROOT = 0.5 * float(np.log(2.0 * np.pi))


@dataclass(frozen=True, eq=False)
class Distribution:
    """A distribution function at some points, each (n,).

    Attributes
    ----------
    F, upper : ndarray
        ``F`` and ``1 - F``.
    log_F, log_upper : ndarray
    r, s : ndarray
        ``f / F`` and ``f / (1 - F)``.
    c, dc : ndarray
        ``f' / f`` and its derivative.
    """

    F: FloatArray
    upper: FloatArray
    log_F: FloatArray
    log_upper: FloatArray
    r: FloatArray
    s: FloatArray
    c: FloatArray
    dc: FloatArray

    @property
    def slopes(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """``f``, ``f'``, ``f''``."""
        f = self.r * self.F
        return f, f * self.c, f * (self.c**2 + self.dc)


def distribution(link: str, eta: FloatArray) -> Distribution:
    """The distribution function of a link at ``eta``."""
    return _FUNCTIONS[link](eta)


def _logit(eta: FloatArray) -> Distribution:
    F, upper = ss.expit(eta), ss.expit(-eta)
    return Distribution(
        F, upper, -np.logaddexp(0.0, -eta), -np.logaddexp(0.0, eta), upper, F, upper - F,
        -2.0 * F * upper,
    )  # fmt: skip


def _probit(eta: FloatArray) -> Distribution:
    low, high = ss.log_ndtr(eta), ss.log_ndtr(-eta)
    log_f = -0.5 * eta**2 - _ROOT
    return Distribution(
        ss.ndtr(eta), ss.ndtr(-eta), low, high, np.exp(log_f - low), np.exp(log_f - high), -eta,
        np.full_like(eta, -1.0),
    )  # fmt: skip


def _cloglog(eta: FloatArray) -> Distribution:
    with np.errstate(over="ignore"):
        E = np.exp(np.minimum(eta, 600.0))
        r = np.where(E < 1e-300, 1.0, E / np.expm1(np.maximum(np.minimum(E, 700.0), 1e-300)))
    r = np.where(E > 700.0, 0.0, r)
    F = -np.expm1(-E)
    log_F = np.where(E < 1e-16, eta, np.log(np.where(F > 0, F, 1.0)))
    log_F = np.where(E > 0.5, np.log1p(-np.exp(-np.maximum(E, 0.5))), log_F)
    return Distribution(F, np.exp(-E), log_F, -E, r, E, 1.0 - E, -E)


def _loglog(eta: FloatArray) -> Distribution:
    """``exp(-exp(-eta))``: the other tail of the one before, turned round."""
    at = _cloglog(-eta)
    return Distribution(at.upper, at.F, at.log_upper, at.log_F, at.s, at.r, -at.c, at.dc)


def _cauchit(eta: FloatArray) -> Distribution:
    F, upper = np.arctan2(1.0, -eta) / np.pi, np.arctan2(1.0, eta) / np.pi
    square = 1.0 + eta**2
    f = 1.0 / (np.pi * square)
    return Distribution(
        F, upper, np.log(F), np.log(upper), f / F, f / upper, -2.0 * eta / square,
        -2.0 * (1.0 - eta**2) / square**2,
    )  # fmt: skip


_FUNCTIONS = {
    "logit": _logit, "probit": _probit, "cloglog": _cloglog, "loglog": _loglog,
    "cauchit": _cauchit,
}  # fmt: skip


def quantile(link: str, p: FloatArray) -> FloatArray:
    """The predictor of a mean between zero and one."""
    p = np.asarray(p, dtype=float)
    if link == "logit":
        return np.asarray(ss.logit(p))
    if link == "probit":
        return np.asarray(ss.ndtri(p))
    if link == "cloglog":
        return np.log(-np.log1p(-p))
    if link == "loglog":
        return -np.log(-np.log(p))
    return np.tan(np.pi * (p - 0.5))


def log_mean(link: str, eta: FloatArray) -> tuple[FloatArray, tuple[FloatArray, ...] | None]:
    """``x = log mean`` and three derivatives of it in ``eta``; None where ``x = eta``.

    NaN where the link gives no positive mean.
    """
    if link == "log":
        return eta, None
    power = POWERS[link]
    good = np.where(eta > 0.0, eta, np.nan)
    back = 1.0 / good
    return power * np.log(good), (power * back, -power * back**2, 2.0 * power * back**3)


def mean(link: str, eta: FloatArray) -> FloatArray:
    """The mean at ``eta``."""
    if link in DISTRIBUTIONS:
        return distribution(link, eta).F
    if link == "log":
        with np.errstate(over="ignore"):
            return np.exp(eta)
    if link == "identity":
        return np.asarray(eta, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(eta, dtype=float) ** POWERS[link]


def mean_slopes(link: str, eta: FloatArray) -> tuple[FloatArray, ...]:
    """The mean and its first three derivatives."""
    if link in DISTRIBUTIONS:
        at = distribution(link, eta)
        return at.F, *at.slopes
    if link == "log":
        mu = mean(link, eta)
        return mu, mu, mu, mu
    if link == "identity":
        return eta, np.ones_like(eta), np.zeros_like(eta), np.zeros_like(eta)
    p = POWERS[link]
    with np.errstate(divide="ignore", invalid="ignore"):
        mu = eta**p
        if p == 2.0:  # at zero, too
            return mu, 2.0 * eta, np.full_like(mu, 2.0), np.zeros_like(mu)
        return mu, p * mu / eta, p * (p - 1) * mu / eta**2, p * (p - 1) * (p - 2) * mu / eta**3


def predictor(link: str, mu: FloatArray) -> FloatArray:
    """The predictor of a mean."""
    if link in DISTRIBUTIONS:
        return quantile(link, mu)
    if link == "log":
        return np.log(mu)
    return np.asarray(mu, dtype=float) ** (1.0 / POWERS[link])
