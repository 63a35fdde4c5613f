"""What ``demo`` shows: two fits, and how far they agree with lme4."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparselmm.results import MixedLMResults

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


def comparison(result: MixedLMResults, reference: dict[str, Any]) -> str:
    """Estimates beside stored ones, with the number of digits in which they agree."""
    ours = dict(zip(result.varcorr["grp"], result.varcorr["sdcor"], strict=True))
    pairs = [("criterion", -2.0 * result.llf, reference["criterion"])]
    fixed = zip(result.fe_params.items(), reference["fixef"].values(), strict=True)
    pairs += [(name, value, theirs) for (name, value), theirs in fixed]
    for group, theirs in reference["sd"].items():
        name = group.partition(":")[0]  # lme4 calls classrooms in schools classroom:school
        pairs.append((f"sd {name}", ours[name], theirs))
    lines = [
        f"{name:<14} {value:>15.6f} vs {theirs:>15.6f}: agree to {digits(value, theirs)} digits"
        for name, value, theirs in pairs
    ]
    return "\n".join(lines)


def digits(value: float, other: float) -> int:
    """Leading decimal digits in which two numbers agree, at most the 15 of a double."""
    apart = abs(value - other) / abs(other)
    return 15 if apart == 0 else max(0, min(15, int(-np.log10(apart))))
