"""Labelled inputs go by their labels, arrays by position; foreign labels are refused."""

import numpy as np
import pandas as pd
import pytest

import sparselmm


@pytest.fixture(scope="module")
def sleep():
    data = sparselmm.datasets.load("sleepstudy")
    data["part"] = np.where(data.Days < 3, "a", np.where(data.Days < 6, "b", "c"))
    data["half"] = np.where(data.Days % 2, 1, 0)
    return data


@pytest.fixture(scope="module")
def fit(sleep):
    return sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", sleep).fit()


def refused(call, value, match):
    with pytest.raises(sparselmm.exceptions.ArgumentError, match=match):
        call(value)


@pytest.mark.parametrize("kind", [lambda s: s, dict], ids=["Series", "dict"])
def test_start_params(fit, kind):
    def first(start):
        return fit.model.fit(start_params=start).opt.history[0].theta

    expected = first(fit.params.to_numpy())
    backwards = fit.params[::-1]
    np.testing.assert_array_equal(first(kind(backwards)), expected)
    np.testing.assert_array_equal(first(kind(backwards[:3])), expected)  # covariances alone
    refused(first, kind(backwards.rename({"Days": "x"})), "start_params is labelled")
    numbered = fit.params.reset_index(drop=True)
    np.testing.assert_array_equal(first(numbered), expected)


def test_params_of_predict_and_likelihood(fit):
    X = np.column_stack([np.ones(3), [0.0, 1.0, 2.0]])
    expected = fit.model.predict(fit.fe_params.to_numpy(), X)
    for params in (fit.fe_params[::-1], fit.params[::-1], dict(fit.fe_params[::-1])):
        np.testing.assert_array_equal(fit.model.predict(params, X), expected)
    refused(lambda p: fit.model.predict(p, X), fit.fe_params.rename({"Days": "x"}), "params")
    packed = pd.Series(fit.params_object.get_packed(use_sqrt=True, has_fe=False))
    names = list(fit.params.index[2:])
    labelled = packed.set_axis(names)
    assert fit.model.loglike(labelled[::-1]) == fit.model.loglike(packed.to_numpy())
    refused(fit.model.loglike, packed.set_axis(["a", "b", "c"]), "params is labelled")


def test_theta_has_no_names(fit):
    named = pd.Series(fit.theta, index=["a", "b", "c"])
    refused(lambda v: fit.model.fit(start_theta=v), named, "no names")
    refused(lambda v: fit.model.fit(fix={"theta": v}), named, "no names")


@pytest.mark.parametrize("names", [["Intercept", "Days"], ["Subject", "Subject[Days]"]])
def test_fix(fit, names):
    def psi(held):
        return fit.model.fit(fix={"sigma": 25.0, "Subject": held}).cov_re.to_numpy()

    cov = pd.DataFrame([[600.0, 9.0], [9.0, 35.0]], names, names)
    sd, corr = pd.Series([24.0, 6.0], names), pd.DataFrame([[1.0, 0.2], [0.2, 1.0]], names, names)
    turned = names[::-1]
    np.testing.assert_allclose(psi({"cov": cov.loc[turned, turned]}), cov)
    expected = psi({"sd": [24.0, 6.0], "corr": corr.to_numpy()})
    np.testing.assert_allclose(psi({"sd": sd[turned], "corr": corr}), expected)
    np.testing.assert_allclose(psi({"sd": dict(sd[turned]), "corr": corr}), expected)
    refused(psi, {"cov": cov.rename(columns={names[1]: "x"})}, "'cov'")
    refused(psi, {"sd": sd.rename({names[1]: "x"})}, "'sd'")


def test_contrasts(sleep):
    fit = sparselmm.mixedlm("Reaction ~ part * half + (1 | Subject)", sleep).fit()
    means = fit.emmeans("part")
    expected = means.contrast({"q": [1.0, -1.0, 0.0]})
    named = pd.DataFrame([[0.0, 1.0, -1.0]], index=["q"], columns=list("cab"))
    pd.testing.assert_frame_equal(means.contrast(named), expected)
    for weights in (pd.Series(named.iloc[0]), dict(named.iloc[0])):
        pd.testing.assert_frame_equal(means.contrast({"q": weights}), expected)
    refused(means.contrast, named.set_axis(list("xyz"), axis=1), "method is labelled")
    refused(means.contrast, {"q": pd.Series([1.0, -1.0], index=list("ab"))}, "method is labelled")
    cells = fit.emmeans(["part", "half"])
    columns = pd.MultiIndex.from_frame(cells.frame[["part", "half"]])
    weights = pd.DataFrame([np.arange(6.0) - 2.5], columns=columns)
    turned = weights[weights.columns[::-1]]
    pd.testing.assert_frame_equal(cells.contrast(turned), cells.contrast(weights.to_numpy()))


def test_covariance_and_rows_of_tests(fit):
    order = list(fit.params.index)[::-1]
    cov = pd.DataFrame(np.diag(np.arange(1.0, 6.0)), fit.params.index, fit.params.index)
    R = np.array([[0.0, 1.0, 0.0, 0.0, 0.0]])
    expected = fit.cov_params(r_matrix=R, cov_p=cov.to_numpy())
    turned = pd.DataFrame(R, columns=fit.params.index)[order]
    np.testing.assert_allclose(
        fit.cov_params(r_matrix=turned, cov_p=cov.loc[order, order]), expected
    )
    one = pd.DataFrame([[1.0, 0.0]], columns=["Days", "Intercept"])
    np.testing.assert_allclose(
        fit.robust_tests(r_matrix=one), fit.robust_tests(r_matrix=[[0.0, 1.0]])
    )


def test_tuples_are_labels(sleep):
    pairs = [(s, "x") for s in sleep.Subject]
    X = np.column_stack([np.ones(len(sleep)), sleep.Days])
    expected = sparselmm.MixedLM(sleep.Reaction.to_numpy(), X, groups=pd.Series(pairs)).fit()
    fit = sparselmm.MixedLM(sleep.Reaction.to_numpy(), X, groups=pairs).fit()
    np.testing.assert_allclose(fit.theta, expected.theta)
    assert list(fit.random_effects) == list(expected.random_effects)
    with pytest.raises(sparselmm.DataError, match="2 columns"):
        sparselmm.MixedLM(sleep.Reaction.to_numpy(), X, groups=[list(pair) for pair in pairs])


def test_a_dict_of_series(sleep):
    """The same index in another order is aligned, another index is refused."""
    own = {name: sleep[name] for name in ("Reaction", "Days", "Subject")}
    formula = "Reaction ~ Days + (1 | Subject)"
    expected = sparselmm.mixedlm(formula, sleep).fit().params
    turned = {**own, "Days": sleep.Days.sample(frac=1.0, random_state=1)}
    np.testing.assert_allclose(sparselmm.mixedlm(formula, turned).fit().params, expected)
    with pytest.raises(sparselmm.DataError, match="different ind"):
        sparselmm.mixedlm(formula, {**own, "Days": sleep.Days.set_axis(sleep.index + 7)})


@pytest.mark.parametrize("kind", [lambda s: s, dict], ids=["Series", "dict"])
def test_start_of_generalized_models(kind):
    data = sparselmm.datasets.load("cbpp")
    formula = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
    model = sparselmm.mixedglm(formula, data)
    params = model.fit().params

    def first(start):
        return model.fit(start=start, starts=1).opt.history[0].theta

    expected = first(params)
    np.testing.assert_array_equal(first(kind(params[::-1])), expected)
    refused(first, kind(params.rename({params.index[1]: "x"})), "start is labelled")
    refused(first, params.to_numpy()[:2], "start must have shape")
