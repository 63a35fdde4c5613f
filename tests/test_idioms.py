"""Lines found in public code that uses statsmodels' mixed models, as they stand there."""

import numpy as np
import pandas as pd
import pytest

from sparselmm import datasets
from sparselmm import mixedlm as mixedlm
from sparselmm.model import MixedLM

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
