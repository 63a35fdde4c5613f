"""Every reference fit through the public interface: does it reach lme4's numbers?

First everything at lme4's own theta, where no search is involved and only rounding counts. Then
the fit itself. It stops when another step promises to lower the deviance by less than TOLERANCE;
where theta is e standard errors from the optimum the deviance is e^2 above its minimum, so an
estimate may be off by sqrt(TOLERANCE) = 3e-5 of its standard error, and not by more.
"""

import numpy as np
import pytest
from reference_fits import REFERENCE_IDS
from reference_models import compare

from sparselmm.likelihood.optimize import TOLERANCE

pytestmark = [
    pytest.mark.filterwarnings("ignore::sparselmm.SingularMatrixWarning"),
    pytest.mark.filterwarnings("ignore::sparselmm.RankDeficiencyWarning"),
    pytest.mark.filterwarnings("ignore::sparselmm.SpecificationWarning"),
]

STOP = 3.0 * TOLERANCE**0.5
"""Standard errors by which the stopping rule may miss an estimate; three times what it promises
because the promise is made with a model of the curvature."""

NOTHING = 1e-10
"""A variance below this share of sigma^2 is zero: theta is then below 1e-5, SNAP is at 1e-3."""


LARGE = ("insteval", "chem97")

every_fit = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith(LARGE) else ())
        for name in REFERENCE_IDS
    ],
)


@every_fit
def test_at_the_reference_theta(name):
    c = compare(name)
    ref, at = c.ref, c.fit.deviance.at(c.theta)
    assert (c.fit.nobs, len(at.b), len(at.beta)) == (ref.n, ref.q, ref.p)
    assert at.deviance == pytest.approx(c.criterion, rel=1e-12)
    assert at.sigma == pytest.approx(ref.sigma, rel=1e-9)
    se = np.sqrt(np.diag(ref.vcov))
    # The accuracy of the reference itself, as its README states it.
    np.testing.assert_array_less(np.abs(c.change @ at.beta - ref.fixef), 1e-6 * se)
    vcov = at.scale * c.change @ at.vcov_unscaled @ c.change.T
    np.testing.assert_array_less(np.abs(vcov - ref.vcov), 1e-7 * np.outer(se, se))
    for term, t, b, listed in c.by_level(at.b):
        size = np.sqrt(np.diag(term.cov))
        np.testing.assert_allclose(b[listed] / unit(size), term.ranef / unit(size), atol=1e-9)
        blocks = at.scale * c.fit.deviance.conditional_blocks(c.theta, t)[listed]
        m = min(len(listed), len(term.condvar))
        assert (np.abs(blocks[:m] - term.condvar[:m]) <= 1e-10 * np.outer(size, size)).all()


def unit(size):
    """Standard deviations to divide by; where a variance is zero, the data's own unit."""
    return np.where(size > 0, size, 1.0)


@every_fit
def test_optimum(name):
    c = compare(name)
    assert c.fit.converged
    assert c.fit.pls.deviance == -2.0 * c.fit.llf
    excess = c.fit.pls.deviance - c.criterion
    assert excess < 2.0 * TOLERANCE + 1e-13 * abs(c.criterion)
    # A value far below would mean that the reference is no optimum.
    assert excess > -1e-7


@every_fit
def test_covariance_parameters(name):
    c = compare(name)
    assert c.fit.sigma == pytest.approx(c.ref.sigma, rel=STOP / np.sqrt(2.0 * c.fit.pls.df))
    lams = c.fit.deviance.covariance.factors(c.fit.theta)
    for term, t in zip(c.ref.terms, c.order, strict=True):
        sd = np.sqrt(np.diag(term.cov))
        error = np.abs(c.fit.scale * lams[t] @ lams[t].T - term.cov)
        assert (error <= STOP * np.outer(sd, sd) + NOTHING * c.ref.sigma**2).all()
    assert c.fit.singular == c.ref.singular
    if not c.ref.singular:  # otherwise theta is not unique
        error = c.fit.theta - c.theta
        assert np.abs(error).max() < 1e-4
        assert error @ c.fit.deviance.hessian(c.theta) @ error / 2.0 < STOP**2


@every_fit
def test_fixed_effects(name):
    c = compare(name)
    estimate, vcov = np.asarray(c.fit.fe_params), np.asarray(c.fit.cov_params())
    dropped = np.isin(np.arange(len(estimate)), c.kept, invert=True)
    np.testing.assert_array_equal(np.isnan(estimate), dropped)
    assert dropped.sum() == len(c.ref.dropped)
    se = np.sqrt(np.diag(c.ref.vcov))
    beta = c.change @ estimate[c.kept]
    np.testing.assert_array_less(np.abs(beta - c.ref.fixef), STOP * se)
    error = c.change @ vcov[np.ix_(c.kept, c.kept)] @ c.change.T - c.ref.vcov
    np.testing.assert_array_less(np.abs(error), STOP * np.outer(se, se))


@every_fit
def test_random_effects(name):
    c = compare(name)
    for term, _, b, listed in c.by_level(c.fit.b):
        size = np.sqrt(np.diag(term.cov) + NOTHING * c.ref.sigma**2)
        assert (np.abs(b[listed] - term.ranef) <= STOP * size).all()
        assert (np.abs(b.sum(axis=0) - term.ranef_sum) <= STOP * size * len(b) ** 0.5).all()
        error = np.abs((b**2).sum(axis=0) - term.ranef_sumsq)
        assert (error <= STOP * (term.ranef_sumsq + NOTHING * c.ref.sigma**2)).all()


@every_fit
def test_number_of_evaluations(name):
    """One grouping factor, or InstEval's three crossed ones: a dozen factorizations at most.

    Searches from other starts come to these in small models, whose factorizations cost nothing.
    """
    c = compare(name)
    opt = c.fit.opt
    first = sum(entry.search == 0 for entry in opt.history)
    if len(c.ref.terms) == 1 or c.ref.dataset == "InstEval":
        assert first <= 12
    assert first <= 40
    if c.ref.dataset == "InstEval":
        assert opt.n_starts == 1
        assert opt.n_evaluations == first
    assert opt.n_evaluations <= (40 if c.fit.model.nobs > 150 else 180)
