"""Results of a model with a residual covariance structure.

Random effects, fixed effects and their tests are those of the same model with the rows whitened by
the estimated R: parts of `LinearResults`. What sees the rows as they are is here, and what other
fits have beside is refused by its name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy

from sparselmm.base.arguments import (
    check_choice,
    check_flag,
    check_keywords,
    check_level,
    check_strings,
)
from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.other_names import NamesOthers, OtherKind
from sparselmm.base.types import FloatArray
from sparselmm.inference.diagnostics.checks import diagnose
from sparselmm.inference.diagnostics.diagnosis import Diagnosis
from sparselmm.inference.diagnostics.evidence import Evidence
from sparselmm.inference.hypotheses import robust
from sparselmm.inference.hypotheses.robust import ClusterRobust
from sparselmm.inference.hypotheses.robust_rows import cluster_robust_rows
from sparselmm.inference.residual import JointFit, ResidualEstimates
from sparselmm.inference.residual_profile import (
    natural_interval,
    profile_interval,
    sigma_interval,
)
from sparselmm.inference.variances import VarianceRow
from sparselmm.likelihood.residual.structure import Structured, Unstructured
from sparselmm.results.core import MixedLMResults
from sparselmm.results.linear import LinearResults
from sparselmm.results.methods.base import Matrix, from_sums
from sparselmm.results.methods.reports import check_lines
from sparselmm.results.print.notebook import as_table
from sparselmm.results.print.summary import Summary, variance_table
from sparselmm.results.residual.by_row import ResidualByRow
from sparselmm.results.residual.prediction import ResidualPrediction
from sparselmm.results.residual.report import ResidualReport
from sparselmm.results.residual.simulation import ResidualSimulation

INDEPENDENT = OtherKind(
    MixedLMResults, "a fit with residual= or dispersion=",
    {
        "plot_diagnostics": "use plot_residual_correlation() or residuals('normalized')",
        "fit_many": "use refit() for each response",
        "ranova": "fit the smaller model and use compare()",
        "drop1": "fit the smaller models with reml=False and use compare(), or use anova()",
        "caic": "use aic",
        "profile": "use residual_params(ci='profile')",
        "variance_components": "use varcorr and residual_params()",
        "icc": "the residual variance differs from row to row",
        "r2": "the residual variance differs from row to row",
        "plot_variance_shares": "the residual variance differs from row to row",
    },
)  # fmt: skip
"""Methods that hold for independent errors of equal variance alone, and what to use instead."""


INFINITE = 30.0
"""Phi that stands for the end of an interval that is not closed."""

AT_LIMIT = 1e-3
"""Derivative of a parameter of R below which it stands at the limit of its range."""


@MixedLMResults.register
class ResidualResults(
    ResidualReport,
    ResidualPrediction,
    ResidualSimulation,
    ResidualByRow,
    LinearResults,
    NamesOthers,
):
    """A fitted model with a covariance structure of the residuals.

    As :class:`MixedLMResults`. ``sigma`` is the standard deviation that those of the rows are
    relative to: of a row whose dispersion covariates are zero, at the first visit with
    ``hom=False``; one for ``us``, whose covariances are in the units of the data.

    Attributes
    ----------
    joint : JointFit
        The estimate of theta and phi together.

    Examples
    --------
    >>> import sparselmm
    >>> data = sparselmm.datasets.load("sleepstudy")
    >>> model = sparselmm.mixedlm(
    ...     "Reaction ~ Days + (1 | Subject)", data, residual="ar1(Days | Subject)")
    >>> fit = model.fit()
    >>> fit.residual_params().round(3).loc["rho", "estimate"]
    np.float64(0.653)
    """

    _other_kind = INDEPENDENT

    def __init__(self, *args: Any, joint: JointFit, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.joint = joint
        self._est = ResidualEstimates.jointly(
            self.built.layout, joint, self.pls, self.built.spec.formula is None
        )

    # ------------------------------------------------------------------------- parameters

    @as_table
    def residual_params(self, alpha: float = 0.05, ci: str = "wald") -> pd.DataFrame:
        """Parameters of the residual covariance on their natural scale.

        Parameters
        ----------
        alpha : float
            One minus the confidence level.
        ci : {"wald", "profile"}
            Wald intervals are made on the unbounded scale of the search; of ``us`` on the log scale
            for variances, and as shown for its covariances and the correlations of ``toep``, whose
            profile intervals are NaN where the likelihood does not close them.

        Returns
        -------
        DataFrame
            One row per parameter, columns ``estimate``, ``std_error``, ``lower``, ``upper``:
            ``log_sd(x)`` the coefficients of the log standard deviation, correlations, ranges;
            for ``us`` variances and covariances in the units of the data. The last row,
            ``sigma``, stands for the residual standard deviation where it is estimated.

        Raises
        ------
        ArgumentError
            When ``ci`` is unknown.
        """
        alpha = check_level(alpha)
        ci = check_choice(ci, "ci", ("wald", "profile"))
        structure, phi = self.joint.deviance.structure, self.joint.phi
        estimate = structure.natural(phi, self.scale)
        slopes = structure.natural_slopes(phi)
        cov = self.joint.cov_phi
        se = np.sqrt(np.einsum("ij,jk,ik->i", slopes, np.nan_to_num(cov), slopes))
        se[np.abs(slopes) @ np.isnan(np.diag(cov)) > 0] = np.nan
        bounded = np.array([name.startswith(("nugget", "rho")) for name in structure.names])
        se[bounded & (np.abs(np.diag(slopes)) < AT_LIMIT)] = np.nan
        z = float(scipy.stats.norm.ppf(1.0 - alpha / 2.0))
        ends = self._profiled(alpha) if ci == "profile" else self._wald(estimate, se, z)
        table = np.column_stack([estimate, se, np.sort(ends, axis=1)])
        names = list(structure.names)
        if self.pls.known_scale is None:
            error, *own = self._sigma_error(z)
            if ci == "profile":
                own = list(sigma_interval(self.joint, self.sigma, alpha))
            table = np.vstack([table, [self.sigma, error, *own]])
            names.append("sigma")
        return pd.DataFrame(table, names, ["estimate", "std_error", "lower", "upper"])

    def _alone(self) -> Structured | None:
        """The structure where every parameter is a function of one entry of phi."""
        structure = self.joint.deviance.structure
        if isinstance(structure, Structured) and structure.correlation.kind != "toep":
            return structure
        return None

    def _wald(self, estimate: FloatArray, se: FloatArray, z: float) -> FloatArray:
        """Ends of the Wald intervals of R's parameters, (J, 2)."""
        alone, phi = self._alone(), self.joint.phi
        if alone is not None:
            half = z * np.sqrt(np.diag(self.joint.cov_phi))
            at = (alone.within(phi + side * half) for side in (-1, 1))
            return np.column_stack([alone.natural(moved, 1.0) for moved in at])
        ends = np.column_stack([estimate - z * se, estimate + z * se])
        own = np.array([name.startswith("var(") for name in self.joint.deviance.structure.names])
        half = z * se[own] / estimate[own]  # of the log of a variance
        ends[own] = estimate[own, None] * np.exp(np.column_stack([-half, half]))
        return ends

    def _profiled(self, alpha: float) -> FloatArray:
        """Ends of the profile intervals of R's parameters, (J, 2)."""
        joint, alone = self.joint, self._alone()
        J = range(len(joint.phi))
        if alone is None:
            return np.array([natural_interval(joint, j, alpha) for j in J]).reshape(-1, 2)
        out = np.empty((len(J), 2))
        for j in J:
            for side, end in enumerate(profile_interval(joint, j, alpha)):
                moved = joint.phi.copy()
                moved[j] = np.clip(end, -INFINITE, INFINITE)
                out[j, side] = alone.natural(alone.within(moved), 1.0)[j]
        return out

    def _sigma_error(self, z: float) -> tuple[float, float, float]:
        """Standard error of sigma and its Wald interval on the log scale."""
        var = float(self._est.variance_covariance.of_absolute[-1])
        half = z * np.sqrt(var) / (2.0 * self.scale)
        sigma = self.sigma
        error = np.sqrt(var) / (2.0 * sigma)
        return float(error), float(sigma * np.exp(-half)), float(sigma * np.exp(half))

    def _residual_figure(self) -> Any:
        return self.plot_residual_correlation()

    def _standardized(self) -> FloatArray:
        return np.asarray(self.residuals("normalized"))

    def _row_variance(self) -> FloatArray:
        return np.asarray(self.sigma_by_row) ** 2

    @from_sums
    def check(self) -> Diagnosis:
        """As :meth:`MixedLMResults.check`, rows by their normalized residuals."""
        if not self.built.has_rows:
            return diagnose(Evidence.without_rows(self._est, self.opt))
        e = np.asarray(self.residuals("normalized"))
        fitted = self.built.design.y - self._raw("conditional")
        return diagnose(Evidence(self._est, self.opt, e, e, fitted, np.asarray(self._row_index())))

    def _check_lines(self) -> list[str]:
        return check_lines(self.check())

    def _remove_data(self) -> None:
        raise INDEPENDENT.refusal("remove_data")

    def _variance_around(self) -> float:
        raise DataError(
            "the residual variance differs from row to row; give bias_adjust= a standard "
            "deviation, of random effects and residuals together"
        )

    def _like(self, built: Any, joint: JointFit) -> Any:
        """Results of the same class of another fit of the same model."""
        return results_of(type(self), self.model._copy(built), built, joint)

    def _robust(self, kind: str, groups: Any, contrasts: FloatArray | None) -> ClusterRobust:
        kind = check_choice(kind, "kind", robust.KINDS)
        clusters = self._clusters(groups)
        return cluster_robust_rows(
            self.joint, self.built.design, clusters, kind, contrasts  # type: ignore[arg-type]
        )  # fmt: skip

    # ------------------------------------------------------------------------------- print

    def conf_int(self, alpha: float = 0.05, method: str = "wald", **options: Any) -> Matrix:
        """Wald intervals of ``params``, or intervals from :meth:`bootstrap`.

        Parameters
        ----------
        alpha : float
            One minus the confidence level.
        method : {"wald", "bootstrap"}
        **options
            ``n`` and ``seed`` of the bootstrap.
        """
        method = check_choice(method, "method", ("wald", "bootstrap"))
        if method == "bootstrap":
            return self.bootstrap(**options).conf_int(check_level(alpha)).set_axis([0, 1], axis=1)
        check_keywords(options, (), "conf_int(method='wald')")
        return self._wald_intervals(check_level(alpha))

    def summary(self, *args: Any, **kwargs: Any) -> Summary:
        """As :meth:`MixedLMResults.summary`, with the parameters of the residuals below."""
        out = super().summary(*args, **kwargs)
        rows = self.built.layout.residual
        assert rows is not None
        table = self.residual_params(kwargs.get("alpha", 0.05))
        head = "Residuals: " + ", ".join(
            part for part in (rows.text, "dispersion" if self._has_dispersion else "") if part
        )
        text = table.to_string(float_format=lambda x: f"{x:.4f}")
        notes = (f"{head}\n{text}", *out.notes)
        tables = list(out.tables)
        if self.pls.known_scale is not None:  # the visits instead of a variance of one
            tables[2] = variance_table([*self._est.variance_rows[:-1], *self._visit_rows()])
        return Summary(tables, out.title, notes)

    def _visit_rows(self) -> list[VarianceRow]:
        """Variances and correlations of the visits of ``us``."""
        structure, rows = self.joint.deviance.structure, self.built.layout.residual
        assert isinstance(structure, Unstructured) and rows is not None
        out = []
        strata = [f"Residual[{s}]" for s in rows.strata] or ["Residual"]
        for group, L in zip(strata, structure.roots(self.joint.phi), strict=True):
            R = L @ L.T
            sd = np.sqrt(np.diag(R))
            for b, name in enumerate(rows.visit_labels):
                out.append(VarianceRow(group, name, None, float(R[b, b]), float(sd[b])))
                out += [
                    VarianceRow(group, rows.visit_labels[a], name, float(R[a, b]),
                                float(R[a, b] / (sd[a] * sd[b])))
                    for a in range(b)
                ]  # fmt: skip
        return out

    @property
    def _has_dispersion(self) -> bool:
        rows = self.built.layout.residual
        return rows is not None and bool(rows.d_names)

    def tidy(
        self, effects: Any = ("fixed", "ran_pars"), *, conf_int: bool = False, **options: Any
    ) -> pd.DataFrame:
        """As :meth:`MixedLMResults.tidy`; ``"resid_pars"`` and ``"ran_pars"`` add R's parameters.

        Rows of the effect ``resid_pars`` are those of :meth:`residual_params`, sigma apart.
        """
        conf_int = check_flag(conf_int, "conf_int")
        wanted = list(check_strings(effects, "effects"))
        if not wanted:
            raise ArgumentError("effects is empty; name at least one kind of effect")
        others = [one for one in wanted if one != "resid_pars"]
        parts = []
        if others:
            parts.append(super().tidy(others, conf_int=conf_int, **options))
        if {"ran_pars", "resid_pars"} & set(wanted):
            level = options.get("conf_level", 0.95)
            table = self.residual_params(1.0 - level).drop("sigma", errors="ignore")
            rows = pd.DataFrame({"effect": "resid_pars", "term": table.index})
            rows["estimate"], rows["std.error"] = table.estimate.values, table.std_error.values
            if conf_int:
                rows["conf.low"], rows["conf.high"] = table.lower.values, table.upper.values
            parts.append(rows)
        columns = list(dict.fromkeys(name for part in parts for name in part.columns))
        records = [row for part in parts for row in part.to_dict("records")]
        return pd.DataFrame(records, columns=columns)


