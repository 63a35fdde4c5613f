"""Extremes of columns."""

import numpy as np
import pytest

from sparselmm.base.reduction import FOLDED, extremes


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n", [1, 7, FOLDED, 2 * FOLDED - 1, 2 * FOLDED, 5000])
@pytest.mark.parametrize("c", [1, 2, 3, 40, FOLDED + 1])
def test_extremes_are_those_of_every_column(n: int, c: int, order: str) -> None:
    values = np.random.default_rng(n + c).normal(size=(n, c))
    values[-1, 0] = 100.0
    values[0, c - 1] = -100.0
    values = np.asarray(values, order=order)
    low, high = extremes(values)
    assert np.array_equal(low, values.min(axis=0))
    assert np.array_equal(high, values.max(axis=0))


def test_extremes_of_an_array_of_numbers_are_arrays_of_one() -> None:
    low, high = extremes(np.arange(2000.0))
    assert (low.tolist(), high.tolist()) == ([0.0], [1999.0])


def test_extremes_of_rows_side_by_side_see_nan() -> None:
    values = np.ones((5000, 2))
    values[4321, 1] = np.nan
    low, high = extremes(values)
    assert low[0] == high[0] == 1.0
    assert np.isnan([low[1], high[1]]).all()
