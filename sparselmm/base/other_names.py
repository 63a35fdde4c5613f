"""What other packages call the things of this one, and the errors that say so."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, TypeVar

from sparselmm.base.arguments import check_keywords, suggestion
from sparselmm.base.exceptions import ArgumentTypeError, OtherKindError, OtherNameError

_MEANS = "emmeans(...).contrast('pairwise')"
_DDF = "summary(ddf='satterthwaite') or anova(), also with ddf='kenward-roger'"
_COMPARED = "sparselmm.compare(one, other), or drop1() and ranova()"

RESULTS = {
    "fixef": "fe_params", "coef": "fe_params, or ranef for the levels of the factors",
    "coefficients": "fe_params", "beta": "fe_params", "fixed": "fe_params", "betas": "fe_params",
    "solution": "tidy()", "coef_table": "tidy()", "as_data_frame": "tidy()", "to_frame": "tidy()",
    "to_pandas": "tidy()", "to_dict": "tidy().to_dict()", "broom": "tidy(), glance() and augment()",
    "VarCorr": "varcorr", "var_corr": "varcorr", "VarComp": "varcorr", "covparms": "varcorr",
    "getVarCov": "cov_re", "G": "cov_re", "residual_variance": "scale", "var_resid": "scale",
    "confint": "conf_int()", "confidence_interval": "conf_int()", "intervals": "conf_int()",
    "confidence_intervals": "conf_int()", "vcov": "cov_params()", "cov": "cov_params()",
    "AIC": "aic", "BIC": "bic", "logLik": "llf",
    "llik": "llf", "lnlik": "llf", "log_likelihood": "llf", "loglike": "llf",
    "aicc": "aic", "REMLcrit": "-2 * llf", "isREML": "reml", "is_reml": "reml",
    "residuals_": "resid", "fitted": "fittedvalues", "fitted_values": "fittedvalues",
    "getME": "theta, u, b or model", "isSingular": "singular", "is_singular": "singular",
    "df_residual": "df_resid", "pvalue": "pvalues", "pval": "pvalues", "p_values": "pvalues",
    "std_errors": "bse", "std_error": "bse", "stderr": "bse", "se": "bse", "tval": "tvalues",
    "t_values": "tvalues", "z_values": "tvalues", "zvalues": "tvalues",
    "optinfo": "opt", "convergence": "converged, or opt for the search",
    "df": _DDF, "ddf": _DDF, "satterthwaite": _DDF, "kenward_roger": _DDF, "kr_ddf": _DDF,
    "cooks_distances": "cooks_distance", "get_influence": "influence()", "dfbeta": "influence()",
    "dfbetas": "influence()", "leverage": "hatvalues()", "rstandard": "residuals(scaled=True)",
    "rstudent": "influence()", "HC0_se": "robust_tests()", "sandwich": "cov_robust()",
    "get_robustcov_results": "robust_tests()", "bootMer": "bootstrap()", "rePCA": "check()",
    "lsmeans": "emmeans()", "ls_means": "emmeans()", "lsmean": "emmeans()",
    "marginal_means": "emmeans()", "avg_slopes": "emtrends()", "contrast": _MEANS, "pairs": _MEANS,
    "tukey": _MEANS, "pdiff": _MEANS, "difflsmeans": _MEANS, "estimate": "t_test()",
    "ranova_table": "ranova()", "rand": "ranova()", "step": "drop1()", "lrtest": _COMPARED,
    "lr_test": _COMPARED, "compare_lr_test": _COMPARED, "likelihood_ratio_test": _COMPARED,
    "compare": _COMPARED, "compare_models": _COMPARED, "nlevels": "ranef", "ngrps": "ranef",
    "update": "refit() for another response; write another formula for another model",
    "R2": "r2()", "rsquared": "r2()", "r_squared": "r2()", "rsquared_adj": "r2()",
    "r2_nakagawa": "r2()", "performance": "check(), r2() or icc()", "check_model": "check()",
    "overdispersion": "check()",
    "random": "random_effects", "cv": "cross_validate()", "stargazer": "to_latex() or to_html()",
    "tab_model": "to_html() or report()", "to_markdown": "report()",
    "plot": "plot_diagnostics(), plot_predictions() or another of plot_...",
    "qqplot": "plot_diagnostics()", "plot_residuals": "plot_diagnostics()",
    "dotplot": "plot_ranef()", "caterpillar": "plot_ranef()", "ranef_plot": "plot_ranef()",
    "model_matrix": "model.exog", "glht": _MEANS, "mcp": _MEANS, "lincom": "t_test()",
    "vif": "check()", "collinearity": "check()", "call": "model.formula",
    "terms": "model.exog_names", "avg_comparisons": _MEANS, "comparisons": _MEANS,
    "slopes": "emtrends()",
}  # fmt: skip
"""Attributes of results under names of lme4, nlme, glmmTMB, statsmodels and SAS: ours."""

_LINEAR = (
    "isREML", "is_reml", "cooks_distances", "get_influence", "dfbeta", "dfbetas", "leverage",
    "rstudent", "HC0_se", "sandwich", "get_robustcov_results", "ranova_table", "rand", "cv",
    "confint", "update",
)  # fmt: skip
"""Of these what only linear models have."""

GENERAL = {theirs: ours for theirs, ours in RESULTS.items() if theirs not in _LINEAR} | {
    "residual_variance": "dispersion_params", "var_resid": "dispersion_params",
    "stargazer": "tidy().to_latex()", "tab_model": "report()",
    "vcov": "cov_fe", "getVarCov": "varcorr", "G": "varcorr", "confint_": "conf_int()",
    "profile": "confint(method='profile')", "bootMer": "bootstrap()", "lr_test": "lrt()",
    "lrtest": "lrt()", "likelihood_ratio_test": "lrt()", "REMLcrit": "-2 * llf",
    "dispersion": "dispersion_params", "overdispersion": "check() or simulated_checks()",
    "odds_ratios": "ratios()", "exp_coef": "ratios()",
    "estimate": "wald_test()", "lincom": "wald_test()", "dharma": "simulated_checks()",
}  # fmt: skip
"""The same of generalized models."""

MEANS = {
    "contrasts": "contrast('pairwise')", "pairwise": "pairs()", "summary": "frame, or print it",
    "to_frame": "frame", "to_pandas": "frame", "as_data_frame": "frame", "table": "frame",
    "confint": "frame, with the limits", "conf_int": "frame, with the limits", "tests": "test()",
    "joint_tests": "that of the result", "regrid": "emmeans(..., type='response')",
    "multcomp": "cld()", "letters": "cld()", "emmeans": "frame",
}  # fmt: skip
"""The same of marginal means."""

_ALONE = (
    "report", "summary", "tidy", "glance", "augment", "check", "anova", "ranef", "random_effects",
    "predict", "fittedvalues", "resid", "residuals", "conf_int", "emmeans", "emtrends",
    "t_test", "f_test", "icc", "r2", "profile", "bootstrap", "influence", "plot_diagnostics",
    "plot_predictions", "plot_coefficients", "plot_ranef",
)  # fmt: skip

MANY = {
    "params": "fe_params", "fixef": "fe_params", "coef": "fe_params", "bse": "bse_fe",
    "tvalues": "zvalues", "varcorr": "sds, or variances", "VarCorr": "sds, or variances",
    "confint": "bse_fe", "vcomp": "variances", "cov_re": "variances", "frame": "table",
    "to_frame": "table", "summary_frame": "table", "results": "table", "loglike": "llf",
    "failures": "failure",
    **{name: f"{name} of one response, fitted alone: result.refit(Y[name])" for name in _ALONE},
}  # fmt: skip
"""The same of the fits of many responses."""

MODEL = {
    "estimate": "fit()", "optimize": "fit()", "run": "fit()", "train": "fit()",
    "from_dataframe": "from_formula()", "X": "exog", "y": "endog",
}  # fmt: skip
"""Attributes of models under other names: ours."""


MODULE = {
    "lmer": "mixedlm", "lmm": "mixedlm", "lme": "mixedlm", "lm": "mixedlm", "glmmtmb": "mixedglm",
    "glmer": "mixedglm", "glmm": "mixedglm", "clmm": "mixedglm(..., family='ordinal')",
    "anova": "compare(one, other), or the method anova() of a fit", "lrt": "compare",
    "emmeans": "the method emmeans() of a fit", "fit": "mixedlm(...).fit()",
    "load_dataset": "datasets.load", "load": "datasets.load, or MixedLMResults.load for a fit",
    "api": "sparselmm itself", "formula": "sparselmm.mixedlm", "bootstrap": "that of a fit",
    "summary": "that of a fit", "gls": "mixedlm with residual=", "mmrm": "mixedlm with residual=",
    "glm": "mixedglm", "gee": "mixedglm", "mixed": "mixedlm",
}  # fmt: skip
"""Names of the module under those of other packages: ours."""


def of_module(name: str, known: Iterable[str]) -> AttributeError:
    """The error for a name that the package has none of."""
    ours = _meant(name, MODULE)
    hint = suggestion(name, known) if ours is None else f"; here it is {ours}"
    return OtherNameError(f"module 'sparselmm' has no attribute {name!r}{hint}")


def attribute(
    owner: object, name: str, others: Mapping[str, str], after: type | None = None
) -> AttributeError:
    """The error for an attribute that there is none of, naming ours where it is known.

    ``after`` is the class of the results of a model that is asked.
    """
    kind = type(owner).__name__
    ours = _meant(name, others)
    if ours is not None:
        return OtherNameError(f"{kind} has no attribute {name!r}; here it is {ours}")
    if after is not None and hasattr(after, name):
        return OtherNameError(
            f"{kind} has no attribute {name!r}; its result has, model.fit().{name}"
        )
    model = vars(owner).get("model")
    if model is not None and (hasattr(type(model), name) or name in vars(model)):
        return OtherNameError(
            f"{kind} has no attribute {name!r}; its model has, result.model.{name}"
        )
    names = MODEL if after is None else getattr(after, "_other_names", RESULTS)
    ours = _meant(name, names)
    if ours is not None:
        what = "model" if after is None else "result of fit()"
        return OtherNameError(f"{kind} has no attribute {name!r}; a {what} has {ours}")
    known = [own for own in dir(type(owner)) if not own.startswith("_")]
    hint = "" if name.startswith("_") else suggestion(name, known)
    return OtherNameError(f"{kind!r} object has no attribute {name!r}{hint}")


def _meant(name: str, others: Mapping[str, str]) -> str | None:
    """Ours for a name, whatever its case."""
    if name in others:
        return others[name]
    same = (ours for other, ours in others.items() if other.lower() == name.lower())
    return next(same, None)


Function = TypeVar("Function", bound=Callable[..., Any])


def known_arguments(function: Function, method: bool = False) -> Function:
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
            others: Mapping[str, str] = {}
            called = function.__name__
            if method and args:
                others = getattr(args[0], "_other_arguments", {})
                called = f"{type(args[0]).__name__}.{called}"
            check_keywords(kwargs, known, called, others)
            try:
                inspect.signature(function).bind(*args, **kwargs)
            except TypeError as error:
                raise ArgumentTypeError(
                    f"{called}: {error}; it is called {function.__name__}({', '.join(known)})"
                ) from None
            raise

    checked.checks_arguments = True  # type: ignore[attr-defined]
    return checked  # type: ignore[return-value]


OF_RESULTS = {"correlation": "; the correlation of the fixed effects follows from cov_params()"}
"""Arguments of methods of results elsewhere, and what there is here."""


@dataclass(frozen=True)
class OtherKind:
    """What fits of another kind have and those at hand have not.

    Attributes
    ----------
    kind : type
        The class that has it.
    here : str
        What the fits at hand are, in words.
    instead : mapping of str to str
        What to use in place of names; also names that only other packages have.
    otherwise : str
        What to say of the others.
    error : type
        The class of the error.
    mark : str
        What stands before what to use.
    """

    kind: type
    here: str
    instead: Mapping[str, str]
    otherwise: str = ""
    error: type[Exception] = OtherKindError
    mark: str = ";"

    def __contains__(self, name: str) -> bool:
        own = any(name in vars(part) for part in self.kind.__mro__)
        return name in self.instead or (own and not name.startswith("_"))

    def refusal(self, name: str) -> Exception:
        """The error that names what is not there."""
        why = self.instead.get(name, self.otherwise)
        hint = f"{self.mark} {why}" if why else ""
        return self.error(f"{name} is not available for {self.here}{hint}")


class KnownArguments:
    """Public methods refuse an argument they do not have by an error of the package."""

    _other_arguments: Mapping[str, str] = {}
    """Arguments of others' methods, and what there is here."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__:
            if not base.__module__.startswith("sparselmm."):
                continue
            for name, own in list(vars(base).items()):
                plain = isinstance(own, FunctionType) and not name.startswith("_")
                if plain and not hasattr(own, "checks_arguments"):  # class methods count frames
                    setattr(base, name, known_arguments(own, method=True))


class NamesOthers(KnownArguments):
    """Attributes that are not there get an error that names ours."""

    _other_names: Mapping[str, str] = RESULTS
    _after: type | None = None
    _other_kind: OtherKind | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or hasattr(type(self), name):  # the error of a property is its own
            return object.__getattribute__(self, name)
        if self._other_kind is not None and name in self._other_kind:
            raise self._other_kind.refusal(name)
        raise attribute(self, name, self._other_names, self._after)
