"""slmops ask: a question for one device."""

import sys
from typing import Annotated, Any

import typer

from slmops.cli import home
from slmops.cli.options import FleetFile, verb
from slmops.cli.render import Form, Output, emit
from slmops.fleet import agent
from slmops.fleet.load import find, load_fleet
from slmops.fleet.ssh import Link

SLACK = 15.0
"""Seconds over the device's own limit: its error says more than a silent link."""
app = verb("Ask a device a question; its answer streams through SSH.")


@app.command()
def ask(
    fleet: FleetFile,
    device: Annotated[str, typer.Argument(help="The device's name in the fleet file.")],
    prompt: Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.")],
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.", min=1)] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", min=0.0, max=2.0)] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text; no chat template.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds the model may be silent.", min=1.0)] = 300.0,
    output: Output = Form.TABLE,
) -> None:
    """Ask a device a question; its answer streams through SSH.

    A model with a chat template gets the prompt as a user's message, any other continues it as text;
    a classifier answers with the text's label.
    """
    _, devices = load_fleet(fleet)
    text = sys.stdin.read() if prompt == "-" else prompt
    said: dict[str, Any] = {
        "prompt": text,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    pieces: list[str] = []

    def hear(note: dict[str, Any]) -> None:
        pieces.append(note["text"])
        if output is Form.TABLE:
            sys.stdout.write(note["text"])
            sys.stdout.flush()

    with Link(find(devices, device), home.known_hosts()) as link:
        said |= {"raw": raw, "timeout": timeout}
        answer = agent.call(link, "ask", said, note=hear, silence=timeout + SLACK)
    if output is Form.JSON:
        emit({"device": device, "release": answer["release"], "answer": "".join(pieces)})
    else:
        sys.stdout.write("\n")
