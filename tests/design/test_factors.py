"""Integer codes of grouping factors."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselmm.design.factors import Factor, cross, factorize, match, match_crossed

LABELS = [
    ("integers", [3, 1, 3, 10], [1, 3, 10]),
    ("floats", [1.5, np.nan, 0.5, 1.5], [0.5, 1.5]),
    ("booleans", [True, False, True], [False, True]),
    ("strings", pd.Series(["b", "a", None, "c"]), ["a", "b", "c"]),
    ("objects", pd.Series(["b", "a", None], dtype=object), ["a", "b"]),
    ("nullable", pd.Series([2, None, 1], dtype="Int64"), [1, 2]),
    ("unused", pd.Categorical(["b", "c", None, "b"], ["z", "c", "b"]), ["c", "b"]),
    ("all used", pd.Series(pd.Categorical(["b", "c"], ["c", "b"])), ["c", "b"]),
    ("dates", pd.to_datetime(["2020-02-01", "2020-01-01"]), ["2020-01-01", "2020-02-01"]),
]


@pytest.mark.parametrize(("values", "labels"), [c[1:] for c in LABELS], ids=[c[0] for c in LABELS])
def test_factorize(values, labels):
    factor = factorize(values)
    assert factor.codes.dtype == np.int32
    if not isinstance(values, pd.DatetimeIndex):
        assert factor.labels.tolist() == labels
    missing = np.asarray(pd.isna(values))
    np.testing.assert_array_equal(factor.codes < 0, missing)
    back = pd.Series(factor.labels).iloc[factor.codes[~missing]].tolist()
    assert back == pd.Series(values)[~missing].tolist()
    np.testing.assert_array_equal(match(factor.labels, values), factor.codes)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
@pytest.mark.parametrize("wide", [False, True])
def test_integers_of_any_size(dtype, wide):
    """Close integers are counted, distant ones hashed: the same codes and labels."""
    info = np.iinfo(dtype)
    ends = [info.min, info.max] if wide else [info.max // 2, info.max // 2 + 3]
    values = np.array(ends * 3 + [ends[0] + 1], dtype=dtype)
    factor = factorize(values)
    expected, codes = np.unique(values, return_inverse=True)
    assert factor.labels.dtype == dtype
    np.testing.assert_array_equal(factor.labels, expected)
    np.testing.assert_array_equal(factor.codes, codes)


def test_sorted_categorical():
    values = pd.Categorical(["b", "c", "b"], ["z", "c", "b"])
    factor = factorize(values, sort=True)
    assert factor.labels.tolist() == ["b", "c"]
    assert factor.codes.tolist() == [0, 1, 0]


columns = st.integers(1, 3).flatmap(
    lambda k: st.lists(st.tuples(*[st.integers(-1, 4)] * k), min_size=1, max_size=30)
)


@given(columns, st.integers(5, 10**6))
def test_cross_keeps_the_combinations_seen(rows, size):
    """Against sorted sets of tuples; ``size`` moves between the table and the hash."""
    factors = [
        Factor(np.array(c, dtype=np.int32), np.arange(size)) for c in zip(*rows, strict=True)
    ]
    crossing = cross(factors)
    seen = sorted({row for row in rows if min(row) >= 0})
    if len(factors) > 1:
        assert list(zip(*(part.tolist() for part in crossing.table), strict=True)) == seen
        expected = [seen.index(row) if min(row) >= 0 else -1 for row in rows]
        assert crossing.codes.tolist() == expected
        found = match_crossed(crossing.table, [factor.codes for factor in factors])
        assert found.tolist() == expected


def test_match_unknown_and_missing():
    assert match(np.array(["a", "b"], dtype=object), ["b", "q", None]).tolist() == [1, -1, -1]
    new = pd.Categorical(["q", "b", None], ["q", "b"])
    assert match(np.array(["a", "b"], dtype=object), new).tolist() == [-1, 1, -1]
    table = (np.array([0, 0, 1]), np.array([0, 2, 1]))
    new_codes = [np.array([0, 0, 1, 1, -1]), np.array([2, 1, 1, 7, 0])]
    assert match_crossed(table, new_codes).tolist() == [1, -1, 2, -1, -1]


def test_huge_products_do_not_overflow():
    size = 2**20  # four factors: 2**80 possible combinations
    code = np.array([size - 1, 0, size - 1])
    factors = [Factor(code, np.empty(size)) for _ in range(4)]
    crossing = cross(factors)
    assert crossing.codes.tolist() == [1, 0, 1]
    assert match_crossed(crossing.table, [code] * 4).tolist() == [1, 0, 1]


def test_small_integers_far_apart_are_matched():
    known = np.array([-100, 20, 60, 100], dtype=np.int8)
    assert match(known, known[::-1].copy()).tolist() == [3, 2, 1, 0]
    assert match(known, np.array([60, 127, -128], dtype=np.int8)).tolist() == [2, -1, -1]
