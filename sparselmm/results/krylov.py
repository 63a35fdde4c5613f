"""Results of a fit by conjugate gradients and random probes, without an exact factorization.

Fixed effects, random effects and their covariances at theta are exact, and what follows from the
gradient and the Hessian holds with the error of the probes. What needs the inverse between the
levels of different terms, or many exact values of the likelihood, is refused by name.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from sparselmm.base.exceptions import MonteCarloWarning, warn_user
from sparselmm.base.other_names import NamesOthers, OtherKind
from sparselmm.likelihood.engine import ratio_error
from sparselmm.results.core import MixedLMResults
from sparselmm.results.independent import IndependentResults
from sparselmm.results.linear import LinearResults

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


EXACT = OtherKind(
    MixedLMResults, "a fit by engine='krylov', which has no factor: fit with finish='exact'",
    {
        "plot_diagnostics": "use residuals() with a plot of your own",
        "augment": "use fittedvalues, resid and residuals()",
        "caic": "use aic",
        "exact_rlrt": "use ranova() or compare()",
        "exact_lrt": "use compare()",
        "profile": "use conf_int()",
        "profile_re": "use conf_int()",
        "a profile": "use method='wald'",
    },
)  # fmt: skip
"""Methods that need an exact factorization, and what to use instead."""


@MixedLMResults.register
class KrylovResults(IndependentResults, NamesOthers):
    """A linear mixed model fitted by conjugate gradients; see :class:`MixedLMResults`.

    ``opt.mc_error`` bounds the Monte Carlo error of theta in its standard errors, ``llf_mc_se`` is
    that of the log-likelihood.
    """

    _other_kind = EXACT

    def ranova(self) -> pd.DataFrame:
        """As of other fits; both models have the same probes where the same terms trail."""
        warn_of_ratio(self.opt.mc_deviance, "each deletion")
        return super().ranova()

    def _residual_figure(self) -> None:
        """None: leverage and Cook's distance need a factorization."""

    def _check_lines(self) -> list[str]:
        error = f"theta is known to {self.opt.mc_error:.2g} standard errors"
        refusal = EXACT.refusal("check")
        return [f"{refusal}. {error} (conjugate gradients and random probes)."]

    def _profile_conf_int(self, alpha: float, which: Any = None, scale: str = "sd") -> Any:
        raise EXACT.refusal("a profile")

    def _profile_ends(self, alpha: float) -> Any:
        raise EXACT.refusal("a profile")


def ratio_errors(small: LinearResults, big: LinearResults) -> float:
    """Standard error that probes leave in the likelihood ratio of two fits."""
    return ratio_error(small.deviance, small.pls.theta, big.deviance, big.pls.theta)
