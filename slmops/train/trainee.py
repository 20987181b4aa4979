"""What a training changes: weights, their gradients as one vector, and what AdamW remembers of them.

Gradients are sums over what is learned until they are applied, so that parts of a step and processes
add up. Knows nothing of samples or files; pure but for the tensors it is given, which it changes.

Laws: weights that take no gradient stay as they are and are not kept; what `arrays` gave, `restore`
puts back to the bit; a gradient that is no number is never applied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slmops.train.setting import Setting

BETAS = (0.9, 0.95)
"""Of AdamW: how much of the past its mean and its square of the gradient keep from step to step."""
MATRIX = 2
Arrays = dict[str, NDArray[Any]]


class Trainee:
    """A model, and perhaps a module that is learned beside it, in float32 on one device."""

    def __init__(self, model: Any, module: torch.nn.Module | None, setting: Setting) -> None:
        """Take what may change of `model` and `module`, and make room for its gradient."""
        self._modules = {"model": model} if module is None else {"model": model, "module": module}
        trained = [each for one in self._modules.values() for each in one.parameters() if each.requires_grad]
        self.gradient = torch.zeros(sum(each.numel() for each in trained), device=trained[0].device)
        for each, place in zip(trained, self.gradient.split([one.numel() for one in trained]), strict=True):
            # Autograd adds to a gradient that is there.
            each.grad = place.view_as(each)
        matrices = [each for each in trained if each.ndim >= MATRIX]
        rest = [each for each in trained if each.ndim < MATRIX]
        groups = [
            {"params": matrices, "weight_decay": setting.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        self._clip = setting.clip
        self._optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=0.0, betas=BETAS, fused=True
        )

    def train(self, *, mode: bool) -> None:
        """Let dropout and the like work, or rest."""
        for module in self._modules.values():
            module.train(mode)

    def step(self, count: int, rate: float) -> float:
        """Apply the gradient, a sum over `count` tokens, and clear it; return the length of its mean.

        Where that is no number, nothing is changed.
        """
        length = float(torch.linalg.vector_norm(self.gradient)) / count
        if math.isfinite(length):
            self.gradient.mul_(min(1.0, self._clip / max(length, 1e-12)) / count)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
        self.gradient.zero_()
        return length

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Return what changes in training by name, each once however often it is used."""
        return {
            f"{title}/{name}": tensor.detach()
            for title, module in self._modules.items()
            for name, tensor in _changing(module).items()
        }

    def arrays(self) -> Arrays:
        """Return all that a training must find again to go on: weights, and what AdamW remembers."""
        memory = self._optimizer.state_dict()["state"]
        kept = {f"adam/{place}/{key}": value for place, said in memory.items() for key, value in said.items()}
        return as_arrays(self.weights | kept)

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Put back what `arrays` gave, or weights alone."""
        for name, tensor in self.weights.items():
            tensor.copy_(torch.from_numpy(arrays[name]))
        memory = dict[int, dict[str, torch.Tensor]]()
        for name in arrays:
            kind, _, rest = name.partition("/")
            if kind == "adam":
                place, _, key = rest.partition("/")
                memory.setdefault(int(place), {})[key] = torch.from_numpy(arrays[name])
        if memory:
            groups = self._optimizer.state_dict()["param_groups"]
            self._optimizer.load_state_dict({"state": memory, "param_groups": groups})


def as_arrays(tensors: Mapping[str, torch.Tensor]) -> Arrays:
    """Return tensors as arrays; on a CPU they share their memory."""
    return {name: np.asarray(tensor.detach().cpu()) for name, tensor in tensors.items()}


def _changing(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    kept = module.state_dict().keys()
    trained = {name: each for name, each in module.named_parameters() if each.requires_grad}
    return trained | {name: each for name, each in module.named_buffers() if name in kept}
