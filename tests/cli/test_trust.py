"""slmops trust: keys and documents as an operator handles them."""

import json
from pathlib import Path

import pytest

from slmops.artifact import sign
from slmops.artifact import trust as trusts
from slmops.cli.keyring import Keyring
from slmops.errors import MissingPartError


@pytest.fixture
def shown(slmops):
    """What `slmops trust show` says."""
    return lambda: json.loads(slmops("trust", "show", "-o", "json").out)


@pytest.fixture
def key(tmp_path):
    """Make a key that lies elsewhere."""

    def make(name):
        sign.make_key(tmp_path / "elsewhere" / name, name)
        return tmp_path / "elsewhere" / name

    return make


def print_of(path):
    return sign.fingerprint(Path(f"{path}.pub"))


def keys(said, role):
    return {row["key"] for row in said["keys"] if row["role"] == role}


def test_the_first_use_makes_a_key_for_each_role_and_says_so(slmops, home, shown):
    ended = slmops("trust", "init")

    said = shown()
    assert ended.code == 0
    assert [f"Made a {role} key: {home / 'keys' / role}" in ended.err for role in trusts.ROLES] == [True] * 3
    assert (said["version"], said["expires"], said["thresholds"]) == (1, None, dict.fromkeys(trusts.ROLES, 1))
    assert {row["held"] for row in said["keys"]} == {str(home / "keys" / role) for role in trusts.ROLES}


def test_a_home_from_before_keeps_its_release_key(slmops, home, shown):
    sign.make_key(home / "keys" / "release", "of old")

    assert slmops("trust", "show").code == 0
    assert keys(shown(), "release") == {print_of(home / "keys" / "release")}
    (document,) = Keyring(home).chain()
    assert sign.signers(document.document, document.signatures, document.trust.of("release"), sign.TRUST)


def test_without_any_key_show_says_how_to_begin(slmops):
    ended = slmops("trust", "show")

    assert ended.code == 1
    assert "slmops trust init" in ended.err


def test_keys_of_ones_own_are_linked_and_not_copied(slmops, home, shown, key):
    ours = key("ours")
    assert slmops("trust", "init", "--release-key", ours, "--expires", "1y").code == 0

    assert keys(shown(), "release") == {print_of(ours)}
    assert (home / "keys" / "release").resolve() == ours
    assert shown()["expires"] > shown()["created"]


def test_a_key_of_an_agent_is_given_by_its_public_half(slmops, home, key):
    ours = key("ours")
    ours.unlink()

    assert slmops("trust", "init", "--release-key", f"{ours}.pub").code == 0
    assert Keyring(home).held()[print_of(ours)] == home / "keys" / "release.pub"


def test_a_second_beginning_is_refused(slmops):
    slmops("trust", "init")

    ended = slmops("trust", "init")

    assert ended.code == 2
    assert "slmops trust rotate" in ended.err


def test_a_key_is_rotated_and_the_chain_leads_from_the_first_document_to_the_last(slmops, home, shown):
    slmops("trust", "init")
    (old,) = keys(shown(), "release")
    assert slmops("trust", "rotate", "--role", "release", "--add", "new", "--remove", old[:12]).code == 0

    first, second = Keyring(home).chain()
    assert (first.trust.version, second.trust.version) == (1, 2)
    assert old not in keys(shown(), "release")
    assert Keyring(home).key("release") == home / "keys" / "release-2"


def test_a_revoked_key_never_counts_again(slmops, home, shown):
    slmops("trust", "init")
    slmops("trust", "rotate", "--role", "release", "--add", "new")
    assert slmops("trust", "revoke", home / "keys" / "release").code == 0

    lost = print_of(home / "keys" / "release")
    assert shown()["revoked"] == [lost]
    assert lost not in keys(shown(), "release")
    again = slmops("trust", "rotate", "--role", "release", "--add", home / "keys" / "release")
    assert again.code == 7
    assert "revoked" in again.err


