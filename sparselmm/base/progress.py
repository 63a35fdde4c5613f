"""Progress of an optimization on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from sparselmm.base.types import FloatArray

PATIENCE = 3.0
"""Seconds after which a fit on a terminal or in a notebook starts to show its progress."""


class Evaluated(Protocol):
    """What is shown of an evaluation of the deviance."""

    @property
    def theta(self) -> FloatArray:
        """Covariance parameters."""

    @property
    def deviance(self) -> float:
        """Value; ``inf`` where the factorization failed."""

    @property
    def gradient_norm(self) -> float:
        """Largest absolute entry of the gradient; NaN where there is none."""


class Progress:
    """One line on stderr per evaluation, when wanted or when a fit takes long."""

    def __init__(self, wanted: bool | None):
        interactive = sys.stderr.isatty() or "ipykernel" in sys.modules
        self._after = 0.0 if wanted else PATIENCE if wanted is None and interactive else np.inf
        self._start = time.perf_counter()
        self._count = 0
        self._open = False
        self._last: Evaluated | None = None

    def __call__(self, evaluation: Evaluated) -> None:
        """Count an evaluation and show it when it is time."""
        self._count += 1
        self._last = evaluation
        if time.perf_counter() - self._start >= self._after:
            line = f"evaluation {self._count}: deviance {evaluation.deviance:.6f}"
            if np.isfinite(evaluation.gradient_norm):
                line += f", gradient {evaluation.gradient_norm:.2e}"
            sys.stderr.write(f"\r{line:<70s}")
            sys.stderr.flush()
            self._open = True

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Show what is evaluated inside; an interrupt says where it stood."""
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted()
            raise
        finally:
            self.close()

    def interrupted(self) -> None:
        """Say where the optimization stood."""
        if self._last is not None:
            self.close()
            theta = np.array2string(self._last.theta, separator=", ", precision=6)
            sys.stderr.write(
                f"interrupted after {self._count} evaluations at deviance "
                f"{self._last.deviance:.6f}; continue with fit(start_theta={theta})\n"
            )

    def close(self) -> None:
        """End the line."""
        if self._open:
            sys.stderr.write("\n")
            self._open = False


def progress_bar(total: int, done: int, title: str, wanted: bool | None) -> Any:
    """A bar on stderr; when nobody said, only where it can be seen and only after a while."""
    interactive = sys.stderr.isatty() or "ipykernel" in sys.modules
    from tqdm import tqdm

    return tqdm(
        total=total, initial=done, unit="fit", desc=title,
        disable=not (interactive if wanted is None else wanted),
        delay=PATIENCE if wanted is None else 0.0,
    )  # fmt: skip
