"""What a device remembers and what it refuses because of that, over any history."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.artifact.assignment import Assignment
from slmops.artifact.manifest import Release
from slmops.artifact.trust import ROLLOUT, Role, Trust
from slmops.device import seen as memory
from slmops.device.seen import STEP, Seen
from slmops.errors import IntegrityError

NONCE = "a" * 32
MOMENTS = st.integers(2020, 2040).map("{}-01-01T00:00:00Z".format)
RELEASES = st.builds(
    Release,
    st.sampled_from(["demo", "other"]),
    st.sampled_from(["1.0.0", "99-dev", "0"]),
    st.just(""),
    st.just(()),
    st.integers(0, 3 * STEP) | st.integers(0, 20),
)
ASSIGNMENTS = st.none() | st.builds(
    Assignment, st.just("box"), st.none(), st.just("r"), st.just("s"), st.integers(0, 9), MOMENTS, MOMENTS,
    st.sampled_from([None, NONCE]),
)  # fmt: skip


def admitted(seen, release, told):
    """What is remembered after a release was offered, let in or not; and whether it was."""
    try:
        memory.require_next(seen, release)
        if told is not None:
            memory.require_meant(seen, told, "box", "r", "s")
    except IntegrityError:
        return seen, False
    return memory.admitting(seen, release, told), True


@given(st.lists(st.tuples(RELEASES, ASSIGNMENTS, st.booleans()), max_size=12))
def test_epochs_and_floors_never_fall_and_nobody_comes_in_below_them(history):
    seen, committed = Seen("i", (NONCE,)), []
    for release, told, commits in history:
        after, came_in = admitted(seen, release, told)
        if came_in:
            assert release.counter >= seen.floors.get(release.name, 0)
            assert release.counter <= max(
                [STEP, *(n + STEP for n in (*seen.highest.values(), *seen.floors.values()))]
            )
        if came_in and commits:
            committed = [*committed, release][-2:]
            after = memory.raised(after, committed)
        assert after.epoch >= seen.epoch
        assert after.newest >= seen.newest
        assert all(after.floors[name] >= floor for name, floor in seen.floors.items())
        seen = after
    for kept in committed:
        memory.require_next(seen, kept)


@given(st.lists(RELEASES, min_size=1, max_size=2))
def test_what_a_device_may_return_to_is_never_below_its_floor(kept):
    after = memory.raised(Seen("i"), kept)

    assert all(release.counter >= after.floors[release.name] for release in kept)


@given(MOMENTS, MOMENTS, MOMENTS)
def test_a_clock_that_runs_behind_what_was_signed_is_not_believed(newest, issued, clock):
    seen = Seen("i", newest=newest)
    unattended = Assignment("box", None, "r", "s", 1, issued, issued, None)

    assert memory.moment(seen, None, clock) >= newest
    assert memory.moment(seen, unattended, clock) == max(newest, issued, clock)


@given(MOMENTS, MOMENTS, MOMENTS)
def test_an_assignment_that_is_fresh_tells_the_time_whatever_the_clock_says(newest, issued, clock):
    fresh = Assignment("box", None, "r", "s", 1, issued, issued, NONCE)

    assert memory.moment(Seen("i", newest=newest), fresh, clock) == max(newest, issued)


def test_a_trust_document_sets_time_and_floors_anew():
    poisoned = Seen(
        "i", newest="9999-01-01T00:00:00Z", floors={"demo": 9, "other": 3}, highest={"demo": 9 + STEP}
    )
    trust = Trust(2, "2026-01-01T00:00:00Z", None, {}, {}, (), {"demo": 4})

    after = memory.believing(poisoned, None, trust)

    assert after.newest == trust.created
    assert (after.floors, after.highest) == ({"demo": 4, "other": 3}, {"demo": 4})


@pytest.mark.parametrize(
    ("kept", "epoch"), [(["SHA256:x"], 9), (["SHA256:x", "SHA256:z"], 9), (["SHA256:z"], 0)]
)
def test_epochs_begin_anew_when_a_rollout_key_is_taken_away_and_only_then(kept, epoch):
    def trusting(version, *keys):
        role = Role(keys, 1)
        return Trust(version, "2026-01-01T00:00:00Z", None, dict.fromkeys(keys, "k"), {ROLLOUT: role})

    after = memory.believing(Seen("i", epoch=9), trusting(1, "SHA256:x"), trusting(2, *kept))

    assert after.epoch == epoch


def test_nonces_are_forgotten_one_after_another():
    seen = Seen("i")
    for number in range(memory.NONCES + 1):
        seen = memory.challenged(seen, str(number))

    assert seen.nonces == tuple(str(number) for number in range(memory.NONCES, 0, -1))


@pytest.mark.parametrize("version", ["99-dev", "1.0.0", "v999.0.0", "latest"])
def test_no_name_of_a_version_leads_around_the_counter(version):
    """S4: a version string that looks special ("99-dev") skips no check."""
    with pytest.raises(IntegrityError, match="its counter is 2, the floor is 5"):
        memory.require_next(Seen("i", floors={"demo": 5}), Release("demo", version, "", (), 2))
