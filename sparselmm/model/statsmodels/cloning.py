"""The same model with other numbers, as statsmodels' tools ask for it.

Mediation analysis and the like make models of their own: ``type(model)(endog, exog, **keywords)``
or ``type(model).from_formula(data=data, **keywords)`` with ``model._get_init_kwds()``. Among these
keywords is ``model_spec``, here the whole built design; everything but y and X is taken over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparselmm.base.arguments import OTHER_ARGUMENTS, suggestion
from sparselmm.base.exceptions import ArgumentTypeError, DataError
from sparselmm.base.types import FloatArray
from sparselmm.design import BuiltDesign
from sparselmm.design.column_types import float_matrix
from sparselmm.design.formula.bars import parse_formula
from sparselmm.design.formula.columns import take_columns
from sparselmm.design.formula.expressions import names_in
from sparselmm.design.formula.namespace import Namespace
from sparselmm.design.spec import as_frame
from sparselmm.design.validate import Rows, aligned, check_design, check_length

ARGUMENTS = (
    "chunk_rows", "client", "contrasts", "covariance", "data", "dispersion", "endog", "eval_env",
    "exog", "exog_re", "exog_vc", "formula", "groups", "keep_rows", "missing", "offset", "progress",
    "re_formula", "residual", "subset",
    "use_sparse", "use_sqrt", "vc_formula", "weights", "z_terms",
)  # fmt: skip
"""Arguments of ``MixedLM`` and ``MixedLM.from_formula``, for suggestions."""

KEYWORDS = ("formula", "missing_idx", "model_spec")
"""Keywords that statsmodels' models take besides those in their signature."""


def model_of(keywords: Mapping[str, Any]) -> BuiltDesign | None:
    """The model to take over, None for a new one.

    Raises
    ------
    ValueError
        When there is a keyword that has no meaning.
    """
    for name in keywords:
        if name not in KEYWORDS:
            raise ArgumentTypeError(
                f"argument {name} not permitted for MixedLM initialization"
                f"{OTHER_ARGUMENTS.get(name) or suggestion(name, ARGUMENTS)}"
            )
    spec = keywords.get("model_spec")
    return spec if isinstance(spec, BuiltDesign) else None


def with_arrays(built: BuiltDesign, endog: Any, exog: Any) -> BuiltDesign:
    """The model with another response, (n,), and another X, (n, p), of the same rows."""
    against = "the model it is a copy of"
    endog = aligned(endog, built.row_labels, "endog", against)
    exog = aligned(exog, built.row_labels, "exog", against)
    y = float_matrix(endog, "endog").ravel()
    X = float_matrix(exog, "exog")
    check_length(len(y), built.design.n, "endog", against)
    check_length(X.shape[0] if X.ndim else 1, len(y), "exog", "endog")
    X = X.reshape(len(y), -1)
    names = built.layout.x_names
    if X.shape[1] != len(names):
        names = tuple(f"x{j}" for j in range(1, X.shape[1] + 1))
    pandas = hasattr(exog, "columns") or hasattr(endog, "index")
    return _with(built, y, X, names, pandas=pandas)


def with_data(built: BuiltDesign, data: Any) -> BuiltDesign:
    """The model with y and X of another table with the same rows; factors keep their coding.

    Raises
    ------
    DataError
        When the number of rows is another one.
    """
    frame = as_frame(data)
    if built.spec.formula is None or built.spec.env is None:
        raise DataError("the model was built from arrays; copy it with endog and exog")
    check_length(len(frame), built.design.n, "data", "the model it is a copy of")
    frame = aligned(frame, built.row_labels, "data", "the model it is a copy of")
    X = built.spec.evaluate(frame, random=False, offset=built.design.offset).X
    code = parse_formula(built.spec.formula).response
    rows = Rows(len(frame), frame.index)
    names = [name for name in names_in(code) if name in frame.columns]
    space = Namespace(frame, built.spec.env, rows, take_columns(frame, names, [code]))
    return _with(built, space.vector(code), X, built.layout.x_names, frame=frame)


def _with(
    built: BuiltDesign, y: FloatArray, X: FloatArray, names: tuple[str, ...], **other: Any
) -> BuiltDesign:
    design = replace(built.design, y=y, X=X, x_names=names)
    check_design(design, Rows(design.n, built.row_labels))
    return replace(built, layout=design, **other)
