"""The sparse engine against its dense twin, model by model and theta by theta.

Tolerances. Both engines lose digits where the problem is badly conditioned: solving with
``V = Var(y) / sigma^2`` loses a factor cond(V), about 1e8 when standard deviations are a thousand
times sigma, and a response of size m subtracts its mean with an error of m eps. ``rounding``
is that loss in units of sigma; the rest is 1e-10.
"""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from registry import MODELS, THETAS

import sparselmm
from sparselmm.base.cholesky import NotPositiveDefiniteError

EPS = np.finfo(float).eps

every_model = pytest.mark.parametrize("name", MODELS)
every_theta = pytest.mark.parametrize("kind", THETAS)
both = pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])


@cache
def engines(name, reml):
    return MODELS[name].sparse(reml), MODELS[name].dense(reml)


def textbook(dense, theta):
    """``Z Lambda``, V and the projection ``P = V^-1 - V^-1X(X'V^-1X)^-1X'V^-1``."""
    ZL = dense.Z @ dense._lambda(theta)
    V = np.diag(1.0 / dense.w) + ZL @ ZL.T
    VX = np.linalg.solve(V, dense.X)
    P = (
        np.linalg.inv(V) - VX @ np.linalg.solve(dense.X.T @ VX, VX.T)
        if VX.size
        else np.linalg.inv(V)
    )
    return ZL, V, P


def rounding(dense, theta):
    """Loss of digits in estimates, in units of their standard deviations."""
    cond = np.linalg.cond(textbook(dense, theta)[1])
    return 10.0 * EPS * (cond + np.abs(dense.y).max() / dense.at(theta).sigma * cond**0.5)


def per_unit(model, theta, g):
    """Change of the deviance when an entry of theta changes by its own size."""
    return g * np.maximum(model.unit_of_theta, np.abs(theta))


def central_differences(function, theta, size):
    """Derivative of a function of theta, seven-point rule: error (step / scale)^6."""
    out = []
    for i in range(len(theta)):
        h = np.zeros(len(theta))
        h[i] = 5e-3 * size[i]
        weights = {1: 45.0, 2: -9.0, 3: 1.0}
        out.append(
            sum(w * (function(theta + m * h) - function(theta - m * h)) for m, w in weights.items())
            / (60.0 * h[i])
        )
    return np.array(out)


@both
@every_theta
@every_model
def test_solution(name, kind, reml):
    sparse, dense = engines(name, reml)
    theta = MODELS[name].theta(kind)
    a, b = sparse.at(theta), dense.at(theta)
    loss = rounding(dense, theta)
    assert a.df == b.df
    assert a.deviance == sparse.value(theta)
    # log determinants and df log(pwrss) are absolute errors of at most n times the loss
    assert a.deviance == pytest.approx(b.deviance, rel=1e-10, abs=loss)
    assert a.ldL2 == pytest.approx(b.ldL2, rel=1e-10, abs=1e-10 + loss)
    assert a.ldRX2 == pytest.approx(b.ldRX2, rel=1e-10, abs=1e-10 + loss)
    assert a.pwrss == pytest.approx(b.pwrss, rel=1e-10 + loss)
    se = np.sqrt(np.diag(b.vcov_unscaled))
    np.testing.assert_allclose(
        a.beta, b.beta, rtol=0, atol=(1e-10 + loss) * (se * b.sigma).max(initial=0)
    )
    np.testing.assert_allclose(
        a.vcov_unscaled / np.outer(se, se), b.vcov_unscaled / np.outer(se, se), atol=1e-10 + loss
    )
    np.testing.assert_allclose(a.u, b.u, rtol=0, atol=(1e-10 + loss) * b.sigma)
    np.testing.assert_allclose(a.b, b.b, rtol=0, atol=(1e-10 + loss) * np.abs(b.b).max())


