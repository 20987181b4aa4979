"""The same journey on small real checkpoints from elsewhere, where they are."""

from pathlib import Path

import pytest

pytestmark = [pytest.mark.journey, pytest.mark.timeout(400)]
ROOT = Path(__file__).parents[2]
MODELS = ROOT.parent / "shared/models"


@pytest.mark.parametrize("model", ["stories260k", "tinystories-656k"])
def test_a_story_model_goes_out_in_three_forms_and_comes_back(newcomer, tmp_path, model):
    folder = MODELS / model
    if not folder.is_dir():
        pytest.skip(f"{model} is not on this machine")
    # A third kind of device that any machine which runs this can be: others' processors may have more.
    kiosk = newcomer.home / "profiles/kiosk.yaml"
    kiosk.parent.mkdir(parents=True)
    generic = (ROOT / "device_profiles/x86-64-v3.yaml").read_text()
    kiosk.write_text(generic.replace("name: x86-64-v3", "name: kiosk", 1))
    wishes = ("--profile", "local", "--profile", "kiosk:gguf:Q5_0", "--profile", "x86-64-v3:onnx:INT8")
    told = newcomer.json("quantize", folder, *wishes, "--name", "stories", "--version", "1.0.0")
    for profile in told["profiles"]:
        (chosen,) = (each for each in profile["candidates"] if each["verdict"] == "chosen")
        assert chosen["measured"]["kl_mean"] < 0.2
        assert chosen["measured"]["top1"] > 0.75
    newcomer(
        "quantize", folder, *wishes[:-1], "x86-64-v3:onnx:F32", "--name", "stories", "--version", "1.1.0"
    )
    fleet = newcomer.fleet(3, tmp_path / "fleet", "local", "kiosk", "x86-64-v3")

    newcomer("deploy", fleet, "--release", "stories:1.0.0", "--yes")
    for device in ("edge-1", "edge-2", "edge-3"):
        story = newcomer.json("ask", fleet, device, "Once upon a time there was ", "--max-tokens", 60)[
            "answer"
        ]
        assert len(story.split()) > 20
    newcomer("deploy", fleet, "--release", "stories:1.1.0", "--yes")
    newcomer("rollback", fleet, "--yes")
    assert set(newcomer.serves(fleet).values()) == {"stories:1.0.0"}
