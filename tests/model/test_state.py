"""What results remember: their own fit, response and rows, whatever happens afterwards."""

import copy
import inspect
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from penalties import Ridge
from threadpoolctl import threadpool_info

import sparselmm
from sparselmm import DataError, MixedLM, RemovedRowsError, datasets
from sparselmm.base.threads import one_thread


def sleep(formula="Reaction ~ Days + (Days | Subject)", data=None, **arguments):
    data = datasets.load("sleepstudy").assign(w=1.0) if data is None else data
    return sparselmm.mixedlm(formula, data, **arguments)


# ------------------------------------------------------------------------ what was given


def test_a_later_fit_changes_nothing():
    model, pen = sleep(), Ridge()
    plain = model.fit()
    penalized = model.fit_regularized(method=pen, alpha=5.0, reml=False)
    again = model.fit()
    assert pen.alpha == 1.0
    assert penalized.fe_pen.alpha == 5.0
    assert (penalized.reml, again.reml) == (False, True)
    for fit in (plain, again):
        assert fit.fe_pen is None
        assert fit.caic().df == pytest.approx(31.2535, abs=1e-3)
    for ask in ("caic", "refit", "bootstrap"):
        with pytest.raises(DataError, match="without penalties"):
            getattr(penalized, ask)(*([penalized.fittedvalues] if ask == "refit" else []))
    with pytest.raises(ValueError, match="penalized"):
        penalized.t_test([0, 1], ddf="satterthwaite")
    with pytest.raises(DataError, match="m2 is a penalized fit"):
        sparselmm.compare(model.fit(reml=False), penalized)


def test_results_leave_the_model_alone():
    data = datasets.load("sm_dietox")
    model = MixedLM.from_formula("Weight ~ Time", data, groups="Pig")
    fit = model.fit(reml=False)
    before = model.loglike(fit.params_object)
    other = model.fit(fe_pen=Ridge())
    fit.profile_re(0, "re", num_low=1, num_high=1, dist_low=0.1, dist_high=0.1)
    assert model.fe_pen is other.fe_pen
    model.fit(reml=False)
    assert model.loglike(fit.params_object) == pytest.approx(before, rel=1e-12)
    with pytest.raises(DataError, match="without fix"):
        model.fit(fix={"sigma": 3.0}).profile_re(0, "re")


def test_a_mask_is_kept_as_it_was():
    model = sleep("Reaction ~ Days", groups="Subject", re_formula="~Days")
    free = sparselmm.MixedLMParams.from_components(np.ones(2), cov_re=np.eye(2))
    fit = model.fit(free=free)
    free.cov_re[:] = 1.0
    np.testing.assert_array_equal(fit.freepat.cov_re, np.eye(2))


# ------------------------------------------------------------------------ own response, own rows


def look(fit, column="Reaction"):
    """First response by every road."""
    model = fit.model
    values = (
        model.endog, model.data.endog, model.data.orig_endog.to_numpy().ravel(),
        fit.built.design.y, fit.augment()[column].to_numpy(),
        (fit.fittedvalues + fit.resid).to_numpy(), model.built.frame[column].to_numpy(),
    )  # fmt: skip
    for other in values[1:]:
        np.testing.assert_allclose(other, values[0], rtol=1e-12)
    return values[0]


def read_everything(fit):
    model = fit.model
    for name in ("data", "endog", "k_constant", "row_indices", "exog_re", "exog_vc", "_places"):
        getattr(model, name)
    fit.summary(), fit.random_effects, fit.hatvalues(), fit.cov_params(), fit.ranova()


def test_refit_and_bootstrap_see_their_response():
    fit = sleep().fit()
    read_everything(fit)
    y = look(fit).copy()
    other = fit.refit(y[::-1])
    np.testing.assert_array_equal(look(other), y[::-1])
    assert other.model.loglike(other.params_object) == pytest.approx(other.llf, rel=1e-9)
    direct = sleep(data=datasets.load("sleepstudy").assign(Reaction=y[::-1])).fit()
    pd.testing.assert_series_equal(other.fe_params, direct.fe_params, rtol=1e-6)
    kept = []

    def statistic(replicate):
        kept.append(replicate)
        look(replicate)
        return replicate.llf

    for kind in ("parametric", "case"):
        kept.clear()
        values = fit.bootstrap(3, statistic=statistic, kind=kind, seed=1).values[:, 0]
        np.testing.assert_allclose([one.deviance.value(one.theta) for one in kept[1:]], -2 * values)
        np.testing.assert_allclose([one.llf for one in kept[1:]], values)
    np.testing.assert_array_equal(look(fit), y)


