"""Parameters held at given values: metafor's meta-analyses, lme4's deviance, estimates kept."""

import json

import numpy as np
import pandas as pd
import pytest

import sparselmm
from sparselmm import DataError, KnownCovariance, mixedlm

REFERENCE = json.loads(
    sparselmm.datasets.data_dir().joinpath("reference/extra/structures.json").read_text("utf-8")
)
TAU2 = 5e-5
"""A deviance within 1e-9 of the smallest determines tau^2 of 13 trials no better."""

bcg = pd.DataFrame({name: REFERENCE["meta"][name] for name in ("yi", "vi", "ablat")})
bcg = bcg.assign(trial=range(13), w=1.0 / bcg["vi"])
sleep = sparselmm.datasets.load("sleepstudy")
FORMULA = "Reaction ~ Days + (Days | Subject)"


def metafor(case):
    """metafor's REML criterion leaves ``log det X'X`` out, as the transformed data would."""
    return case["criterion"] + (case["logdet_XtX"] if case["REML"] else 0.0)


@pytest.mark.parametrize("engine", ["sparse", "dense"])
@pytest.mark.parametrize(
    "case", REFERENCE["meta"]["fits"], ids=lambda c: f"{c['mods']}-{c['REML']}"
)
def test_meta_analysis(case, engine):
    formula = f"yi ~ {'ablat' if case['mods'] else '1'} + (1 | trial)"
    model = mixedlm(formula, bcg, weights="w")
    result = model.fit(reml=case["REML"], fix={"sigma": 1}, engine=engine)
    assert result.scale == 1.0
    assert -2.0 * result.llf == pytest.approx(metafor(case), abs=1e-8)
    assert result.cov_re.iloc[0, 0] == pytest.approx(case["tau2"], rel=TAU2)
    np.testing.assert_allclose(result.fe_params, case["fixef"], rtol=1e-5)
    np.testing.assert_allclose(result.bse_fe, case["se"], rtol=2e-5)
    assert result.n_parameters == len(case["fixef"]) + 1
    if not case["mods"]:
        np.testing.assert_allclose(result.fittedvalues, case["blup"], rtol=1e-5, atol=1e-6)


def test_error_of_the_variance_is_the_observed_information():
    """``-2 / (d^2 deviance / d(tau^2)^2)`` by differences of the closed form."""
    result = mixedlm("yi ~ 1 + (1 | trial)", bcg, weights="w").fit(reml=False, fix={"sigma": 1})

    def deviance(tau2):
        v = tau2 + bcg["vi"]
        mean = np.sum(bcg["yi"] / v) / np.sum(1 / v)
        return np.sum(np.log(2 * np.pi * v) + (bcg["yi"] - mean) ** 2 / v)

    tau2, h = result.cov_re.iloc[0, 0], 1e-4
    assert -2.0 * result.llf == pytest.approx(deviance(tau2), rel=1e-12)
    bend = (deviance(tau2 + h) - 2 * deviance(tau2) + deviance(tau2 - h)) / h**2
    assert result.bse_re.iloc[0] == pytest.approx(np.sqrt(2.0 / bend), rel=1e-5)


@pytest.mark.parametrize("case", REFERENCE["phylo"]["fits"], ids=["REML", "ML"])
def test_phylogenetic_meta_analysis(case):
    """Known variances of the rows and a known covariance between species at once."""
    phylo = REFERENCE["phylo"]
    data = pd.DataFrame({"y": phylo["y"], "species": phylo["species"]})
    known = KnownCovariance(np.array(phylo["K"]), phylo["species"])
    weights = 1.0 / np.array(phylo["v"])
    model = mixedlm("y ~ 1 + (1 | species)", data, weights=weights, covariance={"species": known})
    result = model.fit(reml=case["REML"], fix={"sigma": 1})
    assert -2.0 * result.llf == pytest.approx(metafor(case), abs=1e-8)
    assert result.cov_re.iloc[0, 0] == pytest.approx(case["sigma2"], rel=TAU2)
    np.testing.assert_allclose(result.fe_params, case["fixef"], rtol=1e-5)
    np.testing.assert_allclose(result.bse_fe, case["se"], rtol=1e-5)


