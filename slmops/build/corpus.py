"""The texts on which two tokenizers must agree.

Pure: from a parsed tokenizer.json to texts that bite: spaces, digits, line ends, scripts, emoji, code,
special tokens, and sentences shuffled from the vocabulary itself.

Laws: what llama.cpp cannot say is not asked. A character outside an alphabet without byte tokens ends
its process. It puts a space before every text and after every special token, which Metaspace does not;
it does not normalise to NFC; it knows no special token that strips its surroundings. slmops itself
tokenises with tokenizer.json, where none of this matters.
"""

# ruff: noqa: RUF001 - characters that look like others are what the texts are for
from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from slmops.build.vocabulary import SPACE, is_byte_level, metaspace_scheme, steps

SHUFFLED = 200
"""Texts made of the vocabulary's own tokens, PIECES to each."""
PIECES = 24
_SPECIALS = 6
_BYTES = 256

SENTENCES = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the sun.",
    "Tom said, \"I can't find my ball! It's gone.\" They'd looked; we've looked; you're next, I'm sure.",
    "WE'RE SHOUTING, DON'T YOU THINK? I'VE HAD ENOUGH.",
    "turn the kitchen lamp to forty percent",
    '{"device": "lamp", "room": "kitchen", "action": "set", "value": 40}',
    "one  two   three    four     five",
    " leading space",
    "  two leading spaces",
    "trailing space ",
    "trailing spaces   ",
    " ",
    "   ",
    "\n",
    "\n\n\n",
    "\t",
    " \n \t \r\n x",
    "line one\nline two\r\nline three\n\n  indented\n\ttabbed\n",
    "a\u00a0b\u2003c\u3000d",
    "0 1 12 123 1234 12345 123456 1234567 3.14159 1,000,000 -5 +6 1e-9 0x1F",
    "in 1969 on 20 July at 20:17:40 UTC",
    "x² + y³ ≠ ½ ± ∞ №5 Ⅷ ١٢٣ १२३",
    "!@#$%^&*()_+-=[]{}|;':\",./<>?`~",
    "...!!!???---===***",
    "def f(x):\n    return x**2 if x > 0 else -x  # comment\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] << 2; }",
    '<p class="x">Hello &amp; goodbye</p>',
    "C:\\Users\\name\\file.txt and /usr/local/bin/python3.11",
    "https://example.org/path?q=1&r=two#three user@example.org",
    "camelCaseName snake_case_name SCREAMING_CASE kebab-case-name",
    "“curly quotes” ‘single’ — dash – en … dots",
    "Ärger über größere Öfen; café, naïve, façade, Ångström, Łódź, İstanbul, ığüşöç",
    "Привет, как дела? Щука ёж объект.",
    "Γειά σου Κόσμε",
    "שלום עולם",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "你好，世界！今天天气很好。",
    "こんにちは世界、元気ですか？",
    "안녕하세요 세계",
    "😀 😶‍🌫️ 👩‍👩‍👧‍👦 🇩🇪 ✅ 🦙🦙 🚀",
    "emoji😀inside😀words",
    "mixed 中文 and English и русский 123 текст",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "'s 't 're 've 'm 'll 'd 'S 'T 'RE 'VE 'M 'LL 'D",
    "I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL",
)


def texts(tokenizer: Mapping[str, Any]) -> list[str]:
    """Return the texts for this tokenizer, always the same and in the same order."""
    says = _speaks(tokenizer)
    return [text for text in (*SENTENCES, *_shuffled(tokenizer), *_with_specials(tokenizer)) if says(text)]


def _speaks(tokenizer: Mapping[str, Any]) -> Callable[[str], bool]:
    """Return what tells whether both tokenizers can take a text."""
    spells = _speller(tokenizer)
    composed = any(step["type"] == "NFC" for step in steps(tokenizer, "normalizer"))
    no_leading_space = _metaspace(tokenizer) not in (None, "never")

    def says(text: str) -> bool:
        return (
            bool(text)
            and spells(text)
            and not (no_leading_space and text.startswith(" "))
            and not (composed and not unicodedata.is_normalized("NFC", text))
        )

    return says


def _speller(tokenizer: Mapping[str, Any]) -> Callable[[str], bool]:
    """Return what tells whether the vocabulary can spell a text."""
    vocab = tokenizer["model"]["vocab"]
    if is_byte_level(tokenizer):
        known = {byte for byte, mark in enumerate(byte_marks()) if mark in vocab}
        return lambda text: known.issuperset(text.encode())
    if all(f"<0x{byte:02X}>" in vocab for byte in range(_BYTES)):
        return lambda _text: True
    return {" " if text == SPACE else text for text in vocab if len(text) == 1}.issuperset


def byte_marks() -> list[str]:
    """Return the character that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = iter(range(_BYTES, 2 * _BYTES))
    return [chr(byte) if byte in printable else chr(next(rest)) for byte in range(_BYTES)]


def _shuffled(tokenizer: Mapping[str, Any]) -> Iterator[str]:
    """Yield texts from tokens picked far apart, so that merges meet across every seam."""
    added = {token["content"] for token in tokenizer.get("added_tokens", [])}
    pieces = _pieces(tokenizer, added)
    for i in range(SHUFFLED if pieces else 0):
        text = "".join(pieces[(i * 7919 + j * (104729 + i)) % len(pieces)] for j in range(PIECES))
        if not any(special in text for special in added):
            yield text


def _pieces(tokenizer: Mapping[str, Any], added: set[str]) -> list[str]:
    ordinary = [text for text in tokenizer["model"]["vocab"] if text not in added]
    if not is_byte_level(tokenizer):
        return [text.replace(SPACE, " ") for text in ordinary if not text.startswith("<0x")]
    value = {mark: byte for byte, mark in enumerate(byte_marks())}
    spelled = [_decoded([value[mark] for mark in text if mark in value]) for text in ordinary]
    return [text for text in spelled if text]


def _decoded(codes: Sequence[int]) -> str:
    try:
        return bytes(codes).decode()
    except UnicodeDecodeError:
        return ""


def _with_specials(tokenizer: Mapping[str, Any]) -> Iterator[str]:
    if _metaspace(tokenizer) == "first":
        return
    normalizes = any(step["type"] != "NFC" for step in steps(tokenizer, "normalizer"))
    plain = [
        token["content"]
        for token in tokenizer.get("added_tokens", [])
        if not (token["lstrip"] or token["rstrip"] or token["single_word"])
        and not (token["normalized"] and normalizes)
        and not (normalizes and SPACE in token["content"])
    ]
    for special in dict.fromkeys([*plain[:_SPECIALS], *plain[-_SPECIALS:]]):
        yield special
        yield f"{special}Hello{special} world {special}{special}\nthe end"


def _metaspace(tokenizer: Mapping[str, Any]) -> str | None:
    found = [metaspace_scheme(s) for s in steps(tokenizer, "pre_tokenizer") if s["type"] == "Metaspace"]
    return found[0] if found else None
