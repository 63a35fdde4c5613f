"""Means, variances and intervals on the response's scale against SciPy, quadrature and R."""

import numpy as np
import pandas as pd
import pytest
import scipy.integrate as si
import scipy.stats as st

import sparselmm
from sparselmm import mixedglm
from sparselmm.likelihood.laplace import links, moments
from sparselmm.likelihood.laplace.chosen import choose_family, with_zeros
from sparselmm.results.general.prediction import nodes
from sparselmm.results.tables.scales import TRANSFORMATIONS, link_scale

pytestmark = pytest.mark.filterwarnings("ignore::sparselmm.BoundaryWarning")

FAMILIES = [
    (name, zeros)
    for name in ("binomial", "betabinomial", "poisson", "nbinom1", "nbinom2")
    for zeros in ("", "zi", "hurdle")
    if not (zeros == "hurdle" and name.endswith("binomial") and name != "nbinom2")
]


def law(name, zeros, m, mu, d, z):
    """Probabilities of 0, 1, ... by SciPy."""
    k = np.arange(m + 1 if "binomial" in name else 400)
    p = {
        "binomial": lambda: st.binom(m, mu),
        "betabinomial": lambda: st.betabinom(m, mu * d, (1 - mu) * d),
        "poisson": lambda: st.poisson(mu),
        "nbinom1": lambda: st.nbinom(mu / d, 1 / (1 + d)),
        "nbinom2": lambda: st.nbinom(d, d / (d + mu)),
    }[name]().pmf(k)
    pi = 1 / (1 + np.exp(-z))
    if zeros == "zi":
        p = (1 - pi) * p
        p[0] += pi
    if zeros == "hurdle":
        p = np.concatenate([[pi], (1 - pi) * p[1:] / (1 - p[0])])
    return k, p


@pytest.mark.parametrize(("name", "zeros"), FAMILIES)
def test_moments_of_counts_are_those_of_their_probabilities(name, zeros):
    family = with_zeros(choose_family(name), zeros == "zi", zeros == "hurdle")
    eta, d, z, m = np.array([0.4]), 0.3, -0.5, 7
    further = [np.array([d])] if "dispersion" in family.further else []
    further += [np.array([z])] if zeros else []
    mu = float(links.mean(family.link, eta)[0])
    k, p = law(name, zeros, m, mu, np.exp(d), z)
    mean, second = k @ p, k**2 @ p
    size = m if name in ("binomial", "betabinomial") else 1
    own = size * moments.mean(family, eta, tuple(further))[0]
    assert own == pytest.approx(mean, rel=1e-10)
    v = moments.variance(family, eta, tuple(further), np.array([float(m)]))[0]
    assert v == pytest.approx(second - mean**2, rel=1e-9)


@pytest.mark.parametrize("zeros", ["", "zi", "hurdle"])
@pytest.mark.parametrize("name", ["poisson", "nbinom1", "nbinom2"])
@pytest.mark.parametrize("link", ["log", "sqrt"])
def test_slopes_of_means_are_their_differences(name, link, zeros):
    family = with_zeros(choose_family(name, link), zeros == "zi", zeros == "hurdle")
    at = [
        np.array([0.4, 1.3]),
        *(np.array([x, x + 0.2]) for x in (0.3, -0.6)[: len(family.further)]),
    ]
    slopes = moments.mean_slopes(family, at[0], tuple(at[1:]))
    assert len(slopes) == len(at)
    for i, slope in enumerate(slopes):
        up, down = ([x + s * 1e-5 * (j == i) for j, x in enumerate(at)] for s in (1, -1))
        numeric = moments.mean(family, up[0], tuple(up[1:]))
        numeric = (numeric - moments.mean(family, down[0], tuple(down[1:]))) / 2e-5
        np.testing.assert_allclose(slope, numeric, rtol=1e-7, atol=1e-9)


def test_counts_past_a_hurdle_are_one_where_more_are_hardly_possible():
    family = with_zeros(choose_family("poisson"), False, True)
    own = moments.mean(family, np.array([-40.0, -36.0]), (np.full(2, -np.inf),))
    np.testing.assert_allclose(own, 1.0, rtol=1e-12)


@pytest.mark.parametrize("sd", [0.5, 2.0, 5.0, 12.0])
@pytest.mark.parametrize("link", ["logit", "probit", "cloglog", "log"])
def test_averages_over_random_effects_are_integrals(link, sd):
    eta = -1.3
    own = sum(w * links.mean(link, np.array([eta + z * sd]))[0] for z, w in nodes(np.array([sd])))
    if link == "log":
        assert own == pytest.approx(np.exp(eta + sd**2 / 2), rel=1e-10)
        return
    truth = si.quad(
        lambda z: links.mean(link, np.array([eta + z * sd]))[0] * st.norm.pdf(z), -12, 12,
        points=[-eta / sd], limit=400, epsabs=1e-13,
    )[0]  # fmt: skip
    assert own == pytest.approx(truth, rel=1e-7)


# ------------------------------------------------------------------------------- intervals


