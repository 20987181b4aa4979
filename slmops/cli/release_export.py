"""slmops release export: an artifact's files in a folder, with a signature that other tools verify."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from slmops.artifact.manifest import Release
from slmops.cli import home
from slmops.cli.auditing import audited
from slmops.cli.render import Form, Output, emit, say, size
from slmops.errors import UsageError
from slmops.registry import model_signing
from slmops.registry import release as releases
from slmops.registry.channels import resolve
from slmops.registry.layout import Layout


@audited("release export")
def export(
    name: Annotated[str, typer.Argument(metavar="NAME:VERSION", help="The release, or NAME@CHANNEL.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    profile: Annotated[
        str | None, typer.Option(help="Whose artifact. Default: the only one there is.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="An elliptic curve private key (PEM, OpenSSH). Default: one that is made here."),
    ] = None,
    output: Output = Form.TABLE,
) -> None:
    """Write the files of one artifact, verified, and model.sig, which the public `model_signing` verifies.

    Whoever gets the folder needs the public key that is written beside it, and neither slmops nor your
    registry. Devices do not look at this signature.
    """
    layout = Layout(home.registry())
    signed = releases.find(layout, resolve(layout, name))
    releases.verify(layout, signed, home.keyring().trust())
    built = releases.artifact(layout, signed.release.entry(profile or _only(signed.release)))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there and is no empty folder", remedy="Name a new one.")
    pair = key or home.folder() / "keys" / "model-signing.pem"
    if key is None and not pair.exists():
        model_signing.make_key(pair)
        say(f"Made a key for model_signing: {pair}. It signs what you export.")
    signer = model_signing.load_key(pair)
    public = folder.resolve().with_name(f"{folder.resolve().name}.public.pem")
    folder.mkdir(parents=True, exist_ok=True)
    public.write_bytes(model_signing.public_pem(signer))
    for path, blob in built.files:
        shutil.copyfile(layout.path(blob.digest), folder / path)
    payload = model_signing.statement(folder.resolve().name, built)
    signature = folder / model_signing.FILE_NAME
    signature.write_bytes(model_signing.bundle(payload, signer))
    check = f"model_signing verify key {folder} --signature {signature} --public_key {public}"
    if output is Form.JSON:
        emit(
            {
                "release": signed.release.reference,
                "folder": str(folder),
                "public_key": str(public),
                "verify": check,
            }
        )
        return
    say(f"{signed.release.reference}: {len(built.files)} files, {size(built.size)}, in {folder}.")
    say(f"Verify: {check}")


def _only(release: Release) -> str:
    """Return the one profile there is; raise UsageError naming all where there are several."""
    there = [profile for profile, _ in release.artifacts]
    if len(there) != 1:
        raise UsageError(
            f"which artifact of {release.reference}? It has: {', '.join(there)}", remedy="Add --profile."
        )
    return there[0]
