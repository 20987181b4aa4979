"""Reading what a model learns from: which tokens, and which of them are learned."""

import json
from pathlib import Path

import pytest

from slmops.build.checkpoint import open_checkpoint
from slmops.build.phrase import CheckpointPhrasing, TokenizerPhrasing, Words
from slmops.errors import DocumentError
from slmops.train.read_samples import read_labelled_samples, read_samples

ROOT = Path(__file__).parents[2]
LABELS = ["lost", "found", "late", "paid"]


@pytest.fixture(scope="module")
def demo():
    return open_checkpoint(ROOT / "demo" / "model")


@pytest.fixture(scope="module")
def phrasing(demo):
    return CheckpointPhrasing(demo)


@pytest.fixture
def read(tmp_path, demo, phrasing):
    def reading(said, name="data.jsonl", length=256, with_phrasing=phrasing):
        file = tmp_path / name
        text = said if isinstance(said, str) else "".join(json.dumps(line) + "\n" for line in said)
        file.write_text(text)
        return read_samples([file], with_phrasing, length=length, end=demo.stop_ids[0])

    return reading


def shown(demo, samples, place=0):
    """A sample as text, and what is learned of it."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - of these tests alone

    words = Tokenizer.from_file(str(demo.words()))
    part = samples.part(place)
    ids, learned = samples.ids[part], samples.learned[part]
    return tuple(words.decode(list(each), skip_special_tokens=False) for each in (ids, ids[learned]))


def test_of_a_conversation_what_the_assistant_says_is_learned_with_its_end(read, demo):
    talk = [
        {"role": "user", "content": "lamp on"}, {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "and off"}, {"role": "assistant", "content": "no"},
    ]  # fmt: skip
    whole, learned = shown(demo, read([{"messages": talk}]).samples)

    assert learned == "yes<|im_end|>no<|im_end|>"
    assert whole.startswith("<|im_start|>user\nlamp on<|im_end|>\n<|im_start|>assistant\nyes")


def test_golden_prompts_are_lessons(demo, phrasing):
    file = ROOT / "demo" / "model" / "golden.jsonl"
    samples = read_samples([file], phrasing, length=256, end=demo.stop_ids[0]).samples
    expected = [json.loads(line)["expect"] for line in file.read_text().splitlines()]

    assert len(samples) == len(expected)
    for place, answer in enumerate(expected):
        learned = shown(demo, samples, place)[1]
        assert json.loads(learned.removesuffix("<|im_end|>")) == answer


def test_of_a_prompt_and_its_completion_only_the_completion_is_learned(read, demo):
    read_back = read([{"prompt": "turn on", "completion": " the lamp"}])

    assert shown(demo, read_back.samples) == ("turn on the lamp<|im_end|>", " the lamp<|im_end|>")


@pytest.mark.parametrize(
    "said",
    [
        {"prompt": "turn on", "completion": " the lamp"},
        {
            "messages": [
                {"role": "user", "content": "lamp on"}, {"role": "assistant", "content": "yes"},
                {"role": "user", "content": "and"}, {"role": "assistant", "content": " the lamp"},
            ]
        },
    ],
)  # fmt: skip
def test_where_an_answer_was_cut_its_end_is_not_learned(read, demo, said):
    cut, whole = (
        shown(demo, read([{**said, "provenance": {"finish": finish}}]).samples)[1]
        for finish in ("length", "stop")
    )

    assert cut.endswith(" the lamp")
    assert whole == cut + "<|im_end|>"


def test_a_word_in_which_prompt_and_completion_grow_together_is_learned_whole(read, demo):
    whole, learned = shown(demo, read([{"prompt": "turn on the la", "completion": "mp"}]).samples)

    assert whole == "turn on the lamp<|im_end|>"
    assert learned.endswith("mp<|im_end|>")


def test_a_long_text_is_cut_into_windows_and_the_last_one_ends(read, demo):
    samples = read("turn on the lamp in the kitchen. " * 40, "data.txt", length=32).samples
    ends = [int(samples.ids[samples.part(place)][-1]) for place in range(len(samples))]

    assert samples.lengths.max() <= 32
    assert ends[-1] == demo.stop_ids[0]
    assert demo.stop_ids[0] not in ends[:-1]
    assert samples.learned_tokens == len(samples.ids) - len(samples)


def test_documents_end_one_by_one(read, demo):
    samples = read("lamp on\n<|endoftext|>\n\nfan off<|endoftext|>", "data.txt").samples

    assert [shown(demo, samples, place)[0] for place in (0, 1)] == ["lamp on<|im_end|>", "fan off<|im_end|>"]


def test_what_is_too_long_is_left_out_and_counted(read):
    short = {"prompt": "a ", "completion": "b"}
    found = read([short, {"prompt": "on " * 50, "completion": "b"}], length=16)

    assert len(found.samples) == 1
    assert found.too_long == 1


def test_what_the_vocabulary_cannot_write_is_left_out_and_counted(labelling, tmp_path):
    words = Words(labelling.source / "tokenizer.json", {"unk_token": "[UNK]"}, (), False, None)
    file = tmp_path / "data.jsonl"
    file.write_text('{"text": "w1 w2 w3"}\n{"text": "w1 strange w3"}\n')
    found = read_samples([file], TokenizerPhrasing(words), length=16, end=None)

    assert len(found.samples) == 1
    assert found.unwritable == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": ', "line 2: not JSON"),
        ("[1]", "line 2: expected an object"),
        ('{"txt": "a"}', "line 2: expected something to learn"),
        ('{"prompt": "a"}', "line 2: expected something to learn"),
        ('{"text": " "}', "line 2: expected something to learn"),
        ('{"messages": []}', "line 2: messages"),
        (
            '{"messages": [{"role": "user", "content": "a"}]}',
            "line 2: messages: expected one of the assistant",
        ),
        ('{"prompt": "a", "expect": "b.*", "match": "regex"}', "line 2: match"),
    ],
)
def test_a_broken_line_is_named(read, line, said):
    with pytest.raises(DocumentError, match=said):
        read('{"text": "a whole line"}\n' + line + "\n")


@pytest.mark.parametrize("name", ["data.jsonl", "data.txt"])
def test_empty_data_is_refused(read, name):
    with pytest.raises(DocumentError, match="nothing to learn"):
        read("\n", name)


def test_a_template_that_writes_earlier_turns_anew_is_refused_with_the_line(demo, read):
    template = (
        "{% for m in messages %}<|im_start|>{% if loop.last %}now {% endif %}{{ m.content }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    words = Words(demo.words(), demo.special_tokens, demo.stop_ids, demo.add_bos, template)
    talk = [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "no"}]

    with pytest.raises(DocumentError, match="line 1: the model's chat template writes earlier turns"):
        read([{"messages": talk}], with_phrasing=TokenizerPhrasing(words))


def test_a_template_that_closes_no_turn_gets_an_end_token(demo, read):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    template += "{% if add_generation_prompt %}assistant: {% endif %}"
    words = Words(demo.words(), demo.special_tokens, demo.stop_ids, demo.add_bos, template)
    talk = [{"role": "user", "content": "on?"}, {"role": "assistant", "content": "yes"}]
    found = read([{"messages": talk}], with_phrasing=TokenizerPhrasing(words))

    assert shown(demo, found.samples)[1].endswith("yes\n<|im_end|>")


def test_labelled_texts_carry_the_numbers_of_their_labels(labelling):
    found = read_labelled_samples([labelling.task], labelling.source / "tokenizer.json", LABELS, length=32)

    assert len(found.samples) == 40
    assert found.samples.labels[:5].tolist() == [0, 1, 2, 3, 0]
    assert found.samples.lengths.tolist() == [7] * 40


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"text": "w1"}', "line 2: expected a label"), ('{"text": "w1", "label": "gone"}', "line 2.*'gone'")],
)
def test_a_text_without_a_known_label_is_named(labelling, tmp_path, line, said):
    file = tmp_path / "data.jsonl"
    file.write_text('{"text": "w2", "label": 3}\n' + line + "\n")

    with pytest.raises(DocumentError, match=said):
        read_labelled_samples([file], labelling.source / "tokenizer.json", LABELS, length=32)
