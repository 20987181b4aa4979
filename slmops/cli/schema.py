"""slmops schema: JSON Schema for editors."""

from enum import Enum
from typing import Annotated

import typer
from pydantic import BaseModel

from slmops.build.recipe import Recipe
from slmops.cli.options import verb
from slmops.cli.render import emit
from slmops.fleet.inventory import Fleet
from slmops.profile.device import DeviceProfile
from slmops.train.distill_recipe import DistillRecipe

app = verb("Print the JSON Schema of a profile, a fleet file or a recipe, for editors.")


class Kind(str, Enum):  # noqa: UP042 - typer wants a str to show choices
    """Files that have a schema."""

    PROFILE = "profile"
    FLEET = "fleet"
    RECIPE = "recipe"
    DISTILL = "distill"


MODELS: dict[Kind, type[BaseModel]] = {
    Kind.PROFILE: DeviceProfile,
    Kind.FLEET: Fleet,
    Kind.RECIPE: Recipe,
    Kind.DISTILL: DistillRecipe,
}


@app.command()
def schema(kind: Annotated[Kind, typer.Argument(help="Which file.")]) -> None:
    """Print the JSON Schema of a profile, a fleet file or a recipe, for editors.

    With the YAML language server: `slmops schema fleet > fleet.schema.json`, and as the file's first line
    `# yaml-language-server: $schema=fleet.schema.json`.
    """
    schema = MODELS[kind].model_json_schema()
    emit({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
