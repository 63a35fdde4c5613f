"""What results of a model with a residual covariance structure say, and what they refuse."""

from __future__ import annotations

import json
import pickle
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy
from residual_fits import FEV, FOLDER, OVARY, data_of, raw
from residual_twin import dense_value, residual_matrix
from sparselmm.exceptions import DataError, MissingDataError, UnsupportedError

import sparselmm
from sparselmm.inference.residual_profile import profile_interval
from sparselmm.likelihood.residual import deviance as room
from sparselmm.likelihood.residual.jets import LEFT
from sparselmm.likelihood.residual.markov import Markov
from sparselmm.results.core import MixedLMResults
from sparselmm.results.residual.core import INDEPENDENT, ResidualResults


@cache
def ovary():
    model = sparselmm.mixedlm(
        OVARY + " + (1 | Mare)", data_of("Ovary"), residual="ar1(place | Mare)"
    )
    return model.fit()


@cache
def fev():
    return sparselmm.mmrm(FEV + " + us(AVISIT | USUBJID)", data_of("fev_data"))


@cache
def sleep():
    """Theta with two terms and phi with two parts."""
    data = sparselmm.datasets.load("sleepstudy")
    model = sparselmm.mixedlm(
        "Reaction ~ Days + (1 | Subject)", data, residual="ar1(Days | Subject)",
        dispersion="~ Days",
    )  # fmt: skip
    return model.fit()


def dense(fit):
    """V over sigma^2, X, y of a fit."""
    design, joint = fit.built.design, fit.joint
    R = residual_matrix(design, joint.phi)
    psi = fit.deviance.covariance.factors(joint.theta)
    blocks = [
        np.kron(np.eye(t.n_levels), lam @ lam.T) for t, lam in zip(design.terms, psi, strict=True)
    ]
    Z = design.Z.toarray() if design.terms else np.zeros((design.n, 0))
    G = scipy.linalg.block_diag(*blocks) if blocks else np.zeros((0, 0))
    return R, Z, G, R + Z @ G @ Z.T


MISSING = sorted(
    name for name in dir(MixedLMResults)
    if not name.startswith("_") and not hasattr(ResidualResults, name)
)  # fmt: skip


def test_a_fit_is_one_of_a_linear_mixed_model():
    assert isinstance(ovary(), MixedLMResults)
    assert set(INDEPENDENT.instead) <= set(MISSING)


@pytest.mark.parametrize("name", MISSING)
def test_what_cannot_be_had_refuses_by_name(name):
    hint = INDEPENDENT.instead.get(name, "")
    text = re.escape(f"{name} is not available for a fit with residual= or dispersion=")
    with pytest.raises(UnsupportedError, match=text + (re.escape(f"; {hint}") if hint else "$")):
        getattr(ovary(), name)()
    assert not hasattr(ovary(), name)


def test_errors_about_arguments_name_the_class_of_the_fit():
    with pytest.raises(TypeError, match=r"ResidualResults\.ranef_se has no argument 'fixed'"):
        ovary().ranef_se(fixed=True)


def test_rows_cannot_be_removed_on_the_way(tmp_path):
    with pytest.raises(UnsupportedError, match="remove_data is not available for a fit with"):
        ovary().save(tmp_path / "fit", remove_data=True)
    ovary().save(tmp_path / "fit")
    assert MixedLMResults.load(tmp_path / "fit").llf == ovary().llf


def test_estimates_are_those_of_generalized_least_squares():
    fit = ovary()
    _, Z, G, V = dense(fit)
    X, y = fit.built.design.X, fit.built.design.y
    inner = np.linalg.inv(X.T @ np.linalg.solve(V, X))
    beta = inner @ X.T @ np.linalg.solve(V, y)
    assert fit.fe_params.to_numpy() == pytest.approx(beta, rel=1e-9)
    assert fit.bse_fe.to_numpy() == pytest.approx(np.sqrt(np.diag(fit.scale * inner)), rel=1e-9)
    b = G @ Z.T @ np.linalg.solve(V, y - X @ beta)
    assert fit.b == pytest.approx(b, rel=1e-8, abs=1e-8)
    P = np.linalg.inv(V) - np.linalg.solve(V, X) @ inner @ np.linalg.solve(V, X).T
    var = fit.scale * np.diag(G - G @ Z.T @ P @ Z @ G)
    se = fit.ranef_se()["Mare"].to_numpy().ravel()
    assert se == pytest.approx(np.sqrt(var), rel=1e-8)


