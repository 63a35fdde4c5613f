"""Comparisons of missing values are missing: they are neither True nor False."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sparselmm.exceptions import MissingDataError

import sparselmm
from sparselmm.design import from_formula

N = 40


def data(dtype="float64"):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "y": rng.normal(size=N),
            "x": pd.Series(rng.integers(-9, 9, N)).astype(dtype),
            "s": rng.choice(["u", "v"], N),
            "b": rng.random(N) > 0.5,
            "g": np.arange(N) % 5,
        }
    )
    holes = frame.copy()
    holes["b"] = holes.b.astype(object)
    holes.loc[[3, 17], ["x", "s", "b"]] = None
    return frame, holes


EXPRESSIONS = [
    "I(x > 0)",
    "C(x > 0)",
    "factor(x <= 0)",
    "I(1 * (x > 0))",
    "I((x > 0) & (s == 'u'))",
    "I((x > 0) | ~(s == 'u'))",
    "np.where(x > 0, x, 0)",
    "np.where(s != 'u', 'other', 'u')",
    "np.where(b, 1, 0)",
    "np.where(np.asarray(x) > 2, 'high', 'low')",
    "I(s == 'u')",
    "I(x.gt(0))",
    "I(x.between(-3, 3))",
    "np.less(x, 2)",
]


@pytest.mark.parametrize("code", EXPRESSIONS)
@pytest.mark.parametrize("dtype", ["float64", "Float64", "object"])
def test_expressions_of_missing_values_are_missing(code, dtype):
    frame, holes = data(dtype)
    text = f"y ~ {code} + (1 | g)"
    built = from_formula(text, frame)
    with pytest.raises(MissingDataError, match=r"column '[xsb]' has 2 missing value\(s\)"):
        from_formula(text, holes)
    whole, new = built.spec.evaluate(frame), built.spec.evaluate(holes)
    absent = np.isnan(new.X).any(axis=1)
    assert np.flatnonzero(absent).tolist() == [3, 17]
    np.testing.assert_array_equal(new.X[~absent], whole.X[~absent])
    np.testing.assert_array_equal(whole.X, built.design.X)


@pytest.mark.parametrize("code", [c for c in EXPRESSIONS if c != "np.where(x > 0, x, 0)"])
def test_groups_made_of_missing_values_are_missing(code):
    frame, holes = data()
    built = from_formula(f"y ~ 1 + (1 | {code})", frame)
    with pytest.raises(MissingDataError, match=r"has 2 missing value\(s\), the first at row 3"):
        from_formula(f"y ~ 1 + (1 | {code})", holes)
    codes = built.spec.evaluate(holes).terms[0].codes
    assert np.flatnonzero(codes < 0).tolist() == [3, 17]
    kept = codes >= 0
    np.testing.assert_array_equal(codes[kept], built.design.terms[0].codes[kept])


def test_missing_values_that_an_expression_fills_in_are_filled():
    _, holes = data()
    built = from_formula("y ~ I(x.fillna(0) > 0) + np.where(np.isnan(x), 1, 0) + (1 | g)", holes)
    assert built.design.X[[3, 17], 1].tolist() == [0.0, 0.0]
    assert np.flatnonzero(built.design.X[:, 2]).tolist() == [3, 17]


def test_new_groups_of_an_interaction_are_new_levels():
    frame, _ = data()
    for code in ("interaction(s, g)", "relevel(s, ref='v')"):
        spec = from_formula(f"y ~ 1 + (1 | {code})", frame).spec
        codes = spec.evaluate(frame.assign(s=["new", *frame.s[1:]])).terms[0].codes
        assert (codes < 0).tolist() == [True] + [False] * (N - 1)


def test_booleans_are_booleans_beside_any_sign_for_a_missing_one():
    frame, _ = data()
    signs = [None, np.nan, pd.NA, pd.NaT]
    frame["b"] = [*signs, *frame.b[len(signs) :]]
    for text in ("y ~ b + (1 | g)", "y ~ 1 + (1 | b)"):
        model = sparselmm.mixedlm(text, frame, missing="drop")
        assert model.built.n == N - len(signs)
        again = model.built.spec.evaluate(frame)
        np.testing.assert_array_equal(again.X[len(signs) :], model.built.design.X)
