"""Second derivatives of the likelihood in the variances, in closed form, without an n x n matrix.

Write ``Var(y) = s V`` with ``V = W^-1 + sum_i psi_i Z E_i Z'``: ``psi_i`` are the entries of the
``Psi_t / s``, ``E_i`` their places (symmetric, one or two ones). With
``T = Z'V^-1Z`` and the fixed effects scaled so that ``X'V^-1X = I``, put ``D = Z'V^-1X`` and
``d = Z'V^-1(y - X beta)``. Since V is linear in psi, everything of second order follows from

    K_ij = tr(V^-1 G_i V^-1 G_j) = tr(T E_j T E_i),        G_i = dV / dpsi_i = Z E_i Z'
    C_i  = X'V^-1 G_i V^-1 X     = D'E_i D
    Q_ij = X'V^-1 G_i V^-1 G_j V^-1 X = (E_i D)' T (E_j D)

The second parameter ``log s`` is the direction of V itself: its ``C`` is the identity, its ``Q``
with i is ``C_i``, its traces are ``tr(T E_i)`` and n. Any other linear coordinates of the variances
(``Psi`` and ``sigma^2``) span the same directions, so invariant quantities need no others.

``T = A - A Lambda M^-1 Lambda'A`` is not formed. Two levels that no chain of rows connects have a
zero block in T, so one level of every connected component shares a right-hand side, and the
number of solves is the size of the largest component: k for one grouping factor with a million
levels, all q columns only when every factor is crossed with every other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg as sla

from sparselmm.base.exceptions import SpecificationWarning, catchable, warn_user
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.inference.hypotheses.directions import (
    Directions,
    directions,
    images,
    products,
    traces,
)
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.patterned import Patterned

FLAT = 1e-8
"""Second derivative of the deviance, in units in which 2 means a standard error of one, below
which there is no information (the tolerance of lmerTest)."""

MATTERS = 1e-6
"""Relative change of the covariance of the fixed effects, per unit, that counts."""


@dataclass(frozen=True, eq=False)
class Information:
    """Second-order quantities at one theta; see the module's head for the symbols.

    Attributes
    ----------
    reml : bool
        Of the criterion.
    df : int
        ``n - r`` (REML) or ``n`` (ML).
    scale : float
        ``s``, the residual variance.
    K : ndarray, (m + 1, m + 1)
        Traces of m entries of the ``Psi_t``; the last row and column belong to ``log s``.
    C : ndarray, (m + 1, r, r)
        Derivatives of ``X'V^-1X``, sign changed; the last is the identity.
    Q : ndarray, (m, m, r, r)
        As in the module's head.
    H : ndarray, (m, m)
        ``(E_i d)' Z'PZ (E_j d) / s`` with ``P = V^-1 - V^-1X(X'V^-1X)^-1X'V^-1``.
    quadratic : ndarray, (m,)
        ``d'E_i d / s``, minus the derivative of ``pwrss / s``.
    to_theta : ndarray, (m + 1, n_free)
        Derivatives of ``(psi, log s)`` in the estimated ``(theta, log s)``; without the last
        column where the scale is known.
    linear : ndarray, (m + 1, n_linear)
        Directions of the variances that are estimated: single entries of ``Psi_t``, or the
        derivatives in theta where ``Psi_t`` has a pattern.
    bends : ndarray, (n_theta, n_theta)
        Curvature of ``theta -> psi`` times the derivatives of the deviance in psi.
    units, linear_units : ndarray, (n_free,) and (n_linear,)
        What counts as one in each column of ``to_theta`` and ``linear``.
    root : ndarray, (r, r)
        ``X[:, kept] root`` are the scaled fixed effects: ``root root'`` is ``(X'V^-1X)^-1`` in
        the units of X.
    """

    reml: bool
    df: int
    scale: float
    K: FloatArray
    C: FloatArray
    Q: FloatArray
    H: FloatArray
    quadratic: FloatArray
    to_theta: FloatArray
    linear: FloatArray
    bends: FloatArray
    units: FloatArray
    linear_units: FloatArray
    root: FloatArray

    @property
    def restricted(self) -> FloatArray:
        """``tr(P G_i P G_j)``, (m + 1, m + 1): twice the expected REML information."""
        CC = np.einsum("iab,jab->ij", self.C, self.C)
        QQ = np.empty_like(self.K)
        QQ[:-1, :-1] = np.einsum("ijaa->ij", self.Q)
        QQ[-1] = QQ[:, -1] = np.einsum("iaa->i", self.C)
        return self.K - 2.0 * QQ + CC

    @property
    def observed(self) -> FloatArray:
        """Hessian of the deviance in ``(theta, log s)``, (n_free, n_free), exact."""
        O = -(self.restricted if self.reml else self.K)
        O[:-1, :-1] += 2.0 * self.H
        O[-1, :-1] = O[:-1, -1] = self.quadratic
        O[-1, -1] = self.df
        out = self.to_theta.T @ O @ self.to_theta
        n = len(self.bends)
        out[:n, :n] += self.bends
        return np.asarray(0.5 * (out + out.T))

    @property
    def expected(self) -> FloatArray:
        """Twice the expected REML information in the `linear` directions, (n_linear, n_linear)."""
        return np.asarray(self.linear.T @ self.restricted @ self.linear)

    def for_adjustment(self) -> FloatArray:
        """Kenward and Roger's W: estimation covariance of (psi, log s), expected information."""
        return covariance_of(self.expected, self.linear_units, self.linear, self.C)

    def scaled(self, L: FloatArray) -> FloatArray:
        """Rows of contrasts of the kept columns' coefficients, for the scaled ones, (m, r)."""
        return L @ self.root


