"""Patterned covariances of coefficients and known covariances between levels.

Oracles: lme4's deviance minimized over the same structures, glmmTMB and nlme
(``tests/reference/structures.R``); the dense engine; the tabular method for relationships; the
textbook's formulas with ``K`` in V.
"""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sparselmm
from sparselmm import DataError, FormulaError, KnownCovariance, MixedLM, car, mixedlm, pedigree
from sparselmm.likelihood.covariance import term_covariance
from sparselmm.likelihood.patterned import PATTERNED

REFERENCE = json.loads(
    sparselmm.datasets.data_dir().joinpath("reference/extra/structures.json").read_text("utf-8")
)
BARS = {
    "diag": "diag({})",
    "diag_hom": "diag({}, hom=True)",
    "cs": "cs({})",
    "cs_hom": "cs({}, hom=True)",
    "ar1": "ar1({}, hom=False)",
    "ar1_hom": "ar1({})",
}
FORMULAS = {
    "Machines": ("score ~ Machine + ", "0 + Machine | Worker"),
    "sleepstudy": ("Reaction ~ Days + ", "0 + day | Subject"),
}
PSI = 1e-5
"""A search that stops within 1e-9 of the smallest deviance leaves errors of the root of that."""


def load(name):
    data = sparselmm.datasets.load(name)
    return data.assign(day=data["Days"].astype("category")) if name == "sleepstudy" else data


def model_of(case):
    head, bar = FORMULAS[case["dataset"]]
    return mixedlm(head + BARS[case["structure"]].format(bar), load(case["dataset"]))


def label(case):
    return f"{case['dataset']}-{case['structure']}-{'REML' if case['REML'] else 'ML'}"


def close(actual, wanted, share):
    wanted = np.asarray(wanted, dtype=float)
    np.testing.assert_allclose(np.asarray(actual), wanted, rtol=0, atol=share * abs(wanted).max())


# ------------------------------------------------------------------- patterned covariances


@pytest.mark.parametrize("case", REFERENCE["structures"], ids=label)
def test_structure_reaches_lme4s_optimum(case):
    result = model_of(case).fit(reml=case["REML"])
    assert result.converged
    assert -2.0 * result.llf == pytest.approx(case["criterion"], abs=1e-8)
    close(result.cov_re, case["Psi"], PSI)
    assert result.sigma == pytest.approx(case["sigma"], rel=PSI)
    close(result.fe_params, case["fixef"], 1e-7)
    close(result.cov_params().iloc[: len(case["fixef"]), : len(case["fixef"])], case["vcov"], PSI)


@pytest.mark.parametrize("case", REFERENCE["glmmTMB"], ids=label)
def test_structure_agrees_with_glmmtmb(case):
    result = model_of(case).fit(reml=case["REML"])
    assert -2.0 * result.llf == pytest.approx(case["criterion"], abs=1e-7)
    close(result.cov_re, case["Psi"], 2e-5)  # glmmTMB's nlminb stops a little earlier


@pytest.mark.parametrize("case", REFERENCE["nlme_cs"], ids=lambda case: f"reml={case['REML']}")
def test_compound_symmetry_agrees_with_nlme(case):
    result = model_of({"dataset": "Machines", "structure": "cs_hom"}).fit(reml=case["REML"])
    assert -2.0 * result.llf == pytest.approx(case["criterion"], abs=1e-8)
    close(result.cov_re, case["Psi"], PSI)


@pytest.fixture(scope="module")
def blocks():
    """Correlated coefficients of four kinds in 30 groups, 400 rows."""
    rng = np.random.default_rng(3)
    g, f = rng.integers(0, 30, 400), rng.integers(0, 4, 400)
    b = rng.normal(size=(30, 4)) @ np.linalg.cholesky(0.7 * np.eye(4) + 0.5).T
    x = rng.normal(size=400)
    data = {"y": b[g, f] + x + rng.normal(size=400), "x": x, "g": g, "h": rng.integers(0, 7, 400)}
    return pd.DataFrame(data).assign(f=np.array(list("abcd"))[f])


