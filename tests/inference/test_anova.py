"""Analysis of variance of types I, II and III: lmerTest's tables and what must not matter."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from reference_fits import (
    INFERENCE_IDS,
    _key,
    _polynomial_contrasts,
    reference_fit,
    reference_inference,
)

import sparselmm
from sparselmm import datasets
from sparselmm.base.exceptions import ModelWarning, SpecificationWarning

TYPES = ("I", "II", "III")
RECORDS = json.loads(
    datasets.data_dir().joinpath("reference", "extra", "anova.json").read_text(encoding="utf-8")
)
CASES = {case["id"]: case for case in RECORDS["cases"]}
QUIRK = "oats_nested_term"
"""lmerTest tests coefficients of a main effect without its partner, see ``anova``'s notes."""


def fitted(formula, data, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelWarning)
        return sparselmm.mixedlm(formula, data, **arguments).fit(tol=1e-13)


def at(fit, theta):
    """The same results at R's theta, where formulas and not searches are compared."""
    np.testing.assert_allclose(fit.theta, theta, atol=1e-4)
    return type(fit)(fit.model, fit.built, fit.deviance, fit.deviance.at(np.array(theta)), fit.opt)


def table(fit, kind, method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpecificationWarning)
        return fit.anova(type=kind, ddf=method)


def case_data(case):
    """Data of a case of ``anova.R``; rows are counted from 1 there."""
    data = datasets.load(case["dataset"])
    data = data.drop(index=[i - 1 for i in case.get("drop") or []]).reset_index(drop=True)
    formula = _polynomial_contrasts(case["formula"], data)
    for name in case.get("sum_contrasts") or []:
        formula = formula.replace(f"{name} ", f"C({name}, Sum) ")
    used = [column for column in data.columns if column in formula]
    return formula, data.dropna(subset=used).reset_index(drop=True)


def compare(fit, own, record, kind, method, polished=True):
    """A table at R's theta, and at this package's own optimum, which R reached if ``polished``."""
    found = table(fit, kind, method)
    assert found.df_num.tolist() == record["df_num"]
    np.testing.assert_allclose(found.df_den, record["df_den"], rtol=1e-5)
    np.testing.assert_allclose(found.F, record["F"], rtol=1e-6)  # lmerTest rounds L to 7 digits
    np.testing.assert_allclose(found.sum_sq, record["sum_sq"], rtol=1e-6)
    np.testing.assert_allclose(found.p_value, record["p"], rtol=1e-5, atol=1e-12)
    mine = table(own, kind, method)
    if polished:
        np.testing.assert_allclose(mine.F, record["F"], rtol=1e-6)
    np.testing.assert_allclose(mine.df_den, record["df_den"], rtol=1e-3)
    np.testing.assert_allclose(mine.p_value, record["p"], atol=1e-5)


@pytest.mark.parametrize("name", INFERENCE_IDS)
def test_tables_of_the_reference_fits(name):
    ref, record = reference_fit(name), reference_inference(name)
    weights = {} if ref.weights_formula is None else {"weights": ref.weights}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelWarning)
        own = sparselmm.mixedlm(ref.formula, ref.rows, **weights).fit(reml=ref.reml, tol=1e-13)
    fit = at(own, ref.theta)

    def standard(columns):
        keys = {"df_num": "NumDF", "df_den": "DenDF", "F": "F value", "p": "Pr(>F)"}
        return {ours: columns[r] for ours, r in keys.items()} | {"sum_sq": columns["Sum Sq"]}

    for kind, columns in record["satterthwaite"]["anova"].items():
        if columns["rows"]:
            compare(fit, own, standard(columns), kind, "satterthwaite")
        else:
            assert table(fit, kind, "satterthwaite").empty
    kenward_roger = record.get("kenward_roger", {}).get("anova_III")
    if kenward_roger:
        compare(fit, own, standard(kenward_roger), "III", "kenward-roger")


@pytest.mark.parametrize("name", CASES)
def test_tables_of_unbalanced_designs(name):
    case = CASES[name]
    own = fitted(*case_data(case))
    fit = at(own, case["theta"])
    for method in ("satterthwaite", "kenward-roger"):
        for kind in TYPES if name != QUIRK else ("I",):
            compare(fit, own, case[method.replace("-", "_")][kind], kind, method, polished=False)


@pytest.mark.parametrize("method", ["satterthwaite", "kenward-roger"])
@pytest.mark.parametrize("name", [n for n in CASES if n != "oats_sum" and "singular" not in n])
def test_contrasts(name, method):
    """Arbitrary rows one by one and together; with Satterthwaite's method also values."""
    record = CASES[name][method.replace("-", "_")]["contrasts"]
    fit = at(fitted(*case_data(CASES[name])), CASES[name]["theta"])
    keys = [_key(column) for column in fit.built.design.x_names]
    L = np.zeros((len(record["L"]), fit.k_fe))
    L[:, [keys.index(_key(column)) for column in record["names"]]] = record["L"]
    rhs = np.array(record["rhs"], dtype=float)
    rows = fit.t_test((L, rhs), ddf=method)
    np.testing.assert_allclose(rows.effect, record["effect"], rtol=1e-9)
    np.testing.assert_allclose(rows.sd, record["se"], rtol=1e-9)
    np.testing.assert_allclose(rows.df_denom, record["df"], rtol=1e-6)
    np.testing.assert_allclose(rows.pvalue, record["p"], rtol=1e-5, atol=1e-12)
    joint = fit.f_test((L, rhs), ddf=method)
    assert joint.df_num == record["df_num"]
    assert joint.statistic == pytest.approx(record["F"], rel=1e-9)
    assert joint.df_denom == pytest.approx(record["df_den"], rel=1e-6)
    assert joint.pvalue == pytest.approx(record["p_joint"], rel=1e-5, abs=1e-12)


