"""Predictions and their errors: against lme4, dense Henderson equations, closed forms."""

import re as regex
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from reference_fits import INFERENCE_IDS, reference_fit, reference_inference
from registry import MODELS
from scipy import stats

import sparselmm
from sparselmm import MixedLM, MixedLMResults, datasets
from sparselmm.base.exceptions import ArgumentError, DataError, RankDeficiencyWarning
from sparselmm.inference.prediction import variance as pv


def at_reference(name):
    """A reference fit and our results at its theta."""
    reference = reference_fit(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficiencyWarning)
        model = MixedLM.from_formula(reference.formula, reference.rows, weights=reference.weights)
    deviance = model.deviance(reference.reml)
    fit = MixedLMResults(model, model.built, deviance, deviance.at(reference.theta), None)
    return reference, fit


def close(actual, expected, rtol=1e-9):
    expected = np.asarray(expected, dtype=float)
    size = np.nanmax(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(np.asarray(actual, dtype=float), expected, rtol, rtol * size)


# ------------------------------------------------------------------------------ lme4

COEFFICIENTS = {"1": "Intercept", "0 + Days": "Days"}


@pytest.mark.parametrize("name", INFERENCE_IDS)
@pytest.mark.filterwarnings("ignore::sparselmm.exceptions.RankDeficiencyWarning")
def test_predictions_of_lme4(name):
    """All random effects, none, one term or coefficient at a time; levels not seen; errors."""
    _, fit = at_reference(name)
    expected = reference_inference(name)["predict"]
    new = pd.DataFrame(expected["newdata"])
    found = fit.get_prediction(new, interval="confidence").summary_frame()
    close(found["mean"], expected["pred_fixed"], 1e-6)
    close(found["mean_se"], expected["se_fixed"], 1e-6)
    close(fit.predict(new, re=True, unseen="population"), expected["pred"], 1e-6)
    for partial in expected["pred_partial"]:
        left, group = regex.match(r"~\((.*) \| (.*)\)", partial["re_form"]).groups()
        names = {
            term.name: [c for c in term.columns if c == COEFFICIENTS.get(left, c)]
            for term in fit._est.terms
            if set(term.levels.names) == set(group.split(":"))
        }
        close(fit.predict(new, re=names, unseen="population"), partial["pred"], 1e-6)
        if len(expected["pred_partial"]) == len(fit._est.terms) > len(names):
            close(fit.predict(new, re=list(names), unseen="population"), partial["pred"], 1e-6)


# ------------------------------------------------------------------- dense counterparts


def dense_errors(model, theta):
    """Covariance of ``(beta_hat - beta, b_hat - b)`` over sigma^2 from V, (p + q, p + q).

    With ``C = Psi Z'V^-1``: ``Var(b_hat - b) = Psi - C Z Psi + C X (X'V^-1X)^-1 X'C'``.
    """
    dense = model.dense(True)
    Lam = dense._lambda(theta)
    Psi, X, Z = Lam @ Lam.T, dense.X, dense.Z
    Vinv = np.linalg.inv(np.diag(1.0 / dense.w) + Z @ Psi @ Z.T)
    cov = np.linalg.inv(X.T @ Vinv @ X)
    C = Psi @ Z.T @ Vinv
    cross = -cov @ X.T @ C.T
    errors = Psi - C @ Z @ Psi + C @ X @ cov @ X.T @ C.T
    return np.block([[cov, cross], [cross.T, errors]])


def functionals(model, rng):
    """Rows of x and h: rows of the data, mixtures of them, single effects, differences."""
    Z, X = model.design.Z.tocsr(), model.design.X
    n, q = Z.shape
    pick = rng.integers(0, n, 12)
    mixed = sp.random_array((12, q), density=min(1.0, 3 / q), rng=rng, format="csr")
    units = sp.csr_array(sp.eye_array(q))[rng.integers(0, q, 8)]
    H = sp.csr_array(sp.vstack([Z[pick], mixed, units, units - Z[pick[:8]]]))
    return X[rng.integers(0, n, H.shape[0])], H


WAYS = [  # of getting h'G h, and thetas
    ("pattern", "interior"), ("pattern", "boundary"), ("solves", "random"), ("solves", "zero"),
    ("columns", "interior"),
]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("way", "kind"), WAYS)
def test_error_variances_are_those_of_the_dense_model(name, kind, way, monkeypatch):
    monkeypatch.setattr(pv, "FEW_ROWS", 0 if way == "pattern" else 10**6)
    monkeypatch.setattr(pv, "COLUMN_COST", 0 if way == "columns" else 10**6)
    monkeypatch.setattr(pv, "PAIRS_AT_ONCE", 20)
    model = MODELS[name]
    theta = model.theta(kind)
    X, H = functionals(model, np.random.default_rng(5))
    C = dense_errors(model, theta)
    rtol = 1e-6 if name == "badly_scaled" else 1e-9  # V of condition 1e10
    columns = np.arange(0, H.shape[1], 3)
    for strategy in model.strategies():
        if (strategy.ordering, strategy.mode) != ("amd", "supernodal"):
            continue
        engine = model.sparse(True, strategy)
        kept = engine.cross.basis.kept
        r = len(kept)
        rows = np.hstack([X[:, kept], H.toarray()])
        full = np.einsum("ij,jk,ik->i", rows, C, rows)
        close(pv.prediction_forms(engine, theta, X, H), full, rtol)
        joint = pv.joint_covariance(engine, theta, columns, True)
        close(joint, C[r:, r:][np.ix_(columns, columns)], rtol)


