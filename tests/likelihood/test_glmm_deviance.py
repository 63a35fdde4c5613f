"""Laplace's deviance and quadrature: against brute force, differences, the linear model."""

import dataclasses
import tracemalloc
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.integrate as si
import scipy.optimize as so
from glmm_cases import FITS, data_of
from registry import block, term

import sparselmm
from sparselmm.likelihood.laplace import rows as laplace_rows
from sparselmm.likelihood.laplace.data import Further, GeneralData
from sparselmm.likelihood.laplace.deviance import LaplaceDeviance
from sparselmm.likelihood.laplace.families import FAMILIES
from sparselmm.likelihood.laplace.fit import difference_hessian
from sparselmm.likelihood.laplace.mixtures import Hurdle, ZeroInflated
from sparselmm.likelihood.laplace.quadrature import QuadratureDeviance
from sparselmm.likelihood.laplace.start import start
from sparselmm.model.generalized_arguments import thresholds

N = 90


def terms_of(kind, rng):
    g, h = rng.integers(0, 12, N), rng.integers(0, 7, N)
    x = np.column_stack([np.ones(N), rng.normal(size=N)])
    return {
        "scalar": (term("g", g),),
        "crossed": (term("g", g), term("h", h)),
        "slopes": (term("g", g, x), term("h", h)),
        "diagonal": (term("g", g, x, structure="diagonal"),),
        "patterned": (term("g", g, x, structure="compound symmetry"),),
        "absent": (term("g", np.where(rng.random(N) < 0.2, -1, g), n_levels=12), term("h", h)),
        "matrix": (block("z", rng.normal(size=(N, 5)) * (rng.random((N, 5)) < 0.6)), term("h", h)),
    }[kind]


def responses(name, eta, rng):
    """Responses of a family, their trials, and its zeros."""
    m = rng.integers(1, 9, N).astype(float)
    mu = np.exp(0.5 * eta)
    if name in ("binomial", "betabinomial"):
        return rng.binomial(m.astype(int), 1 / (1 + np.exp(-eta))).astype(float), m
    if name == "beta":
        return rng.beta(2 + mu, 3), np.ones(1)
    if name in ("poisson", "nbinom1", "nbinom2"):
        return rng.poisson(2 * mu * rng.gamma(2, 0.5, N)).astype(float), np.ones(1)
    if name == "ordinal":
        return np.digitize(eta + rng.logistic(size=N), [-1.0, 1.0]).astype(float), np.ones(1)
    return mu * rng.gamma(8, 1 / 8, N), (m if name == "gaussian" else np.ones(1))


@cache
def data(name, link=None, kind="slopes", zeros=None, weighted=False):
    rng = np.random.default_rng(3)
    terms = terms_of(kind, rng)
    X = np.column_stack([np.ones(N), rng.normal(size=N)])
    if name == "ordinal":
        X = X[:, 1:]
    eta = 0.3 + X[:, -1] * 0.5 + rng.normal(size=12)[rng.integers(0, 12, N)]
    y, m = responses(name, eta, rng)
    family = FAMILIES[name](link or FAMILIES[name].links[0])
    if name == "gaussian" and link is None:
        family = FAMILIES[name]("identity")
    if zeros:
        family = zeros(family)
        y = y * (rng.random(N) < 0.7)
    if name == "ordinal":
        further = thresholds(y, None)
    else:
        D = np.column_stack([np.ones(N), rng.normal(size=N)])
        further, first = [], 0
        for part in family.further:
            width = 2 if part == "dispersion" else 1
            columns = slice(first, first + width)
            further.append(
                Further(part, columns, D if width == 2 else None, None, ("a", "b")[:width])
            )
            first += width
        further = tuple(further)
    weights = rng.integers(0, 3, N).astype(float) if weighted else None
    return GeneralData(y, m, X, terms, family, further, weights, 0.1 * rng.normal(size=N))


