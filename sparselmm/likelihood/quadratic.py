"""The quadratic model of a step, for one search or for a stack of them, and its trust region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparselmm.base.smallmatrix import eigen
from sparselmm.base.types import BoolArray, FloatArray

ROOT_STEPS = 60
"""Most steps of the search for the multiplier of the trust region."""

ROOT = 1e-12
"""Relative difference of the length of a step from the radius that counts as none."""


@dataclass(frozen=True, eq=False)
class Quadratic:
    """The model ``g's + s'Hs / 2`` of a change of the deviance, in the axes of its curvature.

    The leading axes are those of a stack of models; a single one has none.

    Attributes
    ----------
    values, vectors : ndarray, (..., m) and (..., m, m)
        Eigenvalues of H, ascending, and their vectors.
    part : ndarray, (..., m)
        The gradient g along these.
    """

    values: FloatArray
    vectors: FloatArray
    part: FloatArray

    @classmethod
    def of(cls, hessian: FloatArray, gradient: FloatArray) -> Quadratic:
        """From H, (..., m, m), and g, (..., m)."""
        if hessian.ndim == 2:
            values, vectors = eigen(hessian)
            return cls(values, vectors, gradient @ vectors)
        values, vectors = np.linalg.eigh(hessian)
        return cls(values, vectors, np.einsum("...ji,...j->...i", vectors, gradient))

    @property
    def expected_decrease(self) -> Any:
        """Decrease promised by a full Newton step with the curvature made positive, (...)."""
        sizes = np.abs(self.values)
        if sizes.ndim == 1:
            floor = 1e-10 * max(sizes[0], sizes[-1], 1e-300) if len(sizes) else 0.0
            return 0.5 * float(self.part / np.maximum(sizes, floor) @ self.part)
        floor = 1e-10 * np.maximum(sizes.max(axis=-1, keepdims=True, initial=0.0), 1e-300)
        return 0.5 * (self.part**2 / np.maximum(sizes, floor)).sum(axis=-1)

    def step(self, radius: Any) -> tuple[FloatArray, Any]:
        """Minimizers with ``|s| <= radius``, (..., m), and the decrease they promise, (...).

        Nocedal & Wright 2006, section 4.3; in the hard case along the lowest curvature to the edge.
        """
        values, part = self.values, self.part
        step = -part / values if self._ends_within(radius) else self._bounded(radius)
        predicted = -((part + 0.5 * values * step) * step).sum(axis=-1)
        return (self.vectors @ step[..., None])[..., 0], predicted

    def _ends_within(self, radius: Any) -> bool:
        """Whether this is one model that is convex and has its minimum within a radius."""
        values = self.values
        if values.ndim > 1 or not values[0] > 1e-12 * max(1.0, values[-1]):
            return False
        newton = self.part / values
        return bool(newton @ newton <= radius * radius)

    def _bounded(self, radius: Any) -> FloatArray:
        """The minimizers in the axes of the curvature."""
        values, part = self.values, self.part
        lowest = values[..., 0]
        tiny = 1e-12 * np.maximum(1.0, np.maximum(np.abs(lowest), np.abs(values[..., -1])))
        gaps = values - np.minimum(lowest, 0.0)[..., None]  # what a multiplier is added to
        newton = part / np.where(gaps > 0.0, gaps, 1.0)
        inner: BoolArray = (lowest > tiny) & (_length(newton) <= radius)
        if inner.all():
            return -part / values
        hard = ~inner & (_length(part / (gaps + tiny[..., None])) < radius)
        more = _multiplier(gaps, part, np.where(inner, 0.0, tiny), radius, inner | hard)
        step: FloatArray = -part / (gaps + more[..., None])
        first, rest = step[..., 0], (step[..., 1:] ** 2).sum(axis=-1)
        edge = np.sqrt(np.maximum(radius**2 - rest, 0.0))
        step[..., 0] = np.where(hard, np.where(first < 0.0, -edge, edge), first)
        return step


def _length(vectors: FloatArray) -> Any:
    return np.sqrt((vectors**2).sum(axis=-1))


def _multiplier(
    gaps: FloatArray, part: FloatArray, start: Any, radius: Any, settled: BoolArray
) -> Any:
    """What is added to the gaps for steps that end at the edge, from where they are longer.

    Newton's method on the reciprocal of the length, which is concave: it rises to the root.
    """
    at = start
    for _ in range(ROOT_STEPS):
        shifted = gaps + at[..., None]
        scaled = part / shifted
        length = _length(scaled)
        going = ~settled & (length > (1.0 + ROOT) * radius)
        if not going.any():
            break
        slope = (scaled**2 / shifted).sum(axis=-1)
        more = length**2 / slope * (length - radius) / radius
        at = np.where(going, at + more, at)
    return at


def next_radius(radius: Any, largest: Any, ratio: Any, length: Any) -> Any:
    """Radius after steps of a length with a ratio of actual to predicted decrease, (...).

    It shrinks where the model failed, NaN among it, and grows where it held to the edge.
    """
    grows = (ratio > 0.75) & (length > 0.8 * radius)
    grown = np.where(grows, np.minimum(3.0 * radius, largest), radius)
    return np.where(ratio >= 0.25, grown, 0.25 * length)


class Radius:
    """Radius of the trust region.

    It shrinks where the model fails and grows where it holds. Its limit keeps the first steps from
    leaving for places where the model means nothing; after two steps to the edge that gained what
    the model promised the way is straight, and the limit grows threefold with each further one.
    """

    def __init__(self, start: float, largest: float) -> None:
        self.now, self.largest = start, largest
        self._straight = 0

    def update(self, ratio: float, length: float) -> None:
        """After a step of a length with a ratio of actual to predicted decrease."""
        straight = length > 0.8 * self.now and 0.9 < ratio < 1.1
        self._straight = self._straight + 1 if straight else 0
        largest = self.largest * 3.0 ** max(self._straight - 2, 0)
        self.now = float(next_radius(self.now, largest, ratio, length))
