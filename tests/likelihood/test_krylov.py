"""Searches on probes: their ends against exact ones, their errors, the exact finish."""

import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from support.krylov_cases import CASES, scalar, slopes
from support.random_models import draw

from sparselmm import exceptions
from sparselmm.factor import candidates
from sparselmm.factor.krylov.solver import KrylovSolver
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.model.mixedlm import MixedLM

pytestmark = pytest.mark.filterwarnings("ignore:The MLE may be on the boundary")


def model_of(case):
    make, formula, keywords = CASES[case]
    return MixedLM.from_formula(formula, make(), **keywords)


def standard_errors(opt):
    """Of theta off the boundary; NaN on it."""
    inner = ~opt.at_boundary
    out = np.full(len(inner), np.nan)
    out[inner] = np.sqrt(2.0 * np.diag(np.linalg.inv(opt.hessian[np.ix_(inner, inner)])))
    return out


@pytest.mark.parametrize("reml", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.parametrize("case", CASES)
def test_theta_within_its_stated_error(case, reml):
    model = model_of(case)
    exact = model.fit(reml=reml, engine="sparse", tol=1e-13)
    own = model.fit(reml=reml, engine="krylov")
    assert own.converged
    assert own.opt.mc_error <= 0.01
    assert np.array_equal(own.opt.at_boundary, exact.opt.at_boundary)
    off = np.abs(own.theta - exact.theta) / standard_errors(exact.opt)
    assert np.nanmax(off) < 4.0 * own.opt.mc_error + 1e-3  # the search ends 3e-4 before the zero
    assert abs(own.llf - exact.llf) < 5.0 * own.llf_mc_se + 1e-5
    np.testing.assert_allclose(own.fe_params, exact.fe_params, atol=2e-4)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_finish_is_exact(case, reml):
    model = model_of(case)
    exact = model.fit(reml=reml, engine="sparse", tol=1e-13)
    own = model.fit(reml=reml, engine="krylov", finish="exact")
    assert own.converged
    assert own.opt.deviance == pytest.approx(exact.opt.deviance, abs=1e-9)
    assert own.deviance.value(own.theta) == pytest.approx(exact.opt.deviance, abs=1e-9)
    np.testing.assert_allclose(own.theta, exact.theta, atol=2e-5)
    np.testing.assert_allclose(own.b, exact.b, atol=1e-4)
    np.testing.assert_allclose(own.bse_fe, exact.bse_fe, rtol=1e-5)
    assert own.opt.probes == 0
    assert own.llf_mc_se == 0.0
    assert type(own.deviance) is type(exact.deviance)


@pytest.mark.parametrize("case", ["zero_slope", "slopes"])
def test_a_certified_value_is_that_of_its_theta(case):
    """Also where the way from the exact evaluation to the end is long."""
    model = model_of(case)
    for seed in range(4):
        own = model.fit(engine="krylov", finish="exact", seed=seed)
        assert own.opt.deviance == pytest.approx(own.deviance.value(own.theta), abs=3e-10)


def test_an_exact_value_alone():
    model = model_of("slopes")
    exact = model.fit(engine="sparse", tol=1e-13)
    own = model.fit(engine="krylov", finish="value")
    assert own.opt.probes > 0
    assert own.llf_mc_se == 0.0
    assert 0.0 <= own.opt.deviance - exact.opt.deviance < 10.0 * own.opt.mc_error**2 + 1e-6
    assert own.llf == -0.5 * own.opt.deviance


def test_known_sigma_and_covariances():
    model = model_of("slopes")
    psi = {"ratio": [[0.5, 0.1], [0.1, 0.2]]}
    for fix in ({"sigma": 1.0}, {"f": psi}, {"sigma": 1.1, "f": psi}):
        exact = model.fit(engine="sparse", fix=fix, tol=1e-13)
        own = model.fit(engine="krylov", fix=fix)
        off = np.abs(own.theta - exact.theta) / standard_errors(exact.opt)
        assert off.max() < 4.0 * own.opt.mc_error + 1e-3
        done = model.fit(engine="krylov", fix=fix, finish="exact")
        assert done.opt.deviance == pytest.approx(exact.opt.deviance, abs=1e-9)


@pytest.mark.parametrize("case", ["scalar", "slopes"])
def test_average_information_is_exact(case):
    model = model_of(case)
    theta = np.where(model.covariance.on_diagonal, 0.5, 0.1)
    own, exact = (model.deviance(engine=engine) for engine in ("krylov", "sparse"))
    inner, whole = own.working(theta)[0], exact.working(theta)[0]
    near = inner.average_information(inner.state_at(theta))
    want = whole.average_information(whole.state_at(theta))
    np.testing.assert_allclose(near, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.mark.slow
@pytest.mark.parametrize("case", ["scalar", "slopes", "three", "weights"])
def test_errors_of_theta_are_honest(case):
    """Distances from the exact optimum over what is stated: no more than a bound allows."""
    model = model_of(case)
    exact = model.fit(engine="sparse", tol=1e-13)
    H = exact.opt.hessian
    ratios = []
    for seed in range(50):
        own = model.fit(engine="krylov", seed=seed, mc_tolerance=1.0, tol=1e-10)
        step = own.theta - exact.theta
        ratios.append(np.sqrt(0.5 * step @ H @ step) / own.opt.mc_error)
    # mc_error belongs to the worst direction; several directions add up
    assert 0.3 < np.sqrt(np.mean(np.square(ratios))) < 1.3 * np.sqrt(len(H))


@pytest.mark.parametrize("seed", [3, 5, 9, 10])
def test_small_factors_with_slopes_beside_a_large_one(seed):
    """All that iterations leave of what the small factors' own space has solved is rounding."""
    rng, n = np.random.default_rng(seed), 1500
    x, single = rng.normal(size=n), rng.random(n) < 0.5
    g = np.where(single, np.arange(n) + 100, rng.integers(0, 80, n))
    h, k = rng.integers(0, 18, n), rng.integers(0, 12, n)
    y = rng.normal(size=n)
    for codes, sd in ((h, 0.8), (k, 0.5)):
        effects = rng.normal(size=(18, 2)) * [2.0, sd]
        y += effects[codes, 0] + effects[codes, 1] * x
    data = pd.DataFrame({"y": y, "x": 50 + 10 * x, "g": g, "h": h, "k": k})
    model = MixedLM.from_formula("y ~ x + (x | h) + (x | k) + (x || g)", data)
    fit, exact = model.fit(engine="krylov"), model.fit(engine="sparse")
    assert abs(fit.llf - exact.llf) < 5.0 * fit.llf_mc_se + 1e-5


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("number", [48, 115, 217, 323])
def test_few_levels_have_several_minima_and_the_lowest_is_found(number):
    """Random models on which one search on its own ended higher by 0.07 to 24."""
    drawn = draw(number)
    model = MixedLM.from_formula(drawn.formula, drawn.data, **drawn.keywords)
    exact = model.fit(reml=drawn.reml, engine="sparse")
    own = model.fit(reml=drawn.reml, engine="krylov")
    assert own.converged
    assert own.opt.n_starts > 1
    assert own.opt.deviance < exact.opt.deviance + 1e-4


def test_on_the_way_few_probes_are_enough(monkeypatch):
    model = model_of("scalar")
    asked, traced = [], KrylovSolver.traced

    def counted(self):
        asked.append(self.settings)
        return traced(self)

    monkeypatch.setattr(KrylovSolver, "traced", counted)
    far = model.fit(engine="krylov", start_theta=[3.0, 3.0])
    probes = [settings.probes for settings in asked]
    assert probes[0] == 4
    assert probes == sorted(probes)
    assert far.opt.probes == probes[-1] == 16
    near = model.fit(engine="krylov", seed=0)
    np.testing.assert_allclose(far.theta, near.theta, atol=1e-4)


def test_same_seed_same_fit_and_another_one():
    model = model_of("slopes")
    first, again, other = (model.fit(engine="krylov", seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.theta, again.theta)
    assert first.llf == again.llf
    assert not np.array_equal(first.theta, other.theta)


THREADS = """
import numpy as np, sys
sys.path.insert(0, "tests")
from support.krylov_cases import CASES, scalar, slopes
from support.random_models import draw
from sparselmm.model.mixedlm import MixedLM
make, formula, keywords = CASES["slopes"]
fit = MixedLM.from_formula(formula, make(n=20000), **keywords).fit(engine="krylov")
print(fit.theta.tobytes().hex(), fit.llf.hex())
"""


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits():
    seen = set()
    for threads in ("1", "3"):
        env = {**os.environ, "NUMBA_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", THREADS], env=env, capture_output=True, text=True, check=True
        )
        seen.add(run.stdout)
    assert len(seen) == 1


def test_probes_are_added_until_the_error_is_small():
    model = model_of("nested")
    own = model.fit(engine="krylov", mc_tolerance=0.002, probes=8)
    assert own.opt.probes > 8
    assert own.opt.mc_error <= 0.002
    assert own.converged
    with pytest.warns(exceptions.ConvergenceWarning, match="Monte Carlo error of theta"):
        worse = model.fit(engine="krylov", mc_tolerance=1e-4)
    assert not worse.converged


def test_summary_states_the_error():
    own = model_of("scalar").fit(engine="krylov")
    assert "Monte Carlo error: at most" in str(own.summary())
    assert own.llf_mc_se == 0.5 * own.opt.mc_deviance > 0.0
    assert np.isfinite([one.deviance for one in own.opt.history]).all()
    assert own.opt.history[-1].deviance == pytest.approx(own.opt.deviance)


def test_a_pickled_fit_answers_alike():
    own = model_of("scalar").fit(engine="krylov")
    other = pickle.loads(pickle.dumps(own))
    np.testing.assert_allclose(other.deviance.value(own.theta), own.opt.deviance, rtol=1e-9)


@pytest.mark.parametrize(
    ("formula", "keywords", "said"),
    [
        ("y ~ x + (1|f)", {}, "two or more random-effects terms"),
        ("y ~ x + cs(1 + x | f) + (1|g)", {}, "covariance structure of 'f'"),
        ("y ~ x + (1|f) + (1|g)", {"starts": 3}, "does not go together with starts"),
        ("y ~ x + (1|f) + (1|g)", {"method": "bfgs"}, "does not go together with method"),
        ("y ~ x + (1|f) + (1|g)", {"do_cg": False}, "do_cg=False"),
        ("y ~ x + (x|f) + (1|g)", {"fix": {"theta": [0.5, np.nan, np.nan, np.nan]}}, "'f' is held"),
        (
            "y ~ x + (1|f) + (1|g)",
            {"fix": {"f": {"ratio": [[0.1]]}, "g": {"ratio": [[0.1]]}}},
            "every covariance is held",
        ),
    ],
)
def test_what_does_not_apply_is_refused_by_name(formula, keywords, said):
    model = MixedLM.from_formula(formula, CASES["scalar"][0]())
    with pytest.raises(exceptions.ArgumentError, match=said):
        model.fit(engine="krylov", **keywords)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(**keywords)  # auto: the exact engine


@pytest.mark.parametrize("reml", [True, False])
def test_terms_that_cannot_be_told_apart(reml):
    data = scalar(1).assign(f2=lambda d: d.f)
    model = MixedLM.from_formula("y ~ x + (1|f) + (1|g) + (1|f2)", data)
    named = (exceptions.IdentifiabilityWarning, exceptions.BoundaryWarning)
    with pytest.warns(named, match="f2"):  # a flat search ends where f2 is zero, or before
        own = model.fit(reml=reml, engine="krylov", finish="exact")
    with pytest.warns(exceptions.IdentifiabilityWarning):
        exact = model.fit(reml=reml, engine="sparse", tol=1e-13)
    assert own.converged
    assert own.opt.deviance == pytest.approx(exact.opt.deviance, abs=1e-9)


@pytest.fixture
def dear(monkeypatch):
    """A machine on which exact evaluations cost a thousand times as much."""
    monkeypatch.setattr(candidates, "RATE", {k: v / 1e5 for k, v in candidates.RATE.items()})


def test_auto_searches_by_probes_where_exact_evaluations_are_dear(dear, monkeypatch):
    model = model_of("scalar")
    plan = model.plan()
    assert plan.route == "certified"
    assert "these search, and one exact evaluation finishes" in str(plan)
    asked = []
    whole = ProfiledDeviance._gamma_blocks

    def counted(self, state):
        asked.append(state)
        return whole(self, state)

    monkeypatch.setattr(ProfiledDeviance, "_gamma_blocks", counted)
    own = model.fit(finish="exact")
    assert len(asked) == 1
    assert own.converged
    exact = model.fit(engine="sparse", tol=1e-13)
    assert own.opt.deviance == pytest.approx(exact.opt.deviance, abs=1e-9)


def test_an_exact_value_is_enough_where_probes_tell_the_gradient_as_well(dear, monkeypatch):
    model = MixedLM.from_formula("y ~ x + (1|f) + (1|g)", scalar(9, 60000, 1000, 600))
    exact = model.fit(engine="sparse", tol=1e-13)
    monkeypatch.setattr(ProfiledDeviance, "_gamma_blocks", None)
    own = model.fit()
    assert own.converged
    assert 0.0 < own.opt.mc_error < 5e-6
    assert own.llf_mc_se == 0.0
    assert own.opt.deviance == pytest.approx(exact.opt.deviance, abs=1e-9)
    off = np.abs(own.theta - exact.theta) / standard_errors(exact.opt)
    assert off.max() < 5.0 * own.opt.mc_error
    assert own.deviance.value(own.theta) == own.opt.deviance  # its factor is at hand


@pytest.mark.parametrize(
    ("data", "formula", "probes"),
    [
        (scalar(10, 60000, 2000, 1500), "(1|f) + (1|g)", 16),
        (slopes(10, 60000, 1000, 600), "(x|f) + (x|g)", 64),
    ],
)
def test_traces_exact_to_second_order_spare_the_exact_gradient(
    dear, monkeypatch, data, formula, probes
):
    """Where the probes of the search leave many times what is wanted."""
    model = MixedLM.from_formula(f"y ~ x + {formula}", data)
    exact = model.fit(engine="sparse", tol=1e-13)
    rough = model.fit(engine="krylov")
    monkeypatch.setattr(ProfiledDeviance, "_gamma_blocks", None)
    own = model.fit()
    assert own.converged
    assert own.opt.probes <= probes
    assert 0.0 < own.opt.mc_error < 5e-6 < 0.2 * rough.opt.mc_error
    assert own.opt.deviance == pytest.approx(exact.opt.deviance, abs=1e-9)
    off = np.abs(own.theta - exact.theta) / standard_errors(exact.opt)
    assert off.max() < 5.0 * own.opt.mc_error


@pytest.mark.slow
def test_auto_is_krylov_where_no_factor_fits():
    model = MixedLM.from_formula("y ~ x + (1|f) + (1|g)", CASES["scalar"][0](8, 40000, 6000, 4000))
    limit = 60_000_000
    plan = model.plan(limit)
    assert plan.fitting is None
    assert plan.route == "krylov"
    assert "No factorization fits in memory" in str(plan)
    own = model.fit(memory_limit=limit)
    assert own.opt.probes >= 16
    with pytest.raises(exceptions.MemoryLimitError):
        model.fit(memory_limit=limit, engine="sparse")
    with pytest.raises(exceptions.MemoryLimitError, match="conjugate gradients"):
        model.fit(memory_limit=1_000_000, engine="krylov")


def test_chains_are_left_to_the_factor():
    """Workers who move to the next firm: hundreds of iterations, and a factor that stays sparse."""
    rng = np.random.default_rng(0)
    workers, firms = 4000, 1000
    at = np.sort(rng.integers(0, firms, workers))
    then = np.where(rng.random(workers) < 0.3, (at + 1) % firms, at)
    f, g = np.repeat(np.arange(workers), 6), np.stack([at] * 3 + [then] * 3, axis=1).ravel()
    y = 2.0 * rng.normal(size=workers)[f] + 2.0 * rng.normal(size=firms)[g]
    data = {"y": y + 0.2 * rng.normal(size=len(f)), "f": f, "g": g}
    model = MixedLM.from_formula("y ~ 1 + (1|f) + (1|g)", data)
    assert model.plan().route == "exact"
    own, exact = model.fit(engine="krylov", mc_tolerance=0.05), model.fit()
    off = np.abs(own.theta - exact.theta) / standard_errors(exact.opt)
    assert off.max() < 5.0 * own.opt.mc_error + 1e-3


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"probes": 4}, "probes"),
        ({"probes": 10.5}, "probes"),
        ({"mc_tolerance": 0.0}, "mc_tolerance"),
        ({"mc_tolerance": 2.0}, "mc_tolerance"),
        ({"seed": -1}, "seed"),
        ({"finish": "nearly"}, "finish"),
        ({"engine": "dense", "finish": "exact"}, "finish"),
    ],
)
def test_arguments_are_checked(keywords, said):
    with pytest.raises(exceptions.ArgumentError, match=said):
        model_of("scalar").fit(**keywords)
