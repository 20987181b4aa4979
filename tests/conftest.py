"""For all tests: no example of a property has a deadline, since other people's work may be on the machine."""

from hypothesis import settings

settings.register_profile("house", deadline=None)
settings.load_profile("house")
