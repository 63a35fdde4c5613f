"""Whole scripts in fresh processes: import, read a CSV file, fit once, print the estimates.

    PYTHONPATH=tests python -m benchmarks.scripts [--repeats 5] [--peers-python PATH] [--out FILE]

CPU seconds, user and system, of the process and its children, programs taking turns so that what
else the machine does meets all of them; the median is reported, caches are warm after a first run
that does not count. Threads are one for all. Peers that are not installed are skipped.
``--out docs/_static/scripts.json`` records what the documentation shows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

import sparselmm
from benchmarks import cases
from sparselmm import datasets

ROOT = Path(__file__).parents[2]
CASES = {
    "sleepstudy": "Reaction ~ Days + (Days | Subject)",
    "Penicillin": "diameter ~ 1 + (1 | plate) + (1 | sample)",
    "Pastes": "strength ~ 1 + (1 | batch/cask)",
    "Machines": "score ~ Machine + (Machine | Worker)",
    "dietox": "Weight ~ Time + Cu + (Time | Pig)",
    "ergoStool": "effort ~ Type + (1 | Subject)",
    "InstEval": "y ~ service + (1 | s) + (1 | d)",
}
SIMULATED = ("maximal_small", "ratings_100k", "one_factor_slope", "nested")
"""Those of `benchmarks.cases`, from 1,800 to 1,000,000 rows."""

CASES |= {case.name: case.formula for case in cases.CASES if case.name in SIMULATED}
STATSMODELS = {
    "sleepstudy": ("Reaction ~ Days", "Subject", "~Days"),
    "dietox": ("Weight ~ Time + Cu", "Pig", "~Time"),
    "ergoStool": ("effort ~ Type", "Subject", "1"),
}
"""Cases with one grouping factor, which statsmodels can take."""

OURS = """
import sys, pandas, sparselmm
data = pandas.read_csv(sys.argv[1], dtype={labels!r})
print(sparselmm.mixedlm({formula!r}, data).fit().fe_params)
"""
THEIRS = """
import sys, pandas, statsmodels.formula.api as smf
data = pandas.read_csv(sys.argv[1], dtype={labels!r})
print(smf.mixedlm({formula!r}, data, groups={groups!r}, re_formula={effects!r}).fit().fe_params)
"""
GLMM = """
import sys, pandas, glmm
data = pandas.read_csv(sys.argv[1], dtype={labels!r})
fit = glmm.fit(data, {formula!r}, satterthwaite=False)
print(fit.names, fit.beta)
"""
LIBRARIES = "import numpy, scipy.sparse, scipy.linalg, pandas"
LME4 = """
suppressMessages(library(lme4))
data <- read.csv(commandArgs(TRUE)[1], stringsAsFactors = TRUE, colClasses = c({classes}))
print(fixef(lmer({formula}, data)))
"""


def script(program: str, case: str, labels: list[str], python: str) -> list[str] | None:
    """The command of one program without the file, None where it cannot fit the case."""
    if program == "libraries":
        return [python, "-c", LIBRARIES]
    as_text = dict.fromkeys(labels, "str")
    if program == "sparselmm":
        return [sys.executable, "-c", OURS.format(formula=CASES[case], labels=as_text)]
    if program == "statsmodels":
        if case not in STATSMODELS:
            return None
        formula, groups, effects = STATSMODELS[case]
        text = THEIRS.format(formula=formula, groups=groups, effects=effects, labels=as_text)
        return [python, "-W", "ignore", "-c", text]
    if program == "glmm":
        return [python, "-c", GLMM.format(formula=CASES[case], labels=as_text)]
    classes = ", ".join(f'{name} = "factor"' for name in labels) or "NA"
    return ["Rscript", "-e", LME4.format(formula=CASES[case], classes=classes)]


def rows(case: str) -> pd.DataFrame:
    """The data of a case."""
    if case not in SIMULATED:
        return datasets.load(case)
    return next(one for one in cases.CASES if one.name == case).data()


def cpu(command: list[str], env: dict[str, str]) -> float:
    """CPU seconds of a command and what it starts; NaN where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=env, capture_output=True, check=False, timeout=600)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return float("nan")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def has(python: str, package: str) -> bool:
    """Whether an interpreter finds a package."""
    found = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([python, "-c", found], check=False).returncode == 0


def main() -> None:
    """Print a table of CPU seconds and their ratios to ours."""
    parser = argparse.ArgumentParser(prog="benchmarks.scripts")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--peers-python", default=os.environ.get("PEERS_PYTHON", sys.executable))
    parser.add_argument("--out", type=Path, help="JSON file for the medians and the machine")
    given = parser.parse_args()
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, **threads, "PYTHONPATH": path}
    programs = [
        "libraries",
        "sparselmm",
        "statsmodels",
        *(["glmm"] if has(given.peers_python, "glmm") else []),
        *(["lme4"] if shutil.which("Rscript") else []),
    ]
    print(f"{'case':<12}" + "".join(f"{name:>13}" for name in programs) + "   ratios to sparselmm")
    seconds_of: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in given.cases:
            data = rows(case)
            labels = [name for name in data if data[name].dtype == "category"]
            file = str(Path(folder) / f"{case}.csv")
            data.to_csv(file, index=False)
            found: dict[str, list[float]] = {name: [] for name in programs}
            for turn in range(given.repeats + 1):
                for program in programs:
                    command = script(program, case, labels, given.peers_python)
                    seconds = cpu([*command, file], env) if command else float("nan")
                    if turn:
                        found[program].append(seconds)
            middle = {name: statistics.median(times) for name, times in found.items()}
            seconds_of[case] = {n: round(v, 3) for n, v in middle.items() if v == v}
            ratios = {name: value / middle["sparselmm"] for name, value in middle.items()}
            print(
                f"{case:<12}" + "".join(f"{value:13.2f}" for value in middle.values()) + "   "
                + ", ".join(f"{n} {r:.2f}" for n, r in ratios.items() if n != "sparselmm")
            )  # fmt: skip
    if given.out is not None:
        about = {
            "command": f"python -m benchmarks.scripts --repeats {given.repeats}",
            "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
            "versions": versions(programs, given.peers_python), "seconds": seconds_of,
        }  # fmt: skip
        given.out.write_text(json.dumps(about, indent=1) + "\n")


def versions(programs: list[str], peers: str) -> dict[str, str]:
    """Versions of the programs that ran."""
    found = {"Python": platform.python_version(), "sparselmm": sparselmm.__version__}
    asked = {
        "statsmodels": [peers, "-c", "import statsmodels; print(statsmodels.__version__)"],
        "glmm": [peers, "-c", "from importlib.metadata import version; print(version('glmm'))"],
        "lme4": [
            "Rscript",
            "-e",
            "cat(format(packageVersion('lme4')), 'on R', format(getRversion()))",
        ],
    }
    for name in asked.keys() & set(programs):
        found[name] = subprocess.run(asked[name], capture_output=True, text=True).stdout.strip()
    return found


if __name__ == "__main__":
    main()
