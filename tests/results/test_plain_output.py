"""Models and results in a few plain lines; names of other packages lead to ours."""

import copy
import pickle
import re

import pytest

import sparselmm
from sparselmm import compare, datasets, mixedlm
from sparselmm.base import other_names
from sparselmm.base.exceptions import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    FormulaError,
    NotGeneralizedError,
    OtherNameError,
)
from sparselmm.results.print.notebook import cell

FORMULA = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture(scope="module")
def fit():
    return mixedlm(FORMULA, datasets.load("sleepstudy")).fit()


def test_a_result_is_shown_in_a_few_lines(fit):
    lines = repr(fit).splitlines()
    assert lines == [
        f"MixedLM by REML: {FORMULA}",
        "180 observations; levels: Subject, 18",
        "Log-likelihood -871.8141; converged",
        "Fixed effects: Intercept 251.4, Days 10.47",
        "Std.Dev.: Subject Intercept 24.74, Subject Days 5.922, Residual 25.59",
    ]


def test_a_model_is_shown_in_two_lines(fit):
    assert str(fit.model) == (f"MixedLM: {FORMULA}\n180 observations; levels: Subject, 18")
    assert f">{FORMULA}</td>" in fit.model._repr_html_()


def test_a_result_without_rows_is_shown_as_before():
    fit = mixedlm(FORMULA, datasets.load("sleepstudy")).fit()
    before = repr(fit)
    fit.remove_data()
    assert repr(fit) == before


@pytest.mark.parametrize(
    ("name", "ours"),
    [("fixef", "fe_params"), ("VarCorr", "varcorr"), ("coef", "fe_params"), ("confint", "conf_int"),
     ("logLik", "llf"), ("vcov", "cov_params"), ("AIC", "aic"), ("ranfe", "ranef")],
)  # fmt: skip
def test_names_of_other_packages_lead_to_ours(fit, name, ours):
    assert not hasattr(fit, name)
    with pytest.raises(OtherNameError, match=ours):
        getattr(fit, name)


def test_what_a_fit_has_is_said_by_its_model(fit):
    with pytest.raises(AttributeError, match=r"a result of fit\(\) has fe_params"):
        _ = fit.model.fixef


def has(fit, ours):
    """Whether what a message says is there: the first name in it."""
    first = re.match(r"(?:-2 \* |sparselmm\.)?([a-z_]\w*)", ours)[1]
    return hasattr(fit, first) or hasattr(sparselmm, first)


def test_every_name_given_instead_exists_and_hides_none(fit):
    for theirs, ours in other_names.RESULTS.items():
        assert theirs not in dir(fit)
        assert has(fit, ours), ours
    for theirs, ours in other_names.MODEL.items():
        assert theirs not in dir(fit.model)
        assert hasattr(type(fit.model), ours.rstrip("()")) or hasattr(fit.model, ours.rstrip("()"))


@pytest.fixture(scope="module")
def general():
    data = datasets.load("cbpp")
    formula = "incidence / size ~ period + (1 | herd)"
    return sparselmm.mixedglm(formula, data, family="binomial", weights="size").fit()


def test_generalized_fits_answer_other_names_too(general):
    for theirs, ours in other_names.GENERAL.items():
        assert theirs not in dir(general)
        with pytest.raises((NotGeneralizedError, OtherNameError), match=r"here it is|models: "):
            getattr(general, theirs)
        assert has(general, ours), ours


@pytest.mark.parametrize("method", ["emmeans", "emtrends", "joint_tests", "summary", "tidy"])
def test_degrees_of_freedom_are_refused_by_name(general, method):
    given = ("period",) if method in ("emmeans", "emtrends") else ()
    with pytest.raises(sparselmm.ArgumentError, match=r"'ddf'; denominator .* are for linear"):
        getattr(general, method)(*given, ddf="satterthwaite")


@pytest.mark.parametrize(
    ("method", "argument", "ours"),
    [
        ("conf_int", "method", "confint"), ("residuals", "scaled", "kind="),
        ("predict", "re", "random="), ("predict", "re_form", "random="),
        ("wald_test", "r_matrix", "contrasts"), ("bootstrap", "statistic", "replicates"),
    ],
)  # fmt: skip
def test_arguments_of_linear_models_are_answered(general, method, argument, ours):
    with pytest.raises(sparselmm.ArgumentError, match=ours):
        getattr(general, method)(**{argument: 1})


