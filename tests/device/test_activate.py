"""The way of a slot onto a device and back, over real processes: agent, supervisor and daemon."""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from slmops.device import activate, boots, damage, journal, service
from slmops.errors import DeviceError
from slmops.telemetry import capture
from slmops.telemetry.events import RequestFinished
from slmops.wire import Request, render_request


def answers(device, prompt="One and one?"):
    """What the device says to a question."""
    answer = device.ask("ask", prompt=prompt, timeout=30.0)
    assert answer.kind == "done", answer
    return "".join(note["text"] for note in answer.notes), answer.said["release"]


def links(device):
    places = device.places
    return [link.readlink().name if link.is_symlink() else None for link in (places.current, places.previous)]


def test_a_release_that_passes_serves_and_is_committed_when_confirmed(device, shop):
    parcel = shop.release()

    verdict = device.activate(parcel)

    assert (verdict["outcome"], verdict["code"]) == ("pass", "READY")
    assert verdict["message"] == "2 of 2 golden prompts passed"
    assert verdict["standing"]["trial"] is not None
    standing = device.get("confirm", slot=parcel.slot)["standing"]
    assert (standing["slot"], standing["trial"]) == (parcel.slot, None)
    assert links(device) == [parcel.slot, None]
    said = device.status()
    assert said["healthy"]
    assert said["release"]["reference"] == "parrot:1.0.0"
    assert said["release"]["model_bytes"] == len(parcel.files["model.gguf"])
    assert 0 == said["memory"]["mapped"] < said["memory"]["peak"]
    assert answers(device) == ("two", "parrot:1.0.0")
    assert "up as" in "\n".join(device.get("logs", lines=5)["lines"])


def test_what_fails_its_golden_prompts_goes_back_to_the_slot_before_which_answers(device, shop):
    good, bad = shop.release(), shop.release("1.1.0", answers={"One and one?": "three"})
    device.commit(good)

    verdict = device.activate(bad)

    assert (verdict["outcome"], verdict["code"]) == ("fail", "GATE_QUALITY")
    assert verdict["message"] == "2 of 2 golden prompts failed"
    assert verdict["evidence"]["failed"][0] == {
        "question": "One and one?",
        "expected": "two",
        "answer": "three",
    }
    assert verdict["standing"]["failure"]["code"] == "GATE_QUALITY"
    assert device.serves() == good.slot
    assert answers(device) == ("two", "parrot:1.0.0")
    assert links(device) == [good.slot, None]
    assert len(device.daemons()) == 1
    refusal = device.ask("confirm", slot=bad.slot)
    assert "went back (2 of 2 golden prompts failed)" in refusal.said["message"]


def test_a_classifier_is_proved_by_the_labels_it_gives_and_goes_back_when_they_differ(device, shop):
    labels = ["green", "two"]
    good = shop.release(labels=labels)
    bad = shop.release("1.1.0", labels=labels, answers={"One and one?": "two", "Colour of grass?": "two"})
    device.commit(good)
    assert answers(device) == ("two", "parrot:1.0.0")

    verdict = device.activate(bad)

    assert (verdict["outcome"], verdict["code"]) == ("fail", "GATE_QUALITY")
    expected = {"question": "Colour of grass?", "expected": "green", "answer": "two"}
    assert verdict["evidence"]["failed"] == [expected]
    assert device.serves() == good.slot
    assert answers(device, "Colour of grass?") == ("green", "parrot:1.0.0")


@pytest.mark.journey
def test_a_first_release_that_fails_leaves_the_device_empty(device, shop, until):
    verdict = device.activate(shop.release(answers={}))

    assert verdict["outcome"] == "fail"
    assert verdict["standing"]["slot"] is None
    assert links(device) == [None, None]
    until(lambda: not device.daemons())
    assert device.status()["release"] is None


