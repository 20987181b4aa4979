"""How a daemon is run: what a device keeps of that with each slot, and in what two ways differ.

It does not know who asks: a device, whether a router must end for another one to run so; an operator, whether
a deploy is to change it. Law: no two ways differ for one of them and not for the other.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEPT = ("runtime", "runtime_slot", "port")
"""What is kept beside the flags."""


def kept(said: Mapping[str, Any], runtime_slot: str | None) -> dict[str, Any]:
    """Return the way that a device keeps, of what it was told: its Python or bundle, its port, its flags."""
    return {
        "runtime": said["runtime"],
        "runtime_slot": runtime_slot,
        "port": said["port"],
        "daemon": said.get("daemon") or {},
    }


def differing(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> dict[str, tuple[Any, Any]]:
    """Return in which settings two ways differ, by name, each with both values; None is unsaid.

    An agent of before wrote no flags down, and one before that nothing at all: nothing was said then. What
    one of later keeps besides is not compared: who does not know it cannot change it.
    """
    here, there = _flat(one), _flat(other)
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    return {name: (here.get(name), there.get(name)) for name in names}


def _flat(way: Mapping[str, Any] | None) -> dict[str, Any]:
    said = way or {}
    return {**{name: said.get(name) for name in KEPT}, **(said.get("daemon") or {})}
