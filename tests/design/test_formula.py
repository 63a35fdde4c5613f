"""The three spellings of a mixed model, and new data."""

import ast
import pickle
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import patsy
import pytest
import scipy.sparse as sp
from examples import examples
from formula_cases import (
    bump,
    dense_z,
    hand_z,
    per_group_columns,
    ragged_data,
    term_columns,
)
from hypothesis import given
from hypothesis import strategies as st

from sparselmm.base.exceptions import DataError, FormulaError, SpecificationWarning
from sparselmm.design import VCSpec, capture_env, from_arrays, from_formula

DATA = ragged_data()
N = len(DATA)
ONE = np.ones(N)
x, z, a, g, k, u = (DATA[name].to_numpy() for name in ("x", "z", "a", "g", "k", "u"))
AG = list(zip(a, g, strict=True))


def built(formula, data=DATA, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpecificationWarning)
        return from_formula(formula, data, **kwargs)


def dummies(values, order):
    return np.column_stack([values == label for label in order]).astype(float)


# --- lme4's bars -------------------------------------------------------------------------------

BARS = {
    "(1|g)": [("g", ["Intercept"], g, [ONE])],
    "(x|g)": [("g", ["Intercept", "x"], g, [ONE, x])],
    "(1 + x | g)": [("g", ["Intercept", "x"], g, [ONE, x])],
    "(0 + x | g)": [("g", ["x"], g, [x])],
    "(x - 1 | g)": [("g", ["x"], g, [x])],
    "(-1 + x | g)": [("g", ["x"], g, [x])],
    "(x||g)": [("g", ["Intercept"], g, [ONE]), ("g.1", ["x"], g, [x])],
    "(0 + x||g)": [("g", ["x"], g, [x])],
    "(1||g)": [("g", ["Intercept"], g, [ONE])],
    "(x*z||g)": [
        ("g", ["Intercept"], g, [ONE]),
        ("g.1", ["x"], g, [x]),
        ("g.2", ["z"], g, [z]),
        ("g.3", ["x:z"], g, [x * z]),
    ],
    "(1|g/a)": [("a:g", ["Intercept"], AG, [ONE]), ("g", ["Intercept"], g, [ONE])],
    "(1|a:g)": [("a:g", ["Intercept"], AG, [ONE])],
    "(1|g/a/k)": [
        ("k:(a:g)", ["Intercept"], list(zip(k, a, g, strict=True)), [ONE]),
        ("a:g", ["Intercept"], AG, [ONE]),
        ("g", ["Intercept"], g, [ONE]),
    ],
    "(a|g)": [
        (
            "g",
            ["Intercept", "a[T.three]", "a[T.two]"],
            g,
            [ONE, *dummies(a, ["three", "two"]).T],
        )
    ],
    "(0 + a|g)": [
        ("g", ["a[one]", "a[three]", "a[two]"], g, dummies(a, ["one", "three", "two"]).T)
    ],
    "(a||g)": [
        ("g", ["Intercept"], g, [ONE]),
        ("g.1", ["a[one]", "a[three]", "a[two]"], g, dummies(a, ["one", "three", "two"]).T),
    ],
    "(np.log(x)|g)": [("g", ["Intercept", "np.log(x)"], g, [ONE, np.log(x)])],
    "(log(x)|g)": [("g", ["Intercept", "log(x)"], g, [ONE, np.log(x)])],
    "(0 + I(x^2)|g)": [("g", ["I(x ** 2)"], g, [x**2])],
    "(1|C(k))": [("C(k)", ["Intercept"], k, [ONE])],
    "(1|factor(k))": [("factor(k)", ["Intercept"], k, [ONE])],
    "(1|k)": [("k", ["Intercept"], k, [ONE])],
    "(1|k % 2)": [("k%2", ["Intercept"], k % 2, [ONE])],
    "(1|C(k > 1))": [("C(k>1)", ["Intercept"], k > 1, [ONE])],
    '(1|Q("g"))': [('Q("g")', ["Intercept"], g, [ONE])],
    "(1|big) + (1|a)": [
        ("big", ["Intercept"], DATA["big"].to_numpy(), [ONE]),
        ("a", ["Intercept"], a, [ONE]),
    ],
    "(1|g) + (0 + x|g)": [("g", ["Intercept"], g, [ONE]), ("g.1", ["x"], g, [x])],
    "((x|g) + (1|a))": [("g", ["Intercept", "x"], g, [ONE, x]), ("a", ["Intercept"], a, [ONE])],
}


@pytest.mark.parametrize("bar", BARS)
def test_bars_against_hand_made_matrices(bar):
    design = built(f"y ~ z + {bar}").design
    assert [(term.name, list(term.columns)) for term in design.terms] == [
        case[:2] for case in [(name, columns) for name, columns, *_ in BARS[bar]]
    ]
    for term, (_, _, labels, values) in zip(design.terms, BARS[bar], strict=True):
        np.testing.assert_array_equal(
            dense_z(term, N), hand_z(list(labels), np.column_stack(values))
        )
        assert term.origin == "bar"
        assert term.codes.dtype == np.int32
        assert (term.values is None) == (term.columns == ("Intercept",))
    together = np.hstack([dense_z(term, N) for term in design.terms])
    np.testing.assert_array_equal(design.Z.toarray(), together)
    np.testing.assert_array_equal(design.X, np.column_stack([ONE, z]))


