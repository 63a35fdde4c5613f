"""R's functions of formulas that remember the data of the fit: poly, ns, relevel, interaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy
import scipy.linalg
from patsy import stateful_transform
from patsy.builtins import C as Boxed
from patsy.mgcv_cubic_splines import TE
from patsy.state import Standardize

from sparselmm.base.arguments import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_numbers,
    shown,
)
from sparselmm.base.exceptions import ArgumentError, DataError, FormulaError
from sparselmm.base.types import AnyArray, FloatArray
from sparselmm.design.column_types import BOOLEANS, NUMBERS, as_float, kind_of
from sparselmm.design.factors import factorize, match

ORDER = 4
"""Of cubic splines."""


class _Remembered:
    """patsy's protocol for transforms that see the data once, all rows together."""

    name = ""
    strict = True
    """Whether labels that the fit has not seen are refused."""

    def memorize_chunk(self, *args: Any, **keywords: Any) -> None:
        """Learn from the rows of the fit."""
        if not hasattr(self, "learned"):
            self.learned = self._learn(*args, **keywords)

    def memorize_finish(self) -> None:
        """Nothing is left to do."""

    def _learn(self, *args: Any, **keywords: Any) -> Any:
        raise NotImplementedError


class Poly(_Remembered):
    """Orthogonal polynomials of one variable, R's ``poly(x, degree)``.

    The columns are orthonormal over the rows of the fit and orthogonal to the constant. With
    ``raw=True`` they are the powers of x. Polynomials of new rows follow from the three-term
    recurrence ``Z[k+1] = (x - a[k]) Z[k] - b[k] Z[k-1]`` (Forsythe 1957, *J. SIAM* 5, 74-88).
    """

    def _learn(self, x: Any, degree: int = 1, raw: bool = False) -> Any:
        degree, values = check_count(degree, "poly(): degree", most=50), _numbers(x, "poly")
        if check_flag(raw, "poly(): raw"):
            return degree, None
        values = values[np.isfinite(values)]
        different = len(np.unique(values))
        if different <= degree:
            raise DataError(
                f"poly(): degree {degree} needs more than {degree} different values; there are "
                f"{different}"
            )
        unit = float(np.std(values))
        z, before = values / unit, np.zeros(len(values))
        now, centres, norms = np.ones(len(values)), [], [float(len(values))]
        for _ in range(degree):
            centres.append(float((z * now) @ now) / norms[-1])
            ratio = norms[-1] / norms[-2] if len(norms) > 1 else 0.0
            before, now = now, (z - centres[-1]) * now - ratio * before
            norms.append(float(now @ now))
        return degree, (unit, centres, norms)

    def transform(self, x: Any, degree: int = 1, raw: bool = False) -> FloatArray:
        """Columns of degree 1, 2, ..., (n, degree)."""
        degree, learned = self.learned
        values = _numbers(x, "poly")
        if learned is None:
            return np.asarray(values[:, None] ** np.arange(1, degree + 1))
        unit, centres, norms = learned
        z, before, now = values / unit, np.zeros(len(values)), np.ones(len(values))
        out = np.empty((len(values), degree))
        for k in range(degree):
            ratio = norms[k] / norms[k - 1] if k else 0.0
            before, now = now, (z - centres[k]) * now - ratio * before
            out[:, k] = now / np.sqrt(norms[k + 1])
        return out


