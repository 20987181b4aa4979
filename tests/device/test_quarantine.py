"""What failed on a device too often: counted from its journal, and enforced by its agent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.device import journal, quarantine
from slmops.device.quarantine import Case, Terms
from slmops.errors import DeviceError

TERMS = {"after": 2, "seconds": 600.0}
TIMES = {"ready_seconds": 30.0, "gate_seconds": 30.0, "confirm_seconds": 60.0}


def tried(slot="a", terms=TERMS, boot="one"):
    return {"kind": "activated", "slot": slot, "at": 1.0, "boot": boot, "deadline": 9.0, "quarantine": terms}


def proved(slot="a", boot="one"):
    return {"kind": "proved", "slot": slot, "at": 2.0, "boot": boot, "deadline": 9.0}


def went_back(slot="a", code="GATE_QUALITY", at=100.0, boot="one"):
    said = {"code": code, "message": "2 of 2 golden prompts failed", "evidence": {}, "boot": boot}
    return {"kind": "rolled_back", "slot": slot, "at": at, **said}


def confirmed(slot="a"):
    return {"kind": "confirmed", "slot": slot, "at": 3.0}


def failures(*records):
    return {slot: case.failures for slot, case in quarantine.cases(records).items()}


@pytest.mark.parametrize(
    "code", ["GATE_QUALITY", "GATE_SPEED", "RUN_CRASHLOOP", "ACT_TIMEOUT", "A_CODE_OF_TOMORROW"]
)
def test_a_trial_that_failed_is_held_against_its_slot(code):
    case = quarantine.cases([tried(), went_back(code=code)])["a"]

    assert case == Case(1, 100.0, f"2 of 2 golden prompts failed ({code})", Terms(2, 600.0))


@pytest.mark.parametrize("code", quarantine.BLAMELESS)
def test_what_says_nothing_of_the_artifact_is_not_held_against_it(code):
    assert failures(tried(), proved(), went_back(code=code)) == {}


def test_a_release_that_passed_and_was_never_confirmed_may_be_what_cut_the_device_off():
    assert failures(tried(), proved(), went_back(code="CONFIRM_TIMEOUT")) == {"a": 1}


def test_an_agent_that_was_killed_before_there_was_a_verdict_is_not_held_against_the_artifact():
    assert failures(tried(), went_back(code="CONFIRM_TIMEOUT")) == {}


def test_a_boot_under_a_trial_may_be_the_artifacts_doing():
    assert failures(tried(), went_back(code="CONFIRM_TIMEOUT", boot="two")) == {"a": 1}


def test_what_served_and_was_to_be_run_another_way_is_as_good_as_it_was():
    assert failures(tried(), proved(), confirmed(), tried(), went_back()) == {}
    assert failures(tried(), proved(), confirmed(), tried("b"), went_back("b")) == {"b": 1}


def test_a_committed_slot_that_is_left_has_failed_no_trial():
    assert failures(tried(), proved(), confirmed(), went_back()) == {}


def test_a_slot_that_is_confirmed_begins_at_nothing():
    assert failures(tried(), went_back(), tried(), proved(), confirmed()) == {}


def test_failures_are_counted_by_slot_and_forgiven_by_slot_or_altogether():
    bad = [tried("a"), went_back("a"), tried("b"), went_back("b"), tried("a"), went_back("a")]

    assert failures(*bad) == {"a": 2, "b": 1}
    assert failures(*bad, {"kind": "forgiven", "slot": "a"}) == {"b": 1}
    assert failures(*bad, {"kind": "forgiven", "slot": None}) == {}
    assert failures(*bad, {"kind": "of tomorrow", "slot": "a"}) == {"a": 2, "b": 1}


def test_what_a_journal_says_in_a_way_that_cannot_be_read_sets_no_terms():
    assert quarantine.cases([tried(terms={"after": "x"}), went_back()])["a"].terms is None


@given(
    st.integers(0, 6),
    st.floats(0, 1e9),
    st.builds(Terms, st.integers(1, 4), st.floats(0, 1e6)),
    st.floats(0, 1e9),
)
def test_a_quarantine_ends_by_itself_whatever_the_clock_did(failed, last, terms, now):
    end = quarantine.until(Case(failed, last), terms, now)

    assert (end is None) == (failed < terms.after or now >= min(last, now) + terms.seconds)
    assert end is None or now < end <= now + terms.seconds


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"after": 0, "seconds": 1},
        {"after": 1, "seconds": -1},
        {"after": 1, "seconds": "nan"},
        {"after": 1, "seconds": 1e300},
        5,
    ],
)
def test_terms_that_are_none_are_refused(said):
    with pytest.raises(DeviceError, match="quarantine: expected"):
        quarantine.terms(said)


@pytest.fixture
def shunned(device, shop):
    """A device on which one release has failed as often as it may."""
    device.bad = shop.release("1.1.0", answers={})
    device.commit(shop.release())
    device.take(device.bad)
    for _ in range(TERMS["after"]):
        said = device.get("activate", slot=device.bad.slot, **TIMES, quarantine=TERMS)
        assert said["outcome"] == "fail"
    return device


def test_what_failed_too_often_is_neither_taken_in_nor_tried_again_and_the_status_says_why(shunned):
    tried_again = shunned.ask("activate", slot=shunned.bad.slot, **TIMES, quarantine=TERMS)
    prepared = shunned.ask("prepare", **shunned.bad.said(), quarantine=TERMS)

    for answer in (tried_again, prepared):
        assert answer.said["code"] == "SLM-QUARANTINED"
        assert (
            "failed here 2 times, last because 2 of 2 golden prompts failed (GATE_QUALITY)"
            in (answer.said["message"])
        )
    told = shunned.status()["quarantined"]
    assert list(told) == [shunned.bad.slot]
    assert told[shunned.bad.slot]["failures"] == 2
    assert shunned.serves() == shunned.shop.release().slot


def test_what_is_forgiven_is_tried_again(shunned):
    assert shunned.get("forgive", slot=None) == {"forgiven": [shunned.bad.slot]}

    assert shunned.status()["quarantined"] == {}
    assert shunned.get("activate", slot=shunned.bad.slot, **TIMES, quarantine=TERMS)["outcome"] == "fail"
    assert shunned.get("forgive", slot="b" * 64) == {"forgiven": []}


def test_another_artifact_is_not_shunned_and_nobody_is_who_is_told_no_terms(shunned):
    other = shunned.shop.release("1.2.0")

    assert shunned.get("activate", slot=shunned.take(other), **TIMES, quarantine=TERMS)["outcome"] == "pass"
    assert shunned.get("activate", slot=shunned.bad.slot, **TIMES)["outcome"] == "fail"


def test_a_refusal_before_the_switch_is_no_failure(device, shop):
    parcel = shop.release()
    device.take(parcel)
    device.places.update_lock.touch()

    for _ in range(3):
        answer = device.ask("activate", slot=parcel.slot, **TIMES, quarantine={"after": 1, "seconds": 60})
        assert answer.said["code"] == "SLM-DEFERRED"

    assert quarantine.cases(journal.read(device.places.journal)) == {}
