"""The three spellings of a mixed model, from text and tables to one design.

Only this folder names patsy. Start reading at :mod:`sparselmm.design.build` (formulas) and
:mod:`sparselmm.design.arrays` (arrays); both end in a `Design` of `RandomTerm` s and a
`DesignSpec` that evaluates the same model on new data.
"""

from sparselmm.design.arrays import from_arrays
from sparselmm.design.build import from_formula
from sparselmm.design.built import BuiltDesign
from sparselmm.design.formula.namespace import capture_env
from sparselmm.design.kinds.matrices import VCSpec
from sparselmm.design.spec import DesignSpec, NewDesign

__all__ = [
    "BuiltDesign",
    "DesignSpec",
    "NewDesign",
    "VCSpec",
    "capture_env",
    "from_arrays",
    "from_formula",
]
