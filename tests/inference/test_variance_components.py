"""Variance components, ICC and R2: R's numbers, closed forms, a simulation."""

import json
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from reference_fits import INFERENCE_IDS, reference_fit, reference_inference
from scipy.stats import norm

import sparselmm
from sparselmm import datasets
from sparselmm.base.exceptions import ModelWarning

RECORDS = json.loads(
    datasets.data_dir().joinpath("reference", "extra", "variances.json").read_text(encoding="utf-8")
)
FITS = {record["id"]: record for record in RECORDS["fits"]}
LEAVES_OUT = ("sleep_zcp_reml", "exam_zcp_reml")
"""performance (insight) counts only the first of several terms of one factor; ours sums them, as
the R script does from Z."""


@cache
def fitted(name):
    """A reference fit at R's theta: formulas and not searches are compared."""
    ref = reference_fit(name)
    weights = {} if ref.weights_formula is None else {"weights": ref.weights}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelWarning)
        fit = sparselmm.mixedlm(ref.formula, ref.rows, **weights).fit(reml=ref.reml)
    np.testing.assert_allclose(fit.theta, ref.theta, atol=1e-4)
    return type(fit)(fit.model, fit.built, fit.deviance, fit.deviance.at(ref.theta), fit.opt)


def packed(fit, column):
    """A column in the order of the R script: lower triangles by column, sigma^2 last."""
    frame = fit.variance_components()
    out = []
    for term in fit._est.terms:
        rows = frame[frame.grp == term.name]
        names = rows.var1[rows.var2.isna()].tolist()
        for b, first in enumerate(names):
            for second in names[b:]:
                same = rows.var2.isna() if first == second else rows.var2 == second
                out.append(rows[(rows.var1 == first) & same][column].item())
    return np.array([*out, frame[column].iloc[-1]])


@pytest.mark.parametrize("name", FITS)
def test_standard_errors_and_icc(name):
    record, fit = FITS[name], fitted(name)
    np.testing.assert_allclose(packed(fit, "vcov"), record["vcov"], rtol=1e-8)
    np.testing.assert_allclose(packed(fit, "vcov_se"), record["vcov_se"], rtol=1e-6)
    icc = fit.icc()
    for column in ("icc", "se", "lower", "upper"):
        key = column if column == "icc" else f"icc_{column}"
        np.testing.assert_allclose(icc[column], record[key], rtol=1e-6)
    if "icc_adjusted" in record and name not in LEAVES_OUT:
        found = [icc.icc.iloc[-1], icc.icc_unadjusted.iloc[-1]]
        np.testing.assert_allclose(found, [record["icc_adjusted"], record["icc_unadjusted"]])


@pytest.mark.parametrize(
    "name",
    [n for n in INFERENCE_IDS if "performance" in reference_inference(n) and n not in LEAVES_OUT],
)
def test_r2_as_performance(name):
    record = reference_inference(name)["performance"]
    r2 = fitted(name).r2()
    np.testing.assert_allclose(r2.conditional, record["r2_conditional"], rtol=1e-7)
    np.testing.assert_allclose(r2.marginal, record["r2_marginal"], rtol=1e-7, atol=1e-12)


def test_intervals_are_made_on_the_log_and_on_fishers_scale():
    frame = fitted("sleep_slope_reml").variance_components(alpha=0.1)
    record = FITS["sleep_slope_reml"]
    V, cov = np.array(record["vcov"]), np.array(record["covariance"])
    half = norm.ppf(0.95)
    log_se = np.sqrt(cov[0, 0]) / (2.0 * V[0])
    expected = np.sqrt(V[0]) * np.exp([-half * log_se, half * log_se])
    np.testing.assert_allclose(frame.loc[0, ["lower", "upper"]].astype(float), expected, rtol=1e-6)
    step = 1e-6  # Fisher's z as a function of the variances, differentiated

    def z(v):
        return np.arctanh(v[1] / np.sqrt(v[0] * v[2]))

    slope = np.array(
        [(z(V + h) - z(V - h)) / (2.0 * h.sum()) for h in np.diag(step * np.abs(V))[:3]]
    )
    z_se = np.sqrt(slope @ cov[:3, :3] @ slope)
    expected = np.tanh(z(V) + half * z_se * np.array([-1.0, 1.0]))
    np.testing.assert_allclose(frame.loc[2, ["lower", "upper"]].astype(float), expected, rtol=1e-5)


PROFILED = [n for n in INFERENCE_IDS if "profile_exact" in reference_inference(n)]


