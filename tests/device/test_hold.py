"""Rollouts that want one device, over the agent's real processes."""

import json
import signal
import subprocess
import time

import pytest

from slmops import wire
from slmops.device import hold
from slmops.device.places import read_json
from slmops.errors import FencedError, LockedError
from slmops.wire import Request


def lease(rollout, epoch, holder="ann@desk", seconds=60.0):
    return {"rollout": rollout, "epoch": epoch, "holder": holder, "seconds": seconds}


def held_by(device):
    return (device.get("lease", action="status")["lease"] or {}).get("holder")


def prepare(device, parcel, **said):
    return device.ask("prepare", **parcel.said(), **said)


def test_of_two_rollouts_one_has_the_device_and_the_other_is_told_who(device, shop):
    parcel = shop.release()
    assert prepare(device, parcel, lease=lease("red-rollout", 5)).kind == "done"

    answer = prepare(device, parcel, lease=lease("blue-rollout", 6, "bob@desk"))

    assert (answer.kind, answer.code, answer.said["code"]) == ("failed", 8, "SLM-LOCKED")
    assert answer.said["message"].startswith("ann@desk has this device: rollout red-roll since ")
    assert held_by(device) == "ann@desk"
    assert device.status()["lease"]["lease"]["rollout"] == "red-rollout"


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("prepare", {}),
        ("receive", {"slot": "a" * 64, "name": "x", "offset": 0, "length": 0}),
        ("activate", {"slot": "a" * 64}),
        ("confirm", {"slot": "a" * 64}),
        ("roll-back", {"slot": "a" * 64, "code": "OPERATOR", "message": ""}),
        ("gc", {}),
        ("fsck", {"repair": True}),
        ("update-self", {}),
        ("retire", {}),
    ],
)
def test_nothing_is_changed_without_a_lease_while_a_rollout_has_the_device(device, shop, verb, said):
    assert prepare(device, shop.release(), lease=lease("red", 5)).kind == "done"

    answer = device.ask(verb, **said)

    assert (answer.code, answer.said["code"]) == (8, "SLM-LOCKED")


def test_looking_is_free_while_a_rollout_has_the_device(device, shop):
    assert prepare(device, shop.release(), lease=lease("red", 5)).kind == "done"

    for verb, said in (("status", {}), ("gc", {"dry_run": True}), ("fsck", {}), ("logs", {"lines": 3}),
                       ("probe", {}), ("hello", {})):  # fmt: skip
        assert device.ask(verb, **said).kind == "done", verb


def test_a_lease_is_given_back_with_the_commit_and_with_a_failed_trial(device, shop):
    good, bad = shop.release(), shop.release("1.1.0", answers={})
    device.take(good)
    times = {"ready_seconds": 30.0, "gate_seconds": 30.0, "confirm_seconds": 60.0}

    device.get("activate", slot=good.slot, **times, lease=lease("red", 5))
    assert held_by(device) == "ann@desk"
    device.get("confirm", slot=good.slot, lease=lease("red", 5))
    assert held_by(device) is None

    device.take(bad)
    assert device.get("activate", slot=bad.slot, **times, lease=lease("blue", 6))["outcome"] == "fail"
    assert held_by(device) is None
    assert device.get("lease", action="status")["epoch"] == 6


def test_a_stale_lease_is_nobodys_and_an_older_driver_is_fenced_off_for_good(device, shop, until):
    parcel = shop.release()
    assert prepare(device, parcel, lease=lease("red", 5, seconds=0.2)).kind == "done"
    until(lambda: held_by(device) is None)

    assert prepare(device, parcel, lease=lease("blue", 6, "bob@desk")).kind == "done"
    device.get("roll-back", slot="a" * 64, code="OPERATOR", message="", lease=lease("blue", 6, "bob@desk"))

    answer = prepare(device, parcel, lease=lease("red", 5))
    assert (answer.code, answer.said["code"]) == (8, "SLM-FENCED")
    assert "epoch 5, and epoch 6 was here since" in answer.said["message"]


def test_a_resumed_driver_takes_over_from_the_one_before_at_once(device, shop):
    parcel = shop.release()
    assert prepare(device, parcel, lease=lease("red", 5)).kind == "done"

    assert prepare(device, parcel, lease=lease("red", 6, "bob@desk")).kind == "done"

    assert held_by(device) == "bob@desk"
    assert prepare(device, parcel, lease=lease("red", 5)).said["code"] == "SLM-FENCED"


def test_a_lease_that_is_broken_fences_its_holder_off_and_says_who_broke_it_and_why(device, shop):
    parcel = shop.release()
    assert prepare(device, parcel, lease=lease("red", 5)).kind == "done"

    said = device.get("lease", action="break", epoch=7, holder="eve@desk", reason="ann is on holiday")

    assert (said["lease"], said["epoch"]) == (None, 7)
    assert said["broken"]["reason"] == "ann is on holiday"
    answer = device.ask("confirm", slot=parcel.slot, lease=lease("red", 5))
    assert answer.said["code"] == "SLM-FENCED"
    assert "eve@desk took this device from rollout red" in answer.said["message"]
    assert "ann is on holiday" in answer.said["message"]
    assert prepare(device, parcel, lease=lease("blue", 7, "bob@desk")).kind == "done"


@pytest.mark.parametrize(
    "said",
    [
        {"action": "take"},
        {"action": "break", "epoch": 1, "holder": "eve", "reason": ""},
        {"action": "break", "epoch": 1, "holder": "eve"},
        {"action": "break", "epoch": "x", "holder": "eve", "reason": "why not"},
    ],
)
def test_a_lease_is_not_broken_without_saying_who_and_why(device, shop, said):
    assert prepare(device, shop.release(), lease=lease("red", 5)).kind == "done"

    assert device.ask("lease", **said).kind == "failed"
    assert held_by(device) == "ann@desk"


