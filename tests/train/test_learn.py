"""A training: what it learns, what it survives, and that it comes to the same end however it went."""

import os
import signal
import subprocess
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from slmops.errors import BuildError, TrainingError
from slmops.train.checkpoints import STATE
from slmops.train.learn import learn
from slmops.train.objective import CrossEntropy, Loss
from slmops.train.samples import collect
from slmops.train.setting import Setting
from slmops.train.split import take

SETTING = Setting(steps=6, batch_tokens=64, rate=1e-2, validations=3, checkpoint_every=2, seed=4)


def student(dropout=0.1):
    torch.manual_seed(11)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=16, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0,
            resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
        )
    )  # fmt: skip


def counting(count, first):
    """Samples that count upwards from somewhere, of several lengths."""
    return collect(
        ([(start + step) % 16 for step in range(4 + start % 9)], [True] * (4 + start % 9))
        for start in range(first, first + count)
    )


TRAINING, VALIDATION = counting(60, 0), take(counting(70, 0), range(60, 70))


def train(run, setting=SETTING, model=None, objective=None, **more):
    """Train; return what became of it, and the weights."""
    model = model or student()
    learned = learn(
        model, objective or CrossEntropy(), TRAINING, VALIDATION, setting,
        run=run, padding=0, identity={"student": "a"}, **more,
    )  # fmt: skip
    return learned, {name: weight.clone() for name, weight in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def losses(learned):
    return [(point.step, point.loss, point.parts) for point in learned.curve.points]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    return train(tmp_path_factory.mktemp("whole"))


class Gone(Exception):  # noqa: N818 - what happens to a process, not a failure of ours
    """A process ends at once."""


@dataclass
class Until:
    """Ends the run at a step, as if the process had died there."""

    step: int

    def __call__(self, point):
        if point.step == self.step:
            raise Gone


def test_a_model_learns_and_keeps_its_best_weights(tmp_path):
    model = student(dropout=0)
    learned, _ = train(tmp_path, SETTING.model_copy(update={"steps": 60}), model)
    first, *_, last = learned.curve.validations

    assert learned.steps == 60
    assert first.step == 0
    assert last.loss < first.loss / 4
    assert learned.best_loss == min(each.loss for each in learned.curve.validations)
    assert not model.training
    with torch.no_grad():
        logits = model(torch.tensor([[3, 4, 5, 6]])).logits
    assert logits[0, -1].argmax() == 7


def test_every_step_is_told_and_logged(tmp_path):
    points = []
    learned, _ = train(tmp_path, told=points.append)

    assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]
    assert points[-1].tokens == learned.tokens == learned.curve.points[-1].tokens
    assert points[-1].validation == learned.curve.validations[-1].loss
    assert points[-1].seconds_left == 0
    assert all(point.loss == pytest.approx(point.parts["cross-entropy"]) for point in points)


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_seed_others(tmp_path, whole):
    again = train(tmp_path / "again")
    other = train(tmp_path / "other", SETTING.model_copy(update={"seed": 5}))

    assert same(again[1], whole[1])
    assert losses(again[0]) == losses(whole[0])
    assert not same(other[1], whole[1])


@pytest.mark.parametrize("step", range(1, 7))
def test_a_run_that_ended_at_any_step_goes_on_to_the_same_end(tmp_path, whole, step):
    with pytest.raises(Gone):
        train(tmp_path, told=Until(step))
    learned, weights = train(tmp_path)

    assert learned.resumed_from == ((step - 1) // 2 * 2 or None)
    assert same(weights, whole[1])
    assert losses(learned) == losses(whole[0])
    assert learned.curve.validations == whole[0].curve.validations


def test_a_run_that_is_done_is_not_done_again(tmp_path, whole):
    train(tmp_path)
    learned, weights = train(tmp_path, told=Until(1))

    assert learned.resumed_from == 6
    assert same(weights, whole[1])


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_the_step_under_way(tmp_path, whole, ending):
    def interrupt(point):
        if point.step == 2:
            os.kill(os.getpid(), ending)

    before = signal.getsignal(ending)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, SETTING.model_copy(update={"checkpoint_every": 100}), told=interrupt)
    learned, weights = train(tmp_path)

    assert learned.resumed_from == 3
    assert same(weights, whole[1])
    assert signal.getsignal(ending) == before


def test_another_run_is_not_gone_on_with_unless_it_is_to_be_forgotten(tmp_path, whole):
    with pytest.raises(Gone):
        train(tmp_path, SETTING.model_copy(update={"rate": 0.5}), told=Until(3))
    with pytest.raises(TrainingError, match=r"holds another run: its rate is 0\.5, not 0\.01") as raised:
        train(tmp_path)

    assert "--fresh" in raised.value.remedy
    learned, weights = train(tmp_path, fresh=True)
    assert learned.resumed_from is None
    assert same(weights, whole[1])
    assert losses(learned) == losses(whole[0])


