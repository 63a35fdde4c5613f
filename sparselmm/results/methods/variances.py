"""Variance components, small-sample tests and intervals of a fitted model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_choice, check_count, check_keywords, check_level
from sparselmm.base.exceptions import (
    ArgumentError,
    DataError,
    SpecificationWarning,
    catchable,
    warn_user,
)
from sparselmm.base.types import FloatArray
from sparselmm.design.marginality import term_structure
from sparselmm.inference.hypotheses.anova import TYPES, term_contrasts
from sparselmm.inference.intervals.variance_components import (
    RSquared,
    entry_order,
    icc_delta,
    icc_values,
    profile_ends,
    r_squared,
    variance_intervals,
    variance_weights,
)
from sparselmm.inference.resampling import bootstrap
from sparselmm.results.methods.base import Matrix, from_sums
from sparselmm.results.methods.estimates import EstimateResults
from sparselmm.results.methods.simulation import SimulationResults
from sparselmm.results.methods.smaller_models import ComparisonResults
from sparselmm.results.print.labels import varcorr_frame
from sparselmm.results.print.notebook import as_table

BOOTSTRAP_OPTIONS = (
    "kind",
    "n_jobs",
    "progress",
    "checkpoint",
    "by",
    "jackknife",
    "resume",
    "client",
)
"""Arguments of the bootstrap that ``icc`` passes on."""


CI_OPTIONS: dict[str, tuple[str, ...]] = {
    "wald": (),
    "profile": ("which", "scale"),
    "bootstrap": (
        "kind", "resampling", "n", "statistic", "seed", "n_jobs", "progress", "checkpoint", "by",
        "jackknife", "resume", "client",
    ),
}  # fmt: skip
"""Options of ``conf_int`` by its method."""


class InferenceResults(SimulationResults, ComparisonResults, EstimateResults):
    """Part of :class:`sparselmm.MixedLMResults`."""

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

    # ------------------------------------------------------------------- fixed effects

    @from_sums
    @as_table
    def anova(self, type: int | str = 3, ddf: str = "satterthwaite") -> pd.DataFrame:
        """Analysis of variance of the terms of the formula, with F tests.

        Parameters
        ----------
        type : {3, 2, 1} or {"III", "II", "I"}
            Hypotheses: each term given all others, with those that contain it averaged over (III)
            or left out (II), or terms in the order of the formula (I). Types II and III do not
            depend on the order of the terms, and no type depends on the coding of factors.
        ddf : {"satterthwaite", "kenward-roger", "z"}
            Denominator degrees of freedom. Kenward-Roger is for REML fits; "z" takes the variances
            as known.

        Returns
        -------
        DataFrame
            One row per term: ``sum_sq`` and ``mean_sq`` (F times the residual variance, in squared
            units of the response; F before Kenward and Roger's scaling, as in lmerTest),
            ``df_num``, ``df_den``, ``F``, ``p_value``.

        Raises
        ------
        ValueError
            When an argument is unknown or ``ddf`` is not defined for this fit.
        DataError
            After ``remove_data()``: the hypotheses depend on the rows.

        Warns
        -----
        SpecificationWarning
            For type III when combinations of levels have no rows.

        Notes
        -----
        The hypotheses are lmerTest's (Kuznetsova, Brockhoff & Christensen 2017), with
        one difference: in a model with an interaction but without one of its main effects, such
        as ``a + a:b``, lmerTest tests the coefficients of ``a``, whose meaning depends on the
        coding; here ``a`` counts as contained in ``a:b``, as in SAS. Degrees of freedom: equations
        (1) and (2) of :mod:`sparselmm.inference.hypotheses.satterthwaite` (Fai & Cornelius 1996),
        (1) to (3) of :mod:`sparselmm.inference.hypotheses.kenward_roger` (Kenward & Roger 1997).

        References
        ----------
        Fai, A. H.-T. and Cornelius, P. L. (1996). Approximate F-tests of multiple degree of
        freedom hypotheses in generalized least squares analyses of unbalanced split-plot
        experiments. *Journal of Statistical Computation and Simulation* 54, 363-378.

        Goodnight, J. H. (1980). Tests of hypotheses in fixed effects linear models.
        *Communications in Statistics - Theory and Methods* 9(2), 167-180.

        Kenward, M. G. and Roger, J. H. (1997). Small sample inference for fixed effects from
        restricted maximum likelihood. *Biometrics* 53(3), 983-997.

        Kuznetsova, A., Brockhoff, P. B. and Christensen, R. H. B. (2017). lmerTest package: tests
        in linear mixed effects models. *Journal of Statistical Software* 82(13).

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Oats")
        >>> fit = sparselmm.mixedlm("Yield ~ nitro_f * Variety + (1 | Block/Variety)", data).fit()
        >>> fit.anova(ddf="kenward-roger").round(3)[["df_num", "df_den", "F"]]
                         df_num  df_den       F
        nitro_f               3      45  37.686
        Variety               2      10   1.485
        nitro_f:Variety       6      45   0.303
        """
        if not len(self.pls.beta):
            raise DataError("anova tests fixed effects, and the model has none")
        kind = TYPES[check_choice(type, "type", tuple(TYPES))]
        method = self._ddf(ddf)
        structure = term_structure(self.built)
        empty = ~structure.cells.any(axis=0)
        if kind == 3 and empty.any():
            names = {structure.names[t] for t in structure.cell_terms[empty] if t >= 0}
            warn_user(
                f"combinations of levels without rows in {', '.join(sorted(names))}: read type III "
                "tests with care, their hypotheses depend on which cells are empty",
                catchable(SpecificationWarning),
            )
        kept = self.deviance.cross.basis.kept
        contrasts = term_contrasts(structure, kept, kind)
        tests = [method.f_test(L) for L in contrasts.values()]
        F = np.array([test.statistic for test in tests], dtype=float)
        mean_sq = F / np.array([test.scaling for test in tests]) * self.pls.scale
        df = np.array([test.df_num for test in tests], dtype=int)
        return pd.DataFrame(
            {
                "sum_sq": mean_sq * df,
                "mean_sq": mean_sq,
                "df_num": df,
                "df_den": np.array([test.df_den for test in tests], dtype=float),
                "F": F,
                "p_value": np.array([test.p_value for test in tests], dtype=float),
            },
            index=list(contrasts),
        )

    # -------------------------------------------------------------- variance components

    @as_table
    def variance_components(self, alpha: float = 0.05, ci: str = "wald") -> pd.DataFrame:
        """Variance components with standard errors, confidence intervals and shares.

        Parameters
        ----------
        alpha : float
            One minus the confidence level.
        ci : {"wald", "profile"}
            Intervals from the standard errors, on scales where estimates are closest to normal;
            or by profile likelihood, which takes a search for each end and remains valid near
            zero. For intervals by the bootstrap see
            :meth:`bootstrap`.

        Returns
        -------
        DataFrame
            The rows of ``varcorr``: variances, covariances, the residual last.

            - ``vcov``, ``vcov_se``: variance or covariance and its standard error, in squared
              units of the data;
            - ``sdcor``, ``sdcor_se``: standard deviation or correlation and its standard error;
            - ``lower``, ``upper``: confidence interval of ``sdcor``; squared, that of a variance;
            - ``share``: part of the mean variance of a row that the fixed effects leave; sums to
              one. A term whose covariances count has one share, in its first row (NaN in the
              others): single parts of it would depend on where the covariates have their zero.

            Standard errors and Wald intervals of a singular term are NaN: its estimates are on
            the boundary and not asymptotically normal. The others' are as if that term were
            known. Profile intervals exist there: an end that the profile does not reach is the
            bound (0, -1 or 1). They are NaN for what is not estimated as a parameter of its own: a
            sigma held fixed, correlations between coefficients of an autoregressive term that are
            not neighbours.

        Raises
        ------
        ValueError
            When an argument is unknown.
        DataError
            For profile intervals of a fit with parameters held fixed or with penalties.

        Notes
        -----
        Standard errors are from the observed information of (Psi, sigma^2). Wald intervals on the
        log scale for standard deviations and on Fisher's z scale for correlations: Pinheiro &
        Bates (2000), section 2.4.3. They are poor with few levels; profile intervals and the
        bootstrap do not rest on normality. Profiles are of the ordinary likelihood, also after a
        REML fit: Bates, Maechler, Bolker & Walker (2015), section 5.1. Shares: the mean
        variance of a row, Johnson (2014).

        References
        ----------
        Bates, D., Maechler, M., Bolker, B. and Walker, S. (2015). Fitting linear mixed-effects
        models using lme4. *Journal of Statistical Software* 67(1).

        Johnson, P. C. D. (2014). Extension of Nakagawa & Schielzeth's R2_GLMM to random slopes
        models. *Methods in Ecology and Evolution* 5, 944-946.

        Pinheiro, J. C. and Bates, D. M. (2000). *Mixed-Effects Models in S and S-PLUS*. Springer.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Penicillin")
        >>> fit = sparselmm.mixedlm("diameter ~ 1 + (1 | plate) + (1 | sample)", data).fit()
        >>> fit.variance_components()[["grp", "sdcor", "lower", "upper", "share"]].round(3)
                grp  sdcor  lower  upper  share
        0     plate  0.847  0.621  1.154  0.151
        1    sample  1.932  1.037  3.597  0.785
        2  Residual  0.550  0.483  0.626  0.064
        >>> fit.variance_components(ci="profile")[["lower", "upper"]].round(3)
           lower  upper
        0  0.634  1.182
        1  1.096  3.556
        2  0.486  0.629
        """
        check_level(alpha)
        ci = check_choice(ci, "ci", ("wald", "profile"))
        found = variance_intervals(self._est, alpha)
        ends = found.ends if ci == "wald" else self._profile_ends(alpha)
        order = [*entry_order(self._est), len(found.se) - 1]
        frame = varcorr_frame(self._est.variance_rows)
        frame.insert(4, "vcov_se", found.se[order])
        return frame.assign(
            sdcor_se=found.sdcor_se[order],
            lower=ends[order, 0],
            upper=ends[order, 1],
            share=found.share[order],
        )

    def _profile_ends(self, alpha: float) -> FloatArray:
        """Profile intervals of packed variances and sigma, (m + 1, 2)."""
        parameters = self._profile_parameters("random")
        limits = self._profile_conf_int(alpha, "random").to_numpy()
        return profile_ends(self._est, parameters, limits)

    @from_sums
    @as_table
    def icc(
        self, ci: str = "delta", alpha: float = 0.05, n: int = 1000, seed: Any = None,
        **bootstrap_options: Any,
    ) -> pd.DataFrame:  # fmt: skip
        """Intraclass correlation of every random-effects term and of all together.

        Parameters
        ----------
        ci : {"delta", "bootstrap"}
            Intervals by the delta method on the logit scale, or percentile intervals of the
            parametric bootstrap, which remain valid for few levels and variances near zero.
        alpha : float
            One minus the confidence level.
        n : int
            Replicates of the bootstrap.
        seed : int, sequence of int or SeedSequence, optional
            Seed of the bootstrap.
        **bootstrap_options
            Other arguments of :meth:`bootstrap`, such as ``n_jobs``.

        Returns
        -------
        DataFrame
            One row per term and, last, ``"all terms"``. ``icc``: share of the mean variance of a
            row that the fixed effects leave; ``se``, ``lower``, ``upper``; ``icc_unadjusted``: the
            share with the variance of the fixed part counted in the total. Delta-method errors of
            a singular term are NaN.

        Raises
        ------
        ValueError
            When an argument is unknown.

        Notes
        -----
        Nakagawa, Johnson & Schielzeth (2017), where this is the adjusted ICC; with random slopes
        the mean over the rows, Johnson (2014).

        References
        ----------
        Nakagawa, S., Johnson, P. C. D. and Schielzeth, H. (2017). The coefficient of determination
        R2 and intra-class correlation coefficient from generalized linear mixed-effects models
        revisited and expanded. *Journal of the Royal Society Interface* 14, 20170213.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Dyestuff")
        >>> fit = sparselmm.mixedlm("Yield ~ 1 + (1 | Batch)", data).fit()
        >>> fit.icc()[["icc", "lower", "upper"]].round(3)
                     icc  lower  upper
        Batch      0.418  0.112  0.804
        all terms  0.418  0.112  0.804
        """
        check_level(alpha)
        ci = check_choice(ci, "ci", ("delta", "bootstrap"))
        n = check_count(n, "n")
        if "statistic" in bootstrap_options:
            raise ArgumentError(
                "statistic: the bootstrap of icc computes the ICC of every replicate"
            )
        check_keywords(bootstrap_options, BOOTSTRAP_OPTIONS, "icc")
        if ci == "delta" and (bootstrap_options or seed is not None):
            given = ", ".join([*bootstrap_options, *(["seed"] if seed is not None else [])])
            raise ArgumentError(f"{given}: only for ci='bootstrap'")
        est = self._est
        found = icc_delta(est, alpha)
        se, ends = found.se, found.ends
        if ci == "bootstrap":
            done = self.bootstrap(n, seed=seed, **bootstrap_options)
            first = est.layout.p
            values = icc_values(
                variance_weights(est), done.values[:, first : first + len(est.variances) + 1]
            )
            se = np.nanstd(values, axis=0, ddof=1)
            ends = bootstrap.intervals(found.icc, values, alpha, "percentile")
        return pd.DataFrame(
            {
                "icc": found.icc,
                "se": se,
                "lower": ends[:, 0],
                "upper": ends[:, 1],
                "icc_unadjusted": self._unadjusted(found.icc),
            },
            index=[*(term.name for term in est.terms), "all terms"],
        )

    def _unadjusted(self, icc: FloatArray) -> FloatArray:
        try:
            return icc * (1.0 - r_squared(self._est).marginal)
        except DataError:  # without rows the variance of the fixed part is not known
            return np.full(len(icc), np.nan)

    @from_sums
    def r2(self) -> RSquared:
        """Marginal and conditional R2.

        Returns
        -------
        RSquared
            ``marginal``: share of the variance of the response explained by the fixed effects;
            ``conditional``: by fixed and random effects; and the variances they are made of.

        Raises
        ------
        DataError
            After ``remove_data()``.

        Notes
        -----
        Nakagawa & Schielzeth (2013), eqs. 26 and 29 (marginal) and 30 (conditional). With random
        slopes the random variance is the mean over the rows of ``z_i'Psi z_i`` (Johnson 2014).
        An offset counts neither as explained nor as variance. With prior weights the residual
        variance is the mean of ``sigma^2 / w``, which does not depend on the scale of the weights.

        References
        ----------
        Nakagawa, S. and Schielzeth, H. (2013). A general and simple method for obtaining R2 from
        generalized linear mixed-effects models. *Methods in Ecology and Evolution* 4, 133-142.

        Johnson, P. C. D. (2014). Extension of Nakagawa & Schielzeth's R2_GLMM to random slopes
        models. *Methods in Ecology and Evolution* 5, 944-946.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> r2 = fit.r2()
        >>> round(r2.marginal, 3), round(r2.conditional, 3)
        (0.279, 0.799)
        """
        return r_squared(self._est)
