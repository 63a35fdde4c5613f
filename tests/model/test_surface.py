"""Every public callable times every argument times a table of wrong values.

Callables are found by looking at the public classes, so that a new one fails here until its
arguments have a kind.
"""

import inspect
import re
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from wrong_values import (
    ANYTHING,
    CHOICE,
    COUNT,
    FLAG,
    LEVEL,
    NONE,
    NUMBERS,
    POSITIVE,
    TEXT,
    Surface,
    methods_of,
)

import sparselmm
from sparselmm import KnownCovariance, MixedLM, MixedLMParams, SparseLMMError, VCSpec, datasets
from sparselmm.model import fit as fitting
from sparselmm.model.statsmodels import cloning
from sparselmm.results.methods import tidy
from sparselmm.results.methods import variances as inference

SQUARE = NONE | NUMBERS | {"nan", "inf", "[]", "frame"}  # a number is a matrix of order one

KINDS = {
    "eval_env": {"0", "-1"},
    "subset": NONE,
    "BootstrapResults.save.file": {"'nope'"},
    "ManyResults.save.file": {"'nope'"},
    "file": CHOICE,
    "MixedLMResults.save.fname": {"'nope'"},
    "fname": CHOICE,
    "checkpoint": NONE | {"'nope'"},
    "alpha": LEVEL,
    "MixedLM.fit_regularized.alpha": {"0", "3.5", "1e300", "10**30", "True"},
    "MixedLM.fit_regularized.method": CHOICE,
    "Distribution.rvs.n": ANYTHING,  # statsmodels has it; not used
    "MixedLM.get_distribution.scale": POSITIVE | {"10**30"},
    "MixedLM.predict.params": {"array"},  # more than the fixed effects
    "MixedLM.exog_vc": NONE | {"{}"},
    "MixedLM.exog": CHOICE,
    "MixedLMParams.from_packed.params": {"array"},
    "MixedLMResults.cov_params.scale": NONE | POSITIVE | {"10**30"},
    "MixedLMResults.get_prediction.weights": NONE | {"0", "3.5", "1e300", "10**30", "True"},
    "MixedLMResults.emmeans.weights": CHOICE,
    "MixedLMResults.anova.ddf": CHOICE,
    "MixedLMResults.drop1.ddf": CHOICE,
    "MixedLMResults.emmeans.ddf": CHOICE,
    "MixedLMResults.get_prediction.ddf": CHOICE,
    "MixedLMResults.power.test": CHOICE,
    "MixedLMResults.rank.method": NONE,
    "MarginalMeans.contrast.adjust": NONE,
    "MarginalMeans.cld.alpha": NONE,
    "MarginalMeans.test.adjust": CHOICE,
    "MixedLMResults.emtrends.weights": CHOICE,
    "MixedLMResults.emtrends.ddf": CHOICE,
    "MixedLMResults.joint_tests.weights": CHOICE,
    "MixedLMResults.joint_tests.ddf": CHOICE,
    "ResidualResults.emtrends.weights": CHOICE,
    "ResidualResults.emtrends.ddf": CHOICE,
    "ResidualResults.joint_tests.weights": CHOICE,
    "ResidualResults.joint_tests.ddf": CHOICE,
    "interaction": FLAG,
    "ascending": FLAG,
    "folds": NONE,
    "pictures": FLAG,
    "path": {"'nope'"},
    "MixedLMResults.cross_validate.by": NONE,
    "MixedLMResults.cross_validate.seed": {"0", "10**30", "3.5"},
    "intercept": FLAG,
    "exponentiate": FLAG,
    "figure": NONE,
    "x": NONE,
    "variables": NONE,
    "bands": CHOICE,
    "time": NONE,
    "lags": COUNT,
    "top": NONE,
    "criteria": CHOICE,
    "MixedLMResults.plot_predictions.groups": NONE,
    "ResidualResults.plot_predictions.groups": NONE,
    "MixedLMResults.plot_predictions.data": CHOICE,
    "ResidualResults.plot_predictions.data": CHOICE,
    "MixedLMResults.plot_groups.levels": NONE,
    "ResidualResults.plot_groups.levels": NONE,
    "ProfileResults.plot.figure": NONE,
    "ref": {"0", "-1", "True"},
    "comparisons": FLAG,
    "var": CHOICE,
    "ax": NONE,
    "null": NUMBERS,
    "value": NUMBERS | {"nan", "inf"},
    "delta": {"0"},
    "side": CHOICE,
    "KnownCovariance.labels": CHOICE,
    "alpha_max": LEVEL,
    "conf_level": LEVEL,
    "adjust": CHOICE,
    "ci": CHOICE,
    "engine": CHOICE,
    "kind": CHOICE,
    "level": CHOICE,
    "missing": CHOICE,
    "scale": CHOICE,
    "test": CHOICE,
    "type": CHOICE,
    "unseen": CHOICE,
    "interval": CHOICE,
    "vtype": CHOICE,
    "ddf": NONE,
    "finish": CHOICE | NONE,
    "scratch": NONE,
    "absolute": FLAG,
    "calc_fe": FLAG,
    "chunk_rows": COUNT,
    "client": NONE,
    "keep_rows": {"True"},
    "influence": FLAG,
    "to": NONE | {"'nope'"},
    "do_cg": FLAG,
    "conf_int": FLAG,
    "exact": FLAG,
    "fixed_uncertainty": FLAG,
    "full_output": FLAG,
    "has_fe": FLAG,
    "jackknife": FLAG,
    "obs": FLAG,
    "profile_fe": FLAG,
    "progress": FLAG | NONE,
    "refit": FLAG,
    "reml": FLAG,
    "remove_data": FLAG,
    "reverse": FLAG,
    "scaled": FLAG,
    "skip_single": FLAG,
    "theta": FLAG | NONE,
    "transform": FLAG,
    "use_f": FLAG | NONE,
    "use_sqrt": FLAG,
    "use_sparse": FLAG,
    "use_t": FLAG | NONE,
    "scalar": FLAG | NONE,
    "digits": {"0"},
    "maxiter": NONE,
    "maxit": COUNT,
    "n": COUNT,
    "n_groups": NONE,
    "n_jobs": {"-1"},
    "n_points": COUNT,
    "n_sim": COUNT,
    "nsim": COUNT,
    "num_high": {"0"},
    "num_low": {"0"},
    "niter_sa": {"0"},
    "k_fe": {"0"},
    "k_re": {"0"},
    "k_vc": {"0"},
    "memory_limit": NONE | POSITIVE | {"10**30"},
    "rng": NONE | {"0", "10**30", "[]"},
    "seed": NONE | {"0", "10**30", "[]"},
    "ceps": {"0", "3.5", "1e300", "10**30"},
    "ptol": {"0", "3.5", "1e300", "10**30"},
    "tol": {"0", "3.5", "1e300", "10**30"},
    "dist_high": POSITIVE,
    "dist_low": POSITIVE,
    "rho": {"0"},
    # names
    "by": NONE | {"[]"},
    "coefficient": NONE,
    "combine_terms": NONE | {"[]", "'nope'", "['nope', 'nope']"},
    "factor": NONE,
    "factor_labels": NONE | {"['nope', 'nope']"},
    "label": TEXT,
    "name": CHOICE,
    "names": NONE,
    "parameters": NONE | {"[]"},
    "term": NONE,
    "term_name": CHOICE,
    "title": NONE | TEXT,
    "which": NONE | {"[]"},
    "xname": NONE,
    "xname_fe": NONE,
    "xname_re": NONE,
    "yname": NONE | TEXT,
    # what a model is made of
    "Y": CHOICE,
    "adjacency": CHOICE,
    "colnames": CHOICE,
    "cov_pen": NONE,
    "covariance": NONE | {"{}"},
    "dam": {"['nope', 'nope']"},
    "data": CHOICE,
    "effects": CHOICE,
    "fe_pen": NONE,
    "fix": NONE | {"{}"},
    "formula": CHOICE,
    "free": NONE,
    "labels": CHOICE,
    "mats": CHOICE,
    "matrix": CHOICE,
    "method": CHOICE,
    "MixedLM.fit.method": NONE,
    "MixedLMResults.augment.data": NONE,
    "re": {"True", "0", "[]", "{}"},
    "MixedLMResults.simulate.re": CHOICE,
    "re_formula": NONE,
    "residual": NONE,
    "dispersion": NONE,
    "ResidualResults.R.group": CHOICE,
    "ResidualResults.R.data": NONE,
    "ResidualResults.augment.data": NONE,
    "ResidualResults.get_prediction.data": NONE,
    "ResidualResults.simulate.re": CHOICE,
    "ResidualResults.get_prediction.weights": NONE | {"0", "3.5", "1e300", "10**30", "True"},
    "ResidualResults.emmeans.weights": CHOICE,
    "ResidualResults.anova.ddf": CHOICE,
    "ResidualResults.emmeans.ddf": CHOICE,
    "ResidualResults.get_prediction.ddf": CHOICE,
    "ResidualResults.rank.method": NONE,
    "ResidualResults.cov_params.scale": NONE | POSITIVE | {"10**30"},
    "ResidualResults.save.fname": {"'nope'"},
    "ResidualResults.residual_params.ci": CHOICE,
    "sire": {"['nope', 'nope']"},
    "specs": CHOICE,
    "start_params": NONE,
    "start_theta": NONE,
    "starts": NONE | {"0", "frame"},
    "vc_formula": NONE,
    # of the fit
    "drop": {"[]"},
    "group": NONE,
    "newdata": NONE,
    "re_ix": {"0"},
    "resume": NONE,
    "statistic": NONE,
    # numbers in arrays
    "array": NONE,
    "at": NONE | {"{}"},
    "column": NONE | {"-1", "0", "[]"},
    "contrasts": NONE | {"{}"},
    "cov_p": NONE,
    "cov_re": SQUARE,
    "cov_re_sqrt": SQUARE,
    "df_constraints": ANYTHING,  # statsmodels has it; not used
    "effect": CHOICE,
    "endog": CHOICE,
    "exog": NONE,
    "exog_re": NONE,
    "exog_vc": NONE,
    "extra_constraints": NONE | {"[]"},
    "fe_params": NONE | {"array", "[]"},
    "groups": NONE,
    "invcov": ANYTHING,  # statsmodels has it; not used
    "levels": NONE | {"[]"},
    "offset": NONE,
    "other": NONE,
    "pairs": NONE | {"[]"},
    "params": CHOICE,
    "r_matrix": NONE,
    "vcomp": NONE | {"array", "[]"},
    "weights": NONE,
    "z_terms": NONE | {"{}"},
}