@pytest.mark.parametrize("scale", [None, 1.3], ids=["sigma free", "sigma held"])
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("structure", ["us", *BARS])
def test_gradient_and_curvature(blocks, structure, reml, scale):
    """Sparse value and gradient against the dense engine and differences of it."""
    bar = BARS.get(structure, "us({})").format("0 + f | g")
    model = mixedlm(f"y ~ x + {bar} + (1 | h)", blocks)
    sparse, dense = model.deviance(reml), model.deviance(reml, "dense")
    sparse.known_scale = dense.known_scale = scale
    for seed in range(2):
        theta = np.random.default_rng(seed).normal(size=model.covariance.n_theta)
        theta = model.covariance.rectify(theta)
        assert sparse.value(theta) == pytest.approx(dense.value(theta), rel=1e-11)
        steps = 1e-5 * np.eye(len(theta))
        ends = [[dense.value(theta + s * e) for s in (1, -1)] for e in steps]
        close(sparse.gradient(theta), np.diff(ends, axis=1)[:, 0] / -2e-5, 1e-7)
        for ours, theirs in zip(
            sparse.tangent_model(theta), dense.tangent_model(theta), strict=True
        ):
            close(ours, theirs, 1e-7)
        np.testing.assert_allclose(
            sparse.pwrss_gradient(theta),
            [(sparse.at(theta + e).pwrss - sparse.at(theta - e).pwrss) / 2e-5 for e in steps],
            rtol=0, atol=1e-5 * sparse.at(theta).pwrss,
        )  # fmt: skip


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("structure", PATTERNED)
def test_root_and_its_derivatives(structure, k):
    """Psi has the pattern, slopes and bends are derivatives, theta comes back from Psi."""
    term = term_covariance(k, structure)
    theta = term.rectify(np.random.default_rng(k).normal(size=term.n_theta))
    lam, steps = term.factor(theta), 1e-5 * np.eye(term.n_theta)
    psi = lam @ lam.T
    correlation = psi / np.sqrt(np.outer(np.diag(psi), np.diag(psi)))
    off = correlation[~np.eye(k, dtype=bool)]
    if "diagonal" in structure:
        np.testing.assert_allclose(off, 0.0, atol=1e-14)
    elif "autoregressive" in structure:
        lag = abs(np.subtract.outer(np.arange(k), np.arange(k)))
        np.testing.assert_allclose(correlation, correlation[0, 1] ** lag, atol=1e-13)
    else:
        np.testing.assert_allclose(off, off[0], atol=1e-13)
    if "homogeneous" in structure:
        np.testing.assert_allclose(np.diag(psi), psi[0, 0], atol=1e-13)
    ends = [(term.factor(theta + e) - term.factor(theta - e)) / 2e-5 for e in steps]
    np.testing.assert_allclose(term.slopes(theta), ends, atol=1e-9)
    slope = np.random.default_rng(1).normal(size=(k, k))
    bends = term.bends(theta, slope)
    ends = [(term.chain(theta + e, slope) - term.chain(theta - e, slope)) / 2e-5 for e in steps]
    np.testing.assert_allclose(np.zeros_like(ends) if bends is None else bends, ends, atol=1e-8)
    np.testing.assert_allclose(term.coordinates(np.linalg.cholesky(psi)), theta, atol=1e-12)
    np.testing.assert_allclose(term.divide(lam, lam.T @ slope), slope, atol=1e-10)


