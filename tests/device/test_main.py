import json
import os
import signal
import subprocess
import sys
import zipfile

import pytest

from slmops import __version__, wire
from slmops.artifact import sign


def test_the_agent_runs_on_the_standard_library_alone(box):
    """The agent's file is all it imports of ours, and -I -S leave it nothing else."""
    with zipfile.ZipFile(box.agent) as archive:
        names = archive.namelist()
    assert "slmops/device/main.py" in names
    assert not [name for name in names if name.startswith(("slmops/fleet", "slmops/registry", "slmops/cli"))]

    assert box.get("hello")["version"] == __version__


@pytest.mark.parametrize("verb", ["", "__init__"])
def test_an_unknown_verb_is_refused_by_name(box, verb):
    answer = box.ask(verb)

    assert (answer.code, answer.kind, answer.said["code"]) == (1, "failed", "SLM-DEVICE")
    assert f"does not know the verb {verb!r}" in answer.said["message"]


@pytest.mark.parametrize("line", [b"", b"hello\n", b"[]\n", b"\xff\xfe\n", b'{"verb": "hello"}\n'])
def test_garbage_is_refused_and_quoted(box, line):
    answer = box.feed(line)

    assert (answer.code, answer.said["code"]) == (1, "SLM-DEVICE")
    assert answer.said["message"] == f"not a request: {line!r}"


def test_another_protocol_is_refused_with_both_numbers(box):
    answer = box.feed(wire.render_request(wire.Request("hello", {}, protocol=wire.PROTOCOL + 41)))

    assert answer.said["message"] == "the agent speaks protocol 1, the operator 42"
    assert "slmops that pushed the agent" in answer.said["remedy"]


@pytest.mark.parametrize("verb", ["stage", "confirm"])
def test_a_request_that_lacks_something_is_answered(device, verb):
    assert device.ask(verb).kind == "failed"


@pytest.mark.parametrize("verb", ["prepare", "activate", "ask"])
def test_a_device_that_was_never_greeted_refuses_and_stays_as_it_was(box, verb, shop):
    before = sorted(box.places.root.iterdir())

    answer = box.ask(verb, slot="0" * 64, prompt="Hello?", **shop.release().said())

    assert (answer.code, answer.kind) == (1, "failed")
    assert sorted(box.places.root.iterdir()) == before


def test_the_first_greeting_makes_the_device_and_puts_the_agent_in_force(box):
    said = box.get("hello")

    assert said["protocol"] == wire.PROTOCOL
    assert box.places.agent_link.resolve() == box.agent
    assert box.places.slots.is_dir()


def test_a_new_device_has_no_release(device):
    said = device.status()

    assert (said["release"], said["previous"], said["healthy"], said["port"]) == (None, None, False, None)
    assert said["standing"]["slot"] is None
    assert said["daemon"] == {}
    assert said["memory"] is None
    assert said["telemetry"]["requests"] == 0


def test_a_device_learns_its_settings(device):
    settings = device.places.read_config()

    assert (settings["device"], settings["profile"], settings["service"]) == ("box", "local", "process")
    assert device.places.signers.read_text() == device.shop.signers


def test_settings_may_change_and_the_key_stays(device):
    device.enroll(profile="other")

    assert device.places.read_config()["profile"] == "other"
    assert device.places.signers.read_text() == device.shop.signers


def test_another_release_key_is_refused_and_nothing_is_changed(device, tmp_path):
    sign.make_key(tmp_path / "stranger", "a stranger")
    signers = sign.allowed_signers((tmp_path / "stranger.pub").read_text())
    before = device.places.config.read_bytes()

    answer = device.ask("enroll", signers=signers, **device.places.read_config())

    assert (answer.code, answer.said["code"]) == (7, "SLM-INTEGRITY")
    assert "trusts another release key" in answer.said["message"]
    assert "trust/allowed_signers" in answer.said["remedy"]
    assert device.places.signers.read_text() == device.shop.signers
    assert device.places.config.read_bytes() == before


def test_a_refusal_carries_its_own_exit_code(device, shop):
    answer = device.ask("prepare", **shop.release(arch="riscv64").said())

    assert (answer.code, answer.said["code"], answer.said["exit_code"]) == (1, "SLM-FIT", 1)


def test_a_release_comes_in_over_the_wire(device, shop):
    parcel = shop.release()

    for each in device.get("prepare", **parcel.said())["missing"]:
        answer = device.ask(
            "receive", parcel.files[each["name"]], slot=parcel.slot, name=each["name"], offset=0
        )
        assert answer.said == {"name": each["name"], "size": each["size"]}
    assert device.get("stage", slot=parcel.slot) == {"slot": parcel.slot}

    assert device.get("prepare", **parcel.said()) == {"slot": parcel.slot, "staged": True, "missing": []}
    assert device.status()["standing"]["slot"] is None, "what is staged does not serve"
    assert device.status()["held"] == sorted({blob.digest for _, blob in parcel.built.files})
    folders = [path for path in device.places.slots.rglob("*") if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


def test_a_link_that_breaks_within_a_file_says_how_far_it_came(device, shop):
    parcel = shop.release()
    device.get("prepare", **parcel.said())

    answer = device.ask(
        "receive", parcel.files["README.md"][:1000], slot=parcel.slot, name="README.md", offset=0
    )

    assert (answer.code, answer.said["code"]) == (1, "SLM-DEVICE")
    assert "the link ended after 1000 of" in answer.said["message"]


def test_a_slot_that_is_not_staged_is_not_activated(device):
    answer = device.ask("activate", slot="0" * 64, ready_seconds=1, gate_seconds=1, confirm_seconds=1)

    assert "slot 000000000000 is not staged" in answer.said["message"]
    assert device.status()["standing"]["slot"] is None


def test_a_device_without_a_release_has_nobody_to_ask(device):
    answer = device.ask("ask", prompt="Hello?", timeout=1.0)

    assert "has no release" in answer.said["message"]


def test_a_device_without_a_log_has_no_lines(device):
    assert device.get("logs", lines=5) == {"lines": []}


def test_an_agent_in_force_yields_to_one_that_greets(device):
    newer = device.newer_agent()

    assert device.ask("hello", agent=newer).kind == "done"

    assert device.places.agent_link.resolve() == newer


def test_retiring_a_device_that_serves_nothing_removes_all_of_it(device):
    device.get("retire")

    assert not device.places.root.exists()


def test_an_operator_who_hangs_up_while_the_agent_answers_leaves_no_trace(device):
    words = [sys.executable, "-I", str(device.agent), str(device.places.root), "status"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        agent.stdin.write(b'{"protocol": 1, ')
        agent.stdin.flush()
        os.kill(agent.pid, signal.SIGHUP)
        agent.wait(timeout=60)

    assert json.loads(device.places.config.read_bytes())["device"] == "box"
    assert device.status()["standing"]["slot"] is None
