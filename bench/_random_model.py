"""A model of a given size with random weights, as a folder that `slmops quantize` takes.

It is for speed and memory, not for sense. The tokenizer is byte-level BPE over made-up words; the same seed
makes the same model.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

VOCABULARY = 32000
SHAPES: dict[str, dict[str, Any]] = {
    "77M": {"hidden_size": 640, "intermediate_size": 1600, "num_hidden_layers": 12, "heads": (10, 10)},
    "0.5B": {"hidden_size": 1152, "intermediate_size": 3072, "num_hidden_layers": 32, "heads": (18, 6)},
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(size: str, folder: Path, seed: int = 0) -> Path:
    """Write a model of `size` (a key of SHAPES) to `folder`, unless it is there; return the folder."""
    if (folder / "done").exists():
        return folder
    import torch  # noqa: PLC0415 - takes seconds
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415 - as above

    folder.mkdir(parents=True, exist_ok=True)
    shape = dict(SHAPES[size])
    heads, pairs = shape.pop("heads")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        num_attention_heads=heads,
        num_key_value_heads=pairs,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        **shape,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu").to(torch.float16)
    model.tie_weights()
    for name, weight in model.named_parameters():
        torch.nn.init.ones_(weight) if "norm" in name else torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(folder)
    _tokenizer(random.Random(seed), folder)  # noqa: S311 - not a secret
    (folder / "done").touch()
    return folder


def _tokenizer(lot: random.Random, folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words(lot, 400_000, 64), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    said = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": special[0],
        "eos_token": special[1],
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def words(lot: random.Random, count: int, line: int) -> list[str]:
    """Return `count` made-up words, in lines of `line` words."""
    syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    made = ["".join(lot.choices(syllables, k=lot.randint(1, 4))) for _ in range(count)]
    return [" ".join(made[at : at + line]) for at in range(0, count, line)]
