"""The public model: engines, arguments, warnings, interruptions."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest

import sparselmm
from sparselmm import MixedLM
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.optimize import TOLERANCE


def load(name):
    return sparselmm.datasets.load(name)


MODELS = {
    "sleepstudy": "Reaction ~ Days + (Days | Subject)",
    "Penicillin": "diameter ~ 1 + (1 | plate) + (1 | sample)",
    "Pastes": "strength ~ 1 + (1 | batch / cask)",
    "Machines": "score ~ Machine + (Machine | Worker)",
}
every_model = pytest.mark.parametrize("name", MODELS)
both = pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])


def model_of(name):
    return MixedLM.from_formula(MODELS[name], load(name))


@both
@pytest.mark.parametrize("method", [None, "bfgs"])
@every_model
def test_engines_agree(name, method, reml):
    """Estimates of both, where the dense one stops within 1e-5 of the minimum of the deviance."""
    model = model_of(name)
    sparse = model.fit(reml=reml)
    dense = model.fit(reml=reml, engine="dense", method=method)
    assert dense.converged
    assert dense.llf == pytest.approx(sparse.llf, abs=1e-5)
    # sqrt(1e-5) = 3e-3 standard errors
    assert dense.sigma == pytest.approx(sparse.sigma, rel=3e-3)
    error = np.abs(dense.fe_params - sparse.fe_params) / sparse.bse_fe
    assert error.max() < 3e-3
    # and at its own theta the dense engine is the textbook, with the same answer to rounding
    at = sparse.deviance.at(dense.theta)
    assert at.deviance == pytest.approx(-2.0 * dense.llf, rel=1e-10)
    np.testing.assert_allclose(dense.b, at.b, atol=1e-8 * np.abs(at.b).max())


def test_engine_must_be_known():
    model = model_of("Pastes")
    for call in (model.fit, model.deviance):
        with pytest.raises(
            ValueError, match="'krylov', 'dense', got 'spars'; did you mean 'sparse'"
        ):
            call(engine="spars")
    rng = np.random.default_rng(0)
    n = 5001
    large = MixedLM(rng.normal(size=n), np.ones((n, 1)), np.arange(n) % 10)
    with pytest.raises(ValueError, match=r"engine='dense' needs 5001\^2 numbers"):
        large.fit(engine="dense")


@pytest.mark.parametrize(
    "build",
    [
        lambda data, **kw: MixedLM(data.Reaction, data[["Days"]], data.Subject, **kw),
        lambda data, **kw: MixedLM.from_formula("Reaction ~ Days + (1 | Subject)", data, **kw),
    ],
    ids=["arrays", "formula"],
)
def test_unknown_arguments(build):
    data = load("sleepstudy")
    with pytest.raises(ValueError, match="argument exog_rv not permitted"):
        build(data, exog_rv=1)
    with pytest.raises(
        sparselmm.ArgumentError, match="no argument 'progres'; did you mean 'progress'"
    ):
        build(data).fit(progres=False)
    with pytest.raises(TypeError, match="no argument 'REML'; did you mean 'reml'"):
        build(data).fit(REML=False)
    with pytest.warns(FutureWarning, match="Argument cov_type not used"):  # as statsmodels does
        build(data).fit(cov_type="nonrobust")


def test_unknown_method():
    with pytest.raises(ValueError, match="unknown optimizer 'simplex'"):
        model_of("Pastes").fit(method="simplex")


# ----------------------------------------------------------------------------- warnings


def test_singular_fit_is_announced():
    """In words that a filter for lme4's or statsmodels' messages finds: 'singular', 'effects'."""
    model = MixedLM.from_formula("Yield ~ 1 + (1 | Batch)", load("Dyestuff2"))
    with pytest.warns(sparselmm.SingularMatrixWarning, match="random effects.*singular.*Batch"):
        result = model.fit()
    assert result.singular
    assert result.converged
    assert issubclass(sparselmm.SingularMatrixWarning, sparselmm.ModelWarning)
    assert issubclass(sparselmm.ModelWarning, UserWarning)


def test_only_singular_terms_are_named():
    data = load("ergoStool")
    with pytest.warns(sparselmm.SingularMatrixWarning) as seen:
        MixedLM.from_formula("effort ~ Type + (1 | Subject) + (1 | Type)", data).fit(reml=False)
    (warning,) = seen
    assert "the variance of Intercept by Type is" in str(warning.message)
    assert warning.filename == __file__


def test_dropped_columns_are_announced():
    data = load("sleepstudy").assign(Hours=lambda d: 24.0 * d.Days)
    model = MixedLM.from_formula("Reaction ~ Days + Hours + (1 | Subject)", data)
    with pytest.warns(sparselmm.RankDeficiencyWarning, match="3 columns but rank 2.*Hours") as seen:
        result = model.fit()
    assert len(seen) == 1
    assert result.dropped == ("Hours",)
    assert np.isnan(result.fe_params["Hours"])
    full = MixedLM.from_formula("Reaction ~ Days + (1 | Subject)", data).fit()
    assert result.llf == pytest.approx(full.llf, rel=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit()  # said once for a model


def test_a_fit_that_stopped_early_says_so():
    model = model_of("sleepstudy")
    with pytest.warns(sparselmm.ConvergenceWarning, match="did not converge.*1 iteration"):
        result = model.fit(start_theta=np.array([5.0, 0.0, 5.0]), maxiter=1)
    assert not result.converged
    # the rest of the way from where it stopped
    again = model.fit(start_theta=result.theta)
    assert again.converged
    assert again.llf == pytest.approx(model.fit().llf, abs=TOLERANCE)


@every_model
def test_an_ordinary_fit_is_silent(name, capsys):
    model_of(name).fit()
    model_of(name).fit(progress=False)
    assert capsys.readouterr() == ("", "")


def test_progress(capsys):
    result = model_of("sleepstudy").fit(start_theta=np.array([5.0, 0.0, 5.0]), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\r") == result.opt.n_evaluations
    assert f"evaluation {result.opt.n_evaluations}: deviance {-2 * result.llf:.3f}" in err
    assert err.endswith("\n")


# ----------------------------------------------------------------------- interrupt, repeat


def test_an_interrupted_fit_leaves_the_model_usable(monkeypatch, capsys):
    model = model_of("sleepstudy")
    expected = model.fit(start_theta=np.array([5.0, 0.0, 5.0]))
    tangent_model = ProfiledDeviance.tangent_model
    calls = []

    def interrupted(self, theta):
        calls.append(theta)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return tangent_model(self, theta)

    with monkeypatch.context() as patch:
        patch.setattr(ProfiledDeviance, "tangent_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.fit(start_theta=np.array([5.0, 0.0, 5.0]))
    message = capsys.readouterr().err
    assert "interrupted after 2 evaluations" in message
    start = np.fromstring(message.split("start_theta=[")[1].split("]")[0], sep=",")
    assert expected.deviance.value(start) < expected.deviance.value(np.array([5.0, 0.0, 5.0]))
    again = model.fit(start_theta=np.array([5.0, 0.0, 5.0]))
    np.testing.assert_array_equal(again.theta, expected.theta)
    assert model.fit(start_theta=start).llf == pytest.approx(expected.llf, abs=TOLERANCE)


@both
@every_model
def test_two_fits_are_identical(name, reml):
    """Same bits from the same model, from a new one and from a pickled one."""
    model = model_of(name)
    first = model.fit(reml=reml)
    for other in (model, model_of(name), pickle.loads(pickle.dumps(model))):
        second = other.fit(reml=reml)
        assert second.llf == first.llf
        np.testing.assert_array_equal(second.theta, first.theta)
        np.testing.assert_array_equal(second.fe_params, first.fe_params)
        np.testing.assert_array_equal(second.b, first.b)
        np.testing.assert_array_equal(second.bse_fe, first.bse_fe)


def test_fits_do_not_disturb_each_other():
    """A result still answers for its own theta after other fits of the same model."""
    model = model_of("Machines")
    reml = model.fit()
    before = reml.deviance.at(reml.theta).b.copy()
    ml = model.fit(reml=False)
    assert ml.deviance.value(ml.theta) == -2.0 * ml.llf
    np.testing.assert_array_equal(reml.deviance.at(reml.theta).b, before)
    assert reml.deviance.value(reml.theta) == -2.0 * reml.llf


def test_the_data_may_change_after_the_model_was_built():
    data = load("sleepstudy")
    model = MixedLM.from_formula(MODELS["sleepstudy"], data)
    expected = model_of("sleepstudy").fit().llf
    data["Reaction"] = 0.0
    data.loc[:, "Days"] = 1
    assert model.fit().llf == expected


# --------------------------------------------------------------------------- description


def test_what_the_model_says_of_itself():
    model = model_of("sleepstudy")
    data = load("sleepstudy")
    assert (model.nobs, model.k_fe) == (180, 2)
    assert model.endog_names == "Reaction"
    assert model.exog_names == ["Intercept", "Days"]
    np.testing.assert_array_equal(model.endog, data.Reaction)
    np.testing.assert_array_equal(model.exog, np.column_stack([np.ones(180), data.Days]))
    assert model.Z.shape == (180, 36)
    assert model.formula == MODELS["sleepstudy"]
    assert model.groups is None
    assert [term.name for term in model.terms] == ["Subject"]
    other = MixedLM.from_formula("Reaction ~ Days", data, groups="Subject")
    np.testing.assert_array_equal(other.groups, data.Subject)


def test_start_values():
    model = model_of("sleepstudy")
    best = model.fit()
    for start in ([1.0, 0.0, 1.0], (0.1, 0.1, 0.1), pd.Series([3.0, -1.0, 2.0])):
        assert model.fit(start_theta=start).llf == pytest.approx(best.llf, abs=TOLERANCE)


WRONG_STARTS = {
    "short": [1.0],
    "long": [1.0, 0.0, 1.0, 1.0],
    "nan": [1.0, np.nan, 1.0],
    "inf": [1.0, np.inf, 1.0],
}


@pytest.mark.parametrize("start", WRONG_STARTS)
def test_wrong_start_values(start):
    with pytest.raises(sparselmm.DataError, match="start values"):
        model_of("sleepstudy").fit(start_theta=np.array(WRONG_STARTS[start]))


@pytest.mark.parametrize("formula", ["z ~ Days + (1 | Subject)", "z ~ C(row) + (1 | Subject)"])
def test_nothing_left_to_explain(formula):
    """A response that X explains without residual has no scale: an error on purpose."""
    data = load("sleepstudy").assign(z=lambda d: 2.0 * d.Days + 1.0, row=np.arange(180))
    with pytest.raises(sparselmm.SparseLMMError):
        MixedLM.from_formula(formula, data).fit()


@pytest.mark.parametrize(
    "origin",
    [
        10.0,
        2000.0,
        1e5,
        1e7,
    ],
)
def test_origin_of_a_slope(origin):
    """Years since 0 or since 2000: the same model, whatever the correlation at zero."""
    data = load("sleepstudy")
    moved = data.assign(Days=data.Days + origin)
    one = MixedLM.from_formula(MODELS["sleepstudy"], data).fit(reml=False)
    other = MixedLM.from_formula(MODELS["sleepstudy"], moved).fit(reml=False)
    assert other.converged
    # differences of squares of covariates near 2000 lose six digits of the deviance's sixteen
    assert other.llf == pytest.approx(one.llf, abs=1e-8)
    assert other.fe_params["Days"] == pytest.approx(one.fe_params["Days"], rel=1e-6)


def test_mixedlm_is_from_formula():
    data = load("sleepstudy")
    result = sparselmm.mixedlm(MODELS["sleepstudy"], data).fit()
    assert result.llf == model_of("sleepstudy").fit().llf
