"""The estimator of scikit-learn: its own checks, pipelines, searches, folds, the fits behind."""

import numpy as np
import pandas as pd
import pytest

import sparselmm
from sparselmm import datasets
from sparselmm.base.exceptions import ArgumentError, DataError

pytest.importorskip("sklearn")

import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from sparselmm.sklearn import MixedLMRegressor

SLEEP = datasets.load("sleepstudy")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=getattr(check, "func", check).__name__ + str(i))
        for i, (_, check) in enumerate(estimator_checks_generator(MixedLMRegressor()))
    ],
)
def test_checks_of_scikit_learn(check):
    check(MixedLMRegressor())


def test_it_is_the_fit_of_the_formula():
    formula = "Reaction ~ Days + (Days | Subject)"
    fit = sparselmm.mixedlm(formula, SLEEP).fit()
    model = MixedLMRegressor("Days + (Days | Subject)").fit(SLEEP, SLEEP.Reaction)
    np.testing.assert_allclose(model.predict(SLEEP), fit.fittedvalues)
    np.testing.assert_allclose(model.coef_, fit.fe_params.iloc[1:])
    assert model.result_.llf == pytest.approx(fit.llf)
    with_left = MixedLMRegressor(formula).fit(SLEEP.drop(columns="Reaction"), SLEEP.Reaction)
    np.testing.assert_allclose(with_left.predict(SLEEP), fit.fittedvalues)
    by_column = MixedLMRegressor(groups="Subject", slopes="Days")
    by_column.fit(SLEEP[["Days", "Subject"]], SLEEP.Reaction)
    np.testing.assert_allclose(by_column.predict(SLEEP[["Days", "Subject"]]), fit.fittedvalues)
    labels = MixedLMRegressor(slopes=0)
    labels.fit(SLEEP[["Days"]].to_numpy(), SLEEP.Reaction, groups=SLEEP.Subject)
    predicted = labels.predict(SLEEP[["Days"]].to_numpy(), groups=SLEEP.Subject)
    np.testing.assert_allclose(predicted, fit.fittedvalues)
    population = labels.predict(SLEEP[["Days"]].to_numpy())
    np.testing.assert_allclose(population, fit.predict(SLEEP))


def test_crossed_columns_of_an_array():
    plates = datasets.load("Penicillin")
    fit = sparselmm.mixedlm("diameter ~ x + (1 | plate) + (1 | sample)",
                            plates.assign(x=np.arange(len(plates)) % 5.0)).fit()  # fmt: skip
    codes = plates[["plate", "sample"]].apply(lambda c: pd.factorize(c)[0])
    X = np.column_stack([codes, np.arange(len(plates)) % 5.0])
    model = MixedLMRegressor(groups=[0, 1]).fit(X, plates.diameter)
    np.testing.assert_allclose(model.predict(X), fit.fittedvalues)


def test_weights():
    w = np.random.default_rng(1).uniform(0.5, 2.0, len(SLEEP))
    fit = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", SLEEP, weights=w).fit()
    model = MixedLMRegressor("Days + (1 | Subject)").fit(SLEEP, SLEEP.Reaction, sample_weight=w)
    np.testing.assert_allclose(model.coef_, fit.fe_params.iloc[1:])


def test_new_levels():
    known = SLEEP[SLEEP.Subject != "308"]
    new = SLEEP[SLEEP.Subject == "308"]
    model = MixedLMRegressor("Days + (Days | Subject)").fit(known, known.Reaction)
    expected = model.result_.predict(new)
    np.testing.assert_allclose(model.predict(new), expected)
    strict = clone(model).set_params(unseen="error").fit(known, known.Reaction)
    with pytest.raises(DataError, match="not seen"):
        strict.predict(new)
    missing = clone(model).set_params(unseen="nan").fit(known, known.Reaction)
    assert np.isnan(missing.predict(new)).all()
    mean = clone(model).set_params(random=False).fit(known, known.Reaction)
    np.testing.assert_allclose(mean.predict(known), mean.result_.predict(known))


