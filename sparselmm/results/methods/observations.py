"""Predictions of observations whose errors are independent."""

from __future__ import annotations

from typing import Any

from sparselmm.base.arguments import check_flag
from sparselmm.inference.prediction import means as prediction
from sparselmm.results.methods.prediction import PredictionResults, check_options
from sparselmm.results.tables.prediction import Prediction


class ObservationResults(PredictionResults):
    """What observations with independent errors are predicted to be."""

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
        transform = check_flag(transform, "transform")
        on = prediction.switches(self._est.terms, re)
        interval, ddf = check_options(interval, ddf, on)
        unseen = prediction.check_unseen(unseen)
        observed = interval == "prediction"
        arrays = {
            "groups": groups, "exog_re": exog_re, "exog_vc": exog_vc, "offset": offset,
            "z_terms": z_terms,
        }  # fmt: skip
        if exog is not None:
            exog = prediction.new_rows(self.built, exog, transform)
        new, mean = self._means(exog, transform, on, unseen, arrays, observed)
        if exog is None and weights is None:
            weights = self.built.design.weights
        w = prediction.prior_weights(weights, len(mean), new.row_labels) if observed else None
        targets = self._targets(new, on, w)
        return self._prediction(targets, mean, ddf, new.row_labels)
