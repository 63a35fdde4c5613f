"""A model without some of its rows, from the cross-products of the whole.

Let a group own the rows I. Without them, at the same theta,

    A_(I) = A - Z_I'W_I Z_I,   B_(I) = B - Z_I'W_I [Xy]_I,   C_(I) = C - [Xy]_I'W_I [Xy]_I,

on the pattern of A that has been analysed already, so that a refit costs factorizations of small
arrays and no pass over the rows (`Downdates`). Where the groups are independent, no level of a
term being met in two of them, M is block diagonal by group and nothing is factored again:
``S = X'V^-1X`` and the traces in the gradient are sums over the groups, less one (`by_group`). A
single row is the rank-one case (`rows_given_theta`; Christensen, Pearson & Johnson 1992, deletion
of a case for known variances): with E_i the row of ``W^-1 V^-1 [Xy]``, e_i its residual and h_i its
leverage,

    beta - beta_(i) = S_xx^-1 E_xi w_i e_i / (1 - h_i),   pwrss_(i) = pwrss - w_i e_i^2 / (1 - h_i)

One Newton step. Without the group the gradient of the deviance is no longer zero at theta; with H
the Hessian of the whole,  ``theta_(I) = theta - H^-1 gradient_(I)(theta)`` (Pregibon 1981 for the
idea; Christensen, Pearson & Johnson 1992 for variance components). ``S`` is moved along its
derivative and beta and sigma follow from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.linalg as sla

from sparselmm.base import kernels
from sparselmm.base.types import BoolArray, FloatArray, IntArray
from sparselmm.design.rows import Entries, GroupRows, blocks, response
from sparselmm.design.subsets import take_rows
from sparselmm.design.terms import Design
from sparselmm.factor.basis import Basis
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.factorization import Factorization
from sparselmm.factor.solver import apply_lambda
from sparselmm.inference.diagnostics.leverage import Leverage, block_places, whitened_rows
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.engine import but, solver_like
from sparselmm.likelihood.evaluations import State

RANK_LOST = 1e-12
"""Share of the largest eigenvalue of X'V^-1X below which a deletion has cost X a rank."""

SLOPE_STEP = 1e-6
"""Step of the central difference of lambda_t in theta, which is linear or smooth in it."""

BATCH_NUMBERS = 8_000_000
"""Numbers held for a batch of independent groups (64 MB)."""


@dataclass(frozen=True, eq=False)
class Without:
    """What the deviance and its gradient at theta are made of, without a group.

    Attributes
    ----------
    n : int
        Rows of positive weight.
    basis : Basis
        Working basis of the fixed effects.
    S : ndarray, (r + 1, r + 1)
        ``[Qy]'V^-1[Qy]``.
    DK : list of ndarray, (r + 1, r + 1, k, k)
        ``sum_j D_j[a, m] K_j[b, m']`` at ``[m, m', a, b]``, one array per term.
    traces : list of ndarray, (k, k)
        ``sum_j (A Lambda G)_jj`` of every term.
    """

    n: int
    basis: Basis
    S: FloatArray
    DK: list[FloatArray]
    traces: list[FloatArray]


@dataclass(frozen=True, eq=False)
class Deleted:
    """Estimates without one group.

    Attributes
    ----------
    basis : Basis
        Working basis that ``gamma`` and ``vcov_unscaled`` are in.
    gamma : ndarray, (r,)
    vcov_unscaled : ndarray, (r, r)
    theta : ndarray, (n_theta,)
    """

    basis: Basis
    gamma: FloatArray
    vcov_unscaled: FloatArray
    scale: float
    theta: FloatArray
    converged: bool = True

    @property
    def beta(self) -> FloatArray:
        """Fixed effects, (r,), in the units of X and y."""
        return self.basis.shift + self.basis.T @ self.gamma

    @property
    def vcov(self) -> FloatArray:
        """Their covariance, (r, r)."""
        return self.scale * self.basis.T @ self.vcov_unscaled @ self.basis.T.T


# ---------------------------------------------------------------------------- downdating


