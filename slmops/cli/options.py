"""Arguments and options that several verbs share."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from slmops.errors import UsageError

FleetFile = Annotated[
    Path, typer.Argument(metavar="FLEET.yaml", help="The fleet file; `slmops schema fleet`.")
]
Selector = Annotated[
    str,
    typer.Option(
        "--selector",
        "-l",
        help="Only these devices: site=berlin,!edge-3 (label, group, name), or 'edge-1|edge-2'.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def verb(says: str, *, group: bool = False) -> typer.Typer:
    """Return the application of one verb, or of a group of them; its help is read as Markdown."""
    return typer.Typer(help=says, no_args_is_help=group, rich_markup_mode="markdown", add_completion=False)


def ask_first(question: str) -> None:
    """Ask, and leave when the answer is no; where there is no terminal to ask on, say what to add."""
    if not sys.stdin.isatty():
        raise UsageError(f"no terminal to ask on: {question}", remedy="Add --yes.")
    if not typer.confirm(question, err=True):
        sys.stderr.write("Nothing was changed.\n")
        raise typer.Exit(1)
