"""A Hugging Face folder as it really comes.

Reads config, tokenizer facts and the safetensors headers; weights stay on disk until `read_rows`
asks for them. Knows nothing of GGUF or ONNX, and needs neither torch nor transformers.

Laws: what transformers 4 and 5 write differently reads the same; a tied embedding has one name,
`model.embed_tokens.weight`, whichever name it was stored under; a tensor is listed only if all its
bytes are there; memory does not grow with the model.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slmops import digest
from slmops.build.special_tokens import SpecialTokens
from slmops.errors import ModelError
from slmops.profile.footprint import ModelShape

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
_BUFFERS = (
    "rotary_emb.inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
)
_SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_FETCH_AGAIN = "Copy or download the folder again; the file did not arrive whole."


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: `nbytes` bytes at `offset` of `file`, row-major, little-endian."""

    file: Path
    dtype: str
    """F32, F16 or BF16."""
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model folder, read but not loaded. Two are the same model if their digests are equal."""

    folder: Path
    config: dict[str, Any]
    """config.json in the words of transformers 4: rope_theta, rope_scaling, torch_dtype."""
    architecture: str
    tensors: dict[str, TensorEntry]
    tied: bool
    """The output head is the embedding."""
    tokenizer: Path | None
    """tokenizer.json, where the folder has one."""
    chat_template: str | None
    special_tokens: dict[str, str]
    """bos_token, eos_token, unk_token, pad_token: those that the folder names."""
    bos_id: int | None
    stop_ids: tuple[int, ...]
    """Every id that ends an answer, the tokenizer's own end token first."""
    add_bos: bool
    generation: dict[str, float]
    """Sampling defaults of the model: temperature, top_p, top_k, max_tokens; those it names."""

    @property
    def parameters(self) -> int:
        """Return the number of weights, a tied embedding counted once."""
        return sum(math.prod(entry.shape) for entry in self.tensors.values())

    @property
    def files(self) -> list[Path]:
        """Return the files the model is made of, sorted by name."""
        beside = [self.folder / name for name in _SIDE_FILES if (self.folder / name).is_file()]
        return sorted({*beside, *(entry.file for entry in self.tensors.values())})

    @cached_property
    def digest(self) -> str:
        """Return one sha256 for config, tokenizer and weights; reads every byte once."""
        return digest.of_pieces(f"{file.name} {digest.of_file(file)}\n".encode() for file in self.files)

    @property
    def shape(self) -> ModelShape:
        """Return what the memory of a model follows from; raise ModelError if the config does not say."""
        heads = self._count("num_attention_heads", "n_head")
        hidden = self._count("hidden_size", "n_embd")
        return ModelShape(
            layers=self._count("num_hidden_layers", "n_layer"),
            hidden=hidden,
            heads=heads,
            kv_heads=self.config.get("num_key_value_heads") or heads,
            head_dim=self.config.get("head_dim") or hidden // heads,
            vocab=self._count("vocab_size"),
            parameters=self.parameters,
        )

    def _count(self, *names: str) -> int:
        for name in names:
            if isinstance(self.config.get(name), int):
                return int(self.config[name])
        raise ModelError(
            f"{self.folder / 'config.json'}: expected a whole number under {names[0]!r}, got none",
            remedy="Use a text model whose config.json states its sizes at the top level.",
        )


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the Hugging Face model in `folder`; raise ModelError when it is not whole."""
    config = normalized(_read_config(folder))
    tensors = _one_name_for_tied(_index(folder), tied=bool(config.get("tie_word_embeddings")), folder=folder)
    _check_embedding(folder, config, tensors)
    side = {name: _read_json(folder / name) for name in _SIDE_FILES if name.endswith(".json")}
    facts = SpecialTokens(
        side["tokenizer.json"], side["tokenizer_config.json"], side["special_tokens_map.json"]
    )
    tokenizer = folder / "tokenizer.json"
    return Checkpoint(
        folder=folder,
        config=config,
        architecture=str((config.get("architectures") or ["unknown"])[0]),
        tensors=tensors,
        tied=HEAD not in tensors,
        tokenizer=tokenizer if tokenizer.is_file() else None,
        chat_template=_chat_template(folder, side["tokenizer_config.json"]),
        special_tokens=facts.texts,
        bos_id=facts.bos_id(config),
        stop_ids=facts.stop_ids(config, side["generation_config.json"]),
        add_bos=facts.add_bos,
        generation=_generation(side["generation_config.json"]),
    )


def read_rows(entry: TensorEntry, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Return rows `start` to `stop` (first axis) as float32, read from disk and nowhere kept."""
    row = entry.nbytes // entry.shape[0]
    with entry.file.open("rb", buffering=0) as file:
        raw = os.pread(file.fileno(), (stop - start) * row, entry.offset + start * row)
    if len(raw) != (stop - start) * row:
        raise ModelError(f"{entry.file} shrank while it was read", remedy=_FETCH_AGAIN)
    return _as_float32(raw, entry.dtype).reshape(stop - start, *entry.shape[1:])


