"""The answer of a build as data: for each profile every candidate, what it measured, and what became of it.

Pure. A machine reads it as JSON; `page` draws it for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slmops.build.choice import CHOSEN, Outcome, bound_of
from slmops.build.plan import Make, Row
from slmops.build.run import Result


def report(release: str, model: str, results: Sequence[Result]) -> dict[str, Any]:
    """Return the whole answer; sizes in bytes, losses in nats, speeds predicted in tokens per second."""
    return {"release": release, "model": model, "profiles": [_profile(result) for result in results]}


def _profile(result: Result) -> dict[str, Any]:
    profile, picked = result.profile, result.pick
    gate = result.gate
    built = [
        {**_outcome(outcome, verdict), "fails": bound_of(outcome.measured, gate) if gate else ""}
        for outcome, verdict in picked.verdicts
    ]
    left_out = [_row(row) for row in result.plan.rows[profile.name] if row.dropped]
    return {
        "profile": profile.name,
        "title": profile.title,
        "arch": profile.arch,
        "context": profile.serve.context,
        "memory_budget_bytes": profile.memory.budget,
        "most_model_bytes": result.most_bytes,
        "wanted_tokens_per_second": profile.serve.min_tokens_per_second,
        "gate": gate.model_dump() if gate else None,
        "chosen": str(picked.best.make),
        "reason": picked.reason,
        "delta_base": result.reused.figures() if result.reused else None,
        "candidates": [*built, *left_out],
    }


def _outcome(outcome: Outcome, verdict: str) -> dict[str, Any]:
    return {
        **_make(outcome.make),
        "bytes": outcome.bytes,
        "bits_per_weight": outcome.bits_per_weight,
        "memory_bytes": outcome.fit.need.total,
        "tokens_per_second": outcome.fit.tokens_per_second,
        "measured": outcome.measured.figures(),
        "verdict": verdict,
    }


def _row(row: Row) -> dict[str, Any]:
    """Return a candidate that was dropped before it was built, or could not be."""
    return {
        **_make(row.make),
        **row.figures(),
        "bits_per_weight": None,
        "measured": None,
        "verdict": row.dropped,
        "fails": None,
    }


def _make(make: Make) -> dict[str, Any]:
    return {
        "format": make.format,
        "type": make.type,
        "types": _counted(make),
        "type_of_tensor": dict(make.types),
        "base": make.base,
        "tolerance": make.tolerance,
    }


def chosen(answer: dict[str, Any]) -> dict[str, Make]:
    """Return what was chosen for each profile, from such an answer."""
    found = {}
    for profile in answer["profiles"]:
        one = next(each for each in profile["candidates"] if each["verdict"] == CHOSEN)
        types = tuple(one["type_of_tensor"].items())
        # Releases from before there were delta bases say nothing of them.
        reuse = {key: one[key] for key in ("base", "tolerance") if key in one}
        found[profile["profile"]] = Make(one["format"], one["type"], types, **reuse)
    return found


def _counted(make: Make) -> dict[str, int]:
    """Return how many tensors of a mixed model have each type."""
    kinds = [kind for _, kind in make.types]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds), key=kinds.count, reverse=True)}
