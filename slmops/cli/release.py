"""slmops release: what the registry keeps, shown and checked; moving and keeping it is `release_store`."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from slmops import digest as digests
from slmops.artifact import description as descriptions
from slmops.cli import home, release_channel, release_store
from slmops.cli.options import verb
from slmops.cli.release_diff import diff
from slmops.cli.release_export import export
from slmops.cli.render import Form, Output, bar, brief, emit, out, size, table
from slmops.errors import IntegrityError, ReleaseError
from slmops.registry import lineage
from slmops.registry import release as releases
from slmops.registry.bom import Part
from slmops.registry.bom import bom as bill
from slmops.registry.catalog import Reference
from slmops.registry.channels import resolve
from slmops.registry.layout import Layout
from slmops.registry.lineage import Lineage

app = verb("Releases in the registry: list, show, verify, compare, push, pull, keep or let go.", group=True)
Name = Annotated[
    str,
    typer.Argument(metavar="NAME:VERSION", help="The release, or NAME@CHANNEL; `slmops release list`."),
]


@app.command("list")
def list_(output: Output = Form.TABLE) -> None:
    """List every release, newest version first."""
    layout = Layout(home.registry())
    found = [releases.find(layout, reference) for reference in releases.references(layout)]
    rows: list[dict[str, Any]] = [
        {
            "release": signed.release.reference,
            "digest": signed.blob.digest,
            "counter": signed.release.counter,
            "created": signed.release.created,
            "profiles": [profile for profile, _ in signed.release.artifacts],
        }
        for signed in found
    ]
    if output is Form.JSON:
        emit(rows)
        return
    shown = [
        (r["release"], r["counter"], digests.short(r["digest"]), r["created"], ", ".join(r["profiles"]))
        for r in rows
    ]
    table(("release", "counter", "digest", "created", "profiles"), shown)


@app.command()
def show(name: Name, output: Output = Form.TABLE) -> None:
    """Show a release: its artifact for each profile, what it measured, and where it comes from.

    -o json adds every file, and the lineage of each artifact in full.
    """
    layout = Layout(home.registry())
    signed = releases.find(layout, resolve(layout, name))
    artifacts: list[dict[str, Any]] = []
    for profile, entry in signed.release.artifacts:
        built = releases.artifact(layout, entry)
        shown: dict[str, Any] = {
            "profile": profile,
            "digest": entry.blob.digest,
            "arch": entry.arch,
            "bytes": built.size,
            "files": {path: blob.size for path, blob in built.files},
        }
        if descriptions.FILE_NAME in shown["files"]:
            said = releases.description(layout, built)
            shown |= {
                "format": said.format,
                "type": said.type,
                "adapter": said.adapter,
                "memory_bytes": said.memory_bytes,
                "measured": said.measured,
                "lineage": lineage.of(said).said(),
            }
        artifacts.append(shown)
    if output is Form.JSON:
        emit(
            {
                "release": signed.release.reference,
                "digest": signed.blob.digest,
                "counter": signed.release.counter,
                "created": signed.release.created,
                "artifacts": artifacts,
            }
        )
        return
    out.print(
        f"{signed.release.reference}  {signed.blob.digest}  {signed.release.created}  "
        f"counter {signed.release.counter}",
        soft_wrap=True,
    )
    table(
        ("profile", "arch", "format", "type", "size", "memory", "KL (nats)", "top-1", "digest"),
        [_row(each) for each in artifacts],
    )
    for line in dict.fromkeys(_from(each) for each in artifacts if "lineage" in each):
        out.print(line, markup=False, soft_wrap=True)


def _row(artifact: dict[str, Any]) -> tuple[Any, ...]:
    """Return the line of an artifact; a runtime bundle has no model of which to say more."""
    before = (artifact["profile"], artifact["arch"])
    mark = digests.short(artifact["digest"])
    if "measured" not in artifact:
        return (*before, "runtime", None, size(artifact["bytes"]), None, None, None, mark)
    type_ = f"{artifact['type']} + adapter" if artifact["adapter"] else str(artifact["type"])
    measured = artifact["measured"]
    return (
        *before, artifact["format"], type_, size(artifact["bytes"]), size(artifact["memory_bytes"]),
        f"{measured['kl_mean']:.2g}", f"{measured['top1']:.1%}", mark,
    )  # fmt: skip


def _from(artifact: dict[str, Any]) -> str:
    """Return where an artifact comes from, in a line."""
    found = Lineage(**artifact["lineage"])
    source, build = found.source, found.build
    words = [
        f"from {source.get('id', 'an unnamed source')}",
        *([digests.short(source["digest"])] if "digest" in source else []),
        *(f"{key} {source[key]}" for key in ("revision", "license") if key in source),
        *(f"{key} {brief(value)}" for key, value in (build | found.data).items()),
    ]
    tools = ", ".join(f"{name} {version.partition(' ')[0]}" for name, version in found.tools.items())
    return ", ".join(words) + (f"; built with {tools}" if tools else "")


@app.command()
def bom(name: Name) -> None:
    """Print the bill of materials of a release: CycloneDX 1.6 JSON, with a model card for each artifact.

    It is made of what the release's signature covers, and is the same each time.
    """
    layout = Layout(home.registry())
    signed = releases.find(layout, resolve(layout, name))
    parts = []
    for profile, entry in signed.release.artifacts:
        built = releases.artifact(layout, entry)
        if descriptions.FILE_NAME not in dict(built.files):
            raise ReleaseError(
                f"{signed.release.reference} is a runtime bundle: it holds wheels, and no model",
                remedy="`slmops runtime show` lists them.",
            )
        parts.append(Part(profile, entry.blob, built, releases.description(layout, built)))
    emit(bill(signed.release, signed.blob, parts))


@app.command()
def verify(
    name: Name,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Build its models again from their source, and compare every bit."),
    ] = False,
) -> None:
    """Check the signature and every byte of a release. Exit code 7 when one does not hold.

    With --rebuild, the recipe that is kept with the release's report is carried out once more, nothing taken
    from the cache, and what it makes must be the release's very models.
    """
    layout = Layout(home.registry())
    signed = releases.find(layout, resolve(layout, name))
    read = releases.verify(layout, signed, home.keyring().trust())
    there = ", ".join(profile for profile, _ in signed.release.artifacts)
    out.print(f"{name} is whole: its signatures hold, and so do {size(read)} for {there}.", soft_wrap=True)
    if rebuild:
        models = dict(releases.models(layout, signed))
        for profile, made in _made_again(releases.base(layout, signed)).items():
            if made != models.get(profile, made):
                raise IntegrityError(
                    f"{name} for {profile}: built again its model is {digests.short(made)}, released was "
                    f"{digests.short(models[profile])}",
                    remedy="Compare the source's digest and the tool versions in its artifact.json with "
                    "those of today.",
                )
        out.print(f"Built again, bit for bit: {', '.join(models)}.")


def _made_again(release: Reference) -> dict[str, str]:
    """Return the digest of each profile's model, made anew by the recipe that made it first."""
    # What builds is heavy, and only this option needs it.
    from slmops.build.cache import Cache  # noqa: PLC0415
    from slmops.build.load_recipe import load_recipe  # noqa: PLC0415
    from slmops.build.report import chosen  # noqa: PLC0415
    from slmops.cli.prepare import prepare  # noqa: PLC0415

    kept = home.report_of(release.name, release.version)
    if not (kept / "recipe.yaml").is_file() or not (kept / "report.json").is_file():
        raise ReleaseError(
            f"the recipe of {release} is not kept here: no {kept / 'recipe.yaml'}",
            remedy="Verify it where it was built; `slmops quantize` keeps recipe and report there.",
        )
    makes = chosen(json.loads((kept / "report.json").read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory(prefix=".rebuild-", dir=home.folder()) as room, bar() as told:
        run = prepare(load_recipe(kept / "recipe.yaml"), told, Cache(Path(room)))
        files = run.rebuild(list(makes.values()))
        return {profile: digests.of_file(files[make]) for profile, make in makes.items()}


app.command()(diff)
app.command()(export)
release_store.add_to(app)
app.add_typer(release_channel.app, name="channel")
