"""Deletion of groups and rows: against refits in R, our own refits, and dense matrices."""

import json

import numpy as np
import pandas as pd
import pytest
from reference_fits import INFERENCE_IDS, reference_inference
from reference_models import at_reference, close, compare
from registry import MODELS, Model

import sparselmm
from sparselmm import datasets
from sparselmm.design.rows import GroupRows
from sparselmm.design.subsets import take_rows
from sparselmm.inference.diagnostics.deletion import (
    Downdates,
    Step,
    by_group,
    level_owners,
    pieces,
    rows_given_theta,
)
from sparselmm.inference.diagnostics.leverage import leverage

pytestmark = [
    pytest.mark.filterwarnings("ignore::sparselmm.SingularMatrixWarning"),
    pytest.mark.filterwarnings("ignore::sparselmm.RankDeficiencyWarning"),
    pytest.mark.filterwarnings("ignore::sparselmm.SpecificationWarning"),
]

GROUPS = [n for n in INFERENCE_IDS if "group_deletion" in reference_inference(n)]
CASES = [n for n in INFERENCE_IDS if "case_deletion" in reference_inference(n)]


def matches(c, fit, found, ref):
    """Exact refits against R's: fixed effects in standard errors, the others relative."""
    names = list(c.ref.fixef.index)
    se = fit.bse_fe[names].to_numpy()
    change = (found.fe_params[names].to_numpy() - np.array(ref["fixef_deleted"])) / se
    assert np.abs(change).max() < 1e-7
    close(found.sigma, ref["sigma_deleted"], 1e-7)
    close(found.cooks_distance, ref["cooks_distance"], 1e-7)
    if len(c.order) == 1:
        close(found.theta, ref["theta_deleted"], 1e-7)
    assert found.converged.all()


@pytest.mark.parametrize("name", GROUPS)
def test_refits_without_groups_are_those_of_lme4(name):
    c, fit, ref = compare(name), at_reference(name), reference_inference(name)["group_deletion"]
    found = fit.influence(ref["group"], exact=True)
    assert list(map(str, found.labels)) == ref["levels"]
    matches(c, fit, found, ref)


@pytest.mark.parametrize("name", CASES)
def test_refits_without_rows_are_those_of_lme4(name):
    c, fit, ref = compare(name), at_reference(name), reference_inference(name)["case_deletion"]
    matches(c, fit, fit.influence(exact=True), ref)


@pytest.mark.parametrize("name", ["sleep_slope_reml", "machines_wm_reml"])
def test_measures_are_those_of_refits_in_r(name):
    path = datasets.data_dir().joinpath("reference/extra/broom.json")
    ref = json.loads(path.read_text(encoding="utf-8"))["fits"][name]["influence"]
    c = compare(name)
    found = at_reference(name).influence(ref["group"], exact=True)
    close(found.dfbetas[list(c.ref.fixef.index)], ref["dfbetas"])
    for measure in ("mdffits", "covtrace", "covratio"):
        close(getattr(found, measure), ref[measure])
    m, r = found.dfbetas.shape
    close(found.cooks_distance * (m - r) / m, ref["lme4_cooks_distance"])


