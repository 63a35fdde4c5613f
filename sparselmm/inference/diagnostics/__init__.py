"""How well a fit describes its rows: leverage, residuals, influence, checks."""
