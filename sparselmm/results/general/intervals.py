"""Profile intervals, likelihood-ratio tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats as st

from sparselmm.base.arguments import check_choice, check_level, check_strings, wrong_type
from sparselmm.base.exceptions import DataError
from sparselmm.base.threads import one_thread
from sparselmm.base.types import FloatArray
from sparselmm.design.terms import Design
from sparselmm.inference.hypotheses.comparison import WORSE, mean_apart, warn_of_no_test
from sparselmm.likelihood.laplace.chosen import base_of
from sparselmm.likelihood.laplace.profile import Held, Profile, way_of
from sparselmm.results.general.estimates import EstimateResults
from sparselmm.results.print.notebook import as_table

METHODS = ("wald", "profile")


class IntervalResults(EstimateResults):
    """Part of :class:`sparselmm.MixedGLMResults`."""

    @as_table
    def confint(
        self, which: str | Sequence[str] | None = None, method: str = "wald", alpha: float = 0.05
    ) -> pd.DataFrame:
        """Intervals of coefficients and standard deviations.

        Parameters
        ----------
        which : str or sequence of str, optional
            Names of `params`, or ``"sd g"`` for the standard deviation of a scalar term g. Default:
            all of them.
        method : {"wald", "profile"}
            By standard errors, or by the deviance.
        alpha : float
            One minus the confidence level.

        Returns
        -------
        DataFrame
            ``estimate``, ``ci_lower``, ``ci_upper``. A profile end is NaN where the deviance never
            rises enough.

        Raises
        ------
        DataError
            When a name is unknown, or has no profile here.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("cbpp")
        >>> fit = sparselmm.mixedglm(
        ...     "cbind(incidence, size - incidence) ~ period + (1 | herd)", data).fit()
        >>> fit.confint("sd herd", method="profile").round(2).to_numpy().tolist()
        [[0.64, 0.35, 1.1]]
        """
        method = check_choice(method, "method", METHODS)
        check_level(alpha)
        held = self._profiled()
        wanted = list(held) if which is None else check_strings(which, "which")
        unknown = [name for name in wanted if name not in held]
        if unknown:
            raise DataError(
                f"which: no parameter {unknown[0]!r} with an interval of its own; there are "
                f"{', '.join(held)}. Standard deviations of terms with several coefficients have "
                "variance_components() and bootstrap()"
            )
        rows = {}
        profile = Profile(self.deviance, self.opt.x, self.opt.deviance)
        for name in wanted:
            own = held[name]
            estimate = float(own.row @ self.opt.x)
            if method == "profile":
                with one_thread():
                    ends = profile.interval(own, alpha)
            else:
                ends = self._wald(name, own, alpha)
            rows[name] = (estimate, *ends)
        return pd.DataFrame.from_dict(
            rows, orient="index", columns=["estimate", "ci_lower", "ci_upper"]
        )

    def _wald(self, name: str, held: Held, alpha: float) -> tuple[float, float]:
        estimate, z = float(held.row @ self.opt.x), float(st.norm.isf(alpha / 2))
        if name.startswith("sd "):
            factor = np.exp(z * held.se / max(estimate, 1e-300))
            return estimate / factor, estimate * factor
        return estimate - z * held.se, estimate + z * held.se

    def _profiled(self) -> dict[str, Held]:
        """Parameters that are linear in the engine's, by name."""
        numbers, deviance = self.numbers, self.deviance
        a, n = deviance.covariance.n_theta, len(self.opt.x)
        r, out, V = deviance.fixed.r, {}, numbers.covariance

        def held(row: FloatArray, lowest: float = -np.inf) -> Held:
            inner = row != 0
            variance = row[inner] @ V[np.ix_(inner, inner)] @ row[inner]
            return Held(row, float(np.sqrt(variance)), way_of(row, V), lowest)

        T, kept = deviance.fixed.basis.T, deviance.fixed.basis.kept
        for i, j in enumerate(kept):
            row = np.zeros(n)
            row[a : a + r] = T[i]
            out[self.model.exog_names[j]] = held(row)
        names = self._names()[len(self.model.exog_names) :]
        for i, name in enumerate(names):
            row = np.zeros(n)
            row[a + r + i] = 1.0
            out[name] = held(row)
        for term, part in zip(self.built.layout.terms, deviance.covariance.slices, strict=True):
            if part.stop - part.start == 1:
                row = np.zeros(n)
                row[part.start] = 1.0
                out[f"sd {term.name}"] = held(row, 0.0)
        return out

    @as_table
    def lrt(self, other: Any) -> pd.DataFrame:
        """Likelihood-ratio test of this fit against a smaller or larger one of the same rows.

        Parameters
        ----------
        other : MixedGLMResults

        Returns
        -------
        DataFrame
            One row per fit, by number of parameters: ``npar``, ``aic``, ``bic``, ``llf``,
            ``chisq``, ``df``, ``pvalue``; without a test between families or links of which the
            smaller fit's is no limit of the larger one's, as Poisson's is of ``"nbinom2"``.

        Raises
        ------
        DataError
            When the fits are of other rows, responses, trials or weights.
        """
        if not hasattr(other, "numbers"):
            raise wrong_type("other", "a fit of the same rows", other)
        return compare_general([self, other], ["this", "other"])

    @as_table
    def drop1(self) -> pd.DataFrame:
        """Likelihood-ratio tests of the columns of X, one at a time, by refits without them.

        Returns
        -------
        DataFrame
            ``chisq``, ``df``, ``pvalue``, ``aic``, one row per column but the intercept.
        """
        rows = {}
        profile = Profile(self.deviance, self.opt.x, self.opt.deviance)
        held = self._profiled()
        for name in self.model.exog_names:
            if name not in held or name in ("Intercept", "const"):
                continue
            with one_thread():
                zeta, _ = profile.zeta(held[name], 0.0, self.opt.x)
            chisq = zeta**2
            rows[name] = (chisq, 1, float(st.chi2.sf(chisq, 1)), self.aic + chisq - 2.0)
        return pd.DataFrame.from_dict(
            rows, orient="index", columns=["chisq", "df", "pvalue", "aic"]
        )