def test_replicates_count_what_was_held():
    fit = sleep().fit(fix={"sigma": 25.0})
    boot = fit.bootstrap(2, statistic=lambda one: one.n_parameters, seed=1)
    assert (boot.values == fit.n_parameters).all()


def test_a_transformed_response_leaves_no_old_column():
    fit = sleep("np.log(Reaction) ~ Days + (1 | Subject)").fit()
    other = fit.refit(np.log(datasets.load("sleepstudy").Reaction) / 2.0)
    assert "Reaction" not in other.augment()
    assert "Reaction" in fit.augment()


def test_rows_of_power_with_more_groups():
    fit = sleep("Reaction ~ Days + (1 | Subject)").fit()
    seen = []

    def test(one):
        seen.append((len(one.augment()), one.nobs))
        return one.pvalues["Days"]

    fit.power({"Days": 5.0}, n_groups=[20], test=test, n_sim=2, seed=1)
    assert seen[1:] == [(200, 200)] * 2


def test_changes_in_place_change_nothing():
    data = datasets.load("sleepstudy")
    y, w = data.Reaction.to_numpy().copy(), np.linspace(0.5, 1.5, 180)
    fit = sleep(data=data, weights=w).fit()
    X = np.column_stack([np.ones(180), data.Days])
    arrays = MixedLM(y, X, data.Subject.to_numpy(), weights=w).fit()
    before = [fit.resid, fit.hatvalues(), arrays.resid, arrays.hatvalues(), fit.summary().as_text()]
    data["Days"], w[:], y[:] = 0, 7.0, 0.0
    slopes, fitted = fit.fe_params, fit.fittedvalues
    slopes["Days"], fitted.iloc[0], arrays.fittedvalues[0] = 0.0, 9.0, 9.0
    after = [fit.resid, fit.hatvalues(), arrays.resid, arrays.hatvalues(), fit.summary().as_text()]
    for old, new in zip(before[:4], after[:4], strict=True):
        np.testing.assert_array_equal(old, new)
    assert before[4] == after[4]
    assert fit.augment().Days.max() == 9


def test_pickles_after_everything_was_read():
    for fit in (sleep().fit(), sleep("Reaction ~ Days", groups="Subject").fit()):
        read_everything(fit)
        for back in (pickle.loads(pickle.dumps(fit)), copy.deepcopy(fit)):
            assert str(back.summary()) == str(fit.summary())
            np.testing.assert_array_equal(look(back), look(fit))
        assert pickle.loads(pickle.dumps(fit.model)).fit().llf == pytest.approx(fit.llf)


# ------------------------------------------------------------------------ without rows

ARGUMENTS = {
    "bootstrap": ((3,), {"seed": 1}), "emmeans": (("x",), {}), "t_test": ((np.eye(2),), {}),
    "f_test": ((np.eye(2),), {}), "wald_test": ((np.eye(2),), {}),
    "exact_rlrt": ((), {"nsim": 20, "seed": 1}), "exact_lrt": ((), {"nsim": 20, "seed": 1}),
    "fit_many": ((np.random.default_rng(1).normal(size=(36, 2)),), {}),
    "refit": ((np.random.default_rng(1).normal(size=36),), {}),
    "power": (({"x": 1.0},), {"n_sim": 3, "seed": 1}), "simulate": ((2,), {"seed": 1}),
    "influence": (("Subject",), {}), "t_test_pairwise": (("x",), {}), "profile": (("sigma",), {}),
    "ranef_contrasts": (("Subject",), {"pairs": "all"}), "ranef_cov": (("Subject",), {}),
    "rank": (("Subject",), {}),
    "profile_re": ((0, "re"), {"dist_low": 0.1, "dist_high": 0.1, "num_low": 1, "num_high": 1}),
}  # fmt: skip
NEEDED = {  # what the rows are needed for, in every model
    "anova", "augment", "bootstrap", "check", "cooks_distance", "cov_robust", "fit_many",
    "fittedvalues", "get_prediction", "hatvalues", "icc", "influence", "plot_diagnostics", "power",
    "predict", "profile_re", "r2", "refit", "resid", "residuals", "robust_tests", "simulate",
}  # fmt: skip
PARTS = {"model", "built", "deviance", "opt", "pls", "given", "load", "save", "remove_data"}