def test_standard_errors_come_from_the_joint_information():
    """Against the Hessian of the dense criterion in (theta, phi)."""
    fit = sleep()
    x, design = fit.joint.x, fit.built.design
    n = len(x)
    H, h = np.zeros((n, n)), 1e-3
    for i in range(n):
        for j in range(n):
            ends = []
            for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                step = np.zeros(n)
                step[i] += a * h
                step[j] += b * h
                ends.append(dense_value(design, x + step, True))
            H[i, j] = (ends[0] - ends[1] - ends[2] + ends[3]) / (4.0 * h * h)
    cov = 2.0 * np.linalg.inv(H)
    assert fit.joint.covariance == pytest.approx(cov, rel=2e-3, abs=1e-7)
    table = fit.residual_params()
    assert table.std_error["log_sd(Days)"] == pytest.approx(np.sqrt(cov[1, 1]), rel=2e-3)
    assert table.estimate["rho"] == pytest.approx(np.sin(x[2]))
    assert table.std_error["rho"] == pytest.approx(np.cos(x[2]) * np.sqrt(cov[2, 2]), rel=2e-3)


def test_profile_intervals_end_where_the_deviance_rises():
    table = ovary().residual_params(ci="profile")
    fit = ovary()
    for end in ("lower", "upper"):
        psi = np.arcsin(table[end]["rho"])
        found = scipy.optimize.minimize_scalar(
            lambda t, psi=psi: fit.joint.deviance.value(np.array([t, psi])), bounds=(0.01, 3.0),
            method="bounded", options={"xatol": 1e-9},
        )  # fmt: skip
        assert found.fun - fit.pls.deviance == pytest.approx(3.841459, abs=1e-3)