@pytest.mark.parametrize("name", [n for n in PROFILED if n.endswith("reml")])
def test_profile_intervals(name):
    """Ends that R finds by minimization and root finding, each in the row of its parameter."""
    record = reference_inference(name)["profile_exact"]["intervals"]
    fit = fitted(name)
    frame = fit.variance_components(ci="profile")
    groups = {term.name: ":".join(term.levels.names) for term in fit._est.terms}
    names = {"Intercept": "(Intercept)"}
    for row in frame.itertuples():
        first = names.get(row.var1, row.var1)
        if row.grp == "Residual":
            key = "sigma"
        elif pd.isna(row.var2):
            key = f"sd_{first}|{groups[row.grp]}"
        else:
            key = f"cor_{row.var2}.{first}|{groups[row.grp]}"
        theirs = record[key]
        width = theirs["upper"] - theirs["lower"]
        ends = [theirs["lower"], theirs["upper"]]
        np.testing.assert_allclose([row.lower, row.upper], ends, rtol=0, atol=1e-6 * width)
    wald = fit.variance_components()
    pd.testing.assert_frame_equal(
        frame.drop(columns=["lower", "upper"]), wald.drop(columns=["lower", "upper"])
    )


def test_profile_intervals_of_patterned_terms():
    """A parameter that several entries have in common gives its interval to all of them."""
    data = datasets.load("Machines")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelWarning)
        fit = sparselmm.mixedlm("score ~ Machine + cs(0 + Machine | Worker)", data).fit()
        same = sparselmm.mixedlm("score ~ Machine + ar1(0 + Machine | Worker)", data).fit()
    frame, table = fit.variance_components(ci="profile"), fit.conf_int(method="profile")
    correlations = frame[frame.var2.notna()]
    assert len(correlations) == 3
    expected = table.loc[["cor_Worker"] * 3].to_numpy()
    np.testing.assert_array_equal(correlations[["lower", "upper"]], expected)
    frame = same.variance_components(ci="profile")
    assert frame.lower.isna().sum() == 1  # Machine A with Machine C


def test_a_share_does_not_depend_on_the_origin_of_a_covariate():
    data = datasets.load("Orthodont")
    fits = [
        sparselmm.mixedlm("distance ~ age * Sex + (age | Subject)", data.assign(age=data.age - at))
        .fit()
        .variance_components()
        for at in (0, 20, 11)
    ]
    for frame in fits[:2]:
        assert frame.share.isna().tolist() == [False, True, True, False]
    assert not fits[2].share.isna().any()  # the mean age: intercept and slope add up
    for frame in fits:
        assert frame.share.dropna().between(-1e-12, 1).all()
        whole = frame.share[frame.grp == "Subject"].sum()
        assert whole == pytest.approx(fits[0].share[0], rel=1e-5)
    machines = sparselmm.mixedlm(
        "score ~ Machine + (0 + Machine | Worker)", datasets.load("Machines")
    )
    assert machines.fit().variance_components().share.iloc[:3].between(0, 1).all()


@pytest.mark.parametrize("name", ["carrots_crossed_reml", "sleep_w_reml", "pastes_nested_reml"])
def test_shares_sum_to_one(name):
    fit = fitted(name)
    frame = fit.variance_components()
    assert frame.share.sum() == pytest.approx(1.0, rel=1e-12)
    for term, icc in fit.icc().icc.iloc[:-1].items():
        assert frame.share[frame.grp == term].sum() == pytest.approx(icc, rel=1e-12)


def test_balanced_one_way_layout():
    """ICC of the analysis of variance; the delta method is Fisher's formula."""
    a, m = 12, 5
    rng = np.random.default_rng(8)
    y = rng.normal(size=(a, 1)) + rng.normal(size=(a, m))
    data = pd.DataFrame({"y": y.ravel(), "g": np.repeat(np.arange(a), m)})
    icc = sparselmm.mixedlm("y ~ 1 + (1 | g)", data).fit().icc()
    between = m * ((y.mean(axis=1) - y.mean()) ** 2).sum() / (a - 1)
    within = ((y - y.mean(axis=1, keepdims=True)) ** 2).sum() / (a * (m - 1))
    rho = (between - within) / (between + (m - 1) * within)
    assert icc.icc["g"] == pytest.approx(rho, rel=1e-6)
    # Fisher: log of the ratio of mean squares has variance 2 / (a - 1) + 2 / (a (m - 1))
    change = (1 - rho) * (1 + (m - 1) * rho) / m
    se = change * np.sqrt(2.0 / (a - 1) + 2.0 / (a * (m - 1)))
    assert icc.se["g"] == pytest.approx(se, rel=1e-6)


