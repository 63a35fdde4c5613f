"""Compiling the loops of large models ahead, by fits of small made-up ones that need them."""

from __future__ import annotations

import warnings
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base import compiling
from sparselmm.model.mixedglm import MixedGLM
from sparselmm.model.mixedlm import MixedLM

ROWS, LEVELS, LONE = 20_000, 1_200, 21_000
"""Rows, and levels of factors: so many that NumPy alone would not be used."""

LINEAR = (
    "y ~ x + (1 | a) + (1 | b)", "y ~ x + (x | a) + (1 | b)", "y ~ x + (x | a) + (x | b)",
    "y ~ x + (1 | a / c)", "y ~ x + (x | a) + (1 | a:c)", "y ~ x + (1 | a) + (1 | b) + (1 | d)",
)  # fmt: skip
GENERAL = {
    ("binomial", "logit"): "s", ("binomial", "probit"): "s", ("binomial", "cloglog"): "s",
    ("poisson", "log"): "k", ("nbinom2", "log"): "k", ("gamma", "log"): "p", ("beta", "logit"): "r",
}  # fmt: skip
MANY, FEW_BYTES = (3_000, 2_000), 30_000_000
"""Levels of two crossed factors, and bytes of memory that have no room for their factor."""


def warm() -> str:
    """Compile, and return the folder that keeps the machine code."""
    data = _data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for formula in LINEAR:
            _linear(formula, data).fit(maxiter=2)
        _linear("y ~ x + (x | a) + (1 | b)", data, weights="w").fit(maxiter=2)
        _partitions(data)
        many = _data(LONE * 2).assign(a=np.arange(LONE * 2) % LONE)
        for effects in ("1", "x"):
            _linear(f"y ~ x + ({effects} | a)", many).fit(maxiter=2)
        _krylov(data)
        _several(data)
        for (family, link), name in GENERAL.items():
            formula = f"{name} ~ x + (1 | a) + (x | d)"
            MixedGLM.from_formula(formula, data, family=family, link=link, eval_env=-1).fit(
                maxiter=2
            )
    return _folder()


def _linear(formula: str, data: pd.DataFrame, **arguments: Any) -> MixedLM:
    return MixedLM.from_formula(formula, data, eval_env=-1, **arguments)


def _partitions(data: pd.DataFrame) -> None:
    """Rows that are not kept, of labels as numbers and as categories."""
    labelled = data.assign(a=pd.Categorical(data["a"]))
    for given, effects in ((data, "(x | a) + (x | b)"), (labelled, "(1 | a) + (1 | a:b)")):
        _linear(f"y ~ x + {effects}", given, keep_rows=False)


def _krylov(data: pd.DataFrame) -> None:
    """Conjugate gradients, and a factor on disk."""
    for effects in ("1", "x"):
        fit = _linear(f"y ~ x + ({effects} | a) + (1 | b)", data).fit(engine="krylov", maxiter=2)
        found: Any = fit.deviance.working(fit.theta)
        found[0].second_order(found[0].lifted(found[1]))
    rng = np.random.default_rng(3)
    a, b = (rng.integers(0, levels, len(data)) for levels in MANY)
    with TemporaryDirectory() as scratch:
        _linear("y ~ x + (1 | a) + (1 | b)", data.assign(a=a, b=b)).fit(
            memory_limit=FEW_BYTES, finish="exact", scratch=scratch
        )


def _several(data: pd.DataFrame) -> None:
    """Many responses to one design."""
    responses = np.random.default_rng(2).normal(size=(len(data), 3))
    for formula in ("y ~ x + (1 | c)", "y ~ x + (1 | a) + (1 | d)", "y ~ x + (x | a) + (x | d)",
                    "y ~ x + (1 | a) + (1 | e)"):  # fmt: skip
        _linear(formula, data).fit_many(responses)


def _data(rows: int = ROWS) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    eta = rng.normal(size=rows)
    columns: dict[str, Any] = {
        "y": eta, "x": rng.normal(size=rows), "w": rng.uniform(1.0, 2.0, rows),
        "a": rng.integers(0, LEVELS, rows), "b": rng.integers(0, LEVELS // 2, rows),
        "c": rng.integers(0, 3, rows), "d": rng.integers(0, 30, rows),
        "e": rng.integers(0, 120, rows),
        "s": (eta > 0).astype(int), "k": rng.poisson(np.exp(0.3 * eta)),
        "p": np.exp(0.3 * eta), "r": 1.0 / (1.0 + np.exp(0.3 * eta)),
    }  # fmt: skip
    return pd.DataFrame(columns)


def _folder() -> str:
    """Where numba keeps what it compiled."""
    for function in compiling.compiled_functions().values():
        path = getattr(getattr(function, "stats", None), "cache_path", None)
        if path:
            return str(path)
    return "memory alone: no folder can be written (see NUMBA_CACHE_DIR)"
