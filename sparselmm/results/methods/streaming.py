"""Fitted values, residuals and leverage of rows that a fit did not keep, some at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import wrong_type
from sparselmm.base.exceptions import DataError, FileError, RemovedRowsError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.built import Streamed
from sparselmm.design.kinds.residual import check_groups
from sparselmm.design.passes.learned import Recipe
from sparselmm.design.passes.reading import named
from sparselmm.design.sources.arrow import joined
from sparselmm.design.sources.optional import package
from sparselmm.design.sources.readers import Part, of_pandas
from sparselmm.design.sources.recognised import source_of
from sparselmm.design.spec import as_frame
from sparselmm.design.terms import Design
from sparselmm.design.validate import Rows, unknown_column
from sparselmm.inference.diagnostics import residuals as numbers
from sparselmm.inference.diagnostics.leverage import Leverage
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.prediction import means as prediction

Columns = dict[str, FloatArray]
"""Name to values, each (n,)."""


def row_columns(est: Estimates, lev: Leverage | None) -> Columns:
    """The columns of ``augment`` for the rows of ``est.design``; leverage where it is given."""
    design = est.design
    w = np.ones(design.n) if design.weights is None else design.weights
    fitted = prediction.fitted(est, True)
    resid = design.y - fitted
    columns = {".fitted": fitted, ".resid": resid}
    if lev is not None:
        columns |= {".hat": lev.total, ".cooksd": numbers.cooks_distance(est, resid, lev)}
    return columns | {
        ".fixed": prediction.fitted(est, False),
        ".mu": fitted,
        ".offset": np.zeros(design.n) if design.offset is None else design.offset,
        ".sqrtXwt": np.sqrt(w),
        ".sqrtrwt": np.sqrt(w),
        ".weights": w,
        ".wtres": np.sqrt(w) * resid,
    }


def streamed_rows(
    est: Estimates, streamed: Streamed, data: Any, columns: Callable[[Estimates], Columns]
) -> Iterator[pd.DataFrame]:
    """Frames of ``augment`` for rows read in partitions.

    Parameters
    ----------
    est : Estimates
    streamed : Streamed
    data : Any
        A container of the rows.
    columns : callable
        Columns to add, of estimates whose design has the rows.

    Raises
    ------
    DataError
        When the data cannot be read, or rows have levels that the fit has not seen.
    """
    if data is None:
        raise RemovedRowsError.of("augment() without data", kept=False)
    names, parts = _parts(streamed.recipe, data, "augment")
    return _frames(est, streamed.recipe, names, parts, columns)


def _parts(recipe: Recipe, data: Any, what: str) -> tuple[list[str], Sequence[Part]]:
    """All columns of some data, and their partitions."""
    source = source_of(data)
    if source is None:
        source = of_pandas(as_frame(data))
    absent = [name for name in recipe.reading.columns if name not in source.names]
    if absent:
        raise unknown_column(absent[0], source.names, f"the fit, in the data of {what}")
    names = list(source.names)
    return names, source.parts(recipe.reading.rows, names)


def _frames(
    est: Estimates, recipe: Recipe, names: list[str], parts: Iterable[Part],
    columns: Callable[[Estimates], Columns],
) -> Iterator[pd.DataFrame]:  # fmt: skip
    everything = replace(recipe, reading=replace(recipe.reading, columns=names))
    for part in parts:
        for taken in everything.reading.taken(part):
            if not len(taken.frame):
                continue
            with named(part.label):
                design = everything.with_residual(taken)
            yield taken.frame.assign(**columns(replace(est, layout=design)))


def rows_of_groups(streamed: Streamed, data: Any, groups: IntArray, what: str) -> Design:
    """The rows of some groups of ``residual=``, by their numbers, read once more.

    Raises
    ------
    DataError
        When the data cannot be read, or have none of these rows.
    """
    recipe, frames = streamed.recipe, []
    spec = recipe.spec
    for part in _parts(recipe, data, what)[1]:
        for taken in recipe.reading.taken(part):
            if len(taken.frame):
                with named(part.label):
                    own = np.isin(spec.residual_rows(taken.frame).group, groups)
                if own.any():
                    frames.append(taken.frame[own])
    if not frames:
        raise DataError(f"{what}: the data have no row of the groups that are asked for")
    design = recipe.with_residual(recipe.again(joined(frames, "the data")))
    bar = spec.residual.bar
    if design.residual is not None and bar is not None:
        check_groups(design.residual, bar, Rows(design.n))
    return design


def write_parquet(frames: Iterable[pd.DataFrame], to: Any) -> Path:
    """Write frames to one Parquet file, which is there when all are; its path.

    Raises
    ------
    FileError
        When the file cannot be written.
    """
    if not isinstance(to, (str, os.PathLike)) or not Path(to).name:
        raise wrong_type("to", "the path of a Parquet file", to)
    pa = package("pyarrow", "augment(to=)")
    parquet = package("pyarrow.parquet", "augment(to=)")
    path = Path(to)
    unfinished = path.with_name(path.name + ".unfinished")
    writer: Any = None
    try:
        for frame in frames:
            schema = None if writer is None else writer.schema
            table = pa.Table.from_pandas(frame, schema, preserve_index=False)
            if writer is None:
                writer = parquet.ParquetWriter(unfinished, table.schema)
            writer.write_table(table)
        if writer is None:
            raise DataError("augment(to=): no row is in use, there is nothing to write")
        writer.close()
        unfinished.replace(path)
    except OSError as error:
        raise FileError.of("to", str(path), error) from error
    finally:
        if writer is not None:
            writer.close()
        unfinished.unlink(missing_ok=True)
    return path
