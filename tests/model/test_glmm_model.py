"""Spellings of generalized models, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from glmm_cases import FITS, data_of

import sparselmm
from sparselmm import CustomFamily, DataError, FormulaError, MissingDataError, MixedGLM, mixedglm
from sparselmm.likelihood.laplace.chosen import choose_family

CBPP = FITS["cbpp_logit"][1]


def cbpp():
    return data_of("cbpp").copy()


def counts():
    return data_of("grouseticks").copy()


def same(one, other, atol=1e-6):
    assert one.llf == pytest.approx(other.llf, abs=1e-7)
    np.testing.assert_allclose(np.asarray(one.fe_params), np.asarray(other.fe_params), atol=atol)
    np.testing.assert_allclose(one.theta, other.theta, atol=1e-4)


@pytest.fixture(scope="module")
def reference():
    return mixedglm(CBPP, data_of("cbpp")).fit()


# ------------------------------------------------------------------------------- spellings


def test_successes_and_trials(reference):
    frame = cbpp()
    frame["p"] = frame.incidence / frame["size"]
    right = "C(period) + (1 | herd)"
    same(mixedglm(f"incidence ~ {right}", frame, trials="size").fit(), reference)
    same(mixedglm(f"incidence ~ {right}", frame, trials=frame["size"]).fit(), reference)
    same(mixedglm(f"p ~ {right}", frame, weights="size").fit(), reference)
    same(mixedglm(f"incidence / size ~ {right}", frame, weights="size").fit(), reference)
    same(mixedglm(f"cbind(incidence, size - incidence) ~ {right}", frame).fit(), reference)


def test_spellings_of_random_effects(reference):
    frame = cbpp()
    left = "cbind(incidence, size - incidence) ~ C(period)"
    same(mixedglm(left, frame, groups="herd").fit(), reference)
    same(mixedglm(left, frame, re_formula="1", groups="herd").fit(), reference)
    same(mixedglm(left, frame, groups="herd", vc_formula={"v": "1"}).fit(), reference)
    Z = pd.get_dummies(frame.herd).to_numpy(dtype=float)
    same(mixedglm(left, frame, z_terms={"herd": Z}).fit(), reference)
    same(mixedglm(left, frame, z_terms={"herd": sp.csr_array(Z)}).fit(), reference)


def test_known_and_patterned_covariances():
    frame = data_of("Contraception")
    labels = sorted(frame.district.unique())
    identity = sparselmm.KnownCovariance(np.eye(len(labels)), labels=labels)
    formula = "use ~ age + (1 | district)"
    plain = mixedglm(formula, frame).fit()
    same(mixedglm(formula, frame, covariance={"district": identity}).fit(), plain)
    patterned = mixedglm("use ~ age + cs(0 + urban | district)", frame).fit()
    full = mixedglm("use ~ age + (0 + urban | district)", frame).fit()
    assert patterned.converged
    assert patterned.n_parameters == full.n_parameters
    assert patterned.llf == pytest.approx(full.llf, abs=1e-6)


def test_arrays(reference):
    frame = cbpp()
    X = np.column_stack([np.ones(56), *(frame.period == k for k in (2, 3, 4))]).astype(float)
    y = frame.incidence.to_numpy(dtype=float)
    n = frame["size"].to_numpy(dtype=float)
    same(MixedGLM(np.column_stack([y, n - y]), X, frame.herd).fit(), reference)
    same(MixedGLM(y, X, frame.herd, trials=n).fit(), reference)
    same(MixedGLM(y / n, X, frame.herd, weights=n).fit(), reference)
    Z = pd.get_dummies(frame.herd).to_numpy(dtype=float)
    same(MixedGLM(y, X, z_terms={"herd": Z}, trials=n).fit(), reference)
    assert isinstance(MixedGLM(y, X, frame.herd, trials=n).fit().fe_params, np.ndarray)


def test_labels_are_failure_and_success():
    frame = data_of("Contraception").assign(
        label=lambda d: np.where(d.use == 1, "yes", "no"), flag=lambda d: d.use == 1
    )
    right = "age + (1 | district)"
    plain = mixedglm(f"use ~ {right}", frame).fit()
    same(mixedglm(f"label ~ {right}", frame).fit(), plain)
    same(mixedglm(f"flag ~ {right}", frame).fit(), plain)
    turned = frame.assign(label=pd.Categorical(frame.label, ["yes", "no"]))
    other = mixedglm(f"label ~ {right}", turned).fit()
    np.testing.assert_allclose(other.fe_params, -plain.fe_params, atol=1e-5)


def test_missing_and_subset():
    frame = cbpp()
    frame.loc[3, "incidence"] = np.nan
    with pytest.raises(MissingDataError):
        mixedglm(CBPP, frame)
    dropped = mixedglm(CBPP, frame, missing="drop")
    assert dropped.nobs == 55
    same(dropped.fit(), mixedglm(CBPP, cbpp(), subset=np.arange(56) != 3).fit())


def test_formulas_of_dispersion_and_zeros():
    frame = counts()
    formula = "TICKS ~ cHEIGHT + (1 | BROOD)"
    plain = mixedglm(formula, frame, family="nbinom2").fit()
    more = mixedglm(formula, frame, family="nbinom2", dispersion="~ C(YEAR)").fit()
    assert list(more.dispersion_params.index) == ["Intercept", "C(YEAR)[T.96]", "C(YEAR)[T.97]"]
    assert more.llf > plain.llf
    zero = mixedglm(formula, frame, family="poisson", zi="~ cHEIGHT").fit()
    assert list(zero.zi_params.index) == ["Intercept", "cHEIGHT"]
    assert zero.llf > mixedglm(formula, frame, family="poisson").fit().llf
    D = np.column_stack([np.ones(len(frame)), frame.YEAR == 96, frame.YEAR == 97]).astype(float)
    X = np.column_stack([np.ones(len(frame)), frame.cHEIGHT])
    arrays = MixedGLM(frame.TICKS, X, frame.BROOD, family="nbinom2", dispersion=D).fit()
    assert arrays.llf == pytest.approx(more.llf, abs=1e-6)


def test_hurdle_is_two_models():
    """Its likelihood is that of the zeros plus that of the counts above zero."""
    frame = counts()
    fit = mixedglm("TICKS ~ cHEIGHT + (1 | BROOD)", frame, family="nbinom2", hurdle="~ 1").fit()
    share = (frame.TICKS == 0).mean()
    assert fit.zi_params.iloc[0] == pytest.approx(np.log(share / (1 - share)), abs=1e-5)


def test_family_objects_of_statsmodels():
    sm = pytest.importorskip("statsmodels.api")
    frame = data_of("Contraception")
    formula = "use ~ age + (1 | district)"
    links = sm.families.links
    binomials = {
        "logit": sm.families.Binomial(), "probit": sm.families.Binomial(links.Probit()),
        "cloglog": sm.families.Binomial(link=links.CLogLog()),
    }  # fmt: skip
    for link, theirs in binomials.items():
        assert mixedglm(formula, frame, family=theirs).family.link == link
    names = {
        "Poisson": "poisson", "Gamma": "gamma", "InverseGaussian": "inverse_gaussian",
        "Gaussian": "gaussian",
    }  # fmt: skip
    for theirs, ours in names.items():
        model = mixedglm("Reaction ~ Days + (1 | Subject)", data_of("sleepstudy").round(0),
                         family=getattr(sm.families, theirs)())  # fmt: skip
        assert model.family.name == ours
    power = sm.families.Gamma(sm.families.links.InversePower())
    assert choose_family(power).link == "inverse"
    with pytest.warns(sparselmm.ValueWarning, match="dispersion is estimated"):
        nb = mixedglm(
            "TICKS ~ 1 + (1 | BROOD)", counts(), family=sm.families.NegativeBinomial(alpha=1.0)
        )
    assert nb.family.name == "nbinom2"


def test_a_family_of_ones_own():
    def derivatives(y, eta):
        mu = np.exp(eta)
        return y * eta - mu, y - mu, -mu, -mu

    frame = counts()
    formula = "TICKS ~ cHEIGHT + (1 | BROOD)"
    own = CustomFamily(derivatives, mean=np.exp)
    fit = mixedglm(formula, frame, family=own).fit()
    theirs = mixedglm(formula, frame, family="poisson").fit()
    np.testing.assert_allclose(fit.fe_params, theirs.fe_params, atol=1e-5)
    np.testing.assert_allclose(fit.fittedvalues, theirs.fittedvalues, rtol=1e-4)
    with pytest.raises(DataError, match="cannot be simulated"):
        fit.simulate()


@pytest.mark.parametrize("family", ["gamma", "inverse_gaussian", "gaussian"])
@pytest.mark.parametrize("link", ["log", "inverse", "identity"])
def test_links_of_positive_means(family, link):
    frame = data_of("sleepstudy").assign(y=lambda d: d.Reaction / 300.0)
    fit = mixedglm("y ~ Days + (1 | Subject)", frame, family=family, link=link).fit()
    assert fit.converged
    assert fit.opt.gradient_norm < 1e-2


def test_ordinal_takes_no_intercept():
    frame = data_of("wine")
    one = mixedglm("rating ~ temp + contact + (1 | judge)", frame, family="ordinal").fit()
    with pytest.warns(sparselmm.RankDeficiencyWarning, match="temp"):
        other = mixedglm("rating ~ 0 + temp + contact + (1 | judge)", frame, family="ordinal")
    assert one.model.exog_names == ("temp[T.warm]", "contact[T.yes]")
    assert len(one.thresholds) == 4
    assert list(one.thresholds.index) == ["1|2", "2|3", "3|4", "4|5"]
    assert len(other.exog_names) == 2


def test_ordinal_of_two_categories_is_binomial():
    frame = data_of("Contraception")
    ordinal = mixedglm("use ~ age + (1 | district)", frame, family="ordinal").fit()
    binomial = mixedglm("use ~ age + (1 | district)", frame).fit()
    assert ordinal.llf == pytest.approx(binomial.llf, abs=1e-8)
    assert ordinal.thresholds.iloc[0] == pytest.approx(-binomial.fe_params["Intercept"], abs=1e-5)


# --------------------------------------------------------------------------------- refused


def refuse(match, formula, frame, error=DataError, **arguments):
    with pytest.raises(error, match=match):
        mixedglm(formula, frame, **arguments).fit()


RIGHT = "~ cHEIGHT + (1 | BROOD)"


@pytest.mark.parametrize("family", ["poisson", "nbinom1", "nbinom2"])
def test_counts(family):
    frame = counts()
    frame["minus"], frame["half"], frame["none"] = frame.TICKS - 1.0, frame.TICKS / 2, 0.0
    refuse("negative counts", f"minus {RIGHT}", frame, family=family)
    refuse("fractional counts", f"half {RIGHT}", frame, family=family)
    refuse("counts of 'none' are zero", f"none {RIGHT}", frame, family=family)


def test_trials():
    frame = cbpp()
    right = "C(period) + (1 | herd)"
    refuse("more successes than trials", f"incidence ~ {right}", frame, trials=1)
    refuse("more successes than trials", f"cbind(incidence, -1 - incidence) ~ {right}", frame)
    refuse("negative numbers of successes", f"cbind(-incidence, size) ~ {right}", frame)
    refuse("must be whole", f"cbind(incidence / 2, size) ~ {right}", frame)
    refuse("more successes than trials", f"incidence ~ {right}", frame)
    frame["p"] = frame.incidence / frame["size"]
    refuse("must be whole", f"p ~ {right}", frame)
    refuse("between 0 and 1", f"p + 1 ~ {right}", frame, weights="size")
    refuse("leave one out", f"cbind(incidence, size) ~ {right}", frame, trials="size")
    refuse("with two columns", f"cbind(incidence) ~ {right}", frame, FormulaError)
    refuse("is not a column", f"cbind(incidence, sise) ~ {right}", frame, FormulaError)
    refuse("one number per row", f"incidence ~ {right}", frame, trials=[1, 2])
    frame["none"], frame["all"] = 0, frame["size"]
    refuse("only failures", f"none ~ {right}", frame, trials="size")
    refuse("only successes", f"all ~ {right}", frame, trials="size")


def test_other_responses():
    frame = data_of("Gasoline").copy()
    frame["zero"], frame["flat"] = frame.p - frame.p.min(), 0.5
    for family in ("gamma", "inverse_gaussian"):
        refuse("must be positive", "zero ~ endpoint + (1 | Sample)", frame, family=family)
    refuse("strictly between 0 and 1", "zero ~ endpoint + (1 | Sample)", frame, family="beta")
    for family in ("beta", "gamma", "gaussian"):
        refuse("is constant", "flat ~ endpoint + (1 | Sample)", frame, family=family)


def test_ordinal_responses():
    wine = data_of("wine").copy()
    right = "~ temp + (1 | judge)"
    wine["one"], wine["gap"], wine["half"] = 1, wine.rating.replace(3, 4), wine.rating / 2
    wine["text"] = wine.rating.map(dict(zip(range(1, 6), "abcde", strict=True)))
    wine["plain"] = pd.Categorical(wine.text)
    wine["unused"] = pd.Categorical(wine.text, list("abcdef"), ordered=True)
    refuse("has 1 categories", f"one {right}", wine, family="ordinal")
    refuse("is in category 3", f"gap {right}", wine, family="ordinal")
    refuse("is in category 'f'", f"unused {right}", wine, family="ordinal")
    refuse("whole numbers", f"half {right}", wine, family="ordinal")
    refuse("text without an order", f"text {right}", wine, family="ordinal")
    refuse("without an order", f"plain {right}", wine, family="ordinal")


def test_labels_of_a_binomial_response():
    wine = data_of("wine").assign(text=lambda d: d.rating.astype(str))
    refuse("has 5 label", "text ~ temp + (1 | judge)", wine)


def test_families_and_links():
    frame = counts()
    formula = f"TICKS {RIGHT}"
    refuse("did you mean 'poisson'", formula, frame, family="poison")
    refuse("did you mean 'logit'", formula, frame, link="logi")
    refuse("not one for family 'poisson'", formula, frame, family="poisson", link="logit")
    refuse("must be a name", formula, frame, family=3)
    refuse("no dispersion parameter", formula, frame, family="poisson", dispersion="~ 1")
    refuse("is for counts", formula, frame, family="gamma", zi="~ 1")
    refuse("give one of them", formula, frame, family="poisson", zi="~ 1", hurdle="~ 1")
    refuse("must be a formula", formula, frame, family="poisson", zi=True)
    with pytest.raises(FormulaError, match="belong to the mean"):
        mixedglm(formula, frame, family="poisson", zi="~ 1 + (1 | BROOD)")
    positive = frame[frame.TICKS > 0]
    refuse("no zeros to explain", formula, positive, family="poisson", zi="~ 1")


@pytest.mark.slow
def test_what_would_be_passed_over():
    frame = counts().assign(
        one=lambda d: (d.TICKS > 0).astype(int), huge=lambda d: np.where(d.INDEX < 9, 1e18, d.TICKS)
    )
    formula = f"TICKS {RIGHT}"
    refuse("is for binomial", f"cbind(TICKS, HEIGHT) {RIGHT}", frame, family="poisson")
    refuse("trials= is for binomial", formula, frame, family="poisson", trials="HEIGHT")
    refuse("0 columns", formula, frame, family="nbinom2", dispersion="~ 0")
    refuse("of rank 2", formula, frame, family="nbinom2", dispersion="~ cHEIGHT + HEIGHT")
    refuse("all counts of 'one'", f"one {RIGHT}", frame, family="poisson", hurdle="~ 1")
    refuse("is not finite", f"huge {RIGHT}", frame, family="poisson")
    zeros = mixedglm(formula, frame, family="poisson", zi="~ cHEIGHT").fit()
    with pytest.raises(DataError, match="zeros of its own"):
        zeros.residuals("deviance")
    with pytest.raises(DataError, match="fractional"):
        zeros.model.refitted(np.full(len(frame), 0.5))


@pytest.mark.parametrize(
    ("derivatives", "says"),
    [
        (lambda y, eta: (0, 0, 0, 0), "four arrays"),
        (lambda y, eta: (y, y, y), "four arrays"),
        (lambda y, eta: 1 / 0, "ZeroDivisionError"),
        (lambda y, eta: (y * np.nan,) * 4, "not finite"),
    ],
)
def test_a_family_of_ones_own_that_fails(derivatives, says):
    refuse(says, f"TICKS {RIGHT}", counts(), family=CustomFamily(derivatives))


def test_nodes():
    frame = counts()
    refuse("single random effect", "TICKS ~ 1 + (1 | BROOD) + (1 | LOCATION)", frame,
           family="poisson", nagq=5)  # fmt: skip
    refuse("single random effect", "TICKS ~ 1 + (cHEIGHT | BROOD)", frame, family="poisson", nagq=5)
    refuse("between 1", f"TICKS {RIGHT}", frame, family="poisson", nagq=0)
    refuse("whole number", f"TICKS {RIGHT}", frame, family="poisson", nagq=2.5)


def test_starts():
    model = mixedglm(CBPP, cbpp())
    with pytest.raises(DataError, match=r"start must have shape \(5,\)"):
        model.fit(start=[1.0])
    again = model.fit(start=model.fit().opt.x)
    assert again.opt.history[0].deviance == pytest.approx(again.opt.deviance, abs=1e-7)


def test_arrays_are_checked():
    X, g = np.ones((20, 1)), np.repeat(np.arange(5), 4)
    y = (np.arange(20) % 3 == 0).astype(float)
    with pytest.raises(DataError, match="takes one"):
        MixedGLM(np.column_stack([y, 1 - y]), X, g, family="poisson")
    with pytest.raises(DataError, match="leave one out"):
        MixedGLM(np.column_stack([y, 1 - y]), X, g, trials=np.ones(20))
    with pytest.raises(DataError, match="needs MixedGLM"):
        MixedGLM(y, X, g, family="nbinom2", dispersion="~ x")
    with pytest.raises(DataError, match="zi has 3 rows"):
        MixedGLM(y, X, g, family="poisson", zi=np.ones((3, 1)))


# ------------------------------------------------------------------------------ separation


def separated(n=60):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"g": np.repeat(np.arange(12), n // 12), "x": rng.normal(size=n)})
    frame["arm"] = np.where(np.arange(n) % 3 == 0, "treated", "control")
    frame["y"] = np.where(frame.arm == "treated", 1, rng.integers(0, 2, n))
    return frame


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog", "cauchit"])
def test_separation_is_named(link):
    with pytest.warns(sparselmm.ConvergenceWarning, match="separation.*arm"):
        fit = mixedglm("y ~ arm + x + (1 | g)", separated(), link=link).fit()
    assert not fit.converged
    assert fit.separation == ("Intercept", "arm[T.treated]") or fit.separation == (
        "arm[T.treated]",
    )
    assert "separation" in fit.check(simulate=False).codes
    assert "Separation" in str(fit.summary())


def test_separation_of_counts_and_categories():
    frame = separated()
    frame["count"] = np.where(frame.arm == "treated", 0, 1 + frame.g % 3)
    with pytest.warns(sparselmm.ConvergenceWarning, match="separation.*arm"):
        fit = mixedglm("count ~ arm + x + (1 | g)", frame, family="poisson").fit()
    assert not fit.converged
    frame["grade"] = np.where(frame.arm == "treated", 3, 1 + np.arange(60) % 3)
    with pytest.warns(sparselmm.ConvergenceWarning, match="separation.*arm"):
        fit = mixedglm("grade ~ arm + x + (1 | g)", frame, family="ordinal").fit()
    assert not fit.converged


@pytest.mark.parametrize("zeros", ["zi", "hurdle"])
@pytest.mark.parametrize("family", ["poisson", "nbinom2"])
def test_separation_beside_excess_zeros_is_named(zeros, family):
    """All zeros in a group, or past a hurdle all ones, are best explained by a mean of zero."""
    rng = np.random.default_rng(3)
    frame = separated(240)
    certain = 0 if zeros == "zi" else 1
    frame["count"] = np.where(frame.arm == "treated", certain, rng.poisson(3, 240))
    frame.loc[rng.random(240) < 0.2, "count"] = 0
    with pytest.warns(sparselmm.ConvergenceWarning, match="separation.*arm"):
        fit = mixedglm("count ~ arm + (1 | g)", frame, family=family, **{zeros: "~ 1"}).fit()
    assert fit.separation
    assert not fit.converged


def test_categories_of_rows_that_do_not_count_are_refused():
    rng = np.random.default_rng(6)
    frame = separated().assign(grade=rng.integers(1, 4, 60), w=1.0)
    frame.loc[frame.grade == 3, "w"] = 0.0
    with pytest.raises(sparselmm.DataError, match=r"no row in use.*'grade'.*category 3"):
        mixedglm("grade ~ x + (1 | g)", frame, family="ordinal", weights="w")
    with pytest.raises(sparselmm.DataError, match=r"no row in use.*'grade'.*category 3"):
        mixedglm("grade ~ x + (1 | g)", frame, family="ordinal", subset=frame.w > 0)


def test_rare_responses_are_no_separation():
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({"g": np.repeat(np.arange(40), 25), "x": rng.normal(size=1000)})
    frame["y"] = (rng.random(1000) < 1 / (1 + np.exp(7 - 2 * frame.x))).astype(int)
    fit = mixedglm("y ~ x + (1 | g)", frame, nagq=5).fit()
    assert not fit.separation


def test_a_level_with_only_successes_is_no_separation():
    rng = np.random.default_rng(2)
    high = rng.random(12) < 0.5
    frame = separated().assign(
        y=lambda d: np.where(d.g == 3, 1, rng.random(60) < np.where(high[d.g], 0.8, 0.2)).astype(
            int
        )
    )
    fit = mixedglm("y ~ x + (1 | g)", frame).fit()
    assert fit.converged
    assert np.isfinite(fit.ranef["g"].to_numpy()).all()


def test_levels_that_are_all_pure_are_named():
    frame = separated().assign(y=lambda d: (d.g % 2 == 0).astype(int))
    for nodes in (1, 9):
        with pytest.warns(sparselmm.ConvergenceWarning, match="every level of 'g'"):
            fit = mixedglm("y ~ 1 + (1 | g)", frame, nagq=nodes).fit()
        assert not fit.converged
    assert "pure levels" in fit.check(simulate=False).codes


def test_zero_variance_is_an_optimum():
    rng = np.random.default_rng(11)
    frame = pd.DataFrame({"g": np.repeat(np.arange(10), 12)})
    frame["y"] = np.tile(rng.permutation([0] * 6 + [1] * 6), 10)
    with pytest.warns(sparselmm.BoundaryWarning, match="boundary"):
        fit = mixedglm("y ~ 1 + (1 | g)", frame).fit()
    assert fit.converged
    assert fit.theta[0] == 0.0
    assert fit.singular
    assert np.isfinite(fit.bse_fe).all()
    assert np.isnan(fit.variance_components().se.iloc[0])


@pytest.mark.parametrize("family", ["nbinom1", "nbinom2", "betabinomial"])
def test_responses_without_overdispersion(family):
    rng = np.random.default_rng(6)
    frame = pd.DataFrame({"g": np.repeat(np.arange(30), 20), "x": rng.normal(size=600)})
    eta = 0.5 + 0.4 * frame.x + 0.5 * rng.normal(size=30)[frame.g]
    if family == "betabinomial":
        frame["y"] = np.clip(np.round(8 / (1 + np.exp(-eta))), 0, 8)
        formula, simple = "cbind(y, 8 - y) ~ x + (1 | g)", "binomial"
    else:
        frame["y"] = np.round(np.exp(eta))
        formula, simple = "y ~ x + (1 | g)", "poisson"
    fit = mixedglm(formula, frame, family=family).fit()
    limit = mixedglm(formula, frame, family=simple).fit()
    assert fit.converged
    assert fit.llf == pytest.approx(limit.llf, abs=1e-6)
    assert sum(entry.search == 0 for entry in fit.opt.history) <= 25
    np.testing.assert_allclose(fit.bse_fe, limit.bse_fe, rtol=1e-4)
    assert "no overdispersion" in fit.check(simulate=False).codes
