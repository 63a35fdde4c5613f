"""Likelihoods that rise without end as R loses rank.

Along directions v of groups in which R vanishes, ``log|V|`` falls without end. Where fixed effects
reproduce ``v'y`` there (variances of random effects may be zero) nothing holds against it: the
likelihood has no maximum, and every end of a search is a local one, or one that the digits set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
import scipy

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.types import BoolArray, FloatArray, IntArray
from sparselmm.design.residual import ResidualRows
from sparselmm.design.rows import response, term_z
from sparselmm.design.terms import Design, RandomTerm
from sparselmm.likelihood.evaluations import Deviance
from sparselmm.likelihood.residual.structure import Structure
from sparselmm.likelihood.residual.unstructured import Unstructured

FACTOR = 10.0
"""Factor by which a correlation steps back from one."""

RISES = 0.5
"""Slope of the deviance in the log of the distance from the limit above which it goes on: that is
the number of directions in which R vanishes, less those that fixed effects take for REML."""

REPRODUCED = 1e-7
"""Share of ``v'y`` left over that counts as nothing."""

SINGULAR = 1e-4
"""Eigenvalue of the correlations of the visits at which their covariance loses its rank."""

MOST_VISITS = 50
"""Visits up to which sets of them are numbers."""

SMALL_WORK = 2_000
"""Entries of Z in the rows of a set of visits up to which random effects are looked at."""

MOST_SETS, STARTS = 30, 6
"""Sets of visits that are looked at, and starts of each."""

NO_MAXIMUM = (
    "the likelihood has no maximum, and these estimates are where the search stopped on its way or "
    "at a local maximum. Use a structure with fewer parameters (cs or ar1, hom=True, without by=), "
    "fewer fixed effects, or more groups"
)


def well_inside(structure: Structure, phi: FloatArray) -> bool:
    """Whether no covariance of the visits is nearly singular."""
    if not isinstance(structure, Unstructured):
        return False
    L = structure.roots(phi)
    L = L / np.linalg.norm(L, axis=2, keepdims=True)
    return bool((np.linalg.eigvalsh(L @ L.transpose(0, 2, 1))[:, 0] > SINGULAR).all())


def endless(deviance: Deviance, structure: Structure, x: FloatArray, n_theta: int) -> str:
    """What was seen at x of a likelihood that rises without end, in a sentence; else empty.

    A correlation at the last value short of one: the deviance is higher at a distance `FACTOR`
    times as large. A parameter far on its way to infinity: it is lower at half the distance.
    """
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
                    f"{what}: fixed effects and the other parameters reproduce the few groups or "
                    f"rows that tell of it, or these differ by next to nothing. So {NO_MAXIMUM}"
                )
    return ""


@dataclass(frozen=True, eq=False)
class _Few:
    """N groups that have V visits, and what may reproduce a contrast of these.

    Attributes
    ----------
    rows : ndarray of int, (N, V)
    y : ndarray, (N, V)
    X : ndarray, (N, V, c)
        Fixed effects and those random effects whose variance is not zero.
    """

    rows: IntArray
    y: FloatArray
    X: FloatArray

    @property
    def is_reproduced(self) -> bool:
        """Whether they leave nothing of some contrast."""
        size = np.abs(self.X).max(axis=(0, 1))
        X, y = self.X[..., size > 0] / size[size > 0], self.y / np.std(self.y)
        rng = np.random.default_rng(0)

        def left(v: FloatArray) -> FloatArray:
            v = v / np.linalg.norm(v)
            AX, Ay = np.einsum("v,nvp->np", v, X), y @ v
            return np.asarray(Ay - AX @ np.linalg.lstsq(AX, Ay, rcond=1e-9)[0])

        for _ in range(STARTS):
            found = scipy.optimize.least_squares(left, rng.normal(size=y.shape[1]), xtol=1e-12)
            v = found.x / np.linalg.norm(found.x)
            size_y = max(float(np.linalg.norm(y @ v)), REPRODUCED)
            if float(np.linalg.norm(found.fun)) < REPRODUCED * size_y:
                return True
        return False


