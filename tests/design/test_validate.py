"""Every refusal of data or arguments, with what its message must say."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from formula_cases import ragged_data

from sparselmm.base.exceptions import (
    DataError,
    FormulaError,
    MissingDataError,
    SpecificationWarning,
)
from sparselmm.design import VCSpec, from_arrays, from_formula
from sparselmm.design.validate import Rows

DATA = ragged_data().reset_index(drop=True)
N = len(DATA)
ONE = np.ones(N)
Y = DATA["y"].to_numpy()
G = DATA["g"].to_numpy()


def with_value(name, value, rows=(3, 7)):
    data = DATA.astype({name: object}) if isinstance(value, str) or value is None else DATA.copy()
    data.loc[list(rows), name] = value
    return data


FORMULAS = [
    # formula, arguments, kind of error, what its message says
    ("y ~ X + (1|g)", {}, FormulaError, [r"'X', used in the formula", "did you mean 'x'"]),
    ("y ~ x + (1|gg)", {}, FormulaError, [r"'gg', used in \(1 \| gg\)", "Columns are: y, x"]),
    ("why ~ x + (1|g)", {}, FormulaError, ["'why', used in the response"]),
    ("y ~ x + offset(off) + (1|g)", {}, FormulaError, [r"'off', used in offset"]),
    ("y ~ Sepal.Length + (1|g)", {}, FormulaError, ["is not a column"]),
    ("y ~ x", {"groups": "gr"}, FormulaError, ["'gr', used in groups=", "did you mean 'g'"]),
    ("y ~ x", {"groups": "g", "re_formula": "~t"}, FormulaError, ["'t', used in re_formula"]),
    (
        "y ~ x",
        {"groups": "g", "vc_formula": {"v": "0 + C(A)"}},
        FormulaError,
        [r"'A', used in vc_formula\['v'\]", "did you mean 'a'"],
    ),
    ("y ~ x + (1|g)", {"weights": "wt"}, FormulaError, ["'wt', used in weights="]),
    ("y ~ x", {}, FormulaError, ["no random effects", r"\(1\|g\)", "ordinary least squares"]),
    ("y ~ x", {"groups": "g", "re_formula": "0"}, FormulaError, ["no random effects"]),
    ("y ~ x + (0|g)", {}, FormulaError, [r"\(0 \| g\) has no effects"]),
    ("y ~ x + (1|g) + (1 | g)", {}, FormulaError, ["occurs twice"]),
    ("y ~ x + (1|g:a) + (1|a:g)", {}, FormulaError, ["occurs twice"]),
    ("y ~ x + (x||g) + (1|g)", {}, FormulaError, ["occurs twice"]),
    ("y ~ x + (1|g)", {"groups": "g"}, FormulaError, ["occurs twice"]),
    ("y ~ x + (1|g)", {"re_formula": "1"}, FormulaError, ["re_formula needs groups"]),
    ("y ~ x + (1|g)", {"vc_formula": {"v": "1"}}, FormulaError, ["vc_formula needs groups"]),
    ("y ~ x", {"groups": "g", "vc_formula": "0 + C(a)"}, FormulaError, ["must be a dict"]),
    ("y ~ x", {"groups": "g", "vc_formula": {"v": "(1|a)"}}, FormulaError, ["main formula"]),
    ("y ~ x", {"groups": "g", "vc_formula": {"v": 1}}, FormulaError, ["formula string, not int"]),
    ("y ~ x", {"groups": "g", "vc_formula": {"v": "0"}}, FormulaError, ["has no columns"]),
    ("y ~ x", {"groups": "g", "re_formula": "(1|a)"}, FormulaError, ["main formula"]),
    (
        "y ~ x + (1|a)",
        {"groups": "g", "vc_formula": {"a": "0 + C(k)"}},
        FormulaError,
        ["two random-effects terms are called 'a'"],
    ),
    ("y ~ x + (1|g)", {"z_terms": {"g": np.eye(N)}}, FormulaError, ["called 'g'; rename"]),
    ("y ~ x + (1|g)", {"missing": "leave"}, DataError, ["missing must be one of", "'leave'"]),
    ("y ~ x + (1|g)", {"weights": ONE[1:]}, DataError, ["weights has 39 rows but data has 40"]),
    ("y ~ x + (1|g)", {"offset": ONE[1:]}, DataError, ["offset has 39 rows"]),
    ("y ~ x", {"groups": G[1:]}, DataError, ["groups has 39 rows"]),
    ("y ~ x", {"z_terms": {"m": np.eye(3)}}, DataError, [r"z_terms\['m'\] has 3 rows"]),
    ("y ~ x", {"z_terms": np.eye(N)}, DataError, ["must be a dict"]),
    ("y ~ x", {"z_terms": {"m": ONE}}, DataError, ["must be a matrix"]),
    ("y ~ x + (1|g)", {"weights": -ONE}, DataError, ["40 negative", "the first at row 0"]),
    ("y ~ x + (1|g)", {"weights": 0 * ONE}, DataError, ["all weights are zero"]),
    ("y ~ x + (1|g)", {"weights": "a"}, DataError, ["weights must be numeric"]),
    ("y ~ x + (1|g)", {"weights": np.eye(N)}, DataError, ["one number per row"]),
    ("y ~ x", {"groups": ["g", "a"]}, DataError, [r"\(1\|g\) \+ \(1\|a\)"]),
    ("y ~ x", {"groups": DATA[["g", "a"]]}, DataError, ["2 columns", r"\(1\|a\) \+ \(1\|b\)"]),
    ("y ~ x", {"groups": np.c_[G, G]}, DataError, ["2 columns"]),
    ("y ~ x", {"groups": 3}, DataError, ["one label per row"]),
    ("y ~ x", {"groups": ONE}, DataError, [r"only one level \(1.0\)"]),
    ("y ~ x + (1|C(ONE))", {}, DataError, ["'C.ONE.' has only one level"]),
    ("y ~ x + (1|i)", {}, DataError, ["40 levels for 40 rows", "one per row"]),
    (
        "y ~ x",
        {"groups": ONE, "vc_formula": {"v": "0 + C(i)"}},
        DataError,
        ["component 'v' has 40 levels for 40 rows"],
    ),
    ("constant ~ x + (1|g)", {}, DataError, ["'constant' is constant", "7 in all 40 rows"]),
    ("a ~ x + (1|g)", {}, DataError, ["'a' must be numeric", "convert"]),
    ("b ~ x + (1|g)", {}, DataError, ["'b' is boolean", "convert"]),
    ("C(k) ~ x + (1|g)", {}, DataError, ["categorical"]),
    ("I(x > 1) ~ x + (1|g)", {}, DataError, ["categorical"]),
    ("bs(y, df=4) ~ x + (1|g)", {}, DataError, ["4 columns"]),
    ("y ~ x + (1|g)", {"subset": "x > 99"}, DataError, ["subset leaves none of 40 rows"]),
    ("y ~ x + (1|g)", {"subset": ONE[1:] > 0}, DataError, ["mask subset has 39 rows"]),
    ("y ~ x + (1|g)", {"subset": [1, 99]}, DataError, ["1 label", "the first is 99"]),
    ("y ~ x + (1|g)", {"subset": "nope > 1"}, DataError, ["cannot evaluate subset"]),
    ("y ~ x + (1|g)", {"subset": "x + 1"}, DataError, ["True or False"]),
    ("y ~ hole + (1|g)", {"missing": "drop"}, DataError, ["missing='drop' leaves none of 40"]),
    ("y ~ np.log(x) + f(x) + (1|g)", {}, FormulaError, ["'f'"]),
    ("y ~ np.logg(x) + (1|g)", {}, FormulaError, ["cannot be evaluated", "logg"]),
    ("y ~ x + (1|np.logg(x))", {}, FormulaError, ["cannot evaluate 'np.logg"]),
    ("y ~ x + (1|1)", {}, FormulaError, ["one label per row"]),
    ("y ~ x + (1|np.ones(3))", {}, FormulaError, ["one label per row", r"shape \(3,\)"]),
    ("y ~ offset(a) + (1|g)", {}, FormulaError, ["one number per row"]),
    ("y ~ x[ + (1|g)", {}, FormulaError, ["brackets"]),
    ("y ~ x in + (1|g)", {}, FormulaError, ["cannot read"]),
    ("y ~ . + (1|g)", {}, FormulaError, ["'.' for all other columns", "write the names"]),
    ("y ~ a %in% g + (1|g)", {}, FormulaError, ["operator %in%", "write a:b"]),
    ("y ~ C( + (1|g)", {}, FormulaError, ["is missing"]),
    ("y ~ twin + (1|g)", {}, DataError, ["2 columns called 'twin'"]),
    ("y ~ x", {"groups": "twin"}, DataError, ["2 columns called 'twin'"]),
]


@pytest.mark.parametrize(("formula", "arguments", "kind", "says"), FORMULAS)
def test_formula_errors(formula, arguments, kind, says):
    data = DATA.assign(i=np.arange(N), constant=7.0, hole=np.nan, t1=1, t2=2)
    data.columns = [*data.columns[:-2], "twin", "twin"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpecificationWarning)
        with pytest.raises(kind) as error:
            from_formula(formula, data, **arguments)
    for part in says:
        error.match(part)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (DATA.iloc[:0], "the data have no rows"),
        ([1, 2], "'y', used in the response"),
        (3, "must be a DataFrame"),
    ],
)
def test_unusable_data(data, says):
    with pytest.raises((DataError, FormulaError), match=says):
        from_formula("y ~ x + (1|g)", data)


MISSING = [
    ("y ~ x + (1|g)", {}, "y", "'y'"),
    ("y ~ x + (1|g)", {}, "x", "'x'"),
    ("y ~ a + (1|g)", {}, "a", "'a'"),
    ("y ~ u + (1|g)", {}, "u", "'u'"),
    ("y ~ C(k) + (1|g)", {}, "k", "'k'"),
    ("y ~ x + (z|g)", {}, "z", "'z'"),
    ("y ~ x + (1|a)", {}, "a", "the grouping factor 'a'"),
    ("y ~ x + (1|g/a)", {}, "a", "the grouping factor 'a'"),
    ("y ~ 1", {"groups": "g"}, "g", "groups 'g'"),
    ("y ~ 1", {"groups": "g", "re_formula": "z"}, "z", "'z'"),
    ("y ~ 1", {"groups": "g", "vc_formula": {"v": "0 + C(a)"}}, "a", r"vc_formula\['v'\]: column"),
    ("y ~ 1", {"groups": "g", "vc_formula": {"v": "0 + C(a):z"}}, "z", r"vc_formula\['v'\]"),
    ("y ~ 1", {"groups": "g", "vc_formula": {"v": "z"}}, "z", "'z'"),
    ("y ~ (1|g)", {"weights": "w"}, "w", "'weights'"),
    ("y ~ (1|g)", {"offset": "z"}, "z", "'offset'"),
    ("y ~ offset(z) + (1|g)", {}, "z", "'offset'"),
    ("log(x) ~ (1|g)", {}, "x", "'x'"),
]


@pytest.mark.parametrize(("formula", "arguments", "column", "says"), MISSING)
@pytest.mark.parametrize("missing", ["none", "raise"])
def test_missing_values(formula, arguments, column, says, missing):
    value = None if column in "gau" else np.nan
    data = with_value(column, value) if column != "k" else DATA.astype({"k": float})
    data.loc[[3, 7], column] = value
    data.index = [f"r{i}" for i in range(N)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpecificationWarning)
        with pytest.raises(MissingDataError, match=says) as error:
            from_formula(formula, data, missing=missing, **arguments)
        error.match(r"missing value")
        error.match(r"the first at row 3 \(label 'r3'\)")
        error.match("missing='drop'")
        from_formula(formula, data, missing="drop", **arguments)


@pytest.mark.parametrize("missing", ["none", "drop"])
@pytest.mark.parametrize(
    ("formula", "arguments", "column", "says"),
    [
        ("y ~ x + (1|g)", {}, "y", "the response 'y'"),
        ("y ~ x + (1|g)", {}, "x", "column 'x'"),
        ("y ~ x + (z|g)", {}, "z", "column 'z'"),
        ("y ~ 1", {"groups": "g", "re_formula": "z"}, "z", "re_formula column 'z'"),
        ("y ~ 1", {"groups": "g", "vc_formula": {"v": "0 + z"}}, "z", "column 'z'"),
        ("y ~ 1", {"groups": "g", "vc_formula": {"v": "z"}}, "z", "column 'z'"),
        ("y ~ (1|g)", {"weights": "w"}, "w", "'weights'"),
        ("y ~ offset(z) + (1|g)", {}, "z", "'offset'"),
    ],
)
def test_infinite_values(formula, arguments, column, says, missing):
    data = with_value(column, np.inf)
    with pytest.raises(MissingDataError, match=says) as error:
        from_formula(formula, data, missing=missing, **arguments)
    error.match("2 infinite value")
    error.match("row 3")


def test_infinite_results_name_the_expression():
    with (
        np.errstate(divide="ignore"),
        pytest.raises(MissingDataError, match=r"'np.log\(x\)' has 2 infinite"),
    ):
        from_formula("y ~ np.log(x) + (1|g)", with_value("x", 0.0))


def test_missing_results_of_complete_columns():
    data = with_value("x", -1.0)
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(
            MissingDataError,
            match=r"'np.log\(x\)' has 2 missing value\(s\), the first at row 3, where its col",
        ),
    ):
        from_formula("y ~ np.log(x) + (1|g)", data, missing="drop")


def test_rows_are_named_after_subset():
    data = with_value("x", np.nan, rows=[30])
    with pytest.raises(MissingDataError, match="row 30;"):
        from_formula("y ~ x + (1|g)", data, subset=np.arange(N) >= 20)


ARRAYS = [
    # arguments, kind of error, what its message says
    ({"endog": np.c_[Y, Y]}, DataError, "must be one column"),
    ({"endog": DATA[["y", "x"]]}, DataError, "endog has 2 columns"),
    ({"endog": G}, DataError, "endog must be numeric"),
    ({"endog": DATA["b"]}, DataError, "endog 'b' is boolean"),
    ({"endog": Y[:0], "exog": ONE[:0], "groups": G[:0]}, DataError, "no rows"),
    ({"endog": ONE}, DataError, "constant"),
    ({"endog": Y * np.nan}, MissingDataError, "40 missing"),
    ({"endog": Y * np.nan, "missing": "drop"}, DataError, "missing='drop' leaves none"),
    ({"exog": None}, DataError, "exog is missing"),
    ({"exog": ONE[1:]}, DataError, "exog has 39 rows but endog has 40"),
    ({"exog": np.ones((N, 2, 2))}, DataError, "two dimensions"),
    ({"exog": DATA[["x", "a"]]}, DataError, "exog column 'a' must be numeric"),
    ({"exog": G}, DataError, "exog must be numeric"),
    (
        {"exog": DATA["x"].set_axis(range(1, N + 1)), "endog": DATA["y"]},
        DataError,
        "index of exog differs from that of endog",
    ),
    ({"exog": DATA["x"].iloc[1:], "endog": DATA["y"]}, DataError, "exog has 39 rows"),
    ({"groups": None}, FormulaError, "no random effects"),
    ({"groups": None, "exog_re": ONE}, DataError, "exog_re needs groups"),
    ({"groups": None, "exog_vc": {}}, DataError, "exog_vc needs groups"),
    ({"groups": G[1:]}, DataError, "groups has 39 rows"),
    ({"groups": np.c_[G, G]}, DataError, r"2 columns.*\(1\|a\) \+ \(1\|b\)"),
    ({"groups": [[1, 2]] * N}, DataError, "2 columns"),
    ({"groups": [(1, 2)] * N}, DataError, "only one level"),
    ({"groups": ONE}, DataError, "only one level"),
    ({"groups": np.arange(N)}, DataError, "40 levels for 40 rows"),
    ({"groups": pd.Series(G).where(G != "q")}, MissingDataError, "groups 'Group'"),
    ({"exog_re": np.full(N, np.inf)}, MissingDataError, "exog_re column 'x_re1' has 40 infinite"),
    ({"exog_re": DATA[["x", "x"]]}, FormulaError, "columns of exog_re are called 'x'"),
    ({"weights": Y}, DataError, "negative"),
    ({"weights": "w"}, DataError, "one number per row"),
    ({"missing": None}, DataError, "missing must be one of"),
    ({"z_terms": {"m": sp.eye_array(N) * np.nan}}, MissingDataError, "'m'"),
    ({"exog_vc": VCSpec(["v"], [[["c"]]], [[ONE]])}, DataError, "matrices for 1 groups"),
    (
        {"exog_vc": VCSpec(["v"], [[["c"]] * 4], [[np.ones((1, 1))] * 4])},
        DataError,
        "matrix of group 'a' has 1 rows but the group has",
    ),
    (
        {"exog_vc": VCSpec(["v", "v"], [[], []], [[], []])},
        FormulaError,
        "components of exog_vc are called 'v'",
    ),
]


@pytest.mark.parametrize(("arguments", "kind", "says"), ARRAYS)
def test_array_errors(arguments, kind, says):
    given = {"endog": Y, "exog": ONE, "groups": G, **arguments}
    with pytest.raises(kind, match=says):
        from_arrays(**given)


def test_zero_weights_are_allowed():
    weights = np.where(np.arange(N) < 5, 0.0, 1.0)
    design = from_arrays(Y, ONE, G, weights=weights).design
    assert design.n == N


def test_one_group_with_components_alone_is_fine():
    from_formula("y ~ x", DATA, groups=ONE, vc_formula={"v": "0 + C(a)"})


def test_more_coefficients_than_rows_warns():
    data = DATA.assign(pair=np.arange(N) // 2)
    with pytest.warns(SpecificationWarning, match="40 random coefficients .20 levels x 2. for 40"):
        from_formula("y ~ x + (x|pair)", data)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (Rows(9), "row 2"),
        (Rows(9, pd.RangeIndex(9)), "row 2"),
        (Rows(9, pd.Index(list("abcdefghi"))), "row 2 (label 'c')"),
        (Rows(9, pd.Index(list("abcdefghi")), np.array([1, 5, 6])), "row 6 (label 'g')"),
        (Rows(9, None, np.array([1, 5, 6])).part(np.array([0, 0, 1])), "row 5"),
    ],
)
def test_where(rows, text):
    assert rows.where(2) == text
