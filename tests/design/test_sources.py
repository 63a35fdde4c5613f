"""The same rows in every container give the same model to the last bit."""

import json
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from sparselmm.exceptions import (
    ArgumentError,
    DataError,
    FileError,
    MissingDataError,
    MissingPackageError,
    UnknownColumnError,
)

import sparselmm
from sparselmm.design import factors, from_formula
from sparselmm.design.sources import optional
from sparselmm.design.sources.arrow import united
from sparselmm.design.sources.recognised import is_source, mentioned, source_of
from sparselmm.design.sources.text import coded, decoded
from sparselmm.design.spec import as_frame

pa = pytest.importorskip("pyarrow")
ds = pytest.importorskip("pyarrow.dataset")

CONTAINERS = {}


def container(make):
    CONTAINERS[make.__name__] = make
    return make


@container
def polars(data, folder):
    pl = pytest.importorskip("polars")
    frame = pl.from_pandas(data)
    if "kind" in data:  # a Categorical of polars has no order of its own
        frame = frame.with_columns(pl.col("kind").cast(pl.Enum(data["kind"].cat.categories)))
    return frame


@container
def lazy(data, folder):
    return polars(data, folder).lazy()


@container
def table(data, folder):
    return pa.Table.from_pandas(data)


@container
def chunked_table(data, folder):
    return pa.concat_tables([pa.Table.from_pandas(data[:7]), pa.Table.from_pandas(data[7:])])


@container
def batch(data, folder):
    return pa.RecordBatch.from_pandas(data)


@container
def reader(data, folder):
    return table(data, folder).to_reader(max_chunksize=11)


@container
def dataset(data, folder):
    return ds.dataset(table(data, folder))


@container
def capsule(data, folder):
    class Capsule:
        def __arrow_c_stream__(self, requested_schema=None):
            return table(data, folder).__arrow_c_stream__(requested_schema)

    return Capsule()


@container
def duckdb(data, folder):
    relation = pytest.importorskip("duckdb").from_arrow(table(data, folder))
    if "kind" in data:  # DuckDB reads dictionaries as text
        return relation.project("* replace (kind::ENUM('low', 'mid', 'high') as kind)")
    return relation


@container
def dask(data, folder):
    return pytest.importorskip("dask.dataframe").from_pandas(data, npartitions=3)


@container
def path(data, folder):
    name = folder / "rows.parquet"
    pa.parquet.write_table(table(data, folder), name)
    return str(name)


@container
def pathlike(data, folder):
    path(data, folder)
    return folder / "rows.parquet"


@container
def row_groups(data, folder):
    pa.parquet.write_table(table(data, folder), folder / "groups.parquet", row_group_size=9)
    return folder / "groups.parquet"


@container
def pattern(data, folder):
    for j, start in enumerate(range(0, len(data), 50)):
        part = table(data[start : start + 50], folder)
        pa.parquet.write_table(part, folder / f"part-{j:03}.parquet")
    return str(folder / "part-*.parquet")


@container
def files(data, folder):
    pattern(data, folder)
    return sorted(folder.glob("part-*.parquet"))


@container
def a_folder(data, folder):
    folder.mkdir(exist_ok=True)
    pattern(data, folder)
    (folder / "_SUCCESS").write_text("")
    return folder


@container
def feather(data, folder):
    pa.feather.write_feather(table(data, folder), folder / "rows.arrow")
    return folder / "rows.arrow"


@container
def function(data, folder):
    return lambda: (data[start : start + 40] for start in range(0, len(data), 40))


@container
def function_of_several(data, folder):
    return lambda: [data[:20], polars(data[20:60], folder), table(data[60:], folder)]


@pytest.fixture(autouse=True)
def _modules():
    pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("pyarrow.feather")


def rows(seed=0, n=120):
    rng = np.random.default_rng(seed)
    g, h = rng.integers(0, 12, n), rng.integers(0, 7, n)
    x = rng.normal(size=n)
    return pd.DataFrame({
        "y": x + rng.normal(size=12)[g] + rng.normal(size=7)[h] + rng.normal(size=n),
        "x": x,
        "count": rng.integers(0, 5, n),
        "w": rng.uniform(0.5, 2.0, n),
        "o": rng.normal(size=n),
        "name": [f"g{j:02}" for j in g],
        "number": h * 10,
        "flag": rng.random(n) < 0.5,
        "kind": pd.Categorical.from_codes(rng.integers(0, 3, n), ["low", "mid", "high"]),
        "inner": g * 10 + h % 2,
        "unused": [[1, 2]] * n,
    })  # fmt: skip


