"""A student learns from its teacher: at hand or recorded, by logits, hidden states, and its own words."""

import json

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from slmops.build.checkpoint import open_checkpoint
from slmops.errors import ModelError
from slmops.train import record_teacher as recorder
from slmops.train.agreement import Agreement
from slmops.train.batch import lay
from slmops.train.distillation import Distillation
from slmops.train.hidden_states import HiddenStates, pairs
from slmops.train.on_policy import write_rest
from slmops.train.open_distillation import open_distillation
from slmops.train.open_trainable import load_weights
from slmops.train.record_teacher import Recording
from slmops.train.samples import collect
from slmops.train.teacher import Teacher
from slmops.train.teacher_cache import TeacherCache
from slmops.train.teaching import Teaching

TEXTS = ["the cat sat on the mat", "the dog sat on the cat", "a mat and a dog", "the cat and the dog sat"]


def tokenizer(folder, texts=TEXTS):
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    found.train_from_iterator(texts, trainer)
    found.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def llama(folder, seed, *, hidden=16, layers=2, rows=300, texts=TEXTS):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=rows, hidden_size=hidden, intermediate_size=24, num_hidden_layers=layers,
        num_attention_heads=2, max_position_embeddings=64, tie_word_embeddings=True, initializer_range=0.3,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer(folder, texts)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return llama(tmp_path_factory.mktemp("teacher"), 1, hidden=32, layers=4)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return llama(tmp_path_factory.mktemp("student"), 2)


@pytest.fixture(scope="module")
def samples(teacher):
    words = Tokenizer.from_file(str(teacher.words()))
    cut = [[0, *words.encode(text).ids, 1] for text in TEXTS]
    return collect((ids, [True] * len(ids)) for ids in cut)


def opened(teacher, student, samples, room, **said):
    model = load_weights(student)
    data = (samples, samples)
    found = open_distillation(
        teacher, student, model, data, texts=TEXTS, teaching=Teaching(**said), cache=room
    )
    return found, model


def gradient(model):
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def test_a_recorded_teacher_teaches_what_one_at_hand_does(teacher, student, samples, tmp_path):
    cache = TeacherCache(tmp_path, samples, ["it"])
    asked = Recording(teacher, Agreement(), 300, 128, 1.0, (0, 1))
    recorder._record(lambda *_: None, asked, [(cache, cache.missing())])
    batch, found = lay(samples, range(4), 0), {}
    for name, source in (
        ("live", Teacher(load_weights(teacher), Agreement())),
        ("kept", {samples.digest: cache}),
    ):
        model = load_weights(student)
        loss = Distillation(source, Teaching(weight=0.5, cache="auto"))(model, batch)
        loss.total.backward()
        found[name] = (loss, gradient(model))
    (live, slope), (kept, near) = found["live"], found["kept"]
    assert live.count == kept.count == batch.count
    assert abs(kept.parts["divergence"] / live.parts["divergence"] - 1) < 0.02
    assert kept.parts["cross-entropy"] == live.parts["cross-entropy"]
    assert torch.nn.functional.cosine_similarity(slope, near, 0) > 0.98


def test_a_student_learns_to_say_what_its_teacher_says(teacher, student, samples, tmp_path):
    objective, model = opened(teacher, student, samples, tmp_path, cache="no", weight=1.0)
    batch = lay(samples, range(4), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = objective(model, batch)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item() / loss.count)
    assert losses[-1] < losses[0] / 3


def test_the_teacher_itself_as_a_student_has_nothing_to_learn(teacher, samples, tmp_path):
    for kind in ("forward-kl", "reverse-kl", "jensen-shannon"):
        objective, model = opened(
            teacher, teacher, samples, tmp_path, cache="no", divergence=kind, weight=1.0
        )
        assert abs(objective(model, lay(samples, range(4), 0)).total.item()) < 1e-3


