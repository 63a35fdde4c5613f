"""Fits as models of the marginaleffects package: its predictions, comparisons and slopes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import scipy.sparse as sp
from marginaleffects.classes import MarginaleffectsResult, ModelAbstract, ModelVault
from marginaleffects.utils import ingest

from sparselmm.base.arguments import check_flag
from sparselmm.base.exceptions import ArgumentError, DataError, MemoryLimitError, RemovedRowsError
from sparselmm.base.types import FloatArray
from sparselmm.design.new_rows import new_design
from sparselmm.design.terms import assemble_z
from sparselmm.inference.prediction import means as prediction
from sparselmm.inference.prediction.variance import Targets
from sparselmm.inference.wald import Wald, two_sided
from sparselmm.likelihood.laplace import moments
from sparselmm.likelihood.laplace.chosen import base_of

MOST_COEFFICIENTS = 2_000
"""Most coefficients: marginaleffects differentiates by each of them."""


class FittedModel(ModelAbstract):  # type: ignore[misc]
    """What marginaleffects asks of a model.

    Parameters
    ----------
    result : MixedLMResults or MixedGLMResults
    random : bool
        Whether predictions hold the random effects of known levels; their errors count.
    """

    def __init__(self, result: Any, random: bool = False) -> None:
        built = result.built
        if built.spec.formula is None:
            raise DataError("marginaleffects needs a model that was fitted by a formula")
        if built.frame is None:
            raise RemovedRowsError.of("for_marginaleffects", built.streamed is None)
        self._random = check_flag(random, "random")
        self._general = hasattr(result, "family")
        if self._random and self._general:
            raise ArgumentError("random: random effects of generalized models are left out")
        if self._general and base_of(result.family).name == "ordinal":
            raise DataError(
                "marginaleffects predicts one mean, and an ordinal response has none; use "
                "predict(type='probability'), or emmeans(type='link')"
            )
        names = [n for n in built.spec.variables() if n in built.frame.columns]
        frame = built.frame[names].reset_index(drop=True)
        for name in names:  # text must be categorical there
            if not pd.api.types.is_numeric_dtype(frame[name].dtype):
                frame[name] = frame[name].astype("category")
        response = str(built.layout.y_name)
        frame[response] = built.design.y
        coef, covariance = self._coefficients(result)
        if len(coef) > MOST_COEFFICIENTS:
            raise MemoryLimitError(
                f"marginaleffects would differentiate by each of {len(coef):,} coefficients; pass "
                "random=False"
            )
        self._covariance = covariance
        vault = ModelVault(
            coef=coef, coefnames=np.array(list(map(str, range(len(coef)))), dtype=object),
            formula=f"{response} ~ {' + '.join(names) or '1'}", formula_engine="patsy",
            modeldata=ingest(frame), package="sparselmm", vcov=covariance,
            variable_names=[response, *names],
            pandas_categorical_orders={
                n: list(frame[n].cat.categories) for n in names if frame[n].dtype == "category"
            },
        )  # fmt: skip
        super().__init__(result, vault)

    def _coefficients(self, result: Any) -> tuple[FloatArray, FloatArray]:
        """Kept fixed effects, and random effects, with their joint error covariance."""
        fixed = result._fixed_effects() if self._general else result._fixed_effects("z")
        self._kept, self._fixed = fixed.kept, fixed
        if self._general:  # excess zeros, or a family's parameters, are part of the mean
            numbers = result.numbers
            return np.concatenate([fixed.beta, numbers.parts[2]]), numbers.joint_held
        if not self._random:
            return np.asarray(fixed.beta), np.asarray(fixed.vcov)
        est = result._est
        p, q = est.layout.p, len(est.pls.b)
        rows = np.vstack([np.eye(p)[self._kept], np.zeros((q, p))])
        H = sp.vstack([sp.csr_array((len(self._kept), q)), sp.eye_array(q, format="csr")])
        targets = Targets(rows, sp.csr_array(H), (), (), (), None)
        inner = targets.of_engine(est.deviance)
        at = est.working
        cov = est.pls.scale * inner.covariance(at.deviance, at.pls.theta)
        return np.concatenate([np.asarray(fixed.beta), est.pls.b]), np.asarray(cov)

    def validation(self) -> None:
        """What kind of variable every column is; nothing else of ours needs checks."""
        frame, kinds = self.vault.modeldata, {}
        for name in frame.columns:
            column = frame[name]
            if column.dtype.is_integer():
                kinds[name] = "integer"
            elif column.dtype.is_numeric():
                kinds[name] = "numeric"
            else:
                kinds[name] = "boolean" if column.dtype == pl.Boolean else "character"
            if kinds[name] in ("integer", "numeric") and set(column.unique()) <= {0, 1}:
                kinds[name] = "binary"
        self.vault.variables_type = kinds
        self.coef, self.response_name = self.get_coef(), self.find_response()
        self.modeldata, self.formula = frame, self.get_formula()

    def get_vcov(self, vcov: Any = True) -> Any:
        """The covariance of the coefficients; a matrix of one's own is taken as given."""
        if isinstance(vcov, bool):
            return self._covariance if vcov else None
        raise ArgumentError(f"vcov must be True, False or a matrix, got {vcov!r}")

    def get_exog(self, newdata: Any) -> FloatArray:
        """Rows of the design, with those of the random effects where these count."""
        frame = newdata.to_pandas() if hasattr(newdata, "to_pandas") else pd.DataFrame(newdata)
        built = self.model.built
        on = prediction.switches(self.model._est.terms, self._random)
        arrays = {"groups": None, "exog_re": None, "exog_vc": None, "offset": None,
                  "z_terms": None}  # fmt: skip
        new = new_design(built, frame, True, on, arrays, False)
        X = new.X[:, self._kept]
        shift = np.zeros(len(X)) if new.offset is None else new.offset
        parts = [X]
        if self._random:
            parts.append(assemble_z(tuple(new.terms), len(X)).toarray())
        if self._general:
            parts += self.model._new_further(new, len(X))[1]
        return np.column_stack([*parts, shift])

    def get_predict(self, params: Any, newdata: Any) -> Any:
        """Predictions at some coefficients."""
        rows = newdata if isinstance(newdata, np.ndarray) else self.get_exog(newdata)
        estimate = self._means(rows[:, :-1], np.asarray(params), rows[:, -1])
        table = pl.DataFrame({"rowid": np.arange(len(rows)), "estimate": estimate})
        return table.with_columns(pl.col("rowid").cast(pl.Int32))

    def _means(self, rows: FloatArray, params: FloatArray, offset: FloatArray) -> FloatArray:
        """Expected responses, (m,)."""
        if not self._general:
            return np.asarray(rows @ params + offset)
        r = len(self._kept)
        further = tuple(
            rows[:, r:][:, part.columns] @ params[r:][part.columns]
            for part in self.model.model.further
        )
        return moments.mean(self.model.family, rows[:, :r] @ params[:r] + offset, further)

    def get_df(self) -> float:
        """Normal intervals, unless the user passes degrees of freedom."""
        return float("inf")


