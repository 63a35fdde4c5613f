"""Many responses and the bootstrap: seconds here and in lme4.

    PYTHONPATH=tests OPENBLAS_NUM_THREADS=1 python -m benchmarks.responses [--lme4]

Many responses: 2,000 rows, factors of 50 and 40 crossed levels, one fixed effect; ``fit_many`` on
one thread against a Python loop of ``mixedlm(...).fit()``, of which every 20th response is run.
Bootstrap: 1,000 parametric replicates of sleepstudy and Penicillin. With ``--lme4`` and R, bootMer
and a loop of ``lmer`` as well. Seconds are those of the processor, on one thread, the least of
seven runs.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import sparselmm

FORMULA = "y ~ x + (1 | a) + (1 | b)"
MODELS = {
    "sleepstudy": "Reaction ~ Days + (Days | Subject)",
    "Penicillin": "diameter ~ 1 + (1 | plate) + (1 | sample)",
}

LME4 = """
suppressMessages(library(lme4))
d <- read.csv("design.csv"); Y <- as.matrix(read.csv("responses.csv"))
started <- proc.time()[[3]]
for (j in seq_len(ncol(Y))) { d$y <- Y[, j]; m <- lmer(y ~ x + (1 | a) + (1 | b), d) }
cat("lme4, loop of lmer:", (proc.time()[[3]] - started) / ncol(Y), "s per response\\n")
for (name in c("sleepstudy", "Penicillin")) {
  f <- if (name == "sleepstudy") Reaction ~ Days + (Days | Subject) else
    diameter ~ 1 + (1 | plate) + (1 | sample)
  m <- lmer(f, get(name))
  seconds <- system.time(suppressMessages(bootMer(m, fixef, nsim = 1000, seed = 1)))[[3]]
  cat("lme4, bootMer of", name, ":", seconds, "s\\n")
}
"""


def simulated(m: int, seed: int = 1) -> tuple[pd.DataFrame, np.ndarray]:
    """The design and m responses, (n, m)."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 50, 2000), rng.integers(0, 40, 2000)
    x = rng.normal(size=2000)
    Y = np.outer(x, rng.normal(size=m)) + rng.normal(size=(2000, m))
    Y += rng.normal(size=(50, m))[a] + rng.uniform(0, 1, m) * rng.normal(size=(40, m))[b]
    return pd.DataFrame({"x": x, "a": a.astype(str), "b": b.astype(str)}), Y


def seconds(work: Callable[[], Any]) -> float:
    """Processor time, least of seven runs."""
    runs = []
    for _ in range(7):
        started = time.process_time()
        work()
        runs.append(time.process_time() - started)
    return min(runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--responses", type=int, default=1000)
    parser.add_argument("--lme4", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore", sparselmm.SingularMatrixWarning)
    design, Y = simulated(given.responses)
    sample = range(0, given.responses, 20)

    def together() -> Any:
        return sparselmm.mixedlm(FORMULA, design.assign(y=Y[:, 0])).fit_many(Y)

    def loop() -> list[float]:
        return [sparselmm.mixedlm(FORMULA, design.assign(y=Y[:, j])).fit().llf for j in sample]

    many, alone = together(), loop()
    worst = np.abs(many.llf.to_numpy()[list(sample)] - alone).max()
    one, all_of_them = seconds(loop) / len(sample), seconds(together)
    print(f"fit_many, {given.responses} responses: {all_of_them:.3f} s; {many!r}")
    print(f"loop of fits: {one:.5f} s each, {one * given.responses:.1f} s for all")
    print(f"ratio {one * given.responses / all_of_them:.0f}; largest difference of llf {worst:.1e}")
    for name, formula in MODELS.items():
        fit = sparselmm.mixedlm(formula, sparselmm.datasets.load(name)).fit()
        fit.bootstrap(10, seed=1)
        took = seconds(lambda fit=fit: fit.bootstrap(1000, seed=1))
        print(f"bootstrap of {name}, 1,000 replicates: {took:.3f} s on one core")
    if given.lme4:
        with tempfile.TemporaryDirectory() as folder:
            design.to_csv(Path(folder, "design.csv"), index=False)
            pd.DataFrame(Y[:, :20]).to_csv(Path(folder, "responses.csv"), index=False)
            Path(folder, "run.R").write_text(LME4, encoding="utf-8")
            subprocess.run(["Rscript", "run.R"], cwd=folder, check=True)


if __name__ == "__main__":
    main()
