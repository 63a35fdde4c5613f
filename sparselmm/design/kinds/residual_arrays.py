"""``residual=`` and ``dispersion=`` of models built from arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_flag
from sparselmm.base.exceptions import DataError, MissingDataError
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.design.formula.namespace import Namespace, capture_env
from sparselmm.design.formula.residual_bar import (
    HETEROGENEOUS,
    parse_residual,
    unknown_structure,
)
from sparselmm.design.kinds.residual import ResidualSpec, assembled, residual_rows
from sparselmm.design.residual import KINDS, ResidualRows
from sparselmm.design.validate import Rows, aligned, check_length


def residual_from_arrays(
    residual: Any, dispersion: tuple[FloatArray, tuple[str, ...] | None] | None, n: int,
    kept: BoolArray | None, order: pd.Index | None, rows: Rows,
) -> tuple[ResidualRows | None, ResidualSpec | None]:  # fmt: skip
    """The structure of a model built from arrays.

    Parameters
    ----------
    residual : mapping or None
        ``structure`` (``"ar1"``, or with options ``"ar1h"``), ``groups`` (n,), ``times`` (n,) or
        (n, 2), and where wanted ``by`` (n,), ``hom``, ``nugget``.
    dispersion : tuple or None
        Covariates (n, a) and their names.
    n : int
        Rows of the arrays.
    kept : ndarray of bool, (n,), or None
        Those in use.
    order : Index or None
        The order that labelled arrays are put into.
    rows : Rows
        Those in use, for messages.
    """
    if residual is None and dispersion is None:
        return None, None
    frame: dict[str, Any] = {}
    bar = None
    if residual is not None:
        text, frame = _as_formula(residual, n, order)
        bar = parse_residual(text)
    table = pd.DataFrame(frame, index=range(n))
    table = table if kept is None else table[kept]
    space = Namespace(table, capture_env(-1), rows, dict(table.items()))
    out, spec = residual_rows(bar, None, space)
    if dispersion is None:
        return out, spec
    D, names = dispersion
    D = D if kept is None else D[kept]
    if not np.isfinite(D).all():
        raise MissingDataError("dispersion has missing or infinite values; fill them in")
    names = tuple(f"d{j}" for j in range(1, D.shape[1] + 1)) if names is None else names
    out = assembled(
        bar, out.group, out.labels, out.coords, out.visits, spec.visits, out.stratum, spec.strata,
        D, [f"log_sd({name})" for name in names], rows,
    )  # fmt: skip
    return out, spec


def _as_formula(residual: Any, n: int, order: pd.Index | None) -> tuple[str, dict[str, Any]]:
    known = ("structure", "groups", "times", "by", "hom", "nugget")
    if not isinstance(residual, Mapping) or "structure" not in residual:
        raise DataError(
            "residual of a model built from arrays must be a mapping with 'structure', 'groups' "
            f"and 'times', not {residual!r:.100}"
        )
    unknown = [key for key in residual if key not in known]
    if unknown:
        raise DataError(f"residual has the unknown entry {unknown[0]!r}; use {', '.join(known)}")
    if residual.get("groups") is None:
        raise DataError("residual needs 'groups', one label per row")
    structure = residual["structure"]
    if not isinstance(structure, str) or structure.lower() not in (*KINDS, *HETEROGENEOUS):
        raise unknown_structure(str(structure), "residual['structure']")
    given = {
        name: _by_row(residual[name], order, name)
        for name in ("groups", "times", "by")
        if residual.get(name) is not None
    }
    frame: dict[str, Any] = {"groups": given["groups"]}
    times = given.get("times")
    coords = "1"
    if times is not None:
        wide = np.asarray(times)
        columns = [times] if wide.ndim == 1 else list(wide.T)
        frame |= {f"time{j}": column for j, column in enumerate(columns, 1)}
        coords = " + ".join(f"time{j}" for j in range(1, len(columns) + 1))
    options = [
        f"{key}={check_flag(residual[key], f'residual[{key!r}]')}"
        for key in ("hom", "nugget")
        if key in residual
    ]
    if "by" in given:
        frame["by"] = given["by"]
        options.append("by=by")
    for name, values in frame.items():
        check_length(len(values), n, f"residual[{name!r}]", "endog")
        frame[name] = values.array if isinstance(values, pd.Series) else values
    return f"{structure}({', '.join([f'{coords} | groups', *options])})", frame


def _by_row(values: Any, order: pd.Index | None, name: str) -> Any:
    """An entry with one value per row, of times also several."""
    most = 2 if name == "times" else 1
    if isinstance(values, str) or not 1 <= np.ndim(values) <= most:
        what = repr(values) if isinstance(values, str) else f"of shape {np.shape(values)}"
        raise DataError(f"residual[{name!r}] must have one value per row, it is {what}")
    return aligned(values, order, f"residual[{name!r}]")
