"""The dense twin against the normal density itself: the oracle's own oracle."""

import numpy as np
import pytest
import scipy.linalg as sla
from registry import MODELS
from scipy.stats import multivariate_normal

every_model = pytest.mark.parametrize("name", MODELS)
every_theta = pytest.mark.parametrize("kind", ["interior", "random", "boundary", "zero"])


def rows_of(model):
    """y less offset, X of full rank, V / sigma^2 as a function of theta: from the definitions."""
    one = model.design
    w = np.ones(one.n) if one.weights is None else one.weights
    used = w > 0
    y = (one.y if one.offset is None else one.y - one.offset)[used]
    X = one.X[used]
    while X.size and np.linalg.matrix_rank(X) < X.shape[1]:  # R's rule: the leftmost columns stay
        j = next(j for j in range(1, X.shape[1] + 1) if np.linalg.matrix_rank(X[:, :j]) < j)
        X = np.delete(X, j - 1, axis=1)

    def variance(theta):
        V = np.diag(1.0 / w[used])
        for term, psi in zip(one.terms, model.covariance.psi(theta), strict=True):
            for i in range(one.n):
                for j in range(i + 1) if term.block is None else ():
                    if term.codes[i] == term.codes[j] >= 0 and used[i] and used[j]:
                        v = np.ones((one.n, 1)) if term.values is None else term.values
                        a, b = used[:i].sum(), used[:j].sum()
                        V[a, b] += v[i] @ psi @ v[j]
                        V[b, a] = V[a, b]
            if term.block is not None:
                Z = term.block.toarray()[used]
                V += psi[0, 0] * Z @ Z.T
        return V

    return y, X, variance


@every_theta
@every_model
def test_maximum_likelihood(name, kind):
    """-2 log of the normal density at the estimates, which no other estimate exceeds."""
    model = MODELS[name]
    theta = model.theta(kind)
    fit = model.dense(False).at(theta)
    y, X, variance = rows_of(model)
    V = variance(theta)
    density = multivariate_normal(X @ fit.beta, fit.scale * V)
    # the density loses cond(V) eps, and a mean of 1e6 as much again
    assert -2.0 * density.logpdf(y) == pytest.approx(fit.deviance, rel=1e-10)
    rng = np.random.default_rng(1)
    se = np.sqrt(fit.scale * np.diag(fit.vcov_unscaled))
    for _ in range(5):
        beta = fit.beta + se * rng.normal(size=len(se)) * 0.5
        scale = fit.scale * np.exp(0.3 * rng.normal())
        assert -2.0 * multivariate_normal(X @ beta, scale * V).logpdf(y) > fit.deviance


@every_theta
@every_model
def test_restricted_likelihood(name, kind):
    """The density of the error contrasts K'y, K an orthonormal basis orthogonal to X.

    It is the REML criterion up to log det X'X (Harville 1974).
    """
    model = MODELS[name]
    theta = model.theta(kind)
    fit = model.dense(True).at(theta)
    y, X, variance = rows_of(model)
    K = sla.null_space(X.T) if X.shape[1] else np.eye(len(y))
    contrasts = multivariate_normal(np.zeros(K.shape[1]), fit.scale * K.T @ variance(theta) @ K)
    expected = -2.0 * contrasts.logpdf(K.T @ y)
    if X.shape[1]:
        expected += np.linalg.slogdet(X.T @ X).logabsdet
    # K'y takes a mean of 1e6 out of y with an error of 1e-10, as in the deviance itself
    assert fit.deviance == pytest.approx(expected, rel=1e-9)


@every_model
def test_modes_maximize_the_joint_density(name):
    """b and beta solve Henderson's equations: ``|y - X beta - Z b|_W^2 + |u|^2`` is smallest."""
    model = MODELS[name]
    theta = model.theta("interior")
    dense = model.dense(True)
    fit = dense.at(theta)
    ZL = dense.Z @ dense._lambda(theta)
    root = np.sqrt(dense.w)
    left = np.block(
        [
            [root[:, None] * dense.X, root[:, None] * ZL],
            [np.zeros((ZL.shape[1], dense.X.shape[1])), np.eye(ZL.shape[1])],
        ]
    )
    right = np.append(root * dense.y, np.zeros(ZL.shape[1]))
    solution, *_ = np.linalg.lstsq(left, right, rcond=None)
    p = dense.X.shape[1]
    size = max(1.0, np.abs(dense.y).max())
    np.testing.assert_allclose(fit.u, solution[p:], atol=1e-12 + 1e-14 * size)
    rss = np.sum((right - left @ solution) ** 2)
    assert fit.pwrss == pytest.approx(rss, rel=1e-9)
