"""Text of formulas and patsy: the only folder that imports it."""
