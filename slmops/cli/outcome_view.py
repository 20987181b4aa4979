"""How a rollout ended, for people or as JSON."""

from slmops.cli.render import Form, emit, err, say, size
from slmops.rollout.assignment import State as Assigned
from slmops.rollout.machine import STOPS, State
from slmops.rollout.outcome import Outcome

FLEET = "FLEET.yaml"
"""What a remedy calls the fleet file."""
NAMED = 6
"""Devices that a line names before it counts the rest."""
AWAY = {Assigned.SKIPPED, Assigned.LOST}
"""Who gets the release when it can be reached."""
NEXT = {
    State.PAUSED: "slmops rollout resume {0}, or slmops rollout abort {0}",
    State.INTERRUPTED: "slmops rollout resume {0}, or slmops rollout abort {0}",
    State.HOLDING: "slmops rollout promote {0}, or slmops rollout abort {0}",
}


def show_outcome(asked: str, reference: str, outcome: Outcome, output: Form, file: str = FLEET) -> None:
    """Show it: what refused or failed, and what to do next; as JSON all of it on standard output.

    `file` is the fleet file, as it stands in what is to be run next.
    """
    if output is Form.JSON:
        emit(_said(reference, outcome))
    for refusal in outcome.refusals:
        err.print(f"[bold red]error[/] [dim]{refusal.code}[/]", end=" ")
        say(f"{refusal}" + (f"\nnext  {refusal.remedy.replace(FLEET, file)}" if refusal.remedy else ""))
    for remedy, devices in outcome.remedies.items():
        more = f" and {len(devices) - NAMED} more" if len(devices) > NAMED else ""
        say(f"next  {', '.join(devices[:NAMED])}{more}: {remedy.replace(FLEET, file)}")
    release = reference if asked == reference else f"{asked} ({reference})"
    _say_end(release, outcome, output)
    if outcome.rollout.state is State.PARTIAL and set(outcome.states.values()) & AWAY:
        again = "the same deploy again" if outcome.rollout.stages_only else f"slmops rollout catch-up {file}"
        say(f"next  {again}, once whoever was left out can be reached")


def _say_end(release: str, outcome: Outcome, output: Form) -> None:
    end, number = outcome.rollout.state, outcome.number
    if end in STOPS:
        why = f": {outcome.why}" if outcome.why else ""
        say(f"{release}: {end.value}{why}.\nnext  {NEXT[end].format(number)}")
    elif outcome.exit_code == 0:
        took = f", {size(sum(outcome.sent.values()))} sent" if outcome.sent else ""
        say(f"{release}: {end.value}{took}.")
    elif output is Form.TABLE:
        see = f" See `slmops rollout show {number}`." if number is not None else ""
        say(f"{release}: {end.value}; exit code {outcome.exit_code}.{see}")


def _said(reference: str, outcome: Outcome) -> dict[str, object]:
    return {
        "release": reference,
        "rollout": outcome.number,
        "state": outcome.rollout.state.value,
        "why": outcome.why,
        "devices": {name: state.value for name, state in outcome.states.items()},
        "messages": outcome.messages,
        "sent": outcome.sent,
        "whole_because": outcome.whole_because,
        "next": list(outcome.remedies),
        "refusals": [
            {"code": refusal.code, "message": str(refusal), "remedy": refusal.remedy}
            for refusal in outcome.refusals
        ],
        "exit_code": outcome.exit_code,
    }
