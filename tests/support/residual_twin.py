"""The textbook's R, entry by entry, and deviances with it: shares nothing with the engine."""

from __future__ import annotations

import math

import numpy as np

from sparselmm.design.residual import ResidualRows
from sparselmm.design.terms import Design
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.dense import DenseDeviance


def correlation(rows: ResidualRows, psi: np.ndarray, i: int, j: int) -> float:
    """Correlation of two different rows of a group."""
    d = math.dist(rows.coords[i], rows.coords[j])
    if rows.kind == "ar1":
        c = math.sin(psi[0]) ** d
    elif rows.kind in ("car1", "exp"):
        c = math.exp(-d / math.exp(psi[0]))
    elif rows.kind == "gau":
        c = math.exp(-((d / math.exp(psi[0])) ** 2))
    elif rows.kind == "cs":
        low = -1.0 / (max(np.bincount(rows.group)) - 1)
        c = low + (1.0 - low) / (1.0 + math.exp(-psi[0]))
    elif rows.kind == "ad":
        a, b = sorted((rows.visits[i], rows.visits[j]))
        c = math.prod(math.sin(psi[v]) for v in range(a, b))
    elif rows.kind == "toep":
        c = autocorrelations(psi)[abs(rows.visits[i] - rows.visits[j])]
    else:
        c = 0.0
    return c * (1.0 - math.sin(psi[-1]) ** 2) if rows.nugget else c


def autocorrelations(psi: np.ndarray) -> list[float]:
    """From partial ones: each lag's correlation given all shorter ones (Yule and Walker)."""
    r = [1.0]
    for k, x in enumerate(np.sin(psi), 1):
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
    rows = design.residual
    assert rows is not None
    n, strata = design.n, max(len(rows.strata), 1)
    w = np.ones(n) if design.weights is None else design.weights
    if rows.kind == "us":
        roots = []
        for own in phi.reshape(strata, -1):
            L = np.zeros((rows.n_visits, rows.n_visits))
            L[np.triu_indices(rows.n_visits)[::-1]] = own
            roots.append(L @ L.T)
    a = rows.D.shape[1]
    psi = phi[a:].reshape(strata, -1)
    R = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if rows.group[i] != rows.group[j]:
                continue
            s = rows.stratum[i]
            if rows.kind == "us":
                R[i, j] = roots[s][rows.visits[i], rows.visits[j]]
            else:
                size = math.exp((rows.D[i] + rows.D[j]) @ phi[:a])
                R[i, j] = size * (1.0 if i == j else correlation(rows, psi[s], i, j))
            R[i, j] /= math.sqrt(w[i] * w[j])
    return R


def dense_value(design: Design, x: np.ndarray, reml: bool) -> float:
    """The deviance at (theta, phi) by dense linear algebra."""
    covariance = Covariance.of(design.terms)
    theta, phi = x[: covariance.n_theta], x[covariance.n_theta :]
    known = 1.0 if design.residual is not None and design.residual.kind == "us" else None
    R = residual_matrix(design, phi)
    return DenseDeviance(design, covariance, reml=reml, known_scale=known, R=R).value(theta)
