"""Linear mixed models as estimators of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from keyword import iskeyword
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from sparselmm.base.arguments import check_choice, check_flag, check_text
from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.types import FloatArray
from sparselmm.model.mixedlm import MixedLM

UNSEEN = ("population", "error", "nan")


class MixedLMRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A linear mixed model as a regressor of scikit-learn.

    Parameters
    ----------
    formula : str, optional
        Of fixed and random effects over the columns of a DataFrame, ``"x + (x | g)"``; a left
        side is allowed and gives y its name. Without one, every column of X is a fixed effect but
        those of ``groups``.
    groups : str, int or sequence of them, optional
        Columns of X that group the rows: their levels have random intercepts, crossed where there
        are several. Labels may also come with ``fit(X, y, groups=labels)``.
    slopes : str, int or sequence of them, optional
        Columns of X whose coefficients differ between the levels of every group.
    reml : bool
        Criterion of the fit.
    random : bool
        Whether predictions count the random effects of known levels.
    unseen : {"population", "error", "nan"}
        What to predict for levels that the fit has not seen: the rest of the model, nothing, or
        NaN.

    Attributes
    ----------
    result_ : MixedLMResults or None
        The fitted model with everything it can be asked; None when there is no grouping, and
        ordinary least squares took its place.
    coef_ : ndarray, (k,)
        Fixed effects without the intercept.
    intercept_ : float
    n_features_in_, feature_names_in_
        As of every estimator.

    Notes
    -----
    In a pipeline, labels are a column, or reach ``fit``, ``predict`` and ``score`` by metadata
    routing (``set_fit_request(groups=True)`` and its likes). With folds that keep groups together
    (``GroupKFold``) predictions are those for new groups; with folds of rows, for known ones.

    Examples
    --------
    >>> import sparselmm
    >>> from sparselmm.sklearn import MixedLMRegressor
    >>> data = sparselmm.datasets.load("sleepstudy")
    >>> model = MixedLMRegressor("Days + (Days | Subject)").fit(data, data.Reaction)
    >>> model.coef_.round(2).tolist(), round(model.score(data, data.Reaction), 3)
    ([10.47], 0.826)
    """

    def __init__(
        self, formula: str | None = None, *, groups: Any = None, slopes: Any = None,
        reml: bool = True, random: bool = True, unseen: str = "population",
    ) -> None:  # fmt: skip
        self.formula = formula
        self.groups = groups
        self.slopes = slopes
        self.reml = reml
        self.random = random
        self.unseen = unseen

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Any:
        """Fit the model.

        Parameters
        ----------
        X : DataFrame or array-like, (n, k)
        y : array-like, (n,)
        sample_weight : array-like, (n,), optional
            Prior weights.
        groups : array-like, (n,), optional
            Labels of one grouping factor.

        Returns
        -------
        MixedLMRegressor

        Raises
        ------
        DataError
            When a column is unknown, or a formula meets an array.
        """
        if y is None:
            raise ArgumentError(
                "MixedLMRegressor requires y to be passed, but the target y is None"
            )
        self._unseen = check_choice(self.unseen, "unseen", UNSEEN)
        check_flag(self.random, "random")
        check_flag(self.reml, "reml")
        X = _frame_of(X)
        self.result_: Any = None
        if self.formula is not None:
            return self._fit_formula(X, y, sample_weight, groups)
        y, columns, labels = self._parts(X, y, groups, reset=True)
        w = None if sample_weight is None else _check_sample_weight(sample_weight, y)
        if w is not None and (w < 0).any():
            raise DataError("sample_weight has negative values; weights are 1/variance")
        self._factors = list(labels)
        slopes = self._slope_names(list(columns))
        if not labels:
            if slopes:
                raise ArgumentError("slopes differ between groups; pass groups too")
            return self._least_squares(columns, y, w)
        self._names = _plain_names(columns, labels)
        names = {key: _quoted(name) for key, name in self._names.items()}
        own = "".join(f" + {names[s]}" for s in slopes)
        bars = " + ".join(f"(1{own} | {names['groups', g]})" for g in labels)
        fixed = " + ".join(["1", *(names[c] for c in columns)])
        response = _unused("y", self._names.values())
        frame = self._named(columns, labels).assign(**{response: y})
        return self._fitted(
            MixedLM.from_formula(f"{_quoted(response)} ~ {fixed} + {bars}", frame, weights=w)
        )

    def _named(self, columns: dict[Any, FloatArray], labels: dict[Any, Any]) -> pd.DataFrame:
        """Columns and labels under the names that they have in the formula."""
        keyed = {**columns, **{("groups", g): label for g, label in labels.items()}}
        return pd.DataFrame({self._names[key]: value for key, value in keyed.items()})

    def _fitted(self, model: MixedLM) -> MixedLMRegressor:
        self.result_ = model.fit(reml=bool(self.reml))
        fixed = np.nan_to_num(np.asarray(self.result_.fe_params, dtype=float))
        names = list(self.result_.model.exog_names)
        has_intercept = "Intercept" in names
        self.intercept_ = float(fixed[names.index("Intercept")]) if has_intercept else 0.0
        self.coef_ = np.delete(fixed, names.index("Intercept")) if has_intercept else fixed
        return self

    def _least_squares(
        self, columns: dict[Any, FloatArray], y: FloatArray, w: FloatArray | None
    ) -> MixedLMRegressor:
        """No grouping: a model without random effects."""
        design = np.column_stack([np.ones(len(y)), *columns.values()])
        root = np.ones(len(y)) if w is None else np.sqrt(w)
        beta = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
        self.intercept_, self.coef_ = float(beta[0]), beta[1:]
        return self

    def predict(self, X: Any, groups: Any = None) -> FloatArray:
        """Predictions, of known levels with their random effects.

        Parameters
        ----------
        X : DataFrame or array-like, (m, k)
        groups : array-like, (m,), optional
            Labels, where ``fit`` was given labels; without them the mean of the population.

        Returns
        -------
        ndarray, (m,)
        """
        check_is_fitted(self)
        X = _frame_of(X)
        if self.formula is not None:
            frame = self._formula_frame(X, groups, reset=False)
            return self._predicted(frame, bool(self._needs_no_labels or groups is not None))
        _, columns, labels = self._parts(X, None, groups, reset=False)
        if self.result_ is None:
            design = np.column_stack(list(columns.values()))
            return np.asarray(design @ self.coef_ + self.intercept_)
        frame = self._named(columns, {g: labels[g] for g in self._factors if g in labels})
        for g in self._factors:
            if g not in labels:
                frame[self._names["groups", g]] = ""
        return self._predicted(frame, set(labels) >= set(self._factors))

    def score(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> float:
        """Share of the variance of y that the predictions explain (R-squared).

        Parameters
        ----------
        X, y, sample_weight, groups
            As of ``fit`` and ``predict``.

        Returns
        -------
        float
        """
        return float(r2_score(y, self.predict(X, groups), sample_weight=sample_weight))

    def _predicted(self, frame: pd.DataFrame, labelled: bool) -> FloatArray:
        if not (self.random and labelled):
            return np.asarray(self.result_.predict(frame))
        return np.asarray(self.result_.predict(frame, re=True, unseen=self._unseen))

    # ------------------------------------------------------------------------- the data

    def _parts(
        self, X: Any, y: Any, groups: Any, reset: bool
    ) -> tuple[Any, dict[Any, FloatArray], dict[Any, Any]]:
        """The response, columns of the fixed effects, and labels by factor."""
        own = [] if self.groups is None else _listed(self.groups, "groups")
        if groups is not None and "groups" in own:
            raise ArgumentError("groups are a column of X and an argument; pass one of them")
        labels: dict[Any, Any] = {}
        if not hasattr(X, "columns") and own:
            X = np.asarray(X)
        rest = X
        if own:
            for g in own:
                labels[g] = _taken(X, g)
            rest = _dropped(X, own)
        _check_columns(rest)
        if own:  # labels need not be numbers
            validate_data(self, X, skip_check_array=True, reset=reset)
            values = np.zeros((len(rest), 0))
            if rest.shape[1]:
                values = check_array(rest, dtype=np.float64)
            if y is not None:
                y = column_or_1d(check_array(y, dtype=np.float64, ensure_2d=False), warn=True)
                check_consistent_length(values, y)
        elif y is None:
            values = validate_data(self, rest, reset=reset, dtype=np.float64)
        else:
            values, y = validate_data(self, rest, y, reset=reset, y_numeric=True, dtype=np.float64)
        if groups is not None:
            labels["groups"] = _labels(groups, len(values))
        k = values.shape[1] + len(own)
        names = [j for j in range(k) if j not in own]
        if hasattr(rest, "columns"):
            names = list(rest.columns)
        return y, {name: values[:, j] for j, name in enumerate(names)}, labels

    def _slope_names(self, columns: Sequence[Any]) -> list[Any]:
        slopes = [] if self.slopes is None else _listed(self.slopes, "slopes")
        for name in slopes:
            if name not in columns:
                raise DataError(f"slopes: {name!r} is no column of the fixed effects {columns}")
        return slopes

    def _fit_formula(self, X: Any, y: Any, sample_weight: Any, groups: Any) -> Any:
        if self.groups is not None or self.slopes is not None:
            raise ArgumentError("formula says it all; groups and slopes go without one")
        check_text(self.formula, "formula")
        frame = self._formula_frame(X, groups, reset=True)
        left, separator, right = str(self.formula).partition("~")
        right, left = (right, left.strip()) if separator else (left, "")
        if left and not (left.isidentifier() or left.startswith("`")):
            raise ArgumentError(
                f"formula: the left side {left!r} is not applied to y; leave it out and transform "
                "y, for example by TransformedTargetRegressor"
            )
        response = left if left.isidentifier() else _unused("y", frame.columns)
        values = np.asarray(y, dtype=float).ravel()
        if len(values) != len(frame):
            raise DataError(f"y has {len(values)} values for the {len(frame)} rows of X")
        if not np.isfinite(values).all():
            raise DataError(
                f"y has {int((~np.isfinite(values)).sum())} missing or infinite value(s); leave "
                "those rows out of X and y"
            )
        w = None if sample_weight is None else _check_sample_weight(sample_weight, frame)
        data = frame.assign(**{response: values})
        model = MixedLM.from_formula(f"{response} ~ {right}", data, weights=w)
        if groups is not None and "groups" not in model.built.spec.variables():
            raise ArgumentError(
                f"groups: formula={self.formula!r} has no term with them, such as (1 | groups)"
            )
        self._needs_no_labels = groups is None
        return self._fitted(model)

    def _formula_frame(self, X: Any, groups: Any, reset: bool) -> pd.DataFrame:
        if not hasattr(X, "columns"):
            raise DataError(
                f"formula={self.formula!r} names columns, so that X must be a DataFrame, "
                f"got {type(X).__name__}"
            )
        if reset:
            self.n_features_in_ = X.shape[1]
            self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        frame = pd.DataFrame(X).copy(deep=False)
        if groups is not None:
            if "groups" in frame.columns:
                raise ArgumentError("groups are a column of X and an argument; pass one of them")
            frame = frame.assign(groups=_labels(groups, len(frame)))
        return frame

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = self.formula is not None
        return tags


def _frame_of(X: Any) -> Any:
    """Frames of polars and tables of Arrow as pandas; all else as it is."""
    return X.to_pandas() if hasattr(X, "to_pandas") else X


def _listed(given: Any, argument: str) -> list[Any]:
    several = isinstance(given, (list, tuple, np.ndarray, pd.Index))
    names = list(given) if several else [given]
    if len(set(names)) < len(names):
        raise ArgumentError(f"{argument} names a column twice: {given!r}")
    return names


def _labels(groups: Any, n: int) -> Any:
    values = groups if isinstance(groups, pd.Series) else np.asarray(groups)
    if values.ndim != 1 or len(values) != n:
        raise DataError(f"groups needs one label for each of the {n} rows, got shape "
                        f"{values.shape}")  # fmt: skip
    return pd.Series(values).reset_index(drop=True)


def _taken(X: Any, g: Any) -> Any:
    """Labels in a column of X."""
    if hasattr(X, "columns"):
        if g not in X.columns:
            raise DataError(f"groups: X has no column {g!r}; there are {list(X.columns)}")
        return X[g].reset_index(drop=True)
    values = X
    if isinstance(g, str) or values.ndim != 2 or not 0 <= int(g) < values.shape[1]:
        raise DataError(f"groups: {g!r} is no column of an array of shape {values.shape}")
    return pd.Series(values[:, int(g)])


def _dropped(X: Any, own: Sequence[Any]) -> Any:
    if hasattr(X, "columns"):
        return X.drop(columns=list(own))
    return np.delete(X, [int(g) for g in own], axis=1)


def _check_columns(X: Any) -> None:
    """Refuse a column of a frame that is text, before it is turned to numbers."""
    if not isinstance(X, pd.DataFrame):
        return
    for j, name in enumerate(X.columns):
        column = X.iloc[:, j]
        if pd.api.types.is_numeric_dtype(column.dtype):
            continue
        text = [value for value in column.unique() if isinstance(value, str)]
        if text and pd.to_numeric(pd.Series(text), errors="coerce").isna().any():
            raise DataError(
                f"X: column {name!r} holds text, {text[0]!r}: encode it, for example by "
                "OneHotEncoder, name it in groups=, or give formula=, where text is a factor"
            )


def _plain_names(columns: dict[Any, Any], labels: dict[Any, Any]) -> dict[Any, str]:
    """Names in the formula: those of the columns, x0, x1, ... of arrays."""
    out: dict[Any, str] = {}
    for key in (*columns, *(("groups", g) for g in labels)):
        own = key[1] if isinstance(key, tuple) and key[0] == "groups" else key
        name = own.replace("`", "'") if isinstance(own, str) and own else f"x{own}"
        out[key] = _unused(name, ("Intercept", *out.values()))
    return out


def _unused(name: str, used: Any) -> str:
    while name in used:
        name += "_"
    return name


def _quoted(name: str) -> str:
    return name if name.isidentifier() and not iskeyword(name) else f"`{name}`"
