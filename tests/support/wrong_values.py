"""Values that are wrong for nearly every argument, and which kinds of argument may take some.

A call with one of them either works, where its kind says that the value may be meant, or it ends in
an error of the package's own family that names the argument.
"""

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sparselmm import SparseLMMError
from sparselmm.results.plots.figure import pyplot

VALUES = {
    "None": None,
    "nan": np.nan,
    "inf": np.inf,
    "-1": -1,
    "0": 0,
    "3.5": 3.5,
    "1e300": 1e300,
    "10**30": 10**30,
    "True": True,
    "complex": 2.0 + 1.0j,
    "''": "",
    "'nope'": "nope",
    "bytes": b"nope",
    "object": object(),
    "[]": [],
    "{}": {},
    "{'nope': 1}": {"nope": 1},
    "ragged": [[1.0], [2.0, 3.0]],
    "array": np.ones(7),
    "complex array": np.ones(7, dtype=complex),
    "frame": pd.DataFrame({"nope": [1.0]}),
    "['nope', 'nope']": ["nope", "nope"],
    "lambda": lambda *a: None,
    "class": int,
}

# Values of the table that each kind of argument may take.
FLAG = {"True", "0"}
CHOICE = set()
LEVEL = set()
COUNT = set()
POSITIVE = {"3.5", "1e300"}
TEXT = {"''", "'nope'"}
NONE = {"None"}
ANYTHING = set(VALUES)
NUMBERS = {"3.5", "0", "-1", "True", "1e300", "10**30"}

INSTEAD = {"ranef_contrasts.contrasts": "pairs"}
"""Base arguments that go when another is given."""


def methods_of(owners: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """Public methods with arguments of some objects, by the name of the object and their own."""
    found = {}
    for name, owner in owners.items():
        for method in dir(type(owner)):
            if method.startswith("_"):
                continue
            if isinstance(inspect.getattr_static(type(owner), method), property):
                continue
            bound = getattr(owner, method)
            if callable(bound) and inspect.signature(bound).parameters:
                found[f"{name}.{method}"] = bound
    return found


@dataclass(frozen=True)
class Surface:
    """Public callables by name, and what is known of their arguments.

    Attributes
    ----------
    base : mapping
        What a call needs besides the argument under test, and what keeps it short: functions.
    kinds : mapping
        Labels of the values an argument may take, by ``Class.method.argument``,
        ``method.argument`` or ``argument``, the first that is there.
    named_as : mapping
        Words by which a message may name an argument, as a pattern.
    """

    callables: Mapping[str, Callable[..., Any]]
    base: Mapping[str, Callable[[], dict[str, Any]]]
    kinds: Mapping[str, set[str]]
    named_as: Mapping[str, str]

    def arguments(self, name: str) -> list[str]:
        """Those of a callable that are tested."""
        return [
            p.name
            for p in inspect.signature(self.callables[name]).parameters.values()
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and not p.name.startswith("_")
        ]

    def kind_of(self, name: str, argument: str) -> set[str]:
        """Labels of the values that an argument may take."""
        keys = (f"{name}.{argument}", f"{name.split('.')[-1]}.{argument}", argument)
        found = [self.kinds[key] for key in keys if key in self.kinds]
        if not found:
            raise KeyError(f"{keys[0]} has no kind: say which wrong values it may take")
        return found[0]

    def outcome(self, name: str, argument: str, value: Any) -> Exception | None:
        """None when the call works, otherwise the exception."""
        keywords = self.base.get(name, dict)()
        keywords.pop(INSTEAD.get(f"{name.split('.')[-1]}.{argument}"), None)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.callables[name](**{**keywords, argument: value})
        except Exception as error:
            return error
        finally:
            if "plot" in name:
                pyplot().close("all")
        return None

    def mistakes(self, name: str) -> Iterator[str]:
        """What is wrong with a callable, one line each."""
        for argument in self.arguments(name):
            for label, value in VALUES.items():
                error = self.outcome(name, argument, value)
                call = f"{name}({argument}={label})"
                if error is None:
                    if label not in self.kind_of(name, argument):
                        yield f"{call} is accepted"
                elif not isinstance(error, SparseLMMError):
                    yield f"{call} raises {type(error).__name__}: {str(error)[:90]}"
                elif not re.search(rf"\b({self.named_as.get(argument, argument)})\b", str(error)):
                    yield f"{call} does not name the argument: {error}"
