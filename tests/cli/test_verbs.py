"""Verbs that need no device."""

import json

import pytest

from slmops.artifact import sign
from slmops.cli.doctor import EXTRAS
from slmops.profile.load import load_profiles
from slmops.rollout.history import History

FLEET = """\
name: shops
defaults:
  profile: local
devices:
  - name: edge-1
    host: 127.0.0.1
    port: 9
  - name: edge-2
    host: 127.0.0.2
"""


def test_the_profiles_are_listed_for_machines(slmops):
    ended = slmops("profile", "list", "-o", "json")

    names = [profile["name"] for profile in json.loads(ended.out)]
    assert (ended.code, ended.err) == (0, "")
    assert names == [profile.name for profile in load_profiles()]
    assert {"local", "raspberry-pi-5"} <= set(names)


def test_the_profiles_are_listed_for_people(slmops):
    lines = slmops("profile", "list").out.splitlines()

    assert lines[0].split()[:2] == ["profile", "device"]
    assert any(line.startswith("raspberry-pi-5 ") for line in lines)


def test_a_profile_is_shown_for_machines(slmops):
    said = json.loads(slmops("profile", "show", "raspberry-pi-4-2gb", "-o", "json").out)

    assert (said["name"], said["arch"]) == ("raspberry-pi-4-2gb", "aarch64")


def test_a_profile_shown_as_yaml_is_a_profile_file(slmops, tmp_path):
    mine = tmp_path / "intel-n100.yaml"
    mine.write_text(slmops("profile", "show", "intel-n100").out)

    again = slmops("profile", "show", str(mine))

    assert (again.code, again.out) == (0, mine.read_text())


def test_profiles_of_ones_own_are_listed_with_the_others(slmops, home):
    (home / "profiles").mkdir(parents=True)
    text = slmops("profile", "show", "intel-n100").out.replace("name: intel-n100", "name: kitchen", 1)
    (home / "profiles" / "kitchen.yaml").write_text(text)

    names = [profile["name"] for profile in json.loads(slmops("profile", "list", "-o", "json").out)]

    assert "kitchen" in names


def test_an_unknown_profile_is_a_usage_error_that_knows_what_was_meant(slmops):
    ended = slmops("profile", "show", "raspberry-pi-55")

    assert (ended.code, ended.out) == (2, "")
    assert "raspberry-pi-5" in ended.err


@pytest.mark.parametrize("kind", ["fleet", "profile", "recipe"])
def test_a_schema_is_json_schema_with_every_reference_kept(slmops, kind):
    ended = slmops("schema", kind)
    schema = json.loads(ended.out)

    assert ended.code == 0
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) <= set(schema["properties"])
    for reference in references(schema):
        assert reference.removeprefix("#/$defs/") in schema["$defs"]


@pytest.mark.parametrize("kind", ["fleet", "profile", "recipe"])
def test_an_editor_can_explain_every_key(slmops, kind):
    schema = json.loads(slmops("schema", kind).out)

    silent = [
        f"{owner['title']}.{key}"
        for owner in [schema, *schema["$defs"].values()]
        for key, said in owner.get("properties", {}).items()
        if not said.get("description") and "$ref" not in json.dumps(said)
    ]
    assert silent == []


def references(value):
    if isinstance(value, dict):
        return [v for k, v in value.items() if k == "$ref"] + [
            r for each in value.values() for r in references(each)
        ]
    return [r for each in value for r in references(each)] if isinstance(value, list) else []


def test_a_schema_of_nothing_is_a_usage_error(slmops):
    assert slmops("schema", "release").code == 2


def test_an_empty_registry_lists_nothing_and_is_not_made(slmops, home):
    ended = slmops("release", "list", "-o", "json")

    assert (ended.code, json.loads(ended.out)) == (0, [])
    assert not home.exists()


@pytest.mark.usefixtures("released")
def test_a_release_is_listed_and_shown(slmops):
    (listed,) = json.loads(slmops("release", "list", "-o", "json").out)
    shown = json.loads(slmops("release", "show", "parrot:1.0.0", "-o", "json").out)

    assert (listed["release"], listed["profiles"]) == ("parrot:1.0.0", ["local"])
    assert listed["digest"] == shown["digest"]
    (artifact,) = shown["artifacts"]
    assert artifact["files"]["model.gguf"] == 7000
    assert artifact["measured"]["top1"] == 0.991
    for words in (["list"], ["show", "parrot:1.0.0"]):
        assert "parrot:1.0.0" in slmops("release", *words).out


