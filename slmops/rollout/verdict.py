"""Whether a wave is healthy, sick, or not known: pass, fail or inconclusive.

Laws: silence is never health (a device still under way makes no pass); more bad devices never turn a
fail into a pass; failed and lost devices have budgets of their own.
"""

from collections.abc import Collection
from enum import Enum

from slmops.fleet.strategy import Strategy, at_most
from slmops.rollout.assignment import BAD, ENDS, GOOD, State


class Verdict(Enum):
    """What a wave has shown."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


def judge(states: Collection[State], strategy: Strategy) -> Verdict:
    """Judge a wave by where its devices stand. An empty wave has shown nothing."""
    bad = sum(state in BAD for state in states)
    if bad > at_most(strategy.max_failures, len(states)):
        return Verdict.FAIL
    lost = sum(state is State.LOST for state in states)
    if not states or lost > at_most(strategy.max_unreachable, len(states)):
        return Verdict.INCONCLUSIVE
    seen = all(state in ENDS for state in states) and any(state in GOOD for state in states)
    return Verdict.PASS if seen else Verdict.INCONCLUSIVE


def too_sick(states: Collection[State], strategy: Strategy) -> bool:
    """Say whether nobody new of this wave may start: a bound is already crossed."""
    bad = sum(state in BAD for state in states)
    lost = sum(state is State.LOST for state in states)
    return bad > at_most(strategy.max_failures, len(states)) or lost > at_most(
        strategy.max_unreachable, len(states)
    )
