"""slmops merge-adapters: the mean of several sites' adapters."""

from pathlib import Path
from typing import Annotated, Any

import typer

from slmops.build.checkpoint import Checkpoint
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, emit, say, size, table
from slmops.errors import UsageError
from slmops.train.adapter import Adapter
from slmops.train.adapter_folder import GGUF, WEIGHTS, check_base, read_adapter, write_adapter
from slmops.train.adapter_mean import Gap, Mean, average
from slmops.train.check_place import ADAPTER, MODEL, check_place
from slmops.train.lora import with_adapter
from slmops.train.merge_adapter import merge as into_base
from slmops.train.model_folder import write_model
from slmops.train.open_trainable import load_weights, open_teacher

app = verb("Average the adapters of several sites, weighted by their samples.")
WORST = 5
"""Matrices of which a table tells."""


@app.command()
def merge_adapters(
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR[=SAMPLES]...",
            help="Folders that `slmops finetune --lora` wrote, each with the samples that it counts for. "
            "Default: those it was trained on.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder that gets the mean.")],
    rank: Annotated[
        int | None, typer.Option(help="Rank of the mean. Default: the smallest that loses nothing.")
    ] = None,
    naive: Annotated[
        bool, typer.Option("--naive", help="Average the factors instead, as much of federated learning does.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model they belong to, for adapter.gguf and --merge."),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the model with the mean in it, not the mean.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the one in --out.")] = False,
    output: Output = Form.TABLE,
) -> None:
    """Average the adapters of several sites, weighted by their samples.

    What each adapter adds to the model is averaged, not its factors: the mean is exact, and factored
    anew. The sites' data stays where it is. Ranks and alphas may differ. How far the mean of factors is
    from the exact one, and what a smaller --rank loses, is said as a share of the mean.

    For example: `slmops merge-adapters ./north ./south=1200 --base ./model --out ./both`;

    of one alone, its model: `slmops merge-adapters ./north --base ./model --merge --out ./northern`.
    """
    sites = [_site(said) for said in adapters]
    folders = {folder.resolve() for folder, _ in sites}
    if len(folders) < len(sites):
        raise UsageError(
            "a site is named twice", remedy="Name each once: DIR=SAMPLES says what it counts for."
        )
    if out.resolve() in folders:
        raise UsageError(f"--out {out} is one of the sites' own folders", remedy="Give another folder.")
    if merge and base is None:
        raise UsageError("--merge needs the model that the adapters belong to", remedy="Give it with --base.")
    if naive and rank is not None:
        raise UsageError("a mean of factors has the rank they have", remedy="Leave out --rank or --naive.")
    remedy = "Give --out another folder, or --force."
    check_place(out, MODEL if merge else ADAPTER, replace=force, remedy=remedy)
    read = [read_adapter(folder) for folder, _ in sites]
    samples = [
        one.origin.samples if said is None else said for one, (_, said) in zip(read, sites, strict=True)
    ]
    model = _base(base, read)
    if model and out.resolve() == model.folder.resolve():
        raise UsageError(f"--out is the model's own folder, {model.folder}", remedy="Give another folder.")
    mean = average(read, samples, rank, naive=naive)
    answer = _written(out, mean, model, merge=merge) | {
        "out": str(out),
        "sites": {str(folder): count for (folder, _), count in zip(sites, samples, strict=True)},
        "naive": naive,
        "rank": mean.adapter.rank,
        "full_rank": mean.full_rank,
        "overall": _gap(mean.overall),
        "matrices": {name: _gap(gap) for name, gap in mean.modules.items()},
    }
    return emit(answer) if output is Form.JSON else _show(answer, mean)


def _site(said: str) -> tuple[Path, int | None]:
    """Return the folder of a site, and what it counts for if that is said."""
    folder, equals, count = said.rpartition("=")
    if not equals or Path(said).is_dir():
        return Path(said), None
    if not count.isdecimal() or int(count) < 1:
        raise UsageError(f"expected DIR=SAMPLES with samples above 0, got {said!r}")
    return Path(folder), int(count)


def _base(said: str | None, adapters: list[Adapter]) -> Checkpoint | None:
    if said is None:
        return None
    base = open_teacher(said)
    for adapter in adapters:
        check_base(adapter, base)
    return base


def _written(out: Path, mean: Mean, base: Checkpoint | None, *, merge: bool) -> dict[str, Any]:
    """Write the mean, or the model that it makes with its base; say what was written."""
    if not merge or base is None:
        no_gguf = write_adapter(out, mean.adapter, base)
        gguf = None if no_gguf else (out / GGUF).stat().st_size
        return {"bytes": (out / WEIGHTS).stat().st_size, "gguf_bytes": gguf, "no_gguf": no_gguf or None}
    merged, apart = into_base(with_adapter(load_weights(base), mean.adapter), int(base.config["vocab_size"]))
    write_model(out, merged, base)
    return {"bytes": sum(file.stat().st_size for file in out.glob("*.safetensors")), "merged_apart": apart}


def _gap(gap: Gap) -> dict[str, float | None]:
    return {"naive_apart": gap.naive, "cut": gap.cut}


def _show(answer: dict[str, Any], mean: Mean) -> None:
    worst = sorted(mean.modules.items(), key=lambda found: -max(found[1].naive or 0, found[1].cut))
    rows = [("all matrices", mean.overall), *worst[:WORST]]
    table(
        ("compared with the exact mean", "mean of factors", f"rank {answer['rank']}"),
        [(name, _share(gap.naive), _share(None if answer["naive"] else gap.cut)) for name, gap in rows],
    )
    if len(worst) > WORST:
        say(f"Of {len(worst)} matrices, the {WORST} that differ most.")
    kind = "factors of" if answer["naive"] else f"rank {answer['rank']} (of {answer['full_rank']}) from"
    sites = ", ".join(f"{name} ({count:,})" for name, count in answer["sites"].items())
    say(f"{answer['out']}: {kind} {sites}; {size(answer['bytes'])}.")
    if answer.get("no_gguf"):
        say(f"No {GGUF}: {answer['no_gguf']}.")
    elif "gguf_bytes" in answer:
        say(f"{GGUF}: {size(answer['gguf_bytes'])}.")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%} apart"