@pytest.mark.parametrize("name", [n for n in MODELS if n not in ("no_fixed", "badly_scaled")])
def test_henderson(name):
    """The inverse of the coefficient matrix of the mixed-model equations, in full."""
    model = MODELS[name]
    theta = model.theta("interior")
    dense = model.dense(True)
    Lam = dense._lambda(theta)
    rows = np.hstack([dense.X, dense.Z])
    p = dense.X.shape[1]
    equations = rows.T @ (dense.w[:, None] * rows)
    equations[p:, p:] += np.linalg.inv(Lam @ Lam.T)
    X, H = functionals(model, np.random.default_rng(6))
    engine = model.sparse(True)
    L = np.hstack([X[:, engine.cross.basis.kept], H.toarray()])
    expected = np.einsum("ij,ji->i", L, np.linalg.solve(equations, L.T))
    close(pv.prediction_forms(engine, theta, X, H), expected, 1e-8)
    given = np.einsum("ij,ji->i", L[:, p:], np.linalg.solve(equations[p:, p:], L[:, p:].T))
    close(pv.conditional_forms(engine, theta, H), given, 1e-8)


# --------------------------------------------------------------------- new levels, weights


def sleep():
    data = datasets.load("sleepstudy")
    return data, MixedLM.from_formula("Reaction ~ Days + (Days | Subject)", data).fit()


