"""The reference fits with residual structures, in the words of sparselmm.

``residual_*`` were fitted to the files beside them by nlme and glmmTMB, ``nlme_*`` to the data
sets of the package; see ``data/README.md``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

import sparselmm
from sparselmm import datasets

FOLDER = datasets.data_dir().joinpath("reference", "residual")

FEV = "FEV1 ~ RACE + SEX + ARMCD * AVISIT"
OVARY = "follicles ~ sin(2 * pi * Time) + cos(2 * pi * Time)"
ORTHO = "distance ~ age * Sex"
CENTRED = "distance ~ Sex * I(age - 11)"
WEIGHT = "weight ~ Time * Diet + (Time | Rat)"


@dataclass(frozen=True)
class Case:
    """One reference fit.

    Attributes
    ----------
    data, formula : str
    residual, dispersion : str or None
    interior : bool
        Whether the optimum is away from every boundary.
    """

    data: str
    formula: str
    residual: str | None = None
    dispersion: str | None = None
    interior: bool = True


CASES = {
    "residual_Ovary_ar1_int_reml": Case("Ovary", OVARY + " + (1 | Mare)", "ar1(place | Mare)"),
    "residual_Ovary_ar1_int_ml": Case("Ovary", OVARY + " + (1 | Mare)", "ar1(place | Mare)"),
    "residual_Ovary_ar1_diag_reml": Case(
        "Ovary", OVARY + " + (sin(2 * pi * Time) || Mare)", "ar1(place | Mare)"
    ),
    "residual_Ovary_car1_reml": Case("Ovary", OVARY + " + (1 | Mare)", "car1(Time | Mare)"),
    "residual_Ovary_gls_ar1_reml": Case("Ovary", OVARY, "ar1(place | Mare)"),
    "residual_BodyWeight_power_reml": Case("BodyWeight", WEIGHT, None, "~ log(Time)"),
    "residual_BodyWeight_power_exp_reml": Case(
        "BodyWeight", WEIGHT, "exp(Time | Rat)", "~ log(Time)"
    ),
    "residual_Orthodont_ident_sex_reml": Case(
        "Orthodont", ORTHO + " + (age | Subject)", None, "~ Sex"
    ),
    "residual_Orthodont_ident_sex_ml": Case("Orthodont", ORTHO + " + (1 | Subject)", None, "~ Sex"),
    "residual_Orthodont_us_reml": Case("Orthodont", ORTHO, "us(age | Subject)"),
    "residual_Orthodont_us_ml": Case("Orthodont", ORTHO, "us(age | Subject)"),
    "residual_Orthodont_cs_reml": Case("Orthodont", ORTHO, "cs(age | Subject)"),
    "residual_Orthodont_csh_reml": Case("Orthodont", ORTHO, "cs(age | Subject, hom=False)"),
    "residual_Penicillin_disp_reml": Case(
        "Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", None, "~ half"
    ),
    "residual_InstEval600_disp_ml": Case(
        "InstEval600", "y ~ C(service) + (1 | s) + (1 | d)", None, "~ C(service)"
    ),
    "residual_fev_ar1_reml": Case("fev_data", "FEV1 ~ 1", "ar1(visit | USUBJID)"),
    "residual_fev_cs_reml": Case("fev_data", "FEV1 ~ 1", "cs(visit | USUBJID)"),
    "residual_fev_us_reml": Case("fev_data", FEV, "us(AVISIT | USUBJID)"),
    "nlme_bodyweight_lme_car1_reml": Case("BodyWeight", WEIGHT, "car1(Time | Rat)"),
    "nlme_bodyweight_lme_vp_ar1_reml": Case(
        "BodyWeight", WEIGHT, "ar1(place | Rat)", "~ log(Time)"
    ),
    "nlme_bodyweight_lme_vp_ml": Case("BodyWeight", WEIGHT, None, "~ log(Time)"),
    "nlme_bodyweight_lme_vp_reml": Case("BodyWeight", WEIGHT, None, "~ log(Time)"),
    "nlme_dietox_lme_ar1_reml": Case(
        "dietox", "Weight ~ Time * Cu + (Time || Pig)", "ar1(Time | Pig)"
    ),
    "nlme_machines_lme_vident_ml": Case(
        "Machines", "score ~ Machine + (1 | Worker / Machine)", None, "~ Machine"
    ),
    "nlme_machines_lme_vident_reml": Case(
        "Machines", "score ~ Machine + (1 | Worker / Machine)", None, "~ Machine"
    ),
    "nlme_ortho_gls_un_ml": Case("Orthodont", CENTRED, "us(age | Subject)"),
    "nlme_ortho_gls_un_reml": Case("Orthodont", CENTRED, "us(age | Subject)"),
    "nlme_ortho_lme_ri_vident_ar1_ml": Case(
        "Orthodont", CENTRED + " + (1 | Subject)", "ar1(place | Subject)", "~ Sex"
    ),
    "nlme_ortho_lme_vident_ml": Case(
        "Orthodont", CENTRED + " + (I(age - 11) | Subject)", None, "~ Sex"
    ),
    "nlme_ortho_lme_vident_reml": Case(
        "Orthodont", CENTRED + " + (I(age - 11) | Subject)", None, "~ Sex"
    ),
    "nlme_ovary_gls_ar1_ml": Case("Ovary", OVARY, "ar1(place | Mare)"),
    "nlme_ovary_gls_ar1_reml": Case("Ovary", OVARY, "ar1(place | Mare)"),
    "nlme_ovary_lme_ar1_ml": Case(
        "Ovary", OVARY + " + (sin(2 * pi * Time) || Mare)", "ar1(place | Mare)"
    ),
    "nlme_ovary_lme_ar1_reml": Case(
        "Ovary", OVARY + " + (sin(2 * pi * Time) || Mare)", "ar1(place | Mare)"
    ),
    "nlme_rail_gls_cs_ml": Case("Rail", "travel ~ 1", "cs(1 | Rail)"),
    "nlme_rail_gls_cs_reml": Case("Rail", "travel ~ 1", "cs(1 | Rail)"),
    "nlme_sleep_gls_vident_reml": Case("sleepstudy", "Reaction ~ Days", None, "~ C(Days)"),
    "nlme_sleep_lme_ar1_ml": Case(
        "sleepstudy", "Reaction ~ Days + (Days | Subject)", "ar1(Days | Subject)", None, False
    ),
    "nlme_sleep_lme_ar1_reml": Case(
        "sleepstudy", "Reaction ~ Days + (Days | Subject)", "ar1(Days | Subject)", None, False
    ),
    "nlme_sleep_lme_ri_ar1_reml": Case(
        "sleepstudy", "Reaction ~ Days + (1 | Subject)", "ar1(Days | Subject)"
    ),
    "nlme_sleep_lme_vexp_reml": Case(
        "sleepstudy", "Reaction ~ Days + (Days | Subject)", None, "~ Days"
    ),
}
"""``residual_*_tmb_*`` are the same models as fitted by glmmTMB, which keeps a tiny nugget."""


def reference(name: str) -> dict[str, Any]:
    """The numbers of a fit."""
    return json.loads(FOLDER.joinpath(f"{name}.json").read_text(encoding="utf-8"))


def raw(name: str) -> pd.DataFrame:
    """A data set as it is in the file."""
    own = FOLDER.joinpath("data", f"{name}.csv.gz")
    try:
        with own.open("rb") as file:
            return pd.read_csv(file, compression="gzip")
    except FileNotFoundError:
        return datasets.load(name)


@cache
def data_of(name: str) -> pd.DataFrame:
    """A data set, with the place of every row in its group where nlme counted rows."""
    data = raw(name)
    group, time = {
        "Ovary": ("Mare", "Time"), "BodyWeight": ("Rat", "Time"), "Orthodont": ("Subject", "age"),
    }.get(name, (None, None))  # fmt: skip
    if group is not None:
        data["place"] = data.sort_values([group, time]).groupby(group).cumcount()
    if name == "fev_data":
        data = data[data.FEV1.notna()].reset_index(drop=True)
        data["visit"] = np.unique(data.AVISIT, return_inverse=True)[1]
    for sex in {"Sex", "SEX"} & set(data):  # as R orders them
        data[sex] = pd.Categorical(data[sex].astype(str), ["Male", "Female"])
    if "Diet" in data:
        data["Diet"] = data.Diet.astype(str)
    return data


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


def deviations(fit: Any, ref: dict[str, Any]) -> tuple[float, float]:
    """Largest differences of fixed effects, relative to the largest of them or one, and of their
    standard errors, relative to themselves.
    """
    beta, vcov = fixed(ref)
    size = np.array(list(ref["se"].values())) if vcov is None else np.sqrt(np.diag(vcov))
    ours, se, order = fit.fe_params.to_numpy(), fit.bse_fe.to_numpy(), matched(fit, ref)
    if vcov is None and not fit.built.design.terms and not fit.reml:  # gls divides by n - p
        se = se * np.sqrt(fit.nobs / (fit.nobs - len(beta)))
    if "glmmTMB" in ref.get("call", "") and not fit.reml:  # from the joint information
        se = fit.bse.to_numpy()[: len(se)]
    gap = np.abs(ours[order] - beta).max() / max(np.abs(beta).max(), 1.0)
    return float(gap), float(np.abs(se[order] / size - 1.0).max())


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
