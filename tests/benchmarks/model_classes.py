"""Residual structures and generalized models against R's packages, on the same rows in one run.

    PYTHONPATH=tests OPENBLAS_NUM_THREADS=1 python -m benchmarks.model_classes [case ...]

Every fit is timed from the data frame to the estimates; of ours the better of two calls after the
first counts, of peers the first (none of these compiles). Peers: glmmTMB, lme4 (glmer), nlme (gls)
where installed, and glmm of the interpreter that the variable PEERS_PYTHON names (this one if
unset). The log-likelihoods stand beside the seconds: a faster fit must not be a worse one.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import sparselmm

R_HEAD = """
suppressMessages({library(glmmTMB); library(lme4); library(nlme)})
d <- read.csv("rows.csv", stringsAsFactors = TRUE)
out <- list()
timed <- function(name, call) {
  t <- system.time(fit <- tryCatch(call(), error = function(e) NULL))[["elapsed"]]
  out[[name]] <<- c(t, if (is.null(fit)) NA else as.numeric(logLik(fit)))
}
"""
GLMM = """
import sys, time, pandas, glmm
d = pandas.read_csv("rows.csv", dtype=dict.fromkeys(sys.argv[3:], str))
start = time.perf_counter()
fit = glmm.fit(d, sys.argv[1], family=sys.argv[2])
print("glmm", time.perf_counter() - start, fit.loglik)
"""
R_TAIL = """
for (n in names(out))
  cat(n, format(out[[n]][1], digits = 6), format(out[[n]][2], digits = 12), "\\n")
"""


@dataclass(frozen=True)
class Case:
    """Rows, our fit, R's calls by name, and formula, family and factors for glmm."""

    rows: Callable[[], pd.DataFrame]
    ours: dict[str, Callable[[pd.DataFrame], Any]]
    peers: dict[str, str]
    glmm: tuple[str, ...] = ()


def visits() -> pd.DataFrame:
    """2,000 subjects at 6 visits with an unstructured covariance."""
    rng = np.random.default_rng(1)
    root = np.linalg.cholesky(0.6 ** np.abs(np.subtract.outer(range(6), range(6))) + 0.3)
    e = rng.normal(size=(2000, 6)) @ root.T
    g = np.repeat(np.arange(2000), 6)
    t = np.tile(np.arange(6), 2000)
    arm = g % 2
    return pd.DataFrame({"y": (e.ravel() + 0.3 * arm * t), "t": t, "tf": [f"v{i}" for i in t],
                         "arm": arm, "g": [f"s{i}" for i in g]})  # fmt: skip


def trials() -> pd.DataFrame:
    """1,000 subjects crossed with 500 items, 100 trials each, first-order correlation in time."""
    rng = np.random.default_rng(2)
    subject = np.repeat(np.arange(1000), 100)
    trial = np.tile(np.arange(100), 1000)
    item = rng.integers(0, 500, len(subject))
    e = rng.normal(size=(1000, 100))
    for k in range(1, 100):
        e[:, k] = 0.4 * e[:, k - 1] + np.sqrt(1 - 0.16) * e[:, k]
    x = rng.normal(size=len(subject))
    y = 0.5 * x + rng.normal(size=1000)[subject] + 0.7 * rng.normal(size=500)[item] + e.ravel()
    return pd.DataFrame({"y": y, "x": x, "trial": trial, "subj": subject, "item": item})


def answers() -> pd.DataFrame:
    """100,000 yes-or-no answers of 5,000 people to 1,000 questions."""
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 5000, 100_000), rng.integers(0, 1000, 100_000)
    x = rng.normal(size=len(a))
    eta = 0.3 * x + 0.8 * rng.normal(size=5000)[a] + 0.6 * rng.normal(size=1000)[b]
    return pd.DataFrame({"y": rng.binomial(1, 1 / (1 + np.exp(-eta))), "x": x, "a": a, "b": b})


def counts() -> pd.DataFrame:
    """500,000 counts in 25,000 groups with slopes."""
    rng = np.random.default_rng(4)
    g = rng.integers(0, 25_000, 500_000)
    x = rng.normal(size=len(g))
    b = rng.multivariate_normal([0, 0], [[0.25, 0.05], [0.05, 0.04]], 25_000)[g]
    y = rng.poisson(np.exp(0.2 + 0.1 * x + b[:, 0] + b[:, 1] * x))
    return pd.DataFrame({"y": y, "x": x, "g": g, "l": np.log1p(y)})


def evaluations() -> pd.DataFrame:
    """Lecture evaluations of at least four points."""
    frame = sparselmm.datasets.load("InstEval")
    return frame.assign(y=(frame["y"] >= 4).astype(int))


def linear(formula: str, **keywords: Any) -> Callable[[pd.DataFrame], Any]:
    return lambda d: sparselmm.mixedlm(formula, d, **keywords).fit()


