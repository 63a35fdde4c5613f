"""Deviances with several minima: the lowest one is found, or the fit says that it is in doubt."""

import json

import numpy as np
import pandas as pd
import pytest
from exact import exact_deviance
from random_models import draw, judge

import sparselmm
from sparselmm import datasets
from sparselmm.base.exceptions import DataError
from sparselmm.likelihood.term_covariance import TermCovariance
from sparselmm.likelihood.zeros import RESTART, out_of_rank

FOLDER = datasets.data_dir().joinpath("reference", "optima")
CASES = {case["case"]: case for case in json.loads(FOLDER.joinpath("cases.json").read_text())}
LOST = "case379"  # its deviance loses digits, whatever the optimum

pytestmark = pytest.mark.filterwarnings("ignore::sparselmm.ModelWarning")


def model_of(name):
    case = CASES[name]
    with FOLDER.joinpath(f"{name}.csv").open("rb") as stream:
        data = pd.read_csv(stream)
    given = {
        "weights": case["weights"], "offset": case["offset"],
        "groups": case["kwargs"].get("groups"), "re_formula": case["kwargs"].get("re"),
    }  # fmt: skip
    return sparselmm.mixedlm(case["formula"], data, **given), case


@pytest.mark.parametrize("name", sorted(set(CASES) - {LOST}))
def test_the_best_known_optimum(name):
    model, case = model_of(name)
    opt = model.fit(reml=case["reml"]).opt
    assert opt.converged
    assert opt.deviance <= case["best_known"] + 1e-6
    assert opt.n_starts > 1


@pytest.mark.slow
def test_a_deviance_without_digits_is_not_called_converged():
    model, case = model_of(LOST)
    result = model.fit(reml=case["reml"])
    opt = result.opt
    assert not opt.converged
    assert opt.rounding > 1e-4
    assert "digits" in opt.message
    inner, theta = result.deviance.working(opt.theta)
    design, lams = result.deviance.rows(model.design), inner.covariance.factors(theta)
    truth = exact_deviance(design, lams, reml=case["reml"])
    assert opt.deviance == pytest.approx(truth, abs=5 * opt.rounding)


def test_searches_on_request():
    model, case = model_of("case623")
    one, many = (model.fit(reml=case["reml"], starts=n).opt for n in (1, 12))
    assert (one.n_starts, one.n_optima, many.n_starts) == (1, 1, 12)
    assert many.n_optima > 1
    assert many.deviance < one.deviance - 1.0
    again = model.fit(reml=case["reml"], starts=12).opt
    np.testing.assert_array_equal(again.theta, many.theta)
    given = model.fit(reml=case["reml"], starts=[many.theta]).opt
    assert given.n_starts == 2
    assert given.deviance == pytest.approx(many.deviance, abs=1e-8)
    searches = [entry.search for entry in many.history]
    assert searches == sorted(searches)
    assert set(searches) == set(range(12))


@pytest.mark.parametrize("starts", [-1, 1.5, True, "many", [1.0], [[1.0, np.nan]], np.ones((2, 3))])
def test_starts_that_are_none(starts):
    model, _ = model_of("case623")
    with pytest.raises(DataError, match="starts must"):
        model.fit(starts=starts)


@pytest.mark.slow
@pytest.mark.parametrize("first", [*range(0, 200, 20), 880, 3200, 4000])
def test_random_models_against_dense_searches_from_many_starts(first):
    """`python tests/support/random_models.py 0 2000` looks at more of them."""
    verdicts = [judge(number) for number in range(first, first + 20)]
    assert not [(v.number, v.what, v.detail) for v in verdicts if v.wrong]
    assert sum(v.what == "right" for v in verdicts) >= 10


def test_patterned_covariances_leave_zero_with_all_scales_at_once():
    """There every variance alone makes the deviance rise."""
    verdict = judge(1635)
    assert verdict.what == "right", verdict.detail


def test_a_likelihood_without_end_is_not_called_converged():
    assert judge(738).what == "not converged"
    group = np.repeat(np.arange(5), 2)[:9]  # X takes up what the levels of four pairs leave
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": group, "y": rng.normal(size=9)})
    data[[f"x{j}" for j in range(4)]] = rng.normal(size=(9, 4))
    model = sparselmm.mixedlm("y ~ x0 + x1 + x2 + x3 + (1 | g)", data)
    with pytest.warns(sparselmm.ConvergenceWarning, match="the likelihood has no maximum"):
        result = model.fit(reml=False)
    assert not result.converged
    assert sparselmm.mixedlm("y ~ x0 + (1 | g)", data).fit(reml=False).converged


