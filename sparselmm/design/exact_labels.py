"""Labels of any dtype read exactly: nothing is rounded, cast to text or merged on the way.

Levels end as NumPy integers, floats or booleans, or as Python objects; equal means equal in Python,
with booleans told apart from numbers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from sparselmm.base.exceptions import DataError
from sparselmm.base.types import AnyArray, BoolArray, IntArray

D = TypeVar("D")

_TO_TEXT = ".astype(str)"


def readable(values: Any) -> Any:
    """Labels as something pandas hashes exactly: a NumPy array, a Series or an Index."""
    dtype = getattr(values, "dtype", None)
    if dtype is None:
        return objects(list(values))
    if isinstance(values, np.ma.MaskedArray):
        return objects(values.tolist())
    if isinstance(dtype, np.dtype):
        return _native(np.asarray(values))
    arrow: Any = getattr(dtype, "pyarrow_dtype", None)
    if hasattr(arrow, "index_type"):  # a dictionary: its values may repeat or be unused
        decoded = pd.array(values, dtype=dtype).__arrow_array__().cast(arrow.value_type)
        return readable(pd.Series(pd.arrays.ArrowExtensionArray(decoded)))
    if isinstance(dtype, pd.SparseDtype):
        return _native(np.asarray(values))
    if dtype.kind in "iub" and not _has_missing(values):
        return _native(_integers(values, dtype.kind))
    return values


def _has_missing(values: Any) -> bool:
    return bool(np.asarray(pd.isna(values)).any())


def _integers(values: Any, kind: str) -> AnyArray:
    wanted: Any = {"i": np.int64, "u": np.uint64, "b": np.bool_}[kind]
    return np.asarray(values.to_numpy(dtype=wanted))


def _native(values: AnyArray) -> AnyArray:
    """In this machine's byte order and in a precision that pandas has."""
    if values.dtype.kind == "O":
        return _refuse_mixed(values)
    if values.dtype.kind in "US":
        return values.astype(object)
    if values.dtype.kind == "V":
        raise DataError(
            f"labels of a grouping factor have the dtype {values.dtype}; give one value per row"
        )
    if values.dtype == np.float16:
        return values.astype(np.float32)
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        short = values.astype(np.float64)
        return short if np.array_equal(short, values, equal_nan=True) else values.astype(object)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def objects(values: list[Any]) -> AnyArray:
    """A list as an array of its own objects, of numbers where all are integers."""
    out = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):  # not out[:] = values, which looks inside tuples
        out[i] = value
    return _tidy(out, keep_missing=True)


def _refuse_mixed(values: AnyArray) -> AnyArray:
    """Refuse True beside 1, which are equal in Python."""
    if "mixed" in pd.api.types.infer_dtype(values, skipna=True):
        kinds = set(map(type, values[~pd.isna(values)]))
        numbers = {t for t in kinds if issubclass(t, (int, float, complex, np.number))}
        truths = {t for t in kinds if issubclass(t, (bool, np.bool_))}
        if truths and numbers - truths:
            raise DataError(
                "labels of a grouping factor mix True or False with numbers; True and 1 are equal "
                f"in Python. Make them all of one type, for example with {_TO_TEXT}"
            )
    return values


def canonical(labels: Any) -> AnyArray:
    """Labels without missing ones as NumPy integers, floats or booleans, or Python objects."""
    dtype = labels.dtype
    if isinstance(dtype, pd.StringDtype) and not _has_missing(labels):
        return np.asarray(labels, dtype=object)
    if not isinstance(dtype, np.dtype):
        plain = dtype.kind in "iub" and not isinstance(dtype, (pd.CategoricalDtype, pd.SparseDtype))
        if plain and not _has_missing(labels):
            return _integers(labels, dtype.kind)
        return _tidy(np.asarray(labels, dtype=object))
    if dtype.kind in "mM":
        return np.asarray(pd.Index(labels).astype(object))
    values = _native(np.asarray(labels))
    return _tidy(values) if values.dtype == object else values


