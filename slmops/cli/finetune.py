"""slmops finetune: train a model, or a LoRA adapter for it, on a person's own data."""

from pathlib import Path
from typing import Annotated

import typer

from slmops.cli.options import verb
from slmops.cli.render import Form, Output, emit, say, size, table
from slmops.cli.said import checked, put_over
from slmops.cli.training import (
    BatchTokens,
    Data,
    Epochs,
    Fresh,
    Length,
    Patience,
    Rate,
    Seed,
    Steps,
    TrainTokens,
    Validation,
    bar,
    span,
)
from slmops.errors import UsageError
from slmops.train.adapter_folder import GGUF
from slmops.train.finetune import (
    PAGE,
    Finetuned,
    Finetuning,
    Likeness,
    Prepared,
    finetune,
    foreseen,
    prepare,
)
from slmops.train.lora import parse_lora
from slmops.train.model_folder import RUN
from slmops.train.setting import Setting

app = verb("Train a model, or a LoRA adapter for it, on your own data.")


@app.command(name="finetune")
def finetune_(
    model: Annotated[
        str,
        typer.Argument(
            help="Hugging Face folder or hub id; a folder with config.json and tokenizer but no weights "
            "begins with new ones."
        ),
    ],
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="Folder that gets the model, or the adapter.")] = None,
    lora: Annotated[
        str | None,
        typer.Option(
            metavar="r=8",
            help="Learn an adapter of that rank beside the model, instead of its weights: "
            "r=8,alpha=16,targets=attention. Targets: attention, all, or names such as q_proj+v_proj.",
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the model with the adapter in it, not the adapter.")
    ] = False,
    validation: Validation = None,
    epochs: Epochs = None,
    steps: Steps = None,
    train_tokens: TrainTokens = None,
    batch_tokens: BatchTokens = None,
    length: Length = None,
    rate: Rate = None,
    patience: Patience = None,
    seed: Seed = None,
    fresh: Fresh = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would come to; train nothing.")
    ] = False,
    output: Output = Form.TABLE,
) -> None:
    """Train a model, or a LoRA adapter for it, on your own data.

    With --lora a small adapter is learned and the model stays as it is: a folder that peft reads, with an
    adapter.gguf for devices that have the model already (`slmops adapt`). Without, all weights are learned,
    and what comes out goes into `slmops quantize` like any other model.

    Begun again, a run goes on where it was ended, also after kill -9. With the same seed it ends the same.

    For example: `slmops finetune ./model --data house.jsonl --lora r=8 --out ./site-north`;

    `slmops finetune ./bert --data intents.csv --epochs 5 --out ./intents`.
    """
    if not data or out is None:
        raise UsageError(
            f"{'--data' if not data else '--out'} is not said",
            remedy="Give --data FILE with what to learn, and --out DIR for what comes of it.",
        )
    said = {
        "epochs": epochs,
        "steps": steps,
        "tokens": train_tokens,
        "batch_tokens": batch_tokens,
        "length": length,
        "rate": rate,
        "patience": patience,
        "seed": seed,
    }
    how = checked(Setting, put_over({}, said) or {}, {"tokens": "--train-tokens"})
    adapted = None if lora is None else parse_lora(lora)
    asked = Finetuning(model, tuple(data), out, how, adapted, merge, validation)
    with bar() as shown:
        prepared = prepare(asked, shown.doing)
        found = None if dry_run else finetune(prepared, fresh=fresh, told=shown.learned)
    if dry_run:
        return emit(foreseen(prepared)) if output is Form.JSON else _foretell(prepared)
    if found is None:
        return None
    return emit(found.answer) if output is Form.JSON else _show(prepared, found)


def _foretell(prepared: Prepared) -> None:
    said = foreseen(prepared)
    share = prepared.learned_parameters / prepared.parameters
    sides = [
        (side["file"], f"{side['samples']:,} samples, {side['tokens']:,} tokens") for side in said["data"]
    ]
    table(
        ("", ""),
        [
            ("learned", f"{prepared.learned_parameters:,} weights ({share:.1%} of the model's)"),
            *sides,
            ("left out", _left_out(said["left_out"]) or "none"),
            ("steps", f"{prepared.steps:,}"),
        ],
    )
    say("Nothing was trained.")


def _left_out(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {why}" for why, count in counts.items() if count)


def _show(prepared: Prepared, found: Finetuned) -> None:
    asked, learned, written = prepared.asked, found.learned, found.written
    labelling = found.before.accuracy is not None
    table(
        ("held out", "loss", "accuracy" if labelling else "perplexity"),
        [_row("before", found.before), _row(f"after step {learned.best_step}", found.after)],
    )
    if left_out := _left_out(found.answer["left_out"]):
        say(f"Left out of the data: {left_out}.")
    if not learned.best_step:
        say("No step made it better on what is held out: what was written says what the model said before.")
    files = ", ".join(f"{name} {size(count)}" for name, count in written.files.items())
    early = ", ended early" if learned.stopped_early else ""
    say(f"{learned.steps:,} steps in {span(learned.seconds)}{early}. {asked.out}: {files}.")
    if written.no_gguf:
        say(f"No {GGUF}: {written.no_gguf}.")
    say(f"The whole course: {asked.out / RUN / PAGE}")


def _row(when: str, found: Likeness) -> tuple[str, ...]:
    right = f"{found.accuracy:.1%}" if found.accuracy is not None else f"{found.perplexity:.3f}"
    return when, f"{found.loss:.4f}", right
