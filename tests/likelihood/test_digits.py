"""How many digits of the deviance are right, against arithmetic of 60 digits."""

import pickle

import numpy as np
import pandas as pd
import pytest
from exact import exact_deviance

import sparselmm
from sparselmm.likelihood.engine import FEW_DIGITS, centred_at

pytestmark = pytest.mark.filterwarnings("ignore::sparselmm.ModelWarning")


def data_of(bars, big=1.0, origin=0.0, decades=0.0):
    """Effects of ``big`` sigma for the terms in ``bars``, weights over some decades."""
    rng = np.random.default_rng(3)
    n = 48
    a, b = np.arange(n) % 8, rng.permutation(np.arange(n) % 5)
    x, z = np.round(64 * rng.normal(size=n)) / 64, rng.normal(size=n)
    w = 10.0 ** rng.uniform(-decades / 2, decades / 2, n)
    y = rng.normal(size=8)[a] + 0.5 * rng.normal(size=8)[a] * x * ("x" in bars)
    y = big * (y + rng.normal(size=5)[b] * ("b)" in bars))
    y += z + rng.normal(size=n) / np.sqrt(w)
    return pd.DataFrame({"y": y, "x": x + origin, "z": z, "a": a, "b": b, "w": w})


CASES = {  # terms; data; theta in what counts as one
    "ordinary": ("(x | a) + (1 | b)", {}, 1.0),
    "origin": ("(x | a) + (1 | b)", {"origin": 1e6}, 1.0),
    "large": ("(1 | a)", {"big": 1e5}, 1e5),
    "large, crossed": ("(x | a) + (1 | b)", {"big": 1e4}, 1e4),
    "large, independent": ("(x || a) + (1 | b)", {"big": 1e5}, 1e5),
    "large slopes": ("(x | a)", {"big": 1e5}, 1e5),
    "weights": ("(x | a) + (1 | b)", {"decades": 8.0}, 10.0),
    "weights, large": ("(x | a) + (1 | b)", {"decades": 6.0, "big": 1e4}, 1e4),
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
    bars, given, size = CASES[name]
    model = sparselmm.mixedlm(f"y ~ x + z + {bars}", data_of(bars, **given), weights="w")
    plain = model.deviance(reml)
    theta = plain.covariance.pick([size * root for root in plain.unit_roots])
    truth = truth_of(plain, model.design, theta)
    # Besides, the last sum loses some digits, and X what the origin of x takes.
    floor = (1e-13 + 1e-16 * given.get("origin", 0.0)) * abs(truth)
    error = abs(plain.value(theta) - truth)
    assert error < 5.0 * plain.rounding(theta) + floor
    centred = centred_at(plain, model.design, theta)
    left = abs(centred.value(theta) - truth)
    assert left < 5.0 * centred.rounding(theta) + floor
    share = 0.1 if plain.rounding(theta) > FEW_DIGITS else 2.0
    assert centred.rounding(theta) < share * plain.rounding(theta)
    away = 1.5 * theta  # from predictions made at another theta
    moved = abs(centred.value(away) - truth_of(plain, model.design, away))
    assert moved < 5.0 * centred.rounding(away) + floor


@pytest.mark.parametrize("engine", ["plain", "centred"])
def test_derivatives_of_what_predictions_leave(engine):
    bars = "(x | a) + (1 | b)"
    model = sparselmm.mixedlm(f"y ~ x + z + {bars}", data_of(bars, big=3.0))
    deviance, start = model.deviance(), np.array([2.0, 0.5, 1.5, 3.0])
    if engine == "centred":
        deviance = centred_at(deviance, model.design, 1.1 * start)
    for zeroed in ([], [3], [2], [1, 2]):  # where a term vanishes it predicts nothing
        theta = start.copy()
        theta[zeroed] = 0.0
        truth = truth_of(deviance, model.design, theta)
        assert deviance.value(theta) == pytest.approx(truth, rel=1e-12)
        steps = 1e-5 * np.eye(4)
        numeric = [(deviance.value(theta + h) - deviance.value(theta - h)) / 2e-5 for h in steps]
        np.testing.assert_allclose(deviance.gradient(theta), numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("reml", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("bars", "big"),
    [("(1 | a)", 1e6), ("(x | a)", 1e6), ("(x || a)", 1e6), ("(1 | a) + (1 | b)", 1e5)],
)
def test_effects_far_larger_than_sigma(bars, big, reml):
    """The cross-products alone know this deviance to 1e-4 at best, and none of these converged."""
    model = sparselmm.mixedlm(f"y ~ x + z + {bars}", data_of(bars, big))
    result = model.fit(reml=reml)
    assert model.deviance(reml).rounding(result.theta) > 1e-4
    assert result.converged
    truth = truth_of(result.deviance, model.design, result.theta)
    assert -2 * result.llf == pytest.approx(truth, abs=5 * result.opt.rounding)
    assert result.opt.rounding < 1e-4
    assert len(result.opt.history) == result.opt.n_evaluations
    assert [one.search for one in result.opt.history][-1] == result.opt.n_starts - 1
    again = pickle.loads(pickle.dumps(result))
    assert again.deviance.value(again.theta) == -2 * result.llf
    again.remove_data()
    assert again.deviance.value(again.theta) == -2 * result.llf


def test_intervals_where_effects_are_large():
    """The same in units of sigma, whatever the size of the effects that sigma is compared with."""
    ends = []
    for big in (1e2, 1e6):
        result = sparselmm.mixedlm("y ~ x + z + (1 | a)", data_of("(1 | a)", big)).fit(reml=False)
        assert (result.deviance.centred is None) == (big < 1e3)
        ends.append(result.profile("sigma").conf_int().to_numpy().ravel())
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("bars", ["(1 | a)", "(x | a)"])
def test_many_responses_and_refits_where_effects_are_large(bars):
    data, model = data_of(bars, 1e6), sparselmm.mixedlm(f"y ~ x + z + {bars}", data_of(bars))
    holes = data.y.where(data.index != 5)
    Y = np.column_stack([data_of(bars).y, data.y, holes])
    many = model.fit_many(Y, missing="drop")
    assert many.converged.all()
    for i, y in enumerate((data_of(bars).y, data.y, holes)):
        rows = data.assign(y=y).dropna()
        alone = sparselmm.mixedlm(f"y ~ x + z + {bars}", rows).fit()
        assert many.llf.iloc[i] == pytest.approx(alone.llf, abs=1e-7)
    again = model.fit().refit(data.y)
    assert again.converged
    assert again.llf == pytest.approx(many.llf.iloc[1], abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kenward-roger", "satterthwaite"])
def test_degrees_of_freedom_where_effects_are_large(method):
    """7 of 8 groups for a slope that varies between them; once 45, those of the residuals."""
    for big, rel in ((1e3, 1e-3), (1e5, 1e-3), (1e6, 1e-2)):  # products with V^-1 lose digits
        model = sparselmm.mixedlm("y ~ x + z + (x | a)", data_of("(x | a)", big))
        table = model.fit().anova(ddf=method)
        np.testing.assert_allclose(table["df_den"], [7.0, 31.0], rtol=rel)


@pytest.mark.slow
def test_comparisons_of_fixed_effects_where_effects_are_large():
    """Their likelihood ratios are differences of deviances that the cross-products do not know."""
    data = data_of("(x | a)", 1e6)
    full = sparselmm.mixedlm("y ~ x + z + (x | a)", data).fit(reml=False)
    dropped = full.drop1()["lrt"]
    for name, rest in (("x", "z"), ("z", "x")):  # without columns the predictions fit less well
        smaller = sparselmm.mixedlm(f"y ~ {rest} + (x | a)", data).fit(reml=False)
        assert dropped[name] == pytest.approx(2.0 * (full.llf - smaller.llf), abs=1e-4)
    ends = full.profile("x").conf_int().to_numpy().ravel() / 1e6
    once = sparselmm.mixedlm("y ~ x + z + (x | a)", data_of("(x | a)", 1e3)).fit(reml=False)
    np.testing.assert_allclose(
        ends, once.profile("x").conf_int().to_numpy().ravel() / 1e3, rtol=0.1
    )
