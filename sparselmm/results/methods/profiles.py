"""Profiles of the likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import (
    check_choice,
    check_count,
    check_level,
    check_positive,
    check_strings,
    wrong_value,
)
from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.types import FloatArray
from sparselmm.inference.intervals.profiles import Parameter, Profiler, parameters, theta_parameters
from sparselmm.inference.intervals.variance_components import profile_ends
from sparselmm.inference.packing import MixedLMParams
from sparselmm.results.methods.base import from_rows
from sparselmm.results.methods.smaller_models import ComparisonResults
from sparselmm.results.methods.statsmodels import ResultsInterface
from sparselmm.results.tables.profile import ProfileResults, limits, profiled

SCALES = ("sd", "variance")

FARTHEST = 1e8
"""Largest end of a profile, relative to the estimate and the residual variance."""

MOST_POINTS = 1000
"""Most steps of a profile on one side."""


class ProfileMethods(ComparisonResults, ResultsInterface):
    """Profiles, which take many exact values of the likelihood."""

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

    def _profile_ends(self, alpha: float) -> FloatArray:
        """Profile intervals of packed variances and sigma, (m + 1, 2)."""
        parameters = self._profile_parameters("random")
        limits = self._profile_conf_int(alpha, "random").to_numpy()
        return profile_ends(self._est, parameters, limits)

    @from_rows
    def profile_re(
        self, re_ix: Any, vtype: str, num_low: int = 5, dist_low: float = 1.0, num_high: int = 5,
        dist_high: float = 1.0, **fit_kwargs: Any,
    ) -> FloatArray:  # fmt: skip
        """Profile log-likelihood of one variance, refitted with its ratio to the scale fixed.

        Parameters
        ----------
        re_ix : int or str
            Row of ``cov_re``, or name of the component.
        vtype : {"re", "vc"}
        num_low, num_high : int
            Points below and above the estimate.
        dist_low, dist_high : float
            Distance of the outermost points, in the units of the data.
        **fit_kwargs
            Arguments of ``MixedLM.fit``.

        Returns
        -------
        ndarray, (num_low + num_high + 1, 2)
            Variance, in the units of the data, and log-likelihood; the estimate in row
            ``num_low``.

        Raises
        ------
        ValueError
            When ``vtype`` is unknown or ``dist_low`` leads to a negative variance.
        """
        vtype = check_choice(vtype, "vtype", ("re", "vc"))
        num_low = check_count(num_low, "num_low", least=0, most=MOST_POINTS)
        num_high = check_count(num_high, "num_high", least=0, most=MOST_POINTS)
        dist_low, dist_high = (
            check_positive(dist_low, "dist_low"), check_positive(dist_high, "dist_high"),
        )  # fmt: skip
        taken = sorted({"start_params", "free", "reml", "cov_pen"} & set(fit_kwargs))
        if taken:
            raise ArgumentError(f"profile_re sets {', '.join(taken)} itself; leave it out")
        if self.given.fix is not None or self._est.psi_scale is not None:
            raise DataError(
                "profile_re is for fits without fix and without an l1 penalty; use profile()"
            )
        params = self.params_object
        model = self.model._copy(self.built, self.deviance.cross)
        if vtype == "re":
            model, order = _leading(model, check_count(re_ix, "re_ix", least=0))
            params.cov_re = params.cov_re[np.ix_(order, order)]
            value = float(params.cov_re[0, 0])
        else:
            names = [self._est.terms[t].name for t in self._est.places.components]
            place = names.index(check_choice(re_ix, "re_ix", names))
            value = float(params.vcomp[place])
        values = _around(value, (num_low, num_high), (dist_low, dist_high), self.pls.scale)
        free = self._all_free()
        if vtype == "re":
            free.cov_re = free.cov_re[np.ix_(order, order)]
            free.cov_re[0, 0] = 0
        else:
            free.vcomp[place] = 0
        out = []
        for x in values:
            if vtype == "re":
                params.cov_re[0, 0] = x
            else:
                params.vcomp[place] = x
            fit = model.fit(
                start_params=params, free=free, reml=self.pls.reml, fe_pen=self.fe_pen,
                cov_pen=self.cov_pen, **fit_kwargs,
            )  # fmt: skip
            out.append([x * fit.scale, fit.llf])
        return np.array(out)

    def _all_free(self) -> MixedLMParams:
        if self.freepat is not None:
            return self.freepat.copy()
        k_re, k_vc = self.params_object.k_re, self.params_object.k_vc
        return MixedLMParams.from_components(
            np.ones(self.k_fe), cov_re=np.ones((k_re, k_re)), vcomp=np.ones(k_vc)
        )


def _around(
    value: float, numbers: tuple[int, int], distances: tuple[float, float], scale: float
) -> FloatArray:
    """Values below and above one, relative to the scale, to distances in the units of the data."""
    low, high = value - distances[0] / scale, value + distances[1] / scale
    if high > FARTHEST * (1.0 + value):
        raise wrong_value("dist_high", f"less than {FARTHEST:g} times the variance", distances[1])
    if low <= 0:
        raise ArgumentError(
            "dist_low is too large and would result in a negative variance. Try a smaller value, "
            f"less than {value * scale:.4g}."
        )
    right = np.linspace(value, high, numbers[1] + 1)
    return np.concatenate([np.linspace(low, value, numbers[0] + 1), right[1:]])


def _leading(model: Any, index: int) -> tuple[Any, list[int]]:
    """The model with one coefficient of its only ``cov_re`` term put first, and the order."""
    cov_terms = model._packing.places.cov_terms
    if len(cov_terms) != 1:
        raise DataError(
            "profile_re with vtype='re' needs one term with coefficients; the model has "
            f"{len(cov_terms)}"
        )
    (t,) = cov_terms
    term = model.design.terms[t]
    if index >= term.k:
        raise ArgumentError(f"re_ix must be less than {term.k}, the order of cov_re, got {index}")
    order = list(range(term.k))
    order[0], order[index] = order[index], order[0]
    terms = list(model.design.terms)
    values = None if term.values is None else np.ascontiguousarray(term.values[:, order])
    terms[t] = replace(term, values=values, columns=tuple(term.columns[j] for j in order))
    built = replace(model.built, layout=replace(model.design, terms=tuple(terms)))
    return model._copy(built), order