def test_what_nobody_confirms_goes_back_with_nobody_watching(device, shop, until):
    good, late = shop.release(), shop.release("1.1.0")
    device.commit(good)

    assert device.activate(late, confirm_seconds=0.0)["outcome"] == "pass"

    until(lambda: device.serves() == good.slot)
    assert device.status()["standing"]["failure"]["code"] == "CONFIRM_TIMEOUT"
    assert links(device) == [good.slot, None]


@pytest.mark.journey
def test_a_daemon_that_ends_at_once_goes_back_and_its_log_is_evidence(device, shop):
    good = shop.release()
    device.commit(good)

    verdict = device.activate(shop.release("1.1.0", exit=3))

    assert (verdict["outcome"], verdict["code"]) == ("fail", "RUN_CRASHLOOP")
    assert "last with exit code 3" in verdict["message"]
    assert any("up as" in line for line in verdict["evidence"]["log"])
    assert device.serves() == good.slot


@pytest.mark.journey
def test_a_daemon_that_keeps_ending_before_its_confirmation_goes_back_alone(device, shop, until):
    good, frail = shop.release(), shop.release("1.1.0")
    device.commit(good)
    assert device.activate(frail)["outcome"] == "pass"

    def end_it():
        pid = device.daemon()
        if pid is not None and device.status()["standing"]["slot"] == frail.slot:
            os.kill(pid, signal.SIGKILL)
        return device.serves() == good.slot

    until(end_it)
    assert device.status()["standing"]["failure"]["code"] == "RUN_CRASHLOOP"


@pytest.mark.journey
def test_a_daemon_that_is_never_ready_goes_back(device, shop):
    good = shop.release()
    device.commit(good)

    verdict = device.activate(shop.release("1.1.0", silent=True), ready_seconds=1.0)

    assert (verdict["outcome"], verdict["code"]) == ("fail", "ACT_TIMEOUT")


@pytest.mark.journey
def test_what_could_not_be_asked_never_passes(device, shop):
    good = shop.release()
    device.commit(good)

    verdict = device.activate(shop.release("1.1.0", refuses=True))

    assert (verdict["outcome"], verdict["code"]) == ("inconclusive", "GATE_INCONCLUSIVE")
    assert "refused (503): out of order" in verdict["message"]
    assert device.serves() == good.slot


@pytest.mark.journey
def test_a_committed_slot_is_proved_again_and_not_moved(device, shop):
    parcel = shop.release()
    device.commit(parcel)
    before, pid = device.status()["standing"], device.daemon()

    verdict = device.activate(parcel)

    assert verdict["outcome"] == "pass"
    assert (verdict["standing"], device.daemon()) == (before, pid)


@pytest.mark.journey
def test_a_slot_that_rotted_after_it_was_staged_is_not_activated(device, shop):
    good, rotten = shop.release(), shop.release("1.1.0")
    device.commit(good)
    file = device.places.files(device.take(rotten)) / "artifact.json"
    file.chmod(0o644)
    file.write_bytes(b"rot")

    answer = device.ask("activate", slot=rotten.slot, ready_seconds=1, gate_seconds=1, confirm_seconds=1)

    assert (answer.code, answer.said["code"]) == (7, "SLM-INTEGRITY")
    assert device.serves() == good.slot


@pytest.mark.journey
def test_an_operator_takes_a_device_back_and_no_further_than_its_first_release(device, shop):
    first, second = shop.release(), shop.release("1.1.0")
    device.commit(first)
    device.commit(second)
    assert links(device) == [second.slot, first.slot]
    said = {"code": "OPERATOR", "message": "taken back", "ready_seconds": 30.0, "gate_seconds": 30.0}

    back = device.get("roll-back", slot=second.slot, **said)

    assert (back["outcome"], back["standing"]["slot"]) == ("pass", first.slot)
    assert answers(device) == ("two", "parrot:1.0.0")
    assert device.get("roll-back", slot=second.slot, **said)["code"] == "ALREADY"
    refusal = device.ask("roll-back", slot=first.slot, **said)
    assert "no slot to go back to" in refusal.said["message"]
    assert device.serves() == first.slot
    emptied = device.get("roll-back", slot=first.slot, even_to_none=True, **said)
    assert (emptied["code"], emptied["standing"]["slot"]) == ("EMPTY", None)