def test_equal_to_unstructured_where_nothing_is_left_out(blocks):
    """Two coefficients: a correlation of their own is compound symmetry and ar1 alike."""
    two = blocks[blocks["f"].isin(["a", "b"])]
    unstructured = mixedlm("y ~ x + (0 + f | g)", two).fit()
    common = mixedlm("y ~ x + cs(0 + f | g)", two).fit()
    assert common.llf == pytest.approx(unstructured.llf, abs=1e-8)
    same = [mixedlm(f"y ~ x + {s}", two).fit() for s in ("cs(0+f|g, hom=True)", "ar1(0+f|g)")]
    assert same[0].llf == pytest.approx(same[1].llf, abs=1e-8)
    assert [r.n_parameters for r in (unstructured, common, *same)] == [6, 6, 5, 5]
    one = mixedlm("y ~ x + cs(1 | g)", blocks)
    assert one.terms[0].structure == "unstructured"


def test_diagonal_is_the_double_bar(blocks):
    single = mixedlm("y ~ 1 + diag(1 + x | g)", blocks).fit()
    double = mixedlm("y ~ 1 + (1 + x || g)", blocks).fit()
    assert single.llf == pytest.approx(double.llf, abs=1e-8)
    assert single.varcorr["var2"].isna().all()
    assert single.param_names == ["Intercept", "g Var", "g[x] Var"]


def test_boundary_of_compound_symmetry(blocks):
    """No differences between coefficients but those of the residual: ``a`` is zero."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=len(blocks))
    data = blocks.assign(y=noise + rng.normal(size=30)[blocks["g"]], x=noise[::-1])
    plain = mixedlm("y ~ x + (1 | g)", data).fit()
    for bar in ("cs(0 + f | g, hom=True)", "ar1(0 + f | g)"):
        with pytest.warns(sparselmm.SingularMatrixWarning):
            result = mixedlm(f"y ~ x + {bar}", data).fit()
        assert result.converged
        assert result.llf == pytest.approx(plain.llf, abs=1e-8)
        if bar.startswith("cs"):
            assert result.theta[0] == 0.0
            assert result.opt.at_boundary.tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cs(0 + f || g)", "double bar"),
        ("cs(0 + f | g, het=True)", "hom=True"),
        ("us(0 + f | g, hom=True)", "no pattern"),
        ("cs(0 + f | g, hom=2)", "hom=True"),
    ],
)
def test_misspelt_structures(blocks, text, message):
    with pytest.raises(FormulaError, match=message):
        mixedlm(f"y ~ x + {text}", blocks)


def test_what_a_patterned_covariance_does_not_have(blocks):
    model = mixedlm("y ~ x + cs(0 + f | g, hom=True)", blocks)
    result = model.fit()
    params = sparselmm.MixedLMParams.from_components(np.zeros(2), cov_re=np.diag([1.0, 2, 3, 4]))
    assert model.loglike(params) == -np.inf
    with pytest.raises(ValueError, match="fix="):
        model.fit(free=params)
    assert result.bse_re.notna().all()
    assert pickle.loads(pickle.dumps(result)).llf == result.llf


# ------------------------------------------------------------------------ known covariances

PEDIGREE = REFERENCE["pedigree"]


def names(parents):
    return [None if i == 0 else PEDIGREE["labels"][i - 1] for i in parents]


@pytest.fixture(scope="module")
def animals():
    known = pedigree(names(PEDIGREE["sire"]), names(PEDIGREE["dam"]), PEDIGREE["labels"])
    data = pd.DataFrame({name: PEDIGREE[name] for name in ("animal", "x", "y")})
    return known, data


def test_relationships(animals):
    """The tabular method's A, from the sparse inverse and from the root."""
    known, _ = animals
    A = np.linalg.inv(known.matrix.toarray())
    close(A[-1], PEDIGREE["A_last"], 1e-13)
    close(np.diag(A) - 1.0, PEDIGREE["inbreeding"], 1e-12)
    close((known.root @ known.root.T).toarray(), A, 1e-12)
    assert known.matrix.nnz <= 9 * len(known)


