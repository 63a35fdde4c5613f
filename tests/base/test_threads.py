"""Loops cut into parts: every index once, the same answers for any number of threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from registry import MODELS

from sparselmm.base import threads
from sparselmm.factor import solver as solvers
from sparselmm.factor.layout import Strategy


@given(arrays(float, st.integers(1, 40), elements=st.floats(0, 1e7)), st.integers(1, 5))
def test_every_index_is_in_one_part(work, available):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "_available", lambda: available)
        bounds = threads.equal_parts(work)
    assert (bounds[0], bounds[-1]) == (0, len(work))
    assert (np.diff(bounds) >= 0).all()
    assert len(bounds) - 1 <= available


def test_work_is_shared_evenly(monkeypatch):
    monkeypatch.setattr(threads, "_available", lambda: 4)
    work = np.linspace(1.0, 5.0, 1000) * threads.PART
    shares = np.add.reduceat(work, threads.equal_parts(work)[:-1])
    np.testing.assert_allclose(shares, work.sum() / 4, rtol=0.01)


def test_errors_come_through():
    def loop(begin, end):
        raise ValueError(f"part {begin}")

    with pytest.raises(ValueError, match="part 0"):
        threads.in_parts(loop, np.array([0, 2, 4]))


@pytest.mark.parametrize("strategy", [Strategy(1, "dense"), Strategy(1, "sparse")])
def test_threads_change_no_bit(strategy, monkeypatch):
    model, found = MODELS["crossed_three"], []
    for available in 1, 3:
        monkeypatch.setattr(threads, "_available", lambda: available)  # noqa: B023
        monkeypatch.setattr(threads, "PART", 1.0)
        deviance = model.sparse(True, strategy)
        theta = model.theta("interior")
        found.append([deviance.value(theta), *deviance.gradient(theta)])
        assert len(deviance.solver.layout.coupling.level_parts) == available + 1
    assert found[0] == found[1]
    assert solvers.in_parts is threads.in_parts
