"""Covariances with few parameters, by a root ``lambda_t(theta)`` that need not be triangular.

The root is smooth wherever ``Psi_t`` is, its boundary included:

    homogeneous diagonal   lambda = s I
    compound symmetry      lambda = a (I - J/k) + b J/k,   Psi = a^2 (I - J/k) + b^2 J/k
    heterogeneous          lambda = D [alpha (I - J/k) + beta J/k],   alpha^2 (k-1) + beta^2 = k
    autoregressive         lambda_i1 = s_i r^(t_i - t_1),
                           lambda_ij = s_i r^(t_i - t_j) sqrt(1 - r^(2 (t_j - t_(j-1))))

with J all ones, D the standard deviations, ``alpha, beta = sqrt(k/(k-1)) cos(phi), sqrt(k)
sin(phi)``, ``r = sin(phi)`` and t the integer positions of the coefficients, ascending (the
structures are those of Pinheiro & Bates 2000, sections 4.2.2 and 5.3.1). ``I - J/k`` and ``J/k``
project on the eigenspaces of a compound symmetric matrix, whose eigenvalues are ``a^2`` and
``b^2``; its correlation is ``(b^2 - a^2) / (b^2 + (k-1) a^2)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sparselmm.base.smallmatrix import COLLINEAR, root_of_sum, solve_triangular
from sparselmm.base.types import BoolArray, FloatArray, IntArray
from sparselmm.likelihood.term_covariance import TermCovariance, lower_root


@dataclass(frozen=True, eq=False)
class Patterned(TermCovariance):
    """A covariance with fewer parameters than entries; steps move theta itself.

    ``rows`` names the coefficient whose covariate an entry of theta is measured against; angles,
    which have no unit, have ``angle`` True.

    Attributes
    ----------
    angle : ndarray of bool, (n_theta,)
        Entries of theta that are angles.
    """

    angle: BoolArray

    @classmethod
    def of_order(cls, k: int) -> Patterned:
        """The covariance of ``k`` coefficients."""
        raise NotImplementedError

    @cached_property
    def on_diagonal(self) -> BoolArray:
        """Which parameters are zero exactly when a variance is, (n_theta,)."""
        return np.asarray(~self.angle)

    @property
    def is_diagonal(self) -> bool:
        """No: theta are not the entries of a diagonal."""
        return False

    @property
    def n_tangent(self) -> int:
        """Number of coordinates of a step."""
        return self.n_theta

    @property
    def in_tangent(self) -> IntArray:
        """All of them."""
        return np.arange(self.n_theta)

    def chain(self, theta: FloatArray, slope: FloatArray) -> FloatArray:
        """Derivative in theta from the (k, k) derivative in the entries of ``lambda_t``."""
        slopes = self.slopes(theta)
        assert slopes is not None
        return np.asarray(np.einsum("mij,ij->m", slopes, slope))

    def inner(self, theta: FloatArray, P: FloatArray) -> FloatArray:
        """``<dlambda_i, P dlambda_j>`` of the derivatives of ``lambda_t``, P symmetric, (m, m)."""
        slopes = self.slopes(theta)
        assert slopes is not None
        return np.asarray(np.tensordot(slopes, P @ slopes, ((1, 2), (1, 2))))

    def symmetric_steps(self, theta: FloatArray, back: FloatArray) -> FloatArray:
        """``lambda^-1 dlambda + (lambda^-1 dlambda)'`` of every entry of theta, (m, k, k)."""
        slopes = self.slopes(theta)
        assert slopes is not None
        half = back @ slopes
        return np.asarray(half + half.transpose(0, 2, 1))

    def tangent_chain(self, theta: FloatArray, slope: FloatArray) -> FloatArray:
        """The same: steps move theta."""
        return self.chain(theta, slope)

    def divide(self, lam: FloatArray, x: FloatArray) -> FloatArray:
        """``lambda_t^-T x``."""
        return np.asarray(np.linalg.solve(lam.T, x))

    def triangular(self, lam: FloatArray) -> FloatArray:
        """Lower-triangular root of ``lam lam'``."""
        return lower_root(lam)

    def retract(self, lam: FloatArray) -> FloatArray:
        """Theta of the nearest covariance of this structure."""
        return self.coordinates(lam)

    def move(self, theta: FloatArray, step: FloatArray) -> FloatArray:
        """Theta after a step, (n_theta,)."""
        return self.rectify(theta + step)

    def carried_back(
        self, theta: FloatArray, step: FloatArray, after: FloatArray, slope: FloatArray
    ) -> FloatArray:
        """The gradient with the sign of entries that were reflected."""
        same = np.isclose(theta + step, after, rtol=0.0, atol=1e-12)
        return np.where(same, 1.0, -1.0) * slope

    def rectify(self, theta: FloatArray) -> FloatArray:
        """The theta of the same ``Psi_t`` in the range shown to users."""
        return np.where(self.angle, theta, np.abs(theta)) + 0.0

    def units(self, rms: FloatArray) -> FloatArray:
        """What counts as one in each entry of theta: one radian for an angle."""
        if len(set(self.rows.tolist())) == 1:  # one scale for all coefficients
            rms = np.full(self.k, float(np.sqrt(np.mean(rms**2))))
        return np.where(self.angle, 1.0, 1.0 / np.where(rms > 0, rms, 1.0)[self.rows])

    def pivot(self, lam: FloatArray, units: FloatArray) -> FloatArray:
        """Smallest singular value of ``lambda_t``, each row as a share of what counts as one."""
        unit = np.ones(self.k) * units[~self.angle].max(initial=0.0)
        unit[self.rows[~self.angle]] = units[~self.angle]
        size = np.maximum(np.linalg.norm(lam, axis=1), unit)
        return np.asarray(np.linalg.svd(lam / size[:, None], compute_uv=False)[-1])

    def sizes(self, theta: FloatArray, units: FloatArray, smallest: float) -> FloatArray:
        """Size of a change of theta that matters, (n_theta,)."""
        return np.where(self.angle, 1.0, np.maximum(np.abs(theta), smallest * units))

    def walls(self, theta: FloatArray) -> BoolArray:
        """Entries at zero that are no mirror: the deviance is not even in them, (n_theta,)."""
        return np.zeros(self.n_theta, dtype=bool)

    def steps(
        self, theta: FloatArray, unit: FloatArray, smallest: float, slope: FloatArray
    ) -> FloatArray:
        """Steps of theta whose changes of ``lambda_t`` are orthonormal in the same metric."""
        lam = self.factor(theta)
        free = np.flatnonzero(~(self.walls(theta) & (slope >= 0.0)))
        metric = root_of_sum(lam, smallest * unit)
        half = solve_triangular(metric, np.eye(self.k), lower=True)
        values, vectors = np.linalg.eigh(self.inner(theta, half.T @ half)[np.ix_(free, free)])
        keep = values > COLLINEAR * values[-1:].max(initial=0.0)
        out = np.zeros((self.n_theta, int(keep.sum())))
        out[free] = vectors[:, keep] / np.sqrt(values[keep])
        return out

    def snapped(self, theta: FloatArray, units: FloatArray, below: float) -> FloatArray:
        """Theta with the scales below a limit set to zero."""
        return np.where(~self.angle & (np.abs(theta) < below * units), 0.0, theta)

    def at_zero(self, theta: FloatArray) -> BoolArray:
        """Scales that are zero, and angles that then mean nothing, (n_theta,)."""
        zero = np.asarray(~self.angle & (theta == 0.0))
        few = int((~self.angle & (theta != 0.0)).sum()) < (2 if self.n_theta > 2 else 1)
        return np.asarray(zero | (self.angle & few))

    @property
    def moment_form(self) -> TermCovariance:
        """All entries are estimated by moments while they are few, else the variances."""
        few = self.k <= MOMENT_ORDER
        return TermCovariance.unstructured(self.k) if few else TermCovariance.diagonal(self.k)


