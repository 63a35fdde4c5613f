"""Which terms of the fixed part contain which, and the design with one column per cell."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
from patsy import ContrastMatrix, DesignInfo, SubtermInfo

from sparselmm.base.exceptions import RemovedRowsError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.formula.bars import parse_formula
from sparselmm.design.formula.namespace import right_terms
from sparselmm.design.spec import BuiltDesign


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
    written = right_terms(parse_formula(spec.formula).fixed)
    terms = sorted((term for term in written if term.factors), key=lambda t: len(t.factors))
    spans = info.term_slices
    everything = np.arange(X.shape[1])
    kinds = {factor: memory.type for factor, memory in info.factor_infos.items()}

    def contains(big: int, small: int) -> bool:
        more = set(terms[big].factors) - set(terms[small].factors)
        covers = set(terms[small].factors) < set(terms[big].factors)
        return covers and all(kinds[factor] == "categorical" for factor in more)

    codings = OrderedDict((term, [_every_cell(info, term)]) for term in written)
    pieces = [_references(info, term) for term in written]
    places = [terms.index(term) if term.factors else -1 for term in written]
    full = DesignInfo(
        [f"cell{j}" for j in range(sum(map(len, pieces)))], info.factor_infos, codings
    )
    return TermStructure(
        names=tuple(term.name() for term in terms),
        columns=tuple(everything[spans[term]] for term in terms),
        containing=tuple(
            tuple(b for b in range(len(terms)) if contains(b, t)) for t in range(len(terms))
        ),
        degrees=tuple(len(term.factors) for term in terms),
        cells=replace(spec, design_info=full).evaluate(built.frame, random=False).X,
        cell_terms=np.repeat(places, [len(piece) for piece in pieces]),
        at_reference=np.concatenate(pieces),
    )


def _every_cell(info: DesignInfo, term: object) -> SubtermInfo:
    """Coding of a term with an indicator for every combination of levels."""
    factors = term.factors  # type: ignore[attr-defined]
    contrasts = {
        factor: ContrastMatrix(
            np.eye(len(info.factor_infos[factor].categories)),
            [f"[{label}]" for label in info.factor_infos[factor].categories],
        )
        for factor in factors
        if info.factor_infos[factor].type == "categorical"
    }
    return SubtermInfo(factors, contrasts, int(np.prod(_widths(info, factors), dtype=int)))


def _widths(info: DesignInfo, factors: tuple[object, ...]) -> list[int]:
    memories = [info.factor_infos[factor] for factor in factors]
    return [m.num_columns if m.type == "numerical" else len(m.categories) for m in memories]


def _references(info: DesignInfo, term: object) -> IntArray:
    """For every cell of a term, how many of its factors are at their first level."""
    factors = term.factors  # type: ignore[attr-defined]
    out = np.zeros(1, dtype=int)
    for factor, width in zip(factors, _widths(info, factors), strict=True):
        first = np.arange(width) == 0
        if info.factor_infos[factor].type == "numerical":
            first[:] = False
        out = np.add.outer(first.astype(int), out).ravel()  # the first factor varies fastest
    return out


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
