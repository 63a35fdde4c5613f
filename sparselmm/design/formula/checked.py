"""Values of a formula's expressions, checked before patsy looks at them; patsy's missing values."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import numpy as np
import pandas as pd
from patsy import EvalEnvironment
from patsy.builtins import C as Boxed
from patsy.eval import EvalFactor
from patsy.missing import NAAction

from sparselmm.base.exceptions import DataError
from sparselmm.base.types import AnyArray, BoolArray
from sparselmm.design.column_types import (
    BOOLEANS,
    COMPLEX,
    NESTED,
    NOTHING,
    NUMBERS,
    TEXT,
    booleans,
    kind_of,
    numbers,
)
from sparselmm.design.formula.arithmetic import GUARDS, guarded
from sparselmm.design.formula.expressions import plain_column
from sparselmm.design.formula.tokens import unquoted
from sparselmm.design.sources.recognised import values_of
from sparselmm.design.validate import aligned

LEARNED: ContextVar[Mapping[str, Mapping[str, Any]]] = ContextVar("LEARNED", default={})  # noqa: B039
"""Expression to patsy's state of it, where its transforms have learned from other rows."""


_BOX = type(Boxed([0]))


class Columns(dict[str, Any]):
    """Columns by name, and the labels of their rows."""

    index: pd.Index | None = None

    @classmethod
    def of(cls, columns: Mapping[str, Any], index: pd.Index) -> Columns:
        """Columns of some rows."""
        out = cls(columns)
        out.index = index
        return out


def in_row_order(value: Any, index: pd.Index | None, code: str) -> Any:
    """The value of an expression, a variable from outside the data in the order of their rows.

    Raises
    ------
    DataError
        When a Series has the labels of other rows, so that its position says nothing.
    """
    if isinstance(value, _BOX):
        data = in_row_order(value.data, index, code)
        return value if data is value.data else _BOX(data, value.contrast, value.levels)
    value = values_of(value)
    if index is None or not isinstance(value, (pd.Series, pd.DataFrame)):
        return value
    if len(value) != len(index) or value.index.equals(index):
        return value
    if plain_column(code) is not None:
        return aligned(value, index, repr(code))
    raise DataError(
        f"{code!r} in the formula gives a {type(value).__name__} with another index than the data, "
        "so that its values cannot be matched with the rows; make it a column of the data, or use "
        "arrays, .to_numpy(), if these are in the same order"
    )


class Expression(EvalFactor):  # type: ignore[misc]
    """patsy's factor with exact arithmetic, whose values are numbers, booleans or labels."""

    def name(self) -> str:
        """What designs call it: as it was written."""
        return unquoted(self.code)

    def memorize_passes_needed(self, state: dict[str, Any], eval_env: Any) -> int:
        """Passes over the rows at hand that its transforms learn in."""
        known = LEARNED.get().get(self.code)
        if known is None:
            return int(super().memorize_passes_needed(state, eval_env))
        state.update(known)
        return 0

    def _eval(self, code: str, memorize_state: Any, data: Any) -> Any:
        safe = guarded(code)
        names = data if safe == code else ChainMap(GUARDS, data)  # type: ignore[arg-type]
        return super()._eval(safe, memorize_state, names)

    def eval(self, memorize_state: Any, data: Any) -> Any:
        """Value on some rows."""
        value = super().eval(memorize_state, data)
        return checked(in_row_order(value, getattr(data, "index", None), self.code), self.code)

    def learned(self, env: EvalEnvironment, columns: Mapping[str, Any]) -> dict[str, Any]:
        """State of its transforms, which learn from some rows."""
        state: dict[str, Any] = {}
        for step in range(self.memorize_passes_needed(state, env)):
            self.memorize_chunk(state, step, columns)
            self.memorize_finish(state, step)
        return state

    def value(self, state: dict[str, Any], columns: Mapping[str, Any]) -> Any:
        """Value on some rows, of any kind."""
        return super().eval(state, columns)


def checked(value: Any, code: str) -> Any:
    """The value of an expression as patsy understands it.

    Raises
    ------
    DataError
        When it is neither numbers nor booleans nor labels: dates, complex numbers, lists.
    """
    dtype = getattr(value, "dtype", None)
    if dtype is None or isinstance(dtype, pd.CategoricalDtype):
        return value
    if isinstance(dtype, np.dtype) and (dtype.kind in "fiub" or np.ndim(value) == 0):
        return value
    flat = np.asarray(value).ravel() if np.ndim(value) > 1 else value
    column = flat if isinstance(flat, pd.Series) else pd.Series(flat)
    kind = kind_of(column)
    if kind not in (NUMBERS, NOTHING, BOOLEANS, TEXT):
        hint = "change it to give numbers"
        if kind not in (COMPLEX, NESTED):
            hint += ", or put C(...) around it for one effect of each value"
        raise DataError(
            f"{code!r} in the formula gives {kind} (dtype {dtype}), which are no numbers and no "
            f"labels; {hint}"
        )
    if kind in (NUMBERS, NOTHING):
        column = numbers(column)
        return column if np.ndim(value) == 1 else column.to_numpy().reshape(np.shape(value))
    if np.ndim(value) > 1:
        return value
    return booleans(column) if kind == BOOLEANS else column.astype(object)


class Missing(NAAction):  # type: ignore[misc]
    """patsy's rule for missing values with pandas' notion of them: an error."""

    def __init__(self) -> None:
        super().__init__(on_NA="raise")

    def is_numerical_NA(self, arr: Any) -> BoolArray:
        """Rows with NaN, without the cost of pandas in looking for them."""
        return np.asarray(super().is_numerical_NA(np.asarray(arr)))

    def is_categorical_NA(self, obj: Any) -> bool:
        """Whether a label is missing."""
        return super().is_categorical_NA(obj) or obj is pd.NA or obj is pd.NaT


class Kept(Missing):
    """Rows with missing labels are kept, at some level, and remembered.

    Attributes
    ----------
    absent : ndarray of bool, (n,)
        Rows with a missing label.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.absent = np.zeros(n, dtype=bool)

    def is_numerical_NA(self, arr: Any) -> BoolArray:
        """None: NaN stays NaN in the design."""
        return np.zeros(len(arr), dtype=bool)

    def handle_NA(self, values: Any, is_NAs: Any, origins: Any) -> list[AnyArray]:
        """The values, level 0 for a missing label."""
        out = []
        for value, missing in zip(values, is_NAs, strict=True):
            if missing.any():
                self.absent |= missing
                value = np.where(missing, 0, value)
            out.append(value)
        return out
