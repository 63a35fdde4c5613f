"""Joint tests do not depend on units, origins or codings, and count what counts."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import sparselmm
from sparselmm.inference.hypotheses.multiplicity import adjusted


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    n = 240
    frame = pd.DataFrame(
        {
            "g": np.repeat([f"g{i:02}" for i in range(24)], 10),
            "f": np.tile(list("abc"), 80),
            "x": rng.normal(size=n),
            "year": 2000.0 + rng.uniform(-10.0, 10.0, n),
        }
    )
    t = (frame.year - 2000.0) / 10.0
    frame["y"] = (
        frame.x + (frame.f == "b") + t - t**2 + t**3
        + rng.normal(size=24).repeat(10) + rng.normal(size=n)
    )  # fmt: skip
    return frame


def cubic(data, name):
    fit = sparselmm.mixedlm(f"y ~ {name} + I({name}**2) + I({name}**3) + (1 | g)", data).fit()
    return fit, f"{name} = 0, I({name} ** 2) = 0, I({name} ** 3) = 0"


@pytest.mark.parametrize("ddf", ["z", "satterthwaite", "kenward-roger"])
def test_a_polynomial_is_tested_as_a_whole_wherever_its_origin_is(data, ddf):
    near, wanted = cubic(data.assign(t=data.year - 2000.0), "t")
    far, given = cubic(data, "year")
    one, other = near.f_test(wanted, ddf=ddf), far.f_test(given, ddf=ddf)
    assert other.df_num == one.df_num == 3
    assert_allclose(other.statistic, one.statistic, rtol=1e-6)
    assert_allclose(other.df_denom, one.df_denom, rtol=1e-5)


@pytest.mark.parametrize("unit", [1e-10, 1e8, 1e12])
def test_wald_tests_do_not_depend_on_the_units_of_covariates(data, unit):
    plain = sparselmm.mixedlm("y ~ x + f + (1 | g)", data).fit()
    scaled = sparselmm.mixedlm("y ~ x + f + (1 | g)", data.assign(x=unit * data.x)).fit()
    for fit in (plain, scaled):
        test = fit.wald_test("x = 0, f[T.b] = 0")
        inner = fit.cov_params().iloc[:4, :4].loc[["x", "f[T.b]"], ["x", "f[T.b]"]]
        beta = fit.fe_params[["x", "f[T.b]"]]
        size = np.sqrt(np.diag(inner))
        by_hand = (beta / size) @ np.linalg.solve(inner / np.outer(size, size), beta / size)
        assert test.df_num == 2
        assert_allclose(test.statistic, by_hand, rtol=1e-10)
        own = fit.wald_test("x = 0, f[T.b] = 0", cov_p=fit.cov_params())
        assert_allclose(own.statistic, by_hand, rtol=1e-10)
    assert_allclose(test.statistic, plain.wald_test("x = 0, f[T.b] = 0").statistic, rtol=1e-7)


def test_dependent_hypotheses_count_once_beside_small_units(data):
    fit = sparselmm.mixedlm("y ~ x + f + (1 | g)", data.assign(x=1e10 * data.x)).fit()
    with pytest.warns(sparselmm.exceptions.ValueWarning, match="2 are independent"):
        test = fit.wald_test("x = 0, f[T.b] = 0, f[T.b] + 2e10 * x = 0")
    assert test.df_num == 2
    assert_allclose(test.statistic, fit.wald_test("x = 0, f[T.b] = 0").statistic, rtol=1e-9)


@pytest.mark.parametrize(
    "coded", ["f", "C(f, Treatment('b'))", "C(f, Sum)", "C(f, Helmert)", "C(f, Poly)", "0 + f"]
)
def test_differences_of_levels_do_not_depend_on_the_coding(data, coded):
    fit = sparselmm.mixedlm(f"y ~ {coded} + x + (1 | g)", data).fit()
    found = fit.t_test_pairwise(coded.removeprefix("0 + ")).result_frame
    by_levels = sparselmm.mixedlm("y ~ f + x + (1 | g)", data).fit()
    wanted = by_levels.emmeans("f").contrast("revpairwise", "none")
    assert list(found.index) == ["b-a", "c-a", "c-b"]
    assert_allclose(found["coef"], wanted["estimate"], rtol=1e-6)
    assert_allclose(found["std err"], wanted["SE"], rtol=1e-6)


@pytest.mark.parametrize("kind", ["CR0", "CR1", "CR2"])
def test_clusters_without_weight_are_no_clusters(data, kind):
    weights = np.where(data.g.isin(["g00", "g01", "g02"]), 0.0, 1.0)
    weighted = sparselmm.mixedlm("y ~ x + f + (1 | g)", data, weights=weights).fit()
    fewer = sparselmm.mixedlm("y ~ x + f + (1 | g)", data[weights > 0]).fit()
    assert_allclose(weighted.cov_robust(kind), fewer.cov_robust(kind), rtol=1e-6)


def test_sums_of_squares_of_drop1_are_those_of_anova(data):
    few = data[data.g < "g05"].iloc[::3].assign(f=list("aabbbccaabbcccabc"))
    fit = sparselmm.mixedlm("y ~ f + (1 | g)", few).fit()
    for ddf in ("satterthwaite", "kenward-roger"):
        one, other = fit.drop1("f", ddf).loc["f"], fit.anova(ddf=ddf).loc["f"]
        assert_allclose(one[["sum_sq", "mean_sq"]], other[["sum_sq", "mean_sq"]], rtol=1e-9)


def test_ranova_leaves_out_what_does_not_contain_an_intercept(data):
    bends = np.random.default_rng(5).normal(size=(24, 2)).repeat(10, axis=0)
    data = data.assign(y=data.y + bends[:, 0] * data.x + bends[:, 1] * data.x**2)
    table = sparselmm.mixedlm("y ~ x + (0 + poly(x, 2) | g)", data).fit().ranova()
    none = sparselmm.mixedlm("y ~ x + (0 + x | g)", data).fit().ranova().iloc[1]
    assert table.index[1] == "(0 + poly(x, 2) | g)"
    assert table.df.iloc[1] == 3
    assert_allclose(table.llf.iloc[1], none.llf, rtol=1e-9)


@pytest.mark.parametrize("coded", ["f", "C(f, Sum)", "C(f, Helmert)"])
def test_ranova_leaves_an_intercept_of_a_factor_however_it_is_coded(data, coded):
    more = np.random.default_rng(6).normal(size=(24, 3))
    data = data.assign(y=data.y + more[np.arange(240) // 10, np.arange(240) % 3])
    table = sparselmm.mixedlm(f"y ~ x + (0 + {coded} | g)", data).fit().ranova()
    intercept = sparselmm.mixedlm("y ~ x + (1 | g)", data).fit()
    assert table.df.iloc[1] == 5
    assert_allclose(table.llf.iloc[1], intercept.llf, rtol=1e-8)


def test_compare_has_no_test_where_fixed_effects_are_not_nested(data):
    def fit(formula, **options):
        return sparselmm.mixedlm(f"{formula} + (1 | g)", data, **options).fit(reml=False)

    with pytest.warns(sparselmm.exceptions.SpecificationWarning, match="no test for m2"):
        table = sparselmm.compare(fit("y ~ x"), fit("y ~ f")).table
    assert table.loc["m2", ["chisq", "df", "pvalue", "pvalue_boundary"]].isna().all()
    assert table.aic.notna().all()
    nested = {
        "another coding": (fit("y ~ f"), fit("y ~ C(f, Sum) + x")),
        "another origin": (fit("y ~ year"), fit("y ~ I(year - 2000) + x")),
        "an offset that is a column": (fit("y ~ offset(x)"), fit("y ~ x")),
    }
    for small, big in nested.values():
        table = sparselmm.compare(small, big).table
        assert_allclose(table.chisq.iloc[1], 2.0 * (big.llf - small.llf), rtol=1e-8)
        assert np.isfinite(table.pvalue.iloc[1])
    with pytest.warns(sparselmm.exceptions.SpecificationWarning, match="no test"):
        sparselmm.compare(fit("y ~ offset(x)"), fit("y ~ f"))


def test_compare_has_no_test_where_groups_are_others_or_the_larger_fit_is_worse(data):
    data = data.assign(h=np.tile([f"h{i}" for i in range(8)], 30), same="_" + data.g)
    moved = np.random.default_rng(2).normal(size=8)[np.arange(240) % 8]
    data["y"] += moved + moved[::-1] * data.x
    one = sparselmm.mixedlm("y ~ x + (1 | g)", data).fit()
    for other in ("(x | h)", "(1 | h) + (0 + x | h)"):
        with pytest.warns(sparselmm.exceptions.SpecificationWarning, match="no special case"):
            table = sparselmm.compare(one, sparselmm.mixedlm(f"y ~ x + {other}", data).fit()).table
        assert table.pvalue.isna().all()
    renamed = sparselmm.mixedlm("y ~ x + (1 | same) + (1 | h)", data).fit()
    assert sparselmm.compare(one, renamed).table.pvalue.iloc[1] < 1e-3


def test_compare_of_generalized_models_has_no_test_where_they_are_not_nested(data):
    rng = np.random.default_rng(8)
    eta = 0.3 * data.x + 0.5 * rng.normal(size=24).repeat(10)
    data = data.assign(count=rng.poisson(np.exp(eta)))

    def fit(formula):
        return sparselmm.mixedglm(f"{formula} + (1 | g)", data, family="poisson").fit()

    with pytest.warns(sparselmm.exceptions.SpecificationWarning, match="no special case"):
        table = sparselmm.compare(fit("count ~ x"), fit("count ~ f")).table
    assert table.pvalue.isna().all()
    assert np.isfinite(
        sparselmm.compare(fit("count ~ x"), fit("count ~ x + f")).table.pvalue.iloc[1]
    )


def test_anova_of_a_fit_with_an_array_as_offset_is_that_of_the_rest(data):
    offset = np.random.default_rng(9).normal(size=240)
    for kind in (1, 2, 3):
        one = sparselmm.mixedlm("y ~ f * x + (1 | g)", data, offset=offset).fit().anova(kind)
        rest = data.assign(y=data.y - offset)
        assert_allclose(one, sparselmm.mixedlm("y ~ f * x + (1 | g)", rest).fit().anova(kind))


@pytest.mark.parametrize(
    "method", ["holm", "bonferroni", "hochberg", "fdr_bh", "BY", "hs", "sidak"]
)
def test_adjustments_count_what_can_be_tested(method):
    p = np.array([0.02, np.nan, 0.004, 0.3])
    reject, found = adjusted(p, method, 0.05)
    assert_allclose(found[[0, 2, 3]], adjusted(p[[0, 2, 3]], method, 0.05)[1])
    assert np.isnan(found[1])
    assert not reject[1]


def test_means_that_do_not_exist_have_no_letters_and_no_part_in_joint_distributions(data):
    data = data[(data.f != "c") | (data.x < 0)]
    data = data.assign(k=np.where(data.x < 0, "p", "q"))
    with pytest.warns(sparselmm.exceptions.RankDeficiencyWarning):
        fit = sparselmm.mixedlm("y ~ f * k + (1 | g)", data).fit()
    means = fit.emmeans(["f", "k"])
    table = means.cld(adjust="none")
    assert (table.group[table.emmean.isna()] == "").all()
    assert (table.group[table.emmean.notna()] != "").all()
    assert table.emmean.isna().sum() == 1
    known = [i for i, value in enumerate(means.frame.emmean) if np.isfinite(value)]
    C = np.eye(6)[known[1:]] - np.eye(6)[known[0]]
    every = np.vstack([C, np.eye(6)[means.frame.emmean.isna()] - np.eye(6)[known[0]]])
    few, all_of = (means.contrast(weights, "mvt") for weights in (C, every))
    assert_allclose(all_of["p.value"][:-1], few["p.value"], rtol=1e-6)
    assert np.isnan(all_of["p.value"].iloc[-1])
