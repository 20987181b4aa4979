"""The daemon's numbers for Prometheus.

It does not know requests in flight: each is counted once, when it has finished. What is so at this moment
(the queue, memory, heat) is asked of `Now` when somebody reads. Buckets of the histograms are those of
OpenTelemetry's GenAI conventions, with more at the end for slow boards.

Laws: a version has at most 200 series, whatever it was called; series of a version, or of a name it
had, that is gone go an hour after they were last counted, and at once where more than `GONE` are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from slmops import digest as digests
from slmops.daemon.pressure import Reading
from slmops.telemetry.events import RequestFinished

FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60)
OUTPUT_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
DURATION = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
KEPT_SECONDS = 3600.0
GONE = 8
"""Names of versions that are gone whose series are kept at most."""
VERSION = ("release", "digest", "label")
Named = tuple[str, str, str]
"""Release, short digest, label."""


@dataclass(frozen=True)
class Resident:
    """One version that is here now."""

    release: str
    digest: str
    """Whole: sha256:..."""
    label: str
    """Empty for none."""
    rss: int | None
    """Bytes that its worker has."""
    format: str
    type: str
    profile: str
    template: str
    """Digest of its chat template, short; empty where it has none."""

    @property
    def named(self) -> Named:
        """Return the labels of its series."""
        return self.release, _short(self.digest), self.label


@dataclass(frozen=True)
class Now:
    """Who is asked, when somebody reads the metrics, what is so now. None of it may block."""

    waiting: Callable[[], int] = lambda: 0
    active: Callable[[], int] = lambda: 0
    residents: Callable[[], Iterable[Resident]] = tuple
    reading: Callable[[], Reading] = Reading
    turned_away: Callable[[], Mapping[str, int]] = dict
    """Connections that were refused or cut off, and requests with a wrong key, ever, by reason."""
    spool: Callable[[], tuple[int, int]] = lambda: (0, 0)
    """Bytes of the spool, and events that it has dropped or could not take."""


class Metrics:
    """All series of one daemon, in a registry of their own."""

    def __init__(self, now: Now, clock: Callable[[], float] = time.monotonic) -> None:
        """Count from nothing; `clock` gives the seconds after which series go."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._now, self._clock = now, clock
        self._registry = registry = CollectorRegistry()
        self._counted: dict[Named, float] = {}
        ProcessCollector(registry=registry)
        registry.register(_Moment(now))

        def counter(name: str, says: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"slmops_{name}", says, labels, registry=registry)

        def histogram(name: str, says: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"slmops_{name}_seconds", says, VERSION, buckets=buckets, registry=registry)

        self._requests = counter("requests", "Finished requests, by HTTP status", (*VERSION, "code"))
        says = "Tokens of prompts, those of them that had been read before, and tokens written"
        self._tokens = counter("tokens", says, (*VERSION, "type"))
        self._first_token = histogram(
            "time_to_first_token",
            "From a request's arrival to its first token, waiting included",
            FIRST_TOKEN,
        )
        self._output_token = histogram(
            "time_per_output_token", "Mean time per token after the first, of each request", OUTPUT_TOKEN
        )
        self._duration = histogram("request_duration", "From a request's arrival to its end", DURATION)
        self._swaps = counter("swaps", "Changes of the current version, by how they ended", ("result",))
        self._rollbacks = counter("rollbacks", "Ways back to the version before, by reason", ("reason",))
        self._restarts = counter("worker_restarts", "Workers started again after they ended or hung")
        self._shed = counter("requests_shed", "Requests refused for want of memory")
        self._hits = counter("cache_hits", "Answers given again, as they were kept")

    def count(self, event: RequestFinished, cached_tokens: int = 0) -> None:
        """Count a finished request; one that no version got has an empty release, digest and label.

        `cached_tokens` of its prompt had been read before.
        """
        named = (event.release, _short(event.digest), event.label)
        self._counted[named] = self._clock()
        self._requests.labels(*named, str(event.status)).inc()
        if not event.digest:
            return
        self._tokens.labels(*named, "input").inc(event.prompt_tokens)
        self._tokens.labels(*named, "cached").inc(cached_tokens)
        self._tokens.labels(*named, "output").inc(event.output_tokens)
        self._duration.labels(*named).observe(event.seconds)
        if event.first_token_seconds is None:
            return
        self._first_token.labels(*named).observe(event.first_token_seconds)
        if event.output_tokens > 1:
            later = event.seconds - event.first_token_seconds
            self._output_token.labels(*named).observe(later / (event.output_tokens - 1))

    def swapped(self, result: str) -> None:
        """Count a swap: `done`, `refused` (memory, or it does not load), `gate` or `failed`."""
        self._swaps.labels(result).inc()

    def rolled_back(self, reason: str) -> None:
        """Count a roll back, by a word for its reason, never by a sentence: each is a series."""
        self._rollbacks.labels(reason).inc()

    def restarted(self) -> None:
        """Count a worker that was started again."""
        self._restarts.inc()

    def shed(self) -> None:
        """Count a request that was refused for want of memory."""
        self._shed.inc()

    def hit(self) -> None:
        """Count an answer that was given again."""
        self._hits.inc()

    def render(self) -> bytes:
        """Return all of it as Prometheus' text."""
        self._let_go()
        return generate_latest(self._registry)

    def _let_go(self) -> None:
        """Remove the series of names that are gone for long, or that are too many."""
        here = {resident.named for resident in self._now.residents()}
        gone = sorted((at, named) for named, at in self._counted.items() if named not in here and named[1])
        old = self._clock() - KEPT_SECONDS
        for place, (at, named) in enumerate(gone):
            if at <= old or place < len(gone) - GONE:
                del self._counted[named]
                self._remove(named)

    def _remove(self, named: Named) -> None:
        of = dict(zip(VERSION, named, strict=True))
        for family in (self._requests, self._tokens, self._first_token, self._output_token, self._duration):
            family.remove_by_labels(of)


