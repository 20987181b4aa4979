"""What the router's own gate comes to; the worker is a fake that answers as it is told."""

import asyncio
import dataclasses
import json

import msgspec
import pytest

from slmops.artifact.description import Description
from slmops.artifact.golden import FILE_NAME
from slmops.daemon.protocol import Done, Piece, Ready
from slmops.daemon.prove import prove
from slmops.daemon.refusal import RefusedError, WorkerLostError
from slmops.daemon.versions import Version

PLAIN = Description(
    name="home",
    version="1.0.0",
    profile="local",
    arch="x86_64",
    format="gguf",
    type="Q8_0",
    model="model.gguf",
    architecture="llama",
    parameters=1,
    context=64,
    threads=1,
    micro_batch=8,
    memory_bytes=1,
    golden=FILE_NAME,
)
READY = Ready(
    slots=1, pool=64, context=64, kinds=("chat",), scores=True, constrains=False, tools=False, seconds=0.0
)


class FakeWorker:
    """Answers by the question: a text, an error to raise, or seconds to sleep before each token."""

    def __init__(self, folder, answers, *, scores=True, **changes):
        self.version = Version("sha256:a", str(folder), dataclasses.replace(PLAIN, **changes))
        self.ready = msgspec.structs.replace(READY, scores=scores)
        self.answers, self.asked = answers, []

    async def ask(self, kind, body, answer, created):  # noqa: ARG002 - the worker's own signature
        said = json.loads(body)
        self.asked.append((kind, said))
        question = said.get("prompt") or said.get("input") or said["messages"][-1]["content"]
        told = self.answers[question]
        if isinstance(told, Exception):
            raise told
        tokens = 1
        if isinstance(told, float):
            tokens = said["max_tokens"]
            yield Piece(id=1, data=b"", tokens=1)
            await asyncio.sleep(told * tokens)
        yield Done(
            id=1,
            data=json.dumps(_shaped(kind, told)).encode(),
            prompt_tokens=1,
            cached_tokens=0,
            output_tokens=tokens,
            finish="stop",
        )


def _shaped(kind, told):
    if kind == "classify":
        return {"data": [{"label": told}]}
    if kind == "chat":
        return {"choices": [{"message": {"content": told}}]}
    if isinstance(told, list):
        return {"choices": [{"text": "", "logprobs": {"token_logprobs": told}}]}
    return {"choices": [{"text": str(told)}]}


