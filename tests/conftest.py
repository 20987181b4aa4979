"""For all tests: no example of a property has a deadline, since other people's work may be on the machine."""

from hypothesis import settings
from hypothesis import strategies as st

settings.register_profile("house", deadline=None)
settings.load_profile("house")

# Hypothesis reads its regex module when first needed; pytest rewrites it then, and doing that inside a
# property trips over CPython 3.11's recursion check of the AST now and then.
st.from_regex("a").validate()
