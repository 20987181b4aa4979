"""Make a GGUF file from what another tool made: a .gguf, or a llama.cpp converter's output.

Quantising is llama.cpp's own `llama_model_quantize`, in a process of its own, because it ends the
process on some files. Knows nothing of model families.

Laws: `out` appears whole or not at all; a file that has the type already is copied byte for byte.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from slmops.build import ggml
from slmops.build.isolate import Progress as Told
from slmops.build.isolate import isolate
from slmops.build.quantize_gguf import GgufReport, Progress, unheard, whole_file
from slmops.build.scheme import FILE_TYPES, GGML_TYPES, Fallback, check_file_type
from slmops.errors import BuildError, ModelError, UsageError

BUFFER_BYTES = 8 << 20
"""Of one tensor in llama.cpp's memory at a time."""
_SCRIPT = "convert_hf_to_gguf.py"
_PLACES = (Path(_SCRIPT), Path("vendor/llama.cpp") / _SCRIPT)
_LAST_WORDS = 12


def requantize_gguf(source: Path, type_name: str, out: Path, progress: Progress = unheard) -> GgufReport:
    """Write the .gguf `source` to `out` as `type_name`; raise ModelError if it is not a whole GGUF file."""
    check_file_type(type_name)
    ggml.library()
    found = _read(source)
    wanted = FILE_TYPES[type_name].id
    with whole_file(out, source.stat().st_size) as partial:
        if found.file_type == wanted:
            shutil.copyfile(source, partial)
        else:
            isolate(
                "llama.cpp's quantiser",
                _quantize,
                lambda _doing, share: progress(round(share * found.weights), found.weights),
                source,
                partial,
                wanted,
            )
    return _report(out, type_name)


def convert_with(
    converter: Path, folder: Path, type_name: str, out: Path, progress: Progress = unheard
) -> GgufReport:
    """Write the model in `folder` to `out` with a llama.cpp converter, through a lossless file beside `out`.

    `converter` is a llama.cpp checkout, an unpacked llama-cpp-python source archive, or the script itself;
    what the script imports (torch, transformers) must be installed here.
    """
    check_file_type(type_name)
    script = _script(converter)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".convert-") as room:
        made = Path(room) / "model.gguf"
        kept = type_name if type_name in ("F16", "BF16") else "F32"
        command = [
            sys.executable,
            str(script),
            str(folder),
            "--outtype",
            kept.lower(),
            "--outfile",
            str(made),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode or not made.is_file():
            words = (ended.stderr + ended.stdout).strip().splitlines()[-_LAST_WORDS:]
            raise BuildError(
                "\n  ".join([f"{script} could not convert {folder}; its last words:", *words]),
                remedy="Install what the converter asks for, or take a newer llama.cpp.",
            )
        return requantize_gguf(made, type_name, out, progress)


def converter_files(converter: Path) -> list[Path]:
    """Return the converter's script, and the code that it imports from beside itself."""
    script = _script(converter)
    beside = (script.parent / "conversion", script.parent / "gguf-py" / "gguf")
    return [script, *(file for folder in beside for file in sorted(folder.rglob("*.py")))]


def _script(converter: Path) -> Path:
    candidates = [converter, *(converter / place for place in _PLACES)]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise UsageError(
            f"--converter {converter}: expected {_SCRIPT} there, found none",
            remedy="Give a llama.cpp checkout or an unpacked llama-cpp-python source archive.",
        )
    return found


@dataclass(frozen=True)
class _Found:
    """What a .gguf holds."""

    file_type: int | None
    types: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    """Columns first, as GGUF has it."""
    weights: int
    nbytes: int


def _read(file: Path) -> _Found:
    try:
        reader = GGUFReader(file)
    except FileNotFoundError as error:
        raise ModelError(f"no file {file}", remedy="Give the path of a .gguf file.") from error
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise ModelError(
            f"{file} ({file.stat().st_size} bytes) is damaged, cut off or no GGUF file: {error}",
            remedy="Copy or download it again.",
        ) from error
    said = reader.get_field("general.file_type")
    return _Found(
        file_type=None if said is None else int(said.contents()),
        types={tensor.name: tensor.tensor_type.name for tensor in reader.tensors},
        shapes={tensor.name: tuple(int(n) for n in tensor.shape) for tensor in reader.tensors},
        weights=sum(int(tensor.n_elements) for tensor in reader.tensors),
        nbytes=sum(int(tensor.n_bytes) for tensor in reader.tensors),
    )


def _report(out: Path, type_name: str) -> GgufReport:
    found = _read(out)
    default = FILE_TYPES[type_name].default
    uneven = {
        name: shape[0]
        for name, shape in found.shapes.items()
        if len(shape) > 1 and shape[0] % GGML_TYPES[default].block and name.endswith("weight")
    }
    weights = {name: math.prod(found.shapes[name]) for name in uneven}
    return GgufReport(
        bytes=out.stat().st_size,
        bits_per_weight=8 * found.nbytes / found.weights,
        types=found.types,
        fallbacks=tuple(
            Fallback(name, columns, default, found.types[name], weights[name])
            for name, columns in uneven.items()
        ),
        fallback_share=sum(weights.values()) / found.weights,
    )


def _quantize(progress: Told, source: Path, partial: Path, file_type: int) -> None:
    import llama_cpp  # noqa: PLC0415 - only the child carries llama.cpp

    words: list[str] = []

    def hear(_level: int, text: bytes, _data: Any) -> None:
        line = text.decode(errors="replace")
        words.append(line)
        at = re.match(r"\[ *(\d+)/ *(\d+)\]", line)
        if at:
            progress("quantise", int(at[1]) / int(at[2]))

    callback = llama_cpp.llama_log_callback(hear)
    llama_cpp.llama_log_set(callback, None)
    asked = llama_cpp.llama_model_quantize_default_params()
    asked.ftype = file_type
    asked.nthread = os.cpu_count() or 1
    asked.allow_requantize = True
    asked.max_buf_size = BUFFER_BYTES
    if llama_cpp.llama_model_quantize(str(source).encode(), str(partial).encode(), asked):
        why = next((line.strip() for line in reversed(words) if "failed" in line), "it does not say why")
        raise BuildError(
            f"llama.cpp cannot quantise {source}: {why}",
            remedy="Start from the F16 or F32 file of the model.",
        )
