"""Attacks on a device by those who may send to it: a repository that lies, keys that were stolen, old words.

The names are those of the Uptane standard and of TUF; S1 to S16 are the rows of our fault table. What is
attacked is the device's own code, where it can be in its real agent.
"""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from slmops import digest as digests
from slmops import wire
from slmops.artifact import amendment, manifest, sign, vouch
from slmops.artifact import trust as trusts
from slmops.artifact.assignment import Assignment
from slmops.artifact.trust import RELEASE, ROLLOUT, ROOT, SignedTrust
from slmops.device import prepare, receive, stage, trust
from slmops.device.places import write_json
from slmops.errors import DoesNotFitError, IntegrityError
from slmops.wire import Request

BEGAN, NOW, LATER, NEVER = (f"{year}-01-01T00:00:00Z" for year in (2026, 2027, 2028, 2090))
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
SETTINGS = {"device": "box", "profile": "local", "runtime": ["python3"], "port": 0, "service": "process"}
TIMES = {"ready_seconds": 30.0, "gate_seconds": 30.0, "confirm_seconds": 60.0}
NAMES = ("root", "root-2", "release", "release-2", "rollout", "stranger")


class Operator:
    """Who signs: all keys, the trust documents, and everything that one device is told."""

    def __init__(self, folder, shop):
        self.folder, self.shop = folder, shop
        for name in NAMES:
            sign.make_key(folder / name, name)
        first = self.document(amendment.first(BEGAN, None, self.keys(), {}))
        self.chain = [self.signed(first, "root", "release")]
        self.epoch = 1

    def keys(self):
        return {role: [self.public(role)] for role in (ROOT, RELEASE, ROLLOUT)}

    def public(self, name):
        return trusts.key_text((self.folder / f"{name}.pub").read_text())

    def print(self, name):
        return trusts.fingerprint(self.public(name))

    @staticmethod
    def document(document):
        return trusts.render(document)

    def signed(self, document, *names):
        return SignedTrust(document, tuple(self.sign(document, name, sign.TRUST) for name in names))

    def sign(self, data, name, namespace=sign.RELEASE):
        return sign.sign(data, self.folder / name, namespace)

    @property
    def trust(self):
        return self.chain[-1].trust

    def next(self, change=lambda document: document, *names, expires=None, floors=None, created=NOW):
        """The next trust document, changed and signed by these root keys; it is in force for the operator."""
        following = amendment.following(self.trust, created, expires, floors)
        self.chain.append(self.signed(self.document(change(following)), *(names or ("root",))))
        return self.told()

    def told(self):
        return [trusts.said(signed) for signed in self.chain]

    def index(self, version="1.0.0", counter=1, parcel=None, **changes):
        """The bytes of a release's index."""
        release = (parcel or self.shop.release(version)).signed.release
        return manifest.render_release(replace(release, counter=counter, **changes))

    def assigned(self, index, parcel, key="rollout", **changes):
        """An assignment of a slot, as it is said."""
        whole = {
            "device": "box", "identity": None, "release": digests.of_bytes(index), "slot": parcel.slot,
            "epoch": self.epoch, "issued": NOW, "valid_until": NEVER, "nonce": None,
        }  # fmt: skip
        return vouch.assign(Assignment(**whole | changes), self.folder / key)

    def said(self, index=None, by=("release",), assigned=(), parcel=None, **changes):
        """What `prepare` is told: all of it valid, unless something is changed."""
        parcel = parcel or self.shop.release()
        index = self.index(parcel=parcel) if index is None else index
        whole = {
            "index": index.decode(),
            "signatures": [self.sign(index, name).decode() for name in by],
            "manifest": manifest.render_artifact(parcel.built).decode(),
            "profile": "local",
            "assignment": self.assigned(index, parcel, **dict(assigned)),
        }
        return whole | changes


@pytest.fixture
def operator(tmp_path, shop):
    return Operator(tmp_path / "operator", shop)


@pytest.fixture
def here(places, operator):
    """A device that is enrolled, spoken to within this process."""
    write_json(places.config, SETTINGS)
    trust.greet(places, operator.told())
    return places


def refused(places, said, words, kind=IntegrityError):
    """Prepare, which must be refused with these words, and must leave no file."""
    with pytest.raises(kind, match=words):
        prepare.make_ready(places, said)
    assert not any(places.incoming.iterdir())
    assert not any(places.slots.iterdir())


