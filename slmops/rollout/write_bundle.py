"""Write an unattended bundle: a folder from which a device with no link installs a release by itself.

    agent.pyz       the agent, which installs
    bundle.json     what is in it: trust documents, releases, assignments, what new devices are told
    model/          index.json, signature, manifest.json, files/; runtime/ the same
    README.txt      for the person at the device

Nothing in it is secret, and nothing is believed that a signature does not cover; but a device that was never
enrolled takes the trust documents of the first bundle it meets, as it would take those of the first operator.
Law: `bundle.json` is written last, and everything else before it is on the disk.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.errors import UsageError
from slmops.fleet.agent_bundle import bundle as agent_bundle
from slmops.fleet.inventory import Device
from slmops.fleet.strategy import Strategy
from slmops.rollout.mandate import Mandate, assign
from slmops.rollout.order import ModelParcel, Parcel, RuntimeParcel

FILE_NAME = "bundle.json"
README = """\
{reference} for {profile}, to be installed without a network.

On the device, as the user who is to run it, with this folder as the working directory:

    python3 agent.pyz ~/.slmops install .{name}

It checks every signature and every byte, installs the release, puts it on trial and asks its golden
prompts. When they are answered as they must be, it stays; otherwise the device goes back to what it served
before. It says which. To be cut off does no harm: run it again.

Afterwards, with ~/.slmops/agent.pyz in place of this folder's:

    python3 ~/.slmops/agent.pyz ~/.slmops status      what serves, on which port of 127.0.0.1, and what
                                                      starts it after a boot (systemd, or your crontab)
    python3 ~/.slmops/agent.pyz ~/.slmops logs        what its daemon wrote down
    python3 ~/.slmops/agent.pyz ~/.slmops fsck        whether every byte is as it was
    python3 ~/.slmops/agent.pyz ~/.slmops retire --yes    stop it, and remove all of it

To ask it (the API of OpenAI; PORT is in ~/.slmops/run/port too):

    curl http://127.0.0.1:PORT/v1/completions -H 'Content-Type: application/json' -d '{{"prompt": "Hello"}}'

{names}It needs Python 3.9 or newer and ssh-keygen.
"""


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle."""

    model: ModelParcel
    runtime: RuntimeParcel | None
    mandate: Mandate
    devices: Sequence[Device]
    """Whom it is for: what each is told when it was never enrolled."""
    strategy: Strategy
    valid: int
    """Seconds that its assignments are good for."""


def write(folder: Path, contents: Contents) -> int:
    """Fill an empty or new folder, or one that was a bundle before; return its bytes."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FILE_NAME).is_file():
        raise UsageError(f"{folder} is not empty, and is no bundle", remedy="Name an empty folder.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).unlink(missing_ok=True)
    (folder / "agent.pyz").write_bytes(agent_bundle().data)
    parcels: dict[str, Parcel] = {"model": contents.model}
    if contents.runtime is not None:
        parcels["runtime"] = contents.runtime
    for name in ("model", "runtime"):
        if (folder / name).exists():
            shutil.rmtree(folder / name)
    for name, parcel in parcels.items():
        _lay_out(folder / name, parcel)
    said = _said(contents, parcels)
    (folder / "README.txt").write_text(_readme(contents, said), encoding="utf-8")
    # A stick is pulled out as soon as the command ends.
    os.sync()
    (folder / FILE_NAME).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    os.sync()
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _lay_out(folder: Path, parcel: Parcel) -> None:
    """Write a release as a slot has it."""
    (folder / "files").mkdir(parents=True)
    (folder / "index.json").write_bytes(parcel.signed.index)
    (folder / "signature").write_bytes(b"".join(parcel.signed.signatures))
    (folder / "manifest.json").write_bytes(parcel.manifest)
    for name, path in parcel.files.items():
        shutil.copyfile(path, folder / "files" / name)


def _said(contents: Contents, parcels: dict[str, Parcel]) -> dict[str, Any]:
    strategy = contents.strategy
    return {
        "release": contents.model.signed.release.reference,
        "trust": contents.mandate.said(),
        "parts": {name: {"slot": parcel.slot, "key": parcel.key} for name, parcel in parcels.items()},
        "devices": {
            device.name: {
                "told": device.told,
                "assignments": {
                    name: assign(
                        contents.mandate,
                        device.name,
                        parcel.signed.blob.digest,
                        parcel.slot,
                        {},
                        valid=contents.valid,
                    )
                    for name, parcel in parcels.items()
                },
            }
            for device in contents.devices
        },
        "times": {
            "ready_seconds": strategy.ready_timeout,
            "gate_seconds": strategy.gate_timeout,
            "confirm_seconds": strategy.confirm_timeout,
        },
    }


def _readme(contents: Contents, said: dict[str, Any]) -> str:
    name = " NAME" if len(said["devices"]) > 1 else ""
    names = (
        f"NAME is one of: {', '.join(said['devices'])}. A device that was installed before knows its own.\n"
    )
    return README.format(
        reference=said["release"],
        profile=contents.model.key,
        name=name,
        names=names if name else "",
    )
