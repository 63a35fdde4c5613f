"""Grouping factors as integer codes: from labels, across factors, and on new data.

Levels are the labels seen, in sorted order or in the order of a pandas Categorical. Crossed
factors keep the combinations seen, the first-named factor varying slowest. Labels are looked
at once; everything after that works on integers.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base import kernels
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import AnyArray, BoolArray, IntArray, index_dtype
from sparselmm.design.exact_labels import canonical, derived, places, readable
from sparselmm.design.levels import Levels
from sparselmm.design.sources.text import arrow_text, places_of_text, text_of

SPREAD = 4
"""Integers of a range up to this many times their number are coded by counting."""

MANY_ROWS = 20_000
"""Rows from which compiled loops are loaded."""

LARGEST = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, eq=False)
class Factor:
    """One factor.

    Attributes
    ----------
    codes : ndarray of int32 or int64, (n,)
        Level of each row; -1 where the label is missing.
    labels : ndarray, (l,)
        Labels of the levels, each seen at least once.
    """

    codes: IntArray
    labels: AnyArray


@dataclass(frozen=True, eq=False)
class Crossing:
    """The interaction of some factors, the combinations seen.

    Attributes
    ----------
    codes : ndarray of int32 or int64, (n,)
        Level of each row; -1 where any factor's label is missing.
    table : tuple of ndarray of int, each (l,)
        ``table[f][j]`` is the code, within factor ``f``, of level ``j``.
    labels : tuple of ndarray
        Labels of each factor.
    """

    codes: IntArray
    table: tuple[IntArray, ...]
    labels: tuple[AnyArray, ...]

    def levels(self, names: Sequence[str]) -> Levels:
        """Labels of the combinations."""
        if len(self.table) == 1:
            return Levels(tuple(names), self.labels)
        parts = zip(self.labels, self.table, strict=True)
        return Levels(tuple(names), tuple(labels[column] for labels, column in parts))


def factorize(values: Any, *, sort: bool = False) -> Factor:
    """Codes and labels of one column.

    Parameters
    ----------
    values : Series, Categorical, Index or array-like, (n,)
        Any hashable labels; missing values get code -1.
    sort : bool
        Sort the labels of a Categorical too, instead of keeping its order.
    """
    return _coded(values, sort, True)


def unordered(values: Any) -> Factor:
    """As :func:`factorize`, with the levels in any order, which is quicker."""
    return _coded(values, False, False)


def told_apart(values: Any) -> tuple[IntArray, int]:
    """Codes of one column in 64 bits, -1 where the label is missing, and a number all are below.

    Not every number below need be a code: integers close to each other are their own.
    """
    array = _with_few_categories(values)
    if array is not None:
        return array.codes.astype(np.int64), len(array.categories)
    values = readable(values)
    close = _close(values)
    if close is not None:
        low, high = close
        return values.astype(np.int64, copy=False) - low, high - low + 1
    if isinstance(getattr(values, "dtype", None), pd.StringDtype):
        codes, labels = pd.factorize(values)
        return codes.astype(np.int64, copy=False), len(labels)
    seen = unordered(values)
    return seen.codes.astype(np.int64, copy=False), len(seen.labels)


def _with_few_categories(values: Any) -> pd.Categorical | None:
    """Values as a Categorical whose categories, of one type, are not many more than the rows."""
    array = getattr(values, "array", values)
    if not isinstance(array, pd.Categorical) or array.categories.dtype == object:
        return None
    return array if len(array.categories) <= SPREAD * len(array) else None


def mark_first(codes: IntArray, n_levels: int, first: BoolArray) -> None:
    """Mark the first row of every level in ``first``, (n,)."""
    if len(codes) >= MANY_ROWS:
        kernels.mark_first(codes, np.zeros(n_levels, dtype=bool), first)
        return
    rows = np.full(n_levels + 1, len(codes))  # the last place is that of code -1
    rows[codes[::-1]] = np.arange(len(codes))[::-1]
    rows = rows[:-1]
    first[rows[rows < len(codes)]] = True


def tells(inner: IntArray, n_levels: int, outer: IntArray) -> bool:
    """Whether the level of one factor alone tells that of another, none of them missing."""
    met: IntArray = np.full(n_levels, -1, dtype=index_dtype(int(outer.max(initial=0))))
    return len(inner) > 0 and meets_one(inner, outer, met)


def meets_one(inner: IntArray, outer: IntArray, met: IntArray) -> bool:
    """Whether levels of some rows meet those in ``met`` alone, where fresh ones are entered."""
    if len(inner) >= MANY_ROWS:
        return kernels.meets_one(inner, outer, met)
    if inner.min(initial=0) < 0 or outer.min(initial=0) < 0:
        return False
    fresh = np.flatnonzero(met[inner] < 0)
    met[inner[fresh]] = outer[fresh]
    return bool((met[inner] == outer).all())


def _coded(values: Any, sort: bool, ordered: bool) -> Factor:
    """Codes and labels; those of no Categorical are sorted when ``ordered``."""
    if isinstance(getattr(values, "dtype", None), pd.CategoricalDtype):
        array = getattr(values, "array", values)
        known = isinstance(array, pd.Categorical)
        return _of_categorical(array if known else pd.Categorical(values), sort)
    values = readable(values)
    if _close(values) is not None:
        return _of_integers(values)
    codes, found = _hashed(values, ordered)
    labels = canonical(found)
    absent = np.asarray(pd.isna(labels))
    if absent.any():  # a NaN that its dtype, Float64 or one of Arrow's, does not count as missing
        codes = np.append(np.where(absent, -1, np.cumsum(~absent) - 1), -1)[codes]
        labels = labels[~absent]
    return Factor(compact(codes, len(labels)), labels)


def _close(values: Any) -> tuple[int, int] | None:
    """The least and the largest of integers that counting codes quicker than hashing."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iu" or not len(values):
        return None
    low, high = int(values.min()), int(values.max())
    return (low, high) if high < LARGEST and high - low < SPREAD * len(values) else None


