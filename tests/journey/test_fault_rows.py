"""Faults of links, clocks, keys and operators, one a test, in real deploys over real sshds."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from slmops.wire import Request, render_request

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from _fault_bed import Bed, until  # noqa: E402 (what breaks a fleet lies with the benchmarks)
from _person import Operator  # noqa: E402

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]
TEN_YEARS, THREE_DAYS = 10 * 365 * 86400, 3 * 86400


@pytest.fixture(scope="module")
def shared_bed(tmp_path_factory):
    """Four devices that these tests share, each of which leaves them healthy."""
    if not (shutil.which("sshd") or Path("/usr/sbin/sshd").exists()):
        pytest.skip("sshd is not installed")
    with Bed(tmp_path_factory.mktemp("faults"), 4) as bed:
        release = bed.release()
        assert bed.operator(*bed.deploy(release)) == 0, bed.operator.said()
        yield bed


@pytest.fixture
def bed(shared_bed):
    """The shared devices with the fleet file as it was before, afterwards."""
    fleet = shared_bed.fleet.read_bytes()
    yield shared_bed
    shared_bed.fleet.write_bytes(fleet)


def fill(path):
    """Write until the disk takes no more."""
    with path.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))


def heals(bed, release):
    """Go on as a person does, and see that everybody came where they were to be."""
    assert bed.go_on(release) == 0, bed.operator.said()
    assert list(bed.converged(release)) == []


@pytest.mark.faults
def test_r10_a_black_hole_ends_in_time_and_is_lost_not_failed(bed):
    target, old = bed.targets[0], bed.targets[0].standing().slot
    way, release = bed.proxy(target), bed.release()
    bed.strategy(transfer_timeout="6s")
    bed.set_device(target.name, connect_timeout=2)

    bed.operator.start(*bed.deploy(release, "--whole"))
    until(lambda: way.sent > 100_000)
    way.stalled = True
    code = bed.operator.ended(200)

    assert code not in (None, 0)
    assert bed.states()[target.name] == "lost"
    assert target.standing().slot == old
    way.stalled = False
    way.cut()
    heals(bed, release)
    way.close()


@pytest.mark.faults
def test_r11_a_device_that_takes_bytes_too_slowly_gives_up_its_place_and_goes_on_later(bed):
    target = bed.targets[1]
    way, release = bed.proxy(target), bed.release()
    bed.strategy(transfer_timeout="6s")
    way.rate = 4_000

    assert bed.operator(*bed.deploy(release, "--whole")) != 0

    assert bed.states()[target.name] == "lost"
    way.rate, before = None, way.sent
    heals(bed, release)
    # What had come was not sent again.
    assert way.sent - before < 600_000
    way.close()


def test_r8_twenty_cuts_in_one_deploy_cost_nobody_the_release(bed):
    target = bed.targets[2]
    way, release = bed.proxy(target), bed.release()
    way.cuts = [60_000] * 20

    assert bed.operator(*bed.deploy(release, "--whole")) == 0, bed.operator.said()

    assert list(bed.converged(release)) == []
    way.close()


@pytest.mark.parametrize("harm", ["reset", "half_close", "cut"])
def test_a_link_that_is_reset_or_closed_in_the_middle_is_taken_up_again(bed, harm):
    target = bed.targets[0]
    way, release = bed.proxy(target), bed.release()

    bed.operator.start(*bed.deploy(release, "--whole"))
    until(lambda: way.sent > 100_000)
    getattr(way, harm)()

    assert bed.operator.ended(200) == 0, bed.operator.said()
    assert list(bed.converged(release)) == []
    way.close()


def test_a_bit_that_flips_on_the_link_ends_the_connection_and_never_a_file(bed):
    target = bed.targets[3]
    way, release = bed.proxy(target), bed.release()
    # The look at the device has the first connection; the one that sends files is the next.
    way.flips = [10**9, 200_000]

    assert bed.operator(*bed.deploy(release, "--whole")) == 0, bed.operator.said()

    assert list(bed.converged(release)) == []
    way.close()


def test_a_slow_and_distant_link_only_takes_longer(bed):
    target = bed.targets[2]
    way, release = bed.proxy(target), bed.release(size=40_000)
    way.delay = 0.1

    assert bed.operator(*bed.deploy(release, "--whole")) == 0, bed.operator.said()

    assert list(bed.converged(release)) == []
    way.close()


@pytest.mark.faults
def test_r19_an_agent_that_thaws_after_a_newer_release_came_changes_nothing(bed):
    target = bed.targets[1]
    way, release = bed.proxy(target), bed.release()
    bed.strategy(transfer_timeout="6s")
    bed.operator.start(*bed.deploy(release, "--whole"))
    until(lambda: way.sent > 100_000)
    frozen = target.agents()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert bed.operator.ended(200) not in (None, 0)
        assert bed.states()[target.name] == "lost"

        newer = bed.release()
        # What is frozen is still at work: nobody else gets the device before a person takes it away.
        assert bed.operator(*bed.deploy(newer)) != 0
        assert bed.states()[target.name] == "skipped"
        assert bed.operator("lock", "break", bed.fleet, "--reason", "its agent froze", "--yes") == 0
        assert bed.operator(*bed.deploy(newer)) == 0, bed.operator.said()
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)

    until(lambda: not target.agents())
    assert list(bed.converged(newer)) == []
    way.close()


def test_r21_half_a_fleet_out_of_reach_stops_before_anybody_is_touched(bed):
    release = bed.release()
    before = [target.kinds() for target in bed.targets]
    bed.strategy(max_unreachable="10%")
    for target in bed.targets[:2]:
        bed.unplug(target)

    code = bed.operator(*bed.deploy(release))

    for target in bed.targets[:2]:
        bed.plug_in(target)
    assert code == 6
    assert [target.kinds() for target in bed.targets] == before
    heals(bed, release)


def test_r23_an_operator_whose_disk_is_full_says_so_and_leaves_no_device_in_between(bed, tmp_path):
    release = bed.release()
    room = tmp_path / "room"
    room.mkdir()
    size = sum(path.stat().st_size for path in bed.home.rglob("*") if path.is_file()) * 2 + (1 << 20)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", room], check=False).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        shutil.copytree(bed.home, room / "home", symlinks=True)
        with Operator(room / "home") as person:
            fill(room / "filler")
            code = person(*bed.deploy(release))
            said = person.said()
            (room / "filler").unlink()
            lawful = {target.standing().slot for target in bed.targets}
            assert code not in (0, None)
            assert "Traceback" not in said
            assert [text for target in bed.targets for text in bed.wrong(target, lawful)] == []
            assert person(*bed.deploy(release)) == 0, person.said()
    finally:
        subprocess.run(["umount", "-l", room], check=True)
    assert list(bed.converged(release)) == []


def test_r35_a_device_that_accepts_our_key_no_more_is_lost_and_goes_back_alone(bed):
    target, old = bed.targets[0], bed.targets[0].standing().slot
    way, release = bed.proxy(target), bed.release()
    keys = target.folder / "authorized_keys"
    known = keys.read_bytes()

    bed.operator.start(*bed.deploy(release, "--whole"))
    # The session that sends goes on; the confirmation wants a new one.
    until(lambda: way.sent > 100_000)
    keys.write_bytes(b"")
    code = bed.operator.ended(200)
    keys.write_bytes(known)

    assert code not in (None, 0)
    assert bed.states()[target.name] == "lost"
    until(lambda: target.standing().trial is None)
    assert target.standing().slot == old
    heals(bed, release)
    way.close()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for the clock that is wrong")
@pytest.mark.parametrize(
    ("first", "then"),
    [(TEN_YEARS, TEN_YEARS), (-TEN_YEARS, -TEN_YEARS), (0, THREE_DAYS), (0, -THREE_DAYS)],
)
def test_r38_a_clock_that_is_wrong_or_jumps_does_not_matter_to_an_operator_who_is_there(
    bed, first, then, tmp_path
):
    target, release = bed.targets[3], bed.release()
    config, clock, library = target.folder / "sshd_config", target.folder / "clock", tmp_path / "clock.so"
    source = ROOT / "bench/_wrong_clock.c"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    right = config.read_text()
    clock.write_text(str(first))
    faked = f" LD_PRELOAD={library} CLOCK_SHIFT={clock}"
    config.write_text(right.rstrip() + faked + "\n")
    bed.restart(target)

    bed.operator.start(*bed.deploy(release, "--whole"))
    until(lambda: any((target.places.incoming).glob("*/.*.part")) or target.standing().trial is not None)
    clock.write_text(str(then))
    code = bed.operator.ended(200)

    config.write_text(right)
    bed.restart(target)
    assert code == 0, bed.operator.said()
    assert list(bed.converged(release)) == []


def test_r42_a_hundred_devices_are_looked_at_by_an_operator_who_may_open_few_files(bed):
    fleet = yaml.safe_load(bed.fleet.read_text())
    few = fleet["devices"]
    fleet["devices"] = [
        {**each, "name": f"{each['name']}-{number}", "root": f"~/many/{number}/.slmops"}
        for number in range(30)
        for each in few
    ]
    fleet["rollout"]["max_parallel"] = 100
    many = bed.folder / "many.yaml"
    many.write_text(yaml.safe_dump(fleet))
    release = next(reversed(bed.slots))

    code = bed.operator("deploy", many, "--release", release, "--dry-run", "-o", "json", files=256)

    said = bed.operator.said()
    assert code == 0, said[-2000:]
    told = json.loads(said[said.index("{") :])
    assert len(told["devices"]) == 120


def test_r45_freeing_while_a_deploy_runs_takes_nothing_that_it_needs(bed):
    target, release = bed.targets[0], bed.release()
    way = bed.proxy(target)
    way.rate = 300_000
    agent = str(target.places.agent_link)
    asked = render_request(Request("gc", {}))

    bed.operator.start(*bed.deploy(release, "--whole"))
    until(lambda: way.sent > 100_000)
    while bed.operator.ended(0.3) is None:
        words = ["/usr/bin/python3", "-ESs", agent, str(target.places.root), "gc"]
        subprocess.run(words, input=asked, capture_output=True, check=False)

    heals(bed, release)
    assert bed.states()[target.name] in ("committed", "already")
    way.close()


def test_r27_an_abort_leaves_every_device_old_or_new_and_the_same_release_comes_again(bed):
    slow, release = bed.targets[0], bed.release()
    lawful = {target.name: {target.standing().slot, bed.slots[release]} for target in bed.targets}
    way = bed.proxy(slow)
    way.rate = 100_000

    bed.operator.start(*bed.deploy(release, "--whole"))
    until(lambda: way.sent > 100_000)
    number, _ = bed.rollout()
    with Operator(bed.home) as another:
        another("rollout", "abort", number, "--yes")
    code = bed.operator.ended(200)

    assert code not in (None, 0), bed.operator.said()
    assert bed.rollout() == (number, "aborted")
    until(lambda: all(target.standing().trial is None for target in bed.targets))
    for target in bed.targets:
        assert list(bed.wrong(target, lawful[target.name])) == []
    way.rate = None
    heals(bed, release)
    way.close()


def test_s17_a_deploy_opens_sessions_alone_and_offers_a_device_no_way_back(bed):
    target, release = bed.targets[2], bed.release()
    config, log = target.folder / "sshd_config", target.folder / "sshd.log"
    quiet = config.read_text()
    config.write_text(quiet + "LogLevel DEBUG1\n")
    bed.restart(target)

    code = bed.operator(*bed.deploy(release))

    config.write_text(quiet)
    bed.restart(target)
    said = log.read_text(errors="replace")
    asked = set(re.findall(r"server_input_channel_req: channel \d+ request (\S+)", said))
    opened = set(re.findall(r"server_input_channel_open: ctype (\S+)", said))
    assert code == 0, bed.operator.said()
    assert asked == {"exec"}
    assert opened == {"session"}


def test_s19_what_a_deploy_leaves_is_for_its_owner_alone_and_says_no_secret(bed):
    release = bed.release()
    assert bed.operator(*bed.deploy(release)) == 0, bed.operator.said()
    key = (bed.home / "keys/release").resolve().read_bytes().splitlines()[2]

    for target in bed.targets:
        # Whatever lies below, nobody else comes to it.
        assert target.places.root.stat().st_mode & 0o077 == 0
        for path in target.places.root.rglob("*"):
            if path.is_file() and path.name != "identity_key":
                assert b"PRIVATE KEY" not in path.read_bytes(), path
                assert key not in path.read_bytes(), path
    assert key.decode() not in bed.operator.said()
