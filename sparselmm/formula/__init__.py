"""The three spellings of a mixed model, from text and tables to one design.

Only this folder names patsy. Start reading at :mod:`sparselmm.formula.build` (formulas) and
:mod:`sparselmm.formula.arrays` (arrays); both end in a `Design` of `RandomTerm` s and a
`DesignSpec` that evaluates the same model on new data.
"""

from sparselmm.formula.arrays import from_arrays
from sparselmm.formula.build import from_formula
from sparselmm.formula.matrices import VCSpec
from sparselmm.formula.namespace import capture_env
from sparselmm.formula.spec import BuiltDesign, DesignSpec, NewDesign

__all__ = [
    "BuiltDesign",
    "DesignSpec",
    "NewDesign",
    "VCSpec",
    "capture_env",
    "from_arrays",
    "from_formula",
]
