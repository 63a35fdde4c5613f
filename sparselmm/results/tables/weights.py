"""Weights of contrasts between means, by name or as given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparselmm.base.arguments import (
    check_choice,
    check_number,
    check_numbers,
    check_strings,
    in_order,
    suggestion,
)
from sparselmm.base.exceptions import ArgumentError
from sparselmm.base.types import FloatArray
from sparselmm.inference.hypotheses import marginal_means
from sparselmm.inference.hypotheses.marginal_means import FAMILIES, OTHER_NAMES


def family_name(given: str, argument: str) -> str:
    """The family of contrasts, under any of its names."""
    try:
        name = str(check_choice(given, argument, (*FAMILIES, *OTHER_NAMES)))
    except ArgumentError as error:
        raise ArgumentError(
            f"{argument}: unknown contrasts {given!r}; use {FAMILIES}, or weights of your own"
            f"{suggestion(given, FAMILIES)}"
        ) from error
    return OTHER_NAMES.get(name, name)


def interaction_methods(given: Any, method: Any, specs: Sequence[str]) -> bool | list[str]:
    """Whether, or by which methods, contrasts of each variable of ``specs`` are multiplied."""
    if isinstance(given, (bool, np.bool_)) or (isinstance(given, int) and given in (0, 1)):
        if given and not isinstance(method, str):
            raise ArgumentError("interaction contrasts need the name of a method")
        return bool(given)
    methods = check_strings(given, "interaction", "True, or a method for each variable")
    if len(methods) != len(specs):
        raise ArgumentError(
            f"interaction has {len(methods)} methods for the {len(specs)} variables of "
            f"specs, {', '.join(specs)}"
        )
    return [family_name(name, "interaction") for name in methods]


def contrast_weights(
    method: Any, labels: list[str], ref: Any = 0, values: list[str] | None = None, sign: str = "-"
) -> tuple[list[str], FloatArray]:
    """Labels and weights of some contrasts of k means, labelled or called by their values."""
    k = len(labels)
    if isinstance(method, str):
        return marginal_means.family(method, labels, _place(ref, labels), sign)
    names, values = None, labels if values is None else values
    if isinstance(method, Mapping):
        names, method = [str(name) for name in method], list(method.values())
        method = [in_order(_by_text(own), values, labels, argument="method") for own in method]
    elif hasattr(method, "columns"):
        plain = list(method.index) == list(range(len(method)))
        names = None if plain else [str(name) for name in method.index]
    method = in_order(_by_text(method), values, labels, argument="method")
    C = np.atleast_2d(check_numbers(method, "method"))
    if C.ndim != 2 or C.shape[1] != k:
        raise ArgumentError(
            f"method: contrasts need {k} weights each, one per mean, got shape {C.shape}"
        )
    return names or [f"c{i}" for i in range(len(C))], C


def _by_text(weights: Any) -> Any:
    """Weights labelled with the values of the means as text; those without labels as they are."""
    if isinstance(weights, Mapping):
        return {_text(label): weight for label, weight in weights.items()}
    if not hasattr(weights, "iloc"):
        return weights
    wide = hasattr(weights, "columns")
    labels = weights.columns if wide else weights.index
    if list(labels) == list(range(len(labels))):
        return weights
    return weights.set_axis([_text(label) for label in labels], axis=int(wide))


def _text(label: Any) -> str:
    return " ".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _place(ref: Any, labels: list[str]) -> int:
    """Place of the control among the means."""
    if isinstance(ref, str):
        if ref not in labels:
            raise ArgumentError(f"ref: no mean is called {ref!r}{suggestion(ref, labels)}")
        return labels.index(ref)
    place = check_number(ref, "ref")
    if place != int(place) or not -len(labels) <= place < len(labels):
        raise ArgumentError(
            f"ref must be a label or a place among the {len(labels)} means, counted from 0; "
            f"got {ref!r}"
        )
    return int(place) % len(labels)


def combined(C: FloatArray, values: FloatArray) -> FloatArray:
    """``C @ values``, in which only means that do not exist and are used make a row NaN."""
    missing = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    out = C @ np.where(np.isfinite(values), values, 0.0)
    out[(C[:, missing] != 0.0).any(axis=1)] = np.nan
    return np.asarray(out)


def existing_part(C: FloatArray, values: FloatArray) -> FloatArray:
    """``C @ values`` for the combinations of the rows of C that use means that exist alone."""
    known = np.isfinite(values).all(axis=1)
    own = marginal_means.estimable_part(C, np.eye(len(values))[:, ~known])
    return np.asarray(own[:, known] @ values[known])
