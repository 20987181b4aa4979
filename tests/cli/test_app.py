import importlib
import subprocess
import sys

import pytest
import typer

from slmops import __version__
from slmops.cli.app import VERBS

HEAVY = ["torch", "transformers", "llama_cpp", "onnxruntime", "optimum", "gguf", "paramiko", "numpy"]
SEEN = """
import atexit, sys
from slmops.cli.app import main
atexit.register(lambda: print("imported:", *sorted({name.split(".")[0] for name in sys.modules})))
sys.argv = ["slmops", *sys.argv[1:]]
main()
"""


def module_of(verb):
    return importlib.import_module(f"slmops.cli.{verb.replace('-', '_')}")


def paths(command, path=()):
    """Return the words of a command and of every command under it."""
    below = getattr(command, "commands", {})
    return [path, *(each for name, under in below.items() for each in paths(under, (*path, name)))]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_says_of_itself_what_the_table_says(verb):
    assert module_of(verb).app.info.help == VERBS[verb]


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_a_help_that_teaches(slmops, verb):
    for path in paths(typer.main.get_command(module_of(verb).app)):
        for word in ("--help", "-h"):
            ended = slmops(verb, *path, word)

            assert (ended.code, ended.err) == (0, "")
            assert " ".join(["slmops", verb, *path]) in ended.out


def test_every_option_of_every_command_says_what_it_is_for():
    silent = [
        (verb, *path, parameter.name)
        for verb in VERBS
        for path in paths(typer.main.get_command(module_of(verb).app))
        for parameter in _command(verb, path).params
        if not (getattr(parameter, "help", None) or parameter.name == "help")
    ]

    assert silent == []


def _command(verb, path):
    command = typer.main.get_command(module_of(verb).app)
    for name in path:
        command = command.commands[name]
    return command


@pytest.mark.parametrize("words", [["--help"], ["fly"]])
def test_the_front_door_imports_nothing_heavy(words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SEEN, *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )

    imported = done.stdout.rpartition("imported:")[2].split()
    assert "slmops" in imported
    assert not set(imported) & set(HEAVY)


def test_the_list_of_verbs_is_the_table(slmops):
    ended = slmops("--help")

    assert ended.code == 0
    lines = [line.strip("│ ") for line in ended.out.splitlines()]
    for verb, said in VERBS.items():
        assert any(line.split(maxsplit=1) == [verb, said] for line in lines if line.startswith(verb))


def test_an_unknown_verb_is_a_usage_error_that_names_it(slmops):
    ended = slmops("fly")

    assert (ended.code, ended.out) == (2, "")
    assert "No such command 'fly'" in ended.err


def test_a_verb_that_was_nearly_typed_is_named(slmops):
    assert "Did you mean 'deploy'" in slmops("deploi").err


def test_a_fleet_file_that_is_not_there_is_said_to_be_that(slmops):
    ended = slmops("status", "/nowhere/fleet.yaml")

    assert ended.code == 2
    assert "/nowhere/fleet.yaml: no such file" in ended.err
    assert "schema" not in ended.err


@pytest.mark.parametrize(
    "words",
    [["deploy"], ["ask", "fleet.yaml"], ["release", "show"]],
)
def test_a_command_that_lacks_something_is_a_usage_error_that_names_it(slmops, words):
    ended = slmops(*words)

    assert (ended.code, ended.out) == (2, "")
    assert "Missing" in ended.err


def test_no_words_at_all_print_the_help(slmops):
    ended = slmops()

    assert ended.code == 2
    assert "quantize" in ended.out + ended.err


def test_the_version_is_printed(slmops):
    assert slmops("--version").out == f"slmops {__version__}\n"
