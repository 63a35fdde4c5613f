"""R's functions in formulas against R's values.

The numbers come from R 4.2.2 with splines and lme4 1.1-31: ``poly(x, 3)``, ``ns(x, df = 3)``,
``ns(x, knots = c(5, 15), intercept = TRUE)`` of the x below, ``predict`` of each at the new
values, ``contr.*(4)``, and ``fixef``, ``logLik`` and ``predict`` of the fits of ``lmer`` below.
"""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest

import sparselmm
from sparselmm import FormulaError, SparseLMMError, datasets
from sparselmm.design import from_formula
from sparselmm.design.formula.contrasts import CODINGS, coding
from sparselmm.design.formula.transforms import NaturalSpline, Poly

X = np.array([1.0, 2, 4, 7, 11, 16, 22, 29])
NEW = np.array([0.0, 3.5, 30])
POLY = [
    -0.392952623996688, -0.355528564568432, -0.28068044571192, -0.168408267427152,
    -0.018712029714128, 0.168408267427152, 0.392952623996688, 0.65492103999448, 0.389757834207383,
    0.266025188427262, 0.0474308475490467, -0.208283287063205, -0.414504363363408,
    -0.455748578623448, -0.187661179433185, 0.562983538299553, -0.380951229174139,
    -0.126983743058047, 0.228570737504484, 0.441903425842002, 0.29968163361699, -0.198094639170553,
    -0.594283917511658, 0.330157731950921,
]  # fmt: skip
POLY_NEW = [
    -0.430376683424944, -0.299392475426048, 0.692345099422736, 0.523114130214848,
    0.0984705639333467, 0.70871309888503, -0.691130185550595, 0.157459841391978, 0.659976840587021,
]  # fmt: skip
NS = [
    0, -0.0506001696853047, -0.124678179667569, -0.0817117093486842, 0.196155409024609,
    0.475403261995784, 0.353018299398733, -0.153965785381026, 0, 0.135165869430089,
    0.376363415227488, 0.570778922049129, 0.546986389194863, 0.392528206568377, 0.342946590841356,
    0.405909797822706, 0, -0.0838960568876415, -0.233604878417062, -0.353352926986159,
    -0.314570369648043, -0.090841371161563, 0.269233973396274, 0.74805598755832,
]  # fmt: skip
NS_NEW = [
    0.0517302667431524, -0.111667900329011, -0.236197511664075, -0.136379794141038,
    0.321981911744015, 0.418157076205288, 0.0846495273978858, -0.199850841772147, 0.818040435458787,
]  # fmt: skip
NS_KNOTS = [
    -0.172773685116272, 0.0178173623194172, 0.356497780282116, 0.619885373412307, 0.547008682123113,
    0.229180638513913, 0.0357801360993502, 0, -0.231224190617784, -0.196443485722178,
    -0.117461291801983, 0.0534481041889574, 0.331207719880528, 0.537905400055665, 0.373218040952938,
    -0.151624548736462, 0.627608517391129, 0.53493479652288, 0.365561844512088, 0.203833279883617,
    0.157057180149355, 0.224783374776023, 0.315104603127739, 0.411552346570397, -0.396384326773345,
    -0.337853555698661, -0.230881164955003, -0.127859615365092, -0.0755097979890663,
    0.00378656530436617, 0.27521902258599, 0.740072202166065,
]  # fmt: skip
NS_KNOTS_NEW = [
    -0.36513563575649, 0.280460828913517, 0, -0.26561236284135, -0.139120437058231,
    -0.235559566787004, 0.72094784199795, 0.404660264289252, 0.425090252707581, -0.4553354791566,
    -0.255574903761633, 0.810469314079422,
]  # fmt: skip
MATRICES = {
    "sum": [1, 0, 0, -1, 0, 1, 0, -1, 0, 0, 1, -1],
    "helmert": [-1, 1, 0, 0, -1, -1, 2, 0, -1, -1, -1, 3],
    "poly": [
        -0.670820393249937, -0.223606797749979, 0.223606797749979, 0.670820393249937, 0.5, -0.5,
        -0.5, 0.5, -0.223606797749979, 0.670820393249937, -0.670820393249937, 0.223606797749979,
    ],
    "treatment": [0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1],
    "SAS": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
    "sdif": [-0.75, 0.25, 0.25, 0.25, -0.5, -0.5, 0.5, 0.5, -0.25, -0.25, -0.25, 0.75],
}  # fmt: skip


