"""The lines of real processes, as they are overheard."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from slmops.daemon.overhear import Ear

FOLLOWER = "import subprocess; print(subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL).pid)"


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


async def heard(program):
    """What a process says on its standard error until it has ended, and what on its standard output."""
    ear, lines = Ear(), []
    with ear.mouth() as mouth:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program), stdout=asyncio.subprocess.PIPE, stderr=mouth
        )
    ear.listen(lines.append)
    said, _ = await process.communicate()
    await ear.close()
    return lines, said.decode()


def test_every_line_is_heard_in_order_and_one_that_is_too_long_is_told_of():
    program = "import sys; sys.stderr.write('one\\ntwo\\n' + 'x' * 200_000 + '\\nlast, without an end')"

    lines, _ = asyncio.run(heard(program))

    assert lines[:2] == ["one", "two"]
    assert set(lines[2:-1]) <= {"(a line too long to keep)"} | {line for line in lines if not line.strip("x")}
    assert lines[-1] == "last, without an end"


def test_colours_for_a_terminal_are_not_heard():
    lines, _ = asyncio.run(heard(r"import sys; sys.stderr.write('\x1b[0;93mwarned\x1b[m of [it]')"))

    assert lines == ["warned of [it]"]


def test_who_is_left_behind_with_the_pipe_holds_nobody_up():
    async def bounded():
        return await asyncio.wait_for(heard(f"import sys; print('word', file=sys.stderr); {FOLLOWER}"), 60)

    lines, follower = asyncio.run(bounded())
    os.kill(int(follower), signal.SIGKILL)

    assert lines == ["word"]


def test_who_could_not_be_started_leaves_no_descriptor_open():
    async def count():
        before = descriptors()
        try:
            with Ear().mouth() as mouth:
                await asyncio.create_subprocess_exec("/nowhere/program", stderr=mouth)
        except FileNotFoundError:
            return descriptors() - before

    assert asyncio.run(count()) == 0
