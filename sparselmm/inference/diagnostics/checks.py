"""What an expert would look at in a fit, found by numbers and said in words.

Every check has a threshold, named below with its reason; none of them changes the fit. Near
collinearity is judged as by Belsley, Kuh & Welsch (1980), section 3.2: condition indices of the
columns scaled to equal length, here after centring where there is a constant, and variance
inflation factors. A group is outlying when its predicted effects are larger than their own
distribution allows: with K and S as in :mod:`sparselmm.likelihood.deviance`, at known theta

    Var(u_j) / sigma^2 = I - G_jj - K_xj S_xx^-1 K_xj'   and   u_j'Var(u_j)^-1 u_j ~ chi^2_k

(Robinson 1991 for the variance of predictions; Langford & Lewis 1998 for the test), with
Bonferroni's correction for the number of groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy

from sparselmm.base.types import AnyArray, BoolArray, FloatArray, IntArray
from sparselmm.design.terms import Design, RandomTerm
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.inference.diagnostics.diagnosis import ORDER, Diagnosis, Finding
from sparselmm.inference.estimates import Estimates
from sparselmm.likelihood.covariance import SINGULAR_TOLERANCE
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.optimize import OptSummary

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

FLAT = 0.5
"""Smallest eigenvalue of the Hessian, theta in units of its standard deviations, below which the
standard error of a standard deviation is more than twice its value."""

SIGNIFICANT = 0.05
"""Limit of Bonferroni-corrected p-values."""

SKEWNESS, KURTOSIS, SPREAD = 1.0, 3.0, 0.2
"""Skewness, excess kurtosis and rank correlation of |residual| with the fitted value of note."""

MANY = 30
"""Rows from which these three are looked at."""

SHOWN = 5
"""Names in a finding."""

NO_VARIANCE = 1e-8
"""Share of sigma^2 below which a predicted effect has no variance to be compared with."""


SAME = 1e-10
"""Share of the sum of squares of a term's covariates, left between it and another, that is none."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the checks look at.

    Attributes
    ----------
    est : Estimates
    opt : OptSummary
    deleted : ndarray, (n,)
        Deleted residuals; (0,) of rows that were not kept, as the next three.
    studentized : ndarray, (n,)
        Studentized conditional residuals.
    fitted : ndarray, (n,)
    labels : sequence
        Row labels.
    """

    est: Estimates
    opt: OptSummary
    deleted: FloatArray
    studentized: FloatArray
    fitted: FloatArray
    labels: AnyArray

    @classmethod
    def without_rows(cls, est: Estimates, opt: OptSummary) -> Evidence:
        """Of a fit whose rows were not kept."""
        none = np.zeros(0)
        return cls(est, opt, none, none, none, none)

    @property
    def design(self) -> Design:
        """The rows."""
        return self.est.design

    @property
    def dev(self) -> ProfiledDeviance:
        """The engine."""
        return self.est.deviance

    @property
    def positive(self) -> BoolArray:
        """Rows that count, (n,)."""
        w = self.design.weights
        return np.ones(self.design.n, dtype=bool) if w is None else np.asarray(w > 0)


def diagnose(evidence: Evidence) -> Diagnosis:
    """Run every check."""
    checks = (
        _convergence, _singular, _flat, _dropped, _collinear, _scales, _origins, _levels,
        _confounded, _constant_slopes, _outlying_groups, _outlying_rows, _residual_shape,
    )  # fmt: skip
    found = [finding for check in checks for finding in check(evidence)]
    return Diagnosis(tuple(sorted(found, key=lambda one: ORDER.index(one.severity))))


def _names(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# --------------------------------------------------------------------------- the optimum


def _convergence(e: Evidence) -> Iterator[Finding]:
    if not e.opt.converged:
        yield Finding(
            "convergence", "problem",
            f"the optimizer did not converge: {e.opt.message}; largest gradient entry "
            f"{e.opt.gradient_norm:.2g}",
            "do not report these estimates. Look at the findings below for the cause, rescale "
            "predictors, simplify the random effects, or raise maxiter",
        )  # fmt: skip


def _singular(e: Evidence) -> Iterator[Finding]:
    cross, est = e.dev.cross, e.est
    for t, (term, lam) in enumerate(
        zip(est.terms, e.dev.state_at(est.pls.theta).lams, strict=True)
    ):
        psi = lam @ lam.T
        sd = np.sqrt(np.diag(psi))
        none = sd * cross.rms(t) < SINGULAR_TOLERANCE
        for name in [term.columns[j] for j in np.flatnonzero(none)]:
            yield Finding(
                "singular", "warning",
                f"singular fit: the variance of {name!r} between the levels of {term.name!r} is "
                "estimated as zero",
                "the estimate is valid and the data show no such variation beyond noise. Leave "
                "the coefficient out if the design does not ask for it, or test it",
            )  # fmt: skip
        yield from _correlations(term, psi, np.flatnonzero(~none))


def _correlations(term: RandomTerm, psi: FloatArray, inside: IntArray) -> Iterator[Finding]:
    if len(inside) < 2 or term.structure == "diagonal":
        return
    sd = np.sqrt(np.diag(psi)[inside])
    corr = psi[np.ix_(inside, inside)] / np.outer(sd, sd)
    if np.linalg.eigvalsh(corr)[0] > SINGULAR_TOLERANCE**2:
        return
    i, j = np.unravel_index(np.argmax(np.abs(np.tril(corr, -1))), corr.shape)
    a, b = term.columns[inside[j]], term.columns[inside[i]]
    yield Finding(
        "singular", "warning",
        f"singular fit: the covariance matrix of {term.name!r} ({', '.join(term.columns)}) has "
        f"less than full rank; the correlation of {a!r} and {b!r} is {corr[i, j]:+.3f}",
        f"the data do not support all correlations. Try uncorrelated coefficients, "
        f"'({b} || {term.name})', or fewer of them",
    )  # fmt: skip


def _flat(e: Evidence) -> Iterator[Finding]:
    lowest = e.opt.smallest_eigenvalue
    if e.opt.converged and np.isfinite(lowest) and lowest < FLAT and not e.est.singular:
        yield Finding(
            "flat", "warning",
            "the likelihood is nearly flat in a direction of the variance parameters: smallest "
            f"eigenvalue of its Hessian {lowest:.2g}",
            "a variance is so small, or so entangled with another, that its standard error is more "
            "than twice its value. Look at profile intervals and at terms that share levels",
        )  # fmt: skip


# ------------------------------------------------------------------------- fixed effects


def _dropped(e: Evidence) -> Iterator[Finding]:
    names = list(e.est.dropped)
    if names:
        yield Finding(
            "dropped", "warning",
            f"{len(names)} column(s) of X depend linearly on the others and were dropped: "
            f"{_names(names)}",
            "their coefficients are NaN and the others depend on which columns went. Write a "
            "formula without the redundancy, or merge empty cells",
        )  # fmt: skip


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
        names = [e.design.x_names[j] for j in basis.kept]
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
    if e.design.sums is not None:
        return e.design.sums.constant
    X = e.design.X if e.positive.all() else e.design.X[e.positive]
    return np.where(np.ptp(X, axis=0) == 0.0, X[0], np.nan)


def _collinear(e: Evidence) -> Iterator[Finding]:
    X = Columns.of(e)
    if not X.inflation():
        return
    values, vectors = np.linalg.eigh(X.gram / np.outer(X.sd, X.sd))
    condition = float(np.sqrt(values[-1] / max(values[0], np.finfo(float).tiny)))
    inflation = np.array(list(X.inflation().values()))
    if condition < CONDITION and inflation.max() < INFLATION:
        return
    involved = np.flatnonzero((inflation >= INFLATION) | (np.abs(vectors[:, 0]) > 0.3))
    worst = involved[np.argsort(-inflation[involved])]
    listed = [f"{X.names[j]} (VIF {inflation[j]:.3g})" for j in worst]
    grave = condition >= CONDITION
    yield Finding(
        "collinear", "warning" if grave else "note",
        f"columns of X are nearly collinear: condition number {condition:.3g}, {_names(listed)}",
        "their separate effects are poorly determined though their joint effect may be clear. "
        "Test them together, combine them, or use orthogonal polynomials for powers",
    )  # fmt: skip


def _scales(e: Evidence) -> Iterator[Finding]:
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


def _origins(e: Evidence) -> Iterator[Finding]:
    X = Columns.of(e)
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.flatnonzero((np.abs(X.means) > FAR * X.sd) & (X.sd > 0))
    if len(far):
        listed = [f"{X.names[j]} (mean {X.means[j]:.4g}, s.d. {X.sd[j]:.3g})" for j in far]
        yield Finding(
            "origin", "note",
            f"the origin of a predictor is far outside the data: {_names(listed)}",
            "the intercept and its random effects describe a point without data, and random "
            "slopes correlate with them by construction. Centre the predictor",
        )  # fmt: skip


# ------------------------------------------------------------------------ random effects


def _levels(e: Evidence) -> Iterator[Finding]:
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
    if e.design.sums is not None:
        return e.design.sums.sizes[t]
    codes = e.est.terms[t].codes
    if codes is None:
        return None
    return np.bincount(codes[e.positive & (codes >= 0)], minlength=e.est.terms[t].n_levels)


def _too_many(term: RandomTerm, used: int, n: int) -> Finding:
    what = f"{used} levels" if term.k == 1 else f"{used} levels x {term.k} coefficients"
    return Finding(
        "not-identifiable", "problem",
        f"{term.name!r} has {what} for {n} rows: as many random effects as observations, so its "
        "variance cannot be told from the residual variance",
        "leave the term out (an observation-level effect belongs to models without a residual), "
        "use fewer coefficients, or check that the factor is the one you meant",
    )  # fmt: skip


def _confounded(e: Evidence) -> Iterator[Finding]:
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
            if e.design.sums is not None:
                same = _same_products(e, t, s)
            else:
                same = _same_columns(term, other) and _same_partition(e, term, other)
            if same:
                yield Finding(
                    "not-identifiable", "problem",
                    f"{term.name!r} and {other.name!r} group the rows in the same way: only the "
                    "sum of their variances can be estimated",
                    "drop one of the two, or check the coding of the nested factor",
                )  # fmt: skip


def _same_columns(a: RandomTerm, b: RandomTerm) -> bool:
    if a.codes is None or b.codes is None or a.k != b.k:
        return False
    if a.values is None or b.values is None:
        return a.values is None and b.values is None
    return bool(np.array_equal(a.values, b.values))


def _same_partition(e: Evidence, a: RandomTerm, b: RandomTerm) -> bool:
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
    if terms[t].codes is None or terms[s].codes is None or terms[t].k != terms[s].k:
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


def _constant_slopes(e: Evidence) -> Iterator[Finding]:
    for term in e.est.terms:
        if term.codes is None or term.values is None or not e.design.n:
            continue
        rows = np.flatnonzero(e.positive & (term.codes >= 0))
        codes, values = term.codes[rows], term.values[rows]
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


def _outlying_groups(e: Evidence) -> Iterator[Finding]:
    for t, term in enumerate(e.est.terms):
        if term.root is not None:  # the columns of Z are not levels
            continue
        p = group_p_values(e.est, t)
        order = np.argsort(p)
        bad = order[p[order] < SIGNIFICANT]
        if len(bad):
            labels = term.levels.labels()
            listed = [f"{labels[j]} (p = {p[j]:.2g})" for j in bad]
            yield Finding(
                "outlying-groups", "warning",
                f"{len(bad)} level(s) of {term.name!r} lie outside the normal distribution of the "
                f"random effects, Bonferroni-corrected: {_names(listed)}",
                "check the data of these groups and refit without them: "
                "results.influence(...) shows what they change",
            )  # fmt: skip


def group_p_values(est: Estimates, t: int) -> FloatArray:
    """Bonferroni-corrected p-values of every level's predicted effects, (l,); 1 where none."""
    z = standardized_effects(est, t)
    df = np.isfinite(z).sum(axis=1)
    p = np.where(df > 0, scipy.stats.chi2.sf(np.nansum(z**2, axis=1), np.maximum(df, 1)), 1.0)
    return np.minimum(p * max(int((df > 0).sum()), 1), 1.0)


