"""From a plan to a signed release in the registry, and the report that explains it."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops import digest as digests
from slmops.build import page
from slmops.build.load_recipe import save_recipe
from slmops.build.plan import Plan
from slmops.build.recipe import Recipe
from slmops.build.report import report
from slmops.build.steps import Progress
from slmops.build.wrap import Built
from slmops.cli import home
from slmops.cli.answer import show
from slmops.cli.auditing import audited
from slmops.cli.prepare import golden_of, prepare
from slmops.cli.render import say
from slmops.errors import UsageError
from slmops.registry import catalog
from slmops.registry import release as releases
from slmops.registry.layout import Layout
from slmops.registry.release import Signed


@dataclass(frozen=True)
class Made:
    """A release, and how it came about."""

    signed: Signed
    answer: dict[str, Any]
    """What `report` says."""
    built: list[Built]
    report: Path
    """Folder of report.html and report.json."""

    def said(self) -> dict[str, Any]:
        """Return all of it for machines."""
        missed = {one.profile.name: one.unanswered for one in self.built}
        kept = {"digest": self.signed.blob.digest, "report": str(self.report), "unanswered": missed}
        return {**self.answer, **kept}


def check_new(name: str, version: str) -> None:
    """Raise UsageError for a version that the registry has: it never changes."""
    reference = catalog.reference(name, version)
    if reference in releases.references(Layout(home.registry())):
        raise UsageError(
            f"{reference} is in the registry already; a version never changes",
            remedy="Choose a new --version.",
        )


def make_release(
    recipe: Recipe,
    planned: Plan,
    told: Progress,
    *,
    report_to: Path | None = None,
    before: Callable[[Built], None] = lambda _built: None,
    expires: str | None = None,
) -> Made:
    """Build what is planned, measure, choose, report, sign; `before` sees each artifact before that.

    `expires` is the moment after which no device takes the release in.
    """
    run = prepare(recipe, told)
    home.registry().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=home.registry()) as room:
        built, results = run.build(planned, golden_of(recipe), Path(room))
        for one in built:
            before(one)
        answer = report(f"{recipe.name}:{recipe.version}", run.called, results)
        place = home.report_of(recipe.name, recipe.version)
        save_recipe(recipe, place / "recipe.yaml")
        for folder in {place, report_to or place}:
            _keep(answer, folder)
        return Made(_publish(built, expires), answer, built, report_to or place)


def show_release(made: Made) -> None:
    """Print a release for people."""
    show(made.answer)
    for one in made.built:
        if one.fallback_share:
            label = one.description.type
            say(f"{one.profile.name}: {one.fallback_share:.0%} of the weights cannot be {label}.")
        if one.unanswered:
            say(
                f"{one.profile.name}: {len(one.unanswered)} golden prompts are not answered as they expect; "
                f"a device that gets this will go back. The first: {one.unanswered[0]}"
            )
    signed = made.signed
    say(f"Release {signed.release.reference} ({digests.short(signed.blob.digest)}) is in the registry.")
    say(f"The whole answer, with its plot: {made.report / 'report.html'}")


@audited("release publish")
def _publish(built: list[Built], expires: str | None) -> Signed:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    folders = {one.profile.name: one.folder for one in built}
    needs = {one.profile.name: one.profile.cpu.features for one in built}
    return releases.publish(
        Layout(home.registry()),
        folders,
        created=created,
        key=home.release_key(),
        expires=expires,
        needs=needs,
    )


def _keep(answer: dict[str, Any], place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "report.json").write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    (place / "report.html").write_text(page.draw(answer), encoding="utf-8")
