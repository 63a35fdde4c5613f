"""How many random examples a property is tried on."""

from hypothesis import settings

FAST = "fast"
"""Profile of runs without the slow tests."""

settings.register_profile(FAST, max_examples=4, deadline=None)


def examples(number):
    """Settings for so many examples, a few of them where slow tests are left out."""
    return settings(max_examples=min(number, settings.default.max_examples), deadline=None)
