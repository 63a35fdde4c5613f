"""How linear models say what they are."""

from __future__ import annotations

import pandas as pd

from sparselmm.results.methods.linear_figures import LinearFigureResults
from sparselmm.results.methods.reports import ReportResults
from sparselmm.results.methods.tidy import TidyResults
from sparselmm.results.print.report import equation


class LinearReportResults(ReportResults, LinearFigureResults, TidyResults):
    """How linear models say what they are."""

    def _variance_table(self) -> pd.DataFrame:
        return pd.DataFrame(self.varcorr.reset_index(drop=True))

    def _facts(self) -> pd.DataFrame:
        return self.glance()

    def _report_table(self, alpha: float) -> pd.DataFrame:
        ddf = "z" if self.given.penalized or self._est.n_fixed else "satterthwaite"
        table = self.tidy("fixed", conf_int=True, conf_level=1.0 - alpha, ddf=ddf)
        names = {
            "term": "term", "estimate": "estimate", "std.error": "SE", "df": "df",
            "statistic": "statistic", "p.value": "p", "conf.low": "low", "conf.high": "high",
        }  # fmt: skip
        return table[list(names)].rename(columns=names)

    def _kind_in_words(self) -> str:
        how = "restricted maximum likelihood" if self.reml else "maximum likelihood"
        return f"A linear mixed model ({how})"

    def _in_mathematics(self) -> list[str]:
        name = f"<i>{self.built.layout.y_name}</i>"
        lines = equation(self.built.spec.x_names, self._random_parts(), name,
                         "&epsilon;")  # fmt: skip
        return [*lines, *self._errors_in_mathematics()]

    def _errors_in_mathematics(self) -> list[str]:
        return ["&epsilon; ~ N(0, &sigma;&sup2;)"]
