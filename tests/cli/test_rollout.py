import json
import re
import threading

import pytest
from _course import course, keep
from _fake_fleet import FakeDevice, FakeFleet

from slmops.device.lease import Asked
from slmops.fleet.inventory import Device
from slmops.fleet.strategy import Strategy
from slmops.rollout.drive import Drive
from slmops.rollout.history import History
from slmops.rollout.machine import State
from slmops.rollout.outcome import Errand


@pytest.fixture
def history(home):
    made = History(home / "rollouts.sqlite")
    yield made
    made.close()


class Driver(threading.Thread):
    """Drives a rollout over a fleet that is only thought of, and lies in its first soak until it is asked."""

    def __init__(self, home, devices=4):
        super().__init__(daemon=True)
        self.path = home / "rollouts.sqlite"
        self.devices = [Device(name=f"pump-{n}", host="127.0.0.1", profile="local") for n in range(devices)]
        self.soaks, self.outcome = threading.Event(), None

    def run(self):
        history = History(self.path)
        errand = Errand("berlin", "parrot:1.3.0", "sha256:a1", "u1", 1, "ada@workshop")
        reach = FakeFleet(
            {device.name: FakeDevice(device.name) for device in self.devices},
            "5e",
            Asked("u1", 1, "ada", 60.0),
        )
        drive = Drive(
            errand, Strategy(soak="1h"), reach, history=history, watcher=self, stop=threading.Event()
        )  # fmt: skip
        self.outcome = drive.run([reach.look(device) for device in self.devices])
        history.close()

    def rollout(self, rollout, wave):  # noqa: ARG002
        if rollout.state is State.SOAKING:
            self.soaks.set()

    def device(self, told, state):
        """See nothing."""

    def __enter__(self):
        self.start()
        assert self.soaks.wait(30)
        return self

    def __exit__(self, *_):
        self.join()


def test_the_list_says_who_rolled_what_out_and_how_it_went(slmops, history):
    keep(history, course(12))
    keep(history, course(30, sick=(20,)))

    ended = slmops("rollout", "list")

    newest, oldest = [line.split() for line in ended.out.splitlines()[1:]]
    assert newest[:7] == ["2", "berlin", "parrot:1.3.0", "went", "back", "4/4", "15/30"]
    assert oldest[:6] == ["1", "berlin", "parrot:1.3.0", "succeeded", "3/3", "12/12"]
    assert "ada@workshop" in newest


def test_the_list_as_json_has_the_counts(slmops, history):
    keep(history, course(30, sick=(20,), lost=(22,)))

    (row,) = json.loads(slmops("rollout", "list", "-o", "json").out)

    assert row["counts"] == {"devices": 30, "good": 15, "bad": 1, "unknown": 1, "left_out": 13, "left": 0}


def test_who_is_back_counts_as_good_in_a_rollback_and_not_in_a_rollout(slmops, history):
    for options in ({"left": ["parrot:2.0.0"]}, {}):
        number = history.begin("berlin", "parrot", "sha256:00", [[], ["a", "b"]], options=options)
        for device in ("a", "b"):
            history.told(number, device, "went back" if options and device == "b" else "returned")

    rollout, rollback = json.loads(slmops("rollout", "list", "-o", "json").out)

    assert (rollout["counts"]["good"], rollout["counts"]["left_out"]) == (0, 2)
    assert (rollback["counts"]["good"], rollback["counts"]["bad"]) == (1, 1)
    assert rollback["counts"]["left_out"] == 0


def test_show_has_the_waves_the_gate_and_what_a_device_answered(slmops, history):
    keep(history, course(30, sick=(20,), lost=(22,)))

    text = slmops("rollout", "show").out

    assert "rollout 1: parrot:1.3.0 to berlin, went back" in text
    assert "fail          1 bad, 1 unknown, 13 left out" in text
    assert "pump-0020 was asked  What is <b>2 + 2</b>?" in text
    assert "  answered  <script>alert('five')</script>" in text
    assert "pump-0020 log  loading model.gguf" in text
    assert "first token (before)" in text
    assert "≤ 750 ms" in text
    assert "0.9 nats fail" in text
    assert re.search(r"pump-0020  0.9 nats fail .* logprob: fail *\n", text)
    assert "5e5e5e5e5e5e" in text
    assert "next  Run it again." in text


def test_show_with_events_tells_the_whole_course(slmops, history):
    made = course(3)
    keep(history, made)

    plain, told = slmops("rollout", "show").out, slmops("rollout", "show", "--events").out
    said = json.loads(slmops("rollout", "show", "--events", "-o", "json").out)

    assert len(told.splitlines()) == len(plain.splitlines()) + 1 + len(made.events)
    assert [event["what"] for event in said["events"]] == [event.what for event in made.events]


@pytest.mark.parametrize("verb", ["show", "watch", "pause", "resume", "promote", "abort", "report"])
def test_a_rollout_that_is_not_there_is_said_to_be_none(slmops, verb):
    ended = slmops("rollout", verb, "7")

    assert ended.code == 2
    assert "there is no rollout 7" in ended.err


