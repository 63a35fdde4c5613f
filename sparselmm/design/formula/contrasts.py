"""Codings of factors by name: R's and patsy's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from patsy import contrasts as codings

from sparselmm.base.arguments import check_choice, check_mapping, suggestion
from sparselmm.base.exceptions import ArgumentError, FormulaError
from sparselmm.design.formula.expressions import uses_of

SAS = codings.Treatment(reference=-1)
"""R's ``contr.SAS``: the last level is the reference."""


class Based(codings.Treatment):  # type: ignore[misc]
    """R's ``contr.treatment(n, base=1)``: the reference by its place, or by its name.

    The number of levels, which R wants, is known.
    """

    def __init__(self, n: Any = None, base: Any = 1) -> None:
        super().__init__()
        self.base = base

    def _at(self, levels: Sequence[Any]) -> codings.Treatment:
        base = self.base
        if isinstance(base, (int, np.integer)) and not isinstance(base, bool):
            if not 1 <= base <= len(levels):
                raise FormulaError(
                    f"contr.treatment(base={base}): the levels are {len(levels)}, and base says "
                    "which of them, counted from one"
                )
            base = levels[int(base) - 1]
        elif base not in levels:
            raise FormulaError(
                f"base={base!r} is no level; there are {', '.join(map(repr, levels[:8]))}"
            )
        return codings.Treatment(base)

    def code_with_intercept(self, levels: Sequence[Any]) -> Any:
        """The coding with a column for every level."""
        return self._at(levels).code_with_intercept(levels)

    def code_without_intercept(self, levels: Sequence[Any]) -> Any:
        """The coding without the reference."""
        return self._at(levels).code_without_intercept(levels)


def _sized(kind: Any) -> Any:
    """A coding whose argument is R's number of levels, which is known."""

    class Sized(kind):  # type: ignore[misc]
        def __init__(self, n: Any = None) -> None:
            super().__init__()

    return Sized


CODINGS: dict[str, Any] = {
    "treatment": codings.Treatment, "sum": codings.Sum, "helmert": codings.Helmert,
    "poly": codings.Poly, "diff": codings.Diff, "sdif": codings.Diff, "SAS": SAS,
}  # fmt: skip
"""Codings by R's and patsy's names; ``deviation`` and the like are given as objects of patsy."""

R_CODINGS = SimpleNamespace(
    **CODINGS
    | {"treatment": Based}
    | {name: _sized(CODINGS[name]) for name in ("sum", "helmert", "poly", "diff", "sdif")}
)
"""What ``contr.sum`` and its like in a formula look up."""


def coding(given: Any, argument: str) -> Any:
    """The coding a name stands for, ``"sum"`` or ``"contr.sum"``; anything else as patsy takes it.

    Raises
    ------
    ArgumentError
        When there is no coding of that name, or a matrix has no columns of numbers.
    """
    if isinstance(given, str):
        name = given[6:] if given.lower().startswith(("contr.", "contr_")) else given
        return CODINGS[check_choice(name, argument, tuple(CODINGS))]
    if callable(given) or hasattr(given, "code_with_intercept") or hasattr(given, "matrix"):
        return given
    table = np.asarray(given)
    if table.ndim != 2 or table.dtype.kind not in "fiu":
        raise ArgumentError(
            f"{argument} must be one of {', '.join(map(repr, CODINGS))}, a coding of patsy such as "
            f"Treatment('b'), or a matrix with one row per level; got {given!r:.60}"
        )
    return table.astype(float)


def with_contrasts(columns: Mapping[str, Any], codes: Iterable[str], given: Any) -> dict[str, Any]:
    """The columns of a formula, some factors marked with the coding patsy shall use.

    Parameters
    ----------
    columns : mapping
        Name to Series, factors as Categoricals.
    codes : iterable of str
        Expressions of the formula, without plain grouping factors.
    given : mapping or None
        Name of a factor to its coding.

    Raises
    ------
    ArgumentError
        When a name is no factor of the formula, or a matrix does not have a row for each level.
    """
    if given is None:
        return dict(columns)
    out, uses = dict(columns), uses_of(codes)
    factors = [name for name in uses if _is_factor(columns.get(name))]
    for name, how in check_mapping(given, "contrasts", "{'f': 'sum'}").items():
        if name not in factors or not uses[name] <= {"", "C", "factor"}:
            why = "stands inside an expression or has a coding there; write it by itself"
            if name not in factors:
                why = f"is used as numbers; write C({name}) in the formula"
            if name not in uses:
                why = "is no factor of the formula"
            hint = suggestion(str(name), factors) or f"; there are {', '.join(factors) or 'none'}"
            raise FormulaError(f"contrasts: {name!r} {why}{'' if name in factors else hint}")
        marked = columns[name].copy(deep=False)
        code, levels = coding(how, f"contrasts[{name!r}]"), len(marked.cat.categories)
        rows = np.shape(getattr(code, "matrix", code))[:1]
        if rows and rows != (levels,):
            raise ArgumentError(
                f"contrasts[{name!r}] has {rows[0]} rows; {name!r} has {levels} levels"
            )
        object.__setattr__(marked, "contrast", code)
        out[name] = marked
    return out


def _is_factor(column: Any) -> bool:
    return isinstance(getattr(column, "dtype", None), pd.CategoricalDtype)
