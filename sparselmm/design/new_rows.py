"""The design of new rows, and which random effects their predictions use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from sparselmm.base.arguments import shown
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import BoolArray, IntArray
from sparselmm.design.built import BuiltDesign
from sparselmm.design.formula.expressions import names_in, plain_column
from sparselmm.design.kinds.coded import GROUPS, CodedSpec, TermSpec, new_matrix
from sparselmm.design.kinds.known import KnownSpec
from sparselmm.design.spec import NewDesign, row_vector
from sparselmm.design.terms import RandomTerm
from sparselmm.design.validate import Rows, aligned, check_not_infinite

Labels = Callable[[RandomTerm, IntArray], list[str]]
"""Names the levels of some rows of new data, for an error message."""


Switches = tuple[BoolArray, ...]
"""For every random-effects term, which of its coefficients take part, each (k,)."""


def any_on(on: Switches) -> bool:
    """Whether any random effect takes part."""
    return any(bool(part.any()) for part in on)


def new_design(
    built: BuiltDesign, exog: Any, transform: bool, on: Switches, arrays: Mapping[str, Any],
    everything: bool = False,
) -> NewDesign:  # fmt: skip
    """New data as a design.

    Parameters
    ----------
    built : BuiltDesign
        The training design and its recipe.
    exog : DataFrame or ndarray, (m, p)
        New data, tables as data frames; numbers alone are taken as the columns of X.
    transform : bool
        Whether a data frame holds the formula's variables rather than the columns of X.
    on : Switches
        Random effects wanted. A term without any is not evaluated and has no level in any row.
    arrays : mapping
        ``groups, exog_re, exog_vc, offset, z_terms`` where the model needs them anew.
    everything : bool
        Evaluate the terms switched off as well, for their covariates. Their grouping factors
        need not be in the data.

    Raises
    ------
    DataError
        When random effects are wanted of numbers alone, under a formula, or a value is infinite.
    """
    new = _evaluated(built, exog, transform, on, arrays, everything)
    check_new(built, new)
    return new


def check_new(built: BuiltDesign, new: NewDesign) -> None:
    """Refuse infinite values in new data, as in those of the fit."""
    rows = Rows(len(new.X), new.row_labels)
    check_not_infinite(new.X, built.spec.x_names, "the fixed-effects column", rows)
    for name, values in new.further.items():
        check_not_infinite(values, [name] * values.shape[1], "a column of", rows)
    if new.offset is not None:
        check_not_infinite(new.offset, ["offset"], "the argument", rows)
    for term in new.terms:
        kind = f"the random-effects term {term.name!r}: column"
        if term.block is not None and np.isinf(term.block.data).any():
            block = term.block.tocoo()
            bad = np.zeros(len(new.X))
            bad[block.row[np.isinf(block.data)]] = np.inf
            check_not_infinite(bad, [term.name], kind, rows)
        elif term.values is not None:
            check_not_infinite(term.values, term.columns, kind, rows)


def _evaluated(
    built: BuiltDesign, exog: Any, transform: bool, on: Switches, arrays: Mapping[str, Any],
    everything: bool,
) -> NewDesign:  # fmt: skip
    """New data as a design, unchecked."""
    spec = built.spec
    given = {name: value for name, value in arrays.items() if value is not None}
    tabular = hasattr(exog, "columns")
    if spec.formula is None or (transform and tabular):
        if everything:
            exog, given = _with_blanks(built, exog, on, given)
            return spec.evaluate(exog, random=True, **given)
        wanted = [bool(part.any()) for part in on]
        chosen = tuple(t for t, used in zip(spec.terms, wanted, strict=True) if used)
        new = replace(spec, terms=chosen).evaluate(exog, random=bool(chosen), **given)
        if not chosen:
            return new
        found = iter(new.terms)
        rest = [
            next(found) if used else _nowhere(t, len(new.X))
            for t, used in zip(spec.terms, wanted, strict=True)
        ]
        return replace(new, terms=tuple(rest))
    if everything or any_on(on):
        raise DataError(
            "re=True needs a data frame with the variables of the formula; the columns of X alone "
            "do not say which levels the rows belong to, nor what an observation needs: without "
            "re, pass interval='confidence' to get_prediction"
        )
    X, index = new_matrix(exog, spec.x_names)
    offset = given.get("offset")
    if offset is not None:
        offset = aligned(offset, index, "offset", "the new data")
        offset = row_vector(offset, len(X), "offset", "the new data")
    return NewDesign(X, (), offset, index)


def _nowhere(memory: TermSpec, m: int) -> RandomTerm:
    """A term none of whose levels occurs in the rows."""
    layout = memory.layout
    if isinstance(memory, CodedSpec):
        return layout.on_rows(np.full(m, -1), np.zeros((m, layout.k)))
    return layout.on_rows(block=sp.csr_array((m, layout.q)))


def _with_blanks(
    built: BuiltDesign, exog: Any, on: Switches, given: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """New data with missing labels for grouping factors that only serve terms switched off."""
    spec = built.spec
    pairs = list(zip(spec.terms, on, strict=True))
    needed = {code for term, part in pairs if part.any() for code in term.codes_used()}
    needed |= {GROUPS for term, part in pairs if part.any() and _of_groups(term)}
    unknown = np.full(_n_rows(exog), None, dtype=object)
    if spec.groups is not None and GROUPS not in needed and "groups" not in given:
        column = spec.groups.column
        if column is None or spec.formula is None or exog.get(column, None) is None:
            given = {**given, "groups": unknown}
    if spec.formula is None:
        return exog, given
    used = {name for code in needed if code for name in names_in(code)}
    used |= set(spec.fixed_variables())
    blank = {}
    for term, _ in pairs:
        for code in term.factors if isinstance(term, CodedSpec | KnownSpec) else ():
            plain = plain_column(code) if code else None
            if plain is not None and plain[0] not in used and exog.get(plain[0], None) is None:
                blank[plain[0]] = unknown
    if not blank:
        return exog, given
    return exog.assign(**blank), given


def _of_groups(term: Any) -> bool:
    return not isinstance(term, CodedSpec | KnownSpec) or GROUPS in term.factors


def _n_rows(exog: Any) -> int:
    return len(exog)


def level_labels(built: BuiltDesign, exog: Any, groups: Any) -> Labels:
    """How to name the levels of new rows: by their labels where these are columns, else by row."""
    if hasattr(exog, "columns"):
        groups = aligned(groups, exog.index, "groups", "the new data")

    def labels(term: RandomTerm, rows: IntArray) -> list[str]:
        columns = [_label_column(built, exog, groups, name) for name in term.levels.names]
        if any(column is None for column in columns):
            return [f"row {row}" for row in rows]
        parts = [np.asarray(column, dtype=object)[rows] for column in columns]
        return [":".join(map(shown, label)) for label in zip(*parts, strict=True)]

    return labels


def _label_column(built: BuiltDesign, exog: Any, groups: Any, name: str) -> Any:
    memory = built.spec.groups
    if memory is not None and name == memory.name:
        if groups is not None:
            return groups
        name = memory.column or name
    if not hasattr(exog, "columns"):
        return None
    if built.spec.formula is None or name in exog:
        return exog.get(name, None)
    plain = plain_column(name)
    return built.spec.labels(exog, name) if plain is None else exog.get(plain[0], None)
