"""Huge crossed designs by one engine: CPU seconds, peak memory, Monte Carlo error.

``PYTHONPATH=tests python -m benchmarks.krylov ratings_wide krylov`` fits one case of
`benchmarks.cases` in this process; ``krylov+value`` and ``krylov+exact`` ask for that finish.
Cross-products are made before the clock starts. CPU seconds are those of all threads.

``PYTHONPATH=tests python -m benchmarks.krylov skewed against FOLDER`` compares, in three pairs of
processes, what ``fit()`` takes by itself from the data frame to the results, with that of another
checkout of this repository in FOLDER.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from benchmarks.cases import CASES
from sparselmm import MixedLM

PAIRS = 3
WHOLE = """
import sys, time
import pandas as pd
from sparselmm import MixedLM
data, start = pd.read_pickle(sys.argv[1]), time.process_time()
fit = MixedLM.from_formula(sys.argv[2], data).fit()
print(f"{time.process_time() - start:.2f} CPU s, deviance {-2.0 * fit.llf:.10f}")
"""


def against(name: str, folder: str) -> None:
    """Fit a case here and in another checkout, in turn."""
    case = next(case for case in CASES if case.name == name)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "data.pickle"
        case.data().to_pickle(path)
        for _ in range(PAIRS):
            for root in (folder, str(Path(__file__).parents[2])):
                ran = subprocess.run(
                    [sys.executable, "-c", WHOLE, str(path), case.formula], cwd=root, check=True,
                    env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True,
                )  # fmt: skip
                print(f"{name} {root}: {ran.stdout.strip()}", flush=True)


def main(name: str, engine: str) -> None:
    """Fit a case and print a line."""
    case = next(case for case in CASES if case.name == name)
    data = case.data()
    model, rows = MixedLM.from_formula(case.formula, data), len(data)
    del data
    _ = model.cross
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    engine, _, finish = engine.partition("+")
    wall, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = model.fit(engine=engine, finish=finish or None)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{name} {engine}{'+' * bool(finish)}{finish}: {rows:,} rows, {cpu:.2f} CPU s, "
        f"{wall:.2f} s, {peak:.2f} GB at most ({before:.2f} before), {fit.opt.n_evaluations} "
        f"evaluations, theta {fit.theta.round(8).tolist()}, Monte Carlo error "
        f"{fit.opt.mc_error:.2g} SE, {fit.opt.probes} probes, deviance {fit.opt.deviance:.6f} "
        f"+- {fit.opt.mc_deviance:.2g}"
    )


if __name__ == "__main__":
    if sys.argv[2] == "against":
        against(sys.argv[1], sys.argv[3])
    else:
        main(*sys.argv[1:3])
