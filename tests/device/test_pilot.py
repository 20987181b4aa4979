"""What the supervisor makes of a router that says nothing."""

import os
import socket

from slmops.device.pilot import SILENCES, Pilot
from slmops.device.steer import CURRENT


def test_a_router_that_takes_every_question_and_answers_none_hangs(places, until):
    here = os.open(places.run, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"/proc/self/fd/{here}/{places.admin.name}")
        door.listen(SILENCES + 1)
        pilot = Pilot(places, silence=0.01)

        until(lambda: pilot.turn({CURRENT: "a"}, 1.0, may_act=True) or pilot.hangs)

    os.close(here)
    pilot.forget()
    assert not pilot.hangs


def test_a_router_that_does_not_listen_yet_is_asked_again_and_hangs_not(places):
    pilot = Pilot(places, silence=0.0)
    for _ in range(2 * SILENCES):
        pilot.turn({CURRENT: "a"}, 1.0, may_act=True)

    assert not pilot.hangs
    assert pilot.hurries
