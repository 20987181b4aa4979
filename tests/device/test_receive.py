import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slmops import digest as digests
from slmops import wire
from slmops.artifact import manifest
from slmops.artifact.manifest import CONFIG_TYPE, WEIGHT_TYPE, Artifact, Blob
from slmops.device import incoming, line, receive
from slmops.device.places import Places
from slmops.errors import DeviceError, IntegrityError

CHUNK = 1000
WHOLE = bytes(number % 251 for number in range(9500))


class Arrival:
    """A file on its way in: no signature, no operator, only the folder that `prepare` has made."""

    def __init__(self, places, whole=WHOLE, blob=None):
        self.places, self.whole = places, whole
        self.blob = blob or Blob(WEIGHT_TYPE, digests.of_bytes(whole), len(whole))
        config = Blob(CONFIG_TYPE, digests.of_bytes(b"{}"), 2)
        other = Blob(WEIGHT_TYPE, digests.of_bytes(b"other"), 5)
        described = manifest.render_artifact(Artifact(config, (("model", self.blob), ("other", other))))
        self.slot = digests.hexdigits(digests.of_bytes(described))
        self.folder = places.incoming / self.slot
        self.folder.mkdir()
        (self.folder / ".manifest.json").write_bytes(described)
        self.place = self.folder / "model"
        self.part = incoming.part_of(self.place)

    def take(self, start, end, data=None, **said):
        """Send the bytes from `start` to `end`, or `data` in their place."""
        said = {"slot": self.slot, "name": "model", "offset": start, "length": end - start} | said
        source = io.BytesIO(self.whole[start:end] if data is None else data)
        return receive.take(self.places, said, source.read)

    def compare(self, size, chunk=CHUNK):
        """Ask which chunks of the first `size` bytes are wrong, of an operator who has the whole file."""
        found = [
            hashlib.sha256(self.whole[start : min(start + chunk, size)]).hexdigest()[: wire.CHUNK_DIGITS]
            for start in range(0, size, chunk)
        ]
        said = {"slot": self.slot, "name": "model", "size": size, "chunk": chunk, "digests": found}
        return receive.compare(self.places, said)

    def forget(self):
        """Be a new process, which remembers nothing."""
        incoming.forget(self.place)


@pytest.fixture
def arrival(places):
    return Arrival(places)


def cut(arrival, start, end):
    """Send all from `start`, over a link that breaks at `end`."""
    with pytest.raises(DeviceError, match="the link ended after"):
        arrival.take(start, len(WHOLE), WHOLE[start:end])


def test_a_file_that_comes_whole_gets_its_name(arrival):
    assert arrival.take(0, len(WHOLE)) == {"name": "model", "size": len(WHOLE), "whole": True}
    assert arrival.place.read_bytes() == WHOLE
    assert not arrival.part.exists()


def test_half_a_file_is_kept_and_has_no_name(arrival):
    cut(arrival, 0, 4000)

    assert arrival.part.read_bytes() == WHOLE[:4000]
    assert not arrival.place.exists()


@pytest.mark.parametrize("size", [0, 1])
def test_the_smallest_files_come_too(places, size):
    small = Arrival(places, b"x" * size)

    assert small.take(0, size)["whole"]
    assert small.place.read_bytes() == b"x" * size


def test_a_cut_transfer_goes_on_where_it_was(arrival):
    cut(arrival, 0, 4321)
    arrival.forget()

    assert arrival.compare(4321) == {"held": 4321, "bad": []}
    assert arrival.take(4321, len(WHOLE))["whole"]
    assert arrival.place.read_bytes() == WHOLE


def test_who_goes_on_without_comparing_is_held_to_the_digest(arrival):
    cut(arrival, 0, 4000)
    arrival.forget()
    arrival.part.write_bytes(b"garbage".ljust(4000, b"-"))

    with pytest.raises(IntegrityError, match="thrown away"):
        arrival.take(4000, len(WHOLE))

    assert not arrival.part.exists()
    assert not arrival.place.exists()


def test_a_flipped_byte_is_thrown_away(arrival):
    with pytest.raises(IntegrityError, match=r"model: what arrived is not sha256:.* thrown away"):
        arrival.take(0, len(WHOLE), WHOLE[:-1] + b"?")

    assert not arrival.part.exists()


