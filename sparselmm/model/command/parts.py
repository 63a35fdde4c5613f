"""Parts of the command line: what takes long, pictures, and the command ``predict``."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from sparselmm.base.arguments import check_choice
from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.design.validate import unknown_column
from sparselmm.factor.candidates import EVALUATIONS
from sparselmm.inference.hypotheses.ddf import DDF_METHODS
from sparselmm.inference.prediction.means import UNSEEN
from sparselmm.results.plots.figure import pyplot

PATIENCE = 1.0
"""Seconds after which the command says what it is doing."""

INTERVALS = ("none", "confidence", "prediction")


@contextmanager
def telling(what: str, arguments: argparse.Namespace) -> Iterator[Callable[[Say], None]]:
    """Say on stderr what is being done once it takes longer than a second.

    Gives a function for what is found out meanwhile, which is asked only where it is shown.
    """
    wanted = getattr(arguments, "progress", False)
    if getattr(arguments, "quiet", False) or not (wanted or sys.stderr.isatty()):
        yield lambda found: None
        return
    timers: list[threading.Timer] = []
    start = time.perf_counter() - (PATIENCE if wanted else 0.0)

    def later(text: str) -> None:
        left = start + PATIENCE - time.perf_counter()
        if left <= 0.0:
            print(f"sparselmm: {text}", file=sys.stderr)
            return
        timers.append(threading.Timer(left, print, [f"sparselmm: {text}"], {"file": sys.stderr}))
        timers[-1].daemon = True
        timers[-1].start()

    later(what)
    try:
        yield lambda found: later(found())
    finally:
        for timer in timers:
            timer.cancel()


Say = Callable[[], str]


def size_of(model: Any) -> str:
    """Rows and random effects of a model."""
    built = model.built
    return f"fitting {built.n:,} rows, {built.layout.q:,} random effects"


def expected(model: Any) -> str:
    """What the plan of a linear model expects of a fit."""
    plan = model.plan()
    seconds = plan.krylov.seconds if plan.route == "krylov" else plan.chosen.seconds
    return f"about {seconds:.2g} s an evaluation, some {EVALUATIONS} of them"


def check_ddf(value: str | None) -> str | None:
    """The method for degrees of freedom, however it is written."""
    return None if value is None else str(check_choice(value, "--ddf", DDF_METHODS))


def draw(result: Any, file: str) -> None:
    """Write a picture: predictions over the variables, or the random effects where there are none.

    Raises
    ------
    ArgumentError
        When the file cannot be written or its ending is no format of pictures.
    """
    try:
        figure = result.plot_predictions()
    except DataError:
        terms = list(getattr(result, "ranef", {}))
        if not terms:
            raise
        figure = result.plot_ranef(terms[0])
    try:
        figure.savefig(file, bbox_inches="tight")
    except (OSError, ValueError) as error:
        raise ArgumentError(f"--plot {file}: {error}") from error
    finally:
        pyplot().close(figure)


def check_file(value: str | None, option: str) -> None:
    """Refuse a file in a folder that does not exist."""
    if value not in (None, "-") and not Path(str(value)).parent.is_dir():
        raise ArgumentError(f"{option} {value}: the folder does not exist")


def add_predict_options(add: Any) -> None:
    """Options of ``predict`` besides those of the model."""
    add("--random", action="store_true", help="with the random effects of known levels")
    add(
        "--unseen",
        choices=UNSEEN,
        default="error",
        help="levels that the fit has not seen: an error, predicted at the mean, or blank",
    )
    add("--interval", choices=INTERVALS, default="none", help="add ends of 95 %% intervals")
    add("--out", metavar="FILE", default="-", help="CSV file to write; default standard output")


def predicted(result: Any, new: pd.DataFrame, arguments: argparse.Namespace) -> pd.DataFrame:
    """The new rows with their predictions in the columns that follow.

    Raises
    ------
    ArgumentError
        When an interval is asked for that the model has no method for.
    """
    if arguments.family is not None:
        if arguments.interval == "prediction":
            raise ArgumentError("--interval prediction is for linear models; use 'confidence'")
        kind = "conditional" if arguments.random else "population"
        found = result.predict(
            new, random=kind, interval=arguments.interval != "none", unseen=arguments.unseen
        )
    elif arguments.interval == "none" and not _shares(result, arguments):
        found = result.predict(new, re=arguments.random, unseen=arguments.unseen)
    else:
        found = _by_prediction(result, new, arguments)
    if isinstance(found, pd.Series):
        found = found.to_frame("predicted")
    found = pd.DataFrame(found).rename(
        columns={"mean": "predicted", "ci_lower": "lower_95", "ci_upper": "upper_95"}
    )
    found.columns = [f"{name}_of_fit" if name in new else name for name in found.columns]
    return pd.concat([new.reset_index(drop=True), found.reset_index(drop=True)], axis=1)


def _shares(result: Any, arguments: argparse.Namespace) -> bool:
    """Whether new rows share residuals with those of the fit, which is part of what they are."""
    rows = result.built.layout.residual
    return arguments.random and rows is not None and bool(rows.kind)


def _by_prediction(result: Any, new: pd.DataFrame, arguments: argparse.Namespace) -> pd.DataFrame:
    """Predictions and their intervals where they are wanted; new rows have weights as old ones."""
    shares, none = _shares(result, arguments), arguments.interval == "none"
    options: dict[str, Any] = {"interval": "confidence" if none else arguments.interval}
    if arguments.weights is not None and (shares or arguments.interval == "prediction"):
        options["interval"] = "prediction"
        if arguments.weights not in new:
            raise unknown_column(arguments.weights, new.columns, "weights=, in the new data")
        options["weights"] = new[arguments.weights]
    if shares and not result.built.has_rows:
        options["data"] = arguments.data
    frame = result.get_prediction(
        new, re=arguments.random, unseen=arguments.unseen, **options
    ).summary_frame()
    kind = "obs" if arguments.interval == "prediction" else "mean"
    wanted = ["mean"] if none else ["mean", f"{kind}_ci_lower", f"{kind}_ci_upper"]
    return frame[wanted].set_axis(["predicted", "lower_95", "upper_95"][: len(wanted)], axis=1)


class CommandError(Exception):
    """The command cannot be carried out as given."""


def say(kind: str, message: object) -> None:
    """One line on stderr: of a message that holds a table, its first line and its last."""
    lines = str(message).splitlines() or [type(message).__name__]
    text = lines[0] if len(lines) == 1 else f"{lines[0].rstrip(': ')}. {lines[-1]}"
    print(f"sparselmm: {kind}: {text}", file=sys.stderr)


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0]
