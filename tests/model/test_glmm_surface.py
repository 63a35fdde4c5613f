"""Every public callable of generalized models times every argument times wrong values.

The table of values and the rules are those of the linear model's; here is what is called, and which
values an argument may take. A new method fails until its arguments have a kind.
"""

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from wrong_values import (
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
from sparselmm import CustomFamily, MixedGLM


@cache
def data():
    rng = np.random.default_rng(7)
    frame = pd.DataFrame({
        "x": np.tile([0.0, 1.0, 2.0, 3.0], 12),
        "f": np.tile(["a", "a", "b", "b", "b", "a"], 8),
        "g": np.repeat(list("ABCDEFGHIJKL"), 4),
        "m": np.tile([3, 5, 4], 16),
    })  # fmt: skip
    eta = 0.3 * frame.x - 0.5 + np.repeat(rng.normal(size=12), 4)
    frame["y"] = rng.poisson(np.exp(eta))
    frame["s"] = rng.binomial(frame.m, 1 / (1 + np.exp(-eta)))
    return frame


@cache
def model():
    return sparselmm.mixedglm("y ~ x + f + (1 | g)", data(), family="poisson")


@cache
def fit():
    return model().fit()


@cache
def slopes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sparselmm.mixedglm("y ~ x + (x | g)", data(), family="poisson").fit()


def poisson(y, eta):
    return y * eta - np.exp(eta), y - np.exp(eta), -np.exp(eta), -np.exp(eta)


SEED = NONE | {"0", "10**30", "[]"}

KINDS = {
    "alpha": LEVEL,
    "n": COUNT,
    "seed": SEED,
    "random": CHOICE,
    "predict.random": FLAG,
    "simulate": FLAG,
    "bias_adjust": FLAG | {"3.5", "0"},
    "which": NONE | {"[]"},
    "method": CHOICE,
    "rank.method": NONE,
    "specs": CHOICE,
    "by": NONE | {"[]"},
    "at": NONE | {"{}"},
    "type": CHOICE,
    "weights": CHOICE,
    "var": CHOICE,
    "other": CHOICE,
    "fname": CHOICE,
    "MixedGLMResults.save.fname": {"'nope'"},
    "intercept": FLAG,
    "exponentiate": FLAG,
    "ax": NONE,
    "figure": NONE,
    "factor": NONE,
    "x": NONE,
    "levels": NONE | {"[]"},
    "variables": NONE,
    "groups": NONE,
    "bands": CHOICE,
    "data": CHOICE,
    "exog": NONE,
    "interval": FLAG,
    "unseen": CHOICE,
    "exog_re": NONE,
    "exog_vc": NONE,
    "offset": NONE,
    "z_terms": NONE | {"{}"},
    "term": CHOICE,
    "contrasts": NONE | {"{}"},
    "pairs": NONE | {"[]"},
    "coefficient": NONE,
    "fixed_uncertainty": FLAG,
    "adjust": CHOICE,
    "ascending": FLAG,
    "top": NONE,
    "title": NONE | TEXT,
    "pictures": FLAG,
    "kind": CHOICE,
    "value": NUMBERS,
    "nagq": CHOICE,
    "MixedGLM.fit.nagq": NONE,
    "MixedGLM.deviance.nagq": NONE,
    "memory_limit": NONE | POSITIVE | {"10**30"},
    "start": NONE,
    "starts": NONE | {"0"},
    "maxiter": NONE,
    "tol": {"0"},
    "y": CHOICE,
    "check.y": {"array"},
    "etas": {"[]", "array"},
    "formula": CHOICE,
    "re_formula": NONE,
    "vc_formula": NONE,
    "subset": NONE,
    "missing": CHOICE,
    "family": CHOICE,
    "link": NONE,
    "trials": NONE,
    "dispersion": NONE,
    "zi": NONE,
    "hurdle": NONE,
    "covariance": NONE | {"{}"},
    "eval_env": {"0", "-1"},
    "endog": CHOICE,
    "derivatives": {"lambda"},
    "parameters": NONE | {"{}", "{'nope': 1}"},
    "name": TEXT,
    "mean": NONE | {"lambda"},
    "CustomFamily.start": NONE | {"lambda"},
}
for made in ("mixedglm", "MixedGLM", "MixedGLM.from_formula"):
    KINDS |= {f"{made}.weights": NONE, f"{made}.contrasts": NONE | {"{}"}}
KINDS |= {
    "MixedGLM.exog_vc": NONE | {"{}"},
    "MixedGLM.zi": NONE | {"True"},
    "MixedGLM.hurdle": NONE | {"True"},
}
KINDS["MixedGLM.groups"] = CHOICE
KINDS["MixedGLM.exog"] = CHOICE
KINDS["MixedGLMResults.wald_test.contrasts"] = CHOICE

NAMED_AS = {"endog": "endog|data", "exog": "exog|data", "fname": "fname|file"}


def save_new(fname):
    """The method, of a fit of its own."""
    fit().save(fname)


@cache
def callables():
    """Public callables with arguments, by name."""
    found = {"mixedglm": sparselmm.mixedglm, "MixedGLM": MixedGLM, "CustomFamily": CustomFamily}
    owners = {"MixedGLM": model(), "MixedGLMResults": fit(), "CustomFamily": CustomFamily(poisson)}
    found |= methods_of(owners)
    for private in (
        "constant",
        "jet",
        "means",
        "predictors",
        "check_start",
    ):  # the protocol of families, called by the engine alone
        del found[f"CustomFamily.{private}"]
    del found["MixedGLMResults.load"]  # storage's own, in its test
    found["MixedGLMResults.plot_ranef_correlation"] = slopes().plot_ranef_correlation
    return found


BASE = {
    "mixedglm": lambda: {"formula": "y ~ x + (1 | g)", "data": data(), "family": "poisson"},
    "MixedGLM.from_formula": lambda: {
        "formula": "y ~ x + (1 | g)", "data": data(), "family": "poisson",
    },
    "MixedGLM": lambda: {
        "endog": data().y, "exog": data()[["x"]], "groups": data().g, "family": "poisson",
    },
    "MixedGLM.refitted": lambda: {"y": data().y.to_numpy(dtype=float)},
    "CustomFamily": lambda: {"derivatives": poisson},
    "CustomFamily.check": lambda: {"y": data().y.to_numpy(dtype=float)},
    "MixedGLMResults.bootstrap": lambda: {"n": 2, "seed": 1},
    "MixedGLMResults.emmeans": lambda: {"specs": "f"},
    "MixedGLMResults.emtrends": lambda: {"var": "x", "specs": "f"},
    "MixedGLMResults.ranef_contrasts": lambda: {"term": "g", "pairs": [("A", "B")]},
    "MixedGLMResults.ranef_cov": lambda: {"term": "g"},
    "MixedGLMResults.rank": lambda: {"term": "g"},
    "MixedGLMResults.save": lambda: {"fname": "saved"},
    "MixedGLMResults.simulated_checks": lambda: {"n": 5},
    "MixedGLMResults.wald_test": lambda: {"contrasts": [0.0, 1.0, 0.0]},
}  # fmt: skip


SURFACE = Surface(callables(), BASE, KINDS, NAMED_AS)


@pytest.mark.parametrize("name", SURFACE.callables)
def test_wrong_values_are_refused_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not list(SURFACE.mistakes(name))
