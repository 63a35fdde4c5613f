"""Inputs that no other table of wrong ones has: each is an error of ours, or the right number."""

import numpy as np
import pandas as pd
import pytest
from sparselmm.exceptions import SparseLMMError

import sparselmm

N = 60


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"x": rng.normal(size=N), "g": np.arange(N) % 10, "h": np.arange(N) % 6})
    data["f"] = np.array(list("abc"))[data.index % 3]
    data["y"] = rng.normal(size=N) + rng.normal(size=10)[data.g]
    data["k"] = rng.poisson(2.0, size=N)
    return data


@pytest.fixture(scope="module")
def counts(data):
    return sparselmm.mixedglm("k ~ x + f + (1 | g)", data, family="poisson").fit()


NAMES = [
    "größe",
    "True",
    "None",
    "np",
    "C",
    "_",
    "1",
    "",
    "I",
    "C(x)",
    "x:z",
    "log",
    "a b",
    "class",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_by_quoting(data, name):
    expected = sparselmm.mixedlm("y ~ x + (1 | g)", data).fit()
    renamed = data.rename(columns={"x": name})
    fit = sparselmm.mixedlm(f"y ~ Q({name!r}) + (1 | g)", renamed).fit()
    np.testing.assert_allclose(fit.fe_params, expected.fe_params)
    np.testing.assert_allclose(fit.predict(renamed.iloc[:5]), expected.predict(data.iloc[:5]))


FRAMES = [
    ("columns of several levels", lambda d: pd.concat({"a": d}, axis=1)),
    ("the same column twice", lambda d: pd.concat([d, d[["x"]]], axis=1)),
    ("no rows", lambda d: d.iloc[:0]),
    ("one row", lambda d: d.iloc[:1]),
    ("one group", lambda d: d.assign(g=1)),
    ("all missing", lambda d: d.assign(x=np.nan)),
    ("all missing groups", lambda d: d.assign(g=None)),
    ("infinite", lambda d: d.assign(x=np.where(d.index == 3, np.inf, d.x))),
    ("a list in each row", lambda d: d.assign(g=[[v] for v in d.g])),
    ("complex", lambda d: d.assign(x=d.x.astype(complex))),
]


MODELS = [
    lambda d: sparselmm.mixedlm("y ~ x + (1 | g)", d).fit(),
    lambda d: sparselmm.mixedglm("k ~ x + (1 | g)", d, family="poisson").fit(),
]


@pytest.mark.parametrize("make", [m for _, m in FRAMES], ids=[n for n, _ in FRAMES])
@pytest.mark.parametrize("model", MODELS, ids=["linear", "poisson"])
def test_frames(data, make, model):
    odd = make(data)
    with pytest.raises(SparseLMMError):
        model(odd)


def test_random_effects_of_no_columns(data):
    X = np.column_stack([np.ones(N), data.x])
    with pytest.raises(sparselmm.DataError, match="exog_re has no columns"):
        sparselmm.MixedLM(data.y.to_numpy(), X, groups=data.g, exog_re=X[:, :0])


@pytest.mark.parametrize("seed", [-1, "a", 1.5, True])
def test_seeds_of_generalized_models(counts, seed):
    for draw in (counts.simulate, counts.bootstrap):
        with pytest.raises(SparseLMMError, match="seed"):
            draw(2, seed=seed)
    first, again = (counts.simulate(2, seed=7) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)


def test_means_at_infinity(data, counts):
    for fit in (sparselmm.mixedlm("y ~ x + f + (1 | g)", data).fit(), counts):
        with pytest.raises(SparseLMMError, match=r"at\['x'\] has an infinite value"):
            fit.emmeans("f", at={"x": np.inf})


def test_infinite_values_of_new_data(data, counts):
    new = data.head(4).assign(x=[0.0, np.inf, np.nan, 1.0])
    fit = sparselmm.mixedlm("y ~ x + (0 + np.exp(x) | g)", data).fit()
    arrays = sparselmm.MixedLM(data.y, data[["x"]].to_numpy(), groups=data.g).fit()
    for call in (
        lambda: fit.predict(new), lambda: fit.predict(new, re=True), lambda: counts.predict(new),
        lambda: fit.get_prediction(new), lambda: fit.simulate(1, newdata=new),
        lambda: arrays.predict(new[["x"]].to_numpy()),
    ):  # fmt: skip
        with pytest.raises(SparseLMMError, match="1 infinite value"):
            call()
    slope = sparselmm.mixedlm("y ~ f + (0 + x | g)", data).fit()
    with pytest.raises(SparseLMMError, match="term 'g': column 'x' has 1 infinite"):
        slope.predict(new, re=True)
    assert np.isfinite(slope.predict(new)).all()
