"""slmops runtime: what the daemon needs on a device, built, listed and shown."""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from slmops import __version__
from slmops import digest as digests
from slmops.artifact.runtime import FORMATS, Platform, parse_platform
from slmops.build.build_runtime import Order, build_runtime
from slmops.build.cache import Cache
from slmops.cli import home
from slmops.cli.auditing import audited
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, bar, emit, out, size, table
from slmops.errors import UsageError
from slmops.profile.load import load_profile
from slmops.registry import catalog, runtimes
from slmops.registry import release as releases
from slmops.registry.layout import Layout
from slmops.registry.runtimes import Bundle

app = verb("Runtime bundles, what the daemon needs on a device: build, list, show.", group=True)
PYTHON = "3.11"


@app.command()
@audited("runtime build")
def build(
    profiles: Annotated[
        list[str] | None,
        typer.Option("--profile", "-p", help="Build for devices of this profile. Repeatable."),
    ] = None,
    platforms: Annotated[
        list[str] | None, typer.Option("--platform", help="Build for this: aarch64-cp311. Repeatable.")
    ] = None,
    python: Annotated[str, typer.Option("--python", help="Python of the devices of --profile.")] = PYTHON,
    formats: Annotated[str, typer.Option(help="Formats of models to serve: gguf,onnx.")] = ",".join(FORMATS),
    name: Annotated[str, typer.Option(help="Name of the release.")] = "runtime",
    version: Annotated[
        str, typer.Option(help="Version of the release. Default: that of slmops.")
    ] = __version__,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be built, and stop.")] = False,
    output: Output = Form.TABLE,
) -> None:
    """Fetch, compile and pack what the daemon needs, and publish it as a signed release.

    Packages come from the package index in the versions that are installed here; llama.cpp is compiled, once
    for each kind of machine. What was made before is taken from the cache.
    """
    reference = catalog.reference(name, version)
    layout = Layout(home.registry())
    if reference in releases.references(layout):
        raise UsageError(
            f"{reference} is in the registry already; a version never changes",
            remedy="Choose a new --version.",
        )
    wanted = _platforms(profiles or [], platforms or [], python)
    orders = [Order(name, version, platform, _formats(formats)) for platform in wanted]
    if dry_run:
        said = [
            {"release": str(reference), "platform": str(o.platform), "formats": o.formats} for o in orders
        ]
        emit(said) if output is Form.JSON else table(
            ("release", "platform", "formats"),
            [(r["release"], r["platform"], ", ".join(r["formats"])) for r in said],
        )
        return
    kept = home.cache() / "runtime"
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=kept) as room:
        folders = {str(order.platform): Path(room) / str(order.platform) for order in orders}
        with bar("looking at what is here") as told:
            for order in orders:
                folders[str(order.platform)].mkdir()
                build_runtime(order, Cache(kept), folders[str(order.platform)], told)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        runtimes.publish(layout, folders, created=created, key=home.release_key())
    _print(runtimes.bundles(layout, [reference]), output)


@app.command(name="list")
def list_(output: Output = Form.TABLE) -> None:
    """List the runtime bundles in the registry, the newest of a name first."""
    _print(runtimes.bundles(Layout(home.registry())), output)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME:VERSION", help="A runtime: `slmops runtime list`.")],
    output: Output = Form.TABLE,
) -> None:
    """Show what is in a runtime bundle: its packages, their versions, and what each takes on the wire."""
    found = runtimes.bundles(Layout(home.registry()), [catalog.parse(name)])
    if not found:
        raise UsageError(
            f"{name} is a release of a model, not a runtime", remedy="Run `slmops runtime list`."
        )
    if output is Form.JSON:
        emit([{**_said(b), "files": {path: blob.size for path, blob in b.artifact.files}} for b in found])
        return
    for bundle in found:
        described = bundle.described
        out.print(
            f"{bundle.reference} for {bundle.platform}: serves {', '.join(described.provides)}; "
            f"Python {described.python}, glibc {described.libc} or newer; "
            f"{size(bundle.artifact.size)} to send, {size(described.unpacked)} unpacked"
        )
        table(("file", "size"), [(path, size(blob.size)) for path, blob in bundle.artifact.files])


def _platforms(profiles: list[str], platforms: list[str], python: str) -> list[Platform]:
    """Return the platforms that are asked for, each once."""
    named = [f"{load_profile(each, home.profiles()).arch}-cp{python.replace('.', '')}" for each in profiles]
    found = list(dict.fromkeys(parse_platform(each) for each in [*named, *platforms]))
    if not found:
        raise UsageError("for which devices?", remedy="Give --profile P, or --platform aarch64-cp311.")
    return found


def _formats(text: str) -> tuple[str, ...]:
    asked = {each.strip() for each in text.split(",")}
    if not asked <= set(FORMATS):
        raise UsageError(f"--formats {text}: expected {' or '.join(FORMATS)}, separated by commas")
    return tuple(each for each in FORMATS if each in asked)


def _print(found: list[Bundle], output: Form) -> None:
    if output is Form.JSON:
        emit([_said(bundle) for bundle in found])
        return
    table(
        ("runtime", "platform", "serves", "to send", "unpacked", "digest"),
        [
            (
                bundle.reference, bundle.platform, ", ".join(bundle.described.provides),
                size(bundle.artifact.size), size(bundle.described.unpacked),
                digests.short(bundle.entry.blob.digest),
            )
            for bundle in found
        ],
    )  # fmt: skip


def _said(bundle: Bundle) -> dict[str, object]:
    described = bundle.described
    return {
        "release": bundle.reference,
        "platform": bundle.platform,
        "digest": bundle.entry.blob.digest,
        "created": bundle.signed.release.created,
        "provides": described.provides,
        "python": described.python,
        "libc": described.libc,
        "bytes": bundle.artifact.size,
        "unpacked": described.unpacked,
        "parts": described.parts,
    }
