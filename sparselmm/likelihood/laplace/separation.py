"""Separation: directions of the fixed effects along which the likelihood has no maximum.

A direction v separates when moving the predictors by ``t Q v`` never lowers the probability of any
row and raises that of one without end: ``x'v >= 0`` where all trials succeeded, ``<= 0`` where all
failed, ``= 0`` where some did (Albert & Anderson 1984; Konis 2007, whose linear program this is).
It holds for every value of the random effects, so that it is a certificate for their integral too.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.optimize as so

from sparselmm.base.exceptions import DataError
from sparselmm.base.reduction import extremes
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.design.terms import RandomTerm
from sparselmm.likelihood.laplace.data import FixedRows, GeneralData

EXTREME = 1e-6
"""Probability of a response, or of its opposite, at which a search asks for separation."""

MOST_ROWS = 30_000
"""Different rows of the linear program."""

CLEARLY = 1e-10
"""Smallest eigenvalue of a Gram matrix, relative to the largest, of columns without dependence."""

COUNTS = ("poisson", "nbinom1", "nbinom2")


def extreme(data: GeneralData, w: FloatArray, g: FloatArray) -> bool:
    """Whether the response of some row is all but certain, from its derivatives."""
    if data.family.name in COUNTS:
        return bool(((np.abs(g) < EXTREME) & (data.y == _least(data))).any())
    if data.family.name not in ("binomial", "betabinomial", "ordinal"):
        return False
    return bool(((np.abs(g) < EXTREME) & (np.abs(w) < EXTREME)).any())


def separating(data: GeneralData, fixed: FixedRows, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the columns of X that take part in a separating direction; none without one."""
    program = _program(data, fixed)
    if program is None or not fixed.r:
        return ()
    rows, signs = program
    v = _direction(rows, signs)
    if v is None:
        return ()
    basis = fixed.basis
    beta = basis.T @ v[: fixed.r]
    spread = np.array([np.std(data.X[:, j]) for j in basis.kept])
    size = np.abs(beta) * spread
    if not size.max(initial=0.0) > 0:
        size = np.abs(beta)
    return tuple(
        names[j] for j, s in zip(basis.kept, size, strict=True) if s > 1e-6 * size.max()
    )  # fmt: skip


def _program(data: GeneralData, fixed: FixedRows) -> tuple[FloatArray, FloatArray] | None:
    """Rows of the linear program, and the sign each may have: 1, -1, or 0 for none."""
    name, y = data.family.name, data.y
    Q = fixed.columns(slice(0, data.n)) * np.sqrt(max(data.n, 1))
    live = np.ones(data.n, dtype=bool) if data.weights is None else data.weights > 0
    if name in ("binomial", "betabinomial"):
        m = data.trials(slice(None))
        sign = np.where(y >= m, 1.0, np.where(y <= 0, -1.0, 0.0))
        return _unique(Q, sign, live & (m > 0))
    if name in COUNTS and data.family.link == "log":
        least = _least(data)  # past a hurdle zeros say nothing of the mean
        return _unique(Q, np.where(y == least, -1.0, 0.0), live & (y >= least))
    if name == "ordinal":
        return _ordinal(data, Q, live)
    return None


def _least(data: GeneralData) -> int:
    """The count that is certain where the mean vanishes; excess zeros leave it so."""
    return 1 if any(part.name == "hurdle" for part in data.further) else 0


def _ordinal(
    data: GeneralData, Q: FloatArray, live: BoolArray
) -> tuple[FloatArray, FloatArray] | None:
    """The threshold above a row's category must not fall, nor that below it rise."""
    rows, signs = [], []
    for part, sign in zip(data.further, (1.0, -1.0), strict=True):
        assert part.design is not None and part.offset is not None
        inner = np.isfinite(part.offset) & live
        D = part.design[np.flatnonzero(inner)]
        rows.append(np.hstack([-Q[inner], D if isinstance(D, np.ndarray) else D.toarray()]))
        signs.append(np.full(int(inner.sum()), sign))
    every = np.vstack(rows)
    return _unique(every, np.concatenate(signs), np.ones(len(every), dtype=bool))