def test_rows_of_padding_in_one_vocabulary_alone_are_compared_with_nothing(teacher, samples, tmp_path):
    narrow = llama(tmp_path / "narrow", 3, rows=len_of_words(teacher))
    objective, model = opened(teacher, narrow, samples, tmp_path, cache="no", divergence="reverse-kl")
    loss = objective(model, lay(samples, range(4), 0))
    assert torch.isfinite(loss.total)
    wide = llama(tmp_path / "wide", 3, rows=320)
    objective, model = opened(teacher, wide, samples, tmp_path, cache="no", weight=1.0)
    loss = objective(model, lay(samples, range(4), 0))
    loss.total.backward()
    assert torch.isfinite(gradient(model)).all()


def len_of_words(checkpoint):
    return Tokenizer.from_file(str(checkpoint.words())).get_vocab_size()


def test_a_student_of_another_tokenizer_is_refused_with_the_text(teacher, samples, tmp_path):
    other = llama(tmp_path / "other", 4, texts=["cat catalogue dogma matter", "sat satin on and andes"])
    with pytest.raises(ModelError, match="do not cut the data's texts alike"):
        opened(teacher, other, samples, tmp_path, cache="no")


def test_hidden_states_begin_with_the_best_map_and_are_learned_beside_the_student(
    teacher, student, samples, tmp_path
):
    objective, model = opened(teacher, student, samples, tmp_path, hidden=2.0, weight=0.5)
    assert objective.module is not None
    batch = lay(samples, range(4), 0)
    first = objective(model, batch)
    assert 0 < first.parts["hidden"] / first.count < 1
    expected = (
        0.5 * first.parts["cross-entropy"] + 0.5 * first.parts["divergence"] + 2 * first.parts["hidden"]
    )
    assert first.total.item() == pytest.approx(expected, rel=1e-5)
    first.total.backward()
    assert all(weight.grad is not None for weight in objective.module.parameters())


def test_hidden_states_of_equals_lie_at_no_distance(teacher, samples, tmp_path):
    objective, model = opened(teacher, teacher, samples, tmp_path, hidden=1.0)
    assert objective.module is None
    assert objective(model, lay(samples, range(4), 0)).parts["hidden"] == pytest.approx(0, abs=1e-6)


def test_layers_are_mapped_evenly_and_the_last_on_the_last():
    assert pairs(2, 4) == [(1, 2), (2, 4)]
    assert pairs(3, 3) == [(1, 1), (2, 2), (3, 3)]
    assert pairs(5, 2)[-1] == (5, 2)


def test_a_map_finds_the_channels_that_a_narrower_student_kept():
    generator = torch.Generator().manual_seed(0)
    samples = collect([(range(40), [True] * 40)] * 8)
    batch = lay(samples, range(8), 0)
    inner = torch.randn(8, 40, 6, generator=generator)
    whole = inner @ torch.randn(6, 10, generator=generator)
    states = HiddenStates((1, 6), (1, 10))
    states.fit([inner, inner], [whole, whole], batch)
    assert states([inner, inner], [whole, whole], batch).item() / batch.count < 1e-4


def test_what_a_student_writes_keeps_the_beginning_and_the_length_of_a_sample(student):
    model = load_weights(student).train()
    told = collect([(range(2, 14), [False] * 5 + [True] * 7), (range(20, 28), [True] * 8), ([3], [False])])
    batch = lay(told, range(3), 0)
    torch.manual_seed(0)
    own = write_rest(model, batch, ())
    assert model.training
    assert own.ids.shape[0] == 2
    assert own.ids[0, :5].tolist() == list(range(2, 7))
    assert own.learned[0].tolist() == [False] * 5 + [True] * 7
    assert own.ids[1, :2].tolist() == [20, 21]
    assert own.learned[1, :8].tolist() == [False] * 2 + [True] * 6
    torch.manual_seed(0)
    assert torch.equal(write_rest(model, batch, ()).ids, own.ids)


def test_what_is_written_side_by_side_is_as_likely_as_if_it_were_written_alone(student):
    model = load_weights(student)
    # At no temperature but with logits that leave no choice, drawing is taking the likeliest.
    model.lm_head.weight.data = model.lm_head.weight.data * 1e4
    told = collect([(range(2, 12), [False] * 3 + [True] * 7), (range(30, 46), [False] * 9 + [True] * 7)])
    both = write_rest(model.train(), lay(told, range(2), 0), ())
    for row in (0, 1):
        alone = write_rest(model.train(), lay(told, [row], 0), ())
        assert torch.equal(both.ids[row][both.mask[row]], alone.ids[0])


