"""Does the plan predict what happens, and is its choice sound?"""

import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from registry import MODELS, Model, block, design, term

import sparselmm
from sparselmm.base import memory
from sparselmm.base.cholesky import CholeskyFactor
from sparselmm.base.memory import available_memory
from sparselmm.factor import candidates, plan
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.layout import Layout
from sparselmm.factor.plan import make_plan
from sparselmm.factor.solver import BlockSolver
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.moments import moment_start

GB = 1_000_000_000


def names(one):
    return tuple(t.name for t in one.terms)


def crossed(n, *levels):
    """Random intercepts for crossed factors with these numbers of levels."""
    rng = np.random.default_rng(9)
    codes = [np.concatenate([np.arange(l), rng.integers(0, l, n - l)]) for l in levels]
    terms = [term(f"f{i}", rng.permutation(c)) for i, c in enumerate(codes)]
    return Model(design(rng.normal(size=n), np.ones((n, 1)), *terms))


@pytest.fixture(autouse=True)
def price_everything(monkeypatch):
    """Small models, too, get every candidate."""
    monkeypatch.setattr(plan, "SMALL", 3)
    monkeypatch.setattr(candidates, "SMALL", 3)
    monkeypatch.setattr(candidates, "_worth_analysing", lambda *_: True)
    monkeypatch.setattr(plan, "FULL", np.inf)


@pytest.mark.parametrize("name", MODELS)
def test_every_candidate_fits_the_same_model(name):
    model = MODELS[name]
    cross, theta = CrossProducts.from_design(model.design), model.theta("random")
    expected = model.sparse(True).value(theta)
    made = make_plan(cross, names(model.design), GB)
    assert len({str(c.strategy) for c in made.candidates}) == len(made.candidates) > 0
    assert made.chosen is made.candidates[0]
    assert (made.n, made.p, made.q) == (cross.n, model.design.p, cross.q)
    assert made.nnz_a >= cross.A.count_nonzero()
    seconds = [c.seconds for c in made.candidates]
    assert seconds == sorted(seconds)
    for candidate in made.candidates:
        assert model.sparse(True, candidate.strategy).value(theta) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["crossed_three", "nested", "absent", "block"])
def test_predicted_entries_of_the_factor(name):
    """nnz counts the leading blocks, their coupling and the factor of the remainder."""
    model = MODELS[name]
    cross = CrossProducts.from_design(model.design)
    kinds = set()
    for candidate in make_plan(cross, names(model.design), GB).candidates:
        s = candidate.strategy
        layout = Layout.of(cross.pattern, s.leading)
        k, l = cross.sizes[s.leading] if s.leading is not None else (0, 0)
        expected = l * k * (k + 1) // 2
        if layout.coupling is not None:
            expected += k * len(layout.coupling.cols)
        r = layout.n_trailing
        if s.remainder == "dense":
            expected += r * (r + 1) // 2
        else:
            pattern = layout.remainder_pattern()
            factor = CholeskyFactor(pattern, s.ordering, "simplicial")
            factor.factorize(np.where(np.isin(np.arange(pattern.nnz), pattern.indptr[:-1]), 9.0, 0))
            expected += factor.lower().nnz
        assert candidate.nnz == expected
        assert candidate.flops >= candidate.nnz
        kinds.add((s.leading is None, s.remainder))
    assert len(kinds) >= 3


def test_predicted_memory():
    """Not less than what NumPy allocates for a gradient, and not out of all proportion."""
    model = crossed(4000, 900, 300)
    cross, theta = CrossProducts.from_design(model.design), model.theta("interior")
    made = make_plan(cross, names(model.design), 10 * GB)
    dense = [c for c in made.candidates if c.strategy.remainder == "dense"]
    assert {c.strategy.leading for c in dense} == {None, 0, 1}
    for candidate in dense:  # CHOLMOD's own memory cannot be traced
        model.sparse(True, candidate.strategy).gradient(theta)  # compiled, imported
        tracemalloc.start()
        deviance = Model.sparse(model, True, candidate.strategy)
        deviance.gradient(theta)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        data = sum(p.data.nbytes + p.rows.nbytes for p in cross.pairs.values()) + cross.B.nbytes
        assert peak < 1.5 * candidate.memory + 10 * data
        assert candidate.memory < 3 * peak


