"""Open a text classifier in ONNX Runtime and ask it for logits.

Knows nothing of text. Imports no more than a server of the model does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt


class OnnxClassifier:
    """A classifier in ONNX Runtime on the CPU."""

    def __init__(self, file: Path, threads: int = 1) -> None:
        """Open `file`, to be computed by so many threads."""
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._asked = [tensor.name for tensor in self._session.get_inputs()]

    def inputs(self, ids: Sequence[int]) -> dict[str, npt.NDArray[np.int64]]:
        """Return what the graph is given for one text."""
        row = np.array([ids], np.int64)
        given = {
            "input_ids": row,
            "attention_mask": np.ones_like(row),
            "token_type_ids": np.zeros_like(row),
        }
        return {name: given[name] for name in self._asked}

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return one number per label for the text of these token ids."""
        (rows,) = self._session.run(["logits"], self.inputs(ids))
        return np.asarray(rows[0])
