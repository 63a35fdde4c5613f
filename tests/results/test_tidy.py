"""Tables in broom's names: against broom.mixed, and what LaTeX and HTML make of them."""

import html.parser
import json
import re

import numpy as np
import pandas as pd
import pytest
from reference_models import at_reference, compare

import sparselmm
from sparselmm import datasets
from sparselmm.results.print.model_table import number

pytestmark = [
    pytest.mark.filterwarnings("ignore::sparselmm.SingularMatrixWarning"),
    pytest.mark.filterwarnings("ignore::sparselmm.SpecificationWarning"),
]

_PATH = datasets.data_dir().joinpath("reference/extra/broom.json")
BROOM = json.loads(_PATH.read_text(encoding="utf-8"))["fits"]
TESTED = [name for name in BROOM if "satterthwaite" in BROOM[name]]


def frame(name, part):
    """A table of broom.mixed with our names of terms and levels."""
    table = BROOM[name][part]
    columns = table["columns"]
    out = pd.DataFrame({column: table[column] for column in columns})
    if "term" in out:
        ours = dict(compare(name).ref.names)
        ours |= {key.replace("(Intercept)", "Intercept"): new for key, new in ours.items()}

        def translate(term):
            head, mark, rest = term.rpartition("__")
            parts = [ours.get(part, part) for part in rest.split(".")]
            return head + mark + ".".join(parts).replace("(Intercept)", "Intercept")

        out["term"] = out["term"].map(translate)
    if part in ("tidy", "satterthwaite", "kenward_roger"):  # patsy has another order of columns
        order = {term: i for i, term in enumerate(compare(name).fit.model.exog_names)}
        fixed = out[out["effect"] == "fixed"].sort_values("term", key=lambda x: x.map(order))
        out = pd.concat([fixed, out[out["effect"] != "fixed"]])
    return out


def same(ours, theirs, rtol=1e-6):
    """The same names of columns and rows, in the same order, and the same numbers."""
    assert list(ours.columns) == list(theirs.columns)
    assert len(ours) == len(theirs)
    for column in theirs:
        if column in ("effect", "group", "term", "level"):
            a, b = (x[column].astype(object).where(x[column].notna(), None) for x in (ours, theirs))
            assert a.tolist() == b.tolist(), column
        else:
            a, b = (pd.to_numeric(x[column]).to_numpy(float) for x in (ours, theirs))
            atol = rtol * np.nanmax(np.abs(b), initial=0.0)
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=column)


@pytest.mark.parametrize("name", BROOM)
def test_tidy_is_that_of_broom(name):
    fit = at_reference(name)
    same(fit.tidy(conf_int=True), frame(name, "tidy"))
    same(fit.tidy("ran_pars", scale="vcov"), frame(name, "tidy_vcov"))


@pytest.mark.parametrize("name", TESTED)
@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger"])
def test_tidy_with_degrees_of_freedom_is_that_of_lmertest(name, ddf):
    theirs = frame(name, ddf.replace("-", "_"))
    ours = at_reference(name).tidy(conf_int=True, ddf=ddf)
    same(ours, theirs)


@pytest.mark.parametrize("name", BROOM)
@pytest.mark.parametrize("effects", ["ran_vals", "ran_coefs"])
def test_random_effects_are_those_of_broom(name, effects):
    theirs = frame(name, effects)
    ours = at_reference(name).tidy(effects, conf_int=effects == "ran_vals")
    assert list(ours.columns) == list(theirs.columns)
    if name == "sleep_zcp_reml":  # broom.mixed calls both terms Subject, in another order
        theirs["group"] = "Subject"
    keys = ["group", "level", "term"]
    ours["group"] = ours["group"].map(lambda group: ":".join(sorted(group.split(":"))))
    theirs["group"] = theirs["group"].map(lambda group: ":".join(sorted(group.split(":"))))
    both = theirs.merge(ours, on=keys, suffixes=("", " ours"))
    assert len(both) == len(theirs)
    for column in set(theirs.columns) - {*keys, "effect"}:
        size = both[column].abs().max() + 1e-12
        np.testing.assert_allclose(both[f"{column} ours"], both[column], atol=1e-6 * size)


@pytest.mark.parametrize("name", BROOM)
def test_glance_is_that_of_broom(name):
    same(at_reference(name).glance(), frame(name, "glance"))


@pytest.mark.parametrize("name", BROOM)
def test_augment_is_that_of_broom(name):
    theirs, ours = frame(name, "augment"), at_reference(name).augment()
    numbers = [column for column in theirs if column.startswith(".")]
    assert [column for column in ours if column.startswith(".")] == numbers
    same(ours[numbers].iloc[: len(theirs)], theirs[numbers])