@pytest.mark.journey
def test_a_release_that_is_run_another_way_goes_back_to_how_it_was_run_once_for_each_rollout(box, shop):
    device = box.enroll(daemon={"seats": 4})
    first, second = shop.release(), shop.release("1.1.0")
    device.commit(first)
    device.commit(second)
    device.enroll(daemon={"seats": 9})
    device.commit(second)
    said = {"slot": second.slot, "code": "OPERATOR", "message": "taken back"}
    said |= {"ready_seconds": 30.0, "gate_seconds": 30.0}
    lease = {"epoch": 5, "holder": "ann@desk", "seconds": 60}

    def stands():
        standing = device.status()["standing"]
        return standing["slot"], standing["settings"]["daemon"]

    assert stands() == (second.slot, {"seats": 9})
    for _ in range(2):
        assert device.get("roll-back", **said, lease={**lease, "rollout": "blue"})["outcome"] == "pass"
        assert stands() == (second.slot, {"seats": 4})
    device.get("roll-back", **said, lease={**lease, "epoch": 6, "rollout": "green"})
    assert stands() == (first.slot, {"seats": 4})


@pytest.mark.journey
def test_a_rollout_takes_back_what_it_brought_and_nothing_that_another_one_did(box, shop):
    device, release = box, shop.release()
    epochs = count(5)

    def held(rollout):
        return {"rollout": rollout, "epoch": next(epochs), "holder": "ann@desk", "seconds": 60}

    for rollout, seats in (("red", 3), ("blue", 4), ("green", 9)):
        device.enroll(daemon={"seats": seats})
        lease = held(rollout)
        device.activate(release, lease=lease)
        device.get("confirm", slot=release.slot, lease=lease)
    said = {"slot": release.slot, "code": "OPERATOR", "message": "taken back", "own": True}
    said |= {"ready_seconds": 30.0, "gate_seconds": 30.0}

    def back(rollout):
        standing = (answer := device.get("roll-back", **said, lease=held(rollout)))["standing"]
        return answer["outcome"], standing["settings"]["daemon"]

    assert back("blue") == ("pass", {"seats": 9})
    assert back("green") == ("pass", {"seats": 4})
    for rollout in ("green", "blue"):
        assert back(rollout) == ("pass", {"seats": 4})


@pytest.mark.journey
def test_what_went_back_to_how_it_was_run_is_confirmed_by_nobody_who_comes_late(box, shop, until):
    device, release = box.enroll(daemon={"seats": 4}), shop.release()
    device.commit(release)
    device.enroll(daemon={"seats": 9})
    trial = device.activate(release, confirm_seconds=0.5)
    until(lambda: device.status()["standing"]["trial"] is None)

    late = device.ask("confirm", slot=release.slot, since=trial["standing"]["since"])

    assert "went back (nobody confirmed" in late.said["message"]
    again = device.activate(release)
    device.get("confirm", slot=release.slot, since=again["standing"]["since"])
    assert device.get("confirm", slot=release.slot, since=again["standing"]["since"])
    assert device.status()["standing"]["settings"]["daemon"] == {"seats": 9}


@pytest.mark.journey
def test_settings_that_cannot_be_had_go_back_also_where_the_slot_has_to_be_started_anew(box, shop, until):
    device, release = box.enroll(daemon={"capture": 0.5}), shop.release()
    device.commit(release)
    damage.remember(device.places, release.slot, "a readme has rotted", [])
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        device.enroll(daemon={}, port=taken.getsockname()[1])
        assert device.activate(release, ready_seconds=5.0)["outcome"] == "fail"

    until(lambda: device.serves() == release.slot)
    assert device.status()["standing"]["settings"]["daemon"] == {"capture": 0.5}
    assert device.status()["capture"] == 0.5


