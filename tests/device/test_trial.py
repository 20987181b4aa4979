from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from slmops.device.trial import (
    COMMITTED,
    ROTTEN,
    Standing,
    Trial,
    expired,
    fold,
    going_back,
    may_be_brought_by,
    step,
)

SLOTS = ["a", "b", "c"]
TIMES = st.floats(0, 1e6)
SETTINGS = st.sampled_from([None, {"port": 1}, {"port": 2}])


def activated(slot, at=0.0, boot="first", deadline=100.0, *, settings=None, earlier=None):
    said = {"slot": slot, "at": at, "boot": boot, "deadline": deadline, "settings": settings}
    return {"kind": "activated", **said, "earlier": earlier}


def confirmed(slot, at=0.0):
    return {"kind": "confirmed", "slot": slot, "at": at}


def proved(slot, at=0.0, boot="first", deadline=200.0):
    return {"kind": "proved", "slot": slot, "at": at, "boot": boot, "deadline": deadline}


def rolled_back(slot, at=0.0, code="WHY"):
    return {
        "kind": "rolled_back",
        "slot": slot,
        "at": at,
        "code": code,
        "message": "because",
        "evidence": {},
    }


def record_of(slots):
    slot, boot = st.sampled_from(slots), st.sampled_from(["first", "second"])
    return st.one_of(
        st.builds(activated, slot, TIMES, boot, TIMES, settings=SETTINGS, earlier=SETTINGS),
        st.builds(proved, slot, TIMES, boot, TIMES),
        st.builds(confirmed, slot, TIMES),
        st.builds(rolled_back, slot, TIMES),
    )


records = st.lists(record_of(SLOTS), max_size=25)


def timeless(standing):
    """The standing without when it came about and why the one before it failed."""
    return replace(standing, since=0.0, failure=None)


def unmoved(standing):
    """The standing without when, why and by whom it came about."""
    return replace(timeless(standing), moved=None)


def test_a_new_device_stands_nowhere():
    assert fold([]) == Standing()


def test_an_activated_slot_serves_on_trial_and_keeps_the_way_back():
    standing = fold(
        [activated("a"), proved("a"), confirmed("a"), activated("b", at=7.0, boot="x", deadline=9.0)]
    )

    assert (standing.slot, standing.previous, standing.since) == ("b", "a", 7.0)
    assert standing.trial == Trial(boot="x", deadline=9.0)


def test_a_proof_sets_the_deadline_of_the_confirmation():
    assert fold([activated("a"), proved("a", deadline=300.0)]).trial == Trial(
        "first", 300.0, proved=True, watched=True
    )


def test_a_proof_of_another_slot_or_after_the_trial_changes_nothing():
    on_trial, committed = fold([activated("a")]), fold([activated("a"), proved("a"), confirmed("a")])

    assert step(on_trial, proved("b")) == on_trial
    assert step(committed, proved("a")) == committed


def test_a_rollback_says_why():
    failure = fold([activated("a"), rolled_back("a", at=3.0)]).failure

    why = {"slot": "a", "code": "WHY", "message": "because", "evidence": {}, "at": 3.0}
    assert failure == {**why, "rollout": None}


def test_a_confirmation_forgets_the_failure_before_it():
    assert (
        fold([activated("a"), rolled_back("a"), activated("a"), proved("a"), confirmed("a")]).failure is None
    )


def test_a_second_activation_within_a_trial_goes_back_to_what_was_committed():
    standing = fold(
        [activated("a"), proved("a"), confirmed("a"), activated("b"), activated("c"), rolled_back("c")]
    )

    assert (standing.slot, standing.trial) == ("a", None)


def test_a_committed_slot_goes_back_to_the_one_before_and_no_further():
    both = [activated("a"), proved("a"), confirmed("a"), activated("b"), proved("b"), confirmed("b")]

    assert unmoved(fold([*both, rolled_back("b")])) == Standing(slot="a")
    assert unmoved(fold([*both, rolled_back("b"), rolled_back("a")])) == Standing()


