"""What a server counts, in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

# From a small pair on a GPU to the default limit.
SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
OTHER = "other"


class Metrics:
    """Of one application; processes with two of them count apart.

    Args:
        paths: that are counted by name; others are one name, so that a scanner cannot fill the memory.
    """

    def __init__(self, paths: frozenset[str]) -> None:
        self._paths = paths
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "stereopsis_requests", "Answered requests.", ["path", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "stereopsis_request_seconds",
            "From the head of a request to its answer.",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._refused = Counter(
            "stereopsis_refused", "Requests turned away by a limit.", ["limit"], registry=self.registry
        )
        self.work = Histogram(
            "stereopsis_work_seconds",
            "What the worker took for a request.",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge("stereopsis_waiting_requests", "Requests that wait for a turn.", registry=self.registry)
        self.running = Gauge("stereopsis_running_requests", "Requests that have a turn.", registry=self.registry)
        self.models = Gauge("stereopsis_loaded_models", "Models in memory.", registry=self.registry)
        for limit in ("body", "pixels", "waiting", "upload", "seconds"):
            self._refused.labels(limit)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        name = path if path in self._paths else OTHER
        self._requests.labels(name, str(status)).inc()
        self._seconds.labels(name).observe(seconds)

    def refused(self, limit: str) -> None:
        """Count a request that was turned away."""
        self._refused.labels(limit).inc()

    def text(self) -> bytes:
        """All of it, for ``/metrics``."""
        return generate_latest(self.registry)
