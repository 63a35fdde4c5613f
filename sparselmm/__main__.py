"""The command line: ``python -m sparselmm`` fits a model to a table in a file.

    python -m sparselmm fit "y ~ service + (1|s) + (1|d)" ratings.csv
    python -m sparselmm fit "score ~ ses" pupils --groups school --vc "class=0 + C(classroom)"
    python -m sparselmm predict "y ~ x + (1|g)" old.csv new.csv --random
    python -m sparselmm datasets
    python -m sparselmm info
    python -m sparselmm warm
    python -m sparselmm demo

What the user got wrong is one line on stderr and exit code 2; a traceback is a defect here.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import textwrap
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TextIO

from sparselmm import __version__, datasets
from sparselmm.base.arguments import check_choice
from sparselmm.base.exceptions import ModelWarning, SparseLMMError, SpecificationWarning
from sparselmm.base.providers import show_versions
from sparselmm.likelihood.optimize import SCIPY_METHODS
from sparselmm.model.command.demo import DEMO, comparison
from sparselmm.model.command.generalized import add_options, model_of, record_of, refused
from sparselmm.model.command.parts import (
    CommandError,
    add_predict_options,
    check_ddf,
    check_file,
    draw,
    expected,
    first_line,
    predicted,
    say,
    size_of,
    telling,
)
from sparselmm.model.command.record import own_versions, record, write_json
from sparselmm.model.command.tables import frames_of, read_data
from sparselmm.model.fit import method_names
from sparselmm.model.linear import DENSE_LIMIT
from sparselmm.model.mixedlm import MixedLM
from sparselmm.model.partitions import CHUNK_ROWS
from sparselmm.model.probing import ENGINES
from sparselmm.model.warming import warm
from sparselmm.results import MixedLMResults
from sparselmm.results.plots.figure import pyplot

NO_VARIABLES = -2
"""``eval_env`` with which a formula sees the columns and R's functions, no variable of ours."""


EXAMPLES = """\
examples:
  python -m sparselmm fit "Reaction ~ Days + (Days | Subject)" sleepstudy --ddf KR
  python -m sparselmm fit "r2 ~ Anger + (1 | id) + (1 | item)" VerbAgg --family binomial
  python -m sparselmm predict "Yield ~ nitro + (1 | Block)" Oats Oats --interval confidence
A table may come from a pipe: cat table.csv | python -m sparselmm fit "y ~ x + (1 | g)" -
"""
"""What ``--help`` shows; the commands run as they stand."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default those of the process.

    Returns
    -------
    int
        Exit code: 0, or 2 when the command or its data could not be used, or 130 when
        interrupted.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", ModelWarning)
            warnings.showwarning = _show_warning
            arguments = _parser().parse_args(_words(argv))
            arguments.run(arguments)
            sys.stdout.flush()
    except (CommandError, SparseLMMError) as error:
        say("error", error)
        return 2
    except UnicodeEncodeError as error:
        letters = error.object[error.start : error.end]
        say("error", f"the output cannot be written: its encoding {error.encoding!r} has no "
            f"{letters!r}; set PYTHONIOENCODING=utf-8")  # fmt: skip
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _words(argv: Sequence[str] | None) -> list[str]:
    """The words of the command; argparse before Python 3.12 would lose the value of ``--x=--``."""
    words = list(sys.argv[1:] if argv is None else argv)
    for word in words:
        if word.startswith("--") and word.endswith("=--"):
            raise CommandError(f"{word}: '--' is no value")
    return words


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    say("warning", message)


# -------------------------------------------------------------------------------- arguments


HINTS = {
    "--data": "The table is the second word after fit, without an option",
    "--formula": "The formula is the first word after fit, without an option",
    "--reml": "REML is what there is without --ml",
    "--REML": "REML is what there is without --ml",
    "--random": "Random effects are bars in the formula, '+ (1|g)'",
}
"""What to write for options of other programs."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        several = message.startswith("unrecognized arguments: ") and " -" not in message
        files = (
            ". Several files are one table by a pattern in quotes, 'folder/*.csv'"
            if several
            else ""
        )
        files += next((f". {hint}" for word, hint in HINTS.items() if f" {word}" in message), "")
        if "invalid choice: " in message and "~" in message:
            files = ". Write fit before the formula"
        raise CommandError(f"{message}{files}; '{self.prog} --help' lists what can be given")