class NaturalSpline(_Remembered):
    """Natural cubic splines, R's ``ns(x, df=, knots=, intercept=)`` of its package splines.

    B-splines whose second derivatives vanish at the boundary knots, the ends of the data, and
    which go on in straight lines beyond them.
    """

    def _learn(
        self, x: Any, df: int | None = None, knots: Any = None, intercept: bool = False,
        boundary_knots: Any = None,
    ) -> Any:  # fmt: skip
        values = _numbers(x, "ns")
        values = values[np.isfinite(values)]
        intercept = check_flag(intercept, "ns(): intercept")
        ends = [values.min(), values.max()] if boundary_knots is None else boundary_knots
        low, high = sorted(check_numbers(ends, "ns(): boundary_knots", (2,)))
        if not low < high:
            raise DataError("ns(): the variable has one value alone")
        if knots is None:
            df = check_count(1 + intercept if df is None else df, "ns(): df", 1 + intercept)
            inside = values[(values >= low) & (values <= high)]
            at = np.linspace(0.0, 1.0, df - intercept + 1)[1:-1]
            inner = np.quantile(inside, at) if len(at) else np.zeros(0)
        else:
            inner = np.sort(np.atleast_1d(check_numbers(knots, "ns(): knots")))
        if np.any((inner <= low) | (inner >= high)) or len(np.unique(inner)) < len(inner):
            raise DataError(
                f"ns(): knots at {', '.join(f'{k:g}' for k in inner)} must differ and lie between "
                f"{low:g} and {high:g}; take a smaller df"
            )
        whole = np.concatenate([np.repeat(low, ORDER), inner, np.repeat(high, ORDER)])
        first = 0 if intercept else 1
        bent = _splines(whole, np.array([low, high]), 2)[:, first:]
        turn = scipy.linalg.qr(bent.T)[0][:, 2:]
        return whole, first, turn

    def transform(self, x: Any, *args: Any, **keywords: Any) -> FloatArray:
        """The basis, (n, df)."""
        whole, first, turn = self.learned
        values, (low, high) = _numbers(x, "ns"), (whole[0], whole[-1])
        ends = np.clip(values, low, high)
        inside = np.nan_to_num(ends, nan=low)
        out = _splines(whole, inside, 0)
        beyond = values - ends
        out = out + beyond[:, None] * _splines(whole, inside, 1)  # NaN stays NaN
        return np.asarray(out[:, first:] @ turn)


class Relevel(_Remembered):
    """A factor with another first level, R's ``relevel(f, ref="b")``."""

    def _learn(self, x: Any, ref: Any) -> list[Any]:
        labels = factorize(_column(x)).labels.tolist()
        found = [own for own in labels if own == ref and isinstance(own, bool) == _is_truth(ref)]
        levels = f"levels of {_named(x)}"
        chosen = found[0] if found else check_choice(ref, "relevel(): ref", labels, "level", levels)
        return [chosen, *(label for label in labels if label != chosen)]

    def transform(self, x: Any, ref: Any) -> pd.Series | pd.Categorical:
        """Categories with the reference first."""
        return _coded(_column(x), self.learned, "relevel" if self.strict else "", _index([x]))


class Interaction(_Remembered):
    """One factor of the combinations of several, R's ``interaction(a, b)``.

    Labels are joined by a dot and in R's order, the first factor varying fastest; combinations that
    do not occur are no levels.
    """

    def _learn(self, *factors: Any) -> list[str]:
        if len(factors) < 2:
            raise FormulaError("interaction() takes two factors or more: interaction(a, b)")
        parts = [factorize(_column(factor)) for factor in factors]
        codes = np.stack([part.codes for part in reversed(parts)])  # the last varies slowest
        seen = np.unique(codes[:, (codes >= 0).all(axis=0)], axis=1)
        labels = [[_text(label) for label in part.labels] for part in parts]
        rows = seen[::-1].T
        joined = [".".join(labels[j][c] for j, c in enumerate(row)) for row in rows]
        twice = [label for label, count in Counter(joined).items() if count > 1]
        if twice:
            raise DataError(
                f"interaction(): several combinations would be called {twice[0]!r}; give the "
                "factors labels without dots"
            )
        return joined

    def transform(self, *factors: Any) -> pd.Series | pd.Categorical:
        """Categories ``"a.b"``."""
        columns = [_column(factor) for factor in factors]
        parts = [factorize(column) for column in columns]
        absent = np.any([part.codes < 0 for part in parts], axis=0)
        texts = [
            np.array([*map(_text, part.labels), ""], dtype=object)[part.codes] for part in parts
        ]
        joined = texts[0]
        for text in texts[1:]:
            joined = joined + "." + text
        joined[absent] = None
        function = "interaction" if self.strict else ""
        return _coded(pd.Series(joined), self.learned, function, _index(factors))


def _numbers(x: Any, name: str) -> FloatArray:
    values = pd.Series(x)
    if kind_of(values) not in (NUMBERS, BOOLEANS):
        raise FormulaError(f"{name}() is of numbers; it was given {kind_of(values)}")
    return np.asarray(as_float(values))


def _splines(knots: FloatArray, at: FloatArray, derivative: int) -> FloatArray:
    """Cubic B-splines or their derivatives at some points between the end knots, (n, m)."""
    every = scipy.interpolate.BSpline(knots, np.eye(len(knots) - ORDER), ORDER - 1)
    return np.asarray(every(at, nu=derivative))


