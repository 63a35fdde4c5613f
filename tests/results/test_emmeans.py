"""Marginal means and their comparisons against R's emmeans, and what they refuse."""

import json
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from reference_fits import INFERENCE_IDS, reference_fit, reference_inference

from sparselmm import MixedLM, datasets, mixedglm, mixedlm
from sparselmm.base.exceptions import (
    DataError,
    MemoryLimitError,
    ModelWarning,
    RankDeficiencyWarning,
    SparseLMMError,
)
from sparselmm.inference.hypotheses import multiplicity
from sparselmm.inference.wald import two_sided
from sparselmm.results.tables import reference_grid

FOLDER = datasets.data_dir().joinpath("reference", "extra")
METHODS = {"z": "asymptotic", "satterthwaite": "satterthwaite", "kenward-roger": "kenward-roger"}
MEANS = {
    case["id"]: case
    for case in json.loads(FOLDER.joinpath("means.json").read_text(encoding="utf-8"))["cases"]
}
ADJUST = {
    "holm": "holm", "bonferroni": "bonferroni", "sidak": "sidak", "fdr": "fdr_bh", "none": "none"
}  # fmt: skip


def numbers(values):
    return np.array([np.nan if v is None else float(v) for v in values])


def agree(actual, expected, rtol, atol=0.0):
    np.testing.assert_allclose(numbers(actual), numbers(expected), rtol, atol)


def compare(table, expected, labels):
    """Estimates to 1e-6; df to 1e-3, as R takes derivatives by differences; p to 1e-5 absolute.

    (R's ptukey is good to that, and p moves with df.)
    """
    for name, values in expected.items():
        if name == "z.ratio" and name not in table:  # R's name where every value is missing
            assert not [v for v in values if v is not None]
        elif name in labels:
            assert [as_text(v) for v in table[name]] == [as_text(v) for v in values]
        elif name == "df":
            agree(table[name], values, 1e-3)
        elif name == "p.value":
            agree(table[name], values, 0.0, 1e-5)
        else:
            size = np.nanmax(np.abs(numbers(values)), initial=0.0)
            agree(table[name], values, 1e-6, 1e-6 * size)


def as_text(value):
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@cache
def fit_of(name):
    reference = reference_fit(name)
    return MixedLM.from_formula(reference.formula, reference.rows).fit(reml=reference.reml)


WITH_MEANS = [name for name in INFERENCE_IDS if reference_inference(name).get("emmeans")]


@pytest.mark.parametrize("ddf", METHODS)
@pytest.mark.parametrize("name", WITH_MEANS)
def test_emmeans_of_the_reference_fits(name, ddf):
    for record in reference_inference(name)["emmeans"]:
        expected = record[METHODS[ddf]]
        means = fit_of(name).emmeans(record["specs"], ddf=ddf)
        compare(means.frame, expected["means"], record["specs"])
        pairs = {name: v for name, v in expected["pairs"].items() if name != "p_unadjusted"}
        compare(means.pairs(), pairs, ["contrast"])
        plain = expected["pairs"]["p_unadjusted"]
        agree(means.pairs(adjust="none")["p.value"], plain, 1e-5, 1e-12)


@cache
def extra(name):
    case = MEANS[name]
    data = datasets.load(case["data"])
    if case.get("subset"):
        data = data.query(case["subset"]).reset_index(drop=True)
        for column in data.select_dtypes("category"):
            data[column] = data[column].cat.remove_unused_categories()
    weights = None if case.get("prior") is None else data.eval(case["prior"]).to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficiencyWarning)
        return MixedLM.from_formula(case["formula"], data, weights=weights).fit(reml=case["reml"])


