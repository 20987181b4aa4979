"""How a rollout ended, for people or as JSON."""

from collections.abc import Sequence

from slmops.cli.render import Form, emit, err, say, size
from slmops.rollout.check import Finding
from slmops.rollout.machine import STOPS, State
from slmops.rollout.outcome import Outcome

NEXT = {
    State.PAUSED: "slmops rollout resume {0}, or slmops rollout abort {0}",
    State.INTERRUPTED: "slmops rollout resume {0}, or slmops rollout abort {0}",
    State.HOLDING: "slmops rollout promote {0}, or slmops rollout abort {0}",
}


def show_outcome(
    asked: str, reference: str, findings: Sequence[Finding], outcome: Outcome, output: Form
) -> None:
    """Show it: what refused or failed, and what to do next; as JSON all of it on standard output."""
    if output is Form.JSON:
        emit(_said(reference, outcome))
    for refusal in outcome.refusals:
        err.print(f"[bold red]error[/] [dim]{refusal.code}[/]", end=" ")
        say(f"{refusal}" + (f"\nnext  {refusal.remedy}" if refusal.remedy else ""))
    if outcome.rollout.state is State.UNREACHABLE:
        names = ",".join(f"!{f.device.name}" for f in findings if f.unreachable is not None)
        say(f"More are out of reach than max_unreachable allows. Leave them out: -l '{names}'")
    for remedy in outcome.remedies:
        say(f"next  {remedy}")
    release = reference if asked == reference else f"{asked} ({reference})"
    _say_end(release, outcome, output)


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
        "next": outcome.remedies,
        "refusals": [
            {"code": refusal.code, "message": str(refusal), "remedy": refusal.remedy}
            for refusal in outcome.refusals
        ],
        "exit_code": outcome.exit_code,
    }
