"""Exact tests of one variance by simulation from the finite-sample null distribution.

In ``y = X beta + Z b + e`` with one variance ``lambda sigma^2`` of b, the restricted likelihood
ratio of ``lambda = 0`` is distributed as (Crainiceanu & Ruppert 2004, theorem 1 and section 4)

    RLRT = sup_l { (n - p) log(1 + N(l) / D(l)) - sum_s log(1 + l mu_s) }
    N(l) = sum_s l mu_s / (1 + l mu_s) w_s^2,   D(l) = sum_s w_s^2 / (1 + l mu_s) + chi2(n - p - K)

with ``mu_s`` the K eigenvalues of ``Z'(I - X X^+)Z`` and independent standard normal ``w_s``. The
likelihood ratio, which may test q fixed effects together with the variance, has n in place of
``n - p``, the eigenvalues ``xi_s`` of ``Z'Z`` in the sum of logarithms and the further term
``n log(1 + chi2(q) / sum w^2)``. With other random effects in the model the same distribution is
used for the statistic that compares the full model with the one without the tested term (Greven,
Crainiceanu, Kuechenhoff & Peters 2008, section 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg as sla

from sparselmm.base.arguments import check_count
from sparselmm.base.exceptions import DataError
from sparselmm.base.grid import p_text, pairs_html
from sparselmm.base.seeds import generator
from sparselmm.base.types import FloatArray
from sparselmm.factor.crossprod import CrossProducts

GRID = (-10.0, 8.0, 200)
"""Logarithms of the first and last lambda, relative to the largest eigenvalue, and their number."""

MAX_DENSE = 8000
"""Largest order of the eigenvalue problem that is solved."""

CHUNK = 4_000_000
"""Normal variables drawn at a time."""


@dataclass(frozen=True, eq=False)
class ExactTest:
    """A test of one variance by simulation.

    Attributes
    ----------
    statistic : float
        Observed likelihood ratio.
    pvalue : float
        Share of simulated ratios above it; one when it is zero.
    stderr : float
        Monte Carlo standard error of ``pvalue``.
    nsim : int
        Number of simulated ratios.
    sample : ndarray, (nsim,)
        The simulated ratios.
    """

    statistic: float
    pvalue: float
    stderr: float
    nsim: int
    sample: FloatArray

    def __repr__(self) -> str:
        """Statistic, p-value and its Monte Carlo error in one line."""
        return (
            f"<ExactTest: statistic {self.statistic:.4f}, p = {self.pvalue:.4g} "
            f"(+- {self.stderr:.1g} from {self.nsim} simulations)>"
        )

    def _repr_html_(self) -> str:
        pairs = [
            ("likelihood ratio", f"{self.statistic:.4f}"), ("p-value", p_text(self.pvalue)),
            ("its Monte Carlo error", f"{self.stderr:.1g}"), ("simulations", f"{self.nsim:,}"),
        ]  # fmt: skip
        return pairs_html(pairs, "Exact test of a variance")


def exact_test(
    statistic: float,
    null: NullSpectrum,
    *,
    reml: bool,
    n_fixed: int = 0,
    nsim: int = 10_000,
    seed: int | np.random.Generator | None = None,
) -> ExactTest:
    """Compare a statistic with its simulated null distribution.

    Parameters
    ----------
    statistic : float
        Observed RLRT or LRT, not negative.
    reml : bool
        Restricted likelihood ratio instead of likelihood ratio.
    n_fixed : int
        Fixed effects tested together with the variance; zero under REML.

    Raises
    ------
    DataError
        When ``nsim`` is less than 1.
    """
    nsim = check_count(nsim, "nsim")
    sample = simulate(null, nsim, generator(seed), reml=reml, n_fixed=n_fixed)
    p = float(np.mean(sample > statistic)) if statistic > 0 else 1.0
    return ExactTest(statistic, p, float(np.sqrt(p * (1.0 - p) / nsim)), nsim, sample)


# ---------------------------------------------------------------------------------- eigenvalues


@dataclass(frozen=True, eq=False)
class NullSpectrum:
    """What the null distribution depends on; equal eigenvalues are counted, not repeated.

    Attributes
    ----------
    n, p : int
        Rows and independent fixed effects.
    mu, mu_count : ndarray
        Eigenvalues of ``Z'(I - X X^+)Z`` that are not zero, and how often each occurs.
    xi, xi_count : ndarray
        The same of ``Z'Z``.
    """

    n: int
    p: int
    mu: FloatArray
    mu_count: FloatArray
    xi: FloatArray
    xi_count: FloatArray

    @classmethod
    def of(cls, cross: CrossProducts, t: int) -> NullSpectrum:
        """Spectrum for term t, which has one coefficient per level.

        For a grouping factor ``Z'(I - X X^+)Z = A - B_x C_xx^-1 B_x'`` is diagonal minus a matrix
        of rank r: levels with the same diagonal, d of them, leave ``d - r`` eigenvalues where they
        were, so that only a problem of order r times the number of different diagonals is solved.

        Raises
        ------
        DataError
            When that order is above `MAX_DENSE`.
        """
        part, pair = cross.slices[t], cross.pairs[t, t]
        F = np.zeros((part.stop - part.start, 0))
        if cross.basis.rank:
            root = np.linalg.cholesky(cross.C[:-1, :-1])
            F = sla.solve_triangular(root, cross.B[part, :-1].T, lower=True).T
        if pair.is_block_diagonal:
            diagonal = pair.data[:, 0, 0]
            mu, count = _diagonal_minus_low_rank(diagonal, F)
            xi = diagonal
        else:
            _check_order(len(F))
            A = np.zeros((len(F), len(F)))
            A[pair.rows, pair.cols] = pair.data[:, 0, 0]
            mu, count = np.linalg.eigvalsh(A - F @ F.T), np.ones(len(F))
            xi = np.asarray(np.linalg.eigvalsh(A), dtype=float)
        ones = np.ones(len(xi))
        return cls(cross.n, cross.basis.rank, *_merged(mu, count), *_merged(xi, ones))


def _check_order(order: int) -> None:
    if order > MAX_DENSE:
        raise DataError(
            f"the exact null distribution needs the eigenvalues of a dense matrix of order {order} "
            f"(at most {MAX_DENSE}); use the boundary p-value of ranova(), which is accurate for "
            "so many levels"
        )


def _diagonal_minus_low_rank(diagonal: FloatArray, F: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues of ``diag(diagonal) - F F'`` and their multiplicities."""
    order = np.argsort(diagonal, kind="stable")
    d, F = diagonal[order], F[order]
    jump = np.flatnonzero(np.diff(d) > 1e-12 * max(float(d[-1]), 1e-300)) + 1
    groups = np.split(np.arange(len(d)), jump)
    values, kept, extra = [], [], []
    for rows in groups:
        m = min(len(rows), F.shape[1])
        small = F[rows] if m == len(rows) else np.linalg.qr(F[rows], mode="r")
        kept.append(small)
        values.append(np.full(m, d[rows[0]]))
        extra.append((d[rows[0]], len(rows) - m))
    G, base = np.concatenate(kept), np.concatenate(values)
    _check_order(len(base))
    inner = np.linalg.eigvalsh(np.diag(base) - G @ G.T) if len(base) else base
    rest = np.array([(value, count) for value, count in extra if count], dtype=float).reshape(-1, 2)
    mu = np.concatenate([inner, rest[:, 0]])
    return mu, np.concatenate([np.ones(len(inner)), rest[:, 1]])


