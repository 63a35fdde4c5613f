"""The covariance of one term's coefficients: theta, its factor ``lambda_t``, steps of both.

``lambda_t`` is lower triangular ``k x k``, and ``Psi_t = sigma^2 lambda_t lambda_t'`` is the
covariance of the coefficients. Theta holds the free entries of ``lambda_t`` column by column, the
order of Bates, Maechler, Bolker & Walker (2015), section 2.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from sparselmm.base.smallmatrix import (
    columns_of_triangle,
    identity,
    lower_triangle,
    root_of_sum,
    solve_triangular,
    svd,
    triangular_root,
)
from sparselmm.base.types import BoolArray, FloatArray, IntArray, Snapshot

NUMEROUS = 20
"""Parameters of a term that are many, see :mod:`sparselmm.likelihood.expected`."""

FEW_LEVELS = 4.0
"""Levels per parameter below which the effects of the levels tell too little of a Hessian."""


@dataclass(frozen=True, eq=False)
class TermCovariance(Snapshot):
    """Where the entries of one term's theta stand in its ``lambda_t``.

    Theta may be one, (n_theta,), or a stack of them, (..., n_theta), with factors (..., k, k), in
    what many searches at once ask: factors, pivots, sizes, moves, and what they end with.

    Attributes
    ----------
    k : int
        Order of ``lambda_t``.
    rows, cols : ndarray of int, (m,)
        ``lambda_t[rows[i], cols[i]] = theta_t[i]``; ``rows >= cols``.
    """

    k: int
    rows: IntArray
    cols: IntArray

    @staticmethod
    @cache
    def unstructured(k: int) -> TermCovariance:
        """Every covariance of ``k`` coefficients."""
        kind = OneCoefficient if k == 1 else TermCovariance
        return kind(k, *columns_of_triangle(k))

    @staticmethod
    @cache
    def diagonal(k: int) -> TermCovariance:
        """``k`` independent coefficients."""
        if k == 1:
            return TermCovariance.unstructured(k)
        each = np.arange(k)
        each.flags.writeable = False  # shared by all callers
        return TermCovariance(k, each, each)

    @property
    def n_theta(self) -> int:
        """Number of parameters."""
        return len(self.rows)

    @cached_property
    def on_diagonal(self) -> BoolArray:
        """Which parameters are zero exactly when a variance is, (n_theta,)."""
        return np.asarray(self.rows == self.cols)

    @cached_property
    def places(self) -> IntArray:
        """Where theta stands in ``lambda_t`` row by row, (n_theta,)."""
        return np.asarray(self.rows * self.k + self.cols)

    @property
    def is_diagonal(self) -> bool:
        """Whether theta are the diagonal entries of ``lambda_t`` and nothing else is free."""
        return len(self.rows) == self.k

    @property
    def is_unstructured(self) -> bool:
        """Whether every covariance of the coefficients is one of these."""
        return type(self) is TermCovariance and self.n_theta == self.k * (self.k + 1) // 2

    def is_numerous(self, levels: int) -> bool:
        """Whether the parameters are many, and the effects of so few levels tell too little."""
        return self.n_theta >= NUMEROUS and levels < FEW_LEVELS * self.n_theta

    @cached_property
    def tangent(self) -> tuple[IntArray, IntArray]:
        """Rows and columns of the entries of ``lambda_t`` a step may change, each (m,).

        A triangle is only one of the square roots of ``Psi_t``. Steps move all k x k entries, so
        that no coefficient is favoured by its place; `retract` makes the root triangular again.
        """
        if self.is_diagonal:
            return self.rows, self.cols
        rows, cols = np.divmod(np.arange(self.k**2), self.k)
        return rows, cols

    @cached_property
    def tangent_pairs(self) -> tuple[IntArray, IntArray, BoolArray]:
        """Rows of every two of these, and whether they stand in one column, each (m, m)."""
        rows, cols = self.tangent
        return rows[:, None], rows[None, :], cols[:, None] == cols

    @property
    def n_tangent(self) -> int:
        """Number of coordinates of a step."""
        return len(self.tangent[0])

    @cached_property
    def in_tangent(self) -> IntArray:
        """Which coordinates of a step are the entries of theta, (n_theta,)."""
        if self.is_diagonal:
            return np.arange(self.k)
        return self.rows * self.k + self.cols

    def slopes(self, theta: FloatArray) -> FloatArray | None:
        """Derivatives of ``lambda_t`` in the coordinates of a step, (m, k, k).

        None where they are the matrices with a single one at `tangent`.
        """
        return None

    def symmetric_steps(self, theta: FloatArray, back: FloatArray) -> FloatArray:
        """``lambda^-1 dlambda + (lambda^-1 dlambda)'`` of every coordinate of a step, (m, k, k).

        ``back`` is ``lambda_t^-1``.
        """
        rows, cols = self.tangent
        half = back.T[rows, :, None] * identity(self.k)[cols, None, :]
        return half + half.transpose(0, 2, 1)

    def moved(self, theta: FloatArray, back: FloatArray, u: FloatArray) -> FloatArray:
        """The `symmetric_steps` times the effects u (l, k) of every level, (l, k, m)."""
        if self.is_diagonal:
            out = np.zeros((len(u), self.k, self.k))
            np.einsum("lkk->lk", out)[...] = 2.0 * np.diag(back) * u
            return out
        wide = self.symmetric_steps(theta, back).transpose(2, 1, 0).reshape(self.k, -1)
        return np.asarray((u @ wide).reshape(len(u), self.k, -1))

    def bends(self, theta: FloatArray, slope: FloatArray) -> FloatArray | None:
        """``<slope, d^2 lambda_t>`` for a (k, k) slope, (m, m); None where all of it is zero."""
        return None

    def chain(self, theta: FloatArray, slope: FloatArray) -> FloatArray:
        """Derivative in theta from the (k, k) derivative in the entries of ``lambda_t``."""
        return slope[self.rows, self.cols]

    def tangent_chain(self, theta: FloatArray, slope: FloatArray) -> FloatArray:
        """The same in the coordinates of a step, (m,)."""
        return slope[self.tangent]

    def coordinates(self, lam: FloatArray) -> FloatArray:
        """Theta of the nearest covariance of this structure to ``lam lam'``, lam triangular."""
        return lam[..., self.rows, self.cols]

    def divide(self, lam: FloatArray, x: FloatArray) -> FloatArray:
        """``lambda_t^-T x``."""
        return solve_triangular(lam, x, lower=True, transposed=True)

    def triangular(self, lam: FloatArray) -> FloatArray:
        """Lower-triangular root of ``lam lam'``."""
        return lam

    def retract(self, lam: FloatArray) -> FloatArray:
        """Theta of the triangular root with non-negative diagonal of ``lam lam'``."""
        lower: FloatArray = lower_root(lam)
        return lower[..., self.rows, self.cols]

    def move(self, theta: FloatArray, step: FloatArray) -> FloatArray:
        """Theta after a step, (..., n_theta)."""
        lam = self.factor(theta)
        lam[(..., *self.tangent)] += step
        return self.retract(lam)

    def carried_back(
        self, theta: FloatArray, step: FloatArray, after: FloatArray, slope: FloatArray
    ) -> FloatArray:
        """Gradient ``slope`` at ``after = move(theta, step)`` in the coordinates of the step, (m,).

        The step leads to ``lam = L Q`` with L triangular and Q a rotation. The deviance is that of
        L, and its derivative at ``lam`` is the one at L times Q.
        """
        lam = self.factor(theta)
        lam[self.tangent] += step
        if self.is_diagonal:
            return np.where(np.diag(lam) < 0, -1.0, 1.0) * slope
        Q, R = np.linalg.qr(lam.T)
        turn = np.where(np.diag(R) < 0, -1.0, 1.0)[:, None] * Q.T
        return np.asarray((slope.reshape(self.k, self.k) @ turn).ravel())

    def rectify(self, theta: FloatArray) -> FloatArray:
        """The theta of the same ``Psi_t`` in the range shown to users."""
        if (theta[..., self.on_diagonal] > 0.0).all():
            return theta + 0.0
        lam = self.factor(theta)
        sign = np.where(_diagonal(lam) < 0, -1.0, 1.0)
        return (lam * sign[..., None, :])[..., self.rows, self.cols] + 0.0

    def units(self, rms: FloatArray) -> FloatArray:
        """What counts as one in each entry of theta, from the covariates' root mean squares."""
        return np.asarray(1.0 / np.where(rms > 0, rms, 1.0)[self.rows])

    def pivot(self, lam: FloatArray, units: FloatArray) -> FloatArray:
        """Smallest diagonal of ``lambda_t`` as a share of its row, or of what counts as one."""
        unit = np.ones(self.k)
        unit[self.rows] = units
        share = np.abs(_diagonal(lam)) / np.maximum(row_norms(lam), unit)
        return np.asarray(share.min(axis=-1, initial=np.inf))

    def sizes(self, theta: FloatArray, units: FloatArray, smallest: float) -> FloatArray:
        """Standard deviation of the coefficient each entry of theta belongs to, (..., n_theta)."""
        unit = np.ones(self.k)
        unit[self.rows] = units
        sd = np.maximum(row_norms(self.factor(theta)), smallest * unit)
        return np.asarray(sd[..., self.rows])

    def distance(
        self, theta: FloatArray, other: FloatArray, unit: FloatArray, smallest: float
    ) -> float:
        """How far the covariance of ``other`` is from that of theta, relative to it."""
        lam, far = self.factor(theta), self.factor(other)
        metric = root_of_sum(lam, smallest * unit)
        half = np.linalg.solve(metric, far @ far.T - lam @ lam.T)
        return float(np.linalg.norm(np.linalg.solve(metric, half.T)))

    def steps(
        self, theta: FloatArray, unit: FloatArray, smallest: float, slope: FloatArray
    ) -> FloatArray:
        """Steps that change ``Psi_t``, orthonormal in the metric of the trust region.

        Parameters
        ----------
        theta : ndarray, (n_theta,)
        unit : ndarray, (k, k)
            Root of the covariance that counts as one.
        smallest : float
            Share of it below which a covariance counts no less.
        slope : ndarray, (m,)
            Gradient in the coordinates of steps: what stands at a wall and is pressed against it
            stays there.

        Returns
        -------
        ndarray, (m, number of steps)
        """
        lam = self.factor(theta)
        metric = root_of_sum(lam, smallest * unit)
        if self.is_diagonal:  # no rotation keeps it so
            return np.diag(np.diag(metric))
        mixed = metric @ across_rotations(solve_triangular(metric, lam, lower=True))
        return np.asarray(mixed.reshape(len(mixed), -1).T)

    def snapped(self, theta: FloatArray, units: FloatArray, below: float) -> FloatArray:
        """Theta with the columns of ``lambda_t`` that are all below a limit set to zero."""
        if (np.abs(theta) >= below * units).all():
            return theta
        small = np.abs(self.factor(theta / units)).max(axis=-2) < below
        return np.where(small[..., self.cols], 0.0, theta)

    def at_zero(self, theta: FloatArray) -> BoolArray:
        """Entries in columns of ``lambda_t`` that are entirely zero, (..., n_theta)."""
        if theta.all():
            return np.zeros(theta.shape, dtype=bool)
        used = np.asarray(self.factor(theta).any(axis=-2))
        return np.asarray(~used[..., self.cols])

    @property
    def moment_form(self) -> TermCovariance:
        """The covariance whose entries the moment estimates give."""
        return self

    def factor(self, theta: FloatArray) -> FloatArray:
        """``lambda_t``, (..., k, k)."""
        lam = np.zeros((*theta.shape[:-1], self.k, self.k))
        if lam.ndim == 2:
            lam.put(self.places, theta)
        else:
            lam[..., self.rows, self.cols] = theta
        return lam