@pytest.mark.usefixtures("released")
def test_a_release_that_is_not_there_is_named_with_those_that_are(slmops):
    ended = slmops("release", "show", "parrot:9.9.9")

    assert (ended.code, ended.out) == (1, "")
    assert "SLM-RELEASE the registry has no release parrot:9.9.9; of parrot it has parrot:1.0.0" in ended.err
    assert "slmops release list" in ended.err


@pytest.mark.parametrize("name", ["parrot", "Parrot:1", "../x:1", "parrot:", ":1", "parrot:a b"])
def test_what_is_no_release_name_is_a_usage_error(slmops, name):
    ended = slmops("release", "show", name)

    assert ended.code == 2
    assert "SLM-USAGE" in ended.err


@pytest.mark.usefixtures("released")
def test_a_whole_release_verifies(slmops):
    ended = slmops("release", "verify", "parrot:1.0.0")

    assert ended.code == 0
    assert "parrot:1.0.0 is whole" in ended.out


def test_one_flipped_byte_does_not_verify(slmops, released):
    data = bytearray(released.model.read_bytes())
    data[17] ^= 1
    released.model.chmod(0o644)
    released.model.write_bytes(data)

    ended = slmops("release", "verify", "parrot:1.0.0")

    assert (ended.code, ended.out) == (7, "")
    assert "has rotted" in ended.err


def test_a_release_that_lost_a_blob_does_not_verify(slmops, released):
    released.model.unlink()

    ended = slmops("release", "verify", "parrot:1.0.0")

    assert ended.code == 7
    assert "is missing" in ended.err


def test_a_release_signed_by_another_key_does_not_verify(slmops, released, home):
    for file in (home / "keys").iterdir():
        file.unlink()
    sign.make_key(home / "keys" / "release", "another")

    ended = slmops("release", "verify", released.signed.release.reference)

    assert ended.code == 7
    assert "the signature does not hold" in ended.err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    port: 9", "\tport: 9", ["line 7", "tab"]),
        ("port: 9", "port: nine", ["line 7", "port"]),
        ("port: 9", "prot: 9", ["line 7", "prot"]),
        ("edge-2", "edge-1", ["line 8", "edge-1"]),
        ("host: 127.0.0.2", "hots: 127.0.0.2", ["line 9", "hots"]),
        ("name: shops", "name: [shops]", ["line 1", "name"]),
        ("devices:", "devices: []\nx-devices:", ["line 4", "devices"]),
    ],
)
def test_a_bad_fleet_file_is_named_with_line_and_key(slmops, tmp_path, old, new, words):
    file = tmp_path / "fleet.yaml"
    assert FLEET.count(old) == 1
    file.write_text(FLEET.replace(old, new))

    ended = slmops("status", file)

    assert (ended.code, ended.out) == (2, "")
    assert "SLM-DOCUMENT" in ended.err
    for word in [str(file), *words]:
        assert word in ended.err


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["rollback"],
        ["deploy", "--release", "parrot:1.0.0"],
        ["ask", "edge-1", "Hello?"],
        ["device", "retire", "edge-1", "-y", "--fleet"],
        ["device", "logs", "edge-1", "--fleet"],
        ["profile", "detect", "edge-1", "--fleet"],
        ["profile", "refine", "local", "--fleet"],
    ],
    ids=" ".join,
)
def test_a_fleet_file_that_is_not_there_is_named_by_every_verb(slmops, tmp_path, words):
    file = tmp_path / "nowhere.yaml"
    at = len(words) if "--fleet" in words else 1

    ended = slmops(*words[:at], file, *words[at:])

    assert ended.code == 2
    assert f"{file}: no such file" in ended.err


def test_a_device_that_the_fleet_has_not_is_named_with_those_it_has(slmops, tmp_path):
    (tmp_path / "fleet.yaml").write_text(FLEET)

    ended = slmops("ask", tmp_path / "fleet.yaml", "edge-3", "Hello?")

    assert ended.code == 2
    assert "no device 'edge-3'; it has edge-1, edge-2" in ended.err


