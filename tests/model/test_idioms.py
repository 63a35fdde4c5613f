"""Lines found in public code that uses statsmodels' mixed models, as they stand there."""

import copy

import numpy as np
import pandas as pd
import pytest

from sparselmm import datasets
from sparselmm import mixedlm as mixedlm
from sparselmm.model.mixedlm import MixedLM

DATA = datasets.load("sm_dietox")
PASTES = datasets.load("sm_pastes")
OPTIONS = [
    {"reml": True, "method": "lbfgs", "maxiter": 200, "disp": False},
    {"method": ["lbfgs", "bfgs"]},
    {"method": "cg"},
    {"method": ["powell", "lbfgs"]},
    {"reml": False, "method": "bfgs", "full_output": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_fit_options(options):
    fit = mixedlm("Weight ~ Time", DATA, groups=DATA["Pig"]).fit(**options)
    assert fit.converged
    best = mixedlm("Weight ~ Time", DATA, groups="Pig").fit(reml=options.get("reml", True))
    assert fit.llf == pytest.approx(best.llf, abs=1e-4)
    assert (fit.hist is not None) == options.get("full_output", False)


def test_reading_results():
    md = mixedlm("Weight ~ Time", DATA, groups=DATA["Pig"], re_formula="~Time")
    res = md.fit(method="lbfgs", maxiter=200, disp=False)
    n = "Time"
    assert res.params.get(n) == res.params[n]
    assert res.params.get("nothing") is None
    assert res.pvalues[n] < 1e-10
    assert list(res.conf_int().loc[n]) == [res.conf_int().loc[n, 0], res.conf_int().loc[n, 1]]
    icc = float(res.cov_re.iloc[0, 0]) / (float(res.cov_re.iloc[0, 0]) + res.scale)
    assert 0 < icc < 1
    for g, v in res.random_effects.items():
        assert res.random_effects_cov[g].loc["Group", "Time"] is not None
        assert v.iloc[0] == v.get("Group")
    np.testing.assert_allclose(res.model.predict(res.params), res.predict())
    np.testing.assert_allclose(res.fittedvalues + res.resid, DATA["Weight"])


def test_components():
    vcf = {"cask": "0 + C(cask)"}
    model = MixedLM.from_formula(
        "strength ~ 1", groups=np.ones(len(PASTES)), vc_formula={"batch": "0 + C(batch)", **vcf},
        data=PASTES,
    )  # fmt: skip
    res = model.fit()
    named = dict(zip(model.exog_vc.names, res.vcomp, strict=True))
    assert list(named) == ["batch", "cask"]
    assert float(res.vcomp[0]) == named["batch"]
    assert model.exog_vc.mats[0][0].shape == (60, 10)
    assert model.exog_vc.colnames[1][0][0] == "C(cask)[a]"


@pytest.mark.parametrize("kind", ["str", "series", "list", "array"])
def test_groups(kind):
    groups = {
        "str": "Pig", "series": DATA["Pig"], "list": DATA["Pig"].tolist(),
        "array": DATA["Pig"].to_numpy(),
    }[kind]  # fmt: skip
    res = mixedlm("Weight ~ Time", DATA, groups=groups).fit()
    assert res.params.index[-1] == ("Pig Var" if kind == "str" else "Group Var")
    assert isinstance(res.params, pd.Series)


def test_tables_made_of_results():
    res = mixedlm("Weight ~ Time", DATA, groups="Pig", re_formula="~Time").fit()
    wide = pd.DataFrame(res.random_effects).T
    assert wide.shape == (72, 2)
    pd.testing.assert_frame_equal(wide, pd.concat(res.random_effects, axis=1).T)
    assert pd.concat(res.random_effects_cov).shape == (144, 2)
    table = pd.concat([res.params, res.bse, res.pvalues, res.conf_int()], axis=1)
    assert table.drop("Pig Var").shape == (4, 5)
    assert res.summary().tables[1].loc["Time", "Coef."] == "6.939"
    assert res.summary().tables[1]["Coef."].astype(float)["Time"] == pytest.approx(6.939)


@pytest.mark.parametrize(
    "rows", [DATA["Time"] > 3, slice(None, None, -1)], ids=["filtered", "reversed"]
)
def test_rows_keep_their_labels(rows):
    part = DATA[rows]
    res = mixedlm("Weight ~ Time", part, groups=part["Pig"]).fit()
    assert part.assign(resid=res.resid)["resid"].notna().all()
    assert list(res.fittedvalues.index) == list(part.index) == list(res.model.data.row_labels)
    design = res.model.data.design_info
    assert design.column_names == res.model.exog_names


def test_other_tools(tmp_path):
    api = pytest.importorskip("statsmodels.api")
    diagnostic = pytest.importorskip("statsmodels.stats.diagnostic")
    res = mixedlm("Weight ~ Time", DATA, groups="Pig").fit()
    assert diagnostic.het_white(res.resid, res.model.exog)[1] < 0.05
    res.save(str(tmp_path / "fit.pickle"))
    for same in (api.load(str(tmp_path / "fit.pickle")), copy.deepcopy(res)):
        pd.testing.assert_series_equal(same.params, res.params)
        np.testing.assert_allclose(same.predict(DATA.head(2)), res.predict(DATA.head(2)))
