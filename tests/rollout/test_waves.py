from itertools import chain

from hypothesis import assume, given
from hypothesis import strategies as st

from slmops.fleet.inventory import Device
from slmops.fleet.strategy import PER_PROFILE, Strategy
from slmops.rollout.waves import cut

shares = st.integers(0, 60) | st.integers(0, 100).map(lambda percent: f"{percent}%")
canaries = shares | st.just(PER_PROFILE)
strategies = st.builds(
    lambda canary, waves: Strategy(canary=canary, waves=waves),
    canaries,
    st.lists(shares, min_size=1, max_size=5),
)


def named(profiles):
    return [
        Device(name=f"edge-{at}", host=f"10.0.0.{at}", profile=profile) for at, profile in enumerate(profiles)
    ]


fleets = st.lists(st.sampled_from(["pi-4", "pi-5", "n100", None]), max_size=40).map(named)


def test_ten_devices_of_two_profiles_go_in_four_waves():
    fleet = named(["pi-4", "pi-4", "pi-5", *["pi-4"] * 7])

    names = [[device.name[-1] for device in wave] for wave in cut(fleet, Strategy(waves=["30%", "60%"]))]

    assert names == [["0", "2"], ["1"], ["3", "4", "5"], ["6", "7", "8", "9"]]


def test_a_fleet_of_one_is_its_own_canary():
    fleet = named(["pi-4"])

    assert cut(fleet, Strategy(canary=5)) == [fleet]


def test_a_quarter_of_one_device_is_one_device():
    assert [len(wave) for wave in cut(named(["pi-4"] * 2), Strategy(canary="25%"))] == [1, 1]


@given(fleets, strategies)
def test_every_device_is_in_exactly_one_wave(fleet, strategy):
    together = list(chain(*cut(fleet, strategy)))

    assert len(together) == len(fleet)
    assert set(together) == set(fleet)


@given(fleets, strategies)
def test_no_wave_is_empty(fleet, strategy):
    assert all(cut(fleet, strategy))


@given(fleets, strategies)
def test_the_order_within_the_fleet_is_kept(fleet, strategy):
    canary, *waves = cut(fleet, strategy) or [[]]
    rest = [device for device in fleet if device not in canary]

    assert list(chain(*waves)) == rest
    assert canary == [device for device in fleet if device in canary]


@given(fleets, st.lists(shares, min_size=1))
def test_a_canary_per_profile_has_every_profile_once(fleet, waves):
    assume(fleet)

    canary = cut(fleet, Strategy(canary=PER_PROFILE, waves=waves))[0]

    profiles = [device.profile for device in canary]
    assert sorted(profiles, key=str) == sorted({device.profile for device in fleet}, key=str)


@given(fleets, shares)
def test_a_canary_is_its_share_of_the_fleet_and_at_least_one(fleet, share):
    assume(fleet)
    wanted = min(share, len(fleet)) if isinstance(share, int) else -(-int(share[:-1]) * len(fleet) // 100)

    assert len(cut(fleet, Strategy(canary=share))[0]) == max(1, wanted)


@given(fleets, strategies)
def test_the_same_fleet_is_cut_the_same_way(fleet, strategy):
    assert cut(list(fleet), strategy) == cut(fleet, strategy)
