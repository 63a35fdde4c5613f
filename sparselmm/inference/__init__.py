"""Tests, intervals and comparisons, as functions of :class:`sparselmm.estimates.Estimates`."""
