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

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from sparselmm.base.exceptions import SpecificationWarning, catchable, warn_user
from sparselmm.base.smallmatrix import upper_inverse
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.deviance import ProfiledDeviance

FLAT = 1e-8
"""Second derivative of the deviance, in units in which 2 means a standard error of one, below
which there is no information (the tolerance of lmerTest)."""

MATTERS = 1e-6
"""Relative change of the covariance of the fixed effects, per unit, that counts."""

WIDTH = 1_000_000
"""Numbers in a batch of right-hand sides (8 MB)."""


Place = tuple[int, int, int]
"""Term, row and column of an entry of ``Psi_t``."""


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

    def scaled(self, L: FloatArray) -> FloatArray:
        """Rows of contrasts of the kept columns' coefficients, for the scaled ones, (m, r)."""
        return L @ self.root


def information(deviance: ProfiledDeviance, theta: FloatArray) -> Information:
    """Second-order quantities of the likelihood at theta.

    Parameters
    ----------
    deviance : ProfiledDeviance
    theta : ndarray, (n_theta,)

    Returns
    -------
    Information
    """
    deviance, theta = deviance.working(theta)
    cross, covariance = deviance.cross, deviance.covariance
    state, scale = deviance.state_at(theta), deviance.at(theta).scale
    r = len(state.gamma)
    root = upper_inverse(state.Rxx)
    Dy = deviance.products(state)
    D, d = Dy[:, :r] @ root, Dy @ state.residual
    places = _places(covariance)
    traces, squares = _traces(deviance, theta)
    K = np.empty((len(places) + 1,) * 2)
    K[:-1, :-1] = _pair_traces(places, squares)
    K[-1, :-1] = K[:-1, -1] = [_picked(place, traces[place[0]]) for place in places]
    K[-1, -1] = cross.n
    C, Q = _fixed_parts(deviance, theta, places, D)
    H, quadratic = _residual_parts(deviance, theta, places, D, d)
    slopes = _slopes(cross, traces, D if deviance.reml else D[:, :0], d / np.sqrt(scale))
    jacobians, bends, patterned = _in_theta(covariance, theta, slopes)
    linear = [J if p else np.eye(len(J)) for J, p in zip(jacobians, patterned, strict=True)]
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
        linear_units=np.append(
            _linear_units(deviance, theta, places, patterned), [] if known else 1.0
        ),
        root=cross.basis.T @ root if r else cross.basis.T,
    )


