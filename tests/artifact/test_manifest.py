"""What a release and its artifacts are made of, as bytes that never vary."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops import digest as digests
from slmops.artifact import manifest
from slmops.artifact.manifest import Artifact, Blob, Entry, Release
from slmops.errors import IntegrityError

DIGESTS = st.binary(min_size=32, max_size=32).map(lambda raw: "sha256:" + raw.hex())
BLOBS = st.builds(Blob, st.text(min_size=1), DIGESTS, st.integers(0, 1 << 62))
FILE_NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True)
ARTIFACTS = st.builds(
    Artifact,
    BLOBS,
    st.lists(st.tuples(FILE_NAMES, BLOBS), min_size=1, max_size=4, unique_by=lambda pair: pair[0]).map(tuple),
)
ENTRIES = st.builds(
    Entry,
    BLOBS,
    st.sampled_from(["x86_64", "aarch64", "armv7l", "riscv64"]),
    st.lists(st.sampled_from(["avx2", "asimddp", "sse4_2"]), max_size=3).map(tuple),
)
WORDS = st.text(min_size=1)
RELEASES = st.builds(
    Release,
    WORDS,
    WORDS,
    WORDS,
    st.lists(st.tuples(WORDS, ENTRIES), min_size=1, max_size=4, unique_by=lambda pair: pair[0]).map(tuple),
    st.integers(0, 10**15 - 1),
    st.none() | st.just("2026-01-31T12:00:00Z"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
BLOB = Blob(manifest.WEIGHT_TYPE, digests.of_bytes(b"weights"), 7)
ARTIFACT = Artifact(Blob(manifest.CONFIG_TYPE, digests.of_bytes(b"{}"), 2), (("model.gguf", BLOB),))
ENTRY = Entry(Blob(manifest.MANIFEST_TYPE, digests.of_bytes(b"manifest"), 8), "aarch64")
RELEASE = Release("demo", "1.0.0", "2025-01-01T00:00:00Z", (("pi", ENTRY),))


def changed(data, path, value):
    """Return the JSON document `data` with another value at `path`."""
    said = json.loads(data)
    *way, last = path
    place = said
    for step in way:
        place = place[step]
    place[last] = value
    return json.dumps(said).encode()


@given(ARTIFACTS)
def test_an_artifact_is_read_as_it_was_written(artifact):
    assert manifest.parse_artifact(manifest.render_artifact(artifact)) == artifact


@given(RELEASES)
def test_a_release_is_read_as_it_was_written(release):
    assert manifest.parse_release(manifest.render_release(release)) == release


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_equal_values_have_equal_bytes(value):
    turned = dict(reversed(value.items()))

    assert manifest.canonical(turned) == manifest.canonical(value)
    assert json.loads(manifest.canonical(value)) == value


@given(ARTIFACTS)
def test_an_artifact_is_as_large_as_its_files(artifact):
    assert artifact.size == sum(blob.size for _, blob in artifact.files)


@given(st.text(), st.sampled_from(["../", "/", "a/../../", "a/", "."]))
def test_no_file_name_leads_out_of_the_folder(name, way):
    data = changed(
        manifest.render_artifact(ARTIFACT), ["layers", 0, "annotations", manifest.PATH_KEY], way + name
    )

    with pytest.raises(IntegrityError, match="is not a plain file name"):
        manifest.parse_artifact(data)


@pytest.mark.parametrize(
    "name",
    ["..", ".", "/etc/passwd", "a/b", "a\\b", ".hidden", "a\n", "a\0", "-rf", "a b", "café", "x" * 129],
)
def test_a_name_that_is_not_plain_is_refused_and_shown(name):
    data = changed(manifest.render_artifact(ARTIFACT), ["layers", 0, "annotations", manifest.PATH_KEY], name)

    with pytest.raises(IntegrityError, match="is not a plain file name") as told:
        manifest.parse_artifact(data)

    assert repr(name[:80]) in str(told.value)


def test_two_files_of_one_name_are_refused():
    twice = replace(ARTIFACT, files=ARTIFACT.files * 2)

    with pytest.raises(IntegrityError, match="two files share a name"):
        manifest.parse_artifact(manifest.render_artifact(twice))


def test_a_profile_that_stands_twice_is_refused():
    twice = replace(RELEASE, artifacts=RELEASE.artifacts * 2)

    with pytest.raises(IntegrityError, match="a profile stands in it twice"):
        manifest.parse_release(manifest.render_release(twice))


def test_a_profile_the_release_lacks_is_refused_naming_those_it_has():
    assert RELEASE.entry("pi") == ENTRY
    with pytest.raises(IntegrityError, match=r"demo:1\.0\.0 has no artifact for profile 'nano'; it has: pi"):
        RELEASE.entry("nano")


@pytest.mark.parametrize("read", [manifest.parse_artifact, manifest.parse_release])
@pytest.mark.parametrize("data", [b"", b"{", b"\xff"])
def test_what_is_not_json_is_refused(read, data):
    with pytest.raises(IntegrityError, match="manifest is not JSON"):
        read(data)


@pytest.mark.parametrize("read", [manifest.parse_artifact, manifest.parse_release])
@pytest.mark.parametrize("data", [b"[]", b"3", b"null", b"{}"])
def test_another_kind_of_document_is_refused_naming_the_kind_expected(read, data):
    with pytest.raises(IntegrityError, match="manifest: expected application/vnd"):
        read(data)


def test_an_artifact_is_no_release_and_a_release_no_artifact():
    with pytest.raises(IntegrityError, match=r"expected .*image\.index.*, got .*image\.manifest"):
        manifest.parse_release(manifest.render_artifact(ARTIFACT))
    with pytest.raises(IntegrityError, match=r"expected .*image\.manifest.*, got .*image\.index"):
        manifest.parse_artifact(manifest.render_release(RELEASE))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["layers"], [], "expected a list of layers"),
        (["layers"], {"0": 1}, "expected a list of layers"),
        (["layers"], None, "expected a list of layers"),
        (["layers", 0, "annotations"], None, "annotation org.cncf.model.filepath is missing"),
        (["layers", 0, "annotations", manifest.PATH_KEY], 7, "annotation org.cncf.model.filepath is missing"),
        (["layers", 0, "size"], -1, "expected a size in bytes, got -1"),
        (["layers", 0, "size"], True, "expected a size in bytes, got True"),
        (["layers", 0, "size"], "7", "expected a size in bytes, got '7'"),
        (["layers", 0, "digest"], "sha256:short", "not a digest"),
        (["config"], None, "expected a descriptor"),
        (["config"], "x", "expected a descriptor"),
    ],
)
def test_a_broken_artifact_is_refused_naming_what_is_wrong(path, value, words):
    with pytest.raises(IntegrityError) as told:
        manifest.parse_artifact(changed(manifest.render_artifact(ARTIFACT), path, value))

    assert words in str(told.value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["manifests"], [], "expected a list of manifests"),
        (["manifests", 0], 3, "expected a descriptor"),
        (["manifests", 0, "annotations"], {}, "annotation dev.slmops.profile is missing"),
        (["annotations", manifest.NAME_KEY], "", "annotation org.opencontainers.image.title is missing"),
        (["annotations", manifest.VERSION_KEY], 1, "annotation org.opencontainers.image.version is missing"),
        (["annotations"], [], "annotation org.opencontainers.image.title is missing"),
    ],
)
def test_a_broken_release_is_refused_naming_what_is_wrong(path, value, words):
    with pytest.raises(IntegrityError) as told:
        manifest.parse_release(changed(manifest.render_release(RELEASE), path, value))

    assert words in str(told.value)


@pytest.mark.parametrize("platform", ["linux/arm64", ["arm64"], 3])
def test_a_platform_that_is_no_object_is_refused(platform):
    with pytest.raises(IntegrityError, match="platform"):
        manifest.parse_release(
            changed(manifest.render_release(RELEASE), ["manifests", 0, "platform"], platform)
        )


@pytest.mark.parametrize("platform", [None, {}, {"architecture": None}])
def test_a_platform_that_is_missing_is_refused(platform):
    with pytest.raises(IntegrityError, match="platform"):
        manifest.parse_release(
            changed(manifest.render_release(RELEASE), ["manifests", 0, "platform"], platform)
        )


@given(st.data(), JSON)
def test_no_strange_value_in_a_manifest_is_more_than_refused(data, value):
    rendered, read = data.draw(
        st.sampled_from(
            [
                (manifest.render_artifact(ARTIFACT), manifest.parse_artifact),
                (manifest.render_release(RELEASE), manifest.parse_release),
            ]
        )
    )
    path = data.draw(st.sampled_from([way for way in ways(json.loads(rendered)) if "platform" not in way]))

    with suppress(IntegrityError):
        read(changed(rendered, path, value))


@pytest.mark.parametrize("read", [manifest.parse_artifact, manifest.parse_release])
@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"9" * 5000])
def test_what_breaks_a_reader_of_json_is_refused(read, data):
    with pytest.raises(IntegrityError):
        read(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dev.slmops.counter", "01"),
        ("dev.slmops.counter", "-1"),
        ("dev.slmops.counter", "1" + "0" * 15),
        ("dev.slmops.counter", ""),
        ("dev.slmops.expires", "tomorrow"),
        ("dev.slmops.expires", "2026-01-31"),
    ],
)
def test_a_counter_or_an_end_that_is_none_is_refused(key, value):
    with pytest.raises(IntegrityError, match=key):
        manifest.parse_release(changed(manifest.render_release(RELEASE), ["annotations", key], value))


def test_what_a_release_does_not_say_is_not_in_its_bytes():
    assert b"dev.slmops" not in manifest.render_release(RELEASE).replace(b"dev.slmops.profile", b"")


def ways(value, before=()):
    """Return the path of every value inside a JSON document."""
    keys = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
    return [way for key in keys for way in ((*before, key), *ways(value[key], (*before, key)))]


def test_an_artifact_has_what_oci_and_modelpack_require():
    said = json.loads(manifest.render_artifact(ARTIFACT))

    assert said["schemaVersion"] == 2
    assert said["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert said["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert said["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert said["layers"] == [
        {
            "mediaType": "application/vnd.cncf.model.weight.v1.raw",
            "digest": BLOB.digest,
            "size": 7,
            "annotations": {
                "org.cncf.model.filepath": "model.gguf",
                "org.opencontainers.image.title": "model.gguf",
            },
        }
    ]


def test_a_release_has_what_oci_requires():
    said = json.loads(manifest.render_release(RELEASE))

    assert said["schemaVersion"] == 2
    assert said["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert said["annotations"]["org.opencontainers.image.created"] == RELEASE.created
    (entry,) = said["manifests"]
    assert entry["platform"] == {"architecture": "arm64", "os": "linux"}
    assert {"mediaType", "digest", "size"} <= set(entry)
