"""Files of rows: Parquet, Arrow and delimited text, one or many, read by Arrow."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sparselmm.base.exceptions import DataError, FileError
from sparselmm.design.sources.arrow import Dictionaries, frame_of
from sparselmm.design.sources.optional import package
from sparselmm.design.sources.readers import Columns, Part

FORMATS = {
    ".parquet": "parquet", ".pq": "parquet", ".parq": "parquet", ".arrow": "ipc", ".feather": "ipc",
    ".ipc": "ipc", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
}  # fmt: skip
"""Endings of files, and what is in them."""

HEAD_ROWS = 65_536
"""Rows of text in which labels such as 007 are looked for before it is read in partitions."""

NUMBERS = "numbers"

COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")

LEADING_ZERO = r"^\s*[+-]?0\d"
"""Whole numbers whose text is lost when they are read as numbers: labels such as 007."""

WHOLE = r"^\s*[+-]?\d+\s*$"
LONG = r"^\s*[+-]?\d{16,}\s*$"
"""Whole numbers that no float tells from the next one."""

FEW_ROWS = 1_024
"""Rows in which a column of numbers that are no integers of 64 bits is looked at as text."""


def format_of(path: str) -> str | None:
    """What a file holds, by its ending; None for any other ending."""
    stem = path.lower()
    for ending in COMPRESSED:
        stem = stem.removesuffix(ending)
    return FORMATS.get(os.path.splitext(stem)[1])


def listed(given: Any) -> tuple[list[str], str]:
    """Files that a path, pattern, folder or list of paths stands for, sorted, and their format.

    Raises
    ------
    DataError, FileError
        When there are none, or of several formats, or of none that can be read.
    """
    if isinstance(given, (list, tuple)):
        files = [os.fspath(path) for path in given]
    else:
        files = _matching(os.fspath(given))
    for path in files:
        if not os.path.isfile(path):
            raise FileError.of("data", path, FileNotFoundError(2, "No such file or directory"))
    formats = {format_of(path) for path in files}
    if len(formats) != 1 or None in formats:
        odd = next((path for path in files if format_of(path) is None), files[0])
        seen = "of several formats" if None not in formats else f"such as {odd!r}"
        raise DataError(
            f"data: {given!r} stands for files {seen}; pass files of one format, by their endings "
            f"{', '.join(FORMATS)}, or a pattern such as 'folder/*.parquet'"
        )
    return files, str(formats.pop())


def _matching(path: str) -> list[str]:
    if os.path.isdir(path):
        files = sorted(
            os.path.join(folder, name)
            for folder, _, names in os.walk(path)
            for name in names
            if not (name.startswith((".", "_")) or _hidden(folder, path))
        )
        if not files:
            raise DataError(f"data: the folder {path!r} holds no file")
        return files
    if os.path.isfile(path):
        return [path]
    files = sorted(p for p in glob.glob(path, recursive=True) if os.path.isfile(p))
    if not files:
        missing = FileNotFoundError(2, "there is no such file, folder, or file of that pattern")
        raise FileError.of("data", path, missing)
    return files


def _hidden(folder: str, path: str) -> bool:
    return any(part[:1] in "._" for part in Path(folder).relative_to(path).parts)


def dataset_of(given: Any) -> Dataset:
    """Files as a dataset."""
    files, kind = listed(given)
    what = f"the file {files[0]!r}" if len(files) == 1 else f"the {len(files)} files of {given!r}"
    ds = package("pyarrow.dataset", f"reading {what}")
    pa = package("pyarrow", f"reading {what}")
    try:
        form: Any = kind
        whole: tuple[str, ...] = ()
        if kind in ("csv", "tsv"):
            form, whole = _text_format(ds, files, "," if kind == "csv" else "\t")
        how = {"format": form, "partitioning": _hive(ds, given)}
        data = ds.dataset(files, **how)
        common = _common(data)
        if not common.equals(data.schema):
            data = ds.dataset(files, schema=common, **how)
        return Dataset(data, what, whole, listed=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"data: {what} cannot be read: {_first_line(error)}") from error


def _hive(ds: Any, given: Any) -> Any:
    """Columns from the names of folders, as in ``year=2020/``."""
    folder = isinstance(given, (str, os.PathLike)) and os.path.isdir(given)
    return ds.partitioning(flavor="hive") if folder else None


def _text_format(ds: Any, files: list[str], separator: str) -> tuple[Any, tuple[str, ...]]:
    """How to read text, and its columns of whole numbers, which are read as text at first."""
    csv = package("pyarrow.csv", f"the file {files[0]!r}")
    pa = package("pyarrow", f"the file {files[0]!r}")
    parse = csv.ParseOptions(delimiter=separator)
    options: dict[str, Any] = {"strings_can_be_null": True}
    plain = ds.CsvFileFormat(parse, convert_options=csv.ConvertOptions(**options))
    data = ds.dataset(files, format=plain)
    common = _common(data)
    schemas = [fragment.physical_schema for fragment in data.get_fragments()]
    found = {f.name for schema in schemas for f in schema if pa.types.is_integer(f.type)}
    floats = [f.name for f in common if pa.types.is_floating(f.type) and f.name not in found]
    options["column_types"] = dict.fromkeys(floats, pa.string())
    as_text = ds.CsvFileFormat(parse, convert_options=csv.ConvertOptions(**options))
    found |= _all_whole(ds.dataset(files, format=as_text).head(FEW_ROWS, columns=floats))
    whole = [f.name for f in common if f.name in found and _kind(f.type) == NUMBERS]
    options["column_types"] = dict.fromkeys(whole, pa.string())
    return ds.CsvFileFormat(parse, convert_options=csv.ConvertOptions(**options)), tuple(whole)


def _all_whole(text: Any) -> set[str]:
    """Columns of text in which there are whole numbers alone."""
    compute = package("pyarrow.compute", "text")
    return {
        name
        for name in text.schema.names
        if compute.all(compute.match_substring_regex(text[name], WHOLE)).as_py()
    }


def _common(data: Any) -> Any:
    """The schema of all files: types of numbers, or of times, that hold the values of each."""
    pa = package("pyarrow", "the files")
    schema = data.schema
    for fragment in data.get_fragments():
        own = fragment.physical_schema
        if own.equals(schema):
            continue
        for j, known in enumerate(schema):
            for other in own:
                if other.name == known.name and other.type != known.type:
                    schema = schema.set(j, known.with_type(_wider(pa, known.type, other.type)))
    return schema


def _wider(pa: Any, one: Any, other: Any) -> Any:
    """A type with the values of two; the first one where they mean something else."""
    schemas = [pa.schema([("", kind)]) for kind in (one, other)]
    try:
        wider = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return one
    if wider == pa.float32() and not {one, other} <= {pa.float32(), pa.float16()}:
        return pa.float64()
    return wider


def numbered(table: Any, whole: Sequence[str], kept: Collection[str], what: str) -> Any:
    """A table of text with its whole numbers as numbers.

    Parameters
    ----------
    whole : sequence of str
        Columns that began with whole numbers, read as text.
    kept : collection of str
        Those of them that stay text: labels such as 007.
    what : str
        For messages.

    Raises
    ------
    DataError
        When a column holds something else here than where it began.
    """
    compute = package("pyarrow.compute", what)
    for name in whole:
        if name not in table.schema.names or name in kept:
            continue
        text = compute.utf8_trim_whitespace(table.column(name))
        if _is_label(text):
            raise DataError(
                f"column {name!r} of {what} has numbers with leading zeros, such as 007, or of "
                "more digits than numbers have, and had none where it began; make it text, in "
                "Parquet for example"
            )
        numbers = _numbers(text)
        if numbers is None:
            raise DataError(
                f"column {name!r} of {what} holds text, and whole numbers where it began; make it "
                "one type, in Parquet for example"
            )
        table = table.set_column(table.schema.get_field_index(name), name, numbers)
    return table


def check_alike(fragment: Any, schema: Any, columns: Columns, name: str) -> None:
    """Refuse a file without a column that the first one has, or with another kind of values.

    Arrow would put missing values in its place, and read the text 007 as the number 7.

    Raises
    ------
    DataError
        Names the file and the column.
    """
    ds, pa = package("pyarrow.dataset", name), package("pyarrow", name)
    own = fragment.physical_schema
    inferred = isinstance(fragment.format, ds.CsvFileFormat)
    given = ds.get_partition_keys(fragment.partition_expression)
    for column in schema.names if columns is None else columns:
        if column in given:
            continue
        if inferred and column in own.names and pa.types.is_binary(own.field(column).type):
            raise DataError(
                f"column {column!r} of {name} is not text in UTF-8; save the file in that encoding"
            )
        if column not in own.names:
            raise DataError(
                f"{name} has no column {column!r}, which the first file has; it has "
                f"{', '.join(own.names)}"
            )
        kinds = [_kind(one.field(column).type) for one in (schema, own)]
        if inferred or kinds[0] == kinds[1] or "null" in kinds:
            continue
        raise DataError(
            f"column {column!r} of {name} holds {kinds[1]} ({own.field(column).type}), and in the "
            f"first file {kinds[0]} ({schema.field(column).type}); make it one type"
        )


def _kind(kind: Any) -> str:
    """What a type means in a model."""
    types = package("pyarrow", "the files").types
    if types.is_dictionary(kind):
        return _kind(kind.value_type)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return NUMBERS
    if types.is_timestamp(kind):
        return "times" if kind.tz is None else f"times in {kind.tz}"
    if types.is_date(kind) or types.is_duration(kind):
        return "dates" if types.is_date(kind) else "durations"
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    return "text" if any(is_text(kind) for is_text in texts) else str(kind)


def with_labels(table: Any, whole: Sequence[str]) -> set[str]:
    """Columns with whole numbers whose text is lost when they are read as numbers."""
    return {name for name in whole if name in table.schema.names and _is_label(table[name])}


def _is_label(text: Any) -> bool:
    compute = package("pyarrow.compute", "text")
    if compute.any(compute.match_substring_regex(text, LEADING_ZERO)).as_py():
        return True
    if not compute.any(compute.match_substring_regex(text, LONG)).as_py():
        return False
    numbers = _numbers(compute.utf8_trim_whitespace(text))
    return numbers is not None and bool(package("pyarrow", "text").types.is_floating(numbers.type))


def _numbers(text: Any) -> Any:
    """Text as numbers; None where some of it is none."""
    pa = package("pyarrow", "text")
    for kind in (pa.int64(), pa.uint64(), pa.float64()):
        try:
            return text.cast(kind)
        except pa.ArrowInvalid:
            continue
    return None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@dataclass(frozen=True, eq=False)
class Fragment:
    """Some row groups of a file, or all of it."""

    piece: Any
    schema: Any
    label: str
    whole: tuple[str, ...] = ()
    kept: frozenset[str] = frozenset()
    listed: bool = False
    known: Dictionaries = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        """Without the dictionaries: another process meets them itself."""
        return Fragment, (
            self.piece, self.schema, self.label, self.whole, self.kept, self.listed,
        )  # fmt: skip

    def stamp(self) -> tuple[Any, ...] | None:
        """What changes when its file is written; None where columns cannot be read apart."""
        if type(self.piece).__name__ != "ParquetFileFragment" or not self.piece.path:
            return None
        info = self.piece.filesystem.get_file_info(self.piece.path)
        return info.type.name, info.size, info.mtime_ns

    def frames(self, columns: Columns, rows: int) -> Iterator[pd.DataFrame]:
        """Its rows in order, in frames of at most that many."""
        pa = package("pyarrow", self.label)
        names = None if columns is None else list(columns)
        known = dict(self.known)  # files read at the same time may have others
        try:
            if self.listed:
                check_alike(self.piece, self.schema, columns, self.label)
            batches = self.piece.to_batches(
                self.schema, columns=names, batch_size=rows, batch_readahead=2, use_threads=False
            )
            for batch in batches:
                if batch.num_rows:
                    yield frame_of(numbered(batch, self.whole, self.kept, self.label), known)
                    self.known.update(known)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.label} cannot be read: {_first_line(error)}") from error


@dataclass(frozen=True, eq=False)
class Dataset:
    """A ``pyarrow.dataset.Dataset``: files of any number."""

    data: Any
    what: str
    whole: tuple[str, ...] = ()
    in_memory: bool = False
    movable: bool = True
    listed: bool = False
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", list(self.data.schema.names))

    def frame(self, columns: Columns) -> pd.DataFrame:
        """All rows."""
        pa = package("pyarrow", self.what)
        names = None if columns is None else list(columns)
        try:
            for fragment in self.data.get_fragments() if self.listed else ():
                check_alike(fragment, self.data.schema, columns, f"the file {fragment.path!r}")
            table = self.data.to_table(columns=names)
            kept = with_labels(table, self.whole)
            return frame_of(numbered(table, self.whole, kept, self.what))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.what} cannot be read: {_first_line(error)}") from error

    def parts(self, rows: int, columns: Columns) -> Sequence[Part]:
        """Row groups of Parquet, together up to ``rows`` rows of one file; else files."""
        found: list[Fragment] = []
        known: Dictionaries = {}
        kept: set[str] = set()
        if self.whole:
            head = self.data.head(HEAD_ROWS, columns=list(self.whole))
            kept = with_labels(head, self.whole)
        for fragment in self.data.get_fragments():
            path = getattr(fragment, "path", None)
            name = f"fragment {len(found)} of {self.what}" if not path else f"the file {path!r}"
            if type(fragment).__name__ == "ParquetFileFragment":
                found += _row_groups(fragment, self.data.schema, name, rows, self.listed)
            else:
                schema, listed = self.data.schema, self.listed
                found.append(Fragment(fragment, schema, name, self.whole, frozenset(kept), listed))
        return [replace(part, known=known) for part in found]


def _row_groups(fragment: Any, schema: Any, name: str, rows: int, listed: bool) -> list[Fragment]:
    pa = package("pyarrow", name)
    try:
        sizes = [(group.id, group.num_rows) for group in fragment.row_groups]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name} cannot be read: {_first_line(error)}") from error
    runs: list[list[int]] = []
    count = 0
    for number, size in sizes:
        if not runs or count + size > rows:
            runs, count = [*runs, []], 0
        runs[-1].append(number)
        count += size
    if len(runs) < 2:
        return [Fragment(fragment, schema, name, listed=listed)]
    return [
        Fragment(
            fragment.subset(row_group_ids=run), schema,
            f"row groups {run[0]} to {run[-1]} of {name}", listed=listed,
        )
        for run in runs
    ]  # fmt: skip
