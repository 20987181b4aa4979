"""How likely a text is, told of every token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.scores import FLOOR, log_probabilities, score
from slmops.errors import ModelError

LETTERS = "abcd"
numbers = st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4)
rows = numbers.map(lambda row: np.array(row, np.float32))


def decode(ids):
    return "".join(LETTERS[id_] for id_ in ids)


@given(rows)
def test_the_probabilities_of_all_tokens_add_up_to_one(logits):
    assert np.exp(log_probabilities(logits)).sum() == pytest.approx(1)


@given(rows, st.integers(0, 4))
def test_the_likeliest_come_first_and_the_token_itself_is_told_whatever_its_place(logits, most):
    found = score(decode, [0, 1], 2, logits, most)
    told = dict(found.top)

    assert found.text == "c"
    assert [value for _, value in found.top] == sorted(told.values(), reverse=True)
    assert len(told) == most
    assert told.get("c", found.logprob) == found.logprob


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 12))
def test_among_equals_the_lowest_id_comes_first(likeness, most):
    found = score(lambda ids: "".join(map(chr, ids)), [], 0, np.array(likeness, np.float32), most)
    best = sorted(range(len(likeness)), key=lambda at: (-likeness[at], at))[:most]
    assert [text for text, _ in found.top] == [chr(at) for at in best]


def test_nothing_foretells_the_first_token():
    assert score(decode, [], 3, None, 2) == score(decode, [], 3, None, 0)


def test_a_token_that_cannot_come_has_a_number_that_json_knows():
    assert log_probabilities(np.array([0, -np.inf], np.float32))[1] == FLOOR


@pytest.mark.parametrize("broken", [[np.nan, 0], [np.inf, 0], [-np.inf, -np.inf]])
def test_logits_that_are_no_numbers_are_an_error_and_no_score(broken):
    with pytest.raises(ModelError, match="not numbers"):
        log_probabilities(np.array(broken, np.float32))


def scored(client, **said):
    answer = client.post("/v1/completions", json={"prompt": "ab c", **said})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0], answer.json()["usage"]


def test_an_echoed_prompt_is_scored_as_the_model_would_have_written_it(random_model, run_daemon):
    with run_daemon(random_model) as running, running.client() as client:
        written, _ = scored(client, logprobs=1, max_tokens=6)
        echoed, usage = scored(client, logprobs=1, max_tokens=6, echo=True)
        silent, nothing = scored(client, logprobs=0, max_tokens=0, echo=True)
        plain, _ = scored(client, max_tokens=0, echo=True)

    columns = echoed["logprobs"]
    sizes = {name: len(column) for name, column in columns.items()}
    assert set(sizes.values()) == {usage["total_tokens"]}
    assert columns["token_logprobs"][0] is columns["top_logprobs"][0] is None
    assert echoed["text"].startswith("ab c")
    # The prompt was read in one go there and token by token here: the last digits differ.
    last = columns["token_logprobs"][-6:]
    assert last == pytest.approx(written["logprobs"]["token_logprobs"], abs=0.02)
    assert columns["tokens"][-6:] == written["logprobs"]["tokens"]
    assert silent["logprobs"]["token_logprobs"] == columns["token_logprobs"][:-6]
    assert (silent["text"], silent["finish_reason"], nothing["completion_tokens"]) == ("ab c", "length", 0)
    assert (plain["text"], plain["logprobs"]) == ("ab c", None)


def test_scores_do_not_depend_on_what_was_asked_before(random_model, run_daemon):
    with run_daemon(random_model) as running, running.client() as client:
        first, _ = scored(client, logprobs=0, max_tokens=0, echo=True)
        answer, _ = scored(client, max_tokens=8)
        again, _ = scored(client, logprobs=0, max_tokens=0, echo=True)
        once_more, _ = scored(client, max_tokens=8)

    assert again == first
    assert once_more == answer


def test_a_chat_tells_the_scores_of_its_answer(speaking):
    asked = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    said = {**asked, "logprobs": True, "top_logprobs": 2}

    choice = speaking.http.post("/v1/chat/completions", json=said).json()["choices"][0]

    content = choice["logprobs"]["content"]
    assert "".join(each["token"] for each in content) == choice["message"]["content"]
    assert all(each["top_logprobs"][0]["token"] == each["token"] for each in content)
    assert all(len(each["top_logprobs"]) == 2 for each in content)
    assert all(bytes(each["bytes"]).decode() == each["token"] for each in content)
