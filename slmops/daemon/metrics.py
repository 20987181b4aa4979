"""The daemon's numbers for Prometheus.

It does not know requests in flight: each is counted once, when it has finished. Buckets of the
histograms are those of OpenTelemetry's GenAI conventions, with more at the end for slow boards.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from slmops.artifact.description import Description
from slmops.telemetry.events import RequestFinished

FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60)
OUTPUT_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)


class Metrics:
    """All series of one daemon, in a registry of their own."""

    def __init__(self, description: Description, digest: str, queue_depth: Callable[[], int]) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        ProcessCollector(registry=registry)
        self._requests = Counter("slmops_requests", "Finished requests", ["code"], registry=registry)
        self._tokens = Counter("slmops_tokens", "Tokens read and written", ["type"], registry=registry)
        self._first_token = Histogram(
            "slmops_time_to_first_token_seconds",
            "From a request's arrival to its first token, waiting included",
            buckets=FIRST_TOKEN,
            registry=registry,
        )
        self._output_token = Histogram(
            "slmops_time_per_output_token_seconds",
            "Mean time per token after the first, of each request",
            buckets=OUTPUT_TOKEN,
            registry=registry,
        )
        depth = Gauge("slmops_queue_depth", "Requests that wait for their turn", registry=registry)
        depth.set_function(queue_depth)
        info = Gauge(
            "slmops_model_info",
            "What is served; always 1",
            ["release", "digest", "format", "type", "profile"],
            registry=registry,
        )
        info.labels(
            description.reference, digest, description.format, description.type, description.profile
        ).set(1)

    def count(self, event: RequestFinished) -> None:
        """Count a finished request."""
        self._requests.labels(str(event.status)).inc()
        self._tokens.labels("input").inc(event.prompt_tokens)
        self._tokens.labels("output").inc(event.output_tokens)
        if event.first_token_seconds is None:
            return
        self._first_token.observe(event.first_token_seconds)
        if event.output_tokens > 1:
            later = event.seconds - event.first_token_seconds
            self._output_token.observe(later / (event.output_tokens - 1))

    def render(self) -> bytes:
        """Return all of it as Prometheus' text."""
        return generate_latest(self._registry)
