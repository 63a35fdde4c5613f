"""Cluster-robust covariances of the fixed effects."""

import numpy as np
import pandas as pd
import pytest
import scipy.linalg as sla
from comparison_cases import EXTRA, fitted
from numpy.testing import assert_allclose
from reference_fits import reference_fit

import sparselmm
from sparselmm.base.exceptions import DataError
from sparselmm.inference.hypotheses.robust import KINDS

CASES = EXTRA["robust"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_covariances_and_tests_agree_with_clubsandwich(name, kind):
    record, ref, fit = CASES[name][kind], reference_fit(name), fitted(name)
    cluster = CASES[name]["cluster"]
    index = list(ref.fixef.index)
    se = np.sqrt(np.diag(record["vcov"]))
    found = fit.cov_robust(kind, cluster).loc[index, index]
    assert_allclose(found, record["vcov"], atol=1e-6 * np.outer(se, se).min(), rtol=1e-6)
    table = fit.robust_tests(kind=kind, groups=cluster).loc[index]
    assert_allclose(table.std_err, record["se"], rtol=1e-6)
    assert_allclose(table.t, record["t"], rtol=1e-6, atol=1e-6)
    assert_allclose(table.df, record["df"], rtol=1e-6)
    assert_allclose(table.pvalue, record["p"], atol=1e-5, rtol=1e-5)


def textbook(fit, clusters, kind):
    """The same by n x n matrices, rows times the root of their weight; and each effect's df."""
    design = fit.built.design
    w = np.ones(design.n) if design.weights is None else design.weights
    y = design.y if design.offset is None else design.y - design.offset
    root = np.sqrt(w)
    X, Z, y = root[:, None] * design.X, root[:, None] * design.Z.toarray(), root * y
    psi = fit.deviance.covariance.psi(fit.theta)
    G = sla.block_diag(
        *[np.kron(np.eye(t.n_levels), p) for t, p in zip(design.terms, psi, strict=True)]
    )
    V = np.eye(design.n) + Z @ G @ Z.T
    W = np.linalg.inv(V)
    M = np.linalg.inv(X.T @ W @ X)
    e = y - X @ (M @ X.T @ W @ y)
    labels = np.unique(clusters)
    sides = []
    for label in labels:
        at = clusters == label
        A = np.eye(int(at.sum()))
        if kind == "CR1":
            A *= np.sqrt(len(labels) / (len(labels) - 1))
        elif kind == "CR2":
            D = np.linalg.cholesky(V[np.ix_(at, at)]).T
            values, vectors = np.linalg.eigh(D @ (V[np.ix_(at, at)] - X[at] @ M @ X[at].T) @ D.T)
            keep = values > 1e-9 * values[-1]
            inverse = np.where(keep, 1.0 / np.sqrt(np.where(keep, values, 1.0)), 0.0)
            A = D.T @ (vectors * inverse) @ vectors.T @ D
        side = np.zeros((X.shape[1], design.n))
        side[:, at] = M @ X[at].T @ np.linalg.inv(V[np.ix_(at, at)]) @ A
        sides.append(side)
    vcov = sum(np.outer(s @ e, s @ e) for s in sides)
    P = np.stack([[a @ (V - X @ M @ X.T) @ b.T for b in sides] for a in sides])
    df = [np.trace(P[:, :, j, j]) ** 2 / np.sum(P[:, :, j, j] ** 2) for j in range(X.shape[1])]
    return vcov, np.array(df)


def example(rng, weights):
    """Unequal clusters, one row in some; two nested factors; a covariate constant in clusters."""
    sizes = [1, 2, 5, 7, 3, 4, 9, 1]
    data = pd.DataFrame({"g": np.repeat(np.arange(8), sizes)})
    n = len(data)
    data["c"] = data.g * 10 + rng.integers(0, 3, n)
    data["x"] = rng.normal(size=n)
    data["u"] = rng.normal(size=8)[data.g]
    noise = 2 * rng.normal(size=8)[data.g] + rng.normal(size=80)[data.c]
    noise += 2 * data.x * rng.normal(size=8)[data.g]
    data["y"] = data.x + noise + rng.normal(size=n)
    data["w"] = rng.uniform(0.5, 2.0, n) if weights else 1.0
    return data


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_clusters_of_every_shape(kind, weights):
    data = example(np.random.default_rng(11), weights)
    fit = sparselmm.mixedlm(
        "y ~ x + u + (x | g) + (1 | c)", data, weights="w" if weights else None
    ).fit()
    vcov, df = textbook(fit, data.g.to_numpy(), kind)
    assert_allclose(fit.cov_robust(kind, "g"), vcov, rtol=1e-7)
    assert_allclose(fit.robust_tests(kind=kind, groups="g").df, df, rtol=1e-7)


def test_a_cluster_that_determines_a_coefficient():
    """A dummy of one cluster: its block of I - H is singular, and the pseudo-inverse is meant."""
    data = example(np.random.default_rng(12), False).assign(own=lambda d: (d.g == 3) * 1.0)
    fit = sparselmm.mixedlm("y ~ x + own + (1 | g)", data).fit()
    vcov, _ = textbook(fit, data.g.to_numpy(), "CR2")
    found = fit.cov_robust("CR2", "g").to_numpy()
    assert_allclose(found[:2, :2], vcov[:2, :2], rtol=1e-6)


def test_random_effects_must_lie_in_one_cluster():
    data = sparselmm.datasets.load("Penicillin")
    fit = sparselmm.mixedlm("diameter ~ 1 + (1 | plate) + (1 | sample)", data).fit()
    with pytest.raises(DataError, match="'plate' has rows in several clusters"):
        fit.cov_robust("CR2", "sample")


def test_ways_to_give_clusters():
    data = sparselmm.datasets.load("sleepstudy")
    fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
    default = fit.cov_robust()
    assert_allclose(fit.cov_robust(groups="Subject"), default)
    assert_allclose(fit.cov_robust(groups=data.Subject.to_numpy()), default)
    assert_allclose(fit.cov_robust(groups=data.Subject), default)
    X = np.column_stack([np.ones(len(data)), data.Days])
    arrays = sparselmm.MixedLM(data.Reaction.to_numpy(), X, data.Subject.to_numpy(), X).fit()
    assert_allclose(arrays.cov_robust(), default, rtol=1e-8)
    for groups, match in [
        ("subject", "no column or grouping factor"),
        (np.arange(5), "5 labels for 180 rows"),
        (data.Subject.astype(object).where(data.Days > 0), "missing labels"),
        (np.zeros(180), "at least two clusters"),
    ]:
        with pytest.raises(DataError, match=match):
            fit.cov_robust(groups=groups)
    with pytest.raises(ValueError, match="kind must be one of"):
        fit.cov_robust("HC3")


def test_combinations_of_effects():
    fit = fitted("ergo_ri_reml")
    R = np.array([[0.0, 1.0, -1.0, 0.0]])
    row = fit.robust_tests(R).iloc[0]
    se = np.sqrt(R @ fit.cov_robust().to_numpy() @ R.T)
    assert_allclose([row.coef, row.std_err], [(R @ fit.fe_params)[0], se[0, 0]])
    with pytest.raises(ValueError, match="4 columns"):
        fit.robust_tests(np.eye(3))


@pytest.mark.filterwarnings("ignore::sparselmm.RankDeficiencyWarning")
def test_dropped_columns_are_nan():
    data = example(np.random.default_rng(13), False).assign(twin=lambda d: 2 * d.x)
    with pytest.warns(sparselmm.RankDeficiencyWarning):
        fit = sparselmm.mixedlm("y ~ x + twin + (1 | g)", data).fit()
    assert fit.cov_robust().loc["twin"].isna().all()
    table = fit.robust_tests()
    assert table.loc["twin"].isna().all()
    assert table.loc[["Intercept", "x"]].notna().all().all()
