"""How generalized models say what they are."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.likelihood.laplace.mixtures import CustomFamily
from sparselmm.results.general.checks import CheckResults
from sparselmm.results.general.extras import ExtraResults
from sparselmm.results.general.figures import GeneralFigureResults
from sparselmm.results.methods.reports import ReportResults, check_lines
from sparselmm.results.print.report import equation, listed, predictor

FURTHER = {
    "dispersion": ("the dispersion", "log(dispersion)", "&gamma;"),
    "zi": ("the probability of an excess zero", "logit(P(excess zero))", "&zeta;"),
    "hurdle": ("the probability of a zero", "logit(P(zero))", "&zeta;"),
}
"""Further predictors of a family: in words, left of their equation, and their letter."""


class GeneralReportResults(ReportResults, GeneralFigureResults, CheckResults, ExtraResults):
    """How generalized models say what they are."""

    def _variance_table(self) -> pd.DataFrame:
        return pd.DataFrame(self.varcorr.reset_index(drop=True))

    def _facts(self) -> pd.DataFrame:
        return self.glance()

    def _check_lines(self) -> list[str]:
        return check_lines(self.check())

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

    def _further_predictors(self) -> list[tuple[str, list[str]]]:
        """Predictors of zeros, and of the dispersion where it has covariates, with columns."""
        found = [(part, [str(name) for name in self._part(part).index]) for part in FURTHER]
        return [(part, names) for part, names in found
                if names and (part != "dispersion" or len(names) > 1)]  # fmt: skip

    def _further_in_words(self) -> str:
        parts = []
        for part, names in self._further_predictors():
            columns = [name for name in names if name != "Intercept"]
            on = f"depends on {listed(columns)}" if columns else "is the same for all rows"
            parts.append(f"{FURTHER[part][0]} {on}")
        return f"; {listed(parts)}" if parts else ""

    def _in_mathematics(self) -> list[str]:
        name, link = html.escape(str(self.built.layout.y_name)), self.family.link
        fixed = list(self.built.spec.x_names)
        if self._ordinal:  # thresholds instead of an intercept
            fixed = [n for n in fixed if n != "Intercept"]
            left = f"{link}(P(<i>{name}</i> &gt; k)) = &minus;&theta;<sub>k</sub> + &eta;, &eta;"
            if link == "cloglog":  # whose distribution has no symmetry
                left = f"{link}(P(<i>{name}</i> &le; k)) = &theta;<sub>k</sub> &minus; &eta;, &eta;"
            return equation(fixed, self._random_parts(), left, "")
        of = "p" if name.startswith("cbind(") else f"E <i>{name}</i>"
        if self._part("zi").size or self._part("hurdle").size:
            of = "&mu;"  # the mean of the counts, before zeros are added or cut off
        lines = equation(fixed, self._random_parts(), f"{link}({of})", "")
        for part, names in self._further_predictors():
            _, left, letter = FURTHER[part]
            lines.append(f"{left} = {' + '.join(predictor(letter, names))}")
        return lines