def test_a_slot_that_was_changed_goes_back_to_how_it_was_run_and_then_to_the_one_before():
    def brought(slot, port, earlier=None):
        began = activated(slot, settings={"port": port}, earlier=earlier)
        return [began, proved(slot), confirmed(slot)]

    changed = [*brought("a", 1), *brought("b", 2), *brought("b", 3, {"port": 2})]
    once = fold([*changed, rolled_back("b")])
    twice = fold([*changed, rolled_back("b"), rolled_back("b")])

    assert (once.slot, once.settings, once.previous) == ("b", {"port": 2}, "a")
    assert (twice.slot, twice.settings, twice.previous) == ("a", {"port": 1}, None)
    assert fold([*changed, *brought("b", 3)]).earlier == {"port": 2}
    assert fold([*changed, *brought("c", 3)]).earlier is None
    assert fold([*changed, rolled_back("b", code=ROTTEN)]).slot == "a"
    # An agent of before did not write down how it was run, and kept nothing to run it from.
    assert fold([*brought("a", 1), *brought("b", 2), *brought("b", 3), rolled_back("b")]).slot == "a"


def test_a_device_says_which_rollout_brought_it_what_it_serves_and_which_took_it_back():
    def brought(slot, rollout):
        return [{**activated(slot), "rollout": rollout}, proved(slot), confirmed(slot)]

    blue, back = brought("a", "blue"), {**rolled_back("b"), "rollout": "grey"}
    activation, way_back = (
        {"kind": "activated", "rollout": "blue"},
        {"kind": "rolled_back", "rollout": "grey"},
    )

    assert fold([*blue, {"kind": "restarted", "slot": "a", "at": 1.0}]).moved == activation
    assert fold([*blue, {**activated("b"), "rollout": "red"}, rolled_back("b")]).moved == activation
    assert fold([*blue, *brought("b", "red"), back]).moved == way_back
    assert fold(
        [*blue, *brought("b", "red"), back, confirmed("a"), activated("c"), rolled_back("c")]
    ).moved == (way_back)


def test_what_another_rollout_brought_or_took_back_is_known_as_not_this_ones():
    def brought(slot, rollout):
        return [{**activated(slot), "rollout": rollout}, proved(slot), confirmed(slot)]

    mine, back = brought("a", "mine"), {**rolled_back("a"), "rollout": "other"}

    def may_be_mine(*more):
        return may_be_brought_by(fold([*mine, *more]), "mine")

    assert may_be_mine()
    assert may_be_mine(activated("b"), rolled_back("b"))
    assert not may_be_mine(*brought("a", "other"))
    assert not may_be_mine(*brought("a", None))
    assert not may_be_mine(back)
    assert may_be_brought_by(replace(fold(mine), moved=None), "mine")


@given(records)
def test_who_goes_back_again_and_again_comes_to_nothing_in_the_end(history):
    standing = fold(history)

    for _ in range(6):
        standing = going_back(standing)

    assert standing.slot is None


@given(records)
def test_every_prefix_names_a_slot_that_was_activated_or_none(history):
    for end in range(len(history) + 1):
        prefix = history[:end]
        been = {record["slot"] for record in prefix if record["kind"] == "activated"}
        standing = fold(prefix)

        assert standing.slot is None or standing.slot in been
        assert standing.previous is None or standing.previous in been


@given(records)
def test_a_proved_slot_that_is_confirmed_is_on_trial_no_more(history):
    standing = fold(history)

    after = fold([*history, proved(standing.slot), confirmed(standing.slot)])

    assert (after.trial, after.before, after.slot) == (None, None, standing.slot)


@given(records)
def test_a_slot_that_was_not_proved_is_never_confirmed(history):
    on_trial = fold([*history, activated("new")])

    assert step(on_trial, confirmed("new")) == on_trial


