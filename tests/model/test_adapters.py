"""Other packages on our fits: the numbers are those of our own predictions and means."""

import numpy as np
import pandas as pd
import pytest

import sparselmm
from sparselmm import adapters, datasets
from sparselmm.base.exceptions import DataError, MemoryLimitError


@pytest.fixture(scope="module")
def sleep():
    data = datasets.load("sleepstudy")
    return sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()


@pytest.mark.filterwarnings("ignore")
def test_marginaleffects(sleep):
    me = pytest.importorskip("marginaleffects")
    pl = pytest.importorskip("polars")
    model = adapters.for_marginaleffects(sleep)
    slope = me.avg_slopes(model, variables="Days")  # differences of differences: 1e-3
    assert slope["estimate"][0] == pytest.approx(sleep.fe_params["Days"], rel=1e-6)
    assert slope["std_error"][0] == pytest.approx(sleep.bse_fe["Days"], rel=1e-3)
    rows = datasets.load("sleepstudy").query("Days == 9").reset_index(drop=True)
    rows["Subject"] = rows["Subject"].astype("category")
    both = adapters.for_marginaleffects(sleep, random=True)
    found = me.predictions(both, newdata=pl.from_pandas(rows))
    own = sleep.get_prediction(rows, re=True)
    np.testing.assert_allclose(found["estimate"], own.predicted_mean, rtol=1e-7)
    np.testing.assert_allclose(found["std_error"], own.se_mean, rtol=1e-5)
    difference = me.predictions(both, newdata=pl.from_pandas(rows[:2]), hypothesis="b0 - b1 = 0")
    test = own.t_test(np.eye(18)[0] - np.eye(18)[1])
    assert difference["estimate"][0] == pytest.approx(test.effect[0], rel=1e-6)
    assert difference["std_error"][0] == pytest.approx(test.sd[0], rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_marginaleffects_of_generalized_models():
    me = pytest.importorskip("marginaleffects")
    data = datasets.load("cbpp")
    fit = sparselmm.mixedglm("cbind(incidence, size - incidence) ~ period + (1 | herd)", data).fit()
    found = me.predictions(adapters.for_marginaleffects(fit), by="period")
    expected = fit.emmeans("period").frame
    np.testing.assert_allclose(found["estimate"], expected.response, rtol=1e-7)
    np.testing.assert_allclose(found["std_error"], expected.SE, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_pymmeans():
    pm = pytest.importorskip("pymmeans")
    fit = sparselmm.mixedlm("effort ~ Type + (1 | Subject)", datasets.load("ergoStool")).fit()
    found = pm.emmeans(adapters.for_pymmeans(fit), "Type")
    frame = found.frame if hasattr(found, "frame") else pd.DataFrame(found.to_frame())
    expected = fit.emmeans("Type", ddf="z").frame
    np.testing.assert_allclose(frame["emmean"], expected.emmean)
    np.testing.assert_allclose(frame["SE"], expected.SE)


def test_what_is_refused(sleep, monkeypatch):
    pytest.importorskip("marginaleffects")
    data = datasets.load("sleepstudy")
    arrays = sparselmm.MixedLM(
        data.Reaction.to_numpy(), np.ones((180, 1)), data.Subject.to_numpy()
    ).fit()
    with pytest.raises(DataError, match="fitted by a formula"):
        adapters.for_marginaleffects(arrays)
    from sparselmm.model import marginal_effects

    monkeypatch.setattr(marginal_effects, "MOST_COEFFICIENTS", 10)
    with pytest.raises(MemoryLimitError, match="each of 38 coefficients"):
        adapters.for_marginaleffects(sleep, random=True)
