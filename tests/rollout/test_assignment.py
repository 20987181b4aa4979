from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.rollout.assignment import (
    BAD,
    ENDS,
    GOOD,
    LEFT_OUT,
    SWITCHED,
    TRANSITIONS,
    UNDER_WAY,
    UNKNOWN,
    VERBS,
    Event,
    ImpossibleEventError,
    State,
    step,
)

IMPOSSIBLE = [pair for pair in product(State, Event) if pair not in TRANSITIONS]
RETURNS = {Event.RETURN, Event.JAM, Event.FALL_BACK}
"""What may still happen to a device that committed."""
AGAIN = {Event.RESUME, Event.FOUND_COMMITTED, Event.FALL_BACK}
"""What a rollout that goes on may find of a device that came to an end without the release."""


def walk(*events):
    state = State.WAITING
    for event in events:
        state = step(state, event)
    return state


def heard(events):
    """Yield each move that the events make; what is impossible is passed over."""
    state = State.WAITING
    for event in events:
        if (state, event) in TRANSITIONS:
            after = step(state, event)
            yield state, event, after
            state = after


def test_a_device_that_passes_and_is_confirmed_is_committed():
    path = (Event.SEND, Event.STAGE, Event.TRY, Event.PASS, Event.CONFIRM)

    assert walk(*path) is State.COMMITTED


def test_a_device_whose_gate_failed_went_back():
    assert walk(Event.SEND, Event.STAGE, Event.TRY, Event.FALL_BACK) is State.WENT_BACK


@pytest.mark.parametrize(("state", "event"), IMPOSSIBLE, ids=str)
def test_what_the_table_omits_is_impossible(state, event):
    with pytest.raises(ImpossibleEventError, match=f"{state.value} cannot {event.value}"):
        step(state, event)


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_an_end_moves_only_back_with_its_wave_or_when_the_rollout_goes_on(events):
    for before, event, _ in heard(events):
        if before is State.COMMITTED:
            assert event in RETURNS
        elif before in ENDS:
            assert before in LEFT_OUT
            assert event in AGAIN


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_no_device_is_committed_that_did_not_pass_or_was_found_so(events):
    passed = False
    for _, event, after in heard(events):
        passed = passed or event in (Event.PASS, Event.FOUND_COMMITTED)
        assert after is not State.COMMITTED or passed


def test_every_state_is_reachable():
    assert {after for _, after in TRANSITIONS.items()} | {State.WAITING} == set(State)


def test_only_ends_lead_nowhere_and_those_left_out_lead_to_another_try():
    leads_on = {state for state, _ in TRANSITIONS}

    assert set(State) - leads_on == ENDS - LEFT_OUT - {State.COMMITTED}


@pytest.mark.parametrize("state", sorted({*UNDER_WAY, State.WAITING}, key=lambda state: state.value))
def test_a_device_under_way_may_be_lost_and_may_refuse_and_may_be_taken_up_again(state):
    assert step(state, Event.LOSE) is State.LOST
    # A proved device that refuses its confirmation has gone back by itself.
    refused = State.WENT_BACK if state is State.PROVED else State.FAILED
    assert step(state, Event.REFUSE) is refused
    assert state is State.WAITING or step(state, Event.RESUME) is State.WAITING


def test_the_agent_is_asked_something_in_every_state_in_which_somebody_works_on_a_device():
    # Staged is between two verbs of one session.
    assert {*VERBS, State.STAGED} == UNDER_WAY | {State.COMMITTED}


def test_every_end_is_good_or_leaves_the_device_without_the_release():
    assert GOOD | LEFT_OUT | {State.RETURNED, State.STUCK} == ENDS
    assert not GOOD & LEFT_OUT
    assert UNKNOWN <= LEFT_OUT
    assert SWITCHED <= ENDS


def test_no_device_is_both_good_and_bad_and_one_that_is_lost_is_neither():
    assert not GOOD & BAD
    assert GOOD | BAD <= ENDS
    assert State.LOST not in GOOD | BAD