def compare_general(results: Sequence[Any], names: Sequence[str]) -> pd.DataFrame:
    """Table of likelihood-ratio tests between fits of the same rows."""
    first = results[0]
    for other in results[1:]:
        same = (
            hasattr(other, "numbers")
            and len(first.model.endog) == len(other.model.endog)
            and np.array_equal(first.model.endog, other.model.endog)
        )
        if not same:
            raise DataError("the fits have different rows or responses; compare fits of the same")
        if not np.array_equal(_counts(first.model), _counts(other.model)):
            raise DataError("the fits have different weights or trials; compare fits of the same")
        kinds = [type(r.deviance) for r in (first, other)]
        nodes = [len(getattr(r.deviance, "z", (0,))) for r in (first, other)]
        if kinds[0] is not kinds[1] or nodes[0] != nodes[1]:
            raise DataError("the fits have different approximations of the likelihood; use the "
                            "same nagq")  # fmt: skip
    order = sorted(range(len(results)), key=lambda i: results[i].n_parameters)
    table, before = {}, None
    for i in order:
        own = results[i]
        row = {
            "npar": own.n_parameters, "aic": own.aic, "bic": own.bic, "llf": own.llf,
            "chisq": np.nan, "df": np.nan, "pvalue": np.nan,
        }  # fmt: skip
        if before is not None and _larger(own, before):
            if _apart(before, own):
                warn_of_no_test([names[i]])
            else:
                row["chisq"] = max(2.0 * (own.llf - before.llf), 0.0)
                row["df"] = own.n_parameters - before.n_parameters
                row["pvalue"] = float(st.chi2.sf(row["chisq"], row["df"]))
        table[names[i]] = row
        before = own
    return pd.DataFrame.from_dict(table, orient="index")


def _counts(model: Any) -> FloatArray:
    """Trials and weights of every row, ones where there are none, (2, n)."""
    weights = np.ones(1) if model.weights is None else model.weights
    return np.array([np.broadcast_to(x, model.endog.shape) for x in (model.trials, weights)])


LIMITS = {"nbinom1": "poisson", "nbinom2": "poisson", "betabinomial": "binomial"}
"""What families become without overdispersion."""


def _larger(one: Any, other: Any) -> bool:
    """Whether a fit has more parameters and the family of another one, at least as a limit."""
    if one.n_parameters <= other.n_parameters:
        return False
    large, small = one.family, other.family
    name, limit = base_of(large).name, base_of(small).name
    zeros = [getattr(family, "own", None) for family in (large, small)]
    same = zeros[0] == zeros[1] or zeros == ["zi", None]
    return same and bool(large.link == small.link) and limit in (name, LIMITS.get(name))


def _apart(small: Any, big: Any) -> bool:
    """Whether the smaller model is seen not to be a special case of the larger."""
    if 2.0 * (small.llf - big.llf) > WORSE:
        return True
    a, b = small.built.layout, big.built.layout
    return (
        isinstance(a, Design) and isinstance(b, Design)
        and mean_apart(a, b, small.numbers.kept, big.numbers.kept)
    )  # fmt: skip