def with_ddf(table: MarginaleffectsResult, result: Any, ddf: str) -> MarginaleffectsResult:
    """Tests and intervals of a table with degrees of freedom, by its Jacobian.

    Every row is ``J (beta, b)`` to first order, which is a prediction like any other.
    """
    frame, J = table.data, table.jacobian
    if J is None or "std_error" not in frame.columns:
        raise DataError("this table has no standard errors, so that nothing can be tested")
    if any(name.startswith("p_value_") for name in frame.columns):
        raise ArgumentError("table: leave equivalence= out; its p-values are those of normal tests")
    fixed, J = result._fixed_effects("z"), np.asarray(J)
    rows = np.zeros((len(J), result._est.layout.p))
    rows[:, fixed.kept] = J[:, : len(fixed.kept)]
    inner = J[:, len(fixed.kept) :]
    if inner.shape[1] not in (0, len(result._est.pls.b)):
        raise DataError("table is of another fit: its coefficients are not those of result")
    if inner.shape[1] and ddf == "kenward-roger":
        raise ArgumentError(
            "ddf='kenward-roger' is a method for fixed effects; use 'satterthwaite' where random "
            "effects count"
        )
    H = sp.csr_array(inner) if inner.shape[1] else None
    se, df = (x[0] for x in result._spread(Targets(rows, H, (), (), (), None), ddf))
    estimate, old = frame["estimate"].to_numpy(), frame["std_error"].to_numpy()
    null = estimate - frame["statistic"].to_numpy() * old
    wald = Wald(estimate, se, df)
    ends = wald.interval(1.0 - table.conf_level).T
    statistic = (estimate - null) / se
    p = two_sided(statistic, df)
    with np.errstate(divide="ignore"):
        new = {
            "std_error": se, "statistic": statistic, "p_value": p, "s_value": -np.log2(p),
            "conf_low": ends[0], "conf_high": ends[1], "df": df,
        }  # fmt: skip
    return MarginaleffectsResult(
        frame.with_columns(**{name: pl.Series(value) for name, value in new.items()}),
        by=table.by, conf_level=table.conf_level, jacobian=table.jacobian,
        mapping={"statistic": "t", "p_value": "P(>|t|)", "df": "Df"},
    )  # fmt: skip


def for_marginaleffects(result: Any, random: bool = False) -> FittedModel:
    """As :func:`sparselmm.adapters.for_marginaleffects`."""
    return FittedModel(result, random)
