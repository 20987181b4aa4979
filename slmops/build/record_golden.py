"""Golden prompts for a release whose user gave none: what the source answers and cannot but answer.

The source continues each prompt greedily for as long as its first choice leads its second clearly;
each artifact must make the same choices, clearly too. What all of them are sure of holds on other
processors as well, where the last digits of a logit differ. Where the general prompts are not the
model's subject, texts that it wrote itself are asked, up to where it was sure how they go on.

Laws: the expected text is a prefix of what a server of any of the artifacts answers; a prompt
after which the source is sure of less than LEAST tokens is left out; the same source and artifacts
give the same golden prompts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slmops.artifact.golden import Golden
from slmops.build.divergence import Rows, margin_of_first
from slmops.build.isolate import Progress, isolate, silent
from slmops.build.measure import Source, go_on, open_source
from slmops.build.open_model import Model, Shape
from slmops.build.phrase import Phrasing
from slmops.build.subject import context_of_source, name_of, open_weights

MOST = 16
"""Tokens of an answer at most."""
LEAST = 3
"""Tokens of an answer at least: fewer would pass by chance."""
SURE = 0.2
"""By how much probability the source's first choice leads its second; artifacts may lead by half of it."""
WANTED, ENOUGH = 4, 8
"""Golden prompts below which the model's own texts are tried as well; and at most."""
STORIES, STORY = 8, 96
"""How many texts, and tokens in each."""
OPENING = 8
"""Tokens of such a text that belong to its prompt: many texts of one model open alike."""
CONTEXT = 256
"""Tokens of prompt and answer at most; fewer where the source bears fewer."""
PROMPTS = (
    "Once upon a time",
    "One day, a little girl named Lily",
    "The capital of France is",
    "One, two, three, four,",
    "Monday, Tuesday, Wednesday,",
    "The sun rises in the",
    "To be, or not to be,",
    "Thank you very much for your",
)
QUESTIONS = (
    "What is the capital of France?",
    "Say hello.",
    "Count from one to five.",
    "Which days of the week are there?",
    "What colour is the sky on a clear day?",
    "What is two plus two?",
)


@dataclass(frozen=True)
class Answer:
    """What the source is sure of after one prompt."""

    question: Golden
    prompt: list[int]
    ids: list[int]
    texts: list[str]
    """Text of the first 1, 2, ... of `ids`."""


def record_golden(
    source: Source,
    artifacts: Sequence[Source],
    prompts: Sequence[str] | None = None,
    *,
    context: int = CONTEXT,
    progress: Progress = silent,
) -> list[Golden]:
    """Return a golden prompt for each of `prompts` that the source and all `artifacts` answer surely.

    A model with a chat template is asked by message, any other to go on from the prompt. Without
    `prompts`, a few general ones are tried. Prompt and answer fit into `context` tokens, the least that
    a device serves with. The result may be empty. Raises BuildError when the
    source or an artifact cannot be run.
    """
    given = None if prompts is None else list(prompts)
    answers = isolate("running the source model", _foretell, progress, source, given, context)
    held = [isolate(f"running {name_of(one)}", _confirm, progress, one, answers) for one in artifacts]
    surely = [min(counts) for counts in zip([len(answer.ids) for answer in answers], *held, strict=True)]
    found = [_golden(answer, count) for answer, count in zip(answers, surely, strict=True)]
    return [golden for golden in found if golden is not None][:ENOUGH]


def _foretell(progress: Progress, source: Source, prompts: list[str] | None, context: int) -> list[Answer]:
    context = min(context, CONTEXT, context_of_source(source))
    model, phrasing = open_source(source, context, progress)
    asked = _questions(prompts, chat=phrasing.chat_template is not None)
    answers = [answer for question in asked if (answer := _answer(model, phrasing, question, context))]
    progress("asking the source model", 0.5)
    if prompts is None and len(answers) < WANTED:
        own = _own_prompts(model, phrasing, min(STORY, context))
        answers += [answer for question in own if (answer := _answer(model, phrasing, question, context))]
    progress("asking the source model", 1.0)
    return answers


def _questions(prompts: list[str] | None, *, chat: bool) -> list[Golden]:
    if chat:
        asked = QUESTIONS if prompts is None else prompts
        return [Golden(expect="", messages=[{"role": "user", "content": text}]) for text in asked]
    return [Golden(expect="", prompt=text) for text in (PROMPTS if prompts is None else prompts)]


def _own_prompts(model: Model, phrasing: Phrasing, length: int) -> list[Golden]:
    """Return beginnings of texts that the model wrote, each up to where it was longest without doubt."""
    random = np.random.default_rng(0)
    prompts = list[str]()
    for _ in range(STORIES if phrasing.begin_ids else 0):
        story = go_on(model, phrasing.begin_ids, length, phrasing.stop_ids, random)
        chosen = [(id_, _leads(last, SURE) and _best(last) == id_) for last, id_ in story]
        ids, sure = [*phrasing.begin_ids, *(id_ for id_, _ in chosen)], [surely for _, surely in chosen]
        start = max(range(len(sure)), key=lambda at: _stretch(sure[at:]) if at >= OPENING else 0, default=0)
        prompts.append(phrasing.text(ids[: start + 1]))
    return [Golden(expect="", prompt=prompt) for prompt in dict.fromkeys(prompts)]


def _stretch(sure: list[bool]) -> int:
    return sum(1 for _ in itertools.takewhile(bool, sure))


def _answer(model: Model, phrasing: Phrasing, question: Golden, context: int) -> Answer | None:
    """Return what the model is sure to say; nothing where that is too little or the prompt is not for it."""
    prompt = phrasing.ids(question)
    if not prompt or len(prompt) + MOST > context or phrasing.unknown_id in prompt:
        return None
    model.restart()
    last, ids = model.read(prompt)[-1], list[int]()
    while len(ids) < MOST and _leads(last, SURE) and (best := _best(last)) not in phrasing.stop_ids:
        ids.append(best)
        last = model.read([best])[-1]
    texts = [phrasing.text(ids[:count]) for count in range(1, len(ids) + 1)]
    return Answer(question, prompt, ids, texts) if len(ids) >= LEAST else None


def _confirm(progress: Progress, artifact: Source, answers: list[Answer]) -> list[int]:
    """Return, for each answer, how many of its tokens the artifact would surely say as well."""
    model = open_weights(artifact, Shape(CONTEXT), progress)
    counts = []
    for done, answer in enumerate(answers, 1):
        counts.append(_held(model, answer))
        progress(f"asking {name_of(artifact)}", done / len(answers))
    return counts


def _held(model: Model, answer: Answer) -> int:
    model.restart()
    last = model.read(answer.prompt)[-1]
    for count, id_ in enumerate(answer.ids):
        if _best(last) != id_ or not _leads(last, SURE / 2):
            return count
        last = model.read([id_])[-1]
    return len(answer.ids)


def _best(logits: Rows) -> int:
    return int(logits.argmax())


def _leads(logits: Rows, margin: float) -> bool:
    return margin_of_first(logits) >= margin


def _golden(answer: Answer, count: int) -> Golden | None:
    """Return the longest whole text within the first `count` tokens, if there is enough of it."""
    for length in range(count, LEAST - 1, -1):
        text = answer.texts[length - 1]
        if text.strip() and not text.endswith("\ufffd"):
            asked = answer.question
            return Golden(text, "prefix", asked.prompt, asked.messages, max_tokens=length)
    return None