def test_new_levels_and_new_observations():
    data, fit = sleep()
    new = pd.DataFrame({"Days": [0.0, 5, 5], "Subject": ["308", "308", "new"]})
    Z = np.array([[1.0, 0], [1, 5], [1, 5]])
    psi, X, sigma2 = np.asarray(fit.cov_re), Z, fit.scale
    fixed = np.einsum("ij,jk,ik->i", X, np.asarray(fit.cov_params())[:2, :2], X)
    marginal = np.einsum("ij,jk,ik->i", Z, psi, Z)
    population = fit.get_prediction(new, weights=[1, 2, 4])
    close(population.se_mean**2, fixed)
    close(population.se_obs**2, fixed + marginal + sigma2 / np.array([1, 2, 4]))
    group = fit.get_prediction(new, re=True, unseen="population")
    close(group.predicted_mean, fit.predict(new, re=True, unseen="population"))
    close(group.se_mean[2] ** 2, fixed[2] + marginal[2])
    close(group.se_obs**2, group.se_mean**2 + sigma2)
    assert (group.se_mean[:2] ** 2 < marginal[:2]).all()
    frame = group.summary_frame(alpha=0.1)
    half = stats.norm.ppf(0.95) * group.se_obs
    close(frame["obs_ci_upper"] - frame["mean"], half)
    assert list(frame) == [
        "mean", "mean_se", "mean_ci_lower", "mean_ci_upper", "obs_ci_lower", "obs_ci_upper"
    ]  # fmt: skip
    holes = fit.get_prediction(new.assign(Days=[0, np.nan, 5]), re=True, unseen="population")
    close(holes.se_obs[[0, 2]], group.se_obs[[0, 2]])
    assert np.isnan([holes.predicted_mean[1], holes.se_mean[1], holes.se_obs[1]]).all()
    missing = fit.get_prediction(new, re=True, unseen="nan").summary_frame()
    assert missing.isna().any(axis=1).tolist() == [False, False, True]
    with pytest.raises(DataError, match="has not seen"):
        fit.get_prediction(new, re=True)
    own = fit.get_prediction(re=True)  # the training rows
    assert own.summary_frame().index.equals(data.index)
    close(own.predicted_mean, fit.fittedvalues)
    close(fit.get_prediction(data, re=True).se_obs, own.se_obs)


def test_factors_switched_off_need_no_column():
    data = datasets.load("Penicillin")
    fit = MixedLM.from_formula("diameter ~ 1 + (1 | plate) + (1 | sample)", data).fit()
    sizes = fit.varcorr.set_index("grp").vcov
    some = fit.get_prediction(data[["sample"]], re="sample")
    close(some.predicted_mean, fit.predict(data, re=["sample"]))
    close(some.se_obs**2 - some.se_mean**2, np.full(144, sizes["plate"] + fit.scale))
    none = fit.get_prediction(data[["diameter"]])
    close(none.se_obs**2 - none.se_mean**2, np.full(144, sizes.sum()))
    assert (fit.get_prediction(data, re=True).se_obs < some.se_obs).all()
    with pytest.raises(Exception, match="plate"):
        fit.predict(data[["sample"]], re=True)


@pytest.mark.filterwarnings("ignore::sparselmm.exceptions.SpecificationWarning")
def test_groups_arrays_and_components():
    data = datasets.load("Pastes")
    vc = MixedLM.from_formula(
        "strength ~ 1", data, groups="batch", re_formula="1", vc_formula={"cask": "0 + C(cask)"}
    ).fit()
    bars = MixedLM.from_formula("strength ~ 1 + (1 | batch/cask)", data).fit()
    for re in (True, False):
        a, b = vc.get_prediction(data, re=re), bars.get_prediction(data, re=re)
        pd.testing.assert_frame_equal(a.summary_frame(), b.summary_frame(), rtol=1e-6)
    a, b = vc.get_prediction(data, re="cask"), bars.get_prediction(data, re="cask:batch")
    pd.testing.assert_frame_equal(a.summary_frame(), b.summary_frame(), rtol=1e-6)
    data, formula = sleep()
    X = np.column_stack([np.ones(180), data.Days])
    fit = MixedLM(data.Reaction.to_numpy(), X, data.Subject.to_numpy(), exog_re=X).fit()
    expected = formula.get_prediction(data, re=True).summary_frame()
    found = fit.get_prediction(X, re=True, groups=data.Subject.to_numpy(), exog_re=X)
    close(found.summary_frame(), expected, 1e-6)
    close(fit.get_prediction(X, exog_re=X).se_obs, formula.get_prediction(data).se_obs, 1e-6)
    close(fit.get_prediction(X, interval="confidence").se_mean, fit.get_prediction().se_mean)


# ------------------------------------------------------------------- degrees of freedom


