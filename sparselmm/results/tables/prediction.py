"""Predictions with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_flag, check_level
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import FloatArray
from sparselmm.inference.wald import Wald
from sparselmm.results.print.notebook import MOST_ROWS, frame_html, frame_text


@dataclass(frozen=True, eq=False)
class Prediction:
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
