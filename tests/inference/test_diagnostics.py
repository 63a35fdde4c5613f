"""Residuals, leverage and Cook's distance: against lme4, and against dense matrices."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from reference_fits import INFERENCE_IDS, reference_inference
from reference_models import at_reference, close, compare
from registry import MODELS, Model, design, term

import sparselmm
from sparselmm.inference.diagnostics import leverage as lev

pytestmark = [
    pytest.mark.filterwarnings("ignore::sparselmm.SingularMatrixWarning"),
    pytest.mark.filterwarnings("ignore::sparselmm.RankDeficiencyWarning"),
    pytest.mark.filterwarnings("ignore::sparselmm.SpecificationWarning"),
]

WITH_RESIDUALS = [n for n in INFERENCE_IDS if "residuals_first20" in reference_inference(n)]
WITH_INFLUENCE = [n for n in INFERENCE_IDS if "influence_obs" in reference_inference(n)]


@pytest.mark.parametrize("name", WITH_RESIDUALS)
def test_residuals_are_those_of_lme4(name):
    fit, ref = at_reference(name), reference_inference(name)["residuals_first20"]
    rows = slice(0, len(ref["response"]))
    for kind in ("response", "pearson"):
        close(fit.residuals(kind)[rows], ref[kind])
    close(fit.residuals("pearson", scaled=True)[rows], ref["pearson_scaled"])
    close(fit.residuals(level="marginal")[rows], ref["marginal"])


@pytest.mark.parametrize("name", WITH_INFLUENCE)
def test_leverage_and_cooks_distance_are_those_of_lme4(name):
    fit, ref = at_reference(name), reference_inference(name)["influence_obs"]
    close(fit.hatvalues(), ref["hatvalues"], 1e-9)
    close(fit.cooks_distance(), ref["cooks_distance"], 1e-9)
    close(fit.residuals("studentized"), ref["rstudent"], 1e-9)


@pytest.mark.parametrize("kind", ["interior", "boundary", "zero"])
@pytest.mark.parametrize("name", MODELS)
def test_leverage_is_that_of_dense_matrices(name, kind):
    model = MODELS[name]
    dense, theta = model.dense(reml=True), model.theta(kind)
    Z = dense.Z @ dense._lambda(theta)
    V = np.diag(1.0 / dense.w) + Z @ Z.T
    Vinv = np.linalg.inv(V)
    P = Vinv - Vinv @ dense.X @ dense.at(theta).vcov_unscaled @ dense.X.T @ Vinv
    rows = np.ones(model.design.n, bool)
    if model.design.weights is not None:
        rows = model.design.weights > 0
    for strategy in model.strategies()[:2]:
        found = lev.leverage(model.sparse(True, strategy), model.design, theta)
        np.testing.assert_allclose(found.total[rows], 1.0 - np.diag(P) / dense.w, atol=1e-9)
        np.testing.assert_allclose(found.random[rows], 1.0 - np.diag(Vinv) / dense.w, atol=1e-9)
        assert (found.total[~rows] == 0).all()
    prior = lev.prior_variances(model.sparse(True), model.design, theta)
    np.testing.assert_allclose(prior[rows], np.sum(Z**2, axis=1), rtol=1e-10, atol=1e-14)


def test_rows_off_the_pattern_are_solved_for():
    """A covariate of +1 and -1 cancels in A where two terms meet; the leverage does not."""
    rng = np.random.default_rng(3)
    n = 24
    g, h = np.repeat(np.arange(6), 4), np.tile(np.repeat(np.arange(2), 2), 6)
    x = np.tile([1.0, -1.0], 12)
    y = rng.normal(size=n) + rng.normal(size=6)[g] * x
    model = Model(design(y, np.ones((n, 1)), term("g", g, x[:, None]), term("h", h)))
    dev = model.sparse(True)
    assert not dev.cross.pairs[1, 0].data.any()
    theta = model.theta("interior")
    dense = model.dense(True)
    Z = dense.Z @ dense._lambda(theta)
    Vinv = np.linalg.inv(np.eye(n) + Z @ Z.T)
    close(lev.leverage(dev, model.design, theta).random, 1.0 - np.diag(Vinv), 1e-10)


def test_studentized_residuals_have_unit_variance_by_dense_matrices():
    fit = compare("sleep_w_reml").fit
    dense = fit.model.deviance(engine="dense")
    ZL = dense.Z @ dense._lambda(fit.theta)
    V = np.diag(1.0 / dense.w) + ZL @ ZL.T
    vcov = dense.at(fit.theta).vcov_unscaled
    Vinv = np.linalg.inv(V)
    P = Vinv - Vinv @ dense.X @ vcov @ dense.X.T @ Vinv
    sigma, w = fit.sigma, dense.w
    marginal = dense.y - dense.X @ fit.pls.beta
    raw = (P @ dense.y) / w  # Var(raw) = sigma^2 P / (w w') because P V P = P
    close(fit.residuals("studentized"), raw / (sigma * np.sqrt(np.diag(P)) / w), 1e-8)
    spread = np.diag(V - dense.X @ vcov @ dense.X.T)
    close(fit.residuals("studentized", level="marginal"), marginal / (sigma * np.sqrt(spread)))
    close(fit.residuals("pearson", level="marginal"), marginal / np.sqrt(np.diag(V)))


def test_deleted_residuals_come_from_the_fit_without_the_row():
    fit = compare("sleep_slope_reml").fit
    sigma = fit.influence().sigma
    e, h = fit.resid, fit.hatvalues()
    close(fit.residuals("deleted"), e / (sigma.to_numpy() * np.sqrt(1.0 - h)), 1e-10)


def known_levels():
    """Relationships between twelve levels, one of them without data."""
    matrix = np.eye(12) + 0.3
    return {"g": sparselmm.KnownCovariance(matrix, [f"a{i}" for i in range(12)])}


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("y ~ x + cs(x | g)", {}),
        ("y ~ x + ar1(x | g)", {}),
        ("y ~ x + (x | g)", {"covariance": known_levels()}),
        ("y ~ x", {"groups": "h", "vc_formula": {"g": "0 + C(g)"}, "re_formula": "1"}),
    ],
)
def test_leverage_under_structures_is_that_of_dense_matrices(formula, options):
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(11), 6), rng.normal(size=66)
    y = (1.0 + x) * rng.normal(size=11)[g] + rng.normal(size=66)
    data = pd.DataFrame({"y": y, "x": x, "g": [f"a{j}" for j in g], "h": g % 3})
    fit = sparselmm.mixedlm(formula, data, **options).fit()
    dense = fit.model.deviance(engine="dense")
    ZL = dense.Z @ dense._lambda(fit.theta)
    Vinv = np.linalg.inv(np.diag(1.0 / dense.w) + ZL @ ZL.T)
    vcov = dense.at(fit.theta).vcov_unscaled
    P = Vinv - Vinv @ dense.X @ vcov @ dense.X.T @ Vinv
    np.testing.assert_allclose(fit.hatvalues(), 1.0 - np.diag(P), atol=1e-12)
    by_row = fit.influence(np.arange(66), theta=False)  # from downdated cross-products
    close(by_row.sigma, fit.influence().sigma, 1e-9)
    close(by_row.cooks_distance, fit.influence().cooks_distance, 1e-7)


def test_unknown_kinds_are_refused():
    fit = compare("dyestuff_ri_reml").fit
    with pytest.raises(ValueError, match="must be one of"):
        fit.residuals("raw")
    with pytest.raises(ValueError, match="must be one of"):
        fit.residuals(level="population")
    with pytest.raises(ValueError, match="conditional level only"):
        fit.residuals("deleted", level="marginal")


def test_rows_of_weight_zero_have_no_leverage():
    data = sparselmm.datasets.load("sleepstudy")
    w = np.ones(len(data))
    w[5] = 0.0
    fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data, weights=w).fit()
    assert fit.hatvalues()[5] == 0.0
    assert fit.cooks_distance()[5] == 0.0
    assert np.isnan(fit.residuals("studentized")[5])
    assert fit.influence().cooks_distance[5] == 0.0
    assert fit.check().codes == compare("sleep_slope_reml").fit.check().codes


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def test_figures_show_the_numbers(pyplot):
    fit = compare("sleep_slope_reml").fit
    spread, _, _, influence, _, _ = fit.plot_diagnostics().axes
    close(spread.lines[0].get_ydata(), fit.residuals("studentized"))
    close(influence.lines[0].get_xdata(), fit.hatvalues())
    assert {text.get_text() for text in influence.texts} == set(
        map(str, fit.cooks_distance().nlargest(3).index)
    )
    first, second = fit.plot_ranef("Subject").axes
    assert [tick.get_text() for tick in first.get_yticklabels()] == list(
        fit.ranef["Subject"].sort_values("Intercept").index
    )
    assert sum(len(line.get_xdata()) for line in second.lines if line.get_marker() == "o") == 18
    with pytest.raises(sparselmm.DataError, match="no random effects of 'Pig'"):
        fit.plot_ranef("Pig")


def test_leverage_of_many_points_needs_no_block_for_every_row():
    k, l = 60, 40
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"y": rng.normal(size=k * l), "t": np.tile(np.arange(k), l)})
    data["g"] = np.repeat(np.arange(l), k)
    data["y"] += rng.normal(size=l)[data.g]
    fit = sparselmm.mixedlm("y ~ 1 + ar1(0 + C(t) | g)", data).fit()
    tracemalloc.start()
    fit.hatvalues()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * k * k * k * l / 2  # each row its own block: twice that
