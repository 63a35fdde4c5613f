"""What must not matter, and what must follow exactly, on random designs.

At a fixed theta an identity holds to rounding. Two fits of one model each end within TOLERANCE
of the minimum of the deviance, and within STOP standard errors of the estimates.
"""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from registry import Model, block, design, term

from sparselmm import MixedLM
from sparselmm.likelihood.optimize import TOLERANCE

pytestmark = [
    pytest.mark.filterwarnings("ignore::sparselmm.SingularMatrixWarning"),
    pytest.mark.filterwarnings("ignore::sparselmm.SpecificationWarning"),
]

few = settings(examples(15), derandomize=True)
many = settings(examples(60), derandomize=True)
seeds = st.integers(0, 2**32 - 1)

SAME = {"abs": 4.0 * TOLERANCE, "rel": 1e-12}


def data_of(seed):
    """Two crossed factors, g with more levels than h, and a covariate; ordinary effects."""
    rng = np.random.default_rng(seed)
    n, l, m = int(rng.integers(40, 80)), int(rng.integers(6, 10)), int(rng.integers(3, 6))
    g, h = rng.permutation(np.arange(n) % l), rng.permutation(np.arange(n) % m)
    x = rng.normal(size=n)
    y = 1.0 + 0.5 * x + rng.normal(size=l)[g] * (1 + 0.5 * x) + rng.normal(size=m)[h]
    return pd.DataFrame({"y": y + rng.normal(size=n), "x": x, "g": g, "h": h})


SLOPE = "y ~ x + (x | g) + (1 | h)"


def fit(formula, data, **arguments):
    reml = arguments.pop("reml", True)
    return MixedLM.from_formula(formula, data, **arguments).fit(reml=reml)


def same_fit(one, other):
    """Equal in every number that does not depend on the order of rows, levels or terms."""
    assert -2 * one.llf == pytest.approx(-2 * other.llf, **SAME)
    assert one.converged
    assert other.converged
    # Twice 3e-5 standard errors, which for sigma are below sigma / 8 with 40 rows and more.
    assert one.sigma == pytest.approx(other.sigma, rel=1e-5)
    error = np.abs(np.asarray(one.fe_params) - np.asarray(other.fe_params))
    assert (error < 1e-4 * np.asarray(other.bse_fe)).all()


# --------------------------------------------------------------------- engines, on anything


@st.composite
def random_models(draw):
    """Any mix of terms: levels without rows, rows without levels, weights zero, blocks."""
    rng = np.random.default_rng(draw(seeds))
    n, p = draw(st.integers(12, 50)), draw(st.integers(0, 3))
    terms = []
    for i in range(draw(st.integers(1, 4))):
        l = draw(st.integers(1, 9))
        kind = draw(st.sampled_from(["intercept", "slopes", "diagonal", "absent", "block"]))
        codes = rng.integers(-1 if kind == "absent" else 0, l, n)
        if kind == "block":
            terms.append(block(f"t{i}", sp.random_array((n, l), density=0.3, rng=rng)))
            continue
        k = 1 if kind == "intercept" else draw(st.integers(1, 3))
        values = None if kind == "intercept" else rng.normal(size=(n, k))
        structure = "diagonal" if kind == "diagonal" else "unstructured"
        terms.append(term(f"t{i}", codes, values, n_levels=l, structure=structure))
    weights = None
    if draw(st.booleans()):
        weights = rng.uniform(0.5, 2.0, n) * (rng.uniform(size=n) < 0.9)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])[:, :p]
    return Model(design(rng.normal(size=n), X, *terms, weights=weights))


