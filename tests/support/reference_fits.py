"""The reference fits of ``data/reference`` in the words of sparselmm.

``REFERENCE_IDS`` lists the fits, :func:`reference_fit` turns one into data, formula,
weights and the numbers to reach, :func:`reference_inference` reads the inference record
that belongs to it. lme4 names coefficients ``service1``, patsy ``service[T.1]``: every
name here is patsy's. The pairing goes from patsy's names to lme4's, a direction in which
nothing is ambiguous, and compares interactions as sets of their parts because the two
programs order parts and columns differently.

The designs come straight from patsy, not from ``sparselmm.design``, so that array-level
tests can use the fits as well.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import patsy

from sparselmm import datasets

Array = npt.NDArray[np.float64]

_FOLDER = datasets.data_dir().joinpath("reference")
REFERENCE_IDS: list[str] = sorted(
    path.name.removesuffix(".json") for path in _FOLDER.joinpath("fits").iterdir()
)
INFERENCE_IDS: list[str] = sorted(
    path.name.removesuffix(".json") for path in _FOLDER.joinpath("inference").iterdir()
)


@dataclass(frozen=True, eq=False)
class ReferenceTerm:
    """One random-effects term of a reference fit, in lme4's order of terms.

    Attributes
    ----------
    group : str
        Grouping factor, innermost first: ``"Subject"``, ``"cask:batch"``.
    names : tuple of str
        Coefficient names as patsy writes them, k of them.
    n_levels : int
        Number of levels.
    cov : ndarray, (k, k)
        Covariance of the coefficients, sigma squared included.
    levels : tuple of str
        Labels of the first levels.
    ranef : ndarray, (len(levels), k)
        Conditional means b of those levels.
    ranef_sum, ranef_sumsq : ndarray, (k,)
        Sum and sum of squares of the conditional means over all levels.
    condvar : ndarray, (m, k, k)
        Conditional covariances of the first m levels, sigma squared included.
    """

    group: str
    names: tuple[str, ...]
    n_levels: int
    cov: Array
    levels: tuple[str, ...]
    ranef: Array
    ranef_sum: Array
    ranef_sumsq: Array
    condvar: Array


@dataclass(frozen=True, eq=False)
class ReferenceFit:
    """A model, its data and the numbers lme4 reaches for it.

    Attributes
    ----------
    id, dataset, category, tags
        As in the table of ``data/reference/README.md``.
    formula : str
        In the lme4 spelling, R idioms included (``I(x^2)``, ``factor(x)``, ``offset()``);
        ordered factors are wrapped as ``C(x, Poly)``.
    reml : bool
        Whether the criterion is REML.
    data : DataFrame
        The data set after ``subset``, unused levels dropped, rows with missing values kept.
    rows : DataFrame
        The rows that enter the fit: no missing value in a used column.
    design : DataFrame
        Fixed-effects design of ``rows``, all columns, named and ordered by patsy.
    weights_formula : str or None
        Prior weights as an expression in the columns.
    n, p, q : int
        Rows used, fixed-effect columns kept, columns of Z.
    theta : ndarray
        Relative covariance parameters, term by term, lower triangles by column.
    theta_names : tuple of str
        ``"group.name"`` for diagonal, ``"group.row.column"`` for other elements.
    fixef : Series
        Fixed effects; index = patsy names, in lme4's order, dropped columns left out.
    vcov : DataFrame
        Their covariance.
    dropped : tuple of str
        Columns of a rank-deficient X that lme4 drops. A program that orders columns
        differently may rightly drop others, see :meth:`reml_shift`.
    sigma : float
        Residual standard deviation.
    criterion : float
        -2 log-likelihood, or the REML criterion.
    loglik, aic, bic : float
        As lme4 reports them.
    singular : bool
        Whether the estimated covariance is singular: theta is then not unique.
    terms : tuple of ReferenceTerm
        In lme4's order: decreasing number of levels.
    raw : dict
        The whole JSON record.
    """

    id: str
    dataset: str
    category: str
    tags: tuple[str, ...]
    formula: str
    reml: bool
    data: pd.DataFrame
    rows: pd.DataFrame
    design: pd.DataFrame
    weights_formula: str | None
    n: int
    p: int
    q: int
    theta: Array
    theta_names: tuple[str, ...]
    fixef: pd.Series
    vcov: pd.DataFrame
    dropped: tuple[str, ...]
    sigma: float
    criterion: float
    loglik: float
    aic: float
    bic: float
    singular: bool
    terms: tuple[ReferenceTerm, ...]
    raw: dict[str, Any]

    @cached_property
    def parts(self) -> FormulaParts:
        """Response, fixed part, offset and bars of the formula."""
        return split_formula(self.formula)

    @cached_property
    def y(self) -> Array:
        """Response, (n,), offset not subtracted."""
        return np.asarray(_evaluate(self.parts.response, self.rows), dtype=np.float64)

    @cached_property
    def X(self) -> Array:
        """Fixed-effects design as lme4 uses it, (n, p): its order, dropped columns left out."""
        return np.asarray(self.design[list(self.fixef.index)], dtype=np.float64)

    @cached_property
    def weights(self) -> Array | None:
        """Prior weights of :attr:`rows`, (n,)."""
        if self.weights_formula is None:
            return None
        return np.asarray(_evaluate(self.weights_formula, self.rows), dtype=np.float64)

    @cached_property
    def offset(self) -> Array | None:
        """Offset of :attr:`rows`, (n,)."""
        if self.parts.offset is None:
            return None
        return np.asarray(_evaluate(self.parts.offset, self.rows), dtype=np.float64)

    @cached_property
    def names(self) -> dict[str, str]:
        """Patsy name of each lme4 fixed-effect name, dropped columns included."""
        given = [*self.raw["fixef_names"], *self.raw["X_dropped"]]
        return _pair(given, list(self.design.columns))

    def reml_shift(self, other: Array) -> float:
        """REML criterion with ``other`` as X, minus the one with :attr:`X`.

        ``other`` (n, p) must span the same space: ``other = X T`` multiplies det(X'V^-1 X)
        by det(T)^2, whatever V is. Zero under ML.
        """
        if not self.reml:
            return 0.0
        change, *_ = np.linalg.lstsq(self.X, other, rcond=None)
        np.testing.assert_allclose(self.X @ change, other, atol=1e-8 * np.abs(other).max())
        return float(2.0 * np.linalg.slogdet(change).logabsdet)

    def __repr__(self) -> str:
        """Return the id, which is what a failing test should show."""
        return f"ReferenceFit({self.id})"


@dataclass(frozen=True)
class FormulaParts:
    """An lme4 formula cut into what patsy reads and what it must not see."""

    response: str
    fixed: str
    offset: str | None
    bars: tuple[tuple[str, str, str], ...]


@cache
def reference_fit(name: str) -> ReferenceFit:
    """One reference fit by id."""
    raw = _read("fits", name)
    data = _data(raw["dataset"], raw.get("subset_py"))
    formula = _polynomial_contrasts(raw["formula"], data)
    parts = split_formula(formula)
    rows = _complete_rows(data, f"{formula} + {raw.get('weights')}")
    design = _design(parts.fixed, rows)
    terms = _terms(raw, parts, rows)
    pairs = _pair([*raw["fixef_names"], *raw["X_dropped"]], list(design.columns))
    kept = [pairs[key] for key in raw["fixef_names"]]
    p = len(kept)
    return ReferenceFit(
        id=raw["id"],
        dataset=raw["dataset"],
        category=raw["category"],
        tags=tuple(raw["tags"]),
        formula=formula,
        reml=raw["REML"],
        data=data,
        rows=rows,
        design=design,
        weights_formula=raw.get("weights"),
        n=raw["n"],
        p=p,
        q=raw["q"],
        theta=_array(raw["theta"]),
        theta_names=tuple(_theta_names(terms)),
        fixef=pd.Series(raw["fixef"], index=kept, dtype=np.float64),
        vcov=pd.DataFrame(_array(raw["vcov"]).reshape(p, p), index=kept, columns=kept),
        dropped=tuple(pairs[key] for key in raw["X_dropped"]),
        sigma=raw["sigma"],
        criterion=raw["criterion"],
        loglik=raw["logLik"],
        aic=raw["AIC"],
        bic=raw["BIC"],
        singular=raw["singular"],
        terms=terms,
        raw=raw,
    )


def reference_fits(*, large: bool = True) -> list[ReferenceFit]:
    """All reference fits; ``large=False`` leaves out those tagged large."""
    fits = map(reference_fit, REFERENCE_IDS)
    return [fit for fit in fits if large or "large" not in fit.tags]


@cache
def reference_inference(name: str) -> dict[str, Any]:
    """Inference record of a reference fit, names as in R; null is None, "Inf" is inf."""
    return _read("inference", name)


def split_formula(formula: str) -> FormulaParts:
    """Cut bars and offset out of a formula.

    Examples
    --------
    >>> split_formula("y ~ x + offset(2 * z) + (x || g) + (1 | a/b)")
    FormulaParts(response='y', fixed='x', offset='2 * z', \
bars=(('x', '||', 'g'), ('1', '|', 'a/b')))
    """
    response, right = (side.strip() for side in formula.split("~"))
    fixed, bars, offset = [], [], None
    for term in _top_level_terms(right):
        if term.startswith("(") and "|" in term:
            left, operator, group = re.split(r"\s*(\|\|?)\s*", term[1:-1])
            bars.append((left.strip(), operator, group.strip()))
        elif term.startswith("offset("):
            offset = term.removeprefix("offset(")[:-1]
        else:
            fixed.append(term)
    return FormulaParts(response, " + ".join(fixed) or "1", offset, tuple(bars))


def _top_level_terms(text: str) -> list[str]:
    """Terms joined by a plus sign outside parentheses."""
    terms, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "+" and depth == 0:
            terms.append(text[start:position].strip())
            start = position + 1
    return [*terms, text[start:].strip()]


def _read(kind: str, name: str) -> dict[str, Any]:
    text = _FOLDER.joinpath(kind, f"{name}.json").read_text(encoding="utf-8")
    record: dict[str, Any] = json.loads(text, object_hook=_special_numbers)
    return record


def _special_numbers(record: dict[str, Any]) -> dict[str, Any]:
    special = {"Inf": np.inf, "-Inf": -np.inf, "NaN": np.nan}

    def fix(value: Any) -> Any:
        if isinstance(value, list):
            return [fix(item) for item in value]
        return special.get(value, value) if isinstance(value, str) else value

    return {key: fix(value) for key, value in record.items()}


@cache
def _data(dataset: str, subset: str | None) -> pd.DataFrame:
    data = datasets.load(dataset)
    if subset is None:
        return data
    data = data.query(subset).reset_index(drop=True)
    for name in data.select_dtypes("category"):
        data[name] = data[name].cat.remove_unused_categories()
    return data


def _complete_rows(data: pd.DataFrame, expressions: str) -> pd.DataFrame:
    """Rows without a missing value in a column that the expressions name."""
    used = [c for c in data.columns if re.search(rf"(?<![\w.]){c}(?![\w.])", expressions)]
    return data.dropna(subset=used).reset_index(drop=True)


def _polynomial_contrasts(formula: str, data: pd.DataFrame) -> str:
    """Wrap the ordered factors of the right side in patsy's polynomial contrasts."""
    response, right = formula.split("~")
    for name in data.select_dtypes("category"):
        if data[name].cat.ordered:
            right = re.sub(rf"(?<![\w(.]){name}(?![\w.(])", f"C({name}, Poly)", right)
            right = right.replace(f"({name} |", f"(C({name}, Poly) |")
    return f"{response}~{right}"


def _factor(values: Any) -> pd.Categorical:
    return pd.Categorical(values)


_NAMESPACE = {"factor": _factor, "log": np.log, "exp": np.exp, "sqrt": np.sqrt}


def _evaluate(expression: str, data: pd.DataFrame) -> Any:
    return eval(expression.replace("^", "**"), _NAMESPACE | dict(data.items()))


def _design(formula: str, data: pd.DataFrame) -> pd.DataFrame:
    if formula == "0":
        return pd.DataFrame(index=data.index)
    environment = patsy.EvalEnvironment([_NAMESPACE])
    return patsy.dmatrix(formula.replace("^", "**"), data, environment, return_type="dataframe")


def _key(name: str) -> frozenset[str]:
    """R name of a column, as the set of its parts without blanks; also accepts R names."""
    return frozenset(_part(part) for part in name.split(":"))


def _part(part: str) -> str:
    part = re.sub(r"^C\((\w+), Poly\)", r"\1", part)
    part = re.sub(r"\.(L|Q|C)(inear|uadratic|ubic)$", r".\1", part)
    part = re.sub(r"\[(?:T\.)?(.*)\]$", r"\1", part)
    return "(Intercept)" if part == "Intercept" else part.replace("**", "^").replace(" ", "")


def _pair(r_names: list[str], columns: list[str]) -> dict[str, str]:
    """Patsy column of each R name; every R name must have exactly one."""
    by_key = {_key(column): column for column in columns}
    if len(by_key) != len(columns):
        raise AssertionError(f"ambiguous column names: {columns}")
    return {name: by_key[_key(name)] for name in r_names}


def _terms(
    raw: dict[str, Any], parts: FormulaParts, rows: pd.DataFrame
) -> tuple[ReferenceTerm, ...]:
    bars = [{_key(c): c for c in _design(left, rows).columns} for left, _, _ in parts.bars]
    terms = []
    for term in raw["terms"]:
        keys = [_key(name) for name in term["names"]]
        names = next(bar for bar in bars if bar.keys() >= set(keys))
        k = len(keys)
        terms.append(
            ReferenceTerm(
                group=term["group"],
                names=tuple(names[key] for key in keys),
                n_levels=term["nlevels"],
                cov=_array(term["cov"]).reshape(k, k),
                levels=tuple(map(str, term["levels_first"])),
                ranef=_array(term["ranef_first"]).reshape(-1, k),
                ranef_sum=_array(term["ranef_sum"]),
                ranef_sumsq=_array(term["ranef_sumsq"]),
                condvar=_array(term["condvar_first"]).reshape(-1, k, k),
            )
        )
    return tuple(terms)


def _theta_names(terms: tuple[ReferenceTerm, ...]) -> list[str]:
    return [
        f"{term.group}.{row}" if i == j else f"{term.group}.{row}.{column}"
        for term in terms
        for j, column in enumerate(term.names)
        for i, row in enumerate(term.names)
        if i >= j
    ]


def _array(values: Any) -> Array:
    return np.asarray(values, dtype=np.float64)
