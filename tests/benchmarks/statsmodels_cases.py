"""Benchmark cases against statsmodels: the same call with the same arguments in both packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.cases import Case, one_factor


def pairs(groups: int, seed: int = 11) -> pd.DataFrame:
    """Groups of two rows."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), 2)
    x = rng.normal(size=len(g))
    y = 1 + 0.5 * x + rng.normal(size=groups)[g] + rng.normal(size=len(g))
    return pd.DataFrame({"y": y, "x": x, "g": g})


def crossed_levels(rows: int = 400, levels: int = 100, seed: int = 12) -> pd.DataFrame:
    """Two crossed factors, every level in as many rows, as in statsmodels' notebook."""
    rng = np.random.default_rng(seed)
    a, b = (rng.permutation(np.repeat(np.arange(levels), rows)) for _ in range(2))
    y = 2 * rng.normal(size=levels)[a] + 3 * rng.normal(size=levels)[b]
    y += 4 * rng.normal(size=len(a))
    return pd.DataFrame({"y": y, "group1": a, "group2": b, "one": np.ones(len(a), dtype=int)})


def nested_levels(
    outer: int = 200, middle: int = 20, inner: int = 10, seed: int = 13
) -> pd.DataFrame:
    """Observations in groups in groups, the labels re-used, as in statsmodels' notebook."""
    rng = np.random.default_rng(seed)
    a = np.repeat(np.arange(outer), middle * inner)
    b = np.tile(np.repeat(np.arange(middle), inner), outer)
    y = 2 * rng.normal(size=outer)[a] + 3 * rng.normal(size=outer * middle)[a * middle + b]
    return pd.DataFrame({"y": y + 4 * rng.normal(size=len(a)), "group1": a, "group2": b})


CROSSED = {"groups": "one", "vc_formula": {"g1": "0 + C(group1)", "g2": "0 + C(group2)"}}
NESTED = {"groups": "group1", "re_formula": "1", "vc_formula": {"g2": "0 + C(group2)"}}


def _case(
    name: str, title: str, formula: str, arguments: dict[str, Any],
    data: Callable[[], pd.DataFrame], target: float, repeats: int = 5, peer: str = "statsmodels",
) -> Case:  # fmt: skip
    """A case spelled with statsmodels' arguments."""
    arguments = {"formula": formula, **arguments}
    return Case(name, title, formula, data, (peer,), {peer: target}, repeats, arguments)


CASES = (
    _case("pairs_1k", "1,000 groups of two", "y ~ x", {"groups": "g"}, lambda: pairs(1000), 50.0),
    _case("pairs_5k", "5,000 groups of two", "y ~ x", {"groups": "g"}, lambda: pairs(5000), 50.0),
    _case("pairs_10k", "10,000 groups of two", "y ~ x", {"groups": "g"},
          lambda: pairs(10_000), 50.0, repeats=3),
    _case("sm_crossed", "crossed 100 + 100 levels, 40,000 rows", "y ~ 1", CROSSED, crossed_levels,
          200.0, repeats=1),
    _case("sm_nested", "nested, 40,000 rows", "y ~ 1", NESTED, nested_levels, 50.0, repeats=1),
    _case("sm_one_factor", "125,066 groups by groups=, and reading their CSV", "y ~ f1 + f2 + x",
          {"groups": "g"}, one_factor, 0.5, peer="pandas"),
)  # fmt: skip