def test_what_belongs_to_the_other_is_said(fit, general):
    for model, result in ((fit.model, fit), (general.model, general)):
        with pytest.raises(OtherNameError, match=r"model\.fit\(\)\.pvalues"):
            _ = model.pvalues
        with pytest.raises(OtherNameError, match=r"result\.model\.endog"):
            _ = result.endog
        with pytest.raises(OtherNameError, match="for reading"):
            _ = result.summary().pvalues


@pytest.mark.parametrize(
    ("name", "ours"), [("LSMEANS", "emmeans"), ("SE", "bse"), ("Tukey", "contrast")]
)
def test_case_of_other_names_does_not_matter(fit, name, ours):
    with pytest.raises(OtherNameError, match=ours):
        getattr(fit, name)


def test_a_plan_and_a_design_are_shown_in_a_few_lines(fit):
    plan = fit.model.plan()
    assert repr(plan) == str(plan)
    assert max(map(len, str(plan).splitlines())) <= 80
    assert repr(fit.model.design) == "Design: 180 rows, 2 fixed effects, terms Subject (18 x 2)"


def test_copies_and_pickles_are_not_disturbed(fit):
    assert repr(copy.copy(fit)) == repr(fit)
    assert repr(pickle.loads(pickle.dumps(fit))) == repr(fit)


@pytest.mark.parametrize(
    "ask",
    [lambda fit: fit.get_prediction(), lambda fit: fit.profile("sigma"),
     lambda fit: fit.influence("Subject"), lambda fit: fit.bootstrap(5, seed=1, progress=False),
     lambda fit: fit.emmeans("Days", at={"Days": [0, 5]}), lambda fit: fit.model,
     lambda fit: fit.ranef],
    ids=["prediction", "profile", "influence", "bootstrap", "emmeans", "model", "ranef"],
)  # fmt: skip
def test_a_notebook_shows_a_table_and_print_no_address(fit, ask):
    shown = ask(fit)
    page = shown._repr_html_()
    assert page.startswith("<table")
    assert "NaN" not in page
    assert "None" not in page
    assert "object at 0x" not in str(shown)


@pytest.mark.parametrize(
    ("value", "is_p", "text"),
    [(2e-5, True, "<.001"), (0.04, True, "0.040"), (float("nan"), True, ""), (None, False, ""),
     (251.40510, False, "251.41"), (3, False, "3")],
)  # fmt: skip
def test_cells_are_written_as_people_do(value, is_p, text):
    assert cell(value, is_p) == text


@pytest.mark.parametrize(
    ("name", "ours"), [("REML", "reml="), ("cov_type", "cov_robust"), ("na_action", "missing=")]
)
def test_arguments_of_other_packages_lead_to_ours(name, ours):
    with pytest.raises(ArgumentTypeError, match=ours):
        mixedlm(FORMULA, datasets.load("sleepstudy"), **{name: 1})


def test_reml_in_capitals_is_answered_by_fit(fit):
    with pytest.raises(ArgumentTypeError, match="did you mean 'reml'"):
        fit.model.fit(REML=False)


@pytest.mark.parametrize(
    ("call", "ours"),
    [("cut(Days, 3)", "beforehand"), ("s(Days)", "ns"),
     ("nosuch(Days)", "define it in Python")],
)  # fmt: skip
def test_an_unknown_function_is_called_one(call, ours):
    with pytest.raises(FormulaError, match=f"unknown function .*{ours}"):
        mixedlm(f"Reaction ~ {call} + (1 | Subject)", datasets.load("sleepstudy"))


@pytest.mark.parametrize(
    ("call", "ours"),
    [(lambda fit: fit.predict(newdata=1), "first argument"),
     (lambda fit: fit.predict(re_form=None), "re=True or False"),
     (lambda fit: fit.anova(typ=3), "type="), (lambda fit: fit.anova(test="F"), "it takes"),
     (lambda fit: fit.emmeans(pairwise="Days"), "contrast"),
     (lambda fit: fit.simulate(nsim=2), "here it is n"),
     (lambda fit: fit.conf_int(level=0.9), "alpha"),
     (lambda fit: fit.residuals(knd="pearson"), "did you mean 'kind'")],
)  # fmt: skip
def test_arguments_of_methods_lead_to_ours(fit, call, ours):
    with pytest.raises(ArgumentTypeError, match=ours):
        call(fit)


