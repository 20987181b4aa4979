"""What devices told, kept by the operator: once, whatever was cut when."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from slmops.errors import DocumentError
from slmops.telemetry.events import RequestFinished, pack
from slmops.telemetry.gather import EVENTS, SAMPLES, opened
from slmops.telemetry.spool import Spool, read
from slmops.telemetry.summary import summarise

REPOSITORY = Path(__file__).parents[2]


def event(number, **said):
    whole = RequestFinished(
        float(number), "demo:1.0.0", "sha256:00", 200, number, 5, 0.1, 0.5, "current", "chat"
    )
    return replace(whole, **said)


def told(folder, asked, limit=-1):
    found = read(folder, asked["after"], limit, asked["spool"])
    return {"spool": found.name, **pack(found.events), "last": found.last, "dropped": found.dropped}


@pytest.fixture
def gathered(tmp_path):
    with opened(tmp_path / "telemetry.sqlite") as gathered:
        yield gathered


def pull(gathered, folder, device="fleet/box"):
    return gathered.keep(device, told(folder, gathered.heard(device, EVENTS)))


def test_what_is_pulled_is_kept_as_it_was_told(tmp_path, gathered):
    events = [event(number, first_token_seconds=None if number % 2 else 0.5) for number in range(20)]
    Spool(tmp_path / "spool").extend(events)
    assert pull(gathered, tmp_path / "spool") == 20
    assert [found for _, _, _, found in gathered.events()] == events


def test_what_was_pulled_before_is_not_asked_for_again(tmp_path, gathered):
    spool = Spool(tmp_path / "spool")
    spool.extend([event(number) for number in range(5)])
    pull(gathered, tmp_path / "spool")
    assert told(tmp_path / "spool", gathered.heard("fleet/box", EVENTS))["events"] == []
    spool.append(event(5))
    assert pull(gathered, tmp_path / "spool") == 1


def test_the_same_answer_heard_twice_counts_once(tmp_path, gathered):
    Spool(tmp_path / "spool").extend([event(number) for number in range(5)])
    said = told(tmp_path / "spool", {"spool": "", "after": 0})
    assert (gathered.keep("fleet/box", said), gathered.keep("fleet/box", said)) == (5, 0)
    assert gathered.keep("fleet/other", said) == 5


def test_a_spool_that_began_anew_is_heard_from_its_beginning(tmp_path, gathered):
    Spool(tmp_path / "one").extend([event(number) for number in range(5)])
    Spool(tmp_path / "two").extend([event(number) for number in range(3)])
    pull(gathered, tmp_path / "one")
    assert pull(gathered, tmp_path / "two") == 3
    assert len(list(gathered.events())) == 8


def test_what_is_no_answer_of_a_device_is_refused_and_nothing_of_it_kept(gathered):
    good = pack([(1, event(1))])
    for said in ({}, {"spool": "x"}, {**good}, {**good, "spool": "x", "dropped": "many"}):
        with pytest.raises(DocumentError):
            gathered.keep("fleet/box", said)
    with pytest.raises(DocumentError):
        gathered.keep_samples("fleet/box", {"spool": "x", "samples": [{"no": "id"}]})
    assert list(gathered.events()) == []


def test_versions_are_summed_up_by_device(tmp_path, gathered):
    mine = [event(number, status=500 if number % 4 == 0 else 200) for number in range(100)]
    other = [event(number, digest="sha256:11", release="demo:1.1.0") for number in range(10)]
    Spool(tmp_path / "a").extend([*mine, *other])
    Spool(tmp_path / "b").extend(other)
    pull(gathered, tmp_path / "a", "fleet/a")
    pull(gathered, tmp_path / "b", "fleet/b")
    seen = {(each.device, each.release): each for each in gathered.seen()}
    assert seen["fleet/a", "demo:1.0.0"].summary == summarise(mine)
    assert seen["fleet/a", "demo:1.0.0"].last == 99.0
    assert seen["fleet/b", "demo:1.1.0"].summary.requests == 10
    assert [each.device for each in gathered.seen({"fleet/b"})] == ["fleet/b"]


def test_dropped_events_are_known_by_device(gathered):
    said = {**pack([(7, event(1))]), "spool": "x", "dropped": 6}
    gathered.keep("fleet/box", said)
    gathered.keep("fleet/box", {**said, "dropped": 9})
    assert gathered.dropped() == {"fleet/box": 9}


def test_samples_are_kept_once(gathered):
    said = {"spool": "x", "samples": [{"id": 1, "prompt": "a"}, {"id": 2, "prompt": "b"}]}
    assert (gathered.keep_samples("fleet/box", said), gathered.keep_samples("fleet/box", said)) == (2, 0)
    assert gathered.heard("fleet/box", SAMPLES) == {"spool": "x", "after": 2}
    assert [each["prompt"] for each in gathered.samples()] == ["a", "b"]


PULL = """
import sys
from pathlib import Path
from slmops.telemetry.events import pack
from slmops.telemetry.gather import EVENTS, opened
from slmops.telemetry.spool import read
file, spool = map(Path, sys.argv[1:])
with opened(file) as gathered:
    while True:
        asked = gathered.heard("fleet/box", EVENTS)
        found = read(spool, asked["after"], 40, asked["spool"])
        if not found.events:
            break
        said = {"spool": found.name, **pack(found.events), "last": found.last, "dropped": found.dropped}
        gathered.keep("fleet/box", said)
        print(len(found.events), flush=True)
"""


def test_a_pull_that_is_killed_anywhere_is_gone_on_with_and_every_event_is_kept_once(tmp_path):
    events = [event(number) for number in range(4000)]
    spool = Spool(tmp_path / "spool")
    spool.extend(events)
    drawn = random.Random(7)  # noqa: S311 - the same every time
    words = [sys.executable, "-c", PULL, tmp_path / "telemetry.sqlite", tmp_path / "spool"]
    for _ in range(12):
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
        ) as pulling:
            for _ in range(drawn.randint(0, 12)):
                pulling.stdout.readline()
            pulling.send_signal(signal.SIGKILL)
            pulling.stdout.read()
    with opened(tmp_path / "telemetry.sqlite") as gathered:
        before = [found for _, _, _, found in gathered.events()]
        assert 0 < len(before) < 4000
        assert before == events[: len(before)]
        pull(gathered, tmp_path / "spool")
        assert [found for _, _, _, found in gathered.events()] == events
