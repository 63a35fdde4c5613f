"""Marginal means and contrasts of generalized models, variance explained on the latent scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from sparselmm.base.exceptions import DataError
from sparselmm.base.types import FloatArray
from sparselmm.inference.hypotheses.ddf import denominator_df
from sparselmm.inference.wald import Wald, two_sided
from sparselmm.likelihood.laplace import moments
from sparselmm.likelihood.laplace.chosen import base_of
from sparselmm.likelihood.laplace.mixtures import CustomFamily, Hurdle, ZeroInflated
from sparselmm.results.general.base import GeneralBase
from sparselmm.results.general.prediction import marginal_variance
from sparselmm.results.tables.emmeans import MarginalMeans, _family, estimated_means

LATENT = {"logit": np.pi**2 / 3.0, "probit": 1.0, "cloglog": np.pi**2 / 6.0}
"""Variance of the latent variable that a distribution-function link cuts."""

RATIOS = {"logit": "odds ratio", "log": "ratio"}


@dataclass(frozen=True, eq=False)
class GeneralMeans:
    """Estimated marginal means of a generalized model.

    Attributes
    ----------
    frame : DataFrame
        Values of the variables, ``emmean`` (``response`` on that scale), ``SE``, ``asymp.LCL``,
        ``asymp.UCL``.
    type : {"response", "link"}
    """

    frame: pd.DataFrame
    type: str
    _means: MarginalMeans
    _vcov: FloatArray
    _eta: FloatArray
    _link: str
    _alpha: float

    def contrast(self, method: Any = "pairwise") -> pd.DataFrame:
        """Contrasts on the scale of the predictor; with ``type="response"`` as ratios.

        Parameters
        ----------
        method : str, mapping or array-like
            As in :meth:`MarginalMeans.contrast`.

        Returns
        -------
        DataFrame
            ``contrast``, ``estimate`` or ``ratio``, ``SE``, ends of intervals, ``z.ratio``,
            ``p.value``. p-values are not adjusted.
        """
        means = self._means
        parts = []
        for rows in means._families():
            names, C = _family(method, means._labels(rows, means.specs), means._values(rows))
            V = self._vcov[np.ix_(rows, rows)]
            estimate, se = C @ self._eta[rows], np.sqrt(np.einsum("ij,jk,ik->i", C, V, C))
            ends = Wald(estimate, se).interval(self._alpha)
            z = estimate / se
            cells = {name: [means.cells[name].iloc[rows[0]]] * len(C) for name in means.by}
            name = "estimate"
            if self.type == "response":
                if self._link not in RATIOS:
                    raise DataError(
                        f"contrasts on the response scale are ratios, of the {' and '.join(RATIOS)}"
                        f" links; for {self._link} use type='link'"
                    )
                name = RATIOS[self._link].replace(" ", ".")
                estimate, ends = np.exp(estimate), np.exp(ends)
                se = estimate * se
            columns = {name: estimate, "SE": se, "asymp.LCL": ends[:, 0], "asymp.UCL": ends[:, 1]}
            columns |= {"z.ratio": z, "p.value": two_sided(z)}
            parts.append(pd.DataFrame({"contrast": names, **cells, **columns}))
        return pd.concat(parts, ignore_index=True)

    def pairs(self) -> pd.DataFrame:
        """All differences, or ratios with ``type="response"``."""
        return self.contrast("pairwise")

    def __repr__(self) -> str:
        return self.frame.to_string(index=False, float_format=lambda v: f"{v:.4f}")


class MeanResults(GeneralBase):
    """Part of :class:`sparselmm.MixedGLMResults`."""

    def emmeans(
        self, specs: Any, by: Any = None, at: Mapping[str, Any] | None = None, *,
        type: str = "response", weights: str = "equal", alpha: float = 0.05,
    ) -> GeneralMeans:  # fmt: skip
        """Estimated marginal means, random effects at zero.

        Parameters
        ----------
        specs, by, at, weights
            As in :meth:`MixedLMResults.emmeans`.
        type : {"response", "link"}
            Means are averaged on the scale of the predictor; "response" carries them over.
        alpha : float
            One minus the confidence level.

        Returns
        -------
        GeneralMeans

        Raises
        ------
        DataError
            When the response is ordinal and ``type="response"``, or a name is unknown.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("cbpp")
        >>> fit = sparselmm.mixedglm(
        ...     "cbind(incidence, size - incidence) ~ period + (1 | herd)", data).fit()
        >>> fit.emmeans("period").frame.response.round(3).tolist()
        [0.198, 0.084, 0.074, 0.048]
        """
        if type not in ("response", "link"):
            raise DataError(f"type must be 'response' or 'link', got {type!r}")
        if type == "response" and base_of(self.family).name in ("ordinal", "custom"):
            raise DataError(
                "means of this family have no single response scale; use type='link', or predict()"
            )
        working = self.numbers.working
        means = estimated_means(
            working, self.built, denominator_df(working, "z"), specs, by, at, "z", weights, alpha
        )
        numbers = self.numbers
        L, T = means.L[:, numbers.kept], self.deviance.fixed.basis.T
        eta = L @ (T @ numbers.parts[1]) + means.offset
        V = L @ T @ numbers.vcov_gamma @ T.T @ L.T
        if base_of(self.family).name != "ordinal":
            eta = np.where(np.isnan(means.frame.emmean.to_numpy()), np.nan, eta)
        frame = self._mean_frame(means, eta, np.sqrt(np.diag(V)), type, alpha)
        return GeneralMeans(frame, type, means, V, eta, self.family.link, alpha)

    def _mean_frame(
        self,
        means: MarginalMeans,
        eta: FloatArray,
        se: FloatArray,
        type: str,
        alpha: float,
    ) -> pd.DataFrame:
        z = float(-ndtri(alpha / 2.0))
        low, high = eta - z * se, eta + z * se
        name = "emmean"
        if type == "response":
            name = "response"
            base = base_of(self.family)  # the mean of the counts before zeros
            low, high = (moments.mean(base, e, ()) for e in (low, high))
            low, high = np.minimum(low, high), np.maximum(low, high)
            h = 1e-5
            slope = (moments.mean(base, eta + h, ()) - moments.mean(base, eta - h, ())) / (2 * h)
            eta, se = moments.mean(base, eta, ()), np.abs(slope) * se
        columns = {name: eta, "SE": se, "asymp.LCL": low, "asymp.UCL": high}
        return means.cells.assign(**columns)

    # ------------------------------------------------------------------- variance explained

    def _variance_parts(self) -> tuple[float, float, float]:
        """Variances of the fixed part, of the random effects and of the latent residual."""
        engine, numbers = self.deviance, self.numbers
        fixed = engine.fixed.effects(numbers.parts[1], None)
        random = marginal_variance(engine.data.terms, numbers.psi, len(fixed))
        return float(np.var(fixed)), float(random.mean()), self._latent_residual()

    def _latent_residual(self) -> float:
        family = self.family
        if isinstance(family, (ZeroInflated, Hurdle, CustomFamily)):
            raise DataError("variance explained on the latent scale is not defined for this family")
        if family.link in LATENT and family.name in ("binomial", "ordinal"):
            return float(LATENT[family.link])
        if family.name == "gaussian" and family.link == "identity":
            return float(np.mean(np.exp(2.0 * self._further()[0])))
        if family.link == "log":
            eta = self.deviance.fixed.effects(self.numbers.parts[1], self.deviance.data.offset)
            psi = marginal_variance(self.deviance.data.terms, self.numbers.psi, len(eta))
            eta = np.full(1, np.log(np.mean(np.exp(eta + 0.5 * psi))))
            further = tuple(np.full(1, float(np.mean(f))) for f in self._further())
            mu = moments.mean(family, eta, further)
            ratio = moments.variance(family, eta, further, np.ones(1)) / mu**2
            return float(np.log1p(ratio)[0])
        raise DataError(
            f"variance explained on the latent scale is not defined for family {family.name!r} "
            f"with link {family.link!r}"
        )

    def icc(self) -> pd.Series:
        """Share of the latent variance that each term explains, given the fixed effects.

        Returns
        -------
        Series
            One entry per term.

        Notes
        -----
        The residual variance is that of the latent variable (pi^2 / 3 for the logit), or
        ``log(1 + Var(y) / mean^2)`` for a log link (Nakagawa, Johnson & Schielzeth 2017, *J. R.
        Soc. Interface* 14, 20170213).
        """
        engine, numbers = self.deviance, self.numbers
        own = [
            float(marginal_variance((term,), [psi], engine.data.n).mean())
            for term, psi in zip(engine.data.terms, numbers.psi, strict=True)
        ]
        total = sum(own) + self._latent_residual()
        return pd.Series([v / total for v in own], [t.name for t in self.built.design.terms])

    def r2(self) -> pd.Series:
        """Marginal and conditional R-squared on the latent scale (Nakagawa et al. 2017).

        Returns
        -------
        Series
            ``marginal`` (fixed effects), ``conditional`` (random effects as well).
        """
        fixed, random, rest = self._variance_parts()
        total = fixed + random + rest
        return pd.Series({"marginal": fixed / total, "conditional": (fixed + random) / total})
