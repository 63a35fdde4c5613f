"""Results of a fit without an exact factorization, against those of the exact engine."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from support.krylov_cases import CASES, scalar

import sparselmm
from sparselmm.base.exceptions import MonteCarloWarning, UnsupportedError
from sparselmm.model.mixedlm import MixedLM
from sparselmm.results.core import MixedLMResults
from sparselmm.results.krylov import EXACT, KrylovResults


@pytest.fixture(scope="module", params=["scalar", "slopes", "weights", "far"])
def fits(request):
    """The same model by probes and exactly."""
    make, formula, keywords = CASES[request.param]
    model = MixedLM.from_formula(formula, make(), **keywords)
    return model.fit(engine="krylov", tol=1e-10), model.fit(engine="sparse", tol=1e-13)


def test_fixed_effects_and_wald_tests(fits):
    own, exact = fits
    np.testing.assert_allclose(own.fe_params, exact.fe_params, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(own.bse_fe, exact.bse_fe, rtol=2e-3)
    np.testing.assert_allclose(own.bse, exact.bse, rtol=1e-2)
    np.testing.assert_allclose(own.bse_re, exact.bse_re, rtol=1e-2)
    np.testing.assert_allclose(own.conf_int(), exact.conf_int(), rtol=1e-2, atol=1e-3)


def test_at_the_same_theta_what_needs_no_trace_is_exact(fits):
    own, exact = fits
    theta = exact.theta
    near, same = own.deviance.at(theta), exact.deviance.at(theta)
    np.testing.assert_allclose(near.beta, same.beta, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(near.vcov_unscaled, same.vcov_unscaled, rtol=1e-8)
    np.testing.assert_allclose(near.b, same.b, atol=1e-8)
    assert near.pwrss == pytest.approx(same.pwrss, rel=1e-10)
    q = exact.deviance.cross.q
    rows = some_rows(q)
    np.testing.assert_allclose(
        own.deviance.conditional_products(theta, rows),
        exact.deviance.conditional_products(theta, rows),
        rtol=1e-6,
        atol=1e-9,
    )
    np.testing.assert_allclose(
        own.deviance.conditional_squares(theta, rows),
        exact.deviance.conditional_squares(theta, rows),
        rtol=1e-6,
    )


def some_rows(q):
    """Two unit vectors and a difference."""
    H = np.zeros((3, q))
    H[0, 0] = H[1, q - 1] = H[2, 1] = 1.0
    H[2, q - 2] = -1.0
    return sp.csr_array(H)


def test_conditional_standard_deviations_of_all_levels(fits):
    own, exact = fits
    near = own.ranef_se()
    for name, frame in exact.ranef_se().items():
        ratio = near[name] / frame
        assert np.abs(ratio - 1.0).to_numpy().max() < 0.02
    for name, frame in exact.ranef.items():
        assert np.abs(own.ranef[name] - frame).to_numpy().max() < 1e-3


@pytest.mark.parametrize("method", ["satterthwaite", "kenward-roger"])
def test_degrees_of_freedom(fits, method):
    own, exact = fits
    near, want = own.anova(ddf=method), exact.anova(ddf=method)
    np.testing.assert_allclose(near["df_den"], want["df_den"], rtol=2e-2)
    np.testing.assert_allclose(near["F"], want["F"], rtol=2e-3)


def test_likelihood_ratios_have_common_probes():
    data = scalar()
    models = [
        MixedLM.from_formula(f"y ~ {fixed} + (1|f) + (1|g)", data) for fixed in ("1", "x", "x + z")
    ]
    own = [model.fit(engine="krylov", reml=False) for model in models]
    exact = [model.fit(engine="sparse", reml=False) for model in models]
    near, want = sparselmm.compare(*own).table, sparselmm.compare(*exact).table
    np.testing.assert_allclose(near["chisq"][1:], want["chisq"][1:], atol=2e-4)
    assert own[0].llf_mc_se > 1e-3  # each for itself is known less well
    np.testing.assert_allclose(own[2].drop1()["lrt"], exact[2].drop1()["lrt"], atol=2e-3)
    np.testing.assert_allclose(own[2].ranova()["lrt"], exact[2].ranova()["lrt"], atol=0.05)


def test_a_ratio_that_is_not_known_well_warns():
    """With other probes for each model; with the same ones it is known well."""
    data = CASES["nested"][0]()
    terms = "(1|f) + (1|g) + (1|f:h)"
    small, big = (MixedLM.from_formula(f"y ~ {x} + {terms}", data) for x in ("1", "x"))
    options = {"engine": "krylov", "reml": False, "probes": 8}
    first = small.fit(**options)
    sparselmm.compare(first, big.fit(**options))
    with pytest.warns(MonteCarloWarning, match="m1 and m2 has a Monte Carlo standard error"):
        sparselmm.compare(first, big.fit(**options, seed=1))


def test_what_needs_a_factor_is_refused_by_name():
    own = MixedLM.from_formula("y ~ x + (1|f) + (1|g)", scalar()).fit(engine="krylov")
    assert isinstance(own, KrylovResults)
    assert isinstance(own, MixedLMResults)
    public = {name for name in dir(MixedLMResults) if not name.startswith("_")}
    missing = {name for name in public if not hasattr(KrylovResults, name)}
    assert set(EXACT.instead) <= missing | {"a profile"}
    for name in missing | {"hatvalues", "cooks_distance", "influence", "check"}:
        with pytest.raises(UnsupportedError, match=f"{name} is not available.*finish='exact'"):
            getattr(own, name)()
    with pytest.raises(UnsupportedError, match="a profile is not available"):
        own.conf_int(method="profile")
    with pytest.raises(UnsupportedError, match="inverse between different levels"):
        own.deviance.conditional_cross_blocks(own.theta, 1, 0)
    page = own.report().markdown
    assert "## Predictions" in page
    assert "check is not available" in page
    assert "standard errors (conjugate gradients" in page


def test_refit_and_bootstrap():
    data = scalar()
    own = MixedLM.from_formula("y ~ x + (1|f) + (1|g)", data).fit(engine="krylov")
    again = own.refit(data.y)
    assert isinstance(again, KrylovResults)
    np.testing.assert_allclose(again.theta, own.theta, rtol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draws = own.bootstrap(n=3, seed=1, progress=False)
    assert np.isfinite(draws.conf_int()).all(axis=None)


def test_the_finish_has_everything():
    own = MixedLM.from_formula("y ~ x + (1|f) + (1|g)", scalar()).fit(
        engine="krylov", finish="exact"
    )
    assert type(own) is MixedLMResults
    assert np.isfinite(own.hatvalues()).all()
