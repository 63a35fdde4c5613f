"""Results against lme4 at the stored theta, against textbook formulas, and their own shapes."""

import pickle
import warnings
from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.linalg as sla
from reference_fits import REFERENCE_IDS, reference_fit
from scipy.stats import norm

import sparselmm
from sparselmm import MixedLM, MixedLMResults, datasets
from sparselmm.base.exceptions import (
    DataError,
    MemoryLimitError,
    RankDeficiencyWarning,
    SingularMatrixWarning,
    SpecificationWarning,
)
from sparselmm.inference import effects
from sparselmm.results.print import labels

LARGE = {"chem97", "insteval", "mathach"}
IDS = [
    pytest.param(name, marks=pytest.mark.slow if name.split("_")[0] in LARGE else ())
    for name in REFERENCE_IDS
]
ONE_FACTOR = [one for one in IDS if len(reference_fit(one.values[0]).terms) == 1]


def results_at(model, theta, reml=True):
    """Results of a model at a given theta, without an optimizer."""
    deviance = model.deviance(reml)
    opt = SimpleNamespace(
        theta=theta,
        converged=True,
        message="",
        gradient_norm=1e-7,
        n_evaluations=9,
        expected_decrease=1e-12,
        smallest_eigenvalue=1.0,
    )
    return MixedLMResults(model, model.built, deviance, deviance.at(theta), opt)


@cache
def lme4(name):
    """A reference fit and our results at its theta."""
    reference = reference_fit(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficiencyWarning)
        expression = reference.weights_formula
        weights = None if expression is None else reference.data.eval(expression).to_numpy()
        model = MixedLM.from_formula(
            reference.formula, reference.data, weights=weights, missing="drop"
        )
        return reference, results_at(model, reference.theta, reference.reml)


def close(actual, expected, rtol=1e-7, scale=None):
    """Compare with an absolute tolerance of ``rtol`` times the largest entry (or ``scale``)."""
    expected = np.asarray(expected, dtype=float)
    size = np.nanmax(np.abs(expected), initial=0.0) if scale is None else scale
    np.testing.assert_allclose(np.asarray(actual, dtype=float), expected, rtol, rtol * size)


# ---------------------------------------------------------------------------- against lme4


@pytest.mark.parametrize("name", IDS)
def test_scale_and_fixed_effects(name):
    reference, fit = lme4(name)
    close(fit.sigma, reference.sigma)
    assert len(fit.dropped) == len(reference.dropped)
    if set(fit.dropped) == set(reference.dropped):  # otherwise another, equivalent, basis
        close(fit.fe_params[reference.fixef.index], reference.fixef)
        names = list(reference.fixef.index)
        close(fit.cov_params().loc[names, names], reference.vcov)
        close(fit.bse_fe[names], np.sqrt(np.diag(reference.vcov)))
        close(fit.llf, reference.loglik, 1e-10)
        close(fit.aic_reml, reference.aic, 1e-10)
        close(fit.bic_reml, reference.bic, 1e-10)
    assert fit.singular == reference.singular


@pytest.mark.parametrize("name", IDS)
def test_variance_components(name):
    reference, fit = lme4(name)
    expected = sla.block_diag(*(term.cov for term in reference.terms))
    close(fit.cov_re, expected)
    table = fit.varcorr
    sd = np.concatenate([np.sqrt(np.diag(term.cov)) for term in reference.terms])
    single = table[table.var2.isna()]
    close(single.sdcor, [*sd, reference.sigma])
    close(single.vcov, [*sd**2, reference.sigma**2])
    assert table.grp.iloc[-1] == "Residual"
    assert [g.split(".")[0] for g in single.grp[:-1]] == [
        term.group for term in reference.terms for _ in term.names
    ]


