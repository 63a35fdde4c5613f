"""What residual= and dispersion= refuse, and how they say it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sparselmm.exceptions import DataError, FormulaError, MissingDataError

import sparselmm


def data(n_groups=30, visits=4, seed=0):
    rng = np.random.default_rng(seed)
    g, t = (part.ravel() for part in np.indices((n_groups, visits)))
    b = rng.normal(size=n_groups)
    return pd.DataFrame(
        {
            "y": rng.normal(size=len(g)) + b[g] + 0.3 * t,
            "x": rng.normal(size=len(g)),
            "g": [f"s{i:02d}" for i in g],
            "t": t,
            "visit": [f"v{i}" for i in t],
            "arm": np.where(g % 2, "a", "b"),
            "one": 1.0,
        }
    )


@pytest.mark.parametrize(
    ("residual", "says"),
    [
        ("ar2(t | g)", "did you mean 'ar1'"),
        ("ar1(t)", "has no bar"),
        ("ar1", "not understood"),
        ("ar1(1 | g)", "needs the time"),
        ("ar1(t + x | g)", "one time or visit"),
        ("ar1(t || g)", "one '|'"),
        ("ar1(t | g, hom=maybe)", "True or False"),
        ("ar1(t | g, homm=False)", "not understood"),
        ("cs(t | g, nugget=True)", "a parameter too many"),
        ("car1(t | g, hom=False)", "dispersion="),
        ("ar1(t | nope)", "nope"),
        ("ar1(t | g, by=arm, by=one)", "by more than once"),
        ("ar1(-t | g)", "minus sign"),
        ("exp(t - x | g)", "minus sign"),
        ("exp(t * x | g)", "a product before the bar"),
        ("ar1(factor(t) + 0 | g)", "write ar1(time | g) without factor()"),
        ("ar1(C(t) | g)", "write ar1(time | g) without factor()"),
        ("corAR1(form = ~ t | g)", "here it is ar1(time | subject)"),
        ("AR(1)", "here it is ar1(time | subject)"),
        ("UN", "here it is us(visit | subject)"),
        ("SP(POW)(t)", "here it is car1(time | subject)"),
        ("varIdent(form=~1|arm)", "here it is dispersion='~ factor'"),
    ],
)
def test_text_that_cannot_be_read(residual, says):
    with pytest.raises(FormulaError, match=r"residual|nope") as caught:
        sparselmm.mixedlm("y ~ x", data(), residual=residual)
    assert says in str(caught.value)


def test_two_rows_at_one_time():
    frame = data()
    frame.loc[5, "t"] = 0
    with pytest.raises(DataError, match="row 4 and row 5 are rows of the group 's01' at the same"):
        sparselmm.mixedlm("y ~ x", frame, residual="ar1(t | g)")


def test_times_that_are_missing_or_text_or_broken():
    frame = data()
    with pytest.raises(DataError, match="'visit' is text, and ar1 needs times"):
        sparselmm.mixedlm("y ~ x", frame, residual="ar1(visit | g)")
    with pytest.raises(DataError, match=r"write car1\(t \| g\)"):
        sparselmm.mixedlm("y ~ x", frame.assign(t=frame.t + 0.5 * (frame.t > 1)),
                          residual="ar1(t | g)")  # fmt: skip
    frame["t"] = frame.t.astype(float)
    frame.loc[7, "t"] = np.nan
    for kind in ("ar1", "car1", "us"):
        with pytest.raises(MissingDataError, match="'t' is missing in 1 row"):
            sparselmm.mixedlm("y ~ x", frame, residual=f"{kind}(t | g)")
    model = sparselmm.mixedlm("y ~ x", frame, residual="ar1(t | g)", missing="drop")
    assert model.nobs == len(frame) - 1


def test_times_in_units_that_are_too_small():
    frame = data().assign(ns=lambda d: 86_400_000_000_000 * d.t)
    with pytest.raises(DataError, match="count the times in larger units"):
        sparselmm.mixedlm("y ~ x", frame, residual="ar1(ns | g)")


def test_visits_in_the_order_of_a_categorical():
    frame = data()
    frame["visit"] = pd.Categorical(frame.visit, ["v0", "v1", "v2", "v3"])
    by_label = sparselmm.mixedlm("y ~ x", frame, residual="ar1(visit | g)").fit()
    by_number = sparselmm.mixedlm("y ~ x", frame, residual="ar1(t | g)").fit()
    assert by_label.llf == pytest.approx(by_number.llf, rel=1e-12)


VISITS = ["screening", "baseline", "week 2", "week 10"]


@pytest.mark.parametrize("kind", ["ar1", "toep", "ad"])
@pytest.mark.parametrize("ordered", [False, True])
def test_the_order_of_visits_is_that_of_the_categories_not_of_the_alphabet(kind, ordered):
    frame = data()
    frame["visit"] = pd.Categorical.from_codes(frame.t, VISITS, ordered=ordered)
    by_label = sparselmm.mixedlm("y ~ x", frame, residual=f"{kind}(visit | g)")
    by_number = sparselmm.mixedlm("y ~ x", frame, residual=f"{kind}(t | g)")
    own, numbered = by_label.built.layout.residual, by_number.built.layout.residual
    assert own.visit_labels == tuple(VISITS)
    assert own.visits.tolist() == numbered.visits.tolist()
    assert by_label.fit().llf == pytest.approx(by_number.fit().llf, rel=1e-12)
    entries = {"structure": kind, "groups": frame.g, "times": frame.visit}
    arrays = sparselmm.MixedLM(frame.y, frame[["x"]], residual=entries)
    assert arrays.built.layout.residual.visits.tolist() == numbered.visits.tolist()


def test_times_that_are_a_categorical_of_numbers():
    frame = data()
    frame["t"] = pd.Categorical(frame.t)
    for kind in ("ar1", "car1"):
        with pytest.raises(DataError, match="'t' is a Categorical of numbers; make it numbers"):
            sparselmm.mixedlm("y ~ x", frame, residual=f"{kind}(t | g)")
    named = frame.assign(t=frame.t.cat.rename_categories(str))
    assert sparselmm.mixedlm("y ~ x", named, residual="ar1(t | g)").nobs == len(frame)


def test_visits_seen_once():
    frame = data()
    frame.loc[3, "t"] = 9
    with pytest.raises(DataError, match="the visit 9 is seen 1 time"):
        sparselmm.mixedlm("y ~ x", frame, residual="us(t | g)")
    two = data()
    two = two[(two.t < 2) == (two.arm == "a")]
    with pytest.raises(DataError, match="no group has both visits"):
        sparselmm.mixedlm("y ~ x", two, residual="us(t | g)")


def test_dispersion_that_is_constant_or_redundant():
    frame = data().assign(z=lambda d: 2.0 * d.x + 1.0)
    with pytest.raises(DataError, match="is constant"):
        sparselmm.mixedlm("y ~ x", frame, dispersion="~ one")
    with pytest.raises(DataError, match="no covariate"):
        sparselmm.mixedlm("y ~ x", frame, dispersion="~ 1")
    with pytest.raises(DataError, match="depends on the other columns"):
        sparselmm.mixedlm("y ~ x", frame, dispersion="~ x + z")
    with pytest.raises(DataError, match="depends on the other columns"):
        sparselmm.mixedlm("y ~ x", frame, residual="cs(t | g, hom=False)", dispersion="~ C(t)")


@pytest.mark.parametrize("residual", [None, "ar1(t | g)"])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e3, -1e5])
def test_dispersion_does_not_depend_on_the_unit_of_its_covariate(residual, unit):
    """Directions were looked at where a covariate in the thousands makes one row all there is."""
    frame = data(40, 6).assign(x=lambda d: d.t.astype(float))
    frame["v"] = unit * (frame.x + 1.0)
    plain, scaled = (
        sparselmm.mixedlm("y ~ x + (1 | g)", frame, residual=residual, dispersion=f"~ {name}").fit()
        for name in ("x", "v")
    )
    assert scaled.converged
    assert scaled.llf == pytest.approx(plain.llf, abs=1e-7)
    slopes = [r.residual_params().filter(like="log_sd", axis=0).iloc[0, 0] for r in (plain, scaled)]
    assert slopes[1] * unit == pytest.approx(slopes[0], abs=1e-5)


def far(seed=3):
    """A calendar year, and the same counted from 2005."""
    frame = data(40, 6)
    rng = np.random.default_rng(seed)
    frame["year"] = rng.integers(1990, 2021, len(frame)).astype(float)
    frame["y"] = frame.x + np.exp(0.05 * (frame.year - 2005)) * rng.normal(size=len(frame))
    frame["y"] += rng.normal(size=frame.g.nunique())[pd.factorize(frame.g)[0]]
    return frame.assign(since=frame.year - 2005)


@pytest.mark.parametrize("residual", [None, "ar1(t | g)", "toep(t | g)"])
def test_dispersion_far_from_zero(residual, tmp_path):
    """The same fit as from another origin; sigma stands for the year zero."""
    frame = far()
    there, here = (
        sparselmm.mixedlm(
            "y ~ x + (1 | g)", frame, residual=residual, dispersion=f"~ {name} + C(t)"
        ).fit()
        for name in ("year", "since")
    )
    assert there.llf == pytest.approx(here.llf, abs=1e-8)
    assert there.opt.n_evaluations == here.opt.n_evaluations
    np.testing.assert_allclose(there.sigma_by_row, here.sigma_by_row, rtol=1e-7)
    np.testing.assert_allclose(there.cov_re, here.cov_re, rtol=1e-6)
    for ci in ("wald", "profile"):
        own, other = there.residual_params(ci=ci), here.residual_params(ci=ci)
        both = [name for name in other.index if "since" not in name and name != "sigma"]
        np.testing.assert_allclose(own.loc[both], other.loc[both], rtol=1e-4)
        slopes = own.loc["log_sd(year)"], other.loc["log_sd(since)"]
        np.testing.assert_allclose(*slopes, rtol=1e-4)
        np.testing.assert_allclose(own.loc["sigma(year=2005)"], other.loc["sigma"], rtol=1e-4)
    slope = here.residual_params().loc["log_sd(since)", "estimate"]
    assert np.log(there.sigma) == pytest.approx(np.log(here.sigma) - 2005 * slope, rel=1e-6)
    there.save(tmp_path / "fit")
    saved = sparselmm.MixedLMResults.load(tmp_path / "fit")
    new = frame.iloc[:5].assign(year=lambda d: d.year + 1, since=lambda d: d.since + 1, t=5)
    own, other = (
        fit.get_prediction(new, re=True).summary_frame()["obs_ci_upper"] for fit in (saved, here)
    )
    np.testing.assert_allclose(own, other, rtol=1e-6)
    np.testing.assert_allclose(there.simulate(2, seed=1), here.simulate(2, seed=1), rtol=1e-6)


def test_the_error_of_sigma_far_from_zero():
    """That of an intercept: with its covariance with the slope."""
    frame = far()
    there, here = (
        sparselmm.mixedlm("y ~ x", frame, dispersion=f"~ {name}").fit(reml=False)
        for name in ("year", "since")
    )
    row = there.residual_params().loc["sigma"]
    assert row.std_error / row.estimate == pytest.approx(
        2005 * here.residual_params().loc["log_sd(since)", "std_error"], rel=0.01
    )
    moved = sparselmm.mixedlm("y ~ x", frame.assign(v=frame.since + 30.0), dispersion="~ v").fit(
        reml=False
    )
    free = sparselmm.mixedlm("y ~ x", frame.assign(v=frame.since + 300.0), dispersion="~ v").fit(
        reml=False
    )
    slope, log = moved.residual_params().loc["log_sd(v)"], np.log(moved.sigma)
    assert np.log(free.sigma) == pytest.approx(log - 270.0 * slope.estimate, rel=1e-6)
    assert "sigma(v=300)" in free.residual_params().index
    assert "sigma(v=300)" not in moved.residual_params().index


def test_sigma_beyond_the_numbers_of_the_machine():
    frame = far().assign(v=lambda d: 1e-4 * d.since + 1e4)
    fit = sparselmm.mixedlm("y ~ x + (1 | g)", frame, dispersion="~ v").fit()
    assert np.isnan(fit.sigma)
    assert fit.residual_params().loc["sigma(v=10000)", "estimate"] == pytest.approx(
        np.sqrt(fit.scale), rel=1e-12
    )
    assert "is beyond the numbers of the machine" in str(fit.summary()).replace("\n", " ")


def test_dispersion_far_from_zero_in_arrays():
    frame = far()
    arrays = [
        sparselmm.MixedLM(
            frame.y, frame[["x"]].assign(one=1.0), frame.g, dispersion=frame[[name]]
        ).fit()
        for name in ("year", "since")
    ]
    assert arrays[0].llf == pytest.approx(arrays[1].llf, abs=1e-8)
    assert "sigma(year=2005)" in arrays[0].residual_params().index


def test_strata_are_constant_within_groups():
    frame = data()
    with pytest.raises(DataError, match="must be constant within groups"):
        sparselmm.mixedlm("y ~ x", frame.assign(arm=frame.t % 2), residual="ar1(t | g, by=arm)")
    with pytest.raises(DataError, match="single value"):
        sparselmm.mixedlm("y ~ x", frame, residual="ar1(t | g, by=one)")


def test_weights_of_zero():
    frame = data().assign(w=lambda d: (d.t > 0).astype(float))
    with pytest.raises(DataError, match=r"must be positive\. Leave these rows out"):
        sparselmm.mixedlm("y ~ x", frame, residual="ar1(t | g)", weights="w")


@pytest.mark.parametrize("structure", ["cs(t | g)", "us(t | g)", "toep(t | g)"])
def test_a_term_that_the_structure_already_has(structure):
    with pytest.raises(DataError, match="the random-effects term 'g' and residual=") as caught:
        sparselmm.mixedlm("y ~ x + (1 | g)", data(), residual=structure).fit()
    assert "Drop the term" in str(caught.value)


def test_ar1_and_an_intercept_need_three_visits():
    frame = data()
    with pytest.raises(DataError, match="cannot be told apart"):
        sparselmm.mixedlm("y ~ x + (1 | g)", frame[frame.t < 2], residual="ar1(t | g)").fit()
    model = sparselmm.mixedlm("y ~ x + (1 | g)", frame[frame.t < 3], residual="ar1(t | g)")
    assert model.deviance().start().shape == (2,)


def test_groups_of_one_row_have_no_correlation():
    frame = data()
    with pytest.raises(DataError, match="changes nothing"):
        sparselmm.mixedlm("y ~ x", frame[frame.t == 0], residual="ar1(t | g)").fit()


def test_engines_and_arguments_that_lack_it():
    model = sparselmm.mixedlm("y ~ x + (1 | g)", data(), residual="ar1(t | g)")
    for keywords in ({"engine": "dense"}, {"fix": {"sigma": 1.0}}, {"start_theta": [1.0]}):
        with pytest.raises(sparselmm.SparseLMMError, match=next(iter(keywords))):
            model.fit(**keywords)
    with pytest.raises(sparselmm.SparseLMMError, match="fit_many is not available"):
        model.fit_many(np.ones((120, 1)))


def test_arrays_say_the_same_as_formulas():
    frame = data()
    by_formula = sparselmm.mixedlm(
        "y ~ x + (1 | g)", frame, residual="ar1(t | g)", dispersion="~ x"
    ).fit()
    by_arrays = sparselmm.MixedLM(
        frame.y, np.column_stack([np.ones(len(frame)), frame.x]), frame.g,
        residual={"structure": "ar1", "groups": frame.g, "times": frame.t}, dispersion=frame.x,
    ).fit()  # fmt: skip
    assert by_arrays.llf == pytest.approx(by_formula.llf, rel=1e-12)
    with pytest.raises(DataError, match="'structure'"):
        sparselmm.MixedLM(frame.y, np.ones(len(frame)), frame.g, residual="ar1(t | g)")
    with pytest.raises(DataError, match="unknown entry 'time'"):
        sparselmm.MixedLM(
            frame.y, np.ones(len(frame)), residual={"structure": "ar1", "time": frame.t}
        )


def test_rows_may_come_in_any_order():
    frame = data().iloc[np.random.default_rng(1).permutation(120)]
    for residual in ("ar1(t | g, by=arm)", "us(visit | g)", "toeph(t | g)", "adh(t | g)"):
        a = sparselmm.mixedlm("y ~ x", data(), residual=residual).fit()
        b = sparselmm.mixedlm("y ~ x", frame, residual=residual).fit()
        assert b.llf == pytest.approx(a.llf, rel=1e-9)


def test_mmrm_takes_one_structure():
    frame = data()
    fit = sparselmm.mmrm("y ~ x + us(visit | g)", frame)
    same = sparselmm.mixedlm("y ~ x", frame, residual="us(visit | g)").fit()
    assert fit.llf == same.llf
    with pytest.raises(FormulaError, match="0 covariance structures"):
        sparselmm.mmrm("y ~ x", frame)
    with pytest.raises(FormulaError, match="2 covariance structures"):
        sparselmm.mmrm("y ~ x + us(t | g) + cs(t | g)", frame)
    frame.loc[3, "y"] = np.nan
    assert sparselmm.mmrm("y ~ x + us(visit | g)", frame).nobs == 119


def test_weights_and_offset_combine():
    frame = data().assign(w=lambda d: 1.0 + d.t, o=lambda d: 2.0 * d.x)
    plain = sparselmm.mixedlm("y ~ x + (1 | g)", frame, residual="ar1(t | g)", weights="w").fit()
    moved = sparselmm.mixedlm(
        "y ~ x + (1 | g)", frame, residual="ar1(t | g)", weights="w", offset="o"
    ).fit()
    assert moved.llf == pytest.approx(plain.llf, rel=1e-9)
    assert moved.fe_params["x"] == pytest.approx(plain.fe_params["x"] - 2.0, rel=1e-6)


def test_random_slopes_far_from_their_origin():
    frame = data(60, 5).assign(year=lambda d: 2000.0 + d.t)
    formulas = ("y ~ x + (year | g)", "y ~ x + (t | g)")
    far, near = (
        sparselmm.mixedlm(formula, frame, dispersion="~ x").fit(reml=False) for formula in formulas
    )
    assert far.llf == pytest.approx(near.llf, abs=1e-5)
    assert far.residual_params().estimate.to_numpy() == pytest.approx(
        near.residual_params().estimate.to_numpy(), rel=1e-3, abs=1e-3
    )


def test_methods_of_the_model_that_hold_for_white_residuals_refuse_by_name():
    frame = data()
    model = sparselmm.mixedlm("y ~ x + (1 | g)", frame, residual="ar1(t | g)")
    fit = model.fit()
    calls = {
        "fit_regularized": lambda: model.fit_regularized(alpha=0.1),
        "get_distribution": lambda: model.get_distribution(fit.params, 1.0),
        "loglike": lambda: model.loglike([1.0]),
        "score": lambda: model.score([1.0]),
        "hessian": lambda: model.hessian(fit.params),
    }
    for name, call in calls.items():
        with pytest.raises(sparselmm.SparseLMMError, match=name):
            call()


@pytest.mark.parametrize(
    ("formula", "says"),
    [
        ("y ~ x - us(visit | g)", "subtracts us(visit|g)"),
        ("y ~ x + un(visit | g)", r"here it is us(visit | subject)"),
        ("y ~ x", "0 covariance structures"),
        ("y ~ us(visit | g) + cs(visit | g)", "2 covariance structures"),
    ],
)
def test_formulas_of_mmrm_without_one_structure(formula, says):
    with pytest.raises(FormulaError) as caught:
        sparselmm.mmrm(formula, data())
    assert says in str(caught.value)


@pytest.mark.parametrize("argument", ["covariance", "vcov", "ddf"])
def test_arguments_of_other_packages(argument):
    with pytest.raises(TypeError, match=r"has no argument .*; (write|tests|degrees)"):
        sparselmm.mmrm("y ~ x + us(visit | g)", data(), **{argument: "us"})


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"hom": "no"}, "True or False"),
        ({"nugget": "False"}, "True or False"),
        ({"structure": "AR(1)"}, "is unknown"),
        ({"structure": 1}, "is unknown"),
        ({"groups": "g"}, "one value per row"),
        ({"times": "t"}, "one value per row"),
        ({"time": 1}, "unknown entry"),
        ({"times": np.arange("2020", "2140", dtype="datetime64[Y]")}, "holds dates"),
    ],
)
def test_entries_of_an_array_structure(entries, says):
    frame = data()
    given = {"structure": "ar1", "groups": frame.g, "times": frame.t} | entries
    with pytest.raises((DataError, FormulaError, TypeError), match=says):
        sparselmm.MixedLM(frame.y, np.ones((len(frame), 1)), residual=given)


def test_variances_written_as_weights():
    with pytest.raises(FormulaError, match="dispersion='~ factor'"):
        sparselmm.mixedlm("y ~ x + (1 | g)", data(), weights="varIdent(form = ~ 1 | arm)")
