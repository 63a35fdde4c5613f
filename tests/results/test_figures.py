"""Pictures: that they draw what they say, where they are told to, and name what they cannot do."""

import io
from functools import cache
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

import sparselmm
from sparselmm import datasets
from sparselmm.base.exceptions import ArgumentError, DataError, RemovedRowsError
from sparselmm.results.plots.letters import shortened

plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("Agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@cache
def fit(name):
    formula, data = {
        "sleep": ("Reaction ~ Days + (Days | Subject)", "sleepstudy"),
        "pigs": ("Weight ~ Time * Cu + (Time | Pig)", "dietox"),
        "plates": ("diameter ~ 1 + (1 | plate) + (1 | sample)", "Penicillin"),
        "oats": ("Yield ~ nitro_f * Variety + (1 | Block / Variety)", "Oats"),
    }[name]
    return sparselmm.mixedlm(formula, datasets.load(data)).fit()


@cache
def herds():
    formula = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
    return sparselmm.mixedglm(formula, datasets.load("cbpp")).fit()


def lines(axis, label):
    (line,) = [line for line in axis.lines if line.get_label() == label]
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def test_predictions_are_those_of_predict():
    figure = fit("pigs").plot_predictions(["Time", "Cu"], bands="both")
    x, y = lines(figure.axes[0], "Cu035")
    new = pd.DataFrame({"Time": x, "Cu": "Cu035"})
    np.testing.assert_allclose(y, fit("pigs").predict(new))
    bands = [c.get_paths()[0].vertices for c in figure.axes[0].collections]
    found = fit("pigs").get_prediction(new).summary_frame()
    wide = max(bands[2:4], key=lambda v: np.ptp(v[:, 1]))
    assert wide[:, 1].max() == pytest.approx(found["obs_ci_upper"].max())


def test_three_variables_make_panels():
    figure = fit("pigs").plot_predictions(["Time", "Cu"], groups=None)
    assert len(figure.axes) == 1
    data = datasets.load("Oats").assign(half=lambda d: np.tile(["a", "b"], len(d) // 2))
    model = sparselmm.mixedlm("Yield ~ nitro * Variety * half + (1 | Block)", data).fit()
    figure = model.plot_predictions(["nitro", "Variety", "half"])
    assert [axis.get_title() for axis in figure.axes] == ["a", "b"]


def test_groups_have_their_own_lines():
    result = fit("sleep")
    figure = result.plot_predictions("Days", groups={"Subject": ["308", "335"]}, bands="none")
    x, y = lines(figure.axes[0], "335")
    new = pd.DataFrame({"Days": x, "Subject": "335"})
    np.testing.assert_allclose(y, result.predict(new, re=True))
    assert len(result.plot_predictions("Days", groups="Subject").axes[0].lines) >= 6


def test_partial_residuals():
    result = fit("pigs")
    axis = result.plot_predictions("Time", data="partial").axes[0]
    held = datasets.load("dietox").assign(Cu="Cu000")
    drawn = np.sort(np.concatenate([np.asarray(line.get_ydata()) for line in axis.lines[:1]]))
    expected = np.sort(np.asarray(result.predict(held)) + np.asarray(result.resid))
    held_at = result.built.frame["Cu"].mode().iloc[0]
    if held_at == "Cu000":
        np.testing.assert_allclose(drawn, expected)
    else:
        held = held.assign(Cu=held_at)
        expected = np.sort(np.asarray(result.predict(held)) + np.asarray(result.resid))
        np.testing.assert_allclose(drawn, expected)


def test_generalized_predictions():
    axis = herds().plot_predictions("period").axes[0]
    drawn = np.concatenate([line.get_ydata() for line in axis.lines[1:]])
    expected = herds().predict(pd.DataFrame({"period": ["1", "2", "3", "4"]}), random="population")
    np.testing.assert_allclose(drawn, expected)
    with pytest.raises(DataError, match="linear models only"):
        herds().plot_predictions("period", bands="prediction")


def test_groups_panels():
    figure = fit("sleep").plot_groups("Subject", levels=["308", "309"])
    first = figure.axes[0]
    rows = datasets.load("sleepstudy").query("Subject == '308'")
    x, y = lines(first, "own least squares")
    slope, start = np.polyfit(rows.Days, rows.Reaction, 1)
    np.testing.assert_allclose(y, start + slope * x)
    x, y = lines(first, "mixed model")
    new = pd.DataFrame({"Days": x, "Subject": "308"})
    np.testing.assert_allclose(y, fit("sleep").predict(new, re=True))
    with pytest.raises(DataError, match="levels: Subject has no level"):
        fit("sleep").plot_groups(levels=["nobody"])


def test_shrinkage_goes_from_own_to_mixed():
    axis = fit("sleep").plot_shrinkage().axes[0]
    own, mixed = axis.lines[0], axis.lines[1]
    data = datasets.load("sleepstudy")
    slopes = [
        np.polyfit(d.Days, d.Reaction, 1)[0] for _, d in data.groupby("Subject", observed=True)
    ]
    np.testing.assert_allclose(np.sort(own.get_ydata()), np.sort(slopes))
    ranef, fixed = fit("sleep").ranef["Subject"], fit("sleep").fe_params
    np.testing.assert_allclose(mixed.get_xdata(), ranef["Intercept"] + fixed.iloc[0])


def test_coefficients_of_two_models():
    other = sparselmm.mixedlm("Weight ~ Time + (1 | Pig)", datasets.load("dietox")).fit(reml=False)
    axis = fit("pigs").plot_coefficients({"small": other}).axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()][-3:] == [
        "Time", "Time:Cu[T.Cu035]", "Time:Cu[T.Cu175]",
    ]  # fmt: skip
    assert axis.lines[1].get_xdata()[0] == pytest.approx(other.fe_params["Time"])
    profile = fit("sleep").plot_coefficients(method="profile").axes[0]
    ends = fit("sleep").conf_int(method="profile", which=["Intercept", "Days"]).loc["Days"]
    drawn = profile.collections[0].get_paths()[0].vertices[:, 0]
    np.testing.assert_allclose(drawn, ends)
    ratios = herds().plot_coefficients(exponentiate=True).axes[0]
    np.testing.assert_allclose(ratios.lines[0].get_xdata(), np.exp(herds().fe_params.iloc[1:]))
    with pytest.raises(ArgumentError, match="others must be results"):
        fit("sleep").plot_coefficients(3)


@pytest.mark.slow
def test_many_levels_stay_legible():
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(1128), 3)
    data = pd.DataFrame({"g": g, "y": rng.normal(size=1128)[g] + rng.normal(size=len(g))})
    result = sparselmm.mixedlm("y ~ 1 + (1 | g)", data).fit()
    axis = result.plot_ranef().axes[0]
    labels = [t.get_text() for t in axis.get_yticklabels()]
    order = result.ranef["g"]["Intercept"].sort_values().index
    assert 20 <= len(labels) <= 40
    assert (labels[0], labels[-1]) == (str(order[0]), str(order[-1]))
    assert axis.get_title().endswith("of 1,128 away from 0")
    axis = result.plot_ranks().axes[0]
    assert len(axis.get_yticklabels()) <= 40


def test_what_a_caterpillar_counts():
    axis = fit("sleep").plot_ranef("Subject").axes[1]
    modes, sd = fit("sleep").ranef["Subject"]["Days"], fit("sleep").ranef_var["Subject"]["Days"]
    out = int((modes.abs() > 1.959964 * np.sqrt(sd)).sum())
    assert axis.get_title() == f"Days: {out} of 18 away from 0"


def test_other_pictures_have_the_numbers():
    funnel = fit("plates").plot_funnel("plate").axes[0]
    assert funnel.get_xlabel() == "rows per plate"
    rest = fit("plates").residuals(level="marginal")
    means = rest.groupby(datasets.load("Penicillin").plate, observed=True).mean()
    drawn = np.concatenate([line.get_ydata() for line in funnel.lines if line.get_marker() == "o"])
    np.testing.assert_allclose(np.sort(drawn), np.sort(means))
    shares = fit("plates").plot_variance_shares()
    widths = [patch.get_width() for patch in shares.axes[0].patches]
    assert sum(widths) == pytest.approx(1.0)
    icc = fit("plates").icc()["icc"]
    assert widths[0] == pytest.approx(icc["plate"])
    acf = fit("pigs").plot_residual_correlation("Time", lags=3).axes[0]
    rest = datasets.load("dietox").assign(e=fit("pigs").residuals(level="marginal"))
    rest = rest.sort_values(["Pig", "Time"], kind="stable")
    shifted = rest.groupby("Pig", observed=True).e.shift(1)
    first = (rest.e * shifted).mean() / (rest.e**2).mean()
    assert acf.lines[0].get_ydata()[0] == pytest.approx(first)
    semi = fit("pigs").plot_residual_correlation("Time", kind="semivariogram").axes[0]
    assert semi.get_xlabel() == "distance"
    ellipses = fit("sleep").plot_ranef_correlation().axes[0]
    assert ellipses.get_title() == f"r = {fit('sleep').varcorr.sdcor.iloc[2]:.2f}"


def test_tables_have_pictures():
    booted = fit("sleep").bootstrap(30, seed=1)
    assert len(booted.plot().axes) >= len(booted.names)
    assert len(booted.plot("ridge").axes) == 1
    power = fit("sleep").power({"Days": 5.0}, n_groups=[5, 10], n_sim=10, seed=1)
    assert power.plot().axes[0].get_ylabel() == "power"
    assert fit("sleep").power({"Days": 5.0}, n_sim=10, seed=1).plot().axes[0].get_xlabel() == ""
    influence = fit("sleep").influence("Subject")
    assert len(influence.plot().axes) == 2
    ml = fit("sleep").model.fit(reml=False)
    small = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", datasets.load("sleepstudy"))
    comparison = sparselmm.compare(ml, small.fit(reml=False))
    assert comparison.plot().axes[0].get_xlabel() == "above the least"
    means = fit("oats").emmeans(["nitro_f", "Variety"])
    axis = means.plot(comparisons=True).axes[0]
    assert axis.get_xlabel() == "nitro_f"
    assert means.pairs().plot().axes[0].get_xlabel() == "estimate"
    assert len(fit("sleep").profile("sigma").plot().axes) == 1


def test_a_place_to_draw():
    figure, axes = plt.subplots(1, 2)
    assert fit("plates").plot_funnel("plate", ax=axes[0]) is figure
    assert axes[0].lines
    other = plt.figure()
    assert fit("sleep").plot_ranef(figure=other) is other
    assert other.axes
    with pytest.raises(ArgumentError, match="ax must be matplotlib Axes"):
        fit("plates").plot_funnel("plate", ax=3)
    with pytest.raises(ArgumentError, match="figure must be a matplotlib Figure"):
        fit("sleep").plot_ranef(figure="here")


def test_shown_once_in_a_notebook(monkeypatch):
    """As the value of a cell it is displayed and taken from pyplot; otherwise pyplot has it."""
    display = pytest.importorskip("IPython.display")
    shown = []
    monkeypatch.setattr(display, "display", lambda data, raw: shown.append(data))
    figure = fit("sleep").plot_ranef()
    assert plt.fignum_exists(figure.number)
    figure._ipython_display_()
    assert not plt.fignum_exists(figure.number)
    assert [sorted(data) for data in shown] == [["image/png", "text/plain"]]


def test_what_cannot_be_drawn_is_named():
    result = fit("sleep")
    with pytest.raises(DataError, match="'Day' is no variable of the fixed effects"):
        result.plot_predictions("Day")
    with pytest.raises(ArgumentError, match="one to 3 different variables"):
        result.plot_predictions(["Days", "Days"])
    with pytest.raises(DataError, match="at: 'Days' is no other variable"):
        result.plot_predictions("Days", at={"Days": 3})
    with pytest.raises(DataError, match="no grouping factor 'Pig'"):
        result.plot_predictions("Days", groups="Pig")
    with pytest.raises(DataError, match="no fixed effects but the intercept"):
        fit("plates").plot_predictions()
    with pytest.raises(DataError, match="has two random coefficients"):
        fit("plates").plot_ranef_correlation()
    with pytest.raises(DataError, match="no covariate to draw against"):
        fit("plates").plot_groups()
    gone = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", datasets.load("sleepstudy")).fit()
    gone.remove_data()
    with pytest.raises(RemovedRowsError, match="plot_predictions"):
        gone.plot_predictions()


@pytest.mark.filterwarnings("ignore:the fixed-effects design has 6 columns but rank 5")
def test_what_has_no_estimate_is_an_empty_panel():
    data = datasets.load("Oats")
    data = data[(data.nitro < 0.5) | (data.Variety != "Victory")].assign(n=lambda d: d.nitro > 0.5)
    means = sparselmm.mixedlm("Yield ~ n * Variety + (1 | Block)", data).fit().emmeans
    single, lost = (
        means("Variety", at={"Variety": "Victory"}),
        means("n", at={"Variety": "Victory"}),
    )
    for pairs in (single.pairs(), lost.pairs()):
        assert "there is nothing to estimate" in drawn(pairs.plot())


# ---------------------------------------------------------------------------- legibility


LONG = [f"a treatment with a rather long name, number {i}" for i in range(12)]


@cache
def crowded(kind="linear"):
    """Twelve levels and twenty groups with long names."""
    rng = np.random.default_rng(3)
    groups = np.repeat([f"hospital of a very long name {i}" for i in range(20)], 12)
    data = pd.DataFrame({
        "x": rng.normal(size=240), "g": groups, "f": np.array(LONG)[rng.integers(0, 12, 240)],
        "dose": np.repeat(np.arange(20) % 2, 12).astype(float),
    })  # fmt: skip
    own = np.repeat(rng.normal(size=20), 12)
    data["y"] = data.x + own + rng.normal(size=240)
    if kind == "ordinal":
        data["y"] = pd.cut(data.y, 3, labels=["low", "middle", "high"])
        return sparselmm.mixedglm("y ~ x + (1 | g)", data, family="ordinal").fit()
    return sparselmm.mixedlm("y ~ x + f + dose + (x | g)", data).fit()


def boxes(figure, texts):
    """Where texts stand in a figure that is drawn."""
    renderer = figure.canvas.get_renderer()
    return [text.get_window_extent(renderer) for text in texts if text.get_text()]


DRAWN = {
    "coefficients": lambda fit, figure: fit.plot_coefficients({"another": fit}, ax=figure),
    "ranef": lambda fit, figure: fit.plot_ranef(figure=figure),
    "ranks": lambda fit, figure: fit.plot_ranks("g", "Intercept", ax=figure),
    "means": lambda fit, figure: fit.emmeans("f").plot(ax=figure),
    "predictions": lambda fit, figure: fit.plot_predictions("f", figure=figure),
    "lines": lambda fit, figure: fit.plot_predictions(["x", "f"], figure=figure),
    "groups": lambda fit, figure: fit.plot_groups("g", "x", figure=figure),
    "shrinkage": lambda fit, figure: fit.plot_shrinkage("g", ax=figure),
    "funnel": lambda fit, figure: fit.plot_funnel("g", ax=figure),
    "shares": lambda fit, figure: fit.plot_variance_shares(ax=figure),
    "diagnostics": lambda fit, figure: fit.plot_diagnostics(figure=figure),
    "residuals": lambda fit, figure: fit.plot_residual_correlation(ax=figure),
    "influence": lambda fit, figure: fit.influence("g").plot(figure=figure),
}


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_of_a_column_keep_their_labels_inside_and_apart(name):
    figure = plt.figure(figsize=(3.3, 4.6), layout="constrained")
    in_axes = name in (
        "coefficients",
        "ranks",
        "means",
        "shrinkage",
        "funnel",
        "shares",
        "residuals",
    )
    DRAWN[name](crowded(), figure.add_subplot() if in_axes else figure)
    edge = figure.bbox.padded(2.0)
    figure.canvas.draw()
    for axis in figure.axes:
        texts = [axis.title, axis.xaxis.label, axis.yaxis.label, *axis.get_yticklabels()]
        for box in boxes(figure, texts):
            assert edge.x0 <= box.x0 < box.x1 <= edge.x1, name
        assert axis.get_position().width > 0.12, name  # the labels leave room for the picture
        rows = sorted(boxes(figure, axis.get_yticklabels()), key=lambda box: box.y0)
        for low, high in pairwise(rows):
            assert high.y0 > low.y0 + 0.5 * low.height, name
    for legend in figure.legends:
        (box,) = [legend.get_window_extent(figure.canvas.get_renderer())]
        assert edge.x0 <= box.x0 < box.x1 <= edge.x1, name


def test_long_labels_stay_different():
    assert shortened(["a", "b"], 3) == ["a", "b"]
    short = shortened(LONG, 12)
    assert len(set(short)) == 12
    assert max(map(len, short)) <= 12
    pairs = shortened([f"{LONG[0]} - {other}" for other in LONG[1:]], 20)
    assert len(set(pairs)) == 11
    assert all(" - " in label for label in pairs)


def test_legends_stand_beside_the_data_and_leave_other_panels_alone():
    figure = fit("pigs").plot_residual_correlation("Time")
    assert figure.legends
    assert figure.axes[0].get_legend() is None
    figure, (left, right) = plt.subplots(1, 2, layout="constrained")
    right.plot([0, 1], label="someone else's")
    fit("pigs").plot_coefficients({"again": fit("pigs")}, ax=left)
    assert not figure.legends
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["this model", "again"]


def test_groups_are_drawn_at_their_own_covariates():
    result = crowded()
    figure = result.plot_groups("g", "x", levels=["hospital of a very long name 1"])
    x, y = lines(figure.axes[0], "population")
    data = result.built.frame
    own = data[data.g == "hospital of a very long name 1"]
    new = pd.DataFrame({"x": x, "dose": 1.0, "f": own.f.mode().iloc[0]})
    np.testing.assert_allclose(y, result.predict(new))
    assert len(fit("sleep").plot_groups("Subject").axes) == 18


def test_ordinal_categories_may_have_any_labels():
    result = crowded("ordinal")
    figure = result.plot_predictions("x")
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["low", "middle", "high"]
    labels = [t.get_text() for t in result.plot_coefficients().axes[0].get_yticklabels()]
    assert labels == ["x"]


def test_residuals_of_a_structure_are_drawn_within_its_groups():
    data = datasets.load("sleepstudy")
    result = sparselmm.mixedlm("Reaction ~ Days", data, residual="ar1(Days | Subject)").fit()
    bars = result.plot_residual_correlation("Days").axes[0].collections[1].get_segments()
    e = (data["Reaction"] - result.predict(data)).to_numpy().reshape(18, 10)
    expected = [(e[:, k:] * e[:, :-k]).mean() / (e**2).mean() for k in range(1, 10)]
    np.testing.assert_allclose([bar[1, 1] for bar in bars if len(bar) == 2], expected)


def test_axes_say_what_the_means_are_of():
    oats = datasets.load("Oats")
    log = sparselmm.mixedlm("np.log(Yield) ~ nitro_f + (1 | Block)", oats).fit()
    half = sparselmm.mixedlm("np.log(Yield / 2) ~ nitro_f + (1 | Block)", oats).fit()
    for means, name in (
        (fit("oats").emmeans("Variety"), "marginal mean of Yield"),
        (log.emmeans("nitro_f"), "marginal mean of np.log(Yield)"),
        (log.emmeans("nitro_f", type="response"), "marginal mean of Yield"),
        (log.emmeans("nitro_f").regrid(), "marginal mean of Yield"),
        (half.emmeans("nitro_f", type="response"), "marginal mean of Yield"),
        (half.emmeans("nitro_f").regrid(), "marginal mean of Yield"),
        (herds().emmeans("period"), "marginal mean of probability"),
        (herds().emmeans("period", type="link"), "marginal mean of logit of probability"),
        (fit("pigs").emtrends("Time", "Cu"), "slope of Weight"),
    ):
        assert means.plot().axes[0].get_ylabel().replace("\n", " ") == name


def test_ratios_have_a_logarithmic_axis():
    figure = herds().plot_coefficients(exponentiate=True)
    assert figure.axes[0].get_xscale() == "log"


def drawn(figure):
    figure.savefig(io.BytesIO(), format="svg")
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


@cache
def priced():
    """Levels and columns whose names would be formulas of matplotlib, or left out of legends."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame(
        {
            "price": np.tile(["$1-$9", "lo$$", "_other"], 40),
            "x$": rng.normal(size=120),
            "shop": np.repeat([f"$\\frac{{{i}$" for i in range(12)], 10),
        }
    )
    data["y$$"] = data["x$"] + rng.normal(size=120) + np.repeat(rng.normal(size=12), 10)
    return sparselmm.mixedlm("`y$$` ~ `x$` * price + (`x$` | shop)", data).fit()


@pytest.mark.parametrize("name", ["coefficients", "diagnostics", "funnel", "groups", "predictions",
    "ranef", "ranef_correlation", "ranks", "shrinkage", "variance_shares"])  # fmt: skip
def test_dollars_in_names_are_dollars(name):
    figure = getattr(priced(), f"plot_{name}")(*(["shop"] if name in ("ranef", "ranks") else []))
    for text in drawn(figure):
        assert text.count("$") == text.count(r"\$")


def test_labels_of_series_with_dollars_and_underscores():
    means = priced().emmeans("x$", by="price", at={"x$": [0.0, 1.0]})
    assert {r"\$1-\$9", r"lo\$\$", " _other"} <= set(drawn(means.plot()))
    assert r"(\$1-\$9) - lo\$\$" in drawn(priced().emmeans("price").pairs().plot())
    assert " _other" in drawn(priced().plot_predictions(["x$", "price"]))
    assert " _b" in drawn(priced().plot_coefficients({"_b": fit("sleep")}))


def test_lines_of_a_covariate_far_from_zero_are_at_its_mean_and_a_deviation_around_it():
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"x": rng.normal(size=120), "g": np.arange(120) % 8})
    rows["year"] = 1995.0 + np.arange(120) % 17
    rows["y"] = rng.normal(size=120) + 0.1 * (rows.year - 2000)
    model = sparselmm.mixedlm("y ~ x * year + (1 | g)", rows).fit()
    drawn = model.plot_predictions(["x", "year"], data="none", bands="none")
    mean, sd = rows.year.mean(), rows.year.std(ddof=0)
    lines = drawn.axes[0].lines
    x = lines[0].get_xdata()
    for line, year in zip(lines, (mean - sd, mean, mean + sd), strict=True):
        assert float(line.get_label().removeprefix("year = ")) == pytest.approx(year, abs=0.01)
        expected = model.predict(pd.DataFrame({"x": x, "year": year}))
        np.testing.assert_allclose(line.get_ydata(), expected, atol=0.01)


def test_contrasts_are_drawn_beside_the_value_they_are_tested_against():
    def line(table):
        axis = table.plot().axes[0]
        return [float(x.get_xdata()[0]) for x in axis.lines[1:]], axis.get_xscale()

    means = fit("oats").emmeans("nitro_f")
    logs = sparselmm.mixedlm("np.log(Yield) ~ nitro_f + (1 | Block)", datasets.load("Oats")).fit()
    back = logs.emmeans("nitro_f", type="response")
    assert line(means.pairs()) == ([0.0], "linear")
    assert line(means.test(null=90.0)) == ([90.0], "linear")
    assert line(means.contrast("pairwise", null=1.0)) == ([1.0], "linear")
    assert line(back.pairs()) == ([1.0], "log")
    assert line(back.contrast("pairwise", null=np.log(2.0))) == ([pytest.approx(2.0)], "log")
    assert line(back.test()) == ([], "linear")
