import pytest

from slmops.device import slots
from slmops.device.trial import Standing, Trial
from slmops.errors import IntegrityError


@pytest.fixture
def stocked(device, shop):
    """A device with three slots, and their names."""
    return device, [device.take(shop.release(version)) for version in ("1.0.0", "1.1.0", "1.2.0")]


def links(places):
    return [link.readlink().name if link.is_symlink() else None for link in (places.current, places.previous)]


def test_the_links_follow_the_standing(places):
    for standing in (Standing("b", "a"), Standing("a"), Standing("c", "b"), Standing()):
        slots.point(places, standing)

        assert links(places) == [standing.slot, standing.previous]


def test_pointing_twice_changes_nothing(places):
    slots.point(places, Standing("b", "a"))
    before = places.current.lstat().st_ino

    slots.point(places, Standing("b", "a"))

    assert places.current.lstat().st_ino == before


def test_a_link_that_a_power_cut_left_half_made_is_no_hindrance(places):
    (places.root / ".current.new").symlink_to("slots/of-another-day")

    slots.point(places, Standing("a"))

    assert links(places) == ["a", None]
    assert not (places.root / ".current.new").is_symlink()


def test_a_slot_says_what_it_holds(stocked):
    box, (first, *_) = stocked

    assert slots.description(box.places, first).reference == "parrot:1.0.0"
    assert slots.release(box.places, first).reference == "parrot:1.0.0"
    assert slots.artifact(box.places, first) == box.shop.release("1.0.0").built
    slots.verify(box.places, first)


def test_a_slot_with_a_rotten_file_is_not_whole(stocked):
    box, (first, *_) = stocked
    file = box.places.files(first) / "model.gguf"
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)

    with pytest.raises(IntegrityError, match=r"model\.gguf has rotted"):
        slots.verify(box.places, first)


def test_a_slot_with_a_missing_file_is_not_whole(stocked):
    box, (first, *_) = stocked
    (box.places.files(first) / "golden.jsonl").unlink()

    with pytest.raises(IntegrityError, match=r"golden\.jsonl has rotted"):
        slots.verify(box.places, first)


def test_a_slot_whose_manifest_is_anothers_is_not_whole(stocked):
    box, (first, second, _) = stocked
    (box.places.slot(first) / "manifest.json").write_bytes(
        (box.places.slot(second) / "manifest.json").read_bytes()
    )

    with pytest.raises(IntegrityError, match=f"slot {first[:12]}: its manifest has rotted"):
        slots.verify(box.places, first)


def test_what_serves_and_the_ways_back_are_kept(stocked):
    box, (first, second, third) = stocked

    gone = slots.collect(box.places, Standing(second, first))

    assert gone == [third]
    assert slots.names(box.places) == sorted([first, second])


def test_a_trial_keeps_all_it_may_return_to(stocked):
    box, (first, second, third) = stocked
    standing = Standing(third, second, Trial("boot", 0.0), before=Standing(second, first))

    assert slots.collect(box.places, standing) == []


def test_what_never_became_a_slot_goes(stocked):
    box, (first, second, third) = stocked
    torn = box.places.slots / f".{'0' * 64}" / "files"
    torn.mkdir(parents=True)
    (torn / "model.gguf").write_bytes(b"half")
    torn.chmod(0o500)

    slots.collect(box.places, Standing(first, second))

    assert sorted(path.name for path in box.places.slots.iterdir()) == sorted([first, second])
    assert third not in slots.names(box.places)
