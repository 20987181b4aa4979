"""What devices have is a base for a model with the same tensors, and gives it its types."""

import pytest

from slmops.build.open_base import open_base
from slmops.build.plan import Make
from slmops.build.quantize_gguf import plan_gguf, quantize_gguf, write_all
from slmops.build.source import open_gguf
from slmops.errors import BuildError

SIZES = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}


@pytest.fixture
def checkpoint(random_checkpoint):
    return random_checkpoint(**SIZES)


@pytest.fixture
def file(checkpoint, tmp_path):
    quantize_gguf(checkpoint, "Q4_K_M", tmp_path / "base.gguf")
    return tmp_path / "base.gguf"


def test_a_type_says_all_where_the_tensors_have_those_of_its_name(checkpoint, file):
    base = open_base("m:1", "sha256:0", file, Make("gguf", "Q4_K_M"), checkpoint)
    assert base.make == Make("gguf", "Q4_K_M")
    assert base.has_scales


def test_tensors_of_other_types_than_the_name_says_are_named_one_by_one(checkpoint, tmp_path):
    types = plan_gguf(checkpoint, "Q4_0").scheme.types | {"blk.0.ffn_up.weight": "Q6_K"}
    write_all(checkpoint, {tmp_path / "mixed.gguf": plan_gguf(checkpoint, "MIXED", types)})
    base = open_base("m:1", "sha256:0", tmp_path / "mixed.gguf", Make("gguf", "MIXED"), checkpoint)
    assert dict(base.make.types) == types
    assert base.make.type == "MIXED"


def test_what_is_not_rounded_has_no_scales(checkpoint, tmp_path):
    quantize_gguf(checkpoint, "F16", tmp_path / "base.gguf")
    assert not open_base(
        "m:1", "sha256:0", tmp_path / "base.gguf", Make("gguf", "F16"), checkpoint
    ).has_scales


def test_a_model_of_another_shape_is_no_base(random_checkpoint, file):
    other = random_checkpoint(name="other", **SIZES | {"intermediate_size": 512})
    with pytest.raises(BuildError, match=r"blk\.0\.ffn_down\.weight is 256 x 256 and 256 x 512"):
        open_base("m:1", "sha256:0", file, Make("gguf", "Q4_K_M"), other)


def test_what_llama_cpp_itself_rounds_has_no_base(file):
    with pytest.raises(BuildError, match=r"llama\.cpp itself"):
        open_base("m:1", "sha256:0", file, Make("gguf", "Q4_K_M"), open_gguf(file))
