"""Stacks of responses against single evaluations, single fits and lme4's refit."""

import json

import numpy as np
import pandas as pd
import pytest
from registry import MODELS, THETAS, Model, design, term

import sparselmm
from sparselmm.base import kernels_stacks as kernels_batched
from sparselmm.likelihood.many import BatchedModel, Projector, setup
from sparselmm.likelihood.many.evaluation import SMALL_ORDER, evaluate, invert
from sparselmm.likelihood.many.responses import ResponseFitter
from sparselmm.results.tables import many as many_module

REFERENCE = json.loads(
    sparselmm.datasets.data_dir().joinpath("reference/extra/simulation.json").read_text("utf-8")
)
RTOL = {"huge": 2e-6}  # M is close to singular; anywhere else rounding is far below


def simulated(model, m, seed=0):
    """Responses with effects of all sizes, some of them zero, (m, n)."""
    one, rng = model.design, np.random.default_rng(seed)
    sizes = rng.uniform(0.0, 1.5, (m, 1)) * (rng.uniform(size=(m, 1)) > 0.2)
    units = np.concatenate(
        [np.tile(np.ones(t.k) if model.unit is None else model.unit, t.n_levels) for t in one.terms]
    )
    effects = rng.normal(size=(m, one.q)) * units
    return (sizes * (effects @ one.Z.T.toarray())) + rng.normal(size=(m, one.n)) + 2.0


# ------------------------------------------------------------------------------ evaluation


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("name", MODELS)
def test_evaluation(name, reml):
    """Every response at a theta of its own, as the deviance of that response alone."""
    model = MODELS[name]
    kinds = list(THETAS)
    fitter = ResponseFitter(model.design, model.sparse(reml))
    Y = simulated(model, len(kinds))
    responses = fitter.projector(Y)
    points = evaluate(fitter.batch, np.array([model.theta(kind) for kind in kinds]), responses)
    basis = fitter.deviance.cross.basis
    inner = fitter.batch.covariance.in_tangent
    for i, kind in enumerate(kinds):
        alone = fitter.deviance_of(responses.take(slice(i, i + 1)))
        theta = model.theta(kind)
        fit = alone.at(theta)
        rtol = RTOL.get(kind, 1e-9)
        # huge: rounding of D_l^-1 (5e-15) is magnified 1e7 times in S_xx, whatever the routine
        value_rtol = 1e-8 if kind == "huge" else 1e-12
        np.testing.assert_allclose(points.value[i], fit.deviance, rtol=value_rtol)
        beta = responses.shift[i] + basis.T @ points.gamma[i]
        np.testing.assert_allclose(beta, fit.beta, rtol=rtol, atol=rtol)
        vcov = basis.T @ points.covariance[i] @ basis.T.T
        largest = np.abs(fit.vcov_unscaled).max(initial=0.0)
        np.testing.assert_allclose(vcov, fit.vcov_unscaled, rtol=0, atol=rtol * largest)
        gradient = alone.gradient(theta)
        size = np.abs(gradient).max() + 1e-6 / fitter.batch.units.max()
        np.testing.assert_allclose(points.gradient[i, inner], gradient, atol=rtol * size)
        information = alone.average_information(alone.state_at(theta))[np.ix_(inner, inner)]
        found = points.information[i][np.ix_(inner, inner)]
        if kind != "huge":  # differences of numbers 1e9 times as large
            atol = rtol * np.abs(information).max()
            np.testing.assert_allclose(found, information, atol=atol)


