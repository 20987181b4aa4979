"""What Prometheus is told, and that it stays within bounds."""

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from slmops.daemon.metrics import GONE, KEPT_SECONDS, Metrics, Now, Resident
from slmops.daemon.pressure import Reading
from slmops.telemetry.events import RequestFinished

DIGEST = "sha256:" + "ab" * 32
EVENT = RequestFinished(1.0, "demo:1.0.0", DIGEST, 200, 7, 5, 0.1, 0.5, "current", "chat")
HERE = Resident("demo:1.0.0", DIGEST, "current", 12_000_000, "gguf", "Q4_K", "pi-4", "0123456789ab")
CODES = (200, 400, 422, 429, 499, 500, 503, 504)


def series(metrics):
    return [
        (sample.name, dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    ]


def of(metrics, name, **labels):
    found = [
        value for each, said, value in series(metrics) if each == name and labels.items() <= said.items()
    ]
    return found[0] if found else None


def of_version(metrics, digest):
    return [each for each in series(metrics) if each[1].get("digest") == digest]


def test_a_request_is_counted_by_the_version_that_answered_and_its_label_then():
    metrics = Metrics(Now())
    metrics.count(EVENT)
    metrics.count(replace(EVENT, label="previous", status=499))
    named = {"release": "demo:1.0.0", "digest": "ab" * 6}
    assert of(metrics, "slmops_requests_total", **named, label="current", code="200") == 1
    assert of(metrics, "slmops_requests_total", **named, label="previous", code="499") == 1
    assert of(metrics, "slmops_tokens_total", **named, label="current", type="output") == 5
    assert of(metrics, "slmops_time_to_first_token_seconds_sum", **named, label="current") == pytest.approx(
        0.1
    )
    assert of(metrics, "slmops_time_per_output_token_seconds_sum", **named, label="current") == 0.1
    assert of(metrics, "slmops_request_duration_seconds_bucket", label="current", le="0.5") == 1


def test_a_request_that_no_version_got_is_one_series():
    metrics = Metrics(Now())
    metrics.count(RequestFinished(1.0, "", "", 401, 0, 0, None, 0.001))
    assert of(metrics, "slmops_requests_total", digest="", code="401") == 1
    assert len(of_version(metrics, "")) == 1


def test_a_version_that_had_every_name_and_every_code_has_two_hundred_series_at_most():
    metrics = Metrics(Now(residents=lambda: [HERE]))
    for label in ("candidate", "current", "previous"):
        for code in CODES:
            metrics.count(replace(EVENT, label=label, status=code))
    assert 100 < len(of_version(metrics, "ab" * 6)) <= 200


def test_what_is_so_now_is_asked_when_somebody_reads():
    reading = Reading(
        limit=100, used=60, some=5.0, full=1.0, celsius={"0:cpu": 61.5}, throttled=True, killed=2
    )
    metrics = Metrics(
        Now(
            waiting=lambda: 3,
            active=lambda: 8,
            residents=lambda: [HERE],
            reading=lambda: reading,
            turned_away=lambda: {"late": 1, "wrong_key": 4},
            spool=lambda: (4096, 17),
        )
    )
    assert of(metrics, "slmops_queue_depth") == 3
    assert of(metrics, "slmops_requests_active") == 8
    assert of(metrics, "slmops_worker_rss_bytes", release="demo:1.0.0") == 12_000_000
    assert of(metrics, "slmops_model_info", type="Q4_K", template="0123456789ab") == 1
    assert of(metrics, "slmops_memory_limit_bytes") == 100
    assert of(metrics, "slmops_memory_pressure_ratio", kind="some") == 0.05
    assert of(metrics, "slmops_temperature_celsius", zone="0:cpu") == 61.5
    assert of(metrics, "slmops_throttled") == 1
    assert of(metrics, "slmops_memory_kills_total") == 2
    assert of(metrics, "slmops_turned_away_total", reason="late") == 1
    assert of(metrics, "slmops_turned_away_total", reason="wrong_key") == 4
    assert (of(metrics, "slmops_spool_bytes"), of(metrics, "slmops_spool_dropped_total")) == (4096, 17)


def test_what_cannot_be_read_is_not_told():
    told = {name for name, _, _ in series(Metrics(Now()))}
    assert not told & {"slmops_memory_limit_bytes", "slmops_throttled", "slmops_temperature_celsius"}


def test_swaps_roll_backs_restarts_refusals_and_hits_are_counted():
    metrics = Metrics(Now())
    metrics.swapped("done")
    metrics.rolled_back("errors")
    metrics.restarted()
    metrics.shed()
    metrics.hit()
    assert of(metrics, "slmops_swaps_total", result="done") == 1
    assert of(metrics, "slmops_rollbacks_total", reason="errors") == 1
    assert of(metrics, "slmops_worker_restarts_total") == 1
    assert of(metrics, "slmops_requests_shed_total") == 1
    assert of(metrics, "slmops_cache_hits_total") == 1


def test_series_of_a_version_that_is_gone_go_after_an_hour_and_those_of_one_that_is_here_stay():
    moment = [0.0]
    metrics = Metrics(Now(residents=lambda: [HERE]), clock=lambda: moment[0])
    metrics.count(EVENT)
    metrics.count(replace(EVENT, digest="sha256:" + "cd" * 32))
    moment[0] = KEPT_SECONDS - 1
    assert of_version(metrics, "cd" * 6)
    moment[0] = KEPT_SECONDS
    assert not of_version(metrics, "cd" * 6)
    assert of(metrics, "slmops_requests_total", digest="ab" * 6) == 1


def test_many_swaps_in_an_hour_leave_a_bounded_number_of_series():
    moment = [0.0]
    metrics = Metrics(Now(residents=lambda: [HERE]), clock=lambda: moment[0])
    for number in range(50):
        moment[0] += 1
        metrics.count(replace(EVENT, digest=f"sha256:{number:064x}"[:71]))
    assert len({said["digest"] for _, said, _ in series(metrics) if "digest" in said} - {"ab" * 6}) <= GONE
