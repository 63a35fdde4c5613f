"""Leverage: how much each fitted value follows its own observation.

At given theta the fitted values ``X beta + Z b`` are linear in y. With ``W`` the prior weights,
``g_i = Lambda'z_i`` and ``M, K, S_xx`` as in :mod:`sparselmm.likelihood.deviance`, the diagonal of
the matrix that maps y to its fitted values is

    h_i = w_i [ g_i'M^-1 g_i + |S_xx^-1/2' (x_i - K_x'g_i)|^2 ]

(the hat matrix ``C_L'C_L + C_R'C_R`` of Bates, Maechler, Bolker & Walker 2015, written for one row:
eqs. 64 to 66 in the vignette of lme4 1.1-31; Demidenko & Stukel 2005 for the decomposition in a
part of the random and a part of the fixed effects). The first part needs ``M^-1`` only where the
terms of one row meet, and there ``A = Z'WZ`` has an entry too: the selected inverse holds all of
it, at a cost that grows with the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sparselmm.base.types import FloatArray, IntArray, Snapshot
from sparselmm.design.rows import Entries, blocks, response, times_z
from sparselmm.design.terms import Design
from sparselmm.factor.crossprod import PairBlocks
from sparselmm.factor.solver import apply_lambda
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.evaluations import State

GATHERED = 1_000_000
"""Numbers of the blocks of some rows (8 MB)."""

SOLVED_TOGETHER = 64
"""Rows whose part of the inverse is not on the pattern are solved for in batches of this size."""


@dataclass(frozen=True, eq=False)
class Leverage(Snapshot):
    """Diagonal of the matrix that maps y to its fitted values.

    Attributes
    ----------
    random : ndarray, (n,)
        ``w_i g_i'M^-1 g_i``: by the random effects, fixed effects known.
    fixed : ndarray, (n,)
        What estimating the fixed effects adds.
    """

    random: FloatArray
    fixed: FloatArray

    @cached_property
    def total(self) -> FloatArray:
        """Leverage of every row, (n,); zero for rows of weight zero."""
        return self.random + self.fixed


def block_places(pair: PairBlocks, rows: IntArray, cols: IntArray) -> IntArray:
    """Position in ``pair.data`` of the blocks of some levels, -1 where there is none, (m,)."""
    if pair.is_block_diagonal:
        return np.where(rows == cols, rows, -1)
    keys = pair.cols.astype(np.int64) * pair.n_rows + pair.rows
    wanted = cols.astype(np.int64) * pair.n_rows + rows
    at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    return np.where(keys[at] == wanted, at, -1) if len(keys) else np.full(len(wanted), -1)


def whitened_rows(
    dev: ProfiledDeviance, design: Design, state: State
) -> Iterator[tuple[slice, FloatArray]]:
    """``W^-1 V^-1 [Q, y - X shift]`` in chunks of rows: rows of ``[Q y]`` less ``Z Lambda K``.

    Its columns combined by ``state.residual`` are the conditional residuals.
    """
    LK = apply_lambda(dev.cross, state.lams, state.K, transpose=False)
    y = response(design)
    for rows in blocks(design.n):
        E = dev.cross.basis.apply(design.X[rows], y[rows])
        E -= times_z(design.terms, LK, rows)
        yield rows, E


def leverage(dev: ProfiledDeviance, design: Design, theta: FloatArray) -> Leverage:
    """Leverage of every row at theta.

    Parameters
    ----------
    design : Design
        The rows it was made from.
    theta : ndarray, (n_theta,)
    """
    design, (dev, theta) = dev.rows(design), dev.working(theta)
    state = dev.state_at(theta)
    fixed = np.empty(design.n)
    r = len(state.gamma)
    root = state.inverse_root
    for rows, E in whitened_rows(dev, design, state):
        fixed[rows] = np.sum((E[:, :r] @ root) ** 2, axis=1)
    random = posterior_variances(dev, design, theta)
    w = 1.0 if design.weights is None else design.weights
    return Leverage(w * random, w * fixed)


def posterior_variances(dev: ProfiledDeviance, design: Design, theta: FloatArray) -> FloatArray:
    """``g_i'M^-1 g_i``: Var(z_i'b | y) / sigma^2 with fixed effects known, (n,)."""
    out = np.zeros(design.n)
    missing = np.zeros(design.n, dtype=bool)
    for (s, t), pair in dev.cross.pairs.items():
        G = dev.conditional_cross_blocks(theta, s, t)
        for rows in blocks(design.n):
            a, b = Entries.of(design.terms[s], rows), Entries.of(design.terms[t], rows)
            i, j = a.join(b)
            at = block_places(pair, a.levels[i], b.levels[j])
            m = rows.stop - rows.start
            missing[rows] |= np.bincount(a.rows[i], at < 0, m) > 0
            found = at >= 0
            i, j, at = i[found], j[found], at[found]
            value = _forms(a.values[i], G, at, b.values[j])
            out[rows] += np.bincount(a.rows[i], value * (1.0 if s == t else 2.0), m)
    if missing.any():
        _solve_rows(dev, design, theta, np.flatnonzero(missing), out)
    return out


def _forms(left: FloatArray, G: FloatArray, at: IntArray, right: FloatArray) -> FloatArray:
    """``left_i' G[at_i] right_i`` of every row, some rows at a time, (m,)."""
    out, step = np.empty(len(at)), max(1, GATHERED // max(1, G[0].size if len(G) else 1))
    for start in range(0, len(at), step):
        some = slice(start, start + step)
        half = np.matmul(G[at[some]], right[some, :, None])[:, :, 0]
        out[some] = np.einsum("mi,mi->m", left[some], half)
    return out


def _solve_rows(
    dev: ProfiledDeviance, design: Design, theta: FloatArray, rows: IntArray, out: FloatArray
) -> None:
    """The same by solves, for rows that meet where A has cancelled to nothing or has no weight."""
    w = design.weights
    for start in range(0, len(rows), SOLVED_TOGETHER):
        batch = rows[start : start + SOLVED_TOGETHER]
        if w is not None:
            batch = batch[w[batch] > 0]
        Zt = design.Z[batch].T.toarray()
        out[batch] = np.einsum("qm,qm->m", Zt, dev.conditional_columns(theta, Zt))


def prior_variances(dev: ProfiledDeviance, design: Design, theta: FloatArray) -> FloatArray:
    """``z_i' Lambda Lambda' z_i``: Var(z_i'b) / sigma^2, (n,)."""
    design, (dev, theta) = dev.rows(design), dev.working(theta)
    out = np.zeros(design.n)
    lams = dev.state_at(theta).lams
    for term, lam in zip(design.terms, lams, strict=True):
        for rows in blocks(design.n):
            e = Entries.of(term, rows)
            size = np.sum((e.values @ lam) ** 2, axis=1)
            out[rows] += np.bincount(e.rows, size, rows.stop - rows.start)
    return out
