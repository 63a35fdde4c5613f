"""Small dense matrices against `scipy.linalg`."""

import numpy as np
import pytest
import scipy.linalg as sla

from sparselmm.base import smallmatrix

rng = np.random.default_rng(1)


def test_kron_and_block_diagonal():
    a, b, none = rng.normal(size=(2, 3)), rng.normal(size=(4, 1)), np.zeros((0, 2))
    np.testing.assert_array_equal(smallmatrix.kron(a, b), np.kron(a, b))
    for blocks in ([a], [a, b], [a, none, b]):
        np.testing.assert_array_equal(smallmatrix.block_diagonal(blocks), sla.block_diag(*blocks))
    assert smallmatrix.block_diagonal([]).shape == (0, 0)


@pytest.mark.parametrize("columns", [(), (3,), (0,)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("n", [0, 1, 4])
def test_solve_triangular(n, lower, transposed, columns):
    R = rng.normal(size=(n, n)) + 3.0 * np.eye(n)
    x = rng.normal(size=(n, *columns))
    kept = (np.tril if lower else np.triu)(R)
    expected = np.linalg.inv(kept.T if transposed else kept) @ x
    ours = smallmatrix.solve_triangular(R, x, lower=lower, transposed=transposed)
    assert ours.shape == x.shape
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


def test_a_singular_triangle_is_refused():
    with pytest.raises(np.linalg.LinAlgError, match="entry 2 is zero"):
        smallmatrix.upper_inverse(np.diag([1.0, 0.0, 2.0]))


@pytest.mark.parametrize("in_cache", [1, 10**6])
def test_level_products(in_cache, monkeypatch):
    monkeypatch.setattr(smallmatrix, "IN_CACHE", in_cache)
    x, F = rng.normal(size=(7, 3, 4)), rng.normal(size=(4, 2))
    expected = sum(one @ F @ F.T @ one.T for one in x)
    ours = smallmatrix.level_products(x.reshape(21, 4), F, 3)
    np.testing.assert_allclose(ours, expected, rtol=1e-13)
