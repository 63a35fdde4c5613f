"""Families: derivatives against differences, limits, compiled loops against NumPy."""

import numpy as np
import pytest
import scipy.special as ss
import scipy.stats as st

from sparselmm.base.exceptions import DataError
from sparselmm.base.kernels_families import LOOPS
from sparselmm.likelihood.laplace import moments
from sparselmm.likelihood.laplace.families import FAMILIES, NegativeBinomial2, Poisson
from sparselmm.likelihood.laplace.mixtures import CustomFamily, Hurdle, ZeroInflated
from sparselmm.likelihood.laplace.special import (
    _series,
    gamma_excess,
    log_factorials,
    log_minus_digamma,
    polygamma,
    rising,
)

N = 120
POSITIVE = ("identity", "sqrt", "inverse", "inverse_squared")
EVERY = [(name, link) for name, kind in FAMILIES.items() for link in kind.links]
H = 1e-3


def rows_of(name, link):
    """Responses, trials, predictors and further predictors a family allows."""
    rng = np.random.default_rng(5)
    eta, d = 1.5 * rng.normal(size=N), rng.normal(size=N)
    positive = np.exp(0.3 * rng.normal(size=N))
    if link in POSITIVE or name == "gaussian":
        eta = positive
    m = rng.integers(1, 12, N).astype(float)
    if name in ("binomial", "betabinomial"):
        y = rng.binomial(m.astype(int), 0.4).astype(float)
    elif name == "beta":
        y = rng.beta(2, 3, N)
    elif name in ("poisson", "nbinom1", "nbinom2"):
        y = rng.poisson(5, N).astype(float) * rng.integers(0, 20, N)
    elif name == "ordinal":
        y = rng.integers(0, 4, N)
        ends = np.array([-np.inf, -1.0, 0.2, 1.3, np.inf])
        return y.astype(float), np.ones(N), eta, (ends[y + 1], ends[y])
    else:
        y = rng.gamma(2, 1, N) + 0.1
    further = (d,) if FAMILIES[name].further else ()
    return y, m, eta, further


def difference(f):
    """Fourth-order difference of a function of a shift."""
    return (8 * (f(H) - f(-H)) - (f(2 * H) - f(-2 * H))) / (12 * H)


def check_jet(family, y, m, eta, further):
    jet = family.jet(y, m, eta, further, True)

    def at(i, t):
        if i is None:
            return family.jet(y, m, eta + t, further, True)
        moved = tuple(x + t * (j == i) for j, x in enumerate(further))
        return family.jet(y, m, eta, moved, True)

    for own, below in (("e", "f"), ("ee", "e"), ("eee", "ee")):
        slope = difference(lambda t, b=below: getattr(at(None, t), b))
        np.testing.assert_allclose(getattr(jet, own), slope, rtol=1e-7, atol=1e-7)
    for i in range(len(further)):
        for place, below in enumerate(("f", "e", "ee")):
            slope = difference(lambda t, b=below, i=i: getattr(at(i, t), b))
            np.testing.assert_allclose(jet.a[i][place], slope, rtol=1e-7, atol=1e-7)
        for j in range(i + 1):
            slope = difference(lambda t, i=i, j=j: at(i, t).a[j][0])
            own = (jet.aa or {}).get((j, i), np.zeros(N))
            np.testing.assert_allclose(own, slope, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("name", "link"), EVERY)
def test_derivatives(name, link):
    check_jet(FAMILIES[name](link), *rows_of(name, link))


@pytest.mark.parametrize("wrap", [ZeroInflated, Hurdle])
@pytest.mark.parametrize("name", ["poisson", "nbinom1", "nbinom2"])
def test_derivatives_with_zeros(name, wrap):
    y, m, eta, further = rows_of(name, "log")
    z = np.random.default_rng(1).normal(size=N)
    check_jet(wrap(FAMILIES[name]("log")), y, m, eta, (*further, z))


DENSITIES = ["binomial", "betabinomial", "beta", "poisson", "nbinom1", "nbinom2", "gamma",
             "inverse_gaussian", "gaussian"]  # fmt: skip


