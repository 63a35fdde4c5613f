"""What other packages call the things of this one, and the errors that say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparselmm.base.arguments import suggestion
from sparselmm.base.exceptions import OtherNameError

RESULTS = {
    "fixef": "fe_params", "coef": "fe_params, or ranef for the levels of the factors",
    "coefficients": "fe_params", "beta": "fe_params", "VarCorr": "varcorr",
    "var_corr": "varcorr", "confint": "conf_int()", "confidence_interval": "conf_int()",
    "vcov": "cov_params()", "cov": "cov_params()", "logLik": "llf", "loglik": "llf",
    "llik": "llf", "AIC": "aic", "BIC": "bic", "REMLcrit": "-2 * llf",
    "residuals_": "resid", "fitted": "fittedvalues", "fitted_values": "fittedvalues",
    "getME": "theta, u, b or model", "isSingular": "singular", "is_singular": "singular",
    "df_residual": "df_resid", "pvalue": "pvalues", "std_errors": "bse", "se": "bse",
    "cooks_distances": "cooks_distance", "get_influence": "influence()",
    "bootMer": "bootstrap()", "rePCA": "check()", "lsmeans": "emmeans()",
    "LSMeans": "emmeans()", "lsmean": "emmeans()", "ranova_table": "ranova()",
    "VarComp": "varcorr", "nlevels": "ranef", "ngrps": "ranef", "R2": "r2()",
    "rsquared": "r2()", "r_squared": "r2()", "performance": "check(), r2() or icc()",
}  # fmt: skip
"""Attributes of results under names of lme4, nlme, glmmTMB, statsmodels and SAS: ours."""

MODEL = {
    "estimate": "fit()", "optimize": "fit()", "run": "fit()", "train": "fit()",
    "from_dataframe": "from_formula()", "X": "exog", "y": "endog",
}  # fmt: skip
"""Attributes of models under other names: ours."""


def attribute(owner: object, name: str, others: Mapping[str, str]) -> AttributeError:
    """The error for an attribute that there is none of, naming ours where it is known."""
    kind = type(owner).__name__
    if name in others:
        return OtherNameError(f"{kind} has no attribute {name!r}; here it is {others[name]}")
    if name in MODEL or name in RESULTS:
        what = ("model", MODEL[name]) if name in MODEL else ("result of fit()", RESULTS[name])
        return OtherNameError(f"{kind} has no attribute {name!r}; a {what[0]} has {what[1]}")
    known = [own for own in dir(type(owner)) if not own.startswith("_")]
    hint = "" if name.startswith("_") else suggestion(name, known)
    return OtherNameError(f"{kind!r} object has no attribute {name!r}{hint}")


class NamesOthers:
    """Attributes that are not there get an error that names ours."""

    _other_names: Mapping[str, str] = RESULTS

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or hasattr(type(self), name):  # the error of a property is its own
            return object.__getattribute__(self, name)
        raise attribute(self, name, self._other_names)