def test_textbook_pedigree():
    """Mrode (2014), section 2.3: T and D of six animals, the last one's parents inbred."""
    known = pedigree([None, None, 1, 1, 4, 5], [None, None, 2, None, 3, 2], [1, 2, 3, 4, 5, 6])
    root = known.root.toarray()
    D = np.diag(root) ** 2
    np.testing.assert_allclose(D, [1, 1, 0.5, 0.75, 0.5, 0.469], atol=5e-4)
    T = root / np.sqrt(D)
    np.testing.assert_allclose(T[4], [0.5, 0.25, 0.5, 0.5, 1, 0], atol=1e-14)
    np.testing.assert_allclose(T[5], [0.25, 0.625, 0.25, 0.25, 0.5, 1], atol=1e-14)


@pytest.mark.parametrize("unknown", [0, "0", "", np.nan, pd.NA, pd.NaT])
def test_signs_of_an_unknown_parent(unknown):
    """As None; a single founder called 0 would make half of all animals sibs."""
    sire, dam = ["a", unknown, unknown, "b"], [unknown, unknown, unknown, "c"]
    known = pedigree(sire, dam, ["d", "a", "b", "e"])
    none = pedigree(["a", None, None, "b"], [None, None, None, "c"], ["d", "a", "b", "e"])
    assert known.labels.tolist() == none.labels.tolist() == ["d", "a", "b", "e", "c"]
    assert (known.matrix.toarray() == none.matrix.toarray()).all()


def test_an_animal_called_0_is_meant_by_0():
    known = pedigree([None, None, 0], [None, None, 1], [0, 1, 2])
    assert np.linalg.inv(known.matrix.toarray())[2].tolist() == pytest.approx([0.5, 0.5, 1.0])
    with pytest.raises(DataError, match="labels has a missing value"):
        pedigree([None], [None], [np.nan])


def test_pedigree_in_any_order_and_with_selfing(animals):
    known, _ = animals
    turned = np.random.default_rng(0).permutation(120)
    sire, dam = np.array(names(PEDIGREE["sire"])), np.array(names(PEDIGREE["dam"]))
    other = pedigree(sire[turned], dam[turned], np.array(PEDIGREE["labels"])[turned])
    np.testing.assert_allclose(
        other.matrix.toarray(), known.matrix.toarray()[np.ix_(turned, turned)], atol=1e-13
    )
    selfed = pedigree([None, 1, 2], [None, 1, 2], [1, 2, 3])
    np.testing.assert_allclose(
        np.linalg.inv(selfed.matrix.toarray()), [[1, 1, 1], [1, 1.5, 1.5], [1, 1.5, 1.75]]
    )
    unlisted = pedigree(["s", "s"], ["d", None], ["a", "b"])
    assert unlisted.labels.tolist() == ["a", "b", "s", "d"]
    with pytest.raises(DataError, match="loop"):
        pedigree(["b", "a"], [None, None], ["a", "b"])


@pytest.mark.parametrize("how", ["pedigree", "precision", "covariance"])
@pytest.mark.parametrize("kind", ["intercept", "slope"])
def test_animal_model(animals, kind, how):
    """Deviance, estimates and predicted effects of all animals, ancestors included."""
    known, data = animals
    if how != "pedigree":
        A = known.matrix if how == "precision" else np.linalg.inv(known.matrix.toarray())
        known = KnownCovariance(A, PEDIGREE["labels"], how)
    bar = "(1 | animal)" if kind == "intercept" else "(x | animal)"
    model = mixedlm(f"y ~ x + {bar}", data, covariance={"animal": known})
    for case in PEDIGREE[kind]:
        result = model.fit(reml=case["REML"])
        assert -2.0 * result.llf == pytest.approx(case["criterion"], abs=1e-8)
        close(result.cov_re, case["Psi"], PSI)
        assert result.sigma == pytest.approx(case["sigma"], rel=PSI)
        close(result.fe_params, case["fixef"], 1e-6)
        close(result.cov_params().iloc[:2, :2], case["vcov"], PSI)
        close(result.ranef["animal"].loc[PEDIGREE["labels"]], case["b"], PSI)
        at = result.theta * 1.1
        sparse, dense = model.deviance(case["REML"]), model.deviance(case["REML"], "dense")
        assert sparse.value(at) == pytest.approx(dense.value(at), rel=1e-12)
        close(sparse.gradient(at), dense.gradient(at), 1e-9)