def test_folds_and_searches():
    X, y = SLEEP[["Days", "Subject"]], SLEEP.Reaction
    model = MixedLMRegressor(groups="Subject", slopes="Days")
    grouped = cross_val_predict(model, X, y, groups=SLEEP.Subject, cv=GroupKFold(6))
    rows = cross_val_predict(model, X, y, cv=KFold(6, shuffle=True, random_state=0))
    assert ((y - rows) ** 2).mean() < ((y - grouped) ** 2).mean()
    search = GridSearchCV(model, {"slopes": [None, "Days"]}, cv=KFold(4, shuffle=True,
                          random_state=0)).fit(X, y)  # fmt: skip
    assert search.best_params_ == {"slopes": "Days"}


def test_labels_through_a_pipeline():
    with sklearn.config_context(enable_metadata_routing=True):
        last = MixedLMRegressor().set_fit_request(groups=True, sample_weight=False)
        last = last.set_predict_request(groups=True)
        model = make_pipeline(StandardScaler(), last)
        model.fit(SLEEP[["Days"]], SLEEP.Reaction, groups=SLEEP.Subject)
        predicted = model.predict(SLEEP[["Days"]], groups=SLEEP.Subject)
    fit = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", SLEEP).fit()
    np.testing.assert_allclose(predicted, fit.fittedvalues)


def test_frames_of_other_packages():
    pl = pytest.importorskip("polars")
    X, y = SLEEP[["Days", "Subject"]], SLEEP.Reaction
    expected = MixedLMRegressor(groups="Subject", slopes="Days").fit(X, y).predict(X)
    other = pl.from_pandas(X)
    for model in (
        MixedLMRegressor(groups="Subject", slopes="Days"),
        MixedLMRegressor("Days + (Days | Subject)"),
    ):
        found = model.fit(other, pl.from_pandas(y)).predict(other)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    labels = MixedLMRegressor(slopes="Days").fit(other[["Days"]], y, groups=other["Subject"])
    found = labels.predict(other[["Days"]], groups=other["Subject"])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize(
    "name", ["y", "1", "class", "C", "x+1", "a`b", 'a"b', "a\\b", "", "Intercept"]
)
def test_results_speak_of_the_columns(name):
    X, y = SLEEP[["Days", "Subject"]], SLEEP.Reaction
    expected = MixedLMRegressor(groups="Subject", slopes="Days").fit(X, y).predict(X)
    own = X.set_axis([name, "Subject"], axis=1)
    model = MixedLMRegressor(groups="Subject", slopes=name).fit(own, y)
    np.testing.assert_allclose(model.predict(own), expected, rtol=1e-9)
    assert "Subject" in str(model.result_.summary())
    own = X.set_axis(["Days", name], axis=1)
    model = MixedLMRegressor(groups=name, slopes="Days").fit(own, y)
    np.testing.assert_allclose(model.predict(own), expected, rtol=1e-9)


def test_intercepts_alone():
    X, y = SLEEP[["Subject"]], SLEEP.Reaction
    fit = sparselmm.mixedlm("Reaction ~ 1 + (1 | Subject)", SLEEP).fit()
    found = MixedLMRegressor(groups="Subject").fit(X, y).predict(X)
    np.testing.assert_allclose(found, fit.fittedvalues)


def test_labels_count_in_scores_and_searches():
    X, y = SLEEP[["Days"]], SLEEP.Reaction
    model = MixedLMRegressor(slopes="Days").fit(X, y, groups=SLEEP.Subject)
    by_column = MixedLMRegressor(groups="Subject", slopes="Days")
    both = SLEEP[["Days", "Subject"]]
    expected = by_column.fit(both, y).score(both, y)
    assert model.score(X, y, groups=SLEEP.Subject) == pytest.approx(expected)
    with sklearn.config_context(enable_metadata_routing=True):
        last = MixedLMRegressor().set_fit_request(groups=True)
        last = last.set_predict_request(groups=True).set_score_request(groups=True)
        folds = KFold(3, shuffle=True, random_state=0)
        grid = {"mixedlmregressor__slopes": [None, 0]}
        search = GridSearchCV(make_pipeline(StandardScaler(), last), grid, cv=folds)
        search.fit(X, y, groups=SLEEP.Subject)
    assert search.best_params_ == {"mixedlmregressor__slopes": 0}


