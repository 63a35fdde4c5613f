"""Data sets: small classics of the field, one large crossed set, one simulated nested set.

The tables and their metadata live in the ``data`` folder of the project, one gzipped CSV
file per set and ``schema.json`` for descriptions, sources, licences, column types and the
order of factor levels. :func:`load` returns a data frame, :func:`describe` what is known
about it, :func:`names` the list of sets.
"""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sparselmm.base.arguments import shown
from sparselmm.base.exceptions import DataError
from sparselmm.base.grid import Grid

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # Python >= 3.11

__all__ = ["Dataset", "data_dir", "describe", "load", "names"]

MARKER = "pupils.csv.gz"  # a file no other project's "data" folder has
UNKNOWN_NAME = "there is no data set {name}. {hint}"
NO_DATA = (
    "The data files of sparselmm were not found: neither in a checkout ({checkout}) nor in "
    "the installed package. Reinstall sparselmm, or run from a complete checkout."
)


@dataclass(frozen=True)
class Dataset:
    """What is known about one data set.

    Attributes
    ----------
    name : str
        Name that :func:`load` understands.
    description : str
        What was measured, on what, how often.
    source : str
        Original publication.
    licence : str
        Licence string of the package the set was taken from.
    package : str
        That package and its version, for example ``"lme4 1.1-31"``.
    n : int
        Number of rows.
    columns : mapping of str to str
        Meaning of each column with its unit in parentheses, in column order.
    """

    name: str
    description: str
    source: str
    licence: str
    package: str
    n: int
    columns: Mapping[str, str]

    def __str__(self) -> str:
        """Return several lines of text, at most 79 characters wide."""
        width = max(map(len, self.columns))
        indent = " " * (width + 4)
        rows = (
            textwrap.fill(f"  {name:<{width}}  {meaning}", 79, subsequent_indent=indent)
            for name, meaning in self.columns.items()
        )
        return "\n".join(
            [
                f"{self.name}: {self.n:,} rows, {len(self.columns)} columns",
                "",
                textwrap.fill(self.description, 79),
                "",
                *rows,
                "",
                textwrap.fill(f"Source: {self.source}", 79, subsequent_indent="  "),
                f"Taken from {self.package}, licence {self.licence}",
            ]
        )

    def _repr_html_(self) -> str:
        """Return what notebooks show: the columns as a table."""
        rows = [list(pair) for pair in self.columns.items()]
        caption = f"{self.name}: {self.n:,} rows, {len(self.columns)} columns. {self.description}"
        notes = (f"Source: {self.source}", f"Taken from {self.package}, licence {self.licence}")
        return Grid([rows], "ll").html("sparselmm-table", caption=caption, notes=notes)

    def __repr__(self) -> str:
        """Return the text of ``str()``, so that the interactive prompt shows the description."""
        return str(self)


def names() -> list[str]:
    """List the names of all data sets.

    Returns
    -------
    list of str
        The main sets first, then the others.

    Examples
    --------
    >>> from sparselmm import datasets
    >>> datasets.names()[:3]
    ['dietox', 'sleepstudy', 'Penicillin']
    """
    return list(_schema())


def describe(name: str) -> Dataset:
    """Describe a data set: contents, source, licence, columns.

    Parameters
    ----------
    name : str
        Name of the set; upper and lower case do not matter.

    Returns
    -------
    Dataset
        Prints as a short readable text.

    Raises
    ------
    DataError
        If there is no set of that name.

    Examples
    --------
    >>> from sparselmm import datasets
    >>> datasets.describe("sleepstudy").columns["Reaction"]
    'average reaction time of the day (ms)'
    """
    name = _resolve(name)
    entry = _schema()[name]
    return Dataset(
        name=name,
        description=entry["description"],
        source=entry["source"],
        licence=entry["licence"],
        package=f"{entry['package']} {entry['version']}".strip(),
        n=entry["nrow"],
        columns={column["name"]: column["meaning"] for column in entry["columns"]},
    )


def load(name: str) -> pd.DataFrame:
    """Load a data set.

    Parameters
    ----------
    name : str
        Name of the set, see :func:`names`; upper and lower case do not matter.

    Returns
    -------
    pandas.DataFrame
        Factors are categorical, with the levels in the order in which they enter contrasts
        (the first is the reference level); ordered factors are ordered categoricals.

    Raises
    ------
    DataError
        If there is no set of that name.

    Examples
    --------
    >>> from sparselmm import datasets
    >>> data = datasets.load("sleepstudy")
    >>> data.shape
    (180, 3)
    >>> list(data["Subject"].cat.categories[:2])
    ['308', '309']
    """
    name = _resolve(name)
    # Read as text: "None" and "NA" are levels in some sets, only an empty field is missing.
    with data_dir().joinpath(f"{name}.csv.gz").open("rb") as stream:
        data = pd.read_csv(
            stream, compression="gzip", dtype=str, keep_default_na=False, na_values=[""]
        )
    for column in _schema()[name]["columns"]:
        data[column["name"]] = _typed(data[column["name"]], column)
    return data


@cache
def data_dir() -> Traversable:
    """Find the folder of the data files.

    Returns
    -------
    importlib.resources.abc.Traversable
        The ``data`` folder of the checkout the package runs from, if there is one,
        otherwise the folder installed with the package.

    Raises
    ------
    DataError
        If neither exists.

    Examples
    --------
    >>> from sparselmm import datasets
    >>> datasets.data_dir().joinpath("schema.json").is_file()
    True
    """
    checkout = Path(__file__).resolve().parents[2] / "data"
    if (checkout / MARKER).is_file():
        return checkout
    installed = files(__name__).joinpath("data")
    if installed.joinpath(MARKER).is_file():
        return installed
    raise DataError(NO_DATA.format(checkout=checkout))


@cache
def _schema() -> dict[str, dict[str, Any]]:
    text = data_dir().joinpath("schema.json").read_text(encoding="utf-8")
    schema: dict[str, dict[str, Any]] = json.loads(text)
    return schema


def _resolve(name: str) -> str:
    """Name as spelled in the schema."""
    known = {key.casefold(): key for key in _schema()}
    if isinstance(name, str) and name.casefold() in known:
        return known[name.casefold()]
    near = difflib.get_close_matches(str(name).casefold(), known, n=3, cutoff=0.5)
    listed = ", ".join(known[key] for key in near or known)
    hint = f"Did you mean {listed}?" if near else f"Available: {listed}."
    raise DataError(f"name: {UNKNOWN_NAME.format(name=shown(name), hint=hint)}")


def _typed(text: pd.Series, column: dict[str, Any]) -> pd.Series | pd.Categorical:
    """Column of text as numbers or categories; whole numbers with gaps become floats."""
    if column["type"] in ("factor", "ordered"):
        levels = column.get("levels") or _sorted_levels(text.dropna().unique(), column)
        return pd.Categorical(text, levels, ordered=column["type"] == "ordered")
    whole = column["type"] == "integer" and not text.hasnans
    return text.astype("int64" if whole else "float64")


def _sorted_levels(levels: Iterable[str], column: dict[str, Any]) -> list[str]:
    """Levels in numeric order or in the order of their code points."""
    return sorted(levels, key=float if column["level_order"] == "numeric" else None)
