"""How generalized models predict for the pictures they share with linear ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_choice
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import FloatArray
from sparselmm.design.formula.expressions import names_in
from sparselmm.likelihood.laplace import moments
from sparselmm.likelihood.laplace.chosen import TRIALS, base_of
from sparselmm.results.general.intervals import IntervalResults
from sparselmm.results.general.means import MeanResults
from sparselmm.results.general.prediction import PredictionResults
from sparselmm.results.general.simulation import SimulationResults
from sparselmm.results.methods.effect_figures import ShareFigures
from sparselmm.results.methods.figures import FigureResults
from sparselmm.results.tables.reference_grid import variables_of


class GeneralFigureResults(
    FigureResults, ShareFigures, MeanResults, IntervalResults, SimulationResults, PredictionResults
):
    """Part of :class:`sparselmm.MixedGLMResults`."""

    _own_lines = False

    def _curve(self, new: pd.DataFrame, groups: bool, bands: str, alpha: float) -> pd.DataFrame:
        if bands in ("prediction", "both"):
            raise DataError(
                "bands of new observations are drawn for linear models only; pass "
                "bands='confidence' or 'none'"
            )
        kind = "conditional" if groups else "population"
        if self._ordinal:
            table = self.predict(new, "probability", kind, unseen="population").reset_index(
                drop=True
            )
            return table.melt(var_name="category", value_name="mean")
        found = self.predict(
            new, "response", kind, interval=bands != "none", alpha=alpha, unseen="population"
        )
        if bands == "none":
            return pd.DataFrame({"mean": np.asarray(found)})
        table = found.reset_index(drop=True)
        return pd.DataFrame(
            {"mean": table["mean"], "low": table["ci_lower"], "high": table["ci_upper"]}
        )

    def _variables(self) -> list[str]:
        names = [n for code in self.built.spec.codes(random=False) for n in names_in(code)]
        columns = () if self.built.frame is None else self.built.frame.columns
        every = [*variables_of(self.built), *(n for n in names if n in columns)]
        return list(dict.fromkeys(every))

    @property
    def _ordinal(self) -> bool:
        return base_of(self.family).name == "ordinal"

    def _data_values(self) -> FloatArray:
        """The response, proportions of trials."""
        if self._ordinal:
            raise DataError("the categories of an ordinal response are not drawn as points")
        left = np.asarray(self.residuals("response"))
        return left + np.asarray(self.fittedvalues)

    def _response_label(self, categories: bool) -> str:
        if categories or base_of(self.family).name == "binomial":
            return "probability"
        return str(self.built.layout.y_name)

    def _working_residual(self) -> FloatArray:
        population = self.predict(random="population")
        rest = self._data_values() - np.asarray(population)
        return np.where(self.model._live, rest, np.nan)

    def _row_variance(self) -> FloatArray:
        eta, further = self._eta(False), self._further()
        m = self._trials()
        variance = moments.variance(self.family, eta, further, m)
        if base_of(self.family).name not in TRIALS:
            return np.asarray(variance)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(variance / m**2)  # of proportions

    def _interval_ends(self, alpha: float, method: str, names: Sequence[str]) -> FloatArray:
        method = check_choice(method, "method", ("wald", "profile", "bootstrap"))
        if method == "wald":
            table = self.conf_int(alpha)
        elif method == "profile":
            table = self.confint(alpha=alpha)
        else:
            table = self.bootstrap(alpha=alpha).conf_int(alpha)
        frame = pd.DataFrame(np.asarray(table, dtype=float)[:, :2], list(table.index))
        return frame[~frame.index.duplicated()].reindex(names).to_numpy()

    def _variance_shares(self) -> dict[str, float]:
        fixed, random, rest = self._variance_parts()
        total = fixed + random + rest
        own = self.icc()
        shares = {"fixed effects": fixed / total}
        shares |= {str(n): float(v * (random + rest) / total) for n, v in own.items()}
        return {**shares, "latent residual": rest / total}

    def _check_exponentials(self) -> None:
        self._need_ratios()

    def _fixed_values(self) -> Any:
        return self.fe_params

    def _expected_values(self) -> Any:
        return self.fittedvalues
