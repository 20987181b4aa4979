"""A tokenizer.json as the vocabulary of a GGUF file.

Pure: parsed JSON in, `tokenizer.ggml.*` keys out. Two kinds are known: byte-level BPE (llama.cpp's
"gpt2") and BPE over raw text with spaces as U+2581 (its "llama").

Laws: every id below the model's vocab_size has one token and no two tokens share a text (llama.cpp
ends the process otherwise); the pre-tokenizer's name follows from what tokenizer.json says and never
from the model's name; what llama.cpp cannot express is refused. That the result tokenises alike is
not assumed but proven: see prove_vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from slmops.build.family_terms import WAY_OUT
from slmops.build.scheme import Value
from slmops.errors import ModelError

SPACE = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_MARKED_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA3 = _CONTRACTIONS + _WORDS + r"|\p{N}{1,3}" + _REST
_QWEN2 = _CONTRACTIONS + _WORDS + r"|\p{N}" + _REST
_QWEN35 = _QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
_CASED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = rf"{_MARKED_UPPER}*{_LOWER}+|{_MARKED_UPPER}+{_LOWER}*|\p{{N}}{_CASED}"
_GPT4O = (
    rf"{_MARKED_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_MARKED_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}{_CASED}"
)
_PRE_TOKENIZERS = {
    # What splits the text, in order, and whether a whole word that is a token skips the merges.
    ((_GPT2,), False): "gpt-2",
    ((r"\p{N}", _GPT2), False): "smollm",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",
    ((_QWEN2,), False): "qwen2",
    ((_QWEN35,), False): "qwen35",
    ((_TEKKEN,), True): "tekken",
    ((_GPT4O,), False): "gpt-4o",
}


class TokenType(IntEnum):
    """llama.cpp's kinds of token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Ends:
    """How texts begin and end, by token id."""

    bos: int | None
    stop: Sequence[int]
    """The first is the end of a text; a second becomes the end of a turn."""
    add_bos: bool
    pad: str | None = None
    unknown: str | None = None


def vocabulary(
    tokenizer: Mapping[str, Any], size: int, ends: Ends, chat_template: str | None
) -> dict[str, Value]:
    """Return the keys for a vocabulary of `size` tokens; raise ModelError for what llama.cpp lacks."""
    model = tokenizer["model"]
    # GPT-2's own file does not say its type; of all types only BPE has merges.
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise _refusal(f"a {kind} model; llama.cpp's families here use BPE")
    byte_level = is_byte_level(tokenizer)
    types = _types(tokenizer, byte_level=byte_level)
    tokens = _tokens(tokenizer, types, size)
    merges = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
    said_by_kind = _byte_level(tokenizer, merges) if byte_level else _spaced(tokenizer, tokens, merges)
    by_text = {text: id_ for id_, text in enumerate(tokens)}
    said: dict[str, Value | None] = {
        **said_by_kind,
        "ggml.tokens": tokens,
        "ggml.token_type": [int(types.get(id_, TokenType.UNUSED)) for id_ in range(size)],
        "ggml.bos_token_id": ends.bos,
        "ggml.eos_token_id": _first_stop(ends),
        "ggml.eot_token_id": ends.stop[1] if len(ends.stop) > 1 else None,
        "ggml.unknown_token_id": by_text.get(ends.unknown or ""),
        "ggml.padding_token_id": by_text.get(ends.pad or ""),
        "ggml.add_bos_token": ends.add_bos,
        "ggml.add_eos_token": False,
        "chat_template": chat_template,
    }
    return {f"tokenizer.{key}": value for key, value in said.items() if value not in (None, "", [])}


def is_byte_level(tokenizer: Mapping[str, Any]) -> bool:
    """Return whether tokens are made of bytes (and not of characters with U+2581 for the space)."""
    return any(step["type"] == "ByteLevel" for step in steps(tokenizer, "pre_tokenizer"))


def steps(tokenizer: Mapping[str, Any], part: str) -> list[Mapping[str, Any]]:
    """Return the steps of the normalizer or the pre_tokenizer, a Sequence unfolded."""
    said = tokenizer.get(part)
    if not said:
        return []
    if said["type"] != "Sequence":
        return [said]
    return list(said.get("normalizers") or said.get("pretokenizers") or [])


