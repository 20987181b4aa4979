"""Put a release in the registry, and take it out again, verified."""

import json
import re
from dataclasses import replace

import pytest

from slmops import digest as digests
from slmops.artifact import description as descriptions
from slmops.artifact import manifest, sign
from slmops.errors import IntegrityError, ReleaseError, SlmopsError, UsageError
from slmops.registry import referrers, release
from slmops.registry.catalog import Reference
from slmops.registry.layout import Layout

CREATED = "2025-01-01T00:00:00Z"
# The grammar of org.opencontainers.image.ref.name in the image-spec's annotations.md.
REF_NAME = re.compile(r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*")


@pytest.fixture
def publish(layout, key):
    """Publish folders by profile."""
    return lambda folders, created=CREATED, key=key: release.publish(
        layout, folders, created=created, key=key
    )


@pytest.fixture
def signed(publish, folder):
    """A release of two artifacts, in the registry."""
    return publish({"pi": folder("pi"), "nano": folder("nano")})


def rot(layout, blob):
    path = layout.path(blob.digest)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_what_is_published_is_found_by_another_reader(layout, signed):
    assert release.find(Layout(layout.folder), Reference("demo", "1.0.0")) == signed
    assert signed.release.reference == "demo:1.0.0"
    assert signed.release.created == CREATED
    assert [profile for profile, _ in signed.release.artifacts] == ["pi", "nano"]


def test_what_is_published_verifies_to_the_last_byte(layout, signed, trust):
    built = [release.artifact(layout, entry) for _, entry in signed.release.artifacts]

    assert release.verify(layout, signed, trust) == sum(each.size + each.config.size for each in built)


def test_the_files_of_an_artifact_come_out_as_they_went_in(layout, folder, publish):
    where = folder("pi")
    signed = publish({"pi": where})
    built = release.artifact(layout, signed.release.entry("pi"))

    assert {name: layout.get(blob) for name, blob in built.files} == {
        path.name: path.read_bytes() for path in where.iterdir()
    }
    said = release.description(layout, built)
    assert said == descriptions.parse((where / "artifact.json").read_bytes())
    assert signed.release.entry("pi").arch == said.arch


def test_publishing_the_same_again_gives_the_same_release(layout, folder, publish):
    folders = {"pi": folder("pi")}
    first = publish(folders)
    before = (layout.folder / "index.json").read_bytes()

    assert publish(folders) == first
    assert (layout.folder / "index.json").read_bytes() == before


def test_a_version_never_changes(layout, folder, publish):
    first = publish({"pi": folder("pi")})

    with pytest.raises(ReleaseError, match=r"demo:1\.0\.0 is already in the registry as .*never changes"):
        publish({"nano": folder("nano")})

    assert release.find(layout, Reference("demo", "1.0.0")) == first


def test_a_refused_publication_leaves_no_name_behind(layout, folder, publish):
    publish({"pi": folder("pi")})
    before = sorted(layout.names())
    with pytest.raises(ReleaseError):
        publish({"nano": folder("nano")})

    assert sorted(layout.names()) == before


def test_artifacts_of_two_versions_are_no_release(layout, folder, publish):
    with pytest.raises(ReleaseError, match=r"these artifacts say demo:1\.0\.0, demo:1\.0\.1"):
        publish({"pi": folder("pi"), "nano": folder("nano", "1.0.1")})

    assert layout.names() == {}


def test_a_name_the_registry_cannot_keep_is_refused_before_anything_is_written(layout, folder, publish):
    with pytest.raises(UsageError, match="release name 'Demo'"):
        publish({"pi": folder("pi", name="Demo")})

    assert not layout.folder.exists()


@pytest.mark.parametrize("name", [".DS_Store", "notes of mine.txt", "café.md"])
def test_a_file_that_no_device_would_take_is_refused_at_once(layout, folder, publish, name):
    where = folder("pi")
    (where / name).write_text("x")

    with pytest.raises(SlmopsError, match=re.escape(name)):
        publish({"pi": where})

    assert layout.names() == {}


def test_an_artifact_whose_model_is_missing_is_refused(folder, publish):
    where = folder("pi")
    (where / "model.gguf").unlink()

    with pytest.raises(SlmopsError, match=r"model\.gguf"):
        publish({"pi": where})


def test_a_folder_that_is_no_artifact_is_refused_naming_it(tmp_path, publish):
    with pytest.raises(SlmopsError, match=str(tmp_path)):
        publish({"pi": tmp_path})


def test_nothing_is_named_when_the_key_cannot_sign(layout, folder, publish, tmp_path):
    with pytest.raises(IntegrityError, match="no-such-key"):
        publish({"pi": folder("pi")}, key=tmp_path / "no-such-key")

    assert layout.names() == {}


def test_a_release_that_is_not_there_is_named_with_those_that_are(layout, folder, publish):
    publish({"pi": folder("pi", "1.0.0")})
    publish({"pi": folder("pi", "1.1.0")})

    with pytest.raises(ReleaseError, match=r"no release demo:2; of demo it has demo:1\.1\.0, demo:1\.0\.0"):
        release.find(layout, Reference("demo", "2"))
    with pytest.raises(ReleaseError, match=r"the registry has no release other:1$"):
        release.find(layout, Reference("other", "1"))


def test_releases_are_listed_newest_first_and_signatures_are_none(layout, folder, publish):
    for version in ("1.9.0", "1.10.0", "1.10.0-rc.1"):
        publish({"pi": folder("pi", version)})

    assert [each.version for each in release.references(layout)] == ["1.10.0", "1.10.0-rc.1", "1.9.0"]


def test_an_unsigned_release_is_refused(layout, folder, publish):
    signed = publish({"pi": folder("pi")})
    index = json.loads((layout.folder / "index.json").read_text())
    index["manifests"] = [each for each in index["manifests"] if each["digest"] == signed.blob.digest]
    (layout.folder / "index.json").write_text(json.dumps(index))

    with pytest.raises(IntegrityError, match=f"release {digests.short(signed.blob.digest)} is not signed"):
        release.find(layout, Reference("demo", "1.0.0"))


def test_a_release_signed_by_a_stranger_does_not_verify(layout, folder, publish, trust, tmp_path):
    sign.make_key(tmp_path / "stranger", "stranger")
    signed = publish({"pi": folder("pi")}, key=tmp_path / "stranger")

    with pytest.raises(IntegrityError, match="the signature does not hold"):
        release.verify(layout, signed, trust)


def test_another_index_under_the_signature_does_not_verify(layout, signed, trust):
    other = replace(signed, index=signed.index.replace(b"1.0.0", b"1.0.1"))

    with pytest.raises(IntegrityError, match="the signature does not hold"):
        release.verify(layout, other, trust)


def test_a_rotten_byte_anywhere_in_a_release_is_found(layout, signed, trust):
    entries = [entry for _, entry in signed.release.artifacts]
    blobs = {entry.blob for entry in entries}
    for built in [release.artifact(layout, entry) for entry in entries]:
        blobs |= {built.config, *(blob for _, blob in built.files)}
    for blob in blobs:
        rot(layout, blob)
        with pytest.raises(IntegrityError, match="has rotted"):
            release.verify(layout, signed, trust)
        rot(layout, blob)

    release.verify(layout, signed, trust)


def test_a_rotten_index_or_signature_is_found_when_it_is_read(layout, signed):
    for blob in (signed.blob, *referrers.of(layout.names(), signed.blob)):
        rot(layout, blob)
        with pytest.raises(IntegrityError, match="has rotted"):
            release.find(layout, Reference("demo", "1.0.0"))
        rot(layout, blob)


def test_a_missing_file_of_a_release_is_found(layout, signed, trust):
    model = dict(release.artifact(layout, signed.release.entry("pi")).files)["model.gguf"]
    layout.path(model.digest).unlink()

    with pytest.raises(IntegrityError, match=f"blob {digests.short(model.digest)} is missing"):
        release.verify(layout, signed, trust)


def test_each_file_has_the_modelpack_type_of_what_it_is(layout, signed):
    built = release.artifact(layout, signed.release.entry("pi"))

    assert {name: blob.media_type for name, blob in built.files} == {
        "README.md": "application/vnd.cncf.model.doc.v1.raw",
        "artifact.json": "application/vnd.cncf.model.weight.config.v1.raw",
        "golden.jsonl": "application/vnd.cncf.model.dataset.v1.raw",
        "model.gguf": "application/vnd.cncf.model.weight.v1.raw",
        "tokenizer.json": "application/vnd.cncf.model.weight.config.v1.raw",
    }


def test_the_config_is_what_modelpack_requires(layout, signed):
    built = release.artifact(layout, signed.release.entry("pi"))
    config = json.loads(layout.get(built.config))

    assert set(config) == {"descriptor", "config", "modelfs"}
    assert config["descriptor"] == {
        "createdAt": CREATED, "name": "demo", "version": "1.0.0", "family": "llama",
    }  # fmt: skip
    assert set(config["config"]) <= {"architecture", "format", "paramSize", "precision", "quantization"}
    assert all(isinstance(value, str) for value in config["config"].values())
    assert config["modelfs"] == {"type": "layers", "diffIds": [blob.digest for _, blob in built.files]}


def test_every_document_of_the_registry_is_oci(layout, signed):
    index = json.loads((layout.folder / "index.json").read_text())
    for entry in index["manifests"]:
        assert REF_NAME.fullmatch(entry["annotations"]["org.opencontainers.image.ref.name"])
        said = json.loads(layout.path(entry["digest"]).read_bytes())
        assert said["schemaVersion"] == 2
        assert said["mediaType"] == entry["mediaType"]
        assert said["artifactType"] == entry["artifactType"]
        below = said.get("manifests", [*said.get("layers", []), *filter(None, [said.get("config")])])
        assert below
        for each in below:
            assert layout.path(each["digest"]).stat().st_size == each["size"]
            assert each["mediaType"]
    assert signed.blob.media_type == manifest.INDEX_TYPE


def test_the_signature_refers_to_the_release_as_oci_referrers_do(layout, signed, trust):
    said = json.loads(layout.get(*referrers.of(layout.names(), signed.blob)))

    assert said["subject"] == {
        "mediaType": signed.blob.media_type,
        "digest": signed.blob.digest,
        "size": signed.blob.size,
    }
    assert said["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert layout.path(said["config"]["digest"]).read_bytes() == b"{}"
    (layer,) = said["layers"]
    assert sign.signers(signed.index, [layout.path(layer["digest"]).read_bytes()], trust.keys)


def test_each_release_of_a_name_has_the_next_counter(layout, folder, publish):
    counters = [
        publish({"pi": folder("pi", version)}).release.counter for version in ("9.0.0", "1.0.0", "2.0.0")
    ]
    other = publish({"pi": folder("pi", "1.0.0", name="other")}).release.counter

    assert (counters, other) == ([1, 2, 3], 1)
    assert release.find(layout, Reference("demo", "1.0.0")).release.counter == 2


def test_a_release_says_until_when_and_for_what_cpu_it_was_made(layout, folder, key):
    signed = release.publish(
        layout, {"pi": folder("pi")}, created=CREATED, key=key, expires="2027-01-01T00:00:00Z",
        needs={"pi": ("asimddp",)},
    )  # fmt: skip

    assert signed.release.expires == "2027-01-01T00:00:00Z"
    assert signed.release.entry("pi").features == ("asimddp",)


def test_a_second_signature_is_kept_beside_the_first_and_once(layout, signed, trust, tmp_path):
    sign.make_key(tmp_path / "second", "second")

    release.add_signature(layout, signed, tmp_path / "second")
    twice = release.add_signature(layout, signed, tmp_path / "second")

    assert len(twice.signatures) == 2
    assert signed.signatures[0] in twice.signatures
    assert release.verify(layout, twice, trust)


@pytest.mark.parametrize("version", ["1.0.", "1..0"])
def test_a_version_that_oci_cannot_name_is_refused(folder, publish, version):
    with pytest.raises(UsageError, match="release version"):
        publish({"pi": folder("pi", version)})


@pytest.mark.usefixtures("signed")
def test_a_name_that_stands_for_another_release_is_refused(layout):
    index = layout.folder / "index.json"
    index.write_text(index.read_text().replace('"demo:1.0.0"', '"demo:9.9.9"'))

    with pytest.raises(IntegrityError, match=r"demo:9\.9\.9 .* stands for demo:1\.0\.0"):
        release.find(layout, Reference("demo", "9.9.9"))
