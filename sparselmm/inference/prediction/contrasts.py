"""Comparisons between predicted random effects: contrasts, expected ranks.

A contrast of random effects ``c'b`` is predicted by ``c'b_hat`` with error variance
``sigma^2 c'G c`` given beta, and ``sigma^2 [0 c'] C [0; c]`` with beta estimated, see
:mod:`sparselmm.inference.prediction.variance`.

The expected rank of level i among l levels is one plus the sum of the probabilities that it lies
above each of the others (Laird & Louis 1989; Lingsma et al. 2010),

    ER_i = 1 + sum_{j != i} Phi((b_i - b_j) / sd(b_i - b_j)).

Sources: N. M. Laird & T. A. Louis (1989), Empirical Bayes ranking methods, *Journal of Educational
Statistics* 14(1), 29-46; H. F. Lingsma et al. (2010), Comparing and ranking hospitals based on
outcome: results from The Netherlands Stroke Survey, *QJM* 103(2), 99-108.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
import scipy.sparse as sp

from sparselmm.base.types import CSR, BoolArray, FloatArray, IntArray
from sparselmm.inference.prediction.variance import conditional_forms, prediction_forms
from sparselmm.likelihood.deviance import ProfiledDeviance

EXACT_LEVELS = 5_000
"""Up to this many levels all pairs are compared (25 million probabilities, below a second)."""

GRID = 2**17
"""Points of the grid for more levels."""

NODES = 256
"""Variances that grid works with; a level between two of them is shared."""

SMALLEST_VARIANCE = 1e-8
"""Variances below this share of the largest count as this share."""

PAIRS_AT_ONCE = 4_000_000
"""Pairs of levels compared at once (32 MB per array)."""


@dataclass(frozen=True, eq=False)
class Contrasts:
    """Combinations of random effects.

    Attributes
    ----------
    estimate : ndarray, (m,)
        ``c'b_hat``, in the units of the coefficients.
    se : ndarray, (m,)
        Root of the error variance of the prediction.
    """

    estimate: FloatArray
    se: FloatArray


def contrasts(
    deviance: ProfiledDeviance, theta: FloatArray, b: FloatArray, scale: float, H: CSR, fixed: bool
) -> Contrasts:
    """Predictions of ``H b`` with their standard errors.

    Parameters
    ----------
    theta : ndarray, (n_theta,)
    b : ndarray, (q,)
        Conditional modes.
    scale : float
        Residual variance.
    H : csr_array, (m, q)
    fixed : bool
        Whether to add what estimating beta contributes.
    """
    forms = (
        prediction_forms(deviance, theta, None, H)
        if fixed
        else conditional_forms(deviance, theta, H)
    )
    return Contrasts(np.asarray(H @ b), np.sqrt(scale * np.maximum(forms, 0.0)))


def level_contrasts(columns: IntArray, rows: CSR, q: int) -> CSR:
    """Contrasts between levels as combinations of all random effects, (m, q).

    Parameters
    ----------
    columns : ndarray of int, (l,)
        Column of Z of every level's coefficient.
    rows : csr_array, (m, l)
        Weights of the levels.
    q : int
        Columns of Z.
    """
    rows = sp.csr_array(rows)
    out = sp.csr_array((rows.data, columns[rows.indices], rows.indptr), shape=(rows.shape[0], q))
    out.sort_indices()
    return out


def pair_rows(first: IntArray, second: IntArray, l: int) -> CSR:
    """Contrasts ``level first - level second``, (m, l)."""
    m = len(first)
    indices = np.column_stack([first, second]).ravel()
    data = np.tile([1.0, -1.0], m)
    return sp.csr_array((data, indices, np.arange(0, 2 * m + 1, 2)), shape=(m, l))


# ------------------------------------------------------------------------------- ranks


def joint_ranks(b: FloatArray, cov: FloatArray) -> FloatArray:
    """Expected ranks from the joint covariance, (l,), 1 the lowest.

    Parameters
    ----------
    b : ndarray, (l,)
    cov : ndarray, (l, l)
        Covariance of ``b_hat - b``.
    """
    v = np.diag(cov)
    out = np.empty(len(b))
    for rows in _chunks(len(b)):
        spread = v[rows, None] + v - 2.0 * cov[rows]
        out[rows] = 0.5 + _above(b[rows, None] - b, spread).sum(axis=1)
    return out


def marginal_ranks(b: FloatArray, v: FloatArray) -> FloatArray:
    """Expected ranks from variances alone, levels taken as independent, (l,).

    Parameters
    ----------
    b, v : ndarray, (l,)
        Predictions and their error variances.
    """
    if len(b) > EXACT_LEVELS:
        return _grid_ranks(b, v)
    out = np.empty(len(b))
    for rows in _chunks(len(b)):
        out[rows] = 0.5 + _above(b[rows, None] - b, v[rows, None] + v).sum(axis=1)
    return out


def _chunks(l: int) -> list[slice]:
    step = max(1, PAIRS_AT_ONCE // max(l, 1))
    return [slice(start, min(start + step, l)) for start in range(0, l, step)]


def _above(gap: FloatArray, variance: FloatArray) -> FloatArray:
    """``Phi(gap / sd)``; a known difference counts 0, 1/2 or 1."""
    sd = np.sqrt(np.maximum(variance, 0.0))
    known: BoolArray = sd == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        p = scipy.special.ndtr(gap / sd)
    return np.where(known, 0.5 * (1.0 + np.sign(gap)), p)


def _grid_ranks(b: FloatArray, v: FloatArray) -> FloatArray:
    """The same for many levels, by convolutions on a grid.

    ``sum_j Phi((x - b_j) / sqrt(v + v_j))`` is the distribution function of
    ``sum_j N(b_j, v_j) * N(0, v)``, and Fourier transforms turn the two convolutions into products:
    one transform for every node of v_j and one for every node of v. Levels are shared between the
    two nearest nodes, in proportion, so that mean and variance stay what they are.
    """
    nodes = _nodes(v)
    reach = 9.0 * float(np.sqrt(nodes[-1])) + 1e-12 + 1e-9 * float(np.ptp(b))
    low, high = float(b.min()) - 2 * reach, float(b.max()) + 2 * reach
    step = (high - low) / (GRID - 1)
    left, share = _shared((b - low) / step)
    node, part = _shared(np.interp(v, nodes, np.arange(len(nodes))))
    k2 = (2.0 * np.pi * np.fft.rfftfreq(GRID, d=step)) ** 2
    owners = [_owners(node, part, j) for j in range(len(nodes))]
    total = np.zeros(len(k2), dtype=complex)
    for size, (inside, weight) in zip(nodes, owners, strict=True):
        mass = np.bincount(left[inside], weight * (1.0 - share[inside]), minlength=GRID)
        mass += np.bincount(left[inside] + 1, weight * share[inside], minlength=GRID)
        total += np.fft.rfft(mass) * np.exp(-0.5 * k2 * size)
    out = np.full(len(b), 0.5)
    for size, (inside, weight) in zip(nodes, owners, strict=True):
        density = np.fft.irfft(total * np.exp(-0.5 * k2 * size), n=GRID)
        upto = np.cumsum(density) - 0.5 * density
        at, right = left[inside], share[inside]
        out[inside] += weight * ((1.0 - right) * upto[at] + right * upto[at + 1])
    return out


def _shared(place: FloatArray) -> tuple[IntArray, FloatArray]:
    """Point of a grid to the left, and the share of the one to the right."""
    left = np.floor(place).astype(np.int64)
    return left, place - left


def _owners(node: IntArray, share: FloatArray, j: int) -> tuple[IntArray, FloatArray]:
    """Levels that have a part of node j, and that part."""
    here = np.flatnonzero(node == j)
    before = np.flatnonzero((node == j - 1) & (share > 0))
    return np.concatenate([here, before]), np.concatenate([1.0 - share[here], share[before]])


def _nodes(v: FloatArray) -> FloatArray:
    """Variances the grid works with: the distinct ones where few, else a geometric sequence."""
    values = np.unique(v)
    if len(values) <= NODES:
        return values
    low = max(float(values[0]), float(values[-1]) * SMALLEST_VARIANCE)
    return np.geomspace(low, float(values[-1]), NODES)
