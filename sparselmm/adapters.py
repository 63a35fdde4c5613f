"""Fits as models of other packages, which are imported when they are asked for."""

from importlib import import_module
from typing import Any

from sparselmm.base.arguments import check_choice
from sparselmm.base.exceptions import ArgumentError
from sparselmm.inference.hypotheses.ddf import DDF_METHODS

__all__ = ["for_maketables", "for_marginaleffects", "for_pymmeans", "with_ddf"]


class TableModel:
    """The attributes of a fit that maketables reads, and no others.

    Parameters
    ----------
    result : MixedLMResults or MixedGLMResults
    """

    def __init__(self, result: Any) -> None:
        self._result = result

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__maketables_"):
            return getattr(self._result, name)
        raise AttributeError(name)


def for_maketables(result: Any) -> TableModel:
    """A fit as a model of the maketables package: fixed effects with their own tests.

    Parameters
    ----------
    result : MixedLMResults or MixedGLMResults

    Returns
    -------
    TableModel
        For ``maketables.ETable([...])``.

    Notes
    -----
    maketables takes what has ``params``, ``bse`` and ``pvalues`` for a result of statsmodels, whose
    ``params`` hold variances as well and whose tests are normal. With this, a table has the fixed
    effects alone, with Satterthwaite's degrees of freedom, and their number of rows and criteria.

    Examples
    --------
    >>> import sparselmm
    >>> data = sparselmm.datasets.load("sleepstudy")
    >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
    >>> model = sparselmm.adapters.for_maketables(fit)
    >>> list(model.__maketables_coef_table__.index)
    ['Intercept', 'Days']
    """
    return TableModel(result)


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
        When the model was given as arrays, or the response is ordinal.
    MemoryLimitError
        When there are more than 2,000 coefficients.

    Notes
    -----
    Tests are normal; :func:`with_ddf` gives a table degrees of freedom. Of generalized models
    predictions are expected responses, excess zeros counted, at random effects of zero.
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

    Notes
    -----
    Tests are normal; :func:`with_ddf` gives means, trends and contrasts degrees of freedom.
    """
    return import_module("sparselmm.model.pymmeans_info").for_pymmeans(result)


def with_ddf(table: Any, result: Any, ddf: str = "satterthwaite") -> Any:
    """A table of marginaleffects or pymmeans with degrees of freedom.

    Parameters
    ----------
    table : MarginaleffectsResult, EMMResult or ContrastResult
        Made by these packages from the model of one of the functions above.
    result : MixedLMResults
        The fit it was made from.
    ddf : {"satterthwaite", "kenward-roger", "z"}
        Kenward and Roger's also changes the standard errors; it is for fixed effects alone.

    Returns
    -------
    MarginaleffectsResult, EMMResult or ContrastResult
        The same table with a column ``df``, and standard errors, statistics, intervals and
        p-values that go with it; adjusted p-values are adjusted again.

    Raises
    ------
    ArgumentError
        When ``table`` is of neither package, or the fit is a generalized model, whose tests are
        normal.
    DataError
        When the table has no standard errors or belongs to another fit.

    Notes
    -----
    A row is a function of the coefficients; its derivatives stand for it, as they do in its
    standard error. With random effects the degrees of freedom are those of
    ``get_prediction(re=True, ddf=...)``.
    """
    ddf = check_choice(ddf, "ddf", DDF_METHODS)
    if hasattr(result, "family"):
        raise ArgumentError("result: tests of generalized models are normal; there is no ddf")
    for attribute, module in (("jacobian", "marginal_effects"), ("linfct", "pymmeans_info")):
        if hasattr(table, attribute):
            return import_module(f"sparselmm.model.{module}").with_ddf(table, result, ddf)
    raise ArgumentError(
        f"table must be a table of marginaleffects or pymmeans, got {type(table).__name__}"
    )