def _fixed_parts(
    deviance: ProfiledDeviance, theta: FloatArray, places: list[Place], D: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """``C`` (m + 1, r, r) and ``Q`` (m, m, r, r)."""
    m, r = len(places), D.shape[1]
    ED = [_placed(deviance.cross, place, D) for place in places]
    C, Q = np.empty((m + 1, r, r)), np.empty((m, m, r, r))
    C[-1] = np.eye(r)
    for j, part in enumerate(ED):
        product = D.T @ part
        C[j] = 0.5 * (product + product.T)
        TE = _weighted(deviance, theta, part)
        for i in range(m):
            Q[i, j] = ED[i].T @ TE
    return C, Q


def _residual_parts(
    deviance: ProfiledDeviance, theta: FloatArray, places: list[Place], D: FloatArray, d: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """``H`` (m, m) and ``quadratic`` (m,), times the scale."""
    Ed = np.zeros((len(d), len(places)))
    for i, place in enumerate(places):
        Ed[:, i] = _placed(deviance.cross, place, d[:, None])[:, 0]
    PE = _weighted(deviance, theta, Ed) - D @ (D.T @ Ed)
    return Ed.T @ PE, d @ Ed


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


def _places(covariance: Covariance) -> list[Place]:
    out: list[Place] = []
    for t, term in enumerate(covariance.terms):
        rows, cols = np.diag_indices(term.k) if term.is_diagonal else np.tril_indices(term.k)
        out += [(t, int(row), int(col)) for row, col in zip(rows, cols, strict=True)]
    return out


def _in_theta(
    covariance: Covariance, theta: FloatArray, slopes: list[FloatArray]
) -> tuple[list[FloatArray], list[FloatArray], list[bool]]:
    """Derivatives of each term's entries of ``Psi_t`` in its theta, and their curvature.

    Returns
    -------
    jacobians : list of ndarray, (entries, n_theta of the term)
        Of ``lambda lambda'``: ``dlambda lambda' + lambda dlambda'``.
    bends : list of ndarray, (n_theta of the term, n_theta of the term)
        ``2 <dlambda_k, G dlambda_l> + <2 G lambda, d^2 lambda_kl>`` for the slopes G.
    patterned : list of bool
        Whether ``Psi_t`` has fewer parameters than entries.
    """
    jacobians, bends, patterned = [], [], []
    for term, part, slope in zip(covariance.terms, covariance.slices, slopes, strict=True):
        lam, own = term.factor(theta[part]), term.slopes(theta[part])
        patterned.append(own is not None)
        if own is None:
            own = np.zeros((term.n_theta, term.k, term.k))
            own[np.arange(term.n_theta), term.rows, term.cols] = 1.0
        moved = own @ lam.T
        moved = moved + moved.transpose(0, 2, 1)
        at = np.diag_indices(term.k) if term.is_diagonal else np.tril_indices(term.k)
        jacobians.append(moved[:, at[0], at[1]].T)
        bend = 2.0 * np.einsum("kij,ia,laj->kl", own, slope, own, optimize=True)
        more = term.bends(theta[part], 2.0 * slope @ lam)
        bends.append(bend if more is None else bend + more)
    return jacobians, bends, patterned


def _theta_units(deviance: ProfiledDeviance, theta: FloatArray) -> FloatArray:
    """What counts as one in an entry of theta: its standard deviation, if that is larger."""
    covariance = deviance.covariance
    sizes = [
        term.sizes(theta[part], deviance.units[part], 1.0)
        for term, part in zip(covariance.terms, covariance.slices, strict=True)
    ]
    return np.concatenate(sizes) if sizes else np.zeros(0)


def _linear_units(
    deviance: ProfiledDeviance, theta: FloatArray, places: list[Place], patterned: list[bool]
) -> FloatArray:
    """What counts as one in an entry of ``Psi_t``, or in the theta of a patterned one."""
    parts, in_theta = [], _theta_units(deviance, theta)
    for t, (part, lam) in enumerate(
        zip(deviance.covariance.slices, deviance.covariance.factors(theta), strict=True)
    ):
        rms = deviance.cross.rms(t)
        unit = np.hypot(1.0 / np.where(rms > 0, rms, 1.0), np.linalg.norm(lam, axis=1))
        own = [unit[a] * unit[b] for s, a, b in places if s == t]
        parts.append(in_theta[part] if patterned[t] else np.array(own))
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


def _placed(cross: CrossProducts, place: Place, x: FloatArray) -> FloatArray:
    """``(I (x) E_i) x``, (q, m)."""
    t, row, col = place
    k, l = cross.sizes[t]
    out = np.zeros_like(x)
    block = x[cross.slices[t]].reshape(l, k, -1)
    to = out[cross.slices[t]].reshape(l, k, -1)
    to[:, row] = block[:, col]
    to[:, col] = block[:, row]
    return out


def _weighted(deviance: ProfiledDeviance, theta: FloatArray, x: FloatArray) -> FloatArray:
    """``T x = A x - A Lambda M^-1 Lambda'A x``, (q, m)."""
    if not x.shape[1]:
        return x
    Ax = deviance.cross.A @ x
    return np.asarray(Ax - deviance.cross.A @ deviance.conditional_columns(theta, Ax))


def _picked(place: Place, block: FloatArray) -> float:
    """``tr(block E_i)`` of a symmetric block."""
    _, row, col = place
    return float(block[row, col] * (1.0 if row == col else 2.0))


def _pair_traces(places: list[Place], squares: dict[tuple[int, int], FloatArray]) -> FloatArray:
    """``tr(T E_j T E_i)`` from the sums of products of blocks, (m, m)."""
    out = np.empty((len(places), len(places)))
    for i, (s, u, v) in enumerate(places):
        for j, (t, x, y) in enumerate(places):
            if s < t:
                continue
            N = squares[s, t]
            pairs = {(u, v), (v, u)}
            out[i, j] = sum(N[a, x, b, y] + (N[a, y, b, x] if x != y else 0.0) for a, b in pairs)
            out[j, i] = out[i, j]
    return out


# ----------------------------------------------------------------------- blocks of Z'V^-1Z


def _ranks(cross: CrossProducts) -> list[IntArray]:
    """Number of every level among its term's levels in the same connected component."""
    counts = [l for _, l in cross.sizes]
    if not counts:
        return []
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = [pair.rows + starts[s] for (s, _), pair in cross.pairs.items()]
    cols = [pair.cols + starts[t] for (_, t), pair in cross.pairs.items()]
    edges = (np.concatenate(rows), np.concatenate(cols))
    n = int(starts[-1])
    graph = sp.csr_array((np.ones(len(edges[0]), np.int8), edges), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    out: list[IntArray] = []
    for t, l in enumerate(counts):
        own = component[starts[t] : starts[t] + l]
        order = np.argsort(own, kind="stable")
        first = np.searchsorted(own[order], own[order])
        rank = np.empty(l, dtype=np.int64)
        rank[order] = np.arange(l) - first
        out.append(rank)
    return out


def _batches(
    deviance: ProfiledDeviance, theta: FloatArray, s: int, rank: IntArray
) -> Iterator[tuple[range, FloatArray]]:
    """Columns of T that belong to the levels of term s, some ranks at a time, (q, ranks, k)."""
    cross = deviance.cross
    k = cross.sizes[s][0]
    top = int(rank.max(initial=-1)) + 1
    step = max(1, WIDTH // max(1, cross.q * k))
    start = cross.slices[s].start
    for first in range(0, top, step):
        ranks = range(first, min(first + step, top))
        levels = np.flatnonzero((rank >= ranks.start) & (rank < ranks.stop))
        unit = np.zeros((cross.q, len(ranks), k))
        for c in range(k):
            unit[start + levels * k + c, rank[levels] - first, c] = 1.0
        yield ranks, _weighted(deviance, theta, unit.reshape(cross.q, -1)).reshape(unit.shape)


def _traces(
    deviance: ProfiledDeviance, theta: FloatArray
) -> tuple[list[FloatArray], dict[tuple[int, int], FloatArray]]:
    """Sums over the blocks of T: of its diagonal blocks, and of products of entries.

    Returns
    -------
    traces : list of ndarray, (k, k)
        ``sum_a T_aa`` over the levels of each term.
    squares : dict of (s, t) to ndarray, (k_s, k_t, k_s, k_t), for s >= t
        ``sum_ab T_ab[v, x] T_ab[u, y]`` over the levels of both terms.
    """
    cross = deviance.cross
    ranks = _ranks(cross)
    traces = [np.zeros((k, k)) for k, _ in cross.sizes]
    squares = {
        (s, t): np.zeros((cross.sizes[s][0] * cross.sizes[t][0],) * 2)
        for s in range(len(cross.sizes))
        for t in range(s + 1)
    }
    for t, (k, l) in enumerate(cross.sizes):
        for part, columns in _batches(deviance, theta, t, ranks[t]):
            own = columns[cross.slices[t]].reshape(l, k, len(part), k)
            mine = np.flatnonzero((ranks[t] >= part.start) & (ranks[t] < part.stop))
            traces[t] += own[mine, :, ranks[t][mine] - part.start].sum(axis=0)
            for s in range(t, len(cross.sizes)):
                ks, ls = cross.sizes[s]
                block = columns[cross.slices[s]].reshape(ls, ks, len(part), k)
                flat = block.transpose(1, 3, 0, 2).reshape(ks * k, -1)
                squares[s, t] += flat @ flat.T
    shaped = {
        (s, t): N.reshape(cross.sizes[s][0], cross.sizes[t][0], cross.sizes[s][0], -1)
        for (s, t), N in squares.items()
    }
    return traces, shaped
