"""slmops cache: what was built before and need not be built again."""

from typing import Any

from slmops.build.cache import Cache
from slmops.cli import home
from slmops.cli.options import Yes, ask_first, verb
from slmops.cli.render import Form, Output, emit, out, size, table

app = verb("What was built before and need not be built again: list, clear.", group=True)


@app.command(name="list")
def list_(output: Output = Form.TABLE) -> None:
    """List the finished steps of builds and the recorded teachers, and the bytes each takes."""
    steps = [*Cache(home.cache()).steps(), *_recordings()]
    if output is Form.JSON:
        return emit([{**said, "bytes": nbytes} for said, nbytes in steps])
    table(("step", "of", "source", "bytes"), [_row(said, nbytes) for said, nbytes in steps])
    out.print(f"{len(steps)} steps, {size(sum(nbytes for _, nbytes in steps))} in {home.cache()}")
    return None


@app.command()
def clear(yes: Yes = False) -> None:
    """Remove every finished step and recorded teacher. Releases keep their files."""
    cache = Cache(home.cache())
    recorded = sum(nbytes for _, nbytes in _recordings())
    if not yes:
        steps = sum(nbytes for _, nbytes in cache.steps())
        ask_first(f"Remove {size(steps + recorded)} of finished steps and recorded teachers?")
    out.print(f"Freed {size(cache.clear() + recorded)}.")


def _recordings() -> list[tuple[dict[str, Any], int]]:
    """Return what was recorded of teachers, as steps, with the bytes each takes."""
    folders = sorted(home.teachers().iterdir()) if home.teachers().is_dir() else []
    return [
        (
            {"step": "recorded teacher", "source": folder.name},
            sum(file.stat().st_size for file in folder.iterdir()),
        )
        for folder in folders
    ]


def _row(said: dict[str, Any], nbytes: int) -> tuple[str, ...]:
    what = f"{said['format']} {said['type']}" if said["step"] == "model" else ""
    return said["step"], what, said["source"].removeprefix("sha256:")[:12], size(nbytes)