def test_predicted_effects_by_definition(animals):
    """BLUPs and their conditional variances from ``G = K (x) Psi`` and V, no root involved."""
    known, data = animals
    result = mixedlm("y ~ x + (x | animal)", data, covariance={"animal": known}).fit()
    labels = known.labels.tolist()
    Z = np.zeros((len(data), 240))
    rows = np.arange(len(data))
    level = np.array([labels.index(a) for a in data["animal"]])
    Z[rows, 2 * level], Z[rows, 2 * level + 1] = 1.0, data["x"]
    G = np.kron(np.linalg.inv(known.matrix.toarray()), result.cov_re)
    V = Z @ G @ Z.T + result.scale * np.eye(len(data))
    residual = data["y"] - result.predict(data)
    close(result.ranef["animal"], (G @ Z.T @ np.linalg.solve(V, residual)).reshape(-1, 2), 1e-9)
    C = G - G @ Z.T @ np.linalg.solve(V, Z @ G)
    close(result.ranef_var["animal"], np.diag(C).reshape(-1, 2), 1e-9)
    close(result.random_effects_cov["a120"], C[-2:, -2:], 1e-9)
    X = np.column_stack([np.ones(len(data)), data["x"]])
    W = np.linalg.solve(V, X)
    C += G @ Z.T @ W @ np.linalg.solve(X.T @ W, W.T @ Z @ G)  # beta is estimated
    errors = result.ranef_se(fixed_uncertainty=True)["animal"]
    close(errors, np.sqrt(np.diag(C)).reshape(-1, 2), 1e-9)
    some = result.ranef_cov("animal", ["a119", "a120"], fixed_uncertainty=True)
    close(some, C[-4:, -4:], 1e-9)
    difference = result.ranef_contrasts("animal", pairs=[("a119", "a120")])
    b = result.ranef["animal"]["Intercept"]
    assert difference["estimate"].iloc[0] == pytest.approx(b["a119"] - b["a120"], rel=1e-9)
    variance = C[-4, -4] + C[-2, -2] - 2.0 * C[-4, -2]
    assert difference["se"].iloc[0] == pytest.approx(np.sqrt(variance), rel=1e-9)
    new = pd.DataFrame({"animal": ["a001", "a120"], "x": [0.5, 2.0]})
    effects = result.ranef["animal"].loc[new["animal"]].to_numpy()
    wanted = result.predict(new) + (effects * [[1, 0.5], [1, 2]]).sum(axis=1)
    close(result.predict(new, re=True), wanted, 1e-12)
    with pytest.raises(DataError, match="z999"):
        result.predict(new.assign(animal="z999"), re=True)
    close(result.fittedvalues, result.predict(data, re=True), 1e-12)


@pytest.fixture(scope="module")
def herds(animals):
    """An animal model with slopes beside an ordinary term, and levels by expectation."""
    known, data = animals
    rng = np.random.default_rng(12)
    data = data.assign(herd=rng.integers(0, 6, len(data)))
    data["y"] += rng.normal(size=6)[data["herd"]]
    formula = "y ~ x + (x | animal) + (1 | herd)"
    return mixedlm(formula, data, covariance={"animal": known}).fit(), known, data


