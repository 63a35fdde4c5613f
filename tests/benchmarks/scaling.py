"""How time and memory of our nested fit grow with the number of rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import runs

SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
REPEATS = 3


def measure(n: int, settings: runs.Settings) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        about = runs.prepare(f"nested:{n}", folder, settings)
        run = runs.run("sparselmm", about, folder, REPEATS, settings)
    if run.seconds is None:
        raise SystemExit(f"the nested fit of {n:,} rows: {run.status} {run.note}")
    record = run.record
    return {
        "rows": n,
        "seconds": run.seconds,
        "first_seconds": record["first_seconds"],
        "evaluations": record["evaluations"],
        "frame_mb": about["frame_mb"],
        "imported_mb": record["imported_mb"],
        "peak_mb": record["peak_mb"],
        "fit_mb": record["peak_mb"] - record["imported_mb"],
        "peak_over_frame": record["peak_mb"] / about["frame_mb"],
    }


def slope(n: pd.Series, value: pd.Series) -> float:
    """Slope of log(value) on log(n) by least squares: 1 is linear growth."""
    return float(np.polyfit(np.log(n), np.log(value), 1)[0])


def scaling(settings: runs.Settings, out: Path, sizes: tuple[int, ...] = SIZES) -> None:
    rows = []
    for n in sizes:
        rows.append(measure(n, settings))
        print(f"{n:,} rows: {rows[-1]['seconds']:.3g} s, {rows[-1]['peak_mb']:.0f} MB", flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(out / "benchmarks_scaling.csv", index=False, float_format="%.6g")
    print("\n" + table.to_string(index=False, float_format="{:.4g}".format))
    print("\nlog-log slopes against the number of rows (1 is linear)")
    print(f"  time per fit                              {slope(table.rows, table.seconds):.3f}")
    evaluation = table.seconds / table.evaluations
    print(f"  time per evaluation                       {slope(table.rows, evaluation):.3f}")
    print(f"  peak memory less that of imported modules {slope(table.rows, table.fit_mb):.3f}")
    print(f"  peak memory                               {slope(table.rows, table.peak_mb):.3f}")
    print(f"peak memory over data frame at {table.rows.iloc[-1]:,} rows: "
          f"{table.peak_over_frame.iloc[-1]:.2f}")  # fmt: skip
