import pytest

from slmops.errors import DoesNotFitError, HostKeyError, IntegrityError, SlmopsError
from slmops.rollout.machine import EXIT_CODES, Rollout, State
from slmops.rollout.outcome import Outcome


def outcome(state, *refusals):
    return Outcome(Rollout(waves=1, state=state), {}, {}, refusals=list(refusals))


@pytest.mark.parametrize("state", EXIT_CODES, ids=lambda state: state.value)
def test_every_end_has_the_exit_code_of_the_table(state):
    assert outcome(state).exit_code == EXIT_CODES[state]


@pytest.mark.parametrize(
    ("refusals", "code"),
    [
        ([DoesNotFitError("too big")], 1),
        ([SlmopsError("odd"), IntegrityError("rotten")], 7),
        ([HostKeyError("a stranger"), DoesNotFitError("too big")], 6),
    ],
)
def test_a_refused_rollout_exits_as_its_gravest_refusal(refusals, code):
    assert outcome(State.REFUSED, *refusals).exit_code == code


@pytest.mark.parametrize(
    "state", [end for end in EXIT_CODES if end is not State.REFUSED], ids=lambda state: state.value
)
def test_refusals_speak_for_no_other_end(state):
    assert outcome(state, IntegrityError("rotten")).exit_code == EXIT_CODES[state]


def test_a_rollout_that_has_not_ended_has_no_exit_code():
    with pytest.raises(KeyError):
        _ = outcome(State.ROLLING).exit_code
