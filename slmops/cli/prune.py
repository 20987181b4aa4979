"""slmops prune: cut a smaller model out of a larger one."""

from pathlib import Path
from typing import Annotated

import typer

from slmops.build.checkpoint import Checkpoint
from slmops.build.isolate import Progress, isolate
from slmops.cli import home
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, bar, emit, say, size, table
from slmops.errors import DocumentError
from slmops.profile.load import load_profile
from slmops.train.mask import HONEST, parse_pattern
from slmops.train.open_trainable import open_teacher
from slmops.train.prune import FILE_NAME, Cutting, Pruned, prune
from slmops.train.pruning import AXES, Pruning, parse_axes
from slmops.train.trim_vocabulary import TrimReport

app = verb("Cut layers, heads, channels or words out of a model, by what they are measured to matter.")


@app.command(name="prune")
def prune_(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="Hugging Face folder or hub id.")],
    out: Annotated[Path | None, typer.Option(help="Folder that gets what is left.")] = None,
    params: Annotated[
        str | None, typer.Option(help="How much may be left: 60%, or 400k, 1.5M, 650000 weights.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Cut until this device bears it, by its memory, storage and speed.")
    ] = None,
    type_: Annotated[
        str,
        typer.Option(
            "--type",
            help="Type of the file that --profile is to bear. auto: Q8_0, above 100M weights Q4_K_M; of text "
            "classifiers INT8.",
        ),
    ] = "auto",
    layers: Annotated[int | None, typer.Option(help="Layers to keep; which, is measured.")] = None,
    heads: Annotated[
        int | None,
        typer.Option(help="Query heads to keep in each layer, with the key-value heads they read."),
    ] = None,
    mlp: Annotated[
        int | None, typer.Option(help="Channels of the feed-forward to keep in each layer.")
    ] = None,
    hidden: Annotated[int | None, typer.Option(help="Hidden channels to keep.")] = None,
    axes: Annotated[
        str, typer.Option(help="What may be cut for --params and --profile; layers: depth alone.")
    ] = ",".join(AXES),
    vocabulary: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Keep the words that this text uses, and no others. Repeatable."),
    ] = None,
    vocabulary_size: Annotated[
        int | None, typer.Option(help="Keep so many of them at most, the most used; a multiple of 32 stays.")
    ] = None,
    mask: Annotated[
        str | None, typer.Option(help=f"2:4: set all but 2 of every 4 weights to zero; {HONEST}.")
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Text by which it is known what matters. Repeatable. Default: the model writes its own; "
            "of text classifiers that of --vocabulary.",
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens of it, a quarter to weigh cuts with. Default: 16384; where it writes, 4096.", min=64
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Weigh and choose; write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the model in --out.")] = False,
    output: Output = Form.TABLE,
) -> None:
    """Cut layers, heads, channels or words out of a model, by what they are measured to matter.

    First the vocabulary, then the structure, then the mask. Structure is cut step by step, each time where
    the answers change least for each weight that is saved, as measured on text held back; what stays makes
    up for what left by least squares. No training: `slmops distill --student DIR` heals what is left.
    """
    if out is None and not dry_run:
        raise typer.BadParameter("give --out, or --dry-run", param_hint="--out")
    said = Cutting(
        Pruning(
            params, layers, heads, mlp, hidden,
            profile=load_profile(profile, home.profiles()) if profile else None,
            type=type_, axes=parse_axes(axes),
        ),
        _there(vocabulary), vocabulary_size, parse_pattern(mask) if mask else None,
        _there(calibration), tokens,
    )  # fmt: skip
    source = open_teacher(teacher)
    with bar() as told:
        found = isolate("pruning", _prune, told, source, said, None if dry_run else out, force)
    if output is Form.JSON:
        return emit({**found.said(), "out": None if dry_run else str(out)})
    _show(found)
    if not dry_run:
        say(f"{out} holds the model; {FILE_NAME} beside it says what of {teacher} it is made of.")
    return None


def _prune(
    progress: Progress, teacher: Checkpoint, cutting: Cutting, out: Path | None, force: bool
) -> Pruned:
    """Be the child."""
    return prune(teacher, cutting, out, force=force, progress=progress)


def _there(files: list[Path] | None) -> tuple[Path, ...]:
    for file in files or ():
        if not file.is_file():
            raise DocumentError(f"{file}: no such file", remedy="Give a file of texts.")
    return tuple(files or ())


def _show(found: Pruned) -> None:
    """Show what was cut, step by step, then what is left beside what was there."""
    before, after = found.before, found.after
    if found.steps:
        steps = [(one.axis, one.what, f"{one.parameters:,}", f"{one.divergence:.3g}") for one in found.steps]
        table(("cut", "what", "weights left", "KL"), steps)
        say("")
    rows: list[tuple[object, ...]] = [
        ("weights", f"{before.parameters:,}", f"{after.parameters:,}"),
        ("bytes", size(before.bytes), size(after.bytes)),
        *((name, getattr(before, key), getattr(after, key)) for name, key in _COUNTS),
        *((name, "", f"{found.measured[key]:.4g}") for name, key in _FIGURES if key in found.measured),
    ]
    bits = "source_bits_per_byte", "bits_per_byte"
    if all(name in found.measured for name in bits):
        rows.append(("bits/byte", *(f"{found.measured[name]:.3f}" for name in bits)))
    if found.words:
        rows += _words(found.words)
    table(("", "before", "after"), rows)
    say(
        f"{after.parameters / before.parameters:.1%} of the weights are left; weighed on {found.calibration}."
    )
    if found.why:
        say(found.why)
    if found.mask:
        say(f"{found.mask}: {found.zeros:.1%} of the weights are zero; {HONEST}.")


def _words(found: TrimReport) -> list[tuple[object, ...]]:
    """Return what became of the words: of the texts that chose them, and of those that had no say."""
    rows: list[tuple[object, ...]] = [("tokens of --vocabulary kept", "", f"{found.covered:.2%}")]
    if found.changed:
        rows.append(("its texts cut otherwise", "", _of(found.changed, found.texts)))
    if unseen := found.unseen:
        rows.append(("unseen texts cut otherwise", "", _of(unseen.changed, unseen.texts)))
        rows.append(("unseen texts with unknowns", "", _of(unseen.unreadable, unseen.texts)))
        rows.append(("more tokens an unseen text", "", f"{unseen.more_tokens:.2f}"))
    return rows


def _of(some: int, all_: int) -> str:
    return f"{some:,} of {all_:,}"


_COUNTS = (
    ("layers", "layers"),
    ("heads", "heads"),
    ("key-value heads", "kv_heads"),
    ("feed-forward", "inner"),
    ("hidden", "hidden"),
    ("words", "vocab"),
)
_FIGURES = (("KL", "kl_mean"), ("same first choice", "top1"), ("perplexity ratio", "perplexity_ratio"))
