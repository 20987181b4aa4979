"""A text classifier, served: a bag of words whose answers are known, made without torch."""

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from slmops.artifact.description import CLASSIFICATION, FILE_NAME, Description, render
from slmops.daemon.load import describe, load
from slmops.daemon.refusal import RefusedError
from slmops.errors import ModelError

WORDS = ["[CLS]", "[SEP]", "[UNK]", "yes", "no", "perhaps", "["]
LABELS = ["consent", "refusal"]
LONGEST = 6


def make_tokenizer():
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in WORDS[:3]])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    # As many come: cut and padded, which a server must not do.
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=3)
    return tokenizer


def make_graph():
    """Logits are the sums over the words of a text: [CLS] says nothing, [SEP] a lot."""
    votes = np.zeros((len(WORDS), len(LABELS)), np.float32)
    votes[WORDS.index("yes"), 0] = votes[WORDS.index("no"), 1] = 1
    votes[WORDS.index("[SEP]"), 0] = 10
    nodes = [
        helper.make_node("Gather", ["votes", "input_ids"], ["each"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["each", "column"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "tokens"], ["logits"], keepdims=0),
    ]
    rows = [
        helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"])
        for n in ("input_ids", "attention_mask")
    ]
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", len(LABELS)])
    constants = {"votes": votes, "last": np.array([2], np.int64), "tokens": np.array([1], np.int64)}
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "votes", rows, [out], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def make_artifact(folder, labels=LABELS, graph=None):
    folder.mkdir()
    onnx.save(graph or make_graph(), folder / "model.onnx")
    make_tokenizer().save(str(folder / "tokenizer.json"))
    said = Description(
        name="votes",
        version="1.0.0",
        profile="local",
        arch="x86_64",
        format="onnx",
        type="F32",
        model="model.onnx",
        architecture="BertForSequenceClassification",
        parameters=1,
        context=LONGEST,
        threads=1,
        micro_batch=LONGEST,
        memory_bytes=1,
        tokenizer="tokenizer.json",
        task=CLASSIFICATION,
        labels=list(labels),
    )
    (folder / FILE_NAME).write_bytes(render(said))
    return folder


def opened(folder):
    return load(folder, describe(folder))


def scores(classifier, *texts):
    return list(classifier.answers([classifier.ids(text) for text in texts], lambda: False))


@pytest.fixture(scope="module")
def votes(tmp_path_factory):
    return make_artifact(tmp_path_factory.mktemp("made") / "votes")


@pytest.fixture(scope="module")
def http(votes, run_daemon):
    with run_daemon(votes) as running, running.client() as client:
        yield client


def test_scores_are_the_probabilities_of_the_graph(votes):
    (one,) = scores(opened(votes), "no no yes")

    expected = np.exp([11.0, 2.0])
    assert one == pytest.approx(list(expected / expected.sum()))


def test_a_text_is_read_whole_whatever_the_tokenizers_training_did(votes):
    assert opened(votes).ids("yes no no") == [0, 3, 4, 4, 1]


def test_nothing_in_a_text_is_taken_for_a_control_token(votes):
    assert opened(votes).ids("[SEP]") == [0, 6, 2, 2, 1]


def test_a_text_answers_the_same_among_others(votes):
    classifier = opened(votes)

    assert scores(classifier, "no", "yes yes yes", "perhaps")[0] == scores(classifier, "no")[0]


def test_texts_of_one_length_are_read_beside_each_other_and_answer_as_alone(votes):
    classifier = opened(votes)
    texts = ["yes", "no no", "no", "perhaps", "yes no", "no", "no yes no", "yes"]

    assert scores(classifier, *texts) == [scores(classifier, text)[0] for text in texts]


def test_nothing_is_computed_for_who_has_gone(votes):
    classifier = opened(votes)

    assert list(classifier.answers([classifier.ids("yes")], lambda: True)) == []


def test_a_text_longer_than_the_model_reads_is_refused(votes):
    with pytest.raises(RefusedError, match="a text has 7 tokens; the model reads at most 6") as refused:
        opened(votes).ids("yes " * 5)
    assert refused.value.reason == "context_length_exceeded"


def test_a_description_that_names_other_labels_than_the_graph_has_is_refused(tmp_path):
    with pytest.raises(ModelError, match="has 2 labels, its description names 3"):
        opened(make_artifact(tmp_path / "votes", labels=["a", "b", "c"]))


def test_a_graph_that_is_no_classifier_is_refused(tmp_path):
    graph = make_graph()
    graph.graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["b"]))
    with pytest.raises(ModelError, match="not a text classifier: it takes attention_mask, input_ids, pixels"):
        opened(make_artifact(tmp_path / "votes", graph=graph))


def test_a_text_gets_its_label_over_http(http):
    said = http.post("/v1/classify", json={"input": "no", "model": "votes"}).json()

    (answer,) = said["data"]
    assert answer["label"] == "consent"
    assert list(answer["scores"]) == LABELS
    assert sum(answer["scores"].values()) == pytest.approx(1)
    assert (said["model"], said["system_fingerprint"]) == ("votes:1.0.0", "sha256:" + "0" * 64)
    assert said["usage"]["prompt_tokens"] == 3


def test_several_texts_are_answered_in_their_order(http):
    data = http.post("/v1/classify", json={"input": ["yes", "perhaps", "no no"]}).json()["data"]

    assert [each["index"] for each in data] == [0, 1, 2]
    consents = [each["scores"]["consent"] for each in data]
    assert consents == sorted(consents, reverse=True)


@pytest.mark.parametrize(
    ("path", "asked", "status", "named"),
    [
        ("classify", {"input": "yes " * 5}, 400, "a text has 7 tokens; the model reads at most 6"),
        ("classify", {"input": ["yes", ""]}, 400, "input"),
        ("classify", {"input": "yes", "top_k": 1}, 400, "top_k"),
        ("classify", {"input": "yes", "model": "other"}, 404, "no model 'other' here"),
        ("completions", {"prompt": "yes"}, 400, "labels texts; use /v1/classify"),
        ("chat/completions", {"messages": [{"role": "user", "content": "a"}]}, 400, "use /v1/classify"),
    ],
)
def test_what_a_classifier_cannot_answer_is_refused_with_a_reason(http, path, asked, status, named):
    answer = http.post(f"/v1/{path}", json=asked)

    assert answer.status_code == status
    assert named in answer.json()["error"]["message"]


def test_a_model_without_labels_refuses_to_classify(speaking):
    answer = speaking.http.post("/v1/classify", json={"input": "hi"})

    assert answer.status_code == httpx.codes.BAD_REQUEST
    assert "this model has no labels; use /v1/completions" in answer.json()["error"]["message"]


def test_labelled_texts_are_counted(http):
    def counted():
        lines = [line for line in http.get("/metrics").text.splitlines() if not line.startswith("#")]
        series = (("slmops_requests_total", 'code="200"'), ("slmops_tokens_total", 'type="input"'))
        return [
            sum(float(line.split()[-1]) for line in lines if name in line and kind in line)
            for name, kind in series
        ]

    before = counted()
    http.post("/v1/classify", json={"input": ["yes", "no"]})

    assert counted() == [before[0] + 1, before[1] + 6]