CASES = [
    *({"name": name} for name in FAMILIES),
    *({"name": "binomial", "link": link} for link in ("probit", "cloglog", "cauchit")),
    *({"name": "poisson", "kind": kind} for kind in
      ("scalar", "crossed", "diagonal", "patterned", "absent", "matrix")),
    *({"name": name, "zeros": wrap} for name in ("poisson", "nbinom2")
      for wrap in (ZeroInflated, Hurdle)),
    {"name": "binomial", "weighted": True},
    {"name": "nbinom2", "weighted": True, "kind": "scalar"},
    {"name": "gamma", "link": "inverse", "kind": "scalar"},
    *({"name": "ordinal", "link": link} for link in ("probit", "loglog", "cauchit")),
    {"name": "binomial", "link": "loglog"},
]  # fmt: skip
IDS = ["-".join(getattr(v, "__name__", str(v)) for v in case.values()) for case in CASES]


def somewhere(deviance):
    """Parameters not far from the start."""
    x = start(deviance)
    rng = np.random.default_rng(8)
    a = deviance.covariance.n_theta
    x[:a] += 0.1 * rng.normal(size=a) * deviance.units
    return x + 0.02 * rng.normal(size=len(x)) * (np.arange(len(x)) >= a)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_gradient(case):
    deviance = LaplaceDeviance(data(**case))
    x = somewhere(deviance)
    exact, numeric = deviance.gradient(x), np.empty(len(x))
    for i in range(len(x)):
        step = np.zeros(len(x))
        step[i] = 3e-3 * max(abs(x[i]), 0.3)
        f = [deviance.value(x + s * step) for s in (2, 1, -1, -2)]
        numeric[i] = (8 * (f[1] - f[2]) - (f[0] - f[3])) / (12 * step[i])
    assert np.abs(exact - numeric).max() < 1e-7 * max(1.0, np.abs(numeric).max())


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_value_by_brute_force(case):
    """The mode by a general optimizer, the determinant of a dense matrix."""
    own = data(**case)
    deviance = LaplaceDeviance(own)
    x = somewhere(deviance)
    value = deviance.value(x)
    theta, gamma, phi = deviance.parameters.split(x)
    Z = laplace_rows.assemble_z(own.terms, N).toarray()
    lams = deviance.covariance.factors(theta)
    L = np.zeros((Z.shape[1],) * 2)
    for lam, part, t in zip(lams, deviance.cross.slices, own.terms, strict=True):
        L[part, part] = np.kron(np.eye(t.n_levels), lam)
    ZL = Z @ L
    fixed = own.X @ (deviance.fixed.basis.T @ gamma) + own.offset

    def jet(u):
        return own.jet(fixed + ZL @ u, phi, slice(0, N), False)

    found = so.minimize(
        lambda u: -jet(u).f.sum() + 0.5 * u @ u, np.zeros(Z.shape[1]),
        jac=lambda u: -ZL.T @ jet(u).e + u, method="BFGS", options={"gtol": 1e-9, "maxiter": 4000},
    )  # fmt: skip
    u = found.x
    for _ in range(3):  # Newton's method removes what BFGS leaves
        own_jet = jet(u)
        M = ZL.T @ (-own_jet.ee[:, None] * ZL) + np.eye(len(u))
        u = u - np.linalg.solve(M, -ZL.T @ own_jet.e + u)
    M = ZL.T @ (-jet(u).ee[:, None] * ZL) + np.eye(len(u))
    h = -jet(u).f.sum() + 0.5 * u @ u
    m = own.trials(slice(None))
    w = np.ones(N) if own.weights is None else own.weights
    constant = float(own.family.constant(own.y, m) @ w)
    brute = 2 * (h - constant) + np.linalg.slogdet(M)[1]
    assert value == pytest.approx(brute, abs=1e-7)