def test_zero_variance():
    with pytest.warns(sparselmm.SingularMatrixWarning):
        fit = sparselmm.mixedlm("Yield ~ 1 + (1 | Batch)", datasets.load("Dyestuff2")).fit()
    frame, icc = fit.variance_components(), fit.icc()
    assert frame.loc[0, ["vcov_se", "sdcor_se", "lower", "upper"]].isna().all()
    assert np.isfinite(frame.loc[1, ["vcov_se", "lower", "upper"]].astype(float)).all()
    assert icc.icc.tolist() == [0.0, 0.0]
    assert icc[["se", "lower", "upper"]].isna().all(axis=None)
    assert fit.r2().conditional < 1e-20


def test_bootstrap_intervals():
    fit = sparselmm.mixedlm("Yield ~ 1 + (1 | Batch)", datasets.load("Dyestuff")).fit()
    boot = fit.icc(ci="bootstrap", n=300, seed=7)
    values = fit.bootstrap(300, statistic=lambda r: r.icc().icc.iloc[0], seed=7).values[:, 0]
    assert boot.se["Batch"] == pytest.approx(values.std(ddof=1), rel=1e-3)
    assert boot.lower["Batch"] == 0.0
    assert (values == 0.0).mean() > 0.025
    assert (values > boot.upper["Batch"]).mean() == pytest.approx(0.025, abs=0.005)
    assert boot.icc.tolist() == fit.icc().icc.tolist()


def test_refusals():
    fit = sparselmm.mixedlm("Yield ~ 1 + (1 | Batch)", datasets.load("Dyestuff")).fit()
    with pytest.raises(ValueError, match="ci must be"):
        fit.icc(ci="profile")
    with pytest.raises(ValueError, match="seed: only for ci='bootstrap'"):
        fit.icc(seed=1)
    with pytest.raises(ValueError, match="statistic: the bootstrap of icc"):
        fit.icc(ci="bootstrap", statistic=len)
    with pytest.raises(ValueError, match="alpha must be"):
        fit.variance_components(alpha=5)
    with pytest.raises(ValueError, match="ci must be one of 'wald' or 'profile'"):
        fit.variance_components(ci="bootstrap")
    before = fit.variance_components()
    fit.remove_data()
    pd.testing.assert_frame_equal(fit.variance_components(), before)
    with pytest.raises(sparselmm.RemovedRowsError, match=r"^icc is made of the rows"):
        fit.icc()
    with pytest.raises(sparselmm.DataError, match="remove_data"):
        fit.r2()


@pytest.mark.slow
def test_coverage():
    """90 % intervals of a standard deviation, of sigma and of the ICC, by simulation."""
    g = np.repeat(np.arange(40), 5)
    rng, rounds = np.random.default_rng(9), 160
    hits = dict.fromkeys(["wald", "profile", "sigma", "icc"], 0)
    data = pd.DataFrame({"g": g})
    for _ in range(rounds):
        data["y"] = 0.8 * rng.normal(size=40)[g] + rng.normal(size=200)
        fit = sparselmm.mixedlm("y ~ 1 + (1 | g)", data).fit()
        wald, profile = (fit.variance_components(0.1, ci) for ci in ("wald", "profile"))
        icc = fit.icc(alpha=0.1).loc["g"]
        hits["wald"] += wald.lower[0] < 0.8 < wald.upper[0]
        hits["profile"] += profile.lower[0] < 0.8 < profile.upper[0]
        hits["sigma"] += wald.lower[1] < 1.0 < wald.upper[1]
        hits["icc"] += icc.lower < 0.64 / 1.64 < icc.upper
    error = np.sqrt(0.9 * 0.1 / rounds)
    for name, hit in hits.items():
        assert abs(hit / rounds - 0.9) < 3.0 * error, name


@pytest.mark.parametrize("weighted", [False, True])
def test_shares_of_slopes_with_a_known_covariance_count_its_diagonal(weighted):
    rng = np.random.default_rng(2)
    data = datasets.load("sleepstudy")
    labels = sorted(data.Subject.unique())
    A = rng.normal(size=(18, 18))
    K = np.eye(18) + 0.3 * A @ A.T / 18
    known = sparselmm.KnownCovariance(K, labels, kind="covariance")
    fit = sparselmm.mixedlm(
        "Reaction ~ Days + (Days | Subject)", data, covariance={"Subject": known},
        weights=rng.uniform(0.5, 2.0, len(data)) if weighted else None,
    ).fit()  # fmt: skip
    v = fit.varcorr["vcov"]
    z, at = data.Days.to_numpy(), [labels.index(s) for s in data.Subject]
    row = np.diag(K)[at] * (v[0] + v[1] * z**2 + 2.0 * v[2] * z)
    assert fit.r2().var_random == pytest.approx(row.mean())
    total = fit.r2().var_random + fit.r2().var_residual
    assert fit.variance_components()["share"][0] == pytest.approx(row.mean() / total)
    assert fit.icc()["icc"].iloc[0] == pytest.approx(row.mean() / total)
