"""The mixed model for repeated measures: visits within subjects, no random effects needed."""

from __future__ import annotations

from typing import Any

from sparselmm.base.arguments import check_flag
from sparselmm.base.other_names import known_arguments
from sparselmm.design import capture_env
from sparselmm.design.formula.residual_bar import split_structure
from sparselmm.model.mixedlm import MixedLM
from sparselmm.model.partitions import CHUNK_ROWS
from sparselmm.results.residual.core import MMRMResults, results_of


@known_arguments
def mmrm(
    formula: str,
    data: Any,
    *,
    reml: bool = True,
    dispersion: str | None = None,
    weights: Any = None,
    offset: Any = None,
    subset: Any = None,
    missing: str = "drop",
    contrasts: Any = None,
    eval_env: Any = 0,
    chunk_rows: int = CHUNK_ROWS,
    keep_rows: bool | str = "auto",
    client: Any = None,
    **fit_arguments: Any,
) -> MMRMResults:
    """Fit a mixed model for repeated measures.

    The covariance of a subject's visits stands in the formula, ``us(visit | subject)``; random
    effects may be added as bars. Tests are by Kenward and Roger's method unless another is asked
    for (Satterthwaite's under maximum likelihood).

    Parameters
    ----------
    formula : str
        ``"FEV1 ~ RACE + ARMCD * AVISIT + us(AVISIT | USUBJID)"``, with one structure of those that
        ``residual=`` of :meth:`MixedLM.from_formula` takes; ``ar1h``, ``csh``, ``toeph`` and
        ``adh`` have a variance of each visit.
    data : DataFrame, mapping, or another container of rows
        One row per subject and visit; containers as of :meth:`MixedLM.from_formula`.
    reml : bool
        REML instead of maximum likelihood.
    dispersion : str, optional
        As of :meth:`MixedLM.from_formula`.
    weights, offset : str or array-like, (n,), optional
        Column name or values.
    subset : array-like or str, optional
        Rows to use.
    missing : {"drop", "none", "raise"}
        "drop" (default, as in SAS and mmrm) leaves out visits with a missing value in use.
    contrasts : dict, optional
        As of :meth:`MixedLM.from_formula`.
    eval_env : int or patsy.EvalEnvironment
        How many frames up the variables of the formula are looked up.
    chunk_rows, keep_rows, client
        As of :meth:`MixedLM.from_formula`.
    **fit_arguments
        As of :meth:`MixedLM.fit`.

    Returns
    -------
    MixedLMResults

    Raises
    ------
    FormulaError
        When the formula has no covariance structure, or more than one.
    DataError
        When the data cannot be fitted; the message says what to change.

    References
    ----------
    Mallinckrodt, C. H. et al. (2008). Recommendations for the primary analysis of continuous
    endpoints in longitudinal clinical trials. *Drug Information Journal* 42, 303-319.

    Examples
    --------
    >>> import sparselmm
    >>> data = sparselmm.datasets.load("Orthodont")
    >>> fit = sparselmm.mmrm("distance ~ age * Sex + us(age | Subject)", data)
    >>> round(fit.llf, 3)
    -212.273
    """
    reml = check_flag(reml, "reml")
    rest, structure = split_structure(formula)
    model = MixedLM.from_formula(
        rest, data, residual=structure, dispersion=dispersion, weights=weights, offset=offset,
        subset=subset, missing=missing, contrasts=contrasts,
        eval_env=capture_env(eval_env, above=1), chunk_rows=chunk_rows, keep_rows=keep_rows,
        client=client,
    )  # fmt: skip
    fit: Any = model.fit(reml=reml, **fit_arguments)
    out: MMRMResults = results_of(MMRMResults, model, fit.built, fit.joint)
    return out
