"""What was given as data: the source that reads it, or an error that says why none can."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from sparselmm.base.exceptions import DataError
from sparselmm.design.sources.arrow import column_of, table_of
from sparselmm.design.sources.dask import DaskFrame
from sparselmm.design.sources.files import Dataset, dataset_of
from sparselmm.design.sources.optional import origins, package
from sparselmm.design.sources.readers import (
    Columns,
    Source,
    of_callable,
    of_duckdb,
    of_lazy,
    of_pandas,
    of_polars,
    of_reader,
    of_table,
    readable,
)


def is_source(data: Any) -> bool:
    """Whether data are of a kind that `source_of` reads, told without opening anything."""
    return isinstance(data, Iterator) or _opener(data) is not None


def source_of(data: Any) -> Source | None:
    """The source that reads some data; None for mappings, records and what else pandas reads.

    Raises
    ------
    DataError
        When they can be read only once, or not at all.
    """
    opener = _opener(data)
    if opener is None and isinstance(data, Iterator):
        raise DataError(
            f"data is {_a(type(data).__name__)}, which can be read only once, and the rows are "
            "read twice: pass a function that returns a fresh iterator of frames, such as "
            "lambda: read_frames()"
        )
    return None if opener is None else opener(data)


def _opener(data: Any) -> Callable[[Any], Source] | None:
    """What opens some data; no package is imported to find out what they are."""
    if isinstance(data, pd.DataFrame):
        return of_pandas
    if isinstance(data, (str, os.PathLike)) or _are_paths(data):
        return dataset_of
    name, homes = type(data).__name__, origins(data)
    if homes & {"pandas", "numpy"} or isinstance(data, (type, Mapping)):
        return None
    if "polars" in homes and name in ("DataFrame", "LazyFrame"):
        return of_polars if name == "DataFrame" else of_lazy
    if "duckdb" in {home.lstrip("_") for home in homes} and "Relation" in name:
        return of_duckdb
    if "dask" in homes and hasattr(data, "npartitions") and hasattr(data, "columns"):
        return DaskFrame
    if "pyarrow" in homes and any(kind.__name__ == "Dataset" for kind in type(data).__mro__):
        return _dataset
    if "pyarrow" in homes and name == "RecordBatchReader":
        return of_reader
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        return _streamed
    if callable(data) and not hasattr(data, "columns"):
        return _called
    return None


def _dataset(data: Any) -> Source:
    return Dataset(data, "the Arrow dataset")


def _streamed(data: Any) -> Source:
    what = f"the {type(data).__name__}"
    return of_table(table_of(data, what), what)


def _called(function: Any) -> Source:
    return of_callable(function, source_of)


def _are_paths(data: Any) -> bool:
    return (
        isinstance(data, (list, tuple))
        and len(data) > 0
        and all(isinstance(path, (str, os.PathLike)) for path in data)
    )


def _a(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def mentioned(names: Iterable[Any], texts: Iterable[Any]) -> list[str]:
    """Columns that some texts, such as formulas and arguments, may mean by name.

    Every name that occurs as a word is meant, so that no column is missed.

    Raises
    ------
    DataError
        When several columns have a name that is meant.
    """
    together = "\n".join(text for text in _strings(texts))
    together += re.sub(r"\\(.)", r"\1", together)  # Q("say \"x\"")
    words = set(re.findall(r"\w+", together))
    counts = Counter(names)
    meant = [
        name
        for name in counts
        if isinstance(name, str)
        and (name in words or (not re.fullmatch(r"\w+", name) and name in together))
    ]
    for name in meant:
        if counts[name] > 1:
            raise DataError(f"the data have {counts[name]} columns called {name!r}; keep one")
    return meant


def _strings(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from _strings([*value, *value.values()])


def frame_with(data: Any, texts: Iterable[Any] | None) -> pd.DataFrame | None:
    """Data as a frame, only with the columns that some texts mention; None as `source_of`.

    A pandas frame is returned as it is, whatever its columns.
    """
    if isinstance(data, pd.DataFrame):
        return data
    source = source_of(data)
    return None if source is None else read(source, texts)


def read(source: Source, texts: Iterable[Any] | None) -> pd.DataFrame:
    """All rows of a source, only of the columns that some texts mention; None for all columns."""
    columns: Columns = None if texts is None else mentioned(source.names, texts)
    if texts is not None and not columns:
        columns = source.names[:1]  # the number of rows
    with readable(source.what):
        return source.frame(columns)


def values_of(values: Any) -> Any:
    """A polars Series or an Arrow array as pandas or NumPy has it; anything else as it is."""
    homes = origins(values)
    if "polars" in homes and type(values).__name__ == "Series":
        package("pyarrow", "a polars Series")
        return column_of(values.to_arrow(), str(values.name))
    if "pyarrow" in homes and hasattr(values, "null_count") and hasattr(values, "type"):
        return column_of(values, "an Arrow array")
    return values