def bring(places, said, parcel):
    """Take a release in; return its slot."""
    for each in prepare.make_ready(places, said)["missing"]:
        data = parcel.files[each["name"]]
        (places.root / "sent").write_bytes(data)
        with (places.root / "sent").open("rb") as source:
            told = {"slot": parcel.slot, "name": each["name"], "offset": 0, "length": len(data)}
            receive.take(places, told, source.read)
    stage.make_slot(places, parcel.slot)
    return parcel.slot


def release(operator, counter, version="1.0.0", **changes):
    """All that is said of a release with this counter."""
    parcel = operator.shop.release(version)
    return operator.said(operator.index(counter=counter, parcel=parcel, **changes), parcel=parcel)


def committed(places, operator, *counters):
    """Commit releases one after another, as far as trust is concerned."""
    slots = []
    for counter in counters:
        parcel = operator.shop.release(f"{counter}.0.0")
        slots.append(bring(places, release(operator, counter, f"{counter}.0.0"), parcel))
        trust.raise_floors(places, slots[-2:])


def test_what_all_have_signed_is_let_in(here, operator):
    assert prepare.make_ready(here, operator.said())["staged"] is False


# One field at a time: a repository, or a link, that lies somewhere.


def ways(value, way=()):
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*way, key)
        yield from ways(each, (*way, key))


def lie(value):
    """Something else of the same kind."""
    if isinstance(value, bool) or value is None:
        return "something"
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    return [] if isinstance(value, list) and value else {"more": 1}


def changed(value, way):
    """A JSON document with a lie at a path."""
    if not way:
        return lie(value)
    other = dict(value) if isinstance(value, dict) else list(value)
    other[way[0]] = changed(value[way[0]], way[1:])
    return other


def cut(value, way):
    """A JSON document that lacks what is at a path."""
    other = dict(value) if isinstance(value, dict) else list(value)
    if len(way) == 1:
        del other[way[0]]
    else:
        other[way[0]] = cut(value[way[0]], way[1:])
    return other


def lies(text):
    """Every document that differs from this one in one place."""
    said = json.loads(text)
    for way in ways(said):
        for other in (changed(said, way), cut(said, way)):
            yield f"{'.'.join(map(str, way))}", manifest.canonical(other).decode()


def put(said, way, value):
    if not way:
        return value
    other = dict(said) if isinstance(said, dict) else list(said)
    other[way[0]] = put(said[way[0]], way[1:], value)
    return other


DOCUMENTS = [("index",), ("manifest",), ("assignment", "document"), ("trust", 0, "document")]


def test_a_repository_that_lies_in_any_one_field_of_any_document_is_refused(box, operator):
    """Every field of every document, changed and left out, through one session with the real agent."""
    box.get("hello")
    greeted = box.get("enroll", trust=operator.told(), **SETTINGS)
    document = operator.next()[-1]
    bound = {"identity": greeted["identity"], "nonce": greeted["nonce"]}
    index = operator.index(expires=LATER)
    said = {**operator.said(index, assigned=bound), "trust": [document]}
    told = []
    for way in DOCUMENTS:
        text = said
        for step in way:
            text = text[step]
        told += [(way, where, put(said, way, other)) for where, other in lies(text)]

    replies = session(box, [("prepare", each) for _, _, each in told] + [("prepare", said)])

    wrong = [
        (way, where) for (way, where, _), reply in zip(told, replies, strict=False) if reply.kind == "done"
    ]
    codes = {reply.said["code"] for reply in replies[:-1]}
    assert wrong == []
    assert codes == {"SLM-INTEGRITY"}
    assert len(told) > 100
    assert replies[-1].kind == "done"


STRANGE = [
    None,
    5,
    -1.5,
    True,
    "",
    "\ud800",
    "x" * 9,
    [],
    [None],
    [[]],
    {},
    {"document": 5},
    {"document": "{}"},
]


@pytest.mark.parametrize("key", ["index", "signatures", "manifest", "profile", "assignment", "trust"])
def test_a_request_of_strange_things_is_refused_and_breaks_nothing(here, operator, key):
    said = operator.said(trust=operator.told())

    for strange in STRANGE:
        if key == "trust" and not strange and isinstance(strange, (list, str, dict, type(None))):
            continue
        with pytest.raises(IntegrityError):
            prepare.make_ready(here, {**said, key: strange})
    assert prepare.make_ready(here, said)