@pytest.mark.parametrize("name", DENSITIES)
def test_log_likelihood_is_scipys(name):
    family = FAMILIES[name](FAMILIES[name].links[0])
    y, m, eta, further = rows_of(name, family.link)
    if name in ("binomial", "betabinomial"):
        m = np.maximum(m, y)
    law = moments.distribution(family, eta, further, m)
    mass = getattr(law, "logpmf", None) or law.logpdf
    own = family.jet(y, m, eta, further, False).f + family.constant(y, m)
    np.testing.assert_allclose(own, mass(y), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("wrap", [ZeroInflated, Hurdle])
def test_zeros_add_up_to_one(wrap):
    family = wrap(NegativeBinomial2("log"))
    y = np.arange(400.0)
    one = np.ones(400)
    further = (0.7 * one, -0.4 * one)
    f = family.jet(y, one, 0.8 * one, further, False).f + family.constant(y, one)
    assert np.exp(f).sum() == pytest.approx(1.0, abs=1e-10)
    mu = moments.mean(family, 0.8 * one[:1], tuple(x[:1] for x in further))
    assert (np.exp(f) * y).sum() == pytest.approx(mu[0], rel=1e-9)
    v = moments.variance(family, 0.8 * one[:1], tuple(x[:1] for x in further), one[:1])
    assert (np.exp(f) * (y - mu) ** 2).sum() == pytest.approx(v[0], rel=1e-8)


def test_ordinal_probabilities_add_up_to_one():
    family = FAMILIES["ordinal"]("cloglog")
    p = moments.categories(family, np.linspace(-30, 30, 61), np.array([-1.0, 0.3, 2.0]))
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize("name", ["nbinom1", "nbinom2"])
def test_negative_binomial_tends_to_poisson(name):
    y, m, eta, _ = rows_of("poisson", "log")
    d = np.full(N, 25.0 if name == "nbinom2" else -25.0)
    ours, limit = FAMILIES[name]("log").jet(y, m, eta, (d,), False), Poisson("log").jet(y, m, eta)
    for part in ("f", "e", "ee", "eee"):
        np.testing.assert_allclose(getattr(ours, part), getattr(limit, part), rtol=1e-6, atol=1e-5)


def test_rising_factorials():
    y = np.array([0.0, 1, 2, 5, 30, 41, 100, 2.5])
    for k in (0.01, 0.5, 3.0, 12.0, 1e3):
        own, series = np.array(rising(y, np.full(8, k))), _series(y, np.full(8, k))
        np.testing.assert_allclose(own, series, rtol=1e-9, atol=1e-11)
        truth = ss.gammaln(y + k) - ss.gammaln(k) - y * np.log(k)
        np.testing.assert_allclose(own[0], truth, rtol=1e-9, atol=1e-9)
    k = np.array([0.3, 49.9, 50.1, 1e5])
    first, slope = log_minus_digamma(k)
    np.testing.assert_allclose(first, np.log(k) - ss.digamma(k), rtol=1e-9)
    np.testing.assert_allclose(slope, 1 / k - ss.polygamma(1, k), rtol=1e-4)
    np.testing.assert_allclose(gamma_excess(k), k * np.log(k) - k - ss.gammaln(k), rtol=1e-9)


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog", "cauchit"])
def test_no_tail_loses_its_digits(link):
    eta = np.array([-40.0, -25.0, -8.0, 3.0, 8.0, 20.0]) if link != "cloglog" else np.array(
        [-40.0, -25.0, -8.0, 1.0, 2.0, 3.0]
    )  # fmt: skip
    law = {"logit": st.logistic, "probit": st.norm, "cauchit": st.cauchy, "cloglog": st.gumbel_l}[
        link
    ]
    family = FAMILIES["binomial"](link)
    one = np.ones(6)
    success, failure = (family.jet(y * one, one, eta) for y in (1.0, 0.0))
    np.testing.assert_allclose(success.f, law.logcdf(eta), rtol=1e-10)
    np.testing.assert_allclose(failure.f, law.logsf(eta), rtol=1e-10)
    assert (success.ee <= 0).all() or link == "cauchit"
    assert all(np.isfinite(jet.eee).all() for jet in (success, failure))


@pytest.mark.parametrize(("name", "link"), LOOPS)
@pytest.mark.parametrize("weighted", [False, True])
def test_compiled_loops_are_their_twins(name, link, weighted):
    y, m, eta, further = rows_of(name, link)
    weights = np.random.default_rng(2).uniform(0, 2, N) if weighted else np.zeros(0)
    g, w, dw = (np.empty(N) for _ in range(3))
    d = further[0] if further else np.zeros(1)
    total = LOOPS[name, link](y, m, weights, eta, d, g, w, dw)
    jet = FAMILIES[name](link).jet(y, m, eta, further, False)
    jet = jet.times(weights) if weighted else jet
    assert total == pytest.approx(jet.f.sum(), rel=1e-11)
    for ours, theirs in ((g, jet.e), (w, -jet.ee), (dw, -jet.eee)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)


def poisson_derivatives(y, eta):
    mu = np.exp(eta)
    return y * eta - mu, y - mu, -mu, -mu


def test_custom_family_is_checked():
    CustomFamily(poisson_derivatives).check([0.0, 2.0, 5.0])
    wrong = CustomFamily(lambda y, eta: (*poisson_derivatives(y, eta)[:3], np.exp(eta)))
    with pytest.raises(DataError, match="third derivative is"):
        wrong.check([1.0, 3.0])
    with pytest.raises(DataError, match="four arrays"):
        CustomFamily(lambda y, eta: (y, eta)).check([1.0])


def test_derivatives_by_a_users_parameter():
    def derivatives(y, eta, d):
        jet = NegativeBinomial2("log").jet(y, np.ones(len(y)), eta, (d,), False)
        return jet.f, jet.e, jet.ee, jet.eee

    y, m, eta, further = rows_of("nbinom2", "log")
    custom = CustomFamily(derivatives, parameters={"size": 0.3})
    own = custom.jet(y, m, eta, further, True)
    truth = NegativeBinomial2("log").jet(y, m, eta, further, True)
    np.testing.assert_allclose(own.a[0], truth.a[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(own.aa[0, 0], truth.aa[0, 0], rtol=1e-3, atol=1e-3)


def test_compiled_special_functions_are_their_twins():
    rng = np.random.default_rng(7)
    x = 10.0 ** rng.uniform(-3, 6, 3000)
    ours = polygamma(x)
    for own, theirs in zip(
        ours, (ss.digamma(x), ss.polygamma(1, x), ss.polygamma(2, x)), strict=True
    ):
        np.testing.assert_allclose(own, theirs, rtol=1e-11, atol=1e-13)
    y = rng.integers(0, 60, 3000).astype(float)
    many, few = rising(y, x), [rising(y[i : i + 1000], x[i : i + 1000]) for i in (0, 1000, 2000)]
    for own, theirs in zip(many, np.concatenate(few, axis=1), strict=True):
        np.testing.assert_allclose(own, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("last", [17.0, 0.5, 2e4, -1.0, np.nan])
def test_logarithms_of_factorials_are_those_of_the_gamma_function(last):
    y = np.append(np.random.default_rng(1).poisson(20.0, 3000).astype(float), last)
    np.testing.assert_array_equal(log_factorials(y), ss.gammaln(y + 1))
    assert np.array_equal(log_factorials(y[:0]), y[:0])
