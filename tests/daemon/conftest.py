"""Artifacts small enough to be made in a test, and a real daemon to serve them.

One tiny Llama (two layers, GQA, rotary positions) is written twice, as GGUF and as an ONNX graph, from
the same weights. With random weights it is for comparing engines; as a *parrot* it has weights by
which each token names the next, so that what it says is known: SENTENCE after <|assistant|>, and
"xyzxyz..." without an end after "x".
"""

import dataclasses
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import gguf
import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from slmops.artifact.description import FILE_NAME, Description, render

REPO = Path(__file__).parents[2]
VOCABULARY, HEADS, HEAD, FORWARD, LAYERS, EPSILON = 320, 2, 32, 64, 2, 1e-5
TRAINED = 32768
CONTROLS = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"]
DIGEST = "sha256:" + "0" * 64
SENTENCE = "Grün, 猫!"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    "<|{{ message.role }}|>{{ message.content | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def alphabet():
    """The characters by which byte-level vocabularies write bytes, in the order of GPT-2."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def make_tokenizer():
    letters = alphabet()
    merges = [(first, second) for first in "aeinorst" for second in "aeinorst"][: VOCABULARY - 256 - 4]
    tokens = [*CONTROLS, *letters, *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, merges))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROLS])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    return tokenizer, tokens, merges


def random_weights():
    chance = np.random.default_rng(7)

    def matrix(rows, columns):
        return chance.normal(0, 0.5 / np.sqrt(columns), (rows, columns)).astype(np.float32)

    weights = {
        "token_embd": matrix(VOCABULARY, VOCABULARY) * 20,
        "output": matrix(VOCABULARY, VOCABULARY) * 4,
    }
    for layer in range(LAYERS):
        shapes = {
            "attn_q": (HEADS * HEAD, VOCABULARY),
            "attn_k": (HEAD, VOCABULARY),
            "attn_v": (HEAD, VOCABULARY),
            "attn_output": (VOCABULARY, HEADS * HEAD),
            "ffn_gate": (FORWARD, VOCABULARY),
            "ffn_up": (FORWARD, VOCABULARY),
            "ffn_down": (VOCABULARY, FORWARD),
        }
        weights |= {f"blk.{layer}.{name}": matrix(*shape) * 4 for name, shape in shapes.items()}
    return weights


def parrot_weights():
    """Weights by which the next token is looked up by the last: attention and forward say nothing."""
    tokenizer, _, _ = make_tokenizer()
    said = tokenizer.encode(SENTENCE, add_special_tokens=False).ids
    assert len(set(said)) == len(said), "each token can have one successor only"
    names = tokenizer.get_vocab()
    after = dict(zip([names["<|assistant|>"], *said], [*said, names["<|end|>"]], strict=True))
    after |= {names["x"]: names["y"], names["y"]: names["z"], names["z"]: names["x"]}
    weights = {name: np.zeros_like(weight) for name, weight in random_weights().items()}
    weights["token_embd"] = np.eye(VOCABULARY, dtype=np.float32)
    for token, following in after.items():
        weights["output"][following, token] = 1.0
    return weights


def write_gguf(path, weights, *, tokenizer=True, pre="gpt-2"):
    _, tokens, merges = make_tokenizer()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(TRAINED)
    writer.add_embedding_length(VOCABULARY)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(EPSILON)
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([3] * len(CONTROLS) + [1] * (VOCABULARY - len(CONTROLS)))
        writer.add_token_merges([" ".join(merge) for merge in merges])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_add_bos_token(True)
    else:
        write_letters(writer)
    ones = np.ones(VOCABULARY, np.float32)
    norms = [f"blk.{layer}.{name}_norm" for layer in range(LAYERS) for name in ("attn", "ffn")]
    for name, weight in (weights | dict.fromkeys([*norms, "output_norm"], ones)).items():
        writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_adapter(path, after, *, inputs=VOCABULARY):
    """Write a LoRA adapter for the parrot, by which other tokens follow: `after` by token."""
    names = make_tokenizer()[0].get_vocab()
    a = np.zeros((len(after), inputs), np.float32)
    b = np.zeros((VOCABULARY, len(after)), np.float32)
    for rank, (token, following) in enumerate(after.items()):
        a[rank, names[token]], b[names[following], rank] = 1, 10
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", len(after))
    writer.add_tensor("output.weight.lora_a", a)
    writer.add_tensor("output.weight.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_letters(writer):
    """A SentencePiece vocabulary of a few letters and no byte tokens."""
    tokens = ["<unk>", *CONTROLS, "▁", *"abcdefghijklmnopqrstuvwxyz", "th", "▁a"]
    tokens += [f"<filler{at}>" for at in range(VOCABULARY - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(at) for at in range(VOCABULARY)])
    writer.add_token_types([2] + [3] * len(CONTROLS) + [1] * (VOCABULARY - 1 - len(CONTROLS)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


class Graph:
    """An ONNX graph being written, node by node."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, array):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, kind, *inputs, output=None, **attributes):
        name = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name


