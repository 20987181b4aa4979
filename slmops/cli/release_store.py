"""slmops release push, pull, rm, gc: move releases to other places, and keep or let go what lies here."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.progress import Progress

from slmops import digest as digests
from slmops.artifact import manifest, vouch
from slmops.cli import home, release_channel
from slmops.cli.auditing import audited
from slmops.cli.options import Yes, ask_first
from slmops.cli.render import Form, Output, emit, out, progress, say, size, table
from slmops.errors import IntegrityError, MissingPartError
from slmops.registry import catalog, channel, channels, served
from slmops.registry import pull as pulling
from slmops.registry import push as pushing
from slmops.registry import release as releases
from slmops.registry.collect import Collected, collect, remove
from slmops.registry.layout import Layout
from slmops.registry.open_remote import open_remote
from slmops.registry.push import Told
from slmops.rollout.history import History

Url = Annotated[
    str,
    typer.Argument(
        metavar="URL", help="oci://host[:port]/repository, file:///folder, s3://bucket/folder, ..."
    ),
]
PlainHttp = Annotated[
    bool,
    typer.Option("--plain-http", help="Speak to an OCI registry without TLS; on localhost it always is."),
]
Release = Annotated[str, typer.Argument(metavar="NAME:VERSION", help="The release, or NAME@CHANNEL.")]
_UNTOUCHED = frozenset({"waiting", "skipped"})
"""States of devices to which a rollout has sent nothing."""

_BRING = (
    "Have whoever made the release write their trust documents (slmops trust export FILE), and take them "
    "here: slmops trust import FILE."
)


def add_to(app: typer.Typer) -> None:
    """Make these verbs of `slmops release`."""
    for command, name in ((push, "push"), (pull, "pull"), (rm, "rm"), (gc, "gc")):
        app.command(name)(command)


@audited("release push")
def push(name: Release, url: Url, plain_http: PlainHttp = False, output: Output = Form.TABLE) -> None:
    """Push a release, or the one a channel stands for and the channel with it, to another place.

    What is there already is not sent. In an OCI registry the version is the tag, and so is the channel;
    credentials are those of `docker login`.
    """
    layout = Layout(home.registry())
    reference = channels.resolve(layout, name)
    with open_remote(url, plain_http=plain_http, make=True) as remote:
        with progress(transient=True) as bar:
            moved = pushing.push(layout, remote, reference, _counted(bar, f"pushing {reference}"))
        if "@" in name:
            remote.name(name, moved.blob, manifest.RELEASE_TYPE)
    _show(name, moved, output, f"is in {remote.where}")


@audited("release pull")
def pull(name: Release, url: Url, plain_http: PlainHttp = False, output: Output = Form.TABLE) -> None:
    """Pull a release, or the one a channel stands for there and the channel with it, into the registry here.

    Its signature must be one that is trusted here, and every byte what the signed index says. Exit code 7
    when that does not hold. A channel is not moved back to an older release.
    """
    layout = Layout(home.registry())
    which = channel.parse(name) if "@" in name else None
    if which is None:
        catalog.parse(name)
    ring = home.keyring()
    if not ring.has_begun() and ring.first_key() is None:
        raise MissingPartError(f"nobody is trusted here yet to have signed {name}", remedy=_BRING)
    with open_remote(url, plain_http=plain_http) as remote, progress(transient=True) as bar:
        moved = pulling.pull(layout, remote, name, _judge, _counted(bar, f"pulling {name}"))
    if which is not None:
        channels.require_forward(layout, which, moved.release)
        reference = catalog.parse(moved.release.reference)
        channels.set_channel(layout, which.channel, reference, at=release_channel.now())
    _show(name, moved, output, f"is here, from {remote.where}")


@audited("release rm")
def rm(
    name: Annotated[str, typer.Argument(metavar="NAME:VERSION", help="The release.")], yes: Yes = False
) -> None:
    """Let a release go; what only it needed is freed by `slmops release gc`.

    One that a channel names, or that a device serves or may return to, stays.
    """
    layout = Layout(home.registry())
    reference = catalog.parse(name)
    releases.find(layout, reference)
    if not yes:
        ask_first(f"Let {reference} go? Its version may then be given again.")
    remove(layout, reference, protected)
    out.print(f"{reference} is gone from the registry; slmops release gc frees what only it needed.")


@audited("release gc")
def gc(
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, help="Let all but this many of each name go, too.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; touch nothing.")] = False,
    forget: Annotated[
        list[str] | None,
        typer.Option("--forget", metavar="FLEET/DEVICE", help="A device that is gone for good; repeatable."),
    ] = None,
    yes: Yes = False,
    output: Output = Form.TABLE,
) -> None:
    """Free what no release needs; with --keep, let old releases go first.

    What a channel names stays, and what a device serves or may return to, as `slmops status` and rollouts
    have last seen it. Nothing goes while something is published, pulled or deployed.
    """
    layout = Layout(home.registry())
    for device in forget or []:
        if not dry_run and not served.forget(home.served(), device):
            say(f"{device} is not known; nothing is kept for it.")
    if keep is not None and not dry_run and not yes:
        going = collect(layout, protected, keep=keep, dry_run=True).gone
        if going:
            ask_first(f"Let {', '.join(map(str, going))} go?")
    done = collect(layout, protected, keep=keep, dry_run=dry_run)
    return emit(_said(done)) if output is Form.JSON else _show_collected(done, dry_run=dry_run)


def protected() -> dict[str, str]:
    """Return what devices serve or may return to, by digest, and which device it is.

    Of a device that was asked, what it then held, and every release a rollout has brought it since.
    """
    seen = served.read(home.served())
    needed = {
        digest: f"{device} serves it or may return to it"
        for device, one in seen.items()
        for digest in one.slots
    }
    history = History(home.history())
    for entry in history.rollouts(limit=-1):
        for line in history.devices(entry.id):
            device = f"{entry.fleet}/{line.device}"
            since = seen[device].at if device in seen else 0.0
            if line.state not in _UNTOUCHED and line.changed >= since:
                needed.setdefault(entry.digest, f"{device} got it in rollout {entry.id}")
    history.close()
    return needed


def _judge(index: bytes, signatures: Sequence[bytes]) -> None:
    """Raise IntegrityError unless a release that came from elsewhere is signed as is asked for here."""
    try:
        vouch.release(home.keyring().trust(), index, signatures)
    except IntegrityError as error:
        raise IntegrityError(str(error), remedy=f"Where its maker has newer keys: {_BRING}") from error


def _counted(bar: Progress, what: str) -> Told:
    task = bar.add_task(what, total=None, note="")
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        bar.update(task, note=size(done))

    return told


def _show(name: str, moved: pushing.Moved, output: Form, where: str) -> None:
    reference, digest = moved.release.reference, moved.blob.digest
    if output is Form.JSON:
        return emit({"release": reference, "digest": digest, "sent": moved.sent, "there": moved.there})
    called = reference if name == reference else f"{name} ({reference})"
    over = f"{size(moved.sent)} went over, {size(moved.there)} was there"
    return out.print(f"{called} {where} as {digests.short(digest)}: {over}.", soft_wrap=True)


def _said(done: Collected) -> dict[str, object]:
    return {
        "gone": [str(reference) for reference in done.gone],
        "kept": {str(reference): reason for reference, reason in done.kept.items()},
        "files": done.files,
        "freed": done.freed,
    }


def _show_collected(done: Collected, *, dry_run: bool) -> None:
    rows = [(str(reference), "goes", "") for reference in done.gone]
    rows += [(str(reference), "stays", reason) for reference, reason in done.kept.items()]
    if rows:
        table(("release", "", "because"), rows)
    out.print(f"{'Would free' if dry_run else 'Freed'} {size(done.freed)} in {done.files} files.")
