"""A factorization on disk against one in memory; disks that are full, runs that are interrupted."""

import errno
from collections import namedtuple

import numpy as np
import pytest
from support.krylov_cases import CASES, scalar

from sparselmm.base.exceptions import DiskSpaceError
from sparselmm.factor.krylov import tiles
from sparselmm.factor.krylov.solver import KrylovSolver
from sparselmm.factor.krylov.tiles import Panels, TiledSolver, Tiles
from sparselmm.factor.layout import Strategy
from sparselmm.factor.solver import BlockSolver
from sparselmm.model.mixedlm import MixedLM


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Panels of a few rows."""
    monkeypatch.setattr(tiles, "WIDEST", 37)
    monkeypatch.setattr(tiles, "NARROWEST", 8)
    monkeypatch.setattr(tiles, "LEADING", 10)


def solvers(case):
    make, formula, keywords = CASES[case]
    model = MixedLM.from_formula(formula, make(), **keywords)
    lams = model.covariance.factors(np.where(model.covariance.on_diagonal, 0.6, 0.1))
    cross = model.cross
    exact, own = BlockSolver(cross.pattern, Strategy(None, "dense")), KrylovSolver(cross.pattern)
    exact_logdet = exact.factorize(lams, cross.values)
    own.factorize(lams, cross.values)
    return exact, own, exact_logdet, lams


def test_layout_of_panels():
    panels = Panels(100, 37)
    assert panels.count == 3
    assert [panels.rows(i) for i in range(3)] == [(0, 37), (37, 74), (74, 100)]
    for i in range(3):  # no panel reaches into the next
        a, b = panels.rows(i)
        assert panels.place(i) + (b - a) * b <= panels.place(i + 1)
    assert panels.bytes == 8 * (panels.place(3) + 37 * 100)
    assert Panels.of(10_000, 3 * 8 * 10_000 * 20).width == 20
    assert Panels.of(5, 0).width == 5


@pytest.mark.parametrize("case", ["scalar", "slopes", "three", "nested"])
def test_log_determinant_and_sums_are_exact(case, tmp_path):
    exact, own, logdet, lams = solvers(case)
    disk = TiledSolver(own, str(tmp_path), 1e6)
    disk.factorize(lams, own._values)
    assert disk.log_determinant()[0] == pytest.approx(logdet, rel=1e-12)
    for t in range(len(own.pattern.sizes)):
        want = exact.inverse_sum(t)
        np.testing.assert_allclose(disk.inverse_sum(t), want, rtol=1e-10, atol=1e-10)
    assert not list(tmp_path.iterdir())  # nothing is left behind


class Stops:
    """Raises once after some panels were written."""

    def __init__(self, after, error):
        self.left, self.error, self.write = after, error, Tiles._write

    def __call__(self, tiles_, file, i, panel):
        self.left -= 1
        if self.left == 0:
            raise self.error
        self.write(tiles_, file, i, panel)


@pytest.mark.parametrize("after", [1, 3, 7, 9, 10, 11, 14])
def test_an_interrupted_run_goes_on(after, tmp_path, monkeypatch):
    _, own, _, _ = solvers("scalar")
    whole = Tiles(own.scaled, str(tmp_path), 1e6).run()
    with monkeypatch.context() as patch:
        stops = Stops(after, KeyboardInterrupt())
        patch.setattr(Tiles, "_write", lambda *args: stops(*args))
        with pytest.raises(KeyboardInterrupt, match=r"panels factored.*kept in"):
            Tiles(own.scaled, str(tmp_path), 1e6).run()
    assert len(list(tmp_path.iterdir())) == 1
    made = []
    formed = Tiles._formed
    monkeypatch.setattr(Tiles, "_formed", lambda self, i: made.append(i) or formed(self, i))
    again = Tiles(own.scaled, str(tmp_path), 1e6).run()
    assert len(made) <= max(Panels.of(own.scaled.n_trailing, 1e6).count - after + 1, 0)
    assert again.logdet == whole.logdet  # to the bit
    for t, block in whole.sums.items():
        assert np.array_equal(again.sums[t], block)
    assert not list(tmp_path.iterdir())


def test_a_run_for_another_matrix_begins_anew(tmp_path, monkeypatch):
    exact, own, _, lams = solvers("scalar")
    with monkeypatch.context() as patch:
        stops = Stops(5, KeyboardInterrupt())
        patch.setattr(Tiles, "_write", lambda *args: stops(*args))
        with pytest.raises(KeyboardInterrupt):
            Tiles(own.scaled, str(tmp_path), 1e6).run()
    other = [0.9 * lam for lam in lams]
    logdet = exact.factorize(other, own._values)
    own.factorize(other, own._values)
    found = Tiles(own.scaled, str(tmp_path), 1e6).run()
    assert found.logdet == pytest.approx(logdet, rel=1e-12)


def test_a_disk_that_fails_is_named_and_its_work_kept(tmp_path, monkeypatch):
    _, own, _, _ = solvers("scalar")
    with monkeypatch.context() as patch:
        stops = Stops(6, OSError(errno.ENOSPC, "No space left on device"))
        patch.setattr(Tiles, "_write", lambda *args: stops(*args))
        with pytest.raises(
            DiskSpaceError, match=r"No space left on device.*5 of 7 panels"
        ) as raised:
            Tiles(own.scaled, str(tmp_path), 1e6).run()
    assert isinstance(raised.value, OSError)
    assert np.isfinite(Tiles(own.scaled, str(tmp_path), 1e6).run().logdet)


def test_room_is_asked_for_before_anything_is_computed(tmp_path, monkeypatch):
    _, own, _, _ = solvers("scalar")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(tiles.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    monkeypatch.setattr(Tiles, "_formed", None)
    with pytest.raises(DiskSpaceError, match=r"needs .* GB in .* are free; name another folder"):
        Tiles(own.scaled, str(tmp_path), 1e6).run()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_cannot_reserve(tmp_path, monkeypatch):
    _, own, _, _ = solvers("scalar")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tiles, "_reserve", full)
    with pytest.raises(DiskSpaceError, match="cannot be taken"):
        Tiles(own.scaled, str(tmp_path), 1e6).run()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_fit_finishes_on_disk_where_memory_is_short(tmp_path, monkeypatch):
    monkeypatch.setattr(tiles, "WIDEST", 512)
    model = MixedLM.from_formula("y ~ x + (1|f) + (1|g)", scalar(8, 20000, 3000, 2000))
    exact = model.fit(engine="sparse", tol=1e-13)
    limit = 30_000_000
    assert model.plan(limit).route == "krylov"
    assert "finish='exact' would factor on disk" in str(model.plan(limit))
    own = model.fit(memory_limit=limit, finish="exact", scratch=tmp_path)
    assert own.converged
    assert own.opt.deviance == pytest.approx(exact.opt.deviance, abs=1e-8)
    np.testing.assert_allclose(own.theta, exact.theta, atol=1e-6)
    assert own.opt.mc_error == 0.0
    assert own.llf_mc_se == 0.0
    np.testing.assert_allclose(own.bse_fe, exact.bse_fe, rtol=1e-5)
