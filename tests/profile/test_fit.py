from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slmops.errors import DoesNotFitError
from slmops.profile.device import Cpu, DeviceProfile, Memory, Serve, Storage, System
from slmops.profile.fit import Candidate, choose, compatible
from slmops.profile.footprint import ModelShape, footprint
from slmops.profile.reading import DeviceFacts

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


def board(memory: int, *, bandwidth: int = 10_000 * MIB, wanted: float = 0.0, **serve: int) -> DeviceProfile:
    return DeviceProfile(
        name="board",
        title="A board",
        arch="aarch64",
        cpu=Cpu(model="Cortex-A76", cores=4),
        memory=Memory(total=memory + 1, reserve=1, bandwidth=bandwidth),
        storage=Storage(kind="sd", free=4096 * MIB),
        system=System(os="Debian"),
        serve=Serve(**{"context": 2048, "threads": 4, "min_tokens_per_second": wanted, **serve}),
        formats=("gguf", "onnx"),
    )


candidates = st.lists(
    st.builds(
        Candidate,
        format=st.sampled_from(["gguf", "onnx"]),
        type=st.text("QF48", min_size=1, max_size=4),
        weight_bytes=st.integers(1, 2000).map(lambda count: count * MIB),
    ),
    min_size=1,
    max_size=6,
    unique=True,
)
memories = st.integers(1, 4000).map(lambda count: count * MIB)
speeds = st.sampled_from([0.0, 5.0, 20.0, 100.0])


def chosen(profile: DeviceProfile, of: list[Candidate]):
    try:
        return choose(profile, SHAPE, of)
    except DoesNotFitError:
        return None


def test_the_best_type_that_fits_is_chosen_and_the_others_say_why_not():
    choice = choose(board(800 * MIB), SHAPE, TYPES)

    assert choice.candidate.type == "Q8_0"
    assert choice.reason.startswith(
        "Q8_0 (gguf) is the best of 4 that fits board: 673.0 MiB of 800.0 MiB memory"
    )
    assert [(candidate.type, why) for candidate, why in choice.rejected] == [
        ("F16", "needs 1.1 GiB of memory, 800.0 MiB is there: 336.0 MiB short"),
        ("Q4_K_M", "fits, and ranks after Q8_0 (gguf)"),
        ("Q2_K", "fits, and ranks after Q8_0 (gguf)"),
    ]


def test_a_type_that_is_too_slow_is_passed_over():
    choice = choose(board(4000 * MIB, wanted=22), SHAPE, TYPES)

    assert choice.candidate.type == "Q4_K_M"
    assert choice.rejected[0][1] == "about 9.9 tokens/s, and at least 22 are wanted"


def test_when_nothing_is_fast_enough_the_fastest_that_fits_is_chosen_and_says_so():
    choice = choose(board(4000 * MIB, wanted=500), SHAPE, TYPES)

    assert choice.candidate.type == "Q2_K"
    assert choice.reason.startswith("nothing fits board and reaches 500 tokens/s; Q2_K (gguf) is fastest")


def test_the_preferred_format_goes_first():
    onnx = Candidate("onnx", "INT8", 300 * MIB)

    assert choose(board(4000 * MIB), SHAPE, [onnx, *TYPES]).candidate.type == "F16"
    first = board(4000 * MIB).model_copy(update={"formats": ("onnx", "gguf")})
    assert choose(first, SHAPE, [*TYPES, onnx]).candidate is onnx


def test_a_format_that_the_device_does_not_take_is_rejected():
    profile = board(4000 * MIB).model_copy(update={"formats": ("gguf",)})
    onnx = Candidate("onnx", "INT8", 300 * MIB)

    assert choose(profile, SHAPE, [onnx, *TYPES]).rejected[-1] == (onnx, "board takes no onnx")
    with pytest.raises(DoesNotFitError, match="nothing to choose from: board takes gguf"):
        choose(profile, SHAPE, [onnx])


def test_when_nothing_fits_the_error_says_what_is_short_and_which_context_would_fit():
    with pytest.raises(DoesNotFitError) as caught:
        choose(board(464 * MIB), SHAPE, TYPES)

    assert str(caught.value) == (
        "even Q2_K (gguf) does not fit board at a context of 2048: it needs 481.0 MiB of memory, "
        "464.0 MiB is there: 17.0 MiB short"
    )
    assert caught.value.remedy == "It would fit with serve.context: 576."
    assert choose(board(464 * MIB, context=576), SHAPE, TYPES).candidate.type == "Q2_K"
    with pytest.raises(DoesNotFitError):
        choose(board(464 * MIB, context=640), SHAPE, TYPES)


def test_when_no_context_would_fit_the_error_says_how_much_memory_would():
    with pytest.raises(DoesNotFitError) as caught:
        choose(board(100 * MIB), SHAPE, TYPES)

    assert caught.value.remedy == "Take a smaller model, or a device with 481.0 MiB of memory."


def test_storage_can_be_what_is_short():
    profile = board(4000 * MIB).model_copy(update={"storage": Storage(kind="sd", free=100 * MIB)})

    with pytest.raises(DoesNotFitError, match=r"it needs 339\.0 MiB of storage, 100\.0 MiB is there"):
        choose(profile, SHAPE, TYPES)


@given(candidates, memories, speeds)
def test_the_choice_never_exceeds_memory_or_storage(of, memory, wanted):
    profile = board(memory, wanted=wanted)
    choice = chosen(profile, of)
    assume(choice is not None)

    candidate = choice.candidate
    need = footprint(SHAPE, candidate.weight_bytes, 2048, 64, candidate.format)
    assert choice.footprint == need
    assert need.total <= memory
    assert candidate.weight_bytes <= profile.storage.free


@given(candidates, memories, memories, speeds)
def test_more_memory_never_yields_a_worse_type(of, memory, more, wanted):
    of = [replace(candidate, format="gguf") for candidate in of]
    before = chosen(board(memory, wanted=wanted), of)
    after = chosen(board(memory + more, wanted=wanted), of)
    assume(before is not None)

    assert after is not None
    assert of.index(after.candidate) <= of.index(before.candidate)


@given(candidates, memories, memories, speeds)
def test_more_memory_never_yields_a_worse_choice_among_formats(of, memory, more, wanted):
    def rank(choice) -> tuple[bool, float]:
        slow = choice.tokens_per_second < wanted
        order = sorted(of, key=lambda candidate: candidate.format)
        return slow, -choice.tokens_per_second if slow else order.index(choice.candidate)

    before = chosen(board(memory, wanted=wanted), of)
    after = chosen(board(memory + more, wanted=wanted), of)
    assume(before is not None)

    assert rank(after) <= rank(before)


@given(candidates, memories, speeds)
def test_the_same_question_has_the_same_answer_and_no_candidate_is_lost(of, memory, wanted):
    choice = chosen(board(memory, wanted=wanted), of)
    assume(choice is not None)

    assert chosen(board(memory, wanted=wanted), of) == choice
    named = [choice.candidate, *(candidate for candidate, _ in choice.rejected)]
    assert len(named) == len(of)
    assert set(named) == set(of)


@given(candidates, memories)
def test_what_the_error_promises_holds(of, memory):
    profile = board(memory)
    try:
        choose(profile, SHAPE, of)
    except DoesNotFitError as error:
        assume("serve.context" in error.remedy)
        context = int(error.remedy.rstrip(".").split()[-1])
        serve = profile.serve.model_copy(update={"context": context})
        assert choose(profile.model_copy(update={"serve": serve}), SHAPE, of)


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