def close(found, wanted, rtol=1e-9):
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "options", "fitted", "new"),
    [
        (Poly, {"degree": 3}, POLY, POLY_NEW),
        (NaturalSpline, {"df": 3}, NS, NS_NEW),
        (NaturalSpline, {"knots": [5, 15], "intercept": True}, NS_KNOTS, NS_KNOTS_NEW),
    ],
)
def test_bases(kind, options, fitted, new):
    basis = kind()
    basis.memorize_chunk(X, **options)
    basis.memorize_finish()
    close(basis.transform(X, **options), np.reshape(fitted, (len(X), -1), order="F"))
    close(basis.transform(NEW, **options), np.reshape(new, (len(NEW), -1), order="F"))
    assert np.isnan(basis.transform(np.array([np.nan, 1.0]), **options)[0]).all()


def test_polynomials_of_far_and_large_numbers():
    years = np.arange(1990.0, 2020.0)
    found, near = Poly(), Poly()
    found.memorize_chunk(years * 1e60, degree=4)
    near.memorize_chunk(years - 2005.0, degree=4)
    close(found.transform(years * 1e60), near.transform(years - 2005.0), rtol=1e-7)


@pytest.mark.parametrize("name", MATRICES)
def test_codings(name):
    found = coding(f"contr.{name}", "contrasts")
    found = (found() if callable(found) else found).code_without_intercept(list("abcd"))
    close(found.matrix, np.reshape(MATRICES[name], (4, 3), order="F"))
    assert name in CODINGS


def sleep():
    return datasets.load("sleepstudy")


def machines():
    return datasets.load("Machines")


FITS = {
    "poly(Days, 2)": (
        [298.507891666667, 403.364167855218, 32.8557879762133], -884.666316967263,
        [259.250670865951, 356.489445449285],
    ),
    "ns(Days, df=3)": (
        [255.525371465501, 50.1779910211423, 100.650691089969, 80.3087594883004],
        -883.710108335611, [259.385513681943, 354.963489061877],
    ),
}  # fmt: skip


@pytest.mark.parametrize("term", FITS)
def test_curves_of_lmer(term):
    beta, llf, predicted = FITS[term]
    fit = sparselmm.mixedlm(f"Reaction ~ {term} + (1 | Subject)", sleep()).fit()
    close(fit.fe_params, beta, rtol=1e-8)
    close(fit.llf, llf)
    new = pd.DataFrame({"Days": [0.5, 9.5]})
    close(fit.predict(new), predicted, rtol=1e-8)
    close(pickle.loads(pickle.dumps(fit)).predict(new), predicted, rtol=1e-8)
    close(fit.predict(sleep()[:3]), fit.predict()[:3])
    assert list(fit.anova().index) == [term]


def test_another_reference():
    formula = 'score ~ relevel(Machine, ref="B") + (1 | Worker)'
    fit = sparselmm.mixedlm(formula, machines()).fit()
    close(fit.fe_params, [60.322222222222, -7.96666666666666, 5.95000000000003])
    close(fit.llf, -143.439100988859)
    assert [name[-4:] for name in fit.fe_params.index[1:]] == ["T.A]", "T.C]"]
    new = machines()[:3].assign(Machine=["C", "A", None])
    close(fit.predict(new), [66.2722222222, 52.3555555556, np.nan])
    assert list(fit.emmeans("Machine").frame.Machine) == ["A", "B", "C"]
    with pytest.raises(SparseLMMError, match="the fit has not seen"):
        fit.predict(new.assign(Machine="Z"))
    with pytest.raises(SparseLMMError, match=r"no level 'b'.*did you mean 'B'"):
        sparselmm.mixedlm(formula.replace('"B"', '"b"'), machines())


@pytest.mark.parametrize("how", ["sum", "Sum", "contr.sum", np.vstack([np.eye(2), [-1, -1]])])
def test_contrasts_of_a_factor(how):
    formula = "score ~ Machine + (1 | Worker)"
    fit = sparselmm.mixedlm(formula, machines(), contrasts={"Machine": how}).fit()
    close(fit.fe_params, [59.65, -7.29444444444445, 0.672222222222225])
    close(fit.llf, -144.537713277528)
    plain = sparselmm.mixedlm(formula, machines()).fit()
    new = machines()[::20].assign(Machine=["C", "A", "B"])
    close(fit.predict(new), plain.predict(new))
    close(fit.emmeans("Machine").frame.emmean, plain.emmeans("Machine").frame.emmean)
    close(fit.refit(machines().score + 1.0).fe_params.iloc[1:], fit.fe_params.iloc[1:], rtol=1e-7)


