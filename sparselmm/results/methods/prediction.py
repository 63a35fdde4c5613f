"""Predictions, random effects and marginal means with their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_choice, check_flag
from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.types import FloatArray
from sparselmm.design import NewDesign
from sparselmm.design.new_rows import Switches, any_on, level_labels, new_design
from sparselmm.design.rows import unseen_rows
from sparselmm.design.terms import assemble_z
from sparselmm.inference.hypotheses.ddf import DDF_METHODS
from sparselmm.inference.hypotheses.estimability import estimable, null_space
from sparselmm.inference.hypotheses.marginal_means import FixedEffects
from sparselmm.inference.intervals.variance_components import r_squared
from sparselmm.inference.prediction import means as prediction
from sparselmm.inference.prediction import variance as prediction_variance
from sparselmm.inference.prediction.variance import Targets
from sparselmm.results.methods.base import Vector
from sparselmm.results.methods.ranef import RanefResults
from sparselmm.results.print.notebook import as_table
from sparselmm.results.tables.emmeans import (
    TYPES,
    Options,
    estimated_means,
    estimated_trends,
    joint_tests,
)
from sparselmm.results.tables.means import MarginalMeans
from sparselmm.results.tables.prediction import Prediction
from sparselmm.results.tables.scales import Scale, bias_adjusted, response_scale

INTERVALS = ("confidence", "prediction")


class PredictionResults(RanefResults):
    """Part of :class:`sparselmm.MixedLMResults`."""

    def predict(
        self, exog: Any = None, transform: bool = True, *, re: Any = False, unseen: str = "error",
        groups: Any = None, exog_re: Any = None, exog_vc: Any = None, offset: Any = None,
        z_terms: Any = None,
    ) -> Vector:  # fmt: skip
        """Predicted means, of the fixed effects alone or with random effects.

        Parameters
        ----------
        exog : DataFrame, mapping, Series or ndarray, (m, p), optional
            New data: the formula's variables, or the columns of X. A Series is one row, its index
            the names. Default: the data of the fit.
        transform : bool
            False: a data frame holds the columns of X, not the formula's variables.
        re : bool, str, sequence of str, or mapping of str to str or sequence of str
            Which random effects to add: none (False, the mean of the population), all (True),
            those of some terms or grouping factors (``["Subject"]``), or some coefficients of
            them (``{"Subject": "Intercept"}``); lme4's ``re.form``.
        unseen : {"error", "population", "nan"}
            What to do with rows of a level the fit has not seen: refuse, leave that random effect
            out, or predict NaN.
        groups, exog_re, exog_vc, z_terms : optional
            With random effects, arrays for the new rows where the model was given arrays.
        offset : array-like, (m,), optional
            Offset of the new rows when the model's was an array. This and the other arguments of
            the length of the data are matched by index when they are Series or DataFrames with
            the labels of the new rows, and go by position when they are arrays.

        Returns
        -------
        Series or ndarray, (m,)
            A Series for a data frame, an array otherwise.

        Raises
        ------
        TypeError
            When arrays for random effects are given without ``re``.
        DataError
            When levels are unseen, a name in ``re`` is unknown, or the new data do not suit the
            model.

        Warns
        -----
        RankDeficiencyWarning
            When coefficients of dropped columns had to count as zero.

        See Also
        --------
        get_prediction : standard errors and intervals.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> new = data.iloc[:2].assign(Subject=["308", "999"])
        >>> fit.predict(new, re=True, unseen="population").round(1).tolist()
        [253.7, 261.9]
        >>> fit.predict(new[:1], re={"Subject": "Intercept"}).round(1).tolist()
        [253.7]
        """
        arrays = {"groups": groups, "exog_re": exog_re, "exog_vc": exog_vc, "z_terms": z_terms}
        transform = check_flag(transform, "transform")
        on = prediction.switches(self._est.terms, re)
        unseen = prediction.check_arguments(any_on(on), unseen, arrays)
        arrays["offset"] = offset
        if exog is None:
            self._need_rows("predict without new data")
            prediction.refuse_useless(arrays)
            return prediction.fitted(self._est, re)
        out, index = prediction.predict(self._est, self.built, exog, transform, on, unseen, arrays)
        return out if index is None else pd.Series(out, index=index)

    def get_prediction(
        self, exog: Any = None, transform: bool = True, *, re: Any = False, unseen: str = "error",
        interval: str = "prediction", ddf: str = "z", weights: Any = None, groups: Any = None,
        exog_re: Any = None, exog_vc: Any = None, offset: Any = None, z_terms: Any = None,
    ) -> Prediction:  # fmt: skip
        """Predicted means with standard errors, confidence and prediction intervals.

        Parameters
        ----------
        exog, transform, re, unseen, groups, exog_re, exog_vc, offset, z_terms
            As for :meth:`predict`. ``unseen="population"`` counts the variance of the effect of a
            new level in the standard error.
        interval : {"prediction", "confidence"}
            "confidence" leaves the intervals of new observations out; they take more of the new
            data, the covariates of every random effect.
        ddf : {"z", "satterthwaite", "kenward-roger"}
            Normal intervals, or t intervals with these degrees of freedom. Kenward and Roger's
            method is for ``re=False`` and ``interval="confidence"``.
        weights : float or array-like, (m,), optional
            Prior weights of the new observations. Default: those of the fit for its own rows, 1
            for new ones.

        Returns
        -------
        Prediction
            With ``summary_frame(alpha)``, ``conf_int(obs, alpha)``, ``predicted_mean``,
            ``se_mean`` and ``se_obs``.

        Raises
        ------
        DataError
            As :meth:`predict`; when an argument is unknown.
        ValueError
            When degrees of freedom cannot be had.

        Warns
        -----
        RankDeficiencyWarning
            When X is rank deficient; standard errors of rows that are not estimable are NaN.

        Notes
        -----
        What is predicted is ``x'beta + z'b``, b the random effects switched on. Its error variance
        is ``sigma^2 [x' z'] C [x; z]`` with C from Henderson's mixed-model equations, so that the
        errors of the fixed effects, of the BLUPs and their covariance all count (Henderson 1984,
        *Applications of Linear Models in Animal Breeding*, chapter 5: the variance of
        ``w_hat - w`` for ``w = K'beta + M'u``). To it come ``z Psi z'`` of each level not seen and,
        for a new observation, ``z Psi z'`` of the effects switched off (whose group is then any new
        one) and ``sigma^2 / w``. Variances count as known but for the degrees of freedom, so
        standard errors for groups with little data are somewhat small.

        With a known covariance K between levels, a level of K without data is predicted through the
        others, an effect switched off has the variance ``K_jj z Psi z'``, and a level outside K has
        no known variance: where it counts, standard errors are NaN.

        With ``ddf="satterthwaite"`` the degrees of freedom are ``2 f^2 / g'A g`` for the variance f
        of each row (Giesbrecht & Burns 1985; SAS/STAT, PROC GLIMMIX, for random effects).

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> new = data.iloc[:2].assign(Subject=["308", "999"])
        >>> found = fit.get_prediction(new, re=True, unseen="population")
        >>> found.summary_frame()[["mean", "mean_se", "obs_ci_lower", "obs_ci_upper"]].round(1)
            mean  mean_se  obs_ci_lower  obs_ci_upper
        0  253.7     12.3         198.1         309.3
        1  261.9     26.7         189.4         334.3
        """
        est, transform = self._est, check_flag(transform, "transform")
        on = prediction.switches(est.terms, re)
        interval, ddf = check_options(interval, ddf, on)
        unseen = prediction.check_unseen(unseen)
        observed = interval == "prediction"
        arrays = {
            "groups": groups, "exog_re": exog_re, "exog_vc": exog_vc, "offset": offset,
            "z_terms": z_terms,
        }  # fmt: skip
        if exog is None:
            prediction.refuse_useless(arrays)
            new = self._training_rows()
            weights = self.built.design.weights if weights is None else weights
        else:
            exog = prediction.new_rows(self.built, exog, transform)
            new = new_design(self.built, exog, transform, on, arrays, observed)
        prediction.warn_if_dropped(est.dropped)
        mean = prediction.fixed_part(new.X, est.beta, new.offset)
        if any_on(on):
            labels = level_labels(self.built, exog, groups)
            random = prediction.new_random_part
            mean = mean + random(est.terms, new, est.pls.b, on, unseen, labels)
        w = prediction.prior_weights(weights, len(mean), new.row_labels) if observed else None
        targets = self._targets(new, on, w)
        return self._prediction(targets, mean, ddf, new.row_labels)

    def _training_rows(self) -> NewDesign:
        design = self.built.layout.rows("get_prediction without new data")
        return NewDesign(design.X, design.terms, design.offset, self.built.row_labels)

    def _targets(self, new: NewDesign, on: Switches, weights: FloatArray | None) -> Targets:
        """What is predicted, as arrays."""
        m = len(new.X)
        if not new.terms:
            return Targets(new.X, None, (), (), (), weights)
        inside = [prediction.masked(term, part) for term, part in zip(new.terms, on, strict=True)]
        off = tuple(not part.any() for part in on)
        terms = [old if out else own for old, own, out in zip(new.terms, inside, off, strict=True)]
        unseen = tuple(
            unseen_rows(old, term) & part.any()
            for old, term, part in zip(self._est.terms, new.terms, on, strict=True)
        )
        H = assemble_z(tuple(inside), m) if any_on(on) else None
        return Targets(new.X, H, tuple(terms), unseen, off, weights)

    def _prediction(
        self, targets: Targets, mean: FloatArray, ddf: str, index: pd.Index | None
    ) -> Prediction:
        est = self._est
        se, df = self._spread(targets, ddf)
        undefined = np.isnan(mean)
        if est.dropped:
            what = "which predictions of a rank-deficient X are estimable"
            null = null_space(est.layout.row_space(what), est.deviance.cross.basis.kept)
            undefined = undefined | ~estimable(targets.X, null)
        se[:, undefined] = np.nan
        return Prediction(
            predicted_mean=mean, se_mean=se[0], se_obs=se[1] if len(se) > 1 else None,
            df_mean=df[0], df_obs=df[-1], row_labels=index, _joint=_Joint(self, targets, ddf),
        )  # fmt: skip

    def _spread(self, targets: Targets, ddf: str) -> tuple[FloatArray, FloatArray]:
        """Standard errors and degrees of freedom of means and observations, (1 or 2, m)."""
        est = self._est
        if ddf == "kenward-roger":
            found = self._fixed_effects(ddf).estimates(targets.X, np.zeros(len(targets.X)))
            return found.se[None], found.df[None]
        at, inner = est.working, targets.of_engine(est.deviance)
        forms = inner.forms(at.deviance, at.pls.theta)
        se = np.sqrt(est.pls.scale * np.maximum(forms, 0.0))
        df = np.full(forms.shape, np.inf)
        if ddf == "satterthwaite":
            df = prediction_variance.satterthwaite(at, partial(inner.forms, at.deviance))
        return se, df

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
            (log, log2, log10, log1p, sqrt, cbrt, arcsin, exp) and differences of logarithms to
            ratios.
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
        Offsets count. A mean that the data cannot tell, for example of an empty cell, is NaN.
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

    def _fixed_effects(self, ddf: str) -> FixedEffects:
        return FixedEffects.of(self._est, self._ddf(ddf))

    def _response_scale(self) -> Scale | None:
        return response_scale(self.built.layout.y_name)

    def _variance_around(self) -> float:
        """Variance of a response around the fixed part, the mean over the rows."""
        if self.built.layout.residual is not None:
            raise DataError(
                "the residual variance differs from row to row; give bias_adjust= a standard "
                "deviation, of random effects and residuals together"
            )
        parts = r_squared(self._est)
        return parts.var_random + parts.var_residual


@dataclass(frozen=True, eq=False)
class _Joint:
    """How the predictions of a fit vary together."""

    results: PredictionResults
    targets: Targets
    ddf: str

    def covariance(self) -> FloatArray:
        """Covariance matrix of the means, (m, m)."""
        if self.ddf == "kenward-roger":
            return self.results._fixed_effects(self.ddf).cov(self.targets.X)
        est = self.results._est
        at, inner = est.working, self.targets.of_engine(est.deviance)
        return np.asarray(est.pls.scale * inner.covariance(at.deviance, at.pls.theta))

    def combined(
        self, L: FloatArray, mean: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Estimates, standard errors and degrees of freedom of combinations L (c, m)."""
        own = self.targets.combined(L)
        se, df = self.results._spread(own, self.ddf)
        est = self.results._est
        if est.dropped:
            what = "which predictions of a rank-deficient X are estimable"
            null = null_space(est.layout.row_space(what), est.deviance.cross.basis.kept)
            se[:, ~estimable(own.X, null)] = np.nan
        return L @ mean, se[0], df[0]


def check_options(interval: str, ddf: str, on: Switches) -> tuple[str, str]:
    """The options, refusing combinations without a method."""
    interval = check_choice(interval, "interval", INTERVALS)
    ddf = check_choice(ddf, "ddf", DDF_METHODS)
    if interval == "prediction" and any(part.any() and not part.all() for part in on):
        raise DataError(
            "an observation has all coefficients of a term, so some of them alone give no "
            "prediction interval; pass interval='confidence' or switch whole terms"
        )
    if ddf == "kenward-roger" and (any_on(on) or interval == "prediction"):
        raise ArgumentError(
            "ddf='kenward-roger' is a method for fixed effects; pass re=False and "
            "interval='confidence', or use ddf='satterthwaite'"
        )
    return interval, ddf
