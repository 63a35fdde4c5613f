"""Degrees of freedom and small-sample tests: dense formulas, R's numbers, closed forms."""

import json
import tracemalloc
import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from reference_fits import INFERENCE_IDS, _key, reference_fit, reference_inference
from registry import MODELS, Model, design, term
from scipy import stats
from scipy.linalg import block_diag

import sparselmm
from sparselmm import datasets
from sparselmm.factor.layout import Strategy
from sparselmm.inference.hypotheses.information import information

METHODS = ("satterthwaite", "kenward-roger")
both = pytest.mark.parametrize("method", METHODS)
EXTRA = json.loads(
    datasets.data_dir().joinpath("reference", "extra", "anova.json").read_text(encoding="utf-8")
)
SMALL = [name for name in MODELS if name not in ("badly_scaled", "large_mean", "offset")]
SINGULAR = {case["id"]: case for case in EXTRA["cases"] if "singular" in case["id"]}


@cache
def fitted(name):
    """A reference fit, refitted here."""
    ref = reference_fit(name)
    weights = {} if ref.weights_formula is None else {"weights": ref.weights}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sparselmm.exceptions.ModelWarning)
        return sparselmm.mixedlm(ref.formula, ref.rows, **weights).fit(reml=ref.reml)


def at(fit, theta):
    """The same results at another theta, R's own where formulas and not searches are compared."""
    theta = np.asarray(theta, dtype=float)
    np.testing.assert_allclose(fit.theta, theta, atol=1e-4)
    return type(fit)(fit.model, fit.built, fit.deviance, fit.deviance.at(theta), fit.opt)


def in_order(fit, r_names):
    """Columns of X of R's coefficient names."""
    keys = [_key(name) for name in fit.built.design.x_names]
    return [keys.index(_key(name)) for name in r_names]


# ---------------------------------------------------------------------- textbook formulas


def dense_quantities(model, theta):
    """X, y, the inverse of V and the derivatives of V, n x n."""
    rows_of, cov = model.design, model.covariance
    w = np.ones(rows_of.n) if rows_of.weights is None else rows_of.weights
    rows = w > 0
    y = (rows_of.y if rows_of.offset is None else rows_of.y - rows_of.offset)[rows]
    kept = model.sparse(True).cross.basis.kept
    X, Z = rows_of.X[rows][:, kept], rows_of.Z.toarray()[rows]
    psi = cov.psi(theta)
    full = block_diag(
        *[np.kron(np.eye(t.n_levels), p) for t, p in zip(rows_of.terms, psi, strict=True)]
    )
    V = Z @ full @ Z.T + np.diag(1.0 / w[rows])
    directions = []
    start = 0
    for one, c in zip(rows_of.terms, cov.terms, strict=True):
        part = Z[:, start : start + one.k * one.n_levels]
        start += part.shape[1]
        at_rows, at_cols = np.diag_indices(c.k) if c.is_diagonal else np.tril_indices(c.k)
        for a, b in zip(at_rows, at_cols, strict=True):
            E = np.zeros((c.k, c.k))
            E[a, b] = E[b, a] = 1.0
            directions.append(part @ np.kron(np.eye(one.n_levels), E) @ part.T)
    directions.append(V)
    Vi = np.linalg.inv(V)
    return X, y, Vi, directions


@pytest.mark.parametrize("kind", ["random", "boundary", "zero"])
@pytest.mark.parametrize("name", SMALL)
def test_information_is_that_of_dense_formulas(name, kind):
    model = MODELS[name]
    theta = model.theta(kind)
    deviance = model.sparse(True, Strategy(None, "dense"))
    info = information(deviance, theta)
    X, y, Vi, G = dense_quantities(model, theta)
    S = X.T @ Vi @ X
    P = Vi - Vi @ X @ np.linalg.solve(S, X.T @ Vi) if X.shape[1] else Vi
    traces, restricted = (
        np.array([[np.sum(a * b.T) for b in parts] for a in parts])
        for parts in ([Vi @ g for g in G], [P @ g for g in G])
    )
    size = np.sqrt(np.outer(np.diag(traces), np.diag(traces)))
    np.testing.assert_allclose(info.K / size, traces / size, atol=1e-10)
    np.testing.assert_allclose(info.restricted / size, restricted / size, atol=1e-10)
    if X.shape[1]:
        T = np.linalg.solve(np.linalg.cholesky(S), np.eye(len(S))).T  # X T is orthonormal in V^-1
        slopes = np.array([T.T @ X.T @ Vi @ g @ Vi @ X @ T for g in G])
        turn = np.linalg.solve(T, info.root)  # another orthonormal basis
        turned = np.array([turn.T @ c @ turn for c in slopes])
        np.testing.assert_allclose(info.C, turned, atol=1e-9 * np.abs(slopes).max())
    pwrss = y @ P @ y
    assert pwrss / deviance.df == pytest.approx(info.scale, rel=1e-9)
    Py = P @ y
    GPy = np.column_stack([g @ Py for g in G[:-1]])
    H = GPy.T @ P @ GPy / info.scale
    np.testing.assert_allclose(info.H, H, atol=1e-9 * max(np.abs(H).max(), 1e-300))