def _hashed(values: Any, ordered: bool) -> tuple[IntArray, Any]:
    """As :func:`pandas.factorize`; labels that have no order stay in that of appearance."""
    try:
        try:
            return pd.factorize(values, sort=ordered)
        except TypeError:
            return pd.factorize(values, sort=False)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"labels of a grouping factor must be hashable, such as numbers or strings; got dtype "
            f"{values.dtype} ({error}). Convert them, for example with .astype(str)"
        ) from error


def _of_integers(values: AnyArray) -> Factor:
    """Codes of integers close to each other, by counting instead of hashing and sorting."""
    first = np.int64(values.min())
    shifted = values.astype(np.int64, copy=False)
    shifted = shifted - first if first else shifted
    seen = np.bincount(shifted) > 0
    labels = (np.flatnonzero(seen) + first).astype(values.dtype)
    rank = compact(np.cumsum(seen) - 1, len(labels))
    return Factor(rank[shifted], labels)


def _of_categorical(values: pd.Categorical, sort: bool) -> Factor:
    codes, categories = values.codes, values.categories
    seen = np.zeros(len(categories) + 1, dtype=bool)  # the last place is that of code -1
    seen[codes] = True
    if not sort and seen[:-1].all():
        return Factor(compact(codes, len(categories)), canonical(categories))
    keep = np.flatnonzero(seen[:-1])
    if sort:
        keep = keep[_order(categories.take(keep))]
    if len(keep) < len(categories) or sort:
        recode = np.full(len(seen), -1)
        recode[keep] = np.arange(len(keep))
        codes = recode[codes]
    return Factor(compact(codes, len(keep)), canonical(categories.take(keep)))


def _order(labels: Any) -> IntArray:
    try:
        return np.asarray(np.argsort(labels))
    except TypeError:  # labels that cannot be compared keep the order of the categories
        return np.arange(len(labels))


def compact(codes: AnyArray, n_levels: int) -> IntArray:
    """Codes in the smallest of int32 / int64."""
    return codes.astype(index_dtype(n_levels), copy=False)


def cross(factors: Sequence[Factor]) -> Crossing:
    """Interaction of one or more factors.

    Parameters
    ----------
    factors : sequence of Factor
        The first-named varies slowest in the order of the levels.
    """
    labels = tuple(factor.labels for factor in factors)
    codes = factors[0].codes
    table: tuple[IntArray, ...] = (np.arange(len(labels[0])),)
    for factor in factors[1:]:
        codes, seen = _pair(codes, factor.codes, len(table[0]), len(factor.labels))
        first, second = np.divmod(seen, len(factor.labels))
        table = (*(column[first] for column in table), second)
    return Crossing(codes, table, labels)


def _pair(a: IntArray, b: IntArray, n_a: int, n_b: int) -> tuple[IntArray, IntArray]:
    """Codes of the pairs ``(a, b)`` seen, and ``a * n_b + b`` of each, ascending."""
    key = a * np.int64(n_b)
    key += b
    absent = (a < 0) | (b < 0)
    if absent.any():
        key[absent] = -1
    if n_a * n_b <= 4 * len(key) + 1024:
        return _rank_by_table(key, n_a * n_b)
    codes, seen = pd.factorize(key, sort=True)
    if absent.any():  # -1 sorts first and is no level
        codes, seen = codes - 1, seen[1:]
    return compact(codes, len(seen)), seen


def _rank_by_table(key: IntArray, size: int) -> tuple[IntArray, IntArray]:
    present = np.zeros(size + 1, dtype=bool)  # the last place is that of key -1
    present[key] = True
    seen = np.flatnonzero(present[:-1])
    rank = np.full(size + 1, -1, dtype=index_dtype(size))
    rank[seen] = np.arange(len(seen))
    return rank[key], seen


