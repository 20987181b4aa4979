"""slmops write-answers: let a teacher write answers to prompts."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from slmops.build.checkpoint import Checkpoint
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, bar, emit, out, say, table
from slmops.errors import UsageError
from slmops.train.answers import Asking, distinct
from slmops.train.ask_endpoint import Endpoint, open_endpoint
from slmops.train.sieve import CUT, Sieve
from slmops.train.write_answers import Summary, describe, dropped_beside, questions_of, write_answers

app = verb("Let a teacher write answers to prompts, as data to distill from.")
KEY = "OPENAI_API_KEY"
SHOWN = 300
"""Characters of an example that are shown."""


@app.command(name="write-answers")
def write_answers_(
    teacher: Annotated[
        str,
        typer.Argument(
            metavar="TEACHER",
            help="A Hugging Face folder or hub id; or an OpenAI-compatible endpoint, http://HOST:PORT/v1.",
        ),
    ],
    to: Annotated[Path, typer.Option("--out", metavar="FILE.jsonl", help="Where the answers go.")],
    prompts: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Prompts (.jsonl; else one a line); say it again for more."),
    ] = None,
    openings: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Documents whose openings are to be continued, instead of prompts."
        ),
    ] = None,
    opening_words: Annotated[
        int, typer.Option(min=1, help="How many words of a document are its opening, about.")
    ] = 8,
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask plain prompts as a user's turn of a conversation.")
    ] = False,
    answers: Annotated[int, typer.Option(min=1, help="Answers to each prompt.")] = 1,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, max=2, help="0: always the likeliest token. Default: 0, or 0.8 with --answers."),
    ] = None,
    top_p: Annotated[
        float, typer.Option(min=0.01, max=1, help="Draw from the likeliest tokens of this share alone.")
    ] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer, at most.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed draws the same answers.")] = 0,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Answers written side by side. Default: 32; 4 of an endpoint.")
    ] = None,
    keep_cut: Annotated[
        bool, typer.Option("--keep-cut", help="Keep answers that ended at the limit of tokens.")
    ] = False,
    json_only: Annotated[bool, typer.Option("--json-only", help="Keep answers that are JSON alone.")] = False,
    no_refusals: Annotated[
        bool, typer.Option("--no-refusals", help='Drop "I\'m sorry, I cannot ...", in English.')
    ] = False,
    vote: Annotated[
        bool, typer.Option("--vote", help="Of several answers to a prompt keep what most of them say.")
    ] = False,
    shortest: Annotated[int, typer.Option(min=1, help="Characters of an answer, at least.")] = 1,
    longest: Annotated[int | None, typer.Option(min=1, help="Characters of an answer, at most.")] = None,
    teacher_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which model of an endpoint. Default: its only one.")
    ] = None,
    key_from: Annotated[
        str, typer.Option(metavar="VARIABLE", help="The environment variable that holds the endpoint's key.")
    ] = KEY,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked, and ask nothing.")
    ] = False,
    output: Output = Form.TABLE,
) -> None:
    """Let a teacher write answers to prompts, as data to distill from.

    A teacher is a model that lies here, or an endpoint. A line of prompts is one of

    `{"prompt": "..."}`, `{"messages": [{"role": "user", "content": "..."}]}`,

    and whatever else stands there is not asked: what `finetune` and `evaluate` read can be asked again.
    Plain language models continue the openings of documents instead: `--openings FILE`.

    Dropped are answers that are empty, were cut, go in circles or say what another said. FILE.jsonl has
    what is kept, each line with who wrote it and how; FILE.dropped.jsonl the rest, and why; FILE.said.jsonl
    all that was said: ended at any moment and started again, it goes on there, and with other filters
    nothing is asked again.

    For example: `slmops write-answers ./teacher --prompts prompts.txt --chat --out answers.jsonl`;

    `slmops write-answers http://localhost:8000/v1 --prompts p.jsonl --answers 8 --vote --out a.jsonl`.
    """
    asking = Asking(
        answers=answers,
        max_tokens=max_tokens,
        temperature=(0.8 if answers > 1 else 0.0) if temperature is None else temperature,
        top_p=top_p,
        seed=seed,
        batch=batch or (4 if _is_address(teacher) else 32),
        chat=chat,
        opening_words=opening_words if openings else None,
        sieve=Sieve(keep_cut, json_only, not no_refusals, vote, shortest, longest),
    )
    _check(asking, prompts, openings, to)
    files = prompts or openings or []
    asked = _open(teacher, teacher_model, key_from)
    if dry_run:
        questions = questions_of(asked, files, asking)
        return _foretell(asked, len(questions), len(distinct(questions)), asking, output)
    with bar() as told:
        found = write_answers(asked, files, to, asking, told)
    return emit(_as_json(found, to)) if output is Form.JSON else _show(found, to)


def _check(asking: Asking, prompts: list[Path] | None, openings: list[Path] | None, to: Path) -> None:
    if bool(prompts) == bool(openings):
        raise UsageError(
            "give either prompts or documents" if prompts else "nothing to ask",
            remedy="Give --prompts FILE, or --openings FILE.",
        )
    if openings and asking.chat:
        raise UsageError("openings are continued, not answered", remedy="Leave --chat out.")
    if to.suffix != ".jsonl":
        raise UsageError(f"--out {to}: expected a name that ends with .jsonl")


def _is_address(teacher: str) -> bool:
    return teacher.startswith(("http://", "https://"))


def _open(teacher: str, model: str | None, key_from: str) -> Checkpoint | Endpoint:
    if _is_address(teacher):
        if key_from != KEY and not os.environ.get(key_from):
            raise UsageError(f"the environment has no {key_from}", remedy=f"export {key_from}=...")
        return open_endpoint(teacher, model, os.environ.get(key_from))
    if model is not None:
        raise UsageError(f"--teacher-model names a model of an endpoint, and {teacher} is none")
    from slmops.train.open_trainable import open_teacher  # noqa: PLC0415 - torch, for this teacher alone

    return open_teacher(teacher)


def _foretell(asked: Checkpoint | Endpoint, count: int, different: int, asking: Asking, output: Form) -> None:
    who = describe(asked)
    wanted = different * asking.answers
    if output is Form.JSON:
        return emit(
            {
                **who.said,
                "questions": different,
                "repeated": count - different,
                "answers": wanted,
                "most_tokens": wanted * asking.max_tokens,
            }
        )
    return table(
        ("would ask", who.name),
        [
            ("different prompts", f"{different:,}"),
            ("prompts that stand there again", f"{count - different:,}"),
            ("answers", f"{wanted:,}"),
            ("tokens, at most", f"{wanted * asking.max_tokens:,}"),
        ],
    )


def _as_json(found: Summary, to: Path) -> dict[str, Any]:
    return {
        **found.teacher.said,
        **{key: value for key, value in asdict(found).items() if key not in {"teacher", "examples"}},
        "tokens_per_second": found.per_second,
        "out": str(to),
        "examples": [{"question": asked, "answer": said} for asked, said in found.examples],
    }


def _show(found: Summary, to: Path) -> None:
    dropped = sorted(found.dropped.items(), key=lambda each: -each[1])
    speed = "" if found.per_second is None else f", {found.per_second:,.0f} a second"
    table(
        ("asked", found.teacher.name),
        [
            ("prompts", f"{found.questions:,}" + (f" ({found.repeated:,} again)" if found.repeated else "")),
            ("answers", f"{found.answers:,}"),
            ("kept", f"{found.kept:,}"),
            *((f"  {reason}", f"{count:,}") for reason, count in dropped),
            ("tokens", f"{found.tokens:,}{speed}"),
        ],
    )
    for question, answer in found.examples:
        out.print()
        out.print("> " + _short(question), style="dim", markup=False)
        out.print(_short(answer), markup=False)
    out.print()
    say(f"{to} has what is kept" + (f", {dropped_beside(to)} the rest" if dropped else "") + ".")
    if found.dropped.get(CUT, 0) > found.kept:
        say("Most answers were cut: give more --max-tokens, or --keep-cut.")


def _short(text: str) -> str:
    said = " ".join(text.split())
    return said if len(said) <= SHOWN else f"{said[:SHOWN]} ..."
