"""Leverage: how much each fitted value follows its own observation.

At given theta the fitted values ``X beta + Z b`` are linear in y. With ``W`` the prior weights,
``g_i = Lambda'z_i`` and ``M, K, S_xx`` as in :mod:`sparselmm.deviance`, the diagonal of the matrix
that maps y to its fitted values is

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

from sparselmm.base.smallmatrix import upper_inverse
from sparselmm.base.types import FloatArray, IntArray, Snapshot
from sparselmm.crossprod import PairBlocks
from sparselmm.deviance import ProfiledDeviance, State
from sparselmm.solvers import apply_lambda
from sparselmm.terms import Design, RandomTerm

CHUNK = 65_536
"""Rows worked on at a time."""

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


@dataclass(frozen=True, eq=False)
class Entries:
    """One term's part of some rows of Z, one entry per level a row belongs to.

    Attributes
    ----------
    rows : ndarray of int, (m,)
        Row of each entry, counted from the first of the rows; ascending.
    levels : ndarray of int, (m,)
        Level of the term.
    values : ndarray, (m, k)
        The row's part of Z in the columns of the level.
    """

    rows: IntArray
    levels: IntArray
    values: FloatArray

    @classmethod
    def of(cls, term: RandomTerm, rows: slice) -> Entries:
        """Entries of a term in some rows."""
        if term.block is not None:
            part = term.block[rows]
            at = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
            levels, place = np.divmod(part.indices, term.k)
            values = np.zeros((len(levels), term.k))
            values[np.arange(len(levels)), place] = part.data
            return cls(at, levels, values)
        assert term.codes is not None
        codes = term.codes[rows]
        at = np.flatnonzero(codes >= 0)
        values = np.ones((len(codes), 1)) if term.values is None else term.values[rows]
        return cls(at, codes[at], values[at])

    def join(self, other: Entries) -> tuple[IntArray, IntArray]:
        """Positions of every pair of entries, one of each, that stand in the same row."""
        if len(self.rows) == len(other.rows) and np.array_equal(self.rows, other.rows):
            single = len(self.rows) < 2 or bool((np.diff(self.rows) > 0).all())
            if single:
                each = np.arange(len(self.rows))
                return each, each
        first = np.searchsorted(other.rows, self.rows, side="left")
        count = np.searchsorted(other.rows, self.rows, side="right") - first
        left = np.repeat(np.arange(len(self.rows)), count)
        step = np.arange(len(left)) - np.repeat(np.cumsum(count) - count, count)
        return left, first[left] + step


def block_places(pair: PairBlocks, rows: IntArray, cols: IntArray) -> IntArray:
    """Position in ``pair.data`` of the blocks of some levels, -1 where there is none, (m,)."""
    if pair.is_block_diagonal:
        return np.where(rows == cols, rows, -1)
    keys = pair.cols.astype(np.int64) * pair.n_rows + pair.rows
    wanted = cols.astype(np.int64) * pair.n_rows + rows
    at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    return np.where(keys[at] == wanted, at, -1) if len(keys) else np.full(len(wanted), -1)


def row_slices(n: int) -> Iterator[slice]:
    """Chunks of rows."""
    return (slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK))


def response(design: Design) -> FloatArray:
    """The response less the offset, (n,)."""
    return design.y if design.offset is None else design.y - design.offset


def times_z(design: Design, slices: list[slice], rows: slice, x: FloatArray) -> FloatArray:
    """``Z[rows] x`` for x (q, m), (number of rows, m), without forming Z."""
    out = np.zeros((len(range(*rows.indices(design.n))), x.shape[1]))
    for term, part in zip(design.terms, slices, strict=True):
        if term.block is not None:
            out += term.block[rows] @ x[part]
            continue
        assert term.codes is not None
        codes = term.codes[rows]
        own = x[part].reshape(term.n_levels, term.k, -1)[codes]
        v = np.ones((1, 1)) if term.values is None else term.values[rows]
        out += np.where((codes >= 0)[:, None], np.sum(v[:, :, None] * own, axis=1), 0.0)
    return out


def whitened_rows(
    dev: ProfiledDeviance, design: Design, state: State
) -> Iterator[tuple[slice, FloatArray]]:
    """``W^-1 V^-1 [Q, y - X shift]`` in chunks of rows: rows of ``[Q y]`` less ``Z Lambda K``.

    Its columns combined by ``state.residual`` are the conditional residuals.
    """
    LK = apply_lambda(dev.cross, state.lams, state.K, transpose=False)
    y = response(design)
    for rows in row_slices(design.n):
        E = dev.cross.basis.apply(design.X[rows], y[rows])
        E -= times_z(design, dev.cross.slices, rows, LK)
        yield rows, E


def leverage(dev: ProfiledDeviance, design: Design, theta: FloatArray) -> Leverage:
    """Leverage of every row at theta.

    Parameters
    ----------
    dev : ProfiledDeviance
    design : Design
        The rows it was made from.
    theta : ndarray, (n_theta,)

    Returns
    -------
    Leverage
    """
    state = dev.state_at(theta)
    fixed = np.empty(design.n)
    r = len(state.gamma)
    root = upper_inverse(state.Rxx)
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
        for rows in row_slices(design.n):
            a, b = Entries.of(design.terms[s], rows), Entries.of(design.terms[t], rows)
            i, j = a.join(b)
            at = block_places(pair, a.levels[i], b.levels[j])
            m = rows.stop - rows.start
            missing[rows] |= np.bincount(a.rows[i], at < 0, m) > 0
            found = at >= 0
            i, j, at = i[found], j[found], at[found]
            value = np.einsum("mi,mij,mj->m", a.values[i], G[at], b.values[j], optimize=True)
            out[rows] += np.bincount(a.rows[i], value * (1.0 if s == t else 2.0), m)
    if missing.any():
        _solve_rows(dev, design, theta, np.flatnonzero(missing), out)
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
    out = np.zeros(design.n)
    lams = dev.state_at(theta).lams
    for term, lam in zip(design.terms, lams, strict=True):
        for rows in row_slices(design.n):
            e = Entries.of(term, rows)
            size = np.sum((e.values @ lam) ** 2, axis=1)
            out[rows] += np.bincount(e.rows, size, rows.stop - rows.start)
    return out
