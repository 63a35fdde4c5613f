"""Tables in broom's column names, for LaTeX and for HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import (
    check_choice,
    check_count,
    check_flag,
    check_keywords,
    check_level,
    check_strings,
    check_text,
    wrong_type,
)
from sparselmm.base.exceptions import ArgumentError
from sparselmm.design.levels import apart
from sparselmm.inference.effects import factor_tables
from sparselmm.inference.hypotheses.ddf import DDF_METHODS, DenominatorDF
from sparselmm.inference.variances import VarianceRow
from sparselmm.inference.wald import Wald, quantile
from sparselmm.results.methods.base import ResultsBase
from sparselmm.results.print import labels
from sparselmm.results.print import model_table as tables
from sparselmm.results.print.notebook import as_table

EFFECTS = ("fixed", "ran_pars", "ran_vals", "ran_coefs")
COLUMNS = (
    "effect", "group", "level", "term", "estimate", "std.error", "statistic", "df", "p.value",
    "conf.low", "conf.high",
)  # fmt: skip
"""Columns of `tidy` in their order."""


TABLE_OPTIONS = ("names", "digits", "ddf", "title")
"""Arguments of ``to_table`` that ``to_latex`` and ``to_html`` pass on."""

MOST_DIGITS = 17
"""Significant decimal digits of a double."""


class TidyResults(ResultsBase):
    """Part of :class:`sparselmm.MixedLMResults`."""

    @as_table
    def tidy(
        self, effects: str | Sequence[str] = ("fixed", "ran_pars"), *, conf_int: bool = False,
        conf_level: float = 0.95, ddf: str | None = None, scale: str = "sdcor",
    ) -> pd.DataFrame:  # fmt: skip
        """Estimates as one table with the column names of R's broom.mixed.

        Parameters
        ----------
        effects : str or sequence of str
            ``"fixed"``: fixed effects. ``"ran_pars"``: standard deviations and correlations of
            the random effects. ``"ran_vals"``: conditional means of the random effects with their
            conditional standard deviations. ``"ran_coefs"``: random plus fixed coefficients.
        conf_int : bool
            Add Wald intervals ``conf.low`` and ``conf.high``; missing for ``ran_pars`` and
            ``ran_coefs``.
        conf_level : float
            Their confidence level.
        ddf : {"satterthwaite", "kenward-roger", "z"}, optional
            Add ``df`` and ``p.value`` to the fixed effects, and make their intervals with the t
            distribution. Default: neither, and normal intervals, as for a fit of lme4.
        scale : {"sdcor", "vcov"}
            Standard deviations and correlations (``sd__x``, ``cor__x.y``), or variances and
            covariances (``var__x``, ``cov__x.y``), in the units of the data.

        Returns
        -------
        DataFrame
            Of the columns ``effect, group, level, term, estimate, std.error, statistic, df,
            p.value, conf.low, conf.high`` those that were asked for.

        Raises
        ------
        ValueError
            When an effect, a method or a scale is unknown, or the level is not between 0 and 1.

        References
        ----------
        Bolker, B. and Robinson, D. broom.mixed: tidying methods for mixed models, version 0.2.9.4,
        ``tidy.merMod``, for the names.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.tidy()[["term", "estimate"]].round(2).to_dict("split")["data"][2:4]
        [['sd__Intercept', 24.74], ['cor__Intercept.Days', 0.07]]
        """
        given = check_strings(effects, "effects")
        wanted = tuple(check_choice(effect, "effects", EFFECTS) for effect in given)
        if not wanted:
            raise ArgumentError(f"effects must be some of {EFFECTS}, got {list(wanted)}")
        conf_int = check_flag(conf_int, "conf_int")
        conf_level = check_level(conf_level, "conf_level", "0.95 makes 95 % intervals")
        scale = check_choice(scale, "scale", ("sdcor", "vcov"))
        if ddf is not None:
            ddf = check_choice(ddf, "ddf", DDF_METHODS)
        parts = {
            "fixed": lambda: self._tidy_fixed(conf_level, None if ddf is None else self._ddf(ddf)),
            "ran_pars": lambda: _tidy_variances(self._est.variance_rows, scale),
            "ran_vals": lambda: self._tidy_modes(conf_level),
            "ran_coefs": self._tidy_coefficients,
        }
        rows = [row for effect in EFFECTS if effect in wanted for row in parts[effect]()]
        hidden = {"conf.low", "conf.high"} if not conf_int else set()
        hidden |= {"df", "p.value"} if ddf is None or "fixed" not in wanted else set()
        hidden |= {"level"} if not {"ran_vals", "ran_coefs"} & set(wanted) else set()
        hidden |= {"statistic"} if "fixed" not in wanted else set()
        hidden |= {"std.error"} if set(wanted) <= {"ran_pars", "ran_coefs"} else set()
        hidden |= {"group"} if wanted == ("fixed",) else set()
        columns = [name for name in COLUMNS if name not in hidden]
        out = pd.DataFrame(rows, columns=list(COLUMNS))[columns]
        text = {"effect", "group", "level", "term"}
        return out.astype({name: float for name in columns if name not in text})

    def _tidy_fixed(self, level: float, tests: DenominatorDF | None) -> list[dict[str, Any]]:
        est = self._est
        vcov = est.vcov if tests is None else tests.vcov
        se = np.sqrt(np.diag(vcov))
        df = np.full(est.layout.p, np.inf) if tests is None else tests.t_df(np.eye(est.layout.p))
        wald = Wald(est.beta, se, df)
        table = np.column_stack(
            [est.beta, se, wald.statistic, df, wald.pvalue, wald.interval(1.0 - level)]
        )
        head = [{"effect": "fixed", "term": name} for name in est.layout.x_names]
        return [
            one | dict(zip(COLUMNS[4:], row, strict=True))
            for one, row in zip(head, table, strict=True)
        ]

    def _tidy_modes(self, level: float) -> list[dict[str, Any]]:
        est, z = self._est, float(quantile(1.0 - level))
        factors = factor_tables(est.terms)
        variances = labels.variance_tables(est, factors)
        rows = []
        for name, modes in labels.mode_tables(est, factors).items():
            levels = apart([np.asarray(modes.index)], "".join)
            for term in modes.columns:
                sd = np.sqrt(variances[name][term])
                for label, b, s in zip(levels, modes[term], sd, strict=True):
                    ends = {"conf.low": b - z * s, "conf.high": b + z * s}
                    rows.append(
                        _random_row("ran_vals", name, label, term, b) | {"std.error": s} | ends
                    )
        return rows

    def _tidy_coefficients(self) -> list[dict[str, Any]]:
        """Random plus fixed coefficients; a fixed effect without random part stays as it is."""
        est = self._est
        fixed = dict(zip(est.layout.x_names, np.nan_to_num(est.beta), strict=True))
        rows = []
        for name, modes in labels.mode_tables(est, factor_tables(est.terms)).items():
            levels = apart([np.asarray(modes.index)], "".join)
            for term in _union(list(fixed), list(modes.columns)):
                values = modes[term] if term in modes else 0.0 * modes.iloc[:, 0]
                for label, b in zip(levels, values + fixed.get(term, 0.0), strict=True):
                    rows.append(_random_row("ran_coefs", name, label, term, b))
        return rows

    @as_table
    def glance(self) -> pd.DataFrame:
        """The fit in one row, with the column names of R's broom.mixed.

        Returns
        -------
        DataFrame, (1, 7)
            ``nobs, sigma, logLik, AIC, BIC``, then ``REMLcrit`` or ``deviance``, and
            ``df.residual``, rows less all estimated parameters. AIC and BIC follow lme4's
            convention: after REML they use the REML likelihood and compare only models with the
            same fixed effects.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.glance().round(1).to_dict("records")[0]["REMLcrit"]
        1743.6
        """
        est, deviance = self._est, self.pls.deviance
        k = est.n_parameters
        values = {
            "nobs": est.nobs,
            "sigma": self.pls.sigma,
            "logLik": -0.5 * deviance,
            "AIC": deviance + 2.0 * k,
            "BIC": deviance + float(np.log(est.nobs)) * k,
            "REMLcrit" if self.pls.reml else "deviance": deviance,
            "df.residual": est.nobs - k,
        }
        return pd.DataFrame([values])

    # ------------------------------------------------------------------------ LaTeX and HTML

    def to_table(
        self, *others: Any, names: Sequence[str] | None = None, digits: int = 3,
        ddf: str | None = None, title: str | None = None,
    ) -> tables.ModelTable:  # fmt: skip
        """A table for a paper of this fit, or of several side by side.

        Parameters
        ----------
        *others : MixedLMResults
            Further fits, one column each.
        names : sequence of str, optional
            Heads of the columns. Default: ``(1)``, ``(2)``, ...
        digits : int
            Decimals; small numbers get as many significant digits instead.
        ddf : {"satterthwaite", "kenward-roger", "z"}, optional
            Standard errors of this method, and stars for its p-values. Default: no stars.
        title : str, optional
            Caption.

        Returns
        -------
        ModelTable
            ``to_latex()``, ``to_html()`` and a text for ``print``.

        Raises
        ------
        ValueError
            When the number of names is wrong.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> print(fit.to_table(digits=2))
                                     (1)
        -----------------------------------
        Intercept                   251.41
                                    (6.82)
        Days                         10.47
                                    (1.55)
        -----------------------------------
        Subject: sd Intercept        24.74
        Subject: cor Intercept.Days   0.07
        Subject: sd Days              5.92
        Residual: sd                 25.59
        -----------------------------------
        Observations                   180
        Levels of Subject               18
        Log-likelihood (REML)      -871.81
        AIC                        1755.63
        BIC                        1774.79
        -----------------------------------
        Standard errors in parentheses.
        """
        fits = [self, *others]
        for other in others:
            if not isinstance(other, TidyResults):
                raise wrong_type("others", "fitted models", other)
        digits = check_count(digits, "digits", least=0, most=MOST_DIGITS)
        if title is not None:
            check_text(title, "title")
        if names is not None:
            given, names = names, check_strings(names, "names", "a list of names")
            if isinstance(given, str) or len(names) != len(fits):
                raise ArgumentError(f"{len(fits)} fits need as many names, got {len(names)}")
        heads = list(names) if names is not None else [f"({i + 1})" for i in range(len(fits))]
        columns = [fit._table_column(head, ddf) for fit, head in zip(fits, heads, strict=True)]
        return tables.ModelTable.of(columns, digits, title, stars=ddf is not None)

    def _table_column(self, head: str, ddf: str | None) -> tables.ModelColumn:
        levels = {table.name: len(table.labels) for table in factor_tables(self._est.terms)}
        one = self.glance().iloc[0]
        name = "Log-likelihood (REML)" if self.pls.reml else "Log-likelihood"
        return tables.ModelColumn(
            head=head,
            fixed=self.tidy("fixed", ddf="z" if ddf is None else ddf),
            random=self.tidy("ran_pars"),
            levels=levels,
            nobs=self._est.nobs,
            criteria={name: one["logLik"], "AIC": one["AIC"], "BIC": one["BIC"]},
        )

    def to_latex(self, *others: Any, label: str = "", **options: Any) -> str:
        r"""LaTeX table of this fit, or several side by side, for the package booktabs.

        Parameters
        ----------
        *others : MixedLMResults
        label : str
            For cross-references.
        **options
            ``names, digits, ddf, title`` of `to_table`.

        Returns
        -------
        str
            A ``table`` environment; special characters are escaped.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> print(fit.to_latex().splitlines()[2])
        \begin{tabular}{lr}
        """
        check_keywords(options, TABLE_OPTIONS, "to_latex")
        return self.to_table(*others, **options).to_latex(label)

    def to_html(self, *others: Any, **options: Any) -> str:
        """HTML table of this fit, or several side by side.

        Parameters
        ----------
        *others : MixedLMResults
        **options
            ``names, digits, ddf, title`` of `to_table`.

        Returns
        -------
        str
            A ``table`` element; special characters are escaped.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.to_html(names=["a < b"]).splitlines()[1]
        '<thead><tr><th></th><th>a &lt; b</th></tr></thead>'
        """
        check_keywords(options, TABLE_OPTIONS, "to_html")
        return self.to_table(*others, **options).to_html()


def _union(first: list[str], second: list[str]) -> list[str]:
    return list(dict.fromkeys([*first, *second]))


def _random_row(effect: str, group: str, level: str, term: str, value: float) -> dict[str, Any]:
    return {"effect": effect, "group": group, "level": level, "term": term, "estimate": value}


def _tidy_variances(variances: Sequence[VarianceRow], scale: str) -> list[dict[str, Any]]:
    """One row per variance and covariance, each term's by lower triangle as broom.mixed."""
    one, two = ("sd", "cor") if scale == "sdcor" else ("var", "cov")
    out: list[dict[str, Any]] = []
    by_group: dict[str, list[VarianceRow]] = {}
    for row in variances:
        by_group.setdefault(row.group, []).append(row)
    for group, rows in by_group.items():
        names = [row.first for row in rows if row.second is None]
        table = {(row.first, row.second): row for row in rows}
        places = [(a, b) for j, a in enumerate(names) for b in (None, *names[j + 1 :])]
        for first, second in places:
            if (first, second) not in table:
                continue  # independent coefficients
            own = first or ("Observation" if group == "Residual" else group)
            term = f"{one}__{own}" if second is None else f"{two}__{own}.{second}"
            value = getattr(table[first, second], scale)
            out.append({"effect": "ran_pars", "group": group, "term": term, "estimate": value})
    return out
