"""The command line: good fits, what --json writes, one line per mistake."""

import bz2
import gzip
import io
import json
import lzma
import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reference_fits import reference_fit

from sparselmm import datasets
from sparselmm.__main__ import main
from sparselmm.model.command import demo
from sparselmm.model.command.demo import DEMO
from sparselmm.model.command.tables import read_data

ROOT = str(Path(__file__).parents[2])
SLEEP = "Reaction ~ Days + (Days | Subject)"
NESTED = [
    *("fit", "score ~ ses + female", "pupils", "--groups", "school", "--re", "1"),
    *("--vc", "classroom=0 + C(classroom)"),
]


@pytest.fixture
def table():
    """Labels with leading zeros, numbers that need all their digits."""
    data = datasets.load("sleepstudy")
    return data.assign(Subject="0" + data["Subject"].astype(str), w=1.0 / (1 + data["Days"]))


@pytest.fixture
def folder(tmp_path, monkeypatch, table):
    monkeypatch.chdir(tmp_path)
    table.to_csv("sleep.csv", index=False)
    table.to_csv("sleep.csv.gz", index=False)
    table.to_csv("sleep.tsv", index=False, sep="\t")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("Reaction,Days,Subject\n")
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n1,2,3,4\n")
    (tmp_path / "broken.csv.gz").write_bytes(b"not gzip")
    (tmp_path / "latin.csv").write_bytes("name,x\nZürich,1\n".encode("latin-1"))
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    (tmp_path / "table.xlsx").write_bytes(b"")
    missing = table.assign(Days=table["Days"].astype(float))
    missing.loc[[3, 17], "Days"] = np.nan
    missing.to_csv("missing.csv", index=False)
    return tmp_path


def fitted(capsys, *argv):
    """The JSON record of a fit that must succeed."""
    assert main(["fit", *argv, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def sd(record):
    rows = record["variance_components"]
    return {(row["grp"], row["var1"]): row["sdcor"] for row in rows if row["var2"] is None}


@pytest.mark.parametrize(
    "source", ["sleepstudy", "SLEEPSTUDY", "sleep.csv", "sleep.csv.gz", "sleep.tsv"]
)
def test_fit_reads_every_kind_of_text(folder, capsys, source):
    record = fitted(capsys, SLEEP, source)
    assert record["criterion"] == pytest.approx(reference_fit("sleep_slope_reml").criterion)


def test_fit_reads_parquet(folder, capsys, table):
    pytest.importorskip("pyarrow")
    table.to_parquet("sleep.parquet")
    record = fitted(capsys, SLEEP, "sleep.parquet")
    assert record["criterion"] == pytest.approx(reference_fit("sleep_slope_reml").criterion)


def test_parquet_without_pyarrow(folder, capsys, monkeypatch):
    def unable(path):
        raise ImportError("Missing optional dependency 'pyarrow'.")

    monkeypatch.setattr(pd, "read_parquet", unable)
    assert main(["fit", SLEEP, "broken.parquet"]) == 2
    assert "pip install pyarrow" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id\n007\n010\n", ["007", "010"]),
        ("id\n007\n\n010\n", ["007", "010"]),
        ("id,x\n007,1\n,1\n", ["007", np.nan]),
        ("id\n 01\n2\n", ["01", "2"]),
        ("id\n0\n10\n", [0, 10]),
        ("id\n0.5\n00.5\n", [0.5, 0.5]),
        ("id\n0123456789012345678901\n1\n", ["0123456789012345678901", "1"]),
        ("id\n0.1000000000000000055511151231257827\n", [0.1]),
        ("id\nB\n001\n", ["B", "001"]),
    ],
)
def test_leading_zeros_stay(tmp_path, capsys, text, expected):
    path = tmp_path / "ids.csv"
    path.write_text(text)
    pd.testing.assert_series_equal(
        read_data(str(path))["id"], pd.Series(expected), check_names=False, check_dtype=False
    )


def test_a_file_wins_over_a_data_set(folder, table):
    (folder / "pupils").mkdir()
    assert len(read_data("pupils")) == 22_214
    table.to_csv("sleepstudy.csv", index=False)
    assert "w" in read_data("sleepstudy.csv")