def test_wald_intervals_stay_within_the_range():
    """Eight rows of two groups: the interval of a correlation ends at one, not below again."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"g": np.repeat([0, 1], 4), "t": np.tile(np.arange(4), 2)})
    frame["y"] = np.cumsum(rng.normal(size=8))
    fit = sparselmm.mixedlm("y ~ 1", frame, residual="ar1(t | g)").fit()
    row = fit.residual_params().loc["rho"]
    half = 1.96 * np.sqrt(fit.joint.cov_phi[0, 0])
    assert fit.joint.phi[0] + half > 0.5 * np.pi
    assert row.upper == 1.0 - LEFT
    assert row.lower == pytest.approx(np.sin(fit.joint.phi[0] - half), abs=1e-3)


def test_profile_of_a_parameter_that_depends_on_several():
    """The first variance of ``us`` and lag of ``toep`` are functions of one entry of phi."""
    for name, formula in (("us", FEV + " + us(AVISIT | USUBJID)"),
                          ("toep", "FEV1 ~ RACE + toep(visit | USUBJID)")):  # fmt: skip
        joint = (fit := sparselmm.mmrm(formula, data_of("fev_data"))).joint
        ends = np.array(profile_interval(joint, 0, 0.05))
        wanted = ends**2 if name == "us" else np.sin(ends)
        table = fit.residual_params(ci="profile")
        assert table.iloc[0][["lower", "upper"]].tolist() == pytest.approx(wanted, rel=1e-5)
        assert (table.lower < table.estimate).all()
        assert (table.estimate < table.upper).all()
    covariance = fev().residual_params(ci="profile").loc["cov(VIS1,VIS2)"]
    held = lowest_with(fev().joint, 1, covariance.upper)
    assert held - fev().pls.deviance == pytest.approx(3.841459, abs=1e-3)


def lowest_with(joint, j, value):
    """The lowest deviance with a natural parameter at a value, by another method."""
    structure = joint.deviance.structure
    found = scipy.optimize.minimize(
        lambda x: joint.deviance.value(x), joint.x, jac=lambda x: joint.deviance.gradient(x),
        method="trust-constr", options={"maxiter": 200},
        constraints=[scipy.optimize.NonlinearConstraint(
            lambda x: structure.natural(x, 1.0)[j], value, value,
            jac=lambda x: structure.natural_slopes(x)[j])],
    )  # fmt: skip
    return found.fun


def test_profile_of_sigma():
    fit = ovary()
    joint, d = fit.joint, fit.pls.df
    lower, upper = fit.residual_params(ci="profile").loc["sigma", ["lower", "upper"]]
    for s in (lower, upper):

        def criterion(x, s=s):
            pwrss = joint.deviance.at(x).pwrss
            ratio = pwrss / s**2
            return joint.deviance.value(x) - d * (1 + np.log(ratio / d)) + ratio

        found = scipy.optimize.minimize(
            criterion, joint.x, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-8}
        )
        assert found.fun - fit.pls.deviance == pytest.approx(3.841459, abs=1e-3)


def test_residuals_and_covariances_of_rows():
    fit = sleep()
    R = fit.scale * residual_matrix(fit.built.design, fit.joint.phi)
    assert fit.sigma_by_row.to_numpy() == pytest.approx(np.sqrt(np.diag(R)), rel=1e-10)
    rows = np.flatnonzero(fit.built.frame.Subject.astype(str) == "309")
    assert fit.R("309").to_numpy() == pytest.approx(R[np.ix_(rows, rows)], rel=1e-10)
    e = fit.resid.to_numpy()
    normalized = np.linalg.solve(np.linalg.cholesky(R), e)
    assert fit.residuals("normalized").to_numpy() == pytest.approx(normalized, rel=1e-9)
    assert fit.residuals("pearson", scaled=True).to_numpy() == pytest.approx(
        e / fit.sigma_by_row.to_numpy()
    )
    with pytest.raises(sparselmm.DataError, match="group: there is no 'nope'"):
        fit.R("nope")


def test_neighbours_alone_give_the_same_rows(monkeypatch):
    fit = sleep()
    monkeypatch.setattr(room, "DENSE_PAIRS", 0)
    other = fit.model.fit()
    assert other.llf == pytest.approx(fit.llf, rel=1e-10)
    assert other.residuals("normalized").to_numpy() == pytest.approx(
        fit.residuals("normalized").to_numpy(), rel=1e-3, abs=1e-4
    )
    assert other.simulate(seed=3).to_numpy() == pytest.approx(
        fit.simulate(seed=3).to_numpy(), rel=1e-4
    )
    for ddf in ("satterthwaite", "kenward-roger"):
        one, two = (each.tidy("fixed", ddf=ddf) for each in (fit, other))
        assert two.drop(columns=["effect", "term"]).to_numpy(float) == pytest.approx(
            one.drop(columns=["effect", "term"]).to_numpy(float), rel=1e-3
        )


def test_predictions_use_the_residuals_of_the_group():
    """Against the conditional normal distribution of (y, y_new)."""
    fit = sleep()
    design = fit.built.design
    new = pd.DataFrame({"Days": [10, 12, 3], "Subject": ["308", "308", "372"]})
    found = fit.get_prediction(new, re=True)
    joined = pd.concat([fit.built.frame, new.assign(Reaction=0.0)], ignore_index=True)
    joined.loc[len(joined) - 1, "Days"] = 20
    new.loc[2, "Days"] = 20
    found = fit.get_prediction(new, re=True)
    model = sparselmm.mixedlm(
        "Reaction ~ Days + (1 | Subject)", joined, residual="ar1(Days | Subject)",
        dispersion="~ Days",
    )  # fmt: skip
    both = model.built.design
    lam = fit.deviance.covariance.factors(fit.joint.theta)[0][0, 0]
    Z = both.Z.toarray()
    V = residual_matrix(both, fit.joint.phi) + lam**2 * Z @ Z.T
    n = design.n
    V11, V12, V22 = V[:n, :n], V[:n, n:], V[n:, n:]
    X, X2 = both.X[:n], both.X[n:]
    beta = fit.fe_params.to_numpy()
    mean = X2 @ beta + V12.T @ np.linalg.solve(V11, design.y - X @ beta)
    assert found.predicted_mean == pytest.approx(mean, rel=1e-9)
    inner = np.linalg.inv(X.T @ np.linalg.solve(V11, X))
    left = X2 - V12.T @ np.linalg.solve(V11, X)
    var = V22 - V12.T @ np.linalg.solve(V11, V12) + left @ inner @ left.T
    assert found.se_obs == pytest.approx(np.sqrt(fit.scale * np.diag(var)), rel=1e-8)
    plain = fit.get_prediction(new)
    assert plain.se_obs == pytest.approx(
        np.sqrt(fit.scale * np.diag(V22 + X2 @ inner @ X2.T)), rel=1e-8
    )


@cache
def by_sex():
    growth = data_of("Orthodont")
    return sparselmm.mixedlm("distance ~ age", growth, residual="ar1h(age | Subject, by=Sex)").fit()


def test_predictions_refuse_a_group_in_another_stratum():
    fit = by_sex()
    new = pd.DataFrame({"age": [10, 12], "Subject": ["M01", "F01"], "Sex": ["Male", "Female"]})
    assert fit.get_prediction(new, re=True).predicted_mean.shape == (2,)
    for name in ("age", "Sex"):
        gone = new.assign(**{name: new[name].mask([False, True])})
        with pytest.raises(MissingDataError, match=f"'{name}' is missing"):
            fit.get_prediction(gone, re=True)
    with pytest.raises(DataError, match="the group 'F01' lies in the stratum Female, and new rows"):
        fit.get_prediction(new.assign(Sex="Male"), re=True)


def test_predictions_refuse_rows_that_a_negative_correlation_has_no_place_for():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(30, 3))
    z -= 0.97 * z.mean(axis=1, keepdims=True)
    data = pd.DataFrame({"g": np.repeat(np.arange(30), 3), "y": z.ravel()})
    fit = sparselmm.mixedlm("y ~ 1", data, residual="cs(1 | g)").fit()
    assert fit.get_prediction(pd.DataFrame({"g": [99]}), re=True).predicted_mean.shape == (1,)
    with pytest.raises(DataError, match="the group 4 cannot have more than its 3 rows"):
        fit.get_prediction(pd.DataFrame({"g": [99, 4]}), re=True)


def test_predictions_refuse_unseen_labels_of_the_dispersion():
    fit = sparselmm.mixedlm("distance ~ age", data_of("Orthodont"), dispersion="~ Sex").fit()
    new = pd.DataFrame({"age": [10, 12], "Sex": ["Male", "other"]})
    with pytest.raises(DataError, match=r"'other' at row 1.*a variance cannot be predicted"):
        fit.get_prediction(new)


def test_simulated_responses_have_the_covariance_of_the_model():
    fit = ovary()
    Y = fit.simulate(4000, seed=5).to_numpy()
    rows = np.flatnonzero(fit.built.frame.Mare == 1)[:5]
    V = fit.scale * dense(fit)[3][np.ix_(rows, rows)]
    assert np.cov(Y[rows]) == pytest.approx(V, abs=1.5)
    one = fit.simulate(1, seed=5).to_numpy()
    assert one[:, 0] == pytest.approx(Y[:, 0])
    e = (
        fit.simulate(4000, re="conditional", seed=5).to_numpy()
        - fit.fittedvalues.to_numpy()[:, None]
    )
    R = fit.scale * dense(fit)[0][np.ix_(rows, rows)]
    assert np.cov(e[rows]) == pytest.approx(R, abs=1.0)


def test_refits_and_bootstrap():
    fit = ovary()
    y = fit.simulate(1, seed=2)[0]
    again = fit.refit(y)
    frame = fit.built.frame.assign(follicles=y)
    fresh = sparselmm.mixedlm(OVARY + " + (1 | Mare)", frame, residual="ar1(place | Mare)").fit()
    assert again.llf == pytest.approx(fresh.llf, rel=1e-10)
    boot = fit.bootstrap(4, seed=2)
    assert boot.replicates.loc[0, "rho"] == pytest.approx(
        again.residual_params().estimate["rho"], rel=1e-4
    )
    assert fit.bootstrap(2, seed=2).values == pytest.approx(boot.values[:2])


def test_comparison_of_structures():
    frame = data_of("Ovary")
    plain = sparselmm.mixedlm(OVARY + " + (1 | Mare)", frame).fit(reml=False)
    ml = ovary().model.fit(reml=False)
    table = sparselmm.compare(plain, ml).table
    again = sparselmm.compare(plain, ovary(), refit=True).table
    assert table.chisq.iloc[1] == pytest.approx(2 * (ml.llf - plain.llf))
    assert again.chisq.iloc[1] == pytest.approx(table.chisq.iloc[1], abs=1e-6)
    assert list(table.npar) == [5, 6]
    assert ml.aic == pytest.approx(-2 * ml.llf + 12)
    assert "residual: ar1" in str(sparselmm.compare(plain, ml))


def test_summary_and_tidy_hold_the_parameters():
    text = str(sleep().summary())
    assert "Residuals: ar1(Days|Subject), dispersion" in text
    assert "log_sd(Days)" in text
    assert "rho" in text
    parameters = sleep().residual_params().to_string(float_format=lambda x: f"{x:.4f}")
    page = sleep().summary().as_html()
    assert f"<pre>Residuals: ar1(Days|Subject), dispersion\n{parameters}</pre>" in page
    assert r" \newline" in sleep().summary().as_latex()
    rows = sleep().tidy("resid_pars", conf_int=True)
    assert rows.term.tolist() == ["log_sd(Days)", "rho"]
    assert rows["std.error"].notna().all()


def test_summary_takes_alpha_in_its_place():
    last = [str(sleep().summary(*args, **options)) for args, options in
            [((), {"alpha": 0.5}), ((None, None, None, None, 0.5), {})]]  # fmt: skip
    assert last[0].splitlines()[1:] == last[1].splitlines()[1:]


def test_standard_deviations_of_visits_are_no_dispersion():
    fit = by_sex()
    assert "Residuals: ar1h(age|Subject, by=Sex)\n" in str(fit.summary())
    report = fit.report(pictures=False)
    assert "standard deviation differs between visits and the values of Sex." in report.markdown
    assert "<i>[Male,10]</i>" in report.html


def test_results_are_pickled():
    fit = pickle.loads(pickle.dumps(sleep()))
    assert fit.residual_params().equals(sleep().residual_params())


# ---------------------------------------------------------------------- degrees of freedom

SAS = json.loads(FOLDER.joinpath("sas", "fev.json").read_text(encoding="utf-8"))
"""What SAS and mmrm say of the FEV1 data; made by ``tests/reference/residual_sas.py``."""

STRUCTURES = {name: f"{name}(visit | USUBJID)" for name in SAS["kenward_roger_linear"]} | {
    "us": "us(AVISIT | USUBJID)", "exp": "exp(VISITN + VISITN2 | USUBJID)",
}  # fmt: skip


@cache
def by_structure(name, weights=None):
    formula = f"FEV1 ~ C(ARMCD, Treatment('PBO')) + {STRUCTURES[name]}"
    return sparselmm.mmrm(formula, data_of("fev_data"), weights=weights)


def close(found, wanted, what):
    """Equal as far as SAS's search goes, which stops at a relative change of 1e-8."""
    __tracebackhide__ = True
    assert found == pytest.approx(wanted, rel=5e-4), what


