"""Fitted values, predictions on the scales of predictor and response, residuals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.special import ndtri

from sparselmm.base.arguments import check_choice, check_flag, check_level
from sparselmm.base.exceptions import DataError
from sparselmm.base.seeds import generator
from sparselmm.base.types import FloatArray
from sparselmm.design import NewDesign
from sparselmm.design.new_rows import level_labels, new_design
from sparselmm.design.rows import unseen_rows
from sparselmm.design.terms import RandomTerm, TermLayout, assemble_z
from sparselmm.inference.prediction.means import (
    check_unseen,
    masked,
    new_random_part,
    new_rows,
    refuse_useless,
    switches,
    warn_if_dropped,
)
from sparselmm.inference.prediction.variance import conditional_forms, fixed_roots
from sparselmm.likelihood.laplace import moments
from sparselmm.likelihood.laplace.chosen import TRIALS, base_of
from sparselmm.likelihood.laplace.mixtures import CustomFamily
from sparselmm.results.general.base import GeneralBase
from sparselmm.results.tables.scales import link_scale

TYPES = ("response", "link", "probability")
RANDOM = ("conditional", "population", "average")
RESIDUALS = ("response", "pearson", "deviance", "quantile")

NODE_STEP, NODE_END, NODE_SPREAD = 0.25, 8.5, 50.0
"""Distance of the nodes of averages over random effects of standard deviation one or less, where
they end, and the standard deviation from which they come no closer."""


@dataclass(frozen=True, eq=False)
class NewRows:
    """Rows to predict.

    Attributes
    ----------
    X : ndarray, (m, r)
        Columns that were estimated.
    eta : ndarray, (m,)
        Predictors, random effects included where they count.
    spread : ndarray, (m,)
        Standard deviation of the random effects to average over; zero for none.
    H : csr_array, (m, q), or None
        Random effects that count.
    further : tuple of ndarray, (m,)
    designs : list of ndarray, (m, c)
        Designs of the further predictors.
    index : Index or None
    """

    X: FloatArray
    eta: FloatArray
    spread: FloatArray
    H: Any
    further: tuple[FloatArray, ...]
    designs: list[FloatArray]
    index: Any


class PredictionResults(GeneralBase):
    """Part of :class:`sparselmm.MixedGLMResults`."""

    @property
    def linear_predictor(self) -> Any:
        """``X beta + Z b + offset`` of the rows of the fit, (n,)."""
        return self._series(self._eta())

    def _eta(self, random: bool = True) -> FloatArray:
        engine = self.deviance
        out = engine.fixed.effects(self.numbers.parts[1], engine.data.offset)
        return out + engine.random.effects(self.numbers.b) if random else out

    @property
    def fittedvalues(self) -> Any:
        """Expected responses given the random effects; probabilities for trials, (n,).

        Of an ordinal response the most probable category.
        """
        if base_of(self.family).name == "ordinal":
            p = moments.categories(self.family, self._eta(), self.numbers.parts[2])
            best = p.argmax(axis=1)
            names = self.model.categories
            return self._series(best if names is None else np.asarray(names)[best])
        return self._series(moments.mean(self.family, self._eta(), self._further()))

    # ------------------------------------------------------------------------ prediction

    def predict(
        self, exog: Any = None, type: str = "response", random: str | bool = "conditional", *,
        interval: bool = False, alpha: float = 0.05, unseen: str = "error", groups: Any = None,
        exog_re: Any = None, exog_vc: Any = None, offset: Any = None, z_terms: Any = None,
    ) -> Any:  # fmt: skip
        """Predict responses or predictors.

        Parameters
        ----------
        exog : DataFrame or array-like, optional
            New rows; default those of the fit. A data frame holds the variables of the formula.
        type : {"response", "link", "probability"}
            Expected response (a probability for trials, the most probable category of an ordinal
            response), predictor, or probabilities of the categories of an ordinal response.
        random : {"conditional", "population", "average"}
            With the random effects of the levels; with random effects of zero; or averaged over
            their distribution, as for a new level of every factor.
        interval : bool
            A data frame with ``mean``, ``se``, ``ci_lower``, ``ci_upper``.
        alpha : float
            One minus the confidence level.
        unseen : {"error", "population", "nan"}
            Of conditional predictions: levels that the fit has not seen.
        groups, exog_re, exog_vc, offset, z_terms : optional
            Arrays of the new rows where the model was given arrays.

        Returns
        -------
        Series, ndarray or DataFrame

        Raises
        ------
        DataError
            When an argument is unknown, a level is unseen, or an offset is missing.

        Notes
        -----
        Intervals count the estimation of fixed effects and, of conditional predictions, the
        conditional variance of the random effects; variances of random effects count as known.
        They are formed on the scale of the predictor and carried over, or by the delta method
        where other predictors take part or random effects are averaged over.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("cbpp")
        >>> fit = sparselmm.mixedglm(
        ...     "cbind(incidence, size - incidence) ~ period + (1 | herd)", data).fit()
        >>> fit.predict(data.head(2), random="average").round(3).tolist()
        [0.216, 0.097]
        """
        kind = self._random_kind(random)
        type = check_choice(type, "type", TYPES)
        unseen = check_unseen(unseen)
        check_level(alpha)
        interval = check_flag(interval, "interval")
        arrays = {"groups": groups, "exog_re": exog_re, "exog_vc": exog_vc, "offset": offset,
                  "z_terms": z_terms}  # fmt: skip
        if exog is None:
            refuse_useless(arrays)
        rows = self._new_rows(exog, kind, unseen, arrays)
        ordinal = base_of(self.family).name == "ordinal"
        if type == "probability" or (ordinal and type == "response"):
            return self._probabilities(rows, type, ordinal, interval)
        if type == "link" and kind == "average":
            raise DataError("random='average' is for responses; the predictor averages to that of "
                            "the population")  # fmt: skip
        value = rows.eta if type == "link" else self._means(rows)
        if not interval:
            return self._labelled(value, rows.index)
        table = self._interval(rows, value, type, alpha)
        return table if rows.index is None else table.set_index(rows.index)

    def _random_kind(self, random: str | bool) -> str:
        if isinstance(random, (bool, np.bool_)):
            return "conditional" if random else "population"
        return str(check_choice(random, "random", RANDOM))

    def _labelled(self, values: Any, index: Any) -> Any:
        return pd.Series(values, index) if self.built.pandas else values

    def _new_rows(self, exog: Any, kind: str, unseen: str, arrays: dict[str, Any]) -> NewRows:
        built, numbers = self.built, self.numbers
        known = any(term.root is not None for term in built.layout.terms)
        on = switches(built.layout.terms, kind == "conditional" or (kind == "average" and known))
        if exog is None:
            design: Any = built.design
            new = NewDesign(design.X, design.terms, design.offset, built.row_labels,
                            {k: v for k, v in built.further.items()})  # fmt: skip
            given: Any = None
        else:
            warn_if_dropped(self.dropped)
            given = exog = new_rows(built, exog, True)
            new = new_design(built, exog, True, on, arrays, everything=kind == "average")
        X = new.X[:, numbers.kept]
        eta = X @ (self.deviance.fixed.basis.T @ numbers.parts[1])
        if new.offset is not None:
            eta = eta + new.offset
        H, spread = None, np.zeros(len(eta))
        if kind == "conditional":
            labels = level_labels(built, given, arrays["groups"])
            eta = eta + new_random_part(built.layout.terms, new, numbers.b, on, unseen, labels)
            terms = tuple(masked(t, part) for t, part in zip(new.terms, on, strict=True))
            H = assemble_z(terms, len(eta))
        if kind == "average":
            _refuse_unknown(built.layout.terms, new.terms)
            spread = np.sqrt(marginal_variance(new.terms, numbers.psi, len(eta)))
        further, designs = self._new_further(new, len(eta))
        return NewRows(X, eta, spread, H, further, designs, new.row_labels)

    def _new_further(
        self, new: NewDesign, m: int
    ) -> tuple[tuple[FloatArray, ...], list[FloatArray]]:
        phi, out, designs = self.numbers.parts[2], [], []
        for part in self.model.further:
            if part.name in ("upper", "lower"):
                continue
            design = new.further.get(part.name)
            if design is None and part.design is not None:
                raise DataError(f"{part.name}= was an array; its new rows cannot be told")
            design = np.ones((m, 1)) if design is None else design
            designs.append(design)
            out.append(design @ phi[part.columns])
        return tuple(out), designs

    def _means(self, rows: NewRows) -> FloatArray:
        """Expected responses, averaged over random effects where they have a spread, (m,)."""
        return self._averaged(rows, lambda eta: moments.mean(self.family, eta, rows.further))

    def _averaged(self, rows: NewRows, of: Callable[[FloatArray], FloatArray]) -> FloatArray:
        """Averages over the random effects of what a function says at predictors."""
        return np.asarray(sum(w * of(rows.eta + z * rows.spread) for z, w in nodes(rows.spread)))

    def _probabilities(self, rows: NewRows, type: str, ordinal: bool, interval: bool) -> Any:
        if not ordinal:
            raise DataError("type='probability' is for ordinal responses; a binomial response has "
                            "type='response'")  # fmt: skip
        if interval:
            raise DataError("intervals of probabilities of categories are not available; use "
                            "type='link', or bootstrap()")  # fmt: skip
        alpha = self.numbers.parts[2]
        p = self._averaged(rows, lambda eta: moments.categories(self.family, eta, alpha))
        names = np.asarray(self.model.categories)
        if type == "response":
            return self._labelled(names[p.argmax(axis=1)], rows.index)
        return pd.DataFrame(p, index=rows.index, columns=list(names))

    # ------------------------------------------------------------------------- intervals

    def _link_se(self, rows: NewRows) -> FloatArray:
        """Standard errors of the predictors, (m,)."""
        working, theta = self.numbers.working, self.numbers.parts[0]
        X = np.zeros((len(rows.eta), self.built.layout.p))
        X[:, self.numbers.kept] = rows.X
        H = None if rows.H is None else sp.csr_array(rows.H)
        roots = fixed_roots(working.deviance, theta, X, H)
        out = np.einsum("ij,ij->i", roots, roots)
        if H is not None and H.nnz:
            out = out + conditional_forms(working.deviance, theta, H)
        return np.sqrt(out)

    def _interval(self, rows: NewRows, value: FloatArray, type: str, alpha: float) -> pd.DataFrame:
        z = float(-ndtri(alpha / 2.0))
        se_link = self._link_se(rows)
        low, high = rows.eta - z * se_link, rows.eta + z * se_link
        if type == "link":
            return _frame(value, se_link, low, high)
        slopes = self._averaged(
            rows, lambda eta: np.array(moments.mean_slopes(self.family, eta, rows.further))
        )
        if not rows.spread.any() and not slopes[1:].any():  # the predictor alone
            return _frame(value, np.abs(slopes[0]) * se_link, *self._ends(rows, low, high))
        se = self._delta(rows, slopes, se_link)
        return _frame(value, se, value - z * se, value + z * se)

    def _ends(self, rows: NewRows, low: FloatArray, high: FloatArray) -> tuple[FloatArray, ...]:
        """Least and largest mean between two predictors."""
        if not isinstance(self.family, CustomFamily):
            return link_scale(self.family.link).limits(rows.eta, low, high)
        ends = [moments.mean(self.family, e, rows.further) for e in (low, high)]
        return np.minimum(*ends), np.maximum(*ends)

    def _delta(self, rows: NewRows, slopes: FloatArray, se_link: FloatArray) -> FloatArray:
        """Standard errors with the further predictors' coefficients counted, (m,)."""
        r = rows.X.shape[1]
        by_design = [
            x[:, None] * design for x, design in zip(slopes[1:], rows.designs, strict=True)
        ]
        gradient = np.hstack([slopes[0][:, None] * rows.X, *by_design])
        own = np.einsum("ij,jk,ik->i", gradient, self.numbers.joint_held, gradient)
        fixed = gradient[:, :r]
        fixed = np.einsum("ij,jk,ik->i", fixed, self.numbers.joint[:r, :r], fixed)
        return np.sqrt(np.maximum(own - fixed + (slopes[0] * se_link) ** 2, 0.0))

    # ------------------------------------------------------------------------- residuals

    @property
    def resid(self) -> Any:
        """Response residuals, (n,)."""
        return self.residuals("response")

    def residuals(self, kind: str = "quantile", seed: Any = 0) -> Any:
        """Residuals given the random effects.

        Parameters
        ----------
        kind : {"response", "pearson", "deviance", "quantile"}
            Response less its expectation (proportions for trials); that over the standard
            deviation; signed roots of deviance terms; randomized quantile residuals (Dunn & Smyth
            1996), standard normal under the model.
        seed : int or Generator
            Draws between the two probabilities of a discrete response.

        Returns
        -------
        Series or ndarray, (n,)

        Raises
        ------
        DataError
            When the kind is unknown or not defined for the family.

        Notes
        -----
        Conditional modes are shrunken and fitted to the same rows, so that Pearson residuals
        over-state the fit: their sum of squares over the degrees of freedom is no test of
        dispersion. :meth:`check` simulates instead.
        """
        kind = check_choice(kind, "kind", RESIDUALS)
        eta, further, m = self._eta(), self._further(), self._trials()
        y, name = self.model.endog, base_of(self.family).name
        if kind == "quantile":
            return self._series(self._quantile(eta, seed))
        if name == "ordinal":
            raise DataError("an ordinal response has quantile residuals only; use kind='quantile'")
        mu = moments.mean(self.family, eta, further)
        expected = m * mu if name in TRIALS else mu
        if kind == "response":
            return self._series((y - expected) / (m if name in TRIALS else 1.0))
        if kind == "pearson":
            spread = np.sqrt(moments.variance(self.family, eta, further, m))
            return self._series((y - expected) / spread)
        terms = moments.deviance_terms(self.family, y, eta, further, m)
        return self._series(np.sign(y - expected) * np.sqrt(np.maximum(terms, 0.0)))

    def _quantile(self, eta: FloatArray, seed: Any) -> FloatArray:
        rng = generator(seed)
        y, m = self.model.endog, self._trials()
        if base_of(self.family).name == "ordinal":
            p = moments.categories(self.family, eta, self.numbers.parts[2])
            total = np.column_stack([np.zeros(len(y)), np.cumsum(p, axis=1)])
            code = y.astype(int)
            low, high = total[np.arange(len(y)), code], total[np.arange(len(y)), code + 1]
        else:
            low, high = moments.cdf(self.family, y, eta, self._further(), m)
        u = low + (high - low) * rng.random(len(y))
        return np.asarray(ndtri(np.clip(u, 1e-16, 1.0 - 1e-16)))


