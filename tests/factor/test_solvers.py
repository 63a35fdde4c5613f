"""Every way to factor M against LAPACK on all of it."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from registry import MODELS

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.factor import coupling
from sparselmm.factor import solver as solvers
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.factorization import Factorization
from sparselmm.factor.krylov.solver import KrylovSolver
from sparselmm.factor.krylov.tiles import TiledSolver
from sparselmm.factor.layout import Strategy
from sparselmm.factor.solver import BlockSolver

THETAS = ("interior", "random", "boundary", "zero", "near")
CASES = [
    pytest.param(name, strategy, id=f"{name}-{strategy.leading}-{strategy.remainder}"
                 f"-{strategy.ordering}-{strategy.mode}")
    for name, model in MODELS.items()
    for strategy in model.strategies()[1:]
]  # fmt: skip
every_strategy = pytest.mark.parametrize(("name", "strategy"), CASES)


def lapack(model, theta):
    """``Lambda'A Lambda + I`` and its inverse from the rows."""
    design = model.design
    w = np.ones(design.n) if design.weights is None else design.weights
    Z = design.Z.toarray()
    factors = model.covariance.factors(theta)
    q = sum(t.q for t in design.terms)
    Lam, at = np.zeros((q, q)), 0
    for one, lam in zip(design.terms, factors, strict=True):
        Lam[at : at + one.q, at : at + one.q] = np.kron(np.eye(one.n_levels), lam)
        at += one.q
    return Lam.T @ (Z.T * w) @ Z @ Lam + np.eye(q)


@pytest.mark.parametrize("full_from", [0.0, np.inf], ids=["full", "lists"])
@every_strategy
def test_against_a_dense_inverse(name, strategy, full_from, monkeypatch):
    """log det, solve and the inverse on the pattern of A, one theta after another."""
    monkeypatch.setattr(coupling, "FULL_FROM", full_from)
    monkeypatch.setattr(solvers, "FEW_LEVELS", 0 if full_from else 500)
    model = MODELS[name]
    cross = CrossProducts.from_design(model.design)
    solver = BlockSolver(cross.pattern, strategy)
    rng = np.random.default_rng(5)
    for kind in THETAS:
        M = lapack(model, model.theta(kind))
        G, tolerance = np.linalg.inv(M), 1e-13 * np.linalg.cond(M)
        logdet = solver.factorize(model.covariance.factors(model.theta(kind)), cross.values)
        assert logdet == pytest.approx(np.linalg.slogdet(M).logabsdet, rel=1e-12, abs=1e-12)
        rhs = rng.normal(size=(len(M), 3))
        kept = rhs.copy()
        np.testing.assert_allclose(solver.solve(rhs), G @ rhs, rtol=0, atol=tolerance)
        np.testing.assert_array_equal(rhs, kept)  # the caller's right-hand side is left alone
        for t, (k, l) in enumerate(cross.sizes):
            part = G[cross.slices[t], cross.slices[t]].reshape(l, k, l, k)
            expected = np.einsum("jajb->jab", part)
            np.testing.assert_allclose(solver.inverse_blocks(t), expected, rtol=0, atol=tolerance)
            for s in range(t, len(cross.sizes)):
                ks, ls = cross.sizes[s]
                pair = cross.pairs[s, t]
                part = G[cross.slices[s], cross.slices[t]].reshape(ls, ks, l, k)
                expected = part[pair.rows, :, pair.cols, :]
                blocks = solver.inverse_on_pattern((s, t))
                np.testing.assert_allclose(blocks, expected, rtol=0, atol=tolerance)
        # solving and inverting again gives the same bits: nothing was overwritten
        again = solver.solve(rhs)
        np.testing.assert_array_equal(again, solver.solve(rhs))


@pytest.mark.parametrize("many", [0, 10**9], ids=["one pass", "arrays"])
@every_strategy
def test_projection(name, strategy, many, monkeypatch):
    """``K = M^-1 Lambda'B`` and ``B'Lambda K`` in one pass over the levels and by products."""
    monkeypatch.setattr(solvers, "MANY_LEVELS", many)
    model = MODELS[name]
    cross = CrossProducts.from_design(model.design)
    solver = BlockSolver(cross.pattern, strategy)
    for kind in THETAS:
        lams = model.covariance.factors(model.theta(kind))
        M, right = lapack(model, model.theta(kind)), solvers.apply_lambda(cross, lams, cross.B)
        expected = np.linalg.solve(M, right)
        solver.factorize(lams, cross.values)
        K, product = solver.project(lams, cross.B)
        atol = 1e-13 * np.linalg.cond(M) * np.abs(expected).max()
        np.testing.assert_allclose(K, expected, rtol=0, atol=atol)
        atol *= np.abs(right).sum()
        np.testing.assert_allclose(product, right.T @ expected, rtol=0, atol=atol)


