"""From a recipe to a build that can be carried out: model opened, profiles loaded, progress shown."""

from collections.abc import Mapping
from pathlib import Path

from slmops.artifact import golden as goldens
from slmops.artifact.golden import Golden
from slmops.build.cache import Cache
from slmops.build.checkpoint import Checkpoint
from slmops.build.classifier import is_classifier
from slmops.build.foretell import as_trained, foretell
from slmops.build.plan import Plan, Wish
from slmops.build.recipe import Recipe
from slmops.build.run import Run, called
from slmops.build.run_classifier import ClassifierRun, as_read, foretell_classifier
from slmops.build.source import Source, foresee, open_model
from slmops.build.steps import Progress, Steps
from slmops.cli import home
from slmops.cli.delta_base import based_on
from slmops.cli.render import say
from slmops.errors import DocumentError, UsageError
from slmops.profile.load import load_profile


def foretold(recipe: Recipe, told: Progress) -> Plan:
    """Return the plan of a recipe; of a model on the hub no weights are fetched for it."""
    _check_texts(recipe)
    asked, source = _asked(recipe), foresee(recipe.model)
    based = based_on(recipe.delta_base, as_trained(source, asked), source)
    for profile, why in based.apart.items():
        say(f"{profile}: {recipe.delta_base} is no base for a small delta: {why}")
    if isinstance(source, Checkpoint) and is_classifier(source.config):
        return foretell_classifier(source, as_read(source, asked))
    if recipe.converter is None:
        return foretell(source, recipe, based.wishes)
    steps = _steps(recipe, open_model(recipe.model), Cache(home.cache()), told)
    return foretell(source, recipe, based.wishes, steps.gguf)


def prepare(recipe: Recipe, told: Progress, cache: Cache | None = None) -> Run | ClassifierRun:
    """Open what a recipe names; nothing is built yet. Without a cache of its own it uses the operator's."""
    asked, source, kept = _asked(recipe), open_model(recipe.model), cache or Cache(home.cache())
    if isinstance(source, Checkpoint) and is_classifier(source.config):
        wishes = as_read(source, asked)
        return ClassifierRun(source, recipe, wishes, called(recipe.model), cache=kept, progress=told)
    based = based_on(recipe.delta_base, as_trained(source, asked), source)
    steps = _steps(recipe, source, kept, told, based.files)
    return Run(source, recipe, based.wishes, steps, called(recipe.model))


def _steps(
    recipe: Recipe,
    source: Source,
    cache: Cache,
    told: Progress,
    bases: Mapping[str, Path] | None = None,
) -> Steps:
    steps = Steps(source, cache, told, recipe.jobs, bases)
    if recipe.converter is not None:
        steps.convert(Path(recipe.converter))
    return steps


def golden_of(recipe: Recipe) -> list[Golden]:
    """Return the golden prompts that a recipe names, or that lie in the model's folder."""
    return read_golden(Path(recipe.golden) if recipe.golden else None, Path(recipe.model).expanduser())


def read_golden(given: Path | None, folder: Path) -> list[Golden]:
    """Return the golden prompts in the file that was given, else those that lie in `folder`, if any do.

    References are left out: they are of the file that they were recorded of, and of no other.
    """
    path = given or folder / goldens.FILE_NAME
    if given is None and not path.is_file():
        return []
    try:
        return goldens.questions(goldens.read(path.read_text(encoding="utf-8"), str(path)))
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(
            f"{path} cannot be read: {error}", remedy="Give --golden a file of JSON lines."
        ) from error


def _check_texts(recipe: Recipe) -> None:
    """Raise DocumentError for a file of texts that is not there, before it costs anything."""
    calibration = recipe.calibration.file if recipe.calibration else None
    for file in filter(None, (calibration, recipe.evaluation.file)):
        if not Path(file).is_file():
            raise DocumentError(f"{file}: no such file", remedy="Give a file of texts.")


def _asked(recipe: Recipe) -> list[Wish]:
    """Return what the recipe wishes, its profiles loaded; raise UsageError for one that is there twice."""
    # A profile that is not there is said before the model is looked for.
    asked = [
        Wish(load_profile(one.profile, home.profiles()), one.format, one.type) for one in recipe.profiles
    ]
    names = [wish.profile.name for wish in asked]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(
            f"profile {twice} is there twice; a release has one artifact for each profile",
            remedy="Name it once, or give a copy of the profile a name of its own.",
        )
    return asked
