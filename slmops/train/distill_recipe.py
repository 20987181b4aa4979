"""What to distill, from what, by which data, and what then: a recipe, as its file says it.

Pure: a schema. Its parts stand where they are used: how a training goes in `setting`, how a student
learns in `teaching`, what is built for devices in the build room's `recipe`.

Law: what it writes as YAML reads back as the same recipe.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slmops.build.recipe import Evaluation, Recipe
from slmops.fault import fault
from slmops.train.answers import Asking
from slmops.train.setting import Setting
from slmops.train.teaching import Teaching

Learned = Literal["all", "answers"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Then(Recipe):
    """The release that is made of the student: a recipe whose model is known."""

    model: str = ""
    """Left out: it is the student."""


class Measuring(Evaluation):
    """With what text every step is measured."""

    tokens: Annotated[int, Field(ge=64)] = 2048
    """Tokens to measure on."""


class DistillRecipe(_Part):
    """Everything that a distillation is made of."""

    teacher: str
    """Hugging Face folder or hub id."""
    student: str
    """Hugging Face folder or hub id; a folder with config.json and tokenizer but no weights begins from new
    ones; prune:50% or prune:layers=4 cuts the teacher."""
    out: str
    """Folder that gets the student."""
    data: tuple[str, ...] = ()
    """Files to learn from: text, JSON lines (text; prompt and completion; messages), or texts with labels."""
    prompts: tuple[str, ...] = ()
    """Files of prompts that the teacher writes answers to first, to learn from."""
    asking: Asking = Asking()
    """How the teacher is asked for its answers."""
    validation: str | None = None
    """Held-out data by which the best moment is known; without it a part of the data is held out."""
    learn: Learned = "all"
    """Whether what is asked is learned from the teacher too, or only what is answered."""
    training: Setting = Setting()
    teaching: Teaching = Teaching()
    calibration: str | None = None
    """Text by which it is known what may be cut, of prune:...; without it the data."""
    evaluation: Measuring = Measuring()
    """With what every step is measured for the ledger."""
    tasks: tuple[str, ...] = ()
    """Tasks that every step is put to."""
    quantize: Then | None = None
    """The release to make of the student."""

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if not (self.data or self.prompts):
            raise fault("expected data, or prompts for the teacher to answer, got neither", "data")
        return self
