"""Phi as one more term of the covariance parameters, for the search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparselmm.base.types import BoolArray, FloatArray, IntArray
from sparselmm.likelihood.residual.structure import Structure
from sparselmm.likelihood.term_covariance import TermCovariance


@dataclass(frozen=True, eq=False)
class PhiTerm(TermCovariance):
    """The parameters of R next to theta: what a search asks of a term."""

    structure: Structure

    @staticmethod
    def of(structure: Structure) -> PhiTerm:
        """For a structure; ``rows`` and ``cols`` are only there to be as many as phi."""
        each = np.arange(structure.n)
        return PhiTerm(structure.n, each, each, structure)

    @property
    def on_diagonal(self) -> BoolArray:
        """None of phi is a standard deviation that may vanish."""
        return np.zeros(self.k, dtype=bool)

    @property
    def n_tangent(self) -> int:
        """Coordinates of a step."""
        return self.k

    @property
    def in_tangent(self) -> IntArray:
        """All of them."""
        return np.arange(self.k)

    def move(self, theta: FloatArray, step: FloatArray) -> FloatArray:
        """Phi after a step."""
        return theta + step

    def carried_back(
        self, theta: FloatArray, step: FloatArray, after: FloatArray, slope: FloatArray
    ) -> FloatArray:
        """The same gradient."""
        return slope

    def rectify(self, theta: FloatArray) -> FloatArray:
        """The phi of the same R in the range shown to users."""
        return self.structure.rectify(theta)

    def sizes(self, theta: FloatArray, units: FloatArray, smallest: float) -> FloatArray:
        """What counts as one."""
        return np.maximum(np.abs(self.structure.metric(theta)).max(axis=1, initial=0.0), 1e-8)

    def steps(
        self, theta: FloatArray, unit: FloatArray, smallest: float, slope: FloatArray
    ) -> FloatArray:
        """Steps that count as one, by columns."""
        return self.structure.metric(theta)

    def snapped(self, theta: FloatArray, units: FloatArray, below: float) -> FloatArray:
        """Nothing is at zero."""
        return theta

    def at_zero(self, theta: FloatArray) -> BoolArray:
        """Nothing is at zero."""
        return np.zeros(self.k, dtype=bool)

    def factor(self, theta: FloatArray) -> FloatArray:
        """Phi has none."""
        return np.eye(self.k)

    def distance(
        self, theta: FloatArray, other: FloatArray, unit: FloatArray, smallest: float
    ) -> float:
        """How far another R is from this one."""
        return self.structure.distance(theta, other)