def normalized(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config of transformers 5 in the words of version 4; one of version 4 stays as it is."""
    said = dict(config)
    if "dtype" in said:
        said.setdefault("torch_dtype", said.pop("dtype"))
    rope = said.pop("rope_parameters", None)
    if rope is not None:
        said["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"} or None
        if "rope_theta" in rope:
            said["rope_theta"] = rope["rope_theta"]
    scaling = said.get("rope_scaling")
    if scaling:
        kind = scaling.get("rope_type", scaling.get("type"))
        rest = {key: value for key, value in scaling.items() if key not in ("type", "rope_type")}
        said["rope_scaling"] = None if kind == "default" else {"rope_type": kind, **rest}
    return said


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelError(
            f"no folder {folder}", remedy="Give a local Hugging Face folder, a hub id, or a .gguf."
        )
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds a LoRA adapter, not a model",
            remedy="Merge it into its base model first (peft: merge_and_unload), then save_pretrained.",
        )
    config = _read_json(folder / "config.json")
    if not config:
        raise ModelError(
            f"{folder}: expected a config.json that describes the model, found none",
            remedy="Give the folder that save_pretrained wrote, with config.json and *.safetensors.",
        )
    return config


def _read_json(file: Path) -> dict[str, Any]:
    """Return the object in `file`; of a file that is not there, an empty one."""
    if not file.is_file():
        return {}
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}", remedy=_FETCH_AGAIN) from error
    if not isinstance(said, dict):
        raise ModelError(f"{file}: expected an object, got {type(said).__name__}", remedy=_FETCH_AGAIN)
    return said


def _index(folder: Path) -> dict[str, TensorEntry]:
    tensors: dict[str, TensorEntry] = {}
    for file in _weight_files(folder):
        for name, entry in _read_header(file).items():
            if name in tensors:
                raise ModelError(
                    f"tensor {name} is in both {tensors[name].file} and {file}", remedy=_FETCH_AGAIN
                )
            if not name.endswith(_BUFFERS):
                tensors[name] = entry
    for name, entry in tensors.items():
        _check_entry(name, entry)
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    named = _read_json(folder / "model.safetensors.index.json").get("weight_map", {})
    files = sorted({folder / str(name) for name in named.values()} or folder.glob("model*.safetensors"))
    if not files:
        raise _no_weights(folder)
    shards = [(file, re.search(r"-(\d+)-of-(\d+)\.safetensors$", file.name)) for file in files]
    wanted = {
        file.with_name(f"{file.name[: m.start()]}-{i:0{len(m[1])}}-of-{m[2]}.safetensors")
        for file, m in shards
        if m
        for i in range(1, int(m[2]) + 1)
    }
    missing = sorted(file.name for file in {*wanted, *files} if not file.is_file())
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} of {len({*wanted, *files})} weight files missing: "
            + ", ".join(missing),
            remedy="Download what is missing into the same folder.",
        )
    return files


def _no_weights(folder: Path) -> ModelError:
    if any(folder.glob("pytorch_model*.bin")):
        return ModelError(
            f"{folder} has its weights as pytorch_model.bin; expected safetensors",
            remedy=f'Convert it once: python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{folder}').save_pretrained('{folder}')\"",
        )
    return ModelError(
        f"{folder}: expected model.safetensors or its shards, found no weights",
        remedy="Give the folder that save_pretrained wrote, with config.json and *.safetensors.",
    )


def _read_header(file: Path) -> dict[str, TensorEntry]:
    """Return the tensors of one safetensors file; raise ModelError unless it is as long as they say."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        if prefix == b"version ":
            raise ModelError(
                f"{file} is a Git LFS pointer, not weights", remedy="Run `git lfs pull` in the folder."
            )
        length = int.from_bytes(prefix, "little")
        if not 2 <= length <= size - 8:  # noqa: PLR2004 - the shortest JSON object
            raise ModelError(f"{file} is cut off or no safetensors file: {size} bytes", remedy=_FETCH_AGAIN)
        text = stream.read(length)
    try:
        said = json.loads(text)
        said.pop("__metadata__", None)
        entries = {name: _entry(file, 8 + length, fields) for name, fields in said.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file}: its header is damaged: {error!r}", remedy=_FETCH_AGAIN) from error
    whole = max((entry.offset + entry.nbytes for entry in entries.values()), default=8 + length)
    if size != whole:
        raise ModelError(f"{file} is not whole: expected {whole} bytes, got {size}", remedy=_FETCH_AGAIN)
    return entries


def _entry(file: Path, base: int, fields: Mapping[str, Any]) -> TensorEntry:
    start, stop = fields["data_offsets"]
    return TensorEntry(
        file, str(fields["dtype"]), tuple(int(n) for n in fields["shape"]), base + start, stop - start
    )


def _check_entry(name: str, entry: TensorEntry) -> None:
    if entry.dtype not in WIDTHS:
        raise ModelError(
            f"{entry.file}: {name} has type {entry.dtype}; expected one of {', '.join(WIDTHS)}",
            remedy="Start from the unquantised checkpoint (F32, F16 or BF16) of the same model.",
        )
    expected = math.prod(entry.shape) * WIDTHS[entry.dtype]
    if entry.nbytes != expected or not entry.shape or not expected:
        raise ModelError(
            f"{entry.file}: {name} {list(entry.shape)} needs {expected} bytes, it has {entry.nbytes}",
            remedy=_FETCH_AGAIN,
        )


def _one_name_for_tied(
    tensors: dict[str, TensorEntry], *, tied: bool, folder: Path
) -> dict[str, TensorEntry]:
    """Keep one embedding under its first name where the config ties the head to it."""
    if HEAD not in tensors or "model.norm.weight" not in tensors:
        return tensors
    if tied:
        rest = {name: entry for name, entry in tensors.items() if name != HEAD}
        return {EMBEDDING: tensors[HEAD], **rest}
    if EMBEDDING not in tensors:
        raise ModelError(
            f"{folder} stores {HEAD} but no {EMBEDDING}, and its config does not tie them",
            remedy='If they are one, set "tie_word_embeddings": true in config.json.',
        )
    return tensors


def _check_embedding(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorEntry]) -> None:
    said = (config.get("vocab_size"), config.get("hidden_size"))
    if EMBEDDING in tensors and tensors[EMBEDDING].shape != said:
        raise ModelError(
            f"{folder}: config.json says vocab_size {said[0]} and hidden_size {said[1]}, "
            f"the embedding is {list(tensors[EMBEDDING].shape)}",
            remedy="Use the config.json that was saved with these weights.",
        )


def _as_float32(raw: bytes, dtype: str) -> npt.NDArray[np.float32]:
    if dtype == "F32":
        return np.frombuffer(raw, "<f4")
    if dtype == "F16":
        return np.frombuffer(raw, "<f2").astype(np.float32)
    # bfloat16 is the upper half of a float32.
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)


def _chat_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    said = tokenizer_config.get("chat_template")
    if isinstance(said, list):
        named = {entry["name"]: entry["template"] for entry in said}
        said = named.get("default", next(iter(named.values()), None))
    return said


def _generation(said: Mapping[str, Any]) -> dict[str, float]:
    """Return the sampling defaults; a model that says it is not to be sampled gets temperature 0."""
    names = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_new_tokens": "max_tokens"}
    found = {names[key]: value for key, value in said.items() if key in names and value is not None}
    return {**found, "temperature": 0.0} if said.get("do_sample") is False else found
