"""slmops device: one device at a time; how it is kept in order is `device_care`."""

from contextlib import closing
from typing import Annotated, Any

import typer

from slmops.cli import device_care, device_keys, home
from slmops.cli.auditing import audited
from slmops.cli.device_choice import FleetOption, Host, targets
from slmops.cli.options import ask_first, verb
from slmops.cli.render import Form, Output, emit, out, say, size, table
from slmops.errors import UsageError
from slmops.fleet import agent, known_hosts
from slmops.fleet.agent import Session
from slmops.fleet.inventory import Device
from slmops.fleet.load import load_fleet
from slmops.fleet.ssh import Link, shown_key
from slmops.profile.device import DeviceProfile
from slmops.profile.load import load_profiles
from slmops.profile.match import nearest
from slmops.profile.reading import DeviceFacts, facts_from
from slmops.rollout.history import History
from slmops.wire import DISK_RESERVE

app = verb(
    "One device: trust, bootstrap, probe, check, clean, read its logs, remove slmops from it.", group=True
)


@app.command()
@audited("device trust")
def trust(
    host: Host = "",
    fleet: FleetOption = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask; the fingerprints are still shown.")
    ] = False,
) -> None:
    """Show a host's key fingerprint and, when you agree, trust it from now on.

    With --fleet and no HOST: every device of the fleet.
    """
    shown = [(device, shown_key(device, home.known_hosts())) for device in targets(host, fleet)]
    names = [known_hosts.name_of(device.host, device.port) for device, _ in shown]
    for name, (device, key) in zip(names, shown, strict=True):
        known_hosts.refuse_other(known_hosts.files(device.known_hosts, home.known_hosts()), name, key)
    marks = [
        (name, key.get_name(), known_hosts.fingerprint(key))
        for name, (_, key) in zip(names, shown, strict=True)
    ]
    table(("host", "key", "fingerprint"), marks)
    if not yes:
        ask_first("Are these the devices' own fingerprints?")
    file = home.folder() / "known_hosts"
    for name, (_, key) in zip(names, shown, strict=True):
        known_hosts.trust(file, name, key)
    say(f"Trusted {len(names)} host key{'s' if len(names) > 1 else ''} in {file}.")


@app.command()
@audited("device bootstrap")
def bootstrap(host: Host, fleet: FleetOption = None, output: Output = Form.TABLE) -> None:
    """Bring the agent to a device, enrol it and start its supervisor; say what it is and what it lacks.

    `slmops deploy` does all of this by itself; this is to see first what a device is.
    """
    device = targets(host, fleet)[0]
    # Keys are made on first use: a device is told whose releases to accept.
    home.release_key()
    with Link(device, home.known_hosts()) as link, Session(link) as session:
        said = session.call("probe")
        session.call("enroll", {"trust": home.mandate().said(), **device.told})
        said["service"] = session.call("start")
    _print(_judged(device, said), output)


@app.command()
def probe(host: Host, fleet: FleetOption = None, output: Output = Form.TABLE) -> None:
    """Say what a device with an agent is: machine, Python, disk, clock, and who starts it after a boot."""
    device = targets(host, fleet)[0]
    with Link(device, home.known_hosts()) as link:
        said = agent.call(link, "probe")
    _print(_judged(device, said), output)


@app.command()
def logs(
    host: Host,
    fleet: FleetOption = None,
    of: Annotated[str, typer.Option(help="daemon, supervisor, or agent: what it decided.")] = "daemon",
    lines: Annotated[int, typer.Option(help="How many lines.", min=1)] = 50,
) -> None:
    """Print the last lines of what a device's daemon, supervisor or agent wrote down."""
    device = targets(host, fleet)[0]
    with Link(device, home.known_hosts()) as link:
        found = agent.call(link, "logs", {"of": of, "lines": lines})["lines"]
    for line in found:
        out.print(line, markup=False, soft_wrap=True)
    if not found:
        say(f"The {of} of {device.name} has written nothing yet.")


app.command()(device_care.fsck)
app.command()(device_care.gc)
app.command()(device_care.forgive)
app.command()(device_keys.keys)


@app.command()
@audited("device uninstall")
def uninstall(
    host: Host,
    fleet: FleetOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop the daemon and remove all that slmops ever put on the device."""
    if not host:
        raise UsageError("which device? Each is named by itself")
    device = targets(host, fleet)[0]
    if not yes:
        ask_first(f"Remove slmops, its releases and its records from {device.name}?")
    # By an agent of ours: what is there may be older than what we speak, or half of one.
    with Link(device, home.known_hosts()) as link, Session(link) as session:
        session.call("retire")
    if fleet is not None:
        # Set up anew it has another key to attest with.
        with closing(History(home.history())) as history:
            history.keep_device_key(load_fleet(fleet)[0].name, device.name, None)
    say(f"{device.name} is as it was before slmops.")


app.command("retire", help="The same as uninstall.")(uninstall)


def _judged(device: Device, said: dict[str, Any]) -> dict[str, Any]:
    """Return what a device said to `probe`, and which profile it is and what it lacks."""
    like = nearest(facts_from(said["facts"]), load_profiles(home.profiles()))
    return {"device": device.name, "profile": like and like.name, **said, "missing": missing(said, like)}


def missing(said: dict[str, Any], like: DeviceProfile | None) -> list[str]:
    """Return in words what a device lacks, of what it said to `probe`."""
    disk, service = said["disk"], said["service"]
    found = {
        "no profile matches: slmops profile detect": like is None,
        f"disk: {size(disk['free'])} free, {size(DISK_RESERVE)} stay free": disk["free"] < DISK_RESERVE,
        "inodes: fewer than 1000 free": disk["inodes_free"] is not None and disk["inodes_free"] < FEW_INODES,
        "the disk is read-only": disk["read_only"] or not disk["writable"],
        "nothing starts the supervisor after a boot: no systemd, no cron": service["after_boot"] is None
        and not service["cron"] and not service["systemd"],
        "the user does not linger: loginctl enable-linger, as root": service["systemd"] == "user"
        and not service["linger"],
        "its clock is not set by a time server": said["clock"]["synchronised"] is False,
    }  # fmt: skip
    lacking = [name for name, there in said["python"]["modules"].items() if not there]
    return [text for text, holds in found.items() if holds] + [f"Python's module {name}" for name in lacking]


FEW_INODES = 1000


def _print(said: dict[str, Any], output: Form) -> None:
    if output is Form.JSON:
        emit(said)
        return
    facts: DeviceFacts = facts_from(said["facts"])
    disk, python, service = said["disk"], said["python"], said["service"]
    rows = [
        ("device", said["device"]),
        ("profile", said["profile"]),
        ("machine", f"{facts.board or facts.cpu_model or 'unknown'}, {facts.arch}, {facts.cores} cores"),
        ("memory", size(facts.memory_total or 0)),
        ("system", ", ".join(text for text in (facts.os, facts.libc) if text)),
        ("python", f"{python['version']} ({python['executable']})"),
        ("disk", f"{size(disk['free'])} free, {disk['inodes_free'] or 'any number of'} inodes"),
        ("after a boot", service["after_boot"] or "nothing starts it"),
        ("agent", said["agent"]),
        *(("to mend", text) for text in said["missing"]),
    ]
    table(("", "is"), rows)
