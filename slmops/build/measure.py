"""How far an artifact's next-token distribution lies from its source's, over the same text.

The text is what a person gives; else the source writes its own (sampled at temperature 1, seeded),
so that no corpus is needed and the text is in the model's own domain. The source and each artifact
read it in processes of their own, and the source's rows of logits go straight to the artifacts',
STRIDE of them at a time. An artifact is fed as a server feeds it: the first half of a text many
tokens at once, the rest token by token.

Laws: the same source, seed and prompts write the same text; a row of logits is on no disk, and in
memory only until it is compared; the source is loaded once, and never ahead of the slowest artifact
by more than a pipe holds; what a runtime does to its process stays in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from slmops.artifact.golden import Golden
from slmops.build.divergence import Likelihood, Measurement, Rows, Tally, judge, likelihood, log_probabilities
from slmops.build.isolate import Child, Progress, gather, isolate, silent
from slmops.build.open_model import STRIDE, Model, Shape, parts
from slmops.build.phrase import Phrasing
from slmops.build.subject import Source, context_of_source, name_of, open_source, open_weights, open_words
from slmops.build.texts import LEAST, sequences
from slmops.errors import BuildError

__all__ = [
    "Measurement",
    "Reading",
    "Source",
    "go_on",
    "judge",
    "measure",
    "measure_many",
    "open_source",
    "read_alone",
    "write_story",
]

LENGTH = 128
"""Most tokens in one text that the source writes."""
READ_LENGTH = 512
"""Most tokens in one sequence of a text that a person gives."""
Told = list[tuple[list[int], int]]
"""Sequences, and how many bytes of text their foretold tokens write."""
Kept = tuple[int, ...]
"""For each token that an artifact knows, in its order, the source's id of the same token."""


@dataclass(frozen=True)
class Reading:
    """How well a model foretells a text, and what it was."""

    likelihood: Likelihood
    texts: list[str]
    """One for each sequence."""


@dataclass(frozen=True)
class _Asked:
    """What text is read."""

    texts: Path | None
    tokens: int
    context: int
    """Tokens of a sequence at most."""
    seed: int
    prompts: tuple[Golden, ...]
    kept: Kept | None


def measure(
    source: Source,
    artifact: Source,
    *,
    texts: Path | None = None,
    tokens: int = 512,
    context: int | None = None,
    seed: int = 0,
    prompts: Sequence[Golden] = (),
    kept: Kept | None = None,
    progress: Progress = silent,
) -> Measurement:
    """Return the loss of `artifact` against `source` over at most `tokens` tokens.

    Of `texts` (.txt or .jsonl), else of the source's own writing, which begins with `prompts`, then
    with nothing. `context` bounds the tokens of a sequence where the artifact bears fewer than the
    source. With `kept` the artifact knows only these tokens of the source's: a sequence ends before the
    first that it does not know, and the source is asked how likely it takes each of these to be among
    them. Raises BuildError when either cannot be run, DocumentError for `texts` that hold none.
    """
    return measure_many(
        source,
        [artifact],
        texts=texts,
        tokens=tokens,
        context=context,
        seed=seed,
        prompts=prompts,
        kept=kept,
        progress=progress,
    )[0]


def measure_many(
    source: Source,
    artifacts: Sequence[Source],
    *,
    texts: Path | None = None,
    tokens: int = 512,
    context: int | None = None,
    seed: int = 0,
    prompts: Sequence[Golden] = (),
    kept: Kept | None = None,
    progress: Progress = silent,
    jobs: int = 1,
) -> list[Measurement]:
    """Return the loss of each of `artifacts`, all over the same text, `jobs` of them at a time."""
    groups = [list(artifacts[start : start + jobs]) for start in range(0, len(artifacts), jobs)]
    pipes = [[Pipe(duplex=False) for _ in group] for group in groups]
    outlets = [[outlet for _, outlet in group] for group in pipes]
    longest = LENGTH if texts is None else READ_LENGTH
    asked = _Asked(texts, tokens, min(context or longest, longest), seed, tuple(prompts), kept)
    with Child("running the source model", _tell, source, asked, outlets) as teller:
        for outlet in itertools.chain.from_iterable(outlets):
            outlet.close()
        return [
            found
            for group, ends in zip(groups, pipes, strict=True)
            for found in _measure_group(teller, group, [inlet for inlet, _ in ends], kept, progress)
        ]