def results_of(
    kind: type[ResidualResults], model: Any, built: Any, joint: JointFit, *,
    full_output: bool = False,
) -> Any:  # fmt: skip
    """Results of a joint fit."""
    return kind(
        model, built, joint.frozen, joint.frozen.at(joint.theta), joint.theta_summary,
        use_sqrt=model.use_sqrt, full_output=full_output, joint=joint,
    )  # fmt: skip


class MMRMResults(ResidualResults):
    """A fitted mixed model for repeated measures: its tests have degrees of freedom by default."""

    def _usual(self, options: dict[str, Any]) -> dict[str, Any]:
        if options.get("ddf") is None:
            options["ddf"] = "kenward-roger" if self.reml else "satterthwaite"
        return options

    def summary(self, *args: Any, **kwargs: Any) -> Summary:
        """As of other fits, with t tests."""
        return super().summary(*args, **self._usual(kwargs))

    def tidy(self, *args: Any, **options: Any) -> pd.DataFrame:
        """As of other fits, with t tests."""
        return super().tidy(*args, **self._usual(options))

    def anova(self, *args: Any, **options: Any) -> pd.DataFrame:
        """As of other fits, by Kenward and Roger's method under REML."""
        return super().anova(*args, **(options if len(args) > 1 else self._usual(options)))

    def emmeans(self, *args: Any, **options: Any) -> Any:
        """As of other fits, by Kenward and Roger's method under REML."""
        return super().emmeans(*args, **self._usual(options))

    def emtrends(self, *args: Any, **options: Any) -> Any:
        """As of other fits, by Kenward and Roger's method under REML."""
        return super().emtrends(*args, **self._usual(options))

    def joint_tests(self, *args: Any, **options: Any) -> Any:
        """As of other fits, by Kenward and Roger's method under REML."""
        return super().joint_tests(*args, **self._usual(options))

    def t_test(self, *args: Any, **options: Any) -> Any:
        """As of other fits, with degrees of freedom."""
        if len(args) > 1 or options.get("use_t") is not None:
            return super().t_test(*args, **options)
        return super().t_test(*args, **self._usual(options))
