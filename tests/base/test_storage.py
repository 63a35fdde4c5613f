"""Files of results and checkpoints: whole ones come back, every other kind is refused by name."""

import io
import pickle
from dataclasses import replace

import numpy as np
import pytest

import sparselmm
from sparselmm import DataError, datasets
from sparselmm.results.tables.bootstrap import BootstrapResults


@pytest.fixture(scope="module")
def fit():
    return sparselmm.mixedlm("Yield ~ 1 + (1 | Batch)", datasets.load("Dyestuff")).fit()


@pytest.fixture(scope="module")
def boot(fit):
    return fit.bootstrap(5, seed=1)


@pytest.mark.parametrize("kind", ["fit", "boot"])
def test_damaged_files_are_refused_by_name(kind, request, tmp_path):
    value, file = request.getfixturevalue(kind), tmp_path / "one.pickle"
    value.save(file)
    good, load = file.read_bytes(), type(value).load
    assert isinstance(load(file), type(value))
    assert isinstance(pickle.loads(good), type(value))
    bad = [b"", b"y,x\n1,2\n", pickle.dumps({"a": 1}), b"\x80\x05", good + b"more"]
    bad += [good[:cut] for cut in (1, 100, len(good) // 2, len(good) - 60, len(good) - 1)]
    rng = np.random.default_rng(3)
    for at in rng.integers(0, len(good), 60):
        damaged = bytearray(good)
        damaged[at] ^= 1 << int(rng.integers(8))
        bad.append(bytes(damaged))
    for content in bad:
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"one\.pickle.*save\(\)|one\.pickle.*another"):
            load(file)
    with pytest.raises(DataError, match="is a folder"):
        load(tmp_path)
    for wrong in (3, None, ["a"]):
        with pytest.raises(DataError, match="path or an open binary file"):
            load(wrong)


def test_two_values_in_one_open_file(fit, boot):
    file = io.BytesIO()
    fit.save(file), boot.save(file)
    file.seek(0)
    assert type(fit).load(file).llf == fit.llf
    np.testing.assert_array_equal(type(boot).load(file).values, boot.values)


def test_other_versions(fit, monkeypatch, tmp_path):
    monkeypatch.setattr(sparselmm.base.storage, "LAYOUT", 1)
    fit.save(tmp_path / "old")
    monkeypatch.undo()
    with pytest.raises(DataError, match="old was written by another version"):
        type(fit).load(tmp_path / "old")
    state = fit.__getstate__()
    del state["given"]
    with pytest.raises(DataError, match="another version"):
        type(fit).__new__(type(fit)).__setstate__(state)


def test_replicates_that_do_not_fit_together(fit, boot, tmp_path):
    for change in (
        {"failure": boot.failure[:-1]}, {"values": boot.values[:, 1:]},
        {"estimate": boot.estimate[1:]}, {"jackknife": np.zeros((3, 1))},
    ):  # fmt: skip
        with pytest.raises(DataError, match="do not fit together"):
            replace(boot, **change)
    file = tmp_path / "checkpoint"
    fake = BootstrapResults.__new__(BootstrapResults)
    fake.__dict__.update(boot.__dict__, failure=boot.failure[:-1])
    fake.save(file)
    with pytest.raises(DataError, match=r"checkpoint.*do not fit together"):
        fit.bootstrap(8, seed=1, checkpoint=file)


def test_checkpoints_of_something_else(fit, tmp_path):
    file = tmp_path / "checkpoint"
    fit.bootstrap(2, statistic=lambda r: r.scale, seed=1, checkpoint=file)
    with pytest.raises(DataError, match=r"checkpoint belong to another fit"):
        fit.bootstrap(4, statistic=lambda r: r.llf, seed=1, checkpoint=file)
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(DataError, match="checkpoint is damaged or cut short"):
        fit.bootstrap(4, statistic=lambda r: r.scale, seed=1, checkpoint=file)
    with pytest.raises(DataError, match="checkpoint must be a path"):
        fit.bootstrap(4, checkpoint=3)
    with pytest.raises(DataError, match="resume must be a BootstrapResults"):
        fit.bootstrap(4, resume={"values": 1})
