"""Likelihood-ratio tests, deletion of terms, exact tests of one variance, conditional AIC."""

import math
import re
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from comparison_cases import EXTRA, fitted
from numpy.testing import assert_allclose
from reference_fits import INFERENCE_IDS, reference_fit, reference_inference
from registry import MODELS, THETAS
from scipy import stats

import sparselmm
from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.exceptions import DataError
from sparselmm.design.rows import times_z
from sparselmm.factor import submodels
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.layout import Strategy
from sparselmm.factor.solver import BlockSolver
from sparselmm.inference.diagnostics.caic import conditional_aic, hat_trace
from sparselmm.inference.hypotheses import comparison
from sparselmm.inference.hypotheses.rlrt import NullSpectrum, simulate
from sparselmm.likelihood.covariance import mixed_covariance, mixed_theta
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.engine import but, solver_like, submodel
from sparselmm.likelihood.optimize import minimize


def having(section):
    return [name for name in INFERENCE_IDS if section in reference_inference(name)]


def column(values):
    return np.array([np.nan if v is None else v for v in values], dtype=float)


# ------------------------------------------------------------------------------- submodels


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", ["slope", "weights", "rank_deficient", "crossed_three", "offset"])
def test_known_fixed_effects_are_an_offset(name, reml):
    model = MODELS[name]
    full = model.sparse(reml)
    kept = full.cross.basis.kept
    drop, value = len(kept) - 1, 0.7
    cross = submodels.known_columns(full.cross, [drop], np.array([value]))
    sub = but(full, solver_like(full), cross=cross, reml=reml)
    stay = np.delete(kept, drop)
    design = model.design
    offset = value * design.X[:, kept[drop]]
    offset = offset if design.offset is None else offset + design.offset
    rows = replace(
        design, X=design.X[:, stay], x_names=tuple(design.x_names[j] for j in stay), offset=offset
    )
    other = CrossProducts.from_design(rows)
    direct = ProfiledDeviance(
        other, full.covariance, BlockSolver(other.pattern, Strategy(None, "dense")), reml=reml
    )
    theta = model.theta("interior")
    assert_allclose(sub.value(theta), direct.value(theta), rtol=1e-11)
    assert_allclose(sub.at(theta).beta, direct.at(theta).beta, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["crossed_three", "absent", "weights"])
def test_mixed_coefficients_are_a_zero_row_of_lambda(name):
    """Dropping the last coefficient equals giving it no variance."""
    model = MODELS[name]
    full, theta = model.sparse(True), model.theta("interior")
    k = full.cross.sizes[0][0]
    t = 0 if k > 1 else next(t for t, (k, _) in enumerate(full.cross.sizes) if k > 1)
    k = full.cross.sizes[t][0]
    C = np.eye(k)[:, : k - 1]
    part = full.covariance.slices[t]
    lam = full.covariance.factors(theta)[t]
    lam[-1] = 0.0
    theta[part] = lam[full.covariance.terms[t].rows, full.covariance.terms[t].cols]
    smaller = mixed_covariance(full.covariance, t, k - 1)
    sub = submodel(submodels.mixed_columns(full.cross, t, C), smaller, full)
    at = mixed_theta(full.covariance, theta, t, C)
    assert_allclose(sub.value(at), full.value(theta), rtol=1e-12)


# ---------------------------------------------------------------------------------- compare


@pytest.mark.parametrize("name", having("lrt_ml"))
def test_compare_agrees_with_lme4(name):
    ref, big = reference_fit(name), fitted(name)
    for record in reference_inference(name)["lrt_ml"].values():
        formula = reference_formula(record["small"], ref)
        small = sparselmm.mixedlm(formula, ref.rows).fit()
        found = sparselmm.compare(big, small, refit=True, names=["big", "small"])
        table = found.table
        assert list(table.index) == ["small", "big"]
        assert found.refitted == ("big", "small")
        for ours, theirs in [("npar", "npar"), ("aic", "AIC"), ("bic", "BIC"), ("llf", "logLik")]:
            assert_allclose(table[ours], record[theirs], rtol=1e-8)
        row = table.loc["big"]
        assert row.df == record["df"]
        assert_allclose(row.chisq, record["chisq"], rtol=1e-6, atol=1e-6)
        assert_allclose(row.pvalue, record["p"], atol=1e-5, rtol=1e-5)


