"""The search: one optimum from everywhere, exact zeros, a complete record."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from registry import MODELS, Model, design, term

import sparselmm
from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.likelihood.moments import moment_start
from sparselmm.likelihood.optimize import SCIPY_METHODS, TOLERANCE, WITHOUT_GRADIENT, minimize
from sparselmm.likelihood.record import SMALLEST_SCALE

every_model = pytest.mark.parametrize("name", MODELS)
both = pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])


@cache
def solved(name, reml=True):
    """A model's deviance and its optimum from moment estimates."""
    deviance = MODELS[name].sparse(reml)
    return deviance, minimize(deviance, moment_start(deviance.cross, deviance.covariance))


@cache
def sleepstudy():
    data = sparselmm.datasets.load("sleepstudy")
    model = sparselmm.MixedLM.from_formula("Reaction ~ Days + (Days | Subject)", data)
    return model.deviance(reml=False)


def starts(model, best):
    """Thetas from far too small to far too large, with wrong signs and wild correlations."""
    rng = np.random.default_rng(7)
    yield best.theta * 1e-3 + 1e-4 * model.unit_of_theta * model.covariance.on_diagonal
    yield best.theta * 1e3
    yield -model.theta("interior")
    yield model.theta("near")
    for power in (-1.0, 0.0, 1.0):
        yield rng.normal(size=len(best.theta)) * 10.0**power * model.unit_of_theta


# ------------------------------------------------------------------------------ optimality


@both
@every_model
def test_optimum_is_stationary(name, reml):
    """By the dense twin's gradient, in units in which an ordinary theta is one."""
    model = MODELS[name]
    _, best = solved(name, reml)
    assert best.converged
    gradient = model.dense(reml).gradient(best.theta) * model.unit_of_theta
    # A promise of TOLERANCE means g'H^-1 g < 2 TOLERANCE, and H is below 1e3 in these units.
    assert np.abs(gradient[~best.at_boundary]).max() < np.sqrt(2e3 * TOLERANCE)
    np.testing.assert_allclose(best.gradient * model.unit_of_theta, gradient, atol=1e-6)


