"""An adapter on an artifact: the same as in its source, or refused."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from slmops.artifact import description as descriptions
from slmops.artifact import golden as goldens
from slmops.artifact.description import Description
from slmops.artifact.golden import Golden, passes
from slmops.build.adapt import WITHOUT, Base, Wish, adapt
from slmops.build.checkpoint import open_checkpoint
from slmops.build.evaluate import evaluate
from slmops.build.isolate import silent
from slmops.build.merge_adapter import merge_adapter
from slmops.build.open_adapter import open_adapter, put_on
from slmops.build.open_model import Shape, open_artifact
from slmops.build.quality import Quality
from slmops.build.quantize_gguf import quantize_gguf
from slmops.build.reference import load_reference
from slmops.build.subject import find_subject
from slmops.daemon import generate
from slmops.daemon.chat import chat_ids
from slmops.daemon.load import describe, load
from slmops.daemon.sampling import Sampling
from slmops.errors import BuildError, ModelError, QualityError

DEMO = Path(__file__).parents[2] / "demo/model"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The demo model in Q8_0, as an artifact of a release."""
    checkpoint, folder = open_checkpoint(DEMO), tmp_path_factory.mktemp("base") / "local"
    folder.mkdir()
    made = quantize_gguf(checkpoint, "Q8_0", folder / "model.gguf")
    (folder / "tokenizer.json").write_bytes((DEMO / "tokenizer.json").read_bytes())
    (folder / "chat_template.jinja").write_text(checkpoint.chat_template)
    said = Description(
        name="demo", version="1.0.0", profile="local", arch="x86_64", format="gguf", type="Q8_0",
        model="model.gguf", architecture=checkpoint.architecture, parameters=1, context=256, threads=1,
        micro_batch=32, memory_bytes=1000, tokenizer="tokenizer.json", chat_template="chat_template.jinja",
        special_tokens=checkpoint.special_tokens, add_bos=checkpoint.add_bos,
        stop_ids=list(checkpoint.stop_ids), predicted={"weights": 600},
        measured={"bits_per_weight": made.bits_per_weight},
        source={"id": "demo", "digest": checkpoint.digest},
    )  # fmt: skip
    (folder / descriptions.FILE_NAME).write_bytes(descriptions.render(said))
    return Base(folder, said, "sha256:one")


@pytest.fixture
def own(garage, tmp_path):
    """The adapter, in a folder that a test may change."""
    return shutil.copytree(garage, tmp_path / "own")


def adapted(folder):
    return put_on(open_checkpoint(DEMO), open_adapter(folder))


def answer(folder, asked):
    """Return what a daemon says that serves the artifact in `folder`."""
    model = load(folder, describe(folder))
    ids = chat_ids(model.vocabulary, model.template, asked.messages, datetime.now(UTC))
    return "".join(piece.text for piece in model.answer(generate.Wish(ids, asked.max_tokens, Sampling())))


@pytest.fixture(scope="module")
def made(base, garage, tmp_path_factory):
    """The same with the adapter on."""
    (one,) = adapt([base], adapted(garage), Wish("demo", "1.1.0"), tmp_path_factory.mktemp("made"), silent)
    return one


def test_what_is_served_is_what_the_source_says_once_it_is_merged(base, garage, made):
    said = descriptions.parse((made.folder / descriptions.FILE_NAME).read_bytes())
    assert (said.reference, said.base, said.adapter) == ("demo:1.1.0", "demo:1.0.0", "adapter.gguf")
    assert (made.folder / said.model).samefile(base.folder / said.model)
    nbytes = (garage / "adapter.gguf").stat().st_size
    assert (made.folder / said.adapter).stat().st_size == nbytes
    assert (said.memory_bytes, said.predicted["weights"]) == (1000 + nbytes, 600 + nbytes)
    assert 10 * said.measured["kl_mean"] < 0.1 < said.measured[WITHOUT]

    recorded = goldens.questions(goldens.read((made.folder / goldens.FILE_NAME).read_text()))
    assert recorded
    assert made.telling > 0
    told = {asked.question: answer(made.folder, asked) for asked in recorded}
    assert all(passes(asked, told[asked.question]) for asked in recorded)
    assert any(not passes(asked, answer(base.folder, asked)) for asked in recorded)


@pytest.mark.journey
def test_an_adapted_artifact_is_evaluated_with_its_adapter_on(garage, made):
    found = evaluate(find_subject(str(made.folder)), adapted(garage), tokens=64, speed=True)
    assert found.measured.kl_mean < 0.01
    assert found.bytes == sum((made.folder / name).stat().st_size for name in ("model.gguf", "adapter.gguf"))
    assert found.timing.decode_per_second > 0


