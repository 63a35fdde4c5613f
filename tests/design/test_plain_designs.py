"""Designs of plain columns in blocks of rows against patsy's."""

import warnings

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

    def patsys(*arguments):
        return None

    designs = []
    for function, rows in (patsys, 10**9), (spy, 7), (spy, 10**9):
        monkeypatch.setattr("sparselmm.design.formula.namespace.plain_design", function)
        monkeypatch.setattr(plain_designs, "BLOCK_ROWS", rows)
        designs.append(sparselmm.MixedLM.from_formula(f"y ~ {formula} + (1 | g)", DATA))
    theirs, *ours = designs
    for one in ours:
        assert one.exog_names == theirs.exog_names
        np.testing.assert_array_equal(one.exog, theirs.exog)
    assert made == [formula in PLAIN] * 2


def test_what_is_learned_goes_by_types_and_labels():
    """1, 1.0 and True are equal; a design of one is none of another."""
    y, g = [1.0, 3.0, 2.0, 5.0, 4.0, 7.0] * 2, list("aabbccaabbcc")
    names = []
    for values in ([1, 0], [1.0, 0.0], ["1", "0"], [True, False]):
        data = pd.DataFrame({"y": y, "g": g, "f": pd.Categorical(values * 6)})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(2):
                names.append(sparselmm.mixedlm("y ~ f + (1 | g)", data).exog_names[1])
    assert names == ["f[T.1]"] * 2 + ["f[T.1.0]"] * 2 + ["f[T.1]"] * 2 + ["f[T.True]"] * 2


@pytest.mark.parametrize("column", ["x", "a"])
def test_missing_values_are_found(column, monkeypatch):
    monkeypatch.setattr(plain_designs, "BLOCK_ROWS", 7)
    holes = DATA.copy()
    holes.loc[11, column] = None
    with pytest.raises(sparselmm.MissingDataError, match=f"column '{column}' has 1 missing"):
        sparselmm.MixedLM.from_formula("y ~ x + a + (1 | g)", holes)
    model = sparselmm.MixedLM.from_formula("y ~ x + a + (1 | g)", holes, missing="drop")
    assert len(model.exog) == N - 1
