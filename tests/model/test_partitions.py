"""Rows read in partitions and not kept give the model of rows in memory."""

import hashlib
import os
import pickle
import signal
import threading
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sparselmm.exceptions import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    FormulaError,
    MissingDataError,
    RankDeficiencyWarning,
    RemovedRowsError,
    SourceChangedError,
    UnknownColumnError,
)

import sparselmm
from sparselmm.base.reduction import reduced
from sparselmm.design.sources.recognised import source_of
from sparselmm.model.cluster import OnWorkers

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def rows(seed=0, n=300):
    rng = np.random.default_rng(seed)
    g, h = rng.integers(0, 14, n), rng.integers(0, 6, n)
    x = rng.normal(size=n)
    y = x + rng.normal(size=14)[g] * (1 + x / 3) + rng.normal(size=6)[h] + rng.normal(size=n)
    return pd.DataFrame({
        "y": y,
        "x": x,
        "z": rng.uniform(0, 5, n),
        "year": 1990 + rng.integers(0, 30, n),
        "w": np.where(np.arange(n) % 17 == 3, 0.0, rng.uniform(0.5, 2.0, n)),
        "o": rng.normal(size=n),
        "g": [f"g{j:02}" for j in g],
        "h": h * 10,
        "inner": g * 100 + h % 2,
        "flag": rng.random(n) < 0.5,
        "kind": pd.Categorical.from_codes(rng.integers(0, 3, n), ["low", "mid", "high"]),
    })  # fmt: skip


LEVELS = [f"g{j:02}" for j in range(14)]
pytestmark = pytest.mark.filterwarnings("ignore::sparselmm.exceptions.BoundaryWarning")
KNOWN = sparselmm.KnownCovariance(np.eye(14) + 0.4, LEVELS, kind="covariance")

MODELS = {
    "intercept": ("y ~ x + (1 | g)", {}),
    "no fixed effects": ("y ~ 0 + (1 | g)", {}),
    "quoted": ("y ~ Q('x') + C(kind, Treatment('mid')) + (1 | Q('g'))", {}),
    "slopes": ("y ~ x + (1 + x | g)", {}),
    "far origin": ("y ~ year + (1 + year | g) + (1 | h)", {}),
    "double bar": ("y ~ x + (x || g) + (1 | h)", {}),
    "nested": ("y ~ kind * x + flag + (1 | g/h)", {}),
    "crossed": ("y ~ C(h) + (1 | g) + (1 | kind:flag)", {}),
    "categorical effects": ("y ~ x + (0 + kind | g)", {}),
    "patterned": ("y ~ x + cs(0 + kind | g)", {}),
    "transforms": (
        "y ~ center(x) + standardize(o) + bs(z, knots=[1, 3]) + (1 + center(x) | g)", {}
    ),
    "natural splines": ("y ~ 0 + cr(z, knots=[1, 2, 4]) + (1 | g)", {}),
    "R's transforms": ("y ~ ns(z, knots=[1, 3]) + poly(x, 2, raw=True) + (1 | g)", {}),
    "transform of a transform": ("y ~ bs(center(z), knots=[0]) + (1 | g)", {}),
    "response": ("np.log(y + 30) ~ I(x**2) + np.exp(x) + (1 | g)", {}),
    "expressions": ("y ~ C(h > 20) + (1 | C(year % 7)) + (1 | g)", {}),
    "arguments": (
        "y ~ x", {"groups": "g", "re_formula": "~ z", "vc_formula": {"inner": "0 + C(inner)"},
                  "weights": "w", "offset": "o"},
    ),
    "per group": (
        "y ~ x", {"groups": "g", "vc_formula": {"a": "0 + C(inner) + x"}},
    ),
    "weights": ("y ~ x + offset(o) + (1 | g) + (1 | h)", {"weights": "w"}),
    "subset": ("y ~ x + (1 | g)", {"subset": "year > 1995 and g != 'g03'"}),
    "contrasts": (
        "y ~ kind * x + C(h) + (0 + kind | g)", {"contrasts": {"kind": "sum", "h": "poly"}}
    ),
    "known": ("y ~ x + (1 + x | g) + (1 | h)", {"covariance": {"g": KNOWN}}),
}  # fmt: skip


def same_model(whole, parts, tolerance=1e-10):
    """Names, levels and, at some theta, the deviance, coefficients and effects are the same."""
    assert whole.exog_names == parts.exog_names
    for one, other in zip(whole.terms, parts.terms, strict=True):
        assert (one.name, one.columns, one.structure) == (
            other.name,
            other.columns,
            other.structure,
        )
        for left, right in zip(one.levels.parts, other.levels.parts, strict=True):
            assert left.tolist() == right.tolist()
    assert whole.nobs == parts.nobs
    assert whole.cross.n == parts.cross.n
    assert whole.cross.basis.kept.tolist() == parts.cross.basis.kept.tolist()
    one, other = whole.deviance(), parts.deviance()
    theta = 0.6 * one.units
    a, b = one.at(theta), other.at(theta)
    assert a.deviance == pytest.approx(b.deviance, rel=tolerance)
    scale = np.sqrt(np.diag(a.vcov_unscaled)) * a.sigma
    assert (np.abs(a.beta - b.beta) < 1e-7 * scale).all()
    assert np.allclose(a.b, b.b, rtol=0, atol=1e-7 * a.sigma)