def test_a_lease_outlasts_its_time_while_its_verb_is_at_work_and_not_its_process(device, shop, until):
    parcel = shop.release()
    assert prepare(device, parcel).kind == "done"
    size = len(parcel.files["model.gguf"])
    said = {"slot": parcel.slot, "name": "model.gguf", "offset": 0, "length": size}
    asked = wire.render_request(Request("receive", said | {"lease": lease("red", 5, seconds=0.2)}))
    words = [device.python, "-I", "-S", str(device.agent), str(device.places.root), "serve"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        agent.stdin.write(asked + parcel.files["model.gguf"][:10])
        agent.stdin.flush()
        until(lambda: (read_json(device.places.lease) or {}).get("lease"))
        until(lambda: device.get("lease", action="status")["lease"]["until"] < time.time())

        answer = prepare(device, parcel, lease=lease("blue", 6, "bob@desk"))
        assert answer.said["code"] == "SLM-LOCKED"

        agent.send_signal(signal.SIGKILL)
    assert prepare(device, parcel, lease=lease("blue", 6, "bob@desk")).kind == "done"


def test_a_lease_that_was_broken_under_a_verb_is_not_renewed_at_its_end(places):
    said = {"lease": lease("red", 5, seconds=0.1)}
    with hold.held(places, "receive", said):
        broken = {"action": "break", "epoch": 6, "holder": "eve@desk", "reason": "why not"}
        assert hold.lease(places, broken)["lease"] is None

    assert hold.lease(places, {"action": "status"})["lease"] is None
    with pytest.raises(FencedError), hold.held(places, "receive", said):
        pass


def test_a_refusal_writes_nothing(places):
    with hold.held(places, "prepare", {"lease": lease("red", 5)}):
        pass
    before = places.lease.read_bytes()

    with pytest.raises(LockedError), hold.held(places, "prepare", {"lease": lease("blue", 6)}):
        pass
    with pytest.raises(LockedError), hold.held(places, "gc", {}):
        pass

    assert places.lease.read_bytes() == before


def test_a_verb_that_comes_soon_after_another_writes_no_lease_again(places):
    with hold.held(places, "prepare", {"lease": lease("red", 5)}):
        pass
    before = places.lease.stat()

    with hold.held(places, "receive", {"lease": lease("red", 5)}):
        pass

    assert places.lease.stat().st_ino == before.st_ino


def test_a_lease_that_rotted_is_nobodys(device, shop):
    device.places.lease.write_bytes(b'{"lease": ')

    assert prepare(device, shop.release(), lease=lease("red", 5)).kind == "done"
    assert json.loads(device.places.lease.read_bytes())["epoch"] == 5


def test_a_person_with_a_bundle_waits_for_a_rollout_that_has_the_device(device, shop, tmp_path):
    assert prepare(device, shop.release(), lease=lease("red", 5)).kind == "done"
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/bundle.json").write_text("{}")

    words = [device.python, str(device.agent), str(device.places.root), "install", str(tmp_path / "bundle")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert done.returncode == LockedError.exit_code
    assert "ann@desk has this device" in done.stdout


def test_a_lease_is_given_back_by_who_has_it_and_by_nobody_else(device, shop):
    mine = lease("red", 5)
    assert prepare(device, shop.release(), lease=mine).kind == "done"

    device.get("lease", action="return", lease=lease("blue", 6))
    assert held_by(device) == "ann@desk"
    device.get("lease", action="return", lease=mine)
    assert held_by(device) is None
    assert device.get("lease", action="status")["epoch"] == 5


def test_what_was_told_of_a_lease_is_told_by_nobody_after_it_was_given_back(places):
    with hold.held(places, "prepare", {"lease": lease("red", 5)}):
        pass
    places.bulletin.symlink_to("nothing")

    hold.lease(places, {"action": "return", "lease": lease("red", 5)})

    assert not places.bulletin.is_symlink()


def test_the_next_rollout_of_an_operator_does_not_wait_for_the_one_before_that_is_over(device, shop):
    parcel = shop.release()
    assert prepare(device, parcel, lease=lease("red", 5)).kind == "done"

    strangers = prepare(device, parcel, lease=lease("blue", 6) | {"after": ["green"]})
    own = prepare(device, parcel, lease=lease("blue", 6, "ann@lap") | {"after": ["green", "red"]})

    assert (strangers.said["code"], own.kind) == ("SLM-LOCKED", "done")
    assert held_by(device) == "ann@lap"
    assert prepare(device, parcel, lease=lease("red", 5)).said["code"] == "SLM-FENCED"


def test_a_rollout_that_is_over_is_waited_for_while_a_verb_of_it_is_at_work(places):
    with hold.held(places, "receive", {"lease": lease("red", 5)}):
        next_one = {"lease": lease("blue", 6) | {"after": ["red"]}}
        with pytest.raises(LockedError), hold.held(places, "prepare", next_one):
            pass
    with hold.held(places, "prepare", next_one):
        pass


@pytest.mark.parametrize("after", [5, ["x"] * 101, [""], [None], ["a\nb"], {"red": 1}])
def test_what_names_no_rollouts_before_it_is_refused(device, shop, after):
    answer = prepare(device, shop.release(), lease=lease("red", 5) | {"after": after})

    assert (answer.kind, answer.said["code"]) == ("failed", "SLM-DEVICE")
