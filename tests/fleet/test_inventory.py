"""Hosts, groups and labels: the fleet file, and the devices it comes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.document import loads
from slmops.errors import DocumentError
from slmops.fleet.inventory import Device, Fleet, expand

HEAD = "name: lab\n"
ONE = "devices:\n  - {name: a, host: 10.0.0.1}\n"


def devices(text):
    return loads(HEAD + text, Fleet, "fleet.yaml").resolved()


def refused(text):
    with pytest.raises(DocumentError) as told:
        loads(HEAD + text, Fleet, "fleet.yaml")
    return str(told.value)


def test_a_device_that_says_nothing_has_the_defaults_told_in_the_schema():
    assert devices(ONE) == [
        Device(
            name="a",
            host="10.0.0.1",
            port=22,
            root="~/.slmops",
            runtime=("auto",),
            daemon_port=11435,
            service="auto",
            connect_timeout=10.0,
        )
    ]


@given(
    st.lists(st.none() | st.integers(1, 65535), min_size=4, max_size=4),
    st.permutations(["first", "second"]),
)
def test_a_setting_is_the_devices_then_its_groups_in_order_then_the_defaults(ports, order):
    own, *grouped, default = ports

    def said(port):
        return "{}" if port is None else f"{{port: {port}}}"

    (device,) = devices(
        f"defaults: {said(default)}\n"
        f"groups: {{{order[0]}: {said(grouped[0])}, {order[1]}: {said(grouped[1])}}}\n"
        f"devices: [{{name: a, host: h, groups: [{order[0]}, {order[1]}]"
        + ("" if own is None else f", port: {own}")
        + "}]\n"
    )

    assert device.port == next((port for port in ports if port is not None), 22)


def test_labels_gather_and_the_nearer_word_wins():
    (device,) = devices(
        "groups:\n"
        "  berlin: {labels: {site: berlin, rack: one}}\n"
        "  canary: {labels: {site: nowhere, canary: 'yes'}}\n"
        "devices:\n"
        "  - {name: a, host: h, groups: [berlin, canary], labels: {rack: two}}\n"
    )

    assert device.labels == {"site": "berlin", "rack": "two", "canary": "yes"}
    assert device.groups == ("berlin", "canary")


@pytest.mark.parametrize(("said", "words"), [("py", ("py",)), ("[env, py, -u]", ("env", "py", "-u"))])
def test_a_runtime_is_one_word_or_several(said, words):
    (device,) = devices(f"defaults: {{runtime: {said}}}\n{ONE}")

    assert device.runtime == words


@given(st.integers(0, 120), st.integers(0, 30), st.integers(0, 4))
def test_a_range_has_every_number_in_it_in_order_and_as_wide_as_the_first(first, more, zeros):
    start = "0" * zeros + str(first)
    names = expand(f"edge-[{start}:{first + more}].lan")

    numbers = [name.removeprefix("edge-").removesuffix(".lan") for name in names]
    assert [int(number) for number in numbers] == list(range(first, first + more + 1))
    assert numbers[0] == start
    assert all(len(number) >= len(start) for number in numbers)


@given(st.text().filter(lambda text: "[" not in text))
def test_text_without_a_range_is_itself(text):
    assert expand(text) == [text]


def test_two_ranges_are_every_pair():
    assert expand("r[1:2]-[a]-s[08:10]") == [
        f"r{rack}-[a]-s{slot}" for rack in (1, 2) for slot in ("08", "09", "10")
    ]


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 10), st.integers(0, 10))
def test_a_range_yields_as_many_names_as_hosts_or_is_refused(first, other, more, most):
    text = f"devices:\n  - name: edge-[{first}:{first + more}]\n    host: 10.0.0.[{other}:{other + most}]\n"
    if more == most:
        assert len(devices(text)) == more + 1
    else:
        words = f"{more + 1} names but {most + 1} hosts"
        assert refused(text) == f"fleet.yaml, line 4: devices[0].host: {words}"


def test_names_and_hosts_of_a_range_go_together():
    found = devices("devices:\n  - {name: 'edge-[08:10]', host: '10.0.0.[98:100]', profile: pi}\n")

    assert [(each.name, each.host, each.profile) for each in found] == [
        ("edge-08", "10.0.0.98", "pi"),
        ("edge-09", "10.0.0.99", "pi"),
        ("edge-10", "10.0.0.100", "pi"),
    ]


def test_a_range_that_runs_backwards_is_refused():
    assert "line 3: devices[0].name" in refused("devices:\n  - {name: 'e-[5:1]', host: '10.0.0.[5:1]'}\n")


@pytest.mark.parametrize("second", ["{name: a, host: h2}", "{name: b, host: h2}\n  - {name: a, host: h3}"])
def test_a_name_that_stands_twice_is_refused_with_its_line(second):
    told = refused(f"devices:\n  - {{name: a, host: h1}}\n  - {second}\n")

    assert told.startswith(f"fleet.yaml, line {4 + second.count('- {')}: devices[")
    assert told.endswith("name: the name 'a' stands here twice")


def test_a_name_inside_anothers_range_is_refused():
    told = refused("devices:\n  - {name: 'e-[1:3]', host: 'h[1:3]'}\n  - {name: e-2, host: other}\n")

    assert told == "fleet.yaml, line 4: devices[1].name: the name 'e-2' stands here twice"


def test_two_devices_at_one_place_are_refused_with_line_and_the_first_ones_name():
    told = refused("devices:\n  - {name: a, host: h}\n  - {name: b, host: h, port: 22}\n")

    assert told == "fleet.yaml, line 4: devices[1].host: the same host and port as 'a'"


@pytest.mark.parametrize("apart", ["port: 2222", "root: /opt/slmops"])
def test_two_devices_on_one_host_need_a_port_or_a_root_of_their_own(apart):
    assert len(devices(f"devices:\n  - {{name: a, host: h}}\n  - {{name: b, host: h, {apart}}}\n")) == 2


def test_a_group_that_is_not_there_is_refused_with_its_line():
    told = refused("devices:\n  - name: a\n    host: h\n    groups: [berlin]\n")

    assert told == "fleet.yaml, line 5: devices[0].groups: there is no group 'berlin'"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("devices:\n\t- {name: a, host: h}\n", "line 3: a tab before"),
        ("devices: []\n", "line 2: devices: "),
        ("devices: {a: h}\n", "line 2: devices: expected a list, got a mapping"),
        ("devices:\n  - {name: a}\n", "line 3: devices[0].host: missing key"),
        ("devices:\n  - {name: a, hots: h, host: h}\n", "line 3: devices[0].hots: unknown key; did you"),
        ("devices:\n  - {name: 1, host: h}\n", "line 3: devices[0].name: expected text, got 1; put it in"),
        ("devices:\n  - {name: a, host: h, port: '22'}\n", "line 3: devices[0].port: expected an integer"),
        (f"defaults: {{port: 0}}\n{ONE}", "line 2: defaults.port: expected at least 1, got 0"),
        (f"defaults: {{port: 65536}}\n{ONE}", "line 2: defaults.port: expected at most 65535"),
        (f"defaults: {{service: upstart}}\n{ONE}", "line 2: defaults.service: expected 'auto', 'systemd' or"),
        (f"defaults: {{connect_timeout: 0}}\n{ONE}", "line 2: defaults.connect_timeout: expected more"),
        (f"groups:\n  a: {{}}\n  a: {{}}\n{ONE}", "line 4: groups.a: duplicate key; line 3 has it already"),
        (f"groups: {{a: {{labels: {{site: 3}}}}}}\n{ONE}", "line 2: groups.a.labels.site: expected text"),
        (f"groups: {{a: {{groups: [b]}}}}\n{ONE}", "line 2: groups.a.groups: unknown key"),
        (f"groups:\n  a:\n{ONE}", "line 3: groups.a: expected a mapping, got nothing"),
        (f"groups: {{a;b: {{}}}}\n{ONE}", 'line 2: groups."a;b": expected text of the form'),
        (f"rollout: {{soak: soon}}\n{ONE}", "line 2: rollout.soak: expected a duration"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_key(text, words):
    assert f"fleet.yaml, {words}" in refused(text)


@pytest.mark.parametrize(
    "name", ["''", "'a,b'", "'a b'", "../a", "'!a'", "a=b", "-rf", "a;b", "$(b)", "'`b`'", "a|b", "'a\"b'"]
)
def test_a_device_name_that_no_selector_could_pick_is_refused(name):
    assert "devices[0].name" in refused(f"devices:\n  - {{name: {name}, host: h}}\n")


@pytest.mark.parametrize("said", ["[]", "''", "['']"])
def test_a_runtime_of_no_words_is_refused(said):
    assert "defaults.runtime" in refused(f"defaults: {{runtime: {said}}}\n{ONE}")


def test_an_empty_host_is_refused():
    assert "devices[0].host" in refused("devices:\n  - {name: a, host: ''}\n")


def test_a_jump_host_whose_port_is_no_number_is_refused():
    assert "defaults.jump" in refused(f"defaults: {{jump: 'gate:ssh'}}\n{ONE}")


def test_every_problem_of_the_file_is_told_at_once():
    told = refused("defaults: {port: 0}\ndevices:\n  - {name: a}\n  - {host: h}\n").splitlines()

    assert [line.partition(": ")[0] for line in told] == [f"fleet.yaml, line {n}" for n in (2, 4, 5)]


@pytest.mark.parametrize(
    ("said", "bundle", "python"),
    [
        ("auto", "auto", ("python3",)),
        ("runtime:1.0.0", "runtime:1.0.0", ("python3",)),
        ("/opt/slmops/bin/python", None, ("/opt/slmops/bin/python",)),
        ("python3.12", None, ("python3.12",)),
        ("[nice, python3]", None, ("nice", "python3")),
    ],
)
def test_a_runtime_is_a_bundle_or_a_python_of_the_device(said, bundle, python):
    (device,) = devices(f"defaults: {{runtime: {said}}}\n" + ONE)

    assert (device.bundle, device.python) == (bundle, python)


def test_a_bandwidth_is_read_as_people_write_it_and_is_more_than_nothing():
    (device,) = devices("defaults: {bandwidth: 2MB/s}\n" + ONE)

    assert device.bandwidth == 2_000_000
    assert "bandwidth" in refused("defaults: {bandwidth: 0B/s}\n" + ONE)


def test_a_time_zone_is_a_setting_like_others():
    berlin, lobby = devices(
        "defaults: {timezone: Europe/Berlin}\n"
        "devices: [{name: a, host: h}, {name: b, host: i, timezone: America/New_York}]\n"
    )

    assert (berlin.timezone, lobby.timezone) == ("Europe/Berlin", "America/New_York")
    assert devices(ONE)[0].timezone == "UTC"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Europe/Berln", "did you mean Europe/Berlin"),
        ("nowhere at all", "expected an IANA name such as Europe/Berlin or UTC"),
        ("../../etc/passwd", "there is no time zone '../../etc/passwd'"),
        ("Europe", "there is no time zone 'Europe'"),
        ("''", "there is no time zone ''"),
    ],
)
def test_a_time_zone_that_is_none_is_refused_naming_line_and_key(said, words):
    assert "fleet.yaml, line 2: defaults.timezone: there is no time zone" in (
        told := refused(f"defaults: {{timezone: {said}}}\n{ONE}")
    )
    assert words in told


def test_a_wave_that_picks_nobody_of_the_fleet_is_refused():
    waves = "rollout: {waves: [10%, {select: 'sit=berlin'}]}\n"

    assert "line 2: rollout.waves[1].select: selector 'sit=berlin' picks none of 1 devices (a)" in refused(
        waves + ONE
    )
    assert "rollout.waves[0].select: selector 'a,': a term is empty" in refused(
        "rollout: {waves: [{select: 'a,'}]}\n" + ONE
    )
    assert devices("rollout: {waves: [{select: a}]}\n" + ONE)


def test_how_the_daemon_is_run_is_looked_for_key_by_key_and_told_to_the_device():
    (device,) = devices(
        "defaults: {daemon: {slots: 8, cache: 16MiB}}\n"
        "groups: {small: {daemon: {slots: 2, seats: 4}}}\n"
        "devices: [{name: a, host: h, groups: [small], daemon: {seats: 0, cors: [https://a.example]}}]\n"
    )

    expected = {"slots": 2, "seats": 0, "cache": 16 << 20, "cors": ["https://a.example"]}
    assert device.told["daemon"] == expected


def test_a_daemon_that_nobody_says_anything_of_is_told_nothing():
    assert devices(ONE)[0].told["daemon"] == {}


def test_a_flag_that_no_daemon_has_is_refused():
    assert "slot" in refused("defaults: {daemon: {slot: 8}}\n" + ONE)
    assert "capture" in refused("defaults: {daemon: {capture: 2}}\n" + ONE)


@pytest.mark.parametrize(
    "said", ["host: '-x'", "host: 'a b'", "cors: ['-x']", "cors: [a.example]", "cors: ['https://a.example/']"]
)
def test_what_the_daemon_would_not_start_with_is_refused_where_it_is_written(said):
    assert said.partition(":")[0] in refused(f"defaults: {{daemon: {{{said}}}}}\n" + ONE)
