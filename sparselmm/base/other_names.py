"""What other packages call the things of this one, and the errors that say so."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, TypeVar

from sparselmm.base.arguments import check_keywords, suggestion
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


Function = TypeVar("Function", bound=Callable[..., Any])


def known_arguments(function: Function, owner: str = "") -> Function:
    """The function, with an error for an argument it does not have that names one it has.

    A function that takes any keyword checks them itself, and stays as it is.
    """
    code = inspect.unwrap(function).__code__
    if code.co_flags & inspect.CO_VARKEYWORDS:
        return function
    named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    known = [name for name in named if name not in ("self", "cls")]

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError:
            check_keywords(kwargs, known, f"{owner}{function.__name__}")
            raise

    checked.checks_arguments = True  # type: ignore[attr-defined]
    return checked  # type: ignore[return-value]


class KnownArguments:
    """Public methods refuse an argument they do not have by an error of the package."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__:
            if not base.__module__.startswith("sparselmm."):
                continue
            for name, own in list(vars(base).items()):
                inner = own.__func__ if isinstance(own, classmethod | staticmethod) else own
                plain = isinstance(inner, FunctionType) and not name.startswith("_")
                if not plain or hasattr(inner, "checks_arguments"):
                    continue
                checked = known_arguments(inner, f"{cls.__name__}.")
                setattr(base, name, checked if inner is own else type(own)(checked))


class NamesOthers(KnownArguments):
    """Attributes that are not there get an error that names ours."""

    _other_names: Mapping[str, str] = RESULTS

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or hasattr(type(self), name):  # the error of a property is its own
            return object.__getattribute__(self, name)
        raise attribute(self, name, self._other_names)
