"""Several tests at once: p-values and intervals adjusted for their number.

Steps over ordered p-values (Holm 1979; Hochberg 1988; Benjamini & Hochberg 1995; Benjamini &
Yekutieli 2001); Tukey's studentized range for all pairs (Kramer 1956, *Biometrics* 12(3), 307-310,
for unequal variances); Scheffe's F for all contrasts; Dunnett's comparisons with a control by the
approximation of R's emmeans; and the joint distribution of the statistics themselves, "mvt".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy

from sparselmm.base.arguments import check_choice
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.inference.wald import quantile, two_sided

STEPS = {
    "hs": "hs", "holm-sidak": "hs", "holm": "holm", "h": "holm", "bonferroni": "bonferroni",
    "b": "bonferroni", "sidak": "sidak", "s": "sidak", "hochberg": "hochberg", "fdr_bh": "fdr_bh",
    "fdr": "fdr_bh", "BH": "fdr_bh", "fdr_by": "fdr_by", "BY": "fdr_by",
}  # fmt: skip
"""Adjustments that need the p-values alone: what users call them, and ours."""

ADJUSTMENTS = tuple(STEPS)

JOINT = ("tukey", "scheffe", "dunnettx", "mvt")
"""Adjustments by a distribution of their own."""

NODES = 64
"""Points of the quadratures of the studentized range."""

LARGEST_NORMAL = 9.0
"""A standard normal number beyond this has probability 1e-19."""

LARGEST_RANGE = 16.0
"""A range beyond this has no probability worth counting, for any number of means in use."""

DIRECTIONS = 2**15
"""Points on the sphere for the joint distribution of correlated statistics."""


# -------------------------------------------------------------------- steps over p-values


def adjusted(
    p: FloatArray, method: str, alpha: float, argument: str = "adjust"
) -> tuple[BoolArray, FloatArray]:
    """Decisions and adjusted p-values of several tests.

    Parameters
    ----------
    p : ndarray, (m,)
        NaN for what cannot be tested, which is not counted.
    method : str
        A key of `STEPS`.

    Raises
    ------
    ValueError
        When the method is unknown.
    """
    name = STEPS[check_choice(method, argument, ADJUSTMENTS)]
    known = ~np.isnan(p)
    if not known.all():
        out = np.full(len(p), np.nan)
        out[known] = adjusted(p[known], method, alpha, argument)[1]
        return out <= alpha, out
    m, order = len(p), np.argsort(p, kind="stable")
    ordered, rank = p[order], np.arange(len(p))
    with np.errstate(divide="ignore"):
        if name == "hs":
            new = np.maximum.accumulate(-np.expm1((m - rank) * np.log1p(-ordered)))
        elif name == "holm":
            new = np.maximum.accumulate((m - rank) * ordered)
        elif name == "bonferroni":
            new = m * ordered
        elif name == "sidak":
            new = -np.expm1(m * np.log1p(-ordered))
        else:
            factor = (m - rank) if name == "hochberg" else m / (rank + 1)
            if name == "fdr_by":
                factor = factor * np.sum(1.0 / (rank + 1))
            new = np.minimum.accumulate((factor * ordered)[::-1])[::-1]
    out = np.empty(m)
    out[order] = np.minimum(new, 1.0)
    return out <= alpha, out


# ------------------------------------------------------------------------ a whole family


@dataclass(frozen=True, eq=False)
class Family:
    """Contrasts that are judged together.

    Attributes
    ----------
    k : int
        Number of means compared.
    corr : ndarray, (m, m)
        Correlation of the contrasts' estimates.
    rank : int
        Dimension of the space that the contrasts span.
    m : int
        Number of contrasts, with those that cannot be estimated, as in R.
    """

    k: int
    corr: FloatArray
    rank: int
    m: int

    def pvalues(
        self, t: FloatArray, df: FloatArray, adjust: str, alpha: float, side: int = 0
    ) -> FloatArray:
        """Adjusted p-values, (m,).

        Parameters
        ----------
        t, df : ndarray, (m,)
        adjust : str
            "none", a key of `STEPS` or one of `JOINT`.
        side : {0, 1, -1}
            Both sides, large values or small values against the hypothesis.
        """
        if self._jointly(adjust, side):
            known = np.isfinite(t) & ~np.isnan(df)
            out = np.full(len(t), np.nan)
            beyond = side * t[known] if side else np.abs(t[known])
            out[known] = self._joint(adjust, side)(beyond, df[known])
            return out
        p = two_sided(t, df) if not side else one_sided(side * t, df)
        if adjust == "none" or self.m == 1:
            return p
        unknown = np.isnan(p)
        step = "sidak" if adjust in JOINT else adjust
        return np.where(unknown, np.nan, adjusted(np.where(unknown, 1.0, p), step, alpha)[1])

    def critical(self, df: FloatArray, alpha: float, adjust: str, side: int = 0) -> FloatArray:
        """Half-widths of intervals, or one-sided widths, in standard errors, (len(df),).

        Notes
        -----
        For adjustments made in steps they are Bonferroni's.
        """
        name = STEPS.get(adjust, adjust)
        if self._jointly(name, side):
            return _inverted(self._joint(name, side), df, alpha, self.m)
        if name == "none" or self.m <= 1:
            tail = alpha
        elif name in ("sidak", *JOINT):
            tail = -np.expm1(np.log1p(-alpha) / self.m)
        else:
            tail = alpha / self.m
        return quantile(2.0 * tail if side else tail, df)

    def _jointly(self, adjust: str, side: int) -> bool:
        """Whether the adjustment is by a distribution of its own; of one side, only "mvt" is."""
        if side:
            return adjust == "mvt" and self.m > 1
        return adjust in JOINT and (self.m > 1 or adjust == "scheffe")

    def _joint(self, adjust: str, side: int) -> Callable[[FloatArray, FloatArray], FloatArray]:
        """Probability that the largest of the family is beyond a value, given df."""
        if adjust == "tukey":
            return lambda t, df: tukey_p(t, df, self.k)
        if adjust == "scheffe":
            return lambda t, df: _f_sf(t**2 / self.rank, self.rank, df)
        if adjust == "dunnettx":
            return lambda t, df: dunnett_p(t, df, self.m)
        reach, rank = _reach(self.corr, bool(side))
        return lambda t, df: np.array(
            [_beyond(a, reach, rank, nu) for a, nu in zip(t, df, strict=True)]
        )


def one_sided(t: FloatArray, df: FloatArray) -> FloatArray:
    """Probability of a statistic that large."""
    if np.all(np.isinf(df)):
        return np.asarray(scipy.special.ndtr(-t))
    return np.asarray(scipy.stats.t.sf(t, df))


def _f_sf(x: FloatArray, rank: int, df: FloatArray) -> FloatArray:
    """Upper tail of F(rank, df), of chi-squared over its df where df is infinite."""
    x, df = np.broadcast_arrays(np.asarray(x, dtype=float), df)
    finite = np.where(np.isinf(df), 1.0, df)
    chi = scipy.stats.chi2.sf(rank * x, rank)
    return np.where(np.isinf(df), chi, scipy.stats.f.sf(x, rank, finite))


def _reach(corr: FloatArray, one_sided: bool) -> tuple[FloatArray, int]:
    """``max_j |l_j'u|`` for directions u on the sphere where ``corr = L L'``, and its dimension.

    The statistics are ``l_j'u R`` with R^2 / r of an F distribution (a spherical t), so that the
    probability of the largest is a mean over the sphere of tails of F: over equal angles in two
    dimensions, over a Sobol sequence in more. Of one side it is ``max_j l_j'u``.
    """
    values, vectors = np.linalg.eigh(corr)
    kept = values > 1e-10 * values[-1]
    L, r = vectors[:, kept] * np.sqrt(values[kept]), int(kept.sum())
    if r == 1:
        u = np.array([[1.0], [-1.0]])
    elif r == 2:
        angle = (np.arange(DIRECTIONS) + 0.5) * 2.0 * np.pi / DIRECTIONS
        u = np.column_stack([np.cos(angle), np.sin(angle)])
    else:
        points = scipy.stats.qmc.Sobol(r, seed=0).random(DIRECTIONS)
        z = scipy.special.ndtri(np.clip(points, 1e-15, 1.0 - 1e-15))
        u = z / np.linalg.norm(z, axis=1)[:, None]
    along = u @ L.T
    return (along if one_sided else np.abs(along)).max(axis=1), r


def _beyond(a: float, reach: FloatArray, rank: int, df: float) -> float:
    """``P(reach R > a)``, the mean over all directions."""
    nu = np.full(1, df)
    if a >= 0.0:
        return float(_f_sf((a / reach[reach > 0.0]) ** 2 / rank, rank, nu).sum() / len(reach))
    below = _f_sf((a / reach[reach < 0.0]) ** 2 / rank, rank, nu).sum() / len(reach)
    return 1.0 - float(below)


def _inverted(
    tail: Callable[[FloatArray, FloatArray], FloatArray], df: FloatArray, alpha: float, m: int
) -> FloatArray:
    """Where a tail probability is alpha, equal df once."""
    out = np.full(len(df), np.nan)
    rounded = np.array([float(f"{value:.8g}") for value in df])  # they differ by rounding only
    for value in np.unique(rounded[~np.isnan(rounded)]):
        nu = np.array([value])
        low = 0.5 * float(quantile(alpha, value))
        high = 2.0 * float(quantile(alpha / (2 * m), value))  # above Bonferroni's

        def missing(t: float, nu: FloatArray = nu) -> float:
            return float(tail(np.array([t]), nu)[0]) - alpha

        while missing(high) > 0:
            high *= 2.0
        while missing(low) < 0:
            low -= 1.0
        out[rounded == value] = scipy.optimize.brentq(missing, low, high)
    return out


# ------------------------------------------------------------- the studentized range and kin


def tukey_p(t: FloatArray, df: FloatArray, k: int) -> FloatArray:
    """``P(q_{k, df} > sqrt(2) |t|)``, (m,), for pairs of k means."""
    if k == 2:
        return two_sided(t, df)
    out = np.full(len(t), np.nan)
    known = np.flatnonzero(np.isfinite(t) & ~np.isnan(df))
    out[known] = studentized_range_sf(np.sqrt(2.0) * np.abs(t[known]), k, df[known])
    return out


def dunnett_p(t: FloatArray, df: FloatArray, m: int) -> FloatArray:
    """Tails for m comparisons with one control, as R's emmeans ("dunnettx") takes them.

    Between Tukey's for as many pairs, with weight ``(m - 1) / m``, and Sidak's: for equal
    correlations of one half off by less than 0.003.
    """
    if m == 1:
        return two_sided(t, df)
    means = 0.5 * (1.0 + np.sqrt(1.0 + 8.0 * m))
    tukey = studentized_range_sf(np.sqrt(2.0) * np.abs(t), means, df)
    sidak = -np.expm1(m * np.log1p(-two_sided(t, df)))
    return np.asarray(((m - 1) * tukey + sidak) / m)


def studentized_range_sf(q: FloatArray, k: float, df: FloatArray) -> FloatArray:
    """``P(Q > q)`` of the range of k normal numbers over an independent standard error, (m,).

    ``int f(s) (1 - k int phi(z) [Phi(z) - Phi(z - q s)]^(k-1) dz) ds`` with f the density of
    ``sqrt(chi2_df / df)`` (Copenhaver & Holland 1988, *Journal of Statistical Computation and
    Simulation* 30, 1-15), by Gauss-Legendre quadrature: accurate to 1e-9, where SciPy's
    ``studentized_range`` is slower and, for df of 100,000, accurate to 3e-5.

    Parameters
    ----------
    q : ndarray, (m,)
    k : float
        Need not be whole.
    df : ndarray, (m,)
        May be inf.
    """
    out = np.empty(len(q))
    x, weight = _gauss(NODES)
    for i, (one, nu) in enumerate(zip(q, df, strict=True)):
        if np.isinf(nu):
            out[i] = _range_sf(np.array([one]), k)[0]
            continue
        low, high = np.sqrt(scipy.stats.chi2.ppf([1e-18, 1.0 - 1e-16], nu) / nu)
        top = min(high, LARGEST_RANGE / one) if one > 0 else high
        total = 0.0
        for a, b in ((low, 0.5 * (low + top)), (0.5 * (low + top), top)) if top > low else ():
            s = 0.5 * (a + b) + 0.5 * (b - a) * x
            density = 2.0 * nu * s * scipy.stats.chi2.pdf(nu * s**2, nu)
            total += 0.5 * (b - a) * float(weight @ (density * _range_sf(one * s, k)))
        below = scipy.stats.chi2.cdf(nu * low**2, nu)  # there the range is below q s for sure
        out[i] = total + below
    return np.clip(out, 0.0, 1.0)


@lru_cache
def _gauss(points: int) -> tuple[FloatArray, FloatArray]:
    return np.polynomial.legendre.leggauss(points)


def _range_sf(w: FloatArray, k: float) -> FloatArray:
    """``P(range of k normal numbers > w)``, (m,)."""
    x, weight = _gauss(2 * NODES)
    z = LARGEST_NORMAL * x
    density = LARGEST_NORMAL * weight * np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    inside = scipy.special.ndtr(z) - scipy.special.ndtr(z - w[:, None])
    return np.asarray(1.0 - k * (inside ** (k - 1) @ density))
