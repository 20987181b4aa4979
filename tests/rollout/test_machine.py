from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.rollout.assignment import ImpossibleEventError
from slmops.rollout.machine import (
    DRIVEN,
    ENDS,
    EXIT_CODES,
    STOPS,
    TRANSITIONS,
    Event,
    Rollout,
    State,
    is_last,
    step,
)

IMPOSSIBLE = [pair for pair in product(State, Event) if pair not in TRANSITIONS]
WAVE = (Event.PASSED, Event.SOAKED)


def walk(*events, waves=2, **more):
    rollout = Rollout(waves, **more)
    for event in events:
        rollout = step(rollout, event)
    return rollout


def heard(events, rollout):
    """Yield each move that the events make; what is impossible is passed over."""
    for event in events:
        try:
            after = step(rollout, event)
        except ImpossibleEventError:
            continue
        yield rollout, event, after
        rollout = after


def reachable(**more):
    """Return every state that some events lead to, for fleets of none to two waves."""
    seen = {Rollout(waves, **more) for waves in range(3)}
    ahead = list(seen)
    while ahead:
        rollout = ahead.pop()
        fresh = {after for event in Event for _, _, after in heard([event], rollout)} - seen
        seen |= fresh
        ahead += fresh
    return {rollout.state for rollout in seen}


def test_every_wave_that_passes_and_soaks_succeeds():
    assert walk(Event.STARTED, Event.CLEARED, *WAVE * 3, waves=3).state is State.SUCCEEDED


def test_a_rollout_that_left_devices_out_is_partial():
    assert walk(Event.STARTED, Event.CLEARED, *WAVE, waves=1, left_out=True).state is State.PARTIAL


@pytest.mark.parametrize(("left_out", "end"), [(False, State.SUCCEEDED), (True, State.PARTIAL)])
def test_nothing_to_do_is_an_end_at_once(left_out, end):
    assert walk(Event.STARTED, Event.CLEARED, waves=0, left_out=left_out).state is end


def test_the_wave_counts_those_that_soaked():
    assert walk(Event.STARTED, Event.CLEARED, *WAVE, waves=3) == Rollout(3, 1, State.ROLLING)


@pytest.mark.parametrize("state", [State.ROLLING, State.SOAKING])
def test_a_sick_wave_always_leads_to_its_return(state):
    sick = step(Rollout(2, state=state), Event.SICKENED)

    assert sick.state is State.RETURNING
    assert step(sick, Event.WENT_HOME).state is State.RETURNED
    assert step(sick, Event.JAMMED).state is State.STUCK


@pytest.mark.parametrize("state", [State.ROLLING, State.SOAKING])
def test_what_is_not_known_pauses(state):
    assert step(Rollout(2, state=state), Event.UNKNOWN).state is State.PAUSED


@pytest.mark.parametrize(("state", "event"), IMPOSSIBLE, ids=str)
def test_what_the_table_omits_is_impossible(state, event):
    with pytest.raises(ImpossibleEventError, match=f"{state.value} cannot be {event.value}"):
        step(Rollout(1, state=state), event)


@given(st.lists(st.sampled_from(Event), max_size=40), st.integers(0, 5), st.booleans())
def test_an_ended_rollout_never_moves_again(events, waves, left_out):
    for before, _, _ in heard(events, Rollout(waves, left_out=left_out)):
        assert before.state not in ENDS


@given(st.lists(st.sampled_from(Event), max_size=60), st.integers(0, 5), st.booleans())
def test_no_wave_is_skipped_and_none_is_rolled_that_is_not_there(events, waves, left_out):
    for before, event, after in heard(events, Rollout(waves, left_out=left_out)):
        assert after.wave - before.wave == (event in (Event.SOAKED, Event.PROMOTED))
        assert after.state is not State.ROLLING or after.wave < waves
        assert after.state not in {State.SUCCEEDED, State.PARTIAL} or after.wave == waves


@given(st.lists(st.sampled_from(Event), max_size=40), st.integers(0, 5), st.booleans())
def test_a_rollout_that_left_devices_out_never_counts_as_a_success(events, waves, left_out):
    ends = {after.state for _, _, after in heard(events, Rollout(waves, left_out=left_out))}

    assert (State.SUCCEEDED if left_out else State.PARTIAL) not in ends


def test_a_state_is_an_end_or_a_stop_or_one_that_a_driver_is_in():
    leads_on = {state for state, _ in TRANSITIONS}

    assert set(State) - leads_on == ENDS
    assert set(State) == ENDS | STOPS | DRIVEN
    assert len(State) == len(ENDS) + len(STOPS) + len(DRIVEN)
    assert set(EXIT_CODES) == ENDS | STOPS


def test_only_what_went_well_exits_with_0():
    well = [state for state, code in EXIT_CODES.items() if code == 0]

    assert well == [State.SUCCEEDED, State.STAGED, State.HOLDING]


def test_every_state_is_reachable():
    of_staging = reachable(left_out=False, stages_only=True)

    assert reachable(left_out=False) | reachable(left_out=True) | of_staging == set(State)
    assert set(State) - reachable(left_out=False) == {State.PARTIAL, State.STAGED}
    assert of_staging & {State.SUCCEEDED, State.STAGED} == {State.STAGED}


@pytest.mark.parametrize("state", sorted(STOPS | DRIVEN, key=lambda state: state.value))
def test_whatever_was_left_can_be_taken_up(state):
    event = Event.PROMOTED if state is State.HOLDING else Event.RESUMED

    taken_up = step(Rollout(2, state=state), event)

    assert taken_up.state is (State.RETURNING if state is State.RETURNING else State.ROLLING)


@pytest.mark.parametrize("state", sorted(STOPS, key=lambda state: state.value))
def test_whatever_has_stopped_can_be_abandoned_or_brought_back_or_overtaken(state):
    assert step(Rollout(2, state=state), Event.ABANDONED).state is State.ABORTED
    assert step(Rollout(2, state=state), Event.SICKENED).state is State.RETURNING
    assert step(Rollout(2, state=state), Event.OVERTAKEN).state is State.SUPERSEDED


def test_a_wave_that_is_promoted_is_the_next_one_and_the_last_has_none_after_it():
    held = walk(Event.STARTED, Event.CLEARED, Event.PASSED, Event.HELD, waves=2)

    assert held.state is State.HOLDING
    assert not is_last(held)
    assert is_last(step(held, Event.PROMOTED))


def test_every_state_that_is_no_end_leads_to_one():
    leads = set(ENDS)
    while more := {before for (before, _), after in TRANSITIONS.items() if after in leads} - leads:
        leads |= more

    assert leads == set(State)