@cache
def data():
    rng = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "x": np.tile([0.0, 1.0, 2.0, 3.0], 8),
            "f": np.tile(["a", "a", "b", "b", "b", "a"], 6)[:32],
            "g": np.repeat(list("ABCDEFGH"), 4),
        }
    )
    frame["y"] = (
        frame.x
        + np.repeat(rng.normal(size=8), 4)
        + frame.x * np.repeat(rng.normal(size=8), 4)
        + rng.normal(size=32)
    )
    return frame


@cache
def model():
    return sparselmm.mixedlm("y ~ x + f + (1 | g)", data())


@cache
def fit():
    return model().fit()


@cache
def structured():
    frame = data().assign(t=np.tile([0, 1, 2, 3], 8))
    model = sparselmm.mixedlm("y ~ x + f + (1 | g)", frame, residual="ar1(t | g)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit()


@cache
def slopes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sparselmm.mixedlm("y ~ x + (x | g)", data()).fit()


@cache
def simple():
    return sparselmm.mixedlm("y ~ x + (1 | g)", data()).fit(reml=False)


# ------------------------------------------------------------------------------- callables


@cache
def owners():
    """One instance of every public class that results lead to, and its short name."""
    r, m = fit(), model()
    return {
        "MixedLM": m,
        "MixedLMResults": r,
        "ResidualResults": structured(),
        "BootstrapResults": r.bootstrap(20, seed=1),
        "ManyResults": m.fit_many(data()[["y"]]),
        "MixedLMParams": r.params_object,
        "PowerResults": r.power({"x": 1.0}, n_sim=5, seed=1),
        "ProfileResults": r.profile("sigma"),
        "ModelComparison": sparselmm.compare(r, simple(), refit=True),
        "MarginalMeans": r.emmeans("f"),
        "Prediction": r.get_prediction(),
        "InfluenceResults": r.influence("g"),
        "Diagnosis": r.check(),
        "ContrastResults": r.t_test("x = 0"),
        "WaldResults": r.wald_test("x = 0"),
        "TermTests": r.wald_test_terms(),
        "PairwiseResults": r.t_test_pairwise("f"),
        "ExactTest": r.exact_rlrt(nsim=10, seed=1),
        "ModelTable": r.to_table(),
        "Summary": r.summary(),
        "FitPlan": m.plan(),
        "Dataset": datasets.describe("sleepstudy"),
        "RSquared": r.r2(),
        "ConditionalAIC": r.caic(),
        "Distribution": m.get_distribution(r.params, 1.0),
        "OptSummary": r.opt,
        "KnownCovariance": KnownCovariance(np.eye(2), ["a", "b"]),
        "VCSpec": VCSpec(["a"], [[["c"]]], [[np.ones((2, 1))]]),
    }


FUNCTIONS = {
    "mixedlm": sparselmm.mixedlm,
    "mmrm": sparselmm.mmrm,
    "MixedLM": MixedLM,
    "KnownCovariance": KnownCovariance,
    "VCSpec": VCSpec,
    "MixedLMParams": MixedLMParams,
    "compare": lambda refit=False, names=None: sparselmm.compare(
        fit(), fit(), refit=refit, names=names
    ),
    "car": sparselmm.car,
    "pedigree": sparselmm.pedigree,
    "datasets.load": datasets.load,
    "datasets.describe": datasets.describe,
}


def save_new(fname, remove_data=False):
    """The method, on a fit of its own that may lose its data."""
    sparselmm.mixedlm("y ~ x + (1 | g)", data()).fit().save(fname, remove_data)


@cache
def callables():
    """Public callables with arguments, by name."""
    found = FUNCTIONS | methods_of(owners())
    found["MixedLMResults.exact_lrt"] = simple().exact_lrt
    found["MixedLMResults.save"] = save_new
    found["MixedLMResults.plot_ranef_correlation"] = slopes().plot_ranef_correlation
    del found["ResidualResults.plot_ranef_correlation"]  # needs two coefficients too
    del found["ModelTable.of"]  # made by to_table
    return found


BASE = {  # what a call needs besides the argument under test, and what keeps it short
    "mixedlm": lambda: {"formula": "y ~ x + (1 | g)", "data": data()},
    "mmrm": lambda: {"formula": "y ~ x + us(x | g)", "data": data()},
    "MixedLM.from_formula": lambda: {"formula": "y ~ x + (1 | g)", "data": data()},
    "MixedLM": lambda: {"endog": data().y, "exog": data()[["x"]], "groups": data().g},
    "KnownCovariance": lambda: {"matrix": np.eye(2), "labels": ["a", "b"]},
    "VCSpec": lambda: {"names": ["a"], "colnames": [[["c"]]], "mats": [[np.ones((2, 1))]]},
    "MixedLMParams": lambda: {"k_fe": 1, "k_re": 1, "k_vc": 1},
    "car": lambda: {"adjacency": np.ones((2, 2)) - np.eye(2), "rho": 0.5, "labels": ["a", "b"]},
    "pedigree": lambda: {"sire": [None, "a"], "dam": [None, None], "labels": ["a", "b"]},
    "MixedLM.fit_many": lambda: {"Y": data()[["y"]]},
    "MixedLM.get_distribution": lambda: {"params": fit().params, "scale": 1.0},
    "MixedLM.get_fe_params": lambda: {"cov_re": [[1.0]], "vcomp": []},
    "MixedLM.get_scale": lambda: {"fe_params": fit().fe_params, "cov_re": [[1.0]], "vcomp": []},
    "MixedLM.hessian": lambda: {"params": fit().params},
    "MixedLM.information": lambda: {"params": fit().params},
    "MixedLM.loglike": lambda: {"params": [1.0]},
    "MixedLM.predict": lambda: {"params": fit().params},
    "MixedLM.score": lambda: {"params": [1.0]},
    "MixedLM.score_full": lambda: {"params": fit().params_object, "calc_fe": True},
    "MixedLM.score_sqrt": lambda: {"params": fit().params_object},
    "MixedLMResults.bootstrap": lambda: {"n": 3, "seed": 1},
    "MixedLMResults.emmeans": lambda: {"specs": "f"},
    "MixedLMResults.emtrends": lambda: {"var": "x", "specs": "f"},
    "MixedLMResults.exact_lrt": lambda: {"nsim": 10, "seed": 1},
    "MixedLMResults.exact_rlrt": lambda: {"nsim": 10, "seed": 1},
    "MixedLMResults.f_test": lambda: {"r_matrix": "x = 0"},
    "MixedLMResults.fit_many": lambda: {"Y": data()[["y"]]},
    "MixedLMResults.power": lambda: {"effect": {"x": 1.0}, "n_sim": 3, "seed": 1},
    "MixedLMResults.profile": lambda: {"which": "x"},
    "MixedLMResults.profile_re": lambda: {
        "re_ix": 0, "vtype": "re", "num_low": 1, "num_high": 1, "dist_low": 0.01,
    },
    "MixedLMResults.ranef_contrasts": lambda: {"term": "g", "pairs": [("A", "B")]},
    "MixedLMResults.ranef_cov": lambda: {"term": "g"},
    "MixedLMResults.rank": lambda: {"term": "g"},
    "MixedLMResults.save": lambda: {"fname": "saved"},
    "MixedLMResults.t_test": lambda: {"r_matrix": "x = 0"},
    "MixedLMResults.t_test_pairwise": lambda: {"term_name": "f"},
    "MixedLMResults.wald_test": lambda: {"r_matrix": "x = 0"},
    "ResidualResults.bootstrap": lambda: {"n": 2, "seed": 1},
    "ResidualResults.emmeans": lambda: {"specs": "f"},
    "ResidualResults.emtrends": lambda: {"var": "x", "specs": "f"},
    "ResidualResults.f_test": lambda: {"r_matrix": "x = 0"},
    "ResidualResults.ranef_contrasts": lambda: {"term": "g", "pairs": [("A", "B")]},
    "ResidualResults.ranef_cov": lambda: {"term": "g"},
    "ResidualResults.rank": lambda: {"term": "g"},
    "ResidualResults.refit": lambda: {"endog": data().y},
    "ResidualResults.R": lambda: {"group": "A"},
    "ResidualResults.save": lambda: {"fname": "saved"},
    "ResidualResults.t_test": lambda: {"r_matrix": "x = 0"},
    "ResidualResults.t_test_pairwise": lambda: {"term_name": "f"},
    "ResidualResults.wald_test": lambda: {"r_matrix": "x = 0"},
    "MixedLMParams.from_packed": lambda: {
        "params": [1.0, 1.0], "k_fe": 1, "k_re": 1, "use_sqrt": True, "has_fe": True,
    },
    "MixedLMParams.get_packed": lambda: {"use_sqrt": True},
}  # fmt: skip
NAMED_AS = {
    "endog": "endog|data",
    "exog": "exog|data",  # a data frame with the formula's variables, or columns of X
    "newdata": "newdata|exog|data",
    "extra_constraints": "extra_constraints|r_matrix",
}
"""Words by which a message may name an argument."""

SURFACE = Surface(callables(), BASE, KINDS, NAMED_AS)


@pytest.mark.parametrize("name", SURFACE.callables)
def test_wrong_values_are_refused_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not list(SURFACE.mistakes(name))


# ---------------------------------------------------------- mistakes that used to be answered


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (lambda r: r.power({"x": np.nan}), "effect"),
        (lambda r: r.power({"y": 1.0}), "no fixed effect 'y'"),
        (lambda r: r.power({"x": 1.0}, by="nope", n_sim=3), "by: no grouping factor"),
        (lambda r: r.bootstrap(3, by="nope"), "by says which groups"),
        (lambda r: r.wald_test("x = 0, x = 1"), "contradict"),
        (lambda r: r.f_test("x = 0, 2 * x = 1"), "contradict"),
        (lambda r: r.wald_test(np.zeros((1, 3))), "about no parameter"),
        (lambda r: r.t_test(""), "cannot be understood"),
        (lambda r: r.emmeans(["f", "f"]), "specs names a variable twice"),
        (lambda r: r.conf_int(method="bootstrap", sed=1), "did you mean 'seed'"),
        (lambda r: r.icc(n_job=2), "did you mean 'n_jobs'"),
        (lambda r: r.to_html(digit=2), "did you mean 'digits'"),
        (lambda r: r.profile_re(0, "re", maxitr=3), "did you mean 'maxiter'"),
        (lambda r: r.profile_re(0, "re", reml=False), "reml"),
        (lambda r: r.cov_params(column=0, r_matrix=np.eye(4)), "not both"),
        (lambda r: r.predict(groups=data().g, re=True), "groups is for new rows"),
        (lambda r: r.simulate(offset=np.zeros(32)), "offset is for new rows"),
        (lambda r: sparselmm.compare(3, r), "results must be"),
        (lambda r: r.to_table(3), "others must be"),
        (lambda r: r.t_test("x = 1e999"), "is not finite"),
        (lambda r: r.t_test_pairwise("x"), "it is no factor"),
        (lambda r: r.emmeans("f", at={"x": np.nan}), "at['x'] has a missing value"),
        (lambda r: r.emmeans("f", at={"x": []}), "at['x'] is empty"),
        (lambda r: r.emmeans("f", at={"f": ["a", "a"]}), "at['f'] has a value twice"),
        (lambda r: r.emmeans("f", at={"f": [["a"]]}), "at['f'] must be labels"),
        (lambda r: r.emmeans("f", by="f"), "no variable is left"),
        (lambda r: r.influence(np.ones(32)), "same label in every row"),
        (lambda r: r.influence(np.full(32, np.nan)), "none in any"),
        (lambda r: r.check()["nope"], "no finding 'nope'"),
        (lambda r: r.simulate(10**9), "n=1,000,000,000 responses"),
        (lambda r: r.bootstrap(3, checkpoint="nowhere/file"), "checkpoint: there is no folder"),
        (lambda r: r.bootstrap(3, statistic=lambda s: np.array([1j])), "statistic must return"),
        (lambda r: r.bootstrap(3, statistic=lambda s: None), "statistic must return"),
        (lambda r: r.bootstrap(3, statistic=lambda s: []), "statistic must return"),
        (lambda r: r.bootstrap(3, statistic=lambda s: np.eye(2)), "statistic must return"),
        (lambda r: r.bootstrap(3, statistic=lambda s: pd.Series([1, 2], ["a", "a"])), "one name"),
        (lambda r: r.power({"x": 1.0}, test=lambda s: 7.0, n_sim=3), "p-values, from 0 to 1"),
    ],
)
def test_nothing_is_passed_over(mistake, says):
    with pytest.raises(SparseLMMError, match=re.escape(says)):
        mistake(fit())