def test_predictions_by_definition(herds):
    """Means and their errors from ``G = K (x) Psi`` and V: levels with and without records.

    An observation of a level has ``K_jj z Psi z'`` of the effects that the mean leaves out.
    """
    result, known, data = herds
    labels, K = known.labels.tolist(), np.linalg.inv(known.matrix.toarray())
    psi, herd = result.cov_re.to_numpy()[:2, :2], result.cov_re.to_numpy()[2, 2]

    def design(rows):
        Z = np.zeros((len(rows), 246))
        i, j = np.arange(len(rows)), [labels.index(a) for a in rows["animal"]]
        Z[i, 2 * np.array(j)], Z[i, 2 * np.array(j) + 1] = 1.0, rows["x"]
        Z[i, 240 + rows["herd"]] = 1.0
        return np.column_stack([np.ones(len(rows)), rows["x"]]), Z

    X, Z = design(data)
    G = np.zeros((246, 246))
    G[:240, :240], G[240:, 240:] = np.kron(K, psi), herd * np.eye(6)
    V = Z @ G @ Z.T + result.scale * np.eye(len(data))
    W = np.linalg.solve(V, X)
    cov = np.linalg.inv(X.T @ W)
    C = G @ Z.T
    b = C @ np.linalg.solve(V, data["y"] - X @ result.fe_params)
    absent = np.setdiff1d(labels, data["animal"])
    assert len(absent)
    new = pd.DataFrame({"animal": [absent[0], "a120", "a120"], "herd": [0, 1, 5]})
    new["x"] = [0.5, 2.0, 0.0]
    x, z = design(new)
    masks = {
        "all": np.ones(246), "animal": np.repeat([1.0, 0], [240, 6]),
        "herd": np.repeat([0.0, 1], [240, 6]), "part": np.r_[np.tile([1.0, 0], 120), np.ones(6)],
    }  # fmt: skip
    switches = {
        "all": True, "animal": "animal", "herd": "herd",
        "part": {"animal": "Intercept", "herd": True},
    }  # fmt: skip
    for name, mask in masks.items():
        h = z * mask
        mean = x @ result.fe_params + h @ b
        unknown = x - h @ C @ W
        errors = h @ (G - C @ np.linalg.solve(V, C.T)) @ h.T + unknown @ cov @ unknown.T
        options = {"re": switches[name], "interval": "confidence"}
        found = result.get_prediction(new, **options)
        close(found.predicted_mean, mean, 1e-9)
        close(found.predicted_mean, result.predict(new, re=switches[name]), 1e-12)
        close(found.se_mean**2, np.diag(errors), 1e-9)
        if name != "part":
            left = z - h
            seen = result.get_prediction(new, re=switches[name])
            wanted = np.diag(errors) + np.diag(left @ G @ left.T) + result.scale
            close(seen.se_obs**2, wanted, 1e-9)


def test_levels_outside_a_known_covariance(herds):
    """Their variance is unknown: a mean of the population, no standard error."""
    result, _, data = herds
    new = data[["animal", "herd", "x"]].head(3).assign(animal=["z999", "a120", "a120"])
    with pytest.raises(DataError, match="z999"):
        result.get_prediction(new, re=True)
    found = result.get_prediction(new, re=True, unseen="population")
    alone = result.get_prediction(new, re="herd", interval="confidence")
    assert found.predicted_mean[0] == pytest.approx(alone.predicted_mean[0], rel=1e-12)
    assert np.isnan(found.se_mean).tolist() == [True, False, False]
    assert np.isnan(found.se_obs).tolist() == [True, False, False]
    without = new[["herd", "x"]]
    close(result.predict(without, re="herd"), result.predict(new, re="herd"), 1e-14)
    unlabelled = result.get_prediction(without, re="herd")
    close(unlabelled.se_mean, alone.se_mean, 1e-14)
    assert np.isnan(unlabelled.se_obs).all()


def test_deletions_under_a_known_covariance(herds):
    """Without a herd or an animal: the model fitted to the other rows."""
    result, known, data = herds
    for by in ("herd", "animal"):
        found = result.influence(by, exact=True)
        label = found.labels[1]
        rest = data[data[by] != label]
        formula = "y ~ x + (x | animal) + (1 | herd)"
        other = mixedlm(formula, rest, covariance={"animal": known}).fit()
        close((found.fe_params.loc[label] - other.fe_params) / other.bse_fe + 1.0, [1, 1], 3e-5)
        assert found.sigma[label] == pytest.approx(other.sigma, rel=1e-6)


