"""Profile likelihoods and the intervals they give."""

import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from comparison_cases import fitted
from numpy.testing import assert_allclose
from reference_fits import INFERENCE_IDS, reference_fit, reference_inference
from scipy import stats
from scipy.optimize import minimize_scalar

import sparselmm
from sparselmm.base.exceptions import DataError
from sparselmm.inference.intervals.profiles import Profiler
from sparselmm.results.plots.figure import pyplot


def having(section):
    return [name for name in INFERENCE_IDS if section in reference_inference(name)]


def r_names(name, frame):
    """Rows of an interval table under lme4's names."""
    fixed = dict(
        zip(reference_fit(name).fixef.index, reference_inference(name)["fixef_names"], strict=True)
    )
    return [fixed.get(row, row.replace("Intercept", "(Intercept)")) for row in frame.index]


@pytest.mark.parametrize("name", having("profile_exact"))
def test_intervals_are_those_of_exact_minimization(name):
    """Every end point of R's root finding, to 1e-6 of the interval's width."""
    record = reference_inference(name)["profile_exact"]["intervals"]
    found = fitted(name).conf_int(method="profile")
    found.index = r_names(name, found)
    assert set(found.index) == set(record)
    for parameter, theirs in record.items():
        width = theirs["upper"] - theirs["lower"]
        ends = [theirs["lower"], theirs["upper"]]
        assert_allclose(found.loc[parameter], ends, rtol=0, atol=1e-6 * width, err_msg=parameter)


@pytest.mark.parametrize("name", sorted(set(having("confint")) - set(having("profile_exact"))))
def test_intervals_are_those_of_lme4(name):
    """lme4 interpolates: its ends are right to about a hundredth of a standard error."""
    record = reference_inference(name)["confint"]["profile"]
    found = fitted(name).conf_int(method="profile")
    found.index = r_names(name, found)
    for parameter, low, high in zip(*(record[k] for k in ("names", "lower", "upper")), strict=True):
        error = np.abs(found.loc[parameter] - [low, high]) / (high - low)
        assert (error < 2e-3).all(), parameter


def test_profile_of_a_mean_has_a_closed_form():
    """Balanced one-way design: the profile of the intercept is that of a weighted mean."""
    fit = fitted("rail_ri_ml")
    frame = fit.profile("Intercept").frame
    means = np.array([fit.model.endog[i : i + 3].mean() for i in range(0, 18, 3)])
    within = sum(
        ((fit.model.endog[i : i + 3] - m) ** 2).sum()
        for i, m in zip(range(0, 18, 3), means, strict=True)
    )
    value = frame["value"].to_numpy()
    between = 3.0 * ((means[:, None] - value) ** 2).sum(axis=0)
    exact = 6.0 * np.log(between / 6.0) + 12.0 * np.log(within / 12.0)
    rise = exact - exact[np.argmin(np.abs(frame["zeta"].to_numpy()))]
    assert_allclose(frame["zeta"] ** 2, rise, atol=1e-7)


@pytest.mark.parametrize("which", ["theta", "random", "fixed"])
@pytest.mark.parametrize("name", ["sleep_slope_reml", "penicillin_reml", "pastes_nested_reml"])
def test_a_profile_is_ascending_and_passes_through_the_estimate(name, which):
    profile = fitted(name).profile(which, alpha_max=0.05, n_points=5)
    for parameter in dict.fromkeys(profile.frame.index):
        rows = profile.frame.loc[[parameter]]
        assert (np.diff(rows["value"]) > 0).all(), parameter
        assert (np.diff(rows["zeta"]) >= 0).all(), parameter
        assert np.abs(rows["zeta"]).min() == 0.0
        if not parameter.startswith("theta"):
            assert_allclose(rows["value"], rows[parameter], rtol=1e-7, atol=1e-9)


def test_variances_share_the_profile_of_standard_deviations():
    fit = fitted("sleep_slope_reml")
    sd = fit.profile("random", n_points=3)
    variance = fit.profile("random", n_points=3, scale="variance")
    assert_allclose(sd.frame["zeta"], variance.frame["zeta"])
    a, b = sd.conf_int(), variance.conf_int()
    rows = [name.replace("sd_", "var_") for name in a.index]
    rows = ["scale" if name == "sigma" else name for name in rows]
    assert list(b.index) == rows
    squares = [not name.startswith("cor") for name in a.index]
    assert_allclose(b[squares], a[squares] ** 2)


