"""How much memory the daemon takes, against what was predicted from the shape of the model alone.

For each case a random model is made, built as slmops builds it, and served by the real daemon, a router and a
worker, which is asked to fill its context twice with different prompts. Then their memory is read from /proc.

The figure that the prediction must cover is the sum of both high-water marks of the resident set, less what
is counted twice, less those pages of the mapped model file that the worker did not touch while it filled the
context the second time. These are weights that llama.cpp has repacked for this cpu, and rows of an embedding
that no token asked for: clean pages of a file, which the kernel takes back when memory is short. The sum of
the marks, nothing counted twice, is shown beside it.

Counted twice are the pages of files (Python and its libraries) that both have mapped: of each file, as many
as the one has that has fewer. It is not PSS, which would share them with whatever else runs Python here and
make the daemon look smaller than it is on a device. Pages of a file that were written to are nobody else's.

Laws: predicted / needed is at least 0.85 everywhere; above 50 MB of model it should stay under 1.35.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import numpy as np
from _measure import ROOT, progress, quick, save, show
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from slmops.artifact.description import FILE_NAME, Description, render
from slmops.build.checkpoint import Checkpoint, open_checkpoint
from slmops.build.family import expected_shapes
from slmops.build.quantize_gguf import quantize_gguf
from slmops.build.quantize_onnx import quantize_onnx
from slmops.profile.device import Format
from slmops.profile.footprint import Footprint, footprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MB: Final = 1e6
LOWEST: Final = 0.85
"""Of predicted over needed: 15 % under, at most."""
ANSWER: Final = 8
"""Tokens of each answer; the prompt is the rest of the context."""
ALONE: Final = ("!", "?")
"""Characters that no merge of the tokenizer takes, so that a prompt of n of them has n tokens."""
LONGEST: Final = 14
"""Characters of a token, at most."""
COMMON: Final = 4000
"""Tokens that longer ones are put together from, once most short ones are there."""
UNNAMED: Final = f"sha256:{'0' * 64}"
CONTROLS: Final = ("<|begin|>", "<|end|>")
SILENT: Final[dict[str, Any]] = {
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "hidden_act": "silu",
    "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float16",
}  # fmt: skip
FAMILIES: Final = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}


@dataclass(frozen=True)
class Model:
    """A random model to be made."""

    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocab: int
    tied: bool = True
    more: dict[str, Any] = field(default_factory=dict)
    """What else its config.json says."""

    @property
    def config(self) -> dict[str, Any]:
        """Return its config.json."""
        return {
            **SILENT, "model_type": self.family, "architectures": [FAMILIES[self.family]],
            "hidden_size": self.hidden, "num_hidden_layers": self.layers, "intermediate_size": self.inner,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab, "tie_word_embeddings": self.tied, **self.more,
        }  # fmt: skip

    def __str__(self) -> str:
        """Name it by what decides its memory."""
        shared = "MHA" if self.heads == self.kv_heads else f"GQA{self.heads // self.kv_heads}"
        tied = "tied" if self.tied else "untied"
        return f"{self.family} {self.layers}x{self.hidden} {shared} {self.vocab} {tied}"


@dataclass(frozen=True)
class Taken:
    """Bytes that a daemon took."""

    mark: int
    """High-water marks of the resident sets of router and worker, pages of both counted once."""
    idle: int
    """Of the mapped model file: resident, and not touched by the last request."""

    @property
    def needed(self) -> int:
        """Return the bytes that no kernel can take back without slowing the daemon."""
        return self.mark - self.idle


GEMMA: Final = {"head_dim": 256, "query_pre_attn_scalar": 256, "hidden_activation": "gelu_pytorch_tanh"}
GELU: Final = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
TINY = Model("llama", 64, 4, 4, 4, 192, 512)
SMALL = Model("llama", 512, 8, 8, 4, 1376, 8192)
UNTIED = Model("llama", 768, 12, 12, 12, 2048, 32_000, tied=False)
WIDE = Model("qwen2", 512, 8, 8, 2, 2816, 150_000)
QWEN = Model("qwen2", 384, 6, 6, 2, 1024, 50_000)
HEADS = Model("llama", 768, 6, 12, 12, 2048, 32_000, tied=False)
GEMMA2 = Model("gemma2", 512, 8, 4, 2, 2048, 64_000, more={**GEMMA, "sliding_window": 512})
GEMMA3 = Model("gemma3_text", 640, 12, 4, 1, 2048, 64_000, more={**GEMMA, "sliding_window": 512})
GPT2 = Model("gpt2", 768, 12, 12, 12, 3072, 50_257, more=GELU)
PHI3 = Model("phi3", 512, 8, 8, 8, 1536, 32_000, tied=False, more={"pad_token_id": 0})

Case = tuple[Model, str, int, int]
"""Model, type, context, micro batch."""
QUICK: Final[tuple[Case, ...]] = (
    (TINY, "F16", 512, 16),
    (SMALL, "Q4_0", 2048, 64),
    (TINY, "ONNX F32", 256, 16),
)
CASES: Final[tuple[Case, ...]] = (
    *QUICK,
    (TINY, "Q8_0", 4096, 512),
    (SMALL, "Q8_0", 2048, 64),
    (SMALL, "Q4_K_M", 2048, 512),
    (UNTIED, "F16", 1024, 512),
    (UNTIED, "Q8_0", 2048, 64),
    (UNTIED, "Q4_K_M", 2048, 64),
    (UNTIED, "Q4_0", 4096, 64),
    (WIDE, "Q8_0", 512, 64),
    (WIDE, "Q8_0", 2048, 512),
    (WIDE, "Q4_K_M", 512, 64),
    (GEMMA2, "Q8_0", 2048, 64),
    (GEMMA3, "Q8_0", 4096, 64),
    (PHI3, "Q4_K_M", 2048, 64),
    (GPT2, "Q8_0", 1024, 64),
    (TINY, "ONNX F32", 4096, 512),
    (SMALL, "ONNX INT8", 512, 16),
    (SMALL, "ONNX INT8", 4096, 64),
    (SMALL, "ONNX INT8", 2048, 512),
    (SMALL, "ONNX F32", 1024, 64),
    (SMALL, "ONNX INT4", 2048, 64),
    (QWEN, "ONNX INT8", 512, 64),
    (QWEN, "ONNX INT8", 1024, 512),
    (QWEN, "ONNX INT4", 1024, 64),
    (HEADS, "ONNX INT8", 512, 64),
    (HEADS, "ONNX INT8", 2048, 64),
)


def main() -> None:
    """Make, serve, measure, print, save."""
    cases = QUICK if quick(__doc__) else CASES
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as folder:
        for number, case in enumerate(cases, 1):
            progress(f"{number}/{len(cases)}  {case[0]}, {case[1]}, {case[2]}/{case[3]}")
            found.append(weigh(case, Path(folder)))
    columns = ("model", "type", "ctx", "batch", "weights", "cache", "buffer", "daemon", "sum")
    measured = ("needed", "ratio", "resident")
    ratios = [each["ratio"] for each in found]
    large = [each["ratio"] for each in found if each["file"] > 50 * MB]
    notes = (
        "MB are 10^6 bytes. needed: resident, less pages of the model file that serving does not touch.\n"
        f"Predicted over needed: {min(ratios):.2f} to {max(ratios):.2f}"
        + (f"; of files above 50 MB at most {max(large):.2f}." if large else ".")
    )
    show("Memory of the daemon, predicted and measured, in MB", (*columns, *measured), rows(found), notes)
    save("footprint", {}, cases=found)
    if min(ratios) < LOWEST:
        sys.exit(f"a prediction is more than {1 - LOWEST:.0%} under what was measured")


def weigh(case: Case, room: Path) -> dict[str, Any]:
    """Return what one case was predicted to take and what it took."""
    model, type_name, context, micro_batch = case
    artifact, predicted = make(case, room)
    taken = measure(artifact, context)
    file = next(artifact.glob("model.*")).stat().st_size
    return {
        "model": str(model),
        "type": type_name,
        "context": context,
        "micro_batch": micro_batch,
        "file": file,
        "predicted": {**asdict(predicted), "total": predicted.total},
        "needed": taken.needed,
        "resident": taken.mark,
        "ratio": predicted.total / taken.needed,
    }


def rows(found: list[dict[str, Any]]) -> list[list[str]]:
    """Return the lines of the table."""
    return [
        [
            each["model"], each["type"], str(each["context"]), str(each["micro_batch"]),
            *(f"{part / MB:.0f}" for part in each["predicted"].values()),
            f"{each['needed'] / MB:.0f}", f"{each['ratio']:.2f}", f"{each['resident'] / MB:.0f}",
        ]
        for each in found
    ]  # fmt: skip


def make(case: Case, room: Path) -> tuple[Path, Footprint]:
    """Return the artifact folder of a case, made if it is not there, and its predicted footprint."""
    model, type_name, context, micro_batch = case
    kind: Format = "onnx" if type_name.startswith("ONNX") else "gguf"
    label = type_name.split()[-1]
    checkpoint = source(model, room)
    artifact = room / f"{model} {type_name}".replace("/", "-")
    file = artifact / f"model.{kind}"
    if not file.exists():
        artifact.mkdir()
        (quantize_onnx if kind == "onnx" else quantize_gguf)(checkpoint, label, file)
        (artifact / "tokenizer.json").write_bytes((checkpoint.folder / "tokenizer.json").read_bytes())
    shape = checkpoint.shape
    predicted = footprint(shape, file.stat().st_size, context, micro_batch, kind)
    description = Description(
        name="random", version="1.0.0", profile="local", arch="x86_64", format=kind, type=label,
        model=file.name, architecture=checkpoint.architecture, parameters=shape.parameters, context=context,
        threads=2, micro_batch=micro_batch, memory_bytes=predicted.total, tokenizer="tokenizer.json",
    )  # fmt: skip
    (artifact / FILE_NAME).write_bytes(render(description))
    return artifact, predicted


def source(model: Model, room: Path) -> Checkpoint:
    """Return the Hugging Face folder of a random model, written when it is not there."""
    folder = room / str(model).replace("/", "-")
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(model.config), encoding="utf-8")
        dice = np.random.default_rng(7)
        shapes = expected_shapes(FAMILIES[model.family], model.config)
        save_file(
            {name: (dice.standard_normal(shape) / 16).astype(np.float16) for name, shape in shapes.items()},
            folder / "model.safetensors",
        )
        write_tokenizer(model.vocab, folder / "tokenizer.json")
        names = {
            "bos_token": CONTROLS[0],
            "eos_token": CONTROLS[1],
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    return open_checkpoint(folder)


def write_tokenizer(vocab: int, file: Path) -> None:
    """Write a byte-level BPE of `vocab` tokens: random pairs of letters, and pairs of these."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    parts = [letter for letter in letters if letter.isascii() and letter.isalpha()]
    tokens, merges = dict.fromkeys([*CONTROLS, *letters]), []
    dice = np.random.default_rng(7)
    while len(tokens) < vocab:
        first, second = (parts[at] for at in dice.integers(0, min(len(parts), COMMON), 2))
        if len(first + second) <= LONGEST and first + second not in tokens:
            tokens[first + second] = None
            merges.append((first, second))
            parts.append(first + second)
    tokenizer = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROLS])
    tokenizer.save(str(file))


