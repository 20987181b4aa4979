"""slmops evaluate: measure a model or an artifact."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any

import typer

from slmops.build import tasks as task_files
from slmops.build.classification import Comparison
from slmops.build.divergence import Likelihood
from slmops.build.evaluate import Evaluation, evaluate
from slmops.build.evaluate_classifier import evaluate_classifier
from slmops.build.isolate import Progress
from slmops.build.subject import Served, find_subject, labels_of_source
from slmops.build.tasks import Result, Task, flips
from slmops.build.texts import read_text
from slmops.build.time_model import TextTiming, Timing
from slmops.cli import home
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, emit, err, progress, say, size, table
from slmops.errors import ReleaseError, UsageError
from slmops.registry import catalog
from slmops.registry import release as releases
from slmops.registry.layout import Layout

app = verb("Measure a model or an artifact: loss against another, tasks, speed, memory.")
WAYS = {
    "endings": ("by byte", "by sum"),
    "sentences": ("by sum", "by byte"),
    "labels": ("by sum", "by byte"),
    "answers": ("greedily", ""),
    "texts": ("likeliest label", ""),
}
"""How a choice is made: the way that counts, and the other."""


@app.command(name="evaluate")
def evaluate_(
    artifact: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT",
            help="An artifact's folder, a .gguf or .onnx file, a Hugging Face folder or hub id, "
            "or NAME:VERSION[/PROFILE] of the registry.",
        ),
    ],
    against: Annotated[
        str | None, typer.Option(metavar="B", help="What to compare with: any of these; its source, say.")
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Held-out text (.txt, .jsonl). Default: text that B writes itself."
        ),
    ] = None,
    task: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A task (.jsonl, or .csv with labels); say it again for more."),
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=2, help="How much text is read, at most; a classifier reads all.")
    ] = 2048,
    speed: Annotated[
        bool, typer.Option("--speed/--no-speed", help="Time it on this machine, as it is served.")
    ] = True,
    output: Output = Form.TABLE,
) -> None:
    """Measure a model or an artifact: loss against another, tasks, speed, memory.

    Against another with the same vocabulary: KL divergence, perplexity and the same first choice, over the
    same text. With another vocabulary: bits per byte and tasks. A text classifier takes texts (--task with
    labels, or --texts): accuracy, and against another with the same labels KL divergence and the same
    label. A task's line is one of

    `{"context": "...", "choices": ["...", "..."], "answer": 0}`, `{"sentence_good": "...", "sentence_bad":
    "..."}`, `{"text": "...", "label": "..."}`, `{"prompt": "...", "expect": "..."}`.

    For example: `slmops evaluate stories:1.0.0/local --against ./model --texts held-out.txt`;

    `slmops evaluate model.Q4_K_M.gguf --against model.F16.gguf --task endings.jsonl -o json`.
    """
    if against is None and texts is None and not task and not speed:
        raise UsageError("nothing to measure", remedy="Give --against, --texts, --task or --speed.")
    tasks = [_task(file) for file in task or []]
    with ExitStack() as stack:
        subject = find_subject(stack.enter_context(_at_hand(artifact)))
        other = find_subject(stack.enter_context(_at_hand(against))) if against else None
        labelling = any(labels_of_source(some) for some in (subject, other) if some)
        if not (isinstance(subject, Served) or labelling or other or texts or task):
            raise UsageError(
                f"{artifact} is no artifact, and a source is not timed: nothing to measure",
                remedy="Give --against, --texts or --task.",
            )
        told = stack.enter_context(_bar())
        measured = evaluate_classifier if labelling else partial(evaluate, tokens=tokens)
        found = measured(subject, other, texts=texts, tasks=tasks, speed=speed, progress=told)
    if output is Form.JSON:
        emit(as_json(found))
    else:
        _show(found)


def as_json(found: Evaluation) -> dict[str, Any]:
    """Return an evaluation for machines; accuracies and shares are 0..1, intervals of 95 %."""
    befores = found.against_results or repeat(None)
    return {
        "artifact": {"name": found.name, "bytes": found.bytes, **_likelihood(found.likelihood)},
        "against": None
        if found.against is None
        else {
            "name": found.against,
            "bytes": found.against_bytes,
            **_likelihood(found.against_likelihood),
        },
        "measured": found.measured.figures() if found.measured else None,
        "tasks": [_result(now, before) for now, before in zip(found.results, befores, strict=False)],
        "speed": asdict(found.timing) if found.timing else None,
        "note": found.note,
    }


def _likelihood(found: Likelihood | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "perplexity": _number(found.perplexity),
        "perplexity_interval": [_number(end) for end in found.interval],
        "bits_per_byte": _number(found.bits_per_byte),
        "tokens": found.tokens,
    }


def _number(value: float) -> float | None:
    """Return nothing for what JSON has no word for: the spread of a single token, say."""
    return value if math.isfinite(value) else None


def _result(now: Result, before: Result | None) -> dict[str, Any]:
    said = {
        "task": now.task,
        "kind": now.kind,
        "items": len(now.right),
        "chance": now.chance,
        "way": WAYS[now.kind][0],
        "accuracy": now.accuracy,
        "interval": now.interval,
        "accuracy_otherwise": now.accuracy_otherwise,
    }
    if before is None:
        return said
    lost, won = flips(before, now)
    return {
        **said,
        "against_accuracy": before.accuracy,
        "against_interval": before.interval,
        "against_accuracy_otherwise": before.accuracy_otherwise,
        "lost": lost,
        "won": won,
    }


def _task(file: Path) -> Task:
    return replace(task_files.read_task(read_text(file), str(file)), name=file.name)


@contextmanager
def _at_hand(said: str) -> Iterator[str]:
    """Yield what `said` names as a path or a hub id; an artifact of the registry lies there meanwhile."""
    if ":" not in said or Path(said).expanduser().exists():
        yield said
        return
    name, _, profile = said.partition("/")
    reference = catalog.parse(name)
    layout = Layout(home.registry())
    entries = dict(releases.find(layout, reference).release.artifacts)
    if not profile and len(entries) == 1:
        profile = next(iter(entries))
    if profile not in entries:
        raise ReleaseError(
            f"{reference} has artifacts for {', '.join(entries)}"
            + (f", none for {profile}" if profile else ""),
            remedy=f"Say which: {reference}/{next(iter(entries))}.",
        )
    built = releases.artifact(layout, entries[profile])
    with tempfile.TemporaryDirectory(prefix=".evaluate-", dir=layout.folder) as room:
        releases.lay_out(layout, built, Path(room))
        yield room


@contextmanager
def _bar() -> Iterator[Progress]:
    with progress(transient=True) as bar:
        row = bar.add_task("", total=1.0, note="")
        said: list[str] = []

        def told(doing: str, share: float) -> None:
            bar.update(row, description=doing, completed=share)
            if not err.is_terminal and doing not in said:
                say(doing)
                said.append(doing)

        yield told


def _show(found: Evaluation) -> None:
    columns = ("", found.name) if found.against is None else ("", found.name, found.against)
    rows: list[tuple[str, Any, Any]] = [("size", size(found.bytes), _size(found.against_bytes))]
    rows += [*_loss_rows(found), *_task_rows(found), *_speed_rows(found.timing)]
    table(columns, [row[: len(columns)] for row in rows])
    if found.note:
        say(found.note)


def _size(count: int | None) -> str | None:
    return None if count is None else size(count)


def _loss_rows(found: Evaluation) -> list[tuple[str, Any, Any]]:
    if (loss := found.measured) is None:
        return _likelihood_rows(found.likelihood, found.against_likelihood)
    if isinstance(loss, Comparison):
        return [
            ("KL, mean (nats)", f"{loss.kl_mean:.3g}", None),
            ("KL, 99th percentile", f"{loss.kl_p99:.3g}", None),
            ("same label", f"{loss.top1:.2%}", None),
            ("texts compared", loss.texts, None),
        ]
    return [
        ("perplexity", _ranged(loss.perplexity, loss.perplexity_low, loss.perplexity_high),
         _ranged(loss.source_perplexity, loss.source_perplexity_low, loss.source_perplexity_high)),
        ("perplexity, ratio",
         _ranged(loss.perplexity_ratio, loss.perplexity_ratio_low, loss.perplexity_ratio_high, 4), None),
        ("bits per byte", f"{loss.bits_per_byte:.4f}", f"{loss.source_bits_per_byte:.4f}"),
        ("KL, mean (nats)", f"{loss.kl_mean:.3g} ± {loss.kl_error:.1g}", None),
        ("KL, 99th percentile", f"{loss.kl_p99:.3g}", None),
        ("same first choice", f"{loss.top1:.2%}", None),
        ("tokens compared", loss.tokens, None),
    ]  # fmt: skip


def _likelihood_rows(one: Likelihood | None, other: Likelihood | None) -> list[tuple[str, Any, Any]]:
    if one is None:
        return []
    return [
        ("perplexity", _ranged(one.perplexity, *one.interval),
         other and _ranged(other.perplexity, *other.interval)),
        ("bits per byte", f"{one.bits_per_byte:.4f}", other and f"{other.bits_per_byte:.4f}"),
        ("tokens foretold", one.tokens, other and other.tokens),
    ]  # fmt: skip


def _task_rows(found: Evaluation) -> list[tuple[str, Any, Any]]:
    rows = list[tuple[str, Any, Any]]()
    befores = found.against_results or repeat(None)
    for now, before in zip(found.results, befores, strict=False):
        way, other = WAYS[now.kind]
        named = f"{now.task}: {len(now.right)} {now.kind}, chance {now.chance:.1%}, {way}"
        rows.append((named, _accuracy(now), before and _accuracy(before)))
        if now.accuracy_otherwise is not None:
            otherwise = f"{before.accuracy_otherwise:.1%}" if before else None
            rows.append((f"  {other}", f"{now.accuracy_otherwise:.1%}", otherwise))
        if before:
            lost, won = flips(before, now)
            rows.append(("  flips", f"{lost} now wrong, {won} now right", None))
    return rows


def _speed_rows(timing: Timing | TextTiming | None) -> list[tuple[str, Any, Any]]:
    if timing is None:
        return []
    if isinstance(timing, TextTiming):
        each = f"{timing.texts} texts of {timing.tokens:g} tokens, one at a time"
        return [
            (f"ms per text ({each})", f"{timing.text_seconds * 1000:.3g}", None),
            ("  of the processor", f"{timing.text_cpu_seconds * 1000:.3g}", None),
            ("peak memory", _size(timing.peak_bytes), None),
            ("measured on", f"{timing.cpu}, threads: {timing.threads}", None),
        ]
    here = f"{timing.cpu}, threads: {timing.threads}, micro-batch: {timing.micro_batch}"
    return [
        (f"prompt tokens/s ({timing.prompt})", f"{timing.prompt_per_second:.1f}", None),
        (f"decode tokens/s ({timing.answer})", f"{timing.decode_per_second:.1f}", None),
        ("time to first token", f"{timing.first_token_seconds * 1000:.1f} ms", None),
        (f"peak memory (context {timing.context})", _size(timing.peak_bytes), None),
        ("measured on", here, None),
    ]


def _ranged(value: float, low: float, high: float, digits: int = 3) -> str:
    said = f"{value:.{digits}f}"
    return said if math.isnan(low) else f"{said} ({low:.{digits}f} to {high:.{digits}f})"


def _accuracy(result: Result) -> str:
    low, high = result.interval
    return f"{result.accuracy:.1%} ({low:.1%} to {high:.1%})"
