"""Fits as models of the pymmeans package."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymmeans.utils import ModelInfo

from sparselmm.base.exceptions import DataError, RemovedRowsError


def for_pymmeans(result: Any) -> ModelInfo:
    """As :func:`sparselmm.adapters.for_pymmeans`."""
    built = result.built
    if built.spec.design_info is None:
        raise DataError("pymmeans needs a model that was fitted by a formula")
    if built.frame is None:
        raise RemovedRowsError.of("for_pymmeans", built.streamed is None)
    general = hasattr(result, "family")
    fixed = result._fixed_effects() if general else result._fixed_effects("z")
    if len(fixed.beta) < built.design.p or general:
        raise DataError("pymmeans takes linear models of full rank here; use results.emmeans()")
    names = [n for n in built.spec.fixed_variables() if n in built.frame.columns]
    levels = {n: built.spec.factor_levels(n) for n in names}
    return ModelInfo(
        beta=np.asarray(fixed.beta), vcov=np.asarray(fixed.vcov),
        param_names=list(built.spec.x_names),
        factors={n: list(map(str, v)) for n, v in levels.items() if v is not None},
        numeric_means={n: float(built.frame[n].mean()) for n, v in levels.items() if v is None},
        df_resid=float("inf"), design_info=built.spec.design_info, data=built.frame,
        response_name=str(built.design.y_name), scale=float(result.scale), is_mixed=True,
        raw_result=result,
    )  # fmt: skip
