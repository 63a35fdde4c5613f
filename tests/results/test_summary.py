"""The printed summary: statsmodels' layout to the character, then our own tables."""

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

from sparselmm import MixedLM, datasets
from sparselmm.base.exceptions import SingularMatrixWarning
from sparselmm.inference.variances import VarianceRow
from sparselmm.results.print.summary import (
    Summary,
    coefficient_table,
    group_facts,
    info_table,
    variance_table,
)

# Printed by statsmodels 0.15.0, but for the standard error of the variance, which it scales by
# sqrt(scale) instead of scale and prints as 2.149, and the p-values, 0.000 there.
STATSMODELS = """\
         Mixed Linear Model Regression Results
========================================================
Model:            MixedLM Dependent Variable: Weight    
No. Observations: 861     Method:             REML      
No. Groups:       72      Scale:              11.3669   
Min. group size:  11      Log-Likelihood:     -2404.7753
Max. group size:  12      Converged:          Yes       
Mean group size:  12.0                                  
--------------------------------------------------------
             Coef.  Std.Err.    z    P>|z| [0.025 0.975]
--------------------------------------------------------
Intercept    15.724    0.788  19.952 <.001 14.179 17.268
Time          6.943    0.033 207.939 <.001  6.877  7.008
Pig Var      40.394    6.939                            
========================================================
"""  # noqa: W291

VARIANCES = """\
 Groups   Name Variance Std.Dev. Corr
-------------------------------------
batch    batch   1.6573   1.2874
cask             8.4337   2.9041
Residual         0.6780   0.8234
-------------------------------------
"""


@cache
def dietox(**arguments):
    data = datasets.load("sm_dietox")
    return MixedLM.from_formula("Weight ~ Time", data, groups="Pig", **arguments).fit()


def bars():
    formula = "diameter ~ 1 + (1 | plate) + (1 | sample)"
    return MixedLM.from_formula(formula, datasets.load("Penicillin")).fit()


def test_text_is_that_of_statsmodels():
    assert str(dietox().summary()).startswith(STATSMODELS)


def test_variance_table_follows():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = MixedLM.from_formula(
            "strength ~ 1", datasets.load("sm_pastes"), groups="batch", re_formula="1",
            vc_formula={"cask": "0 + C(cask)"},
        ).fit()  # fmt: skip
    text = fit.summary().as_text()
    assert VARIANCES.rstrip() in text
    assert "Another step" not in text
    assert text.endswith("-----")


def test_correlations_stand_beside_the_later_coefficient():
    fit = dietox(re_formula="~Time")
    table = fit.summary().tables[2]
    assert table.Groups.tolist() == ["Pig", "", "Residual"]
    correlation = fit.cov_re.iloc[0, 1] / np.sqrt(np.prod(np.diag(fit.cov_re)))
    assert table.Corr.tolist() == ["", f"{correlation:.2f}", ""]


def test_tables():
    fit = dietox(re_formula="~Time")
    info, coefficients, variances = fit.summary().tables
    assert info.shape == (6, 4)
    assert list(coefficients.index) == list(fit.params.index)
    assert list(coefficients.columns) == ["Coef.", "Std.Err.", "z", "P>|z|", "[0.025", "0.975]"]
    assert all(isinstance(cell, str) for cell in coefficients.to_numpy().ravel())
    assert float(coefficients.loc["Time Var", "Coef."]) == round(fit.cov_re.iloc[1, 1], 3)
    assert float(coefficients.loc["Time Var", "Std.Err."]) == round(fit.bse_re["Time Var"], 3)
    assert list(coefficients.loc["Time Var"][2:]) == [""] * 4
    assert list(variances.columns) == ["Groups", "Name", "Variance", "Std.Dev.", "Corr"]


def test_arguments():
    fit = dietox()
    summary = fit.summary("w", ["a", "b"], ["c"], "A title", alpha=0.1)
    assert list(summary.tables[1].index) == ["a", "b", "c"]
    assert list(summary.tables[1].columns[4:]) == ["[0.05", "0.95]"]
    low, high = fit.conf_int(0.1).loc["Time"]
    assert summary.tables[1].loc["b"].tolist()[4:] == [f"{low:.3f}", f"{high:.3f}"]
    assert summary.tables[0].iloc[0, 3] == "w"
    assert str(summary).splitlines()[0].strip() == "A title"
    for arguments in ({"xname_fe": ["a"]}, {"xname_re": ["a", "b"]}):
        with pytest.raises(ValueError, match="length"):
            fit.summary(**arguments)