def test_tensor_dense_or_sparse(monkeypatch):
    """Nested factors, where most levels of the head meet few columns."""
    rng = np.random.default_rng(3)
    inner = np.repeat(np.arange(120), 3)
    X = np.column_stack([np.ones(360), rng.normal(size=360)])
    one = Model(design(rng.normal(size=360), X, term("c", inner), term("s", inner // 4)))
    deviance, values = one.sparse(True), []
    responses = Projector(one.design, deviance.cross)(simulated(one, 4))
    for share in (0.0, 1.0):
        monkeypatch.setattr(setup, "MOSTLY_ZERO", share)
        model = BatchedModel.of(deviance)
        assert isinstance(model.head.tensor, np.ndarray) == (share == 0.0)
        values.append(evaluate(model, np.full((4, 2), 0.6), responses))
    np.testing.assert_allclose(values[0].value, values[1].value, rtol=1e-12)
    np.testing.assert_allclose(values[0].gradient, values[1].gradient, rtol=1e-9)
    monkeypatch.setattr(setup, "LARGEST_TENSOR", 10)
    assert BatchedModel.of(one.sparse(True)) is None


@pytest.mark.parametrize("n", [1, 2, 7, SMALL_ORDER + 8])
@pytest.mark.parametrize("plain", [False, True])
def test_invert(n, plain, monkeypatch):
    if plain:
        for name in ("invert_stack", "mirror"):
            kernel = getattr(kernels_batched, name).__wrapped__
            monkeypatch.setattr(kernels_batched, name, kernel)
    rng = np.random.default_rng(n)
    S = rng.normal(size=(5, n, n + 2))
    S = S @ S.transpose(0, 2, 1)
    S[3] = -np.eye(n)
    lead = n // 2
    inverse, logdets, good = invert(S, lead)
    assert good.tolist() == [True, True, True, False, True]
    exact = np.linalg.inv(S[good])
    np.testing.assert_allclose(inverse[good], exact, atol=1e-11 * np.abs(exact).max(), rtol=0)
    np.testing.assert_allclose(logdets[good, 1], np.linalg.slogdet(S[good])[1], atol=1e-10)
    leading = np.linalg.slogdet(S[good][:, :lead, :lead])[1]
    np.testing.assert_allclose(logdets[good, 0], leading, atol=1e-10)
    assert np.isnan(inverse[3]).all()
    assert np.isnan(logdets[3]).all()


@pytest.mark.parametrize("plain", [False, True])
def test_packed_symmetric_matrices(plain):
    rng = np.random.default_rng(4)
    S, rest = rng.normal(size=(3, 5, 5)), rng.normal(size=(5, 5))
    S, rest = S + S.transpose(0, 2, 1), rest + rest.T
    scales, i = rng.normal(size=(3, 5)), np.tril_indices(5)
    unpack, pack = kernels_batched.unpack_rest, kernels_batched.pack_scaled
    if plain:
        unpack, pack = unpack.__wrapped__, pack.__wrapped__
    out, packed = np.empty((3, 5, 5)), np.empty((3, 15))
    unpack(rest, S[:, i[0], i[1]], out)
    np.testing.assert_array_equal(out, rest - S)
    pack(S, scales, packed)
    expected = np.einsum("ij,mi,mij,mj->m", rest, scales, S, scales)
    np.testing.assert_allclose(packed @ rest[i], expected, rtol=1e-12)


# ------------------------------------------------------------------------------------ fits


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("name", MODELS)
def test_fits(name, reml):
    """Responses fitted together and alone, variances of zero included."""
    model = MODELS[name]
    deviance = model.sparse(reml)
    Y = simulated(model, 12, seed=1)
    together = ResponseFitter(model.design, deviance).fit(Y)
    alone = ResponseFitter(model.design, deviance, stacked=False).fit(Y)
    assert together.converged.all()
    assert alone.alone.all()
    assert together.alone.sum() <= 3
    # Where two optima exist each search may find either; none may be worse than 1e-6.
    assert (together.deviance <= alone.deviance + 1e-6).all()
    same = np.abs(together.deviance - alone.deviance) < 1e-6
    assert same.mean() > 0.8
    np.testing.assert_allclose(together.beta[same], alone.beta[same], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(together.se[same], alone.se[same], rtol=1e-3)
    np.testing.assert_allclose(together.scale[same], alone.scale[same], rtol=1e-4)


@pytest.mark.parametrize("case", REFERENCE["refits"], ids=lambda case: case["id"])
def test_lme4_refits(case):
    data = sparselmm.datasets.load(case["data"])
    keywords = {}
    if case["prior"]:
        keywords["weights"] = 1.0 / (1.0 + data["Days"].to_numpy())
    model = sparselmm.mixedlm(case["formula"], data, **keywords)
    y = model.built.design.y
    i = np.arange(1, len(y) + 1)
    Y = pd.DataFrame(
        {
            "log": np.log(y), "reversed": y[::-1], "cube": y**3,
            "wave": y + 3 * y.std(ddof=1) * np.sin(i), "noise": np.cos(7.0 * i**2),
        }
    )  # fmt: skip
    many = model.fit_many(Y, reml=case["reml"])
    assert many.converged.all()
    for name, expected in case["responses"].items():
        # lme4's own optimum is only good to about 1e-9 in the deviance
        deviance = -2.0 * many.llf[name]
        assert deviance == pytest.approx(expected["deviance"], rel=1e-9, abs=1e-6)
        np.testing.assert_allclose(
            many.fe_params.loc[name], expected["fixef"], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(many.bse_fe.loc[name], expected["se"], rtol=1e-4)
        assert many.sigma[name] == pytest.approx(expected["sigma"], rel=1e-4)


def test_one_row_per_response():
    data = sparselmm.datasets.load("sleepstudy")
    model = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data)
    Y = pd.DataFrame({"ms": data.Reaction, "s": data.Reaction / 1000.0})
    many = model.fit_many(Y)
    fit = model.fit()
    np.testing.assert_allclose(many.table.loc["ms", "Days"], fit.fe_params["Days"], rtol=1e-8)
    np.testing.assert_allclose(many.pvalues.loc["ms"], fit.pvalues[:2], rtol=1e-2)
    sds = fit.varcorr.sdcor.to_numpy()
    np.testing.assert_allclose(many.sds.loc["ms"].to_numpy(), sds[[0, 2, 1, 3]], rtol=1e-4)
    np.testing.assert_allclose(many.variances.loc["s"] * 1e6, many.variances.loc["ms"], rtol=1e-4)
    again = fit.fit_many(Y.to_numpy(), names=["ms", "s"])
    pd.testing.assert_frame_equal(again.table, many.table)


def test_rank_deficient_weights_and_offset():
    data = sparselmm.datasets.load("sleepstudy")
    data["twice"] = 2.0 * data.Days
    w = np.where(np.arange(180) % 7, 1.0 + data.Days, 0.0)
    formula = "Reaction ~ Days + twice + offset(3 * Days) + (1 | Subject)"
    model = sparselmm.mixedlm(formula, data, weights=w)
    with pytest.warns(sparselmm.RankDeficiencyWarning):
        fit = model.fit()
    many = model.fit_many(data[["Reaction"]])
    np.testing.assert_allclose(many.fe_params.iloc[0], fit.fe_params, rtol=1e-7)
    assert np.isnan(many.fe_params["twice"]).all()
    assert many.llf.iloc[0] == pytest.approx(fit.llf, rel=1e-10)


def test_bad_responses():
    data = sparselmm.datasets.load("sleepstudy")
    model = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", data)
    holes = data.Reaction.where(data.index % 10 != 3)
    Y = pd.DataFrame({"whole": data.Reaction, "holes": holes})
    with pytest.raises(sparselmm.DataError, match="'holes' has missing"):
        model.fit_many(Y)
    many = model.fit_many(Y, missing="drop")
    keep = holes.notna()
    alone = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", data[keep]).fit()
    np.testing.assert_allclose(many.fe_params.loc["holes"], alone.fe_params, rtol=1e-6)
    assert many.llf["holes"] == pytest.approx(alone.llf, rel=1e-9)
    Y["line"] = 1.0 + 2.0 * data.Days
    with pytest.warns(sparselmm.ConvergenceWarning, match="1 of 3 .*exact fit"):
        many = model.fit_many(Y, missing="drop")
    assert many.failure["line"] == "exact fit of the fixed effects"
    assert many.table.loc["line", "Days":"Days p"].isna().all()
    with pytest.raises(sparselmm.DataError, match="one row per row of the model, 180"):
        model.fit_many(Y.iloc[:10])
    with pytest.raises(sparselmm.DataError, match="2 names for 3"):
        model.fit_many(Y.fillna(0.0), names=["a", "b"])


def not_stacking(name, monkeypatch):
    """A fit of a model whose responses are fitted one by one."""
    data = sparselmm.datasets.load("sleepstudy")
    if name == "large":
        monkeypatch.setattr(setup, "LARGEST_REST", 1)
        return sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
    if name == "pattern":
        return sparselmm.mixedlm("Reaction ~ Days + cs(Days | Subject)", data).fit()
    model = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", data)
    return model.fit(fix={"sigma": 30.0})


@pytest.mark.parametrize("name", ["large", "pattern", "sigma"])
def test_models_that_do_not_stack(name, monkeypatch):
    fit = not_stacking(name, monkeypatch)
    y = fit.model.built.design.y
    many = fit.fit_many(np.column_stack([y, y + np.linspace(0, 50, 180)]))
    assert many.fits.alone.all()
    assert many.converged.all()
    assert many.llf.iloc[0] == pytest.approx(fit.llf, rel=1e-10)
    np.testing.assert_allclose(many.fe_params.iloc[0], fit.fe_params, rtol=1e-6)
    assert many.sigma.iloc[0] == pytest.approx(fit.sigma, rel=1e-6)


@pytest.mark.slow
def test_thousand_responses():
    """A crossed design of 2,000 rows: certified optima, a sample of them against single fits."""
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 50, 2000), rng.integers(0, 40, 2000)
    data = pd.DataFrame({"a": a, "b": b, "x": rng.normal(size=2000)})
    sizes = rng.uniform(0.0, 2.0, (2, 1000)) * (rng.uniform(size=(2, 1000)) > 0.1)
    Y = rng.normal(size=(2000, 1000)) + np.outer(data.x, rng.normal(size=1000))
    Y += sizes[0] * rng.normal(size=(50, 1000))[a] + sizes[1] * rng.normal(size=(40, 1000))[b]
    data["y"] = Y[:, 0]
    many = sparselmm.mixedlm("y ~ x + (1 | a) + (1 | b)", data).fit_many(Y)
    assert many.converged.all()
    for i in rng.choice(1000, 40, replace=False):
        data["y"] = Y[:, i]
        model = sparselmm.mixedlm("y ~ x + (1 | a) + (1 | b)", data)
        opt = ResponseFitter(model.design, model.deviance(), stacked=False).fit(Y[:, [i]].T)
        assert many.llf.iloc[i] == pytest.approx(-0.5 * opt.deviance[0], rel=1e-9, abs=1e-6)
        np.testing.assert_allclose(many.fe_params.iloc[i], opt.beta[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_any_number_of_workers(monkeypatch):
    monkeypatch.setattr(many_module, "TASK_NUMBERS", 1)  # 16 responses per task
    fit = sparselmm.mixedlm(
        "Reaction ~ Days + (Days | Subject)", sparselmm.datasets.load("sleepstudy")
    ).fit()
    Y = fit.simulate(40, seed=1)
    alone, together = (fit.fit_many(Y, n_jobs=n) for n in (1, 2))
    pd.testing.assert_frame_equal(alone.table, together.table)
    assert alone.names == list(range(40))