def test_columns_named_as_words_of_python():
    """R's Oats has ``yield``, MASS has ``class``; a formula has no other use for these words."""
    data = DATA.rename(columns={"y": "yield", "x": "lambda", "a": "from", "g": "class"})
    found = built("yield ~ lambda * factor(from) + (lambda | class)", data=data).design
    plain = built("y ~ x * factor(a) + (x | g)").design
    (term,) = found.terms
    assert (found.y_name, term.name, term.levels.names) == ("yield", "class", ("class",))
    assert "lambda:factor(from)[T.two]" in found.x_names
    np.testing.assert_array_equal(found.X, plain.X)
    np.testing.assert_array_equal(found.y, plain.y)
    np.testing.assert_array_equal(found.Z.toarray(), plain.Z.toarray())


@pytest.mark.parametrize("besides", [[], ["y", "x", "a", "g"]], ids=["alone", "beside"])
def test_columns_with_dots_as_in_r(besides):
    """``wl.c`` is a column where there is one, even beside a column ``wl``."""
    names = {"y": "y.r", "x": "x.c", "a": "a.f.2", "g": ".g"}
    data = DATA[list(names)].rename(columns=names).assign(**{name: 0.0 for name in besides})
    text = "log(y.r + 99) ~ x.c * C(a.f.2) + I(x.c**2) + (0 + x.c || .g)"
    found = built(text, data=data, dispersion="~ x.c", residual="cs(x.c | .g)").design
    plain = built("log(y + 99) ~ x * C(a) + I(x**2) + (0 + x || g)").design
    (term,) = found.terms
    assert (found.y_name, term.name, term.columns) == ("log(y.r + 99)", ".g", ("x.c",))
    assert "x.c:C(a.f.2)[T.two]" in found.x_names
    np.testing.assert_array_equal(found.X, plain.X)
    np.testing.assert_array_equal(found.y, plain.y)
    np.testing.assert_array_equal(found.Z.toarray(), plain.Z.toarray())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("y ~ x.c + (1 | g)", "'x.c', used in the formula, is not a column .* 'x.d'"),
        ("y ~ v.c + (1 | g)", "'v.c', used in the formula, is not a column"),
        ("y ~ x.d(3) + (1 | g)", "calls 'x.d', which is a column"),
    ],
)
def test_names_with_dots_that_are_no_columns(text, says):
    with pytest.raises(FormulaError, match=says):
        built(text, data=DATA.assign(**{"x.d": 1.0}))


@pytest.mark.parametrize("ours", ["\u00b5g", "e\u0301", "\ufb01b"], ids=ascii)
def test_names_with_letters_that_python_takes_for_others(ours):
    """A micro sign is the Greek letter to Python; there may be a column of that name as well."""
    theirs = ast.parse(ours, mode="eval").body.id
    assert theirs != ours
    names = {"x": ours, "g": f"{ours}_2"}
    data = DATA.rename(columns=names).assign(**{theirs: 0.0, f"{theirs}_2": "one"})
    found = built(f"y ~ {ours} * a + I({ours}**2) + ({ours} | {ours}_2)", data=data)
    plain = built("y ~ x * a + I(x**2) + (x | g)").design
    assert ours in found.design.x_names
    assert found.design.terms[0].name == f"{ours}_2"
    np.testing.assert_array_equal(found.design.X, plain.X)
    np.testing.assert_array_equal(found.design.Z.toarray(), plain.Z.toarray())
    np.testing.assert_array_equal(found.spec.evaluate(data).X, plain.X)
    quoted = built(f"y ~ `{ours}` + (1 | `{ours}_2`)", data=data).design
    np.testing.assert_array_equal(quoted.X[:, 1], DATA.x)


def test_attributes_of_columns_stay_python():
    data = DATA.assign(day=pd.Timestamp("2026-01-05") + pd.to_timedelta(np.arange(N), "D"))
    found = built("y ~ day.dt.month + np.log(x + 99) + (1 | g)", data=data).design
    np.testing.assert_array_equal(found.X[:, 1], data.day.dt.month)


def test_formulas_without_such_columns_are_kept_as_written():
    text = "y ~ np.log(x + 99) + I(0.5 * z) + (1 | g)"
    assert built(text, data=DATA).spec.formula == text


def test_levels_of_an_interaction():
    (term, _) = built("y ~ (1|g/a)").design.terms
    assert term.levels.names == ("a", "g")
    assert list(zip(*term.levels.parts, strict=True)) == sorted(set(AG))
    assert term.levels.labels()[0] == "one:a"


def test_categorical_order_of_levels():
    (term,) = built("y ~ (1|u)").design.terms
    assert term.levels.labels().tolist() == ["w", "v", "u"]
    (term,) = built("y ~ 1", groups="u").design.terms
    assert term.levels.labels().tolist() == ["u", "v", "w"]  # groups are always sorted


