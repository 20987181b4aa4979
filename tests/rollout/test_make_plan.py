"""What is planned of what a look has shown."""

import time
from types import SimpleNamespace

import pytest

from slmops.artifact.manifest import Artifact, Blob
from slmops.errors import (
    DeviceError,
    DoesNotFitError,
    IntegrityError,
    LockedError,
    UnreachableError,
)
from slmops.fleet.inventory import Fleet
from slmops.profile.reading import DeviceFacts
from slmops.registry.deltas import Delta
from slmops.rollout.check import Finding
from slmops.rollout.estimate import Past
from slmops.rollout.history import History
from slmops.rollout.make_plan import Asked, make, pasts_of
from slmops.rollout.order import ModelParcel, RuntimeParcel
from slmops.rollout.plan import Does, Known, Room, parse, render

MODEL, WORDS = Blob("weights", "sha256:aa", 400_000), Blob("weights", "sha256:bb", 100_000)
BUILT = Artifact(Blob("config", "sha256:cc", 100), (("model.gguf", MODEL), ("tokenizer.json", WORDS)))
SAID = SimpleNamespace(format="gguf", type="Q8_0", memory_bytes=1000)
PARCEL = ModelParcel(None, "pi", "22" * 32, b"", BUILT, {}, SAID)
WHEELS = Artifact(Blob("config", "sha256:dd", 100), (("numpy.whl", Blob("code", "sha256:ee", 9_000)),))
RUNTIME = RuntimeParcel(
    None, "aarch64-cp311", "33" * 32, b"", WHEELS, {}, SimpleNamespace(reference="runtime:1")
)
ORDER = SimpleNamespace(
    signed=SimpleNamespace(
        release=SimpleNamespace(reference="home:1.1.0"), blob=Blob("index", "sha256:ff", 9)
    )
)


def fleet(count=4, **rollout):
    devices = [{"name": f"edge-{n}", "host": f"edge-{n}", "profile": "pi"} for n in range(1, count + 1)]
    return Fleet.model_validate({"name": "plant", "devices": devices, "rollout": {"canary": 1} | rollout})


FLEET = fleet()
EDGES = FLEET.resolved()


def planned(*findings, of=FLEET, offers=None, pasts=(), selector=""):
    return make(Asked(of, selector, "ann@desk"), ORDER, findings, offers=offers or {}, pasts=pasts)


def goes(device, **said):
    return Finding(device, PARCEL, **said)


def test_a_plan_says_what_each_device_gets_and_what_is_left_of_its_room():
    facts = DeviceFacts(memory_total=9000, memory_available=4000, disk_free=2_000_000)
    found = goes(
        EDGES[0], serves="home:1.0.0", slots=("11",), facts=facts, disk_bytes=500_000, runtime=RUNTIME
    )

    made = planned(found)
    (device,) = made.devices

    assert (device.does, device.serves, device.serves_slot) == (Does.DEPLOY, "home:1.0.0", "11")
    assert (device.type, device.artifact, device.bytes) == ("gguf Q8_0", "22" * 32, 500_000)
    assert (device.runtime, device.runtime_slot) == ("runtime:1", "33" * 32)
    assert (device.sends, device.files, device.deltas) == (509_000, 3, 0)
    assert device.memory == Room(needed=1000, there=4000, head_room=3000)
    assert device.disk == Room(needed=500_000, there=2_000_000, head_room=1_500_000)
    assert (made.release, made.digest, made.fleet, made.by) == (
        "home:1.1.0",
        "sha256:ff",
        "plant",
        "ann@desk",
    )
    assert parse(render(made)) == made


def test_files_that_go_as_what_they_differ_by_are_counted():
    delta = Delta("sha256:00", "sha256:aa", None, "sha256:01", 5_000)

    (device,) = planned(goes(EDGES[0], held=frozenset({"sha256:00"})), offers={"sha256:aa": [delta]}).devices

    assert (device.sends, device.files, device.deltas) == (105_000, 2, 1)


def test_those_that_get_the_release_are_in_waves_and_no_others():
    current = Finding(EDGES[1], PARCEL, current=True, serves="home:1.1.0", slots=("22" * 32,))
    lost = Finding(EDGES[2], unreachable=UnreachableError("edge-3 is unreachable: no route"))

    made = planned(goes(EDGES[0]), current, lost, goes(EDGES[3]))

    assert [each.does.value for each in made.devices] == ["deploy", "already", "unreachable", "deploy"]
    assert [each.wave for each in made.devices] == [1, None, None, 2]
    assert [(wave.number, wave.name, wave.devices, wave.sends) for wave in made.waves] == [
        (1, "canary", 1, 500_000),
        (2, "100%", 1, 500_000),
    ]
    assert made.devices[2].reason == "no route"
    assert made.sends == 1_000_000


@pytest.mark.parametrize(
    ("errors", "does", "exit_code"),
    [
        ([DoesNotFitError("edge-1: needs more")], "refused", 1),
        ([DeviceError("edge-1: broke"), IntegrityError("edge-2: spoiled")], "refused", 7),
        ([LockedError("edge-1: bob@desk has it")], "locked", 8),
    ],
)
def test_a_plan_ends_as_a_deploy_would(errors, does, exit_code):
    made = planned(*(Finding(EDGES[n], PARCEL, refusal=error) for n, error in enumerate(errors)))

    assert made.exit_code == exit_code
    assert made.devices[0].does.value == does
    assert (made.devices[0].code, made.devices[0].remedy) == (errors[0].code, errors[0].remedy)
    assert not made.devices[0].reason.startswith("edge-1")