class OneCoefficient(TermCovariance):
    """A lone standard deviation, of which there is nothing to factor, turn or solve."""

    def factor(self, theta: FloatArray) -> FloatArray:
        """``lambda_t``, (..., 1, 1)."""
        return theta[..., None].copy()

    def retract(self, lam: FloatArray) -> FloatArray:
        """Theta of the triangular root with non-negative diagonal of ``lam lam'``."""
        return np.abs(lam[..., 0]) if lam.shape[-1] == 1 else np.sqrt((lam * lam).sum(axis=-1))

    def move(self, theta: FloatArray, step: FloatArray) -> FloatArray:
        """Theta after a step, (..., 1)."""
        return np.abs(theta + step)

    def rectify(self, theta: FloatArray) -> FloatArray:
        """The theta of the same ``Psi_t`` in the range shown to users."""
        return np.abs(theta)

    def divide(self, lam: FloatArray, x: FloatArray) -> FloatArray:
        """``lambda_t^-T x``."""
        return x / lam[0, 0] if lam[0, 0] else super().divide(lam, x)

    def moved(self, theta: FloatArray, back: FloatArray, u: FloatArray) -> FloatArray:
        """Twice the effects u (l, 1) of every level by the inverse of ``lambda_t``, (l, 1, 1)."""
        return (2.0 * back[0, 0] * u)[:, :, None]

    def pivot(self, lam: FloatArray, units: FloatArray) -> FloatArray:
        """The size of ``lambda_t`` as a share of itself, or of what counts as one."""
        size = np.abs(lam[..., 0, 0])
        return np.asarray(size / (np.maximum(size, units[0]) if size.ndim else max(size, units[0])))

    def sizes(self, theta: FloatArray, units: FloatArray, smallest: float) -> FloatArray:
        """Standard deviation of the coefficient, (..., 1)."""
        return np.maximum(np.abs(theta), smallest * units)

    def steps(
        self, theta: FloatArray, unit: FloatArray, smallest: float, slope: FloatArray
    ) -> FloatArray:
        """The one step, of the length of the present standard deviation, (1, 1)."""
        return np.hypot(theta, smallest * unit)

    def snapped(self, theta: FloatArray, units: FloatArray, below: float) -> FloatArray:
        """Theta, or zero where it is below a limit."""
        return np.where(np.abs(theta) < below * units, 0.0, theta)

    def at_zero(self, theta: FloatArray) -> BoolArray:
        """Whether theta is zero, (..., 1)."""
        return np.asarray(theta == 0.0)