@many
@given(model=random_models(), data=st.data())
def test_engines_agree_on_any_design(model, data):
    reml = data.draw(st.booleans())
    kind = data.draw(st.sampled_from(["interior", "random", "near"]))
    strategy = data.draw(st.sampled_from(model.strategies()))
    theta = model.theta(kind)
    sparse, dense = model.sparse(reml, strategy), model.dense(reml)
    a, b = sparse.at(theta), dense.at(theta)
    assert a.deviance == pytest.approx(b.deviance, rel=1e-10, abs=1e-8)
    np.testing.assert_allclose(a.b, b.b, rtol=0, atol=1e-9 * max(1.0, np.abs(b.b).max()))
    np.testing.assert_allclose(a.beta, b.beta, rtol=0, atol=1e-8)
    gradient = dense.gradient(theta)
    np.testing.assert_allclose(
        sparse.gradient(theta), gradient, rtol=0, atol=1e-8 * max(1.0, np.abs(gradient).max())
    )


# ------------------------------------------------------------------------------ invariances


@few
@given(seed=seeds)
def test_order_of_rows(seed):
    data = data_of(seed)
    shuffled = data.sample(frac=1.0, random_state=seed % 1000)
    one, other = fit(SLOPE, data), fit(SLOPE, shuffled)
    same_fit(one, other)
    theta = one.theta
    assert other.deviance.value(theta) == pytest.approx(-2 * one.llf, rel=1e-12)
    np.testing.assert_allclose(other.deviance.at(theta).b, one.b, atol=1e-10)
    np.testing.assert_allclose(other.fittedvalues[data.index], one.fittedvalues, atol=1e-3)


@few
@given(seed=seeds)
def test_names_of_groups(seed):
    data = data_of(seed)
    new = np.random.default_rng(seed).permutation(100)[: data.g.max() + 1]
    names = np.array([f"group {i}" for i in new])
    one, other = fit(SLOPE, data), fit(SLOPE, data.assign(g=names[data.g]))
    same_fit(one, other)
    labels = other.model.terms[0].levels.labels().tolist()
    at = [labels.index(name) for name in names]
    theta, l = one.theta, len(names)
    b = other.deviance.at(theta).b[: 2 * l].reshape(l, 2)[at]
    np.testing.assert_allclose(b.ravel(), one.b[: 2 * l], atol=1e-10)


@few
@given(seed=seeds, power=st.integers(-30, 30), shift=st.floats(-1e3, 1e3))
def test_unit_of_the_response(seed, power, shift):
    """y in other units: same theta, variances by the square; a constant moves the intercept."""
    data, unit = data_of(seed), 2.0**power
    one, other = fit(SLOPE, data), fit(SLOPE, data.assign(y=unit * (data.y + shift)))
    change = 2.0 * one.deviance.df * np.log(unit)
    assert -2 * other.llf - change == pytest.approx(-2 * one.llf, abs=4 * TOLERANCE, rel=1e-11)
    at = other.deviance.at(one.theta)
    assert at.scale == pytest.approx(unit**2 * one.scale, rel=1e-9)
    expected = unit * (np.asarray(one.fe_params) + np.array([shift, 0.0]))
    np.testing.assert_allclose(at.beta, expected, atol=1e-9 * unit * max(1.0, abs(shift)))
    np.testing.assert_allclose(at.b, unit * one.b, atol=1e-8 * unit * max(1.0, abs(shift) / 100))
    cov = unit**2 * one.cov_re
    np.testing.assert_allclose(other.cov_re, cov, rtol=0, atol=1e-3 * np.abs(cov).to_numpy().max())


@few
@given(seed=seeds, unit=st.floats(0.01, 100.0), origin=st.floats(-5.0, 5.0))
def test_unit_and_origin_of_a_covariate(seed, unit, origin):
    """With free intercepts, slopes and their covariance the model is the same."""
    data = data_of(seed)
    moved = data.assign(x=unit * data.x + origin)
    for reml in (True, False):
        one, other = fit(SLOPE, data, reml=reml), fit(SLOPE, moved, reml=reml)
        change = 2.0 * np.log(unit) if reml else 0.0  # log det X'V^-1X
        assert -2 * other.llf - change == pytest.approx(-2 * one.llf, abs=4 * TOLERANCE, rel=1e-11)
        # Psi of (intercept, slope) for the moved covariate, at one theta
        T = np.array([[1.0, -origin / unit], [0.0, 1.0 / unit]])
        lam = one.deviance.covariance.factors(one.theta)
        root = np.linalg.qr((T @ lam[0]).T, mode="r").T
        theta = other.deviance.covariance.pick([root, lam[1]])
        at = other.deviance.at(theta)
        assert at.deviance - change == pytest.approx(-2 * one.llf, rel=1e-10)
        np.testing.assert_allclose(at.beta, T @ one.fe_params, atol=1e-8 * np.abs(T).max())