class Downdates:
    """Engines of the model without one group after the other.

    Parameters
    ----------
    dev : ProfiledDeviance
        Of the whole.
    """

    def __init__(self, dev: ProfiledDeviance, design: Design, groups: GroupRows):
        self.dev, self.design, self.groups = dev, design, groups
        every = slice(0, design.n)
        self._entries = [Entries.of(term, every) for term in design.terms]
        self._by_term = [GroupRows.of(groups.codes[e.rows], len(groups)) for e in self._entries]
        self._joined = {pair: self._join(*pair) for pair in dev.cross.pairs}
        self._on_pattern = all((at >= 0).all() for *_, at in self._joined.values())
        self._by_pair = {
            (s, t): GroupRows.of(groups.codes[self._entries[s].rows[i]], len(groups))
            for (s, t), (i, _, _) in self._joined.items()
        }

    def _join(self, s: int, t: int) -> tuple[IntArray, IntArray, IntArray]:
        a, b = self._entries[s], self._entries[t]
        i, j = a.join(b)
        return i, j, block_places(self.dev.cross.pairs[s, t], a.levels[i], b.levels[j])

    def without(self, j: int) -> ProfiledDeviance | None:
        """The deviance without group j; None where X loses a rank or no row is left."""
        cross = self._cross(j) if self._on_pattern else self._from_rows(j)
        r = 0 if cross is None else cross.basis.rank
        if cross is None or cross.n <= r or rank_lost(cross.C[:r, :r]):
            return None
        solver = self._solver if self._on_pattern else solver_like(self.dev, cross)
        return but(self.dev, solver, cross=cross)

    @cached_property
    def _solver(self) -> Factorization:
        """One solver for all groups; that of the whole is left alone, so that it stays valid."""
        return solver_like(self.dev)

    def _cross(self, j: int) -> CrossProducts:
        cross, design, rows = self.dev.cross, self.design, np.sort(self.groups[j])
        w = None if design.weights is None else design.weights[rows]
        y = response(design)
        Xy = cross.basis.apply(design.X[rows], y[rows])
        weighted = Xy if w is None else Xy * w[:, None]
        B = cross.B.copy()
        for e, own, part, (k, l) in zip(
            self._entries, self._by_term, cross.slices, cross.sizes, strict=True
        ):
            at = own[j]
            row = np.searchsorted(rows, e.rows[at])
            add = e.values[at][:, :, None] * weighted[row][:, None, :]
            np.subtract.at(B[part].reshape(l, k, -1), e.levels[at], add)
        positive = len(rows) if w is None else int((w > 0).sum())
        log_w = 0.0 if w is None else float(np.log(w[w > 0]).sum())
        return replace(
            cross,
            values={pair: self._blocks(pair, j) for pair in cross.values},
            B=B, C=cross.C - Xy.T @ weighted, n=cross.n - positive,
            sum_log_w=cross.sum_log_w - log_w,
        )  # fmt: skip

    def _blocks(self, pair: tuple[int, int], j: int) -> FloatArray:
        a, b = self._entries[pair[0]], self._entries[pair[1]]
        i, k, at = (index[self._by_pair[pair][j]] for index in self._joined[pair])
        left = a.values[i]
        if self.design.weights is not None:
            left = left * self.design.weights[a.rows[i], None]
        data = self.dev.cross.pairs[pair].data.copy()
        np.subtract.at(data, at, left[:, :, None] * b.values[k][:, None, :])
        return data

    def _from_rows(self, j: int) -> CrossProducts | None:
        """From the remaining rows, where A has cancelled to nothing in a place they need."""
        rest = np.setdiff1d(np.arange(self.design.n), self.groups[j])
        if self.design.weights is not None and not (self.design.weights[rest] > 0).any():
            return None
        cross = CrossProducts.from_design(take_rows(self.design, rest))
        return cross if cross.basis.rank == self.dev.cross.basis.rank else None


def rank_lost(S: FloatArray) -> bool:
    """Whether a symmetric matrix has become singular."""
    if not len(S):
        return False
    values = np.linalg.eigvalsh(S)
    return bool(values[0] <= RANK_LOST * values[-1])


# ------------------------------------------------------------------------ pieces by group


def pieces(dev: ProfiledDeviance, theta: FloatArray) -> Without:
    """The pieces of an engine as it stands."""
    state, cross = dev.state_at(theta), dev.cross
    D = dev.products(state)
    DK, traces = [], []
    for t, (part, (k, l)) in enumerate(zip(cross.slices, cross.sizes, strict=True)):
        d, K = D[part].reshape(l, k, -1), state.K[part].reshape(l, k, -1)
        DK.append(np.einsum("lam,lbn->mnab", d, K, optimize=True))
        traces.append(level_traces(dev, state, t).sum(axis=0))
    return Without(cross.n, cross.basis, _s(dev, state), DK, traces)


def _s(dev: ProfiledDeviance, state: State) -> FloatArray:
    """``S = C - B'Lambda K``."""
    S = dev.cross.C - dev.cross.B.T @ apply_lambda(dev.cross, state.lams, state.K, transpose=False)
    return np.asarray(0.5 * (S + S.T))


def level_traces(dev: ProfiledDeviance, state: State, t: int) -> FloatArray:
    """``(A Lambda G)_jj`` of every level of term t, (l, k, k), from G on the pattern of A."""
    k, l = dev.cross.sizes[t]
    out = np.zeros((l, k, k))
    for s in range(len(dev.cross.sizes)):
        pair = (max(s, t), min(s, t))
        blocks, G = dev.cross.pairs[pair], dev.solver.inverse_on_pattern(pair)
        if s > t:  # blocks (s, t)
            add = np.einsum("bsi,sr,brj->bij", blocks.data, state.lams[s], G, optimize=True)
            np.add.at(out, blocks.cols, add)
        else:
            add = np.einsum("bis,sr,bjr->bij", blocks.data, state.lams[s], G, optimize=True)
            np.add.at(out, blocks.rows, add)
    return out


