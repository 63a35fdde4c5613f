"""statsmodels' interface: its own tests against our classes, and both packages side by side."""

import os
import re
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sparselmm
from sparselmm import MixedLM, MixedLMParams, datasets

HERE = Path(__file__).parent
PASSED, PRIVATE = 91, 32
"""Tests of the file that apply, and those of private functions of the implementation."""


def test_released_tests_pass():
    """statsmodels' released test file, in a process of its own with its own configuration."""
    found = find_spec("statsmodels")
    assert found is not None
    file = Path(found.submodule_search_locations[0]) / "regression" / "tests" / "test_lme.py"
    folder = HERE / "upstream"
    options = ["-c", "pytest.ini", "-p", "plugin", "--rootdir=.", "--noconftest", "-q"]
    path = os.pathsep.join([str(folder), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
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
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE.parent)


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


class Ridge:
    """A penalty without statsmodels."""

    alpha = 1.0

    def func(self, x):
        return self.alpha * float(x @ x)

    def deriv(self, x):
        return 2 * self.alpha * x


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
    assert len(back.random_effects) == 72
    assert len(back.predict(datasets.load("sm_dietox").head(3))) == 3


def test_warnings_are_theirs_too():
    theirs = pytest.importorskip("statsmodels.tools.sm_exceptions")
    with pytest.warns(theirs.SingularMatrixWarning):
        dietox("Weight ~ 1").fit()


def crossed(n, levels, seed=12):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, levels, n), rng.integers(0, levels, n)
    y = 2 * rng.normal(size=levels)[a] + 3 * rng.normal(size=levels)[b] + rng.normal(size=n)
    return pd.DataFrame({"y": y, "group1": a, "group2": b, "one": np.ones(n, dtype=int)})


def nested(outer, middle, inner, seed=13):
    rng = np.random.default_rng(seed)
    a = np.repeat(np.arange(outer), middle * inner)
    b = np.tile(np.repeat(np.arange(middle), inner), outer)
    y = 2 * rng.normal(size=outer)[a] + 3 * rng.normal(size=outer * middle)[a * middle + b]
    return pd.DataFrame({"y": y + 4 * rng.normal(size=len(a)), "group1": a, "group2": b})


NOTEBOOKS = {
    "nested": (
        lambda: nested(40, 10, 5),
        {"groups": "group1", "re_formula": "1", "vc_formula": {"g2": "0 + C(group2)"}},
    ),
    "crossed": (
        lambda: crossed(2000, 20),
        {"groups": "one", "vc_formula": {"g1": "0 + C(group1)", "g2": "0 + C(group2)"}},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.parametrize("reml", [True, False])
def test_both_packages(name, reml):
    """The notebooks' models, smaller: statsmodels takes minutes for 40,000 rows."""
    theirs = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    make, arguments = NOTEBOOKS[name]
    data = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = MixedLM.from_formula("y ~ 1", data, **arguments).fit(reml=reml)
        model = theirs.MixedLM.from_formula("y ~ 1", data, **arguments)
        old = model.fit(reml=reml)
    assert ours.llf >= old.llf - 1e-6
    if ours.llf < old.llf + 1e-4:  # it reached the optimum too
        # its default stopping rule leaves the deviance 1e-4 above: 1e-2 standard errors
        np.testing.assert_allclose(ours.vcomp, old.vcomp, rtol=1e-2)
        np.testing.assert_allclose(ours.scale, old.scale, rtol=1e-3)
    spec = sparselmm.VCSpec(model.exog_vc.names, model.exog_vc.colnames, model.exog_vc.mats)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = MixedLM(
            data["y"].to_numpy(), np.ones((len(data), 1)), data[arguments["groups"]].to_numpy(),
            exog_re=np.ones(len(data)) if "re_formula" in arguments else None, exog_vc=spec,
        ).fit(reml=reml)  # fmt: skip
    assert again.llf == pytest.approx(ours.llf, abs=1e-6)
    np.testing.assert_allclose(again.vcomp, ours.vcomp, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_in_full(name):
    """40,000 rows, ours alone: the variances the data were simulated with."""
    _, arguments = NOTEBOOKS[name]
    data = nested(200, 20, 10) if name == "nested" else crossed(40_000, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sparselmm.SpecificationWarning)
        fit = MixedLM.from_formula("y ~ 1", data, **arguments).fit()
    assert fit.converged
    assert fit.vcomp[-1] == pytest.approx(9.0, rel=0.5)
