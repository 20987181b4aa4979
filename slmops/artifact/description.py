"""What an artifact says of itself: the `artifact.json` beside the model.

The builder writes it, the release signs it, the daemon serves by it. It knows nothing of
where the folder lies.

Law: `parse(render(d)) == d`, and the rendered bytes never vary.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from slmops.errors import IntegrityError

FILE_NAME = "artifact.json"
SCHEMA = 1
GENERATION, CLASSIFICATION = "generation", "classification"
TASKS = (GENERATION, CLASSIFICATION)


@dataclass(frozen=True)
class Description:
    """One built model for one profile: what is in the folder and how it wants to be served."""

    name: str
    version: str
    profile: str
    arch: str
    """Machine the profile is for, as `uname -m` says it: x86_64, aarch64."""
    format: str
    """gguf or onnx."""
    type: str
    """Q8_0, Q4_K_M, INT8, ..."""
    model: str
    """File name of the model in the folder."""
    architecture: str
    """Model family: llama, qwen2, qwen3."""
    parameters: int
    context: int
    """Tokens of context to serve with."""
    threads: int
    micro_batch: int
    """Prompt tokens per compute batch: bounds the compute buffer."""
    memory_bytes: int
    """Predicted peak memory of the daemon with this model, in bytes."""
    tokenizer: str | None = None
    """File name of tokenizer.json; without it the GGUF's own vocabulary is used."""
    chat_template: str | None = None
    """File name of the Jinja chat template, if the model has one."""
    special_tokens: dict[str, str] = field(default_factory=dict)
    """bos_token, eos_token, ...: what the chat template may name."""
    add_bos: bool = False
    """A text begins with bos_token, whether tokenizer.json puts it there or not."""
    stop_ids: list[int] = field(default_factory=list)
    """Token ids that end an answer."""
    generation: dict[str, float] = field(default_factory=dict)
    """Defaults of sampling: temperature, top_p, top_k, max_tokens."""
    golden: str | None = None
    """File name of the golden prompts."""
    adapter: str | None = None
    """File name of the LoRA adapter that the model is served with, a GGUF; of a gguf model alone."""
    task: str = GENERATION
    """What it does with a text: generation goes on from it, classification gives it a label."""
    labels: list[str] = field(default_factory=list)
    """Of a classifier: its labels, in the order of its logits."""
    predicted: dict[str, float] = field(default_factory=dict)
    """What memory_bytes is made of: weights, kv_cache, compute, runtime (bytes); how many layers; and
    tokens_per_second, of one written after the other on a device of the profile."""
    measured: dict[str, float] = field(default_factory=dict)
    """Loss against the source model: kl_mean, kl_p99 (nats), top1 (share), tokens (or texts), accuracy."""
    source: dict[str, str] = field(default_factory=dict)
    """Where the model came from: id, digest, builder versions; of an adapted release, its base."""
    schema: int = SCHEMA

    @property
    def reference(self) -> str:
        """Return `name:version`."""
        return f"{self.name}:{self.version}"

    @property
    def base(self) -> str:
        """Return the `name:version` whose model this is: of an adapted release its base's, else its own."""
        return self.source.get("base", self.reference)


_KINDS: dict[str, Any] = {
    "str": str,
    "int": int,
    "bool": bool,
    "str | None": (str, type(None)),
    "list": list,
    "dict": dict,
}
"""Types by how a field above writes them."""


def render(description: Description) -> bytes:
    """Return the canonical bytes: sorted keys, two-space indent, a newline at the end."""
    said = asdict(description)
    if description.adapter is None:
        # Without one it is what a daemon from before adapters can read; with one that daemon refuses.
        del said["adapter"]
    return (json.dumps(said, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def parse(data: bytes) -> Description:
    """Read a description; raise IntegrityError when it is not one this version understands."""
    try:
        said: Any = json.loads(data)
    except ValueError as error:
        raise IntegrityError(f"{FILE_NAME} is not JSON: {error}") from error
    if not isinstance(said, dict) or said.get("schema") != SCHEMA:
        raise IntegrityError(f"{FILE_NAME}: expected schema {SCHEMA}, got {str(said)[:60]!r}")
    known = {f.name for f in fields(Description)}
    strange = sorted(set(said) - known)
    if strange:
        raise IntegrityError(f"{FILE_NAME} has keys this version does not know: {', '.join(strange)}")
    try:
        description = Description(**said)
    except TypeError as error:
        raise IntegrityError(f"{FILE_NAME} is incomplete: {error}") from error
    _check_kinds(description)
    if description.task not in TASKS or (description.task == CLASSIFICATION) != bool(description.labels):
        raise IntegrityError(
            f"{FILE_NAME}: expected task {GENERATION} without labels or {CLASSIFICATION} with some, "
            f"got {description.task!r} with {len(description.labels)}"
        )
    if description.adapter is not None and description.format != "gguf":
        raise IntegrityError(
            f"{FILE_NAME}: expected an adapter on gguf alone, got one on {description.format}"
        )
    return description


def _check_kinds(description: Description) -> None:
    for each in fields(Description):
        value = getattr(description, each.name)
        if not isinstance(value, _KINDS[str(each.type).partition("[")[0]]) or (
            isinstance(value, bool) and each.type != "bool"
        ):
            raise IntegrityError(f"{FILE_NAME}: {each.name}: expected {each.type}, got {value!r}")
