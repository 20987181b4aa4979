"""slmops telemetry: from real devices, over a real link, into the operator's file and out of it."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from slmops.fleet.agent import greet
from slmops.fleet.load import load_fleet
from slmops.fleet.ssh import Link
from slmops.telemetry.capture import Capture
from slmops.telemetry.events import RequestFinished
from slmops.telemetry.spool import Spool

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "ab" * 32


def event(number, **said):
    whole = RequestFinished(1.7e9 + number, "demo:1.0.0", DIGEST, 200, number, 5, 0.1, 0.5, "current", "chat")
    return replace(whole, **said)


@pytest.fixture(scope="module")
def lit(tmp_path_factory):
    """Two real devices; the first has an agent."""
    if not (shutil.which("sshd") or Path("/usr/sbin/sshd").exists()):
        pytest.skip("sshd is not installed")
    folder = tmp_path_factory.mktemp("fleet")
    subprocess.run([ROOT / "scripts/fleet-up", "2", folder], check=True, capture_output=True)
    first = load_fleet(folder / "fleet.yaml")[1][0]
    with Link(first, ()) as link:
        greet(link)
    yield folder
    subprocess.run([ROOT / "scripts/fleet-down", folder], check=True, capture_output=True)


@pytest.fixture
def fleet(lit):
    """The fleet file; the first device's spool is empty."""
    shutil.rmtree(spool_of(lit / "fleet.yaml"), ignore_errors=True)
    return lit / "fleet.yaml"


def spool_of(fleet):
    return fleet.parent / "edge-1" / "home" / ".slmops" / "spool"


def lines(slmops, *words):
    return [json.loads(line) for line in slmops("telemetry", "export", *words).out.splitlines()]


def test_events_come_once_and_a_device_without_an_agent_is_said_to_have_none(slmops, fleet):
    spool = Spool(spool_of(fleet))
    spool.extend([event(number) for number in range(100)])

    first = slmops("telemetry", "pull", fleet, "-o", "json")
    spool.append(event(100, status=500))
    again = slmops("telemetry", "pull", fleet, "-l", "edge-1", "-o", "json")

    assert first.code == 4
    one, two = json.loads(first.out)["devices"]
    assert (one["events"], one["dropped"]) == (100, 0)
    assert two["code"] == "SLM-NO-AGENT"
    assert again.code == 0
    assert json.loads(again.out)["devices"][0]["events"] == 1
    assert [line["prompt_tokens"] for line in lines(slmops)] == list(range(101))


def test_what_was_fetched_is_shown_by_device_and_version(slmops, fleet):
    Spool(spool_of(fleet)).extend([event(number, status=500 if number == 3 else 200) for number in range(10)])
    slmops("telemetry", "pull", fleet, "-l", "edge-1")

    shown = slmops("telemetry", "show").out
    (row,) = json.loads(slmops("telemetry", "show", fleet, "-o", "json").out)["versions"]

    assert "demo:1.0.0" in shown
    assert "ab" * 6 in shown
    assert (row["requests"], row["errors"]) == (10, 1)
    assert row["first_token_p95_seconds"] == pytest.approx(0.1, rel=0.02)
    assert row["tokens_per_second"] == pytest.approx(10)
    assert json.loads(slmops("telemetry", "show", fleet, "-l", "edge-2", "-o", "json").out)["versions"] == []


def test_sums_are_written_out_for_prometheus(slmops, fleet):
    Spool(spool_of(fleet)).extend([event(number) for number in range(10)])
    slmops("telemetry", "pull", fleet, "-l", "edge-1")
    told = slmops("telemetry", "export", "--format", "prom").out
    assert f'/edge-1",digest="{DIGEST}",release="demo:1.0.0"}} 10.0' in told


@pytest.mark.parametrize(("form", "words"), [("jsonl", "pull FLEET"), ("samples", "pull --samples FLEET")])
def test_where_nothing_was_fetched_it_is_said_how_to(slmops, form, words):
    told = slmops("telemetry", "export", "--format", form)

    assert (told.out, f"slmops telemetry {words}" in told.err) == ("", True)


def test_samples_are_fetched_only_where_the_fleet_file_lets_them_be_taken(slmops, fleet):
    Capture(spool_of(fleet), 1.0).offer(event(1), "abc", "I am jo@example.org", "hello")

    refused = slmops("telemetry", "pull", fleet, "-l", "edge-1", "--samples")
    said = yaml.safe_load(fleet.read_text())
    said.setdefault("defaults", {})["daemon"] = {"capture": 0.5}
    allowing = fleet.with_name("allowing.yaml")
    allowing.write_text(yaml.safe_dump(said))
    fetched = slmops("telemetry", "pull", allowing, "-l", "edge-1", "--samples", "-o", "json")

    assert refused.code == 2
    assert "does not let edge-1 capture prompts" in refused.err
    assert json.loads(fetched.out)["devices"][0]["samples"] == 1
    (sample,) = lines(slmops, "--format", "samples")
    assert (sample["device"], sample["prompt"]) == (f"{said['name']}/edge-1", "I am <email>")


def test_a_pull_ends_though_this_clock_was_set_back_since_the_one_before(slmops, home, fleet):
    said = yaml.safe_load(fleet.read_text())
    said.setdefault("defaults", {})["daemon"] = {"capture": 0.5}
    allowing = fleet.with_name("set-back.yaml")
    allowing.write_text(yaml.safe_dump(said))

    def pull():
        told = slmops("telemetry", "pull", allowing, "-l", "edge-1", "--samples", "-o", "json")
        return json.loads(told.out)["devices"][0]["samples"]

    Capture(spool_of(fleet), 1.0).offer(event(1), "abc", "one", "two")
    assert pull() == 1
    with closing(sqlite3.connect(home / "telemetry.sqlite")) as kept, kept:
        kept.execute("UPDATE sources SET at = at + 1e6")
    shutil.rmtree(spool_of(fleet))
    Capture(spool_of(fleet), 1.0).offer(event(2), "def", "three", "four")

    assert pull() == 1
    assert [line["prompt"] for line in lines(slmops, "--format", "samples")] == ["one", "three"]


@pytest.mark.journey
def test_a_pull_that_is_killed_is_gone_on_with_and_nothing_is_missing_or_twice(slmops, home, fleet):
    Spool(spool_of(fleet)).extend([event(number) for number in range(50_000)])
    words = [sys.executable, "-m", "slmops", "telemetry", "pull", fleet, "-l", "edge-1"]
    kept = home / "telemetry.sqlite-wal"
    for grown in (1, 1_000_000):
        with subprocess.Popen(
            words, env={**os.environ, "SLMOPS_HOME": str(home)}, stdout=subprocess.DEVNULL
        ) as pulling:
            while pulling.poll() is None and not (kept.exists() and kept.stat().st_size >= grown):
                time.sleep(0.01)
            pulling.send_signal(signal.SIGKILL)

    assert slmops("telemetry", "pull", fleet, "-l", "edge-1").code == 0
    assert [line["prompt_tokens"] for line in lines(slmops)] == list(range(50_000))


def test_of_nothing_fetched_it_says_what_to_do(slmops):
    assert "slmops telemetry pull FLEET.yaml" in slmops("telemetry", "show").err
