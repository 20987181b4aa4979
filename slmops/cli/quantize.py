"""slmops quantize: make a release."""

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from slmops import digest as digests
from slmops.build import page
from slmops.build.load_recipe import anchored, load_recipe, save_recipe
from slmops.build.plan import AUTO
from slmops.build.recipe import Recipe, target
from slmops.build.report import report
from slmops.build.wrap import Built
from slmops.cli import home
from slmops.cli.answer import show, show_plan
from slmops.cli.options import verb
from slmops.cli.prepare import bar, foretold, golden_of, prepare
from slmops.cli.render import Form, Output, emit, say
from slmops.errors import UsageError
from slmops.registry import catalog
from slmops.registry import release as releases
from slmops.registry.layout import Layout
from slmops.registry.release import Signed

app = verb("Make a release: the best artifact each device can bear, its loss measured.")


@app.command()
def quantize(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Hugging Face folder, hub id, or a .gguf file.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="Device profile; say it again for more. PROFILE:FORMAT:TYPE asks for that alone."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the release.")] = None,
    version: Annotated[
        str | None, typer.Option(help="Version of the release; a version never changes.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Recipe file that says all of this; what the command says goes before it."),
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="auto, gguf or onnx.")] = AUTO,
    type_: Annotated[
        str,
        typer.Option(
            "--type", help="auto, or Q8_0, Q6_K, Q5_K_M, Q4_K_M, ... (gguf), INT8, INT4, F32 (onnx)."
        ),
    ] = AUTO,
    quality: Annotated[
        str | None,
        typer.Option(
            help="How far from the source is too far (KL, same first choice, perplexity ratio): strict "
            "(0.005, 98 %, 1.01), balanced (0.03, 93 %, 1.03), small (0.1, 88 %, 1.12). Default: balanced "
            "for types that are chosen, no gate for one that is named."
        ),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Text (or .jsonl) that says which inputs of a matrix matter.")
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(help="Held-out text to measure on. Default: the source writes its own."),
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens to measure on.")] = None,
    mixed: Annotated[
        bool | None,
        typer.Option("--mixed/--no-mixed", help="Search a type for each tensor by measuring. Default: yes."),
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option(
            help="Golden prompts (JSON lines). Default: golden.jsonl in the model's folder, else recorded."
        ),
    ] = None,
    converter: Annotated[
        Path | None,
        typer.Option(
            help="For other families: a llama.cpp checkout, or an unpacked llama-cpp-python source."
        ),
    ] = None,
    max_fallback: Annotated[
        float | None, typer.Option(help="Share of the weights that may have another type than the label's.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes that build and measure at a time.")] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory that building may use, such as 4GiB. Default: what is free.")
    ] = None,
    report_to: Annotated[
        Path | None,
        typer.Option(
            "--report", help="Folder for report.html and report.json. Default: beside the registry."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be built; build nothing.")
    ] = False,
    output: Output = Form.TABLE,
) -> None:
    """Make a release: the best artifact each device can bear, its loss measured.

    For every profile, the types that fit its memory and storage are predicted from the model's shape alone;
    what is left is built once, its tokenizer is proved equal to the source's, and its next-token distribution
    is compared with the source's. Then types are searched tensor by tensor for the room this device has. The
    best that keeps the gate goes into the registry as one signed release; a page shows all of it.

    What was built before from the same things is taken from the cache.
    """
    said = _recipe(
        recipe,
        {
            "model": model,
            "profiles": [target(one) for one in profile] if profile else None,
            "name": name,
            "version": version,
            "quality": quality,
            "calibration": {"file": str(calibration)} if calibration else None,
            "evaluation": _evaluation(evaluation, tokens),
            "mixed": mixed,
            "golden": str(golden) if golden else None,
            "converter": str(converter) if converter else None,
            "max_fallback": max_fallback,
            "jobs": jobs,
            "memory": memory,
        },
        target(f":{format_}:{type_}"),
    )
    _check_new(said)
    with bar() as told:
        planned = foretold(said, told)
        if dry_run:
            return show_plan(planned, output)
        run = prepare(said, told)
        home.registry().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=home.registry()) as room:
            built, results = run.build(planned, golden_of(said), Path(room))
            answer = report(f"{said.name}:{said.version}", run.called, results)
            place = home.report_of(said.name, said.version)
            save_recipe(said, place / "recipe.yaml")
            for folder in {place, report_to or place}:
                _keep(answer, folder)
            signed = _publish(built)
    if output is Form.JSON:
        missed = {one.profile.name: one.unanswered for one in built}
        kept = {"digest": signed.blob.digest, "report": str(report_to or place), "unanswered": missed}
        return emit({**answer, **kept})
    show(answer)
    for one in built:
        if one.fallback_share:
            label = one.description.type
            say(f"{one.profile.name}: {one.fallback_share:.0%} of the weights cannot be {label}.")
        if one.unanswered:
            say(
                f"{one.profile.name}: {len(one.unanswered)} golden prompts are not answered as they expect; "
                f"a device that gets this will go back. The first: {one.unanswered[0]}"
            )
    say(f"Release {signed.release.reference} ({digests.short(signed.blob.digest)}) is in the registry.")
    say(f"The whole answer, with its plot: {(report_to or place) / 'report.html'}")
    return None


