"""Likelihoods that rise without end along one combination of random coefficients.

Let the covariance of every term have some rank, its directions C_t, and ``Z_C`` be the columns
``Z_t (I (x) C_t)`` side by side. Where the response lies in the span of X and ``Z_C`` and that of
``Z_C`` (for the restricted likelihood, of X and ``Z_C``) is not everything, the likelihood rises
without end as the residual variance vanishes. A free covariance of rank r has ``r (k - r)`` numbers
in its directions to place the response there; as many more rows than columns can be reproduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, product

import numpy as np
import scipy

from sparselmm.base.types import FloatArray
from sparselmm.design.rows import response, term_z
from sparselmm.design.terms import Design
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.patterned import Heterogeneous
from sparselmm.likelihood.term_covariance import TermCovariance

SMALL_WORK = 2e6
"""Operations of one projection up to which directions are looked for."""

MOST_RANKS, STARTS = 60, 6
"""Combinations of ranks that are tried, and starts of each."""

REPRODUCED = 1e-9
"""Share of the response left over that counts as nothing."""

ENDLESS = (
    "the likelihood has no maximum: along some combination of the random coefficients fixed and "
    "random effects reproduce every response, so that it rises without end as the residual "
    "variance vanishes, and the estimates are one of its local maxima. Use fewer random "
    "coefficients or levels"
)


def rises_without_end(design: Design, covariance: Covariance, reml: bool) -> bool:
    """Whether a small model has such directions."""
    n, width = design.n_counted, design.p + design.q
    if width < n or float(n) * width**2 > SMALL_WORK:
        return False
    counted = design.counted
    X, y = design.X[counted], response(design)[counted]
    size = np.abs(X).max(axis=0, initial=0.0)
    X = X[:, size > 0] / size[size > 0]
    Z = [term_z(term)[counted].toarray().reshape(n, -1, term.k) for term in design.terms]
    ranks = [_ranks(term) for term in covariance.terms]
    tried = islice((c for c in product(*ranks) if any(free for _, free in c)), MOST_RANKS)
    return any(_reproduced(X, y, Z, covariance.terms, c, reml) for c in tried)


def _ranks(term: TermCovariance) -> list[tuple[int, int]]:
    """Ranks of a term's covariance, and how many numbers its directions have."""
    k = term.k
    if isinstance(term, Heterogeneous):
        return [(0, 0), (1, k - 1), (k, 0)]
    if term.is_diagonal or term.n_theta < k * (k + 1) // 2:
        return [(0, 0), (k, 0)]
    return [(r, r * (k - r)) for r in range(k + 1)]


def _reproduced(
    X: FloatArray, y: FloatArray, Z: Sequence[FloatArray], terms: Sequence[TermCovariance],
    ranks: Sequence[tuple[int, int]], reml: bool,
) -> bool:  # fmt: skip
    """Whether directions of these ranks leave nothing of the response."""
    n, rng = len(y), np.random.default_rng(0)
    sizes = [term.k * r for term, (r, free) in zip(terms, ranks, strict=True) if free]

    def columns(x: FloatArray) -> FloatArray:
        own, parts = iter(np.split(x, np.cumsum(sizes)[:-1])), [np.zeros((n, 0))]
        for z, term, (r, free) in zip(Z, terms, ranks, strict=True):
            C = np.eye(term.k)[:, :r]
            if free:
                given = next(own).reshape(term.k, r)
                C = np.abs(given) if isinstance(term, Heterogeneous) else np.linalg.qr(given)[0]
            parts.append((z @ C).reshape(n, -1))
        return np.hstack(parts)

    def basis(x: FloatArray) -> FloatArray:
        U, s, _ = np.linalg.svd(np.hstack([X, columns(x)]), full_matrices=False)
        return U[:, s > 1e-10 * s[0]]

    def left(x: FloatArray) -> FloatArray:
        U = basis(x)
        return (y - U @ (U.T @ y)) / scale

    scale = float(np.linalg.norm(y - X @ np.linalg.lstsq(X, y, rcond=None)[0])) or 1.0
    start = rng.normal(size=sum(sizes))
    spanned = basis(start).shape[1]
    alone = spanned if reml else np.linalg.matrix_rank(columns(start))
    if alone >= n or spanned + sum(free for _, free in ranks) < n:
        return False
    for _ in range(STARTS):
        found = scipy.optimize.least_squares(left, start, xtol=1e-15, ftol=1e-15, gtol=1e-15)
        if np.linalg.norm(found.fun) < REPRODUCED:
            return True
        start = rng.normal(size=len(start))
    return False