def test_effects_are_the_same_in_any_order():
    fit = compare("sleep_slope_reml").fit
    pd.testing.assert_frame_equal(fit.tidy(["ran_pars", "fixed"]), fit.tidy())
    assert list(fit.tidy("fixed").columns) == [
        "effect",
        "term",
        "estimate",
        "std.error",
        "statistic",
    ]
    with pytest.raises(ValueError, match="effects must be"):
        fit.tidy("random")
    with pytest.raises(ValueError, match="conf_level"):
        fit.tidy(conf_level=95)
    with pytest.raises(ValueError, match="scale"):
        fit.tidy(scale="sd")


def test_variance_components_have_the_name_of_the_component():
    data = sparselmm.datasets.load("Pastes")
    fit = sparselmm.mixedlm(
        "strength ~ 1", data, groups="batch", vc_formula={"cask": "0 + C(cask)"}, re_formula="1"
    ).fit()
    table = fit.tidy("ran_pars")
    assert table["group"].tolist() == ["batch", "cask", "Residual"]
    assert table["term"].tolist() == ["sd__batch", "sd__cask", "sd__Observation"]


def test_augment_other_data():
    data = sparselmm.datasets.load("sleepstudy")
    holes = data.assign(Days=data["Days"].where(data.index != 3))
    fit = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", holes, missing="drop").fit()
    assert len(fit.augment()) == 179
    wider = fit.augment(holes.assign(more=1))
    assert "more" in wider
    assert 3 not in wider.index
    with pytest.raises(sparselmm.DataError, match="180 before"):
        fit.augment(holes.iloc[:5])
    X = np.column_stack([np.ones(180), data["Days"]])
    arrays = sparselmm.MixedLM(data["Reaction"].to_numpy(), X, groups=data["Subject"].to_numpy())
    assert {"y", ".hat"} <= set(arrays.fit().augment().columns)


# --------------------------------------------------------------------------------- tables


@pytest.fixture(scope="module")
def fits():
    data = sparselmm.datasets.load("sleepstudy").assign(**{"a_b & 5%": 1.0})
    data["a_b & 5%"] = np.sin(np.arange(len(data)))
    return [
        sparselmm.mixedlm(f"Reaction ~ {right}", data).fit(reml=False)
        for right in ("Days + (Days | Subject)", "Days + Q('a_b & 5%') + (1 | Subject)")
    ]


def test_table_side_by_side(fits):
    table = fits[0].to_table(fits[1], names=["slopes", "a < b"], digits=2)
    text = str(table)
    rows = {name: cells for block in table.blocks for name, cells in block if name}
    assert rows["Days"] == tuple(f"{fit.fe_params['Days']:.2f}" for fit in fits)
    assert rows["Q('a_b & 5%')"][0] == ""
    assert rows["Subject: sd Days"] == (f"{fits[0].varcorr.sdcor.iloc[1]:.2f}", "")
    assert rows["Observations"] == ("180", "180")
    assert rows["Log-likelihood"] == tuple(f"{fit.llf:.2f}" for fit in fits)
    assert text.splitlines()[0].split() == ["slopes", "a", "<", "b"]
    with pytest.raises(ValueError, match="2 fits need as many names"):
        fits[0].to_table(fits[1], names=["one"])


def test_latex_is_balanced_and_escaped(fits):
    text = fits[0].to_latex(fits[1], label="tab:sleep", title="50% & more", ddf="z")
    assert text.count(r"\begin") == text.count(r"\end") == 2
    body = re.sub(r"\\[&%$#_{}]", "", text)
    rows = [
        line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line
    ]
    assert {line.count("&") for line in rows} == {2}
    assert "%" not in body
    assert "_" not in body
    assert body.count("{") == body.count("}")
    assert text.count("$") % 2 == 0
    assert r"50\% \& more" in text
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\label{tab:sleep}"):
        assert rule in text
    assert "***" in text


class Balance(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.cells = [], []

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.cells.append(0)
        elif tag in ("td", "th"):
            self.cells[-1] += int(dict(attrs).get("colspan", 1))
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_well_formed_and_escaped(fits):
    text = fits[0].to_html(fits[1], names=["x", "a < b"])
    checker = Balance()
    checker.feed(text)
    assert not checker.open
    assert set(checker.cells) == {3}
    assert "a &lt; b" in text
    assert fits[0].to_table()._repr_html_() == fits[0].to_html()


def test_dropped_columns_are_shown_as_such():
    data = sparselmm.datasets.load("sleepstudy")
    with pytest.warns(sparselmm.RankDeficiencyWarning):
        fit = sparselmm.mixedlm("Reaction ~ Days + I(2 * Days) + (1 | Subject)", data).fit()
    rows = dict(fit.to_table().blocks[0])
    assert rows["I(2 * Days)"] == ("dropped",)
    assert np.isnan(fit.tidy("fixed")["estimate"].iloc[-1])


def test_small_numbers_keep_their_digits():
    assert number(0.00012345, 3) == "1.23e-04"
    assert number(0.0, 3) == "0.000"
    assert number(-1234.5678, 2) == "-1234.57"