def made(formula, data, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sparselmm.SpecificationWarning)
        return sparselmm.mixedlm(formula, data, **arguments)


@pytest.mark.parametrize(
    "chunk_rows", [pytest.param(1, marks=pytest.mark.slow), 37, 299, 300, 5000]
)
@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_term_in_partitions(name, chunk_rows):
    formula, arguments = MODELS[name]
    if chunk_rows == 1 and name in ("per group",):
        pytest.skip("300 times 14 designs")
    data = rows()
    parts = made(formula, data, keep_rows=False, chunk_rows=chunk_rows, **arguments)
    same_model(made(formula, data, **arguments), parts)


@settings(examples(25), suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([name for name in MODELS if name != "per group"]), st.integers(0, 50),
    st.integers(5, 400), st.sampled_from([None, "sorted", "late"]), st.booleans(),
)  # fmt: skip
def test_partitions_do_not_matter(name, seed, chunk_rows, order, gaps):
    formula, arguments = MODELS[name]
    data = rows(seed, 250)
    if order == "sorted":
        data = data.sort_values(["g", "year"], ignore_index=True)
    if order == "late":  # the last level is met in the last rows alone
        data = data.sort_values("g", ignore_index=True)
    if gaps:
        for column in ("y", "x", "g"):
            data.loc[np.random.default_rng(seed).random(250) < 0.05, column] = None
        arguments = {**arguments, "missing": "drop"}
    parts = made(formula, data, keep_rows=False, chunk_rows=chunk_rows, **arguments)
    same_model(made(formula, data, **arguments), parts)


def containers(data, folder):
    pl, dd = pytest.importorskip("polars"), pytest.importorskip("dask.dataframe")
    duckdb = pytest.importorskip("duckdb")
    table = pa.Table.from_pandas(data)
    (folder / "parts").mkdir()
    for j, start in enumerate(range(0, len(data), 100)):
        part = pa.Table.from_pandas(data[start : start + 100])
        pq.write_table(part, folder / "parts" / f"{j}.parquet", row_group_size=40)
    data.to_csv(folder / "rows.csv", index=False)
    return {
        "table": table,
        "polars": pl.from_pandas(data),
        "lazy": pl.from_pandas(data).lazy(),
        "duckdb": duckdb.from_arrow(table),
        "dask": dd.from_pandas(data, npartitions=5),
        "folder": folder / "parts",
        "csv": folder / "rows.csv",
        "function": lambda: (data[start : start + 33] for start in range(0, len(data), 33)),
    }


@pytest.mark.slow
def test_containers_in_partitions(tmp_path):
    data = rows().drop(columns="kind")
    formula = "y ~ x + flag + (1 + x | g) + (1 | h)"
    whole = made(formula, data, weights="w")
    for name, source in containers(data, tmp_path).items():
        parts = made(formula, source, weights="w", chunk_rows=50, keep_rows=False)
        assert parts.built.streamed is not None, name
        same_model(whole, parts)
        result = parts.fit()
        assert result.llf == pytest.approx(whole.fit().llf, rel=1e-10)
        frames = list(result.augment(source))
        assert max(map(len, frames)) <= 100
        resid = np.concatenate([frame[".resid"] for frame in frames])
        assert np.allclose(resid, whole.fit().resid, atol=1e-6)


@pytest.mark.slow
def test_generalized_models_read_every_container(tmp_path):
    data = rows().drop(columns="kind")
    formula = "flag ~ x + (1 | g)"
    whole = sparselmm.mixedglm(formula, data, family="binomial").fit()
    for name, source in containers(data, tmp_path).items():
        fit = sparselmm.mixedglm(formula, source, family="binomial").fit()
        assert fit.llf == pytest.approx(whole.llf, rel=1e-12), name
        assert np.allclose(fit.predict(source), whole.predict(data), rtol=1e-9)
    for name in ("chunk_rows", "keep_rows"):
        with pytest.raises(ArgumentTypeError, match=f"'{name}'; linear models alone"):
            sparselmm.mixedglm(formula, data, family="binomial", **{name: 10})


@pytest.mark.slow
def test_new_data_in_every_container(tmp_path):
    data = rows().drop(columns="kind")
    formula = "y ~ x + flag + (1 + x | g) + (1 | h)"
    whole = made(formula, data).fit()
    parts = made(formula, data, keep_rows=False, chunk_rows=50).fit()
    wanted = [
        whole.predict(data, re=True), whole.get_prediction(data, re=True).summary_frame(),
        whole.simulate(2, seed=1, newdata=data), whole.augment()[".resid"],
    ]  # fmt: skip
    for source in ({"mapping": data.to_dict("list")} | containers(data, tmp_path)).values():
        found = [
            parts.predict(source, re=True), parts.get_prediction(source, re=True).summary_frame(),
            parts.simulate(2, seed=1, newdata=source), pd.concat(parts.augment(source))[".resid"],
        ]  # fmt: skip
        for one, other in zip(wanted, found, strict=True):
            assert np.allclose(one, other, atol=1e-6)