def standardized_effects(est: Estimates, t: int) -> FloatArray:
    """Predicted effects of a term in independent directions of unit variance, (l, k).

    NaN in directions without variance, as of a level without rows.
    """
    dev = est.deviance
    state = dev.state_at(est.pls.theta)
    k, l = dev.cross.sizes[t]
    part = dev.cross.slices[t]
    Kx = state.Kx[part].reshape(l, k, -1)
    var = np.eye(k) - dev.solver.inverse_blocks(t) - np.matmul(Kx, Kx.transpose(0, 2, 1))
    values, vectors = np.linalg.eigh(var)
    u = np.einsum("lki,lk->li", vectors, state.u[part].reshape(l, k))
    sound = values > NO_VARIANCE
    return np.where(sound, u / np.sqrt(np.where(sound, values, 1.0) * est.pls.scale), np.nan)


# ------------------------------------------------------------------------------ residuals


def _outlying_rows(e: Evidence) -> Iterator[Finding]:
    if not e.design.n:
        yield Finding(
            "not-checked", "note",
            "residuals and slopes within groups were not looked at: the rows were read in "
            "partitions and not kept",
            "results.augment(source) streams residuals, leverage and Cook's distance",
        )  # fmt: skip
        return
    t = e.deleted
    m = int(np.isfinite(t).sum())
    df = e.dev.df - 1
    if m == 0 or df < 1:
        return
    p = np.minimum(2.0 * m * scipy.stats.t.sf(np.abs(np.nan_to_num(t)), df), 1.0)
    bad = np.argsort(p)[: int((p < SIGNIFICANT).sum())]
    if len(bad):
        listed = [f"{e.labels[i]} ({t[i]:+.2f})" for i in bad]
        yield Finding(
            "outlying-rows", "warning",
            f"{len(bad)} row(s) have deleted residuals too large for {m} normal ones, "
            f"Bonferroni-corrected: {_names(listed)}",
            "check these observations; results.cooks_distance() says whether they matter",
        )  # fmt: skip


def _residual_shape(e: Evidence) -> Iterator[Finding]:
    fine = np.isfinite(e.studentized)
    t, fitted = e.studentized[fine], e.fitted[fine]
    if len(t) < MANY:
        return
    skew, kurt = float(scipy.stats.skew(t)), float(scipy.stats.kurtosis(t))
    if abs(skew) > SKEWNESS or kurt > KURTOSIS:
        yield Finding(
            "not-normal", "note",
            f"the residuals are not close to normal: skewness {skew:+.2f}, excess kurtosis "
            f"{kurt:+.2f}",
            "fixed effects and their standard errors stand this well in large samples; "
            "predictions of single rows do not. Transform the response (log) or look for outliers",
        )  # fmt: skip
    if np.ptp(fitted) == 0:
        return
    rho, p = scipy.stats.spearmanr(np.abs(t), fitted)
    if abs(rho) > SPREAD and p < 1e-3:
        way = "grows" if rho > 0 else "shrinks"
        yield Finding(
            "spread", "note",
            f"the spread of the residuals {way} with the fitted value: rank correlation "
            f"{rho:+.2f} (p = {p:.1g})",
            "standard errors assume a constant spread. Transform the response, give weights, or "
            "use a robust covariance",
        )  # fmt: skip
