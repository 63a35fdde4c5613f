"""Every option of the command line times a table of wrong values, and every kind of bad file.

A command works, or says in one line what is wrong and ends with exit code 2. The options are those
of the parser, so that a new one is tested from the day it exists.
"""

import argparse
import bz2
import gzip
import io
import lzma
import warnings
import zipfile

import pandas as pd
import pytest

from sparselmm import datasets
from sparselmm.__main__ import _parser, main

FORMULA = "Reaction ~ Days + (1 | Subject)"

WORDS = [
    *("", " ", "nope", "-1", "0", "nan", "None", "[]", "{}", "()", "(", "|", "~", "y ~", "=", "a="),
    *("=b", "a==b", "a=0 + C(Subject)", "a=(1 | b)", "--", "-", "%", "*", ".", "\\", "'"),
    *("a\0b", "a\nb", "é", "Days", "Reaction", "Subject", "Days =", "Days > 300"),
    *("@x", "lambda: 0", "Days[0]", "1 / 0", "Q('nope')", "C(Days", "bs(Days, df=1)", "/"),
    *("../..", "x" * 5000),
]  # fmt: skip
"""What is given to every option; some of it may be meant."""

FORMULAS = [
    *("Reaction ~ Days", "Reaction ~ nope + (1 | Subject)", "nope ~ Days + (1 | Subject)"),
    *("Reaction ~ Days + (1 | nope)", "Reaction ~ Reaction + (1 | Subject)", "Days ~ (1 | Days)"),
    *("Reaction ~ Days + (Reaction | Subject)", "Reaction ~ Days + (= | Subject)"),
    *("Days = 1 ~ (1 | Subject)", "Reaction ~ Days + (1 | exit())", "Reaction ~ " + "(" * 5000),
    *("log(Reaction - 1000) ~ Days + (1 | Subject)", "Subject ~ Days + (1 | Subject)"),
    "Reaction ~ exit() + (1 | Subject)",
    "Reaction ~ np.emath.sqrt(Days - 5) + (1 | Subject)",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a good file in it."""
    folder = tmp_path_factory.mktemp("home")
    datasets.load("sleepstudy").to_csv(folder / "sleep.csv", index=False)
    return folder


def options():
    """Options of ``fit``."""
    subparsers = next(a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    fit = subparsers.choices["fit"]
    return [a.option_strings[0] for a in fit._actions if a.option_strings and a.dest != "help"]


def faults(capsys, argv):
    """What is wrong with how a command ends."""
    call = " ".join(argv)[:120]
    capsys.readouterr()
    try:
        with warnings.catch_warnings():
            code = main(argv)
    except BaseException as error:
        return [f"{call}: {type(error).__name__}: {error}"]
    kinds = ("sparselmm: warning: ", "sparselmm: note: ")
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(kinds)]
    if code == 0:
        return [f"{call}: ends well and says {lines}"] if lines else []
    if code == 2 and len(lines) == 1 and lines[0].startswith("sparselmm: error: "):
        return []
    return [f"{call}: exit code {code}, {lines}"]


SLOW = {"--plot", "--re", "--json"}


@pytest.mark.parametrize(
    "option",
    [pytest.param(o, marks=pytest.mark.slow if o in SLOW else ()) for o in options()],
)
def test_wrong_values_of_every_option_are_one_line(home, monkeypatch, capsys, option):
    monkeypatch.chdir(home)
    within = option in ("--re", "--vc")
    formula = "Reaction ~ Days" if within or option == "--groups" else FORMULA
    base = ["fit", formula, "sleep.csv", *(["--groups", "Subject"] if within else [])]
    found = []
    for word in WORDS:
        found += faults(capsys, [*base, f"{option}={word}"])
        found += faults(capsys, [*base, option, word])
    assert not found


def test_wrong_words_in_every_place_are_one_line(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    found = []
    for word in [*WORDS, *FORMULAS]:
        found += faults(capsys, ["fit", word, "sleep.csv"])
        found += faults(capsys, ["fit", FORMULA, word])
        found += faults(capsys, ["datasets", word])
        found += faults(capsys, [word])
        found += faults(capsys, ["fit", FORMULA, "sleep.csv", word])
    assert not found


def compressed(raw):
    """Compressed forms of some text by their endings."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("sleep.csv", raw)
    return {
        "gz": gzip.compress(raw), "bz2": bz2.compress(raw), "xz": lzma.compress(raw),
        "zip": archive.getvalue(),
    }  # fmt: skip


def bad_files(home):
    """Names and contents of files that hold no table for the formula."""
    raw = (home / "sleep.csv").read_bytes()
    for ending, data in compressed(raw).items():
        half = len(data) // 2
        yield f"cut.csv.{ending}", data[:half]
        yield f"harmed.csv.{ending}", data[:half] + bytes(99 - b % 99 for b in data[half:])
        yield f"foreign.csv.{ending}", b"no" * 50
        yield f"empty.csv.{ending}", b""
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as file:
        file.writestr("a.csv", raw)
        file.writestr("b.csv", raw)
    yield "many.csv.zip", many.getvalue()
    yield "foreign.csv.zst", b"no" * 50
    yield from {
        "empty.csv": b"", "lines.csv": b"\n\n\n", "zeros.csv": bytes(100),
        "bytes.csv": bytes(range(256)), "no_ending": raw, "sleep.txt": raw,
        "utf16.csv": raw.decode().encode("utf-16"), "quote.csv": b'Reaction,Days,Subject\n"1,2,3\n',
        "head.csv": raw[: raw.index(b"\n") + 1], "row.csv": raw[: raw.index(b"\n", 40) + 1],
        "twice.csv": raw.replace(b"Subject", b"Days", 1), "semicolon.csv": raw.replace(b",", b";"),
        "text.csv": b"Reaction,Days,Subject\na,b,c\nd,e,f\n", "json.csv": b'{"a": 1}',
        "infinite.csv": raw.replace(b"249.56", b"inf"), "missing.csv": raw.replace(b"249.56", b""),
        "huge.csv": raw.replace(b"249.56", b"1e400"),
        "long.csv": raw.replace(b"249.56", b"9" * 400),
        "date.csv": raw.replace(b"249.56", b"2020-01-01"),
        "foreign.parquet": b"PAR1aaaaPAR1", "empty.pq": b"",
    }.items()  # fmt: skip


def test_bad_files_are_one_line(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = []
    for name, content in bad_files(home):
        (tmp_path / name).write_bytes(content)
        assert main(["fit", FORMULA, name]) == 2, name
        found += faults(capsys, ["fit", FORMULA, name])
    assert not found


@pytest.mark.parametrize("cell", [[1, 2], {"a": 1}, b"no"])
def test_nested_parquet_columns_are_one_line(tmp_path, monkeypatch, capsys, cell):
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    data = datasets.load("sleepstudy")
    pd.DataFrame({**data, "Days": [cell] * len(data)}).to_parquet("nested.parquet")
    assert main(["fit", "Reaction ~ 1 + (1 | Days)", "nested.parquet"]) == 2
    assert not faults(capsys, ["fit", FORMULA, "nested.parquet"])


def test_targets_that_cannot_be_written_are_one_line(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    for target in (".", "", "no/x", "/proc/nope", "a\0b", "x" * 5000):
        argv = ["fit", FORMULA, "sleep.csv", "--json", target]
        assert main(argv) == 2, target
        assert not faults(capsys, argv)