def test_holding_the_estimates_gives_the_estimates():
    model = mixedlm(FORMULA, sleep)
    whole = model.fit()
    sd = np.sqrt(np.diag(whole.cov_re))
    spellings = [
        {"sigma": whole.sigma},
        {"sigma": whole.sigma, "Subject": {"cov": whole.cov_re}},
        {"sigma": whole.sigma, "Subject": {"sd": sd, "corr": whole.cov_re / np.outer(sd, sd)}},
        {"Subject": {"ratio": whole.cov_re_unscaled}},
        {"theta": whole.theta},
        {"theta": [whole.theta[0], np.nan, np.nan]},
        {"theta": [np.nan, whole.theta[1], np.nan]},
    ]
    for fix, count in zip(spellings, [5, 2, 2, 3, 3, 5, 5], strict=True):
        held = model.fit(fix=fix)
        assert held.converged, fix
        assert held.llf == pytest.approx(whole.llf, abs=1e-8), fix
        assert held.n_parameters == count, fix
        np.testing.assert_allclose(held.cov_re, whole.cov_re, rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(held.fe_params, whole.fe_params, rtol=1e-7)


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_held_values_by_definition(reml):
    """One term and sigma held, the other estimated: the deviance from V."""
    data = sparselmm.datasets.load("Penicillin")
    model = mixedlm("diameter ~ 1 + (1 | plate) + (1 | sample)", data)
    fix = {"sigma": 0.5, "sample": {"sd": 2.0}}
    result = model.fit(reml=reml, fix=fix)
    assert result.theta.shape == (1,)
    assert result.varcorr.set_index("grp")["sdcor"][["sample", "Residual"]].tolist() == [2.0, 0.5]
    y, one = data["diameter"].to_numpy(), np.ones((len(data), 1))
    same = [np.equal.outer(data[g].to_numpy(), data[g].to_numpy()) for g in ("plate", "sample")]

    def deviance(variance):
        V = variance * same[0] + 4.0 * same[1] + 0.25 * np.eye(len(y))
        inverse = np.linalg.inv(V)
        information = one.T @ inverse @ one
        e = y - one @ np.linalg.solve(information, one.T @ inverse @ y)
        value = np.linalg.slogdet(V)[1] + e @ inverse @ e
        if reml:
            value += np.linalg.slogdet(information)[1]
        return value + (len(y) - reml) * np.log(2 * np.pi)

    best = float(result.varcorr.set_index("grp")["vcov"]["plate"])
    assert -2.0 * result.llf == pytest.approx(deviance(best), rel=1e-12)
    assert deviance(best) < min(deviance(0.999 * best), deviance(1.001 * best))
    assert result.opt.converged


def test_free_weights_of_equal_size():
    """Equal known variances: sigma^2 / w is what counts, and the mean has its textbook error."""
    data = pd.DataFrame({"y": [1.0, 2.0, 4.0, 7.0], "g": list("abcd")})
    result = mixedlm("y ~ 1 + (1 | g)", data, weights=np.full(4, 4.0)).fit(fix={"sigma": 2.0})
    between = np.var(data["y"], ddof=1) - 1.0
    assert result.cov_re.iloc[0, 0] == pytest.approx(between, rel=1e-5)
    assert result.bse_fe.iloc[0] == pytest.approx(np.sqrt((between + 1.0) / 4), rel=1e-5)


@pytest.mark.parametrize(
    ("fix", "message"),
    [
        (2.0, "must be a dict"),
        ({"Sigma": 1.0}, "fix names 'Sigma'"),
        ({"sigma": 0.0}, "positive"),
        ({"Subject": {"sd": [1.0, 2.0]}}, "needs sigma held as well"),
        ({"Subject": 3.0}, "is not understood"),
        ({"sigma": 1.0, "Subject": {"sd": 1.0}}, "of order 2"),
        ({"theta": [1.0]}, "must hold 3 numbers"),
        ({"sigma": 1j}, "'sigma'.*positive"),
        ({"sigma": True}, "'sigma'.*positive"),
        ({"sigma": 1.0, "Subject": {"sd": [1.0, -1.0]}}, "'sd'.*not be negative"),
        ({"sigma": 1.0, "Subject": {"sd": [1.0, 1.0], "corr": 2 * np.eye(2)}}, "'corr'"),
        ({"sigma": 1.0, "Subject": {"sd": [1, 1], "corr": [[1, 2], [2, 1]]}}, "'corr'"),
        ({"sigma": 1.0, "Subject": {"cov": [[1.0, 2.0], [2.0, 1.0]]}}, "semi-definite"),
        ({"Subject": {"ratio": -np.eye(2)}}, "semi-definite"),
        ({"Subject": {"ratio": 1j * np.eye(2)}}, "'ratio'.*real"),
        ({"theta": [1, np.nan, 1], "Subject": {"ratio": np.eye(2)}}, "both 'theta' and 'Subject'"),
        ({"theta": [1j, 0.0, 1.0]}, "'theta'.*real"),
    ],
)
def test_what_cannot_be_held(fix, message):
    with pytest.raises(DataError, match=message):
        mixedlm(FORMULA, sleep).fit(fix=fix)


def test_one_level_per_row_needs_sigma():
    model = mixedlm("yi ~ 1 + (1 | trial)", bcg, weights="w")
    with pytest.raises(DataError, match="fix="):
        model.fit()
    with pytest.raises(DataError, match="one per row"):
        mixedlm("yi ~ 1 + (1 | trial)", bcg)
    with pytest.raises(ValueError, match="does not go together"):
        model.fit(fix={"sigma": 1}, free=sparselmm.MixedLMParams(1, 1, 0))
