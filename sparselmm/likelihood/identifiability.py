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

import numpy as np

from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.design.terms import RandomTerm
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.optimize import OptSummary

SUSPICIOUS = 1e-2
"""Smallest eigenvalue of the Hessian of the deviance, theta in units of its standard deviations,
below which the information is looked at."""

NONE = 1e-9
"""Eigenvalue of the information, scaled to a unit diagonal, that is zero up to rounding."""

INVOLVED = 1e-3
"""Share of the vector of that eigenvalue from which a parameter takes part in it."""


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
    deviance : ProfiledDeviance
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


def zero_columns(cross: CrossProducts, terms: Sequence[RandomTerm]) -> str:
    """What to say of random coefficients that are zero in every row; empty when there are none."""
    found = [
        f"{column!r} of {term.name!r}"
        for t, term in enumerate(terms)
        for column, size in zip(term.columns, cross.rms(t), strict=True)
        if size == 0.0
    ]
    if not found:
        return ""
    return (
        f"the random coefficient {', '.join(found)} is zero in every row of positive weight: "
        "nothing in the data tells its variance. Leave it out"
    )


def unidentified(deviance: ProfiledDeviance, opt: OptSummary, terms: Sequence[RandomTerm]) -> str:
    """What the data cannot tell, in a sentence, and what to change; empty when there is nothing."""
    found = confounded(deviance, opt, [term.name for term in terms])
    return zero_columns(deviance.cross, terms) or ("" if found is None else message(found))


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