def test_a_hole_that_a_power_cut_left_is_found_and_filled_alone(arrival):
    cut(arrival, 0, 8200)
    arrival.part.write_bytes(WHOLE[:2000] + bytes(1500) + WHOLE[3500:8200])
    arrival.forget()

    assert arrival.compare(8200) == {"held": 8200, "bad": [2, 3]}
    assert arrival.take(2000, 4000, more=True) == {"name": "model", "size": 4000, "whole": False}
    assert arrival.take(8200, len(WHOLE))["whole"]
    assert arrival.place.read_bytes() == WHOLE


def test_a_part_that_lost_its_end_is_short_by_that(arrival):
    cut(arrival, 0, 8200)
    os.truncate(arrival.part, 3100)
    arrival.forget()

    assert arrival.compare(0) == {"held": 3100, "bad": []}
    assert arrival.compare(8200)["bad"] == [3, 4, 5, 6, 7, 8]


def test_a_part_that_grew_beyond_its_file_is_cut_to_it(arrival):
    arrival.part.write_bytes(WHOLE + b"more")

    assert arrival.compare(0) == {"held": len(WHOLE), "bad": []}
    assert arrival.compare(len(WHOLE)) == {"held": len(WHOLE), "bad": []}
    assert arrival.take(len(WHOLE), len(WHOLE))["whole"]


def test_a_part_that_is_whole_needs_no_byte_to_get_its_name(arrival):
    arrival.part.write_bytes(WHOLE)

    assert arrival.take(len(WHOLE), len(WHOLE))["whole"]
    assert arrival.place.read_bytes() == WHOLE


@pytest.mark.parametrize(("start", "end"), [(0, 9501), (9500, 9501), (-1, 5), (5, 4)])
def test_no_byte_beyond_the_signed_size_is_taken(arrival, start, end):
    with pytest.raises(IntegrityError, match="of a file of 9500"):
        arrival.take(start, end)

    assert not arrival.part.exists()


def test_a_part_grows_without_holes(arrival):
    with pytest.raises(DeviceError, match="0 bytes are here, not 5000"):
        arrival.take(5000, len(WHOLE))


def test_a_file_that_no_manifest_names_is_not_taken(arrival):
    with pytest.raises(KeyError):
        arrival.take(0, 1, name="../../escape")


@pytest.mark.parametrize("slot", ["../../escape", "0" * 63, "", "G" * 64, "/etc"])
def test_a_slot_is_named_by_hex_digits_alone(arrival, slot):
    with pytest.raises(IntegrityError, match="not a digest"):
        arrival.take(0, 1, slot=slot)


def test_a_release_that_was_not_prepared_is_not_taken(arrival):
    with pytest.raises(DeviceError, match="is not prepared"):
        arrival.take(0, 1, slot="0" * 64)


def test_a_file_whose_arrival_was_never_told_is_not_sent_again(arrival):
    arrival.take(0, len(WHOLE))
    arrival.forget()

    assert arrival.compare(0) == {"held": len(WHOLE), "bad": []}
    assert arrival.compare(len(WHOLE)) == {"held": len(WHOLE), "bad": []}
    assert arrival.take(len(WHOLE), len(WHOLE))["whole"]
    assert arrival.place.read_bytes() == WHOLE
    assert not arrival.part.exists()


@pytest.mark.parametrize(("size", "count"), [(9501, 10), (-1, 0), (9500, 9), (9500, 11), (0, 1)])
def test_chunks_that_do_not_make_up_what_is_compared_are_refused(arrival, size, count):
    said = {"slot": arrival.slot, "name": "model", "size": size, "chunk": CHUNK, "digests": ["0"] * count}

    with pytest.raises(DeviceError, match="expected the chunks of 9500 bytes"):
        receive.compare(arrival.places, said)


def test_a_part_that_got_its_name_while_somebody_waited_for_it_is_not_written_again(arrival, until):
    """The end of a connection that was cut comes late, and whole, while another waits to send it again."""
    with ThreadPoolExecutor() as pool:
        with incoming.writing(arrival.place, arrival.blob) as file:
            file.write(WHOLE)
            file.flush()
            later = pool.submit(arrival.take, 0, len(WHOLE), b"?" * len(WHOLE))
            until(lambda: open_files().count(str(arrival.part)) == 2)
            incoming.accept(arrival.place, arrival.blob)

        assert later.result() == {"name": "model", "size": len(WHOLE), "whole": True}
    assert arrival.place.read_bytes() == WHOLE
    assert not arrival.part.exists()