@pytest.mark.parametrize("ddf", METHODS)
@pytest.mark.parametrize("name", MEANS)
def test_grid_by_at_weights_and_adjustments(name, ddf):
    """Covariates at values, ``by``, frequencies, empty cells, offsets, transformations."""
    case = MEANS[name]
    if METHODS[ddf] not in case["methods"]:
        if case["reml"]:
            return
        with pytest.raises(ValueError, match="REML"):
            extra(name).emmeans(case["specs"], ddf=ddf)
        return
    expected = case["methods"][METHODS[ddf]]
    by = case.get("by")
    means = extra(name).emmeans(
        case["specs"], by=by, at=case.get("at"), ddf=ddf, weights=case["weights"]
    )
    labels = [*case["specs"], *(by or [])]
    compare(means.frame, expected["means"], labels)
    compare(means.pairs(), expected["pairs"], ["contrast", *labels])
    compare(means.contrast("eff", "none"), expected["effects"], ["contrast", *labels])
    compare(means.contrast("trt.vs.ctrl", "none"), expected["control"], ["contrast", *labels])
    for theirs, ours in ADJUST.items():
        agree(means.pairs(adjust=ours)["p.value"], expected["p"][theirs], 0.0, 1e-5)
    low = means.pairs().columns[len(by or []) + 4]
    for adjust in ("holm", "sidak"):
        lower = numbers(expected[f"{adjust}_lower"])
        agree(means.pairs(adjust=adjust)[low], lower, 1e-6, 1e-6 * np.nanmax(np.abs(lower)))


def test_means_are_invariant_to_coding():
    data = datasets.load("Oats")
    one = MixedLM.from_formula("Yield ~ nitro_f * Variety + (1 | Block / Variety)", data).fit()
    formula = "Yield ~ C(nitro_f, Sum) * C(Variety, Helmert) + (1 | Block / Variety)"
    two = MixedLM.from_formula(formula, data).fit()
    for specs in ("nitro_f", ["Variety", "nitro_f"]):
        a, b = one.emmeans(specs), two.emmeans(specs)
        pd.testing.assert_frame_equal(a.frame, b.frame, rtol=1e-6)
        pd.testing.assert_frame_equal(a.pairs("holm"), b.pairs("holm"), rtol=1e-6, atol=1e-12)
    agree(np.sqrt(np.diag(a.vcov)), a.frame.SE, 1e-12)


def test_splines_and_own_contrasts():
    fit = MixedLM.from_formula(
        "Reaction ~ bs(Days, df=4) + (1 | Subject)", datasets.load("sleepstudy")
    ).fit()
    means = fit.emmeans("Days", at={"Days": [1, 2, 8]}, ddf="z")
    new = pd.DataFrame({"Days": [1, 2, 8]})
    found = fit.get_prediction(new, interval="confidence").summary_frame()
    agree(means.frame.emmean, found["mean"], 1e-12)
    agree(means.frame.SE, found["mean_se"], 1e-10)
    own = means.contrast({"late": [-0.5, -0.5, 1]})
    assert own.contrast.tolist() == ["late"]
    agree(own.estimate, [found["mean"].iloc[2] - found["mean"].iloc[:2].mean()], 1e-12)
    agree(means.contrast([[0, -1, 1]]).estimate, means.pairs(reverse=True).estimate[2:], 1e-12)


def test_tukey_against_monte_carlo_free_cases():
    """Two means: no adjustment. Infinite df, three means: the range of three normal numbers."""
    t = np.array([0.5, 2.0])
    df = np.array([7.0, 11.0])
    agree(multiplicity.tukey_p(t, df, 2), two_sided(t, df), 1e-14)
    z = np.linspace(-9, 9, 20_001)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    cdf = np.cumsum(density) * (z[1] - z[0]) - 0.5 * density * (z[1] - z[0])
    q = np.sqrt(2.0) * t
    inner = [np.interp(z + one, z, cdf, right=1.0) - cdf for one in q]
    exact = [1.0 - 3.0 * np.sum(density * part**2) * (z[1] - z[0]) for part in inner]
    agree(multiplicity.tukey_p(t, np.full(2, np.inf), 3), exact, 1e-6)