def test_theta_of_one_intercept_is_the_ratio_of_the_deviance():
    """Ends of the interval of theta: the profiled deviance rises by the chi-squared quantile."""
    fit = fitted("dyestuff_ri_ml")
    low, high = fit.profile("theta").conf_int(0.1).iloc[0]
    base = fit.deviance.value(fit.theta)
    for end in (low, high):
        rise = fit.deviance.value(np.array([end])) - base
        assert_allclose(rise, stats.chi2.ppf(0.9, 1), rtol=1e-6)


GRADIENTS = ["sleep_slope_reml", "sleep_w_reml", "penicillin_reml", "oxboys_quad_ml"]


@pytest.mark.parametrize("name", GRADIENTS)
def test_constrained_gradients_are_exact(name):
    fit = fitted(name)
    assert_gradients(fit, [*fit._profile_parameters(None), *fit._profile_parameters("theta")])


def assert_gradients(fit, chosen):
    """Gradients of constrained deviances are those of central differences."""
    profiler = Profiler(fit.deviance, fit.theta)
    for parameter in chosen:
        c = profiler.constrained(parameter)
        phi = c.start() * 1.1 + 0.01
        value = 0.3 if parameter.kind == "cor" else 0.8 * c.estimate + 0.01
        f = c.objective(value)
        gradient = f(phi)[1]
        steps = np.diag(1e-5 * np.maximum(np.abs(phi), 0.1))
        numeric = [(f(phi + h)[0] - f(phi - h)[0]) / (2.0 * h.sum()) for h in steps]
        scale = np.abs(gradient).max(initial=1.0)
        assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-5 * scale, err_msg=parameter.name)


STRUCTURES = {
    "cs(0 + Machine | Worker)": 4,
    "cs(0 + Machine | Worker, hom=True)": 2,
    "ar1(0 + Machine | Worker, hom=True)": 2,
    "ar1(0 + Machine | Worker, hom=False)": 4,
    "diag(0 + Machine | Worker, hom=True)": 1,
    "diag(0 + Machine | Worker)": 3,
}


@pytest.mark.parametrize("bar", STRUCTURES)
def test_parameters_of_patterned_covariances(bar):
    """What is held fixed is what the point has, and the gradient is exact."""
    data = sparselmm.datasets.load("Machines")
    fit = sparselmm.mixedlm(f"score ~ Machine + {bar}", data).fit(reml=False)
    names = [p.name for p in fit._profile_parameters("random")]
    assert len(names) == STRUCTURES[bar] + 1
    frame = fit.profile(names, n_points=2).frame
    for name in names:
        assert_allclose(frame.loc[[name], "value"], frame.loc[[name], name], rtol=1e-7)
    assert_gradients(fit, fit._profile_parameters("random"))
    ends = fit.conf_int(method="profile", which="random")
    estimate = frame[frame["zeta"] == 0.0]["value"]
    assert (ends[0] < estimate).all()
    assert (estimate < ends[1]).all()


def test_known_residual_variance():
    """A meta-analysis: the interval of the mean is that of the profiled deviance."""
    rng = np.random.default_rng(4)
    v = rng.uniform(0.2, 1.0, 12)
    data = pd.DataFrame(
        {"y": rng.normal(1.0, np.sqrt(0.5 + v)), "study": np.arange(12), "w": 1 / v}
    )
    model = sparselmm.mixedlm("y ~ 1 + (1 | study)", data, weights="w")
    fit = model.fit(reml=False, fix={"sigma": 1.0})
    found = fit.conf_int(method="profile")
    assert list(found.index) == ["sd_Intercept|study", "Intercept"]

    def deviance(tau, mu):
        total = tau**2 + v
        return np.sum(np.log(2 * np.pi * total) + (data.y - mu) ** 2 / total)

    def best_mu(tau):
        return np.average(data.y, weights=1 / (tau**2 + v))

    base = minimize_scalar(lambda t: deviance(t, best_mu(t)), bounds=(0, 5), method="bounded").fun
    for tau in found.loc["sd_Intercept|study"]:
        if tau > 0:
            assert_allclose(deviance(tau, best_mu(tau)) - base, stats.chi2.ppf(0.95, 1), rtol=1e-5)
    for mu in found.loc["Intercept"]:
        low = minimize_scalar(lambda t, mu=mu: deviance(t, mu), bounds=(0, 5), method="bounded").fun
        assert_allclose(low - base, stats.chi2.ppf(0.95, 1), rtol=1e-5)


# ----------------------------------------------------------------------------- interface


