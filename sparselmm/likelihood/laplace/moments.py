"""What a family says of new responses: means, variances, probabilities, draws.

Functions take a family with its zeros, predictors ``eta`` (m,), further predictors, each (m,), and
trials, each (m,).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import scipy.stats as st
from scipy.special import expit

from sparselmm.base.exceptions import DataError
from sparselmm.base.types import FloatArray
from sparselmm.likelihood.laplace import links
from sparselmm.likelihood.laplace.chosen import TRIALS
from sparselmm.likelihood.laplace.families import interval
from sparselmm.likelihood.laplace.mixtures import CustomFamily, Hurdle, ZeroInflated

Further = tuple[FloatArray, ...]

DISCRETE = ("binomial", "betabinomial", "poisson", "nbinom1", "nbinom2", "ordinal")
"""Families of which a quantile residual is drawn between two probabilities."""


def mean(family: Any, eta: FloatArray, further: Further) -> FloatArray:
    """Expected response: a probability for trials, the expected category code of an ordinal one."""
    if isinstance(family, ZeroInflated):
        return expit(-further[-1]) * mean(family.base, eta, further[:-1])
    if isinstance(family, Hurdle):
        some = -np.expm1(log_zero(family.base, eta, further[:-1]))
        return expit(-further[-1]) * mean(family.base, eta, further[:-1]) / some
    if isinstance(family, CustomFamily):
        return family.means(eta, further)
    if family.name == "ordinal":
        raise DataError("an ordinal response has probabilities of categories, not a mean")
    with np.errstate(over="ignore", invalid="ignore"):
        return links.mean(family.link, eta)


def mean_slopes(family: Any, eta: FloatArray, further: Further) -> list[FloatArray]:
    """Derivatives of `mean` in the predictor and in every further one, each (m,)."""
    if isinstance(family, CustomFamily):
        return _differences(family, eta, further)
    if not isinstance(family, (ZeroInflated, Hurdle)):
        with np.errstate(over="ignore", invalid="ignore"):
            slope = links.mean_slopes(family.link, eta)[1]
        return [slope, *(np.zeros_like(eta) for _ in further)]
    some, others, total = expit(-further[-1]), further[:-1], mean(family, eta, further)
    own = [some * x for x in mean_slopes(family.base, eta, others)]
    if isinstance(family, Hurdle):
        zero = family.base.jet(np.zeros_like(eta), np.ones_like(eta), eta, others, True)
        odds = 1.0 / np.expm1(-zero.f)
        logs = [zero.e, *(f for f, _, _ in zero.a)]
        cut = -np.expm1(zero.f)
        own = [x / cut + total * odds * l for x, l in zip(own, logs, strict=True)]
    return [*own, -expit(further[-1]) * total]


def _differences(family: CustomFamily, eta: FloatArray, further: Further) -> list[FloatArray]:
    at, out = [eta, *further], []
    for i, own in enumerate(at):
        h = 1e-5 * np.maximum(1.0, np.abs(own))
        up, down = (family.means(*_moved(at, i, s * h)) for s in (1, -1))
        out.append((up - down) / (2.0 * h))
    return out


def _moved(at: list[FloatArray], i: int, h: FloatArray) -> tuple[FloatArray, Further]:
    eta, *further = (x + h if j == i else x for j, x in enumerate(at))
    return eta, tuple(further)


def log_zero(family: Any, eta: FloatArray, further: Further) -> FloatArray:
    """Log-probability of a zero count, (m,)."""
    zero = np.zeros_like(eta)
    return np.asarray(family.jet(zero, np.ones_like(eta), eta, further, False).f)


def variance(family: Any, eta: FloatArray, further: Further, m: FloatArray) -> FloatArray:
    """Variance of the response as it is modelled (counts of successes for trials), (m,)."""
    if isinstance(family, (ZeroInflated, Hurdle)):
        size = m if family.name in TRIALS else 1.0
        own = size * mean(family.base, eta, further[:-1])
        second = variance(family.base, eta, further[:-1], m) + own**2
        if isinstance(family, Hurdle):
            second = second / -np.expm1(log_zero(family.base, eta, further[:-1]))
        return np.asarray(expit(-further[-1]) * second - (size * mean(family, eta, further)) ** 2)
    if isinstance(family, CustomFamily):
        raise DataError(f"family {family.name!r} is your own; it has no variance function")
    mu = mean(family, eta, further)
    d = np.exp(further[0]) if further else np.ones_like(eta)
    forms = {
        "binomial": lambda: m * mu * (1 - mu),
        "betabinomial": lambda: m * mu * (1 - mu) * (1 + (m - 1) / (1 + d)),
        "beta": lambda: mu * (1 - mu) / (1 + d),
        "poisson": lambda: mu,
        "nbinom1": lambda: mu * (1 + d),
        "nbinom2": lambda: mu + mu**2 / d,
        "gamma": lambda: mu**2 * d**2,
        "inverse_gaussian": lambda: mu**3 * d**2,
        "gaussian": lambda: d**2 / np.where(m > 0, m, np.nan),
    }
    return np.asarray(forms[family.name]())


def categories(family: Any, eta: FloatArray, alpha: FloatArray) -> FloatArray:
    """Probabilities of the categories of an ordinal response, (m, J)."""
    ends = np.concatenate([[-np.inf], alpha, [np.inf]])
    columns = [
        interval(family.link, np.full_like(eta, b) - eta, np.full_like(eta, a) - eta)[0]
        for a, b in pairwise(ends)
    ]
    return np.column_stack(columns)


def distribution(family: Any, eta: FloatArray, further: Further, m: FloatArray) -> Any:
    """SciPy's frozen distribution of the responses of a family without zeros of its own."""
    mu = mean(family, eta, further)
    d = np.exp(further[0]) if further else np.ones_like(eta)
    if family.name == "binomial":
        return st.binom(m.astype(int), np.clip(mu, 0.0, 1.0))
    if family.name == "betabinomial":
        return st.betabinom(m.astype(int), mu * d, (1 - mu) * d)
    if family.name == "beta":
        return st.beta(mu * d, (1 - mu) * d)
    if family.name == "poisson":
        return st.poisson(mu)
    if family.name == "nbinom1":
        return st.nbinom(mu / d, 1.0 / (1.0 + d))
    if family.name == "nbinom2":
        return st.nbinom(d, d / (d + mu))
    if family.name == "gamma":
        return st.gamma(d**-2, scale=mu * d**2)
    if family.name == "inverse_gaussian":
        return st.invgauss(mu * d**2, scale=d**-2)
    if family.name == "gaussian":
        return st.norm(mu, d / np.sqrt(np.where(m > 0, m, np.nan)))
    raise DataError(
        f"family {family.name!r} has no distribution function here, which quantile residuals need; "
        "use kind='response'"
    )


