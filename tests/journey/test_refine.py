"""A profile learns from a device that serves."""

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from slmops import document
from slmops.artifact import description as descriptions
from slmops.artifact import sign
from slmops.profile.device import DeviceProfile
from slmops.profile.sizes import parse_rate
from slmops.registry.layout import Layout
from slmops.registry.release import publish

ROOT = Path(__file__).parents[2]
REQUESTS, TOKENS = 25, 24

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]


@pytest.fixture
def bench(monkeypatch):
    """What makes random models."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import footprint  # noqa: PLC0415 - found by the line above

    return footprint


def publish_random(newcomer, bench, room):
    """Put a release of a random model of 110 MB into the registry."""
    folder, predicted = bench.make((bench.SMALL, "F32", 512, 64), room)
    said = descriptions.parse((folder / descriptions.FILE_NAME).read_bytes())
    parts = {"kv_cache": predicted.kv_cache, "layers": bench.SMALL.layers}
    (folder / descriptions.FILE_NAME).write_bytes(descriptions.render(replace(said, predicted=parts)))
    key = newcomer.home / "keys" / "release"
    sign.make_key(key, "test")
    publish(Layout(newcomer.home / "registry"), {"local": folder}, created="2026-01-01T00:00:00Z", key=key)


def test_a_profile_takes_the_bandwidth_that_its_devices_report(newcomer, bench, tmp_path):
    publish_random(newcomer, bench, tmp_path / "models")
    fleet = newcomer.fleet(1, tmp_path / "fleet", "local")
    newcomer("deploy", fleet, "--release", "random:1.0.0", "--yes")
    refine = ("profile", "refine", "local", "--fleet", fleet)
    assert "edge-1: 0 requests" in newcomer(*refine, exits=1)

    (row,) = newcomer.json("status", fleet)["devices"]
    with httpx.Client(base_url=f"http://127.0.0.1:{row['port']}", timeout=60) as client:
        for _ in range(REQUESTS):
            client.post("/v1/completions", json={"prompt": "!", "max_tokens": TOKENS}).raise_for_status()
    dry = newcomer.json(*refine, "--dry-run")

    file = newcomer.home / "profiles" / "local.yaml"
    assert not file.exists()
    (used,) = dry["used"]
    assert used["requests"] == REQUESTS
    assert used["tokens"] == REQUESTS * (TOKENS - 1)
    assert used["weight_bytes"] < used["bandwidth"] / used["tokens_per_second"] < 1.5 * used["weight_bytes"]
    assert 0 < used["mapped_bytes"] < used["peak_bytes"]
    assert "edge-1" in newcomer(*refine)
    mine = document.load(file, DeviceProfile)
    assert mine.memory.bandwidth == parse_rate(dry["after"]["bandwidth"])
    assert mine.sources[-1].startswith(f"bandwidth measured on 1 device, {REQUESTS} requests, 2")
    assert newcomer.json("profile", "show", "local")["memory"]["bandwidth"] == dry["after"]["bandwidth"]
