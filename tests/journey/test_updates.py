"""An update over the road: what devices are sent of a model that was trained further."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.journey, pytest.mark.timeout(400)]


@pytest.fixture
def moved(tmp_path):
    """The demo model, every weight of it moved a little."""
    folder = tmp_path / "moved"
    shutil.copytree(ROOT / "demo/model", folder)
    rng = np.random.default_rng(7)
    weights = {
        name: (each + rng.standard_normal(each.shape) * each.std(dtype=np.float64) * 0.002).astype(each.dtype)
        for name, each in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_an_update_sends_what_weights_differ_by_and_comes_out_to_the_byte(newcomer, moved, tmp_path):
    common = ("--profile", "local:gguf:Q8_0", "--profile", "x86-64-v3:onnx:INT8", "--name", "house")
    newcomer("quantize", ROOT / "demo/model", *common, "--version", "1.0.0")
    newcomer("quantize", moved, *common, "--version", "1.1.0", "--delta-base", "house:1.0.0")
    fleet = newcomer.fleet(2, tmp_path / "fleet", "local", "x86-64-v3")

    first = newcomer.json("deploy", fleet, "--release", "house:1.0.0", "--yes")["sent"]
    plan = newcomer.json("deploy", fleet, "--release", "house:1.1.0", "--dry-run")["devices"]
    then = newcomer.json("deploy", fleet, "--release", "house:1.1.0", "--yes")["sent"]

    assert then == {row["device"]: row["sends"] for row in plan}
    assert all(then[device] < 0.4 * first[device] for device in first)
    assert set(newcomer.serves(fleet).values()) == {"house:1.1.0"}
    told = newcomer("device", "fsck", "--fleet", fleet)
    assert told.count(" ok ") == 2

    back = newcomer.json("rollback", fleet, "--yes")
    assert {end["outcome"] for end in back} == {"ok"}
    whole = newcomer.json("deploy", fleet, "--release", "house:1.1.0", "--yes", "--whole")["sent"]
    assert set(whole.values()) == {0}, "the slot is there still"
