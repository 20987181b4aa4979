"""What the admin API tells of a daemon that has seen much."""

import asyncio

import msgspec

from slmops.daemon.admin import SHOWN, Body, Office
from slmops.daemon.journal import Journal
from slmops.daemon.service import Service, Settings
from slmops.daemon.swap import Swap


def test_of_many_versions_that_failed_the_latest_are_told_and_those_with_a_label():
    async def told():
        journal = Journal()
        service = Service(Settings(), journal)
        swap = Swap(service.house, journal)
        journal.write({"kind": "loading", "digest": "sha256:old"})
        journal.write({"kind": "loaded", "digest": "sha256:old"})
        journal.write({"kind": "gated", "digest": "sha256:old", "by": "device"})
        journal.write({"kind": "promoted", "digest": "sha256:old"})
        for number in range(200):
            evidence = {"log": ["word " * 80] * 40}
            journal.write(
                {"kind": "failed", "digest": f"sha256:{number}", "why": "torn", "evidence": evidence}
            )
        status = await Office(service, swap).status(Body())
        await swap.end()
        await service.close()
        return status

    status = asyncio.run(told())

    digests = [each["digest"] for each in status["versions"]]
    assert digests == ["sha256:old", *(f"sha256:{number}" for number in range(199, 199 - SHOWN, -1))]
    # Who keeps a device reads no more than a mebibyte.
    assert len(msgspec.json.encode(status)) < 1 << 20
