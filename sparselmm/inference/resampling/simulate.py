"""Responses simulated from a model: ``y = X beta + offset + Z b + e``.

``b = sigma Lambda u`` and ``e = sigma z / sqrt(w)`` with u and z standard normal. Replicate ``i``
of a seed draws from its own stream, ``SeedSequence(seed)`` with spawn key ``i``, so that it is
the same whatever the number of replicates, their order, and the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from sparselmm.base.seeds import stream
from sparselmm.base.types import CSR, FloatArray, IntArray
from sparselmm.design.terms import RandomTerm

DRAWN = 24
"""Bytes for each normal deviate drawn: itself, its product and the response."""


@dataclass(frozen=True, eq=False)
class Simulator:
    """Draws responses.

    Attributes
    ----------
    mean : ndarray, (n,)
        What every response has in common: ``X beta`` and the offset, and ``Z b`` when the random
        effects are held fixed.
    Z : csr_array, (n, q)
        Design of the random effects that are drawn; q = 0 when none is.
    roots : tuple of ndarray, (k, k)
        ``sigma lambda_t`` of every term in the order of the columns of Z.
    sizes : tuple of (k, l)
        Coefficients per level and levels of every term.
    noise : ndarray, (n,)
        Standard deviation of every row's residual.
    """

    mean: FloatArray
    Z: CSR
    roots: tuple[FloatArray, ...]
    sizes: tuple[tuple[int, int], ...]
    noise: FloatArray

    def draw(self, seed: np.random.SeedSequence, replicates: Iterable[int]) -> FloatArray:
        """Replicates of a seed, one per row, (m, n)."""
        n, q = self.Z.shape
        normal = np.array([self.normal(seed, i) for i in replicates]).reshape(-1, q + n)
        return self.mean + self._random(normal[:, :q]) + normal[:, q:] * self.noise

    def normal(self, seed: np.random.SeedSequence, i: int) -> FloatArray:
        """Deviates of one replicate: of the random effects, then of the residuals, (q + n,)."""
        return np.random.default_rng(stream(seed, i)).standard_normal(sum(self.Z.shape))

    def _random(self, u: FloatArray) -> FloatArray:
        """``Z Lambda u`` of stacked u, (m, n)."""
        b, first = np.empty_like(u), 0
        for root, (k, l) in zip(self.roots, self.sizes, strict=True):
            part = slice(first, first + k * l)
            b[:, part] = (u[:, part].reshape(-1, k) @ root.T).reshape(len(u), k * l)
            first += k * l
        return np.ascontiguousarray((self.Z @ b.T).T)


def noise_sizes(sigma: float, weights: FloatArray | None, n: int) -> FloatArray:
    """Standard deviation of every row's residual; zero for rows of weight zero, (n,)."""
    if weights is None:
        return np.full(n, sigma)
    positive = weights > 0
    return np.where(positive, sigma / np.sqrt(np.where(positive, weights, 1.0)), 0.0)


def with_unseen(
    term: RandomTerm, names: Callable[[RandomTerm, IntArray], list[str]]
) -> tuple[RandomTerm, int]:
    """The term with codes for levels the fit has not seen, and how many levels there are then."""
    if term.codes is None:
        return term, term.n_levels
    unseen = np.flatnonzero(term.codes < 0)
    if not len(unseen):
        return term, term.n_levels
    distinct, place = np.unique(np.array(names(term, unseen), dtype=str), return_inverse=True)
    codes = term.codes.astype(np.int64)
    codes[unseen] = term.n_levels + place
    return replace(term, codes=codes), term.n_levels + len(distinct)