def reference_formula(text, ref):
    """A smaller model's formula with the polynomial contrasts of the full one."""
    for wrapped in set(re.findall(r"C\((\w+), Poly\)", ref.formula)):
        text = re.sub(rf"(?<![\w(.]){wrapped}(?![\w.(])", f"C({wrapped}, Poly)", text)
    return text.replace("^", "**")


def test_compare_at_the_boundary():
    data = sparselmm.datasets.load("sleepstudy")
    one = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", data).fit()
    two = sparselmm.mixedlm("Reaction ~ Days + (Days || Subject)", data).fit()
    three = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
    table = sparselmm.compare(one, two, three).table
    x = table.chisq
    assert_allclose(table.pvalue_boundary["m2"], 0.5 * stats.chi2.sf(x["m2"], 1), rtol=1e-12)
    assert_allclose(table.pvalue_boundary["m3"], table.pvalue["m3"], rtol=1e-12)
    both = sparselmm.compare(one, three).table.loc["m2"]
    mixture = 0.5 * stats.chi2.sf(both.chisq, 1) + 0.5 * stats.chi2.sf(both.chisq, 2)
    assert_allclose(both.pvalue_boundary, mixture, rtol=1e-12)
    assert comparison.boundary_pvalue(0.0, 1) == 1.0


def test_compare_refuses_what_cannot_be_compared():
    data = sparselmm.datasets.load("sleepstudy")
    fit = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", data)
    other = sparselmm.mixedlm("Reaction ~ 1 + (1 | Subject)", data)
    reml, ml = fit.fit(), fit.fit(reml=False)
    with pytest.raises(DataError, match="different fixed effects"):
        sparselmm.compare(reml, other.fit())
    with pytest.raises(DataError, match="some by ML"):
        sparselmm.compare(reml, ml)
    fewer = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", data.iloc[:170]).fit()
    with pytest.raises(DataError, match="180 rows and m2 to 170"):
        sparselmm.compare(reml, fewer)
    shifted = data.assign(Reaction=data.Reaction + 1.0)
    moved = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", shifted).fit()
    with pytest.raises(DataError, match="different response"):
        sparselmm.compare(reml, moved)
    with pytest.raises(DataError, match="at least two"):
        sparselmm.compare(reml)
    with pytest.raises(DataError, match="2 different names"):
        sparselmm.compare(reml, reml, names=["a", "a"])
    scaled = data.assign(Days=data.Days / 7)
    weekly = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", scaled).fit()
    with pytest.raises(DataError, match="different fixed effects"):  # same space, other likelihood
        sparselmm.compare(reml, weekly)
    text = repr(sparselmm.compare(ml, other.fit(reml=False)))
    assert text.startswith("Models (ML)")
    assert "Reaction ~ 1 + (1 | Subject)" in text
    assert f"{ml.aic:.2f}" in text  # in full: differences count


# ------------------------------------------------------------------------- deletion of terms


@pytest.mark.parametrize("name", having("ranova"))
def test_ranova_agrees_with_lmertest(name):
    record = reference_inference(name)["ranova"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sparselmm.ModelWarning)
        table = fitted(name).ranova()
    labels = [normal_label(label) for label in table.index]
    assert sorted(labels) == sorted(map(normal_label, record["rows"]))
    table = table.set_axis(labels).loc[[normal_label(label) for label in record["rows"]]]
    assert_allclose(table.npar, record["npar"])
    assert_allclose(table.llf, record["logLik"], rtol=1e-9)
    assert_allclose(table.aic, record["AIC"], rtol=1e-9)
    assert_allclose(table.lrt, column(record["LRT"]), rtol=1e-6, atol=1e-6)
    assert_allclose(table.pvalue, column(record["Pr(>Chisq)"]), atol=1e-5, rtol=1e-4)
    assert (table.pvalue_boundary.dropna() <= table.pvalue[table.pvalue_boundary.notna()]).all()


