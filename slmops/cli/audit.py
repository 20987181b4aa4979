"""slmops audit: what operators did, and whether the record of it is whole."""

from typing import Annotated, Any

import typer

from slmops import digest as digests
from slmops.cli import auditing
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, emit, out, say, table
from slmops.errors import IntegrityError, UsageError
from slmops.rollout import audit

app = verb("What operators did, in order, in a chain that shows changes: list, verify, head.", group=True)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    action: Annotated[str, typer.Option(help="Only these: deploy, trust rotate, ...")] = "",
    every: Annotated[
        bool, typer.Option("--all", help="Also what was turned down for how it was asked (exit code 2).")
    ] = False,
    output: Output = Form.TABLE,
) -> None:
    """List what was done, the latest first: when, by whom, in which words, and how it ended.

    What has no end was killed, or goes on still. As JSON all of it is listed, with --all or without.
    """
    acts, strange = _acts(auditing.lines())
    meant = [act for act in acts if action in ("", act["action"])][::-1]
    if strange:
        lines = "1 line" if strange == 1 else f"{strange} lines"
        say(f"{lines} cannot be read: slmops audit verify says where.")
    if output is Form.JSON:
        return emit(meant[:limit])
    found = [act for act in meant if every or (act["end"] or {}).get("exit_code") != UsageError.exit_code]
    found = found[:limit]
    rows = [
        (act["line"], act["at"][:19] + "Z", act["who"], act["action"], _ended(act), " ".join(act["words"]))
        for act in found
    ]
    return table(("line", "at", "who", "action", "ended", "words"), rows)


@app.command()
def verify(
    head: Annotated[
        str, typer.Option(metavar="HEX", help="A head noted before: its line must be there still.")
    ] = "",
    output: Output = Form.TABLE,
) -> None:
    """Check that no line of the record was changed, removed, put in or moved.

    That the end was cut off, its last line changed, or all of it written anew shows only against a head that
    was noted elsewhere: `slmops audit head` prints it. Exit codes: 0 whole, 7 broken.
    """
    verdict = audit.verify(auditing.lines(), _digest(head) if head else None)
    if output is Form.JSON:
        broken = verdict.broken and {"line": verdict.broken.line, "why": verdict.broken.why}
        emit({"entries": verdict.entries, "head": verdict.head, "whole": broken is None, "broken": broken})
    if verdict.broken is not None:
        raise IntegrityError(
            f"{auditing.path()}, line {verdict.broken.line}: {verdict.broken.why}",
            remedy="Compare it with a copy kept elsewhere; `slmops rollout list` and the journals of devices "
            "tell of rollouts, too.",
        )
    if output is Form.TABLE:
        lines = "1 line is" if verdict.entries == 1 else f"{verdict.entries} lines are"
        out.print(f"{lines} whole; head {verdict.head}", soft_wrap=True)


@app.command()
def head(output: Output = Form.TABLE) -> None:
    """Print the digest of the last line. Noted elsewhere, it shows whatever is done to the record later."""
    lines = auditing.lines()
    digest = audit.digest(lines[-1]) if lines else audit.BEGINNING
    if output is Form.JSON:
        emit({"entries": len(lines), "head": digest})
    else:
        out.print(digest, soft_wrap=True)


def _acts(lines: list[bytes]) -> tuple[list[dict[str, Any]], int]:
    """Return what was done, each act with its end, in order; and how many lines say nothing."""
    acts: dict[str, dict[str, Any]] = {}
    strange = 0
    for number, text in enumerate(lines, 1):
        try:
            said = audit.read(text)
        except ValueError:
            strange += 1
            continue
        begun = acts.get(said.get("began", ""))
        if begun is not None:
            begun["end"] = {key: value for key, value in said.items() if key not in ("prev", "began", "who")}
        else:
            acts[audit.digest(text)] = {"line": number, "words": [], "end": None, **said}
    return list(acts.values()), strange


def _ended(act: dict[str, Any]) -> str:
    end = act["end"]
    if act.get("outcome") != "begun":
        return ""
    if end is None:
        return "no end"
    return "ok" if end["exit_code"] == 0 else f"exit code {end['exit_code']} {end.get('error', '')}".strip()


def _digest(said: str) -> str:
    """Return a digest as `slmops audit head` prints it, with or without what stands before it."""
    try:
        return digests.parse(f"sha256:{said.removeprefix('sha256:').lower()}")
    except IntegrityError as error:
        raise UsageError(
            f"--head: expected what `slmops audit head` prints, 64 hexadecimal digits; got {said[:80]!r}"
        ) from error
