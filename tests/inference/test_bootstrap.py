"""The bootstrap against lme4's bootMer, package boot's intervals, and itself with other workers."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from reference_fits import INFERENCE_IDS, reference_fit, reference_inference

import sparselmm
from sparselmm.inference.resampling import bootstrap
from sparselmm.likelihood.many.responses import ResponseFitter
from sparselmm.results.tables.bootstrap import BootstrapResults

REFERENCE = json.loads(
    sparselmm.datasets.data_dir().joinpath("reference/extra/simulation.json").read_text("utf-8")
)
SLEEP = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture(scope="module")
def sleep():
    return sparselmm.mixedlm(SLEEP, sparselmm.datasets.load("sleepstudy")).fit()


@pytest.fixture(scope="module")
def boot(sleep):
    return sleep.bootstrap(600, seed=1)


# ----------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("kind", bootstrap.KINDS)
def test_intervals_of_package_boot(kind):
    given = REFERENCE["intervals"]
    values = np.array(given["t"])[:, None]
    left_out = np.array(given["jackknife"])[:, None]
    for case in given["ci"]:
        estimate = np.array([given["t0"]])
        ends = bootstrap.intervals(estimate, values, 1 - case["conf"], kind, left_out)
        np.testing.assert_allclose(ends[0], case[kind], rtol=1e-10)


def test_intervals_leave_failures_out():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(99, 2))
    holes = np.vstack([values, np.full((7, 2), np.nan)])
    estimate = np.zeros(2)
    for kind in ("percentile", "basic", "normal"):
        np.testing.assert_array_equal(
            bootstrap.intervals(estimate, holes, 0.1, kind),
            bootstrap.intervals(estimate, values, 0.1, kind),
        )
    none = bootstrap.intervals(np.array([np.nan, 0.0]), values, 0.1, "percentile")
    assert np.isnan(none[0]).all()
    assert np.isfinite(none[1]).all()


# ---------------------------------------------------------------------------- replicates


@pytest.mark.parametrize("case", REFERENCE["bootMer"], ids=lambda case: case["id"])
def test_bootmer(case):
    """Means, spreads and quantiles of lme4's replicates, within the error of both simulations."""
    data = sparselmm.datasets.load(case["data"])
    fit = sparselmm.mixedlm(case["formula"], data).fit()
    boot = fit.bootstrap(1000, seed=3)
    fixed = len(fit.fe_params)
    names = [name for name in boot.names[fixed:] if name.endswith(" Var")]
    found = boot.replicates[[*boot.names[:fixed], *names]].to_numpy()
    R, own = case["R"], len(found)
    share = np.sqrt(1 / R + 1 / own)
    sd = np.array(case["sd"])
    assert (np.abs(found.mean(axis=0) - case["mean"]) < 4 * sd * share).all()
    spread = 1.5 * np.sqrt(0.5) * share  # kurtosis of variances above the normal's
    np.testing.assert_allclose(found.std(axis=0, ddof=1) / sd, 1.0, atol=4 * spread)
    for level, key in ((0.05, "lower"), (0.5, "median"), (0.95, "upper")):
        below = (found < np.array(case[key])).mean(axis=0)
        assert (np.abs(below - level) < 4 * np.sqrt(level * (1 - level)) * share).all()


def test_replicates_are_fits_of_simulations(sleep, boot):
    """Replicate i is the fit of response i of `simulate` with the same seed."""
    Y = sleep.simulate(4, seed=1)
    for i in range(4):
        fit = sleep.refit(Y[i])
        row = boot.replicates.iloc[i]
        np.testing.assert_allclose(row[["Intercept", "Days"]], fit.fe_params, rtol=1e-6)
        assert row["Residual Var"] == pytest.approx(fit.scale, rel=1e-5)
        sd = fit.varcorr.sdcor.to_numpy()
        found = row[["Subject SD", "Subject[Days] SD", "Residual SD"]]
        np.testing.assert_allclose(found, sd[[0, 1, 3]], rtol=1e-3)


def test_estimates_and_summary(sleep, boot):
    estimate = pd.Series(boot.estimate, boot.names)
    assert estimate["Days"] == sleep.fe_params["Days"]
    assert estimate["Subject x Subject[Days] Cor"] == pytest.approx(sleep.varcorr.sdcor[2])
    table = boot.summary(0.1)
    np.testing.assert_allclose(table["se"], boot.replicates.std())
    np.testing.assert_allclose(table["bias"], boot.replicates.mean() - boot.estimate)
    np.testing.assert_allclose(table[["lower", "upper"]], boot.conf_int(0.1))
    assert boot.n_failed == 0
    assert "600 parametric replicates" in repr(boot)
    np.testing.assert_allclose(boot.se[["Intercept", "Days"]], sleep.bse_fe, rtol=0.15)


