"""What SAS, Stata and SPSS printed for pupils of 160 schools (the High School and Beyond survey).

SAS: UCLA's pages to Raudenbush and Bryk (2002), Tables 4.2 and 4.3. Stata: UCLA's pages to
Singer (1998), and "Estimating HLM models using Stata" (Albright). SPSS: the University of Coimbra.
Compared to the printed digit, but for the variance of schools: SAS stopped before the minimum in
its third decimal, Stata in its fifth.
"""

from __future__ import annotations

import numpy as np
import pytest

import sparselmm
from sparselmm import MixedLM, MixedLMResults


def model(formula: str) -> MixedLM:
    return MixedLM.from_formula(formula, sparselmm.datasets.load("MathAchieve"))


@pytest.fixture(scope="module")
def empty() -> MixedLMResults:
    return model("MathAch ~ 1 + (1 | School)").fit()


@pytest.fixture(scope="module")
def means() -> MixedLMResults:
    return model("MathAch ~ MEANSES + (1 | School)").fit()


def test_stata(empty: MixedLMResults, means: MixedLMResults) -> None:
    rows = empty.variance_components()
    assert round(empty.llf, 3) == -23558.397
    assert round(empty.fe_params.iloc[0], 5) == 12.63697
    assert empty.bse_fe.iloc[0] == pytest.approx(0.2443937, abs=6e-7)
    assert rows["vcov"].to_numpy() == pytest.approx([8.614034, 39.14832], rel=2e-6)
    assert rows["vcov_se"].to_numpy() == pytest.approx([1.078805, 0.6606446], abs=6e-6)
    assert round(means.llf, 3) == -23480.642
    assert round((means.fe_params["MEANSES"] / means.bse_fe["MEANSES"]) ** 2, 2) == 263.15


def test_spss(empty: MixedLMResults) -> None:
    row = empty.tidy(ddf="satterthwaite").iloc[0]
    assert round(-2 * empty.llf, 3) == 47116.793
    assert row["estimate"] == pytest.approx(12.636974, abs=6e-7)
    assert row["std.error"] == pytest.approx(0.244394, abs=6e-7)
    assert row["df"] == pytest.approx(156.647, abs=6e-4)
    assert row["statistic"] == pytest.approx(51.707, abs=6e-4)


def test_sas(means: MixedLMResults) -> None:
    assert round(-2 * means.llf, 1) == 46961.3
    assert means.fe_params.to_numpy() == pytest.approx([12.6495, 5.8635], abs=2e-4)
    assert means.bse_fe.to_numpy() == pytest.approx([0.1492, 0.3613], abs=2e-4)
    theirs = means.model.fit(fix={"School": {"sd": np.sqrt(2.6357)}, "sigma": np.sqrt(39.1578)})
    assert theirs.fe_params.to_numpy() == pytest.approx([12.6495, 5.8635], abs=6e-5)
    assert theirs.bse_fe.to_numpy() == pytest.approx([0.1492, 0.3613], abs=6e-5)
    assert theirs.llf < means.llf
