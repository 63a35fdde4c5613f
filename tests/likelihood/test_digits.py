"""How many digits of the deviance are right, against arithmetic of 60 digits."""

import pickle

import numpy as np
import pandas as pd
import pytest
from exact import exact_deviance

import sparselmm
from sparselmm.likelihood.rebased import centred_at

pytestmark = pytest.mark.filterwarnings("ignore::sparselmm.ModelWarning")


def data_of(big=1.0, origin=0.0, decades=0.0, seed=0):
    """Two crossed factors whose effects are ``big`` sigma, slopes, weights over some decades."""
    rng = np.random.default_rng(seed)
    n = 48
    a, b = np.arange(n) % 8, rng.permutation(np.arange(n) % 5)
    x, z = np.round(64 * rng.normal(size=n)) / 64, rng.normal(size=n)
    w = 10.0 ** rng.uniform(-decades / 2, decades / 2, n)
    y = big * (rng.normal(size=8)[a] + 0.5 * rng.normal(size=8)[a] * x + rng.normal(size=5)[b])
    y += z + rng.normal(size=n) / np.sqrt(w)
    return pd.DataFrame({"y": y, "x": x + origin, "z": z, "a": a, "b": b, "w": w})


CASES = {  # terms; data; theta in what counts as one
    "ordinary": ("(x | a) + (1 | b)", {}, 1.0),
    "origin": ("(x | a) + (1 | b)", {"origin": 1e8}, 1.0),
    "large": ("(1 | a) + (1 | b)", {"big": 1e5}, 1e5),
    "large slopes": ("(x | a)", {"big": 1e5}, 1e5),
    "large, crossed": ("(x | a) + (1 | b)", {"big": 1e4}, 1e4),
    "large, independent": ("(x || a) + (1 | b)", {"big": 1e5}, 1e5),
    "weights": ("(x | a) + (1 | b)", {"decades": 8.0}, 10.0),
    "weights, large": ("(x | a)", {"decades": 6.0, "big": 1e4}, 1e4),
    "patterned": ("cs(1 + x | a) + (1 | b)", {"big": 1e4}, 1e4),
}


def truth_of(deviance, design, theta):
    inner, at = deviance.working(theta)
    lams = inner.covariance.factors(at)
    return exact_deviance(deviance.rows(design), lams, reml=deviance.reml)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_the_rounding_of_the_deviance_is_known(name, reml):
    """The estimate is right within a factor, and what predictions leave has more digits."""
    bars, data, size = CASES[name]
    model = sparselmm.mixedlm(f"y ~ x + z + {bars}", data_of(**data), weights="w")
    plain = model.deviance(reml)
    covariance = plain.covariance
    roots = [size * root for root in plain.unit_roots]
    theta = np.where(covariance.angles, 0.3, covariance.pick(roots))
    truth = truth_of(plain, model.design, theta)
    floor = 1e-13 * abs(truth)
    error = abs(plain.value(theta) - truth)
    assert error < 10.0 * plain.rounding(theta) + floor
    centred = centred_at(plain, model.design, theta)
    left = abs(centred.value(theta) - truth)
    assert left < 10.0 * centred.rounding(theta) + floor
    if plain.rounding(theta) > 1e-6:
        assert left < 0.1 * error
        assert centred.rounding(theta) < 0.1 * plain.rounding(theta)
    away = theta * np.where(covariance.angles, 1.1, 1.5)  # predictions made at another theta
    moved = abs(centred.value(away) - truth_of(plain, model.design, away))
    assert moved < 10.0 * centred.rounding(away) + floor


@pytest.mark.parametrize("engine", ["plain", "centred"])
def test_derivatives_of_what_predictions_leave(engine):
    model = sparselmm.mixedlm("y ~ x + z + (x | a) + (1 | b)", data_of(big=3.0))
    deviance = model.deviance()
    theta = np.array([2.0, 0.5, 1.5, 3.0])
    if engine == "centred":
        deviance = centred_at(deviance, model.design, 1.1 * theta)
    for zeroed in ([], [3], [1, 2]):  # where a term vanishes it has no part in the predictions
        at = theta.copy()
        at[zeroed] = 0.0
        assert deviance.value(at) == pytest.approx(truth_of(deviance, model.design, at), rel=1e-13)
        step = 1e-6 * np.eye(4)
        numeric = [(deviance.value(at + h) - deviance.value(at - h)) / 2e-6 for h in step]
        np.testing.assert_allclose(deviance.gradient(at), numeric, atol=1e-6)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("bars", ["(1 | a)", "(1 | a) + (1 | b)", "(x | a)", "(x || a)"])
def test_effects_a_million_times_sigma(bars, reml):
    """Used to end unconverged: the criterion had lost its digits."""
    data = data_of(big=1e6)
    model = sparselmm.mixedlm(f"y ~ x + z + {bars}", data.assign(w=1.0))
    if "b" not in bars.replace("|", ""):  # without the other effects
        rng = np.random.default_rng(3)
        slopes = 0.5 * rng.normal(size=8)[data.a] * data.x * ("x" in bars)
        y = 1e6 * (rng.normal(size=8)[data.a] + slopes) + rng.normal(size=len(data))
        model = sparselmm.mixedlm(f"y ~ x + z + {bars}", data.assign(y=y))
    result = model.fit(reml=reml)
    assert result.converged
    assert result.deviance.centred is not None
    truth = truth_of(result.deviance, model.design, result.theta)
    assert -2 * result.llf == pytest.approx(truth, abs=1e-5)
    assert len(result.opt.history) == result.opt.n_evaluations