def normal_label(label):
    """A deletion without what only its spelling decides: factor order, ``1 +`` before slopes."""
    if label == "<none>":
        return label
    effect, _, bar = label.rpartition(" in ")
    left, group = bar.strip("()").split(" | ") if " | " in bar else bar.strip("()").split(" || ")
    left = left.removeprefix("1 + ").removeprefix("0 + ")
    if effect == left:
        effect = ""
    return f"{effect} {'' if effect else left} {':'.join(sorted(group.split(':')))}"


def test_ranova_of_arrays_and_components_is_that_of_bars():
    data = sparselmm.datasets.load("sleepstudy")
    bars = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit().ranova()
    X = np.column_stack([np.ones(len(data)), data.Days])
    arrays = sparselmm.MixedLM(data.Reaction.to_numpy(), X, data.Subject.to_numpy(), X).fit()
    assert_allclose(arrays.ranova().to_numpy(), bars.to_numpy(), rtol=1e-8, equal_nan=True)
    data = sparselmm.datasets.load("Pastes")
    bars = sparselmm.mixedlm("strength ~ 1 + (1 | batch/cask)", data).fit().ranova()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sparselmm.SpecificationWarning)
        model = sparselmm.mixedlm(
            "strength ~ 1", data, groups="batch", re_formula="1",
            vc_formula={"cask": "0 + C(cask)"},
        )  # fmt: skip
    vc = model.fit().ranova()
    assert_allclose(np.sort(vc.lrt.dropna()), np.sort(bars.lrt.dropna()), rtol=1e-6)


@pytest.mark.parametrize("name", having("drop1_chisq_ml"))
def test_drop1_agrees_with_lme4(name):
    ref, record = reference_fit(name), reference_inference(name)["drop1_chisq_ml"]
    table = fitted(name).drop1()
    theirs = pd.DataFrame({k: column(v) for k, v in record.items() if k != "rows"})
    theirs.index = [key(name, ref) for name in record["rows"]]
    table = table.set_axis([key(name, ref) for name in table.index])
    assert set(table.index) == set(theirs.index)
    theirs = theirs.loc[table.index]
    assert_allclose(table.df, theirs["npar"])
    assert_allclose(table.aic, theirs["AIC"], rtol=1e-8)
    assert_allclose(table.lrt, theirs["LRT"], rtol=1e-6, atol=1e-6)
    assert_allclose(table.pvalue, theirs["Pr(Chi)"], atol=1e-5)


@pytest.mark.parametrize("name", having("drop1_F_satterthwaite"))
def test_drop1_f_agrees_with_lmertest(name):
    ref, record = reference_fit(name), reference_inference(name)["drop1_F_satterthwaite"]
    table = fitted(name).drop1("f")
    table = table.set_axis([key(name, ref) for name in table.index])
    table = table.loc[[key(name, ref) for name in record["rows"]]]
    for ours, theirs in [
        ("sum_sq", "Sum Sq"), ("mean_sq", "Mean Sq"), ("df_num", "NumDF"), ("statistic", "F value"),
    ]:  # fmt: skip
        # of first order in theta, which a fit knows to the root of its tolerance of 1e-9
        assert_allclose(table[ours], record[theirs], rtol=1e-5)
    assert_allclose(table.df_den, record["DenDF"], rtol=1e-5)
    assert_allclose(table.pvalue, record["Pr(>F)"], atol=1e-5)


def key(term, ref):
    return frozenset(re.sub(r"C\((\w+), Poly\)", r"\1", part) for part in term.split(":"))


def test_drop1_where_columns_depend_on_others():
    """A dropped column may come back when another one leaves: the rows decide."""
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"x": rng.normal(size=60), "g": np.arange(60) % 6})
    data["twin"] = 2.0 * data.x - 1.0
    data["z"] = rng.normal(size=60)
    data["y"] = data.x + rng.normal(size=60) + rng.normal(size=6)[data.g]
    with pytest.warns(sparselmm.RankDeficiencyWarning):
        fit = sparselmm.mixedlm("y ~ x + twin + z + (1 | g)", data).fit()
    table = fit.drop1()
    assert table.df.iloc[1:].tolist() == [0.0, 0.0, 1.0]
    assert_allclose(table.lrt.iloc[1:3], 0.0, atol=1e-8)
    plain = sparselmm.mixedlm("y ~ x + z + (1 | g)", data).fit()
    assert_allclose(table.lrt["z"], plain.drop1().lrt["z"], rtol=1e-6)
    with pytest.raises(ValueError, match="'chisq' or 'f'"):
        fit.drop1("t")


