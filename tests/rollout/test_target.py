"""Which release a device that was away is to come to: the newest allowed, and never one that was left."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.rollout import assignment
from slmops.rollout.machine import DRIVEN, STOPS
from slmops.rollout.machine import State as R
from slmops.rollout.target import ENDED_BADLY, ENDED_WELL, HAS_IT, TAKEN_BACK, Past, Target, targets

S = assignment.State
NAMES = ["edge-1", "edge-2", "edge-3"]
STATES = st.sampled_from(sorted(S, key=lambda each: each.value))
LINES = st.dictionaries(st.sampled_from(NAMES), STATES)
RELEASES = st.sampled_from(["a:1", "a:2", "a:3"])
PASTS = st.builds(
    Past,
    number=st.just(0),
    release=RELEASES,
    state=st.sampled_from(sorted(R, key=lambda each: each.value)),
    devices=LINES,
    left=st.none() | st.frozensets(RELEASES, max_size=2),
    stages_only=st.booleans(),
)
HISTORIES = st.lists(PASTS, max_size=7).map(
    lambda pasts: [replace(past, number=len(pasts) - at) for at, past in enumerate(pasts)]
)


def past(number, release, state, device, left=None, **said):
    return Past(number, release, state, {"edge-1": device}, left, **said)


def target(*pasts):
    return targets(["edge-1"], pasts)["edge-1"]


AWAY = S.SKIPPED


def test_a_device_that_was_away_for_three_releases_goes_straight_to_the_newest():
    found = target(*(past(number, f"a:{number}", R.PARTIAL, AWAY) for number in (4, 3, 2)),
                   past(1, "a:1", R.SUCCEEDED, S.COMMITTED))  # fmt: skip

    assert (found.release, found.number) == ("a:4", 4)


@pytest.mark.parametrize("state", sorted(ENDED_BADLY | {R.REFUSED, R.UNREACHABLE, R.SUPERSEDED, R.STAGED},
                                         key=lambda each: each.value))  # fmt: skip
def test_a_rollout_that_did_not_end_well_is_passed_over(state):
    assert target(past(2, "a:2", state, AWAY), past(1, "a:1", R.SUCCEEDED, AWAY)).release == "a:1"


@pytest.mark.parametrize("state", sorted(DRIVEN | STOPS, key=lambda each: each.value))
def test_a_rollout_that_is_not_over_is_waited_for(state):
    found = target(past(2, "a:2", state, AWAY), past(1, "a:1", R.SUCCEEDED, AWAY))

    assert (found.release, found.number) == (None, 2)


def test_who_was_taken_back_stays():
    found = target(
        past(3, "back from a:2", R.RETURNED, S.RETURNED, frozenset({"a:2"})),
        past(2, "a:2", R.SUCCEEDED, S.COMMITTED),
        past(1, "a:1", R.SUCCEEDED, S.COMMITTED),
    )

    assert found.release is None


def test_who_was_away_in_the_rollout_and_in_the_way_back_comes_to_what_the_others_have():
    found = target(past(3, "back from a:2", R.RETURNED, S.LOST, frozenset({"a:2"})),
                   past(2, "a:2", R.PARTIAL, AWAY), past(1, "a:1", R.SUCCEEDED, AWAY))  # fmt: skip

    assert (found.release, found.number) == ("a:1", 1)


def test_who_has_what_its_fleet_was_taken_back_from_comes_to_the_newest_that_is_left():
    found = target(
        past(3, "back from a:2", R.PARTIAL, S.LOST, frozenset({"a:2"})),
        past(2, "a:2", R.SUCCEEDED, S.COMMITTED),
        past(1, "a:1", R.SUCCEEDED, S.COMMITTED),
    )

    assert (found.release, "taken back" in found.why) == ("a:1", True)


def test_a_release_that_is_brought_again_after_the_way_back_is_a_target_again():
    found = target(past(4, "a:2", R.PARTIAL, AWAY),
                   past(3, "back from a:2", R.RETURNED, S.LOST, frozenset({"a:2"})),
                   past(2, "a:2", R.SUCCEEDED, S.COMMITTED))  # fmt: skip

    assert (found.release, found.number) == ("a:2", 4)


def test_a_release_that_went_back_later_is_no_target_by_an_older_rollout():
    assert target(past(2, "a:1", R.RETURNED, AWAY), past(1, "a:1", R.PARTIAL, AWAY)).release is None


def test_a_device_that_a_release_has_failed_on_is_left_to_its_operator():
    found = target(past(2, "a:2", R.PARTIAL, S.WENT_BACK), past(1, "a:1", R.SUCCEEDED, AWAY))

    assert (found.release, "a:2 went back on it" in found.why) == (None, True)


def test_a_device_in_the_canary_of_a_bad_release_comes_to_the_good_one_that_it_missed():
    assert target(past(2, "a:2", R.RETURNED, S.WENT_BACK), past(1, "a:1", R.PARTIAL, AWAY)).release == "a:1"


def test_a_release_that_was_only_staged_is_proved_nowhere():
    staged = past(2, "a:2", R.PARTIAL, AWAY, stages_only=True)

    assert target(staged, past(1, "a:1", R.PARTIAL, AWAY)).release == "a:1"
    assert target(staged).release is None


def test_who_had_the_release_when_it_was_staged_stays():
    staged = past(2, "a:2", R.PARTIAL, S.ALREADY, stages_only=True)

    assert target(staged, past(1, "a:1", R.PARTIAL, AWAY)).release is None


def test_a_device_that_no_rollout_was_ever_over_has_no_target():
    assert target() == Target(None, None, "no rollout over it has ended well")


@given(HISTORIES)
def test_a_target_is_a_release_that_ended_well_over_the_device_and_was_not_left_since(history):
    for name, found in targets(NAMES, history).items():
        if found.release is None:
            continue
        (whence,) = [each for each in history if each.number == found.number]
        newer = [each for each in history if each.number > found.number and name in each.devices]
        assert whence.release == found.release
        assert whence.left is None
        assert not whence.stages_only
        assert whence.state in ENDED_WELL
        assert name in whence.devices
        for each in newer:
            if each.left is not None:
                assert found.release not in each.left
                assert each.devices[name] not in TAKEN_BACK
            else:
                assert each.state not in DRIVEN | STOPS
                if each.devices[name] not in HAS_IT and not each.stages_only:
                    assert each.state not in ENDED_BADLY or each.release != found.release


@given(HISTORIES)
def test_no_newer_rollout_that_ended_well_is_passed_over_but_for_one_that_was_left(history):
    for name, found in targets(NAMES, history).items():
        newer = [each for each in history if name in each.devices and each.number > (found.number or 0)]
        shunned = {release for each in newer for release in each.left or ()}
        tried = [each for each in newer if each.left is None and not each.stages_only]
        shunned |= {each.release for each in tried if each.state in ENDED_BADLY}
        assert all(each.release in shunned for each in tried if each.state in ENDED_WELL)


@given(HISTORIES, RELEASES)
def test_after_a_rollback_of_all_no_target_is_what_was_left(history, release):
    ends = dict(zip(NAMES, (S.RETURNED, S.LOST, S.FAILED), strict=True))
    back = Past(len(history) + 1, f"back from {release}", R.RETURNED, ends, frozenset({release}))
    found = targets(NAMES, [back, *history])

    assert found["edge-1"].release is None
    assert release not in {each.release for each in found.values()}


@given(HISTORIES, LINES)
def test_a_rollout_over_others_changes_nothing(history, others):
    theirs = {f"other-{name}": state for name, state in others.items()}
    more = [*(Past(99, "a:1", state, theirs, None) for state in R), *history]

    assert targets(NAMES, more) == targets(NAMES, history)


@given(HISTORIES)
def test_no_more_is_read_than_is_needed(history):
    unread = iter([*history, Past(0, "a:1", R.SUCCEEDED, dict.fromkeys(NAMES, S.COMMITTED))])
    found = targets(NAMES, unread)

    if all(each.number for each in found.values()):
        oldest = min(each.number for each in found.values())
        assert [each.number for each in unread] == list(range(oldest - 1, -1, -1))
