"""What a fit gives back: estimates, random effects, predictions, in the words of statsmodels.

Every number is computed by a function on arrays in :mod:`sparselmm.likelihood.deviance`,
:mod:`sparselmm.inference.estimates`, :mod:`sparselmm.inference.effects` or
:mod:`sparselmm.inference.prediction.means`; here it gets its label. What costs more than the fit
itself is computed when first asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_choice, check_keywords, check_level, check_text
from sparselmm.base.exceptions import DataError
from sparselmm.base.other_names import NamesOthers
from sparselmm.base.types import FloatArray
from sparselmm.design import BuiltDesign
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.hypotheses.ddf import DDF_METHODS
from sparselmm.inference.prediction import means as prediction
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.evaluations import PLSFit
from sparselmm.likelihood.optimize import OptSummary
from sparselmm.results.given import Given
from sparselmm.results.methods.base import Matrix, Vector, from_rows
from sparselmm.results.methods.diagnostics import DiagnosticResults
from sparselmm.results.methods.linear_figures import LinearFigureResults
from sparselmm.results.methods.prediction import PredictionResults
from sparselmm.results.methods.reports import LinearReportResults
from sparselmm.results.methods.simulation import SimulationResults
from sparselmm.results.methods.smaller_models import ComparisonResults
from sparselmm.results.methods.statsmodels import ResultsInterface
from sparselmm.results.methods.tidy import TidyResults
from sparselmm.results.methods.validation import ValidationResults
from sparselmm.results.methods.variances import InferenceResults
from sparselmm.results.print import labels, short, summary
from sparselmm.results.print.notebook import as_table

CI_OPTIONS: dict[str, tuple[str, ...]] = {
    "wald": (),
    "profile": ("which", "scale"),
    "bootstrap": (
        "kind", "resampling", "n", "statistic", "seed", "n_jobs", "progress", "checkpoint", "by",
        "jackknife", "resume", "client",
    ),
}  # fmt: skip
"""Options of ``conf_int`` by its method."""


class MixedLMResults(
    ResultsInterface, InferenceResults, ComparisonResults, SimulationResults, PredictionResults,
    DiagnosticResults, TidyResults, LinearFigureResults, ValidationResults,
    LinearReportResults, NamesOthers,
):  # fmt: skip
    """A fitted linear mixed model.

    Results are labelled (pandas) when the model was given pandas objects and plain arrays when it
    was given arrays, except that ``vcomp`` is always an array and random effects are always
    labelled.

    Units: ``cov_re``, ``vcomp``, ``scale``, ``bse_re`` and the summary are in the units of the
    data. As in statsmodels, the variance entries of ``params``, ``bse``, ``tvalues``,
    ``conf_int`` and ``cov_params`` are ratios to ``scale``.

    Parameters
    ----------
    model : object
        The model, kept as ``results.model``; nothing of it is used here.
    built : BuiltDesign
        Design, recipe and row labels.
    deviance : ProfiledDeviance
        The sparse engine, which also answers questions after the fit.
    fit : PLSFit
        ``deviance.at(opt.theta)``.
    opt : OptSummary
        How the optimizer got there.
    use_sqrt : bool
        Kept as ``results.use_sqrt``.
    given : Given, optional
        Masks, held parameters and penalties of the fit.

    Attributes
    ----------
    model, built, deviance, opt, use_sqrt, given
        As given.
    pls : PLSFit
        The penalized least-squares solution at the optimum.

    Examples
    --------
    >>> import sparselmm
    >>> data = sparselmm.datasets.load("sleepstudy")
    >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
    >>> fit.ranef["Subject"].loc["308"].round(2).to_dict()
    {'Intercept': 2.26, 'Days': 9.2}
    >>> fit.varcorr.sdcor.round(2).tolist()
    [24.74, 5.92, 0.07, 25.59]
    """

    use_t = False
    """Tests use the normal distribution, as in statsmodels."""

    def __init__(
        self, model: Any, built: BuiltDesign, deviance: ProfiledDeviance, fit: PLSFit,
        opt: OptSummary, *, use_sqrt: bool = True, psi_scale: float | None = None,
        n_fixed: int = 0, given: Given | None = None, full_output: bool = False,
    ) -> None:  # fmt: skip
        self.model = model
        self.built = built
        self.deviance = deviance
        self.pls = fit
        self.opt = opt
        self.use_sqrt = use_sqrt
        self.given = Given() if given is None else given
        self.hist = [self.mle_retvals] if full_output else None
        self._est = Estimates.of(
            built.design, deviance, fit, built.spec.formula is None, psi_scale, n_fixed
        )
        if built.streamed is not None:
            self._est.__dict__["group_sizes"] = built.streamed.group_sizes

    def __getstate__(self) -> dict[str, Any]:
        """A copy: other threads may compute what is cached while this one writes."""
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        if not {"model", "built", "deviance", "pls", "opt", "given", "_est"} <= state.keys():
            raise DataError("these results were written by another version of sparselmm")
        self.__dict__.update(state)

    # ------------------------------------------------------------------------ plain facts

    @property
    def theta(self) -> FloatArray:
        """Free entries of every ``lambda_t``, (n_theta,), relative to sigma."""
        return self.pls.theta

    @property
    def scale(self) -> float:
        """Residual variance sigma^2."""
        return self.pls.scale

    @property
    def sigma(self) -> float:
        """Residual standard deviation."""
        return self.pls.sigma

    @property
    def u(self) -> FloatArray:
        """Conditional modes of the spherical random effects, (q,)."""
        return self.pls.u

    @property
    def b(self) -> FloatArray:
        """Conditional modes of the random effects, (q,), in the order of the columns of Z."""
        return self.pls.b

    @property
    def converged(self) -> bool:
        """Whether the optimizer met its criteria."""
        return self.opt.converged

    @property
    def reml(self) -> bool:
        """Whether the criterion was REML."""
        return self.pls.reml

    @property
    def method(self) -> str:
        """``"REML"`` or ``"ML"``."""
        return "REML" if self.reml else "ML"

    @property
    def nobs(self) -> int:
        """Rows with positive weight."""
        return self._est.nobs

    @property
    def df_modelwc(self) -> int:
        """Length of ``params``."""
        return len(self._est.names)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Columns of X left out because they depend on the others; their estimates are NaN."""
        return self._est.dropped

    @property
    def singular(self) -> bool:
        """Whether an estimated random-effects covariance matrix is singular."""
        return self._est.singular

    @property
    def llf(self) -> float:
        """Log-likelihood, or REML log-likelihood, in lme4's convention."""
        return -0.5 * self.pls.deviance

    @property
    def llf_mc_se(self) -> float:
        """Standard error that random probes leave in ``llf``; 0 where it is exact."""
        return 0.5 * self.opt.mc_deviance

    @property
    def n_parameters(self) -> int:
        """Estimated parameters: fixed effects, covariance parameters and sigma."""
        return self._est.n_parameters

    @property
    def aic(self) -> float:
        """Akaike's criterion; NaN under REML, as in statsmodels (see ``aic_reml``)."""
        return np.nan if self.reml else self.aic_reml

    @property
    def bic(self) -> float:
        """Schwarz's criterion; NaN under REML, as in statsmodels (see ``bic_reml``)."""
        return np.nan if self.reml else self.bic_reml

    @property
    def aic_reml(self) -> float:
        """Akaike's criterion from whichever likelihood was maximized, lme4's convention.

        Under REML only comparable between models with the same fixed effects.
        """
        return self.pls.deviance + 2.0 * self.n_parameters

    @property
    def bic_reml(self) -> float:
        """Schwarz's criterion from whichever likelihood was maximized, lme4's convention."""
        return self.pls.deviance + float(np.log(self.nobs)) * self.n_parameters

    # ---------------------------------------------------------------------- fixed effects

    @property
    def fe_params(self) -> Vector:
        """Fixed effects, (k_fe,); NaN for dropped columns."""
        return self._vector(self._est.beta, self.built.design.x_names)

    @property
    def bse_fe(self) -> Vector:
        """Standard errors of the fixed effects, (k_fe,)."""
        return self._vector(self._est.bse_fe, self.built.design.x_names)

    # ------------------------------------------------------------------------ all parameters

    @property
    def param_names(self) -> list[str]:
        """Names of ``params``."""
        return list(self._est.names)

    @property
    def params(self) -> Vector:
        """Fixed effects, then variances and covariances as ratios to ``scale``."""
        return self._vector(self._est.params, self._est.names)

    @property
    def normalized_cov_params(self) -> Matrix:
        """``cov_params() / scale``."""
        return self.cov_params() / self.scale

    @property
    def bse(self) -> Vector:
        """Standard errors of ``params``, variances as ratios to ``scale``."""
        return self._vector(self._est.bse, self._est.names)

    @property
    def bse_re(self) -> Vector:
        """Standard errors of variances and covariances in the units of the data.

        From the observed information in (Psi, sigma^2). NaN for a singular term.
        """
        return self._vector(self._est.bse_re, self._est.layout.names)

    @property
    def tvalues(self) -> Vector:
        """``params / bse``; for a variance this is no test of its being zero."""
        return self._vector(self._est.wald.statistic, self._est.names)

    @property
    def pvalues(self) -> Vector:
        """Two-sided p-values of ``tvalues`` under the normal distribution."""
        return self._vector(self._est.wald.pvalue, self._est.names)

    def conf_int(self, alpha: float = 0.05, method: str = "wald", **options: Any) -> Matrix:
        """Confidence intervals.

        Parameters
        ----------
        alpha : float
            One minus the confidence level.
        method : {"wald", "profile", "bootstrap"}
            Wald intervals of ``params``, whose variances are ratios to ``scale``; or intervals of
            standard deviations and correlations, sigma and the fixed effects in the units of the
            data: by profile likelihood, or from a parametric bootstrap.
        **options
            "profile": ``which`` and ``scale`` as for :meth:`profile`. "bootstrap": ``kind`` of the
            interval, and arguments of :meth:`bootstrap` (its ``kind`` as ``resampling``).

        Returns
        -------
        DataFrame or ndarray, (number of parameters, 2)
            Columns 0 and 1: lower and upper end. "profile" and "bootstrap" always give a
            DataFrame; rows of a profile are named as for :meth:`profile`, and an end that is not
            reached is the bound of the parameter (0, -1 or 1).

        Raises
        ------
        ValueError
            When the method is unknown or ``alpha`` is not between 0 and 1.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Penicillin")
        >>> fit = sparselmm.mixedlm("diameter ~ 1 + (1 | plate) + (1 | sample)", data).fit()
        >>> fit.conf_int(method="profile").round(4).loc["sd_Intercept|plate"].tolist()
        [0.6336, 1.1821]
        """
        alpha = check_level(alpha)
        method = check_choice(method, "method", tuple(CI_OPTIONS))
        check_keywords(options, CI_OPTIONS[method], f"conf_int(method={method!r})")
        if method == "profile":
            return self._profile_conf_int(alpha, **options)
        if method == "bootstrap":
            kind = options.pop("kind", "percentile")
            if "resampling" in options:
                options["kind"] = options.pop("resampling")
            return self.bootstrap(**options).conf_int(alpha, kind).set_axis([0, 1], axis=1)
        ends = self._est.wald.interval(alpha)
        return pd.DataFrame(ends, index=self._est.names) if self.built.pandas else ends

    # --------------------------------------------------------------------- variance parameters

    @property
    def cov_re(self) -> Matrix:
        """Covariance matrix of the random coefficients, (k_re, k_re), in the units of the data.

        Block diagonal over the ``groups`` term and the bars of the formula. A bar's intercept is
        labelled by its grouping factor, ``"s"``, another coefficient ``"s[x]"``.
        """
        return self._matrix(self._est.cov_re, self._est.cov_re_names)

    @property
    def cov_re_unscaled(self) -> Matrix:
        """``cov_re / scale``."""
        return self._matrix(self._est.cov_re_unscaled, self._est.cov_re_names)

    @property
    def vcomp(self) -> FloatArray:
        """Variance components in the units of the data, (k_vc,); always an array."""
        return np.array([self._est.psi[t][0, 0] for t in self._est.layout.components])

    @property
    @as_table
    def varcorr(self) -> pd.DataFrame:
        """Variance components as lme4's ``as.data.frame(VarCorr(fit))``.

        One row per variance (``var2`` missing) and per covariance; ``vcov`` in the units of the
        data, ``sdcor`` the standard deviation or the correlation. The last row is the residual.
        """
        return labels.varcorr_frame(self._est.variance_rows)

    # ------------------------------------------------------------------------- fitted values

    @property
    @from_rows
    def fittedvalues(self) -> Vector:
        """``X beta + Z b`` plus the offset, (n,), random effects included."""
        return self._rows(self._fitted)

    @property
    @from_rows
    def resid(self) -> Vector:
        """Response minus ``fittedvalues``, (n,)."""
        return self._rows(self.built.design.y - self._fitted)

    @cached_property
    def _fitted(self) -> FloatArray:
        return prediction.fitted(self._est, random=True)

    # -------------------------------------------------------------------------------- print

    def summary(
        self, yname: str | None = None, xname_fe: Sequence[str] | None = None,
        xname_re: Sequence[str] | None = None, title: str | None = None, alpha: float = 0.05,
        *, ddf: str | None = None,
    ) -> summary.Summary:  # fmt: skip
        """Printable summary: statsmodels' layout, then variance components and convergence.

        Variances and their standard errors are in the units of the data.

        Parameters
        ----------
        yname : str, optional
            Name of the response.
        xname_fe, xname_re : sequence of str, optional
            Names of the fixed effects and of the variance parameters.
        title : str, optional
        alpha : float
            One minus the confidence level of the intervals.
        ddf : {"satterthwaite", "kenward-roger", "z"}, optional
            t tests of the fixed effects with these degrees of freedom. Default ``"z"``: the
            normal distribution, as in statsmodels.

        Raises
        ------
        ValueError
            When a list of names has the wrong length, or ``ddf`` is unknown or not defined for
            this fit.
        """
        for text, name in ((yname, "yname"), (title, "title")):
            if text is not None:
                check_text(text, name)
        alpha = check_level(alpha)
        if ddf is not None:
            ddf = check_choice(ddf, "ddf", DDF_METHODS)
        return summary.summarize(
            self._est, self.opt, yname or self.built.design.y_name, xname_fe, xname_re,
            summary.TITLE if title is None else title, alpha,
            None if ddf is None or ddf == "z" else self._ddf(str(ddf)),
        )  # fmt: skip

    def __repr__(self) -> str:
        return "\n".join(short.fitted(self._est, self.opt, self.built.spec.formula))

    def _repr_html_(self) -> str:
        return self.summary().as_html()
