"""What the project aims at for large data, measured in one run: a line for each aim.

    PYTHONPATH=tests OPENBLAS_NUM_THREADS=1 python -m benchmarks.aims [--only parquet,ratings]
        [--base CHECKOUT] [--gpboost-python PATH] [--long]

Every fit is a process of its own. ``--base`` is a checkout of release 0.1.0, with which the exact
fits are paired; ``--gpboost-python`` an interpreter that has GPBoost; ``--long`` adds the cases of
many minutes. What is missing is said and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import large_data

ROOT = Path(__file__).parents[2]

GPBOOST = """
import sys, time
import gpboost, numpy as np
y, x, user, item = np.load(sys.argv[1])
start = time.process_time()
model = gpboost.GPModel(group_data=np.column_stack([user, item]).astype(int),
                        likelihood="gaussian", matrix_inversion_method="iterative")
model.fit(y=y, X=np.column_stack([np.ones(len(y)), x]))
print(time.process_time() - start)
"""
DASK = """
import json, sys, time
import dask.dataframe as dd
import sparselmm
from benchmarks.large_data import FORMULA
from distributed import Client, LocalCluster

def fitted(data, **keywords):
    start = time.perf_counter()
    fit = sparselmm.mixedlm(FORMULA, data, keep_rows=False, **keywords).fit()
    numbers = [fit.opt.deviance, fit.sigma, *fit.theta, *fit.fe_params]
    return [float(number).hex() for number in numbers], time.perf_counter() - start

if __name__ == "__main__":
    alone = fitted(sys.argv[1:])
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            together = fitted(sys.argv[1:], client=client)
    print(json.dumps({"equal": alone[0] == together[0], "alone": alone[1], "two": together[1]}))
"""

Line = tuple[str, str, str]
"""A case, what was measured, what is aimed at."""


def environment(base: Path | None = None, cores: int = 1) -> dict[str, str]:
    """That of a process that takes sparselmm from a checkout, ours unless told."""
    threads = dict.fromkeys(
        ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(cores)
    )
    path = os.pathsep.join([str(base or ROOT), str(ROOT / "tests")])
    return {**os.environ, **threads, "PYTHONPATH": path}


def fit(
    case: str, engine: str = "default", base: Path | None = None, cores: int = 1
) -> dict[str, Any]:
    """A case of `benchmarks.krylov`."""
    command = [sys.executable, "-m", "benchmarks.krylov", case, engine, "json"]
    found: dict[str, Any] = json.loads(last_line(command, environment(base, cores)))
    return found


def whole(found: dict[str, Any]) -> float:
    """CPU seconds from the frame to the estimates."""
    return float(found["build"] + found["cpu"])


def script(text: str, *arguments: str, python: str = sys.executable) -> str:
    """The last line that a script of another process prints."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "script.py")
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return last_line([python, str(path), *arguments], environment())


def last_line(command: list[str], environ: dict[str, str]) -> str:
    """What a process prints last; its errors end this one."""
    done = subprocess.run(
        command, env=environ, cwd=ROOT / "tests", capture_output=True, text=True, check=False
    )  # not where sparselmm lies: `python -m` would look there first
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:5])} failed:\n{done.stderr}")
    return done.stdout.splitlines()[-1]


