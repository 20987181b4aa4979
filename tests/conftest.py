"""For all tests: no example of a property has a deadline, since other people's work may be on the machine."""

# Hypothesis reads this module when it first needs it; pytest rewrites it then, and doing that inside a
# property trips over CPython 3.11's recursion check of the AST now and then. So it is read here.
import hypothesis.strategies._internal.regex  # noqa: F401
from hypothesis import settings

settings.register_profile("house", deadline=None)
settings.load_profile("house")
