"""The expected information of terms with many parameters, and fits that need it."""

import numpy as np
import pandas as pd
import pytest
from registry import Model, design, term

import sparselmm
from sparselmm.inference.hypotheses.information import information
from sparselmm.likelihood.covariance import term_covariance


def series(structure, k=20, l=15, repeats=2):
    rng = np.random.default_rng(5)
    g, t = np.repeat(np.arange(l), k * repeats), np.tile(np.arange(k), l * repeats)
    n = len(g)
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    one = term("g", g, np.eye(k)[t], structure=structure)
    return Model(design(rng.normal(size=n) + rng.normal(size=l)[g], X, one))


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(
    "structure", ["unstructured", "diagonal", "compound symmetry", "autoregressive"]
)
def test_model_hessian_is_the_expected_information(structure, reml):
    """That of degrees of freedom, computed another way, with sigma^2 profiled out."""
    model = series(structure)
    deviance = model.sparse(reml)
    own = deviance.covariance.terms[0]
    assert own.is_numerous(15)
    theta = np.abs(model.theta("interior")) + 0.3
    if structure == "unstructured":  # well away from a singular matrix
        theta = np.where(own.rows == own.cols, 1.5, 0.05)
    info = information(deviance, theta)
    expected = info.to_theta.T @ (info.restricted if reml else info.K) @ info.to_theta
    expected = expected[:-1, :-1] - np.outer(expected[:-1, -1], expected[-1, :-1]) / deviance.df
    got = deviance.newton_matrix(theta)
    # fixed effects join different levels, which a model of the Hessian leaves out
    size = np.abs(expected).max() * (0.1 if reml else 1e-9)
    np.testing.assert_allclose(got, expected, rtol=1e-7, atol=size)


@pytest.mark.parametrize("formula", ["cs(0 + C(t) | g)", "(0 + C(t) | g)"])
def test_more_parameters_than_levels(formula):
    """The effects of 40 levels say little about so many parameters; the search is short."""
    k, l, repeats = (60, 25, 2) if formula.startswith("cs") else (14, 40, 8)
    rng = np.random.default_rng(1)
    g, t = np.repeat(np.arange(l), k * repeats), np.tile(np.arange(k), l * repeats)
    sd, u = np.exp(0.3 * rng.normal(size=k)), rng.normal(size=(l, k))
    y = (rng.normal(size=l)[g] + 0.7 * u[g, t]) * sd[t] + rng.normal(size=len(t))
    data = pd.DataFrame({"y": y, "t": t, "g": g})
    fit = sparselmm.mixedlm(f"y ~ 1 + {formula}", data).fit()
    assert fit.converged
    assert sum(e.search == 0 for e in fit.opt.history) <= 20


def test_few_parameters_are_not_numerous():
    assert not term_covariance(3, "unstructured").is_numerous(18)
    assert not term_covariance(100, "homogeneous autoregressive").is_numerous(18)


def test_a_covariance_with_more_parameters_than_rows():
    data = pd.DataFrame({"y": np.arange(120.0) ** 0.5, "t": np.tile(np.arange(30), 4)})
    data["g"] = np.repeat(np.arange(4), 30)
    with pytest.raises(sparselmm.DataError, match="465 parameters for 120 rows"):
        sparselmm.mixedlm("y ~ 1 + (0 + C(t) | g)", data)
