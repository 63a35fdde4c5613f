"""Every example of the README runs in an empty folder and prints what the README shows."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sparselmm.__main__ import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^python -m sparselmm (.*)$", README, re.MULTILINE)


def test_every_example_is_followed_by_its_output():
    assert len(EXAMPLES) == README.count("```python") == 3
    assert len(COMMANDS) == 3


def lines(text):
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_example(tmp_path, code, output):
    assert len(code.splitlines()) <= 20
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.stderr == ""
    assert lines(run.stdout) == lines(output)


@pytest.mark.parametrize("command", COMMANDS)
def test_command(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)) == 0
    captured = capsys.readouterr()
    assert captured.out
    assert captured.err == ""