class Penalty:
    def __init__(self, func, deriv):
        self.func, self.deriv = func, deriv


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"REML": False}, "no argument 'REML'; did you mean 'reml'"),
        ({"max_iter": 3}, "did you mean 'maxiter'"),
        ({"tol": 1e9}, "tol must be at most 0.01"),
        ({"gtol": 1e9}, "gtol"),
        ({"maxcor": 2.5}, "maxcor"),
        ({"free": MixedLMParams.from_components([1, 1, 1], [[0.5]])}, "zeros and ones"),
        ({"fix": {"theta": [-1.0]}}, "negative"),
        ({"starts": [[1j]]}, "starts must be real"),
        ({"fe_pen": Penalty(lambda *at: 0.0, lambda *at: np.zeros(77))}, "fe_pen.deriv()"),
        ({"fe_pen": Penalty(lambda *at: "a", lambda *at: np.zeros(3))}, "fe_pen.func()"),
        ({"cov_pen": Penalty(lambda *at: 1j, lambda *at: np.zeros(1))}, "cov_pen.func()"),
    ],
)
def test_keywords_of_fit(keywords, says):
    with pytest.raises(SparseLMMError, match=re.escape(says)):
        model().fit(**keywords)


def test_dependent_hypotheses_count_once_and_say_so():
    with pytest.warns(sparselmm.ValueWarning, match="2 hypotheses of which 1 are independent"):
        twice = fit().wald_test("x = 0, 2 * x = 0")
    once = fit().wald_test("x = 0")
    assert twice.df_num == 1
    assert twice.statistic == pytest.approx(once.statistic, rel=1e-10)