@pytest.mark.parametrize("name", ["binomial", "poisson", "nbinom2", "gamma"])
def test_quadrature_is_the_integral(name):
    own = data(name, kind="scalar")
    deviance = QuadratureDeviance(own, 25)
    x = somewhere(deviance)
    theta, gamma, phi = deviance.parameters.split(x)
    fixed = own.X @ (deviance.fixed.basis.T @ gamma) + own.offset
    codes, total = own.terms[0].codes, 0.0
    for j in range(own.terms[0].n_levels):
        inside = codes == j
        shift = own.jet(fixed, phi, slice(0, N), False).f[inside].sum()

        def integrand(u, inside=inside, shift=shift):
            f = own.jet(fixed + theta[0] * u, phi, slice(0, N), False).f
            return np.exp(f[inside].sum() - shift - 0.5 * u * u) / np.sqrt(2 * np.pi)

        total += shift + np.log(si.quad(integrand, -9, 9, epsabs=0, epsrel=1e-11, limit=200)[0])
    brute = -2 * (total + own.constant())
    assert deviance.value(x) == pytest.approx(brute, abs=1e-5)


@pytest.mark.parametrize("name", ["binomial", "nbinom1", "gamma", "ordinal"])
@pytest.mark.parametrize("nodes", [1, 2, 9])
def test_gradient_of_quadrature(name, nodes):
    deviance = QuadratureDeviance(data(name, kind="scalar"), nodes)
    x = somewhere(deviance)
    exact, numeric = deviance.gradient(x), np.empty(len(x))
    for i in range(len(x)):
        step = np.zeros(len(x))
        step[i] = 3e-3 * max(abs(x[i]), 0.3)
        f = [deviance.value(x + s * step) for s in (2, 1, -1, -2)]
        numeric[i] = (8 * (f[1] - f[2]) - (f[0] - f[3])) / (12 * step[i])
    assert np.abs(exact - numeric).max() < 1e-7 * max(1.0, np.abs(numeric).max())


def test_one_node_is_laplace():
    own = data("binomial", kind="scalar")
    x = somewhere(LaplaceDeviance(own))
    assert QuadratureDeviance(own, 1).value(x) == pytest.approx(
        LaplaceDeviance(own).value(x), abs=1e-9
    )