@pytest.mark.parametrize("name", IDS)
def test_random_effects(name):
    reference, fit = lme4(name)
    sigma = reference.sigma
    for term in reference.terms:
        table = fit.ranef[term.group][list(term.names)]
        table.index = table.index.astype(str)
        assert len(table) == term.n_levels
        close(table.loc[list(term.levels)], term.ranef, scale=sigma)
        close(table.sum(), term.ranef_sum, scale=sigma * term.n_levels)
        close((table**2).sum(), term.ranef_sumsq, scale=sigma**2)
        variance = fit.ranef_var[term.group][list(term.names)]
        variance.index = variance.index.astype(str)
        condvar = term.condvar[: len(term.levels)]
        first = variance.loc[list(term.levels)].to_numpy()[: len(condvar)]
        close(first, np.einsum("bii->bi", condvar), scale=sigma**2)


@pytest.mark.parametrize("name", ONE_FACTOR)
def test_conditional_covariances(name):
    """Several factors are compared with textbook formulas below."""
    reference, fit = lme4(name)
    (first,) = reference.terms
    blocks = {str(key): block for key, block in fit.random_effects_cov.items()}
    for label, expected in zip(first.levels, first.condvar, strict=False):
        close(blocks[label].loc[list(first.names), list(first.names)], expected, 1e-6)


@pytest.mark.parametrize("name", IDS)
def test_fitted_values_and_residuals(name):
    reference, fit = lme4(name)
    raw, size = reference.raw, np.abs(reference.y).max()
    shown = len(raw["fitted_first"])
    close(fit.fittedvalues.iloc[:shown], raw["fitted_first"], scale=size)
    close(fit.resid.iloc[:shown], raw["resid_first"], scale=size)
    close((fit.resid**2).sum(), raw["resid_sumsq"])
    close((fit.fittedvalues**2).sum(), raw["fitted_sumsq"])


def test_criteria_are_nan_under_reml_only():
    _, reml = lme4("sleep_slope_reml")
    _, ml = lme4("sleep_slope_ml")
    assert np.isnan([reml.aic, reml.bic]).all()
    assert (ml.aic, ml.bic) == (ml.aic_reml, ml.bic_reml)
    assert (reml.method, ml.method) == ("REML", "ML")


# ------------------------------------------------------------------- against textbook formulas


def pastes():
    data = datasets.load("sm_pastes")
    return data.drop(index=data.index[[0, 1, 7, 20, 21, 22]])  # groups of different sizes


def crossed_data():
    rng = np.random.default_rng(7)
    n = 120
    data = pd.DataFrame(
        {"g": rng.integers(0, 9, n), "h": rng.integers(0, 7, n), "x": rng.normal(size=n)}
    )
    effects = rng.normal(size=9)[data.g] + rng.normal(size=7)[data.h] * (1 + data.x)
    return data.assign(y=1 + data.x + effects + rng.normal(size=n))