def measure(artifact: Path, context: int) -> Taken:
    """Serve an artifact, fill its context twice, and return what that took."""
    with serving(artifact) as (pid, client):
        router, worker = (Path(f"/proc/{each}") for each in processes(pid))
        for letter in ALONE:
            (worker / "clear_refs").write_text("1")
            fill(client, letter, context)
        marks = [
            int(re.findall(r"VmHWM:\s+(\d+) kB", (proc / "status").read_text())[0]) * 1024
            for proc in (router, worker)
        ]
        smaps = (worker / "smaps").read_text()
        theirs, own = files((router / "smaps").read_text()), files(smaps)
        twice = sum(min(size, own.get(name, 0)) for name, size in theirs.items())
        return Taken(sum(marks) - twice, untouched(smaps, f"/{artifact.name}/model."))


def processes(router: int) -> tuple[int, int]:
    """Return the ids of a daemon's router and of its one worker."""
    threads = Path(f"/proc/{router}/task").glob("*/children")
    (worker,) = [each for thread in threads for each in thread.read_text().split()]
    return router, int(worker)


def files(smaps: str) -> dict[str, int]:
    """Return the resident bytes of each file that is mapped, without the pages that were written to."""
    found: dict[str, int] = {}
    name = ""
    for line in smaps.splitlines():
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):
            name = words[-1] if words[-1].startswith("/") else ""
        elif name and words[0] in ("Rss:", "Anonymous:"):
            size = int(words[1]) * 1024
            found[name] = found.get(name, 0) + (size if words[0] == "Rss:" else -size)
    return found