# ------------------------------------------------------------------------------ exact tests


TERMS = {"pastes_nested_reml": "cask", "machines_wm_reml": "Worker", "oats_num_reml": "Block"}


@pytest.mark.parametrize("name", EXTRA["exact_rlrt"])
def test_exact_rlrt_agrees_with_rlrsim(name):
    """Two simulations of 1e5 and 5e4: four standard errors of their difference."""
    record, fit = EXTRA["exact_rlrt"][name], fitted(name)
    term = None if len(fit.varcorr) == 2 else TERMS.get(name)
    if name == "pastes_nested_reml":
        term = next(t.name for t in fit._est.terms if t.n_levels == 10)
    test = fit.exact_rlrt(term, nsim=50_000, seed=5)
    assert_allclose(test.statistic, record["statistic"], rtol=1e-6, atol=1e-6)
    assert_agree(test.pvalue, record["p"], test.nsim, record["nsim"])
    assert_agree(np.mean(test.sample == 0), record["share_zero"], test.nsim, record["nsim"])
    for level, quantile in zip((0.75, 0.9, 0.95, 0.99), record["quantiles"], strict=True):
        assert_agree(np.mean(test.sample > quantile), 1 - level, test.nsim, record["nsim"])


@pytest.mark.parametrize("name", EXTRA["exact_lrt"])
def test_exact_lrt_agrees_with_rlrsim(name):
    record, fit = EXTRA["exact_lrt"][name], fitted(name)
    drop = {"ergo_ri_ml": ["Type"], "exam_ri_ml": ["schgend"]}.get(name, [])
    test = fit.exact_lrt(drop, nsim=50_000, seed=5)
    assert_allclose(test.statistic, record["statistic"], rtol=1e-6)
    assert_agree(test.pvalue, record["p"], test.nsim, record["nsim"])
    for level, quantile in zip((0.75, 0.9, 0.95, 0.99), record["quantiles"], strict=True):
        assert_agree(np.mean(test.sample > quantile), 1 - level, test.nsim, record["nsim"])


def assert_agree(a, b, n, m):
    pooled = (a * n + b * m) / (n + m)
    error = math.sqrt(max(pooled * (1 - pooled), 1e-6) * (1 / n + 1 / m))
    assert abs(a - b) < 4 * error, (a, b, error)


def test_exact_rlrt_of_a_balanced_design_is_the_f_test():
    """One-way, balanced: the RLRT grows with F, so both have the same p-value."""
    data = sparselmm.datasets.load("Dyestuff")
    test = sparselmm.mixedlm("Yield ~ 1 + (1 | Batch)", data).fit().exact_rlrt(nsim=300_000, seed=2)
    groups = [part.Yield for _, part in data.groupby("Batch", observed=True)]
    exact = stats.f_oneway(*groups).pvalue
    assert abs(test.pvalue - exact) < 4 * test.stderr


@pytest.mark.parametrize("name", ["intercept", "weights", "no_fixed", "block"])
def test_spectrum_is_that_of_the_textbook(name):
    model = MODELS[name]
    design = replace(model.design, terms=(replace_intercept(model.design.terms[0]),))
    spectrum = NullSpectrum.of(CrossProducts.from_design(design), 0)
    w = np.ones(design.n) if design.weights is None else design.weights
    X, Z = np.sqrt(w)[:, None] * design.X, np.sqrt(w)[:, None] * design.Z.toarray()
    Q = np.linalg.qr(X)[0]
    mu = np.linalg.eigvalsh(Z.T @ Z - Z.T @ Q @ Q.T @ Z)[::-1]
    mu = mu[mu > 1e-9 * mu[0]]
    found = np.repeat(spectrum.mu, spectrum.mu_count.astype(int))
    assert_allclose(np.sort(found), np.sort(mu), rtol=1e-9)
    xi = np.linalg.eigvalsh(Z.T @ Z)
    found = np.repeat(spectrum.xi, spectrum.xi_count.astype(int))
    assert_allclose(np.sort(found), xi[xi > 1e-9 * xi[-1]], rtol=1e-9)