def draw(
    family: Any, eta: FloatArray, further: Further, m: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """One response of every row, as it is modelled, (m,)."""
    if isinstance(family, ZeroInflated):
        own = draw(family.base, eta, further[:-1], m, rng)
        return np.where(rng.random(len(eta)) < expit(further[-1]), 0.0, own)
    if isinstance(family, Hurdle):
        return _draw_hurdle(family, eta, further, m, rng)
    if family.name == "ordinal":
        raise DataError("draw_categories draws ordinal responses")
    if isinstance(family, CustomFamily):
        raise DataError(f"family {family.name!r} is your own; its responses cannot be simulated")
    if family.name == "gaussian":  # NaN of weight zero
        sd = np.exp(further[0]) / np.sqrt(np.where(m > 0, m, np.nan))
        return mean(family, eta, further) + sd * rng.standard_normal(len(eta))
    out = distribution(family, eta, further, m).rvs(random_state=rng, size=len(eta))
    if family.name == "beta":  # numbers that round to the ends
        out = np.clip(out, 1e-12, 1.0 - 1e-12)
    return np.asarray(out, dtype=float)


def _draw_hurdle(
    family: Hurdle, eta: FloatArray, further: Further, m: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Counts above zero by inversion of the distribution function."""
    law = distribution(family.base, eta, further[:-1], m)
    none = np.exp(log_zero(family.base, eta, further[:-1]))
    u = none + (1.0 - none) * rng.random(len(eta))
    own = np.maximum(law.ppf(u), 1.0)
    return np.where(rng.random(len(eta)) < expit(further[-1]), 0.0, own)


def draw_categories(probabilities: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Categories of every row, (m,)."""
    total = np.cumsum(probabilities, axis=1)
    u = rng.random(len(total)) * total[:, -1]
    return np.asarray((u[:, None] > total).sum(axis=1), dtype=float)


def cdf(
    family: Any, y: FloatArray, eta: FloatArray, further: Further, m: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """``P(Y < y)`` and ``P(Y <= y)`` of every row, each (m,); the same for continuous families."""
    if isinstance(family, ZeroInflated):
        low, high = cdf(family.base, y, eta, further[:-1], m)
        pi = expit(further[-1])
        return np.where(y > 0, pi, 0.0) + (1 - pi) * low, pi + (1 - pi) * high
    if isinstance(family, Hurdle):
        low, high = cdf(family.base, y, eta, further[:-1], m)
        none, pi = np.exp(log_zero(family.base, eta, further[:-1])), expit(further[-1])
        above = [(1 - pi) * np.maximum(x - none, 0.0) / (1 - none) for x in (low, high)]
        return np.where(y > 0, pi, 0.0) + above[0], pi + above[1]
    law = distribution(family, eta, further, m)
    high = np.asarray(law.cdf(y))
    return (np.asarray(law.cdf(y - 1)) if family.name in DISCRETE else high), high


def deviance_terms(
    family: Any, y: FloatArray, eta: FloatArray, further: Further, m: FloatArray
) -> FloatArray:
    """Twice the log-likelihood a row lacks to its largest value over all means, (m,)."""
    mixture = isinstance(family, (ZeroInflated, Hurdle))
    kind = f"{family.name} with zeros of its own" if mixture else family.name
    with np.errstate(divide="ignore", invalid="ignore"):
        mu = mean(family, eta, further)
        if kind == "binomial":
            p = y / m
            return 2 * (_xlogy(y, p / mu) + _xlogy(m - y, (1 - p) / (1 - mu)))
        if kind == "poisson":
            return 2 * (_xlogy(y, y / mu) - (y - mu))
        if kind == "nbinom2":
            k = np.exp(further[0])
            return 2 * (_xlogy(y, y / mu) - (y + k) * np.log((y + k) / (mu + k)))
        if kind == "gamma":
            return 2 * (y / mu - 1 - np.log(y / mu)) * np.exp(-2 * further[0])
        if kind == "inverse_gaussian":
            return (y - mu) ** 2 / (mu**2 * y) * np.exp(-2 * further[0])
        if kind == "gaussian":
            return m * (y - mu) ** 2 * np.exp(-2 * further[0])
    raise DataError(
        f"deviance residuals are not defined for family {kind!r}; use kind='pearson' or 'quantile'"
    )


def _xlogy(x: FloatArray, ratio: FloatArray) -> FloatArray:
    return np.where(x > 0, x * np.log(np.where(x > 0, ratio, 1.0)), 0.0)
