"""Print what every verb says with --help, as Markdown."""

import importlib
import os
import subprocess
import sys

import typer
from typer.core import TyperGroup

from slmops.cli.app import VERBS


def render() -> str:
    """Return the help of all verbs."""
    words: list[list[str]] = [[]] + [[verb, *part] for verb in VERBS for part in _parts(verb)]
    return "\n\n".join(f"## slmops {' '.join(each)}\n\n```text\n{_help(each)}\n```" for each in words)


def _parts(verb: str) -> list[list[str]]:
    command = typer.main.get_command(importlib.import_module(f"slmops.cli.{verb.replace('-', '_')}").app)
    return [[part] for part in command.commands] if isinstance(command, TyperGroup) else [[]]


def _help(words: list[str]) -> str:
    plain = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PATH": os.environ["PATH"]}
    code = (
        f"import sys; sys.argv = ['slmops', *{[*words, '--help']!r}]; from slmops.cli.app import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain)
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())


if __name__ == "__main__":
    print(render())