def test_satterthwaite_of_mmrm():
    table = fev().tidy("fixed", ddf="satterthwaite")
    printed = np.array(list(SAS["mmrm_satterthwaite"].values()))
    found = table[["estimate", "std.error", "df", "statistic"]].to_numpy(float)
    assert (np.abs(found - printed).max(axis=0) < [2e-4, 2e-4, 0.02, 1e-3]).all()


@pytest.mark.parametrize("name", STRUCTURES)
def test_kenward_roger_of_sas(name):
    fit = by_structure(name)
    row = fit.tidy("fixed").iloc[1]
    assert round(-2 * fit.llf, 1) == SAS["minus_2_llf"][name]
    close(
        row[["estimate", "std.error", "df"]].tolist(), SAS["kenward_roger_linear"][name][:3], name
    )
    assert row["p.value"] == pytest.approx(SAS["kenward_roger_linear"][name][3], rel=1e-2)
    one = fit.tidy("fixed", ddf="satterthwaite").iloc[1]  # of one row the same df
    close(one.df, SAS["kenward_roger_linear"][name][2], name)


@pytest.mark.parametrize("weights", [None, "WEIGHT"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_empirical_covariance_of_sas(name, weights):
    found = by_structure(name, weights).cov_robust("CR0", groups="USUBJID").to_numpy()
    wanted = SAS["empirical" if weights is None else "empirical_weighted"][name]
    close([found[0, 0], found[0, 1], found[1, 1]], wanted, name)


BY_ARM = (
    "ar1(visit | USUBJID)", "ar1h(visit | USUBJID)", "cs(visit | USUBJID)", "us(AVISIT | USUBJID)",
    "toep(visit | USUBJID)", "ad(visit | USUBJID, hom=False)", "exp(VISITN + VISITN2 | USUBJID)",
    "gau(VISITN | USUBJID, nugget=True)",
)  # fmt: skip


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("structure", BY_ARM)
@pytest.mark.filterwarnings("ignore::sparselmm.exceptions.SpecificationWarning")  # nugget of zero
def test_parameters_by_stratum_are_those_of_fits_to_each(structure, reml):
    """With fixed effects of their own for every arm the arms have nothing in common."""
    data, fixed = data_of("fev_data"), "FEV1 ~ C(ARMCD, Treatment('PBO')) * (SEX + AVISIT)"
    both = sparselmm.mixedlm(fixed, data, residual=f"{structure[:-1]}, by=ARMCD)").fit(reml=reml)
    arms = {
        arm: sparselmm.mixedlm(
            "FEV1 ~ SEX + AVISIT", data[data["ARMCD"] == arm], residual=structure
        ).fit(reml=reml)
        for arm in ("PBO", "TRT")
    }
    assert both.llf == pytest.approx(sum(one.llf for one in arms.values()), abs=1e-6)
    for arm, one in arms.items():
        rows = (data["ARMCD"] == arm).to_numpy()
        sd = np.asarray(both.sigma_by_row)[rows]
        assert sd == pytest.approx(np.asarray(one.sigma_by_row), rel=1e-4)
        label = data.USUBJID[rows].iloc[0]
        assert np.asarray(both.R(label)) == pytest.approx(np.asarray(one.R(label)), rel=1e-3)
    alone = arms["PBO"].bse_fe.to_numpy()
    assert both.bse_fe[arms["PBO"].bse_fe.index].to_numpy() == pytest.approx(alone, rel=1e-4)


def test_predictions_of_missing_visits_by_sas():
    """Conditional on what else is known of a patient."""
    rows = pd.DataFrame(SAS["prediction_us"], columns=SAS["prediction_columns"])
    data = raw("fev_data").iloc[: len(rows)].reset_index(drop=True)
    assert data.FEV1.equals(rows.FEV1)
    gone = data.FEV1.isna().to_numpy()
    found = by_structure("us").get_prediction(data[gone], re=True)
    close(found.predicted_mean, rows.prediction[gone], "mean")
    close(found.se_obs, rows.prediction_se[gone], "standard error")
    mean = by_structure("us").get_prediction(data[gone])
    close(mean.se_mean, rows.mean_se[gone], "standard error of the mean")


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger"])
def test_compound_symmetry_is_a_random_intercept(ddf):
    frame = data_of("Orthodont")
    a = sparselmm.mixedlm("distance ~ age * Sex + (1 | Subject)", frame).fit()
    b = sparselmm.mixedlm("distance ~ age * Sex", frame, residual="cs(age | Subject)").fit()
    one = a.tidy("fixed", ddf=ddf).drop(columns="term")
    other = b.tidy("fixed", ddf=ddf).drop(columns="term")
    assert other.iloc[:, 1:].to_numpy(float) == pytest.approx(
        one.iloc[:, 1:].to_numpy(float), rel=1e-5
    )
    joint = a.anova(ddf=ddf), b.anova(ddf=ddf)
    assert joint[1].to_numpy()[:, 2:] == pytest.approx(joint[0].to_numpy()[:, 2:], rel=1e-4)


def derivatives(fit):
    """Var(y) at the estimates and its derivatives in (theta, phi, log s), dense."""
    design, x = fit.built.design, fit.joint.x
    n_theta, out = fit.joint.deviance.n_theta, []

    def var(at):
        R = residual_matrix(design, at[n_theta:])
        lam = at[:n_theta]
        Z = design.Z.toarray()
        ends = np.cumsum([term.q for term in design.terms])
        for value, end, term in zip(lam, ends, design.terms, strict=True):
            own = Z[:, end - term.q : end]
            R = R + value**2 * own @ own.T
        return fit.scale * R

    for i in range(len(x)):
        step = np.zeros(len(x))
        step[i] = 1e-4
        a, b, c, d = (var(x + s * step) for s in (1, -1, 2, -2))
        out.append((8 * (a - b) - (c - d)) / 12e-4)
    return var(x), [*out, var(x)]


def test_kenward_roger_by_its_definition():
    """Adjusted covariance and single df from the n x n matrices, first derivatives alone.

    W is the inverse of the observed information, that of Satterthwaite's method.
    """
    fit = sleep()
    S, G = derivatives(fit)
    X = fit.built.design.X
    back = np.linalg.inv(S)
    Phi = np.linalg.inv(X.T @ back @ X)
    W = observed(fit)
    Pi = [-X.T @ back @ a @ back @ X for a in G]
    middle = np.zeros_like(Phi)
    for i, a in enumerate(G):
        for j, b in enumerate(G):
            Q = X.T @ back @ a @ back @ b @ back @ X
            middle += W[i, j] * (Q - Pi[i] @ Phi @ Pi[j])
    adjusted = Phi + 2.0 * Phi @ middle @ Phi
    tests = fit._ddf("kenward-roger")
    assert tests.vcov == pytest.approx(adjusted, rel=1e-4)
    for row in np.eye(2):
        slopes = np.array([row @ Phi @ p @ Phi @ row for p in Pi])
        df = 2.0 * (row @ Phi @ row) ** 2 / (slopes @ W @ slopes)
        assert tests.t_df(row[None])[0] == pytest.approx(df, rel=2e-3)


@pytest.mark.slow
def test_degrees_of_freedom_with_many_random_effects():
    """No matrix of random effects by random effects; groups large enough to keep neighbours."""
    rng = np.random.default_rng(0)
    subject, trial = (part.ravel() for part in np.indices((150, 60)))
    item = rng.integers(0, 4500, len(subject))
    frame = pd.DataFrame({"s": subject, "t": trial, "i": item, "x": rng.normal(size=len(item))})
    frame["y"] = frame.x + rng.normal(size=150)[subject] + rng.normal(size=len(item))
    model = sparselmm.mixedlm("y ~ x + (1 | s) + (1 | i)", frame, residual="ar1(t | s)")
    fit = model.fit()
    assert isinstance(fit.joint.deviance.backend, Markov)
    one, two = (fit.tidy("fixed", ddf=ddf) for ddf in ("satterthwaite", "kenward-roger"))
    assert two.df.to_numpy() == pytest.approx(one.df.to_numpy(), rel=1e-6)
    assert 100 < one.df[0] < 200
    assert one.df[1] > 3000
    assert (two["std.error"] > one["std.error"]).all()


def observed(fit):
    """Twice the inverse Hessian of the dense criterion in (theta, phi, log s)."""
    x, n, design = fit.joint.x, len(fit.joint.x), fit.built.design
    y, X = design.y, design.X

    def criterion(at):
        moved = fit.joint.deviance.split(at[:n])
        R = residual_matrix(design, moved[1])
        Z = design.Z.toarray()
        V = np.exp(at[n]) * (R + Z @ np.diag(np.repeat(moved[0] ** 2, sizes)) @ Z.T)
        back = np.linalg.inv(V)
        M = X.T @ back @ X
        e = y - X @ np.linalg.solve(M, X.T @ back @ y)
        return np.linalg.slogdet(V)[1] + np.linalg.slogdet(M)[1] + e @ back @ e

    sizes = [term.q for term in design.terms]
    full = np.append(x, np.log(fit.scale))
    H, h = np.zeros((n + 1, n + 1)), 2e-3
    for i in range(n + 1):
        for j in range(n + 1):
            ends = []
            for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                step = np.zeros(n + 1)
                step[i] += a * h
                step[j] += b * h
                ends.append(criterion(full + step))
            H[i, j] = (ends[0] - ends[1] - ends[2] + ends[3]) / (4 * h * h)
    return 2.0 * np.linalg.inv(H)


@pytest.mark.parametrize("effects", ["", " + (1 | Subject)"])
def test_degrees_of_freedom_of_predictions_are_those_of_tests(effects):
    """They took R as known: 178 instead of some 20."""
    data = sparselmm.datasets.load("sleepstudy")
    formula = "Reaction ~ Days" + effects
    fit = sparselmm.mixedlm(formula, data, residual="ar1(Days | Subject)").fit()
    found = fit.get_prediction(
        pd.DataFrame({"Days": [4.5]}), interval="confidence", ddf="satterthwaite"
    )
    test = fit.t_test([[1.0, 4.5]], ddf="satterthwaite")
    assert found.df_mean[0] == pytest.approx(float(np.ravel(test.df_denom)[0]), rel=1e-10)
    assert found.se_mean[0] == pytest.approx(float(np.ravel(test.sd)[0]), rel=1e-10)


def test_refits_of_responses_that_are_explained_are_refused():
    for endog in (np.ones(180), 2.0 * sleep().built.design.X[:, 1]):
        with pytest.raises(DataError, match="explain the response 'endog' exactly"):
            sleep().refit(endog)


def test_arguments_of_tidy_are_those_of_other_fits():
    with pytest.raises(TypeError, match="tidy has no argument 'nonsense'"):
        sleep().tidy("resid_pars", nonsense=3)
    with pytest.raises(ValueError, match="'ran_coefs', 'resid_pars', got 'nope'"):
        sleep().tidy(["fixed", "nope"])
    with pytest.raises(ValueError, match="conf_level must be between 0 and 1, got 90"):
        sleep().tidy("resid_pars", conf_int=True, conf_level=90)


def test_satterthwaite_by_its_definition():
    fit = sleep()
    A = observed(fit)
    S, G = derivatives(fit)
    X, back = fit.built.design.X, np.linalg.inv(S)
    Phi = np.linalg.inv(X.T @ back @ X)
    tests = fit._ddf("satterthwaite")
    for row in np.eye(2):
        g = np.array([row @ Phi @ X.T @ back @ a @ back @ X @ Phi @ row for a in G])
        df = 2.0 * (row @ Phi @ row) ** 2 / (g @ A @ g)
        assert tests.t_df(row[None])[0] == pytest.approx(df, rel=2e-3)


# ----------------------------------------------------------------- robust covariance, findings


def test_robust_covariance_by_its_definition():
    fit = sleep()
    V = dense(fit)[3]
    X, y = fit.built.design.X, fit.built.design.y
    M = np.linalg.inv(X.T @ np.linalg.solve(V, X))
    e = y - X @ fit.fe_params.to_numpy()
    codes = pd.factorize(fit.built.frame.Subject)[0]
    meat = np.zeros((2, 2))
    for g in range(codes.max() + 1):
        rows = codes == g
        score = X[rows].T @ np.linalg.solve(V[np.ix_(rows, rows)], e[rows])
        meat += np.outer(score, score)
    assert fit.cov_robust("CR0").to_numpy() == pytest.approx(M @ meat @ M, rel=1e-8)


@pytest.mark.parametrize("kind", ["CR0", "CR1", "CR2"])
def test_robust_covariance_does_not_depend_on_how_the_model_is_written(kind):
    frame = data_of("Orthodont")
    a = sparselmm.mixedlm("distance ~ age * Sex + (1 | Subject)", frame).fit()
    b = sparselmm.mixedlm("distance ~ age * Sex", frame, residual="cs(age | Subject)").fit()
    one, other = a.cov_robust(kind), b.cov_robust(kind, groups="Subject")
    assert other.to_numpy() == pytest.approx(one.to_numpy(), rel=1e-5)
    one, other = a.robust_tests(kind=kind), b.robust_tests(kind=kind, groups="Subject")
    assert other.to_numpy() == pytest.approx(one.to_numpy(), rel=1e-4)
    with pytest.raises(sparselmm.DataError, match="has rows in several clusters"):
        b.cov_robust(kind, groups="age")


def test_findings():
    assert "singular" not in ovary().check().codes
    assert isinstance(fev().check().codes, tuple)
    frame = data_of("Ovary").copy()
    frame.loc[5, "follicles"] += 60.0
    model = sparselmm.mixedlm(OVARY + " + (1 | Mare)", frame, residual="ar1(place | Mare)")
    assert any("row" in code or "outl" in code for code in model.fit().check().codes)
