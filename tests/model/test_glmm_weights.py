"""Rows of weight zero are as good as left out, whatever their response; other bad input by name."""

import numpy as np
import pandas as pd
import pytest

from sparselmm import FormulaError, mixedglm

pytestmark = pytest.mark.filterwarnings("ignore::sparselmm.BoundaryWarning")

RESPONSES = {
    "binomial": lambda r, eta: r.binomial(6, 1 / (1 + np.exp(-eta))),
    "betabinomial": lambda r, eta: r.binomial(6, r.beta(3, 2, len(eta))),
    "beta": lambda r, eta: r.beta(2 * np.exp(eta / 2), 2),
    "poisson": lambda r, eta: r.poisson(np.exp(eta)),
    "nbinom1": lambda r, eta: r.poisson(np.exp(eta) * r.gamma(2, 0.5, len(eta))),
    "nbinom2": lambda r, eta: r.poisson(np.exp(eta) * r.gamma(2, 0.5, len(eta))),
    "gamma": lambda r, eta: np.exp(eta) * r.gamma(4, 0.25, len(eta)),
    "inverse_gaussian": lambda r, eta: r.wald(np.exp(eta), 4.0),
    "gaussian": lambda r, eta: eta + r.normal(size=len(eta)),
    "ordinal": lambda r, eta: np.digitize(eta + r.logistic(size=len(eta)), [-1, 0.5]),
}


def rows(family):
    """Data whose last forty rows do not count, of levels and responses like no others."""
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({"g": np.repeat(np.arange(25), 10), "x": rng.normal(size=250)})
    eta = 0.3 + 0.4 * frame.x + 0.6 * rng.normal(size=25)[frame.g]
    frame["y"] = RESPONSES[family](rng, eta.to_numpy())
    frame["m"] = 6
    frame["w"] = np.where(np.arange(250) < 210, rng.integers(1, 3, 250), 0)
    frame.loc[frame.w == 0, "x"] = 40.0
    return frame


def arguments(family, frame):
    """The formula and what goes with it; trials are the weights of proportions."""
    if family in ("binomial", "betabinomial"):
        return "p ~ x + (1 | g)", frame.assign(p=frame.y / 6, w=np.where(frame.w > 0, 6, 0))
    return "y ~ x + (1 | g)", frame


@pytest.mark.parametrize("family", RESPONSES)
def test_rows_of_weight_zero_do_not_count(family):
    formula, frame = arguments(family, rows(family))
    fit = mixedglm(formula, frame, family=family, weights="w").fit()
    rest = mixedglm(formula, frame[frame.w > 0], family=family, weights="w").fit()
    assert fit.llf == pytest.approx(rest.llf, abs=1e-6)
    assert fit.nobs == rest.nobs == 210
    np.testing.assert_allclose(fit.params, rest.params, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fit.bse, rest.bse, rtol=1e-4)
    assert fit.bic == pytest.approx(rest.bic, abs=1e-5)


@pytest.mark.parametrize("zeros", [{"zi": "~ 1"}, {"hurdle": "~ x"}])
def test_rows_of_weight_zero_with_zeros(zeros):
    frame = rows("poisson")
    fit = mixedglm("y ~ x + (1 | g)", frame, family="poisson", weights="w", **zeros).fit()
    rest = mixedglm(
        "y ~ x + (1 | g)", frame[frame.w > 0], family="poisson", weights="w", **zeros
    ).fit()
    assert fit.llf == pytest.approx(rest.llf, abs=1e-6)


@pytest.mark.parametrize("family", ["poisson", "gamma", "beta", "nbinom2", "inverse_gaussian"])
def test_responses_of_weight_zero_may_be_impossible(family):
    frame = rows(family)
    frame["y"] = np.where(frame.w > 0, frame.y, -3.5)
    fit = mixedglm("y ~ x + (1 | g)", frame, family=family, weights="w").fit()
    rest = mixedglm("y ~ x + (1 | g)", frame[frame.w > 0], family=family, weights="w").fit()
    assert fit.llf == pytest.approx(rest.llf, abs=1e-6)


def test_weights_count_rows():
    """Two of a row are the row twice."""
    frame = rows("gamma").query("w > 0")
    twice = frame.loc[frame.index.repeat(frame.w)]
    fit = mixedglm("y ~ x + (1 | g)", frame, family="gamma", weights="w").fit()
    assert fit.llf == pytest.approx(
        mixedglm("y ~ x + (1 | g)", twice, family="gamma").fit().llf, abs=1e-6
    )


def test_an_offset_that_new_data_lack():
    frame = rows("poisson").assign(o=0.1)
    fit = mixedglm("y ~ x + (1 | g)", frame, family="poisson", offset="o").fit()
    with pytest.raises(FormulaError, match="'o', used in offset=, in the new data"):
        fit.predict(frame.drop(columns="o"))