def nodes(spread: FloatArray) -> list[tuple[float, float]]:
    """Nodes and weights of averages over ``spread`` times a standard normal number.

    The trapezoidal rule, whose error vanishes like ``exp(-2 pi^2 / (step * spread))`` for logits;
    Gauss and Hermite's nodes do not come closer where the spread is large. On the side on which
    means may grow there are more of them.
    """
    most = float(spread.max(initial=0.0))
    if most == 0.0:
        return [(0.0, 1.0)]
    step = NODE_STEP / min(max(1.0, most), NODE_SPREAD)
    z = step * np.arange(-np.ceil(NODE_END / step), np.ceil((NODE_END + most) / step) + 1.0)
    w = step / np.sqrt(2.0 * np.pi) * np.exp(-0.5 * z**2)
    return list(zip(z.tolist(), w.tolist(), strict=True))


def marginal_variance(
    terms: tuple[RandomTerm, ...], psi: list[FloatArray], n: int
) -> FloatArray:  # fmt: skip
    """``z'Psi z`` summed over the terms, as for a new level of each, (n,)."""
    out = np.zeros(n)
    for term, own in zip(terms, psi, strict=True):
        if term.block is not None:  # the k columns of a level stand together
            columns = [sp.csr_array(term.block[:, a :: term.k]) for a in range(term.k)]
            for a, b in product(range(term.k), repeat=2):
                out += own[a, b] * np.asarray(columns[a].multiply(columns[b]).sum(axis=1)).ravel()
        elif term.values is None:
            out += own[0, 0]
        else:
            out += np.einsum("ij,jk,ik->i", term.values, own, term.values)
    return out


def _refuse_unknown(fitted: Sequence[TermLayout], new: Sequence[RandomTerm]) -> None:
    """Levels without a row in a known covariance have no variance to average over."""
    for old, term in zip(fitted, new, strict=True):
        rows = int(unseen_rows(old, term).sum()) if old.root is not None else 0
        if rows:
            raise DataError(
                f"{rows} row(s) belong to levels of {term.name!r} that the known covariance does "
                "not have, so that their variance is not known; use random='population'"
            )


def _frame(
    value: FloatArray, se: FloatArray, low: FloatArray, high: FloatArray
) -> pd.DataFrame:  # fmt: skip
    return pd.DataFrame({"mean": value, "se": se, "ci_lower": low, "ci_upper": high})
