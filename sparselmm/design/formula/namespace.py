"""Expressions of a formula evaluated on data: names, columns, and the calls to patsy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from patsy import DesignInfo, EvalEnvironment, PatsyError
from patsy import builtins as patsy_builtins
from patsy.build import build_design_matrices, design_matrix_builders
from patsy.desc import INTERCEPT, Term
from patsy.missing import NAAction

from sparselmm.base.arguments import shown
from sparselmm.base.exceptions import DataError, FormulaError, MissingDataError, SparseLMMError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.column_types import NUMBERS, as_float, booleans, kind_of
from sparselmm.design.exact_labels import readable
from sparselmm.design.factors import Factor, factorize, match, unordered
from sparselmm.design.formula import remembered
from sparselmm.design.formula.arithmetic import GUARDS, guarded
from sparselmm.design.formula.checked import Columns, Expression, Kept, Missing, in_row_order
from sparselmm.design.formula.contrasts import R_CODINGS, Based, coding
from sparselmm.design.formula.expressions import functions_in, names_in, plain_column, uses_of
from sparselmm.design.formula.plain_designs import plain_design
from sparselmm.design.formula.terms import codes_of
from sparselmm.design.formula.transforms import TRANSFORMS, let_through
from sparselmm.design.sources.text import coded
from sparselmm.design.validate import DROP_HINT, Rows, missing_rows

MANY_ROWS = 100_000
"""Rows from which columns are coded at the same time: Arrow's strings free the interpreter."""

_STATEFUL = "__patsy_stateful_transform__"  # marks functions that remember the rows of the fit
_READY = "sparselmm_levels"  # marks, in ``attrs``, a column whose categories are final


def C(data: Any, contrast: Any = None, levels: Any = None, *, base: Any = None) -> Any:
    """Do what patsy's ``C`` does, without a loop over the rows of columns made ready before.

    patsy reads a contrast from the attribute of that name. ``base`` is R's: the reference.
    """
    if isinstance(getattr(data, "dtype", None), pd.BooleanDtype):
        plain = booleans(pd.Series(data))
        data = plain if isinstance(data, pd.Series) else plain.to_numpy()
    if base is not None:
        if contrast not in (None, Based):
            raise FormulaError("C(): base is the reference of treatment coding, and of no other")
        contrast = Based(base=base)
    if contrast is not None:
        # R's C(f, sum) and C(f, poly) name codings that are functions as well.
        by_name = {sum: "sum", R_NAMES["poly"]: "poly"}
        named = by_name.get(contrast) if callable(contrast) else None
        contrast = coding(contrast if named is None else named, "contrast")
    elif isinstance(data, pd.Series):
        contrast = vars(data).get("contrast")
    if levels is not None or not getattr(data, "attrs", {}).get(_READY):
        return patsy_builtins.C(data, contrast, levels)
    marked = data.copy(deep=False)
    object.__setattr__(marked, "contrast", contrast)
    return marked


def log(x: Any, base: float | None = None) -> Any:
    """R's logarithm, to the base e or another."""
    return np.log(x) if base is None else np.log(x) / np.log(base)


def combined(*values: Any) -> list[Any]:
    """R's ``c(1, 2)``."""
    return list(values)


R_NAMES: dict[str, Any] = {
    "C": C,
    "factor": C,
    "c": combined,
    "log": log,
    "log2": np.log2,
    "log10": np.log10,
    "log1p": np.log1p,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "abs": np.abs,
    "pi": np.pi,
    "TRUE": True,
    "FALSE": False,
    "NULL": None,
    "contr": R_CODINGS,
    **TRANSFORMS,
}
PATSY_NAMES: dict[str, Any] = {
    name: getattr(patsy_builtins, name) for name in patsy_builtins.__all__
}
_PYTHON_NAMES = frozenset(dir(__import__("builtins")))


def capture_env(depth: int | EvalEnvironment = 0, above: int = 0) -> EvalEnvironment:
    """Variables a formula may use besides the columns of the data.

    Parameters
    ----------
    depth : int or EvalEnvironment
        0 stands for the function that calls ``capture_env``, 1 for its caller, and so on;
        a negative number for no variables at all. An environment is returned as it is.
    above : int
        Frames of this package between ``capture_env`` and whoever ``depth`` counts from.

    Returns
    -------
    EvalEnvironment
    """
    if isinstance(depth, EvalEnvironment):
        return depth
    if isinstance(depth, bool) or not isinstance(depth, (int, np.integer)):
        raise DataError(
            f"eval_env must be a number of frames or a patsy.EvalEnvironment, got {depth!r:.100}"
        )
    if depth < 0:
        return EvalEnvironment([{}])
    try:
        return EvalEnvironment.capture(int(depth) + above, reference=1)
    except ValueError as error:
        raise DataError(f"eval_env={depth} is more frames than there are") from error