def test_errors(monkeypatch):
    data = datasets.load("ergoStool")
    fit = MixedLM.from_formula("effort ~ Type + (1 | Subject)", data).fit()
    with pytest.raises(DataError, match="specs must name variables"):
        fit.emmeans("Subject")
    with pytest.raises(DataError, match="at= names 'Typ'"):
        fit.emmeans("Type", at={"Typ": 1})
    with pytest.raises(DataError, match="label the fit has not seen"):
        fit.emmeans("Type", at={"Type": ["T1", "T9"]})
    with pytest.raises(ValueError, match="weights must be one of"):
        fit.emmeans("Type", weights="cell-wise")
    with pytest.raises(ValueError, match="ddf must be one of"):
        fit.emmeans("Type", ddf="t")
    with monkeypatch.context() as small:
        small.setattr(reference_grid, "MAX_GRID", 3)
        with pytest.raises(MemoryLimitError, match=r"4 combinations of Type \(4\)"):
            fit.emmeans("Type")
    means = fit.emmeans("Type")
    with pytest.raises(ValueError, match="for pairs of means"):
        means.contrast("eff", adjust="tukey")
    with pytest.raises(ValueError, match="unknown contrasts"):
        means.contrast("helmert")
    with pytest.raises(ValueError, match="need 4 weights"):
        means.contrast([1, -1])
    with pytest.raises(ValueError, match="adjust must be one of"):
        means.pairs(adjust="newman")
    arrays = MixedLM(data.effort.to_numpy(), np.ones((36, 1)), data.Subject.to_numpy()).fit()
    with pytest.raises(DataError, match="need a formula"):
        arrays.emmeans("x1")
    numeric = MixedLM.from_formula(
        "Reaction ~ Days + (1 | Subject)", datasets.load("sleepstudy")
    ).fit()
    numeric.remove_data()
    with pytest.raises(DataError, match="rows of the fit were removed"):
        numeric.emmeans("Days")
    assert len(numeric.emmeans("Days", at={"Days": [0, 1]}, ddf="z").frame) == 2


def test_it_prints():
    fit = MixedLM.from_formula("effort ~ Type + (1 | Subject)", datasets.load("ergoStool")).fit()
    means = fit.emmeans("Type", ddf="kenward-roger")
    assert "kenward-roger" in str(means)
    assert "<table" in means._repr_html_()


