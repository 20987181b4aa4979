"""A plan at the terminal: what is shown, kept and read again."""

import io
import json

import pytest
from rich.console import Console

from slmops.cli.foresee import superseded, tell_superseded
from slmops.cli.plan import read_plan, write_plan
from slmops.cli.plan_view import refused, show_plan
from slmops.cli.render import Form
from slmops.errors import DocumentError, UsageError
from slmops.rollout.history import History
from slmops.rollout.plan import Does, Known, Plan, PlannedDevice, PlannedWave, Room

WIDTH = 110
UNKNOWN = {"seconds": None, "known": Known.NOTHING}
FLOOR = {
    "device", "profile", "serves", "does", "wave", "type", "artifact", "runtime", "bytes", "sends", "reason",
}  # fmt: skip
"""Keys that scripts read from the plan of a deploy."""


def device(name, **said):
    told = {
        "device": name, "profile": "raspberry-pi-5", "target": "sha256:aa", "does": Does.DEPLOY,
        "serves": "home-commands:1.0.0", "serves_slot": "11" * 32, "type": "gguf Q4_K_M",
        "artifact": "22" * 32, "runtime": "runtime:1.0.0", "runtime_slot": "33" * 32,
        "bytes": 4_200_000_000, "sends": 999_990_000,
        "files": 6, "deltas": 2, "memory": Room.of(5, 5_000_000_005), "disk": Room.of(5, 70_000_000_005),
        "wave": 1, "wave_name": "canary", "seconds": 240.0, "known": Known.WHOLE, "reason": "", "code": None,
        "remedy": "",
    }  # fmt: skip
    return PlannedDevice(**told | said)


def wave(number=1, **said):
    told = {
        "number": number, "name": "canary", "devices": 1, "sends": 999_990_000, "seconds": 240.0,
        "known": Known.WHOLE, "soak": 60.0, "advance": "auto",
    }  # fmt: skip
    return PlannedWave(**told | said)


def plan(*devices, **said):
    told = {
        "release": "home-commands:1.1.0", "digest": "sha256:" + "ab" * 32, "fleet": "plant",
        "strategy": "sha256:cc", "selector": "", "made": "2026-01-31T12:00:00Z", "by": "ann@desk",
        "exit_code": 0, "sends": 999_990_000, "seconds": 300.0, "known": Known.WHOLE,
        "windows": False, "opens": None,
        "waves": (wave(),), "devices": devices or (device("kitchen-edge-01"),),
    }  # fmt: skip
    return Plan(**told | said)


def shown(made):
    file = io.StringIO()
    show_plan(made, Form.TABLE, on=Console(file=file, width=WIDTH, highlight=False))
    return file.getvalue()


def test_a_plan_is_shown_wave_by_wave_in_110_columns():
    waves = (wave(advance="manual"), wave(2, name="the rest", advance="manual"))
    lines = shown(plan(device("kitchen-edge-01"), waves=waves)).splitlines()

    assert lines[0].startswith("Plan: home-commands:1.1.0 (abababababab) to plant: 1 device in 2 waves, ")
    assert lines[0].endswith("999.99 MB to send, about 5 min")
    assert lines[1] == "runtime bundle runtime:1.0.0: 1 device"
    assert lines[3] == (
        "wave 1 of 2, canary: 1 device, 999.99 MB, about 4 min, then 60 s of soak; "
        "it waits for `slmops rollout promote`"
    )
    assert lines[4].split("  ")[0] == "device"
    assert lines[5].startswith(
        "kitchen-edge-01  raspberry-pi-5  1.0.0   gguf Q4_K_M  999.99 MB  2 of 6  5.00 GB "
    )
    assert lines[5].rstrip().endswith(" 70.00 GB   4 min")
    assert max(map(len, lines[4:6])) <= WIDTH
    assert lines[7].startswith("wave 2 of 2, the rest: ")
    assert "promote" not in lines[7]


def test_a_plan_says_when_the_first_window_opens():
    closed = plan(windows=True, opens="2026-02-01T03:00:00Z")

    assert ", each in its hours (the first from 03:00 UTC, in 15 h), " in shown(closed).splitlines()[0]
    assert ", each in its hours, " in shown(plan(windows=True)).splitlines()[0]


def test_what_nobody_knows_takes_no_column():
    made = plan(
        device("a", serves=None, serves_slot=None, deltas=0, memory=None, disk=None, **UNKNOWN),
        waves=(wave(**UNKNOWN),), **UNKNOWN,
    )  # fmt: skip

    text = shown(made)

    assert "device  profile         gets         sends" in text
    assert "time not known" in text
    assert not any(word in text for word in ("serves", "deltas", "RAM left", "disk left", "None"))


