"""Rows that are read in partitions: seconds and memory against reading them with Arrow.

    PYTHONPATH=tests python -m benchmarks.large_data [--rows N,N,...] [--folder F]
        [--strings | --text]

Nested rows, 20,000 + 400,000 levels, from files
of Parquet of a million rows. Every measurement is a process of its own: "Arrow" reads the five
columns and factorizes the two factors in pandas, which is the least that any program does; "model"
makes the model of rows that are not kept; "fit" is the search that follows. Memory is the largest
that the process ever had, Python, NumPy and everything it imports counted. With ``--strings`` the
levels are dictionaries of strings, the same in every file; with ``--text`` plain strings.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

FORMULA = "y ~ x + z + (1 | site / user)"
FILE_ROWS = 1_000_000
LEVELS = (20_000, 400_000)


def write(folder: Path, n: int, labels: str, levels: tuple[int, int] = LEVELS) -> None:
    """Files of nested rows; those that are there already are left."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sites, users = levels
    rng = np.random.default_rng(0)
    home = rng.integers(0, sites, users)
    effects = rng.normal(size=sites), rng.normal(size=users)
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, n, FILE_ROWS)):
        path = folder / f"part-{number:03}.parquet"
        if path.exists():
            continue
        rows = np.random.default_rng(number + 1)
        m = min(FILE_ROWS, n - start)
        user = rows.integers(0, users, m)
        site, x, z = home[user], rows.normal(size=m), rows.normal(size=m)
        y = 1 + 0.5 * x - 0.2 * z + effects[0][site] + effects[1][user] + rows.normal(size=m)
        columns = {"y": y, "x": x, "z": z, "site": site, "user": user, "other": x + z}
        if labels != "integers":
            named = (("site", "s%05d", site, sites), ("user", "u%06d", user, users))
            for name, form, codes, count in named:
                values = pa.array(np.char.mod(form, np.arange(count)))
                coded = pa.DictionaryArray.from_arrays(pa.array(codes), values)
                columns[name] = coded if labels == "strings" else coded.cast(values.type)
        pq.write_table(pa.table(columns), path)


def memory() -> float:
    """Largest memory of this process, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def read_with_arrow(files: list[str]) -> dict[str, float]:
    """The columns in memory, and the codes of the two factors."""
    import pandas as pd
    import pyarrow.dataset as ds

    start, cpu = time.perf_counter(), time.process_time()
    table = ds.dataset(files).to_table(columns=["y", "x", "z", "site", "user"])
    for name in ("site", "user"):
        pd.factorize(table[name].to_pandas())
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu,
            "GB": memory()}  # fmt: skip


def make_model(files: list[str]) -> dict[str, float]:
    """The model of rows that are not kept, and its fit."""
    import sparselmm

    start, cpu = time.perf_counter(), time.process_time()
    model = sparselmm.mixedlm(FORMULA, files, keep_rows=False)
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    start = time.perf_counter()
    result = model.fit()
    return {"seconds": seconds, "cpu": used, "fit": time.perf_counter() - start, "GB": memory(),
            "sigma": result.sigma}  # fmt: skip


WORK = {"arrow": read_with_arrow, "model": make_model}


def measured(what: str, files: list[Path]) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.large_data", "--work", what, *map(str, files)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", default="1000000,3000000,10000000,30000000")
    parser.add_argument("--folder", type=Path, help="where the files are or shall be")
    for kind, what in (("strings", "dictionaries of strings"), ("text", "plain strings")):
        parser.add_argument(f"--{kind}", dest="labels", action="store_const", const=kind,
                            default="integers", help=f"levels are {what}")  # fmt: skip
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("files", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(WORK[given.work](given.files)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        report(folder, [int(float(n)) for n in given.rows.split(",")], given.labels)


def report(folder: Path, sizes: list[int], labels: str) -> None:
    """A line for every number of rows."""
    write(folder, max(sizes), labels)
    head = ("rows", "Arrow s", "cpu", "GB", "model s", "cpu", "GB", "fit s", "ratio")
    print("".join(f"{name:>12}" for name in head))
    for n in sizes:
        files = sorted(folder.glob("part-*.parquet"))[: -(-n // FILE_ROWS)]
        base, model = measured("arrow", files), measured("model", files)
        line: list[Any] = [base["seconds"], base["cpu"], base["GB"], model["seconds"]]
        line += [model["cpu"], model["GB"], model["fit"], model["seconds"] / base["seconds"]]
        print(f"{n:>12,}" + "".join(f"{value:>12.2f}" for value in line), flush=True)


if __name__ == "__main__":
    main()