@pytest.mark.parametrize("kind", ["linear", "poisson"])
@pytest.mark.parametrize("random", ["(age | g)", "(0 + age | g)", "(age > 9 | g)", "(1 | age:g)"])
def test_a_factor_that_is_a_number_elsewhere(kind, random):
    """``C(age)`` next to a random slope on age: one level of it is still a level of four."""
    rng = np.random.default_rng(0)
    n = 240
    data = pd.DataFrame({"g": np.arange(n) % 20, "age": np.repeat([8, 10, 12, 14], n // 4)})
    data["sex"] = np.tile(["F", "M"], n // 2)
    data["y"] = rng.poisson(np.exp(0.1 * data.age + 0.3 * rng.normal(size=20)[data.g]))
    formula = f"y ~ C(age) + sex + {random}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelWarning)
        if kind == "linear":
            fit = mixedlm(formula, data).fit()
        else:
            fit = mixedglm(formula, data, family="poisson").fit()
    whole = fit.emmeans(["age", "sex"]).frame.query("age == 14").drop(columns="age")
    for means in (fit.emmeans("sex", at={"age": 14}), fit.emmeans("sex", at={"age": [14]})):
        pd.testing.assert_frame_equal(means.frame, whole.reset_index(drop=True), rtol=1e-6)
    by = fit.emmeans("sex", by="age", at={"age": [14, 8]}).frame.query("age == 14")
    pd.testing.assert_frame_equal(
        by.drop(columns="age").reset_index(drop=True), whole.reset_index(drop=True), rtol=1e-6
    )
    new = pd.DataFrame({"age": [14, 14], "sex": ["F", "M"], "g": [3, 4]})
    both = pd.concat([new, new.assign(age=8)], ignore_index=True)
    np.testing.assert_allclose(fit.predict(new), fit.predict(both)[:2])


@pytest.mark.parametrize(
    ("specs", "names", "by"),
    [
        ("~ nitro_f", "nitro_f", None),
        ("~ nitro_f | Variety", "nitro_f", "Variety"),
        ("nitro_f | Variety", "nitro_f", "Variety"),
        ("~ nitro_f * Variety", ["nitro_f", "Variety"], None),
        ("~ nitro_f:Variety", ["nitro_f", "Variety"], None),
    ],
)
def test_specifications_of_r(specs, names, by):
    formula = "Yield ~ nitro_f * Variety + (1 | Block / Variety)"
    fit = mixedlm(formula, datasets.load("Oats")).fit()
    one, other = fit.emmeans(specs), fit.emmeans(names, by)
    pd.testing.assert_frame_equal(one.frame, other.frame)
    pd.testing.assert_frame_equal(one.pairs(), other.pairs())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda r: r.emmeans("pairwise ~ Type"), r"emmeans\('Type'\)\.contrast\('pairwise'\)"),
        (lambda r: r.emmeans("~ Type | Type", by="Type"), "leave out by="),
        (lambda r: r.emmeans("type"), "did you mean 'Type'"),
        (lambda r: r.emtrends("Type", var="x"), "multiple values for argument 'var'.*emtrends"),
        (lambda r: r.refit(), r"missing a required argument: 'endog'; it is called refit\(endog\)"),
    ],
)
def test_calls_of_r(call, says):
    fit = mixedlm("effort ~ Type + (1 | Subject)", datasets.load("ergoStool")).fit()
    with pytest.raises(SparseLMMError, match=says):
        call(fit)


@pytest.mark.parametrize(("name", "ours"), [("contrasts", "contrast"), ("summary", "frame")])
def test_other_names_of_means(name, ours):
    fit = mixedlm("effort ~ Type + (1 | Subject)", datasets.load("ergoStool")).fit()
    with pytest.raises(AttributeError, match=f"here it is {ours}"):
        getattr(fit.emmeans("Type"), name)


RNG = np.random.default_rng(7)
PREDICTOR = pd.DataFrame({"g": np.repeat([f"g{i:02}" for i in range(24)], 10),
                          "f": np.tile(list("abc"), 80)})  # fmt: skip
PREDICTOR["eta"] = (
    1.0 + 0.3 * (PREDICTOR.f == "b") + 0.3 * RNG.normal(size=24).repeat(10)
    + 0.3 * RNG.normal(size=240)
)  # fmt: skip


@pytest.mark.parametrize(
    ("left", "response"),
    [
        ("np.arcsin(np.sqrt(y))", lambda eta: np.sin(np.clip(eta, 0.0, 1.5) / 2.0) ** 2),
        ("np.log(100 * y)", np.exp), ("np.log(y / 7)", np.exp), ("np.log(3 - y)", np.tanh),
        ("np.sqrt(2 * y + 0.5)", np.exp), ("np.log(1 / y)", np.exp),
        ("np.log(-y)", lambda eta: -np.exp(eta)),
    ],
)  # fmt: skip
def test_means_go_back_through_all_that_was_done_to_the_response(left, response):
    data = PREDICTOR.assign(y=response(PREDICTOR.eta))
    means = mixedlm(f"{left} ~ f + (1 | g)", data).fit()
    link, back = means.emmeans("f").frame, means.emmeans("f", type="response").frame
    y = back.response.to_numpy()
    again = eval(left, {"np": np, "y": y})
    np.testing.assert_allclose(again, link.emmean, rtol=1e-12)
    h = 1e-6 * np.abs(y)
    slope = (eval(left, {"np": np, "y": y + h}) - eval(left, {"np": np, "y": y - h})) / (2.0 * h)
    np.testing.assert_allclose(back.SE, link.SE / np.abs(slope), rtol=1e-6)
    ends = np.sort(eval(left, {"np": np, "y": back[["lower.CL", "upper.CL"]].to_numpy()}), axis=1)
    np.testing.assert_allclose(ends, link[["lower.CL", "upper.CL"]], rtol=1e-9)


def test_intervals_of_squares_hold_zero_where_those_of_roots_do():
    y = (PREDICTOR.eta - 1.1).clip(0.0) ** 2
    fit = mixedlm("np.sqrt(y) ~ f + (1 | g)", PREDICTOR.assign(y=y)).fit()
    link = fit.emmeans("f", alpha=1e-12).frame
    back = fit.emmeans("f", type="response", alpha=1e-12).frame
    crossing = (link["lower.CL"] < 0.0) & (link["upper.CL"] > 0.0)
    assert crossing.any()
    assert (back["lower.CL"][crossing] == 0.0).all()
    np.testing.assert_allclose(back["upper.CL"], (link[["lower.CL", "upper.CL"]] ** 2).max(axis=1))


@pytest.mark.parametrize("unit", [1e-18, 1e-9, 1e9])
def test_errors_of_cubes_do_not_depend_on_units(unit):
    data = PREDICTOR.assign(y=unit * PREDICTOR.eta**3)
    fit = mixedlm("np.cbrt(y) ~ f + (1 | g)", data).fit()
    link, back = fit.emmeans("f").frame, fit.emmeans("f", type="response").frame
    np.testing.assert_allclose(back.SE, 3.0 * link.emmean**2 * link.SE, rtol=1e-9)
