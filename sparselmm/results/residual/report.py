"""How a residual covariance structure is told in a report."""

from __future__ import annotations

import html
from collections.abc import Sequence

from sparselmm.results.print.report import Section, listed
from sparselmm.results.residual.parameters import ResidualParameters

KIND_WORDS = {
    "ar1": "a correlation that falls geometrically with the steps apart",
    "car1": "a correlation that falls exponentially with the time apart",
    "exp": "a correlation that falls exponentially with the distance",
    "gau": "a correlation that falls with the squared distance",
    "cs": "one correlation for all pairs",
    "us": "a variance for every visit and a covariance for every pair of visits",
    "toep": "a correlation for every number of steps apart",
    "ad": "correlations that are products of those of neighbouring times",
}


class ResidualReport(ResidualParameters):
    """Part of the results of a model with ``residual=`` or ``dispersion=``."""

    def _further_in_words(self) -> str:
        rows, parts = self.built.layout.residual, []
        assert rows is not None
        if rows.kind:
            kind = f"{KIND_WORDS[rows.kind]} ({rows.kind})"
            parts.append(f"residuals within {rows.group_name} have {kind}")
        names, apart = self._spreads()
        if apart:
            parts.append(f"their standard deviation differs between {listed(apart)}")
        if names:
            parts.append(f"their standard deviation depends on {listed(names)}")
        return f"; {listed(parts)}" if parts else ""

    def _spreads(self) -> tuple[list[str], list[str]]:
        """Covariates of the standard deviation, and what else it differs between."""
        rows, spec = self.built.layout.residual, self.built.spec.residual
        assert rows is not None and spec is not None
        names = _covariates(rows.d_names)
        if not spec.n_indicators or spec.bar is None:
            return names, []
        apart = [] if spec.bar.hom else ["visits"]
        by = [] if spec.bar.by is None else [f"the values of {spec.bar.by}"]
        return names[: len(names) - spec.n_indicators], [*apart, *by]

    def _errors_in_mathematics(self) -> list[str]:
        rows = self.built.layout.residual
        assert rows is not None
        unit = f"<sub>{html.escape(rows.group_name)}</sub>" if rows.kind else ""
        lines = [f"&epsilon;{unit} ~ N(0, R{unit})"]
        if rows.d_names:
            shown = _covariates(rows.d_names)
            first = len(self._spreads()[0])  # the others are indicators
            shown = [*shown[:first], *(f"[{name}]" for name in shown[first:])]
            names = [f"&gamma;<sub>{i}</sub> <i>{html.escape(name)}</i>"
                     for i, name in enumerate(shown, 1)]  # fmt: skip
            lines.append(" + ".join(["log sd(&epsilon;) = log &sigma;", *names]))
        return lines

    def _further_tables(self, alpha: float) -> list[Section]:
        table = self.residual_params(alpha).rename_axis("parameter").reset_index()
        return [Section("Residuals: correlation and spread", table=table)]


def _covariates(names: Sequence[str]) -> list[str]:
    """Columns of the formula of the dispersion, whose parameters are called ``log_sd(x)``."""
    return [name.removeprefix("log_sd(").removesuffix(")") for name in names]
