"""Predictions for new rows: the fixed part, the random part, and levels the fit has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparselmm._typing import BoolArray, FloatArray, IntArray
from sparselmm.effects import random_part, unseen_rows
from sparselmm.estimates import Estimates
from sparselmm.exceptions import DataError, RankDeficiencyWarning
from sparselmm.formula import BuiltDesign, NewDesign
from sparselmm.formula.coded import new_matrix
from sparselmm.formula.expressions import plain_column
from sparselmm.formula.validate import warn_user
from sparselmm.terms import RandomTerm

if TYPE_CHECKING:
    from pandas import Index

UNSEEN = ("error", "population", "nan")
"""What to do with rows whose level of a grouping factor the fit has not seen."""

SHOWN_LABELS = 5

Labels = Callable[[RandomTerm, IntArray], list[str]]
"""Names the levels of some rows of new data, for an error message."""


def predict(
    est: Estimates,
    built: BuiltDesign,
    exog: Any,
    transform: bool,
    random: bool,
    unseen: str,
    arrays: Mapping[str, Any],
) -> tuple[FloatArray, Index | None]:
    """Predicted means of new rows and their index; arguments as of ``MixedLMResults.predict``."""
    new = new_design(built, exog, transform, random, arrays)
    warn_if_dropped(est.dropped)
    out = fixed_part(new.X, est.beta, new.offset)
    if random:
        labels = level_labels(built, exog, arrays.get("groups"))
        out = out + new_random_part(est.terms, new, est.pls.b, unseen, labels)
    return out, new.row_labels


def fitted(est: Estimates, random: bool) -> FloatArray:
    """Fitted values of the training rows, (n,), with or without random effects."""
    design = est.design
    out = fixed_part(design.X, est.beta, design.offset)
    return out + random_part(design.terms, est.pls.b, design.n) if random else out


def new_design(
    built: BuiltDesign, exog: Any, transform: bool, random: bool, arrays: Mapping[str, Any]
) -> NewDesign:
    """New data as a design.

    Parameters
    ----------
    built : BuiltDesign
        The training design and its recipe.
    exog : DataFrame, mapping or ndarray, (m, p)
        New data; numbers alone are taken as the columns of X.
    transform : bool
        Whether a data frame holds the formula's variables rather than the columns of X.
    random : bool
        Whether the random-effects design is wanted.
    arrays : mapping
        ``groups, exog_re, exog_vc, offset, z_terms`` where the model needs them anew.

    Raises
    ------
    DataError
        When random effects are wanted of numbers alone, under a formula.
    """
    spec = built.spec
    given = {name: value for name, value in arrays.items() if value is not None}
    tabular = hasattr(exog, "columns") or isinstance(exog, Mapping)
    if spec.formula is None or (transform and tabular):
        return spec.evaluate(exog, random=random, **given)
    if random:
        raise DataError(
            "re=True needs a data frame with the variables of the formula; the columns of X alone "
            "do not say which levels the rows belong to"
        )
    X, index = new_matrix(exog, spec.x_names)
    return NewDesign(X, (), given.get("offset"), index)


def fixed_part(X: FloatArray, beta: FloatArray, offset: FloatArray | None) -> FloatArray:
    """``X beta + offset``, coefficients of dropped columns counted as zero, (m,)."""
    out = X @ np.nan_to_num(beta)
    return out if offset is None else out + offset


def warn_if_dropped(dropped: Sequence[str]) -> None:
    """Warn that a prediction rests on a rank-deficient fit."""
    if dropped:
        warn_user(
            f"prediction from a rank-deficient fit: the coefficient(s) of {', '.join(dropped)} "
            "could not be estimated and count as zero, which is only right for new rows with the "
            "same dependence between columns as the data of the fit",
            RankDeficiencyWarning,
        )


def new_random_part(
    fitted: Sequence[RandomTerm], new: NewDesign, b: FloatArray, unseen: str, labels: Labels
) -> FloatArray:
    """``Z b`` of new rows under a policy for unseen levels, (m,).

    Parameters
    ----------
    fitted : sequence of RandomTerm
        Terms of the fit.
    new : NewDesign
        The new rows.
    b : ndarray, (q,)
        Conditional modes.
    unseen : {"error", "population", "nan"}
    labels : callable
        ``labels(term, rows)`` names the levels of some rows, for the error message.

    Raises
    ------
    DataError
        When there are unseen levels and the policy is "error".
    """
    n = len(new.X)
    out = random_part(new.terms, b, n)
    if unseen == "population":
        return out
    for old, term in zip(fitted, new.terms, strict=True):
        rows = unseen_rows(old, term)
        if unseen == "error" and rows.any():
            raise DataError(_unseen_message(term, rows, labels(term, np.flatnonzero(rows))))
        out[rows] = np.nan
    return out


def _unseen_message(term: RandomTerm, rows: BoolArray, labels: Sequence[Any]) -> str:
    distinct = list(dict.fromkeys(map(str, labels)))
    shown = ", ".join(distinct[:SHOWN_LABELS])
    more = f" and {len(distinct) - SHOWN_LABELS} more" if len(distinct) > SHOWN_LABELS else ""
    return (
        f"{int(rows.sum())} row(s) belong to levels of {term.name!r} that the fit has not seen: "
        f"{shown}{more}. Pass unseen='population' to predict them without this random effect, "
        "or unseen='nan' to leave them missing"
    )


def check_arguments(random: bool, unseen: str, arrays: Mapping[str, Any]) -> None:
    """Refuse an unknown policy, and arrays that would be passed over."""
    if unseen not in UNSEEN:
        raise DataError(f"unseen must be one of {UNSEEN}, got {unseen!r}")
    useless = [name for name, value in arrays.items() if value is not None]
    if useless and not random:
        raise TypeError(
            f"predict() uses {', '.join(useless)} for random effects only; pass re=True as well"
        )


def level_labels(built: BuiltDesign, exog: Any, groups: Any) -> Labels:
    """How to name the levels of new rows: by their labels where these are columns, else by row."""

    def labels(term: RandomTerm, rows: IntArray) -> list[str]:
        columns = [_label_column(built, exog, groups, name) for name in term.levels.names]
        if any(column is None for column in columns):
            return [f"row {row}" for row in rows]
        parts = [np.asarray(column, dtype=object)[rows] for column in columns]
        return [":".join(map(str, label)) for label in zip(*parts, strict=True)]

    return labels


def _label_column(built: BuiltDesign, exog: Any, groups: Any, name: str) -> Any:
    memory = built.spec.groups
    if memory is not None and name == memory.name:
        if groups is not None:
            return groups
        name = memory.column or name
    if not isinstance(exog, Mapping) and not hasattr(exog, "columns"):
        return None
    plain = plain_column(name) if built.spec.formula is not None else None
    column = name if plain is None else plain[0]
    return exog.get(column, None)
