"""Options as people write them: case, hyphens, spaces and the names of other packages."""

import ast
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sparselmm
from sparselmm import ArgumentError, datasets
from sparselmm.base.arguments import check_choice


def test_no_call_forgets_what_was_meant():
    for path in Path(sparselmm.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
                continue
            call = node.value
            if getattr(call.func, "id", "") == "check_choice" and len(call.args) < 4:
                pytest.fail(f"{path.name}:{node.lineno} discards the option check_choice returns")


@cache
def fit():
    return sparselmm.mixedlm("effort ~ Type + (1 | Subject)", datasets.load("ergoStool")).fit()


@cache
def ml():
    data = datasets.load("ergoStool")
    return sparselmm.mixedlm("effort ~ Type + (1 | Subject)", data).fit(method="ML")


@cache
def counts():
    formula = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
    return sparselmm.mixedglm(formula, datasets.load("cbpp")).fit()


CALLS = {
    "anova kr": (lambda a: fit().anova(ddf=a), "kenward-roger",
                 ("Kenward-Roger", "KR", "kr", "kenward_roger", "KenwardRoger", "Kenward Roger")),
    "anova satterthwaite": (lambda a: fit().anova(ddf=a), "satterthwaite",
                            ("Satterthwaite", "SATTERTHWAITE", "satterth", "Satterwaite")),
    "anova type": (lambda a: fit().anova(type=a), 3, ("III", "iii", "3", np.int64(3))),
    "summary": (lambda a: str(fit().summary(ddf=a)), "kenward-roger", ("KR",)),
    "tidy": (lambda a: fit().tidy(ddf=a), "kenward-roger", ("Kenward-Roger",)),
    "t_test": (lambda a: fit().t_test("Intercept = 0", ddf=a).summary_frame(), "satterthwaite",
               ("Satterthwaite",)),
    "wald_test": (lambda a: fit().wald_test("Intercept = 0", ddf=a).df_denom, "kenward-roger",
                  ("KR",)),
    "drop1": (lambda a: fit().drop1(test=a), "f", ("F",)),
    "drop1 chisq": (lambda a: ml().drop1(test=a), "chisq", ("Chisq", "chi2", "Chi-squared")),
    "emmeans ddf": (lambda a: fit().emmeans("Type", ddf=a).frame, "kenward-roger", ("KR",)),
    "emmeans z": (lambda a: fit().emmeans("Type", ddf=a).frame, "z", ("Z", "asymptotic")),
    "weights": (lambda a: fit().emmeans("Type", weights=a).frame, "proportional",
                ("Proportional",)),
    "adjust": (lambda a: fit().emmeans("Type").contrast("pairwise", a), "tukey",
               ("Tukey", "TUKEY")),
    "contrast": (lambda a: fit().emmeans("Type").contrast(a), "trt.vs.ctrl",
                 ("Dunnett", "trt-vs-ctrl", "Trt.vs.ctrl")),
    "side": (lambda a: fit().emmeans("Type").test(side=a), "two-sided", ("two.sided", "Two-Sided")),
    "pairwise": (lambda a: fit().t_test_pairwise("Type", method=a).result_frame, "bonferroni",
                 ("Bonferroni", "bonf")),
    "fdr": (lambda a: fit().t_test_pairwise("Type", method=a).result_frame, "fdr_bh",
            ("FDR-BH", "fdr bh", "Benjamini-Hochberg")),
    "conf_int": (lambda a: fit().conf_int(method=a), "profile", ("Profile", "prof")),
    "residuals": (lambda a: fit().residuals(a), "pearson", ("Pearson",)),
    "level": (lambda a: fit().residuals(level=a), "marginal", ("Marginal",)),
    "robust": (lambda a: fit().robust_tests(kind=a), "CR2", ("cr2",)),
    "simulate": (lambda a: fit().simulate(2, seed=1, re=a), "conditional", ("Conditional",)),
    "unseen": (lambda a: fit().predict(new(), re=True, unseen=a), "population", ("Population",)),
    "interval": (lambda a: fit().get_prediction(new()[:1], interval=a).summary_frame(),
                 "confidence", ("Confidence",)),
    "prediction ddf": (lambda a: fit().get_prediction(ddf=a, interval="confidence").summary_frame(),
                       "kenward-roger", ("KR",)),
    "components": (lambda a: fit().variance_components(ci=a), "profile", ("Profile",)),
    "profile scale": (lambda a: fit().profile("sigma", scale=a).conf_int(), "sd", ("SD",)),
    "rank": (lambda a: fit().rank("Subject", method=a), "marginal", ("Marginal",)),
    "fit method": (lambda a: fitted(method=a), "l-bfgs-b", ("L-BFGS-B", "LBFGS", "L_BFGS_B")),
    "engine": (lambda a: fitted(engine=a), "dense", ("Dense",)),
    "missing": (lambda a: made(missing=a), "drop", ("Drop", "omit", "na.omit")),
    "family": (lambda a: general(family=a), "binomial", ("Binomial", "BINOMIAL")),
    "link": (lambda a: general(link=a), "cloglog", ("CLogLog",)),
    "glm type": (lambda a: counts().predict(type=a), "link", ("Link",)),
    "glm random": (lambda a: counts().predict(random=a), "population", ("Population",)),
    "glm residuals": (lambda a: counts().residuals(a), "deviance", ("Deviance",)),
    "glm emmeans": (lambda a: counts().emmeans("period", type=a).frame, "response", ("Response",)),
    "glm confint": (lambda a: counts().confint("sd herd", method=a), "wald", ("Wald",)),
    "structure": (lambda a: structured(f"{a}(Time | Subject)"), "ar1", ("AR1",)),
    "term": (lambda a: made(formula=f"effort ~ Type + {a}(1 | Subject)"), "diag", ("DIAG",)),
}  # fmt: skip


def new():
    return datasets.load("ergoStool").assign(Subject="nobody")


def made(formula="effort ~ Type + (1 | Subject)", missing="none"):
    data = datasets.load("ergoStool")
    if missing != "none":
        data.loc[0, "effort"] = np.nan
    return sparselmm.mixedlm(formula, data, missing=missing).fit().params


def fitted(**options):
    return made_model().fit(**options).theta.round(6)


def made_model():
    return sparselmm.mixedlm("effort ~ Type + (1 | Subject)", datasets.load("ergoStool"))


def general(**options):
    formula = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
    return sparselmm.mixedglm(formula, datasets.load("cbpp"), **options).fit().params


def structured(residual):
    data = datasets.load("dietox").rename(columns={"Pig": "Subject"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sparselmm.mixedlm("Weight ~ Time", data, residual=residual).fit().params


@pytest.mark.parametrize("name", CALLS)
def test_spelling_does_not_matter(name):
    call, ours, others = CALLS[name]
    wanted = call(ours)
    for other in others:
        found = call(other)
        if isinstance(wanted, pd.DataFrame):
            pd.testing.assert_frame_equal(found, wanted)
        else:
            assert np.array_equal(found, wanted)


def test_what_is_meant_must_be_clear():
    for wrong in ("kenwood", "k", "", "-", "t"):
        with pytest.raises(ArgumentError, match="ddf must be one of"):
            fit().anova(ddf=wrong)
    with pytest.raises(ArgumentError, match="did you mean 'satterthwaite'"):
        fit().anova(ddf="saterthwaite")
    with pytest.raises(ArgumentError, match="did you mean"):
        fit().conf_int(method="profiel")
    assert check_choice("a-b", "name", ("a_b", "a-b")) == "a-b"
    with pytest.raises(ArgumentError):
        check_choice("ab", "name", ("a_b", "a-b"))


def test_names_of_the_users_own_are_taken_literally():
    with pytest.raises(sparselmm.SparseLMMError, match="did you mean 'Subject'"):
        fit().plot_ranef("subject")


def test_method_says_which_likelihood():
    assert not ml().model.reml
    assert fitted(method="REML") == fitted()
    assert fitted(method="ML", reml=True) == fitted(reml=False)
    with pytest.raises(ArgumentError, match="contradict"):
        fitted(method="REML", reml=False)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: fit().simulate(2, sed=1), "MixedLMResults.simulate .* 'sed'; did you mean 'seed'"),
        (lambda: fit().ranova(x=1), "ranova has no argument 'x'; it takes no options"),
        (lambda: fit().emmeans("Type").contrast(metod="pairwise"), "did you mean 'method'"),
        (lambda: counts().predict(unsen="error"), "MixedGLMResults.predict .*'unseen'"),
        (lambda: counts().model.fit(strat=None), "MixedGLM.fit has no argument 'strat'"),
        (lambda: sparselmm.mixedglm("y ~ (1 | g)", {}, famly="poisson"), "did you mean 'family'"),
        (lambda: sparselmm.compare(fit(), ml(), name=["a", "b"]), "did you mean 'names'"),
    ],
)
def test_arguments_that_there_are_none_of(call, match):
    with pytest.raises(ArgumentError, match=match) as caught:
        call()
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    "family",
    ["binomial(link='probit')", "binomial(link=probit)", 'binomial(link = "probit")',
     'Binomial("probit")', "binomial(probit)"],
)  # fmt: skip
def test_families_with_their_links(family):
    data = datasets.load("cbpp")
    formula = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
    other = sparselmm.mixedglm(formula, data, family="binomial", link="probit")
    own = sparselmm.mixedglm(formula, data, family=family)
    assert (own.family.name, own.family.link) == (other.family.name, other.family.link)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"family": "probit"}, "family='binomial', link='probit'"),
        ({"family": "binomial(nope)"}, "unknown link 'nope'"),
        ({"family": "binomial(probit)", "link": "logit"}, "has a link already"),
        ({"family": "nope(log)"}, "unknown family"),
    ],
)
def test_wrong_families(options, says):
    with pytest.raises(sparselmm.DataError, match=says):
        sparselmm.mixedglm("r2 ~ Anger + (1 | id)", datasets.load("VerbAgg"), **options)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda d: sparselmm.mixedlm(d, "effort ~ Type + (1 | Subject)"), "formula first"),
        (lambda d: sparselmm.mixedglm(d, "effort ~ Type + (1 | Subject)"), "formula first"),
        (lambda d: sparselmm.MixedLM("effort ~ Type + (1 | Subject)", d), "mixedlm"),
        (lambda d: sparselmm.mixedlm("effort ~ Type + (1 | Subject)", d, family="poisson"),
         "mixedglm"),
        (lambda d: sparselmm.mixedlm("effort ~ Type + (1 | Subject)", d).fit(ddf="KR"),
         "asked of the result"),
        (lambda d: sparselmm.mixedlm("effort ~ 1 + (1 | Subject)", d, offset="log(effort)"),
         r"offset\(log\(effort\)\)"),
    ],
)  # fmt: skip
def test_first_minutes(call, says):
    with pytest.raises(sparselmm.SparseLMMError, match=says):
        call(datasets.load("ergoStool"))
