"""The search on probes: a deviance whose traces are estimated, its minimum, and an exact finish."""
