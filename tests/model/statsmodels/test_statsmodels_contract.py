"""statsmodels' interface: its own tests against our classes, and both packages side by side."""

import os
import pickle
import re
import subprocess
import sys
import warnings
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import patsy
import pytest
import scipy.sparse as sp
from benchmarks.statsmodels_cases import CROSSED, NESTED, crossed_levels, nested_levels
from penalties import Ridge

import sparselmm
from sparselmm import MixedLM, MixedLMParams, datasets

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PASSED, PRIVATE = 91, 32
"""Tests of the file that apply, and those of private functions of the implementation."""


@pytest.mark.slow
def test_released_tests_pass():
    """statsmodels' released test file, in a process of its own with its own configuration."""
    found = find_spec("statsmodels")
    assert found is not None
    file = Path(found.submodule_search_locations[0]) / "regression" / "tests" / "test_lme.py"
    folder = HERE / "upstream"
    options = ["-c", "pytest.ini", "-p", "plugin", "--rootdir=.", "--noconftest", "-q"]
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(file)],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    last = run.stdout.strip().splitlines()[-1]
    assert re.search(rf"\b{PASSED} passed, {PRIVATE} deselected", last), run.stdout[-4000:]
    assert "failed" not in last
    assert run.returncode == 0


def test_statsmodels_is_not_imported():
    code = (
        "import sys, sparselmm; d = sparselmm.datasets.load('sm_dietox');"
        "r = sparselmm.mixedlm('Weight ~ Time', d, groups='Pig').fit(); r.summary();"
        "r.t_test('Time = 7').summary(); assert 'statsmodels' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


THEIRS = "from statsmodels.iolib.summary2 import Summary as Theirs;"
OURS = (
    "import copy, pickle, sparselmm; from sparselmm.results.print.summary import Summary;"
    "d = sparselmm.datasets.load('sm_dietox');"
    "s = sparselmm.mixedlm('Weight ~ Time', d, groups='Pig').fit().summary(); text = str(s);"
    "assert isinstance(s, Summary) and str(pickle.loads(pickle.dumps(s))) == text;"
)


@pytest.mark.parametrize("order", [THEIRS + OURS, OURS + THEIRS], ids=["before", "after"])
def test_a_summary_is_one_of_statsmodels(order):
    """Whenever statsmodels is imported, and neither pickling nor copying makes it another."""
    check = (
        "assert isinstance(s, Theirs) and isinstance(s, Summary) and not isinstance(s, str);"
        "twins = [pickle.loads(pickle.dumps(s)), copy.copy(s), copy.deepcopy(s)];"
        "assert all(type(t) is Summary and isinstance(t, Theirs) for t in twins);"
        "assert all(str(t) == repr(t) == text for t in twins)"
    )
    subprocess.run([sys.executable, "-c", order + check], check=True, cwd=ROOT)


def dietox(formula="Weight ~ Time", **arguments):
    return MixedLM.from_formula(formula, datasets.load("sm_dietox"), groups="Pig", **arguments)


def test_answers_where_statsmodels_stops_early():
    slopes = dietox(re_formula="~Time").fit()
    assert slopes.llf == pytest.approx(-2217.0475, abs=1e-3)
    np.testing.assert_allclose(slopes.bse_re, [3.661, 0.375, 0.0770], rtol=2e-3)
    assert dietox().fit().bse_re.iloc[0] == pytest.approx(6.939, abs=1e-3)
    with pytest.warns(sparselmm.SingularMatrixWarning):
        flat = dietox("Weight ~ 1").fit()
    assert flat.llf == pytest.approx(-3991.173, abs=1e-3)
    assert flat.fe_params.iloc[0] == pytest.approx(60.726, abs=1e-3)
    assert np.isfinite(flat.fittedvalues).all()


@pytest.mark.parametrize("use_sqrt", [False, True])
@pytest.mark.parametrize("reml", [False, True])
def test_likelihood_before_fit(use_sqrt, reml):
    model = dietox(re_formula="~Time", use_sqrt=use_sqrt)
    model.reml = reml
    params = MixedLMParams.from_components(
        np.array([15.0, 7.0]), cov_re=np.array([[3.0, 0.1], [0.1, 0.2]])
    )
    packed = params.get_packed(use_sqrt=use_sqrt)
    score = model.score(params)
    step = 1e-5 * np.eye(3)
    numeric = [(model.loglike(packed + h) - model.loglike(packed - h)) / 2e-5 for h in step]
    np.testing.assert_allclose(score, numeric, rtol=1e-5, atol=1e-6)
    fe, singular = model.get_fe_params(params.cov_re, params.vcomp)
    assert not singular
    assert model.get_scale(fe, params.cov_re, params.vcomp) > 0


def mask(cov_re, fe=(1.0, 1.0)):
    return MixedLMParams.from_components(np.array(fe), cov_re=np.array(cov_re, dtype=float))


def test_masks():
    """Independent coefficients are two bars; a constraint not of that kind is kept."""
    data = datasets.load("sleepstudy")
    model = MixedLM.from_formula("Reaction ~ Days", data, groups="Subject", re_formula="~Days")
    bars = MixedLM.from_formula("Reaction ~ Days + (Days || Subject)", data).fit()
    free = model.fit(free=mask(np.eye(2)))
    assert free.llf == pytest.approx(bars.llf, abs=1e-8)
    assert free.cov_re.iloc[0, 1] == 0.0
    assert np.asarray(free.cov_params())[3, 3] == 0.0
    start = mask([[0.9, 0.0], [0.0, 0.05]], fe=(0.0, 0.0))
    for fixed in ([[0, 1], [1, 1]], [[1, 1], [1, 0]], [[1, 0], [0, 0]]):
        held = np.tril(np.array(fixed) == 0)
        fit = model.fit(start_params=start, free=mask(fixed), reml=False)
        np.testing.assert_allclose(
            np.asarray(fit.cov_re_unscaled)[held], start.cov_re[held], rtol=1e-6, atol=1e-9
        )
        assert fit.converged
        assert fit.llf < model.fit(reml=False).llf


def test_penalties():
    model = dietox()
    plain = model.fit()
    ridge = model.fit_regularized(method=Ridge(), alpha=5.0)
    assert np.abs(ridge.fe_params).sum() < np.abs(plain.fe_params).sum()
    nothing = model.fit_regularized(method=Ridge(), alpha=0.0)
    np.testing.assert_allclose(nothing.fe_params, plain.fe_params, rtol=1e-6)
    lasso = model.fit_regularized(alpha=np.array([0.0, 2000.0]))
    assert lasso.fe_params.iloc[1] < plain.fe_params.iloc[1]
    pd.testing.assert_frame_equal(lasso.cov_re, plain.cov_re)
    with pytest.raises(ValueError, match="l2"):
        model.fit_regularized(method="l2")


def test_an_l1_fit_says_when_its_sweeps_did_not_suffice():
    model = dietox()
    with pytest.warns(sparselmm.exceptions.ConvergenceWarning, match="1 sweeps"):
        short = model.fit_regularized(alpha=2000.0, maxit=1)
    assert not short.converged
    assert "sweeps" in short.opt.message
    assert model.fit_regularized(alpha=2000.0).converged


def test_an_l1_fit_holds_variances_at_the_values_given():
    model = dietox()
    held = MixedLMParams.from_components(np.ones(2), cov_re=np.zeros((1, 1)))
    start = MixedLMParams.from_components(np.zeros(2), cov_re=np.array([[2.0]]))
    plain = model.fit(start, free=held)
    fit = model.fit_regularized(start, alpha=0.0, free=held)
    np.testing.assert_allclose(fit.cov_re, plain.cov_re)
    np.testing.assert_allclose(plain.cov_re, [[2.0 * plain.scale]])
    np.testing.assert_allclose(fit.fe_params, plain.fe_params, rtol=1e-6)


def test_an_l1_fit_refuses_another_penalty_and_fixed_effects_held():
    model = dietox()
    held = MixedLMParams.from_components(np.array([1.0, 0.0]), cov_re=np.ones((1, 1)))
    for other in ({"fe_pen": Ridge()}, {"free": held}):
        with pytest.raises(ValueError, match="l1"):
            model.fit_regularized(alpha=1.0, **other)


def test_hypotheses():
    fit = dietox(re_formula="~Time").fit()
    by_name, by_row = fit.t_test("Time = 0"), fit.t_test([0, 1])
    np.testing.assert_allclose(by_name.statistic, by_row.statistic)
    assert fit.t_test((np.eye(2), [15, 7])).effect.shape == (2,)
    assert fit.wald_test("Time = 0").statistic == pytest.approx(float(by_row.statistic[0]) ** 2)
    assert fit.f_test(np.eye(2)).df_num == 2
    assert fit.wald_test_terms().table.index.tolist() == ["Intercept", "Time"]
    machines = MixedLM.from_formula(
        "score ~ Machine", datasets.load("Machines"), groups="Worker"
    ).fit()
    pairs = machines.t_test_pairwise("Machine").result_frame
    assert pairs.index.tolist() == ["B-A", "C-A", "C-B"]
    direct = machines.t_test("Machine[T.C] - Machine[T.B] = 0")
    assert pairs.loc["C-B", "coef"] == pytest.approx(direct.effect[0])


def test_tables_of_tests():
    """The same numbers print the same text; a table of terms has the same headings."""
    theirs = pytest.importorskip("statsmodels.stats.contrast")
    fit = dietox("Weight ~ Time + C(Evit)").fit()
    rows = np.eye(fit.k_fe)
    ours = fit.t_test(rows)
    same = theirs.ContrastResults(
        effect=ours.effect, statistic=ours.statistic, sd=ours.sd, distribution="norm"
    )
    names = ["a", "b", "c", "intercept"]
    for options in ({}, {"xname": names}, {"alpha": 0.1, "title": "Pigs"}):
        assert ours.summary(**options) == str(same.summary(**options))
    terms = fit.wald_test_terms().summary_frame()
    assert list(terms.columns) == ["chi2", "P>chi2", "df constraint"]
    assert list(terms.index) == ["Intercept", "C(Evit)", "Time"]
    assert repr(fit.f_test("Time = 0")).startswith("<F test: F=")


def test_data_of_a_model():
    """``model.data`` of both packages, from formulas and from arrays."""
    theirs = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    data = datasets.load("sm_dietox")
    data = data[data["Time"] > 6]
    X = data[["Time"]].assign(const=1.0)
    for build in (
        lambda kind: kind.from_formula("Weight ~ Time", data, groups="Pig", vc_formula={}),
        lambda kind: kind(data["Weight"], X, groups=data["Pig"]),
    ):
        ours, old = build(sparselmm.MixedLM).data, build(theirs.MixedLM).data
        pd.testing.assert_frame_equal(
            ours.orig_exog, pd.DataFrame(old.orig_exog), check_dtype=False
        )
        pd.testing.assert_frame_equal(
            pd.DataFrame(ours.orig_endog), pd.DataFrame(old.orig_endog), check_dtype=False
        )
        np.testing.assert_array_equal(ours.exog, old.exog)
        np.testing.assert_array_equal(ours.endog, old.endog)
        assert (ours.xnames, ours.ynames) == (old.xnames, old.ynames)
        assert list(ours.row_labels) == list(old.row_labels)
    arrays = MixedLM(data["Weight"].to_numpy(), X.to_numpy(), data["Pig"].to_numpy())
    assert arrays.data.orig_exog is arrays.exog
    assert not hasattr(arrays, "formula")


def test_remove_data(tmp_path):
    fit = dietox(vc_formula={"slope": "0 + Time"}, re_formula="1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = fit.fit()
    text = str(fit.summary())
    fit.save(tmp_path / "all.pickle")
    fit.save(tmp_path / "slim.pickle", remove_data=True)
    sizes = [(tmp_path / name).stat().st_size for name in ("slim.pickle", "all.pickle")]
    assert sizes[0] < 0.7 * sizes[1]
    back = sparselmm.MixedLMResults.load(tmp_path / "slim.pickle")
    assert str(back.summary()) == text
    assert back.model.endog.size == 0
    assert back.k_constant == 1
    assert len(back.random_effects) == 72
    assert len(back.predict(datasets.load("sm_dietox").head(3))) == 3


def test_warnings_are_theirs_too():
    """A zero variance: statsmodels warns twice, of a singular matrix and of convergence."""
    theirs = pytest.importorskip("statsmodels.tools.sm_exceptions")
    for kind in (sparselmm, theirs):
        for name in ("SingularMatrixWarning", "ConvergenceWarning"):
            with pytest.warns(getattr(kind, name), match="^The MLE may be on the boundary"):
                dietox("Weight ~ 1").fit()


def test_errors_are_theirs_too():
    theirs = pytest.importorskip("statsmodels.tools.sm_exceptions")
    data = datasets.load("sm_dietox")
    groups = data["Pig"].astype(float).where(data.index > 5).to_numpy()
    for kind in (theirs.MissingDataError, sparselmm.MissingDataError, ValueError):
        with pytest.raises(kind, match="groups"):
            MixedLM.from_formula("Weight ~ Time", data, groups=groups)
    for kind in (patsy.PatsyError, sparselmm.FormulaError, KeyError):
        with pytest.raises(kind, match=r"^'Tiem', used in the formula"):
            dietox("Weight ~ Tiem")
    with pytest.raises(AttributeError, match="groups=") as info:
        MixedLM.from_formula("Weight ~ Time", data)
    back = pickle.loads(pickle.dumps(info.value))
    assert (type(back), str(back)) == (type(info.value), str(info.value))


PIGS = {"formula": "Weight ~ Time", "groups": "Pig"}
NOTEBOOKS = {  # arguments of the model, of the fit, and whether statsmodels reaches the optimum
    "pigs": (PIGS, {"method": ["lbfgs"]}, True),
    "pigs, default optimizer": (PIGS, {}, True),
    "pigs, slopes": ({**PIGS, "re_formula": "~Time"}, {"method": ["lbfgs"]}, True),
    "pigs, slopes, default optimizer": ({**PIGS, "re_formula": "~Time"}, {}, False),
    "pigs, independent": (
        {**PIGS, "re_formula": "~Time"},
        {"free": "identity", "method": ["lbfgs"]},
        True,
    ),
    "pigs, mean": ({**PIGS, "formula": "Weight ~ 1"}, {}, False),
    "pigs, mean, lbfgs": ({**PIGS, "formula": "Weight ~ 1"}, {"method": "lbfgs"}, False),
    "nested": ({"formula": "y ~ 1", **NESTED}, {}, True),
    "nested, ML": ({"formula": "y ~ 1", **NESTED}, {"reml": False}, True),
    "crossed": ({"formula": "y ~ 1", **CROSSED, "use_sparse": True}, {}, True),
}
LME4 = {  # log-likelihood, first fixed effect, first variance, where statsmodels stops elsewhere
    "pigs, slopes, default optimizer": (-2217.0475, 15.73865, 19.493),
    "pigs, mean": (-3991.173, 60.7258, 0.0),
    "pigs, mean, lbfgs": (-3991.173, 60.7258, 0.0),
}


@lru_cache
def notebook_data(name):
    makers = {"nested": nested_levels, "crossed": crossed_levels}
    kind = name.split(",")[0]
    return makers[kind]() if kind in makers else datasets.load("sm_dietox")


def fitted(package, name):
    """A model of the notebooks in one of the packages; statsmodels' objects are understood."""
    arguments, options, _ = NOTEBOOKS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = package.MixedLM.from_formula(data=notebook_data(name), **arguments)
        if "free" in options:
            free = package.MixedLMParams.from_components(np.ones(2), np.eye(2))
            options = {**options, "free": free}
        return model.fit(**options)


def same_answer(ours, old):
    """Statsmodels' stopping rule leaves the deviance up to 1e-4 above the optimum."""
    assert ours.llf == pytest.approx(old.llf, abs=1e-4)
    error = np.asarray(ours.bse_fe)
    assert (np.abs(np.asarray(ours.fe_params) - np.asarray(old.fe_params)) < 1e-3 * error).all()
    np.testing.assert_allclose(ours.bse_fe, old.bse_fe, rtol=1e-2)
    np.testing.assert_allclose(ours.vcomp, old.vcomp, rtol=1e-2)
    variances = np.abs(np.diag(old.cov_re))
    size = np.sqrt(np.outer(variances, variances))
    assert (np.abs(np.asarray(ours.cov_re) - np.asarray(old.cov_re)) <= 1e-2 * size).all()
    np.testing.assert_allclose(ours.scale, old.scale, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_in_both_packages(name):
    """The models of statsmodels' two notebooks, with all their 40,000 rows.

    ``use_sparse`` gives the same numbers as without, in 10 s instead of 54 s of its time.
    """
    theirs = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    ours, old = fitted(sparselmm, name), fitted(theirs, name)
    assert ours.converged
    if np.isfinite(old.llf):
        assert ours.llf >= old.llf - 1e-6
    if NOTEBOOKS[name][2]:
        assert list(ours.params.index) == list(old.params.index)
        same_answer(ours, old)
    else:
        llf, first, variance = LME4[name]
        assert ours.llf == pytest.approx(llf, abs=1e-3)
        assert ours.fe_params.iloc[0] == pytest.approx(first, abs=1e-4)
        assert ours.cov_re.iloc[0, 0] == pytest.approx(variance, abs=1e-3)
        assert not np.isfinite(old.llf) or ours.llf > old.llf + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nested", "crossed"])
def test_notebooks_from_matrices(name):
    """The same models as ``VCSpec``, dense or sparse, of either package."""
    theirs = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    data = notebook_data(name)
    names, colnames, mats = [], [], []
    for column in ("group2",) if name == "nested" else ("group1", "group2"):
        names.append(column)
        whole = data if name == "nested" else data.assign(group1=0)
        tables = [
            pd.get_dummies(data.loc[rows.index, column]).astype(float)
            for _, rows in whole.groupby("group1")
        ]
        colnames.append([[str(label) for label in table] for table in tables])
        kind = np.asarray if name == "nested" else sp.csr_array
        mats.append([kind(table.to_numpy()) for table in tables])
    ones = np.ones(len(data))
    groups, effects = (data["group1"], ones) if name == "nested" else (ones, None)
    fits = [
        package.MixedLM(
            data["y"], ones[:, None], groups=groups, exog_re=effects,
            exog_vc=spec.VCSpec(names, colnames, mats),
        ).fit()
        for package, spec in ((sparselmm, sparselmm), (sparselmm, theirs), (theirs, theirs))
    ]  # fmt: skip
    same_answer(fits[0], fits[2])
    assert fits[0].llf == fits[1].llf == pytest.approx(fitted(sparselmm, name).llf, abs=1e-6)
    assert list(fits[0].params.index) == list(fits[2].params.index)
    truth = [9.0] if name == "nested" else [4.0, 9.0]
    np.testing.assert_allclose(fits[0].vcomp, truth, rtol=0.5)