def session(box, requests):
    """Ask the real agent one thing after another over one connection; return its answers."""
    lines = b"".join(wire.render_request(Request(verb, said)) for verb, said in requests)
    words = [box.python, "-I", "-S", str(box.agent), str(box.places.root), "serve"]
    done = subprocess.run(words, input=lines, capture_output=True, timeout=100, check=True)
    replies = [wire.parse_reply(line) for line in done.stdout.decode().split("\n")[:-1]]
    return [reply for reply in replies if reply.kind != "note"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "release"])
def test_s3_a_release_signed_by_any_key_but_a_release_key_is_refused(here, operator, name):
    refused(here, operator.said(by=[name]), "the release needs 1 of the release keys .*, and 0 signed it")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "rollout"])
def test_s3_an_assignment_signed_by_any_key_but_a_rollout_key_is_refused(here, operator, name):
    refused(here, operator.said(assigned={"key": name}), "the assignment needs 1 of the rollout keys")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "root"])
def test_s3_a_trust_document_signed_by_any_key_but_a_root_key_is_refused(here, operator, name):
    told = operator.next(lambda document: document, name)

    refused(here, operator.said(trust=told), "trust document 2 needs 1 of the root keys")
    assert trust.in_force(here).version == 1


def spoilt(signature):
    lines = signature.splitlines(keepends=True)
    return {
        "unsigned": [],
        "empty": [""],
        "truncated": [signature[: len(signature) // 2]],
        "flipped": ["".join([lines[0], lines[1].swapcase(), *lines[2:]])],
        "no signature": ["0" * 999],
        "null": [None],
    }


@pytest.mark.parametrize("how", spoilt("-\n-\n"))
def test_s3_a_signature_that_is_missing_or_broken_is_refused(here, operator, how):
    said = operator.said()

    refused(here, {**said, "signatures": spoilt(said["signatures"][0])[how]}, "does not hold|expected text")


@pytest.mark.parametrize("purpose", [sign.TRUST, sign.ASSIGNMENT, "file"])
def test_s3_a_signature_of_the_right_key_for_another_purpose_is_refused(here, operator, purpose):
    index = operator.index()

    refused(
        here, operator.said(signatures=[operator.sign(index, "release", purpose).decode()]), "0 signed it"
    )


def test_s3_below_the_threshold_and_twice_by_one_key_is_refused(here, operator):
    both = [operator.public("release-2")]
    operator.next(lambda document: amendment.with_role(document, RELEASE, both, threshold=2))
    trust.greet(here, operator.told())

    refused(here, operator.said(), "needs 2 of the release keys .*, and 1 signed it")
    refused(here, operator.said(by=["release", "release"]), "and 1 signed it")
    assert prepare.make_ready(here, operator.said(by=["release", "release-2"]))


def test_s3_a_key_that_was_revoked_signs_no_more(here, operator):
    operator.next(
        lambda document: amendment.without(
            amendment.with_role(document, RELEASE, [operator.public("release-2")]), operator.print("release")
        )
    )

    refused(here, operator.said(trust=operator.told()), "and 0 signed it")
    assert prepare.make_ready(here, operator.said(by=["release-2"]))


def test_s3_a_staged_release_whose_key_was_revoked_since_is_not_activated(here, operator):
    slot = bring(here, operator.said(), operator.shop.release())
    trust.recheck(here, slot)
    operator.next(
        lambda document: amendment.with_role(
            document, RELEASE, [operator.public("release-2")], [operator.print("release")]
        )
    )
    trust.greet(here, operator.told())

    with pytest.raises(IntegrityError, match="the signature does not hold"):
        trust.recheck(here, slot)
    prepare.make_ready(here, operator.said(by=["release-2"]))
    trust.recheck(here, slot)


def test_s1_a_bit_that_flips_after_staging_is_found_before_activation(box, operator):
    slot, parcel = staged(box, operator)
    model = box.places.files(slot) / "model.gguf"
    model.chmod(0o644)
    model.write_bytes(parcel.files["model.gguf"][:-1] + b"!")

    answer = box.ask("activate", slot=slot, **TIMES)

    assert (answer.code, answer.said["code"]) == (7, "SLM-INTEGRITY")
    assert box.status()["standing"]["slot"] is None


def staged(box, operator):
    """Stage a release on a device with an agent."""
    write_json(box.places.config, SETTINGS)
    box.get("hello")
    box.get("enroll", trust=operator.told(), **SETTINGS)
    parcel = operator.shop.release()
    return bring(box.places, operator.said(), parcel), parcel


@pytest.mark.parametrize("file", ["index.json", "signature", "manifest.json"])
def test_s2_what_is_exchanged_between_staging_and_activation_is_refused(box, operator, file):
    slot, _ = staged(box, operator)
    path = box.places.slot(slot) / file
    path.unlink()
    path.write_bytes(operator.index("2.0.0", counter=9))

    assert box.ask("activate", slot=slot, **TIMES).said["code"] == "SLM-INTEGRITY"


def test_s2_a_slot_that_is_exchanged_for_another_is_refused(box, operator):
    slot, _ = staged(box, operator)
    other = operator.shop.release("2.0.0")
    bring(box.places, operator.said(operator.index(parcel=other), parcel=other), other)
    shutil.move(box.places.slot(slot), box.places.root / "aside")
    box.places.slot(slot).symlink_to(box.places.slot(other.slot))

    assert box.ask("activate", slot=slot, **TIMES).said["code"] == "SLM-INTEGRITY"


@pytest.mark.parametrize("version", ["99-dev", "999.0.0", "1.0.0+root"])
def test_s4_no_version_string_leads_around_the_counter(here, operator, version):
    committed(here, operator, 4, 5)

    with pytest.raises(IntegrityError, match="its counter is 3, the floor is 4"):
        prepare.make_ready(here, release(operator, 3, version))


def test_s5_rollback_an_old_signed_release_is_refused_and_the_one_before_is_not(here, operator):
    committed(here, operator, 1, 2, 3)

    with pytest.raises(IntegrityError, match="its counter is 1, the floor is 2") as told:
        prepare.make_ready(here, release(operator, 1, "1.0.0"))

    assert "slmops trust rotate --floor parrot=1" in told.value.remedy
    assert trust.floor(here, "parrot") == 2
    prepare.make_ready(here, release(operator, 2, "2.0.0"))


def test_s5_rollback_the_word_of_root_lets_an_old_release_in_again(here, operator):
    committed(here, operator, 1, 2, 3)
    operator.next(floors={"parrot": 1})
    trust.greet(here, operator.told())

    prepare.make_ready(here, release(operator, 1, "1.0.0"))


def test_s5_rollback_an_old_assignment_is_refused_once_a_newer_rollout_was_here(here, operator):
    old = operator.said()
    operator.epoch = 2
    prepare.make_ready(here, operator.said())

    with pytest.raises(IntegrityError, match="of epoch 1, and one of epoch 2 was here"):
        prepare.make_ready(here, old)


def test_s5_rollback_an_older_trust_document_is_refused(here, operator):
    before = operator.told()
    operator.next()
    trust.greet(here, operator.told())

    with pytest.raises(IntegrityError, match="trusts document 2, you brought 1"):
        trust.greet(here, before)


def test_s6_freeze_a_trust_document_that_has_expired_lets_nothing_new_in(here, operator):
    operator.next(expires="2027-06-01T00:00:00Z")
    trust.greet(here, operator.told())

    refused(here, operator.said(assigned={"issued": LATER}), "trust document 2 expired at 2027-06-01")


def test_s6_freeze_a_trust_document_that_has_expired_leads_on_to_the_next(here, operator):
    operator.next(expires="2020-01-01T00:00:00Z")
    trust.greet(here, operator.told())
    operator.next()

    assert prepare.make_ready(here, operator.said(trust=operator.told()))


def test_s6_freeze_an_expired_release_is_refused_and_stays_where_it_is(here, operator):
    index = operator.index(expires="2027-06-01T00:00:00Z")
    slot = bring(
        here, operator.said(index, assigned={"nonce": given(here, operator)}), operator.shop.release()
    )

    with pytest.raises(IntegrityError, match="the release was valid until 2027-06-01"):
        prepare.make_ready(here, operator.said(index, assigned={"issued": LATER}))
    trust.recheck(here, slot)


def given(places, operator):
    """A nonce that the device just gave."""
    return trust.greet(places, operator.told())["nonce"]


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
@pytest.mark.parametrize("clock", ["1971", "2080"])
def test_s6_a_wrong_clock_does_not_matter_to_an_operator_who_is_there(box, operator, monkeypatch, clock):
    monkeypatch.setenv("LD_PRELOAD", str(FAKETIME))
    monkeypatch.setenv("FAKETIME", f"@{clock}-01-01 00:00:00")
    operator.next(expires=LATER)
    box.get("hello")
    nonce = box.get("enroll", trust=operator.told(), **SETTINGS)["nonce"]
    index = operator.index(expires=LATER)
    bound = {"nonce": nonce, "issued": "2027-02-01T00:00:00Z", "valid_until": "2027-02-02T00:00:00Z"}

    answer = box.ask("prepare", **operator.said(index, assigned=bound))

    assert answer.kind == "done", answer


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
def test_s6_a_clock_that_was_set_back_does_not_make_an_old_word_valid_again(box, operator, monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", str(FAKETIME))
    monkeypatch.setenv("FAKETIME", "@1971-01-01 00:00:00")
    box.get("hello")
    box.get("enroll", trust=operator.told(), **SETTINGS)
    box.get("prepare", **operator.said(assigned={"issued": LATER}))

    old = operator.said(assigned={"issued": NOW, "valid_until": "2027-01-02T00:00:00Z"})

    assert "the assignment was valid until 2027-01-02" in box.ask("prepare", **old).said["message"]


def test_s6_an_assignment_of_an_earlier_session_is_refused(here, operator):
    old = given(here, operator)
    for _ in range(9):
        given(here, operator)

    refused(here, operator.said(assigned={"nonce": old}), "the assignment is for another session")


@pytest.mark.parametrize("counter", [10_002, 2**40, 10**15 - 1])
def test_s7_fast_forward_a_counter_that_leaps_is_refused(here, operator, counter):
    prepare.make_ready(here, release(operator, 1))

    with pytest.raises(IntegrityError, match="no release comes next like that"):
        prepare.make_ready(here, release(operator, counter))
    prepare.make_ready(here, release(operator, 2))


def test_s7_fast_forward_root_brings_a_device_back_that_was_led_too_far(here, operator):
    committed(here, operator, 9_000, 18_000)
    operator.next(floors={"parrot": 2})
    trust.greet(here, operator.told())

    prepare.make_ready(here, release(operator, 3))


def test_s7_fast_forward_an_epoch_of_a_stolen_rollout_key_keeps_nobody_out_once_root_has_revoked_it(
    here, operator
):
    prepare.make_ready(here, operator.said(assigned={"epoch": 2**53 - 1}))
    stolen = sign.fingerprint(operator.folder / "rollout.pub")
    fresh = (operator.folder / "stranger.pub").read_text()

    operator.next(lambda document: amendment.with_role(document, trusts.ROLLOUT, [fresh], [stolen]))
    trust.greet(here, operator.told())

    prepare.make_ready(here, operator.said(assigned={"key": "stranger"}))
    refused_epoch = operator.said(assigned={"key": "stranger", "epoch": operator.epoch - 1})
    with pytest.raises(IntegrityError, match="the assignment is of epoch"):
        prepare.make_ready(here, refused_epoch)


@pytest.mark.parametrize("counter", [2**63, -1, "1e9", "01", "", "1 ", "٣"])
def test_s7_fast_forward_a_counter_that_is_no_number_is_refused(here, operator, counter):
    index = json.loads(operator.index())
    index["annotations"][manifest.COUNTER_KEY] = str(counter)

    refused(here, operator.said(manifest.canonical(index)), "dev.slmops.counter")


def test_s8_mix_and_match_the_files_of_two_releases_make_no_slot(here, operator):
    one, two = operator.shop.release(), operator.shop.release("2.0.0", answers={})
    mixed = replace(one.built, files=(*one.built.files[:-1], two.built.files[-1]))

    refused(
        here,
        operator.said(manifest=manifest.render_artifact(mixed).decode()),
        "not the one its release lists",
    )
    assert one.built.files != two.built.files


def test_s8_mix_and_match_a_file_of_another_release_in_the_place_of_one_is_thrown_away(here, operator):
    one, two = operator.shop.release(), operator.shop.release("2.0.0", answers={})
    prepare.make_ready(here, operator.said())
    data = two.files["model.gguf"].ljust(len(one.files["model.gguf"]))[: len(one.files["model.gguf"])]
    (here.root / "sent").write_bytes(data)

    told = {"slot": one.slot, "name": "model.gguf", "offset": 0, "length": len(data)}
    with (here.root / "sent").open("rb") as source, pytest.raises(IntegrityError, match="thrown away"):
        receive.take(here, told, source.read)


def entry(operator, **changes):
    """An index whose one artifact says something else of itself."""
    signed = operator.shop.release().signed.release
    ((profile, one),) = signed.artifacts
    return operator.index(artifacts=((profile, replace(one, **changes)),))


def test_s9_an_artifact_of_another_architecture_is_refused_by_what_was_signed(here, operator):
    refused(here, operator.said(entry(operator, arch="riscv64")), "is for riscv64", DoesNotFitError)


def test_s9_an_artifact_for_features_that_this_cpu_has_not_is_refused(here, operator):
    said = operator.said(entry(operator, features=("of_tomorrow",)))

    refused(here, said, "a cpu with of_tomorrow, which this one has not", DoesNotFitError)


def test_s10_endless_data_more_signatures_than_anybody_needs_are_not_verified(here, operator):
    said = operator.said()

    refused(here, {**said, "signatures": ["x"] * 40 + said["signatures"]}, "0 signed it")


def test_s10_endless_data_a_trust_document_without_an_end_is_refused(here, operator):
    endless = {"document": " " * (1 << 20), "signatures": []}

    refused(here, operator.said(trust=[endless]), "expected at most")


@pytest.mark.parametrize(
    "name", ["../escape", "/etc/passwd", "a/b", ".hidden", "", "caf\u00e9", "a\0b", "-rf", "x" * 200, ".."]
)
def test_s11_path_traversal_a_file_name_that_leads_elsewhere_is_refused_though_it_was_signed(
    here, operator, name
):
    refused_by_its_files(here, operator, [name], "is not a plain file name|annotation")


def test_s11_two_files_of_one_name_are_refused_though_they_were_signed(here, operator):
    refused_by_its_files(here, operator, ["model.gguf", "model.gguf"], "two files share a name")


def refused_by_its_files(places, operator, names, words):
    built = operator.shop.release().built
    blob = built.files[0][1]
    data = manifest.render_artifact(replace(built, files=tuple((name, blob) for name in names)))
    listed = replace(
        operator.shop.release().signed.release.entry("local").blob,
        digest=digests.of_bytes(data),
        size=len(data),
    )
    index = entry(operator, blob=listed)
    said = operator.said(index, manifest=data.decode(), assigned={"slot": digests.hexdigits(listed.digest)})
    with pytest.raises(IntegrityError, match=words):
        prepare.make_ready(places, said)
    assert not any(places.slots.iterdir())


def test_s12_a_hostile_model_costs_the_trial_and_not_the_service(device, shop):
    good = shop.release()
    device.commit(good)

    answer = device.activate(shop.release("6.6.6", exit=1))

    assert answer["outcome"] == "fail"
    assert device.serves() == good.slot


def test_s16_a_daemon_that_says_it_is_the_release_and_answers_otherwise_is_not_believed(device, shop):
    answer = device.activate(shop.release("6.6.7", answers={}))

    assert (answer["outcome"], answer["standing"]["slot"]) == ("fail", None)


def test_s13_who_stole_the_rollout_key_can_send_no_model_of_their_own(here, operator):
    refused(here, operator.said(by=["rollout"]), "the release needs 1 of the release keys")


def test_s14_who_stole_the_release_key_is_shut_out_by_root(here, operator):
    refused(here, operator.said(assigned={"key": "release"}), "the assignment needs 1 of the rollout keys")
    stolen = operator.next(
        lambda document: amendment.with_role(document, ROOT, [operator.public("release")]), "release"
    )
    refused(here, operator.said(trust=stolen), "needs 1 of the root keys")
    operator.chain.pop()
    operator.next(
        lambda document: amendment.without(
            amendment.with_role(document, RELEASE, [operator.public("release-2")]), operator.print("release")
        )
    )
    trust.greet(here, operator.told())

    refused(here, operator.said(), "and 0 signed it")
    back = operator.next(
        lambda document: replace(
            amendment.with_role(replace(document, revoked=()), RELEASE, [operator.public("release")])
        )
    )
    with pytest.raises(IntegrityError, match="brings revoked keys back"):
        trust.greet(here, back)


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        ({"device": "other-box"}, "another device: expected box, got other-box"),
        ({"identity": "0" * 32}, "another device: expected [0-9a-f]{32}, got 0{32}"),
        ({"slot": "0" * 64}, "another artifact"),
        ({"release": "sha256:" + "0" * 64}, "another release"),
        ({"nonce": "0" * 32}, "another session"),
    ],
)
def test_s15_an_assignment_of_another_device_release_or_session_is_refused(here, operator, binding, words):
    refused(here, operator.said(assigned=binding), words)


def test_s15_what_one_device_was_told_is_nothing_to_its_twin(tmp_path, here, operator, places):
    greeted = trust.greet(here, operator.told())
    said = operator.said(assigned={"identity": greeted["identity"], "nonce": greeted["nonce"]})
    twin = type(places)(tmp_path / "twin")
    twin.make()
    write_json(twin.config, SETTINGS)
    trust.greet(twin, operator.told())

    refused(twin, said, "the assignment is for another device")
    assert prepare.make_ready(here, said)


def test_without_an_assignment_nothing_is_let_in_where_somebody_has_the_rollout_role(here, operator):
    refused(here, operator.said(assignment=None), "no assignment")
    refused(here, operator.said(assignment={}), "expected text")


# First contact, and devices from before trust documents.


def test_a_device_that_trusts_nobody_lets_nothing_in(places, operator):
    refused(places, operator.said(), "trusts nobody yet")


def test_a_new_device_believes_the_newest_document_that_its_own_root_signed(places, operator):
    operator.next()

    assert trust.greet(places, operator.told())["trust"] == 2
    assert sorted(path.name for path in places.trust.glob("[0-9]*")) == ["2.json"]


def test_a_new_device_does_not_believe_a_document_that_its_root_did_not_sign(places, operator):
    operator.next(lambda document: document, "stranger")

    with pytest.raises(IntegrityError, match="trust document 2 needs 1 of the root keys"):
        trust.greet(places, operator.told())
    assert trust.current(places) is None


def legacy(places, operator, name):
    places.signers.write_text(f'release@slmops namespaces="slmops-release" {operator.public(name)}\n')


def test_a_device_from_before_trust_documents_follows_the_key_it_knows_to_the_newest(places, operator):
    legacy(places, operator, "release")
    operator.next(
        lambda document: amendment.with_role(
            document, RELEASE, [operator.public("release-2")], [operator.print("release")]
        )
    )

    assert trust.greet(places, operator.told())["trust"] == 2
    assert not places.signers.exists()


def test_a_status_tells_the_floors_and_is_answered_when_they_have_rotted(places, operator):
    operator.next(lambda document: replace(document, floors={"demo": 3}))
    trust.greet(places, operator.told())
    assert trust.told(places)["floors"] == {"demo": 3}

    (places.trust / "seen.json").write_text("{")
    assert trust.told(places)["floors"] == {}


def test_a_device_from_before_trust_documents_follows_no_other_key(places, operator):
    legacy(places, operator, "stranger")

    with pytest.raises(IntegrityError, match="this device trusts another release key"):
        trust.greet(places, operator.told())
    assert places.signers.exists()


def test_a_device_from_before_trust_documents_asks_for_its_own_keys_signature(places, operator):
    legacy(places, operator, "release")
    operator.chain = [operator.signed(operator.chain[0].document, "root")]

    with pytest.raises(IntegrityError, match="this device trusts another release key"):
        trust.greet(places, operator.told())


def test_a_trust_document_that_has_rotted_is_brought_again(here, operator):
    operator.next()
    trust.greet(here, operator.told())
    (here.trust / "2.json").write_bytes(b"rot")

    assert trust.in_force(here).version == 1
    assert trust.greet(here, operator.told())["trust"] == 2


def test_what_a_device_trusts_is_for_its_owner_alone(here):
    assert {path.stat().st_mode & 0o077 for path in here.trust.iterdir()} == {0}
    assert here.trust.stat().st_mode & 0o077 == 0
