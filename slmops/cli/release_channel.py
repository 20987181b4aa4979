"""slmops release channel: names that move from release to release."""

import time
from typing import Annotated

import typer

from slmops import digest as digests
from slmops.cli import home
from slmops.cli.auditing import audited
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, emit, out, table
from slmops.errors import ReleaseError
from slmops.registry import channel as kinds
from slmops.registry import channels
from slmops.registry.layout import Layout

app = verb("Channels, such as demo@stable, that move from release to release: set, list, show.", group=True)


@app.command("set")
@audited("release channel set")
def set_(
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="Its name: stable, beta, ...")],
    release: Annotated[str, typer.Argument(metavar="NAME:VERSION", help="What it stands for from now on.")],
) -> None:
    """Let a channel stand for a release: NAME@CHANNEL is then what NAME:VERSION is, until it moves."""
    layout = Layout(home.registry())
    reference = channels.resolve(layout, release)
    which = channels.set_channel(layout, channel, reference, at=now())
    out.print(f"{which} stands for {reference}.")


@app.command("list")
def list_(output: Output = Form.TABLE) -> None:
    """List every channel and the release it stands for."""
    layout = Layout(home.registry())
    rows = []
    for which, reference in channels.stand(layout):
        moves = channels.moves(layout, which)
        rows.append((str(which), str(reference), moves[-1].at if moves else None, len(moves)))
    if output is Form.JSON:
        return emit([dict(zip(("channel", "release", "since", "moves"), row, strict=True)) for row in rows])
    return table(("channel", "release", "since", "moves"), rows)


@app.command()
def show(
    channel: Annotated[str, typer.Argument(metavar="NAME@CHANNEL", help="`slmops release channel list`.")],
    output: Output = Form.TABLE,
) -> None:
    """Show where a channel has stood, the latest first."""
    layout = Layout(home.registry())
    which = kinds.parse(channel)
    reference = channels.resolve(layout, channel)
    moves = channels.moves(layout, which)[::-1]
    if not moves:
        raise ReleaseError(f"{which} stands for {reference}, and another tool has set it: no moves are kept")
    if output is Form.JSON:
        return emit([{"release": move.to, "digest": move.digest, "at": move.at} for move in moves])
    return table(
        ("release", "since", "digest"), [(move.to, move.at, digests.short(move.digest)) for move in moves]
    )


def now() -> str:
    """Return this moment as RFC 3339 has it, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