@pytest.mark.parametrize(
    ("name", "group"),
    [("penicillin_reml", "plate"), ("sleep_w_reml", "Subject"), ("oats_num_reml", "Block:Variety")],
)
def test_refits_are_our_own_fits_to_the_other_rows(name, group):
    c = compare(name)
    fit, group = c.fit, ":".join(reversed(group.split(":"))) if ":" in group else group
    found = fit.influence(group, exact=True)
    term = next(t for t in fit.model.terms if ":".join(t.levels.names) == group)
    for j in (0, len(found.labels) - 1):
        rows = term.codes != j
        data = c.ref.rows.assign(prior=c.ref.weights)[rows]
        other = sparselmm.MixedLM.from_formula(
            c.ref.formula, data, weights="prior" if c.ref.weights_formula else None
        ).fit(reml=c.ref.reml)
        change = (found.fe_params.iloc[j] - other.fe_params) / other.bse_fe
        assert np.abs(change).max() < 3e-5  # the stopping rule of the other fit
        np.testing.assert_allclose(found.bse_fe.iloc[j], other.bse_fe, rtol=1e-4)
        assert found.sigma.iloc[j] == pytest.approx(other.sigma, rel=1e-5)
        V = np.linalg.inv(fit.cov_params().to_numpy()[: fit.k_fe, : fit.k_fe])
        V_j = other.cov_params().to_numpy()[: fit.k_fe, : fit.k_fe]
        d = (fit.fe_params - found.fe_params.iloc[j]).to_numpy()
        r = fit.k_fe
        assert found.cooks_distance.iloc[j] == pytest.approx(d @ V @ d / r, rel=1e-6)
        assert found.mdffits.iloc[j] == pytest.approx(d @ np.linalg.solve(V_j, d) / r, rel=1e-3)
        assert found.covtrace.iloc[j] == pytest.approx(abs(np.trace(V @ V_j) - r), abs=1e-4)
        assert found.covratio.iloc[j] == pytest.approx(np.linalg.det(V @ V_j), rel=1e-3)


def partition(model, rng):
    """A factor of the model if there is one with codes for all rows, else any groups."""
    for term in model.design.terms:
        if term.codes is not None and (term.codes >= 0).all():
            return GroupRows.of(term.codes, term.n_levels)
    return GroupRows.of(rng.integers(0, 7, model.design.n), 7)


@pytest.mark.parametrize("kind", ["interior", "boundary"])
@pytest.mark.parametrize("name", MODELS)
def test_pieces_without_a_group_are_those_of_the_other_rows(name, kind):
    model, theta = MODELS[name], MODELS[name].theta(kind)
    groups = partition(model, np.random.default_rng(1))
    dev = model.sparse(reml=True)
    step = Step.of(dev, theta, np.ones(len(theta), bool))
    engines = Downdates(dev, model.design, groups)
    owners = level_owners(model.design, groups)
    together = None if owners is None else list(by_group(dev, model.design, theta, groups, owners))
    for j in (0, 3):
        part = Model(take_rows(model.design, np.setdiff1d(np.arange(model.design.n), groups[j])))
        want = part.dense(reml=True)
        at = want.at(theta)
        for p in [pieces(engines.without(j), theta)] + ([together[j]] if together else []):
            found = step.given_theta(p)
            se = np.sqrt(np.diag(at.scale * at.vcov_unscaled))
            assert np.abs((found.beta - at.beta) / se).max(initial=0.0) < 1e-7
            assert found.scale == pytest.approx(at.scale, rel=1e-8)
            np.testing.assert_allclose(
                found.vcov, at.scale * at.vcov_unscaled, atol=1e-8 * np.outer(se, se).max(initial=0)
            )
            unit = model.unit_of_theta
            gradient = want.gradient(theta)
            np.testing.assert_allclose(
                step._gradient(p, found) * unit, gradient * unit,
                atol=1e-6 * max(1.0, np.abs(gradient * unit).max()),
            )  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_rows_in_closed_form_are_rows_deleted(name):
    model, theta = MODELS[name], MODELS[name].theta("interior")
    dev = model.sparse(reml=False)
    found = rows_given_theta(dev, model.design, theta, leverage(dev, model.design, theta))
    rows = GroupRows.of(np.arange(model.design.n), model.design.n)
    engines = Downdates(dev, model.design, rows)
    state = dev.state_at(theta)
    for i in (0, 3, 20):
        without = engines.without(i).state_at(theta)
        np.testing.assert_allclose(state.gamma - found.change[i], without.gamma, atol=1e-7)
        assert found.pwrss[i] == pytest.approx(without.pwrss, rel=1e-9)
        inverse = np.linalg.inv(state.Rxx.T @ state.Rxx) if len(state.gamma) else np.zeros((0, 0))
        want = np.linalg.inv(without.Rxx.T @ without.Rxx) if len(state.gamma) else inverse
        np.testing.assert_allclose(inverse + np.outer(found.a[i], found.a[i]), want, atol=1e-8)


