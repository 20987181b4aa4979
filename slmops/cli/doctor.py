"""slmops doctor: what is missing here."""

import importlib.util
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from slmops.cli import home
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, emit, say, table
from slmops.errors import install_line

app = verb("Say what is missing here, with the line that installs it.")

EXTRAS = {
    "build": (
        "gguf",
        "huggingface_hub",
        "jinja2",
        "llama_cpp",
        "numpy",
        "safetensors",
        "tokenizers",
        "torch",
        "transformers",
    ),
    "onnx": ("onnx", "onnxruntime", "optimum.exporters.onnx"),
    "train": ("accelerate", "httpx", "peft", "torch"),
    "daemon": (
        "jinja2",
        "numpy",
        "tokenizers",
        "llama_cpp",
        "llguidance",
        "msgspec",
        "onnxruntime",
        "prometheus_client",
        "starlette",
        "uvicorn",
    ),
    "runtime": ("cmake", "ninja", "ziglang"),
    "registry": ("fsspec", "httpx"),
}
FOR = {
    "build": "slmops quantize to GGUF",
    "onnx": "slmops quantize to ONNX",
    "train": "slmops distill, prune, finetune",
    "daemon": "the inference daemon, on devices",
    "runtime": "slmops runtime build",
    "registry": "slmops release push, pull",
}
COMPILER = ("cmake", "g++")
"""What llama-cpp-python needs to be installed: it comes as source."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for."""

    what: str
    needed_for: str
    state: str
    remedy: str = ""


@app.command()
def doctor(output: Output = Form.TABLE) -> None:
    """Say what is missing here, with the line that installs it (in the checkout of slmops).

    Exit code 1 when something that deploying needs is missing; builders and servers are extras.
    """
    findings = [_python(), *_programs(), *(_extra(name) for name in EXTRAS), _home()]
    if output is Form.JSON:
        emit([asdict(finding) for finding in findings])
    else:
        rows = [(f.what, f.state, f.needed_for, f.remedy) for f in findings]
        table(("part", "state", "needed for", "next"), rows)
    if any(finding.state == "missing" for finding in findings[:2]) or findings[-1].state == "missing":
        raise typer.Exit(1)
    if any(finding.state == "missing" for finding in findings):
        say("What is missing is needed only for what its line says.")


def _python() -> Finding:
    said = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    return Finding(
        f"python {said}", "slmops", "ok" if good else "missing", "" if good else "install Python 3.11"
    )


def _programs() -> list[Finding]:
    found = [
        _program("ssh-keygen", "signing and verifying releases", "apt-get install openssh-client"),
        _program("sshd", "scripts/fleet-up: devices on this machine", "apt-get install openssh-server"),
    ]
    if importlib.util.find_spec("llama_cpp") is None:
        found += [
            _program(name, "installing llama-cpp-python", "apt-get install build-essential cmake")
            for name in COMPILER
        ]
    return found


def _program(name: str, needed_for: str, remedy: str) -> Finding:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    here = shutil.which(name, path=path) is not None
    return Finding(name, needed_for, "ok" if here else "missing", "" if here else remedy)


def _extra(name: str) -> Finding:
    lacking = [module for module in EXTRAS[name] if not _there(module)]
    if not lacking:
        return Finding(f"extra {name}", FOR[name], "ok")
    lacks = f"{FOR[name]}; lacks {', '.join(lacking)}"
    return Finding(f"extra {name}", lacks, "missing", install_line(name))


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _home() -> Finding:
    folder = home.folder()
    nearest: Path = next(path for path in (folder, *folder.parents) if path.exists())
    good = nearest.is_dir() and os.access(nearest, os.W_OK)
    remedy = "" if good else "export SLMOPS_HOME=DIR that you can write"
    return Finding(str(folder), "releases, keys, history", "ok" if good else "missing", remedy)
