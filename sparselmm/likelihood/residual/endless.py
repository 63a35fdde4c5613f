"""Likelihoods that rise without end as R loses rank.

Along directions v of groups in which R vanishes, ``log|V|`` falls without end. Where fixed effects
reproduce ``v'y`` there (variances of random effects may be zero) nothing holds against it: the
likelihood has no maximum, and every end of a search is a local one, or one that the digits set.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, islice

import numpy as np
import scipy

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.residual import ResidualRows
from sparselmm.design.rows import response
from sparselmm.design.terms import Design
from sparselmm.likelihood.evaluations import Deviance
from sparselmm.likelihood.residual.structure import Structure, Structured, Unstructured

FACTOR = 10.0
"""Factor by which a correlation steps back from one."""

RISES = 0.5
"""Slope of the deviance in the log of the distance from the limit above which it goes on: that is
the number of directions in which R vanishes, less those that fixed effects take for REML."""

REPRODUCED = 1e-7
"""Share of ``v'y`` left over that counts as nothing."""

MOST_SETS, STARTS = 30, 6
"""Sets of visits that are looked at, and starts of each."""

NO_MAXIMUM = (
    "the likelihood has no maximum, and these estimates are where the search stopped on its way or "
    "at a local maximum. Use a structure with fewer parameters (cs or ar1, hom=True, without by=), "
    "fewer fixed effects, or more groups"
)


def endless(deviance: Deviance, structure: Structure, x: FloatArray, n_theta: int) -> str:
    """What was seen at x of a likelihood that rises without end, in a sentence; else empty.

    A correlation at the last value short of one: the deviance is higher at a distance `FACTOR`
    times as large. A parameter far on its way to infinity: it is lower at half the distance.
    """
    if not isinstance(structure, Structured):
        return ""
    theta, phi = x[:n_theta], x[n_theta:]
    here = deviance.value(x)
    for away, factor, places in (
        (1.0, FACTOR, structure.capped(phi, FACTOR)), (-1.0, 2.0, structure.towards(phi, 2.0)),
    ):  # fmt: skip
        for what, moved in places:
            try:
                change = away * (deviance.value(np.append(theta, moved)) - here)
            except NotPositiveDefiniteError:
                continue
            if change > RISES * np.log(factor):
                return (
                    f"{structure.rows.text or 'dispersion'}: the likelihood rises without end as "
                    f"{what}, because fixed effects and the other parameters reproduce the few "
                    f"groups or rows that tell of it. So {NO_MAXIMUM}"
                )
    return ""


def unstructured_endless(design: Design, structure: Structure, reml: bool) -> str:
    """Visits that few groups have together, so that some contrast of them fits exactly."""
    rows = design.residual
    if not isinstance(structure, Unstructured) or rows is None or rows.stands is not None:
        return ""
    labels = rows.visit_labels
    for stratum in range(structure.n_strata):
        for at in islice(_scarce(design, rows, stratum, reml), MOST_SETS):
            if _reproduced(design, at):
                N, V = at.shape
                shown = ", ".join(str(labels[v]) for v in rows.visits[at[0]])
                return (
                    f"{rows.text}: visits {shown} are seen together in {N} groups, too few for "
                    f"{V * (V + 1) // 2} variances and covariances: a contrast of the visits "
                    "equals its fixed effects exactly, and the likelihood rises without end as "
                    f"its variance vanishes. So {NO_MAXIMUM}"
                )
    return ""


def _scarce(
    design: Design, rows: ResidualRows, stratum: int, reml: bool
) -> Iterator[IntArray]:
    """Rows (N, V) of the N groups that have V visits, where N is too small for a free R."""
    T = rows.n_visits
    place = np.full((int(rows.group.max()) + 1, T), -1)
    own = (rows.stratum == stratum) & (rows.counts > 0)
    place[rows.group[own], rows.visits[own]] = np.flatnonzero(own)
    if np.count_nonzero((place >= 0).any(axis=1)) == 0:
        return
    seen = place >= 0
    together = (seen.astype(float).T @ seen)[np.triu_indices(T, 1)]
    few = T - 1 + design.p
    if T > 1 and together.min() > few:
        return
    patterns = {tuple(np.flatnonzero(row)) for row in np.unique(seen, axis=0)}
    sets = patterns | set(combinations(range(T), 2))
    for visits in sorted((s for s in sets if len(s) > 1), key=len, reverse=True):
        at = place[seen[:, visits].all(axis=1)][:, visits]
        N, V = at.shape
        if not 0 < N <= V - 1 + design.p:
            continue
        v = np.random.default_rng(0).normal(size=V)
        rank = np.linalg.matrix_rank(np.einsum("v,nvp->np", v, design.X[at]))
        if N <= V - 1 + rank and not (reml and N <= rank):
            yield at


def _reproduced(design: Design, at: IntArray) -> bool:
    """Whether the fixed effects leave nothing of some contrast of the visits."""
    root = np.ones(design.n) if design.weights is None else np.sqrt(design.weights)
    y, X = (root * response(design))[at], (root[:, None] * design.X)[at]
    size = np.abs(X).max(axis=(0, 1))
    X, y = X[..., size > 0] / size[size > 0], y / np.std(y)
    rng = np.random.default_rng(0)

    def left(v: FloatArray) -> FloatArray:
        v = v / np.linalg.norm(v)
        AX, Ay = np.einsum("v,nvp->np", v, X), y @ v
        return np.asarray(Ay - AX @ np.linalg.lstsq(AX, Ay, rcond=1e-9)[0])

    for _ in range(STARTS):
        found = scipy.optimize.least_squares(left, rng.normal(size=at.shape[1]), xtol=1e-12)
        v = found.x / np.linalg.norm(found.x)
        if np.linalg.norm(found.fun) < REPRODUCED * max(np.linalg.norm(y @ v), REPRODUCED):
            return True
    return False
