"""Reports, sentences, the citation, what packages that make tables read."""

import re
from functools import cache

import pandas as pd
import pytest

import sparselmm
from sparselmm import datasets
from sparselmm.base.exceptions import DataError, FileError
from sparselmm.results.print.notebook import cell, frame_html, frame_text

plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("Agg")


@cache
def sleep():
    return sparselmm.mixedlm(
        "Reaction ~ Days + (Days | Subject)", datasets.load("sleepstudy")
    ).fit()


@cache
def herds():
    formula = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
    return sparselmm.mixedglm(formula, datasets.load("cbpp")).fit()


def test_sentences_have_the_numbers():
    text = sleep().apa()["Days"]
    fixed = sleep().tidy("fixed", conf_int=True, ddf="satterthwaite").iloc[1]
    numbers = [float(v) for v in re.findall(r"-?[0-9]+\.[0-9]+", text)]
    expected = [fixed["estimate"], fixed["std.error"], fixed["conf.low"], fixed["conf.high"],
                fixed["df"], fixed["statistic"]]  # fmt: skip
    assert numbers == pytest.approx(expected, abs=0.005)
    assert text.endswith("p < .001")
    assert "z = -3.24, p = .001" in herds().apa()["period[T.2]"]
    assert "99% CI" in sleep().apa(alpha=0.01)["Days"]


def test_a_page_that_needs_no_other_file(tmp_path):
    before = plt.get_fignums()
    report = sleep().report()
    assert plt.get_fignums() == before
    page = report.html
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"(src|href)=[\'\"](?!data:)", page)
    for part in ("180 rows", "slopes of Days", "18 levels of Subject", "251.41", "24.74", "numpy"):
        assert part in page
    assert report.save(tmp_path / "fit.html").read_text(encoding="utf-8") == page
    text = report.save(tmp_path / "fit.md").read_text(encoding="utf-8")
    assert text.startswith("# Mixed model of Reaction")
    assert "| Days | 10.467 |" in text
    assert "iframe" in report._repr_html_()
    with pytest.raises(FileError, match="path: cannot write"):
        report.save(tmp_path / "no" / "fit.html")


def test_text_is_escaped():
    data = datasets.load("sleepstudy").rename(columns={"Subject": "a<b"})
    fit = sparselmm.mixedlm("Reaction ~ Days", data, groups="a<b").fit()
    page = fit.report("<script>", pictures=False).html
    assert "<script>" not in page
    assert "a&lt;b" in page


def test_generalized_models_report_too():
    page = herds().report().html
    assert "binomial, logit link" in page
    assert page.count("data:image/png;base64,") == 4


def test_residual_structures_report_too():
    data = datasets.load("dietox")
    fit = sparselmm.mixedlm(
        "Weight ~ Time + (1 | Pig)", data.iloc[:240], residual="ar1(Time | Pig)"
    ).fit()
    page = fit.report().html
    assert "Residuals" in page
    assert page.count("data:image/png;base64,") == 4


def test_tables_of_other_packages():
    table = sleep().__maketables_coef_table__
    assert {"b", "se", "t", "p"} <= set(table)
    assert table.loc["Days", "b"] == pytest.approx(sleep().fe_params["Days"])
    assert sleep().__maketables_stat__("N") == 180
    assert sleep().__maketables_stat__("nope") is None
    assert sleep().__maketables_stat__("aic") == sleep().aic_reml
    assert herds().__maketables_stat__("aic") == herds().aic
    assert isinstance(herds().__maketables_coef_table__, pd.DataFrame)


def test_citation():
    assert "sparselmm" in sparselmm.citation()
    assert sparselmm.citation("bibtex").startswith("@software{sparselmm,")
    with pytest.raises(ValueError, match="style must be one of"):
        sparselmm.citation("apa7")


def test_reports_of_rows_without_groups():
    growth = datasets.load("Orthodont")
    fit = sparselmm.mixedlm("distance ~ age", growth, dispersion="~ Sex").fit()
    assert fit.report().html.count("data:image/png;base64,") == 2


