"""Read the texts that a classifier is calibrated and measured with, and turn them into its token ids.

What the files hold, `labelled_lines` says. A label is a name of the model's or its number.

Laws: which texts calibrate and which measure depends on the texts alone, not on their order; no text
does both; a text is read as a server reads it, whole, with the tokenizer's special tokens around it
and nothing in it taken for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from slmops import digest
from slmops.build.labelled_lines import Line, read_lines
from slmops.build.texts import read_text
from slmops.errors import DocumentError, ModelError

CALIBRATE = 256
"""Texts that calibrate, at most: the ranges of activations are known by then."""
MEASURE = 1000
"""Texts that measure, at most, where no file was given for that."""
LEAST = 8
"""Texts on either side, at least."""


@dataclass(frozen=True)
class Labelled:
    """A text, the ids a server feeds for it, and the number of its label where that is known."""

    text: str
    ids: tuple[int, ...]
    label: int | None = None


@dataclass(frozen=True)
class Texts:
    """What calibrates and what measures: two lists without a text in common."""

    calibrating: list[Labelled]
    measuring: list[Labelled]
    digest: str
    """Of the file or files they come from."""
    too_long: int = 0
    """Texts left out because the model cannot read them whole: a server refuses them."""


class Reader:
    """A tokenizer.json, used as a server of the classifier uses it."""

    def __init__(self, tokenizer: Path) -> None:
        """Open `tokenizer`; raise ModelError when it is none."""
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
        # The library raises bare Exception and nothing else.
        except Exception as error:
            raise ModelError(f"{tokenizer} cannot be read: {error}") from error
        # Many a tokenizer.json cuts and pads as its training did.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True

    def ids(self, text: str) -> tuple[int, ...]:
        """Return the token ids of `text`."""
        return tuple(self._tokenizer.encode(text).ids)


def read_for_build(
    tokenizer: Path, labels: Sequence[str], context: int, file: Path, evaluation: Path | None = None
) -> Texts:
    """Return the texts of `file`, of which a part is held out to measure with.

    With `evaluation`, all of that file measures and all else of `file` may calibrate. Raises
    DocumentError when a file cannot be read, names a label the model has not, or holds too few texts.
    """
    reader = Reader(tokenizer)
    given = read_labelled(file, labels, reader)
    apart = read_labelled(evaluation, labels, reader) if evaluation else []
    both = [[each for each in side if len(each.ids) <= context] for side in (given, apart)]
    kept = sorted(both[0], key=lambda each: digest.of_bytes(each.text.encode()))
    taken = {each.text for each in both[1]}
    free = [each for each in kept if each.text not in taken]
    count = min(CALIBRATE, len(free) if evaluation else len(free) // 2)
    measuring = both[1] if evaluation else free[count:][:MEASURE]
    if min(count, len(measuring)) < LEAST:
        raise DocumentError(
            f"{file}: expected at least {LEAST} different texts to calibrate and as many others to measure "
            f"with, of at most {context} tokens, got {count} and {len(measuring)}",
            remedy="Give more texts of the kind the classifier will read, one a line.",
        )
    files = [file, evaluation] if evaluation else [file]
    return Texts(
        free[:count],
        measuring,
        digest.of_pieces(f"{digest.of_file(each)}\n".encode() for each in files),
        len(given) + len(apart) - sum(map(len, both)),
    )


def read_labelled(file: Path, labels: Sequence[str], reader: Reader) -> list[Labelled]:
    """Return the texts in `file`, each once, in its order; raise DocumentError naming file and line."""
    return labelled(read_lines(read_text(file), str(file)), labels, reader)


def labelled(lines: Iterable[Line], labels: Sequence[str], reader: Reader) -> list[Labelled]:
    """Return the texts of `lines`, each once; raise DocumentError for a label that is none of `labels`."""
    numbers = {str(number): number for number in range(len(labels))}
    numbers |= {label: number for number, label in enumerate(labels)}
    found: dict[str, Labelled] = {}
    for line in lines:
        if line.label is not None and line.label not in numbers:
            raise DocumentError(
                f"{line.where}: the model has no label {line.label!r}; it has {', '.join(labels[:5])}"
                + (", ..." if len(labels) > 5 else ""),  # noqa: PLR2004 - as many as a line shows
                remedy="Use the names in id2label of the model's config.json, or their numbers.",
            )
        number = None if line.label is None else numbers[line.label]
        found.setdefault(line.text, Labelled(line.text, reader.ids(line.text), number))
    return list(found.values())
