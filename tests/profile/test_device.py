import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from slmops.document import dumps, loads
from slmops.errors import DocumentError
from slmops.profile.device import DeviceProfile, Memory

GOOD = """\
name: board
title: A board
arch: aarch64
cpu: {model: Cortex-A76, cores: 4}
memory: {total: 8GiB, reserve: 512MiB, bandwidth: 10.2GB/s}
storage: {kind: sd, free: 4GiB}
system: {os: Debian, python: "3.11"}
serve: {context: 2048, threads: 4}
formats: [gguf]
"""


def problems(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        loads(text, DeviceProfile, "board.yaml")
    return str(caught.value).splitlines()


def test_sizes_are_read_and_the_budget_is_what_is_left():
    profile = loads(GOOD, DeviceProfile, "board.yaml")

    assert profile.memory == Memory(total=8 << 30, reserve=512 << 20, bandwidth=10_200_000_000)
    assert profile.memory.budget == (8 << 30) - (512 << 20)


def test_a_profile_does_not_change(device):
    with pytest.raises(ValidationError, match="frozen"):
        device.name = "other"
    assert hash(device) == hash(device.model_copy())


def test_an_unknown_key_names_file_line_and_the_near_one():
    assert problems(GOOD.replace("reserve:", "reserv:")) == [
        "board.yaml, line 5: memory.reserve: missing key",
        "board.yaml, line 5: memory.reserv: unknown key; did you mean 'reserve'?",
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "total: 8GiB",
            "total: a lot",
            "line 5: memory.total: expected a size like 8GiB, 512MiB or 1.5GB, got 'a lot'",
        ),
        (
            "10.2GB/s",
            "10.2GB",
            "line 5: memory.bandwidth: expected a rate like 10.2GB/s or 800MB/s, got '10.2GB'",
        ),
        (
            "reserve: 512MiB",
            "reserve: 8GiB",
            "line 5: memory.reserve: expected less than memory.total, or no model will ever fit",
        ),
        ("threads: 4", "threads: 5", "line 8: serve.threads: expected at most cpu.cores, 4"),
        (
            "threads: 4",
            "threads: 4, micro_batch: 4096",
            "line 8: serve.micro_batch: expected at most serve.context, 2048",
        ),
        ("[gguf]", "[gguf, gguf]", "line 9: formats: expected each format once"),
        ("[gguf]", "[ggml]", "line 9: formats[0]: expected 'gguf' or 'onnx', got 'ggml'"),
        (
            "arch: aarch64",
            "arch: arm64",
            "line 3: arch: expected 'x86_64', 'aarch64' or 'armv7l', got 'arm64'",
        ),
        ("kind: sd", "kind: floppy", "line 6: storage.kind: expected 'sd', "),
        ("name: board", "name: My Board", "line 1: name: expected text of the form "),
        (
            'python: "3.11"',
            "python: 3.11",
            "line 7: system.python: expected text, got 3.11; put it in quotes",
        ),
    ],
)
def test_what_no_device_can_be_is_refused(old, new, problem):
    (said,) = problems(GOOD.replace(old, new))

    assert said.startswith(f"board.yaml, {problem}")


def test_a_bad_expression_is_refused():
    (said,) = problems(GOOD + "detect: '('\n")

    assert said.startswith("board.yaml, line 10: detect: expected a regular expression, got '('")


@given(st.integers(1, 1 << 44), st.integers(0, 1 << 44), st.text(max_size=20))
def test_a_profile_is_written_and_read_back(total, reserve, title):
    profile = loads(GOOD, DeviceProfile, "board.yaml")
    memory = Memory(total=total + reserve, reserve=reserve, bandwidth=total)
    profile = profile.model_copy(update={"memory": memory, "title": title})

    assert loads(dumps(profile), DeviceProfile, "again.yaml") == profile
    assert DeviceProfile.model_validate_json(profile.model_dump_json()) == profile


def test_the_schema_describes_every_key_and_lets_a_size_be_text_or_a_number():
    schema = DeviceProfile.model_json_schema()
    parts = [schema, *schema["$defs"].values()]

    assert all("description" in key for part in parts for key in part["properties"].values())
    assert all(part["additionalProperties"] is False for part in parts)
    total = schema["$defs"]["Memory"]["properties"]["total"]
    assert [kind["type"] for kind in total["anyOf"]] == ["integer", "string"]
    assert json.loads(json.dumps(schema)) == schema
