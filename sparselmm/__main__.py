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
import glob
import gzip
import io
import json
import os
import platform
import shlex
import sys
import textwrap
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import numpy as np
import pandas as pd

from sparselmm import __version__, datasets
from sparselmm.base.arguments import suggestion
from sparselmm.base.exceptions import ModelWarning, SparseLMMError, SpecificationWarning
from sparselmm.base.providers import provider, show_versions, versions
from sparselmm.design.sources.files import format_of
from sparselmm.likelihood.optimize import SCIPY_METHODS
from sparselmm.model.command_parts import (
    add_predict_options,
    check_ddf,
    check_file,
    draw,
    predicted,
    size_of,
    telling,
)
from sparselmm.model.generalized_command import add_options, model_of, record_of, refused
from sparselmm.model.mixedlm import DENSE_LIMIT, MixedLM
from sparselmm.model.warming import warm
from sparselmm.results import MixedLMResults
from sparselmm.results.residual import ResidualResults

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
LIBRARIES = ("numpy", "scipy", "pandas", "patsy", "numba", "scikit-sparse", "cvxopt")
PARQUET = (".parquet", ".pq")
ARROW = (".arrow", ".feather", ".ipc")
LARGE_FILE = 1 << 28
"""Bytes of a Parquet file from which only the columns of the formula are read."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zip", ".zst")
NO_VARIABLES = -2
"""``eval_env`` with which a formula sees the columns and R's functions, no variable of ours."""

LEADING_ZERO = r"[+-]?0\d+"
"""Whole numbers whose text is lost when they are read as numbers: labels such as 007."""

EXAMPLES = """\
examples:
  python -m sparselmm fit "Reaction ~ Days + (Days | Subject)" sleepstudy --ddf KR
  python -m sparselmm fit "r2 ~ Anger + (1 | id) + (1 | item)" VerbAgg --family binomial
  python -m sparselmm predict "Yield ~ nitro + (1 | Block)" Oats Oats --interval confidence
A table may come from a pipe: cat table.csv | python -m sparselmm fit "y ~ x + (1 | g)" -
"""
"""What ``--help`` shows; the commands run as they stand."""

DEMO = {
    "insteval_3re_reml": (
        "Three crossed factors: students rate the lectures of lecturers, in departments.",
        ["fit", "y ~ 1 + service + (1|s) + (1|d) + (1|dept)", "InstEval"],
    ),
    "pupils_nested_reml": (
        "Pupils in classrooms in schools, written as statsmodels does. The labels 1, 2, ... of "
        "classrooms are used again in every school and are nested on purpose; the warning that "
        "says so is left out here.",
        [
            *("fit", "score ~ ses + female", "pupils"),
            *("--groups", "school", "--re", "1", "--vc", "classroom=0 + C(classroom)"),
        ],
    ),
}
"""Name of a record in ``data/demo.json``, what the model is, and its command."""


class CommandError(Exception):
    """The command cannot be carried out as given."""


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
        _say("error", error)
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


def _say(kind: str, message: object) -> None:
    """One line on stderr: of a message that holds a table, its first line and its last."""
    lines = str(message).splitlines() or [type(message).__name__]
    text = lines[0] if len(lines) == 1 else f"{lines[0].rstrip(': ')}. {lines[-1]}"
    print(f"sparselmm: {kind}: {text}", file=sys.stderr)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _say("warning", message)


