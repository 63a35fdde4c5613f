"""Arrow tables as pandas frames: numbers without a copy, labels exactly, nothing cast on the way.

Whole numbers and booleans with missing values become pandas' nullable ones, not floats; strings
pandas' strings on Arrow's memory; dictionaries Categoricals in the order of their values, but for
those of polars' Categorical, whose order is that in which the process met them: they are strings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.exceptions import DataError
from sparselmm.design.sources.optional import package
from sparselmm.design.sources.text import arrow_text, categorical, differ, united_text

SAFE_DIGITS = 15
"""Decimal digits that any double keeps."""

EXACT = 2**53
"""Whole numbers up to here are doubles."""


UNORDERED = b"_PL_CATEGORICAL"
"""How the metadata of polars' Categorical begins."""


def table_of(stream: Any, what: str) -> Any:
    """A ``pyarrow.Table`` of whatever Arrow can read."""
    pa = package("pyarrow", what)
    try:
        return pa.table(stream)
    except pa.ArrowException as error:
        raise DataError(f"{what} cannot be read through Arrow: {error}") from error


Dictionaries = dict[str, tuple[Any, Any]]
"""Of columns the Arrow dictionary met last, and its labels as an Index; None if they are none."""


def frame_of(table: Any, known: Dictionaries | None = None) -> pd.DataFrame:
    """A frame of a table or record batch; its rows are numbered.

    Parameters
    ----------
    table : pyarrow.Table or RecordBatch
    known : dict, optional
        Dictionaries met before, whose labels are used again; those met now are put there.

    Raises
    ------
    DataError
        When a name occurs twice, or a column holds what has no meaning in a model.
    """
    names = table.schema.names
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"the data have several columns called {name!r}; keep one")
    columns = {}
    for field in table.schema:
        values = table.column(field.name)
        if any(key.startswith(UNORDERED) for key in field.metadata or ()):
            values = _decoded(values)
        columns[field.name] = column_of(values, field.name, known)
    return pd.DataFrame(columns, index=pd.RangeIndex(table.num_rows), copy=False)


def column_of(values: Any, name: str, known: Dictionaries | None = None) -> Any:
    """One column, (n,), of an Arrow array or chunked array."""
    pa = package("pyarrow", "an Arrow column")
    values = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    values = _plain(values)
    kind, types = values.type, pa.types
    if types.is_floating(kind) or (types.is_integer(kind) and not values.null_count):
        return _numbers(values)
    if types.is_dictionary(kind):
        return _categorical(values, name, {} if known is None else known)
    if types.is_string(kind) or types.is_large_string(kind):
        return values.to_pandas(types_mapper=lambda _: pd.StringDtype("pyarrow"))
    if types.is_integer(kind) or types.is_boolean(kind):
        return values.to_pandas(types_mapper=_nullable if values.null_count else None)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        raise DataError(
            f"column {name!r} holds bytes ({kind}), which are no numbers and no labels; decode "
            "them to text, or leave the column out"
        )
    if types.is_interval(kind):
        return _durations(values, name)
    if types.is_decimal(kind):
        _check_decimals(values, name)
    return values.to_pandas()


def _durations(values: Any, name: str) -> pd.Series:
    """Intervals of days and nanoseconds, as DuckDB has them, as durations."""
    fields = np.dtype([("months", "i4"), ("days", "i4"), ("nanoseconds", "i8")])
    parts = [
        np.frombuffer(chunk.buffers()[1], fields)[chunk.offset : chunk.offset + len(chunk)]
        for chunk in values.chunks
        if len(chunk)
    ]
    found = np.concatenate([np.zeros(0, fields), *parts])
    absent = values.is_null().to_numpy()
    if found["months"][~absent].any():
        raise DataError(
            f"column {name!r} holds intervals of months or years, which are not of one length; "
            "make them days or text"
        )
    lengths = found["days"] * np.int64(86_400_000_000_000) + found["nanoseconds"]
    return pd.Series(lengths.view("m8[ns]")).mask(absent)


def _nullable(kind: Any) -> Any:
    """Pandas' dtype for whole numbers or booleans of which some are missing."""
    name = str(kind)
    if name == "bool":
        return pd.BooleanDtype()
    return pd.api.types.pandas_dtype(name.replace("ui", "UI").replace("int", "Int"))


def _plain(values: Any) -> Any:
    """Without wrappings that mean nothing here: extensions, runs, views."""
    pa = package("pyarrow", "an Arrow column")
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(pa.chunked_array([c.storage for c in values.chunks], kind.storage_type))
    if pa.types.is_run_end_encoded(kind):
        compute = package("pyarrow.compute", "an Arrow column")
        chunks = [compute.run_end_decode(chunk) for chunk in values.chunks]
        return _plain(pa.chunked_array(chunks, kind.value_type))
    if kind == pa.string_view():
        return values.cast(pa.large_string())
    return values.cast(pa.large_binary()) if kind == pa.binary_view() else values


def _numbers(values: Any) -> Any:
    if values.num_chunks == 1 and not values.null_count:
        return values.chunk(0).to_numpy()
    return values.to_numpy()