@few
@given(
    seed=seeds, power=st.integers(-20, 20), log_origin=st.floats(5.0, 8.0), up=st.booleans(),
    reml=st.booleans(),
)  # fmt: skip
def test_far_origins_and_units_of_a_slope(seed, power, log_origin, up, reml):
    """x as microseconds, years or days since 1900: the same fit, standard errors in other units."""
    data, unit = data_of(seed), 2.0**power
    data = data.assign(x=np.round(64 * data.x) / 64)  # exact in every unit, at every origin
    origin = (1 if up else -1) * round(10.0**log_origin)
    moved = data.assign(x=unit * (data.x + origin))
    one, other = fit(SLOPE, data, reml=reml), fit(SLOPE, moved, reml=reml)
    assert one.converged
    assert other.converged
    change = 2.0 * np.log(unit) if reml else 0.0  # log det X'V^-1X
    loss = 4 * TOLERANCE + 1e-15 * abs(origin)  # what the product of X and its working basis loses
    assert -2 * other.llf - change == pytest.approx(-2 * one.llf, abs=loss, rel=1e-12)
    near = {"rel": 1e-5, "abs": 1e-5 * one.bse_fe["x"]}
    assert unit * other.fe_params["x"] == pytest.approx(one.fe_params["x"], **near)
    assert unit * other.bse_fe["x"] == pytest.approx(one.bse_fe["x"], rel=1e-4)
    size = max(one.cov_re.iloc[1, 1], 1e-2 * one.scale)
    assert unit**2 * other.cov_re.iloc[1, 1] == pytest.approx(
        one.cov_re.iloc[1, 1], abs=2e-3 * size
    )
    np.testing.assert_allclose(
        other.fittedvalues, one.fittedvalues, atol=1e-4 * one.sigma + 1e-14 * abs(origin)
    )


# ---------------------------------------------------------------------------------- weights


@few
@given(seed=seeds)
def test_rows_of_weight_zero_do_not_count(seed):
    """Whatever their response and covariate; they are predicted all the same."""
    data = data_of(seed).assign(w=1.0)
    rng = np.random.default_rng(seed)
    extra = data.sample(5, random_state=seed % 1000).assign(w=0.0, y=rng.normal(size=5) * 1e3)
    one = fit(SLOPE, data)
    other = fit(SLOPE, pd.concat([data, extra], ignore_index=True), weights="w")
    same_fit(one, other)
    assert other.nobs == one.nobs == len(data)
    assert other.deviance.value(one.theta) == pytest.approx(-2 * one.llf, rel=1e-12)
    assert len(other.fittedvalues) == len(data) + 5


@few
@given(seed=seeds)
def test_integer_weights_are_repeated_rows(seed):
    """In everything quadratic. The number of rows differs, and with it the deviance:

    both are log det M + [log det X'V^-1X] + df (1 + log(2 pi pwrss / df)), and the weighted
    one has df of the rows as they stand and sum(log w) less.
    """
    data = data_of(seed)
    w = np.random.default_rng(seed).integers(1, 4, len(data))
    repeated = data.loc[data.index.repeat(w)].reset_index(drop=True)
    theta = np.array([0.7, 0.2, 0.5, 0.9])
    for reml in (True, False):
        one = MixedLM.from_formula(SLOPE, data, weights=w).deviance(reml=reml)
        other = MixedLM.from_formula(SLOPE, repeated).deviance(reml=reml)
        a, b = one.at(theta), other.at(theta)
        assert a.pwrss == pytest.approx(b.pwrss, rel=1e-11)
        assert a.ldL2 == pytest.approx(b.ldL2, rel=1e-12)
        assert a.ldRX2 == pytest.approx(b.ldRX2, rel=1e-12)
        np.testing.assert_allclose(a.beta, b.beta, atol=1e-11)
        np.testing.assert_allclose(a.b, b.b, atol=1e-11)
        np.testing.assert_allclose(a.vcov_unscaled, b.vcov_unscaled, rtol=1e-10)
        assert b.df - a.df == w.sum() - len(data)

        def rows_part(pls):
            return pls.df * (1.0 + np.log(2.0 * np.pi * pls.pwrss / pls.df))

        difference = rows_part(a) - rows_part(b) - np.log(w).sum()
        assert a.deviance - b.deviance == pytest.approx(difference, abs=1e-9)


