"""Real models, built by the real builders, answer as they do in transformers."""

import shutil
from pathlib import Path

import pytest

from slmops.artifact.description import FILE_NAME, Description, render

MODELS = Path(__file__).parents[2].parent / "shared" / "models"
PROMPTS = ["Once upon a time, ", "Lily and Tom went to the park. "]
TOKENS = 120


@pytest.fixture(scope="module", params=["stories260k", "tinystories-656k"])
def checkpoint(request):
    pytest.importorskip("torch")
    from slmops.build.checkpoint import open_checkpoint  # noqa: PLC0415

    if not (MODELS / request.param).is_dir():
        pytest.skip(f"{MODELS / request.param} is not here")
    return open_checkpoint(MODELS / request.param)


@pytest.fixture(scope="module", params=["gguf", "onnx"])
def built(request, checkpoint, tmp_path_factory):
    """An artifact folder of the checkpoint in float32."""
    from slmops.build.quantize_gguf import quantize_gguf  # noqa: PLC0415
    from slmops.build.quantize_onnx import quantize_onnx  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("built")
    model = folder / f"model.{request.param}"
    (quantize_gguf if request.param == "gguf" else quantize_onnx)(checkpoint, "F32", model)
    shutil.copy(checkpoint.tokenizer, folder / "tokenizer.json")
    description = Description(
        name="stories",
        version="1.0.0",
        profile="local",
        arch="x86_64",
        format=request.param,
        type="F32",
        model=model.name,
        architecture="llama",
        parameters=checkpoint.parameters,
        context=512,
        threads=2,
        micro_batch=64,
        memory_bytes=1,
        tokenizer="tokenizer.json",
        special_tokens=checkpoint.special_tokens,
        stop_ids=list(checkpoint.stop_ids),
    )
    (folder / FILE_NAME).write_bytes(render(description))
    return folder


@pytest.fixture(scope="module")
def stories(checkpoint):
    """What transformers says, greedily."""
    import torch  # noqa: PLC0415
    from tokenizers import Tokenizer  # noqa: PLC0415

    from slmops.build.reference import load_reference  # noqa: PLC0415

    model = load_reference(checkpoint, lambda _share: None)
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer))
    said = {}
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt).ids
        asked = torch.tensor([ids])
        found = model.generate(
            asked,
            attention_mask=torch.ones_like(asked),
            max_new_tokens=TOKENS,
            do_sample=False,
            eos_token_id=list(checkpoint.stop_ids),
            pad_token_id=0,
        )[0].tolist()
        said[prompt] = tokenizer.decode(found)[len(tokenizer.decode(ids)) :]
    return said


@pytest.mark.journey
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")
def test_a_daemon_tells_the_story_that_transformers_tells(built, stories, run_daemon):
    with run_daemon(built) as running, running.client() as http:
        for prompt, story in stories.items():
            asked = {"model": "stories", "prompt": prompt, "max_tokens": TOKENS}
            first, again = (http.post("/v1/completions", json=asked).json() for _ in range(2))
            assert first["choices"][0]["text"] == story
            assert again["choices"] == first["choices"]
        assert len(story) > 100
