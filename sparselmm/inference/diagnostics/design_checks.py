"""Findings about the columns and the levels of a design."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparselmm.base.reduction import extremes
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.terms import Design, RandomTerm, TermLayout
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.inference.diagnostics.diagnosis import Finding
from sparselmm.inference.diagnostics.evidence import Evidence, listed_names

CONDITION = 30.0
"""Condition index above which collinearity is called harmful (Belsley, Kuh & Welsch 1980, 3.3)."""

INFLATION = 10.0
"""Variance inflation factor with the same reputation."""

SCALES = 1e3
"""Ratio of two predictors' standard deviations that calls for other units (lme4's limit)."""

FAR = 100.0
"""Mean over standard deviation of a predictor whose intercept means nothing."""

FEW_LEVELS = 5
"""With fewer levels a variance between them is hardly estimated."""

SINGLES = 0.1
"""Share of groups with one row that is worth a note; half of them, a warning."""

SAME = 1e-10
"""Share of the sum of squares of a term's covariates, left between it and another, that is none."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Predictors by their cross-products: centred where X has a constant column.

    Attributes
    ----------
    names : list of str, (m,)
    gram : ndarray, (m, m)
        Mean products.
    means : ndarray, (m,)
        Means; zero without a constant column.
    """

    names: list[str]
    gram: FloatArray
    means: FloatArray

    @classmethod
    def of(cls, e: Evidence) -> Columns:
        """From the working basis, whose Q'WQ is the identity: no pass over the rows."""
        basis, n = e.dev.cross.basis, e.dev.cross.n
        names = [e.layout.x_names[j] for j in basis.kept]
        if not names:
            return cls([], np.zeros((0, 0)), np.zeros(0))
        R = np.linalg.inv(basis.T)
        gram = R.T @ R
        values = _constants(e)[basis.kept]
        constant = np.flatnonzero(~np.isnan(values))
        if not len(constant):
            return cls(names, gram / n, np.zeros(len(names)))
        one = constant[0]
        value = float(values[one])
        means = gram[one] * value / gram[one, one]
        rest = np.delete(np.arange(len(names)), one)
        gram = gram - np.outer(gram[one], gram[one]) / gram[one, one]
        inner = gram[np.ix_(rest, rest)]
        return cls([names[j] for j in rest], inner / n, means[rest])

    @property
    def sd(self) -> FloatArray:
        """Standard deviations, or root mean squares without a constant, (m,)."""
        return np.sqrt(np.diag(self.gram))

    def inflation(self) -> dict[str, float]:
        """Variance inflation factors; none where a column is constant."""
        if len(self.names) < 2 or not (self.sd > 0).all():
            return {}
        values, vectors = np.linalg.eigh(self.gram / np.outer(self.sd, self.sd))
        inverse = np.sum(vectors**2 / np.maximum(values, np.finfo(float).tiny), axis=1)
        return dict(zip(self.names, inverse.tolist(), strict=True))


def _constants(e: Evidence) -> FloatArray:
    """The value of the columns of X that have one, NaN for the others, (p,)."""
    if e.layout.sums is not None:
        return e.layout.sums.constant
    X = e.design.X if e.positive.all() else e.design.X[e.positive]
    low, high = extremes(X)
    return np.where(low == high, X[0], np.nan)


def collinear(e: Evidence) -> Iterator[Finding]:
    """Columns of X whose separate effects are hardly determined."""
    X = Columns.of(e)
    factors = X.inflation()
    if not factors:
        return
    values, vectors = np.linalg.eigh(X.gram / np.outer(X.sd, X.sd))
    condition = float(np.sqrt(values[-1] / max(values[0], np.finfo(float).tiny)))
    inflation = np.array(list(factors.values()))
    if condition < CONDITION and inflation.max() < INFLATION:
        return
    involved = np.flatnonzero((inflation >= INFLATION) | (np.abs(vectors[:, 0]) > 0.3))
    worst = involved[np.argsort(-inflation[involved])]
    listed = [f"{X.names[j]} (VIF {inflation[j]:.3g})" for j in worst]
    grave = condition >= CONDITION
    shown = listed_names(listed)
    yield Finding(
        "collinear", "warning" if grave else "note",
        f"columns of X are nearly collinear: condition number {condition:.3g}, {shown}",
        "their separate effects are poorly determined though their joint effect may be clear. "
        "Test them together, combine them, or use orthogonal polynomials for powers",
    )  # fmt: skip


