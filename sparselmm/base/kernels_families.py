"""Compiled loops over rows: log-likelihood, its slope, minus its second and third derivatives.

Every loop takes responses y, trials m (of length one where all are the same), weights (of length
zero where there are none), predictors eta, the logarithm d of a dispersion parameter (of length one
where it is common), and fills g, w and dw; it returns the sum of the log-likelihoods without what
depends on the data alone. The NumPy twins are in :mod:`sparselmm.likelihood.laplace.families`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log1p
from typing import Any

from sparselmm.base.kernels import compiled
from sparselmm.base.types import FloatArray


@compiled
def binomial_logit(
    y: FloatArray, m: FloatArray, weights: FloatArray, eta: FloatArray, d: FloatArray,
    g: FloatArray, w: FloatArray, dw: FloatArray,
) -> float:  # fmt: skip
    """Binomial responses, logit link."""
    total = 0.0
    for i in range(y.shape[0]):
        trials = m[i] if m.shape[0] > 1 else m[0]
        e, size = eta[i], abs(eta[i])
        t = exp(-size)
        large = 1.0 / (1.0 + t)
        small = t * large
        mu = large if e >= 0.0 else small
        v = trials * large * small
        l = y[i] * e - trials * (max(e, 0.0) + log1p(t))
        factor = weights[i] if weights.shape[0] > 0 else 1.0
        g[i] = factor * (y[i] - trials * mu)
        w[i] = factor * v
        dw[i] = factor * v * (small - large if e >= 0.0 else large - small)
        total += factor * l
    return total


@compiled
def poisson_log(
    y: FloatArray, m: FloatArray, weights: FloatArray, eta: FloatArray, d: FloatArray,
    g: FloatArray, w: FloatArray, dw: FloatArray,
) -> float:  # fmt: skip
    """Poisson responses, log link."""
    total = 0.0
    for i in range(y.shape[0]):
        mu = exp(eta[i])
        factor = weights[i] if weights.shape[0] > 0 else 1.0
        g[i] = factor * (y[i] - mu)
        w[i] = factor * mu
        dw[i] = factor * mu
        total += factor * (y[i] * eta[i] - mu)
    return total


LOOPS: dict[tuple[str, str], Callable[..., Any]] = {
    ("binomial", "logit"): binomial_logit,
    ("poisson", "log"): poisson_log,
}
"""Families with a compiled loop."""


def loop_of(family: str, link: str) -> Callable[..., float] | None:
    """The loop of a family and link; None where NumPy does it."""
    return LOOPS.get((family, link))
