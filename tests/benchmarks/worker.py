"""Fit one case with one program: ``worker.py PROGRAM CASE_JSON DATAFILE REPEATS``.

Runs in whichever interpreter has the program and therefore imports nothing of ours but for the
program "sparselmm". After reading the data and after every run it prints one line of JSON, which
repeats all that is known so far; the last line is the result:

``seconds`` of the timed runs, ``first_seconds`` of the call before them, ``criterion``,
``evaluations``, ``version``, and memory in MB: ``imported_mb`` once the program is loaded,
``before_mb`` once the data are, ``peak_mb`` the most at any time after that.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow

MEDIUM, LONG = 20.0, 60.0
"""Seconds of a first call from which there are at most 3 repeats, and none at all."""

Fit = Callable[[pd.DataFrame, "dict[str, Any]"], Any]
Facts = Callable[[Any], "dict[str, Any]"]


def fit_sparselmm(data: pd.DataFrame, case: dict[str, Any]) -> Any:
    import sparselmm

    if "|" in case["formula"]:
        return sparselmm.MixedLM.from_formula(case["formula"], data).fit()
    return sparselmm.MixedLM.from_formula(data=data, **case["statsmodels"]).fit()


def facts_sparselmm(result: Any) -> dict[str, Any]:
    return {"criterion": result.opt.deviance, "evaluations": result.opt.n_evaluations}


def fit_glmm(data: pd.DataFrame, case: dict[str, Any]) -> Any:
    import glmm

    # Degrees of freedom are left out: neither lme4 nor sparselmm computes them in a fit.
    return glmm.fit(data, case["formula"], satterthwaite=False)


def facts_glmm(result: Any) -> dict[str, Any]:
    return {"criterion": -2 * result.loglik, "evaluations": int(result.n_eval)}


def fit_mixedlm(data: pd.DataFrame, case: dict[str, Any]) -> Any:
    import mixedlm

    return mixedlm.lmer(case["formula"], data, REML=True)


def facts_mixedlm(result: Any) -> dict[str, Any]:
    return {"criterion": float(result.deviance), "evaluations": int(result.function_evals)}


def fit_statsmodels(data: pd.DataFrame, case: dict[str, Any]) -> Any:
    import statsmodels.formula.api as smf

    return smf.mixedlm(data=data, **case["statsmodels"]).fit()


def facts_statsmodels(result: Any) -> dict[str, Any]:
    return {"criterion": -2 * float(result.llf), "evaluations": None}  # it keeps no count


def read_pandas(data: pd.DataFrame, case: dict[str, Any]) -> Any:
    """No fit: how long the same data take to be read from a CSV file."""
    return pd.read_csv(case["csv"])


def facts_pandas(result: Any) -> dict[str, Any]:
    return {}


PROGRAMS: dict[str, tuple[str, Fit, Facts]] = {
    "sparselmm": ("sparselmm", fit_sparselmm, facts_sparselmm),
    "glmm": ("glmm", fit_glmm, facts_glmm),
    "mixedlm": ("mixedlm", fit_mixedlm, facts_mixedlm),
    "statsmodels": ("statsmodels.formula.api", fit_statsmodels, facts_statsmodels),
    "pandas": ("pandas", read_pandas, facts_pandas),
}


def remaining(first: float, repeats: int) -> int:
    """Timed runs after the first call; where there are none, the first call counts."""
    if first > LONG:
        return 0
    return min(repeats, 3) if first > MEDIUM else repeats


def memory(field: str) -> float:
    """MB of ``VmRSS`` (now) or ``VmHWM`` (peak).

    Linux's own record is preferred to ``getrusage``, whose maximum starts with the memory of the
    process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def forget_peak() -> None:
    """Let the peak start again from the present, where Linux allows it: reading does not count."""
    switch = "/proc/self/clear_refs"
    if os.access(switch, os.W_OK):
        Path(switch).write_text("5")


def say(record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)


def timed(fit: Fit, facts: Facts, data: pd.DataFrame, case: dict[str, Any]) -> dict[str, Any]:
    gc.collect()
    start = time.perf_counter()
    result = fit(data, case)
    seconds = time.perf_counter() - start
    return {"elapsed": seconds, "peak_mb": memory("VmHWM"), **facts(result)}


def main(program: str, case_file: str, data_file: str, repeats: int) -> None:
    warnings.simplefilter("ignore")
    case = json.loads(Path(case_file).read_text())
    case["csv"] = Path(case_file).with_name("data.csv")
    module, fit, facts = PROGRAMS[program]
    importlib.import_module(module)
    record: dict[str, Any] = {"version": version(program), "imported_mb": memory("VmRSS")}
    data = pd.read_feather(data_file)
    gc.collect()
    pyarrow.default_memory_pool().release_unused()  # what reading left behind is not the frame's
    forget_peak()
    record |= {"before_mb": memory("VmRSS"), "seconds": []}
    say(record)
    record |= timed(fit, facts, data, case)
    record["first_seconds"] = record.pop("elapsed")
    say(record)
    for _ in range(remaining(record["first_seconds"], repeats)):
        record |= timed(fit, facts, data, case)
        record["seconds"].append(record.pop("elapsed"))
        say(record)


def version(program: str) -> str:
    try:
        return importlib.metadata.version(program)
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        return str(getattr(sys.modules[program], "__version__", ""))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
