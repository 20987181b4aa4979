"""Cut structures out of a model: its tensors are sliced, and what reads them makes up for what left.

Knows no files and chooses nothing. Laws: where everything stays, every number stays, bit for bit; the model
that comes out is one of its family, with a config of its own; the model that is cut is not changed.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers.modeling_utils import no_init_weights

from slmops.train.cuts import HIDDEN, Body, Keep, Places
from slmops.train.influence import made_up, scale_of_norm
from slmops.train.study_influence import Flow, is_turned, matrix


class Knife:
    """Cuts one model, as often as is asked, and keeps in mind what it worked out."""

    def __init__(self, model: Any, body: Body, flow: Flow | None = None) -> None:
        """Take the uncut model; without a flow, nothing makes up for what leaves."""
        self._model, self._body, self._flow = model, body, flow
        self._weights = {name: weight.detach() for name, weight in model.named_parameters()}
        self._solved: dict[str, tuple[Places, torch.Tensor]] = {}

    def cut(self, keep: Keep) -> Any:
        """Return the model that is left, in evaluation mode; its weights are its own."""
        config = copy.deepcopy(self._model.config)
        for name, value in self._body.changes(keep).items():
            setattr(config, name, value)
        # transformers says of each layer what it is, also where config.json says nothing of it.
        if kinds := getattr(self._model.config, "layer_types", None):
            config.layer_types = [kinds[layer] for layer in keep.layers]
        with no_init_weights():
            cut = type(self._model)(config)
        cut.tie_weights()
        with torch.no_grad():
            for name, weight in cut.named_parameters():
                weight.copy_(self._tensor(name, keep))
        return cut.eval()

    def _tensor(self, name: str, keep: Keep) -> torch.Tensor:
        """Return a tensor of the cut model."""
        source, place = self._body.source(name, keep)
        found = self._weights[source]
        if name.endswith(".bias"):
            found = self._shifted(source, keep, place)
        axes = self._body.anatomy.axes(source)
        kept = [self._body.places(axis, keep, place) for axis in axes]
        side = self._side(source)
        some = kept[side] if self._flow is not None and source in self._flow.moments else None
        if some is not None:
            found = self._made_up(source, some)
            kept[side] = None
        for axis, some in enumerate(kept):
            if some is not None:
                found = found.index_select(axis, torch.tensor(some))
        return self._scaled(source, found, keep)

    def _side(self, source: str) -> int:
        """Return the axis along which a matrix has its inputs."""
        return 0 if is_turned(self._body, source) else 1

    def _made_up(self, source: str, kept: Places) -> torch.Tensor:
        """Return a matrix of which only the inputs `kept` are left, as it is stored."""
        known = self._solved.get(source)
        if known is None or known[0] != kept:
            weight, moment = matrix(self._weights, source, self._body), self._moment(source)
            known = self._solved[source] = kept, made_up(weight, moment, kept)
        return known[1].T if is_turned(self._body, source) else known[1]

    def _moment(self, source: str) -> torch.Tensor:
        """Return the moment of a matrix's inputs: about their mean where a bias takes care of that."""
        assert self._flow is not None  # noqa: S101 - asked for where there is one
        moment, mean = self._flow.moments[source], self._flow.means[source]
        return moment - torch.outer(mean, mean) if self._bias(source) in self._weights else moment

    def _bias(self, source: str) -> str:
        return source.removesuffix("weight") + "bias"

    def _shifted(self, bias: str, keep: Keep, place: int | None) -> torch.Tensor:
        """Return a bias that also says what the inputs that left said on the mean."""
        source = bias.removesuffix("bias") + "weight"
        said, flow = self._weights[bias], self._flow
        if flow is None or source not in flow.moments:
            return said
        axis = self._body.anatomy.axes(source)[self._side(source)]
        kept = self._body.places(axis, keep, place)
        if kept is None:
            return said
        mean, weight = flow.means[source], matrix(self._weights, source, self._body)
        left = self._made_up(source, kept)
        left = left.T if is_turned(self._body, source) else left
        return said + weight @ mean - left @ mean[torch.tensor(kept)]

    def _scaled(self, source: str, found: torch.Tensor, keep: Keep) -> torch.Tensor:
        """Return a norm's weights so that what it lets through is as large as it was."""
        hidden, whole, anatomy = len(keep.hidden), self._body.sizes.hidden, self._body.anatomy
        is_norm = anatomy.axes(source) == ((HIDDEN,),) and found.ndim == 1 and source.endswith("weight")
        if self._flow is None or hidden == whole or not is_norm:
            return found
        scale = scale_of_norm(self._flow.shares[source], keep.hidden)
        if anatomy.place(source)[1] in anatomy.post_norms:
            scale *= (hidden / whole) ** 0.5
        return (found + 1) * scale - 1 if anatomy.plus_one else found * scale


def cut_model(model: Any, body: Body, keep: Keep, flow: Flow | None = None) -> Any:
    """Return what is left of `model`; with a `flow`, what stays makes up for what left."""
    return Knife(model, body, flow).cut(keep)
