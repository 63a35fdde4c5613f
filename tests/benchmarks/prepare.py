"""Write the files of one case: ``python -m benchmarks.prepare CASE FOLDER``.

It runs in a process of its own, so that the memory of simulating the data is given back before
anything is timed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.cases import CASES, NESTED, Case, nested

BAR = re.compile(r"\(([^()|]+)\|+([^()|]+)\)")
"""A random-effects term of a formula: its covariates and its grouping factor."""

GROUP = re.compile(r"\|([^()|]+)\)")
"""The grouping factor alone, whatever the covariates are."""


def all_cases() -> tuple[Case, ...]:
    """The cases of cases.py and, where it exists, of statsmodels_cases.py."""
    if importlib.util.find_spec("benchmarks.statsmodels_cases") is None:
        return CASES
    return CASES + tuple(importlib.import_module("benchmarks.statsmodels_cases").CASES)


def find(name: str) -> Case:
    """The case of this name; "nested:N" is the nested model on N rows, for ``--scaling``."""
    if name.startswith("nested:"):
        n = int(name.removeprefix("nested:"))
        return Case(name, f"nested, {n:,} rows", NESTED, lambda: nested(n, n // 500, n // 25), (),
                    {}, repeats=1)  # fmt: skip
    for case in all_cases():
        if case.name == name:
            return case
    raise SystemExit(f"no case is called {name!r}; there are "
                     + ", ".join(case.name for case in all_cases()))  # fmt: skip


def grouping_columns(case: Case, data: pd.DataFrame) -> list[str]:
    names = {part for group in GROUP.findall(case.formula) for part in re.split(r"[:/\s]+", group)}
    names |= {str((statsmodels_arguments(case) or {}).get("groups", ""))}
    return [name for name in data.columns if name in names]


def factor_columns(case: Case, data: pd.DataFrame) -> list[str]:
    """Columns that R gets as factors: grouping factors, strings and categories."""
    groups = grouping_columns(case, data)
    numeric = pd.api.types.is_numeric_dtype
    return [c for c in data.columns if c in groups or not numeric(data[c])]


def statsmodels_arguments(case: Case) -> dict[str, Any] | None:
    """Arguments of statsmodels' ``mixedlm``, or None if it cannot fit the model.

    The case may bring them; otherwise a single bar over one column is translated.
    """
    given = getattr(case, "statsmodels", None)
    if given is not None:
        return {"formula": case.formula, **(asdict(given) if is_dataclass(given) else given)}
    bars = BAR.findall(case.formula)
    if len(bars) != 1 or not bars[0][1].strip().isidentifier():
        return None
    terms, group = (part.strip() for part in bars[0])
    fixed = re.sub(r"\s*\+\s*$", "", BAR.sub("", case.formula).strip())
    fixed = fixed + " 1" if fixed.endswith("~") else fixed
    return {"formula": fixed, "groups": group, "re_formula": terms}


def write(case: Case, folder: Path) -> None:
    data = case.data()
    data.to_feather(folder / "data.feather")
    if {"lme4", "pandas"} & set(case.peers):
        data.to_csv(folder / "data.csv", index=False)
    about = {
        "name": case.name,
        "formula": case.formula,
        "statsmodels": statsmodels_arguments(case),
        "factors": factor_columns(case, data),
        "rows": len(data),
        "frame_mb": float(data.memory_usage(deep=True).sum()) / 1e6,
    }
    (folder / "case.json").write_text(json.dumps(about))


if __name__ == "__main__":
    write(find(sys.argv[1]), Path(sys.argv[2]))
