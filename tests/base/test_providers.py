"""Who factors sparse matrices, how it is found, and that the answers are the same."""

import numpy as np
import pytest
from registry import Model, design, term

import sparselmm
from sparselmm.__main__ import main
from sparselmm.base import providers
from sparselmm.base.cholesky import CholeskyFactor, Pattern
from sparselmm.base.exceptions import ProviderError
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.plan import make_plan


@pytest.fixture
def choose(monkeypatch):
    """Take a provider, or skip the test where it is not installed."""

    def take(name):
        monkeypatch.setenv(providers.CHOICE, name)
        try:
            assert providers.provider().name == name
        except ProviderError as error:
            pytest.skip(str(error).splitlines()[0])

    return take


def crossed(levels=600):
    rng = np.random.default_rng(4)
    terms = [term(name, rng.integers(0, levels, 3 * levels)) for name in "ab"]
    return Model(design(rng.normal(size=3 * levels), np.ones((3 * levels, 1)), *terms))


@pytest.mark.parametrize("name", ["scikit-sparse", "cvxopt", "none"])
def test_the_same_numbers(choose, name):
    choose(name)
    n = 60
    rows, cols = np.nonzero(np.tril(np.random.default_rng(1).uniform(size=(n, n)) < 0.1, -1))
    pattern = Pattern.of(rows, cols, n)
    data = np.full(pattern.nnz, 0.3)
    data[pattern.indptr[:-1]] = 30.0
    low = pattern.matrix(data).toarray()
    M, rhs = low + np.tril(low, -1).T, np.ones((n, 2))
    for mode in ("simplicial", "supernodal"):
        factor = CholeskyFactor(pattern, "amd", mode)
        for scale in (1.0, 2.0):
            logdet = factor.factorize(scale * data)
            assert logdet == pytest.approx(np.linalg.slogdet(scale * M).logabsdet, rel=1e-13)
            before, inverse = factor.solve(rhs), factor.selected_inverse()
            np.testing.assert_allclose(factor.solve(rhs), before, rtol=1e-12)
            np.testing.assert_allclose(scale * M @ before, rhs, rtol=1e-12)
            assert inverse[0] == pytest.approx(np.linalg.inv(scale * M)[0, 0], rel=1e-12)


@pytest.mark.parametrize("name", ["scikit-sparse", "cvxopt", "none"])
def test_the_plan_names_who_factors(choose, name):
    choose(name)
    made = make_plan(CrossProducts.from_design(crossed().design), ("a", "b"), 10**9)
    assert f"sparse factors: {providers.provider()}" in str(made)
    sparse = [c for c in made.candidates if c.strategy.remainder == "sparse"]
    assert bool(sparse) == (name != "none")


def test_without_a_package_lapack_takes_its_place(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.delenv(providers.CHOICE, raising=False)
    monkeypatch.setattr(providers, "import_module", absent)
    providers._provider.cache_clear()
    try:
        found = providers.provider()
        assert found.name == "none"
        assert len(found.why) == 2
        large = Pattern.of(np.zeros(0, int), np.zeros(0, int), providers.DENSE_MOST + 1)
        with pytest.raises(ProviderError, match="pip install cvxopt"):
            CholeskyFactor(large)
        made = make_plan(CrossProducts.from_design(crossed().design), ("a", "b"), 1000)
        with pytest.raises(sparselmm.MemoryLimitError, match="pip install cvxopt"):
            made.chosen  # noqa: B018
    finally:
        providers._provider.cache_clear()


def test_a_choice_that_is_none(monkeypatch):
    monkeypatch.setenv(providers.CHOICE, "mumps")
    with pytest.raises(ProviderError, match="it may be scikit-sparse, cvxopt, none"):
        providers.provider()


def test_versions_for_a_report(capsys):
    sparselmm.show_versions()
    shown = capsys.readouterr().out
    assert main(["info"]) == 0
    assert capsys.readouterr().out == shown
    for word in ("Python", "numpy", "scikit-sparse", "cvxopt", str(providers.provider())):
        assert word in shown
