"""Comparison with smaller models, exact tests, conditional AIC, profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_choice, check_count, check_level, check_strings
from sparselmm.base.exceptions import DataError
from sparselmm.design.kinds.coded import CodedSpec
from sparselmm.design.terms import RandomTerm, TermLayout
from sparselmm.inference.diagnostics.caic import ConditionalAIC, conditional_aic
from sparselmm.inference.hypotheses import comparison as tests
from sparselmm.inference.hypotheses.ddf import DDF_METHODS
from sparselmm.inference.hypotheses.rlrt import ExactTest, NullSpectrum, exact_test
from sparselmm.inference.intervals.profiles import Parameter, Profiler, parameters, theta_parameters
from sparselmm.likelihood.covariance import Covariance
from sparselmm.results.methods.robust import RobustResults
from sparselmm.results.print.notebook import as_table
from sparselmm.results.tables.profile import ProfileResults, limits, profiled

SCALES = ("sd", "variance")

MOST_POINTS = 1000
"""Most steps of a profile on one side."""


class ComparisonResults(RobustResults):
    """Part of :class:`sparselmm.MixedLMResults`."""

    # -------------------------------------------------------------------- deletion of terms

    @as_table
    def ranova(self) -> pd.DataFrame:
        """Test every random effect by refitting the model without it.

        Of a term with slopes each effect that is not part of an interaction is left out in turn
        (``(x | g)`` becomes ``(1 | g)``), a term with one effect is left out as a whole, and a
        factor without intercept (``(0 + f | g)``) becomes an intercept, as in lmerTest. The
        criterion is the one of the fit; refits are made from the cross-products and warm-started.

        Returns
        -------
        DataFrame
            One row per deletion after ``<none>``: ``npar``, ``llf``, ``aic``, ``lrt``, ``df``,
            ``pvalue`` from chi2(df), which is conservative because the variance cannot be
            negative, and ``pvalue_boundary`` from ``chi2(df - 1) / 2 + chi2(df) / 2``, NaN where
            several variances are left out together.

        References
        ----------
        Stram, D. O. and Lee, J. W. (1994). Variance components testing in the longitudinal mixed
        effects model. *Biometrics* 50, 1171-1177, case 3.

        Self, S. G. and Liang, K.-Y. (1987). Asymptotic properties of maximum likelihood
        estimators and likelihood ratio tests under nonstandard conditions. *JASA* 82, 605-610.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.ranova()[["lrt", "df"]].round(3).loc["Days in (1 + Days | Subject)"].tolist()
        [42.837, 2.0]
        """
        est = self._est
        self._check_estimated("ranova")
        if self.built.spec.formula is None:
            self._need_rows("ranova of a model built from arrays")
        if not est.terms:
            raise DataError("the model has no random effects to test")
        effects = [_effects(spec, term) for spec, term in zip(self._specs, est.terms, strict=True)]
        drops = tests.random_drops(est.terms, effects)
        found = tests.delete_random(self.deviance, self.pls.theta, drops)
        rows = [
            (est.n_parameters - d.df, d.deviance, d.lrt, d.df, d.pvalue, d.pvalue_boundary)
            for d in found
        ]
        full = (est.n_parameters, self.pls.deviance, np.nan, np.nan, np.nan, np.nan)
        values = np.array([full, *rows], dtype=float)
        npar, deviance = values[:, 0], values[:, 1]
        columns = {"npar": npar, "llf": -0.5 * deviance, "aic": deviance + 2.0 * npar}
        for j, name in enumerate(("lrt", "df", "pvalue", "pvalue_boundary"), 2):
            columns[name] = values[:, j]
        return pd.DataFrame(columns, index=["<none>", *[d.label for d in found]])

    @property
    def _specs(self) -> Sequence[Any]:
        return self.built.spec.terms

    @as_table
    def drop1(self, test: str = "chisq", ddf: str = "satterthwaite") -> pd.DataFrame:
        """Test every fixed-effects term that marginality lets go.

        A term is tested when no other term of the formula contains all its variables. Its columns
        are left out as they are; the coding of other factors stays. In a model built from arrays
        every column that is not constant is a term.

        Parameters
        ----------
        test : {"chisq", "f"}
            Likelihood-ratio test with both models fitted by ML, as lme4's ``drop1``; or F test of
            the term's coefficients in the fit as it is, as lmerTest's.
        ddf : {"satterthwaite", "kenward-roger", "z"}
            Denominator degrees of freedom of the F test.

        Returns
        -------
        DataFrame
            "chisq": after ``<none>`` one row per term with ``df``, ``aic``, ``lrt``, ``pvalue``.
            "f": one row per term with ``sum_sq``, ``mean_sq``, ``df_num``, ``df_den``,
            ``statistic``, ``pvalue``.

        Raises
        ------
        ValueError
            When ``test`` or ``ddf`` is unknown.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.drop1().loc["Days", ["df", "lrt"]].round(4).tolist()
        [1.0, 23.5365]
        """
        test = check_choice(test, "test", ("chisq", "f"))
        ddf = check_choice(ddf, "ddf", DDF_METHODS)
        columns = self._droppable()
        if test == "f":
            return self._drop1_f(columns, ddf)
        self._check_plain("drop1")
        est = self._est
        full, found = tests.delete_fixed(self.deviance, self.pls.theta, est.layout, columns)
        values = np.array(
            [
                (np.nan, full + 2.0 * est.n_parameters, np.nan, np.nan),
                *[
                    (d.df, d.deviance + 2.0 * (est.n_parameters - d.df), d.lrt, d.pvalue)
                    for d in found
                ],
            ]
        )
        return pd.DataFrame(
            values, ["<none>", *[d.label for d in found]], ["df", "aic", "lrt", "pvalue"]
        )

    def _drop1_f(self, columns: dict[str, list[int]], ddf: str) -> pd.DataFrame:
        engine = self._ddf(ddf)
        kept = set(self.deviance.cross.basis.kept.tolist())
        rows, index, eye = [], [], np.eye(self.built.layout.p)
        for name, cols in columns.items():
            stay = [j for j in cols if j in kept]
            if not stay:
                continue
            found = engine.f_test(eye[stay])
            mean = found.statistic * self.pls.scale
            rows.append(
                (mean * found.df_num, mean, found.df_num, found.df_den, found.statistic,
                 found.p_value)
            )  # fmt: skip
            index.append(name)
        names = ["sum_sq", "mean_sq", "df_num", "df_den", "statistic", "pvalue"]
        return pd.DataFrame(np.array(rows, dtype=float).reshape(-1, 6), index, names)

    def _droppable(self) -> dict[str, list[int]]:
        """Columns of the fixed-effects terms that marginality lets go."""
        columns = self.built.spec.term_columns()
        if columns is None:
            design = self.built.layout.rows("drop1 of a model built from arrays")
            constant = [bool(np.ptp(column) == 0) for column in design.X.T]
            return {name: [j] for j, name in enumerate(design.x_names) if not constant[j]}
        factors = self.built.spec.term_factors()
        return {name: columns[name] for name in tests.droppable(factors)}

    # ------------------------------------------------------------------ exact tests, cAIC

    def exact_rlrt(
        self, term: str | None = None, nsim: int = 10_000, seed: Any = None
    ) -> ExactTest:
        """Test one variance by its restricted likelihood ratio, with a simulated null distribution.

        The distribution is exact in finite samples when the tested term is the only random effect;
        otherwise it is the approximation of Greven et al. (2008), which takes the other random
        effects as known.

        Parameters
        ----------
        term : str, optional
            Term to test, with one coefficient per level: its name in ``varcorr``. Not needed when
            there is one.
        nsim : int
            Number of simulated ratios.
        seed : int or numpy Generator, optional

        Returns
        -------
        ExactTest
            ``statistic``, ``pvalue``, its Monte Carlo standard error and the sample.

        Raises
        ------
        DataError
            When the fit is not by REML, or the term is unknown or has several coefficients.

        References
        ----------
        Crainiceanu, C. M. and Ruppert, D. (2004). Likelihood ratio tests in linear mixed models
        with one variance component. *JRSS B* 66, 165-185, theorem 1.

        Greven, S., Crainiceanu, C. M., Kuechenhoff, H. and Peters, A. (2008). Restricted
        likelihood ratio testing for zero variance components in linear mixed models. *JCGS* 17,
        870-891, section 2.2.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Dyestuff")
        >>> fit = sparselmm.mixedlm("Yield ~ 1 + (1 | Batch)", data).fit()
        >>> test = fit.exact_rlrt(nsim=20_000, seed=1)
        >>> round(test.statistic, 3), test.pvalue < 0.01
        (6.369, True)
        """
        if not self.pls.reml:
            raise DataError("exact_rlrt needs a fit by REML; for an ML fit use exact_lrt")
        t = self._tested(term, "exact_rlrt")
        (found,) = self._without_term(t)
        null = NullSpectrum.of(self.deviance.cross, t)
        return exact_test(found.lrt, null, reml=True, nsim=nsim, seed=seed)

    def exact_lrt(
        self, drop: Sequence[str] = (), nsim: int = 10_000, seed: Any = None
    ) -> ExactTest:
        """Test the only variance of the model, and fixed effects with it, by the likelihood ratio.

        Parameters
        ----------
        drop : sequence of str
            Fixed effects (terms of the formula, or columns of X) that are zero under the null.
        nsim : int
        seed : int or numpy Generator, optional

        Returns
        -------
        ExactTest

        Raises
        ------
        DataError
            When the fit is not by ML, has several random effects, or a name in ``drop`` is
            unknown.

        References
        ----------
        Crainiceanu, C. M. and Ruppert, D. (2004). Likelihood ratio tests in linear mixed models
        with one variance component. *JRSS B* 66, 165-185, theorem 1.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Rail")
        >>> fit = sparselmm.mixedlm("travel ~ 1 + (1 | Rail)", data).fit(reml=False)
        >>> test = fit.exact_lrt(nsim=2_000, seed=1)
        >>> round(test.statistic, 2), test.pvalue < 0.01
        (35.37, True)
        """
        if self.pls.reml:
            raise DataError("exact_lrt needs a fit by ML (reml=False); after REML use exact_rlrt")
        if len(self._est.terms) != 1:
            raise DataError(
                f"exact_lrt needs a model with one random effect, this one has "
                f"{len(self._est.terms)} terms; fit by REML and use exact_rlrt(term=...)"
            )
        t = self._tested(None, "exact_lrt")
        statistic, n_fixed = tests.null_lrt(
            self.deviance, self.pls.theta, self._est.layout, self._named_columns(drop)
        )
        null = NullSpectrum.of(self.deviance.cross, t)
        return exact_test(statistic, null, reml=False, n_fixed=n_fixed, nsim=nsim, seed=seed)

    def _named_columns(self, names: Sequence[str]) -> list[int]:
        names = check_strings(names, "drop")
        design, columns = self.built.layout, self.built.spec.term_columns() or {}
        out: list[int] = []
        for name in names:
            if name in columns:
                out += columns[name]
            elif name in design.x_names:
                out.append(design.x_names.index(name))
            else:
                raise DataError(
                    f"drop names no fixed effect {name!r}; columns of X are {design.x_names}"
                )
        return sorted(set(out))

    def _check_estimated(self, what: str) -> None:
        """Refuse fits whose covariance parameters are not all free."""
        self._check_plain(what)
        free = Covariance.of(self._est.terms).n_theta
        if self.deviance.covariance.n_theta != free:
            raise DataError(
                f"{what} needs random-effects covariances that are estimated, and this fit holds "
                "some of them fixed; fit the model without them in fix="
            )

    def _tested(self, term: str | None, method: str) -> int:
        """Position of the term an exact test is about."""
        self._check_estimated(method)
        terms = self._est.terms
        if self.deviance.known_scale is not None:
            raise DataError(f"{method} needs a residual variance that is estimated")
        names = [one.name for one in terms]
        if term is None and len(terms) != 1:
            raise DataError(
                f"pass term=, one of {names}: the model has {len(terms)} random effects"
            )
        if term is not None:
            term = check_choice(term, "term", names, "random effect")
        t = 0 if term is None else names.index(term)
        if terms[t].k != 1:
            raise DataError(
                f"{method} tests one variance, and {names[t]!r} has {terms[t].k} coefficients; "
                "ranova() tests each of them with its covariances"
            )
        return t

    def _without_term(self, t: int) -> list[tests.Deletion]:
        drop = tests.RandomDrop("", t, np.zeros((self._est.terms[t].k, 0)), True)
        return tests.delete_random(self.deviance, self.pls.theta, [drop])

    def caic(self) -> ConditionalAIC:
        """Conditional Akaike information of Greven & Kneib.

        For choosing among models by how well they predict further rows of the *same* groups. The
        number of parameters is the trace of the derivative of the fitted values in the response,
        which follows the variance parameters too.

        Returns
        -------
        ConditionalAIC
            ``caic``, ``llf``, ``df`` and ``df_known_variances``.

        Notes
        -----
        R's cAIC4 1.0 halves a term of this derivative in its analytic formula; its ``df`` are
        larger by a few hundredths in ordinary models. Finite differences of refits agree with the
        number given here.

        References
        ----------
        Greven, S. and Kneib, T. (2010). On the behaviour of marginal and conditional AIC in linear
        mixed models. *Biometrika* 97, 773-789, theorem 3.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> round(fit.caic().df, 4)
        31.2535
        """
        self._check_estimated("caic")
        return conditional_aic(self.deviance, self.pls.theta)

    # ---------------------------------------------------------------------------- profiles

    def profile(
        self, which: str | Sequence[str] | None = None, alpha_max: float = 0.01,
        n_points: int = 8, scale: str = "sd",
    ) -> ProfileResults:  # fmt: skip
        """Profile the likelihood of parameters, one at a time.

        Parameters
        ----------
        which : str or sequence of str, optional
            Names of parameters, or ``"fixed"``, ``"random"`` (standard deviations, correlations
            and sigma) or ``"theta"``. Default ``"random"`` and ``"fixed"``. Names are
            ``"sd_coefficient|term"``, ``"cor_second.first|term"``, ``"sd_component"``, ``"sigma"``
            and the columns of X.
        alpha_max : float
            Profiles reach the ends of intervals with confidence ``1 - alpha_max``.
        n_points : int
            Steps on either side of the estimate.
        scale : {"sd", "variance"}
            Standard deviations, or variances: the same profile with another axis.

        Returns
        -------
        ProfileResults
            With ``conf_int(alpha)``, ``frame`` and ``plot()``.

        Raises
        ------
        DataError
            When a name is unknown or the fit has penalties or parameters held fixed.

        Notes
        -----
        The likelihood is the ordinary one; a REML fit is first refitted by ML, as in lme4.

        References
        ----------
        Bates, D., Maechler, M., Bolker, B. and Walker, S. (2015). Fitting linear mixed-effects
        models using lme4. *Journal of Statistical Software* 67 (1), section 5.1.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.profile("sigma").conf_int().round(3).loc["sigma"].tolist()
        [22.898, 28.858]
        """
        scale = check_choice(scale, "scale", SCALES)
        check_level(alpha_max, "alpha_max", "0.01 reaches the ends of 99 % intervals")
        check_count(n_points, "n_points", most=MOST_POINTS)
        chosen = self._profile_parameters(which)
        return profiled(
            self._profiler(), chosen, self._profile_parameters(None), alpha_max, n_points, scale
        )

    def _profile_conf_int(self, alpha: float, which: Any = None, scale: str = "sd") -> pd.DataFrame:
        scale = check_choice(scale, "scale", SCALES)
        return limits(self._profiler(), self._profile_parameters(which), alpha, scale)

    def _profiler(self) -> Profiler:
        self._check_estimated("a profile")
        return Profiler(self.deviance, self.pls.theta)

    def _profile_parameters(self, which: Any) -> list[Parameter]:
        design, basis = self.built.layout, self.deviance.cross.basis
        names = [design.x_names[j] for j in basis.kept]
        known = parameters(design.terms, names, sigma=self.deviance.known_scale is None)
        if which is None:
            return known
        sizes = [term.n_theta for term in self.deviance.covariance.terms]
        theta = theta_parameters(design.terms, sizes)
        by_name = {p.name: p for p in [*theta, *known]}
        out: list[Parameter] = []
        for name in check_strings(which, "which"):
            if name == "fixed" or name == "random":
                out += [p for p in known if (p.kind == "beta") == (name == "fixed")]
            elif name == "theta":
                out += theta
            elif name in by_name:
                out.append(by_name[name])
            else:
                raise DataError(
                    f"which names no parameter {name!r}; there are 'fixed', 'random', 'theta' and "
                    f"{', '.join(by_name)}"
                )
        return list(dict.fromkeys(out))


def _effects(spec: Any, term: TermLayout) -> dict[str, list[int]]:
    """Effects of a random term as written: name to its columns, ``"1"`` the intercept."""
    written = spec.effect_columns() if isinstance(spec, CodedSpec) else None
    if written is not None:
        return {("1" if name == "Intercept" else name): cols for name, cols in written.items()}
    columns = list(range(term.k))
    if len(columns) == 1 and term.form != "covariates":
        return {"1": [0]}
    names = [_is_intercept(term, j) for j in columns]
    return {("1" if one else term.columns[j]): [j] for j, one in zip(columns, names, strict=True)}


def _is_intercept(term: TermLayout, j: int) -> bool:
    if not isinstance(term, RandomTerm) or term.values is None:
        return term.columns[j] == "Intercept"
    return bool((term.values[:, j] == 1.0).all())