def positive(link, scale):
    """Gamma responses of a large mean."""
    rng = np.random.default_rng(3)
    d = pd.DataFrame({"g": np.repeat(np.arange(30), 10), "f": rng.choice(["a", "b"], 300)})
    mu = scale * np.exp(0.3 * (d.f == "b") + 0.2 * rng.normal(size=30)[d.g])
    d["y"] = mu * rng.gamma(20, 1 / 20, 300)
    return d, mixedglm("y ~ f + (1 | g)", d, family="gamma", link=link).fit()


@pytest.mark.parametrize(("link", "power", "scale"),
                         [("inverse", -1.0, 1e6), ("inverse_squared", -0.5, 300.0)])  # fmt: skip
def test_standard_errors_of_small_predictors(link, power, scale):
    """Those of the predictor times the derivative of the mean, of means and predictions alike."""
    _, fit = positive(link, scale)
    known = fit.emmeans("f", type="link").frame
    eta = known.emmean.to_numpy()
    slope = np.abs(power) * eta ** (power - 1)
    means = fit.emmeans("f").frame
    np.testing.assert_allclose(means.SE, slope * known.SE, rtol=1e-10)
    new = pd.DataFrame({"f": ["a", "b"], "g": [0, 0]})
    own = fit.predict(new, random="population", interval=True)
    np.testing.assert_allclose(own.se, slope * known.SE, rtol=1e-8)
    adjusted = fit.emmeans("f", bias_adjust=True).frame.response
    bend = power * (power - 1) * eta ** (power - 2)
    truth = eta**power + 0.5 * fit.varcorr.vcov[0] * bend
    np.testing.assert_allclose(adjusted, truth, rtol=1e-8)


def test_standard_errors_of_large_means():
    rng = np.random.default_rng(4)
    d = pd.DataFrame({"g": np.repeat(np.arange(30), 10), "x": rng.normal(size=300)})
    d["y"] = 1e12 + 1e9 * (d.x + rng.normal(size=30)[d.g] + rng.normal(size=300))
    fit = mixedglm("y ~ x + (1 | g)", d, family="gaussian").fit()
    own = fit.predict(d.head(2), random="population", interval=True)
    link = fit.predict(d.head(2), "link", "population", interval=True)
    np.testing.assert_allclose(own, link, rtol=1e-12)


def test_limits_where_the_predictor_may_be_zero():
    """Squares turn round there, as in R's emmeans; inverses leave for infinity."""
    value, low, high = np.array([0.5]), np.array([-1.0]), np.array([2.0])
    for scale in (link_scale("sqrt"), TRANSFORMATIONS["sqrt"]):
        assert np.ravel(scale.limits(value, low, high)).tolist() == [0.0, 4.0]
    for link, least in (("inverse", 0.5), ("inverse_squared", 2**-0.5)):
        own = np.ravel(link_scale(link).limits(value, low, high))
        np.testing.assert_allclose(own, [least, np.inf])
    own = np.ravel(link_scale("inverse").limits(-value, low, high))
    np.testing.assert_allclose(own, [-np.inf, -1.0])


def test_intervals_of_squared_predictors_hold_the_prediction():
    rng = np.random.default_rng(3)
    d = pd.DataFrame({"g": np.repeat(np.arange(30), 10), "x": rng.normal(size=300)})
    d["y"] = rng.poisson(0.1, 300)
    fit = mixedglm("y ~ x + (1 | g)", d, family="poisson", link="sqrt").fit()
    new = pd.DataFrame({"g": 0, "x": np.linspace(-9, 9, 40)})
    own = fit.predict(new, random="population", interval=True)
    assert (fit.predict(new, "link", "population", interval=True).ci_lower < 0).any()
    assert ((own.ci_lower <= own["mean"]) & (own["mean"] <= own.ci_upper)).all()


def test_intervals_of_a_family_of_ones_own_count_its_parameters():
    """A lognormal mean depends on the scale, whose error a log-normal's mean has."""

    def normal(y, eta, log_s):
        s, r = np.exp(log_s), y - eta
        return (-0.5 * (r / s) ** 2 - log_s - 0.5 * np.log(2 * np.pi), r / s**2, -1 / s**2 + 0 * y,
                0 * y)  # fmt: skip

    family = sparselmm.CustomFamily(
        normal, parameters={"log_s": 0.0}, name="lognormal",
        mean=lambda eta, log_s: np.exp(eta + 0.5 * np.exp(2 * log_s)), start=lambda y: y,
    )  # fmt: skip
    rng = np.random.default_rng(5)
    d = pd.DataFrame({"g": np.repeat(np.arange(20), 6)})
    d["y"] = rng.normal(size=20)[d.g] * 0.5 + 1.2 * rng.normal(size=120)
    fit = mixedglm("y ~ 1 + (1 | g)", d, family=family).fit()
    own = fit.predict(d.head(1), random="population", interval=True)
    s2 = np.exp(2 * fit.params["log_s: Intercept"])
    mean = float(np.exp(fit.params["Intercept"] + 0.5 * s2))
    V = fit.cov_params().to_numpy()
    gradient = mean * np.array([1.0, s2])
    assert own["mean"].iloc[0] == pytest.approx(mean)
    assert own.se.iloc[0] == pytest.approx(np.sqrt(gradient @ V @ gradient), rel=1e-6)