def test_the_last_key_of_a_role_is_not_revoked(slmops, home):
    slmops("trust", "init")

    ended = slmops("trust", "revoke", home / "keys" / "release")

    assert ended.code == 7
    assert "the release role would have no key" in ended.err
    assert "slmops trust rotate --role release --add new" in ended.err


def test_a_document_that_lacks_root_signatures_waits_for_them(slmops, shown, key, home):
    ours, theirs = key("ours"), key("theirs")
    slmops("trust", "init", "--root-key", ours)
    assert slmops("trust", "rotate", "--role", "root", "--add", f"{theirs}.pub", "--threshold", "2").code == 0
    assert shown()["version"] == 2
    aside = theirs.rename(theirs.with_name("in-a-safe"))
    for link in (home / "keys").glob("root-*"):
        link.unlink()

    waits = slmops("trust", "rotate", "--expires", "1y")
    assert "Trust document 3 waits for root signatures" in waits.err
    assert (shown()["version"], shown()["pending"]) == (2, 3)
    assert slmops("trust", "rotate", "--expires", "2y").code == 2

    aside.rename(theirs)
    assert slmops("trust", "sign", "--key", theirs).code == 0
    assert (shown()["version"], shown()["pending"]) == (3, None)


@pytest.mark.usefixtures("released")
def test_a_release_gets_a_second_signature_where_two_are_asked_for(slmops, shown):
    slmops("trust", "rotate", "--role", "release", "--add", "new", "--threshold", "2")
    assert shown()["next"] == [
        "No device takes parrot:1.0.0 as it is signed: slmops trust sign parrot:1.0.0."
    ]
    assert slmops("release", "verify", "parrot:1.0.0").code == 7

    signed = slmops("trust", "sign", "parrot:1.0.0")

    assert (
        "parrot:1.0.0: signatures of release keys 2, asked for 2; enough release keys have signed it."
        in signed.err
    )
    assert slmops("release", "verify", "parrot:1.0.0").code == 0
    assert shown()["next"] == []


def test_a_key_on_a_medium_that_is_away_is_not_held_and_ends_nothing(slmops, shown, key, home):
    ours = key("ours")
    slmops("trust", "init", "--root-key", ours)
    ours.parent.rename(ours.parent.with_name("in-a-safe"))

    assert {row["role"]: bool(row["held"]) for row in shown()["keys"]} == {
        "root": False, "release": True, "rollout": True,
    }  # fmt: skip
    assert Keyring(home).key("release") == home / "keys" / "release"
    assert "waits for root signatures" in slmops("trust", "rotate", "--expires", "1y").err


def test_a_new_document_is_said_to_be_in_force_and_how_devices_learn_of_it(slmops):
    slmops("trust", "init")

    ended = slmops("trust", "rotate", "--expires", "1y")

    assert "Trust document 2 is in force; devices learn of it with the next deployment." in ended.err


def test_what_expires_soon_is_said(slmops, shown):
    slmops("trust", "init", "--expires", "9d")

    (line,) = shown()["next"]
    assert "slmops trust rotate --expires 1y" in line
    slmops("trust", "rotate", "--expires", "1y")
    assert shown()["next"] == []


def test_root_lowers_a_floor(slmops, shown):
    slmops("trust", "init")
    strange = slmops("trust", "rotate", "--floor", "demo=3")
    assert strange.code == 2
    assert "the registry has no release demo; known: none" in strange.err
    assert slmops("trust", "rotate", "--floor", "demo=3", "--yes").code == 0
    assert "demo=3" in slmops("trust", "show").out

    assert shown()["floors"] == {"demo": 3}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rotate"], "nothing is to change"),
        (["rotate", "--role", "boss", "--add", "new"], "expected one of root, release, rollout"),
        (["rotate", "--expires", "soon"], "expected a span such as 90d"),
        (["rotate", "--floor", "demo"], "expected NAME=COUNTER"),
        (["rotate", "--role", "release", "--add", "/no/such/key"], "no public key /no/such/key.pub"),
        (["revoke", "nobody"], "expected one key that is called 'nobody', there are 0"),
        (["sign"], "no trust document waits"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(slmops, shown, words, said):
    slmops("trust", "init")

    ended = slmops("trust", *words)

    assert ended.code == 2
    assert said in ended.err
    assert shown()["version"] == 1


@pytest.fixture
def second(tmp_path, monkeypatch):
    """Be the operator of a home: the first, or another."""

    def be(name):
        monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / name))
        return tmp_path / name

    return be


