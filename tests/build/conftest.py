"""Small random models as Hugging Face folders, made without torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from slmops.build.checkpoint import Checkpoint, open_checkpoint
from slmops.build.corpus import SENTENCES

SIZES = {
    "vocab_size": 384,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


GPT2_SAYS = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}


MODEL_TYPES = {"GPT2LMHeadModel": "gpt2", "Gemma3ForCausalLM": "gemma3_text"}


def config_of(architecture, **said):
    """Return the config.json of a small model as its family writes it."""
    kind = MODEL_TYPES.get(architecture, architecture.removesuffix("ForCausalLM").lower())
    config = {"architectures": [architecture], "model_type": kind, **SIZES, "tie_word_embeddings": True}
    if architecture.startswith("Gemma"):
        config |= {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 16}
    if architecture == "Phi3ForCausalLM":
        config |= {"original_max_position_embeddings": 128, "pad_token_id": 1}
    config |= said
    if architecture == "GPT2LMHeadModel":
        del config["num_key_value_heads"]
        config = {GPT2_SAYS.get(name, name): value for name, value in config.items()}
    return config


def shapes_of(architecture, config):
    """Return name and shape of every tensor of a plain model, said independently of slmops."""
    if architecture == "GPT2LMHeadModel":
        return gpt2_shapes(config)
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocab, hidden)
    for i in range(config["num_hidden_layers"]):
        block = block_shapes(architecture, config)
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in block.items()}
    return shapes


def block_shapes(architecture, config):
    """Return the tensors of one layer of any family but GPT-2's."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    usual = 128 if architecture == "Qwen3ForCausalLM" else hidden // config["num_attention_heads"]
    head = config.get("head_dim") or usual
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    norms = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    if architecture == "Phi3ForCausalLM":
        return norms | {
            "self_attn.qkv_proj.weight": (queries + 2 * keys, hidden),
            "self_attn.o_proj.weight": (hidden, queries),
            "mlp.gate_up_proj.weight": (2 * inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }
    if architecture.startswith("Gemma"):
        norms |= {f"{where}_feedforward_layernorm.weight": (hidden,) for where in ("pre", "post")}
    if architecture in ("Qwen3ForCausalLM", "Gemma3ForCausalLM"):
        norms |= {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
    if architecture == "Qwen2ForCausalLM":
        norms |= {
            f"self_attn.{name}_proj.bias": (n,) for name, n in zip("qkv", (queries, keys, keys), strict=True)
        }
    return norms | {
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }


def gpt2_shapes(config):
    """Return the tensors of a GPT-2, whose matrices have a row for each input."""
    hidden, inner = config["n_embd"], config.get("n_inner") or 4 * config["n_embd"]
    norm = {"weight": (hidden,), "bias": (hidden,)}
    shapes = {"wte.weight": (config["vocab_size"], hidden), "wpe.weight": (config["n_positions"], hidden)}
    shapes |= {f"ln_f.{part}": shape for part, shape in norm.items()}
    matrices = {
        "attn.c_attn": (hidden, 3 * hidden),
        "attn.c_proj": (hidden, hidden),
        "mlp.c_fc": (hidden, inner),
        "mlp.c_proj": (inner, hidden),
    }
    for i in range(config["n_layer"]):
        shapes |= {f"h.{i}.{name}.{part}": norm[part] for name in ("ln_1", "ln_2") for part in norm}
        for name, shape in matrices.items():
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[1:]}
    head = {} if config["tie_word_embeddings"] else {"lm_head.weight": (config["vocab_size"], hidden)}
    return {f"transformer.{name}": shape for name, shape in shapes.items()} | head


def random_weights(shapes, dtype=np.float32, seed=7):
    """Return the same normal weights for the same shapes and seed."""
    dice = np.random.default_rng(seed)
    return {name: (dice.standard_normal(shape) / 8).astype(dtype) for name, shape in sorted(shapes.items())}


def lively(architecture, name, weight):
    """Return a random weight as a model has it that neither repeats one token nor finds all alike."""
    gemma = architecture.startswith("Gemma")
    if name.endswith("weight") and ("norm" in name or ".ln_" in name):
        return weight if gemma else weight + 1
    # Gemma multiplies what it reads by the root of its width.
    return weight / 3 if gemma and "embed" in name else weight / 1.5


@pytest.fixture(scope="session")
def byte_level_tokenizer(tmp_path_factory) -> Path:
    """A byte-level BPE tokenizer.json with two special tokens, trained on the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(file))
    return file


@pytest.fixture(scope="session")
def plain_model():
    """Return what says config and tensor shapes of a small model: plain_model(architecture, **config)."""

    def say(architecture, **said):
        config = config_of(architecture, **said)
        return config, shapes_of(architecture, config)

    return say


@pytest.fixture(scope="session")
def write_folder(byte_level_tokenizer):
    """Return what writes a random model: write_folder(folder, architecture, dtype=..., **config)."""

    def write(
        folder, architecture, *, dtype=np.float32, tokenizer=None, seed=7, alive=False, ends=None, **said
    ) -> Path:
        folder.mkdir()
        config = config_of(architecture, **said)
        (folder / "config.json").write_text(json.dumps(config))
        weights = random_weights(shapes_of(architecture, config), np.float32, seed)
        if alive:
            weights = {name: lively(architecture, name, weight) for name, weight in weights.items()}
        weights = {name: weight.astype(dtype) for name, weight in weights.items()}
        save_file(weights, folder / "model.safetensors")
        (folder / "tokenizer.json").write_bytes((tokenizer or byte_level_tokenizer).read_bytes())
        names = ends or {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(names))
        return folder

    return write


@pytest.fixture
def write_model(tmp_path, write_folder):
    """Return what writes a random model folder: write_model(architecture, name=..., **config)."""

    def write(architecture="LlamaForCausalLM", *, name="model", **said) -> Path:
        return write_folder(tmp_path / name, architecture, **said)

    return write


@pytest.fixture
def write_tiny_model(write_model):
    """Return what writes a tiny model folder: write_tiny_model(name, family=..., tied=..., seed=...)."""
    architectures = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}

    def write(name="tiny", *, family="llama", tied=True, seed=0) -> Path:
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        said = {
            "model_type": family,
            "tie_word_embeddings": tied,
            "bos_token_id": 0,
            "eos_token_id": 1,
            **sizes,
        }
        return write_model(architectures[family], name=name, seed=seed, **said)

    return write


@pytest.fixture
def random_checkpoint(write_model):
    """Return what writes a random model folder and opens it."""

    def make(*args, **kwargs) -> Checkpoint:
        return open_checkpoint(write_model(*args, **kwargs))

    return make


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The trained models that may stand beside the checkout."""
    folder = Path(__file__).parents[2].parent / "shared" / "models"
    if not folder.is_dir():
        pytest.skip(f"no trained models at {folder}")
    return folder


@pytest.fixture(params=["tied", "untied"])
def tiny_graph(request):
    """The smallest ONNX graph with an embedding, a layer with a bias, and a head."""
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - a second, for two files of tests

    vocabulary, hidden, random = 50, 64, np.random.default_rng(0)
    rows = random.normal(size=(vocabulary, hidden)).astype("f4")
    # One token a hundred times the others, as the first token of real decoders is.
    rows[1] *= 100
    tied = request.param == "tied"
    weights = {
        "embedding": rows,
        "weight": random.normal(size=(hidden, hidden)).astype("f4"),
        # Large, because a runtime that fuses it in the wrong place scales it.
        "bias": np.linspace(-50, 50, hidden, dtype="f4"),
        "head": rows.T if tied else random.normal(size=(hidden, vocabulary)).astype("f4"),
    }
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["vectors"]),
        helper.make_node("MatMul", ["vectors", "weight"], ["product"], name="/model/mix/MatMul"),
        helper.make_node("Add", ["product", "bias"], ["mixed"]),
        helper.make_node("Add", ["vectors", "mixed"], ["sum"]),
        helper.make_node("MatMul", ["sum", "head"], ["logits"], name="/lm_head/MatMul"),
    ]
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", vocabulary])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture
def logits_of():
    """Return what checks a graph and runs it: logits_of(graph, ids)."""
    import onnx  # noqa: PLC0415
    import onnxruntime  # noqa: PLC0415

    def run(model, ids):
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(["logits"], {"input_ids": np.array([ids])})[0][0]

    return run
