"""Results of a fit whose errors are independent, with one variance divided by the prior weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sparselmm.base.arguments import check_choice
from sparselmm.base.types import FloatArray
from sparselmm.inference.hypotheses.robust import KINDS, ClusterRobust, cluster_robust
from sparselmm.inference.intervals.variance_components import r_squared
from sparselmm.likelihood.engine import ml_minimum
from sparselmm.results.linear import LinearResults
from sparselmm.results.methods.observations import ObservationResults
from sparselmm.results.methods.smaller_models import ComparisonResults
from sparselmm.results.methods.validation import ValidationResults
from sparselmm.results.methods.variances import VarianceResults


class IndependentResults(
    ObservationResults, ComparisonResults, VarianceResults, ValidationResults,
    LinearResults,
):  # fmt: skip
    """What holds for independent errors by any engine, exact or not."""

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

    _remove_data = remove_data

    def _ml_deviance(self) -> float:
        return ml_minimum(self.deviance, self.pls.theta)[0]

    def _variance_around(self) -> float:
        parts = r_squared(self._est)
        return parts.var_random + parts.var_residual

    def _robust(self, kind: str, groups: Any, contrasts: FloatArray | None) -> ClusterRobust:
        kind = check_choice(kind, "kind", KINDS)
        self._check_plain("a cluster-robust covariance")
        clusters = self._clusters(groups)
        return cluster_robust(
            self.deviance, self.pls.theta, self.built.design, clusters, kind, contrasts  # type: ignore[arg-type]
        )  # fmt: skip