def test_reports_say_what_residuals_are_assumed_to_be():
    sleep = datasets.load("sleepstudy")
    ar1 = sparselmm.mixedlm("Reaction ~ Days", sleep, residual="ar1(Days | Subject)").fit()
    page = ar1.report(pictures=False)
    assert "falls geometrically with the steps apart (ar1)" in page.markdown
    assert "random effects" not in page.markdown
    assert "| rho |" in page.markdown
    assert "N(0, R<sub>Subject</sub>)" in page.html
    children = datasets.load("Orthodont")
    trial = sparselmm.mmrm("distance ~ age * Sex + us(age | Subject)", children)
    assert "a variance for every visit" in trial.report(pictures=False).markdown
    with pytest.raises(DataError, match="no random effects"):
        trial.plot_ranef()


def test_reports_of_ordinal_and_binomial_responses():
    wine = datasets.load("wine")
    ordinal = sparselmm.mixedglm("rating ~ temp + (1 | judge)", wine, family="ordinal").fit()
    assert "logit(P(<i>rating</i> &gt; k))" in ordinal.report(pictures=False).html
    formula = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
    herds = sparselmm.mixedglm(formula, datasets.load("cbpp"), family="binomial").fit()
    assert "logit(p) = &beta;<sub>0</sub>" in herds.report(pictures=False).html


def test_reports_tell_of_zeros_and_dispersion():
    ticks = datasets.load("grouseticks")
    formula = "TICKS ~ YEAR + cHEIGHT + (1 | BROOD)"

    def told(**further):
        fit = sparselmm.mixedglm(formula, ticks, **further).fit()
        return fit.report(pictures=False).markdown

    zeros = told(family="poisson", zi="~ YEAR")
    assert "probability of an excess zero depends on YEAR[T.96] and YEAR[T.97]." in zeros
    assert "> log(μ) = β_0 + β_1 YEAR[T.96]" in zeros
    assert "> logit(P(excess zero)) = ζ_0 + ζ_1 YEAR[T.96] + ζ_2 YEAR[T.97]" in zeros
    hurdle = told(family="poisson", hurdle="~ 1")
    assert "the probability of a zero is the same for all rows." in hurdle
    assert "> logit(P(zero)) = ζ_0" in hurdle
    spread = told(family="nbinom2", dispersion="~ YEAR")
    assert "> log(E TICKS) = β_0" in spread
    assert "> log(dispersion) = \N{GREEK SMALL LETTER GAMMA}_0 + " in spread
    assert "_2 YEAR[T.97]" in spread.split("log(dispersion)")[1]
    assert "dispersion depends" not in told(family="nbinom2")


def test_reports_give_advice_that_can_be_taken():
    """Structures of the residuals refuse Cook's distance, so that their checks do not name it."""
    sleep = datasets.load("sleepstudy")
    structure = {"residual": "ar1(Days | Subject)", "dispersion": "~ Days"}
    fit = sparselmm.mixedlm("Reaction ~ Days + (1 | Subject)", sleep, **structure).fit()
    page = fit.report(pictures=False).markdown
    assert "a fit without them says whether they matter" in page
    assert "standard deviation depends on Days." in page
    assert "> log sd(" in page
    assert "_1 Days\n" in page.split("> log sd(")[1]
    plain = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", sleep).fit()
    assert "results.cooks_distance() says" in plain.report(pictures=False).markdown


def test_large_numbers_keep_their_digits():
    """Criteria of large data differ in digits that a power of ten would hide."""
    frame = pd.DataFrame({"aic": [237745.8712, 237760.1], "small": [0.25, 1234567.0]})
    assert "2.377" not in frame_text(frame) + frame_html(frame, "")
    assert "237745.9" in frame_html(frame, "")
    assert [cell(237745.8712), cell(-118866.917), cell(3e12)] == ["237745.9", "-118866.9", "3e+12"]


def test_a_centred_covariate_is_at_zero():
    ticks = datasets.load("grouseticks")
    fit = sparselmm.mixedglm("TICKS ~ YEAR + cHEIGHT + (1 | BROOD)", ticks, family="poisson").fit()
    figure = fit.plot_predictions("YEAR")
    words = [text.get_text() for text in (*figure.texts, *figure.axes[0].texts)]
    words.append(figure.axes[0].get_xlabel())
    assert any("cHEIGHT = 0" in word and "e-" not in word for word in words)
