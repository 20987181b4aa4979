"""Every remote command, run by real shells in a real directory."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slmops.fleet import commands

HOSTILE = "'; touch planted; '"
# One name in a directory: whatever a file system takes.
NAMES = st.text(
    st.sampled_from("ab-'\"\\$`;&|<>(){}[]*?!#~=% \t\n\réあ")
    | st.characters(codec="utf-8", exclude_characters="\0/"),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in {".", ".."} and name[0] not in "-+")
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
LOGIN_SHELLS = [shell for shell in ("sh", "bash", "dash", "zsh") if shutil.which(shell)]
PATH = f"{Path(sys.executable).parent}:/usr/bin:/bin"
shells = settings(max_examples=15)


def run(command, home, data=b"", shell="sh", path=PATH):
    """Run a command as sshd does: by the login shell's -c, in the home directory."""
    return subprocess.run(
        [shutil.which(shell), "-c", command],
        input=data,
        capture_output=True,
        check=False,
        cwd=home,
        env={"HOME": str(home), "PATH": path},
    )


TAG = hashlib.sha256(b"agent").hexdigest()[:12]


def there(folder):
    return [path.name for path in Path(folder).iterdir()]


@shells
@given(NAMES, st.sampled_from(LOGIN_SHELLS))
@example(HOSTILE, "sh")
@example("$(touch planted)", "sh")
def test_a_root_of_any_name_takes_the_agent_and_nothing_else_happens(name, shell):
    with TemporaryDirectory() as home:
        done = run(commands.push_agent(f"{home}/{name}", TAG), home, b"agent", shell)

        assert done.returncode == 0, done.stderr
        assert there(home) == [name]
        assert there(f"{home}/{name}/agent") == [f"{TAG}.pyz"]
        assert Path(home, name, "agent", f"{TAG}.pyz").read_bytes() == b"agent"


@shells
@given(NAMES, st.sampled_from(LOGIN_SHELLS))
@example(HOSTILE, "sh")
def test_a_bulletin_is_printed_with_where_and_when_it_was_read(name, shell):
    with TemporaryDirectory() as home:
        run_folder = Path(home, name, "run")
        run_folder.mkdir(parents=True)
        (run_folder / "bulletin").write_bytes(b"all is well\n")

        done = run(commands.glance(f"{home}/{name}"), home, shell=shell)

        assert done.returncode == 0, done.stderr
        folder, boot = os.fsencode(run_folder.resolve()), Path("/proc/sys/kernel/random/boot_id").read_bytes()
        assert done.stdout.startswith(folder + b"\nall is well\n")
        assert done.stdout.endswith(b"\n" + boot)
        assert there(home) == [name]


def test_a_device_without_a_bulletin_prints_none(tmp_path):
    assert run(commands.glance("~/nothing"), tmp_path).returncode != 0
    (tmp_path / "root/run").mkdir(parents=True)
    done = run(commands.glance("~/root"), tmp_path)
    assert done.returncode != 0
    assert done.stdout == b""


@shells
@given(NAMES, st.sampled_from(LOGIN_SHELLS))
@example(HOSTILE, "sh")
@example("$HOME", "sh")
def test_a_root_in_the_home_of_whoever_logs_in_takes_the_agent(name, shell):
    with TemporaryDirectory() as home:
        done = run(commands.push_agent(f"~/{name}", TAG), home, b"agent", shell)

        assert done.returncode == 0, done.stderr
        assert there(home) == [name]


@shells
@given(WORDS.map("/{}".format) | NAMES, st.sampled_from(LOGIN_SHELLS))
@example(HOSTILE, "sh")
@example("~root/x", "sh")
def test_a_script_is_told_its_root_as_one_word(root, shell):
    with TemporaryDirectory() as home:
        done = run(commands.script(root), home, b'printf "%s:%s" "$#" "$1"', shell)

        assert done.stdout == f"1:{root}".encode()
        assert there(home) == []


@shells
@given(st.lists(WORDS, max_size=4), st.lists(WORDS, max_size=3), st.sampled_from(LOGIN_SHELLS))
@example([HOSTILE, "$(touch planted)"], ["`touch planted`"], "sh")
def test_a_runtime_and_modules_of_any_words_are_one_word_each(words, modules, shell):
    with TemporaryDirectory() as home:
        done = run(commands.lacks(["printf", "%s\\0", *words], modules), home, shell=shell)

        told = done.stdout.decode().split("\0")[:-1]
        assert told[: len(words) + 1] == [*words, "-c"]
        assert told[len(words) + 2 :] == modules
        assert there(home) == []


@shells
@given(NAMES, st.sampled_from(LOGIN_SHELLS))
@example("a=b", "sh")
@example("if", "sh")
def test_a_runtime_may_lie_anywhere(name, shell):
    with TemporaryDirectory() as home:
        program = Path(home, name)
        program.symlink_to(shutil.which("echo"))
        done = run(commands.lacks([str(program), "said"], []), home, shell=shell)

        assert done.stdout.startswith(b"said -c "), done.stderr