def unstructured_endless(design: Design, structure: Structure, reml: bool) -> tuple[str, bool]:
    """Visits that few groups have together, so that some contrast of them fits exactly.

    In a sentence, empty where there are none; and whether most groups of the stratum have them. A
    local maximum that all groups decide on means something where only some of them have all visits.
    """
    rows = design.residual
    if not isinstance(structure, Unstructured) or rows is None or rows.stands is not None:
        return "", False
    if rows.n_visits > MOST_VISITS:
        return "", False
    tried = islice(_scarce(design, rows, reml), MOST_SETS)
    found = next((few for few in tried if few.is_reproduced), None)
    if found is None:
        return "", False
    N, V = found.rows.shape
    stratum = rows.stratum == rows.stratum[found.rows[0, 0]]
    mostly = len(np.unique(rows.group[stratum])) <= 2 * N
    shown = ", ".join(str(rows.visit_labels[v]) for v in rows.visits[found.rows[0]])
    why = (
        f"{rows.text}: visits {shown} are seen together in {N} groups, too few for "
        f"{V * (V + 1) // 2} variances and covariances: some contrast of these visits is fitted "
        f"exactly, and the likelihood rises without end as its variance vanishes. So {NO_MAXIMUM}"
    )
    return why, mostly


def _scarce(design: Design, rows: ResidualRows, reml: bool) -> Iterator[_Few]:
    """Sets of visits that too few groups have for a free R, the largest sets first."""
    T, most = rows.n_visits, rows.n_visits - 1 + design.p + design.q
    for stratum in range(max(len(rows.strata), 1)):
        place = np.full((int(rows.group.max()) + 1, T), -1)
        own = rows.stratum == stratum
        if design.weights is not None:
            own &= design.weights > 0
        place[rows.group[own], rows.visits[own]] = np.flatnonzero(own)
        seen = place >= 0
        sets = _sets(seen, most)
        for visits in sorted(sets, key=len, reverse=True):
            at = place[seen[:, visits].all(axis=1)][:, visits]
            yield from _too_few(design, at, reml)


def _sets(seen: BoolArray, most: int) -> set[tuple[int, ...]]:
    """Pairs of visits, and those of any group, that no more than ``most`` groups have."""
    _, first, counts = np.unique(
        seen @ 2.0 ** np.arange(seen.shape[1]), return_index=True, return_counts=True
    )
    own = seen[first].astype(float)
    pairs = np.array(list(combinations(range(seen.shape[1]), 2)), dtype=int).reshape(-1, 2)
    wanted = np.zeros((len(pairs), seen.shape[1]))
    wanted[np.arange(len(pairs))[:, None], pairs] = 1.0
    wanted = np.vstack([own[own.sum(axis=1) > 1], wanted])
    N = (wanted @ own.T == wanted.sum(axis=1)[:, None]) @ counts
    return {tuple(np.flatnonzero(row).tolist()) for row in wanted[(N > 0) & (most >= N)]}


def _too_few(design: Design, at: IntArray, reml: bool) -> Iterator[_Few]:
    """These rows with fixed effects and some of the random ones, where numbers allow it.

    A contrast has ``V - 1`` numbers, and effects reproduce as many groups as the rank of their
    contrasts. What R leaves empty, random effects fill in as many directions as theirs, and REML
    takes those of the fixed effects out; the likelihood rises by the others.
    """
    N, V = at.shape
    sets = [terms for terms in _subsets(design, at.size)
            if 0 < N <= V - 1 + design.p + sum(t.q for t in terms)]  # fmt: skip
    if not sets:
        return
    root = np.ones(len(design.y)) if design.weights is None else np.sqrt(design.weights)
    y, X = (root * response(design))[at], (root[:, None] * design.X)[at]
    v = np.asarray(np.random.default_rng(0).normal(size=V))
    for terms in sets:
        z = [(root[at.ravel(), None] * term_z(t)[at.ravel()].toarray()).reshape(N, V, -1)
             for t in terms]  # fmt: skip
        Z = np.concatenate([np.zeros((N, V, 0)), *z], axis=2)
        both = np.concatenate([X, Z], axis=2)
        rank = _rank(v, both)
        lost = rank if reml else _rank(v, Z)
        if lost < N <= V - 1 + rank:
            yield _Few(at, y, both)


def _rank(v: FloatArray, X: FloatArray) -> int:
    """Of the contrasts v of X (N, V, c)."""
    contrasts = np.einsum("v,nvp->np", v, X)
    return int(np.linalg.matrix_rank(contrasts)) if contrasts.size else 0


def _subsets(design: Design, rows: int) -> list[tuple[RandomTerm, ...]]:
    """No random effects, all, those of one term; no more than `SMALL_WORK` entries."""
    terms = design.terms
    sets = dict.fromkeys([(), tuple(terms), *((term,) for term in terms)])
    return [s for s in sets if rows * sum(t.q for t in s) <= SMALL_WORK]
