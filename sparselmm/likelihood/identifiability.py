"""Variances that the data cannot tell apart.

The average information of the variance parameters and of log sigma is the Gram matrix of the
vectors ``P^1/2 V_i P y``. It is singular where a combination of the parameters leaves the
covariance of the data as it is: two terms with the same levels, covariates that depend on each
other, a level per row. Scaled to a unit diagonal, the entries of the vector of a zero eigenvalue
name the terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product

import numpy as np

from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.design.rows import term_z
from sparselmm.design.terms import Design, RandomTerm, TermLayout
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.record import OptSummary

SUSPICIOUS = 1e-2
"""Smallest eigenvalue of the Hessian of the deviance, theta in units of its standard deviations,
below which the information is looked at."""

NONE = 1e-9
"""Eigenvalue of the information, scaled to a unit diagonal, that is zero up to rounding."""

INVOLVED = 1e-3
"""Share of the vector of that eigenvalue from which a parameter takes part in it."""


DENSE_WORK = 2e7
"""Operations up to which a model counts as small: n times the square of the columns."""

UNBOUNDED = (
    "the likelihood has no maximum: fixed and random effects together reproduce every response, so "
    "that it rises without end as the residual variance vanishes, and the estimates are one of its "
    "local maxima. Use REML, or fewer fixed effects or levels"
)

REPRODUCED = (
    "the likelihood has no maximum: with the random effects of {} the model reproduces every "
    "response, so that it rises without end as the residual variance vanishes. Is {!r} constant "
    "within these levels? Then it has one value per level: leave the term out and fit a row per "
    "level"
)

DEPENDENT = 1e-13
"""Smallest eigenvalue of the second moments, scaled to a unit diagonal, that is zero but for
rounding."""

MOST_SUBSETS = 200
"""Sets of directions that are looked at."""


@dataclass(frozen=True, eq=False)
class Confounded:
    """What cannot be told apart.

    Attributes
    ----------
    terms : list of str
        Names of the terms involved.
    residual : bool
        Whether the residual variance takes part.
    entries : ndarray of bool, (n_theta,)
        The entries of theta that take part.
    """

    terms: list[str]
    residual: bool
    entries: BoolArray


def confounded(
    deviance: ProfiledDeviance, opt: OptSummary, names: Sequence[str]
) -> Confounded | None:
    """Variance parameters that change nothing together; None where there are none.

    Parameters
    ----------
    opt : OptSummary
        The end of its search.
    names : sequence of str
        Names of the terms.
    """
    if not opt.smallest_eigenvalue < SUSPICIOUS:
        return None
    return confounded_at(deviance, opt.theta, opt.at_boundary, names)


def confounded_at(
    deviance: ProfiledDeviance, theta: FloatArray, at_boundary: BoolArray, names: Sequence[str]
) -> Confounded | None:
    """The same anywhere, the entries of theta at their boundary left out."""
    deviance, theta = deviance.working(theta)
    information = deviance.joint_information(theta)
    size = np.sqrt(np.maximum(np.diag(information), 0.0))
    free = size > 0
    free[: len(theta)] &= ~at_boundary
    scaled = (information / np.outer(size + ~free, size + ~free))[np.ix_(free, free)]
    values, vectors = np.linalg.eigh(scaled)
    flat = vectors[:, values < NONE]
    taking = np.zeros(len(information), dtype=bool)
    taking[free] = np.sum(flat**2, axis=1) > INVOLVED
    if not taking[: len(theta)].any():
        return None
    slices = deviance.covariance.slices
    involved = [name for name, at in zip(names, slices, strict=True) if taking[at].any()]
    held = deviance.known_scale is not None
    return Confounded(involved, bool(taking[-1]) and not held, taking[: len(theta)])


def zero_columns(cross: CrossProducts, terms: Sequence[TermLayout]) -> str:
    """What to say of random coefficients that are zero in every row; empty when there are none."""
    if all(cross.rms(t).all() for t in range(len(terms))):
        return ""
    found = [
        f"{column!r} of {term.name!r}"
        for t, term in enumerate(terms)
        for column, size in zip(term.columns, cross.rms(t), strict=True)
        if size == 0.0
    ]
    return (
        f"the random coefficient {', '.join(found)} is zero in every row of positive weight: "
        "nothing in the data tells its variance. Leave it out"
    )


def unidentified(deviance: ProfiledDeviance, opt: OptSummary, terms: Sequence[TermLayout]) -> str:
    """What the data cannot tell, in a sentence, and what to change; empty when there is nothing."""
    zero = zero_columns(deviance.cross, terms)
    if zero:
        return zero
    found = dependent_columns(deviance, terms)
    if found is None:
        found = confounded(deviance, opt, [term.name for term in terms])
    return "" if found is None else message(found)


def dependent_columns(
    deviance: ProfiledDeviance, terms: Sequence[TermLayout]
) -> Confounded | None:  # fmt: skip
    """The first term whose covariates depend on each other; None where there is none.

    A term whose covariates are only far from zero has a working basis.
    """
    cross, slices = deviance.cross, deviance.covariance.slices
    for t, (term, part) in enumerate(zip(terms, slices, strict=True)):
        own = term.k > 1 and term.structure == "unstructured"
        own = own and (cross.bases is None or cross.bases[t] is None)
        if own and cross.moments[t].axes[0][0] < DEPENDENT:
            entries = np.zeros(deviance.covariance.n_theta, dtype=bool)
            entries[part] = True
            return Confounded([term.name], False, entries)
    return None


def message(found: Confounded) -> str:
    """What to say of it, and what to change."""
    what = [repr(name) for name in found.terms] + ["the residual"] * found.residual
    if len(what) == 1:
        seen = f"the variance parameters of {what[0]} cannot be told apart: its coefficients depend"
        seen += " on each other"
    else:
        seen = f"the variances of {', '.join(what[:-1])} and {what[-1]} cannot be told apart"
    return (
        f"{seen}. The likelihood is flat where they change together; only their joint effect is "
        "estimated, and they have no standard errors. Leave out one of the terms or columns, or "
        "check the coding of the grouping factors"
    )


def unbounded(design: Design) -> bool:
    """Whether the likelihood, not the restricted one, of a small model rises without end.

    Let some directions of the random coefficients have variances ``t^2`` times the residual one
    and Z_S be their part of Z. Where ``[X, Z_S]`` spans all n rows, the residual sum of squares
    falls like ``t^-2`` and the deviance like ``-n log t^2``, against ``rank(Z_S) log t^2`` of the
    determinant: without end when ``rank(Z_S) < n``.
    """
    n, width = design.n_counted, design.p + design.q
    if width < n or float(n) * width**2 > DENSE_WORK:
        return False
    counted = design.counted
    X = design.X[counted]
    parts = [_directions(term, term_z(term)[counted].toarray()) for term in design.terms]
    for chosen in islice(product(*parts), MOST_SUBSETS):
        Z = np.hstack([np.zeros((n, 0)), *chosen])
        enough = X.shape[1] + Z.shape[1] >= n > np.linalg.matrix_rank(Z)
        if enough and np.linalg.matrix_rank(np.hstack([_scaled(X), Z])) == n:
            return True
    return False


def _directions(term: RandomTerm, Z: FloatArray) -> list[FloatArray]:
    """Parts of Z of a term: nothing, each coefficient, some combinations of fewer, all of them."""
    rng = np.random.default_rng(0)
    k, levels = term.k, Z.reshape(len(Z), -1, term.k)
    bases = [np.eye(k)[:, [j]] for j in range(k)] if k > 1 else []
    bases += [rng.normal(size=(k, rank)) for rank in range(1, k)] + [np.eye(k)]
    out = [_scaled((levels @ basis).reshape(len(Z), -1)) for basis in bases]
    return [np.zeros((len(Z), 0)), *out]


def _scaled(columns: FloatArray) -> FloatArray:
    """Columns of length one, those that are zero left out."""
    size = np.linalg.norm(columns, axis=0)
    return columns[:, size > 0] / size[size > 0]
