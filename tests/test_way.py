from hypothesis import given
from hypothesis import strategies as st

from slmops.fleet.inventory import IN_BYTES, Daemon
from slmops.way import differing, kept

FLAGS = st.dictionaries(st.sampled_from(["seats", "slots", "cors"]), st.none() | st.integers(1, 2))
WAYS = st.builds(
    lambda runtime, port, flags, bundle: kept({"runtime": [runtime], "port": port, "daemon": flags}, bundle),
    *(st.sampled_from(["python3", "/opt/py"]), st.integers(1, 2), FLAGS, st.sampled_from([None, "aa"])),
)


def said(way):
    """A way without what nobody said."""
    return {**way, "daemon": {name: value for name, value in way["daemon"].items() if value is not None}}


@given(WAYS, WAYS)
def test_two_ways_differ_in_what_was_said_otherwise_and_in_nothing_else(one, other):
    found = differing(one, other)

    assert (not found) == (said(one) == said(other))
    assert differing(other, one) == {name: (there, here) for name, (here, there) in found.items()}
    assert all(here != there for here, there in found.values())


@given(WAYS)
def test_what_an_agent_of_before_did_not_write_down_was_not_said(way):
    silent = {name: value for name, value in way.items() if name != "daemon"}

    assert differing(silent, way).keys() == {name for name, value in way["daemon"].items() if value}
    assert differing(None, way).keys() >= {"runtime", "port"}


@given(WAYS, WAYS)
def test_what_an_agent_of_later_keeps_besides_is_no_difference(one, other):
    assert differing({**one, "of later": 1}, other) == differing(one, other)
    assert differing(one, {**other, "of later": [2]}) == differing(one, other)


def test_the_sizes_among_a_daemons_flags_are_those_that_a_fleet_file_writes_in_words():
    flags = Daemon.model_construct(**dict.fromkeys(Daemon.model_fields, 1 << 30))
    written = flags.model_dump(mode="json", warnings=False)

    assert {name for name, value in written.items() if value == "1GiB"} == set(IN_BYTES)