def digest(model):
    """All bits of the cross-products."""
    cross, found = model.cross, hashlib.sha256()
    arrays = [cross.B, cross.C, cross.basis.T, cross.basis.shift]
    arrays += [a for p in cross.pairs.values() for a in (p.indptr, p.rows, p.data)]
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def test_the_same_partitions_give_the_same_bits(tmp_path):
    data = rows()
    formula = "y ~ x + (1 + x | g) + (1 | h)"
    first = made(formula, data, keep_rows=False, chunk_rows=50)
    table = made(formula, pa.Table.from_pandas(data), keep_rows=False, chunk_rows=50)
    assert digest(first) == digest(table)
    (tmp_path / "parts").mkdir()
    for j in range(6):
        part = pa.Table.from_pandas(data[50 * j : 50 * j + 50])
        pq.write_table(part, tmp_path / "parts" / f"{j}.parquet")
    assert digest(first) == digest(made(formula, tmp_path / "parts", chunk_rows=50))


def test_which_rows_are_kept(tmp_path):
    data = rows()
    data.to_parquet(tmp_path / "rows.parquet")
    formula = "y ~ x + (1 | g)"
    for given_rows in (data, pa.Table.from_pandas(data), tmp_path / "rows.parquet"):
        assert made(formula, given_rows).built.streamed is None  # in memory, or few
    few = made(formula, tmp_path / "rows.parquet", chunk_rows=300)
    assert few.fit().resid.shape == (300,)
    assert made(formula, tmp_path / "rows.parquet", chunk_rows=299).built.streamed is not None
    kept = made(formula, tmp_path / "rows.parquet", chunk_rows=10, keep_rows=True)
    assert kept.built.streamed is None
    with pytest.raises(ArgumentError, match="keep_rows"):
        made(formula, data, keep_rows="never")
    with pytest.raises(ArgumentError, match="chunk_rows"):
        made(formula, data, chunk_rows=0)
    with pytest.raises(ArgumentError, match="keep_rows=False needs data that can be read"):
        made(formula, dict(data), keep_rows=False)


def test_what_needs_rows_refuses_by_name_and_the_rest_works():
    data = rows()
    model = made("y ~ x + (1 + x | g)", data, keep_rows=False, chunk_rows=64)
    result, whole = model.fit(), made("y ~ x + (1 + x | g)", data).fit()
    assert "300 observations" in repr(model)
    with pytest.raises(RemovedRowsError, match=r"model.endog is made of the rows"):
        _ = model.endog
    for name in ("resid", "fittedvalues"):
        with pytest.raises(RemovedRowsError, match=f"{name} is made of the rows.*augment"):
            getattr(result, name)
    for name in ("hatvalues", "cooks_distance", "influence", "bootstrap", "augment"):
        with pytest.raises(RemovedRowsError, match="read in partitions and not kept"):
            getattr(result, name)()
    with pytest.raises(RemovedRowsError, match="fit_many"):
        model.fit_many(data[["y"]])
    with pytest.raises(RemovedRowsError, match="engine='dense'"):
        model.fit(engine="dense")
    assert result.nobs == whole.nobs == model.nobs
    assert str(result.summary()) == str(whole.summary())
    assert np.allclose(result.predict(data), whole.predict(data), atol=1e-7)
    assert np.allclose(
        result.get_prediction(data[:9], interval="confidence").summary_frame(),
        whole.get_prediction(data[:9], interval="confidence").summary_frame(), atol=1e-6,
    )  # fmt: skip
    assert np.allclose(result.bse, whole.bse, rtol=1e-6, equal_nan=True)
    assert np.allclose(result.profile().conf_int(), whole.profile().conf_int(), rtol=1e-4)
    ml = model.fit(reml=False)
    assert ml.llf == pytest.approx(made("y ~ x + (1 + x | g)", data).fit(reml=False).llf)
    fixed = model.fit(fix={"sigma": 1.0})
    assert fixed.sigma == 1.0
    again = pickle.loads(pickle.dumps(result))
    assert np.allclose(again.fe_params, result.fe_params)
    assert np.allclose(pd.concat(again.augment(data))[".resid"], whole.resid, atol=1e-6)


