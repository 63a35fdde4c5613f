"""Leaving rows and groups out: closed forms against fits without them."""

import numpy as np
import pandas as pd
import pytest

import sparselmm
from sparselmm import datasets
from sparselmm.base.exceptions import ArgumentError, DataError, MemoryLimitError
from sparselmm.inference.prediction import cross_validation


def models():
    sleep = datasets.load("sleepstudy")
    yield "Reaction ~ Days + (Days | Subject)", sleep, None, "Subject"
    plates = datasets.load("Penicillin").iloc[::3].reset_index(drop=True)
    yield "diameter ~ 1 + (1 | plate) + (1 | sample)", plates, None, "plate"
    weights = np.random.default_rng(3).uniform(0.5, 2.0, len(sleep))
    yield "Reaction ~ Days + (1 | Subject)", sleep, weights, "Subject"


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize("by", [False, True])
def test_held_variances_against_a_fit_without_the_rows(case, by):
    """The same theta, the rest of the rows: dense equations of Henderson."""
    formula, data, weights, factor = list(models())[case]
    fit = sparselmm.mixedlm(formula, data, weights=weights).fit()
    found = fit.cross_validate(factor if by else None).frame
    X, Z = fit.built.design.X, fit.built.design.Z.toarray()
    lam = fit.deviance.covariance.factors(fit.theta)
    terms = fit.built.design.terms
    blocks = [np.kron(np.eye(t.n_levels), L @ L.T) for t, L in zip(terms, lam, strict=True)]
    G = np.zeros((Z.shape[1], Z.shape[1]))
    at = 0
    for block in blocks:
        G[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    w = np.ones(len(data)) if weights is None else weights
    V = np.diag(1 / w) + Z @ G @ Z.T
    y = fit.built.design.y
    for fold in (0, 7, 11):
        out = (found.fold == fold).to_numpy()
        inside = ~out
        inverse = np.linalg.inv(V[np.ix_(inside, inside)])
        S = X[inside].T @ inverse @ X[inside]
        beta = np.linalg.solve(S, X[inside].T @ inverse @ y[inside])
        cross = V[np.ix_(out, inside)] @ inverse
        mean = X[out] @ beta + cross @ (y[inside] - X[inside] @ beta)
        left = X[out] - cross @ X[inside]
        spread = V[np.ix_(out, out)] - cross @ V[np.ix_(inside, out)]
        spread = spread + left @ np.linalg.solve(S, left.T)
        np.testing.assert_allclose(found.predicted[out], mean, rtol=1e-8)
        np.testing.assert_allclose(found.se[out], np.sqrt(fit.scale * np.diag(spread)), rtol=1e-7)


def test_refitted_variances_against_refits():
    data = datasets.load("sleepstudy")
    model = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data)
    found = model.fit().cross_validate("Subject", folds=3, refit=True, seed=4)
    for fold in range(3):
        out = (found.frame.fold == fold).to_numpy()
        own = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data[~out]).fit()
        predicted = own.get_prediction(data[out], re=False).summary_frame()
        np.testing.assert_allclose(found.frame.predicted[out], predicted["mean"], rtol=1e-5)
        half = (predicted["obs_ci_upper"] - predicted["mean"]) / 1.959964
        np.testing.assert_allclose(found.frame.se[out], half, rtol=1e-4)
    assert "estimated without each" in repr(found)


def test_measures():
    fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", datasets.load("sleepstudy")).fit()
    found = fit.cross_validate()
    e = found.errors
    assert found.rmse == pytest.approx(np.sqrt((e**2).mean()))
    assert found.r2 < 1 - (fit.resid**2).sum() / ((found.frame.observed - 298.5) ** 2).sum()
    assert 0.9 < found.coverage < 1.0
    assert found.lpd < fit.model.fit(reml=False).llf + 60
    assert "<table" in found._repr_html_()
    same = fit.cross_validate(by=np.arange(180))
    pd.testing.assert_frame_equal(same.frame, found.frame)


def test_what_cannot_be_predicted(monkeypatch):
    data = datasets.load("ergoStool")
    fit = sparselmm.mixedlm("effort ~ Type + (1 | Subject)", data).fit()
    found = fit.cross_validate("Type")
    assert found.frame.predicted.isna().all()
    assert "36 rows cannot be predicted" in repr(found)
    with pytest.raises(DataError, match="no grouping factor 'Stool'"):
        fit.cross_validate("Stool")
    with pytest.raises(ArgumentError, match="folds"):
        fit.cross_validate("Subject", folds=10)
    with pytest.raises(ArgumentError, match="one level"):
        fit.cross_validate(np.ones(36))
    monkeypatch.setattr(cross_validation, "MOST_ROWS", 3)
    with pytest.raises(MemoryLimitError, match="a fold has 4 rows"):
        fit.cross_validate("Subject")


def test_a_fold_loses_only_rows_that_the_rest_cannot_predict():
    """A level of a fixed factor in one row: without its group the other rows are still told."""
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(6), 7)
    x = rng.normal(size=42)
    data = pd.DataFrame({"g": g, "x": x, "f": rng.choice(["p", "q"], 42)})
    data.loc[3, "f"] = "r"
    data["y"] = 1.0 + x + rng.normal(size=6)[g] + rng.normal(size=42)
    fit = sparselmm.mixedlm("y ~ x + f + (1 | g)", data).fit()
    found = fit.cross_validate("g").frame
    assert np.flatnonzero(found.predicted.isna()).tolist() == [3]
    rest = sparselmm.mixedlm("y ~ x + f + (1 | g)", data[data.g != 0])
    theta = rest.fit(fix={"theta": fit.theta})
    new = data[(data.g == 0) & (data.f != "r")]
    np.testing.assert_allclose(found.predicted[new.index], theta.predict(new), rtol=1e-9)
    again = fit.cross_validate("g", refit=True).frame
    free = rest.fit().predict(new)
    np.testing.assert_allclose(again.predicted[new.index], free, rtol=1e-5)