def read_alone(
    source: Source,
    texts: Path | list[str],
    *,
    tokens: int = 512,
    other: Source | None = None,
    progress: Progress = silent,
) -> Reading:
    """Return how well a model foretells `texts`: a file, or what another model read of one.

    Of a file, what the vocabulary of `other` cannot write is left out: it is to read the same.
    """
    return isolate(f"running {name_of(source)}", _read_alone, progress, source, texts, tokens, other)


def write_story(
    model: Model, start: list[int], limit: int, stop_ids: frozenset[int], random: np.random.Generator
) -> list[int]:
    """Return `start` and what the model goes on with, until it stops or there are `limit` tokens."""
    return [*start[:limit], *(id_ for _, id_ in go_on(model, start[:limit], limit, stop_ids, random))]


def go_on(
    model: Model, start: list[int], limit: int, stop_ids: frozenset[int], random: np.random.Generator
) -> Iterator[tuple[Rows, int]]:
    """Yield each token the model chooses after `start`, by chance as it thinks likely.

    Each comes after the row of logits it was chosen by; there are at most `limit` with `start`.
    """
    model.restart()
    fed = start
    for _ in range(limit - len(start)):
        row = model.read(fed)[-1]
        chances = np.exp(log_probabilities(row))
        id_ = int(random.choice(len(chances), p=chances / chances.sum()))
        yield row, id_
        if id_ in stop_ids:
            return
        fed = [id_]


def _measure_group(
    teller: Child[None],
    artifacts: list[Source],
    inlets: list[Connection],
    kept: Kept | None,
    progress: Progress,
) -> list[Measurement]:
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(Child(f"running {name_of(artifact)}", _compare, artifact, inlet, kept))
            for artifact, inlet in zip(artifacts, inlets, strict=True)
        ]
        for inlet in inlets:
            inlet.close()
        found = gather(listeners, progress, teller)
        whole = [measurement for measurement in found if measurement is not None]
        if len(whole) < len(found):
            gather([teller], progress)
        return whole


def _tell(progress: Progress, source: Source, asked: _Asked, outlets: list[list[Connection]]) -> None:
    """Be the source's child: settle the text, then read it aloud to one group after the other."""
    limit = min(asked.context, context_of_source(source))
    model, phrasing = open_source(source, limit, progress)
    written = (
        _write(model, phrasing, asked, limit, progress)
        if asked.texts is None
        else sequences(phrasing, asked.texts, length=limit, tokens=asked.tokens)
    )
    if asked.kept is not None:
        known = frozenset(asked.kept)
        cut = [list(itertools.takewhile(known.__contains__, ids)) for ids in written]
        written = [ids for ids in cut if len(ids) >= LEAST]
    if not written:
        raise BuildError("there is no text that both models can write", remedy="Give --texts for both.")
    told = [(ids, _bytes_foretold(phrasing, ids)) for ids in written]
    for group in outlets:
        _read_aloud(model, told, group)


