"""slmops status: which device runs what."""

import time
from pathlib import Path
from typing import Any

import typer

from slmops import digest as digests
from slmops.cli import home
from slmops.cli.options import FleetFile, Selector, verb
from slmops.cli.render import Form, Output, ago, counter, emit, table
from slmops.errors import SlmopsError, UnreachableError
from slmops.fleet import ask_all as asking
from slmops.fleet import glance
from slmops.fleet.agent import NoAgentError
from slmops.fleet.ask_all import AT_ONCE
from slmops.fleet.inventory import Device
from slmops.fleet.load import load_fleet
from slmops.fleet.selector import select
from slmops.fleet.ssh import Link
from slmops.registry import served
from slmops.rollout.check import kept_slots

SKETCHES = ("seconds", "first_token")
"""What telemetry holds of whole distributions: hundreds of lines, of which `p95_seconds` is told."""
RELEASE, RUN_BEFORE = "release", "run before"
"""Where a rollback leads."""
app = verb("Which device runs which release, healthy or not, since when.")


@app.command()
def status(fleet: FleetFile, selector: Selector = "", output: Output = Form.TABLE) -> None:
    """Show which device runs which release and digest, healthy or not, since when.

    Exit codes: 0 all told where they stand, 1 some could not, 6 some were not reached.
    """
    whole, devices = load_fleet(fleet)
    began = time.time()
    rows = ask_all(select(devices, selector), max(whole.rollout.max_parallel, AT_ONCE))
    told = {f"{whole.name}/{row['device']}": row["kept"] for row in rows if "kept" in row}
    # What a rollout brought while devices were asked, some of them have said nothing of.
    served.record(home.served(), began, told)
    if output is Form.JSON:
        emit({"fleet": whole.name, "devices": rows})
    else:
        columns = (
            "device",
            "profile",
            "release",
            "type",
            "digest",
            "health",
            "since",
            "requests",
            "p95 s",
            "tok/s",
            "remark",
        )
        table(columns, [_shown(row) for row in rows])
    healths = {row["health"] for row in rows}
    if "unreachable" in healths:
        raise typer.Exit(UnreachableError.exit_code)
    if "unknown" in healths:
        raise typer.Exit(SlmopsError.exit_code)


def ask_all(devices: list[Device], parallel: int, *, exact: bool = False) -> list[dict[str, Any]]:
    """Ask every device where it stands, `parallel` at a time; one row each, in fleet order.

    With `exact` what a device has served counts up to this moment, not to some seconds ago.
    """
    with counter("asking devices") as bar:
        task = bar.add_task("", total=len(devices))
        return asking.ask_all(
            devices,
            lambda device: _ask(device, home.known_hosts(), exact=exact),
            parallel,
            lambda row: bar.advance(task),
        )


def _ask(device: Device, trusted: tuple[Path, ...], *, exact: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"device": device.name, "profile": device.profile}
    try:
        with Link(device, trusted) as link:
            said = glance.status(link, exact=exact)
    except NoAgentError:
        return {**row, "health": "no release", "remark": "nothing of slmops is here"}
    except UnreachableError as error:
        return {**row, "health": "unreachable", "remark": str(error)}
    except SlmopsError as error:
        return {**row, "health": "unknown", "remark": str(error)}
    standing, release = said["standing"], said["release"] or {}
    health = "healthy" if said["healthy"] else "unhealthy"
    if release.get("damage"):
        health = "damaged"
    if standing["trial"] is not None:
        health = "on trial"
    return {
        **row,
        "release": release.get("reference"),
        "previous": (said["previous"] or {}).get("reference"),
        "way_back": way_back(said),
        "type": _type(release),
        "digest": release.get("digest"),
        "health": health if standing["slot"] else "no release",
        "since": standing["since"] or None,
        "port": said["port"],
        "telemetry": {key: value for key, value in said["telemetry"].items() if key not in SKETCHES},
        "p95_seconds": said.get("p95_seconds"),
        "memory": said.get("memory"),
        "memory_predicted": release.get("memory_bytes"),
        "model": {key: release.get(key) for key in ("model_bytes", "context", "predicted")},
        "capture": said.get("capture"),
        "lease": said.get("lease"),
        "quarantined": said.get("quarantined"),
        "remark": _damage(release.get("damage")) or _remark(health, standing) or _apart(said),
        "failure": standing.get("failure"),
        "kept": [f"sha256:{slot}" for slot in kept_slots(standing)],
    }


def way_back(said: dict[str, Any]) -> str | None:
    """Return where a rollback leads by what a device said; None where it leads nowhere.

    To the RELEASE before, or to this very one as it was RUN_BEFORE its daemon's settings changed. Who was
    taken back and brought nothing since, whoever did either, goes no further.
    """
    if (said["standing"].get("moved") or {}).get("kind") == "rolled_back":
        return None
    if said["standing"].get("earlier") and not (said["release"] or {}).get("damage"):
        return RUN_BEFORE
    return RELEASE if (said["previous"] or {}).get("reference") else None


def _type(release: dict[str, Any]) -> str | None:
    return f"{release['format']} {release['type']}" if release.get("format") else None


def _damage(said: str | None) -> str:
    return f"{said}: slmops deploy sends the rotten files again" if said else ""


def _remark(health: str, standing: dict[str, Any]) -> str:
    if health == "on trial":
        return "goes back by itself unless it is confirmed: deploy again"
    if health == "unhealthy" and standing["slot"]:
        return "the daemon does not answer: slmops device logs, then deploy again"
    return _failure(standing.get("failure"))


def _apart(said: dict[str, Any]) -> str:
    """Say what keeps rollouts from a device that is otherwise well."""
    lease = (said.get("lease") or {}).get("lease")
    if lease:
        return f"{lease['holder']} has it now: slmops lock status FLEET.yaml"
    if (said.get("lease") or {}).get("update_lock"):
        return "an application holds its update lock"
    if not said.get("supervised", True):
        return "nobody would start its daemon again: slmops deploy"
    if said.get("quarantined"):
        return f"{len(said['quarantined'])} artifacts in quarantine: slmops device forgive --fleet FLEET.yaml"
    if said.get("capture"):
        return f"keeps the words of {said['capture']:.2%} of requests, redacted"
    return ""


def _failure(failure: dict[str, Any] | None) -> str:
    return f"went back: {failure['message']}" if failure and failure.get("message") else ""


def _shown(row: dict[str, Any]) -> list[Any]:
    telemetry = row.get("telemetry") or {}
    return [
        row["device"], row["profile"], row.get("release"), row.get("type"),
        digests.short(row["digest"]) if row.get("digest") else None, row["health"],
        ago(time.time() - row["since"]) if row.get("since") else None,
        telemetry.get("requests"), _seconds(row.get("p95_seconds")), _rate(telemetry), row.get("remark"),
    ]  # fmt: skip


def _seconds(value: float | None) -> str | None:
    return f"{value:.2g}" if value is not None else None


def _rate(telemetry: dict[str, Any]) -> str | None:
    seconds = telemetry.get("later_seconds")
    return f"{telemetry['later_tokens'] / seconds:.0f}" if seconds else None
