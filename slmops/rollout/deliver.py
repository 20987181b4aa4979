"""Deliver to one device what it lacks of a release, and of the runtime bundle that it runs from."""

from dataclasses import dataclass
from typing import Any

from slmops.fleet.send import HASHING, Change, Outgoing, Sender
from slmops.rollout.check import Finding
from slmops.rollout.mandate import Mandate, assign
from slmops.rollout.order import Parcel
from slmops.rollout.shipment import Offers, shipment
from slmops.rollout.told import Tell, Told


@dataclass(frozen=True)
class Delivery:
    """What is brought to one device."""

    sender: Sender
    finding: Finding
    """What a look at the device has shown: its parcels, and what it holds."""
    mandate: Mandate
    offers: Offers
    tell: Tell

    def stage(self) -> dict[str, Any]:
        """See that the artifact is staged on the device, its runtime bundle first; say what it took."""
        device = self.finding.device
        greeted = self.sender.call("enroll", {"trust": self.mandate.said(), **device.told})
        for what, parcel in (("runtime", self.finding.runtime), ("model", self.finding.parcel)):
            if parcel is not None:
                self._stage(what, parcel, greeted)
        return {"sent": self.sender.sent, "whole_because": self.sender.refused}

    def _stage(self, what: str, parcel: Parcel, greeted: dict[str, Any]) -> None:
        prepared = self._prepared(parcel, greeted)
        changes = self._changes(parcel) if prepared["can"]["delta"] else {}
        files = [
            Outgoing(name, size, parcel.files[name], offset, changes.get(name))
            for name, size, offset in ((e["name"], e["size"], e["offset"]) for e in prepared["missing"])
        ]

        def told(done: int, whole: int) -> None:
            said = {"step": "sending", "what": what, "done": done, "whole": whole}
            self.tell(Told(self.finding.device.name, None, "", said))

        self.sender.send(parcel.slot, files, told)
        self.sender.call("stage", {"slot": parcel.slot}, silence=HASHING)

    def _prepared(self, parcel: Parcel, greeted: dict[str, Any]) -> dict[str, Any]:
        """Tell the device of a release; return what of it the device lacks."""
        signed, device = parcel.signed, self.finding.device
        said = {
            "index": signed.index.decode(),
            "signatures": [signature.decode() for signature in signed.signatures],
            "manifest": parcel.manifest.decode(),
            "profile": parcel.key,
            "assignment": assign(self.mandate, device.name, signed.blob.digest, parcel.slot, greeted),
        }
        return self.sender.call("prepare", said, silence=HASHING)

    def _changes(self, parcel: Parcel) -> dict[str, Change]:
        """Return the deltas by which the device may come to files of a parcel."""
        return {
            item.name: Change(item.delta.base, item.delta.digest, item.delta.size, item.delta.path)
            for item in shipment(parcel.artifact, self.finding.held, self.offers)
            if item.delta is not None
        }