def row_norms(lam: FloatArray) -> FloatArray:
    """Lengths of the rows of matrices, (..., k)."""
    return np.asarray(np.sqrt((lam * lam).sum(axis=-1)))


def _diagonal(lam: FloatArray) -> FloatArray:
    """Diagonals of matrices, (..., k)."""
    return lam.diagonal(0, -2, -1)


def across_rotations(lam: FloatArray) -> FloatArray:
    """Orthonormal complement of ``lam K`` for all skew-symmetric K, (m, k, k).

    With the singular value decomposition ``lam = U S V'`` it is all ``U Y V'`` with ``S Y``
    symmetric. Two singular values of zero leave both entries of Y free.
    """
    if len(lam) == 2 and lam.any():
        return _across_one_rotation(lam)
    U, s, Vt = svd(lam)
    s = np.where(s > 1e-8 * s[0], s, 0.0)
    rows, cols = lower_triangle(len(s), diagonal=False)
    first, second, Y = _planes(len(s))
    size = np.hypot(s[rows], s[cols])
    lost = np.flatnonzero(size == 0.0)
    if len(lost):
        size[lost] = 1.0
        Y = np.concatenate([Y, np.zeros((len(lost), *Y.shape[1:]))])
        Y[-len(lost) :][np.arange(len(lost)), cols[lost], rows[lost]] = 1.0
    else:
        Y = Y.copy()
    flat = Y.reshape(-1)
    flat[first], flat[second] = s[cols] / size, s[rows] / size
    flat[first[lost]] = 1.0
    return np.asarray(U @ Y @ Vt)