def unequal_scales(e: Evidence) -> Iterator[Finding]:
    """Columns of X in very different units."""
    X = Columns.of(e)
    names, sds = list(X.names), list(X.sd)
    for t, term in enumerate(e.est.terms):
        names += [f"{name} | {term.name}" for name in term.columns]
        sds += list(e.dev.cross.model_rms(t))
    size = np.array(sds)
    if not (size > 0).any():
        return
    high, low = int(np.argmax(size)), int(np.argmin(np.where(size > 0, size, np.inf)))
    if size[high] > SCALES * size[low]:
        yield Finding(
            "scales", "note",
            f"predictors are on very different scales: {names[high]!r} has size "
            f"{size[high]:.3g}, {names[low]!r} {size[low]:.3g}",
            "the fit does not depend on it, but coefficients are hard to read and variances of "
            "slopes look like zero or infinity. Rescale to comparable units",
        )  # fmt: skip


def far_origins(e: Evidence) -> Iterator[Finding]:
    """Covariates of random slopes whose origin is far from the data."""
    X = Columns.of(e)
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.flatnonzero((np.abs(X.means) > FAR * X.sd) & (X.sd > 0))
    if len(far):
        listed = [f"{X.names[j]} (mean {X.means[j]:.4g}, s.d. {X.sd[j]:.3g})" for j in far]
        yield Finding(
            "origin", "note",
            f"the origin of a predictor is far outside the data: {listed_names(listed)}",
            "the intercept and its random effects describe a point without data, and random "
            "slopes correlate with them by construction. Centre the predictor",
        )  # fmt: skip


def few_levels(e: Evidence) -> Iterator[Finding]:
    """Few levels, groups of one row, more random effects than rows; once per factor."""
    seen: set[tuple[str, int]] = set()
    n = e.dev.cross.n
    for t, term in enumerate(e.est.terms):
        sizes = _sizes(e, t)
        if sizes is None:
            continue
        key = (":".join(term.levels.names), term.n_levels)
        used = int((sizes > 0).sum())
        if used * term.k >= n and e.design.weights is None and e.dev.cross.sum_log_w == 0.0:
            yield _too_many(term, used, n)
        elif key not in seen:
            single = int((sizes == 1).sum())
            if single >= SINGLES * used:
                yield Finding(
                    "singletons", "warning" if 2 * single >= used else "note",
                    f"{single} of {used} levels of {term.name!r} have a single row",
                    "such a level says nothing about the residual variance and its effect is "
                    "shrunk hardest; slopes of it rest on the other levels alone",
                )  # fmt: skip
        if used < FEW_LEVELS and key not in seen:
            yield Finding(
                "few-levels", "note",
                f"{term.name!r} has only {used} level(s)",
                "its variance is estimated very imprecisely. Use profile or bootstrap intervals "
                "and Kenward-Roger tests, or make it a fixed effect",
            )  # fmt: skip
        seen.add(key)


def _sizes(e: Evidence, t: int) -> IntArray | None:
    """Rows of every level of a term, (l,); None where rows do not belong to one level."""
    if e.layout.sums is not None:
        return e.layout.sums.sizes[t]
    term = e.design.terms[t]
    if term.codes is None:
        return None
    return np.bincount(term.codes[e.positive & (term.codes >= 0)], minlength=term.n_levels)


def _too_many(term: TermLayout, used: int, n: int) -> Finding:
    what = f"{used} levels" if term.k == 1 else f"{used} levels x {term.k} coefficients"
    return Finding(
        "not-identifiable", "problem",
        f"{term.name!r} has {what} for {n} rows: as many random effects as observations, so its "
        "variance cannot be told from the residual variance",
        "leave the term out (an observation-level effect belongs to models without a residual), "
        "use fewer coefficients, or check that the factor is the one you meant",
    )  # fmt: skip


