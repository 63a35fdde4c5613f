"""A fitted generalized model: estimates, tests, tables."""

from __future__ import annotations

from typing import Any

from sparselmm.base.arguments import check_level
from sparselmm.base.exceptions import NotGeneralizedError
from sparselmm.base.other_names import GENERAL, OF_RESULTS, NamesOthers, OtherKind
from sparselmm.inference.general import GeneralEstimates
from sparselmm.likelihood.laplace.deviance import LaplaceDeviance
from sparselmm.likelihood.laplace.optimum import Optimum
from sparselmm.results.core import MixedLMResults
from sparselmm.results.general.printed import summarize
from sparselmm.results.general.reports import GeneralReportResults
from sparselmm.results.methods.ranef import RanefResults
from sparselmm.results.print.short import fitted_general

NOT_HERE = {
    "satterthwaite": "degrees of freedom by Satterthwaite are for linear models; tests here are by "
    "the normal distribution (z), by likelihood ratio, or by the bootstrap",
    "kenward_roger": "Kenward and Roger's covariance is for linear models; use profile intervals, "
    "likelihood-ratio tests or the bootstrap",
    "ddf": "denominator degrees of freedom are for linear models; tests here use the normal "
    "distribution",
    "scale": "a generalized model has no residual variance of its own; see dispersion_params",
    "sigma": "a generalized model has no residual standard deviation; see dispersion_params",
    "reml": "generalized models are fitted by maximum likelihood",
    "hatvalues": "leverages are those of a linear model; see check() and residuals('quantile')",
    "cooks_distance": "Cook's distances are those of a linear model; refit without the rows",
    "influence": "case deletion in closed form is for linear models; refit without the rows",
    "anova": "F tests are for linear models; use drop1() or compare() with likelihood ratios",
    "caic": "the conditional AIC is that of a linear model; use aic",
    "exact_rlrt": "the exact test of a variance is for linear models; use compare() or bootstrap",
    "exact_lrt": "the exact test of a variance is for linear models; use compare() or bootstrap",
    "ranova": "use compare() with a fit that leaves the term out",
    "cov_re": "see varcorr",
    "vcomp": "see varcorr",
    "t_test": "use wald_test() or tidy()",
    "f_test": "use wald_test() or joint_tests()",
    "profile": "use confint(method='profile')",
    "to_latex": "use summary().as_latex() or tidy().to_latex()",
    "to_html": "use report(), or summary().as_html()",
    "refit": "make a model of the other response and fit it",
    "fit_many": "stacks of responses are fitted for linear models only",
}
"""What does not carry over from linear models, and what to use."""

_RANDOM = "; here it is random=, which effects of the levels count"

OTHER_ARGUMENTS = {
    "ddf": f"; {NOT_HERE['ddf']}", **OF_RESULTS,
    "re": _RANDOM, "re_form": _RANDOM,
    "method": "; other intervals are those of confint(method='profile') and bootstrap()",
    "scaled": "; give kind='pearson', 'deviance' or 'quantile'",
    "level": "; give kind='response' or 'pearson'; without the random effects they are the "
    "response less predict(random='population')",
    "newdata": "; draws are for the rows of the fit; make a model of the others",
    "statistic": "; what is replicated are params and standard deviations: see its replicates",
    "scale": "; a generalized model has no residual variance of its own",
    "r_matrix": "; here it is contrasts", "q_matrix": "; here it is value",
    "use_f": "; tests are by the chi-squared distribution",
}  # fmt: skip
"""Arguments of linear models' methods and what there is here."""


class MixedGLMResults(RanefResults, GeneralReportResults, NamesOthers):
    """A fitted generalized linear mixed model.

    Fixed effects are on the scale of the predictor (log odds, log rates); variances of random
    effects are in its squared units.

    Parameters
    ----------
    model : MixedGLM
    deviance : LaplaceDeviance
    opt : Optimum

    Attributes
    ----------
    model, deviance, opt
        As given.

    Examples
    --------
    >>> import sparselmm
    >>> data = sparselmm.datasets.load("cbpp")
    >>> fit = sparselmm.mixedglm(
    ...     "cbind(incidence, size - incidence) ~ period + (1 | herd)", data).fit()
    >>> fit.fe_params.round(3).tolist()
    [-1.399, -0.992, -1.129, -1.58]
    >>> print(f"{fit.ratios().ratio.iloc[1]:.3f}")
    0.371
    """

    deviance: Any
    opt: Any

    def __init__(self, model: Any, deviance: LaplaceDeviance, opt: Optimum):
        self.model, self.deviance, self.opt = model, deviance, opt
        self.built = model.built
        self.family = model.family
        arrays = model.built.spec.formula is None
        layout = model.built.layout
        self.numbers = GeneralEstimates(layout, deviance, opt, model.x_columns, arrays)

    _other_names, _other_arguments = GENERAL, OTHER_ARGUMENTS
    _other_kind = OtherKind(
        MixedLMResults, "generalized models", NOT_HERE, "it is defined for linear models only",
        NotGeneralizedError, ":",
    )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def summary(self, alpha: float = 0.05) -> Any:
        """Facts, coefficients and variances as text; ``as_html()`` and ``as_latex()`` too.

        Parameters
        ----------
        alpha : float
            One minus the confidence level.
        """
        check_level(alpha)
        return summarize(self, alpha)

    def __repr__(self) -> str:
        return "\n".join(fitted_general(self))

    def _repr_html_(self) -> str:
        return str(self.summary().as_html())