ALTERNATING = np.array([1.0, -1.0, 1.0, -1.0])


def _across_one_rotation(lam: FloatArray) -> FloatArray:
    """The same of two coefficients, (3, 2, 2), by the reflection of ``lam K`` to the first axis."""
    turned = lam[:, ::-1].ravel() * ALTERNATING
    turned /= math.sqrt(turned @ turned)
    sign = math.copysign(1.0, turned[0])
    rest = turned[1:]
    out = np.empty((3, 4))
    out[:, 0] = -sign * rest
    out[:, 1:] = identity(3) - rest[:, None] * (rest / (1.0 + abs(turned[0])))
    return out.reshape(3, 2, 2)


@cache
def _planes(k: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Units of the diagonal and room for one matrix per pair of rows, (m, k, k).

    Before it where in all of it, flat, the two entries of each pair stand.
    """
    rows, cols = lower_triangle(k, diagonal=False)
    Y = np.zeros((k + len(rows), k, k))
    Y[np.arange(k), np.arange(k), np.arange(k)] = 1.0
    start = (k + np.arange(len(rows))) * k * k
    return start + rows * k + cols, start + cols * k + rows, Y


def lower_root(lam: FloatArray) -> FloatArray:
    """Lower-triangular roots with non-negative diagonal of ``lam lam'``, singular ones included."""
    if lam.ndim == 2:
        return triangular_root(lam.T)
    R = np.asarray(np.linalg.qr(lam.swapaxes(-1, -2), mode="r"))
    sign = np.where(_diagonal(R) < 0, -1.0, 1.0)
    return np.asarray((R * sign[..., None]).swapaxes(-1, -2))
