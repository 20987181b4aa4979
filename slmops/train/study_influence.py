"""Watch what flows through a model while it reads: what its matrices are given, what its layers change.

Knows nothing of files. Law: the same model and the same samples give the same flow on the same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from slmops.build.isolate import Progress
from slmops.train.batch import lay
from slmops.train.cuts import HIDDEN, INNER, QUERIES, Body, Keep
from slmops.train.influence import Reader, order_out
from slmops.train.samples import Samples

AT_ONCE = 8
"""Samples read side by side."""


@dataclass(frozen=True, eq=False)
class Flow:
    """What flowed through a model."""

    moments: dict[str, torch.Tensor]
    """Mean of the products of every two inputs, by the name of the matrix: [inputs, inputs]; one and the
    same of matrices that read the same."""
    means: dict[str, torch.Tensor]
    """Mean of each input, likewise: [inputs]."""
    shares: dict[str, torch.Tensor]
    """Which share of the square of the stream each channel has, by the name of the norm: [channels]."""
    bends: tuple[float, ...]
    """How far each layer turns what passes through it: one less the cosine, on the mean."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """Structures in the order in which they may leave, the cheapest first."""

    groups: tuple[tuple[int, ...], ...]
    """Of each layer."""
    inner: tuple[tuple[int, ...], ...]
    """Of each layer."""
    hidden: tuple[int, ...]

    def keep(self, layers: tuple[int, ...], groups: int, inner: int, hidden: int) -> Keep:
        """Return these layers, and the last to leave of all else."""
        return Keep(
            layers,
            tuple(_last(self.groups[layer], groups) for layer in layers),
            tuple(_last(self.inner[layer], inner) for layer in layers),
            _last(self.hidden, hidden),
        )


def watch(model: Any, body: Body, samples: Samples, progress: Progress) -> Flow:
    """Return what flows through `model` while it reads `samples`."""
    watcher = _Watcher(model, body)
    try:
        with torch.inference_mode():
            for start in range(0, len(samples), AT_ONCE):
                places = range(start, min(start + AT_ONCE, len(samples)))
                batch = lay(samples, places, model.config.pad_token_id or 0)
                watcher.read = batch.mask
                model(input_ids=batch.ids, attention_mask=batch.mask.long())
                progress("watching what flows through the model", start / len(samples))
    finally:
        watcher.leave()
    return watcher.flow()


def rank(model: Any, body: Body, flow: Flow) -> Ranks:
    """Return in which order groups, channels of the feed-forward and hidden channels may leave."""
    readers = _readers(dict(model.named_parameters()), body, flow)
    groups, inner = list[tuple[int, ...]](), list[tuple[int, ...]]()
    for layer in range(body.sizes.layers):
        width = body.readers * body.sizes.head_dim
        groups.append(order_out(readers[QUERIES, layer], width))
        inner.append(order_out(readers[INNER, layer]))
    return Ranks(tuple(groups), tuple(inner), order_out(readers[HIDDEN, None]))


def reads(body: Body, name: str) -> str:
    """Return the structure that the inputs of a matrix are; nothing where they are none."""
    axes = body.anatomy.axes(name)
    axis = axes[0 if is_turned(body, name) else -1] if axes else ()
    return axis[0] if axis else ""


def _readers(
    weights: dict[str, torch.Tensor], body: Body, flow: Flow
) -> dict[tuple[str, int | None], list[Reader]]:
    """Return who reads each structure of each layer, and of None the stream; who read the same are one."""
    found: dict[tuple[str, int | None], dict[int, list[torch.Tensor]]] = {}
    moments = {id(moment): moment for moment in flow.moments.values()}
    for name, moment in flow.moments.items():
        structure = reads(body, name)
        where = structure, None if structure == HIDDEN else body.anatomy.place(name)[0]
        found.setdefault(where, {}).setdefault(id(moment), []).append(matrix(weights, name, body))
    return {
        where: [Reader(torch.cat(parts), moments[which]) for which, parts in alike.items()]
        for where, alike in found.items()
    }


def _last(order: tuple[int, ...], count: int) -> tuple[int, ...]:
    return tuple(sorted(order[len(order) - count :]))


def matrix(weights: Mapping[str, torch.Tensor], name: str, body: Body) -> torch.Tensor:
    """Return a matrix, [outputs, inputs], wherever and however its numbers are stored."""
    if name not in weights:
        # A head that is the embedding.
        name = next(one for one in body.anatomy.outside if one.endswith(("tokens.weight", "wte.weight")))
        return weights[name].detach()
    weight = weights[name].detach()
    return weight.T if is_turned(body, name) else weight


def is_turned(body: Body, name: str) -> bool:
    """Return whether a matrix is stored with a row for each input."""
    return body.anatomy.transposed and body.anatomy.place(name)[0] is not None


class _Watcher:
    """Hooks on the matrices, norms and layers of a model."""

    def __init__(self, model: Any, body: Body) -> None:
        """Place the hooks."""
        self.read = torch.zeros(0, dtype=torch.bool)
        """Which places of the batch hold a token: [samples, tokens]."""
        self._moments: dict[str, torch.Tensor] = {}
        self._sums: dict[str, torch.Tensor] = {}
        self._same: dict[str, str] = {}
        """Matrices that read what another reads."""
        self._seen: tuple[str, torch.Tensor] | None = None
        self._shares: dict[str, torch.Tensor] = {}
        self._bends = [0.0] * body.sizes.layers
        self._counts: dict[str, int] = {}
        self._tokens = 0
        self._hooks = list[Any]()
        for name, module in model.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":
                if reads(body, f"{name}.weight"):
                    self._place(module, self._see_matrix(f"{name}.weight"))
            elif (
                weight is not None
                and weight.ndim == 1
                and body.anatomy.axes(f"{name}.weight") == ((HIDDEN,),)
            ):
                self._place(
                    module,
                    self._see_norm(f"{name}.weight", centred=getattr(module, "bias", None) is not None),
                )
            elif f"{name}." in {f"{body.anatomy.layer}{layer}." for layer in range(body.sizes.layers)}:
                self._place(module, self._see_layer(int(name.rpartition(".")[2])))

    def leave(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()

    def flow(self) -> Flow:
        """Return the means of what was seen."""
        count = self._counts
        moments = {name: moment / count[name] for name, moment in self._moments.items()}
        means = {name: total / count[name] for name, total in self._sums.items()}
        for name, other in self._same.items():
            moments[name], means[name] = moments[other], means[other]
        return Flow(
            moments,
            means,
            {name: share / count[name] for name, share in self._shares.items()},
            tuple(bend / max(self._tokens, 1) for bend in self._bends),
        )

    def _place(self, module: Any, see: Callable[..., None]) -> None:
        self._hooks.append(module.register_forward_hook(see))

    def _rows(self, name: str, given: torch.Tensor) -> torch.Tensor:
        """Return what stands where tokens are: [tokens, channels]; a pooled state has one row a text."""
        rows = given[self.read] if given.ndim == self.read.ndim + 1 else given.reshape(-1, given.shape[-1])
        self._counts[name] = self._counts.get(name, 0) + len(rows)
        return rows

    def _see_matrix(self, name: str) -> Callable[..., None]:
        def see(_module: Any, given: tuple[torch.Tensor, ...], _made: Any) -> None:
            if self._seen is not None and self._seen[1] is given[0]:
                self._same[name] = self._seen[0]
                return
            self._seen = name, given[0]
            rows = self._rows(name, given[0])
            self._moments[name] = self._moments.get(name, 0) + rows.T @ rows
            self._sums[name] = self._sums.get(name, 0) + rows.sum(0)

        return see

    def _see_norm(self, name: str, *, centred: bool) -> Callable[..., None]:
        def see(_module: Any, given: tuple[torch.Tensor, ...], _made: Any) -> None:
            rows = self._rows(name, given[0])
            squares = (rows - rows.mean(-1, keepdim=True) if centred else rows) ** 2
            shares = squares / squares.sum(-1, keepdim=True).clamp_min(1e-30)
            self._shares[name] = self._shares.get(name, 0) + shares.sum(0)

        return see

    def _see_layer(self, layer: int) -> Callable[..., None]:
        def see(_module: Any, given: tuple[torch.Tensor, ...], made: Any) -> None:
            after = made[0] if isinstance(made, tuple) else made
            cosines = functional.cosine_similarity(given[0][self.read], after[self.read], dim=-1)
            self._bends[layer] += float((1 - cosines).sum())
            self._tokens += len(cosines) if layer == 0 else 0

        return see
