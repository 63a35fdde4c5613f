"""Results of a linear model: the parts that hold whatever R is, and how they are made and shown."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import pandas as pd

from sparselmm.base.arguments import check_choice, check_level, check_text
from sparselmm.base.exceptions import DataError
from sparselmm.base.other_names import OF_RESULTS, KnownArguments
from sparselmm.design import BuiltDesign
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.hypotheses.ddf import DDF_METHODS
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.evaluations import PLSFit
from sparselmm.likelihood.record import OptSummary
from sparselmm.results.given import Given
from sparselmm.results.methods.anova import AnovaResults
from sparselmm.results.methods.linear_figures import LinearFigureResults
from sparselmm.results.methods.means import MeanResults
from sparselmm.results.methods.reports import ReportResults
from sparselmm.results.methods.robust import RobustResults
from sparselmm.results.methods.statsmodels import ResultsInterface
from sparselmm.results.methods.tidy import TidyResults
from sparselmm.results.print import short, summary
from sparselmm.results.print.report import equation


class LinearResults(
    AnovaResults, MeanResults, RobustResults, ResultsInterface, ReportResults, LinearFigureResults,
    TidyResults, KnownArguments,
):  # fmt: skip
    """What any fit of a linear model has, whatever the covariance of its residuals.

    Arguments and attributes as of :class:`sparselmm.MixedLMResults`.
    """

    use_t = False
    """Tests use the normal distribution, as in statsmodels."""

    _other_arguments = OF_RESULTS

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
            built.layout, deviance, fit, built.spec.formula is None, psi_scale, n_fixed
        )
        if built.streamed is not None:
            self._est.__dict__["group_sizes"] = built.streamed.group_sizes

    @abstractmethod
    def _ml_deviance(self) -> float:
        """Minimum of -2 log-likelihood of the same model."""

    def __getstate__(self) -> dict[str, Any]:
        """A copy: other threads may compute what is cached while this one writes."""
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        if not {"model", "built", "deviance", "pls", "opt", "given", "_est"} <= state.keys():
            raise DataError("these results were written by another version of sparselmm")
        self.__dict__.update(state)

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
            self._est, self.opt, yname or self.built.layout.y_name, xname_fe, xname_re,
            summary.TITLE if title is None else title, alpha,
            None if ddf is None or ddf == "z" else self._ddf(str(ddf)),
        )  # fmt: skip

    def __repr__(self) -> str:
        return "\n".join(short.fitted(self._est, self.opt, self.built.spec.formula))

    def _repr_html_(self) -> str:
        return self.summary().as_html()

    # ------------------------------------------------------------------- what reports ask

    def _variance_table(self) -> pd.DataFrame:
        return pd.DataFrame(self.varcorr.reset_index(drop=True))

    def _facts(self) -> pd.DataFrame:
        return self.glance()

    def _report_table(self, alpha: float) -> pd.DataFrame:
        ddf = "z" if self.given.penalized or self._est.n_fixed else "satterthwaite"
        table = self.tidy("fixed", conf_int=True, conf_level=1.0 - alpha, ddf=ddf)
        names = {
            "term": "term", "estimate": "estimate", "std.error": "SE", "df": "df",
            "statistic": "statistic", "p.value": "p", "conf.low": "low", "conf.high": "high",
        }  # fmt: skip
        return table[list(names)].rename(columns=names)

    def _kind_in_words(self) -> str:
        how = "restricted maximum likelihood" if self.reml else "maximum likelihood"
        return f"A linear mixed model ({how})"

    def _in_mathematics(self) -> list[str]:
        name = f"<i>{self.built.layout.y_name}</i>"
        lines = equation(self.built.spec.x_names, self._random_parts(), name,
                         "&epsilon;")  # fmt: skip
        return [*lines, *self._errors_in_mathematics()]

    def _errors_in_mathematics(self) -> list[str]:
        return ["&epsilon; ~ N(0, &sigma;&sup2;)"]
