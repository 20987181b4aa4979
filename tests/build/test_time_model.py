"""Speed and memory of a served model; the figures are the machine's, so only their sense is tested."""

import pytest

from slmops.build.open_model import Shape
from slmops.build.quantize_gguf import quantize_gguf
from slmops.build.time_model import time_model


def test_a_model_is_timed_as_it_is_served(random_checkpoint, tmp_path):
    quantize_gguf(random_checkpoint(), "Q8_0", tmp_path / "model.gguf")
    found = time_model(tmp_path / "model.gguf", Shape(64, 1, 8))
    assert (found.context, found.threads, found.micro_batch) == (64, 1, 8)
    assert found.prompt + found.answer <= 64
    assert found.prompt_per_second > 0 < found.decode_per_second
    assert found.first_token_seconds == pytest.approx(found.prompt / found.prompt_per_second)
    assert found.peak_bytes is None or found.peak_bytes > (tmp_path / "model.gguf").stat().st_size
    assert found.cpu
