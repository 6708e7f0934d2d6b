"""What the server counts and measures, in the form that Prometheus reads."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """
    Of one server. `parts` of the latency are `read` (a file), `frames` (those of a stream that came together, until
    they are read), `wait` (for the model), `encode` and `write` (a batch), and `clip` (a clip from its arrival to its
    answer).
    """

    def __init__(self):
        self._registry = CollectorRegistry()
        registry = {"registry": self._registry}
        self.requests = Counter("flallm_requests", "Requests and streams.", ["endpoint", "status"], **registry)
        self.errors = Counter("flallm_errors", "Errors by kind.", ["kind"], **registry)
        self.seconds = Histogram("flallm_seconds", "Seconds by part.", ["part"], buckets=SECONDS, **registry)
        self.batch_sizes = Histogram("flallm_batch_size", "Sentences written at once.", buckets=SIZES, **registry)
        self.frames = Counter("flallm_frames", "Frames of streams.", **registry)
        self.sentences = Counter("flallm_sentences", "Texts, by whether they will change.", ["is_final"], **registry)
        self._gauges = {
            name: Gauge(f"flallm_{name}", text, **registry)
            for name, text in {
                "waiting": "Clips and streams that wait for the model.",
                "clips": "Clips in work or waiting.",
                "streams": "Streams that are open.",
            }.items()
        }

    def watch(self, gauge: str, number: Callable[[], float]) -> None:
        """Ask this function whenever the metrics are read."""
        self._gauges[gauge].set_function(number)

    @contextmanager
    def time_of(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds.labels(part).observe(time.perf_counter() - began)

    def text(self) -> bytes:
        return generate_latest(self._registry)
