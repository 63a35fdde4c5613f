"""Predictors by the responses alone: where a search starts, and what counts as one of them."""

from __future__ import annotations

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.likelihood.laplace.data import Further, GeneralData
from sparselmm.likelihood.laplace.links import POWERS, predictor, quantile
from sparselmm.likelihood.laplace.mixtures import CustomFamily

LIMITS = {"nbinom1": -1.0, "nbinom2": 1.0, "betabinomial": 1.0}
"""Where the logarithm of the dispersion goes in responses without overdispersion."""


def first_predictors(data: GeneralData) -> FloatArray:
    """Predictors of smoothed responses, (n,)."""
    family, y = data.family, data.y
    name, link = family.name, family.link
    if name in ("binomial", "betabinomial"):
        m = data.trials(slice(None))
        return quantile(link, (y + 0.5) / (m + 1.0))
    if name == "beta":
        return quantile(link, np.clip(y, 0.01, 0.99))
    if isinstance(family, CustomFamily):
        return family.predictors(y)
    if name == "ordinal":
        return np.zeros(data.n)
    if name == "gaussian":
        low, high = y.min(), y.max()
        if link in ("identity", "log", *POWERS):
            return y if link == "identity" else predictor(link, np.maximum(y, 0.01 * high))
        return quantile(link, np.clip(y, max(low, 0.01), min(high, 0.99)))
    return predictor(link, np.maximum(y, 0.1 if name not in ("gamma", "inverse_gaussian") else y))


def predictor_unit(data: GeneralData) -> float:
    """What counts as one of the predictor: one, but for links under which it has the response's."""
    family = data.family
    if not (isinstance(family, CustomFamily) or family.link in POWERS):
        return 1.0
    live = slice(None) if data.weights is None else data.weights > 0
    if isinstance(family, CustomFamily) or family.link == "identity":
        unit = float(np.std(first_predictors(data)[live]))
    else:
        unit = abs(float(predictor(family.link, np.maximum(data.y[live].mean(), 1e-300))))
    return unit if 0.0 < unit < np.inf else 1.0


def leaving(data: GeneralData) -> list[tuple[Further, float]]:
    """Predictors without a bound, and the sign that leads to where they explain nothing."""
    base = getattr(data.family, "base", data.family)
    signs = {"dispersion": LIMITS.get(base.name, 0.0), "zi": -1.0}
    own = [(part, signs.get(part.name, 0.0)) for part in data.further]
    return [(part, sign) for part, sign in own if sign]