@cache
def model(name):
    """Small models of every spelling."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpecificationWarning)
        return MODELS[name]()


def per_group():
    return MixedLM.from_formula(
        "strength ~ 1", pastes(), groups="batch", vc_formula={"c": "C(cask)", "b": "1"}
    )


def with_matrix():
    data = crossed_data()
    Z = np.random.default_rng(1).normal(size=(len(data), 4))
    return MixedLM.from_formula("y ~ x + (1 | g)", data, z_terms={"m": Z})


MODELS = {
    "slope": lambda: MixedLM.from_formula(
        "Weight ~ Time", datasets.load("sm_dietox")[:120], groups="Pig", re_formula="~Time"
    ),
    "component": lambda: MixedLM.from_formula(
        "strength ~ 1", pastes(), groups="batch", re_formula="1",
        vc_formula={"cask": "0 + C(cask)"},
    ),
    "per_group": per_group,
    "crossed_components": lambda: MixedLM.from_formula(
        "y ~ x", crossed_data(), groups=np.ones(120), vc_formula={"b": "0+C(h)", "a": "0+C(g)"}
    ),
    "crossed_bars": lambda: MixedLM.from_formula("y ~ x + (1 | g) + (x | h)", crossed_data()),
    "double_bar": lambda: MixedLM.from_formula("y ~ x + (x || h)", crossed_data()),
    "double_bar_crossed": lambda: MixedLM.from_formula("y ~ x + (1|g) + (x||h)", crossed_data()),
    "mixture": lambda: MixedLM.from_formula("y ~ x + (0 + x | h)", crossed_data(), groups="g"),
    "same_factor": lambda: MixedLM.from_formula("y ~ x + (0 + x | g)", crossed_data(), groups="g"),
    "matrix": with_matrix,
    "weights": lambda: MixedLM.from_formula(
        "y ~ x + (x | h)", crossed_data().assign(w=np.linspace(0.5, 3, 120)), weights="w"
    ),
}  # fmt: skip


@cache
def fitted(name, reml=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularMatrixWarning)
        return model(name).fit(reml=reml)


def marginal(fit, psi, scale):
    """V and the covariance of b, dense, from the terms' covariances in data units."""
    design = fit.built.design
    Z = design.Z.toarray()
    G = sla.block_diag(
        *(np.kron(np.eye(t.n_levels), block) for t, block in zip(design.terms, psi, strict=True))
    )
    w = np.ones(design.n) if design.weights is None else design.weights
    return Z @ G @ Z.T + np.diag(scale / w), G, Z


@pytest.mark.parametrize("name", MODELS)
def test_conditional_moments_are_textbook(name):
    fit = fitted(name)
    design = fit.built.design
    V, G, Z = marginal(fit, fit._est.psi, fit.scale)
    residual = design.y - design.X @ np.asarray(fit.fe_params)
    b = G @ Z.T @ np.linalg.solve(V, residual)
    posterior = G - G @ Z.T @ np.linalg.solve(V, Z @ G)
    close(fit.b, b, 1e-8)
    close(np.concatenate([v.to_numpy().ravel("F") for v in _by_term(fit)]), b_by_term(fit, b), 1e-8)
    n_units = 0
    for units in fit._est.units:
        several = len(fit._est.units) > 1
        for j, label in enumerate(units.labels.tolist()):
            at = units.columns[units.indptr[j] : units.indptr[j + 1]]
            key = (units.factor, label) if several else label
            block = fit.random_effects_cov[key]
            close(block, posterior[np.ix_(at, at)], 1e-7, np.abs(G).max())
            assert list(block.index) == list(block.columns) == list(fit.random_effects[key].index)
            close(fit.random_effects[key], b[at], 1e-8, np.abs(b).max())
            n_units += 1
    assert n_units == len(fit.random_effects) == len(fit.random_effects_cov)
    variance = np.concatenate([v.to_numpy().ravel() for v in fit.ranef_var.values()])
    close(np.sort(variance), np.sort(np.diag(posterior)), 1e-7)


def _by_term(fit):
    return [table for _, table in sorted(fit.ranef.items())]


def b_by_term(fit, b):
    """b in the order of the ``ranef`` tables, columns first."""
    parts = []
    for _, table in sorted((t.name, t) for t in effects.factor_tables(fit._est.terms)):
        for t in table.terms:
            part = fit.deviance.cross.slices[t]
            parts.append(b[part].reshape(-1, fit._est.terms[t].k).ravel("F"))
    return np.concatenate(parts)


def minus_two_log_likelihood(fit, packed, reml):
    """Textbook deviance at (packed Psi entries, sigma^2), fixed effects profiled out."""
    layout, design = fit._est.places, fit.built.design
    psi = [np.zeros_like(block) for block in fit._est.psi]
    for value, t, i, j in zip(packed[:-1], layout.terms, layout.rows, layout.cols, strict=True):
        psi[t][i, j] = psi[t][j, i] = value
    V, _, _ = marginal(fit, psi, packed[-1])
    X, y = design.X, design.y
    XtVX, r = X.T @ np.linalg.solve(V, X), None
    beta = np.linalg.solve(XtVX, X.T @ np.linalg.solve(V, y))
    r = y - X @ beta
    value = np.linalg.slogdet(V)[1] + r @ np.linalg.solve(V, r)
    return value + (np.linalg.slogdet(XtVX)[1] if reml else 0.0)


