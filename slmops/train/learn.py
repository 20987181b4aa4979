"""Train a model for an objective, and leave it at the weights that validation found best.

Runs on one process, or on as many as torchrun or accelerate launch started: each reads its share of
every step, and gradients are added up before they are applied, once a step.

Laws: the same seed gives the same weights, to the bit on one machine and number of threads, also when a
run was ended at any step and went on; any number of processes gives the same up to rounding; a loss that
is no number ends the run and changes no weight; only the first process writes.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slmops.errors import TrainingError
from slmops.train.checkpoints import About, Checkpoints
from slmops.train.crew import Crew, Sums
from slmops.train.curve import Curve, Point, Validation
from slmops.train.deal import Places, deal, steps_per_epoch
from slmops.train.join import join
from slmops.train.objective import Objective
from slmops.train.samples import Samples
from slmops.train.schedule import is_due, rate
from slmops.train.setting import Setting
from slmops.train.trainee import as_arrays


@dataclass(frozen=True)
class Learned:
    """What became of a training; the model that was given holds its best weights."""

    steps: int
    """Steps done, of all parts of a resumed run."""
    tokens: int
    """Tokens read in training, padding not counted."""
    best_step: int
    """After which step validation was best; 0: the model as it came was not bettered."""
    best_loss: float
    """Validation loss then, in nats."""
    curve: Curve
    resumed_from: int | None
    """The step from which the run went on; None: it was begun here."""
    stopped_early: bool
    seconds: float
    """Of all parts of the run."""


def silent(_point: Point) -> None:
    """Take no notice."""


def learn(
    model: Any,
    objective: Objective,
    training: Samples,
    validation: Samples,
    setting: Setting,
    *,
    run: Path,
    padding: int,
    identity: Mapping[str, str],
    fresh: bool = False,
    told: Callable[[Point], None] = silent,
) -> Learned:
    """Train `model`, a transformers model in float32, and `objective.module`; return what became of it.

    `run` is the folder of its checkpoints; where it holds the same run, that goes on, unless `fresh`.
    `identity` says by name what the run is made of beside its data and `setting`, such as the digest of
    the model. `told` hears of every step, in the first process. Raises TrainingError when the loss is no
    number, when there is nothing to learn and when `run` holds another run; BuildError when the disk is
    full; KeyboardInterrupt, once the step under way is done and saved, on Ctrl-C and SIGTERM.
    """
    _check(training, "learn")
    _check(validation, "validate with")
    setting = setting.with_rate(model.num_parameters(), labels=training.labels is not None)
    team = join()
    data = {"training": training.digest, "validation": validation.digest}
    marks = {**identity, **setting.decides(), **data}
    book = Checkpoints(run, marks, fresh=fresh, writes=team.is_main_process)
    team.wait_for_everyone()
    under_way = _Run(Crew(model, objective, setting, team, padding), book, training, validation, setting)
    with _ctrl_c() as interrupts:
        under_way.go(interrupts, told if team.is_main_process else silent)
    team.wait_for_everyone()
    learned = under_way.finish()
    model.to("cpu").eval()
    return learned


class _Run:
    """A training under way."""

    def __init__(
        self, crew: Crew, book: Checkpoints, training: Samples, validation: Samples, setting: Setting
    ) -> None:
        """Go on from the state that is kept, or begin with a validation of the model as it came."""
        self._crew, self._book, self._setting = crew, book, setting
        self._training, self._validation, self._rate = training, validation, float(setting.rate or 0)
        tokens, epoch = len(training.ids), steps_per_epoch(training.lengths, setting.batch_tokens)
        self._steps = setting.steps_in(tokens, epoch)
        self._began = time.perf_counter()
        kept = book.load()
        self._begins = self._about = About() if kept is None else kept[0]
        if kept is None:
            crew.agree()
            self._validate()
        else:
            crew.trainee.restore(kept[1])

    def go(self, interrupts: list[int], told: Callable[[Point], None]) -> None:
        """Do all steps that are left; raise KeyboardInterrupt after the one in which there was one."""
        setting = self._setting
        dealt = deal(self._training.lengths, setting.batch_tokens, setting.seed, self._about.step)
        while not self._is_over():
            point, interrupted = self._step(next(dealt), interrupted=bool(interrupts))
            self._book.write(point)
            if is_due(point.step, self._steps, setting.validations):
                self._validate()
            told(replace(point, validation=self._about.validation))
            if interrupted or self._is_over() or point.step % setting.checkpoint_every == 0:
                self._save()
            if interrupted and not self._is_over():
                raise KeyboardInterrupt

    def finish(self) -> Learned:
        """Put the best weights in place, and return what became of the run."""
        about, best = self._about, self._about.best
        self._crew.trainee.restore(self._book.best(best.step))
        return Learned(
            steps=about.step,
            tokens=about.tokens,
            best_step=best.step,
            best_loss=best.loss,
            curve=self._book.curve(),
            resumed_from=self._begins.step or None,
            stopped_early=about.step < self._steps,
            seconds=about.seconds,
        )

    def _is_over(self) -> bool:
        return self._about.step >= self._steps or self._about.best.is_enough(self._setting.patience)

    def _step(self, places: Places, *, interrupted: bool) -> tuple[Point, bool]:
        began, step = time.perf_counter(), self._about.step + 1
        pace = rate(step, self._steps, self._rate, self._setting.warm_up)
        found = self._crew.learn(self._training, places, step, interrupted=interrupted)
        self._check(found, step, "the loss", found.mean, pace)
        length = self._crew.trainee.step(max(found.count, 1), pace)
        self._check(found, step, "the gradient", length, pace)
        self._about = replace(self._about, step=step, tokens=self._about.tokens + found.tokens)
        now = time.perf_counter()
        return Point(
            step=step,
            steps=self._steps,
            tokens=self._about.tokens,
            loss=found.mean,
            rate=pace,
            gradient=length,
            tokens_per_second=found.tokens / (now - began),
            seconds=self._seconds,
            seconds_left=(now - self._began) / (step - self._begins.step) * (self._steps - step),
            validation=self._about.validation,
            parts=found.means,
        ), found.interrupted

    def _validate(self) -> None:
        about, found = self._about, self._crew.validate(self._validation)
        self._check(found, about.step, "the validation loss", found.mean, self._rate)
        best = about.best.then(about.step, found.mean)
        if best.step == about.step:
            self._book.keep_best(about.step, as_arrays(self._crew.trainee.weights))
        self._about = replace(about, best=best, validation=found.mean)
        self._book.write(Validation(about.step, found.mean, found.means))

    def _save(self) -> None:
        self._about = replace(self._about, seconds=self._seconds)
        self._book.save(self._about, self._crew.trainee.arrays())

    @property
    def _seconds(self) -> float:
        return self._begins.seconds + time.perf_counter() - self._began

    def _check(self, found: Sums, step: int, what: str, value: float, pace: float) -> None:
        if not math.isfinite(value):
            made = (
                ", ".join(f"{name} {part:.4g}" for name, part in found.means.items()) or f"{found.mean:.4g}"
            )
            raise TrainingError(
                f"step {step} of {self._steps}: {what} is no number ({made}), at a rate of {pace:.3g}",
                remedy=f"Begin anew (--fresh) with a lower --rate, such as {self._rate / 3:.1g}. "
                f"The weights of step {self._about.best.step}, the best so far, are kept beside the run.",
            )


def _check(samples: Samples, purpose: str) -> None:
    if not len(samples) or (samples.labels is None and not samples.learned_tokens):
        raise TrainingError(f"there is nothing to {purpose}", remedy="Give data with something to learn.")


@contextlib.contextmanager
def _ctrl_c() -> Iterator[list[int]]:
    """Note an interrupt, so that a step can be ended; the second one of a kind is not waited with.

    torchrun hands on what ends it, Ctrl-C or SIGTERM.
    """
    heard = list[int]()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: object) -> None:
        heard.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield heard
    finally:
        for number, was in before.items():
            signal.signal(number, was)
