"""What it costs to make a Q8_0 and a Q4_K_M GGUF from a Hugging Face folder in bf16.

Compared: slmops' one pass (safetensors -> ggml's quantiser -> GGUF) against the two steps users take today,
llama.cpp's convert_hf_to_gguf.py to a lossless BF16 file and then its llama_model_quantize. The converter is
taken from $SLMOPS_LLAMA_CPP, a llama.cpp checkout or an unpacked llama-cpp-python source archive; without it
there is no peer, and the table says so.

It is fair because both start from the same random Llama, end with the same types of tensors made by the same
compiled ggml on every core, and each step is a fresh process. In the peer's favour: what `import llama_cpp`
costs is measured too and taken off its second step (the real tool is written in C++); its converter knows
tokenizers by hash and not this one, so it is told that it is of gpt-2's kind and spared the search; slmops
alone syncs its file to disk and checks for weights that are no numbers. One conversion serves both types, but
each type's row carries it whole; what of it is imports, the same for every size of model, is shown.

A .gguf as the source is quantised again by llama.cpp itself, in a child of slmops with a bounded buffer; the
peer is the same function called outright on the same BF16 file. And all types that `auto` would build are
written from one reading of the weights, against the sum of each alone.

Peak memory is that of the resident set and counts pages of mapped files, which the kernel may take back;
llama.cpp maps its input, slmops reads its own. To show what grows with the model, slmops also quantises one
that is four times larger (not with --quick).
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from _measure import ROOT, Case, Sample, median, peak, progress, quick, ratio, rounds, run, save, show

TYPES: Final = ("Q8_0", "Q4_K_M")
LADDER: Final = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
ALL, EACH = f"{len(LADDER)} types in one reading", f"{len(LADDER)} types, each alone"
VOCABULARY: Final = 32_000
IMPORT, CONVERT, CONVERT_IMPORTS = "import llama_cpp", "convert to BF16", "the converter's imports"

MAKE: Final = """
import sys, torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
source, out, vocabulary, hidden, inner, layers = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
torch.manual_seed(7)
torch.set_default_dtype(torch.bfloat16)
tokenizer = AutoTokenizer.from_pretrained(source)
config = LlamaConfig(
    vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
    num_attention_heads=hidden // 64, num_key_value_heads=hidden // 128, max_position_embeddings=2048,
    tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
)
model = LlamaForCausalLM(config)
model.save_pretrained(out)
tokenizer.save_pretrained(out)
print(model.num_parameters())
"""
OURS: Final = """
import sys
from pathlib import Path
from slmops.build.checkpoint import open_checkpoint
from slmops.build.quantize_gguf import quantize_gguf
quantize_gguf(open_checkpoint(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]))
"""
AGAIN: Final = """
import sys
from pathlib import Path
from slmops.build.requantize_gguf import requantize_gguf
requantize_gguf(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
"""
TOGETHER: Final = """
import sys
from pathlib import Path
from slmops.build.checkpoint import open_checkpoint
from slmops.build.quantize_gguf import plan_gguf, write_all
checkpoint, room = open_checkpoint(Path(sys.argv[1])), Path(sys.argv[2])
write_all(checkpoint, {room / f"{name}.gguf": plan_gguf(checkpoint, name) for name in sys.argv[3:]})
"""
CONVERTER: Final = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
sys.path.insert(1, sys.argv[1] + "/gguf-py")
from conversion.llama import LlamaModel
LlamaModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
LlamaModel.set_vocab = LlamaModel._set_vocab_gpt2
if sys.argv[2:]:
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
QUANTISE: Final = """
import sys, llama_cpp
asked = llama_cpp.llama_model_quantize_default_params()
asked.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + sys.argv[3])
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), asked))
"""


Size = tuple[int, int, int]
"""Hidden size, inner size and layers of a Llama."""
SMALL, USUAL, LARGE = (256, 1024, 11), (768, 2048, 12), (1536, 4096, 14)


def main() -> None:
    """Make the models, measure, print, save."""
    small = quick(__doc__)
    count = 2 if small else 5
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as folder:
        room = Path(folder)
        model = make(room / "model", SMALL if small else USUAL)
        cases = {f"slmops {type_}": ours(model, type_, room) for type_ in TYPES}
        cases |= {ALL: partial(together, model, room, LADDER), EACH: partial(one_by_one, model, room)}
        llama_cpp = converter()
        if llama_cpp is not None:
            cases |= peers(llama_cpp, model, room)
        if not small:
            large = make(room / "large", LARGE)
            cases |= {f"slmops {type_}, 4x model": ours(large, type_, room) for type_ in TYPES}
        run(python(OURS, model, TYPES[0], room / "warm.gguf"))
        samples = rounds(count, cases)
        sizes = {each.parent.name: each.stat().st_size for each in room.glob("*/model.safetensors")}
    found = {name: median(taken) for name, taken in samples.items()}
    notes = "MB are 10^6 bytes; slmops' file and llama.cpp's hold the same types."
    if llama_cpp is None:
        notes = "No peer: set SLMOPS_LLAMA_CPP to a llama.cpp checkout or a llama-cpp-python source archive."
    title = f"Quantise {sizes['model'] / 1e6:.0f} MB of bf16, medians of {count} rounds"
    columns = ("step", "CPU s", "peak MB", "written MB", "CPU / slmops", "peak / slmops", "written / slmops")
    show(title, columns, table(found), notes)
    save("quantize", samples, rounds=count, model_bytes=sizes)


def make(out: Path, size: Size) -> Path:
    """Write a random Llama in bf16 with the demo model's tokenizer, its vocabulary padded."""
    progress(f"making a random Llama: hidden {size[0]}, inner {size[1]}, {size[2]} layers")
    tokenizer = ROOT / "demo" / "model"
    if not (tokenizer / "tokenizer.json").is_file():
        sys.exit(f"there is no {tokenizer}/tokenizer.json; run: .venv/bin/python scripts/train_demo_model.py")
    run(python(MAKE, tokenizer, out, VOCABULARY, *size))
    return out


