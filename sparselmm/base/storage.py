"""Pickles on disk with a seal, so that a damaged file is told from a good one.

After the pickle come `MARK`, the layout's number and the SHA-256 sum of everything before. The
pickle alone can still be read by ``pickle.load``, and one without a seal is read as it is.
"""

from __future__ import annotations

import hashlib
import pickle
from os import PathLike, fspath
from pathlib import Path
from typing import IO, Any, TypeVar

from sparselmm.base.arguments import wrong_type
from sparselmm.base.exceptions import DataError, FileError

File = str | PathLike[str] | IO[bytes]

T = TypeVar("T")

MARK = b"sparselmm"

LAYOUT = 2
"""Raised whenever what is pickled changes so that older files cannot be read."""

SEAL = len(MARK) + 2 + hashlib.sha256().digest_size


class _Summed:
    """A binary file whose checksum is taken of all that passes through."""

    def __init__(self, file: IO[bytes]):
        self.file, self.sum = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sum.update(data)
        return self.file.write(data)

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.sum.update(data)
        return data

    def readline(self) -> bytes:
        data = self.file.readline()
        self.sum.update(data)
        return data

    def seal(self) -> bytes:
        """What stands after a pickle that is whole."""
        return MARK + LAYOUT.to_bytes(2, "little") + self.sum.digest()


def check_target(file: Any, argument: str) -> None:
    """Refuse what is neither a path nor a file to write to."""
    if not isinstance(file, (str, PathLike)) and not hasattr(file, "write"):
        raise wrong_type(argument, "a path or an open binary file to write to", file)


def check_path(file: Any, argument: str) -> None:
    """Refuse what is no path, or is in no folder, before the work whose results it is for."""
    if not isinstance(file, (str, PathLike)) or not fspath(file):
        raise wrong_type(argument, "a path", file)
    folder = Path(file).parent
    if not folder.is_dir():
        raise DataError(f"{argument}: there is no folder {str(folder)!r}; make it first")


def save(value: Any, file: File, argument: str = "file") -> None:
    """Pickle a value to a path or a binary file, whose argument is named in errors."""
    check_target(file, argument)
    if isinstance(file, (str, PathLike)):
        with _opened(file, "wb", argument) as opened:
            save(value, opened, argument)
        return
    summed = _Summed(file)
    pickle.dump(value, summed)
    file.write(summed.seal())


def _opened(file: str | PathLike[str], mode: str, argument: str) -> IO[bytes]:
    try:
        return open(file, mode)
    except OSError as error:
        raise FileError.of(argument, fspath(file), error) from error
    except ValueError as error:  # a null character in the name
        raise DataError(f"{argument}: {file!r} is no name of a file: {error}") from error


def load(kind: type[T], file: File, argument: str = "file") -> T:
    """Read a pickled value of one kind; errors name the argument that holds the file.

    Raises
    ------
    DataError
        When the file is damaged, incomplete, of another version, or holds something else.
    FileError
        When it cannot be opened.
    """
    if isinstance(file, (str, PathLike)):
        if Path(file).is_dir():
            raise DataError(f"{argument}: {fspath(file)} is a folder, not a file save() wrote")
        with _opened(file, "rb", argument) as opened:
            return _load(kind, opened, fspath(file), alone=True)
    if not hasattr(file, "read"):
        raise wrong_type(argument, "a path or an open binary file to read", file)
    return _load(kind, file, str(getattr(file, "name", "the file")), alone=False)


def _load(kind: type[T], file: IO[bytes], name: str, alone: bool) -> T:
    again = f"make a new one with {kind.__name__}.save(), or take a copy that is whole"
    summed = _Summed(file)
    try:
        value = pickle.load(summed)
    except DataError as error:  # of the value itself
        raise DataError(f"{name}: {error}; {again}") from error
    except Exception as error:  # a damaged pickle raises anything
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise DataError(
            f"{name} cannot be read ({what}). It is empty, damaged, cut "
            f"short, or no file of this version of sparselmm; {again}"
        ) from error
    seal = file.read(SEAL)
    if seal[: len(MARK)] == MARK and len(seal) == SEAL:
        layout = int.from_bytes(seal[len(MARK) : len(MARK) + 2], "little")
        if seal[len(MARK) + 2 :] != summed.sum.digest():
            raise DataError(f"{name} is damaged: its checksum is wrong; {again}")
        if layout != LAYOUT:
            raise DataError(f"{name} was written by another version of sparselmm; {again}")
        if alone and file.read(1):
            raise DataError(f"{name} is damaged: something follows its end; {again}")
    elif seal and alone:
        raise DataError(f"{name} is damaged or cut short at its end; {again}")
    elif seal:  # something else follows in an open file
        file.seek(-len(seal), 1)
    if not isinstance(value, kind):
        raise DataError(f"{name} holds a {type(value).__name__}, not {kind.__name__}; {again}")
    return value
