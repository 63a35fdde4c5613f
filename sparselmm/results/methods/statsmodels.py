"""What statsmodels' results have besides estimates: hypothesis tests, profiles, storage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sparselmm.base import storage
from sparselmm.base.arguments import (
    check_choice,
    check_count,
    check_flag,
    check_positive,
    wrong_value,
)
from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.types import FloatArray
from sparselmm.inference.packing import MixedLMParams, Packing
from sparselmm.results.methods.base import Matrix, from_rows
from sparselmm.results.methods.hypotheses import HypothesisResults

FARTHEST = 1e8
"""Largest end of a profile, relative to the estimate and the residual variance."""

MOST_POINTS = 1000
"""Most points of a profile on one side."""


class ResultsInterface(HypothesisResults):
    """Methods statsmodels' results offer, for :class:`sparselmm.MixedLMResults`."""

    use_t = False

    @property
    def freepat(self) -> MixedLMParams | None:
        """The mask ``free`` of the fit."""
        return self.given.free

    @property
    def fe_pen(self) -> Any:
        """The penalty on the fixed effects that the fit was given."""
        return self.given.fe_pen

    @property
    def cov_pen(self) -> Any:
        """The penalty on ``cov_re`` that the fit was given."""
        return self.given.cov_pen

    @property
    def k_re(self) -> int:
        """Order of ``cov_re``."""
        return len(self._est.cov_re)

    @property
    def k_re2(self) -> int:
        """Variances and covariances in ``params`` before the variance components."""
        return len(self._est.places.names) - self.k_vc

    @property
    def k_vc(self) -> int:
        """Variance components: entries of ``vcomp``."""
        return len(self._est.places.components)

    @property
    def k_constant(self) -> int:
        """1 when X has a constant column, else 0."""
        return int(self.model.k_constant)  # of the rows, or remembered from them

    @property
    def params_object(self) -> MixedLMParams:
        """Fixed effects and variances divided by ``scale``, as a :class:`MixedLMParams`."""
        packing = Packing(self._est.places, self.deviance.covariance, self.built.layout.x_names)
        return packing.params(self._est.beta, self.deviance.covariance.psi(self.pls.theta))

    @property
    def mle_retvals(self) -> dict[str, Any]:
        """How the optimizer ended, in statsmodels' words; ``opt`` has every evaluation."""
        return {
            "fopt": 0.5 * self.opt.deviance,
            "gopt": 0.5 * self.opt.gradient,
            "converged": self.opt.converged,
            "iterations": sum(entry.accepted for entry in self.opt.history),
            "fcalls": self.opt.n_evaluations,
            "warnflag": int(not self.opt.converged),
            "message": self.opt.message,
            "method": self.opt.method,
            "allvecs": [entry.theta for entry in self.opt.history],
        }

    # ------------------------------------------------------------------------------- tests

    @property
    def normalized_cov_params(self) -> Matrix:
        """``cov_params() / scale``."""
        return self.cov_params() / self.scale

    # ---------------------------------------------------------------------------- profiles

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
        scale = self.pls.scale
        low, high = value - dist_low / scale, value + dist_high / scale
        if high > FARTHEST * (1.0 + value):
            raise wrong_value("dist_high", f"less than {FARTHEST:g} times the variance", dist_high)
        if low <= 0:
            raise ArgumentError(
                "dist_low is too large and would result in a negative variance. Try a smaller "
                f"value, less than {value * scale:.4g}."
            )
        left, right = np.linspace(low, value, num_low + 1), np.linspace(value, high, num_high + 1)
        free = self._all_free()
        if vtype == "re":
            free.cov_re = free.cov_re[np.ix_(order, order)]
            free.cov_re[0, 0] = 0
        else:
            free.vcomp[place] = 0
        out = []
        for x in [*left, *right[1:]]:
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

    # ------------------------------------------------------------------------- save and load

    def remove_data(self) -> None:
        """Drop everything with one entry per row; estimates, tests and ``summary`` remain.

        ``results.model`` becomes a copy without rows; the model itself is left as it is. What is
        made of the rows, such as ``fittedvalues``, is refused with a :class:`RemovedRowsError`;
        ``predict`` works on new data. Not to be called while other threads use the results.
        """
        est = self._est
        sizes = est.group_sizes
        built = self.built.without_rows()
        cross = self.deviance.cross
        model = self.model._copy(built, cross, k_constant=self.k_constant)
        self.model, self.built = model, built
        slim = replace(est, layout=built.layout)
        slim.__dict__["group_sizes"] = sizes
        self._est = slim
        self.__dict__.pop("_fitted", None)
        self.__dict__.pop("_ddf_cache", None)
        for name in ("random_effects", "random_effects_cov"):
            self.__dict__.pop(name, None)

    def save(self, fname: storage.File, remove_data: bool = False) -> None:
        """Pickle the results.

        Parameters
        ----------
        fname : path or binary file
        remove_data : bool
            Call :meth:`remove_data` first.
        """
        storage.check_target(fname, "fname")
        if check_flag(remove_data, "remove_data"):
            self.remove_data()
        storage.save(self, fname, "fname")

    @classmethod
    def load(cls, fname: storage.File) -> Any:
        """Read results that :meth:`save` wrote. Only load files you trust.

        Parameters
        ----------
        fname : path or binary file
        """
        return storage.load(cls, fname, "fname")


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
