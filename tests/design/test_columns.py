"""Columns of every dtype in every place: the same numbers, or an error that names the column."""

import decimal
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sparselmm
from sparselmm.base.exceptions import (
    DataError,
    FormulaError,
    MissingDataError,
    RankDeficiencyWarning,
    SparseLMMError,
)
from sparselmm.design import from_formula
from sparselmm.design.formula.namespace import capture_env
from sparselmm.factor.basis import working_basis

RNG = np.random.default_rng(5)
N = 60
G = np.arange(N) % 6
X = RNG.integers(1, 9, N)
DATA = pd.DataFrame({"y": RNG.normal(size=N), "x": X, "z": RNG.normal(size=N), "g": G})
DATES = pd.Series(pd.date_range("2020-01-01", periods=N))

NUMBERS = {
    **{t: t for t in ("int8", "uint8", "int16", "uint64", "float16", "float32", "longdouble")},
    **{t: t for t in ("Int8", "UInt16", "Int64", "Float32", "Float64", ">i4", ">f8")},
    **{t: f"{t}[pyarrow]" for t in ("int8", "uint32", "int64", "float", "double")},
    "object": object,
}
PLACES = {
    "response": ("x ~ z + (1|g)", {}),
    "covariate": ("y ~ x + (1|g)", {}),
    "interaction": ("y ~ x:z + (1|g)", {}),
    "expression": ("y ~ I(x**2 - 5) + (1|g)", {}),
    "C": ("y ~ C(x) + (1|g)", {}),
    "slope": ("y ~ z + (x|g)", {}),
    "re_formula": ("y ~ z", {"groups": "g", "re_formula": "~x"}),
    "vc": ("y ~ z", {"groups": "g", "vc_formula": {"v": "0 + x"}}),
    "vc labels": ("y ~ z", {"groups": "g", "re_formula": "1", "vc_formula": {"v": "0 + C(x)"}}),
    "weights": ("y ~ z + (1|g)", {"weights": "x"}),
    "offset": ("y ~ z + (1|g)", {"offset": "x"}),
    "offset()": ("y ~ z + offset(x * 2) + (1|g)", {}),
}


def built(formula, data, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sparselmm.exceptions.SpecificationWarning)
        return from_formula(formula, data, **arguments)


