"""Pictures of a fitted model: predictions, groups, coefficients, random effects, residuals.

Linear and generalized models share them; what they predict by is `_curve`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import (
    check_choice,
    check_hashable,
    check_level,
    check_list,
    check_mapping,
    check_strings,
    shown,
    suggestion,
)
from sparselmm.base.exceptions import ArgumentError, DataError, RemovedRowsError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design import BuiltDesign
from sparselmm.design.built import Numbers
from sparselmm.design.formula import remembered
from sparselmm.inference.effects import factor_tables
from sparselmm.results.methods.effect_figures import EffectFigures
from sparselmm.results.plots import curves
from sparselmm.results.plots.curves import Curve, Group, Points
from sparselmm.results.print.labels import mode_tables, row_groups
from sparselmm.results.tables.contrasts import shown_value
from sparselmm.results.tables.reference_grid import numbers_of, variables_of

BANDS = ("confidence", "prediction", "both", "none")
DATA = ("points", "partial", "none")

STEPS = 60
"""Points of a curve."""

SHOWN_GROUPS = 18
"""Panels of groups unless told otherwise: spread evenly over the order of the effects."""


class FigureResults(EffectFigures):
    """Part of :class:`sparselmm.MixedLMResults` and :class:`sparselmm.MixedGLMResults`."""

    _own_lines = True
    """Whether least squares in a group's rows mean anything."""

    # --------------------------------------------------------------------- predictions

    def plot_predictions(
        self, variables: Any = None, *, groups: Any = None, at: Mapping[str, Any] | None = None,
        bands: str = "confidence", data: str = "points", alpha: float = 0.05, figure: Any = None,
    ) -> Any:  # fmt: skip
        """Predictions over one to three variables, with bands and the data.

        Parameters
        ----------
        variables : str or sequence of str, optional
            Variables of the fixed effects: the first along the axis, the second as lines, the
            third as panels. A covariate that makes lines or panels is taken at its mean and one
            standard deviation below and above, or at its values if there are no more than three.
            Default: the first variable of the formula.
        groups : str or mapping, optional
            Lines of groups instead of the population's: a grouping factor (six of its levels) or
            ``{"Subject": ["308", "309"]}``. They take the place of the second variable.
        at : mapping of str to value, optional
            Values of other variables. Default: the mean of a covariate, the most frequent level
            of a factor; named below the picture.
        bands : {"confidence", "prediction", "both", "none"}
            Of the mean, or of a new observation.
        data : {"points", "partial", "none"}
            "partial" draws partial residuals: the prediction at the row's own values of the
            variables drawn, all others held, plus its residual. Rows that were read in partitions
            and not kept are not drawn; "partial" and ``groups`` need them.
        alpha : float
            One minus the confidence level of the bands.
        figure : matplotlib Figure, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        DataError
            When a name is unknown, the model was built from arrays, or its rows were removed.
        ImportError
            When matplotlib is not installed.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("dietox")
        >>> fit = sparselmm.mixedlm("Weight ~ Time * Cu + (Time | Pig)", data).fit()
        >>> figure = fit.plot_predictions(["Time", "Cu"], bands="both")
        >>> figure.axes[0].get_xlabel()
        'Time'
        """
        bands = check_choice(bands, "bands", BANDS)
        data = check_choice(data, "data", DATA)
        alpha = check_level(alpha)
        frame = self._frame_beside(data, groups)
        names = self._drawn_variables(variables, groups is not None)
        held = self._held(names, at)
        values = [_grid_values(self.built, name, i == 0) for i, name in enumerate(names)]
        factor, picked = self._picked(groups)
        drawn, categories = [], False
        for combination in product(*(v for v in values[1:] or [[None]])):
            for key, rows in picked:
                new = self._new_frame(frame, held, names, values[0], combination, rows)
                table = self._curve(new, rows is not None, bands, alpha)
                labels = [_text(name, v) for name, v in zip(names[1:], combination, strict=False)]
                if key is not None:
                    labels.insert(0, key)
                if "category" in table:  # an ordinal response: a line per category
                    categories = True
                    for category, part in table.groupby("category", sort=False):
                        part = part.drop(columns="category")
                        drawn.append(Curve(", ".join(labels), str(category), values[0], part))
                    continue
                series = labels[0] if labels else ""
                drawn.append(Curve(", ".join(labels[1:]), series, values[0], table))
        points = None
        if data != "none" and not categories and self.built.frame is not None:
            points = self._points(frame, names, held, values, data, factor, picked)
        legend = factor or (names[1] if len(names) > 1 else "")
        legend = "category" if categories else legend
        note = ", ".join(f"{name} = {_short(value)}" for name, value in held.items())
        x_levels = [] if _levels_of(self.built, names[0]) is None else values[0]
        labels = [names[0], self._response_label(categories), legend]
        return curves.curve_plot(drawn, points, labels, x_levels, note, figure)

    def _frame_beside(self, data: str, groups: Any) -> pd.DataFrame:
        """The rows; none of rows that were read in partitions, where they are not asked for."""
        if self.built.streamed is None or self.built.spec.formula is None:
            return self._figure_frame("plot_predictions")
        for wanted, what in (
            (data == "partial", "data='partial'"),
            (groups is not None, "groups="),
        ):
            if wanted:
                raise RemovedRowsError.of(f"plot_predictions with {what}", kept=False)
        return pd.DataFrame()

    def _drawn_variables(self, variables: Any, with_groups: bool) -> list[str]:
        known = self._variables()
        if not known:
            raise DataError("plot_predictions: the model has no fixed effects but the intercept")
        names = known[:1] if variables is None else check_strings(variables, "variables")
        most = 2 if with_groups else 3
        if not names or len(names) > most or len(set(names)) < len(names):
            raise ArgumentError(
                f"variables must name one to {most} different variables, got {shown(variables)}"
            )
        for name in names:
            if name not in known:
                raise DataError(
                    f"variables: {name!r} is no variable of the fixed effects "
                    f"({', '.join(known)}){suggestion(name, known)}"
                )
        return names

    def _held(self, names: Sequence[str], at: Mapping[str, Any] | None) -> dict[str, Any]:
        """Values of the variables that are not drawn."""
        if at is not None:
            check_mapping(at, "at", "{'Days': 5}")
        given = dict(at or {})
        known = self._variables()
        for name in given:
            if name not in known or name in names:
                raise DataError(
                    f"at: {name!r} is no other variable of the fixed effects; these are "
                    f"{', '.join(n for n in known if n not in names) or 'none'}"
                )
        out = {}
        for name in known:
            if name in names:
                continue
            if name in given:
                out[name] = given[name]
            elif (numbers := _covariate_of(self.built, name)) is not None:
                out[name] = numbers.typical
            else:
                out[name] = _most_frequent(self.built, name)
        return out

    def _picked(self, groups: Any) -> tuple[str | None, list[tuple[str | None, IntArray | None]]]:
        """The factor, labels and first rows of the groups whose lines are drawn."""
        factors = _factors(groups)
        if not factors:
            return None, [(None, None)]
        if len(factors) > 1:
            raise ArgumentError("groups must name one grouping factor")
        (name, wanted), known = next(iter(factors.items())), row_groups(self.built.design)
        if name not in known:
            raise DataError(
                f"groups: no grouping factor {name!r} in the model; there are: "
                f"{', '.join(known) or 'none'}"
            )
        index, codes = known[name]
        places = self._level_places(name, index, wanted, 6, "groups")
        return name, [(str(index[j]), np.flatnonzero(codes == j)[:1]) for j in places]

    def _level_places(
        self, factor: str, index: pd.Index, wanted: Any, most: int, argument: str
    ) -> list[int]:
        """Places of levels: those wanted, or some spread over the order of the effects."""
        if wanted is not None:
            labels = check_list(wanted, argument, "a list of labels")
            check_hashable(labels, argument)
            places = index.get_indexer(pd.Index(labels, dtype=object))
            if (places < 0).any() or not len(places):
                missing = [v for v, p in zip(labels, places, strict=True) if p < 0]
                raise DataError(f"{argument}: {factor} has no level {shown(missing[:3])}")
            return [int(p) for p in places]
        order = np.arange(len(index))
        table = next((t for t in factor_tables(self._est.terms) if t.name == factor), None)
        if table is not None and len(table.labels) == len(index):
            order = np.argsort(mode_tables(self._est, [table])[factor].iloc[:, 0].to_numpy())
        spread = np.unique(np.linspace(0, len(order) - 1, most).round().astype(int))
        return [int(order[i]) for i in spread]

    def _new_frame(
        self, frame: pd.DataFrame, held: Mapping[str, Any], names: Sequence[str],
        x: Sequence[Any], combination: Sequence[Any], rows: IntArray | None,
    ) -> pd.DataFrame:  # fmt: skip
        """Rows to predict at: the group's first row, or none, with the variables put in."""
        new = pd.DataFrame(index=range(len(x)))
        if rows is not None:
            new = frame.iloc[np.repeat(rows, len(x))].reset_index(drop=True)
        values = {**held, **dict(zip(names[1:], combination, strict=False))}
        columns = {n: pd.Series([v] * len(x)) for n, v in values.items() if v is not None}
        return new.assign(**columns, **{names[0]: pd.Series(list(x))})

    def _points(
        self, frame: pd.DataFrame, names: Sequence[str], held: Mapping[str, Any],
        values: Sequence[Sequence[Any]], data: str, factor: str | None,
        picked: Sequence[tuple[str | None, IntArray | None]],
    ) -> Points:  # fmt: skip
        """The data beside the curves; those of the groups drawn, if there are groups."""
        y = self._data_values()
        if data == "partial":
            same = frame.assign(**{n: pd.Series([v] * len(frame), frame.index)
                                   for n, v in held.items()})  # fmt: skip
            y = np.asarray(self._curve(same, False, "none", 0.05)["mean"]) + self._left_over()
        rows = np.arange(len(frame))
        labels: list[list[str]] = []
        if factor is not None:
            index, codes = row_groups(self.built.design)[factor]
            inside = [int(codes[row[0]]) for _, row in picked if row is not None]
            rows = np.flatnonzero(np.isin(codes, inside))
            labels.append([str(index[codes[row]]) for row in rows])
        for name, levels_ in zip(names[1:], values[1:], strict=True):
            own = frame[name].iloc[rows]
            if _levels_of(self.built, name) is not None:
                labels.append([_text(name, v) for v in own])
            else:  # the nearest of the values drawn
                near = np.abs(own.to_numpy(dtype=float)[:, None] - np.array(levels_, dtype=float))
                labels.append([_text(name, levels_[i]) for i in near.argmin(axis=1)])
        series = labels[0] if labels else [""] * len(rows)
        panel = [", ".join(p) for p in zip(*labels[1:], strict=True)] or [""] * len(rows)
        return Points(panel, series, list(frame[names[0]].iloc[rows]), y[rows])

    # -------------------------------------------------------------------------- groups

    def plot_groups(
        self, factor: str | None = None, x: str | None = None, *, levels: Any = None,
        figure: Any = None,
    ) -> Any:  # fmt: skip
        """A panel per group: its data, its own least-squares line, the mixed model's, all's.

        Parameters
        ----------
        factor : str, optional
            Grouping factor. Default: the first.
        x : str, optional
            Covariate along the axis. Default: the first covariate of the fixed effects.
        levels : sequence, optional
            Groups to draw. Default: all, or 18 spread over the order of their effects,
            and always in that order.
        figure : matplotlib Figure, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        DataError
            When a name is unknown or the rows were removed.
        ImportError
            When matplotlib is not installed.

        Notes
        -----
        Lines are drawn at the group's own mean or most frequent level of the other variables of
        the fixed effects.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> len(fit.plot_groups("Subject", levels=["308", "309"]).axes)
        2
        """
        frame = self._figure_frame("plot_groups")
        name, (index, codes) = self._factor_rows(factor)
        x = self._covariate(x, frame, "x")
        places = self._level_places(name, index, levels, SHOWN_GROUPS, "levels")
        others = [n for n in self._variables() if n != x]
        y = self._data_values()
        drawn = []
        for j in places:
            rows = np.flatnonzero(codes == j)
            own_x = frame[x].to_numpy(dtype=float)[rows]
            held = {n: _typical(self.built, frame[n].iloc[rows]) for n in others}
            at = np.linspace(own_x.min(), own_x.max(), 20)
            first = self._new_frame(frame, held, [x], at.tolist(), (), rows[:1])
            mixed = self._curve(first, True, "none", 0.05)["mean"]
            population = self._curve(first, False, "none", 0.05)["mean"]
            line = _least_squares(own_x, y[rows], at) if self._own_lines else None
            drawn.append(
                Group(str(index[j]), own_x, y[rows], at, line, np.asarray(mixed),
                      np.asarray(population))
            )  # fmt: skip
        note = f"{len(places)} of {len(index):,} levels" if len(places) < len(index) else ""
        if others:
            note += ("; " if note else "") + f"{', '.join(others)} as in each group"
        return curves.group_plot(drawn, [x, self._response_label(False)], note, figure)

    # -------------------------------------------------------------------- coefficients

    # ------------------------------------------------------------------ random effects

    # --------------------------------------------------------------------------- parts

    def _covariate(self, x: Any, frame: pd.DataFrame, argument: str) -> str:
        fixed = [n for n in self.built.spec.fixed_variables() if n in frame.columns]
        known = [n for n in fixed if _is_number(self.built, frame, n)]
        if x is None:
            if not known:
                raise DataError(f"{argument}: the fixed effects have no covariate to draw against")
            return known[0]
        if not isinstance(x, str) or x not in known:
            raise DataError(
                f"{argument}: {shown(x)} is no covariate of the fixed effects "
                f"({', '.join(known) or 'there is none'})"
            )
        return x

    def _variables(self) -> list[str]:
        """Columns of the data that predictions need, those of the fixed effects first."""
        return variables_of(self.built)

    @abstractmethod
    def _curve(self, new: pd.DataFrame, groups: bool, bands: str, alpha: float) -> pd.DataFrame:
        """Predictions: ``mean``, and for bands ``low``, ``high``, ``obs_low``, ``obs_high``."""

    def _data_values(self) -> FloatArray:
        """The response on the scale of the pictures, (n,)."""
        return np.asarray(self.built.design.y)

    @abstractmethod
    def _expected_values(self) -> Any:
        """What the fit expects of every row, (n,)."""

    def _left_over(self) -> FloatArray:
        """Residuals on that scale, (n,)."""
        return self._data_values() - np.asarray(self._expected_values())


