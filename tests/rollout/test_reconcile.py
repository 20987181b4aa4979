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
)


@given(state=st.sampled_from(State), finding=FINDINGS, looked=st.booleans(), ends=st.booleans())
def test_what_is_reconciled_can_happen_and_tries_nobody_who_has_the_release(state, finding, looked, ends):
    events = reconcile(state, 2.0, finding, looked=looked, ends=ends)
    after = state
    for event in events:
        after = step(after, event)

    if finding.has_it:
        assert Event.FALL_BACK not in events
        assert after is not State.WAITING or ends
    if ends:
        assert after is not State.WAITING or state is State.WAITING


def test_a_fleet_file_that_was_changed_meanwhile_makes_nobody_ill_who_has_the_release():
    changed = Finding(Device(name="d", host="d"), current=True, changed=("seats 4 -> 8",))

    assert reconcile(State.COMMITTED, 2.0, changed, looked=False, ends=False) == []
    assert reconcile(State.LOST, 2.0, changed, looked=False, ends=False) == [Event.RESUME]