def test_a_selector_that_picks_nobody_is_a_usage_error(slmops, tmp_path):
    (tmp_path / "fleet.yaml").write_text(FLEET)

    ended = slmops("status", tmp_path / "fleet.yaml", "-l", "site=mars")

    assert ended.code == 2
    assert "'site=mars' picks none of 2 devices" in ended.err


@pytest.mark.usefixtures("released")
def test_a_release_is_looked_for_before_any_device(slmops, tmp_path):
    (tmp_path / "fleet.yaml").write_text(FLEET)

    ended = slmops("deploy", tmp_path / "fleet.yaml", "--release", "parrot:2.0.0", "-y")

    assert (ended.code, ended.out) == (1, "")
    assert "of parrot it has parrot:1.0.0" in ended.err


def test_unreachable_devices_have_a_row_each_and_the_exit_code_says_so(slmops, tmp_path):
    (tmp_path / "fleet.yaml").write_text(FLEET)

    ended = slmops("status", tmp_path / "fleet.yaml", "-l", "edge-1", "-o", "json")

    (row,) = json.loads(ended.out)["devices"]
    assert (ended.code, row["device"], row["health"]) == (6, "edge-1", "unreachable")
    assert "127.0.0.1:9" in row["remark"]


def test_a_profile_is_not_refined_by_devices_that_say_nothing(slmops, tmp_path, home):
    (tmp_path / "fleet.yaml").write_text(FLEET[: FLEET.index("  - name: edge-2")])

    ended = slmops("profile", "refine", "local", "--fleet", tmp_path / "fleet.yaml")

    assert (ended.code, ended.out) == (1, "")
    assert "no device of profile local has reported enough" in ended.err
    assert "edge-1: " in ended.err
    assert not home.exists()


def test_a_profile_is_not_refined_by_devices_of_another(slmops, tmp_path):
    (tmp_path / "fleet.yaml").write_text(FLEET)

    ended = slmops("profile", "refine", "raspberry-pi-5", "--fleet", tmp_path / "fleet.yaml")

    assert ended.code == 1
    assert "the fleet has none" in ended.err


def test_doctor_names_every_part_and_how_to_get_it(slmops):
    ended = slmops("doctor", "-o", "json")

    findings = json.loads(ended.out)
    assert ended.code in (0, 1)
    assert findings[0]["what"].startswith("python 3.")
    assert all(finding["remedy"] for finding in findings if finding["state"] == "missing")
    for extra in EXTRAS:
        assert any(finding["what"].startswith(f"extra {extra}") for finding in findings)


def test_doctor_makes_nothing(slmops, home):
    slmops("doctor")

    assert not home.exists()


def test_doctor_without_programs_says_what_is_missing_and_fails(slmops, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    ended = slmops("doctor", "-o", "json")

    found = {finding["what"]: finding for finding in json.loads(ended.out)}
    assert ended.code == 1
    assert found["ssh-keygen"]["state"] == "missing"
    assert found["ssh-keygen"]["remedy"] == "apt-get install openssh-client"


def test_without_rollouts_there_is_none_to_show(slmops):
    assert json.loads(slmops("rollout", "list", "-o", "json").out) == []
    ended = slmops("rollout", "show")

    assert ended.code == 2
    assert "there was no rollout yet" in ended.err


def test_a_rollout_is_listed_and_shown_with_what_failed(slmops, home):
    history = History(home / "rollouts.sqlite")
    number = history.begin("shops", "parrot:1.0.0", "sha256:00", [[], ["edge-1"], ["edge-2"]])
    failed = {"question": "One and one?", "expected": "two", "answer": "[red]three[/]"}
    history.told(number, "edge-1", "went back", "1 of 1 golden prompts failed", {"failed": [failed]})
    history.moved(number, "went back", 0)
    history.close()

    (listed,) = json.loads(slmops("rollout", "list", "-o", "json").out)
    shown = json.loads(slmops("rollout", "show", "-o", "json").out)
    people = slmops("rollout", "show", str(number)).out

    assert (listed["id"], listed["state"], listed["waves"]) == (number, "went back", 2)
    assert [device["state"] for device in shown["devices"]] == ["went back", "waiting"]
    assert shown["devices"][0]["evidence"]["failed"] == [failed]
    assert "edge-1 was asked  One and one?" in people
    assert "answered  [red]three[/]" in people
    assert slmops("rollout", "show", "99").code == 2