def test_a_device_in_quarantine_is_left_out_with_the_way_on():
    made = planned(Finding(EDGES[0], PARCEL, quarantined="it failed here 3 times"), goes(EDGES[1]))

    (device, _) = made.devices
    assert (device.does, device.reason) == (Does.QUARANTINED, "it failed here 3 times")
    assert (device.sends, device.wave, device.code) == (0, None, "SLM-QUARANTINED")
    assert "slmops device forgive" in device.remedy
    assert made.exit_code == 0


def test_more_out_of_reach_than_is_allowed_is_refused_and_fewer_are_left_out():
    lost = Finding(EDGES[1], unreachable=UnreachableError("edge-2 is unreachable: gone"))

    assert planned(goes(EDGES[0]), lost).exit_code == 6
    assert planned(goes(EDGES[0]), lost, of=fleet(max_unreachable=1)).exit_code == 0


def test_the_time_is_that_of_rollouts_before_with_every_soak():
    past = Past("pi", 500_000, sending=5.0, work=5.0)
    all_of_them = [goes(device) for device in EDGES]

    of = fleet(canary=1, waves=["100%"], soak="1m", max_unavailable={"by": "site", "most": 1})
    made = planned(*all_of_them, of=of, pasts=[past])
    one_by_one = planned(*all_of_them, of=fleet(waves=["100%"], max_parallel=1, soak=0), pasts=[past])
    unmeasured = planned(*all_of_them, of=of)

    assert [each.seconds for each in made.devices] == [10.0] * 4
    assert [each.seconds for each in made.waves] == [10.0, 10.0]
    assert (made.seconds, made.known) == (140.0, Known.WHOLE)
    assert one_by_one.seconds == 40.0
    assert (unmeasured.seconds, unmeasured.known) == (None, Known.NOTHING)


def test_a_site_that_must_stay_up_takes_its_turns():
    past = Past("pi", 500_000, sending=5.0, work=5.0)
    of = Fleet.model_validate(
        {
            "name": "plant",
            "groups": {"berlin": {"labels": {"site": "berlin"}}},
            "devices": [{"name": "edge-[1:4]", "host": "edge-[1:4]", "profile": "pi", "groups": ["berlin"]}],
            "rollout": {"canary": "100%", "soak": 0, "max_unavailable": {"by": "site", "most": "25%"}},
        }
    )

    assert planned(*map(goes, of.resolved()), of=of, pasts=[past]).seconds == 40.0


def test_how_an_operator_comes_to_a_device_makes_it_no_other_device():
    def target(**said):
        entry = {"name": "edge-1", "host": "edge-1", "profile": "pi"} | said
        of = Fleet.model_validate({"name": "plant", "devices": [entry]})
        return planned(goes(of.resolved()[0]), of=of).devices[0].target

    assert target() == target(identity="id", known_hosts="hosts", connect_timeout=3)
    assert target() != target(host="other")
    assert target() != target(labels={"site": "berlin"})


def test_what_a_device_said_that_is_no_text_does_not_spoil_the_plan():
    broken = Finding(EDGES[0], refusal=DeviceError("edge-1: \ud800"), serves="\ud800", slots=("11",))

    made = planned(broken)

    assert parse(render(made)) == made
    assert made.devices[0].reason == "?"


def test_history_tells_what_devices_of_this_fleet_took(tmp_path):
    history = History(tmp_path / "rollouts.sqlite")
    number = history.begin("plant", "home:1.0.0", "sha256:00", [[], ["edge-1", "edge-2", "edge-3", "gone"]])
    other = history.begin("shop", "home:1.0.0", "sha256:00", [[], ["edge-1"]])

    def goes_through(rollout, name, *states):
        for state in states:
            history.told(rollout, name, state, "", {"sent": 9})

    whole = ("sending", "staged", "trial", "proved", "committed")
    goes_through(number, "edge-1", *whole)
    goes_through(number, "edge-2", *whole[:3], "went back")
    goes_through(number, "edge-3", *whole[2:])
    goes_through(number, "gone", *whole)
    goes_through(other, "edge-1", *whole)
    (line, *_) = history.devices(number)
    entered = line.entered

    (past,) = pasts_of(history, "plant", EDGES)

    assert past == Past(
        "pi", 9, entered["staged"] - entered["sending"], entered["committed"] - entered["trial"]
    )
    history.close()


def test_a_clock_that_was_set_back_measures_nothing(tmp_path):
    history = History(tmp_path / "rollouts.sqlite")
    number = history.begin("plant", "home:1.0.0", "sha256:00", [[], ["edge-1"]])
    for state in ("trial", "sending", "staged", "proved", "committed"):
        history.told(number, "edge-1", state)

    assert pasts_of(history, "plant", EDGES) == []
    history.close()


def test_rollouts_that_failed_do_not_make_earlier_good_ones_forgotten(tmp_path):
    history = History(tmp_path / "rollouts.sqlite")
    whole = ("sending", "staged", "trial", "proved", "committed")
    for ends in (whole, *(("sending", "failed"),) * 7):
        number = history.begin("plant", "home:1.0.0", "sha256:00", [[], ["edge-1"]])
        for state in ends:
            history.told(number, "edge-1", state)

    assert len(pasts_of(history, "plant", EDGES)) == 1
    history.close()


def test_a_plan_says_when_the_first_window_opens_unless_one_is_open():
    always = [{"from": "00:00", "to": "24:00"}]
    hour = time.gmtime().tm_hour
    later = [{"from": f"{(hour + 3) % 24:02}:00", "to": f"{(hour + 4) % 24:02}:00"}]

    closed, there = (planned(goes(EDGES[0]), of=fleet(windows=windows)) for windows in (later, always))

    assert there.opens is None
    assert closed.opens.endswith(f"T{(hour + 3) % 24:02}:00:00Z")
    assert closed.made < closed.opens
