"""What a fit gives back: estimates, random effects, predictions, in the words of statsmodels.

Every number is computed by a function on arrays in :mod:`sparselmm.deviance`,
:mod:`sparselmm.variances`, :mod:`sparselmm.effects` or :mod:`sparselmm.prediction`; here it gets
its label. What costs more than the fit itself is computed when first asked for.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import cached_property
from os import PathLike
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.linalg as sla
from scipy.stats import norm

from sparselmm import effects, prediction, summary, variances
from sparselmm._typing import FloatArray
from sparselmm.deviance import PLSFit, ProfiledDeviance
from sparselmm.exceptions import DataError, MemoryLimitError
from sparselmm.formula import BuiltDesign
from sparselmm.terms import RandomTerm

if TYPE_CHECKING:
    from sparselmm.optimize import OptSummary

MAX_COVARIANCES = 200_000_000
"""Most numbers `random_effects_cov` returns (1.6 GB)."""

Vector = Any
"""pandas Series when the user works with pandas, ndarray otherwise."""

Matrix = Any
"""pandas DataFrame when the user works with pandas, ndarray otherwise."""


class MixedLMResults:
    """A fitted linear mixed model.

    Results are labelled (pandas) when the model was given pandas objects and plain arrays when it
    was given arrays, except that ``vcomp`` is always an array and random effects are always
    labelled.

    Units: ``cov_re``, ``vcomp``, ``scale``, ``bse_re`` and the summary are in the units of the
    data. As in statsmodels, the variance entries of ``params``, ``bse``, ``tvalues``,
    ``conf_int`` and ``cov_params`` are ratios to ``scale``.

    Parameters
    ----------
    model : object
        The model, kept as ``results.model``; nothing of it is used here.
    built : BuiltDesign
        Design, recipe and row labels.
    deviance : ProfiledDeviance
        The sparse engine, which also answers questions after the fit.
    fit : PLSFit
        ``deviance.at(opt.theta)``.
    opt : OptSummary
        How the optimizer got there.
    use_sqrt : bool
        Kept as ``results.use_sqrt``.

    Attributes
    ----------
    model, built, deviance, opt, use_sqrt
        As given.
    pls : PLSFit
        The penalized least-squares solution at the optimum.
    """

    def __init__(
        self,
        model: Any,
        built: BuiltDesign,
        deviance: ProfiledDeviance,
        fit: PLSFit,
        opt: OptSummary,
        *,
        use_sqrt: bool = True,
    ) -> None:
        self.model = model
        self.built = built
        self.deviance = deviance
        self.pls = fit
        self.opt = opt
        self.use_sqrt = use_sqrt

    # ------------------------------------------------------------------------ plain facts

    @property
    def theta(self) -> FloatArray:
        """Free entries of every ``lambda_t``, (n_theta,), relative to sigma."""
        return self.pls.theta

    @property
    def scale(self) -> float:
        """Residual variance sigma^2."""
        return self.pls.scale

    @property
    def sigma(self) -> float:
        """Residual standard deviation."""
        return self.pls.sigma

    @property
    def u(self) -> FloatArray:
        """Conditional modes of the spherical random effects, (q,)."""
        return self.pls.u

    @property
    def b(self) -> FloatArray:
        """Conditional modes of the random effects, (q,), in the order of the columns of Z."""
        return self.pls.b

    @property
    def converged(self) -> bool:
        """Whether the optimizer met its criteria."""
        return self.opt.converged

    @property
    def reml(self) -> bool:
        """Whether the criterion was REML."""
        return self.pls.reml

    @property
    def method(self) -> str:
        """``"REML"`` or ``"ML"``."""
        return "REML" if self.reml else "ML"

    @property
    def use_t(self) -> bool:
        """False: tests use the normal distribution, as in statsmodels."""
        return False

    @property
    def nobs(self) -> int:
        """Rows with positive weight."""
        return self.deviance.cross.n

    @property
    def df_resid(self) -> int:
        """``nobs`` minus the rank of X."""
        return self.nobs - self.deviance.cross.basis.rank

    @property
    def df_modelwc(self) -> int:
        """Length of ``params``."""
        return self.k_fe + len(self._layout.names)

    @property
    def k_fe(self) -> int:
        """Columns of X, dropped ones included."""
        return self.built.design.p

    @property
    def k_re(self) -> int:
        """Order of ``cov_re``."""
        return sum(self._terms[t].k for t in self._layout.cov_terms)

    @property
    def k_re2(self) -> int:
        """Variances and covariances in ``params`` before the variance components."""
        return len(self._layout.names) - self.k_vc

    @property
    def k_vc(self) -> int:
        """Variance components: entries of ``vcomp``."""
        return len(self._layout.components)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Columns of X left out because they depend on the others; their estimates are NaN."""
        kept = set(self.deviance.cross.basis.kept.tolist())
        return tuple(name for j, name in enumerate(self._x_names) if j not in kept)

    @cached_property
    def singular(self) -> bool:
        """Whether an estimated random-effects covariance matrix is singular."""
        deviance = self.deviance
        return bool(
            variances.singular_terms(deviance.cross, deviance.covariance, self.theta).any()
        )

    @property
    def llf(self) -> float:
        """Log-likelihood, or REML log-likelihood, in lme4's convention."""
        return -0.5 * self.pls.deviance

    @property
    def n_parameters(self) -> int:
        """Estimated parameters: fixed effects, covariance parameters and sigma."""
        return len(self.pls.beta) + len(self.theta) + 1

    @property
    def aic(self) -> float:
        """Akaike's criterion; NaN under REML, as in statsmodels (see ``aic_reml``)."""
        return np.nan if self.reml else self.aic_reml

    @property
    def bic(self) -> float:
        """Schwarz's criterion; NaN under REML, as in statsmodels (see ``bic_reml``)."""
        return np.nan if self.reml else self.bic_reml

    @property
    def aic_reml(self) -> float:
        """Akaike's criterion from whichever likelihood was maximized, lme4's convention.

        Under REML only comparable between models with the same fixed effects.
        """
        return self.pls.deviance + 2.0 * self.n_parameters

    @property
    def bic_reml(self) -> float:
        """Schwarz's criterion from whichever likelihood was maximized, lme4's convention."""
        return self.pls.deviance + float(np.log(self.nobs)) * self.n_parameters

    # ---------------------------------------------------------------------- fixed effects

    @property
    def fe_params(self) -> Vector:
        """Fixed effects, (k_fe,); NaN for dropped columns."""
        return self._vector(self._beta, self._x_names)

    @property
    def bse_fe(self) -> Vector:
        """Standard errors of the fixed effects, (k_fe,)."""
        return self._vector(np.sqrt(np.diag(self._vcov)), self._x_names)

    @cached_property
    def _beta(self) -> FloatArray:
        beta = np.full(self.k_fe, np.nan)
        beta[self.deviance.cross.basis.kept] = self.pls.beta
        return beta

    @cached_property
    def _vcov(self) -> FloatArray:
        """``sigma^2 (X'V^-1X)^-1`` with NaN for dropped columns, (k_fe, k_fe)."""
        kept = self.deviance.cross.basis.kept
        out = np.full((self.k_fe, self.k_fe), np.nan)
        out[np.ix_(kept, kept)] = self.scale * self.pls.vcov_unscaled
        return out

    # ------------------------------------------------------------------------ all parameters

    @cached_property
    def _layout(self) -> variances.VarianceLayout:
        return variances.VarianceLayout.of(self._terms)

    @cached_property
    def _psi(self) -> list[FloatArray]:
        """``Psi_t`` of every term, in the units of the data."""
        return self.deviance.covariance.psi(self.theta, self.scale)

    @cached_property
    def _variance_covariance(self) -> variances.VarianceCovariance:
        return variances.variance_covariance(
            self.deviance, self.theta, self.scale, self._layout
        )

    @property
    def param_names(self) -> list[str]:
        """Names of ``params``."""
        return [*self._x_names, *self._layout.names]

    @cached_property
    def _params(self) -> FloatArray:
        return np.append(self._beta, self._layout.pick(self._psi) / self.scale)

    @property
    def params(self) -> Vector:
        """Fixed effects, then variances and covariances as ratios to ``scale``."""
        return self._vector(self._params, self.param_names)

    def cov_params(self) -> Matrix:
        """Estimation covariance of ``params``, variances as ratios to ``scale``.

        The block of the variance parameters is the inverse of the observed information; it is NaN
        for a singular term. Fixed effects and variance parameters are asymptotically independent
        and their covariance is given as zero.
        """
        p, names = self.k_fe, self.param_names
        out = np.zeros((len(names), len(names)))
        out[:p, :p] = self._vcov
        out[p:, p:] = self._variance_covariance.ratios
        return self._matrix(out, names)

    @property
    def normalized_cov_params(self) -> Matrix:
        """``cov_params() / scale``."""
        return self.cov_params() / self.scale

    @cached_property
    def _bse(self) -> FloatArray:
        blocks = (self._vcov, self._variance_covariance.ratios)
        return np.sqrt(np.concatenate([np.diag(block) for block in blocks]))

    @property
    def bse(self) -> Vector:
        """Standard errors of ``params``, variances as ratios to ``scale``."""
        return self._vector(self._bse, self.param_names)

    @property
    def bse_re(self) -> Vector:
        """Standard errors of variances and covariances in the units of the data.

        From the observed information in (Psi, sigma^2). NaN for a singular term.
        """
        return self._vector(self._bse_re, self._layout.names)

    @property
    def _bse_re(self) -> FloatArray:
        return np.sqrt(np.diag(self._variance_covariance.absolute)[:-1])

    @property
    def tvalues(self) -> Vector:
        """``params / bse``; for a variance this is no test of its being zero."""
        return self._vector(self._z, self.param_names)

    @property
    def _z(self) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._params / self._bse

    @property
    def pvalues(self) -> Vector:
        """Two-sided p-values of ``tvalues`` under the normal distribution."""
        return self._vector(2.0 * norm.sf(np.abs(self._z)), self.param_names)

    def conf_int(self, alpha: float = 0.05) -> Matrix:
        """Wald confidence intervals of ``params``.

        Parameters
        ----------
        alpha : float
            One minus the confidence level.

        Returns
        -------
        DataFrame or ndarray, (number of parameters, 2)
            Columns 0 and 1: lower and upper end.
        """
        half = norm.ppf(1.0 - alpha / 2.0) * self._bse
        ends = np.column_stack([self._params - half, self._params + half])
        return pd.DataFrame(ends, index=self.param_names) if self._pandas else ends

    # --------------------------------------------------------------------- variance parameters

    @property
    def cov_re(self) -> Matrix:
        """Covariance matrix of the random coefficients, (k_re, k_re), in the units of the data.

        Block diagonal over the ``groups`` term and the bars of the formula. A bar's intercept is
        labelled by its grouping factor, ``"s"``, another coefficient ``"s[x]"``.
        """
        blocks = [self._psi[t] for t in self._layout.cov_terms]
        matrix = sla.block_diag(*blocks) if blocks else np.zeros((0, 0))
        return self._matrix(matrix, self._cov_re_names)

    @property
    def _cov_re_names(self) -> list[str]:
        out: list[str] = []
        for t in self._layout.cov_terms:
            term = self._terms[t]
            out += self._group_names if term.origin == "re" else variances.coefficient_names(term)
        return out

    @property
    def cov_re_unscaled(self) -> Matrix:
        """``cov_re / scale``."""
        return self.cov_re / self.scale

    @property
    def vcomp(self) -> FloatArray:
        """Variance components in the units of the data, (k_vc,); always an array."""
        return np.array([self._psi[t][0, 0] for t in self._layout.components])

    @property
    def varcorr(self) -> pd.DataFrame:
        """Variance components as lme4's ``as.data.frame(VarCorr(fit))``.

        One row per variance (``var2`` missing) and per covariance; ``vcov`` in the units of the
        data, ``sdcor`` the standard deviation or the correlation. The last row is the residual.
        """
        rows = self._variance_rows
        table = [[row.group, row.first, row.second, row.vcov, row.sdcor] for row in rows]
        frame = pd.DataFrame(table, columns=["grp", "var1", "var2", "vcov", "sdcor"])
        return frame.astype({"grp": object, "var1": object, "var2": object})

    @property
    def _variance_rows(self) -> list[variances.VarianceRow]:
        return variances.variance_rows(self._terms, self._psi, self.scale)

    # ------------------------------------------------------------------------- random effects

    @cached_property
    def _units(self) -> list[effects.Units]:
        design = self.built.design
        return effects.all_units(design.terms, design.groups, self._group_names)

    @property
    def _group_names(self) -> tuple[str, ...]:
        return effects.group_coefficients(self._terms, self.built.spec.formula is None)

    @cached_property
    def random_effects(self) -> dict[Any, pd.Series]:
        """Conditional means of the random effects given the data, as a dict.

        Keys are the groups, or the levels of the only grouping factor; with several factors they
        are tuples ``(factor, level)``. Values are Series: coefficients of the ``groups`` term,
        then columns of the variance components, or all coefficients of the factor.
        """
        out: dict[Any, pd.Series] = {}
        for units in self._units:
            values = self.b[units.columns]
            for key, index, at in self._labelled(units):
                out[key] = pd.Series(values[at], index=index)
        return out

    @cached_property
    def random_effects_cov(self) -> dict[Any, pd.DataFrame]:
        """Conditional covariance matrices of the random effects, fixed effects taken as known.

        The same keys as ``random_effects``; lme4's ``condVar``.

        Raises
        ------
        MemoryLimitError
            When the matrices would hold more than 2e8 numbers; ``ranef_var`` has the variances
            alone.
        """
        total = sum(units.n_covariances for units in self._units)
        if total > MAX_COVARIANCES:
            raise MemoryLimitError(
                f"random_effects_cov would hold {total:.3g} numbers ({8e-9 * total:.3g} GB); "
                "use ranef_var for the conditional variances alone"
            )
        out: dict[Any, pd.DataFrame] = {}
        for units in self._units:
            blocks = effects.unit_covariances(units, self.deviance, self.theta, self.scale)
            for (key, index, _), block in zip(self._labelled(units), blocks, strict=True):
                out[key] = pd.DataFrame(block, index=index, columns=index)
        return out

    def _labelled(self, units: effects.Units) -> list[tuple[Any, pd.Index, slice]]:
        """Key, coefficient names and positions of every unit; equal names share one Index."""
        several = len(self._units) > 1
        made: dict[tuple[str, ...], pd.Index] = {}
        names, ends, out = units.names.tolist(), units.indptr.tolist(), []
        for label, start, end in zip(units.labels.tolist(), ends, ends[1:], strict=True):
            own = tuple(names[start:end])
            if own not in made:
                made[own] = pd.Index(own, dtype=object)
            out.append(((units.factor, label) if several else label, made[own], slice(start, end)))
        return out

    @cached_property
    def ranef(self) -> dict[str, pd.DataFrame]:
        """Conditional means, one table per grouping factor or variance component.

        Always a dict of name to DataFrame: rows are levels (``"a:A"`` for the level a:A of an
        interaction, ``"A:a"`` for label a of a component in group A), columns are coefficients.
        """
        return {
            table.name: self._level_frame(table, effects.table_modes(table, self._terms, self.b))
            for table in effects.factor_tables(self._terms)
        }

    @cached_property
    def ranef_var(self) -> dict[str, pd.DataFrame]:
        """Conditional variances in the shape of ``ranef``, fixed effects taken as known."""
        at = (self.deviance, self.theta, self.scale)
        return {
            table.name: self._level_frame(table, effects.table_variances(table, *at))
            for table in effects.factor_tables(self._terms)
        }

    def _level_frame(self, table: effects.FactorTable, values: FloatArray) -> pd.DataFrame:
        name = ":".join(self._terms[table.terms[0]].levels.names)
        index = pd.Index(table.labels, name=name)
        return pd.DataFrame(values, index=index, columns=list(table.columns))

    # ------------------------------------------------------------------ fitted and predicted

    @property
    def fittedvalues(self) -> Vector:
        """``X beta + Z b`` plus the offset, (n,), random effects included."""
        return self._rows(self._fitted)

    @property
    def resid(self) -> Vector:
        """Response minus ``fittedvalues``, (n,)."""
        return self._rows(self.built.design.y - self._fitted)

    @cached_property
    def _fitted(self) -> FloatArray:
        design = self.built.design
        fixed = prediction.fixed_part(design.X, self._beta, design.offset)
        return fixed + effects.random_part(design.terms, self.b, design.n)

    def predict(
        self,
        exog: Any = None,
        transform: bool = True,
        *,
        re: bool = False,
        unseen: str = "error",
        groups: Any = None,
        exog_re: Any = None,
        exog_vc: Any = None,
        offset: Any = None,
        z_terms: Any = None,
    ) -> Vector:
        """Predicted means, of the fixed effects alone or with the random effects.

        Parameters
        ----------
        exog : DataFrame, mapping or ndarray, (m, p), optional
            New data: the formula's variables, or the columns of X. Default: the data of the fit.
        transform : bool
            False: a data frame holds the columns of X, not the formula's variables.
        re : bool
            Add the conditional means of the random effects.
        unseen : {"error", "population", "nan"}
            With ``re=True``, what to do with rows of a level the fit has not seen: refuse, leave
            that random effect out, or predict NaN.
        groups, exog_re, exog_vc, z_terms : optional
            With ``re=True``, arrays for the new rows where the model was given arrays.
        offset : array-like, (m,), optional
            Offset of the new rows when the model's was an array.

        Returns
        -------
        Series or ndarray, (m,)
            A Series for a data frame, an array otherwise.

        Raises
        ------
        TypeError
            When arrays for random effects are given without ``re=True``.
        DataError
            When levels are unseen, or the new data do not suit the model.

        Warns
        -----
        RankDeficiencyWarning
            When coefficients of dropped columns had to count as zero.
        """
        arrays = {"groups": groups, "exog_re": exog_re, "exog_vc": exog_vc, "z_terms": z_terms}
        prediction.check_arguments(re, unseen, arrays)
        if exog is None:
            design = self.built.design
            fixed = prediction.fixed_part(design.X, self._beta, design.offset)
            return self._fitted.copy() if re else fixed
        new = prediction.new_design(self.built, exog, transform, re, {**arrays, "offset": offset})
        prediction.warn_if_dropped(self.dropped)
        out = prediction.fixed_part(new.X, self._beta, new.offset)
        if re:
            levels = prediction.level_labels(self.built, exog, groups)
            out = out + prediction.new_random_part(self._terms, new, self.b, unseen, levels)
        return out if new.row_labels is None else pd.Series(out, index=new.row_labels)

    # -------------------------------------------------------------------------------- print

    def summary(
        self,
        yname: str | None = None,
        xname_fe: Sequence[str] | None = None,
        xname_re: Sequence[str] | None = None,
        title: str | None = None,
        alpha: float = 0.05,
    ) -> summary.Summary:
        """Printable summary: statsmodels' layout, then variance components and convergence.

        Variances and their standard errors are in the units of the data.

        Parameters
        ----------
        yname : str, optional
            Name of the response.
        xname_fe, xname_re : sequence of str, optional
            Names of the fixed effects and of the variance parameters.
        title : str, optional
        alpha : float
            One minus the confidence level of the intervals.

        Raises
        ------
        ValueError
            When a list of names has the wrong length.
        """
        names = [
            *_names(xname_fe, self._x_names, "xname_fe"),
            *_names(xname_re, self._layout.names, "xname_re"),
        ]
        values = np.full((len(names), 6), np.nan)
        p = self.k_fe
        values[:p, :2] = np.column_stack([self._beta, np.sqrt(np.diag(self._vcov))])
        values[:p, 2] = values[:p, 0] / values[:p, 1]
        values[:p, 3] = 2.0 * norm.sf(np.abs(values[:p, 2]))
        half = norm.ppf(1.0 - alpha / 2.0) * values[:p, 1]
        values[:p, 4:] = np.column_stack([values[:p, 0] - half, values[:p, 0] + half])
        values[p:, :2] = np.column_stack([self._layout.pick(self._psi), self._bse_re])
        tables = [
            summary.info_table(*self._facts(yname or self.built.design.y_name)),
            summary.coefficient_table(values, names, alpha),
            summary.variance_table(self._variance_rows),
        ]
        return summary.Summary(tables, summary.TITLE if title is None else title, self._notes())

    def _facts(self, yname: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Left and right column of the first table."""
        left = [("Model:", "MixedLM"), ("No. Observations:", str(self.nobs))]
        groups = self.built.design.groups
        if groups is not None:
            left += summary.group_facts(np.bincount(groups.codes, minlength=len(groups.labels)))
        for table in effects.factor_tables(self._terms):
            if self._terms[table.terms[0]].origin in ("bar", "array"):
                left.append((f"Groups {table.name}:", str(len(table.labels))))
        right = [
            ("Dependent Variable:", yname),
            ("Method:", self.method),
            ("Scale:", f"{self.scale:.4f}"),
            ("Log-Likelihood:", f"{self.llf:.4f}"),
            ("Converged:", "Yes" if self.converged else "No"),
        ]
        return left, right

    def _notes(self) -> tuple[str, ...]:
        opt = self.opt
        notes = [
            f"Converged: {'Yes' if opt.converged else 'No'}; largest gradient entry "
            f"{opt.gradient_norm:.2g}; {opt.n_evaluations} evaluations"
        ]
        if not opt.converged:
            notes.append(f"The optimizer stopped: {opt.message}")
        if self.singular:
            notes.append(
                "Singular fit: a random-effects variance is estimated as zero or a correlation as "
                "+-1. The estimates are valid; standard errors of these variances do not exist."
            )
        if self.dropped:
            notes.append(
                "Dropped columns of X, linearly dependent on the others: " + ", ".join(self.dropped)
            )
        return tuple(notes)

    def _repr_html_(self) -> str:
        return self.summary().as_html()

    # ------------------------------------------------------------------------- save and load

    def save(self, fname: str | PathLike[str] | IO[bytes]) -> None:
        """Pickle the results.

        Parameters
        ----------
        fname : path or binary file
        """
        if hasattr(fname, "write"):
            pickle.dump(self, fname)
            return
        with open(fname, "wb") as file:
            pickle.dump(self, file)

    @classmethod
    def load(cls, fname: str | PathLike[str] | IO[bytes]) -> MixedLMResults:
        """Read results that :meth:`save` wrote. Only load files you trust.

        Parameters
        ----------
        fname : path or binary file
        """
        if hasattr(fname, "read"):
            return _checked(pickle.load(fname))
        with open(fname, "rb") as file:
            return _checked(pickle.load(file))

    # ------------------------------------------------------------------------------- helpers

    @property
    def _terms(self) -> tuple[RandomTerm, ...]:
        return self.built.design.terms

    @property
    def _x_names(self) -> tuple[str, ...]:
        return self.built.design.x_names

    @property
    def _pandas(self) -> bool:
        return self.built.pandas

    def _vector(self, values: FloatArray, names: Sequence[str]) -> Vector:
        return pd.Series(values, index=list(names), dtype=float) if self._pandas else values.copy()

    def _matrix(self, values: FloatArray, names: Sequence[str]) -> Matrix:
        if not self._pandas:
            return values
        return pd.DataFrame(values, index=list(names), columns=list(names))

    def _rows(self, values: FloatArray) -> Vector:
        if not self._pandas:
            return values.copy()
        return pd.Series(values, index=self.built.row_labels)


def _names(given: Sequence[str] | None, default: Sequence[str], argument: str) -> list[str]:
    if given is None:
        return list(default)
    if len(given) != len(default):
        raise ValueError(f"{argument} should be a list of length {len(default)}, got {len(given)}")
    return list(given)


def _checked(loaded: Any) -> MixedLMResults:
    if not isinstance(loaded, MixedLMResults):
        raise DataError(f"the file holds a {type(loaded).__name__}, not MixedLMResults")
    return loaded