AFTERWARDS = {
    "interactions": ("y ~ x * kind + flag:kind + z + (1 + x | g) + (1 | h)", {}),
    "weights": ("y ~ kind * flag + year + (1 + x | g) + (1 | h)", {"weights": "w", "offset": "o"}),
    "without a constant": ("y ~ 0 + kind + x:flag + (1 | g)", {}),
    "dependent": ("y ~ x + I(2 * x) + kind + (1 | g)", {}),
    "transforms": ("y ~ bs(z, knots=[1, 3]) + center(x) * C(h) + (1 | g)", {}),
    "two values": ("y ~ x + half * kind + (1 | g)", {}),
    "missing": ("y ~ x + kind * flag + (0 + x | g)", {"missing": "drop", "subset": "year > 1993"}),
    "empty cells": ("y ~ x + kind * C(h) + (1 | g)", {}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::sparselmm.SpecificationWarning")
@pytest.mark.filterwarnings("ignore::sparselmm.exceptions.RankDeficiencyWarning")
@pytest.mark.filterwarnings("ignore::sparselmm.exceptions.IdentifiabilityWarning")
@pytest.mark.parametrize("chunk_rows", [41, 1000])
@pytest.mark.parametrize("name", AFTERWARDS)
def test_what_sums_over_the_rows_give_needs_no_rows(name, chunk_rows):
    formula, arguments = AFTERWARDS[name]
    data = rows()
    data["half"] = data["flag"].astype(float)
    if name == "missing":
        data.loc[[3, 77], "x"] = np.nan
    if name == "empty cells":
        data = data[(data["kind"] != "low") | (data["h"] != 20)].reset_index(drop=True)
    whole = made(formula, data, **arguments).fit()
    parts = made(formula, data, keep_rows=False, chunk_rows=chunk_rows, **arguments).fit()
    near = {"rtol": 1e-5, "atol": 1e-8, "equal_nan": True}
    for ask in (
        lambda fit: fit.icc(),
        lambda fit: fit.variance_components(),
        lambda fit: fit.anova(type=1),
        lambda fit: fit.anova(type=2),
        lambda fit: fit.anova(type=3),
        lambda fit: fit.emmeans("kind" if "kind" in formula else "h").frame,
        lambda fit: fit.emmeans("kind" if "kind" in formula else "h", weights="proportional").frame,
        lambda fit: fit.joint_tests().select_dtypes("number"),
        lambda fit: fit.drop1(),
        lambda fit: fit.get_prediction(data[:7]).summary_frame(),
    ):
        a, b = ask(whole), ask(parts)
        numbers = [pd.DataFrame(one).select_dtypes("number").to_numpy(float) for one in (a, b)]
        assert numbers[0].shape == numbers[1].shape
        np.testing.assert_allclose(*numbers, **near)
    r2 = whole.r2(), parts.r2()
    for field in ("marginal", "conditional", "var_fixed", "var_random", "var_residual"):
        assert getattr(r2[0], field) == pytest.approx(getattr(r2[1], field), rel=1e-6)
    words = [fit.report(pictures=False).markdown.split("## Checks")[0] for fit in (whole, parts)]
    assert words[0] == words[1]
    rows_only = {"outlying-rows", "not-normal", "spread", "constant-slope"}
    assert {*parts.check().codes} == {*whole.check().codes} - rows_only | {"not-checked"}


@pytest.mark.filterwarnings("ignore::sparselmm.exceptions.IdentifiabilityWarning")
@pytest.mark.parametrize("bar", ["1", "1 + x", "0 + x"])
def test_terms_that_group_alike_are_found_without_rows(bar):
    data = rows()
    data["g2"], data["other"] = data["g"], data["g"].where(data.index != 5, "g99")
    for second, alike in (("g2", True), ("other", False)):
        parts = made(
            f"y ~ x + ({bar} | g) + ({bar} | {second})", data, keep_rows=False, chunk_rows=64
        ).fit(do_cg=False)
        assert ("not-identifiable" in parts.check().codes) == alike


def test_slopes_of_a_covariate_and_what_is_refused():
    data = rows()
    whole = made("y ~ x * kind + (1 | g)", data).fit()
    parts = made("y ~ x * kind + (1 | g)", data, keep_rows=False, chunk_rows=64).fit()
    np.testing.assert_allclose(
        *(f.emtrends("x", "kind").frame.select_dtypes("number") for f in (whole, parts)),
        rtol=1e-6,
    )
    with pytest.raises(RemovedRowsError, match=r"bootstrap.*not kept"):
        parts.icc("bootstrap", n=3)


def test_predictions_are_drawn_without_rows():
    pytest.importorskip("matplotlib")
    data = rows()
    data["three"] = np.arange(300) % 3
    formula = "y ~ x * kind + three + flag + (1 | g)"
    whole = made(formula, data).fit()
    parts = made(formula, data, keep_rows=False, chunk_rows=41).fit()
    for names in ("x", ["x", "kind"], ["kind", "x"], ["x", "three"]):
        figures = [f.plot_predictions(names, data="none", bands="both") for f in (whole, parts)]
        drawn = [[line.get_ydata() for line in f.axes[0].lines] for f in figures]
        np.testing.assert_allclose(*np.array(drawn, dtype=float), rtol=1e-6, atol=1e-9)
        assert figures[0]._supxlabel.get_text() == figures[1]._supxlabel.get_text()
    assert len(parts.plot_predictions("x").axes[0].lines) == 1
    report = parts.report()
    assert [s.title for s in report.sections][4:7] == [
        "Coefficients", "Predictions", "Random effects of g",
    ]  # fmt: skip
    for arguments, what in (({"data": "partial"}, "data='partial'"), ({"groups": "g"}, "groups=")):
        with pytest.raises(RemovedRowsError, match=f"plot_predictions with {what}.*not kept"):
            parts.plot_predictions("x", **arguments)


def test_augment_streams_every_column(tmp_path):
    data = rows()
    data.loc[[3, 250], "x"] = np.nan
    arguments = {"weights": "w", "offset": "o", "missing": "drop"}
    whole = made("y ~ x + (1 + year | g) + (1 | h)", data, **arguments).fit()
    result = made(
        "y ~ x + (1 + year | g) + (1 | h)", data, keep_rows=False, chunk_rows=70, **arguments
    ).fit()
    wanted, frames = whole.augment(), list(result.augment(data))
    assert [len(frame) for frame in frames] == [69, 70, 70, 69, 20]
    found = pd.concat(frames)
    assert list(found.columns) == list(wanted.columns)
    for name in wanted.columns:
        if name.startswith("."):
            assert np.allclose(found[name], wanted[name], rtol=1e-5, atol=1e-7), name
    path = result.augment(data, to=tmp_path / "out.parquet", influence=False)
    written = pd.read_parquet(path)
    assert ".hat" not in written
    assert np.array_equal(written[".resid"], found[".resid"])
    with pytest.raises(UnknownColumnError, match="'x', used in the fit"):
        result.augment(data.drop(columns="x"))
    half = data.copy()
    half.loc[299, "g"] = "new"
    with pytest.raises(DataError, match=r"partition 4.*'g' has a level that did not occur"):
        result.augment(half, to=tmp_path / "other.parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.parquet"]


REFUSED = {
    "y ~ bs(x, df=5) + (1 | g)": (FormulaError, "quantiles of all rows.*knots="),
    "y ~ cr(x, df=4) + (1 | g)": (FormulaError, "quantiles of all rows"),
    "y ~ cr(x, knots=[0], constraints='center') + (1 | g)": (FormulaError, "constraints='center'"),
    "y ~ te(cr(x, df=4), cr(z, df=4)) + (1 | g)": (FormulaError, "learns from all rows|quantiles"),
    "y ~ ns(x, df=3) + (1 | g)": (FormulaError, "quantiles of all rows"),
    "y ~ poly(x, 2) + (1 | g)": (FormulaError, "orthogonal over all rows.*raw=True"),
    "y ~ bs(z, knots=[99]) + (1 | g)": (FormulaError, "cannot evaluate.*upper bound"),
    "y ~ relevel(kind, ref='mid') + (1 | g)": (
        FormulaError,
        "calls relevel, which learns from all",
    ),
    "y ~ I(x - x.mean()) + (1 | g)": (DataError, r"'I\(x - x.mean\(\)\)'.*other rows than its own"),
    "y ~ shifted(x) + (1 | g)": (DataError, "'shifted.x.' of the formula depends on other rows"),
    "I(y - y.mean()) ~ x + (1 | g)": (DataError, "of the response depends on other rows"),
    "y ~ x + (0 + I(z / z.max()) | g)": (DataError, "of g depends on other rows"),
}


def shifted(x):
    return x - x.shift(1).fillna(0)


@pytest.mark.parametrize("formula", REFUSED)
def test_expressions_that_look_at_other_rows(formula):
    error, message = REFUSED[formula]
    with pytest.raises(error, match=message):
        made(formula, rows(), keep_rows=False, chunk_rows=50)


def test_a_query_with_a_variable():
    data, first = rows(), 1995
    model = sparselmm.mixedlm(
        "y ~ x + (1 | g)", data, subset="year > @first", keep_rows=False, chunk_rows=50
    )
    assert model.nobs == int((data["year"] > first).sum())
    assert "data" not in dir(model.built.streamed.recipe.reading.env.namespace)


@pytest.mark.filterwarnings("error")
def test_queries_in_threads_leave_warnings_alone():
    data, before = rows(n=3000), list(warnings.filters)
    made("y ~ x + (1 | g)", data, keep_rows=False, chunk_rows=40, subset="year > 1995")
    assert warnings.filters == before


def test_arguments_that_need_all_rows():
    data = rows()
    formula = "y ~ x + (1 | g)"
    for arguments, message in (
        ({"weights": data["w"]}, "weights is as long as the data"),
        ({"offset": data["o"].to_numpy()}, "offset is as long as the data"),
        ({"groups": data["h"]}, "groups is as long as the data"),
        ({"subset": data["flag"]}, "subset is as long as the data"),
        ({"subset": "x > x.mean()"}, "subset='x > x.mean.*depends on other rows"),
        ({"z_terms": {"a": np.ones((300, 2))}}, "z_terms are as long as the data"),
    ):
        with pytest.raises(DataError, match=message):
            made(formula, data, keep_rows=False, chunk_rows=50, **arguments)


def test_bad_rows_are_named_by_their_partition(tmp_path):
    data = rows()
    formula = "y ~ x + (1 | g)"
    bad = data.copy()
    bad.loc[260, "x"] = np.nan
    with pytest.raises(MissingDataError, match=r"partition 5 of the data frame.*'x' has 1 missing"):
        made(formula, bad, keep_rows=False, chunk_rows=50)
    bad = data.copy()
    bad.loc[260, "w"] = -1.0
    with pytest.raises(DataError, match=r"partition 5.*negative"):
        made(formula, bad, keep_rows=False, chunk_rows=50, weights="w")
    bad.loc[260, "y"] = np.inf
    with pytest.raises(DataError, match=r"partition 5.*'y'.*row 10 \(label 260\)"):
        made(formula, bad, keep_rows=False, chunk_rows=50)
    with pytest.raises(DataError, match=r"<lambda>.*'y'.*row 260;"):  # counted from the beginning
        made(formula, lambda: [bad], keep_rows=False, chunk_rows=50, subset="x > -50")
    for j in range(3):
        data[100 * j : 100 * j + 100].to_parquet(tmp_path / f"{j}.parquet")
    (tmp_path / "2.parquet").write_bytes((tmp_path / "1.parquet").read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"2\.parquet"):
        made(formula, tmp_path, chunk_rows=50)
    data[200:].assign(x="text").to_parquet(tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"2\.parquet"):
        made(formula, tmp_path, chunk_rows=50)
    with pytest.raises(DataError, match="none of 300 rows"):
        made(formula, data, subset="x > 100", keep_rows=False, chunk_rows=50)


def test_a_source_that_breaks_is_named(tmp_path):
    data = rows()

    def breaking():
        yield data[:200]
        raise OSError("the tape is torn")

    for keep_rows in (False, True):
        with pytest.raises(
            DataError, match=r"breaking.* cannot be read: OSError: the tape is torn"
        ):
            made("y ~ x + (1 | g)", breaking, chunk_rows=50, keep_rows=keep_rows)
    duckdb = pytest.importorskip("duckdb")
    relation = duckdb.sql("select 1.0 as y, error('no such row') as g from range(3000)")
    with pytest.raises(DataError, match=r"DuckDB relation cannot be read.*no such row"):
        made("y ~ 1 + (1 | g)", relation, chunk_rows=50)
    dd = pytest.importorskip("dask.dataframe")
    gone = tmp_path / "gone.csv"
    data.drop(columns="kind").to_csv(gone, index=False)
    frame = dd.read_csv(gone, blocksize=4000)
    gone.unlink()
    with pytest.raises(DataError, match=r"Dask DataFrame cannot be read|partition 0 of the Dask"):
        made("y ~ x + (1 | g)", frame, chunk_rows=50)


def test_partitions_of_different_types():
    """Missing integers in one partition, other categories or decimals in another."""
    data = rows()
    data["h"] = data["h"].astype("Int64")
    data.loc[[20, 150], "h"] = None
    data["kind"] = data["kind"].astype(str)

    def parts():
        for start in range(0, 300, 60):
            part = data[start : start + 60].copy()
            if part["h"].notna().all():
                part["h"] = part["h"].astype(np.int64)
            part["kind"] = pd.Categorical(
                part["kind"], sorted(set(part["kind"]), reverse=start > 0)
            )
            if start == 120:
                part = part.astype({"x": object})
            yield part

    arguments = {"missing": "drop", "chunk_rows": 25}
    model = made("y ~ x + (1 | h) + (1 | g)", parts, keep_rows=False, **arguments)
    same_model(made("y ~ x + (1 | h) + (1 | g)", data, missing="drop"), model)
    ordered = made("y ~ x + kind + (1 | g)", parts, keep_rows=False, **arguments)
    same_model(made("y ~ x + kind + (1 | g)", parts, keep_rows=True, **arguments), ordered)


def test_a_source_that_changes_is_found(tmp_path):
    data = rows()
    calls = []

    def changing():
        calls.append(len(calls))
        later = len(calls) > 3  # names, the first rows, the first pass
        yield data[:200]
        yield data[200:299] if later else data[200:]

    with pytest.raises(SourceChangedError, match=r"had 300 rows .300 in use. in the first pass"):
        made("y ~ x + (1 | g)", changing, chunk_rows=64, keep_rows=False)
    calls.clear()

    def other_levels():
        calls.append(len(calls))
        yield data.assign(g=data["g"] + "!") if len(calls) > 3 else data

    with pytest.raises(SourceChangedError, match="level that did not occur in the first pass"):
        made("y ~ x + (1 | g)", other_levels, chunk_rows=64, keep_rows=False)


def test_what_cannot_be_fitted_is_said_as_with_rows():
    data = rows()
    for frame, formula in (
        (data.assign(y=1.0), "y ~ x + (1 | g)"),
        (data.assign(one=1), "y ~ x + (1 | one)"),
        (data.assign(each=range(300)), "y ~ x + (1 | each)"),
        (data.assign(y=2 * data["x"] + 1), "y ~ x + (1 | g)"),
        (data, "y ~ x"),
        (data[:2], "y ~ x + (1 | g)"),
    ):
        messages = []
        for arguments in ({}, {"keep_rows": False, "chunk_rows": 50}):
            with pytest.raises(DataError if "(" in formula else FormulaError) as caught:
                made(formula, frame, **arguments).fit()
            messages.append(str(caught.value)[:45])
        assert messages[0] == messages[1]


@pytest.mark.parametrize("end", [30_000, 60_000, 100_000])
@pytest.mark.parametrize("bars", ["(1|g) + (1|h)", "(x|g) + (1|h)", "(1|g) + (x|h)"])
def test_factors_that_are_nested_up_to_some_row(bars, end):
    """Pairs of levels are those of all rows, whether that shows in a partition or between two."""
    rng, n = np.random.default_rng(4), 90_000
    g = rng.integers(0, 500, n)
    h = np.where(np.arange(n) < end, g % 20, rng.integers(0, 20, n))
    x = rng.normal(size=n)
    y = x + rng.normal(size=500)[g] * (1 + x / 3) + rng.normal(size=20)[h] + rng.normal(size=n)
    data = pd.DataFrame({"y": y, "x": x, "g": g, "h": h, "w": rng.uniform(0.5, 2.0, n)})
    formula, how = f"y ~ x + {bars}", {"weights": "w", "chunk_rows": 22_500}
    whole = sparselmm.mixedlm(formula, data, keep_rows=True, **how)
    value = whole.deviance().value(whole.covariance.on_diagonal * 0.5)
    for source in (data, lambda: iter([data])):  # four partitions; one, in four pieces
        own = sparselmm.mixedlm(formula, source, keep_rows=False, **how)
        assert (whole.cross.A != 0).nnz == (own.cross.A != 0).nnz
        assert own.deviance().value(own.covariance.on_diagonal * 0.5) == pytest.approx(value)


def test_dependent_columns_and_bad_samples():
    data = rows(n=2000)
    data["twice"] = 2 * data["x"] - 3
    data["rare"] = (np.arange(2000) == 1999).astype(float)
    data["rarer"] = (np.arange(2000) == 1998).astype(float)
    data["both"] = data["rare"] + data["rarer"]
    formula = "y ~ x + twice + rare + rarer + both + kind + (1 | g)"
    with pytest.warns(RankDeficiencyWarning, match="twice, both"):
        (whole := made(formula, data)).plan()
    with pytest.warns(RankDeficiencyWarning, match="twice, both"):
        parts = made(formula, data, keep_rows=False, chunk_rows=700)
    same_model(whole, parts)


def test_rows_sorted_by_time_lose_no_digits():
    n = 20_000
    rng = np.random.default_rng(0)
    t = 1.7e9 + np.sort(rng.random(n)) * 3e8
    g = rng.integers(0, 40, n)
    y = 1e6 + 3e-7 * (t - 1.8e9) + rng.normal(size=40)[g] + rng.normal(size=n)
    data = pd.DataFrame({"y": y, "t": t, "g": g})
    formula = "y ~ t + I(t**2 / 1e9) + (1 + t | g)"
    whole, parts = (
        made(formula, data, **arguments)
        for arguments in ({}, {"keep_rows": False, "chunk_rows": 999})
    )
    a, b = whole.deviance(), parts.deviance()
    theta = np.array([0.5, 0.0, 1e-10])
    assert a.value(theta) == pytest.approx(b.value(theta), rel=1e-10)


def test_the_tree_does_not_depend_on_how_parts_come():
    merge = tuple
    for n in range(1, 90):
        level = list(range(n))
        while len(level) > 1:
            fours = [level[i : i + 4] for i in range(0, len(level), 4)]
            level = [merge(four) if len(four) > 1 else four[0] for four in fours]
        assert reduced(range(n), merge) == level[0]
    assert reduced([], merge) is None


def test_progress_of_the_passes(capsys):
    made("y ~ x + (1 | g)", rows(), keep_rows=False, chunk_rows=60, progress=True)
    shown = capsys.readouterr().err
    assert "first pass: 300 rows, partition 5 of 5" in shown
    assert "s left" in shown
    made("y ~ x + (1 | g)", lambda: [rows()], keep_rows=False, chunk_rows=60, progress=True)
    assert "first pass: 240 rows" in capsys.readouterr().err


def test_partitions_of_parquet_are_row_groups(tmp_path):
    data = rows()
    pq.write_table(pa.Table.from_pandas(data), tmp_path / "a.parquet", row_group_size=30)
    source = source_of(tmp_path / "a.parquet")
    sizes = [sum(map(len, p.frames(["y"], 100))) for p in source.parts(100, ["y"])]
    assert sizes == [90, 90, 90, 30]
    assert [len(f) for f in source.parts(100, ["y"])[0].frames(["y"], 45)] in (
        [30, 30, 30],
        [45, 45],
    )


# ------------------------------------------------------------------------------- a cluster


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
            ) as workers,
            distributed.Client(workers) as client,
        ):
            yield client


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    data = rows(n=6000)
    for j in range(12):
        data[500 * j : 500 * j + 500].to_parquet(folder / f"{j:02}.parquet")
    return folder


