"""Fits as models of the pymmeans package."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from pymmeans.utils import ModelInfo, detect_value_column

from sparselmm.base.arguments import check_choice
from sparselmm.base.exceptions import ArgumentError, DataError, RemovedRowsError
from sparselmm.base.types import FloatArray
from sparselmm.inference.hypotheses.multiplicity import ADJUSTMENTS, JOINT, Family


def for_pymmeans(result: Any) -> ModelInfo:
    """As :func:`sparselmm.adapters.for_pymmeans`."""
    built = result.built
    if built.spec.design_info is None:
        raise DataError("pymmeans needs a model that was fitted by a formula")
    if built.frame is None:
        raise RemovedRowsError.of("for_pymmeans", built.streamed is None)
    general = hasattr(result, "family")
    fixed = result._fixed_effects() if general else result._fixed_effects("z")
    if len(fixed.beta) < built.layout.p or general:
        raise DataError("pymmeans takes linear models of full rank here; use results.emmeans()")
    names = [n for n in built.spec.fixed_variables() if n in built.frame.columns]
    levels = {n: built.spec.factor_levels(n) for n in names}
    return ModelInfo(
        beta=np.asarray(fixed.beta), vcov=np.asarray(fixed.vcov),
        param_names=list(built.spec.x_names),
        factors={n: list(map(str, v)) for n, v in levels.items() if v is not None},
        numeric_means={n: float(built.frame[n].mean()) for n, v in levels.items() if v is None},
        df_resid=float("inf"), design_info=built.spec.design_info, data=built.frame,
        response_name=str(built.layout.y_name), scale=float(result.scale), is_mixed=True,
        raw_result=result,
    )  # fmt: skip


def with_ddf(table: Any, result: Any, ddf: str) -> Any:
    """Means, trends or contrasts with degrees of freedom, by their combinations of beta."""
    kind = detect_value_column(table.frame)
    if table.type != "link" or kind is None or kind[0] == "ratio":
        raise ArgumentError("table must be on the scale of the model; regrid afterwards")
    L, frame = np.asarray(table.linfct), table.frame.copy()
    found = result._fixed_effects(ddf)
    if L.shape[1] != len(found.beta):
        raise DataError("table is of another fit: its coefficients are not those of result")
    offset = frame[kind[1]].to_numpy(dtype=float) - L @ found.beta
    own = found.estimates(L, offset)
    frame["SE"], frame["df"] = own.se, own.df
    if "lower_cl" in frame:
        frame["lower_cl"], frame["upper_cl"] = own.interval(1.0 - table.level).T
    if "t_ratio" in frame:
        frame["t_ratio"] = own.estimate / own.se
        frame["p_value"] = _adjusted(table, found.cov(L), frame["t_ratio"].to_numpy(), own.df)
    info = replace(table.model_info, raw_result=None)  # pairs() then says that it cannot, and why
    return replace(table, frame=frame, df_method=ddf.replace("-", "_"), model_info=info)


def _adjusted(table: Any, V: FloatArray, t: FloatArray, df: FloatArray) -> FloatArray:
    """p-values, adjusted within every family as the table's were."""
    adjust = check_choice(table.adjust, "adjust", ("none", *JOINT, *ADJUSTMENTS))
    families = (table._adjust_meta or {}).get("families") or [{"start": 0, "stop": len(t)}]
    sd, p = np.sqrt(np.diag(V)), np.full(len(t), np.nan)
    for family in families:
        rows = slice(family["start"], family["stop"])
        rank = int(np.linalg.matrix_rank(table.linfct[rows]))
        corr = (V / np.outer(sd, sd))[rows, rows]
        own = Family(family.get("n_means", len(corr)), corr, max(rank, 1), len(corr))
        p[rows] = own.pvalues(t[rows], df[rows], adjust, 1.0 - table.level)
    return p