def information(deviance: ProfiledDeviance, theta: FloatArray) -> Information:
    """Second-order quantities of the likelihood at theta.

    Parameters
    ----------
    theta : ndarray, (n_theta,)
    """
    deviance, theta = deviance.working(theta)
    cross, covariance = deviance.cross, deviance.covariance
    state, scale = deviance.state_at(theta), deviance.at(theta).scale
    r = len(state.gamma)
    root = state.inverse_root
    Dy = deviance.products(state)
    D, d = Dy[:, :r] @ root, Dy @ state.residual
    which = directions(covariance, theta)
    sums, own = traces(deviance, theta, which)
    by_scale = [part.traces(total) for part, total in zip(which, sums, strict=True)]
    K = np.zeros((len(own) + 1,) * 2)
    K[:-1, :-1] = own
    K[-1, :-1] = K[:-1, -1] = np.concatenate([*by_scale, np.zeros(0)])
    K[-1, -1] = cross.n
    C, Q = _fixed_parts(deviance, theta, which, D)
    H, quadratic = _residual_parts(deviance, theta, which, D, d)
    slopes = _slopes(cross, sums, D if deviance.reml else D[:, :0], d / np.sqrt(scale))
    jacobians, bends = _in_theta(covariance, theta, slopes)
    linear = [np.eye(part.m) for part in which]
    known = deviance.known_scale is not None
    return Information(
        reml=deviance.reml,
        df=deviance.df,
        scale=scale,
        K=K,
        C=C,
        Q=Q,
        H=H / scale,
        quadratic=quadratic / scale,
        to_theta=_with_scale(jacobians, known),
        linear=_with_scale(linear, known),
        bends=sla.block_diag(*bends) if bends else np.zeros((0, 0)),
        units=np.append(_theta_units(deviance, theta), [] if known else 1.0),
        linear_units=np.append(_linear_units(deviance, theta, which), [] if known else 1.0),
        root=cross.basis.T @ root if r else cross.basis.T,
    )


