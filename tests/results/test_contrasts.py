"""Contrasts, adjustments, trends, joint tests, nested factors against R's emmeans."""

import json
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.stats as st

import sparselmm
from sparselmm import datasets
from sparselmm.base.exceptions import ArgumentError, DataError, RankDeficiencyWarning
from sparselmm.inference.hypotheses.multiplicity import JOINT, Family, adjusted
from sparselmm.results.tables.contrasts import compact_letters

R = json.loads(
    datasets.data_dir().joinpath("reference", "extra", "contrasts.json").read_text(encoding="utf-8")
)
MODELS = {
    "ergo": ("effort ~ Type + (1 | Subject)", "ergoStool"),
    "oats": ("Yield ~ nitro_f * Variety + (1 | Block / Variety)", "Oats"),
    "log": ("np.log(Yield) ~ nitro_f + Variety + (1 | Block)", "Oats"),
    "sqrt": ("np.sqrt(Yield) ~ nitro_f + Variety + (1 | Block)", "Oats"),
    "dietox": ("Weight ~ Time * Cu + (1 | Pig)", "dietox"),
}


@cache
def fit(name):
    formula, data = MODELS[name]
    return sparselmm.mixedlm(formula, datasets.load(data)).fit()


@cache
def nested():
    """As in contrasts.R: five treatments in three groups, of which each occurs in one."""
    rows = pd.DataFrame(R["nest_rows"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficiencyWarning)
        return sparselmm.mixedlm("y ~ b / a + c + (1 | g)", rows).fit()


def numbers(values):
    return np.array([np.nan if v in (None, "NA") else float(v) for v in values])


def agree(table, expected, p_atol=1e-6, rtol=3e-6, half=1e-5):
    """Numbers of every column that R's table has.

    ``half`` is the tolerance of limits in standard errors: R finds the critical values of
    "dunnettx" by a root search to 1e-4, those of "mvt" by simulation to 5e-3.
    """
    for name, values in expected.items():
        if name == "df" and all(v is None for v in values):  # infinite
            assert np.isposinf(table[name]).all()
            continue
        if name not in table or not all(isinstance(v, (int, float)) or v is None for v in values):
            continue
        tolerance = {"p.value": (0.0, p_atol), "df": (1e-3, 0.0)}.get(name, (rtol, 1e-7))
        if name.endswith(".CL"):
            tolerance = (rtol, half * np.nanmax(table.SE))
        np.testing.assert_allclose(table[name], numbers(values), *tolerance, err_msg=name)


def agree_joint(table, expected):
    """R rounds F to three digits; its df2 is the least of single contrasts, ours as of anova()."""
    assert table["model term"].tolist() == expected["model term"]
    np.testing.assert_array_equal(table["df1"], expected["df1"])
    np.testing.assert_allclose(table["F.ratio"], expected["F.ratio"], 0.0, 5.1e-4)
    np.testing.assert_allclose(table["p.value"], expected["p.value"], 0.0, 1e-4)


@pytest.mark.parametrize("adjust", ["scheffe", "hochberg", "BY", "fdr", "sidak"])
def test_adjustments(adjust):
    agree(fit("ergo").emmeans("Type").pairs(adjust), R[f"pairs_{adjust}"])


def test_the_joint_distribution():
    """R integrates by randomized lattices to about 1e-4."""
    table = fit("ergo").emmeans("Type").pairs("mvt")
    agree(table, R["pairs_mvt"], 3e-4, half=5e-3)


@pytest.mark.parametrize(
    "method", ["trt.vs.ctrl", "trt.vs.ctrlk", "poly", "eff", "del.eff", "consec", "mean_chg"]
)
def test_families(method):
    table = fit("ergo").emmeans("Type").contrast(method)
    half = {"consec": 5e-3, "mean_chg": 5e-3, "poly": 1e-5}.get(method, 1e-4)
    agree(table, R[method], 3e-4 if half > 1e-3 else 1e-6, half=half)
    assert table.contrast.tolist() == R[method]["contrast"]


def test_another_control():
    means = fit("ergo").emmeans("Type")
    agree(means.contrast("trt.vs.ctrl", ref=2), R["ref3"], half=1e-4)
    pd.testing.assert_frame_equal(
        means.contrast("dunnett", ref="T3"), means.contrast("trt.vs.ctrl", ref=2)
    )


@pytest.mark.parametrize("side", ["equivalence", "noninferiority", "nonsuperiority"])
def test_margins(side):
    means = fit("ergo").emmeans("Type")
    agree(means.contrast("pairwise", "none", side=side, delta=1.0), R[side])


def test_one_sided_and_another_value():
    means = fit("ergo").emmeans("Type")
    greater = means.contrast("pairwise", "none", side=">")
    agree(greater, {k: v for k, v in R["greater"].items() if k != "upper.CL"})
    assert np.isposinf(greater["upper.CL"]).all()
    agree(means.test(9.0), R["null9"])


def test_joint_tests():
    agree_joint(fit("oats").joint_tests(), R["joint"])
    table = fit("oats").joint_tests(by="Variety")
    agree_joint(table, R["joint_by"])
    table = fit("dietox").joint_tests()
    agree_joint(table, R["joint_cov"])


def test_joint_tests_are_type_three_tests():
    """Sum contrasts in a balanced design: the F tests of anova()."""
    data = datasets.load("Oats")
    formula = "Yield ~ C(nitro_f, Sum) * C(Variety, Sum) + (1 | Block / Variety)"
    anova = sparselmm.mixedlm(formula, data).fit().anova(ddf="satterthwaite")
    table = fit("oats").joint_tests()
    np.testing.assert_allclose(table["F.ratio"], anova.iloc[:, anova.columns.get_loc("F")], 1e-6)


def test_interaction_contrasts():
    means = fit("oats").emmeans(["nitro_f", "Variety"])
    table = means.contrast(interaction=["poly", "consec"])
    agree(table, R["interaction"])
    one = means.contrast("consec", interaction=True)
    assert len(one) == 6
    with pytest.raises(ArgumentError, match="interaction has 1 methods for the 2 variables"):
        means.contrast(interaction=["poly"])


def test_within_levels():
    means = fit("oats").emmeans("nitro_f", by="Variety")
    agree(means.contrast("trt.vs.ctrl"), R["by_ctrl"], half=1e-4)


def test_response_scale():
    means = fit("log").emmeans("nitro_f", type="response")
    agree(means.frame, R["log_means"])
    agree(means.pairs(), R["log_pairs"])
    assert "ratio" in means.pairs()
    root = fit("sqrt").emmeans("nitro_f", type="response")
    agree(root.frame, R["sqrt_means"])
    with pytest.raises(DataError, match=r"use type='link', or regrid\(\)"):
        root.pairs()
    plain = root.regrid()
    np.testing.assert_allclose(plain.frame.response, root.frame.response)
    np.testing.assert_allclose(plain.frame.SE, root.frame.SE)
    with pytest.raises(DataError, match="needs a transformation on the formula's left side"):
        fit("oats").emmeans("nitro_f", type="response").frame  # noqa: B018


def test_means_adjusted_for_bias():
    """By half the second derivative times the variance; R's takes numerical ones."""
    log, root = fit("log"), fit("sqrt")
    asked = {"type": "response", "bias_adjust": True}
    means = log.emmeans("nitro_f", **asked)
    agree(means.frame, R["log_bias"])
    variance = float(log.varcorr.vcov.sum())
    exact = log.emmeans("nitro_f").frame.emmean.map(np.exp) * (1.0 + 0.5 * variance)
    np.testing.assert_allclose(means.frame.response, exact, rtol=1e-9)
    agree(means.pairs(), R["log_pairs"])  # ratios stay
    agree(root.emmeans("nitro_f", **asked).frame, R["sqrt_bias"])
    given = log.emmeans("nitro_f", type="response", bias_adjust=0.3)
    agree(given.regrid().pairs(), R["log_bias_pairs"])
    formula = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
    herds = sparselmm.mixedglm(formula, datasets.load("cbpp")).fit()
    expected = {{"prob": "response"}.get(k, k): v for k, v in R["cbpp_bias"].items()}
    agree(herds.emmeans("period", bias_adjust=True).frame, expected, rtol=2e-5, half=1e-4)
    for bad, says in ((True, "type=.response"), (-1.0, "standard deviation"), ("yes", "standard")):
        scale = "link" if bad is True else "response"
        with pytest.raises(ArgumentError, match=says):
            log.emmeans("nitro_f", type=scale, bias_adjust=bad)
    zeros = {"family": "poisson", "zi": "~ 1"}
    counts = sparselmm.mixedglm("TICKS ~ YEAR + (1 | BROOD)", datasets.load("grouseticks"), **zeros)
    assert np.isfinite(counts.fit().emmeans("YEAR", bias_adjust=True).frame.response).all()
    rough = sparselmm.mixedlm(
        "np.log(Yield) ~ nitro_f + (1 | Block)", datasets.load("Oats"), dispersion="~ Variety"
    ).fit()
    with pytest.raises(DataError, match="bias_adjust= a standard deviation"):
        rough.emmeans("nitro_f", **asked)
    assert (rough.emmeans("nitro_f", type="response", bias_adjust=0.3).frame.response > 70).all()


def test_trends():
    trends = fit("dietox").emtrends("Time", "Cu")
    agree(trends.frame, R["trends"])
    agree(trends.pairs(), R["trend_pairs"])
    curve = sparselmm.mixedlm("Weight ~ Time + I(Time ** 2) + (1 | Pig)", datasets.load("dietox"))
    result = curve.fit()
    _, b, c = result.fe_params
    found = result.emtrends("Time", "Time", at={"Time": [2, 10]}).frame["Time.trend"]
    np.testing.assert_allclose(found, [b + 4 * c, b + 20 * c])
    with pytest.raises(DataError, match="var must name a covariate of the fixed effects"):
        result.emtrends("Tim", "Time")
    with pytest.raises(DataError, match="var must name a covariate"):
        fit("dietox").emtrends("Cu", "Time")


@cache
def cells(formula="y ~ a * b + x + (1 | g)"):
    """As in contrasts.R: an unbalanced design with two empty cells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficiencyWarning)
        return sparselmm.mixedlm(formula, pd.DataFrame(R["cell_rows"])).fit()


WEIGHTS = ["equal", "proportional", "outer", "cells", "flat"]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights(weights):
    agree(cells().emmeans("a", weights=weights).frame, R[f"weights_{weights}"])
    at = {"a": ["a2", "a3"], "x": [1, 2]}
    found = cells().emmeans("b", by="x", at=at, weights=weights).frame
    agree(found, R[f"weights_by_{weights}"])


@pytest.mark.parametrize("weights", WEIGHTS[1:])
def test_weights_within_nests(weights):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficiencyWarning)
        rows = pd.DataFrame(R["nest_rows"])[17:]
        result = sparselmm.mixedlm("y ~ b / a + c + (1 | g)", rows).fit()
    agree(result.emmeans("b", weights=weights).frame, R[f"nest_weights_{weights}"])


def test_empty_cells():
    """Contrasts that cannot be estimated count among the tests; others are not spoilt by them."""
    agree(cells().emmeans("b", by="a").pairs("fdr"), R["cells_pairs"])
    agree_joint(cells().joint_tests(), R["confounded"])


def test_after_regridding_a_contrast_has_the_least_df():
    result = cells("np.log(z) ~ a + b + x + (1 | g)")
    agree(result.emmeans("a").regrid().pairs(), R["regrid"])
    inside = cells("np.log(z) ~ a * b + x + (1 | g)").emmeans(["a", "b"]).regrid()
    missing = inside.frame.response.isna()
    assert missing.sum() == 2
    assert inside.pairs().estimate.isna().sum() == 10 + 11


def test_ratios_are_named_and_means_tested_on_their_scale():
    means = cells("np.log(z) ~ a + b + x + (1 | g)").emmeans("a", type="response")
    table = means.contrast("consec", "none")
    agree(table, R["ratios"])
    assert table.contrast.tolist() == R["ratios"]["contrast"] == ["a2 / a1", "a3 / a2", "a4 / a3"]
    agree(means.test(1.0), R["means_test"], 1e-5)
    with pytest.raises(DataError, match="weights that sum to zero"):
        means.contrast([[1, 1, 0, 0]])


@pytest.mark.parametrize("side", [">", "<", "equivalence", "noninferiority", "nonsuperiority"])
def test_the_joint_distribution_of_one_side(side):
    means = cells("np.log(z) ~ a + b + x + (1 | g)").emmeans("a")
    delta = 0.0 if len(side) == 1 else 0.6
    table = means.contrast("trt.vs.ctrl", "mvt", side=side, delta=delta)
    agree(table, R[f"mvt_{side}"], 3e-4)


@pytest.mark.parametrize("specs", ["a", "b", "c"])
def test_nested_factors(specs):
    means = nested().emmeans(specs)
    agree(means.frame, R[f"nest_{specs}"])
    agree(means.pairs(), R[f"nest_pairs_{specs}"], 1e-5)


def test_joint_tests_of_nested_factors():
    table = nested().joint_tests()
    agree_joint(table, R["nest_joint"])


def test_nested_factors_side_by_side_are_tested_within_their_nests():
    rows = pd.DataFrame(R["nest_rows"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficiencyWarning)
        beside = sparselmm.mixedlm("y ~ b + a + c + (1 | g)", rows).fit()
    table = beside.joint_tests().set_index("model term")
    assert set(table.index) == {"b", "c", "b:a"} or set(table.index) == {"b", "c", "a:b"}
    one = beside.anova().loc["a"]
    np.testing.assert_allclose(table.loc["b:a", "F.ratio"], one["F"], rtol=1e-6)
    assert table.loc["b:a", "df1"] == one["df_num"]


@pytest.mark.parametrize(("left", "added"), [("np.log10(y + 1)", 1.0), ("np.sqrt(2.5 + y)", 2.5)])
def test_a_number_added_to_the_response_is_taken_off(left, added):
    data = datasets.load("Oats").rename(columns={"Yield": "y"})
    whole = sparselmm.mixedlm(f"{left} ~ nitro_f + (1 | Block)", data).fit()
    plain = left.replace(" + 1", "").replace("2.5 + ", "")
    shifted = sparselmm.mixedlm(f"{plain} ~ nitro_f + (1 | Block)", data.assign(y=data.y + added))
    ours = whole.emmeans("nitro_f", type="response").frame
    theirs = shifted.fit().emmeans("nitro_f", type="response").frame
    np.testing.assert_allclose(ours["response"] + added, theirs["response"])
    np.testing.assert_allclose(ours["lower.CL"] + added, theirs["lower.CL"])
    np.testing.assert_allclose(ours["SE"], theirs["SE"], rtol=1e-6)


def test_generalized_models_share_all_of_it():
    formula = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
    result = sparselmm.mixedglm(formula, datasets.load("cbpp")).fit()
    means = result.emmeans("period")
    expected = {{"prob": "response"}.get(k, k): v for k, v in R["cbpp_means"].items()}
    agree(means.frame, expected, rtol=2e-5, half=1e-4)
    agree(means.pairs(), R["cbpp_pairs"], 1e-5, rtol=2e-5, half=1e-4)
    dunnett = result.emmeans("period", type="link").contrast("dunnett")
    agree(dunnett, R["cbpp_ctrl"], 1e-5, 2e-5, half=1e-4)
    np.testing.assert_allclose(
        result.joint_tests()["F.ratio"], R["cbpp_joint"]["F.ratio"], 0.0, 5.1e-4
    )


# ------------------------------------------------------------------------------ properties


@pytest.mark.parametrize("adjust", JOINT)
def test_critical_values_belong_to_the_p_values(adjust):
    C = np.array([[1, -1, 0, 0], [1, 0, -1, 0], [1, 0, 0, -1], [0, 1, -1, 0], [0, 1, 0, -1],
                  [0, 0, 1, -1]]) / np.sqrt(2)  # fmt: skip
    family = Family(4, C @ C.T, 3, 6)
    df = np.array([5.0, 30.0, np.inf, 7.5, 12.0, 200.0])
    t = family.critical(df, 0.03, adjust)
    np.testing.assert_allclose(family.pvalues(t, df, adjust, 0.05), 0.03, rtol=1e-6)


def test_correlated_and_independent_statistics():
    """All pairs of equal means: Tukey's. Independent z: Sidak's. One direction: no adjustment."""
    C = np.array([[1, -1, 0], [1, 0, -1], [0, 1, -1]]) / np.sqrt(2)
    t, df = np.array([0.7, 2.1, 3.0]), np.array([11.0, 11.0, 11.0])
    family = Family(3, C @ C.T, 2, 3)
    exact = family.pvalues(t, df, "tukey", 0.05)
    np.testing.assert_allclose(family.pvalues(t, df, "mvt", 0.05), exact, atol=1e-7)
    alone = Family(3, np.eye(3), 3, 3)
    normal = np.full(3, np.inf)
    sidak = adjusted(2 * st.norm.sf(t), "sidak", 0.05)[1]
    np.testing.assert_allclose(alone.pvalues(t, normal, "mvt", 0.05), sidak, atol=2e-5)
    same = Family(3, np.ones((3, 3)), 1, 3)
    np.testing.assert_allclose(same.pvalues(t, df, "mvt", 0.05), 2 * st.t.sf(t, df))


def test_letters_say_which_pairs_differ():
    rng = np.random.default_rng(5)
    for _ in range(50):
        k = int(rng.integers(2, 8))
        differ = np.triu(rng.random((k, k)) < 0.4, 1)
        differ |= differ.T
        letters = compact_letters(differ)
        shared = [[bool(set(a) & set(b)) for b in letters] for a in letters]
        np.testing.assert_array_equal(np.array(shared), ~differ)


def test_what_is_refused():
    means = fit("ergo").emmeans("Type")
    with pytest.raises(ArgumentError, match="delta must be above zero"):
        means.contrast("pairwise", side="equivalence")
    with pytest.raises(ArgumentError, match="delta must be above zero"):
        means.contrast("pairwise", delta=1.0)
    with pytest.raises(ArgumentError, match="no mean is called 'T9'"):
        means.contrast("dunnett", ref="T9")
    with pytest.raises(ArgumentError, match="a place among the 4 means"):
        means.contrast("dunnett", ref=4)
    with pytest.raises(ArgumentError, match="for pairs of means"):
        means.contrast("eff", adjust="tukey")
    with pytest.raises(ArgumentError, match="unknown contrasts 'helmert'"):
        means.contrast("helmert")


@cache
def with_an_empty_cell(three=False):
    """Levels of a by b, of which one combination has no rows; means may average over c."""
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"a": list("xyz") * 80, "b": list("ppqqq") * 48, "c": list("mmnn") * 60})
    rows = rows[(rows.a != "y") | (rows.b != "p")].assign(g=lambda r: np.arange(len(r)) % 8)
    rows["y"] = rng.normal(size=len(rows)) + rng.normal(size=8)[rows.g]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficiencyWarning)
        return sparselmm.mixedlm(f"y ~ a * b{' + c' if three else ''} + (1 | g)", rows).fit()


def test_an_empty_cell_has_no_covariances():
    means = with_an_empty_cell().emmeans(["a", "b"])
    known = np.isfinite(means.frame["SE"].to_numpy())
    assert known.sum() == 5
    found = means.vcov.to_numpy()
    assert (np.isfinite(found) == np.outer(known, known)).all()
    np.testing.assert_allclose(np.diag(found)[known], means.frame["SE"][known] ** 2)


@pytest.mark.parametrize("ddf", ["z", "kenward-roger"])
def test_a_prediction_for_an_empty_cell_has_no_covariances(ddf):
    new = pd.DataFrame({"a": ["x", "y"], "b": ["p", "p"]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficiencyWarning)
        found = with_an_empty_cell().get_prediction(new, interval="confidence", ddf=ddf)
    assert np.isnan(found.se_mean[1])
    assert (np.isfinite(found.cov.to_numpy()) == [[True, False], [False, False]]).all()
    assert found.cov.iloc[0, 0] == pytest.approx(found.se_mean[0] ** 2)


def test_a_joint_test_takes_all_means_that_exist():
    model = with_an_empty_cell(three=True)
    means = model.emmeans(["a", "b"], weights="cells")
    there = means.L[np.isfinite(means.L).all(axis=1)]
    L = there[1:] - there[0]
    beta, V = np.nan_to_num(model.fe_params), np.nan_to_num(model.cov_params())[: L.shape[1]]
    expected = (L @ beta) @ np.linalg.solve(L @ V[:, : L.shape[1]] @ L.T, L @ beta) / 4
    found = means.joint_test().iloc[0]
    assert found["df1"] == 4
    assert found["F.ratio"] == pytest.approx(expected, rel=1e-6)
    tests = model.joint_tests(weights="cells").set_index("model term")
    assert tests.loc["a:b", "df1"] == 1


@pytest.mark.parametrize(
    ("adjust", "side", "delta", "note"),
    [
        ("tukey", "two-sided", 0.0, "Adjustment: tukey;"),
        ("tukey", "less", 0.0, "Adjustment: sidak;"),
        ("tukey", "equivalence", 1.0, "Adjustment: sidak (intervals: tukey);"),
        ("mvt", "greater", 0.0, "Adjustment: mvt;"),
        ("holm", "two-sided", 0.0, "Adjustment: holm (intervals: bonferroni);"),
    ],
)
def test_the_note_below_contrasts_names_the_adjustments_that_were_made(adjust, side, delta, note):
    means = fit("ergo").emmeans("Type")
    table = means.contrast("pairwise", adjust, side=side, delta=delta)
    assert table.note.startswith(note)
    p, *ends = (part.strip("() ;").split()[-1] for part in note.split(" ("))
    same = means.contrast("pairwise", p, side=side, delta=delta)
    np.testing.assert_allclose(table["p.value"], same["p.value"])
    ends = means.contrast("pairwise", (ends or [p])[0], side=side, delta=delta)
    np.testing.assert_allclose(table["upper.CL"], ends["upper.CL"])


@pytest.mark.parametrize("size", [1.0, 1e5, 1e9])
def test_an_empty_cell_has_no_mean_whatever_the_units_of_a_covariate(size):
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"a": list("xyz") * 80, "b": list("ppqqq") * 48})
    rows = rows[(rows.a != "y") | (rows.b != "p")].assign(g=lambda r: np.arange(len(r)) % 8)
    rows["x"] = size * rng.normal(3.0, 1.0, len(rows))
    rows["y"] = rng.normal(size=len(rows)) + rng.normal(size=8)[rows.g]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficiencyWarning)
        model = sparselmm.mixedlm("y ~ a * b + x + (1 | g)", rows).fit()
        new = pd.DataFrame({"a": ["y", "x"], "b": "p", "x": 3.0 * size})
        predicted = model.get_prediction(new, interval="confidence").se_mean
    assert np.isnan(predicted).tolist() == [True, False]
    means = model.emmeans(["a", "b"])
    assert np.flatnonzero(means.frame["SE"].isna()).tolist() == [1]
    assert means.joint_test()["df1"].item() == 4
    assert model.emmeans("a").frame["SE"].isna().tolist() == [False, True, False]
    assert model.emtrends("x", ["a", "b"]).frame["SE"].notna().all()


def test_letters_are_those_of_the_scale_of_the_model():
    means = fit("sqrt").emmeans("nitro_f")
    back = fit("sqrt").emmeans("nitro_f", type="response")
    assert back.cld()["group"].tolist() == means.cld()["group"].tolist()
    np.testing.assert_allclose(back.cld()["response"], means.cld()["emmean"] ** 2)
