"""Benchmarks: ratios between programs on the same data in one run. See ``__main__``."""
