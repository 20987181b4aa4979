"""Ask an artifact the golden prompts that a person gave, before any device does.

Law: it is asked as it will be served: greedily, with the source's words, in the context of the device.
"""

from __future__ import annotations

from collections.abc import Sequence

from slmops.artifact.golden import Golden
from slmops.artifact.judge import judge
from slmops.build.isolate import Progress, isolate, silent
from slmops.build.open_model import Shape
from slmops.build.run_tasks import Reader
from slmops.build.subject import Source, name_of, open_weights, open_words


def ask_golden(
    source: Source, artifact: Source, asked: Sequence[Golden], context: int, *, progress: Progress = silent
) -> list[str]:
    """Return what `artifact` answers, in words, for each of `asked` that it does not answer as expected."""
    return isolate(f"running {name_of(artifact)}", _ask, progress, source, artifact, list(asked), context)


def _ask(
    progress: Progress, source: Source, artifact: Source, asked: list[Golden], context: int
) -> list[str]:
    reader = Reader(open_weights(artifact, Shape(context), progress), open_words(source), context)
    missed = []
    for done, golden in enumerate(asked, 1):
        answer = reader.answer(golden)
        if not judge(golden, answer):
            missed.append(f"{golden.question[:60]!r}: expected {golden.expect!r}, got {answer[:60]!r}")
        progress(f"asking {name_of(artifact)} the golden prompts", done / len(asked))
    return missed
