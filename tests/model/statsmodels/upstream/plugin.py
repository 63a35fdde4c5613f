"""Run statsmodels' own tests of MixedLM against sparselmm's classes.

Loaded with ``pytest -p plugin``. After collection the names that the test file imported from
statsmodels are bound to ours, nothing of the file itself is changed.
"""

import pytest
import statsmodels.formula.api as smf

import sparselmm

PRIVATE = ("TestSMWSolver", "TestSMWLogdet")
"""Tests of private functions of statsmodels' implementation, which have no counterpart."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    modules = {item.module for item in items}
    for module in modules:
        module.MixedLM = sparselmm.MixedLM
        module.MixedLMParams = sparselmm.MixedLMParams
    smf.mixedlm = sparselmm.mixedlm
    out = [item for item in items if item.cls is not None and item.cls.__name__ in PRIVATE]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]
