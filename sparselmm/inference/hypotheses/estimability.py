"""Which linear combinations of fixed effects the data determine."""

from __future__ import annotations

import numpy as np

from sparselmm.base.types import BoolArray, FloatArray, IntArray

ESTIMABLE = 1e-8
"""Largest share of a row's squared length outside the row space of X (R's ``estimability``)."""


def null_space(X: FloatArray, kept: IntArray) -> FloatArray:
    """Orthonormal basis of ``{v : X v = 0}`` from training rows, (p, p - r)."""
    p = X.shape[1]
    others = np.setdiff1d(np.arange(p), kept)
    if not len(others):
        return np.zeros((p, 0))
    N = np.zeros((p, len(others)))
    N[others, np.arange(len(others))] = 1.0
    if len(kept):
        N[kept] = -np.linalg.lstsq(X[:, kept], X[:, others], rcond=None)[0]
    return np.asarray(np.linalg.qr(N)[0])


def estimable(L: FloatArray, null: FloatArray) -> BoolArray:
    """Rows of L whose ``L beta`` does not depend on how X was made of full rank, (m,)."""
    outside = np.linalg.norm(L @ null, axis=1)
    return np.asarray(outside <= ESTIMABLE**0.5 * np.maximum(np.linalg.norm(L, axis=1), 1e-300))


def only_estimable(cov: FloatArray, L: FloatArray, null: FloatArray) -> FloatArray:
    """Covariance of ``L beta``, (m, m), with NaN for what is not estimable."""
    good = estimable(L, null)
    return np.where(good & good[:, None], cov, np.nan)
