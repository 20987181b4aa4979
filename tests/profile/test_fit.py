from hypothesis import assume, given
from hypothesis import strategies as st

from slmops.errors import DoesNotFitError
from slmops.profile.device import Cpu, DeviceProfile, Memory, Serve, Storage, System
from slmops.profile.fit import Candidate, Fit, compatible, hold, most_bytes, nothing_fits
from slmops.profile.footprint import ModelShape, footprint
from slmops.profile.reading import DeviceFacts
from slmops.profile.sizes import human_size

MIB = 1 << 20
SHAPE = ModelShape(
    layers=24, hidden=896, heads=14, kv_heads=2, head_dim=64, vocab=151936, parameters=494_000_000
)
TYPES = [
    Candidate("gguf", "F16", 994 * MIB),
    Candidate("gguf", "Q8_0", 531 * MIB),
    Candidate("gguf", "Q4_K_M", 398 * MIB),
    Candidate("gguf", "Q2_K", 339 * MIB),
]
Q2_K = TYPES[-1]


def board(
    memory: int,
    *,
    storage: int = 4096 * MIB,
    bandwidth: int = 10_000 * MIB,
    wanted: float = 0.0,
    **serve: int,
) -> DeviceProfile:
    return DeviceProfile(
        name="board",
        title="A board",
        arch="aarch64",
        cpu=Cpu(model="Cortex-A76", cores=4),
        memory=Memory(total=memory + 1, reserve=1, bandwidth=bandwidth),
        storage=Storage(kind="sd", free=storage),
        system=System(os="Debian"),
        serve=Serve(**{"context": 2048, "threads": 4, "min_tokens_per_second": wanted, **serve}),
        formats=("gguf", "onnx"),
    )


def needed(candidate: Candidate, context: int = 2048) -> int:
    """Return the bytes of memory that the footprint says."""
    return footprint(SHAPE, candidate.weight_bytes, context, min(64, context), candidate.format).total


def one(profile: DeviceProfile, candidate: Candidate) -> Fit:
    (fit,) = hold(profile, SHAPE, [candidate])
    return fit


def refusal(profile: DeviceProfile, of: list[Candidate]) -> DoesNotFitError:
    return nothing_fits(profile, SHAPE, hold(profile, SHAPE, of))


formats = st.sampled_from(["gguf", "onnx"])
mebibytes = st.integers(1, 4000).map(lambda count: count * MIB)
candidates = st.lists(
    st.builds(
        Candidate,
        format=formats,
        type=st.text("QF48", min_size=1, max_size=4),
        weight_bytes=st.integers(1, 2000).map(lambda count: count * MIB),
    ),
    min_size=1,
    max_size=6,
    unique=True,
)
speeds = st.sampled_from([0.0, 5.0, 20.0, 100.0, 1e5])
bandwidths = st.sampled_from([1000, 10_000, 100_000]).map(lambda count: count * MIB)
boards = st.builds(
    board,
    mebibytes,
    storage=mebibytes,
    bandwidth=bandwidths,
    wanted=speeds,
    context=st.sampled_from([64, 512, 2048]),
)


def test_what_is_short_is_said_with_the_figures():
    need = needed(TYPES[0])
    fits = hold(board(need - 336 * MIB), SHAPE, TYPES)

    assert [fit.candidate for fit in fits] == TYPES
    asked, there = human_size(need), human_size(need - 336 * MIB)
    assert fits[0].short == f"needs {asked} of memory, {there} is there: 336.0 MiB short"
    assert [fit.short for fit in fits[1:]] == ["", "", ""]
    assert fits[0].need.total == need


def test_a_type_that_is_too_slow_says_how_slow_and_fits_all_the_same():
    slow, *_, fast = hold(board(4000 * MIB, wanted=22), SHAPE, TYPES)

    assert slow.slow == f"about {slow.tokens_per_second:.2g} tokens/s, and at least 22 are wanted"
    assert slow.tokens_per_second < 22 <= fast.tokens_per_second
    assert (slow.short, fast.short, fast.slow) == ("", "", "")


def test_a_format_that_the_device_does_not_take_does_not_fit():
    profile = board(4000 * MIB).model_copy(update={"formats": ("gguf",)})
    onnx = Candidate("onnx", "INT8", 300 * MIB)

    assert one(profile, onnx).short == "board takes no onnx"
    assert str(refusal(profile, [onnx])) == "nothing to choose from: board takes gguf"
    assert str(refusal(board(MIB), [])) == "nothing to choose from: board takes gguf or onnx"
    assert most_bytes(profile, SHAPE, "onnx") == 0


def test_when_nothing_fits_the_error_says_what_is_short_and_which_context_would_fit():
    memory = needed(Q2_K, context=576)
    error = refusal(board(memory), TYPES)

    assert str(error).startswith("even Q2_K (gguf) does not fit board at a context of 2048: it needs ")
    assert str(error).endswith(" short")
    context = int(error.remedy.removeprefix("It would fit with serve.context: ").removesuffix("."))
    assert context % 64 == 0
    assert 576 <= context < 2048
    assert not one(board(memory, context=context), Q2_K).short
    assert one(board(memory, context=context + 64), Q2_K).short


