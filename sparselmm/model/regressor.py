"""Linear mixed models as estimators of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from sparselmm.base.arguments import check_choice, check_flag
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
    In a pipeline, labels reach ``fit`` and ``predict`` by metadata routing
    (``set_fit_request(groups=True)``) or as a column. With folds that keep groups together
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
        self.result_: Any = None
        if self.formula is not None:
            return self._fit_formula(X, y, sample_weight, groups)
        y, columns, labels = self._parts(X, y, groups, reset=True)
        w = None if sample_weight is None else _check_sample_weight(sample_weight, y)
        self._factors = list(labels)
        if not labels:
            return self._least_squares(columns, y, w)
        frame, names = _frame(columns, labels)
        own = "".join(f" + {names[s]}" for s in self._slope_names(list(columns)))
        bars = " + ".join(f"(1{own} | {names[g]})" for g in labels)
        fixed = " + ".join(["1", *(names[c] for c in columns)])
        model = MixedLM.from_formula(f"y ~ {fixed} + {bars}", frame.assign(y=y), weights=w)
        return self._fitted(model)

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
        if self.formula is not None:
            frame = self._formula_frame(X, groups, reset=False)
            return self._predicted(frame, bool(self._needs_no_labels or groups is not None))
        _, columns, labels = self._parts(X, None, groups, reset=False)
        if self.result_ is None:
            design = np.column_stack(list(columns.values()))
            return np.asarray(design @ self.coef_ + self.intercept_)
        frame, names = _frame(columns, labels)
        for g in self._factors:  # labels that were not given
            if g not in labels:
                frame[_safe(len(names))] = ""
        return self._predicted(frame, set(labels) >= set(self._factors))

    def _predicted(self, frame: pd.DataFrame, labelled: bool) -> FloatArray:
        if not (self.random and labelled):
            return np.asarray(self.result_.predict(frame))
        return np.asarray(self.result_.predict(frame, re=True, unseen=self._unseen))

    # ------------------------------------------------------------------------- the data

    def _parts(
        self, X: Any, y: Any, groups: Any, reset: bool
    ) -> tuple[Any, dict[Any, FloatArray], dict[Any, Any]]:
        """The response, columns of the fixed effects, and labels by factor."""
        own = [] if self.groups is None else _listed(self.groups)
        labels: dict[Any, Any] = {}
        if not hasattr(X, "columns") and own:
            X = np.asarray(X)
        rest = X
        if own:
            for g in own:
                labels[g] = _taken(X, g)
            rest = _dropped(X, own)
        if own:  # labels need not be numbers
            validate_data(self, X, skip_check_array=True, reset=reset)
            values = check_array(rest, dtype=np.float64, ensure_min_features=0)
            if y is not None:
                y = check_array(y, dtype=np.float64, ensure_2d=False)
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
        slopes = [] if self.slopes is None else _listed(self.slopes)
        for name in slopes:
            if name not in columns:
                raise DataError(f"slopes: {name!r} is no column of the fixed effects {columns}")
        return slopes

    def _fit_formula(self, X: Any, y: Any, sample_weight: Any, groups: Any) -> Any:
        if self.groups is not None or self.slopes is not None:
            raise ArgumentError("formula says it all; groups and slopes go without one")
        frame = self._formula_frame(X, groups, reset=True)
        left, separator, right = str(self.formula).partition("~")
        right = right if separator else left
        name = left.strip() if separator and left.strip() else "_response"
        response = name if name.isidentifier() else "_response"
        values = np.asarray(y, dtype=float).ravel()
        if len(values) != len(frame):
            raise DataError(f"y has {len(values)} values for the {len(frame)} rows of X")
        w = None if sample_weight is None else _check_sample_weight(sample_weight, frame)
        self._needs_no_labels = groups is None
        data = frame.assign(**{response: values})
        return self._fitted(MixedLM.from_formula(f"{response} ~ {right}", data, weights=w))

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
            frame = frame.assign(groups=_labels(groups, len(frame)))
        return frame

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = self.formula is not None
        return tags


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, (list, tuple, np.ndarray, pd.Index)) else [given]


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


def _safe(j: int) -> str:
    return f"v{j}"


def _frame(
    columns: dict[Any, FloatArray], labels: dict[Any, Any]
) -> tuple[pd.DataFrame, dict[Any, str]]:
    """A frame under names that a formula can say, and these names."""
    everything = {**columns, **{("groups", key): value for key, value in labels.items()}}
    safe = {key: _safe(j) for j, key in enumerate(everything)}
    frame = pd.DataFrame({safe[key]: np.asarray(value) if key in columns else value
                          for key, value in everything.items()})  # fmt: skip
    return frame, {**{c: safe[c] for c in columns}, **{g: safe["groups", g] for g in labels}}