def test_a_second_operator_gets_trust_by_a_file_without_private_keys(slmops, shown, second, tmp_path):
    slmops("trust", "init")
    slmops("trust", "rotate", "--expires", "1y")
    file = tmp_path / "trust.json"
    assert slmops("trust", "export", file).code == 0
    assert "PRIVATE" not in file.read_text()
    roots = keys(shown(), "root")

    second("other")
    asked = slmops("trust", "import", file)
    assert asked.code == 2
    assert roots.pop() in asked.err
    assert "--yes" in asked.err
    assert slmops("trust", "import", file, "--yes").code == 0
    assert (shown()["version"], {row["held"] for row in shown()["keys"]}) == (2, {""})
    assert "No document there is newer" in slmops("trust", "import", file).err


def test_a_rollout_key_of_a_second_operator_is_signed_for_by_the_root_holder(slmops, shown, second, tmp_path):
    file = tmp_path / "trust.json"
    slmops("trust", "init")
    slmops("trust", "export", file)
    other = second("other")
    slmops("trust", "import", file, "--yes")
    with pytest.raises(MissingPartError) as lacking:
        Keyring(other).key("rollout")
    assert "slmops trust export FILE" in lacking.value.remedy

    slmops("trust", "rotate", "--role", "rollout", "--add", "new")
    assert slmops("trust", "export", file).code == 0
    second("home")
    assert slmops("trust", "import", file).code == 0
    said = shown()
    assert (said["version"], said["pending"]) == (1, 2)
    (change,) = said["changes"]
    assert change == f"rollout gets key {print_of(other / 'keys' / 'rollout')}"
    assert slmops("trust", "sign").code == 0
    slmops("trust", "export", file)

    second("other")
    assert slmops("trust", "import", file).code == 0
    assert (shown()["version"], shown()["pending"]) == (2, None)
    assert Keyring(other).key("rollout") == other / "keys" / "rollout"


@pytest.mark.parametrize("begin", [1, 2])
def test_documents_of_another_line_are_not_taken(slmops, shown, second, tmp_path, begin):
    file = tmp_path / "trust.json"
    second("other")
    slmops("trust", "init")
    slmops("trust", "rotate", "--expires", "1y")
    slmops("trust", "export", file)
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"documents": said["documents"][begin - 1 :]}))
    second("home")
    slmops("trust", "init")
    before = shown()

    ended = slmops("trust", "import", file, "--yes")

    assert ended.code == 7
    assert "do not lead on" in ended.err
    assert shown() == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": "x", "documents": [], "pending": null}'])
def test_a_file_that_holds_no_trust_documents_is_said_to(slmops, tmp_path, text):
    (tmp_path / "trust.json").write_text(text)

    ended = slmops("trust", "import", tmp_path / "trust.json", "--yes")

    assert ended.code == 7
    assert "slmops trust export FILE" in ended.err
    assert slmops("trust", "import", tmp_path / "none").code == 2


@pytest.mark.usefixtures("released")
def test_a_release_is_exported_with_a_signature_of_its_own(slmops, tmp_path):
    ended = slmops("release", "export", "parrot:1.0.0", tmp_path / "out", "-o", "json")

    said = json.loads(ended.out)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "artifact.json", "golden.jsonl", "model.gguf", "model.sig",
    }  # fmt: skip
    assert Path(said["public_key"]).read_text().startswith("-----BEGIN PUBLIC KEY")
    assert slmops("release", "export", "parrot:1.0.0", tmp_path / "out").code == 2


@pytest.mark.usefixtures("released")
def test_a_release_is_exported_to_the_folder_one_is_in(slmops, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")

    assert slmops("release", "export", "parrot:1.0.0", ".").code == 0
    assert (tmp_path / "out.public.pem").is_file()
