"""Every remote command, as text for the device's shell.

Each is one `sh -c` word, so that any login shell runs it the same. Law: no value from a file or a
person reaches the shell unquoted.
"""

import shlex
from collections.abc import Sequence

NO_AGENT = 90
"""Exit code that says the agent is not on the device."""
NO_PYTHON = 91
"""Exit code that says the device has no Python 3.9 or newer."""


def agent(root: str, verb: str, tag: str | None = None) -> str:
    """Run one verb of the agent in force, or of the one called `tag`; `serve` answers many requests.

    Nothing of the device's site-packages is read: it would cost time, and is not ours.
    """
    where = place(root)
    file = f"{where}/agent.pyz" if tag is None else f"{where}/agent/{tag}.pyz"
    return _sh(
        f"test -f {file} || exit {NO_AGENT}; "
        f"command -v python3 >/dev/null || exit {NO_PYTHON}; "
        f"exec python3 -ESs {file} {where} {shlex.quote(verb)}"
    )


def glance(root: str) -> str:
    """Print the folder of what the agent keeps for itself, its bulletin, the machine's uptime and its boot.

    The bulletin is a link to memory of the agent's process; what has come to its place since, and is not
    this user's own file, is not opened. Where there is none the command fails.
    """
    return _sh(
        f"cd {place(root)}/run 2>/dev/null && test -f bulletin && test -O bulletin && pwd -P "
        "&& exec cat bulletin /proc/uptime /proc/sys/kernel/random/boot_id"
    )


def push_agent(root: str, tag: str) -> str:
    """Take an agent from standard input, `tag` being what its sha256 begins with.

    It appears whole, on disk for good, or not at all.
    """
    folder = f"{place(root)}/agent"
    fresh = f"{folder}/.{tag}.new"
    return _sh(
        f"umask 077; mkdir -p -- {folder} && cat > {fresh} "
        f'&& test "$(sha256sum < {fresh} | cut -c1-{len(tag)})" = {tag} '
        f"&& {{ sync -- {fresh} 2>/dev/null || sync; }} && mv -- {fresh} {folder}/{tag}.pyz"
    )


def lacks(runtime: Sequence[str], modules: Sequence[str]) -> str:
    """Print which Python modules the runtime lacks, on one line."""
    find = (
        "import importlib.util as u, sys; "
        # Of a package that is not there no module can be looked for.
        "there = lambda name: ('.' not in name or there(name.rpartition('.')[0])) and u.find_spec(name); "
        "print('\\nlacks:', *[name for name in sys.argv[1:] if not there(name)])"
    )
    # `exec` takes even a first word such as NAME=value or `if` for a program.
    program = place(runtime[0]) if runtime[0].startswith("~/") else f"''{shlex.quote(runtime[0])}"
    return _sh(
        " ".join(["exec", program, *(shlex.quote(word) for word in [*runtime[1:], "-c", find, *modules])])
    )


def script(root: str) -> str:
    """Run a shell script from standard input; `root` is its first argument."""
    return _sh(f"exec sh -s -- {place(root)}")


def place(path: str) -> str:
    """Return a path on the device as shell text; `~/` is the home of whoever logs in."""
    if path == "~":
        return '"$HOME"'
    if path.startswith("~/"):
        return f'"$HOME"/{shlex.quote(path[2:])}'
    return shlex.quote(f"./{path}" if path.startswith(("-", "+")) else path)


def _sh(text: str) -> str:
    return "sh -c " + shlex.quote(text)
