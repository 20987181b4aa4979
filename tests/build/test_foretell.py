"""What building would come to, of a model whose weights are not there yet."""

import json

import pytest

from slmops.build.foretell import foretell
from slmops.build.plan import Wish
from slmops.build.recipe import Recipe
from slmops.build.sketch import sketch
from slmops.errors import ModelError, UsageError
from slmops.profile.load import load_profile

LARGE = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}


@pytest.fixture
def large(write_model):
    """Small files of a model of five billion weights."""
    folder = write_model()
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | LARGE))
    return folder


def dropped(folder, memory):
    recipe = Recipe(name="a", version="1", model=str(folder), profiles=["x86-64-v3"], memory=memory)
    planned = foretell(sketch(folder), recipe, [Wish(load_profile("x86-64-v3"))])
    return {str(row.make): row.dropped for row in planned.rows["x86-64-v3"]}


def test_what_one_onnx_file_cannot_hold_is_left_out_before_it_is_built(large):
    found = dropped(large, "400GB")

    assert not found["gguf Q4_K_M"]
    assert "a model in one ONNX file holds at most 2.10 GB" in found["onnx INT8"]


def test_a_machine_without_the_memory_to_measure_is_told_how_much_it_takes(large):
    with pytest.raises(UsageError, match=r"takes about 2\d\.\d GiB of memory, 1\.0 GiB is there"):
        dropped(large, "1GiB")


def test_without_a_tokenizer_nothing_is_planned(large):
    (large / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        dropped(large, "400GB")
