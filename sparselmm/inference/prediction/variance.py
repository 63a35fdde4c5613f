"""Variances of what a fit predicts: ``x'beta + h'b`` for any x and any sparse h.

With ``G = Lambda M^-1 Lambda'`` and ``C`` the inverse of the coefficient matrix of Henderson's
mixed-model equations, the error of the prediction ``x'beta_hat + h'b_hat`` has the variance
``sigma^2 [x' h'] C [x; h]`` (Henderson 1984, chapter 5, variances from the mixed-model equations;
Searle, Casella & McCulloch 1992, chapter 7). Block elimination of the random effects turns it into
a sum of two squares,

    [x' h'] C [x; h] = h'G h + |R^-T (x - X'V^-1 Z Psi h)|^2,      R'R = S_xx,

the first what remains unknown of b once beta is known, the second what beta adds. With ``Q = X T``
the working basis and ``B_x = Z'WQ``, the second vector is ``x T R^-1 - h'G B_x R^-1``: one solve
with as many right-hand sides as there are fixed effects. ``h'G h`` needs G only where two entries
of h meet. Where they met in the data too, that is an entry of the selected inverse, one look-up;
rows of h with a pair that never met are solved for. Nothing of size q x q or n x n is formed.

Sources: C. R. Henderson (1984), *Applications of Linear Models in Animal Breeding*, University of
Guelph; S. R. Searle, G. Casella & C. E. McCulloch (1992), *Variance Components*, Wiley.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp

from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.types import CSR, BoolArray, FloatArray, IntArray
from sparselmm.design.terms import RandomTerm
from sparselmm.inference.effects import BATCH_NUMBERS
from sparselmm.inference.estimates import SLOPE_STEP, Estimates
from sparselmm.likelihood.deviance import ProfiledDeviance

FEW_ROWS = 32
"""Up to this many rows are solved for: cheaper than the selected inverse wherever they differ."""

COLUMN_COST = 4
"""What a column of the joint covariance costs, in rows solved for one by one."""

MOST_COLUMNS = 5_000
"""Columns of Z whose joint covariance is formed (200 MB) when there are more rows than these."""

PAIRS_AT_ONCE = 2_000_000
"""Pairs of entries looked up together (about 100 MB of indices and values)."""


# ------------------------------------------------------------------- quadratic forms h'G h


def conditional_forms(deviance: ProfiledDeviance, theta: FloatArray, H: CSR) -> FloatArray:
    """``h'Lambda M^-1 Lambda'h`` for every row h of H, (m,): ``Var(h'b | y) / sigma^2``.

    Parameters
    ----------
    theta : ndarray, (n_theta,)
    H : csr_array, (m, q)
        One combination of random effects in each row.
    """
    H, (deviance, theta) = deviance.combinations(sp.csr_array(H)), deviance.working(theta)
    H.sum_duplicates()
    out = np.zeros(H.shape[0])
    if not H.nnz:
        return out
    if not _block_diagonal(deviance) and H.shape[0] <= FEW_ROWS:
        return _solved_forms(deviance, theta, H)
    pattern = _OnPattern(deviance, theta)
    for rows in _row_chunks(H):
        out[rows], met = pattern.forms(sp.csr_array(H[rows]))
        missing = np.flatnonzero(~met) + rows.start
        if len(missing):
            out[missing] = _solved_forms(deviance, theta, sp.csr_array(H[missing]))
    return out


def _block_diagonal(deviance: ProfiledDeviance) -> bool:
    """Whether M has one block per level and nothing else."""
    pairs = deviance.cross.pairs
    return len(deviance.cross.sizes) == 1 and pairs[0, 0].is_block_diagonal


def _row_chunks(H: CSR) -> Iterator[slice]:
    """Rows in runs of about `PAIRS_AT_ONCE` pairs of entries."""
    widths = np.diff(H.indptr).astype(np.int64)
    total = np.cumsum(widths * (widths + 1) // 2)
    start = 0
    while start < len(widths):
        before = total[start - 1] if start else 0
        end = int(np.searchsorted(total, before + PAIRS_AT_ONCE, side="right"))
        end = max(end, start + 1)
        yield slice(start, end)
        start = end


@dataclass(eq=False)
class _OnPattern:
    """Entries of ``G = Lambda M^-1 Lambda'`` where A has blocks."""

    deviance: ProfiledDeviance
    theta: FloatArray
    _blocks: dict[tuple[int, int], FloatArray] = field(default_factory=dict)

    def forms(self, H: CSR) -> tuple[FloatArray, BoolArray]:
        """Quadratic forms of the rows of H, (m,), and which of them are on the pattern, (m,)."""
        cross = self.deviance.cross
        ends = np.array([part.stop for part in cross.slices])
        term = np.searchsorted(ends, H.indices, side="right")
        row = np.repeat(np.arange(H.shape[0]), np.diff(H.indptr))
        place = np.arange(H.nnz) - H.indptr[row]
        first = np.repeat(np.arange(H.nnz), place + 1)  # pairs of entries, later with earlier
        step = np.arange(len(first)) - np.repeat(np.cumsum(place + 1) - (place + 1), place + 1)
        second = H.indptr[row[first]] + step
        weight = H.data[first] * H.data[second] * np.where(first == second, 1.0, 2.0)
        out, met = np.zeros(H.shape[0]), np.ones(H.shape[0], dtype=bool)
        code = term[first] * len(ends) + term[second]
        for key in np.unique(code):
            s, t = divmod(int(key), len(ends))
            chosen = np.flatnonzero(code == key)
            a = H.indices[first[chosen]] - cross.slices[s].start
            b = H.indices[second[chosen]] - cross.slices[t].start
            value, found = self._entries(s, t, a, b)
            at = row[first[chosen]]
            out += np.bincount(at, weight[chosen] * value, minlength=len(out))
            met[at[~found]] = False
        return out, met

    def _entries(
        self, s: int, t: int, a: IntArray, b: IntArray
    ) -> tuple[FloatArray, BoolArray | np.bool_]:
        """``G[a, b]`` for columns of terms ``s >= t``; zero and False where not on the pattern."""
        cross = self.deviance.cross
        pair = cross.pairs[s, t]
        (ks, _), (kt, _) = cross.sizes[s], cross.sizes[t]
        level_s, level_t = a // ks, b // kt
        if s == t and pair.is_block_diagonal:
            at, found = level_t, level_s == level_t
        else:
            keys = pair.cols.astype(np.int64) * pair.n_rows + pair.rows
            wanted = level_t.astype(np.int64) * pair.n_rows + level_s
            at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            found = keys[at] == wanted if len(keys) else np.zeros(len(wanted), dtype=bool)
        if (s, t) not in self._blocks:
            make = self.deviance.conditional_cross_blocks
            self._blocks[s, t] = make(self.theta, s, t)
        value = np.zeros(len(a))
        inside = np.flatnonzero(found)
        value[inside] = self._blocks[s, t][at[inside], (a % ks)[inside], (b % kt)[inside]]
        if _block_diagonal(self.deviance):  # two levels that never meet are independent
            found = np.ones(len(a), dtype=bool)
        return value, found


def _solved_forms(deviance: ProfiledDeviance, theta: FloatArray, H: CSR) -> FloatArray:
    """``h'G h`` by solves, equal rows once, (m,)."""
    which, group = distinct_rows(H)
    rows = sp.csr_array(H[which])
    columns = np.unique(rows.indices)
    if COLUMN_COST * len(columns) < len(which) and len(columns) <= MOST_COLUMNS:
        return _forms_in(rows, columns, _solved_covariance(deviance, theta, columns))[group]
    return deviance.conditional_squares(theta, rows)[group]


def _forms_in(rows: CSR, columns: IntArray, G: FloatArray) -> FloatArray:
    """``h'G h`` of rows with entries in few columns, (m,); G their covariance."""
    inner = sp.csr_array(rows[:, columns])
    out = np.empty(inner.shape[0])
    step = max(1, BATCH_NUMBERS // max(len(columns), 1))
    for start in range(0, len(out), step):
        part = inner[start : start + step]
        out[start : start + step] = part.multiply(part @ G).sum(axis=1)
    return out


def distinct_rows(H: CSR) -> tuple[IntArray, IntArray]:
    """First occurrence of every distinct row, (d,), and the distinct row of each row, (m,)."""
    seen: dict[tuple[bytes, bytes], int] = {}
    group = np.empty(H.shape[0], dtype=np.intp)
    which: list[int] = []
    for i, (start, end) in enumerate(zip(H.indptr[:-1], H.indptr[1:], strict=True)):
        key = H.indices[start:end].tobytes(), H.data[start:end].tobytes()
        if key not in seen:
            seen[key] = len(which)
            which.append(i)
        group[i] = seen[key]
    return np.array(which, dtype=np.intp), group


# --------------------------------------------------------------------- with fixed effects


def fixed_roots(
    deviance: ProfiledDeviance, theta: FloatArray, X: FloatArray | None, H: CSR | None
) -> FloatArray:
    """Rows f with ``f f'`` what estimating beta adds to the variance, (m, r), over sigma.

    Parameters
    ----------
    theta : ndarray, (n_theta,)
    X : ndarray, (m, p), or None
        Fixed-effects part of each functional; None for zero.
    H : csr_array, (m, q), or None
        Its random-effects part; None for zero.
    """
    H = None if H is None else deviance.combinations(H)
    deviance, theta = deviance.working(theta)
    basis = deviance.cross.basis
    state = deviance.state_at(theta)
    r = basis.rank
    inverse = state.inverse_root
    out = np.zeros((1, r))
    if X is not None:
        out = out + X[:, basis.kept] @ (basis.T @ inverse)
    if H is not None and H.nnz and r:
        out = out - deviance.times_lambda(theta, H) @ state.Kx
    return np.asarray(out)


def prediction_forms(
    deviance: ProfiledDeviance, theta: FloatArray, X: FloatArray | None, H: CSR | None
) -> FloatArray:
    """Variance of ``x'(beta_hat - beta) + h'(b_hat - b)`` over ``sigma^2``, (m,).

    Arguments as of `fixed_roots`.
    """
    roots = fixed_roots(deviance, theta, X, H)
    out = np.einsum("ij,ij->i", roots, roots)
    return out if H is None else out + conditional_forms(deviance, theta, H)


def joint_forms(deviance: ProfiledDeviance, theta: FloatArray, H: CSR, fixed: bool) -> FloatArray:
    """Covariance of some combinations of random effects over ``sigma^2``, (m, m).

    Arguments as of `joint_covariance`, with H (m, q) the combinations.
    """
    H, (deviance, theta) = deviance.combinations(H), deviance.working(theta)
    out = deviance.conditional_products(theta, H)
    if fixed:
        roots = fixed_roots(deviance, theta, None, H)
        out += roots @ roots.T
    return out


def joint_covariance(
    deviance: ProfiledDeviance, theta: FloatArray, columns: IntArray, fixed: bool
) -> FloatArray:
    """Covariance of some random effects given the data over ``sigma^2``, (c, c).

    Parameters
    ----------
    theta : ndarray, (n_theta,)
    columns : ndarray of int, (c,)
        Columns of Z.
    fixed : bool
        Whether the fixed effects are estimated (the covariance of ``b_hat - b``) or known (the
        conditional covariance of b).
    """
    c, q = len(columns), deviance.cross.q
    if deviance.cross.bases is not None:
        H = sp.csr_array((np.ones(c), columns, np.arange(c + 1)), shape=(c, q))
        return joint_forms(deviance, theta, H, fixed)
    if _block_diagonal(deviance):
        out = _same_level(deviance.conditional_blocks(theta, 0), columns)
    else:
        out = _solved_covariance(deviance, theta, columns)
    if fixed:
        H = sp.csr_array((np.ones(c), columns, np.arange(c + 1)), shape=(c, q))
        roots = fixed_roots(deviance, theta, None, H)
        out += roots @ roots.T
    return out


def _same_level(blocks: FloatArray, columns: IntArray) -> FloatArray:
    """Covariance of columns of a term whose levels are independent, (c, c)."""
    level, place = np.divmod(columns, blocks.shape[1])
    out = np.zeros((len(columns), len(columns)))
    i, j = np.nonzero(level[:, None] == level)
    out[i, j] = blocks[level[i], place[i], place[j]]
    return out


def _solved_covariance(
    deviance: ProfiledDeviance, theta: FloatArray, columns: IntArray
) -> FloatArray:
    """Covariance of some random effects with beta known, (c, c)."""
    c, q = len(columns), deviance.cross.q
    H = sp.csr_array((np.ones(c), columns, np.arange(c + 1)), shape=(c, q))
    return deviance.conditional_products(theta, H)


def marginal_forms(
    terms: Sequence[RandomTerm], psi: Sequence[FloatArray], rows: Sequence[BoolArray], m: int
) -> FloatArray:
    """``z_t Psi_t z_t'`` summed over terms, (m,): variance of effects nothing is known about.

    Parameters
    ----------
    terms : sequence of RandomTerm
        On the new rows; their levels do not matter.
    psi : sequence of ndarray, (k, k)
    rows : sequence of ndarray of bool, (m,)
        Rows to which each term contributes.

    Notes
    -----
    NaN where the design of the row is unknown: a component evaluated group by group has no
    columns for a new group.
    """
    out = np.zeros(m)
    for term, cov, chosen in zip(terms, psi, rows, strict=bool(terms)):
        if not chosen.any():
            continue
        if term.block is not None:
            values, vectors = np.linalg.eigh(cov)
            root = vectors * np.sqrt(np.maximum(values, 0.0))  # of singular ones, too
            scaled = term.block @ sp.kron(sp.eye_array(term.n_levels), root, format="csr")
            value = np.asarray(scaled.multiply(scaled).sum(axis=1)).ravel()
            if term.origin != "array":
                value[np.diff(term.block.indptr) == 0] = np.nan
        elif term.values is None:
            value = np.full(m, cov[0, 0])
        else:
            value = np.einsum("ij,jk,ik->i", term.values, cov, term.values, optimize=True)
        out[chosen] += value[chosen]
    return out


@dataclass(frozen=True, eq=False)
class Targets:
    """What is predicted for some rows: ``x'beta + z'b``, and new observations around it.

    Attributes
    ----------
    X : ndarray, (m, p)
    H : csr_array, (m, q), or None
        ``Z`` with the effects left out, and the levels not seen, set to zero; None for zero.
    terms : tuple of RandomTerm
        On the new rows, for their covariates; empty when only known effects count.
    new : tuple of ndarray of bool, (m,)
        Rows whose level of each term is new and part of the target.
    off : tuple of bool
        Terms that an observation has and the target leaves out.
    weights : ndarray, (m,), or None
        Prior weights of the observations; None when no observations are wanted.
    """

    X: FloatArray
    H: CSR | None
    terms: tuple[RandomTerm, ...]
    new: tuple[BoolArray, ...]
    off: tuple[bool, ...]
    weights: FloatArray | None

    def of_engine(self, deviance: ProfiledDeviance) -> Targets:
        """The same in the columns the engine of ``deviance`` works with."""
        H = None if self.H is None else deviance.combinations(self.H)
        return replace(self, H=H, terms=deviance.term_rows(self.terms))

    def forms(self, deviance: ProfiledDeviance, theta: FloatArray) -> FloatArray:
        """Error variances over ``sigma^2``: of the means and, second, of observations, (2, m).

        To the variance of the prediction comes ``z Psi z'`` for every level not seen; to that of
        an observation also ``z Psi z'`` of the effects left out, and ``1 / w``.
        """
        m, psi = len(self.X), deviance.covariance.psi(theta)
        mean = prediction_forms(deviance, theta, self.X, self.H)
        mean = mean + marginal_forms(self.terms, psi, self.new, m)
        if self.weights is None:
            return mean[None]
        rows = [np.full(m, off) for off in self.off]
        left_out = marginal_forms(self.terms, psi, rows, m)
        with np.errstate(divide="ignore"):
            return np.stack([mean, mean + left_out + 1.0 / self.weights])

    def combined(self, L: FloatArray) -> Targets:
        """Combinations L (c, m) of the means as targets of their own.

        Raises
        ------
        DataError
            When the row of a level not seen takes part: such rows do not say which of them share
            a level.
        """
        used = np.asarray(L != 0).any(axis=0)
        if any((new & used).any() for new in self.new):
            raise DataError(
                "the joint covariance of predictions needs levels that the fit has seen; pass "
                "re=False, or rows of known levels"
            )
        H = None if self.H is None else sp.csr_array(sp.csr_array(L) @ self.H)
        return Targets(L @ self.X, H, (), (), (), None)

    def covariance(self, deviance: ProfiledDeviance, theta: FloatArray) -> FloatArray:
        """Covariance of the means over ``sigma^2``, (m, m); levels must have been seen."""
        own = self.combined(np.eye(len(self.X)))
        roots = fixed_roots(deviance, theta, own.X, own.H)
        out = roots @ roots.T
        if own.H is not None:
            out = out + joint_forms(deviance, theta, own.H, False)
        return np.asarray(out)


# ------------------------------------------------------------- degrees of freedom


def parameter_covariance(est: Estimates) -> FloatArray:
    """Estimation covariance of ``(theta, sigma^2)``, (n_theta + 1, n_theta + 1).

    From the observed information with sigma^2 not profiled out, see
    :mod:`sparselmm.inference.variances`; zero for theta of a singular term, which is taken as
    known.
    """
    cov = est.variance_covariance.theta
    free = np.diag(cov) != 0
    scale = est.pls.scale
    h_ss = est.deviance.df / scale**2
    h = np.where(free, -est.deviance.pwrss_gradient(est.pls.theta) / scale**2, 0.0)
    out = np.empty((len(cov) + 1, len(cov) + 1))
    out[:-1, :-1] = cov
    out[-1, :-1] = out[:-1, -1] = -cov @ h / h_ss
    out[-1, -1] = 2.0 / h_ss + h @ cov @ h / h_ss**2
    return out


def satterthwaite(est: Estimates, forms: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Degrees of freedom of variances ``sigma^2 forms(theta)``, shape of the forms.

    ``2 f^2 / (g'A g)`` with f the variance, g its gradient in ``(theta, sigma^2)`` and A the
    covariance of those, as SAS computes them for any combination of fixed and random effects
    (SAS/STAT 14.1, PROC GLIMMIX, "Satterthwaite Degrees of Freedom Approximation"; Giesbrecht &
    Burns 1985 for fixed effects). The gradient is by central differences of the forms, two
    factorizations for each entry of theta.

    Parameters
    ----------
    forms : callable
        Variances over sigma^2 at a theta.

    Raises
    ------
    ValueError
        When parameters were held fixed or penalized.
    """
    if est.n_fixed or est.psi_scale is not None:
        raise ArgumentError(
            "ddf='satterthwaite' needs a fit by plain ML or REML; in this one parameters were held "
            "fixed or the fixed effects were penalized. Use ddf='z'"
        )
    theta, units = est.pls.theta, est.deviance.units
    A = parameter_covariance(est)
    value = forms(theta)
    slopes = [np.zeros_like(value) for _ in theta]
    for i in np.flatnonzero(np.diag(A)[:-1] != 0):
        step = np.zeros(len(theta))
        step[i] = SLOPE_STEP * max(units[i], abs(theta[i]))
        slopes[i] = (forms(theta + step) - forms(theta - step)) / (2.0 * step[i])
    g = np.stack([*(est.pls.scale * slope for slope in slopes), value])
    spread = np.einsum("i...,ij,j...->...", g, A, g)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(2.0 * (est.pls.scale * value) ** 2 / spread)