def test_a_student_stops_where_its_words_do(student):
    model = load_weights(student).train()
    told = collect([(range(2, 30), [False] * 4 + [True] * 24)])
    torch.manual_seed(3)
    free = write_rest(model, lay(told, [0], 0), ())
    stop = int(free.ids[0, 6])
    torch.manual_seed(3)
    ended = write_rest(model, lay(told, [0], 0), [stop])
    assert int(ended.ids[0, -1]) == stop
    assert ended.ids.shape[1] <= 7


def test_nothing_to_write_is_nothing_written(student):
    told = collect([([5], [True]), ([6, 7], [False, False])])
    assert write_rest(load_weights(student).train(), lay(told, [0, 1], 0), ()) is None


def test_a_student_is_judged_on_its_own_words_in_training_alone(teacher, student, samples, tmp_path):
    objective, model = opened(teacher, student, samples, tmp_path, on_policy=1.0)
    batch = lay(samples, range(4), 0)
    torch.manual_seed(0)
    learned = objective(model.train(), batch)
    assert set(learned.parts) == {"own words"}
    assert learned.total.requires_grad
    assert set(objective(model.eval(), batch).parts) == {"cross-entropy", "divergence"}


@pytest.fixture
def classifier(tmp_path):
    def write(name, labels, seed):
        torch.manual_seed(seed)
        config = transformers.BertConfig(
            vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=64, id2label=dict(enumerate(labels)), num_labels=len(labels),
            initializer_range=0.5,
        )  # fmt: skip
        transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / name)
        tokenizer(tmp_path / name)
        return open_checkpoint(tmp_path / name)

    return write


def test_labels_are_taught_by_their_names(classifier, tmp_path):
    teacher, student = classifier("one", ["x", "y", "z"], 1), classifier("two", ["z", "x", "y"], 1)
    samples = collect([([0, 260, 261, 1], [False] * 4), ([0, 270, 1], [False] * 3)], labels=[0, 2])
    objective, model = opened(teacher, student, samples, tmp_path, cache="no", weight=1.0)
    moved = load_weights(student)
    order = [2, 0, 1]
    moved.classifier.weight.data = model.classifier.weight.data[order]
    moved.classifier.bias.data = model.classifier.bias.data[order]
    batch = lay(samples, [0, 1], 0)
    assert objective(moved, batch).total.item() == pytest.approx(0, abs=1e-5)
    assert objective(model, batch).total.item() > 1e-3
    hidden, _ = opened(teacher, student, samples, tmp_path, hidden=1.0)
    assert hidden(moved, batch).parts["hidden"] == pytest.approx(0, abs=1e-5)


def test_samples_that_the_teacher_cannot_read_whole_are_refused(teacher, student, tmp_path):
    long = collect([([0] * 65, [True] * 65)])
    with pytest.raises(ModelError, match=r"up to 65 tokens, .* reads at most 64"):
        opened(teacher, student, long, tmp_path)


def test_a_classifier_and_a_decoder_do_not_teach_each_other(classifier, teacher, samples, tmp_path):
    with pytest.raises(ModelError, match=r"labels texts, .* writes texts"):
        opened(classifier("one", ["x", "y"], 1), teacher, samples, tmp_path)


@pytest.mark.journey
def test_a_teacher_is_recorded_in_a_process_of_its_own_and_found_again(teacher, student, samples, tmp_path):
    told = []
    for _ in range(2):
        said, model = [], load_weights(student)
        objective = open_distillation(
            teacher, student, model, (samples, samples), texts=TEXTS, teaching=Teaching(top_k=128),
            cache=tmp_path, progress=lambda doing, share, said=said: said.append((doing, share)),
        )  # fmt: skip
        assert np.isfinite(objective(model, lay(samples, range(4), 0)).total.item())
        told.append(said)
    assert told[0][-1][1] == 1.0
    assert told[1] == []
