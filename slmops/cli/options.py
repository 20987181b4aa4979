"""Arguments and options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

FleetFile = Annotated[
    Path, typer.Argument(metavar="FLEET.yaml", help="The fleet file; `slmops schema fleet`.")
]
Selector = Annotated[str, typer.Option("--selector", "-l", help="Only these devices: site=berlin,!canary")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def verb(says: str, *, group: bool = False) -> typer.Typer:
    """Return the application of one verb, or of a group of them; its help is read as Markdown."""
    return typer.Typer(help=says, no_args_is_help=group, rich_markup_mode="markdown", add_completion=False)