def test_a_time_that_is_a_bound_from_below_says_so():
    below = wave(known=Known.SENDING)
    text = shown(plan(device("a", known=Known.SENDING), waves=(below,), known=Known.SENDING))

    assert "> 4 min" in text
    assert text.count("over") == 2


def test_who_gets_nothing_is_shown_with_the_reason_and_each_remedy_once():
    out = {"wave": None, "wave_name": None, "sends": 0, **UNKNOWN}
    made = plan(
        device("a", does=Does.ALREADY, **out),
        device("b", does=Does.REFUSED, reason="needs 9 B of memory", remedy="Buy more.", **out),
        device("c", does=Does.REFUSED, reason="needs 8 B of memory", remedy="Buy more.", **out),
        device("d", does=Does.LOCKED, reason="bob@desk has it", **out),
        waves=(),
    )

    text = shown(made)

    assert "have it already (1): a" in text
    assert "needs 9 B of memory" in text
    assert "bob@desk has it" in text
    assert text.count("next  Buy more.") == 1
    assert refused(made) == "A deploy would touch nobody: b, c, d cannot take home-commands:1.1.0."


def test_devices_of_a_large_wave_that_are_alike_share_a_line():
    rooms = [Room.of(0, 1_000_000_000 + n) for n in range(100)]
    many = [device(f"edge-{n}", sends=1_000_000, memory=rooms[n]) for n in range(100)]
    text = shown(plan(*many, device("odd", serves="home-commands:0.9.0"), waves=(wave(devices=101),)))

    assert "edge-0 and 99 more  raspberry-pi-5  1.0.0   gguf Q4_K_M  100.00 MB  2 of 6  1.00 GB" in text
    assert "odd " in text
    assert "edge-7" not in text


def test_json_has_the_keys_that_scripts_read(capsys):
    show_plan(plan(), Form.JSON)

    said = json.loads(capsys.readouterr().out)
    assert said["devices"][0].keys() >= FLOOR
    assert {"release", "digest", "waves"} <= said.keys()


def test_a_plan_is_kept_and_read_again(tmp_path):
    write_plan(tmp_path / "p.json", plan())

    assert read_plan(tmp_path / "p.json") == plan()
    with pytest.raises(UsageError, match="cannot be written: Is a directory"):
        write_plan(tmp_path, plan())
    with pytest.raises(DocumentError, match="cannot be read: No such file"):
        read_plan(tmp_path / "none.json")


@pytest.mark.usefixtures("released")
def test_devices_out_of_reach_are_named_with_the_words_that_leave_them_out(slmops, tmp_path):
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("name: plant\ndevices: [{name: edge-1, host: 127.0.0.1, port: 1, profile: local}]\n")

    ended = slmops("plan", fleet, "--release", "parrot:1.0.0", "--out", tmp_path / "p.json")

    assert ended.code == 6
    assert "Connection refused" in ended.out
    assert "-l '!edge-1'" in ended.err
    assert read_plan(tmp_path / "p.json").exit_code == 6
    assert slmops("plan", fleet, "--release", "parrot:9", "-o", "json").code == 1


@pytest.mark.usefixtures("released")
def test_a_deploy_that_is_sure_to_refuse_says_what_a_plan_says_and_asks_nobody(slmops, tmp_path):
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("name: plant\ndevices: [{name: edge-1, host: 127.0.0.1, port: 1, profile: local}]\n")

    ended = slmops("deploy", fleet, "--release", "parrot:1.0.0", "-l", "edge-1|edge-2")

    assert ended.code == 6
    assert ended.err.count("A deploy would touch nobody") == 1
    assert "-l 'edge-1|edge-2,!edge-1'" in ended.err
    assert "no terminal to ask on" not in ended.err


def test_a_deploy_says_which_rollout_it_ends_and_how_to_go_on_with_that_instead(capsys, tmp_path):
    history = History(tmp_path / "rollouts.sqlite")
    for state in ("paused", "holding", "rolling", "succeeded"):
        number = history.begin("plant", "parrot:1.0.0", "sha256:00", [[], ["edge-1"]])
        history.moved(number, state, 0)

    tell_superseded(superseded(history, "plant", {"edge-1"}))
    said = capsys.readouterr().err.splitlines()

    over = "over these devices will be superseded; to go on with it instead: slmops rollout"
    assert said == [
        f"rollout 3 (parrot:1.0.0, left while rolling) {over} resume 3",
        f"rollout 2 (parrot:1.0.0, holding) {over} promote 2",
        f"rollout 1 (parrot:1.0.0, paused) {over} resume 1",
    ]
    assert superseded(history, "plant", {"edge-2"}) == superseded(history, "shop", {"edge-1"}) == []
    history.close()