def same(a, b):
    for one, other in zip(a.design.terms, b.design.terms, strict=True):
        assert one.columns == other.columns
        for left, right in zip(one.levels.parts, other.levels.parts, strict=True):
            assert left.tolist() == right.tolist()
            assert [type(label) for label in left] == [type(label) for label in right]
        for field in ("codes", "values"):
            left, right = getattr(one, field), getattr(other, field)
            assert (left is None) == (right is None)
            assert left is None or (left.dtype == right.dtype and np.array_equal(left, right))
    assert a.design.x_names == b.design.x_names
    for field in ("y", "X", "weights", "offset"):
        left, right = getattr(a.design, field), getattr(b.design, field)
        assert (left is None) == (right is None)
        assert left is None or left.tobytes() == right.tobytes()


MODELS = {
    "crossed": ("y ~ x + (1 + x | name) + (1 | number)", {}),
    "nested": ("y ~ kind * x + flag + (1 | name/number)", {}),
    "arguments": (
        "y ~ count",
        {"groups": "name", "re_formula": "~ x", "vc_formula": {"inner": "0 + C(inner)"},
         "weights": "w", "offset": "o"},
    ),
    "transforms": ("y ~ center(x) + bs(o, df=4) + C(number) + (0 + kind | name)", {}),
    "rows": ("y ~ x + (1 | kind) + (1 | name:flag)", {"subset": "count > 0 and name != 'g01'"}),
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("make", CONTAINERS)
def test_every_container_gives_the_design_of_pandas(make, model, tmp_path):
    formula, arguments = MODELS[model]
    data = rows().drop(columns="unused")
    given = CONTAINERS[make](data, tmp_path)
    same(from_formula(formula, given, **arguments), from_formula(formula, data, **arguments))


@pytest.mark.parametrize("make", CONTAINERS)
def test_missing_values_of_every_container(make, tmp_path):
    data = rows().drop(columns="unused")
    data["maybe"] = pd.array([None if j % 11 == 3 else 2**60 + j % 6 for j in data.index], "Int64")
    data.loc[5, "y"], data.loc[9, "name"], data.loc[14, "kind"] = np.nan, None, None
    formula = "y ~ x + kind + (1 | name) + (1 | maybe)"
    given = CONTAINERS[make](data, tmp_path)
    with pytest.raises(MissingDataError):
        from_formula(formula, CONTAINERS[make](data, tmp_path))
    same(from_formula(formula, given, missing="drop"), from_formula(formula, data, missing="drop"))


@pytest.mark.parametrize("make", CONTAINERS)
def test_everything_that_takes_rows(make, tmp_path):
    data = rows().drop(columns="unused")

    def given():
        return CONTAINERS[make](data, tmp_path)

    model = sparselmm.mixedlm("y ~ x + (1 | name)", given())
    result = model.fit()
    wanted = sparselmm.mixedlm("y ~ x + (1 | name)", data).fit()
    assert result.llf == pytest.approx(wanted.llf, rel=1e-12)  # BLAS: where arrays begin
    near = {"rtol": 1e-9, "atol": 1e-12}
    assert np.allclose(result.predict(given()), wanted.predict(data), **near)
    assert np.allclose(
        result.get_prediction(given()).summary_frame(),
        wanted.get_prediction(data).summary_frame(), **near,
    )  # fmt: skip
    simulated = result.simulate(2, newdata=given(), seed=1)
    assert np.allclose(simulated, wanted.simulate(2, newdata=data, seed=1), **near)
    other = result.augment(given())
    assert np.allclose(other[".hat"], wanted.augment(data)[".hat"], **near)
    assert {"name", "kind", "o"} <= set(other.columns)


@pytest.mark.parametrize("make", CONTAINERS)
def test_generalized_models(make, tmp_path):
    data = rows().drop(columns="unused")
    data["yes"] = np.where(data["y"] > 0, "yes", "no")
    formula = "yes ~ x + (1 | name)"
    fits = [
        sparselmm.mixedglm(formula, given, family="binomial").fit()
        for given in (data, CONTAINERS[make](data, tmp_path))
    ]
    assert fits[0].llf == pytest.approx(fits[1].llf, rel=1e-12)  # BLAS: where arrays begin
    predicted = fits[1].predict(CONTAINERS[make](data, tmp_path))
    assert np.allclose(fits[0].predict(data), predicted, rtol=1e-9)


def test_only_the_columns_in_use_are_read(tmp_path):
    data = rows()
    name = tmp_path / "rows.parquet"
    pa.parquet.write_table(pa.Table.from_pandas(data), name)
    built = from_formula("y ~ x + (1 | name)", name, weights="w")
    assert list(built.frame.columns) == ["y", "x", "w", "name"]
    assert mentioned(["a", "b c", "bc", 3], ['Q("b c") ~ a']) == ["a", "b c"]


def test_numbers_are_not_copied():
    values = np.arange(1e5)
    frame = as_frame(pa.table({"x": values, "g": np.arange(100_000)}))
    assert np.shares_memory(frame["x"].to_numpy(), values)
    pl = pytest.importorskip("polars")
    column = pl.Series("x", np.arange(1e5))
    assert np.shares_memory(as_frame(pl.DataFrame([column]))["x"].to_numpy(), column.to_numpy())


def test_labels_stay_what_they_are():
    labels = [2**60 + 1, 2**60 + 2, 2**60 + 1, 2**60 + 2]
    frame = pa.table({
        "y": [1.0, 2.0, 3.0, 5.0], "big": labels, "zero": [0.0, -0.0, 1.0, 1.0],
        "date": pa.array([1, 1, 2, 2], pa.date32()), "byte": pa.array([200, 3, 200, 3], pa.uint8()),
    })  # fmt: skip
    levels = {
        name: from_formula(f"y ~ 1 + (1 | {name})", frame).design.terms[0].levels.labels().tolist()
        for name in ("big", "zero", "date", "byte")
    }
    assert levels["big"] == labels[:2]
    assert levels["zero"] == [0.0, 1.0]
    assert [str(label)[:10] for label in levels["date"]] == ["1970-01-02", "1970-01-03"]
    assert levels["byte"] == [3, 200]


def test_missing_and_nan_are_the_same():
    y = pa.chunked_array([pa.array([1.0, None, float("nan"), 4.0, 2.0, 7.0])])
    g = pa.array(["a", "a", "b", "b", None, "a"])
    built = from_formula("y ~ 1 + (1 | g)", pa.table({"y": y, "g": g}), missing="drop")
    assert built.design.y.tolist() == [1.0, 4.0, 7.0]


def test_dictionaries_keep_their_order_and_may_repeat_values():
    odd = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None]), pa.array(["b", "a", "b"]))
    y = pa.array([1.0, 2.0, 3.0, 5.0])
    built = from_formula("y ~ 1 + (1 | g)", pa.table({"y": y, "g": odd}), missing="drop")
    assert built.design.terms[0].levels.labels().tolist() == ["a", "b"]
    whole = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, 1]), pa.array(["b", "a"]))
    built = from_formula("y ~ 1 + (1 | g)", pa.table({"y": y, "g": whole}))
    assert built.design.terms[0].levels.labels().tolist() == ["b", "a"]