def test_slope_at_zero_has_a_level(animals):
    """A row whose only covariate is zero belongs to its level all the same."""
    known, data = animals
    result = mixedlm("y ~ x + (0 + x | animal)", data, covariance={"animal": known}).fit()
    new = pd.DataFrame({"animal": ["a120", "a001"], "x": [0.0, 0.0]})
    found, fixed = result.get_prediction(new, re=True), result.get_prediction(new)
    close(found.se_mean, fixed.se_mean, 1e-12)
    close(found.se_obs, fixed.se_obs, 1e-12)


def test_known_covariance_is_a_cholesky_factor_in_z(animals):
    """``Z_t`` times a Cholesky factor of K, given as a matrix, is the same model throughout."""
    known, data = animals
    K = np.linalg.inv(known.matrix.toarray())
    place = [known.labels.tolist().index(a) for a in data["animal"]]
    root = np.linalg.cholesky(K)
    X = np.column_stack([np.ones(len(data)), data["x"]])
    ours = mixedlm("y ~ x + (1 | animal)", data, covariance={"animal": known}).fit()
    twin = MixedLM(data["y"].to_numpy(), X, z_terms={"animal": root[place]}).fit()
    assert ours.llf == pytest.approx(twin.llf, abs=1e-9)
    new, rows = data.head(20), np.arange(20)
    for re in (True, False):
        mine = ours.get_prediction(new, re=re).summary_frame()
        arrays = {"z_terms": {"animal": root[place][rows]}}
        theirs = twin.get_prediction(X[rows], re=re, **arrays).summary_frame()
        close(mine, theirs, 1e-6)
    close(ours.hatvalues(), twin.hatvalues(), 1e-6)
    close(ours.cooks_distance(), twin.cooks_distance(), 1e-6)
    assert ours.caic().caic == pytest.approx(twin.caic().caic, rel=1e-6)


def test_identity_changes_nothing():
    data = sparselmm.datasets.load("sleepstudy")
    subjects = sorted(data["Subject"].unique())
    eye = KnownCovariance(pd.DataFrame(np.eye(len(subjects)), subjects, subjects))
    formula = "Reaction ~ Days + (Days | Subject)"
    plain, known = (
        mixedlm(formula, data).fit(),
        mixedlm(formula, data, covariance={"Subject": eye}).fit(),
    )
    assert known.llf == pytest.approx(plain.llf, abs=1e-9)
    close(known.ranef["Subject"].loc[subjects], plain.ranef["Subject"].loc[subjects], 1e-6)
    arrays = MixedLM(
        data["Reaction"], np.column_stack([np.ones(180), data["Days"]]), data["Subject"],
        exog_re=np.column_stack([np.ones(180), data["Days"]]), covariance={"Group": eye},
    ).fit()  # fmt: skip
    assert arrays.llf == pytest.approx(plain.llf, abs=1e-9)


def test_roots():
    rng = np.random.default_rng(1)
    B = rng.normal(size=(30, 30))
    band = sp.diags_array([-np.ones(29), 3 * np.ones(30), -np.ones(29)], offsets=[-1, 0, 1])
    for matrix, kind in [(B @ B.T, "covariance"), (B[:, :20] @ B[:, :20].T, "covariance"),
                         (band, "covariance"), (band, "precision")]:  # fmt: skip
        known = KnownCovariance(matrix, range(30), kind)
        K = known.matrix.toarray()
        K = np.linalg.inv(K) if kind == "precision" else K
        close((known.root @ known.root.T).toarray(), K, 1e-12)


