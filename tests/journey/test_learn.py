"""Training as it really goes wrong, and on more than one process."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STEPS = 12
TRAINS = f"""
import sys
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from slmops.train.join import join
from slmops.train.learn import learn
from slmops.train.objective import CrossEntropy
from slmops.train.samples import collect
from slmops.train.setting import Setting
from slmops.train.split import split
from slmops.train.trainee import as_arrays

run, out = map(Path, sys.argv[1:3])
# Processes that begin with different weights agree on the first one's.
torch.manual_seed(join().process_index)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    attention_dropout=float(sys.argv[3]),
))
texts = ([(start * 7 + step * 3) % 64 for step in range(3 + start % 17)] for start in range(200))
training, validation = split(collect((ids, [True] * len(ids)) for ids in texts))
learned = learn(
    model, CrossEntropy(), training, validation,
    Setting(steps={STEPS}, batch_tokens=256, validations=4, checkpoint_every=2),
    run=run, padding=0, identity={{}}, told=lambda point: print(point.step, flush=True),
)
if join().is_main_process:
    import numpy
    numpy.savez(out, **as_arrays(model.state_dict()))
join().destroy_process_group()
"""

pytestmark = pytest.mark.journey


@pytest.fixture
def program(tmp_path):
    file = tmp_path / "train.py"
    file.write_text(TRAINS)
    return file


def start(*words):
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    return err


def weights(file):
    with np.load(file) as found:
        return dict(found)


def curve(run):
    return [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]


def test_a_run_killed_at_any_step_comes_to_the_same_weights_to_the_bit(program, tmp_path):
    finish(start(program, tmp_path / "whole", tmp_path / "whole.npz", 0.1))
    kills = [random.randrange(1, 5) for _ in range(3)]  # noqa: S311 - any steps, no secret
    for told in kills:
        process = start(program, tmp_path / "run", tmp_path / "run.npz", 0.1)
        for _ in range(told):
            process.stdout.readline()
        process.kill()
        process.communicate()
    finish(start(program, tmp_path / "run", tmp_path / "run.npz", 0.1))
    one, other = weights(tmp_path / "whole.npz"), weights(tmp_path / "run.npz")

    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one), f"killed after {kills} steps"
    assert [line["step"] for line in curve(tmp_path / "run") if line["kind"] == "step"] == [
        *range(1, STEPS + 1)
    ]


def test_two_processes_learn_what_one_does(program, tmp_path):
    finish(start(program, tmp_path / "one", tmp_path / "one.npz", 0))
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    finish(start(*launch, program, tmp_path / "two", tmp_path / "two.npz", 0))
    one, two = (
        [(line["kind"], line["step"], line["loss"]) for line in curve(tmp_path / name)]
        for name in ("one", "two")
    )

    assert [line[:2] for line in one] == [line[:2] for line in two]
    assert [line[2] for line in one] == pytest.approx([line[2] for line in two], rel=1e-5)
    first, second = weights(tmp_path / "one.npz"), weights(tmp_path / "two.npz")
    assert all(np.allclose(first[name], second[name], atol=1e-4) for name in first)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        path.name for path in (tmp_path / "one").iterdir()
    }
