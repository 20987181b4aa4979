"""Hosts, groups and labels: the fleet file, and the devices it comes to.

A setting is looked for on the device, then on its groups in the order it names them, then in
`defaults`. Laws: device names are unique; no two devices share a host, port and root; a range
yields as many names as hosts.
"""

import re
import zoneinfo
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from slmops.errors import UsageError
from slmops.fault import fault
from slmops.fleet import address, selector
from slmops.fleet.strategy import PROFILE, SITE, Canary, Step, Strategy
from slmops.profile.device import Rate, Size

_RANGE = re.compile(r"\[(\d+):(\d+)\]")
MOST = 100_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Word = Annotated[str, Field(min_length=1)]
AUTO = "auto"
_BUNDLE = re.compile(r"[a-z0-9][a-z0-9._-]*:[A-Za-z0-9][A-Za-z0-9._+-]*")
ROOT = r"^(~/|[^~]).*[^/]$"
"""A directory of the agent's own: neither a home nor the top of the disk."""
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
Origin = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://[^/\s*]+$")]
"""Of a web page, as the daemon takes it; one that it did not would end it at its start."""


class Daemon(BaseModel):
    """How the inference daemon of a device is run; what nobody says is as the daemon has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slots: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="Requests that are computed together at most. Default: 8."
    )
    pool: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Tokens that all requests together have room for. Default: the context of the model, "
        "which is the memory that its profile counts with.",
    )
    seats: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Requests that may wait; one more is told 429. Default: 64."
    )
    max_pause: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Seconds that requests wait where two versions do not fit into memory, and one is loaded "
        "after the other has gone; then they are told 503. Default: 30.",
    )
    cache: Annotated[Size, Field(gt=0)] | None = Field(
        None,
        description="Memory for answers that are given again to the same question, as 16MiB. Default: none.",
    )
    capture: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Share of requests whose text is kept on the device, redacted. Default: none."
    )
    host: Annotated[str, Field(pattern=r"^[^-\s]\S*$")] | None = Field(
        None,
        description="Address that the daemon answers at. Any but a loopback address demands keys. "
        "Default: 127.0.0.1.",
    )
    cors: list[Origin] | None = Field(
        None, description="Origins of web pages that may ask it, as https://app.example. Default: none."
    )
    memory_limit: Annotated[Size, Field(gt=0)] | None = Field(
        None, description="Memory that all its versions together may take, as 2GiB. Default: what is free."
    )


IN_BYTES = ("cache", "memory_limit")
"""Those of them that are sizes: numbers of bytes for the daemon, as 2GiB for people."""


class Settings(BaseModel):
    """What may be said for the whole fleet, for a group, or for one device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str | None = Field(None, description="Device profile: `slmops profile list`.")
    user: str | None = Field(None, description="SSH user. Default: yours.")
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(None, description="SSH port. Default: 22.")
    identity: str | None = Field(
        None,
        description="Private key file, relative to the fleet file. Default: your agent's keys and ~/.ssh.",
    )
    known_hosts: str | None = Field(
        None,
        description="One more known_hosts file, relative to the fleet file.",
    )
    jump: str | None = Field(None, description="Host to go through, as [user@]host[:port].")
    root: Annotated[str, Field(pattern=ROOT)] | None = Field(
        None, description="The agent's directory on the device. Default: ~/.slmops."
    )
    runtime: Word | Annotated[list[Word], Field(min_length=1)] | None = Field(
        None,
        description="What the daemon runs from: NAME:VERSION of a runtime bundle; auto, the newest bundle in "
        "the registry for the device, else its python3; or a Python on the device that has slmops[daemon]. "
        "Default: auto.",
    )
    daemon_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        None, description="Loopback port of the inference daemon; 0 takes any free one. Default: 11435."
    )
    daemon: Daemon | None = Field(
        None,
        description="How the inference daemon is run; each part of it is looked for by itself. A deploy "
        "puts a change to the proof, of the release that is served already too.",
    )
    service: Literal["auto", "systemd", "process"] | None = Field(
        None, description="Who keeps the agent running. Default: auto, systemd where there is one."
    )
    connect_timeout: float | None = Field(None, gt=0, description="Seconds to connect. Default: 10.")
    bandwidth: Annotated[Rate, Field(gt=0)] | None = Field(
        None, description="Most that is sent to one device, as 2MB/s. Default: what the link bears."
    )
    timezone: str | None = Field(
        None,
        description="Where its clocks are, as Europe/Berlin: what rollout windows go by. Default: UTC.",
    )

    @field_validator("timezone")
    @classmethod
    def _timezone_is_known(cls, said: str | None) -> str | None:
        try:
            if said not in (None, "UTC"):
                zoneinfo.ZoneInfo(said)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(_no_zone(said or "")) from error
        return said

    @field_validator("jump")
    @classmethod
    def _jump_is_an_address(cls, said: str | None) -> str | None:
        try:
            if said is not None:
                address.parse(said)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return said


