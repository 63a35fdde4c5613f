"""Fits with closed forms: balanced analysis of variance (Searle et al. 1992, chapter 4)."""

import numpy as np
import pandas as pd
import pytest

import sparselmm

LAYOUTS = ("positive", "zero")
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
both = pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])


def table(y, *names):
    """A full array of responses as a data frame, one factor per axis but the last."""
    codes = np.indices(y.shape).reshape(y.ndim, -1)
    columns = {name: code for name, code in zip(names, codes, strict=False)}
    return pd.DataFrame({"y": y.ravel(), **columns})


def fit(formula, data, zero, **arguments):
    """Fit; a variance that comes out as zero must be announced."""
    model = sparselmm.MixedLM.from_formula(formula, data)
    if not zero:
        return model.fit(**arguments)
    with pytest.warns(sparselmm.SingularMatrixWarning):
        return model.fit(**arguments)


def variances(result):
    """Variances by factor, and the residual variance."""
    table = result.varcorr
    return dict(zip(table["grp"], table["vcov"], strict=True)) | {"scale": result.scale}


@every_layout
@both
def test_one_way(layout, reml):
    a, m = 10, 6
    rng = np.random.default_rng(1)
    y = rng.normal(size=(a, 1)) * 1.3 + rng.normal(size=(a, m)) + 5.0
    if layout == "zero":  # between groups less than within would give
        y -= 0.9 * (y.mean(axis=1, keepdims=True) - y.mean())
    sse = ((y - y.mean(axis=1, keepdims=True)) ** 2).sum()
    ssa = m * ((y.mean(axis=1) - y.mean()) ** 2).sum()
    df = a - 1 if reml else a  # what ssa is divided by
    within, between = sse / (a * (m - 1)), ssa / df
    assert (between > within) == (layout == "positive")
    if layout == "zero":
        within = between = (sse + ssa) / (a * (m - 1) + df)
    result = fit("y ~ 1 + (1 | g)", table(y, "g"), layout == "zero", reml=reml)
    # theta stops within 3e-5 of its standard error, which is about half of theta
    assert result.scale == pytest.approx(within, rel=1e-5)
    assert result.cov_re.iloc[0, 0] == pytest.approx((between - within) / m, rel=1e-4, abs=0)
    assert result.fe_params["Intercept"] == pytest.approx(y.mean(), rel=1e-12)
    assert result.bse_fe["Intercept"] == pytest.approx(np.sqrt(between / (a * m)), rel=1e-5)
    deviance = a * (m - 1) * np.log(within) + df * np.log(between) + sse / within + ssa / between
    deviance += (a * (m - 1) + df) * np.log(2 * np.pi) + (np.log(a * m) if reml else 0.0)
    assert -2 * result.llf == pytest.approx(deviance, abs=1e-8)
    # best linear unbiased predictions shrink the deviations of group means
    shrink = 1 - within / between
    expected = shrink * (y.mean(axis=1) - y.mean())
    np.testing.assert_allclose(result.b, expected, rtol=0, atol=1e-4 * np.sqrt(between / m))


@every_layout
def test_two_way(layout):
    a, b = 12, 9
    rng = np.random.default_rng(2)
    y = rng.normal(size=(a, 1)) + 0.8 * rng.normal(size=(1, b)) + rng.normal(size=(a, b))
    if layout == "zero":
        y -= 0.95 * (y.mean(axis=1, keepdims=True) - y.mean())
    rows, cols = y.mean(axis=1) - y.mean(), y.mean(axis=0) - y.mean()
    sse = ((y - y.mean() - rows[:, None] - cols) ** 2).sum()
    df = (a - 1) * (b - 1)
    msa, msb = b * (rows**2).sum() / (a - 1), a * (cols**2).sum() / (b - 1)
    mse = sse / df
    assert (msa > mse) == (layout == "positive")
    if layout == "zero":
        mse = msa = (sse + b * (rows**2).sum()) / (df + a - 1)
    assert msb > mse
    data = table(y, "r", "c")
    result = fit("y ~ 1 + (1 | r) + (1 | c)", data, layout == "zero")
    expected = {"r": (msa - mse) / b, "c": (msb - mse) / a, "scale": mse}
    found = variances(result)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=0), name
    assert result.bse_fe["Intercept"] ** 2 == pytest.approx((msa + msb - mse) / (a * b), rel=1e-4)


@every_layout
@pytest.mark.parametrize("formula", ["y ~ 1 + (1 | a/b)", "y ~ 1 + (1 | a) + (1 | a:b)"])
def test_nested(layout, formula):
    a, b, m = 9, 4, 3
    rng = np.random.default_rng(3)
    y = rng.normal(size=(a, 1, 1)) + rng.normal(size=(a, b, 1)) + rng.normal(size=(a, b, m))
    if layout == "zero":  # no variance between the b within an a
        y -= 0.95 * (y.mean(axis=2) - y.mean(axis=(1, 2))[:, None])[:, :, None]
    cells, groups = y.mean(axis=2), y.mean(axis=(1, 2))
    sse = ((y - cells[:, :, None]) ** 2).sum()
    ssb = m * ((cells - groups[:, None]) ** 2).sum()
    msa = b * m * groups.var(ddof=1)
    mse, msb = sse / (a * b * (m - 1)), ssb / (a * (b - 1))
    assert (msb > mse) == (layout == "positive")
    if layout == "zero":
        mse = msb = (sse + ssb) / (a * b * (m - 1) + a * (b - 1))
    assert msa > msb
    result = fit(formula, table(y, "a", "b"), layout == "zero")
    found = variances(result)
    inner = next(name for name in found if ":" in name)
    assert found["scale"] == pytest.approx(mse, rel=1e-5)
    assert found[inner] == pytest.approx((msb - mse) / m, rel=1e-4, abs=0)
    assert found["a"] == pytest.approx((msa - msb) / (b * m), rel=1e-4)
    assert result.bse_fe["Intercept"] ** 2 == pytest.approx(msa / (a * b * m), rel=1e-4)
