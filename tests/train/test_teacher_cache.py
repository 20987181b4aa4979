"""What a teacher said is found again, whole; what is missing or rotten is recorded again, the same."""

import resource

import numpy as np
import pytest
import torch
import transformers

from slmops.build.checkpoint import open_checkpoint
from slmops.build.isolate import silent
from slmops.errors import BuildError
from slmops.train import record_teacher as recorder
from slmops.train.agreement import Agreement
from slmops.train.batch import lay
from slmops.train.divergences import Dense, Measure, Top, compare
from slmops.train.open_trainable import load_weights
from slmops.train.record_teacher import Recording, record_teacher
from slmops.train.samples import Samples, collect
from slmops.train.teacher import Teacher
from slmops.train.teacher_cache import SHARD, TeacherCache, sizes
from slmops.train.top_k import join

VOCABULARY = 40


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.5,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("teacher")
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def samples():
    """Samples of about three shards, some of which have nothing to learn."""
    dice = np.random.default_rng(1)
    texts = [dice.integers(0, VOCABULARY, dice.integers(1, 400)) for _ in range(200)]
    found = collect((ids, dice.random(len(ids)) < 0.98) for ids in texts)
    assert 2 * SHARD < found.learned_tokens < 3 * SHARD
    return found


def asked(teacher, agreement=None, process=(0, 1), k=16):
    found = agreement or Agreement()
    return Recording(teacher, found, found.width(VOCABULARY), k, 1.0, process)


def recorded(teacher, cache, **said):
    """Record in this process."""
    missing = [(cache, shards) for shards in [cache.missing()] if shards]
    recorder._record(silent, asked(teacher, **said), missing)
    return cache


def contents(cache):
    return {file.name: file.read_bytes() for file in cache.folder.iterdir()}


@pytest.fixture(scope="module")
def whole(teacher, samples, tmp_path_factory):
    return recorded(teacher, TeacherCache(tmp_path_factory.mktemp("cache"), samples, ["somebody"]))


def test_what_was_said_of_a_sample_is_found_by_its_place(whole, teacher, samples):
    model = load_weights(teacher)
    for place in (199, 0, 57):
        batch = lay(samples, [place], 0)
        logits = Teacher(model, Agreement()).logits(batch)
        top = whole.said(place)
        assert len(top.ids) == len(logits) == sizes(samples)[place]
        assert np.array_equal(top.ids[:, 0], logits.argmax(-1).numpy())


def test_what_was_recorded_teaches_as_the_teacher_itself(whole, teacher, samples):
    batch = lay(samples, range(200), 0)
    logits = Teacher(load_weights(teacher), Agreement()).logits(batch)
    top = join([whole.said(place) for place in batch.places])
    target = Top(*(torch.from_numpy(each) for each in vars(top).values()))
    student = 0.7 * logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    right = torch.zeros(len(logits), dtype=torch.int64)
    got, expected = (compare(student, right, each, Measure()).divergence for each in (target, Dense(logits)))
    assert abs(got / expected - 1) < 0.02


def test_a_finished_shard_is_never_recorded_again_and_a_rotten_one_is(whole, teacher, samples, tmp_path):
    cache = recorded(teacher, TeacherCache(tmp_path, samples, ["somebody"]))
    before = contents(cache)
    assert before == contents(whole)
    assert cache.missing() == []
    file = cache.folder / "000001.top"
    file.write_bytes(before[file.name][:500] + b"?" + before[file.name][501:])
    (cache.folder / "000002.top").write_bytes(before["000002.top"][:-7])
    kept = (cache.folder / "000000.top").stat().st_ino
    assert cache.missing() == [1, 2]
    recorded(teacher, cache)
    assert contents(cache) == before
    assert (cache.folder / "000000.top").stat().st_ino == kept


def test_a_recording_that_is_broken_off_goes_on_to_the_same_bytes(whole, teacher, samples, tmp_path):
    cache = TeacherCache(tmp_path, samples, ["somebody"])

    def broken_off(doing, share):
        if doing.startswith("reading") and share >= 0.3:
            raise KeyboardInterrupt

    missing = [(cache, cache.missing())]
    with pytest.raises(KeyboardInterrupt):
        recorder._record(broken_off, asked(teacher), missing)
    assert cache.missing() == [1, 2]
    assert contents(recorded(teacher, cache)) == contents(whole)


def test_processes_begin_with_shares_of_their_own_and_take_what_is_left():
    orders = [list(recorder._order([3, 5, 6, 8, 9], (number, 2))) for number in (0, 1)]
    assert orders == [[3, 6, 9, 8, 5], [5, 8, 9, 6, 3]]


def test_another_teacher_another_setting_or_other_samples_have_a_folder_of_their_own(samples, tmp_path):
    fewer = Samples(samples.ids[:50], samples.learned[:50], np.array([0, 50]))
    caches = [
        TeacherCache(tmp_path, which, said)
        for which, said in (
            (samples, ["a", "64"]),
            (samples, ["b", "64"]),
            (samples, ["a", "32"]),
            (fewer, ["a", "64"]),
        )
    ]
    assert len({cache.folder for cache in caches}) == 4


def test_a_disk_that_takes_no_more_is_a_build_error_and_leaves_no_half_shard(teacher, samples, tmp_path):
    cache = TeacherCache(tmp_path, samples, ["somebody"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(BuildError, match="does not take what the teacher says"):
            recorded(teacher, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(cache.folder.iterdir()) == []


def test_what_was_not_recorded_is_said_to_be_missing(samples, tmp_path):
    with pytest.raises(BuildError, match="cannot be read"):
        TeacherCache(tmp_path, samples, ["somebody"]).said(3)


def test_a_student_of_fewer_words_is_told_of_those_alone(teacher, samples, tmp_path):
    few = np.arange(0, VOCABULARY, 2)
    agreement = Agreement(reads=np.arange(VOCABULARY), student=few, teacher=few)
    cache = recorded(teacher, TeacherCache(tmp_path, samples, ["somebody"]), agreement=agreement)
    batch = lay(samples, [5], 0)
    logits = Teacher(load_weights(teacher), agreement).logits(batch)
    assert logits.shape[1] == 20
    top = cache.said(5)
    assert np.array_equal(top.ids[:, 0], logits.argmax(-1).numpy())
    assert top.drawn.max() < 20


def test_a_classifier_has_one_distribution_a_text():
    found = collect([([1, 2, 3], [False] * 3), ([4], [False])], labels=[1, 0])
    assert sizes(found).tolist() == [1, 1]


@pytest.mark.journey
def test_a_recorder_that_is_killed_loses_the_open_shard_alone(whole, teacher, samples, tmp_path):
    cache = TeacherCache(tmp_path, samples, ["somebody"])

    def kill(doing, share):
        if doing.startswith("reading") and share >= 0.3:
            raise InterruptedError

    # What is raised here ends the recorder with SIGKILL, whatever it is doing.
    with pytest.raises(InterruptedError):
        record_teacher(asked(teacher), [cache], kill)
    kept = {file.name: file.stat().st_ino for file in cache.folder.glob("*.top")}
    assert "000000.top" in kept
    record_teacher(asked(teacher), [cache], silent)
    assert {name: (cache.folder / name).stat().st_ino for name in kept} == kept
    assert contents(cache) == contents(whole)