@pytest.mark.parametrize("runtime", ["NAME=value", "if"])
def test_a_runtime_that_looks_like_shell_is_a_program_that_is_not_there(tmp_path, runtime):
    done = run(commands.lacks([runtime, "echo", "planted"], []), tmp_path)

    assert done.returncode == 127
    assert b"planted" not in done.stdout


@settings(max_examples=6)
@given(NAMES, WORDS)
@example(HOSTILE, HOSTILE)
def test_the_agent_is_told_its_root_and_verb_as_one_word_each(name, verb):
    with TemporaryDirectory() as home:
        root = Path(home, name)
        (root / "agent").mkdir(parents=True)
        for file in ("agent.pyz", "agent/tag.pyz"):
            (root / file).write_text("import json, sys; print(json.dumps(sys.argv))")

        for tag, file in ((None, "agent.pyz"), ("tag", "agent/tag.pyz")):
            done = run(commands.agent(f"~/{name}", verb, tag), home)
            assert json.loads(done.stdout) == [f"{root}/{file}", str(root), verb], done.stderr


def test_standard_input_reaches_the_agent(tmp_path):
    (tmp_path / "agent.pyz").write_text("import sys; sys.stdout.write(sys.stdin.read())")

    assert run(commands.agent("~", "x"), tmp_path, b"the request\nraw").stdout == b"the request\nraw"


def test_a_missing_agent_has_an_exit_code_of_its_own(tmp_path):
    for tag in (None, "0123456789ab"):
        assert run(commands.agent(str(tmp_path), "hello", tag), tmp_path).returncode == commands.NO_AGENT


def test_a_missing_python_has_an_exit_code_of_its_own(tmp_path):
    (tmp_path / "agent.pyz").write_text("")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to(shutil.which("sh"))

    done = run(commands.agent(str(tmp_path), "hello"), tmp_path, path=str(tmp_path / "bin"))

    assert done.returncode == commands.NO_PYTHON


@pytest.mark.parametrize("data", [b"", b"agen", b"agent and more", b"other"])
def test_an_agent_that_did_not_arrive_whole_never_appears(tmp_path, data):
    done = run(commands.push_agent(str(tmp_path), TAG), tmp_path, data)

    assert done.returncode != 0
    assert not (tmp_path / "agent" / f"{TAG}.pyz").exists()


def test_the_agent_is_for_its_owner_alone(tmp_path):
    run(commands.push_agent("~/root", TAG), tmp_path, b"agent")

    for path in ("root", "root/agent", f"root/agent/{TAG}.pyz"):
        assert (tmp_path / path).stat().st_mode & 0o077 == 0


def test_what_a_runtime_lacks_is_told_on_one_line(tmp_path):
    done = run(commands.lacks([sys.executable], ["json", "no_such_module", "nor_this"]), tmp_path)

    assert done.stdout == b"\nlacks: no_such_module nor_this\n"
    assert run(commands.lacks([sys.executable], ["json"]), tmp_path).stdout == b"\nlacks:\n"


@pytest.mark.parametrize("root", ["-root", "-rf"])
def test_a_root_that_looks_like_an_option_is_a_directory(tmp_path, root):
    assert run(commands.push_agent(root, TAG), tmp_path, b"agent").returncode == 0
    assert (tmp_path / root / "agent" / f"{TAG}.pyz").exists()


@pytest.mark.parametrize("root", ["-root", "+root"])
def test_a_script_is_told_a_root_that_looks_like_an_option(tmp_path, root):
    assert run(commands.script(root), tmp_path, b'printf "%s" "$1"').stdout == f"./{root}".encode()


def test_a_runtime_in_the_home_of_whoever_logs_in_is_found(tmp_path):
    (tmp_path / "echo").symlink_to(shutil.which("echo"))

    assert run(commands.lacks(["~/echo", "said"], []), tmp_path).stdout.startswith(b"said ")


@pytest.mark.parametrize(
    ("path", "text"),
    [("~", '"$HOME"'), ("~/a", '"$HOME"/a'), ("~/a b", "\"$HOME\"/'a b'"), ("/a b", "'/a b'")],
)
def test_a_place_is_quoted_but_for_the_home(path, text):
    assert commands.place(path) == text


@given(WORDS, WORDS)
def test_every_command_is_one_word_for_sh(root, verb):
    assert commands.agent(root, verb).startswith("sh -c '")


def test_a_module_whose_package_is_not_there_is_lacking_like_any_other(tmp_path):
    done = run(commands.lacks([sys.executable], ["no_such.module.deep", "json.decoder"]), tmp_path)

    assert done.stdout == b"\nlacks: no_such.module.deep\n"
