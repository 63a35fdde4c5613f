"""Packages that read tables, imported when they are used and named by the error when missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sparselmm.base.exceptions import MissingPackageError


def package(name: str, what: str) -> Any:
    """A module that is not always installed.

    Parameters
    ----------
    name : str
        Of the module, ``"pyarrow.dataset"``.
    what : str
        What needs it, for the message.

    Raises
    ------
    MissingPackageError
        When it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        root = name.partition(".")[0]
        raise MissingPackageError(
            f"{what} needs {root}, which is not installed: pip install {root}"
        ) from error


def origins(value: Any) -> set[str]:
    """Packages that the class of an object, or a class it is made from, comes from."""
    return {kind.__module__.partition(".")[0] for kind in type(value).__mro__}
