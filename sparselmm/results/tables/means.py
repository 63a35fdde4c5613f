"""Tables of marginal means or trends, and of contrasts between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import (
    check_choice,
    check_flag,
    check_level,
    check_number,
    check_text,
)
from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.other_names import MEANS, NamesOthers
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.inference.hypotheses import marginal_means
from sparselmm.inference.hypotheses.estimability import estimable, only_estimable
from sparselmm.inference.hypotheses.marginal_means import (
    DEFAULT_ADJUST,
    FixedEffects,
    LinearEstimates,
)
from sparselmm.inference.hypotheses.multiplicity import Family
from sparselmm.results.plots.means import axis_label, means_plot
from sparselmm.results.print.notebook import as_table, frame_html, frame_text
from sparselmm.results.print.polars import InPolars
from sparselmm.results.tables.cells import Cells
from sparselmm.results.tables.contrasts import (
    ALL_ADJUSTMENTS,
    SIDES,
    WITH_DELTA,
    ContrastTable,
    adjustment_note,
    arrow_lengths,
    compact_letters,
    contrast_tests,
)
from sparselmm.results.tables.scales import TRANSFORMATIONS, Scale
from sparselmm.results.tables.weights import (
    combined,
    contrast_weights,
    existing_part,
    family_name,
    interaction_methods,
)

TRENDS = "trend"


@dataclass(frozen=True, eq=False)
class MarginalMeans(Cells, InPolars, NamesOthers):
    """Estimated marginal means, or trends, of a fitted model.

    Attributes
    ----------
    specs, by : tuple of str
        Variables whose levels the means are for, and variables within whose levels they are
        compared.
    cells : DataFrame, (m, number of variables)
        Their values.
    L : ndarray, (m, p)
        Combinations of the fixed effects.
    offset : ndarray, (m,)
    ddf : str
        Method for the degrees of freedom.
    alpha : float
        One minus the confidence level.
    type : {"link", "response"}
        Scale of the tables.
    name : str
        Column of the estimates: "emmean", or "x.trend".
    response : str
        The formula's left side.
    """

    _other_names = MEANS

    L: FloatArray
    offset: FloatArray
    ddf: str
    alpha: float
    type: str
    name: str
    _fixed: FixedEffects
    _scale: Scale | None = None
    response: str = ""

    @property
    @as_table
    def frame(self) -> pd.DataFrame:
        """The means, one row per cell, in the column names of R's emmeans.

        ``emmean`` (``response`` on that scale, ``x.trend`` of trends), ``SE``, ``df``,
        ``lower.CL``, ``upper.CL`` (``asymp.LCL``, ``asymp.UCL`` with ``ddf="z"``), in the units of
        the response (on the scale of the formula's left side or the link). NaN for a mean that
        the data cannot tell.
        """
        found = self._estimates(self.L, self.offset)
        low, high = found.interval(self.alpha).T
        name, value, se = self.name, found.estimate, found.se
        if self.type == "response":
            name = "response"
            value, se, low, high = self._need_scale().back(value, se, low, high)
        limits = self._limit_names
        columns = {name: value, "SE": se, "df": found.df, limits[0]: low, limits[1]: high}
        return self.cells.assign(**columns)

    def _contrast_scale(self, C: FloatArray) -> Scale:
        """Scale to which contrasts with weights C are carried: of means, or of ratios."""
        scale = self._need_scale()
        if np.array_equal(C, np.eye(len(C))):
            return replace(scale, ratio=None)
        if scale.ratio is None or not np.allclose(C.sum(axis=1), 0.0):
            raise DataError(
                "contrasts on the response scale are ratios, of logarithms and logits, of weights "
                f"that sum to zero; for {scale.name if scale.ratio is None else 'these weights'} "
                "use type='link', or regrid() for differences of means"
            )
        power = np.log(scale.base)
        return Scale(scale.name, lambda x: np.exp(power * x), scale.ratio)

    def _need_scale(self) -> Scale:
        if self._scale is None:
            known = ", ".join(TRANSFORMATIONS)
            raise DataError(
                "type='response' needs a transformation on the formula's left side that can be "
                f"undone ({known}); this response is not transformed by one of them"
            )
        return self._scale

    @property
    def _carried_back(self) -> str:
        return self._need_scale().of or self.response

    @property
    def vcov(self) -> pd.DataFrame:
        """Covariances of the means, (m, m), on the model's scale; NaN where the data tell none."""
        names = self._labels(np.arange(len(self.L)), (*self.specs, *self.by))
        cov = only_estimable(self._fixed.cov(self.L), self.L, self._fixed.null)
        return pd.DataFrame(cov, names, names)

    def pairs(self, adjust: str = "tukey", reverse: bool = False) -> ContrastTable:
        """Differences between all pairs of means, within the levels of ``by``.

        Parameters
        ----------
        adjust : str
            As of :meth:`contrast`.
        reverse : bool
            Later minus earlier level.

        Returns
        -------
        ContrastTable
            As :meth:`contrast`.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("ergoStool")
        >>> fit = sparselmm.mixedlm("effort ~ Type + (1 | Subject)", data).fit()
        >>> fit.emmeans("Type").pairs()[["contrast", "estimate", "p.value"]].head(2).round(4)
           contrast  estimate  p.value
        0   T1 - T2   -3.8889    <.001
        1   T1 - T3   -2.2222    0.001
        """
        reverse = check_flag(reverse, "reverse")
        return self.contrast("revpairwise" if reverse else "pairwise", check_text(adjust, "adjust"))

    def contrast(
        self, method: Any = "eff", adjust: str | None = None, *, ref: Any = 0,
        interaction: Any = False, side: str = "two-sided", delta: float = 0.0, null: float = 0.0,
    ) -> ContrastTable:  # fmt: skip
        """Contrasts of the means, within the levels of ``by``.

        Parameters
        ----------
        method : str, mapping or array-like
            "pairwise", "revpairwise"; "consec", each minus the one before; "trt.vs.ctrl", each
            minus the control, "trt.vs.ctrlk" minus the last; "eff", each minus the mean of all,
            "del.eff" of the others; "mean_chg", the mean after minus the mean before; "poly";
            "identity"; or ``{"label": weights}`` or (c, k) weights of the k means of a level of
            ``by``.
        adjust : str, optional
            "tukey" (for pairs), "scheffe", "dunnettx" (Dunnett's, approximately), "mvt" (by the
            joint distribution of the statistics), "sidak", "bonferroni", "holm", "hochberg", "hs"
            (Holm-Sidak), "fdr" (Benjamini and Hochberg's), "BY" or "none". Default, as in R:
            "tukey" for pairs, "dunnettx" against a control, "fdr" for effects, "mvt" for
            "consec" and "mean_chg", otherwise "none".
        ref : int or str
            Place of the control for "trt.vs.ctrl", or its label.
        interaction : bool or sequence of str
            Products of contrasts of each variable of ``specs``: with ``method``, or with one
            method each.
        side : str
            "two-sided"; "greater" or "less"; "equivalence", "noninferiority" or
            "nonsuperiority" with the margin ``delta``.
        delta, null : float
            Margin, and value under the hypothesis, on the scale of the model.

        Returns
        -------
        ContrastTable
            A DataFrame: ``contrast``, the variables of ``by``, ``estimate`` (``ratio`` or
            ``odds.ratio`` on the response scale), ``SE``, ``df``, ``lower.CL``, ``upper.CL``,
            ``t.ratio`` (with ``ddf="z"`` ``asymp.LCL``, ``asymp.UCL``, ``z.ratio``) and
            ``p.value``. Intervals and p-values are adjusted within each level of ``by``; of
            adjustments that work in steps, the intervals are Bonferroni's.

        Raises
        ------
        ValueError
            When a method or an adjustment is unknown.
        DataError
            When differences have no meaning on the response scale.

        Notes
        -----
        A contrast ``c'L beta`` has the variance ``c'L Var(beta) L'c``, with Kenward and Roger's
        adjusted covariance where that method was asked for; ``vcov`` has that of the means.
        Equivalence is tested by two one-sided tests (Schuirmann 1987).

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("ergoStool")
        >>> means = sparselmm.mixedlm("effort ~ Type + (1 | Subject)", data).fit().emmeans("Type")
        >>> table = means.contrast({"first two less last two": [0.5, 0.5, -0.5, -0.5]})
        >>> table[["contrast", "estimate", "SE"]].round(3)
                          contrast  estimate     SE
        0  first two less last two       0.5  0.367
        """
        name = family_name(method, "method") if isinstance(method, str) else "custom"
        method = name if isinstance(method, str) else method
        side = check_choice(side, "side", tuple(SIDES))
        delta, null = check_number(delta, "delta"), check_number(null, "null")
        if delta < 0 or (side in WITH_DELTA) != (delta > 0):
            raise ArgumentError(
                f"delta must be above zero for side {WITH_DELTA} and zero otherwise; got "
                f"side={side!r}, delta={delta:g}"
            )
        if adjust is None:
            adjust = "none" if interaction is not False else DEFAULT_ADJUST.get(name, "none")
        adjust = check_choice(adjust, "adjust", ALL_ADJUSTMENTS)
        if adjust == "tukey" and (DEFAULT_ADJUST.get(name) != "tukey" or interaction):
            raise ArgumentError("adjust='tukey' is for pairs of means; use 'mvt' or 'sidak'")
        interaction = interaction_methods(interaction, method, self.specs)
        hypothesis = (SIDES[side], delta, null)
        parts = []
        for rows in self._families():
            names, C = self._weights(rows, method, ref, interaction)
            parts.append(self._contrasts(rows, names, C, adjust, hypothesis))
        note = f"{adjustment_note(adjust, side)}; confidence level {1 - self.alpha:g}"
        return ContrastTable.of(pd.concat(parts, ignore_index=True), self._limit_names, note)

    def _weights(
        self, rows: IntArray, method: Any, ref: Any, interaction: Any
    ) -> tuple[list[str], FloatArray]:
        """Labels and weights of the contrasts within one level of ``by``."""
        if not interaction:
            labels = self._labels(rows, self.specs)
            sign = "/" if self.type == "response" else "-"
            return contrast_weights(method, labels, ref, self._values(rows), sign)
        methods = [method] * len(self.specs) if interaction is True else interaction
        parts = []
        for one, how in zip(self.specs, methods, strict=True):
            labels = list(dict.fromkeys(self._labels(rows, (one,))))
            parts.append(contrast_weights(how, labels, ref))
        if int(np.prod([C.shape[1] for _, C in parts])) != len(rows):
            raise DataError("interaction contrasts need every combination of the levels of specs")
        names = reduce(lambda a, b: [f"{x} : {y}" for y in b for x in a], [n for n, _ in parts])
        weights = parts[0][1]
        for _, C in parts[1:]:
            weights = np.kron(C, weights).astype(float)
        return names, weights

    def _contrasts(
        self, rows: IntArray, names: list[str], C: FloatArray, adjust: str,
        hypothesis: tuple[int, float, float],
    ) -> pd.DataFrame:  # fmt: skip
        """Contrasts within one level of ``by``."""
        L, offset = combined(C, self.L[rows]), combined(C, self.offset[rows])
        found = self._estimates(L, offset)
        group = self._family(L, len(rows))
        side, _, null = hypothesis
        t, p = contrast_tests(found, group, adjust, self.alpha, hypothesis)
        half = found.se * group.critical(found.df, self.alpha, adjust, side)
        low = found.estimate - half if side >= 0 else np.full(len(C), -np.inf)
        high = found.estimate + half if side <= 0 else np.full(len(C), np.inf)
        name, value, se, own_null = "estimate", found.estimate, found.se, null
        if self.type == "response":
            scale = self._contrast_scale(C)
            name = "response" if scale.ratio is None else scale.ratio
            value, se, low, high = scale.back(value, se, low, high)
            own_null = float(scale.inverse(np.array(null)))
        limits = self._limit_names
        cells = {v: [self.cells[v].iloc[rows[0]]] * len(C) for v in self.by}
        columns = {
            name: value, "SE": se, "df": found.df, limits[0]: low, limits[1]: high,
            **({"null": own_null} if null else {}),
            "z.ratio" if self.ddf == "z" else "t.ratio": t, "p.value": p,
        }  # fmt: skip
        return pd.DataFrame({"contrast": names, **cells, **columns})

    def _family(self, L: FloatArray, k: int) -> Family:
        """The contrasts of one level of ``by``, as a family of tests."""
        m, L = len(L), L[np.isfinite(L).all(axis=1)]
        L = L[estimable(L, self._fixed.null)]
        V = self._fixed.cov(L)
        sd = np.sqrt(np.maximum(np.diag(V), np.finfo(float).tiny))
        rank = int(np.linalg.matrix_rank(L)) if len(L) else 0
        return Family(k, np.asarray(V / np.outer(sd, sd)), max(rank, 1), m)

    def test(
        self, null: float = 0.0, *, side: str = "two-sided", delta: float = 0.0,
        adjust: str = "none",
    ) -> ContrastTable:  # fmt: skip
        """Tests of each mean (or trend) against a value.

        Parameters
        ----------
        null, side, delta, adjust
            As of :meth:`contrast`.

        Returns
        -------
        ContrastTable

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("ergoStool")
        >>> means = sparselmm.mixedlm("effort ~ Type + (1 | Subject)", data).fit().emmeans("Type")
        >>> means.test(null=9.0)[["contrast", "t.ratio", "p.value"]].round(3).head(1)
          contrast  t.ratio  p.value
        0       T1   -0.772    0.452
        """
        adjust = check_choice(adjust, "adjust", ALL_ADJUSTMENTS)
        return self.contrast("identity", adjust, side=side, delta=delta, null=null)

    @as_table
    def joint_test(self) -> pd.DataFrame:
        """F tests that all means of a level of ``by`` are equal.

        R's ``test(pairs(means), joint=TRUE)``; of the means themselves, that would be that all
        are zero.

        Returns
        -------
        DataFrame
            The variables of ``by``, ``df1``, ``df2``, ``F.ratio`` and ``p.value``.
        """
        rows = []
        for own in self._families():
            C = np.diff(np.eye(len(own)), axis=0)
            found = self._fixed.joint_test(existing_part(C, self.L[own]))
            values = [0, np.nan, np.nan, np.nan]
            if found is not None:
                values = [found.df_num, found.df_den, found.statistic, found.p_value]
            rows.append([*(self.cells[name].iloc[own[0]] for name in self.by), *values])
        return pd.DataFrame(rows, columns=[*self.by, "df1", "df2", "F.ratio", "p.value"])

    @as_table
    def cld(self, adjust: str = "tukey", alpha: float | None = None) -> pd.DataFrame:
        """Means in order with letters: means that share one are not significantly different.

        Parameters
        ----------
        adjust : str
            Of the comparisons of pairs.
        alpha : float, optional
            Level of the tests. Default: that of the means.

        Returns
        -------
        DataFrame
            ``frame`` in ascending order within each level of ``by``, and ``group``; empty for a
            mean that the data cannot tell.

        Notes
        -----
        Insertion and absorption (Piepho 2004, *Journal of Computational and Graphical Statistics*
        13(2), 456-466).

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("ergoStool")
        >>> fit = sparselmm.mixedlm("effort ~ Type + (1 | Subject)", data).fit()
        >>> fit.emmeans("Type").cld()[["Type", "group"]].agg(" ".join, axis=1).tolist()
        ['T1 a', 'T4 a', 'T3 b', 'T2 c']
        """
        alpha = self.alpha if alpha is None else check_level(alpha)
        adjust = check_choice(adjust, "adjust", ALL_ADJUSTMENTS)
        frame, parts = self.frame, []
        value = frame.columns[list(frame.columns).index("SE") - 1]
        for rows in self._families():
            _, C = contrast_weights("pairwise", self._labels(rows, self.specs), 0)
            no, own = [""] * len(C), replace(self, type="link")
            p = own._contrasts(rows, no, C, adjust, (0, 0.0, 0.0))["p.value"]
            order = np.argsort(frame[value].to_numpy()[rows], kind="stable")
            differ = np.zeros((len(rows), len(rows)), dtype=bool)
            upper = np.triu_indices(len(rows), 1)
            differ[upper] = p.to_numpy() < alpha
            differ |= differ.T
            known = order[np.isfinite(frame[value].to_numpy()[rows[order]])]
            letters = compact_letters(differ[np.ix_(known, known)])
            letters += [""] * (len(order) - len(known))  # the last are those without an estimate
            parts.append(frame.iloc[rows[order]].assign(group=letters))
        return pd.concat(parts, ignore_index=True)

    def regrid(self) -> MarginalMeans:
        """The means themselves as parameters on the response scale, by the delta method.

        Returns
        -------
        MarginalMeans
            Its contrasts are differences on the response scale, its intervals symmetric. A
            contrast has the least degrees of freedom of its means.
        """
        scale = self._need_scale()
        found = self._estimates(self.L, self.offset)
        slope = scale.slope(found.estimate)
        V = self._fixed.cov(self.L) * np.outer(slope, slope)
        m, known = len(self.L), np.isfinite(found.estimate)
        fixed = FixedEffects(
            scale.inverse(found.estimate[known]), V[np.ix_(known, known)], np.flatnonzero(known),
            np.eye(m)[:, ~known], least_df=found.df[known],
        )  # fmt: skip
        return replace(
            self, L=np.eye(m), offset=np.zeros(m), type="link", name="response", _fixed=fixed,
            _scale=None, response=self._carried_back,
        )  # fmt: skip

    def plot(self, comparisons: bool = False, adjust: str = "tukey", ax: Any = None) -> Any:
        """Means with their intervals; a line for each level of ``by`` or of the second variable.

        Parameters
        ----------
        comparisons : bool
            Arrows: two means differ significantly where theirs do not overlap.
        adjust : str
            Of the comparisons.
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib.figure.Figure
        """
        comparisons = check_flag(comparisons, "comparisons")
        adjust = check_choice(adjust, "adjust", ALL_ADJUSTMENTS)
        frame = self.frame
        at = list(frame.columns).index("SE") - 1
        value, limits = frame.columns[at], self._limit_names
        arrows = self._arrows(adjust) if comparisons else None
        variables = [*self.specs, *self.by]
        back, scale = self.type == "response", "" if self._scale is None else self._scale.name
        what = "slope" if self.name.endswith(f".{TRENDS}") else "marginal mean"
        name = axis_label(what, self._carried_back if back else self.response, scale, back)
        return means_plot(frame, variables, str(value), limits, name, arrows, ax)

    def _arrows(self, adjust: str) -> FloatArray:
        """Lengths to the left and to the right, (m, 2), that show which pairs differ."""
        if self.type == "response":
            raise DataError("comparison arrows are drawn on the scale of the model: type='link'")
        out = np.zeros((len(self.L), 2))
        for rows in self._families():
            k = len(rows)
            C, pairs = marginal_means.pair_matrix(k, False)
            L = combined(C, self.L[rows])
            found = self._estimates(L, combined(C, self.offset[rows]))
            reach = found.se * self._family(L, k).critical(found.df, self.alpha, adjust)
            out[rows] = arrow_lengths(found.estimate, reach, pairs, k)
        return out

    def _estimates(self, L: FloatArray, offset: FloatArray) -> LinearEstimates:
        return self._fixed.estimates(L, offset)

    @property
    def _limit_names(self) -> tuple[str, str]:
        return ("asymp.LCL", "asymp.UCL") if self.ddf == "z" else ("lower.CL", "upper.CL")

    @property
    def _note(self) -> str:
        return f"Degrees of freedom: {self.ddf}; confidence level {1 - self.alpha:g}"

    def __str__(self) -> str:
        return f"{frame_text(self.frame, index=False)}\n{self._note}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return frame_html(self.frame, self._note)
