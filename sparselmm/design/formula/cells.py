"""The terms of a formula's fixed part, which contains which, and their coding by cells."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from patsy import ContrastMatrix, DesignInfo, SubtermInfo

from sparselmm.base.types import IntArray
from sparselmm.design.formula.bars import parse_formula
from sparselmm.design.formula.terms import right_terms


@dataclass(frozen=True, eq=False)
class WrittenTerms:
    """Terms of the fixed part as in :class:`sparselmm.design.marginality.TermStructure`.

    ``every_cell`` is the memory of the same formula with a column for every combination of levels.
    """

    names: tuple[str, ...]
    columns: tuple[IntArray, ...]
    containing: tuple[tuple[int, ...], ...]
    degrees: tuple[int, ...]
    every_cell: DesignInfo
    cell_terms: IntArray
    at_reference: IntArray


def written_terms(info: DesignInfo, formula: str) -> WrittenTerms:
    """Terms of the fixed part of a formula that ``info`` remembers."""
    written = right_terms(parse_formula(formula).fixed)
    terms = sorted((term for term in written if term.factors), key=lambda t: len(t.factors))
    spans = info.term_slices
    everything = np.arange(len(info.column_names))
    kinds = {factor: memory.type for factor, memory in info.factor_infos.items()}

    def contains(big: int, small: int) -> bool:
        more = set(terms[big].factors) - set(terms[small].factors)
        covers = set(terms[small].factors) < set(terms[big].factors)
        return covers and all(kinds[factor] == "categorical" for factor in more)

    codings = OrderedDict((term, [_every_cell(info, term)]) for term in written)
    pieces = [_references(info, term) for term in written]
    places = [terms.index(term) if term.factors else -1 for term in written]
    cells = [f"cell{j}" for j in range(sum(map(len, pieces)))]
    return WrittenTerms(
        names=tuple(term.name() for term in terms),
        columns=tuple(everything[spans[term]] for term in terms),
        containing=tuple(
            tuple(b for b in range(len(terms)) if contains(b, t)) for t in range(len(terms))
        ),
        degrees=tuple(len(term.factors) for term in terms),
        every_cell=DesignInfo(cells, info.factor_infos, codings),
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
