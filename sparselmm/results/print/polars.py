"""Tables of results as polars frames."""

from __future__ import annotations

from typing import Any

import pandas as pd

from sparselmm.base.arguments import wrong_type
from sparselmm.base.exceptions import DataError
from sparselmm.base.other_names import KnownArguments
from sparselmm.design.sources.optional import package

TABLES = ("table", "frame", "summary_frame", "to_frame", "summary")
"""Where a result keeps itself as a table, the first that it has."""


class InPolars(KnownArguments):
    """A result that is a table."""

    def to_polars(self) -> Any:
        """The table as a ``polars.DataFrame``; labels of its rows become columns."""
        return to_polars(self)


def to_polars(table: Any) -> Any:
    """A table of results as a ``polars.DataFrame``.

    Parameters
    ----------
    table : DataFrame, Series, or a result that is a table
        What a method returned: ``result.tidy()``, ``result.augment()``, a prediction, a profile,
        a bootstrap, marginal means, a comparison.

    Returns
    -------
    polars.DataFrame
        Labels of the rows, unless they are numbers that count them, become the first columns,
        named like the levels of the index, or ``index``. NaN stays NaN; only a missing label or
        text is null.

    Raises
    ------
    MissingPackageError
        When polars is not installed.
    DataError
        When a column mixes types that polars has no column for.

    Examples
    --------
    >>> import sparselmm
    >>> data = sparselmm.datasets.load("sleepstudy")
    >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
    >>> sparselmm.to_polars(fit.fe_params).columns  # doctest: +SKIP
    ['index', 'value']
    """
    pl = package("polars", "to_polars")
    frame = _frame(table)
    columns = {}
    for position, name in enumerate(map(str, frame.columns)):
        if name in columns:
            raise DataError(f"the table has two columns called {name!r}; rename one")
        columns[name] = _column(pl, frame.iloc[:, position], name)
    return pl.DataFrame(columns)


def _frame(table: Any) -> pd.DataFrame:
    if not isinstance(table, (pd.DataFrame, pd.Series)):
        name = next(
            (
                name
                for name in TABLES
                if hasattr(type(table), name) or name in getattr(table, "__dict__", ())
            ),
            None,
        )
        if name is None:
            raise wrong_type("table", "a table of results", table)
        found = getattr(table, name)
        table = found() if callable(found) else found
    if isinstance(table, pd.Series):
        table = table.to_frame("value" if table.name is None else table.name)
    counted = (
        table.index.nlevels == 1
        and table.index.name is None
        and table.index.equals(pd.RangeIndex(len(table)))
    )
    if counted:
        return table
    names = ["index" if n is None else n for n in table.index.names]
    if len(set(names)) < len(names):
        names = [f"level_{j}" for j in range(len(names))]
    taken = set(table.columns)
    names = [f"{name}_" if name in taken else name for name in names]
    labels = [pd.Series(table.index.get_level_values(j), name=n) for j, n in enumerate(names)]
    return pd.concat([*labels, table.reset_index(drop=True)], axis=1)


def _column(pl: Any, column: pd.Series, name: str) -> Any:
    if column.dtype.kind in "iufbM" and not pd.api.types.is_extension_array_dtype(column.dtype):
        return pl.Series(name, column.to_numpy(copy=True))
    values = [None if pd.api.types.is_scalar(v) and pd.isna(v) else v for v in column.tolist()]
    if {type(v) for v in values} <= {float, type(None)}:
        return pl.Series(name, [float("nan") if v is None else v for v in values], pl.Float64)
    try:
        return pl.Series(name, values, strict=True)
    except TypeError as error:
        raise DataError(
            f"column {name!r} mixes values that polars has no column for ({error}); turn it to "
            "text first, with .astype(str)"
        ) from error
