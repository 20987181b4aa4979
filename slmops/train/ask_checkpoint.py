"""Let a model that lies here write answers: many side by side, in a process of its own.

Laws: a model is asked with its own words, as a server asks it, and an answer ends where a server ends it;
which answers are written side by side follows from the questions alone, so that a run that was killed and
goes on computes what it would have computed; an answer's dice are its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slmops.build.checkpoint import Checkpoint
from slmops.build.isolate import Progress, isolate
from slmops.build.open_model import threads_for
from slmops.build.phrase import CheckpointPhrasing
from slmops.build.subject import context_of_source
from slmops.daemon.engine import Logits
from slmops.daemon.sample import choose
from slmops.daemon.sampling import Sampling
from slmops.train.answers import Answer, Asking, Question, seed_of
from slmops.train.keep_answers import Heard, Place, keep_answers
from slmops.train.open_trainable import load_weights


@dataclass
class Row:
    """One answer that is being written."""

    place: Place
    prompt: list[int]
    limit: int
    """Most tokens of the answer."""
    chance: np.random.Generator
    said: list[int] = field(default_factory=list)
    likelihoods: list[float] = field(default_factory=list)
    finish: str | None = None

    def hear(self, logits: Logits, total: float, sampling: Sampling, stop_ids: frozenset[int]) -> None:
        """Choose the next token from the logits after the last one; `total` is their logsumexp."""
        token = choose(logits, sampling, self.chance)
        self.likelihoods.append(float(logits[token]) - total)
        if token in stop_ids:
            self.finish = "stop"
            return
        self.said.append(token)
        if len(self.said) == self.limit:
            self.finish = "length"


def ask_checkpoint(
    checkpoint: Checkpoint,
    questions: Sequence[Question],
    asking: Asking,
    journal: tuple[Path, dict[str, Any]],
    progress: Progress,
) -> Heard:
    """Return the answers to all of `questions`.

    What `journal` (a file, and what it must be of) has an answer to is not asked again.

    Raises BuildError when the process ends, ModelError for a model that computes no numbers.
    """
    name = checkpoint.folder.name
    return isolate(f"asking {name}", _ask, progress, checkpoint, list(questions), asking, journal)


def _ask(
    progress: Progress,
    checkpoint: Checkpoint,
    questions: list[Question],
    asking: Asking,
    journal: tuple[Path, dict[str, Any]],
) -> Heard:
    with keep_answers(*journal, progress) as kept:
        phrasing = CheckpointPhrasing(checkpoint)
        rows, unasked = _rows(questions, asking, phrasing, context_of_source(checkpoint))
        kept.add((place, answer) for place, answer in unasked if place not in kept.answers)
        batches = [rows[start : start + asking.batch] for start in range(0, len(rows), asking.batch)]
        model = _open(checkpoint, progress)
        kept.begin()
        sampling = Sampling(temperature=asking.temperature, top_p=asking.top_p)
        end = checkpoint.special_tokens.get("eos_token", "")
        for number, batch in enumerate(batches):
            if any(row.place not in kept.answers for row in batch):
                for share in _write(model, batch, sampling, phrasing.stop_ids):
                    progress(f"{checkpoint.folder.name} answers", (number + share) / len(batches))
                kept.add((row.place, _answer(row, phrasing, end)) for row in batch)
        return kept.heard()


def _open(checkpoint: Checkpoint, progress: Progress) -> Any:
    model = load_weights(checkpoint, progress).to("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(threads_for(sum(weight.nbytes for weight in model.parameters())))
    return model


def _rows(
    questions: list[Question], asking: Asking, phrasing: CheckpointPhrasing, context: int
) -> tuple[list[Row], list[tuple[Place, Answer]]]:
    """Return the answers to be written, those to prompts of one length together; and those that cannot be."""
    rows, unasked = list[Row](), list[tuple[Place, Answer]]()
    # Where the same token also ends a text, it does not tell of a character that is missing.
    unknown = {phrasing.unknown_id} - phrasing.stop_ids - set(phrasing.begin_ids)
    for question in questions:
        ids = phrasing.ids(question.golden)
        places = [(question.digest, number) for number in range(asking.answers)]
        if not unknown.isdisjoint(ids):
            unasked += [(place, Answer("", "prompt has unknown characters")) for place in places]
        elif len(ids) >= context:
            unasked += [(place, Answer("", "prompt too long")) for place in places]
        else:
            limit = min(asking.max_tokens, context - len(ids))
            for place in places:
                chance = np.random.default_rng(seed_of(asking, question, place[1]))
                rows.append(Row(place, ids, limit, chance))
    return sorted(rows, key=lambda row: len(row.prompt)), unasked


def _answer(row: Row, phrasing: CheckpointPhrasing, end: str) -> Answer:
    """Return what was written; whether it begins with a space is seen from what stands before it.

    Some models spell the text of their `end` token before they say it.
    """
    before, whole = phrasing.text(row.prompt), phrasing.text([*row.prompt, *row.said])
    text = whole[len(before) :] if whole.startswith(before) else phrasing.text(row.said)
    likelihood = round(sum(row.likelihoods) / len(row.likelihoods), 6)
    return Answer(
        text.removesuffix(end), "stop" if row.finish == "stop" else "length", len(row.said), likelihood
    )


def _write(model: Any, rows: list[Row], sampling: Sampling, stop_ids: frozenset[int]) -> Iterator[float]:
    """Write answers side by side; yield after each token which share of the longest may be done."""
    # The prompts are padded on the left, so that what follows stands side by side.
    width = max(len(row.prompt) for row in rows)
    ids = torch.tensor([[0] * (width - len(row.prompt)) + row.prompt for row in rows], device=model.device)
    mask = torch.tensor([[place >= width - len(row.prompt) for place in range(width)] for row in rows]).to(
        ids
    )
    places = (mask.cumsum(1) - 1).clamp(min=0)
    takes = inspect.signature(model.forward).parameters
    last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
    longest = max(row.limit for row in rows)
    cache: Any = None
    for step in range(1, longest + 1):
        at = {"position_ids": places} if "position_ids" in takes else {}
        with torch.inference_mode():
            said = model(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **at, **last
            )
            following = said.logits[:, -1].float().cpu()
        totals = following.logsumexp(1).tolist()
        for row, logits, total in zip(rows, following.numpy(), totals, strict=True):
            row.hear(logits, total, sampling, stop_ids)
        yield step / longest
        going = [number for number, row in enumerate(rows) if row.finish is None]
        if not going:
            return
        cache = said.past_key_values
        if len(going) < len(rows):
            left = torch.tensor(going, device=model.device)
            cache.batch_select_indices(left)
            rows, mask, places = [rows[number] for number in going], mask[left], places[left]
        ids = torch.tensor([row.said[-1:] for row in rows], device=model.device)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        places = places[:, -1:] + 1