def _parser() -> _Parser:
    parser = _Parser(
        prog="sparselmm",
        description="Fit linear and generalized linear mixed models to tables.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sparselmm {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_fit(commands)
    _add_predict(commands)
    listing = commands.add_parser("datasets", help="list the data sets, or describe one")
    listing.add_argument("name", nargs="?", help="data set to describe")
    listing.set_defaults(run=_list_datasets)
    info = commands.add_parser("info", help="print versions, for reports of faults")
    info.set_defaults(run=_info)
    warm = commands.add_parser("warm", help="compile what large models need, once")
    warm.set_defaults(run=_warm)
    demo = commands.add_parser("demo", help="fit two models and compare them with lme4")
    demo.set_defaults(run=_demo)
    return parser


def _add_fit(commands: Any) -> None:
    fit = commands.add_parser(
        "fit",
        help="fit a model and print its summary",
        allow_abbrev=False,
        epilog="Text files are read as pandas does, with one exception: a column of whole numbers "
        "with leading zeros (007) stays text. Text columns are factors.",
    )
    _add_model(fit)
    add = fit.add_argument
    add("--ddf", metavar="METHOD", help="t tests: satterthwaite or kenward-roger (KR)")
    add("--json", metavar="OUT", help="write the estimates to a file; '-' prints them instead")
    add("--plot", metavar="FILE", help="draw predictions, or random effects, as .png, .pdf, .svg")
    add("--plan", action="store_true", help="show what the fit would cost, and stop")
    _add_progress(fit)
    fit.set_defaults(run=_fit)


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser(
        "predict",
        help="fit a model and predict the rows of another table",
        allow_abbrev=False,
        epilog="Writes the new rows as CSV with the columns predicted, lower_95 and upper_95.",
    )
    _add_model(predict)
    predict.add_argument("new", help="table of the rows to predict, as data")
    add_predict_options(predict.add_argument)
    _add_progress(predict)
    predict.set_defaults(run=_predict, json=None, plan=False, ddf=None, plot=None)


def _add_progress(parser: _Parser) -> None:
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--progress", action="store_true", help="show every evaluation on stderr")
    shown.add_argument("--quiet", action="store_true", help="never show progress")


def _add_model(fit: _Parser) -> None:
    add = fit.add_argument
    add("formula", help="'y ~ x + (1|g) + (1|h)', or 'y ~ x' together with --groups")
    add(
        "data",
        help="file (.csv, .tsv, also compressed, .parquet or .arrow), folder or pattern "
        "'dir/*.parquet' of files, '-' for standard input, or name of a data set",
    )
    add("--groups", metavar="COL", help="column of the grouping factor")
    add("--re", metavar="FORMULA", help="effects that vary between groups; default an intercept")
    add(
        "--vc",
        metavar="NAME=FORMULA",
        action="append",
        default=[],
        type=_component,
        help="variance component within groups, e.g. 'class=0 + C(classroom)'; may be repeated",
    )
    add("--weights", metavar="COL", help="column of prior weights: Var(e) = sigma^2 / weight")
    add("--offset", metavar="COL", help="column of a known part of the mean")
    add(
        "--residual",
        metavar="STRUCTURE",
        help="covariance of the residuals within groups, e.g. 'ar1(time | subject)'",
    )
    add(
        "--dispersion",
        metavar="FORMULA",
        help="log standard deviation of the residuals, or dispersion of the family, '~ x'",
    )
    add("--subset", metavar="QUERY", help="rows to use, e.g. 'age > 3'")
    add(
        "--missing",
        metavar="HOW",
        default="none",
        help="'drop' leaves out rows with missing values; otherwise they are an error",
    )
    add(
        "--chunk-rows",
        metavar="N",
        type=int,
        help="read files N rows at a time and keep none of them; default: from 262,144 rows of a "
        "folder, a pattern, or a large file",
    )
    add("--ml", action="store_true", help="maximum likelihood instead of REML")
    add(
        "--method",
        metavar="NAME",
        help=f"optimizer: newton (default), {', '.join(SCIPY_METHODS)}",
    )
    add(
        "--engine",
        metavar="NAME",
        default="auto",
        help="auto (default) or sparse; krylov: conjugate gradients, for huge crossed designs; "
        "dense: slow, for checks",
    )
    add_options(fit)


def _component(text: str) -> tuple[str, str]:
    name, sign, formula = (part.strip() for part in text.partition("="))
    if not (name.isidentifier() and sign and formula):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form NAME=FORMULA, such as 'class=0 + C(classroom)'"
        )
    return name, formula


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything is read."""
    words = [arguments.formula, arguments.data, *([arguments.new] if "new" in arguments else [])]
    late = [word for word in words[1:] if "~" in word]
    if late and "~" not in arguments.formula:
        rest = [word for word in words if word != late[0]]
        raise CommandError(f"the formula comes before the data: {shlex.join([late[0], *rest])}")
    arguments.missing = check_choice(arguments.missing, "--missing", ("none", "drop", "raise"))
    arguments.engine = check_choice(arguments.engine, "--engine", ENGINES)
    method_names(arguments.method)
    if getattr(arguments, "plot", None) is not None:
        pyplot()  # whether there is one is seen before the fit
    names = [name for name, _ in arguments.vc]
    for name in names:
        if names.count(name) > 1:
            raise CommandError(f"two --vc are called {name!r}; rename one of them")
    if arguments.groups is None and (arguments.vc or arguments.re is not None):
        option = "--vc" if arguments.vc else "--re"
        raise CommandError(
            f"{option} needs --groups; give its column, or write the term as a bar in the "
            "formula, '... + (x|g)'"
        )
    wrong = refused(arguments)
    if wrong is not None:
        raise CommandError(wrong)
    arguments.ddf = check_ddf(arguments.ddf)
    check_file(arguments.plot, "--plot")
    if arguments.plot is not None and arguments.plan:
        raise CommandError("--plan fits nothing, so that --plot has nothing to draw")
    if arguments.json is not None:
        if arguments.plan:
            raise CommandError("--plan fits nothing, so that --json has nothing to write")
        if arguments.json != "-" and not Path(arguments.json).parent.is_dir():
            raise CommandError(f"--json {arguments.json}: the folder does not exist")


# -------------------------------------------------------------------------------------- data


# --------------------------------------------------------------------------------------- fit


def _fit(arguments: argparse.Namespace) -> None:
    _check(arguments)
    if arguments.family is not None:
        _fit_general(arguments)
        return
    model = _model(arguments)
    if arguments.plan:
        print(model.plan())
        return
    start = time.perf_counter()
    result = _result(arguments, model)
    seconds = time.perf_counter() - start
    if arguments.json != "-":
        print(result.summary(ddf=arguments.ddf))
    if arguments.plot is not None:
        draw(result, arguments.plot)
    if arguments.json is not None:
        content = record(result, seconds, arguments.ddf)
        write_json(arguments.json, {"data": arguments.data, **content})


def _predict(arguments: argparse.Namespace) -> None:
    _check(arguments)
    check_file(arguments.out, "--out")
    if arguments.data == arguments.new == "-":
        raise CommandError("standard input holds one table; give a file for the other")
    new = read_data(arguments.new)
    if arguments.family is not None:
        result: Any = _general_result(arguments)[0]
    else:
        result = _result(arguments, _model(arguments))
    out: Any = sys.stdout if arguments.out == "-" else arguments.out
    for number, part in enumerate(frames_of(new, arguments.chunk_rows or CHUNK_ROWS)):
        table = predicted(result, part, arguments)
        try:
            table.to_csv(out, index=False, header=not number, mode="a" if number else "w")
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            raise CommandError(f"--out {arguments.out}: {first_line(error)}") from error


def _general_result(arguments: argparse.Namespace) -> tuple[Any, float]:
    """The fit of a generalized model, and its seconds."""
    with telling(f"reading {arguments.data}", arguments):
        model = model_of(arguments, read_data(arguments.data), NO_VARIABLES)
    start = time.perf_counter()
    with telling(size_of(model), arguments):
        result = model.fit()
    return result, time.perf_counter() - start


def _fit_general(arguments: argparse.Namespace) -> None:
    result, seconds = _general_result(arguments)
    if arguments.json != "-":
        print(result.summary())
    if arguments.plot is not None:
        draw(result, arguments.plot)
    if arguments.json is not None:
        content = record_of(result, seconds, own_versions())
        write_json(arguments.json, {"data": arguments.data, **content})


def _model(arguments: argparse.Namespace) -> MixedLM:
    with telling(f"reading {arguments.data}", arguments):
        data = read_data(arguments.data, in_parts=arguments.chunk_rows is not None)
    return MixedLM.from_formula(
        arguments.formula,
        data,
        re_formula=arguments.re,
        vc_formula=dict(arguments.vc) or None,
        subset=arguments.subset,
        missing=arguments.missing,
        groups=arguments.groups,
        weights=arguments.weights,
        offset=arguments.offset,
        residual=arguments.residual,
        dispersion=arguments.dispersion,
        eval_env=NO_VARIABLES,
        chunk_rows=CHUNK_ROWS if arguments.chunk_rows is None else arguments.chunk_rows,
        progress=_shown(arguments),
    )


def _result(arguments: argparse.Namespace, model: MixedLM) -> MixedLMResults:
    if arguments.engine == "dense" and model.nobs > DENSE_LIMIT:
        raise CommandError(
            f"--engine dense is meant for checks on at most {DENSE_LIMIT} rows; the data have "
            f"{model.nobs}"
        )
    with telling(size_of(model), arguments) as also:
        if model.built.layout.residual is None and arguments.engine != "dense":
            also(partial(expected, model))
        return model.fit(
            reml=not arguments.ml,
            method=arguments.method,
            engine=arguments.engine,
            progress=_shown(arguments),
        )


def _shown(arguments: argparse.Namespace) -> bool | None:
    """Whether progress is shown; None where that depends on the terminal."""
    return True if arguments.progress else False if arguments.quiet else None


# ------------------------------------------------------------------------- data sets and demo


def _info(arguments: argparse.Namespace) -> None:
    show_versions()


def _warm(arguments: argparse.Namespace) -> None:
    start = time.perf_counter()
    where = warm()
    print(f"compiled in {time.perf_counter() - start:.1f} s; kept in {where}")


def _list_datasets(arguments: argparse.Namespace) -> None:
    if arguments.name is not None:
        print(datasets.describe(arguments.name))
        return
    sets = [datasets.describe(name) for name in datasets.names()]
    for about in sets:
        what = textwrap.shorten(about.description, 60, placeholder=" ...")
        print(f"{about.name:<12} {about.n:>7,} rows  {what}")


def _demo(arguments: argparse.Namespace) -> None:
    text = datasets.data_dir().joinpath("demo.json").read_text(encoding="utf-8")
    for name, reference in json.loads(text).items():
        about, command = DEMO[name]
        print(textwrap.fill(about, 79))
        print(f"\n$ python -m sparselmm {shlex.join(command)}\n")
        options = _parser().parse_args(command)
        start = time.perf_counter()
        with warnings.catch_warnings():
            # The classroom labels are re-used and nested on purpose, as printed above.
            warnings.filterwarnings("ignore", r"vc_formula\['classroom'\]", SpecificationWarning)
            result = _result(options, _model(options))
        seconds = time.perf_counter() - start
        print(result.summary())
        print(f"\nRead and fitted in {seconds:.2f} s. Next to {reference['version']},")
        print(f"{reference['call']}:\n")
        print(comparison(result, reference) + "\n")


if __name__ == "__main__":
    sys.exit(main())
