"""slmops cache: what was built before and need not be built again."""

from typing import Any

from slmops.build.cache import Cache
from slmops.cli import home
from slmops.cli.options import Yes, ask_first, verb
from slmops.cli.render import Form, Output, emit, out, size, table

app = verb("What was built before and need not be built again: list, clear.", group=True)


@app.command(name="list")
def list_(output: Output = Form.TABLE) -> None:
    """List the finished steps of builds, and the bytes each takes."""
    steps = Cache(home.cache()).steps()
    if output is Form.JSON:
        return emit([{**said, "bytes": nbytes} for said, nbytes in steps])
    table(("step", "of", "source", "bytes"), [_row(said, nbytes) for said, nbytes in steps])
    out.print(f"{len(steps)} steps, {size(sum(nbytes for _, nbytes in steps))} in {home.cache()}")
    return None


@app.command()
def clear(yes: Yes = False) -> None:
    """Remove every finished step. Releases keep their files; the next build begins anew."""
    cache = Cache(home.cache())
    if not yes:
        ask_first(f"Remove {size(sum(nbytes for _, nbytes in cache.steps()))} of finished steps?")
    out.print(f"Freed {size(cache.clear())}.")


def _row(said: dict[str, Any], nbytes: int) -> tuple[str, ...]:
    what = f"{said['format']} {said['type']}" if said["step"] == "model" else ""
    return said["step"], what, said["source"].removeprefix("sha256:")[:12], size(nbytes)
