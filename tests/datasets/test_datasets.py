"""Data sets: what is loaded is what the metadata say; reference fits pair with patsy's names."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from reference_fits import (
    INFERENCE_IDS,
    REFERENCE_IDS,
    Array,
    ReferenceTerm,
    reference_fit,
    reference_inference,
    split_formula,
)

from sparselmm import datasets
from sparselmm.base.exceptions import DataError

MAIN = ["dietox", "sleepstudy", "Penicillin", "Pastes", "InstEval", "pupils"]
SCHEMA = datasets._schema()

# Sums and means published with the sets or computed in R from the packages' own objects.
CHECKSUMS = [
    ("sleepstudy", "Reaction", "mean", 298.5079),
    ("Dyestuff", "Yield", "mean", 1527.5),
    ("Penicillin", "diameter", "mean", 22.97222),
    ("Pastes", "strength", "mean", 60.05333),
    ("InstEval", "y", "sum", 235369.0),
    ("Oats", "Yield", "mean", 103.9722),
    ("dietox", "Weight", "mean", 60.72577),
    ("pupils", "score", "mean", 50.905208),
]


def test_every_data_file_has_metadata_and_the_main_sets_come_first() -> None:
    files = {
        p.name.removesuffix(".csv.gz")
        for p in datasets.data_dir().iterdir()
        if p.name.endswith(".csv.gz")
    }
    assert files == set(datasets.names())
    assert datasets.names()[: len(MAIN)] == MAIN


@pytest.mark.parametrize("name", datasets.names())
def test_load_agrees_with_metadata(name: str) -> None:
    data, entry = datasets.load(name), SCHEMA[name]
    assert len(data) == entry["nrow"]
    assert int(data.isna().sum().sum()) == entry["n_missing"]
    assert list(data.columns) == [c["name"] for c in entry["columns"]]
    for column in entry["columns"]:
        values = data[column["name"]]
        if column["type"] in ("factor", "ordered"):
            levels = list(values.cat.categories)
            assert values.cat.ordered == (column["type"] == "ordered")
            assert len(levels) == column["n_levels"]
            assert set(values.dropna().unique()) == set(levels)
            assert levels == column.get("levels", levels)
        else:
            whole = column["type"] == "integer" and not values.hasnans
            assert values.dtype == (np.int64 if whole else np.float64)


def test_level_orders_that_are_not_alphabetical() -> None:
    insteval = datasets.load("InstEval")
    assert list(insteval["dept"].cat.categories[:5]) == ["15", "5", "10", "12", "6"]
    assert list(insteval["s"].cat.categories[[0, 1, 9, -1]]) == ["1", "2", "10", "2972"]
    assert list(datasets.load("Alfalfa")["Date"].cat.categories) == ["None", "S1", "S20", "O7"]
    temperature = datasets.load("cake")["temperature"]
    assert temperature.cat.ordered
    assert temperature.min() == "175"


@pytest.mark.parametrize(("name", "column", "statistic", "value"), CHECKSUMS)
def test_checksums(name: str, column: str, statistic: str, value: float) -> None:
    # Seven digits are published.
    assert getattr(datasets.load(name)[column], statistic)() == pytest.approx(value, rel=1e-6)


def test_missing_values_are_the_empty_fields_only() -> None:
    data = datasets.load("dietox")
    assert set(data.loc[data["Feed"].isna(), "Time"]) == {1}
    assert (datasets.load("Alfalfa")["Date"] == "None").sum() == 18


def test_labels_are_reused_across_groups_in_pupils() -> None:
    data = datasets.load("pupils")
    assert data["classroom"].nunique() == 11
    rooms = data.groupby(["school", "classroom"], observed=True)
    assert rooms.ngroups == 1248
    assert data["school"].nunique() == 150
    # One class size per classroom, and it is the number of its pupils.
    assert (rooms["class_size"].transform("size") == data["class_size"]).all()
    assert data["ses"].mean() == pytest.approx(0.0, abs=1e-4)
    assert data["ses"].std(ddof=0) == pytest.approx(1.0, abs=1e-4)


def test_load_returns_a_fresh_frame() -> None:
    data = datasets.load("Rail")
    data["travel"] = 0.0
    assert datasets.load("Rail")["travel"].sum() == 1197


@pytest.mark.parametrize("spelling", ["InstEval", "insteval", "INSTEVAL"])
def test_names_ignore_case(spelling: str) -> None:
    assert datasets.describe(spelling).name == "InstEval"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("sleepstdy", "no data set 'sleepstdy'. Did you mean sleepstudy?"),
        ("penicilin", "Did you mean Penicillin?"),
        ("qqq", "Available: dietox, sleepstudy,"),
        ("", "Available: dietox"),
    ],
)
def test_unknown_name_says_what_there_is(wrong: str, message: str) -> None:
    for function in (datasets.load, datasets.describe):
        with pytest.raises(DataError, match=re.escape(message)):
            function(wrong)


@pytest.mark.parametrize("name", datasets.names())
def test_describe_is_complete(name: str) -> None:
    about = datasets.describe(name)
    assert about.n == len(datasets.load(name))
    assert all(about.columns.values())
    assert about.licence in ("GPL (>= 2)", "GPL (>= 3)", "BSD-3-Clause", "Apache-2.0")
    assert len(about.description) > 40
    assert about.source
    text = str(about)
    assert max(map(len, text.splitlines())) <= 79
    assert repr(about) == text
    for column in about.columns:
        assert f"  {column} " in text


def test_describe_has_units() -> None:
    columns = datasets.describe("sleepstudy").columns
    assert columns["Reaction"].endswith("(ms)")
    assert "Belenky" in datasets.describe("sleepstudy").source
    assert datasets.describe("dietox").columns["Weight"] == "body weight (kg)"


def _script(name: str) -> ModuleType:
    path = str(datasets.data_dir().joinpath(f"{name}.py"))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_pages_are_up_to_date() -> None:
    script = _script("make_readme")
    folder = datasets.data_dir()
    assert folder.joinpath("README.md").read_text(encoding="utf-8") == script.data_page()
    page = folder.joinpath("reference", "README.md").read_text(encoding="utf-8")
    assert page.endswith(script.TABLES + script.reference_tables())


def test_pupils_come_from_the_script() -> None:
    simulated = _script("make_pupils").simulate()
    loaded = datasets.load("pupils").astype({"school": str, "classroom": str})
    pd.testing.assert_frame_equal(simulated.astype(loaded.dtypes), loaded)


def test_there_are_reference_fits_for_every_kind_of_model() -> None:
    categories = {reference_fit(name).category for name in REFERENCE_IDS}
    assert categories >= {
        "ri",
        "slope",
        "zcp",
        "nested",
        "crossed",
        "weights",
        "offset",
        "rankdef",
        "singular",
        "maximal",
        "statsmodels",
    }
    assert set(INFERENCE_IDS) <= set(REFERENCE_IDS)


@pytest.mark.parametrize("name", REFERENCE_IDS)
def test_reference_names_are_patsy_names(name: str) -> None:
    fit = reference_fit(name)
    assert [*fit.fixef.index, *fit.dropped] == list(fit.names.values())
    assert set(fit.names.values()) == set(fit.design.columns)
    assert len(fit.names) == fit.design.shape[1]
    assert fit.X.shape == (fit.n, fit.p)
    if fit.p:
        assert np.linalg.matrix_rank(fit.design) == fit.p


@pytest.mark.parametrize("name", REFERENCE_IDS)
def test_reference_rows_and_terms(name: str) -> None:
    fit = reference_fit(name)
    raw, first = fit.raw, len(fit.raw["fitted_first"])
    assert len(fit.y) == fit.n
    # Response, weights and offset are those R computed, up to its printing of 17 digits.
    observed = np.add(raw["fitted_first"], raw["resid_first"])
    np.testing.assert_allclose(fit.y[:first], observed, rtol=1e-12, atol=1e-12)
    for ours, theirs in ((fit.weights, "weights_first"), (fit.offset, "offset_first")):
        assert (ours is None) == (theirs not in raw)
        if ours is not None:
            np.testing.assert_allclose(ours[:first], raw[theirs], rtol=1e-15)
    assert len(fit.theta) == len(fit.theta_names) == len(set(fit.theta_names))
    assert sum(term.n_levels * len(term.names) for term in fit.terms) == fit.q
    for term, covariance in zip(fit.terms, _covariances(fit.terms, fit.theta), strict=True):
        scale = max(1.0, np.abs(term.cov).max())
        np.testing.assert_allclose(covariance * fit.sigma**2, term.cov, atol=1e-12 * scale)


def _covariances(terms: tuple[ReferenceTerm, ...], theta: Array) -> Iterator[Array]:
    """Relative covariance of each term from its slice of theta."""
    start = 0
    for term in terms:
        k = len(term.names)
        columns, rows = np.triu_indices(k)
        factor = np.zeros((k, k))
        factor[rows, columns] = theta[start : start + len(rows)]
        start += len(rows)
        yield factor @ factor.T


def test_reference_names_by_hand() -> None:
    assert reference_fit("cake_cell_ml").names["recipeB:factor(temp)185"] == (
        "recipe[T.B]:factor(temp)[T.185]"
    )
    assert reference_fit("cake_rank_reml").dropped == ("C(temperature, Poly).Linear",)
    assert reference_fit("egsingle_3lev_reml").names["year:lowinc"] == "lowinc:year"
    assert list(reference_fit("machines_cell_reml").fixef.index) == [
        "Machine[A]", "Machine[B]", "Machine[C]",
    ]  # fmt: skip
    slope = reference_fit("insteval_sl_reml")
    assert slope.terms[1].names == ("Intercept", "service[T.1]")
    assert slope.theta_names[2] == "d.service[T.1].Intercept"


def test_reml_shift_of_another_basis() -> None:
    fit = reference_fit("cake_rank_reml")
    assert fit.reml_shift(fit.X) == pytest.approx(0.0, abs=1e-10)
    assert fit.reml_shift(2.0 * fit.X) == pytest.approx(2 * fit.p * np.log(2.0), rel=1e-12)
    # temp is a linear function of temperature.Linear: another choice of what to drop.
    kept = [*fit.design.columns.drop("temp")]
    ratio = np.linalg.slogdet(np.linalg.lstsq(fit.X, fit.design[kept], rcond=None)[0])
    assert fit.reml_shift(fit.design[kept].to_numpy()) == pytest.approx(2 * ratio.logabsdet)


def test_split_formula() -> None:
    parts = split_formula("log(y + 1) ~ a*b + I((x - 2)/5) + offset(2 * z) + (x || g) + (1 | a/b)")
    assert parts.response == "log(y + 1)"
    assert parts.fixed == "a*b + I((x - 2)/5)"
    assert parts.offset == "2 * z"
    assert parts.bars == (("x", "||", "g"), ("1", "|", "a/b"))


@pytest.mark.parametrize("name", INFERENCE_IDS)
def test_inference_records_belong_to_their_fit(name: str) -> None:
    record, fit = reference_inference(name), reference_fit(name)
    assert record["formula"] == fit.raw["formula"]
    assert record["fixef_names"] == fit.raw["fixef_names"]
    # lmerTest's refit and the polished fit are the same optimum.
    np.testing.assert_allclose(record["fixef"], fit.raw["fixef"], rtol=1e-6)
