"""Steps that were made before: whole, once, and known by what they were made of."""

import json
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops import digest as digests
from slmops.build.cache import SAID, Cache, tools

STEP = {"step": "model", "type": "Q8_0", "source": "sha256:1"}


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def make(cache, step, text="made"):
    with cache.make(step) as folder:
        (folder / "result").write_text(text)
    return cache.find(step)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_step_is_found_once_it_is_made_and_not_before(cache):
    assert cache.find(STEP) is None
    assert not cache.folder.exists()
    with cache.make(STEP) as folder:
        assert list(folder.iterdir()) == []
        assert cache.find(STEP) is None
        (folder / "result").write_text("made")
        assert cache.find(STEP) is None
    assert (cache.find(STEP) / "result").read_text() == "made"
    assert Cache(cache.folder).find(STEP) == cache.find(STEP)


def test_the_same_text_read_in_another_way_has_another_name(cache, tmp_path):
    files = [tmp_path / name for name in ("a.txt", "b.txt", "a.jsonl")]
    for file in files:
        file.write_text('{"text": "Hello."}')
    plain, copied, lines = map(cache.digest_of_text, files)

    assert plain == copied != lines


def test_a_step_says_what_it_was_made_of(cache):
    assert json.loads((make(cache, STEP) / SAID).read_text()) == STEP
    make(cache, STEP | {"type": "Q4_0"}, "more")
    said = {(step["type"], nbytes) for step, nbytes in cache.steps()}
    sizes = {path.name: path.stat().st_size for path in cache.find(STEP).iterdir()}
    assert said == {("Q8_0", sum(sizes.values())), ("Q4_0", sum(sizes.values()))}


parts = st.dictionaries(
    st.sampled_from(["step", "type", "source", "tokens"]),
    st.one_of(st.text(max_size=3), st.integers(), st.none(), st.lists(st.integers(), max_size=2)),
)


@given(parts, parts)
def test_what_differs_in_anything_is_another_step_and_the_order_of_its_parts_is_nothing(
    tmp_path_factory, a, b
):
    cache = Cache(tmp_path_factory.getbasetemp() / "names")

    assert (cache._place(a) == cache._place(b)) == (a == b)
    assert cache._place(dict(reversed(a.items()))) == cache._place(a)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_inside_leaves_nothing(cache, error):
    def fail():
        with cache.make(STEP) as folder:
            (folder / "half").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert cache.find(STEP) is None
    assert files(cache.folder) == []
    assert make(cache, STEP)


def test_what_an_ended_process_left_is_not_found_and_is_in_nobodys_way(cache):
    killed = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from slmops.build.cache import Cache\n"
        "with Cache(Path(sys.argv[1])).make({'step': 'model'}) as folder:\n"
        "    (folder / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", killed, cache.folder], check=False)

    assert ended.returncode == -signal.SIGKILL
    assert files(cache.folder)
    assert (cache.find({"step": "model"}), cache.steps()) == (None, [])
    assert files(make(cache, {"step": "model"})) == ["result", SAID]


def test_the_same_step_made_twice_at_a_time_is_kept_once_and_whole(cache):
    with cache.make(STEP) as slow:
        (slow / "result").write_text("the slow one's")
        first = make(cache, STEP, "the quick one's")
    assert cache.find(STEP) == first
    assert (first / "result").read_text() == "the quick one's"
    assert len(cache.steps()) == 1
    assert [path for path in files(cache.folder) if "making" in path] == []


RACE = """
import sys
from pathlib import Path
from slmops.build.cache import Cache
cache = Cache(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for n in range(200):
    with cache.make({"step": "model", "n": n}) as folder:
        (folder / "result").write_text(sys.argv[2])
"""


def test_two_processes_may_make_the_same_steps_at_once(cache):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, cache.folder, name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=60)[1] for racer in racers]

    assert said == ["", ""]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert len(cache.steps()) == 200
    assert {path.read_text() for path in cache.folder.glob("*/result")} <= {"one", "two"}
    assert [path for path in files(cache.folder) if "making" in path] == []


def test_a_digest_is_that_of_the_file_and_notices_a_change(cache, tmp_path):
    file = tmp_path / "model"
    file.write_bytes(b"weights")
    assert cache.digest_of(file) == digests.of_file(file) == cache.digest_of(file)

    file.write_bytes(b"longer weights")
    assert cache.digest_of(file) == digests.of_file(file)

    os.utime(file, ns=(1, 1))
    file.write_bytes(b"weights longer")
    assert cache.digest_of(file) == digests.of_file(file)


def test_a_file_put_in_anothers_place_is_read_anew(cache, tmp_path):
    file, other = tmp_path / "model", tmp_path / "other"
    for path, text in ((file, b"one"), (other, b"two")):
        path.write_bytes(text)
        os.utime(path, ns=(1, 1))
    before = cache.digest_of(file)
    other.replace(file)

    assert cache.digest_of(file) == digests.of_file(file) != before


def test_a_file_that_has_not_changed_is_not_read_again(cache, tmp_path):
    file = tmp_path / "model"
    file.write_bytes(b"weights")
    ((key, before),) = json.loads(_book_after(cache, file)).items()
    assert str(file) in key

    # Its digest is taken from the book: another one there is believed.
    book = cache.folder / "digests.json"
    book.write_text(json.dumps({key: "sha256:" + 64 * "0"}))
    assert Cache(cache.folder).digest_of(file) != before


def _book_after(cache, file):
    cache.digest_of(file)
    return (cache.folder / "digests.json").read_text()


@pytest.mark.parametrize("rotten", ["", "not json", '{"a":'])
def test_a_book_of_digests_that_has_rotted_is_written_anew(cache, tmp_path, rotten):
    file = tmp_path / "model"
    file.write_bytes(b"weights")
    cache.folder.mkdir()
    (cache.folder / "digests.json").write_text(rotten)

    assert cache.digest_of(file) == digests.of_file(file)
    assert len(json.loads((cache.folder / "digests.json").read_text())) == 1


def test_clearing_frees_what_the_steps_took_and_costs_nothing_but_time(cache, tmp_path):
    file = tmp_path / "model"
    file.write_bytes(b"weights")
    cache.digest_of(file)
    make(cache, STEP)
    nbytes = sum(size for _, size in cache.steps())

    assert cache.clear() == nbytes > 0
    assert not cache.folder.exists()
    assert (cache.find(STEP), cache.steps(), cache.clear()) == (None, [], 0)
    assert make(cache, STEP)
    assert cache.digest_of(file) == digests.of_file(file)


def test_the_tools_that_have_a_hand_in_a_build_are_named_with_their_versions():
    said = tools()

    assert {"numpy", "gguf", "llama-cpp-python", "slmops"} <= said.keys()
    assert "sha256:" in said["slmops"]
    assert tools() == said