def confounded(e: Evidence) -> Iterator[Finding]:
    """Random effects that the fixed effects or each other explain."""
    cross, terms = e.dev.cross, e.est.terms
    r = cross.basis.rank
    for t, (term, part) in enumerate(zip(terms, cross.slices, strict=True)):
        size = cross.A.diagonal()[part]
        left = size - np.sum(cross.B[part, :r] ** 2, axis=1)
        if (size > 0).any() and (left <= 1e-8 * size).all():
            yield Finding(
                "not-identifiable", "problem",
                f"the levels of {term.name!r} are also fixed effects: nothing of its random "
                "effects is left beside X",
                "keep the factor either among the fixed or among the random effects",
            )  # fmt: skip
        for s in range(t + 1, len(terms)):
            other = terms[s]
            if e.layout.sums is not None:
                same = _same_products(e, t, s)
            else:
                same = _same_columns(e, t, s) and _same_partition(e, t, s)
            if same:
                yield Finding(
                    "not-identifiable", "problem",
                    f"{term.name!r} and {other.name!r} group the rows in the same way: only the "
                    "sum of their variances can be estimated",
                    "drop one of the two, or check the coding of the nested factor",
                )  # fmt: skip


def _same_columns(e: Evidence, t: int, s: int) -> bool:
    a, b = e.design.terms[t], e.design.terms[s]
    if a.codes is None or b.codes is None or a.k != b.k:
        return False
    if a.values is None or b.values is None:
        return a.values is None and b.values is None
    return bool(np.array_equal(a.values, b.values))


def _same_partition(e: Evidence, t: int, s: int) -> bool:
    a, b = e.design.terms[t], e.design.terms[s]
    assert a.codes is not None
    assert b.codes is not None
    rows = e.positive
    x, y = a.codes[rows].astype(np.int64), b.codes[rows].astype(np.int64)
    if ((x < 0) != (y < 0)).any():
        return False
    pairs = len(np.unique(x * (b.n_levels + 1) + y))
    return pairs == len(np.unique(x)) == len(np.unique(y))


def _same_products(e: Evidence, t: int, s: int) -> bool:
    """The same of rows that were not kept: every level meets one of the other, as it meets itself.

    For rows a of the one and b of the other in the same place, ``|a - b|^2 = 0``.
    """
    cross, terms = e.dev.cross, e.est.terms
    if "block" in (terms[t].form, terms[s].form) or terms[t].k != terms[s].k:
        return False
    pair = cross.pair(s, t)
    met = np.abs(pair.data).reshape(len(pair.data), -1).sum(axis=1) > 0.0
    if any(len(np.unique(at[met])) < met.sum() for at in (pair.rows, pair.cols)):
        return False
    F, G = (_model_basis(cross, j) for j in (s, t))
    own = F.T @ cross.diagonal_sums[s] @ F, G.T @ cross.diagonal_sums[t] @ G
    left = own[0] + own[1] - 2.0 * F.T @ pair.data.sum(axis=0) @ G
    return bool(np.trace(left) <= SAME * max(np.trace(one) for one in own))


def _model_basis(cross: CrossProducts, t: int) -> FloatArray:
    """Of a term, F with ``model's columns = working columns @ F``, (k, k)."""
    F = None if cross.bases is None else cross.bases[t]
    return np.eye(cross.sizes[t][0]) if F is None else F


def constant_slopes(e: Evidence) -> Iterator[Finding]:
    """Covariates of random slopes that hardly vary within levels."""
    if not isinstance(e.layout, Design):
        return
    for term in e.design.terms:
        if term.codes is None or term.values is None:
            continue
        rows = np.flatnonzero(e.positive & (term.codes >= 0))
        codes, values = term.codes[rows], term.values[rows]
        if _variances_of_kinds(term, codes, values):
            continue
        count = np.maximum(np.bincount(codes, minlength=term.n_levels), 1)
        for c, name in enumerate(term.columns):
            x = values[:, c]
            if not len(x) or np.ptp(x) == 0:
                continue  # an intercept
            mean = np.bincount(codes, x, term.n_levels) / count
            if np.abs(x - mean[codes]).max() <= 1e-10 * np.abs(x).max():
                yield Finding(
                    "constant-slope", "problem",
                    f"{name!r} does not vary within any level of {term.name!r}, yet has a random "
                    "slope there",
                    "a slope within groups cannot be seen without variation within groups. Remove "
                    "the random slope; the fixed effect may stay",
                )  # fmt: skip


def _variances_of_kinds(term: RandomTerm, codes: IntArray, values: FloatArray) -> bool:
    """Whether indicators, uncorrelated, give every kind of level a variance of its own."""
    used = values != 0.0
    correlated = term.k > 1 and not term.is_uncorrelated
    if correlated or not (values == used).all() or (used.sum(axis=1) > 1).any():
        return False
    kinds = used @ np.arange(1, term.k + 1)
    first = np.zeros(term.n_levels)
    first[codes] = kinds
    return bool((first[codes] == kinds).all())
