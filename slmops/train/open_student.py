"""Open the student of a distillation: a model that is there, new weights for a config, or a cut teacher."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops import digest
from slmops.build.checkpoint import Checkpoint, open_checkpoint
from slmops.build.isolate import Progress
from slmops.build.sketch import Sketch, sketch
from slmops.build.subject import name_of
from slmops.profile.device import DeviceProfile
from slmops.train.distill_recipe import DistillRecipe
from slmops.train.model_folder import RUN
from slmops.train.open_trainable import has_weights, load_weights, new_model, open_teacher
from slmops.train.prune import Cutting, prune
from slmops.train.pruning import parse_pruning

PRUNE = "prune:"
MADE_OF = "made_of.json"
ANSWERS = "answers.jsonl"
"""In the folder of a run: what the teacher wrote to learn from."""


@dataclass(frozen=True, eq=False)
class Student:
    """A model that is to learn."""

    drawn: Sketch
    """Its folder, which has its words."""
    model: Any
    """Of transformers, in float32."""
    digest: str
    """Of everything it begins with."""
    name: str
    what: str
    """What it is before it learns: a word and a sentence for the ledger."""
    checkpoint: Checkpoint | None
    """None of one with new weights: there is nothing to measure yet."""


def open_student(
    recipe: DistillRecipe,
    teacher: Checkpoint,
    files: Sequence[Path],
    load: Callable[[str], DeviceProfile],
    progress: Progress,
) -> Student:
    """Return the student of `recipe`; one that is cut from the teacher is kept in the run's folder.

    `load` finds a device profile by its name.
    """
    said = recipe.student
    if said.startswith(PRUNE):
        return _cut(recipe, teacher, files, load, progress)
    folder = Path(said).expanduser()
    if folder.is_dir() and not has_weights(folder):
        return _new(folder, recipe.training.seed)
    found = open_teacher(said)
    return Student(
        found,
        load_weights(found, progress),
        found.digest,
        "student",
        f"{found.folder.name}, as it came",
        found,
    )


def _new(folder: Path, seed: int) -> Student:
    drawn, model = sketch(folder), new_model(folder, seed)
    drawn.words()
    begun = digest.of_pieces([(folder / "config.json").read_bytes(), str(seed).encode()])
    return Student(drawn, model, begun, "student", f"{folder.name}, new weights, seed {seed}", None)


def _cut(
    recipe: DistillRecipe,
    teacher: Checkpoint,
    files: Sequence[Path],
    load: Callable[[str], DeviceProfile],
    progress: Progress,
) -> Student:
    """Return the teacher cut as the recipe says; what an earlier begin of this run has cut is taken."""
    folder = Path(recipe.out) / RUN / "student"
    text = [Path(recipe.calibration)] if recipe.calibration else files
    cutting = Cutting(parse_pruning(recipe.student.removeprefix(PRUNE), load), calibration=tuple(text))
    made_of = {"source": teacher.digest, "cut": recipe.student, "text": digest.of_pieces(map(_digest, text))}
    if _read(folder / MADE_OF) != made_of:
        # A cut that was begun anew and never ended must not pass for the one before.
        (folder / MADE_OF).unlink(missing_ok=True)
        prune(teacher, cutting, folder, force=True, progress=progress)
        (folder / MADE_OF).write_text(json.dumps(made_of) + "\n", encoding="utf-8")
    found = open_checkpoint(folder)
    share = found.parameters / teacher.parameters
    what = f"{name_of(teacher)}, cut to {share:.0%} of its weights and not healed yet"
    return Student(found, load_weights(found, progress), found.digest, "pruned", what, found)


def _digest(file: Path) -> bytes:
    return digest.of_file(file).encode()


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
