"""What the verbs that train have in common: options, a bar that tells how it goes, and who may speak."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress as RichProgress

from slmops.build.isolate import silent
from slmops.cli.render import err, progress, say
from slmops.train.curve import Point
from slmops.train.told import Told

LINES = 20
"""Lines that a training says of itself where there is no terminal."""

Data = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="What to learn from: .txt; .jsonl with text, prompt and completion, or messages; for a text "
        "classifier .csv or .jsonl with labels. Say it again for more.",
    ),
]
Validation = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Held-out data. Default: a part of the data is held out."),
]
Epochs = Annotated[int | None, typer.Option(help="Times that all data is learned. Default: 3.")]
Steps = Annotated[int | None, typer.Option(help="Updates of the weights, instead of epochs.")]
TrainTokens = Annotated[
    int | None, typer.Option("--train-tokens", help="Tokens to read in training, instead of epochs.")
]
BatchTokens = Annotated[int | None, typer.Option(help="Tokens that one step reads. Default: 4096.")]
Length = Annotated[int | None, typer.Option(help="Tokens of a sample at most. Default: 512.")]
Rate = Annotated[
    float | None, typer.Option(help="Learning rate at its highest. Default: by the model's size.")
]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same weights. Default: 0.")]
Patience = Annotated[
    int | None, typer.Option(help="Validations without a better one after which the run ends early.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin anew, whatever run of --out there was before.")]


@contextmanager
def bar() -> Iterator[Told]:
    """Show what is being done; where there is no terminal, some lines of it.

    Of processes that train together the first one speaks.
    """
    if os.environ.get("RANK", "0") != "0":
        yield Told(silent, lambda _point: None)
        return
    with progress(transient=True) as shown:
        row = shown.add_task("reading the model", total=1.0, note="")
        said = set[str]()

        def told(doing: str, share: float) -> None:
            shown.update(row, description=doing, completed=min(share, 0.999), note="")
            if not err.is_terminal and doing not in said:
                say(doing)
                said.add(doing)

        yield Told(told, lambda point: _show(shown, row, point))


def _show(shown: RichProgress, row: Any, point: Point) -> None:
    note = (
        f"loss {point.loss:.4f}  held out {point.validation:.4f}  {point.tokens_per_second:,.0f} tokens/s  "
        f"{span(point.seconds_left)} left"
    )
    shown.update(
        row,
        description=f"step {point.step}/{point.steps}",
        completed=min(point.step / point.steps, 0.999),
        note=note,
    )
    every = max(point.steps // LINES, 1)
    if not err.is_terminal and (point.step % every == 0 or point.step in (1, point.steps)):
        say(f"step {point.step}/{point.steps}  {note}")


def span(seconds: float) -> str:
    """Return a time that is left for people: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = max(0, round(seconds))
    if whole < 60:  # noqa: PLR2004 - a minute
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:  # noqa: PLR2004 - an hour
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
