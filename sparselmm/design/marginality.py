"""Which terms of the fixed part contain which, and the design with one column per cell."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from sparselmm.base.exceptions import RemovedRowsError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.built import BuiltDesign
from sparselmm.design.formula.cells import written_terms
from sparselmm.design.spec import DesignSpec

SPANNED = 1e-10
"""Singular value of a few rows, of one that is largest, that is rounding."""

LOST = 1e-6
"""Length of what a few rows do not span, of one that is whole, that is none."""


@dataclass(frozen=True, eq=False)
class TermStructure:
    """Terms of the fixed part, the intercept aside, in the order of the formula by degree.

    Attributes
    ----------
    names : tuple of str, (n_terms,)
    columns : tuple of ndarray of int
        Columns of X of each term.
    containing : tuple of tuple of int
        Terms that contain it: all its variables and others that are factors.
    degrees : tuple of int
        Number of variables.
    X, cells : ndarray, (n, p) and (n, P)
        Rows of positive weight, or fewer with the same products; and the design with a column for
        every combination of levels of every term.
    cell_terms : ndarray of int, (P,)
        Term of each of those columns; -1 for the intercept.
    at_reference : ndarray of int, (P,)
        How many of the column's factors stand at their first level.
    """

    names: tuple[str, ...]
    columns: tuple[IntArray, ...]
    containing: tuple[tuple[int, ...], ...]
    degrees: tuple[int, ...]
    X: FloatArray
    cells: FloatArray
    cell_terms: IntArray
    at_reference: IntArray


def term_structure(built: BuiltDesign) -> TermStructure:
    """Terms of the fixed part of a built model.

    Every column is a term of its own in a model built from arrays.

    Raises
    ------
    DataError
        When the rows are gone, or too little is left of those that were not kept.
    """
    spec = built.spec
    X = built.layout.row_space("anova")
    weights = built.design.weights if built.has_rows else None
    if weights is not None:  # rows of weight zero are no part of the design
        X = X[weights > 0]
    info, frame = spec.design_info, built.frame
    if info is None or spec.formula is None or (frame is None and built.streamed is None):
        return _column_terms(spec.x_names, X)
    fixed = written_terms(info, spec.formula)
    every_cell = replace(spec, design_info=fixed.every_cell)
    if built.streamed is not None:
        cells = _cells_of_root(spec, every_cell, built.streamed.shown, X)
    else:
        assert frame is not None
        offset = np.zeros(len(frame)) if spec.offset_array else None  # no part of the columns
        cells = every_cell.evaluate(frame, random=False, offset=offset).X
        cells = cells if weights is None else cells[weights > 0]
    return TermStructure(
        names=fixed.names,
        columns=fixed.columns,
        containing=fixed.containing,
        degrees=fixed.degrees,
        X=X,
        cells=cells,
        cell_terms=fixed.cell_terms,
        at_reference=fixed.at_reference,
    )


def _cells_of_root(
    spec: DesignSpec, every_cell: DesignSpec, shown: pd.DataFrame, root: FloatArray
) -> FloatArray:
    """The design by cells of rows of which a root of X'X is left.

    X spans what the design by cells spans, so that this is X times a matrix, whatever the rows;
    it is learned from a few.
    """
    few = spec.evaluate(shown, random=False).X
    size = np.linalg.norm(few, axis=0)
    size = np.where(size > 0, size, 1.0)
    _, values, rows = np.linalg.svd(few / size, full_matrices=False)
    rows = rows[values > SPANNED * values.max(initial=0.0)]
    scaled = root / size
    if np.linalg.norm(scaled - scaled @ rows.T @ rows) > LOST * np.linalg.norm(scaled):
        raise RemovedRowsError.of("anova, of columns that few rows have,", kept=False)
    cells = every_cell.evaluate(shown, random=False).X
    of_rows = np.linalg.lstsq((few / size) @ rows.T, cells, rcond=None)[0]
    out = scaled @ rows.T @ of_rows
    lengths = np.linalg.norm(out, axis=0)
    return np.where(lengths > LOST * lengths.max(initial=0.0), out, 0.0)


def _column_terms(names: tuple[str, ...], X: FloatArray) -> TermStructure:
    constant = np.ptp(X, axis=0) == 0.0
    p = X.shape[1]
    terms = np.flatnonzero(~constant) if constant.sum() == 1 else np.arange(p)
    places = np.full(p, -1)
    places[terms] = np.arange(len(terms))
    return TermStructure(
        names=tuple(names[j] for j in terms),
        columns=tuple(np.array([j]) for j in terms),
        containing=((),) * len(terms),
        degrees=(1,) * len(terms),
        X=X,
        cells=X,
        cell_terms=places,
        at_reference=np.zeros(p, dtype=int),
    )
