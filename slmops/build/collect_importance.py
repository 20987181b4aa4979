"""Collect an importance matrix: let the source model read calibration text, and watch its matrices.

Runs transformers in a child process with a hook on every matrix; knows nothing of types or formats.

Law: the same checkpoint, file and number of tokens give the same matrix on the same machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slmops import digest as digests
from slmops.build.checkpoint import HEAD, Checkpoint
from slmops.build.importance import Importance, mean_squares
from slmops.build.isolate import Progress, isolate, silent
from slmops.build.phrase import CheckpointPhrasing
from slmops.build.texts import sequences

LENGTH = 256
"""Tokens read at a time."""
TOKENS = 16_384
"""Read unless otherwise asked: more changes the matrix by less than its own noise."""


def collect_importance(
    checkpoint: Checkpoint, file: Path, *, tokens: int = TOKENS, progress: Progress = silent
) -> Importance:
    """Return how much each input of each matrix of `checkpoint` matters over the texts in `file`.

    Raises DocumentError for a file that holds no text, BuildError when the model cannot be run.
    """
    length = min(LENGTH, int(checkpoint.config.get("max_position_embeddings") or LENGTH))
    texts = sequences(CheckpointPhrasing(checkpoint), file, length=length, tokens=tokens)
    read = sum(map(len, texts))
    sums = isolate("reading calibration text", _watch, progress, checkpoint, texts)
    return Importance(mean_squares(sums, read), digests.of_file(file), read, len(texts))


def _watch(
    progress: Progress, checkpoint: Checkpoint, texts: list[list[int]]
) -> dict[str, npt.NDArray[np.float64]]:
    """Be the child: return the sum of squares of each matrix's inputs, by the name of its weight."""
    import torch  # noqa: PLC0415 - two seconds and 200 MB, in this process only

    from slmops.build.open_model import threads_for  # noqa: PLC0415
    from slmops.build.reference import load_reference  # noqa: PLC0415

    model = load_reference(checkpoint, lambda share: progress("loading the source model", share))
    torch.set_num_threads(threads_for(4 * checkpoint.parameters))
    sums: dict[str, npt.NDArray[np.float64]] = {}

    def hook(name: str) -> Any:
        def watch(_module: Any, given: tuple[Any, ...], _made: Any) -> None:
            rows = given[0].reshape(-1, given[0].shape[-1]).double()
            sums[name] = sums.get(name, 0.0) + (rows * rows).sum(0).numpy()

        return watch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":
            weight = f"{name}.weight"
            module.register_forward_hook(
                hook(checkpoint.embedding if weight == HEAD and checkpoint.tied else weight)
            )
    with torch.inference_mode():
        for done, ids in enumerate(texts, 1):
            model(torch.tensor([ids]), use_cache=False)
            progress("reading calibration text", done / len(texts))
    return sums