@pytest.mark.parametrize(
    ("kind", "reml"), [("random", False), ("boundary", True)], ids=["ml", "reml"]
)
@pytest.mark.parametrize("name", SMALL)
def test_exact_hessian_is_the_difference_of_the_gradient(name, kind, reml):
    model = MODELS[name]
    theta = model.theta(kind)
    deviance = model.sparse(reml)
    H = information(deviance, theta).observed
    profiled = H[:-1, :-1] - np.outer(H[:-1, -1], H[:-1, -1]) / H[-1, -1]  # sigma^2 profiled out
    expected = deviance.hessian(theta)
    np.testing.assert_allclose(profiled, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["crossed_three", "nested", "slope"])
def test_information_does_not_depend_on_the_elimination(name):
    model = MODELS[name]
    theta = model.theta("random")
    first = information(model.sparse(True), theta)
    for strategy in model.strategies()[1::9]:
        other = information(model.sparse(True, strategy), theta)
        np.testing.assert_allclose(other.restricted, first.restricted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("structure", ["compound symmetry", "autoregressive"])
def test_patterned_covariances(structure):
    n, l = 120, 15
    rng = np.random.default_rng(3)
    codes, x = np.repeat(np.arange(l), n // l), rng.normal(size=n)
    t = np.tile(np.arange(4), n // 4)
    values = np.eye(4)[t]
    g = term("g", codes, values, structure=structure)
    X = np.column_stack([np.ones(n), x])
    model = Model(design(X @ [1.0, 2.0] + rng.normal(size=n), X, g))
    deviance = model.sparse(True)
    theta = np.array([0.7, 0.5, 0.8, 0.6, 0.9])[-deviance.covariance.n_theta :]
    info = information(deviance, theta)
    H = info.observed
    profiled = H[:-1, :-1] - np.outer(H[:-1, -1], H[:-1, -1]) / H[-1, -1]
    expected = deviance.hessian(theta)
    np.testing.assert_allclose(profiled, expected, atol=2e-6 * np.abs(expected).max())
    assert len(info.K) == len(theta) + 1  # not the ten entries of a covariance


@pytest.mark.parametrize("order", ["pattern first", "pattern last", "two patterns"])
def test_information_of_patterns_is_that_of_dense_formulas(order):
    """Next to a free covariance of a crossed factor, and to another pattern."""
    rng = np.random.default_rng(4)
    n = 90
    t = np.tile(np.arange(3), n // 3)
    x = rng.normal(size=n)
    g = term("g", np.repeat(np.arange(n // 9), 9), np.eye(3)[t], structure="compound symmetry")
    h = term("h", rng.permutation(np.arange(n) % 6), np.column_stack([np.ones(n), x]))
    if order == "two patterns":
        h = replace(h, structure="homogeneous autoregressive")
    X = np.column_stack([np.ones(n), x])
    model = Model(design(rng.normal(size=n), X, *((h, g) if order == "pattern last" else (g, h))))
    deviance = model.sparse(True)
    theta = np.abs(model.theta("random")) + 0.2
    info = information(deviance, theta)
    step, cov = 1e-6, deviance.covariance

    def V(at):
        full = [np.kron(np.eye(o.n_levels), p) for o, p in zip(terms, cov.psi(at), strict=True)]
        return Z @ block_diag(*full) @ Z.T + np.eye(n)

    terms, Z = model.design.terms, model.design.Z.toarray()
    by_theta = [(V(theta + e) - V(theta - e)) / (2 * step) for e in step * np.eye(len(theta))] + [
        V(theta)
    ]
    Vi = np.linalg.inv(V(theta))
    P = Vi - Vi @ X @ np.linalg.solve(X.T @ Vi @ X, X.T @ Vi)
    full = np.array([[np.sum((P @ a) * (P @ b).T) for b in by_theta] for a in by_theta])
    J = info.to_theta
    np.testing.assert_allclose(J.T @ info.restricted @ J, full, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("hom", [True, False])
def test_many_points_of_a_series(hom):
    """A pattern of k coefficients needs matrices k x k, no products of their entries."""
    k, l = 60, 12
    rng = np.random.default_rng(1)
    codes, t = np.repeat(np.arange(l), k), np.tile(np.arange(k), l)
    g = term("g", codes, np.eye(k)[t], structure="homogeneous " * hom + "autoregressive")
    model = Model(design(rng.normal(size=k * l), np.column_stack([np.ones(k * l), t]), g))
    deviance = model.sparse(True)
    theta = np.append(np.ones(1 if hom else k), 0.7)
    information(deviance, theta)
    tracemalloc.start()
    information(deviance, theta)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2.0 * k**3 * 8  # k^4 numbers alone are 100 MB


def test_kenward_roger_with_a_known_covariance_of_levels():
    """Adjusted covariance and df by the formulas of the paper on n x n matrices."""
    data = datasets.load("sleepstudy").drop(index=[0, 5, 17, 33, 90]).reset_index(drop=True)
    names = sorted(data.Subject.unique())
    B = np.random.default_rng(0).normal(size=(18, 30))
    kinship = sparselmm.KnownCovariance(pd.DataFrame(B @ B.T / 30.0, names, names))
    formula = "Reaction ~ Days + (Days | Subject)"
    fit = sparselmm.mixedlm(formula, data, covariance={"Subject": kinship}).fit()
    place, x = data.Subject.map(names.index), data.Days.to_numpy(dtype=float)
    related = (B @ B.T / 30.0)[np.ix_(place, place)]
    G = [related, related * np.add.outer(x, x), related * np.outer(x, x), np.eye(len(x))]
    psi = np.asarray(fit.cov_re)
    parameters = [psi[0, 0], psi[0, 1], psi[1, 1], fit.scale]
    X = np.column_stack([np.ones(len(x)), x])
    Vi = np.linalg.inv(sum(p * g for p, g in zip(parameters, G, strict=True)))
    Phi = np.linalg.inv(X.T @ Vi @ X)
    P = Vi - Vi @ X @ Phi @ X.T @ Vi
    W = 2.0 * np.linalg.inv([[np.trace(P @ g @ P @ h) for h in G] for g in G])
    slopes = [X.T @ Vi @ g @ Vi @ X for g in G]
    bend = sum(W[i, j] * X.T @ Vi @ G[i] @ P @ G[j] @ Vi @ X for i in range(4) for j in range(4))
    tests = fit._ddf("kenward-roger")
    np.testing.assert_allclose(tests.vcov, Phi + 2.0 * Phi @ bend @ Phi, rtol=1e-8)
    moved = np.array([np.diag(Phi @ s @ Phi) for s in slopes])
    df = 2.0 * np.diag(Phi) ** 2 / np.einsum("ic,ij,jc->c", moved, W, moved)
    np.testing.assert_allclose(tests.t_df(np.eye(2)), df, rtol=1e-8)


# -------------------------------------------------------------------------------------- R


@pytest.mark.parametrize(
    ("name", "method"),
    [
        (n, m)
        for n in INFERENCE_IDS
        for m in METHODS
        if m.replace("-", "_") in reference_inference(n)
    ],
)
def test_coefficients_as_in_r(name, method):
    """Formulas at lme4's theta; lmerTest's numerical derivatives are good for 1e-6."""
    record = reference_inference(name)[method.replace("-", "_")]
    fit = fitted(name)
    same = at(fit, reference_fit(name).theta)
    order = in_order(fit, record["coef_names"])
    tests = same._ddf(method)
    eye = np.eye(fit.k_fe)[order]
    df, se = tests.t_df(eye), np.sqrt(np.diag(tests.vcov))[order]
    p = 2.0 * stats.t.sf(np.abs(same._est.beta[order] / se), df)
    np.testing.assert_allclose(df, record["df"], rtol=1e-5)
    np.testing.assert_allclose(se, record["se"], rtol=1e-7)
    np.testing.assert_allclose(p, record["p"], rtol=1e-5, atol=1e-9)
    if method == "kenward-roger":
        V = tests.vcov[np.ix_(order, order)]
        np.testing.assert_allclose(V, record["vcov_adj"], atol=1e-7 * np.abs(V).max())
    own = fit.t_test(eye, ddf=method)  # at this package's own optimum
    np.testing.assert_allclose(own.df_denom, record["df"], rtol=1e-3)
    np.testing.assert_allclose(own.pvalue, np.squeeze(record["p"]), atol=1e-5)
    np.testing.assert_allclose(own.sd, record["se"], rtol=1e-5)  # theta stops within 3e-5 se


@both
@pytest.mark.parametrize("name", SINGULAR)
def test_singular_fits_as_in_r(name, method):
    case = SINGULAR[name]
    record = case[method.replace("-", "_")]["coefficients"]
    with pytest.warns(sparselmm.SingularMatrixWarning):
        fit = sparselmm.mixedlm(case["formula"], datasets.load(case["dataset"])).fit()
    same = at(fit, case["theta"])
    order = in_order(fit, record["names"])
    tests = same._ddf(method)
    np.testing.assert_allclose(tests.t_df(np.eye(fit.k_fe)[order]), record["df"], rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(np.diag(tests.vcov))[order], record["se"], rtol=1e-9)


# -------------------------------------------------------------------------- closed forms


@both
def test_balanced_designs_have_the_df_of_the_analysis_of_variance(method):
    blocks, plots, splits = 7, 3, 4
    rng = np.random.default_rng(5)
    b, v, s = (i.ravel() for i in np.indices((blocks, plots, splits)))
    y = rng.normal(size=blocks)[b] * 2 + rng.normal(size=(blocks, plots))[b, v] * 1.5
    data = pd.DataFrame({"y": y + rng.normal(size=len(b)), "b": b, "v": v, "s": s})
    data = data.astype({"v": str, "s": str})
    fit = sparselmm.mixedlm("y ~ v * s + (1 | b/v)", data).fit()
    table = fit.anova(ddf=method)
    whole, split = (blocks - 1) * (plots - 1), plots * (blocks - 1) * (splits - 1)
    np.testing.assert_allclose(table.df_den, [whole, split, split], rtol=1e-9)
    means = data.groupby(["b", "v"]).y.mean().unstack()
    error = means.sub(means.mean(axis=1), axis=0).sub(means.mean() - means.to_numpy().mean())
    F = blocks * ((means.mean() - means.to_numpy().mean()) ** 2).sum() / (plots - 1)
    F /= (error**2).to_numpy().sum() / whole
    assert table.F["v"] == pytest.approx(F, rel=1e-9)
    assert table.p_value["v"] == pytest.approx(stats.f.sf(F, plots - 1, whole), rel=1e-9)


def test_units_do_not_matter():
    data = datasets.load("dietox")
    other = data.assign(Weight=data.Weight * 1e3, Time=data.Time * 1e-4)
    fits = [sparselmm.mixedlm("Weight ~ Time * Cu + (Time | Pig)", d).fit() for d in (data, other)]
    for method in METHODS:
        first, second = (fit.anova(ddf=method) for fit in fits)
        np.testing.assert_allclose(second.df_den, first.df_den, rtol=1e-5)
        np.testing.assert_allclose(second.F, first.F, rtol=1e-5)


@both
def test_rows_of_contrasts_span_what_is_tested(method):
    fit = fitted("cake_cell_reml")
    rng = np.random.default_rng(1)
    L = np.zeros((2, fit.k_fe))
    L[[0, 1], [1, 2]] = 1.0
    one = fit.f_test(L, ddf=method)
    double = fit.f_test(np.vstack([L, L[:1] - L[1:]]), ddf=method)
    assert double.df_num == one.df_num == 2
    turned = fit.f_test(rng.normal(size=(2, 2)) @ L, ddf=method)
    assert turned.statistic == pytest.approx(one.statistic, rel=1e-9)
    single = fit.f_test(L[:1], ddf=method)
    t = fit.t_test(L[:1], ddf=method)
    assert single.statistic == pytest.approx(float(t.statistic[0]) ** 2, rel=1e-9)
    assert single.df_denom == pytest.approx(float(t.df_denom[0]), rel=1e-9)
    shifted = fit.wald_test((L[:1], [1.0]), ddf=method)
    t = fit.t_test((L[:1], [1.0]), ddf=method)
    assert shifted.statistic == pytest.approx(float(t.statistic[0]) ** 2, rel=1e-9)


@pytest.mark.parametrize("method", ["z", *METHODS])
def test_no_hypothesis_is_lost_to_units(method):
    """Variances of coefficients 1e18 apart are not dependent rows."""
    data = datasets.load("dietox").iloc[:240].assign(z=lambda d: np.sin(d.index * 1.7))
    tests = []
    for unit in (1.0, 1e9):
        data["x"] = data.z * data.Time * unit
        fit = sparselmm.mixedlm("Weight ~ Time + z + x + (1 | Pig)", data).fit()
        tests.append(fit._ddf(method).f_test(np.eye(4)[2:]))
        assert tests[-1].df_num == 2
    first, second = tests
    assert second.statistic == pytest.approx(first.statistic, rel=1e-6)
    if method != "satterthwaite":  # the mean of squared t depends on which two are taken
        assert second.df_den == pytest.approx(first.df_den, rel=1e-6)


@both
def test_contradictory_rows_are_refused(method):
    fit = fitted("ergo_ri_reml")
    L = np.eye(4)[[1, 2, 1]]
    fit.f_test((L, [1.0, 2.0, 1.0]), ddf=method)
    with pytest.raises(sparselmm.DataError, match="contradict each other"):
        fit.f_test((L, [1.0, 2.0, 1.1]), ddf=method)
    with pytest.raises(sparselmm.DataError, match="contradict each other"):
        fit.f_test((L * [[1.0], [1.0], [0.0]], [1.0, 2.0, 3.0]), ddf=method)


def test_without_random_effects_the_df_are_those_of_least_squares():
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"x": rng.normal(size=40), "g": np.tile(np.arange(8), 5)})
    data["y"] = data.x + rng.normal(size=40)
    data["y"] -= data.groupby("g").y.transform("mean") * 0.99
    with pytest.warns(sparselmm.SingularMatrixWarning):
        fit = sparselmm.mixedlm("y ~ x + (1 | g)", data).fit()
    assert fit.theta[0] == 0.0
    assert fit.t_test("x = 0", ddf="satterthwaite").df_denom[0] == pytest.approx(38.0, rel=1e-12)


# --------------------------------------------------------------------- what users meet


def test_dropped_columns():
    fit = fitted("cake_cell_reml")
    dropped = [fit.built.design.x_names.index(name) for name in fit.dropped]
    eye = np.eye(fit.k_fe)
    for method in ("z", *METHODS):
        tests = fit._ddf(method)
        assert np.isnan(tests.t_df(eye))[dropped].all()
        assert np.isnan(tests.t_df(eye)).sum() == len(dropped)
        with pytest.raises(sparselmm.DataError, match="row 0 of the contrasts uses a dropped"):
            tests.f_test(eye[dropped])
    assert "" in fit.summary(ddf="kenward-roger").tables[1]["df"].tolist()


def test_z_is_the_wald_test():
    fit = fitted("ergo_ri_reml")
    L = np.eye(4)[1:]
    test = fit._ddf("z").f_test(L)
    wald = fit.wald_test(L)
    assert test.statistic * 3 == pytest.approx(wald.statistic, rel=1e-12)
    assert test.p_value == pytest.approx(wald.pvalue, rel=1e-10)
    assert fit.t_test(L, ddf="z").distribution == "norm"


def test_refusals():
    fit = fitted("sleep_slope_ml")
    with pytest.raises(ValueError, match="fit again with reml=True"):
        fit.summary(ddf="kenward-roger")
    with pytest.raises(ValueError, match="ddf must be one of"):
        fit.summary(ddf="kenwood")
    with pytest.raises(ValueError, match="involve variances"):
        fit.wald_test("Subject Var = 0", ddf="satterthwaite")
    with pytest.raises(ValueError, match="use_t or ddf"):
        fit.t_test("Days = 0", use_t=True, ddf="satterthwaite")
    with pytest.raises(ValueError, match="leave out"):
        fit.wald_test("Days = 0", use_f=False, ddf="satterthwaite")
    with pytest.raises(ValueError, match="contrasts need 2 columns"):
        fit._ddf("satterthwaite").t_df(np.eye(3))
    with pytest.raises(sparselmm.DataError, match="all zero"):
        fit._ddf("satterthwaite").f_test(np.zeros((1, 2)))
    penalized = sparselmm.mixedlm(
        "Reaction ~ Days + (Days | Subject)", datasets.load("sleepstudy")
    ).fit_regularized(alpha=1.0)
    with pytest.raises(ValueError, match="plain ML or REML"):
        penalized.summary(ddf="satterthwaite")


def test_a_variance_the_fixed_effects_explain_is_announced():
    data = datasets.load("ergoStool")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sparselmm.exceptions.ModelWarning)
        fit = sparselmm.mixedlm("effort ~ Type + (1 | Subject) + (1 | Type)", data).fit()
    with pytest.warns(sparselmm.exceptions.SpecificationWarning, match="do not determine"):
        df = fit.t_test(np.eye(4)[1:], ddf="satterthwaite").df_denom
    np.testing.assert_allclose(df, 24.0, rtol=1e-6)


def test_summary_table():
    fit = fitted("ergo_ri_reml")
    table = fit.summary(ddf="kenward-roger").tables[1]
    assert list(table.columns) == ["Coef.", "Std.Err.", "df", "t", "P>|t|", "[0.025", "0.975]"]
    low, high = fit.t_test(np.eye(4), ddf="kenward-roger").conf_int()[1]
    assert (table.iloc[1, 5], table.iloc[1, 6]) == (f"{low:.3f}", f"{high:.3f}")
    text = str(fit.summary(ddf="kenward-roger"))
    assert "t tests by Kenward and Roger" in text
    assert str(fit.summary(ddf="z")) == str(fit.summary())
    assert "rrrrrrr" in fit.summary(ddf="satterthwaite").as_latex()


@pytest.mark.slow
def test_coverage():
    """95 % intervals and 5 % tests of a treatment of 4 and 5 unbalanced groups, by simulation.

    The normal distribution in place of t with some 7 degrees of freedom rejects too often.
    """
    sizes = [2, 3, 4, 5, 6, 2, 4, 3, 7]
    g = np.repeat(np.arange(9), sizes)
    data = pd.DataFrame({"g": g, "x": (g >= 4).astype(float)})
    rng, rounds = np.random.default_rng(6), 600
    covered, by_z = dict.fromkeys(METHODS, 0), 0
    for _ in range(rounds):
        data["y"] = 2.0 * data.x + 1.5 * rng.normal(size=9)[g] + rng.normal(size=len(g))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sparselmm.exceptions.ModelWarning)
            fit = sparselmm.mixedlm("y ~ x + (1 | g)", data).fit()
        for ddf in METHODS:
            low, high = fit.t_test([0.0, 1.0], ddf=ddf).conf_int()[0]
            covered[ddf] += low < 2.0 < high
            p = fit.f_test(([0.0, 1.0], [2.0]), ddf=ddf).pvalue
            assert (p > 0.05) == (low < 2.0 < high)
        by_z += abs(fit.fe_params["x"] - 2.0) > 1.96 * fit.bse_fe["x"]
    error = np.sqrt(0.05 * 0.95 / rounds)
    for ddf, hits in covered.items():
        assert abs(hits / rounds - 0.95) < 3.0 * error, ddf
    assert by_z / rounds > 0.05 + 3.0 * error


def test_after_remove_data():
    fit = sparselmm.mixedlm("effort ~ Type + (1 | Subject)", datasets.load("ergoStool")).fit()
    before = fit.t_test(np.eye(4), ddf="kenward-roger").df_denom
    fit.remove_data()
    np.testing.assert_array_equal(fit.t_test(np.eye(4), ddf="kenward-roger").df_denom, before)
