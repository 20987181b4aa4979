"""What `top_k` runs in processes of its own: `_teaching.py ANSWER losses|make|record|train ...` writes JSON.

Samples are of the files given; a student is its teacher with disturbed weights, or a small random Llama.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
import transformers

from slmops.build.checkpoint import Checkpoint, open_checkpoint
from slmops.build.isolate import Progress, silent
from slmops.train import top_k
from slmops.train.batch import lay
from slmops.train.divergences import Dense, Measure, Target, Top, compare
from slmops.train.learn import learn
from slmops.train.objective import CrossEntropy, Objective, logits_of
from slmops.train.open_distillation import open_distillation
from slmops.train.open_trainable import load_weights
from slmops.train.read_data import Data, read_data
from slmops.train.samples import Samples, collect
from slmops.train.setting import Setting
from slmops.train.teaching import Teaching

LENGTH: Final = 256
APART: Final = 0.1
"""Nats a token that a student lies from its teacher, at least."""
SIZES: Final = (16, 32, 64, 128)


def losses(model: str, text: str, tokens: str) -> list[dict[str, float]]:
    """Return for each size bytes a token, and loss and gradient against those of all logits."""
    checkpoint = open_checkpoint(Path(model))
    samples = first(read_data([Path(text)], None, checkpoint, LENGTH).training, int(tokens))
    batch = lay(samples, range(len(samples)), padding=0)
    with torch.no_grad():
        logits = logits_of(load_weights(checkpoint), batch)
    share = 0.1
    student = disturbed(checkpoint, share)
    while (taught := lesson(student, batch, Dense(logits)))[0] < APART * len(logits):
        share *= 1.5
        student = disturbed(checkpoint, share)
    expected, slope = taught
    found = []
    for size in SIZES:
        data = top_k.encode(top_k.select(logits, size, torch.Generator().manual_seed(0)), logits.shape[1])
        top = Top(*(torch.from_numpy(each) for each in vars(top_k.decode(data)).values()))
        loss, near = lesson(student, batch, top)
        bare, bare_near = lesson(student, batch, Top(top.ids, top.logs, top.rest))
        found.append({
            "tokens": len(logits), "k": size, "bytes": len(data) / len(logits),
            "dense": expected / len(logits), "loss": loss / expected, "gradient": cosine(near, slope),
            "undrawn_loss": bare / expected, "undrawn_gradient": cosine(bare_near, slope),
        })  # fmt: skip
    return found


def disturbed(checkpoint: Checkpoint, share: float) -> Any:
    """Return the model with noise on every matrix, of a share of its spread."""
    model, generator = load_weights(checkpoint), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.add_(share * weight.std() * torch.randn(weight.shape, generator=generator))
    return model


def lesson(student: Any, batch: Any, target: Target) -> tuple[float, torch.Tensor]:
    """Return the divergence of `student` from `target`, and the gradient of all its weights."""
    student.zero_grad()
    logits = logits_of(student, batch)
    sums = compare(logits, torch.zeros(len(logits), dtype=torch.int64), target, Measure())
    sums.total.backward()
    return sums.divergence, torch.cat([weight.grad.flatten() for weight in student.parameters()])


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return how far two gradients point the same way."""
    return float(torch.nn.functional.cosine_similarity(one.double(), other.double(), 0))


def make(folder: str, words: str, *sizes: str) -> None:
    """Write a random Llama of (vocabulary, hidden, inner, layers) with the tokenizer of another model."""
    rows, hidden, inner, layers = map(int, sizes)
    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        vocab_size=rows, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 128, max_position_embeddings=512,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (file := Path(words) / name).is_file():
            (Path(folder) / name).write_bytes(file.read_bytes())


def record(room: str, text: str, tokens: str) -> dict[str, float]:
    """Record the teacher; return tokens a second, from its first word to its last, and bytes a token."""
    told, data = list[float](), few(room, text, tokens)

    def hear(doing: str, _share: float) -> None:
        if doing.startswith("reading"):
            told.append(time.perf_counter())

    objective_of(room, data, Teaching(), hear)
    distributions = data.training.learned_tokens + data.validation.learned_tokens
    nbytes = sum(file.stat().st_size for file in (Path(room) / "cache").rglob("*.top"))
    return {"tokens_per_second": distributions / (told[-1] - told[0]), "bytes": nbytes / distributions}


def train(room: str, text: str, tokens: str, way: str) -> dict[str, float]:
    """Train the student a few steps, with a teacher that is "recorded" or "at hand", or "alone"."""
    data, model = few(room, text, tokens), load_weights(open_checkpoint(Path(room) / "student"))
    teaching = Teaching(cache="yes" if way == "recorded" else "no")
    objective = CrossEntropy() if way == "alone" else objective_of(room, data, teaching, silent)
    began, setting = time.perf_counter(), Setting(steps=4, batch_tokens=1024, validations=1)
    with tempfile.TemporaryDirectory() as run:
        learn(
            model, objective, data.training, data.validation, setting, run=Path(run), padding=0, identity={}
        )
    return {"seconds": time.perf_counter() - began}


def objective_of(room: str, data: Data, teaching: Teaching, told: Progress) -> Objective:
    """Return what the student is trained for; `told` hears how it is made."""
    teacher, student = (open_checkpoint(Path(room) / name) for name in ("teacher", "student"))
    return open_distillation(
        teacher,
        student,
        load_weights(student),
        (data.training, data.validation),
        texts=[],
        teaching=teaching,
        cache=Path(room) / "cache",
        progress=told,
    )


def few(room: str, text: str, tokens: str) -> Data:
    """Return samples of about so many tokens to learn, and a few to validate with."""
    found = read_data([Path(text)], None, open_checkpoint(Path(room) / "student"), LENGTH)
    return replace(
        found, training=first(found.training, int(tokens)), validation=first(found.validation, 512)
    )


def first(samples: Samples, tokens: int) -> Samples:
    """Return the first samples, of about so many tokens."""
    parts = [samples.part(place) for place in range(len(samples)) if samples.starts[place] < tokens]
    return collect((samples.ids[part].tolist(), samples.learned[part].tolist()) for part in parts)


WORK: Final[dict[str, Callable[..., Any]]] = {
    "losses": losses,
    "make": make,
    "record": record,
    "train": train,
}

if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(WORK[sys.argv[2]](*sys.argv[3:])), encoding="utf-8")