def general(formula: str, family: str) -> Callable[[pd.DataFrame], Any]:
    return lambda d: sparselmm.mixedglm(formula, d, family=family).fit()


Measured = tuple[float, float, float]
"""Seconds, log-likelihood, CPU seconds of this process."""

CASES = {
    "us 2,000 x 6": Case(
        visits,
        {"sparselmm": linear("y ~ tf * arm", residual="us(tf | g)")},
        {
            "glmmTMB": "glmmTMB(y ~ tf * arm + us(tf + 0 | g), d, dispformula = ~0, REML = TRUE)",
            "gls": "gls(y ~ tf * arm, d, correlation = corSymm(form = ~ 1 | g), "
            "weights = varIdent(form = ~ 1 | tf))",
        },
    ),
    "ar1 crossed, 100,000": Case(
        trials,
        {
            "sparselmm": linear("y ~ x + (1 | subj) + (1 | item)", residual="ar1(trial | subj)"),
            "sparselmm, independent": linear("y ~ x + (1 | subj) + (1 | item)"),
        },
        {},
    ),
    "binomial 5,000 + 1,000": Case(
        answers,
        {
            "sparselmm": general("y ~ x + (1 | a) + (1 | b)", "binomial"),
            "sparselmm, linear": linear("y ~ x + (1 | a) + (1 | b)"),
        },
        {
            "glmmTMB": "glmmTMB(y ~ x + (1 | a) + (1 | b), d, family = binomial)",
            "glmer": "glmer(y ~ x + (1 | a) + (1 | b), d, family = binomial)",
        },
        ("y ~ x + (1 | a) + (1 | b)", "binomial", "a", "b"),
    ),
    "InstEval, y >= 4": Case(
        evaluations,
        {
            "sparselmm": general("y ~ service + (1 | s) + (1 | d) + (1 | dept)", "binomial"),
            "sparselmm, linear": linear("y ~ service + (1 | s) + (1 | d) + (1 | dept)"),
        },
        {"glmmTMB": "glmmTMB(y ~ service + (1 | s) + (1 | d) + (1 | dept), d, family = binomial)"},
        ("y ~ service + (1 | s) + (1 | d) + (1 | dept)", "binomial", "service", "s", "d", "dept"),
    ),
    "Poisson slopes, 500,000": Case(
        counts,
        {
            "sparselmm": general("y ~ x + (x | g)", "poisson"),
            "sparselmm, linear": linear("l ~ x + (x | g)"),
        },
        {"glmmTMB": "glmmTMB(y ~ x + (x | g), d, family = poisson)"},
        ("y ~ x + (x | g)", "poisson", "g"),
    ),
}


def of_ours(fit: Callable[[pd.DataFrame], Any], rows: pd.DataFrame) -> Measured:
    """The better of two calls after a first one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(rows)
        return min(clocked(fit, rows) for _ in range(2))


def clocked(fit: Callable[[pd.DataFrame], Any], rows: pd.DataFrame) -> Measured:
    start, cpu = time.perf_counter(), time.process_time()
    result = fit(rows)
    return time.perf_counter() - start, float(result.llf), time.process_time() - cpu


def of_peers(case: Case, rows: pd.DataFrame) -> dict[str, Measured]:
    """What the peers need and find; nothing where a program or a package is missing."""
    commands = []
    if case.peers and shutil.which("Rscript"):
        commands.append(["Rscript", "fits.R"])
    if case.glmm:
        commands.append([os.environ.get("PEERS_PYTHON", sys.executable), "fit.py", *case.glmm])
    calls = "\n".join(f'timed("{n}", function() {call})' for n, call in case.peers.items())
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        rows.to_csv(Path(folder, "rows.csv"), index=False)
        Path(folder, "fits.R").write_text(R_HEAD + calls + R_TAIL, encoding="utf-8")
        Path(folder, "fit.py").write_text(GLMM, encoding="utf-8")
        for command in commands:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            for line in done.stdout.splitlines():
                name, seconds, llf = line.split()
                found[name] = (float(seconds), float("nan" if llf == "NA" else llf), float("nan"))
    return found


def main(names: list[str]) -> None:
    """Print seconds, those of the processor, ratios to our first fit, and log-likelihoods."""
    for name, case in CASES.items():
        if names and name not in names:
            continue
        rows = case.rows()
        found = {n: of_ours(fit, rows) for n, fit in case.ours.items()}
        found |= of_peers(case, rows)
        first = found["sparselmm"][0]
        for program, (seconds, llf, cpu) in found.items():
            print(f"{name:24} {program:24} {seconds:9.3f} s {cpu:9.3f} CPU s "
                  f"{seconds / first:9.2f}  {llf:.4f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
