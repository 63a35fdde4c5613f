"""Fits with residual structures against nlme, glmmTMB, mmrm and SAS."""

from __future__ import annotations

import numpy as np
import pytest
from residual_fits import CASES, FOLDER, SAS, data_of, deviations, fitted

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