class HomogeneousDiagonal(Patterned):
    """``Psi_t = s^2 I``; theta is s."""

    @classmethod
    def of_order(cls, k: int) -> Patterned:
        """The covariance of ``k`` coefficients."""
        return cls(k, np.zeros(1, np.intp), np.zeros(1, np.intp), np.zeros(1, bool))

    def factor(self, theta: FloatArray) -> FloatArray:
        """``lambda_t``, (k, k)."""
        return np.eye(self.k) * theta[0]

    def slopes(self, theta: FloatArray) -> FloatArray:
        """Derivative of ``lambda_t``, (1, k, k)."""
        return np.eye(self.k)[None]

    def coordinates(self, lam: FloatArray) -> FloatArray:
        """The root mean square standard deviation."""
        return np.array([np.sqrt(np.sum(lam**2) / self.k)])


class CompoundSymmetry(Patterned):
    """Common variance and common correlation; theta is ``a, b``, roots of the two eigenvalues.

    Of ``Psi_t / sigma^2``: ``a^2`` belongs to differences between coefficients, ``b^2`` to
    their mean.
    """

    @classmethod
    def of_order(cls, k: int) -> Patterned:
        """The covariance of ``k`` coefficients."""
        return cls(k, np.zeros(2, np.intp), np.zeros(2, np.intp), np.zeros(2, bool))

    def factor(self, theta: FloatArray) -> FloatArray:
        """``lambda_t``, (k, k)."""
        return np.asarray(np.tensordot(theta, self.slopes(theta), 1))

    def slopes(self, theta: FloatArray) -> FloatArray:
        """The two projectors, (2, k, k)."""
        return _projectors(self.k)

    def coordinates(self, lam: FloatArray) -> FloatArray:
        """Roots of the mean eigenvalues on the two eigenspaces."""
        between = float(np.sum(lam.sum(axis=0) ** 2)) / self.k
        within = max(float(np.sum(lam**2)) - between, 0.0) / (self.k - 1)
        return np.sqrt([within, between])