def stool():
    rows = np.arange(36)
    return datasets.load("ergoStool").assign(x=rows % 7.0, w=0.5 + rows / 36)


def small_fits():
    data = stool()
    X = np.column_stack([np.ones(36), data.x])
    yield sparselmm.mixedlm("effort ~ x + (1 | Subject)", data).fit()
    yield sparselmm.mixedlm("effort ~ x + (1 | Subject)", data, weights="w").fit(reml=False)
    yield sparselmm.mixedlm("effort ~ x", data, groups="Subject").fit()
    groups = data.Subject.to_numpy()
    yield MixedLM(data.effort.to_numpy(), X, groups, exog_re=X[:, :1]).fit()


def ask(fit, name):
    """An answer, or the error in its place."""
    try:
        value = getattr(fit, name)
        args, keywords = ARGUMENTS.get(name, ((), {}))
        return value(*args, **keywords) if callable(value) else value
    except Exception as error:
        return error


def same(a, b):
    """Whether two answers are the same numbers."""
    if isinstance(a, Exception):
        return type(a) is type(b) and str(a) == str(b)
    if isinstance(a, (pd.DataFrame, pd.Series)):
        kind = "frame" if isinstance(a, pd.DataFrame) else "series"
        tested = getattr(pd.testing, f"assert_{kind}_equal")
        tested(a, b, rtol=1e-9, atol=1e-12)
        return True
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (np.ndarray, float)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        return True
    if isinstance(a, (int, str, bool, type(None))) or callable(a):
        return a == b
    if type(a).__repr__ is object.__repr__:
        return same(vars(a), vars(b))
    return str(a) == str(b)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "which", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 4))]
)
def test_without_rows_every_answer_is_the_same_or_refused(which):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    (fit,) = [one for i, one in enumerate(small_fits()) if i == which]
    names = {name for name in dir(fit) if not name.startswith("_")} - PARTS
    without_rows = ("plot_ranef", "plot_ranks", "plot_coefficients")
    names -= {name for name in names if name.startswith(without_rows)}
    before = {name: ask(fit, name) for name in names}
    fit.remove_data()
    refused = set()
    for name in sorted(names):
        after = ask(fit, name)
        if isinstance(after, RemovedRowsError):
            assert name in str(after) or name == "robust_tests", str(after)
            assert "remove_data()" in str(after)
            refused.add(name)
        else:
            assert same(before[name], after), name
    assert refused >= NEEDED
    pyplot.close("all")
    text = str(fit.summary())
    assert str(pickle.loads(pickle.dumps(fit)).summary()) == text
    for name in ("fit", "fit_many", "fit_regularized"):
        with pytest.raises(RemovedRowsError, match=r"model\.fit"):
            getattr(fit.model, name)(*([np.ones((36, 1))] if name == "fit_many" else []))
    with pytest.raises(RemovedRowsError, match=r"model\.predict"):
        fit.model.predict(fit.params)


# ------------------------------------------------------------------------ threads


def test_one_limit_for_all_threads():
    """Whoever leaves last restores what was there, whatever the order."""
    before = [library["num_threads"] for library in threadpool_info()]
    first, second = one_thread(), one_thread()
    first.__enter__(), second.__enter__()
    assert all(library["num_threads"] == 1 for library in threadpool_info())
    first.__exit__(None, None, None)
    assert all(library["num_threads"] == 1 for library in threadpool_info())
    second.__exit__(None, None, None)
    assert [library["num_threads"] for library in threadpool_info()] == before