def test_names_and_errors():
    fit = fitted("sleep_slope_reml")
    names = list(fit.conf_int(method="profile").index)
    assert names == [
        "sd_Intercept|Subject", "cor_Days.Intercept|Subject", "sd_Days|Subject", "sigma",
        "Intercept", "Days",
    ]  # fmt: skip
    assert list(fit.profile(["Days", "sigma"]).conf_int().index) == ["Days", "sigma"]
    with pytest.raises(DataError, match="no parameter 'Day'"):
        fit.profile("Day")
    with pytest.raises(DataError, match="alpha must"):
        fit.conf_int(1.5, method="profile")
    with pytest.raises(DataError, match="scale must"):
        fit.profile(scale="log")
    with pytest.raises(ValueError, match="'wald', 'profile' or 'bootstrap'"):
        fit.conf_int(method="exact")
    with pytest.raises(ValueError, match="no options"):
        fit.conf_int(which="fixed")


def test_components_have_the_same_intervals_as_bars():
    data = sparselmm.datasets.load("Pastes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sparselmm.SpecificationWarning)
        model = sparselmm.mixedlm(
            "strength ~ 1", data, groups="batch", re_formula="1",
            vc_formula={"cask": "0 + C(cask)"},
        )  # fmt: skip
    found = model.fit().conf_int(method="profile")
    bars = fitted("pastes_nested_reml").conf_int(method="profile")
    assert "sd_cask" in found.index
    assert_allclose(np.sort(found.to_numpy(), axis=0), np.sort(bars.to_numpy(), axis=0), rtol=1e-5)


def test_bootstrap_intervals_come_through_conf_int():
    fit = fitted("dyestuff_ri_reml")
    found = fit.conf_int(0.1, method="bootstrap", n=30, seed=3)
    assert_allclose(found, fit.bootstrap(30, seed=3).conf_int(0.1))


def test_a_correlation_without_a_variance_has_no_profile():
    """An undefined estimate is NaN, not a number that looks like one."""
    fit = fitted("arab_max_reml")
    profiler = Profiler(fit.deviance, fit.theta)
    undefined = [
        p for p in fit._profile_parameters("random") if np.isnan(profiler.constrained(p).estimate)
    ]
    for parameter in undefined:
        assert np.isnan(profiler.limit(parameter, 1, 2.0))
        assert profiler.trace(parameter, 2.0, 4) == []


def test_plot_draws_every_parameter():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    profile = fitted("dyestuff_ri_reml").profile(n_points=4)
    for absolute in (False, True):
        figure = profile.plot(absolute=absolute)
        titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
        assert titles == list(dict.fromkeys(profile.frame.index))
        matplotlib.pyplot.close(figure)
    with pytest.raises(DataError, match="no profile of 'x'"):
        profile.plot(["x"])


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="sparselmm\\[plots\\]"):
        pyplot()


def test_profiles_do_not_depend_on_units():
    """Rescaling response and covariate rescales the intervals."""
    data = sparselmm.datasets.load("sleepstudy")
    other = data.assign(Reaction=data.Reaction / 1000, Days=24 * data.Days)
    formula = "Reaction ~ Days + (Days | Subject)"
    a, b = (
        sparselmm.mixedlm(formula, d).fit().conf_int(method="profile").to_numpy()
        for d in (data, other)
    )
    scale = np.array([1e-3, 1.0, 1e-3 / 24, 1e-3, 1e-3, 1e-3 / 24])
    assert_allclose(b, a * scale[:, None], rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 34])
def test_a_correlation_of_the_other_sign_is_no_more_likely_than_no_variance(seed):
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({"g": np.repeat([f"g{i:02}" for i in range(10)], 8)})
    data["x"] = np.tile(np.linspace(-1.0, 1.0, 8), 10)
    b = (rng.normal(size=(10, 1)) @ np.array([[0.35, -0.6]])).repeat(8, axis=0)
    data["y"] = b[:, 0] + b[:, 1] * data.x + rng.normal(size=80)
    fits = [
        sparselmm.mixedlm(f"y ~ x + {random}", data).fit(reml=False)
        for random in ("(x | g)", "(1 | g)", "(0 + x | g)")
    ]
    most = min(2.0 * (fits[0].llf - fit.llf) for fit in fits[1:])
    name = "cor_x.Intercept|g"
    frame = fits[0].profile(name, alpha_max=1e-6, n_points=6).frame
    own = frame[name].to_numpy()
    held = np.isfinite(own)  # elsewhere a variance is zero
    assert_allclose(own[held], frame.value.to_numpy()[held], atol=1e-8)
    assert_allclose(frame.zeta.iloc[-1] ** 2, most, rtol=1e-5)
    assert (frame.zeta**2 < most * (1.0 + 1e-6)).all()
    assert (np.diff(frame.zeta) > -1e-6).all()
