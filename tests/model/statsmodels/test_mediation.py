"""statsmodels' mediation analysis with our models in place of its own."""

import warnings

import numpy as np
import pandas as pd
import pytest

from sparselmm import DataError, MixedLM, datasets

mediation = pytest.importorskip("statsmodels.stats.mediation")
theirs = pytest.importorskip("statsmodels.regression.mixed_linear_model")


def data(groups=60, seed=7):
    """x acts on the mediator (0.7) and the outcome (0.5), the mediator on the outcome (1)."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), 4)
    x, time = rng.normal(size=len(g)), np.tile(np.arange(4.0), groups)
    slope = rng.normal(size=groups)[g] * (time - 1.5)
    med = 0.7 * x + rng.normal(size=groups)[g] + 0.6 * slope + 0.5 * rng.normal(size=len(g))
    y = 0.5 * x + med + rng.normal(size=groups)[g] + rng.normal(size=len(g))
    return pd.DataFrame({"y": y, "x": x, "med": med, "g": g, "time": time})


DATA = data()
MODELS = {
    "groups": ({"groups": "g"}, "", ""),
    "slopes": ({"groups": "g", "re_formula": "~time"}, "", ""),
    "components": ({"groups": "g", "vc_formula": {"a": "1", "b": "0 + time"}}, "", ""),
    "bars": ({}, " + (1|g)", " + (1 + time|g)"),
}


def analysis(kind, model=MixedLM):
    arguments, outcome_bars, mediator_bars = MODELS[kind]
    outcome = model.from_formula("y ~ med + x" + outcome_bars, data=DATA, **arguments)
    mediator = model.from_formula("med ~ x" + mediator_bars, data=DATA, **arguments)
    return mediation.Mediation(outcome, mediator, "x", "med"), outcome.fit(), mediator.fit()


@pytest.mark.filterwarnings("ignore")  # zero variances in draws of the rows
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k == "groups" else pytest.mark.slow) for k in MODELS]
)
def test_effects(kind):
    """The mean over draws is the product of coefficients, their errors the standard deviation."""
    work, outcome, mediator = analysis(kind)
    if outcome.singular:  # no normal distribution to draw the variances from
        outcome = MixedLM.from_formula("y ~ med + x", data=DATA, groups="g").fit()
        work.outcome_model = outcome.model
    table = work.fit(n_rep=150, rng=1).summary()
    through = outcome.fe_params["med"] * mediator.fe_params["x"]
    spread = float(table.loc["ACME (average)", "Upper CI bound"]) - through
    error = 3.0 * spread / 1.96 / np.sqrt(150)
    assert table.loc["ACME (average)", "Estimate"] == pytest.approx(through, abs=error)
    assert table.loc["ADE (average)", "Estimate"] == pytest.approx(outcome.fe_params["x"], abs=0.05)


@pytest.mark.filterwarnings("ignore:.*nested in g")
@pytest.mark.parametrize("re_formula", ["1", "~time"])
def test_draws_are_theirs(re_formula):
    """From the same random numbers the same responses, components included."""
    arguments = {"groups": "g", "re_formula": re_formula, "vc_formula": {"b": "0 + C(time > 1)"}}
    params = [1.0, 0.7, 2.0, 0.5, 0.3, 0.4] if re_formula == "~time" else [1.0, 0.7, 2.0, 0.4]
    draws = []
    for kind in (MixedLM, theirs.MixedLM):
        model = kind.from_formula(
            "med ~ x", data=DATA.sample(frac=1.0, random_state=1), **arguments
        )
        source = model.get_distribution(np.array(params), scale=1.7, exog=model.exog)
        draws.append(source.rvs(len(DATA), rng=np.random.RandomState(5)))
    np.testing.assert_allclose(draws[0], draws[1], rtol=1e-10)


def test_arrays():
    def model(y, *columns):
        X = np.column_stack([np.ones(len(DATA)), *(DATA[c] for c in columns)])
        return MixedLM(DATA[y].to_numpy(), X, groups=DATA["g"].to_numpy())

    outcome, mediator = model("y", "med", "x"), model("med", "x")
    assert not hasattr(outcome, "formula")
    result = mediation.Mediation(outcome, mediator, (2, 1), 1).fit(n_rep=20, rng=3)
    assert result.summary().loc["ACME (average)", "Estimate"] == pytest.approx(0.7, abs=0.2)
    again = mediation.Mediation(outcome, mediator, (2, 1), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows are drawn, their groups are not: variances of zero
        result = again.fit("bootstrap", n_rep=3, rng=3)
    assert result.summary().loc["ACME (average)", "Estimate"] == pytest.approx(0.7, abs=0.3)


def test_copies_of_a_model():
    """The keywords make the same model of the same numbers, and another of others."""
    model = MixedLM.from_formula(
        "np.log(Reaction) ~ C(Days > 4) + (Days|Subject)", datasets.load("sleepstudy")
    )
    keywords = model._get_init_kwds()
    best = model.fit()
    again = type(model)(model.endog, model.exog, **keywords).fit()
    assert again.llf == best.llf
    assert isinstance(again.params, np.ndarray)
    later = datasets.load("sleepstudy").assign(Days=lambda d: d["Days"] / 100)
    moved = type(model).from_formula(data=later, **keywords)
    assert moved.exog.shape == model.exog.shape  # "Days > 4" is never true here
    assert not moved.exog[:, 1].any()
    np.testing.assert_array_equal(moved.endog, model.endog)
    with pytest.raises(DataError, match="179"):
        type(model).from_formula(data=later.iloc[1:], **keywords)
    with pytest.raises(ValueError, match="argument weight not permitted"):
        MixedLM(model.endog, model.exog, groups=model.endog, weight=1)
