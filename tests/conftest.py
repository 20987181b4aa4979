"""For all tests: no example of a property has a deadline, since other people's work may be on the machine."""

import importlib
import json
from types import SimpleNamespace

import pytest
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers

from slmops.artifact import description
from slmops.build.checkpoint import open_checkpoint
from slmops.build.classifier import DYNAMIC
from slmops.build.quantize_classifier import quantize_classifier

settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def _hypothesis_has_read_its_modules():
    """Read a module of Hypothesis that it reads late.

    pytest rewrites what is imported, and doing that inside a property trips over CPython 3.11's recursion
    check of the AST now and then.
    """
    importlib.import_module("hypothesis.strategies._internal.regex")


LABELS = ["lost", "found", "late", "paid"]
WORDS = ["[PAD]", "[UNK]", *(f"w{number}" for number in range(80))]


@pytest.fixture(scope="session")
def labelling(tmp_path_factory):
    """A small random Bert that labels texts: its `source`, an `artifact` of it, and a `task`, 40 texts."""
    room = tmp_path_factory.mktemp("labelling")
    source, artifact, task = room / "bert", room / "artifact", room / "task.jsonl"
    artifact.mkdir()
    write_bert(source)
    (file, _) = quantize_classifier(open_checkpoint(source), [DYNAMIC], artifact)[DYNAMIC]
    (artifact / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    said = description.Description(
        name="intents", version="1.0.0", profile="local", arch="x86_64", format="onnx", type=DYNAMIC,
        model=file.name, architecture="Bert", parameters=1, context=32, threads=1, micro_batch=32,
        memory_bytes=1, tokenizer="tokenizer.json", task=description.CLASSIFICATION, labels=LABELS,
    )  # fmt: skip
    (artifact / "artifact.json").write_bytes(description.render(said))
    lines = [{"text": " ".join(WORDS[n + 2 : n + 9]), "category": LABELS[n % 4]} for n in range(40)]
    task.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return SimpleNamespace(source=source, artifact=artifact, task=task)


def write_bert(folder):
    """Write a Hugging Face folder; torch is read by the tests alone that need it."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, max_position_embeddings=64, num_labels=len(LABELS), initializer_range=0.5,
    )  # fmt: skip
    config.id2label = dict(enumerate(LABELS))
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
