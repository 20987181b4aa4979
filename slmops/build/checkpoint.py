"""A Hugging Face folder as it really comes: what it says, and where its weights lie.

Weights stay on disk until `read_tensors` is asked for them. Knows nothing of GGUF or ONNX.

Law: a tensor has the name that transformers gives it; a tied embedding has one name, whichever name
it was stored under.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from slmops import digest
from slmops.build.family import FAMILIES
from slmops.build.family_terms import Shape
from slmops.build.read_tensors import TensorEntry, find_tensors
from slmops.build.sketch import EMBEDDING, SIDE_FILES, Sketch, sketch
from slmops.errors import ModelError

__all__ = ["EMBEDDING", "HEAD", "Checkpoint", "open_checkpoint"]

HEAD = "lm_head.weight"


@dataclass(frozen=True, eq=False)
class Checkpoint(Sketch):
    """A model folder, read but not loaded. Two are the same model if their digests are equal."""

    tensors: dict[str, TensorEntry]

    @property
    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every tensor by name, as it is stored."""
        return {name: entry.shape for name, entry in self.tensors.items()}

    @property
    def files(self) -> list[Path]:
        """Return the files the model is made of, sorted by name."""
        beside = [self.folder / name for name in SIDE_FILES if (self.folder / name).is_file()]
        return sorted({*beside, *(entry.file for entry in self.tensors.values())})

    @cached_property
    def digest(self) -> str:
        """Return one sha256 for config, tokenizer and weights; reads every byte once."""
        return self.digest_by(digest.of_file)

    def digest_by(self, of_file: Callable[[Path], str]) -> str:
        """Return the same from somebody else's digests of the files."""
        return digest.of_pieces(f"{file.name} {of_file(file)}\n".encode() for file in self.files)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the Hugging Face model in `folder`; raise ModelError when it is not whole."""
    drawn = sketch(folder)
    tensors = _by_their_names(drawn, find_tensors(folder))
    _check_embedding(drawn, tensors)
    # Where the embedding has another name, so may the head.
    tied = HEAD not in tensors if drawn.embedding in tensors else drawn.tied
    return Checkpoint(**{**vars(drawn), "tied": tied}, tensors=tensors)


def _by_their_names(drawn: Sketch, tensors: dict[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Put the prefix before names that were stored without, and keep a tied embedding once."""
    if drawn.architecture in FAMILIES:
        prefix = drawn.embedding.partition(".")[0] + "."
        if not any(name.startswith(prefix) for name in tensors):
            tensors = {name if name == HEAD else prefix + name: entry for name, entry in tensors.items()}
    elif "model.norm.weight" not in tensors:
        return tensors
    if HEAD not in tensors:
        return tensors
    if drawn.tied:
        rest = {name: entry for name, entry in tensors.items() if name != HEAD}
        return {drawn.embedding: tensors[HEAD], **rest}
    if drawn.embedding not in tensors:
        raise ModelError(
            f"{drawn.folder} stores {HEAD} but no {drawn.embedding}, and its config does not tie them",
            remedy='If they are one, set "tie_word_embeddings": true in config.json.',
        )
    return tensors


def _check_embedding(drawn: Sketch, tensors: Mapping[str, TensorEntry]) -> None:
    said: tuple[Any, Any] = (drawn.config.get("vocab_size"), drawn.config.get("hidden_size"))
    if drawn.embedding in tensors and tensors[drawn.embedding].shape != said:
        raise ModelError(
            f"{drawn.folder}: config.json says vocab_size {said[0]} and hidden_size {said[1]}, "
            f"the embedding is {list(tensors[drawn.embedding].shape)}",
            remedy="Use the config.json that was saved with these weights.",
        )
