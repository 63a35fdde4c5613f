"""How generalized models say what they are."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.likelihood.laplace.mixtures import CustomFamily
from sparselmm.results.general.checks import CheckResults
from sparselmm.results.general.extras import ExtraResults
from sparselmm.results.general.figures import GeneralFigureResults
from sparselmm.results.methods.reports import ReportResults
from sparselmm.results.print.report import equation


class GeneralReportResults(ReportResults, GeneralFigureResults, CheckResults, ExtraResults):
    """How generalized models say what they are."""

    def _variance_table(self) -> pd.DataFrame:
        return pd.DataFrame(self.varcorr.reset_index(drop=True))

    def _facts(self) -> pd.DataFrame:
        return self.glance()

    def _found(self) -> Sequence[Any]:
        return self.check().findings

    def _residual_figure(self) -> Any:
        return None if isinstance(self.family, CustomFamily) else self.plot_diagnostics()

    def _report_table(self, alpha: float) -> pd.DataFrame:
        table = self.tidy(alpha)
        table = table[table["effect"] == "fixed"]
        names = {
            "term": "term", "estimate": "estimate", "std_error": "SE", "statistic": "statistic",
            "p_value": "p", "conf_low": "low", "conf_high": "high",
        }  # fmt: skip
        out = table[list(names)].rename(columns=names).reset_index(drop=True)
        out.insert(3, "df", np.inf)
        return out

    def _kind_in_words(self) -> str:
        return f"A generalized linear mixed model ({self.family.name}, {self.family.link} link)"

    def _in_mathematics(self) -> list[str]:
        name, link = html.escape(str(self.built.layout.y_name)), self.family.link
        fixed = list(self.built.spec.x_names)
        if self._ordinal:  # thresholds instead of an intercept
            fixed = [n for n in fixed if n != "Intercept"]
            left = f"{link}(P(<i>{name}</i> &gt; k)) = &minus;&theta;<sub>k</sub> + &eta;, &eta;"
            return equation(fixed, self._random_parts(), left, "")
        of = "p" if name.startswith("cbind(") else f"E <i>{name}</i>"
        return equation(fixed, self._random_parts(), f"{link}({of})", "")
