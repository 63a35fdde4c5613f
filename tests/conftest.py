"""What every test leaves behind is cleared away."""

import sys

import pytest
from examples import FAST


def pytest_configure(config):
    """Where slow tests are left out, properties are tried on few examples."""
    if "not slow" in config.getoption("markexpr", ""):
        from hypothesis import settings

        settings.load_profile(FAST)


@pytest.fixture(autouse=True)
def figures_are_closed():
    """Figures drawn by a test are not kept for the next."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