def test_labels_of_polars_are_in_order_unless_an_enum_says_otherwise():
    """The order of a Categorical is that in which the process met its labels."""
    pl = pytest.importorskip("polars")
    labels = ["mid", "low", "top", "low", "mid", "top"]
    frame = pl.DataFrame({
        "y": [1.0, 2.0, 4.0, 3.0, 7.0, 5.0],
        "free": pl.Series(labels, dtype=pl.Categorical),
        "given": pl.Series(labels, dtype=pl.Enum(["low", "mid", "top"])),
        "g": ["a", "b", "a", "b", "b", "a"],
    })  # fmt: skip
    for data in (frame, frame.lazy(), frame.to_arrow()):
        for chunk_rows in (3, 10):
            model = sparselmm.mixedlm(
                "y ~ free + (1 | g)", data, chunk_rows=chunk_rows, keep_rows=False
            )
            assert model.exog_names == ["Intercept", "free[T.mid]", "free[T.top]"]
        names = from_formula("y ~ given + (1 | g)", data).design.x_names
        assert names == ("Intercept", "given[T.mid]", "given[T.top]")


def test_frames_of_different_categories_are_put_together():
    parts = [
        pd.DataFrame({"y": [1.0, 2.0], "g": pd.Categorical(["b", "a"], ["b", "a"])}),
        pd.DataFrame({"y": [4.0, 3.0], "g": pd.Categorical(["a", "c"], ["a", "c"])}),
    ]
    frame = as_frame(lambda: iter(parts))
    assert frame["g"].tolist() == ["b", "a", "a", "c"]
    assert frame["g"].cat.categories.tolist() == ["b", "a", "c"]