def _publish(built: list[Built]) -> Signed:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    folders = {one.profile.name: one.folder for one in built}
    return releases.publish(Layout(home.registry()), folders, created=created, key=home.release_key())


def _recipe(file: Path | None, said: dict[str, Any], given: dict[str, str]) -> Recipe:
    """Return the recipe of the file, if any, with what the command says put over it.

    The format and type that are `given` are for the profiles that say none of their own.
    """
    stated = {key: value for key, value in said.items() if value is not None}
    written = load_recipe(file).model_dump(mode="json") if file else {}
    whole = {key: _put_over(written.get(key), stated.get(key)) for key in written.keys() | stated.keys()}
    for one in whole.get("profiles", ()):
        one |= {key: given[key] for key in ("format", "type") if one[key] == AUTO}
    try:
        found = Recipe.model_validate(whole)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        missing = first["type"] == "missing"
        option = _OPTIONS.get(key, f"--{key}")
        raise UsageError(
            f"{key} is not said" if missing else f"{_place(first)}: {_plain(first)}",
            remedy=f"{'Give' if missing else 'Correct'} {option}, or say it in a --recipe "
            "(`slmops schema recipe`).",
        ) from error
    return anchored(found, Path.cwd())


def _place(error: Any) -> str:
    """Return what is wrong as a command calls it: the last word of where it stands."""
    return next(str(part) for part in reversed(error["loc"]) if str(part).isidentifier())


def _plain(error: Any) -> str:
    """Return what a schema complains of, in plain words and with what was given."""
    said = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    said = said if said.startswith("expected") else f"expected {said}"
    return said if "got " in said else f"{said}, got {error['input']!r}"


_OPTIONS = {
    "model": "MODEL",
    "profiles": "--profile",
    "evaluation": "--tokens",
    "max_fallback": "--max-fallback",
}


def _put_over(written: Any, stated: Any) -> Any:
    """Return what is stated, else what is written; of a part that both speak of, each key so."""
    if isinstance(written, dict) and isinstance(stated, dict):
        return {**written, **stated}
    return written if stated is None else stated


def _evaluation(file: Path | None, tokens: int | None) -> dict[str, Any] | None:
    said: dict[str, Any] = {"file": str(file)} if file else {}
    if tokens is not None:
        said["tokens"] = tokens
    return said or None


def _check_new(recipe: Recipe) -> None:
    reference = catalog.reference(recipe.name, recipe.version)
    if reference in releases.references(Layout(home.registry())):
        raise UsageError(
            f"{reference} is in the registry already; a version never changes",
            remedy="Choose a new --version.",
        )


def _keep(answer: dict[str, Any], place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "report.json").write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    (place / "report.html").write_text(page.draw(answer), encoding="utf-8")