def match(labels: Any, values: Any) -> IntArray:
    """Codes of new values among known labels, -1 for those not among them.

    Parameters
    ----------
    labels : ndarray or Index, (l,)
        Known labels, none twice.
    values : Series, Categorical, Index or array-like, (m,)
        New labels.

    Returns
    -------
    ndarray of int, (m,)
    """
    found = _looked_up(labels, values)
    if found is not None:
        return found
    array = _with_few_categories(values)
    if array is not None:
        return _places_of(labels, array.categories)[array.codes]
    new = _coded(values, False, False)
    return _places(labels, new.labels)[new.codes]


def _places(labels: Any, wanted: Any) -> IntArray:
    """Where each label stands among known ones, and a last place, that of code -1, nowhere."""
    text = None if SPREAD * len(wanted) < len(labels) else arrow_text(wanted)
    known = None if text is None else derived(canonical(labels), "text", text_of)
    if known is not None:
        found = places_of_text(known, text)
    else:
        found = places(canonical(labels), canonical(wanted))
    return compact(np.append(found, -1), len(labels))


def _places_of(labels: Any, categories: pd.Index) -> IntArray:
    """The same, kept as long as the categories: partitions of a file share them."""
    kept: dict[int, tuple[Any, IntArray]] = derived(categories, "places", lambda _: {})
    found = kept.get(id(labels))
    if found is None or found[0]() is not labels:
        kept[id(labels)] = found = weakref.ref(labels), _places(labels, categories)
    return found[1]


def _looked_up(labels: Any, values: Any) -> IntArray | None:
    """The same for whole numbers among whole numbers that lie close to each other."""
    arrays = [readable(x) for x in (labels, values) if getattr(x, "dtype", None) is not None]
    if len(arrays) < 2 or any(not isinstance(x, np.ndarray) or x.dtype.kind != "i" for x in arrays):
        return None
    known, new = arrays
    if not len(known) or not len(new):
        return None
    low, table = derived(known, "table", _table)
    if table is None:
        return None
    if int(new.min()) >= low and int(new.max()) < low + len(table) - 1:
        return table[new.astype(np.int64, copy=False) - low if low else new]
    inside = (new >= low) & (new < low + len(table) - 1)
    return table[np.where(inside, new.astype(np.int64, copy=False) - low, -1)]


def _table(known: IntArray) -> tuple[int, IntArray | None]:
    """The smallest of some whole numbers, and the place of each from there on; the last is none."""
    low, high = int(known.min()), int(known.max())
    if high - low >= SPREAD * len(known) + 1024:
        return low, None
    table: IntArray = np.full(high - low + 2, -1, dtype=index_dtype(len(known)))
    table[known.astype(np.int64) - low] = np.arange(len(known))
    return low, table


def match_crossed(table: Sequence[IntArray], codes: Sequence[IntArray]) -> IntArray:
    """Codes of new combinations among known ones, -1 for those not among them.

    Parameters
    ----------
    table : sequence of ndarray, each (l,)
        Codes of the known combinations, one entry per factor, in lexicographic order.
    codes : sequence of ndarray, each (m,)
        Codes of the new rows, one entry per factor; -1 for an unknown label.

    Returns
    -------
    ndarray of int, (m,)
    """
    nested = _match_nested(table, codes)
    if nested is not None:
        return nested
    known: IntArray = table[0].astype(np.int64)
    new: IntArray = codes[0].astype(np.int64)
    absent = new < 0
    for column, code in zip(table[1:], codes[1:], strict=True):
        absent |= code < 0
        size = max(int(column.max(initial=0)), int(code.max(initial=0))) + 1
        seen, known = np.unique(known * size + column, return_inverse=True)
        new, missing = _position(seen, new * size + code)
        absent |= missing
    place, missing = _position(known, new)
    return compact(np.where(absent | missing, -1, place), len(known))


def _match_nested(table: Sequence[IntArray], codes: Sequence[IntArray]) -> IntArray | None:
    """The same where the label of one factor alone tells the level, as of b in (1|a/b)."""
    if not len(table[0]):
        return None
    for own, new in zip(table, codes, strict=True):
        level = derived(own, "inverse", _inverse)
        if level is None:
            continue
        inside = bool(len(new)) and int(new.min()) >= 0 and int(new.max()) < len(own)
        known = None if inside else (new >= 0) & (new < len(own))
        out = level[new if known is None else np.where(known, new, -1)]
        for column, code in zip(table, codes, strict=True):
            if column is not own:
                same = column[out] == code
                out = out if same.all() else np.where(same, out, -1)
        return compact(out if known is None else np.where(known, out, -1), len(own))
    return None


def _inverse(codes: IntArray) -> IntArray | None:
    """Where each code stands, (l + 1,), the last nowhere; None when one is missing or repeats."""
    if int(codes.max()) + 1 != len(codes):
        return None
    place: IntArray = np.full(len(codes) + 1, -1, dtype=index_dtype(len(codes)))
    place[codes] = np.arange(len(codes))
    return None if (place[:-1] < 0).any() else place


def _position(ascending: IntArray, wanted: IntArray) -> tuple[IntArray, BoolArray]:
    place = np.searchsorted(ascending, wanted)
    place[place == len(ascending)] = 0
    return place, np.asarray(ascending[place] != wanted) if len(ascending) else wanted == wanted