def test_words_in_a_tuple_are_hypotheses():
    found = fit().t_test(("x = 1", "Intercept = 0"))
    for row, words in enumerate(("x = 1", "Intercept = 0")):
        assert found.statistic[row] == fit().t_test(words).statistic[0]


def test_imaginary_parts_are_not_lost():
    Z = np.kron(np.eye(8), np.ones((4, 1))) * (1 + 1j)
    with pytest.raises(SparseLMMError, match="z_terms"):
        sparselmm.mixedlm("y ~ x", data(), z_terms={"a": Z})
    with pytest.raises(SparseLMMError, match="z_terms"):
        sparselmm.mixedlm("y ~ x", data(), z_terms={"a": sp.csr_array(Z)})
    with pytest.raises(SparseLMMError, match="matrix must be real"):
        KnownCovariance(sp.csr_array(np.eye(2) * 1j), ["a", "b"])
    with pytest.raises(SparseLMMError, match="endog must be real"):
        fit().refit(data().y.to_numpy() + 1j)
    with pytest.raises(SparseLMMError, match="Y must be real"):
        model().fit_many(data()[["y"]].to_numpy() * 1j)


def test_what_a_mask_hides_is_missing():
    def hidden(values):
        return np.ma.array(values, mask=np.arange(np.size(values)).reshape(np.shape(values)) == 3)

    y, X, g = data().y.to_numpy(), np.column_stack([np.ones(32), data().x]), data().g
    formula, Z = "y ~ x + (1 | g)", np.kron(np.eye(8), np.ones((4, 1)))
    calls = {
        "endog": lambda: MixedLM(hidden(y), X, g),
        "exog": lambda: MixedLM(y, hidden(X), g),
        "exog_re": lambda: MixedLM(y, X, g, exog_re=hidden(X)),
        "weights": lambda: sparselmm.mixedlm(formula, data(), weights=hidden(np.ones(32))),
        "offset": lambda: sparselmm.mixedlm(formula, data(), offset=hidden(np.ones(32))),
        "subset": lambda: sparselmm.mixedlm(formula, data(), subset=hidden(y > -9)),
        "z_terms": lambda: sparselmm.mixedlm("y ~ x", data(), z_terms={"a": hidden(Z)}),
        "endog of refit": lambda: fit().refit(hidden(y)),
        "Y": lambda: model().fit_many(hidden(y[:, None])),
        "r_matrix": lambda: fit().t_test(hidden(np.eye(3))),
        "start_theta": lambda: model().fit(start_theta=np.ma.array([1.0], mask=[True])),
        "matrix": lambda: KnownCovariance(hidden(np.eye(2)), ["a", "b"]),
    }
    for name, call in calls.items():
        with pytest.raises(SparseLMMError, match=r"missing|finite"):
            pytest.fail(f"{name}: {call()}")
    dropped = MixedLM(hidden(y), X, g, missing="drop").fit()
    assert dropped.nobs == 31
    whole = MixedLM(np.ma.array(y), np.ma.array(X), g).fit()
    assert whole.fe_params.tolist() == MixedLM(y, X, g).fit().fe_params.tolist()


