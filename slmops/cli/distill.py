"""slmops distill: teach a smaller model what a larger one knows."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from slmops.build.classifier import is_classifier
from slmops.build.isolate import Progress
from slmops.build.ledger import rows
from slmops.build.load_recipe import save_recipe
from slmops.build.recipe import Calibration, Recipe, target
from slmops.build.tasks import Task, read_task
from slmops.build.texts import read_text
from slmops.cli import home
from slmops.cli.make_release import Made, check_new, make_release, show_release
from slmops.cli.options import verb
from slmops.cli.prepare import foretold
from slmops.cli.render import Form, Output, emit, say, table
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
from slmops.profile.device import DeviceProfile
from slmops.profile.load import load_profile
from slmops.train.account import PAGE, Distilled, add_artifact, finish
from slmops.train.distill import distill
from slmops.train.distill_recipe import DistillRecipe, Learned, Then
from slmops.train.foretell_distillation import Foretold, foretell
from slmops.train.load_distill_recipe import anchored, load_distill_recipe
from slmops.train.model_folder import RUN
from slmops.train.teaching import Kind

LENGTHS = ("epochs", "steps", "tokens")
"""Of a training; one that a command says stands for all that a recipe says."""

app = verb("Teach a smaller model what a larger one knows; then quantize it, if told.")


@app.command(name="distill")
def distill_(
    teacher: Annotated[
        str | None, typer.Argument(metavar="[TEACHER]", help="Hugging Face folder or hub id.")
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="Hugging Face folder; a folder with config.json and tokenizer but no weights; or prune:50%, "
            "prune:layers=4, prune:profile=raspberry-pi-5, which cuts the teacher."
        ),
    ] = None,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="Folder that gets the student.")] = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Prompts that the teacher answers first, to learn from its answers too."
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Recipe file that says all of this; what the command says goes before it."),
    ] = None,
    validation: Validation = None,
    epochs: Epochs = None,
    steps: Steps = None,
    train_tokens: TrainTokens = None,
    batch_tokens: BatchTokens = None,
    length: Length = None,
    rate: Rate = None,
    patience: Patience = None,
    seed: Seed = None,
    learn: Annotated[
        Learned | None,
        typer.Option(
            help="all: the student learns what its teacher thinks of every token; answers: only of what is "
            "answered, not of what is asked. Default: all."
        ),
    ] = None,
    divergence: Annotated[
        Kind | None, typer.Option(help="What is made small between teacher and student. Default: forward-kl.")
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(help="Its share in the loss; the rest is cross-entropy with the data. Default: 1."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="By which both models' logits are divided. Default: 1.")
    ] = None,
    hidden: Annotated[
        float | None, typer.Option(help="Weight of the distance between hidden states. Default: 0.")
    ] = None,
    on_policy: Annotated[
        float | None,
        typer.Option(help="Share of the batches that the student writes and the teacher judges. Default: 0."),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            help="yes: the teacher reads the data once, beforehand, and is closed; no: it stays open beside "
            "the student; auto: yes, unless it is asked for what only an open one can tell."
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Tokens of each distribution that are kept, at most. Default: 64.")
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(help="Held-out text for the ledger. Default: the teacher writes its own."),
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens of it to measure on. Default: 2048.")] = None,
    task: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A task that every step is put to; say it again for more."),
    ] = None,
    then_quantize: Annotated[
        bool, typer.Option("--then-quantize", help="Make a release of the student.")
    ] = False,
    profile: Annotated[
        list[str] | None, typer.Option(help="Device profile of the release; say it again for more.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the release.")] = None,
    version: Annotated[str | None, typer.Option(help="Version of the release.")] = None,
    quality: Annotated[
        str | None, typer.Option(help="Gate of the release: strict, balanced or small.")
    ] = None,
    fresh: Fresh = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would come to; train nothing.")
    ] = False,
    output: Output = Form.TABLE,
) -> None:
    """Teach a smaller model what a larger one knows; then quantize it, if told.

    The student learns the teacher's next-token distributions over your data (and, with --prompts, over
    answers that the teacher writes first); with --weight below 1, the data itself too. The best moment by
    held-out loss is kept. A ledger says what each step cost: size, divergence from the teacher, bits per
    byte, tasks, speed; it stays with the model, and its release's card carries it.

    Begun again, a run goes on where it was ended, also after kill -9. With the same seed it ends the same.
    On several processes or machines: `torchrun --nproc-per-node 2 -m slmops distill ...`.

    For example: `slmops distill ./teacher --student prune:60% --data stories.txt --out ./student`;

    `slmops distill ./teacher --student ./config --data a.jsonl --prompts b.jsonl --out ./student
    --then-quantize --profile raspberry-pi-5 --name house --version 1.0.0`.
    """
    wish = _recipe(
        recipe,
        {
            "teacher": teacher,
            "student": student,
            "out": _text(out),
            "data": _texts(data),
            "prompts": _texts(prompts),
            "validation": _text(validation),
            "learn": learn,
            "training": {
                "epochs": epochs,
                "steps": steps,
                "tokens": train_tokens,
                "batch_tokens": batch_tokens,
                "length": length,
                "rate": rate,
                "patience": patience,
                "seed": seed,
            },
            "teaching": {
                "divergence": divergence,
                "weight": weight,
                "temperature": temperature,
                "hidden": hidden,
                "on_policy": on_policy,
                "cache": cache,
                "top_k": top_k,
            },
            "evaluation": {"file": _text(evaluation), "tokens": tokens},
            "tasks": _texts(task),
            "quantize": {
                "name": name,
                "version": version,
                "profiles": [target(one) for one in profile] if profile else None,
                "quality": quality,
            },
        },
    )
    if then_quantize and not wish.quantize:
        raise UsageError(
            "which release to make is not said", remedy="Give --profile, --name and --version with it."
        )
    tasks = tuple(_task(Path(file)) for file in wish.tasks)
    for one in wish.quantize.profiles if wish.quantize else ():
        _profile(one.profile)
    if dry_run:
        return _show_plan(foretell(wish, _profile), output)
    if wish.quantize:
        check_new(wish.quantize.name, wish.quantize.version)
    with bar() as told:
        done = distill(wish, tasks, cache=home.teachers(), load=_profile, fresh=fresh, told=told)
        if done is None:
            return None
        save_recipe(wish, done.folder / RUN / "recipe.yaml")
        made = _then(wish.quantize, done, told.doing) if wish.quantize else None
    if output is Form.JSON:
        return emit({**done.answer, "folder": str(done.folder), "release": made and made.said()})
    return _show(done, made)


def _recipe(file: Path | None, said: dict[str, Any]) -> DistillRecipe:
    """Return the recipe of the file, if any, with what the command says put over it."""
    written = load_distill_recipe(file).model_dump(mode="json") if file else {}
    if any(said["training"][key] is not None for key in LENGTHS):
        written.get("training", {}).update(dict.fromkeys(LENGTHS))
    whole = put_over(written, said) or {}
    return anchored(checked(DistillRecipe, whole, _OPTIONS, "distill"), Path.cwd())


def _then(then: Then, done: Distilled, told: Progress) -> Made:
    """Make the release, each of its artifacts a step in the ledger."""
    evaluation = then.evaluation if then.evaluation.file else done.recipe.evaluation
    data = Calibration(file=done.recipe.data[0]) if is_classifier(done.teacher.config) else None
    calibration = then.calibration or data
    changes = {"model": str(done.folder), "evaluation": evaluation, "calibration": calibration}
    said = then.model_copy(update=changes)
    recipe = Recipe.model_validate(vars(said))
    made = make_release(
        recipe, foretold(recipe, told), told, before=lambda one: add_artifact(done, one, told)
    )
    finish(done)
    return made


def _profile(name: str) -> DeviceProfile:
    return load_profile(name, home.profiles())


def _task(file: Path) -> Task:
    return replace(read_task(read_text(file), str(file)), name=file.name)


def _show_plan(found: Foretold, output: Form) -> None:
    if output is Form.JSON:
        return emit(asdict(found))
    weights, data = found.student_parameters, found.data
    share = f"{weights:,} ({weights / found.teacher_parameters:.0%})" if weights else "told once it is cut"
    rows = [
        ("teacher", f"{found.teacher}, {found.teacher_parameters:,} parameters"),
        ("student", f"{found.student}, {share}"),
        (
            "data",
            f"{data['samples']:,} samples, {data['tokens']:,} tokens" if data else "the teacher's answers",
        ),
        ("held out", f"{data['held_out_samples']:,} samples" if data else None),
        ("training", f"{found.steps:,} steps, about {found.tokens:,} tokens" if data else None),
        ("teacher reads beforehand", f"{found.recorded:,} tokens" if found.recorded else None),
    ]
    return table(("", "what it would come to"), rows)


def _show(done: Distilled, made: Made | None) -> None:
    learned, best = done.learned, done.learned.best_loss
    table(*rows(done.ledger))
    for stage in done.ledger.stages:
        say(f"{stage.name}: {stage.what}")
    resumed = f", gone on from step {learned.resumed_from}" if learned.resumed_from else ""
    early = ", ended early" if learned.stopped_early else ""
    say(
        f"{learned.steps} steps, {learned.tokens:,} tokens in {span(learned.seconds)}{resumed}{early}; "
        f"held-out loss {best:.4f} after step {learned.best_step}."
    )
    if not learned.best_step:
        say(
            "No step brought it nearer on what is held out: what was written says what it said before. "
            "Try more data, or a lower --rate."
        )
    say(f"The student is in {done.folder}; its curve and its ledger: {done.folder / RUN / PAGE}")
    if made:
        show_release(made)


_OPTIONS = {
    "teacher": "TEACHER",
    "profiles": "--profile",
    "profile": "--profile",
    "file": "--evaluation",
    "tasks": "--task",
}


def _text(file: Path | None) -> str | None:
    return None if file is None else str(file)


def _texts(files: list[Path] | None) -> list[str] | None:
    return [str(file) for file in files] if files else None
