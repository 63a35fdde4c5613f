"""Compiling the loops of large models ahead, by fits of small made-up ones that need them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base import compiling
from sparselmm.model.mixedglm import MixedGLM
from sparselmm.model.mixedlm import MixedLM

ROWS, LEVELS, LONE = 6_000, 1_200, 21_000
"""Rows, and levels of factors: so many that NumPy alone would not be used."""

LINEAR = (
    "y ~ x + (1 | a) + (1 | b)", "y ~ x + (x | a) + (1 | b)", "y ~ x + (x | a) + (x | b)",
    "y ~ x + (1 | a / c)", "y ~ x + (x | a) + (1 | a:c)", "y ~ x + (1 | a) + (1 | b) + (1 | d)",
)  # fmt: skip
GENERAL = {"binomial": "s", "poisson": "k", "nbinom2": "k", "gamma": "p"}


def warm() -> str:
    """Compile, and return the folder that keeps the machine code."""
    data = _data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for formula in LINEAR:
            MixedLM.from_formula(formula, data, eval_env=-1).fit(maxiter=2)
        MixedLM.from_formula("y ~ x + (x | a) + (1 | b)", data, weights="w", eval_env=-1).fit(
            maxiter=2
        )
        many = _data(LONE * 2).assign(a=np.arange(LONE * 2) % LONE)
        for effects in ("1", "x"):
            MixedLM.from_formula(f"y ~ x + ({effects} | a)", many, eval_env=-1).fit(maxiter=2)
        for family, name in GENERAL.items():
            formula = f"{name} ~ x + (1 | a) + (x | d)"
            MixedGLM.from_formula(formula, data, family=family, eval_env=-1).fit(maxiter=2)
    return _folder()


def _data(rows: int = ROWS) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    eta = rng.normal(size=rows)
    columns: dict[str, Any] = {
        "y": eta, "x": rng.normal(size=rows), "w": rng.uniform(1.0, 2.0, rows),
        "a": rng.integers(0, LEVELS, rows), "b": rng.integers(0, LEVELS // 2, rows),
        "c": rng.integers(0, 3, rows), "d": rng.integers(0, 30, rows),
        "s": (eta > 0).astype(int), "k": rng.poisson(np.exp(0.3 * eta)),
        "p": np.exp(0.3 * eta),
    }  # fmt: skip
    return pd.DataFrame(columns)


def _folder() -> str:
    """Where numba keeps what it compiled."""
    for function in compiling.compiled_functions().values():
        path = getattr(getattr(function, "stats", None), "cache_path", None)
        if path:
            return str(path)
    return "memory alone: no folder can be written (see NUMBA_CACHE_DIR)"