@pytest.mark.journey
def test_words_that_were_kept_go_once_nobody_wants_any_to_be_kept(box, shop):
    release = shop.release()
    device = box.enroll(daemon={"capture": 1.0})
    device.commit(release)
    file, keeping = device.places.spool / capture.FILE, capture.Capture(device.places.spool, 1.0)
    event = RequestFinished(1.0, "parrot:1.0.0", "sha256:00", 200, 7, 3, 0.1, 0.5, "current", "chat")
    assert keeping.offer(event, "abc", "what was asked", "what was said")
    keeping.close()
    device.commit(release)
    assert file.exists()

    device.enroll(daemon={})
    assert device.activate(release)["outcome"] == "pass"
    assert file.exists()
    device.get("confirm", slot=release.slot)
    assert list(device.places.spool.glob(f"{capture.FILE}*")) == []


@pytest.mark.journey
def test_confirming_keeps_the_way_back_and_removes_what_is_out_of_reach(device, shop):
    parcels = [shop.release(version) for version in ("1.0.0", "1.1.0", "1.2.0")]

    for parcel in parcels:
        device.commit(parcel)

    assert sorted(path.name for path in device.places.slots.iterdir()) == sorted(
        parcel.slot for parcel in parcels[1:]
    )


@pytest.mark.journey
def test_confirming_removes_what_a_killed_agent_left_and_nobody_writes_any_more(device, shop):
    device.commit(shop.release())
    old, young = (device.places.run / f"tmp{name}" for name in ("old", "young"))
    for path in (old, young):
        path.mkdir()
    os.utime(old, (1, 1))

    device.commit(shop.release("1.1.0"))

    assert (old.exists(), young.exists()) == (False, True)


def test_what_was_never_proved_is_not_confirmed(places):
    journal.append(places, "activated", slot="a", boot=boots.identity(), deadline=1e12)

    with pytest.raises(DeviceError):
        activate.confirm(places, "a")


@pytest.mark.journey
def test_a_reboot_ends_a_trial(device, shop, until):
    good, tried = shop.release(), shop.release("1.1.0")
    device.commit(good)
    device.end()
    device.take(tried)
    far = {"slot": tried.slot, "deadline": 1e12}
    journal.append(device.places, "activated", boot="another boot", **far)
    journal.append(device.places, "proved", boot="another boot", **far)

    with device.supervise() as supervisor:
        until(lambda: device.serves() == good.slot)
        supervisor.send_signal(signal.SIGTERM)

    failure = journal.standing(device.places).failure
    assert failure["slot"] == tried.slot
    assert not device.daemons()


@pytest.mark.journey
def test_a_power_cut_between_journal_and_links_goes_where_the_journal_says(device, shop):
    good, tried = shop.release(), shop.release("1.1.0")
    device.commit(good)
    device.take(tried)
    journal.append(device.places, "activated", slot=tried.slot, boot=boots.identity(), deadline=1e12)
    assert links(device) == [good.slot, None]

    verdict = device.activate(tried)

    assert verdict["outcome"] == "pass"
    assert links(device) == [tried.slot, good.slot]
    assert verdict["standing"]["before"]["slot"] == good.slot


@pytest.mark.journey
def test_a_daemon_that_is_killed_is_started_again(device, shop, until):
    parcel = shop.release()
    device.commit(parcel)
    pid = device.daemon()

    os.kill(pid, signal.SIGKILL)

    until(lambda: device.daemon() not in (None, pid) and device.serves() == parcel.slot)
    assert device.status()["standing"]["trial"] is None


@pytest.mark.journey
def test_a_supervisor_that_is_killed_is_replaced_by_the_next_activation(device, shop, until):
    device.commit(shop.release())
    killed = device.supervisor()
    os.kill(killed, signal.SIGKILL)
    until(lambda: device.supervisor() is None)
    assert not service.nudge(device.places)

    device.commit(shop.release("1.1.0"))

    assert device.supervisor() not in (None, killed)
    assert answers(device) == ("two", "parrot:1.1.0")