@pytest.mark.parametrize("name", ["slope", "component", "crossed_bars", "matrix", "weights"])
@pytest.mark.parametrize("reml", [True, False])
def test_standard_errors_of_variances_are_those_of_the_observed_information(name, reml):
    fit = fitted(name, reml)
    assert not fit.singular
    packed = np.append(fit._est.places.pick(fit._est.psi), fit.scale)
    m = len(packed)
    step = 5e-4 * fit._est.variance_covariance.absolute.diagonal() ** 0.5
    H = np.empty((m, m))
    for i, a in enumerate(np.diag(step)):
        for j, b in enumerate(np.diag(step)):
            corners = [(a + b, 1), (a - b, -1), (b - a, -1), (-a - b, 1)]
            H[i, j] = sum(
                sign * minus_two_log_likelihood(fit, packed + move, reml) for move, sign in corners
            ) / (4 * step[i] * step[j])
    expected = np.sqrt(np.diag(2.0 * np.linalg.inv(H)))
    close(fit.bse_re, expected[:-1], 2e-4)  # second differences of a value carry no more digits
    ratios = fit._est.places.pick(fit._est.psi) / fit.scale
    slope = np.column_stack([np.eye(m - 1) / fit.scale, -ratios / fit.scale])
    delta = np.sqrt(np.diag(slope @ (2.0 * np.linalg.inv(H)) @ slope.T))
    close(fit.bse[fit.k_fe :], delta, 2e-4)


def test_standard_error_of_the_dietox_variance():
    fit = MixedLM.from_formula("Weight ~ Time", datasets.load("sm_dietox"), groups="Pig").fit()
    close(fit.bse_re["Pig Var"], 6.939, 1e-4)
    close(fit.bse["Pig Var"], 0.63734, 1e-4)  # ratio units, as statsmodels reports


# ------------------------------------------------------------------------ names and shapes


def test_packing_names_and_units():
    fit = fitted("slope")
    names = ["Intercept", "Time", "Pig Var", "Pig x Time Cov", "Time Var"]
    for vector in (fit.params, fit.bse, fit.tvalues, fit.pvalues, fit.conf_int(), fit.cov_params()):
        assert list(vector.index) == names
    psi = fit.cov_re
    assert list(psi.index) == list(psi.columns) == ["Pig", "Time"]
    ratios = [psi.loc["Pig", "Pig"], psi.loc["Time", "Pig"], psi.loc["Time", "Time"]]
    close(fit.params.iloc[2:] * fit.scale, ratios)
    close(fit.cov_re_unscaled * fit.scale, psi)
    close(fit.bse[fit.k_fe :] ** 2, np.diag(fit.cov_params())[fit.k_fe :])
    assert (fit.bse[: fit.k_fe] >= fit.bse_fe).all()  # with the uncertainty of the variances
    close(fit.normalized_cov_params * fit.scale, fit.cov_params())
    close(fit.tvalues, fit.params / fit.bse)
    close(fit.pvalues, 2 * norm.sf(np.abs(fit.params / fit.bse)))
    close(fit.conf_int(0.1)[0], fit.params - norm.ppf(0.95) * fit.bse)
    assert list(fit.conf_int().columns) == [0, 1]
    assert (fit.k_fe, fit.k_re, fit.k_re2, fit.k_vc) == (2, 2, 3, 0)
    assert (fit.df_modelwc, fit.df_resid, fit.nobs) == (5, 118, 120)
    assert fit.use_t is False


