"""Where a mean of adapters may be written, and what is refused before any work."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from slmops.build.checkpoint import open_checkpoint
from slmops.train.adapter import Adapter, Factors, Origin
from slmops.train.adapter_folder import read_adapter, write_adapter

MODEL = Path(__file__).parents[2] / "demo" / "model"
NAME = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def site(tmp_path):
    """Return what writes an adapter of some numbers for the demo's model: site(name, seed)."""
    base = open_checkpoint(MODEL)
    outputs, inputs = base.shapes[f"{NAME}.weight"]

    def write(name, seed):
        draw = np.random.default_rng(seed).normal(size=(2, inputs + outputs)).astype("f4") / 16
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
        factors = {NAME: Factors(draw[:, :inputs].copy(), draw[:, inputs:].T.copy())}
        origin = Origin(str(MODEL), base.digest, 10 * seed, seed)
        write_adapter(tmp_path / name, Adapter(config, factors, {}, origin), base)
        return tmp_path / name

    return write


def test_a_mean_is_not_written_over_another_adapter_or_a_model_unasked(slmops, site, tmp_path):
    sites, third = [site("north", 1), site("south", 2)], site("east", 3)
    before = (third / "adapter_model.safetensors").read_bytes()
    refused = slmops("merge-adapters", *sites, "--out", third)
    assert (refused.code, "holds an adapter already" in refused.err) == (2, True)
    assert (third / "adapter_model.safetensors").read_bytes() == before
    assert slmops("merge-adapters", *sites, "--out", third, "--force").code == 0
    assert read_adapter(third).origin.samples == 30
    model = shutil.copytree(MODEL, tmp_path / "model")
    for words in (["--out", model], ["--out", model, "--force"]):
        refused = slmops("merge-adapters", *sites, "--base", model, *words)
        assert (refused.code, "holds a model already" in refused.err) == (2, True)
    refused = slmops("merge-adapters", *sites, "--base", model, "--merge", "--force", "--out", model)
    assert (refused.code, "the model's own folder" in refused.err) == (2, True)
    refused = slmops("merge-adapters", *sites, "--base", model, "--merge", "--force", "--out", third)
    assert (refused.code, "holds an adapter already" in refused.err) == (2, True)
    assert open_checkpoint(model).digest == open_checkpoint(MODEL).digest


def test_a_rank_for_a_mean_of_factors_is_refused(slmops, site, tmp_path):
    sites = site("north", 1), site("south", 2)
    refused = slmops("merge-adapters", *sites, "--naive", "--rank", "1", "--out", tmp_path / "mean")
    assert (refused.code, "has the rank they have" in refused.err) == (2, True)


def test_a_site_that_is_named_twice_is_refused(slmops, site, tmp_path):
    north = site("north", 1)
    refused = slmops("merge-adapters", north, f"{north}=5", "--out", tmp_path / "mean")
    assert (refused.code, "named twice" in refused.err) == (2, True)


def test_an_adapter_of_another_model_is_refused(slmops, site, tmp_path):
    north, other = site("north", 1), shutil.copytree(MODEL, tmp_path / "other")
    config = other / "config.json"
    config.write_text(config.read_text() + "\n")
    refused = slmops("merge-adapters", north, "--base", other, "--out", tmp_path / "mean")
    assert (refused.code, "is not the base of this adapter" in refused.err) == (1, True)
    refused = slmops("merge-adapters", north, "--base", north, "--out", tmp_path / "mean")
    assert (refused.code, "holds a LoRA adapter, not a model" in refused.err) == (1, True)
    assert not (tmp_path / "mean").exists()
