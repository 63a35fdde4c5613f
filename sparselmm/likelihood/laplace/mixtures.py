"""Families made of another one: excess zeros, hurdles, and what users bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.special as ss

from sparselmm.base.arguments import (
    check_callable,
    check_mapping,
    check_number,
    check_numbers,
    check_text,
)
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import FloatArray
from sparselmm.likelihood.laplace.families import FAMILIES
from sparselmm.likelihood.laplace.jets import Jet

STEP = 1e-3
"""Step of the fourth-order differences of a user's derivatives."""

ROWS = 200
"""Rows at which the derivatives of a family are compared before a fit."""

GROSS = 1e-3
"""Relative difference there that is an error of the derivatives, whatever their scale."""


@dataclass(frozen=True)
class _OfCounts:
    """A family of counts with a predictor of its zeros."""

    base: Any
    own: ClassVar[str]

    @property
    def name(self) -> str:
        """Name of the family of the counts."""
        return str(self.base.name)

    @property
    def link(self) -> str:
        """Link of their mean, before zeros are added or cut off."""
        return str(self.base.link)

    @property
    def further(self) -> tuple[str, ...]:
        """Predictors besides ``eta``."""
        return (*self.base.further, self.own)


@dataclass(frozen=True)
class ZeroInflated(_OfCounts):
    """With probability ``expit(z)`` the count is zero, otherwise that of another family."""

    own: ClassVar[str] = "zi"

    def constant(self, y: FloatArray, m: FloatArray) -> FloatArray:
        """What depends on the data alone; nothing at zero, where families have none."""
        return np.asarray(self.base.constant(y, m))

    def jet(
        self, y: FloatArray, m: FloatArray, eta: FloatArray, further: tuple[FloatArray, ...],
        extra: bool,
    ) -> Jet:  # fmt: skip
        """``log(expit(z) [y = 0] + expit(-z) f(y))`` and its derivatives."""
        *others, z = further
        own = self.base.jet(y, m, eta, tuple(others), extra)
        zero = y == 0
        gap = np.where(zero, own.f - z, np.inf)
        p, r = ss.expit(gap), ss.expit(-gap)  # of a zero: that it is a count, that it is not
        v, pi = p * r, ss.expit(z)
        value = np.where(zero, np.logaddexp(own.f, z), own.f) - np.logaddexp(0.0, z)
        jet = own.outer(p, v, v * (r - p), value)
        if not extra:
            return jet
        third = v * (r - p)
        mine = (r - pi, -v * own.e, -v * own.ee - third * own.e**2)
        last = len(others)
        aa = dict(jet.aa or {})
        aa |= {(i, last): -v * fa for i, (fa, _, _) in enumerate(own.a)}
        aa[last, last] = v - pi * (1.0 - pi)
        return Jet(jet.f, jet.e, jet.ee, jet.eee, (*jet.a, mine), aa)


@dataclass(frozen=True)
class Hurdle(_OfCounts):
    """A zero has probability ``expit(z)``; other counts are those of a family that are not zero."""

    own: ClassVar[str] = "hurdle"

    def constant(self, y: FloatArray, m: FloatArray) -> FloatArray:
        """What depends on the data alone."""
        return np.where(y > 0, self.base.constant(y, m), 0.0)

    def jet(
        self, y: FloatArray, m: FloatArray, eta: FloatArray, further: tuple[FloatArray, ...],
        extra: bool,
    ) -> Jet:  # fmt: skip
        """``log expit(z)`` of a zero, ``log(expit(-z) f(y) / (1 - f(0)))`` otherwise."""
        *others, z = further
        own = self.base.jet(y, m, eta, tuple(others), extra)
        none = self.base.jet(np.zeros_like(y), m, eta, tuple(others), extra)
        with np.errstate(over="ignore", divide="ignore"):
            q = 1.0 / np.expm1(-none.f)
            left = np.log(-np.expm1(none.f))
        cut = none.outer(q, q * (1 + q), q * (1 + q) * (1 + 2 * q), -left)
        pi, zero = ss.expit(z), y == 0
        jet = _difference(own, cut).times((~zero).astype(float))
        value = np.where(zero, z, jet.f) - np.logaddexp(0.0, z)
        if not extra:
            return Jet(value, jet.e, jet.ee, jet.eee)
        flat = np.zeros_like(y)
        aa = dict(jet.aa or {})
        aa[len(others), len(others)] = -pi * (1.0 - pi)
        return Jet(value, jet.e, jet.ee, jet.eee, (*jet.a, (zero - pi, flat, flat)), aa)


