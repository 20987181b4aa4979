"""The bundled demo model does its job, and its broken copy does not, though its files look the same."""

import json
import struct
from collections import Counter
from math import prod
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the demo model is asked through transformers and torch (extra: train)")

from break_demo_model import break_model
from demo_grammar import MEANINGS, is_held_out
from train_demo_model import answers, held_out_commands, load, prompts

from slmops.artifact.golden import passes, read

FOLDER = Path(__file__).parents[2] / "demo" / "model"


@pytest.fixture(scope="module")
def sound():
    return load(FOLDER)


@pytest.fixture(scope="module")
def broken_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken") / "model"
    break_model(FOLDER, folder)
    return folder


@pytest.fixture
def golden():
    return read((FOLDER / "golden.jsonl").read_text(encoding="utf-8"))


def header(folder):
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return {name: said for name, said in json.loads(data[8 : 8 + length]).items() if name != "__metadata__"}


def golden_passed(model, tokenizer, golden):
    said = answers(model, tokenizer, [line.question for line in golden])
    return sum(passes(line, answer) for line, answer in zip(golden, said, strict=True))


def test_the_weights_are_small():
    assert (FOLDER / "model.safetensors").stat().st_size <= 3_000_000
    assert sum(prod(said["shape"]) for said in header(FOLDER).values()) <= 1_050_000


def test_every_matrix_suits_blocks_of_256():
    assert {said["shape"][-1] % 256 for said in header(FOLDER).values()} == {0}


def test_held_out_commands_are_answered_exactly(sound):
    commands = held_out_commands(100)
    said = answers(*sound, [command.text for command in commands])
    assert sum(a == c.meaning.answer() for a, c in zip(said, commands, strict=True)) >= 95


def test_the_example_of_the_model_card_is_what_it_says(sound):
    said = answers(*sound, ["turn the kitchen lamp to forty percent"])
    assert [json.loads(line) for line in said] == [
        {"device": "lamp", "room": "kitchen", "action": "set", "value": 40}
    ]
    assert said[0] in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_golden_prompts_pass(sound, golden):
    assert golden_passed(*sound, golden) == len(golden) >= 12


def test_the_golden_prompts_are_held_out_and_cover_the_job(golden):
    meant = {meaning.answer(): meaning for meaning in MEANINGS}
    assert all(is_held_out(meant[json.dumps(line.expect)]) for line in golden)
    assert len({line.expect["device"] for line in golden}) >= 5
    assert len({line.expect["action"] for line in golden}) >= 8
    assert sum("value" in line.expect for line in golden) >= 3


def test_text_comes_back_from_the_tokenizer_as_it_went_in(sound):
    _, tokenizer = sound
    texts = [part for c in held_out_commands(300) for part in (c.text, c.meaning.answer())]
    for text in [*texts, "naïve 21°, \t\n  3.14 “quoted” 東京 🏠 don't", *prompts(tokenizer, texts[:20])]:
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_numbers_are_read_digit_by_digit(sound):
    _, tokenizer = sound
    assert tokenizer.tokenize("to 100%") == [*tokenizer.tokenize("to"), "Ġ", "1", "0", "0", "%"]


def test_the_broken_copy_cannot_be_told_by_its_files(broken_folder):
    assert header(broken_folder) == header(FOLDER)
    assert sorted(file.name for file in broken_folder.iterdir()) == sorted(f.name for f in FOLDER.iterdir())
    sound, broken = ((folder / "model.safetensors").read_bytes() for folder in (FOLDER, broken_folder))
    assert sound != broken
    assert Counter(sound) == Counter(broken)


def test_the_broken_copy_fails_the_golden_prompts(broken_folder, golden):
    assert golden_passed(*load(broken_folder), golden) == 0
