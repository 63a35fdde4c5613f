"""What statsmodels' results have besides estimates: hypothesis tests, profiles, storage."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from sparselmm.base import storage
from sparselmm.base.arguments import check_flag
from sparselmm.inference.packing import MixedLMParams, Packing
from sparselmm.results.methods.base import Matrix
from sparselmm.results.methods.hypotheses import HypothesisResults


class ResultsInterface(HypothesisResults):
    """Methods statsmodels' results offer, for :class:`sparselmm.MixedLMResults`."""

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

    # ------------------------------------------------------------------------- save and load

    @abstractmethod
    def _remove_data(self) -> None:
        """Drop everything with one entry per row."""

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
            self._remove_data()
        storage.save(self, fname, "fname")

    @classmethod
    def load(cls, fname: storage.File) -> Any:
        """Read results that :meth:`save` wrote. Only load files you trust.

        Parameters
        ----------
        fname : path or binary file
        """
        return storage.load(cls, fname, "fname")
