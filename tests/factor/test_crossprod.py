"""Cross-products and the working basis against their definitions."""

import numpy as np
import pytest
import scipy.linalg as sla
from registry import MODELS, Model, design, term

from sparselmm.design import rows
from sparselmm.factor import crossprod
from sparselmm.factor.basis import working_basis
from sparselmm.factor.crossprod import CrossProducts

every_model = pytest.mark.parametrize("name", MODELS)


def weights(one):
    return np.ones(one.n) if one.weights is None else one.weights


@pytest.fixture(params=["scipy", "compiled"])
def path(request, monkeypatch):
    """Either way to form the products, in blocks of rows that do not divide n."""
    if request.param == "compiled":
        monkeypatch.setattr(crossprod, "SMALL_ROWS", 0)
    monkeypatch.setattr(rows, "BLOCK_ROWS", 17)
    return request.param


@every_model
def test_definitions(name, path):
    """``A = Z'WZ``, ``B = Z'W[Q e]``, ``C = [Q e]'W[Q e]`` for the basis that is returned."""
    one = MODELS[name].design
    cross = CrossProducts.from_design(one)
    Z, w = one.Z.toarray(), weights(one)
    y = one.y if one.offset is None else one.y - one.offset
    basis = cross.basis
    Qe = np.column_stack([one.X[:, basis.kept] @ basis.T, y - one.X[:, basis.kept] @ basis.shift])
    A = (Z.T * w) @ Z
    np.testing.assert_allclose(cross.A.toarray(), A, rtol=0, atol=1e-13 * np.abs(A).max())
    B = (Z.T * w) @ Qe
    # e itself has the rounding error of a response of this size
    noise = 1e-13 * np.abs(Z).max() * max(1.0, np.abs(y).max())
    np.testing.assert_allclose(cross.B, B, rtol=0, atol=noise * one.n)
    C = (Qe.T * w) @ Qe
    np.testing.assert_allclose(cross.C, C, rtol=1e-12, atol=1e-13 * max(1.0, np.abs(y).max()))
    assert cross.n == (w > 0).sum()
    assert cross.sum_log_w == pytest.approx(np.log(w[w > 0]).sum(), abs=1e-13)
    assert cross.q == Z.shape[1]


