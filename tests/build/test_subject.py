"""What a person means by a folder, a file or an id, and with which words it is opened."""

import json
from dataclasses import replace

import pytest

from slmops.artifact import description
from slmops.artifact.golden import Golden
from slmops.build.checkpoint import Checkpoint, open_checkpoint
from slmops.build.evaluate import same_words
from slmops.build.open_model import Shape
from slmops.build.quantize_gguf import quantize_gguf
from slmops.build.subject import (
    context_of_source,
    find_subject,
    labels_of_source,
    name_of,
    open_words,
    tokenizer_of,
)
from slmops.errors import ModelError


@pytest.fixture
def artifact(write_model, tmp_path):
    """An artifact folder with a tokenizer beside its model."""
    source = write_model()
    folder = tmp_path / "artifact"
    folder.mkdir()
    quantize_gguf(open_checkpoint(source), "Q8_0", folder / "model.gguf")
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    said = description.Description(
        name="fox", version="1.0.0", profile="local", arch="x86_64", format="gguf", type="Q8_0",
        model="model.gguf", architecture="llama", parameters=1, context=48, threads=2, micro_batch=8,
        memory_bytes=1, tokenizer="tokenizer.json", special_tokens={"bos_token": "<|begin|>"}, add_bos=True,
        stop_ids=[1],
    )  # fmt: skip
    (folder / "artifact.json").write_bytes(description.render(said))
    return folder


def test_an_artifact_is_opened_as_it_is_served_by_its_folder_or_its_file(artifact):
    for said in (artifact, artifact / "model.gguf"):
        found = find_subject(str(said))
        assert (found.file, found.shape) == (artifact / "model.gguf", Shape(48, 2, 8))
        assert (name_of(found), context_of_source(found)) == ("fox:1.0.0 (Q8_0)", 48)
        words = open_words(found)
        assert words.ids(Golden(expect="", prompt="The fox"))[0] == 0
        assert words.stop_ids == {1}


def test_a_gguf_alone_is_served_with_what_it_says_of_itself(write_model, tmp_path):
    source = open_checkpoint(write_model())
    quantize_gguf(source, "Q8_0", tmp_path / "alone.gguf")
    found = find_subject(str(tmp_path / "alone.gguf"))
    assert (found.words, found.shape.context) == (None, 128)
    assert same_words(found, source)


def test_an_onnx_file_has_its_words_beside_it(artifact, tmp_path):
    file = tmp_path / "alone" / "model.onnx"
    file.parent.mkdir()
    file.write_bytes(b"any")
    with pytest.raises(ModelError, match=r"has no tokenizer\.json beside it"):
        find_subject(str(file))
    (file.parent / "tokenizer.json").write_bytes((artifact / "tokenizer.json").read_bytes())
    (file.parent / "config.json").write_text(json.dumps({"max_position_embeddings": 96, "eos_token_id": 1}))
    found = find_subject(str(file))
    assert (found.shape.context, found.words.stop_ids) == (96, (1,))
    (file.parent / "config.json").write_text(json.dumps({"n_positions": 80}))
    assert find_subject(str(file)).shape.context == 80


def test_a_checkpoint_is_what_a_folder_without_an_artifact_holds(write_model):
    found = find_subject(str(write_model(name="fox")))
    assert isinstance(found, Checkpoint)
    assert (name_of(found), context_of_source(found)) == ("fox", 128)


def test_an_artifact_that_is_not_whole_is_refused(artifact):
    (artifact / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"names tokenizer\.json, which is not there"):
        find_subject(str(artifact))


def test_an_onnx_artifact_without_words_is_refused(artifact):
    said = description.parse((artifact / "artifact.json").read_bytes())
    wordless = replace(said, format="onnx", tokenizer=None)
    (artifact / "artifact.json").write_bytes(description.render(wordless))
    with pytest.raises(ModelError, match=r"no words of its own"):
        find_subject(str(artifact))


def test_a_classifier_is_known_by_its_labels_as_an_artifact_a_source_or_a_file(artifact, write_model):
    said = description.parse((artifact / "artifact.json").read_bytes())
    labelling = replace(said, task=description.CLASSIFICATION, labels=["fox", "hen"])
    (artifact / "artifact.json").write_bytes(description.render(labelling))
    source = write_model(name="source")
    assert labels_of_source(find_subject(str(source))) == ()
    config = json.loads((source / "config.json").read_text())
    config |= {"architectures": ["RobertaForSequenceClassification"], "model_type": "roberta"}
    config |= {"id2label": {"0": "fox", "1": "hen"}, "pad_token_id": 1, "max_position_embeddings": 66}
    (source / "config.json").write_text(json.dumps(config))
    (source / "model.onnx").write_bytes(b"any")
    for said, context in ((artifact, 48), (source, 64), (source / "model.onnx", 64)):
        found = find_subject(str(said))
        assert labels_of_source(found) == ("fox", "hen")
        assert context_of_source(found) == context
        assert tokenizer_of(found).name == "tokenizer.json"


def test_what_is_nothing_is_refused():
    with pytest.raises(ModelError, match=r"there is no model '\./nowhere'"):
        find_subject("./nowhere")
