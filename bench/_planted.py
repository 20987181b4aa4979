"""Bad models, planted: a good artifact's folder with its file made wrong, its golden prompts as they are.

Each way to be wrong is one that a build, a disk or a person can bring about and that a model answers through.
It does not know devices.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from slmops.artifact import description as descriptions
from slmops.build.quantize_gguf import plan_gguf, write_all
from slmops.build.source import GgufSource, open_model

SCALES: Final[Mapping[Kind, tuple[int, tuple[int, ...]]]] = {
    Kind.Q8_0: (34, (0,)),
    Kind.Q4_0: (18, (0,)),
    Kind.Q5_0: (22, (0,)),
    Kind.Q4_K: (144, (0, 2)),
    Kind.Q5_K: (176, (0, 2)),
    Kind.Q6_K: (210, (208,)),
}
"""Bytes of a block, and where in it the 16-bit scales stand."""
LAYER: Final = "blk.1."
SLOWER: Final = 40
"""Times as many layers: of a model this small the server's own share of a token is large."""
Bytes = NDArray[np.uint8]


def plant(kind: str, good: Path, source: Path, to: Path) -> Path:
    """Lay a copy of the artifact folder `good`, gone wrong in the way of `kind`, at `to`; return it."""
    shutil.copytree(good, to)
    KINDS[kind](to, source)
    return to


def _scaled(share: float) -> Callable[[Path, Path], None]:
    def change(folder: Path, _source: Path) -> None:
        for tensor in _opened(folder):
            if tensor.name.startswith(LAYER) and tensor.tensor_type in SCALES:
                _scale(tensor, share)

    return change


def _not_a_number(folder: Path, _source: Path) -> None:
    for tensor in _opened(folder):
        if tensor.name == f"{LAYER}ffn_down.weight":
            _scale(tensor, float("nan"))


def _other_tokenizer(folder: Path, _source: Path) -> None:
    """Swap each word with its neighbour: as many tokens, and every one of them means another."""
    file = folder / "tokenizer.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    special = {each["id"] for each in said["added_tokens"]}
    vocabulary = said["model"]["vocab"]
    words = sorted((id_, word) for word, id_ in vocabulary.items() if id_ not in special)
    for (one, first), (other, second) in zip(words[::2], words[1::2], strict=False):
        vocabulary[first], vocabulary[second] = other, one
    file.write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")


def _coarser(folder: Path, source: Path) -> None:
    """Put two bits a weight in the place of four."""
    checkpoint = open_model(str(source))
    if isinstance(checkpoint, GgufSource):
        raise SystemExit(f"{source}: a folder of Hugging Face's is needed")
    file = folder / "model.gguf"
    file.unlink()
    write_all(checkpoint, {file: plan_gguf(checkpoint, "Q2_K")}, lambda _done, _whole: None)


def _cut_head(folder: Path, _source: Path) -> None:
    """Zero the last eighth of the head's rows, as where a tensor was not copied to its end."""
    tensors = {tensor.name: tensor for tensor in _opened(folder)}
    raw = _raw(tensors.get("output.weight") or tensors["token_embd.weight"])
    raw[-len(raw) // 8 :] = 0


def _cut_file(folder: Path, _source: Path) -> None:
    file = folder / "model.gguf"
    file.write_bytes(file.read_bytes()[:-4096])


def _slower(folder: Path, _source: Path) -> None:
    """Add layers that add nothing: the same numbers to the last bit, after much more work."""
    file, fresh = folder / "model.gguf", folder / "fresh"
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(fresh, "llama")
    layers = int(reader.fields["llama.block_count"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = layers * SLOWER if name == "llama.block_count" else field.contents()
        writer.add_key_value(name, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for layer in range(layers, layers * SLOWER):
        for tensor in (one for one in reader.tensors if one.name.startswith(LAYER)):
            empty = tensor.name.endswith(("attn_output.weight", "ffn_down.weight"))
            data = np.zeros_like(tensor.data) if empty else tensor.data
            name = tensor.name.replace(LAYER, f"blk.{layer}.")
            writer.add_tensor(name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    fresh.replace(file)


def _silent(folder: Path, _source: Path) -> None:
    """Have every token end the answer."""
    file = folder / descriptions.FILE_NAME
    said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    words = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    file.write_text(json.dumps({**said, "stop_ids": sorted(words.values())}), encoding="utf-8")


KINDS: Final[Mapping[str, Callable[[Path, Path], None]]] = {
    "scales of one layer 10 % off": _scaled(1.1),
    "scales of one layer 3 % off": _scaled(1.03),
    "a tensor of NaN": _not_a_number,
    "tokenizer swapped": _other_tokenizer,
    "Q2 passed off as Q4": _coarser,
    "head cut": _cut_head,
    "file cut": _cut_file,
    "far too slow": _slower,
    "answers empty": _silent,
}


def _opened(folder: Path) -> list[gguf.ReaderTensor]:
    return list(gguf.GGUFReader(folder / "model.gguf", "r+").tensors)


def _raw(tensor: gguf.ReaderTensor) -> Bytes:
    raw: Bytes = tensor.data.reshape(-1).view(np.uint8)
    return raw


def _scale(tensor: gguf.ReaderTensor, share: float) -> None:
    size, places = SCALES[tensor.tensor_type]
    blocks = _raw(tensor).reshape(-1, size)
    for at in places:
        scale = blocks[:, at : at + 2].copy().view(np.float16) * np.float16(share)
        blocks[:, at : at + 2] = scale.view(np.uint8)
