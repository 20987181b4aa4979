"""Fine-tune a model on a person's own data: all of its weights, or a LoRA adapter beside them.

A folder with config.json and a tokenizer but no weights begins from new ones. What leaves is a model
folder, or the folder of an adapter; the run beside it goes on where it was ended.

Laws: what is written holds the weights that validation found best; a merged model says what base and
adapter said together; of several processes (torchrun) the first one writes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from slmops import digest
from slmops.build import classifier
from slmops.build.checkpoint import Checkpoint, open_checkpoint
from slmops.build.evaluate import size_of
from slmops.build.isolate import Progress, silent
from slmops.build.ledger import Ledger, Stage
from slmops.build.sketch import Sketch, sketch
from slmops.build.tasks import wilson
from slmops.errors import BuildError, ModelError, TrainingError, UsageError
from slmops.train import page
from slmops.train.adapter import Origin
from slmops.train.adapter_folder import WEIGHTS, write_adapter
from slmops.train.batch import Batch
from slmops.train.check_place import ADAPTER, MODEL, check_place
from slmops.train.checkpoints import IDENTITY
from slmops.train.curve import Point
from slmops.train.deal import steps_per_epoch
from slmops.train.join import join
from slmops.train.learn import Learned, learn
from slmops.train.learn import silent as unheard
from slmops.train.lora import Lora, taken, with_lora
from slmops.train.merge_adapter import merge
from slmops.train.model_folder import RUN, write_model
from slmops.train.objective import CrossEntropy, Loss, cross_entropy, logits_of
from slmops.train.open_trainable import has_weights, load_weights, new_model, open_teacher
from slmops.train.read_data import Data, padding_of, read_data
from slmops.train.setting import GENTLY, Setting

REPORT, PAGE = "report.json", "report.html"
ACCURACY: Final = "accuracy"


@dataclass(frozen=True)
class Finetuning:
    """What is asked for."""

    model: str
    """Folder or hub id."""
    data: tuple[Path, ...]
    out: Path
    setting: Setting
    lora: Lora | None = None
    """None: all weights are learned."""
    merge: bool = False
    """Write the model that base and adapter make together, instead of the adapter."""
    validation: Path | None = None
    """None: a part of the data is held out."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A fine-tuning that can begin."""

    asked: Finetuning
    base: Sketch
    """With weights it is a Checkpoint."""
    model: Any
    """Of transformers; with LoRA, wrapped by peft."""
    data: Data

    @property
    def parameters(self) -> int:
        """Return the weights of the model, without an adapter's."""
        return sum(weight.numel() for name, weight in self.model.named_parameters() if not _is_added(name))

    @property
    def learned_parameters(self) -> int:
        """Return the weights that are learned."""
        return sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)

    @property
    def steps(self) -> int:
        """Return the steps of the whole run."""
        setting, lengths = self.asked.setting, self.data.training.lengths
        return setting.steps_in(int(lengths.sum()), steps_per_epoch(lengths, setting.batch_tokens))


@dataclass(frozen=True)
class Likeness:
    """How well a model foretells what is held out."""

    loss: float
    """Nats a token, or a label of a classifier."""
    accuracy: float | None = None
    """Share of the labels that are right, of classifiers."""

    @property
    def perplexity(self) -> float | None:
        """Return the perplexity of a token; a classifier has none."""
        return math.exp(min(self.loss, 700)) if self.accuracy is None else None


