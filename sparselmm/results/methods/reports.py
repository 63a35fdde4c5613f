"""What to hand over: sentences, a report, tables for packages that make tables."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_flag, check_level, check_text
from sparselmm.base.providers import versions
from sparselmm.inference.diagnostics.diagnosis import Diagnosis
from sparselmm.inference.effects import factor_tables
from sparselmm.results.methods.figures import FigureResults
from sparselmm.results.plots.figure import pyplot
from sparselmm.results.print.report import Report, Section, apa_p, listed
from sparselmm.results.tables.reference_grid import variables_of

MOST_LEVELS = 2_000
"""Levels of a factor up to which a report draws its random effects."""

MOST_ROWS = 200_000
"""Rows up to which a report draws residuals."""


VERSIONS = ("sparselmm", "Python", "numpy", "scipy", "pandas", "patsy", "sparse factors")


class ReportResults(FigureResults):
    """Part of :class:`sparselmm.MixedLMResults` and :class:`sparselmm.MixedGLMResults`."""

    def apa(self, alpha: float = 0.05) -> pd.Series:
        """A sentence in the style of the APA for every fixed effect.

        Parameters
        ----------
        alpha : float
            One minus the confidence level.

        Returns
        -------
        Series of str
            By name of the coefficient.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> print(fit.apa()["Days"])
        b = 10.47, SE = 1.55, 95% CI [7.21, 13.73], t(17.00) = 6.77, p < .001
        """
        table, level = self._report_table(check_level(alpha)), 100.0 * (1.0 - alpha)
        letter = "z" if np.isinf(table["df"]).all() else "t"
        lines = []
        for row in table.itertuples(index=False):
            df = "" if np.isinf(row.df) else f"({row.df:.2f})"
            lines.append(
                f"b = {row.estimate:.2f}, SE = {row.SE:.2f}, {level:.3g}% CI [{row.low:.2f}, "
                f"{row.high:.2f}], {letter}{df} = {row.statistic:.2f}, {apa_p(row.p)}"
            )
        return pd.Series(lines, list(table["term"]))

    def report(
        self, title: str | None = None, *, alpha: float = 0.05, pictures: bool = True
    ) -> Report:
        """The fit on one page: in words and mathematics, tables, pictures, checks, versions.

        Parameters
        ----------
        title : str, optional
        alpha : float
            One minus the confidence level of the intervals.
        pictures : bool
            Whether to draw coefficients, predictions, random effects and residuals; needs
            matplotlib.

        Returns
        -------
        Report
            ``save("fit.html")`` or ``save("fit.md")``; a notebook shows it.

        Raises
        ------
        ImportError
            When pictures are wanted and matplotlib is not installed.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> print(fit.report(pictures=False).markdown.splitlines()[0])
        # Mixed model of Reaction
        """
        alpha, pictures = check_level(alpha), check_flag(pictures, "pictures")
        if self.built.streamed is None:
            self.built.layout.rows("report")
        name = str(self.built.layout.y_name)
        title = f"Mixed model of {name}" if title is None else check_text(title, "title")
        level = f"{100 * (1 - alpha):.3g} %"
        sections = [
            Section("The model", (self._in_words(),), tuple(self._in_mathematics())),
            Section("Fixed effects", (f"Intervals of {level}.",), table=self._printed(alpha)),
            Section("Variance components", table=self._variance_table()),
            *self._further_tables(alpha),
            Section("Fit", table=self._fit_table()),
        ]
        if pictures:
            sections += self._pictures()
        sections.append(Section("Checks", tuple(self._check_lines())))
        found = versions()
        known = ", ".join(f"{name} {found[name]}" for name in VERSIONS if name in found)
        return Report(title, tuple(sections), f"Made with {known}")

    # ------------------------------------------------------------------------------ parts

    @abstractmethod
    def _report_table(self, alpha: float) -> pd.DataFrame:
        """``term``, ``estimate``, ``SE``, ``df``, ``statistic``, ``p``, ``low``, ``high``."""

    def _printed(self, alpha: float) -> pd.DataFrame:
        table = self._report_table(alpha)
        return table.drop(columns="df") if np.isinf(table["df"]).all() else table

    def _random_parts(self) -> list[tuple[str, Sequence[str]]]:
        return [(t.name, [str(c) for c in t.columns]) for t in factor_tables(self._est.terms)]

    def _in_words(self) -> str:
        built = self.built
        fixed = [n for n in built.spec.x_names if n != "Intercept"]
        random = []
        for table in factor_tables(self._est.terms):
            names = ["intercepts" if c == "Intercept" else f"slopes of {c}" for c in table.columns]
            random.append(f"{listed(names)} for the {len(table.labels):,} levels of {table.name}")
        what = f"{listed(fixed)} as fixed effects" if fixed else "an intercept alone"
        if random:
            what += f" and, as random effects, {listed(random)}"
        return (
            f"{self._kind_in_words()} of {built.layout.y_name} was fitted to {built.n:,} rows with "
            f"{what}{self._further_in_words()}."
        )

    def _further_in_words(self) -> str:
        """What else belongs to the model."""
        return ""

    def _further_tables(self, alpha: float) -> list[Section]:
        """Estimates of what else belongs to the model."""
        return []

    @abstractmethod
    def _kind_in_words(self) -> str:
        """What was fitted."""

    @abstractmethod
    def _in_mathematics(self) -> list[str]:
        """The model as lines of HTML."""

    @abstractmethod
    def _variance_table(self) -> pd.DataFrame:
        """The variance parameters."""

    @abstractmethod
    def _facts(self) -> pd.DataFrame:
        """Facts of the fit, one row."""

    @abstractmethod
    def _check_lines(self) -> list[str]:
        """What `check` found, a line each."""

    @abstractmethod
    def _residual_figure(self) -> Any:
        """Residuals in a picture; None where there is none."""

    def _fit_table(self) -> pd.DataFrame:
        facts = self._facts()
        return pd.DataFrame({"": list(facts.columns), "value": list(facts.iloc[0])})

    def _pictures(self) -> list[Section]:
        """Coefficients, predictions of the first variable, random effects, residuals."""
        out = []
        if len(self.built.spec.x_names) > 1:
            out.append(Section("Coefficients", figure=self.plot_coefficients()))
        if self.built.spec.formula is not None and variables_of(self.built):
            out.append(Section("Predictions", figure=self.plot_predictions()))
        for table in factor_tables(self._est.terms):
            if len(table.labels) <= MOST_LEVELS:
                figure = self.plot_ranef(table.name)
                out.append(Section(f"Random effects of {table.name}", figure=figure))
        if self.built.has_rows and self.built.design.n <= MOST_ROWS:
            residuals = self._residual_figure()
            out += [] if residuals is None else [Section("Residuals", figure=residuals)]
        for section in out:
            pyplot().close(section.figure)  # shown in the report alone
        return out

    # ------------------------------------------------- what packages that make tables read

    @property
    def __maketables_coef_table__(self) -> pd.DataFrame:
        table = self._report_table(0.05).set_index("term")
        names = {
            "estimate": "b", "SE": "se", "statistic": "t", "p": "p", "low": "ci95l",
            "high": "ci95u",
        }  # fmt: skip
        return table.rename(columns=names)[list(names.values())]

    @property
    def __maketables_depvar__(self) -> str:
        return str(self.built.layout.y_name)

    @property
    def __maketables_fixef_string__(self) -> None:
        return None

    @property
    def __maketables_stat_labels__(self) -> dict[str, str]:
        return {"N": "Observations", "ll": "Log-likelihood", "aic": "AIC", "bic": "BIC"}

    @property
    def __maketables_default_stat_keys__(self) -> list[str]:
        return ["N", "ll", "aic", "bic"]

    def __maketables_stat__(self, key: str) -> Any:
        facts = {"N": "nobs", "ll": "llf", "aic": "aic", "bic": "bic"}
        if key not in facts:
            return None
        reml = key in ("aic", "bic") and getattr(self, "reml", False)  # else NaN, as statsmodels'
        return getattr(self, f"{facts[key]}_reml" if reml else facts[key])


def check_lines(found: Diagnosis) -> list[str]:
    """Findings for the eye; the report of a fit has them last."""
    if not found.findings:
        return ["Nothing found: the fit converged, no variance is zero, no row stands out."]
    return [f"{'!' if f.severity != 'note' else ''}{f.seen}; {f.advice}" for f in found.findings]