@pytest.mark.parametrize("inside", ["C(Machine, Sum)", "C(Machine, contr.sum)", "C(Machine, sum)",
                                    "C(Machine, 'sum')", "factor(Machine, contr.sum)"])  # fmt: skip
def test_contrasts_inside_the_formula(inside):
    fit = sparselmm.mixedlm(f"score ~ {inside} + (1 | Worker)", machines()).fit()
    close(fit.fe_params, [59.65, -7.29444444444445, 0.672222222222225])


def test_contrasts_go_with_every_kind_of_column_and_model():
    data = machines().assign(code=lambda d: d.Machine.map({"A": 1, "B": 2, "C": 3}))
    wanted = [59.65, -7.29444444444445, 0.672222222222225]
    for term, name in (("C(code)", "code"), ("factor(code)", "code"), ("C(Machine)", "Machine")):
        formula = f"score ~ {term} + (1 | Worker)"
        fit = sparselmm.mixedlm(formula, data, contrasts={name: "sum"}).fit()
        close(fit.fe_params, wanted)
    general = sparselmm.mixedglm(
        "cbind(incidence, size - incidence) ~ period + (1 | herd)", datasets.load("cbpp"),
        contrasts={"period": "sum"},
    )  # fmt: skip
    assert [name[-5:] for name in general.exog_names[1:]] == ["[S.1]", "[S.2]", "[S.3]"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"machine": "sum"}, "did you mean 'Machine'"),
        ({"Worker": "sum"}, "no factor of the formula"),
        ({"Machine": "summ"}, "did you mean 'sum'"),
        ({"Machine": np.eye(2)}, "has 2 rows; 'Machine' has 3 levels"),
        ({"Machine": 3}, "contrasts"),
        ("sum", "a dict such as"),
    ],
)
def test_wrong_contrasts(given, says):
    with pytest.raises(SparseLMMError, match=says):
        sparselmm.mixedlm("score ~ Machine + (1 | Worker)", machines(), contrasts=given)


