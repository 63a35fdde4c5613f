"""Results of models with a covariance structure of the residuals."""

from sparselmm.results.residual.core import MMRMResults, ResidualResults

__all__ = ["MMRMResults", "ResidualResults"]
