"""Influence of groups and rows on the estimates: what deleting them changes.

With ``V = Var(beta)`` of the whole fit and ``(i)`` for the fit without group i,

    Cook's distance   (beta - beta_(i))'V^-1(beta - beta_(i)) / r
    MDFFITS           (beta - beta_(i))'V_(i)^-1(beta - beta_(i)) / r
    DFBETAS           (beta - beta_(i)) / se(beta_(i))
    COVTRACE          | tr(V^-1 V_(i)) - r |
    COVRATIO          det V_(i) / det V

r the rank of X (Cook 1977; Belsley, Kuh & Welsch 1980, section 2.1, for DFBETAS and COVRATIO;
Christensen, Pearson & Johnson 1992 for mixed models; Schabenberger 2004 for all five by these
names). :mod:`sparselmm.inference.diagnostics.deletion` computes the deletions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import scipy.linalg as sla

from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.base.workers import Workers, in_parallel
from sparselmm.design.rows import GroupRows
from sparselmm.inference.diagnostics.deletion import (
    Deleted,
    Downdates,
    Step,
    by_group,
    level_owners,
    pieces,
    rows_given_theta,
)
from sparselmm.inference.diagnostics.leverage import Leverage
from sparselmm.inference.estimates import Estimates
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.optimize import minimize

REFIT_TOLERANCE = 1e-14
"""A refit goes on until a Newton step promises less decrease of the deviance than this: the
difference between two fits needs more digits than either of them."""

TOGETHER = 16
"""Groups that a worker deletes at a time."""


@dataclass(frozen=True, eq=False)
class Influence:
    """Estimates without each group, and their distance from the whole fit.

    Attributes
    ----------
    beta : ndarray, (m, r)
        Fixed effects of the independent columns of X without each group.
    se : ndarray, (m, r)
        Their standard errors.
    theta : ndarray, (m, n_theta), or None
        None where theta was held.
    sigma : ndarray, (m,)
    cooks_distance, mdffits, covtrace, covratio : ndarray, (m,)
    dfbetas : ndarray, (m, r)
    converged : ndarray of bool, (m,)
        Exact refits that met the optimizer's criteria; otherwise groups whose one step could be
        taken.

    Everything is NaN for a group without which the fixed effects cannot be estimated.
    """

    beta: FloatArray
    se: FloatArray
    theta: FloatArray | None
    sigma: FloatArray
    cooks_distance: FloatArray
    mdffits: FloatArray
    covtrace: FloatArray
    covratio: FloatArray
    dfbetas: FloatArray
    converged: BoolArray


def influence_of_groups(
    est: Estimates,
    groups: GroupRows,
    free: BoolArray,
    exact: bool,
    theta: bool,
    workers: Workers = 1,
) -> Influence:
    """Delete each group.

    Parameters
    ----------
    free : ndarray of bool, (n_theta,)
        Entries of theta that a step may change.
    exact : bool
        Refit; otherwise one Newton step in theta.
    theta : bool
        False: theta stays where it is.
    workers : Workers
        Of deletions that are not sums over the groups.
    """
    at = est.working
    owners = None if exact else level_owners(at.design, groups)
    if owners is not None:
        step = _step(at, free, theta)
        pieces_of = by_group(at.deviance, at.design, at.pls.theta, groups, owners)
        deleted: Iterable[Deleted | None] = map(step.taken, pieces_of)
    else:
        task = Deleting(at, groups, free, exact, theta)
        every = len(groups) if workers == 1 else TOGETHER
        ranges = [range(a, min(a + every, len(groups))) for a in range(0, len(groups), every)]
        deleted = chain.from_iterable(in_parallel(task, ranges, workers))
    found = [(j, one) for j, one in enumerate(deleted) if one is not None]
    r, m = len(est.pls.beta), len(groups)
    beta, vcov = np.full((m, r), np.nan), np.full((m, r, r), np.nan)
    thetas, sigma = np.full((m, len(est.pls.theta)), np.nan), np.full(m, np.nan)
    converged = np.zeros(m, dtype=bool)
    for j, one in found:
        beta[j], vcov[j], sigma[j] = one.beta, one.vcov, np.sqrt(one.scale)
        thetas[j], converged[j] = est.deviance.original(one.theta), one.converged
    se = np.sqrt(np.einsum("mii->mi", vcov))
    held = not exact and not theta
    return _measures(est, beta, se, vcov, None if held else thetas, sigma, converged)


def _measures(
    est: Estimates, beta: FloatArray, se: FloatArray, vcov: FloatArray,
    theta: FloatArray | None, sigma: FloatArray, converged: BoolArray,
) -> Influence:  # fmt: skip
    r = len(est.pls.beta)
    change = est.pls.beta - beta
    root = np.linalg.cholesky(est.pls.scale * est.pls.vcov_unscaled)
    half = sla.solve_triangular(root, change.T, lower=True, check_finite=False)
    inverse = sla.solve_triangular(root, np.eye(r), lower=True)
    inside = inverse @ vcov @ inverse.T  # V^-1/2 V_(i) V^-1/2'
    mdffits, covratio = np.full(len(beta), np.nan), np.full(len(beta), np.nan)
    fine = np.isfinite(sigma)
    if fine.any() and r:
        solved = np.linalg.solve(inside[fine], half.T[fine][..., None])[..., 0]
        mdffits[fine] = np.sum(half.T[fine] * solved, axis=1) / r
        covratio[fine] = np.linalg.det(inside[fine])
    with np.errstate(divide="ignore", invalid="ignore"):
        return Influence(
            beta=beta, se=se, theta=theta, sigma=sigma,
            cooks_distance=np.sum(half**2, axis=0) / r,
            mdffits=mdffits, covtrace=np.abs(np.einsum("mii->m", inside) - r), covratio=covratio,
            dfbetas=change / se, converged=converged,
        )  # fmt: skip


def _step(est: Estimates, free: BoolArray, theta: bool) -> Step:
    at = est.pls.theta
    return Step.of(est.deviance, at, free if theta else np.zeros(len(at), dtype=bool))


@dataclass(frozen=True, eq=False)
class Deleting:
    """Groups deleted one after the other; can be sent to other processes.

    Attributes are arguments of `influence_of_groups`.
    """

    est: Estimates
    groups: GroupRows
    free: BoolArray
    exact: bool
    theta: bool

    def __call__(self, numbers: range) -> list[Deleted | None]:
        """The fits without some of the groups."""
        est = self.est
        engines = Downdates(est.deviance, est.design, self.groups)
        step = None if self.exact else _step(est, self.free, self.theta)
        out: list[Deleted | None] = []
        for j in numbers:
            engine = engines.without(j)
            if engine is None:
                out.append(None)
            elif step is None:
                out.append(_refit(engine, est.pls.theta))
            else:
                out.append(step.taken(pieces(engine, est.pls.theta)))
        return out


def _refit(dev: ProfiledDeviance, start: FloatArray) -> Deleted:
    opt = minimize(dev, start, tolerance=REFIT_TOLERANCE)
    state = dev.state_at(opt.theta)
    r = len(state.gamma)
    vcov = sla.cho_solve((state.Rxx, False), np.eye(r)) if r else np.zeros((0, 0))
    scale = state.pwrss / dev.df if dev.known_scale is None else dev.known_scale
    return Deleted(dev.cross.basis, state.gamma, vcov, scale, opt.theta, opt.converged)


def influence_of_rows(est: Estimates, lev: Leverage) -> Influence:
    """Delete each row, theta held: closed forms, linear in the number of rows."""
    pls, basis = est.pls, est.deviance.cross.basis
    rows = rows_given_theta(est.deviance, est.design, pls.theta, lev)
    w = est.design.weights
    positive = np.ones(len(rows.pwrss)) if w is None else (w > 0).astype(float)
    known = est.deviance.known_scale
    scale = rows.pwrss / (est.deviance.df - positive) if known is None else known + 0.0 * rows.pwrss
    r = basis.rank
    state = est.deviance.state_at(pls.theta)
    half = rows.change @ state.Rxx.T
    grown = np.sum((rows.a @ state.Rxx.T) ** 2, axis=1)  # a'S a
    ratio = scale / pls.scale
    a = rows.a @ basis.T.T
    se = np.sqrt(scale[:, None] * (np.diag(pls.vcov_unscaled) + a**2))
    along = np.sum(half * (rows.a @ state.Rxx.T), axis=1)
    change = rows.change @ basis.T.T
    distance = np.sum(half**2, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Influence(
            beta=pls.beta - change, se=se, theta=None, sigma=np.sqrt(scale),
            cooks_distance=distance / (pls.scale * r),
            mdffits=(distance - along**2 / (1.0 + grown)) / (scale * r),
            covtrace=np.abs(ratio * (r + grown) - r), covratio=ratio**r * (1.0 + grown),
            dfbetas=change / se, converged=np.isfinite(scale),
        )  # fmt: skip