@pytest.mark.parametrize("name", ["Dyestuff", "Rail"])
def test_satterthwaite_of_a_balanced_one_way_layout(name):
    """A new group's mean and observation are combinations of two mean squares.

    With a groups of n, ``Var = c_A MS_A + c_E MS_E``; Satterthwaite (1946).
    """
    data = datasets.load(name)
    y, group = {"Dyestuff": ("Yield", "Batch"), "Rail": ("travel", "Rail")}[name]
    fit = MixedLM.from_formula(f"{y} ~ 1 + (1 | {group})", data).fit()
    table = data.groupby(group, observed=True)[y]
    a, n = table.ngroups, len(data) // table.ngroups
    ms_a, ms_e = n * table.mean().var(), table.var().mean()
    new = pd.DataFrame({group: ["new"]})
    found = fit.get_prediction(new, re=True, unseen="population", ddf="satterthwaite")
    for se, df, residual in (
        (found.se_mean, found.df_mean, 0.0), (found.se_obs, found.df_obs, 1.0)
    ):  # fmt: skip
        c_a = (1 + 1 / a) / n
        c_e = residual + 1 / (a * n) - c_a
        parts = np.array([c_a * ms_a, c_e * ms_e])
        dof = np.array([a - 1, a * (n - 1)])
        close(se**2, [parts.sum()], 1e-6)
        close(df, [parts.sum() ** 2 / (parts**2 / dof).sum()], 1e-5)


def test_satterthwaite_and_kenward_roger_of_fixed_effects():
    _, fit = sleep()
    X = np.column_stack([np.ones(3), [0, 4, 9]])
    new = pd.DataFrame({"Days": X[:, 1]})
    for ddf in ("satterthwaite", "kenward-roger"):
        found = fit.get_prediction(new, interval="confidence", ddf=ddf)
        close(found.df_mean, fit._ddf(ddf).t_df(X), 1e-5)
        close(found.var_pred_mean, np.einsum("ij,jk,ik->i", X, fit._ddf(ddf).vcov, X))
    t = stats.t.ppf(0.975, found.df_mean)
    close(found.conf_int()[:, 1], found.predicted_mean + t * found.se_mean)


# ------------------------------------------------------------------ what cannot be told


@pytest.mark.filterwarnings("ignore::sparselmm.exceptions.RankDeficiencyWarning")
def test_rows_that_are_not_estimable_have_no_standard_error():
    reference, fit = at_reference("cake_cell_reml")
    new = pd.DataFrame({"recipe": ["C", "C"], "temp": [215, 225], "replicate": [1, 1]})
    found = fit.get_prediction(new, interval="confidence")
    assert np.isnan(found.se_mean).tolist() == [False, True]
    data = reference.rows.assign(twice=2.0 * reference.rows.temp)
    copy = MixedLM.from_formula("angle ~ temp + twice + (1 | recipe:replicate)", data).fit()
    plain = MixedLM.from_formula("angle ~ temp + (1 | recipe:replicate)", data).fit()
    close(copy.get_prediction(data).se_obs, plain.get_prediction(data).se_obs, 1e-7)
    assert np.isnan(copy.get_prediction(data.assign(twice=1.0)).se_obs).all()


