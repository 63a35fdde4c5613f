"""Start values against analysis of variance."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from registry import MODELS, Model, block, design, term

from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.layout import Strategy
from sparselmm.factor.solver import BlockSolver
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.moments import moment_start


def start(one):
    return moment_start(CrossProducts.from_design(one), Covariance.of(one.terms))


@pytest.fixture(params=range(3))
def rng(request):
    return np.random.default_rng(request.param)


def test_one_way(rng):
    """``(MSA - MSE) / m`` for m rows per level."""
    a, m = 9, 5
    y = rng.normal(size=(a, 1)) + rng.normal(size=(a, m))
    mse = y.var(axis=1, ddof=1).mean()
    msa = m * y.mean(axis=1).var(ddof=1)
    found = start(design(y.ravel(), np.ones((a * m, 1)), term("a", np.repeat(np.arange(a), m))))
    np.testing.assert_allclose(found, [np.sqrt((msa - mse) / m / mse)], rtol=1e-10)


def test_nested(rng):
    """Classes within schools: the three mean squares of the nested table."""
    a, b, m = 8, 4, 3
    y = rng.normal(size=(a, 1, 1)) + rng.normal(size=(a, b, 1)) + rng.normal(size=(a, b, m))
    mse = y.var(axis=2, ddof=1).mean()
    msb = m * y.mean(axis=2).var(axis=1, ddof=1).mean()
    msa = b * m * y.mean(axis=(1, 2)).var(ddof=1)
    cells = np.repeat(np.arange(a * b), m)
    terms = term("class", cells), term("school", cells // b)
    found = start(design(y.ravel(), np.ones((a * b * m, 1)), *terms))
    expected = np.sqrt([(msb - mse) / m / mse, (msa - msb) / (b * m) / mse])
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_crossed(rng):
    """Two-way table without interaction."""
    a, b = 12, 9
    y = rng.normal(size=(a, 1)) + rng.normal(size=(1, b)) + rng.normal(size=(a, b))
    rows, cols = y.mean(axis=1), y.mean(axis=0)
    rest = y - rows[:, None] - cols + y.mean()
    mse = (rest**2).sum() / ((a - 1) * (b - 1))
    codes = np.indices((a, b)).reshape(2, -1)
    terms = term("rows", codes[0]), term("columns", codes[1])
    found = start(design(y.ravel(), np.ones((a * b, 1)), *terms))
    expected = np.sqrt([rows.var(ddof=1) / mse - 1 / b, cols.var(ddof=1) / mse - 1 / a])
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_balanced_slopes(rng):
    """Least squares by subject: covariance of the coefficients less their sampling covariance."""
    l, x = 60, np.arange(6.0)
    X = np.column_stack([np.ones(6), x])
    b = rng.normal(size=(l, 2)) * [1.5, 0.8]
    y = b @ X.T + rng.normal(size=(l, 6))
    per_subject = np.linalg.lstsq(X, y.T, rcond=None)[0]
    s2 = ((y.T - X @ per_subject) ** 2).sum() / (l * 4)
    psi = np.cov(per_subject) - s2 * np.linalg.inv(X.T @ X)
    rows = np.tile(X, (l, 1))
    found = start(design(y.ravel(), rows, term("subject", np.repeat(np.arange(l), 6), rows)))
    lam = np.zeros((2, 2))
    lam.T[np.triu_indices(2)] = found
    np.testing.assert_allclose(lam @ lam.T, psi / s2, rtol=1e-9, atol=1e-9)


def awkward():
    """Designs with nothing, or too much, between the levels."""
    rng = np.random.default_rng(2)
    n = 60
    g, one = np.arange(n) % 6, np.ones((n, 1))
    x = rng.normal(size=n)
    t, slope = term("g", g), term("g", g, np.column_stack([one[:, 0], x]))
    within = rng.normal(size=(10, 6))
    yield "equal_group_means", design((within - within.mean(axis=0)).ravel(), one, t)
    yield "noise_and_slope", design(rng.normal(size=n), one, slope)
    yield "no_residual", design(g + 0.0, one, t)
    yield "all_explained_by_x", design(rng.normal(size=n), np.eye(6)[g], t)
    yield "same_factor_twice", design(x + g, one, t, term("h", g))
    yield "one_level", design(x, one, term("g", 0 * g), t)
    yield "a_level_per_row", design(x, one, term("rows", np.arange(n)))
    yield "no_rows_in_any_level", design(x, one, term("g", 0 * g - 1, n_levels=3), t)
    yield "zero_block", design(x, one, block("zero", np.zeros((n, 4))), t)
    yield "constant_slope", design(x, one, term("g", g, np.ones((n, 2))))
    yield "tiny_response", design(1e-150 * (x + g), one, t)
    yield "huge_response", design(1e150 * (x + g), one, t)


AWKWARD = dict(awkward())


@pytest.mark.parametrize("name", [*MODELS, *AWKWARD])
def test_start_is_always_invertible(name):
    one = MODELS[name].design if name in MODELS else AWKWARD[name]
    theta = start(one)
    assert np.isfinite(theta).all()
    for lam in Covariance.of(one.terms).factors(theta):
        size = np.linalg.norm(lam, axis=1)
        assert (np.diag(lam) > 0.05 * size).all()


@pytest.mark.parametrize("name", MODELS)
def test_scale_of_the_response_does_not_matter(name):
    """Relative standard deviations have no unit."""
    one = MODELS[name].design
    offset = None if one.offset is None else 2.0**20 * one.offset
    scaled = design(2.0**20 * one.y, one.X, *one.terms, weights=one.weights, offset=offset)
    np.testing.assert_allclose(start(scaled), start(one), rtol=1e-10)


def test_start_is_close_enough_to_evaluate():
    for name, one in AWKWARD.items():
        if name in ("no_residual", "all_explained_by_x"):
            continue  # the likelihood itself is unbounded or flat
        assert np.isfinite(Model(one).sparse(True).value(start(one))), name


@pytest.mark.parametrize("structure", ["homogeneous autoregressive", "autoregressive", "diagonal"])
def test_many_coefficients_need_little_memory(structure):
    """Start, search and standard errors of a series of 60 times: no array of 60^4 numbers."""
    k, l = 60, 40
    rng = np.random.default_rng(0)
    rows = np.eye(k)[np.tile(np.arange(k), l)]
    one = replace(term("g", np.repeat(np.arange(l), k), rows), structure=structure)
    series = np.cumsum(rng.normal(size=(l, k)), axis=1).ravel() / 5 + rng.normal(size=k * l)
    cross = CrossProducts.from_design(design(series, np.ones((k * l, 1)), one))
    covariance = Covariance.of([one])
    tracemalloc.start()
    deviance = ProfiledDeviance(
        cross, covariance, BlockSolver(cross.pattern, Strategy(0, "dense")), reml=True
    )
    theta = moment_start(cross, covariance)
    gradient, hessian = deviance.tangent_model(theta)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000 < 8 * k**4
    step = 1e-5 * np.eye(len(theta))[-1]
    slope = (deviance.value(theta + step) - deviance.value(theta - step)) / 2e-5
    assert gradient[-1] == pytest.approx(slope, rel=1e-4, abs=1e-4)
    assert np.isfinite(hessian).all()
