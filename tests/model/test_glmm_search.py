"""Where searches of generalized models used to go astray, and results that threads share."""

import threading
import warnings

import numpy as np
import pandas as pd
import pytest
from glmm_random import random_model

import sparselmm
from sparselmm import MixedGLM, mixedglm

pytestmark = pytest.mark.filterwarnings("ignore::sparselmm.BoundaryWarning")


def grouped(n=240, groups=12, seed=5):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({
        "g": np.tile(np.arange(groups), n // groups), "x": rng.normal(size=n),
        "z": rng.uniform(-1, 1, n), "f": rng.choice(list("abc"), n),
    })  # fmt: skip
    frame["eta"] = 0.4 + 0.5 * frame.x + rng.normal(size=groups)[frame.g]
    return frame, rng


def first_search(fit):
    return sum(entry.search == 0 for entry in fit.opt.history)


def test_a_correlation_starts_at_zero():
    """At -1 / (k - 1) no variance looks worth having, though all levels move together."""
    frame, rng = grouped()
    frame["y"] = rng.binomial(9, 1 / (1 + np.exp(-frame.eta)))
    left = "cbind(y, 9 - y) ~ x + f"
    common = mixedglm(f"{left} + (1 | g)", frame, family="betabinomial").fit()
    fit = mixedglm(f"{left} + cs(0 + f | g)", frame, family="betabinomial").fit()
    assert fit.converged
    assert fit.llf > common.llf - 1e-6
    assert first_search(fit) <= 20


@pytest.mark.parametrize("family", ["poisson", "nbinom2"])
def test_zeros_that_need_no_excess(family):
    frame, rng = grouped()
    frame["y"] = rng.poisson(np.exp(0.5 + frame.eta) * (rng.gamma(3, 1 / 3, 240)))
    if family == "poisson":
        frame["y"] = rng.poisson(np.exp(0.5 + frame.eta))
    plain = mixedglm("y ~ x + (1 | g)", frame, family=family).fit()
    fit = mixedglm("y ~ x + (1 | g)", frame, family=family, zi="~ 1").fit()
    assert fit.converged
    if plain.llf > fit.llf - 1e-5:  # no excess zeros here
        assert first_search(fit) <= 20
        assert "no excess zeros" in fit.check(simulate=False).codes
        np.testing.assert_allclose(fit.bse_fe, plain.bse_fe, rtol=1e-3)
        assert fit.wald_test("x").chi2 == pytest.approx(plain.wald_test("x").chi2, rel=1e-3)
        own, other = fit.predict(interval=True), plain.predict(interval=True)
        np.testing.assert_allclose(own[["mean", "se"]], other[["mean", "se"]], rtol=1e-3)
    else:
        assert fit.zi_params.iloc[0] > -10


def test_a_formula_of_zeros_without_end_is_named():
    frame, rng = grouped()
    frame["late"] = (frame.z > 0).astype(int)
    counts = 1 + rng.poisson(np.exp(frame.eta))
    frame["y"] = np.where(frame.late == 1, 0, counts)
    with pytest.warns(sparselmm.ConvergenceWarning, match="grow without end|hurdle"):
        fit = mixedglm("y ~ x + (1 | g)", frame, family="poisson", hurdle="~ late").fit()
    assert not fit.converged


@pytest.mark.parametrize("family", ["gamma", "inverse_gaussian", "beta", "gaussian"])
@pytest.mark.parametrize("bars", ["(1 | g)", "(x | g)", "(1 | g) + (1 | f)"])
def test_a_response_that_does_not_vary_within_levels_is_refused(family, bars):
    """The likelihood rises without end as the dispersion vanishes: there is nothing to search."""
    frame, rng = grouped()
    frame["y"] = rng.uniform(0.2, 0.8, 12)[frame.g]
    with pytest.raises(sparselmm.DataError, match="does not vary within the levels of 'g'"):
        mixedglm(f"y ~ x + {bars}", frame, family=family).fit()
    moved = frame.assign(noise=0.1 * rng.normal(size=len(frame)))
    if family == "gaussian" and bars == "(1 | g)":  # an offset moves the rows of a level apart
        assert mixedglm(f"y ~ {bars}", moved, family=family, offset=moved.noise).fit().converged


@pytest.mark.parametrize("argument", ["dispersion", "zi", "hurdle"])
@pytest.mark.parametrize(
    ("unit", "origin"), [(1.0, 2010.0), (86400.0, 1.6e9), (1e-6, 0.0), (1e6, 0.0)]
)
def test_units_and_origins_of_covariates_of_further_predictors(argument, unit, origin):
    """Years, seconds since 1970, shares of a million: the fit is the same."""
    frame, rng = grouped()
    frame["y"] = rng.negative_binomial(2, 2 / (2 + np.exp(frame.eta)))
    frame["v"] = origin + unit * frame.z
    plain = mixedglm("y ~ x + (1 | g)", frame, family="nbinom2", **{argument: "~ z"}).fit()
    fit = mixedglm("y ~ x + (1 | g)", frame, family="nbinom2", **{argument: "~ v"}).fit()
    assert fit.converged
    assert fit.llf == pytest.approx(plain.llf, abs=1e-6)
    assert unit * fit.params.iloc[-1] == pytest.approx(plain.params.iloc[-1], rel=1e-4)
    assert unit * fit.bse.iloc[-1] == pytest.approx(plain.bse.iloc[-1], rel=1e-3)
    np.testing.assert_allclose(fit.bse_fe, plain.bse_fe, rtol=1e-4)


@pytest.mark.parametrize("argument", ["dispersion", "zi", "hurdle"])
def test_covariates_of_further_predictors_without_digits_are_refused(argument):
    frame, rng = grouped()
    frame["y"] = rng.negative_binomial(2, 2 / (2 + np.exp(frame.eta)))
    for unit, origin in [(1.0, 1e6), (1e-12, 0.0), (1e12, 0.0)]:
        frame["v"] = origin + unit * frame.z
        with pytest.raises(sparselmm.DataError, match=r"runs from .* standardize\(v\)"):
            mixedglm("y ~ x + (1 | g)", frame, family="nbinom2", **{argument: "~ v"})


@pytest.mark.parametrize("bars", ["(1 | g)", "(x | g)"])
def test_levels_of_one_kind_of_response_are_named(bars):
    frame, _ = grouped()
    frame["y"] = frame.g % 2
    with pytest.warns(sparselmm.ConvergenceWarning, match="every level of 'g' has only successes"):
        mixedglm(f"y ~ x + {bars}", frame, family="binomial").fit()


def test_roots_of_means_may_change_their_sign_where_nothing_was_counted():
    rng = np.random.default_rng(12)
    for seed in range(4):
        frame, rng = grouped(seed=seed)
        frame["o"] = rng.uniform(-0.5, 0.5, len(frame))
        frame["y"] = rng.poisson((0.3 * frame.eta) ** 2)
        fit = mixedglm("y ~ x + (1 | g)", frame, family="poisson", link="sqrt", offset="o").fit()
        assert fit.converged
        assert first_search(fit) <= 25


def test_no_result_depends_on_the_clock(monkeypatch):
    """Other starts are allowed by predicted time: a busy machine tries as many as an idle one."""
    frame, rng = grouped(60)
    frame["y"] = rng.poisson(np.exp(frame.eta))
    quick = mixedglm("y ~ x + (x | g)", frame, family="poisson").fit().opt
    ticks = iter(range(0, 10**9, 100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    slow = mixedglm("y ~ x + (x | g)", frame, family="poisson").fit().opt
    assert slow.n_starts == quick.n_starts
    assert slow.n_evaluations == quick.n_evaluations


def test_trials_are_rows_like_any_other():
    frame, rng = grouped(80, 10)
    frame.index = [f"row {i}" for i in range(80)]
    frame["m"] = rng.integers(2, 9, 80)
    frame["y"] = rng.binomial(frame.m, 0.4).astype(float)
    X = np.column_stack([np.ones(80), frame.x])
    by_name = mixedglm("y ~ x + (1 | g)", frame, trials="m").fit()
    turned = frame.m.sample(frac=1, random_state=0)
    assert mixedglm("y ~ x + (1 | g)", frame, trials=turned).fit().llf == by_name.llf
    assert MixedGLM(frame.y, X, frame.g, trials=turned).fit().llf == pytest.approx(by_name.llf)
    holes = frame.y.where(np.arange(80) != 3)
    rest = mixedglm("y ~ x + (1 | g)", frame.drop(index="row 3"), trials="m").fit()
    pair = np.column_stack([holes, frame.m - holes])
    for model in (
        MixedGLM(holes, X, frame.g, trials=frame.m, missing="drop"),
        MixedGLM(pair, X, frame.g, missing="drop"),
    ):
        assert model.fit().llf == pytest.approx(rest.llf, abs=1e-8)


def answers(fit):
    """What reads the rows, the factor and the modes."""
    return {
        "bse": fit.bse_fe.to_numpy(),
        "profile": fit.confint("x", method="profile").to_numpy(),
        "drop1": fit.drop1().to_numpy(),
        "modes": fit.deviance.mode_of(fit.model.endog[::-1].copy(), fit.opt.x),
        "checks": fit.simulated_checks(5, seed=1).to_numpy(),
        "ranef": fit.ranef_se()["g"].to_numpy(),
        "predict": fit.predict(interval=True).to_numpy(),
        "draws": fit.simulate(2, seed=3).to_numpy(),
        "variances": fit.variance_components().to_numpy(),
    }


@pytest.mark.parametrize("nodes", [1, 5])
def test_threads_share_a_fit(nodes):
    frame, rng = grouped()
    frame["y"] = rng.poisson(np.exp(frame.eta))
    model = mixedglm("y ~ x + (1 | g)", frame, family="poisson", nagq=nodes)
    alone, shared = answers(model.fit()), model.fit()
    found, failures = {}, []

    def work(i):
        try:
            with warnings.catch_warnings():
                found[i] = answers(shared)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for own in found.values():
        for name, values in own.items():
            np.testing.assert_allclose(values, alone[name], rtol=1e-5, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("family", ["nbinom1", "nbinom2"])
@pytest.mark.parametrize("extra", [{}, {"zi": "~ 1"}])
def test_dispersions_that_leave_take_few_steps(family, extra):
    """The model's curvature in them can be several times too large; their slope tells."""
    evaluations = []
    for seed in range(6):
        frame, rng = grouped(seed=seed)
        frame["y"] = rng.poisson(np.exp(frame.eta - 0.5))
        fit = mixedglm("y ~ x + z + (1 | g)", frame, family=family, **extra).fit()
        assert fit.converged
        evaluations.append(first_search(fit))
    assert max(evaluations) <= 20
    assert np.median(evaluations) <= 14


def test_variances_and_overdispersion_compete():
    """One start leaves all to the variances."""
    rng = np.random.default_rng([56, 77])
    best = 0
    for _ in range(3):
        g, h = rng.integers(0, 30, 250), rng.integers(0, 8, 250)
        x = rng.normal(size=250)
        cells = rng.normal(size=(30, 8))
        y = rng.poisson(np.exp(-1.5 + 0.5 * x + rng.normal(size=30)[g] + cells[g, h]))
        y = y * (rng.random(250) > 0.3)
        frame = pd.DataFrame({"y": y, "x": x, "g": g, "h": h})
        formula = "y ~ x + (1 | g) + (1 | g:h)"
        model = mixedglm(formula, frame, family="nbinom2", hurdle="~ 1")
        limit = mixedglm(formula, frame, family="poisson", hurdle="~ 1").fit()
        fit = model.fit()
        best += fit.llf > limit.llf - 1e-6
    assert best == 3


def test_a_variance_beside_overdispersion_at_every_start():
    """One start leaves nothing to the dispersion, and the others what it was."""
    data = sparselmm.datasets.load("BodyWeight")
    fit = mixedglm("Time ~ standardize(weight) + (1 | Rat)", data, family="nbinom2").fit()
    assert fit.llf > -781.6759  # glmmTMB: -781.67584


def test_a_log_likelihood_that_is_not_concave_says_where_laplace_fails():
    """Inverse Gaussian responses far below their mean pull their effect to where h is flat."""
    formula, data, arguments = random_model(1283)
    with pytest.warns(sparselmm.ConvergenceWarning, match="nearly flat at its mode"):
        fit = mixedglm(formula, data, **arguments).fit()
    assert not fit.converged


def test_modes_of_a_log_likelihood_that_is_not_concave():
    """Of an optimum where some weights are negative; from a poor start the mode is the same."""
    formula, data, arguments = random_model(1246)
    fit = mixedglm(formula, data, **arguments).fit()
    assert fit.converged
    engine = fit.deviance
    value = engine.value(fit.opt.x)
    assert engine.passes.w.min() < 0.0
    for seed in range(3):
        u = np.random.default_rng(seed).normal(size=engine.random.q)
        assert engine.at(fit.opt.x, u).value == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize("seed", [389, 476, 620, 624, 824])
def test_searches_learn_in_turned_coordinates(seed):
    """Singular covariances are turned by every step; the gradient's changes were misread."""
    formula, data, arguments = random_model(seed)
    fit = mixedglm(formula, data, **arguments).fit(starts=1)
    assert fit.converged
    assert first_search(fit) <= 40  # they took 47 to 53, 476 took 38
    assert seed in (624, 476) or first_search(fit) <= 20


def test_a_curvature_of_the_wrong_sign_is_learnt():
    """Beta-binomial responses of six departments: the model bends down in the dispersion."""
    admitted = [512, 89, 353, 17, 120, 202, 138, 131, 53, 94, 22, 24]
    rejected = [313, 19, 207, 8, 205, 391, 279, 244, 138, 299, 351, 317]
    frame = pd.DataFrame({
        "a": admitted, "r": rejected, "dept": np.repeat(list("ABCDEF"), 2), "sex": ["m", "f"] * 6
    })  # fmt: skip
    fit = mixedglm("cbind(a, r) ~ sex + (1 | dept)", frame, family="betabinomial").fit()
    assert fit.llf == pytest.approx(-60.0765031998, abs=1e-6)  # glmmTMB
    assert first_search(fit) <= 14


def test_a_combination_of_coefficients_of_zeros_may_leave():
    """No excess zeros in one of two groups: the other's share and all else keep their errors."""
    frame, rng = grouped(480, 24)
    frame["late"] = np.where(frame.z > 0, "yes", "no")
    counts = 1 + rng.poisson(np.exp(1.5 + 0.5 * frame.eta))
    frame["y"] = np.where((frame.late == "no") & (rng.random(480) < 0.3), 0, counts)
    fit = mixedglm("y ~ x + (1 | g)", frame, family="poisson", zi="~ late").fit()
    assert fit.converged
    assert first_search(fit) <= 25
    assert fit.zi_params.iloc[1] < -10
    assert np.isnan(fit.bse.iloc[-1])
    assert np.isfinite(fit.bse.iloc[:-1]).all()


def test_truncated_counts_that_hardly_tell_their_mean():
    """Steps of fixed effects along which the likelihood is flat moved predictors by hundreds."""
    rng = np.random.default_rng(2)
    g, x = np.repeat(np.arange(20), 15), rng.integers(0, 2, 300)
    y = np.where(x == 1, 1 + rng.negative_binomial(1, 0.4, 300), 1 + (rng.random(300) < 0.04))
    frame = pd.DataFrame({"y": np.where(rng.random(300) < 0.4, 0, y), "x": x, "g": g})
    fit = mixedglm("y ~ x + (1 | g)", frame, family="nbinom1", hurdle="~ x").fit()
    assert fit.converged
    assert first_search(fit) <= 20


def test_means_need_no_covariates_of_the_dispersion():
    frame, rng = grouped()
    frame["y"] = rng.negative_binomial(2, 2 / (2 + np.exp(frame.eta)))
    fit = mixedglm("y ~ f + (1 | g)", frame, family="nbinom2", dispersion="~ x").fit()
    means = fit.emmeans("f").frame
    expected = np.exp(fit.fe_params.iloc[0] + np.r_[0.0, fit.fe_params.iloc[1:]])
    np.testing.assert_allclose(means.response, expected, rtol=1e-9)


@pytest.mark.parametrize(("seed", "most"), [(1660, 45), (1679, 90)])
def test_where_the_model_fails_the_exact_hessian_is_learnt_from(seed, most):
    """It was made anew in every iteration, and only after twenty: 57 and 197 evaluations."""
    formula, data, arguments = random_model(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sparselmm.ModelWarning)
        fit = mixedglm(formula, data, **arguments).fit(starts=1)
    assert fit.converged
    assert fit.opt.n_evaluations <= most
