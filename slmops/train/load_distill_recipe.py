"""Read the recipes of distillations; paths in one are relative to the file."""

from __future__ import annotations

from pathlib import Path

from slmops import document
from slmops.build import load_recipe as recipes
from slmops.train.distill_recipe import DistillRecipe, Then


def load_distill_recipe(path: Path) -> DistillRecipe:
    """Return the recipe in `path`, its paths absolute; raise DocumentError naming file, line and key."""
    return anchored(document.load(path, DistillRecipe), path.resolve().parent)


def anchored(recipe: DistillRecipe, folder: Path) -> DistillRecipe:
    """Return the recipe with its paths absolute, those that are relative seen from `folder`."""

    def path(said: str | None) -> str | None:
        return None if said is None else str(folder / Path(said).expanduser())

    def paths(said: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(folder / Path(one).expanduser()) for one in said)

    def model(said: str) -> str:
        there = folder / Path(said).expanduser()
        return str(there) if there.exists() else said

    then = recipe.quantize and Then.model_validate(
        {**vars(recipes.anchored(recipe.quantize, folder)), "model": ""}
    )
    return recipe.model_copy(
        update={
            "teacher": model(recipe.teacher),
            "student": model(recipe.student),
            "out": path(recipe.out),
            "data": paths(recipe.data),
            "prompts": paths(recipe.prompts),
            "validation": path(recipe.validation),
            "calibration": path(recipe.calibration),
            "evaluation": recipe.evaluation.model_copy(update={"file": path(recipe.evaluation.file)}),
            "tasks": paths(recipe.tasks),
            "quantize": then,
        }
    )