class Group(Settings):
    """Settings and labels that several devices share."""

    labels: dict[Label, str] = Field(default_factory=dict, description="Labels for selectors: site: berlin.")


class Entry(Settings):
    """One device, or a range of them: `name: edge-[01:40]` with `host: 10.0.0.[11:50]`."""

    name: str = Field(description="Unique name, or a range such as edge-[01:40].")
    host: str = Field(min_length=1, description="Address or name, or a range of the same length.")
    groups: list[Name] = Field(default_factory=list, description="Groups it belongs to; earlier ones win.")
    labels: dict[Label, str] = Field(default_factory=dict, description="Labels of its own.")


class Fleet(BaseModel):
    """A fleet file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = Field(description="What this fleet is called.")
    defaults: Settings = Field(default_factory=Settings, description="Settings for every device.")
    groups: dict[Name, Group] = Field(default_factory=dict, description="Named groups.")
    devices: list[Entry] = Field(min_length=1, description="The devices.")
    rollout: Strategy = Field(default_factory=Strategy, description="How a rollout goes through this fleet.")

    @model_validator(mode="after")
    def _devices_are_distinct(self) -> Self:
        names: dict[str, int] = {}
        places: dict[tuple[str | None, str, int, str], str] = {}
        for index, entry in enumerate(self.devices):
            strange = [group for group in entry.groups if group not in self.groups]
            if strange:
                raise fault(f"there is no group {strange[0]!r}", "devices", index, "groups")
            for device in self._expand(index, entry):
                place = (device.jump, device.host, device.port, device.root)
                if not _NAME.fullmatch(device.name):
                    raise fault("expected letters, digits, '.', '_' and '-'", "devices", index, "name")
                if device.name in names:
                    raise fault(f"the name {device.name!r} stands here twice", "devices", index, "name")
                if place in places:
                    raise fault(f"the same host and port as {places[place]!r}", "devices", index, "host")
                names[device.name], places[place] = index, device.name
        return self

    @model_validator(mode="after")
    def _waves_pick_somebody(self) -> Self:
        chosen = [
            (index, wave.select)
            for index, wave in enumerate(self.rollout.waves)
            if isinstance(wave, Step) and wave.select is not None
        ]
        devices = self.resolved() if chosen else []
        for index, phrase in chosen:
            try:
                selector.select(devices, phrase)
            except UsageError as error:
                raise fault(str(error), "rollout", "waves", index, "select") from error
        return self

    @model_validator(mode="after")
    def _a_strategy_names_labels_that_are_there(self) -> Self:
        canary = self.rollout.canary
        said = [(key, ("canary", "each")) for key in (canary.each if isinstance(canary, Canary) else ())]
        said += [(self.rollout.max_unavailable.by, ("max_unavailable", "by"))]
        # A file that names none goes by these two.
        strange = [(key, at) for key, at in said if key not in (PROFILE, SITE)]
        there = {key for device in self.resolved() for key in device.labels} if strange else set()
        for key, at in strange:
            if key not in there:
                near = get_close_matches(key, there, n=1, cutoff=0.6)
                meant = f"; did you mean {near[0]!r}?" if near else ""
                raise fault(f"no device has a label {key!r}{meant}", "rollout", *at)
        return self

    def resolved(self) -> list["Device"]:
        """Return every device with all its settings."""
        return [device for index, entry in enumerate(self.devices) for device in self._expand(index, entry)]

    def _expand(self, index: int, entry: Entry) -> list["Device"]:
        names, hosts = expand(entry.name), expand(entry.host)
        if not names or not hosts:
            key = "host" if names else "name"
            raise fault(f"a range runs upwards and names {MOST} devices at most", "devices", index, key)
        if len(names) != len(hosts):
            raise fault(f"{len(names)} names but {len(hosts)} hosts", "devices", index, "host")
        groups = [self.groups[name] for name in entry.groups if name in self.groups]
        levels: tuple[Settings, ...] = (entry, *groups, self.defaults)
        found = {key: _first(getattr(each, key) for each in levels) for key in Settings.model_fields}
        flags = [each.daemon for each in levels if each.daemon is not None]
        found["daemon"] = {
            key: value
            for key in Daemon.model_fields
            if (value := _first(getattr(each, key) for each in flags)) is not None
        }
        labels = {
            key: value for group in reversed(groups) for key, value in group.labels.items()
        } | entry.labels
        said = {key: value for key, value in found.items() if value is not None}
        runtime = said.pop("runtime", AUTO)
        said["runtime"] = (runtime,) if isinstance(runtime, str) else tuple(runtime)
        return [
            Device(name=name, host=host, labels=labels, groups=tuple(entry.groups), **said)
            for name, host in zip(names, hosts, strict=True)
        ]


def _first(values: Iterable[Any]) -> Any:
    """Return the first that was said, or None."""
    return next((value for value in values if value is not None), None)


@dataclass(frozen=True)
class Device:
    """One device, all its settings resolved."""

    name: str
    host: str
    labels: dict[str, str] = field(default_factory=dict, hash=False)
    groups: tuple[str, ...] = ()
    profile: str | None = None
    user: str | None = None
    port: int = 22
    identity: str | None = None
    known_hosts: str | None = None
    jump: str | None = None
    root: str = "~/.slmops"
    runtime: tuple[str, ...] = (AUTO,)
    daemon_port: int = 11435
    daemon: dict[str, Any] = field(default_factory=dict, hash=False)
    """Flags of the daemon that were said, by name; sizes in bytes."""
    service: str = "auto"
    connect_timeout: float = 10.0
    bandwidth: int | None = None
    """Bytes per second."""
    timezone: str = "UTC"
    """Where its clocks are, by an IANA name."""

    @property
    def bundle(self) -> str | None:
        """Return which runtime bundle it is to have: auto, NAME:VERSION, or None for a Python of its own."""
        word = self.runtime[0]
        named = len(self.runtime) == 1 and (word == AUTO or _BUNDLE.fullmatch(word))
        return word if named else None

    @property
    def python(self) -> tuple[str, ...]:
        """Return the words that start the device's own Python, for where no bundle is."""
        return ("python3",) if self.bundle else self.runtime

    @property
    def told(self) -> dict[str, Any]:
        """Return what the device is told of itself when it is enrolled."""
        return {
            "device": self.name,
            "profile": self.profile,
            "runtime": list(self.python),
            "port": self.daemon_port,
            "daemon": self.daemon,
            "service": self.service,
        }


def _no_zone(said: str) -> str:
    known = zoneinfo.available_timezones()
    if not known:
        return "this machine has no time zone data; install the system's tzdata, or `pip install tzdata`"
    near = get_close_matches(said, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "expected an IANA name such as Europe/Berlin or UTC"
    return f"there is no time zone {said!r}; {hint}"


def expand(text: str) -> list[str]:
    """Return what a range stands for: `a-[08:10]` is a-08, a-09, a-10; text without one is itself.

    Nothing comes of a range that runs backwards or has more than MOST members.
    """
    found = _RANGE.search(text)
    if found is None:
        return [text]
    first, last = int(found[1]), int(found[2])
    if last - first >= MOST:
        return []
    width = len(found[1]) if found[1].startswith("0") else 0
    head, tail = text[: found.start()], text[found.end() :]
    return [
        head + str(number).zfill(width) + rest for number in range(first, last + 1) for rest in expand(tail)
    ]
