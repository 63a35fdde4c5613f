"""Predictions with their uncertainty."""

from __future__ import annotations

from abc import abstractmethod
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
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.hypotheses.ddf import DDF_METHODS
from sparselmm.inference.hypotheses.estimability import estimable, null_space, only_estimable
from sparselmm.inference.hypotheses.marginal_means import FixedEffects
from sparselmm.inference.prediction import means as prediction
from sparselmm.inference.prediction import variance as prediction_variance
from sparselmm.inference.prediction.variance import Targets
from sparselmm.results.methods.base import Vector
from sparselmm.results.methods.ranef import RanefResults
from sparselmm.results.tables.prediction import Prediction

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
        get_prediction : standard errors and intervals; with ``residual=`` and ``re=True`` also
            what new rows share of the residuals of their group, which is not added here.

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

    @abstractmethod
    def get_prediction(
        self, exog: Any = None, transform: bool = True, *, re: Any = False, unseen: str = "error",
        interval: str = "prediction", ddf: str = "z",
    ) -> Prediction:  # fmt: skip
        """Predicted means with standard errors, confidence and prediction intervals."""

    def _means(
        self, exog: Any, transform: bool, on: Switches, unseen: str, arrays: dict[str, Any],
        observed: bool,
    ) -> tuple[NewDesign, FloatArray]:  # fmt: skip
        """New rows, or those of the fit where there are none, and what is predicted of them."""
        est = self._est
        if exog is None:
            prediction.refuse_useless(arrays)
            new = self._training_rows()
        else:
            new = new_design(self.built, exog, transform, on, arrays, observed)
        prediction.warn_if_dropped(est.dropped)
        mean = prediction.fixed_part(new.X, est.beta, new.offset)
        if not any_on(on):
            return new, mean
        labels = level_labels(self.built, exog, arrays["groups"])
        random = prediction.new_random_part
        return new, mean + random(est.terms, new, est.pls.b, on, unseen, labels)

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
        se, df = self._spread(targets, ddf)
        undefined = np.isnan(mean)
        null = _null_space(self._est)
        if null is not None:
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

    def _fixed_effects(self, ddf: str) -> FixedEffects:
        return FixedEffects.of(self._est, self._ddf(ddf))


@dataclass(frozen=True, eq=False)
class _Joint:
    """How the predictions of a fit vary together."""

    results: PredictionResults
    targets: Targets
    ddf: str

    def covariance(self) -> FloatArray:
        """Covariance matrix of the means, (m, m)."""
        est = self.results._est
        if self.ddf == "kenward-roger":
            return self._known(self.results._fixed_effects(self.ddf).cov(self.targets.X))
        at, inner = est.working, self.targets.of_engine(est.deviance)
        return self._known(est.pls.scale * inner.covariance(at.deviance, at.pls.theta))

    def _known(self, cov: FloatArray) -> FloatArray:
        """A covariance of the means with NaN for those that a rank-deficient X cannot tell."""
        null = _null_space(self.results._est)
        return cov if null is None else only_estimable(cov, self.targets.X, null)

    def combined(
        self, L: FloatArray, mean: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Estimates, standard errors and degrees of freedom of combinations L (c, m)."""
        own = self.targets.combined(L)
        se, df = self.results._spread(own, self.ddf)
        null = _null_space(self.results._est)
        if null is not None:
            se[:, ~estimable(own.X, null)] = np.nan
        return L @ mean, se[0], df[0]


def _null_space(est: Estimates) -> FloatArray | None:
    """Null space of a rank-deficient X, (p, p - r)."""
    if not est.dropped:
        return None
    what = "which predictions of a rank-deficient X are estimable"
    return null_space(est.layout.row_space(what), est.deviance.cross.basis.kept)


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
