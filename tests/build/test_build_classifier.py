"""Classifiers built for real: a small Bert with random weights, so large that it is sure of its labels."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from onnx import TensorProto
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from slmops.artifact import golden as goldens
from slmops.build.build_classifier import build_classifiers
from slmops.build.checkpoint import open_checkpoint
from slmops.build.classifier import DYNAMIC, FAMILIES, SMALL, STATIC, predicted_bytes
from slmops.build.open_classifier import OnnxClassifier
from slmops.build.quantize_classifier import quantize_classifier
from slmops.build.read_labelled import Reader, read_for_build
from slmops.errors import ModelError, UsageError

TYPES = ("F32", DYNAMIC, STATIC)
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"w{number}" for number in range(200))]
LABELS = ["lost", "found", "late", "paid"]
SIZES = {
    "vocab_size": len(WORDS),
    "max_position_embeddings": 64,
    "num_labels": len(LABELS),
    "initializer_range": 0.1,
}
BERT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
OWN = {
    "DistilBert": {"dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 128},
    "DebertaV2": {
        **BERT,
        "relative_attention": True,
        "position_buckets": 16,
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "Electra": {**BERT, "embedding_size": 32},
    "Albert": {**BERT, "embedding_size": 32},
}


def write_tokenizer(folder):
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens([AddedToken(word, special=True) for word in WORDS[:4]])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    made.save(str(folder / "tokenizer.json"))


def write_classifier(folder, family="Bert", **changes):
    torch.manual_seed(3)
    config = getattr(transformers, f"{family}Config")(**SIZES, **OWN.get(family, BERT), **changes)
    config.id2label = dict(enumerate(LABELS[: config.num_labels]))
    model = getattr(transformers, f"{family}ForSequenceClassification")(config)
    sharpen(model.eval())
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def sharpen(model):
    """Make random weights decide: one text for one label, the next for another."""
    *_, weight, bias = (each for each in model.parameters() if len(each) == model.config.num_labels)
    with torch.no_grad():
        weight.mul_(16)
        bias.sub_(torch.cat([model(torch.tensor([ids])).logits for ids in ids_of(*range(3, 30))]).mean(0))


def write_texts(folder, count=60):
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS[4:], random.integers(2, 30))) for _ in range(count)]
    lines = [
        json.dumps({"text": text, **({"label": n % 4} if n % 3 == 0 else {})}) for n, text in enumerate(texts)
    ]
    file = folder / "texts.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def ids_of(*lengths):
    random = np.random.default_rng(1)
    return [[1, *map(int, random.integers(4, len(WORDS), length)), 2] for length in lengths]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return open_checkpoint(write_classifier(tmp_path_factory.mktemp("source") / "bert"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return tmp_path_factory.mktemp("room")


@pytest.fixture(scope="module")
def built(checkpoint, texts, room):
    return build_classifiers(checkpoint, ["INT8", *TYPES], room, texts)


def test_float32_says_what_the_source_says(built):
    found = built.of["F32"].measured

    assert found.kl_mean < 1e-9
    assert found.top1 == 1
    assert found.accuracy == found.source_accuracy
    assert found.texts == 30


@pytest.mark.parametrize("type_name", [DYNAMIC, STATIC])
def test_bytes_lose_little(built, type_name):
    found = built.of[type_name].measured

    assert 0 < found.kl_mean < 5e-3
    assert found.top1 >= 0.9
    assert built.of[type_name].report.bytes < built.of["F32"].report.bytes / 2


def test_int8_is_the_one_of_the_two_that_lost_less(built):
    losses = {name: built.of[name].measured.kl_mean for name in (DYNAMIC, STATIC)}

    assert built.of["INT8"].report.type == min(losses, key=losses.get)
    assert built.of["INT8"].measured.kl_mean == min(losses.values())


@pytest.mark.parametrize("type_name", TYPES)
def test_sizes_are_foretold_within_a_fifth(checkpoint, built, type_name):
    shapes = [entry.shape for entry in checkpoint.tensors.values()]

    predicted = predicted_bytes(checkpoint.config, shapes, type_name)
    assert predicted == pytest.approx(built.of[type_name].report.bytes, rel=0.2)


def test_what_is_built_says_what_a_description_needs(built):
    assert built.labels == tuple(LABELS)
    assert built.context == 64
    assert built.texts.startswith("sha256:")


def test_golden_prompts_hold_for_all_that_was_built(checkpoint, built):
    assert len({golden.expect for golden in built.golden}) == len(built.golden) >= 2
    reader = Reader(checkpoint.tokenizer)
    for each in built.of.values():
        model = OnnxClassifier(each.file)
        for golden in built.golden:
            said = LABELS[int(model.logits(reader.ids(golden.prompt)).argmax())]
            assert goldens.passes(golden, said)


@pytest.mark.parametrize("type_name", TYPES)
def test_a_text_gets_the_same_answer_alone_and_padded_among_others(built, type_name):
    model = OnnxClassifier(built.of[type_name].file)
    short, long = ids_of(4, 20)
    rows = np.array([short + [0] * (len(long) - len(short)), long], np.int64)
    given = {"input_ids": rows, "attention_mask": (rows != 0).astype(np.int64)}
    session = onnxruntime.InferenceSession(built.of[type_name].file)

    (together,) = session.run(["logits"], {**given, "token_type_ids": np.zeros_like(rows)})

    for alone, padded in zip(map(model.logits, (short, long)), together, strict=True):
        np.testing.assert_allclose(padded, alone, atol=1e-4)


@pytest.mark.parametrize("type_name", [DYNAMIC, STATIC])
def test_weights_are_unsigned_bytes_embeddings_too(built, type_name):
    tensors = onnx.load(built.of[type_name].file).graph.initializer
    large = {tensor.data_type for tensor in tensors if np.prod(tensor.dims) >= SMALL}

    assert large == {TensorProto.UINT8}
    assert all(tensor.data_type != TensorProto.INT8 for tensor in tensors)


def test_building_again_gives_the_same_bytes(checkpoint, texts, built, tmp_path):
    read = read_for_build(checkpoint.tokenizer, LABELS, built.context, texts)

    again = quantize_classifier(checkpoint, TYPES, tmp_path, [each.ids for each in read.calibrating])

    for type_name, (file, _) in again.items():
        assert file.read_bytes() == built.of[type_name].file.read_bytes()


def test_without_texts_nothing_is_built(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="none can be made up") as refused:
        build_classifiers(checkpoint, ["INT8"], tmp_path, None)
    assert "--calibration" in refused.value.remedy


def test_a_type_that_is_none_of_a_classifiers_is_refused(checkpoint, texts, tmp_path):
    with pytest.raises(UsageError, match="no type 'Q4_K_M' for a text classifier; known are INT8, INT8-dyn"):
        build_classifiers(checkpoint, ["INT8", "Q4_K_M"], tmp_path, texts)


def test_a_folder_without_tokenizer_is_refused(texts, tmp_path):
    folder = write_classifier(tmp_path / "bert")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        build_classifiers(open_checkpoint(folder), ["F32"], tmp_path, texts)


def test_what_older_versions_of_transformers_stored_beside_the_weights_is_no_weight(checkpoint, tmp_path):
    folder = write_classifier(tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    weights["bert.embeddings.position_ids"] = np.arange(64)[None]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    assert open_checkpoint(folder).tensors.keys() == checkpoint.tensors.keys()


def test_weights_that_are_no_numbers_leave_no_file(texts, tmp_path):
    folder = write_classifier(tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"][0, 0] = np.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    room = tmp_path / "room"
    room.mkdir()
    with pytest.raises(ModelError, match=r"classifier\.weight holds weights that are NaN"):
        build_classifiers(open_checkpoint(folder), ["F32"], room, texts)
    assert list(room.iterdir()) == []


@pytest.mark.journey
def test_labels_that_the_head_has_not_are_refused(texts, tmp_path):
    folder = write_classifier(tmp_path / "bert")
    said = json.loads((folder / "config.json").read_text())
    said["id2label"] = {str(number): label for number, label in enumerate([*LABELS, "more"])}
    said["label2id"] = {label: int(number) for number, label in said["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match=r"classifier\.\w+ to be \[5"):
        build_classifiers(open_checkpoint(folder), ["F32"], tmp_path, texts)


@pytest.mark.journey
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by transformers' DeBERTa
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_built_and_bears_bytes(family, texts, tmp_path):
    checkpoint = open_checkpoint(write_classifier(tmp_path / "source", family))

    built = build_classifiers(checkpoint, TYPES, tmp_path, texts)

    assert built.of["F32"].measured.kl_mean < 1e-9
    assert built.of[DYNAMIC].measured.kl_mean < 1e-2
    assert built.of[STATIC].measured.kl_mean < 5e-2