def replace_intercept(term):
    """The term with an intercept alone."""
    return term if term.block is not None else replace(term, columns=("one",), values=None)


def test_exact_tests_say_what_they_need():
    data = sparselmm.datasets.load("sleepstudy")
    slope = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data)
    with pytest.raises(DataError, match="2 coefficients"):
        slope.fit().exact_rlrt()
    with pytest.raises(DataError, match="by REML"):
        slope.fit(reml=False).exact_rlrt()
    with pytest.raises(DataError, match="by ML"):
        slope.fit().exact_lrt()
    crossed = sparselmm.mixedlm(
        "diameter ~ 1 + (1 | plate) + (1 | sample)", sparselmm.datasets.load("Penicillin")
    )
    with pytest.raises(DataError, match="pass term="):
        crossed.fit().exact_rlrt()
    with pytest.raises(DataError, match="no random effect 'tray'"):
        crossed.fit().exact_rlrt("tray")
    with pytest.raises(DataError, match="nsim"):
        crossed.fit().exact_rlrt("plate", nsim=0)
    with pytest.raises(DataError, match="one random effect"):
        crossed.fit(reml=False).exact_lrt()


def test_exact_rlrt_of_zero():
    test = fitted("dyestuff2_ri_reml").exact_rlrt(nsim=100, seed=1)
    assert (test.statistic, test.pvalue) == (0.0, 1.0)


def test_null_distribution_of_many_levels():
    """100,000 equal levels have two different eigenvalues; half of the mass is at zero."""
    spectrum = NullSpectrum(
        400_000, 1, np.array([4.0]), np.array([99_999.0]), np.array([4.0]), np.array([1e5])
    )
    sample = simulate(spectrum, 20_000, np.random.default_rng(1), reml=True)
    assert abs(np.mean(sample == 0) - 0.5) < 0.02
    assert abs(np.mean(sample > stats.chi2.ppf(0.9, 1)) - 0.05) < 0.006


# ------------------------------------------------------------------------------------- cAIC


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", EXTRA["caic"])
def test_caic_agrees_with_r(name, reml):
    record = EXTRA["caic"][name]["reml" if reml else "ml"]
    found = fitted(name, reml).caic()
    assert_allclose(found.llf, record["loglikelihood"], rtol=1e-8)
    assert_allclose(found.df, record["df"], rtol=1e-7)
    assert_allclose(found.caic, record["caic"], rtol=1e-7)
    assert abs(found.df - record["df_cAIC4"]) < 0.5


@pytest.mark.parametrize("name", ["weights", "no_fixed"])
def test_caic_counts_the_derivative_of_the_fit(name):
    """Finite differences of refits, in weighted and singular models too."""
    model = MODELS[name]
    start = minimize(model.sparse(True), np.where(model.covariance.on_diagonal, 0.7, 0.0))

    def fit(y):
        deviance = replace(model, design=replace(model.design, y=y)).sparse(True)
        theta = minimize(deviance, start.theta, tolerance=1e-14).theta
        pls = deviance.at(theta)
        design, kept = model.design, deviance.cross.basis.kept
        return design.X[:, kept] @ pls.beta + times_z(design.terms, pls.b, slice(0, design.n))

    y, step, trace = model.design.y, 1e-3, 0.0
    used = np.flatnonzero(np.ones(len(y)) if model.design.weights is None else model.design.weights)
    for i in used:
        e = step * (np.arange(len(y)) == i)
        trace += (fit(y + e)[i] - fit(y - e)[i]) / (2 * step)
    assert_allclose(conditional_aic(model.sparse(True), start.theta).df, trace + 1.0, rtol=1e-5)


def test_caic_without_any_variance_is_that_of_regression():
    fit = fitted("dyestuff2_ri_reml")
    found = fit.caic()
    assert_allclose([found.df, found.df_known_variances], 2.0, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", THETAS)
def test_hat_trace_is_finite_everywhere(name, kind):
    model = MODELS[name]
    deviance = model.sparse(True)
    try:
        state = deviance.state_at(model.theta(kind))
    except NotPositiveDefiniteError:
        return
    trace = hat_trace(deviance, state)
    assert deviance.cross.basis.rank - 1e-6 <= trace <= deviance.cross.n + 1e-6