@pytest.mark.parametrize(
    ("dtype", "ref"), [("int8", 2), ("float64", 2), ("Int64", 2.0), ("bool", True)]
)
def test_relevel_of_numbers(dtype, ref):
    data = pd.DataFrame({"y": np.random.default_rng(0).normal(size=24), "g": np.arange(24) // 4})
    levels = 2 if dtype == "bool" else 4
    data["h"] = pd.Series(np.arange(24) % levels).astype(dtype)
    built = from_formula(f"y ~ relevel(h, ref={ref}) + (1 | g)", data)
    np.testing.assert_array_equal(built.design.X[:, 1:].sum(axis=1) == 0, data.h == ref)


@pytest.mark.parametrize("term", ["relevel(Machine, ref='B')", "C(Machine, Sum)"])
def test_a_factor_has_one_coding(term):
    with pytest.raises(SparseLMMError, match="has a coding there"):
        sparselmm.mixedlm(f"score ~ {term} + (1 | Worker)", machines(),
                          contrasts={"Machine": "sum"})  # fmt: skip


def test_contrasts_of_numbers_are_refused():
    with pytest.raises(SparseLMMError, match=r"used as numbers; write C\(Days\)"):
        sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", sleep(), contrasts={"Days": "sum"})


def test_interactions_as_one_factor():
    cells = sparselmm.mixedlm("score ~ 1 + (1 | Worker:Machine)", machines()).fit()
    fit = sparselmm.mixedlm("score ~ 1 + (1 | interaction(Worker, Machine))", machines()).fit()
    close(fit.llf, cells.llf)
    close(fit.predict(machines()[:2], re=True), cells.predict(machines()[:2], re=True), rtol=1e-7)
    data = pd.DataFrame({"a": [1.0, 2, 1, 2, 1, 2], "b": list("xxyyxy")})
    data = pd.concat([data.assign(y=np.arange(6.0) ** 2, g=k) for k in "uvw"], ignore_index=True)
    data["y"] += np.tile([0.0, 1.0, -1.0], 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fixed = sparselmm.mixedlm("y ~ 0 + interaction(a, b) + (1 | g)", data).fit()
    labels = [name.split("[")[1] for name in fixed.fe_params.index]
    assert labels == ["1.x]", "2.x]", "1.y]", "2.y]"]  # R's order
    close(fixed.predict(data[:4]), fixed.predict()[:4])
    with pytest.raises(SparseLMMError, match="the fit has not seen"):
        fixed.predict(data[:1].assign(b="z"))


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("(1 | Worker + Machine)", "(1 | Worker) + (1 | Machine)"),
        ("(1 | Worker * Machine)", "(1 | Worker) + (1 | Machine) + (1 | Worker:Machine)"),
        ("(1 | Worker/Machine + Machine)", "(1 | Worker/Machine) + (1 | Machine)"),
    ],
)
def test_sums_and_products_of_groups(short, long):
    one = sparselmm.mixedlm(f"score ~ 1 + {short}", machines())
    two = sparselmm.mixedlm(f"score ~ 1 + {long}", machines())
    assert sorted(t.name for t in one.terms) == sorted(t.name for t in two.terms)
    theta = np.full(len(one.terms), 0.7)
    close(one.deviance().at(theta).deviance, two.deviance().at(theta).deviance)


def test_backticks():
    data = machines().rename(columns={"score": "my score", "Worker": "the-worker"})
    fit = sparselmm.mixedlm("`my score` ~ `Machine` + (1 | `the-worker`)", data).fit()
    plain = sparselmm.mixedlm("score ~ Machine + (1 | Worker)", machines()).fit()
    close(fit.llf, plain.llf)
    assert list(fit.fe_params.index) == list(plain.fe_params.index)
    close(fit.predict(data[:3], re=True), plain.predict(machines()[:3], re=True))
    for wrong in ("`a ~ x", "`` ~ x"):
        with pytest.raises(FormulaError, match="backtick"):
            sparselmm.mixedlm(wrong, data)


@pytest.mark.parametrize(
    ("term", "says"),
    [
        ("poly(Days, 0)", "degree must be a positive integer"),
        ("poly(Days, 10)", "needs more than 10 different values; there are 10"),
        ("poly(Subject, 2)", "poly.. is of numbers"),
        ("ns(Days, df=0)", "df must be a positive integer"),
        ("ns(Days, knots=[-1])", "lie between 0 and 9"),
        ("ns(Days, df=30)", "take a smaller df"),
        ("interaction(Subject)", "two factors or more"),
    ],
)
def test_wrong_calls(term, says):
    with pytest.raises(SparseLMMError, match=says):
        sparselmm.mixedlm(f"Reaction ~ {term} + (1 | Subject)", sleep())


def test_missing_values_are_named_or_left_out():
    data = sleep()
    data.loc[5, "Days"] = np.nan
    for term in ("poly(Days, 2)", "ns(Days, df=2)"):
        formula = f"Reaction ~ {term} + (1 | Subject)"
        with pytest.raises(sparselmm.MissingDataError, match="column 'Days'"):
            sparselmm.mixedlm(formula, data)
        assert sparselmm.mixedlm(formula, data, missing="drop").nobs == 179
        fit = sparselmm.mixedlm(formula, sleep()).fit()
        assert np.isnan(fit.predict(data[5:6])).all()


def test_ranef_may_be_called():
    fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", sleep()).fit()
    assert fit.ranef() is fit.ranef
    with pytest.raises(SparseLMMError, match="ranef_var"):
        fit.ranef(condVar=True)
    assert pickle.loads(pickle.dumps(fit.ranef)).keys() == fit.ranef.keys()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("splines::ns(Days, df = 3) + (1 | Subject)", "ns(Days, df = 3) + (1 | Subject)"),
        ("as.factor(Days) + (1 | as.factor(Subject))", "factor(Days) + (1 | factor(Subject))"),
        ("Days + base::factor(f) + (1 | Subject)", "Days + factor(f) + (1 | Subject)"),
    ],
)
def test_packages_and_as_factor(written, read):
    data = datasets.load("sleepstudy").assign(f=lambda d: d.Days > 4)
    one, other = (sparselmm.mixedlm(f"Reaction ~ {right}", data) for right in (written, read))
    assert one.exog_names == other.exog_names
    np.testing.assert_array_equal(one.exog, other.exog)
    assert [term.name for term in one.terms] == [term.name for term in other.terms]