def test_what_is_refused():
    y = SLEEP.Reaction
    with pytest.raises(DataError, match="X must be a DataFrame"):
        MixedLMRegressor("x + (1 | g)").fit(np.ones((180, 2)), y)
    with pytest.raises(ArgumentError, match="formula says it all"):
        MixedLMRegressor("Days + (1 | Subject)", groups="Subject").fit(SLEEP, y)
    with pytest.raises(DataError, match="X has no column 'Subjekt'"):
        MixedLMRegressor(groups="Subjekt").fit(SLEEP[["Days", "Subject"]], y)
    with pytest.raises(DataError, match="slopes: 'Day' is no column"):
        MixedLMRegressor(groups="Subject", slopes="Day").fit(SLEEP[["Days", "Subject"]], y)
    with pytest.raises(ValueError, match="unseen must be one of"):
        MixedLMRegressor(unseen="skip").fit(SLEEP[["Days"]], y)
    with pytest.raises(DataError, match="one label for each of the 180 rows"):
        MixedLMRegressor().fit(SLEEP[["Days"]], y, groups=[1, 2])
    with pytest.raises(ArgumentError, match="has no term with them"):
        MixedLMRegressor("Days + (1 | Subject)").fit(SLEEP, y, groups=SLEEP.Subject)
    with pytest.raises(ArgumentError, match="a column of X and an argument"):
        MixedLMRegressor("Days + (1 | groups)").fit(SLEEP.assign(groups=1), y, groups=SLEEP.Subject)
    with pytest.raises(ArgumentError, match="groups names a column twice"):
        MixedLMRegressor(groups=["Subject", "Subject"]).fit(SLEEP[["Days", "Subject"]], y)
    with pytest.raises(ArgumentError, match="pass groups too"):
        MixedLMRegressor(slopes="Days").fit(SLEEP[["Days"]], y)
    with pytest.raises(ValueError, match="reml must be True or False"):
        MixedLMRegressor(reml="yes").fit(SLEEP[["Days"]], y)
    with pytest.raises(ValueError, match="formula must be a string"):
        MixedLMRegressor(["Days"]).fit(SLEEP, y)


def test_columns_of_text_and_missing_responses_say_what_to_do():
    data = sparselmm.datasets.load("sleepstudy")
    X, y = data[["Days", "Subject"]], data["Reaction"]
    for text in (["a"] * len(data), pd.Categorical(np.where(data.Days > 4, "p", "q"))):
        with pytest.raises(DataError, match=r"column 'z' holds text.*OneHotEncoder"):
            MixedLMRegressor(groups="Subject").fit(X.assign(z=text), y)
    numbers = X.assign(Days=X.Days.astype(str))
    same = MixedLMRegressor(groups="Subject").fit(numbers, y).coef_
    np.testing.assert_allclose(same, MixedLMRegressor(groups="Subject").fit(X, y).coef_)
    with pytest.raises(DataError, match="y has 2 missing"):
        MixedLMRegressor("Days + (1 | Subject)").fit(data, y.where(y > 200))


def test_left_sides_that_would_not_be_applied_are_refused():
    """The right side alone was fitted to y as it is."""
    with pytest.raises(ArgumentError, match=r"the left side 'log\(Reaction\)' is not applied"):
        MixedLMRegressor("log(Reaction) ~ Days + (1 | Subject)").fit(SLEEP, SLEEP.Reaction)
    named = MixedLMRegressor("`reaction time` ~ Days + (1 | Subject)").fit(SLEEP, SLEEP.Reaction)
    plain = MixedLMRegressor("Days + (1 | Subject)").fit(SLEEP, SLEEP.Reaction)
    assert named.coef_.tolist() == plain.coef_.tolist()


def test_two_responses_and_negative_weights():
    X, y = SLEEP[["Days", "Subject"]], SLEEP.Reaction
    with pytest.raises(ValueError, match="should be a 1d array"):
        MixedLMRegressor(groups="Subject").fit(X, np.column_stack([y, y]))
    with pytest.raises(DataError, match="sample_weight has negative values"):
        MixedLMRegressor().fit(X[["Days"]], y, sample_weight=-np.ones(len(y)))
