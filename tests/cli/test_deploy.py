"""What is written down of a fleet that was looked at: what its devices may return to is never collected."""

import json
import re
import time
from types import SimpleNamespace

import pytest

from slmops.cli import home
from slmops.cli.driving import Options, _driven, _remember
from slmops.cli.follow import Follow
from slmops.cli.outcome_view import show_outcome
from slmops.cli.render import Form
from slmops.errors import DeviceError, LockedError
from slmops.fleet.inventory import Device
from slmops.fleet.strategy import Strategy
from slmops.registry import served
from slmops.rollout.assignment import State as Assigned
from slmops.rollout.check import Finding
from slmops.rollout.history import History
from slmops.rollout.machine import Rollout, State
from slmops.rollout.order import ModelParcel
from slmops.rollout.outcome import Errand, Outcome
from slmops.rollout.told import Told

FLEET = SimpleNamespace(name="plant")
PARCEL = ModelParcel(None, "pi", "33", b"", None, {}, None)
EDGE = Device("edge", "edge")


@pytest.fixture
def remembered(tmp_path, monkeypatch):
    """Write down what a look found of a device that had said that it has 11; return what is known."""
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path))
    served.record(home.served(), 1.0, {"plant/edge": ["sha256:11"]})

    def remember(finding, **how):
        _remember(FLEET, [finding], **{"dry_run": False} | how)
        return served.read(home.served())["plant/edge"].slots

    return remember


def test_a_device_keeps_what_it_has_and_what_it_is_to_have(remembered):
    assert remembered(Finding(EDGE, PARCEL, slots=("11", "22"))) == ("sha256:11", "sha256:22", "sha256:33")


def test_a_dry_run_promises_nothing(remembered):
    assert remembered(Finding(EDGE, PARCEL, slots=("22",)), dry_run=True) == ("sha256:22",)


def test_a_device_that_does_not_take_the_release_keeps_what_it_has(remembered):
    refusal = DeviceError("it does not fit")

    assert remembered(Finding(EDGE, PARCEL, slots=("22",), refusal=refusal)) == ("sha256:22",)


def test_of_a_device_that_was_not_seen_to_the_end_what_was_known_stays(remembered):
    assert remembered(Finding(EDGE, refusal=DeviceError("its agent broke"))) == ("sha256:11",)


def ended(state, **how):
    return Outcome(Rollout(waves=1, state=state), {"edge": Assigned.LOST}, {}, 7, **how)


def test_a_channel_is_told_with_the_version_that_it_stood_for(capsys):
    show_outcome("home@stable", "home:1.2.0", ended(State.SUCCEEDED), Form.TABLE)
    show_outcome("home:1.2.0", "home:1.2.0", ended(State.SUCCEEDED), Form.TABLE)

    assert capsys.readouterr().err.splitlines() == [
        "home@stable (home:1.2.0): succeeded.",
        "home:1.2.0: succeeded.",
    ]


def test_an_end_says_what_to_do_next_and_json_why_files_went_whole(capsys):
    evidence = {
        "edge": {"sent": 9, "whole_because": ["it is rotten"], "remedy": "Go on."},
        "b": {"remedy": "Go on."},
    }

    show_outcome("a:1", "a:1", ended(State.PAUSED, evidence=evidence), Form.TABLE)
    assert capsys.readouterr().err.count("next  edge: Go on.") == 1

    show_outcome("a:1", "a:1", ended(State.PAUSED, evidence=evidence), Form.JSON)
    said = json.loads(capsys.readouterr().out)
    assert (said["whole_because"], said["next"]) == ({"edge": ["it is rotten"]}, ["Go on."])


def test_a_rollout_that_is_shown_says_what_was_sent_and_what_to_do(slmops, home):
    home.mkdir()
    history = History(home / "rollouts.sqlite")
    number = history.begin("plant", "a:1", "sha256:00", [[], ["edge", "other"]])
    said = {"sent": 2_000_000, "whole_because": ["model.gguf went whole: it is rotten"], "remedy": "Go on."}
    history.told(number, "edge", "lost", "cut", said)
    history.told(number, "other", "lost", "cut", {"remedy": "Go on."})

    shown = slmops("rollout", "show").out

    assert "2.00 MB" in shown
    assert "edge: model.gguf went whole: it is rotten" in shown
    assert shown.count("next  Go on.") == 1


def test_a_link_that_breaks_is_told_of_while_it_is_tried_again(capsys):
    with Follow() as follow:
        follow.device(Told("edge", None, "", {"step": "cut", "times": 3, "most": 8}), Assigned.SENDING)

    assert "the link broke; trying again (3 of 8)" in capsys.readouterr().err


def test_of_a_device_that_went_on_no_remedy_is_left_and_the_fleet_file_is_named(capsys):
    locked = {"remedy": LockedError.remedy}
    states = {"edge": Assigned.COMMITTED, "b": Assigned.SKIPPED, "c": Assigned.SKIPPED}
    evidence = {"edge": {"remedy": "It is tried again."}, "b": locked, "c": locked}

    at = Rollout(waves=1, state=State.PARTIAL)
    show_outcome("a:1", "a:1", Outcome(at, states, {}, 7, evidence=evidence), Form.TABLE, "shop.yaml")

    said = capsys.readouterr().err
    assert "next  b, c: Wait, or see who it is: `slmops lock status shop.yaml`" in said
    assert "next  slmops rollout catch-up shop.yaml" in said
    assert "tried again" not in said


def test_a_device_whose_window_is_closed_says_when_it_opens(capsys):
    with Follow() as follow:
        told = Told("edge", None, "", {"step": "window", "opens": time.time() + 2.9 * 3600})
        follow.device(told, Assigned.WAITING)

    assert re.search(r"edge +waits for its window, opens \d\d:\d\d UTC, in 3 h", capsys.readouterr().err)


@pytest.mark.usefixtures("home")
def test_a_second_interrupt_says_how_to_go_on(tmp_path, capsys):
    history = History(tmp_path / "rollouts.sqlite")
    errand = Errand("plant", "a:1", "sha256:00", "u", 1, "me@here")

    def interrupted():
        with _driven(Strategy(), None, errand, history, {}, Options()) as drive:
            drive.roster.number = 19
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert "next  slmops rollout resume 19, or slmops rollout abort 19" in capsys.readouterr().err
    history.close()
