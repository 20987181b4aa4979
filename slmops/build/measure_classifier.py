"""Let a classifier and what was made of it read the same texts, each in a process of its own.

Law: each text is read alone, as a server reads it, so that no text's answer depends on another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slmops.build.checkpoint import Checkpoint
from slmops.build.divergence import Rows
from slmops.build.isolate import Progress, isolate, silent

Ids = Sequence[Sequence[int]]
"""Token ids of each text."""


def read_with_source(checkpoint: Checkpoint, texts: Ids, progress: Progress = silent) -> Rows:
    """Return the source's logits, (texts, labels), computed by transformers in float32."""
    return isolate("running the source model", _read_with_source, progress, checkpoint, texts)


def read_with(file: Path, texts: Ids, progress: Progress = silent) -> Rows:
    """Return the logits of the artifact in `file`, (texts, labels), computed by ONNX Runtime."""
    return isolate(f"running {file.name}", _read_with, progress, file, texts)


def _read_with_source(progress: Progress, checkpoint: Checkpoint, texts: Ids) -> Rows:
    import torch  # noqa: PLC0415 - two seconds and 200 MB, in this process only

    from slmops.build.open_model import threads_for  # noqa: PLC0415
    from slmops.build.reference import load_reference  # noqa: PLC0415

    model = load_reference(checkpoint, lambda share: progress("loading the source model", share))
    torch.set_num_threads(threads_for(4 * checkpoint.parameters))
    rows = []
    with torch.inference_mode():
        for done, ids in enumerate(texts, 1):
            row = torch.tensor([list(ids)])
            rows.append(model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0].numpy())
            progress("asking the source model", done / len(texts))
    return np.stack(rows)


def _read_with(progress: Progress, file: Path, texts: Ids) -> Rows:
    from slmops.build.open_classifier import OnnxClassifier  # noqa: PLC0415

    model, rows = OnnxClassifier(file), []
    for done, ids in enumerate(texts, 1):
        rows.append(model.logits(ids))
        progress(f"asking {file.name}", done / len(texts))
    return np.stack(rows)
