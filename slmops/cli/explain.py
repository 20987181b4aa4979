"""slmops explain: what an error code means."""

from typing import Annotated

import typer

from slmops import errors
from slmops.cli.options import verb
from slmops.cli.render import out, table
from slmops.daemon.refusal import RefusedError, WorkerLostError
from slmops.device.talk import UnansweredError
from slmops.errors import SlmopsError, UsageError
from slmops.fleet.agent import LostAgentError, NoAgentError
from slmops.rollout.apply import StoppedError
from slmops.rollout.assignment import ImpossibleEventError
from slmops.rollout.plan import MovedError

app = verb("Explain an error code and what to do about it.")


@app.command()
def explain(
    code: Annotated[str, typer.Argument(help="A code such as SLM-FIT; without one, all.")] = "",
) -> None:
    """Explain an error code and what to do about it."""
    known = {kind.code: kind for kind in _kinds()}
    if not code:
        table(
            ("code", "exit", "meaning"),
            [(k.code, k.exit_code, (k.__doc__ or "").splitlines()[0]) for k in known.values()],
        )
        return
    kind = known.get(code.upper()) or known.get(f"SLM-{code.upper()}")
    if kind is None:
        raise UsageError(f"there is no error code {code!r}", remedy="Run `slmops explain` for all of them.")
    out.print(f"{kind.code} (exit code {kind.exit_code}): {kind.__doc__}", markup=False)
    if kind.remedy:
        out.print(f"next: {kind.remedy}", markup=False)


def _kinds() -> list[type[SlmopsError]]:
    own = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SlmopsError)]
    others = (NoAgentError, LostAgentError, RefusedError, UnansweredError, StoppedError, MovedError)
    return [*own, *others, ImpossibleEventError, WorkerLostError]
