"""Arguments of generalized models: responses, trials, designs of further predictors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sparselmm.base.arguments import check_numbers, in_order, shown, wrong_type
from sparselmm.base.exceptions import DataError, RankDeficiencyWarning, ValueWarning, warn_user
from sparselmm.base.types import AnyArray, FloatArray, IntArray
from sparselmm.design import BuiltDesign
from sparselmm.design.responses import coded_response, row_trials
from sparselmm.design.validate import far_from_zero
from sparselmm.factor.basis import working_basis
from sparselmm.likelihood.laplace.chosen import TRIALS, base_of, choose_family, with_zeros
from sparselmm.likelihood.laplace.data import Further
from sparselmm.likelihood.laplace.deviance import LaplaceDeviance
from sparselmm.likelihood.laplace.families import Family
from sparselmm.likelihood.laplace.start import start as default_start

MOST_SPREAD, FAR = 1e9, 1e5
"""Standard deviation of a covariate of dispersion=, zi= or hurdle=, and of these that its mean may
be from zero, up to which searches and standard errors have their digits."""


def chosen_family(family: Any, link: Any, dispersion: Any, zi: Any, hurdle: Any) -> Any:
    """The family of a model with its zeros, checked."""
    chosen = choose_family(family, link)
    if getattr(family, "alpha", None) is not None and chosen.name == "nbinom2":
        warn_user(
            "alpha of statsmodels' NegativeBinomial is not used: the dispersion is estimated",
            ValueWarning,
        )
    if dispersion is not None and "dispersion" not in chosen.further:
        raise DataError(
            f"family {chosen.name!r} has no dispersion parameter; leave out dispersion="
        )
    return with_zeros(chosen, asked(zi), asked(hurdle))


def asked(value: Any) -> bool:
    """Whether a further predictor was asked for."""
    return value is not None and value is not False


def one_formula(name: str, text: Any) -> str:
    """A formula of a further predictor; anything else is refused."""
    if not isinstance(text, str):
        raise DataError(f"{name}= must be a formula such as '~ x', not {type(text).__name__}")
    return text


def given_designs(n: int, **designs: Any) -> dict[str, Any]:
    """Designs of the further predictors as arrays."""
    out = {}
    for name, value in designs.items():
        if value is True:
            out[name] = np.ones((n, 1))
        elif asked(value):
            if isinstance(value, str):
                raise DataError(f"{name}= must be an array (n, c) or True; a formula needs "
                                "MixedGLM.from_formula")  # fmt: skip
            out[name] = value
    return out


def array_response(
    endog: Any, kind: str, trials: Any
) -> tuple[Any, FloatArray | None, AnyArray | None, str | None]:
    """Response, trials, categories and the name of the response."""
    shape = getattr(endog, "shape", None)
    if shape is None:
        if isinstance(endog, (str, bytes, Mapping)) or not hasattr(endog, "__len__"):
            raise wrong_type("endog", "an array of responses", endog)
        rows = {np.shape(row) if not isinstance(row, (list, tuple)) else (len(row),)
                for row in endog}  # fmt: skip
        if len(rows) > 1:
            raise wrong_type("endog", "one response or one pair per row", endog)
        shape = np.shape(endog)
    if not shape:
        raise wrong_type("endog", "an array of responses", endog)
    index = endog.index if isinstance(endog, (pd.Series, pd.DataFrame)) else None
    m = row_trials(trials, shape[0], index, kind)
    if len(shape) == 2 and shape[1] == 2:
        both = check_numbers(endog, "endog", finite=False)
        if kind not in TRIALS:
            raise DataError(
                f"endog has two columns, successes and failures; family {kind!r} takes one"
            )
        if m is not None:
            raise DataError("trials= is given besides two columns of endog; leave one out")
        y = (
            pd.Series(both[:, 0], index=index, name="successes")
            if index is not None
            else both[:, 0]
        )
        return y, both.sum(axis=1), None, None
    series = endog if isinstance(endog, pd.Series) else None
    if series is None and len(shape) == 1:
        values = np.asarray(endog)
        series = pd.Series(values) if values.dtype.kind in "OUSb" or kind == "ordinal" else None
    if series is None:
        return endog, m, None, None
    numbers, categories = coded_response(series, str(getattr(endog, "name", "endog")), kind)
    if numbers is None:
        return endog, m, None, None
    if isinstance(endog, pd.Series):
        return pd.Series(numbers, index=endog.index, name=endog.name), m, categories, None
    return numbers, m, categories, None


def kept_trials(trials: FloatArray | None, built: BuiltDesign) -> FloatArray | None:
    """Trials of the rows in use."""
    if trials is None:
        return None
    m = trials if built.kept is None else trials[built.kept]
    if not np.isfinite(m).all():
        raise DataError(f"trials are missing in {int((~np.isfinite(m)).sum())} row(s)")
    return m


def successes(y: FloatArray, m: FloatArray) -> FloatArray:
    """Successes of proportions, whole where they are so but for rounding."""
    bad = np.flatnonzero((y < 0) | (y > 1))
    if len(bad):
        raise DataError(
            f"with weights= the trials, the response must be proportions between 0 and 1; row "
            f"{bad[0]} has {y[bad[0]]:g}. For numbers of successes use trials= or "
            "cbind(successes, failures)"
        )
    counts = y * m
    whole = np.round(counts)
    return np.where(np.abs(counts - whole) < 1e-6 * np.maximum(1.0, m), whole, counts)


def without_constant(X: FloatArray, names: tuple[str, ...], kind: str) -> IntArray:
    """Columns of X; of an ordinal response those that the thresholds do not stand for."""
    every = np.arange(X.shape[1])
    if kind != "ordinal" or not X.shape[1]:
        return every
    keep = np.array([j for j in every if X[:, j].min() != X[:, j].max()], dtype=int)
    with_one = np.column_stack([np.ones(len(X)), X[:, keep]])
    kept = working_basis(with_one, np.zeros(len(X)), None).kept
    dropped = [names[keep[j - 1]] for j in range(1, len(keep) + 1) if j not in set(kept.tolist())]
    dropped += [names[j] for j in every if not X[:, j].any()]
    if dropped:
        warn_user(
            "columns of the fixed-effects design that the thresholds and the other columns stand "
            f"for were left out: {', '.join(dropped)}",
            RankDeficiencyWarning,
        )
    return np.asarray(keep[kept[kept > 0] - 1])


def check_categories(y: FloatArray, categories: AnyArray, name: str) -> None:
    """Refuse an ordinal response with a category that no row in use has."""
    missing = np.flatnonzero(np.bincount(y.astype(int), minlength=len(categories)) == 0)
    if len(missing):
        raise DataError(
            f"no row in use of the ordinal response {name!r} is in category "
            f"{shown(categories[missing[0]])}: rows with it were left out or have weight zero, so "
            "that its threshold cannot be estimated; leave the category out, or merge it with its "
            "neighbour"
        )


def thresholds(y: FloatArray, categories: AnyArray | None) -> tuple[Further, ...]:
    """The thresholds above and below every row's category."""
    n, code = len(y), y.astype(int)
    J = int(code.max()) + 1 if categories is None else len(categories)
    labels = [str(c) for c in (range(J) if categories is None else categories)]
    names = tuple(f"{a}|{b}" for a, b in pairwise(labels))
    rows, out = np.arange(n), []
    for name, place, end in (("upper", code, J - 1), ("lower", code - 1, -1)):
        inner = (place >= 0) & (place < J - 1)
        data = (np.ones(int(inner.sum())), (rows[inner], place[inner]))
        offset = np.where(place == end, np.inf if name == "upper" else -np.inf, 0.0)
        design = sp.csr_array(data, shape=(n, J - 1))
        out.append(Further(name, slice(0, J - 1), design, offset, names))
    return tuple(out)


