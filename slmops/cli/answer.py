"""The answer of a build on a terminal: what was or will be built for each profile, and what became of it."""

from typing import Any

from slmops.build.choice import CHOSEN
from slmops.build.plan import Plan, Row
from slmops.cli.render import Form, emit, out, say, table
from slmops.profile.sizes import human_rate, human_size

COLUMNS = ("type", "size", "bits", "memory", "tok/s", "KL")
WORDS = 7
"""Letters of a verdict that is one: longer ones are reasons."""


def show_plan(planned: Plan, output: Form) -> None:
    """Show what would be built, and what would not."""
    if output is Form.JSON:
        return emit([_planned(profile, row) for profile, rows in planned.rows.items() for row in rows])
    for profile, rows in planned.rows.items():
        out.print(f"{profile}: to be built, each measured before one is chosen", markup=False)
        shown = [row for row in rows if not row.dropped]
        table(("type", "size", "memory", "tok/s"), [_foreseen(row) for row in shown])
        _left_out([(str(row.make), row.dropped) for row in rows if row.dropped])
    return None


def show(answer: dict[str, Any]) -> None:
    """Show the table of each profile, the largest first, and below it what was left out and why."""
    for profile in answer["profiles"]:
        say(f"\n{profile['profile']}: {profile['reason']}")
        measured = [one for one in profile["candidates"] if one["measured"]]
        classifies = any("accuracy" in one["measured"] for one in measured)
        rows = [_row(one) for one in sorted(measured, key=lambda one: -int(one["bytes"]))]
        table((*COLUMNS, "same", "accuracy" if classifies else "ppl", "verdict"), rows)
        unmeasured = [one for one in profile["candidates"] if not one["measured"]]
        _left_out([(f"{one['format']} {one['type']}", one["verdict"]) for one in unmeasured])


def _planned(profile: str, row: Row) -> dict[str, Any]:
    return {
        "profile": profile,
        "format": row.make.format,
        "type": row.make.type,
        **row.figures(),
        "verdict": row.dropped or ("to be built" + (f"; {row.fit.slow}" if row.fit.slow else "")),
    }


def _foreseen(row: Row) -> tuple[str, ...]:
    fit = row.fit
    sizes = human_size(fit.candidate.weight_bytes), human_size(fit.need.total)
    speed = human_rate(fit.tokens_per_second)
    return (str(row.make), *sizes, f"{speed}, too slow" if fit.slow else speed)


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    measured = one["measured"]
    ratio, accuracy = measured.get("perplexity_ratio"), measured.get("accuracy")
    last = f"{accuracy:.1%}" if accuracy is not None else f"{ratio:.3f}" if ratio is not None else ""
    return (
        f"{one['format']} {one['type']}",
        human_size(one["bytes"]),
        f"{one['bits_per_weight']:.2f}",
        human_size(one["memory_bytes"]),
        human_rate(one["tokens_per_second"]),
        f"{measured['kl_mean']:.2g}",
        f"{measured['top1']:.1%}",
        last,
        _word(one),
    )


def _word(one: dict[str, Any]) -> str:
    """Return the verdict in a word or two; the report has the numbers."""
    if one["verdict"] == CHOSEN:
        return CHOSEN
    if one["fails"]:
        return f"! {one['fails']}"
    if "tokens/s" in one["verdict"]:
        return "slow"
    return str(one["verdict"]) if len(one["verdict"]) <= WORDS else "big"


def _left_out(reasons: list[tuple[str, str]]) -> None:
    """Say what was left out, once for each reason."""
    alike: dict[str, list[str]] = {}
    for what, why in reasons:
        # Types that fall back differ in what they would become; that is in the report.
        alike.setdefault(why.partition(", because ")[2] or why, []).append(what)
    for why, names in alike.items():
        out.print(f"left out {', '.join(names)}: {why}", markup=False, style="dim", soft_wrap=True)
