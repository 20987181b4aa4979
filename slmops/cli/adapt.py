"""slmops adapt: a release whose models are those of another, with an adapter on them."""

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from slmops import digest as digests
from slmops.build.adapt import WITHOUT, Base, Dressed, Wish, adapt
from slmops.build.checkpoint import Checkpoint
from slmops.build.load_recipe import load_recipe
from slmops.build.open_adapter import open_adapter, put_on
from slmops.build.quality import QUALITIES
from slmops.build.source import open_model
from slmops.cli import home
from slmops.cli.auditing import recorded
from slmops.cli.make_release import check_new
from slmops.cli.options import verb
from slmops.cli.prepare import read_golden
from slmops.cli.render import Form, Output, bar, emit, say, size, table
from slmops.errors import ModelError, ReleaseError, UsageError
from slmops.registry import catalog
from slmops.registry import release as releases
from slmops.registry.catalog import Reference
from slmops.registry.layout import Layout
from slmops.registry.release import Signed

app = verb("Make a release of another: the same models, and a LoRA adapter on each.")


@app.command(name="adapt")
def adapt_(
    release: Annotated[
        str, typer.Argument(metavar="NAME:VERSION", help="The release whose models are kept.")
    ],
    adapter: Annotated[Path, typer.Option(metavar="DIR", help="Folder that `slmops finetune --lora` wrote.")],
    version: Annotated[str, typer.Option(help="Version of the new release; a version never changes.")],
    name: Annotated[str | None, typer.Option(help="Name of the new release. Default: the same.")] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="Only for this profile; say it again for more. Default: all.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="What the release was made of. Default: what its kept recipe names."
        ),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(help=f"How far is too far: {', '.join(QUALITIES)}, as in quantize. Default: no gate."),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(help="Held-out text to measure on. Default: the merged source writes its own."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=64, help="Tokens to measure on.")] = 512,
    golden: Annotated[
        Path | None,
        typer.Option(
            help="Golden prompts (JSON lines). Default: golden.jsonl in the adapter's folder, else recorded."
        ),
    ] = None,
    output: Output = Form.TABLE,
) -> None:
    """Make a release of another: the same models, and a LoRA adapter on each.

    A device that serves the other release already has the model, and is sent the adapter alone. Model and
    adapter together are measured against the source merged with the adapter; golden prompts are recorded
    from it. ONNX models and classifiers take no adapter: merge it (`slmops finetune --merge`), and quantize
    what comes out.
    """
    layout = Layout(home.registry())
    signed = releases.find(layout, catalog.parse(release))
    kept = releases.base(layout, signed)
    made = catalog.reference(name or kept.name, version)
    check_new(made.name, made.version)
    worn = open_adapter(adapter)
    wish = Wish(
        made.name,
        made.version,
        tuple(read_golden(golden, adapter)),
        evaluation,
        tokens,
        _gate(quality),
    )
    with bar() as told, tempfile.TemporaryDirectory(prefix=".adapt-", dir=layout.folder) as room:
        bases = _bases(layout, releases.find(layout, kept), profile or [], Path(room) / "base")
        merged = put_on(_source(kept, source), worn)
        dressed = adapt(bases, merged, wish, Path(room) / "made", told)
        folders = {one.description.profile: one.folder for one in dressed}
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        needs = {name: entry.features for name, entry in signed.release.artifacts}
        key = home.release_key()
        with recorded("release publish"):
            published = releases.publish(layout, folders, created=created, key=key, needs=needs)
        answer = {
            "release": str(made),
            "digest": published.blob.digest,
            "base": str(kept),
            "profiles": [_row(one) for one in dressed],
        }
    return emit(answer) if output is Form.JSON else _show(answer)


def _bases(layout: Layout, signed: Signed, profiles: list[str], room: Path) -> list[Base]:
    """Lay out the artifacts of the release that is kept, for `profiles` or for all it has."""
    there = [profile for profile, _ in signed.release.artifacts]
    strange = sorted(set(profiles) - set(there))
    if strange:
        raise ReleaseError(
            f"{signed.release.reference} has artifacts for {', '.join(there)}, none for {', '.join(strange)}"
        )
    models, found = dict(releases.models(layout, signed)), list[Base]()
    for profile, entry in signed.release.artifacts:
        if profile in (profiles or there):
            built, folder = releases.artifact(layout, entry), room / profile
            folder.mkdir(parents=True)
            releases.lay_out(layout, built, folder)
            found.append(Base(folder, releases.description(layout, built), models[profile]))
    return found


def _source(kept: Reference, said: str | None) -> Checkpoint:
    """Open what a release was made of."""
    recipe = home.report_of(kept.name, kept.version) / "recipe.yaml"
    if said is None and not recipe.is_file():
        raise UsageError(
            f"what {kept} was made of is not known here: no {recipe}",
            remedy="Say it with --source: the folder or hub id of the model the adapter was trained for.",
        )
    found = open_model(said or load_recipe(recipe).model)
    if isinstance(found, Checkpoint):
        return found
    raise ModelError(
        f"{kept} was made of {found.file.name}: no adapter can be merged with a .gguf to measure against",
        remedy="Adapt a release that was made of the Hugging Face folder, or say that folder with --source.",
    )


def _gate(quality: str | None) -> Any:
    if quality is not None and quality not in QUALITIES:
        raise UsageError(f"--quality: expected {', '.join(QUALITIES)}, got {quality!r}")
    return QUALITIES[quality] if quality else None


def _row(one: Dressed) -> dict[str, Any]:
    said = one.description
    return {
        "profile": said.profile,
        "type": said.type,
        "model_bytes": (one.folder / said.model).stat().st_size,
        "adapter_bytes": (one.folder / str(said.adapter)).stat().st_size,
        "memory_bytes": said.memory_bytes,
        "measured": said.measured,
        "telling": one.telling,
        "unanswered": one.unanswered,
    }


def _show(answer: dict[str, Any]) -> None:
    rows = answer["profiles"]
    table(
        ("profile", "type", "model", "adapter", "memory", "KL", "without it", "same"),
        [
            (
                row["profile"], row["type"], size(row["model_bytes"]), size(row["adapter_bytes"]),
                size(row["memory_bytes"]), f"{row['measured']['kl_mean']:.2g}",
                f"{row['measured'][WITHOUT]:.2g}", f"{row['measured']['top1']:.1%}",
            )
            for row in rows
        ],
    )  # fmt: skip
    for row in rows:
        if not row["telling"]:
            say(
                f"{row['profile']}: its golden prompts are answered alike with and without the adapter, and "
                "a device cannot tell from them that it has it. Give some that need it: --golden."
            )
        if row["unanswered"]:
            say(
                f"{row['profile']}: {len(row['unanswered'])} golden prompts are not answered as they expect; "
                f"a device that gets this will go back. The first: {row['unanswered'][0]}"
            )
    say(
        f"Release {answer['release']} ({digests.short(answer['digest'])}) is in the registry: the models of "
        f"{answer['base']}, and {size(rows[0]['adapter_bytes'])} of adapter."
    )
