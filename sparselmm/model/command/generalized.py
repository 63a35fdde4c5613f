"""Generalized models on the command line: ``sparselmm fit ... --family poisson``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from sparselmm.model.mixedglm import MixedGLM
from sparselmm.results.general.core import MixedGLMResults

ONLY_LINEAR = {"ml": False, "method": None, "engine": "auto", "plan": False, "residual": None,
               "ddf": None, "chunk_rows": None}  # fmt: skip
"""Options without a meaning for generalized models, and their values when not given."""

ONLY_GENERAL = ("link", "trials", "dispersion", "zi", "hurdle", "nagq")


def add_options(fit: argparse.ArgumentParser) -> None:
    """Add the options of generalized models."""
    group = fit.add_argument_group("generalized models")
    add = group.add_argument
    add("--family", help="binomial, betabinomial, beta, poisson, nbinom1, nbinom2, gamma, "
        "inverse_gaussian, gaussian or ordinal; default a linear model")  # fmt: skip
    add("--link", help="link of the family; default its own")
    add("--trials", metavar="COL", help="column of numbers of trials of a binomial response")
    add("--zi", metavar="FORMULA", help="formula of excess zeros of counts, '~ 1'")
    add("--hurdle", metavar="FORMULA", help="formula of zeros before a hurdle, '~ 1'")
    add("--nagq", type=int, metavar="N", help="nodes of the quadrature; default 1, Laplace")


def refused(arguments: argparse.Namespace) -> str | None:
    """What is wrong with the options given together, or None."""
    if arguments.family is None:
        own = [name for name in ONLY_GENERAL if name != "dispersion"]
        wrong = [name for name in own if getattr(arguments, name) is not None]
        return f"--{wrong[0]} needs --family; give one such as binomial" if wrong else None
    for name, default in ONLY_LINEAR.items():
        if getattr(arguments, name) != default:
            return f"--{name.replace('_', '-')} is for linear models; leave it out with --family"
    return None


def model_of(arguments: argparse.Namespace, data: Any, env: int) -> MixedGLM:
    """The model that the options describe."""
    given = {name: getattr(arguments, name) for name in ONLY_GENERAL if name != "nagq"}
    return MixedGLM.from_formula(
        arguments.formula, data, re_formula=arguments.re, vc_formula=dict(arguments.vc) or None,
        subset=arguments.subset, missing=arguments.missing, groups=arguments.groups,
        weights=arguments.weights, offset=arguments.offset, family=arguments.family,
        nagq=arguments.nagq or 1, eval_env=env, **given,
    )  # fmt: skip


def record_of(
    result: MixedGLMResults, seconds: float, versions: Mapping[str, str]
) -> dict[str, Any]:
    """What ``--json`` writes of a generalized model.

    Parameters
    ----------
    result : MixedGLMResults
    seconds : float
        Time of the fit.
    versions : mapping
        Of the packages in use.
    """
    table = result.tidy().rename(columns={"conf_low": "lower_95", "conf_high": "upper_95"})
    opt = result.opt
    return {
        "formula": result.built.spec.formula,
        "family": result.family.name,
        "link": result.family.link,
        "nobs": result.nobs,
        "parameters": table.to_dict(orient="records"),
        "variance_components": result.varcorr.to_dict(orient="records"),
        "theta": result.theta.tolist(),
        "loglik": result.llf,
        "aic": result.aic,
        "bic": result.bic,
        "convergence": {
            "converged": opt.converged,
            "singular": result.singular,
            "separation": list(opt.separation),
            "message": opt.message,
            "evaluations": opt.n_evaluations,
            "gradient_norm": opt.gradient_norm,
        },
        "seconds": seconds,
        "versions": dict(versions),
    }
