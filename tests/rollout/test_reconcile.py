from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from slmops.fleet.inventory import Device
from slmops.rollout.assignment import Event, State, step
from slmops.rollout.check import Finding
from slmops.rollout.reconcile import reconcile

FINDINGS = st.builds(
    Finding,
    st.just(Device(name="d", host="d")),
    current=st.booleans(),
    changed=st.sampled_from([(), ("seats 4 -> 8",)]),
    quarantined=st.sampled_from(["", "it failed here too often"]),
    went_back_at=st.sampled_from([None, 1.0, 3.0]),
    brought_by=st.sampled_from([None, "this", "another"]),
)


@given(state=st.sampled_from(State), finding=FINDINGS, looked=st.booleans(), ends=st.booleans())
def test_what_is_reconciled_can_happen_and_tries_nobody_who_has_the_release(state, finding, looked, ends):
    events = reconcile(state, 2.0, finding, rollout="this", looked=looked, ends=ends)
    after = state
    for event in events:
        after = step(after, event)

    if finding.brought_by == "this":
        assert Event.FALL_BACK not in events
    else:
        assert Event.FOUND_COMMITTED not in events
    if finding.has_it:
        assert after is not State.WAITING or ends
    if ends:
        assert after is not State.WAITING or state is State.WAITING


def test_a_fleet_file_that_was_changed_meanwhile_makes_nobody_ill_who_has_the_release():
    changed = Finding(Device(name="d", host="d"), current=True, changed=("seats 4 -> 8",))

    assert reconciled(State.COMMITTED, changed) == []
    assert reconciled(State.LOST, changed) == [Event.RESUME]


def test_what_this_rollout_brought_is_told_by_the_device_and_not_by_the_fleet_file():
    edited = Finding(Device(name="d", host="d"), current=True, changed=("seats 5 -> 6",), brought_by="this")
    put_back = Finding(Device(name="d", host="d"), current=True, brought_by="another")

    for state in (State.TRIAL, State.PROVED, State.LOST):
        assert reconciled(state, edited) == reconciled(state, edited, ends=True) == [Event.FOUND_COMMITTED]
        assert reconciled(state, replace(edited, current=False), ends=True) == [Event.FOUND_COMMITTED]
        assert reconciled(state, replace(edited, current=False)) == [Event.RESUME]
        for ends in (True, False):
            assert reconciled(state, put_back, ends=ends) == [Event.RESUME, Event.FOUND_CURRENT]
            assert reconciled(state, replace(put_back, went_back_at=3.0), ends=ends) == [Event.FALL_BACK]


def reconciled(state, finding, *, ends=False):
    return reconcile(state, 2.0, finding, rollout="this", looked=False, ends=ends)
