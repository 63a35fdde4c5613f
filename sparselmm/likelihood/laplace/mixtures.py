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
from sparselmm.likelihood.laplace.jets import Jet

STEP = 1e-3
"""Step of the fourth-order differences by a user's parameters."""


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
        ``derivatives(y, eta, *parameters)`` returns four arrays (n,): the log-likelihood of every
        row and its first three derivatives in ``eta``. Parameters are arrays (n,).
    parameters : mapping, optional
        Names of further parameters and their start values, on a scale without bounds. Derivatives
        by them are taken by fourth-order differences.
    name : str
        For tables.
    mean : callable, optional
        ``mean(eta, *parameters)``, the expected response, (n,); needed for fitted values.
    start : callable, optional
        ``start(y)``: predictors to start from, (n,). Default zero.

    Raises
    ------
    DataError
        When `check` finds that a derivative is not that of the log-likelihood.

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
        try:
            given = tuple(np.asarray(part, dtype=float) for part in self.derivatives(
                y, eta, *further))  # fmt: skip
        except Exception as error:
            raise DataError(
                f"derivatives of family {self.name!r} failed: {type(error).__name__}: {error}"
            ) from error
        if len(given) != 4 or any(part.shape != y.shape for part in given):
            raise DataError(
                f"derivatives of family {self.name!r} must return four arrays of shape {y.shape}, "
                "the log-likelihood and three derivatives; it returned shapes "
                f"{[part.shape for part in given]}"
            )
        return given

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
        further = tuple(np.full(len(y), v) for v in self.parameters.values())
        names = ("log-likelihood", "first", "second", "third derivative")
        for value in check_numbers(etas, "etas", (None,)):
            eta = np.full(len(y), value)
            given = self._given(y, eta, further)
            near = {s: self._given(y, eta + s * STEP, further) for s in (-2, -1, 1, 2)}
            for c in range(3):
                slope = 8 * (near[1][c] - near[-1][c]) - (near[2][c] - near[-2][c])
                slope = slope / (12 * STEP)
                off = np.abs(slope - given[c + 1]) / (1.0 + np.abs(slope))
                i = int(np.argmax(off))
                if not off[i] < 1e-5:
                    raise DataError(
                        f"family {self.name!r}: the {('first', 'second', 'third')[c]} derivative "
                        f"is {given[c + 1][i]:.6g} at y = {y[i]:g}, eta = {value:g}, but "
                        f"differences of the {names[c]} give {slope[i]:.6g}"
                    )
