"""Random effects compared: covariances, contrasts and ranks against dense algebra and merTools."""

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from sparselmm import MixedLM, datasets
from sparselmm.base.exceptions import ArgumentError, DataError, MemoryLimitError
from sparselmm.factor.solver import BlockSolver
from sparselmm.inference.prediction import contrasts as blup_contrasts
from sparselmm.inference.prediction import ranks as rank_distribution
from sparselmm.results.print import labels

FORMULAS = {
    "one factor": ("sleepstudy", "Reaction ~ Days + (Days | Subject)", "Subject"),
    "two terms": ("sleepstudy", "Reaction ~ Days + (Days || Subject)", "Subject"),
    "crossed": ("Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", "plate"),
    "nested": ("Oats", "Yield ~ nitro + Variety + (1 | Block / Variety)", "Block"),
    "slopes": ("Machines", "score ~ Machine + (Machine | Worker)", "Worker"),
}


@cache
def fitted(name):
    data, formula, factor = FORMULAS[name]
    return MixedLM.from_formula(formula, datasets.load(data)).fit(), factor


def close(actual, expected, rtol=1e-8):
    expected = np.asarray(expected, dtype=float)
    size = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(actual, dtype=float), expected, rtol, rtol * size)


def dense_covariance(fit, factor, fixed):
    """``Psi - Psi Z'(V^-1 or P) Z Psi`` of one factor, levels by coefficients, from the rows."""
    design = fit.built.design
    Z, X = design.Z.toarray(), design.X
    psi = [
        np.kron(np.eye(term.n_levels), block)
        for term, block in zip(design.terms, fit._est.psi, strict=True)
    ]
    Psi = np.zeros((design.q, design.q))
    at = 0
    for block in psi:
        Psi[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    W = np.linalg.inv(Z @ Psi @ Z.T + fit.scale * np.eye(design.n))
    if fixed:
        WX = W @ X
        W = W - WX @ np.linalg.solve(X.T @ WX, WX.T)
    cov = Psi - Psi @ Z.T @ W @ Z @ Psi
    order = []
    at = 0
    for term in design.terms:
        if ":".join(term.levels.names) == factor:
            order.append(np.arange(at, at + term.q).reshape(-1, term.k))
        at += term.q
    order = np.hstack(order).ravel()
    return cov[np.ix_(order, order)]


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("name", FORMULAS)
def test_covariances_and_contrasts(name, fixed):
    fit, factor = fitted(name)
    cov = dense_covariance(fit, factor, fixed)
    found = fit.ranef_cov(factor, fixed_uncertainty=fixed)
    close(found, cov)
    table = fit.ranef[factor]
    l, k = table.shape
    close(fit.ranef_se(fixed)[factor], np.sqrt(np.diag(cov)).reshape(l, k))
    some = fit.ranef_cov(factor, table.index[[3, 1]], fixed)
    close(some, found.loc[some.index, some.index])
    for j, column in enumerate(table.columns):
        joint = cov[j::k, j::k]
        b = table[column].to_numpy()
        options = {"coefficient": column, "fixed_uncertainty": fixed}
        pairs = fit.ranef_contrasts(factor, pairs="all", **options)
        i, m = np.triu_indices(l, 1)
        close(pairs.estimate, b[i] - b[m])
        se = np.sqrt(np.diag(joint)[i] + np.diag(joint)[m] - 2 * joint[i, m])
        close(pairs.se, se, 1e-7)
        close(pairs.pvalue, 2 * norm.sf(np.abs(b[i] - b[m]) / se), 1e-6)
        weights = np.random.default_rng(3).normal(size=(4, l))
        own = fit.ranef_contrasts(factor, weights, **options)
        close(own.estimate, weights @ b)
        close(own.se, np.sqrt(np.einsum("ij,jk,ik->i", weights, joint, weights)))
        gap = b[:, None] - b
        sd = np.sqrt(np.maximum(np.diag(joint)[:, None] + np.diag(joint) - 2 * joint, 0))
        np.fill_diagonal(sd, 1.0)
        ranked = fit.rank(factor, column, fixed_uncertainty=fixed, alpha=0.1)
        close(ranked.expected_rank, 0.5 + norm.cdf(gap / sd).sum(axis=1), 1e-6)
        close(ranked.ci_upper, b + norm.ppf(0.95) * np.sqrt(np.diag(joint)))


def test_contrasts_by_labels():
    fit, _ = fitted("one factor")
    first = fit.ranef_contrasts("Subject", pairs=[("308", "309")], coefficient="Days")
    assert first.index.tolist() == ["308 - 309"]
    named = fit.ranef_contrasts(
        "Subject", {"a": {"308": 1, "309": -1}, "mean": {"310": 0.5, "330": 0.5}},
        coefficient="Days",
    )  # fmt: skip
    close(named.loc["a"], first.iloc[0])
    table = pd.DataFrame([[1.0, -1.0]], index=["a"], columns=["308", "309"])
    pd.testing.assert_frame_equal(
        fit.ranef_contrasts("Subject", table, coefficient="Days"), named.loc[["a"]]
    )
    close(first.ci_upper - first.estimate, norm.ppf(0.975) * first.se)
    three = [("308", "309"), ("308", "310"), ("309", "310")]
    plain = fit.ranef_contrasts("Subject", pairs=three)
    holm = fit.ranef_contrasts("Subject", pairs=three, adjust="bonferroni")
    close(holm.pvalue, np.minimum(3 * plain.pvalue, 1))


RANKS = json.loads(
    datasets.data_dir().joinpath("reference", "extra", "ranks.json").read_text(encoding="utf-8")
)["ranks"]


@pytest.mark.parametrize("case", RANKS, ids=lambda case: case["data"])
def test_expected_ranks_of_mertools(case):
    fit = MixedLM.from_formula(case["formula"], datasets.load(case["data"])).fit()
    column = {"(Intercept)": "Intercept"}.get(case["term"], case["term"])
    found = fit.rank(case["group"], column, method="marginal", fixed_uncertainty=False)
    found.index = found.index.astype(str)
    found = found.loc[case["levels"]]
    close(found.estimate, case["estimate"], 1e-6)
    close(found.se**2, case["variance"], 1e-6)
    close(found.expected_rank, case["rank"], 1e-6)
    assert np.abs(found.percentile - case["percentile"]).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("kind", ["spread", "few", "narrow", "with zeros"])
def test_ranks_on_the_grid(kind, monkeypatch):
    rng = np.random.default_rng(8)
    b = rng.normal(size=3000)
    v = {
        "spread": rng.gamma(2.0, 0.2, 3000), "few": rng.choice([0.1, 0.4], 3000),
        "narrow": 1e-5 * rng.gamma(2.0, 0.2, 3000), "with zeros": rng.choice([0.0, 0.3], 3000),
    }[kind]  # fmt: skip
    exact = blup_contrasts.marginal_ranks(b, v)
    monkeypatch.setattr(blup_contrasts, "EXACT_LEVELS", 10)
    monkeypatch.setattr(blup_contrasts, "GRID", 2**15)
    grid = blup_contrasts.marginal_ranks(b, v)
    assert np.abs(grid - exact).max() < (1e-5 if kind != "with zeros" else 1e-3) * 3000
    np.testing.assert_allclose(exact.sum(), 3000 * 3001 / 2, rtol=1e-12)


@pytest.mark.filterwarnings("ignore::sparselmm.exceptions.BoundaryWarning")
def test_no_variance_no_ranks():
    """At a zero variance all predictions are zero and every level has the middle rank."""
    fit = MixedLM.from_formula("Yield ~ 1 + (1 | Batch)", datasets.load("Dyestuff2")).fit()
    for method in ("joint", "marginal"):
        assert (fit.rank("Batch", method=method).expected_rank == 3.5).all()
    assert (fit.ranef_contrasts("Batch", pairs="all").se == 0).all()


def test_errors(monkeypatch):
    fit, _ = fitted("one factor")
    with pytest.raises(DataError, match="no random effects of 'Sub'; there are those of Subject"):
        fit.ranef_cov("Sub")
    with pytest.raises(DataError, match="no level 'x'; its 18 levels are '308'"):
        fit.ranef_cov("Subject", ["308", "x"])
    with pytest.raises(DataError, match="no coefficient 'Day'"):
        fit.rank("Subject", "Day")
    with pytest.raises(DataError, match="not both"):
        fit.ranef_contrasts("Subject")
    with pytest.raises(DataError, match="'all' or pairs"):
        fit.ranef_contrasts("Subject", pairs="some")
    with pytest.raises(DataError, match="must be pairs of levels"):
        fit.ranef_contrasts("Subject", pairs=[("308", "309", "310")])
    with pytest.raises(DataError, match="3 columns, but 'Subject' has 18"):
        fit.ranef_contrasts("Subject", [[1, -1, 0]])
    with pytest.raises(DataError, match="method must be"):
        fit.rank("Subject", method="exact")
    monkeypatch.setattr(labels, "MAX_COVARIANCES", 100)
    with pytest.raises(MemoryLimitError, match="name the levels"):
        fit.ranef_cov("Subject")
    machines = MixedLM.from_formula(
        "score ~ 0 + Machine + (0 + Machine | Worker)", datasets.load("Machines")
    ).fit()
    with pytest.raises(DataError, match="say which coefficient"):
        machines.rank("Worker")


def test_joint_variances_need_no_solve_with_all_levels(monkeypatch):
    """A small factor crossed with a large one: the remainder holds the answer."""
    data = datasets.load("Penicillin")
    formula = "diameter ~ 1 + (1 | plate) + (1 | sample)"
    fit = MixedLM.from_formula(formula, data).fit()
    fit.deviance.state_at(fit.theta)

    def refuse(*_):
        raise AssertionError("a solve with all levels")

    monkeypatch.setattr(BlockSolver, "solve", refuse)
    assert len(fit.rank("sample")) == 6
    assert fit.ranef_cov("sample").shape == (6, 6)
    assert (fit.ranef_contrasts("sample", pairs=[("A", "B")]).se > 0).all()


# ------------------------------------------------------------------- distributions of ranks


def drawn_ranks(b, root, n=40_000, seed=3):
    draws = b + np.random.default_rng(seed).standard_normal((n, len(b))) @ root.T
    return draws.argsort(axis=1).argsort(axis=1) + 1.0


@pytest.mark.parametrize("drawn", [True, False])
def test_intervals_of_independent_ranks(drawn, monkeypatch):
    """Against other draws: places within one, probabilities within their errors, or 0.015."""
    rng = np.random.default_rng(60)
    b, s = rng.normal(size=60), rng.uniform(0.2, 1.0, 60)
    ranks = drawn_ranks(b, np.diag(s))
    monkeypatch.setattr(rank_distribution, "DRAWN", 60 if drawn else 0)
    found = rank_distribution.marginal(b, s**2, 0.1, 3, False, 0)
    low, high = np.quantile(ranks, [0.05, 0.95], axis=0, method="inverted_cdf")
    assert np.abs(found.lower - low).max() <= 1
    assert np.abs(found.upper - high).max() <= 1
    np.testing.assert_allclose(found.top, (ranks <= 3).mean(axis=0), atol=0.015)


def test_many_levels_by_convolution(monkeypatch):
    rng = np.random.default_rng(5)
    b, v = rng.normal(size=900), rng.uniform(0.05, 0.5, 900)
    monkeypatch.setattr(rank_distribution, "DRAWN", 0)
    one = rank_distribution.marginal(b, v, 0.05, 20, True, 0)
    monkeypatch.setattr(rank_distribution, "DIRECT", 1_000)
    two = rank_distribution.marginal(b, v, 0.05, 20, True, 0)
    assert np.abs(one.lower - two.lower).max() <= 1
    assert np.abs(one.upper - two.upper).max() <= 1
    np.testing.assert_allclose(one.top, two.top, atol=5e-3)


def test_ranks_from_the_joint_distribution():
    fit, _ = fitted("crossed")
    up, down = fit.rank("plate", top=4), fit.rank("plate", top=4, ascending=False)
    np.testing.assert_allclose(up.expected_rank + down.expected_rank, 25.0)
    assert up.p_top.sum() == pytest.approx(4.0)
    assert (up.rank_lower <= up.expected_rank).all()
    assert (up.expected_rank <= up.rank_upper).all()
    cov = fit.ranef_cov("plate").to_numpy()
    contrast = np.eye(24) - 1.0 / 24
    spread = np.sqrt(np.diag(contrast @ cov @ contrast))
    np.testing.assert_allclose(up.p_above_mean, norm.cdf(contrast @ up.estimate / spread))
    variance = fit.varcorr.vcov.iloc[0]
    np.testing.assert_allclose(up.reliability, 1 - up.se**2 / variance)
    again = fit.rank("plate", top=4, seed=1)
    assert np.abs(again.p_top - up.p_top).max() < 0.02
    with pytest.raises(ArgumentError, match="top"):
        fit.rank("plate", top=30)