@pytest.mark.parametrize(
    ("right", "says"),
    [
        ("Days %in% f + (1 | Subject)", "%in%.*write a:b"),
        ("Days %foo% f + (1 | Subject)", "%foo%"),
        ("Days %/% 2 + (1 | Subject)", "%/%.*a // b"),
        ("Days %% 2 + (1 | Subject)", "%%.*a % b"),
        ("data$Days + (1 | Subject)", r"'\$'.*alone"),
        ("I(Days - mean(Days)) + (1 | Subject)", r"center\(x\)"),
        ("te(Days, Days) + (1 | Subject)", r"te\(cr\(x"),
        ("scale(Days, T) + (1 | Subject)", "R's constant write TRUE"),
        ("Days + NULL + (1 | Subject)", "NULL.*constant"),
        ("(0 + dummy(f, 'b') | Subject)", "I.f == "),
        ("C(f, contr.treatment(base=3)) + (1 | Subject)", "the levels are 2"),
        ("C(f, base='b') + (1 | Subject)", "'b' is no level"),
        ("C(f, contr.sum, base=2) + (1 | Subject)", "treatment coding"),
        ("as.numeric(Days) + (1 | Subject)", "'as.numeric' is R's"),
        ("Days + (. | Subject)", "write the names"),
        ("ifelse(Days > 4, 1, 0) + (1 | Subject)", r"np\.where"),
        ("Days + Error(Subject)", r"\(1 \| g\)"),
        ("Days, random = ~ 1 | Subject", r"write random effects as"),
        ("f::Days + (1 | Subject)", "cannot read"),
    ],
)
def test_what_r_has_and_formulas_here_do_not(right, says):
    data = datasets.load("sleepstudy").assign(f=lambda d: d.Days > 4)
    with pytest.raises(FormulaError, match=says):
        sparselmm.mixedlm(f"Reaction ~ {right}", data)


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ("scale(Days, scale=FALSE)", "center(Days)"),
        ("scale(Days, center=TRUE, scale=FALSE)", "center(Days)"),
        ("scale(Days, scale=True)", "standardize(Days)"),
        ("scale(Days, ddof=1)", "standardize(Days, ddof=1)"),
        ("scale(Days, center=3, scale=2)", "I((Days - 3) / 2)"),
        ("scale(Days, center=FALSE, scale=4)", "I(Days / 4)"),
        ("log(Days + 1, 2)", "log2(Days + 1)"),
        ("log(Days + 1, base=10)", "log10(Days + 1)"),
        ("bs(Days, knots=c(3, 6))", "bs(Days, knots=[3, 6])"),
        ("bs(Days, df=4, knots=NULL)", "bs(Days, df=4)"),
        ("C(Days, contr.treatment(base=2))", "C(Days, Treatment(1))"),
        ("C(Days, contr.treatment(10, base=2))", "C(Days, Treatment(1))"),
        ("C(Days, base=2)", "C(Days, Treatment(1))"),
        ("C(Days, contr.treatment)", "C(Days)"),
        ("C(Days, contr.sum(10))", "C(Days, Sum)"),
        ("C(Days, contr.helmert(10))", "C(Days, Helmert)"),
        ("0 + C(Days, contr.treatment(base=2))", "0 + C(Days)"),
        ("factor(f, levels=c('b', 'a'))", "C(f, levels=['b', 'a'])"),
    ],
)
def test_arguments_of_r(written, same):
    data = datasets.load("sleepstudy").assign(f=lambda d: np.where(d.Days > 4, "a", "b"))
    one, other = (
        sparselmm.mixedlm(f"Reaction ~ {right} + (1 | Subject)", data) for right in (written, same)
    )
    np.testing.assert_allclose(one.exog, other.exog, rtol=1e-12, atol=1e-12)
    result = pickle.loads(pickle.dumps(one.fit()))
    np.testing.assert_allclose(result.predict(data[:9]), other.fit().predict(data[:9]), rtol=1e-9)


def test_scale_of_rows_that_are_not_kept():
    data = datasets.load("sleepstudy")
    formula = "Reaction ~ scale(Days, scale=FALSE) + (1 | Subject)"
    kept, streamed = (
        sparselmm.mixedlm(formula, data, **options).fit()
        for options in ({}, {"keep_rows": False, "chunk_rows": 50})
    )
    np.testing.assert_allclose(streamed.fe_params, kept.fe_params, rtol=1e-9)


@pytest.mark.parametrize("given", ["scale='a'", "scale=0", "center='a'"])
def test_wrong_amounts_of_scale(given):
    with pytest.raises(SparseLMMError, match="scale"):
        sparselmm.mixedlm(
            f"Reaction ~ scale(Days, {given}) + (1 | Subject)", datasets.load("sleepstudy")
        )