@pytest.mark.parametrize("case", [CASES[3], CASES[14], CASES[17], CASES[19]])
def test_compiled_passes_are_their_twins(case, monkeypatch):
    """Many rows take another way through loops, blocks and places."""
    plain = LaplaceDeviance(data(**case))
    x = somewhere(plain)
    value, model = plain.value(x), plain.model(x)
    for module in ("rows", "data"):
        monkeypatch.setattr(f"sparselmm.likelihood.laplace.{module}.SMALL_ROWS", 10)
    monkeypatch.setattr(laplace_rows, "BLOCK", 32)
    other = LaplaceDeviance(data(**case))
    assert other.random.compiled
    assert other.value(x) == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(other.model(x).gradient, model.gradient, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(other.model(x).hessian, model.hessian, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_modes_are_predicted_to_first_order(case):
    deviance = LaplaceDeviance(data(**case))
    x, rng, a = somewhere(deviance), np.random.default_rng(5), deviance.covariance.n_theta
    x[:a] = np.abs(x[:a])  # where patterns end at zero
    step = deviance.basis(x, deviance.model(x), 1e-3)
    step = step @ rng.normal(size=step.shape[1])
    errors = []
    for size in (1e-3, 5e-4):
        trial = deviance.parameters.retract(x, size * step)
        deviance.model(x)
        guess = deviance.predicted(x, size * step, trial)
        errors.append(float(np.linalg.norm(deviance.at(trial).mode.u - guess)))
    assert errors[1] < 0.3 * errors[0] + 1e-9  # a quarter, to second order


def test_a_mode_nearby_takes_one_factorization():
    """The factor of the last point leads there where a new one is dear."""
    deviance = LaplaceDeviance(data("binomial", kind="crossed"))
    x = deviance.parameters.rectify(somewhere(deviance))
    step = 1e-3 * deviance.basis(x, deviance.model(x), 1e-3).sum(axis=1)
    trial = deviance.parameters.retract(x, step)
    guess = deviance.predicted(x, step, trial)
    before = deviance.modes.n_factorizations
    value = deviance.at(trial, guess).value
    assert deviance.modes.reuses
    assert deviance.modes.n_factorizations == before + 1
    deviance.modes.reuses, deviance._point = False, None
    deviance.at(x)
    assert deviance.value(trial) == pytest.approx(value, abs=1e-10)


def slopes(origin=0.0, second=False):
    """Counts whose fixed effects are random slopes, too."""
    rng = np.random.default_rng(12)
    X = np.column_stack([np.ones(N), origin + rng.normal(size=N)])
    g, h = rng.integers(0, 12, N), rng.integers(0, 7, N)
    values = np.ascontiguousarray(np.column_stack([rng.normal(size=N), X[:, ::-1]]))
    terms = (term("g", g, values), *((term("h", h),) if second else ()))
    return GeneralData(
        rng.poisson(1.5, N).astype(float), np.ones(1), X, terms, FAMILIES["poisson"]("log")
    )


@pytest.mark.parametrize("second", [False, True])
def test_products_with_columns_of_x_are_found_among_those_of_z(monkeypatch, second):
    for module in ("rows", "data"):
        monkeypatch.setattr(f"sparselmm.likelihood.laplace.{module}.SMALL_ROWS", 10)
    deviance = LaplaceDeviance(slopes(second=second))
    assert [G is not None for G in deviance.sums.roots] == [True, False][: 1 + second]
    x = somewhere(deviance)
    model = deviance.model(x)
    deviance.sums.roots = [None] * (1 + second)
    deviance._point = deviance._model = None
    twin = deviance.model(x)
    np.testing.assert_allclose(model.gradient, twin.gradient, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.hessian, twin.hessian, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.S, twin.S, rtol=1e-9, atol=1e-9)


def test_products_far_from_the_origin_are_not_taken_for_those_of_the_working_basis(monkeypatch):
    for module in ("rows", "data"):
        monkeypatch.setattr(f"sparselmm.likelihood.laplace.{module}.SMALL_ROWS", 10)
    assert LaplaceDeviance(slopes(1e5)).sums.roots == [None]


@pytest.mark.parametrize("name", ["poisson", "nbinom2", "binomial"])
def test_far_steps_to_a_mode_follow_the_third_derivative(name, monkeypatch):
    """Of counts of 400 Newton's steps from zero go far beyond the mode and return by ones."""
    rng = np.random.default_rng(7)
    g = rng.integers(0, 12, N)
    y = rng.poisson(400.0, N).astype(float) if name != "binomial" else (g < 6).astype(float)
    X, family = np.ones((N, 1)), FAMILIES[name](FAMILIES[name].links[0])
    further = (Further("dispersion", slice(0, 1)),) if name == "nbinom2" else ()
    own = GeneralData(y, np.ones(1), X, (term("g", g),), family, further)
    x = np.array([3.0, 0.0, 2.0][: 2 + len(further)])
    plain = LaplaceDeviance(own)
    value = plain.value(x)
    for module in ("rows", "data"):
        monkeypatch.setattr(f"sparselmm.likelihood.laplace.{module}.SMALL_ROWS", 10)
    bent = LaplaceDeviance(own)
    assert bent.value(x) == pytest.approx(value, rel=1e-10)
    assert bent.modes.n_factorizations <= plain.modes.n_factorizations
    assert bent.modes.n_passes <= plain.modes.n_passes - 2


def test_dense_products_are_their_twin(monkeypatch):
    own = data("poisson", kind="matrix")
    plain = LaplaceDeviance(own)
    x = somewhere(plain)
    value, gradient = plain.value(x), plain.gradient(x)
    monkeypatch.setattr(laplace_rows, "MOST_PRODUCTS", 1)
    other = LaplaceDeviance(own)
    assert other.value(x) == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(other.gradient(x), gradient, rtol=1e-8, atol=1e-8)


def test_difference_hessian_is_symmetric_where_it_counts():
    deviance = LaplaceDeviance(data("binomial", kind="crossed"))
    x = somewhere(deviance)
    free = np.ones(len(x), dtype=bool)
    H, n = difference_hessian(deviance, x, free), len(x)
    step = 1e-3
    rows = []
    for i in range(n):
        e = np.eye(n)[i] * step
        rows.append((deviance.gradient(x + e) - deviance.gradient(x - e)) / (2 * step))
    np.testing.assert_allclose(H, np.array(rows), rtol=1e-3, atol=1e-3)


# ------------------------------------------------------------------------- closed forms


def test_gaussian_identity_is_the_linear_model():
    sleep = sparselmm.datasets.load("sleepstudy")
    formula = "Reaction ~ Days + (Days | Subject)"
    linear = sparselmm.mixedlm(formula, sleep).fit(reml=False)
    general = sparselmm.mixedglm(formula, sleep, family="gaussian").fit()
    assert general.llf == pytest.approx(linear.llf, abs=1e-7)
    np.testing.assert_allclose(general.fe_params, linear.fe_params, rtol=1e-6)
    sd = linear.varcorr.sdcor[:2].to_numpy()
    np.testing.assert_allclose(general.varcorr.sdcor[:2], sd, rtol=1e-4)
    assert np.exp(general.dispersion_params.iloc[0]) == pytest.approx(linear.sigma, rel=1e-5)
    np.testing.assert_allclose(
        general.ranef["Subject"], linear.ranef["Subject"], rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(
        general.ranef_var["Subject"], linear.ranef_var["Subject"], rtol=1e-3, atol=1e-3
    )


def test_weights_of_a_gaussian_are_those_of_the_linear_model():
    diet = sparselmm.datasets.load("dietox")
    diet = diet.dropna(subset=["Weight"]).head(300)
    w = 1.0 / diet.Time
    linear = sparselmm.mixedlm("Weight ~ Time + (1 | Pig)", diet, weights=w).fit(reml=False)
    general = sparselmm.mixedglm(
        "Weight ~ Time + (1 | Pig)", diet, family="gaussian", weights=w
    ).fit()
    assert general.llf == pytest.approx(linear.llf, abs=1e-7)


def test_splitting_a_row_into_its_trials_changes_constants_only():
    frame = data_of("cbpp")
    whole = sparselmm.mixedglm(FITS["cbpp_logit"][1], frame).fit()
    rows = frame.loc[frame.index.repeat(frame["size"])]
    place = rows.groupby(level=0).cumcount()
    rows = rows.assign(y=(place < rows.incidence).astype(int))
    split = sparselmm.mixedglm("y ~ C(period) + (1 | herd)", rows.reset_index(drop=True)).fit()
    np.testing.assert_allclose(split.fe_params, whole.fe_params, atol=1e-6)
    np.testing.assert_allclose(split.theta, whole.theta, atol=1e-6)
    own = whole.deviance.constant
    assert split.llf == pytest.approx(whole.llf - own, abs=1e-7)


def test_the_order_of_rows_and_the_unit_of_a_covariate_do_not_matter():
    frame = data_of("grouseticks")
    formula = "TICKS ~ C(YEAR) + HEIGHT + (1 | BROOD) + (1 | LOCATION)"
    one = sparselmm.mixedglm(formula, frame, family="nbinom2").fit()
    mixed = frame.sample(frac=1.0, random_state=3).assign(HEIGHT=lambda d: 1000.0 * d.HEIGHT + 7e6)
    other = sparselmm.mixedglm(formula, mixed, family="nbinom2").fit()
    assert other.llf == pytest.approx(one.llf, abs=1e-6)
    assert other.fe_params["HEIGHT"] * 1000.0 == pytest.approx(one.fe_params["HEIGHT"], rel=1e-4)


def test_weights_count_rows():
    frame = data_of("grouseticks").head(120)
    counts = np.arange(120) % 3
    formula = "TICKS ~ cHEIGHT + (1 | BROOD)"
    weighted = sparselmm.mixedglm(formula, frame, family="poisson", weights=counts).fit()
    repeated = frame.loc[frame.index.repeat(counts)].reset_index(drop=True)
    plain = sparselmm.mixedglm(formula, repeated, family="poisson").fit()
    assert weighted.llf == pytest.approx(plain.llf, abs=1e-7)
    np.testing.assert_allclose(weighted.fe_params, plain.fe_params, atol=1e-5)


def test_an_evaluation_is_forgotten_when_pickled():
    import pickle

    deviance = LaplaceDeviance(data("poisson", kind="crossed"))
    x = somewhere(deviance)
    value = deviance.value(x)
    again = pickle.loads(pickle.dumps(deviance))
    assert again._point is None
    assert again.value(x) == pytest.approx(value, abs=1e-9)
    assert dataclasses.is_dataclass(again.data)


@pytest.mark.parametrize("family", ["gaussian", "gamma", "beta", "betabinomial", "nbinom2"])
def test_the_model_knows_how_a_dispersion_moves_the_weights(family):
    """Between standard deviations and a dispersion it was twice the curvature that there is."""
    rng = np.random.default_rng(4)
    g, x = np.repeat(np.arange(40), 6), rng.normal(size=240)
    eta = 0.2 + 0.4 * x + 0.8 * rng.normal(size=40)[g]
    p, mu = 1 / (1 + np.exp(-eta)), np.exp(eta)
    draws = {
        "gaussian": lambda: eta + 0.7 * rng.normal(size=240),
        "gamma": lambda: mu * rng.gamma(3, 1 / 3, 240),
        "beta": lambda: np.clip(rng.beta(6 * p, 6 * (1 - p)), 1e-3, 1 - 1e-3),
        "betabinomial": lambda: rng.binomial(8, rng.beta(4 * p, 4 * (1 - p))),
        "nbinom2": lambda: rng.poisson(mu * rng.gamma(2, 0.5, 240)),
    }
    frame = pd.DataFrame({"y": draws[family](), "x": x, "g": g, "m": 8})
    more = {"trials": "m"} if family == "betabinomial" else {}
    fit = sparselmm.mixedglm("y ~ x + (1 | g)", frame, family=family, **more).fit(starts=1)
    exact = difference_hessian(fit.deviance, fit.opt.x, np.ones(len(fit.opt.x), dtype=bool))
    size = np.sqrt(exact[0, 0] * exact[-1, -1])
    assert fit.opt.hessian[0, -1] / size == pytest.approx(exact[0, -1] / size, abs=0.05)


def test_a_model_that_failed_is_not_made_of_what_it_left(monkeypatch):
    """The rows' third derivatives are overwritten by what the gradient makes of them."""
    data, formula, arguments = FITS["grouse_nb2"]
    fit = sparselmm.mixedglm(formula, data_of(data), **arguments).fit(starts=1)
    engine, x = fit.deviance, fit.opt.x + 0.1
    right = engine.gradient(x)
    engine.value(fit.opt.x)
    broken = [True]

    def failing(*given):
        if broken:
            broken.clear()
            raise np.linalg.LinAlgError
        return curvature(*given)

    curvature = engine._curvature
    monkeypatch.setattr(engine, "_curvature", failing)
    with pytest.raises(np.linalg.LinAlgError):
        engine.gradient(x)
    np.testing.assert_allclose(engine.gradient(x), right, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sparselmm.ModelWarning")
@pytest.mark.parametrize(
    ("family", "more"),
    [("poisson", {}), ("poisson", {"zi": "~ 1"}), ("nbinom2", {"hurdle": "~ 1"}),
     ("nbinom2", {"dispersion": "~ x"}), ("betabinomial", {"trials": "m"}), ("ordinal", {})],
)  # fmt: skip
def test_a_fit_takes_at_most_ten_arrays_of_the_rows(family, more):
    """Beside what the model holds; two crossed factors, whose pairs take one each."""
    n, rng = 400_000, np.random.default_rng(0)
    frame = pd.DataFrame({
        "x": rng.normal(size=n), "g": rng.integers(0, 2000, n), "h": rng.integers(0, 20, n), "m": 9
    })  # fmt: skip
    eta = rng.normal(size=2000)[frame.g] + 0.5 * rng.normal(size=20)[frame.h]
    frame["y"] = np.digitize(eta + rng.logistic(size=n), [0.0, 1.0, 2.0]) * 1.0
    model = sparselmm.mixedglm("y ~ x + (1 | g) + (1 | h)", frame, family=family, **more)
    first = frame.head(100_000)  # compiles
    sparselmm.mixedglm("y ~ x + (1 | g) + (1 | h)", first, family=family, **more).fit(starts=1)
    tracemalloc.start()
    model.fit(starts=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 10 * 8 * n
