"""Which family: names, links, statsmodels' objects; and which responses it allows."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

import numpy as np

from sparselmm.base.exceptions import DataError
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.likelihood.laplace.families import DEFAULTS, FAMILIES
from sparselmm.likelihood.laplace.links import DISTRIBUTIONS
from sparselmm.likelihood.laplace.mixtures import CustomFamily, Hurdle, ZeroInflated

ALIASES = {
    "bernoulli": "binomial",
    "logistic": "binomial",
    "beta_binomial": "betabinomial",
    "beta_family": "beta",
    "normal": "gaussian",
    "inverse.gaussian": "inverse_gaussian",
    "inversegaussian": "inverse_gaussian",
    "nbinom": "nbinom2",
    "negativebinomial": "nbinom2",
    "negative_binomial": "nbinom2",
    "negbin": "nbinom2",
    "nb": "nbinom2",
    "nb2": "nbinom2",
    "nb1": "nbinom1",
    "negbinomial": "nbinom2",
    "cumulative": "ordinal",
    "ordered": "ordinal",
}
"""Other names of families, in lower case."""

LINK_ALIASES = {
    "cauchy": "cauchit",
    "1/mu^2": "inverse_squared",
    "inversepower": "inverse",
    "inverse_power": "inverse",
    "inversesquared": "inverse_squared",
    "id": "identity",
}
"""Other names of links, in lower case."""

R_CALL = re.compile(r"""(\w[\w. ]*?)\s*\(\s*(?:link\s*=\s*)?["']?([\w/^. -]*?)["']?\s*\)""")
"""R's ``binomial(link = "probit")``: the family, and its link."""

COUNTS = ("poisson", "nbinom1", "nbinom2")
TRIALS = ("binomial", "betabinomial")

WHOLE = 1e-7
"""Distance from a whole number, relative to its size, that counts as rounding."""


def choose_family(family: Any, link: Any = None) -> Any:
    """The family a user names.

    Parameters
    ----------
    family : str or object
        A name; a family of statsmodels; a `CustomFamily`.
    link : str, optional
        Default: the family's own.

    Raises
    ------
    DataError
        If the family or the link is not known, or one does not go with the other.
    """
    if isinstance(family, CustomFamily):
        if link is not None:
            raise DataError("link= has no meaning for a family of your own; its derivatives are in "
                            "the predictor")  # fmt: skip
        return family
    name, own = _named(family)
    kind = FAMILIES.get(name)
    if own is not None and link is not None and isinstance(family, str):
        raise DataError(f"family {family!r} has a link already; leave out link={link!r}")
    if kind is None and name in DISTRIBUTIONS:
        raise DataError(
            f"unknown family {family!r}: that is a link, family='binomial', link={name!r}"
        )
    if kind is None:
        known = sorted(FAMILIES)
        raise DataError(
            f"unknown family {family!r}{_close(name, [*known, *ALIASES])}; known are "
            f"{', '.join(known)}"
        )
    return kind(_link(kind, own if link is None else link))


def _named(family: Any) -> tuple[str, str | None]:
    """Name and link of what was given as ``family``."""
    if isinstance(family, str):
        called = R_CALL.fullmatch(family.strip())
        family, link = called.groups() if called else (family, None)
        name = family.strip().lower().replace(" ", "_").replace("-", "_")
        return ALIASES.get(name, name), link or None
    kind = family if isinstance(family, type) else type(family)
    if kind.__module__.startswith("statsmodels."):
        name = kind.__name__.lower()
        link = getattr(family, "link", None)
        own = None if link is None or isinstance(family, type) else _link_name(link)
        return ALIASES.get(name, name), own
    raise DataError(
        f"family must be a name such as 'binomial', a family of statsmodels or a CustomFamily, "
        f"not {type(family).__name__}"
    )


def _link_name(link: Any) -> str:
    name = type(link).__name__.lower()
    if name == "power":
        power = float(getattr(link, "power", np.nan))
        return {1.0: "identity", 0.5: "sqrt", -1.0: "inverse", -2.0: "inverse_squared"}.get(
            power, f"power {power:g}"
        )
    return name


def _link(kind: Any, link: Any) -> str:
    default = DEFAULTS.get(kind.name, kind.links[0])
    if link is None:
        return str(default)
    name = str(link if isinstance(link, str) else _link_name(link)).strip().lower()
    name = name.replace(" ", "_").replace("-", "_")
    name = LINK_ALIASES.get(name, name)
    if name in kind.links:
        return name
    every = sorted({other for family in FAMILIES.values() for other in family.links})
    if name not in every:
        raise DataError(
            f"unknown link {link!r}{_close(name, every)}; family {kind.name!r} takes "
            f"{', '.join(kind.links)}"
        )
    raise DataError(
        f"link {name!r} is not one for family {kind.name!r}; it takes {', '.join(kind.links)}"
    )


def _close(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def with_zeros(family: Any, zi: bool, hurdle: bool) -> Any:
    """The family with excess zeros.

    Raises
    ------
    DataError
        If it is not a family of counts, or both are asked for.
    """
    if not zi and not hurdle:
        return family
    if zi and hurdle:
        raise DataError("zi= and hurdle= are two models of the same zeros; give one of them")
    if family.name not in COUNTS and not (zi and family.name in TRIALS):
        raise DataError(
            f"{'zi' if zi else 'hurdle'}= is for counts ({', '.join(COUNTS)}), not for family "
            f"{family.name!r}"
        )
    return ZeroInflated(family) if zi else Hurdle(family)


def base_of(family: Any) -> Any:
    """The family without its zeros."""
    return getattr(family, "base", family)


# ---------------------------------------------------------------------------------- checks


def check_family_response(
    family: Any, y: FloatArray, m: FloatArray, name: str, live: BoolArray
) -> None:
    """Refuse a response the family does not allow.

    Parameters
    ----------
    y : ndarray, (n,)
    m : ndarray, (n,)
        Trials.
    name : str
        Of the response, for messages.
    live : ndarray of bool, (n,)
        Rows that count.

    Raises
    ------
    DataError
    """
    kind = base_of(family).name
    if isinstance(family, CustomFamily):
        family.check_start(y[live])
    elif kind in TRIALS:
        _check_trials(y, m, name, live)
    elif kind in COUNTS:
        _first(y < 0, live, f"the response {name!r} has negative counts", y, kind)
        _first(_fractional(y), live, f"the response {name!r} has fractional counts", y, kind)
        if not (y[live] > 0).any():
            raise DataError(
                f"all {int(live.sum())} counts of {name!r} are zero; the likelihood has no maximum"
            )
        if isinstance(family, (ZeroInflated, Hurdle)) and not (y[live] == 0).any():
            raise DataError(
                f"no count of {name!r} is zero, so that there are no zeros to explain; leave out "
                f"{'zi' if isinstance(family, ZeroInflated) else 'hurdle'}="
            )
        if isinstance(family, Hurdle) and y[live].max() == 1:
            raise DataError(
                f"all counts of {name!r} above zero are one: past the hurdle there is nothing to "
                "explain, and the likelihood has no maximum; use family='binomial'"
            )
    elif kind in ("gamma", "inverse_gaussian"):
        _first(y <= 0, live, f"the response {name!r} must be positive", y, kind)
    elif kind == "beta":
        _first((y <= 0) | (y >= 1), live,
               f"the response {name!r} must lie strictly between 0 and 1", y, kind)  # fmt: skip
    if kind in ("gaussian", "gamma", "inverse_gaussian", "beta"):
        own = y[live]
        if own.min() == own.max():
            raise DataError(
                f"the response {name!r} is constant ({own[0]:g} in all {len(own)} rows); there is "
                "no variation to explain"
            )


def _fractional(y: FloatArray) -> BoolArray:
    return np.asarray(np.abs(y - np.round(y)) > WHOLE * np.maximum(1.0, np.abs(y)))


def _first(bad: BoolArray, live: BoolArray, what: str, y: FloatArray, kind: str) -> None:
    where = np.flatnonzero(bad & live)
    if len(where):
        raise DataError(
            f"{what} for family {kind!r}: {len(where)} value(s), the first is {y[where[0]]:g} in "
            f"row {where[0]}"
        )


def _check_trials(y: FloatArray, m: FloatArray, name: str, live: BoolArray) -> None:
    where = np.flatnonzero((y < 0) & live)
    if len(where):
        raise DataError(
            f"the response {name!r} has negative numbers of successes, the first is "
            f"{y[where[0]]:g} in row {where[0]}"
        )
    where = np.flatnonzero((y > m * (1 + 1e-12)) & live)
    if len(where):
        i = int(where[0])
        hint = "a response of zeros and ones" if m[i] == 1 else "successes and failures"
        raise DataError(
            f"the response {name!r} has more successes than trials in {len(where)} row(s), the "
            f"first with {y[i]:g} of {m[i]:g} in row {i}; give {hint}, cbind(successes, failures), "
            "or proportions between 0 and 1 with weights= the trials; for another response name "
            "its family="
        )
    for values, what in ((y, "successes"), (m, "trials")):
        where = np.flatnonzero(_fractional(values) & live)
        if len(where):
            i = int(where[0])
            raise DataError(
                f"the numbers of {what} of {name!r} must be whole: {values[i]:.6g} in row {i}. "
                "Proportions need weights= the numbers of trials; proportions without trials have "
                "family='beta'"
            )
    total, most = float(y[live].sum()), float(m[live].sum())
    if total in (0.0, most):
        raise DataError(
            f"the response {name!r} has only {'failures' if total == 0 else 'successes'} in all "
            f"{int(live.sum())} rows; the likelihood has no maximum"
        )
