"""Teach a student what its teacher knows: read, hold together, train, write the folder, keep the ledger.

Everything on the way is found again when the same run is begun again: the teacher's answers, the cut
student, the recorded teacher, the checkpoint. So it goes on wherever it was ended; and of several
processes (torchrun) the first makes what is made once, and the others find it.

Laws: `out` is a model only once the training is done; a run of other data or settings in the same place
is refused; only the first process writes there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from slmops.build.checkpoint import Checkpoint
from slmops.build.classifier import is_classifier
from slmops.build.isolate import Progress
from slmops.build.labelled_lines import read_lines
from slmops.build.sketch import Sketch
from slmops.build.tasks import Task
from slmops.build.texts import Text, read_text, read_texts
from slmops.profile.device import DeviceProfile
from slmops.train.account import Distilled, Taught, account
from slmops.train.check_distillation import check_distillation
from slmops.train.distill_recipe import DistillRecipe
from slmops.train.first_loss import first_loss
from slmops.train.join import join
from slmops.train.learn import learn
from slmops.train.model_folder import RUN, write_model
from slmops.train.open_distillation import open_distillation
from slmops.train.open_student import ANSWERS, open_student
from slmops.train.open_trainable import open_teacher
from slmops.train.read_data import padding_of, read_data
from slmops.train.setting import share_of_rate
from slmops.train.told import Told
from slmops.train.write_answers import write_answers


def distill(
    recipe: DistillRecipe,
    tasks: tuple[Task, ...],
    *,
    cache: Path,
    load: Callable[[str], DeviceProfile],
    fresh: bool,
    told: Told,
) -> Distilled | None:
    """Carry out a recipe; return what became of it, in the first process, and nothing in the others.

    `cache` is a folder for recorded teachers, which many runs may share; `load` finds a device profile by
    its name. Raises what its parts raise: a ModelError for a teacher and a student that do not go
    together, a DocumentError for data that cannot be read, a UsageError for an `out` that is taken, a
    TrainingError when the run cannot go on, a BuildError when something cannot be written.
    """
    team = join()
    teacher, out = open_teacher(recipe.teacher), Path(recipe.out)
    check_distillation(recipe, teacher, load)
    with team.main_process_first():
        if team.is_main_process and recipe.prompts:
            _ask(recipe, teacher, told.doing, fresh=fresh)
        files = _files(recipe)
        student = open_student(recipe, teacher, files, load, told.doing)
    setting, teaching, padding = recipe.training, recipe.teaching, padding_of(student.drawn)
    validation = Path(recipe.validation) if recipe.validation else None
    data = read_data(files, validation, student.drawn, setting.length, throughout=recipe.learn == "all")
    objective = open_distillation(
        teacher,
        student.drawn,
        student.model,
        (data.training, data.validation),
        texts=texts_of(files, student.drawn),
        teaching=teaching,
        cache=cache,
        process=(team.process_index, team.num_processes),
        progress=told.doing,
    )
    if setting.rate is None:
        share = share_of_rate(first_loss(student.model, objective, data.validation, padding))
        labels = is_classifier(student.drawn.config)
        setting = setting.with_rate(student.model.num_parameters(), labels=labels, share=share)
        recipe = recipe.model_copy(update={"training": setting})
    identity = {"teacher": teacher.digest, "student": student.digest}
    identity |= {name: str(value) for name, value in teaching.model_dump(mode="json").items()}
    learned = learn(
        student.model,
        objective,
        data.training,
        data.validation,
        setting,
        run=out / RUN,
        padding=padding,
        identity=identity,
        fresh=fresh,
        told=told.learned,
    )
    if not team.is_main_process:
        return None
    write_model(out, student.model, student.drawn)
    return account(Taught(recipe, tasks, teacher, student, data, learned), told.doing)


def texts_of(files: Sequence[Path], drawn: Sketch) -> Iterator[Text]:
    """Yield the texts that a student of the folder `drawn` reads in `files`, as both models must cut them."""
    for file in files:
        if is_classifier(drawn.config):
            yield from (line.text for line in read_lines(read_text(file), str(file)))
        else:
            yield from read_texts(file)


def _ask(recipe: DistillRecipe, teacher: Checkpoint, progress: Progress, *, fresh: bool) -> None:
    """Let the teacher answer the prompts; what it has answered in an earlier begin of this run is there."""
    prompts = [Path(one) for one in recipe.prompts]
    write_answers(teacher, prompts, _answers(recipe), recipe.asking, progress, fresh=fresh)


def _files(recipe: DistillRecipe) -> list[Path]:
    """Return the files to learn from: those that are given, and the teacher's answers if it is asked."""
    return [*map(Path, recipe.data), *([_answers(recipe)] if recipe.prompts else [])]


def _answers(recipe: DistillRecipe) -> Path:
    return Path(recipe.out) / RUN / ANSWERS