def _tidy(labels: AnyArray, keep_missing: bool = False) -> AnyArray:
    """Objects as Python's own, as numbers where all are integers, floats or booleans."""
    kind = pd.api.types.infer_dtype(labels, skipna=False)
    if kind in ("string", "bytes"):
        return labels
    if kind == "boolean":
        return labels.astype(bool)
    if kind == "floating" and not keep_missing:
        return labels.astype(np.float64)
    if kind == "integer":
        low, high = int(min(labels)), int(max(labels))
        if low >= -(2**63) and high < 2**63:
            return labels.astype(np.int64)
        if low >= 0 and high < 2**64:
            return labels.astype(np.uint64)
    own = np.empty(len(labels), dtype=object)
    for i, label in enumerate(labels):
        own[i] = _python(label)
    return _refuse_mixed(own)


def _python(label: Any) -> Any:
    if isinstance(label, np.datetime64):
        return pd.Timestamp(label)
    if isinstance(label, np.timedelta64):
        return pd.Timedelta(label)
    return label.item() if isinstance(label, np.generic) else label


def places(known: AnyArray, wanted: AnyArray) -> IntArray:
    """Position of each label among the known ones, -1 where it is not there; both `canonical`."""
    kinds = known.dtype.kind + wanted.dtype.kind
    if kinds in ("ii", "uu", "ff", "bb"):
        return np.asarray(derived(known, "hashed", _hashed).get_indexer(pd.Index(wanted)))
    index = derived(known, "hashed", _hashed) if known.dtype == object else as_objects(known)
    found = np.asarray(index.get_indexer(as_objects(wanted)))
    if "b" in kinds or "OO" in kinds:
        truth, ours = _booleans(wanted), _booleans(known)
        if truth.any() or ours.any():
            found = np.where(np.append(ours, False)[found] == truth, found, -1)
    if "f" in kinds:
        found = np.where(_beyond(known)[found] | _beyond(wanted), -1, found)
    return found


_DERIVED: dict[tuple[int, str], tuple[Any, Any]] = {}
MANY_LABELS = 4_096
"""Labels from which their hash table is kept as long as they are: every partition meets it."""


def derived(array: AnyArray, name: str, make: Callable[[AnyArray], D]) -> D:
    """What is made of an array that does not change, kept as long as the array when that is long.

    Parameters
    ----------
    array : ndarray, (l,)
    name : str
        Of what is made.
    make : callable
        Makes it of the array.
    """
    if len(array) < MANY_LABELS:
        return make(array)
    key = id(array), name
    kept, value = _DERIVED.get(key, (None, None))
    if kept is None or kept() is not array:
        value = make(array)
        _DERIVED[key] = weakref.ref(array, lambda _: _DERIVED.pop(key, None)), value
    return value


def _hashed(labels: AnyArray) -> pd.Index:
    return pd.Index(labels, tupleize_cols=False, dtype=labels.dtype)


def _beyond(labels: AnyArray) -> BoolArray:
    """Floats that stand for more than one integer: they name none."""
    if labels.dtype.kind != "f":
        return np.zeros(max(len(labels), 1), dtype=bool)[: len(labels)]
    return np.asarray(np.isfinite(labels) & (np.abs(labels) >= 2.0**53))


def as_objects(labels: AnyArray) -> pd.Index:
    """Labels as an Index of objects, of which nothing is inferred."""
    return pd.Index(labels.astype(object), dtype=object, tupleize_cols=False)


def _booleans(labels: AnyArray) -> BoolArray:
    if labels.dtype == object and pd.api.types.infer_dtype(labels, skipna=False) != "string":
        return np.array([isinstance(label, bool) for label in labels], dtype=bool)
    return np.full(len(labels), labels.dtype == bool)


def label_index(labels: Any, name: Any = None) -> pd.Index:
    """Labels of a table; a label that is a tuple stays one label."""
    return pd.Index(labels, name=name, tupleize_cols=False)