def test_arguments():
    data, fit = sleep()
    with pytest.raises(DataError, match="no random-effects term 'Sub'; there are Subject"):
        fit.predict(data, re=["Sub"])
    with pytest.raises(DataError, match="no coefficient 'Day'"):
        fit.predict(data, re={"Subject": "Day"})
    with pytest.raises(DataError, match="re must be"):
        fit.predict(data, re=3)
    with pytest.raises(DataError, match="interval must be"):
        fit.get_prediction(data, interval="both")
    with pytest.raises(ValueError, match="ddf must be"):
        fit.get_prediction(data, ddf="t")
    with pytest.raises(ValueError, match="method for fixed effects"):
        fit.get_prediction(data, ddf="kenward-roger")
    with pytest.raises(DataError, match="has all coefficients"):
        fit.get_prediction(data, re={"Subject": "Days"})
    with pytest.raises(DataError, match="unseen must be"):
        fit.get_prediction(data, re=True, unseen="zero")
    means = fit.get_prediction(data, interval="confidence")
    assert len(means) == len(data)
    with pytest.raises(DataError, match="interval='prediction'"):
        means.conf_int(obs=True)
    with pytest.raises(DataError, match="alpha must be between 0 and 1, got 95"):
        means.summary_frame(alpha=95)
    with pytest.raises(DataError, match="weights has 2 rows but the new data has 180"):
        fit.get_prediction(data, weights=[1.0, 2.0])
    with pytest.raises(DataError, match="negative, got -1"):
        fit.get_prediction(data, weights=-1)
    for ask in (fit.rank, lambda *a, **k: fit.ranef_contrasts(*a, pairs="all", **k)):
        with pytest.raises(DataError, match="alpha must be"):
            ask("Subject", coefficient="Days", alpha=2)
    for ask in (fit.robust_tests, lambda alpha: fit.emmeans("Days", alpha=alpha)):
        with pytest.raises(DataError, match="alpha must be"):
            ask(alpha=0)
    close(fit.predict(data, re={"Subject": True}), fit.predict(data, re=True))
    fit.remove_data()
    with pytest.raises(DataError, match="rows of the fit were removed"):
        fit.get_prediction()


# ------------------------------------------------------------------------------ coverage


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sparselmm.exceptions.BoundaryWarning")
def test_coverage_of_prediction_intervals():
    """95 % intervals of new observations of old and of new groups, and of the groups' means.

    24 groups of 6 rows, random slopes, 400 data sets: the share covered of about 10,000 intervals
    (3 rows for each of 8 groups), whose standard error is about 0.004 as those of one data set go
    together. Normal intervals may fall a little short, t intervals may not.
    """
    rng = np.random.default_rng(11)
    l, n = 24, 6
    groups = np.repeat(np.arange(l), n)
    new = pd.DataFrame({"g": np.repeat(np.arange(20, 28), 3), "x": np.tile([-1.0, 0.0, 1.5], 8)})
    old = new.g.to_numpy() < l
    root = np.array([[1.0, 0], [0.3, 0.6]])
    Z = np.column_stack([np.ones(24), new.x])
    covered = {}
    for _ in range(400):
        x = rng.normal(size=l * n)
        b = rng.normal(size=(30, 2)) @ root.T
        y = 2 + x + b[groups, 0] + b[groups, 1] * x + rng.normal(size=l * n)
        data = pd.DataFrame({"y": y, "x": x, "g": groups})
        fit = MixedLM.from_formula("y ~ x + (x | g)", data).fit()
        mean = 2 + new.x + (Z * b[new.g]).sum(axis=1)
        observed = mean + rng.normal(size=24)
        for ddf in ("z", "satterthwaite"):
            found = fit.get_prediction(new, re=True, unseen="population", ddf=ddf)
            for kind, target in (("mean", mean), ("obs", observed)):
                low, high = found.conf_int(obs=kind == "obs").T
                hit = (low <= target) & (target <= high)
                for which, rows in (("old", old), ("new", ~old)):
                    covered.setdefault((ddf, kind, which), []).append(hit[rows].mean())
    share = {key: float(np.mean(hits)) for key, hits in covered.items()}
    for (ddf, _, _), value in share.items():
        assert 0.95 - (0.03 if ddf == "z" else 0.015) < value < 0.95 + 0.015, share


# ----------------------------------------------------------------- how predictions go together