@pytest.mark.parametrize(
    ("name", "params", "cov_re", "n_components"),
    [
        ("component", ["batch Var", "cask Var"], ["batch"], 1),
        ("crossed_components", ["a Var", "b Var"], [], 2),
        (
            "crossed_bars",
            ["g Var", "h Var", "h x h[x] Cov", "h[x] Var"],
            ["g", "h", "h[x]"],
            0,
        ),
        ("double_bar_crossed", ["g Var", "h Var", "h[x] Var"], ["g", "h", "h[x]"], 0),
        ("mixture", ["g Var", "h[x] Var"], ["g", "h[x]"], 0),
        ("matrix", ["g Var", "m Var"], ["g"], 1),
    ],
)
def test_names_of_variance_parameters(name, params, cov_re, n_components):
    fit = fitted(name)
    assert set(fit.params.index[fit.k_fe :]) == set(params)
    assert set(fit.cov_re.index) == set(cov_re)
    assert type(fit.vcomp) is np.ndarray
    assert len(fit.vcomp) == n_components
    close(fit.vcomp, fit.params.iloc[-n_components:] * fit.scale if n_components else [])


@pytest.mark.parametrize(
    ("name", "key", "names"),
    [
        ("slope", "4601", ["Pig", "Time"]),
        ("component", "B", ["batch", "cask[C(cask)[a]]", "cask[C(cask)[b]]", "cask[C(cask)[c]]"]),
        ("double_bar", 3, ["Intercept", "x"]),
        ("crossed_bars", ("h", 3), ["Intercept", "x"]),
        ("mixture", ("g", 3), ["g"]),
        ("mixture", ("h", 3), ["x"]),
        ("same_factor", 3, ["g", "x"]),
        ("matrix", ("m", 2), ["m"]),
    ],
)
def test_keys_of_random_effects(name, key, names):
    fit = fitted(name)
    assert type(fit.random_effects) is dict
    assert list(fit.random_effects[key].index) == names


def test_tables_have_one_shape():
    fit = fitted("component")
    assert list(fit.ranef) == list(fit.ranef_var) == ["batch", "cask"]
    assert fit.ranef["cask"].index[0].startswith("A:")
    assert list(fit.ranef["cask"].columns) == ["cask"]
    nested = lme4("pastes_nested_reml")[1]
    assert list(nested.ranef) == ["cask:batch", "batch"]
    assert nested.ranef["cask:batch"].index[0] == "a:A"


def test_covariances_that_would_not_fit_are_refused(monkeypatch):
    fit = model("slope").fit()
    monkeypatch.setattr(labels, "MAX_COVARIANCES", 10)
    with pytest.raises(MemoryLimitError, match="ranef_var"):
        _ = fit.random_effects_cov


# ----------------------------------------------------------------------------- arrays


@cache
def array_fit():
    data = datasets.load("sm_dietox")[:240]
    X = np.column_stack([np.ones(len(data)), data.Time])
    return MixedLM(data.Weight.to_numpy(), X, data.Pig.to_numpy()).fit()


def test_arrays_give_arrays():
    fit = array_fit()
    for name in ("params", "bse", "fe_params", "bse_fe", "bse_re", "tvalues", "pvalues", "cov_re",
                 "fittedvalues", "resid", "normalized_cov_params"):  # fmt: skip
        assert type(getattr(fit, name)) is np.ndarray, name
    assert type(fit.conf_int()) is type(fit.cov_params()) is np.ndarray
    label = fit.built.design.groups.labels[0]
    assert list(fit.random_effects[label].index) == ["Group Var"]
    assert type(fit.random_effects_cov[label]) is pd.DataFrame
    assert fit.param_names == ["const", "x1", "Group Var"]


def test_arrays_predict():
    fit = array_fit()
    X = fit.built.design.X[:5]
    labels = fit.model.groups[:5]
    close(fit.predict(X), X @ fit.fe_params)
    close(fit.predict(X, re=True, groups=labels), fit.fittedvalues[:5])
    with pytest.raises(DataError, match="groups"):
        fit.predict(X, re=True)
    with pytest.raises(DataError, match="2"):
        fit.predict(X[:, :1])