def _is_truth(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _column(x: Any) -> pd.Series:
    """Labels, out of the box that ``C(x)`` puts them in."""
    inner = _unboxed(x)
    return inner if isinstance(inner, pd.Series) else pd.Series(inner)


def _unboxed(x: Any) -> Any:
    return x.data if isinstance(x, type(Boxed([0]))) else x


def _index(factors: Sequence[Any]) -> pd.Index | None:
    """Labels of the rows of the first factor that has some."""
    orders = [x.index for x in map(_unboxed, factors) if isinstance(x, pd.Series)]
    if any(not index.equals(orders[0]) for index in orders[1:]):
        raise DataError("interaction(): the factors have different indices; make them columns")
    return orders[0] if orders else None


def _named(x: Any) -> str:
    return f"{getattr(_column(x), 'name', None) or 'the factor'}: "


def _text(label: Any) -> str:
    whole = isinstance(label, (float, np.floating)) and float(label).is_integer()
    return str(int(label)) if whole else str(label)


def _coded(
    column: pd.Series, labels: list[Any], function: str, index: pd.Index | None
) -> pd.Series | pd.Categorical:
    """Labels as categories of the fit, of rows with an index a Series.

    Other labels are refused in the name of the ``function``; without one they come last.
    """
    known = pd.Index(labels)
    codes: AnyArray = match(known, column)
    new = np.asarray(column.notna()) & (codes < 0)
    if new.any() and not function:
        known = pd.Index([*labels, *factorize(column[new]).labels])
        codes = match(known, column)
    elif new.any():
        label = shown(column.iloc[int(np.argmax(new))])
        raise DataError(
            f"{function}(): the fit has not seen the label {label}; known are "
            f"{', '.join(map(shown, labels[:8]))}{', ...' if len(labels) > 8 else ''}"
        )
    values = pd.Categorical.from_codes(codes, known)
    return values if index is None else pd.Series(values, index=index)


class Scale(Standardize):  # type: ignore[misc]
    """patsy's ``scale(x, center=True, rescale=True, ddof=0)`` under R's names, too.

    ``scale=`` is ``rescale``; numbers in place of True are subtracted and divided by, as in R.
    """

    def memorize_chunk(
        self, x: Any, center: Any = True, rescale: Any = True, ddof: int = 0, *, scale: Any = None
    ) -> None:
        """Learn from some rows."""
        super().memorize_chunk(x)

    def transform(
        self, x: Any, center: Any = True, rescale: Any = True, ddof: int = 0, *, scale: Any = None
    ) -> Any:
        """The variable less its mean, divided by its standard deviation."""
        rescale = rescale if scale is None else scale
        (centred, by), (scaled, size) = _amount(center, "center"), _amount(rescale, "scale")
        out = super().transform(x, center=centred, rescale=scaled, ddof=ddof)
        return (out - by) / size if (by, size) != (0.0, 1.0) else out


def _amount(given: Any, name: str) -> tuple[bool, float]:
    """Whether the rows tell how much, and how much beyond that."""
    if isinstance(given, (bool, np.bool_)) or given is None:
        return bool(given), 1.0 if name == "scale" else 0.0
    wanted = "True, False or a number"
    amount = check_number(given, f"scale(): {name}", wanted)
    if name == "scale" and not amount > 0:
        raise ArgumentError(f"scale(): scale must be a positive number, got {shown(given)}")
    return False, amount


class Tensor(TE):  # type: ignore[misc]
    """patsy's tensor products, of smooths alone: those of covariates are interactions."""

    def memorize_chunk(self, *args: Any, **keywords: Any) -> None:
        """Learn from some rows."""
        if any(np.ndim(arg) < 2 for arg in args):
            raise FormulaError("te() takes smooths: write te(cr(x, df=4), cr(z, df=4))")
        super().memorize_chunk(*args, **keywords)


def let_through(state: Mapping[str, Any]) -> Any:
    """Of an expression that names groups, a state whose transforms refuse no new labels."""
    for transform in state["transforms"].values():
        if isinstance(transform, _Remembered):
            transform.strict = False
    return state


CLASSES = (Poly, NaturalSpline, Relevel, Interaction, Scale, Tensor)

TRANSFORMS: dict[str, Callable[..., Any]] = {
    name: stateful_transform(kind)
    for name, kind in zip(
        ("poly", "ns", "relevel", "interaction", "scale", "te"), CLASSES, strict=True
    )
}
"""Functions a formula may call; each remembers what it learned for new data."""
