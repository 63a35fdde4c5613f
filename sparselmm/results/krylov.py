"""Results of a fit by conjugate gradients and random probes, without an exact factorization.

Fixed effects, random effects and their covariances at theta are exact, and what follows from the
gradient and the Hessian holds with the error of the probes. What needs the inverse between the
levels of different terms, or many exact values of the likelihood, is refused by name.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from sparselmm.base.exceptions import MonteCarloWarning, UnsupportedError, warn_user
from sparselmm.likelihood.engine import ratio_error
from sparselmm.results.core import MixedLMResults

REFUSED: dict[str, str] = {
    "hatvalues": "",
    "cooks_distance": "",
    "influence": "",
    "plot_diagnostics": "use residuals() with a plot of your own",
    "check": "",
    "augment": "use fittedvalues, resid and residuals()",
    "caic": "use aic",
    "exact_rlrt": "use ranova() or compare()",
    "exact_lrt": "use compare()",
    "profile": "use conf_int()",
    "profile_re": "use conf_int()",
}
"""Methods that need an exact factorization, and what to use instead."""

LARGE = 0.1
"""Standard error of a likelihood-ratio statistic from which it is warned of."""


def warn_of_ratio(error: float, what: str) -> None:
    """Warn where probes leave much of a likelihood ratio open."""
    if error > LARGE:
        warn_user(
            f"the likelihood ratio of {what} has a Monte Carlo standard error of {error:.2g}; fit "
            "with more probes=, or with finish='exact'",
            MonteCarloWarning,
        )


class KrylovResults(MixedLMResults):
    """A linear mixed model fitted by conjugate gradients; see :class:`MixedLMResults`.

    ``opt.mc_error`` bounds the Monte Carlo error of theta in its standard errors, ``llf_mc_se`` is
    that of the log-likelihood.
    """

    def ranova(self) -> pd.DataFrame:
        """As of other fits; both models have the same probes where the same terms trail."""
        warn_of_ratio(self.opt.mc_deviance, "each deletion")
        return super().ranova()

    def _residual_figure(self) -> None:
        """None: leverage and Cook's distance need a factorization."""

    def _check_lines(self) -> list[str]:
        error = f"theta is known to {self.opt.mc_error:.2g} standard errors"
        return [f"{_refusal('check', '')}. {error} (conjugate gradients and random probes)."]

    def _profiler(self) -> Any:
        raise UnsupportedError(_refusal("a profile", "use method='wald'"))


def _refusal(name: str, instead: str) -> str:
    hint = f"; {instead}" if instead else ""
    return (
        f"{name} is not available for a fit by engine='krylov', which has no factor: fit with "
        f"finish='exact'{hint}"
    )


def _refusing(name: str, instead: str) -> Any:
    """A method that says that it is not available."""

    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(_refusal(name, instead))

    refuse.__name__ = name
    refuse.__doc__ = f"Not available: {_refusal(name, instead)}."
    return refuse


for _name, _instead in REFUSED.items():
    setattr(KrylovResults, _name, _refusing(_name, _instead))


def ratio_errors(small: MixedLMResults, big: MixedLMResults) -> float:
    """Standard error that probes leave in the likelihood ratio of two fits."""
    return ratio_error(small.deviance, small.pls.theta, big.deviance, big.pls.theta)
