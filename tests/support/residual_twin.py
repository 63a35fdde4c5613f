"""The textbook's R, entry by entry, and deviances with it: shares nothing with the engine."""

from __future__ import annotations

import numpy as np

from sparselmm.design.residual import ResidualRows
from sparselmm.design.terms import Design
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.dense import DenseDeviance

LARGEST = 1.0 - 5e-7
"""Largest correlation, of neighbours."""


class Residuals:
    """R of every pair of rows by its definition, of real or complex parameters.

    Parameters
    ----------
    weights : ndarray, (n,), or None
    """

    def __init__(self, rows: ResidualRows, weights: np.ndarray | None):
        self.rows = rows
        self.i, self.j = np.nonzero(rows.group[:, None] == rows.group)
        self.distance = np.linalg.norm(rows.coords[self.i] - rows.coords[self.j], axis=1)
        w = np.ones(len(rows.group)) if weights is None else weights
        self.weight = np.sqrt(w[self.i] * w[self.j])
        self.strata = max(len(rows.strata), 1)

    def __call__(self, phi: np.ndarray) -> np.ndarray:
        """R at phi, relative to sigma^2, (n, n)."""
        rows, i, j = self.rows, self.i, self.j
        if rows.kind == "us":
            entries = self._unstructured(phi)
        else:
            a = rows.D.shape[1]
            entries = np.exp((rows.D[i] + rows.D[j]) @ phi[:a]) * self._correlations(phi[a:])
        R = np.zeros((len(rows.group),) * 2, dtype=phi.dtype)
        R[i, j] = entries / self.weight
        return R

    def _unstructured(self, phi: np.ndarray) -> np.ndarray:
        rows, T = self.rows, self.rows.n_visits
        S = np.zeros((self.strata, T, T), dtype=phi.dtype)
        for one, own in zip(S, phi.reshape(self.strata, -1), strict=True):
            L = np.zeros((T, T), dtype=phi.dtype)
            L[np.triu_indices(T)[::-1]] = own
            one[...] = L @ L.T + (1.0 - LARGEST) * np.diag(np.sum(L * L, axis=1))
        return S[rows.stratum[self.i], rows.visits[self.i], rows.visits[self.j]]

    def _correlations(self, phi: np.ndarray) -> np.ndarray:
        out = np.ones(len(self.i), dtype=phi.dtype)
        for s, psi in enumerate(phi.reshape(self.strata, -1)):
            at = np.flatnonzero((self.i != self.j) & (self.rows.stratum[self.i] == s))
            c = self._of_pairs(psi, at)
            out[at] = c * (1.0 - np.sin(psi[-1]) ** 2) if self.rows.nugget else c
        return out

    def _of_pairs(self, psi: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Correlations of pairs of different rows."""
        rows, d = self.rows, self.distance[at]
        first, second = rows.visits[self.i[at]], rows.visits[self.j[at]]
        if rows.kind == "ar1":
            left = (1.0 - LARGEST) / max(rows.typical_distance, 1.0)
            return ((1.0 - left) * np.sin(psi[0])) ** d.astype(int)
        if rows.kind in ("car1", "exp"):
            return np.exp(-d / np.exp(psi[0]))
        if rows.kind == "gau":
            return np.exp(-((d / np.exp(psi[0])) ** 2))
        if rows.kind == "cs":
            low = -1.0 / (max(np.bincount(rows.group)) - 1)
            return np.full(len(at), low + (1.0 - low) / (1.0 + np.exp(-psi[0])))
        if rows.kind == "toep":
            return np.array(autocorrelations(psi[: rows.n_visits - 1]))[np.abs(first - second)]
        if rows.kind == "ad":
            pairs = zip(np.minimum(first, second), np.maximum(first, second), strict=True)
            return np.array([np.prod(LARGEST * np.sin(psi[a:b])) for a, b in pairs])
        return np.zeros(len(at))


def autocorrelations(psi: np.ndarray) -> list[float]:
    """From partial ones: each lag's correlation given all shorter ones (Yule and Walker)."""
    r = [1.0]
    for k, x in enumerate(LARGEST * np.sin(psi), 1):
        if k == 1:
            r.append(x)
            continue
        M = np.array([[r[abs(a - b)] for b in range(k - 1)] for a in range(k - 1)])
        front, back = np.array(r[1:k]), np.array(r[1:k])[::-1]
        solved = np.linalg.solve(M, back)
        mean = front @ solved
        r.append(mean + x * (1.0 - front @ np.linalg.solve(M, front)))
    return r


def residual_matrix(design: Design, phi: np.ndarray) -> np.ndarray:
    """R at phi, relative to sigma^2, (n, n)."""
    assert design.residual is not None
    return Residuals(design.residual, design.weights)(phi)


def dense_value(design: Design, x: np.ndarray, reml: bool) -> float:
    """The deviance at (theta, phi) by dense linear algebra."""
    covariance = Covariance.of(design.terms)
    theta, phi = x[: covariance.n_theta], x[covariance.n_theta :]
    known = 1.0 if design.residual is not None and design.residual.kind == "us" else None
    R = residual_matrix(design, phi)
    return DenseDeviance(design, covariance, reml=reml, known_scale=known, R=R).value(theta)