def _fixed_parts(
    deviance: ProfiledDeviance, theta: FloatArray, which: list[Directions], D: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """``C`` (m + 1, r, r) and ``Q`` (m, m, r, r)."""
    m, r = sum(own.m for own in which), D.shape[1]
    ED = images(deviance.cross, which, D)
    C = np.concatenate([(ED.T @ D).reshape(m, r, r), np.eye(r)[None]])
    Q = products(deviance, theta, ED, ED).reshape(m, r, m, r)
    return 0.5 * (C + C.transpose(0, 2, 1)), Q.transpose(0, 2, 1, 3)


def _residual_parts(
    deviance: ProfiledDeviance, theta: FloatArray, which: list[Directions], D: FloatArray,
    d: FloatArray,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """``H`` (m, m) and ``quadratic`` (m,), times the scale."""
    Ed = images(deviance.cross, which, d[:, None])
    DE = Ed.T @ D
    return products(deviance, theta, Ed, Ed) - DE @ DE.T, Ed.T @ d


def _slopes(
    cross: CrossProducts, traces: list[FloatArray], D: FloatArray, d: FloatArray
) -> list[FloatArray]:
    """``sum_a (T_aa - D_a D_a' - d_a d_a')`` of every term, (k, k), the ``G_t`` of `profiled`."""
    out = []
    for trace, part, (k, l) in zip(traces, cross.slices, cross.sizes, strict=True):
        rows = np.column_stack([D[part], d[part]]).reshape(l, k, -1).transpose(1, 0, 2)
        flat = rows.reshape(k, -1)
        out.append(trace - flat @ flat.T)
    return out


def _in_theta(
    covariance: Covariance, theta: FloatArray, slopes: list[FloatArray]
) -> tuple[list[FloatArray], list[FloatArray]]:
    """Each term's directions in its theta, and the curvature of ``theta -> Psi_t``.

    Returns
    -------
    jacobians : list of ndarray, (directions, n_theta of the term)
        Of ``lambda lambda'``: ``dlambda lambda' + lambda dlambda'``; where ``Psi_t`` has a pattern
        the directions are those of its theta.
    bends : list of ndarray, (n_theta of the term, n_theta of the term)
        ``2 <dlambda_k, G dlambda_l> + <2 G lambda, d^2 lambda_kl>`` for the slopes G.
    """
    jacobians, bends = [], []
    for term, part, slope in zip(covariance.terms, covariance.slices, slopes, strict=True):
        lam = term.factor(theta[part])
        if isinstance(term, Patterned):
            jacobians.append(np.eye(term.n_theta))
            bend = 2.0 * term.inner(theta[part], slope)
            more = term.bends(theta[part], 2.0 * slope @ lam)
            bends.append(bend if more is None else bend + more)
            continue
        at = np.diag_indices(term.k) if term.is_diagonal else np.tril_indices(term.k)
        jacobians.append(root_slopes(lam, term.rows, term.cols, *at))
        same = term.cols[:, None] == term.cols
        bends.append(np.where(same, 2.0 * slope[np.ix_(term.rows, term.rows)], 0.0))
    return jacobians, bends


def root_slopes(
    lam: FloatArray, rows: IntArray, cols: IntArray, a: IntArray, b: IntArray
) -> FloatArray:
    """Derivatives of the entries (a, b) of ``lam lam'`` in the entries (rows, cols) of lam."""
    left = np.where(a[:, None] == rows, lam[np.ix_(b, cols)], 0.0)
    return np.asarray(left + np.where(b[:, None] == rows, lam[np.ix_(a, cols)], 0.0))


def _theta_units(deviance: ProfiledDeviance, theta: FloatArray) -> FloatArray:
    """What counts as one in an entry of theta: its standard deviation, if that is larger."""
    covariance = deviance.covariance
    sizes = [
        term.sizes(theta[part], deviance.units[part], 1.0)
        for term, part in zip(covariance.terms, covariance.slices, strict=True)
    ]
    return np.concatenate(sizes) if sizes else np.zeros(0)


def _linear_units(
    deviance: ProfiledDeviance, theta: FloatArray, which: list[Directions]
) -> FloatArray:
    """What counts as one in an entry of ``Psi_t``, or in the theta of a patterned one."""
    parts, in_theta = [], _theta_units(deviance, theta)
    factors = deviance.covariance.factors(theta)
    for t, (part, lam, own) in enumerate(
        zip(deviance.covariance.slices, factors, which, strict=True)
    ):
        rms = deviance.cross.rms(t)
        unit = np.hypot(1.0 / np.where(rms > 0, rms, 1.0), np.linalg.norm(lam, axis=1))
        patterned = own.matrices is not None
        parts.append(in_theta[part] if patterned else unit[own.rows] * unit[own.cols])
    return np.concatenate(parts) if parts else np.zeros(0)


def covariance_of(
    information: FloatArray, units: FloatArray, directions: FloatArray, C: FloatArray
) -> FloatArray:
    """Estimation covariance of ``(psi, log s)`` from twice their information, (m + 1, m + 1).

    Directions without information are left out, as if they were known. That is right where they
    change nothing (a rotation of a singular ``lambda_t``); otherwise there is a warning.

    Parameters
    ----------
    information : ndarray, (f, f)
        Hessian of the deviance, or its expectation.
    units : ndarray, (f,)
        What counts as one in each coordinate.
    directions : ndarray, (m + 1, f)
        Derivatives of ``(psi, log s)`` in the coordinates.
    C : ndarray, (m + 1, r, r)
        From `Information`.

    Warns
    -----
    SpecificationWarning
        When the covariance of the fixed effects depends on a direction without information.
    """
    values, vectors = np.linalg.eigh(information * np.outer(units, units))
    informed = values > FLAT
    scaled = directions * units @ vectors
    flat = np.einsum("if,iab->fab", scaled[:, ~informed], C)
    if (np.abs(flat) > MATTERS).any():
        warn_user(
            "the data do not determine all variance components, and the covariance of the fixed "
            "effects depends on those they do not: degrees of freedom take these as known and are "
            "too large. Leave out a random-effects term that the fixed effects already explain",
            catchable(SpecificationWarning),
        )
    root = scaled[:, informed] * np.sqrt(2.0 / values[informed])
    return np.asarray(root @ root.T)


def _with_scale(blocks: list[FloatArray], known: bool) -> FloatArray:
    """Block diagonal, with ``log s`` as the last row, and the last column unless it is known."""
    last = np.zeros((1, 0)) if known else np.ones((1, 1))
    return np.asarray(sla.block_diag(*blocks, last))