# -------------------------------------------------------------------- fitted and predicted


def test_rows_keep_their_index():
    data = datasets.load("sm_dietox")[:240].sample(frac=1, random_state=3)
    fit = MixedLM.from_formula("Weight ~ Time", data, groups="Pig").fit()
    assert fit.fittedvalues.index.equals(data.index)
    close(fit.fittedvalues + fit.resid, data.Weight)
    assert type(fit.predict()) is np.ndarray
    close(fit.predict(), fit.predict(data))
    assert fit.predict(data.iloc[:7]).index.equals(data.index[:7])
    close(fit.predict(data, re=True), fit.fittedvalues)
    close(fit.predict(re=True), fit.fittedvalues)


@pytest.mark.parametrize("name", ["component", "per_group", "crossed_bars", "mixture", "weights"])
def test_prediction_of_the_training_rows(name):
    fit = fitted(name)
    frame = fit.built.frame
    close(fit.predict(frame, re=True), fit.fittedvalues, 1e-10)
    close(fit.predict(frame.to_dict("list"), re=True), fit.fittedvalues, 1e-10)


@pytest.mark.parametrize("name", ["crossed_bars", "mixture"])
def test_unseen_levels(name):
    fit = fitted(name)
    new = fit.built.frame.iloc[:4].assign(h=[0, 77, 1, 88])
    with pytest.raises(DataError, match=r"2 row.*'h'.*77, 88.*unseen='population'"):
        fit.predict(new, re=True)
    missing = fit.predict(new, re=True, unseen="nan")
    assert missing.isna().tolist() == [False, True, False, True]
    population = fit.predict(new, re=True, unseen="population")
    close(population[[True, False, True, False]], missing.dropna())
    g = fit.ranef["g"].iloc[:, 0]
    close(population.iloc[1], fit.predict(new).iloc[1] + g[new.g.iloc[1]])
    with pytest.raises(DataError, match="unseen must be one of"):
        fit.predict(new, re=True, unseen="zero")


@pytest.mark.parametrize("name", ["component", "per_group"])
def test_unseen_labels_of_a_component(name):
    fit = fitted(name)
    new = fit.built.frame.iloc[:3].assign(cask=["b", "zz", "b"])
    if name == "component":
        with pytest.raises(DataError, match="zz"):
            fit.predict(new, re=True)
    away = fit.built.frame.iloc[:3].assign(batch=["A", "Q", "A"])
    with pytest.raises(DataError, match="Q"):
        fit.predict(away, re=True)
    assert fit.predict(away, re=True, unseen="nan").isna().tolist() == [False, True, False]


def test_prediction_arguments():
    fit = fitted("slope")
    frame = fit.built.frame
    with pytest.raises(TypeError, match="re=True"):
        fit.predict(frame, groups=frame.Pig)
    X = fit.built.design.X
    close(fit.predict(X), fit.predict(frame))
    matrix = pd.DataFrame(X, columns=fit.model.exog_names, index=frame.index)
    close(fit.predict(matrix, transform=False), fit.predict(frame))
    with pytest.raises(DataError, match="re=True needs"):
        fit.predict(X, re=True)


def test_groups_given_as_labels_are_given_anew():
    data = datasets.load("sm_dietox")[:240]
    fit = MixedLM.from_formula(
        "Weight ~ Time", data, groups=data.Pig.astype(int).to_numpy() * 2
    ).fit()
    with pytest.raises(DataError, match="groups"):
        fit.predict(data, re=True)
    close(fit.predict(data, re=True, groups=data.Pig.astype(int) * 2), fit.fittedvalues)
    with pytest.raises(DataError, match="seen: 5"):
        fit.predict(data.iloc[:1], re=True, groups=[5])


def test_offset_is_part_of_fitted_and_predicted():
    reference, fit = lme4("ortho_off_reml")
    frame = fit.built.frame
    close(fit.predict(frame, re=True), fit.fittedvalues, 1e-10)
    close(fit.predict(frame), fit.built.design.X @ fit.fe_params + reference.offset)


