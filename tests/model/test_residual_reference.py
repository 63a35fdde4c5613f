"""Fits with residual structures against nlme, glmmTMB, mmrm and SAS."""

from __future__ import annotations

import numpy as np
import pytest
from residual_fits import CASES, FOLDER, data_of, reference

import sparselmm

SAS = {
    "ar1(visit | USUBJID)": 3875.5,
    "ar1h(visit | USUBJID)": 3740.0,
    "cs(visit | USUBJID)": 3918.0,
    "csh(visit | USUBJID)": 3784.9,
    "toeph(visit | USUBJID)": 3722.4,
    "adh(visit | USUBJID)": 3713.5,
    "gau(VISITN | USUBJID)": 3870.7,
}
"""-2 REML log-likelihoods of ``FEV1 ~ 1`` as SAS prints them (openpharma/mmrm, its tests)."""


def fitted(name):
    case, ref = CASES[name], reference(name)
    model = sparselmm.mixedlm(
        case.formula, data_of(case.data), residual=case.residual, dispersion=case.dispersion
    )
    reml = ref.get("REML", "REML" in ref.get("criterion", "") if "REML" not in ref else True)
    return model.fit(reml=bool(reml)), ref


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
    beta, vcov = fixed(ref)
    size = np.sqrt(np.diag(vcov)) if vcov is not None else np.array(list(ref["se"].values()))
    ours, se = fit.fe_params.to_numpy(), fit.bse_fe.to_numpy()
    order = matched(fit, ref)
    assert np.abs(ours[order] - beta).max() < 1e-5 * max(np.abs(beta).max(), 1.0)
    gls_ml = not fit.built.design.terms and not fit.reml and vcov is None
    factor = np.sqrt(fit.nobs / (fit.nobs - len(beta))) if gls_ml else 1.0
    if "glmmTMB" in ref.get("call", "") and not fit.reml:  # from the joint information
        se = fit.bse.to_numpy()[: len(se)]
    assert se[order] * factor == pytest.approx(size, rel=1e-4)


def fixed(ref):
    if "fixef" in ref:
        return np.array(ref["fixef"]), np.array(ref["vcov"])
    return np.array(list(ref["beta"].values())), None


def matched(fit, ref):
    """Our columns in the reference's order: interactions and factors are named by their parts."""
    names = ref["fixef_names"] if "fixef_names" in ref else list(ref["beta"])
    plain = [frozenset(simple(part) for part in name.split(":")) for name in fit.fe_params.index]
    return [plain.index(frozenset(simple(part) for part in name.split(":"))) for name in names]


def simple(name):
    text = name.replace("[T.", "").replace("C(", "").replace("np.", "")
    return "".join(c for c in text if c.isalnum())


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
