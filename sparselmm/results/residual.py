"""Results of a model with a residual covariance structure.

Random effects, fixed effects and their tests are those of the same model with the rows whitened by
the estimated R. What has been shown to hold under R is in `RIGHT`, everything else refuses by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparselmm.base.exceptions import UnsupportedError
from sparselmm.inference.residual import JointFit, ResidualEstimates
from sparselmm.results.core import MixedLMResults

REFUSED: dict[str, str] = {
    "hatvalues": "",
    "cooks_distance": "",
    "influence": "",
    "plot_diagnostics": "use residuals('normalized') with a plot of your own",
    "check": "",
    "power": "",
    "get_prediction": "use predict()",
    "cov_robust": "",
    "robust_tests": "",
    "simulate": "",
    "refit": "fit a new model",
    "fit_many": "fit a model for each response",
    "bootstrap": "",
    "ranova": "fit the smaller model and use compare()",
    "drop1": "fit the smaller models with reml=False and use compare(), or use anova()",
    "exact_rlrt": "",
    "exact_lrt": "",
    "caic": "use aic",
    "profile": "",
    "profile_re": "",
    "variance_components": "use varcorr and residual_params",
    "icc": "the residual variance differs from row to row",
    "r2": "the residual variance differs from row to row",
    "augment": "use fittedvalues and resid",
    "remove_data": "",
    "residuals": "use resid",
}
"""Methods that hold for independent residuals of equal variance alone, and what to use instead."""

RIGHT = frozenset(
    "aic aic_reml anova b bic bic_reml bse bse_fe bse_re conf_int converged cov_params cov_pen cov_re"
    " cov_re_unscaled df_modelwc df_resid dropped emmeans f_test fe_params fe_pen fittedvalues freepat"
    " glance k_constant k_fe k_re k_re2 k_vc llf load method mle_retvals n_parameters nobs"
    " normalized_cov_params param_names params params_object plot_ranef predict pvalues"
    " random_effects random_effects_cov ranef ranef_contrasts ranef_cov ranef_se ranef_var rank reml"
    " resid save scale sigma singular summary t_test t_test_pairwise theta tidy to_html to_latex"
    " to_table tvalues u use_t varcorr vcomp wald_test wald_test_terms".split()
)
"""Methods and properties that hold whatever R is: they see the rows whitened, or not at all."""


def refusing(name: str, instead: str) -> Callable[..., Any]:
    """A method that says that it is not available."""

    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(
            f"{name} is not available for a fit with residual= or dispersion="
            + (f"; {instead}" if instead else "")
        )

    refuse.__name__ = name
    refuse.__doc__ = f"Not available for a fit with a residual structure{'; ' + instead if instead else ''}."
    return refuse


class ResidualResults(MixedLMResults):
    """A fitted model with a covariance structure of the residuals.

    As :class:`MixedLMResults`; ``sigma`` is the standard deviation that those of the rows are
    relative to (one for ``us``, whose covariances are in the units of the data).

    Attributes
    ----------
    joint : JointFit
        The estimate of theta and phi together.
    """

    def __init__(self, *args: Any, joint: JointFit, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.joint = joint
        self._est = ResidualEstimates.jointly(
            self.built.design, joint, self.pls, self.built.spec.formula is None
        )


for _name, _instead in REFUSED.items():
    setattr(ResidualResults, _name, refusing(_name, _instead))
