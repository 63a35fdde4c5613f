"""Text on Arrow's memory as codes: nothing becomes an object of Python on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.types import AnyArray, IntArray, index_dtype
from sparselmm.design.sources.optional import package

WHAT = "text on Arrow's memory"


def arrow_text(values: Any) -> Any:
    """A Series or Index of text as an Arrow array; None where it is anything else."""
    dtype = getattr(values, "dtype", None)
    if not isinstance(dtype, pd.StringDtype) or not str(dtype.storage).startswith("pyarrow"):
        return None
    return _whole(getattr(values, "array", values).__arrow_array__())


def coded(column: pd.Series) -> pd.Series | None:
    """Text as a Categorical of its labels in the order of appearance; None for other columns."""
    text = arrow_text(column)
    if text is None:
        return None
    found = text.dictionary_encode()
    return pd.Series(_categorical(found, column.dtype), index=column.index, copy=False)


def decoded(column: pd.Series) -> pd.Series:
    """A Categorical as a column of its labels."""
    values = column.array.categories.array.take(column.array.codes, allow_fill=True)
    return pd.Series(values, index=column.index, copy=False)


def united_text(columns: Sequence[pd.Series]) -> pd.Categorical | None:
    """Categoricals of text one below the other, labels as they appear; None where some are none."""
    labels = [arrow_text(column.array.categories) for column in columns]
    if any(found is None for found in labels):
        return None
    pa = package("pyarrow", WHAT)
    codes = [column.array.codes.astype(np.int32) for column in columns]
    pieces = [
        pa.DictionaryArray.from_arrays(pa.array(own, mask=own < 0), text.cast("large_string"))
        for own, text in zip(codes, labels, strict=True)
    ]
    found = _whole(pa.chunked_array(pieces).unify_dictionaries())
    return _categorical(found, columns[0].array.categories.dtype)


def places_of_text(known: Any, wanted: Any) -> IntArray:
    """Where each label stands among known ones, -1 where it does not; both Arrow arrays."""
    compute = package("pyarrow.compute", WHAT)
    found = compute.index_in(wanted, value_set=known.cast(wanted.type)).fill_null(-1)
    return np.asarray(found)


def text_of(labels: AnyArray) -> Any:
    """Python's strings as an Arrow array; None where some are none, or have no UTF-8."""
    if labels.dtype != object or pd.api.types.infer_dtype(labels, skipna=False) != "string":
        return None
    try:
        return package("pyarrow", WHAT).array(labels, type="large_string")
    except (TypeError, ValueError):
        return None


def differ(text: Any) -> bool:
    """Whether no label of an Arrow array repeats."""
    count: int = package("pyarrow.compute", WHAT).count_distinct(text).as_py()
    return count == len(text)


def categorical(codes: IntArray, labels: pd.Index, ordered: bool = False) -> pd.Categorical:
    """A Categorical of labels that differ, as is known: they are not looked through again."""
    make = getattr(pd.CategoricalDtype, "_from_fastpath", pd.CategoricalDtype)
    codes = codes.astype(index_dtype(len(labels)), copy=False)
    return pd.Categorical.from_codes(codes, dtype=make(labels, ordered=ordered))


def _whole(values: Any) -> Any:
    """An Arrow array of one piece."""
    pa = package("pyarrow", WHAT)
    if not isinstance(values, pa.ChunkedArray):
        return values
    if values.num_chunks == 1:
        return values.chunk(0)
    together = values.combine_chunks()
    return together if isinstance(together, pa.Array) else pa.concat_arrays(together.chunks)


def _categorical(found: Any, dtype: Any) -> pd.Categorical:
    """A dictionary array that Arrow made, so that no label repeats."""
    labels = pd.Index(pd.array(found.dictionary, dtype=dtype))
    return categorical(np.asarray(found.indices.fill_null(-1)), labels)
