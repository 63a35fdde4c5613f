"""Pipes, predictions, pictures, degrees of freedom and what the command line says meanwhile."""

import gzip
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sparselmm
from sparselmm import datasets
from sparselmm.__main__ import EXAMPLES, main

SLEEP = "Reaction ~ Days + (Days | Subject)"


class Pipe:
    def __init__(self, raw):
        self.buffer = io.BytesIO(raw)


def csv(separator=","):
    return datasets.load("sleepstudy").to_csv(index=False, sep=separator).encode()


@pytest.mark.parametrize(
    "raw", [csv(), csv("\t"), gzip.compress(csv())], ids=["commas", "tabs", "gzip"]
)
def test_standard_input(monkeypatch, capsys, raw):
    monkeypatch.setattr(sys, "stdin", Pipe(raw))
    assert main(["fit", SLEEP, "-", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["criterion"] == pytest.approx(1743.62827)


def test_parquet_from_standard_input(monkeypatch, capsys):
    pytest.importorskip("pyarrow")
    raw = io.BytesIO()
    datasets.load("sleepstudy").to_parquet(raw)
    monkeypatch.setattr(sys, "stdin", Pipe(raw.getvalue()))
    assert main(["fit", SLEEP, "-", "--quiet"]) == 0
    assert "-871.8141" in capsys.readouterr().out


def test_leading_zeros_in_a_pipe_stay(monkeypatch, capsys):
    data = datasets.load("sleepstudy")
    data["Subject"] = "0" + data.Subject.astype(str)
    monkeypatch.setattr(sys, "stdin", Pipe(data.to_csv(index=False).encode()))
    assert main(["predict", SLEEP, "-", "sleepstudy", "--quiet"]) == 0
    assert "leading zeros" in capsys.readouterr().err


def test_long_labels_with_missing_ones_are_not_merged(tmp_path, monkeypatch, capsys):
    data = datasets.load("sleepstudy")
    data["Subject"] = [10**17 + int(label) for label in data["Subject"]]
    data["Subject"] = data["Subject"].astype("Int64").mask(data.index == 3)
    data.to_csv(tmp_path / "rows.csv", index=False)
    for more in ([], ["--chunk-rows", "50"]):
        argv = ["fit", SLEEP, str(tmp_path / "rows.csv"), "--missing", "drop", *more]
        assert main(argv) == 0
        assert re.search(r"Groups Subject: +18 ", capsys.readouterr().out)


@pytest.mark.parametrize(("raw", "says"), [(b"", "is empty"), (b"a,b\n1,2\n1,2,3,4\n", "fields"),
                                           (b"\x1f\x8bno", "cannot be read")])  # fmt: skip
def test_bad_pipes(monkeypatch, capsys, raw, says):
    monkeypatch.setattr(sys, "stdin", Pipe(raw))
    assert main(["fit", SLEEP, "-"]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_degrees_of_freedom(capsys):
    assert main(["fit", SLEEP, "sleepstudy", "--ddf", "KR"]) == 0
    assert "t tests by Kenward and Roger" in capsys.readouterr().out
    assert main(["fit", SLEEP, "sleepstudy", "--ddf", "Satterthwaite", "--json", "-"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["ddf"] == "satterthwaite"
    days = record["fixed_effects"][1]
    assert days["df"] == pytest.approx(17.0, abs=1e-3)
    assert days["t"] == pytest.approx(6.7715, abs=1e-3)
    assert main(["fit", SLEEP, "sleepstudy", "--ddf", "kenwood"]) == 2
    assert "--ddf must be one of" in capsys.readouterr().err
    assert main(["fit", "r2 ~ 1 + (1 | id)", "VerbAgg", "--family", "binomial", "--ddf", "KR"]) == 2


def predictions(capsys, *options):
    assert main(["predict", SLEEP, "sleepstudy", *options, "--quiet"]) == 0
    return pd.read_csv(io.StringIO(capsys.readouterr().out))


def test_predict(tmp_path, capsys):
    fit = sparselmm.mixedlm(SLEEP, datasets.load("sleepstudy")).fit()
    new = datasets.load("sleepstudy")[:5].assign(Subject=["308", "309", "330", "308", "nobody"])
    new.to_csv(tmp_path / "new.csv", index=False)
    known, other = str(tmp_path / "new.csv"), ["--random", "--unseen", "population"]
    found = predictions(capsys, known)
    assert found.predicted.to_numpy() == pytest.approx(fit.predict(new).to_numpy())
    assert list(found.columns) == ["Reaction", "Days", "Subject", "predicted"]
    found = predictions(capsys, known, *other)
    wanted = fit.predict(new, re=True, unseen="population")
    assert found.predicted.to_numpy() == pytest.approx(wanted.to_numpy())
    for kind, name in (("confidence", "mean"), ("prediction", "obs")):
        found = predictions(capsys, known, *other, "--interval", kind)
        frame = fit.get_prediction(new, re=True, unseen="population").summary_frame()
        ends = frame[[f"{name}_ci_lower", f"{name}_ci_upper"]]
        assert found[["lower_95", "upper_95"]].to_numpy() == pytest.approx(ends.to_numpy())
    out = tmp_path / "out.csv"
    assert main(["predict", SLEEP, "sleepstudy", known, "--out", str(out)]) == 0
    assert len(pd.read_csv(out)) == 5
    assert main(["predict", SLEEP, "sleepstudy", known, "--random"]) == 2
    assert "unseen" in capsys.readouterr().err
    assert main(["predict", SLEEP, "-", "-"]) == 2
    assert main(["predict", SLEEP, "sleepstudy", known, "--out", "nowhere/x.csv"]) == 2


def test_files_are_read_in_partitions(tmp_path, capsys):
    pytest.importorskip("pyarrow")
    data = datasets.load("sleepstudy")
    (tmp_path / "parts").mkdir()
    for j in range(3):
        data[60 * j : 60 * j + 60].to_parquet(tmp_path / "parts" / f"{j}.parquet")
    data.to_csv(tmp_path / "rows.csv", index=False)
    whole = sparselmm.mixedlm(SLEEP, data).fit()
    for source in ("parts", "parts/*.parquet", "rows.csv"):
        arguments = ["fit", SLEEP, str(tmp_path / source), "--chunk-rows", "50"]
        assert main(arguments) == 0
        assert str(whole.summary()) in capsys.readouterr().out
        assert main([*arguments, "--progress"]) == 0
        assert "fitting 180 rows" in capsys.readouterr().err
    for out in (["--out", str(tmp_path / "out.csv")], []):
        assert main(["predict", SLEEP, str(tmp_path / "parts"), str(tmp_path / "parts"),
                     "--random", "--chunk-rows", "50", *out]) == 0  # fmt: skip
        text = capsys.readouterr().out
        found = pd.read_csv(tmp_path / "out.csv" if out else io.StringIO(text))
        assert found.predicted.to_numpy() == pytest.approx(whole.fittedvalues.to_numpy(), rel=1e-6)
    assert main([*arguments[:3], "--chunk-rows", "0"]) == 2
    assert "chunk_rows must be a positive integer" in capsys.readouterr().err


def test_predict_of_a_family(capsys):
    formula = "r2 ~ Anger + (1 | id)"
    command = ["predict", formula, "VerbAgg", "VerbAgg", "--family", "binomial"]
    assert main([*command, "--interval", "confidence"]) == 0
    found = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert ((found.lower_95 < found.predicted) & (found.predicted < found.upper_95)).all()
    assert main([*command, "--interval", "prediction"]) == 2


@pytest.mark.parametrize("formula", [SLEEP, "Reaction ~ 1 + (1 | Subject)"])
def test_pictures(tmp_path, capsys, formula):
    pytest.importorskip("matplotlib")
    file = tmp_path / "fit.png"
    assert main(["fit", formula, "sleepstudy", "--plot", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG")
    for wrong in (str(tmp_path / "fit.nope"), "nowhere/fit.png"):
        assert main(["fit", formula, "sleepstudy", "--plot", wrong]) == 2
        assert "--plot" in capsys.readouterr().err
    assert main(["fit", formula, "sleepstudy", "--plot", "x.png", "--plan"]) == 2


def test_progress_begins_with_the_plan(capsys):
    assert main(["fit", SLEEP, "sleepstudy", "--progress"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "sparselmm: reading sleepstudy"
    assert lines[1] == "sparselmm: fitting 180 rows, 36 random effects"
    assert re.match(r"sparselmm: about .* s an evaluation, some \d+ of them", lines[2])
    assert main(["fit", SLEEP, "sleepstudy", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_examples_of_the_help_run(capsys):
    commands = [line for line in EXAMPLES.splitlines() if line.startswith("  python")]
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "sparselmm"]
        assert main(words[3:]) == 0
        assert len(capsys.readouterr().out.splitlines()) > 10
    with pytest.raises(SystemExit):
        main(["--help"])
    assert EXAMPLES.splitlines()[1] in capsys.readouterr().out


SMALL = """
import sys, warnings
import sparselmm
from sparselmm import datasets
warnings.simplefilter("ignore")
for name, formula in {
    "sleepstudy": "Reaction ~ Days + (Days | Subject)",
    "Penicillin": "diameter ~ 1 + (1 | plate) + (1 | sample)",
    "Pastes": "strength ~ 1 + (1 | batch / cask)",
    "Machines": "score ~ Machine + (0 + Machine | Worker)",
    "dietox": "Weight ~ Time + Cu + (Time | Pig)",
    "ergoStool": "effort ~ Type + (1 | Subject)",
    "Oats": "Yield ~ nitro * Variety + (1 | Block / Variety)",
    "cbpp": "size ~ period + (1 | herd)",
}.items():
    result = sparselmm.mixedlm(formula, datasets.load(name)).fit()
    result.summary(); result.anova(); result.predict(); result.ranef; result.emmeans
    assert "numba" not in sys.modules, name
"""


def test_small_models_compile_nothing():
    root = Path(sparselmm.__file__).parents[1]
    subprocess.run([sys.executable, "-W", "ignore", "-c", SMALL], check=True, cwd=root)


COMPILING = """
import numpy as np
from sparselmm.base import compiling, kernels
compiling.TELL_AFTER = 0.0
out = np.zeros((2, 1))
kernels.add_rows(np.array([0, 1]), np.ones((2, 1)), out)
kernels.add_rows(np.array([0, 1], dtype=np.int32), np.ones((2, 1)), out)
assert out.tolist() == [[2.0], [2.0]]
"""


@pytest.mark.parametrize("folder", ["fresh", "/proc/nowhere"])
def test_compiling_is_told_once_and_needs_no_cache(tmp_path, folder):
    env = {"PATH": "", "NUMBA_CACHE_DIR": str(tmp_path) if folder == "fresh" else folder}
    root = Path(sparselmm.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", COMPILING], check=True, cwd=root, env=env, capture_output=True,
        text=True,
    )  # fmt: skip
    told = done.stderr.count("sparselmm: compiling")
    if folder == "fresh":
        assert told == 1
        assert any(tmp_path.rglob("*.nbi"))
    else:  # numba turns to another folder, where the machine code may be from before
        assert told <= 1


def compiling(folder, before=""):
    """What a process that calls one loop says; ``before`` runs first."""
    env = {"PATH": "", "HOME": str(folder), "NUMBA_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", before + COMPILING], check=True, env=env, capture_output=True,
        cwd=Path(sparselmm.__file__).parents[1], text=True,
    )  # fmt: skip
    return done.stderr


NOWHERE = """
import tempfile
def refuse(*args, **kwargs):
    raise PermissionError("read-only")
tempfile.TemporaryFile = refuse
"""


@pytest.mark.slow
def test_a_cache_that_can_only_be_read_is_used(tmp_path):
    assert "compiling" in compiling(tmp_path / "none", NOWHERE)
    assert "compiling" in compiling(tmp_path)
    kept = sorted(tmp_path.rglob("*.nb?"))
    assert compiling(tmp_path, NOWHERE) == ""
    assert sorted(tmp_path.rglob("*.nb?")) == kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "content"), [("*.nbi", b""), ("*.nbc", b"cut"), ("*.nbi", b"x" * 99)]
)
def test_a_damaged_cache_is_made_again(tmp_path, kind, content):
    compiling(tmp_path)
    for file in tmp_path.rglob(kind):
        file.write_bytes(content)
    assert "compiling" in compiling(tmp_path)
    assert compiling(tmp_path) == ""


def test_numbers_of_the_fit_do_not_depend_on_being_told():
    assert np.isfinite(sparselmm.mixedlm(SLEEP, datasets.load("sleepstudy")).fit().llf)


def test_several_files_and_other_separators_get_a_hint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = datasets.load("sleepstudy")
    data.to_csv("a.csv", index=False)
    data.to_csv("b.csv", index=False, sep=";")
    for files, says in ((["a.csv", "b.csv"], "pattern in quotes"), (["b.csv"], "';' between")):
        assert main(["fit", SLEEP, *files]) == 2
        assert says in capsys.readouterr().err


AR1 = ("Reaction ~ Days", "--residual", "ar1(Days | Subject)", "--random", "--quiet")


def predictions_of(capsys, data, new, *options):
    formula, *model = options
    assert main(["predict", formula, str(data), str(new), *model]) == 0
    return pd.read_csv(io.StringIO(capsys.readouterr().out))


def test_predictions_do_not_depend_on_the_interval_asked_for(tmp_path, capsys):
    """Residuals shared with the rows of the fit came to them where there was one, only."""
    data = datasets.load("sleepstudy")
    new = data.iloc[::10].assign(Days=12)
    data.to_csv(tmp_path / "old.csv", index=False)
    new.to_csv(tmp_path / "new.csv", index=False)
    fit = sparselmm.mixedlm(AR1[0], data, residual=AR1[2]).fit()
    expected = fit.get_prediction(new, re=True).predicted_mean
    for more in ([], ["--interval", "prediction"], ["--interval", "confidence"],
                 ["--chunk-rows", "50"]):  # fmt: skip
        table = predictions_of(capsys, tmp_path / "old.csv", tmp_path / "new.csv", *AR1, *more)
        assert table.predicted.to_numpy() == pytest.approx(expected, rel=1e-8)
        assert table.shape[1] == new.shape[1] + (3 if "--interval" in more else 1)


def test_new_observations_have_their_weights(tmp_path, capsys):
    data = datasets.load("sleepstudy").assign(w=lambda d: 1.0 / (1 + d.Days))
    data.to_csv(tmp_path / "rows.csv", index=False)
    options = (SLEEP, "--weights", "w", "--interval", "prediction", "--quiet")
    table = predictions_of(capsys, tmp_path / "rows.csv", tmp_path / "rows.csv", *options)
    fit = sparselmm.mixedlm(SLEEP, data, weights="w").fit()
    frame = fit.get_prediction(data, weights=data.w).summary_frame()
    assert table.upper_95.to_numpy() == pytest.approx(frame.obs_ci_upper.to_numpy(), rel=1e-8)
    argv = ["predict", SLEEP, str(tmp_path / "rows.csv"), "sleepstudy", *options[1:]]
    assert main(argv) == 2
    assert "'w', used in weights=, in the new data, is not a column" in capsys.readouterr().err


def test_rows_with_a_separator_at_their_end(tmp_path, capsys):
    """Pandas would take the first field of each for its name, and move the others."""
    lines = csv().decode().splitlines()
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join([lines[0], *(f"{line}," for line in lines[1:])]))
    assert main(["fit", "Days ~ 1 + (1 | Reaction)", str(rows)]) == 2
    assert "a field more than the header" in capsys.readouterr().err
    rows.write_text("\n".join([lines[0], *(f"r{i},{line}" for i, line in enumerate(lines[1:]))]))
    assert main(["fit", SLEEP, str(rows)]) == 0  # as R writes it, with names of the rows


def test_output_in_an_encoding_without_the_letters(tmp_path):
    data = datasets.load("sleepstudy").rename(columns={"Days": "Täge"})
    data.to_csv(tmp_path / "rows.csv", index=False)
    command = [sys.executable, "-m", "sparselmm", "fit", "Reaction ~ Täge + (1 | Subject)"]
    done = subprocess.run([*command, str(tmp_path / "rows.csv")], capture_output=True, text=True,
                          check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"})  # fmt: skip
    assert done.returncode == 2
    assert "set PYTHONIOENCODING=utf-8" in done.stderr
    assert done.stderr.count("\n") == 1