def gate(folder, lines, answers, speed=None, seconds=5.0, **changes):
    (folder / FILE_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    worker = FakeWorker(folder, answers, **changes)
    return asyncio.run(prove(worker, seconds, speed)), worker


TEXT = {"prompt": "2 + 2 =", "expect": "4", "match": "prefix"}
TALK = {"messages": [{"role": "user", "content": "hi"}], "expect": "hello"}
SCORED = {"prompt": "abc", "expect": [-1.0, -2.0], "match": "logprob"}


def test_right_answers_and_near_numbers_pass_and_nothing_of_earlier_prompts_is_used(tmp_path):
    answers = {"2 + 2 =": " 4.", "hi": "hello", "abc": [None, -1.01, -2.0]}
    proof, worker = gate(tmp_path, [TEXT, TALK, SCORED], answers)
    assert (proof.outcome, proof.asked, proof.failed) == ("pass", 3, [])
    assert proof.distance == pytest.approx(0.005)
    assert [kind for kind, _ in worker.asked] == ["completion", "chat", "completion"]
    assert all(said["cache_prompt"] is False for _, said in worker.asked)
    assert all(said["temperature"] == 0 for _, said in worker.asked[:2])


def test_a_pattern_without_end_is_in_doubt_and_others_go_on_meanwhile(tmp_path):
    endless = {"prompt": "write", "expect": "(a+)+$", "match": "regex"}
    went_on = []

    async def beside():
        while True:
            await asyncio.sleep(0.05)
            went_on.append(True)

    async def both():
        serving = asyncio.create_task(beside())
        (tmp_path / FILE_NAME).write_text(json.dumps(endless), encoding="utf-8")
        try:
            return await prove(FakeWorker(tmp_path, {"write": "a" * 50 + "!"}), 60.0, None)
        finally:
            serving.cancel()

    proof = asyncio.run(both())
    assert (proof.outcome, len(went_on) > 1) == ("inconclusive", True)
    assert "'(a+)+$' was not searched for within" in proof.message


def test_a_wrong_answer_fails_and_is_shown(tmp_path):
    proof, _ = gate(tmp_path, [TEXT, TALK], {"2 + 2 =": "5", "hi": "hello"})
    assert proof.outcome == "fail"
    assert proof.message == "1 of 2 golden prompts failed"
    assert proof.failed == [{"question": "2 + 2 =", "expected": "4", "answer": "5"}]


@pytest.mark.parametrize("found", [[None, -1.2, -2.0], [None, -1.0], [None, -1.0, None]])
def test_numbers_that_lie_off_or_are_missing_fail(tmp_path, found):
    proof, _ = gate(tmp_path, [SCORED], {"abc": found})
    assert proof.outcome == "fail"
    assert "nats off" in proof.failed[0]["answer"]


def test_a_classifier_is_asked_for_its_label(tmp_path):
    lines = [{"prompt": "buy now", "expect": "spam"}]
    proof, worker = gate(tmp_path, lines, {"buy now": "spam"}, task="classification", labels=["spam", "ham"])
    assert proof.outcome == "pass"
    assert worker.asked == [("classify", {"input": "buy now"})]


def test_references_alone_are_in_doubt_where_no_texts_are_scored(tmp_path):
    proof, _ = gate(tmp_path, [SCORED], {}, scores=False)
    assert proof.outcome == "inconclusive"
    proof, _ = gate(tmp_path, [SCORED, TALK], {"hi": "hello"}, scores=False)
    assert proof.outcome == "pass"
    assert "1 references not asked" in proof.message


def test_a_version_without_golden_prompts_has_only_to_speak(tmp_path):
    proof, worker = gate(tmp_path, [], {}, golden=None)
    assert (proof.outcome, proof.asked) == ("pass", 0)
    assert worker.asked == []


def test_golden_prompts_that_cannot_be_read_are_no_pass(tmp_path):
    assert gate(tmp_path, [], {})[0].outcome == "inconclusive"
    assert gate(tmp_path, [TEXT], {}, golden="gone.jsonl")[0].outcome == "inconclusive"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RefusedError(500, "the numbers are no numbers"), "fail"),
        (RefusedError(400, "the prompt is too long"), "inconclusive"),
        (WorkerLostError("SIGSEGV"), "fail"),
    ],
)
def test_a_prompt_that_is_not_answered_is_never_a_pass(tmp_path, error, outcome):
    proof, _ = gate(tmp_path, [TALK], {"hi": error})
    assert proof.outcome == outcome
    assert str(error) in proof.message + str(proof.failed)


def test_a_gate_ends_when_its_time_is_over(tmp_path):
    proof, _ = gate(tmp_path, [TALK], {"hi": 60.0}, seconds=0.05)
    assert proof.outcome == "inconclusive"
    assert "within" in proof.message


FAST = {"tokens_per_second": 1.0}
SLOW = {"tokens_per_second": 1e6}
WRITES = {"prompt": "write", "expect": ".", "match": "regex", "max_tokens": 20}


def test_a_speed_that_is_asked_for_is_measured_and_held_against_the_promise(tmp_path):
    proof, _ = gate(tmp_path, [WRITES], {"write": 0.001}, speed=0.5, predicted=FAST)
    assert proof.outcome == "pass"
    assert proof.tokens_per_second > 1
    proof, _ = gate(tmp_path, [WRITES], {"write": 0.001}, speed=0.5, predicted=SLOW)
    assert proof.outcome == "fail"
    assert "of the promised 1e+06 expected" in proof.message
    assert gate(tmp_path, [WRITES], {"write": 0.001}, predicted=SLOW)[0].outcome == "pass"


def test_an_answer_that_only_tells_a_speed_is_not_judged(tmp_path):
    class Growing(FakeWorker):
        def ask(self, kind, body, *rest):
            self.answers = {"write": "a" * json.loads(body)["max_tokens"] + "!" * (len(self.asked) > 0)}
            return super().ask(kind, body, *rest)

    short = {"prompt": "write", "expect": "(a+)+$", "match": "regex", "max_tokens": 2}
    (tmp_path / FILE_NAME).write_text(json.dumps(short), encoding="utf-8")
    proof = asyncio.run(prove(Growing(tmp_path, {}, predicted=FAST), 60.0, 0.5))

    assert (proof.outcome, proof.message) == ("inconclusive", "its speed could not be measured")


def test_short_answers_are_lengthened_to_tell_a_speed(tmp_path):
    short = {"prompt": "write", "expect": ".", "match": "regex", "max_tokens": 2}
    proof, worker = gate(tmp_path, [short], {"write": 0.001}, speed=0.5, predicted=FAST)
    assert proof.outcome == "pass"
    assert [said["max_tokens"] for _, said in worker.asked] == [2, 32]
