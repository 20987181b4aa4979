"""Whether a machine is too hard pressed for more work, and how that is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.pressure import ROOM, STALL, Reading, shed
from slmops.daemon.read_pressure import read

percent = st.none() | st.floats(0, 100)
amount = st.none() | st.integers(1, 1 << 40)
readings = st.builds(
    Reading, limit=amount, used=amount, total=amount, available=amount, some=percent, full=percent
)


@given(readings)
def test_what_accepts_new_work_after_pressure_would_have_accepted_it_before(reading):
    if not shed(reading, shedding=True):
        assert not shed(reading, shedding=False)


@given(readings, st.booleans(), st.integers(0, 1 << 40), st.floats(0, 100))
def test_more_room_and_less_stalling_never_turn_work_away(reading, shedding, more, less):
    if shed(reading, shedding=shedding):
        return
    eased = Reading(
        limit=reading.limit,
        used=None if reading.used is None else max(0, reading.used - more),
        total=reading.total,
        available=None if reading.available is None else reading.available + more,
        full=None if reading.full is None else max(0.0, reading.full - less),
    )
    assert not shed(eased, shedding=shedding)


@given(st.lists(st.floats(0, 100), max_size=50))
def test_between_the_two_bounds_it_stays_as_it_was(stalls):
    shedding = False
    for full in stalls:
        before, shedding = shedding, bool(shed(Reading(full=full), shedding=shedding))
        if STALL[1] <= full < STALL[0]:
            assert shedding == before


@pytest.mark.parametrize("shedding", [True, False])
def test_what_cannot_be_read_turns_nobody_away(shedding):
    assert not shed(Reading(), shedding=shedding)


def test_it_says_why():
    assert shed(Reading(limit=1000, used=990), shedding=False) == "1% of the memory is left"
    assert "nothing ran in 30 %" in shed(Reading(full=30.4), shedding=False)
    assert shed(Reading(total=1000, available=int(1000 * ROOM[1]) - 1), shedding=True)


def lay(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


MEMINFO = "MemTotal: 8000000 kB\nMemFree:  100000 kB\nMemAvailable: 2000000 kB\nHugePages_Total: 0\n"
PSI = "some avg10=12.50 avg60=1.00 avg300=0.20 total=123\nfull avg10=3.25 avg60=0.50 avg300=0.10 total=45\n"


def test_the_group_with_the_least_room_counts_and_pages_of_files_do_not(tmp_path):
    lay(
        tmp_path,
        {
            "proc/self/cgroup": "1:name=systemd:/old\n0::/slice/unit\n",
            "proc/meminfo": MEMINFO,
            "proc/pressure/memory": PSI.replace("3.25", "99.00"),
            "sys/fs/cgroup/slice/unit/memory.max": "max\n",
            "sys/fs/cgroup/slice/unit/memory.current": "700\n",
            "sys/fs/cgroup/slice/unit/memory.pressure": PSI,
            "sys/fs/cgroup/slice/unit/memory.events": "low 0\nhigh 4\nmax 9\noom 1\noom_kill 2\n",
            "sys/fs/cgroup/slice/memory.max": "1000\n",
            "sys/fs/cgroup/slice/memory.current": "900\n",
            "sys/fs/cgroup/slice/memory.stat": "inactive_file 100\nactive_file 200\nslab_reclaimable 50\n",
        },
    )
    found = read(tmp_path)
    assert (found.limit, found.used) == (1000, 550)
    assert (found.some, found.full) == (12.5, 3.25)
    assert (found.high, found.killed) == (4, 2)
    assert (found.total, found.available) == (8_000_000 * 1024, 2_000_000 * 1024)
    assert found.room == 0.25


def test_without_a_control_group_the_machine_alone_is_read(tmp_path):
    lay(tmp_path, {"proc/meminfo": MEMINFO, "proc/pressure/memory": PSI})
    found = read(tmp_path)
    assert (found.limit, found.used, found.full) == (None, None, 3.25)


def test_where_nothing_can_be_read_nothing_is_said(tmp_path):
    assert read(tmp_path) == Reading()


def test_heat_and_throttling_are_read(tmp_path):
    thermal = "sys/class/thermal"
    lay(
        tmp_path,
        {
            f"{thermal}/thermal_zone0/temp": "61500\n",
            f"{thermal}/thermal_zone0/type": "cpu-thermal\n",
            f"{thermal}/thermal_zone1/temp": "odd\n",
            f"{thermal}/cooling_device0/type": "Processor\n",
            f"{thermal}/cooling_device0/cur_state": "0\n",
        },
    )
    assert read(tmp_path).celsius == {"0:cpu-thermal": 61.5}
    assert read(tmp_path).throttled is False
    lay(tmp_path, {f"{thermal}/cooling_device0/cur_state": "2\n"})
    assert read(tmp_path).throttled is True


@pytest.mark.parametrize(
    ("said", "means"), [("0x50005", True), ("0x50000", False), ("throttled=0x4", True), ("?", None)]
)
def test_a_raspberry_pi_says_itself_whether_it_is_throttled(tmp_path, said, means):
    lay(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": said + "\n"})
    assert read(tmp_path).throttled is means


def test_this_machine_can_be_read():
    found = read()
    assert found.total is not None
    assert 0 < found.available <= found.total
