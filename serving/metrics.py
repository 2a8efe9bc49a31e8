"""The metrics at /metrics, in Prometheus' format."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_TOKENS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class Metrics:
    """Counters, gauges and histograms of one process.

    With several processes prometheus_client adds them up in the directory that PROMETHEUS_MULTIPROC_DIR names.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.requests = Counter(
            "bert_requests", "Requests by route, method and status.", ("route", "method", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "bert_request_seconds", "Time from a request's headers to the end of its answer.", ("route",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.tokens = Counter("bert_tokens", "Tokens computed, without padding.", ("model",), registry=registry)
        self.padded_tokens = Counter("bert_padded_tokens", "Tokens computed, with padding.", registry=registry)
        self.queue_seconds = Histogram(
            "bert_queue_seconds", "Time that an example waits in the queue.", buckets=_SECONDS, registry=registry
        )
        self.inference_seconds = Histogram(
            "bert_inference_seconds", "Time to compute a batch.", buckets=_SECONDS, registry=registry
        )
        self.batch_rows = Histogram("bert_batch_rows", "Examples in a batch.", buckets=_ROWS, registry=registry)
        self.batch_tokens = Histogram(
            "bert_batch_tokens", "Tokens in a batch, without padding.", buckets=_TOKENS, registry=registry
        )
        self.queued_tokens = Gauge(
            "bert_queued_tokens", "Tokens waiting in the queue.", registry=registry, multiprocess_mode="livesum"
        )
        self.requests_in_flight = Gauge(
            "bert_requests_in_flight", "Requests being answered.", registry=registry, multiprocess_mode="livesum"
        )
        self.loaded_models = Gauge(
            "bert_loaded_models", "Models in memory.", registry=registry, multiprocess_mode="livesum"
        )

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        registry = self._registry
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry)
