"""Parameters of R on their natural scale, with their intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy

from sparselmm.base.arguments import check_choice, check_level
from sparselmm.base.types import FloatArray
from sparselmm.inference.residual import JointFit, log_sigma
from sparselmm.inference.residual_profile import natural_interval, profile_interval, sigma_interval
from sparselmm.likelihood.residual.structure import Structured
from sparselmm.results.methods.estimates import EstimateResults
from sparselmm.results.print.notebook import as_table

INFINITE = 30.0
"""Phi that stands for the end of an interval that is not closed."""

MOST_LOG = 700.0
"""Logarithms of standard deviations that are numbers are within this."""

AT_LIMIT = 1e-3
"""Derivative of a parameter of R below which it stands at the limit of its range."""


class ResidualParameters(EstimateResults):
    """Part of :class:`ResidualResults`."""

    joint: JointFit

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
