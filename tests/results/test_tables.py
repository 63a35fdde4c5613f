"""Every object a notebook shows has HTML; tables keep the estimate in sight at 80 columns."""

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

import sparselmm
from sparselmm import datasets
from sparselmm.results.print.notebook import Table, frame_html, frame_text


@cache
def fit():
    return sparselmm.mixedlm(
        "Reaction ~ Days + (Days | Subject)", datasets.load("sleepstudy")
    ).fit()


@cache
def simple():
    return sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", datasets.load("sleepstudy")).fit()


@cache
def stool():
    return sparselmm.mixedlm("effort ~ Type + (1 | Subject)", datasets.load("ergoStool")).fit()


@cache
def general():
    formula = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
    return sparselmm.mixedglm(formula, datasets.load("cbpp")).fit()


@cache
def structured():
    data = datasets.load("sleepstudy")
    return sparselmm.mixedlm(
        "Reaction ~ Days + (1 | Subject)", data, residual="ar1(Days | Subject)"
    ).fit()


SHOWN = {
    "model": lambda: fit().model,
    "result": fit,
    "summary": lambda: fit().summary(),
    "plan": lambda: fit().model.plan(),
    "check": lambda: fit().check(),
    "r2": lambda: fit().r2(),
    "icc": lambda: fit().icc(),
    "caic": lambda: fit().caic(),
    "opt": lambda: fit().opt,
    "profile": lambda: fit().profile("sigma"),
    "influence": lambda: fit().influence("Subject"),
    "bootstrap": lambda: fit().bootstrap(5, seed=1),
    "prediction": lambda: fit().get_prediction(),
    "means": lambda: stool().emmeans("Type"),
    "contrasts": lambda: stool().emmeans("Type").contrast("pairwise"),
    "joint": lambda: stool().joint_tests(),
    "anova": lambda: fit().anova(),
    "t": lambda: fit().t_test("Days = 0"),
    "wald": lambda: fit().wald_test("Days = 0"),
    "pairs": lambda: stool().t_test_pairwise("Type"),
    "terms": lambda: stool().wald_test_terms(),
    "exact": lambda: simple().exact_rlrt(nsim=50, seed=1),
    "table": lambda: fit().to_table(),
    "compare": lambda: sparselmm.compare(fit(), simple(), refit=True),
    "power": lambda: simple().power({"Days": 5.0}, n_sim=3, seed=1),
    "varcorr": lambda: fit().varcorr,
    "components": lambda: fit().variance_components(),
    "ranova": lambda: fit().ranova(),
    "drop1": lambda: fit().drop1(),
    "tidy": lambda: fit().tidy(conf_int=True),
    "rank": lambda: fit().rank("Subject", "Intercept"),
    "robust": lambda: simple().robust_tests(),
    "many": lambda: fit().model.fit_many(datasets.load("sleepstudy")[["Reaction"]]),
    "known": lambda: sparselmm.KnownCovariance(np.eye(2), ["a", "b"]),
    "params": lambda: fit().params_object,
    "dataset": lambda: datasets.describe("sleepstudy"),
    "general model": lambda: general().model,
    "general": general,
    "general summary": lambda: general().summary(),
    "general check": lambda: general().check(),
    "general r2": lambda: general().r2(),
    "general icc": lambda: general().icc(),
    "general bootstrap": lambda: general().bootstrap(5, seed=1),
    "general means": lambda: general().emmeans("period"),
    "general ratios": lambda: general().ratios(),
    "general intervals": lambda: general().confint(),
    "residual": structured,
    "residual params": lambda: structured().residual_params(),
    "residual summary": lambda: structured().summary(),
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_shows_it_and_print_is_plain(name):
    shown = SHOWN[name]()
    page, text = shown._repr_html_(), str(shown)
    assert page.count("<table") == page.count("</table>")
    assert page.lstrip().startswith("<")
    for part in (page, text):
        assert "object at 0x" not in part
        assert "NaN" not in part
        assert ">None<" not in part
    assert " nan" not in text
    if isinstance(shown, (pd.DataFrame, Table)):
        assert max(map(len, text.splitlines())) <= 80
        assert not {0, 1} & set(shown.columns)


def frame():
    names = [f"a_rather_long_name_{i}" for i in range(6)]
    values = np.arange(12.0).reshape(2, 6) * 1234.5678
    out = pd.DataFrame(values, index=["first", "second"], columns=names)
    return out.assign(pvalue=[1e-9, 0.04], missing=[np.nan, None])


def test_the_first_columns_stay_in_sight():
    text = frame_text(frame())
    blocks = text.split("\n\n")
    assert len(blocks) > 1
    assert "a_rather_long_name_0" in blocks[0]
    assert all(block.splitlines()[1].startswith("first") for block in blocks)
    assert max(map(len, text.splitlines())) <= 80
    assert "<.001" in text
    assert "0.040" in text
    assert "&lt;.001" in frame_html(frame(), "")


def test_a_column_has_one_number_of_decimals():
    numbers = pd.DataFrame({"x": [612.089939, 35.07166, 0.00012345], "n": [1.0, 24.0, np.nan]})
    lines = [line.split() for line in frame_text(numbers).splitlines()]
    assert lines[1:] == [["0", "612.090", "1"], ["1", "35.072", "24"], ["2", "0.000123"]]
    assert frame_text(pd.DataFrame({"x": range(100)})).endswith("... and 40 more rows")


def test_a_table_is_a_frame_to_pandas():
    table = fit().anova()
    assert isinstance(table, pd.DataFrame)
    assert table.F.iloc[0] == pytest.approx(45.853, rel=1e-4)
    pd.testing.assert_frame_equal(
        table[["F"]], pd.DataFrame({"F": table.F}), check_frame_type=False
    )


def test_what_is_made_of_a_table_is_shown_as_one():
    tests = fit().tidy(ddf="satterthwaite")
    both = pd.concat({"once": tests, "again": tests})
    for table in (tests.round(2), tests.head(4), tests.assign(one=1.0), both.round(3)):
        text = str(table)
        assert "<.001" in text
        assert "NaN" not in text
        assert "None" not in text
    row = str(tests.round(2)).splitlines()[1].split()
    assert row[3:6] == ["251.41", "6.82", "36.84"]
    means = fit().emmeans("Days", at={"Days": [0, 3]})
    for table in (means.frame, means.cld()):
        assert "251.405  6.82456" in str(table)
    assert "<.001" in str(means.joint_test())


def test_constraints_have_p_values_as_people_print_them():
    assert "<.001" in str(fit().t_test("Days = 0").summary_frame().round(4))
    assert str(fit().f_test("Days = 0")) == "<F test: F=45.853, p<.001, df_denom=178, df_num=1>"


def test_the_module_of_errors_names_them_all():
    from sparselmm import exceptions

    named = set(exceptions.__all__)
    assert {"FormulaError", "DataError", "BoundaryWarning", "ModelWarning"} <= named
    assert not named & {"Any", "warn_user", "Iterable"}


def test_intervals_have_ends_with_names():
    assert list(fit().profile("sigma").conf_int()) == ["lower", "upper"]
    assert list(fit().bootstrap(5, seed=1).conf_int()) == ["lower", "upper"]
    assert list(general().bootstrap(5, seed=1).conf_int()) == ["ci_lower", "ci_upper"]
    for options in ({}, {"method": "bootstrap", "n": 5, "seed": 1}):  # as in statsmodels
        assert list(fit().conf_int(**options)) == [0, 1]


def test_the_summary_tells_of_the_search_when_something_is_wrong():
    assert "Another step" not in str(fit().summary())
    assert "Another step" not in fit().summary()._repr_html_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stopped = fit().model.fit(maxiter=1, method="powell")
    assert "Another step" in str(stopped.summary())
    assert "sparse factors by" in repr(fit().opt)
    assert "<.001" in str(fit().summary())


@pytest.mark.parametrize(
    ("data", "formula", "seen", "hint"),
    [
        ("Dyestuff2", "Yield ~ 1 + (1 | Batch)", "variance of Intercept by Batch",
         r"leave \(1 \| Batch\) out"),
    ],
)  # fmt: skip
def test_a_warning_names_what_is_singular_and_what_to_try(data, formula, seen, hint):
    with pytest.warns(sparselmm.BoundaryWarning, match=f"{seen}.*{hint}"):
        sparselmm.mixedlm(formula, datasets.load(data)).fit()


def test_a_correlation_of_one_is_named():
    rng = np.random.default_rng(3)
    g, x = np.repeat(np.arange(12), 6), np.tile(np.arange(6.0), 12)
    b = rng.normal(size=12)
    data = pd.DataFrame({"y": b[g] * (3 + x) + 0.5 * rng.normal(size=72), "x": x, "g": g})
    with pytest.warns(sparselmm.BoundaryWarning, match=r"correlation of Intercept and x by g is "
                      r"\+1\.000.*\(x \|\| g\)"):  # fmt: skip
        sparselmm.mixedlm("y ~ x + (x | g)", data).fit()
