"""scikit-learn's face of the package: ``from sparselmm.sklearn import MixedLMRegressor``."""

from sparselmm.model.regressor import MixedLMRegressor

__all__ = ["MixedLMRegressor"]