def fill(client: httpx.Client, letter: str, context: int) -> None:
    """Ask for what fills the context to the last token."""
    asked = {"prompt": letter * (context - ANSWER), "max_tokens": ANSWER}
    used = client.post("/v1/completions", json=asked).raise_for_status().json()["usage"]
    if used["total_tokens"] != context:
        sys.exit(f"the context of {context} was not filled: {used}")


def untouched(smaps: str, mapped: str) -> int:
    """Return the resident bytes of a mapped file that were not referenced since that was last cleared."""
    idle, ours = 0, False
    for line in smaps.splitlines():
        key, _, rest = line.partition(" ")
        if not key.endswith(":"):
            ours = mapped in rest
        elif ours and key in ("Rss:", "Referenced:"):
            idle += int(rest.split()[0]) * (1024 if key == "Rss:" else -1024)
    return idle


class DiedError(RuntimeError):
    """The daemon ended by itself, or was killed."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(f"the daemon ended with exit code {code}\n{log}")


@contextmanager
def serving(artifact: Path, under: Sequence[str] = ()) -> Iterator[tuple[int, httpx.Client]]:
    """Run the daemon on an artifact; give its router's process id and a client, once it is ready.

    `under` is a command that starts another, as nice does. Raise DiedError when the daemon ends before that.
    """
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as folder:
        port, log = Path(folder) / "port", Path(folder) / "log"
        words: list[str | Path] = [*under, sys.executable, "-m", "slmops.daemon", "--artifact", artifact]
        words += ["--port", "0", "--port-file", port, "--spool", f"{folder}/spool", "--digest", UNNAMED]
        with log.open("wb") as errors:
            process = subprocess.Popen(words, cwd=ROOT, stderr=errors)
        try:
            wait(process, log, port.exists)
            with httpx.Client(base_url=f"http://127.0.0.1:{port.read_text().strip()}", timeout=600) as client:
                wait(process, log, lambda: ready(client))
                yield process.pid, client
        finally:
            process.kill()
            process.wait()


def wait(process: subprocess.Popen[bytes], log: Path, happened: Callable[[], bool]) -> None:
    """Wait until something has happened that the daemon does; raise DiedError if it ends."""
    while not happened():
        with suppress(subprocess.TimeoutExpired):
            raise DiedError(process.wait(0.02), log.read_text(errors="replace"))


def ready(client: httpx.Client) -> bool:
    """Say whether the daemon answers; one that is being killed does not."""
    try:
        return client.get("/readyz").is_success
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
