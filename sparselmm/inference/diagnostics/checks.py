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

import numpy as np
import scipy

from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.terms import Design, TermLayout
from sparselmm.inference.diagnostics.design_checks import (
    collinear,
    confounded,
    constant_slopes,
    far_origins,
    few_levels,
    unequal_scales,
)
from sparselmm.inference.diagnostics.diagnosis import ORDER, Diagnosis, Finding
from sparselmm.inference.diagnostics.evidence import Evidence, listed_names
from sparselmm.inference.estimates import Estimates
from sparselmm.likelihood.covariance import SINGULAR_TOLERANCE

FLAT = 0.5
"""Smallest eigenvalue of the Hessian, theta in units of its standard deviations, below which the
standard error of a standard deviation is more than twice its value."""

SIGNIFICANT = 0.05
"""Limit of Bonferroni-corrected p-values."""

SKEWNESS, KURTOSIS, SPREAD = 1.0, 3.0, 0.2
"""Skewness, excess kurtosis and rank correlation of |residual| with the fitted value of note."""

MANY = 30
"""Rows from which these three are looked at."""


NO_VARIANCE = 1e-8
"""Share of sigma^2 below which a predicted effect has no variance to be compared with."""


def diagnose(evidence: Evidence) -> Diagnosis:
    """Run every check."""
    checks = (
        _convergence, _singular, _flat, _dropped, collinear, unequal_scales, far_origins,
        few_levels, confounded, constant_slopes, _outlying_groups, _outlying_rows, _residual_shape,
    )  # fmt: skip
    found = [finding for check in checks for finding in check(evidence)]
    return Diagnosis(tuple(sorted(found, key=lambda one: ORDER.index(one.severity))))


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


def _correlations(term: TermLayout, psi: FloatArray, inside: IntArray) -> Iterator[Finding]:
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
            f"{listed_names(names)}",
            "their coefficients are NaN and the others depend on which columns went. Write a "
            "formula without the redundancy, or merge empty cells",
        )  # fmt: skip


# ------------------------------------------------------------------------ random effects


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
                f"random effects, Bonferroni-corrected: {listed_names(listed)}",
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
    if not isinstance(e.layout, Design):
        yield Finding(
            "not-checked", "note",
            "residuals and slopes within groups were not looked at: the rows were read in "
            "partitions and not kept",
            "results.augment(source) streams residuals, leverage and Cook's distance",
        )  # fmt: skip
        return
    t = e.deleted
    m = int(np.isfinite(t).sum())
    df = e.dev.cross.n - e.dev.cross.basis.rank - 1
    if m == 0 or df < 1:
        return
    size = np.sqrt(df / max(e.dev.df - 1, 1))  # ML's sigma is too small by the fixed effects
    p = np.minimum(2.0 * m * scipy.stats.t.sf(np.abs(np.nan_to_num(size * t)), df), 1.0)
    bad = np.argsort(p)[: int((p < SIGNIFICANT).sum())]
    if len(bad):
        listed = [f"{e.labels[i]} ({t[i]:+.2f})" for i in bad]
        how = "results.cooks_distance()" if e.layout.residual is None else "a fit without them"
        yield Finding(
            "outlying-rows", "warning",
            f"{len(bad)} row(s) have deleted residuals too large for {m} normal ones, "
            f"Bonferroni-corrected: {listed_names(listed)}",
            f"check these observations; {how} says whether they matter",
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