def test_leading_zeros_of_text_files_stay(tmp_path):
    (tmp_path / "rows.csv").write_text("y,g,k\n1,007,1\n2,07,2\n3,007,1\n5,07,2\n")
    frame = as_frame(tmp_path / "rows.csv")
    assert frame["g"].tolist() == ["007", "07", "007", "07"]
    assert frame["k"].tolist() == [1, 2, 1, 2]


def test_text_that_changes_its_type_is_refused(tmp_path):
    head = "".join(f"{j % 7}.5,{j % 5},{j % 3}\n" for j in range(250_000))
    path = tmp_path / "rows.csv"
    path.write_text("y,g,k\n" + head + "1.5,007,2\n")
    assert as_frame(path)["g"].iloc[[1, -1]].tolist() == ["1", "007"]
    with pytest.raises(DataError, match=r"'g' of the file .*rows.csv' has numbers with leading"):
        sparselmm.mixedlm("y ~ 1 + (1 | g)", path, chunk_rows=50_000)
    path.write_text("y,g,k\n" + head + "1.5,1,2\n1.5,2,two\n")
    with pytest.raises(DataError, match=r"'k' of the file .*rows.csv' holds text"):
        sparselmm.mixedlm("y ~ k + (1 | g)", path, chunk_rows=50_000)
    path.write_text("y,g,k\n" + head + "1.5,1,2.5\n")
    kept, parts = (
        sparselmm.mixedlm("y ~ k + (1 | g)", path, chunk_rows=50_000, keep_rows=keep)
        for keep in (True, False)
    )
    value = kept.deviance().value(np.array([0.5]))
    assert value == pytest.approx(parts.deviance().value(np.array([0.5])), rel=1e-12)


def test_folders_of_hive_are_columns(tmp_path):
    data = rows().drop(columns=["unused", "kind"])
    for number, part in data.groupby("number"):
        (tmp_path / f"number={number}").mkdir()
        part.drop(columns="number").to_parquet(tmp_path / f"number={number}" / "part.parquet")
    built = from_formula("y ~ x + (1 | number)", tmp_path)
    assert built.design.terms[0].levels.labels().tolist() == sorted(data["number"].unique())


