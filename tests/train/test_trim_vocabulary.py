"""A model with fewer tokens is the model it was, as far as these tokens reach, and goes on like any other."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from slmops.build.checkpoint import open_checkpoint
from slmops.build.classifier import FAMILIES as CLASSIFIERS
from slmops.build.corpus import SENTENCES
from slmops.build.family import FAMILIES
from slmops.build.phrase import CheckpointPhrasing
from slmops.build.prove_vocabulary import prove
from slmops.build.quantize_classifier import quantize_classifier
from slmops.build.quantize_gguf import quantize_gguf
from slmops.build.quantize_onnx import quantize_onnx
from slmops.build.read_labelled import Reader
from slmops.build.read_origin import license_of
from slmops.build.vocabulary import is_byte_level
from slmops.errors import BuildError, DocumentError, ModelError, UsageError
from slmops.train.model_folder import write_model
from slmops.train.open_trainable import load_weights, open_teacher
from slmops.train.prove_trim import prove_answers, prove_ids, prove_words
from slmops.train.read_words import Reading, Words, Written
from slmops.train.token_rows import with_tokens
from slmops.train.trim_vocabulary import trim
from slmops.train.vocabulary_use import BYTES, ROWS

TOP = Path(__file__).parents[2]
SHARED = TOP.parent / "shared"
ENGLISH = [text for text in SENTENCES if text.isascii() and text.strip()]
BEGIN, END, UNKNOWN, PAD = "<s>", "</s>", "<unk>", "<pad>"
SPECIAL = [PAD, BEGIN, END, UNKNOWN]
SIZE = 640
ROWS_TOO_MANY = 16
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
STRANGE = "你好 🦙 Привет, zebra!"


def byte_level(splits=None):
    made = Tokenizer(models.BPE(ignore_merges=splits is not None))
    steps = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=splits is None)
    made.pre_tokenizer = pre_tokenizers.Sequence([*([splits] if splits else []), steps])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(SENTENCES * 2, trainer(trainers.BpeTrainer, initial_alphabet=alphabet))
    return made


def llama3():
    return byte_level(pre_tokenizers.Split(Regex(LLAMA3), "isolated"))


def spaced():
    """Characters, bytes to fall back on, and merges in every way a token can come about, as in Llama's."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.Metaspace()
    plain.train_from_iterator(SENTENCES * 2, trainer(trainers.BpeTrainer, vocab_size=SIZE - 256))
    learned = json.loads(plain.to_str())["model"]
    texts = list(dict.fromkeys([*SPECIAL, *BYTES, *learned["vocab"]]))
    vocab = {text: id_ for id_, text in enumerate(texts)}
    ways = [(t[:at], t[at:]) for t in map("".join, learned["merges"]) for at in range(1, len(t))]
    merges = [pair for pair in ways if set(pair) <= vocab.keys()]
    made = Tokenizer(models.BPE(vocab, merges, unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    made.add_special_tokens(SPECIAL)
    return made


def unigram():
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.train_from_iterator(
        SENTENCES * 2, trainer(trainers.UnigramTrainer, unk_token=UNKNOWN, vocab_size=400)
    )
    return made


def word_piece():
    made = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    made.train_from_iterator(SENTENCES * 2, trainer(trainers.WordPieceTrainer))
    return made


def trainer(kind, **said):
    return kind(**{"vocab_size": SIZE, "special_tokens": SPECIAL, "show_progress": False, **said})


KINDS = {kind.__name__: kind for kind in (byte_level, llama3, spaced, unigram, word_piece)}
SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 96,
}  # fmt: skip


def write(folder, tokenizer, family="LlamaForCausalLM", **said):
    """Write a random model with the words of `tokenizer`, and a few rows that no token has."""
    torch.manual_seed(1)
    kind = getattr(transformers, family)
    ends = {"bos_token_id": 1, "eos_token_id": [2, 1], "pad_token_id": 0}
    rows = tokenizer.get_vocab_size() + ROWS_TOO_MANY
    config = kind.config_class(**{**SIZES, "vocab_size": rows, "initializer_range": 0.3, **ends, **said})
    kind(config).save_pretrained(folder)
    ids = [(token, tokenizer.token_to_id(token)) for token in (BEGIN, END)]
    if family.endswith("Classification"):
        tokenizer.post_processor = processors.BertProcessing(ids[1], ids[0])
    else:
        tokenizer.post_processor = processors.TemplateProcessing(f"{BEGIN} $A", None, ids[:1])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD, "unk_token": UNKNOWN}
    added = {str(tokenizer.token_to_id(text)): {"content": text} for text in SPECIAL}
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "added_tokens_decoder": added}))
    return open_checkpoint(folder)


