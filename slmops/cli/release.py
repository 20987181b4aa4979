"""slmops release: what the registry keeps."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from slmops import digest as digests
from slmops.cli import home
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, emit, out, size, table
from slmops.errors import IntegrityError, ReleaseError
from slmops.registry import catalog
from slmops.registry import release as releases
from slmops.registry.catalog import Reference
from slmops.registry.layout import Layout

app = verb("Releases in the registry: list, show, verify.", group=True)
Name = Annotated[
    str, typer.Argument(metavar="NAME:VERSION", help="The release, as `slmops release list` says it.")
]


@app.command("list")
def list_(output: Output = Form.TABLE) -> None:
    """List every release, newest version first."""
    layout = Layout(home.registry())
    found = [releases.find(layout, reference) for reference in releases.references(layout)]
    rows = [
        {
            "release": signed.release.reference,
            "digest": signed.blob.digest,
            "created": signed.release.created,
            "profiles": [profile for profile, _ in signed.release.artifacts],
        }
        for signed in found
    ]
    if output is Form.JSON:
        emit(rows)
        return
    shown = [
        (r["release"], digests.short(str(r["digest"])), r["created"], ", ".join(r["profiles"])) for r in rows
    ]
    table(("release", "digest", "created", "profiles"), shown)


@app.command()
def show(name: Name, output: Output = Form.TABLE) -> None:
    """Show a release: its artifact for each profile and what it measured; -o json adds every file."""
    layout = Layout(home.registry())
    signed = releases.find(layout, catalog.parse(name))
    artifacts: list[dict[str, Any]] = []
    for profile, entry in signed.release.artifacts:
        built = releases.artifact(layout, entry)
        said = releases.description(layout, built)
        artifacts.append(
            {
                "profile": profile,
                "digest": entry.blob.digest,
                "arch": entry.arch,
                "format": said.format,
                "type": said.type,
                "adapter": said.adapter,
                "bytes": built.size,
                "memory_bytes": said.memory_bytes,
                "measured": said.measured,
                "files": {path: blob.size for path, blob in built.files},
            }
        )
    if output is Form.JSON:
        emit(
            {
                "release": name,
                "digest": signed.blob.digest,
                "created": signed.release.created,
                "artifacts": artifacts,
            }
        )
        return
    out.print(f"{name}  {signed.blob.digest}  {signed.release.created}")
    table(
        ("profile", "arch", "format", "type", "size", "memory", "KL (nats)", "top-1", "digest"),
        [
            (
                a["profile"], a["arch"], a["format"], _type(a), size(a["bytes"]), size(a["memory_bytes"]),
                f"{a['measured']['kl_mean']:.2g}", f"{a['measured']['top1']:.1%}", digests.short(a["digest"]),
            )
            for a in artifacts
        ],
    )  # fmt: skip


def _type(artifact: dict[str, Any]) -> str:
    return f"{artifact['type']} + adapter" if artifact["adapter"] else str(artifact["type"])


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
    signed = releases.find(layout, catalog.parse(name))
    read = releases.verify(layout, signed, home.signers())
    count = len(signed.release.artifacts)
    out.print(f"{name} is whole: the signature holds, and so do {size(read)} in {count} artifacts.")
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
    from slmops.cli.prepare import bar, prepare  # noqa: PLC0415

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
