"""Which terms of the fixed part contain which, and the design with one column per cell."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sparselmm.base.exceptions import RemovedRowsError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.built import BuiltDesign
from sparselmm.design.formula.cells import written_terms


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
    cells : ndarray, (n, P)
        Design with a column for every combination of levels of every term.
    cell_terms : ndarray of int, (P,)
        Term of each of those columns; -1 for the intercept.
    at_reference : ndarray of int, (P,)
        How many of the column's factors stand at their first level.
    """

    names: tuple[str, ...]
    columns: tuple[IntArray, ...]
    containing: tuple[tuple[int, ...], ...]
    degrees: tuple[int, ...]
    cells: FloatArray
    cell_terms: IntArray
    at_reference: IntArray


def term_structure(built: BuiltDesign) -> TermStructure:
    """Terms of the fixed part of a built model.

    Every column is a term of its own in a model built from arrays.

    Raises
    ------
    DataError
        When the rows are gone.
    """
    spec, X = built.spec, built.design.X
    if not len(X):
        raise RemovedRowsError.of("anova")
    info = spec.design_info
    if info is None or spec.formula is None or built.frame is None:
        return _column_terms(spec.x_names, X)
    fixed = written_terms(info, spec.formula)
    return TermStructure(
        names=fixed.names,
        columns=fixed.columns,
        containing=fixed.containing,
        degrees=fixed.degrees,
        cells=replace(spec, design_info=fixed.every_cell).evaluate(built.frame, random=False).X,
        cell_terms=fixed.cell_terms,
        at_reference=fixed.at_reference,
    )


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
        cells=X,
        cell_terms=places,
        at_reference=np.zeros(p, dtype=int),
    )
