"""Write ``data/demo.json``: what lme4 finds for the models of ``python -m sparselmm demo``.

    python data/make_demo.py

The numbers are those of the records in ``reference/fits``, which are not installed with the
package; a test checks that the file is up to date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODELS = ("insteval_3re_reml", "pupils_nested_reml")


def main() -> None:
    """Write the file."""
    text = json.dumps({name: numbers(name) for name in MODELS}, indent=1)
    (HERE / "demo.json").write_text(text + "\n", encoding="utf-8")


def numbers(name: str) -> dict[str, Any]:
    """What the demonstration shows of one reference fit, names as lme4 writes them."""
    path = HERE / "reference" / "fits" / f"{name}.json"
    fit = json.loads(path.read_text(encoding="utf-8"))
    deviations = {term["group"]: term["sd"][0] for term in fit["terms"]}
    return {
        "call": fit["call"],
        "version": fit["software"].rpartition(", ")[2],
        "criterion": fit["criterion"],
        "fixef": dict(zip(fit["fixef_names"], fit["fixef"], strict=True)),
        "sd": {**deviations, "Residual": fit["sigma"]},
    }


if __name__ == "__main__":
    main()
