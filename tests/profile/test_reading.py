import ast
import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slmops.profile
from slmops.profile import reading
from slmops.profile.reading import PROBE_SCRIPT, DeviceFacts, facts_from, read_sections

SAID = Path(__file__).parent / "said"
V8_2 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


def facts_of(device: str) -> DeviceFacts:
    return read_sections((SAID / f"{device}.txt").read_text())


def test_a_raspberry_pi_5_is_read():
    assert facts_of("raspberry-pi-5") == DeviceFacts(
        arch="aarch64",
        cpu_model="Cortex-A76",
        cores=4,
        features=tuple(V8_2.split()),
        memory_total=8257440 * 1024,
        memory_available=7699520 * 1024,
        disk_free=52635164 * 1024,
        os="Debian GNU/Linux 12 (bookworm)",
        libc="glibc 2.36",
        python="3.11.2",
        board="Raspberry Pi 5 Model B Rev 1.0",
    )


def test_a_raspberry_pi_zero_2_w_is_read():
    facts = facts_of("raspberry-pi-zero-2w")

    assert (facts.arch, facts.cpu_model, facts.cores) == ("aarch64", "Cortex-A53", 4)
    assert facts.features == ("fp", "asimd", "evtstrm", "crc32", "cpuid")
    assert facts.memory_total == 427 << 20


def test_a_32_bit_system_is_armv7l_and_its_cores_are_named_by_part():
    facts = facts_of("raspberry-pi-zero-2w-32-bit")

    assert (facts.arch, facts.cpu_model, facts.os) == (
        "armv7l",
        "Cortex-A53",
        "Raspbian GNU/Linux 10 (buster)",
    )
    assert "neon" in facts.features


def test_a_32_bit_system_on_a_64_bit_kernel_is_what_its_programs_see():
    assert read_sections("@@slmops uname\naarch64\n\n@@slmops bits\n32\n\n@@slmops end\n").arch == "armv7l"
    assert read_sections("@@slmops uname\narmv8l\n\n@@slmops bits\n32\n\n@@slmops end\n").arch == "armv7l"
    assert read_sections("@@slmops uname\narm64\n\n@@slmops end\n").arch == "aarch64"


def test_a_jetson_orin_nano_is_read():
    facts = facts_of("jetson-orin-nano")

    assert (facts.cpu_model, facts.cores, facts.board) == (
        "Cortex-A78AE",
        6,
        "NVIDIA Orin Nano Developer Kit",
    )
    assert facts.features == (*V8_2.split(), "uscat", "ilrcpc", "flagm")


def test_cores_of_two_sizes_are_counted():
    facts = facts_of("rock-5b")

    assert (facts.cpu_model, facts.cores) == ("4x Cortex-A55 + 4x Cortex-A76", 8)


def test_an_intel_n100_is_read():
    facts = facts_of("intel-n100")

    assert (facts.arch, facts.cpu_model, facts.cores, facts.board) == ("x86_64", "Intel(R) N100", 4, "ADL-N")
    assert {"avx2", "avx_vnni", "fma"} <= set(facts.features)
    assert facts.disk_free == 42328412 * 1024
    assert facts.libc == "glibc 2.35"


def test_a_musl_system_without_python_is_read():
    facts = facts_of("alpine")

    assert (facts.os, facts.libc, facts.python, facts.board) == ("alpine 3.20.3", "musl 1.2.5", None, None)
    assert facts.disk_free == 209715200 * 1024


def test_glibc_is_read_from_ldd_where_there_is_no_getconf():
    said = "@@slmops libc\nldd (Debian GLIBC 2.36-9+deb12u10) 2.36\nCopyright (C) 2022\n\n@@slmops end\n"

    assert read_sections(said).libc == "glibc 2.36"


def test_features_are_those_of_all_cores():
    said = "@@slmops cpuinfo\nprocessor: 0\nflags: a b c\n\nprocessor: 1\nflags: c b\n\n@@slmops end\n"

    assert read_sections(said).features == ("b", "c")


def test_an_unknown_arm_core_is_named_by_its_numbers():
    said = "@@slmops cpuinfo\nprocessor: 0\nCPU implementer: 0x51\nCPU part: 0x801\n\n@@slmops end\n"

    assert read_sections(said).cpu_model == "ARM core 0x51/0x801"


def test_nothing_said_is_nothing_known():
    assert read_sections("") == DeviceFacts()
    assert read_sections("Permission denied\n") == DeviceFacts()


def test_a_banner_before_the_first_mark_is_ignored():
    said = (SAID / "raspberry-pi-5.txt").read_text()

    assert read_sections("Welcome!\nuname: x\n" + said) == facts_of("raspberry-pi-5")
    assert read_sections(said.replace("\n", "\r\n")) == facts_of("raspberry-pi-5")


def test_a_cut_answer_gives_no_half_facts():
    said = (SAID / "raspberry-pi-5.txt").read_text()

    facts = read_sections(said[: said.index("MemAvailable")])

    assert facts.cores == 4
    assert facts.memory_total is None


@given(
    st.text(),
    st.sampled_from(["uname", "bits", "cpuinfo", "meminfo", "disk", "os", "board", "libc", "python"]),
)
def test_no_section_however_strange_is_an_error(body, section):
    facts = read_sections(f"@@slmops {section}\n{body}\n@@slmops end\n")

    assert facts_from(json.loads(json.dumps(asdict(facts)))) == facts


@pytest.mark.parametrize("device", sorted(path.stem for path in SAID.glob("*.txt")))
def test_facts_survive_the_wire(device):
    facts = facts_of(device)

    assert facts_from(json.loads(json.dumps(asdict(facts)))) == facts


def test_facts_of_a_newer_version_are_read():
    assert facts_from({"arch": "aarch64", "watts": 12}) == DeviceFacts(arch="aarch64")


def test_this_machine_is_read(tmp_path):
    said = subprocess.run(
        ["sh", "-s", str(tmp_path / "not" / "there")],
        input=PROBE_SCRIPT,
        capture_output=True,
        text=True,
        check=True,
    )
    facts = read_sections(said.stdout)

    assert said.stderr == ""
    assert None not in (facts.arch, facts.cores, facts.memory_total, facts.memory_available, facts.disk_free)


def test_the_script_is_one_argument_of_a_shell(tmp_path):
    said = subprocess.run(
        ["sh", "-c", PROBE_SCRIPT, "slmops", str(tmp_path)], capture_output=True, text=True, check=True
    )

    assert read_sections(said.stdout).disk_free


def test_reading_and_sizes_compile_on_python_3_9_and_import_only_the_standard_library():
    folder = Path(reading.__file__).parent
    for name in ("reading.py", "sizes.py"):
        tree = ast.parse((folder / name).read_text(), feature_version=(3, 9))
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        assert modules <= {"__future__", "re", "dataclasses", "typing", "collections.abc", "decimal"}


def test_the_room_itself_imports_nothing():
    tree = ast.parse(Path(slmops.profile.__file__).read_text())

    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