# -------------------------------------------------------------------------------- arguments


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        several = message.startswith("unrecognized arguments: ") and " -" not in message
        files = (
            ". Several files are one table by a pattern in quotes, 'folder/*.csv'"
            if several
            else ""
        )
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
        choices=["none", "drop", "raise"],
        default="none",
        help="'drop' leaves out rows with missing values; otherwise they are an error",
    )
    add("--ml", action="store_true", help="maximum likelihood instead of REML")
    add(
        "--method",
        choices=["newton", *SCIPY_METHODS],
        metavar="NAME",
        help=f"optimizer: newton (default), {', '.join(SCIPY_METHODS)}",
    )
    add(
        "--engine",
        choices=["auto", "sparse", "krylov", "dense"],
        default="auto",
        help="krylov: conjugate gradients, for huge crossed designs; dense: slow, for checks",
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


def read_data(source: str) -> pd.DataFrame | str:
    """Read a table from a file, or load a data set by its name.

    Parameters
    ----------
    source : str
        Path of a ``.csv``, ``.tsv`` (also compressed) or ``.parquet`` file, or a name of
        :func:`sparselmm.datasets.names`. A file wins over a data set of the same name. A folder of
        files, a pattern such as ``"sales/*.parquet"`` and files of Arrow are read by Arrow.

    Returns
    -------
    DataFrame or str
        As pandas reads it, except that a column of whole numbers with leading zeros stays text; of
        what Arrow shall read, by the columns of the formula, the path.

    Raises
    ------
    CommandError
        If it cannot be read; one line that names the file.
    """
    if source == "-":
        return _read_pipe()
    path = Path(source)
    if not _is_file(path):
        known = datasets.names()
        if source.casefold() in map(str.casefold, known):
            return datasets.load(source)
        if _are_files(path, source):
            return source
        raise CommandError(
            f"there is no file {source!r}, nor a data set of that name (those are listed by "
            f"'sparselmm datasets'){suggestion(source, known)}"
        )
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in COMPRESSED:
        endings.pop()
    ending = endings[-1] if endings else ""
    large = ending in PARQUET and path.stat().st_size > LARGE_FILE
    if large or ending in ARROW:
        return source
    if ending not in (*SEPARATORS, *PARQUET):
        raise CommandError(
            f"{source}: cannot tell the format from the ending; it should be "
            f"{', '.join(SEPARATORS)} (these may be compressed: {', '.join(COMPRESSED)}) or "
            f"{PARQUET[0]}"
        )
    try:
        return _read_parquet(path) if ending in PARQUET else _read_text(path, SEPARATORS[ending])
    except ImportError as error:
        raise CommandError(
            f"{source}: {_first_line(error)} For .parquet: pip install pyarrow"
        ) from error
    except pd.errors.EmptyDataError as error:
        raise CommandError(f"{source}: the file is empty") from error
    except UnicodeDecodeError as error:
        raise CommandError(
            f"{source}: cannot be read: it is not text in UTF-8 ({_first_line(error)}); save it in "
            "that encoding"
        ) from error
    except Exception as error:  # every format has errors of its own for a damaged file
        raise CommandError(f"{source}: cannot be read: {_first_line(error)}") from error


def _are_files(path: Path, source: str) -> bool:
    """Whether it is a folder of files of one format, or a pattern that stands for files."""
    try:
        if path.is_dir():
            inside = [*path.glob("*.*"), *path.glob("*=*/**/*.*")]
            formats = {format_of(str(file)) for file in inside}
            return len(formats) == 1 and None not in formats
        return bool(set(source) & set("*?[")) and bool(glob.glob(source, recursive=True))
    except OSError:
        return False


def _read_pipe() -> pd.DataFrame:
    """A table from standard input: commas or tabs, also compressed by gzip, or Parquet."""
    try:
        raw = sys.stdin.buffer.read()
    except (OSError, ValueError, AttributeError) as error:
        raise CommandError(f"-: standard input cannot be read: {_first_line(error)}") from error
    try:
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        if raw[:4] == b"PAR1":
            return _read_parquet(io.BytesIO(raw))
        first = raw.partition(b"\n")[0]
        return _read_text(io.BytesIO(raw), "\t" if first.count(b"\t") > first.count(b",") else ",")
    except pd.errors.EmptyDataError as error:
        raise CommandError("-: standard input is empty") from error
    except Exception as error:  # every format has errors of its own
        raise CommandError(f"-: standard input cannot be read: {_first_line(error)}") from error


def _is_file(path: Path) -> bool:
    """Whether there is a file of that name; a name too long for one is none."""
    try:
        return path.exists() and not path.is_dir()
    except OSError:
        return False


def _first_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0]


def _read_parquet(path: Path | io.BytesIO) -> pd.DataFrame:
    data: pd.DataFrame = pd.read_parquet(path)
    return data