@few
@given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_common_factor_of_the_weights(seed, factor):
    """sigma^2 absorbs it: the same model with relative variances multiplied by the factor."""
    data = data_of(seed).assign(w=lambda d: 1.0 + (d.index % 3), v=lambda d: factor * d.w)
    one = fit(SLOPE, data, weights="w")
    other = MixedLM.from_formula(SLOPE, data, weights="v")
    at = other.deviance().at(one.theta / np.sqrt(factor))
    assert at.deviance == pytest.approx(-2 * one.llf, rel=1e-10)
    assert at.scale == pytest.approx(factor * one.scale, rel=1e-9)
    assert -2 * other.fit().llf == pytest.approx(-2 * one.llf, abs=4 * TOLERANCE, rel=1e-11)


# ------------------------------------------------------------------------ spellings, engines


def dummies(codes):
    return sp.csr_array(pd.get_dummies(codes).to_numpy(dtype=float))


@few
@given(seed=seeds)
def test_spellings_of_nested_intercepts(seed):
    data = data_of(seed)
    cell = data.groupby(["g", "h"]).ngroup()
    fits = [
        fit("y ~ x + (1 | g / h)", data),
        fit("y ~ x + (1 | g:h) + (1 | g)", data),
        fit("y ~ x", data, groups="g", re_formula="1", vc_formula={"h": "0 + C(h)"}),
        fit("y ~ x + (1 | g)", data, z_terms={"cell": dummies(cell)}),
    ]
    X = sm_design(data)
    z_terms = {"g": dummies(data.g), "cell": dummies(cell).toarray()}
    fits.append(MixedLM(data.y, X, z_terms=z_terms).fit())
    for other in fits[1:]:
        same_fit(fits[0], other)


@few
@given(seed=seeds)
def test_spellings_of_slopes(seed):
    data = data_of(seed)
    X = sm_design(data)
    fits = [
        fit("y ~ x + (x | g)", data),
        fit("y ~ x + (1 + x | g)", data),
        fit("y ~ x", data, groups="g", re_formula="x"),
        fit("y ~ x", data, groups=data.g.to_numpy(), re_formula="1 + x"),
        MixedLM(data.y, X, data.g, exog_re=X).fit(),
        MixedLM(data.y.to_numpy(), X.to_numpy(), data.g.to_numpy(), X.to_numpy()).fit(),
    ]
    for other in fits[1:]:  # the same columns in the same order: the same search to rounding
        assert other.llf == pytest.approx(fits[0].llf, rel=1e-13)
        np.testing.assert_allclose(other.theta, fits[0].theta, atol=1e-7)
        np.testing.assert_allclose(other.b, fits[0].b, atol=1e-7)
        assert other.opt.n_evaluations == fits[0].opt.n_evaluations


def sm_design(data):
    return pd.DataFrame({"Intercept": 1.0, "x": data.x})


@few
@given(seed=seeds)
def test_uncorrelated_slopes(seed):
    data = data_of(seed)
    vc = {"intercept": "1", "slope": "0 + x"}
    fits = [
        fit("y ~ x + (x || g)", data),
        fit("y ~ x + (1 | g) + (0 + x | g)", data),
        fit("y ~ x", data, groups="g", vc_formula=vc),
    ]
    for other in fits[1:]:
        same_fit(fits[0], other)
