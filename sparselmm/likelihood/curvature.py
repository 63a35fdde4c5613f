"""Second derivatives: of ``theta -> lambda lambda'``, and by differences of an exact gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from sparselmm.base.smallmatrix import (
    lower_triangle,
)
from sparselmm.base.types import FloatArray
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.patterned import Patterned

HESSIAN_STEP = 1e-5
"""Step of central differences of the exact gradient: eps^(1/3) balances truncation and rounding."""


@cache
def symmetric_units(k: int) -> FloatArray:
    """The symmetric k x k matrices with one or two ones, in the order of `lower_triangle`."""
    rows, cols = lower_triangle(k)
    units = np.zeros((len(rows), k, k))
    each = np.arange(len(rows))
    units[each, rows, cols] = units[each, cols, rows] = 1.0
    return units


def add_root_curvature(
    H: FloatArray, covariance: Covariance, t: int, psi: FloatArray, theta: FloatArray,
    gamma: FloatArray,
) -> None:  # fmt: skip
    """Add the curvature of ``theta -> Psi_t`` to a Hessian in tangent coordinates, in place.

    ``psi`` (k, k) is the derivative of the deviance in ``Psi_t / sigma^2`` and ``gamma`` the one in
    the entries of ``lambda_t``; along ``dlambda`` the second derivative of ``lambda lambda'`` is
    ``2 dlambda dlambda'``, to which comes that of ``lambda_t`` itself where theta bends it.
    """
    term, at = covariance.terms[t], covariance.tangent_slices[t]
    own = theta[covariance.slices[t]]
    if isinstance(term, Patterned):
        H[at, at] += term.inner(own, psi + psi.T)
        bends = term.bends(own, gamma)
        if bends is not None:
            H[at, at] += bends
        return
    rows, cols = term.tangent
    same = cols[:, None] == cols[None, :]
    H[at, at] += np.where(same, (psi + psi.T)[np.ix_(rows, rows)], 0.0)


def difference_hessian(
    gradient: Callable[[FloatArray], FloatArray], theta: FloatArray, sizes: FloatArray
) -> FloatArray:
    """Hessian by central differences of an exact gradient, (n_theta, n_theta).

    ``sizes`` are changes of each entry of theta that matter.
    """
    H = np.empty((len(theta), len(theta)))
    for i in range(len(theta)):
        step = np.zeros(len(theta))
        step[i] = HESSIAN_STEP * sizes[i]
        H[i] = (gradient(theta + step) - gradient(theta - step)) / (2.0 * step[i])
    return 0.5 * (H + H.T)
