"""Print what a GGUF file thinks of every next token of a text: run by bench/arm.py here and on an ARM device.

    python _next_tokens.py MODEL.gguf COUNT < ids.json > logits     or, to draw a text first:
    python _next_tokens.py MODEL.gguf COUNT --draw SEED > ids.json

Needs slmops.daemon and what it stands on, as every runtime bundle has it. Logits are float32, a row a token.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from slmops.daemon.engine import Shape
from slmops.daemon.llama import GgufVocabulary, LlamaEngine, LlamaModel

STRIDE = 8


def main() -> None:
    """Draw a text from the model, or read one with it."""
    file, count = Path(sys.argv[1]), int(sys.argv[2])
    model = LlamaModel(file)
    engine = LlamaEngine(model, Shape(context=count, pool=count, slots=1, stride=STRIDE, threads=1))
    if "--draw" in sys.argv:
        chance = np.random.default_rng(int(sys.argv[-1]))
        ids = [GgufVocabulary(model).bos or 0]
        while len(ids) < count:
            row = engine.step([(0, ids[-1])])[0].astype(np.float64)
            share = np.exp(row - row.max())
            ids.append(int(chance.choice(len(share), p=share / share.sum())))
        json.dump(ids, sys.stdout)
        return
    for token in json.load(sys.stdin):
        sys.stdout.buffer.write(np.asarray(engine.step([(0, token)])[0], dtype=np.float32).tobytes())


if __name__ == "__main__":
    main()
