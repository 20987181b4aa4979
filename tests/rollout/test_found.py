import pytest

from slmops.rollout.found import amount, gate_table, wanting


def judged(what, value, bound, against, outcome):
    return {"what": what, "value": value, "bound": bound, "against": against, "outcome": outcome}


@pytest.mark.parametrize(
    ("what", "value", "text"),
    [
        ("tokens_per_second", 12334.9, "12,335"),
        ("tokens_per_second", 53.24, "53.2"),
        ("time_to_first_token", 0.00318, "3.18 ms"),
        ("time_to_first_token", 1.25, "1.25 s"),
        ("memory", 74_760_000, "74.76 MB"),
        ("error_rate", 0.01, "1.0%"),
        ("logprob", 0.05, "0.05 nats"),
        ("logprob", 3.1e-05, "< 0.0001 nats"),
        ("memory", None, "—"),
        ("memory", float("nan"), "—"),
    ],
)
def test_a_number_is_written_as_people_read_it(what, value, text):
    assert amount(what, value) == text


def test_what_is_judged_twice_has_two_names():
    rows = [
        judged("tokens_per_second", 9.0, 4.0, "promise", "pass"),
        judged("tokens_per_second", 9.0, 5.0, "version before", "pass"),
    ]

    table = gate_table([{"device": "edge", "wave": 1, "measured": {"judged": rows}}])

    assert table.heads == (("tok/s (promise)", "≥ 4"), ("tok/s (before)", "≥ 5"))


def test_of_a_device_that_is_not_well_it_is_said_what_it_was_found_wanting_in():
    rows = [
        judged("memory", 9.0, 4.0, "promise", "fail"),
        judged("tokens_per_second", 9.0, 5.0, "promise", "pass"),
    ]
    device = {"sort": "bad", "message": "12 of 16 golden prompts failed", "measured": {"judged": rows[1:]}}

    assert wanting(device) == "12 of 16 golden prompts failed"
    assert wanting({**device, "measured": {"judged": rows}}) == "memory (promise): fail"
    assert wanting({**device, "sort": "good"}) == ""
