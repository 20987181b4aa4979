import importlib
import json
import os
import signal
import subprocess
import sys
import zipfile

import pytest

from slmops import __version__, wire
from slmops.artifact import sign
from slmops.artifact import trust as trusts
from slmops.device import main, trust


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


@pytest.mark.parametrize("line", [b"hello\n", b"[]\n", b"\xff\xfe\n", b'{"verb": "hello"}\n'])
def test_garbage_is_refused_and_quoted(box, line):
    answer = box.feed(line)

    assert (answer.code, answer.said["code"]) == (1, "SLM-DEVICE")
    assert answer.said["message"] == f"not a request: {line!r}"


def test_another_protocol_is_refused_with_both_numbers(box):
    answer = box.feed(wire.render_request(wire.Request("status", {}, protocol=wire.PROTOCOL + 40)))

    assert answer.said["code"] == "SLM-PROTOCOL"
    assert answer.said["message"].endswith(f"{wire.PROTOCOL}, the operator {wire.PROTOCOL + 40}")
    assert (answer.said["least"], answer.said["protocol"]) == (wire.LEAST, wire.PROTOCOL)


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
    assert trust.told(device.places)["version"] == 1


def test_settings_may_change_and_the_key_stays(device):
    device.enroll(profile="other")

    assert device.places.read_config()["profile"] == "other"
    assert trust.told(device.places)["version"] == 1


def test_another_trust_document_is_refused_and_nothing_is_changed(device, tmp_path, trusting):
    sign.make_key(tmp_path / "stranger", "a stranger")
    strange = [trusts.said(trusting(tmp_path / "stranger"))]
    before = device.places.config.read_bytes()

    answer = device.ask("enroll", trust=strange, **device.places.read_config())

    assert (answer.code, answer.said["code"]) == (7, "SLM-INTEGRITY")
    assert "trusts another document 1" in answer.said["message"]
    assert "slmops device retire" in answer.said["remedy"]
    assert trust.told(device.places)["version"] == 1
    assert device.places.config.read_bytes() == before


def test_a_refusal_carries_its_own_exit_code(device, shop):
    answer = device.ask("prepare", **shop.release(arch="riscv64").said())

    assert (answer.code, answer.said["code"], answer.said["exit_code"]) == (1, "SLM-FIT", 1)


def test_a_release_comes_in_over_the_wire(device, shop):
    parcel = shop.release()

    for each in device.get("prepare", **parcel.said())["missing"]:
        said = {"slot": parcel.slot, "name": each["name"], "offset": 0, "length": each["size"]}
        answer = device.ask("receive", parcel.files[each["name"]], **said)
        assert answer.said == {"name": each["name"], "size": each["size"], "whole": True}
    assert device.get("stage", slot=parcel.slot) == {"slot": parcel.slot}

    again = device.get("prepare", **parcel.said())
    assert again == {"slot": parcel.slot, "staged": True, "missing": [], "can": {"delta": False}}
    assert device.status()["standing"]["slot"] is None, "what is staged does not serve"
    assert device.status()["held"] == sorted({blob.digest for _, blob in parcel.built.files})
    folders = [path for path in device.places.slots.rglob("*") if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


def test_a_link_that_breaks_within_a_file_says_how_far_it_came(device, shop):
    parcel = shop.release()
    device.get("prepare", **parcel.said())

    said = {"slot": parcel.slot, "name": "README.md", "offset": 0, "length": 33_000}
    answer = device.ask("receive", parcel.files["README.md"][:1000], **said)

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


def test_an_agent_that_is_told_nothing_says_how_it_is_used(device):
    done = subprocess.run([sys.executable, device.agent], capture_output=True, text=True, check=False)

    assert (done.returncode, "install FOLDER" in done.stderr) == (2, True)


def test_retiring_a_device_that_serves_nothing_removes_all_of_it(device):
    (device.places.root / ".new-0123").touch()
    (device.places.root / ".agent.new").symlink_to("agent/none")

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


def converse(box, said):
    """Say something to an agent that serves, to its end; return its replies."""
    words = [sys.executable, "-ESs", str(box.agent), str(box.places.root), "serve"]
    done = subprocess.run(words, input=said, capture_output=True, timeout=60, check=True)
    return [wire.parse_reply(text) for text in done.stdout.decode().split("\n")[:-1]]


def request(verb, **said):
    return wire.render_request(wire.Request(verb, said))


def test_one_agent_answers_one_request_after_another(device):
    replies = converse(device, request("hello") + request("dance") + request("status"))

    assert [reply.kind for reply in replies] == ["done", "failed", "done"]
    assert replies[0].said["tag"] == device.agent.stem
    assert replies[2].said["agent"] == __version__


def test_nothing_said_is_nothing_answered(device):
    assert converse(device, b"") == []


def test_raw_bytes_that_a_refusal_left_are_not_taken_for_requests(device):
    raw = request("status")
    said = request("receive", slot="0" * 64, name="model", offset=0, length=len(raw)) + raw

    replies = converse(device, said + request("hello"))

    assert [reply.kind for reply in replies] == ["failed", "done"]
    assert "tag" in replies[1].said


@pytest.mark.parametrize("line", [b"garbage\n", b'{"verb": "receive"}\n', b"{", b"\xff\n"])
def test_what_is_no_request_ends_the_conversation_since_nobody_knows_what_follows(device, line):
    replies = converse(device, line + request("hello"))

    assert [reply.kind for reply in replies] == ["failed"]


def test_a_length_that_is_none_ends_the_conversation(device):
    replies = converse(device, request("receive", length=-1) + request("hello"))

    assert [reply.kind for reply in replies] == ["failed"]


def test_every_verb_has_a_handler():
    for name in main.VERBS.values():
        module, _, function = name.partition(".")
        assert callable(getattr(importlib.import_module(f"slmops.device.{module}"), function)), name


def test_an_agent_reads_no_more_than_it_needs_to_greet(device):
    """What is slow to read on a weak device: HTTP, the supervisor, the gate."""
    words = [sys.executable, "-ESs", "-X", "importtime", str(device.agent), str(device.places.root), "serve"]
    done = subprocess.run(words, input=request("hello"), capture_output=True, timeout=60, check=True)

    read = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}
    assert "slmops.device.main" in read
    assert not read & {
        "http.client",
        "ssl",
        "slmops.device.supervise",
        "slmops.device.gate",
        "slmops.device.talk",
    }


def test_a_look_answers_where_nothing_can_be_taken_away(device):
    device.places.bulletin.unlink(missing_ok=True)
    device.places.bulletin.mkdir()

    assert device.ask("fsck").kind == "done"


READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


def test_looks_answer_on_a_disk_that_can_only_be_read(device, shop):
    device.commit(shop.release())
    root = str(device.places.root)
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", READ_ONLY, "sh", root]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may mount nothing, not even alone")
    asked = [wire.Request("status"), wire.Request("lease", {"action": "status"})]

    words = [*alone, device.python, "-I", "-S", str(device.agent), root, "serve"]
    lines = b"".join(map(wire.render_request, asked))
    done = subprocess.run(words, input=lines, capture_output=True, timeout=60, check=False)

    status, lease = [wire.parse_reply(line) for line in done.stdout.decode().split("\n")[:-1]]
    assert (status.kind, status.said["healthy"], status.said["supervised"]) == ("done", True, True), status
    assert lease.kind == "done", lease
