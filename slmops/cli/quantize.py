"""slmops quantize: make a release."""

from pathlib import Path
from typing import Annotated, Any

import typer

from slmops.build.load_recipe import anchored, load_recipe
from slmops.build.plan import AUTO
from slmops.build.recipe import Recipe, target
from slmops.cli.answer import show_plan
from slmops.cli.keyring import until
from slmops.cli.make_release import check_new, make_release, show_release
from slmops.cli.options import verb
from slmops.cli.prepare import foretold
from slmops.cli.render import Form, Output, bar, emit
from slmops.cli.said import checked, put_over

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
    delta_base: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:VERSION",
            help="Release that the devices have. Each artifact gets the types of that release's artifact "
            "for its profile and, in a GGUF, its scales wherever they cost next to nothing (how far that may "
            "go is chosen by measuring): an update is then a small delta. Where another --type or --format "
            "is asked for, or the tensors are others, it is built without, and that is said.",
        ),
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
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN",
            help="After this long (90d, 1y) no device takes the release in; who has it keeps it.",
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
            "delta_base": delta_base,
            "jobs": jobs,
            "memory": memory,
        },
        target(f":{format_}:{type_}"),
    )
    check_new(said.name, said.version)
    ends = until(expires)
    with bar() as told:
        planned = foretold(said, told)
        if dry_run:
            return show_plan(planned, output)
        made = make_release(said, planned, told, report_to=report_to, expires=ends)
    if output is Form.JSON:
        return emit(made.said())
    return show_release(made)


def _recipe(file: Path | None, said: dict[str, Any], given: dict[str, str]) -> Recipe:
    """Return the recipe of the file, if any, with what the command says put over it.

    The format and type that are `given` are for the profiles that say none of their own.
    """
    whole = put_over(load_recipe(file).model_dump(mode="json") if file else {}, said) or {}
    for one in whole.get("profiles", ()):
        one |= {key: given[key] for key in ("format", "type") if one[key] == AUTO}
    return anchored(checked(Recipe, whole, _OPTIONS, "recipe"), Path.cwd())


_OPTIONS = {
    "model": "MODEL",
    "profiles": "--profile",
    "evaluation": "--tokens",
    "max_fallback": "--max-fallback",
}


def _evaluation(file: Path | None, tokens: int | None) -> dict[str, Any] | None:
    said: dict[str, Any] = {"file": str(file)} if file else {}
    if tokens is not None:
        said["tokens"] = tokens
    return said or None
