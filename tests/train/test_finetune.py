"""Fine-tuning learns what the data says, keeps what was best, and refuses what cannot be learned."""

import csv
import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from slmops.build.checkpoint import open_checkpoint
from slmops.errors import DocumentError, ModelError, TrainingError, UsageError
from slmops.train.adapter_folder import GGUF, check_base, read_adapter
from slmops.train.finetune import PAGE, REPORT, Finetuning, finetune, prepare
from slmops.train.lora import parse_lora, with_adapter
from slmops.train.model_folder import RUN
from slmops.train.open_trainable import load_weights
from slmops.train.setting import Setting

WORDS = ["[PAD]", "<end>", "[UNK]", *(f"w{number}" for number in range(40))]
SETTING = Setting(steps=30, batch_tokens=256, rate=0.02, length=24, validations=5)
DIVERGING = SETTING.model_copy(update={"rate": 1e20, "clip": 1e30, "warm_up": 0.0})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small random Llama whose words are w0, w1, ..."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True, eos_token_id=1,
        pad_token_id=0, bos_token_id=None, initializer_range=0.2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>", "unk_token": "[UNK]"}))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Texts that count: each word is followed by the next."""
    file = tmp_path_factory.mktemp("data") / "counting.jsonl"
    lines = [{"text": " ".join(f"w{(n + k) % 40}" for k in range(4 + n % 17))} for n in range(120)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def asked(model, data, out, said=None, **more):
    lora = None if said is None else parse_lora(said)
    return Finetuning(str(model), (data,), out, more.pop("setting", SETTING), lora, **more)


def done(*args, **more):
    return finetune(prepare(asked(*args, **more)))


def logits(model):
    with torch.inference_mode():
        return model(torch.arange(3, 20)[None]).logits


def test_an_adapter_learns_and_leaves_the_base_as_it_was(model, data, tmp_path):
    before = (model / "model.safetensors").read_bytes()
    found = done(model, data, tmp_path / "site", "r=4,targets=all")
    assert found.after.loss < found.before.loss - 0.2
    assert found.written.no_gguf == ""
    assert set(found.written.files) == {"adapter_model.safetensors", GGUF}
    adapter, base = read_adapter(tmp_path / "site"), open_checkpoint(model)
    check_base(adapter, base)
    assert adapter.origin.base == str(model)
    assert adapter.origin.samples == found.answer["data"][0]["samples"]
    assert (model / "model.safetensors").read_bytes() == before


def test_a_merged_model_says_what_base_and_adapter_say(model, data, tmp_path):
    done(model, data, tmp_path / "site", "r=4")
    found = done(model, data, tmp_path / "merged", "r=4", merge=True)
    assert found.written.merged_apart < 1e-4
    assert found.answer["learned_parameters"] > 0
    before, after = found.answer["ledger"]["stages"]
    assert (before["parameters"], before["bytes"]) == (after["parameters"], after["bytes"])
    assert after["digest"] == open_checkpoint(tmp_path / "merged").digest
    merged = load_weights(open_checkpoint(tmp_path / "merged"))
    both = with_adapter(load_weights(open_checkpoint(model)), read_adapter(tmp_path / "site"))
    assert torch.allclose(logits(merged), logits(both), atol=1e-4)
    assert (tmp_path / "merged" / "tokenizer.json").is_file()


def test_all_weights_are_learned_without_lora_and_the_folder_is_a_model(model, data, tmp_path):
    found = done(model, data, tmp_path / "tuned")
    assert found.after.loss < found.before.loss / 2
    assert found.after.perplexity == pytest.approx(2.718281828**found.after.loss)
    tuned = load_weights(open_checkpoint(tmp_path / "tuned"))
    assert not torch.allclose(logits(tuned), logits(load_weights(open_checkpoint(model))))


def test_a_folder_without_weights_is_trained_from_new_ones_the_same_by_seed(model, data, tmp_path):
    shape = tmp_path / "shape"
    shape.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (shape / name).write_bytes((model / name).read_bytes())
    one, same = (done(shape, data, tmp_path / name) for name in ("one", "same"))
    assert one.after.loss < one.before.loss / 2
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "same" / "model.safetensors"
    ).read_bytes()
    assert one.after == same.after
    with pytest.raises(TrainingError, match="has no weights: an adapter is learned beside"):
        prepare(asked(shape, data, tmp_path / "site", "r=4"))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Texts whose label is their first word."""
    file = tmp_path_factory.mktemp("labelled") / "texts.csv"
    with file.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["text", "category"])
        for n in range(160):
            label = ["lost", "found", "late", "paid"][n % 4]
            rows.writerow([f"w{n % 4} w{4 + n % 37} w{4 + n % 11}", label])
    return file


@pytest.mark.parametrize("said", [None, "r=8,targets=all"])
def test_a_classifier_learns_its_labels(labelling, labelled, tmp_path, said):
    setting = Setting(steps=60, batch_tokens=256, rate=0.01, length=16, validations=4)
    found = done(labelling.source, labelled, tmp_path / "out", said, setting=setting)
    assert found.after.accuracy > found.before.accuracy + 0.4
    assert found.after.loss < found.before.loss / 3
    assert found.after.perplexity is None
    before, after = found.answer["ledger"]["stages"]
    assert after["measured"]["accuracy"] == found.after.accuracy > after["measured"]["accuracy_low"]
    assert (before["name"], after["name"]) == ("base", "adapted" if said else "finetuned")
    if said:
        assert "was trained whole" in found.written.no_gguf
        assert read_adapter(tmp_path / "out").whole.keys() == {"classifier.weight", "classifier.bias"}


def test_a_classifier_without_weights_is_trained_from_new_ones(labelling, labelled, tmp_path):
    shape = tmp_path / "shape"
    shape.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (shape / name).write_bytes((labelling.source / name).read_bytes())
    setting = Setting(steps=60, batch_tokens=256, rate=0.01, length=16, validations=4)
    found = done(shape, labelled, tmp_path / "out", setting=setting)
    assert found.after.accuracy > found.before.accuracy + 0.4
    assert open_checkpoint(tmp_path / "out").config["id2label"]["0"] == "lost"
    assert [stage["name"] for stage in found.answer["ledger"]["stages"]] == ["finetuned"]


def test_the_run_leaves_a_report_and_a_page_and_is_not_taken_for_another(model, data, tmp_path):
    found = done(model, data, tmp_path / "site", "r=4")
    said = json.loads((tmp_path / "site" / RUN / REPORT).read_text())
    assert said == json.loads(json.dumps(found.answer))
    assert said["lora"] == {"rank": 4, "alpha": 8.0, "targets": ["attention"]}
    assert len(said["curve"]) == said["steps"] == 30
    assert "<html" in (tmp_path / "site" / RUN / PAGE).read_text()
    written = (tmp_path / "site" / GGUF).read_bytes()
    assert done(model, data, tmp_path / "site", "r=4").learned.resumed_from == 30
    assert (tmp_path / "site" / GGUF).read_bytes() == written
    with pytest.raises(TrainingError, match="holds another run: its learned is LoRA r=4"):
        done(model, data, tmp_path / "site", "r=2")
    again = finetune(prepare(asked(model, data, tmp_path / "site", "r=2")), fresh=True)
    assert again.learned.resumed_from is None


def test_a_folder_that_holds_what_no_run_of_its_own_made_is_refused(model, data, tmp_path):
    done(model, data, tmp_path / "site", "r=4")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    for out, said in ((other, None), (other, "r=4"), (tmp_path / "site", None)):
        with pytest.raises(UsageError, match=r"holds an? (model|adapter) already"):
            prepare(asked(model, data, out, said))


def test_data_that_teaches_nothing_is_refused_before_anything_is_written(model, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    with pytest.raises(DocumentError, match=r"empty\.txt"):
        prepare(asked(model, empty, tmp_path / "site", "r=4"))
    with pytest.raises(DocumentError, match=r"missing\.txt"):
        prepare(asked(model, tmp_path / "missing.txt", tmp_path / "site", "r=4"))
    assert not (tmp_path / "site").exists()


def test_what_cannot_be_meant_is_refused(model, data, tmp_path):
    with pytest.raises(UsageError, match="--merge is for adapters"):
        prepare(asked(model, data, tmp_path / "out", merge=True))
    with pytest.raises(UsageError, match="--out is the model's own folder"):
        prepare(asked(model, data, model))
    with pytest.raises(TrainingError, match="no low rank"):
        prepare(asked(model, data, tmp_path / "out", "r=32"))
    small = tmp_path / "small"
    small.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (small / name).write_bytes((model / name).read_bytes())
    config = json.loads((model / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "vocab_size": 20}))
    with pytest.raises(ModelError, match=r"has token 42, config\.json says vocab_size 20"):
        prepare(asked(small, data, tmp_path / "out"))


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_no_adapter(model, data, tmp_path):
    with pytest.raises(TrainingError, match="is no number"):
        done(model, data, tmp_path / "site", "r=4", setting=DIVERGING)
    assert not (tmp_path / "site" / "adapter_config.json").exists()
