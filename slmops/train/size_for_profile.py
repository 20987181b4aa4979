"""How large a model a device bears, said of each size before it is made: from the config alone.

Law: what is said to be borne is, by the same prediction that `quantize` goes by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from slmops.build import classifier
from slmops.build.checkpoint import Checkpoint
from slmops.build.classifier import is_classifier
from slmops.build.family import build_of, layout, sizes_of
from slmops.build.family_terms import Shape
from slmops.build.foretell import as_trained
from slmops.build.plan import AUTO, Wish
from slmops.build.quantize_gguf import plan_gguf
from slmops.build.run_classifier import as_read
from slmops.build.scheme import choose
from slmops.errors import UsageError
from slmops.profile.device import DeviceProfile
from slmops.profile.fit import VERSIONS, Candidate, Fit, hold
from slmops.profile.footprint import ModelShape
from slmops.profile.sizes import human_rate, human_size
from slmops.train.cuts import Body, Keep

SMALL = 100_000_000
"""Weights below which four bits cost a model more than having fewer weights in eight."""


class Room:
    """The room that a device has for what is left of a model, as a file of one type."""

    def __init__(self, profile: DeviceProfile, teacher: Checkpoint, type_: str = AUTO) -> None:
        """Take the device, and the uncut model; a text classifier is taken to become ONNX, else GGUF."""
        self._classifies = is_classifier(teacher.config)
        wish = [Wish(profile)]
        self._profile = (as_read(teacher, wish) if self._classifies else as_trained(teacher, wish))[0].profile
        small = teacher.parameters <= SMALL
        usual = "INT8" if self._classifies else "Q8_0" if small else "Q4_K_M"
        self._type = usual if type_ == AUTO else type_
        self._outside = 0
        if self._classifies and self._type not in classifier.TYPES:
            raise UsageError(
                f"no type {self._type!r} of a text classifier; expected one of {', '.join(classifier.TYPES)}"
            )
        if not self._classifies:
            planned = plan_gguf(teacher, self._type)
            self._outside = planned.predicted_bytes - planned.scheme.data_bytes

    def hold(self, body: Body, shapes: Mapping[str, Shape], keep: Keep) -> Fit:
        """Return what is left of a model of these shapes, held against the device."""
        after, left = body.after(keep), body.shapes(shapes, keep)
        weights = sum(map(math.prod, left.values()))
        if self._classifies:
            nbytes = classifier.predicted_bytes(after, left.values(), self._type)
            shape = classifier.shape_of(after, weights)
            candidate = Candidate("onnx", self._type, nbytes)
        else:
            tensors = {tensor.name: tensor.shape for tensor in layout(body.architecture, after, left)}
            scheme = choose(tensors, self._type, build_of(body.architecture, after))
            shape = ModelShape(**vars(sizes_of(body.architecture, after)), parameters=weights)
            candidate = Candidate("gguf", self._type, self._outside + scheme.data_bytes)
        return hold(self._profile, shape, [candidate])[0]

    def excess(self, fit: Fit, weights: int) -> float:
        """Return how many of so many weights are too many, about; 0 where the device bears them all."""
        if not (fit.short or fit.slow):
            return 0.0
        nbytes, profile = fit.candidate.weight_bytes, self._profile
        too_many = max(fit.need.total - profile.memory.budget, nbytes - profile.storage.free // VERSIONS)
        # How many make it slow is not said: any cut is welcome then.
        return weights * too_many / nbytes if fit.short and too_many > 0 else float(weights)

    def why(self, fit: Fit) -> str:
        """Return in a sentence what the device bears of it, or why it does not."""
        profile, candidate, need = self._profile, fit.candidate, fit.need
        said = (
            f"{candidate} of {human_size(candidate.weight_bytes)} needs {human_size(need.total)} of "
            f"{human_size(profile.memory.budget)} of memory on {profile.name} at a context of "
            f"{profile.serve.context}, about {human_rate(fit.tokens_per_second)} tokens/s"
        )
        lacks = fit.short or fit.slow
        return f"{said}: {lacks}" if lacks else said
