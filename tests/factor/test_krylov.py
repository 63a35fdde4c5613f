"""Conjugate gradients against a factorization: solves, traces, log determinants, their errors."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from support.krylov_cases import CASES
from support.registry import MODELS

from sparselmm.base import kernels_krylov as kernels
from sparselmm.base.exceptions import ArgumentError
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.krylov.iterations import conjugate_gradients, log_forms
from sparselmm.factor.krylov.operator import ScaledComplement
from sparselmm.factor.krylov.second_order import exact_terms, refined
from sparselmm.factor.krylov.second_order import seconds as second_order_seconds
from sparselmm.factor.krylov.solver import KrylovSolver, Settings
from sparselmm.factor.layout import Strategy
from sparselmm.factor.solver import BlockSolver, apply_blocks
from sparselmm.model.mixedlm import MixedLM

SEVERAL = [name for name, model in MODELS.items() if len(model.design.terms) > 1]
"""Models of the registry with something behind a leading term."""


def pair(name, kind, settings=None):
    """An exact solver and one by conjugate gradients at the same theta, and ``lambda_t``."""
    model = MODELS[name]
    cross = CrossProducts.from_design(model.design)
    lams = model.covariance.factors(model.theta(kind))
    exact = BlockSolver(cross.pattern, Strategy(None, "dense"))
    return cross, lams, exact, KrylovSolver(cross.pattern, settings)


@pytest.mark.parametrize("kind", ["interior", "random", "boundary", "zero", "near"])
@pytest.mark.parametrize("name", SEVERAL)
def test_small_terms_are_exact(name, kind):
    cross, lams, exact, own = pair(name, kind)
    logdet = exact.factorize(lams, cross.values)
    own.factorize(lams, cross.values)
    assert not own.big
    for left, right in zip(own.project(lams, cross.B), exact.project(lams, cross.B), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-8 * np.abs(right).max())
    value, each = own.log_determinant()
    assert len(each) == 0
    assert value == pytest.approx(logdet, rel=1e-6, abs=1e-6)
    for t in range(len(cross.sizes)):
        blocks = exact.inverse_blocks(t)
        np.testing.assert_allclose(own.inverse_sum(t), blocks.sum(axis=0), atol=2e-4)
        np.testing.assert_allclose(own.inverse_blocks(t), blocks, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in SEVERAL])
def test_a_lone_term_is_refused(name):
    cross = CrossProducts.from_design(MODELS[name].design)
    with pytest.raises(ArgumentError, match="two or more random-effects terms"):
        KrylovSolver(cross.pattern)


def made(case):
    """Exact and estimating solvers of one of the larger designs, and an ordinary theta."""
    make, formula, keywords = CASES[case]
    model = MixedLM.from_formula(formula, make(), **keywords)
    theta = np.where(model.covariance.on_diagonal, 0.6, 0.1)
    return model.cross, model.covariance.factors(theta)


@pytest.mark.parametrize("case", CASES)
def test_solves_are_exact(case):
    cross, lams = made(case)
    exact, own = BlockSolver(cross.pattern, Strategy(None, "dense")), KrylovSolver(cross.pattern)
    exact.factorize(lams, cross.values)
    own.factorize(lams, cross.values)
    K, S = exact.project(lams, cross.B)
    for _ in range(2):  # cold, then from the last solution
        near, own_S = own.project(lams, cross.B)
        np.testing.assert_allclose(near, K, atol=1e-8 * np.abs(K).max())
        np.testing.assert_allclose(own_S, S, atol=1e-12 * np.abs(S).max())


def of_traces(own, traced, exact):
    """Estimated less exact traces over their stated errors, and these."""
    n, ratios, stated = own.settings.probes, [], []
    for t in range(len(own.pattern.sizes)):
        each = np.einsum("mii->m", traced.each[t])
        wrong = float(np.trace(own.sum_of(traced, t) - exact.inverse_sum(t)))
        var = sum(each[own.group == g].var(ddof=1) / n for g in range(own.n_groups))
        if t in own.big or t == own.crossing.leading:
            ratios.append(wrong / np.sqrt(var))
            stated.append(np.sqrt(var))
    return ratios, np.array(stated)


def errors(cross, lams, exact, settings):
    """Estimated less exact traces and log determinant, each over its stated error."""
    own = KrylovSolver(cross.pattern, settings)
    own.factorize(lams, cross.values)
    n = settings.probes
    out = of_traces(own, own.traced(), exact)[0]
    value, each = own.log_determinant()
    var = sum(each[own.group == g].var(ddof=1) / n for g in range(own.n_groups))
    wrong = value + each.sum() / n - exact.factorize(lams, cross.values)
    return [*out, wrong / np.sqrt(var)]


@pytest.mark.parametrize("case", ["scalar", "slopes", "three"])
def test_errors_are_within_what_is_stated(case):
    cross, lams = made(case)
    exact = BlockSolver(cross.pattern, Strategy(None, "dense"))
    exact.factorize(lams, cross.values)
    z = errors(cross, lams, exact, Settings(probes=32))
    assert np.abs(z).max() < 4.5  # of t with 31 degrees of freedom, some numbers


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_stated_errors_are_honest(case):
    """Over 50 seeds they look like t with 15 degrees of freedom, whose deviation is 1.07."""
    cross, lams = made(case)
    exact = BlockSolver(cross.pattern, Strategy(None, "dense"))
    exact.factorize(lams, cross.values)
    z = np.array([errors(cross, lams, exact, Settings(seed=seed)) for seed in range(50)])
    spread, centre = z.std(axis=0), z.mean(axis=0)
    assert (spread < 1.5).all()
    assert (spread > 0.7).all()
    assert (np.abs(centre) < 4.0 * spread / np.sqrt(50)).all()


@pytest.mark.parametrize("case", CASES)
def test_second_order_leaves_less_to_the_probes(case):
    """And what is stated of the rest is honest, over ten seeds."""
    cross, lams = made(case)
    exact = BlockSolver(cross.pattern, Strategy(None, "dense"))
    exact.factorize(lams, cross.values)
    ratios, gains = [], []
    for seed in range(10):
        own = KrylovSolver(cross.pattern, Settings(seed=seed))
        own.factorize(lams, cross.values)
        z, fine = of_traces(own, refined(own), exact)
        ratios.append(z)
        gains.append(of_traces(own, own.traced(), exact)[1] / fine)
    assert (np.median(gains, axis=0) > 2.0).all()
    assert 0.5 < np.std(ratios) < 1.6
    assert np.abs(ratios).max() < 5.0


def test_second_order_terms_against_dense_products():
    cross, lams = made("slopes")
    own = KrylovSolver(cross.pattern)
    own.factorize(lams, cross.values)
    scaled, sizes = own.scaled, cross.sizes
    (t,) = own.crossing.trailing
    k, l = sizes[t]
    E = scaled.E(np.eye(k * l))
    squares, crossed, products = exact_terms(scaled)
    want = np.einsum("jcjd->jcd", (E @ E).reshape(l, k, l, k))
    np.testing.assert_allclose(squares[t], want, atol=1e-12)
    F = apply_blocks(scaled.R, scaled.up(np.eye(k * l)), transpose=True)
    np.testing.assert_allclose(crossed, np.einsum("laj,jm,lbm->ab", F, E, F, optimize=True))
    want = np.einsum("lajc,lbjd->jcdab", *[F.reshape(*F.shape[:2], l, k)] * 2)
    np.testing.assert_allclose(products[t], want, atol=1e-12)


def test_no_second_order_of_a_coupling_stored_with_its_zeros():
    cross, _ = made("scalar")
    crossing = KrylovSolver(cross.pattern).crossing
    assert 0.0 < second_order_seconds(crossing, 1) < np.inf
    assert second_order_seconds(replace(crossing, full=True), 1) == np.inf


def test_more_probes_keep_the_first():
    cross, lams = made("scalar")
    few, many = KrylovSolver(cross.pattern), KrylovSolver(cross.pattern, Settings(probes=32))
    few.factorize(lams, cross.values)
    many.factorize(lams, cross.values)
    t = few.big[0]
    np.testing.assert_allclose(
        many.traced().each[t][:16],
        few.traced().each[t],
        atol=1e-6 * np.abs(few.traced().each[t]).max(),
    )


def test_log_forms_are_exact_after_all_iterations():
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    values = rng.uniform(-0.7, 0.9, 12)
    E, B = (Q * values) @ Q.T, rng.normal(size=(12, 3))
    found = conjugate_gradients(lambda v: E @ v, B, 1e-12)
    log = (Q * np.log1p(-values)) @ Q.T
    np.testing.assert_allclose(log_forms(found, B), np.einsum("ij,ik,kj->j", B, log, B), rtol=1e-8)
    np.testing.assert_allclose(found.X, np.linalg.solve(np.eye(12) - E, B), atol=1e-10)
    np.testing.assert_allclose(found.product, E @ B, atol=1e-12)


@pytest.mark.parametrize("full", [False, True])
def test_kernels_against_dense_products(full):
    """Every compiled loop, through the operator it makes, against the textbook's matrices."""
    cross, lams = made("slopes" if not full else "three")
    own = KrylovSolver(cross.pattern)
    scaled = ScaledComplement.of(cross.pattern, own.crossing, lams, cross.values)
    M = np.zeros((cross.q, cross.q))
    A, L = cross.A.toarray(), np.zeros((cross.q, cross.q))
    for lam, part, (_, l) in zip(lams, cross.slices, cross.sizes, strict=True):
        L[part, part] = np.kron(np.eye(l), lam)
    M = L.T @ A @ L + np.eye(cross.q)
    lead = cross.slices[own.crossing.leading]
    rest = np.concatenate([np.arange(cross.q)[cross.slices[t]] for t in own.crossing.trailing])
    S = M[np.ix_(rest, rest)] - M[rest, lead] @ np.linalg.solve(M[lead, lead], M[lead][:, rest])
    v = np.random.default_rng(1).normal(size=(len(rest), 37))
    want = v - scaled.scale(S @ scaled.scale(v, True), False)
    np.testing.assert_allclose(scaled.E(v), want, atol=1e-10)
    np.testing.assert_allclose(scaled.unscale(scaled.scale(v, False), False), v, atol=1e-12)
    F = np.random.default_rng(2).normal(size=scaled.up(v).shape)
    np.testing.assert_allclose(np.vdot(scaled.up(v), F), np.vdot(v, scaled.down(F)), rtol=1e-10)


def test_level_grams():
    rng = np.random.default_rng(3)
    indptr, Y = np.array([0, 3, 3, 7]), rng.normal(size=(7, 2))
    out = np.empty((3, 2, 2))
    kernels.level_grams(indptr, Y, out)
    want = [Y[a:b].T @ Y[a:b] for a, b in pairwise(indptr)]
    np.testing.assert_allclose(out, want, atol=1e-14)