class _Moment:
    """What is so when somebody reads."""

    def __init__(self, now: Now) -> None:
        self._now = now

    def collect(self) -> Iterable[Metric]:
        """Return gauges of this moment, and counters that others keep."""
        now = self._now
        yield _gauge("queue_depth", "Requests that wait for their turn", now.waiting())
        yield _gauge("requests_active", "Requests that are being answered", now.active())
        yield from _residents(list(now.residents()))
        yield from _pressed(now.reading())
        yield _turned_away(now.turned_away())
        held, lost = now.spool()
        yield _gauge("spool_bytes", "Bytes of the telemetry spool", held)
        yield _counter("spool_dropped", "Events that the spool dropped, or could not take", lost)


def _turned_away(reasons: Mapping[str, int]) -> Metric:
    says = "Connections refused or cut off, and requests with a wrong key, by reason"
    family = CounterMetricFamily("slmops_turned_away", says, labels=["reason"])
    for reason, count in reasons.items():
        family.add_metric([reason], count)
    return family


def _residents(residents: list[Resident]) -> Iterable[Metric]:
    info = GaugeMetricFamily(
        "slmops_model_info",
        "What is here; always 1",
        labels=(*VERSION, "format", "type", "profile", "template"),
    )
    rss = GaugeMetricFamily("slmops_worker_rss_bytes", "Memory of a version's worker", labels=VERSION)
    for each in residents:
        info.add_metric((*each.named, each.format, each.type, each.profile, each.template), 1)
        if each.rss is not None:
            rss.add_metric(each.named, each.rss)
    return info, rss


def _pressed(reading: Reading) -> Iterable[Metric]:
    single: Mapping[str, tuple[str, float | None]] = {
        "memory_limit_bytes": ("Memory that the daemon's control group may have", reading.limit),
        "memory_used_bytes": ("Memory of it that the kernel cannot take back", reading.used),
        "memory_available_bytes": ("Memory of the machine that is still to be had", reading.available),
        "throttled": ("1 while the processor is slowed down", reading.throttled),
    }
    for name, (says, value) in single.items():
        if value is not None:
            yield _gauge(name, says, value)
    yield _family(
        "memory_pressure_ratio",
        "Share of the last ten seconds spent waiting for memory",
        "kind",
        {"some": _share(reading.some), "full": _share(reading.full)},
    )
    yield _family("temperature_celsius", "Temperature", "zone", reading.celsius)
    if reading.killed is not None:
        yield _counter("memory_kills", "Processes killed for want of memory", reading.killed)


def _family(name: str, says: str, label: str, values: Mapping[str, float | None]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"slmops_{name}", says, labels=[label])
    for key, value in values.items():
        if value is not None:
            family.add_metric([key], value)
    return family


def _gauge(name: str, says: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"slmops_{name}", says, value=value)


def _counter(name: str, says: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"slmops_{name}", says, value=value)


def _share(per_cent: float | None) -> float | None:
    return None if per_cent is None else per_cent / 100


def _short(digest: str) -> str:
    return digests.short(digest) if digest.startswith("sha256:") else digest
