"""The map between theta and Lambda."""

import numpy as np
import pytest
from registry import MODELS

from sparselmm.likelihood.covariance import Covariance, term_covariance
from sparselmm.likelihood.term_covariance import across_rotations

SHAPES = [(1, "unstructured"), (2, "unstructured"), (4, "unstructured"), (3, "diagonal")]
covariance = Covariance(tuple(term_covariance(k, structure) for k, structure in SHAPES))
thetas = [np.random.default_rng(seed).normal(size=covariance.n_theta) for seed in range(5)]
every_theta = pytest.mark.parametrize("theta", thetas, ids=range(5))


def test_entries_stand_column_by_column():
    """The order of Bates et al. (2015): down the first column, then the second."""
    assert covariance.n_theta == 1 + 3 + 10 + 3
    lams = covariance.factors(np.arange(1.0, 18.0))
    np.testing.assert_array_equal(lams[1], [[2, 0], [3, 4]])
    np.testing.assert_array_equal(
        lams[2], [[5, 0, 0, 0], [6, 9, 0, 0], [7, 10, 12, 0], [8, 11, 13, 14]]
    )
    np.testing.assert_array_equal(lams[3], np.diag([15, 16, 17]))
    np.testing.assert_array_equal(
        np.flatnonzero(covariance.on_diagonal), [0, 1, 3, 4, 8, 11, 13, 14, 15, 16]
    )


@every_theta
def test_pick_reads_what_factors_wrote(theta):
    np.testing.assert_array_equal(covariance.pick(covariance.factors(theta)), theta)
    full = [lam + np.triu(np.ones_like(lam), 1) for lam in covariance.factors(theta)]
    np.testing.assert_array_equal(covariance.pick(full), theta)


@every_theta
def test_rectify(theta):
    rectified = covariance.rectify(theta)
    assert (rectified[covariance.on_diagonal] >= 0).all()
    np.testing.assert_array_equal(np.abs(rectified), np.abs(theta))
    for one, other in zip(covariance.psi(theta, 2.5), covariance.psi(rectified, 2.5), strict=True):
        np.testing.assert_array_equal(one, other)  # products change sign twice: no rounding
    np.testing.assert_array_equal(covariance.rectify(rectified), rectified)
    assert not np.signbit(covariance.rectify(np.full(covariance.n_theta, -0.0))).any()


@pytest.mark.parametrize("name", ["crossed_three", "diagonal", "cubic"])
def test_rectified_theta_has_the_same_deviance(name):
    model = MODELS[name]
    theta = -np.abs(model.theta("random"))
    deviance = model.sparse(True)
    value, b = deviance.value(theta), deviance.at(theta).b
    rectified = model.covariance.rectify(theta)
    assert not np.array_equal(rectified, theta)
    assert deviance.value(rectified) == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(deviance.at(rectified).b, b, atol=1e-12 * np.abs(b).max())


@pytest.mark.parametrize("rank", [0, 1, 2, 3, 4])
def test_across_rotations(rank):
    """An orthonormal basis of all X with ``lam'X`` symmetric, the complement of ``lam K``."""
    rng = np.random.default_rng(rank)
    lam = rng.normal(size=(4, rank)) @ rng.normal(size=(rank, 4))
    basis = across_rotations(lam)
    flat = basis.reshape(len(basis), -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(len(basis)), atol=1e-13)
    lost = 4 - rank
    assert len(basis) == 10 + lost * (lost - 1) // 2
    turned = lam.T @ basis
    np.testing.assert_allclose(turned, turned.transpose(0, 2, 1), atol=1e-13 * 10)


def test_no_terms():
    empty = Covariance(())
    assert empty.n_theta == 0
    assert empty.rectify(np.zeros(0)).shape == empty.pick([]).shape == (0,)
    assert empty.on_diagonal.shape == (0,)
