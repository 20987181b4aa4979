"""For all tests: no example of a property has a deadline, since other people's work may be on the machine."""

import importlib

import pytest
from hypothesis import settings

settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def _hypothesis_has_read_its_modules():
    """Read a module of Hypothesis that it reads late.

    pytest rewrites what is imported, and doing that inside a property trips over CPython 3.11's recursion
    check of the AST now and then.
    """
    importlib.import_module("hypothesis.strategies._internal.regex")