def test_when_no_context_would_fit_the_error_says_how_much_memory_would():
    error = refusal(board(100 * MIB), TYPES)

    memory = human_size(needed(Q2_K) + 1)  # the board keeps one byte for itself
    assert error.remedy == f"Take a smaller model, or a device with {memory} of memory."


def test_storage_can_be_what_is_short():
    error = refusal(board(4000 * MIB, storage=100 * MIB), TYPES)

    assert (
        "it needs 678.0 MiB of storage for the old version and the new, 100.0 MiB is there: 578.0 MiB short"
        in str(error)
    )
    assert error.remedy.startswith("Make room on the device and say so in storage.free")


@given(boards, candidates)
def test_what_fits_exceeds_neither_memory_nor_storage_and_what_does_not_exceeds_one(profile, of):
    for fit in hold(profile, SHAPE, of):
        context = profile.serve.context
        assert fit.need.total == needed(fit.candidate, context)
        fits = (
            fit.need.total <= profile.memory.budget and 2 * fit.candidate.weight_bytes <= profile.storage.free
        )
        assert (fit.short == "") == fits
        assert (fit.slow == "") == (fit.tokens_per_second >= profile.serve.min_tokens_per_second)


@given(boards, candidates, mebibytes)
def test_what_fits_stays_fitting_with_more_of_anything(profile, of, more):
    memory = profile.memory.model_copy(update={"total": profile.memory.total + more})
    storage = profile.storage.model_copy(update={"free": profile.storage.free + more})
    faster = profile.memory.model_copy(update={"bandwidth": profile.memory.bandwidth + more})
    for better in ({"memory": memory}, {"storage": storage}, {"memory": faster}):
        pairs = zip(hold(profile, SHAPE, of), hold(profile.model_copy(update=better), SHAPE, of), strict=True)
        for before, after in pairs:
            assert not after.short or before.short
            assert not after.slow or before.slow
            assert after.tokens_per_second >= before.tokens_per_second


@given(boards, candidates)
def test_the_same_question_has_the_same_answer_in_the_order_asked(profile, of):
    fits = hold(profile, SHAPE, of)

    assert hold(profile, SHAPE, of) == fits
    assert [fit.candidate for fit in fits] == of
    assert hold(profile, SHAPE, of[::-1]) == fits[::-1]


@given(boards, formats)
def test_the_largest_file_fits_and_is_fast_enough_and_one_byte_more_is_not(profile, format_):
    most = most_bytes(profile, SHAPE, format_)

    largest, too_large = (one(profile, Candidate(format_, "", most + more)) for more in (0, 1))
    assert too_large.short or too_large.slow
    if most:
        assert not largest.short
        assert not largest.slow


@given(boards, formats, mebibytes)
def test_more_memory_never_makes_the_largest_file_smaller(profile, format_, more):
    memory = profile.memory.model_copy(update={"total": profile.memory.total + more})
    richer = profile.model_copy(update={"memory": memory})

    assert most_bytes(richer, SHAPE, format_) >= most_bytes(profile, SHAPE, format_)


@given(boards, candidates)
def test_what_the_error_promises_holds(profile, of):
    fits = hold(profile, SHAPE, of)
    assume(all(fit.short for fit in fits))
    error = nothing_fits(profile, SHAPE, fits)

    assert "does not fit" in str(error)
    if "serve.context" in error.remedy:
        context = int(error.remedy.rstrip(".").split()[-1])
        serve = profile.serve.model_copy(update={"context": context, "micro_batch": min(64, context)})
        smaller = profile.model_copy(update={"serve": serve})
        least = min(fits, key=lambda fit: fit.need.total).candidate
        assert one(smaller, least).need.total <= profile.memory.budget


def test_a_device_that_has_everything_lacks_nothing():
    have = DeviceFacts(arch="aarch64", memory_total=900, memory_available=800, disk_free=700)

    assert compatible(arch="aarch64", memory_bytes=800, disk_bytes=700, have=have) == []


def test_what_a_device_lacks_is_said_with_how_much_is_short():
    have = DeviceFacts(arch="armv7l", memory_total=512 * MIB, memory_available=300 * MIB, disk_free=100 * MIB)

    assert compatible(arch="aarch64", memory_bytes=400 * MIB, disk_bytes=150 * MIB, have=have) == [
        "built for aarch64, and the device is armv7l",
        "needs 400.0 MiB of memory, 300.0 MiB is there: 100.0 MiB short",
        "needs 150.0 MiB of disk, 100.0 MiB is there: 50.0 MiB short",
    ]


def test_what_a_device_does_not_say_it_lacks():
    assert compatible(arch="aarch64", memory_bytes=MIB, disk_bytes=MIB, have=DeviceFacts()) == [
        "built for aarch64, and the device is of unknown architecture",
        "needs 1.0 MiB of memory, and how much is free could not be read",
        "needs 1.0 MiB of disk, and how much is free could not be read",
    ]


def test_all_memory_counts_where_a_kernel_is_too_old_to_say_what_is_available():
    have = DeviceFacts(arch="aarch64", memory_total=MIB, disk_free=MIB)

    assert compatible(arch="aarch64", memory_bytes=MIB, disk_bytes=MIB, have=have) == []
