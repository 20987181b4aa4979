"""A cut model is a model of its family: transformers loads it, GGUF and ONNX compute the same."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from slmops.build.checkpoint import open_checkpoint
from slmops.build.corpus import SENTENCES
from slmops.build.ledger import parse
from slmops.build.measure import measure_many
from slmops.build.open_classifier import OnnxClassifier
from slmops.build.quantize_classifier import quantize_classifier
from slmops.build.quantize_gguf import quantize_gguf
from slmops.build.quantize_onnx import quantize_onnx
from slmops.errors import DocumentError, ModelError, UsageError
from slmops.profile.load import load_profile
from slmops.train.cut_model import cut_model
from slmops.train.cuts import body_of
from slmops.train.mask import Pattern
from slmops.train.open_trainable import load_weights
from slmops.train.prune import FILE_NAME, Cutting, prune
from slmops.train.pruning import AXES, Pruning
from slmops.train.read_calibration import read_calibration
from slmops.train.study_influence import rank, watch
from slmops.train.weigh_cut import Scale

SIZES = {
    "vocab_size": 384, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "initializer_range": 0.15,
    "tie_word_embeddings": True,
}  # fmt: skip
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}
FAMILIES = {
    "LlamaForCausalLM": {"tie_word_embeddings": False},
    "MistralForCausalLM": {},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {"head_dim": 32},
    "Phi3ForCausalLM": {"original_max_position_embeddings": 64},
    "Gemma2ForCausalLM": GEMMA,
    "Gemma3ForCausalLM": {**GEMMA, "num_hidden_layers": 7},
    "GPT2LMHeadModel": {"n_inner": 192},
}
ENCODERS = ("Bert", "DistilBert", "Roberta", "XLMRoberta")
EVERYTHING = Pruning(layers=2, heads=2, mlp=96, hidden=64)
BY_FAMILY = {
    "Qwen2ForCausalLM": Pruning(layers=2, heads=2, mlp=96),
    "Phi3ForCausalLM": Pruning(layers=2, mlp=96, hidden=64),
    "GPT2LMHeadModel": Pruning(layers=2, heads=2, mlp=96),
    "Gemma3ForCausalLM": Pruning(layers=6, heads=2, mlp=96, hidden=64),
}
PLAIN = Cutting(Pruning(layers=3), tokens=512)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer.json, and a file of text in its words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|begin|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=380, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    room = tmp_path_factory.mktemp("words")
    tokenizer.save(str(room / "tokenizer.json"))
    (room / "text.txt").write_text("<|endoftext|>".join(SENTENCES))
    return SimpleNamespace(tokenizer=room / "tokenizer.json", text=room / "text.txt")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, words):
    """Return what makes a small lively model of a family, once: teacher(architecture)."""
    room, made = tmp_path_factory.mktemp("teachers"), {}

    def make(architecture):
        if architecture not in made:
            made[architecture] = write_teacher(room / architecture, architecture, words)
        return made[architecture]

    return make


def write_teacher(folder, architecture, words, **otherwise):
    """Write a model with random weights whose norms all differ."""
    family = getattr(transformers, architecture)
    said = {**SIZES, **FAMILIES.get(architecture, {"num_labels": 4, "pad_token_id": 1})}
    if architecture == "GPT2LMHeadModel":
        del said["num_key_value_heads"], said["intermediate_size"]
    if architecture.startswith("DistilBert"):
        said |= {"dim": 128, "hidden_dim": 192, "n_layers": 4, "n_heads": 4}
    said |= otherwise
    torch.manual_seed(5)
    model = family(family.config_class(**said))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name.lower() or ".ln_" in name or name.endswith("bias"):
                weight.add_(torch.randn_like(weight) / 4)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "tokenizer.json").write_bytes(words.tokenizer.read_bytes())
    ends = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(ends))
    return open_checkpoint(folder)


def loaded(folder, architecture):
    """Return the model as transformers itself loads it."""
    how = {"attn_implementation": "eager"} if architecture.startswith("Gemma") else {}
    return getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32, **how).eval()


def logits(model, ids):
    """Return what a model says after `ids`."""
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def assert_same(one, other):
    """See that two models are one: the same weights, and the same answers but for the order of sums."""
    theirs = dict(other.named_parameters())
    assert all(torch.equal(weight, theirs[name]) for name, weight in one.named_parameters())
    ids = torch.arange(2, 40)[None]
    assert (logits(one, ids) - logits(other, ids)).abs().max() < 1e-4


@pytest.mark.journey
@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_cut_model_of_every_family_loads_and_its_gguf_and_onnx_compute_the_same(
    architecture, teacher, words, tmp_path
):
    source, out = teacher(architecture), tmp_path / "cut"
    wish = BY_FAMILY.get(architecture, EVERYTHING)
    found = prune(source, Cutting(wish, calibration=(words.text,), tokens=1024), out)
    cut = open_checkpoint(out)
    assert cut.parameters == found.after.parameters < 0.6 * source.parameters
    assert (found.after.layers, found.after.kv_heads) != (found.before.layers, found.before.kv_heads)
    assert_same(loaded(out, architecture), load_weights(cut))
    quantize_gguf(cut, "F32", tmp_path / "model.gguf")
    quantize_onnx(cut, "F32", tmp_path / "model.onnx")
    (tmp_path / "tokenizer.json").write_bytes((out / "tokenizer.json").read_bytes())
    files = [tmp_path / "model.gguf", tmp_path / "model.onnx"]
    for file, measured in zip(files, measure_many(cut, files, tokens=192), strict=True):
        assert measured.kl_mean < 1e-5, file.name


@pytest.mark.journey
@pytest.mark.parametrize("kind", ENCODERS)
def test_a_cut_classifier_loads_and_its_onnx_computes_the_same(kind, teacher, words, tmp_path):
    architecture, out = f"{kind}ForSequenceClassification", tmp_path / "cut"
    source = teacher(architecture)
    found = prune(source, Cutting(Pruning(layers=2, mlp=96, hidden=64), calibration=(words.text,)), out)
    cut = open_checkpoint(out)
    assert cut.parameters == found.after.parameters < 0.6 * source.parameters
    ids = torch.arange(2, 30)[None]
    (tmp_path / "onnx").mkdir()
    (file, _) = quantize_classifier(cut, ["F32"], tmp_path / "onnx")["F32"]
    ours = load_weights(cut)
    assert_same(loaded(out, architecture), ours)
    wanted = logits(ours, ids)[0].numpy()
    assert np.abs(OnnxClassifier(file).logits(ids[0].tolist()) - wanted).max() < 1e-4


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Phi3ForCausalLM", "GPT2LMHeadModel"])
def test_a_model_of_which_everything_is_kept_is_the_same_bit_for_bit(architecture, teacher, words):
    source = teacher(architecture)
    model, body = load_weights(source), body_of(source.architecture, source.config)
    text = read_calibration(source, model, [words.text], 512, lambda *_: None)
    flow = watch(model, body, text.watched, lambda *_: None)
    for cut in (cut_model(model, body, body.whole), cut_model(model, body, body.whole, flow)):
        before, after = dict(model.named_parameters()), dict(cut.named_parameters())
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kept", [(2, 128, 64), (3, 172, 64), (4, 160, 32)])
def test_what_stays_makes_up_for_what_left_in_a_trained_model(kept):
    shared = Path(__file__).parents[2].parent / "shared"
    if not shared.is_dir():
        pytest.skip(f"no trained models at {shared}")
    source, story = open_checkpoint(shared / "models/stories260k"), shared / "data/tinystories_eval_200.txt"
    model, body = load_weights(source), body_of(source.architecture, source.config)
    text = read_calibration(source, model, [story], 8192, lambda *_: None)
    flow, scale = watch(model, body, text.watched, lambda *_: None), Scale(model, text.held)
    keep = rank(model, body, flow).keep((0, 1, 2, 3, 4), *kept)
    plain, mended = (scale.weigh(cut_model(model, body, keep, by)).divergence for by in (None, flow))
    assert scale.weigh(model).divergence < 1e-6
    assert mended < plain


@pytest.mark.parametrize("said", ["80%", "60%", "40%", "150k"])
def test_a_target_is_never_missed_and_not_by_far(said, teacher, words):
    source = teacher("LlamaForCausalLM")
    found = prune(source, Cutting(Pruning(said), calibration=(words.text,), tokens=512), None)
    most = 150_000 if said == "150k" else source.parameters * int(said[:-1]) // 100
    assert 0.7 * most < found.after.parameters <= most
    assert found.measured["kl_mean"] > 0


def test_a_layer_leaves_first_where_what_is_cheapest_step_by_step_ends_worse():
    demo = Path(__file__).parents[2] / "demo" / "model"
    golden, width = (demo / "golden.jsonl",), tuple(axis for axis in AXES if axis != "layers")
    free, shallow = (
        prune(open_checkpoint(demo), Cutting(Pruning("40%", axes=axes), calibration=golden), None)
        for axes in (AXES, width)
    )
    # Step by step no layer would leave: what is narrower costs less at each.
    assert (free.after.layers, shallow.after.layers) == (1, 2)
    assert free.measured["kl_mean"] < shallow.measured["kl_mean"] / 2
    assert free.steps[0].axis == "layers"


def test_only_the_axes_that_are_named_are_cut(teacher, words):
    source = teacher("LlamaForCausalLM")
    wish = Pruning("75%", axes=("layers",))
    found = prune(source, Cutting(wish, calibration=(words.text,), tokens=512), None)
    assert found.after.layers < found.before.layers
    assert (found.after.inner, found.after.heads, found.after.hidden) == (192, 4, 128)
    assert len(found.without) == len(found.bends) == 4


def test_the_model_writes_its_own_text_where_none_is_given_and_says_what_it_is_made_of(teacher, tmp_path):
    source = teacher("MistralForCausalLM")
    found = prune(source, PLAIN, tmp_path / "cut")
    said = json.loads((tmp_path / "cut" / FILE_NAME).read_text())
    assert said["source"] == source.digest
    assert said["keep"]["layers"] == list(found.keep.layers)
    assert len(found.keep.layers) == 3
    assert said["calibration"] == "the model's own writing"
    assert not list(tmp_path.glob("**/.writing"))
    ledger = parse((tmp_path / "cut" / "ledger.json").read_text(), "ledger.json")
    assert ledger.gauge["texts"] == "held back of the model's own writing"
    before, after = ledger.stages
    assert (before.digest, before.parameters) == (source.digest, source.parameters)
    assert after.digest == open_checkpoint(tmp_path / "cut").digest
    assert after.measured["kl_mean"] == found.measured["kl_mean"]
    assert before.measured["bits_per_byte"] == found.measured["source_bits_per_byte"]


@pytest.mark.parametrize("architecture", ["Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_a_model_whose_config_does_not_name_the_kinds_of_its_layers_loads_when_some_have_left(
    architecture, words, tmp_path
):
    folder = write_teacher(tmp_path / "plain", architecture, words).folder
    said = json.loads((folder / "config.json").read_text())
    del said["layer_types"]
    (folder / "config.json").write_text(json.dumps(said))
    prune(
        open_checkpoint(folder),
        Cutting(Pruning(layers=2), calibration=(words.text,), tokens=512),
        tmp_path / "cut",
    )
    cut = open_checkpoint(tmp_path / "cut")
    assert_same(loaded(cut.folder, architecture), load_weights(cut))


def test_a_gpt2_whose_config_leaves_its_inner_width_to_follow_is_cut_like_any(words, tmp_path):
    folder = write_teacher(tmp_path / "plain", "GPT2LMHeadModel", words, n_inner=None).folder
    assert json.loads((folder / "config.json").read_text())["n_inner"] is None
    wish = Cutting(Pruning(heads=2), calibration=(words.text,), tokens=512)
    found = prune(open_checkpoint(folder), wish, tmp_path / "cut")
    assert (found.after.hidden, found.after.inner) == (64, 512)
    assert open_checkpoint(tmp_path / "cut").shape.inner == 512
    assert loaded(tmp_path / "cut", "GPT2LMHeadModel").config.n_inner == 512


@pytest.mark.parametrize("architecture", ["Qwen2ForCausalLM", "GPT2LMHeadModel"])
@pytest.mark.parametrize("said", [{"heads": 2}, {"hidden": 64}])
def test_heads_that_are_said_leave_and_do_not_come_back(architecture, said, teacher, words):
    source = teacher(architecture)
    found = prune(source, Cutting(Pruning(**said), calibration=(words.text,), tokens=512), None)
    assert (found.after.heads, found.after.hidden, found.after.layers) == (2, 64, 4)


def test_of_every_four_weights_of_a_masked_matrix_two_are_zero(teacher, words, tmp_path):
    source = teacher("GPT2LMHeadModel")
    cutting = Cutting(mask=Pattern(2, 4), calibration=(words.text,), tokens=512)
    found = prune(source, cutting, tmp_path / "cut")
    before, after = (
        dict(load_weights(one).named_parameters()) for one in (source, open_checkpoint(tmp_path / "cut"))
    )
    name = "transformer.h.1.mlp.c_fc.weight"
    kept = after[name].T.reshape(192, -1, 4) != 0
    assert kept.sum(-1).max() == 2
    assert torch.equal(after[name][after[name] != 0], before[name][after[name] != 0])
    assert found.after.bytes == found.before.bytes
    assert 0.2 < found.zeros < 0.5


@pytest.mark.parametrize(
    ("wish", "complaint"),
    [
        (Pruning("100%"), "expected fewer than the"),
        (Pruning("0%"), "expected fewer than the"),
        (Pruning("lots"), "expected 60% of the"),
        (Pruning("1%"), "so little cannot be left"),
        (Pruning(layers=5), "--layers: expected 1 to 4"),
        (Pruning(mlp=0), "--mlp: expected 1 to 192"),
        (Pruning(heads=3), "expected a multiple of 2"),
        (Pruning(), "what to cut is not said"),
        (Pruning(profile=load_profile("raspberry-pi-5")), "nothing need be cut"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_plain_words(wish, complaint, teacher, words):
    with pytest.raises(UsageError, match=complaint):
        prune(teacher("LlamaForCausalLM"), Cutting(wish, calibration=(words.text,), tokens=512), None)


def test_a_model_is_cut_until_a_device_bears_it(teacher, words):
    source = teacher("LlamaForCausalLM")
    profile = load_profile("raspberry-pi-5")
    tight = profile.model_copy(update={"storage": profile.storage.model_copy(update={"free": 700_000})})
    found = prune(source, Cutting(Pruning(profile=tight), calibration=(words.text,), tokens=512), None)
    assert found.after.parameters < source.parameters
    assert "Q8_0" in found.why
    assert "short" not in found.why


def test_words_leave_first_and_what_is_left_is_weighed_in_the_words_that_stay(teacher, tmp_path):
    source = teacher("Qwen3ForCausalLM")
    few = tmp_path / "few.txt"
    few.write_text("<|endoftext|>".join(SENTENCES[:12] * 4))
    wish = Cutting(Pruning("70%"), vocabulary=(few,), calibration=(few,), tokens=512)
    found = prune(source, wish, tmp_path / "cut")
    cut = open_checkpoint(tmp_path / "cut")
    assert found.words is not None
    assert found.after.vocab == found.words.tokens_after == cut.shape.vocab < found.before.vocab
    assert cut.parameters == found.after.parameters <= 0.7 * source.parameters
    assert 0 < found.measured["bits_per_byte"] < 100
    quantize_gguf(cut, "F32", tmp_path / "model.gguf")


def test_the_texts_that_choose_the_words_of_a_classifier_also_weigh_it(teacher, tmp_path):
    source, few = teacher("BertForSequenceClassification"), tmp_path / "few.txt"
    few.write_text("\n".join(SENTENCES[:40]))
    found = prune(source, Cutting(vocabulary=(few,)), tmp_path / "cut")
    assert found.calibration == "few.txt"
    assert found.after.vocab < found.before.vocab
    with pytest.raises(UsageError, match="nothing says which"):
        prune(source, Cutting(Pruning(layers=3), vocabulary_size=64, calibration=(few,)), None)


def test_what_an_earlier_model_had_beside_it_does_not_stay_beside_another(teacher, tmp_path):
    out = tmp_path / "cut"
    prune(teacher("LlamaForCausalLM"), PLAIN, out)
    (out / "chat_template.jinja").write_text("of another model")
    (out / "notes.txt").write_text("of a person")
    prune(teacher("LlamaForCausalLM"), PLAIN, out, force=True)
    assert open_checkpoint(out).chat_template is None
    assert (out / "notes.txt").is_file()


def test_a_folder_that_holds_an_adapter_and_a_file_are_refused_even_with_force(teacher, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "file").write_text("")
    for name, complaint in (("adapter", "holds an adapter already"), ("file", "is a file")):
        with pytest.raises(UsageError, match=complaint):
            prune(teacher("LlamaForCausalLM"), PLAIN, tmp_path / name, force=True)


def test_a_folder_that_holds_a_model_is_not_written_over_unasked(teacher, words, tmp_path):
    source = teacher("LlamaForCausalLM")
    prune(source, PLAIN, tmp_path / "cut")
    with pytest.raises(UsageError, match="holds a model already"):
        prune(source, PLAIN, tmp_path / "cut")
    with pytest.raises(UsageError, match="is the teacher itself"):
        prune(source, PLAIN, source.folder, force=True)
    prune(
        source,
        Cutting(Pruning(layers=2), calibration=(words.text,), tokens=512),
        tmp_path / "cut",
        force=True,
    )
    assert open_checkpoint(tmp_path / "cut").shape.layers == 2


def test_a_broken_model_and_a_classifier_without_text_are_refused(teacher, words, tmp_path):
    safetensors = importlib.import_module("safetensors.torch")
    source = write_teacher(Path(tmp_path / "broken"), "LlamaForCausalLM", words)
    weights = safetensors.load_file(source.folder / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    safetensors.save_file(weights, source.folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="NaN"):
        prune(open_checkpoint(source.folder), PLAIN, None)
    with pytest.raises(DocumentError, match="writes no text of its own"):
        prune(teacher("BertForSequenceClassification"), PLAIN, None)
