"""Send files over real connections that break."""

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from slmops import digest as digests
from slmops.artifact import manifest
from slmops.artifact.manifest import CONFIG_TYPE, WEIGHT_TYPE, Artifact, Blob
from slmops.errors import IntegrityError, UnreachableError
from slmops.fleet import agent
from slmops.fleet.send import TRIES, Change, Outgoing, Sender, _spans

MIB = 1 << 20


class Load:
    """A release of one file, as a device knows it that prepared for it."""

    def __init__(self, folder, size, name="model"):
        self.path = folder / name
        self.path.write_bytes(os.urandom(size))
        self.blob = Blob(WEIGHT_TYPE, digests.of_file(self.path), size)
        config = Blob(CONFIG_TYPE, digests.of_bytes(b"{}"), 2)
        described = manifest.render_artifact(Artifact(config, ((name, self.blob),)))
        self.slot = digests.hexdigits(digests.of_bytes(described))
        self.folder = folder / "root" / "incoming" / self.slot
        self.folder.mkdir(parents=True)
        (self.folder / ".manifest.json").write_bytes(described)
        self.part = self.folder / f".{name}.part"
        self.files = [Outgoing(name, size, self.path)]

    def arrived(self):
        return (self.folder / self.path.name).read_bytes() == self.path.read_bytes()


def sender(device, **how):
    return Sender(partial(agent.session, device, ()), first_pause=0.01, **how)


def ignore(_here, _whole):
    pass


def test_a_file_arrives_and_progress_is_told_in_bytes(there, tmp_path):
    load = Load(tmp_path, 3 * MIB + 5)
    told = []

    with sender(there()[0]) as way:
        way.send(load.slot, load.files, lambda here, whole: told.append((here, whole)))

    assert load.arrived()
    assert told[-1] == (3 * MIB + 5, 3 * MIB + 5)
    assert [here for here, _ in told] == sorted(here for here, _ in told)


@pytest.mark.parametrize("size", [0, 1])
def test_the_smallest_files_arrive(there, tmp_path, size):
    load = Load(tmp_path, size)

    with sender(there()[0]) as way:
        way.send(load.slot, load.files, ignore)

    assert load.arrived()


def test_twenty_cuts_in_one_transfer_cost_few_bytes_more(there, tmp_path):
    load = Load(tmp_path, 24 * MIB)
    device, way = there(*[MIB + 100_000] * 20)
    heard = []
    # As a real link does, this one bears less than the device takes: little is under way when it breaks.
    with sender(replace(device, bandwidth=8 * MIB), cut=heard.append) as bringing:
        bringing.send(load.slot, load.files, ignore)

    assert load.arrived()
    assert not way.cuts
    assert way.sent <= 1.05 * 24 * MIB
    assert len(heard) >= 20
    assert set(heard) <= set(range(1, TRIES + 1))


def test_a_reboot_in_the_middle_costs_only_what_the_disk_had_not(there, tmp_path):
    load = Load(tmp_path, 8 * MIB)
    device, way = there()
    whole = load.path.read_bytes()
    load.part.write_bytes(whole[: 3 * MIB] + bytes(MIB) + whole[4 * MIB : 7 * MIB])
    load.files = [replace(load.files[0], offset=7 * MIB)]

    with sender(device) as bringing:
        bringing.send(load.slot, load.files, ignore)

    assert load.arrived()
    assert way.sent < 2.5 * MIB


def test_an_agent_that_is_killed_in_the_middle_is_started_again(there, tmp_path):
    load = Load(tmp_path, 12 * MIB)
    killed = []

    def kill(here, _whole):
        if here > 6 * MIB and not killed:
            killed.extend(agents(tmp_path / "root"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    with sender(there()[0]) as bringing:
        bringing.send(load.slot, load.files, kill)

    assert killed
    assert load.arrived()


def agents(root):
    """The processes that serve a folder's agent."""
    words = [(path.parent.name, words_of(path)) for path in Path("/proc").glob("[0-9]*/cmdline")]
    return [int(pid) for pid, said in words if str(root).encode() in said and b"serve" in said]


def words_of(command_line):
    try:
        return command_line.read_bytes().split(b"\0")
    except OSError:
        return []


def test_a_device_that_cannot_be_reached_is_not_tried_again(there):
    device, way = there()
    way.close()

    with sender(device) as bringing, pytest.raises(UnreachableError):
        bringing.call("status", {})


def test_a_way_on_which_nothing_gets_further_is_given_up(there, tmp_path):
    load = Load(tmp_path, MIB)
    device, way = there()

    with sender(device) as bringing:
        bringing.call("hello", {})
        way.close()
        with pytest.raises(UnreachableError):
            bringing.send(load.slot, load.files, ignore)


def test_who_is_told_to_stop_stops_within_a_file(there, tmp_path):
    load = Load(tmp_path, 4 * MIB)

    class EnoughError(Exception):
        pass

    def stop():
        if load.part.exists() and load.part.stat().st_size:
            raise EnoughError

    with sender(there()[0], stop=stop) as bringing, pytest.raises(EnoughError):
        bringing.send(load.slot, load.files, ignore)
    with sender(there()[0]) as bringing:
        bringing.send(load.slot, load.files, ignore)

    assert load.arrived()


def test_another_file_than_the_release_names_is_refused_and_leaves_nothing(there, tmp_path):
    load = Load(tmp_path, MIB)
    load.path.write_bytes(os.urandom(MIB))

    with sender(there()[0]) as bringing, pytest.raises(IntegrityError, match="thrown away"):
        bringing.send(load.slot, load.files, ignore)

    assert [path.name for path in load.folder.iterdir()] == [".manifest.json"]


def test_a_delta_that_does_not_become_its_file_is_followed_by_the_file(there, tmp_path):
    load = Load(tmp_path, MIB)
    delta = tmp_path / "delta"
    delta.write_bytes(b"no delta at all")
    change = Change("sha256:" + "1" * 64, digests.of_file(delta), 15, delta)

    with sender(there()[0]) as bringing:
        bringing.send(load.slot, [replace(load.files[0], change=change)], ignore)

    assert load.arrived()


def test_a_delta_that_is_gone_meanwhile_is_followed_by_the_file_and_progress_fits(there, tmp_path):
    load, told = Load(tmp_path, MIB), []
    change = Change("sha256:" + "1" * 64, "sha256:" + "2" * 64, 15, tmp_path / "gone")

    with sender(there()[0]) as bringing:
        files = [replace(load.files[0], change=change)]
        bringing.send(load.slot, files, lambda here, whole: told.append((here, whole)))

    assert load.arrived()
    assert all(here <= whole for here, whole in told)
    assert "gone" in bringing.refused[0]


def test_a_device_of_little_bandwidth_is_sent_no_more(there, tmp_path):
    load = Load(tmp_path, 100_000)
    device, _ = there()
    slow = replace(device, bandwidth=100_000_000)

    with sender(slow) as bringing:
        bringing.send(load.slot, load.files, ignore)

    assert load.arrived()


@pytest.mark.parametrize(
    ("bad", "held", "spans"),
    [
        ([], 0, [(0, 9)]),
        ([], 9, [(9, 9)]),
        ([(0, 2)], 9, [(0, 2), (9, 9)]),
        ([(0, 2), (2, 4)], 6, [(0, 4), (6, 9)]),
        ([(4, 6)], 6, [(4, 9)]),
    ],
)
def test_ranges_that_touch_are_sent_as_one(bad, held, spans):
    assert _spans(bad, held, 9) == spans