@pytest.mark.parametrize("re", [False, True, ["plate"]])
def test_joint_covariance_against_dense_equations(re):
    """Henderson's equations inverted: the errors of fixed and random effects, and their product."""
    data = datasets.load("Penicillin")
    fit = sparselmm.mixedlm("diameter ~ 1 + (1 | plate) + (1 | sample)", data).fit()
    new = data.iloc[[0, 1, 20, 77]]
    found = fit.get_prediction(new, re=re)
    X, Z = np.ones((len(data), 1)), fit.built.design.Z.toarray()
    sizes = [term.n_levels for term in fit.built.design.terms]
    G = np.repeat(fit.vcomp if len(fit.vcomp) else fit.varcorr.vcov[:2], sizes)
    W = np.hstack([X, Z])
    C = np.linalg.inv(W.T @ W / fit.scale + np.diag(np.r_[0.0, 1.0 / G]))
    rows = W[[0, 1, 20, 77]].copy()
    rows[:, 1:] *= 1.0 if re is True else 0.0
    if re == ["plate"]:
        rows[:, 1 : 1 + sizes[0]] = Z[[0, 1, 20, 77]][:, : sizes[0]]
    dense = rows @ C @ rows.T
    np.testing.assert_allclose(found.cov, dense, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(np.sqrt(np.diag(found.cov)), found.se_mean)
    L = np.array([[1.0, -1.0, 0.0, 0.0], [0.5, 0.5, -0.5, -0.5]])
    test = found.t_test(L, value=0.1)
    np.testing.assert_allclose(
        test.sd, np.sqrt(np.maximum(np.diag(L @ dense @ L.T), 0)), 1e-6, 1e-9
    )
    if re is True:  # otherwise rows of one plate are the same
        np.testing.assert_allclose(test.statistic, (L @ found.predicted_mean - 0.1) / test.sd)


def test_contrasts_of_predictions_have_degrees_of_freedom():
    data = datasets.load("ergoStool")
    fit = sparselmm.mixedlm("effort ~ Type + (1 | Subject)", data).fit()
    new = pd.DataFrame({"Type": ["T1", "T2"]})
    for ddf in ("satterthwaite", "kenward-roger"):
        found = fit.get_prediction(new, interval="confidence", ddf=ddf)
        test = found.t_test([1, -1])
        expected = fit.emmeans("Type", ddf=ddf).pairs("none").iloc[0]
        assert test.pvalue[0] == pytest.approx(expected["p.value"], rel=1e-4)
        assert test.sd[0] == pytest.approx(expected["SE"], rel=1e-6)
    with pytest.raises(ArgumentError, match="contrasts need 2 weights"):
        found.t_test([1, 0, 0])
    sleep = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", datasets.load("sleepstudy")).fit()
    rows = pd.DataFrame({"Days": [1, 2], "Subject": ["new", "308"]})
    found = sleep.get_prediction(rows, re=True, unseen="population")
    with pytest.raises(DataError, match="levels that the fit has seen"):
        found.cov  # noqa: B018
    assert np.isfinite(found.t_test([0, 1]).sd).all()


def test_observations_of_slopes_with_a_known_covariance_have_intervals_in_a_singular_fit():
    rng = np.random.default_rng(2)
    data = datasets.load("sleepstudy")
    labels = sorted(data.Subject.unique())
    A = rng.normal(size=(18, 18))
    K = np.eye(18) + 0.3 * A @ A.T / 18
    rng.normal(size=18 + len(data))
    data["y"] = rng.normal(size=len(data))
    known = sparselmm.KnownCovariance(K, labels, kind="covariance")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MixedLM.from_formula(
            "y ~ Days + (Days | Subject)", data, covariance={"Subject": known}
        )
        fit = model.fit()
    assert fit.singular
    found = fit.get_prediction(data[:4])
    v, z = fit.varcorr["vcov"], data.Days[:4].to_numpy()
    own = K[labels.index(data.Subject[0])][labels.index(data.Subject[0])]
    random = own * (v[0] + v[1] * z**2 + 2.0 * v[2] * z)
    close(found.se_obs**2, found.se_mean**2 + random + fit.scale)
