"""What ``--json`` writes."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.providers import provider, versions
from sparselmm.model.command.parts import CommandError, first_line
from sparselmm.results.linear import LinearResults
from sparselmm.results.residual.core import ResidualResults

LIBRARIES = ("sparselmm", "numpy", "scipy", "pandas", "patsy", "numba", "scikit-sparse", "cvxopt")


def own_versions() -> dict[str, str]:
    """Versions of what a fit depends on."""
    return {
        "python": platform.python_version(),
        **{name: found for name, found in versions().items() if name in LIBRARIES},
        "sparse factors": str(provider()),
    }


def record(result: LinearResults, seconds: float, ddf: str | None = None) -> dict[str, Any]:
    """What ``--json`` writes: estimates, how they were found, and with which versions.

    Parameters
    ----------
    result : MixedLMResults
        A fit of a formula.
    seconds : float
        Time of the fit.
    ddf : str, optional
        Method of the degrees of freedom of the tests of fixed effects.

    Returns
    -------
    dict
        Of strings, booleans, numbers, lists and dicts. Variances, covariances and their
        standard errors are in the units of the data, theta is relative to sigma. Numbers that
        do not exist are NaN here and null in the file.
    """
    reml = result.reml
    variances = result.params.iloc[result.k_fe :] * result.scale
    return {
        "formula": result.model.formula,
        "method": result.method,
        "ddf": ddf,
        "nobs": result.nobs,
        "df_resid": result.df_resid,
        "terms": [
            {"name": term.name, "levels": term.n_levels, "coefficients": list(term.columns)}
            for term in result.model.terms
        ],
        "fixed_effects": _fixed_record(result, ddf),
        "dropped_columns": list(result.dropped),
        "variance_parameters": [
            {"name": name, "estimate": estimate, "se": se}
            for name, estimate, se in zip(variances.index, variances, result.bse_re, strict=True)
        ],
        "variance_components": result.varcorr.to_dict(orient="records"),
        **_residual_record(result),
        "theta": result.theta.tolist(),
        "sigma": result.sigma,
        "scale": result.scale,
        "criterion": result.pls.deviance,
        "loglik": result.llf,
        "aic": result.aic,
        "bic": result.bic,
        "aic_reml": result.aic_reml if reml else None,
        "bic_reml": result.bic_reml if reml else None,
        "convergence": _search_record(result),
        "seconds": seconds,
        "versions": own_versions(),
    }


def _fixed_record(result: LinearResults, ddf: str | None) -> list[dict[str, Any]]:
    """Fixed effects with z statistics, or with t statistics where degrees of freedom are asked."""
    parameters = pd.DataFrame(
        {
            "estimate": result.params,
            "se": result.bse,
            "z": result.tvalues,
            "p": result.pvalues,
            "lower_95": result.conf_int()[0],
            "upper_95": result.conf_int()[1],
        }
    )
    fixed = parameters.iloc[: result.k_fe]
    if ddf is not None:
        names = {
            "estimate": "estimate", "std.error": "se", "df": "df", "statistic": "t",
            "p.value": "p", "conf.low": "lower_95", "conf.high": "upper_95",
        }  # fmt: skip
        tests = result.tidy("fixed", conf_int=True, ddf=ddf).set_index("term")
        fixed = tests[[name for name in names if name in tests]].rename(columns=names)
    return fixed.rename_axis("name").reset_index().to_dict(orient="records")


def _search_record(result: LinearResults) -> dict[str, Any]:
    opt = result.opt
    return {
        "converged": opt.converged,
        "singular": result.singular,
        "optimizer": opt.method,
        "message": opt.message,
        "evaluations": opt.n_evaluations,
        "gradient_norm": opt.gradient_norm,
        "expected_decrease": opt.expected_decrease,
        "smallest_eigenvalue": opt.smallest_eigenvalue,
        "at_boundary": opt.at_boundary.tolist(),
        "history": [
            {"theta": at.theta.tolist(), "criterion": at.deviance, "seconds": at.seconds}
            for at in opt.history
        ],
    }


def _residual_record(result: LinearResults) -> dict[str, Any]:
    """Parameters of the residuals, where they have a structure."""
    if not isinstance(result, ResidualResults):
        return {}
    table = result.residual_params().rename_axis("name").reset_index()
    return {"residual_parameters": table.to_dict(orient="records")}


def write_json(target: str, content: dict[str, Any]) -> None:
    """Write a record to a file, or print it for ``-``."""
    text = json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise CommandError(f"--json {target}: {first_line(error)}") from error


def _plain(value: Any) -> Any:
    """Python's own types, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
