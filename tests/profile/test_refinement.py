from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops import document
from slmops.errors import DeviceError
from slmops.profile.device import DeviceProfile
from slmops.profile.footprint import predict_decode
from slmops.profile.refinement import Observation, refine

MB = 10**6
GOOD = Observation(
    device="edge-1",
    requests=50,
    tokens=2000,
    seconds=400.0,
    weight_bytes=400 * MB,
    cache_bytes=0.0,
    layers=24,
    predicted_bytes=600 * MB,
    peak_bytes=590 * MB,
)
TODAY = "2026-07-01"

observations = st.builds(
    replace,
    st.just(GOOD),
    seconds=st.floats(20, 1e5),
    weight_bytes=st.integers(100 * MB, 10**10),
    peak_bytes=st.none() | st.integers(0, 10**9),
    mapped_bytes=st.integers(0, 10**8),
)


def refined(device, *seen, silent=()):
    return refine(device, seen, silent, TODAY)


def test_the_bandwidth_becomes_what_explains_the_speed_of_the_devices(device):
    after = refined(device, GOOD).after.memory

    assert predict_decode(after.bandwidth, GOOD.weight_bytes, 0, 24) == pytest.approx(5.0, rel=0.01)


def test_one_odd_device_among_three_does_not_move_the_figure_past_its_neighbours(device):
    usual = [replace(GOOD, device=f"edge-{n}", seconds=400 + n) for n in (1, 2)]
    odd = replace(GOOD, device="throttled", seconds=4000)

    found = refined(device, *usual, odd)

    assert found.after.memory.bandwidth == refined(device, usual[1]).after.memory.bandwidth
    assert len(found.used) == 3


def test_the_figure_says_what_it_was_measured_on_and_replaces_an_older_one(device):
    first = refined(device, GOOD).after
    second = refined(first, GOOD, replace(GOOD, device="edge-2", requests=30)).after

    assert second.sources == (*device.sources, f"bandwidth measured on 2 devices, 80 requests, {TODAY}")


def test_a_tiny_model_refines_no_bandwidth(device):
    with pytest.raises(DeviceError, match=r"edge-1: its model has 28\.6 MiB and stays in the caches"):
        refined(device, replace(GOOD, weight_bytes=30 * MB))


@pytest.mark.parametrize("few", [{"requests": 19}, {"tokens": 499}])
def test_too_few_requests_are_said_to_be_too_few(device, few):
    with pytest.raises(DeviceError, match="are too few: expected 20 and 500"):
        refined(device, replace(GOOD, **few))


def test_a_device_with_too_little_is_left_out_and_named(device):
    found = refined(device, GOOD, replace(GOOD, device="new", requests=3), silent=[("off", "unreachable")])

    assert [one.device for one in found.used] == ["edge-1"]
    assert [name for name, _ in found.left_out] == ["off", "new"]


def test_a_fleet_without_such_a_device_is_told_so(device):
    with pytest.raises(DeviceError, match="the fleet has none"):
        refined(device)


def test_memory_beyond_the_prediction_is_added_to_the_reserve(device):
    found = refined(device, replace(GOOD, peak_bytes=650 * MB, mapped_bytes=20 * MB))

    assert found.shortfall == 30 * MB
    assert found.after.memory.reserve == device.memory.reserve + 30 * MB


def test_refined_again_by_the_same_reports_a_profile_stays_as_it_is(device):
    short = replace(GOOD, peak_bytes=650 * MB, mapped_bytes=20 * MB)
    once = refined(device, short).after

    assert refined(once, short).after == once
    assert refined(once, replace(short, peak_bytes=600 * MB)).after == once
    more = refined(once, replace(short, peak_bytes=700 * MB)).after
    assert more.memory.reserve == device.memory.reserve + 80 * MB


def test_pages_of_the_model_that_the_kernel_can_take_back_are_no_shortfall(device):
    found = refined(device, replace(GOOD, peak_bytes=900 * MB, mapped_bytes=400 * MB))

    assert found.after.memory.reserve == device.memory.reserve


@given(seen=st.lists(observations, min_size=1, max_size=5))
def test_a_refined_profile_is_a_profile_with_no_more_memory_and_a_figure_among_those_seen(seen):
    before = document.loads(PROFILE, DeviceProfile, "board")
    found = refine(before, seen, (), TODAY)

    figures = [one.bandwidth for one in found.used]
    assert 0.99 * min(figures) <= found.after.memory.bandwidth <= max(figures)
    assert found.after.memory.budget <= before.memory.budget
    assert document.loads(document.dumps(found.after), DeviceProfile, "board") == found.after


PROFILE = """\
name: board
title: A board
arch: aarch64
cpu: {model: Cortex-A76, cores: 4}
memory: {total: 8GiB, reserve: 512MiB, bandwidth: 10GB/s}
storage: {kind: sd, free: 4GiB}
system: {os: Debian}
serve: {context: 2048, threads: 4}
formats: [gguf]
"""
