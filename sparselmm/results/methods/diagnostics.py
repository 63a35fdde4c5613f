"""Leverage, influence and what an expert would look at, where errors are independent."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from sparselmm.base.arguments import check_flag
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import IntArray
from sparselmm.base.workers import check_workers
from sparselmm.design.rows import GroupRows
from sparselmm.inference.diagnostics import residuals as numbers
from sparselmm.inference.diagnostics.checks import diagnose, standardized_effects
from sparselmm.inference.diagnostics.design_checks import Columns
from sparselmm.inference.diagnostics.diagnosis import Diagnosis
from sparselmm.inference.diagnostics.evidence import Evidence
from sparselmm.inference.diagnostics.influence import influence_of_groups, influence_of_rows
from sparselmm.results.methods.base import Vector, from_rows, from_sums
from sparselmm.results.methods.residuals import RowResults
from sparselmm.results.plots import diagnostics as plots_diagnostics
from sparselmm.results.tables.influence import InfluenceResults


class DiagnosticResults(RowResults):
    """What the leverage of independent rows tells."""

    @from_rows
    def hatvalues(self) -> Vector:
        """Leverage: by how much each fitted value, random effects included, follows its own row.

        The diagonal of the matrix that maps y to ``fittedvalues`` at the estimated theta, lme4's
        ``hatvalues``. It comes from the selected inverse of M, in time linear in the rows.

        Returns
        -------
        Series or ndarray, (n,)
            Between 0 and 1; zero for rows of weight zero.

        References
        ----------
        Demidenko, E. and Stukel, T. A. (2005). Influence analysis for linear mixed-effects models.
        *Statistics in Medicine* 24(6), 893-909. The formula used stands at the head of
        :mod:`sparselmm.inference.diagnostics.leverage`.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.hatvalues().head(3).round(3).tolist()
        [0.229, 0.17, 0.127]
        """
        return self._rows(self._leverage.total)

    @from_rows
    def cooks_distance(self) -> Vector:
        """Cook's distance of every row from its residual and leverage, lme4's ``cooks.distance``.

        ``w e^2 h / (sigma^2 r (1 - h)^2)``: Cook's (1977) formula with the leverage of the
        mixed model, thus the change of all fitted values by a row. For the change of the fixed
        effects alone use ``influence().cooks_distance``.

        Returns
        -------
        Series or ndarray, (n,)

        References
        ----------
        Cook, R. D. (1977). Detection of influential observation in linear regression.
        *Technometrics* 19(1), 15-18: squared studentized residual over the number of coefficients,
        times the variance of the fitted value over that of the residual.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.cooks_distance().nlargest(2).round(2).to_dict()
        {59: 4.33, 56: 2.12}
        """
        return self._rows(
            numbers.cooks_distance(self._est, self._raw("conditional"), self._leverage)
        )

    @from_rows
    def influence(
        self, group: Any = None, *, exact: bool = False, theta: bool | None = None,
        client: Any = None,
    ) -> InfluenceResults:  # fmt: skip
        """What each group, or each row, does to the estimates.

        Parameters
        ----------
        group : str or array-like, (n,), optional
            A grouping factor of the model, whose levels are deleted one after the other with all
            their rows; or any labels of the rows. Default: single rows.
        exact : bool
            Refit without each group, from downdated cross-products. Otherwise the fixed effects
            are exact for theta held, and theta and sigma follow by one Newton step.
        theta : bool, optional
            False holds theta at its estimate. Default: True for groups; False for single rows,
            where that needs no factorization at all and True one for each row.
        client : distributed.Client, optional
            Share refits, and deletions that need a factorization each, among the workers of a
            cluster.

        Returns
        -------
        InfluenceResults

        Raises
        ------
        DataError
            When the group is unknown or labels have the wrong length.

        Notes
        -----
        For groups that share no level of a random effect, the pieces of all one-step deletions
        are sums over the groups and cost about one evaluation together. With crossed factors each
        deletion is a factorization on the pattern of the whole.

        References
        ----------
        Christensen, R., Pearson, L. M. and Johnson, W. (1992). Case-deletion diagnostics for mixed
        models. *Technometrics* 34(1), 38-45. The formulas used stand at the head of
        :mod:`sparselmm.inference.diagnostics.deletion` and
        :mod:`sparselmm.inference.diagnostics.influence`.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> influence = fit.influence("Subject")
        >>> influence.cooks_distance.nlargest(2).round(2).to_dict()
        {'309': 0.15, '335': 0.13}
        >>> float(fit.influence("Subject", exact=True).sigma.min().round(2))
        21.8
        """
        exact = check_flag(exact, "exact")
        theta = None if theta is None else check_flag(theta, "theta")
        workers = check_workers(1, client)
        names = [self.built.layout.x_names[j] for j in self.deviance.cross.basis.kept]
        if group is None:
            labels = self._row_index()
            codes: IntArray = np.arange(self.built.design.n)
        else:
            labels, codes = self._deleted_groups(group)
            if not (codes != codes[0]).any():
                raise DataError(
                    "group has the same label in every row, or none in any; leaving one group out "
                    "must leave rows"
                )
        if group is None and not exact and not theta:
            return InfluenceResults(
                influence_of_rows(self._est, self._leverage), labels, names, False
            )
        held = theta is False and not exact
        found = influence_of_groups(
            self._est,
            GroupRows.of(codes, len(labels)),
            ~self.opt.at_boundary,
            exact,
            not held,
            workers,
        )
        return InfluenceResults(found, labels, names, exact)

    @from_rows
    def plot_diagnostics(self, *, figure: Any = None) -> Any:
        """Six panels: residuals, their shape and scale, influence, random effects, collinearity.

        The bands of the quantiles hold each point with probability 0.95 where the model is right;
        lines are means of equal shares of the rows; the largest residuals are named. Random
        effects are standardized by their own variance, which shrinkage makes smaller than the
        variance between groups, so that they lie on the line where the model holds.

        Parameters
        ----------
        figure : matplotlib Figure, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            When matplotlib is not installed.

        References
        ----------
        Nobre, J. S. and Singer, J. da M. (2007). Residual analysis for linear mixed models.
        *Biometrical Journal* 49(6), 863-875.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> len(fit.plot_diagnostics().axes)
        6
        """
        effects = [standardized_effects(self._est, t).ravel() for t in range(len(self._est.terms))]
        found = self._evidence()
        evidence = plots_diagnostics.Evidence(
            found.fitted, found.studentized, self._leverage.total,
            np.asarray(self.cooks_distance()), np.concatenate(effects), list(self._row_index()),
            Columns.of(found).inflation(),
        )  # fmt: skip
        return plots_diagnostics.diagnostic_plot(evidence, figure)

    @from_sums
    def check(self) -> Diagnosis:
        """What an expert would look at in this fit, in words.

        Looks for: an optimizer that did not converge (``convergence``); variances of zero and
        correlations of one (``singular``); variances that cannot be told apart (``flat``,
        ``not-identifiable``); dropped, nearly collinear, badly scaled and badly centred columns
        (``dropped``, ``collinear``, ``scales``, ``origin``); groups with one row (``singletons``)
        and factors with few levels (``few-levels``); random slopes of covariates that do not vary
        within groups (``constant-slope``); groups and rows that lie far out (``outlying-groups``,
        ``outlying-rows``); residuals that are not normal or whose spread depends on the fitted
        value (``not-normal``, ``spread``). Thresholds and sources stand in
        :mod:`sparselmm.inference.diagnostics.checks`. Of rows that were not kept, residuals and
        constant slopes are not looked at (``not-checked``).

        Returns
        -------
        Diagnosis
            Prints as text; ``findings`` has each with its severity, what was seen, what to do.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Dyestuff2")
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", sparselmm.SingularMatrixWarning)
        ...     fit = sparselmm.mixedlm("Yield ~ 1 + (1 | Batch)", data).fit()
        >>> fit.check().codes
        ('singular',)
        """
        return diagnose(self._evidence())

    def _evidence(self) -> Evidence:
        if not self.built.has_rows:
            return Evidence.without_rows(self._est, self.opt)
        raw = self._raw("conditional")
        of = {
            kind: numbers.residuals(self._est, raw, kind, "conditional", False, self._leverage)
            for kind in get_args(numbers.Kind)[2:]
        }
        labels = np.asarray(self._row_index())
        fitted = self.built.design.y - raw
        return Evidence(self._est, self.opt, of["deleted"], of["studentized"], fitted, labels)
