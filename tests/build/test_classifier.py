"""What a classifier is, read from its config.json alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.build.classifier import (
    FAMILIES,
    context_of,
    is_classifier,
    labels_of,
    predicted_bytes,
    shape_of,
)
from slmops.errors import ModelError
from slmops.profile.footprint import footprint

BERT = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "intermediate_size": 256,
    "max_position_embeddings": 128,
    "id2label": {"0": "no", "1": "yes"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_models_for_sequence_classification_are_classifiers(family):
    assert is_classifier({"architectures": [f"{family}ForSequenceClassification"]})


@pytest.mark.parametrize("said", [{}, {"architectures": None}, {"architectures": ["LlamaForCausalLM"]}])
def test_other_models_are_not(said):
    assert not is_classifier(said)


def test_labels_come_in_the_order_of_the_logits():
    said = {str(number): f"label {number}" for number in reversed(range(12))}

    assert labels_of(BERT | {"id2label": said}) == tuple(f"label {number}" for number in range(12))


def test_a_config_that_names_no_labels_has_the_two_that_transformers_leaves_out():
    assert labels_of({key: BERT[key] for key in BERT if key != "id2label"}) == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, "got LlamaForSequenceClassification; known"),
        ({"architectures": ["BertModel"]}, "got BertModel; known"),
        ({"id2label": {"0": "a", "2": "b"}}, "expected the ids 0 to 1"),
        ({"id2label": {"0": "a", "1": "a"}}, "each with a label of its own"),
        ({"id2label": {"0": "score"}}, "with 1"),
        ({"problem_type": "multi_label_classification"}, "got multi_label_classification"),
        ({"problem_type": "regression"}, "got regression"),
    ],
)
def test_a_model_that_does_not_give_each_text_one_label_is_refused(change, named):
    with pytest.raises(ModelError, match=named):
        labels_of(BERT | change)


@pytest.mark.parametrize(("kind", "context"), [("bert", 128), ("roberta", 126), ("mpnet", 126)])
def test_positions_that_begin_behind_the_padding_leave_room_for_fewer_tokens(kind, context):
    assert context_of(BERT | {"model_type": kind, "pad_token_id": 1}) == context


def test_distilberts_own_words_are_understood():
    said = {"dim": 64, "n_layers": 2, "n_heads": 4}
    plain = {key: value for key, value in BERT.items() if not key.startswith(("hidden", "num"))}

    assert shape_of(plain | said, 9) == shape_of(BERT, 9)


def test_a_config_without_its_sizes_is_refused_by_name():
    with pytest.raises(ModelError, match="num_attention_heads"):
        shape_of({key: BERT[key] for key in BERT if key != "num_attention_heads"}, 9)


@given(st.lists(st.lists(st.integers(1, 600), min_size=1, max_size=2).map(tuple), max_size=5))
def test_bytes_are_never_predicted_to_be_more_than_float32(shapes):
    whole = predicted_bytes(BERT, shapes, "F32")

    assert predicted_bytes(BERT, shapes, "INT8") <= whole


def test_a_classifier_needs_no_cache_and_memory_for_its_longest_text():
    shape = shape_of(BERT, 1000)
    short, long = (footprint(shape, 5000, context, context, "onnx") for context in (64, 128))

    assert short.kv_cache == long.kv_cache == 0
    assert short.compute < long.compute
