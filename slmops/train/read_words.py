"""Read the texts that say which words a model needs, and turn them into ids by any tokenizer.json.

Texts are what `build.texts` reads, questions also without their answers; of classifiers, and of any
.csv, what `labelled_lines` reads.

Law: a text is read as a server reads it, special tokens and all; long ones in passages, each of which
can say alone what it needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from slmops.artifact import golden as goldens
from slmops.build.checkpoint import Checkpoint
from slmops.build.classifier import is_classifier
from slmops.build.isolate import Progress
from slmops.build.json_lines import messages, objects
from slmops.build.labelled_lines import read_lines
from slmops.build.phrase import render_chat
from slmops.build.texts import EXAMPLES, SEPARATOR, Text, passages, read_text
from slmops.errors import DocumentError, ModelError

PASSAGE = 8192
"""Characters of a long text that are read at once, at most."""
ASSISTANT = "assistant"
OPENING = [{"role": "user", "content": ""}]
"""What a chat template writes around this, a model that chats is sure to read."""
Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Written:
    """A text as it reaches the tokenizer."""

    text: str
    ends: bool = True
    """Special tokens are put around it; those of a chat stand in it already."""


@dataclass(frozen=True)
class Reading:
    """Texts, and the ids of each by one tokenizer."""

    texts: Sequence[Written]
    ids: Sequence[Ids]

    def __iter__(self) -> Iterator[tuple[Written, Ids]]:
        """Yield each text with its ids."""
        return iter(zip(self.texts, self.ids, strict=True))

    def part(self, places: Sequence[int]) -> Reading:
        """Return those at `places`."""
        return Reading([self.texts[at] for at in places], [self.ids[at] for at in places])


class Words:
    """A tokenizer.json, used as a server uses it."""

    def __init__(self, said: str, *, labels: bool) -> None:
        """Open the tokenizer.json that says `said`; with `labels`, for a classifier."""
        try:
            self.tokenizer = Tokenizer.from_str(said)
        # The library raises bare Exception and nothing else.
        except Exception as error:
            raise ModelError(f"tokenizer.json cannot be read: {error}") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = labels

    def read(self, texts: Sequence[Written], what: str, progress: Progress) -> list[Ids]:
        """Return the ids of each text; `progress` hears that `what` is done."""
        found = []
        for number, each in enumerate(texts, 1):
            found.append(
                np.array(self.tokenizer.encode(each.text, add_special_tokens=each.ends).ids, np.int32)
            )
            progress(what, number / len(texts))
        return found

    def text(self, ids: Ids) -> str:
        """Return the text of token ids, special tokens included."""
        return str(self.tokenizer.decode(ids.tolist(), skip_special_tokens=False))

    def words(self, text: str) -> Iterator[str]:
        """Yield the words of `text`, as the model of this tokenizer is given them."""
        normalizer, splitter = self.tokenizer.normalizer, self.tokenizer.pre_tokenizer
        plain = normalizer.normalize_str(text) if normalizer else text
        yield from (word for word, _ in splitter.pre_tokenize_str(plain)) if splitter else (plain,)


def read_own(checkpoint: Checkpoint) -> list[Written]:
    """Return what a model must not fail at: the opening of a chat, and its golden prompts."""
    labels = is_classifier(checkpoint.config)
    golden = checkpoint.folder / goldens.FILE_NAME
    opening: list[Text] = [] if labels or not checkpoint.chat_template else [OPENING]
    return _written(checkpoint, [*opening, *(_texts(golden, labels=labels) if golden.is_file() else [])])


def read_written(checkpoint: Checkpoint, files: Sequence[Path]) -> list[Written]:
    """Return the texts of `files`, each once; raise DocumentError saying where one cannot be read."""
    labels = is_classifier(checkpoint.config)
    texts = [text for file in files for text in _texts(file, labels=labels)]
    if not texts:
        raise DocumentError(
            f"{', '.join(map(str, files)) or 'no file'}: expected texts that say which words are needed, "
            "got none",
            remedy="Give texts of the kind that the model will read and write.",
        )
    return _written(checkpoint, texts)


def _texts(file: Path, *, labels: bool) -> list[Text]:
    said, name = read_text(file), str(file)
    if name.lower().endswith(".jsonl"):
        lines = objects(said, name, EXAMPLES)
        return [text for where, one in lines for text in _of_line(one, where, answers=not labels)]
    if labels or name.lower().endswith(".csv"):
        return [line.text for line in read_lines(said, name)]
    return [text for part in said.split(SEPARATOR) if (text := part.strip())]


def _of_line(said: dict[str, Any], where: str, *, answers: bool) -> Iterator[Text]:
    """Yield what a line asks, and with `answers` that once more with what is to be answered."""
    answer = said.get("completion", said.get("expect")) if answers else None
    written = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    if "messages" in said:
        talk = messages(said["messages"], where, EXAMPLES)
        yield talk
        yield from () if answer is None else ([*talk, {"role": ASSISTANT, "content": written}],)
        return
    text = said.get("text", said.get("prompt"))
    if not isinstance(text, str):
        raise DocumentError(f"{where}: expected text, got keys {sorted(said)}", remedy=f"Write {EXAMPLES}")
    yield text
    yield from () if answer is None else (text + written,)


def _written(checkpoint: Checkpoint, texts: Sequence[Text]) -> list[Written]:
    return list(dict.fromkeys(each for text in texts for each in _parts(checkpoint, text)))


def _parts(checkpoint: Checkpoint, text: Text) -> Iterator[Written]:
    if isinstance(text, str):
        parts = [text] if len(text) <= PASSAGE else passages(text, PASSAGE)
        yield from (Written(str(part)) for part in parts)
        return
    asks = text[-1]["role"] != ASSISTANT
    said = render_chat(checkpoint.chat_template, text, checkpoint.special_tokens, answer=asks)
    yield Written(said, ends=False)
