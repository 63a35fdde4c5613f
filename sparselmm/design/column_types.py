"""What a column holds, and the gate it passes before an expression of a formula sees it.

patsy knows numbers, booleans and labels, and as missing it knows NaN and None. Columns of any dtype
are read here first: numbers become int64 or float64, with NaN where one is missing, and what cannot
be a covariate (dates, complex numbers, lists) is refused by name instead of being taken for labels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sparselmm.base.arguments import unmasked
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import AnyArray, FloatArray

NUMBERS, BOOLEANS, TEXT, CATEGORIES = "numbers", "booleans", "text", "categories"
DATES, DURATIONS, PERIODS, INTERVALS = "dates", "durations", "periods", "intervals"
TIMES, COMPLEX, MIXED = "times of day", "complex numbers", "numbers and text"
NESTED, OBJECTS, NOTHING = "lists or other containers", "Python objects", "only missing values"

LABELS = " as labels"

_NUMPY = dict(zip("fiubMmcUS", [NUMBERS] * 3 + [BOOLEANS, DATES, DURATIONS, COMPLEX, TEXT, TEXT],
                  strict=True))  # fmt: skip
_ARROW = {  # how the names of Arrow's types begin
    "timestamp": DATES, "date": DATES, "duration": DURATIONS, "time": TIMES, "decimal": NUMBERS,
    "dictionary": CATEGORIES, "list": NESTED, "large_list": NESTED, "fixed_size_list": NESTED,
    "struct": NESTED, "map": NESTED, "null": NOTHING, "bool": BOOLEANS, "string": TEXT,
    "large_string": TEXT, "binary": TEXT, "large_binary": TEXT, "fixed_size_binary": TEXT,
}  # fmt: skip
_INFERRED = {  # what pandas.api.types.infer_dtype says of objects
    "string": TEXT, "bytes": TEXT, "floating": NUMBERS, "integer": NUMBERS, "decimal": NUMBERS,
    "mixed-integer-float": NUMBERS, "boolean": BOOLEANS, "complex": COMPLEX, "empty": NOTHING,
    "datetime64": DATES, "datetime": DATES, "date": DATES, "timedelta64": DURATIONS,
    "timedelta": DURATIONS, "time": TIMES, "period": PERIODS, "interval": INTERVALS,
    "categorical": CATEGORIES,
}  # fmt: skip
_AS_NUMBER = {
    DATES: "make a column of numbers, for example (data[{name!r}] - "
    "pd.Timestamp('2020-01-01')).dt.days",
    DURATIONS: "make a column of numbers, for example data[{name!r}].dt.total_seconds()",
    PERIODS: "make a column of numbers, for example data[{name!r}].dt.year",
    INTERVALS: "make a column of numbers, for example data[{name!r}].array.mid",
    TIMES: "make a column of numbers, such as the minutes since midnight",
    COMPLEX: "use its real part, its imaginary part or np.abs(...), as a column of its own",
    MIXED: "make it numbers with pd.to_numeric(data[{name!r}], errors='coerce'), or labels with "
    ".astype(str)",
    OBJECTS: "make it numbers, or labels with .astype(str)",
    NESTED: "keep one value per row",
}
_LABELLED = (DATES, DURATIONS, PERIODS, INTERVALS, TIMES)
_CONVERSIONS = {
    NUMBERS: "pd.to_numeric(...)",
    BOOLEANS: ".astype(bool)",
    TEXT: ".astype(str)",
    DATES: "pd.to_datetime(...)",
    DURATIONS: "pd.to_timedelta(...)",
}


def kind_of(column: pd.Series | pd.Index) -> str:
    """What a column holds: one of the words above, of its values that are not missing."""
    dtype: Any = column.dtype
    if isinstance(dtype, pd.SparseDtype):
        dtype = dtype.subtype
    if isinstance(dtype, np.dtype):
        return _NUMPY.get(dtype.kind) or _object_kind(column)
    if isinstance(dtype, pd.CategoricalDtype):
        return CATEGORIES
    if isinstance(dtype, pd.ArrowDtype):
        name = str(dtype.pyarrow_dtype)
        found = next((kind for start, kind in _ARROW.items() if name.startswith(start)), "")
        return found or NUMBERS
    for kind, types in ((DATES, pd.DatetimeTZDtype), (PERIODS, pd.PeriodDtype),
                        (INTERVALS, pd.IntervalDtype), (TEXT, pd.StringDtype)):  # fmt: skip
        if isinstance(dtype, types):
            return kind
    if pd.api.types.is_bool_dtype(dtype):
        return BOOLEANS
    return NUMBERS if pd.api.types.is_numeric_dtype(dtype) else OBJECTS


def _object_kind(column: pd.Series | pd.Index) -> str:
    inferred = pd.api.types.infer_dtype(column, skipna=True)
    if inferred in _INFERRED:
        return _INFERRED[inferred]
    types = set(map(type, column[column.notna()]))
    if not types:
        return NOTHING
    if types <= {bool, np.bool_}:
        return BOOLEANS
    if any(kind.__hash__ is None for kind in types):
        return NESTED
    if all(issubclass(kind, Number) and not issubclass(kind, bool) for kind in types):
        unreal = any(issubclass(kind, (complex, np.complexfloating)) for kind in types)
        return COMPLEX if unreal else NUMBERS
    return MIXED if all(issubclass(kind, (Number, str)) for kind in types) else OBJECTS


def label_kind(column: pd.Series) -> str:
    """As :func:`kind_of`, of a Categorical that of its categories."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return kind_of(column.dtype.categories)
    return kind_of(column)