@given(records, record_of(["d"]).filter(lambda record: record["kind"] == "activated"), TIMES)
def test_rolling_back_a_trial_restores_exactly_the_standing_before_it(history, began, at):
    before = fold(history)
    back = fold([*history, began, proved("d"), rolled_back("d", at)])
    committed = before if before.trial is None else before.before

    assert timeless(back) == timeless(committed)
    assert back.since == at


@given(records)
def test_what_a_trial_goes_back_to_is_never_itself_on_trial(history):
    standing = fold(history)

    if standing.trial is None:
        assert standing.before is None
    else:
        assert standing.before is not None
        assert standing.before.trial is None


@given(records, st.sampled_from([*SLOTS, "z"]))
def test_nothing_but_an_activation_moves_a_device_to_a_slot_it_does_not_serve(history, slot):
    standing = fold(history)

    if slot != standing.slot:
        assert step(standing, confirmed(slot)) == standing
        assert step(standing, rolled_back(slot)) == standing
        assert step(standing, proved(slot)) == standing


@given(records, st.dictionaries(st.text(), st.integers() | st.text(), max_size=4), st.data())
def test_records_of_an_unknown_kind_change_nothing(history, said, data):
    known = {"activated", "proved", "confirmed", "rolled_back"}
    stranger = {**said, "kind": data.draw(st.text().filter(lambda kind: kind not in known))}
    at = data.draw(st.integers(0, len(history)))

    assert fold([*history[:at], stranger, *history[at:]]) == fold(history)


@given(records)
def test_no_slot_is_its_own_way_back(history):
    standing = fold(history)

    assert standing.slot is None or standing.slot != standing.previous


def test_going_back_to_the_committed_slot_by_activation_keeps_its_way_back():
    committed = [activated("a"), proved("a"), confirmed("a"), activated("b"), proved("b"), confirmed("b")]

    standing = fold([*committed, activated("c"), activated("b"), proved("b"), confirmed("b")])

    assert (standing.slot, standing.previous) == ("b", "a")


@given(st.text(), st.text(), TIMES, TIMES)
def test_a_trial_expires_with_its_time_or_its_boot(began_in, boot, deadline, now):
    standing = Standing(slot="a", trial=Trial(boot=began_in, deadline=deadline))

    assert expired(standing, boot, now) == (began_in != boot or now >= deadline)


@given(TIMES, TIMES)
def test_a_trial_that_has_expired_stays_expired(now, later):
    standing = Standing(slot="a", trial=Trial(boot="first", deadline=1000.0))

    assert expired(standing, "first", now + later) or not expired(standing, "first", now)


@given(st.text(), st.floats())
def test_what_is_committed_never_expires(boot, now):
    assert not expired(Standing(slot="a"), boot, now)


@given(records)
def test_a_standing_that_is_restored_is_what_was_committed(history):
    standing = fold(history)
    committed = standing.before if standing.trial is not None else standing
    said = {key: getattr(committed, key) for key in COMMITTED}

    assert fold([*history, {"kind": "restored", "standing": said}]) == committed


@given(records)
def test_a_fold_may_be_interrupted_anywhere(history):
    half = len(history) // 2

    assert fold(history[half:], fold(history[:half])) == fold(history)


@given(records)
def test_a_way_back_that_is_forgotten_is_no_way_back(history):
    standing = fold(history)

    after = step(standing, {"kind": "forgotten", "slot": standing.previous})

    if standing.trial is None:
        assert (after.slot, after.previous) == (standing.slot, None)
        assert step(after, rolled_back(after.slot, code=ROTTEN)).slot is None
    else:
        assert after == standing


@given(records)
def test_what_a_rollback_leads_to_can_be_asked_without_one(history):
    standing = fold(history)

    back = step(standing, rolled_back(standing.slot, at=5.0))

    assert timeless(going_back(standing)) == timeless(back)
    assert going_back(standing).since == standing.since
