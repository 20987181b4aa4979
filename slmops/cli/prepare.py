"""From a recipe to a build that can be carried out: its model opened, its profiles loaded, its progress shown."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slmops.artifact import golden as goldens
from slmops.artifact.golden import Golden
from slmops.build.cache import Cache
from slmops.build.foretell import Foreseen, as_trained, foretell
from slmops.build.plan import Plan, Wish
from slmops.build.recipe import Recipe
from slmops.build.run import Run, called
from slmops.build.source import foresee, open_model
from slmops.build.steps import Progress, Steps
from slmops.cli import home
from slmops.cli.render import err, progress, say
from slmops.errors import DocumentError
from slmops.profile.load import load_profile


def foretold(recipe: Recipe, told: Progress) -> Plan:
    """Return the plan of a recipe; of a model on the hub no weights are fetched for it."""
    if recipe.converter is None:
        source = foresee(recipe.model)
        return foretell(source, recipe, _wishes(recipe, source))
    run = prepare(recipe, told)
    return foretell(run.source, recipe, run.wishes, run.steps.gguf)


def prepare(recipe: Recipe, told: Progress, cache: Cache | None = None) -> Run:
    """Open what a recipe names; nothing is built yet. Without a cache of its own it uses the operator's."""
    source = open_model(recipe.model)
    steps = Steps(source, cache or Cache(home.cache()), told, recipe.jobs)
    if recipe.converter is not None:
        steps.convert(Path(recipe.converter))
    return Run(source, recipe, _wishes(recipe, source), steps, called(recipe.model))


def golden_of(recipe: Recipe) -> list[Golden]:
    """Return the golden prompts that a recipe names, or that lie in the model's folder."""
    own = Path(recipe.model).expanduser() / goldens.FILE_NAME
    path = Path(recipe.golden) if recipe.golden else own
    if not recipe.golden and not own.is_file():
        return []
    try:
        return goldens.read(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(
            f"{path} cannot be read: {error}", remedy="Give --golden a file of JSON lines."
        ) from error


def _wishes(recipe: Recipe, source: Foreseen) -> list[Wish]:
    asked = [
        Wish(load_profile(one.profile, home.profiles()), one.format, one.type) for one in recipe.profiles
    ]
    return as_trained(source, asked)


@contextmanager
def bar() -> Iterator[Progress]:
    """Show what is being done; where there is no terminal, a line for each new thing."""
    with progress(transient=True) as bar:
        row = bar.add_task("", total=1.0, note="")
        said: list[str] = []

        def told(doing: str, share: float) -> None:
            bar.update(row, description=doing, completed=share)
            if not err.is_terminal and doing not in said:
                say(doing)
                said.append(doing)

        yield told
