"""Likelihood-ratio tests between nested models, variances at the boundary included.

A variance of zero lies on the boundary of its parameter space. Testing one of them, with its c
covariances, the likelihood ratio follows the mixture ``chi2(c) / 2 + chi2(c + 1) / 2`` (Self &
Liang 1987, case 5; Stram & Lee 1994, cases 1 and 3), not ``chi2(c + 1)``, which is conservative.
For several variances at once the weights depend on the unknown information matrix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from sparselmm.base.exceptions import SpecificationWarning, catchable, warn_user
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.terms import Design, DesignLayout, RandomTerm, TermLayout
from sparselmm.factor.factorization import Factorization
from sparselmm.factor.submodels import fewer_columns, mixed_columns
from sparselmm.inference.variances import is_component
from sparselmm.likelihood.covariance import mixed_covariance, mixed_theta
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.engine import but, ml_minimum, solver_like, submodel, with_known
from sparselmm.likelihood.optimize import minimize

MOST_ROWS = 10_000
"""Rows that are looked at for whether one model's columns are among another's."""

OUTSIDE = 1e-6
"""Share of a column that is outside the span of others, not by rounding."""

WORSE = 1e-3
"""Rise of the deviance of a larger model that the end of a search does not explain."""


def chi2_pvalue(statistic: float, df: int) -> float:
    """Upper tail of the chi-squared distribution; NaN without degrees of freedom."""
    return float(scipy.stats.chi2.sf(statistic, df)) if df > 0 else np.nan


def boundary_pvalue(statistic: float, df: int) -> float:
    """P-value of a test of ``df`` parameters, one of which is a variance that may be zero.

    Parameters
    ----------
    statistic : float
        Likelihood-ratio statistic, not negative.
    df : int
        Parameters tested, the variance included.

    Returns
    -------
    float
        Upper tail of ``chi2(df - 1) / 2 + chi2(df) / 2`` (Stram & Lee 1994, case 3); one for a
        statistic of zero.
    """
    below = float(scipy.stats.chi2.sf(statistic, df - 1)) if df > 1 else float(statistic <= 0.0)
    return 0.5 * below + 0.5 * float(scipy.stats.chi2.sf(statistic, df))


# -------------------------------------------------------------------- what two models differ in


def covariance_parameters(terms: Sequence[TermLayout]) -> tuple[Counter[str], Counter[str]]:
    """Names of the variances, and of the covariances, of a model's random effects."""
    variances: Counter[str] = Counter()
    covariances: Counter[str] = Counter()
    for term in terms:
        group = term.name if is_component(term) else ":".join(term.levels.names)
        names = [f"{group}|{column}" for column in term.columns]
        variances.update(names)
        if not term.is_uncorrelated:
            pairs = [sorted((a, b)) for i, a in enumerate(names) for b in names[:i]]
            covariances.update(" x ".join(pair) for pair in pairs)
    return variances, covariances


def variances_tested(small: Sequence[TermLayout], big: Sequence[TermLayout]) -> int | None:
    """Number of variances the larger model adds; None when they do not nest by their names.

    Covariances are added together with a variance they belong to, or alone.
    """
    (v0, c0), (v1, c1) = covariance_parameters(small), covariance_parameters(big)
    if v0 - v1 or c0 - c1:
        return None
    return (v1 - v0).total()


def warn_of_no_test(names: Iterable[str]) -> None:
    """Say of which models there is no likelihood ratio to the one above them in a table."""
    warn_user(
        f"no test for {', '.join(names)}: likelihood ratios are for nested models, and the model "
        "above in the table is no special case; compare them by aic or bic",
        catchable(SpecificationWarning),
    )