def test_neighbours():
    """A lattice of areas: the deviance by textbook formulas, an area without data included."""
    side = 6
    path = sp.diags_array([np.ones(side - 1)] * 2, offsets=[-1, 1])
    W = sp.kronsum(path, path)
    known = car(W, 0.95, range(side**2))
    K = np.linalg.inv(np.diag(W.toarray().sum(axis=1)) - 0.95 * W.toarray())
    rng = np.random.default_rng(2)
    area = rng.integers(1, side**2, 150)
    y = (np.linalg.cholesky(K) @ rng.normal(size=side**2))[area] + 0.3 * rng.normal(size=150)
    model = mixedlm("y ~ 1 + (1 | area)", {"y": y, "area": area}, covariance={"area": known})
    result = model.fit(reml=False)
    V = result.cov_re.iloc[0, 0] * K[np.ix_(area, area)] + result.scale * np.eye(150)
    e = y - result.fe_params.iloc[0]
    logdet = np.linalg.slogdet(V)[1]
    value = 150 * np.log(2 * np.pi) + logdet + e @ np.linalg.solve(V, e)
    assert -2.0 * result.llf == pytest.approx(value, rel=1e-11)
    assert len(result.ranef["area"]) == side**2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KnownCovariance(np.ones((2, 3)), list("ab")), "square"),
        (lambda: KnownCovariance(np.eye(3), list("ab")), "2 labels"),
        (lambda: KnownCovariance(np.eye(2), ["a", "a"]), "more than once"),
        (lambda: KnownCovariance([[1, 0.5], [0.4, 1]], list("ab")), "symmetric"),
        (lambda: KnownCovariance(np.eye(2)), "labels"),
        (lambda: KnownCovariance(np.eye(2), "ab"), "list of labels"),
        (lambda: KnownCovariance(np.eye(2), list("ab"), "inverse"), "kind"),
        (lambda: KnownCovariance([[1, 2], [2, 1]], list("ab")).root, "smallest eigenvalue is -1"),
        (lambda: KnownCovariance([[1, -1], [-1, 1]], list("ab"), "precision").root, "intrinsic"),
        (lambda: car(np.eye(2), 0.5, list("ab")), "zero diagonal"),
        (lambda: car(np.zeros((2, 2)), 0.5, list("ab")), "no neighbour"),
        (lambda: car([[0, 1], [1, 0]], 1.0, list("ab")), "between -1 and 1"),
    ],
)
def test_matrices_that_are_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_factors_that_are_refused(animals, blocks):
    known, data = animals
    with pytest.raises(DataError, match="no grouping factor"):
        mixedlm("y ~ x + (1 | animal)", data, covariance={"Animal": known})
    with pytest.raises(DataError, match="must be a KnownCovariance"):
        mixedlm("y ~ x + (1 | animal)", data, covariance={"animal": np.eye(3)})
    with pytest.raises(DataError, match=r"level.* have no row in the known covariance: 0, 1"):
        mixedlm("y ~ x + (1 | g)", blocks, covariance={"g": known})
    with pytest.raises(DataError, match="one grouping factor"):
        mixedlm("y ~ x + (1 | g:h)", blocks, covariance={"g:h": known})


@pytest.mark.parametrize("bar", ["cs(0 + f | g)", "ar1(0 + f | g, hom=False)"])
def test_a_variance_of_zero_beside_others(blocks, bar):
    """One coefficient without variance: its standard deviation ends at zero exactly."""
    rng = np.random.default_rng(11)
    noise, b = rng.normal(size=len(blocks)), rng.normal(size=(30, 4))
    y = np.where(blocks["f"] == "b", 0.0, b[blocks["g"], blocks["f"].map("abcd".index)])
    of_b = blocks["f"] == "b"
    noise[of_b] -= pd.Series(noise)[of_b].groupby(blocks["g"][of_b]).transform("mean")
    data = blocks.assign(y=y + noise)
    with pytest.warns(sparselmm.SingularMatrixWarning):
        result = mixedlm(f"y ~ x + {bar}", data).fit()
    assert result.converged
    assert result.theta[1] == 0.0
    assert result.opt.at_boundary[1]
    assert result.opt.gradient[1] > 0.0