@pytest.fixture
def english(tmp_path):
    file = tmp_path / "english.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in ENGLISH))
    return file


def written(trimmed, source, folder):
    write_model(folder, trimmed.model, source, trimmed.files)
    return open_teacher(str(folder))


def test_the_license_goes_along_and_a_card_that_is_there_stays(tmp_path, english):
    source = write(tmp_path / "whole", next(iter(KINDS.values()))())
    (source.folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\nThe whole.\n")
    (source.folder / "LICENSE").write_text("Apache License")
    made = trim(source, load_weights(source), [english])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")

    found = [written(made, source, tmp_path / name).folder for name in ("trimmed", "mine")]

    assert license_of(found[0]) == "apache-2.0"
    assert (found[0] / "LICENSE").read_text() == "Apache License"
    assert (found[1] / "README.md").read_text() == "mine"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_what_was_written_answers_as_the_whole_model_does(tmp_path, english, kind, tied):
    source = write(tmp_path / "whole", KINDS[kind](), tie_word_embeddings=tied)
    model = load_weights(source)
    made = trim(source, model, [english])
    found = written(made, source, tmp_path / "trimmed")

    numbers = {old: new for new, old in enumerate(made.kept)}
    whole, cut = CheckpointPhrasing(source), CheckpointPhrasing(found)
    smaller = load_weights(found)
    for text in ENGLISH:
        ids = whole.written(text)
        assert cut.written(text) == [numbers[id_] for id_ in ids]
        assert cut.text(cut.written(text)) == whole.text(ids)
    before = model(torch.tensor([ids])).logits[..., made.kept]
    after = smaller(torch.tensor([cut.written(text)])).logits
    assert torch.allclose(before, after, atol=1e-5)
    report = made.report
    assert report.tokens_before == model.config.vocab_size
    assert report.tokens_after == len(made.kept) == smaller.config.vocab_size < report.tokens_before
    assert report.tokens_after % ROWS == 0
    assert report.parameters_after == found.parameters == sum(w.numel() for w in smaller.parameters())
    assert report.parameters_before - report.parameters_after == 64 * (2 - tied) * (
        report.tokens_before - report.tokens_after
    )
    assert (report.covered, report.changed, report.more_tokens) == (1.0, 0, 0.0)
    assert report.largest_difference < 1e-5
    assert report.unseen is not None


def test_ids_in_every_file_are_the_new_ones(tmp_path, english):
    tokenizer = byte_level()
    source = write(tmp_path / "whole", tokenizer)
    last = tokenizer.get_vocab_size() + ROWS_TOO_MANY - 1
    tokenizer.add_special_tokens(["<|turn|>"])
    tokenizer.save(str(source.folder / "tokenizer.json"))
    generation = {"eos_token_id": [2, last], "pad_token_id": 0, "temperature": 0.5}
    (source.folder / "generation_config.json").write_text(json.dumps(generation))
    made = trim(open_checkpoint(source.folder), load_weights(source), [english])
    found = written(made, source, tmp_path / "trimmed")

    said = json.loads((found.folder / "generation_config.json").read_text())
    assert said == {**generation, "eos_token_id": [2, len(made.kept) - 1]}
    assert made.kept[-1] == last
    assert CheckpointPhrasing(found).stop_ids == {1, 2, len(made.kept) - 1}
    added = json.loads((found.folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    opened = Tokenizer.from_file(str(found.folder / "tokenizer.json"))
    assert {token["content"]: int(id_) for id_, token in added.items()} == {
        text: opened.token_to_id(text) for text in SPECIAL
    }
    assert opened.token_to_id("<|turn|>") is not None
    assert not list(found.folder.glob("*.model"))


def test_the_model_given_stays_whole(tmp_path, english):
    source = write(tmp_path / "whole", byte_level())
    model = load_weights(source)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    made = trim(source, model, [english])

    assert model.config.vocab_size == made.report.tokens_before
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert made.model.model.norm.weight is model.model.norm.weight


@pytest.mark.parametrize("kind", ["byte_level", "llama3", "spaced"])
def test_llama_cpp_reads_the_trimmed_vocabulary_as_its_tokenizer_json_says(tmp_path, english, kind):
    source = write(tmp_path / "whole", KINDS[kind]())
    for keep in (None, 400):
        found = written(
            trim(source, load_weights(source), [english], keep=keep), source, tmp_path / f"{keep}"
        )
        quantize_gguf(found, "F16", tmp_path / f"{keep}.gguf")
        assert prove(tmp_path / f"{keep}.gguf", found.words()) > 100


@pytest.mark.parametrize("kind", ["byte_level", "llama3", "spaced"])
def test_what_no_text_used_can_still_be_written(tmp_path, english, kind):
    source = write(tmp_path / "whole", KINDS[kind]())
    made = trim(source, load_weights(source), [english])
    more = tmp_path / "more.txt"
    more.write_text(STRANGE)
    with_more = trim(source, load_weights(source), [english, more])

    whole, few, some = (
        Tokenizer.from_str(said)
        for said in (
            source.words().read_text(),
            *(each.files["tokenizer.json"].decode() for each in (made, with_more)),
        )
    )
    counts = [len(each.encode(STRANGE).ids) for each in (whole, few, some)]
    assert few.decode(few.encode(STRANGE).ids) == STRANGE == whole.decode(whole.encode(STRANGE).ids)
    assert counts[0] == counts[2] < counts[1]
    assert not set(with_more.kept) <= set(made.kept)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_can_be_written_with_a_budget_from_smaller_tokens(tmp_path, english, kind):
    source = write(tmp_path / "whole", KINDS[kind]())
    free = trim(source, load_weights(source), [english]).report.tokens_after
    with pytest.raises(UsageError, match="1 tokens were asked for") as caught:
        trim(source, load_weights(source), [english], keep=1)
    least = int(caught.value.remedy.split()[-2])
    made = trim(source, load_weights(source), [english], keep=(least + free) // 2)

    assert made.report.tokens_after < free
    assert made.report.covered < 1
    assert made.report.changed > 0
    assert made.report.more_tokens > 0
    whole, cut = (
        Words(source.words().read_text(), labels=False),
        Words(made.files["tokenizer.json"].decode(), labels=False),
    )
    ids = [
        [words.read([Written(text)], "", lambda *_: None)[0] for text in ENGLISH] for words in (whole, cut)
    ]
    assert [whole.text(each) for each in ids[0]] == [cut.text(each) for each in ids[1]]


@pytest.fixture
def labels(tmp_path):
    source = write(tmp_path / "whole", word_piece(), "BertForSequenceClassification", num_labels=3)
    file = tmp_path / "texts.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([("text", "label"), *((text, "LABEL_1") for text in ENGLISH)])
    return source, trim(source, load_weights(source), [file])


def test_a_classifier_labels_as_before(labels, tmp_path):
    source, made = labels
    found = written(made, source, tmp_path / "trimmed")
    whole, cut = (load_weights(each) for each in (source, found))
    readers = [Reader(each.words()) for each in (source, found)]
    for text in ENGLISH:
        logits = [
            model(torch.tensor([reader.ids(text)])).logits
            for model, reader in zip((whole, cut), readers, strict=True)
        ]
        assert torch.allclose(*logits, atol=1e-6)

    assert made.report.tokens_after < made.report.tokens_before


@pytest.mark.journey
def test_what_was_trimmed_goes_on_to_onnx(labels, tmp_path, english):
    source, made = labels
    found = written(made, source, tmp_path / "trimmed")
    assert quantize_classifier(found, ["INT8-dynamic"], tmp_path)["INT8-dynamic"][0].stat().st_size > 0

    decoder = write(tmp_path / "decoder", unigram())
    found = written(trim(decoder, load_weights(decoder), [english]), decoder, tmp_path / "trimmed-decoder")
    assert quantize_onnx(found, "INT8", tmp_path / "model.onnx").parameters == found.parameters


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by transformers' DeBERTa
@pytest.mark.parametrize("family", [*FAMILIES, *(f"{name}ForSequenceClassification" for name in CLASSIFIERS)])
def test_every_family_answers_with_fewer_rows_as_it_did(family):
    torch.manual_seed(0)
    kind = getattr(transformers, family)
    sizes = {**SIZES, "vocab_size": 60, "initializer_range": 0.3, "head_dim": 32, "pad_token_id": 1}
    said = {"num_key_value_heads": 2, "dim": 64, "embedding_size": 64, "attn_implementation": "eager"}
    model = kind(kind.config_class(**{**said, **sizes})).eval()
    kept = [*range(8), 20, 31, 59]
    cut = with_tokens(model, kept)

    assert prove_answers(model, cut, [np.array([0, 20, 59, 31, 7])], kept, lambda *_: None) < 1e-4
    assert cut.get_input_embeddings().weight.shape[0] == cut.config.vocab_size == 11
    assert sum(w.numel() for w in cut.parameters()) < sum(w.numel() for w in model.parameters())


def test_a_head_with_a_bias_keeps_it_for_the_same_tokens():
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, vocab_size=50, initializer_range=0.5)
    model = transformers.BertForMaskedLM(config).eval()
    torch.nn.init.normal_(model.cls.predictions.bias)
    kept = [0, 1, 7, 30, 49]
    cut = with_tokens(model, kept)

    assert prove_answers(model, cut, [np.array([0, 7, 49, 30])], kept, lambda *_: None) < 1e-5
    assert cut.cls.predictions.bias.shape == (5,)
    assert cut.cls.predictions.decoder.weight is cut.bert.embeddings.word_embeddings.weight
    assert model.cls.predictions.bias.shape == (50,)


def test_a_model_that_answers_otherwise_does_not_pass():
    config = transformers.LlamaConfig(**SIZES, vocab_size=50, initializer_range=0.5)
    model = transformers.LlamaForCausalLM(config).eval()
    cut = with_tokens(model, [3, 4, 5])

    with pytest.raises(BuildError, match="a logit differs by"):
        prove_answers(model, cut, [np.array([4, 6])], [3, 4, 6], lambda *_: None)


def test_a_tokenizer_that_numbers_or_cuts_otherwise_does_not_pass():
    whole = Words(byte_level().to_str(), labels=False)
    other = Words(llama3().to_str(), labels=False)
    all_ids = list(range(whole.tokenizer.get_vocab_size()))
    texts = [Written("12345 apples")]
    read = [Reading(texts, words.read(texts, "", lambda *_: None)) for words in (whole, other)]

    prove_ids(whole, whole, all_ids)
    prove_words(whole, whole, all_ids, read[0], read[0])
    with pytest.raises(BuildError, match=r"does not number its tokens as the model: .* expected"):
        prove_ids(whole, whole, all_ids[1:])
    with pytest.raises(BuildError, match=r"reads otherwise .* '12345 apples' is \[.*\], expected \["):
        prove_words(whole, other, all_ids, read[0], read[1])


def test_what_cannot_be_trimmed_is_refused_saying_why(tmp_path, english):
    tokenizer = byte_level()
    source = write(tmp_path / "whole", tokenizer)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    with pytest.raises(DocumentError, match=r"empty\.txt: expected texts .* got none"):
        trim(source, load_weights(source), [empty])
    with pytest.raises(DocumentError, match=r"cannot be read"):
        trim(source, load_weights(source), [tmp_path / "nowhere.txt"])
    tokenizer.add_tokens([f"token{number}" for number in range(ROWS_TOO_MANY + 1)])
    tokenizer.save(str(source.folder / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"has ids up to 656, the model's embedding has 656 rows"):
        trim(source, load_weights(source), [english])


def test_the_demo_keeps_its_golden_prompts_and_its_template_whatever_the_texts(tmp_path):
    source = open_teacher(str(TOP / "demo" / "model"))
    file = tmp_path / "texts.txt"
    file.write_text("lamp")
    made = trim(source, load_weights(source), [file])
    found = written(made, source, tmp_path / "trimmed")

    numbers = {old: new for new, old in enumerate(made.kept)}
    whole, cut = CheckpointPhrasing(source), CheckpointPhrasing(found)
    for line in (source.folder / "golden.jsonl").read_text().splitlines():
        said = json.loads(line)["messages"]
        assert cut.written(said) == [numbers[id_] for id_ in whole.written(said)]
    assert made.report.tokens_after < made.report.tokens_before
    with pytest.raises(UsageError, match="must stay"):
        trim(source, load_weights(source), [file], keep=300)


@pytest.mark.parametrize("name", ["tinystories-656k", "stories260k"])
def test_a_trained_model_tells_stories_as_before(name, tmp_path):
    if not (SHARED / "models" / name).is_dir():
        pytest.skip(f"no trained model at {SHARED / 'models' / name}")
    source = open_teacher(str(SHARED / "models" / name))
    stories = (SHARED / "data" / "tinystories_eval_200.txt").read_text().split("<|endoftext|>")
    file = tmp_path / "stories.txt"
    file.write_text("<|endoftext|>".join(stories[:40]))
    made = trim(source, load_weights(source), [file])

    found = written(made, source, tmp_path / "trimmed")
    assert made.report.largest_difference < 1e-4
    assert found.stop_ids == tuple(made.kept.index(id_) for id_ in source.stop_ids)
    quantize_gguf(found, "Q8_0", tmp_path / "model.gguf")
    assert prove(tmp_path / "model.gguf", found.words()) > 20
    assert not is_byte_level(json.loads(made.files["tokenizer.json"]))
