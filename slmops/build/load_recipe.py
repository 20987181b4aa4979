"""Read and write recipe files; paths in one are relative to the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from slmops import document
from slmops.build.recipe import Recipe


def load_recipe(path: Path) -> Recipe:
    """Return the recipe in `path`, its paths absolute; raise DocumentError naming file, line and key."""
    return anchored(document.load(path, Recipe), path.resolve().parent)


def anchored(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with its paths absolute, those that are relative seen from `folder`."""
    changes: dict[str, Any] = {
        "model": _model(recipe.model, folder),
        "golden": _path(recipe.golden, folder),
        "converter": _path(recipe.converter, folder),
        "profiles": tuple(
            one.model_copy(update={"profile": _profile(one.profile, folder)}) for one in recipe.profiles
        ),
        "evaluation": recipe.evaluation.model_copy(update={"file": _path(recipe.evaluation.file, folder)}),
    }
    if recipe.calibration is not None:
        file = _path(recipe.calibration.file, folder)
        changes["calibration"] = recipe.calibration.model_copy(update={"file": file})
    return recipe.model_copy(update=changes)


def save_recipe(recipe: BaseModel, path: Path) -> None:
    """Write a recipe, of whatever kind, to `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(document.dumps(recipe), encoding="utf-8")
    partial.replace(path)


def _path(said: str | None, folder: Path) -> str | None:
    return None if said is None else str(folder / Path(said).expanduser())


def _model(said: str, folder: Path) -> str:
    """Return a path where there is one; else the text may be a hub id."""
    path = folder / Path(said).expanduser()
    return str(path) if path.exists() else said


def _profile(said: str, folder: Path) -> str:
    """Return a path where the text looks like one; else it is the name of a known profile."""
    return (
        str(folder / Path(said).expanduser()) if said.endswith((".yaml", ".yml")) or os.sep in said else said
    )