def test_more_replicates(sleep, boot, tmp_path):
    """Added, resumed and checkpointed replicates are those of one run."""
    few = sleep.bootstrap(130, seed=1)
    np.testing.assert_allclose(few.values, boot.values[:130], rtol=1e-6, atol=1e-6)
    few.save(tmp_path / "few")
    more = sleep.bootstrap(300, resume=BootstrapResults.load(tmp_path / "few"))
    np.testing.assert_allclose(more.values, boot.values[:300], rtol=1e-6, atol=1e-6)
    file = tmp_path / "checkpoint"
    sleep.bootstrap(130, seed=1, checkpoint=file)
    again = sleep.bootstrap(300, seed=1, checkpoint=file)
    np.testing.assert_array_equal(again.values, more.values)
    assert len(BootstrapResults.load(file)) == 300
    assert [path.name for path in tmp_path.iterdir()].count("checkpoint.part") == 0


def test_interrupted(sleep, tmp_path, monkeypatch):
    """What was finished before an interruption is in the checkpoint."""
    fit, calls = ResponseFitter.fit, []

    def once(self, Y):
        calls.append(len(Y))
        if len(calls) > 1:
            raise KeyboardInterrupt
        return fit(self, Y)

    file = tmp_path / "checkpoint"
    monkeypatch.setattr(ResponseFitter, "fit", once)
    with pytest.raises(KeyboardInterrupt):
        sleep.bootstrap(300, seed=1, checkpoint=file)
    assert len(BootstrapResults.load(file)) == calls[0]
    monkeypatch.setattr(ResponseFitter, "fit", fit)
    done = sleep.bootstrap(300, checkpoint=file)
    np.testing.assert_allclose(done.values, sleep.bootstrap(300, seed=1).values)


@pytest.mark.slow
def test_any_number_of_workers(sleep):
    for keywords in ({"seed": 5}, {"seed": 5, "kind": "case"}):
        alone = sleep.bootstrap(40, n_jobs=1, **keywords)
        together = sleep.bootstrap(40, n_jobs=2, **keywords)
        np.testing.assert_array_equal(alone.values, together.values)
    statistic = {"statistic": lambda fit: {"icc": fit.cov_re.iloc[0, 0] / fit.scale}}
    one, two = (sleep.bootstrap(140, seed=5, n_jobs=n, **statistic) for n in (1, 2))
    np.testing.assert_array_equal(one.values, two.values)


def test_statistic(sleep, boot):
    def share(fit):
        return {"share": fit.cov_re.iloc[0, 0] / (fit.cov_re.iloc[0, 0] + fit.scale), "n": fit.nobs}

    own = sleep.bootstrap(20, statistic=share, seed=1)
    table = boot.replicates.iloc[:20]
    expected = table["Subject Var"] / (table["Subject Var"] + table["Residual Var"])
    np.testing.assert_allclose(own.replicates["share"], expected, rtol=1e-6)
    assert (own.replicates["n"] == 180).all()
    several = sleep.bootstrap(3, statistic=lambda fit: fit.fe_params.to_numpy(), seed=1)
    assert several.names == ("statistic 0", "statistic 1")
    with pytest.raises(sparselmm.DataError, match="must return a number"):
        sleep.bootstrap(3, statistic=lambda fit: fit)


def test_failures_are_counted(sleep, monkeypatch):
    fit = ResponseFitter.fit

    def failing(self, Y):
        out = fit(self, Y)
        out.converged[1] = False
        self._fail(out, 3, "no good")
        return out

    monkeypatch.setattr(ResponseFitter, "fit", failing)
    with pytest.warns(sparselmm.ConvergenceWarning, match="2 of 10 replicates failed"):
        boot = sleep.bootstrap(10, seed=1)
    assert boot.n_failed == 2
    assert boot.replicates.isna().all(axis=1).sum() == 2
    assert np.isfinite(boot.conf_int().to_numpy()).all()


# --------------------------------------------------------------------------------- cases