# ----------------------------------------------------------------------------------- helpers


def _factors(groups: Any) -> dict[str, Any]:
    """Grouping factors and levels that the user named."""
    if groups is None:
        return {}
    if isinstance(groups, str):
        return {groups: None}
    check_mapping(groups, "groups", "{'Subject': ['308', '309']}")
    if not groups:
        raise ArgumentError("groups names no grouping factor")
    for name in groups:
        if not isinstance(name, str):
            raise ArgumentError(f"groups must name a grouping factor, got {shown(name)}")
    return dict(groups)


def _is_number(built: BuiltDesign, frame: pd.DataFrame, name: str) -> bool:
    numeric = pd.api.types.is_numeric_dtype(frame[name].dtype)
    return numeric and built.spec.factor_levels(name) is None


def _levels_of(built: BuiltDesign, name: str) -> list[Any] | None:
    """Levels of a factor of the fixed effects or of a further predictor; None of a covariate."""
    found = built.spec.factor_levels(name)
    for info in built.spec.further.values() if found is None else ():
        found = found or remembered.column_levels(info, name)
    return found


def _covariate_of(built: BuiltDesign, name: str) -> Numbers | None:
    """A covariate over the rows; None for factors and whatever else is no number."""
    return None if _levels_of(built, name) is not None else numbers_of(built, name)


