"""Checks of arguments: what was given, by its name, what is wanted, and a suggestion.

Each function returns the argument in the type the code goes on with, or raises an
:class:`~sparselmm.base.exceptions.ArgumentError` that begins with the name of the argument.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

import numpy as np

from sparselmm.base.exceptions import ArgumentError, ArgumentTypeError
from sparselmm.base.types import AnyArray, FloatArray

MOST_STARTS = 100_000
"""Most searches on request."""

MOST = 10**9
"""Largest count: replicates, points or iterations beyond it are a slip of the pen."""

MOST_JOBS = 2**15
"""Most workers."""

SHOWN = 80
"""Most characters of a value in a message."""


def shown(value: Any) -> str:
    """A value as a message shows it: short, arrays and tables by their shape."""
    if len(getattr(value, "shape", ())):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    text = repr(value.item() if isinstance(value, np.generic) else value)
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."


def wrong_value(name: str, wanted: str, value: Any) -> ArgumentError:
    """The error for a value out of its range."""
    return ArgumentError(f"{name} must be {wanted}, got {shown(value)}")


def wrong_type(name: str, wanted: str, value: Any) -> ArgumentTypeError:
    """The error for a value of another type."""
    kind = "" if len(getattr(value, "shape", ())) else f"{type(value).__name__} "
    return ArgumentTypeError(f"{name} must be {wanted}, got {kind}{shown(value)}")


def suggestion(name: str, known: Iterable[object]) -> str:
    """``"; did you mean 'Days'?"`` or nothing."""
    names = list(dict.fromkeys(str(other) for other in known))
    close = [other for other in names if other.lower() == name.lower()]
    close = close or get_close_matches(name, names, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


# ---------------------------------------------------------------------------- single values


def check_flag(value: Any, name: str) -> bool:
    """True or False; 1 and 0 stand for them."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, Integral) and value in (0, 1):
        return bool(value)
    raise wrong_type(name, "True or False", value)


def check_choice(
    value: Any, name: str, options: Collection[Any], lacking: str = "", those: str = ""
) -> Any:
    """One of some options, the option itself; ``lacking`` says what there is none of.

    Case, spaces, hyphens and dots do not matter where one option alone is meant, nor whether it
    is named as elsewhere (`OTHER_VALUES`); names of the user's own, of which something is
    lacking, are taken literally.
    """
    value = value.item() if isinstance(value, np.generic) else value
    for option in options:
        if type(value) is type(option) and value == option:
            return option
    meant = [] if lacking or not isinstance(value, str) else _meant(value, options)
    if len(meant) == 1:
        return meant[0]
    among = f"one of {', '.join(map(repr, options)) or 'nothing: there are none'}"
    if len(options) in (2, 3):
        *first, last = map(repr, options)
        among = f"one of {', '.join(first)} or {last}"
    if not isinstance(value, str):
        raise wrong_type(name, among, value)
    if lacking:
        listed = ", ".join(map(str, options)) or "none"
        hint = suggestion(value, options)
        raise ArgumentError(f"{name}: no {lacking} {shown(value)}; there are {those}{listed}{hint}")
    raise ArgumentError(f"{name} must be {among}, got {shown(value)}{suggestion(value, options)}")


OTHER_VALUES = {
    "kr": "kenward-roger", "kenward": "kenward-roger", "kenrog": "kenward-roger",
    "kenwardroger2": "kenward-roger", "sat": "satterthwaite", "satterth": "satterthwaite",
    "satterwaite": "satterthwaite", "satterthwait": "satterthwaite", "asymptotic": "z",
    "asymp": "z", "normal": "z", "wald": "z", "inf": "z",
    "deletion": "deleted", "boot": "bootstrap", "prof": "profile",
    "bonf": "bonferroni", "benjaminihochberg": "fdr_bh", "benjaminiyekutieli": "fdr_by",
    "dunnett": "dunnettx", "chisquare": "chisq", "chisquared": "chisq", "chi2": "chisq",
    "x2": "chisq", "lrt": "lr", "twosided": "two-sided", "greaterthan": "greater",
    "lessthan": "less", "omit": "drop", "naomit": "drop", "exclude": "drop", "fail": "raise",
    "nafail": "raise", "error": "raise", "new": "resample", "var": "variance", "stddev": "sd",
    "std": "sd", "perc": "percentile",
    "autocorrelation": "acf", "variogram": "semivariogram", "i": 1, "ii": 2, "iii": 3,
}  # fmt: skip
"""What other packages call some options, as `plain_name` leaves it: ours."""


