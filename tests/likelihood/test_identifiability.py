"""Variances that cannot be told apart are said to be so; others are not."""

import numpy as np
import pytest
from penalties import Ridge

import sparselmm
from sparselmm import MixedLM
from sparselmm.datasets import load


@pytest.fixture(scope="module")
def data():
    days = load("sleepstudy")
    return days.assign(
        T="t" + days.Subject.astype(str), d2=2.0 * days.Days + 1.0, one=1.0, half=0.5 * days.Days
    )


@pytest.mark.parametrize(
    ("bars", "named"),
    [
        ("(1 | Subject) + (1 | T)", "'Subject' and 'T'"),
        ("(1 | Subject) + (1 | T) + (0 + Days | Subject)", "'Subject' and 'T'"),
        ("(Days + d2 | Subject)", "'Subject'"),
        ("(0 + Days + half | Subject)", "'Subject'"),
        ("(1 | Subject) + (0 + one | Subject)", "'Subject' and 'Subject.1'"),
    ],
)
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.filterwarnings("ignore::sparselmm.BoundaryWarning")  # where a flat search ends
def test_confounded_variances_are_named(data, bars, named, reml):
    model = MixedLM.from_formula(f"Reaction ~ Days + {bars}", data)
    with pytest.warns(sparselmm.IdentifiabilityWarning, match=f"{named}.*cannot be told apart"):
        result = model.fit(reml=reml)
    assert np.isnan(result.bse_re.iloc[:2]).all()


def test_weights_that_leave_a_row_per_level(data):
    weights = np.where(data.Days == 3, 1.0, 0.0)
    model = MixedLM.from_formula("Reaction ~ 1 + (1 | Subject)", data, weights=weights)
    with pytest.raises(sparselmm.DataError, match="18 levels for 18 rows of positive weight"):
        model.fit()


def test_weights_that_leave_one_level(data):
    weights = np.where(data.Subject == data.Subject.iloc[0], 1.0, 0.0)
    model = MixedLM.from_formula("Reaction ~ Days + (1 | Subject)", data, weights=weights)
    with pytest.raises(sparselmm.DataError, match="only one level with rows of positive weight"):
        model.fit()


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("origin", [2000.0, 1e5, 1e7, 1e8])
def test_inference_does_not_depend_on_origins(data, origin, reml):
    moved = data.assign(Days=data.Days + origin)
    one = MixedLM.from_formula("Reaction ~ Days + (Days | Subject)", data).fit(reml=reml)
    other = MixedLM.from_formula("Reaction ~ Days + (Days | Subject)", moved).fit(reml=reml)
    assert other.converged
    share = 1e-15 * origin  # rounding of a covariate this far away, as a share of its range
    assert other.llf == pytest.approx(one.llf, abs=1e-8 + 10.0 * share)
    near = {"rel": 1e-8 + 10.0 * share}
    assert other.fe_params["Days"] == pytest.approx(one.fe_params["Days"], **near)
    assert other.bse_fe["Days"] == pytest.approx(one.bse_fe["Days"], **near)
    assert other.cov_re.iloc[1, 1] == pytest.approx(one.cov_re.iloc[1, 1], rel=1e-6)
    found = [
        fit.get_prediction(rows.iloc[[0, 3]], re=True, ddf="satterthwaite")
        for fit, rows in ((one, data), (other, moved))
    ]
    np.testing.assert_allclose(found[1].se_mean, found[0].se_mean, rtol=1e-6)
    np.testing.assert_allclose(found[1].df_mean, found[0].df_mean, rtol=1e-4)


@pytest.mark.parametrize("bars", ["(1 | Subject) + (0 + zero | Subject)", "(zero | Subject)"])
def test_a_random_coefficient_that_is_zero_is_named(data, bars):
    model = MixedLM.from_formula(f"Reaction ~ Days + {bars}", data.assign(zero=0.0))
    with (
        pytest.warns(sparselmm.IdentifiabilityWarning, match="'zero' of 'Subject.*' is zero in"),
        pytest.warns(sparselmm.BoundaryWarning),
    ):
        result = model.fit()
    assert "is zero in every row" in str(result.summary())


def test_zero_matrices_and_covariates_are_named(data):
    X = np.column_stack([np.ones(len(data)), data.Days])
    for given in ({"exog_re": np.zeros((len(data), 1))}, {"z_terms": {"z": np.zeros((180, 3))}}):
        model = MixedLM(data.Reaction, X, groups=data.Subject, **given)
        with (
            pytest.warns(sparselmm.IdentifiabilityWarning, match="is zero in every row"),
            pytest.warns(sparselmm.BoundaryWarning),
        ):
            model.fit()


@pytest.mark.parametrize(
    "given",
    [
        {"re_formula": "1", "vc_formula": {"a": "1"}},
        {"re_formula": "0", "vc_formula": {"a": "1", "b": "0 + one"}},
    ],
)
def test_confounded_components(data, given):
    model = MixedLM.from_formula("Reaction ~ Days", data, groups="Subject", **given)
    with pytest.warns(sparselmm.IdentifiabilityWarning, match="cannot be told apart"):
        result = model.fit()
    assert "cannot be told apart" in str(result.summary())


def test_confounded_matrices_and_known_covariances(data):
    X = np.column_stack([np.ones(len(data)), data.Days])
    subjects = data.Subject.to_numpy()
    Z = (subjects[:, None] == np.unique(subjects)).astype(float)
    with pytest.warns(sparselmm.IdentifiabilityWarning, match="'Group' and 'z'"):
        MixedLM(data.Reaction, X, groups=data.Subject, z_terms={"z": Z}).fit()
    known = sparselmm.KnownCovariance(np.eye(18), labels=sorted(data["T"].unique()))
    model = MixedLM.from_formula(
        "Reaction ~ Days + (1 | Subject) + (1 | T)", data, covariance={"T": known}
    )
    with pytest.warns(sparselmm.IdentifiabilityWarning, match="'Subject' and 'T'"):
        model.fit()


def test_a_correlation_of_two_visits_and_a_level(data):
    two = data[data.Days < 2].assign(visit=lambda d: d.Days.astype(int))
    formula = "Reaction ~ Days + ar1(0 + C(visit) | Subject) + (1 | Subject)"
    with pytest.warns(sparselmm.IdentifiabilityWarning, match="cannot be told apart"):
        MixedLM.from_formula(formula, two).fit()


def test_many_responses_of_a_confounded_model(data):
    model = MixedLM.from_formula("Reaction ~ Days + (1 | Subject) + (1 | T)", data)
    rng = np.random.default_rng(1)
    Y = data.Reaction.to_numpy()[:, None] + rng.normal(size=(180, 3))
    with pytest.warns(sparselmm.IdentifiabilityWarning, match="'Subject' and 'T'"):
        model.fit_many(Y)
    MixedLM.from_formula("Reaction ~ Days + (1 | Subject)", data).fit_many(Y)


def test_penalties_do_not_hide_it(data):
    model = MixedLM.from_formula("Reaction ~ Days + (1 | Subject) + (1 | T)", data)
    with (
        pytest.warns(sparselmm.IdentifiabilityWarning, match="'Subject' and 'T'"),
        pytest.warns(sparselmm.BoundaryWarning),
    ):
        model.fit(fe_pen=Ridge())
