"""slmops quantize: make a release."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from slmops import digest as digests
from slmops.artifact import golden as goldens
from slmops.artifact.golden import Golden
from slmops.build.recipe import AUTO, Plan, Recipe, Wish
from slmops.build.run import Built, Progress, Run
from slmops.build.source import open_model
from slmops.cli import home
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, emit, err, progress, say, size, table
from slmops.errors import DocumentError, UsageError
from slmops.profile.load import load_profile
from slmops.registry import catalog
from slmops.registry import release as releases
from slmops.registry.layout import Layout
from slmops.registry.release import Signed

app = verb("Make a release: the best artifact each device can bear, its loss measured.")


@app.command()
def quantize(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Hugging Face folder, hub id, or a .gguf file.")
    ],
    profile: Annotated[
        list[str],
        typer.Option(help="Device profile; say it again for more. PROFILE:FORMAT:TYPE asks for that alone."),
    ],
    name: Annotated[str, typer.Option(help="Name of the release.")],
    version: Annotated[str, typer.Option(help="Version of the release; a version never changes.")],
    format_: Annotated[str, typer.Option("--format", help="auto, gguf or onnx.")] = AUTO,
    type_: Annotated[
        str, typer.Option("--type", help="auto, or Q8_0, Q6_K, Q5_K_M, Q4_K_M, ... (gguf), INT8, F32 (onnx).")
    ] = AUTO,
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be built; build nothing.")
    ] = False,
    output: Output = Form.TABLE,
) -> None:
    """Make a release: the best artifact each device can bear, its loss measured.

    For every profile the best type that fits its memory and is fast enough is chosen from the model's shape
    alone, before anything is built. Each distinct model is built once, its tokenizer is proved equal to the
    source's, and its next-token distribution is compared with the source's; one that is not its source does
    not count as built. The artifacts go into the registry as one signed release.
    """
    recipe = Recipe(**_named(name, version), wishes=_wishes(profile, format_, type_))
    source = open_model(model)
    asked = _golden(golden, Path(model))
    layout = Layout(home.registry())
    home.registry().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=home.registry()) as room, _bar() as told:
        run = Run(source, model, recipe, Path(room), told)
        if converter is not None:
            run.convert(converter)
        planned = run.plan()
        if dry_run:
            return _show_plan(planned, output)
        built = run.build(planned, asked)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        folders = {one.profile.name: one.folder for one in built}
        signed = releases.publish(layout, folders, created=created, key=home.release_key())
    return _show(signed, built, output)


def _named(name: str, version: str) -> dict[str, str]:
    reference = catalog.reference(name, version)
    if reference in releases.references(Layout(home.registry())):
        raise UsageError(
            f"{reference} is in the registry already; a version never changes",
            remedy="Choose a new --version.",
        )
    return {"name": reference.name, "version": reference.version}


def _wishes(profiles: list[str], format_: str, type_: str) -> tuple[Wish, ...]:
    wishes = tuple(_wish(said, format_, type_) for said in profiles)
    names = [wish.profile.name for wish in wishes]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(
            f"--profile {twice.pop()} is there twice; a release has one artifact for each profile"
        )
    return wishes


def _wish(said: str, format_: str, type_: str) -> Wish:
    name, _, rest = said.partition(":")
    own_format, _, own_type = rest.partition(":")
    wish = Wish(load_profile(name, home.profiles()), own_format or format_, _type(own_type or type_))
    if wish.format not in (AUTO, "gguf", "onnx"):
        raise UsageError(f"format {wish.format!r}: expected auto, gguf or onnx")
    return wish


def _type(said: str) -> str:
    """Return the type as it is written; people write q4_k_m too."""
    return said if said == AUTO else said.upper()


def _golden(given: Path | None, model: Path) -> list[Golden]:
    own = model.expanduser() / goldens.FILE_NAME
    path = given or (own if own.is_file() else None)
    if path is None:
        return []
    try:
        return goldens.read(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(
            f"{path} cannot be read: {error}", remedy="Give --golden a file of JSON lines."
        ) from error


@contextmanager
def _bar() -> Iterator[Progress]:
    """Show what is being done; where there is no terminal, a line for each new thing."""
    with progress(transient=True) as bar:
        row = bar.add_task("", total=1.0, note="")
        said: list[str] = []

        def told(doing: str, share: float) -> None:
            bar.update(row, description=doing, completed=share)
            if not err.is_terminal and doing not in said:
                say(doing)
                said.append(doing)

        yield told


def _show_plan(planned: Plan, output: Form) -> None:
    rows: list[dict[str, Any]] = [
        {
            "profile": profile,
            "format": choice.candidate.format,
            "type": choice.candidate.type,
            "bytes": choice.candidate.weight_bytes,
            "memory_bytes": choice.footprint.total,
            "tokens_per_second": round(choice.tokens_per_second, 1),
            "reason": choice.reason,
        }
        for profile, choice in planned.choices.items()
    ]
    if output is Form.JSON:
        return emit(rows)
    shown = [
        (
            r["profile"],
            r["format"],
            r["type"],
            size(r["bytes"]),
            size(r["memory_bytes"]),
            r["tokens_per_second"],
            r["reason"],
        )
        for r in rows
    ]
    return table(("profile", "format", "type", "size", "memory", "tok/s (predicted)", "why"), shown)


def _show(signed: Signed, built: list[Built], output: Form) -> None:
    if output is Form.JSON:
        artifacts = [
            {
                "profile": one.profile.name,
                "format": one.description.format,
                "type": one.description.type,
                "bytes": one.size,
                "bits_per_weight": one.bits_per_weight,
                "fallback_tensors": one.fallbacks,
                "memory_bytes": one.description.memory_bytes,
                "predicted_tokens_per_second": one.choice.tokens_per_second,
                "measured": one.description.measured,
                "reason": one.choice.reason,
            }
            for one in built
        ]
        return emit(
            {"release": signed.release.reference, "digest": signed.blob.digest, "artifacts": artifacts}
        )
    rows = [
        (
            one.profile.name, f"{one.description.format} {one.description.type}", size(one.size),
            f"{one.bits_per_weight:.2f}", size(one.description.memory_bytes),
            f"{one.description.measured['kl_mean']:.2g}", f"{one.description.measured['top1']:.1%}",
            one.choice.reason,
        )
        for one in built
    ]  # fmt: skip
    table(("profile", "type", "size", "bits/weight", "memory", "KL (nats)", "top-1", "why"), rows)
    for one in built:
        if one.fallbacks:
            label = one.description.type
            say(f"{one.profile.name}: {one.fallbacks} tensors cannot be {label} and got a larger type.")
    say(f"Release {signed.release.reference} ({digests.short(signed.blob.digest)}) is in the registry.")
    return None
