"""Write ``data/README.md`` and the tables of ``data/reference/README.md``.

    python data/make_readme.py

The texts of the data sets are in ``schema.json``, those of the fits in their JSON records;
a test checks that the two pages are up to date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TABLES = "<!-- the rest of this page is written by data/make_readme.py -->\n"

DATA_HEAD = """\
# Data sets

<!-- This page is written by data/make_readme.py from schema.json: edit those. -->

Gzipped CSV, UTF-8, one header row, an empty field is a missing value, numbers come back as
the same doubles. `schema.json` holds what cannot be seen in the files: the type of each
column, the order of factor levels (the first is the reference level), meaning and unit of
each column, source and licence. `"level_order": "numeric"` or `"sorted"` stands for a long
list of levels that is in that order. `sparselmm.datasets.load(name)` reads all this.

Names were changed in two ways: a dot of R became an underscore, and `yield` became `Yield`.
Grouping factors that R's nlme orders by their response are plain factors here.

`pupils` is made by `make_pupils.py`; `fev_data` was read from the package's repository. All
other sets were exported from the packages named below with `tests/reference/export_data.R`.
The licence is the one the package states; the numbers themselves come from the publications
cited.

"""


def main() -> None:
    """Write both pages."""
    (HERE / "README.md").write_text(data_page(), encoding="utf-8")
    page = HERE / "reference" / "README.md"
    head = page.read_text(encoding="utf-8").split(TABLES)[0]
    page.write_text(head + TABLES + reference_tables(), encoding="utf-8")


def data_page() -> str:
    """Text of ``data/README.md``."""
    schema = json.loads((HERE / "schema.json").read_text(encoding="utf-8"))
    overview = [
        "| data set | rows | columns | missing | package | licence |",
        "|---|---|---|---|---|---|",
    ]
    overview += [
        f"| [{name}](#{name.lower()}) | {s['nrow']:,} | {len(s['columns'])} | {s['n_missing']} "
        f"| {s['package']} {s['version']} | {s['licence']} |".replace("  |", " |")
        for name, s in schema.items()
    ]
    return DATA_HEAD + "\n".join(overview) + "\n" + "".join(map(_section, schema.items()))


def _section(item: tuple[str, dict[str, Any]]) -> str:
    name, s = item
    note = f"\n{s['note']}\n" if "note" in s else ""
    columns = "\n".join(f"| `{c['name']}` | {_type(c)} | {c['meaning']} |" for c in s["columns"])
    return (
        f"\n## {name}\n\n{s['description']}\n{note}\nSource: {s['source']}\n\n"
        f"| column | type | meaning (unit) |\n|---|---|---|\n{columns}\n"
    )


def _type(column: dict[str, Any]) -> str:
    if "n_levels" not in column:
        return str(column["type"])
    return f"{column['type']}, {column['n_levels']} levels"


def reference_tables() -> str:
    """Index of the fits and of the inference records."""
    lines = [
        "\n## Fits\n",
        "| id | data | formula | category | method and tags |",
        "|---|---|---|---|---|",
        *map(_fit_row, _records("fits")),
        "\n## Inference\n",
        "| id | contents |",
        "|---|---|",
        *map(_inference_row, _records("inference")),
    ]
    return "\n".join(lines) + "\n"


def _records(kind: str) -> list[dict[str, Any]]:
    paths = sorted((HERE / "reference" / kind).glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _fit_row(fit: dict[str, Any]) -> str:
    marks = ["REML" if fit["REML"] else "ML", *fit["tags"]]
    marks += [f"{label} `{fit[key]}`" for label, key in _OPTIONS.items() if key in fit]
    marks += ["singular"] * (fit["singular"] and "singular" not in fit["tags"])
    formula = "`" + fit["formula"].replace("|", "\\|") + "`"
    cells = [fit["id"], fit["dataset"], formula, fit["category"], ", ".join(marks)]
    return f"| {' | '.join(cells)} |"


def _inference_row(record: dict[str, Any]) -> str:
    return f"| {record['id']} | {', '.join(key for key in record if key not in _COMMON)} |"


_OPTIONS = {"weights": "weights", "subset": "subset_py"}
_COMMON = frozenset(
    {"id", "kind", "dataset", "formula", "call", "REML", "weights", "subset_r", "subset_py"}
    | {"fixef_names", "fixef", "residuals_first20", "software"}
)


if __name__ == "__main__":
    main()