def _types(tokenizer: Mapping[str, Any], *, byte_level: bool) -> dict[int, TokenType]:
    model = tokenizer["model"]
    found = {
        id_: TokenType.BYTE if not byte_level and _BYTE.fullmatch(text) else TokenType.NORMAL
        for text, id_ in model["vocab"].items()
    }
    for token in tokenizer.get("added_tokens", []):
        if not (_is_made_by_merges(token) and token["id"] in found):
            found[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    if model.get("unk_token") in model["vocab"]:
        found[model["vocab"][model["unk_token"]]] = TokenType.UNKNOWN
    return found


def _is_made_by_merges(token: Mapping[str, Any]) -> bool:
    """Return whether an added token is looked for where it cannot be: marked spaces in an unmarked text."""
    return not (token["special"] or token["normalized"]) and SPACE in token["content"]


def _tokens(tokenizer: Mapping[str, Any], types: Mapping[int, TokenType], size: int) -> list[str]:
    texts = {id_: text for text, id_ in tokenizer["model"]["vocab"].items()}
    texts |= {token["id"]: token["content"] for token in tokenizer.get("added_tokens", [])}
    if max(texts) >= size:
        raise ModelError(
            f"tokenizer.json has ids up to {max(texts)}, the model's vocab_size is {size}",
            remedy="Resize the model's embedding to the tokenizer, or use the tokenizer it was trained with.",
        )
    # llama.cpp looks for a user's own tokens in the text before it marks the spaces.
    own = {id_ for id_, kind in types.items() if kind == TokenType.USER_DEFINED}
    tokens = [
        texts.get(id_, f"[PAD{id_}]").replace(SPACE, " ") if id_ in own else texts.get(id_, f"[PAD{id_}]")
        for id_ in range(size)
    ]
    if len(set(tokens)) != size:
        twice = next(text for text in tokens if tokens.count(text) > 1)
        raise _refusal(f"two tokens with the text {twice!r}")
    return tokens


def _byte_level(tokenizer: Mapping[str, Any], merges: Sequence[Sequence[str]]) -> dict[str, Value | None]:
    strange = [step["type"] for step in steps(tokenizer, "normalizer") if step["type"] != "NFC"]
    if strange:
        raise _refusal(f"a byte-level model with the normalizer {', '.join(strange)}")
    return {
        "ggml.model": "gpt2",
        "ggml.pre": _pre_tokenizer(tokenizer),
        "ggml.merges": [" ".join(pair) for pair in merges],
    }


def _pre_tokenizer(tokenizer: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for the way this tokenizer splits text into words."""
    splits: list[str] = []
    for step in steps(tokenizer, "pre_tokenizer"):
        match step:
            case {"type": "ByteLevel", "add_prefix_space": True}:
                raise _refusal("ByteLevel with add_prefix_space; llama.cpp puts no space before the text")
            case {"type": "ByteLevel"}:
                splits += [_GPT2] if step.get("use_regex", True) else []
            case {"type": "Digits", "individual_digits": True}:
                splits.append(r"\p{N}")
            case {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}:
                splits.append(regex)
            case {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Removed", "invert": True}:
                splits.append(regex)
            case _:
                raise _refusal(f"the pre-tokenizer {step}")
    key = (tuple(splits), bool(tokenizer["model"].get("ignore_merges")))
    if key not in _PRE_TOKENIZERS:
        raise _refusal(f"a pre-tokenizer that splits by {' then '.join(splits) or 'nothing'}")
    return _PRE_TOKENIZERS[key]


def _spaced(
    tokenizer: Mapping[str, Any], tokens: Sequence[str], merges: Sequence[Sequence[str]]
) -> dict[str, Value | None]:
    """llama.cpp joins the neighbours whose union scores best: the rank of its first merge makes that BPE."""
    lowest = -float(len(merges) + 1)
    ranks = {"".join(pair): -float(rank) for rank, pair in reversed(list(enumerate(merges)))}
    return {
        "ggml.model": "llama",
        "ggml.pre": "default",
        "ggml.scores": [ranks.get(text, lowest) for text in tokens],
        "ggml.add_space_prefix": _adds_space(tokenizer),
    }


def _adds_space(tokenizer: Mapping[str, Any]) -> bool:
    """Return whether a space is put before a text; raise ModelError for steps llama.cpp does not take."""
    adds = False
    for step in steps(tokenizer, "normalizer") + steps(tokenizer, "pre_tokenizer"):
        match step:
            case {"type": "Prepend", "prepend": "\u2581"}:
                adds = True
            case {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"} | {"type": "NFC"}:
                pass
            case {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}:
                pass  # Gemma's: the normalizer has left no space to split at.
            case {"type": "Metaspace", "replacement": "\u2581"}:
                adds = adds or metaspace_scheme(step) != "never"
            case _:
                raise _refusal(f"the step {step}")
    return adds


def metaspace_scheme(step: Mapping[str, Any]) -> str:
    """Return always, first or never; older files say it with add_prefix_space."""
    return str(step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never"))


def _first_stop(ends: Ends) -> int:
    if not ends.stop:
        raise ModelError(
            "the checkpoint names no end token; llama.cpp would take token 11 for it",
            remedy="Set eos_token in tokenizer_config.json or eos_token_id in config.json.",
        )
    return ends.stop[0]


def _refusal(what: str) -> ModelError:
    return ModelError(f"tokenizer.json has {what}: llama.cpp has no name for it", remedy=WAY_OUT)