@pytest.mark.parametrize("engine", ["sparse", "dense"])
@pytest.mark.parametrize(
    ("option", "name"), [([], "sleep_slope_reml"), (["--ml"], "sleep_slope_ml")]
)
def test_json_holds_the_estimates(folder, capsys, option, name, engine):
    record, fit = (
        fitted(capsys, SLEEP, "sleep.csv", "--engine", engine, *option),
        reference_fit(name),
    )
    fixed = pd.DataFrame(record["fixed_effects"]).set_index("name")
    assert record["method"] == ("REML" if fit.reml else "ML")
    assert record["nobs"] == fit.n
    assert record["criterion"] == pytest.approx(fit.criterion, rel=1e-12)
    assert record["loglik"] == pytest.approx(fit.loglik, rel=1e-12)
    # The deviance is flat at its minimum: estimates are good to the root of its accuracy.
    assert record["sigma"] == pytest.approx(fit.sigma, rel=1e-5)
    assert record["scale"] == pytest.approx(fit.sigma**2, rel=1e-5)
    np.testing.assert_allclose(record["theta"], fit.theta, rtol=1e-4)
    np.testing.assert_allclose(fixed["estimate"], fit.fixef, rtol=1e-6)
    np.testing.assert_allclose(fixed["se"], np.sqrt(np.diag(fit.vcov)), rtol=1e-4)
    assert sd(record)["Subject", "Intercept"] == pytest.approx(fit.terms[0].cov[0, 0] ** 0.5, 1e-4)
    parameters = {row["name"]: row for row in record["variance_parameters"]}
    assert len(parameters) == 3
    for row in parameters.values():
        assert row["se"] > 0
    kind, other = ("aic", "aic_reml") if not fit.reml else ("aic_reml", "aic")
    assert record[kind] == pytest.approx(fit.aic)
    assert record["bic" + kind[3:]] == pytest.approx(fit.bic)
    assert record[other] is None
    convergence = record["convergence"]
    assert convergence["converged"] is True
    assert convergence["history"][-1]["criterion"] == pytest.approx(fit.criterion, rel=1e-6)
    assert record["versions"]["numpy"] == np.__version__


def test_what_does_not_exist_is_null(capsys):
    record = fitted(capsys, "Yield ~ 1 + (1 | Batch)", "Dyestuff2")
    assert record["convergence"]["singular"] is True
    assert record["variance_parameters"][0] == {"name": "Batch Var", "estimate": 0.0, "se": None}
    record = fitted(capsys, "Reaction ~ Days + I(2 * Days) + (1 | Subject)", "sleepstudy")
    assert record["dropped_columns"] == ["I(2 * Days)"]
    assert record["fixed_effects"][2]["estimate"] is None


