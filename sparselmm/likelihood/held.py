"""Covariance parameters held at given values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparselmm.base.arguments import (
    both_in_order,
    check_mapping,
    check_numbers,
    check_positive,
    in_order,
    suggestion,
    unlabelled,
)
from sparselmm.base.exceptions import DataError
from sparselmm.base.smallmatrix import NOT_NEGATIVE, factor_of
from sparselmm.base.types import BoolArray, FloatArray, IntArray
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.patterned import MOMENT_ORDER, Patterned
from sparselmm.likelihood.term_covariance import TermCovariance

Labels = Sequence[Sequence[str]]
"""Names of the coefficients of a term, in one spelling or another."""

UNIT = 1e-8
"""Rounding of the ones on the diagonal of a correlation matrix."""


@dataclass(frozen=True, eq=False)
class Held:
    """Parameters held at given values, whichever argument of a fit gave them.

    Attributes
    ----------
    covariance : Covariance
        Of the free entries of theta.
    free : ndarray of bool, (n_theta,)
        Which entries of the model's theta these are.
    scale : float or None
        Residual variance, None when it is estimated.
    start : ndarray or None
        Start values of the free entries, where what is held came with some.
    psi : list of ndarray of bool (k, k), or None
        Entries of every ``Psi_t`` that are free, where theta cannot lose the others: they need
        equality constraints.
    fixed : ndarray of bool (p,), or None
        Fixed effects held at their start values.
    """

    covariance: Covariance
    free: BoolArray
    scale: float | None = None
    start: FloatArray | None = None
    psi: list[BoolArray] | None = None
    fixed: BoolArray | None = None

    @classmethod
    def nothing(cls, covariance: Covariance) -> Held:
        """All parameters are free."""
        return cls(covariance, covariance.everything)

    @classmethod
    def of(
        cls, fix: Any, covariance: Covariance, names: Sequence[str],
        coefficients: Sequence[Labels] = (),
    ) -> Held:  # fmt: skip
        """Read the ``fix`` argument of ``MixedLM.fit``.

        Parameters
        ----------
        fix : mapping or None
        covariance : Covariance
            The model's.
        names : sequence of str
            Names of its terms.
        coefficients : sequence of sequence of str
            For each term the labels its coefficients may have.

        Raises
        ------
        DataError
            When a key or a value cannot be understood.
        """
        if fix is None:
            return cls.nothing(covariance)
        _check_keys(fix, names)
        scale = None if "sigma" not in fix else _positive(fix["sigma"]) ** 2
        terms = list(covariance.terms)
        if "theta" in fix:
            terms = _held_theta(fix["theta"], covariance)
        for t, name in enumerate(names):
            if name in fix and name not in ("sigma", "theta"):
                lam = factor_of(_held_psi(name, fix[name], terms[t].k, scale, coefficients[t]))
                none = np.zeros(0, dtype=np.intp)
                terms[t] = FixedEntries(terms[t].k, none, none, lam)
        return cls(*_reduced(covariance, terms), scale)

    @classmethod
    def by_masks(
        cls, covariance: Covariance, masks: Sequence[BoolArray], psi: Sequence[FloatArray]
    ) -> Held:
        """Hold entries of every ``Psi_t / sigma^2``; without `start` where theta keeps them all.

        Parameters
        ----------
        covariance : Covariance
            The model's.
        masks : sequence of ndarray of bool, (k, k)
            True for an entry to estimate.
        psi : sequence of ndarray, (k, k)
            Values of those held and start values of the others.
        """
        terms, starts = [], []
        for old, mask, block in zip(covariance.terms, masks, psi, strict=True):
            block = _within(mask, block)
            lam = factor_of(block)
            pattern = _factor_pattern(np.tril(mask), block)
            if pattern is None:
                return replace(cls.nothing(covariance), psi=list(masks))
            term = _term(old, pattern, np.where(pattern, 0.0, lam))
            terms.append(term)
            starts.append(lam[term.rows, term.cols])
        start = np.concatenate(starts) if starts else np.zeros(0)
        return cls(*_reduced(covariance, terms), start=start)


def _reduced(
    covariance: Covariance, terms: Sequence[TermCovariance]
) -> tuple[Covariance, BoolArray]:
    """The covariance with what is left of its terms, and which entries of its theta are free."""
    free = []
    for old, new in zip(covariance.terms, terms, strict=True):
        places = set(zip(new.rows.tolist(), new.cols.tolist(), strict=True))
        entries = zip(old.rows.tolist(), old.cols.tolist(), strict=True)
        free.append(np.array([new is old or entry in places for entry in entries], dtype=bool))
    every = np.concatenate(free) if free else np.zeros(0, dtype=bool)
    return covariance if every.all() else Covariance(tuple(terms)), every


def _check_keys(fix: Any, names: Sequence[str]) -> None:
    """Refuse keys of ``fix`` that mean nothing, or the same twice."""
    check_mapping(fix, "fix", "{'sigma': 1.0}")
    unknown = [key for key in fix if key not in ("sigma", "theta", *names)]
    if unknown:
        raise DataError(
            f"fix names {unknown[0]!r}; it takes 'sigma', 'theta' and the terms of the model, "
            f"{', '.join(map(repr, names))}{suggestion(str(unknown[0]), names)}"
        )
    both = [key for key in fix if key not in ("sigma", "theta")]
    if "theta" in fix and both:
        raise DataError(f"fix holds both 'theta' and {both[0]!r}, a part of it; give one of them")


def _positive(sigma: Any) -> float:
    return check_positive(sigma, "fix['sigma']")


def _held_theta(given: Any, covariance: Covariance) -> list[TermCovariance]:
    """Terms with the finite entries of a theta held, NaN for the free ones."""
    theta = check_numbers(unlabelled(given, "fix['theta']"), "fix['theta']", finite=False)
    if theta.shape != (covariance.n_theta,) or np.isinf(theta).any():
        raise DataError(
            f"fix['theta'] must hold {covariance.n_theta} numbers, NaN for those to estimate; got "
            f"{given!r}"
        )
    negative = covariance.on_diagonal & (theta < 0)
    if negative.any():
        raise DataError(
            f"fix['theta'] has a negative entry {theta[negative][0]:g} at {np.argmax(negative)}, "
            "on the diagonal of a factor, where they are ratios of standard deviations"
        )
    out = []
    for term, part in zip(covariance.terms, covariance.slices, strict=True):
        held = ~np.isnan(theta[part])
        if held.any() and not held.all() and isinstance(term, Patterned):
            raise DataError(
                "fix['theta'] holds some parameters of a term with a patterned covariance and "
                "leaves others free; hold all of them or none"
            )
        known = term.triangular(term.factor(np.where(held, theta[part], 0.0)))
        rows, cols = term.rows[~held], term.cols[~held]
        out.append(FixedEntries(term.k, rows, cols, known) if held.any() else term)
    return out


def _held_psi(
    name: str, given: Any, k: int, scale: float | None, labels: Labels
) -> FloatArray:  # fmt: skip
    """``Psi_t / sigma^2`` of an entry of ``fix``, (k, k)."""
    how = "write {'sd': ...}, {'sd': ..., 'corr': ...}, {'cov': ...} or {'ratio': ...}"
    if not isinstance(given, Mapping) or set(given) not in (
        {"sd"}, {"sd", "corr"}, {"cov"}, {"ratio"},
    ):  # fmt: skip
        raise DataError(f"fix[{name!r}] = {given!r} is not understood; {how}")
    if "ratio" not in given and scale is None:
        raise DataError(
            f"fix[{name!r}] is in the units of the data, which needs sigma held as well: the "
            "covariance relative to sigma would move with the estimate of sigma. Add 'sigma', or "
            "hold the ratio to sigma^2, {'ratio': ...}"
        )
    what = f"fix[{name!r}]"
    if "sd" in given:
        psi = _psi_of_sd(given, k, what, labels)
    else:
        key = "ratio" if "ratio" in given else "cov"
        matrix = both_in_order(given[key], *labels, argument=f"{what}[{key!r}]")
        psi = np.atleast_2d(check_numbers(matrix, f"{what}[{key!r}]"))
    if psi.shape != (k, k) or not np.allclose(psi, psi.T):
        raise DataError(
            f"{what} must be symmetric and of order {k}, the number of coefficients of the term; "
            f"got shape {psi.shape}"
        )
    smallest, largest = np.linalg.eigvalsh(psi)[[0, -1]]
    if smallest < -NOT_NEGATIVE * max(largest, 0.0):
        raise DataError(
            f"{what} must be positive semi-definite, a covariance matrix; its smallest eigenvalue "
            f"is {smallest:.3g}"
        )
    return psi if "ratio" in given else psi / (scale or 1.0)


@dataclass(frozen=True, eq=False)
class FixedEntries(TermCovariance):
    """A term some of whose ``lambda_t`` is known.

    Attributes
    ----------
    known : ndarray, (k, k)
        The known entries, zero at the free ones.
    """

    known: FloatArray

    def is_numerous(self, levels: int) -> bool:
        """No: the steps are those of the free entries alone."""
        return False

    def factor(self, theta: FloatArray) -> FloatArray:
        """``lambda_t``, (k, k)."""
        lam = self.known.copy()
        lam[self.rows, self.cols] = theta
        return lam

    @property
    def is_diagonal(self) -> bool:
        """No: off-diagonal entries may be known."""
        return False

    @property
    def tangent(self) -> tuple[IntArray, IntArray]:
        """Rows and columns of the free entries."""
        return self.rows, self.cols

    @property
    def in_tangent(self) -> IntArray:
        """All of them."""
        return np.arange(len(self.rows))

    def retract(self, lam: FloatArray) -> FloatArray:
        """The free entries as they are: rotations would move the known ones."""
        return lam[self.rows, self.cols]

    def carried_back(
        self, theta: FloatArray, step: FloatArray, after: FloatArray, slope: FloatArray
    ) -> FloatArray:
        """The gradient as it is: nothing was turned."""
        return slope

    def steps(
        self, theta: FloatArray, unit: FloatArray, smallest: float, slope: FloatArray
    ) -> FloatArray:
        """The free entries, in units of the standard deviations of their rows."""
        lam = self.factor(theta)
        variances = np.diag(lam @ lam.T + smallest**2 * unit @ unit.T)
        return np.diag(np.sqrt(variances)[self.rows])

    @property
    def moment_form(self) -> TermCovariance:
        """All entries, known or not, while they are few or most are free; else the variances."""
        many = self.k > MOMENT_ORDER and len(self.rows) <= self.k
        return TermCovariance.diagonal(self.k) if many else TermCovariance.unstructured(self.k)


def _within(mask: BoolArray, block: FloatArray) -> FloatArray:
    """Start values; free covariances become zero when the matrix is not a covariance matrix."""
    try:
        factor_of(block)
    except ValueError:
        return np.where(mask & ~np.eye(len(block), dtype=bool), 0.0, block)
    return block


def _factor_pattern(lower: BoolArray, block: FloatArray) -> BoolArray | None:
    """Free entries of ``lambda_t`` when that is what the mask means, else None."""
    k = len(lower)
    full: BoolArray = np.asarray(np.tril(np.ones((k, k))) != 0)
    held: BoolArray = np.asarray(full & ~lower)
    rows: BoolArray = np.asarray(held.any(axis=1))
    m = int(rows.sum())
    if held.sum() == full[:m].sum() and rows[:m].all():  # nothing, or leading rows, held
        return lower
    off = np.tril(full, -1)
    if (lower & off).any():
        zero_pattern = not (held & ~off).any() and not block[held].any()
        return lower if zero_pattern and not _fills(lower) else None
    return lower if not block[off].any() else None  # independent coefficients


def _fills(pattern: BoolArray) -> bool:
    """Whether the Cholesky factor of a matrix has entries outside the matrix's pattern."""
    k = len(pattern)
    return any(
        pattern[i, j] and pattern[h, j] and not pattern[i, h]
        for j in range(k)
        for h in range(j + 1, k)
        for i in range(h + 1, k)
    )