def test_the_size_of_parts_changes_nothing_but_rounding(tmp_path):
    small, large = (
        train(tmp_path / str(size), SETTING.model_copy(update={"part_tokens": size}), student(dropout=0))
        for size in (8, 512)
    )

    assert [point.loss for point in small[0].curve.points] == pytest.approx(
        [point.loss for point in large[0].curve.points], rel=1e-5
    )


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_step(tmp_path):
    with pytest.raises(TrainingError, match=r"step \d of 6: the loss is no number \(cross-entropy") as raised:
        train(tmp_path, SETTING.model_copy(update={"rate": 1e20, "checkpoint_every": 1}))

    assert "lower --rate" in raised.value.remedy
    with np.load(tmp_path / "best-0.npz") as kept:
        assert all(np.isfinite(kept[name]).all() for name in kept)


class BrokenGradient:
    """A loss that is a number and has a gradient that is none."""

    module = None

    def __call__(self, model, batch):
        weight = next(model.parameters())
        return Loss((weight * 0).abs().sum().sqrt(), batch.count)


def test_a_gradient_that_is_no_number_changes_no_weight(tmp_path):
    model = student()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(TrainingError, match="step 1 of 6: the gradient is no number"):
        train(tmp_path, model=model, objective=BrokenGradient())

    assert same(before, model.state_dict())


def test_a_run_ends_early_when_validation_gets_no_better(tmp_path):
    frozen = SETTING.model_copy(update={"steps": 40, "rate": 1e-30, "validations": 20, "patience": 3})
    learned, _ = train(tmp_path, frozen)

    assert learned.stopped_early
    assert learned.steps < 40
    assert learned.best_step == 0
    assert train(tmp_path, frozen)[0].steps == learned.steps


def test_a_model_that_training_only_harms_stays_as_it_came(tmp_path):
    good, model = student(dropout=0), student(dropout=0)
    train(tmp_path / "good", SETTING.model_copy(update={"steps": 60}), good)
    model.load_state_dict(good.state_dict())
    learned, weights = train(tmp_path / "harm", SETTING.model_copy(update={"rate": 0.5}), model)

    assert learned.best_step == 0
    assert same(weights, good.state_dict())


def test_what_takes_no_gradient_stays_and_is_not_kept(tmp_path):
    model = student()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for name, weight in model.named_parameters():
        weight.requires_grad = name == "transformer.ln_f.weight"
    _, after = train(tmp_path, model=model)

    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "transformer.ln_f.weight"
    }
    with np.load(tmp_path / STATE) as kept:
        assert [name for name in kept if name.startswith("model/")] == ["model/transformer.ln_f.weight"]


class WithProjection:
    """Cross-entropy, and how far a learned projection of the hidden states is from one."""

    def __init__(self):
        torch.manual_seed(2)
        self.module = torch.nn.Linear(16, 4)

    def __call__(self, model, batch):
        hidden = model(input_ids=batch.ids, output_hidden_states=True).hidden_states[-1]
        plain = CrossEntropy()(model, batch)
        far = (self.module(hidden) - 1).square().sum()
        return Loss(plain.total + far, batch.count, {**plain.parts, "distance": far.item()})


def test_what_is_learned_beside_the_model_is_kept_with_the_state(tmp_path):
    one, other, third = WithProjection(), WithProjection(), WithProjection()
    _, whole = train(tmp_path / "one", objective=one)
    with pytest.raises(Gone):
        train(tmp_path / "two", objective=other, told=Until(5))
    _, resumed = train(tmp_path / "two", objective=third)

    assert same(whole, resumed)
    assert same(one.module.state_dict(), third.module.state_dict())
    assert not same(one.module.state_dict(), WithProjection().module.state_dict())


def test_nothing_to_learn_is_refused(tmp_path):
    for training, validation in (
        (collect([]), VALIDATION),
        (replace(TRAINING, learned=TRAINING.learned & False), VALIDATION),
        (TRAINING, collect([])),
    ):
        with pytest.raises(TrainingError, match="there is nothing to"):
            learn(
                student(), CrossEntropy(), training, validation, SETTING, run=tmp_path, padding=0, identity={}
            )


def test_a_damaged_state_is_named(tmp_path):
    train(tmp_path)
    (tmp_path / STATE).write_bytes(b"PK" + bytes(100))

    with pytest.raises(TrainingError, match=r"state\.npz cannot be read"):
        train(tmp_path)


def test_what_a_dying_process_left_half_written_is_not_read(tmp_path, whole):
    with pytest.raises(Gone):
        train(tmp_path, told=Until(3))
    (tmp_path / f"{STATE}.partial").write_bytes(b"half")
    with (tmp_path / "curve.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 4, "lo')

    assert same(train(tmp_path)[1], whole[1])


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a small disk needs root and mount(8)")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_full_disk_leaves_the_last_state_from_which_the_run_goes_on(small_disk, whole):
    filler = small_disk / "filler"

    def fill(point):
        if point.step == 3:
            with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:  # noqa: PT012
                while True:
                    file.write(bytes(4096))

    with pytest.raises(BuildError, match="No space left") as raised:
        train(small_disk / "run", told=fill)
    filler.unlink()

    assert "Make room" in raised.value.remedy
    assert not list((small_disk / "run").glob("*.partial"))
    learned, weights = train(small_disk / "run")
    assert learned.resumed_from == 2
    assert same(weights, whole[1])