def test_offsets_of_new_columns_of_x_lose_nothing():
    X = np.column_stack([np.ones(32), data().f == "b", data().x])
    with pytest.raises(SparseLMMError, match="offset"):
        fit().predict(X, offset=np.ones(32) * 1j)


def test_a_model_without_fixed_effects_has_no_anova():
    empty = sparselmm.mixedlm("y ~ 0 + (1 | g)", data()).fit()
    with pytest.raises(SparseLMMError, match="has none"):
        empty.anova()
    assert np.isfinite(empty.ranef_se()["g"].to_numpy()).all()


def test_lists_of_keywords_are_those_of_the_functions():
    def named(function, *others):
        parameters = inspect.signature(function).parameters.values()
        return {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)} - {
            "self", *others
        }  # fmt: skip

    results = type(fit())
    assert set(fitting.FIT_ARGUMENTS) == named(MixedLM.fit) | set(fitting.ALLOWED)
    assert set(cloning.ARGUMENTS) == named(MixedLM) | named(MixedLM.from_formula)
    assert set(inference.CI_OPTIONS["bootstrap"]) == named(results.bootstrap) | {"resampling"}
    assert set(inference.BOOTSTRAP_OPTIONS) == named(results.bootstrap, "n", "seed", "statistic")
    assert set(tidy.TABLE_OPTIONS) == named(results.to_table)