def refuse(column: pd.Series, name: str, kind: str, uses: Collection[str]) -> None:
    """Refuse a column that is no covariate where a formula takes it for one.

    Parameters
    ----------
    column : Series
        The column.
    name : str
        Its name.
    kind : str
        What `kind_of` says.
    uses : collection of str
        Wrappings of the name in the formulas: ``""`` for the name alone, ``"C"``, ``"factor"`` and
        ``"coded"`` for labels, ``"other"`` for any other expression. Empty for a grouping factor.
    """
    bare, labels = "" in uses, bool({"C", "factor", "coded"} & set(uses))
    if kind == NESTED or (kind == MIXED and (bare or labels)) or (bare and kind in _AS_NUMBER):
        hint = _AS_NUMBER[kind].format(name=name)
        if kind in _LABELLED:
            hint += f"; or write C({name}) for one effect of each"
        raise DataError(
            f"column {name!r} holds {kind} (dtype {column.dtype}), which are no numbers and no "
            f"labels; {hint}"
        )


def for_patsy(column: pd.Series, kind: str) -> pd.Series:
    """A column as patsy understands it; kinds that only expressions use stay as they are."""
    if kind in (NUMBERS, NOTHING):
        return numbers(column)
    if kind == BOOLEANS:
        return booleans(column)
    if kind == CATEGORIES and not isinstance(column.dtype, pd.CategoricalDtype):
        return pd.Series(pd.Categorical(column.astype(object)), index=column.index)
    return column


def booleans(column: pd.Series) -> pd.Series:
    """True and False as NumPy's, or as objects with None where one is missing."""
    if column.dtype == bool:
        return column
    absent = column.isna()
    if not absent.any():
        return pd.Series(np.asarray(column, dtype=bool), index=column.index)
    return column.astype(object).mask(absent, None)


def numbers(column: pd.Series) -> pd.Series:
    """Numbers as int64 or float64, NaN where one is missing; whole numbers stay exact."""
    if column.dtype in (np.dtype(np.int64), np.dtype(np.float64)):
        return column
    values = _number_array(column)
    native = isinstance(column.dtype, np.dtype) and values.dtype == column.dtype
    return column if native else pd.Series(values, index=column.index)


def _number_array(column: pd.Series) -> AnyArray:
    dtype: Any = column.dtype
    if isinstance(dtype, pd.SparseDtype):
        return wide(np.asarray(column.sparse.to_dense()))
    if isinstance(dtype, np.dtype) and dtype.kind != "O":
        return wide(column.to_numpy())
    objects = pd.api.types.is_object_dtype(dtype) or kind_of(column) == NOTHING
    whole = pd.api.types.infer_dtype(column, skipna=False) == "integer"
    if (whole or pd.api.types.is_integer_dtype(dtype)) and not column.isna().any():
        return _whole_array(column)
    if objects:
        return np.array([_float(v) for v in column.astype(object)], dtype=np.float64)
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))


def _whole_array(column: pd.Series) -> AnyArray:
    try:
        return np.array(column.to_list(), dtype=np.int64)
    except OverflowError:
        return np.array([_float(v) for v in column], dtype=np.float64)


def _float(value: Any) -> float:
    if pd.isna(value):
        return np.nan
    try:
        return float(value)
    except OverflowError:  # an integer beyond 1e308
        return np.inf if value > 0 else -np.inf


