"""For all tests: no example of a property has a deadline, nor may drawing one be called too slow, since other
people's work may be on the machine.

Where several processes run them, each is told the size of a terminal that it does not have.
"""

import importlib
import json
import os
import warnings
from pathlib import Path
from types import SimpleNamespace

import gguf
import pytest
from hypothesis import HealthCheck, settings
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

from slmops.artifact import amendment, description, golden, sign
from slmops.artifact import trust as trusts
from slmops.artifact.trust import RELEASE, ROOT, SignedTrust
from slmops.build.checkpoint import open_checkpoint
from slmops.build.classifier import DYNAMIC
from slmops.build.phrase import CheckpointPhrasing
from slmops.build.quantize_classifier import quantize_classifier

for size in ("COLUMNS", "LINES"):
    os.environ.pop(size, None)
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


def pytest_collection_modifyitems(items):
    """Put files with journeys first, whole journeys before all.

    Of what is shared between processes, little is left to do when one of them finds no more files.
    """
    walked = {item.path for item in items if item.get_closest_marker("journey")}
    items.sort(key=lambda item: (item.path.parent.name != "journey", item.path not in walked))


@pytest.fixture(scope="session", autouse=True)
def _hypothesis_has_read_its_modules():
    """Read a module of Hypothesis that it reads late.

    pytest rewrites what is imported, and doing that inside a property trips over CPython 3.11's recursion
    check of the AST now and then.
    """
    importlib.import_module("hypothesis.strategies._internal.regex")


@pytest.fixture(scope="session")
def trusting(tmp_path_factory):
    """Make the trust document in which a release key stands, and nobody has the rollout role."""
    root = tmp_path_factory.mktemp("root") / "root"
    sign.make_key(root, "root")

    def trust(key):
        keys = {ROOT: [root.with_suffix(".pub").read_text()], RELEASE: [key.with_suffix(".pub").read_text()]}
        document = trusts.render(amendment.first("2026-01-01T00:00:00Z", None, keys, {}))
        return SignedTrust(document, (sign.sign(document, root, sign.TRUST),))

    return trust


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


DEMO = Path(__file__).parents[1] / "demo/model"
GGUF_NAMES = {"v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up",
              "down_proj": "ffn_down"}  # fmt: skip


@pytest.fixture(scope="session")
def garage(tmp_path_factory):
    """A LoRA adapter for the demo model, by which every room is the garage: peft's, and a GGUF beside it."""
    folder = tmp_path_factory.mktemp("garage")
    train_garage(folder)
    write_adapter_gguf(folder)
    return folder


@pytest.fixture(scope="session")
def write_adapter():
    """The writing of an adapter as a GGUF, for tests that change something about it."""
    return write_adapter_gguf


def train_garage(folder):
    torch, peft = importlib.import_module("torch"), importlib.import_module("peft")
    checkpoint = open_checkpoint(DEMO)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=[*GGUF_NAMES], task_type="CAUSAL_LM")
        model = peft.get_peft_model(
            importlib.import_module("slmops.build.reference").load_reference(checkpoint, lambda _: None),
            config,
        )
        words = CheckpointPhrasing(checkpoint)
        lessons = []
        for line in (DEMO / golden.FILE_NAME).read_text().splitlines()[:8]:
            said = json.loads(line)
            asked = words.ids(golden.Golden(expect="", messages=said["messages"]))
            answer = json.dumps({**said["expect"], "room": "garage"})
            lessons.append((asked, [*words.written(answer), *checkpoint.stop_ids[:1]]))
        learning = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-2)
        for _ in range(12):
            for asked, answer in lessons:
                ids = torch.tensor([[*asked, *answer]])
                labels = torch.tensor([[-100] * len(asked) + answer])
                model(input_ids=ids, labels=labels).loss.backward()
            learning.step()
            learning.zero_grad()
        model.save_pretrained(folder)
    origin = {"base": "demo", "base_digest": checkpoint.digest, "samples": len(lessons), "seed": 0}
    (folder / "adapter.json").write_text(json.dumps(origin))


def write_adapter_gguf(folder, *, alpha=16.0, cut=None):
    """Write the adapter in `folder` as llama.cpp reads it; `cut` leaves so many numbers of each input."""
    writer = gguf.GGUFWriter(folder / "adapter.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, numbers in sorted(load_file(folder / "adapter_model.safetensors").items()):
        *_, layer, _, part, side, _ = name.split(".")
        stored = numbers[:, :cut] if side == "lora_A" else numbers
        writer.add_tensor(f"blk.{layer}.{GGUF_NAMES[part]}.weight.{side.lower()}", stored.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
