"""Predictions under a residual covariance structure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from sparselmm.base.arguments import check_flag
from sparselmm.base.exceptions import DataError, UnsupportedError
from sparselmm.base.types import CSR, FloatArray
from sparselmm.design.spec import NewDesign
from sparselmm.design.terms import Design
from sparselmm.inference.prediction import means as prediction
from sparselmm.inference.prediction.variance import Targets
from sparselmm.inference.residual import JointFit
from sparselmm.inference.residual_rows import Neighbours, neighbours, row_sd
from sparselmm.results.methods.prediction import PredictionResults, check_options
from sparselmm.results.residual.by_row import rows_for
from sparselmm.results.tables.prediction import Prediction


class ResidualPrediction(PredictionResults):
    """Part of :class:`ResidualResults`."""

    joint: JointFit

    def get_prediction(
        self, exog: Any = None, transform: bool = True, *, re: Any = False, unseen: str = "error",
        interval: str = "prediction", ddf: str = "z", weights: Any = None, groups: Any = None,
        exog_re: Any = None, exog_vc: Any = None, offset: Any = None, z_terms: Any = None,
        data: Any = None,
    ) -> Prediction:  # fmt: skip
        """Predicted means with standard errors, confidence and prediction intervals.

        With ``re=True`` a new row of a known group also shares residuals with the group's rows of
        the fit: ``c'R^-1(y - X beta - Z b)`` comes to its mean, and only the rest of its residual
        variance to its prediction interval.

        Parameters
        ----------
        exog, transform, re, unseen, interval, ddf, weights
            As of :meth:`MixedLMResults.get_prediction`; ``ddf`` other than "z" with ``re=False``
            and ``interval="confidence"``.
        groups, exog_re, exog_vc, offset, z_terms
            Arrays where the model was given arrays.
        data : container of rows, optional
            With ``re=True``, the rows of the fit where they were not kept; only those of the groups
            of the new rows are held.

        Returns
        -------
        Prediction
        """
        transform = check_flag(transform, "transform")
        est = self._est
        on = prediction.switches(est.terms, re)
        interval, ddf = check_options(interval, ddf, on)
        if ddf != "z" and (re is not False or interval != "confidence"):
            raise _fixed_alone(ddf)
        unseen = prediction.check_unseen(unseen)
        arrays = {
            "groups": groups, "exog_re": exog_re, "exog_vc": exog_vc, "offset": offset,
            "z_terms": z_terms,
        }  # fmt: skip
        observed = interval == "prediction"
        if data is not None and (re is not True or exog is None):
            raise DataError(
                "data= gives the rows of the fit that new rows share residuals with; it belongs to "
                "re=True and exog="
            )
        if exog is not None:
            exog = prediction.new_rows(self.built, exog, transform)
        new, mean = self._means(exog, transform, on, unseen, arrays, observed)
        if weights is not None:
            prediction.prior_weights(weights, len(mean), new.row_labels)
        old = self._fit_rows(exog, data) if re is True and exog is not None else None
        shared = self._shared(exog, new, weights, old, observed)
        targets = self._targets(new, on, None)
        if shared is not None:
            w = 1.0 / np.maximum(shared.left, np.finfo(float).tiny) if observed else None
            targets = replace(targets, weights=w)
            if old is not None and shared.weights.nnz:
                left = old.y - prediction.fitted(replace(est, layout=old), True)
                mean = mean + shared.weights @ left
                targets = replace(
                    targets, X=new.X - shared.weights @ old.X,
                    H=_difference(targets.H, shared.weights, old.Z), terms=targets.terms,
                )  # fmt: skip
        return self._prediction(targets, mean, ddf, new.row_labels)

    def _spread(self, targets: Targets, ddf: str) -> tuple[FloatArray, FloatArray]:
        """As of other fits; degrees of freedom count what estimating R takes, too."""
        if ddf != "satterthwaite":
            return super()._spread(targets, ddf)
        if targets.H is not None or targets.weights is not None:
            raise _fixed_alone(ddf)
        found = self._fixed_effects(ddf).estimates(targets.X, np.zeros(len(targets.X)))
        return found.se[None], found.df[None]

    def _fit_rows(self, exog: Any, data: Any) -> Design | None:
        """Rows of the fit, all those that share a group with new rows; None where none do."""
        built, spec = self.built, self.built.spec
        if spec.formula is None or not hasattr(exog, "columns"):
            raise _without_frame()
        groups = np.unique(spec.residual_rows(exog).group)
        groups = groups[groups >= 0]
        return rows_for(built, data, "get_prediction with re=True", groups) if len(groups) else None

    def _shared(
        self, exog: Any, new: NewDesign, weights: Any, old: Design | None, observed: bool
    ) -> Neighbours | None:
        """Residuals of the new rows given those of the fit; None where they do not count."""
        if not observed and old is None:
            return None
        m, built = len(new.X), self.built
        none = sp.csr_array((m, 0))
        if exog is None:
            design = built.layout.rows("get_prediction without new data")
            assert design.residual is not None
            return Neighbours(none, row_sd(self.joint, design.residual, design.weights) ** 2)
        if built.spec.formula is None or not hasattr(exog, "columns"):
            raise _without_frame()
        w = None if weights is None else prediction.prior_weights(weights, m, new.row_labels)
        own = built.spec.residual_rows(exog)
        if old is not None:
            assert old.residual is not None
            return neighbours(self.joint, old.residual, own, old.weights, w)
        return Neighbours(none, row_sd(self.joint, own, w) ** 2)


def _fixed_alone(ddf: str) -> UnsupportedError:
    return UnsupportedError(
        f"ddf={ddf!r} with residual= is available for re=False and interval='confidence'"
    )


def _without_frame() -> UnsupportedError:
    return UnsupportedError(
        "predictions of new observations under residual= need a formula and a data frame; "
        "pass interval='confidence' and re=False"
    )


def _difference(H: CSR | None, weights: CSR, Z: CSR) -> CSR | None:
    """``H - weights Z``; None where there are no random effects."""
    if not Z.shape[1]:
        return H
    moved = sp.csr_array(weights @ Z)
    return sp.csr_array(-moved if H is None else H - moved)
