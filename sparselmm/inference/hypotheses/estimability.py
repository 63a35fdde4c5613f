"""Which linear combinations of fixed effects the data determine."""

from __future__ import annotations

import numpy as np

from sparselmm.base.types import BoolArray, FloatArray, IntArray

ESTIMABLE = 1e-8
"""Largest share of a row's squared length along a dependence of X (R's ``estimability``)."""

ROUNDING = 1e-10
"""What a row has along a dependence by rounding alone, in units of the dependent column."""


def null_space(X: FloatArray, kept: IntArray) -> FloatArray:
    """Basis of ``{v : X v = 0}`` from training rows, (p, p - r).

    What each column of X that was not kept is of the others, in its own units.
    """
    p = X.shape[1]
    others = np.setdiff1d(np.arange(p), kept)
    if not len(others):
        return np.zeros((p, 0))
    size = np.linalg.norm(X, axis=0) / np.sqrt(max(len(X), 1))
    size[size == 0.0] = 1.0
    N = np.zeros((p, len(others)))
    N[others, np.arange(len(others))] = 1.0
    if len(kept):
        unit = X / size
        N[kept] = -np.linalg.lstsq(unit[:, kept], unit[:, others], rcond=None)[0]
    N[np.abs(N) < ROUNDING] = 0.0
    return N / size[:, None]


def estimable(L: FloatArray, null: FloatArray) -> BoolArray:
    """Rows of L whose ``L beta`` does not depend on how X was made of full rank, (m,).

    A covariate that no dependence involves does not count, whatever its units.
    """
    outside, length = np.abs(L @ null), np.sqrt(L**2 @ null**2)
    inside = outside <= np.maximum(ESTIMABLE**0.5 * length, ROUNDING)
    return np.asarray(inside.all(axis=1) & np.isfinite(L).all(axis=1))


def only_estimable(cov: FloatArray, L: FloatArray, null: FloatArray) -> FloatArray:
    """Covariance of ``L beta``, (m, m), with NaN for what is not estimable."""
    good = estimable(L, null)
    return np.where(good & good[:, None], cov, np.nan)
