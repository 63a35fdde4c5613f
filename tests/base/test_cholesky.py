"""Factorization, solve and selected inverse against dense linear algebra."""

import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from registry import Model, design, term

from sparselmm.base.cholesky import CholeskyFactor, NotPositiveDefiniteError, Pattern
from sparselmm.base.providers import provider, silence
from sparselmm.factor.candidates import _analysed
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.layout import Layout
from sparselmm.factor.solver import BlockSolver

ALL_ORDERINGS = provider().name == "scikit-sparse"
ORDERINGS = ("amd", "metis", "nesdis", "natural") if ALL_ORDERINGS else ("amd", "natural")
MODES = ("simplicial", "supernodal")


def shapes():
    """Strict lower triangles as (rows, columns, order)."""
    rng = np.random.default_rng(11)
    none = np.zeros(0, dtype=int)
    yield "single", none, none, 1
    yield "diagonal", none, none, 7
    n = 40
    yield "arrow_last", np.full(n - 1, n - 1), np.arange(n - 1), n
    yield "arrow_first", np.arange(1, n), np.zeros(n - 1, dtype=int), n
    rows, cols = np.nonzero(
        np.tril(np.ones((n, n)), -1) * (np.subtract.outer(range(n), range(n)) < 4)
    )
    yield "banded", rows, cols, n
    rows, cols = np.nonzero(np.tril(np.kron(np.eye(8), np.ones((5, 5))), -1))
    yield "block_diagonal", rows, cols, 40
    rows, cols = np.nonzero(np.tril(np.ones((130, 130)), -1))
    yield "full", rows, cols, 130  # wider than one supernode of the selected inverse
    for density in (0.02, 0.1, 0.4):
        rows, cols = np.nonzero(np.tril(rng.uniform(size=(60, 60)) < density, -1))
        yield f"random_{density}", rows, cols, 60


SHAPES = {name: (rows, cols, n) for name, rows, cols, n in shapes()}
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_way = pytest.mark.parametrize(
    ("ordering", "mode"), [(ordering, mode) for ordering in ORDERINGS for mode in MODES]
)


def positive_definite(pattern, rng, zeros=0.0):
    """Values on the pattern, a share of those off the diagonal zero, and the dense matrix."""
    data = rng.normal(size=pattern.nnz) * (rng.uniform(size=pattern.nnz) >= zeros)
    diagonal = pattern.indptr[:-1]
    data[diagonal] = 0.0
    low = pattern.matrix(data).toarray()
    M = low + low.T
    size = np.abs(M).sum(axis=1) + rng.uniform(0.1, 1.0, pattern.n)  # diagonally dominant
    data[diagonal] = size
    return data, M + np.diag(size)


def on_pattern(pattern, dense):
    cols = np.repeat(np.arange(pattern.n), np.diff(pattern.indptr))
    return dense[pattern.rows, cols]


@every_way
@every_shape
def test_against_dense(shape, ordering, mode):
    rows, cols, n = SHAPES[shape]
    pattern = Pattern.of(rows, cols, n)
    factor = CholeskyFactor(pattern, ordering, mode)
    rng = np.random.default_rng(3)
    for zeros in (0.0, 0.5, 1.0, 0.0):  # numerical zeros must not shrink what was analysed
        data, M = positive_definite(pattern, rng, zeros)
        inverse = np.linalg.inv(M)
        tolerance = 1e-13 * np.linalg.cond(M) * np.abs(inverse).max()
        assert factor.factorize(data) == pytest.approx(np.linalg.slogdet(M).logabsdet, rel=1e-12)
        rhs = rng.normal(size=(n, 2))
        np.testing.assert_allclose(factor.solve(rhs), inverse @ rhs, rtol=0, atol=10 * tolerance)
        selected = factor.selected_inverse()
        np.testing.assert_allclose(selected, on_pattern(pattern, inverse), rtol=0, atol=tolerance)
        order, L = factor.permutation, factor.lower().toarray()
        np.testing.assert_array_equal(L, np.tril(L))
        np.testing.assert_allclose(L @ L.T, M[np.ix_(order, order)], atol=1e-13 * np.abs(M).max())