def _categorical(values: Any, name: str, known: Dictionaries) -> Any:
    """Codes and categories of a dictionary; plain values where it repeats or misses some."""
    pa = package("pyarrow", "an Arrow column")
    if not values.num_chunks:
        values = pa.chunked_array([pa.array([], values.type)])
    whole = values.unify_dictionaries().combine_chunks()
    chunk = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    labels = _labels(chunk.dictionary, name, known)
    if labels is None:
        return column_of(_decoded(chunk), name)
    codes = np.asarray(chunk.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False))
    return categorical(codes, labels, bool(chunk.type.ordered))


def _labels(dictionary: Any, name: str, known: Dictionaries) -> pd.Index | None:
    """A dictionary as labels, the same object for the same; None where one repeats or misses."""
    before, labels = known.get(name, (None, None))
    if before is None or not before.equals(dictionary):
        labels = pd.Index(pd.Series(column_of(dictionary, name)))
        text = arrow_text(labels)
        if dictionary.null_count or not (labels.is_unique if text is None else differ(text)):
            labels = None
        known[name] = dictionary, labels
    return labels


def _decoded(values: Any) -> Any:
    """A column without its dictionary."""
    pa = package("pyarrow", "an Arrow column")
    values = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    chunks = [_plain(pa.chunked_array([c.dictionary])).take(c.indices) for c in values.chunks]
    if not chunks:
        return _plain(pa.chunked_array([], values.type.value_type))
    return pa.chunked_array([piece for chunk in chunks for piece in chunk.chunks])


def _check_decimals(values: Any, name: str) -> None:
    """Refuse decimals that are no numbers of sixteen digits."""
    if values.type.precision <= SAFE_DIGITS:
        return
    for value in values.drop_null().unique().to_pylist():
        digits = value.normalize().as_tuple().digits
        if len(digits) > SAFE_DIGITS:
            raise DataError(
                f"column {name!r} holds decimals ({values.type}) with more digits than numbers "
                f"have, such as {value}; cast it to float64, or to text where it is a label"
            )


def joined(frames: Iterable[pd.DataFrame], what: str) -> pd.DataFrame:
    """Frames one below the other, rows numbered anew; labels of Categoricals are put together.

    Raises
    ------
    DataError
        When their columns differ.
    """
    parts = list(frames)
    if not parts:
        raise DataError(f"{what} gave no frame at all")
    for number, part in enumerate(parts[1:], start=1):
        if list(part.columns) != list(parts[0].columns):
            raise DataError(
                f"{what}: frame {number} has the columns {list(part.columns)}, the first one "
                f"{list(parts[0].columns)}; give all frames the same columns"
            )
    if len(parts) == 1:
        return parts[0]
    with_rows = [part for part in parts if len(part)] or parts[:1]
    together = {}
    for name in with_rows[0].columns:
        columns = [part[name] for part in with_rows]
        if all(isinstance(c.dtype, pd.CategoricalDtype) for c in columns):
            together[name] = united(columns)
        elif len({column.dtype for column in columns}) > 1:
            _check_truths(columns, what)
            together[name] = stacked(columns)
        else:
            together[name] = pd.concat(columns, ignore_index=True)
    return pd.DataFrame(together, pd.RangeIndex(sum(map(len, with_rows))))


def _check_truths(columns: Sequence[pd.Series], what: str) -> None:
    """Refuse True beside 1: some versions of pandas make them equal."""
    kinds = {pd.api.types.is_bool_dtype(c.dtype) for c in columns if _is_number(c)}
    if len(kinds) > 1:
        raise DataError(
            f"{what}: column {columns[0].name!r} holds booleans in some places and numbers in "
            "others; make it one type"
        )


def _is_number(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column.dtype)) and bool(column.notna().any())


def stacked(columns: Sequence[pd.Series]) -> pd.Series:
    """Columns one below the other; where a common type of numbers would round some, as objects."""
    whole = [c for c in columns if _is_number(c) and pd.api.types.is_integer_dtype(c.dtype)]
    together = pd.concat(columns, ignore_index=True)
    if pd.api.types.is_float_dtype(together.dtype) and any(
        c.max() > EXACT or c.min() < -EXACT for c in whole
    ):
        return pd.concat([column.astype(object) for column in columns], ignore_index=True)
    return together


def united(columns: Iterable[pd.Series]) -> pd.Categorical:
    """Categoricals one below the other, their labels in the order of appearance."""
    columns = list(columns)
    first = columns[0].dtype
    if all(c.cat.categories.equals(first.categories) for c in columns):
        codes = np.concatenate([column.cat.codes for column in columns])
        ordered = all(column.cat.ordered for column in columns)
        return pd.Categorical.from_codes(codes, first.categories, ordered=ordered)
    together = united_text(columns)
    if together is not None:
        return together
    labels = pd.Index(stacked([column.cat.categories.to_series() for column in columns])).unique()
    codes = np.concatenate(
        [
            np.append(labels.get_indexer(column.cat.categories), -1)[column.cat.codes]
            for column in columns
        ]
    )
    return pd.Categorical.from_codes(codes, labels)