def wide(values: AnyArray) -> AnyArray:
    """Numbers in 64 bits and native byte order; the same array when they are."""
    if values.dtype.kind == "b":
        return values
    if values.dtype.kind == "f":
        return values.astype(np.float64, copy=False)
    largest = np.iinfo(np.int64).max
    if values.dtype.kind == "u" and values.dtype.itemsize == 8 and values.max(initial=0) > largest:
        return values.astype(np.uint64, copy=False)
    return values.astype(np.int64, copy=False)


def check_numeric(values: Any, name: str, booleans_too: bool = False) -> None:
    """Refuse strings, booleans, dates and other non-numbers in the response and the like."""
    kind = kind_of(values if isinstance(values, pd.Series) else pd.Series(values))
    if kind == BOOLEANS and not booleans_too:
        raise DataError(f"{name} is boolean; convert it, for example with .astype(float)")
    if kind not in (NUMBERS, BOOLEANS, NOTHING):
        raise DataError(
            f"{name} must be numeric but has dtype {values.dtype} and holds {kind}; convert it, "
            f"for example with pd.to_numeric(...)"
        )


def as_float(values: Any) -> FloatArray:
    """A numeric column as float64, without a copy when it is; what is missing becomes NaN."""
    if isinstance(getattr(values, "dtype", None), np.dtype) and values.dtype.kind in "fiub":
        array = values.to_numpy() if isinstance(values, pd.Series) else values
        return np.asarray(array, dtype=np.float64)
    return np.asarray(numbers(pd.Series(values)), dtype=np.float64)


def as_array(values: Any, argument: str) -> AnyArray:
    """Array-like values as an array, never one that holds a whole matrix as its only object."""
    if sp.issparse(values):
        raise DataError(
            f"{argument} is a sparse matrix; it must be dense: pass {argument}.toarray(). Sparse "
            "columns of random effects go to z_terms"
        )
    try:
        return np.asarray(unmasked(values))
    except (TypeError, ValueError) as error:
        raise DataError(f"{argument} must be an array of numbers: {error}") from error


def float_matrix(values: Any, argument: str) -> FloatArray:
    """Numbers in one or two dimensions as float64, NaN where one is missing.

    Raises
    ------
    DataError
        When there is anything else, naming the column where columns have names.
    """
    if isinstance(values, pd.Series):
        check_numeric(values, argument, booleans_too=True)
        return as_float(values)
    if isinstance(values, pd.DataFrame):
        return _frame_matrix(values, argument)
    array = as_array(values, argument)
    if array.dtype.kind in "fiub":
        return array.astype(np.float64, copy=False)
    check_numeric(pd.Series(array.ravel()), argument, booleans_too=True)
    return as_float(pd.Series(array.ravel())).reshape(array.shape)


def _frame_matrix(frame: pd.DataFrame, argument: str) -> FloatArray:
    for position, name in enumerate(frame.columns):
        check_numeric(frame.iloc[:, position], f"{argument} column {str(name)!r}", True)
    if all(isinstance(d, np.dtype) and d.kind in "fiub" for d in frame.dtypes):
        return frame.to_numpy(dtype=np.float64)
    columns = [as_float(frame.iloc[:, j]) for j in range(frame.shape[1])]
    return np.column_stack(columns) if columns else np.empty((len(frame), 0))


def kinds_of(
    given: Callable[[str], pd.Series], ready: Mapping[str, pd.Series]
) -> dict[str, str]:  # fmt: skip
    """What columns hold; of those made ready as labels what the labels are, with `LABELS`.

    ``given`` is the column as it was by its name.
    """
    return {
        name: label_kind(given(name)) + LABELS
        if isinstance(column.dtype, pd.CategoricalDtype)
        else kind_of(column)
        for name, column in ready.items()
    }


def without_dtype(frame: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """The frame with those columns that hold no value at all as objects: a dtype says nothing."""
    empty = [n for n in names if len(frame) and frame[n].isna().all()]
    nothing = pd.Series(None, index=frame.index, dtype=object)
    return frame.assign(**dict.fromkeys(empty, nothing)) if empty else frame


def check_kinds(frame: pd.DataFrame, known: Mapping[str, str]) -> None:
    """Refuse columns of new data that hold something else than at the fit.

    Parameters
    ----------
    frame : DataFrame
        New data.
    known : mapping
        What each column held, as `kinds_of` says.
    """
    for name, was in known.items():
        column = frame[name]
        kind = was.removesuffix(LABELS)
        now = kind_of(column) if kind == was else label_kind(column)
        if now not in (kind, NOTHING):
            hint = f", for example with {_CONVERSIONS[kind]}" if kind in _CONVERSIONS else ""
            raise DataError(
                f"column {name!r} held {was} at the fit and holds {now} (dtype {column.dtype}) in "
                f"the new data; convert it{hint}"
            )