def questions(fit, model, data, group):
    """Many kinds of questions that move theta or use the factor, each an array."""
    fixed = np.eye(len(fit.fe_params))
    return [
        lambda: fit.bse_re.to_numpy(),
        lambda: fit.t_test(fixed, ddf="satterthwaite").df_denom,
        lambda: fit.t_test(fixed, ddf="kenward-roger").sd,
        lambda: np.asarray(fit.ranef_cov(group)),
        lambda: np.concatenate([np.ravel(one) for one in fit.ranef_var.values()]),
        lambda: fit.profile("sigma").conf_int().to_numpy(),
        lambda: fit.predict(data, re=True).to_numpy(),
        lambda: fit.get_prediction(data.head(9), re=True).se_mean,
        lambda: fit.bootstrap(4, seed=1).values,
        lambda: fit.bootstrap(2, statistic=lambda one: one.bse.to_numpy(), seed=1).values,
        lambda: fit.influence(group).to_frame().to_numpy(),
        lambda: fit.hatvalues().to_numpy(),
        lambda: np.array(fit.caic().df),
        lambda: fit.ranova().to_numpy(),
        lambda: fit.deviance.hessian(fit.theta),
        lambda: fit.deviance.gradient(1.3 * fit.theta),
        lambda: np.array(model.loglike(fit.params_object.get_packed(model.use_sqrt)[:])),
        lambda: model.fit().params.to_numpy(),
        lambda: model.fit(reml=False).bse.to_numpy(),
        lambda: fit.refit(data[model.endog_names].to_numpy()[::-1]).params.to_numpy(),
        lambda: pickle.loads(pickle.dumps(fit)).bse.to_numpy(),
    ]


MODELS = {
    "one factor": ("sleepstudy", "Reaction ~ Days + (Days | Subject)", "Subject"),
    "crossed": ("Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", "sample"),
}


@pytest.mark.filterwarnings("ignore::sparselmm.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", MODELS)
def test_any_number_of_threads(name):
    table, formula, group = MODELS[name]
    data = datasets.load(table)

    def fresh():
        model = sparselmm.mixedlm(formula, data)
        fit = model.fit()
        asked = questions(fit, model, data, group)
        asked.pop(16)  # goes by the last fit, which other threads change
        return asked

    serial = [question() for question in fresh()]
    shared = fresh()
    n_threads, rounds = 6, 2
    start = threading.Barrier(n_threads)

    def work(seed):
        start.wait()
        out = []
        for _ in range(rounds):
            for i in np.random.default_rng(seed).permutation(len(shared)):
                out.append((i, shared[i]()))
        return out

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(n_threads) as pool:
            found = list(pool.map(work, range(n_threads)))
    finally:
        sys.setswitchinterval(interval)
    for answers in found:
        assert len(answers) == rounds * len(shared)
        for i, answer in answers:
            text = inspect.getsource(shared[i])
            np.testing.assert_allclose(answer, serial[i], rtol=1e-9, atol=1e-9, err_msg=text)


@pytest.mark.parametrize("strategy", ["dense", "sparse"])
def test_threads_own_their_factor(strategy):
    """Two threads at two thetas, step by step: the factor of one is not moved by the other."""
    from registry import MODELS as DESIGNS

    from sparselmm.factor.layout import Strategy

    model = DESIGNS["crossed_three"]
    deviance = model.sparse(True, Strategy(1, strategy))
    theta = model.theta("interior")
    right = np.eye(deviance.cross.q)[:, :3]
    expected = deviance.conditional_columns(theta, right)
    deviance.state_at(theta)
    with ThreadPoolExecutor(1) as pool:
        moved = pool.submit(deviance.value, 2.0 * theta).result()
        other = pool.submit(deviance.conditional_columns, theta, right).result()
    assert moved != deviance.value(theta)
    np.testing.assert_array_equal(other, expected)
    np.testing.assert_array_equal(deviance.conditional_columns(theta, right), expected)


def test_pickled_while_others_read():
    data = datasets.load("sleepstudy")
    for _ in range(4):
        fit = sleep("Reaction ~ Days + (Days | Subject)", data).fit()
        with ThreadPoolExecutor(4) as pool:
            tasks = [pool.submit(pickle.dumps, fit) for _ in range(8)]
            tasks += [pool.submit(read_everything, fit) for _ in range(2)]
            tasks += [pool.submit(pickle.dumps, fit) for _ in range(8)]
            for task in tasks:
                task.result()
        assert pickle.loads(pickle.dumps(fit)).llf == fit.llf
