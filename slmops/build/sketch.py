"""What a Hugging Face folder says before its weights are there.

Reads config and tokenizer facts; from the config follow name and size of every tensor, so a plan can
be made before gigabytes are fetched. Knows nothing of GGUF or ONNX, and needs neither torch nor transformers.

Law: what transformers 4 and 5, and GPT-2, write differently reads the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.build.family import FAMILIES, expected_shapes, sizes_of, ties_head
from slmops.build.family_terms import Shape
from slmops.build.read_tensors import read_json
from slmops.build.special_tokens import SpecialTokens
from slmops.errors import ModelError
from slmops.profile.footprint import ModelShape

EMBEDDING = "model.embed_tokens.weight"
"""Name of the token embedding in most families."""
SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_GPT2_SAYS = {
    "num_hidden_layers": "n_layer",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
}


@dataclass(frozen=True, eq=False)
class Sketch:
    """A model folder as far as its small files tell."""

    folder: Path
    config: dict[str, Any]
    """config.json in the words of transformers 4: rope_theta, rope_scaling, torch_dtype."""
    architecture: str
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
    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every tensor by name; raise ModelError if the config does not tell."""
        return expected_shapes(self.architecture, self.config)

    @property
    def parameters(self) -> int:
        """Return the number of weights, a tied embedding counted once."""
        return sum(map(math.prod, self.shapes.values()))

    @property
    def embedding(self) -> str:
        """Return the name of the token embedding."""
        return FAMILIES[self.architecture].embedding if self.architecture in FAMILIES else EMBEDDING

    @property
    def shape(self) -> ModelShape:
        """Return what the memory of a model follows from; raise ModelError if the config does not say."""
        if self.architecture in FAMILIES:
            return ModelShape(**vars(sizes_of(self.architecture, self.config)), parameters=self.parameters)
        hidden, heads = self._count("hidden_size"), self._count("num_attention_heads")
        return ModelShape(
            layers=self._count("num_hidden_layers"),
            hidden=hidden,
            heads=heads,
            kv_heads=self.config.get("num_key_value_heads") or heads,
            head_dim=self.config.get("head_dim") or hidden // heads,
            vocab=self._count("vocab_size"),
            parameters=self.parameters,
            inner=self.config.get("intermediate_size") or 0,
        )

    def words(self) -> Path:
        """Return tokenizer.json; raise ModelError where the folder has none."""
        if self.tokenizer is None:
            raise ModelError(f"{self.folder} has no tokenizer.json", remedy=self._how_to_write_it())
        return self.tokenizer

    def _how_to_write_it(self) -> str:
        if not any((self.folder / name).is_file() for name in ("tokenizer.model", "vocab.json", "vocab.txt")):
            return "Copy it from where the model was made: there is nothing here to write it from."
        return (
            'Write it once: pip install sentencepiece tiktoken protobuf; python -c "from transformers import '
            f"AutoTokenizer as T; T.from_pretrained('{self.folder}').save_pretrained('{self.folder}')\""
        )

    def _count(self, name: str) -> int:
        if isinstance(self.config.get(name), int):
            return int(self.config[name])
        raise ModelError(
            f"{self.folder / 'config.json'}: expected a whole number under {name!r}, got none",
            remedy="Use a text model whose config.json states its sizes at the top level.",
        )


def sketch(folder: Path) -> Sketch:
    """Read the small files of the Hugging Face model in `folder`; raise ModelError when they do not tell."""
    config = normalized(_read_config(folder))
    architecture = str((config.get("architectures") or ["unknown"])[0])
    side = {name: read_json(folder / name) for name in SIDE_FILES if name.endswith(".json")}
    facts = SpecialTokens(
        side["tokenizer.json"], side["tokenizer_config.json"], side["special_tokens_map.json"]
    )
    tokenizer = folder / "tokenizer.json"
    return Sketch(
        folder=folder,
        config=config,
        architecture=architecture,
        tied=ties_head(architecture, config),
        tokenizer=tokenizer if tokenizer.is_file() else None,
        chat_template=_chat_template(folder, side["tokenizer_config.json"]),
        special_tokens=facts.texts,
        bos_id=facts.bos_id(config),
        stop_ids=facts.stop_ids(config, side["generation_config.json"]),
        add_bos=facts.add_bos,
        generation=_generation(side["generation_config.json"]),
    )


def normalized(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config in the words of a Llama in transformers 4; one that is in them stays as it is."""
    said = dict(config)
    for name, gpt2 in _GPT2_SAYS.items():
        if said.get(gpt2) is not None:
            said.setdefault(name, said[gpt2])
    if "dtype" in said:
        said.setdefault("torch_dtype", said.pop("dtype"))
    rope = said.pop("rope_parameters", None)
    if rope is not None:
        said |= _rope(rope)
    scaling = said.get("rope_scaling")
    if scaling:
        said |= _scaling(scaling)
    return said


def _rope(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return in words of version 4 what version 5 says of rotary positions, for one or two kinds of layer."""
    if "full_attention" in said:
        local = said.get("sliding_attention", {})
        if local.get("rope_type", "default") != "default":
            raise ModelError(
                f"config.json scales the positions of sliding layers ({local['rope_type']})",
                remedy="Use a model whose windows are not scaled.",
            )
        theta = {"rope_local_base_freq": local["rope_theta"]} if "rope_theta" in local else {}
        return {**_rope(said["full_attention"]), **theta}
    apart = ("rope_theta", "partial_rotary_factor")
    found = {key: said[key] for key in apart if key in said}
    return {"rope_scaling": {key: value for key, value in said.items() if key not in apart} or None, **found}


def _scaling(said: Mapping[str, Any]) -> dict[str, Any]:
    kind = said.get("rope_type", said.get("type"))
    rest = {key: value for key, value in said.items() if key not in ("type", "rope_type")}
    if kind == "default":
        return {"rope_scaling": None}
    if kind not in ("longrope", "su"):
        return {"rope_scaling": {"rope_type": kind, **rest}}
    # Version 4 says longrope's first context beside the scaling and not in it; "su" is its first name.
    first = rest.pop("original_max_position_embeddings", None)
    beside = {} if first is None else {"original_max_position_embeddings": first}
    return {"rope_scaling": {"rope_type": "longrope", **rest}, **beside}


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelError(
            f"no folder {folder}", remedy="Give a local Hugging Face folder, a hub id, or a .gguf."
        )
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds a LoRA adapter, not a model",
            remedy="Put it beside a release's models (`slmops adapt`), or merge it into its base: "
            f"`slmops merge-adapters {folder} --base MODEL --merge --out DIR`.",
        )
    config = read_json(folder / "config.json")
    if not config:
        raise ModelError(
            f"{folder}: expected a config.json that describes the model, found none",
            remedy="Give the folder that save_pretrained wrote, with config.json and *.safetensors.",
        )
    if "text_config" in config:
        raise ModelError(
            f"{folder} holds a model of text and images: its config.json has a text_config",
            remedy="Use the text model of the same family, if there is one, such as a Gemma3ForCausalLM.",
        )
    return config


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
