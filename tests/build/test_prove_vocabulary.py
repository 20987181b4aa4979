"""llama.cpp and the tokenizers library turn the same texts into the same ids."""

import json

import pytest
from gguf import GGUFWriter
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from slmops.build.checkpoint import open_checkpoint
from slmops.build.corpus import SENTENCES
from slmops.build.prove_vocabulary import prove
from slmops.build.quantize_gguf import quantize_gguf
from slmops.errors import BuildError

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPECIALS = ["<unk>", "<|begin|>", "<|end|>"]


def byte_level(file, *splits, normalizer=None, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not splits)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return trained(tokenizer, file, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def spaced(file, *, bytes_too):
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIALS[0], byte_fallback=bytes_too, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] if bytes_too else []
    return trained(tokenizer, file, specials=[*SPECIALS, *bytes_], vocab_size=700)


def metaspace(file, scheme):
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIALS[0], byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    return trained(tokenizer, file, specials=[*SPECIALS, *bytes_], vocab_size=700)


def gemma(file):
    """Spaces are marked and never split at; runs of them are tokens, some lines ends and tags too."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIALS[0], byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    runs = ["▁" * n for n in range(2, 9)]
    own = ["\n", "\n\n", *runs, "<unused0>", "<table>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trained(tokenizer, file, specials=[*SPECIALS, *bytes_, *own], vocab_size=800)
    said = json.loads(file.read_text())
    for token in said["added_tokens"]:
        token["special"] = token["content"] in SPECIALS
    merges, vocab = said["model"]["merges"], said["model"]["vocab"]
    grown = [["▁" * n, "▁"] for n in range(7, 0, -1)]
    said["model"]["merges"] = grown + [pair for pair in merges if "▁▁" not in "".join(pair)]
    said["model"]["vocab"] = {text: id_ for text, id_ in vocab.items() if "▁▁" not in text or text in runs}
    file.write_text(json.dumps(said))
    return file


def gpt2(file):
    """The first byte-level file of all: it does not say that it is BPE."""
    said = json.loads(byte_level(file).read_text())
    del said["model"]["type"]
    file.write_text(json.dumps(said))
    return file


def trained(tokenizer, file, *, specials=SPECIALS, vocab_size=450, **alphabet):
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, show_progress=False, max_token_length=12, **alphabet
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    begin, id_ = "<|begin|>", tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, id_)]
    )
    said = json.loads(tokenizer.to_str())
    said["added_tokens"] = [token for token in said["added_tokens"] if not token["content"].startswith("<0x")]
    file.write_text(json.dumps(said))
    return file


KINDS = {
    "gpt-2": byte_level,
    "smollm": lambda f: byte_level(f, pre_tokenizers.Digits(individual_digits=True), gpt2_split()),
    "llama-bpe": lambda f: byte_level(f, isolated(LLAMA3), ignore_merges=True),
    "qwen2": lambda f: byte_level(f, isolated(QWEN2), normalizer=normalizers.NFC()),
    "spaced": lambda f: spaced(f, bytes_too=True),
    "spaced-without-bytes": lambda f: spaced(f, bytes_too=False),
    "metaspace-first": lambda f: metaspace(f, "first"),
    "gemma": gemma,
    "gpt2-without-type": gpt2,
}


def isolated(regex):
    return pre_tokenizers.Split(Regex(regex), "isolated")


def gpt2_split():
    return isolated(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_made_here_tokenises_like_its_source(kind, write_model, tmp_path):
    tokenizer = KINDS[kind](tmp_path / "tokenizer.json")
    size = max(Tokenizer.from_file(str(tokenizer)).get_vocab().values()) + 4
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": size}
    checkpoint = open_checkpoint(write_model(tokenizer=tokenizer, **sizes))
    assert checkpoint.add_bos
    quantize_gguf(checkpoint, "F32", tmp_path / "model.gguf")
    assert prove(tmp_path / "model.gguf", tokenizer) > 60


def test_a_vocabulary_that_differs_shows_where(random_checkpoint, tmp_path):
    checkpoint = random_checkpoint(num_hidden_layers=1)
    quantize_gguf(checkpoint, "Q8_0", tmp_path / "model.gguf")
    other = json.loads(checkpoint.tokenizer.read_text())
    other["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": True,
        "use_regex": True,
    }
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(BuildError, match=r"in 'Once upon a time.*token 1 on, expected \["):
        prove(tmp_path / "model.gguf", tmp_path / "other.json")


def test_a_begin_token_that_only_one_side_adds_is_found(random_checkpoint, tmp_path):
    checkpoint = random_checkpoint(num_hidden_layers=1)
    quantize_gguf(checkpoint, "Q8_0", tmp_path / "model.gguf")
    other = Tokenizer.from_file(str(checkpoint.tokenizer))
    other.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    other.save(str(tmp_path / "other.json"))
    with pytest.raises(BuildError, match=r"expected \['<\|begin\|>'"):
        prove(tmp_path / "model.gguf", tmp_path / "other.json")


def test_a_vocabulary_that_ends_llama_cpps_process_is_an_error_and_not_the_end(
    byte_level_tokenizer, tmp_path
):
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["twice", "twice"])
    writer.add_token_merges(["t w"])
    writer.add_block_count(1)
    writer.add_context_length(8)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(BuildError, match="SIGABRT"):
        prove(tmp_path / "model.gguf", byte_level_tokenizer)


@pytest.mark.parametrize("name", ["tinystories-656k", "stories260k"])
def test_the_trained_models_tokenise_like_their_sources(name, shared_models, tmp_path):
    checkpoint = open_checkpoint(shared_models / name)
    quantize_gguf(checkpoint, "Q8_0", tmp_path / "model.gguf")
    assert prove(tmp_path / "model.gguf", checkpoint.tokenizer) > 150
