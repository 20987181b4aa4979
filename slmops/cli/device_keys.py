"""slmops device keys: who may ask a device's daemon."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from slmops.cli import home
from slmops.cli.auditing import note, recorded
from slmops.cli.device_choice import FleetOption, Host, targets
from slmops.cli.render import Form, Output, emit, out, say, table
from slmops.errors import UsageError
from slmops.fleet import agent, duration
from slmops.fleet.ssh import Link
from slmops.keys import IN_FORCE


class Action(StrEnum):
    """What is done with keys."""

    LIST = "list"
    CREATE = "create"
    REVOKE = "revoke"


class Role(StrEnum):
    """What a key opens; the same as `slmops.keys.ROLES`."""

    INFER = "infer"
    METRICS = "metrics"
    OPERATOR = "operator"
    ADMIN = "admin"


def keys(
    host: Host,
    action: Annotated[Action, typer.Argument(help="What to do.")] = Action.LIST,
    fleet: FleetOption = None,
    name: Annotated[
        str, typer.Option("--name", help="Whose key it is; to revoke one, its id does as well.")
    ] = "",
    role: Annotated[Role, typer.Option("--role", help="What it opens.")] = Role.INFER,
    expires: Annotated[
        str, typer.Option("--expires", metavar="SPAN", help="Opens nothing after this long: 12h, 90d.")
    ] = "",
    output: Output = Form.TABLE,
) -> None:
    """Say who may ask a device's daemon: list its keys, create one, revoke one.

    A device without keys answers processes on itself, and no other machine. From the first key on it answers
    nobody without one, itself included. A key is shown once, when it is made: the device keeps only a hash.

    Roles: infer asks the model; metrics reads /metrics; operator does both, sees versions and goes back;
    admin does everything.
    """
    device = targets(host, fleet)[0]
    if action is Action.LIST:
        said = _asked(device, {"action": action.value})
    else:
        if not name:
            raise UsageError("whose key? Give --name")
        asked = {"action": action.value, "name": name, "role": role.value, "key": name}
        with recorded("device keys"):
            note(device=device.name, **{key: asked[key] for key in ("action", "name", "role")})
            said = _asked(device, {**asked, "lasts": _span(expires)})
    if output is Form.JSON:
        emit({"device": device.name, **said})
        return
    if "key" in said:
        say(f"The key of {name} for {device.name}, shown this once:")
        out.print(said["key"], markup=False, highlight=False, soft_wrap=True)
        return
    if not said["keys"]:
        say(f"{device.name} has no keys: it answers itself, and nobody else.")
        return
    rows = [(*(row[column] for column in COLUMNS), *map(_day, (row["created"], row["expires"])))
            for row in said["keys"]]  # fmt: skip
    table((*COLUMNS, "made", "expires"), rows)
    if not any(row["state"] == IN_FORCE for row in said["keys"]):
        say(f"No key is in force: {device.name} lets nobody in but its agent until one is created.")


COLUMNS = ("name", "role", "state", "id")


def _asked(device: Any, said: dict[str, Any]) -> dict[str, Any]:
    with Link(device, home.known_hosts()) as link:
        return agent.call(link, "keys", said)


def _span(text: str) -> float | None:
    if not text:
        return None
    try:
        return float(str(duration.seconds(text)))
    except ValueError as error:
        raise UsageError(f"--expires {text}: {error}") from error


def _day(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%MZ")
