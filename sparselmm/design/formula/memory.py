"""What stateful transforms learn of rows that are never together: partition by partition.

patsy's ``center``, ``standardize``, ``bs`` and ``cr`` remember moments or the range of their
argument. A `Summary` of it, merged over partitions in a fixed order, is all they need: knots and
constraints that depend on more than that are refused. A transform of a transform, such as
``bs(center(x), knots=k)``, waits for a pass of its own.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from patsy import EvalEnvironment

from sparselmm.base.exceptions import FormulaError, SparseLMMError
from sparselmm.base.types import FloatArray
from sparselmm.design.formula.checked import LEARNED, Expression
from sparselmm.design.formula.pickling import dumps

Key = tuple[str, str]
"""An expression, and patsy's name of a transform in it."""

MOMENTS, RANGE = ("Center", "Standardize", "Scale"), ("BS", "CR", "CC", "NaturalSpline", "Poly")
HOMES = ("patsy.", "sparselmm.")
KEEP = "or keep the rows: keep_rows=True"


@dataclass(frozen=True, eq=False)
class Summary:
    """Moments and range of the columns of a transform's argument.

    Attributes
    ----------
    n : int
        Rows.
    mean, squares, low, high : ndarray, (c,)
        Mean, sum of squared differences from it, smallest and largest value.
    """

    n: int
    mean: FloatArray
    squares: FloatArray
    low: FloatArray
    high: FloatArray

    @classmethod
    def of(cls, x: Any) -> Summary:
        """Of some rows."""
        values = np.asarray(x, dtype=float)
        values = values.reshape(len(values), -1)
        mean = values.mean(axis=0)
        mean = mean + (values - mean).mean(axis=0)  # removes the rounding error
        return cls(
            len(values), mean, ((values - mean) ** 2).sum(axis=0), values.min(axis=0),
            values.max(axis=0),
        )  # fmt: skip

    def merged(self, other: Summary) -> Summary:
        """Of two partitions (Chan, Golub & LeVeque, 1983)."""
        n = self.n + other.n
        step = other.mean - self.mean
        return Summary(
            n, self.mean + step * (other.n / n),
            self.squares + other.squares + step**2 * (self.n * (other.n / n)),
            np.minimum(self.low, other.low), np.maximum(self.high, other.high),
        )  # fmt: skip


@dataclass(eq=False)
class _Recorder:
    """Stands for a transform while it learns."""

    name: str
    seen: Summary | None = None
    given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def memorize_chunk(self, x: Any, *args: Any, **keywords: Any) -> None:
        """Take part of the argument."""
        self.seen, self.given = Summary.of(x), (args, keywords)


@dataclass(frozen=True, eq=False)
class Memories:
    """The transforms of all expressions of a model.

    Attributes
    ----------
    states : dict
        Expression to patsy's state of it.
    """

    states: dict[str, dict[str, Any]]

    def __reduce__(self) -> tuple[Any, ...]:
        return _thawed, (dumps(self.states),)

    @classmethod
    def of(cls, codes: Iterable[str], env: EvalEnvironment) -> Memories:
        """Find the transforms.

        Raises
        ------
        FormulaError
            When one needs more than moments and range of its argument.
        """
        states = {}
        for code in dict.fromkeys(codes):
            state: dict[str, Any] = {}
            if Expression(code).memorize_passes_needed(state, env):
                states[code] = state
                for name, transform in state["transforms"].items():
                    _check_known(name, transform, code)
        return cls(states)

    @property
    def passes(self) -> int:
        """Passes over the rows that the transforms need."""
        return max((len(state["pass_bins"]) for state in self.states.values()), default=0)

    def codes(self) -> list[str]:
        """Expressions with transforms."""
        return list(self.states)

    def learn(self, step: int, columns: Mapping[str, Any]) -> dict[Key, Summary]:
        """Summaries of the arguments that can be evaluated in a pass, on some rows."""
        found = {}
        for code, state in self.states.items():
            for name in sorted(state["pass_bins"][step]) if step < len(state["pass_bins"]) else ():
                recorder = self._record(code, name, columns)
                assert recorder.seen is not None
                found[code, name] = recorder.seen
        return found

    def _record(self, code: str, name: str, columns: Mapping[str, Any]) -> _Recorder:
        state = self.states[code]
        recorder = _Recorder(name)
        inner = {**state, "transforms": {**state["transforms"], name: recorder}}
        try:
            Expression(code)._eval(state["memorize_code"][name], inner, columns)
        except SparseLMMError:
            raise
        except Exception as error:  # whatever the user's own code raises
            raise FormulaError(
                f"cannot evaluate {code!r}: {type(error).__name__}: {error}"
            ) from error
        return recorder

    def finish(self, seen: Mapping[Key, Summary], columns: Mapping[str, Any]) -> None:
        """Make the transforms of a pass ready; ``columns`` are any rows, for other arguments."""
        for code, name in seen:
            state = self.states[code]
            given = self._record(code, name, columns).given
            state["transforms"][name] = _finished(
                state["transforms"][name], seen[code, name], *given, code
            )

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        """Designs learned meanwhile, on any rows, have transforms with this memory."""
        spaced = {Expression(code).code: state for code, state in self.states.items()}  # as patsy
        token = LEARNED.set({**self.states, **spaced})
        try:
            yield
        finally:
            LEARNED.reset(token)


def _check_known(name: str, transform: Any, code: str) -> None:
    kind = type(transform).__name__
    if kind not in (*MOMENTS, *RANGE) or not type(transform).__module__.startswith(HOMES):
        called = name.removeprefix("_patsy_stobj").lstrip("0123456789").strip("_")
        raise FormulaError(
            f"{code!r} calls {called}, which learns from all rows at once; with rows that are not "
            f"kept, center, standardize, bs, cr and ns are known. Make the column before, {KEEP}"
        )


def _finished(
    transform: Any, seen: Summary, args: tuple[Any, ...], keywords: dict[str, Any], code: str
) -> Any:
    """The transform with its memory."""
    kind = type(transform).__name__
    if kind == "Center":
        transform._sum, transform._count = seen.mean, 1
        return transform
    if kind in ("Standardize", "Scale"):
        transform.current_n, transform.current_mean = seen.n, seen.mean
        transform.current_M2 = seen.squares
        return transform
    memorize = getattr(transform, "_learn", transform.memorize_chunk)
    bound = inspect.signature(memorize).bind(None, *args, **keywords).arguments
    if kind == "Poly" and not bound.get("raw"):
        raise FormulaError(
            f"{code!r} makes columns orthogonal over all rows; with rows that are not kept "
            f"write poly(x, degree, raw=True), {KEEP}"
        )
    if kind != "Poly" and bound.get("knots") is None:
        raise FormulaError(
            f"{code!r} takes its knots from quantiles of all rows; with rows that are not kept "
            f"give them, knots=[...], {KEEP}"
        )
    if isinstance(bound.get("constraints"), str):
        raise FormulaError(
            f"{code!r}: constraints='center' is a mean over all rows; leave it out (the intercept "
            f"then takes its place), {KEEP}"
        )
    try:
        transform.memorize_chunk(np.array([seen.low[0], seen.high[0]]), *args, **keywords)
        transform.memorize_finish()
    except SparseLMMError:
        raise
    except Exception as error:  # whatever is wrong with knots, bounds and degrees
        raise FormulaError(f"cannot evaluate {code!r}: {type(error).__name__}: {error}") from error
    return transform


def _thawed(frozen: bytes) -> Memories:
    return Memories(pickle.loads(frozen))