@pytest.mark.parametrize("subset", [[1, 1, 2], (np.arange(32) > 9).astype(int)])
def test_labels_of_a_subset_are_given_once(subset):
    with pytest.raises(SparseLMMError, match="more than once"):
        sparselmm.mixedlm("y ~ x + (1 | g)", data(), subset=subset)


def test_the_error_of_a_file_is_that_of_the_system_too(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"file: .* No such file") as caught:
        sparselmm.BootstrapResults.load(tmp_path / "nope")
    assert isinstance(caught.value, SparseLMMError)
    assert caught.value.filename == str(tmp_path / "nope")


@pytest.mark.parametrize("sign", ["NA", ".", "-", "nan", "unknown", -1, -9.0])
def test_signs_for_unknown_parents_are_no_animals(sign):
    with pytest.raises(SparseLMMError, match=r"sire, dam: .* unknown parent"):
        sparselmm.pedigree([sign, sign, "a"], [None, sign, "b"], ["a", "b", "c"])
    if isinstance(sign, str):  # an animal may be called that
        assert len(sparselmm.pedigree([None, sign], [None, None], [sign, "b"])) == 2
    blank = sparselmm.pedigree([" ", "", "a"], [None, "0", "b"], ["a", "b", "c"])
    assert len(blank) == 3


