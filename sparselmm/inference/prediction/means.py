"""Predictions for new rows: the fixed part, the random part, and levels the fit has not seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from sparselmm.base.arguments import (
    check_choice,
    check_number,
    check_strings,
    check_text,
    shown,
    wrong_type,
)
from sparselmm.base.exceptions import ArgumentTypeError, DataError, RankDeficiencyWarning, warn_user
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.design import BuiltDesign, NewDesign
from sparselmm.design.kinds.coded import one_row
from sparselmm.design.new_rows import Labels, Switches, any_on, level_labels, new_design
from sparselmm.design.rows import times_z, unseen_rows
from sparselmm.design.spec import as_frame, is_table, row_vector
from sparselmm.design.terms import RandomTerm, TermLayout
from sparselmm.design.validate import aligned
from sparselmm.inference.estimates import Estimates

UNSEEN = ("error", "population", "nan")
"""What to do with rows whose level of a grouping factor the fit has not seen."""

SHOWN_LABELS = 5


# ------------------------------------------------------------------------------ switches


def switches(terms: Sequence[TermLayout], re: Any) -> Switches:
    """Which random effects the argument ``re`` of ``predict`` asks for.

    Parameters
    ----------
    terms : sequence of RandomTerm
        Terms of the fit.
    re : bool, str, collection of str, or mapping of str to collection of str
        All or none; names of terms or of grouping factors, which stand for all their terms; or
        the coefficients wanted of each.

    Raises
    ------
    DataError
        When a name is unknown.
    """
    if isinstance(re, (bool, np.bool_)):
        return tuple(np.full(term.k, bool(re)) for term in terms)
    if isinstance(re, str):
        re = [re]
    if (
        isinstance(re, bytes)
        or len(getattr(re, "shape", (0,))) != 1
        or not isinstance(re, Collection)
    ):
        raise wrong_type(
            "re",
            "True, False, names of random-effects terms, or a mapping of names to coefficients",
            re,
        )
    for name in re:
        check_text(name, "re, or a name in it,")
    out = tuple(np.zeros(term.k, dtype=bool) for term in terms)
    for name in re:
        owners = [t for t, term in enumerate(terms) if name in _names_of(term)]
        if not owners:
            known = dict.fromkeys(name for term in terms for name in _names_of(term))
            raise DataError(f"re: no random-effects term {name!r}; there are {', '.join(known)}")
        columns = re[name] if isinstance(re, Mapping) else True
        for t in owners:
            out[t][:] |= _chosen(terms[t], columns)
        if columns is not True:
            _check_columns(name, columns, [terms[t] for t in owners])
    return out


def _names_of(term: TermLayout) -> tuple[str, ...]:
    return term.name, ":".join(term.levels.names)


def _chosen(term: TermLayout, columns: Any) -> Any:
    if isinstance(columns, (bool, np.bool_)):
        return bool(columns)
    columns = check_strings(columns, "re", "a mapping of names to coefficients")
    return np.isin(np.array(term.columns, dtype=object), list(columns))


def _check_columns(name: str, columns: Any, terms: Sequence[TermLayout]) -> None:
    if isinstance(columns, (bool, np.bool_)):
        return
    known = dict.fromkeys(column for term in terms for column in term.columns)
    unknown = [c for c in ([columns] if isinstance(columns, str) else columns) if c not in known]
    if unknown:
        raise DataError(
            f"{name!r} has no coefficient {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(map(repr, known))}"
        )


def masked(term: RandomTerm, on: BoolArray) -> RandomTerm:
    """The term on the same rows with some coefficients left out."""
    if on.all():
        return term
    if term.block is not None:
        if not on.any():
            return replace(term, block=sp.csr_array(term.block.shape))
        block = term.block.copy()  # with the zeros: an empty row has no level
        block.data *= on[block.indices % term.k]
        return replace(term, block=block)
    if not on.any():
        assert term.codes is not None
        return replace(term, codes=np.full_like(term.codes, -1))
    assert term.values is not None
    return replace(term, values=np.where(on, term.values, 0.0))


# ---------------------------------------------------------------------------- prediction


def predict(
    est: Estimates,
    built: BuiltDesign,
    exog: Any,
    transform: bool,
    on: Switches,
    unseen: str,
    arrays: Mapping[str, Any],
) -> tuple[FloatArray, Any]:
    """Predicted means of new rows and their index; arguments as of ``MixedLMResults.predict``."""
    exog = new_rows(built, exog, transform)
    new = new_design(built, exog, transform, on, arrays)
    warn_if_dropped(est.dropped)
    out = fixed_part(new.X, est.beta, new.offset)
    if any_on(on):
        labels = level_labels(built, exog, arrays.get("groups"))
        out = out + new_random_part(est.terms, new, est.pls.b, on, unseen, labels)
    return out, new.row_labels


def table(exog: Any, texts: Sequence[str] | None = None) -> Any:
    """New data with named columns as a data frame, anything else as it is.

    Of what is read by columns, such as files, only those that some of the ``texts`` mention.
    """
    return as_frame(exog, texts) if is_table(exog) else exog


def new_rows(built: BuiltDesign, exog: Any, transform: bool) -> Any:
    """New data, a single row given as a Series made a table of one row.

    The index of such a Series names the variables, and every value keeps its own type. A Series
    called like a variable of the model, whose index names none, is a column.

    Raises
    ------
    DataError
        When a Series is neither.
    """
    exog = table(exog, built.spec.texts())
    if hasattr(exog, "columns") or not (hasattr(exog, "to_frame") and hasattr(exog, "index")):
        return exog
    spec = built.spec
    names = spec.variables() if transform and spec.formula is not None else spec.x_names
    if any(name in exog.index for name in names):
        return one_row(exog)
    if exog.name in names or (spec.formula is None and len(names) == 1):
        return exog.to_frame()
    raise DataError(
        "a Series given as new data is one row, its index the names of the variables; this one "
        f"names none of {', '.join(map(repr, names))}. Give several rows as a DataFrame"
    )


def fitted(est: Estimates, random: Any) -> FloatArray:
    """Fitted values of the training rows, (n,); ``random`` as `switches` takes it."""
    design, on = est.design, switches(est.terms, random)
    out = fixed_part(design.X, est.beta, design.offset)
    if not any_on(on):
        return out
    terms = [masked(term, part) for term, part in zip(design.terms, on, strict=True)]
    return out + times_z(terms, est.pls.b, slice(0, design.n))


def fixed_part(X: FloatArray, beta: FloatArray, offset: FloatArray | None) -> FloatArray:
    """``X beta + offset``, coefficients of dropped columns counted as zero, (m,)."""
    out = X @ np.nan_to_num(beta)
    return out if offset is None else out + offset


def prior_weights(weights: Any, m: int, index: Any) -> FloatArray:
    """Prior weights of m new observations, (m,); 1 where none are given.

    Raises
    ------
    DataError
        When they are not one number or m of them, or one is negative.
    """
    weights = aligned(weights, index, "weights", "the new data")
    if weights is None or np.isscalar(weights):
        weights = np.full(m, 1.0 if weights is None else check_number(weights, "weights"))
    w = row_vector(weights, m, "weights", "the new data")
    if not (w >= 0).all() or np.isinf(w).any():
        raise DataError(f"weights must be finite and not negative, got {float(w.min()):g}")
    return w


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
    fitted: Sequence[TermLayout], new: NewDesign, b: FloatArray, on: Switches, unseen: str,
    labels: Labels,
) -> FloatArray:  # fmt: skip
    """``Z b`` of new rows under a policy for unseen levels, (m,).

    Parameters
    ----------
    fitted : sequence of RandomTerm
        Terms of the fit.
    new : NewDesign
        The new rows.
    b : ndarray, (q,)
        Conditional modes.
    on : Switches
        Random effects wanted.
    unseen : {"error", "population", "nan"}
    labels : callable
        ``labels(term, rows)`` names the levels of some rows, for the error message.

    Raises
    ------
    DataError
        When there are unseen levels and the policy is "error".
    """
    terms = [masked(term, part) for term, part in zip(new.terms, on, strict=True)]
    out = times_z(terms, b, slice(0, len(new.X)))
    if unseen == "population":
        return out
    for old, term, part in zip(fitted, new.terms, on, strict=True):
        rows = unseen_rows(old, term) & part.any()
        if unseen == "error" and rows.any():
            raise DataError(_unseen_message(term, rows, labels(term, np.flatnonzero(rows))))
        out[rows] = np.nan
    return out


def _unseen_message(term: RandomTerm, rows: BoolArray, labels: Sequence[Any]) -> str:
    distinct = list(dict.fromkeys(labels))
    known = ":".join(shown(part[0]) for part in term.levels.parts)
    seen = ", ".join(distinct[:SHOWN_LABELS])
    more = f" and {len(distinct) - SHOWN_LABELS} more" if len(distinct) > SHOWN_LABELS else ""
    return (
        f"{int(rows.sum())} row(s) belong to levels of {term.name!r} that the fit has not seen: "
        f"{seen}{more}. Those it has seen look like {known}. Pass unseen='population' to predict "
        "them without this random effect, or unseen='nan' to leave them missing"
    )


def check_unseen(unseen: str) -> str:
    """One of the policies."""
    return str(check_choice(unseen, "unseen", UNSEEN))


def check_arguments(random: bool, unseen: str, arrays: Mapping[str, Any]) -> str:
    """The policy, refusing arrays that would be passed over."""
    unseen = check_unseen(unseen)
    useless = [name for name, value in arrays.items() if value is not None]
    if useless and not random:
        raise ArgumentTypeError(
            f"predict() uses {', '.join(useless)} for random effects only; pass re=True as well"
        )
    return unseen


def refuse_useless(arrays: Mapping[str, Any], rows: str = "exog") -> None:
    """Refuse arrays for new rows where none are given."""
    for name, value in arrays.items():
        if value is not None:
            raise ArgumentTypeError(f"{name} is for new rows, and none are given; pass {rows}=")