def further_predictors(
    family: Family, built: BuiltDesign, y: FloatArray, categories: AnyArray | None
) -> tuple[Further, ...]:
    """The predictors besides the mean's, in the order the family takes them."""
    if base_of(family).name == "ordinal":
        return thresholds(y, categories)
    out, first = [], 0
    for name in family.further:
        design = built.further.get(name)
        labels = _further_labels(built, name, design)
        if design is not None:
            _check_further_design(name, design, labels)
        if design is not None and design.shape[1] == 1 and (design == 1.0).all():
            design = None
        out.append(Further(name, slice(first, first + len(labels)), design, None, labels))
        first += len(labels)
    return tuple(out)


def _further_labels(built: BuiltDesign, name: str, design: FloatArray | None) -> tuple[str, ...]:
    """Names of the coefficients of a further predictor."""
    info = built.spec.further.get(name)
    if info is not None:
        return tuple(info.column_names)
    if design is None or (design.shape[1] == 1 and (design == 1.0).all()):
        return ("Intercept",)
    return tuple(f"{name}{j}" for j in range(1, design.shape[1] + 1))


def coefficient_names(
    x_names: Sequence[str], further: Sequence[Further]
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Names of the fixed effects and further coefficients, and the part each belongs to."""
    names, parts, seen = [*x_names], ["mean"] * len(x_names), set()
    for one in further:
        if one.columns.start in seen:
            continue
        seen.add(one.columns.start)
        part = "threshold" if one.name in ("upper", "lower") else one.name
        prefix = "" if part == "threshold" else f"{part}: "
        names += [prefix + label for label in one.labels]
        parts += [part] * len(one.labels)
    return names, parts


def start_parameters(
    start: Any, engine: LaplaceDeviance, names: Sequence[str]
) -> FloatArray | None:  # fmt: skip
    """Parameters to start from, when they were given.

    Labelled ones are coefficients and go by the names of ``params``; the variances then start
    where they do without them.
    """
    if start is None:
        return None
    labelled = isinstance(start, Mapping) or hasattr(start, "iloc")
    own = in_order(start, names, argument="start")
    if labelled and (isinstance(start, Mapping) or not start.index.equals(pd.RangeIndex(len(own)))):
        beta, n = check_numbers(own, "start", (len(names),), finite=False), engine.fixed.X.shape[1]
        x, a = default_start(engine), engine.covariance.n_theta
        x[a:] = np.concatenate([engine.fixed.gamma(beta[:n]), beta[n:]])
        check_numbers(x[a:], "start")  # dropped columns have no coefficient
        return x
    what = "the x of another fit's opt, or a Series of params"
    return check_numbers(own, "start", (len(engine.parameters),), what=what)


def _check_further_design(name: str, design: FloatArray, labels: Sequence[str]) -> None:
    """Refuse designs of dispersion=, zi= or hurdle= that no search can work with."""
    for column, label in zip(design.T, labels, strict=True):
        spread = float(column.std())
        small = spread > 0.0 and not 1.0 / MOST_SPREAD <= spread <= MOST_SPREAD
        if small or (spread > 0.0 and far_from_zero(column, FAR)):
            raise DataError(
                f"{name}=: {label} runs from {column.min():g} to {column.max():g}; take other "
                f"units and an origin among its values: {name}='~ standardize({label})'"
            )
    size = np.abs(design).max(axis=0, initial=0.0)
    rank = np.linalg.matrix_rank(design / np.where(size > 0.0, size, 1.0)) if design.size else 0
    if rank < max(design.shape[1], 1):
        raise DataError(
            f"the design of {name}= has {design.shape[1]} columns ({', '.join(labels)}) of rank "
            f"{rank}; leave out what depends on the others, or write '~ 1'"
        )
