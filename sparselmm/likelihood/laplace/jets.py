"""Derivatives of the rows' log-likelihoods, and how they pass through a function.

Every row has a predictor ``eta`` and up to two more, ``a_1`` and ``a_2`` (dispersion, zero
inflation, thresholds). The gradient of Laplace's deviance needs three derivatives in ``eta``, and
for each ``a`` those of the first two derivatives by ``eta``; its curvature needs ``l_aa`` as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparselmm.base.types import FloatArray


@dataclass(frozen=True, eq=False)
class Jet:
    """Log-likelihoods of rows and their derivatives, each (n,).

    Attributes
    ----------
    f, e, ee, eee : ndarray, (n,)
        Value, and derivatives in ``eta``.
    a : tuple of (f_a, f_ea, f_eea)
        For each further predictor; empty where they were not asked for.
    aa : dict
        ``f_aa`` for pairs ``(i, j)``, ``i <= j``; zero where it is missing.
    """

    f: FloatArray
    e: FloatArray
    ee: FloatArray
    eee: FloatArray
    a: tuple[tuple[FloatArray, FloatArray, FloatArray], ...] = ()
    aa: dict[tuple[int, int], FloatArray] | None = None

    def through(self, x1: FloatArray, x2: FloatArray, x3: FloatArray) -> Jet:
        """The jet in ``eta`` of one in ``x``, by the derivatives of ``x(eta)``."""
        square = x1 * x1
        return Jet(
            self.f,
            self.e * x1,
            self.ee * square + self.e * x2,
            self.eee * square * x1 + 3.0 * self.ee * x1 * x2 + self.e * x3,
            tuple((f, e * x1, ee * square + e * x2) for f, e, ee in self.a),
            self.aa,
        )

    def plus(self, other: Jet) -> Jet:
        """Sum of two jets; only the first has further predictors."""
        return Jet(
            self.f + other.f, self.e + other.e, self.ee + other.ee, self.eee + other.eee,
            self.a, self.aa,
        )  # fmt: skip

    def times(self, weights: FloatArray) -> Jet:
        """Every number of a row times its weight; rows of weight zero are zero."""
        live = weights != 0.0

        def by(x: FloatArray) -> FloatArray:
            return np.where(live, x, 0.0) * weights

        return Jet(
            by(self.f), by(self.e), by(self.ee), by(self.eee),
            tuple((by(f), by(e), by(ee)) for f, e, ee in self.a),
            None if self.aa is None else {key: by(x) for key, x in self.aa.items()},
        )  # fmt: skip

    def outer(self, s1: FloatArray, s2: FloatArray, s3: FloatArray, f: FloatArray) -> Jet:
        """The jet of ``S(l)``, from the derivatives of S at the values ``l`` of this one."""
        e, ee = self.e, self.ee
        square = e * e
        a = tuple(
            (
                s1 * fa,
                s1 * ea + s2 * e * fa,
                s1 * eea + s2 * (2.0 * e * ea + ee * fa) + s3 * square * fa,
            )
            for fa, ea, eea in self.a
        )
        aa = None
        if self.aa is not None:
            firsts = [fa for fa, _, _ in self.a]
            aa = {
                (i, j): s1 * self.aa.get((i, j), 0.0) + s2 * firsts[i] * firsts[j]
                for i in range(len(firsts))
                for j in range(i, len(firsts))
            }
        return Jet(
            f, s1 * e, s1 * ee + s2 * square,
            s1 * self.eee + 3.0 * s2 * e * ee + s3 * square * e, a, aa,
        )  # fmt: skip


def stacked(jet: Jet, others: Sequence[tuple[FloatArray, FloatArray, FloatArray]]) -> Jet:
    """The jet with further predictors appended."""
    return Jet(jet.f, jet.e, jet.ee, jet.eee, (*jet.a, *others), jet.aa)
