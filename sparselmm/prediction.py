"""Predictions for new rows: the fixed part, the random part, and levels the fit has not seen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from sparselmm._typing import BoolArray, FloatArray, IntArray
from sparselmm.arguments import check_choice, check_number, check_strings, check_text, wrong_type
from sparselmm.effects import random_part, unseen_rows
from sparselmm.estimates import Estimates
from sparselmm.exceptions import ArgumentTypeError, DataError, RankDeficiencyWarning
from sparselmm.formula import BuiltDesign, NewDesign
from sparselmm.formula.coded import GROUPS, CodedSpec, TermSpec, new_matrix, one_row
from sparselmm.formula.expressions import names_in, plain_column
from sparselmm.formula.known import KnownSpec
from sparselmm.formula.spec import as_frame, is_table, row_vector
from sparselmm.formula.validate import aligned, check_length, shown, warn_user
from sparselmm.terms import RandomTerm

if TYPE_CHECKING:
    from pandas import Index

UNSEEN = ("error", "population", "nan")
"""What to do with rows whose level of a grouping factor the fit has not seen."""

SHOWN_LABELS = 5

Labels = Callable[[RandomTerm, IntArray], list[str]]
"""Names the levels of some rows of new data, for an error message."""

Switches = tuple[BoolArray, ...]
"""For every random-effects term, which of its coefficients take part, each (k,)."""


# ------------------------------------------------------------------------------ switches


def switches(terms: Sequence[RandomTerm], re: Any) -> Switches:
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


def _names_of(term: RandomTerm) -> tuple[str, ...]:
    return term.name, ":".join(term.levels.names)


def _chosen(term: RandomTerm, columns: Any) -> Any:
    if isinstance(columns, (bool, np.bool_)):
        return bool(columns)
    columns = check_strings(columns, "re", "a mapping of names to coefficients")
    return np.isin(np.array(term.columns, dtype=object), list(columns))


def _check_columns(name: str, columns: Any, terms: Sequence[RandomTerm]) -> None:
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
) -> tuple[FloatArray, Index | None]:
    """Predicted means of new rows and their index; arguments as of ``MixedLMResults.predict``."""
    exog = new_rows(built, exog, transform)
    new = new_design(built, exog, transform, on, arrays)
    warn_if_dropped(est.dropped)
    out = fixed_part(new.X, est.beta, new.offset)
    if any_on(on):
        labels = level_labels(built, exog, arrays.get("groups"))
        out = out + new_random_part(est.terms, new, est.pls.b, on, unseen, labels)
    return out, new.row_labels


def table(exog: Any) -> Any:
    """New data with named columns as a data frame, anything else as it is."""
    return as_frame(exog) if is_table(exog) else exog


def new_rows(built: BuiltDesign, exog: Any, transform: bool) -> Any:
    """New data, a single row given as a Series made a table of one row.

    The index of such a Series names the variables, and every value keeps its own type. A Series
    called like a variable of the model, whose index names none, is a column.

    Raises
    ------
    DataError
        When a Series is neither.
    """
    exog = table(exog)
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


def any_on(on: Switches) -> bool:
    """Whether any random effect takes part."""
    return any(bool(part.any()) for part in on)


def fitted(est: Estimates, random: Any) -> FloatArray:
    """Fitted values of the training rows, (n,); ``random`` as `switches` takes it."""
    design, on = est.design, switches(est.terms, random)
    out = fixed_part(design.X, est.beta, design.offset)
    if not any_on(on):
        return out
    terms = [masked(term, part) for term, part in zip(design.terms, on, strict=True)]
    return out + random_part(terms, est.pls.b, design.n)


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
        When random effects are wanted of numbers alone, under a formula.
    """
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
        offset = np.asarray(aligned(offset, index, "offset", "the new data"), dtype=float)
        check_length(np.size(offset), len(X), "offset", "the new data")
    return NewDesign(X, (), offset, index)


def _nowhere(memory: TermSpec, m: int) -> RandomTerm:
    """A term none of whose levels occurs in the rows."""
    template = memory.template
    if isinstance(memory, CodedSpec):
        return replace(template, codes=np.full(m, -1), values=np.zeros((m, template.k)))
    return replace(template, block=sp.csr_array((m, template.q)))


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
    if spec.design_info is None:
        return exog, given
    used = {name for code in needed if code for name in names_in(code)}
    used |= {name for factor in spec.design_info.factor_infos for name in names_in(factor.code)}
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


def fixed_part(X: FloatArray, beta: FloatArray, offset: FloatArray | None) -> FloatArray:
    """``X beta + offset``, coefficients of dropped columns counted as zero, (m,)."""
    out = X @ np.nan_to_num(beta)
    return out if offset is None else out + offset


def prior_weights(weights: Any, m: int, index: Index | None) -> FloatArray:
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
    fitted: Sequence[RandomTerm], new: NewDesign, b: FloatArray, on: Switches, unseen: str,
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
    out = random_part(terms, b, len(new.X))
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


def check_unseen(unseen: str) -> None:
    """Refuse an unknown policy."""
    check_choice(unseen, "unseen", UNSEEN)


def check_arguments(random: bool, unseen: str, arrays: Mapping[str, Any]) -> None:
    """Refuse an unknown policy, and arrays that would be passed over."""
    check_unseen(unseen)
    useless = [name for name, value in arrays.items() if value is not None]
    if useless and not random:
        raise ArgumentTypeError(
            f"predict() uses {', '.join(useless)} for random effects only; pass re=True as well"
        )


def refuse_useless(arrays: Mapping[str, Any], rows: str = "exog") -> None:
    """Refuse arrays for new rows where none are given."""
    for name, value in arrays.items():
        if value is not None:
            raise ArgumentTypeError(f"{name} is for new rows, and none are given; pass {rows}=")


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