def test_the_limit_decides():
    """The cheapest candidate that fits; none fitting is an error that says so."""
    model = crossed(4000, 900, 300)
    cross = CrossProducts.from_design(model.design)
    candidates = make_plan(cross, names(model.design), 10 * GB).candidates
    small = min(candidates, key=lambda c: c.memory)
    for limit in sorted({c.memory for c in candidates}):
        chosen = make_plan(cross, names(model.design), limit).chosen
        assert chosen.memory <= limit
        assert chosen.seconds == min(c.seconds for c in candidates if c.memory <= limit)
    refused = make_plan(cross, names(model.design), small.memory - 1)
    with pytest.raises(sparselmm.MemoryLimitError, match="memory_limit") as error:
        _ = refused.chosen
    assert isinstance(error.value, MemoryError)
    assert isinstance(error.value, sparselmm.SparseLMMError)
    with pytest.raises(sparselmm.MemoryLimitError):
        str(refused)


@pytest.mark.parametrize("engine", ["sparse", "dense"])
def test_a_fit_refuses_before_it_allocates(engine):
    data = sparselmm.datasets.load("Penicillin")
    model = sparselmm.MixedLM.from_formula("diameter ~ 1 + (1 | plate) + (1 | sample)", data)
    with pytest.raises(sparselmm.MemoryLimitError, match="2 kB"):
        model.fit(memory_limit=2000, engine=engine)
    assert model.fit(memory_limit=GB).converged


def test_printed():
    model = crossed(500, 60, 40)
    made = make_plan(CrossProducts.from_design(model.design), ("plate", "sample"), GB)
    head, _, lines = str(made).partition("  factorization")
    lines = lines.splitlines()[2:]  # below the heads and their rule
    assert head.startswith("n = 500 rows, p = 1, q = 100 random effects")
    assert "memory limit 1 GB" in head
    assert len(lines) == len(made.candidates)
    assert [line[0] for line in lines] == ["*"] + [" "] * (len(lines) - 1)
    text = "\n".join(lines)
    assert re.search(r"eliminate plate, then LAPACK +[\d,]+", text)
    assert "CHOLMOD" in text
    one = crossed(500, 60)
    made = make_plan(CrossProducts.from_design(one.design), ("plate",), GB)
    assert "closed form in plate" in str(made)


def test_available_memory():
    assert 1_000_000 < available_memory() < 1e15
    data = sparselmm.datasets.load("Dyestuff")
    model = sparselmm.MixedLM.from_formula("Yield ~ 1 + (1 | Batch)", data)
    made = model.plan()
    assert made.chosen.memory < made.memory_limit


def test_a_remainder_of_a_thousand_columns_with_most_entries_is_for_lapack():
    """Three crossed factors, whose factor is sparse before a dense root of most trailing columns:
    CHOLMOD's small products cost more there than the operations LAPACK does for zeros."""
    rng = np.random.default_rng(2)
    popular = 1.0 / (np.arange(1100) + 20.0)
    second = rng.choice(1100, 60_000, p=popular / popular.sum())
    codes = rng.integers(0, 3000, 60_000), np.unique(second, return_inverse=True)[1]
    terms = [term(f"f{i}", c) for i, c in enumerate((*codes, rng.integers(0, 14, 60_000)))]
    one = design(rng.normal(size=60_000), np.ones((60_000, 1)), *terms)
    chosen = make_plan(CrossProducts.from_design(one), ("s", "d", "dept"), GB).chosen
    assert (chosen.strategy.leading, chosen.strategy.remainder) == (0, "dense")


def test_large_models_are_priced_without_being_factored(monkeypatch):
    """Planning reads patterns: no factorization, whatever the values."""

    def refuse(*_):
        raise AssertionError("a plan must not factorize")

    monkeypatch.setattr(CholeskyFactor, "factorize", refuse)
    monkeypatch.setattr(BlockSolver, "factorize", refuse)
    model = crossed(3000, 800, 500)
    made = make_plan(CrossProducts.from_design(model.design), names(model.design), GB)
    assert made.chosen.memory < GB


def test_a_container_limits_the_memory(tmp_path, monkeypatch):
    """Control groups of both versions, ours and those above it; caches can be given back."""
    info, groups = tmp_path / "meminfo", tmp_path / "groups"
    info.write_text("MemTotal: 9000000 kB\nMemAvailable:    8000000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", str(info))
    monkeypatch.setattr(memory, "GROUPS", str(groups))
    monkeypatch.setattr(memory, "CGROUP", str(tmp_path))
    assert available_memory() == 8_000_000 * 1024  # no control groups at all
    pod = tmp_path / "kube" / "pod"
    pod.mkdir(parents=True)
    groups.write_text("0::/kube/pod\n")
    assert available_memory() == 8_000_000 * 1024
    (pod / "memory.max").write_text("max\n")
    (tmp_path / "kube" / "memory.max").write_text("3000000\n")
    (tmp_path / "kube" / "memory.current").write_text("1500000\n")
    (tmp_path / "kube" / "memory.stat").write_text("anon 7\ninactive_file 500000\n")
    assert available_memory() == 2_000_000
    old = tmp_path / "memory" / "docker"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("1000000\n")
    (old / "memory.usage_in_bytes").write_text("400000\n")
    (old / "memory.stat").write_text("total_inactive_file 100000\n")
    groups.write_text("5:cpu:/docker\n4:memory:/docker\n")
    assert available_memory() == 700_000