def _write(
    model: Model, phrasing: Phrasing, asked: _Asked, limit: int, progress: Progress
) -> list[list[int]]:
    random = np.random.default_rng(asked.seed)
    begun = [ids[: limit * 3 // 4] for prompt in asked.prompts if (ids := phrasing.ids(prompt))]
    endless = [phrasing.begin_ids] if phrasing.begin_ids else begun
    if not endless:
        raise BuildError("the source names no token to begin a text with", remedy="Give golden prompts.")
    starts = itertools.chain(begun, itertools.cycle(endless))
    written = list[list[int]]()
    while (left := asked.tokens - sum(map(len, written))) > 0:
        written.append(write_story(model, next(starts), min(limit, left), phrasing.stop_ids, random))
        progress(f"writing {asked.tokens} tokens with the source model", 1 - left / asked.tokens)
    return written


def _bytes_foretold(phrasing: Phrasing, ids: list[int]) -> int:
    whole, first = (len(phrasing.text(some).encode()) for some in (ids, ids[:1]))
    return max(whole - first, 0)


def _read_aloud(model: Model, told: Told, listeners: list[Connection]) -> None:
    _say(listeners, lambda listener: listener.send(told))
    for ids, _ in told:
        model.restart()
        for part, _ in _bites(ids):
            rows = np.ascontiguousarray(model.feed(part), np.float32)
            _say(listeners, lambda listener, said=rows.data: listener.send_bytes(said))  # type: ignore[misc]
    for listener in listeners:
        listener.close()


def _say(listeners: list[Connection], what: Callable[[Connection], None]) -> None:
    """Say it to everyone; who has hung up is left out, and what became of it is for `gather` to find."""
    for listener in list(listeners):
        try:
            what(listener)
        except BrokenPipeError:
            listeners.remove(listener)


def _compare(
    progress: Progress, artifact: Source, inlet: Connection, kept: Kept | None
) -> Measurement | None:
    """Be an artifact's child; return nothing when the source falls silent."""
    try:
        told: Told = inlet.recv()
        longest = max(len(ids) for ids, _ in told)
        model = open_weights(artifact, Shape(longest), progress)
        own = None if kept is None else {id_: place for place, id_ in enumerate(kept)}
        tally = Tally()
        for done, (ids, nbytes) in enumerate(told, 1):
            tally.begin(nbytes)
            fed = ids if own is None else [own[id_] for id_ in ids]
            for rows, got, following in _side_by_side(model, fed, inlet, kept):
                _check_width(artifact, rows, got)
                tally.add(rows, got, following)
            progress(f"comparing {name_of(artifact)} with its source", done / len(told))
    except EOFError:
        return None
    return tally.measurement()


def _side_by_side(
    model: Model, ids: list[int], inlet: Connection, kept: Kept | None
) -> Iterator[tuple[Rows, Rows, list[int]]]:
    """Yield the source's rows, the artifact's, and the ids that follow them; all in the artifact's words."""
    model.restart()
    end = 1
    for part, served_at_once in _bites(ids):
        got = model.feed(part) if served_at_once else np.concatenate([model.feed([id_]) for id_ in part])
        said = np.frombuffer(inlet.recv_bytes(), np.float32).reshape(len(part), -1)
        if kept is not None:
            said = said[:, kept]
        yield said, got, ids[end : end + len(part)]
        end += len(part)


def _bites(ids: list[int]) -> list[tuple[list[int], bool]]:
    """Return `ids` STRIDE at a time, and whether a server reads them at once: those of a prompt it does."""
    half = (len(ids) + 1) // 2
    return [
        (part, part_of_prompt)
        for some, part_of_prompt in ((ids[:half], True), (ids[half:], False))
        for part in parts(some, STRIDE)
    ]


def _check_width(artifact: Source, rows: Rows, got: Rows) -> None:
    if rows.shape != got.shape:
        raise BuildError(
            f"{name_of(artifact)} knows {got.shape[1]} tokens, its source {rows.shape[1]}",
            remedy="Build the artifact from this very source.",
        )


def _read_alone(
    progress: Progress, source: Source, texts: Path | list[str], tokens: int, other: Source | None
) -> Reading:
    limit = min(READ_LENGTH, context_of_source(source))
    model, phrasing = open_source(source, limit, progress)
    written = (
        sequences(phrasing, texts, length=limit, tokens=tokens, other=open_words(other) if other else None)
        if isinstance(texts, Path)
        else [part for text in texts for part in parts(phrasing.written(text), limit)]
    )
    losses = list[float]()
    for done, ids in enumerate(written, 1):
        model.restart()
        end = 1
        for part in parts(ids, STRIDE):
            following = ids[end : end + len(part)]
            rows = log_probabilities(model.feed(part)[: len(following)])
            losses += (-rows[np.arange(len(following)), following]).tolist()
            end += len(part)
        progress(f"reading with {name_of(source)}", done / len(written))
    nbytes = sum(_bytes_foretold(phrasing, ids) for ids in written)
    return Reading(likelihood(losses, nbytes), [phrasing.text(ids) for ids in written])