@every_strategy
def test_same_deviance_and_gradient(name, strategy):
    model = MODELS[name]
    for reml in (True, False):
        one, other = model.sparse(reml), model.sparse(reml, strategy)
        for kind in THETAS:
            theta = model.theta(kind)
            assert other.value(theta) == pytest.approx(one.value(theta), rel=1e-12)
            expected = one.gradient(theta) * model.unit_of_theta
            gradient = other.gradient(theta) * model.unit_of_theta
            scale = max(1.0, np.abs(expected).max())
            np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-9 * scale)


@pytest.mark.parametrize("strategy", MODELS["crossed_three"].strategies(), ids=str)
def test_too_large_a_theta_is_an_error_not_a_number(strategy):
    model = MODELS["crossed_three"]
    cross = CrossProducts.from_design(model.design)
    solver = BlockSolver(cross.pattern, strategy)
    interior = model.covariance.factors(model.theta("interior"))
    good = solver.factorize(interior, cross.values)
    with pytest.raises(NotPositiveDefiniteError):
        solver.factorize(model.covariance.factors(model.theta("interior") * 1e30), cross.values)
    assert solver.factorize(interior, cross.values) == good


@pytest.mark.parametrize("strategy", MODELS["crossed_three"].strategies(), ids=str)
def test_other_values_on_the_same_pattern(strategy):
    """A is an argument: nothing of the blocks given before is left."""
    model = MODELS["crossed_three"]
    cross, lams = (
        CrossProducts.from_design(model.design),
        model.covariance.factors(model.theta("random")),
    )
    other = {pair: 1.7 * data for pair, data in cross.values.items()}
    used, fresh = BlockSolver(cross.pattern, strategy), BlockSolver(cross.pattern, strategy)
    first = used.factorize(lams, cross.values)
    assert used.factorize(lams, other) == fresh.factorize(lams, other) != first
    rhs = np.random.default_rng(0).normal(size=(cross.q, 2))
    np.testing.assert_array_equal(used.solve(rhs), fresh.solve(rhs))
    assert used.factorize(lams, cross.values) == first


def test_every_solver_is_a_factorization(tmp_path):
    cross = CrossProducts.from_design(MODELS["crossed_three"].design)
    probing = KrylovSolver(cross.pattern)
    solvers = [BlockSolver(cross.pattern, Strategy(None, "dense")), probing]
    solvers.append(TiledSolver(probing, str(tmp_path), 1e6))
    assert [solver.exact for solver in solvers] == [True, False, True]
    for solver in solvers:
        assert isinstance(solver, Factorization)
        assert type(solver.twin()) is type(solver.like(cross.pattern)) is type(solver)


def test_pickled_as_its_recipe():
    model = MODELS["crossed"]
    lams = model.covariance.factors(model.theta("random"))
    cross = CrossProducts.from_design(model.design)
    solver = BlockSolver(cross.pattern, Strategy(1, "sparse", "amd", "simplicial"))
    logdet = solver.factorize(lams, cross.values)
    copy = pickle.loads(pickle.dumps(solver))
    assert vars(copy.strategy) == vars(solver.strategy)
    assert copy.factorize(lams, cross.values) == logdet


@pytest.mark.parametrize("k", [2, 3, 8, 9, 40])
def test_blocks_of_any_order(k):
    """Products with blocks, their factors and their inverses: small, wide, many."""
    rng = np.random.default_rng(k)
    x, left, right = rng.normal(size=(7, k, k)), rng.normal(size=(k, k)), rng.normal(size=(k, k))
    np.testing.assert_allclose(solvers.congruence(x, left, right), left.T @ x @ right, rtol=1e-9)
    D = x @ x.transpose(0, 2, 1) + k * np.eye(k)
    R, logdet = solvers.inverse_factors(D)
    np.testing.assert_allclose(
        R @ D @ R.transpose(0, 2, 1), np.tile(np.eye(k), (7, 1, 1)), atol=1e-9
    )
    assert logdet == pytest.approx(np.linalg.slogdet(D)[1].sum(), rel=1e-12)
    D[3] = -D[3]
    assert np.isnan(solvers.inverse_factors(D)[1])


@every_strategy
def test_products_of_sparse_rows(name, strategy):
    """``H M^-1 H'`` by elimination, in batches smaller than the rows."""
    model = MODELS[name]
    deviance = model.sparse(True, strategy)
    deviance.value(model.theta("interior"))
    rng = np.random.default_rng(0)
    H = sp.random(6, deviance.cross.q, 0.2, format="csr", random_state=rng)
    expected = H @ deviance.solver.solve(H.toarray().T.copy())
    found = deviance.solver.bilinear_forms(H, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