def _read_text(path: Path | io.BytesIO, separator: str) -> pd.DataFrame:
    """Delimited text; a second look at columns of whole numbers finds leading zeros."""
    options: Any = {"sep": separator, "low_memory": False}
    data: pd.DataFrame = pd.read_csv(path, **options)
    whole = [name for name in data.columns if _is_whole(data[name])]
    if whole:
        if isinstance(path, io.BytesIO):
            path.seek(0)
        text = pd.read_csv(path, **options, dtype=dict.fromkeys(whole, str))
        for name in whole:
            if text[name].str.strip().str.fullmatch(LEADING_ZERO).any():
                data[name] = text[name].str.strip()
                _say("note", f"column {name!r} has numbers with leading zeros and is read as text")
    return data


def _is_whole(column: pd.Series) -> bool:
    """Whether the text of a column of numbers may have been whole numbers."""
    if column.dtype.kind == "f":
        values = column.dropna().to_numpy()
        return len(values) > 0 and bool(np.all(values == np.trunc(values)))
    return bool(pd.api.types.infer_dtype(column) == "integer")


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
        _write_json(arguments.json, {"data": arguments.data, **content})


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
    table = predicted(result, new, arguments)
    if arguments.out == "-":
        table.to_csv(sys.stdout, index=False)
        return
    try:
        table.to_csv(arguments.out, index=False)
    except (OSError, ValueError) as error:
        raise CommandError(f"--out {arguments.out}: {_first_line(error)}") from error


def _general_result(arguments: argparse.Namespace) -> tuple[Any, float]:
    """The fit of a generalized model, and its seconds."""
    with telling(f"reading {arguments.data}", arguments):
        model = model_of(arguments, read_data(arguments.data), NO_VARIABLES)
    start = time.perf_counter()
    with telling(size_of(model, linear=False), arguments):
        result = model.fit()
    return result, time.perf_counter() - start


def _fit_general(arguments: argparse.Namespace) -> None:
    result, seconds = _general_result(arguments)
    if arguments.json != "-":
        print(result.summary())
    if arguments.plot is not None:
        draw(result, arguments.plot)
    if arguments.json is not None:
        content = record_of(result, seconds, _versions())
        _write_json(arguments.json, {"data": arguments.data, **content})


def _versions() -> dict[str, str]:
    return {
        "sparselmm": __version__,
        "python": platform.python_version(),
        **{name: found for name, found in versions().items() if name in LIBRARIES},
        "sparse factors": str(provider()),
    }


def _model(arguments: argparse.Namespace) -> MixedLM:
    with telling(f"reading {arguments.data}", arguments):
        data = read_data(arguments.data)
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
    )


def _result(arguments: argparse.Namespace, model: MixedLM) -> MixedLMResults:
    if arguments.engine == "dense" and model.nobs > DENSE_LIMIT:
        raise CommandError(
            f"--engine dense is meant for checks on at most {DENSE_LIMIT} rows; the data have "
            f"{model.nobs}"
        )
    with telling(size_of(model, linear=True), arguments):
        return model.fit(
            reml=not arguments.ml,
            method=arguments.method,
            engine=arguments.engine,
            progress=True if arguments.progress else False if arguments.quiet else None,
        )


