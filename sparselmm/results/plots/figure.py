"""Where figures come from."""

from __future__ import annotations

from typing import Any


def pyplot() -> Any:
    """Pyplot of matplotlib.

    Raises
    ------
    ImportError
        When it is not installed; the message says how to get it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib, which is not installed: pip install 'sparselmm[plots]'"
        ) from error
    return plt