def _typical(built: BuiltDesign, values: pd.Series) -> Any:
    """The mean of a covariate over some rows, the most frequent level of a factor."""
    if _covariate_of(built, str(values.name)) is not None:
        return float(values.mean())
    return values.mode().iloc[0]


def _most_frequent(built: BuiltDesign, name: str) -> Any:
    """The level that most rows have."""
    if built.frame is not None:
        return built.frame[name].mode().iloc[0]
    cells = None if built.streamed is None else built.streamed.cells
    levels = built.spec.factor_levels(name)
    if cells is None or levels is None:
        raise RemovedRowsError.of(f"plot_predictions without at={{{name!r}: value}}", kept=False)
    codes = cells.values[:, cells.names.index(name)].astype(int)
    return levels[int(np.bincount(codes, cells.rows).argmax())]


def _grid_values(built: BuiltDesign, name: str, along: bool) -> list[Any]:
    """Values of a variable: a fine grid along the axis, a few for lines and panels."""
    factor = _levels_of(built, name)
    if factor is not None:
        return list(factor)
    numbers = _covariate_of(built, name)
    if numbers is None:
        raise DataError(f"variables: {name!r} is neither a number nor a factor as it stands")
    if along:
        return np.linspace(numbers.low, numbers.high, STEPS).tolist()
    if numbers.distinct is not None:
        return list(numbers.distinct)
    mean, sd = numbers.typical, numbers.sd
    decimals = 2 - int(np.floor(np.log10(sd)))  # three digits of what tells them apart
    return [round(v, decimals) for v in (mean - sd, mean, mean + sd)]


def _text(name: str, value: Any) -> str:
    return f"{name} = {shown_value(value)}" if isinstance(value, (int, float)) else str(value)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)


def _least_squares(x: FloatArray, y: FloatArray, at: FloatArray) -> FloatArray | None:
    """A straight line through the rows of one group; None where there is none."""
    if len(x) < 2 or np.ptp(x) == 0:
        return None
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return np.asarray(y.mean() + slope * (at - x.mean()))
