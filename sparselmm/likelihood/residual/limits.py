"""Estimates of phi at the edge of what a structure can be, in a sentence."""

from __future__ import annotations

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.likelihood.residual.structure import Structure, Structured

NEAR = 1e-4
"""Distance from one of a correlation, or a share, at which it stands at the limit."""

FAR = 1e3
"""Ranges beyond so many typical distances, or below one over it, are infinite or zero."""

SEVERAL = 2
"""Parameters at limits from which other combinations of limits may be better."""


def at_a_limit(structure: Structure, phi: FloatArray) -> str:
    """What to say; empty when every parameter is inside."""
    if not isinstance(structure, Structured):
        found = [what.replace(" becomes ", " is ") for what, _ in structure.capped(phi, 1.0)]
        if not found:
            return ""
        return (
            f"{structure.rows.text}: {' and '.join(found)}: what the random effects leave of some "
            "combination of the visits has no variance, and its standard errors mean little. Leave "
            "random effects out, or use a structure with fewer parameters"
        )
    if not structure.correlation.n:
        return ""
    correlation = structure.correlation
    natural = np.concatenate([correlation.natural(psi) for psi in structure.psi(phi)])
    names = structure.names[structure.a :]
    typical = structure.rows.typical_distance
    found = []
    for name, value in zip(names, natural, strict=True):
        if name.startswith("range"):
            if value > FAR * typical or value < typical / FAR:
                found.append(f"{name} = {value:.3g}")
        elif name.startswith("phi"):
            near = value**typical
            if near < NEAR or near > 1.0 - NEAR:
                found.append(f"{name} = {value:.3g}")
        elif name.startswith("nugget"):
            if value < NEAR or value > 1.0 - NEAR:
                found.append(f"{name} = {value:.3g}")
        elif abs(value) ** correlation.step > 1.0 - NEAR or (
            correlation.kind == "cs" and value < correlation.lowest + NEAR
        ):
            found.append(f"{name} = {value:.3g}")
    if correlation.kind == "toep" and not found:
        found = [what.replace(" goes to ", " = ") for what, _ in structure.capped(phi, 1.0)]
    if not found:
        return ""
    if len(found) >= SEVERAL:
        return (
            f"{structure.rows.text}: {', '.join(found)} stand at limits of the structure, more "
            "than the data can tell: they have no standard errors, and with other combinations of "
            "limits the likelihood may be higher. Use a structure with fewer parameters; "
            "fit(starts=50) looks further"
        )
    return (
        f"{structure.rows.text}: {', '.join(found)} stands at the limit of the structure; the "
        "likelihood is flat there and the parameter has no standard error. The structure without "
        "it, or one with fewer parameters, fits as well"
    )
