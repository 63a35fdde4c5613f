"""What every part of the results of a generalized model needs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.types import FloatArray, IntArray
from sparselmm.factor.basis import working_basis
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.general import GeneralEstimates
from sparselmm.likelihood.laplace.chosen import base_of
from sparselmm.likelihood.laplace.deviance import LaplaceDeviance
from sparselmm.likelihood.laplace.optimum import Optimum
from sparselmm.results.methods.base import Labelled


class GeneralBase(Labelled):
    """The attributes of :class:`sparselmm.MixedGLMResults`, documented there."""

    model: Any
    deviance: LaplaceDeviance
    opt: Optimum
    family: Any
    numbers: GeneralEstimates

    def _series(self, values: FloatArray, names: Sequence[str] | None = None) -> Any:
        """Values of the rows, or of names, labelled when the user works with pandas."""
        own = values.copy()
        if not self.built.pandas:
            return own
        return pd.Series(own, self.built.row_labels if names is None else list(names))

    def _further(self) -> tuple[FloatArray, ...]:
        """Further predictors of the rows of the fit, each (n,)."""
        data = self.deviance.data
        phi, every = self.numbers.parts[2], slice(0, data.n)
        zero = data.y * 0.0
        return tuple(zero + part.values(phi, every) for part in data.further)

    def _trials(self) -> FloatArray:
        """Trials of the rows of the fit, (n,)."""
        data = self.deviance.data
        return data.trials(slice(0, data.n))

    @property
    def dropped(self) -> tuple[str, ...]:
        """Columns of X left out because they depend on the others; their estimates are NaN."""
        names = self.built.layout.x_names
        return tuple(names[j] for j in np.setdiff1d(np.arange(len(names)), self._independent))

    @cached_property
    def _independent(self) -> IntArray:
        """Columns of X that span it; of an ordinal response those of the intercept, too."""
        if base_of(self.family).name != "ordinal":
            return self.numbers.kept
        X = self.built.design.X
        live = None if self.model._live.all() else self.model._live.astype(float)
        return np.asarray(working_basis(X, np.zeros(len(X)), live).kept)

    @property
    def _counts(self) -> FloatArray:
        """How often each row counts, (n,)."""
        weights = self.deviance.data.weights
        return self.model._live.astype(float) if weights is None else weights

    @cached_property
    def _est(self) -> Estimates:
        """The working linear model, for what random effects have in common."""
        return self.numbers.working