def record(result: MixedLMResults, seconds: float, ddf: str | None = None) -> dict[str, Any]:
    """What ``--json`` writes: estimates, how they were found, and with which versions.

    Parameters
    ----------
    result : MixedLMResults
        A fit of a formula.
    seconds : float
        Time of the fit.
    ddf : str, optional
        Method of the degrees of freedom of the tests of fixed effects.

    Returns
    -------
    dict
        Of strings, booleans, numbers, lists and dicts. Variances, covariances and their
        standard errors are in the units of the data, theta is relative to sigma. Numbers that
        do not exist are NaN here and null in the file.
    """
    reml, opt = result.reml, result.opt
    parameters = pd.DataFrame(
        {
            "estimate": result.params,
            "se": result.bse,
            "z": result.tvalues,
            "p": result.pvalues,
            "lower_95": result.conf_int()[0],
            "upper_95": result.conf_int()[1],
        }
    )
    fixed = parameters.iloc[: result.k_fe]
    if ddf is not None:
        names = {
            "estimate": "estimate", "std.error": "se", "df": "df", "statistic": "t",
            "p.value": "p", "conf.low": "lower_95", "conf.high": "upper_95",
        }  # fmt: skip
        tests = result.tidy("fixed", conf_int=True, ddf=ddf).set_index("term")
        fixed = tests[[name for name in names if name in tests]].rename(columns=names)
    variances = result.params.iloc[result.k_fe :] * result.scale
    return {
        "formula": result.model.formula,
        "method": result.method,
        "ddf": ddf,
        "nobs": result.nobs,
        "df_resid": result.df_resid,
        "terms": [
            {"name": term.name, "levels": term.n_levels, "coefficients": list(term.columns)}
            for term in result.model.terms
        ],
        "fixed_effects": fixed.rename_axis("name").reset_index().to_dict(orient="records"),
        "dropped_columns": list(result.dropped),
        "variance_parameters": [
            {"name": name, "estimate": estimate, "se": se}
            for name, estimate, se in zip(variances.index, variances, result.bse_re, strict=True)
        ],
        "variance_components": result.varcorr.to_dict(orient="records"),
        **_residual_record(result),
        "theta": result.theta.tolist(),
        "sigma": result.sigma,
        "scale": result.scale,
        "criterion": result.pls.deviance,
        "loglik": result.llf,
        "aic": result.aic,
        "bic": result.bic,
        "aic_reml": result.aic_reml if reml else None,
        "bic_reml": result.bic_reml if reml else None,
        "convergence": {
            "converged": opt.converged,
            "singular": result.singular,
            "optimizer": opt.method,
            "message": opt.message,
            "evaluations": opt.n_evaluations,
            "gradient_norm": opt.gradient_norm,
            "expected_decrease": opt.expected_decrease,
            "smallest_eigenvalue": opt.smallest_eigenvalue,
            "at_boundary": opt.at_boundary.tolist(),
            "history": [
                {"theta": at.theta.tolist(), "criterion": at.deviance, "seconds": at.seconds}
                for at in opt.history
            ],
        },
        "seconds": seconds,
        "versions": _versions(),
    }


def _residual_record(result: MixedLMResults) -> dict[str, Any]:
    """Parameters of the residuals, where they have a structure."""
    if not isinstance(result, ResidualResults):
        return {}
    table = result.residual_params().rename_axis("name").reset_index()
    return {"residual_parameters": table.to_dict(orient="records")}


def _write_json(target: str, content: dict[str, Any]) -> None:
    text = json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise CommandError(f"--json {target}: {_first_line(error)}") from error


def _plain(value: Any) -> Any:
    """Python's own types, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


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
        print(_comparison(result, reference) + "\n")


def _comparison(result: MixedLMResults, reference: dict[str, Any]) -> str:
    """Estimates beside stored ones, with the number of digits in which they agree."""
    ours = dict(zip(result.varcorr["grp"], result.varcorr["sdcor"], strict=True))
    pairs = [("criterion", -2.0 * result.llf, reference["criterion"])]
    fixed = zip(result.fe_params.items(), reference["fixef"].values(), strict=True)
    pairs += [(name, value, theirs) for (name, value), theirs in fixed]
    for group, theirs in reference["sd"].items():
        name = group.partition(":")[0]  # lme4 calls classrooms in schools classroom:school
        pairs.append((f"sd {name}", ours[name], theirs))
    lines = [
        f"{name:<14} {value:>15.6f} vs {theirs:>15.6f}: agree to {_digits(value, theirs)} digits"
        for name, value, theirs in pairs
    ]
    return "\n".join(lines)


def _digits(value: float, other: float) -> int:
    """Leading decimal digits in which two numbers agree, at most the 15 of a double."""
    apart = abs(value - other) / abs(other)
    return 15 if apart == 0 else max(0, min(15, int(-np.log10(apart))))


if __name__ == "__main__":
    sys.exit(main())
