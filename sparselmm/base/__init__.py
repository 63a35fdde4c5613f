"""Arrays, errors, threads and compiled loops: what knows no model."""
