"""Tests, intervals and comparisons, as functions of :class:`sparselmm.inference.estimates.Estimates`."""