def parts(design):
    yield design.y
    yield design.X
    for extra in (design.weights, design.offset):
        if extra is not None:
            yield extra
    yield design.Z.toarray()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_numbers_of_every_dtype(dtype, place):
    formula, arguments = PLACES[place]
    expected = built(formula, DATA, **arguments).design
    data = DATA.assign(x=DATA["x"].astype(NUMBERS[dtype]))
    found = built(formula, data, **arguments).design
    for ours, theirs in zip(parts(found), parts(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("missing", ["none", "drop"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", ["float64", "Int8", "Float64", "int64[pyarrow]", object])
def test_missing_numbers(dtype, place, missing):
    formula, arguments = PLACES[place]
    x = DATA["x"].astype("Int64")
    x[[3, 7]] = pd.NA
    x = (
        x.astype(dtype)
        if dtype != "float64"
        else x.astype("Float64").to_numpy(float, na_value=np.nan)
    )
    data = DATA.assign(x=x)
    if missing == "none":
        with pytest.raises(MissingDataError, match=r"2 missing value|x"):
            built(formula, data, **arguments)
        return
    expected = built(formula, DATA.drop(index=[3, 7]), **arguments).design
    found = built(formula, data, missing="drop", **arguments).design
    for ours, theirs in zip(parts(found), parts(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


EMPTY = {
    "None": pd.Series([None] * N, dtype=object),
    "NA": pd.Series([pd.NA] * N, dtype=object),
    "NaN": pd.Series([np.nan] * N),
    "string": pd.Series([pd.NA] * N, dtype="string"),
    "category": pd.Series([np.nan] * N, dtype="category"),
    "boolean": pd.Series([pd.NA] * N, dtype="boolean"),
    "Int64": pd.Series([pd.NA] * N, dtype="Int64"),
    "arrow": pd.Series([None] * N, dtype="string[pyarrow]"),
    "NaT": pd.Series([pd.NaT] * N, dtype="datetime64[ns]"),
}


@pytest.mark.parametrize("missing", ["none", "drop"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", EMPTY)
def test_columns_without_a_value(kind, place, missing):
    formula, arguments = PLACES[place]
    with pytest.raises(DataError, match=r"'x'|missing='drop' leaves none|weights|offset"):
        built(formula, DATA.assign(x=EMPTY[kind]), missing=missing, **arguments)


LABELS = {
    "text": pd.Series(list("abc") * 20),
    "object": pd.Series(list("abc") * 20, dtype=object),
    "string": pd.Series(list("abc") * 20, dtype="string"),
    "category": pd.Series(list("abc") * 20, dtype="category"),
    "arrow": pd.Series(list("abc") * 20, dtype="string[pyarrow]"),
    "booleans": pd.Series([True, False] * 30, dtype="boolean"),
}


@pytest.mark.parametrize("formula", ["y ~ a + (1|g)", "y ~ C(a):z + (1|g)", "y ~ 1 + (0 + a|g)"])
@pytest.mark.parametrize("kind", LABELS)
def test_missing_labels(kind, formula):
    column = LABELS[kind].copy()
    column[[4, 9]] = None
    data = DATA.assign(a=column)
    with pytest.raises(MissingDataError, match="'a' has 2 missing value"):
        built(formula, data)
    found = built(formula, data, missing="drop").design
    expected = built(formula, DATA.assign(a=LABELS[kind]).drop(index=[4, 9])).design
    np.testing.assert_array_equal(found.X, expected.X)
    np.testing.assert_array_equal(found.Z.toarray(), expected.Z.toarray())


REFUSED = {
    "dates": DATES,
    "zone": DATES.dt.tz_localize("UTC"),
    "with NaT": DATES.where(DATES.index > 3),
    "python dates": pd.Series(list(DATES.dt.date), dtype=object),
    "arrow dates": DATES.astype("timestamp[ns][pyarrow]"),
    "durations": DATES - DATES[0],
    "periods": DATES.dt.to_period("M"),
    "intervals": pd.Series(pd.arrays.IntervalArray.from_breaks(range(N + 1))),
    "complex": pd.Series(X + 1j),
    "mixed": pd.Series([1, "n/a"] * 30, dtype=object),
    "lists": pd.Series([[1, 2]] * N),
    "dicts": pd.Series([{"a": 1}] * N),
    "tuples": pd.Series([(1, 2)] * N),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize(
    ("formula", "arguments"),
    [
        ("y ~ d + (1|g)", {}),
        ("y ~ z*d + (1|g)", {}),
        ("y ~ z + (d|g)", {}),
        ("d ~ z + (1|g)", {}),
        ("y ~ z", {"groups": "g", "re_formula": "d"}),
        ("y ~ z", {"groups": "g", "vc_formula": {"v": "0 + d"}}),
        ("y ~ z + (1|g)", {"weights": "d"}),
        ("y ~ z + (1|g)", {"offset": "d"}),
        ("y ~ z + offset(d) + (1|g)", {}),
    ],
)
def test_no_covariate(kind, formula, arguments):
    with pytest.raises((DataError, FormulaError), match=r"'d'|weights|offset"):
        built(formula, DATA.assign(d=REFUSED[kind]), **arguments)


def test_dates_where_they_are_meant():
    data = DATA.assign(d=DATES.dt.to_period("M").dt.to_timestamp())
    assert built("y ~ C(d) + (1|g)", data).design.X.shape[1] == 2
    assert built("y ~ d.dt.day + (1|g)", DATA.assign(d=DATES)).design.X[:, 1].tolist() == [
        *range(1, 32), *range(1, 30),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"'I\(d - d\[0\]\)' in the formula gives durations"):
        built("y ~ I(d - d[0]) + (1|g)", data)


@pytest.mark.parametrize(
    ("code", "exact"),
    [
        ("I(u - 5)", lambda u: u - 5.0),
        ("I(u*30)", lambda u: u * 30.0),
        ("I(u**2)", lambda u: u**2.0),
        ("np.square(u)", lambda u: u**2.0),
        ("I(-u)", lambda u: -u),
        ("np.power(u, 3)", lambda u: u**3.0),
        ("I(u**-1)", lambda u: 1 / u),
        ("u.pow(9)", lambda u: u**9.0),
        ("I(big**3)", lambda u: (u * 1e8) ** 3),
        ("center(big**3)", lambda u: (u * 1e8) ** 3 - np.mean((u * 1e8) ** 3)),
        ("np.cumsum(big * big)", lambda u: np.cumsum((u * 1e8) ** 2)),
        ("I((u > 50) + (u > 100))", lambda u: (u > 50) * 1.0 + (u > 100)),
    ],
)
def test_arithmetic_of_whole_numbers(code, exact):
    u = np.arange(40, 220, 3)
    data = DATA.assign(u=u.astype(np.uint8), big=u * 10**8)
    expected = exact(u.astype(float))
    for formula in (f"y ~ {code} + (1|g)", f"{code} ~ z + (1|g)", f"y ~ offset({code}) + (1|g)"):
        if "center" in code and "offset" in formula:
            continue
        design = built(formula, data).design
        found = {"y": design.y, "o": design.offset}.get(formula[4], design.X[:, -1])
        if formula.startswith(code):
            found = design.y
        elif "offset" in formula:
            found = design.offset
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_labels_made_of_whole_numbers_stay_whole():
    ids = 2**60 + np.arange(N)
    found = built("y ~ C(x // 2) + (1|k % 7)", DATA.assign(k=ids))
    assert found.design.x_names[1] == "C(x // 2)[T.1]"
    assert found.design.terms[0].levels.labels().tolist() == sorted(set((ids % 7).tolist()))


FIT = sparselmm.mixedlm("y ~ x + C(b) + (1|g)", DATA.assign(b=list("uvw") * 20)).fit()
NEW = DATA.assign(b=list("uvw") * 20)[:4]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("x", list("abcd")), ("x", [True, False, True, True]), ("x", DATES[:4].to_numpy()),
        ("x", [[1], [2], [3], [4]]), ("x", [1, "a", 2, 3]), ("x", np.ones(4) * 1j),
        ("b", [1, 2, 3, 4]), ("b", DATES[:4].to_numpy()), ("b", [["u"]] * 4),
        ("x", pd.Categorical([1, 2, 3, 4])),
    ],
)  # fmt: skip
def test_new_data_of_another_kind(column, values):
    new = NEW.copy()
    new[column] = pd.Series(values, index=new.index)
    for call in (FIT.predict, FIT.get_prediction, lambda d: FIT.predict(d, re=True)):
        with pytest.raises(DataError, match=f"column '{column}' held .* at the fit and holds"):
            call(new)


def test_new_data_of_the_same_kind():
    expected = FIT.predict(NEW)
    for dtype in ("uint8", "Int64", object, "float32", "int64[pyarrow]"):
        pd.testing.assert_series_equal(FIT.predict(NEW.assign(x=NEW.x.astype(dtype))), expected)
    exact = [decimal.Decimal(int(v)) for v in NEW.x]
    pd.testing.assert_series_equal(FIT.predict(NEW.assign(x=exact)), expected)
    pd.testing.assert_series_equal(FIT.predict(NEW.assign(b=NEW.b.astype("category"))), expected)
    hole = NEW.assign(x=[1, None, pd.NA, 2]).astype({"x": object})
    assert FIT.predict(hole).isna().tolist() == [False, True, True, False]
    for nothing in (pd.array([None] * 4, dtype="Int64"), [None] * 4, [pd.NA] * 4):
        assert FIT.predict(NEW.assign(b=nothing)).isna().all()
        assert FIT.predict(NEW.assign(x=nothing)).isna().all()
    again = pickle.loads(pickle.dumps(FIT))
    with pytest.raises(DataError, match="held numbers at the fit"):
        again.predict(NEW.assign(x="a"))


def test_tables_of_new_data():
    expected = FIT.predict(NEW).to_numpy()
    rows = NEW.to_dict("records")
    for table in (rows, tuple(rows), NEW.to_dict("list"), NEW.to_records()):
        np.testing.assert_allclose(FIT.predict(table), expected)
    np.testing.assert_allclose(FIT.predict({"x": 3, "b": "u"}), FIT.predict([{"x": 3, "b": "u"}]))
    with pytest.raises(DataError, match="differ in length: 'x' has 2, 'b' has 3"):
        FIT.predict({"x": [1, 2], "b": list("uvw")})
    with pytest.raises(DataError, match="different indices"):
        FIT.predict({"x": pd.Series([1, 2]), "b": pd.Series(["u", "v"], index=[5, 6])})


def test_booleans_with_holes_are_predicted_missing():
    data = DATA.assign(b=[True, False, False] * 20)
    fit = sparselmm.mixedlm("y ~ b + (1|g)", data).fit()
    new = data[:3].assign(b=pd.array([True, None, False], dtype="boolean"))
    found = fit.predict(new)
    assert found.isna().tolist() == [False, True, False]
    assert found[2] == fit.predict(data)[2]


@pytest.mark.parametrize("name", ["I", "C", "Q", "bs", "center", "np", "log"])
def test_columns_called_like_functions(name):
    data = DATA.assign(**{name: DATA["z"]})
    found = built(f"y ~ {name} + (1|g)", data).design
    np.testing.assert_array_equal(found.X[:, 1], DATA["z"])
    if name in ("I", "C", "center"):
        np.testing.assert_array_equal(
            built(f"y ~ {name}(x) + (1|g)", data).design.X,
            built(f"y ~ {name}(x) + (1|g)", DATA).design.X,
        )
        with pytest.raises(FormulaError, match=f"'{name}' is a column of the data and a function"):
            built(f"y ~ {name}(x) + {name} + (1|g)", data)


def test_column_called_intercept():
    with pytest.raises(FormulaError, match="a column is called 'Intercept' like"):
        built("y ~ Intercept + (1|g)", DATA.assign(Intercept=DATA["z"]))
    found = built("y ~ 0 + Intercept + (1|g)", DATA.assign(Intercept=DATA["z"]))
    np.testing.assert_array_equal(found.design.X[:, 0], DATA["z"])


@pytest.mark.parametrize("term", ["cr(x, df=40)", "cr(x, df=20)", "cc(x, df=40)", "bs(x, df=12)"])
def test_nearly_dependent_columns_are_dropped(term):
    """A spline with a knot between any two values spans what one column per value does."""
    data = DATA.assign(x=np.arange(N) % 10, y=DATA["y"] + 3 * DATA["g"])
    with pytest.warns(RankDeficiencyWarning):
        fit = sparselmm.mixedlm(f"y ~ {term} + (1|g)", data).fit(reml=False)
    per_value = sparselmm.mixedlm("y ~ C(x) + (1|g)", data).fit(reml=False)
    if term.startswith("cc"):  # periodic: one dimension less
        assert fit.llf < per_value.llf
        return
    assert abs(fit.llf - per_value.llf) < 1e-9
    np.testing.assert_allclose(fit.fittedvalues, per_value.fittedvalues, atol=1e-7)


def test_rank_of_a_spline():
    data = DATA.assign(x=np.arange(N) % 10)
    X = built("y ~ cr(x, df=40) + (1|g)", data).design.X
    basis = working_basis(X, DATA["y"].to_numpy(), None)
    assert basis.rank == np.linalg.matrix_rank(X)
    Q = X[:, basis.kept] @ basis.T
    np.testing.assert_allclose(Q.T @ Q, np.eye(basis.rank), atol=1e-8)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e100, 1e200, 1e300])
def test_numbers_beyond_squaring(scale):
    for formula, column in (("y ~ x + (1|g)", "y"), ("y ~ z + (1|g)", "z"), ("y ~ 1 + (z|g)", "z")):
        with pytest.raises(DataError, match=f"'{column}' has values as"):
            built(formula, DATA.assign(**{column: DATA[column] * scale}))
    if not 1e-140 < scale < 1e140:
        with pytest.raises(DataError, match="'weights' has values as"):
            built("y ~ x + (1|g)", DATA, weights=scale * (1.0 + G))
    with pytest.raises(DataError, match="the response 'y' has values as"):
        FIT.refit(DATA["y"] * scale)


def test_three_thousand_terms():
    names = [f"v{i}" for i in range(3000)]
    wide = pd.DataFrame(np.ones((4, 3000)), columns=names)
    data = pd.concat([pd.DataFrame({"y": [1.0, 2, 4, 3], "g": list("aabb")}), wide], axis=1)
    found = built(f"y ~ 0 + {' + '.join(names)} - v7 + (1|g)", data).design
    assert found.x_names == tuple(name for name in names if name != "v7")


def test_a_deep_expression_is_refused():
    with pytest.raises(FormulaError, match=r"too long|cannot"):
        built(f"y ~ I({'+'.join(['x'] * 5000)}) + (1|g)", DATA)


@pytest.mark.parametrize(
    "subset",
    [3, 2.5, [[1, 2]], {"a": 1}, [True, None] * 30, object(), [[1], [2, 3]], len, b"x > 1"],
)
def test_no_subset(subset):
    with pytest.raises(DataError, match="subset"):
        built("y ~ x + (1|g)", DATA, subset=subset)


@pytest.mark.parametrize("env", ["x", 1.5, None, True, 10_000, {}])
def test_no_environment(env):
    with pytest.raises(DataError, match="eval_env"):
        sparselmm.mixedlm("y ~ x + (1|g)", DATA, eval_env=env)


def test_environment_by_depth():
    outside = DATA["z"].to_numpy()
    found = sparselmm.mixedlm("y ~ outside + (1|g)", DATA, eval_env=np.int64(0))
    np.testing.assert_array_equal(np.asarray(found.exog)[:, 1], outside)
    assert "outside" in capture_env(0).namespace


def test_a_transform_that_fails():
    with pytest.raises(FormulaError, match="df=1 is too small"):
        built("y ~ bs(x, df=1) + (1|g)", DATA)


def test_sparse_or_ragged_arrays():
    y, ones = DATA["y"], np.ones((N, 1))
    with pytest.raises(DataError, match=r"exog is a sparse matrix; .* exog.toarray\(\)"):
        sparselmm.MixedLM(y, sp.csr_array(ones), G)
    with pytest.raises(DataError, match="exog must be an array of numbers"):
        sparselmm.MixedLM(y, [[1, 2], [3]], G)
    fit = sparselmm.MixedLM(y, np.c_[np.ones(N), X], G).fit()
    for new in (sp.csr_array(np.ones((2, 2))), [["a", "b"]], np.ones((1, 2, 2)), np.ones((2, 3))):
        with pytest.raises(SparseLMMError, match="exog"):
            fit.predict(new)