# lme4 1.1-31 on factors of 3, 6, 10 and 3 levels.
ORDER = [
    ("(1|a) + (1|b) + (1|c)", ["c", "b", "a"]),
    ("(1|a2) + (1|a)", ["a2", "a"]),
    ("(1|a) + (1|a2) + (1|b)", ["b", "a2", "a"]),
    ("(1|b) + (1|a) + (1|a2)", ["b", "a", "a2"]),
    ("(x||a/b)", ["b:a", "b:a.1", "a", "a.1"]),
    ("(x||a) + (1|a2)", ["a", "a.1", "a2"]),
    ("(1|a) + (1|b/a2)", ["a2:b", "b", "a"]),
    ("(x|a) + (0 + z|a)", ["a", "a.1"]),
]


@pytest.mark.parametrize(("bars", "names"), ORDER)
def test_order_of_bars(bars, names):
    rng = np.random.default_rng(0)
    i = np.arange(60)
    data = pd.DataFrame(
        {"a": i // 20, "b": i // 10, "c": i // 6, "a2": i % 3, **dict.fromkeys("yxz")}
    )
    for name in "yxz":
        data[name] = rng.normal(size=60)
    assert [term.name for term in built(f"y ~ {bars}", data).design.terms] == names


def test_reversed_ties_keep_their_effects():
    """lme4: y ~ (x||a/b) gives b:a|x, b:a|1, a|x, a|1."""
    data = pd.DataFrame({"y": np.arange(60.0) % 7, "x": np.arange(60) % 11})
    data["a"], data["b"] = np.arange(60) // 20, np.arange(60) // 10
    terms = built("y ~ (x||a/b)", data).design.terms
    assert [term.columns[0] for term in terms] == ["x", "Intercept", "x", "Intercept"]


# --- fixed part --------------------------------------------------------------------------------

FIXED = [
    ("y ~ x + (1|g)", "x"),
    ("y ~ (1|g)", "1"),
    ("y ~ 0 + (1|g)", "0"),
    ("y ~ x - 1 + (1|g)", "x - 1"),
    ("y ~ x*a + u + (1|g)", "x*a + u_"),
    ("y ~ b + C(k, Sum) + (1|g)", "b + C(k, Sum)"),
    ("y ~ C(a, Treatment('two')) + (1|g)", "C(a, Treatment('two'))"),
    ("y ~ C(a, levels=['two', 'one', 'three']) + (1|g)", "C(a, levels=['two', 'one', 'three'])"),
    ("y ~ I(a == 'one') + a + (1|g)", "I(a == 'one') + a"),
    ("y ~ center(x) + bs(z, df=4) + (1|g)", "center(x) + bs(z, df=4)"),
    ("y ~ bump(x) + (1|g)", "bump(x)"),
    ("y ~ np.log(x) + x:a + (1|g)", "np.log(x) + x:a"),
]


@pytest.mark.parametrize(("formula", "right"), FIXED)
@pytest.mark.parametrize("strings", ["str", "object", "category"])
def test_fixed_part_is_patsys(formula, right, strings):
    data = DATA.assign(a=DATA["a"].astype(strings), u_=DATA["u"].cat.remove_unused_categories())
    design = built(formula, data).design
    expected = patsy.dmatrix(right, data.assign(a=DATA["a"].astype(object)))
    names = [name.replace("u_", "u") for name in expected.design_info.column_names]
    if len(expected) == N:
        np.testing.assert_array_equal(design.X, np.asarray(expected))
    assert design.X.shape == (N, len(names))
    assert list(design.x_names) == names


@pytest.mark.parametrize(
    ("response", "name", "values"),
    [
        ("y", "y", DATA["y"]),
        ("log(x)", "log(x)", np.log(x)),
        ("I(y / 10)", "I(y / 10)", DATA["y"] / 10),
        ("np.sqrt( x )", "np.sqrt(x)", np.sqrt(x)),
        ("center(y)", "center(y)", DATA["y"] - DATA["y"].mean()),
        ("k", "k", k),
        ('Q("y")', 'Q("y")', DATA["y"]),
    ],
)
def test_response(response, name, values):
    design = built(f"{response} ~ z + (1|g)").design
    assert design.y_name == name
    assert design.y.dtype == np.float64
    np.testing.assert_allclose(design.y, values, rtol=1e-15, atol=1e-15)


def test_r_names_are_fall_backs():
    def log(values):
        return 10 * values

    assert log is not np.log
    design = built("y ~ log(x) + exp(z) + (1|g)", env=capture_env()).design
    np.testing.assert_array_equal(design.X[:, 1:], np.column_stack([10 * x, np.exp(z)]))


def test_callers_functions_resolve():
    def times_two(values):
        return 2 * values

    assert times_two(1) == 2
    design = from_formula("y ~ times_two(x) + (0 + times_two(z)|g)", DATA).design
    np.testing.assert_array_equal(design.X[:, 1], 2 * x)
    np.testing.assert_array_equal(design.terms[0].values[:, 0], 2 * z)


def test_offsets_add_up():
    offset = np.linspace(0, 1, N)
    design = built("y ~ offset(log(x)) + offset(z) + (1|g)", offset=offset).design
    np.testing.assert_allclose(design.offset, np.log(x) + z + offset, rtol=1e-15)
    assert list(design.x_names) == ["Intercept"]
    np.testing.assert_array_equal(built("y ~ (1|g)", offset="w").design.offset, DATA["w"])
    assert built("y ~ (1|g)").design.offset is None


@pytest.mark.parametrize("weights", ["w", DATA["w"], DATA["w"].tolist()])
def test_weights(weights):
    np.testing.assert_array_equal(built("y ~ (1|g)", weights=weights).design.weights, DATA["w"])


# --- statsmodels' arguments --------------------------------------------------------------------

VC_FORMULAS = [
    # (formula, what patsy is given, whether it is built from codes)
    ("1", "1", True),
    ("0 + C(a)", "0 + C(a)", True),
    ("~0 + C(a)", "0 + C(a)", True),
    ("C(a) - 1", "0 + C(a)", True),
    ("0 + a", "0 + a", True),
    ("0 + u", "0 + u", True),
    ("0 + C(u)", "0 + C(u)", True),
    ("0 + b", "0 + b", True),
    ("0 + C(k)", "0 + C(k)", True),
    ("0 + x", "0 + x", True),
    ("0 + x:z", "0 + x:z", True),
    ("0 + C(a):C(k)", "0 + C(a):C(k)", True),
    ("0 + C(a):u:b", "0 + C(a):u:b", True),
    ("0 + C(a):x", "0 + C(a):x", True),
    ("0 + x:C(a):z", "0 + x:C(a):z", True),
    ("0 + I(x**2)", "0 + I(x**2)", True),
    ("0 + I(x^2)", "0 + I(x**2)", True),
    ("0 + np.log(x)", "0 + np.log(x)", True),
    ("0 + C(a):np.maximum(x, 1)", "0 + C(a):np.maximum(x, 1)", True),
    ("0 + I(-x / k.max())", "0 + I(-x / k.max())", False),
    ("C(a)", "C(a)", False),
    ("u", "u", False),
    ("x", "x", False),
    ("0 + center(x)", "0 + center(x)", False),
    ("0 + C(a) + x", "0 + C(a) + x", False),
    ("C(a)*x", "C(a)*x", False),
    ("0 + C(a, Sum)", "0 + C(a, Sum)", False),
    ("0 + bump(x)", "0 + bump(x)", False),
    ("0 + I(x > 1)", "0 + I(x > 1)", False),
    ("0 + np.greater(x, 1)", "0 + np.greater(x, 1)", False),
]


@pytest.mark.parametrize(("formula", "reference", "coded"), VC_FORMULAS)
def test_components_against_a_loop_over_groups(formula, reference, coded):
    term = built("y ~ x", groups="g", vc_formula={"v": formula}).design.terms[0]
    assert (term.name, term.origin, term.k) == ("v", "vc", 1)
    assert (term.block is None) == coded
    got, expected = term_columns(term, N), per_group_columns(reference, DATA, g)
    assert set(got) == set(expected)
    for label, column in expected.items():
        np.testing.assert_allclose(got[label], column, rtol=1e-14, atol=1e-14)
    if coded:
        assert len(got) == term.n_levels  # no column of zeros
    firsts = term.levels.parts[0].tolist()
    assert firsts == sorted(firsts)


def test_bump_resolves():
    assert bump(np.array([1.0, 3.0])).tolist() == [0.0, 2.0]


def test_component_levels():
    term = built("y ~ x", groups="g", vc_formula={"v": "0 + C(a):u"}).design.terms[0]
    assert term.columns == ("C(a)[{}]:u[{}]",)
    assert term.levels.names == ("g", "C(a)", "u")
    order = {label: i for i, label in enumerate(["w", "v", "u"])}
    rows = [(*first, order[last]) for *first, last in zip(*term.levels.parts, strict=True)]
    assert rows == sorted({(*row, order[last]) for *row, last in zip(g, a, u, strict=True)})


@pytest.mark.parametrize("form", ["name", "series", "list", "array", "category", "frame"])
def test_groups_spellings(form):
    groups = {
        "name": "g",
        "series": DATA["g"],
        "list": g.tolist(),
        "array": g,
        "category": DATA["g"].astype("category"),
        "frame": DATA[["g"]],
    }[form]
    result = built("y ~ x", groups=groups)
    (term,) = result.design.terms
    name = "g" if form == "name" else "Group"
    assert (term.name, term.origin, term.columns) == (name, "re", (name,))
    assert result.design.groups.labels.tolist() == sorted(set(g))
    np.testing.assert_array_equal(dense_z(term, N), hand_z(list(g), ONE[:, None]))


@pytest.mark.parametrize(
    ("re_formula", "columns", "values"),
    [
        (None, ["g"], [ONE]),
        ("1", ["g"], [ONE]),
        ("~x", ["g", "x"], [ONE, x]),
        ("1 + x", ["g", "x"], [ONE, x]),
        ("0 + z", ["z"], [z]),
        ("a", ["g", "a[T.three]", "a[T.two]"], [ONE, *dummies(a, ["three", "two"]).T]),
    ],
)
def test_re_formula(re_formula, columns, values):
    (term,) = built("y ~ x", groups="g", re_formula=re_formula).design.terms
    assert list(term.columns) == columns
    np.testing.assert_array_equal(dense_z(term, N), hand_z(list(g), np.column_stack(values)))


def test_groups_with_components():
    vc = {"w": "0 + x", "c": "0 + C(a)"}
    names = [t.name for t in built("y ~ x", groups="g", vc_formula=vc).design.terms]
    assert names == ["c", "w"]  # sorted, and no intercept of the group
    everything = built(
        "y ~ x + (1|a) + (1|big)",
        groups="g",
        re_formula="1",
        vc_formula=vc,
        z_terms={"m": np.eye(N)},
    )
    assert [t.name for t in everything.design.terms] == ["g", "c", "w", "big", "a", "m"]
    assert [t.origin for t in everything.design.terms] == [
        *("re", "vc", "vc", "bar", "bar", "array")
    ]
    only_vc = built("y ~ x", groups="g", re_formula="0", vc_formula=vc)
    assert [t.name for t in only_vc.design.terms] == ["c", "w"]


def test_constant_groups_cross_components():
    design = built("y ~ x", groups=ONE, vc_formula={"a": "0 + C(a)", "k": "0 + C(k)"}).design
    for term, labels in zip(design.terms, (a, k), strict=True):
        np.testing.assert_array_equal(dense_z(term, N), hand_z(list(labels), ONE[:, None]))


def test_warns_when_labels_are_reused():
    with pytest.warns(SpecificationWarning, match="fitted as .* nested in g") as record:
        from_formula("y ~ x", DATA, groups="g", vc_formula={"v": "0 + C(a)"})
    message = str(record[0].message)
    assert "(1|g) + (1|a)" in message
    assert "Nothing needs to change" in message
    assert record[0].filename == __file__
    unique = DATA.assign(a=DATA["g"] + DATA["a"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_formula("y ~ x", unique, groups="g", vc_formula={"v": "0 + C(a)"})
        from_formula("y ~ x", DATA, groups=ONE, vc_formula={"v": "0 + C(a)"})


def test_a_shared_name_of_two_groupings_gets_a_number():
    design = built("y ~ x + (0 + x|g)", groups="g").design
    assert [term.name for term in design.terms] == ["g", "g.1"]


# --- one model, three spellings ----------------------------------------------------------------


def vc_spec(columns_of):
    """VCSpec from {(group, column): dense column} of one component."""
    names, mats = [], []
    for label in sorted(set(g)):
        rows = g == label
        mine = {
            name: column[rows] for (group, name), column in columns_of.items() if group == label
        }
        names.append(list(mine))
        mats.append(np.column_stack(list(mine.values())))
    return VCSpec(["v"], [names], [mats])


def test_random_slope_three_ways():
    X = np.column_stack([ONE, x])
    designs = [
        built("y ~ x + (x|g)").design,
        built("y ~ x", groups="g", re_formula="~x").design,
        from_arrays(DATA["y"], X, g, exog_re=X).design,
    ]
    for design in designs:
        np.testing.assert_array_equal(design.Z.toarray(), designs[0].Z.toarray())
        np.testing.assert_array_equal(design.X, X)
        np.testing.assert_array_equal(design.y, DATA["y"])
    assert designs[2].x_names == ("const", "x1")
    assert designs[2].terms[0].columns == ("x_re1", "x_re2")


@pytest.mark.parametrize("sparse", [False, True])
def test_nested_intercepts_four_ways(sparse):
    spec = vc_spec(per_group_columns("0 + C(a)", DATA, g))
    if sparse:
        spec.mats = [[sp.csr_array(m) for m in spec.mats[0]]]
    (bar,) = built("y ~ (1|g:a)").design.terms
    vc = built("y ~ 1", groups="g", vc_formula={"v": "0 + C(a)"}).design.terms[0]
    stack = from_arrays(DATA["y"], ONE, g, exog_vc=spec).design.terms[0]
    matrix = built("y ~ 1", z_terms={"v": dense_z(bar, N)}).design.terms[0]
    for term in (vc, stack, matrix):
        np.testing.assert_array_equal(dense_z(term, N), dense_z(bar, N))
    assert (stack.origin, matrix.origin) == ("vc", "array")
    assert stack.levels.parts[0].tolist() == vc.levels.parts[0].tolist()
    assert stack.levels.parts[1][0] == "C(a)[one]"


def test_a_group_may_lack_a_component():
    mats = [np.ones(((g == label).sum(), 0 if label == "b" else 1)) for label in sorted(set(g))]
    names = [["c"] * m.shape[1] for m in mats]
    (term,) = from_arrays(DATA["y"], x, g, exog_vc=VCSpec(["v"], [names], [mats])).design.terms
    assert term.levels.parts[0].tolist() == ["a", "q", "zz"]
    assert dense_z(term, N)[g == "b"].sum() == 0


def test_deprecated_dictionary_of_matrices():
    mats = {label: np.arange((g == label).sum(), dtype=float) for label in sorted(set(g))}
    with pytest.warns(FutureWarning, match="Using deprecated variance components format"):
        (term,) = from_arrays(DATA["y"], x, g, exog_vc={"v": mats}).design.terms
    for j, label in enumerate(sorted(set(g))):
        np.testing.assert_array_equal(dense_z(term, N)[g == label, j], mats[label])


def test_array_defaults():
    frame = DATA[["x", "z"]]
    result = from_arrays(DATA["y"], frame, g, exog_re=DATA["z"])
    assert result.design.x_names == ("x", "z")
    assert result.design.terms[0].columns == ("z",)
    assert result.design.y_name == "y"
    assert result.pandas
    assert result.frame is frame
    assert result.row_labels.equals(DATA.index)
    plain = from_arrays(DATA["y"].to_numpy(), np.column_stack([x, ONE, z]), g)
    assert plain.design.x_names == ("x1", "const", "x2")
    assert (plain.design.terms[0].name, plain.design.terms[0].columns) == ("Group", ("Group",))
    assert plain.design.terms[0].values is None
    assert (plain.pandas, plain.row_labels, plain.kept) == (False, None, None)
    assert from_arrays(DATA["y"], x, g).design.X.shape == (N, 1)


# --- rows --------------------------------------------------------------------------------------

SUBSETS = [
    DATA["x"].to_numpy() > 1,
    DATA["x"] > 1,
    (DATA["x"] > 1).tolist(),
    "x > 1",
    "x > @limit",
]


@pytest.mark.parametrize("subset", SUBSETS, ids=["array", "series", "list", "query", "local"])
def test_subset(subset):
    limit = 1.0
    result = from_formula("y ~ z + (1|g)", DATA, subset=subset)
    mask = x > limit
    np.testing.assert_array_equal(result.kept, mask)
    np.testing.assert_array_equal(result.design.y, DATA["y"][mask])
    assert result.row_labels.equals(DATA.index[mask])
    assert result.frame.shape == (mask.sum(), DATA.shape[1])


def test_subset_of_labels_and_other_order():
    data = DATA.reset_index(drop=True)
    by_label = built("y ~ (1|g)", data, subset=[30, *range(20)])
    np.testing.assert_array_equal(np.flatnonzero(by_label.kept), [*range(20), 30])
    shuffled = (data["x"] > 1).sample(frac=1, random_state=0)
    np.testing.assert_array_equal(built("y ~ (1|g)", data, subset=shuffled).kept, x > 1)


def test_subset_drops_labels_that_vanish():
    result = built("y ~ a + u + (1|g)", subset=(a != "two") & (g != "b"), groups=None)
    assert list(result.design.x_names) == ["Intercept", "a[T.three]", "u[T.v]", "u[T.u]"]
    assert result.design.terms[0].levels.labels().tolist() == ["a", "q", "zz"]


def holed():
    data = DATA.reset_index(drop=True).astype({"a": object})
    for i, name in enumerate(["y", "x", "a", "g", "u", "w", "z"]):
        data.loc[i, name] = np.nan if name != "a" else None
    return data


def test_drop_looks_at_the_columns_in_use():
    data = holed()
    result = built("y ~ x + a + (1|g)", data, missing="drop")
    np.testing.assert_array_equal(np.flatnonzero(~result.kept), [0, 1, 2, 3])
    assert result.frame.shape[1] == data.shape[1]
    complete = built("y ~ x + a + (1|g)", data.iloc[4:])
    np.testing.assert_array_equal(result.design.Z.toarray(), complete.design.Z.toarray())
    np.testing.assert_array_equal(result.design.X, complete.design.X)
    result = built(
        "y ~ 1", data, groups=data["u"], weights="w", vc_formula={"z": "0 + z"}, missing="drop"
    )
    np.testing.assert_array_equal(np.flatnonzero(~result.kept), [0, 4, 5, 6])


def test_drop_with_subset():
    data = holed()
    result = built("y ~ x + (1|g)", data, missing="drop", subset=np.arange(N) > 1)
    np.testing.assert_array_equal(np.flatnonzero(~result.kept), [0, 1, 3])


def test_drop_from_arrays():
    data = holed()
    spec = vc_spec(per_group_columns("0 + C(k)", DATA, g))
    extra = sp.csr_array(np.diag(np.r_[np.ones(N - 1), np.nan]))
    result = from_arrays(
        data["y"],
        data[["x"]],
        DATA["g"].to_numpy(),
        exog_vc=spec,
        z_terms={"m": extra},
        weights=data["w"],
        missing="drop",
    )
    np.testing.assert_array_equal(np.flatnonzero(~result.kept), [0, 1, 5, N - 1])
    full = from_arrays(data["z"].fillna(0), ONE, g, exog_vc=spec).design.terms[0]
    np.testing.assert_array_equal(
        dense_z(result.design.terms[0], N - 4), dense_z(full, N)[result.kept]
    )
    assert result.row_labels.equals(data.index[result.kept])
    assert from_arrays(DATA["y"], x, g, missing="drop").kept is None


def test_dropping_a_whole_group_drops_its_columns():
    spec = vc_spec(per_group_columns("0 + C(k)", DATA, g))
    y = DATA["y"].where(DATA["g"] != "zz")
    result = from_arrays(y, ONE, g, exog_vc=spec, missing="drop")
    assert "zz" not in result.design.groups.labels
    assert "zz" not in result.design.terms[0].levels.parts[0]


def test_all_rows_kept_copies_nothing():
    result = built("y ~ x + (1|g)")
    assert result.frame is DATA
    assert result.kept is None
    assert np.shares_memory(result.design.y, DATA["y"].to_numpy())


def test_data_need_not_be_a_frame():
    columns = {name: DATA[name].to_numpy() for name in "yxg"}
    design = built("y ~ x + (1|g)", columns).design
    np.testing.assert_array_equal(design.X, np.column_stack([ONE, x]))


# --- new data ----------------------------------------------------------------------------------

MODELS = [
    ("y ~ x + (x|g)", {}),
    ("y ~ center(x)*a + u + C(k) + (center(z) + a|g/k)", {}),
    ("log(x) ~ bs(z, df=4) + C(a, Sum) + (1|C(k)) + (1|k % 2)", {}),
    ("y ~ b", {"groups": "g", "re_formula": "~x"}),
    ("y ~ b", {"groups": DATA["g"], "re_formula": "~x"}),
    ("y ~ 1", {"groups": "g", "vc_formula": {"v": "0 + C(a):x", "w": "0 + u", "i": "1"}}),
    ("y ~ 1", {"groups": "g", "vc_formula": {"v": "center(x) + a", "w": "u"}}),
    ("y ~ 0 + offset(x) + (1|g)", {"offset": "w"}),
]


@pytest.mark.parametrize(("formula", "arguments"), MODELS)
@pytest.mark.parametrize("pickled", [False, True])
def test_training_data_again(formula, arguments, pickled):
    result = built(formula, **arguments)
    spec = pickle.loads(pickle.dumps(result.spec)) if pickled else result.spec
    columns = [name for name in DATA if name != "y"]
    new = spec.evaluate(DATA[columns])
    np.testing.assert_array_equal(new.X, result.design.X)
    np.testing.assert_array_equal(new.Z.toarray(), result.design.Z.toarray())
    if result.design.offset is not None:
        np.testing.assert_array_equal(new.offset, result.design.offset)
    some = np.array([5, 3, 30])  # stateful transforms must not look at the new rows
    part = spec.evaluate(DATA[columns].iloc[some])
    np.testing.assert_array_equal(part.X, result.design.X[some])
    np.testing.assert_array_equal(part.Z.toarray(), result.design.Z.toarray()[some])
    assert part.row_labels.equals(DATA.index[some])


def test_unseen_levels_belong_to_none():
    result = built("y ~ x + (x|g/a)")
    new = pd.DataFrame(
        {
            "x": [1.0, 2.0, 3.0, 4.0],
            "g": ["q", "new", None, "q"],
            "a": ["new", "one", "one", a[g == "q"][0]],
        }
    )
    nested, outer = result.spec.evaluate(new).terms
    assert outer.codes.tolist() == [2, -1, -1, 2]
    np.testing.assert_array_equal(nested.codes >= 0, [False, False, False, True])
    assert result.spec.evaluate(new).Z.shape == (4, result.design.q)


@pytest.mark.parametrize("vc", ["0 + C(a)", "0 + C(a) + x"])
def test_unseen_labels_of_a_component(vc):
    result = built("y ~ 1", groups="g", vc_formula={"v": vc})
    new = pd.DataFrame({"x": [1.0, 1.0], "g": ["new", "q"], "a": ["one", "new"]})
    assert result.spec.evaluate(new).Z.nnz == 0


def test_missing_values_in_new_data_stay_missing():
    result = built("y ~ x + a + (1|g)")
    new = DATA.iloc[:4].reset_index(drop=True).astype({"a": object})
    new.loc[0, "x"] = np.nan
    new.loc[2, "a"] = None
    X = result.spec.evaluate(new, random=False).X
    np.testing.assert_array_equal(np.isnan(X).any(axis=1), [True, False, True, False])


def test_fixed_part_alone_needs_its_columns_alone():
    result = built("y ~ x + (z|g)", groups="a", vc_formula={"v": "0 + C(k)"})
    new = result.spec.evaluate(DATA[["x"]], random=False)
    np.testing.assert_array_equal(new.X, result.design.X)
    assert new.terms == ()
    with pytest.raises(FormulaError, match=r"'z'.*not a column"):
        result.spec.evaluate(DATA[["x", "a", "k", "g"]])


NEW_ERRORS = [
    ("y ~ a + (1|g)", {}, {"a": "four"}, {}, DataError, "label the fit has not seen: 'four'"),
    ("y ~ C(k) + (1|g)", {}, {"k": 99}, {}, DataError, "99"),
    ("y ~ x", {"groups": g}, {}, {}, DataError, "pass groups="),
    ("y ~ x", {"groups": DATA["g"] + "!"}, {}, {}, DataError, "pass groups="),
    ("y ~ x", {"groups": g}, {}, {"groups": ["q"]}, DataError, "groups has 1 rows"),
    ("y ~ x + (1|g)", {"offset": x}, {}, {}, DataError, "pass offset="),
    ("y ~ x", {"z_terms": {"m": np.eye(N)}}, {}, {}, DataError, "'m' is a matrix of z_terms"),
    (
        "y ~ x",
        {"z_terms": {"m": np.eye(N)}},
        {},
        {"z_terms": {"m": np.eye(3)}},
        DataError,
        "rows but",
    ),
]


@pytest.mark.parametrize(("formula", "arguments", "columns", "anew", "kind", "message"), NEW_ERRORS)
def test_new_data_errors(formula, arguments, columns, anew, kind, message):
    spec = built(formula, **arguments).spec
    with pytest.raises(kind, match=message):
        spec.evaluate(DATA.assign(**columns), **anew)


def test_array_models_on_new_arrays():
    X = np.column_stack([ONE, x])
    names = ["one", "x"]
    spec = vc_spec(per_group_columns("0 + C(k)", DATA, g))
    Z = sp.csr_array(np.outer(x > 1, [1.0, 2.0, 0.0]))
    result = from_arrays(
        DATA["y"],
        pd.DataFrame(X, DATA.index, names),
        g,
        exog_re=X,
        exog_vc=spec,
        z_terms={"m": Z},
        offset=z,
    )
    new = result.spec.evaluate(
        pd.DataFrame(X[:, ::-1], columns=names[::-1]),
        groups=g,
        exog_re=X,
        exog_vc=spec,
        z_terms={"m": Z},
        offset=z,
    )
    np.testing.assert_array_equal(new.X, X)
    np.testing.assert_array_equal(new.Z.toarray(), result.design.Z.toarray())
    for missing in ("groups", "exog_re", "exog_vc", "z_terms", "offset"):
        given = {"groups": g, "exog_re": X, "exog_vc": spec, "z_terms": {"m": Z}, "offset": z}
        del given[missing]
        with pytest.raises(DataError, match=missing):
            result.spec.evaluate(X, **given)


def test_a_local_function_that_was_not_saved():
    def twice(values):
        return 2 * values

    spec = pickle.loads(pickle.dumps(built("y ~ twice(x) + (1|g)", env=capture_env()).spec))
    assert twice(1) == 2
    with pytest.raises(FormulaError, match="'twice', a local function"):
        spec.evaluate(DATA)


# --- properties --------------------------------------------------------------------------------


@examples(25)
@given(st.permutations(range(N)))
def test_rows_in_any_order(order):
    formula, vc = "y ~ x + (x|g/a) + (1|big)", {"v": "0 + C(k)", "w": "a + x"}
    first = built(formula, groups="u", vc_formula=vc).design
    other = built(formula, DATA.iloc[list(order)], groups="u", vc_formula=vc).design
    np.testing.assert_allclose(other.Z.toarray(), first.Z.toarray()[order], atol=1e-14)
    np.testing.assert_array_equal(other.X, first.X[order])
    assert [t.name for t in other.terms] == [t.name for t in first.terms]


@examples(25)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(-5, 5)), min_size=20),
    st.integers(0, 10),
)
def test_row_sums(rows, shift):
    data = pd.DataFrame(rows, columns=["g", "h", "x"])
    data = pd.concat([data, data.assign(g=9, h=8)])  # twice every row, at least two levels
    data["y"] = np.arange(len(data)) + shift
    Z = built("y ~ (x|g) + (1|h) + (0 + x|h)", data).design.Z
    np.testing.assert_allclose(Z.sum(axis=1), 2 + 2 * data["x"], atol=1e-12)


# --- size --------------------------------------------------------------------------------------


def peak_of(formula, data, **kwargs):
    tracemalloc.start()
    design = built(formula, data, **kwargs).design
    Z = design.Z
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert Z.indices.dtype == np.int32
    assert all(term.codes.dtype == np.int32 for term in design.terms)
    return peak, Z.data.nbytes + Z.indices.nbytes + Z.indptr.nbytes


BIG = [
    ("y ~ x + (1|g1) + (1|g2)", {}),
    ("y ~ x", {"groups": "g1", "re_formula": "1", "vc_formula": {"c": "0 + C(g2)"}}),
]


@pytest.mark.parametrize(("formula", "arguments"), BIG)
def test_memory_of_a_million_rows(formula, arguments):
    """Three times Z plus the data: a dense dummy matrix of 40,000 columns would need 320 GB."""
    n, rng = 1_000_000, np.random.default_rng(0)
    g1 = np.arange(n) % 100_000
    data = pd.DataFrame({"y": rng.normal(size=n), "x": rng.normal(size=n), "g1": g1})
    data["g2"] = rng.integers(0, 40_000, n)
    peak, z_bytes = peak_of(formula, data, **arguments)
    assert peak < 3 * z_bytes + data.memory_usage().sum()