@dataclass(frozen=True, eq=False)
class Namespace:
    """The rows in use, as the expressions of a formula see them.

    Attributes
    ----------
    frame : DataFrame
        Rows in use.
    env : EvalEnvironment
        Variables besides the columns.
    rows : Rows
        For messages: where these rows stand in the user's data.
    columns : dict
        Columns in use; strings and categoricals that serve as factors only are Categoricals.
    given : mapping
        Columns as they are in the frame, where they were taken from it already.
    states : dict
        Expression to patsy's state of it, where it has transforms and no design remembers it: what
        these learned at the fit, or learn of these rows the first time.
    """

    frame: pd.DataFrame
    env: EvalEnvironment
    rows: Rows
    columns: dict[str, Any]
    given: Mapping[str, Any] = field(default_factory=dict)
    states: dict[str, Any] = field(default_factory=dict)
    _factors: dict[tuple[str, bool], Factor] = field(default_factory=dict, init=False)

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.frame)

    def as_given(self, name: str) -> Any:
        """A column as it is in the frame."""
        return self.given[name] if name in self.given else self.frame[name]

    def evaluate(self, code: str) -> Any:
        """Value of any expression."""
        plain = plain_column(code)
        if plain is not None and plain[1] == "" and plain[0] in self.columns:
            return self.columns[plain[0]]
        try:
            value = self._value(code)
        except FormulaError:
            raise
        except (Exception, SystemExit) as error:  # whatever the user's own code raises
            cause = (error.__cause__ if isinstance(error, PatsyError) else None) or error
            raise FormulaError(
                f"cannot evaluate {code!r}: {type(cause).__name__}: {cause}"
            ) from error
        return in_row_order(value, self.frame.index, code)

    def _value(self, code: str) -> Any:
        env = self.env.with_outer_namespace(PATSY_NAMES)
        names = env.namespace
        if code not in self.states:
            if not any(hasattr(names.get(called), _STATEFUL) for called in functions_in(code)):
                return env.eval(guarded(code), inner_namespace={**self.columns, **GUARDS})
            self.states[code] = let_through(Expression(code).learned(self.env, self.columns))
        return Expression(code).value(self.states[code], self.columns)

    def vector(self, code: str) -> FloatArray:
        """Value of a numeric expression, (n,)."""
        value = self.evaluate(code)
        if not isinstance(value, pd.Series):
            value = np.asarray(value)
        if value.ndim == 0:
            value = np.full(self.n, value)
        if value.shape != (self.n,) or kind_of(pd.Series(value)) != NUMBERS:
            raise FormulaError(
                f"{code!r} must give one number per row ({self.n}); it gives shape "
                f"{value.shape} of dtype {value.dtype}"
            )
        return as_float(value)

    def labels(self, code: str) -> Any:
        """Values of an expression that names a grouping factor, (n,)."""
        plain = plain_column(code)
        if plain is not None and plain[0] in self.columns and plain[1] != "coded":
            return self._exact(plain[0])
        numbers = {
            name: pd.Series(readable(self.frame[name]), index=self.frame.index)
            for name in names_in(code)
            if name in self.columns and _is_nullable_integer(self.frame.get(name))
        }
        values = replace(self, columns=self.columns | numbers).evaluate(code)
        if isinstance(values, type(patsy_builtins.C([0]))):
            values = values.data
        if np.ndim(values) != 1 or len(values) != self.n:
            raise FormulaError(
                f"the grouping factor {code!r} must give one label per row ({self.n}); "
                f"it gives shape {np.shape(values)}"
            )
        return values

    def _exact(self, name: str) -> Any:
        """A column with its labels as they are: nullable integers were made floats before."""
        ready = self.columns[name]
        coded = isinstance(ready.dtype, pd.CategoricalDtype)
        return ready if coded or name not in self.frame.columns else self.as_given(name)

    def factor(self, code: str, *, sort: bool = False) -> Factor:
        """Codes and labels of a grouping factor, computed once per expression."""
        key = (code, sort)
        if key not in self._factors:
            self._factors[key] = factorize(self.labels(code), sort=sort)
        return self._factors[key]


def _is_nullable_integer(column: Any) -> bool:
    """Whether a column holds whole numbers, none missing, in a dtype that could have some."""
    if column is None or isinstance(column.dtype, np.dtype):
        return False
    return bool(pd.api.types.is_integer_dtype(column.dtype)) and not column.hasnans