@pytest.mark.parametrize(
    "name", [name for name in INFERENCE_IDS if "group_deletion" in reference_inference(name)]
)
def test_jackknife(name):
    """Estimates without one group, against lme4 refitted without it."""
    expected = reference_inference(name)["group_deletion"]
    reference = reference_fit(name)
    fit = sparselmm.mixedlm(reference.formula, reference.data).fit(reml=reference.reml)
    boot = fit.bootstrap(2, seed=1, jackknife=True, by=expected["group"])
    deleted = np.array(expected["fixef_deleted"], dtype=float)
    found = boot.jackknife[:, : deleted.shape[1]]
    found, deleted = (np.sort(x[:, np.argsort(x.mean(axis=0))], axis=0) for x in (found, deleted))
    np.testing.assert_allclose(found, deleted, rtol=1e-4, atol=1e-4)


def test_all_cases_once_is_the_fit(sleep):
    groups, name = sleep._groups(None)
    assert name == "Subject"
    maker = bootstrap.CaseReplicates(groups, sleep.deviance, sleep.theta)
    values, failure = maker.fit_draws([np.arange(18), np.arange(18)[::-1], np.zeros(18, dtype=int)])
    estimate = sleep.bootstrap(1, seed=1).estimate
    np.testing.assert_allclose(values[0], estimate, rtol=1e-4)
    np.testing.assert_allclose(values[1], estimate, rtol=1e-4)
    assert failure[0] == failure[1] == ""


def test_case_standard_errors():
    """Means of balanced groups: the case bootstrap of the mean is the plain bootstrap of them."""
    data = sparselmm.datasets.load("Dyestuff")
    fit = sparselmm.mixedlm("Yield ~ 1 + (1 | Batch)", data).fit()
    boot = fit.bootstrap(400, kind="case", seed=2)
    means = data.groupby("Batch", observed=True).Yield.mean().to_numpy()
    expected = means.std(ddof=0) / np.sqrt(len(means))
    assert boot.se["Intercept"] == pytest.approx(expected, rel=4 * np.sqrt(0.5 / 400))


def test_case_with_weights_blocks_and_crossed_factors():
    data = sparselmm.datasets.load("Penicillin")
    data["w"] = np.linspace(1, 2, len(data))
    fit = sparselmm.mixedlm("diameter ~ 1 + (1 | plate) + (1 | sample)", data, weights="w").fit()
    with pytest.raises(sparselmm.DataError, match="several grouping factors"):
        fit.bootstrap(5, kind="case")
    boot = fit.bootstrap(5, kind="case", by="plate", seed=1)
    assert boot.n_failed == 0
    assert np.isfinite(boot.values).all()
    vc = sparselmm.mixedlm(
        "Yield ~ 1", sparselmm.datasets.load("Dyestuff"), groups="Batch",
        vc_formula={"b": "0 + C(Batch)"},
    ).fit()  # fmt: skip
    assert vc.bootstrap(5, kind="case", seed=1).by == "Batch"


def test_known_covariance_and_fixed_parameters(sleep):
    data = sparselmm.datasets.load("sleepstudy")
    subjects = sorted(data["Subject"].unique())
    eye = sparselmm.KnownCovariance(pd.DataFrame(np.eye(18), subjects, subjects))
    known = sparselmm.mixedlm(SLEEP, data, covariance={"Subject": eye}).fit()
    np.testing.assert_allclose(
        known.bootstrap(5, seed=1).values, sleep.bootstrap(5, seed=1).values, rtol=1e-4, atol=1e-3
    )
    with pytest.raises(sparselmm.DataError, match="cannot be drawn anew"):
        known.simulate(newdata=data.iloc[:1].assign(Subject="new"))
    with pytest.raises(sparselmm.DataError, match="have a known covariance"):
        known.bootstrap(5, kind="case", by="Subject")
    fixed = sparselmm.mixedlm(SLEEP, data).fit(fix={"sigma": 20.0})
    boot = fixed.bootstrap(20, seed=1)
    np.testing.assert_allclose(boot.replicates["Residual SD"], 20.0)
    assert fixed.refit(data.Reaction).sigma == 20.0
    Y = fixed.simulate(500, re="conditional", seed=1).to_numpy()
    assert Y.std(axis=1).mean() == pytest.approx(20.0, rel=0.02)


def test_penalized_fits_are_refused(sleep):
    data = sparselmm.datasets.load("sleepstudy")
    free = sparselmm.MixedLMParams.from_components(np.ones(2), np.eye(2))
    model = sparselmm.MixedLM.from_formula(
        "Reaction ~ Days", data, groups="Subject", re_formula="~Days"
    )
    with pytest.raises(sparselmm.DataError, match="without penalties"):
        model.fit(free=free).bootstrap(5)


