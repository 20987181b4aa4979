"""What a plan keeps, and what makes the world another one than it found."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.errors import DocumentError
from slmops.rollout.plan import (
    Does,
    Known,
    MovedError,
    Plan,
    PlannedDevice,
    PlannedWave,
    Room,
    differences,
    parse,
    render,
    require_same,
)

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
MAYBE = st.none() | WORDS
COUNTS = st.integers(0, 1 << 70)
SECONDS = st.none() | st.floats(0, 1e9)
ROOMS = st.none() | st.builds(Room.of, COUNTS, COUNTS)
KNOWN, DOES = st.sampled_from(Known), st.sampled_from(Does)
DEVICES = st.builds(
    PlannedDevice, device=WORDS, profile=MAYBE, target=WORDS, does=DOES, serves=MAYBE, serves_slot=MAYBE,
    type=MAYBE, artifact=MAYBE, runtime=MAYBE, runtime_slot=MAYBE, bytes=st.none() | COUNTS, sends=COUNTS,
    files=COUNTS, deltas=COUNTS, memory=ROOMS, disk=ROOMS, wave=st.none() | COUNTS, wave_name=MAYBE,
    seconds=SECONDS, known=KNOWN, reason=WORDS, code=MAYBE, remedy=WORDS,
)  # fmt: skip
WAVES = st.builds(
    PlannedWave, number=COUNTS, name=WORDS, devices=COUNTS, sends=COUNTS, seconds=SECONDS, known=KNOWN,
    soak=st.floats(0, 1e9), advance=WORDS,
)  # fmt: skip
PLANS = st.builds(
    Plan, release=WORDS, digest=WORDS, fleet=WORDS, strategy=WORDS, selector=WORDS, made=WORDS, by=WORDS,
    exit_code=COUNTS, sends=COUNTS, seconds=SECONDS, known=KNOWN, windows=st.booleans(), opens=MAYBE,
    waves=st.lists(WAVES, max_size=3).map(tuple),
    devices=st.lists(DEVICES, max_size=3, unique_by=lambda each: each.device).map(tuple),
)  # fmt: skip


def device(name="edge-1", **said):
    slot = "11" * 32
    told = {
        "device": name, "profile": "pi", "target": "sha256:aa", "does": Does.DEPLOY, "serves": "home:1.0.0",
        "serves_slot": slot, "type": "gguf Q8_0", "artifact": "22" * 32, "runtime": None,
        "runtime_slot": None, "bytes": 10, "sends": 10, "files": 1, "deltas": 0,
        "memory": Room.of(5, 9), "disk": Room.of(5, 9), "wave": 1, "wave_name": "canary", "seconds": None,
        "known": Known.NOTHING, "reason": "", "code": None, "remedy": "",
    }  # fmt: skip
    return PlannedDevice(**told | said)


def plan(*devices, **said):
    told = {
        "release": "home:1.1.0", "digest": "sha256:" + "ab" * 32, "fleet": "plant", "strategy": "sha256:cc",
        "selector": "", "made": "2026-01-31T12:00:00Z", "by": "ann@desk", "exit_code": 0, "sends": 10,
        "seconds": None, "known": Known.NOTHING, "windows": False, "opens": None, "waves": (),
        "devices": devices or (device(),),
    }  # fmt: skip
    return Plan(**told | said)


@given(PLANS)
def test_a_plan_comes_out_of_its_file_as_it_went_in(made):
    assert parse(render(made)) == made


@given(st.binary(max_size=200))
def test_no_bytes_are_taken_for_a_plan_that_are_none(data):
    with pytest.raises(DocumentError, match="is not a plan"):
        parse(data)


@given(PLANS, st.data())
def test_a_plan_that_was_spoiled_is_refused_or_is_another_plan_as_slmops_writes_it(made, data):
    whole = render(made)
    at = data.draw(st.integers(0, len(whole) - 1))
    spoiled = whole[:at] + data.draw(st.binary(max_size=2)) + whole[at + 1 :]
    with contextlib.suppress(DocumentError):
        assert render(parse(spoiled)) == spoiled


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda said: said.pop("fleet"), "fleet: missing key"),
        (lambda said: said.update(more=1), "more: unknown key"),
        (lambda said: said.update(kind="slmops-plan/2"), "kind: expected 'slmops-plan/1'"),
        (lambda said: said["devices"][0].update(sends=True), "devices.0.sends"),
        (lambda said: said["devices"][0].update(does="dance"), "devices.0.does"),
        (lambda said: said["devices"].append(said["devices"][0]), "a device stands here twice"),
    ],
)
def test_what_is_wrong_in_a_plan_is_named(change, says):
    said = json.loads(render(plan()))
    change(said)

    with pytest.raises(DocumentError, match=says) as refused:
        parse(json.dumps(said).encode(), "p.json")

    assert str(refused.value).startswith("p.json is not a plan")
    assert "slmops plan" in refused.value.remedy


def test_a_plan_that_somebody_formatted_anew_is_not_the_one_that_was_kept():
    with pytest.raises(DocumentError, match="not as slmops wrote it"):
        parse(json.dumps(json.loads(render(plan()))).encode())


@given(PLANS)
def test_nothing_differs_from_itself(made):
    assert differences(made, made) == []


def test_bytes_seconds_and_free_room_are_no_difference():
    later = device(
        sends=1, deltas=1, files=2, bytes=11, memory=Room.of(5, 6), disk=None, seconds=3.0, known=Known.WHOLE
    )

    assert differences(plan(), plan(later, made="later", by="bob@desk", selector="x", sends=1)) == []


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (
            device(serves="home:1.0.1", serves_slot="33" * 32),
            "edge-1 served home:1.0.0 (111111111111) then, and home:1.0.1 (333333333333) now",
        ),
        (
            device(serves=None, serves_slot=None),
            "edge-1 served home:1.0.0 (111111111111) then, and nothing now",
        ),
        (
            device(does=Does.UNREACHABLE, serves=None, serves_slot=None, reason="Connection refused"),
            "edge-1 is out of reach now: Connection refused",
        ),
        (
            device(does=Does.REFUSED, reason="needs 9 B of memory, 5 B is there: 4 B short"),
            "edge-1 would be refused now: needs 9 B of memory, 5 B is there: 4 B short",
        ),
        (device(does=Does.ALREADY), "edge-1 has the release already"),
        (device(does=Does.LOCKED, reason="bob@desk has it"), "edge-1 is locked now: bob@desk has it"),
        (device(does=Does.QUARANTINED, reason="3 failures"), "edge-1 is quarantined now: 3 failures"),
        (
            device(target="sha256:bb"),
            "edge-1 has another entry in the fleet file now (address, profile, labels, runtime...)",
        ),
        (
            device(runtime="runtime:2", runtime_slot="44" * 32),
            (
                "edge-1 would get gguf Q8_0 (222222222222) on runtime:2 (444444444444) now, "
                "and gguf Q8_0 (222222222222) then"
            ),
        ),
        (device(wave=2, wave_name="100%"), "edge-1 would go in another wave now"),
    ],
)
def test_what_moved_of_a_device_is_said_in_words(now, says):
    assert differences(plan(), plan(now)) == [says]


def test_a_device_that_is_back_in_reach_is_a_difference():
    away = device(does=Does.UNREACHABLE, serves=None, serves_slot=None, reason="gone")

    assert differences(plan(away), plan()) == ["edge-1 would get the release now"]


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (plan(fleet="shop"), "the plan is for the fleet plant, and this is shop"),
        (
            plan(release="home:1.2.0", digest="sha256:00"),
            "the plan is for home:1.1.0, and now home:1.2.0 is asked for",
        ),
        (
            plan(digest="sha256:" + "cd" * 32),
            "home:1.1.0 is another release now: abababababab then, cdcdcdcdcdcd now",
        ),
        (plan(strategy="sha256:dd"), "the fleet file's strategy (`rollout:`) is another one now"),
        (plan(device(), device("edge-2")), "edge-2 is picked now and was not in the plan"),
        (plan(device("edge-2")), "edge-1 was in the plan and is not picked now"),
    ],
)  # fmt: skip
def test_what_moved_of_the_whole_is_said_in_words(now, says):
    assert differences(plan(), now)[0] == says


def test_one_device_that_moves_many_to_other_waves_is_one_line():
    then = [device(f"edge-{n}", wave=2, wave_name="50%") for n in range(20)]
    now = [device(f"edge-{n}", wave=1, wave_name="canary") for n in range(20)]

    (said,) = differences(plan(*then), plan(*now))

    assert said.startswith("edge-0, edge-1")
    assert said.endswith("and 12 more would go in another wave now")


def test_a_world_that_moved_is_refused_with_all_that_moved_and_the_way_on():
    moved = plan(device(does=Does.ALREADY), strategy="sha256:dd")

    with pytest.raises(MovedError, match="since the plan of 2026-01-31T12:00:00Z") as refused:
        require_same(plan(), moved)

    assert "strategy" in str(refused.value)
    assert "edge-1 has the release already" in str(refused.value)
    assert "slmops plan" in refused.value.remedy
    require_same(moved, moved)


def test_devices_that_differ_alike_share_a_line_and_a_device_that_has_it_by_now_is_one_difference():
    then = [device(f"edge-{n}", wave=None) for n in range(300)]
    now = [device(f"edge-{n}", wave=None, does=Does.ALREADY, serves_slot="44" * 32) for n in range(300)]

    (said,) = differences(plan(*then), plan(*now))

    assert said.startswith("edge-0, edge-1, ")
    assert said.endswith("and 292 more have the release already")


def test_of_very_many_differences_the_rest_is_counted_and_the_next_command_is_the_one_to_run():
    then = [device(f"edge-{n}") for n in range(300)]
    now = [device(f"edge-{n}", does=Does.REFUSED, reason=f"short of {n} B") for n in range(300)]

    with pytest.raises(MovedError) as refused:
        require_same(plan(*then), plan(*now), "slmops plan fleet.yaml --release home:1.1.0")

    assert len(str(refused.value).splitlines()) == 22
    assert str(refused.value).endswith("... and 280 more differences")
    assert refused.value.remedy == "slmops plan fleet.yaml --release home:1.1.0"
