"""Results of generalized models: what is printed, predicted, simulated and tested."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.stats as st
from glmm_cases import FITS, data_of, fit_of

import sparselmm
from sparselmm import DataError, mixedglm
from sparselmm.likelihood.laplace.fit import difference_hessian
from sparselmm.results.general.core import NOT_HERE

CBPP = FITS["cbpp_logit"][1]


@pytest.fixture(scope="module")
def fit():
    return fit_of("cbpp_logit")


@pytest.fixture(scope="module")
def ordinal():
    return fit_of("wine_logit")


@pytest.fixture(scope="module")
def zeros():
    return mixedglm(
        "TICKS ~ cHEIGHT + (1 | BROOD)", data_of("grouseticks"), family="nbinom2", zi="~ 1"
    ).fit()


# ---------------------------------------------------------------------------------- tables


def test_summary_and_tables(fit):
    text = str(fit.summary())
    for word in ("binomial", "logit", "Laplace", "herd", "Log-Likelihood", "-92.0263"):
        assert word in text
    assert "<table" in fit.summary().as_html()
    assert "tabular" in fit.summary().as_latex()
    table = fit.tidy(exponentiate=True)
    assert table.estimate.iloc[1] == pytest.approx(np.exp(fit.fe_params.iloc[1]))
    assert table.effect.tolist() == ["fixed"] * 4 + ["ran_pars"]
    assert fit.glance().llf.iloc[0] == fit.llf
    assert fit.aic == pytest.approx(-2 * fit.llf + 10)
    assert fit.bic == pytest.approx(-2 * fit.llf + 5 * np.log(56))


def test_ratios(fit):
    table = fit.ratios()
    np.testing.assert_allclose(table.ratio, np.exp(fit.fe_params))
    np.testing.assert_allclose(np.log(table.ci_lower), fit.conf_int()[0][:4])
    with pytest.raises(DataError, match="probit"):
        fit_of("cbpp_probit").ratios()


def test_variance_components():
    fit = fit_of("contraception_slope")
    table = fit.variance_components()
    assert list(table.index) == [
        "district Var", "district x district[urban[T.Y]] Cov", "district[urban[T.Y]] Var"
    ]  # fmt: skip
    inside = (table.ci_lower < table.sdcor) & (table.sdcor < table.ci_upper)
    assert inside.all()
    numbers = fit.numbers  # standard errors by differences of the variances in theta
    theta, V = numbers.parts[0], numbers.vcov_theta

    def packed(own):
        return numbers.places.pick(fit.deviance.covariance.psi(own))

    J = np.array([(packed(theta + e) - packed(theta - e)) / 2e-5 for e in 1e-5 * np.eye(3)])
    np.testing.assert_allclose(table.se, np.sqrt(np.diag(J.T @ V @ J)), rtol=1e-6)


def test_pickling(fit):
    again = pickle.loads(pickle.dumps(fit))
    np.testing.assert_allclose(again.bse_fe, fit.bse_fe, rtol=1e-6)
    np.testing.assert_allclose(again.predict(), fit.predict(), rtol=1e-9)
    np.testing.assert_allclose(again.ranef["herd"], fit.ranef["herd"])
    assert again.summary().as_text() == fit.summary().as_text()


@pytest.mark.parametrize("name", NOT_HERE)
def test_what_does_not_carry_over_is_refused_by_name(fit, name):
    with pytest.raises(DataError, match=f"{name} is not available for generalized models"):
        getattr(fit, name)


def test_everything_of_linear_models_is_there_or_refused_by_name(fit):
    for name in dir(sparselmm.MixedLMResults):
        if name.startswith("_") or hasattr(fit, name):
            continue
        with pytest.raises(DataError, match=f"{name} is not available for generalized models"):
            getattr(fit, name)


def test_unknown_attributes_stay_unknown(fit):
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fit.nonsense


# ------------------------------------------------------------------------------ intervals


def test_profiles_cross_at_the_quantile(fit):
    table = fit.confint(["C(period)[T.2]", "sd herd"], method="profile", alpha=0.1)
    limit = st.chi2.isf(0.1, 1)
    deviance = fit.deviance
    row = table.loc["sd herd"]
    for v in (row.ci_lower, row.ci_upper):
        held = constrained(deviance, fit.opt.x, 0, v)
        assert held - fit.opt.deviance == pytest.approx(limit, abs=2e-3)
    low, high = table.loc["C(period)[T.2]", ["ci_lower", "ci_upper"]]
    assert low < fit.fe_params.iloc[1] < high


def constrained(deviance, x, place, value):
    """Minimum of the deviance with one parameter held, by a general optimizer."""
    import scipy.optimize as so

    free = np.delete(np.arange(len(x)), place)

    def full(z):
        out = x.copy()
        out[free], out[place] = z, value
        return out

    found = so.minimize(
        lambda z: deviance.value(full(z)), x[free], jac=lambda z: deviance.gradient(full(z))[free],
        method="BFGS", options={"gtol": 1e-6},
    )  # fmt: skip
    return found.fun


def test_profile_of_lme4():
    """``confint(glmer(...))`` of lme4 1.1 prints these for cbpp."""
    table = fit_of("cbpp_logit").confint(method="profile")
    sd = table.loc["sd herd"]
    assert sd.ci_lower == pytest.approx(0.346, abs=2e-3)
    assert sd.ci_upper == pytest.approx(1.100, abs=2e-3)


def test_intervals_of_further_parameters(zeros):
    table = zeros.confint(["dispersion: Intercept"], method="profile")
    row = table.iloc[0]
    assert row.ci_lower < zeros.dispersion_params.iloc[0] < row.ci_upper
    with pytest.raises(DataError, match="no parameter 'nothing'"):
        zeros.confint("nothing")


def test_profiles_of_thresholds(ordinal):
    table = ordinal.confint(list(ordinal.thresholds.index), method="profile")
    assert table.notna().all().all()
    assert ((table.ci_lower < table.estimate) & (table.estimate < table.ci_upper)).all()


def test_likelihood_ratios(fit):
    small = mixedglm("cbind(incidence, size - incidence) ~ 1 + (1 | herd)", data_of("cbpp")).fit()
    table = fit.lrt(small)
    assert table.chisq.iloc[1] == pytest.approx(2 * (fit.llf - small.llf))
    assert table.df.iloc[1] == 3
    both = sparselmm.compare(small, fit)
    assert both.table.pvalue.iloc[1] == pytest.approx(table.pvalue.iloc[1])
    with pytest.raises(DataError, match="same nagq"):
        fit.lrt(mixedglm(CBPP, data_of("cbpp"), nagq=5).fit())
    with pytest.raises(DataError, match="different rows"):
        fit.lrt(fit_of("wine_logit"))


def test_drop1(fit):
    without = mixedglm(
        "cbind(incidence, size - incidence) ~ C(period) - C(period) + p2 + p3 + (1 | herd)",
        data_of("cbpp").assign(p2=lambda d: d.period == 2, p3=lambda d: d.period == 3),
    ).fit()
    table = fit.drop1()
    assert table.loc["C(period)[T.4]", "chisq"] == pytest.approx(
        2 * (fit.llf - without.llf), abs=1e-5
    )


# ----------------------------------------------------------------------------- prediction


def test_predictions_of_the_rows_of_the_fit(fit):
    frame = data_of("cbpp")
    np.testing.assert_allclose(fit.predict(frame), fit.fittedvalues)
    np.testing.assert_allclose(fit.predict(), fit.fittedvalues)
    link = fit.predict(type="link")
    np.testing.assert_allclose(1 / (1 + np.exp(-link)), fit.fittedvalues)
    np.testing.assert_allclose(link, fit.linear_predictor)


def test_kinds_of_random_effects(fit):
    new = data_of("cbpp").head(4)
    population = fit.predict(new, random="population")
    np.testing.assert_allclose(
        population, 1 / (1 + np.exp(-fit.fe_params.iloc[0] - np.append(0, fit.fe_params[1:]))),
    )  # fmt: skip
    eta = fit.predict(new, "link", "population").to_numpy()
    draws = np.random.default_rng(0).normal(size=400_000) * fit.theta[0]
    average = fit.predict(new, random="average")
    np.testing.assert_allclose(average[0], (1 / (1 + np.exp(-eta[0] - draws))).mean(), atol=1e-3)
    with pytest.raises(DataError, match="random must be one of"):
        fit.predict(new, random="both")
    with pytest.raises(DataError, match="type must be one of"):
        fit.predict(new, type="logit")


def test_averages_need_no_levels(fit):
    new = data_of("cbpp").head(4)
    np.testing.assert_allclose(
        fit.predict(new.drop(columns="herd"), random="average"), fit.predict(new, random="average")
    )
    slopes = fit_of("contraception_slope")
    rows = data_of("Contraception").head(5)
    np.testing.assert_allclose(
        slopes.predict(rows.drop(columns="district"), random="average"),
        slopes.predict(rows, random="average"),
    )
    eta = slopes.predict(rows, "link", "population").to_numpy()
    psi = slopes.deviance.covariance.psi(slopes.theta)[0]
    z = np.array([1.0, float(rows.urban.iloc[0] == "Y")])
    draws = np.random.default_rng(0).normal(size=400_000) * np.sqrt(z @ psi @ z)
    truth = (1 / (1 + np.exp(-eta[0] - draws))).mean()
    assert slopes.predict(rows, random="average").iloc[0] == pytest.approx(truth, abs=1e-3)


def test_levels_that_the_fit_has_not_seen(fit):
    new = data_of("cbpp").head(2).assign(herd=99)
    with pytest.raises(DataError, match="not seen"):
        fit.predict(new)
    assert np.isnan(fit.predict(new, unseen="nan")).all()
    np.testing.assert_allclose(
        fit.predict(new, unseen="population"), fit.predict(new, random="population")
    )
    assert np.isfinite(fit.predict(new, random="average")).all()


def test_intervals_of_predictions(fit):
    new = data_of("cbpp").head(3)
    table = fit.predict(new, random="population", type="link", interval=True)
    X = np.zeros((3, 4))
    X[:, 0] = X[1, 1] = X[2, 2] = 1
    V = fit.cov_fe.to_numpy()
    np.testing.assert_allclose(table.se, np.sqrt(np.einsum("ij,jk,ik->i", X, V, X)), rtol=1e-8)
    response = fit.predict(new, random="population", interval=True)
    np.testing.assert_allclose(response.ci_lower, 1 / (1 + np.exp(-table.ci_lower)))
    for kind in ("conditional", "average"):
        own = fit.predict(new, random=kind, interval=True)
        assert ((own.ci_lower < own["mean"]) & (own["mean"] < own.ci_upper)).all()


def test_conditional_variance_of_effects(fit):
    """Of a balanced answer: the inverse of one plus theta^2 times the sum of the weights."""
    engine = fit.deviance
    engine.at(fit.opt.x)
    w = np.bincount(engine.data.terms[0].codes, engine.passes.w)
    truth = fit.theta[0] ** 2 / (1 + fit.theta[0] ** 2 * w)
    np.testing.assert_allclose(fit.ranef_var["herd"].to_numpy()[:, 0], truth, rtol=1e-7)
    assert (fit.ranef_se()["herd"] > fit.ranef_var["herd"] ** 0.5).all().all()
    own = fit.ranef_contrasts("herd", pairs=[(1, 2)], fixed_uncertainty=False)
    assert own.se.iloc[0] == pytest.approx(np.sqrt(truth[0] + truth[1]), rel=1e-6)


def test_errors_of_effects_are_those_of_lme4_and_with_all_parameters_those_of_glmmtmb():
    """glmmTMB counts that variances are estimated, too; `ranef_se` that fixed effects are."""
    frame = data_of("cbpp").astype({"period": str})
    fit = mixedglm("cbind(incidence, size - incidence) ~ period + (1 | herd)", frame).fit()
    own = fit.ranef_var["herd"].to_numpy()[:4, 0]
    lme4 = [0.3482230064, 0.3654939358, 0.2972869942, 0.4163065452]
    np.testing.assert_allclose(np.sqrt(own), lme4, rtol=3e-4)
    engine, x = fit.deviance, fit.opt.x
    V = 2.0 * np.linalg.inv(difference_hessian(engine, x, np.ones(len(x), dtype=bool)))
    J = np.empty((4, len(x)))
    for i, step in enumerate(1e-5 * np.eye(len(x))):
        up, down = (engine.at(x + s * step).mode.b[:4].copy() for s in (1.0, -1.0))
        J[:, i] = (up - down) / 2e-5
    glmmtmb = [0.3939221703, 0.3931238755, 0.3450904172, 0.4335979472]
    every = np.sqrt(own + np.einsum("ij,jk,ik->i", J, V, J))
    np.testing.assert_allclose(every, glmmtmb, rtol=3e-5)


def test_means_with_an_offset_are_at_the_mean_of_its_variable_or_its_own():
    """Those of emmeans for glmmTMB, and, given as an argument, for glmer."""
    frame = data_of("cbpp").astype({"period": str})
    formula = "incidence ~ period + offset(log(size)) + (1 | herd)"
    fit = mixedglm(formula, frame, family="poisson").fit()
    means = fit.emmeans("period", type="link").frame
    np.testing.assert_allclose(
        means.emmean, [1.062063426, 0.218000110, 0.095775711, -0.328983235], atol=1e-5
    )
    np.testing.assert_allclose(
        means.SE, [0.19385755, 0.27745779, 0.29897280, 0.40332769], rtol=1e-3
    )
    rates = fit.emmeans("period", at={"size": 1}, type="link").frame
    np.testing.assert_allclose(
        rates.emmean, [-1.6483649, -2.4924282, -2.6146526, -3.0394116], atol=1e-5
    )
    formula = "incidence ~ period + (1 | herd)"
    other = mixedglm(formula, frame, family="poisson", offset=np.log(frame["size"])).fit()
    np.testing.assert_allclose(
        other.emmeans("period", type="link").frame.emmean,
        [0.890068530, 0.045993736, -0.076220663, -0.500987842], atol=1e-3,  # glmer stops early
    )  # fmt: skip


def test_offsets():
    frame = data_of("grouseticks").assign(area=lambda d: np.log(1.0 + d.index % 4))
    formula = "TICKS ~ cHEIGHT + offset(area) + (1 | BROOD)"
    one = mixedglm(formula, frame, family="poisson").fit()
    other = mixedglm("TICKS ~ cHEIGHT + (1 | BROOD)", frame, family="poisson", offset="area").fit()
    assert one.llf == pytest.approx(other.llf, abs=1e-8)
    shifted = frame.assign(area=frame.area + 1.0).head(5)
    np.testing.assert_allclose(one.predict(shifted), np.e * one.predict(frame.head(5)), rtol=1e-8)
    with pytest.raises(sparselmm.FormulaError, match="area"):
        one.predict(frame.drop(columns="area"))
    array = mixedglm(
        "TICKS ~ cHEIGHT + (1 | BROOD)", frame, family="poisson", offset=frame.area.to_numpy()
    ).fit()
    with pytest.raises(DataError, match="pass offset="):
        array.predict(frame.head(5))


def test_probabilities_of_categories(ordinal):
    p = ordinal.predict(type="probability")
    assert list(p.columns) == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    best = ordinal.predict()
    np.testing.assert_array_equal(best, p.to_numpy().argmax(axis=1) + 1)
    average = ordinal.predict(data_of("wine").head(3), "probability", "average")
    np.testing.assert_allclose(average.sum(axis=1), 1.0)
    with pytest.raises(DataError, match="binomial response"):
        fit_of("cbpp_logit").predict(type="probability")


def test_means_with_excess_zeros(zeros):
    mu = np.exp(zeros.predict(type="link"))
    share = 1 / (1 + np.exp(-zeros.zi_params.iloc[0]))
    np.testing.assert_allclose(zeros.predict(), (1 - share) * mu)
    table = zeros.predict(data_of("grouseticks").head(3), interval=True)
    assert (table.se > 0).all()


def test_marginal_means(fit):
    means = fit.emmeans("period") if "period" in data_of("cbpp") else None
    link = fit.emmeans("period", type="link").frame
    assert means is not None
    np.testing.assert_allclose(means.frame.response, 1 / (1 + np.exp(-link.emmean)))
    np.testing.assert_allclose(link.emmean.iloc[0], fit.fe_params.iloc[0])
    pairs = means.pairs()
    first = fit.fe_params.iloc[1]
    assert pairs["odds.ratio"].iloc[0] == pytest.approx(np.exp(-first))
    assert pairs["z.ratio"].iloc[0] == pytest.approx(-fit.tvalues.iloc[1])
    with pytest.raises(DataError, match="no single response scale"):
        fit_of("wine_logit").emmeans("temp")
    latent = fit_of("wine_logit").emmeans("temp", type="link").pairs()
    assert latent.estimate.iloc[0] == pytest.approx(-fit_of("wine_logit").fe_params.iloc[0])


# ------------------------------------------------------------- residuals, simulation, checks


def test_residuals(fit):
    frame = data_of("cbpp")
    p, n = fit.fittedvalues, frame["size"]
    np.testing.assert_allclose(fit.residuals("response"), frame.incidence / n - p)
    pearson = (frame.incidence - n * p) / np.sqrt(n * p * (1 - p))
    np.testing.assert_allclose(fit.residuals("pearson"), pearson)
    own = fit.residuals("deviance")
    saturated = st.binom.logpmf(frame.incidence, n, frame.incidence / n)
    terms = 2 * (saturated - st.binom.logpmf(frame.incidence, n, p))
    np.testing.assert_allclose(own**2, terms, atol=1e-9)
    with pytest.raises(DataError, match="kind must be one of"):
        fit.residuals("working")
    with pytest.raises(DataError, match="quantile residuals only"):
        fit_of("wine_logit").residuals("pearson")


@pytest.mark.parametrize("name", ["cbpp_logit", "grouse_nb2", "sleep_gamma", "wine_logit",
                                  "gasoline_beta", "cbpp_betabinomial"])  # fmt: skip
@pytest.mark.filterwarnings("ignore::sparselmm.BoundaryWarning")
def test_quantile_residuals_of_simulated_responses_are_normal(name):
    fit = fit_of(name)
    y = fit._draws(1, 5, "conditional")[:, 0]
    model = fit.model._copy(y)
    assert st.kstest(residuals_of(fit, model), "norm").pvalue > 1e-3


def residuals_of(fit, model):
    """Quantile residuals of another response under the parameters of a fit."""
    other = pickle.loads(pickle.dumps(fit))
    object.__setattr__(other.deviance, "data", model.data)
    return np.asarray(other.residuals("quantile", seed=3))


def test_simulation(fit, ordinal, zeros):
    draws = fit.simulate(200, seed=3)
    assert draws.shape == (56, 200)
    assert (draws.to_numpy() <= data_of("cbpp")["size"].to_numpy()[:, None]).all()
    pd.testing.assert_frame_equal(draws, fit.simulate(200, seed=3))
    conditional = fit.simulate(400, seed=1, random="conditional")
    expected = fit.fittedvalues * data_of("cbpp")["size"]
    assert np.abs(conditional.mean(axis=1) - expected).max() < 0.5
    assert set(np.unique(ordinal.simulate(5, seed=0))) <= {1, 2, 3, 4, 5}
    share = (zeros.simulate(50, seed=0) == 0).to_numpy().mean()
    assert share == pytest.approx((data_of("grouseticks").TICKS == 0).mean(), abs=0.1)
    with pytest.raises(DataError, match="at least 1"):
        fit.simulate(0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sparselmm.BoundaryWarning")
def test_bootstrap(fit):
    found = fit.bootstrap(40, seed=2)
    assert found.replicates.shape == (40, 5)
    assert found.n_failed == 0
    np.testing.assert_allclose(found.se.iloc[:4], fit.bse_fe, rtol=0.5)
    again = fit.bootstrap(40, seed=2)
    pd.testing.assert_frame_equal(found.replicates, again.replicates)
    assert "Parametric bootstrap" in repr(found)


@pytest.mark.slow
def test_simulated_checks_find_what_is_there():
    frame = data_of("grouseticks")
    poisson = mixedglm("TICKS ~ C(YEAR) + cHEIGHT + (1 | LOCATION)", frame, family="poisson").fit()
    assert "dispersion" in poisson.check().codes
    negative = mixedglm("TICKS ~ C(YEAR) + cHEIGHT + (1 | LOCATION)", frame, family="nbinom2").fit()
    assert "dispersion" not in negative.check().codes
    assert {"dispersion", "zeros", "outliers"} == set(negative.simulated_checks(100).index)


def test_variance_explained(fit):
    icc = fit.icc()["herd"]
    assert icc == pytest.approx(fit.theta[0] ** 2 / (fit.theta[0] ** 2 + np.pi**2 / 3))
    r2 = fit.r2()
    assert 0 < r2.marginal < r2.conditional < 1
    own = fit_of("grouse_nb2").icc()
    assert ((own > 0) & (own < 1)).all()


# --------------------------------------------------------------------------------- extras


def test_joint_tests(fit):
    one = fit.wald_test("C(period)[T.2]")
    assert one.chi2 == pytest.approx(fit.tvalues.iloc[1] ** 2)
    L = np.zeros((2, 4))
    L[0, 1], L[1, 2] = 1, 1
    both = fit.wald_test(L)
    assert both.chi2 == pytest.approx(fit.wald_test(["C(period)[T.2]", "C(period)[T.3]"]).chi2)
    with pytest.raises(DataError, match="no coefficient"):
        fit.wald_test("size")
    with pytest.raises(DataError, match="depend on each other"):
        fit.wald_test([L[0], L[0]])
    with pytest.raises(DataError, match="have 3 columns"):
        fit.wald_test(np.ones((1, 3)))


def test_augmented_rows(fit):
    table = fit.augment()
    assert len(table) == 56
    np.testing.assert_allclose(table[".fitted"], fit.fittedvalues)
    np.testing.assert_allclose(1 / (1 + np.exp(-table[".eta"])), fit.fittedvalues)


def test_figures(fit):
    plt = pytest.importorskip("matplotlib.pyplot")
    titles = [axes.get_title() for axes in fit.plot_ranef("herd").axes]
    assert titles == ["Intercept: 2 of 15 away from 0"]
    assert len(fit.plot_diagnostics().axes) == 2
    plt.close("all")


def test_files(fit, tmp_path):
    fit.save(tmp_path / "fit")
    again = sparselmm.MixedGLMResults.load(tmp_path / "fit")
    assert again.llf == fit.llf
    np.testing.assert_allclose(again.predict(), fit.predict())


def test_standard_errors_at_a_singular_covariance():
    """An intercept without variance next to a slope: those of the model without the intercept."""
    rng = np.random.default_rng(0)
    n = 240
    data = pd.DataFrame({"g": np.arange(n) % 20, "age": np.repeat([8, 10, 12, 14], n // 4)})
    data["m"] = np.tile([0.0, 1.0], n // 2)
    rng.normal(size=n + 20 + n)
    data["k"] = rng.poisson(np.exp(0.1 * data.age))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sparselmm.exceptions.ModelWarning)
        fit = sparselmm.mixedglm("k ~ age + m + (m | g)", data, family="poisson").fit()
        less = sparselmm.mixedglm("k ~ age + m + (0 + m | g)", data, family="poisson").fit()
    assert fit.varcorr.sdcor[0] < 1e-4 < less.varcorr.sdcor[0]
    np.testing.assert_allclose(fit.bse, less.bse, rtol=1e-3)


@pytest.mark.filterwarnings("ignore::sparselmm.BoundaryWarning")
def test_too_little_variance_and_too_few_zeros_have_advice_of_their_own():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"g": np.repeat(np.arange(20), 6)})
    frame["y"] = 1 + rng.binomial(3, 0.5, 120)
    advice = {
        f.code: f.advice
        for f in mixedglm("y ~ (1 | g)", frame, family="poisson").fit().check().findings
    }
    assert "standard errors are too large" in advice["dispersion"]
    assert "hurdle" in advice["zeros"]
    assert "zi=" not in advice["zeros"]


def test_contrasts_under_the_identity_link_are_differences():
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"g": np.repeat(np.arange(20), 12), "f": np.tile(list("abc"), 80)})
    data["y"] = 0.6 * rng.normal(size=20)[data.g] + (data.f == "b") + rng.normal(size=240)
    own = sparselmm.mixedglm("y ~ f + (1 | g)", data, family="gaussian").fit()
    linear = sparselmm.mixedlm("y ~ f + (1 | g)", data).fit(reml=False)
    ours = own.emmeans("f").contrast("pairwise")
    theirs = linear.emmeans("f").contrast("pairwise")
    assert ours["contrast"].tolist() == theirs["contrast"].tolist()
    np.testing.assert_allclose(ours["estimate"], theirs["estimate"], rtol=1e-6)
