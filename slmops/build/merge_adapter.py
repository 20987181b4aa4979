"""Add to a model's weights what an adapter says they learned: B times A, scaled.

In float32, as training computed it; this is what base and adapter together are measured against.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from slmops.build.open_adapter import Adapter
from slmops.build.read_tensors import TensorEntry, read_rows
from slmops.errors import ModelError


def merge_adapter(model: Any, adapter: Adapter) -> None:
    """Add `adapter` to the weights of a transformers `model`, whose names are those of its pairs.

    Raises ModelError for numbers that are NaN or infinite.
    """
    import torch  # noqa: PLC0415 - two seconds and 200 MB, for the source alone

    weights = dict(model.named_parameters())
    for name, pair in adapter.pairs.items():
        a, b = _whole(pair.a), _whole(pair.b)
        learned = adapter.scale(len(a)) * (b @ a)
        if not np.isfinite(learned).all():
            raise ModelError(
                f"{pair.a.file}: what {name} learned is NaN or infinite",
                remedy="Train the adapter again: it diverged.",
            )
        with torch.no_grad():
            weights[name] += torch.from_numpy(learned.T if adapter.turned else learned)


def _whole(entry: TensorEntry) -> Any:
    return read_rows(entry, 0, entry.shape[0])
