"""How workers end; how they are asked is in test_serve."""

import asyncio
import time

from slmops.daemon import tend


def test_a_process_that_ends_as_it_is_killed_is_heard_to_have_ended_as_it_did():
    async def ends():
        process = await asyncio.create_subprocess_exec("true")
        until = time.perf_counter() + 0.003
        while process.returncode is None and time.perf_counter() < until:
            tend.kill(process.pid)
        return await process.wait()

    async def play():
        return {await ends() for _ in range(100)}

    assert asyncio.run(play()) <= {0, -9}
