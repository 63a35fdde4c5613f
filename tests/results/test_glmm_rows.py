"""Rows of weight zero, of several, of trials; arrays; what may be compared or exponentiated."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.stats as st
from glmm_cases import data_of, fit_of
from sparselmm.exceptions import RankDeficiencyWarning

import sparselmm
from sparselmm import DataError, MixedGLM, mixedglm

pytestmark = pytest.mark.filterwarnings("ignore::sparselmm.BoundaryWarning")


@pytest.fixture(scope="module")
def counts():
    """Poisson counts of 30 groups, weights from one to four, a factor, trials."""
    rng = np.random.default_rng(3)
    d = pd.DataFrame({"g": np.repeat(np.arange(30), 10), "x": rng.normal(size=300)})
    d["y"] = rng.poisson(np.exp(0.5 + 0.3 * d.x + 0.4 * rng.normal(size=30)[d.g]))
    d["z"] = np.exp(0.2 * d.x + 0.3 * rng.normal(size=30)[d.g]) + 0.2 * rng.normal(size=300)
    return d.assign(w=rng.integers(1, 5, 300), m=rng.integers(20, 60, 300))


def test_rows_of_weight_zero_have_residuals_of_their_own(counts):
    d = counts.assign(w=np.where(np.arange(300) < 290, 1.0, 0.0))
    d.loc[290:, "y"] = 50
    fit = mixedglm("y ~ x + (1 | g)", d, family="poisson", weights="w").fit()
    own = d.y - fit.fittedvalues
    np.testing.assert_allclose(fit.residuals("response"), own)
    np.testing.assert_allclose(fit.residuals("pearson"), own / np.sqrt(fit.fittedvalues))
    assert (fit.residuals("quantile")[290:] > 8).all()


def test_checks_pass_over_rows_of_weight_zero(counts):
    d = counts.assign(w=np.where(np.arange(300) < 200, 1.0, 0.0))
    d.loc[200:, "y"] = 0
    table = mixedglm("y ~ x + (1 | g)", d, family="poisson", weights="w").fit().simulated_checks(50)
    assert table.loc["zeros", "observed"] == (d.y[:200] == 0).sum()
    rest = mixedglm("y ~ x + (1 | g)", d[:200], family="poisson").fit().simulated_checks(50)
    assert table.loc["dispersion", "observed"] == pytest.approx(rest.loc["dispersion", "observed"])


def test_bootstrap_beside_rows_of_weight_zero(counts):
    d = counts.assign(w=np.where(np.arange(300) < 290, 1.0, 0.0))
    fit = mixedglm("z ~ x + (1 | g)", d, family="gaussian", link="log", weights="w").fit()
    draws = fit.simulate(2, seed=1)
    assert draws[290:].isna().all().all()
    assert draws[:290].notna().all().all()
    assert fit.bootstrap(3, seed=1).n_failed == 0
    assert np.isfinite(fit.simulated_checks(20).loc["dispersion", "expected"])


def test_draws_without_a_category_are_failed_refits():
    """Its threshold has no estimate; where the search stopped is none."""
    rng = np.random.default_rng(8)
    d = pd.DataFrame({"g": np.repeat(np.arange(12), 6)})
    latent = rng.logistic(size=72) + 0.7 * rng.normal(size=12)[d.g]
    d["y"] = np.digitize(latent, [-2.2, 0.0, 4.2])
    fit = mixedglm("y ~ 1 + (1 | g)", d, family="ordinal").fit()
    draws = fit.simulate(20, seed=1).to_numpy()
    empty = [len(np.unique(column)) < 4 for column in draws.T]
    assert 0 < sum(empty) < 20
    found = fit.bootstrap(20, seed=1)
    assert found.n_failed == sum(empty)
    assert (found.replicates["2|3"].dropna() < 8).all()


def test_explained_variance_counts_rows_as_the_likelihood_does(counts):
    """Two of a row are the row twice; a row of weight zero is none."""
    d = counts.assign(w=np.where(np.arange(300) < 290, counts.w, 0))
    fit = mixedglm("y ~ x + (x | g)", d, family="poisson", weights="w").fit()
    twice = mixedglm("y ~ x + (x | g)", d.loc[d.index.repeat(d.w)], family="poisson").fit()
    np.testing.assert_allclose(fit.r2(), twice.r2(), rtol=1e-4)
    np.testing.assert_allclose(fit.icc(), twice.icc(), rtol=1e-4)


def test_funnels_of_trials_have_the_variance_of_proportions(counts):
    rng = np.random.default_rng(5)
    d = counts.assign(y=rng.binomial(counts.m, 0.4))
    fit = mixedglm("cbind(y, m - y) ~ 1 + (1 | g)", d).fit()
    p = fit.predict(random="population")
    np.testing.assert_allclose(fit._row_variance(), p * (1 - p) / d.m)


def test_designs_given_as_arrays_are_not_made_up_for_new_rows(counts):
    X, g = np.column_stack([np.ones(300), counts.x]), counts.g.to_numpy()
    y = counts.y.to_numpy() * (np.random.default_rng(1).random(300) < 0.6)
    fit = MixedGLM(y, X, g, family="poisson", zi=X[:, 1:]).fit()
    assert fit.params.index[-1] == "zi: zi1"
    assert np.isfinite(fit.predict()).all()
    with pytest.raises(DataError, match="zi= was an array"):
        fit.predict(X[:3], groups=g[:3])
    flat = MixedGLM(y, X, g, family="poisson", zi=True).fit()
    np.testing.assert_allclose(flat.predict(X[:3], groups=g[:3]), flat.predict()[:3])


def test_predictions_of_a_deficient_design_warn(counts):
    with pytest.warns(RankDeficiencyWarning, match="dropped"):
        fit = mixedglm(
            "y ~ x + x2 + (1 | g)", counts.assign(x2=2 * counts.x), family="poisson"
        ).fit()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit.predict()
    with pytest.warns(RankDeficiencyWarning, match="rank-deficient fit"):
        fit.predict(counts.assign(x2=7.0).head(2))


# ------------------------------------------------------------------------------- outliers


def test_expected_outliers_of_single_trials_are_none(counts):
    d = counts.assign(y=(counts.y > 1).astype(int))
    row = mixedglm("y ~ x + (1 | g)", d).fit().simulated_checks(100).loc["outliers"]
    assert row.observed == 0
    assert row.expected < 0.5


def test_outliers_of_many_rows_have_a_p_value():
    """More rows than ``exp`` of their number has digits for."""
    rng = np.random.default_rng(2)
    d = pd.DataFrame({"g": np.repeat(np.arange(20), 800)})
    d["y"] = rng.choice([0.5, 0.5, 3.0], len(d)) * rng.normal(size=len(d))
    row = (
        mixedglm("y ~ 1 + (1 | g)", d, family="gaussian").fit().simulated_checks(30).loc["outliers"]
    )
    assert row.expected > 745
    assert row.observed > row.expected
    assert row.pvalue == pytest.approx(st.poisson.sf(row.observed - 1, row.expected))


# --------------------------------------------------------------- comparisons, exponentials


def test_fits_of_other_trials_or_weights_are_not_compared(counts):
    one = mixedglm("cbind(y, 20 - y) ~ x + (1 | g)", counts).fit()
    two = mixedglm("cbind(y, m - y) ~ 1 + (1 | g)", counts).fit()
    with pytest.raises(DataError, match="different weights or trials"):
        one.lrt(two)
    plain = mixedglm("y ~ x + (1 | g)", counts, family="poisson").fit()
    counted = mixedglm("y ~ 1 + (1 | g)", counts, family="poisson", weights="w").fit()
    with pytest.raises(DataError, match="different weights or trials"):
        sparselmm.compare(plain, counted)
    ones = mixedglm("y ~ 1 + (1 | g)", counts, family="poisson", weights=np.ones(300)).fit()
    assert np.isfinite(plain.lrt(ones).pvalue.iloc[1])


def test_tests_are_between_a_family_and_its_limit(counts):
    def fit(formula="y ~ x + (1 | g)", **given):
        return mixedglm(formula, counts, **given).fit()

    poisson = fit(family="poisson")
    for tested, given in (
        (True, {"family": "nbinom1"}), (True, {"family": "nbinom2"}),
        (True, {"family": "poisson", "zi": "~ 1"}), (False, {"family": "poisson", "hurdle": "~ 1"}),
        (False, {"family": "gaussian", "link": "log"}),
        (False, {"family": "nbinom2", "link": "sqrt"}),
    ):  # fmt: skip
        table = poisson.lrt(fit(**given))
        assert np.isfinite(table.pvalue.iloc[1]) == tested
        assert np.isfinite(table.aic).all()
    small = fit("y ~ 1 + (1 | g)", family="poisson", hurdle="~ 1")
    assert np.isfinite(small.lrt(fit(family="nbinom2", hurdle="~ 1")).pvalue.iloc[1])


def test_exponentials_where_they_mean_nothing():
    fit = fit_of("cbpp_probit")
    with pytest.raises(DataError, match="mean nothing for the probit link"):
        fit.tidy(exponentiate=True)
    assert (fit.tidy().estimate[1:4] < 0).all()
    pytest.importorskip("matplotlib")
    with pytest.raises(DataError, match="mean nothing for the probit link"):
        fit.plot_coefficients(exponentiate=True)
    assert fit_of("cbpp_logit").plot_coefficients(exponentiate=True)


def test_the_equation_of_an_asymmetric_ordinal_link():
    """``P(y <= k) = F(theta - eta)``; the link of ``P(y > k)`` is not minus that of the other."""
    fit = mixedglm(
        "rating ~ temp + (1 | judge)", data_of("wine"), family="ordinal", link="cloglog"
    ).fit()
    assert (
        "cloglog(P(<i>rating</i> &le; k)) = &theta;<sub>k</sub>" in fit.report(pictures=False).html
    )
    p = fit.predict(type="probability", random="population").iloc[0]
    eta = fit.predict(type="link", random="population").iloc[0]
    below = 1 - np.exp(-np.exp(fit.thresholds.iloc[1] - eta))
    assert p.iloc[:2].sum() == pytest.approx(below)


def test_figures_hold_the_variables_of_zeros_and_dispersion(counts):
    """Means, modes or levels of what the fixed effects do not have; they may be drawn, too."""
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(6)
    d = counts.assign(k=rng.integers(1, 4, 300), f=rng.choice(["a", "b"], 300), v=counts.x**2)
    d["y"] = np.where(rng.random(300) < 0.2 * (d.f == "b") + 0.1, 0, d.y)
    fit = mixedglm("y ~ x + (1 | g)", d, family="poisson", zi="~ C(k) + f + v").fit()
    new = pd.DataFrame({"x": [d.x.min(), d.x.max()], "k": d.k.mode()[0], "f": d.f.mode()[0],
                        "v": d.v.mean()})  # fmt: skip
    line = fit.plot_predictions(data="none").axes[0].lines[0].get_ydata()
    own = fit.predict(new, random="population")
    np.testing.assert_allclose(line[[0, -1]], own, rtol=1e-6)
    assert fit.plot_predictions(["f", "k"], data="none")
    spread = mixedglm("y ~ x + (1 | g)", d, family="nbinom2", dispersion="~ f").fit()
    assert "<img alt='Predictions'" in spread.report().html


def test_averages_over_effects_of_a_known_covariance_are_those_of_simulations():
    """The variance of a row has the intercept's, the slope's and twice their covariance."""
    rng = np.random.default_rng(5)
    root = rng.normal(size=(12, 12)) / 3
    names = [f"l{i}" for i in range(12)]
    K = root @ root.T + 0.3 * np.eye(12)
    d = pd.DataFrame({"g": rng.choice(names, 400), "x": rng.normal(size=400)})
    place = d.g.map(names.index).to_numpy()
    b = np.linalg.cholesky(K) @ rng.normal(size=(12, 2)) * [0.5, 0.8]
    d["y"] = rng.poisson(np.exp(0.3 + 0.2 * d.x + b[place, 0] + b[place, 1] * d.x))
    known = {"g": sparselmm.KnownCovariance(K, names, kind="covariance")}
    fit = mixedglm("y ~ x + (x | g)", d, family="poisson", covariance=known).fit()
    psi = fit.deviance.covariance.psi(fit.theta)[0]
    z = np.column_stack([np.ones(400), d.x])
    own = np.diag(K)[place] * np.einsum("ij,jk,ik->i", z, psi, z)
    eta = fit.predict(type="link", random="population")
    np.testing.assert_allclose(fit.predict(random="average"), np.exp(eta + own / 2), rtol=1e-8)
    assert fit.r2().conditional == pytest.approx(
        1 - fit._latent_residual() / (np.var(eta) + own.mean() + fit._latent_residual())
    )
    new = d.head(3)
    np.testing.assert_allclose(
        fit.predict(new, random="average"), fit.predict(random="average").head(3)
    )
    with pytest.raises(DataError, match="the known covariance does not have"):
        fit.predict(new.assign(g="other"), random="average")


def test_ordinal_means_of_empty_cells_are_not_told():
    """As of other families; the intercept, for which the thresholds stand, is no such column."""
    rng = np.random.default_rng(5)
    d = pd.DataFrame({"g": rng.integers(0, 20, 400), "a": rng.choice(["p", "q"], 400),
                      "b": rng.choice(["u", "v", "w"], 400)})  # fmt: skip
    d = d[(d.a != "q") | (d.b != "w")]
    d["y"] = np.digitize(0.5 * (d.a == "q") + rng.logistic(size=len(d)), [-1, 0.5])
    full = mixedglm("y ~ a + b + (1 | g)", d, family="ordinal").fit()
    assert full.dropped == ()
    with pytest.warns(RankDeficiencyWarning, match=r"a\[T.q\]:b\[T.w\]"):
        fit = mixedglm("y ~ a * b + (1 | g)", d, family="ordinal").fit()
    assert fit.dropped == ("a[T.q]:b[T.w]",)
    means = fit.emmeans(["a", "b"], type="link").frame
    empty = (means.a == "q") & (means.b == "w")
    assert means.emmean.isna().tolist() == empty.tolist()
    assert fit.emmeans("a", type="link").frame.emmean.isna().tolist() == [False, True]
    with pytest.warns(RankDeficiencyWarning, match="thresholds"):
        coded = mixedglm("y ~ 0 + a + b + (1 | g)", d, family="ordinal").fit()
    ours, theirs = (r.emmeans("b", type="link").pairs().estimate for r in (coded, full))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    with pytest.warns(RankDeficiencyWarning, match="rank-deficient fit"):
        fit.predict(d.head(2), "link")