BAD = {
    "nested": (pa.array([[1], [2], [1], [2]]), DataError, "'bad' holds lists"),
    "bytes": (pa.array([b"a", b"b", b"a", b"b"]), DataError, "'bad' holds bytes"),
    "durations": (pa.array([1, 2, 3, 4], pa.duration("s")), DataError, "'bad' holds durations"),
    "decimals": (
        pa.array([1, 2, 3, 4], pa.decimal128(38, 30)).cast(pa.decimal128(38, 30)),
        None, "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_types_that_are_no_covariates(kind):
    values, error, message = BAD[kind]
    data = pa.table({"y": [1.0, 2.0, 3.0, 5.0], "g": ["a", "a", "b", "b"], "bad": values})
    from_formula("y ~ 1 + (1 | g)", data)  # a column that is not used does no harm
    if error is None:
        assert from_formula("y ~ bad + (1 | g)", data).design.X[:, 1].tolist() == [1, 2, 3, 4]
        return
    with pytest.raises(error, match=message):
        from_formula("y ~ bad + (1 | g)", data)


def test_decimals_with_too_many_digits():
    from decimal import Decimal

    x = pa.array([Decimal("1.00000000000000000001"), Decimal(2), Decimal(3), Decimal(4)])
    data = pa.table({"y": [1.0, 2.0, 3.0, 5.0], "g": ["a", "a", "b", "b"], "x": x})
    with pytest.raises(DataError, match="more digits than numbers have"):
        from_formula("y ~ x + (1 | g)", data)


def test_what_can_be_read_only_once_is_refused():
    data = rows()
    with pytest.raises(DataError, match="read only once"):
        from_formula("y ~ x + (1 | name)", iter([data]))
    with pytest.raises(DataError, match="read only once"):
        from_formula("y ~ x + (1 | name)", (part for part in [data]))
    once = iter([data])
    with pytest.raises(DataError, match="same iterator twice"):
        from_formula("y ~ x + (1 | name)", lambda: once)
    reader = pa.Table.from_pandas(data).to_reader()
    source = source_of(reader)
    source.frame(["x"])
    assert is_source(reader)


def test_errors_name_what_is_wrong(tmp_path):
    formula = "y ~ x + (1 | name)"
    with pytest.raises(FileError, match="no such file"):
        from_formula(formula, tmp_path / "nothing.parquet")
    with pytest.raises(FileNotFoundError):
        from_formula(formula, str(tmp_path / "*.parquet"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file"):
        from_formula(formula, tmp_path / "empty")
    (tmp_path / "rows.txt").write_text("y,x\n")
    with pytest.raises(DataError, match=r"rows\.txt"):
        from_formula(formula, tmp_path / "rows.txt")
    (tmp_path / "bad.parquet").write_text("not parquet")
    with pytest.raises(DataError, match=r"bad\.parquet"):
        from_formula(formula, tmp_path / "bad.parquet")
    with pytest.raises(UnknownColumnError, match="did you mean 'name'"):
        from_formula("y ~ x + (1 | namee)", pa.Table.from_pandas(rows()))
    with pytest.raises(UnknownColumnError, match="weights"):
        from_formula(formula, pa.Table.from_pandas(rows()), weights="ww")
    with pytest.raises(DataError, match="must return an iterator of frames"):
        from_formula(formula, lambda: 3)
    with pytest.raises(DataError, match="is no frame but int"):
        from_formula(formula, lambda: [1, 2])
    with pytest.raises(DataError, match="no frame at all"):
        from_formula(formula, lambda: iter([]))
    with pytest.raises(DataError, match="frame 1 has no column 'x'"):
        from_formula(formula, lambda: iter([rows(), rows().drop(columns="x")]))


def test_a_package_that_is_missing_is_named(monkeypatch, tmp_path):
    def absent(name):
        raise ImportError(name)

    given = polars(rows().drop(columns="unused"), tmp_path)
    monkeypatch.setattr(optional, "import_module", absent)
    with pytest.raises(MissingPackageError, match="pip install pyarrow"):
        from_formula("y ~ x + (1 | name)", given)
    with pytest.raises(ImportError, match="polars"):
        sparselmm.to_polars(pd.DataFrame({"a": [1.0]}))


def test_nothing_is_imported_to_recognise_data():
    code = """
import sys
import sparselmm
data = sparselmm.datasets.load("sleepstudy")
sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", data).fit()
assert not {"polars", "duckdb", "dask", "distributed", "pyarrow.dataset"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tables_as_polars():
    pl = pytest.importorskip("polars")
    data = sparselmm.datasets.load("sleepstudy")
    result = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
    table = sparselmm.to_polars(result.fe_params)
    assert table.columns == ["index", "value"]
    assert table["value"].to_list() == result.fe_params.tolist()
    tidy = sparselmm.to_polars(result.tidy())
    assert isinstance(tidy, pl.DataFrame)
    assert tidy.columns == list(result.tidy().columns)
    augmented = sparselmm.to_polars(result.augment())
    assert augmented[".fitted"].to_list() == result.fittedvalues.tolist()
    shown = result.get_prediction(data[:3]).to_polars()
    assert shown.height == 3
    assert result.profile().to_polars().height > 0
    with pytest.raises(ArgumentError, match="a table of results"):
        sparselmm.to_polars(3)


def test_the_command_line_reads_folders_and_patterns(tmp_path, capsys):
    from sparselmm.__main__ import main

    data = rows().drop(columns="unused")
    wanted = sparselmm.mixedlm("y ~ x + (1 | name)", data).fit().llf
    a_folder(data, tmp_path / "parts")
    for given in (tmp_path / "parts", tmp_path / "parts" / "*.parquet", feather(data, tmp_path)):
        assert main(["fit", "y ~ x + (1 | name)", str(given), "--json", "-"]) == 0
        assert json.loads(capsys.readouterr().out)["loglik"] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("take", ["polars", "arrow"])
def test_arrays_of_the_same_package(take, tmp_path):
    data = rows().drop(columns="unused")
    given = polars(data, tmp_path) if take == "polars" else table(data, tmp_path)
    for argument, column in (
        ("weights", "w"), ("offset", "o"), ("groups", "number"), ("subset", "flag"),
    ):  # fmt: skip
        a, b = (
            from_formula("y ~ x + (1 | name)", d, **{argument: d[column]}) for d in (given, data)
        )
        same(a, b)


@pytest.mark.parametrize("keep_rows", [True, False])
def test_files_that_differ_from_the_first_are_named(tmp_path, keep_rows):
    data = rows().drop(columns="unused")
    for j in (0, 1):
        data[60 * j : 60 * j + 60].to_parquet(tmp_path / f"{j}.parquet")

    def made(second, **keywords):
        second.to_parquet(tmp_path / "1.parquet")
        formula = "y ~ x + (1 | number) + (1 | name)"
        return sparselmm.mixedlm(
            formula, tmp_path, chunk_rows=25, keep_rows=keep_rows, missing="drop", **keywords
        )

    half = data[60:]
    with pytest.raises(DataError, match=r"1\.parquet' has no column 'x', which the first"):
        made(half.drop(columns="x"))
    with pytest.raises(
        DataError, match=r"'number' of .*1\.parquet' holds text .*, and in the first"
    ):
        made(half.assign(number=half["number"].map("{:03}".format)))
    with pytest.raises(DataError, match=r"'name' of .*1\.parquet' holds numbers"):
        made(half.assign(name=half["name"].str[1:].astype(int)))
    made(half.drop(columns="o"))  # which the model does not use
    narrow = half.astype({"x": "float32", "number": "int32", "name": "category"})
    assert made(narrow).nobs == 120
    assert made(half.assign(x=None)).nobs == 60


def halves(kinds):
    """A column of two types, in two frames."""
    data = rows(n=60).drop(columns="unused")
    return [
        data[30 * j : 30 * j + 30].reset_index(drop=True).assign(c=kind)
        for j, kind in enumerate(kinds)
    ]


DAY = pd.Timestamp("2020-01-01")
CHANGING = {
    "int, float": (np.arange(30), np.arange(30) / 2),
    "float, int": (np.arange(30) / 2, np.arange(30)),
    "float32, float64": (np.arange(30, dtype="f4"), 0.1 + np.arange(30.0)),
    "int32, int64": (np.arange(30, dtype="i4"), 2**40 + np.arange(30)),
    "decimals": ([Decimal(j) / 4 for j in range(30)], [Decimal(j) / 1000 for j in range(30)]),
    "decimal, float": ([Decimal(j) / 4 for j in range(30)], 0.1 + np.arange(30.0)),
    "nothing, float": (None, np.arange(30) / 2),
    "nothing, text": (None, [f"c{j % 3}" for j in range(30)]),
    "text, nothing": ([f"c{j % 3}" for j in range(30)], None),
    "other labels": (pd.Categorical(["b", "a"] * 15), pd.Categorical(["c", "b"] * 15)),
    "labels, text": (pd.Categorical(["b", "a"] * 15), ["c", "b"] * 15),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The behavior of DataFrame concatenation:FutureWarning")
@pytest.mark.parametrize("keep_rows", [True, False])
@pytest.mark.parametrize("kinds", CHANGING)
def test_types_that_change_between_files_hold_all_values(kinds, keep_rows, tmp_path):
    parts = halves(CHANGING[kinds])
    empty = parts[0][:0]
    for j, part in enumerate([empty, *parts, empty]):  # files without rows, first and last
        schema = pa.Table.from_pandas(parts[0]).schema if part is empty else None
        pa.parquet.write_table(pa.Table.from_pandas(part, schema), tmp_path / f"{j}.parquet")
    together = pd.concat(parts, ignore_index=True)
    if "labels" in kinds:
        together["c"] = pd.Categorical(together["c"].astype(str))
    if "decimal" in kinds:
        together["c"] = together["c"].astype(float)
    arguments = {"missing": "drop", "keep_rows": keep_rows, "chunk_rows": 7}
    for given in (tmp_path, lambda: iter(parts)):
        model = sparselmm.mixedlm("y ~ c + (1 | number)", given, **arguments)
        wanted = sparselmm.mixedlm("y ~ c + (1 | number)", together, missing="drop")
        assert model.exog_names == wanted.exog_names
        at = np.array([0.7])
        assert model.deviance().value(at) == pytest.approx(wanted.deviance().value(at), rel=1e-12)


@pytest.mark.parametrize("keep_rows", [True, False])
def test_labels_of_several_types_are_never_rounded(keep_rows):
    unsigned = np.uint64(2**63) + np.arange(30, dtype="u8") % 4
    for one, other in (
        (unsigned, np.arange(30) % 4 - 3),
        (np.arange(30) % 4 - 3, unsigned),
        (2**60 + np.arange(30) % 4, np.arange(30) % 3 + 0.5),
        (DAY + pd.to_timedelta(np.arange(30) % 4, "D"), DAY.as_unit("ns")),
    ):
        parts = halves([one, other])
        together = pd.concat([part.astype({"c": object}) for part in parts], ignore_index=True)
        given = sparselmm.mixedlm("y ~ 1 + (1 | c)", lambda parts=parts: iter(parts),
                                  keep_rows=keep_rows, chunk_rows=7)  # fmt: skip
        wanted = sparselmm.mixedlm("y ~ 1 + (1 | c)", together)
        at = np.array([0.7])
        assert given.deviance().value(at) == pytest.approx(wanted.deviance().value(at), rel=1e-12)
    mixed = halves([np.arange(30) % 3, np.arange(30) % 2 == 0])
    for formula in ("y ~ c + (1 | name)", "y ~ 1 + (1 | c)"):
        with pytest.raises(DataError, match="'c' holds booleans in some places and numbers"):
            sparselmm.mixedlm(formula, lambda: iter(mixed), keep_rows=keep_rows, chunk_rows=7)


def test_whole_numbers_of_text_files_are_never_rounded(tmp_path):
    path = tmp_path / "rows.csv"
    for wanted in (2**63 + np.arange(9, dtype="u8"), [str(10**24 + j) for j in range(9)]):
        path.write_text("y,g\n" + "".join(f"{j},{label}\n" for j, label in enumerate(wanted)))
        assert as_frame(path)["g"].tolist() == list(wanted)
        (part,) = source_of(path).parts(5, None)
        assert [x for f in part.frames(["g"], 5) for x in f["g"]] == list(wanted)
    path.write_bytes("y,g\n1,ä\n2,ö\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"'g' of .*rows.csv' is not text in UTF-8"):
        from_formula("y ~ 1 + (1 | g)", path)


def test_columns_that_are_not_in_use_may_hold_anything():
    data = rows()
    table = pa.Table.from_pandas(data.drop(columns="unused"))
    table = table.append_column("raw", pa.array([b"x"] * len(data)))
    table = table.append_column("z", table["x"]).append_column("z", table["x"])
    for keep_rows in (True, False):
        model = sparselmm.mixedlm("y ~ x + (1 | name)", table, keep_rows=keep_rows, chunk_rows=50)
        assert model.nobs == len(data)
        with pytest.raises(DataError, match="2 columns called 'z'"):
            sparselmm.mixedlm("y ~ z + (1 | name)", table, keep_rows=keep_rows)


def test_names_with_quotes():
    data = rows().rename(columns={"x": 'the "x"'})
    for given in (data, pa.Table.from_pandas(data.drop(columns="unused"))):
        model = sparselmm.mixedlm(
            'y ~ Q("the \\"x\\"") + (1 | name)', given, keep_rows=False, chunk_rows=50
        )
        assert model.nobs == len(data)


def test_intervals_of_duckdb_are_durations():
    duckdb = pytest.importorskip("duckdb")
    query = "select to_days(i % 3) + to_seconds(1) as t, i as n from range(5) r(i)"
    frame = as_frame(duckdb.sql(f"{query} union all select null, 5 order by n"))
    found = frame.sort_values("n")["t"].dt.total_seconds()
    assert np.array_equal(found, [1, 86_401, 172_801, 1, 86_401, np.nan], equal_nan=True)
    with pytest.raises(DataError, match="'t' holds intervals of months"):
        as_frame(duckdb.sql("select to_months(1) as t"))


@pytest.mark.parametrize("make", CONTAINERS)
def test_tables_without_rows(make, tmp_path):
    data = rows().drop(columns="unused")
    result = sparselmm.mixedlm("y ~ x + (1 | name)", data).fit()
    if make not in ("pattern", "files", "a_folder", "function", "chunked_table"):  # nothing at all
        assert len(result.predict(CONTAINERS[make](data[:0], tmp_path))) == 0
        with pytest.raises(DataError, match="the data have no rows"):
            sparselmm.mixedlm("y ~ x + (1 | name)", CONTAINERS[make](data[:0], tmp_path))


def test_functions_that_fail_are_named():
    for function in (lambda: 1 / 0, lambda more: [rows()], lambda: (1 / 0 for _ in range(2))):
        with pytest.raises(DataError, match=r"the frames of <lambda>\(\) cannot be read"):
            from_formula("y ~ x + (1 | name)", function)


def test_files_with_the_same_dictionary_share_its_labels(tmp_path, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    labels = pa.array([f"u{j:05}" for j in range(5000)])
    other = labels.take(pa.array(np.arange(5000)[::-1].copy()))
    for number, dictionary in enumerate((labels, labels, other)):
        codes = pa.array(np.random.default_rng(number).integers(0, 5000, 6000))
        table = pa.table({"u": pa.DictionaryArray.from_arrays(codes, dictionary)})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    parts = source_of(tmp_path).parts(3000, ["u"])
    frames = [frame for part in parts for frame in part.frames(["u"], 3000)]
    assert [len(frame) for frame in frames] == [3000] * 6
    found = [frame["u"].cat.categories for frame in frames]
    assert found[0] is found[1] is found[2] is found[3]
    assert found[4] is found[5]
    assert list(found[4]) == other.to_pylist()
    asked, looked_up = [], factors.places_of_text
    monkeypatch.setattr(factors, "places_of_text", lambda *ab: asked.append(ab) or looked_up(*ab))
    known = np.array(sorted(labels.to_pylist()), dtype=object)
    for frame in frames:
        codes = factors.match(known, frame["u"])
        assert (known[codes] == frame["u"].astype(object)).all()
    assert len(asked) == 2  # one for each dictionary


ODD = ["", "b", "\u00e9", "a\0b", "nan", "None", " b", "1", "\U0001f600"]


@pytest.mark.parametrize("known", [ODD, [*ODD, 1, 2.5], [*ODD, b"b", True], [*ODD, "\ud800"]])
def test_text_on_the_memory_of_arrow_is_looked_up_as_objects_are(known):
    known = np.array(known, dtype=object)
    texts = [*ODD, "other", None, "b", "b"]
    objects = pd.Series(texts, dtype=object)
    arrow = pd.Series(texts, dtype=pd.StringDtype("pyarrow"))
    wanted = factors.match(known, objects)
    assert list(wanted[:9]) == list(range(9))
    assert list(wanted[9:]) == [-1, -1, 1, 1]
    for values in (arrow, arrow.astype("category"), coded(arrow)):
        assert list(factors.match(known, values)) == list(wanted)
    codes, count = factors.told_apart(arrow)
    assert (pd.factorize(codes)[0] == pd.factorize(objects)[0])[codes >= 0].all()
    assert count == 10
    assert list(np.flatnonzero(codes < 0)) == [10]


def test_text_as_codes_and_back():
    text = pd.Series([*ODD, None, "b"], dtype=pd.StringDtype("pyarrow"), index=range(3, 14))
    column = coded(text)
    assert list(column.cat.categories) == ODD
    pd.testing.assert_series_equal(decoded(column), text)
    assert coded(pd.Series([1, 2])) is None
    assert coded(pd.Series(["a"], dtype=object)) is None


def test_categoricals_of_text_are_put_together_as_those_of_objects():
    pieces = [["c", "a"], ["b", None, "c"], ["d"]]
    text = [pd.Series(p, dtype=pd.StringDtype("pyarrow")).astype("category") for p in pieces]
    plain = [
        pd.Series(pd.Categorical(p, np.array(sorted(filter(None, p)), object))) for p in pieces
    ]
    found, wanted = united(text), united(plain)
    assert list(found.categories) == list(wanted.categories) == ["a", "c", "b", "d"]
    assert list(found.codes) == list(wanted.codes)
