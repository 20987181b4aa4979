"""What is worth building, said before anything is built."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.build.plan import (
    IN_SMALL_BLOCKS,
    MOST_FALLBACK,
    ROUNDED,
    Make,
    Weight,
    Wish,
    dropped_for,
    plan,
    within_training,
)
from slmops.build.scheme import FILE_TYPES, Build, choose
from slmops.errors import BuildError, DoesNotFitError, ModelError, UsageError
from slmops.profile.device import Cpu, DeviceProfile, Memory, Serve, Storage, System
from slmops.profile.footprint import ModelShape

MIB = 1 << 20
BOTH = ("gguf", "onnx")


def board(name="board", memory=4000 * MIB, formats=BOTH, wanted=0.0, context=2048):
    return DeviceProfile(
        name=name,
        title="A board",
        arch="aarch64",
        cpu=Cpu(model="Cortex-A76", cores=4),
        memory=Memory(total=memory + 1, reserve=1, bandwidth=10_000 * MIB),
        storage=Storage(kind="sd", free=4096 * MIB),
        system=System(os="Debian"),
        serve=Serve(context=context, threads=4, min_tokens_per_second=wanted),
        formats=formats,
    )


@dataclass
class Model:
    """A model of four layers that can be weighed; it remembers what was."""

    columns: int = 256
    inner: int = 512
    vocab: int = 1000
    no_export: BuildError | None = None
    no_family: ModelError | None = None
    weighed: list[Make] = field(default_factory=list)

    @property
    def shape(self):
        return ModelShape(4, self.columns, 4, 4, self.columns // 4, self.vocab, 100_000_000)

    @property
    def tensors(self):
        layers = {
            f"blk.{i}.{name}.weight": (8192, columns)
            for i in range(4)
            for name, columns in (
                ("attn_q", self.columns),
                ("ffn_up", self.columns),
                ("ffn_down", self.inner),
            )
        }
        return {"token_embd.weight": (self.vocab, self.columns), **layers}

    def __call__(self, make):
        self.weighed.append(make)
        if make.format == "onnx":
            return Weight({"F32": 400, "INT8": 100, "INT4": 70}[make.type] * MIB, refused=self.no_export)
        if self.no_family:
            return Weight(0, refused=self.no_family)
        scheme = choose(self.tensors, make.type, Build(4, 4, 4))
        return Weight(scheme.data_bytes, scheme)


def planned(model, *wishes, formats=BOTH, most_fallback=MOST_FALLBACK):
    return plan(wishes, model.shape, model, formats, most_fallback)


def dropped(found, profile="board"):
    return {str(row.make): row.dropped for row in found.rows[profile] if row.dropped}


formats_taken = st.sampled_from([("gguf",), ("onnx",), BOTH, BOTH[::-1]])
boards = st.builds(
    board,
    memory=st.integers(1, 2000).map(lambda count: count * MIB),
    formats=formats_taken,
    wanted=st.sampled_from([0.0, 10.0, 1e5]),
)
wishes = st.builds(
    Wish,
    boards,
    format=st.sampled_from(["auto", "gguf", "onnx"]),
    type=st.sampled_from(["auto", *FILE_TYPES, "INT8", "INT4", "Q9"]),
)
models = st.builds(
    Model,
    columns=st.sampled_from([64, 96, 128, 256, 512]),
    inner=st.sampled_from([172, 256, 512]),
    vocab=st.sampled_from([10, 1000, 100_000]),
    no_export=st.sampled_from([None, BuildError("its export takes more memory than there is")]),
    no_family=st.sampled_from([None, None, ModelError("there is no such family")]),
)


def attempt(model, *asked):
    try:
        return planned(model, *asked)
    except (BuildError, DoesNotFitError, ModelError, UsageError) as error:
        return type(error), str(error), error.remedy


@given(models, wishes)
def test_the_same_question_gives_the_same_plan(model, wish):
    assert attempt(model, wish) == attempt(model, wish)


@given(models, wishes)
def test_a_plan_that_comes_about_has_something_to_build_and_builds_what_is_not_dropped(model, wish):
    found = attempt(model, wish)
    if not isinstance(found, tuple):
        rows = found.rows[wish.profile.name]
        assert found.makes
        assert found.makes == [row.make for row in rows if not row.dropped]
        assert all(not row.fit.short for row in rows if not row.dropped)
        assert all(row.make.format in wish.profile.formats for row in rows)
        assert len({row.make for row in rows}) == len(rows)


@given(models, wishes)
def test_a_type_named_outright_is_built_or_refused_and_never_replaced(model, wish):
    found = attempt(model, wish)
    if not wish.is_open and not isinstance(found, tuple):
        assert [make.type for make in found.makes] == [wish.type]
        assert wish.format in ("auto", found.makes[0].format)


@given(models, st.lists(boards, min_size=1, max_size=3))
def test_what_several_profiles_share_is_weighed_and_built_once(model, profiles):
    asked = [Wish(profile.model_copy(update={"name": f"board-{n}"})) for n, profile in enumerate(profiles)]
    found = attempt(model, *asked)

    assert len(set(model.weighed)) == len(model.weighed)
    if not isinstance(found, tuple):
        assert len(set(found.makes)) == len(found.makes)
        wanted = {row.make for rows in found.rows.values() for row in rows if not row.dropped}
        assert set(found.makes) == wanted


def test_everything_that_fits_a_large_board_is_to_be_built():
    found = planned(Model(), Wish(board()))

    assert dropped(found) == {}
    assert found.makes == [Make(name, type_) for name in BOTH for type_ in ROUNDED[name]]


def test_what_is_short_is_dropped_with_its_reason_before_it_is_built():
    large = planned(Model(), Wish(board())).rows["board"]
    budget = next(
        row.fit.need.total for row in large if row.make.type == "Q6_K" and row.make.format == "gguf"
    )

    found = planned(Model(), Wish(board(memory=budget), format="gguf"))

    assert list(dropped(found)) == ["gguf F16", "gguf Q8_0"]
    assert "of memory" in dropped(found)["gguf F16"]


def test_what_is_too_slow_is_built_all_the_same_because_nothing_faster_may_be_good():
    found = planned(Model(), Wish(board(wanted=1e6), format="gguf"))

    assert len(found.makes) == len(ROUNDED["gguf"])
    assert all(row.fit.slow for row in found.rows["board"])


def test_where_256_does_not_divide_the_rows_labels_that_lie_are_dropped_and_small_blocks_tried():
    found = planned(Model(columns=64, inner=128, vocab=10), Wish(board(), format="gguf"))

    assert "Q4_K_M" not in {make.type for make in found.makes}
    assert dropped(found)["gguf Q4_K_M"].startswith("100% of its weights would be Q5_0")
    assert {make.type for make in found.makes} == {"F16", "Q8_0", *IN_SMALL_BLOCKS}


def test_an_artifact_of_another_format_does_not_bring_small_blocks():
    found = planned(Model(columns=64, inner=128), Wish(board(), format="onnx"))

    assert found.makes == [Make("onnx", type_) for type_ in ROUNDED["onnx"]]


def test_a_label_that_would_lie_is_refused_in_favour_of_a_type_that_fits():
    model = Model(columns=64, inner=128, vocab=10)

    with pytest.raises(BuildError) as caught:
        planned(model, Wish(board(), type="Q4_K_M"))

    assert str(caught.value) == (
        "gguf Q4_K_M would be that in name only: 100% of its weights would be Q5_0, Q8_0, "
        "because 256 does not divide its rows"
    )
    assert caught.value.remedy.startswith("Ask for Q5_0, which this model's rows allow")
    assert planned(model, Wish(board(), type="Q5_0")).makes == [Make("gguf", "Q5_0")]
    allowed = planned(model, Wish(board(), type="Q4_K_M"), most_fallback=1.0)
    assert allowed.makes == [Make("gguf", "Q4_K_M")]


def test_rows_that_not_even_32_divides_are_told_so():
    model = Model(columns=24, inner=40)

    with pytest.raises(BuildError) as caught:
        planned(model, Wish(board(), type="Q5_0"))

    assert str(caught.value).endswith("of its weights would be F16, because 32 does not divide its rows")
    assert caught.value.remedy.startswith("Ask for F16,")
    assert planned(model, Wish(board(), type="F16")).makes == [Make("gguf", "F16")]


def test_what_this_machine_cannot_export_is_dropped_and_where_it_was_asked_for_refused():
    model = Model(no_export=BuildError("an ONNX export of this model takes about 9 GiB of memory"))

    found = planned(model, Wish(board()))

    assert dropped(found) == {"onnx INT8": str(model.no_export), "onnx INT4": str(model.no_export)}
    with pytest.raises(BuildError, match="takes about 9 GiB"):
        planned(model, Wish(board(), type="INT8"))


def test_a_family_that_gguf_does_not_know_is_built_as_onnx_and_without_it_refused():
    model = Model(no_family=ModelError("there is no such family"))

    assert planned(model, Wish(board())).makes == [Make("onnx", type_) for type_ in ROUNDED["onnx"]]
    with pytest.raises(ModelError, match="no such family"):
        planned(model, Wish(board(), format="gguf"))


def test_where_all_that_could_be_built_does_not_fit_the_error_is_about_that():
    model = Model(no_family=ModelError("there is no such family"))

    with pytest.raises(DoesNotFitError, match=r"even INT4 \(onnx\) does not fit board .*: it needs .* short"):
        planned(model, Wish(board(memory=50 * MIB)))


def test_where_nothing_fits_the_device_the_error_names_it():
    with pytest.raises(DoesNotFitError, match="does not fit board at a context of 2048"):
        planned(Model(), Wish(board(memory=MIB)))


@pytest.mark.parametrize(
    ("format_", "type_", "words"),
    [
        ("gguf", "Q9", "no GGUF type 'Q9'; expected one of "),
        ("gguf", "INT8", "no GGUF type 'INT8'"),
        ("onnx", "Q8_0", "no ONNX type 'Q8_0'; expected one of INT8, INT4, F32"),
        ("auto", "Q9", "no GGUF type 'Q9'"),
    ],
)
def test_a_type_there_is_not_is_a_usage_error_that_names_those_there_are(format_, type_, words):
    with pytest.raises(UsageError) as caught:
        planned(Model(), Wish(board(), format_, type_))

    assert words in str(caught.value)


def test_a_type_of_a_format_that_the_device_or_the_source_does_not_allow_is_a_usage_error():
    for wish, formats in (
        (Wish(board(formats=("onnx",)), type="Q4_K_M"), BOTH),
        (Wish(board(), type="INT8"), ("gguf",)),
        (Wish(board(formats=("gguf",)), format="onnx"), BOTH),
    ):
        with pytest.raises(UsageError, match="board: nothing can be built as format"):
            planned(Model(), wish, formats=formats)


@pytest.mark.parametrize(
    ("format_", "type_", "make"),
    [
        ("auto", "F32", Make("gguf", "F32")),
        ("onnx", "F32", Make("onnx", "F32")),
        ("auto", "INT4", Make("onnx", "INT4")),
        ("auto", "IQ3_S", Make("gguf", "IQ3_S")),
    ],
)
def test_a_type_means_the_format_that_has_it(format_, type_, make):
    assert planned(Model(), Wish(board(), format_, type_)).makes == [make]


def test_no_more_context_is_asked_for_than_the_model_was_trained_on():
    wish = Wish(board(context=2048))

    assert within_training(wish, 4096) == within_training(wish, None) == wish
    serve = within_training(wish, 48).profile.serve
    assert (serve.context, serve.micro_batch) == (48, 48)


def test_what_turns_out_not_to_be_buildable_is_dropped_for_its_reason_and_the_rest_stays():
    model = Model()
    before = planned(model, Wish(board(), format="onnx"))

    after = dropped_for(before, {Make("onnx", "INT4"): "it broke"})

    assert dropped(after) == {"onnx INT4": "it broke"}
    assert after.makes == [Make("onnx", "INT8")]
    assert dropped_for(before, {}) == before