@dataclass(frozen=True)
class Written:
    """What was written."""

    files: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the files with weights, by name."""
    no_gguf: str = ""
    """Why an adapter has no adapter.gguf; nothing where it has one, and for models."""
    merged_apart: float | None = None
    """Of a merged model, the largest difference of its logits, as a share of the largest logit."""


@dataclass(frozen=True)
class Finetuned:
    """What became of it."""

    before: Likeness
    after: Likeness
    learned: Learned
    written: Written
    answer: dict[str, Any]
    """What report.json holds."""


class _Labelling(CrossEntropy):
    """Cross-entropy that also counts the labels that are right."""

    def __call__(self, model: Any, batch: Batch) -> Loss:
        logits = logits_of(model, batch)
        total, right = cross_entropy(logits, batch), logits.argmax(-1) == batch.labels
        return Loss(total, batch.count, {"cross-entropy": total.item(), ACCURACY: float(right.sum())})


def prepare(asked: Finetuning, progress: Progress = silent) -> Prepared:
    """Open the model and read the data; raise what is wrong with either, before anything is learned."""
    if asked.merge and asked.lora is None:
        raise UsageError("--merge is for adapters", remedy="Add --lora r=8, or leave --merge out.")
    base = _open(asked)
    data = read_data(asked.data, asked.validation, base, asked.setting.length)
    _check_ids(base, data)
    seed, knows = asked.setting.seed, isinstance(base, Checkpoint) and asked.lora is None
    model = load_weights(base, progress) if isinstance(base, Checkpoint) else new_model(base.folder, seed)
    labels = classifier.is_classifier(base.config)
    setting = asked.setting.with_rate(model.num_parameters(), labels=labels, share=GENTLY if knows else 1.0)
    asked = replace(asked, setting=setting)
    if asked.lora is not None:
        model = with_lora(model, asked.lora, base, seed)
    return Prepared(asked, base, model, data)


def finetune(
    prepared: Prepared, *, fresh: bool = False, told: Callable[[Point], None] = unheard
) -> Finetuned | None:
    """Learn, and write what was learned; return what became of it, in the first process alone.

    Raises what `learn` raises, and TrainingError where a merged model does not say what it must.
    """
    asked, base = prepared.asked, prepared.base
    objective = _Labelling() if classifier.is_classifier(base.config) else CrossEntropy()
    learned = learn(
        prepared.model,
        objective,
        prepared.data.training,
        prepared.data.validation,
        asked.setting,
        run=asked.out / RUN,
        padding=padding_of(base),
        identity=_identity(prepared),
        fresh=fresh,
        told=told,
    )
    if not join().is_main_process:
        return None
    before, after = (_likeness(learned, step) for step in (0, learned.best_step))
    # Before it is written: an adapter that is merged into its model is no more.
    known = foreseen(prepared)
    written = _write(prepared)
    ledger = _ledger(prepared, known, before, after)
    answer = _answer(known, learned, ledger) | {
        "before": _figures(before),
        "after": _figures(after),
        **asdict(written),
    }
    _report(asked.out / RUN, answer)
    return Finetuned(before, after, learned, written, answer)


def foreseen(prepared: Prepared) -> dict[str, Any]:
    """Return what is known before anything is learned, as report.json says it."""
    asked, data = prepared.asked, prepared.data
    sides = {
        ", ".join(file.name for file in asked.data): data.training,
        f"held out{f': {asked.validation.name}' if asked.validation else ''}": data.validation,
    }
    return {
        "what": "finetune",
        "model": asked.out.name,
        "base": asked.model,
        "teacher": None,
        "lora": None if asked.lora is None else asdict(asked.lora),
        "parameters": prepared.parameters,
        "learned_parameters": prepared.learned_parameters,
        "steps": prepared.steps,
        "data": [
            {"file": name, "samples": len(side), "tokens": len(side.ids)} for name, side in sides.items()
        ],
        "left_out": data.said["left_out"],
        "setting": asked.setting.model_dump(mode="json", exclude_none=True),
    }


def _open(asked: Finetuning) -> Sketch:
    """Return the model that is to learn: a checkpoint, or what it will be where it has no weights yet."""
    folder = Path(asked.model).expanduser()
    new = (folder / "config.json").is_file() and not has_weights(folder)
    base = sketch(folder) if new else open_teacher(asked.model)
    if new and asked.lora is not None:
        raise TrainingError(
            f"{folder} has no weights: an adapter is learned beside weights that are there",
            remedy="Leave --lora out to train the model from new weights.",
        )
    if asked.out.resolve() == base.folder.resolve():
        raise UsageError(
            f"--out is the model's own folder, {base.folder}", remedy="Give --out a folder of its own."
        )
    kind = ADAPTER if asked.lora and not asked.merge else MODEL
    trained_there = (asked.out / RUN / IDENTITY).is_file()
    check_place(asked.out, kind, replace=trained_there, remedy="Give --out a folder of its own.")
    return base


def _check_ids(base: Sketch, data: Data) -> None:
    most = max(int(samples.ids.max()) for samples in (data.training, data.validation))
    vocabulary = int(base.config["vocab_size"])
    if most >= vocabulary:
        raise ModelError(
            f"{base.folder}: tokenizer.json has token {most}, config.json says vocab_size {vocabulary}",
            remedy=f"Use the tokenizer.json of this model; without weights, vocab_size may be {most + 1}.",
        )


def _ledger(prepared: Prepared, known: Mapping[str, Any], before: Likeness, after: Likeness) -> Ledger:
    """Return the model as it came, unless its weights are new, and as it became, by what is held out."""
    asked, base, held = prepared.asked, prepared.base, len(prepared.data.validation)
    read, count = known["data"][0]["file"], known["parameters"]
    texts = asked.validation.name if asked.validation else f"held out of {read}"
    ledger = Ledger({"texts": texts, "samples": str(held)})
    if isinstance(base, Checkpoint):
        what = f"{asked.model}, as it came"
        said = _measured(before, held)
        ledger = ledger.with_stage(Stage("base", what, count, size_of(base), base.digest, said))
    if isinstance(base, Checkpoint) and asked.lora and not asked.merge:
        name, what, file = "adapted", f"an adapter learned from {read}", asked.out / WEIGHTS
        count, nbytes = count + known["learned_parameters"], size_of(base) + file.stat().st_size
        made = digest.of_file(file)
    else:
        name, what, written = "finetuned", f"learned from {read}", open_checkpoint(asked.out)
        nbytes, made = size_of(written), written.digest
    return ledger.with_stage(Stage(name, what, count, nbytes, made, _measured(after, held)))


def _measured(found: Likeness, held: int) -> dict[str, float]:
    """Return what a ledger says of it; of a classifier how many of so many labels are right."""
    if found.perplexity is not None:
        return {"perplexity": found.perplexity}
    share = found.accuracy or 0.0
    low, high = wilson(round(share * held), held)
    return {"accuracy": share, "accuracy_low": low, "accuracy_high": high}


def _answer(known: dict[str, Any], learned: Learned, ledger: Ledger) -> dict[str, Any]:
    """Return the account of a training, in the words of `page`."""
    return known | {
        "ledger": asdict(ledger),
        "samples": [],
        "teaching": None,
        "curve": [asdict(point) for point in learned.curve.points],
        "validations": [asdict(one) for one in learned.curve.validations],
        "best": {"step": learned.best_step, "loss": learned.best_loss},
        "steps": learned.steps,
        "tokens": learned.tokens,
        "seconds": learned.seconds,
        "resumed_from": learned.resumed_from,
        "stopped_early": learned.stopped_early,
    }


def _figures(found: Likeness) -> dict[str, float | None]:
    return {"loss": found.loss, "perplexity": found.perplexity, "accuracy": found.accuracy}


def _report(folder: Path, answer: dict[str, Any]) -> None:
    try:
        (folder / REPORT).write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
        (folder / PAGE).write_text(page.draw(answer), encoding="utf-8")
    except OSError as error:
        raise BuildError(
            f"the report in {folder} cannot be written: {error.strerror or error}",
            remedy="Make room on its disk and give the same command again.",
        ) from error


def _identity(prepared: Prepared) -> dict[str, str]:
    base, lora = prepared.base, prepared.asked.lora
    model = base.digest if isinstance(base, Checkpoint) else digest.of_file(base.folder / "config.json")
    learned = "all weights" if lora is None else f"LoRA r={lora.rank},alpha={lora.alpha:g}"
    targets = "" if lora is None else f",targets={'+'.join(lora.targets)}"
    return {"model": model, "learned": learned + targets}


def _likeness(learned: Learned, step: int) -> Likeness:
    found = next(each for each in learned.curve.validations if each.step == step)
    return Likeness(found.loss, found.parts.get(ACCURACY))


def _write(prepared: Prepared) -> Written:
    asked, base = prepared.asked, prepared.base
    if asked.lora is None or not isinstance(base, Checkpoint):
        write_model(asked.out, prepared.model, base)
        return Written(_sizes(asked.out))
    if asked.merge:
        merged, apart = merge(prepared.model, int(base.config["vocab_size"]))
        write_model(asked.out, merged, base)
        return Written(_sizes(asked.out), merged_apart=apart)
    origin = Origin(asked.model, base.digest, len(prepared.data.training), asked.setting.seed)
    no_gguf = write_adapter(asked.out, taken(prepared.model, origin), base)
    return Written(_sizes(asked.out), no_gguf)


def _sizes(folder: Path) -> dict[str, int]:
    return {
        file.name: file.stat().st_size
        for file in sorted(folder.iterdir())
        if file.suffix in (".safetensors", ".gguf")
    }


def _is_added(name: str) -> bool:
    """Say whether a weight of a wrapped model is the adapter's."""
    return ".lora_" in name or ".modules_to_save." in name