def open_files():
    """The names of the files that this process has open."""
    return [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]


def test_no_more_is_read_than_belongs_to_the_range(arrival):
    source = io.BytesIO(WHOLE + b"the next request")
    said = {"slot": arrival.slot, "name": "model", "offset": 0, "length": len(WHOLE)}

    receive.take(arrival.places, said, source.read)

    assert source.read() == b"the next request"


def test_a_delta_lies_beside_what_it_makes_and_is_of_its_own_digest(arrival):
    delta = b"how they differ"
    said = {"delta": {"digest": digests.of_bytes(delta), "size": len(delta)}, "name": "model.delta"}

    with pytest.raises(IntegrityError, match="thrown away"):
        arrival.take(0, len(delta), delta[::-1], **said)
    assert arrival.take(0, len(delta), delta, **said)["whole"]
    (found,) = (path for path in arrival.folder.iterdir() if path.name.endswith(".delta"))
    assert found.read_bytes() == delta


@pytest.mark.parametrize("size", [9500, 1 << 60, -1, "5", None])
def test_a_delta_that_is_no_smaller_than_its_file_is_none(arrival, size):
    said = {"delta": {"digest": digests.of_bytes(b""), "size": size}, "name": "model.delta"}

    with pytest.raises(IntegrityError, match="a delta of"):
        arrival.take(0, 1, **said)


def test_parts_of_two_releases_never_mix(places):
    one, other = Arrival(places), Arrival(places, WHOLE[::-1])
    cut(one, 0, 5000)

    assert one.part != other.part
    assert other.compare(0)["held"] == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 9499), st.integers(1, 3000)), max_size=4),
    st.integers(0, 9500),
    st.integers(1, 4000),
)
def test_whatever_happened_to_a_part_only_bad_chunks_come_again(tmp_path_factory, harms, held, chunk):
    places = Places(tmp_path_factory.mktemp("device") / "root")
    places.make()
    arrival = Arrival(places)
    harmed = bytearray(WHOLE[:held])
    for start, length in harms:
        harmed[start : start + length] = bytes(len(harmed[start : start + length]))
    arrival.part.write_bytes(harmed)

    bad = arrival.compare(held, chunk)["bad"]

    spans = [(number * chunk, min((number + 1) * chunk, held)) for number in bad]
    assert all(harmed[start:end] != WHOLE[start:end] for start, end in spans)
    for start, end in spans:
        arrival.take(start, end, more=True)
    assert arrival.take(held, len(WHOLE))["whole"]


@pytest.mark.parametrize("size", [(2 << 30) + 1, (4 << 30) + 1])
def test_a_file_beyond_what_32_bits_count_is_taken_to_its_size_and_no_further(places, size):
    arrival = Arrival(places, blob=Blob(WEIGHT_TYPE, "sha256:" + "0" * 64, size))
    with arrival.part.open("wb") as file:
        file.truncate(size - 3)

    with pytest.raises(IntegrityError, match=f"bytes {size - 3} to {size + 1} of a file of {size}"):
        arrival.take(size - 3, size + 1, b"abcd")
    assert arrival.take(size - 3, size - 1, b"ab")["size"] == size - 1
    assert arrival.part.stat().st_size == size - 1
    assert not arrival.place.exists()


@pytest.mark.journey
@pytest.mark.timeout(600)
def test_the_last_byte_of_a_huge_file_counts(places):
    """The file is a hole but for its end, so it takes no room."""
    size = (4 << 30) + 1
    # As sha256sum says of four GiB of zeros and a "!".
    digest = "sha256:3e9f7d9f4b73e7a67d43d21ce5365877daf3fbd487515fad61fb8dd3496bd225"
    arrival = Arrival(places, blob=Blob(WEIGHT_TYPE, digest, size))
    with arrival.part.open("wb") as file:
        file.truncate(size - 1)

    assert arrival.take(size - 1, size, b"!")["whole"]
    # What was read of it once is in memory still, and is read again in half the time.
    arrival.place.rename(arrival.part)
    os.truncate(arrival.part, size - 1)
    with pytest.raises(IntegrityError, match="thrown away"):
        arrival.take(size - 1, size, b"?")


def test_a_pipe_is_read_through_one_buffer():
    assert line.PIECE <= line.PIPE
