"""Results of a model with a residual covariance structure.

Random effects, fixed effects and their tests are those of the same model with the rows whitened by
the estimated R: parts of `LinearResults`. What sees the rows as they are is here, and what other
fits have beside is refused by its name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

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
from sparselmm.inference.residual import JointFit, ResidualEstimates, log_sigma
from sparselmm.inference.variances import VarianceRow
from sparselmm.likelihood.residual.unstructured import Unstructured
from sparselmm.results.core import MixedLMResults
from sparselmm.results.linear import LinearResults
from sparselmm.results.methods.base import Matrix, from_sums
from sparselmm.results.methods.reports import check_lines
from sparselmm.results.methods.tidy import EFFECTS
from sparselmm.results.print.labels import grouping_names
from sparselmm.results.print.summary import Summary, variance_table
from sparselmm.results.residual.by_row import ResidualByRow
from sparselmm.results.residual.parameters import MOST_LOG
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


ALPHA = 4
"""Place of alpha among the arguments of ``summary``."""


def short(x: float) -> bool:
    """Whether four decimals show a number."""
    return x == 0.0 or 1e-3 <= abs(x) < 1e6


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
    >>> float(fit.residual_params().loc["rho", "estimate"].round(3))
    0.653
    """

    _other_kind = INDEPENDENT

    def __init__(self, *args: Any, joint: JointFit, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.joint = joint
        self._est = ResidualEstimates.jointly(
            self.built.layout, joint, self.pls, self.built.spec.formula is None
        )

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
        rows = self.built.layout.residual
        assert rows is not None
        grouped = bool(rows.kind) or bool(grouping_names(self.built.layout))
        return self.plot_residual_correlation() if grouped else None

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
        alpha = args[ALPHA] if len(args) > ALPHA else kwargs.get("alpha", 0.05)
        table = self.residual_params(alpha)
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
        rows, spec = self.built.layout.residual, self.built.spec.residual
        return rows is not None and spec is not None and len(rows.d_names) > spec.n_indicators

    def tidy(
        self, effects: Any = ("fixed", "ran_pars"), *, conf_int: bool = False, **options: Any
    ) -> pd.DataFrame:
        """As :meth:`MixedLMResults.tidy`; ``"resid_pars"`` and ``"ran_pars"`` add R's parameters.

        Rows of the effect ``resid_pars`` are those of :meth:`residual_params`, sigma apart.
        """
        conf_int = check_flag(conf_int, "conf_int")
        kinds = (*EFFECTS, "resid_pars")
        wanted = [check_choice(one, "effects", kinds) for one in check_strings(effects, "effects")]
        check_keywords(options, ("conf_level", "ddf", "scale"), "tidy")
        level = options.get("conf_level", 0.95)
        level = check_level(level, "conf_level", "0.95 makes 95 % intervals")
        if not wanted:
            raise ArgumentError("effects is empty; name at least one kind of effect")
        others = [one for one in wanted if one != "resid_pars"]
        parts = []
        if others:
            parts.append(super().tidy(others, conf_int=conf_int, **options))
        if {"ran_pars", "resid_pars"} & set(wanted):
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
    """A fitted mixed model for repeated measures: its tests have degrees of freedom by default.

    So have ``summary``, ``tidy``, ``anova``, ``emmeans``, ``emtrends``, ``joint_tests`` and
    ``t_test``; attributes (``pvalues``), ``conf_int`` and ``wald_test`` are normal, as elsewhere.
    """

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