@pytest.mark.parametrize("name", ["sleep_slope_reml", "ortho_slope_reml", "penicillin_reml"])
def test_one_step_goes_most_of_the_way(name):
    fit, group = compare(name).fit, reference_inference(name)["group_deletion"]["group"]
    exact, step = fit.influence(group, exact=True), fit.influence(group)
    move = np.abs(exact.theta - fit.theta).max(axis=1)
    error = np.abs(exact.theta - step.theta).max(axis=1)
    assert error.median() < 0.25 * move.median()
    assert (error < 0.5 * move.max()).all()
    held = fit.influence(group, theta=False)
    assert (step.sigma - exact.sigma).abs().mean() < 0.5 * (held.sigma - exact.sigma).abs().mean()
    with pytest.raises(sparselmm.DataError, match="held"):
        held.theta  # noqa: B018


def test_rows_with_theta_held_are_the_closed_form():
    fit = compare("penicillin_reml").fit
    rows = fit.influence()
    groups = fit.influence(np.arange(fit.nobs), theta=False)
    for name in ("cooks_distance", "mdffits", "covtrace", "covratio", "sigma", "dfbetas", "bse_fe"):
        np.testing.assert_allclose(
            getattr(rows, name), getattr(groups, name), rtol=1e-7, atol=1e-10
        )


def test_a_deletion_that_costs_a_rank_is_nan():
    data = sparselmm.datasets.load("sleepstudy")
    data = data.assign(special=(data["Subject"] == "308") * 1.0)
    fit = sparselmm.mixedlm("Reaction ~ Days + special + (1 | Subject)", data).fit()
    for options in ({"exact": True}, {}):
        found = fit.influence("Subject", **options)
        assert found.cooks_distance.isna().to_dict()["308"]
        assert found.cooks_distance.notna().sum() == 17
        assert not found.converged["308"]


def test_known_sigma_stays_known():
    data = sparselmm.datasets.load("sleepstudy")
    model = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data)
    fit = model.fit(fix={"sigma": 25.0})
    exact, step = fit.influence("Subject", exact=True), fit.influence("Subject")
    assert (exact.sigma == 25.0).all()
    assert (step.sigma == 25.0).all()
    assert (fit.influence().sigma == 25.0).all()
    rest = data[data["Subject"] != "308"]
    other = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", rest).fit(fix={"sigma": 25.0})
    change = (exact.fe_params.loc["308"] - other.fe_params) / other.bse_fe
    assert change.abs().max() < 3e-5
    np.testing.assert_allclose(exact.theta.loc["308"], other.theta, rtol=1e-3)
    pd.testing.assert_series_equal(fit.residuals("deleted"), fit.residuals("studentized"))


def test_without_fixed_effects_there_is_nothing_to_move():
    fit = compare("zero_fe_ml").fit
    for found in (fit.influence(), fit.influence("Rail"), fit.influence("Rail", exact=True)):
        assert found.cooks_distance.isna().all()
        assert found.sigma.notna().all()
    assert fit.cooks_distance().isna().all()
    assert (fit.hatvalues() > 0).all()


def test_group_labels():
    data = sparselmm.datasets.load("sleepstudy")
    fit = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", data).fit()
    by_name, by_array = fit.influence("Subject"), fit.influence(data["Subject"].to_numpy())
    pd.testing.assert_frame_equal(by_name.to_frame(), by_array.to_frame())
    assert list(fit.influence("Days").labels) == list(range(10))  # a column of the data
    assert "309" in repr(by_name)
    some = data["Subject"].where(data["Subject"] != "309")  # its rows stay in every fit
    found = fit.influence(some.to_numpy())
    assert "309" not in found.labels
    pd.testing.assert_frame_equal(found.fe_params, by_name.fe_params.drop("309"), check_names=False)
    doubled = pd.concat([data, data.assign(Subject=data["Subject"].astype(str) + "b")])
    rows = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", doubled).fit().influence()
    assert rows.to_frame().shape == (360, 7)  # labels twice
    with pytest.raises(sparselmm.DataError, match="no grouping factor 'Pig'"):
        fit.influence("Pig")
    with pytest.raises(sparselmm.DataError, match="180 rows"):
        fit.influence([1, 2])