def test_bars_show_the_levels_of_each_factor():
    info = bars().summary().tables[0]
    assert info[0].tolist() == [
        "Model:", "No. Observations:", "Groups plate:", "Groups sample:", "",
    ]  # fmt: skip
    assert info[1].tolist() == ["MixedLM", "144", "24", "6", ""]
    lines = str(bars().summary()).splitlines()
    rule = next(i for i, line in enumerate(lines) if line.startswith("="))
    assert len({len(line) for line in lines[rule : rule + 11]}) == 1


def test_a_singular_fit_is_said_in_words():
    with pytest.warns(SingularMatrixWarning):
        fit = MixedLM.from_formula("Yield ~ 1 + (1 | Batch)", datasets.load("Dyestuff2")).fit()
    assert "Singular fit" in str(fit.summary())
    assert fit.summary().tables[1].loc["Batch Var"].tolist() == ["0.000", *[""] * 5]


def test_html_and_latex():
    fit = bars()
    html = fit._repr_html_()
    assert html.count("<table") == html.count("</table>") == 3
    assert "P&gt;|z|" in html
    assert "plate Var" in html
    latex = fit.summary().as_latex("tab:fit")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 3
    assert r"\label{tab:fit}" in latex
    assert r"P\textgreater{}" in latex
    assert repr(fit.summary()) == str(fit.summary()) == fit.summary().as_text()


def made_up(names, numbers, left, yname, title="T"):
    rows = [
        VarianceRow("g", "Intercept", None, 4.0, 2.0),
        VarianceRow("Residual", None, None, 1.0, 1.0),
    ]
    right = [("Dependent Variable:", yname), ("Scale:", "1.0000")]
    tables = [
        info_table([("Model:", "MixedLM"), *left], right),
        coefficient_table(numbers, names, 0.05),
        variance_table(rows),
    ]
    return Summary(tables, title, ("A note.",))


CASES = {
    "wide names": (["x" * 60, "b"], np.arange(12.0).reshape(2, 6), "y"),
    "wide response": (["a"], np.full((1, 6), 1234567.891), "response_" * 12),
    "blanks": (["a", "b Var"], np.array([[1.0] * 6, [2.0, np.nan, *[np.nan] * 4]]), "y"),
    "large numbers": (["a"], np.array([[-1e9, 1e-9, 1e12, 0.5, -2e9, 3e9]]), "y"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("title", ["T", "A title that is wider than many a table " * 3])
def test_layout_against_statsmodels(case, title):
    summary2 = pytest.importorskip("statsmodels.iolib.summary2")
    names, numbers, yname = CASES[case]
    ours = made_up(names, numbers, group_facts(np.array([2, 3, 4])), yname, title)
    theirs = summary2.Summary()
    theirs.add_array(ours.tables[0], align="l")
    theirs.add_df(ours.tables[1], align="r")
    theirs.add_title(title)
    expected = theirs.as_text()
    assert ours.as_text()[: len(expected)] == expected


def test_variance_table_numbers():
    rows = [
        VarianceRow("g", "Intercept", None, 1.5, 1.2247),
        VarianceRow("g", "x", None, 0.0, 0.0),
        VarianceRow("g", "z", None, 1e-8, 1e-4),
        VarianceRow("g", "Intercept", "x", 0.0, np.nan),
        VarianceRow("g", "Intercept", "z", 0.0, 0.25),
        VarianceRow("g", "x", "z", 0.0, np.nan),
        VarianceRow("Residual", None, None, 1.0, 1.0),
    ]
    table = variance_table(rows)
    assert table.Corr.tolist() == ["", "-", "0.25 -", ""]
    assert table.Variance.tolist() == ["1.5000", "0", "1e-08", "1.0000"]
    assert isinstance(table, pd.DataFrame)
