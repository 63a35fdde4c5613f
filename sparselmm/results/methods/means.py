"""Marginal means, slopes and their joint tests."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import pandas as pd

from sparselmm.base.arguments import check_choice
from sparselmm.results.methods.prediction import PredictionResults
from sparselmm.results.print.notebook import as_table
from sparselmm.results.tables.emmeans import (
    TYPES,
    Options,
    estimated_means,
    estimated_trends,
    joint_tests,
)
from sparselmm.results.tables.means import MarginalMeans
from sparselmm.results.tables.scales import Scale, bias_adjusted, response_scale


class MeanResults(PredictionResults):
    """Means of levels of any linear fit."""

    def emmeans(
        self, specs: Any, by: Any = None, at: Mapping[str, Any] | None = None, *,
        ddf: str = "satterthwaite", weights: str = "equal", alpha: float = 0.05,
        type: str = "link", bias_adjust: bool | float = False,
    ) -> MarginalMeans:  # fmt: skip
        """Estimated marginal means (least-squares means) of factors, or at values of covariates.

        Parameters
        ----------
        specs : str or sequence of str
            Variables of the fixed effects for whose levels means are wanted. R's
            ``"~ a * b | c"`` says ``by``, too.
        by : str or sequence of str, optional
            Variables within whose levels the means are compared.
        at : mapping of str to values, optional
            Values of variables. Default: a factor at all its levels; a covariate at the mean of the
            variable, or at both its values if it has two.
        ddf : {"satterthwaite", "kenward-roger", "z"}
            Degrees of freedom. R's emmeans takes Kenward and Roger's for up to 3,000 rows;
            Satterthwaite's also suit maximum likelihood and large data.
        weights : {"equal", "proportional", "outer", "cells", "flat"}
            How the levels of the other factors are averaged: all alike; by the frequencies of
            their combinations in the data; by the product of the frequencies of each; by the rows
            in each single cell; or alike over the cells that have rows.
        alpha : float
            One minus the confidence level.
        type : {"link", "response"}
            "response" carries the means back from the transformation on the formula's left side
            (log, log2, log10, log1p, sqrt, cbrt, arcsin, exp), with one inside it and sums and
            products with numbers, and differences of logarithms to ratios.
        bias_adjust : bool or float
            With ``type="response"``: means of the responses instead of their medians, by half the
            second derivative times the variance of random effects and residuals together; a
            number is the standard deviation to take instead. Ratios stay as they are.

        Returns
        -------
        MarginalMeans
            With ``frame``, ``pairs(adjust)``, ``contrast(method, adjust)``, ``test()``, ``cld()``,
            ``plot()`` and ``vcov``.

        Raises
        ------
        DataError
            When the model was built from arrays or a name is unknown.
        MemoryLimitError
            When the grid has more than 200,000 rows.
        ValueError
            When an option is unknown, or Kenward and Roger's method is asked of an ML fit.

        Notes
        -----
        The formula is evaluated on a grid of all combinations, so that interactions,
        transformations and splines are what they were in the fit, and its rows are averaged
        (Searle, Speed & Milliken 1980, *The American Statistician* 34, 216-221; R's emmeans).
        An offset in the formula is evaluated on the grid, too; one given as an argument counts with
        its mean. A mean that the data cannot tell, for example of an empty cell, is NaN.
        Where each level of a factor occurs with one level of another factor only, the first is
        nested in the second: its levels count within their nest alone.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("ergoStool")
        >>> fit = sparselmm.mixedlm("effort ~ Type + (1 | Subject)", data).fit()
        >>> fit.emmeans("Type").frame.round(3)
          Type  emmean     SE     df  lower.CL  upper.CL
        0   T1   8.556  0.576  15.53     7.331     9.780
        1   T2  12.444  0.576  15.53    11.220    13.669
        2   T3  10.778  0.576  15.53     9.554    12.002
        3   T4   9.222  0.576  15.53     7.998    10.446
        """
        type = check_choice(type, "type", TYPES)
        scale = bias_adjusted(self._response_scale(), bias_adjust, type, self._variance_around)
        options = Options(ddf, weights, alpha, type, scale)
        return estimated_means(self._fixed_effects(ddf), self.built, specs, by, at, options)

    def emtrends(
        self, var: str, specs: Any, by: Any = None, at: Mapping[str, Any] | None = None, *,
        ddf: str = "satterthwaite", weights: str = "equal", alpha: float = 0.05,
    ) -> MarginalMeans:  # fmt: skip
        """Slopes of a covariate within the levels of factors, or at values of covariates.

        Parameters
        ----------
        var : str
            Covariate of the fixed effects.
        specs, by, at, ddf, weights, alpha
            As of :meth:`emmeans`. A slope that changes with ``var`` is that at its mean, or at
            the values of ``at``.

        Returns
        -------
        MarginalMeans
            Its estimates are in the column ``var.trend``, in units of the response per unit of
            ``var``.

        Raises
        ------
        DataError
            When ``var`` is no covariate of the fixed effects, or as of :meth:`emmeans`.

        Notes
        -----
        Central differences over a thousandth of the range of ``var``.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("dietox")
        >>> fit = sparselmm.mixedlm("Weight ~ Time * Cu + (1 | Pig)", data).fit()
        >>> fit.emtrends("Time", "Cu").frame[["Cu", "Time.trend", "SE"]].round(3)
              Cu  Time.trend     SE
        0  Cu000       6.980  0.059
        1  Cu035       6.869  0.056
        2  Cu175       6.984  0.058
        """
        options = Options(ddf, weights, alpha)
        fixed = self._fixed_effects(ddf)
        return estimated_trends(fixed, self.built, var, specs, by, at, options)

    @as_table
    def joint_tests(
        self, by: Any = None, at: Mapping[str, Any] | None = None, *, ddf: str = "satterthwaite",
        weights: str = "equal",
    ) -> pd.DataFrame:  # fmt: skip
        """F tests of every main effect and interaction, from the marginal means.

        Parameters
        ----------
        by : str or sequence of str, optional
            Variables within whose levels the others are tested.
        at, ddf, weights
            As of :meth:`emmeans`; a covariate is taken one unit below and above its mean.

        Returns
        -------
        DataFrame
            ``model term``, the variables of ``by``, ``df1``, ``df2``, ``F.ratio``, ``p.value``.

        Notes
        -----
        The contrasts of the means that an effect is made of, whatever the coding of the factors;
        with balanced weights those of type III tests. Where cells are empty, an effect's row has
        the part that can be estimated, and "(confounded)" what the cells tell beyond all rows.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Oats")
        >>> fit = sparselmm.mixedlm("Yield ~ nitro_f * Variety + (1 | Block / Variety)", data).fit()
        >>> fit.joint_tests()[["model term", "df1", "F.ratio"]].round(3)
                model term  df1  F.ratio
        0          nitro_f    3   37.686
        1          Variety    2    1.485
        2  nitro_f:Variety    6    0.303
        """
        return joint_tests(
            self._fixed_effects(ddf), self.built, by, at, Options(ddf, weights, 0.05)
        )

    def _response_scale(self) -> Scale | None:
        return response_scale(self.built.layout.y_name)

    @abstractmethod
    def _variance_around(self) -> float:
        """Variance of a response around the fixed part, the mean over the rows."""
