"""Labels of groups, in every dtype and place, are exact and distinct; one rule for row order."""

import datetime
import decimal
import pickle

import numpy as np
import pandas as pd
import pytest

from sparselmm import KnownCovariance, MixedLM, datasets, mixedlm, pedigree
from sparselmm.base.exceptions import DataError

K = 8
CODE = np.tile(np.arange(K), 6)
BIG = 2**53 + np.arange(K)
TIMES = pd.date_range("2020-01-01", periods=K)
pytestmark = pytest.mark.filterwarnings("ignore::sparselmm.exceptions.SingularMatrixWarning")


def arrow(kind, values):
    pa = pytest.importorskip("pyarrow")
    kinds = {
        "int64": pa.int64(), "uint64": pa.uint64(), "uint8": pa.uint8(), "date": pa.date32(),
        "dictionary of int64": pa.dictionary(pa.int32(), pa.int64()),
        "dictionary of string": pa.dictionary(pa.int32(), pa.string()),
    }  # fmt: skip
    return pd.Series(pd.array(values, dtype=pd.ArrowDtype(kinds[kind])))


def series(labels, dtype=None):
    return pd.Series([labels[c] for c in CODE], dtype=dtype)


BIG_INTEGERS = {
    "int64": lambda: pd.Series(BIG[CODE]),
    "Int64": lambda: pd.Series(BIG[CODE], dtype="Int64"),
    "UInt64": lambda: pd.Series(BIG[CODE], dtype="UInt64"),
    "uint64": lambda: pd.Series(BIG[CODE].astype("u8")),
    "object": lambda: series(BIG.tolist(), object),
    "Arrow": lambda: arrow("int64", BIG[CODE].tolist()),
    "Arrow unsigned": lambda: arrow("uint64", BIG[CODE].tolist()),
    "Arrow dictionary": lambda: arrow("dictionary of int64", BIG[CODE].tolist()),
    "categorical": lambda: pd.Series(BIG[CODE]).astype("category"),
    "categorical of Int64": lambda: pd.Series(BIG[CODE], dtype="Int64").astype("category"),
    "categorical of Arrow": lambda: arrow("int64", BIG[CODE].tolist()).astype("category"),
}
LABELS = BIG_INTEGERS | {
    "above int64": lambda: pd.Series((2**63 + np.arange(K, dtype="u8"))[CODE]),
    "above uint64": lambda: series([2**70 + j for j in range(K)], object),
    "small Int8": lambda: pd.Series(CODE, dtype="Int8"),
    "small Arrow": lambda: arrow("uint8", CODE.tolist()),
    "sparse": lambda: pd.Series(CODE, dtype="Sparse[int64]"),
    "float": lambda: pd.Series(CODE / 7),
    "Float64": lambda: pd.Series(CODE / 7, dtype="Float64"),
    "string": lambda: series([f"l{j}" for j in range(K)], "string"),
    "Arrow dictionary of strings": lambda: arrow("dictionary of string", [f"l{c}" for c in CODE]),
    "mixed": lambda: series([0, "0", 1, "1", 2.5, "2.5", "a", b"a"], object),
    "mixed categorical": lambda: pd.Series(
        pd.Categorical(series([0, "0", 1, "1", 2, "2", 3, "3"], object))
    ),
    "colons": lambda: series(["x:1", "x", "1:2", "2", "a:b", "a", "b:c", "c"]),
    "quotes": lambda: series(["'", '"', "'a'", "a", "[", "]", "{", "}"]),
    "names of nothing": lambda: series(["nan", "None", "NaT", "<NA>", "", " ", "inf", "0"], object),
    "datetime": lambda: pd.Series(TIMES[CODE]),
    "time zone": lambda: pd.Series(TIMES.tz_localize("Europe/Paris")[CODE]),
    "timedelta": lambda: pd.Series(pd.to_timedelta(CODE, unit="h")),
    "period": lambda: pd.Series(pd.period_range("2020", periods=K, freq="D")[CODE]),
    "date": lambda: series([datetime.date(2020, 1, 1 + j) for j in range(K)], object),
    "Arrow date": lambda: arrow("date", [datetime.date(2020, 1, 1 + c) for c in CODE.tolist()]),
    "interval": lambda: pd.Series(pd.cut(CODE + 0.5, range(K + 1))),
    "tuple": lambda: series([(j // 2, str(j % 2)) for j in range(K)], object),
    "decimal": lambda: series([decimal.Decimal(int(j)) for j in BIG], object),
    "bytes": lambda: series([bytes([65 + j]) for j in range(K)], object),
}


def rows(g):
    rng = np.random.default_rng(3)
    effect = 3.0 * rng.normal(size=K)
    x = rng.normal(size=len(CODE))
    y = effect[CODE] + x + 0.3 * rng.normal(size=len(CODE))
    return pd.DataFrame({"y": y, "x": x, "c": CODE, "h": CODE % 2, "g": g})


@pytest.fixture(scope="module")
def wanted():
    return mixedlm("y ~ x + (1 | c)", rows(CODE)).fit()


def spellings(data):
    known = KnownCovariance(np.eye(K), list(dict.fromkeys(data["g"].tolist())))
    return {
        "bar": mixedlm("y ~ x + (1 | g)", data),
        "groups": mixedlm("y ~ x", data, groups="g"),
        "labels": mixedlm("y ~ x", data, groups=data["g"].rename("g")),
        "nested": mixedlm("y ~ x + (1 | h:g)", data),
        "component": mixedlm("y ~ x", data, groups="h", vc_formula={"v": "0 + C(g)"}),
        "known": mixedlm("y ~ x + (1 | g)", data, covariance={"g": known}),
    }


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_exact_and_distinct(kind, wanted):
    """Whatever the dtype and the spelling, the fit is that of codes, also on new data."""
    data = rows(LABELS[kind]())
    for model in spellings(data).values():
        fit = model.fit()
        assert fit.llf == pytest.approx(wanted.llf, abs=1e-6)
        (table,) = fit.ranef.values()
        assert len(table) == K
        assert table.index.is_unique
        names = [(key, name) for key, s in fit.random_effects.items() for name in s.index]
        assert len(set(names)) == len(names) == K
        new = fit.predict(data.iloc[::-5], re=True)
        np.testing.assert_allclose(new, fit.fittedvalues[::-5], atol=1e-10)


@pytest.mark.parametrize("kind", LABELS)
def test_labels_name_their_own_level_in_results(kind, wanted):
    data = rows(LABELS[kind]())
    fit = mixedlm("y ~ x + (1 | g)", data).fit()
    labels = list(fit.random_effects)
    for i in range(K):
        (label,) = [data["g"].tolist()[i]]
        value = fit.random_effects[label].iloc[0]
        assert value == pytest.approx(wanted.random_effects[i].iloc[0], abs=1e-6)
        assert fit.ranef_cov("g", [label]).shape == (1, 1)
    assert len(fit.rank("g")) == len(fit.influence("g").labels) == K
    assert len(fit.influence(data["g"]).labels) == K
    assert fit.ranef_contrasts("g", pairs="all").index.is_unique
    assert fit.tidy("ran_vals")["level"].is_unique
    assert fit.cov_robust("CR0", groups=data["g"]).shape == (2, 2)
    assert list(pickle.loads(pickle.dumps(fit)).random_effects) == labels


@pytest.mark.parametrize("bar", ["(1 | g)", "(x | g)", "(1 | h/g)"])
@pytest.mark.parametrize("fitted", BIG_INTEGERS)
def test_new_data_of_another_dtype(fitted, bar):
    fit = mixedlm(f"y ~ x + {bar}", rows(BIG_INTEGERS[fitted]())).fit()
    for make in BIG_INTEGERS.values():
        new = fit.predict(rows(make()), re=True)
        np.testing.assert_allclose(new, fit.fittedvalues, atol=1e-10)
    for strange in (BIG[CODE].astype(str), BIG[CODE].astype(float)):
        with pytest.raises(DataError, match="has not seen"):
            fit.predict(rows(strange), re=True)


@pytest.mark.parametrize("dtype", ["Int64", "UInt8", "int8"])
def test_small_integers_come_back_as_they_are(dtype):
    data = rows(pd.Series(CODE, dtype=dtype)).assign(h=pd.Series(CODE % 2, dtype=dtype))
    assert list(mixedlm("y ~ x + (1 | g)", data).fit().random_effects) == list(range(K))
    nested = mixedlm("y ~ x + (1 | h:g)", data).fit()
    assert list(nested.random_effects)[:2] == ["0:0", "0:2"]
    holes = data.assign(g=data["g"].astype("Int64").where(data["g"] != 3))
    fit = mixedlm("y ~ x + (1 | g)", holes, missing="drop").fit()
    assert list(fit.random_effects) == [0, 1, 2, 4, 5, 6, 7]


@pytest.mark.parametrize("dtype", ["Float64", "Float32", "double[pyarrow]"])
def test_nan_of_a_nullable_dtype_is_no_level(dtype):
    import pyarrow

    values = np.repeat([1.0, 2.0, np.nan, 4.0], 5)
    if dtype.startswith("Float"):
        kind = np.float64 if dtype == "Float64" else np.float32
        held = pd.arrays.FloatingArray(values.astype(kind), np.zeros(20, dtype=bool))
    else:
        held = pd.array(pyarrow.array(values), dtype=pd.ArrowDtype(pyarrow.float64()))
    frame = pd.DataFrame({"y": np.random.default_rng(0).normal(size=20), "g": held})
    with pytest.raises(DataError, match="'g' has 5 missing"):
        mixedlm("y ~ 1 + (1 | g)", frame)
    with pytest.raises(DataError, match="'g' has 5 missing"):
        mixedlm("y ~ 1", frame, groups="g")
    model = mixedlm("y ~ 1 + (1 | g)", frame, missing="drop")
    assert model.built.layout.terms[0].levels.labels().tolist() == [1.0, 2.0, 4.0]
    codes = model.built.spec.evaluate(frame).terms[0].codes
    assert codes.tolist() == np.repeat([0, 1, -1, 2], 5).tolist()


def test_big_endian_lists_and_masks():
    data = rows(CODE)
    X = np.column_stack([np.ones(len(CODE)), data["x"]])
    reference = MixedLM(data["y"], X, groups=CODE).fit()
    odd = [0, "0", 1, "1", 2.5, "2.5", (1, 2), None]
    for groups in (CODE.astype(">i8"), CODE.astype(">f8"), [odd[c] for c in CODE]):
        if isinstance(groups, list):
            groups = [odd[c] if c < K - 1 else "nan" for c in CODE]
        fit = MixedLM(data["y"], X, groups=groups).fit()
        assert fit.llf == pytest.approx(reference.llf, abs=1e-8)
        assert len(fit.model.group_labels) == len(fit.random_effects) == K
    masked = np.ma.masked_equal(CODE, 3)
    with pytest.raises(DataError, match="missing"):
        MixedLM(data["y"], X, groups=masked)


def test_interactions_with_colons():
    data = rows(CODE)
    data["a"] = np.where(CODE % 2, "x:1", "x")
    data["b"] = np.where(CODE % 2, "2", "1:2")
    data.loc[CODE % 4 > 1, ["a", "b"]] = ["z", "w"]
    fit = mixedlm("y ~ x + (1 | a:b)", data).fit()
    assert sorted(fit.random_effects) == sorted(["'x:1':2", "x:'1:2'", "z:w"])
    plain = mixedlm("y ~ x + (1 | a:b)", data[data["a"] != "x"]).fit()
    assert sorted(plain.random_effects) == ["x:1:2", "z:w"]
    levels = list(fit.random_effects)
    assert fit.ranef_cov("a:b", levels[:2]).shape == (2, 2)
    with pytest.raises(DataError, match=r"'x':'q:1'"):
        fit.predict(data[:1].assign(b="q:1"), re=True)


def test_a_column_and_an_interaction_of_one_name():
    data = rows(CODE).assign(**{"a:b": CODE % 3}, a=CODE % 2, b=CODE % 4)
    fit = mixedlm("y ~ x + (1 | a:b)", data, groups="a:b").fit()
    assert sorted(fit.ranef) == ["a:b", "a:b.1"]
    assert len(fit.random_effects) == 3 + 4


def test_zero_and_its_name_are_told_apart():
    fit = mixedlm("y ~ x + (1 | g)", rows(CODE)).fit()
    with pytest.raises(DataError, match=r"'0', '1'.*look like 0\."):
        fit.predict(rows(CODE.astype(str)), re=True)
    with pytest.raises(DataError, match="no level '0'; its 8 levels are 0, 1"):
        fit.ranef_cov("g", ["0"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [([True, 1] * 4, "True or False"), ([[j] for j in range(K)], "lists or other containers")],
)
def test_labels_that_cannot_be_told_apart(labels, message):
    with pytest.raises(DataError, match=message):
        mixedlm("y ~ x + (1 | g)", rows(series(labels, object)))


def test_simulated_groups_of_an_expression():
    """Rows of one new label share its effect, also when the factor is an expression."""
    fit = mixedlm("y ~ x + (1 | I(2 * c))", rows(CODE)).fit()
    new = pd.DataFrame({"x": 0.0, "c": [100, 100, 200]})
    draws = fit.simulate(400, newdata=new, seed=1).to_numpy().reshape(3, -1)
    corr = np.corrcoef(draws)
    assert corr[0, 1] > 0.5 > abs(corr[0, 2]) + 0.2


def test_labels_of_pedigrees():
    known = pedigree([None, None, 1, 1.0, pd.NA], [None, np.nan, 2, 2, 9], [1, 2, 3, 4, 5])
    assert known.labels.tolist() == [1, 2, 3, 4, 5, 9]
    assert KnownCovariance(np.eye(2), [0, "0"]).labels.tolist() == [0, "0"]
    with pytest.raises(DataError, match="missing"):
        KnownCovariance(np.eye(2), [0, None])


# -------------------------------------------------------------------------- order of rows


@pytest.fixture(scope="module")
def shuffled():
    data = datasets.load("sleepstudy").assign(w=lambda d: 1.0 + d["Days"] % 3)
    data.index = [f"r{i}" for i in range(len(data))]
    return data, np.random.default_rng(1).permutation(len(data))


ARGUMENTS = {
    "weights": lambda d, s: mixedlm("Reaction ~ Days + (1 | Subject)", d, weights=s(d["w"])),
    "offset": lambda d, s: mixedlm("Reaction ~ Days + (1 | Subject)", d, offset=s(d["w"])),
    "groups": lambda d, s: mixedlm("Reaction ~ Days", d, groups=s(d["Subject"])),
    "z_terms": lambda d, s: mixedlm(
        "Reaction ~ Days", d, z_terms={"z": s(pd.get_dummies(d["Subject"], dtype=float))}
    ),
    "subset": lambda d, s: mixedlm("Reaction ~ Days + (1 | Subject)", d, subset=s(d["w"] > 1)),
    "exog": lambda d, s: MixedLM(d["Reaction"], s(d[["w", "Days"]]), groups=d["Subject"]),
    "array groups": lambda d, s: MixedLM(d["Reaction"], d[["w"]], groups=s(d["Subject"])),
    "exog_re": lambda d, s: MixedLM(
        d["Reaction"], d[["w"]], groups=d["Subject"], exog_re=s(d[["w"]])
    ),
    "array weights": lambda d, s: MixedLM(
        d["Reaction"], d[["Days"]], groups=d["Subject"], weights=s(d["w"])
    ),
}  # fmt: skip


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_row_long_arguments_follow_the_index(argument, shuffled):
    data, order = shuffled
    build = ARGUMENTS[argument]
    wanted = build(data, lambda v: v).fit()
    assert build(data, lambda v: v.iloc[order]).fit().llf == pytest.approx(wanted.llf, abs=1e-9)
    if argument != "z_terms":
        array = build(data, lambda v: v.to_numpy()).fit()
        assert array.llf == pytest.approx(wanted.llf, abs=1e-9)
    with pytest.raises(DataError, match=r"the index of .* differs"):
        build(data, lambda v: v.reset_index(drop=True))
    with pytest.raises(DataError, match=r"\.to_numpy\(\)|index"):
        build(data, lambda v: v.set_axis([data.index[0], *data.index[:-1]]))


def test_row_long_arguments_of_results(shuffled):
    data, order = shuffled
    fit = mixedlm("Reaction ~ Days + (1 | Subject)", data).fit()
    y = np.log(data["Reaction"])
    assert fit.refit(y.iloc[order]).llf == pytest.approx(fit.refit(y).llf, abs=1e-9)
    many = fit.fit_many(y.iloc[order].to_frame("a"))
    assert many.llf["a"] == pytest.approx(fit.refit(y).llf, abs=1e-6)
    groups = data["Subject"].iloc[order]
    robust = fit.cov_robust("CR0", groups=groups)
    np.testing.assert_allclose(robust, fit.cov_robust("CR0", groups="Subject"))
    distance = fit.influence(groups).cooks_distance
    np.testing.assert_allclose(distance, fit.influence("Subject").cooks_distance)
    foreign = y.reset_index(drop=True)
    for call in (fit.refit, fit.fit_many, fit.model.fit_many, fit.influence):
        with pytest.raises(DataError, match="index"):
            call(foreign)
    held = mixedlm("Reaction ~ Days", data, groups=data["Subject"].rename("g")).fit()
    new = data.iloc[:9]
    wanted = held.predict(new, re=True, groups=new["Subject"])
    again = held.predict(new, re=True, groups=new["Subject"].iloc[::-1])
    np.testing.assert_allclose(again, wanted)
    offset = mixedlm("Reaction ~ Days + (1 | Subject)", data, offset=data["w"]).fit()
    parts = [offset.predict(new, offset=v) for v in (new["w"], new["w"].iloc[::-1])]
    np.testing.assert_allclose(*parts)


# ---------------------------------------------------------------------------- one row


def test_a_row_as_a_series():
    data = datasets.load("sleepstudy").assign(s=lambda d: np.where(d["Days"] % 2, "odd", "even"))
    fit = mixedlm("Reaction ~ Days + s + (Days | Subject)", data).fit()
    for i in (0, 3, 17):
        for re in (False, True):
            one, table = fit.predict(data.iloc[i], re=re), fit.predict(data.iloc[[i]], re=re)
            pd.testing.assert_series_equal(one, table)
        frames = [fit.get_prediction(d, re=True).summary_frame() for d in
                  (data.iloc[i], data.iloc[[i]])]  # fmt: skip
        pd.testing.assert_frame_equal(*frames)
    X = pd.DataFrame({"one": 1.0, "Days": data["Days"]})
    arrays = MixedLM(data["Reaction"], X, groups=data["Subject"]).fit()
    row = X.iloc[4][["Days", "one"]]
    assert arrays.predict(row).tolist() == pytest.approx(arrays.predict(X.iloc[[4]]).tolist())
    for wrong in (pd.Series([1.0, 2.0]), pd.Series({"other": 1.0})):
        with pytest.raises(DataError, match="one row"):
            fit.predict(wrong)
    with pytest.raises(DataError, match="two values called 'Days'"):
        fit.predict(pd.Series([1.0, 2.0], ["Days", "Days"]))


@pytest.mark.parametrize("dtype", ["Int64", "int64[pyarrow]", object])
def test_a_column_as_covariate_and_as_labels(dtype):
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"x": rng.integers(0, 8, 120), "g": rng.integers(0, 10, 120)})
    data["y"] = data["x"] + rng.normal(size=8)[data["x"]] + rng.normal(size=120)
    fit = mixedlm("y ~ x + (1 | x) + (x | g)", data).fit()
    new = data.head(5).astype({"x": dtype})
    np.testing.assert_array_equal(fit.predict(new, re=True), fit.predict(data.head(5), re=True))
