"""What the gate asks of a slot beyond right answers, over real processes."""

import json

import pytest

from slmops.artifact import golden
from slmops.device import bounds, examine, journal, quarantine, slots
from slmops.fleet.gate import Gate


def rows(verdict, what):
    return [row for row in verdict["evidence"]["measured"]["judged"] if row["what"] == what]


def test_a_slot_whose_texts_are_as_likely_as_on_the_build_host_passes(device, shop):
    verdict = device.activate(shop.release(scores=[-1.0, -2.02], reference=[-1.0, -2.0]))

    assert verdict["outcome"] == "pass"
    assert verdict["message"] == "2 of 2 golden prompts and 1 reference passed"
    (row,) = rows(verdict, bounds.LOGPROB)
    assert (row["outcome"], row["value"]) == ("pass", pytest.approx(0.01))
    assert verdict["evidence"]["answers"] == ["two", "green"]


def test_right_answers_do_not_save_a_slot_whose_texts_are_less_likely_than_they_were(device, shop):
    verdict = device.activate(shop.release(scores=[-1.0, -2.5], reference=[-1.0, -2.0]))

    assert (verdict["outcome"], verdict["code"]) == ("fail", "GATE_QUALITY")
    assert "logprob 0.25, at most 0.05 expected" in verdict["message"]
    assert verdict["standing"]["failure"]["evidence"]["measured"]["logprob"] == 0.25


def test_the_operator_may_allow_more_or_ask_for_none_at_all(device, shop):
    far = shop.release(scores=[-1.0, -2.5], reference=[-1.0, -2.0])

    assert device.activate(far, gate={"tolerance": 0.3})["outcome"] == "pass"
    assert device.activate(far, gate={"references": "off"})["message"] == "2 of 2 golden prompts passed"


def test_a_daemon_of_before_log_probabilities_is_asked_the_rest_and_that_is_said(device, shop):
    old = shop.release(reference=[-1.0])

    verdict = device.activate(old)

    assert verdict["message"] == (
        "2 of 2 golden prompts passed; 1 reference not asked: this daemon scores no texts"
    )
    assert [row["outcome"] for row in rows(verdict, bounds.LOGPROB)] == ["not judged"]
    strict = device.activate(old, gate={"references": "required"})
    assert (strict["outcome"], strict["code"]) == ("inconclusive", "GATE_INCONCLUSIVE")


def test_a_text_of_another_number_of_tokens_fails_and_the_answer_is_json(device, shop):
    verdict = device.activate(shop.release(scores=[-1.0], reference=[-1.0, -2.0]))

    assert verdict["code"] == "GATE_QUALITY"
    json.dumps(verdict, allow_nan=False)


def test_a_slot_that_is_much_slower_than_the_version_before_goes_back_to_it(device, shop):
    good = shop.release()
    device.commit(good)
    slow = shop.release("1.1.0", pause=0.15)

    verdict = device.activate(slow, gate={"most_first_token_of_before": 2.5, "measure_before": True})

    assert (verdict["outcome"], verdict["code"]) == ("fail", "GATE_LATENCY")
    before = verdict["evidence"]["measured"]["before"]["time_to_first_token"]
    assert verdict["evidence"]["measured"]["time_to_first_token"] > 0.15 > before
    assert device.serves() == good.slot


def test_without_a_version_before_nothing_is_held_against_a_slot_and_that_is_said(device, shop):
    verdict = device.activate(shop.release(pause=0.15), gate={"most_first_token_of_before": 2.5})

    assert verdict["outcome"] == "pass"
    (row,) = rows(verdict, bounds.LATENCY)
    assert (row["outcome"], row["why"]) == ("not judged", "there is nothing to hold it against")


def test_a_slot_that_is_watched_and_lives_is_proved(device, shop):
    verdict = device.activate(shop.release(), gate={"watch": 0.2, "most_errors": 0.01})

    assert verdict["outcome"] == "pass"


def test_the_gate_of_the_fleet_file_holds_for_an_ordinary_release(device, shop):
    device.commit(shop.release())

    verdict = device.activate(shop.release("1.1.0"), gate=Gate().said())

    assert verdict["outcome"] == "pass", verdict
    assert {row["outcome"] for row in verdict["evidence"]["measured"]["judged"]} == {"pass", "not judged"}


def test_a_watched_slot_whose_requests_fail_goes_back(device, shop):
    parcel = shop.release(spools=[200, 503, 500])

    verdict = device.activate(parcel, gate={"watch": 0.2, "most_errors": 0.3})

    assert (verdict["outcome"], verdict["code"]) == ("fail", "GATE_ERRORS")
    assert verdict["evidence"]["measured"]["error_rate"] == pytest.approx(1 / 3)


def test_a_slot_that_ends_whenever_it_is_asked_has_failed_and_its_last_words_are_few(device, shop):
    good = shop.release()
    device.commit(good)

    verdict = device.activate(shop.release("1.1.0", dies_at="Colour of grass?"))

    assert (verdict["outcome"], verdict["code"]) == ("fail", "RUN_CRASHLOOP")
    assert "golden prompt 2" in verdict["message"]
    log = verdict["standing"]["failure"]["evidence"]["log"]
    assert any(line.startswith("no more of this") for line in log)
    assert max(map(len, log)) <= 200
    assert quarantine.cases(journal.read(device.places.journal))
    assert device.serves() == good.slot


def test_a_slot_that_ended_once_is_asked_again_when_it_is_back(device, shop):
    verdict = device.activate(shop.release(dies_at="Colour of grass?", dies="once"))

    assert (verdict["outcome"], verdict["message"]) == ("pass", "2 of 2 golden prompts passed")


def test_of_what_failed_no_more_is_kept_than_fits_into_what_is_set_aside(device, shop):
    babble = {"One and one?": "\u00fc" * 100_000, "Colour of grass?": "\u00fc" * 100_000}

    verdict = device.activate(shop.release(answers=babble))

    assert verdict["code"] == "GATE_QUALITY"
    assert max(map(len, device.places.journal.read_bytes().splitlines())) < journal.RESERVE / 8


def test_bounds_that_are_none_are_refused_before_anything_is_switched(device, shop):
    device.commit(shop.release())
    other = device.take(shop.release("1.1.0"))
    times = {"ready_seconds": 30.0, "gate_seconds": 30.0, "confirm_seconds": 60.0}

    answer = device.ask("activate", slot=other, **times, gate={"tolerance": "much"})

    assert "gate: tolerance cannot be" in answer.said["message"]
    assert device.status()["standing"]["trial"] is None


def test_of_a_version_before_that_is_too_slow_to_be_timed_whole_what_there_was_time_for_counts(device, shop):
    slot = shop.release(pause=0.1).slot
    device.commit(shop.release(pause=0.1))
    examiner = examine.of(device.places, slot, slots.description(device.places, slot), 0.15)

    paper = examiner.hurry([golden.Golden("two", prompt="One and one?")] * 3)

    assert 0 < len(paper.firsts) < 3
    assert paper.measured.time_to_first_token >= 0.1


@pytest.mark.parametrize(
    "odd", [[], {"choices": [1]}, {"choices": 5}, {"choices": [{"delta": 1, "text": 2}]}]
)
def test_an_answer_of_another_shape_is_in_doubt_and_is_not_timed(device, shop, odd):
    verdict = device.activate(shop.release(odd=odd), gate={"measure_before": True})

    assert (verdict["outcome"], verdict["code"]) == ("inconclusive", "GATE_INCONCLUSIVE")
    assert "golden prompt 1: the answer is of no known shape" in verdict["message"]
