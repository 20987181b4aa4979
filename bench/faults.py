"""The fault campaign: every fault at every point of every verb, deaths of the operator, and random kills.

Against real deploys over real sshds; the daemon is the stand-in of the tests. After each fault:

- what serves is a whole slot, the old one or the new one; nothing was committed that had not passed its gate;
- the daemon answers (but where its supervisor was killed on a device without systemd, until the next deploy);
- each device ended as the table of `_fault_matrix` says, and its journal gained what it says;
- the same deploy again, or `rollout resume`, converges: everybody serves the new release, fsck finds nothing.

The short form kills 200 times, `--long` 2,000 times. `--replay SEED:INDEX` plays one round of kills again:
the same devices are struck at the same shares of a deploy's time; which system call is hit is the machine's
choice.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from _fault_bed import Bed
from _fault_deaths import deaths
from _fault_kills import OPERATOR, Tally, campaign, clean, plan, play
from _fault_matrix import BACK, KINDS, cells, devices, matrix
from _measure import HERE, machine, progress, show
from _reaper import counted

SHORT, LONG = 200, 2000
DEVICES: Final = 10


def main() -> None:
    """Play what was asked for and write what was found."""
    said = _said()
    # Told to end, it ends its devices first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if said.replay:
        with _room() as room:
            sys.exit(_replayed(Path(room), said.replay))
    broken: list[str] = []
    for part in (said.only,) if said.only else PARTS:
        began = time.monotonic()
        facts, cpu = counted(lambda part=part: PARTS[part](said))  # type: ignore[misc]
        facts |= {"seconds": round(time.monotonic() - began), "cpu_seconds": cpu}
        broken += facts["breaks"]
        if not said.column:
            _keep(part, facts)
    print(f"{len(broken)} invariant breaks, seed {said.seed}")
    print("\n".join(broken))
    sys.exit(bool(broken))


def _matrix(said: argparse.Namespace) -> dict[str, Any]:
    with _room() as room, Bed(Path(room), devices(), interposed=True) as bed:
        return {"cells": len(cells()), "breaks": matrix(bed, progress, said.column)}


def _deaths(_said: argparse.Namespace) -> dict[str, Any]:
    with _room() as room, Bed(Path(room), 3) as bed:
        count, found = deaths(bed, progress)
    return {"deaths": count, "breaks": found}


def _kills(said: argparse.Namespace) -> dict[str, Any]:
    with _room() as room, Bed(Path(room), DEVICES) as bed:
        tally = campaign(bed, said.seed, kills=LONG if said.long else SHORT, say=progress)
    histogram(tally)
    return {"seed": said.seed, **_told(tally)}


PARTS: Final[dict[str, Callable[[argparse.Namespace], dict[str, Any]]]] = {
    "matrix": _matrix,
    "deaths": _deaths,
    "kills": _kills,
}


def _room() -> tempfile.TemporaryDirectory[str]:
    shared = Path("/dev/shm")  # noqa: S108 (kills are the same in memory, and faster)
    return tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None)


def _keep(part: str, facts: dict[str, Any]) -> None:
    """Write what was found in one part; what was found in others before stays."""
    path = HERE / "results/faults.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(
        json.dumps({**before, "benchmark": "faults", "machine": machine(), part: facts}, indent=1) + "\n"
    )


def histogram(tally: Tally) -> None:
    """Print where the kills hit."""
    states = list(dict.fromkeys(state for _, state in sorted(tally.hits)))
    whats = list(dict.fromkeys(what for what, _ in sorted(tally.hits)))
    rows = [(state, *(str(tally.hits[what, state] or "") for what in whats)) for state in states]
    title = f"{tally.kills} kills in {tally.rounds} rounds, {len(tally.breaks)} breaks"
    notes = f"By the state of the device, or of the rollout for the {OPERATOR}, at the time."
    show(title, ("state", *whats), rows, notes)


def _told(tally: Tally) -> dict[str, Any]:
    hits: dict[str, Counter[str]] = {}
    for (what, state), count in tally.hits.items():
        hits.setdefault(what, Counter())[state] += count
    return {**vars(tally), "hits": hits}


def _replayed(room: Path, asked: str) -> bool:
    """Play one round of kills once more; return whether something broke."""
    seed, index = map(int, asked.split(":"))
    tally = Tally()
    with Bed(room, DEVICES) as bed:
        broken = play(bed, plan(seed, index, DEVICES), clean(bed), tally)
    histogram(tally)
    print("\n".join(broken) or "nothing broke")
    return bool(broken)


def _said() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help=f"{LONG} kills instead of {SHORT}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", default="", metavar="SEED:INDEX", help="one round of kills alone")
    parser.add_argument("--only", default="", choices=[*PARTS], help="one part alone")
    parser.add_argument("--column", default="", choices=[*KINDS, BACK], help="of the matrix alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