def _term(old: TermCovariance, pattern: BoolArray, known: FloatArray) -> TermCovariance:
    """A plain term when nothing but zeros is known off a full triangle or diagonal."""
    cols, rows = np.nonzero(pattern.T)
    if len(rows) == len(old.rows) and not known.any():
        return old
    if not known.any() and np.array_equal(rows, cols) and len(rows) == old.k:
        return TermCovariance(old.k, rows, cols)
    return FixedEntries(old.k, rows, cols, known)


def _psi_of_sd(
    given: Mapping[str, Any], k: int, what: str, labels: Labels
) -> FloatArray:  # fmt: skip
    """Covariance matrix of standard deviations and correlations, (k, k)."""
    sizes = in_order(given["sd"], *labels, argument=f"{what}['sd']")
    sd = np.atleast_1d(check_numbers(sizes, f"{what}['sd']"))
    if sd.shape != (k,):
        raise DataError(
            f"{what}['sd'] must be of order {k}, one number per coefficient; got {sd.shape}"
        )
    if (sd < 0).any():
        raise DataError(f"{what}['sd'] must not be negative, got {sd.min():g}")
    corr = both_in_order(given.get("corr", np.eye(k)), *labels, argument=f"{what}['corr']")
    corr = check_numbers(corr, f"{what}['corr']", (k, k))
    if not np.allclose(np.diag(corr), 1.0, rtol=0.0, atol=UNIT) or (np.abs(corr) > 1 + UNIT).any():
        raise DataError(
            f"{what}['corr'] must be a correlation matrix, ones on the diagonal and no entry "
            "beyond one in size; for a covariance matrix write {'cov': ...}"
        )
    return np.asarray(np.outer(sd, sd) * corr)
