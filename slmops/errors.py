"""Every failure a person can meet, and what to do next.

Grouped by who must act. Each error carries a stable code (`slmops explain CODE`), the exit
code of the command that met it, and a remedy: the next thing to run or to change.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

from typing import ClassVar


def install_line(extra: str) -> str:
    """Return the line that installs an extra, to be run in the checkout of slmops."""
    return f"pip install -e '.[{extra}]'"


class SlmopsError(Exception):
    """Something failed that none of the other codes names; the message says what."""

    code: ClassVar[str] = "SLM-FAILURE"
    exit_code: ClassVar[int] = 1
    remedy: str = ""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        """Say what was wrong and what was expected; `remedy` overrides the class's own."""
        super().__init__(message)
        if remedy is not None:
            self.remedy = remedy


class UsageError(SlmopsError):
    """The command was asked for something it does not offer."""

    code = "SLM-USAGE"
    exit_code = 2
    remedy = "Run the command with --help."


class DocumentError(SlmopsError):
    """A YAML or JSON file says something that its schema does not allow."""

    code = "SLM-DOCUMENT"
    exit_code = 2
    remedy = "Print the schema with `slmops schema` and what it is: fleet, profile, recipe or distill."


class MissingPartError(SlmopsError):
    """A package or program that this command needs is not installed."""

    code = "SLM-MISSING"
    remedy = "Run `slmops doctor`."


class ModelError(SlmopsError):
    """The model given cannot be read as what it claims to be."""

    code = "SLM-MODEL"
    remedy = (
        "Check the folder or file; a Hugging Face folder has config.json, safetensors and tokenizer.json."
    )


class BuildError(SlmopsError):
    """An artifact could not be built, or was built and is not what it must be."""

    code = "SLM-BUILD"
    remedy = "Try another --type, or --format; F16 and F32 lose nothing."


class TrainingError(SlmopsError):
    """A training cannot begin or go on: its loss is no number, or it is not the run that was begun."""

    code = "SLM-TRAINING"
    remedy = "Begin anew with --fresh, give another --out, or a lower --rate; what it says tells which."


class QualityError(SlmopsError):
    """What was built for a device does not come close enough to its source."""

    code = "SLM-QUALITY"
    remedy = "Ask for less quality, or give the device a smaller type or a model that is smaller by itself."


class DoesNotFitError(SlmopsError):
    """The device cannot bear what was asked of it; nothing was sent."""

    code = "SLM-FIT"
    remedy = (
        "Correct the `profile` of the device (slmops profile detect HOST), or build a smaller type for it."
    )


class ReleaseError(SlmopsError):
    """A release is missing, or its name and version say something else."""

    code = "SLM-RELEASE"
    remedy = "Run `slmops release list`."


class RegistryError(SlmopsError):
    """Another registry was reached and could not, or would not, do what it was asked."""

    code = "SLM-REGISTRY"
    remedy = "What it said tells why; the same command again goes on where this one ended."


class IntegrityError(SlmopsError):
    """A digest or a signature does not hold."""

    code = "SLM-INTEGRITY"
    exit_code = 7
    remedy = "Run `slmops release verify N:V`; build the release again if its files have rotted."


class UnreachableError(SlmopsError):
    """A device or an endpoint could not be reached, or the link broke."""

    code = "SLM-UNREACHABLE"
    exit_code = 6
    remedy = "Try the same host with ssh; check host, port, user, identity and jump in the fleet file."


class HostKeyError(UnreachableError):
    """A device showed a host key that is unknown, or not the one that is trusted."""

    code = "SLM-HOSTKEY"
    remedy = "Compare fingerprints, then run `slmops device trust --fleet FLEET.yaml`."


class DeviceError(SlmopsError):
    """The device was reached and could not do what it was asked."""

    code = "SLM-DEVICE"
    remedy = "Read its log (slmops device logs), then deploy again."


class LockedError(DeviceError):
    """Another operator's rollout has the device, or the fleet, now."""

    code = "SLM-LOCKED"
    exit_code = 8
    remedy = (
        "Wait, or see who it is: `slmops lock status FLEET.yaml`; "
        "`slmops lock break FLEET.yaml --reason WHY` takes it away."
    )


class FencedError(LockedError):
    """A newer rollout has been to this device: what an older one still says is not heard."""

    code = "SLM-FENCED"
    remedy = "See `slmops rollout list`; deploy again if yours is to win."


class DeferredError(DeviceError):
    """An application on the device holds its update lock: not now."""

    code = "SLM-DEFERRED"
    remedy = "It is tried again until the wave ends; --override-lock does not wait for the application."


class QuarantinedError(DeviceError):
    """An artifact has failed on this device too often: it is not tried again for some time."""

    code = "SLM-QUARANTINED"
    remedy = "Publish a better release, or let it try again: `slmops device forgive --fleet FLEET.yaml`."


class ProtocolError(DeviceError):
    """The agent on a device and this installation share no protocol."""

    code = "SLM-PROTOCOL"
    remedy = "Update slmops on the side that speaks the older protocol; `slmops deploy` updates an agent."


class PartialError(SlmopsError):
    """Some devices have what was asked and some do not."""

    code = "SLM-PARTIAL"
    exit_code = 4
    remedy = "Run the same command again for the rest."
