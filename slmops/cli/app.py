"""The front door: which verbs there are, exit codes, and the one place that catches our errors.

`slmops --help` reads the table below and imports no verb, so that it answers at once.
"""

import importlib
import os
import signal
import sys
from typing import Any, Final, Protocol, runtime_checkable

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from slmops import __version__
from slmops.errors import MissingPartError, SlmopsError, install_line

VERBS: Final[dict[str, str]] = {
    "doctor": "Say what is missing here, with the line that installs it.",
    "profile": "Device profiles: what a device can bear.",
    "quantize": "Make a release: the best artifact each device can bear, its loss measured.",
    "distill": "Teach a smaller model what a larger one knows; then quantize it, if told.",
    "prune": "Cut layers, heads, channels or words out of a model, by what they are measured to matter.",
    "finetune": "Train a model, or a LoRA adapter for it, on your own data.",
    "adapt": "Make a release of another: the same models, and a LoRA adapter on each.",
    "merge-adapters": "Average the adapters of several sites, weighted by their samples.",
    "write-answers": "Let a teacher write answers to prompts, as data to distill from.",
    "evaluate": "Measure a model or an artifact: loss against another, tasks, speed, memory.",
    "release": "Releases in the registry: list, show, verify, compare, push, pull, keep or let go.",
    "trust": "Whose releases devices accept: init, rotate, revoke, show, sign, export, import.",
    "runtime": "Runtime bundles, what the daemon needs on a device: build, list, show.",
    "bundle": "Bundles for devices with no link: create, show.",
    "device": "One device: trust, bootstrap, probe, check, clean, read its logs, remove slmops from it.",
    "plan": "What a deploy would do to each device: bytes, head-room, wave, time; it touches nothing.",
    "deploy": "Bring a release to a fleet in waves; what fails its golden prompts goes back.",
    "status": "Which device runs which release, healthy or not, since when.",
    "telemetry": "What devices told of their requests: pull, show, export.",
    "rollback": "Go back to the release before, or to a given version.",
    "ask": "Ask a device a question; its answer streams through SSH.",
    "rollout": "Rollouts: list, show, watch, pause, resume, promote, abort, report, catch-up.",
    "lock": "Who has a device or a fleet now: status, break.",
    "audit": "What operators did, in order, in a chain that shows changes: list, verify, head.",
    "cache": "What was built before and need not be built again: list, clear.",
    "schema": "Print the JSON Schema of a profile, a fleet file or a recipe, for editors.",
    "explain": "Explain an error code and what to do about it.",
}


INTERRUPTED = 130
OF_TRAINING = ("accelerate", "httpx", "peft")
"""Packages of the extra `train`."""


@runtime_checkable
class _Shown(Protocol):
    """A usage error, which prints itself with the usage line."""

    def show(self) -> None: ...


class LazyVerbs(TyperGroup):
    """The verbs by name; a verb's file is imported when it is used."""

    asked_for_help = False

    def __init__(self, *words: Any, **said: Any) -> None:
        super().__init__(*words, **said)
        # By these typer finds which verb was meant.
        self.commands = {verb: TyperCommand(name=verb, help=help_) for verb, help_ in VERBS.items()}

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a verb; for the list of verbs, its name and help alone."""
        if cmd_name not in VERBS:
            return None
        if self.asked_for_help:
            return self.commands[cmd_name]
        try:
            module = importlib.import_module(f"slmops.cli.{cmd_name.replace('-', '_')}")
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("slmops"):
                raise
            raise MissingPartError(
                f"slmops {cmd_name} needs {error.name}, which is not installed",
                remedy=install_line("train" if error.name in OF_TRAINING else "build"),
            ) from error
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help from the table."""
        self.asked_for_help = True
        super().format_help(ctx, formatter)


app = typer.Typer(
    name="slmops",
    cls=LazyVerbs,
    help="Small language models on fleets of small devices: build for each, deploy in waves, prove on the "
    "box, go back when it fails.",
    epilog="First steps: slmops doctor; slmops profile list; slmops quantize MODEL --profile P --name N "
    "--version V; slmops deploy fleet.yaml --release N:V",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"slmops {__version__}\n")
        raise typer.Exit


@app.callback()
def _global(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Take the options that stand before a verb."""


def main() -> None:
    """Run the command line; every failure a person can meet ends here, without a traceback."""
    # Ended by a service manager or a time limit, a build cleans up as it does after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Before torch is there: threads of OpenMP that spin while they wait cost a shared machine a lot.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:
            _say_interrupted()
    except SlmopsError as error:
        code = _say(error)
    except typer.Abort:
        _say_interrupted()
        code = INTERRUPTED
    except TyperException as error:
        error.show() if isinstance(error, _Shown) else sys.stderr.write(f"{error}\n")
        code = error.exit_code
    except BrokenPipeError:
        code = 0
    except OSError as error:
        code = _say(SlmopsError(f"{error.strerror or error}: {error.filename or 'no file named'}"))
    sys.exit(code if isinstance(code, int) else 0)


def _say_interrupted() -> None:
    sys.stderr.write("Interrupted; what was finished is kept, nothing is half-written.\n")


def _say(error: SlmopsError) -> int:
    from rich.console import Console  # noqa: PLC0415 - only when there is something to say

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold red]error[/] [dim]{error.code}[/] ", end="")
    console.print(str(error), markup=False)
    if error.remedy:
        console.print("[bold]next[/]  ", end="")
        console.print(error.remedy, markup=False)
    return error.exit_code


if __name__ == "__main__":
    main()
