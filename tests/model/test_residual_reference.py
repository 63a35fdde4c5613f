"""Fits with residual structures against nlme, glmmTMB, mmrm and SAS."""

from __future__ import annotations

import numpy as np
import pytest
from residual_fits import (
    CASES,
    FEV,
    FOLDER,
    ORTHO,
    SAS,
    data_of,
    deviations,
    fitted,
    matched,
    reference,
)

import sparselmm


def test_every_reference_fit_is_used():
    names = {path.name.removesuffix(".json") for path in FOLDER.iterdir() if "json" in path.name}
    assert {name for name in names if "_tmb_" not in name} == set(CASES)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.interior])
def test_interior_optima(name):
    fit, ref = fitted(name)
    assert fit.converged
    assert fit.llf >= ref["logLik"] - 1e-8 * abs(ref["logLik"])
    assert fit.llf == pytest.approx(ref["logLik"], rel=2e-7)  # nlme stops early on some
    assert fit.opt.n_evaluations <= 16
    beta, se = deviations(fit, ref)
    assert beta < 1e-5
    assert se < 1e-4


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.interior])
@pytest.mark.filterwarnings("ignore::sparselmm.exceptions.ModelWarning")
def test_singular_optima_end_there_too(name):
    fit, ref = fitted(name)
    assert fit.llf >= ref["logLik"] - 1e-6


@pytest.mark.parametrize("structure", SAS)
def test_what_sas_prints(structure):
    fit = sparselmm.mixedlm("FEV1 ~ 1", data_of("fev_data"), residual=structure).fit()
    assert round(-2.0 * fit.llf, 1) == SAS[structure]


@pytest.mark.slow
def test_median_evaluations():
    counts = [fitted(name)[0].opt.n_evaluations for name, c in CASES.items() if c.interior]
    assert np.median(counts) <= 8


GLMMTMB = {
    "residual_fev_us_tmb_reml": ("fev_data", FEV, "us(AVISIT | USUBJID)", None),
    "residual_Orthodont_us_tmb_reml": ("Orthodont", ORTHO, "us(age | Subject)", None),
    "residual_Penicillin_disp_reml": (
        "Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", None, "~ half",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GLMMTMB)
def test_standard_errors_of_glmmtmb(name):
    """They are those of the joint information, `bse`: those given R, as nlme has, are smaller."""
    data, formula, residual, dispersion = GLMMTMB[name]
    fit = sparselmm.mixedlm(formula, data_of(data), residual=residual, dispersion=dispersion).fit()
    ref = reference(name)
    se, order = np.array(list(ref["se"].values())), matched(fit, ref)
    assert fit.bse.to_numpy()[: len(se)][order] == pytest.approx(se, rel=1e-4)
    assert (fit.bse_fe.to_numpy()[order] < se * (1.0 + 1e-6)).all()


@pytest.mark.parametrize("reml", [True, False])
def test_errors_of_correlations_in_glmmtmbs_parameters(reml):
    """Of its log standard deviations and ``rho / sqrt(1 - rho^2)``, from its ``sdr$cov.fixed``."""
    fit = fitted("residual_Ovary_ar1_int_reml" if reml else "residual_Ovary_ar1_int_ml")[0]
    table = fit.residual_params()
    rho, sigma = table.loc["rho", "estimate"], table.loc["sigma", "estimate"]
    se_rho = table.loc["rho", "std_error"] / (1.0 - rho**2) ** 1.5
    se_sigma = table.loc["sigma", "std_error"] / sigma
    printed = (0.012139120, 0.004895109) if reml else (0.0112617374, 0.0045529972)
    assert (se_rho**2, se_sigma**2) == pytest.approx(printed, rel=1e-4)