def is_known(name: str, env: EvalEnvironment) -> bool:
    """Whether a name can be looked up outside the data."""
    return name in env.namespace or name in PATSY_NAMES or name in _PYTHON_NAMES


def with_r_names(env: EvalEnvironment) -> EvalEnvironment:
    """The environment with R's functions as fall-backs."""
    return env.with_outer_namespace(R_NAMES)


def categorical(column: Any) -> pd.Series:
    """A column as a Categorical of the labels seen; an existing order of categories is kept."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype) and _all_used(column.array):
        return _ready(column.copy(deep=False))
    seen = factorize(column)
    ordered = isinstance(dtype, pd.CategoricalDtype) and dtype.ordered
    labels: Any = pd.Index(seen.labels)
    values = pd.Categorical.from_codes(seen.codes, labels, ordered=ordered)
    return _ready(pd.Series(values, index=column.index, copy=False))


def coded_labels(column: pd.Series) -> pd.Series:
    """A column as a Categorical of the labels seen, in any order."""
    found = coded(column)
    if found is not None:
        return found
    seen = unordered(column)
    labels = pd.Index(seen.labels, tupleize_cols=False)
    return pd.Series(pd.Categorical.from_codes(seen.codes, labels), index=column.index, copy=False)


def _all_used(values: Any) -> bool:
    """Whether every category of a Categorical occurs."""
    seen = np.zeros(len(values.categories) + 1, dtype=bool)  # the last place is that of code -1
    seen[values.codes] = True
    return bool(seen[:-1].all())


def recoded(column: pd.Series, categories: pd.Index) -> pd.Series:
    """A column as a Categorical of known labels; any other label becomes missing."""
    codes = match(categories, column)
    values: Any = pd.Categorical.from_codes(codes, categories)
    return _ready(pd.Series(values, index=column.index, copy=False))


def _ready(column: pd.Series) -> pd.Series:
    """With the mark of a column whose categories are final."""
    column.attrs[_READY] = True
    return column


def learn(termlists: Sequence[list[Term]], space: Namespace) -> list[DesignInfo]:
    """What patsy needs to remember to build each design on these and on new data."""
    codes = [code for terms in termlists for code in codes_of(terms)]
    if any("Intercept" in codes_of(terms) and INTERCEPT in terms for terms in termlists):
        raise FormulaError(
            "a column is called 'Intercept' like the intercept that the formula has too; rename "
            "the column, or leave the intercept out with '0 + ...'"
        )
    key = _plain_key(termlists, codes, space.columns)
    found = None if key is None else _LEARNED.get(key)
    if found is not None:
        return list(found)
    with _patsy_errors(space, codes):
        infos = list(
            design_matrix_builders(
                termlists, lambda: iter([space.columns]), space.env, NA_action=Missing()
            )
        )
    if key is not None:
        if len(_LEARNED) >= MANY_DESIGNS:
            _LEARNED.clear()
        _LEARNED[key] = tuple(infos)
    return infos


_LEARNED: dict[Any, tuple[DesignInfo, ...]] = {}
"""What patsy learned of designs of plain columns, which follows from their types and labels."""

MANY_DESIGNS, MANY_LABELS = 128, 200


def _plain_key(
    termlists: Sequence[list[Term]], codes: Iterable[str], columns: Mapping[str, Any]
) -> Any:
    """What a design of plain columns follows from; None where there is more to it.

    1, 1.0 and True are equal but no equal labels, nor are 0.0 and -0.0 or one moment in two time
    zones, so that types and what columns are called after are part of it.
    """
    parts: list[Any] = []
    for code in dict.fromkeys(codes):
        name, wrapping = plain_column(code) or ("", "other")
        column: Any = columns.get(name)
        dtype = getattr(column, "dtype", None)
        if wrapping or dtype is None or np.ndim(column) != 1:
            return None
        if isinstance(dtype, pd.CategoricalDtype):
            if len(dtype.categories) > MANY_LABELS or "contrast" in vars(column):
                return None
            labels = tuple(dtype.categories)
            written = tuple((type(label), repr(label)) for label in labels)
            parts.append((code, dtype.ordered, labels, written))
        elif getattr(dtype, "kind", "") in "fiu":
            parts.append((code, dtype.str))
        else:
            return None
    shape = tuple(tuple(tuple(f.code for f in t.factors) for t in terms) for terms in termlists)
    return shape, tuple(parts)


def build(infos: Sequence[DesignInfo], space: Namespace) -> list[FloatArray]:
    """Design matrices of training data, each (n, columns); missing values are an error."""
    return _build(infos, Missing(), space)


def _build(infos: Sequence[DesignInfo], action: NAAction, space: Namespace) -> list[FloatArray]:
    n = space.n
    plain = _as_arrays([info for info in infos if info.factor_infos], space)
    out = []
    for info in infos:
        if not info.factor_infos:
            out.append(np.ones((n, len(info.column_names))))
            continue
        matrix = plain_design(info, plain, n)
        if matrix is None:
            with _patsy_errors(space, remembered.expressions(info)):
                matrix = np.asarray(build_design_matrices([info], plain, NA_action=action)[0])
        if len(matrix) != n:
            raise FormulaError(
                f"{', '.join(info.column_names)} have {len(matrix)} rows but the data have {n}"
            )
        out.append(matrix)
    return out


def _as_arrays(infos: Sequence[DesignInfo], space: Namespace) -> Columns:
    """Numeric columns that only occur by themselves as arrays, which patsy copies faster."""
    uses = uses_of({code for info in infos for code in remembered.expressions(info)})
    columns = {
        name: column.to_numpy()
        if uses.get(name) == {""} and getattr(column.dtype, "kind", "") in "fiu"
        else column
        for name, column in space.columns.items()
    }
    return Columns.of(columns, space.frame.index)


def rebuild(info: DesignInfo, space: Namespace) -> FloatArray:
    """Design matrix of new data; rows with a missing value are NaN.

    Categories were matched when the columns were taken, so an unseen label is a missing one
    here: :func:`refuse_unseen` tells them apart before.
    """
    action = Kept(space.n)
    matrix = _build([info], action, space)[0]
    if action.absent.any():
        matrix = matrix.copy()
        matrix[action.absent] = np.nan
    return matrix


@contextmanager
def _patsy_errors(space: Namespace, codes: Iterable[str]) -> Iterator[None]:
    """Turn the errors of patsy and of what the expressions call into ours."""
    try:
        yield
    except (SparseLMMError, MemoryError):
        raise
    except PatsyError as error:
        if "missing values" in str(error.message):
            raise describe_missing(space, codes) from error
        if isinstance(error.__cause__, SparseLMMError):  # of one of our own functions
            raise error.__cause__ from error
        raise FormulaError(f"the formula cannot be evaluated: {error}") from error
    except (Exception, SystemExit) as error:  # of a transform, patsy's or the user's
        raise FormulaError(
            f"the formula cannot be evaluated: {type(error).__name__}: {error}"
        ) from error


def describe_missing(space: Namespace, codes: Iterable[str]) -> MissingDataError:
    """The error that names the first column, or else expression, with missing values."""
    codes = list(codes)
    uses = uses_of(codes)
    names = [name for name in uses if name in space.columns]
    for name in sorted(names, key=lambda name: uses[name] == {"other"}):
        bad = np.flatnonzero(missing_rows(space.columns[name]))
        if len(bad):
            return MissingDataError(f"column {name!r} has {_counted(bad, space)}; {DROP_HINT}")
    for code in codes:
        value: Any = space.evaluate(code)
        absent = missing_rows(value) if np.ndim(value) in (1, 2) else np.zeros(0, dtype=bool)
        if len(absent) == space.n and absent.any():
            return MissingDataError(
                f"{code!r} has {_counted(np.flatnonzero(absent), space)}, where its columns have "
                "none; change the expression, or leave those rows out with subset="
            )
    return MissingDataError(
        "an expression of the formula gives missing values where its columns have none; "
        "change the expression, or leave those rows out with subset="
    )


def _counted(bad: IntArray, space: Namespace) -> str:
    return f"{len(bad)} missing value(s), the first at {space.rows.where(int(bad[0]))}"


def categories_in(columns: Mapping[str, Any]) -> dict[str, pd.Index]:
    """Labels of the columns that were turned into Categoricals."""
    return {
        name: column.dtype.categories
        for name, column in columns.items()
        if isinstance(column.dtype, pd.CategoricalDtype)
    }


def refuse_unseen(
    frame: pd.DataFrame, categories: Mapping[str, pd.Index], rows: Rows,
    what: str = "a fixed effect",
) -> None:  # fmt: skip
    """Refuse labels of factors that the fit has not seen, those of fixed effects or of ``what``."""
    for name, known in categories.items():
        column: Any = frame[name]
        new = np.asarray(column.notna()) & (match(known, column) < 0)
        if new.any():
            first = int(np.argmax(new))
            labels = ", ".join(map(shown, known[:8])) + (", ..." if len(known) > 8 else "")
            raise DataError(
                f"column {name!r} has a label the fit has not seen: {shown(column.iloc[first])} at "
                f"{rows.where(first)}. Known labels are {labels}; {what} cannot be predicted "
                "for any other"
            )
