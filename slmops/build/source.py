"""What is given as MODEL: a local Hugging Face folder, a hub id, or a .gguf file.

A hub id is fetched by huggingface_hub into its own cache, which keeps its own rules: HF_HOME, HF_TOKEN,
HF_HUB_OFFLINE.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from slmops import digest as digests
from slmops.build.checkpoint import Checkpoint, open_checkpoint
from slmops.build.family import FAMILIES
from slmops.build.sketch import Sketch, sketch
from slmops.errors import ModelError
from slmops.profile.footprint import ModelShape

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_SMALL = ["*.json", "*.jinja"]
_WANTED = ["*.safetensors", *_SMALL]


@dataclass(frozen=True)
class GgufSource:
    """A .gguf file as a source: what its header says."""

    file: Path
    architecture: str
    shape: ModelShape
    trained_context: int
    chat_template: str | None
    special_tokens: dict[str, str]
    stop_ids: tuple[int, ...]
    tensors: dict[str, tuple[int, ...]]
    """Shapes by name, rows first."""
    header_bytes: int

    @property
    def digest(self) -> str:
        """Return the sha256 of the file."""
        return self.digest_by(digests.of_file)

    def digest_by(self, of_file: Callable[[Path], str]) -> str:
        """Return the same from somebody else's digest of the file."""
        return of_file(self.file)


Source = Checkpoint | GgufSource


def open_model(said: str) -> Source:
    """Open what a person named; raise ModelError saying what was expected."""
    place = _place(said, _WANTED)
    return open_gguf(place) if place.is_file() else open_checkpoint(place)


def foresee(said: str) -> Sketch | GgufSource:
    """Open what a person named as far as a plan needs it; of the hub, the small files alone are fetched."""
    place = _place(said, _SMALL)
    if place.is_file():
        return open_gguf(place)
    drawn = sketch(place)
    plain = drawn.architecture in FAMILIES and not any(place.glob("*.safetensors"))
    return drawn if plain else open_model(said)


def _place(said: str, wanted: list[str]) -> Path:
    """Return the file or folder that a person named; of a model on the hub fetch what is wanted."""
    path = Path(said).expanduser()
    if path.exists():
        return path
    if path.suffix == ".gguf":
        raise ModelError(f"there is no file {path}", remedy="Give the path of a .gguf file.")
    if _HUB_ID.fullmatch(said) and not said.startswith((".", "/")):
        return _fetch(said, wanted)
    raise ModelError(
        f"there is no model {said!r}: expected a folder with config.json and safetensors, a .gguf file, "
        "or a hub id such as org/name",
        remedy="Check the path, or fetch the model first.",
    )


def open_gguf(file: Path) -> GgufSource:
    """Read the header of a .gguf file."""
    try:
        reader = GGUFReader(file)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise ModelError(
            f"{file} is damaged, cut off or no GGUF file: {error}", remedy="Copy or download it again."
        ) from error
    return _described(file, reader)


def _described(file: Path, reader: Any) -> GgufSource:
    arch = str(_said(reader, "general.architecture"))
    heads = _most(_said(reader, f"{arch}.attention.head_count"))
    hidden = int(_said(reader, f"{arch}.embedding_length"))
    tokens = reader.get_field("tokenizer.ggml.tokens")
    if tokens is None:
        raise ModelError(f"{file} has no vocabulary", remedy="Convert the model again, with its tokenizer.")
    shapes = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors}
    ends = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: _maybe(reader, f"tokenizer.ggml.{key}_token_id") for name, key in ends.items()}
    eos = ids["eos_token"]
    end_of_turn = _maybe(reader, "tokenizer.ggml.eot_token_id")
    return GgufSource(
        file=file,
        architecture=arch,
        shape=ModelShape(
            layers=int(_said(reader, f"{arch}.block_count")),
            hidden=hidden,
            heads=heads,
            kv_heads=_most(_maybe(reader, f"{arch}.attention.head_count_kv")) or heads,
            head_dim=int(_maybe(reader, f"{arch}.attention.key_length") or hidden // heads),
            vocab=len(tokens.data),
            parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
            inner=_most(_maybe(reader, f"{arch}.feed_forward_length")),
        ),
        trained_context=int(_said(reader, f"{arch}.context_length")),
        chat_template=_maybe(reader, "tokenizer.chat_template"),
        special_tokens={name: str(tokens.contents(id_)) for name, id_ in ids.items() if id_ is not None},
        stop_ids=tuple(dict.fromkeys(id_ for id_ in (eos, end_of_turn) if id_ is not None)),
        tensors=shapes,
        header_bytes=file.stat().st_size - sum(int(tensor.n_bytes) for tensor in reader.tensors),
    )


def _most(said: Any) -> int:
    """Return a count that may be written layer by layer: the largest is what memory must hold."""
    return int(max(said)) if isinstance(said, list) else int(said or 0)


def _said(reader: Any, key: str) -> Any:
    found = _maybe(reader, key)
    if found is None:
        raise ModelError(
            f"the .gguf header lacks {key}", remedy="Convert the model again with a current llama.cpp."
        )
    return found


def _maybe(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _fetch(hub_id: str, wanted: list[str]) -> Path:
    """Return the folder of a model of the hub; what is wanted and not in the cache is fetched."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for hub ids
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    name, _, revision = hub_id.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{hub_id} is no local path and could not be fetched from the hub: {_first_line(error)}",
            remedy="Give a local folder; or check the network, HF_TOKEN for gated models, HF_HUB_OFFLINE.",
        ) from error
