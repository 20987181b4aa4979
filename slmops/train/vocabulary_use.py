"""Which tokens of a vocabulary stay: those that texts use, and those that these are made of.

Pure: a parsed tokenizer.json and counts of token ids in, ids out. Knows BPE (of bytes, or of
characters with bytes to fall back on), Unigram and WordPiece.

Laws: a text whose tokens all stay is cut into the same tokens as before. For BPE that is so because
whatever merges pass through on the way to a token stays with it: the merges that are left are fewer,
and those that won are among them. For Unigram, because the best path is still there, and the least
likely piece, from which the price of an unknown character follows. For WordPiece, because the longest
piece that fits is still there, and none that is longer came in (see `read_so_far`).
What could be written can still be written: bytes stay, or where there are none to fall back on the
characters; of Unigram and WordPiece those that the texts use, and ASCII.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from slmops.errors import ModelError, UsageError

ROWS = 32
"""Tokens are kept in multiples of this: llama.cpp's fast products interleave 4 to 32 rows of a matrix."""
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
KINDS = ("BPE", "Unigram", "WordPiece")
_ASCII = frozenset(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer.json, and how longer ones come about."""

    kind: str
    ids: Mapping[str, int]
    """Of the model's own tokens, by text."""
    added: frozenset[int]
    """Tokens that are looked for in the text before the model reads it; specials are among them."""
    unknown: int | None
    ranks: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Of BPE: the place of each merge."""
    least: int | None = None
    """Of Unigram: the least likely piece."""
    prefix: str = ""
    """Of WordPiece: what stands before a piece that continues a word."""
    bytes: frozenset[int] = frozenset()
    """Tokens of single bytes, where any character falls back on them."""

    @property
    def tokens(self) -> frozenset[int]:
        """Return the ids of all tokens."""
        return self.added.union(self.ids.values())

    def made_from(self, text: str) -> Iterator[int]:
        """Yield the tokens that merges pass through from the characters of token `text` to itself.

        None where merges do not lead to it. It comes about in the same way within a longer word: no
        merge across its borders can have won there.
        """
        symbols = list(text)
        passed = set(symbols)
        while len(symbols) > 1:
            open_merges = [
                (self.ranks[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in self.ranks
            ]
            if not open_merges:
                return
            _, at = min(open_merges)
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            passed.add(symbols[at])
        yield from (self.ids[symbol] for symbol in passed if symbol in self.ids)

    def read_so_far(self, word: str) -> Iterator[int]:
        """Yield the pieces that a WordPiece takes from `word` until it finds none, and calls it unknown.

        Without them it might take others, and come to the end.
        """
        start = 0
        while start < len(word):
            mark = self.prefix if start else ""
            fits = (end for end in range(len(word), start, -1) if mark + word[start:end] in self.ids)
            end = next(fits, None)
            if end is None:
                return
            yield self.ids[mark + word[start:end]]
            start = end

    def lasting(self, used: AbstractSet[int]) -> set[int]:
        """Return the tokens that stay for the sake of what may have to be written, beside those `used`."""
        always = {id_ for id_ in (self.unknown, self.least) if id_ is not None}
        return always | self.added | self.bytes | {self.ids[text] for text in self._letters(used)}

    def _letters(self, used: AbstractSet[int]) -> Iterator[str]:
        """Yield the tokens of one character that stay."""
        if self.kind == "BPE":
            yield from (text for text in self.ids if len(text) == 1 and not self.bytes)
            return
        written = (text.removeprefix(self.prefix) for text, id_ in self.ids.items() if id_ in used)
        for letter in _ASCII.union(*written):
            yield from (text for text in {letter, self.prefix + letter} if text in self.ids)


def vocabulary_of(tokenizer: Mapping[str, Any]) -> Vocabulary:
    """Return the vocabulary of a parsed tokenizer.json; raise ModelError for a kind that is not known."""
    model = tokenizer["model"]
    kind = model.get("type", "BPE" if "merges" in model else None)
    marked = kind == "BPE" and (model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"))
    if kind not in KINDS or marked:
        raise ModelError(
            f"tokenizer.json has a {kind} model"
            + (" that marks the parts of words" if marked else "")
            + "; expected BPE that does not mark the parts of words, Unigram, or WordPiece",
            remedy="Leave the vocabulary of this model as it is.",
        )
    listed = kind == "Unigram"
    ids = {text: id_ for id_, (text, _) in enumerate(model["vocab"])} if listed else model["vocab"]
    scores = [score for _, score in model["vocab"]] if listed else []
    falls_back = model.get("byte_fallback") and all(text in ids for text in BYTES)
    return Vocabulary(
        kind=kind,
        ids=ids,
        added=frozenset(token["id"] for token in tokenizer.get("added_tokens", [])),
        unknown=model.get("unk_id") if listed else ids.get(model.get("unk_token")),
        ranks={as_pair(merge): rank for rank, merge in enumerate(model.get("merges", []))},
        least=scores.index(min(scores)) if scores else None,
        prefix=model.get("continuing_subword_prefix") or "",
        bytes=frozenset(ids[text] for text in BYTES) if falls_back else frozenset(),
    )


def as_pair(merge: str | list[str]) -> tuple[str, str]:
    """Return the two parts of a merge, in either form that a tokenizer.json has."""
    first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
    return first, second


def choose(
    vocabulary: Vocabulary, counts: Mapping[int, int], needed: AbstractSet[int], keep: int | None = None
) -> list[int]:
    """Return the ids that stay, ascending: what is `needed`, what is lasting, and what texts use.

    `counts` says how often each id is used. With `keep`, those used most stay and no more tokens than
    that, up to the next multiple of ROWS. What rounding leaves free goes to the next ones. Raises
    UsageError when `keep` is less than what must stay.
    """
    texts = {id_: text for text, id_ in vocabulary.ids.items()}
    used = {id_ for id_, count in counts.items() if count}

    def whole(id_: int) -> set[int]:
        return {id_, *(vocabulary.made_from(texts[id_]) if vocabulary.kind == "BPE" and id_ in texts else ())}

    kept = set[int]().union(*map(whole, needed | vocabulary.lasting(used)))
    if keep is not None and len(kept) > keep:
        raise UsageError(
            f"{keep} tokens were asked for, {len(kept)} must stay: special ones, bytes or characters, those "
            "of golden prompts and of the chat template, and what the texts cannot be written without",
            remedy=f"Ask for at least {len(kept)} tokens.",
        )
    all_used = kept.union(*map(whole, used))
    most = len(all_used) if keep is None else min(keep, len(all_used))
    room = -(-most // ROWS) * ROWS
    rest = sorted(vocabulary.tokens - used)
    for id_ in (*sorted(used, key=lambda id_: (-counts[id_], id_)), *rest):
        if len(kept) == room:
            break
        if len(more := whole(id_) - kept) <= room - len(kept):
            kept |= more
    return sorted(kept)