@both
@every_theta
@every_model
def test_gradient(name, kind, reml):
    model = MODELS[name]
    sparse, dense = engines(name, reml)
    theta = model.theta(kind)
    exact = per_unit(model, theta, dense.gradient(theta))
    size = np.maximum(model.unit_of_theta, np.abs(theta))
    numeric = per_unit(model, theta, central_differences(dense.value, theta, size))
    ours = per_unit(model, theta, sparse.gradient(theta))
    scale = max(1.0, np.abs(exact).max())
    np.testing.assert_allclose(exact, numeric, rtol=0, atol=1e-6 * scale)
    np.testing.assert_allclose(ours, numeric, rtol=0, atol=1e-6 * scale)
    atol = (1e-9 + rounding(dense, theta)) * scale
    np.testing.assert_allclose(ours, exact, rtol=0, atol=atol)


@both
@pytest.mark.parametrize("kind", ["interior", "random", "boundary"])
@every_model
def test_curvature(name, kind, reml):
    """Average information ``y'P V_i P V_j P y`` and the curvature of ``lambda lambda'``."""
    model = MODELS[name]
    sparse, dense = engines(name, reml)
    theta = model.theta(kind)
    ZL, V, P = textbook(dense, theta)
    M = P if reml else np.linalg.inv(V)
    Py = P @ dense.y
    scale, df = dense.at(theta).scale, dense.df
    F, psi = [], np.zeros((len(theta), len(theta)))
    start = 0
    for one, t, part in zip(
        dense.terms, model.covariance.terms, model.covariance.slices, strict=True
    ):
        Z = dense.Z[:, start : start + one.q].reshape(-1, one.n_levels, one.k)
        start += one.q
        # derivative of the deviance in Psi, one level after another
        G = sum(z.T @ M @ z - np.outer(z.T @ Py, z.T @ Py) / scale for z in np.moveaxis(Z, 1, 0))
        same = t.cols[:, None] == t.cols[None, :]
        psi[part, part] = np.where(same, 2.0 * G[np.ix_(t.rows, t.rows)], 0.0)
    for i in range(len(theta)):
        E = dense.Z @ dense._lambda(np.eye(len(theta))[i])
        F.append((E @ ZL.T + ZL @ E.T) @ Py)
    F = np.array(F)
    fy = F @ Py
    average = (F @ P @ F.T - np.outer(fy, fy) / (scale * df)) / scale
    size = np.outer(model.unit_of_theta, model.unit_of_theta)
    atol = (1e-9 + rounding(dense, theta)) * np.abs(average * size).max()
    inner = np.ix_(sparse.covariance.in_tangent, sparse.covariance.in_tangent)
    ours = sparse.average_information(sparse.state_at(theta))[inner]
    np.testing.assert_allclose(ours * size, average * size, rtol=0, atol=atol)
    if kind != "boundary":  # there the exact curvature of a singular term is left out
        atol += 1e-9 * np.abs(psi * size).max()
        newton = sparse.newton_matrix(theta)
        np.testing.assert_allclose(newton * size, (average + psi) * size, rtol=0, atol=atol)


@both
@every_model
def test_hessian(name, reml):
    model = MODELS[name]
    sparse, dense = engines(name, reml)
    theta, size = model.theta("interior"), model.unit_of_theta
    numeric = central_differences(dense.gradient, theta, size) * np.outer(size, size)
    ours = sparse.hessian(theta) * np.outer(size, size)
    np.testing.assert_array_equal(ours, ours.T)
    # Differences over a step of 1e-5 lose 1e-10 of truncation and eps / 1e-5 of rounding.
    np.testing.assert_allclose(ours, numeric, rtol=0, atol=1e-6 * np.abs(numeric).max())


@both
@every_model
def test_gradient_of_pwrss(name, reml):
    model = MODELS[name]
    sparse, dense = engines(name, reml)
    theta, size = model.theta("interior"), model.unit_of_theta
    numeric = central_differences(lambda t: dense.at(t).pwrss, theta, size) * size
    ours = sparse.pwrss_gradient(theta) * size
    np.testing.assert_allclose(ours, numeric, rtol=0, atol=1e-6 * np.abs(numeric).max())


@every_model
def test_fixed_effects_move_with_theta(name):
    model = MODELS[name]
    sparse, theta, size = engines(name, True)[0], model.theta("random"), model.unit_of_theta
    basis = sparse.cross.basis
    ours = basis.T @ sparse.gamma_slopes(theta) * size
    for j in range(basis.rank):
        numeric = central_differences(lambda t, j=j: sparse.at(t).beta[j], theta, size) * size
        np.testing.assert_allclose(ours[j], numeric, rtol=0, atol=1e-6 * np.abs(numeric).max())