@pytest.mark.skipif(not provider().orderings, reason="LAPACK's factor is full")
@pytest.mark.parametrize("ordering", ORDERINGS)
@every_shape
def test_column_counts(shape, ordering):
    """Predicted nonzeros are those of the factor, which are those of symbolic elimination."""
    rows, cols, n = SHAPES[shape]
    pattern = Pattern.of(rows, cols, n)
    factor = CholeskyFactor(pattern, ordering, "simplicial")
    counts = factor.column_counts()
    order = factor.permutation
    assert sorted(order) == list(range(n))
    filled = pattern.matrix(np.ones(pattern.nnz)).toarray() > 0
    filled = (filled | filled.T)[np.ix_(order, order)]
    for j in range(n):
        below = np.flatnonzero(filled[j + 1 :, j]) + j + 1
        filled[np.ix_(below, below)] = True
    np.testing.assert_array_equal(counts, np.tril(filled).sum(axis=0))
    data, _ = positive_definite(pattern, np.random.default_rng(1), zeros=0.7)
    factor.factorize(data)
    np.testing.assert_array_equal(counts, np.diff(factor.lower().indptr))


def full(n=130, scale=1.0):
    """A matrix without zeros, wider than one supernode, as its factor's pattern and values."""
    pattern = Pattern.of(*np.nonzero(np.tril(np.ones((n, n)), -1)), n)
    return pattern, scale * positive_definite(pattern, np.random.default_rng(8))[0]


def numbers(factor, data):
    """Everything a factorization gives, as bits."""
    logdet = factor.factorize(data)
    rhs = np.random.default_rng(5).normal(size=(factor.pattern.n, 3))
    parts = factor.lower().data, factor.solve(rhs), factor.selected_inverse()
    return logdet, *(part.tobytes() for part in parts)


def not_definite(pattern, data):
    bad = data.copy()
    bad[pattern.indptr[pattern.n // 2]] = -1.0
    return bad


def test_every_factorization_is_of_its_kind_and_gives_the_same_bits():
    """The first one as well as those that follow other values and a failure."""
    pattern, data = full()
    first = {}
    for mode in MODES:
        factor = CholeskyFactor(pattern, "amd", mode)
        first[mode] = numbers(factor, data)
        assert numbers(factor, data) == first[mode]
        assert numbers(factor, 2.0 * data + 1e-3) != first[mode]
        assert numbers(factor, data) == first[mode]
        with pytest.raises(NotPositiveDefiniteError):
            factor.factorize(not_definite(pattern, data))
        assert numbers(factor, data) == first[mode]
    if provider().orderings:  # dense blocks round in another order than columns do
        assert first["supernodal"] != first["simplicial"]
    np.testing.assert_allclose(first["supernodal"][0], first["simplicial"][0], rtol=1e-13)


class Recorder:
    """A factor of scikit-sparse 0.5 that notes what kind it was when it was factorized."""

    def __init__(self, factor, kinds):
        self.inner, self.kinds = factor, kinds

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def copy(self):
        return Recorder(self.inner.copy(), self.kinds)

    def factorize(self, *args, **kwargs):
        self.kinds.append("supernodal" if self.inner.is_super else "simplicial")
        return self.inner.factorize(*args, **kwargs)


kinds_are_told = pytest.mark.skipif(
    not (provider().name == "scikit-sparse" and provider().version >= "0.5"),
    reason="only scikit-sparse 0.5 tells the kind",
)


@kinds_are_told
@pytest.mark.parametrize("mode", MODES)
def test_the_kind_that_chooses_the_kernel(mode):
    """CHOLMOD takes the kernel by the kind of the factor it is handed."""
    pattern, data = full(40)
    factor, kinds = CholeskyFactor(pattern, "amd", mode), []
    factor._backend._analysed = Recorder(factor._backend._analysed, kinds)
    for values in (data, 2.0 * data, not_definite(pattern, data), data):
        with suppress(NotPositiveDefiniteError):
            numbers(factor, values)
    assert kinds == [mode] * 4


@kinds_are_told
@pytest.mark.parametrize(("levels", "mode"), [(300, "supernodal"), (30, "simplicial")])
def test_every_evaluation_is_of_the_kind_that_the_plan_prices(levels, mode):
    rng = np.random.default_rng(9)
    terms = [term(name, rng.integers(0, levels, 6 * levels)) for name in "ab"]
    model = Model(design(rng.normal(size=6 * levels), np.ones((6 * levels, 1)), *terms))
    cross = CrossProducts.from_design(model.design)
    candidate = _analysed(Layout.of(cross.pattern, None).remainder_pattern(), None, "amd")
    assert candidate.strategy.mode == mode
    backend, kinds = candidate.factor._backend, []
    backend._analysed = Recorder(backend._analysed, kinds)
    solver = BlockSolver(cross.pattern, candidate.strategy, candidate.factor)
    for scale in (1.0, 0.5, 2.0):
        solver.factorize(model.covariance.factors(scale * model.theta("interior")), cross.values)
        solver.inverse_blocks(0)
    assert kinds == [mode] * 3


@pytest.mark.parametrize("mode", MODES)
def test_not_positive_definite(mode, capfd):
    """An error of ours, no word from the C library, and the next factorization is sound."""
    pattern = Pattern.of(np.array([1]), np.array([0]), 2)
    factor = CholeskyFactor(pattern, "natural", mode)
    with pytest.raises(NotPositiveDefiniteError):
        factor.factorize(np.array([1.0, 2.0, 1.0]))
    assert factor.factorize(np.array([1.0, 0.5, 1.0])) == pytest.approx(np.log(0.75))
    np.testing.assert_allclose(factor.solve(np.array([[1.5], [1.5]])), 1.0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["diagonal", "below"])
def test_values_that_are_no_numbers(mode, value, place):
    pattern, data = full(40)
    factor = CholeskyFactor(pattern, "amd", mode)
    bad = data.copy()
    bad[pattern.indptr[20] + (place == "below")] = value
    with pytest.raises(NotPositiveDefiniteError):
        factor.factorize(bad)
    assert np.isfinite(factor.factorize(data))


def test_silent_in_threads_and_silent_no_longer_than_that(capfd):
    """The function that SuiteSparse prints with is the process's: it comes back."""
    pattern, data = full(60)
    bad = not_definite(pattern, data)
    factors = [CholeskyFactor(pattern, "amd", mode) for mode in MODES * 2]
    printing, before = silence() if ALL_ORDERINGS else None, None
    if printing is not None and printing._get is not None:
        before = printing._get()
        assert before is not None

    def fail_often(factor):
        for _ in range(50):
            with pytest.raises(NotPositiveDefiniteError):
                factor.factorize(bad)
        return numbers(factor, data)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fail_often, factors))
    assert found[:2] == found[2:]
    assert capfd.readouterr() == ("", "")
    if before is not None:
        assert printing._get() == before