class Heterogeneous(Patterned):
    """Correlations of one angle; theta is the standard deviations and the angle.

    The derivative by a standard deviation is a matrix of one row: products with all k of them cost
    k^3 operations, not k^4.
    """

    @classmethod
    def of_order(cls, k: int) -> Patterned:
        """The covariance of ``k`` coefficients."""
        places = np.append(np.arange(k), 0)
        return cls(k, places, places, np.append(np.zeros(k, bool), True))

    def walls(self, theta: FloatArray) -> BoolArray:
        """Standard deviations at zero: below it a correlation would change its sign."""
        return np.asarray(~self.angle & (theta == 0.0))

    def move(self, theta: FloatArray, step: FloatArray) -> FloatArray:
        """Theta after a step that ends at the walls, (n_theta,)."""
        return self.rectify(np.where(self.angle, theta + step, np.maximum(theta + step, 0.0)))

    def _root(self, phi: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Root of the correlation matrix and its two derivatives in the angle, each (k, k)."""
        raise NotImplementedError

    def _angle(self, corr: FloatArray) -> float:
        """Angle of the nearest correlation matrix of the structure."""
        raise NotImplementedError

    def factor(self, theta: FloatArray) -> FloatArray:
        """``lambda_t``, (k, k); the sign of a standard deviation means nothing."""
        return np.asarray(np.abs(theta[:-1, None]) * self._root(float(theta[-1]))[0])

    def slopes(self, theta: FloatArray) -> FloatArray:
        """Derivatives of ``lambda_t``, (k + 1, k, k)."""
        root, turned, _ = self._root(float(theta[-1]))
        out = np.zeros((self.k + 1, self.k, self.k))
        each = np.arange(self.k)
        out[each, each] = np.where(theta[:-1, None] < 0, -1.0, 1.0) * root
        out[-1] = np.abs(theta[:-1, None]) * turned
        return out

    def rows_of_slopes(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The one row of each derivative by a standard deviation, and the one by the angle."""
        root, turned, _ = self._root(float(theta[-1]))
        rows = np.where(theta[:-1, None] < 0, -1.0, 1.0) * root
        return rows, np.abs(theta[:-1, None]) * turned

    def chain(self, theta: FloatArray, slope: FloatArray) -> FloatArray:
        """Derivative in theta from the (k, k) derivative in the entries of ``lambda_t``."""
        rows, turned = self.rows_of_slopes(theta)
        return np.append(np.sum(rows * slope, axis=1), np.sum(turned * slope))

    def inner(self, theta: FloatArray, P: FloatArray) -> FloatArray:
        """``<dlambda_i, P dlambda_j>`` of the derivatives of ``lambda_t``, P symmetric, (m, m)."""
        rows, turned = self.rows_of_slopes(theta)
        out, product = np.empty((self.k + 1, self.k + 1)), P @ turned
        out[:-1, :-1] = P * (rows @ rows.T)
        out[:-1, -1] = out[-1, :-1] = np.sum(rows * product, axis=1)
        out[-1, -1] = np.sum(turned * product)
        return out

    def moved(self, theta: FloatArray, back: FloatArray, u: FloatArray) -> FloatArray:
        """The `symmetric_steps` times the effects u (l, k) of every level, (l, k, m)."""
        rows, turned = self.rows_of_slopes(theta)
        half = back @ turned
        out = np.empty((len(u), self.k, self.k + 1))
        np.multiply((u @ rows.T)[:, None], back, out=out[:, :, :-1])
        out[:, :, :-1] += (u @ back)[:, None] * rows.T
        out[:, :, -1] = u @ (half + half.T)
        return out

    def bends(self, theta: FloatArray, slope: FloatArray) -> FloatArray:
        """``<slope, d^2 lambda_t>``, (k + 1, k + 1)."""
        _, turned, twice = self._root(float(theta[-1]))
        out = np.zeros((self.k + 1, self.k + 1))
        mixed = np.where(theta[:-1] < 0, -1.0, 1.0) * np.sum(slope * turned, axis=1)
        out[:-1, -1] = out[-1, :-1] = mixed
        out[-1, -1] = np.sum(slope * np.abs(theta[:-1, None]) * twice)
        return out

    def rectify(self, theta: FloatArray) -> FloatArray:
        """Non-negative standard deviations and an angle between ``-pi / 2`` and ``pi / 2``."""
        return np.append(np.abs(theta[:-1]) + 0.0, _quarter(theta[-1]))

    def coordinates(self, lam: FloatArray) -> FloatArray:
        """The standard deviations and the angle of the mean correlation."""
        sd, corr = _correlation(lam)
        return np.append(sd, self._angle(corr))


class HeterogeneousCompoundSymmetry(Heterogeneous):
    """A common correlation, ``sin(phi)^2 - cos(phi)^2 / (k - 1)`` with ``0 <= phi <= pi / 2``."""

    def _root(self, phi: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Symmetric root and its two derivatives."""
        within, between = _projectors(self.k)
        alpha, beta = np.sqrt(self.k / (self.k - 1.0)), np.sqrt(self.k)
        root = alpha * np.cos(phi) * within + beta * np.sin(phi) * between
        return root, beta * np.cos(phi) * between - alpha * np.sin(phi) * within, -root

    def _angle(self, corr: FloatArray) -> float:
        """From the mean correlation."""
        rho = float(corr[~np.eye(self.k, dtype=bool)].mean())
        return float(np.arcsin(np.sqrt(np.clip((rho * (self.k - 1) + 1.0) / self.k, 0.0, 1.0))))

    def rectify(self, theta: FloatArray) -> FloatArray:
        """Non-negative standard deviations and an angle in the first quadrant."""
        return np.append(np.abs(theta[:-1]) + 0.0, abs(_quarter(theta[-1])))


@dataclass(frozen=True, eq=False)
class HeterogeneousAutoregressive(Heterogeneous):
    """Correlation ``r^|t_i - t_j|`` with ``r = sin(phi)``.

    Attributes
    ----------
    positions : tuple of int, (k,), or None
        Place t of each coefficient; None for 0, 1, ..., k - 1.
    """

    positions: tuple[int, ...] | None = None

    def _root(self, phi: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Cholesky factor and its two derivatives."""
        return _autoregressive_root(self.k, phi, self.positions)

    def _angle(self, corr: FloatArray) -> float:
        """From the correlations of neighbours."""
        return _neighbours_angle(corr, self.positions)


@dataclass(frozen=True, eq=False)
class Autoregressive(Patterned):
    """One variance, correlation ``r^|t_i - t_j|``; theta is the standard deviation and ``asin(r)``.

    Attributes
    ----------
    positions : tuple of int, (k,), or None
        Place t of each coefficient; None for 0, 1, ..., k - 1.
    """

    positions: tuple[int, ...] | None = None

    @classmethod
    def of_order(cls, k: int) -> Patterned:
        """The covariance of ``k`` coefficients."""
        return cls(k, np.zeros(2, np.intp), np.zeros(2, np.intp), np.array([False, True]))

    def _root(self, phi: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Root of the correlation matrix and its two derivatives in the angle, each (k, k)."""
        return _autoregressive_root(self.k, phi, self.positions)

    def factor(self, theta: FloatArray) -> FloatArray:
        """``lambda_t``, (k, k)."""
        return np.asarray(theta[0] * self._root(float(theta[1]))[0])

    def slopes(self, theta: FloatArray) -> FloatArray:
        """Derivatives of ``lambda_t``, (2, k, k)."""
        root, turned, _ = self._root(float(theta[1]))
        return np.stack([root, theta[0] * turned])

    def bends(self, theta: FloatArray, slope: FloatArray) -> FloatArray:
        """``<slope, d^2 lambda_t>``, (2, 2)."""
        _, turned, twice = self._root(float(theta[1]))
        mixed = float(np.sum(slope * turned))
        return np.array([[0.0, mixed], [mixed, theta[0] * float(np.sum(slope * twice))]])

    def rectify(self, theta: FloatArray) -> FloatArray:
        """A non-negative standard deviation and an angle between ``-pi / 2`` and ``pi / 2``."""
        return np.array([abs(theta[0]) + 0.0, _quarter(theta[1])])

    def coordinates(self, lam: FloatArray) -> FloatArray:
        """The mean variance and the mean correlation of neighbours."""
        _, corr = _correlation(lam)
        return np.array([np.sqrt(np.sum(lam**2) / self.k), _neighbours_angle(corr, self.positions)])


def _quarter(phi: float) -> float:
    """The angle between ``-pi / 2`` and ``pi / 2`` with the same sine."""
    return float(np.arcsin(np.clip(np.sin(phi), -1.0, 1.0)))


def _in_order(k: int, positions: tuple[int, ...] | None) -> tuple[IntArray, IntArray]:
    """Coefficients from the first to the last position, and the steps between these, (k - 1,)."""
    if positions is None:
        return np.arange(k), np.ones(k - 1, dtype=np.int64)
    place = np.array(positions, dtype=np.int64)
    order = np.argsort(place)
    return order, np.diff(place[order])


def _neighbours_angle(corr: FloatArray, positions: tuple[int, ...] | None) -> float:
    """Angle of the mean of ``c^(1/d)`` over correlations c of neighbours d steps apart.

    An even step does not tell the sign of r, which is that of the odd ones.
    """
    order, steps = _in_order(len(corr), positions)
    c = np.clip(corr[order[1:], order[:-1]], -1.0, 1.0)
    odd = steps % 2 == 1
    sign = -1.0 if c[odd].sum() < 0.0 else 1.0
    own = np.where(odd, np.sign(c), sign * (c > 0)) * np.abs(c) ** (1.0 / steps)
    return float(np.arcsin(np.clip(own.mean(), -1.0, 1.0)))


def _autoregressive_root(
    k: int, phi: float, positions: tuple[int, ...] | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Root of ``sin(phi)^|t_i - t_j|`` and its two derivatives in phi, each (k, k).

    A Cholesky factor with its rows in the order of the coefficients.
    """
    order, steps = _in_order(k, positions)
    place = np.concatenate([[0], np.cumsum(steps)])
    lag = place[:, None] - place
    below = lag >= 0
    n = np.where(below, lag, 0).astype(float)
    s, c = np.sin(phi), np.cos(phi)
    g, dg = _power(s, n), n * _power(s, n - 1) * c
    ddg = n * (n - 1) * _power(s, n - 2) * c**2 - n * g
    sizes, inverse = np.unique(steps, return_inverse=True)
    own = np.array([_innovation(float(s), float(c), int(d)) for d in sizes])
    w, dw, ddw = np.vstack([[[1.0, 0.0, 0.0]], own[inverse]]).T
    parts = (g * w, dg * w + g * dw, ddg * w + 2.0 * dg * dw + g * ddw)
    back = np.argsort(order)
    root, turned, twice = (np.where(below, part, 0.0)[back] for part in parts)
    return root, turned, twice


def _power(s: float, m: FloatArray) -> FloatArray:
    return np.where(m >= 0, s ** np.maximum(m, 0.0), 0.0)


def _innovation(s: float, c: float, d: int) -> tuple[float, float, float]:
    """``c sqrt(1 + s^2 + ... + s^(2d-2))``, a root of ``1 - s^2d``, and two derivatives in phi."""
    m: FloatArray = 2.0 * np.arange(d, dtype=float)
    H, dH = float(_power(s, m).sum()), float((m * _power(s, m - 1)).sum())
    ddH = float((m * (m - 1) * _power(s, m - 2)).sum())
    h = np.sqrt(H)
    by_s, twice = dH / (2 * h), ddH / (2 * h) - dH**2 / (4 * h**3)
    dh, ddh = by_s * c, twice * c**2 - by_s * s
    return c * h, -s * h + c * dh, -c * h - 2.0 * s * dh + c * ddh


def _projectors(k: int) -> FloatArray:
    """``I - J/k`` and ``J/k``, (2, k, k)."""
    mean = np.full((k, k), 1.0 / k)
    return np.stack([np.eye(k) - mean, mean])


def _correlation(lam: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Standard deviations and correlations of ``lam lam'``."""
    sd = np.linalg.norm(lam, axis=1)
    scaled = lam / np.where(sd > 0, sd, 1.0)[:, None]
    return sd, np.asarray(scaled @ scaled.T)


PATTERNED: dict[str, type[Patterned]] = {
    "homogeneous diagonal": HomogeneousDiagonal,
    "homogeneous compound symmetry": CompoundSymmetry,
    "compound symmetry": HeterogeneousCompoundSymmetry,
    "homogeneous autoregressive": Autoregressive,
    "autoregressive": HeterogeneousAutoregressive,
}
"""Covariances with fewer parameters than entries, by name."""

MOMENT_ORDER = 6
"""Largest number of coefficients whose full covariance starts a patterned one."""
