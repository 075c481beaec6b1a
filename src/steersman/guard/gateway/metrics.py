"""What the gateway counts, as text for Prometheus (exposition format 0.0.4).

Written by hand, since it is small, and since nothing here should start a thread or open a port. No label comes from a
client unchecked, and no metric has more than `MOST_SERIES` series: what comes beyond is counted under ``other``, so
that a crowd of names costs no memory and no sum is wrong.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

MOST_SERIES = 1000  # of one metric
MOST_CHARACTERS = 64  # of one label
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MILLISECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1000.0, 5000.0)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
CHARACTERS = (0.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 65536.0)


class _Metric:
    """One metric with its labels."""

    kind = ""

    def __init__(self, name: str, about: str, labels: Sequence[str] = ()) -> None:
        self.name, self.about, self.labels = name, about, tuple(labels)
        self._lock = threading.Lock()
        self._known: set[tuple[str, ...]] = set()

    def _series(self, given: dict[str, object]) -> tuple[str, ...]:
        """The values of the labels, in order.

        Raises:
            KeyError: a label is missing or unknown.
        """
        if given.keys() != set(self.labels):
            raise KeyError(f"{self.name} has the labels {self.labels}")
        values = tuple(str(given[label])[:MOST_CHARACTERS] for label in self.labels)
        if values not in self._known:
            if len(self._known) >= MOST_SERIES:
                return ("other",) * len(self.labels)
            self._known.add(values)
        return values

    def lines(self) -> Iterator[str]:
        """The metric as text."""
        yield f"# HELP {self.name} {_escaped(self.about, quotes=False)}"
        yield f"# TYPE {self.name} {self.kind}"
        yield from self.samples()

    def samples(self) -> Iterator[str]:
        """The lines with numbers."""
        return iter(())

    def _line(self, values: Sequence[str], number: float, suffix: str = "", **more: str) -> str:
        pairs = [*zip(self.labels, values, strict=True), *more.items()]
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)
        return (
            f"{self.name}{suffix}{{{labels}}} {_number(number)}" if labels else f"{self.name}{suffix} {_number(number)}"
        )


class Counter(_Metric):
    """What only grows."""

    kind = "counter"

    def __init__(self, name: str, about: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, about, labels)
        self._counts: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, amount: float = 1.0, **labels: object) -> None:
        """Count; a number that is none counts nothing."""
        if math.isfinite(amount) and amount >= 0:
            with self._lock:
                values = self._series(labels)
                self._counts[values] = self._counts.get(values, 0.0) + amount

    def samples(self) -> Iterator[str]:
        """See `_Metric`."""
        with self._lock:
            counts = sorted(self._counts.items())
        for values, count in counts:
            yield self._line(values, count)


class Gauge(_Metric):
    """A number of this moment, asked for when the text is made; a number that cannot be had is left out."""

    kind = "gauge"

    def __init__(self, name: str, about: str, read: Callable[[], float]) -> None:
        super().__init__(name, about)
        self._read = read

    def samples(self) -> Iterator[str]:
        """See `_Metric`."""
        try:
            yield self._line((), float(self._read()))
        except Exception:  # of whoever keeps it: the other metrics are still wanted
            return


class Histogram(_Metric):
    """How often values lie under fixed bounds, with their sum."""

    kind = "histogram"

    def __init__(self, name: str, about: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> None:
        super().__init__(name, about, labels)
        self._bounds = (*bounds, math.inf)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def observe(self, value: float, **labels: object) -> None:
        """Count a value; one that is no number counts nothing."""
        if math.isfinite(value):
            with self._lock:
                values = self._series(labels)
                counts = self._counts.setdefault(values, [0] * len(self._bounds))
                counts[next(i for i, bound in enumerate(self._bounds) if value <= bound)] += 1
                self._sums[values] = self._sums.get(values, 0.0) + value

    def samples(self) -> Iterator[str]:
        """See `_Metric`."""
        with self._lock:
            found = [(values, list(counts), self._sums[values]) for values, counts in sorted(self._counts.items())]
        for values, counts, total in found:
            for bound, count in zip(self._bounds, accumulate(counts), strict=True):
                yield self._line(values, count, "_bucket", le=_number(bound))
            yield self._line(values, total, "_sum")
            yield self._line(values, sum(counts), "_count")


class Metrics:
    """Everything that the gateway counts."""

    def __init__(self) -> None:
        self.requests = Counter(
            "steersman_guard_requests_total", "Requests that were answered, by status.", ("tenant", "path", "status")
        )
        self.rulings = Counter(
            "steersman_guard_rulings_total",
            "Rulings of the guard, by what decided.",
            ("tenant", "side", "decision", "principle", "rail"),
        )
        self.shadow = Counter(
            "steersman_guard_shadow_total",
            "Objections of rails in shadow mode.",
            ("tenant", "side", "decision", "principle", "rail"),
        )
        self.failures = Counter("steersman_guard_rail_failures_total", "Rails that could not judge.", ("rail",))
        self.rail_ms = Histogram(
            "steersman_guard_rail_milliseconds", "Time of one rail for one ruling.", MILLISECONDS, ("rail",)
        )
        self.ruling_ms = Histogram(
            "steersman_guard_ruling_milliseconds", "Time of all rails for one ruling.", MILLISECONDS, ("side",)
        )
        self.upstream = Counter("steersman_guard_upstream_total", "Answers of the upstream.", ("status",))
        self.first_token_s = Histogram(
            "steersman_guard_first_token_seconds", "From a request to the first text that is sent on.", SECONDS
        )
        self.request_s = Histogram(
            "steersman_guard_request_seconds", "From a request to the end of its answer.", SECONDS, ("streamed",)
        )
        self.held_back = Histogram(
            "steersman_guard_held_back_characters", "Text that waits for a ruling while streaming.", CHARACTERS
        )
        self.refused = Counter(
            "steersman_guard_refused_total", "Requests that were not let in.", ("tenant", "status", "code")
        )
        self.tokens = Counter("steersman_guard_tokens_total", "Tokens of prompts and answers.", ("tenant",))
        self.degraded = Counter(
            "steersman_guard_degraded_total", "Answers without something that failed and was allowed to.", ("what",)
        )
        self.audit_records = Counter("steersman_guard_audit_records_total", "Records in the audit log.", ("outcome",))
        self.reloads = Counter("steersman_guard_reloads_total", "Changed files that were loaded, or not.", ("outcome",))
        self._gauges: list[Gauge] = []

    def gauge(self, name: str, about: str, read: Callable[[], float]) -> None:
        """A gauge whose value is read at each scrape."""
        self._gauges.append(Gauge(name, about, read))

    def text(self) -> str:
        """All metrics."""
        metrics = [value for value in vars(self).values() if isinstance(value, _Metric)]
        return "".join(f"{line}\n" for metric in [*metrics, *self._gauges] for line in metric.lines())


def _escaped(text: str, *, quotes: bool = True) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    text = text.replace('"', r"\"") if quotes else text
    return text.encode("utf-8", "replace").decode("utf-8")  # half characters


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
