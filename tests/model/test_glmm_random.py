"""Random models of every family: what is called converged is an optimum, in any unit."""

import numpy as np
import pandas as pd
import pytest
from glmm_random import judged, random_model

import sparselmm

pytestmark = pytest.mark.filterwarnings("ignore::sparselmm.ModelWarning")


@pytest.mark.parametrize(
    "first", [0, *(pytest.param(first, marks=pytest.mark.slow) for first in range(8, 40, 8))]
)
def test_what_is_called_converged_is_lowest(first):
    check(range(first, first + 8))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1300, 50))
def test_many_of_them(first):
    check(range(first, first + 50))


def check(seeds):
    ends = {seed: judged(seed) for seed in seeds}
    wrong = {s: gap for s, (end, gap) in ends.items() if end == "converged" and gap > 1e-5}
    assert not wrong
    assert sum(end == "not converged" for end, _ in ends.values()) <= 0.05 * len(ends) + 1


@pytest.mark.parametrize("seed", [3, 5, 11, pytest.param(20, marks=pytest.mark.slow)])
def test_units_do_not_matter(seed):
    formula, data, arguments = random_model(seed)
    one = sparselmm.mixedglm(formula, data, **arguments).fit()
    other = sparselmm.mixedglm(formula, data.assign(x=37.0 * data.x), **arguments).fit()
    assert other.llf == pytest.approx(one.llf, abs=1e-6)
    np.testing.assert_allclose(
        37.0 * other.fe_params["x"], one.fe_params["x"], rtol=1e-3, atol=1e-3
    )


def test_patterned_covariances_start_without_correlations():
    """At the lower end of its range a correlation is stationary, whatever the data."""
    rng = np.random.default_rng([31, 29])
    group, kind, x = rng.integers(0, 8, 120), rng.integers(0, 3, 120), rng.normal(size=120)
    effects = 0.8 * rng.normal(size=(8, 1)) + 0.2 * rng.normal(size=(8, 3))
    y = rng.poisson(np.exp(0.3 + 0.5 * x + effects[group, kind]))
    data = pd.DataFrame({"a": group, "f": np.array(list("pqr"))[kind], "x": x, "y": y})
    model = sparselmm.mixedglm("y ~ x + cs(0 + f | a)", data, family="poisson")
    one, many = model.fit(starts=1).opt, model.fit(starts=12).opt
    assert one.deviance == pytest.approx(many.deviance, abs=1e-6)
    assert many.n_starts == 12
    assert many.n_optima >= 1


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e6])
@pytest.mark.parametrize(
    ("family", "link"),
    [("gaussian", "identity"), ("gamma", "inverse"), ("gamma", "identity"), ("gamma", "log"),
     ("inverse_gaussian", "inverse_squared"), ("gaussian", "log")],
)  # fmt: skip
def test_units_of_the_response_do_not_matter(family, link, scale):
    """Of links under which the predictor has the response's unit, start and steps have it, too."""
    rng = np.random.default_rng(8)
    g, x = rng.integers(0, 20, 240), rng.normal(size=240)
    y = (3.0 + 0.3 * x + 0.4 * rng.normal(size=20)[g]) * rng.gamma(20, 1 / 20, 240)
    data = pd.DataFrame({"y": y, "x": x, "g": g})
    formula = "y ~ x + (1 | g)"
    one = sparselmm.mixedglm(formula, data, family=family, link=link).fit()
    scaled = data.assign(y=scale * y)
    fit = sparselmm.mixedglm(formula, scaled, family=family, link=link).fit()
    assert fit.converged
    assert fit.opt.n_evaluations <= one.opt.n_evaluations + 6
    assert fit.llf + 240 * np.log(scale) == pytest.approx(one.llf, abs=1e-6)
    z = fit.fe_params["x"] / fit.bse_fe["x"]
    assert z == pytest.approx(one.fe_params["x"] / one.bse_fe["x"], rel=1e-4)