def test_a_system_that_does_not_say(monkeypatch, tmp_path):
    """Windows has neither /proc nor os.sysconf."""
    for name in ("MEMINFO", "GROUPS"):
        monkeypatch.setattr(memory, name, str(tmp_path / "absent"))
    monkeypatch.delattr("os.sysconf")
    assert available_memory() == memory.UNKNOWN_MEMORY


def priced():
    """Designs whose memory goes to different places."""
    rng = np.random.default_rng(0)

    def codes(n, l):
        return rng.permutation(np.arange(n) % l)

    def data(n, p, *terms, weights=None):
        X = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))])
        return design(rng.normal(size=n), X, *terms, weights=weights)

    x = np.column_stack([np.ones(30_000), rng.normal(size=(30_000, 2))])
    g, times = codes(60_000, 20_000), np.tile(np.arange(60), 80)
    series = term("g", np.repeat(np.arange(80), 60), np.eye(60)[times])
    ar1 = {h: replace(series, structure=f"{h}autoregressive") for h in ("homogeneous ", "")}
    many = term("g", np.repeat(np.arange(80), 100), np.eye(100)[np.tile(np.arange(100), 80)])
    Z = sp.random(4000, 700, 0.01, random_state=1, format="csr")
    us = term("g", np.arange(12_000) // 60, np.eye(20)[np.arange(12_000) % 20])
    yield "wide X", data(6000, 1000, term("g", codes(6000, 200)))
    yield (
        "wide X, crossed",
        data(6000, 600, term("g", codes(6000, 400)), term("h", codes(6000, 300))),
    )
    yield "very wide X", data(4000, 3000, term("g", codes(4000, 200)))
    yield "many levels", data(60_000, 2, term("g", g))
    yield "nested", data(60_000, 1, term("g", g), term("s", g // 40))
    yield "crossed", data(40_000, 1, term("g", codes(40_000, 1500)), term("h", codes(40_000, 1200)))
    w = rng.uniform(1, 2, 30_000)
    yield "slopes, weights", data(30_000, 3, term("g", codes(30_000, 5000), x), weights=w)
    yield "series", data(4800, 1, ar1["homogeneous "])
    yield "series, heterogeneous", data(4800, 1, ar1[""])
    for name in ("autoregressive", "compound symmetry"):
        yield f"hundred points, {name}", data(8000, 1, replace(many, structure=name))
    wide = sp.random(6000, 2500, 0.05, random_state=1, format="csr")
    yield "large dense block", data(6000, 1, block("z", wide))
    yield "unstructured", data(12_000, 1, us)
    yield "many terms", data(20_000, 1, *[term(f"t{i}", codes(20_000, 60)) for i in range(8)])
    yield "user's matrix", data(4000, 1, block("z", Z))


PRICED = dict(priced())
SLOW = {"very wide X", "large dense block"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in PRICED]
)
def test_memory_within_a_factor_of_one_and_a_half(name, monkeypatch):
    """Of what start and steps of the search allocate beyond the cross-products."""
    monkeypatch.undo()  # the candidates that a user gets
    one = PRICED[name]
    cross, covariance = CrossProducts.from_design(one), Covariance.of(one.terms)
    best = make_plan(cross, names(one), 100 * GB, covariance).chosen
    if best.strategy.remainder == "sparse":
        pytest.skip("CHOLMOD's own memory cannot be traced")

    def search():
        solver = BlockSolver(cross.pattern, best.strategy, best.factor)
        deviance = ProfiledDeviance(cross, covariance, solver, reml=True)
        theta = moment_start(cross, covariance)
        deviance.tangent_model(theta)
        deviance.tangent_model(1.1 * theta)
        deviance.at(1.1 * theta)

    search()  # imports, compiled loops
    tracemalloc.start()
    search()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / 1.5 < best.memory < 1.5 * peak
