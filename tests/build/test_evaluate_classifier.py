"""Classifiers measured for real: a small Bert with random weights, and what was made of it."""

import json
import shutil
from dataclasses import replace

import pytest
from safetensors.numpy import load_file, save_file

from slmops.artifact import description
from slmops.build.evaluate_classifier import evaluate_classifier
from slmops.build.subject import find_subject
from slmops.build.tasks import flips, read_task
from slmops.daemon.load import describe, load
from slmops.daemon.refusal import RefusedError
from slmops.errors import DocumentError, ModelError, UsageError

UNKNOWN = "one two\nthree four five\n"


@pytest.fixture
def artifact(labelling):
    return find_subject(str(labelling.artifact))


@pytest.fixture
def task(labelling):
    return read_task(labelling.task.read_text(), "task.jsonl")


def texts_of(folder, said):
    (folder / "texts.txt").write_text(said)
    return folder / "texts.txt"


def test_an_artifact_is_measured_against_its_source(labelling, artifact, task):
    found = evaluate_classifier(artifact, find_subject(str(labelling.source)), tasks=[task], speed=True)

    assert (found.name, found.against) == ("intents:1.0.0 (INT8-dynamic)", "bert")
    assert found.bytes < found.against_bytes
    assert 0 < found.measured.kl_mean < 0.05
    assert (found.measured.texts, found.note) == (40, None)
    (now,), (before,) = found.results, found.against_results
    assert (now.task, now.kind, now.chance, len(now.right)) == ("task.jsonl", "texts", 0.25, 40)
    assert now.accuracy == found.measured.accuracy.share
    assert before.accuracy == found.measured.source_accuracy.share
    assert sum(flips(before, now)) <= 40 * (1 - found.measured.top1) + 1e-9
    assert (found.timing.texts, found.timing.tokens, found.timing.threads) == (32, 7, 1)
    assert found.timing.text_seconds > 0 <= found.timing.text_cpu_seconds


def test_an_artifact_whose_tokenizer_puts_nothing_around_a_text_is_served(labelling):
    served = load(labelling.artifact, describe(labelling.artifact))

    (scores,) = served.answers([served.ids("w1 w2")], lambda: False)
    assert sum(scores) == pytest.approx(1.0)
    with pytest.raises(RefusedError, match="no tokens"):
        served.ids("")


def test_labels_are_matched_by_name_wherever_they_stand(labelling, task, tmp_path):
    turned = tmp_path / "turned"
    shutil.copytree(labelling.source, turned)
    weights = load_file(turned / "model.safetensors")
    weights |= {
        f"classifier.{part}": weights[f"classifier.{part}"][::-1].copy() for part in ("weight", "bias")
    }
    save_file(weights, turned / "model.safetensors", {"format": "pt"})
    config = json.loads((turned / "config.json").read_text())
    config["id2label"] = dict(zip("3210", config["id2label"].values(), strict=True))
    (turned / "config.json").write_text(json.dumps(config))

    found = evaluate_classifier(*map(find_subject, map(str, (turned, labelling.source))), tasks=[task])

    assert found.measured.kl_mean == pytest.approx(0, abs=1e-9)
    assert found.measured.top1 == 1
    assert found.results == found.against_results
    assert found.timing is None


def test_texts_without_labels_compare_two_and_give_no_accuracy(artifact, tmp_path):
    found = evaluate_classifier(artifact, artifact, texts=texts_of(tmp_path, UNKNOWN))

    assert (found.measured.kl_mean, found.measured.top1, found.measured.texts) == (0, 1, 2)
    assert (found.measured.accuracy, found.results, found.against_results) == (None, [], [])


def test_labels_among_the_texts_count_and_each_file_counts_for_itself(artifact, task, tmp_path):
    file = tmp_path / "more.csv"
    file.write_text("text,label\nw1 w2,lost\nw3 w4,\n")

    found = evaluate_classifier(artifact, None, texts=file, tasks=[task])

    assert [(each.task, len(each.right)) for each in found.results] == [("task.jsonl", 40), ("more.csv", 1)]
    assert (found.measured, found.against_results) == (None, [])


def test_a_text_that_is_too_long_is_left_out_and_said_to_be(artifact, tmp_path):
    found = evaluate_classifier(artifact, artifact, texts=texts_of(tmp_path, UNKNOWN + "w1 " * 33))
    assert found.measured.texts == 2
    assert found.note.endswith("longer than can be read: 1.")

    with pytest.raises(DocumentError, match="texts of at most 32 tokens, got none"):
        evaluate_classifier(artifact, artifact, texts=texts_of(tmp_path, "w1 " * 33))


def test_other_labels_and_none_are_refused_by_name(labelling, artifact, task, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(labelling.artifact, other)
    said = description.parse((other / "artifact.json").read_bytes())
    (other / "artifact.json").write_bytes(
        description.render(replace(said, labels=["lost", "found", "late", "due"]))
    )
    with pytest.raises(ModelError, match=r"has 4 labels \(paid of its own\), .* 4 labels \(due of its own\)"):
        evaluate_classifier(artifact, find_subject(str(other)), tasks=[task])
    with pytest.raises(
        ModelError, match=r"has 4 labels \(lost, found, late, \.\.\. of its own\), .* 0 labels"
    ):
        evaluate_classifier(artifact, replace(artifact, labels=()), tasks=[task])


def test_without_texts_or_labels_there_is_nothing_to_measure(artifact, tmp_path):
    with pytest.raises(UsageError, match="none can be made up") as refused:
        evaluate_classifier(artifact, artifact, speed=True)
    assert "--task FILE" in refused.value.remedy
    with pytest.raises(UsageError, match=r"texts\.txt: no text has a label"):
        evaluate_classifier(artifact, None, texts=texts_of(tmp_path, UNKNOWN))


def test_a_task_that_is_no_classifiers_is_refused(artifact):
    pair = json.dumps({"sentence_good": "She hurt herself.", "sentence_bad": "She hurt himself."})
    with pytest.raises(UsageError, match=r"a\.jsonl: a text classifier has no sentences"):
        evaluate_classifier(artifact, None, tasks=[read_task(pair, "a.jsonl")])


def test_a_model_that_does_not_say_a_number_for_each_label_is_refused(artifact, task):
    broken = replace(artifact, labels=(*artifact.labels, "more"))
    with pytest.raises(ModelError, match="a finite number for each of 5 labels, got 4"):
        evaluate_classifier(broken, None, tasks=[task])
