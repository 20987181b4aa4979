"""Whether a wave is healthy, sick, or not known: pass, fail or inconclusive.

A share of failures is of the devices that ended good or bad, rounded down; exactly as many are still
accepted. It is judged from `min_executed` ends on, and at the wave's end however few they are; before that
only when it is certain that it can no longer be kept. Laws: silence is never health (a device still under
way, and a wave with no good device, make no pass); more bad devices never turn a fail into a pass; a wave
over a bound never passes; failed devices, and those of which nothing is known, have budgets of their own.
"""

from collections.abc import Collection
from enum import Enum

from slmops.fleet.strategy import Strategy, at_most
from slmops.rollout.assignment import BAD, ENDS, GOOD, UNKNOWN, State
from slmops.rollout.waves import Wave


class Verdict(Enum):
    """What a wave has shown."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


def judge(states: Collection[State], strategy: Strategy, wave: Wave) -> Verdict:
    """Judge a wave by where its devices stand. An empty wave has shown nothing."""
    if _failed(states, strategy, wave):
        return Verdict.FAIL
    if _unknown(states, strategy):
        return Verdict.INCONCLUSIVE
    seen = all(state in ENDS for state in states) and any(state in GOOD for state in states)
    return Verdict.PASS if seen else Verdict.INCONCLUSIVE


def crossed(states: Collection[State], strategy: Strategy, wave: Wave) -> bool:
    """Say whether nobody new of this wave may start: a bound is crossed.

    Devices that are still under way may yet end well and bring a share down again; whoever asks at
    every end and was told so once lets nobody new start in this wave.
    """
    return _failed(states, strategy, wave) or _unknown(states, strategy)


def _failed(states: Collection[State], strategy: Strategy, wave: Wave) -> bool:
    bad = sum(state in BAD for state in states)
    executed = bad + sum(state in GOOD for state in states)
    to_come = sum(state not in ENDS for state in states)
    # Until there are enough, the best that may yet come is assumed.
    whole = executed if executed >= strategy.min_executed else executed + to_come
    return bad > at_most(wave.max_failures, whole)


def _unknown(states: Collection[State], strategy: Strategy) -> bool:
    lost = sum(state in UNKNOWN for state in states)
    return lost > at_most(strategy.max_unreachable, len(states))