def two_workers(client):
    """Wait until a killed worker was started again; on a busy machine Dask may fail to."""
    try:
        client.wait_for_workers(2, timeout=30)
    except TimeoutError:
        client.cluster.scale(len(client.cluster.worker_spec) + 1)
        client.wait_for_workers(2, timeout=60)


FORMULA = "y ~ center(x) + kind + (1 + x | g) + (1 | h)"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_has_the_bits_of_one_process(cluster, files):
    dd = pytest.importorskip("dask.dataframe")
    one = made(FORMULA, files, chunk_rows=500, keep_rows=False)
    two = made(FORMULA, files, chunk_rows=500, keep_rows=False, client=cluster)
    assert digest(one) == digest(two)
    frame = dd.from_map(pd.read_parquet, sorted(files.glob("*.parquet")))
    assert digest(one) == digest(made(FORMULA, frame, chunk_rows=500))  # the client in use
    assert two.fit().llf == one.fit().llf
    with pytest.raises(ArgumentError, match="other processes can read"):
        made(FORMULA, lambda: [rows()], keep_rows=False, client=cluster)
    bad = rows()
    bad.loc[200, "x"] = np.nan
    with pytest.raises(MissingDataError, match=r"partition 4"):
        made(FORMULA, bad, chunk_rows=50, keep_rows=False, client=cluster)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_replicates_on_a_cluster_have_the_bits_of_one_process(cluster):
    data = rows()
    model = made("y ~ x + (1 | g) + (1 | h)", data)
    fit = model.fit()
    for ask in (
        lambda **k: fit.bootstrap(60, seed=1, **k).values,
        lambda **k: fit.bootstrap(8, lambda r: float(r.llf), seed=1, **k).values,
        lambda **k: fit.bootstrap(12, kind="case", by="g", seed=1, **k).values,
        lambda **k: fit.power({"x": 0.2}, n_sim=40, seed=1, **k).table,
        lambda **k: fit.influence("g", exact=True, **k).fe_params,
        lambda **k: fit.influence("g", **k).cooks_distance,
        lambda **k: model.fit_many(data[["y", "x"]].to_numpy() @ np.eye(2, 40), **k).fe_params,
        lambda **k: fit.fit_many(data[["y", "z"]], **k).fe_params,
        lambda **k: fit.icc("bootstrap", n=20, seed=1, **k),
    ):
        assert pd.DataFrame(ask()).equals(pd.DataFrame(ask(client=cluster)))
    with pytest.raises(ArgumentError, match="leave out n_jobs"):
        fit.bootstrap(4, n_jobs=2, client=cluster)
    with pytest.raises(ArgumentError, match=r"distributed\.Client"):
        fit.influence("g", client=3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_worker_killed_in_a_bootstrap_changes_no_replicate(cluster):
    fit = made("y ~ x + (1 | g) + (1 | h)", rows()).fit()

    def slowly(results):
        time.sleep(0.02)
        return results.sigma

    one = fit.bootstrap(40, slowly, seed=1)
    victim = min(cluster.run(os.getpid).values())
    timer = threading.Timer(0.5, os.kill, (victim, signal.SIGKILL))
    timer.start()
    two = fit.bootstrap(40, slowly, seed=1, client=cluster)
    timer.join()
    assert np.array_equal(one.values, two.values)
    two_workers(cluster)


def test_a_client_is_never_ignored():
    with pytest.raises(ArgumentError, match="leave out keep_rows=True"):
        made("y ~ x + (1 | g)", rows(), client=object(), keep_rows=True)
    with pytest.raises(ArgumentError, match=r"client must be a distributed.Client"):
        made("y ~ x + (1 | g)", rows(), client=object())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("killed", [False, True])
def test_groups_of_residuals_on_a_cluster_have_the_bits_of_one_process(cluster, tmp_path, killed):
    dd = pytest.importorskip("dask.dataframe")
    data = rows(n=6000).assign(id=np.arange(6000) // 7, t=np.arange(6000) % 7)
    data = data.sample(frac=0.9, random_state=0).sort_values(["id", "t"])
    for j in range(12):  # files end within groups
        data[450 * j : 450 * j + 450].to_parquet(tmp_path / f"{j:02}.parquet")
    formula, arguments = "y ~ x + (1 | h)", {"residual": "ar1(t | id)", "chunk_rows": 450}
    one = made(formula, tmp_path, keep_rows=False, **arguments)

    def bits(model):
        groups = model._groups
        arrays = (groups.y, groups.X, groups.residual.group, groups.residual.counts)
        return digest(model), [array.tobytes() for array in arrays]

    if killed:
        run = OnWorkers.run

        def killing(self, function, parts, merge, title):
            if title == "pass of the groups":
                victim = min(cluster.run(os.getpid).values())
                threading.Timer(0.02, os.kill, (victim, signal.SIGKILL)).start()
            return run(self, function, parts, merge, title)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OnWorkers, "run", killing)
            two = made(formula, tmp_path, client=cluster, **arguments)
        two_workers(cluster)
    else:
        two = made(formula, tmp_path, client=cluster, **arguments)
        frame = dd.from_map(pd.read_parquet, sorted(tmp_path.glob("*.parquet")))
        assert bits(made(formula, frame, **arguments)) == bits(one)
    assert bits(two) == bits(one)
    assert two.fit().llf == one.fit().llf
    late = pd.concat([data[2:], data[:2]])
    with pytest.raises(DataError, match="has rows in several places"):
        made(formula, late, keep_rows=False, client=cluster, **arguments)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_worker_killed_in_a_pass_changes_no_bit(cluster, files):
    one = made(FORMULA, files, chunk_rows=500, keep_rows=False)
    for passes in (0, 12):  # in the first pass, in the second
        before = cluster.run(os.getpid)
        victim = min(before.values())
        counted = threading.Event()

        def kill(victim=victim, passes=passes, counted=counted):
            while cluster.cluster.scheduler.tasks and not counted.is_set():
                done = sum(t.state == "memory" for t in cluster.cluster.scheduler.tasks.values())
                if done > passes:
                    os.kill(victim, signal.SIGKILL)
                    return

        timer = threading.Timer(0.05, kill)
        timer.start()
        two = made(FORMULA, files, chunk_rows=500, keep_rows=False, client=cluster)
        counted.set()
        timer.join()
        assert digest(one) == digest(two)
        two_workers(cluster)
