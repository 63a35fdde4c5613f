"""What every test leaves behind is cleared away."""

import sys

import pytest


@pytest.fixture(autouse=True)
def figures_are_closed():
    """Figures drawn by a test are not kept for the next."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