@every_theta
@every_model
def test_conditional_covariances(name, kind):
    """``Var(b | y) / sigma^2 = Psi - Psi Z'V^-1 Z Psi`` with beta known."""
    model = MODELS[name]
    sparse, dense = engines(name, True)
    theta = model.theta(kind)
    Lam = dense._lambda(theta)
    ZL, V, _ = textbook(dense, theta)
    inner = np.eye(len(Lam)) - ZL.T @ np.linalg.solve(V, ZL)
    full = Lam @ inner @ Lam.T
    slices = sparse.cross.slices
    # 1 - h loses h / (1 - h) = (standard deviation / sigma)^2 digits, which cond(V) bounds
    tolerance = (1e-10 + rounding(dense, theta)) * max(np.abs(full).max(), EPS)
    np.testing.assert_allclose(
        sparse.conditional_columns(theta, np.eye(len(Lam))), full, rtol=0, atol=tolerance
    )
    for t, one in enumerate(dense.terms):
        blocks = sparse.conditional_blocks(theta, t)
        part = full[slices[t], slices[t]].reshape(one.n_levels, one.k, one.n_levels, one.k)
        expected = np.einsum("jajb->jab", part)
        np.testing.assert_allclose(blocks, expected, rtol=0, atol=tolerance)
        for s in range(t, len(dense.terms)):
            pair, other = sparse.cross.pairs[s, t], dense.terms[s]
            part = full[slices[s], slices[t]].reshape(other.n_levels, other.k, one.n_levels, one.k)
            blocks = sparse.conditional_cross_blocks(theta, s, t)
            expected = part[pair.rows, :, pair.cols, :]
            np.testing.assert_allclose(blocks, expected, rtol=0, atol=tolerance)


def test_evaluations_do_not_depend_on_what_was_asked_before():
    """The numeric factor is shared and overwritten: answers must not be those of another theta."""
    model = MODELS["crossed_three"]
    first, second = model.theta("interior"), model.theta("random")
    fresh, used = model.sparse(True), model.sparse(True)
    used.gradient(second)
    used.newton_matrix(first)
    used.value(second)
    assert used.value(first) == fresh.value(first)
    np.testing.assert_array_equal(used.gradient(first), fresh.gradient(first))
    changed = first.copy()
    used.value(changed)
    changed += 0.1  # the caller's array, not the engine's
    assert used.value(changed) == fresh.value(first + 0.1) != fresh.value(first)
    before = used.state_at(changed)
    used.gradient(changed), used.at(changed), used.newton_matrix(changed)
    assert used.state_at(changed) is before


def test_a_failed_evaluation_leaves_the_engine_usable():
    model = MODELS["crossed_three"]
    deviance, theta = model.sparse(True), model.theta("interior")
    good = deviance.value(theta)
    with pytest.raises(NotPositiveDefiniteError):
        deviance.value(theta * 1e30)
    assert deviance.value(theta) == good


@pytest.mark.parametrize("reml", [True, False])
def test_the_information_of_one_wide_term_at_a_singular_covariance(reml):
    """Level by level it is what the directions give."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": np.repeat(np.arange(30), 18), "t": np.tile(np.arange(9), 60)})
    data["x"], data["y"] = rng.normal(size=540), rng.normal(size=540) + rng.normal(size=30)[data.g]
    model = sparselmm.mixedlm("y ~ x + (0 + C(t) | g)", data)
    root = np.tril(rng.normal(size=(9, 9)))
    root[:, 4:] = 0.0
    deviance, theta = model.deviance(reml).working(model.deviance(reml).covariance.pick([root]))
    state = deviance.state_at(theta)
    assert deviance._lone_and_wide()
    found = deviance.average_information(state)
    deviance._lone_and_wide = lambda: False
    directions = deviance.average_information(state)
    np.testing.assert_allclose(found, directions, atol=1e-11 * np.abs(directions).max())