def plain_name(text: str) -> str:
    """Letters and digits alone, in lower case; signs alone stay."""
    return "".join(c for c in text.casefold() if c.isalnum()) or text.strip()


def _meant(value: str, options: Collection[Any]) -> list[Any]:
    """Options a text may stand for, but for how it is written."""
    plain = plain_name(value)
    found = [option for option in options if plain_name(str(option)) == plain]
    other = OTHER_VALUES.get(plain)
    return found or [option for option in options if option == other]


def check_text(value: Any, name: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    return str(value)


def check_number(
    value: Any, name: str, wanted: str = "a finite number", *, low: float = -np.inf,
    high: float = np.inf,
) -> float:  # fmt: skip
    """A finite number between ``low`` and ``high``."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (float, Real)):
        raise wrong_type(name, wanted, value)
    try:
        number = float(value)
    except OverflowError as error:
        raise wrong_value(name, wanted, value) from error
    if not (np.isfinite(number) and low <= number <= high):
        raise wrong_value(name, wanted, value)
    return number


def check_positive(value: Any, name: str) -> float:
    """A finite number above zero."""
    wanted = "a positive number"
    number = check_number(value, name, wanted)
    if number <= 0:
        raise wrong_value(name, wanted, value)
    return number


def check_level(value: Any, name: str = "alpha", hint: str = "0.05 makes 95 % intervals") -> float:
    """A number between 0 and 1, both excluded."""
    number = check_number(value, name, "a number between 0 and 1")
    if not 0.0 < number < 1.0:
        raise ArgumentError(f"{name} must be between 0 and 1, got {shown(value)}; {hint}")
    return number


LEAST = {0: "a non-negative integer", 1: "a positive integer"}


def check_count(value: Any, name: str, least: int = 1, most: int = MOST) -> int:
    """An integer from ``least`` to ``most``."""
    wanted = LEAST.get(least) or f"an integer, at least {least}"
    number = _integer(value, name, wanted)
    if number > most:
        wanted += f" of at most {most:,}"
    if not least <= number <= most:
        raise wrong_value(name, wanted, value)
    return number


def check_starts(starts: Any) -> int | None:
    """A number of searches from starts of their own; None for as many as needed."""
    return None if starts is None else max(check_count(starts, "starts", 0, MOST_STARTS), 1)


def check_jobs(value: Any, name: str = "n_jobs") -> int:
    """Number of workers as joblib counts them: -1 for one per processor."""
    wanted = "an integer other than 0, -1 for one worker per processor"
    number = _integer(value, name, wanted)
    if number == 0 or abs(number) > MOST_JOBS:
        raise wrong_value(name, wanted, value)
    return number


def _integer(value: Any, name: str, wanted: str) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, Integral)):
        raise wrong_type(name, wanted, value)
    return int(value)


def check_progress(value: Any, name: str = "progress") -> bool | None:
    """True, False, or None for where it can be seen."""
    return None if value is None else check_flag(value, name)


def check_memory(value: Any, name: str = "memory_limit") -> int | None:
    """A limit in bytes; None for what the machine has."""
    return None if value is None else int(check_positive(value, name))


def check_callable(value: Any, name: str) -> Callable[..., Any]:
    """A function."""
    if not callable(value) or isinstance(value, type):
        raise wrong_type(name, "a function", value)
    found: Callable[..., Any] = value
    return found


def check_methods(value: Any, name: str, methods: Sequence[str]) -> Any:
    """An object with some methods, or None."""
    lacking = [m for m in methods if not callable(getattr(value, m, None))]
    if value is not None and lacking:
        raise wrong_type(name, f"an object with {' and '.join(f'{m}()' for m in methods)}", value)
    return value


# ----------------------------------------------------------------------- several values


def check_mapping(value: Any, name: str, example: str) -> Mapping[Any, Any]:
    """A dict."""
    if not isinstance(value, Mapping):
        raise wrong_type(name, f"a dict such as {example}", value)
    return value


def check_list(value: Any, name: str, wanted: str = "a list") -> list[Any]:
    """The elements of a list, tuple, array, index or other collection with an order."""
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        raise wrong_type(name, wanted, value)
    if len(getattr(value, "shape", (1,))) != 1:
        raise wrong_type(name, wanted, value)
    return list(value)


def check_strings(value: Any, name: str, wanted: str = "a name or a list of names") -> list[str]:
    """One string or several."""
    if isinstance(value, str):
        return [value]
    out = check_list(value, name, wanted)
    for one in out:
        if not isinstance(one, str):
            raise wrong_type(name, wanted, value)
    return out


def check_hashable(labels: Iterable[Any], name: str) -> None:
    """Labels that can be told apart: no lists, dicts or arrays among them."""
    for label in labels:
        if not isinstance(label, Hashable):
            raise wrong_type(name, "labels, such as strings or numbers, one each", label)


def check_numbers(
    value: Any, name: str, shape: Sequence[int | None] | None = None, *, finite: bool = True,
    what: str = "",
) -> FloatArray:  # fmt: skip
    """Numbers as an array of floats; nothing is lost on the way.

    Parameters
    ----------
    shape : sequence of int or None, optional
        Wanted shape, None for any length.
    finite : bool
        Whether NaN and infinities are refused.
    what : str
        Meaning of the shape, for the message.
    """
    array = _as_floats(value, name)
    if shape is not None and not _fits(array.shape, shape):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        wanted = f"({wanted}{',' if len(shape) == 1 else ''})" if shape else "a single number"
        raise ArgumentError(
            f"{name} must have shape {wanted}{f', {what}' if what else ''}; got shape {array.shape}"
        )
    if finite and not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(array.ravel()))
        raise ArgumentError(
            f"{name} must be finite, got {array.ravel()[bad[0]]} at "
            f"{tuple(int(i) for i in np.unravel_index(bad[0], array.shape))}"
        )
    return array


def in_order(value: Any, *names: Sequence[str], argument: str) -> Any:
    """A Series, a mapping, or the columns of a DataFrame, in the order of what it is labelled with.

    What has no labels, or is only numbered 0, 1, 2 ..., goes by position.

    Parameters
    ----------
    *names : sequence of str
        The names; further ones are as good (another spelling, or more of them).

    Raises
    ------
    ArgumentError
        When the labels are others.
    """
    if isinstance(value, Mapping):
        labels = list(value)
    elif hasattr(value, "iloc"):
        labels = list(value.columns if hasattr(value, "columns") else value.index)
    else:
        return value
    if any(labels == list(own) for own in names):
        return list(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping) and labels == list(range(len(labels))):
        return value
    found = [own for own in names if len(set(own)) == len(own)]  # else they do not tell
    for own in found:
        if len(labels) == len(own) and set(labels) == set(own):
            return [value[name] for name in own] if isinstance(value, Mapping) else value[list(own)]
    raise ArgumentError(
        f"{argument} is labelled {', '.join(map(str, labels))}; the labels must be "
        f"{', '.join(map(str, names[0]))}, or pass an array in that order"
    )


def both_in_order(value: Any, *names: Sequence[str], argument: str) -> Any:
    """A matrix with labelled rows and columns in the order of their names."""
    if not hasattr(value, "columns"):
        return value
    columns = in_order(value, *names, argument=argument)
    return in_order(columns.T, *names, argument=argument)


def unlabelled(value: Any, argument: str) -> Any:
    """A vector whose entries have no names; refused when it is labelled with some."""
    named = isinstance(value, Mapping)
    labels = list(value) if named else list(value.index) if hasattr(value, "iloc") else []
    if named or labels != list(range(len(labels))):
        raise ArgumentError(
            f"{argument} is labelled {', '.join(map(str, labels))}, but entries of theta have no "
            "names; pass an array in the order of results.theta"
        )
    return value


def unmasked(values: Any) -> Any:
    """A masked array with NaN in place of what it hides, anything else as it is.

    ``np.asarray`` would bring the hidden values back.
    """
    if not isinstance(values, np.ma.MaskedArray):
        return values
    if not np.ma.is_masked(values):
        return values.data
    kind = float if values.dtype.kind in "fiu" else object
    return np.ma.filled(values.astype(kind), np.nan)


def _fits(seen: tuple[int, ...], wanted: Sequence[int | None]) -> bool:
    return len(seen) == len(wanted) and all(
        w is None or s == w for s, w in zip(seen, wanted, strict=True)
    )


def _as_floats(value: Any, name: str) -> FloatArray:
    """Floats of numbers that are real; strings, dates and complex numbers are refused."""
    if value is None or isinstance(value, (str, bytes, Mapping)):
        raise wrong_type(name, "numbers", value)
    if hasattr(value, "toarray"):  # a sparse matrix
        value = value.toarray()
    try:
        array: AnyArray = np.asarray(unmasked(value))
    except (TypeError, ValueError) as error:  # rows of different length
        raise ArgumentTypeError(f"{name} must be numbers in an array: {error}") from error
    if array.dtype.kind == "O":
        if any(isinstance(entry, (complex, str, bytes)) for entry in array.ravel().tolist()):
            raise wrong_type(name, "real numbers", value)
        try:
            return np.asarray(array, dtype=float)
        except (TypeError, ValueError, OverflowError) as error:
            raise wrong_type(name, "numbers", value) from error
    if array.dtype.kind not in "fiub":
        raise wrong_type(name, "real numbers", value)
    return np.asarray(array, dtype=float)


OTHER_ARGUMENTS = {
    "REML": "; here it is reml=True or False, an argument of fit()",
    "reml": "; it is an argument of fit(): reml=True or False",
    "cov_type": "; robust standard errors are results.cov_robust() and results.robust_tests()",
    "cov_kwds": "; robust standard errors are results.cov_robust() and results.robust_tests()",
    "control": "; options of the search are arguments of fit() of their own",
    "lmerControl": "; options of the search are arguments of fit() of their own",
    "na_action": "; here it is missing='drop' or 'raise', an argument of the model",
    "re_form": "; here it is re=True or False",
    "re.form": "; here it is re=True or False",
    "allow_new_levels": "; here it is unseen='population'",
    "allow.new.levels": "; here it is unseen='population'",
    "family": "; generalized models are sparselmm.mixedglm(formula, data, family=...)",
    "ddf": "; degrees of freedom are asked of the result, summary(ddf=...) or anova(ddf=...)",
    "newdata": "; new data are the first argument",
    "interval": "; get_prediction() has intervals",
    "nsim": "; here it is n, the first argument",
    "random_state": "; here it is seed=",
    "conf_level": "; here it is alpha=, 0.05 for 95 %",
    "level": "; here it is alpha=, 0.05 for 95 %",
    "typ": "; here it is type=",
    "verbose": "; here it is progress=True",
    "optimizer": "; here it is method=",
    "nAGQ": "; here it is nagq=",
    "ziformula": "; here it is zi=",
    "dispformula": "; here it is dispersion=",
    "chunk_rows": "; linear models alone, mixedlm(), can be fitted without keeping the rows",
    "keep_rows": "; linear models alone, mixedlm(), can be fitted without keeping the rows",
    "exposure": "; here it is offset=, of its logarithm",
    "random": "; write bars in the formula, '+ (1|g)', or groups= and re_formula=",
    "random_effects": "; write bars in the formula, '+ (1|g)', or groups= and re_formula=",
    "correlation": "; here it is residual='ar1(time | subject)'",
    "rcov": "; here it is residual='ar1(time | subject)'",
    "covariance": "; write the structure in the formula, '+ us(visit | subject)'",
    "vcov": "; tests have ddf='satterthwaite' or 'kenward-roger' as an argument",
    "n_splits": "; here it is folds=",
    "cv": "; here it is folds=",
    "figsize": "; give a figure or axes of that size, figure= or ax=",
    "B": "; here it is n, the first argument",
    "R": "; here it is n, the first argument",
    "n_boot": "; here it is n, the first argument",
    "pairwise": "; write emmeans('f').contrast('pairwise')",
}
"""Arguments of other packages: what there is here."""


def check_keywords(
    given: Iterable[str], known: Sequence[str], function: str,
    others: Mapping[str, str] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Refuse keyword arguments a function does not have; ``others`` go before `OTHER_ARGUMENTS`."""
    for name in given:
        if name not in known:
            takes = f"; it takes {', '.join(known) or 'no options'}"
            same = name.lower() in map(str.lower, known)
            theirs = None if same else others.get(name, OTHER_ARGUMENTS.get(name))
            hint = theirs or suggestion(name, known) or takes
            raise ArgumentTypeError(f"{function} has no argument {name!r}{hint}")
