"""Start workers, one process per program and case, and wait for them no longer than allowed."""

from __future__ import annotations

import json
import os
import queue
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

PROGRAMS = ("sparselmm", "lme4", "glmm", "mixedlm", "statsmodels", "pandas")
"""Pandas fits nothing: its time is that of reading the same data from a CSV file."""

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS",
           "RAYON_NUM_THREADS")  # fmt: skip
"""Every program may use all the cores; which of them it does is its own choice."""

START_LIMIT = 900.0
"""Seconds to start a program and read the data, neither of which is timed."""

MEMORY_SHARE = 0.9
"""Share of the machine's memory a worker may take: it fails alone rather than with the others."""


@dataclass(frozen=True)
class Settings:
    """How workers are started.

    ``peers`` is the interpreter with the Python peers, ``timeout`` the seconds one fit may take.
    """

    peers: str
    timeout: float
    cores: int


@dataclass(frozen=True)
class Run:
    """What one program did on one case.

    ``status`` is "ok", "timeout", "failed" or "absent"; ``record`` the worker's last line.
    """

    program: str
    status: str
    note: str = ""
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """Median of the timed runs; the first call where it was too long to be repeated."""
        times = self.record.get("seconds") or [self.record.get("first_seconds")]
        return None if times[0] is None else statistics.median(times)


def environment(settings: Settings, ours: bool) -> dict[str, str]:
    env = {**os.environ, **dict.fromkeys(THREADS, str(settings.cores))}
    env.pop("PYTHONPATH", None)
    return {**env, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(ROOT)])} if ours else env


def absent(program: str, settings: Settings) -> str:
    """Why a program cannot run here; empty if it can."""
    if program == "lme4":
        if shutil.which("Rscript") is None:
            return "Rscript is not installed"
        command = ["Rscript", "-e", "library(lme4)"]
    else:
        command = [interpreter(program, settings), "-c", f"import pyarrow, {program}"]
    env = environment(settings, program == "sparselmm")
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    return "" if done.returncode == 0 else last_line(done.stderr)


def interpreter(program: str, settings: Settings) -> str:
    return sys.executable if program == "sparselmm" else settings.peers


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def prepare(name: str, folder: Path, settings: Settings) -> dict[str, Any]:
    """Write the files of a case and return what prepare.py says about them."""
    command = [sys.executable, "-m", "benchmarks.prepare", name, str(folder)]
    subprocess.run(command, env=environment(settings, True), check=True)
    return json.loads((folder / "case.json").read_text())


def command_of(program: str, about: dict[str, Any], folder: Path, repeats: int,
               settings: Settings) -> list[str]:  # fmt: skip
    if program == "lme4":
        return ["Rscript", str(HERE / "lme4_worker.R"), about["formula"],
                str(folder / "data.csv"), str(repeats), ",".join(about["factors"])]  # fmt: skip
    return [interpreter(program, settings), str(HERE / "worker.py"), program,
            str(folder / "case.json"), str(folder / "data.feather"), str(repeats)]  # fmt: skip


def run(program: str, about: dict[str, Any], folder: Path, repeats: int,
        settings: Settings) -> Run:  # fmt: skip
    if program == "statsmodels" and about["statsmodels"] is None:
        return Run(program, "absent", "has no way to write this model with one grouping factor")
    with tempfile.TemporaryFile("w+") as errors:
        worker = subprocess.Popen(
            command_of(program, about, folder, repeats, settings), stdout=subprocess.PIPE,
            stderr=errors, text=True, env=environment(settings, program == "sparselmm"),
        )  # fmt: skip
        limit_memory(worker.pid)
        try:
            record, late = follow(worker, settings.timeout)
        finally:
            worker.kill()
            code = worker.wait()
        errors.seek(0)
        return judge(program, record, late, code, last_line(errors.read()))


def limit_memory(pid: int) -> None:
    if not hasattr(resource, "prlimit"):
        return
    most = int(MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))


def follow(worker: subprocess.Popen[str], timeout: float) -> tuple[dict[str, Any], bool]:
    """Read a worker's lines until it ends; also say whether it took too long for the next one."""
    assert worker.stdout is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=pump, args=(worker.stdout, lines), daemon=True).start()
    record: dict[str, Any] = {}
    deadline = time.monotonic() + START_LIMIT
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return record, True
        if line is None:
            worker.wait()
            return record, False
        if line.startswith('{"'):
            record = json.loads(line)
            deadline = time.monotonic() + timeout


def pump(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def judge(program: str, record: dict[str, Any], late: bool, code: int, error: str) -> Run:
    """A run that was cut short after its first call still has a time."""
    if "first_seconds" in record:
        cut = late or code != 0
        return Run(program, "ok", "cut short before its last repeat" if cut else "", record)
    if late:
        return Run(program, "timeout", "", record)
    if code < 0:
        error = f"ended by signal {-code}, perhaps for want of memory"
    return Run(program, "failed", error or f"exit code {code}", record)
