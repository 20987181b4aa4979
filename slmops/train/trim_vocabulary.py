"""Trim a model's vocabulary to what texts use: its tokenizer, and the rows of its embedding and head.

Which tokens stay, `vocabulary_use` says. The model given is not touched.

Laws: what was proved (see `prove_trim`) is proved of every text given, each time; where a budget takes
tokens that texts use, these texts can still be written, from smaller tokens; a text that cannot keeps
all of its own, and so do the model's golden prompts and the opening of a chat.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slmops.build.checkpoint import Checkpoint
from slmops.build.classifier import is_classifier
from slmops.build.isolate import Progress, silent
from slmops.build.read_tensors import read_json
from slmops.build.subject import context_of_source
from slmops.build.texts import spread
from slmops.errors import ModelError
from slmops.train.prove_trim import prove_answers, prove_ids, prove_words
from slmops.train.read_words import Ids, Reading, Words, read_own, read_written
from slmops.train.renumbering import (
    as_file,
    fewer_special,
    fewer_tokens,
    named_ids,
    named_texts,
    numbers_of,
    renumbered,
)
from slmops.train.token_rows import with_tokens
from slmops.train.vocabulary_use import Vocabulary, choose, vocabulary_of

HELD_OUT = 10
"""One text of so many is held out to see how texts fare that had no say."""
SEQUENCES, LENGTH = 16, 64
"""Of texts whose logits are compared, and tokens of each, at most."""
TOKENIZER, TOKENIZER_CONFIG, GENERATION = "tokenizer.json", "tokenizer_config.json", "generation_config.json"


@dataclass(frozen=True)
class Unseen:
    """How texts fare that had no say in what stays: a tenth of all, with what the others alone would keep."""

    texts: int
    changed: int
    """Those that are cut into other tokens than before."""
    unreadable: int
    """Those in which something is unknown that was not."""
    more_tokens: float
    """Tokens that a text takes more than before, on the mean over all of them."""


@dataclass(frozen=True)
class TrimReport:
    """What became of a vocabulary, and what was proved of it."""

    tokens_before: int
    """Rows of the embedding."""
    tokens_after: int
    parameters_before: int
    parameters_after: int
    covered: float
    """Share of the texts' tokens that were kept: 1 where there was no budget."""
    texts: int
    """Texts that both tokenizers have read."""
    changed: int
    """Those that are cut into other tokens than before; none where there was no budget."""
    more_tokens: float
    """Tokens that a text takes more than before, on the mean over all of them."""
    largest_difference: float
    """Between a logit of the trimmed model and of the whole one, of those compared."""
    unseen: Unseen | None
    """None: too few texts to hold some out."""


@dataclass(frozen=True, eq=False)
class Trimmed:
    """A model with fewer tokens."""

    model: Any
    """In float32; all but the rows of tokens it shares with the one given."""
    files: dict[str, bytes]
    """For `model_folder.write_model`: what of the source's files says token ids, renumbered."""
    kept: list[int]
    """The ids that were kept, by their new ones."""
    report: TrimReport


def trim(
    checkpoint: Checkpoint,
    model: Any,
    files: Sequence[Path],
    *,
    keep: int | None = None,
    progress: Progress = silent,
) -> Trimmed:
    """Return `model`, the transformers model of `checkpoint` in float32, with the tokens that `files` use.

    With `keep`, with no more tokens than that, up to the next multiple of `vocabulary_use.ROWS`: those
    used most. The logits of those that stay are what they were, and none that went takes a share of the
    probability any more. Raises DocumentError when a file cannot be read, UsageError when `keep` is too few,
    ModelError for a kind of tokenizer that is not known, BuildError when what came out is not the same
    model.
    """
    source = _open(checkpoint, model)
    own, given = read_own(checkpoint), read_written(checkpoint, files)
    texts = list(dict.fromkeys([*own, *given]))
    old = Reading(texts, source.words.read(texts, "counting tokens", progress))
    must = (id_ for ids in old.ids[: len(own)] for id_ in ids.tolist())
    needed = source.needed.union(source.unknown_parts(old), must)
    choice = _choose(source, old, needed, keep, progress)
    unseen = _try_unseen(source, old.part(range(len(own), len(texts))), needed, keep, progress)
    smaller = with_tokens(model, choice.kept)

    stays = np.isin(np.arange(source.rows), choice.kept)
    prove_ids(source.words, choice.words, choice.kept)
    whole = [at for at, ids in enumerate(old.ids) if stays[ids].all()]
    prove_words(source.words, choice.words, choice.kept, old.part(whole), choice.reading.part(whole))
    length = min(LENGTH, context_of_source(checkpoint))
    sample = (old.ids[at] for _, at in zip(range(SEQUENCES), spread(len(texts)), strict=False))
    sequences = [ids[stays[ids]][:length] for ids in sample]
    difference = prove_answers(model, smaller, [ids for ids in sequences if len(ids)], choice.kept, progress)

    report = TrimReport(
        tokens_before=source.rows,
        tokens_after=len(choice.kept),
        parameters_before=_parameters(model),
        parameters_after=_parameters(smaller),
        covered=float(stays[np.concatenate(old.ids)].mean()),
        texts=len(texts),
        changed=len(texts) - len(whole),
        more_tokens=_more(old.ids, choice.reading.ids),
        largest_difference=difference,
        unseen=unseen,
    )
    return Trimmed(smaller, _files(checkpoint, choice), choice.kept, report)