def test_watch_ends_at_once_when_the_rollout_has_ended(slmops, history):
    keep(history, course(30, sick=(20,)))

    ended = slmops("rollout", "watch")

    assert ended.code == 5
    assert ended.out.startswith("rollout 1: parrot:1.3.0 to berlin, went back, wave 4 of 4: 15 committed")


def test_watch_says_so_when_nobody_drives_a_rollout_any_more(slmops, history):
    keep(history, course(30, until=107))

    ended = slmops("rollout", "watch")

    assert ended.code == 6
    assert "Nobody drives rollout 1 now" in ended.err
    assert "slmops rollout resume 1" in ended.err
    assert "nobody drives it: slmops rollout resume 1" in slmops("rollout", "show").out
    listed = slmops("rollout", "list")
    assert "undriven" in listed.out
    assert "Nobody drives rollout 1: slmops rollout resume 1" in listed.err


def test_watch_as_json_tells_every_event_on_a_line(slmops, history):
    made = course(12)
    keep(history, made)

    lines = [json.loads(line) for line in slmops("rollout", "watch", "-o", "json").out.splitlines()]

    assert [(line["device"], line["what"]) for line in lines] == [(e.device, e.what) for e in made.events]


def test_pause_is_heard_by_the_driver_and_waited_for(slmops, home):
    with Driver(home) as driver:
        ended = slmops("rollout", "pause")

    assert driver.outcome.rollout.state is State.PAUSED
    assert ended.code == 6
    assert "asks: pause" in ended.out
    assert "rollout 1: parrot:1.3.0 to berlin, paused, wave 1 of " in ended.out
    assert "slmops rollout resume 1" in ended.err


@pytest.mark.parametrize(("back", "state"), [("none", "canceled"), ("wave", "returned"), ("all", "returned")])
def test_abort_is_heard_by_the_driver_and_whom_it_takes_back_goes_back(slmops, home, history, back, state):
    with Driver(home) as driver:
        ended = slmops("rollout", "abort", "--yes", "--back", back)

    states = {line.state for line in history.devices(1)}
    assert driver.outcome.rollout.state in (State.ABORTED, State.RETURNED)
    assert ended.code == 5
    assert state in states
    assert ("committed" in states) == (back == "none")


def test_abort_asks_first(slmops, history):
    keep(history, course(30, until=107))

    ended = slmops("rollout", "abort")

    assert ended.code == 2
    assert "Abort rollout 1 (parrot:1.3.0 to berlin; no device goes back)?" in ended.err


def test_who_drives_a_rollout_is_not_joined_by_another(slmops, home):
    with Driver(home):
        ended = slmops("rollout", "resume")
        shown = slmops("rollout", "show")
        slmops("rollout", "pause")

    assert ended.code == 8
    assert "driven by ada@workshop" in ended.err
    assert "driven by ada@workshop" in shown.out


def test_a_rollout_that_has_ended_is_not_gone_on_with(slmops, history):
    keep(history, course(3))

    for verb in (["pause"], ["resume"], ["promote"], ["abort", "--yes"]):
        ended = slmops("rollout", *verb)
        assert ended.code == 2
        assert "has ended: succeeded" in ended.err


def test_a_rollout_that_holds_is_promoted_and_one_that_does_not_is_resumed(slmops, history):
    number = keep(history, course(30, until=107))

    assert "slmops rollout resume 1" in slmops("rollout", "promote").err
    history.moved(number, "holding", 2)
    assert "slmops rollout promote 1" in slmops("rollout", "resume").err
    assert "slmops rollout promote 1" in slmops("rollout", "watch").err
    assert "slmops rollout promote 1" in slmops("rollout", "pause").err


def test_a_report_is_written_signed_and_holds_until_it_is_changed(slmops, history, tmp_path):
    keep(history, course(30, sick=(20,)))
    slmops("trust", "init")
    folder = tmp_path / "account"

    written = slmops("rollout", "report", "--out", folder)
    held = slmops("rollout", "report", "--verify", folder)

    assert written.out.splitlines() == [str(folder / "report.html"), str(folder / "report.json")]
    assert held.code == 0
    assert held.out.startswith("holds: rollout 1: parrot:1.3.0 to berlin, went back\nsigned by SHA256:")
    assert "a rollout key" in held.out
    assert json.loads((folder / "report.json").read_text())["audit"].startswith("sha256:")

    (folder / "report.json").write_text((folder / "report.json").read_text().replace('"bad": 1', '"bad": 0'))
    changed = slmops("rollout", "report", "--verify", folder)
    assert changed.code == 7
    assert "does not hold" in changed.err


def test_verify_takes_a_folder_alone(slmops, tmp_path):
    assert slmops("rollout", "report", "3", "--verify", tmp_path).code == 2


def test_show_says_of_a_device_that_cannot_attest_that_it_attested_nothing(slmops, history):
    number = keep(history, course(12))
    name = history.devices(number)[0].device
    history.told(number, name, "committed", "", {"attested": {"by": None}})

    shown = slmops("rollout", "show", str(number))

    assert (
        next(line for line in shown.out.splitlines() if line.split()[:1] == [name]).split().count("nothing")
    )
