"""Metrics: the format, and that no crowd of names makes them grow."""

from __future__ import annotations

import math
import re

import pytest

from steersman.guard.gateway import metrics as module
from steersman.guard.gateway.metrics import Counter, Histogram, Metrics

SAMPLE = re.compile(r'[a-z_]+(\{[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\[\\"n])*")*\})? (\S+)')


def test_the_text_is_what_prometheus_reads() -> None:
    metrics = Metrics()
    metrics.rulings.add(tenant='a"b\\c\nd', side="input", decision="block", principle="p", rail="\ud800")
    metrics.rail_ms.observe(0.3, rail="patterns")
    metrics.rail_ms.observe(9999, rail="patterns")
    metrics.gauge("steersman_guard_queue", "Requests that wait.", lambda: 3)
    metrics.gauge("steersman_guard_broken", "Cannot be had.", lambda: 1 // 0)
    text = metrics.text()
    assert text.endswith("\n")
    names = set()
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            names.add(line.split()[2])
        if not line.startswith("#"):
            found = SAMPLE.fullmatch(line)
            assert found, line
            float(found[2])
            assert re.sub("_(bucket|sum|count)$", "", line.split("{")[0].split()[0]) in names
    assert 'tenant="a\\"b\\\\c\\nd"' in text
    assert "steersman_guard_queue 3\n" in text
    assert 'steersman_guard_rail_milliseconds_bucket{rail="patterns",le="0.25"} 0\n' in text
    assert 'steersman_guard_rail_milliseconds_bucket{rail="patterns",le="0.5"} 1\n' in text
    assert 'steersman_guard_rail_milliseconds_bucket{rail="patterns",le="+Inf"} 2\n' in text
    assert 'steersman_guard_rail_milliseconds_count{rail="patterns"} 2\n' in text
    assert 'steersman_guard_rail_milliseconds_sum{rail="patterns"} 9999.3\n' in text


def test_a_crowd_of_names_is_counted_and_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SERIES", 5)
    counter = Counter("c", "about", ("model",))
    for number in range(1000):
        counter.add(model=f"{number:04d}" + "x" * 100)
    lines = list(counter.samples())
    assert len(lines) == 6
    assert 'c{model="other"} 995' in lines
    assert max(map(len, lines)) < 100


def test_what_is_no_number_and_wrong_labels() -> None:
    counter, histogram = Counter("c", "about", ("a",)), Histogram("h", "about", (1.0,), ("a",))
    for wrong in (math.nan, math.inf, -1.0):
        counter.add(wrong, a="x")
    for wrong in (math.nan, math.inf):
        histogram.observe(wrong, a="x")
    assert [*counter.samples(), *histogram.samples()] == []
    for labels in ({}, {"b": 1}, {"a": 1, "b": 2}):
        with pytest.raises(KeyError):
            counter.add(**labels)  # type: ignore[arg-type]