def _difference(own: Jet, cut: Jet) -> Jet:
    """Sum of two jets with the same further predictors."""
    a = tuple(
        tuple(x + y for x, y in zip(left, right, strict=True))
        for left, right in zip(own.a, cut.a, strict=True)
    )
    aa = None if own.aa is None else {k: x + (cut.aa or {})[k] for k, x in own.aa.items()}
    return Jet(own.f + cut.f, own.e + cut.e, own.ee + cut.ee, own.eee + cut.eee, a, aa)  # type: ignore[arg-type]


class CustomFamily:
    """A family of the user's own.

    Parameters
    ----------
    derivatives : callable
        ``derivatives(y, eta, *parameters)`` returns four arrays (m,): the complete log-likelihood
        of every row, constants included, and its first three derivatives in ``eta``. It is called
        for some rows at a time, so that it may not close over arrays as long as the data.
        Parameters are arrays (m,). A value that is not finite says that the likelihood is zero.
    parameters : mapping, optional
        Names of further parameters and their start values, on a scale without bounds. Derivatives
        by them are taken by fourth-order differences. One named ``"dispersion"`` takes the formula
        of ``dispersion=``.
    name : str
        For tables; none of the package's own families.
    mean : callable, optional
        ``mean(eta, *parameters)``, the expected response, (m,); needed for fitted values.
    start : callable, optional
        ``start(y)``: predictors to start from, (m,). Default zero.

    Raises
    ------
    DataError
        When `check` finds that a derivative is not that of the log-likelihood. A model compares
        them at some rows where its search starts.

    Examples
    --------
    >>> import numpy as np
    >>> poisson = CustomFamily(
    ...     lambda y, eta: (y * eta - np.exp(eta), y - np.exp(eta), -np.exp(eta), -np.exp(eta)))
    >>> poisson.check(np.array([0.0, 2.0, 5.0]))
    """

    link = "custom"

    def __init__(
        self, derivatives: Any, *, parameters: Mapping[str, float] | None = None,
        name: str = "custom", mean: Any = None, start: Any = None,
    ):  # fmt: skip
        self.derivatives = check_callable(derivatives, "derivatives")
        self.name = check_text(name, "name")
        if self.name in FAMILIES:
            raise DataError(f"name {name!r} is that of a family of the package; choose another one")
        given = check_mapping({} if parameters is None else parameters, "parameters", "{'k': 0.0}")
        self.parameters = {
            check_text(key, "parameters"): check_number(value, "parameters")
            for key, value in given.items()
        }
        self.mean_of = None if mean is None else check_callable(mean, "mean")
        self.start_of = None if start is None else check_callable(start, "start")

    @property
    def further(self) -> tuple[str, ...]:
        """Names of the further parameters."""
        return tuple(self.parameters)

    def constant(self, y: FloatArray, m: FloatArray) -> FloatArray:
        """Nothing: the user's log-likelihood is complete."""
        return np.zeros(len(y))

    def jet(
        self, y: FloatArray, m: FloatArray, eta: FloatArray, further: tuple[FloatArray, ...],
        extra: bool,
    ) -> Jet:  # fmt: skip
        """The user's derivatives; by the parameters, differences of them."""
        f, e, ee, eee = self._given(y, eta, further)
        if not extra or not further:
            return Jet(f, e, ee, eee)

        def moved(*steps: tuple[int, float]) -> tuple[FloatArray, ...]:
            own = [x + sum(s for j, s in steps if j == i) for i, x in enumerate(further)]
            return tuple(self._given(y, eta, own)[:3])

        a, aa = [], {}
        for i in range(len(further)):
            at = {s: moved((i, s * STEP)) for s in (-2, -1, 1, 2)}
            a.append(tuple(
                (8 * (at[1][c] - at[-1][c]) - (at[2][c] - at[-2][c])) / (12 * STEP)
                for c in range(3)
            ))  # fmt: skip
            aa[i, i] = (at[2][0] - 2 * f + at[-2][0]) / (4 * STEP**2)
            for j in range(i):
                corners = [s * t * moved((i, s * STEP), (j, t * STEP))[0]
                           for s in (-1, 1) for t in (-1, 1)]  # fmt: skip
                aa[j, i] = np.sum(corners, axis=0) / (4 * STEP**2)
        return Jet(f, e, ee, eee, tuple(a), aa)  # type: ignore[arg-type]

    def _given(
        self, y: FloatArray, eta: FloatArray, further: Sequence[FloatArray]
    ) -> tuple[FloatArray, ...]:  # fmt: skip
        """What the user's function returns, when it is what was asked for."""
        given = self._called("derivatives", self.derivatives, y, eta, *further)
        if not isinstance(given, (tuple, list, np.ndarray)):
            raise DataError(
                f"derivatives of family {self.name!r} must return four arrays, the log-likelihood "
                f"and three derivatives; it returned {type(given).__name__}"
            )
        parts = tuple(self._numbers("derivatives", part) for part in given)
        if len(parts) != 4 or any(part.shape != y.shape for part in parts):
            raise DataError(
                f"derivatives of family {self.name!r} must return four arrays of shape {y.shape}, "
                "the log-likelihood and three derivatives; it returned shapes "
                f"{[part.shape for part in parts]}"
            )
        return parts

    def _called(self, what: str, function: Any, *arguments: FloatArray) -> Any:
        """What a function of the user's returns; an error of its own names it."""
        try:
            return function(*arguments)
        except Exception as error:
            raise DataError(
                f"{what} of family {self.name!r} failed: {type(error).__name__}: {error}"
            ) from error

    def _numbers(self, what: str, value: Any) -> FloatArray:
        array = np.asarray(value)
        if array.dtype.kind not in "buif":
            raise DataError(
                f"{what} of family {self.name!r} must return real numbers, not {array.dtype}"
            )
        return array.astype(float, copy=False)

    def _one(self, what: str, function: Any, *arguments: FloatArray) -> FloatArray:
        out = self._numbers(what, self._called(what, function, *arguments))
        if out.shape != arguments[0].shape:
            raise DataError(
                f"{what} of family {self.name!r} must return an array of shape "
                f"{arguments[0].shape}; it returned shape {out.shape}"
            )
        return out

    def means(self, eta: FloatArray, further: Sequence[FloatArray]) -> FloatArray:
        """Expected responses, (m,)."""
        if self.mean_of is None:
            raise DataError(
                f"family {self.name!r} was given without mean=, which fitted values need"
            )
        return self._one("mean", self.mean_of, eta, *further)

    def predictors(self, y: FloatArray) -> FloatArray:
        """Predictors to start from, (m,)."""
        return np.zeros(len(y)) if self.start_of is None else self._one("start", self.start_of, y)

    def check_start(self, y: FloatArray) -> None:
        """Refuse derivatives that are wrong, or not finite, where a search starts.

        Parameters
        ----------
        y : ndarray, (n,)
            Responses in use.

        Raises
        ------
        DataError
        """
        y = y[:: max(1, len(y) // ROWS)]
        eta, further = self.predictors(y), self._first(y)
        given = self._given(y, eta, further)
        bad = np.flatnonzero(~np.isfinite(np.add.reduce(given) + eta))
        if len(bad):
            i = bad[0]
            raise DataError(
                f"family {self.name!r}: log-likelihood and derivatives are not finite where "
                f"the search starts, at y = {y[i]:g}, eta = {eta[i]:g}: "
                f"{', '.join(f'{part[i]:g}' for part in given)}. Give start= predictors and "
                "parameters= values where they are, or leave out responses the family excludes"
            )
        self._compare(y, eta, STEP / np.sqrt(np.maximum(1.0, np.abs(given[2]))), GROSS)

    def _first(self, y: FloatArray) -> tuple[FloatArray, ...]:
        """The parameters where they start, each (m,)."""
        return tuple(np.full(len(y), value) for value in self.parameters.values())

    def check(self, y: FloatArray, etas: Sequence[float] = (-1.0, -0.3, 0.4, 1.2)) -> None:
        """Compare the derivatives with fourth-order differences.

        Parameters
        ----------
        y : array-like, (n,)
            Responses the family allows.
        etas : sequence of float
            Predictors at which to look.

        Raises
        ------
        DataError
            When one differs by more than 1e-5 of its size.
        """
        y = check_numbers(y, "y", (None,))
        if not len(y):
            raise DataError("y is empty; give responses that the family allows")
        for value in check_numbers(etas, "etas", (None,)):
            self._compare(y, np.full(len(y), value), np.full(len(y), STEP), 1e-5)

    def _compare(self, y: FloatArray, eta: FloatArray, step: FloatArray, most: float) -> None:
        """Refuse derivatives that differences at ``eta`` contradict."""
        names = ("log-likelihood", "first", "second")
        further = self._first(y)
        given = self._given(y, eta, further)
        near = {s: self._given(y, eta + s * step, further) for s in (-2, -1, 1, 2)}
        for c in range(3):
            slope = 8 * (near[1][c] - near[-1][c]) - (near[2][c] - near[-2][c])
            slope = slope / (12 * step)
            unit = (STEP / step) ** (c + 1)  # derivatives are compared in units of the steps
            off = np.abs(slope - given[c + 1]) / (unit + np.abs(slope))
            i = int(np.argmax(off))
            if not off[i] < most:
                raise DataError(
                    f"family {self.name!r}: the {('first', 'second', 'third')[c]} derivative "
                    f"is {given[c + 1][i]:.6g} at y = {y[i]:g}, eta = {eta[i]:g}, but "
                    f"differences of the {names[c]} give {slope[i]:.6g}"
                )