def test_coding_and_order_do_not_matter():
    case = CASES["oats_holes"]
    _, data = case_data(case)
    formulas = (
        "Yield ~ nitro_f * Variety + (1 | Block/Variety)",
        "Yield ~ C(nitro_f, Sum) * C(Variety, Helmert) + (1 | Block/Variety)",
        "Yield ~ Variety * nitro_f + (1 | Block/Variety)",
    )
    fits = [fitted(formula, data) for formula in formulas]
    for kind in (2, 3):
        first, *others = (fit.anova(type=kind) for fit in fits)
        for i, other in enumerate(others):
            order = [0, 1, 2] if i == 0 else [1, 0, 2]
            np.testing.assert_allclose(other.F.to_numpy()[order], first.F, rtol=1e-6)
            np.testing.assert_allclose(other.df_den.to_numpy()[order], first.df_den, rtol=1e-3)


def test_a_main_effect_without_its_partner_is_that_of_the_full_model():
    """``a + a:b`` and ``a * b`` are one model; type III of a is one hypothesis."""
    _, data = case_data(CASES["oats_holes"])
    nested = fitted("Yield ~ Variety + Variety:nitro_f + (1 | Block)", data).anova()
    full = fitted("Yield ~ Variety * nitro_f + (1 | Block)", data).anova()
    assert nested.F["Variety"] == pytest.approx(full.F["Variety"], rel=1e-6)
    assert nested.df_num.tolist() == [2, 9]


def test_type_one_sums_up_least_squares():
    """Without a random effect the sequential sums of squares are those of ordinary regression."""
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"a": list("xyz") * 20, "z": rng.normal(size=60), "g": np.arange(60) % 6})
    data["y"] = data.z + rng.normal(size=60)
    fit = fitted("y ~ z + a + (1 | g)", data)
    zero = fit.deviance.at(np.zeros(1))
    fit = type(fit)(fit.model, fit.built, fit.deviance, zero, fit.opt)
    dummies = pd.get_dummies(data.a, dtype=float).to_numpy()[:, 1:]
    parts = [np.ones((60, 1)), data[["z"]].to_numpy(), dummies]
    rss = []
    for last in range(1, 4):
        X = np.hstack(parts[:last])
        rss.append(np.sum((data.y - X @ np.linalg.lstsq(X, data.y, rcond=None)[0]) ** 2))
    table = fit.anova(type=1)
    np.testing.assert_allclose(table.sum_sq, -np.diff(rss), rtol=1e-9)
    assert table.index.tolist() == ["z", "a"]  # the order of the formula, not that of the columns


@pytest.mark.parametrize("method", ["satterthwaite", "kenward-roger"])
def test_rows_of_weight_zero_are_left_out(method):
    data = datasets.load("Oats")
    w = np.ones(len(data))
    w[CASES["oats_holes"]["drop"]] = 0.0
    formula = "Yield ~ nitro_f * Variety + (1 | Block/Variety)"
    fit, without = fitted(formula, data, weights=w), fitted(formula, data[w > 0])
    for kind in TYPES:
        found, expected = fit.anova(type=kind, ddf=method), without.anova(type=kind, ddf=method)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_empty_cells_are_announced():
    ref = reference_fit("cake_cell_reml")
    fit = fitted(ref.formula, ref.rows)
    with pytest.warns(SpecificationWarning, match=r"without rows in recipe:factor\(temp\)"):
        fit.anova()


def test_arrays_have_one_term_per_column():
    ref = reference_fit("ortho_slope_reml")
    rows, X = ref.rows, ref.X
    groups = rows["Subject"]
    model = sparselmm.MixedLM(ref.y, X, groups, exog_re=X[:, :2])
    fit = model.fit()
    found = fit.anova(type=2)
    assert found.df_num.tolist() == [1] * 3
    t = fit.t_test(np.eye(4)[1:], ddf="satterthwaite")
    np.testing.assert_allclose(found.F, np.asarray(t.statistic) ** 2, rtol=1e-9)


def test_z_and_refusals():
    fit = fitted("effort ~ Type + (1 | Subject)", datasets.load("ergoStool"))
    found = fit.anova(ddf="z")
    wald = fit.wald_test(np.eye(4)[1:])
    assert found.p_value["Type"] == pytest.approx(wald.pvalue, rel=1e-10)
    assert np.isinf(found.df_den["Type"])
    with pytest.raises(ValueError, match="type must be"):
        fit.anova(type=4)
    fit.remove_data()
    with pytest.raises(sparselmm.DataError, match="remove_data"):
        fit.anova()
