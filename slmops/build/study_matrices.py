"""What a model's own text tells of its matrices: which inputs they see, and how much each one bears.

The model writes the text itself, so no corpus is needed and the text lies in its own domain. Knows
transformers' models and nothing of files or runtimes. Call it in a child process: torch stays loaded.

Laws: the same model and seed write the same text; the model leaves as it came; matrices are (outputs,
inputs) and have their names in the checkpoint, whichever way round the model keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from slmops.build.divergence import Rows, divergences, log_probabilities

Matrix = npt.NDArray[np.float32]
Texts = npt.NDArray[np.int64]
"""Token ids: (texts, tokens)."""
TOGETHER = 4
"""Texts that are read in one go: their logits are to be in memory with the model."""


@dataclass(frozen=True)
class Layer:
    """A module of the model with a matrix of weights."""

    module: Any
    turned: bool
    """The module keeps (inputs, outputs), as GPT-2's do."""

    def read(self) -> Matrix:
        """Return the matrix."""
        kept = self.module.weight.detach()
        return np.ascontiguousarray((kept.T if self.turned else kept).numpy())

    @contextmanager
    def replaced(self, matrix: Matrix) -> Iterator[None]:
        """Let the model compute with `matrix` for a while."""
        kept, new = self.module.weight.data, torch.from_numpy(matrix)
        self.module.weight.data = new.T if self.turned else new
        try:
            yield
        finally:
            self.module.weight.data = kept


def layers_of(model: Any) -> dict[str, Layer]:
    """Return the inner matrices of a decoder by name: all but the embedding and the head."""
    head = model.get_output_embeddings()
    return {
        f"{name}.weight": Layer(module, turned=type(module).__name__ == "Conv1D")
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and module is not head
    }


def write_texts(model: Any, begin: int | None, shape: tuple[int, int], seed: int) -> Texts:
    """Let the model write `shape` (texts, tokens), all at once, at temperature 1.

    Texts begin with the token `begin`; without one, each with a token drawn by lot.
    """
    random = np.random.default_rng(seed)
    count, length = shape
    first = random.integers(0, model.config.vocab_size, count) if begin is None else np.full(count, begin)
    written, past = [first], None
    with torch.inference_mode():
        while len(written) < length:
            said = model(torch.from_numpy(written[-1][:, None]), past_key_values=past, use_cache=True)
            past = said.past_key_values
            reach = np.exp(log_probabilities(said.logits[:, -1].numpy())).cumsum(axis=-1)
            drawn = random.random((count, 1)) * reach[:, -1:]
            written.append((reach <= drawn).sum(axis=-1))
    return np.stack(written, axis=1)


def inputs_of(
    model: Any, layers: Mapping[str, Layer], texts: Texts, told: Callable[[float], None]
) -> dict[str, Matrix]:
    """Return the mean of x * x^T over the inputs x of each layer; layers with one input share one matrix."""
    sums: dict[str, torch.Tensor] = {}
    same: dict[str, str] = {}
    seen: list[tuple[Any, str]] = []

    def listen(name: str) -> Callable[..., None]:
        def hear(_module: Any, given: tuple[torch.Tensor, ...], _said: Any) -> None:
            twin = next((other for heard, other in seen if heard is given[0]), None)
            same[name] = twin or name
            if twin is None:
                rows = given[0].reshape(-1, given[0].shape[-1])
                sums[name] = torch.addmm(sums[name], rows.T, rows) if name in sums else rows.T @ rows
                seen.append((given[0], name))

        return hear

    with ExitStack() as hooks, torch.inference_mode():
        for name, layer in layers.items():
            hooks.callback(layer.module.register_forward_hook(listen(name)).remove)
        for start in range(0, len(texts), TOGETHER):
            seen.clear()
            model(torch.from_numpy(texts[start : start + TOGETHER]), use_cache=False)
            told(min(start + TOGETHER, len(texts)) / len(texts))
    means = {name: (total / texts.size).numpy() for name, total in sums.items()}
    return {name: means[same[name]] for name in layers}


def logits_of(model: Any, texts: Texts) -> Rows:
    """Return the logits after every token, text after text."""
    with torch.inference_mode():
        said = model(torch.from_numpy(texts), use_cache=False).logits
    return np.asarray(said.reshape(-1, said.shape[-1]).numpy())


def losses_of(
    model: Any,
    layers: Mapping[str, Layer],
    instead: Callable[[str], Matrix],
    texts: Texts,
    told: Callable[[float], None],
) -> dict[str, float]:
    """Return the mean divergence over `texts` when one layer alone computes with `instead` of its name."""
    source, losses = logits_of(model, texts), dict[str, float]()
    for done, (name, layer) in enumerate(layers.items(), 1):
        with layer.replaced(instead(name)):
            losses[name] = float(divergences(source, logits_of(model, texts)).mean())
        told(done / len(layers))
    return losses
