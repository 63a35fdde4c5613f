"""Saving what patsy remembers; patsy itself refuses to be pickled.

Its designs are plain objects, saved attribute by attribute. Of the variables a formula takes from
outside the data, modules are saved by name, everything else that pickles by value; a function
that does not pickle, such as a local one, leaves a stand-in that says so when it is called.
"""

from __future__ import annotations

import importlib
import io
import pickle
import types
from typing import Any

from patsy import DesignInfo, EvalEnvironment
from patsy.contrasts import ContrastMatrix
from patsy.desc import Term
from patsy.design_info import FactorInfo, SubtermInfo
from patsy.eval import EvalFactor

from sparselmm.base.exceptions import FormulaError
from sparselmm.design.formula.checked import Expression
from sparselmm.design.formula.namespace import PATSY_NAMES, R_NAMES
from sparselmm.design.formula.transforms import CLASSES

_TRANSFORMS = tuple(
    value.__patsy_stateful_transform__
    for value in PATSY_NAMES.values()
    if hasattr(value, "__patsy_stateful_transform__")
)
KNOWN = {**R_NAMES, **PATSY_NAMES}
"""Functions saved by their names in formulas."""

_FACTORS = (EvalFactor, Expression)
_PLAIN = (
    DesignInfo,
    FactorInfo,
    SubtermInfo,
    ContrastMatrix,
    Term,
    *_FACTORS,
    *_TRANSFORMS,
    *CLASSES,
)


class Lost:
    """Stand-in for a variable of a formula that could not be saved.

    Parameters
    ----------
    name : str
        Its name in the formula.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Say what is missing."""
        raise FormulaError(
            f"the formula calls {self.name!r}, a local function that could not be saved with the "
            "model. Define it at the top level of a module, or fit again"
        )


def dumps(value: Any) -> bytes:
    """Pickle of any value that holds designs of patsy; ``pickle.loads`` reads it."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, EvalEnvironment):
            inner_last = reversed(obj._namespaces)
            names = {name: value for part in inner_last for name, value in part.items()}
            saved = {name: _saved(name, value) for name, value in names.items()}
            return _environment, (saved, obj.flags)
        if type(obj) in _PLAIN:
            state = {name: value for name, value in vars(obj).items() if name != "origin"}
            return _restore, (type(obj), state)
        return NotImplemented


def _saved(name: str, value: Any) -> tuple[str, Any]:
    """How a variable is saved: a kind and what that kind needs."""
    if isinstance(value, types.ModuleType):
        return "module", value.__name__
    for kind, functions in (("R", R_NAMES), ("patsy", PATSY_NAMES)):
        for known, function in functions.items():
            if value is function:
                return kind, known
    try:
        return "pickle", dumps(value)
    except (pickle.PicklingError, TypeError, AttributeError):
        return "lost", name


def _loaded(kind: str, what: Any) -> Any:
    if kind == "module":
        return importlib.import_module(what)
    if kind in ("R", "patsy"):
        return (R_NAMES if kind == "R" else KNOWN)[what]
    return pickle.loads(what) if kind == "pickle" else Lost(what)


def _environment(saved: dict[str, tuple[str, Any]], flags: int) -> EvalEnvironment:
    return EvalEnvironment([{name: _loaded(*how) for name, how in saved.items()}], flags)


def _restore(kind: type, state: dict[str, Any]) -> Any:
    obj: Any = object.__new__(kind)
    obj.__dict__.update({"origin": None} if kind in _FACTORS else {})
    obj.__dict__.update(state)
    return obj