@pytest.mark.parametrize("mode", MODES)
def test_scales_far_apart_are_solved_without_a_warning(mode):
    """Levels with many rows next to one with none: M is well conditioned but for its scale."""
    pattern, data = full(40)
    factor = CholeskyFactor(pattern, "amd", mode)
    low = pattern.matrix(data).toarray()
    scale = np.geomspace(1.0, 1e12, 40)
    M = scale[:, None] * (low + np.tril(low, -1).T) * scale
    factor.factorize(on_pattern(pattern, M))
    expected = np.ones((40, 1)) / scale[:, None]
    np.testing.assert_allclose(factor.solve(M @ expected), expected, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's process table")
def test_no_factor_outlives_its_successor():
    """Memory of C libraries, which Python's own accounts do not show."""

    def resident():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    pattern, data = full(1200)  # 6 MB of values and at least as much for the rows
    for turn in range(20):
        factor = CholeskyFactor(pattern, "natural", MODES[turn % 2])
        for _ in range(2):
            factor.factorize(data)
            factor.lower()
            factor.solve(np.ones((1200, 1)))
        if turn == 4:
            before = resident()
    assert resident() - before < 40e6


def test_pattern():
    """Either triangle, repeated entries and a missing diagonal give the same pattern."""
    pattern = Pattern.of(np.array([2, 0, 2, 1]), np.array([0, 2, 0, 1]), 4)
    np.testing.assert_array_equal(pattern.indptr, [0, 2, 3, 4, 5])
    np.testing.assert_array_equal(pattern.rows, [0, 2, 1, 2, 3])
    np.testing.assert_array_equal(pattern.positions(np.array([0, 3]), np.array([2, 3])), [1, 4])
    data = np.arange(1.0, 6.0)
    expected = sp.csc_array(([1.0, 2, 3, 4, 5], ([0, 2, 1, 2, 3], [0, 0, 1, 2, 3])))
    np.testing.assert_array_equal(pattern.matrix(data).toarray(), expected.toarray())


def test_many_repeated_entries():
    """A pair of columns that meets 256 times, zero in an int8, is still one entry."""
    pattern = Pattern.of(np.ones(256, dtype=int), np.zeros(256, dtype=int), 2)
    np.testing.assert_array_equal(pattern.rows, [0, 1, 1])


@pytest.mark.parametrize("mode", ["simplicial", "supernodal"])
def test_64_bit_indices_give_the_same_factor(mode):
    """Wide indices, which a factor of more than 2^31 entries needs, change nothing else."""
    pattern = Pattern.of(*SHAPES["banded"])
    data, _ = positive_definite(pattern, np.random.default_rng(3))
    narrow, wide = CholeskyFactor(pattern, "amd", mode), CholeskyFactor(pattern.long(), "amd", mode)
    assert wide.factorize(data) == narrow.factorize(data)
    assert pattern.long().matrix(data).indices.dtype == np.int64
    np.testing.assert_array_equal(wide.selected_inverse(), narrow.selected_inverse())