@both
@every_model
def test_evidence_of_convergence(name, reml):
    """What is reported about the optimum is what gradient and Hessian say."""
    _, best = solved(name, reml)
    inner = ~best.at_boundary
    assert best.gradient_norm == np.abs(best.gradient[inner]).max()
    covariance, units = MODELS[name].covariance, MODELS[name].unit_of_theta
    sd = [np.linalg.norm(lam, axis=1) for lam in covariance.factors(best.theta)]
    rows = zip(covariance.terms, sd, strict=True)
    scale = np.concatenate([size[term.rows] for term, size in rows])
    scale = np.maximum(scale, SMALLEST_SCALE * units)
    H = (best.hessian * np.outer(scale, scale))[np.ix_(inner, inner)]
    g = (best.gradient * scale)[inner]
    assert best.smallest_eigenvalue == pytest.approx(np.linalg.eigvalsh(H)[0], rel=1e-6)
    assert best.smallest_eigenvalue > 0
    promised = g @ np.linalg.solve(H, g) / 2.0
    assert best.expected_decrease == pytest.approx(promised, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize("factor", [1e-8, 1e-3, 1e3, 1e8])
def test_unit_of_a_covariate_does_not_matter(factor):
    """Metres or nanometres: the same search, the same optimum."""
    one = MODELS["slope"].design
    t = one.terms[0]
    scale = np.array([1.0, factor])
    deviance = Model(design(one.y, one.X * scale, term("g", t.codes, t.values * scale))).sparse(
        True
    )
    found = minimize(deviance, moment_start(deviance.cross, deviance.covariance))
    _, best = solved("slope")
    assert found.converged
    change = 2.0 * np.log(factor)  # of log det X'V^-1X
    assert found.deviance - change == pytest.approx(best.deviance, abs=4.0 * TOLERANCE, rel=1e-11)
    np.testing.assert_allclose(found.theta * [1.0, factor, factor], best.theta, atol=3e-4)
    assert found.n_evaluations <= best.n_evaluations + 3


@every_model
def test_every_start_leads_to_one_optimum(name):
    model = MODELS[name]
    deviance, best = solved(name)
    for start in starts(model, best):
        found = minimize(deviance, start)
        assert found.converged
        assert found.deviance == pytest.approx(best.deviance, abs=4.0 * TOLERANCE, rel=1e-12)
        np.testing.assert_array_equal(found.at_boundary, best.at_boundary)
        scale = np.abs(best.theta / model.unit_of_theta).max()
        error = (found.theta - best.theta) / model.unit_of_theta
        # 3e-5 standard errors, and in these small models a standard error is of theta's size
        assert np.abs(error).max() < 3e-4 * scale


@pytest.mark.parametrize("entries", ["all", "first_term"])
def test_a_false_zero_is_left(entries):
    """At zero the gradient vanishes although the deviance falls with the variance."""
    deviance, best = solved("crossed")
    start = np.zeros(len(best.theta))
    if entries == "first_term":  # everything else as good as it can be
        one = MODELS["crossed"].design
        rest = Model(design(one.y, one.X, one.terms[1])).sparse(True)
        start[1:] = minimize(rest, best.theta[1:]).theta
    found = minimize(deviance, start)
    assert found.deviance == pytest.approx(best.deviance, abs=4.0 * TOLERANCE)


# ------------------------------------------------------------------------------ boundary


def no_variance_between():
    """Equal means in every level of g, real differences between the levels of h."""
    rng = np.random.default_rng(3)
    a, b = 8, 6
    y = rng.normal(size=(a, b)) + 1.5 * rng.normal(size=b)
    y -= y.mean(axis=1, keepdims=True)
    codes = np.indices((a, b)).reshape(2, -1)
    X = np.ones((a * b, 1))
    return Model(design(y.ravel(), X, term("g", codes[0]), term("h", codes[1])))


@pytest.mark.parametrize("start", [(0.05, 1.0), (1.0, 1.0), (30.0, 30.0), (1e-4, 1e-4)])
@both
def test_zero_variance_is_exact(start, reml):
    model = no_variance_between()
    best = minimize(model.sparse(reml), np.array(start))
    assert best.converged
    assert best.theta[0] == 0.0
    assert best.theta[1] > 0.5
    assert best.at_boundary.tolist() == [True, False]
    dense = model.dense(reml)
    for away in (1e-3, 0.05, 0.5):
        assert dense.value(best.theta + np.array([away, 0.0])) > best.deviance


def test_all_variances_zero():
    """Then the fit is least squares."""
    one = no_variance_between().design
    found = minimize(Model(design(one.y, one.X, one.terms[0])).sparse(True), np.array([1.0]))
    assert found.theta.tolist() == [0.0]
    assert found.at_boundary.all()
    assert found.converged
    n, rss = one.n, ((one.y - one.y.mean()) ** 2).sum()
    expected = (n - 1) * (1 + np.log(2 * np.pi * rss / (n - 1))) + np.log(n)
    assert found.deviance == pytest.approx(expected, rel=1e-12)


def test_perfect_correlation():
    """Slopes proportional to intercepts: the last column of lambda vanishes, the rest stays."""
    rng = np.random.default_rng(1)
    l, x = 10, np.linspace(-1, 1, 6)
    y = 2.0 * rng.normal(size=(l, 1)) * (1.0 + 0.5 * x) + 0.5 * rng.normal(size=(l, 6))
    y -= (y @ x / (x @ x) - 0.5 * y.mean(axis=1))[:, None] * x  # slope is half the mean, exactly
    rows = np.tile(np.column_stack([np.ones(6), x]), (l, 1))
    t = term("g", np.repeat(np.arange(l), 6), rows)
    best = minimize(Model(design(y.ravel(), rows, t)).sparse(True), np.array([1.0, 0.0, 1.0]))
    assert best.converged
    assert best.at_boundary.tolist() == [False, False, True]
    assert best.theta[2] == 0.0
    assert best.theta[1] / best.theta[0] == pytest.approx(0.5, rel=0.05)


# ------------------------------------------------------------------------- flat directions


def test_a_factor_twice():
    """Only the sum of both variances matters: any split is an optimum, and it must be found."""
    one = MODELS["intercept"].design
    t = one.terms[0]
    twice = Model(design(one.y, one.X, t, term("copy", t.codes)))
    for reml in (True, False):
        deviance = twice.sparse(reml)
        for start in ([1.0, 1.0], [2.0, 0.1], moment_start(deviance.cross, deviance.covariance)):
            best = minimize(deviance, np.array(start))
            _, single = solved("intercept", reml)
            assert best.converged
            assert best.deviance == pytest.approx(single.deviance, abs=2.0 * TOLERANCE)
            assert (best.theta**2).sum() == pytest.approx(single.theta[0] ** 2, rel=1e-3)


def test_a_factor_that_x_explains():
    """REML does not depend on theta at all; ML is smallest at zero."""
    one = MODELS["intercept"].design
    X = np.eye(8)[one.terms[0].codes]
    model = Model(design(one.y, X, one.terms[0]))
    flat = minimize(model.sparse(True), np.array([1.0]))
    assert flat.converged
    assert np.isfinite(flat.theta).all()
    rss = ((one.y - X @ np.linalg.lstsq(X, one.y, rcond=None)[0]) ** 2).sum()
    df = one.n - 8
    expected = df * (1 + np.log(2 * np.pi * rss / df)) + np.linalg.slogdet(X.T @ X).logabsdet
    assert flat.deviance == pytest.approx(expected, rel=1e-10)
    zero = minimize(model.sparse(False), np.array([1.0]))
    assert zero.theta.tolist() == [0.0]


# ---------------------------------------------------------------------------- the record


@both
@every_model
def test_record(name, reml, monkeypatch):
    model = MODELS[name]
    deviance, start = model.sparse(reml), model.theta("random") * 5.0
    seen, evaluated, evaluate = [], [], deviance._evaluate
    monkeypatch.setattr(deviance, "_evaluate", lambda at: evaluated.append(at) or evaluate(at))
    best = minimize(deviance, start, callback=seen.append)
    assert best.n_evaluations == len(best.history)
    assert all(a is b for a, b in zip(seen, best.history, strict=True))
    np.testing.assert_array_equal(best.history[0].theta, start)
    # rectified signs and the optimum after a boundary check are looked at once more
    assert best.n_evaluations <= len(evaluated) <= best.n_evaluations + 2
    fresh = model.sparse(reml)
    for entry in best.history:
        assert entry.deviance == pytest.approx(fresh.value(entry.theta), rel=1e-12)
    accepted = [entry.deviance for entry in best.history if entry.accepted]
    assert all(b <= a + 1e-12 * abs(a) + TOLERANCE for a, b in pairwise(accepted))
    assert accepted[-1] == pytest.approx(best.deviance, rel=1e-12)
    refused = [entry for entry in best.history if not entry.accepted]
    assert all(entry.deviance >= best.deviance - TOLERANCE for entry in refused)
    times = [entry.seconds for entry in best.history]
    assert times == sorted(times)
    assert fresh.value(best.theta) == pytest.approx(best.deviance, rel=1e-13)


def test_iteration_limit():
    stopped = minimize(sleepstudy(), np.array([1.0, 0.0, 1.0]), max_iterations=1)
    assert not stopped.converged
    assert "1 iteration" in stopped.message
    assert stopped.n_evaluations <= 3


def test_tolerance():
    """A looser tolerance stops earlier, with a deviance that keeps the promise."""
    start = np.array([3.0, 0.0, 3.0])
    best, loose = minimize(sleepstudy(), start), minimize(sleepstudy(), start, tolerance=1e-2)
    assert loose.n_evaluations < best.n_evaluations
    assert TOLERANCE < loose.deviance - best.deviance < 2e-2


# ------------------------------------------------------------------------- SciPy's methods


@pytest.mark.filterwarnings("ignore:delta_grad == 0.0")
@pytest.mark.parametrize("method", [*SCIPY_METHODS, "BFGS"])
def test_scipy_methods(method):
    best = minimize(sleepstudy(), np.array([1.0, 0.0, 1.0]))
    other = minimize(sleepstudy(), np.array([1.0, 0.0, 1.0]), method=method)
    assert other.converged
    assert other.method == method.lower()
    # Methods without derivatives stop at steps of 1e-4 in theta, Powell at 1e-4 of the deviance
    # in one sweep; the others at gradients of 1e-5.
    blind = SCIPY_METHODS[method.lower()] in WITHOUT_GRADIENT
    assert best.deviance - TOLERANCE < other.deviance < best.deviance + (1e-4 if blind else 1e-5)
    assert other.n_evaluations == len(other.history) > best.n_evaluations
    again = minimize(sleepstudy(), np.array([1.0, 0.0, 1.0]), method=method)
    np.testing.assert_array_equal(again.theta, other.theta)


def test_scipy_methods_find_zeros():
    model = no_variance_between()
    for method in ("lbfgs", "bfgs", "nm"):
        best = minimize(model.sparse(True), np.array([1.0, 1.0]), method=method)
        assert best.theta[0] == 0.0
        assert best.converged


def test_options_reach_scipy():
    start = np.array([1.0, 0.0, 1.0])
    short = minimize(sleepstudy(), start, method="nm", max_iterations=5)
    assert not short.converged
    loose = minimize(sleepstudy(), start, method="nm", xatol=0.1, fatol=0.1)
    assert loose.n_evaluations < minimize(sleepstudy(), start, method="nm").n_evaluations


@pytest.mark.parametrize("method", ["newtn", "", "lm"])
def test_unknown_method(method):
    with pytest.raises(ValueError, match=r"unknown optimizer.*lbfgs") as error:
        minimize(sleepstudy(), np.array([1.0, 0.0, 1.0]), method=method)
    assert repr(method) in str(error.value)


def test_a_dense_deviance():
    deviance, best = solved("slope")
    start = moment_start(deviance.cross, deviance.covariance)
    found = minimize(MODELS["slope"].dense(True), start)
    assert found.converged
    assert found.deviance == pytest.approx(best.deviance, abs=4.0 * TOLERANCE)


@pytest.mark.parametrize("method", ["bfgs", "lbfgs", "cg", "tnc"])
def test_line_searches_leave_places_without_a_factorization(monkeypatch, method):
    """Where theta is too large there is no deviance and no gradient: nothing raises there, and
    what does not find back is not called converged."""
    model = MODELS["crossed_three"]
    best, deviance = minimize(model.sparse(True), model.theta("interior")), model.sparse(True)
    evaluate, far = deviance._evaluate, []

    def within(theta):
        if np.abs(theta).max() > 1.5 * np.abs(best.theta).max():
            far.append(theta)
            raise NotPositiveDefiniteError("too far")
        return evaluate(theta)

    monkeypatch.setattr(deviance, "_evaluate", within)
    found = minimize(deviance, 0.02 * best.theta, method=method)
    assert far
    there = found.deviance == pytest.approx(best.deviance, abs=1e-6)
    assert there == found.converged
