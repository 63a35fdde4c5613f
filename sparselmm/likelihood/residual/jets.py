"""Products and sums of values with their first and second derivatives, for recursions over lags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparselmm.base.types import FloatArray

LEFT = 5e-7
"""What a correlation leaves to one at least: R keeps its digits, and an end at the limit, where
random effects fill the directions that R leaves empty, is a stationary point like any other."""

CAPPED = 2.0
"""Distance of a correlation from one, in those of the nearest one, at which it stands there."""


@dataclass(frozen=True, eq=False)
class Jet:
    """A value with its gradient (J,) and Hessian (J, J) in the parameters."""

    value: float
    first: FloatArray
    second: FloatArray

    def __mul__(self, other: Jet) -> Jet:
        cross = np.outer(self.first, other.first)
        return Jet(
            self.value * other.value,
            self.value * other.first + other.value * self.first,
            self.value * other.second + other.value * self.second + cross + cross.T,
        )

    def __add__(self, other: Jet) -> Jet:
        return Jet(self.value + other.value, self.first + other.first, self.second + other.second)

    def __sub__(self, other: Jet) -> Jet:
        return Jet(self.value - other.value, self.first - other.first, self.second - other.second)


def constant(value: float, n: int) -> Jet:
    """A number that depends on no parameter."""
    return Jet(value, np.zeros(n), np.zeros((n, n)))


def sine(psi: FloatArray, left: float = LEFT) -> tuple[FloatArray, FloatArray]:
    """Correlations ``(1 - left) sin psi`` of angles, and their derivatives."""
    return (1.0 - left) * np.sin(psi), (1.0 - left) * np.cos(psi)


def sines(psi: FloatArray) -> list[Jet]:
    """`sine` of every parameter."""
    eye = np.eye(len(psi))
    values, slopes = sine(psi)
    return [
        Jet(float(r), slopes[j] * eye[j], -r * np.outer(eye[j], eye[j]))
        for j, r in enumerate(values)
    ]


def lag_correlations(psi: FloatArray) -> list[Jet]:
    """Correlations at lags 0, 1, ..., J from partial ones ``sin(psi)`` (Durbin and Levinson).

    ``r_k = p_k v_(k-1) + sum_i a_(k-1),i r_(k-i)``, ``a_kk = p_k``, ``a_ki = a_(k-1),i -
    p_k a_(k-1),(k-i)``, ``v_k = v_(k-1) (1 - p_k^2)``: positive definite for every psi.
    """
    n, partial = len(psi), sines(psi)
    one = constant(1.0, n)
    r, v = [one], one
    a: list[Jet] = []
    for p in partial:
        total = p * v
        for i, own in enumerate(a, 1):
            total = total + own * r[len(a) + 1 - i]
        r.append(total)
        a = [own - p * a[len(a) - 1 - i] for i, own in enumerate(a)] + [p]
        v = v * (one - p * p)
    return r


def products_between(psi: FloatArray) -> list[list[Jet]]:
    """Correlations of any two of J + 1 places in a row, each the product of those between."""
    n, steps = len(psi), sines(psi)
    out: list[list[Jet]] = [[constant(1.0, n) for _ in range(n + 1)] for _ in range(n + 1)]
    for a in range(n + 1):
        total = constant(1.0, n)
        for b in range(a + 1, n + 1):
            total = total * steps[b - 1]
            out[a][b] = out[b][a] = total
    return out
