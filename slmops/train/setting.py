"""How a training goes: how long, in what portions, how fast, and how it is watched.

Pure: a schema. Knows nothing of models or of what is learned.

Law: what two runs learn differs only where their settings differ under a name of `Setting.decides`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slmops.fault import fault

EPOCHS = 3
"""Of a run whose length nobody said."""
BEARABLE, LABELS_BEAR = 0.01, 0.002
"""Rates above which small models learn no more, or fall apart: of decoders, and of encoders with labels."""
SCALE = 9.5
"""Of n weights the rate is SCALE / sqrt(n): measured at 4e5, and near what is published up to 1e9."""
GENTLY = 0.1
"""Share of the usual rate for a model that learns beside what it knows."""
FAR, LEAST = 1.5, 0.05
"""Nats from its teacher at which a student bears the usual rate; share of it that one gets who is near."""
_FREE = {"part_tokens", "checkpoint_every"}

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Setting(BaseModel):
    """How a training goes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    epochs: Count | None = None
    """Times that all samples are learned. Of epochs, steps and tokens one may be given; else 3 epochs."""
    steps: Count | None = None
    """Updates of the weights."""
    tokens: Count | None = None
    """Tokens to read in training, about: it ends with the step that reaches them."""
    batch_tokens: Count = 4096
    """Tokens that one step reads, about, on however many processes."""
    part_tokens: Count | None = None
    """Tokens that a process reads at once, with padding: memory. Without it 1024, and 16384 on a GPU."""
    length: Annotated[int, Field(ge=2)] = 512
    """Tokens of a sample at most."""
    rate: Annotated[float, Field(gt=0)] | None = None
    """The learning rate at its highest. Without one, it follows from the model's size: `with_rate`."""
    warm_up: Share = 0.05
    """Share of the steps over which the rate rises to its highest."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """How strongly matrices are drawn to zero (AdamW); norms and biases are not."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Length of the gradient of a token's mean loss at most."""
    seed: Annotated[int, Field(ge=0)] = 0
    """What samples are shuffled by, and whatever else is drawn."""
    validations: Count = 10
    """How often in a run the model is validated, evenly; once before it as well."""
    patience: Count | None = None
    """Validations without a better one after which a run ends early; none: it never does."""
    checkpoint_every: Count = 100
    """Steps from one saved state to the next, from which a run that was killed goes on."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What products are computed in; weights are float32 always. bfloat16 is for GPUs, and CPUs with AMX."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        said = [name for name in ("epochs", "steps", "tokens") if getattr(self, name) is not None]
        if len(said) > 1:
            raise fault(
                f"expected at most one of epochs, steps and tokens, got {' and '.join(said)}", said[1]
            )
        return self

    def with_rate(self, parameters: int, *, labels: bool = False, share: float = 1.0) -> Self:
        """Return the setting with the rate that is usual for a model of so many weights, if it says none.

        0.01 up to 900,000 weights, 1e-3 at 1e8, 3e-4 at 1e9. A classifier (`labels`) bears less. A model
        that is to keep what it knows gets a `share` of it.
        """
        if self.rate is not None:
            return self
        usual = min(LABELS_BEAR if labels else BEARABLE, SCALE / math.sqrt(parameters)) * share
        return self.model_copy(update={"rate": float(f"{usual:.2g}")})

    def steps_in(self, tokens: int, epoch: int) -> int:
        """Return the steps of a run over samples of `tokens` tokens whose epoch takes `epoch` steps."""
        if self.steps is not None:
            return self.steps
        if self.tokens is not None:
            return -(-self.tokens * epoch // tokens)
        return (self.epochs or EPOCHS) * epoch

    def decides(self) -> dict[str, str]:
        """Return, as text, whatever decides what is learned, by name."""
        said = self.model_dump(mode="json", exclude=_FREE, exclude_none=True)
        if not {"epochs", "steps", "tokens"} & said.keys():
            said["epochs"] = EPOCHS
        return {name: str(value) for name, value in said.items()}


def share_of_rate(apart: float) -> float:
    """Return the share of the usual rate for a student so many nats from its teacher.

    One that says nearly what its teacher says would lose it in large steps.
    """
    return min(max(apart / FAR, LEAST), 1.0) if math.isfinite(apart) else 1.0