@pytest.mark.journey
def test_a_boot_removes_what_a_power_cut_left_half_made(device, shop, until):
    device.commit(shop.release())
    device.end()
    torn = device.places.root / ".new-0123456789ab"
    torn.write_bytes(b"half")

    with device.supervise() as supervisor:
        until(lambda: not torn.exists())
        supervisor.send_signal(signal.SIGTERM)


@pytest.mark.journey
def test_a_supervisor_that_takes_over_leaves_one_daemon(device, shop, until):
    device.commit(shop.release())
    os.kill(device.supervisor(), signal.SIGKILL)
    until(lambda: device.supervisor() is None)

    device.commit(shop.release("1.1.0"))

    assert len(device.daemons()) == 1


@pytest.mark.journey
def test_a_second_supervisor_leaves_the_first_alone(device, shop):
    device.commit(shop.release())
    first, daemon = device.supervisor(), device.daemon()

    with device.supervise() as second:
        assert second.wait(timeout=60) == 0

    assert (device.supervisor(), device.daemon()) == (first, daemon)


@pytest.mark.journey
def test_a_newer_agent_takes_over_and_the_daemon_lives_on(device, shop, until):
    parcel = shop.release()
    device.commit(parcel)
    supervisor, daemon = device.supervisor(), device.daemon()
    newer = device.newer_agent()

    device.ask("hello", agent=newer)

    until(lambda: device.supervised_by() == f"agent/{newer.name}")
    assert (device.supervisor(), device.daemon()) == (supervisor, daemon)
    assert device.serves() == parcel.slot
    os.kill(daemon, signal.SIGKILL)
    until(lambda: device.daemon() not in (None, daemon))
    until(lambda: device.serves() == parcel.slot)


@pytest.mark.journey
def test_the_agent_and_its_supervisor_run_on_python_3_9(box, shop):
    found = [shutil.which("python3.9"), *Path.home().glob(".pyenv/versions/3.9.*/bin/python3.9")]
    elder = next((each for each in found if each and _version(each) == "Python 3.9"), None)
    if elder is None:
        pytest.skip("no Python 3.9 here")
    box.python = str(elder)

    box.enroll().commit(shop.release())

    assert box.get("hello")["python"].startswith("3.9.")
    assert answers(box) == ("two", "parrot:1.0.0")


def _version(python):
    done = subprocess.run([python, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip().rpartition(".")[0]


def test_what_was_proved_is_committed_though_what_comes_after_cannot_be_done(device, shop):
    assert device.activate(shop.release())["outcome"] == "pass"
    (device.places.trust / "seen.json").write_text("rotten")
    (device.places.slots / ".strange").touch()

    device.get("confirm", slot=shop.release().slot)

    assert device.status()["standing"]["trial"] is None


def test_a_release_whose_operator_hangs_up_goes_back_and_says_why(device, shop):
    first, second = shop.release(), shop.release("2.0.0")
    device.commit(first)
    device.take(second)
    words = [device.python, "-I", device.agent, device.places.root, "activate"]
    said = {"slot": second.slot, "ready_seconds": 30.0, "gate_seconds": 30.0, "confirm_seconds": 60.0}
    ends = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(words, **ends) as agent:
        agent.stdout.close()
        agent.communicate(render_request(Request("activate", said)))

    standing = device.status()["standing"]
    assert (standing["slot"], standing["trial"]) == (first.slot, None)
    assert standing["failure"]["message"] == "the operator hung up before the gate was held"


@pytest.mark.journey
def test_a_retired_device_has_no_process_and_no_file_left(device, shop):
    device.commit(shop.release())
    supervisor = device.supervisor()
    assert device.daemons()

    device.get("retire")

    assert not device.daemons()
    assert not Path(f"/proc/{supervisor}/fd/0").exists()
    assert not device.places.root.exists()


@pytest.mark.journey
def test_a_daemon_starts_with_no_signal_blocked(device, shop):
    device.commit(shop.release(keeps_its_mask=True))

    status = Path(f"/proc/{device.daemon()}/status").read_text()
    assert "SigBlk:\t0000000000000000\n" in status
