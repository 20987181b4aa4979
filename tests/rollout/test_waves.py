from itertools import chain

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slmops.fleet.inventory import Device
from slmops.fleet.strategy import PER_PROFILE, Canary, Step, Strategy, at_least_one
from slmops.rollout.waves import cut

shares = st.integers(0, 60) | st.integers(0, 100).map(lambda percent: f"{percent}%")
keys = st.lists(st.sampled_from(["profile", "site", "ring"]), min_size=1, max_size=3, unique=True)
kinds = st.builds(Canary, each=keys, least=st.integers(1, 6), most=shares)
canaries = shares | st.just(PER_PROFILE) | kinds
selectors = st.sampled_from(["site=berlin", "site", "!site", "ring=late,!edge-3", "nobody"])
steps = st.builds(Step, share=shares) | st.builds(Step, select=selectors)
strategies = st.builds(
    lambda canary, waves: Strategy(canary=canary, waves=waves),
    canaries,
    st.lists(shares | steps, min_size=1, max_size=5),
)


def named(said):
    return [
        Device(name=f"edge-{at}", host=f"10.0.0.{at}", profile=profile, labels=labels)
        for at, (profile, labels) in enumerate(said)
    ]


def alike(profiles, **labels):
    return named([(profile, labels) for profile in profiles])


def placed(text):
    """Make a fleet of words such as pi:berlin, a profile and a site."""
    return named([(word.partition(":")[0], {"site": word.partition(":")[2]}) for word in text.split()])


fleets = st.lists(
    st.tuples(
        st.sampled_from(["pi-4", "pi-5", "n100", None]),
        st.dictionaries(st.sampled_from(["site", "ring"]), st.sampled_from(["berlin", "lyon", "late"])),
    ),
    max_size=40,
).map(named)


def numbers(waves):
    return [[int(device.name.removeprefix("edge-")) for device in wave.devices] for wave in waves]


def test_ten_devices_of_two_profiles_go_in_four_waves():
    fleet = alike(["pi-4", "pi-4", "pi-5", *["pi-4"] * 7])
    waves = cut(fleet, Strategy(canary=PER_PROFILE, waves=["30%", "60%"]))

    assert numbers(waves) == [[0, 2], [1], [3, 4, 5], [6, 7, 8, 9]]
    assert [wave.name for wave in waves] == ["canary", "30%", "60%", "the rest"]


def test_a_fleet_of_one_is_its_own_canary():
    assert numbers(cut(alike(["pi-4"]), Strategy(canary=5))) == [[0]]


def test_a_quarter_of_one_device_is_one_device():
    assert numbers(cut(alike(["pi-4"] * 2), Strategy(canary="25%"))) == [[0], [1]]


def test_the_default_canary_is_one_device_of_every_profile_at_every_site():
    fleet = placed("pi:berlin pi:berlin pi:lyon nuc:lyon nuc:lyon nuc:berlin " + "pi:berlin " * 10)

    assert numbers(cut(fleet, Strategy()))[0] == [0, 2, 3, 5]


def test_a_device_without_the_label_is_of_a_kind_of_its_own():
    fleet = [*alike(["pi"] * 4, site="berlin"), Device("elsewhere", "h", profile="pi")]

    assert [device.name for device in cut(fleet, Strategy(canary=Canary(most="100%")))[0].devices] == [
        "edge-0",
        "elsewhere",
    ]


def test_where_every_device_is_a_site_the_canary_is_thinned_out_and_every_profile_stays():
    fleet = placed(" ".join(f"{'nuc' if at % 20 == 19 else 'pi'}:store-{at}" for at in range(40)))
    waves = cut(fleet, Strategy())

    assert numbers(waves)[0] == [*range(9), 19]
    assert len(cut(fleet, Strategy(canary=Canary(most=1)))[0].devices) == 2


def test_more_than_one_of_each_are_taken_evenly():
    fleet = placed("pi:berlin pi:berlin pi:berlin nuc:lyon nuc:lyon")

    assert numbers(cut(fleet, Strategy(canary=Canary(least=4))))[0] == [0, 1, 3, 4]


def test_a_selector_takes_whom_it_picks_of_those_left_and_shares_count_them():
    fleet = placed("pi:berlin pi:lyon pi:berlin pi:lyon pi:berlin pi:lyon pi:berlin pi:berlin")
    waves = cut(fleet, Strategy(canary=1, waves=[Step(select="site=lyon"), "75%"]))

    assert numbers(waves) == [[0], [1, 3, 5], [2, 4], [6, 7]]
    assert [wave.name for wave in waves] == ["canary", "site=lyon", "75%", "the rest"]


def test_a_selector_of_whom_all_have_had_their_turn_is_no_wave():
    fleet = placed("pi:berlin pi:lyon")

    assert numbers(cut(fleet, Strategy(canary=1, waves=[Step(select="site=berlin")]))) == [[0], [1]]