def test_dropped_columns_are_nan_and_predict_as_zero():
    data = crossed_data().assign(z=lambda d: 2 * d.x)
    with pytest.warns(RankDeficiencyWarning):
        fit = MixedLM.from_formula("y ~ x + z + (1 | g)", data).fit()
    assert fit.dropped == ("z",)
    assert np.isnan(fit.fe_params["z"])
    assert np.isnan(fit.bse["z"])
    assert np.isnan(fit.cov_params().loc["z"]).sum() == 3
    assert fit.df_resid == 118
    assert fit.k_fe == 3
    with pytest.warns(RankDeficiencyWarning, match="z"):
        prediction = fit.predict(data)
    close(prediction, fit.predict())
    assert "z" in fit.summary().as_text()


# ------------------------------------------------------------------------------ boundary


@cache
def boundary_fit():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularMatrixWarning)
        return MixedLM.from_formula("Yield ~ 1 + (1 | Batch)", datasets.load("Dyestuff2")).fit()


def test_zero_variance_is_finite_everywhere():
    fit = boundary_fit()
    assert fit.singular
    assert np.isfinite([fit.llf, fit.scale, *fit.bse_fe]).all()
    assert (fit.ranef["Batch"] == 0).all().all()
    assert (fit.ranef_var["Batch"] == 0).all().all()
    assert np.isnan(fit.bse["Batch Var"])
    assert np.isfinite(fit.bse["Intercept"])
    assert np.isnan(fit.bse_re["Batch Var"])
    close(fit.fittedvalues, np.full(fit.nobs, fit.fe_params["Intercept"]))


def test_the_other_terms_keep_their_standard_errors():
    data = datasets.load("Penicillin")
    rng = np.random.default_rng(0)
    data = data.assign(h=np.tile(np.arange(12), 12), noise=rng.normal(size=144))
    whole = MixedLM.from_formula("diameter ~ 1 + (1 | plate) + (1 | sample)", data)
    more = MixedLM.from_formula("diameter ~ 1 + (1|plate) + (1|h) + (1|sample)", data)
    best = whole.fit()
    fit = results_at(more, np.array([best.theta[0], 0.0, best.theta[1]]))
    assert np.isnan(fit.bse_re["h Var"])
    names = ["plate Var", "sample Var"]
    close(fit.bse_re[names], best.bse_re[names], 1e-6)


def test_singularity_does_not_depend_on_the_units_of_a_covariate():
    data = datasets.load("sleepstudy").assign(Hours=lambda d: 1e6 * d.Days)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularMatrixWarning)
        fit = MixedLM.from_formula("Reaction ~ Hours + (Hours | Subject)", data).fit()
    assert not fit.singular


# ------------------------------------------------------------------------- save and load


@pytest.mark.parametrize("name", MODELS)
def test_pickle(name):
    fit = fitted(name)
    again = pickle.loads(pickle.dumps(fit))
    assert again.llf == fit.llf
    close(again.bse, fit.bse)
    close(again.ranef_var[next(iter(fit.ranef))], next(iter(fit.ranef_var.values())))
    assert str(again.summary()) == str(fit.summary())


def test_save_and_load(tmp_path):
    fit = fitted("slope")
    fit.save(tmp_path / "fit.pickle")
    loaded = MixedLMResults.load(tmp_path / "fit.pickle")
    close(loaded.predict(fit.built.frame, re=True), fit.fittedvalues)
    with open(tmp_path / "fit.pickle", "rb") as file:
        assert MixedLMResults.load(file).llf == fit.llf
    (tmp_path / "other").write_bytes(pickle.dumps(3))
    with pytest.raises(DataError, match="int"):
        MixedLMResults.load(tmp_path / "other")


def test_public_name():
    assert sparselmm.MixedLMResults is MixedLMResults
