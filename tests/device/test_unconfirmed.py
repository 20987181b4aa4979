"""A trial whose operator, agent or daemon is gone: the device decides alone, once, and says why."""

import os
import signal
import subprocess
import time

import pytest

from slmops.device import activate, boots, journal, quarantine, supervise
from slmops.device.places import read_json
from slmops.errors import DeviceError
from slmops.wire import Request, parse_reply, render_request

TIMES = {"ready_seconds": 2.0, "gate_seconds": 1.0, "confirm_seconds": 60.0}


def agent(device, *requests):
    """The device's own agent in a process, told these requests; nobody waits for its answers."""
    words = [device.python, "-I", "-S", str(device.agent), str(device.places.root), "serve"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(b"".join(render_request(Request(verb, said)) for verb, said in requests))
    process.stdin.flush()
    return process


def kill(process):
    process.kill()
    process.communicate()


def kinds(device):
    return [record["kind"] for record in journal.read(device.places.journal)]


def failure(device):
    """What the device says of why it went back last."""
    return device.status()["standing"]["failure"]


def test_an_agent_that_is_killed_before_there_is_a_verdict_leaves_a_device_that_goes_back_alone(
    device, shop, until
):
    good, silent = shop.release(), shop.release("1.1.0", silent=True)
    device.commit(good)
    device.take(silent)

    trying = agent(device, ("activate", {"slot": silent.slot, **TIMES}))
    until(lambda: kinds(device)[-1] == "activated" and device.daemon())
    kill(trying)

    until(lambda: device.serves() == good.slot)
    assert kinds(device)[-2:] == ["activated", "rolled_back"]
    assert failure(device)["code"] == "CONFIRM_TIMEOUT"
    assert any("up as" in line for line in failure(device)["evidence"]["log"])
    assert quarantine.cases(journal.read(device.places.journal)) == {}


def test_an_agent_that_is_killed_after_the_proof_leaves_a_device_that_goes_back_alone(device, shop, until):
    good, passing = shop.release(), shop.release("1.1.0")
    device.commit(good)
    device.take(passing)

    trying = agent(device, ("activate", {"slot": passing.slot, **TIMES, "confirm_seconds": 1.0}))
    until(lambda: "proved" in kinds(device)[3:])
    kill(trying)

    until(lambda: device.serves() == good.slot)
    assert (failure(device)["slot"], failure(device)["code"]) == (passing.slot, "CONFIRM_TIMEOUT")
    assert quarantine.cases(journal.read(device.places.journal))[passing.slot].failures == 1


@pytest.mark.journey
def test_a_daemon_that_crashes_with_agent_and_operator_gone_goes_back_and_its_last_words_stay(
    device, shop, until
):
    good, frail = shop.release(), shop.release("1.1.0", exit=3)
    device.commit(good)
    device.take(frail)

    trying = agent(device, ("activate", {"slot": frail.slot, **TIMES, "ready_seconds": 60.0}))
    until(lambda: kinds(device)[-1] == "activated")
    kill(trying)
    until(lambda: device.serves() == good.slot)
    os.kill(device.supervisor(), signal.SIGKILL)
    until(lambda: device.supervisor() is None)

    assert failure(device)["code"] == "RUN_CRASHLOOP"
    assert failure(device)["evidence"]["last_exit"] == 3
    assert any("up as" in line for line in failure(device)["evidence"]["log"])
    assert quarantine.cases(journal.read(device.places.journal))[frail.slot].failures == 1


def test_what_went_back_is_not_confirmed_by_an_operator_who_comes_late(device, shop, until):
    good, late = shop.release(), shop.release("1.1.0")
    device.commit(good)
    device.activate(late, confirm_seconds=0.0)
    until(lambda: device.serves() == good.slot)

    answer = device.ask("confirm", slot=late.slot)

    assert (
        "serves no more: the device went back (nobody confirmed the release in time)"
        in (answer.said["message"])
    )
    assert device.serves() == good.slot


@pytest.mark.journey
def test_a_confirmation_at_the_edge_of_its_time_is_decided_once_and_both_sides_agree(device, shop, until):
    good, late = shop.release(), shop.release("1.1.0")
    device.commit(good)
    slot = device.take(late)
    for early in (0.0, 0.05, 0.1, 0.2):
        times = {"ready_seconds": 30.0, "gate_seconds": 30.0, "confirm_seconds": 0.5}
        with agent(device, ("activate", {"slot": slot, **times})) as trying:
            while (answer := parse_reply(trying.stdout.readline().decode())).kind == "note":
                pass
            assert answer.said["outcome"] == "pass", answer
            deadline = answer.said["standing"]["trial"]["deadline"]
            until(lambda: time.monotonic() >= deadline - early)  # noqa: B023 - it is called here alone
            trying.stdin.write(render_request(Request("confirm", {"slot": slot})))
            trying.stdin.close()
            said = parse_reply(trying.stdout.readline().decode())

        kept = late.slot if said.kind == "done" else good.slot
        until(lambda: device.serves() == kept)  # noqa: B023 - as above
        assert device.status()["standing"]["trial"] is None
        # Whoever was refused is not confirmed later, and what was committed is not taken back.
        assert (kinds(device)[-1] == "confirmed") == (said.kind == "done")
        if said.kind == "done":
            device.get("roll-back", slot=slot, code="OPERATOR", message="again", **TIMES)


def test_a_supervisor_that_saw_a_trial_expire_lets_the_confirmation_stand_that_came_first(places):
    for folder, slot in ((places.slots, "a"), (places.slots, "b")):
        (folder / slot).mkdir()
    for slot in "ab":
        for kind in ("activated", "proved"):
            journal.append(places, kind, slot=slot, boot=boots.identity(), deadline=0.0)
        if slot == "a":
            journal.append(places, "confirmed", slot=slot)
    watch = supervise._Watch(places)
    seen = watch._standing()
    journal.append(places, "confirmed", slot="b")

    watch._judge(seen)

    standing = journal.standing(places)
    assert (standing.slot, standing.trial) == ("b", None)


def test_a_trial_that_has_had_its_time_is_not_confirmed_though_nobody_ended_it_yet(places):
    for kind in ("activated", "proved"):
        journal.append(places, kind, slot="a", boot=boots.identity(), deadline=time.monotonic())

    with pytest.raises(DeviceError, match="the trial has had its time"):
        activate.confirm(places, "a")

    assert read_json(places.committed) is None
