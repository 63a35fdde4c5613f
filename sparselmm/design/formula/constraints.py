"""Linear hypotheses in words: ``"Time = 0"``, ``"a = b, c = 2"``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from patsy import DesignInfo, PatsyError

from sparselmm.base.exceptions import FormulaError
from sparselmm.base.types import FloatArray


def linear_constraints(text: Any, names: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Coefficients (m, p) and constants (m,) of hypotheses about named parameters.

    Parameters
    ----------
    text : str, list of str or dict
        What patsy's ``DesignInfo.linear_constraint`` understands.
    names : sequence of str, (p,)

    Raises
    ------
    FormulaError
        When the text cannot be understood.

    Examples
    --------
    >>> linear_constraints("a = b", ["a", "b"])[0].tolist()
    [[1.0, -1.0]]
    """
    try:
        found = DesignInfo(list(names)).linear_constraint(text)
    except (PatsyError, ValueError, KeyError, TypeError, IndexError) as error:
        raise FormulaError(
            f"r_matrix: the hypothesis {text!r} cannot be understood; parameters are: "
            f"{', '.join(names)}"
        ) from error
    if not (np.isfinite(found.coefs).all() and np.isfinite(found.constants).all()):
        raise FormulaError(f"r_matrix: a number in the hypothesis {text!r} is not finite")
    return np.asarray(found.coefs, float), np.asarray(found.constants, float).ravel()
