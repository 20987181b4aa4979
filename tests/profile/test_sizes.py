import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.profile.sizes import exact_rate, exact_size, human_rate, human_size, parse_rate, parse_size


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("8GiB", 8 << 30),
        ("512 MiB", 512 << 20),
        ("1.5GB", 1_500_000_000),
        ("64KiB", 65536),
        ("64kB", 64000),
        ("64KB", 64000),
        ("12B", 12),
        ("12", 12),
        (12, 12),
        (0, 0),
        ("0.3KiB", 307),
    ],
)
def test_sizes_are_read_as_people_write_them(said, size):
    assert parse_size(said) == size


@pytest.mark.parametrize(
    "said", ["", "8 GB ", "8 gb", "8G", "-8GiB", "8e3", "lots", -1, True, 1.5, None, "8GB/s"]
)
def test_what_is_no_size_is_refused(said):
    with pytest.raises(ValueError, match="expected a size like 8GiB"):
        parse_size(said)


def test_rates_say_per_second():
    assert parse_rate("10.2GB/s") == 10_200_000_000
    assert parse_rate("40KB/s") == parse_rate("40kB/s") == 40_000
    assert parse_rate(5) == 5
    for said in ("10.2GB", "fast/s", "/s", -1):
        with pytest.raises(ValueError, match=r"expected a rate like 10\.2GB/s"):
            parse_rate(said)


@given(st.integers(min_value=0, max_value=1 << 60))
def test_what_is_written_exactly_reads_back(size):
    assert parse_size(exact_size(size)) == size
    assert parse_rate(exact_rate(size)) == size


def test_exact_sizes_are_short():
    assert exact_size(8 << 30) == "8GiB"
    assert exact_size(10_200_000_000) == "10.2GB"
    assert exact_rate(10_200_000_000) == "10.2GB/s"
    assert exact_size(1023) == "1023B"
    assert exact_size(64_000) == "64kB"


def test_sizes_for_people_are_rounded():
    assert [human_size(size) for size in (0, 999, 1536, 812 << 20, 1_500_000_000)] == [
        "0 B",
        "999 B",
        "1.5 KiB",
        "812.0 MiB",
        "1.4 GiB",
    ]


@pytest.mark.parametrize(
    ("rate", "said"),
    [(0, "0"), (0.333, "0.33"), (4.24, "4.2"), (9.96, "10"), (36.4, "36"), (99.6, "100"), (1234.5, "1200")],
)
def test_a_rate_for_people_has_two_digits(rate, said):
    assert human_rate(rate) == said


@given(st.floats(1e-3, 1e7))
def test_a_rate_for_people_is_within_five_percent(rate):
    assert float(human_rate(rate)) == pytest.approx(rate, rel=0.0501)
