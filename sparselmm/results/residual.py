"""Results of a model with a residual covariance structure.

Random effects, fixed effects and their tests are those of the same model with the rows whitened by
the estimated R. What has been shown to hold under R is in `RIGHT`, everything else refuses by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import scipy

from sparselmm.base.arguments import (
    check_choice,
    check_flag,
    check_level,
    check_strings,
)
from sparselmm.base.exceptions import (
    ArgumentError,
    UnsupportedError,
)
from sparselmm.base.types import FloatArray
from sparselmm.inference.diagnostics.checks import diagnose
from sparselmm.inference.diagnostics.diagnosis import Diagnosis
from sparselmm.inference.diagnostics.evidence import Evidence
from sparselmm.inference.hypotheses import robust
from sparselmm.inference.hypotheses.robust import ClusterRobust
from sparselmm.inference.hypotheses.robust_rows import cluster_robust_rows
from sparselmm.inference.residual import JointFit, ResidualEstimates, log_sigma
from sparselmm.inference.residual_profile import (
    natural_interval,
    profile_interval,
    sigma_interval,
)
from sparselmm.inference.variances import VarianceRow
from sparselmm.likelihood.residual.structure import Structured
from sparselmm.likelihood.residual.unstructured import Unstructured
from sparselmm.results.core import MixedLMResults
from sparselmm.results.methods.base import Matrix, from_sums
from sparselmm.results.print.notebook import as_table
from sparselmm.results.print.summary import Summary, variance_table
from sparselmm.results.residual_by_row import ResidualByRow
from sparselmm.results.residual_prediction import ResidualPrediction
from sparselmm.results.residual_report import ResidualReport
from sparselmm.results.residual_simulation import ResidualSimulation

REFUSED: dict[str, str] = {
    "hatvalues": "",
    "cooks_distance": "",
    "influence": "",
    "cross_validate": "",
    "plot_diagnostics": "use plot_residual_correlation() or residuals('normalized')",
    "power": "",
    "fit_many": "use refit() for each response",
    "ranova": "fit the smaller model and use compare()",
    "drop1": "fit the smaller models with reml=False and use compare(), or use anova()",
    "exact_rlrt": "",
    "exact_lrt": "",
    "caic": "use aic",
    "profile": "use residual_params(ci='profile')",
    "profile_re": "",
    "variance_components": "use varcorr and residual_params()",
    "icc": "the residual variance differs from row to row",
    "r2": "the residual variance differs from row to row",
    "plot_variance_shares": "the residual variance differs from row to row",
    "remove_data": "",
}
"""Methods that hold for independent residuals of equal variance alone, and what to use instead."""

RIGHT = frozenset((
    "aic", "aic_reml", "anova", "apa", "b", "bic", "bic_reml", "bse", "bse_fe", "bse_re",
    "conf_int", "converged", "cov_params", "cov_pen", "cov_re", "cov_re_unscaled", "cov_robust",
    "robust_tests", "df_modelwc", "df_resid", "dropped", "emmeans",
    "emtrends", "joint_tests", "plot_coefficients", "plot_funnel", "plot_groups",
    "plot_predictions", "plot_ranks", "plot_ranef_correlation", "plot_residual_correlation",
    "plot_shrinkage", "f_test", "fe_params",
    "fe_pen", "fittedvalues", "freepat", "k_constant", "k_fe", "k_re", "k_re2",
    "k_vc", "llf", "llf_mc_se", "load", "method", "mle_retvals", "n_parameters", "nobs",
    "normalized_cov_params", "param_names", "params", "params_object", "plot_ranef",
    "predict", "pvalues", "random_effects", "random_effects_cov", "ranef", "ranef_contrasts",
    "ranef_cov", "ranef_se", "ranef_var", "rank", "reml", "report", "resid", "save", "scale",
    "singular", "summary", "t_test", "t_test_pairwise", "theta", "tidy", "to_html",
    "to_latex", "to_table", "tvalues", "u", "use_t", "varcorr", "vcomp", "wald_test",
    "wald_test_terms",
))  # fmt: skip
"""Methods and properties that hold whatever R is: they see the rows whitened, or not at all."""

OWN = frozenset((
    "R", "augment", "bootstrap", "check", "get_prediction", "glance", "refit", "residual_params",
    "residuals", "sigma", "sigma_by_row", "simulate",
))  # fmt: skip
"""Methods that :class:`ResidualResults` has of its own."""


INFINITE = 30.0
"""Phi that stands for the end of an interval that is not closed."""

MOST_LOG = 700.0
"""Logarithms of standard deviations that are numbers are within this."""

AT_LIMIT = 1e-3
"""Derivative of a parameter of R below which it stands at the limit of its range."""


def short(x: float) -> bool:
    """Whether four decimals show a number."""
    return x == 0.0 or 1e-3 <= abs(x) < 1e6


def refusing(name: str, instead: str) -> Callable[..., Any]:
    """A method that says that it is not available."""
    hint = f"; {instead}" if instead else ""

    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(
            f"{name} is not available for a fit with residual= or dispersion={hint}"
        )

    refuse.__name__ = name
    refuse.__doc__ = f"Not available for a fit with a residual covariance structure{hint}."
    return refuse


class ResidualResults(
    ResidualReport, ResidualPrediction, ResidualSimulation, ResidualByRow, MixedLMResults
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
            for name, moved in self._places_of_sigma().items():
                table = np.vstack([table, self._sigma(moved, alpha, ci)])
                names.append(name)
        return pd.DataFrame(table, names, ["estimate", "std_error", "lower", "upper"])

    def _alone(self) -> Structured | None:
        """The structure where every parameter is a function of one entry of phi."""
        structure = self.joint.deviance.structure
        one = isinstance(structure, Structured) and structure.correlation.kind != "toep"
        return structure if one else None

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

    def _places_of_sigma(self) -> dict[str, FloatArray]:
        """Names of standard deviations, and how far from the origin of the covariates each is."""
        origin = self.joint.origin
        places = {"sigma": -origin}
        if origin.any():
            places[f"sigma({self._origin_in_words()})"] = np.zeros(len(origin))
        return places

    def _origin_in_words(self) -> str:
        rows = self.built.layout.residual
        assert rows is not None
        names = (name.removeprefix("log_sd(").removesuffix(")") for name in rows.d_names)
        pairs = zip(names, self.joint.origin, strict=True)
        return ", ".join(f"{name}={value:.15g}" for name, value in pairs if value)

    def _sigma(self, moved: FloatArray, alpha: float, ci: str) -> FloatArray:
        """Estimate, standard error and interval of a residual standard deviation, (4,)."""
        log, variance = log_sigma(self.joint, self.scale, moved)
        half = float(scipy.stats.norm.ppf(1.0 - alpha / 2.0)) * np.sqrt(variance)
        ends = (log - half, log + half)
        if ci == "profile":
            ends = sigma_interval(self.joint, self.pls.sigma, alpha, moved)
        out = np.exp(np.clip([log, log, *ends], -MOST_LOG, MOST_LOG))
        out[1] *= np.sqrt(variance)
        return out if abs(log) < MOST_LOG else np.full(4, np.nan)

    @property
    def sigma(self) -> float:
        """Residual standard deviation, of rows whose covariates of the dispersion are zero.

        NaN where that is beyond the numbers of the machine, for covariates far from zero;
        ``residual_params()`` has it near their means, where ``scale`` is its square.
        """
        if not self.joint.origin.any():
            return self.pls.sigma
        return float(self._sigma(-self.joint.origin, 0.05, "wald")[0])

    def glance(self) -> pd.DataFrame:
        """As :meth:`MixedLMResults.glance`."""
        return super().glance().assign(sigma=self.sigma)

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
        return super().conf_int(alpha, method, **options)

    def summary(self, *args: Any, **kwargs: Any) -> Summary:
        """As :meth:`MixedLMResults.summary`, with the parameters of the residuals below."""
        out = super().summary(*args, **kwargs)
        rows = self.built.layout.residual
        assert rows is not None
        table = self.residual_params(kwargs.get("alpha", 0.05))
        notes_of_sigma = [self._about_sigma()] if self.joint.origin.any() else []
        head = "Residuals: " + ", ".join(
            part for part in (rows.text, "dispersion" if self._has_dispersion else "") if part
        )
        text = table.to_string(float_format=lambda x: f"{x:.4f}" if short(x) else f"{x:.3g}")
        notes = (f"{head}\n{text}", *notes_of_sigma, *out.notes)
        tables = list(out.tables)
        if self.pls.known_scale is not None:  # the visits instead of a variance of one
            tables[2] = variance_table([*self._est.variance_rows[:-1], *self._visit_rows()])
        return Summary(tables, out.title, notes)

    def _about_sigma(self) -> str:
        """What sigma means where covariates of the dispersion are far from zero."""
        log = log_sigma(self.joint, self.scale, -self.joint.origin)[0]
        what = "" if abs(log) < MOST_LOG else (
            f": exp({log:.6g}) is beyond the numbers of the machine"
        )  # fmt: skip
        return (
            "sigma is the standard deviation of a residual where all covariates of the dispersion "
            f"are zero{what}. The variances and the scale above are those at "
            f"{self._origin_in_words()}."
        )

    def _visit_rows(self) -> list[VarianceRow]:
        """Variances and correlations of the visits of ``us``."""
        structure, rows = self.joint.deviance.structure, self.built.layout.residual
        assert isinstance(structure, Unstructured) and rows is not None
        out = []
        strata = [f"Residual[{s}]" for s in rows.strata] or ["Residual"]
        for group, R in zip(strata, structure.covariances(self.joint.phi), strict=True):
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


for _name, _instead in REFUSED.items():
    setattr(ResidualResults, _name, refusing(_name, _instead))