def parquet(given: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """Nested rows from files against Arrow and pandas."""
    aim = "at most 1.5 times Arrow and pandas, under 1.2 GB"
    sizes = [(10_000_000, "integers", aim)]
    if given.long:
        sizes.append((100_000_000, "text", "runs, memory flat, linear time"))
    for rows, labels, aim in sizes:
        files = nested_files(folder, rows, labels)
        pairs = [
            (large_data.measured("arrow", files), large_data.measured("model", files))
            for _ in range(5 if labels == "integers" else 1)
        ]
        wall, cpu = (
            statistics.median(m[clock] / a[clock] for a, m in pairs) for clock in ("seconds", "cpu")
        )
        memory = max(model["GB"] for _, model in pairs)
        yield (f"{rows:,} nested rows from Parquet, levels are {labels}",
               f"{wall:.2f} times by the clock, {cpu:.2f} in CPU seconds, {memory:.2f} GB",
               aim)  # fmt: skip


def nested_files(folder: Path, rows: int, labels: str) -> list[Path]:
    """Files of so many nested rows, made if they are not there."""
    large_data.write(folder / labels, rows, labels)
    return sorted((folder / labels).glob("part-*.parquet"))[: -(-rows // large_data.FILE_ROWS)]


def ratings(given: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """Conjugate gradients on ratings, against the exact optimum and against GPBoost."""
    case = "ratings, 20,000 x 8,000"
    quick, there = fit("ratings_wide", "krylov"), fit("ratings_wide", "krylov+value")
    exact = fit("ratings_wide", "default")
    rounding = np.spacing(exact["deviance"])
    apart = max(there["deviance"] - exact["deviance"], rounding) ** 0.5
    yield case, f"{apart:.1g} SE at most from the exact optimum", "1e-3 SE"
    if given.gpboost_python:
        from benchmarks.cases import CASES

        path = folder / "ratings.npy"
        data = next(c for c in CASES if c.name == "ratings_wide").data()
        np.save(path, data[["y", "x", "user", "item"]].to_numpy(dtype=float).T)
        theirs = float(script(GPBOOST, str(path), python=given.gpboost_python))
        yield (case, f"GPBoost {theirs:.1f} CPU s, {theirs / whole(quick):.1f} times ours, "
               f"{theirs / quick['cpu']:.1f} times our fit", "15 times")  # fmt: skip
    found = fit("ratings_wide_10m", "krylov")
    yield ("ratings, 70,000 x 10,700", f"{found['cpu']:.1f} CPU s, {found['GB']:.2f} GB, "
           f"{found['mc_error']:.1g} SE", "10 CPU s, 1.2 GB")  # fmt: skip
    found = fit("ratings_wide_10m", "krylov+exact", cores=2)
    yield "the same, certified", f"{found['wall']:.1f} s on two cores", "45 s"
    if given.long:
        found = fit("ratings_wide_32m", "krylov")
        yield ("ratings, 200,948 x 84,432", f"{found['cpu']:.0f} CPU s, {found['GB']:.2f} GB, "
               f"{found['mc_error']:.1g} SE", "90 CPU s, 3.5 GB, 0.001 SE")  # fmt: skip


def certified(given: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """Exact fits that start with conjugate gradients, in pairs with release 0.1.0."""
    if given.base is None:
        print("certified: left out; --base names a checkout of release 0.1.0", file=sys.stderr)
        return
    for case, name, aim in (
        ("crossed_dense", "crossed 5,000 x 5,000", "0.45"),
        ("skewed", "skewed, 447,000 rows", "0.2"),
    ):
        ours, one, ratios = fit(case), fit(case, "krylov+value"), []
        for _ in range(3):
            before = fit(case, base=given.base)
            ratios.append((whole(ours) / whole(before), whole(one) / whole(before)))
            ours, one = fit(case), fit(case, "krylov+value")
        lowest = min(before["deviance"], ours["deviance"])
        exact, value = (statistics.median(column) for column in zip(*ratios, strict=True))
        yield (f"{name}, certified", f"{exact:.2f} times 0.1.0, deviance "
               f"{ours['deviance'] - lowest:.1g} above the lowest", f"{aim}, 1e-9")  # fmt: skip
        yield (f"{name}, one exact value", f"{value:.2f} times 0.1.0, deviance "
               f"{one['deviance'] - lowest:.1g} above the lowest", "0.1, 1e-6")  # fmt: skip


def workers(given: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """Workers and firms."""
    for engine in ("krylov", "default"):
        found = fit("worker_firm", engine)
        yield (f"workers and firms, {engine}", f"{found['cpu']:.1f} CPU s, "
               f"{found['mc_error']:.1g} SE", "6 CPU s, 0.01 SE")  # fmt: skip


def cluster(given: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """Two workers of Dask against one process."""
    rows = 20_000_000
    files = nested_files(folder, rows, "integers")
    found = json.loads(script(DASK, *map(str, files)))
    yield (f"{rows:,} rows, two workers of Dask", f"{'the same bits' if found['equal'] else 'NOT'} "
           f"as one process, {found['two']:.1f} s against {found['alone']:.1f}",
           "bit-equal")  # fmt: skip


AIMS: dict[str, Callable[[argparse.Namespace, Path], Iterator[Line]]] = {
    "parquet": parquet,
    "ratings": ratings,
    "certified": certified,
    "workers": workers,
    "cluster": cluster,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default=",".join(AIMS), help=f"of {', '.join(AIMS)}")
    parser.add_argument("--base", type=Path, help="checkout of release 0.1.0")
    parser.add_argument("--gpboost-python", help="interpreter that has GPBoost")
    parser.add_argument("--folder", type=Path, help="where files of rows are or shall be")
    parser.add_argument("--long", action="store_true", help="100 million rows, 38 million ratings")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.only.split(","):
            for case, measured, aim in AIMS[name](given, given.folder or Path(scratch)):
                print(f"{case} | {measured} | {aim}", flush=True)


if __name__ == "__main__":
    main()
