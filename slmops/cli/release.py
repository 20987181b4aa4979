"""slmops release: what the registry keeps."""

from typing import Annotated, Any

import typer

from slmops import digest as digests
from slmops.cli import home
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, emit, out, size, table
from slmops.registry import catalog
from slmops.registry import release as releases
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
                a["profile"], a["arch"], a["format"], a["type"], size(a["bytes"]), size(a["memory_bytes"]),
                f"{a['measured']['kl_mean']:.2g}", f"{a['measured']['top1']:.1%}", digests.short(a["digest"]),
            )
            for a in artifacts
        ],
    )  # fmt: skip


@app.command()
def verify(name: Name) -> None:
    """Check the signature and every byte of a release. Exit code 7 when one does not hold."""
    layout = Layout(home.registry())
    signed = releases.find(layout, catalog.parse(name))
    read = releases.verify(layout, signed, home.signers())
    count = len(signed.release.artifacts)
    out.print(f"{name} is whole: the signature holds, and so do {size(read)} in {count} artifacts.")
