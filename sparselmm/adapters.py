"""Fits as models of other packages, which are imported when they are asked for."""

from importlib import import_module
from typing import Any

__all__ = ["for_marginaleffects", "for_pymmeans"]


def for_marginaleffects(result: Any, random: bool = False) -> Any:
    """A fit as a model of the marginaleffects package.

    Parameters
    ----------
    result : MixedLMResults or MixedGLMResults
        Fitted by a formula.
    random : bool
        Whether predictions of linear models hold the random effects of known levels, whose errors
        then count, together with those of the fixed effects.

    Returns
    -------
    FittedModel
        For ``predictions``, ``comparisons``, ``slopes`` and ``hypotheses``.

    Raises
    ------
    DataError
        When the model was given as arrays.
    MemoryLimitError
        When there are more than 2,000 coefficients.

    Notes
    -----
    Tests are normal; for degrees of freedom see ``get_prediction(ddf=...)`` and ``emmeans``.
    """
    return import_module("sparselmm.model.marginal_effects").for_marginaleffects(result, random)


def for_pymmeans(result: Any) -> Any:
    """A fit as a ``ModelInfo`` of the pymmeans package.

    Parameters
    ----------
    result : MixedLMResults
        Fitted by a formula, X of full rank.

    Returns
    -------
    pymmeans.utils.ModelInfo

    Raises
    ------
    DataError
        When the model was given as arrays, is generalized or rank deficient.
    """
    return import_module("sparselmm.model.pymmeans_info").for_pymmeans(result)
