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


ODD = [0.0, -0.0, 1.0, -1.0, 1e-300, 1e200, 3.0, 1e-8]


def pairs():
    """Symmetric matrices of order two: of every size, with zeros, equal and tiny entries."""
    rng = np.random.default_rng(0)
    for a, b, c in rng.normal(size=(300, 3)) * 10.0 ** rng.integers(-12, 12, (300, 3)):
        yield a, b, c
    for a in ODD:
        for b in ODD:
            yield a, b, a
            yield a, 0.0, b
            yield 0.0, a, b


def test_eigenvalues_of_order_two():
    for a, b, c in pairs():
        H = np.array([[a, np.nan], [b, c]])  # what is above the diagonal is not read
        values, vectors = smallmatrix.eigen(H)
        size = max(abs(a), abs(b), abs(c))
        H[0, 1] = b
        assert values[0] <= values[1]
        np.testing.assert_allclose(values, np.linalg.eigvalsh(H), rtol=0, atol=4e-16 * size)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(2), atol=4e-16)
        scaled = H / (size or 1.0)
        np.testing.assert_allclose(
            scaled @ vectors, vectors * (values / (size or 1.0)), rtol=0, atol=1e-15
        )


def test_singular_values_of_order_two():
    rng = np.random.default_rng(1)
    matrices = [
        *(rng.normal(size=(300, 2, 2)) * 10.0 ** rng.integers(-9, 9, (300, 2, 2))),
        np.zeros((2, 2)), np.eye(2), -np.eye(2), np.array([[0.0, 1.0], [0.0, 0.0]]),
        np.array([[1.0, 1.0], [1.0, 1.0]]), np.array([[3.0, -4.0], [4.0, 3.0]]),
    ]  # fmt: skip
    for x in matrices:
        found, wanted = smallmatrix.singular_values(x), np.linalg.svd(x, compute_uv=False)
        assert found[0] >= found[1] >= 0.0
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-15 * wanted[0])
