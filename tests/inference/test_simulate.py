"""Simulated responses, refits and power."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, chi2
from scipy.stats import t as student

import sparselmm
from sparselmm.base import memory
from sparselmm.base.seeds import seed_sequence
from sparselmm.design.subsets import Groups
from sparselmm.inference.resampling.power import clopper_pearson
from sparselmm.inference.resampling.simulate import Simulator
from sparselmm.results.methods import power as power_methods

REFERENCE = json.loads(
    sparselmm.datasets.data_dir().joinpath("reference/extra/simulation.json").read_text("utf-8")
)


@pytest.fixture(scope="module")
def sleep():
    data = sparselmm.datasets.load("sleepstudy")
    return sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()


def within(found, cov, m, level=1e-6):
    """Whether the mean square of m centred draws agrees with their covariance, by whitening."""
    white = np.linalg.solve(np.linalg.cholesky(cov), found.T)
    total = (white**2).sum()
    low, high = chi2.ppf([level, 1 - level], white.size)
    return low < total < high


# ----------------------------------------------------------------------------- simulation


@pytest.mark.parametrize("name", ["crossed", "weights", "nested slope"])
def test_distribution(name):
    """Mean and covariance of many simulated responses are those of the model."""
    data = sparselmm.datasets.load("Penicillin" if name == "crossed" else "sleepstudy")
    formula = {
        "crossed": "diameter ~ 1 + (1 | plate) + (1 | sample)",
        "weights": "Reaction ~ Days + (Days | Subject)",
        "nested slope": "Reaction ~ Days + offset(2 * Days) + (1 + Days | Subject)",
    }[name]
    keywords = {"weights": 1.0 / (1.0 + data.Days)} if name == "weights" else {}
    fit = sparselmm.mixedlm(formula, data, **keywords).fit()
    rows = np.arange(0, len(data), 4)
    Y = fit.simulate(4000, seed=3).to_numpy()[rows]
    design = fit.model.built.design
    factors = fit.deviance.covariance.factors(fit.theta)
    blocks = [
        np.kron(np.eye(t.n_levels), lam) for t, lam in zip(design.terms, factors, strict=True)
    ]
    root = np.zeros((design.q, design.q))
    at = 0
    for block in blocks:
        root[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    ZL = design.Z.toarray()[rows] @ root
    w = np.ones(design.n) if design.weights is None else design.weights
    V = fit.scale * (ZL @ ZL.T + np.diag(1.0 / w[rows]))
    mean = (
        fit.predict().to_numpy()[rows]
        if hasattr(fit.predict(), "to_numpy")
        else fit.predict()[rows]
    )
    centred = Y.T - mean
    assert within(centred, V, 4000)
    sums = centred.sum(axis=0) / np.sqrt(4000)  # its covariance is V
    assert within(sums[None], V, 1)
    # off-diagonal entries: a wrong pairing of rows and levels would show here
    sizes = np.sqrt(np.diag(V))
    error = (centred.T @ centred / 4000 - V) / np.outer(sizes, sizes)
    assert np.abs(error).max() < 6.0 * np.sqrt(2.0 / 4000)


def test_conditional(sleep):
    Y = sleep.simulate(2000, re="conditional", seed=1).to_numpy()
    z = (Y.mean(axis=1) - sleep.fittedvalues.to_numpy()) * np.sqrt(2000) / sleep.sigma
    assert np.abs(z).max() < 5.0
    np.testing.assert_allclose(Y.std(), np.sqrt(sleep.fittedvalues.var() + sleep.scale), rtol=0.02)


def test_stream_per_response(sleep):
    whole = sleep.simulate(5, seed=11)
    pd.testing.assert_frame_equal(sleep.simulate(3, seed=11), whole.iloc[:, :3])
    again = sleep.simulate(5, seed=np.random.SeedSequence(11))
    pd.testing.assert_frame_equal(again, whole)
    assert whole.index.equals(sleep.fittedvalues.index)
    assert not np.allclose(sleep.simulate(1, seed=12).to_numpy(), whole.iloc[:, [0]].to_numpy())


def test_new_data(sleep):
    """Rows of one unseen level share its effects; different levels do not."""
    days = np.tile([0.0, 9.0], 3)
    new = pd.DataFrame(
        {"Days": days, "Subject": ["308", "308", "u", "u", "v", "v"]}, list("abcdef")
    )
    Y = sleep.simulate(6000, newdata=new, seed=4)
    assert Y.index.tolist() == list("abcdef")
    X = np.column_stack([np.ones(2), [0.0, 9.0]])
    block = X @ np.asarray(sleep.cov_re) @ X.T
    V = np.kron(np.eye(3), block) + sleep.scale * np.eye(6)
    sizes = np.sqrt(np.diag(V))
    error = (np.cov(Y) - V) / np.outer(sizes, sizes)
    assert np.abs(error).max() < 5.0 * np.sqrt(2.0 / 6000)
    known = sleep.simulate(4000, newdata=new, re="conditional", seed=4).mean(axis=1)
    expected = sleep.predict(new, re=True, unseen="population")
    np.testing.assert_allclose(known, expected, atol=5 * sleep.sigma / np.sqrt(4000))


def test_rows_of_weight_zero():
    data = sparselmm.datasets.load("Rail")
    w = np.ones(len(data))
    w[[2, 5]] = 0.0
    fit = sparselmm.mixedlm("travel ~ 1 + (1 | Rail)", data, weights=w).fit()
    Y = fit.simulate(2, re="conditional", seed=1).to_numpy()
    np.testing.assert_allclose(Y[[2, 5]], fit.fittedvalues.to_numpy()[[2, 5], None] * [1, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be a positive integer"),
        ({"n": 2.5}, "n must be a positive integer"),
        ({"re": "none"}, "re must be one of"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_bad_arguments(sleep, arguments, message):
    with pytest.raises(sparselmm.DataError, match=message):
        sleep.simulate(**arguments)


def test_no_random_effects_drawn():
    simulator = Simulator(np.arange(3.0), sleep_z(3), (), (), np.zeros(3))
    np.testing.assert_array_equal(simulator.draw(seed_sequence(1), range(2)), [[0, 1, 2]] * 2)


def sleep_z(n):
    from scipy.sparse import csr_array

    return csr_array((n, 0))


# ------------------------------------------------------------------------------- refits


def test_refit_is_a_fit(sleep):
    data = sparselmm.datasets.load("sleepstudy")
    y = np.log(data.Reaction) * 100.0
    before = sleep.deviance.gradient(sleep.theta).copy()
    again = sleep.refit(y)
    alone = sparselmm.mixedlm("y ~ Days + (Days | Subject)", data.assign(y=y)).fit()
    assert again.llf == pytest.approx(alone.llf, rel=1e-10)
    np.testing.assert_allclose(again.fe_params, alone.fe_params, rtol=1e-8)
    np.testing.assert_allclose(again.bse, alone.bse, rtol=1e-3)
    np.testing.assert_allclose(again.fittedvalues, alone.fittedvalues, rtol=1e-5)
    np.testing.assert_allclose(sleep.deviance.gradient(sleep.theta), before, atol=1e-8)
    np.testing.assert_allclose(sleep.refit(data.Reaction).theta, sleep.theta, rtol=1e-4)


def test_refit_refuses(sleep):
    with pytest.raises(sparselmm.DataError, match="endog has 3 rows, the model has 180"):
        sleep.refit([1.0, 2.0, 3.0])
    with pytest.raises(sparselmm.DataError, match="missing or infinite"):
        sleep.refit(np.full(180, np.nan))
    with pytest.raises(sparselmm.DataError, match="exactly"):
        sleep.refit(np.ones(180))


# -------------------------------------------------------------------------------- power


def test_clopper_pearson():
    """The ends are where the binomial tails hold 2.5 %."""
    low, high = clopper_pearson(7, 20)
    assert binom.sf(6, 20, low) == pytest.approx(0.025)
    assert binom.cdf(7, 20, high) == pytest.approx(0.025)
    assert clopper_pearson(0, 10)[0] == 0.0
    assert clopper_pearson(10, 10)[1] == 1.0


@pytest.mark.parametrize("case", REFERENCE["power"], ids=lambda case: str(case["n_groups"]))
def test_power_of_lme4(sleep, case):
    """The same power as 500 simulations with lme4, within the error of both."""
    table = sleep.power({"Days": 5.0}, n_groups=case["n_groups"], n_sim=2000, seed=8).table
    n, hits = case["n"], case["hits"]
    p = table.power[0]
    error = np.sqrt(p * (1 - p) * (1 / n + 1 / 2000))
    assert abs(hits / n - p) < 4.0 * error
    assert table.n_sim[0] == 2000
    assert table.lower[0] < p < table.upper[0]


def test_size_and_exact_power():
    """A t test of a balanced between-group effect, whose distribution is known."""
    g, x = np.repeat(np.arange(20), 4), np.repeat(np.arange(20) % 2, 4).astype(float)
    rng = np.random.default_rng(4)
    y = rng.normal(size=80) + 1.5 * rng.normal(size=20)[g]
    fit = sparselmm.mixedlm("y ~ x + (1 | g)", pd.DataFrame({"y": y, "x": x, "g": g})).fit()
    se = fit.bse_fe["x"]
    z = 1.959964
    found = fit.power({"x": 0.0}, n_sim=4000, seed=1).table
    assert abs(found.power[0] - 2 * student.sf(z, 18)) < 4 * np.sqrt(0.06 * 0.94 / 4000)
    ratio = fit.power({"x": 3.0 * se}, n_sim=2000, seed=2, test="lr").table
    wald = fit.power({"x": 3.0 * se}, n_sim=2000, seed=2).table
    assert abs(ratio.power[0] - wald.power[0]) < 0.03
    own = fit.power({"x": 3.0 * se}, n_sim=20, seed=2, test=lambda r: r.pvalues[["x"]])
    assert own.table.test.tolist() == ["x"]
    same = fit.power({"x": 3.0 * se}, n_sim=20, seed=2)
    np.testing.assert_allclose(own.pvalues[0][2], same.pvalues[0][2], rtol=0.3, atol=1e-3)


def test_more_groups():
    """Copies of the groups are new groups; nested factors go along, crossed ones stay."""
    data = sparselmm.datasets.load("Pastes")
    design = sparselmm.mixedlm("strength ~ 1 + (1 | batch / cask)", data).built.design
    by = {t.levels.names: t for t in design.terms}
    batch = next(t for names, t in by.items() if names == ("batch",))
    many = Groups(design, batch.codes).design(np.arange(25) % 10)
    assert sorted(t.n_levels for t in many.terms) == [25, 75]
    crossed = sparselmm.mixedlm(
        "diameter ~ 1 + (1 | plate) + (1 | sample)", sparselmm.datasets.load("Penicillin")
    ).built.design
    plate = next(t for t in crossed.terms if t.levels.names == ("plate",))
    more = Groups(crossed, plate.codes).design(np.arange(48) % 24)
    assert sorted(t.n_levels for t in more.terms) == [6, 48]


def test_power_refuses(sleep):
    with pytest.raises(sparselmm.DataError, match="no fixed effect"):
        sleep.power({"Hours": 1.0})
    with pytest.raises(sparselmm.DataError, match="test must be"):
        sleep.power({"Days": 1.0}, test="f")
    with pytest.raises(sparselmm.DataError, match="n_groups must be"):
        sleep.power({"Days": 1.0}, n_groups=0)
    with pytest.raises(sparselmm.DataError, match="no grouping factor 'Day'"):
        sleep.power({"Days": 1.0}, n_groups=3, by="Day")


def test_what_does_not_fit_is_refused(sleep, monkeypatch):
    """Before anything is made: designs of more groups, and responses of every kind of model."""
    monkeypatch.setattr(memory, "available_memory", lambda: 10**9)
    with pytest.raises(sparselmm.MemoryLimitError, match=r"100,000,000 rows.*GB of memory"):
        sleep.power({"Days": 5.0}, n_groups=[20, 10**7])
    with pytest.raises(sparselmm.MemoryLimitError, match="draw fewer"):
        sleep.simulate(10**6)
    data = sparselmm.datasets.load("cbpp")
    counts = sparselmm.mixedglm("incidence ~ period + (1 | herd)", data, family="poisson").fit()
    for draw in (counts.simulate, counts.bootstrap):
        with pytest.raises(sparselmm.MemoryLimitError, match="draw fewer"):
            draw(10**8)
    data = sparselmm.datasets.load("sleepstudy")
    series = sparselmm.mixedlm("Reaction ~ Days", data, residual="ar1(Days | Subject)").fit()
    with pytest.raises(sparselmm.MemoryLimitError, match="draw fewer"):
        series.simulate(10**7)


def test_fewer_responses_at_a_time_are_the_same(sleep, monkeypatch):
    """Where the machine cannot hold a stack of them."""
    expected = sleep.power({"Days": 5.0}, n_groups=40, n_sim=64, seed=4).table
    monkeypatch.setattr(power_methods, "LARGE", 10)
    monkeypatch.setattr(power_methods, "available_memory", lambda: 300_000)
    pd.testing.assert_frame_equal(
        sleep.power({"Days": 5.0}, n_groups=40, n_sim=64, seed=4).table, expected
    )