def test_warnings_are_one_line(capsys):
    assert main(["fit", "Yield ~ 1 + (1 | Batch)", "Dyestuff2"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sparselmm: warning: ")
    assert "singular" in line


def test_the_three_spellings_agree(capsys):
    nested = fitted(capsys, *NESTED[1:])
    bars = fitted(capsys, "score ~ ses + female + (1 | school/classroom)", "pupils")
    assert nested["criterion"] == pytest.approx(bars["criterion"], rel=1e-12)
    assert nested["criterion"] == pytest.approx(reference_fit("pupils_nested_reml").criterion)
    assert [term["levels"] for term in nested["terms"]] == [150, 1248]


def test_columns_as_options(folder, capsys):
    weighted = reference_fit("sleep_w_reml")
    record = fitted(capsys, SLEEP, "sleep.csv", "--weights", "w")
    assert record["criterion"] == pytest.approx(weighted.criterion)
    record = fitted(capsys, "Reaction ~ Days + (1|Subject)", "sleepstudy", "--offset", "Days")
    assert record["fixed_effects"][1]["estimate"] == pytest.approx(9.467286, abs=1e-5)  # less 1
    record = fitted(capsys, SLEEP, "sleep.csv", "--subset", "Days > 1")
    assert record["nobs"] == 144
    record = fitted(capsys, SLEEP, "missing.csv", "--missing", "na.omit", "--method", "BFGS")
    assert record["nobs"] == 178
    assert record["convergence"]["optimizer"] == "bfgs"


def test_json_goes_to_a_file_next_to_the_summary(folder, capsys):
    assert main(["fit", SLEEP, "sleep.csv", "--json", "out.json", "--progress"]) == 0
    captured = capsys.readouterr()
    assert "Mixed Linear Model" in captured.out
    assert "evaluation 1: deviance" in captured.err
    assert json.loads((folder / "out.json").read_text())["data"] == "sleep.csv"


def test_plan_stops_before_the_fit(capsys):
    assert main(["fit", "y ~ 1 + (1|s) + (1|d)", "InstEval", "--plan"]) == 0
    out = capsys.readouterr().out
    assert "n = 73,421 rows" in out
    assert "Mixed Linear Model" not in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("", "required: COMMAND"),
        ("fitt", "invalid choice: 'fitt'"),
        ("fit y~x", "required: data"),
        ("fit y~x sleep.csv --sparse", "unrecognized arguments: --sparse"),
        ("fit Reaction~Days sleep.csv", "random"),
        ("fit Reaction sleep.csv", "no '~'"),
        ("fit Reaction~Days+(1|Subject sleep.csv", "brackets do not match"),
        ("fit Reaction~Day+(1|Subject) sleep.csv", "did you mean 'Days'"),
        ("fit Reaction~arguments+(1|Subject) sleep.csv", "'arguments'"),
        ("fit Reaction~os+(1|Subject) sleep.csv", "'os'"),
        ("fit Reaction~Days sleep.csv --groups Subjec", "did you mean 'Subject'"),
        ("fit Reaction~Days+(1|Subject) sleep.csv --weights v", "'v'"),
        ("fit Reaction~Days+(1|Subject) sleep.csv --offset v", "'v'"),
        ("fit Reaction~Days+(1|Subject) sleep.csv --subset Day>1", "subset"),
        ("fit Reaction~Days+(1|Subject) missing.csv", "missing"),
        ("fit Reaction~Days sleep.csv --re 1", "--re needs --groups"),
        ("fit Reaction~Days sleep.csv --vc a=0+C(Days)", "--vc needs --groups"),
        ("fit Reaction~Days sleep.csv --groups Subject --vc C(Days)", "NAME=FORMULA"),
        ("fit Reaction~Days sleep.csv --groups Subject --vc a=1 --vc a=2", "two --vc"),
        ("fit y~x sleep.csv --plan --json x", "--plan"),
        ("fit y~x sleep.csv --json no/x", "folder does not exist"),
        ("fit Reaction~Days+(1|Subject) sleep.csv --json .", "directory"),
        ("fit y~x sleep.csv --quiet --progress", "not allowed with"),
        ("fit y~x sleep.csv --method sgd", "unknown optimizer 'sgd'"),
        ("fit y~x sleep.csv --missing none --engine fast", "got 'fast'"),
        ("fit y~1+(1|s) InstEval --engine dense", "at most 5000 rows"),
        ("fit y~x nothing.csv", "there is no file 'nothing.csv'"),
        ("fit y~x sleepstudi", "did you mean 'sleepstudy'"),
        ("fit sleep.csv Reaction~Days+(1|Subject)", "before the data: 'Reaction~Days+(1|Subject)'"),
        ("predict sleep.csv sleep.csv y~x+(1|g)", "'y~x+(1|g)' sleep.csv sleep.csv"),
        ("y~x+(1|g) sleep.csv", "Write fit before the formula"),
        ("fit y~x+(1|g) --data sleep.csv", "second word after fit"),
        ("fit y~x+(1|g) sleep.csv --REML", "without --ml"),
        ("fit y~x+(1|g) sleep.csv --missing leave", "--missing must be one of"),
        ("fit Reaction~1+(1|Subject) sleep.csv --offset log(Days)", "offset(log(Days))"),
        ("fit y~x empty.csv", "empty.csv: the file is empty"),
        ("fit Reaction~Days+(1|Subject) header.csv", "no rows"),
        ("fit y~x ragged.csv", "ragged.csv: cannot be read"),
        ("fit y~x broken.csv.gz", "broken.csv.gz: cannot be read"),
        ("fit y~x latin.csv", "latin.csv: cannot be read"),
        ("fit y~x broken.parquet", "broken.parquet: "),
        ("fit y~x table.xlsx", "cannot tell the format"),
        ("fit y~x .", "there is no file '.'"),
        ("datasets sleepstudi", "sleepstudy"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(folder, capsys, argv, said):
    assert main(argv.split()) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if "note: " not in line]
    assert len(errors) == 1, captured.err
    assert errors[0].startswith("sparselmm: error: ")
    assert said in errors[0]


def damaged(data):
    """A file with wrong bytes in its middle."""
    middle = len(data) // 2
    return data[:middle] + bytes(255 - byte for byte in data[middle : middle + 20]) + data[middle:]


def zipped(data):
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("sleep.csv", data)
        return file.getvalue()


COMPRESS = {"xz": lzma.compress, "gz": gzip.compress, "bz2": bz2.compress, "zip": zipped}


@pytest.mark.parametrize("harm", ["damaged", "cut", "foreign", "empty"])
@pytest.mark.parametrize("ending", COMPRESS)
def test_a_damaged_file_is_one_line(folder, capsys, ending, harm):
    whole = COMPRESS[ending]((folder / "sleep.csv").read_bytes())
    harmed = {
        "damaged": damaged(whole), "cut": whole[: len(whole) // 2], "foreign": b"no" * 50,
        "empty": b"",
    }  # fmt: skip
    name = f"harmed.csv.{ending}"
    (folder / name).write_bytes(harmed[harm])
    assert main(["fit", SLEEP, name]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"error: {name}: " in err


@pytest.mark.parametrize(
    ("source", "content", "says"),
    [
        ("utf16.csv", "a,b\n1,2\n".encode("utf-16"), "not text in UTF-8"),
        ("binary.csv", bytes(range(255, 0, -1)) * 9, "not text in UTF-8"),
        ("n" * 5000 + ".csv", None, "there is no file"),
        ("nul\0.csv", None, "there is no file"),
    ],
)
def test_unreadable_sources(folder, capsys, source, content, says):
    if content is not None:
        (folder / source).write_bytes(content)
    assert main(["fit", SLEEP, source]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert says in err


def test_a_name_of_json_that_cannot_be(folder, capsys):
    assert main(["fit", SLEEP, "sleep.csv", "--json", "a\0b"]) == 2
    assert "--json" in capsys.readouterr().err.splitlines()[-1]


def test_interrupted(monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("sparselmm.__main__.read_data", interrupt)
    assert main(["fit", SLEEP, "sleepstudy"]) == 130


def test_datasets(capsys):
    assert main(["datasets"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == datasets.names()
    assert main(["datasets", "InstEval"]) == 0
    assert "73,421 rows" in capsys.readouterr().out


def test_demo_reaches_lme4_and_says_so(capsys):
    assert main(["demo"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    digits = {
        line.split(" vs ")[0].strip(): int(line.split()[-2])
        for line in captured.out.splitlines()
        if "agree to" in line
    }
    assert len(digits) == 7 + 7
    criteria = [count for name, count in digits.items() if name.startswith("criterion")]
    assert min(criteria) >= 11
    assert min(digits.values()) >= 5


def test_the_demo_knows_the_reference_fits():
    folder = datasets.data_dir()
    stored = json.loads(folder.joinpath("demo.json").read_text(encoding="utf-8"))
    script = runpy.run_path(str(folder.joinpath("make_demo.py")))
    assert stored == {name: script["numbers"](name) for name in script["MODELS"]}
    assert set(stored) == set(DEMO)


@pytest.mark.parametrize(
    ("value", "other", "digits"), [(1.0, 1.0, 15), (1.002, 1.0, 2), (2.0, 1.0, 0), (-1.0, 1.0, 0)]
)
def test_digits(value, other, digits):
    assert demo.digits(value, other) == digits


def test_as_a_program(folder):
    command = [sys.executable, "-m", "sparselmm", "fit", SLEEP]
    options = {"capture_output": True, "text": True, "env": {**os.environ, "PYTHONPATH": ROOT}}
    good = subprocess.run([*command, "sleep.csv"], check=True, **options)
    assert "-871.8141" in good.stdout
    bad = subprocess.run([*command, "nothing.csv"], check=False, **options)
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.startswith("sparselmm: error: there is no file 'nothing.csv'")


def test_generalized_models(capsys, tmp_path):
    target = tmp_path / "fit.json"
    formula = "cbind(incidence, size - incidence) ~ period + (1|herd)"
    assert main(["fit", formula, "cbpp", "--family", "binomial", "--json", str(target)]) == 0
    assert "-92.0263" in capsys.readouterr().out
    written = json.loads(target.read_text(encoding="utf-8"))
    assert written["loglik"] == pytest.approx(-92.026282, abs=1e-5)
    assert written["family"] == "binomial"
    assert written["convergence"]["separation"] == []
    assert main(["fit", formula, "cbpp", "--family", "binomial", "--nagq", "9"]) == 0
    assert "AGQ, 9 nodes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--link", "probit"], "--link needs --family"),
        (["--nagq", "3"], "--nagq needs --family"),
        (["--family", "binomial", "--ml"], "--ml is for linear models"),
        (["--family", "binomal"], "did you mean 'binomial'"),
    ],
)
def test_options_of_generalized_models(capsys, options, message):
    assert main(["fit", "y ~ 1 + (1|s)", "InstEval", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_picture_without_matplotlib_is_refused_before_the_fit(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert main(["fit", SLEEP, "sleepstudy", "--plot", "fit.png"]) == 2
    told = capsys.readouterr()
    assert not told.out
    assert told.err == (
        "sparselmm: error: plots need matplotlib, which is not installed: "
        "pip install 'sparselmm[plots]'\n"
    )


def test_a_reader_that_has_seen_enough_ends_predictions_quietly():
    command = f"{sys.executable} -m sparselmm predict 'y ~ service + (1 | dept)' InstEval InstEval"
    piped = f"{command} --quiet | head -n 2"
    run = subprocess.run(piped, shell=True, capture_output=True, text=True, cwd=ROOT, check=True)
    assert len(run.stdout.splitlines()) == 2
    assert run.stderr == ""
