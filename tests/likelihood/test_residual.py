"""Residual covariance structures: the engine against the dense twin, and the reference fits."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from residual_fits import OVARY, data_of
from residual_random import judge
from scipy.signal import lfilter

import sparselmm
from sparselmm.design.residual import ResidualRows
from sparselmm.design.terms import Design, Levels, RandomTerm
from sparselmm.likelihood.curvature import difference_hessian
from sparselmm.likelihood.dense import DenseDeviance
from sparselmm.likelihood.multistart import minimize_globally
from sparselmm.likelihood.optimize import minimize
from sparselmm.likelihood.residual import deviance as room
from sparselmm.likelihood.residual.deviance import ResidualDeviance
from sparselmm.likelihood.residual.endless import endless
from sparselmm.likelihood.residual.identifiability import confounded_terms
from sparselmm.likelihood.residual.limits import at_a_limit
from sparselmm.likelihood.residual.markov import Markov
from sparselmm.likelihood.residual.structure import structure_of
from tests.support.residual_twin import dense_value

STRUCTURES = {
    "dispersion": ("", False),
    "ar1": ("ar1", False),
    "ar1 nugget": ("ar1", True),
    "car1": ("car1", False),
    "exp": ("exp", False),
    "exp in the plane": ("exp", True),
    "gau": ("gau", True),
    "cs": ("cs", False),
    "us": ("us", False),
    "toep": ("toep", False),
    "ad": ("ad", False),
}
EFFECTS = ("none", "intercept", "slope", "crossed", "slope crossed", "block")


def term(name: str, codes: np.ndarray, values: np.ndarray | None = None) -> RandomTerm:
    k = 1 if values is None else values.shape[1]
    levels = Levels((name,), (np.arange(codes.max() + 1),))
    return RandomTerm(
        name, "bar", tuple(f"c{i}" for i in range(k)), levels, codes=codes, values=values
    )


def make(
    structure: str, effects: str, dispersion: bool = True, strata: bool = False,
    weights: bool = False, seed: int = 0,
) -> Design:  # fmt: skip
    """Ten groups of up to seven visits with gaps, one of a single row."""
    kind, nugget = STRUCTURES[structure]
    rng = np.random.default_rng(seed)
    subject, visit = (part.ravel() for part in np.indices((12, 6)))
    keep = rng.random(len(subject)) > 0.15
    keep[subject == 3] = visit[subject == 3] == 2
    subject, visit = subject[keep], visit[keep]
    shuffled = rng.permutation(len(subject))
    subject, visit = subject[shuffled], visit[shuffled]
    n, item = len(subject), rng.integers(0, 5, len(subject))
    x = rng.normal(size=n)
    coords = visit[:, None].astype(float)
    if kind in ("car1", "exp", "gau"):
        coords = coords + rng.uniform(0.0, 0.6, (n, 2 if structure.endswith("plane") else 1))
    D = np.column_stack([x, visit > 2]).astype(float) if dispersion and kind != "us" else None
    stratum = subject % 2 if strata else np.zeros(n, int)
    rows = ResidualRows(
        kind, np.arange(n) if kind == "" else subject, np.arange(12), coords, visit,
        tuple("abcdef"), stratum, ("p", "q") if strata else (),
        np.zeros((n, 0)) if D is None else D, () if D is None else ("x", "late"), nugget,
    )  # fmt: skip
    terms = {
        "none": (),
        "intercept": (term("s", subject),),
        "slope": (term("s", subject, np.column_stack([np.ones(n), x])),),
        "crossed": (term("s", subject), term("i", item)),
        "slope crossed": (term("s", subject, np.column_stack([np.ones(n), x])), term("i", item)),
        "block": (
            term("s", subject),
            RandomTerm(
                "m", "array", ("m",), Levels(("m",), (np.arange(5),)),
                block=sp.csr_array(rng.integers(0, 2, (n, 5)) * rng.normal(size=(n, 5))),
            ),
        ),
    }[effects]  # fmt: skip
    y = 1.0 + x + rng.normal(size=12)[subject] + 0.5 * rng.normal(size=5)[item]
    y = y + rng.normal(size=n) * np.exp(0.2 * x)
    w = rng.uniform(0.5, 2.0, n) if weights else None
    X = np.column_stack([np.ones(n), x])
    return Design(
        y=y, X=X, x_names=("one", "x"), terms=terms, weights=w, residual=rows
    )  # fmt: skip


def somewhere(deviance: ResidualDeviance, seed: int) -> np.ndarray:
    """An interior point of (theta, phi)."""
    rng = np.random.default_rng(seed)
    theta = np.where(deviance.theta_covariance.on_diagonal, 0.8, 0.2)
    phi = deviance.phi_start
    return np.concatenate([theta, phi]) * rng.uniform(0.7, 1.2, len(theta) + len(phi))


def check(design: Design, reml: bool) -> None:
    """Value and gradient against the dense twin."""
    deviance = ResidualDeviance(design, reml=reml)
    x = somewhere(deviance, 1)
    assert deviance.value(x) == pytest.approx(dense_value(design, x, reml), rel=1e-10)
    numeric = np.empty(len(x))
    for i in range(len(x)):
        step = np.zeros(len(x))
        step[i] = 1e-4 * max(abs(x[i]), 0.5)
        ends = [dense_value(design, x + s * step, reml) for s in (1, -1, 2, -2)]
        numeric[i] = (8 * (ends[0] - ends[1]) - (ends[2] - ends[3])) / (12 * step[i])
    gradient = deviance.gradient(x)
    assert np.abs(gradient - numeric).max() < 1e-6 * max(1.0, np.abs(numeric).max())


@pytest.mark.parametrize("effects", EFFECTS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_value_and_gradient_are_those_of_the_dense_twin(structure, effects):
    check(make(structure, effects), reml=len(structure + effects) % 2 == 0)


@pytest.mark.parametrize("structure", ["ar1", "exp", "cs", "us", "toep", "ad"])
def test_strata_have_parameters_of_their_own(structure):
    check(make(structure, "crossed", strata=True), reml=True)


@pytest.mark.parametrize("structure", ["dispersion", "ar1", "us", "ad"])
def test_weights_divide_variances(structure):
    check(make(structure, "crossed", weights=True), reml=True)


@pytest.mark.parametrize("strata", [False, True])
@pytest.mark.parametrize("structure", ["ar1", "car1", "exp", "ad"])
def test_neighbours_alone_give_the_same_numbers(structure, strata, monkeypatch):
    design = make(structure, "slope crossed", weights=True, strata=strata)
    blocks = ResidualDeviance(design, reml=True)
    monkeypatch.setattr(room, "DENSE_PAIRS", 0)
    banded = ResidualDeviance(design, reml=True)
    assert isinstance(banded.backend, Markov)
    x = somewhere(blocks, 2)
    assert banded.value(x) == pytest.approx(blocks.value(x), rel=1e-12)
    g, H = blocks.tangent_model(x)
    other, model = banded.tangent_model(x)
    assert other == pytest.approx(g, rel=1e-9, abs=1e-9)
    first = blocks.theta_covariance.n_tangent
    assert model[:first] == pytest.approx(H[:first], rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("effects", EFFECTS[:4])
def test_model_hessian_is_average_information_plus_curvature(effects):
    """In the mean over data the model is the Hessian itself; here within a factor of a few."""
    deviance = ResidualDeviance(make("ar1", effects, dispersion=False), reml=True)
    opt = minimize(deviance, deviance.start())
    inner = ~opt.at_boundary
    H = deviance.hessian(opt.theta)[np.ix_(inner, inner)]
    model = deviance.newton_matrix(opt.theta)[np.ix_(inner, inner)]
    values = np.linalg.eigvals(np.linalg.solve(model, H)).real
    assert opt.converged
    assert (values > 0.2).all()
    assert (values < 4.0).all()


@pytest.mark.parametrize("strata", [False, True])
@pytest.mark.parametrize("reml", [True, False])
def test_the_exact_hessian_of_an_unstructured_covariance(reml, strata):
    """Against differences of the gradient, at an R that is no optimum; weights and gaps."""
    deviance = ResidualDeviance(make("us", "none", strata=strata, weights=True), reml=reml)
    x = somewhere(deviance, 4)
    differences = difference_hessian(deviance.gradient, x, np.maximum(deviance.units, np.abs(x)))
    assert deviance.hessian(x) == pytest.approx(
        differences, rel=1e-6, abs=1e-6 * np.abs(differences).max()
    )


def test_plain_rows_are_the_plain_model():
    """R = I: the deviance of the model without a structure."""
    design = make("ar1", "slope crossed", dispersion=False)
    deviance = ResidualDeviance(design, reml=True)
    theta = somewhere(deviance, 3)[: deviance.n_theta]
    plain = DenseDeviance(
        replace(design, residual=None), deviance.theta_covariance, reml=True
    ).value(theta)
    assert deviance.value(np.append(theta, 0.0)) == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize(("kind", "seed"), [("gau", 0), ("gau", 23), ("exp", 17), ("gau", 7)])
def test_a_nugget_has_several_minima(kind, seed):
    """Single searches end above the lowest minimum; a fit does not."""
    rng = np.random.default_rng(seed)
    g, t = (part.ravel() for part in np.indices((12, 5)))
    t = t + rng.uniform(0, 0.6, 60)
    y = rng.normal(size=60) + rng.normal(size=12)[g]
    frame = pd.DataFrame({"y": y, "g": g, "t": t, "x": rng.normal(size=60)})
    model = sparselmm.mixedlm("y ~ x + (1 | g)", frame, residual=f"{kind}(t | g, nugget=True)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = model.fit()
    deviance = ResidualDeviance(model.design, reml=True)
    ends = [
        minimize(deviance, np.array([0.5, log_range, share])).deviance
        for log_range in (-2.0, -1.0, 0.0, 1.0, 2.0)
        for share in (0.2, 0.9)
    ]
    assert fit.opt.converged
    assert fit.opt.deviance < min(ends) + 1e-6
    assert fit.opt.deviance < max(ends) - 0.1


def test_clear_fits_search_once():
    for structure in ("ar1", "cs", "car1", "exp"):
        deviance = ResidualDeviance(make(structure, "none", dispersion=False, seed=1), reml=True)
        found = minimize_globally(deviance, deviance.start(), seconds=1e-3)
        assert found.converged
        assert found.n_starts == 1


def test_solvers_that_share_a_factor_do_not_read_each_others():
    deviance = ResidualDeviance(make("ar1", "slope crossed"), reml=True)
    x = somewhere(deviance, 5)
    theta, phi = deviance.split(x)
    one = deviance.engine(phi)
    wanted = one.value(theta), one.gradient(theta)
    other = deviance.engine(phi + 0.2)
    other.value(theta)
    assert one.value(theta) == wanted[0]
    assert one.gradient(theta) == pytest.approx(wanted[1], rel=1e-12)


def test_one_long_series_keeps_no_matrix_of_its_rows():
    rng = np.random.default_rng(0)
    e = lfilter([1.0], [1.0, -0.6], rng.normal(size=12_000))
    frame = pd.DataFrame({"y": e, "t": np.arange(len(e)), "g": 0, "x": rng.normal(size=len(e))})
    fit = sparselmm.mixedlm("y ~ x", frame, residual="ar1(t | g)").fit()
    assert fit.residual_params().estimate["rho"] == pytest.approx(0.6, abs=0.03)


def test_what_a_sample_cannot_tell_apart_all_rows_may():
    """Two rows of an item rarely meet in a sample; the term is not confounded for that."""
    rng = np.random.default_rng(1)
    subject, trial = (part.ravel() for part in np.indices((150, 40)))
    item = rng.permutation(np.repeat(np.arange(3000), 2))
    y = rng.normal(size=6000) + rng.normal(size=150)[subject] + rng.normal(size=3000)[item]
    frame = pd.DataFrame({"y": y, "s": subject, "t": trial, "i": item})
    model = sparselmm.mixedlm("y ~ 1 + (1 | s) + (1 | i)", frame, residual="ar1(t | s)")
    assert confounded_terms(model.design) == ""


@pytest.mark.parametrize("effects", ["none", "intercept"])
@pytest.mark.parametrize("unit", [2, 30, 86_400])
def test_ar1_does_not_depend_on_the_unit_of_time(unit, effects):
    """``rho`` is the correlation one unit apart, however far apart the rows are."""
    one, other = (make("ar1", effects, dispersion=False, seed=1) for _ in range(2))
    rows = replace(other.residual, coords=unit * other.residual.coords)
    ends = []
    for design in (one, replace(other, residual=rows)):
        deviance = ResidualDeviance(design, reml=True)
        assert confounded_terms(design) == ""
        found = minimize_globally(deviance, deviance.start(), seconds=1e-3)
        assert found.converged
        rho = deviance.structure.natural(deviance.split(found.theta)[1], 1.0)[0]
        ends.append((found.deviance, rho))
    assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-9)
    assert ends[1][1] ** unit == pytest.approx(abs(ends[0][1]), abs=1e-4)


@pytest.mark.parametrize("structure", ["ar1", "ad", "toep"])
def test_correlations_at_the_limit_have_digits(structure):
    """Random slopes fill the directions that a singular R leaves empty."""
    design = make(structure, "slope crossed", dispersion=True)
    deviance = ResidualDeviance(design, reml=True)
    x = somewhere(deviance, 1)
    angles = deviance.n_theta + deviance.structure.a
    for limit in (0.5 * np.pi, -0.5 * np.pi):
        x[angles] = limit
        assert deviance.value(x) == pytest.approx(dense_value(design, x, True), rel=1e-7)
        assert deviance.rounding(x) < 1e-5
        gradient = deviance.gradient(x)
        assert gradient[angles] == pytest.approx(0.0, abs=1e-3)  # stationary in the angle
        for j in range(deviance.n_theta, angles):  # of the log standard deviations
            step = np.zeros(len(x))
            step[j] = 1e-4
            slope = (deviance.value(x + step) - deviance.value(x - step)) / 2e-4
            assert gradient[j] == pytest.approx(slope, abs=1e-2 + 1e-4 * abs(slope))


def test_strata_of_which_one_is_correlated():
    """Half of the groups have next to constant errors of their own, the others white ones."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        g, t = (part.ravel() for part in np.indices((16, 5)))
        t = t + rng.uniform(0.0, 0.7, 80)
        own = rng.normal(size=16)[g] + 0.1 * rng.normal(size=80)
        y = np.where(g % 2, 0.3 * rng.normal(size=80), own) + rng.normal(size=8)[g // 2]
        frame = pd.DataFrame({"y": y, "g": g, "t": t, "sub": g // 2, "arm": g % 2})
        model = sparselmm.mixedlm("y ~ 1 + (1 | sub)", frame, residual="exp(t | g, by=arm)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = model.fit()
        deviance = ResidualDeviance(model.design, reml=True)
        assert fit.opt.converged
        for ranges in ((4.0, -2.0), (-2.0, 4.0), (2.0, 2.0), (-1.0, -1.0)):
            end = minimize(deviance, np.array([1.0, 0.0, *ranges]))
            assert fit.opt.deviance < end.deviance + 1e-5


def _panel(groups, visits, seed):
    """Groups by visits with an item and a covariate."""
    rng = np.random.default_rng(seed)
    g, t = (part.ravel() for part in np.indices((groups, visits)))
    n = len(g)
    frame = pd.DataFrame({"g": g, "t": t, "x": rng.normal(size=n), "it": np.arange(n) % 4})
    frame["arm"] = np.where(g < groups // 2, "a", "b")
    frame["y"] = 0.5 * rng.normal(size=groups)[g] + rng.normal(size=n)
    return frame


def _fit_of(formula, frame, residual, reml, **words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sparselmm.mixedlm(formula, frame, residual=residual, **words).fit(reml=reml).opt


ENDLESS_FITS = {
    "as many visits as groups": ("y ~ x", (5, 5), "us(t | g)", True, 5),
    "what varies by visit": ("y ~ C(t) * x", (9, 6), "us(t | g)", False, 9),
    "one stratum": ("y ~ x", (24, 4), "us(t | g, by=arm)", True, 4),
    "random effects reproduce": ("y ~ x + (1 | it)", (9, 5), "us(t | g)", False, 9),
}
"""Formula, groups and visits, structure, REML, groups named."""


@pytest.mark.parametrize("name", ENDLESS_FITS)
def test_an_unstructured_covariance_of_too_few_groups(name):
    """A contrast of visits is fitted exactly: the fit says so and is not called converged."""
    formula, (groups, visits), residual, reml, named = ENDLESS_FITS[name]
    frame = _panel(groups, visits, 3)
    if name == "one stratum":
        frame = frame[(frame.arm == "a") | (frame.g >= groups - named)]
    opt = _fit_of(formula, frame, residual, reml)
    assert not opt.converged
    assert f"seen together in {named} groups" in opt.message
    assert "fewer parameters" in opt.message
    assert opt.n_evaluations < 40


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("groups", [8, 12])
def test_an_unstructured_covariance_of_just_enough_groups(groups, reml):
    """One group more than contrasts and fixed effects can reproduce, and the fit is a fit."""
    opt = _fit_of("y ~ x", _panel(groups, 5, 4), "us(t | g)", reml)
    assert opt.converged
    assert opt.gradient_norm < 1e-3


def test_a_local_maximum_that_all_groups_decide_on():
    """Three of 60 groups have all five visits: R may lose its rank there alone, and need not."""
    frame = _panel(60, 5, 8)
    frame = frame[(frame.t != frame.g % 5) | (frame.g < 3)]
    opt = _fit_of("y ~ x", frame, "us(t | g)", True)
    assert opt.converged
    assert "seen together in 3 groups" in opt.message
    assert "local maximum" in opt.message


def test_unstructured_is_bounded_where_reml_takes_the_directions_out():
    """Two groups have the last visits: their contrast is fitted, and REML does not reward it."""
    frame = _panel(30, 3, 5)
    frame = frame[(frame.t < 2) | (frame.g < 2)]
    assert not _fit_of("y ~ x", frame, "us(t | g)", False).converged
    opt = _fit_of("y ~ x", frame, "us(t | g)", True)
    assert "seen together" not in opt.message


@pytest.mark.parametrize("effects", ["", " + (1 | it)"])
def test_neighbouring_visits_of_two_groups(effects):
    """With ante-dependence two groups say nothing of a correlation that three effects reproduce."""
    frame = _panel(20, 4, 6)
    frame = frame[(frame.t < 3) | (frame.g < 2)]
    opt = _fit_of(f"y ~ x + C(t){effects}", frame, "ad(t | g)", False)
    assert not opt.converged
    assert "corr(3,4) goes to" in opt.message
    assert "rises without end" in opt.message


def test_an_end_at_several_limits_says_so():
    """Which of them the likelihood would take is open."""
    rows = make("ad", "none").residual
    structure = structure_of(rows)
    phi = np.full(structure.n, 0.5)
    assert at_a_limit(structure, phi) == ""
    phi[structure.a] = 0.5 * np.pi
    assert "stands at the limit" in at_a_limit(structure, phi)
    phi[structure.a + 1] = -0.5 * np.pi
    assert "other combinations of limits" in at_a_limit(structure, phi)


@pytest.mark.parametrize("structure", ["ad", "toep", "ar1", "cs"])
def test_well_told_correlations_rise_to_no_end(structure):
    frame = _panel(40, 4, 7)
    opt = _fit_of("y ~ x + C(t)", frame, f"{structure}(t | g)", False)
    assert opt.converged
    assert opt.n_starts == 1
    assert opt.n_evaluations <= 8


@pytest.mark.parametrize(
    ("residual", "effects"),
    [
        ("ar1(place | Mare, nugget=True)", ""),
        ("exp(Time | Mare, nugget=True)", ""),
        ("car1(Time | Mare, nugget=True)", " + (1 | Mare)"),
    ],
)
def test_nuggets_of_many_rows_are_found_soon(residual, effects):
    """Moments start the search, and two other starts that return to its end are proof."""
    formula = OVARY + effects
    opt = _fit_of(formula, data_of("Ovary"), residual, True)
    first = [one for one in opt.history if one.search == 0]
    assert opt.converged
    assert len(first) <= 8
    assert opt.n_evaluations <= 20
    many = sparselmm.mixedlm(formula, data_of("Ovary"), residual=residual).fit(starts=12)
    assert many.opt.deviance == pytest.approx(opt.deviance, abs=1e-6)


@pytest.mark.parametrize("kind", ["ar1", "exp", "gau"])
def test_where_a_search_of_range_and_nugget_starts(kind):
    """Moments of residuals of many groups are near what made them."""
    rng = np.random.default_rng(5)
    G, T, share = 400, 8, 0.4
    t = np.tile(np.arange(T), G) + (0.0 if kind == "ar1" else rng.uniform(0.0, 0.5, G * T))
    frame = pd.DataFrame({"g": np.repeat(np.arange(G), T), "t": t})
    lag = np.abs(t.reshape(G, T, 1) - t.reshape(G, 1, T)) / 3.0
    C = (1.0 - share) * np.exp(-(lag**2) if kind == "gau" else -lag) + share * np.eye(T)
    frame["y"] = (np.linalg.cholesky(C) @ rng.normal(size=(G, T, 1))).ravel()
    model = sparselmm.mixedlm("y ~ 1", frame, residual=f"{kind}(t | g, nugget=True)")
    deviance = ResidualDeviance(model.design, reml=True)
    correlation = deviance.structure.correlation
    first, nugget = correlation.natural(deviance.phi_start)
    assert first == pytest.approx(np.exp(-1.0 / 3.0) if kind == "ar1" else 3.0, rel=0.3)
    assert nugget == pytest.approx(share, abs=0.1)


def test_the_curvature_at_a_zero_variance_beside_another_r():
    """What the evaluation before told of it holds at the next phi."""
    design = make("ar1", "crossed")
    deviance = ResidualDeviance(design, reml=True)
    x = somewhere(deviance, 2)
    x[0] = 1e-3
    deviance.tangent_model(x)
    x[0] = 0.0
    x[-1] += 1e-3
    model, exact = deviance.newton_matrix(x), deviance.hessian(x)
    assert abs(exact[0, 0]) > 1.0
    assert model[0, 0] == pytest.approx(exact[0, 0], rel=0.01)


def test_a_singular_covariance_of_visits_beside_random_effects():
    """Random intercepts, told apart by weights, take what `us` leaves: a stationary point."""
    rng = np.random.default_rng(0)
    frame = _panel(60, 2, 11)
    both = rng.normal(size=60)[frame.g] * np.where(frame.t == 0, 1.0, 0.4)
    w = rng.uniform(0.3, 3.0, len(frame))
    frame["y"] = both / np.sqrt(w) + rng.normal(size=60)[frame.g]
    opt = _fit_of("y ~ x + (1 | g)", frame, "us(t | g)", False, weights=w)
    assert opt.converged
    assert sum(one.search == 0 for one in opt.history) <= 20


def test_a_covariance_of_visits_that_loses_its_rank_without_end():
    """A contrast that the fixed effects reproduce in every group, at the last R that has digits."""
    frame = _panel(40, 3, 12)
    frame["y"] = np.where(frame.t == 2, frame.y.to_numpy()[frame.g * 3 + 1], frame.y)
    model = sparselmm.mixedlm("y ~ 1", frame, residual="us(t | g)")
    deviance = ResidualDeviance(model.design, reml=False)
    structure = deviance.structure
    L = np.array([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [0.2, 1.0, 0.0]])
    phi = L[structure.r, structure.c]
    assert "rises without end as the covariance of the visits" in endless(
        deviance, structure, phi, 0
    )
    assert "is singular" in at_a_limit(structure, phi)
    assert at_a_limit(structure, structure.start()) == ""


def test_effects_that_reproduce_every_response():
    """They do whatever R is: nothing is searched for."""
    frame = _panel(4, 3, 13)
    frame["it"] = np.arange(len(frame)) % 9
    opt = _fit_of("y ~ x + C(t) + (x || it)", frame, "gau(t | g)", False)
    assert not opt.converged
    assert "reproduce every response" in opt.message
    assert opt.n_starts == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [94, 129])
@pytest.mark.filterwarnings("ignore")
def test_random_models_with_a_singular_covariance_of_visits(number):
    assert judge(number).what == "right"


@pytest.mark.slow
@pytest.mark.parametrize("number", [158, 297, 358])
@pytest.mark.filterwarnings("ignore")  # they end at limits
def test_random_models_whose_best_end_is_at_another_limit(number):
    """`ad` and `toep`: correlations nearer to one than where searches started before."""
    assert judge(number).what == "right"


@pytest.mark.slow
@pytest.mark.parametrize("number", [15, 41, 72])
@pytest.mark.filterwarnings("ignore")
def test_random_models_whose_likelihood_rises_without_end(number):
    """An `ad` beside random intercepts found at another limit before, and two `us`."""
    assert judge(number).what == "endless"


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 20, 40])
@pytest.mark.filterwarnings("ignore")  # fits at limits say so
def test_random_models_against_textbook_searches_from_many_starts(first):
    """`python tests/support/residual_random.py 0 300` looks at more of them."""
    verdicts = [judge(number) for number in range(first, first + 12)]
    assert not [(v.number, v.what, v.detail) for v in verdicts if v.wrong]
    assert sum(v.what == "right" for v in verdicts) >= 6