def test_arguments_of_generalized_models_lead_to_ours(general):
    formula, data = general.model.built.spec.formula, datasets.load("cbpp")
    for name, ours in (("ziformula", "zi="), ("exposure", "offset="), ("fam", "'family'")):
        with pytest.raises(ArgumentTypeError, match=ours):
            sparselmm.mixedglm(formula, data, **{name: 1})
    with pytest.raises(ArgumentTypeError, match="nagq"):
        general.model.fit(nAGQ=5)
    with pytest.raises(ArgumentTypeError, match="did you mean 'alpha'"):
        general.summary(alfa=0.1)


@pytest.mark.parametrize(
    ("name", "ours"),
    [("lmer", "mixedlm"), ("glmer", "mixedglm"), ("MixedLm", "MixedLM"), ("anova", "compare"),
     ("load_dataset", "datasets.load")],
)  # fmt: skip
def test_names_of_the_module_lead_to_ours(name, ours):
    assert not hasattr(sparselmm, name)
    with pytest.raises(OtherNameError, match=ours):
        getattr(sparselmm, name)


def test_the_deviance_says_what_it_is(fit):
    assert "REML criterion as a function of theta (3 entries)" in repr(fit.deviance)


@pytest.mark.parametrize(
    ("name", "ours"),
    [("report", "refit"), ("summary", "refit"), ("VarCorr", "sds"), ("params", "fe_params")],
)
def test_fits_of_many_responses_answer_names_of_one(fit, name, ours):
    many = fit.fit_many(fit.simulate(3, seed=1))
    with pytest.raises(OtherNameError, match=ours):
        getattr(many, name)
    copied = pickle.loads(pickle.dumps(many))
    assert copied.llf.equals(many.llf)


def test_names_of_one_response_are_those_of_its_fit(fit):
    one = fit.refit(fit.simulate(1, seed=1)[0])
    for name, ours in other_names.MANY.items():
        if ours.startswith(f"{name} of one response"):
            assert hasattr(type(one), name)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda fit: fit.bootstrap(B=10), "n, the first"),
        (lambda fit: fit.cross_validate(n_splits=5), "folds="),
        (lambda fit: fit.plot_predictions("Days", figsize=(3, 3)), "a figure or axes of that size"),
        (lambda fit: fit.report().save(), "missing a required argument: 'path'"),
        (lambda fit: compare([fit, fit]), r"compare\(one, other\)"),
        (lambda fit: fit.anova(fit), r"MixedLM by REML: Reaction ~ Days \+ \(Days"),
        (lambda _: mixedlm("y ~ x", {}, reml=False), r"argument of fit\(\)"),
        (lambda _: mixedlm("y ~ x", {}, random_effects="g"), "write bars"),
    ],
)
def test_mistakes_are_told_in_one_line(fit, call, says):
    with pytest.raises(ArgumentTypeError, match=says) as told:
        call(fit)
    assert "\n" not in str(told.value)


def test_a_figure_is_no_axes(fit):
    plt = pytest.importorskip("matplotlib.pyplot")
    figure, ax = plt.subplots()
    for draw in (fit.plot_predictions, fit.plot_groups, fit.plot_diagnostics):
        with pytest.raises(ArgumentError, match="figure must be a matplotlib Figure, got Axes"):
            draw(figure=ax)
    with pytest.raises(ArgumentError, match="ax must be matplotlib Axes, got Figure"):
        fit.plot_coefficients(ax=figure)
    plt.close(figure)


def test_responses_that_do_not_fit_say_what_does():
    data = datasets.load("sleepstudy")
    with pytest.raises(DataError, match="name its family="):
        sparselmm.mixedglm("Reaction ~ Days + (1 | Subject)", data)
    with pytest.raises(DataError, match=r"1 \* \(y > 0\)"):
        sparselmm.mixedglm("(Reaction > 300) ~ Days + (1 | Subject)", data)
    formula = "1 * (Reaction > 300) ~ Days + (1 | Subject)"
    assert sparselmm.mixedglm(formula, data).fit().converged