@dataclass(frozen=True, eq=False)
class _Source:
    """The words of a model before they are trimmed."""

    tokenizer: Mapping[str, Any]
    words: Words
    vocabulary: Vocabulary
    rows: int
    labels: bool
    needed: frozenset[int]
    """Ids that the model's files name."""

    def fewer(self, kept: Sequence[int]) -> tuple[dict[str, Any], Words]:
        """Return the tokenizer.json of the tokens `kept`, and it opened."""
        said = fewer_tokens(self.tokenizer, numbers_of(kept))
        return said, Words(json.dumps(said), labels=self.labels)

    def unknown_parts(self, old: Reading) -> set[int]:
        """Return the pieces without which a WordPiece might read a word of texts that it could not."""
        if self.vocabulary.kind != "WordPiece":
            return set()
        unread = (text for text, ids in old if self.vocabulary.unknown in ids)
        words = {word for text in unread for word in self.words.words(text.text)}
        return {id_ for word in words for id_ in self.vocabulary.read_so_far(word)}

    def unknowns(self, ids: Ids) -> int:
        """Return how many tokens of a text are the unknown one."""
        return 0 if self.vocabulary.unknown is None else int((ids == self.vocabulary.unknown).sum())


@dataclass(frozen=True, eq=False)
class _Choice:
    """Tokens that stay, and what becomes of texts with them."""

    kept: list[int]
    tokenizer: Mapping[str, Any]
    words: Words
    reading: Reading
    """In the new numbers."""


def _open(checkpoint: Checkpoint, model: Any) -> _Source:
    said = checkpoint.words().read_text(encoding="utf-8")
    tokenizer, labels = json.loads(said), is_classifier(checkpoint.config)
    vocabulary, rows = vocabulary_of(tokenizer), int(model.get_input_embeddings().weight.shape[0])
    if max(vocabulary.tokens) >= rows:
        raise ModelError(
            f"{checkpoint.folder}: tokenizer.json has ids up to {max(vocabulary.tokens)}, the model's "
            f"embedding has {rows} rows",
            remedy="Use the tokenizer that the model was trained with.",
        )
    configs = (model.config.to_dict(), read_json(checkpoint.folder / GENERATION))
    named = [*checkpoint.stop_ids, *(id_ for config in configs for id_ in named_ids(config))]
    sides = (read_json(checkpoint.folder / name) for name in (TOKENIZER_CONFIG, "special_tokens_map.json"))
    spelled = (vocabulary.ids.get(text) for side in sides for text in named_texts(side))
    needed = {id_ for id_ in (*named, *spelled) if id_ is not None and 0 <= id_ < rows}
    return _Source(tokenizer, Words(said, labels=labels), vocabulary, rows, labels, frozenset(needed))


def _choose(
    source: _Source, old: Reading, needed: AbstractSet[int], keep: int | None, progress: Progress
) -> _Choice:
    """Choose tokens; of texts that cannot be written with them, all tokens are needed."""
    while True:
        kept = choose(source.vocabulary, _counts(old.ids), needed, keep)
        tokenizer, words = source.fewer(kept)
        new = Reading(old.texts, words.read(old.texts, "reading with fewer tokens", progress))
        lost = set() if keep is None else set(_lost(source, words, kept, old, new))
        if lost <= needed:
            return _Choice(kept, tokenizer, words, new)
        needed = needed | lost


def _lost(source: _Source, words: Words, kept: Sequence[int], old: Reading, new: Reading) -> Iterator[int]:
    """Yield the tokens of texts that no longer read back as they did."""
    reads_back = source.words.tokenizer.decoder is not None
    old_ids = np.array(kept, np.int32)
    for before, after in zip(old.ids, new.ids, strict=True):
        unknown = source.unknowns(old_ids[after]) > source.unknowns(before)
        if unknown or (reads_back and source.words.text(before) != words.text(after)):
            yield from before.tolist()


def _try_unseen(
    source: _Source, old: Reading, needed: AbstractSet[int], keep: int | None, progress: Progress
) -> Unseen | None:
    """Choose anew without a part of the texts, and see how that part fares."""
    if len(old.texts) < 2 * HELD_OUT:
        return None
    seen = [ids for at, ids in enumerate(old.ids) if at % HELD_OUT]
    kept = choose(source.vocabulary, _counts(seen), needed, keep)
    _, words = source.fewer(kept)
    before, old_ids = old.ids[::HELD_OUT], np.array(kept, np.int32)
    after = [old_ids[ids] for ids in words.read(old.texts[::HELD_OUT], "trying texts held out", progress)]
    pairs = list(zip(before, after, strict=True))
    return Unseen(
        texts=len(pairs),
        changed=sum(not np.array_equal(*pair) for pair in pairs),
        unreadable=sum(source.unknowns(new) > source.unknowns(held) for held, new in pairs),
        more_tokens=_more(before, after),
    )


def _counts(read: Sequence[Ids]) -> dict[int, int]:
    ids, counts = np.unique(np.concatenate(read), return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def _more(before: Sequence[Ids], after: Sequence[Ids]) -> float:
    return (sum(map(len, after)) - sum(map(len, before))) / len(before)


def _parameters(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _files(checkpoint: Checkpoint, choice: _Choice) -> dict[str, bytes]:
    numbers = numbers_of(choice.kept)
    said = {TOKENIZER: as_file(choice.tokenizer)}
    for name, write in ((TOKENIZER_CONFIG, fewer_special), (GENERATION, renumbered)):
        if found := read_json(checkpoint.folder / name):
            said[name] = as_file(write(found, numbers), indent=2)
    return said