def converter() -> Path | None:
    """Return the llama.cpp that $SLMOPS_LLAMA_CPP names; None, if it names none."""
    said = os.environ.get("SLMOPS_LLAMA_CPP")
    if not said:
        return None
    for place in (Path(said), Path(said) / "vendor" / "llama.cpp"):
        if (place / "convert_hf_to_gguf.py").is_file():
            return place
    sys.exit(f"SLMOPS_LLAMA_CPP={said}: expected convert_hf_to_gguf.py there or in vendor/llama.cpp")


def python(code: str, *words: object) -> list[str | Path]:
    """Return the command that runs `code` in a fresh interpreter."""
    return [sys.executable, "-c", code, *map(str, words)]


def writing(out: Path, argv: list[str | Path]) -> Sample:
    """Run a command that writes `out`; the sample has its size."""
    return replace(run(argv), bytes=out.stat().st_size)


def ours(model: Path, type_name: str, room: Path) -> Case:
    """Return slmops' way."""
    out = room / "slmops.gguf"
    return partial(writing, out, python(OURS, model, type_name, out))


def together(model: Path, room: Path, types: tuple[str, ...]) -> Sample:
    """Write several types in one process; the sample has the bytes of all."""
    taken = run(python(TOGETHER, model, room, *types))
    return replace(taken, bytes=sum((room / f"{name}.gguf").stat().st_size for name in types))


def one_by_one(model: Path, room: Path) -> Sample:
    """Write the same types in a process each; the sample has the sum of all and the highest peak."""
    taken = [together(model, room, (name,)) for name in LADDER]
    return Sample(
        sum(one.wall_s for one in taken),
        sum(one.cpu_s for one in taken),
        max(one.peak_mb for one in taken),
        sum(one.bytes or 0 for one in taken),
    )


def again(between: Path, type_name: str, room: Path) -> Case:
    """Return slmops' way from a .gguf."""
    out = room / "again.gguf"
    return partial(writing, out, python(AGAIN, between, type_name, out))


def peers(llama_cpp: Path, model: Path, room: Path) -> dict[str, Case]:
    """Return llama.cpp's two steps, and what of them is imports."""
    between, out = room / "between.gguf", room / "llama.gguf"
    words = (llama_cpp / "convert_hf_to_gguf.py", model, "--outtype", "bf16", "--outfile", between)
    return {
        IMPORT: partial(run, python(IMPORT)),
        CONVERT_IMPORTS: partial(run, python(CONVERTER, llama_cpp)),
        CONVERT: partial(writing, between, python(CONVERTER, llama_cpp, *words)),
        **{
            f"quantise {type_}": partial(writing, out, python(QUANTISE, between, out, type_))
            for type_ in TYPES
        },
        **{f"slmops .gguf to {type_}": again(between, type_, room) for type_ in TYPES},
    }


def table(found: dict[str, Sample]) -> list[tuple[str, ...]]:
    """Return the rows: per type ours, the peer's steps, and the peer's steps together."""
    lines: list[tuple[str, Sample, Sample]] = []
    for type_ in TYPES:
        mine = found[f"slmops {type_}"]
        lines.append((f"slmops {type_}", mine, mine))
        if CONVERT in found:
            first, second, start = found[CONVERT], found[f"quantise {type_}"], found[IMPORT]
            second = replace(second, cpu_s=second.cpu_s - start.cpu_s)
            both = Sample(
                first.wall_s + second.wall_s,
                first.cpu_s + second.cpu_s,
                max(first.peak_mb, second.peak_mb),
                (first.bytes or 0) + (second.bytes or 0),
            )
            lines += [
                (f"  llama.cpp 1: {CONVERT}", first, mine),
                (f"    of it, {CONVERT_IMPORTS}", found[CONVERT_IMPORTS], mine),
                (f"  llama.cpp 2: quantise {type_}", second, mine),
                ("  llama.cpp, both steps", both, mine),
                (f"  slmops .gguf to {type_}", found[f"slmops .gguf to {type_}"], mine),
            ]
        if (larger := found.get(f"slmops {type_}, 4x model")) is not None:
            lines.append((f"slmops {type_}, 4x model", larger, mine))
    lines += [(ALL, found[ALL], found[ALL]), (f"  {EACH}", found[EACH], found[ALL])]
    return [row(*line) for line in lines]


def row(name: str, one: Sample, mine: Sample) -> tuple[str, ...]:
    """Return one line of the table."""
    size, own = one.bytes or 0, mine.bytes or 0
    return (
        name, f"{one.cpu_s:.1f}", peak(one.peak_mb), f"{size / 1e6:.1f}" if size else "",
        ratio(one.cpu_s, mine.cpu_s), ratio(one.peak_mb, mine.peak_mb), ratio(size, own) if size else "",
    )  # fmt: skip


if __name__ == "__main__":
    main()
