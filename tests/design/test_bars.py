"""Formulas as text."""

import pytest

from sparselmm.base.exceptions import FormulaError
from sparselmm.design.formula.bars import parse_formula, parse_one_sided

FIXED = [
    ("y ~ x", "x"),
    ("y ~ (1|g)", "1"),
    ("y ~ 0 + (1|g)", "0"),
    ("y ~ x - 1 + (1|g)", "x - 1"),
    ("y ~ (1|g) + x:z", "x:z"),
    ("y ~ -1 + x + (1|g)", "- 1 + x"),
    ("y ~ x^2 + I(x^2) + (1|g)", "x**2 + I(x**2)"),
    ("y ~ x**-1 + (1|g) + z", "x**-1 + z"),
    ("y ~ x*(z + w) + (1|g)", "x*(z+w)"),
    ("y ~ I(a|b) + (1|g)", "I(a|b)"),
    ("y ~ np.where((a|b)[0], 1, 2)", "np.where((a|b)[0], 1, 2)"),
    ('y ~ Q("a | b ~ (1|g)") + (1|g)', 'Q("a | b ~ (1|g)")'),
    ("y ~\n  x +\n  (1|g)", "x"),
]


@pytest.mark.parametrize(("text", "fixed"), FIXED)
def test_fixed_part(text, fixed):
    assert parse_formula(text).fixed == fixed


# Names and order are those of lme4 1.1-31.
GROUPINGS = [
    ("(1|a)", ["a"], [("a",)]),
    ("(1 | a:b)", ["a:b"], [("a", "b")]),
    ("(1|a/b)", ["b:a", "a"], [("b", "a"), ("a",)]),
    ("(1|a/b/c)", ["c:(b:a)", "b:a", "a"], [("c", "b", "a"), ("b", "a"), ("a",)]),
    ("(1|a/b:f)", ["b:f:a", "a"], [("b", "f", "a"), ("a",)]),
    ("(1|a/(b:f))", ["b:f:a", "a"], [("b", "f", "a"), ("a",)]),
    ("(1|(a:b))", ["a:b"], [("a", "b")]),
    ("(1|factor(a))", ["factor(a)"], [("factor(a)",)]),
    ('(1|Q("a b"))', ['Q("a b")'], [('Q("a b")',)]),
    ("((1|a))", ["a"], [("a",)]),
    ("(1|class)", ["class"], [('Q(r"class")',)]),
    ("(1|a/class)", ["class:a", "a"], [('Q(r"class")', "a"), ("a",)]),
]


@pytest.mark.parametrize(("bar", "names", "groupings"), GROUPINGS)
def test_groupings(bar, names, groupings):
    (parsed,) = parse_formula(f"y ~ x + {bar}").bars
    assert (list(parsed.names), list(parsed.groupings)) == (names, groupings)
    assert parsed.effects == "1"


def test_effects_and_double_bar():
    bars = parse_formula("y ~ (np.log(x) + z||g) + ((x - 1|a) + (f|b))").bars
    assert [bar.effects for bar in bars] == ["np.log(x)+z", "x-1", "f"]
    assert [bar.double for bar in bars] == [True, False, False]


def test_response_and_offsets():
    parsed = parse_formula("log(y) ~ offset(log(t)) + x + offset(w)")
    assert (parsed.response, parsed.fixed, parsed.offsets) == ("log(y)", "x", ("log(t)", "w"))


ERRORS = [
    ("", "the formula is empty"),
    ("y", "no '~'"),
    ("~ x", "no response before '~'"),
    ("y ~", "nothing after '~'"),
    ("y ~ x ~ z", "more than one '~'"),
    ("y ~ x + 1|g", r"write the random effects as '\.\.\. \+ \(1\|g\)'"),
    ("y ~ 1 | g", r"\(1\|g\)"),
    ("y | x ~ z", "before '~'"),
    ("y ~ x + (|g)", r"nothing before the bar; write \(1\|g\)"),
    ("y ~ x + (1|)", "no grouping factor after the bar"),
    ("y ~ (1|a|b)", "more than one '|'"),
    ("y ~ (1|a - b)", r"\(1\|a\) \+ \(1\|b\)"),
    ("y ~ (1|a*b/c)", r"\(1\|a:b\)"),
    ("y ~ (1|a/)", "grouping factor is missing"),
    ("y ~ (1|a/(b/c))", "not one factor"),
    ("y ~ (x|a)*f", "part of a larger term"),
    ("y ~ f:(1|a)", "part of a larger term"),
    ("y ~ x - (1|a)", "cannot be subtracted"),
    ("y ~ x - offset(z)", "cannot be subtracted"),
    ("y ~ x + + ", "operand is missing"),
    ("y ~ (x", r"'\)' is missing"),
    ("y ~ x)", r"unexpected '\)'"),
]


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_errors(text, message):
    with pytest.raises(FormulaError, match=message):
        parse_formula(text)


@pytest.mark.parametrize("text", [None, 3, ["y ~ x"]])
def test_not_a_string(text):
    with pytest.raises(FormulaError, match="must be a string"):
        parse_formula(text)
    with pytest.raises(FormulaError, match="must be a formula string"):
        parse_one_sided(text, "re_formula")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("y ~ x", "left side"),
        ("1 + (1|g)", "main formula"),
        ("1|g", "main formula"),
        ("~", "empty"),
    ],
)
def test_one_sided_errors(text, message):
    with pytest.raises(FormulaError, match=message):
        parse_one_sided(text, "re_formula")


@pytest.mark.parametrize("text", ["1 + x", "~1 + x", " ~ 1+x"])
def test_one_sided(text):
    assert parse_one_sided(text, "re_formula") == "1+x"


@pytest.mark.parametrize("effects", ["(1 | a)", "x + (1 | a)", "x * (1 | a)", "1 + (x | a):x"])
@pytest.mark.parametrize("wrap", ["({} | g)", "cs({} | g)", "({} || g)"])
def test_a_bar_within_a_bar_is_no_bitwise_or(effects, wrap):
    with pytest.raises(FormulaError, match="bar within a bar"):
        parse_formula(f"y ~ x + {wrap.format(effects)}")
    assert parse_formula("y ~ x + (I(a | b) | g)").bars[0].effects == "I(a|b)"


@pytest.mark.parametrize(
    "right", ["y", "x + y", "x:y", "x + (y | g)", "x + (1 | y)", "x + (1 | g/y)", "cs(0 + y | g)"]
)
def test_the_response_is_no_covariate(right):
    with pytest.raises(FormulaError, match=r"response 'y'.*explains exactly"):
        parse_formula(f"y ~ {right} + (1 | h)")
    assert parse_formula("y ~ lag(y) + yy + (1 | g)").fixed == "lag(y) + yy"