def test_a_wave_has_its_own_terms_or_those_of_the_strategy():
    step = Step(share=2, soak=5, advance="manual", max_failures=1)
    strategy = Strategy(canary=1, waves=[step, 3], soak=60, max_failures="5%")
    waves = cut(alike(["pi"] * 4), strategy)

    assert [(wave.name, wave.soak, wave.advance, wave.max_failures) for wave in waves] == [
        ("canary", 60, "auto", "5%"),
        ("2 devices", 5, "manual", 1),
        ("3 devices", 60, "auto", "5%"),
        ("the rest", 60, "auto", "5%"),
    ]


def test_a_term_of_nothing_is_a_term():
    waves = cut(alike(["pi"] * 3), Strategy(canary=1, waves=[Step(share="100%", soak=0, max_failures=0)]))

    assert (waves[1].soak, waves[1].max_failures) == (0, 0)


@given(fleets, strategies)
def test_every_device_is_in_exactly_one_wave(fleet, strategy):
    together = list(chain(*(wave.devices for wave in cut(fleet, strategy))))

    assert len(together) == len(fleet)
    assert set(together) == set(fleet)


@given(fleets, strategies)
def test_no_wave_is_empty(fleet, strategy):
    assert all(wave.devices for wave in cut(fleet, strategy))


@given(fleets, strategies)
def test_the_order_within_the_fleet_is_kept_in_each_wave(fleet, strategy):
    assert all(wave == sorted(wave) for wave in numbers(cut(fleet, strategy)))


@given(fleets, canaries, st.lists(shares, min_size=1, max_size=5))
def test_waves_of_shares_go_through_the_fleet_in_its_order(fleet, canary, waves):
    first, *later = numbers(cut(fleet, Strategy(canary=canary, waves=waves))) or [[]]

    assert list(chain(*later)) == [at for at in range(len(fleet)) if at not in first]


@given(fleets, strategies)
def test_whom_no_wave_names_go_last(fleet, strategy):
    waves = cut(fleet, strategy)

    assert "the rest" not in [wave.name for wave in waves[:-1]]
    assert not waves or waves[0].name == "canary"


@given(fleets, st.lists(shares, min_size=1))
def test_a_canary_per_profile_has_every_profile_once(fleet, waves):
    assume(fleet)

    canary = cut(fleet, Strategy(canary=PER_PROFILE, waves=waves))[0].devices

    profiles = [device.profile for device in canary]
    assert sorted(profiles, key=str) == sorted({device.profile for device in fleet}, key=str)


@given(fleets, keys)
def test_a_canary_of_every_kind_that_is_not_thinned_out_has_every_kind_once(fleet, each):
    assume(fleet)

    def kind(device):
        return str([device.profile if key == "profile" else device.labels.get(key) for key in each])

    canary = cut(fleet, Strategy(canary=Canary(each=each, most="100%")))[0].devices

    assert sorted(map(kind, canary)) == sorted({kind(device) for device in fleet})


@given(fleets, kinds)
def test_a_canary_of_every_kind_has_every_value_of_its_first_key_and_no_more_than_it_may(fleet, canary):
    assume(fleet)

    def first(device):
        return device.profile if canary.each[0] == "profile" else device.labels.get(canary.each[0])

    taken = cut(fleet, Strategy(canary=canary))[0].devices
    values = {first(device) for device in fleet}

    assert {first(device) for device in taken} == values
    assert len(taken) >= min(canary.least, len(fleet))
    assert len(taken) <= max(len(values), canary.least, at_least_one(canary.most, len(fleet)))


@given(fleets, shares)
def test_a_canary_is_its_share_of_the_fleet_and_at_least_one(fleet, share):
    assume(fleet)
    wanted = min(share, len(fleet)) if isinstance(share, int) else -(-int(share[:-1]) * len(fleet) // 100)

    assert len(cut(fleet, Strategy(canary=share))[0].devices) == max(1, wanted)


@given(fleets, shares, shares)
def test_after_a_wave_its_share_of_the_whole_fleet_has_the_release(fleet, canary, share):
    assume(fleet)
    waves = cut(fleet, Strategy(canary=canary, waves=[share]))
    done = sum(len(wave.devices) for wave in waves if wave.name != "the rest")

    assert done == max(at_least_one(share, len(fleet)), at_least_one(canary, len(fleet)))


@given(fleets, strategies)
def test_the_same_fleet_is_cut_the_same_way(fleet, strategy):
    again = Strategy.model_validate(strategy.model_dump(mode="json"))

    assert cut(list(fleet), again) == cut(fleet, strategy)


@pytest.mark.parametrize("waves", [["10%"], ["100%"], [Step(select="site")]])
def test_an_empty_fleet_has_no_waves(waves):
    assert cut([], Strategy(waves=waves)) == []