def test_parents_and_animals_have_labels_of_one_type():
    with pytest.raises(SparseLMMError, match=r"sire, dam: 1\.0 has no row, '1' has one"):
        sparselmm.pedigree([None, None, 1.0], [None, None, 2.0], ["1", "2", "3"])
    with pytest.raises(SparseLMMError, match="'1' has no row, 1 has one"):
        sparselmm.pedigree([None, None, "1"], [None, None, "2"], [1, 2, 3])
    same = sparselmm.pedigree([np.nan, np.nan, 1.0], [np.nan, np.nan, 2.0], [1, 2, 3])
    assert len(same) == 3


def test_labelled_numbers_are_taken_by_their_labels():
    names = list(fit().fe_params.index)
    weights = pd.Series([0.0, 0.0, 1.0], index=names)
    turned = weights[[names[2], names[0], names[1]]]
    assert fit().t_test(turned).effect == fit().t_test(weights.to_numpy()).effect
    frame = pd.DataFrame([turned])
    assert fit().wald_test(frame).statistic == fit().wald_test([weights.to_numpy()]).statistic
    assert fit().t_test(pd.Series([0.0, 0.0, 1.0])).effect == fit().t_test(weights).effect
    with pytest.raises(SparseLMMError, match="r_matrix is labelled"):
        fit().t_test(turned.rename({"x": "z"}))
    penalties = pd.Series([5.0, 0.0, 0.0], index=[names[2], names[0], names[1]])
    given = model().fit_regularized(alpha=penalties).fe_params
    assert given.tolist() == model().fit_regularized(alpha=[0.0, 0.0, 5.0]).fe_params.tolist()