def mean_apart(a: Design, b: Design, kept: IntArray, others: IntArray) -> bool:
    """Whether some rows show that a mean of ``a`` is none of ``b``."""
    some = np.arange(0, a.n, max(1, a.n // max(MOST_ROWS, 5 * b.p)))
    offsets = [np.zeros(a.n) if d.offset is None else d.offset for d in (a, b)]
    inside = b.X[np.ix_(some, others)]
    tried = np.column_stack([a.X[np.ix_(some, kept)], (offsets[0] - offsets[1])[some]])
    same = [bool((inside == column[:, None]).all(axis=0).any()) for column in tried.T]
    tried = tried[:, ~np.array(same) & tried.any(axis=0)]
    if not tried.shape[1]:
        return False
    size = np.linalg.norm(inside, axis=0)
    Q = np.linalg.qr(inside / np.where(size > 0, size, 1.0))[0]
    tried = tried / np.linalg.norm(tried, axis=0)
    return bool((np.linalg.norm(tried - Q @ (Q.T @ tried), axis=0) > OUTSIDE).any())


def groups_apart(a: Design, b: Design) -> bool:
    """Whether a term of ``a`` groups the rows as none of ``b`` does."""
    if any(term.codes is None or term.root is not None for term in (*a.terms, *b.terms)):
        return False
    return not all(any(_covers(other, own) for other in b.terms) for own in a.terms)


def _covers(other: RandomTerm, own: RandomTerm) -> bool:
    """Whether a term groups the rows as another does, or so with coefficients for its parts.

    As ``(0 + f | g)`` covers ``(1 | g:f)``.
    """
    x, y = own.codes, other.codes
    if x is y:
        return True
    assert x is not None
    assert y is not None
    pairs = len(np.unique(x.astype(np.int64) * (other.n_levels + 1) + y))
    return pairs == len(np.unique(x)) and (other.k > 1 or pairs == len(np.unique(y)))


# ------------------------------------------------------------------------------ random effects


@dataclass(frozen=True, eq=False)
class RandomDrop:
    """One random effect to leave out.

    Attributes
    ----------
    label : str
        Row of the table: ``"Days in (1 + Days | Subject)"``, ``"(1 | Subject)"``.
    term : int
        The term it belongs to.
    C : ndarray, (k, m)
        What is left of the term's coefficients, see `mixed_columns`.
    one_variance : bool
        Whether exactly one variance, with its covariances, is left out.
    """

    label: str
    term: int
    C: FloatArray
    one_variance: bool


def random_drops(
    terms: Sequence[TermLayout], effects: Sequence[Mapping[str, Sequence[int]]],
    without_factors: Sequence[FloatArray | None],
) -> list[RandomDrop]:  # fmt: skip
    """Single deletions of random effects.

    Of a term with slopes each effect that is not contained in an interaction is left out in turn
    (``(x | g)`` becomes ``(1 | g)``); a term with one effect is left out, except that a factor
    without intercept (``(0 + f | g)``) becomes an intercept. A term with a patterned covariance is
    left out as a whole.

    Parameters
    ----------
    effects : sequence of mapping
        For every term: name of an effect to its columns; ``"1"`` is the intercept.
    without_factors : sequence of ndarray (k,) or None
        Weights with which the columns of a term of one effect add up to what is left of it without
        its factors; None where it has none.
    """
    out = []
    for t, (term, columns, weights) in enumerate(zip(terms, effects, without_factors, strict=True)):
        eye, whole = np.eye(term.k), term_label(term, columns)
        slopes = {name: list(cols) for name, cols in columns.items() if name != "1"}
        scope = droppable({name: frozenset(name.split(":")) for name in slopes})
        plain = term.structure in ("unstructured", "diagonal") and not is_component(term)
        if not plain or not slopes or len(columns) == 1:
            factor = plain and term.k > 1 and term.structure == "unstructured"
            C, label = eye[:, :0], whole
            if factor and weights is not None:
                C, label = weights[:, None], f"{next(iter(slopes))} in {whole}"
            out.append(RandomDrop(label, t, C, term.k == 1))
            continue
        if term.structure == "diagonal" and "1" in columns:
            slopes, scope = {"1": list(columns["1"]), **slopes}, ["1", *scope]
        for name in scope:
            stay = [j for j in range(term.k) if j not in slopes[name]]
            out.append(RandomDrop(f"{name} in {whole}", t, eye[:, stay], len(slopes[name]) == 1))
    return out


def term_label(term: TermLayout, columns: Mapping[str, Sequence[int]]) -> str:
    """A term in the notation of bars."""
    if is_component(term):
        return term.name
    names = list(columns) if "1" in columns else ["0", *columns]
    bar = "||" if term.structure == "diagonal" and term.k > 1 else "|"
    return f"({' + '.join(names)} {bar} {':'.join(term.levels.names)})"


def droppable(factors: Mapping[str, frozenset[str]]) -> list[str]:
    """Terms that no other term contains: the only ones marginality lets go."""
    return [name for name, own in factors.items() if not any(own < f for f in factors.values())]


@dataclass(frozen=True)
class Deletion:
    """A model without one of its parts.

    Attributes
    ----------
    deviance : float
        Minimum of the criterion.
    df : int
        Parameters left out.
    lrt : float
        Rise of the criterion, not below zero.
    pvalue : float
        From ``chi2(df)``.
    pvalue_boundary : float
        From `boundary_pvalue` where one variance was left out, otherwise NaN.
    """

    label: str
    deviance: float
    df: int
    lrt: float
    pvalue: float
    pvalue_boundary: float


def delete_random(
    deviance: ProfiledDeviance, theta: FloatArray, drops: Sequence[RandomDrop]
) -> list[Deletion]:
    """Refit without each random effect in turn, from the cross-products, warm-started.

    Parameters
    ----------
    deviance : ProfiledDeviance
        At whose minimum ``theta`` stands; REML or ML.
    theta : ndarray, (n_theta,)
    """
    full = deviance.value(theta)
    out = []
    for drop in drops:
        value, df = _without(deviance, theta, drop)
        lrt = max(value - full, 0.0)
        boundary = boundary_pvalue(lrt, df) if drop.one_variance else np.nan
        out.append(Deletion(drop.label, value, df, lrt, chi2_pvalue(lrt, df), boundary))
    return out


def _without(deviance: ProfiledDeviance, theta: FloatArray, drop: RandomDrop) -> tuple[float, int]:
    """Criterion without a random effect, and the number of parameters that went with it."""
    covariance, t, C = deviance.covariance, drop.term, drop.C
    if C.shape[1] == 0 and len(covariance.terms) == 1:
        return deviance.value(np.zeros_like(theta)), len(theta)
    smaller = mixed_covariance(covariance, t, C.shape[1])
    sub = submodel(mixed_columns(deviance.cross, t, C), smaller, deviance)
    best = minimize(sub, mixed_theta(covariance, theta, t, C))
    return best.deviance, covariance.n_theta - smaller.n_theta


# ------------------------------------------------------------------------------- fixed effects


def delete_fixed(
    deviance: ProfiledDeviance,
    theta: FloatArray,
    layout: DesignLayout,
    columns: Mapping[str, Sequence[int]],
) -> tuple[float, list[Deletion]]:
    """Refit by ML without the columns of each fixed-effects term in turn.

    Parameters
    ----------
    deviance : ProfiledDeviance
        The fitted model, REML or ML.
    theta : ndarray, (n_theta,)
        Its estimate.
    layout : DesignLayout
        Its rows are read only when columns of X are linearly dependent.
    columns : mapping
        Name of each term to drop to its columns of X.

    Returns
    -------
    deviance : float
        -2 log-likelihood of the full model.
    deletions : list of Deletion
    """
    full, theta = ml_minimum(deviance, theta)
    out, solver = [], solver_like(deviance)
    for name, cols in columns.items():
        sub = _without_columns(deviance, solver, layout, cols)
        value = minimize(sub, theta).deviance if len(theta) else sub.value(theta)
        df = deviance.cross.basis.rank - sub.cross.basis.rank
        lrt = max(value - full, 0.0)
        out.append(Deletion(name, value, df, lrt, chi2_pvalue(lrt, df), np.nan))
    return full, out


def null_lrt(
    deviance: ProfiledDeviance, theta: FloatArray, layout: DesignLayout, columns: Sequence[int]
) -> tuple[float, int]:
    """Likelihood ratio of the model against no random effects and fewer fixed effects.

    Returns
    -------
    statistic : float
    n_fixed : int
        Independent fixed effects that were left out.
    """
    solver = solver_like(deviance)
    sub = (
        _without_columns(deviance, solver, layout, columns)
        if len(columns)
        else but(deviance, solver, reml=False)
    )
    null, full = sub.value(np.zeros_like(theta)), ml_minimum(deviance, theta)[0]
    return max(null - full, 0.0), deviance.cross.basis.rank - sub.cross.basis.rank


def _without_columns(
    deviance: ProfiledDeviance, solver: Factorization, layout: DesignLayout, cols: Sequence[int]
) -> ProfiledDeviance:
    """The ML deviance without some columns of X."""
    basis = deviance.cross.basis
    if basis.rank == basis.p:
        return with_known(deviance, solver, cols, np.zeros(len(cols)), reml=False)
    rows = layout.with_constant("drop1 or exact_lrt of a rank-deficient X")
    return but(deviance, solver, cross=fewer_columns(deviance.cross, rows, cols), reml=False)