def test_bca_needs_a_jackknife(sleep, boot):
    with pytest.raises(sparselmm.DataError, match="BCa intervals need"):
        boot.conf_int(kind="bca")
    with pytest.raises(sparselmm.DataError, match="kind must be one of"):
        boot.conf_int(kind="t")
    full = sleep.bootstrap(600, resume=boot, jackknife=True)
    ends = full.conf_int(kind="bca").to_numpy()
    assert (ends[:, 0] < boot.estimate).all()
    assert (ends[:, 1] > boot.estimate).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be"),
        ({"kind": "residual"}, "kind must be"),
        ({"n_jobs": 0}, "n_jobs must be"),
        ({"kind": "case", "by": "Day"}, "no grouping factor 'Day'"),
    ],
)
def test_refuses(sleep, arguments, message):
    with pytest.raises(sparselmm.DataError, match=message):
        sleep.bootstrap(**{"n": 3, **arguments})


def test_other_fits_are_told_apart(sleep, boot):
    data = sparselmm.datasets.load("sleepstudy")
    other = sparselmm.mixedlm(SLEEP, data).fit(reml=False)
    with pytest.raises(sparselmm.DataError, match="belong to another fit"):
        other.bootstrap(700, resume=boot)
    with pytest.raises(sparselmm.DataError, match="have seed 1"):
        sleep.bootstrap(700, resume=boot, seed=2)
    with pytest.raises(sparselmm.DataError, match="have seed 1"):
        sleep.bootstrap(700, resume=boot, seed=np.random.SeedSequence(1, spawn_key=(3,)))


def test_jackknife_of_another_factor():
    """The factor of BCa intervals may change when replicates are added."""
    data = sparselmm.datasets.load("Penicillin")
    fit = sparselmm.mixedlm("diameter ~ 1 + (1 | plate) + (1 | sample)", data).fit()
    first = fit.bootstrap(5, seed=1, jackknife=True, by="plate")
    assert (first.by, len(first.jackknife)) == ("plate", 24)
    second = fit.bootstrap(6, resume=first, jackknife=True, by="sample")
    assert (second.by, len(second.jackknife)) == ("sample", 6)


# ------------------------------------------------------------------------------ coverage


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("percentile", "basic", "normal"), ("bca",)], ids="-".join)
def test_coverage(kinds):
    """Intervals for slope and residual SD cover the truth about as often as they say.

    Data sets of 20 groups of 5 with 299 replicates each; percentile intervals of so few groups
    are known to be somewhat short.
    """
    g = np.repeat(np.arange(20), 5)
    rng = np.random.default_rng(12)
    x = rng.normal(size=100)
    truth = {"x": 0.5, "Residual SD": 1.0}
    hits = {(kind, name): 0 for kind in kinds for name in truth}
    jackknife = "bca" in kinds
    rounds = 50 if jackknife else 200
    data = pd.DataFrame({"g": g, "x": x, "y": x})
    for i in range(rounds):
        data["y"] = 1.0 + 0.5 * x + 0.8 * rng.normal(size=20)[g] + rng.normal(size=100)
        fit = sparselmm.mixedlm("y ~ x + (1 | g)", data).fit()
        boot = fit.bootstrap(299, seed=i, jackknife=jackknife)
        for kind, name in hits:
            low, high = boot.conf_int(0.1, kind).loc[name]
            hits[kind, name] += low < truth[name] < high
    error = np.sqrt(0.9 * 0.1 / rounds)
    for case, hit in hits.items():
        assert abs(hit / rounds - 0.9) < 3.0 * error + 0.02, case


def test_tasks_whose_replicates_all_fail_count_as_missing():
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"g": np.repeat(list("abc"), 10)})
    data["first"] = (data.g == "a").astype(float)  # no other group tells its coefficient
    data["y"] = rng.normal(size=30) + rng.normal(size=3).repeat(10)
    fit = sparselmm.mixedlm("y ~ first + (1 | g)", data).fit()
    alone = np.array([])
    for seed in range(20):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            boot = fit.bootstrap(1, kind="case", seed=seed)
            other = fit.bootstrap(1, lambda r: r.fe_params, kind="case", seed=seed)
        assert boot.values.shape == (1, 6)
        assert other.values.shape == (1, 2)
        assert bool(np.isnan(boot.values).all()) == bool(boot.n_failed)
        alone = np.append(alone, boot.n_failed)
    assert 0 < alone.sum() < 20
