"""Predictions with their intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_flag, check_level, check_numbers
from sparselmm.base.exceptions import ArgumentError, DataError, MemoryLimitError
from sparselmm.base.types import FloatArray
from sparselmm.inference.wald import Wald, two_sided
from sparselmm.results.print.notebook import MOST_ROWS, frame_html, frame_text
from sparselmm.results.print.polars import InPolars
from sparselmm.results.tables.hypotheses import ContrastResults

MOST_JOINT = 10_000
"""Most predictions whose covariance matrix is formed (0.8 GB)."""


class JointPrediction(Protocol):
    """How predictions vary together."""

    def covariance(self) -> FloatArray:
        """Covariance matrix of the means, (m, m)."""

    def combined(
        self, L: FloatArray, mean: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Estimates, standard errors and degrees of freedom of combinations L (c, m)."""


@dataclass(frozen=True, eq=False)
class Prediction(InPolars):
    """Predicted means with their uncertainty; statsmodels' ``PredictionResults``.

    Attributes
    ----------
    predicted_mean : ndarray, (m,)
        In the units of the response.
    se_mean : ndarray, (m,)
        Standard errors of the prediction of the mean; NaN where it is not estimable.
    se_obs : ndarray, (m,), or None
        Standard errors of the prediction of a new observation; None when not asked for.
    df_mean, df_obs : ndarray, (m,)
        Degrees of freedom of the t distribution; inf for the normal one.
    row_labels : Index or None
        Index of the new rows.

    Examples
    --------
    >>> import sparselmm
    >>> data = sparselmm.datasets.load("sleepstudy")
    >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
    >>> found = fit.get_prediction(data[:1], re=True)
    >>> found.conf_int().round(1).tolist(), found.conf_int(obs=True).round(1).tolist()
    ([[229.6, 277.7]], [[198.1, 309.3]])
    """

    predicted_mean: FloatArray
    se_mean: FloatArray
    se_obs: FloatArray | None
    df_mean: FloatArray
    df_obs: FloatArray
    row_labels: pd.Index | None
    _joint: JointPrediction | None = None

    @property
    def cov(self) -> pd.DataFrame:
        """Covariance matrix of the errors of the predicted means, (m, m).

        With random effects, their errors and those of the fixed effects all count, and how they
        go together: differences of predictions for groups have honest standard errors.

        Raises
        ------
        DataError
            When a level was not seen by the fit.
        MemoryLimitError
            When there are more than 10,000 rows; :meth:`t_test` takes contrasts of any number.
        """
        m = len(self.predicted_mean)
        if m > MOST_JOINT:
            raise MemoryLimitError(
                f"the covariance of {m:,} predictions would hold {8e-9 * m * m:.3g} GB; pass "
                "contrasts to t_test() instead"
            )
        labels = range(m) if self.row_labels is None else self.row_labels
        return pd.DataFrame(self._known().covariance(), labels, labels)

    def t_test(self, contrasts: Any = None, value: Any = 0.0) -> ContrastResults:
        """Tests of predicted means, or of combinations of them such as differences.

        Parameters
        ----------
        contrasts : array-like, (c, m) or (m,), optional
            Weights of the predictions. Default: each by itself.
        value : float or array-like, (c,)
            Value under the hypothesis.

        Returns
        -------
        ContrastResults

        Raises
        ------
        DataError
            When a combination has a row of a level that the fit has not seen.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> new = data[data.Days == 9].query("Subject in ('308', '309')")
        >>> test = fit.get_prediction(new, re=True).t_test([1, -1])
        >>> test.effect.round(1).tolist(), test.sd.round(1).tolist()
        ([203.0], [19.5])
        """
        m = len(self.predicted_mean)
        L = np.eye(m) if contrasts is None else np.atleast_2d(check_numbers(contrasts, "contrasts"))
        if L.ndim != 2 or L.shape[1] != m:
            raise ArgumentError(
                f"contrasts need {m} weights each, one per prediction, got shape {L.shape}"
            )
        rhs = check_numbers(value, "value")
        if rhs.ndim > 1 or rhs.size not in (1, len(L)):
            raise ArgumentError(f"value needs one number, or one for each of {len(L)} contrasts")
        effect, sd, df = self._known().combined(L, self.predicted_mean)
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = (effect - rhs) / sd
        normal = bool(np.isinf(df).all())
        return ContrastResults(
            effect, sd, statistic, two_sided(statistic, df), "norm" if normal else "t",
            np.nan if normal else df, [f"c{i}" for i in range(len(L))],
        )  # fmt: skip

    def _known(self) -> JointPrediction:
        if self._joint is None:
            raise DataError("this prediction was made without what joint covariances need")
        return self._joint

    @property
    def var_pred_mean(self) -> FloatArray:
        """``se_mean`` squared, (m,)."""
        return np.asarray(self.se_mean**2)

    def conf_int(self, obs: bool = False, alpha: float = 0.05) -> FloatArray:
        """Lower and upper ends of the intervals, (m, 2).

        Parameters
        ----------
        obs : bool
            Prediction intervals of new observations instead of confidence intervals of means.
        alpha : float
            One minus the confidence level.

        Raises
        ------
        DataError
            When observations were not asked for, or alpha is not between 0 and 1.
        """
        alpha, obs = check_level(alpha), check_flag(obs, "obs")
        if obs and self.se_obs is None:
            raise DataError(
                "no standard errors of new observations; pass interval='prediction' to "
                "get_prediction"
            )
        se, df = (self.se_obs, self.df_obs) if obs else (self.se_mean, self.df_mean)
        assert se is not None
        return Wald(self.predicted_mean, se, df).interval(alpha)

    def summary_frame(self, alpha: float = 0.05) -> pd.DataFrame:
        """All of it as a table with statsmodels' column names.

        Parameters
        ----------
        alpha : float
            One minus the confidence level of the intervals.

        Returns
        -------
        DataFrame, (m, 4) or (m, 6)
            ``mean``, ``mean_se``, ``mean_ci_lower``, ``mean_ci_upper`` and, when asked for,
            ``obs_ci_lower``, ``obs_ci_upper``.
        """
        columns = ["mean", "mean_se", "mean_ci_lower", "mean_ci_upper"]
        values = [self.predicted_mean, self.se_mean, self.conf_int(False, alpha)]
        if self.se_obs is not None:
            columns += ["obs_ci_lower", "obs_ci_upper"]
            values.append(self.conf_int(True, alpha))
        return pd.DataFrame(np.column_stack(values), self.row_labels, columns)

    def __len__(self) -> int:
        return len(self.predicted_mean)

    def __repr__(self) -> str:
        text = frame_text(self.summary_frame().head(MOST_ROWS))
        rest = len(self) - MOST_ROWS
        return text + (f"\n... and {rest:,} more" if rest > 0 else "")

    def _repr_html_(self) -> str:
        return frame_html(self.summary_frame(), "Predicted means")