@pytest.mark.parametrize("cov", [-np.eye(4), np.diag([1.0, -1.0, 1.0, 1.0]), 1 - np.eye(4)])
def test_a_covariance_of_the_estimates_is_one(cov):
    with pytest.raises(SparseLMMError, match="cov_p must be a covariance matrix"):
        fit().wald_test("x = 0", cov_p=cov)


def test_responses_none_of_which_can_be_fitted():
    for Y, missing in ((np.ones((32, 2)), "raise"), (np.full((32, 2), np.nan), "drop")):
        with pytest.warns(sparselmm.ConvergenceWarning, match="2 of 2 responses"):
            found = model().fit_many(Y, missing=missing)
        assert np.isnan(found.fe_params.to_numpy()).all()


def test_the_response_among_the_covariates_has_an_error_of_ours():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SparseLMMError, match="among the covariates or grouping factors"):
            sparselmm.mixedlm("y ~ x + (0 + y | g)", data())
        model = sparselmm.mixedlm("y ~ x + (0 + copy | g)", data().assign(copy=data().y))
        assert not model.fit().converged
        with pytest.raises(SparseLMMError, match="explains the response exactly"):
            model.deviance().at(np.array([1e9]))


@pytest.mark.parametrize("effects", ["=", "%", "x ="])
def test_stray_signs_are_no_formula(effects):
    with pytest.raises(sparselmm.FormulaError, match="cannot read"):
        sparselmm.mixedlm("y ~ x", data(), groups="g", re_formula=effects)


def test_a_formula_does_not_end_the_program():
    with pytest.raises(sparselmm.FormulaError, match="SystemExit"):
        sparselmm.mixedlm("y ~ exit() + (1 | g)", data())
