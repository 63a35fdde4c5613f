"""Row-length data are used once: what is kept, and what it costs to form it."""

import dataclasses
import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest
import scipy.sparse as sp
from registry import Model, design, term

from sparselmm.design.rows import BLOCK_ROWS
from sparselmm.factor import crossprod
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.plan import make_plan
from sparselmm.likelihood.moments import moment_start
from sparselmm.likelihood.optimize import minimize

N = 7919  # no other dimension of the model below


def two_factors(n, l, m, slope=False):
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    X = np.column_stack([np.ones(n), x])
    values = X if slope else None
    g = np.concatenate([np.arange(l), rng.integers(0, l, n - l)])
    h = np.concatenate([np.arange(m), rng.integers(0, m, n - m)])
    y = x + rng.normal(size=l)[g] + rng.normal(size=m)[h] + rng.normal(size=n)
    return Model(design(y, X, term("g", g, values), term("h", h)))


def arrays_in(value, seen):
    """Every array reachable through attributes, mappings and sequences."""
    if id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, np.ndarray):
        yield value
        yield from arrays_in(value.base, seen)  # a view keeps all of its base
    elif sp.issparse(value):
        yield from arrays_in(vars(value), seen)
    elif isinstance(value, Mapping):
        yield from arrays_in(list(value.values()), seen)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from arrays_in(item, seen)
    elif dataclasses.is_dataclass(value) or type(value).__module__.startswith("sparselmm"):
        yield from arrays_in(getattr(value, "__dict__", {}), seen)


def test_the_walk_finds_rows():
    """The walk does find arrays of n rows where there are some."""
    model = two_factors(N, 40, 30)
    assert any(N in array.shape for array in arrays_in(model.design, {}))


@pytest.mark.parametrize("compiled", [False, True])
def test_nothing_the_optimizer_uses_has_n_rows(compiled, monkeypatch):
    """So the time of an evaluation cannot grow with n."""
    if compiled:
        monkeypatch.setattr(crossprod, "SMALL_ROWS", 0)
    model = two_factors(N, 40, 30, slope=True)
    for candidate in make_plan(CrossProducts.from_design(model.design), ("g", "h")).candidates:
        deviance = model.sparse(True, candidate.strategy)
        best = minimize(deviance, moment_start(deviance.cross, deviance.covariance))
        deviance.hessian(best.theta)
        deviance.conditional_blocks(best.theta, 0)
        found = list(arrays_in([deviance, best, deviance.at(best.theta)], {}))
        assert len(found) > 20
        largest = max(array.size for array in found)
        # A itself: (40 * 2 + 30)^2 entries at most, far fewer than n * 2
        assert largest <= 110**2
        assert not [array.shape for array in found if N in array.shape]


def test_twice_the_rows_give_the_same_arrays():
    """The same data twice: only n and the sums of squares change, no shape does."""
    one = two_factors(1500, 40, 30, slope=True).design
    rows = np.tile(np.arange(one.n), 2)
    terms = [
        term(t.name, t.codes[rows], None if t.values is None else t.values[rows]) for t in one.terms
    ]
    double = design(one.y[rows], one.X[rows], *terms)
    a, b = (CrossProducts.from_design(d) for d in (one, double))
    shapes = [[array.shape for array in arrays_in(cross, {})] for cross in (a, b)]
    assert shapes[0] == shapes[1]
    np.testing.assert_allclose(2.0 * a.A.toarray(), b.A.toarray(), rtol=1e-12)
    assert b.n == 2 * a.n


def test_forming_the_products_needs_no_copy_of_the_rows():
    """Half a million rows: less new memory than half of Z, far less than a second X."""
    n = 500_000
    one = two_factors(n, 20_000, 500).design
    CrossProducts.from_design(two_factors(crossprod.SMALL_ROWS, 50, 40).design)  # compiled
    tracemalloc.start()
    cross = CrossProducts.from_design(one)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    z_bytes = 2 * n * (8 + 4)
    result = sum(array.nbytes for array in arrays_in(cross, {}))
    assert kept < 1.1 * result + 1e6
    blocks = BLOCK_ROWS * 8 * 4 * 3  # three row blocks of [Q y] and its weights
    sorting = 3 * n * 4  # two counting sorts of row numbers
    assert peak < result + blocks + sorting < result + z_bytes