@pytest.mark.parametrize("reml", [True, False])
def test_random_effects_that_reproduce_the_response_are_named(reml):
    """Several rows per level and one value: no other start finds a maximum, and none is tried."""
    rng = np.random.default_rng(1)
    a, b = np.divmod(np.arange(240) % 60, 6)
    data = pd.DataFrame({"a": a, "b": b, "x": rng.normal(size=240)})
    data["y"] = 3.0 + rng.normal(size=10)[a]
    data["z"] = data["y"] + 0.5 * data["x"] + rng.normal(size=6)[b]
    for formula, named in {
        "y ~ x + (1 | a) + (1 | b)": "'a'",
        "y ~ x + (x | a)": "'a'",
        "z ~ x + (1 | a) + (1 | b)": "'a', 'b'",
    }.items():
        words = f"with the random effects of {named} the model reproduces every response"
        with pytest.warns(sparselmm.ConvergenceWarning, match=words):
            result = sparselmm.mixedlm(formula, data).fit(reml=reml)
        assert not result.converged
        searches = {one.search for one in result.opt.history}
        assert len(searches) <= 2  # one of the rows as they are, one of centred ones


@pytest.mark.slow
def test_a_likelihood_that_rises_along_one_direction_is_not_called_converged():
    """Perfectly correlated effects can be turned until they reproduce all 14 responses."""
    verdict = judge(579)
    assert verdict.what == "not converged"
    assert "along some combination of the random coefficients" in verdict.facts["opt"].message


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(3211, id="standard deviations of hundreds, one of them next to nothing"),
        pytest.param(896, id="a standard deviation next to one other"),
    ],
)
def test_minima_far_away_and_next_to_zero(number):
    verdict = judge(number)
    assert verdict.what == "right", verdict.detail


def test_a_minimum_at_standard_deviations_of_thousands():
    """Ten rows, weights over six decades: searches from ordinary sizes end 11 higher."""
    drawn = draw(48)
    model = sparselmm.mixedlm(drawn.formula, drawn.data, **drawn.keywords)
    assert model.fit(reml=drawn.reml).opt.deviance < -33.9


@pytest.mark.parametrize("method", ["bfgs", "lbfgs", "cg", "nm"])
def test_other_methods_do_not_depend_on_units(method):
    data = datasets.load("sleepstudy")
    ends = []
    for unit in (1.0, 1e6):
        scaled = data.assign(Days=unit * data.Days)
        model = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", scaled)
        opt = model.fit(method=method, reml=False).opt
        assert opt.converged
        ends.append((opt.deviance, opt.n_evaluations))
    assert ends[1] == pytest.approx(ends[0], rel=1e-6, abs=2)


def test_out_of_zeros_of_several_coefficients_at_once():
    """Each variance alone makes the deviance rise, and one of a combination makes it fall."""
    term = TermCovariance.unstructured(2)
    slope = 2e-3 * np.array([1.0, -3.0, 1.0])  # of G = [[1, -3], [-3, 1]]
    theta = out_of_rank(term, np.zeros(3), slope, np.ones(3))
    lam = term.factor(theta)
    np.testing.assert_allclose(lam @ lam.T, 0.5 * RESTART**2 * np.ones((2, 2)), atol=1e-12)
    slope[1] *= 0.1
    np.testing.assert_array_equal(out_of_rank(term, np.zeros(3), slope, np.ones(3)), 0.0)


def test_residual_structures_take_starts_and_count_their_ends():
    data = datasets.load("Orthodont")
    model = sparselmm.mixedlm("distance ~ age + (1 | Subject)", data, residual="ar1(age | Subject)")
    opt, many = model.fit().opt, model.fit(starts=6).opt
    assert (many.n_starts, many.n_optima) == (6, 1)
    assert many.deviance == pytest.approx(opt.deviance, abs=1e-6)
    assert {entry.search for entry in many.history} == set(range(6))
    with pytest.raises(DataError, match="starts must"):
        model.fit(starts="many")
