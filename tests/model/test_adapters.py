"""Other packages on our fits: the numbers are those of our own predictions and means."""

import json

import numpy as np
import pandas as pd
import pytest

import sparselmm
from sparselmm import adapters, datasets
from sparselmm.base.exceptions import ArgumentError, DataError, MemoryLimitError


def reference(folder, name):
    file = datasets.data_dir() / "reference" / folder / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))


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
@pytest.mark.parametrize("given", [{"zi": "~ x"}, {"hurdle": "~ x"}])
def test_marginaleffects_count_excess_zeros(given):
    """Expected responses, as `predict` has them, not the mean of the counts before zeros."""
    me = pytest.importorskip("marginaleffects")
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"g": np.repeat(np.arange(30), 10), "x": rng.normal(size=300)})
    rate = np.exp(1 + 0.3 * data.x + 0.3 * rng.normal(size=30)[data.g])
    data["y"] = rng.poisson(rate) * (rng.random(300) < 0.6)
    fit = sparselmm.mixedglm("y ~ x + (1 | g)", data, family="poisson", **given).fit()
    found = me.predictions(adapters.for_marginaleffects(fit))
    own = fit.predict(random="population", interval=True)
    np.testing.assert_allclose(found["estimate"], own["mean"], rtol=1e-8)
    np.testing.assert_allclose(found["std_error"], own.se, rtol=1e-4)


def test_marginaleffects_of_ordinal_responses_are_refused():
    pytest.importorskip("marginaleffects")
    fit = sparselmm.mixedglm(
        "rating ~ temp + (1 | judge)", datasets.load("wine"), family="ordinal"
    ).fit()
    with pytest.raises(DataError, match="an ordinal response has none"):
        adapters.for_marginaleffects(fit)


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


@pytest.mark.filterwarnings("ignore")
def test_degrees_of_freedom_of_marginaleffects(sleep):
    """Slopes by lmerTest and pbkrtest (marginaleffects differentiates to 1e-3); groups by ours."""
    me = pytest.importorskip("marginaleffects")
    pl = pytest.importorskip("polars")
    model = adapters.for_marginaleffects(sleep)
    for ddf, part in (("satterthwaite", "satterthwaite"), ("kenward-roger", "kenward_roger")):
        R = reference("inference", "sleep_slope_reml")[part]
        found = adapters.with_ddf(me.avg_slopes(model, variables="Days"), sleep, ddf).data
        assert found["df"][0] == pytest.approx(R["df"][1], rel=1e-4)
        assert found["std_error"][0] == pytest.approx(R["se"][1], rel=1e-3)
        assert found["p_value"][0] == pytest.approx(R["p"][1], rel=1e-2)
    rows = datasets.load("sleepstudy").query("Days == 9").reset_index(drop=True)
    rows["Subject"] = rows["Subject"].astype("category")
    both = adapters.for_marginaleffects(sleep, random=True)
    table = me.predictions(both, newdata=pl.from_pandas(rows), hypothesis="b0 - b1 = 3")
    found = adapters.with_ddf(table, sleep).data
    own = sleep.get_prediction(rows, re=True, ddf="satterthwaite")
    test = own.t_test(np.eye(18)[0] - np.eye(18)[1], 3.0)
    assert found["df"][0] == pytest.approx(np.ravel(test.df_denom)[0], rel=1e-4)
    assert found["std_error"][0] == pytest.approx(test.sd[0], rel=1e-5)
    assert found["p_value"][0] == pytest.approx(test.pvalue[0], rel=1e-3)
    with pytest.raises(ArgumentError, match="method for fixed effects"):
        adapters.with_ddf(table, sleep, "kenward-roger")
    with pytest.raises(ArgumentError, match="leave equivalence="):
        adapters.with_ddf(me.avg_slopes(model, variables="Days", equivalence=[-1.0, 1.0]), sleep)


@pytest.mark.filterwarnings("ignore")
def test_degrees_of_freedom_of_pymmeans():
    """Means and Tukey's pairs of R's emmeans."""
    pm = pytest.importorskip("pymmeans")
    R = reference("extra", "contrasts")["pairs_scheffe"]
    fit = sparselmm.mixedlm("effort ~ Type + (1 | Subject)", datasets.load("ergoStool")).fit()
    means = pm.emmeans(adapters.for_pymmeans(fit), "Type")
    expected = fit.emmeans("Type").frame
    found = adapters.with_ddf(means, fit).frame
    np.testing.assert_allclose(found["df"], expected["df"])
    np.testing.assert_allclose(found["lower_cl"], expected["lower.CL"])
    pairs = adapters.with_ddf(pm.pairs(means), fit).frame
    np.testing.assert_allclose(pairs["df"], R["df"], 1e-4)
    np.testing.assert_allclose(pairs["t_ratio"], R["t.ratio"], 1e-5)
    own = fit.emmeans("Type").pairs()
    np.testing.assert_allclose(pairs["p_value"], own["p.value"], 1e-6)
    with pytest.raises(ValueError, match="cannot propagate the 'satterthwaite'"):
        pm.pairs(adapters.with_ddf(means, fit))
    with pytest.raises(ArgumentError, match="table must be a table of"):
        adapters.with_ddf(expected, fit)


def test_maketables(sleep):
    """Fixed effects with their own degrees of freedom, not statsmodels' normal tests."""
    mt = pytest.importorskip("maketables")
    from maketables.extractors import get_extractor

    model = adapters.for_maketables(sleep)
    table = get_extractor(model).coef_table(model)
    R = reference("inference", "sleep_slope_reml")["satterthwaite"]
    np.testing.assert_allclose(table["p"], R["p"], 1e-3)
    assert "10.467" in mt.ETable([model]).make(type="tex")
    assert not hasattr(model, "params")


def test_great_tables(sleep):
    gt = pytest.importorskip("great_tables")
    for table in (sleep.tidy("fixed"), sleep.anova(), sleep.joint_tests()):
        assert "Days" in gt.GT(pd.DataFrame(table).reset_index()).as_raw_html()


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
