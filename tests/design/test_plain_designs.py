"""Designs of plain columns in blocks of rows against patsy's."""

import numpy as np
import pandas as pd
import pytest

import sparselmm
from sparselmm.design.formula import plain_designs

rng = np.random.default_rng(1)
N = 60
DATA = pd.DataFrame(
    {
        "y": rng.normal(size=N),
        "x": rng.normal(size=N),
        "z": rng.integers(1, 9, N),
        "k": rng.integers(0, 3, N) * 10,
        "a": rng.choice(["low", "mid", "high"], N),
        "b": pd.Categorical(rng.choice(["u", "v"], N), ["w", "v", "u"]),
        "flag": rng.uniform(size=N) < 0.5,
        "odd name": rng.normal(size=N),
        "g": rng.integers(0, 6, N),
    }
)
PLAIN = ["x", "x + z", "a", "0 + a", "b", "a * b", "a:b", "a:x", "x:z", "a * b * x", "C(k)",
         "C(k, Sum)", "C(a, Poly):x", "0 + a:b + x:a", "Q('odd name') * a"]  # fmt: skip
PATSYS = ["np.log(z)", "flag", "center(x)", "I(x ** 2) + a", "C(k, levels=[20, 0, 10])"]


@pytest.mark.parametrize("formula", PLAIN + PATSYS)
def test_the_same_matrix(formula, monkeypatch):
    made = []

    def spy(*arguments):
        made.append(plain_designs.plain_design(*arguments) is not None)
        return plain_designs.plain_design(*arguments)

    monkeypatch.setattr("sparselmm.design.formula.namespace.plain_design", spy)
    designs = []
    for rows in 10**9, 7:
        monkeypatch.setattr(plain_designs, "BLOCK_ROWS", rows)
        designs.append(sparselmm.MixedLM.from_formula(f"y ~ {formula} + (1 | g)", DATA))
    theirs, ours = designs
    assert ours.exog_names == theirs.exog_names
    np.testing.assert_array_equal(ours.exog, theirs.exog)
    assert made == [False, formula in PLAIN]


@pytest.mark.parametrize("column", ["x", "a"])
def test_missing_values_are_found(column, monkeypatch):
    monkeypatch.setattr(plain_designs, "BLOCK_ROWS", 7)
    holes = DATA.copy()
    holes.loc[11, column] = None
    with pytest.raises(sparselmm.MissingDataError, match=f"column '{column}' has 1 missing"):
        sparselmm.MixedLM.from_formula("y ~ x + a + (1 | g)", holes)
    model = sparselmm.MixedLM.from_formula("y ~ x + a + (1 | g)", holes, missing="drop")
    assert len(model.exog) == N - 1