def write_onnx(path, weights, *, rows="rows", positions=True):  # noqa: PLR0915
    """Write a graph as optimum does; `rows` that are 1, or no `positions`, are other exporters' ways."""
    graph = Graph()
    op, constant = graph.op, graph.constant

    def linear(x, name):
        return op("MatMul", x, constant(weights[name].T.copy()))

    def norm(x):
        mean = op("ReduceMean", op("Mul", x, x), constant(np.array([-1])), keepdims=1)
        return op("Div", x, op("Sqrt", op("Add", mean, constant(np.float32(EPSILON)))))

    def heads(x, count):
        shaped = op("Reshape", x, constant(np.array([0, -1, count, HEAD])))
        return op("Transpose", shaped, perm=[0, 2, 1, 3])

    def rotate(x):
        pairs = op("Reshape", x, constant(np.array([0, 0, -1, HEAD // 2, 2])), allowzero=0)
        first = op("Gather", pairs, constant(np.int64(0)), axis=4)
        second = op("Gather", pairs, constant(np.int64(1)), axis=4)
        turned = op("Sub", op("Mul", first, cosine), op("Mul", second, sine))
        following = op("Add", op("Mul", first, sine), op("Mul", second, cosine))
        last = constant(np.array([4]))
        both = op("Concat", op("Unsqueeze", turned, last), op("Unsqueeze", following, last), axis=4)
        return op("Reshape", both, op("Shape", x))

    angles = np.arange(TRAINED)[:, None] * 10000.0 ** (-np.arange(0, HEAD, 2) / HEAD)[None]
    total = op("Gather", op("Shape", "attention_mask"), constant(np.int64(1)))
    read = op("Sub", total, op("Gather", op("Shape", "input_ids"), constant(np.int64(1))))
    given = op("Range", read, total, constant(np.int64(1)))
    places = op("Unsqueeze", "position_ids" if positions else given, constant(np.array([1])))
    cosine = op("Gather", constant(np.cos(angles).astype(np.float32)), places)
    sine = op("Gather", constant(np.sin(angles).astype(np.float32)), places)
    if not positions:
        cosine, sine = (op("Transpose", each, perm=[1, 0, 2]) for each in (cosine, sine))
    keys = op("Range", constant(np.int64(0)), total, constant(np.int64(1)))
    later = op("Greater", keys, op("Unsqueeze", given, constant(np.array([1]))))
    there = op("Cast", op("Unsqueeze", "attention_mask", constant(np.array([1, 2]))), to=TensorProto.BOOL)
    hidden = op("Or", later, op("Not", there))
    mask = op("Where", hidden, constant(np.float32(-np.inf)), constant(np.float32(0)))
    x = op("Gather", constant(weights["token_embd"]), "input_ids")
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        y = norm(x)
        q = rotate(heads(linear(y, block + "attn_q"), HEADS))
        k = rotate(heads(linear(y, block + "attn_k"), 1))
        v = heads(linear(y, block + "attn_v"), 1)
        k = op("Concat", f"past_key_values.{layer}.key", k, axis=2, output=f"present.{layer}.key")
        v = op("Concat", f"past_key_values.{layer}.value", v, axis=2, output=f"present.{layer}.value")
        scores = op("MatMul", q, op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = op("Add", op("Div", scores, constant(np.float32(np.sqrt(HEAD)))), mask)
        mixed = op("Transpose", op("MatMul", op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        mixed = op("Reshape", mixed, constant(np.array([0, -1, HEADS * HEAD])))
        x = op("Add", x, linear(mixed, block + "attn_output"))
        y = norm(x)
        gate = linear(y, block + "ffn_gate")
        gated = op("Mul", op("Mul", gate, op("Sigmoid", gate)), linear(y, block + "ffn_up"))
        x = op("Add", x, linear(gated, block + "ffn_down"))
    op("MatMul", norm(x), constant(weights["output"].T.copy()), output="logits")

    def value(name, kind, *shape):
        return helper.make_tensor_value_info(name, kind, shape)

    cache = [f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
    inputs = [
        value("input_ids", TensorProto.INT64, rows, "tokens"),
        value("attention_mask", TensorProto.INT64, rows, "total"),
        *([value("position_ids", TensorProto.INT64, rows, "tokens")] if positions else []),
        *(value(f"past_key_values.{name}", TensorProto.FLOAT, rows, 1, "past", HEAD) for name in cache),
    ]
    outputs = [
        value("logits", TensorProto.FLOAT, rows, "tokens", VOCABULARY),
        *(value(f"present.{name}", TensorProto.FLOAT, rows, 1, "total", HEAD) for name in cache),
    ]
    made = helper.make_graph(graph.nodes, "tiny", inputs, outputs, graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def make_artifact(folder, kind, weights, **changes):
    """Write an artifact folder as a builder would."""
    folder.mkdir(parents=True)
    model = f"model.{kind}"
    (write_gguf if kind == "gguf" else write_onnx)(folder / model, weights)
    tokenizer, _, _ = make_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    description = Description(
        name="parrot",
        version="1.0.0",
        profile="local",
        arch="x86_64",
        format=kind,
        type="F32",
        model=model,
        architecture="llama",
        parameters=1,
        context=TRAINED,
        threads=1,
        micro_batch=32,
        memory_bytes=1,
        tokenizer="tokenizer.json",
        chat_template="chat_template.jinja",
        special_tokens={"bos_token": "<|begin|>", "eos_token": "<|end|>"},
        stop_ids=[1],
    )
    (folder / FILE_NAME).write_bytes(render(dataclasses.replace(description, **changes)))
    return folder


@pytest.fixture(scope="session")
def tiny():
    """The making of artifacts, for tests that change something about them."""
    return sys.modules[__name__]


@pytest.fixture(scope="session", params=["gguf", "onnx"])
def parrot(request, tmp_path_factory):
    """An artifact whose answers are known, in both formats."""
    return make_artifact(tmp_path_factory.mktemp("made") / "parrot", request.param, parrot_weights())


@pytest.fixture(scope="session", params=["gguf", "onnx"])
def random_model(request, tmp_path_factory):
    """An artifact with random weights, in both formats."""
    return make_artifact(tmp_path_factory.mktemp("made") / "random", request.param, random_weights())


class Daemon:
    """A daemon process: where it listens, and what it says."""

    def __init__(self, artifact, folder, *options, under=()):
        """`under` are the words of a program that runs it."""
        self.spool = folder / "spool"
        self.log = folder / "log"
        self.port_file = folder / "port"
        command = [*under, sys.executable, "-m", "slmops.daemon", "--artifact", artifact, "--port", "0"]
        command += ["--port-file", self.port_file, "--spool", self.spool, "--digest", DIGEST, *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                list(map(str, command)), cwd=REPO, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )

    def until(self, happened):
        """Wait until something has happened that the daemon does."""
        while not happened():
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.01)
                raise AssertionError(self.log.read_text())

    @property
    def url(self):
        self.until(self.port_file.exists)
        return f"http://127.0.0.1:{self.port_file.read_text().strip()}"

    @contextmanager
    def client(self):
        """Give an HTTP client, once the daemon is ready."""
        with httpx.Client(base_url=self.url, timeout=60) as client:
            self.until(lambda: client.get("/readyz").status_code == httpx.codes.OK)
            yield client

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextmanager
def daemon(artifact, folder, *options, under=()):
    """Run a daemon for the length of a with block."""
    folder.mkdir(parents=True, exist_ok=True)
    running = Daemon(artifact, folder, *options, under=under)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


@pytest.fixture(scope="session")
def run_daemon(tmp_path_factory):
    """A context manager that runs a daemon on an artifact."""
    return lambda artifact, *options: daemon(artifact, tmp_path_factory.mktemp("daemon"), *options)


@pytest.fixture(scope="session")
def speaking(parrot, run_daemon):
    """A ready daemon that serves the parrot."""
    with run_daemon(parrot) as running, running.client() as client:
        running.http = client
        yield running
