"""Families that users write, by the documentation alone."""

import numpy as np
import pandas as pd
import pytest
import scipy.special as ss

from sparselmm import CustomFamily, DataError, mixedglm

NU = 4.0


def student(y, eta, log_scale):
    """Student's t with four degrees of freedom."""
    s = np.exp(log_scale)
    z = (y - eta) / s
    q = NU + z**2
    constant = ss.gammaln((NU + 1) / 2) - ss.gammaln(NU / 2) - 0.5 * np.log(NU * np.pi)
    f = constant - log_scale - (NU + 1) / 2 * np.log1p(z**2 / NU)
    e = (NU + 1) * z / (q * s)
    return f, e, (NU + 1) * (z**2 - NU) / (q * s) ** 2, (NU + 1) * 2 * z * (z**2 - 3 * NU) / (
        q * s) ** 3  # fmt: skip


def generalized_poisson(y, eta, log_alpha):
    """Counts of mean mu and variance ``mu (1 + alpha mu)^2``."""
    mu, alpha = np.exp(eta), np.exp(log_alpha)
    r, p = 1 / (1 + alpha * mu), alpha * mu / (1 + alpha * mu)
    k = mu * (1 + alpha * y) * r**2
    k1 = k * (1 - 2 * p)
    f = y * (eta + np.log(r)) + (y - 1) * np.log1p(alpha * y) - mu * (1 + alpha * y) * r
    k2 = k1 * (1 - 2 * p) - 2 * k * p * r
    return f - ss.gammaln(y + 1), y * r - k, -y * p * r - k1, -y * p * r * (r - p) - k2


def frame():
    rng = np.random.default_rng(3)
    g, x = rng.integers(0, 25, 300), rng.normal(size=300)
    eta = 1.0 + 0.5 * x + 0.6 * rng.normal(size=25)[g]
    y = eta + 0.5 * rng.standard_t(4, 300)
    counts = rng.poisson(np.exp(eta - 0.7) * rng.gamma(3, 1 / 3, 300))
    return pd.DataFrame({"g": g, "x": x, "y": y, "count": counts})


FORMULA = "y ~ x + (1 | g)"


def t4(function=student, **options):
    return CustomFamily(function, parameters={"log_scale": 0.0}, **options)


def test_a_named_family_with_a_parameter():
    """Whatever it is called; what it has no function for is refused by name."""
    own = t4(name="t4", mean=lambda eta, log_scale: eta)
    own.check(frame().y)
    fit = mixedglm(FORMULA, frame(), family=own).fit()
    assert fit.converged
    assert fit.opt.n_evaluations <= 14
    scale = np.exp(fit.params["log_scale: Intercept"])
    assert scale == pytest.approx(0.5, abs=0.1)
    np.testing.assert_allclose(fit.predict(), fit.predict(type="link"), rtol=1e-12)
    assert "t4" in str(fit.summary())
    fit.report()
    for method in ("simulate", "bootstrap", "r2"):
        with pytest.raises(DataError):
            getattr(fit, method)()
    with pytest.raises(DataError, match="kind='response'"):
        fit.residuals("quantile")


def test_a_generalized_poisson_family():
    own = CustomFamily(
        generalized_poisson, parameters={"dispersion": -2.0}, name="generalized poisson"
    )
    own.check(frame()["count"])
    formula = "count ~ x + (1 | g)"
    fit = mixedglm(formula, frame(), family=own).fit()
    assert fit.converged
    close = mixedglm(formula, frame(), family="nbinom2").fit()
    assert fit.llf == pytest.approx(close.llf, abs=3.0)
    more = mixedglm(formula, frame(), family=own, dispersion="~ x").fit()
    assert more.llf >= fit.llf - 1e-8


def changed(place, by):
    def derivatives(y, eta, log_scale):
        parts = list(student(y, eta, log_scale))
        parts[place] = by(parts[place])
        return tuple(parts)

    return derivatives


WRONG = {
    "first derivative is": changed(1, np.negative),
    "second derivative is": changed(2, lambda e: 2 * e),
    "third derivative is": changed(3, np.negative),
    "not finite where the search starts": changed(0, lambda f: np.where(f < -2, np.nan, f)),
    "it returned shapes": changed(2, np.sum),
    "real numbers, not complex128": changed(1, lambda e: e + 0j),
    "four arrays, .* it returned NoneType": lambda y, eta, s: None,
    "it returned dict": lambda y, eta, s: {},
    "failed: ZeroDivisionError": lambda y, eta, s: 1 / 0,
    "failed: TypeError": lambda y, eta: (y, y, y, y),
}


@pytest.mark.parametrize("says", WRONG)
def test_wrong_derivatives_never_reach_the_search(says):
    with pytest.raises(DataError, match=says):
        mixedglm(FORMULA, frame(), family=t4(WRONG[says]))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_right_derivatives_pass_in_any_unit(scale):
    data = frame().assign(y=lambda d: d.y * scale)
    own = CustomFamily(student, parameters={"s": np.log(scale)}, start=lambda y: y - y % scale)
    fit = mixedglm(FORMULA, data, family=own).fit()
    one = mixedglm(FORMULA, frame(), family=t4(start=np.floor)).fit()
    assert fit.llf + 300 * np.log(scale) == pytest.approx(one.llf, abs=1e-5)


def test_start_and_mean_are_checked():
    for start, says in ((lambda y: 3.0, "shape"), (lambda y: y * np.nan, "finite"),
                        (lambda y: 1 / 0, "start of family")):  # fmt: skip
        with pytest.raises(DataError, match=says):
            mixedglm(FORMULA, frame(), family=t4(start=start))
    for mean, says in ((lambda eta: eta, "mean of family"), (lambda eta, s: 1.0, "shape")):
        with pytest.raises(DataError, match=says):
            _ = mixedglm(FORMULA, frame(), family=t4(mean=mean)).fit().fittedvalues
    with pytest.raises(DataError, match="given without mean="):
        _ = mixedglm(FORMULA, frame(), family=t4()).fit().fittedvalues


def test_the_names_of_the_packages_families_are_taken():
    with pytest.raises(DataError, match="choose another"):
        CustomFamily(student, name="poisson")