def _unique(
    rows: FloatArray, sign: FloatArray, live: BoolArray
) -> tuple[FloatArray, FloatArray] | None:
    equal = rows[(sign == 0) & live]
    values = np.linalg.eigvalsh(equal.T @ equal)
    if values.size and values[0] > CLEARLY * values[-1]:  # no direction leaves these as they are
        return None
    both = np.unique(np.round(np.column_stack([rows, sign])[live], 10), axis=0)
    return (both[:, :-1], both[:, -1]) if len(both) <= MOST_ROWS else None


def _direction(rows: FloatArray, sign: FloatArray) -> FloatArray | None:
    """A direction that separates, or None."""
    signed = rows[sign != 0] * sign[sign != 0, None]
    equal = rows[sign == 0]
    if not len(signed):
        return None
    if len(equal):  # equalities as a subspace, which the program need not see
        _, s, Vt = np.linalg.svd(equal, full_matrices=True)
        rank = int((s > 1e-9 * s[0]).sum())
        free = Vt[rank:].T
        if not free.shape[1]:
            return None
    else:
        free = np.eye(rows.shape[1])
    A = signed @ free
    found = so.linprog(
        -A.sum(axis=0) / len(A), A_ub=-A, b_ub=np.zeros(len(A)), bounds=(-1.0, 1.0), method="highs"
    )
    if found.status != 0 or not (A @ found.x).max() > 1e-7:
        return None
    return np.asarray(free @ found.x)


def pure_levels(data: GeneralData) -> tuple[str, ...]:
    """Factors of which every level, of two rows or more, has one extreme response throughout."""
    if data.family.name not in ("binomial", "betabinomial"):
        return ()
    m = data.trials(slice(None))
    share = np.where(m > 0, data.y / np.maximum(m, 1), 0.5)
    return tuple(
        name for name, low, high in _ranges(data, share) if ((low >= 1.0) | (high <= 0.0)).all()
    )


def check_varies_within_levels(data: GeneralData) -> None:
    """Refuse random effects that reproduce a response with a dispersion of its own.

    Raises
    ------
    DataError
        If it does not vary within the levels of a factor: the likelihood has no maximum.
    """
    if data.family.name not in ("gaussian", "gamma", "inverse_gaussian", "beta"):
        return
    constant = {name for name, low, high in _ranges(data, data.y) if (low >= high).all()}
    if constant and data.offset is not None:  # it moves the means of a level apart
        constant &= {n for n, low, high in _ranges(data, data.offset) if (low >= high).all()}
    if constant:
        raise DataError(
            "the likelihood has no maximum: the response does not vary within the levels of "
            f"{', '.join(map(repr, sorted(constant)))}, and the likelihood rises without end as "
            "the dispersion vanishes. Leave the term out and fit a row per level"
        )


def _ranges(data: GeneralData, y: FloatArray) -> Iterator[tuple[str, FloatArray, FloatArray]]:
    """Factors with an intercept and a level of several rows: lowest and highest y of each level."""
    for term in data.terms:
        if term.codes is None or term.n_levels < 2 or not _has_intercept(term):
            continue
        inside = term.codes >= 0
        codes = term.codes[inside]
        if np.bincount(codes, minlength=term.n_levels).max() < 2:
            continue
        low, high = np.full(term.n_levels, np.inf), np.full(term.n_levels, -np.inf)
        np.minimum.at(low, codes, y[inside])
        np.maximum.at(high, codes, y[inside])
        yield term.name, low, high


def _has_intercept(term: RandomTerm) -> bool:
    if term.values is None:
        return True
    low, high = extremes(term.values)
    return bool((low == high).any())
