"""Checks of single arguments, each with a message that names the argument."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import numpy as np

from sparselmm.base.exceptions import DataError


def shown(value: Any) -> str:
    """A label as a user would write it, NumPy's scalars as Python's."""
    plain = isinstance(value, np.generic) and not isinstance(value, (np.datetime64, np.timedelta64))
    return repr(value.item() if plain else value)


def suggestion(name: str, known: Iterable[object]) -> str:
    """``"; did you mean 'Days'?"`` or nothing."""
    names = [str(other) for other in known]
    lower = {other.lower(): other for other in names}
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    if not close and name.lower() in lower:
        close = [lower[name.lower()]]
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def check_alpha(alpha: float) -> None:
    """Refuse a level of intervals that is none, 95 for example."""
    if not 0.0 < alpha < 1.0:
        raise DataError(f"alpha must be between 0 and 1, got {alpha!r}; 0.05 makes 95 % intervals")


def count(value: Any, name: str) -> int:
    """A positive integer argument."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise DataError(f"{name} must be a positive integer, not {value!r}")
    return int(value)


def jobs(value: Any) -> int:
    """Number of workers as joblib counts them."""
    if not isinstance(value, (int, np.integer)) or value == 0:
        raise DataError(f"n_jobs must be an integer other than 0, not {value!r}")
    return int(value)
