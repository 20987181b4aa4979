"""What to make, from what, for which devices, and how good it must be: a recipe, as its file says it.

Pure: a schema. Where its paths lead and what its profiles are is for others to find out.

Law: what it writes as YAML reads back as the same recipe.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from slmops.build.plan import AUTO, MOST_FALLBACK
from slmops.build.quality import QUALITIES, USUAL, Quality
from slmops.profile.device import Size

QualityName = Literal["strict", "balanced", "small"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Target(_Part):
    """A device profile, and what is wanted for it."""

    profile: str
    """Name of a profile, or the path of its file."""
    format: Literal["auto", "gguf", "onnx"] = "auto"
    """gguf or onnx; auto: whichever the device takes and turns out better."""
    type: str = AUTO
    """auto, or a type outright: Q8_0, Q4_K_M, ... (gguf), INT8, INT4, F32 (onnx)."""


class Calibration(_Part):
    """Text that says which inputs of a matrix matter."""

    file: str
    """Text, or JSON lines with `text`, `prompt` or `messages`."""
    tokens: Annotated[int, Field(ge=64)] = 16_384
    """Tokens of it to read."""


class Evaluation(_Part):
    """Text on which artifacts are held against their source."""

    file: str | None = None
    """Text that was used for nothing else; without it the source writes its own."""
    tokens: Annotated[int, Field(ge=64)] = 512
    """Tokens to measure on."""


def _short_form(said: Any) -> Any:
    """Read PROFILE and PROFILE:FORMAT:TYPE as people write them in a command."""
    if not isinstance(said, list | tuple):
        return said
    return tuple(target(one) if isinstance(one, str) else one for one in said)


def target(said: str) -> dict[str, str]:
    """Return what PROFILE, PROFILE:FORMAT or PROFILE:FORMAT:TYPE asks for, as a document would say it."""
    profile, _, rest = said.partition(":")
    format_, _, type_ = rest.partition(":")
    return {"profile": profile, "format": format_ or AUTO, "type": _as_written(type_ or AUTO)}


def _as_written(type_: str) -> str:
    """Return a type as it is written; people write q4_k_m too."""
    return type_ if type_ == AUTO else type_.upper()


class Recipe(_Part):
    """Everything that a build is made of."""

    name: str
    """Name of the release."""
    version: str
    """Version of the release; a version never changes."""
    model: str
    """Hugging Face folder, hub id, or a .gguf file."""
    profiles: Annotated[tuple[Target, ...], BeforeValidator(_short_form), Field(min_length=1)]
    """Device profiles; PROFILE:FORMAT:TYPE in one word asks for that type alone."""
    quality: QualityName | Quality | None = None
    """A gate by name, or one of your own. Without one, types that are chosen must pass `balanced`."""
    mixed: bool = True
    """Whether a type for each tensor may be searched by measuring, where the type is left open."""
    calibration: Calibration | None = None
    evaluation: Evaluation = Evaluation()
    golden: str | None = None
    """Golden prompts (JSON lines); without them golden.jsonl in the model's folder, else recorded."""
    converter: str | None = None
    """For other families: a llama.cpp checkout, or an unpacked llama-cpp-python source archive."""
    max_fallback: Annotated[float, Field(ge=0, le=1)] = MOST_FALLBACK
    """Share of the weights that may have another type than the label says."""
    delta_base: str | None = None
    """NAME:VERSION of the release that devices have: an update from it is to be small."""
    jobs: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that build and measure at a time."""
    memory: Size | None = None
    """Bytes that building may use at its peak; without it, what is free on this machine."""

    @property
    def gate(self) -> Quality:
        """Return the gate of what is chosen."""
        if isinstance(self.quality, Quality):
            return self.quality
        return QUALITIES[self.quality or USUAL]