def _merged(values: FloatArray, counts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Equal values put together, values that are zero up to rounding left out."""
    top = float(values.max(initial=0.0))
    keep = values > 1e-11 * top
    values, counts = values[keep], counts[keep]
    order = np.argsort(values)[::-1]
    values, counts = values[order], counts[order]
    first = np.concatenate([[True], -np.diff(values) > 1e-10 * top]) if len(values) else keep[:0]
    starts = np.flatnonzero(first)
    return values[starts], np.add.reduceat(counts, starts) if len(starts) else counts


# ------------------------------------------------------------------------------------ simulation


def simulate(
    null: NullSpectrum,
    nsim: int,
    rng: np.random.Generator,
    *,
    reml: bool,
    n_fixed: int = 0,
) -> FloatArray:
    """Draws from the null distribution of the RLRT or LRT, (nsim,).

    Parameters
    ----------
    n_fixed : int
        q, fixed effects tested together with the variance (LRT only).

    Raises
    ------
    DataError
        When no degrees of freedom are left for the residual.
    """
    rest = null.n - null.p - int(null.mu_count.sum())
    if rest < 0:
        raise DataError(
            f"{null.n} rows, {null.p} fixed effects and {int(null.mu_count.sum())} random effects "
            "leave no degrees of freedom for the residual"
        )
    top = float(null.xi.max()) if not reml else float(null.mu.max())
    low, high, length = GRID
    grid = np.concatenate([[0.0], np.exp(np.linspace(low, high, length - 1))]) / top
    shrink = 1.0 / (1.0 + np.outer(null.mu, grid))
    logs = null.xi_count @ np.log1p(np.outer(null.xi, grid))
    size = float(null.n)
    if reml:
        logs, size = null.mu_count @ np.log1p(np.outer(null.mu, grid)), float(null.n - null.p)
    out = np.empty(nsim)
    step = max(1, CHUNK // max(len(null.mu), length))
    for start in range(0, nsim, step):
        stop = min(start + step, nsim)
        w2 = rng.chisquare(null.mu_count, size=(stop - start, len(null.mu)))
        residual = rng.chisquare(rest, size=stop - start) if rest else np.zeros(stop - start)
        D = w2 @ shrink + residual[:, None]
        total = w2.sum(axis=1) + residual
        ratio = size * np.log(total[:, None] / D) - logs
        out[start:stop] = np.maximum(ratio.max(axis=1), 0.0)
        if n_fixed:
            extra = rng.chisquare(n_fixed, size=stop - start)
            out[start:stop] += size * np.log1p(extra / total)
    return out
