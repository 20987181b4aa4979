"""The files that speak of token ids, written anew for the tokens that stay.

Pure: parsed JSON in, JSON out. Law: what says nothing of tokens that went stays as it was, and in the
same order; the tokens that stay are numbered from 0 in their old order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from slmops.train.vocabulary_use import as_pair

_ENDINGS = ("_token_id", "_token_ids")
_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")


def numbers_of(kept: Sequence[int]) -> dict[int, int]:
    """Return the new id of each that is kept, by its old one."""
    return {old: new for new, old in enumerate(kept)}


def named_ids(config: Mapping[str, Any]) -> Iterator[int]:
    """Yield the token ids that a config.json or generation_config.json names."""
    for key, value in config.items():
        if _says_ids(key):
            yield from _flat(value)


def named_texts(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the tokens that a tokenizer_config.json or special_tokens_map.json names by their text."""
    for key, value in config.items():
        if key.endswith("_token") or key == "additional_special_tokens":
            for token in value if isinstance(value, list) else [value]:
                text = token.get("content") if isinstance(token, dict) else token
                yield from [text] if isinstance(text, str) else []


def renumbered(config: Mapping[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    """Return a config.json or generation_config.json with its token ids renumbered; -1 and the like stay."""
    return {key: _new(value, numbers) if _says_ids(key) else value for key, value in config.items()}


def fewer_special(config: Mapping[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    """Return a tokenizer_config.json with its added tokens renumbered."""
    said = config.get("added_tokens_decoder")
    if said is None:
        return dict(config)
    added = {str(numbers[int(id_)]): token for id_, token in said.items() if int(id_) in numbers}
    return {**config, "added_tokens_decoder": added}


def fewer_tokens(tokenizer: Mapping[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    """Return a tokenizer.json with the tokens that are in `numbers`."""
    added = [
        {**token, "id": numbers[token["id"]]}
        for token in tokenizer.get("added_tokens", [])
        if token["id"] in numbers
    ]
    said = {**tokenizer, "added_tokens": added, "model": _model(tokenizer["model"], numbers)}
    if said.get("post_processor"):
        said["post_processor"] = _post_processor(said["post_processor"], numbers)
    if said.get("padding"):
        said["padding"] = {**said["padding"], "pad_id": _new(said["padding"]["pad_id"], numbers)}
    return said


def as_file(said: Mapping[str, Any], indent: int | None = None) -> bytes:
    """Return JSON; without `indent` in as few bytes as can be, since devices receive it."""
    separators = (",", ":") if indent is None else None
    return (json.dumps(said, ensure_ascii=False, indent=indent, separators=separators) + "\n").encode()


def _says_ids(key: str) -> bool:
    return key.endswith(_ENDINGS) or key in _LISTS


def _flat(value: Any) -> Iterator[int]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from _flat(each)
    elif isinstance(value, int):
        yield value


def _new(value: Any, numbers: Mapping[int, int]) -> Any:
    if isinstance(value, list | tuple):
        return [_new(each, numbers) for each in value]
    return numbers.get(value, value) if isinstance(value, int) else value


def _model(model: Mapping[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    vocab = model["vocab"]
    if isinstance(vocab, list):
        listed = [piece for id_, piece in enumerate(vocab) if id_ in numbers]
        return {**model, "vocab": listed, "unk_id": _new(model.get("unk_id"), numbers)}
    stays = sorted((numbers[id_], text) for text, id_ in vocab.items() if id_ in numbers)
    said = {**model, "vocab": {text: id_ for id_, text in stays}}
    if "merges" in model:
        pairs = ((merge, *as_pair(merge)) for merge in model["merges"])
        said["merges"] = [merge for merge, *pair in pairs if said["vocab"].keys() >= {*pair, "".join(pair)}]
    return said


def _post_processor(said: Mapping[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    """Return a post-processor whose special tokens have their new ids."""
    match said["type"]:
        case "Sequence":
            return {**said, "processors": [_post_processor(step, numbers) for step in said["processors"]]}
        case "TemplateProcessing":
            tokens = said["special_tokens"].items()
            return {**said, "special_tokens": {name: _new_ids(token, numbers) for name, token in tokens}}
        case "BertProcessing" | "RobertaProcessing":
            ends = {name: [text, numbers[id_]] for name in ("sep", "cls") for text, id_ in [said[name]]}
            return {**said, **ends}
        case _:
            return dict(said)


def _new_ids(token: Mapping[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    return {**token, "ids": [numbers[id_] for id_ in token["ids"]]}