@every_model
def test_pairs(name, path):
    """Every block stands where it says, ascending, and the diagonal is complete."""
    one = MODELS[name].design
    cross, w = CrossProducts.from_design(one), weights(one)
    Z = [one.Z.toarray()[:, part] for part in cross.slices]
    for (s, t), pair in cross.pairs.items():
        (ks, ls), (kt, lt) = cross.sizes[s], cross.sizes[t]
        expected = ((Z[s].T * w) @ Z[t]).reshape(ls, ks, lt, kt)
        blocks = np.zeros_like(expected)
        blocks[pair.rows, :, pair.cols, :] = pair.data
        np.testing.assert_allclose(blocks, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
        key = pair.cols.astype(int) * ls + pair.rows
        assert (np.diff(key) > 0).all()
        if s == t:
            assert set(range(ls)) <= set(pair.rows[pair.rows == pair.cols].tolist())
        back = cross.pair(t, s)
        blocks = np.zeros((lt, kt, ls, ks))
        blocks[back.rows, :, back.cols, :] = back.data
        atol = 1e-13 * np.abs(expected).max()
        np.testing.assert_allclose(blocks.transpose(2, 3, 0, 1), expected, rtol=0, atol=atol)


@every_model
def test_both_paths_give_one_pattern(name, monkeypatch):
    """Which way was taken may change the last bit of a value, never what is stored."""
    scipy_path = CrossProducts.from_design(MODELS[name].design)
    monkeypatch.setattr(crossprod, "SMALL_ROWS", 0)
    compiled = CrossProducts.from_design(MODELS[name].design)
    for key, pair in scipy_path.pairs.items():
        other = compiled.pairs[key]
        np.testing.assert_array_equal(pair.indptr, other.indptr)
        np.testing.assert_array_equal(pair.rows, other.rows)
        np.testing.assert_allclose(pair.data, other.data, atol=1e-12 * np.abs(pair.data).max())
    np.testing.assert_array_equal(scipy_path.C, compiled.C)


# --------------------------------------------------------------------------- working basis


def basis_cases():
    rng = np.random.default_rng(8)
    n = 50
    one, x = np.ones(n), rng.normal(size=n)
    year = np.tile(np.arange(2000.0, 2025.0), 2)
    dummies = np.eye(4)[np.arange(n) % 4]
    yield "ordinary", np.column_stack([one, x]), [0, 1]
    yield "zero_column", np.column_stack([0 * x, x, 0 * x]), [1]
    yield "repeated", np.column_stack([x, one, x, one]), [0, 1]
    yield "dummy_trap", np.column_stack([one, dummies]), [0, 1, 2, 3]
    yield "dummies_first", np.column_stack([dummies, one, x]), [0, 1, 2, 3, 5]
    yield "tiny_unit", np.column_stack([one, 1e-12 * x]), [0, 1]
    yield "huge_unit", np.column_stack([one, 1e12 * x]), [0, 1]
    yield "years", np.column_stack([one, year, year**2]), [0, 1, 2]  # 1e-5 of year^2 is new
    yield "below_tolerance", np.column_stack([one, x, x + 2e-8 * rng.normal(size=n)]), [0, 1]
    yield "above_tolerance", np.column_stack([one, x, x + 1e-6 * rng.normal(size=n)]), [0, 1, 2]
    yield "more_columns_than_rows", rng.normal(size=(5, 9)), [0, 1, 2, 3, 4]


CASES = {name: (X, kept) for name, X, kept in basis_cases()}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_working_basis(case, weighted, path):
    """Columns are kept from the left, Q is orthonormal, T maps X to it, y loses its fit."""
    X, kept = CASES[case]
    rng = np.random.default_rng(4)
    w = rng.uniform(0.1, 5.0, len(X)) if weighted else None
    y = rng.normal(size=len(X))
    basis = working_basis(X, y, w)
    assert basis.kept.tolist() == kept
    assert (basis.p, basis.rank) == (X.shape[1], len(kept))
    root = np.ones(len(X)) if w is None else np.sqrt(w)
    W_X = root[:, None] * X[:, kept]
    size = np.linalg.norm(W_X, axis=0)
    cond = np.linalg.cond(W_X / size)
    assert cond < 1e8
    Q = W_X @ basis.T
    # From the Gram matrix cond^2 eps with cond < 1e3, from QR cond eps: below 1e-8 either way.
    np.testing.assert_allclose(
        Q.T @ Q, np.eye(len(kept)), atol=1e-15 * min(cond, 1e3) ** 2 + 1e-15 * cond
    )
    np.testing.assert_array_equal(basis.T, np.triu(basis.T))
    expected = -2.0 * np.log(np.abs(np.diag(sla.qr(W_X, mode="r")[0]))).sum()
    assert basis.logdet == pytest.approx(expected, rel=1e-9, abs=1e-9)
    residual = root * y - W_X @ basis.shift
    np.testing.assert_allclose((W_X / size).T @ residual, 0.0, atol=1e-14 * cond)


def test_rank_is_numpys():
    """Where nothing is borderline the number kept is the rank numpy's SVD sees."""
    rng = np.random.default_rng(6)
    for rank in range(1, 7):
        X = rng.normal(size=(30, rank)) @ rng.normal(size=(rank, 6))
        basis = working_basis(X, rng.normal(size=30), None)
        assert basis.kept.tolist() == list(range(np.linalg.matrix_rank(X)))


def test_rows_of_weight_zero_do_not_make_a_column_independent():
    x = np.array([1.0, 1, 1, 1, 5])
    X = np.column_stack([np.ones(5), x])
    basis = working_basis(X, np.arange(5.0), np.array([1.0, 1, 1, 1, 0]))
    assert basis.kept.tolist() == [0]


@pytest.mark.parametrize("degree", [1, 2])
def test_centre_of_the_data_costs_no_digits(degree):
    """Mean 1e8 and standard deviation 1, with years and their squares as covariates.

    The dense twin gets the same model on centred data: powers of year are powers of t = year -
    2010 times a triangular matrix of determinant one, so that not even the REML criterion
    changes, and adding a constant to y changes the intercept only.
    """
    rng = np.random.default_rng(12)
    n = 120
    year = 2000.0 + np.arange(n) % 21
    g = rng.integers(0, 10, n)
    noise = np.round(rng.normal(size=n) + rng.normal(size=10)[g], 6)
    t = year - 2010.0
    y = 1e8 + noise  # exact to 1e-8, the distance between numbers of this size
    far = design(y, np.vander(year, degree + 1, increasing=True), term("g", g))
    near = design(y - 1e8, np.vander(t, degree + 1, increasing=True), term("g", g))
    for reml in (True, False):
        sparse = Model(far).sparse(reml)
        dense = Model(near).dense(reml)
        for theta in ([0.0], [0.5], [2.0]):
            expected = dense.value(np.array(theta))
            assert sparse.value(np.array(theta)) == pytest.approx(expected, rel=1e-8)
