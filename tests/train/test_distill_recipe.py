"""A recipe of a distillation: what it says, where its paths lead, and what it may not say."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops import document
from slmops.build.load_recipe import save_recipe
from slmops.build.recipe import Calibration, Target
from slmops.errors import DocumentError
from slmops.train.answers import Asking
from slmops.train.distill_recipe import DistillRecipe, Measuring, Then
from slmops.train.load_distill_recipe import anchored, load_distill_recipe
from slmops.train.setting import Setting
from slmops.train.sieve import Sieve
from slmops.train.teaching import Teaching

ROOT = Path(__file__).parents[2]
LEAST = "teacher: t\nstudent: prune:50%\nout: o\ndata: [d.txt]\n"

words = st.text(min_size=1, max_size=12)
some = st.lists(words, max_size=2).map(tuple)
counts = st.integers(1, 1 << 20)
shares = st.floats(0, 1)
maybe = st.none() | words
measuring = st.builds(Measuring, file=maybe, tokens=st.integers(64, 1 << 20))
settings = st.builds(
    Setting,
    epochs=st.none() | counts,
    batch_tokens=counts,
    rate=st.none() | st.floats(1e-9, 1),
    warm_up=shares,
    seed=st.integers(0, 1 << 30),
    patience=st.none() | counts,
    precision=st.sampled_from(["float32", "bfloat16"]),
)
teachings = st.builds(
    Teaching,
    divergence=st.sampled_from(["forward-kl", "reverse-kl", "jensen-shannon"]),
    weight=shares,
    temperature=st.floats(0.1, 20),
    hidden=st.floats(0, 10),
    on_policy=shares,
    top_k=st.integers(1, 255),
)
askings = st.builds(
    Asking,
    answers=counts,
    temperature=st.floats(0, 2),
    chat=st.booleans(),
    opening_words=st.none() | counts,
    sieve=st.builds(Sieve, keep_cut=st.booleans(), least=counts, most=st.none() | counts),
)
releases = st.builds(
    Then,
    name=words,
    version=words,
    profiles=st.lists(st.builds(Target, profile=words, type=words), min_size=1, max_size=2),
    calibration=st.none() | st.builds(Calibration, file=words),
    evaluation=measuring,
)
recipes = st.builds(
    DistillRecipe,
    teacher=words,
    student=words,
    out=words,
    data=st.lists(words, min_size=1, max_size=2).map(tuple),
    prompts=some,
    asking=askings,
    validation=maybe,
    training=settings,
    teaching=teachings,
    calibration=maybe,
    evaluation=measuring,
    tasks=some,
    quantize=st.none() | releases,
)


@given(recipes)
def test_what_is_written_reads_back_as_the_same_recipe(recipe):
    again = document.loads(document.dumps(recipe), DistillRecipe, "distill.yaml")
    assert document.dumps(again) == document.dumps(recipe)


def test_what_is_saved_loads_as_the_same_recipe(tmp_path):
    recipe = anchored(document.loads(LEAST, DistillRecipe, "distill.yaml"), tmp_path)
    save_recipe(recipe, tmp_path / "run" / "recipe.yaml")

    assert load_distill_recipe(tmp_path / "run" / "recipe.yaml") == recipe
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["recipe.yaml"]


def test_paths_are_seen_from_the_file(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "distill.yaml").write_text(
        LEAST + "tasks: [task.jsonl]\nevaluation: {file: held.txt}\n"
        "quantize: {name: n, version: 1.0.0, profiles: [local], golden: g.jsonl}\n"
    )
    recipe = load_distill_recipe(tmp_path / "distill.yaml")

    assert recipe.teacher == str(tmp_path / "t")
    assert (recipe.student, recipe.out) == ("prune:50%", str(tmp_path / "o"))
    assert (*recipe.data, *recipe.tasks) == (str(tmp_path / "d.txt"), str(tmp_path / "task.jsonl"))
    assert recipe.evaluation.file == str(tmp_path / "held.txt")
    assert recipe.quantize
    assert (recipe.quantize.model, recipe.quantize.golden) == ("", str(tmp_path / "g.jsonl"))


def test_a_text_to_measure_with_leaves_how_much_of_it_as_it_is():
    said = document.loads(LEAST + "evaluation: {file: held.txt}\n", DistillRecipe, "distill.yaml")

    assert said.evaluation.tokens == DistillRecipe.model_fields["evaluation"].default.tokens == 2048


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("trainig: {}", "trainig: unknown key; did you mean 'training'?"),
        ("training: {epoch: 3}", "training.epoch: unknown key; did you mean 'epochs'?"),
        ("training: {steps: 3, tokens: 9}", "expected at most one of epochs, steps and tokens"),
        ("asking: {anwers: 3}", "asking.anwers: unknown key; did you mean 'answers'?"),
        ("asking: {sieve: {keepcut: true}}", "asking.sieve.keepcut: unknown key; did you mean 'keep_cut'?"),
        ("teaching: {hidden: 1.0, cache: yes}", "hidden needs the teacher at hand"),
        ("teaching: {weight: 2.0}", "teaching.weight: expected at most 1"),
    ],
)
def test_what_it_may_not_say_is_told_with_its_line(line, told):
    with pytest.raises(DocumentError, match=r"distill\.yaml, line 5: ") as caught:
        document.loads(LEAST + line, DistillRecipe, "distill.yaml")
    assert told in str(caught.value)


def test_without_anything_to_learn_from_it_is_none():
    with pytest.raises(DocumentError, match="expected data, or prompts for the teacher to answer"):
        document.loads("teacher: t\nstudent: s\nout: o\n", DistillRecipe, "distill.yaml")


def test_the_example_is_one():
    recipe = load_distill_recipe(ROOT / "distill.example.yaml")

    assert recipe.quantize
    assert recipe.teacher == str(ROOT / "demo/model")
