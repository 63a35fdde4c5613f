"""Reference fits of generalized models: data, formula and family of each."""

import json
from functools import cache
from pathlib import Path

import pandas as pd

import sparselmm

HERE = Path(__file__).parents[2] / "data" / "reference" / "glmm"

CBPP = "cbind(incidence, size - incidence) ~ C(period) + (1 | herd)"
CONTRACEPTION = "use ~ age + I(age^2) + urban + livch"
VERBAGG = "Anger + Gender + btype + situ"
FITS = {  # id of the fit: data, formula, arguments
    "cbpp_logit": ("cbpp", CBPP, {}),
    "cbpp_obs": ("cbpp", CBPP + " + (1 | obs)", {}),
    "cbpp_probit": ("cbpp", CBPP, {"link": "probit"}),
    "cbpp_cloglog": ("cbpp", CBPP, {"link": "cloglog"}),
    "cbpp_betabinomial": ("cbpp", CBPP, {"family": "betabinomial"}),
    "grouse_pois": (
        "grouseticks",
        "TICKS ~ C(YEAR) + cHEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)",
        {"family": "poisson"},
    ),
    "grouse_nb2": (
        "grouseticks",
        "TICKS ~ C(YEAR) + cHEIGHT + (1 | BROOD) + (1 | LOCATION)",
        {"family": "nbinom2"},
    ),
    "contraception_logit": ("Contraception", CONTRACEPTION + " + (1 | district)", {}),
    "contraception_slope": ("Contraception", CONTRACEPTION + " + (urban | district)", {}),
    "bacteria_logit": ("bacteria", "y ~ trt + late + (1 | ID)", {}),
    "bacteria_cloglog": ("bacteria", "y ~ trt + late + (1 | ID)", {"link": "cloglog"}),
    "sleep_gamma": ("sleepstudy", "Reaction ~ Days + (Days | Subject)", {"family": "gamma"}),
    "gasoline_beta": ("Gasoline", "p ~ endpoint + vapor + (1 | Sample)", {"family": "beta"}),
    "gasoline_gamma": ("Gasoline", 'Q("yield") ~ endpoint + (1 | Sample)', {"family": "gamma"}),
    "arabidopsis_pois": (
        "Arabidopsis",
        'Q("total.fruits") ~ C(nutrient) * amd + C(rack) + status + (1 | popu) + (1 | gen)',
        {"family": "poisson"},
    ),
    "wine_logit": ("wine", "rating ~ temp + contact + (1 | judge)", {"family": "ordinal"}),
    "wine_probit": (
        "wine",
        "rating ~ temp + contact + (1 | judge) + (1 | bottle)",
        {"family": "ordinal", "link": "probit"},
    ),
    "wine_agq10": (
        "wine", "rating ~ temp + contact + (1 | judge)", {"family": "ordinal", "nagq": 10},
    ),
    "verbagg_logit": ("VerbAgg", f"r2i ~ {VERBAGG} + (1 | id) + (1 | item)", {}),
    "verbagg_slope": ("VerbAgg", f"r2i ~ {VERBAGG} + (situ | id) + (1 | item)", {}),
    "verbagg_ordinal": (
        "VerbAgg", f"resp ~ {VERBAGG} + (1 | id) + (1 | item)", {"family": "ordinal"},
    ),
}  # fmt: skip
OBSERVED = ("bacteria_cloglog", "cbpp_probit", "cbpp_cloglog", "bacteria_logit", "cbpp_obs",
            "contraception_slope", "grouse_pois")  # fmt: skip
"""Fits with a second record, by glmmTMB, whose weights are ours."""

BASES = {"bacteria": {"trt": ["placebo", "drug", "drug+"]}}
"""Order of the levels of factors where it is not that of their names."""


@cache
def data_of(name):
    """Data of a fit as R wrote them."""
    frame = pd.read_csv(HERE / "data" / f"{name}.csv.gz")
    for column, levels in BASES.get(name, {}).items():
        frame[column] = pd.Categorical(frame[column], levels)
    if name == "VerbAgg":
        frame["resp"] = pd.Categorical(frame.resp, ["no", "perhaps", "yes"], ordered=True)
    return frame


@cache
def reference(name):
    """The record of a fit."""
    return json.loads((HERE / "fits" / f"{name}.json").read_text(encoding="utf-8"))


def best_log_likelihood(name):
    """The highest log-likelihood any engine reached with our approximation."""
    if name in OBSERVED:
        return reference(f"{name}_tmb")["logLik"]
    return reference(name)["logLik"]


@cache
def fit_of(name):
    """Our fit of it."""
    data, formula, arguments = FITS[name]
    return sparselmm.mixedglm(formula, data_of(data), **arguments).fit()


# ------------------------------------------------------------------------ exact likelihoods

EXACT = tuple(sorted(path.stem for path in (HERE / "exact").glob("*.json")))


@cache
def exact(name):
    """An independent Laplace or quadrature optimum."""
    return json.loads((HERE / "exact" / f"{name}.json").read_text(encoding="utf-8"))


@cache
def exact_data(name):
    """Its data, factors with their levels."""
    path = HERE / "exact_data" / f"{name}.csv.gz"
    if not path.exists():
        return sparselmm.datasets.load(name)
    schema = json.loads((HERE / "exact_data" / "schema.json").read_text(encoding="utf-8"))
    columns = schema[name]["columns"]
    labels = {c["name"]: c["levels"] for c in columns if c["type"] in ("factor", "ordered")}
    frame = pd.read_csv(
        path, dtype=dict.fromkeys(labels, str), keep_default_na=False, na_values=[""],
    )  # fmt: skip
    for column, levels in labels.items():
        frame[column] = pd.Categorical(frame[column], levels)
    return frame


@cache
def exact_fit_of(name):
    """Our fit of it."""
    record = exact(name)
    model = sparselmm.mixedglm(
        record["formula"], exact_data(record["dataset"]), family=record["family"],
        link=record["link"], nagq=record["nAGQ"],
    )  # fmt: skip
    return model.fit()