def level_owners(design: Design, groups: GroupRows) -> list[IntArray] | None:
    """Group of every level of every term; None where a level is met in two groups.

    Levels of rows in no group are owned by -1, levels no row of positive weight belongs to by -2.
    """
    out = []
    for term in design.terms:
        owner = np.full(term.n_levels, -2)
        for rows in blocks(design.n):
            e = Entries.of(term, rows)
            used = (e.values != 0).any(axis=1)
            if design.weights is not None:
                used &= design.weights[rows][e.rows] > 0
            of_row, levels = groups.codes[rows][e.rows][used], e.levels[used]
            new = owner[levels] == -2
            owner[levels[new]] = of_row[new]
            if (owner[levels] != of_row).any():
                return None
        out.append(owner)
    return out


def by_group(
    dev: ProfiledDeviance, design: Design, theta: FloatArray, groups: GroupRows,
    owners: list[IntArray],
) -> Iterator[Without]:  # fmt: skip
    """Pieces without each of independent groups: those of the whole less the group's own."""
    whole, state, cross = pieces(dev, theta), dev.state_at(theta), dev.cross
    D, LK = dev.products(state), apply_lambda(dev.cross, state.lams, state.K, transpose=False)
    traces = [level_traces(dev, state, t) for t in range(len(design.terms))]
    levels = [GroupRows.of(owner, len(groups)) for owner in owners]
    m = len(whole.S)
    width = max(1, BATCH_NUMBERS // max(1, m * m * (1 + sum(k * k for k, _ in cross.sizes))))
    w, y = design.weights, response(design)
    for first in range(0, len(groups), width):
        last = min(first + width, len(groups))
        rows = groups.order[groups.bounds[first] : groups.bounds[last]]
        codes = groups.codes[rows] - first
        Xy = cross.basis.apply(design.X[rows], y[rows])
        S = np.zeros((last - first, m, m))
        kernels.add_level_blocks(codes, Xy, Xy, np.zeros(0) if w is None else w[rows], S)
        counts = np.bincount(codes, None if w is None else w[rows] > 0, last - first)
        DK, own_traces = [], []
        for t, (part, (k, l)) in enumerate(zip(cross.slices, cross.sizes, strict=True)):
            at = levels[t].order[levels[t].bounds[first] : levels[t].bounds[last]]
            to = levels[t].codes[at] - first
            d, K = D[part].reshape(l, k, m)[at], state.K[part].reshape(l, k, m)[at]
            DK.append(_sums(to, np.einsum("lam,lbn->lmnab", d, K), last - first))
            own_traces.append(_sums(to, traces[t][at], last - first))
            B, own = cross.B[part].reshape(l, k, m)[at], LK[part].reshape(l, k, m)[at]
            S -= _sums(to, np.einsum("lam,lan->lmn", B, own), last - first)
        for j in range(last - first):
            yield Without(
                n=whole.n - int(counts[j]),
                basis=whole.basis,
                S=whole.S - 0.5 * (S[j] + S[j].T),
                DK=[all_ - own[j] for all_, own in zip(whole.DK, DK, strict=True)],
                traces=[all_ - own[j] for all_, own in zip(whole.traces, own_traces, strict=True)],
            )


def _sums(to: IntArray, values: FloatArray, count: int) -> FloatArray:
    """Sums of the entries that belong to each group; ``to`` is ascending."""
    out = np.zeros((count, *values.shape[1:]))
    if len(to):
        starts = np.flatnonzero(np.append(True, to[1:] != to[:-1]))
        out[to[starts]] = np.add.reduceat(values, starts, axis=0)
    return out


# ------------------------------------------------------------------------------ one step


@dataclass(frozen=True, eq=False)
class Step:
    """What one Newton step from the whole fit needs.

    Attributes
    ----------
    theta : ndarray, (n_theta,)
    hessian : ndarray, (n_theta, n_theta)
        Of the deviance of the whole at theta.
    free : ndarray of bool, (n_theta,)
        Entries the step may change: not those at zero, where a variance is estimated as zero.
    slopes : list of ndarray, (n_theta, k, k)
        Derivatives of every ``lambda_t`` in theta.
    known_scale : float or None
        Residual variance, where it is known.
    """

    theta: FloatArray
    hessian: FloatArray
    free: BoolArray
    slopes: list[FloatArray]
    covariance: Covariance
    reml: bool
    known_scale: float | None

    @classmethod
    def of(cls, dev: ProfiledDeviance, theta: FloatArray, free: BoolArray) -> Step:
        """Exact Hessian by differences of the gradient."""
        hessian = dev.hessian(theta) if free.any() else np.zeros((len(theta), len(theta)))
        dev.state_at(theta)
        slopes = _root_slopes(dev.covariance, theta)
        return cls(theta, hessian, free, slopes, dev.covariance, dev.reml, dev.known_scale)

    def given_theta(self, p: Without) -> Deleted | None:
        """Estimates without the group at theta; None where X has lost a rank."""
        return self._solved(p, p.S, self.theta)

    def taken(self, p: Without) -> Deleted | None:
        """Estimates after one Newton step from theta without the group."""
        at = self.given_theta(p)
        if at is None or not self.free.any():
            return at
        inner = np.ix_(self.free, self.free)
        gradient = self._gradient(p, at)[self.free]
        theta: FloatArray = self.theta.copy()
        theta[self.free] -= np.linalg.lstsq(self.hessian[inner], gradient, rcond=None)[0]
        theta[self.covariance.on_diagonal & (theta < 0)] = 0.0
        S = p.S.copy()
        for slope, DK in zip(self.slopes, p.DK, strict=True):
            change = np.tensordot(DK, np.tensordot(theta - self.theta, slope, 1), 2)
            S -= change + change.T
        return self._solved(p, S, theta) or replace(at, theta=theta, converged=False)

    def _solved(self, p: Without, S: FloatArray, theta: FloatArray) -> Deleted | None:
        r = len(S) - 1
        df = p.n - r if self.reml else p.n
        if df <= 0 or rank_lost(S[:r, :r]):
            return None
        vcov: FloatArray = np.asarray(np.linalg.inv(S[:r, :r]), dtype=np.float64)
        gamma = vcov @ S[:r, r]
        pwrss = float(S[r, r] - S[r, :r] @ gamma)
        scale = pwrss / df if self.known_scale is None else self.known_scale
        return Deleted(p.basis, gamma, vcov, scale, theta) if pwrss > 0 else None

    def _gradient(self, p: Without, at: Deleted) -> FloatArray:
        """Gradient of the deviance without the group in theta, see `ProfiledDeviance`."""
        c = np.append(-at.gamma, 1.0)
        weight = np.outer(c, c) / at.scale
        if self.reml:
            weight[:-1, :-1] += at.vcov_unscaled
        blocks = [
            2.0 * (trace - np.tensordot(weight, DK, 2))
            for trace, DK in zip(p.traces, p.DK, strict=True)
        ]
        return self.covariance.chain(self.theta, blocks)


def _root_slopes(covariance: Covariance, theta: FloatArray) -> list[FloatArray]:
    out = [np.zeros((len(theta), term.k, term.k)) for term in covariance.terms]
    for i in range(len(theta)):
        step = np.zeros(len(theta))
        step[i] = SLOPE_STEP * max(abs(theta[i]), 1e-3)
        ends = [covariance.factors(theta + sign * step) for sign in (1.0, -1.0)]
        for t, (up, down) in enumerate(zip(*ends, strict=True)):
            out[t][i] = (up - down) / (2.0 * step[i])
    return out


@dataclass(frozen=True, eq=False)
class RowDeletions:
    """Closed forms for every row at fixed theta, in the working basis.

    Attributes
    ----------
    change : ndarray, (n, r)
        ``gamma - gamma_(i)``.
    pwrss : ndarray, (n,)
    a : ndarray, (n, r)
        ``vcov_(i) / sigma_(i)^2 = S_xx^-1 + a_i a_i'``.
    """

    change: FloatArray
    pwrss: FloatArray
    a: FloatArray


def rows_given_theta(
    dev: ProfiledDeviance, design: Design, theta: FloatArray, lev: Leverage
) -> RowDeletions:
    """Delete each row at fixed theta, see the head of the module.

    NaN for rows whose deletion costs X a rank; rows of weight zero change nothing.
    """
    design, (dev, theta) = dev.rows(design), dev.working(theta)
    state = dev.state_at(theta)
    r = len(state.gamma)
    change, a, e = np.empty((design.n, r)), np.empty((design.n, r)), np.empty(design.n)
    inverse = sla.cho_solve((state.Rxx, False), np.eye(r)) if r else np.zeros((0, 0))
    for rows, E in whitened_rows(dev, design, state):
        a[rows] = E[:, :r] @ inverse
        e[rows] = E @ state.residual
    w = np.ones(design.n) if design.weights is None else design.weights
    rest = np.where(1.0 - lev.total > RANK_LOST, 1.0 - lev.total, np.nan)
    change = a * (w * e / rest)[:, None]
    return RowDeletions(change, state.pwrss - w * e**2 / rest, a * np.sqrt(w / rest)[:, None])
