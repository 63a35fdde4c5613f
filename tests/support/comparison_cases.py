"""Reference values of ``data/reference/extra/comparison.json`` and the fits they belong to."""

import json
import warnings
from functools import cache

import numpy as np
import reference_fits
from reference_fits import reference_fit

import sparselmm

EXTRA = json.loads(
    reference_fits._FOLDER.joinpath("extra", "comparison.json").read_text(encoding="utf-8")
)


@cache
def fitted(name, reml=None):
    """A reference model fitted by sparselmm; ``reml`` overrides the record's criterion."""
    ref = reference_fit(name)
    weights = None
    if ref.weights_formula is not None:
        weights = np.asarray(reference_fits._evaluate(ref.weights_formula, ref.rows), dtype=float)
    formula = ref.formula.replace("^", "**")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sparselmm.ModelWarning)
        model = sparselmm.mixedlm(formula, ref.rows, weights=weights)
        return model.fit(reml=ref.reml if reml is None else reml)