@pytest.mark.journey
def test_golden_prompts_of_a_person_are_asked_of_model_and_adapter(base, garage, tmp_path):
    ask = [{"role": "user", "content": "turn on the kitchen lamp"}]
    asked = (Golden({"room": "kitchen"}, "json", messages=ask),)
    (made,) = adapt([base], adapted(garage), Wish("demo", "1.1.0", asked, tokens=64), tmp_path, silent)
    assert "garage" in made.unanswered[0]


def test_merging_adds_what_peft_adds(garage):
    peft = pytest.importorskip("peft")
    checkpoint = open_checkpoint(DEMO)
    ours, theirs = (load_reference(checkpoint, lambda _: None) for _ in range(2))
    merge_adapter(ours, open_adapter(garage))
    theirs = peft.PeftModel.from_pretrained(theirs, garage).merge_and_unload()
    merged = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        assert np.allclose(weight.detach().numpy(), merged[name].detach().numpy(), atol=1e-6)


def test_an_adapter_of_a_matrix_stored_the_other_way_round_is_turned(own):
    chance, name = np.random.default_rng(0), "model.layers.0.self_attn.v_proj"
    a, b = (chance.normal(size=shape).astype("f4") for shape in ((8, 256), (64, 8)))
    sides = {f"base_model.model.{name}.lora_{side}.weight": said for side, said in (("A", a), ("B", b))}
    save_file(sides, own / "adapter_model.safetensors")
    config = json.loads((own / "adapter_config.json").read_text())
    (own / "adapter_config.json").write_text(json.dumps({**config, "fan_in_fan_out": True}))
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.zeros(256, 64))
    model = torch.nn.Module()
    model.named_parameters = lambda: [(f"{name}.weight", weight)]
    merge_adapter(model, open_adapter(own))
    assert np.allclose(weight.detach().numpy(), 2 * (b @ a).T, atol=1e-5)


def test_an_adapter_of_another_model_is_refused(own):
    origin = json.loads((own / "adapter.json").read_text())
    (own / "adapter.json").write_text(json.dumps({**origin, "base_digest": "sha256:" + "0" * 64}))
    with pytest.raises(ModelError, match="was trained for another model, demo: that one's digest is"):
        adapted(own)


def test_a_release_of_another_model_is_refused(base, garage, tmp_path):
    other = replace(base.description, source={"id": "other", "digest": "sha256:" + "1" * 64})
    with pytest.raises(ModelError, match=r"demo:1\.0\.0 was made of other, digest 111111111111"):
        adapt([replace(base, description=other)], adapted(garage), Wish("demo", "1.1.0"), tmp_path, silent)


def test_an_onnx_model_takes_no_adapter_and_is_told_what_to_do(base, garage, tmp_path):
    other = replace(base.description, format="onnx", model="model.onnx")
    with pytest.raises(ModelError, match="only gguf models that generate take an adapter") as error:
        adapt([replace(base, description=other)], adapted(garage), Wish("demo", "1.1.0"), tmp_path, silent)
    assert "--merge" in error.value.remedy


def test_a_gguf_that_says_otherwise_than_the_source_is_refused(base, own, write_adapter, tmp_path):
    write_adapter(own, alpha=-16.0)
    with pytest.raises(BuildError, match="is not what its source learned"):
        adapt([base], adapted(own), Wish("demo", "1.1.0", tokens=64), tmp_path, silent)


def test_a_gguf_for_other_shapes_is_a_build_error_with_the_runtimes_words(base, own, write_adapter):
    write_adapter(own, cut=100)
    with pytest.raises(BuildError, match=r"cannot put adapter\.gguf on model\.gguf: .*incorrect shape"):
        open_artifact(base.folder / "model.gguf", Shape(64), own / "adapter.gguf")


@pytest.mark.journey
def test_a_gate_that_is_not_kept_is_a_quality_error(base, garage, tmp_path):
    gate = Quality(kl=1e-9)
    with pytest.raises(QualityError, match="with the adapter does not keep the gate: mean divergence"):
        adapt([base], adapted(garage), Wish("demo", "1.1.0", tokens=64, gate=gate), tmp_path, silent)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter.gguf"])
def test_a_folder_that_lacks_something_is_no_adapter(own, name):
    (own / name).unlink()
    with pytest.raises(ModelError, match=f"it has no {name}"):
        open_adapter(own)


@pytest.mark.parametrize("more", [{"use_dora": True}, {"peft_type": "IA3"}, {"alpha_pattern": {"q": 3}}])
def test_more_than_lora_is_refused(own, more):
    config = json.loads((own / "adapter_config.json").read_text())
    (own / "adapter_config.json").write_text(json.dumps({**config, **more}))
    with pytest.raises(ModelError, match="expected plain LoRA, got"):
        open_adapter(own)


def test_half_a_pair_is_refused_by_name(own):
    file = own / "adapter_model.safetensors"
    tensors = load_file(file)
    gone = next(name for name in tensors if "lora_B" in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, file)
    with pytest.raises(ModelError, match="half of one for model"):
        open_adapter(own)
